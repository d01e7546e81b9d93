package stun_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"

	pion "github.com/pion/stun/v3"
	"github.com/stilenet/stile/stun"
)

// A deviation is a kind of message that pion/stun/v3 and this package read differently.
type deviation struct {
	name    string
	reason  string
	example []byte
	ours    error // what Parse says to it

	// undo returns the message without the deviation, and false when b has none. It runs after those above it in the table.
	undo func(b []byte) ([]byte, bool)
}

var deviations = []deviation{
	{
		name:    "first two bits",
		reason:  "§5 wants them zero, and TURN tells ChannelData by them; pion leaves that to its caller",
		example: unhex("40010000 2112a442 01020304 05060708 090a0b0c"),
		ours:    stun.ErrNotSTUN,
		undo: func(b []byte) ([]byte, bool) {
			if len(b) < stun.HeaderSize || binary.BigEndian.Uint32(b[4:]) != stun.MagicCookie || b[0] < 0x40 {
				return b, false
			}
			b[0] &= 0x3f
			return b, true
		},
	},
	{
		name:    "bytes after the message",
		reason:  "§6.3 wants a sensible length; a datagram holds one message and a stream is cut before Parse, pion ignores the rest",
		example: append(message(""), 0, 0, 0, 0),
		ours:    stun.ErrLength,
		undo: func(b []byte) ([]byte, bool) {
			if !stun.IsMessage(b) {
				return b, false
			}
			end := stun.HeaderSize + int(binary.BigEndian.Uint16(b[2:]))
			return b[:min(end, len(b))], end < len(b)
		},
	},
	{
		name:    "more than 128 attributes",
		reason:  "the walk over a hostile message is bounded; pion's is by the length field alone",
		example: message(strings.Repeat("80000000", 129)),
		ours:    stun.ErrAttributes,
		undo: func(b []byte) ([]byte, bool) {
			all, _ := split(b)
			if len(all) <= stun.MaxAttributes {
				return b, false
			}
			return withLength(b[:all[stun.MaxAttributes].at]), true
		},
	},
	{
		name:    "last attribute unpadded",
		reason:  "clients of draft-08's time send it, see Parse; pion wants the padding",
		example: message("80220001 61"),
		undo: func(b []byte) ([]byte, bool) {
			if _, ok := split(b); !ok || len(b)%4 == 0 {
				return b, false
			}
			return withLength(append(b, make([]byte, 4-len(b)%4)...)), true
		},
	},
	{
		name:    "attributes after MESSAGE-INTEGRITY",
		reason:  "§9 wants them ignored; pion keeps them unless it is told to be strict, and then keeps MESSAGE-INTEGRITY-SHA256, which we do not check",
		example: message("00080014 0000000000000000000000000000000000000000 80220004 61626364"),
		undo: func(b []byte) ([]byte, bool) {
			all, ok := split(b)
			i := slices.IndexFunc(all, func(a span) bool { return a.typ == uint16(stun.AttrMessageIntegrity) })
			if !ok || i < 0 || i == len(all)-1 {
				return b, false
			}
			return withLength(b[:all[i+1].at]), true
		},
	},
	{
		name:    "type 0x8020",
		reason:  "XOR-MAPPED-ADDRESS of rfc3489bis-02 and MS-TURN, which pion renames; in rfc3489bis-15 it is an unknown optional attribute",
		example: message("80200008 0001a147 e112a643"),
		undo: func(b []byte) ([]byte, bool) {
			all, ok := split(b)
			found := false
			for _, a := range all {
				if ok && a.typ == 0x8020 {
					binary.BigEndian.PutUint16(b[a.at:], 0x8021) // a type that neither knows
					found = true
				}
			}
			return b, found
		},
	},
}

// A span is where an attribute stands in a datagram.
type span struct {
	typ     uint16
	at, end int // of its header, and of its value without padding
}

// split walks over b without the code under test. It reports false when b is no message or an attribute does not fit; that
// one is then the last of the list. Only the padding of the last attribute may be missing, and only all of it.
func split(b []byte) (all []span, ok bool) {
	if !stun.IsMessage(b) || int(binary.BigEndian.Uint16(b[2:])) != len(b)-stun.HeaderSize {
		return nil, false
	}
	for at := stun.HeaderSize; at < len(b); {
		if len(b)-at < 4 {
			return append(all, span{at: at}), false
		}
		end := at + 4 + int(binary.BigEndian.Uint16(b[at+2:]))
		all = append(all, span{binary.BigEndian.Uint16(b[at:]), at, end})
		if end > len(b) || end < len(b) && (end+3)/4*4 > len(b) {
			return all, false
		}
		at = (end + 3) / 4 * 4 // the header has 20 bytes, so that offsets are aligned as the body is
	}
	return all, true
}

// agree fails the test unless pion and this package read b alike, deviations apart.
func agree(t *testing.T, b []byte) {
	t.Helper()
	if diff := checksums(b); diff != "" {
		t.Fatalf("%x: %s", b, diff)
	}
	for _, d := range deviations {
		before := bytes.Clone(b)
		fixed, applies := d.undo(bytes.Clone(b))
		if !applies {
			continue
		}
		b = slices.Clip(fixed)
		m, err := stun.Parse(before)
		if err != d.ours {
			t.Fatalf("%s: Parse(%x): %v, want %v", d.name, before, err, d.ours)
		}
		if err != nil || d.name == "type 0x8020" {
			continue
		}
		if w := mustParse(t, b); !slices.Equal(attrs(m), attrs(w)) {
			t.Fatalf("%s: %x is read as %v, without the deviation as %v", d.name, before, attrs(m), attrs(w))
		}
	}
	if diff := compare(b); diff != "" {
		t.Fatalf("%x: %s", b, diff)
	}
}

// compare says how pion and this package read b differently.
func compare(b []byte) string {
	m, err := stun.Parse(b)
	p := &pion.Message{Raw: bytes.Clone(b)}
	perr := p.Decode()
	switch {
	case (err == nil) != (perr == nil):
		return "ours: " + text(err) + ", pion: " + text(perr)
	case err != nil:
		return ""
	case uint16(m.Type()) != p.Type.Value():
		return "type"
	case m.TransactionID() != stun.TransactionID(p.TransactionID):
		return "transaction ID"
	}
	it := m.Attrs()
	for _, a := range p.Attributes {
		if !it.Next() || it.Type != stun.AttrType(a.Type) || !bytes.Equal(it.Value, a.Value) {
			return "attribute " + a.String()
		}
	}
	if it.Next() {
		return "an attribute that pion does not see"
	}

	// Values are checked one way: what we accept, pion reads alike. It accepts more (addresses that are too short) and ignores less
	// (the first byte of an address).
	for it := m.Attrs(); it.Next(); {
		t := pion.AttrType(it.Type)
		v, _ := m.Get(it.Type)
		var x pion.XORMappedAddress
		if a, ok := m.XORAddress(v); ok && v[0] == 0 && (x.GetFromAs(p, t) != nil || !same(a, x.IP, x.Port)) {
			return "XOR address " + a.String() + ", pion: " + x.String()
		}
		var c pion.MappedAddress
		if a, ok := stun.Address(v); ok && v[0] == 0 && (c.GetFromAs(p, t) != nil || !same(a, c.IP, c.Port)) {
			return "address " + a.String() + ", pion: " + c.String()
		}
	}
	var e pion.ErrorCodeAttribute
	if code, reason, ok := m.ErrorCode(); ok && (e.GetFrom(p) != nil || int(e.Code) != code || !bytes.Equal(e.Reason, reason)) {
		return "error code, pion: " + e.String()
	}
	return checksums(b)
}

// checksums says how they judge FINGERPRINT and MESSAGE-INTEGRITY differently when both accept b. Pion does not mind a
// FINGERPRINT that is not last, if its value is that of one that is.
func checksums(b []byte) string {
	m, err := stun.Parse(b)
	p := &pion.Message{Raw: bytes.Clone(b)}
	if err != nil || p.Decode() != nil {
		return ""
	}
	if m.CheckFingerprint() == stun.FingerprintValid && pion.Fingerprint.Check(p) != nil {
		return "FINGERPRINT"
	}
	for _, key := range [][]byte{rfc5769ShortTerm, rfc5769LongTerm} {
		if stun.NewMac(key).Check(m) != (pion.MessageIntegrity(key).Check(p) == nil) {
			return "MESSAGE-INTEGRITY"
		}
	}
	return ""
}

func same(a netip.AddrPort, ip []byte, port int) bool {
	return bytes.Equal(a.Addr().AsSlice(), ip) && int(a.Port()) == port
}

func text(err error) string {
	if err == nil {
		return "accepted"
	}
	return err.Error()
}

func TestDeviationsFromPionAreStillThere(t *testing.T) {
	for _, d := range deviations {
		if compare(d.example) == "" {
			t.Errorf("%s: pion reads %x as we do: strike it from the table", d.name, d.example)
		}
		for _, other := range deviations {
			if _, applies := other.undo(bytes.Clone(d.example)); applies != (other.name == d.name) {
				t.Errorf("%s: %q applies to the example: %v", d.name, other.name, applies)
			}
		}
		agree(t, d.example)
	}
}

func TestPionReadsVectorsAlike(t *testing.T) {
	for _, v := range vectors {
		agree(t, unhex(v.hex))
	}
}

func FuzzPion(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= 8 {
			binary.BigEndian.PutUint32(b[4:], stun.MagicCookie) // what has none is no message to both
		}
		agree(t, b)
	})
}
