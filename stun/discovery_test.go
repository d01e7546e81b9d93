package stun_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stilenet/stile/stun"
)

var (
	full = stun.Discovery{Addrs: [2]netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2")}, Ports: [2]uint16{3478, 3479}}
	flat = stun.Discovery{Addrs: [2]netip.Addr{netip.MustParseAddr("198.51.100.1")}, Ports: [2]uint16{3478, 3479}}
	lone = stun.Discovery{Addrs: [2]netip.Addr{netip.MustParseAddr("198.51.100.1")}, Ports: [2]uint16{3478}}
	six1 = stun.Discovery{Addrs: [2]netip.Addr{netip.MustParseAddr("2001:db8::1")}, Ports: [2]uint16{3478, 3479}}
	six  = stun.Discovery{Addrs: [2]netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")}, Ports: [2]uint16{3478, 3479}}
)

func TestChangeRequestChoosesTheSocket(t *testing.T) {
	for _, ip := range []bool{false, true} {
		for _, port := range []bool{false, true} {
			for at := range 4 {
				c := stun.Corner{Addr: uint8(at / 2), Port: uint8(at % 2)}
				want := c
				if ip {
					want.Addr ^= 1
				}
				if port {
					want.Port ^= 1
				}
				b := stun.Begin(nil, 0x0001, stun.TransactionID{1})
				b.Uint32(stun.AttrChangeRequest, stun.ChangeRequest(ip, port))
				out, from, to := full.Respond(nil, mustParse(t, b.Bytes()), c, remote4)
				m := mustParse(t, out)
				if from != want || to != remote4 || m.Class() != stun.Success {
					t.Fatalf("ip %v, port %v at %v: from %v to %v: %x", ip, port, c, from, to, out)
				}
				origin, _ := m.Get(stun.AttrResponseOrigin)
				other, _ := m.Get(stun.AttrOtherAddress)
				clear, _ := m.Get(stun.AttrMappedAddress)
				mapped, _ := m.GetXORAddress(stun.AttrXORMappedAddress)
				for name, c := range map[string]struct {
					value []byte
					want  netip.AddrPort
				}{"RESPONSE-ORIGIN": {origin, full.At(want)}, "MAPPED-ADDRESS": {clear, remote4},
					"OTHER-ADDRESS": {other, full.At(stun.Corner{Addr: 1 - c.Addr, Port: 1 - c.Port})}} {
					if got, ok := stun.Address(c.value); !ok || got != c.want {
						t.Errorf("%s is %v, want %v", name, got, c.want)
					}
				}
				if mapped != remote4 {
					t.Errorf("XOR-MAPPED-ADDRESS is %v", mapped)
				}
			}
		}
	}
}

func TestServerRefusesTheSocketsThatItHasNot(t *testing.T) {
	for _, tc := range []struct {
		name     string
		d        *stun.Discovery
		ip, port bool
		refused  bool
	}{
		{"one address, address", &flat, true, false, true},
		{"one address, both", &flat, true, true, true},
		{"one address, port", &flat, false, true, false},
		{"one port, port", &lone, false, true, true},
		{"one port, nothing", &lone, false, false, false},
	} {
		b := stun.Begin(nil, 0x0001, stun.TransactionID{1})
		b.Uint32(stun.AttrChangeRequest, stun.ChangeRequest(tc.ip, tc.port))
		out, from, _ := tc.d.Respond(nil, mustParse(t, b.Bytes()), stun.Corner{}, remote4)
		m := mustParse(t, out)
		if m.Has(stun.AttrOtherAddress) {
			t.Errorf("%s: OTHER-ADDRESS", tc.name)
		}
		code, _, _ := m.ErrorCode()
		if list, _ := m.Get(stun.AttrUnknownAttributes); tc.refused != (code == 420) || tc.refused != slices.Equal(list, []byte{0, 3}) {
			t.Errorf("%s: %x", tc.name, out)
		}
		if tc.refused && from != (stun.Corner{}) {
			t.Errorf("%s: the refusal leaves from %v", tc.name, from)
		}
	}
}

func TestResponsePortMovesTheReplyToAnotherPort(t *testing.T) {
	for body, want := range map[string]uint16{"00270004 1f900000": 8080, "00270002 1f900000": 8080, "00270004 00000000": 0, "00270001 1f000000": 0,
		"00270004 1f900000 00260004 00000000": 0, "00030002 00000000": 0} {
		out, from, to := full.Respond(nil, mustParse(t, message(body)), stun.Corner{}, remote4)
		m := mustParse(t, out)
		code, _, _ := m.ErrorCode()
		if want == 0 && (code != 400 || to != remote4) || want != 0 && to != netip.AddrPortFrom(remote4.Addr(), want) || from != (stun.Corner{}) {
			t.Errorf("%s: to %v from %v, code %d", body, to, from, code)
		}
	}
}

func TestPaddingIsNeverLongerThanTheRequests(t *testing.T) {
	for _, n := range []int{0, 1, 3, 4, 1776, 2048, 2049, 60000} {
		b := stun.Begin(nil, 0x0001, stun.TransactionID{1})
		b.Attr(stun.AttrPadding, make([]byte, n))
		out, _, _ := full.Respond(nil, mustParse(t, b.Bytes()), stun.Corner{}, remote4)
		v, ok := mustParse(t, out).Get(stun.AttrPadding)
		if len(v) != min(n, 2048) || ok != (n > 0) {
			t.Errorf("%d bytes are answered with %d", n, len(v))
		}
	}
}

func TestDiscoveryRefusesWhatItDoesNotKnow(t *testing.T) {
	for body, silent := range map[string]bool{"7fff0000": false, "7fff0000 00030004 00000006": false, "80280004 00000000": true} {
		out, from, _ := full.Respond(nil, mustParse(t, message(body)), stun.Corner{Port: 1}, remote4)
		if silent {
			if len(out) != 0 {
				t.Errorf("%s: %x", body, out)
			}
			continue
		}
		if code, _, _ := mustParse(t, out).ErrorCode(); code != 420 || from != (stun.Corner{Port: 1}) {
			t.Errorf("%s: %x from %v", body, out, from)
		}
	}
	allocate := stun.Begin(nil, stun.NewType(stun.Allocate, stun.Request), stun.TransactionID{})
	if out, _, _ := full.Respond(nil, mustParse(t, allocate.Bytes()), stun.Corner{}, remote4); len(out) != 0 {
		t.Errorf("Allocate: %x", out)
	}
}

// The bounds in the doc of Respond, for requests of every kind and size that may pay.
func TestDiscoveryIsNoAmplifierWorthUsing(t *testing.T) {
	for _, c := range []struct {
		d       *stun.Discovery
		remote  netip.AddrPort
		headers int
		factor  float64
	}{{&full, remote4, 28, 2}, {&six, remote6, 48, 2.42}, {&flat, remote4, 28, 1.5}, {&six1, remote6, 48, 1.85}} {
		largest := 0.0
		for kind := range 32 {
			for n := range 12 {
				b := stun.Begin(nil, 0x0001, stun.TransactionID{})
				if kind&1 != 0 {
					b.Uint32(stun.AttrChangeRequest, stun.ChangeRequest(c.d.Full(), true))
				}
				if kind&2 != 0 {
					b.Uint32(stun.AttrResponsePort, stun.ResponsePort(53))
				}
				if kind&4 != 0 {
					b.Attr(stun.AttrPadding, make([]byte, n))
				}
				if kind&8 != 0 {
					for i := range n {
						b.Attr(stun.AttrType(0x7000+i), nil)
					}
				}
				if kind&16 != 0 {
					b.Fingerprint()
				}
				out, _, _ := c.d.Respond(nil, mustParse(t, b.Bytes()), stun.Corner{}, c.remote)
				largest = max(largest, float64(len(out)+c.headers)/float64(b.Len()+c.headers))
			}
		}
		if largest > c.factor || largest < c.factor-0.01 {
			t.Errorf("%v: the factor is %.4f, stated is %.2f", c.remote, largest, c.factor)
		}
	}
}

func TestDiscoveryAllocatesNothing(t *testing.T) {
	m := mustParse(t, message("00030004 00000006"+"00260010"+strings.Repeat("00", 16)))
	buf := make([]byte, 0, 256)
	if n := testing.AllocsPerRun(100, func() { full.Respond(buf, m, stun.Corner{}, remote4) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzDiscovery(f *testing.F) {
	for _, body := range []string{"", "00030004 00000006", "00270004 1f900000", "00260004 00000000", "7fff0000 80280004 00000000"} {
		f.Add(message(body), uint8(0))
	}
	f.Fuzz(func(t *testing.T, b []byte, at uint8) {
		m, err := stun.Parse(b)
		if err != nil {
			return
		}
		out, from, to := full.Respond(nil, m, stun.Corner{Addr: at & 1, Port: at >> 1 & 1}, remote4)
		if len(out) == 0 {
			return
		}
		mustParse(t, out)
		if from.Addr > 1 || from.Port > 1 || to.Addr() != remote4.Addr() || to.Port() == 0 {
			t.Error(fmt.Sprint(from, to))
		}
		if got := float64(len(out)+28) / float64(len(b)+28); got > 2.5 {
			t.Errorf("%d bytes are answered with %d", len(b), len(out))
		}
	})
}
