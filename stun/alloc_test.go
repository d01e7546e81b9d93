package stun_test

import (
	"testing"

	"github.com/stilenet/stile/stun"
)

// hot are the operations of the packet path.
func hot(tb testing.TB) map[string]func() {
	request, signed, send := message(""), unhex(rfc5769[0].hex), unhex(turn08[3].hex)
	unknown := message("7fff0000 7ffe0000")
	m, indication := mustParse(tb, signed), mustParse(tb, send)
	mac := stun.NewMac(rfc5769ShortTerm)
	buf := make([]byte, 0, 256)
	known := func(t stun.AttrType) bool { return t == stun.AttrUsername }
	payload := make([]byte, 172)
	must := func(ok bool) {
		if !ok {
			tb.Fatal("the operation failed")
		}
	}
	return map[string]func(){
		"Parse": func() { _, err := stun.Parse(send); must(err == nil) },
		"Get":   func() { _, ok := indication.Get(stun.AttrData); must(ok) },
		"GetXORAddress": func() {
			_, ok := indication.GetXORAddress(stun.AttrXORPeerAddress)
			must(ok)
		},
		"UnknownRequired": func() {
			var list [8]stun.AttrType
			must(len(m.UnknownRequired(list[:0], known)) == 2)
		},
		"CheckFingerprint": func() { must(m.CheckFingerprint() == stun.FingerprintValid) },
		"Mac.Check":        func() { must(mac.Check(m)) },
		"Respond IPv4":     func() { must(len(stun.Respond(buf[:0], request, local, remote4)) == 32) },
		"Respond IPv6":     func() { must(len(stun.Respond(buf[:0], request, local, remote6)) == 44) },
		"Respond 420":      func() { must(len(stun.Respond(buf[:0], unknown, local, remote4)) == 36) },
		"Builder Data indication": func() {
			b := stun.Begin(buf[:0], stun.NewType(stun.Data, stun.Indication), stun.TransactionID{})
			b.XORAddress(stun.AttrXORPeerAddress, remote4)
			b.Attr(stun.AttrData, payload)
			must(b.Len() == 20+12+4+172)
		},
		"Builder signed": func() {
			b := stun.Begin(buf[:0], stun.NewType(stun.Refresh, stun.Success), stun.TransactionID{})
			b.Uint32(stun.AttrLifetime, 600)
			b.Integrity(mac)
			b.Fingerprint()
			must(b.Len() == 20+8+24+8)
		},
	}
}

func TestPacketPathAllocatesNothing(t *testing.T) {
	for name, f := range hot(t) {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkPacketPath(b *testing.B) {
	for name, f := range hot(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				f()
			}
		})
	}
}
