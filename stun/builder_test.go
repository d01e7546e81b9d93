package stun_test

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stilenet/stile/stun"
)

func TestBuilderWritesEveryVector(t *testing.T) {
	for _, v := range turn08 {
		want := unhex(v.hex)
		b := stun.Begin(nil, v.typ, stun.TransactionID(want[8:20]))
		for _, a := range v.at {
			if a.typ == stun.AttrFingerprint {
				b.Fingerprint()
			} else {
				b.Attr(a.typ, unhex(a.value))
			}
		}
		if got := b.Bytes(); !bytes.Equal(got, want) {
			t.Errorf("%s:\n%x, want\n%x", v.name, got, want)
		}
	}
}

func TestBuilderIsRightAfterEveryCall(t *testing.T) {
	prefix := []byte("odd") // the padding counts from the message, not from the buffer
	dirty := bytes.Repeat([]byte{0xee}, 512)
	b := stun.Begin(append(dirty[:0], prefix...), stun.NewType(stun.Allocate, stun.Error), stun.TransactionID{1, 2, 3})
	mac := stun.NewMac([]byte("key"))
	for i, step := range []func(){
		func() {},
		func() { b.Attr(stun.AttrData, []byte{1}) },
		func() { b.String(stun.AttrRealm, "realm") },
		func() { b.Uint32(stun.AttrLifetime, 600) },
		func() { b.Address(stun.AttrAlternateServer, netip.MustParseAddrPort("192.0.2.1:3478")) },
		func() { b.XORAddress(stun.AttrXORRelayedAddress, netip.MustParseAddrPort("[2001:db8::1]:50000")) },
		func() { b.ErrorCode(420, stun.Reason(420)) },
		func() { b.UnknownAttributes([]stun.AttrType{1, 2, 3}) },
		func() { b.Integrity(mac) },
		func() { b.Fingerprint() },
	} {
		step()
		if !bytes.HasPrefix(b.Bytes(), prefix) || b.Len() != len(b.Bytes())-len(prefix) {
			t.Fatalf("step %d: %d bytes of %x", i, b.Len(), b.Bytes())
		}
		m := mustParse(t, b.Bytes()[len(prefix):])
		n := len(attrs(m))
		if m.CheckFingerprint() == stun.FingerprintValid {
			n++
		}
		if n != i {
			t.Errorf("step %d: %d attributes", i, n)
		}
	}
	m := mustParse(t, b.Bytes()[len(prefix):])
	want := []attr{{0x0013, "01"}, {0x0014, "7265616c6d"}, {0x000d, "00000258"}, {0x8023, "00010d96c0000201"}}
	if got := attrs(m); !slices.Equal(got[:4], want) {
		t.Errorf("attributes %v, want %v first", got, want)
	}
	if v, _ := m.Get(stun.AttrUnknownAttributes); !bytes.Equal(v, []byte{0, 1, 0, 2, 0, 3}) {
		t.Errorf("UNKNOWN-ATTRIBUTES %x", v)
	}
	if !bytes.Contains(m.Raw(), unhex("00130001 01000000")) {
		t.Error("the padding is not zero") // §14, and what was in the buffer before is nobody's business
	}
	if !mac.Check(m) || m.CheckFingerprint() != stun.FingerprintValid {
		t.Error("MESSAGE-INTEGRITY or FINGERPRINT is wrong")
	}
}

func TestBuilderWritesIPv4MappedAddressesAsIPv4(t *testing.T) {
	b := stun.Begin(nil, 0x0101, stun.TransactionID{})
	b.XORAddress(stun.AttrXORMappedAddress, netip.MustParseAddrPort("[::ffff:192.0.2.1]:32853"))
	if v, _ := mustParse(t, b.Bytes()).Get(stun.AttrXORMappedAddress); !bytes.Equal(v, unhex("0001a147 e112a643")) {
		t.Errorf("%x", v)
	}
}

func TestBuilderFillsALengthFieldAndNoMore(t *testing.T) {
	for size := 65520; size < 65540; size++ {
		b := stun.Begin(nil, 0x0017, stun.TransactionID{})
		if b.Fits(size) != (size <= 65528) {
			t.Errorf("Fits(%d) is %v in an empty message", size, b.Fits(size))
		}
		if err := panics(func() { b.Attr(stun.AttrData, make([]byte, size)) }); (err == "") != (size <= 65528) {
			t.Errorf("Attr of %d bytes: %q", size, err)
		} else if err == "" {
			mustParse(t, b.Bytes())
		}
	}
	b := stun.Begin(nil, 0x0017, stun.TransactionID{})
	b.Attr(stun.AttrData, make([]byte, 65508))
	if !b.Fits(16) || b.Fits(17) {
		t.Errorf("20 bytes are left: Fits(16) is %v, Fits(17) is %v", b.Fits(16), b.Fits(17))
	}
}

func TestBuilderPanicsOnOurMistakes(t *testing.T) {
	b := stun.Begin(nil, 0x0111, stun.TransactionID{})
	for name, f := range map[string]func(){
		"no address":          func() { b.XORAddress(stun.AttrXORMappedAddress, netip.AddrPort{}) },
		"a code of 299":       func() { b.ErrorCode(299, "") },
		"a code of 700":       func() { b.ErrorCode(700, "") },
		"a value of 64 KiB":   func() { b.Attr(stun.AttrData, make([]byte, 1<<16)) },
		"a text of 64 KiB":    func() { b.String(stun.AttrRealm, strings.Repeat("x", 1<<16)) },
		"32,768 unknown ones": func() { b.UnknownAttributes(make([]stun.AttrType, 1<<15)) },
	} {
		if err := panics(f); !strings.HasPrefix(err, "BUG: stun: ") {
			t.Errorf("%s: %q", name, err)
		}
	}
	if b.Len() != stun.HeaderSize {
		t.Errorf("%d bytes after nothing but mistakes", b.Len())
	}
}

// panics is the text of the panic of f, or "".
func panics(f func()) (text string) {
	defer func() {
		if r := recover(); r != nil {
			text = r.(string)
		}
	}()
	f()
	return ""
}
