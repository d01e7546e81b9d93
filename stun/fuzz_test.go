package stun_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/stilenet/stile/stun"
)

// exercise calls every accessor of m and checks what holds for every message.
func exercise(t *testing.T, m stun.Message) {
	t.Helper()
	before := bytes.Clone(m.Raw())
	if stun.NewType(m.Method(), m.Class()) != m.Type() {
		t.Errorf("type %#04x is not its method and class", m.Type())
	}
	seen := map[stun.AttrType]bool{}
	count := 0
	for it := m.Attrs(); it.Next(); count++ {
		if cap(it.Value) != len(it.Value) {
			t.Errorf("attribute %#04x: an append would write into the message", it.Type)
		}
		first, ok := m.Get(it.Type)
		if !ok || !m.Has(it.Type) || !seen[it.Type] && !bytes.Equal(first, it.Value) {
			t.Errorf("Get(%#04x) is %x, %v, the walk finds %x", it.Type, first, ok, it.Value)
		}
		seen[it.Type] = true
		m.XORAddress(it.Value)
		stun.Address(it.Value)
		m.GetXORAddress(it.Type)
		m.Uint32(it.Type)
	}
	if count > stun.MaxAttributes {
		t.Errorf("%d attributes", count)
	}
	if code, _, ok := m.ErrorCode(); ok && (code < 300 || code > 699) {
		t.Errorf("error code %d", code)
	}
	unknown := m.UnknownRequired(make([]stun.AttrType, 0, stun.MaxAttributes), func(t stun.AttrType) bool { return t%2 == 0 })
	for i, u := range unknown {
		if !u.Required() || u%2 == 0 || !seen[u] || slices.Contains(unknown[:i], u) {
			t.Errorf("unknown required attributes %v", unknown)
		}
	}
	if absent := m.CheckFingerprint() == stun.FingerprintAbsent; absent == m.Has(stun.AttrFingerprint) {
		t.Errorf("FINGERPRINT is absent: %v, and Has says otherwise", absent)
	}
	stun.NewMac(rfc5769ShortTerm).Check(m)
	for remote, longer := range map[netip.AddrPort]int{remote4: 12, remote6: 24} {
		if out := stun.Respond(nil, m.Raw(), local, remote); len(out) > len(m.Raw())+longer {
			t.Errorf("%d bytes are answered with %d", len(m.Raw()), len(out))
		} else if len(out) > 0 && mustParse(t, out).TransactionID() != m.TransactionID() {
			t.Errorf("the reply %x is to another request", out)
		}
	}
	if !bytes.Equal(m.Raw(), before) {
		t.Error("a reader wrote into the message")
	}

	// A message made of the attributes that count is read as they are.
	b := stun.Begin(nil, m.Type(), m.TransactionID())
	for it := m.Attrs(); it.Next(); {
		b.Attr(it.Type, it.Value)
	}
	if again := attrs(mustParse(t, b.Bytes())); !slices.Equal(again, attrs(m)) {
		t.Errorf("written again: %v, was %v", again, attrs(m))
	}
}

func FuzzParse(f *testing.F) {
	refusals := []error{stun.ErrShort, stun.ErrNotSTUN, stun.ErrLength, stun.ErrAttribute, stun.ErrAttributes}
	f.Fuzz(func(t *testing.T, b []byte) {
		b = slices.Clip(bytes.Clone(b)) // reading past the end panics
		m, err := stun.Parse(b)
		if err != nil {
			if !slices.Contains(refusals, err) {
				t.Errorf("refused with %v", err)
			}
			return
		}
		if !stun.IsMessage(b) || !bytes.Equal(m.Raw(), b) {
			t.Errorf("Raw is %x", m.Raw())
		}
		exercise(t, m)
	})
}

// FuzzBuilder runs script, in which a byte chooses what to append and the bytes after it are the value, and reads the message.
func FuzzBuilder(f *testing.F) {
	f.Fuzz(func(t *testing.T, typ uint16, id, prefix, key, script []byte) {
		type wanted func(m stun.Message, t stun.AttrType) bool
		var want []wanted
		var txid stun.TransactionID
		copy(txid[:], id)
		b := stun.Begin(bytes.Clone(prefix), stun.Type(typ&0x3fff), txid)
		for len(script) > 0 && len(want) < stun.MaxAttributes-3 { // ERROR-CODE, MESSAGE-INTEGRITY and FINGERPRINT come last
			at := stun.AttrType(0x7000 + len(want))
			op, rest := script[0], script[1:]
			value := rest[:min(len(rest), int(op>>3))]
			script = rest[len(value):]
			var sixteen [16]byte
			copy(sixteen[:], value)
			number := binary.BigEndian.Uint32(sixteen[:])
			addr := netip.AddrPortFrom(netip.AddrFrom16(sixteen), uint16(number))
			if op&8 != 0 {
				addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte(sixteen[:4])), uint16(number))
			}
			plain := netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
			switch op & 7 {
			case 0:
				b.Uint32(at, number)
				want = append(want, func(m stun.Message, t stun.AttrType) bool { v, ok := m.Uint32(t); return ok && v == number })
			case 1:
				b.XORAddress(at, addr)
				want = append(want, func(m stun.Message, t stun.AttrType) bool { a, ok := m.GetXORAddress(t); return ok && a == plain })
			case 2:
				b.Address(at, addr)
				want = append(want, func(m stun.Message, t stun.AttrType) bool {
					v, _ := m.Get(t)
					a, ok := stun.Address(v)
					return ok && a == plain
				})
			case 3:
				b.String(at, string(value))
				want = append(want, func(m stun.Message, t stun.AttrType) bool { v, ok := m.Get(t); return ok && bytes.Equal(v, value) })
			default:
				b.Attr(at, value)
				want = append(want, func(m stun.Message, t stun.AttrType) bool { v, ok := m.Get(t); return ok && bytes.Equal(v, value) })
			}
		}
		code := 300 + int(typ)%400
		b.ErrorCode(code, string(id))
		mac := stun.NewMac(key)
		b.Integrity(mac)
		b.Fingerprint()

		if !bytes.HasPrefix(b.Bytes(), prefix) {
			t.Fatal("what was in the buffer is changed")
		}
		m := mustParse(t, b.Bytes()[len(prefix):])
		if m.Type() != stun.Type(typ&0x3fff) || m.TransactionID() != txid || len(attrs(m)) != len(want)+2 {
			t.Fatalf("read as %#04x, %x, %d attributes of %d", m.Type(), m.TransactionID(), len(attrs(m)), len(want)+2)
		}
		for i, ok := range want {
			if at := stun.AttrType(0x7000 + i); !ok(m, at) {
				v, _ := m.Get(at)
				t.Errorf("attribute %d is read as %x", i, v)
			}
		}
		if got, reason, ok := m.ErrorCode(); !ok || got != code || string(reason) != string(id) {
			t.Errorf("ERROR-CODE %d %q, want %d %q", got, reason, code, id)
		}
		if !mac.Check(m) || m.CheckFingerprint() != stun.FingerprintValid {
			t.Error("MESSAGE-INTEGRITY or FINGERPRINT is wrong")
		}
		exercise(t, m)
	})
}
