package rendezvous

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/stilenet/stile/rtmfp"
)

// BenchmarkIntroduction is what an introduction costs the processor without the system calls: an IHello in; a Redirect and an FIHello out.
func BenchmarkIntroduction(b *testing.B) {
	w := newWorld(b, setup{rules: Rules{Limits: Limits{Sessions: 1000}, Keepalive: 1 << 50}})
	p := w.client("203.0.113.2:5000", "").mustConnect("k", "203.0.113.2:5000", "192.168.1.2:5000")
	w.run(second)
	cipher := w.cores[0].cipher
	e, c := w.ends[0], w.cores[0]
	plain := rtmfp.AppendHeader(nil, rtmfp.Header{Mode: rtmfp.ModeStartup, TimestampPresent: true})
	at := len(plain) + 3 + 1 + 34
	plain = rtmfp.AppendIHello(plain, rtmfp.IHello{EPD: p.id.PeerID().EPD(), Tag: make([]byte, 16)})
	buf := make([]byte, 0, 256)
	from := netip.MustParseAddrPort("192.0.2.1:7000")
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		binary.BigEndian.PutUint64(plain[at:], uint64(i))
		buf = cipher.Seal(buf[:4], append([]byte(nil), plain...))
		rtmfp.PutSessionID(buf, 0)
		e.Receive(w.now, 0, from, buf)
		for _, ev := range e.Events() {
			c.Handle(w.now, ev)
		}
		out := e.Flush(w.now)
		if len(out) != 2 {
			b.Fatalf("%d datagrams", len(out))
		}
		e.Recycle(out)
	}
}
