package stun_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stilenet/stile/stun"
)

func TestXORAddressOfVectors(t *testing.T) {
	for _, c := range []struct {
		vector string
		typ    stun.AttrType
		want   string
	}{
		{"allocate-success", stun.AttrXORRelayedAddress, "192.0.2.15:50000"},
		{"allocate-success", stun.AttrXORMappedAddress, "192.0.2.1:7000"},
		{"send", stun.AttrXORPeerAddress, "192.0.2.210:18200"},
		{"send-without-data", stun.AttrXORPeerAddress, "192.0.2.210:0"},
		{"data", stun.AttrXORPeerAddress, "192.0.2.210:18200"},
		{"channelbind", stun.AttrXORPeerAddress, "192.0.2.210:18200"},
		{"channelbind-highest", stun.AttrXORPeerAddress, "192.0.2.211:18200"},
		{"rfc5769-2.2-ipv4-response", stun.AttrXORMappedAddress, "192.0.2.1:32853"},
		{"rfc5769-2.3-ipv6-response", stun.AttrXORMappedAddress, "[2001:db8:1234:5678:11:2233:4455:6677]:32853"},
	} {
		i := slices.IndexFunc(vectors, func(v vector) bool { return v.name == c.vector })
		m := mustParse(t, unhex(vectors[i].hex))
		got, ok := m.GetXORAddress(c.typ)
		if !ok || got != netip.MustParseAddrPort(c.want) {
			t.Errorf("%s: attribute %#04x is %v, %v, want %s", c.vector, c.typ, got, ok, c.want)
		}
		v, _ := m.Get(c.typ)
		b := stun.Begin(nil, m.Type(), m.TransactionID())
		b.XORAddress(c.typ, got)
		if back, _ := mustParse(t, b.Bytes()).Get(c.typ); !slices.Equal(back, v) {
			t.Errorf("%s: written back as %x, was %x", c.vector, back, v)
		}
	}
}

func TestAddressIsReadInTheClear(t *testing.T) {
	for value, want := range map[string]string{
		"00010d96 c0000201":                            "192.0.2.1:3478",
		"ff010d96 c0000201":                            "192.0.2.1:3478", // the first byte is ignored
		"00020d96 20010db8 00000000 00000000 00000001": "[2001:db8::1]:3478",
		"00020d96 00000000 00000000 0000ffff c0000201": "[::ffff:192.0.2.1]:3478", // not unmapped
	} {
		if got, ok := stun.Address(unhex(value)); !ok || got != netip.MustParseAddrPort(want) {
			t.Errorf("%s: %v, %v, want %s", value, got, ok, want)
		}
	}
}

func TestAddressWithTheWrongLengthOrFamilyIsRefused(t *testing.T) {
	m := mustParse(t, message(""))
	for n := range 40 {
		for family := range byte(4) {
			value := make([]byte, n)
			if n > 1 {
				value[1] = family
			}
			want := family == 1 && n == 8 || family == 2 && n == 20
			if _, ok := stun.Address(value); ok != want {
				t.Errorf("family %d, %d bytes: Address reports %v", family, n, ok)
			}
			if _, ok := m.XORAddress(value); ok != want {
				t.Errorf("family %d, %d bytes: XORAddress reports %v", family, n, ok)
			}
		}
	}
	if _, ok := m.GetXORAddress(stun.AttrXORPeerAddress); ok {
		t.Error("an address that is not there was found")
	}
}

func TestUint32HasFourBytes(t *testing.T) {
	for body, want := range map[string]bool{"": false, "000d0000": false, "000d0003 00000100": false, "000d0004 00000102": true,
		"000d0008 00000102 00000000": false} {
		if v, ok := mustParse(t, message(body)).Uint32(stun.AttrLifetime); ok != want || ok && v != 0x102 {
			t.Errorf("%q: %#x, %v", body, v, ok)
		}
	}
}

func TestErrorCodeIsReadWithinItsRange(t *testing.T) {
	for body, want := range map[string]int{
		"00090004 00000300": 300, "00090004 00000663": 699, "00090004 fffffc25": 437, // the reserved bits are ignored
		"00090004 00000263": 0, "00090004 00000700": 0, "00090004 00000464": 0, "00090003 00000400": 0, "00090000": 0, "": 0,
	} {
		if code, _, ok := mustParse(t, message(body)).ErrorCode(); code != want || ok != (want != 0) {
			t.Errorf("%q: %d, %v, want %d", body, code, ok, want)
		}
	}
	_, reason, _ := mustParse(t, message("00090007 00000425 666f6f00")).ErrorCode()
	if string(reason) != "foo" {
		t.Errorf("reason %q", reason)
	}
}

func TestUnknownRequiredListsEachTypeOnceAndNoMoreThanFit(t *testing.T) {
	m := mustParse(t, message("7fff0000 00060000 7fff0000 80000000 00010000 00020000 00030000"))
	known := func(t stun.AttrType) bool { return t == stun.AttrUsername }
	all := []stun.AttrType{0x7fff, 1, 2, 3}
	for n := range 6 {
		got := m.UnknownRequired(make([]stun.AttrType, 0, n), known)
		if want := all[:min(n, len(all))]; !slices.Equal(got, want) {
			t.Errorf("room for %d: %v, want %v", n, got, want)
		}
	}
}

func TestRequiredTypesEndBelow0x8000(t *testing.T) {
	for typ, want := range map[stun.AttrType]bool{0: true, 0x7fff: true, 0x8000: false, 0xffff: false} {
		if typ.Required() != want {
			t.Errorf("%#04x: Required is %v", typ, !want)
		}
	}
}

func TestReasonsNeedNoPadding(t *testing.T) {
	for code := 300; code < 700; code++ {
		r := stun.Reason(code)
		if len(r)%4 != 0 || len(r) == 0 || len(r) > 127 || strings.ToValidUTF8(r, "") != r {
			t.Errorf("%d: %q", code, r)
		}
	}
}
