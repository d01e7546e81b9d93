package stun_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/stilenet/stile/stun"
)

func TestParseReadsEveryVector(t *testing.T) {
	for _, v := range vectors {
		t.Run(v.name, func(t *testing.T) {
			b := unhex(v.hex)
			m := mustParse(t, b)
			if !stun.IsMessage(b) {
				t.Error("IsMessage is false")
			}
			if m.Type() != v.typ {
				t.Errorf("type %#04x, want %#04x", m.Type(), v.typ)
			}
			if id := m.TransactionID(); !bytes.Equal(id[:], b[8:20]) {
				t.Errorf("transaction ID %x", id)
			}
			if got := attrs(m); !slices.Equal(got, v.at) {
				t.Errorf("attributes\n%v, want\n%v", got, v.at)
			}
			if &m.Raw()[0] != &b[0] || len(m.Raw()) != len(b) {
				t.Error("Raw is not the datagram")
			}
		})
	}
}

func TestParseRefusesEveryTruncation(t *testing.T) {
	for _, v := range vectors {
		whole := unhex(v.hex)
		for n := range whole {
			want := stun.ErrLength
			if n < stun.HeaderSize {
				want = stun.ErrShort
			}
			if _, err := stun.Parse(whole[:n:n]); err != want {
				t.Errorf("%s cut to %d bytes: %v, want %v", v.name, n, err, want)
			}
		}
	}
}

// A truncation with a length field to match ends inside an attribute, or between two, or where the value of the last one ends.
func TestParseTakesATruncationOnlyWhereAnAttributeEnds(t *testing.T) {
	for _, v := range vectors {
		whole := unhex(v.hex)
		ends := map[int]bool{stun.HeaderSize: true}
		for at := stun.HeaderSize; at < len(whole); {
			size := int(binary.BigEndian.Uint16(whole[at+2:]))
			ends[at+4+size] = true
			at += 4 + (size+3)/4*4
			ends[at] = true
		}
		for n := stun.HeaderSize; n <= len(whole); n++ {
			cut := withLength(bytes.Clone(whole[:n]))
			m, err := stun.Parse(cut)
			if ends[n] != (err == nil) || err != nil && err != stun.ErrAttribute {
				t.Errorf("%s cut to %d bytes: %v, and an attribute ends there: %v", v.name, n, err, ends[n])
			}
			if err == nil {
				exercise(t, m)
			}
		}
	}
}

func TestParseSaysWhyItRefuses(t *testing.T) {
	ok := message("80220004 74657374")
	edit := func(at int, with ...byte) []byte {
		b := bytes.Clone(ok)
		copy(b[at:], with)
		return b
	}
	many := func(n int) string { return strings.Repeat("80000000", n) }
	for _, c := range []struct {
		name string
		b    []byte
		want error
	}{
		{"nothing", nil, stun.ErrShort},
		{"19 bytes", ok[:19], stun.ErrShort},
		{"a header alone", message(""), nil},
		{"ChannelData over UDP", unhex("40010005 68656c6c 6f"), stun.ErrShort},
		{"ChannelData as long as a header", append(unhex("40010010 68656c6c 6f"), make([]byte, 15)...), stun.ErrNotSTUN},
		{"a first bit", edit(0, 0x80), stun.ErrNotSTUN},
		{"a second bit", edit(0, 0x40), stun.ErrNotSTUN},
		{"RFC 3489: no cookie", edit(4, 0, 0, 0, 0), stun.ErrNotSTUN},
		{"a byte of the cookie", edit(7, 0x43), stun.ErrNotSTUN},
		{"a length too small", edit(2, 0, 4), stun.ErrLength},
		{"a length too large", edit(2, 0, 12), stun.ErrLength},
		{"a second message behind", append(bytes.Clone(ok), ok...), stun.ErrLength},
		{"three bytes of an attribute header", message("80000000 800000"), stun.ErrAttribute},
		{"an attribute larger than the rest", message("80220005 74657374"), stun.ErrAttribute},
		{"an attribute of 65535 bytes", message("8022ffff 74657374"), stun.ErrAttribute},
		{"a body of 65532 bytes", message("8022fff8" + strings.Repeat("00", 65528)), nil},
		{"a body of 65533 bytes", message("8022fff9" + strings.Repeat("00", 65529)), stun.ErrLength},
		{"128 attributes", message(many(128)), nil},
		{"129 attributes", message(many(129)), stun.ErrAttributes},
	} {
		if _, err := stun.Parse(c.b); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		if want := c.want == nil || c.want != stun.ErrShort && c.want != stun.ErrNotSTUN; stun.IsMessage(c.b) != want {
			t.Errorf("%s: IsMessage is %v", c.name, !want)
		}
	}
}

func TestUnpaddedLastAttributeIsTaken(t *testing.T) {
	for size, body := range map[int]string{
		1: "80220004 74657374 00130001 68",
		2: "80220004 74657374 00130002 6865",
		3: "80220004 74657374 00130003 68656c",
	} {
		m := mustParse(t, message(body))
		if v, ok := m.Get(stun.AttrData); !ok || len(v) != size || cap(v) != size {
			t.Errorf("DATA of %d bytes: %x (capacity %d), %v", size, v, cap(v), ok)
		}
	}
	for _, body := range []string{
		"00130001 6800", "00130001 680000", "00130002 686500", // half a padding
		"00130001 68 80220004 74657374", // not the last
	} {
		if _, err := stun.Parse(message(body)); err != stun.ErrAttribute {
			t.Errorf("%s: %v, want %v", body, err, stun.ErrAttribute)
		}
	}
}

func TestPaddingOfAnyValueIsIgnored(t *testing.T) {
	m := mustParse(t, message("00060001 61ffffff 00140001 62aabbcc"))
	if want := []attr{{stun.AttrUsername, "61"}, {stun.AttrRealm, "62"}}; !slices.Equal(attrs(m), want) {
		t.Errorf("attributes %v, want %v", attrs(m), want)
	}
}

func TestFirstOfSeveralAttributesCounts(t *testing.T) {
	m := mustParse(t, message("000d0004 00000001 000d0004 00000002 000d0000"))
	if v, ok := m.Uint32(stun.AttrLifetime); v != 1 || !ok {
		t.Errorf("LIFETIME %d, %v, want the first", v, ok)
	}
	m = mustParse(t, message("000d0000 000d0004 00000002"))
	if v, ok := m.Uint32(stun.AttrLifetime); ok {
		t.Errorf("LIFETIME %d: the first is malformed and counts nevertheless", v)
	}
}

func TestAttributesAfterMessageIntegrityDoNotCount(t *testing.T) {
	const mi, zeros = "00080014", "0000000000000000000000000000000000000000"
	m := mustParse(t, message("00060001 61000000"+mi+zeros+"00140001 62000000 7fff0000"+"001c0010 00000000000000000000000000000000"+
		mi+zeros+"80280004 00000000"))
	if want := []attr{{stun.AttrUsername, "61"}, {stun.AttrMessageIntegrity, zeros}}; !slices.Equal(attrs(m), want) {
		t.Errorf("attributes %v, want %v", attrs(m), want)
	}
	for typ, want := range map[stun.AttrType]bool{stun.AttrUsername: true, stun.AttrMessageIntegrity: true, stun.AttrRealm: false,
		0x7fff: false, 0x001c: false, stun.AttrFingerprint: true} {
		if m.Has(typ) != want {
			t.Errorf("Has(%#04x) is %v", typ, !want)
		}
	}
	none := func(stun.AttrType) bool { return false }
	if got := m.UnknownRequired(make([]stun.AttrType, 0, 8), none); !slices.Equal(got, []stun.AttrType{0x0006, 0x0008}) {
		t.Errorf("unknown %v", got)
	}
}

func TestTypeJoinsMethodAndClass(t *testing.T) {
	for _, c := range []struct {
		m    stun.Method
		c    stun.Class
		want stun.Type
	}{
		{stun.Binding, stun.Request, 0x0001}, {stun.Binding, stun.Indication, 0x0011},
		{stun.Binding, stun.Success, 0x0101}, {stun.Binding, stun.Error, 0x0111},
		{stun.Send, stun.Indication, 0x0016}, {stun.ChannelBind, stun.Error, 0x0119},
		{0xfff, stun.Error, 0x3fff}, {0xfff, stun.Request, 0x3eef},
	} {
		if got := stun.NewType(c.m, c.c); got != c.want {
			t.Errorf("NewType(%#x, %#x) is %#04x, want %#04x", c.m, c.c, got, c.want)
		}
	}
	for typ := range stun.Type(0x4000) { // all there are
		if got := stun.NewType(typ.Method(), typ.Class()); got != typ {
			t.Fatalf("type %#04x is read as method %#x and class %#x", typ, typ.Method(), typ.Class())
		}
	}
}
