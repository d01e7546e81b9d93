package stun_test

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stilenet/stile/stun"
)

var (
	local   = netip.MustParseAddrPort("198.51.100.1:3478")
	remote4 = netip.MustParseAddrPort("192.0.2.1:32853")
	remote6 = netip.MustParseAddrPort("[2001:db8:1234:5678:11:2233:4455:6677]:32853")
)

func TestRespondTellsTheClientItsAddress(t *testing.T) {
	request := message("")
	for _, remote := range []netip.AddrPort{remote4, remote6, netip.MustParseAddrPort("[::ffff:192.0.2.1]:32853")} {
		out := stun.Respond([]byte("before"), request, local, remote)
		if !bytes.HasPrefix(out, []byte("before")) {
			t.Fatalf("the reply is not appended: %x", out)
		}
		m := mustParse(t, out[len("before"):])
		if m.Type() != stun.NewType(stun.Binding, stun.Success) || m.TransactionID() != mustParse(t, request).TransactionID() {
			t.Errorf("reply %x", m.Raw())
		}
		got, ok := m.GetXORAddress(stun.AttrXORMappedAddress)
		if want := netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port()); !ok || got != want || len(attrs(m)) != 1 {
			t.Errorf("XOR-MAPPED-ADDRESS %v, %v among %d attributes, want %v", got, ok, len(attrs(m)), want)
		}
	}
}

func TestRespondIsSilent(t *testing.T) {
	request := message("")
	typed := func(typ stun.Type) []byte {
		b := stun.Begin(nil, typ, stun.TransactionID{})
		return b.Bytes()
	}
	for name, b := range map[string][]byte{
		"nothing":              nil,
		"half a header":        request[:10],
		"no cookie":            append(slices.Clone(request[:4]), make([]byte, 16)...),
		"a Binding indication": typed(stun.NewType(stun.Binding, stun.Indication)),
		"a Binding success":    typed(stun.NewType(stun.Binding, stun.Success)),
		"a Binding error":      typed(stun.NewType(stun.Binding, stun.Error)),
		"an Allocate request":  typed(stun.NewType(stun.Allocate, stun.Request)),
		"an unknown method":    typed(stun.NewType(0xfff, stun.Request)),
		"a wrong FINGERPRINT":  message("80280004 00000000"),
	} {
		if out := stun.Respond([]byte("x"), b, local, remote4); string(out) != "x" {
			t.Errorf("%s is answered with %x", name, out)
		}
	}
}

func TestRespondHasAFingerprintIfTheRequestHas(t *testing.T) {
	b := stun.Begin(nil, 0x0001, stun.TransactionID{3})
	if m := mustParse(t, stun.Respond(nil, b.Bytes(), local, remote4)); m.CheckFingerprint() != stun.FingerprintAbsent {
		t.Error("a FINGERPRINT that nobody asked for")
	}
	b.Fingerprint()
	if m := mustParse(t, stun.Respond(nil, b.Bytes(), local, remote4)); m.CheckFingerprint() != stun.FingerprintValid {
		t.Error("the FINGERPRINT is missing or wrong")
	}
}

func TestRespondRefusesUnknownRequiredAttributes(t *testing.T) {
	for name, c := range map[string]struct {
		request []byte
		want    []stun.AttrType // nil: success
	}{
		"CHANGE-REQUEST":                  {message("00030004 00000006"), []stun.AttrType{3}},
		"RFC 5769 §2.1, with PRIORITY":    {unhex(rfc5769[0].hex), []stun.AttrType{0x24}},
		"RFC 5769 §2.4, with credentials": {unhex(rfc5769[3].hex), nil},
		"three, one of them twice":        {message("7ffe0000 7ffd0000 7ffe0000 7ffc0000"), []stun.AttrType{0x7ffe, 0x7ffd, 0x7ffc}},
		"nine": {message("70000000 70010000 70020000 70030000 70040000 70050000 70060000 70070000 70080000"),
			[]stun.AttrType{0x7000, 0x7001, 0x7002, 0x7003, 0x7004, 0x7005, 0x7006, 0x7007}},
		"optional":             {message("80000000 ffff0000"), nil},
		"known but unexpected": {message("00010000 00060000 00090000 000a0000 00140000 00150000 00200000"), nil},
		"after MESSAGE-INTEGRITY": {message("00080014 0000000000000000000000000000000000000000 7fff0000" +
			"001c0020 0000000000000000000000000000000000000000000000000000000000000000"), nil},
	} {
		m := mustParse(t, stun.Respond(nil, c.request, local, remote4))
		if c.want == nil {
			if m.Class() != stun.Success {
				t.Errorf("%s: %x, want success", name, m.Raw())
			}
			continue
		}
		code, _, ok := m.ErrorCode()
		if m.Type() != stun.NewType(stun.Binding, stun.Error) || code != 420 || !ok {
			t.Errorf("%s: %x, want 420", name, m.Raw())
		}
		v, _ := m.Get(stun.AttrUnknownAttributes)
		var got []stun.AttrType
		for ; len(v) > 1; v = v[2:] {
			got = append(got, stun.AttrType(v[0])<<8|stun.AttrType(v[1]))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: UNKNOWN-ATTRIBUTES %v, want %v", name, got, c.want)
		}
	}
}

// The bounds in the doc of Respond, for every number of unknown attributes and with and without FINGERPRINT.
func TestRespondIsNoAmplifierWorthUsing(t *testing.T) {
	for _, c := range []struct {
		remote  netip.AddrPort
		headers int // bytes of IP and UDP
		longer  int
		factor  float64
	}{{remote4, 20 + 8, 12, 1.25}, {remote6, 40 + 8, 24, 1.36}} {
		largest := 0.0
		for unknown := range stun.MaxAttributes {
			for _, fingerprint := range []bool{false, true} {
				b := stun.Begin(nil, 0x0001, stun.TransactionID{})
				for i := range unknown {
					b.Attr(stun.AttrType(0x7000+i), nil)
				}
				if fingerprint {
					b.Fingerprint()
				}
				reply := stun.Respond(nil, b.Bytes(), local, c.remote)
				if len(reply) == 0 || len(reply) > b.Len()+c.longer || len(reply) > 56 {
					t.Errorf("%v, %d unknown attributes: %d bytes are answered with %d", c.remote, unknown, b.Len(), len(reply))
				}
				largest = max(largest, float64(len(reply)+c.headers)/float64(b.Len()+c.headers))
			}
		}
		if largest > c.factor || largest < c.factor-0.01 {
			t.Errorf("%v: the factor is %.4f, stated is %.2f", c.remote, largest, c.factor)
		}
	}
}

func TestRespondMayOverwriteTheRequest(t *testing.T) {
	for _, body := range []string{"", "7fff0000" + strings.Repeat("80000000", 10)} {
		request := message(body)
		want := stun.Respond(nil, request, local, remote6)
		buf := append(make([]byte, 0, 128), request...)
		if got := stun.Respond(buf[:0], buf, local, remote6); !bytes.Equal(got, want) || &got[0] != &buf[0] {
			t.Errorf("in place %x, want %x", got, want)
		}
	}
}
