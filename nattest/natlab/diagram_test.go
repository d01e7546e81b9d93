package natlab_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stilenet/stile/nattest/natlab"
)

func TestDiagramShowsWaysTranslationsAndFates(t *testing.T) {
	natlab.Run(t, 9, func(t *testing.T, n *natlab.Net) {
		w := newWorld(t, n, nat(natlab.NATConfig{}), nat(natlab.NATConfig{}))
		a, b := listen(t, w.hosts[0], ":5000"), listen(t, w.hosts[1], ":6000")
		n.KeepPackets(5)
		for _, step := range []func(){
			func() { send(t, a, netip.MustParseAddrPort("198.51.100.99:9"), "forgotten by the ring") },
			func() { send(t, a, netip.MustParseAddrPort("203.0.113.2:6000"), "hello") },
			func() { send(t, b, netip.MustParseAddrPort("203.0.113.1:5000"), "hello") },
			func() {
				w.boxes[0].Outside().Cut()
				send(t, a, netip.MustParseAddrPort("203.0.113.2:6000"), "hello")
			},
			func() {
				a.SetTTL(1)
				send(t, a, netip.MustParseAddrPort("203.0.113.2:6000"), "hello")
			},
		} {
			step()
			time.Sleep(100 * time.Millisecond)
		}
		const want = `seed 9, the last 5 of 6 packets
              alice    nat-a    nat-b     bob
   0.100000     +--------+--------x        |      192.168.1.2:5000=203.0.113.1:5000 > 203.0.113.2:6000 udp 5 bytes: no mapping
   0.200000     <--------+--------+--------+      192.168.1.2:6000=203.0.113.2:6000 > 203.0.113.1:5000=192.168.1.2:5000 udp 5 bytes: delivered
   0.300000     +--------x        |        |      192.168.1.2:5000=203.0.113.1:5000 > 203.0.113.2:6000 udp 5 bytes: link down
   0.400000     +--------x        |        |      192.168.1.2:5000 > 203.0.113.2:6000 udp 5 bytes TTL 1: TTL expired
   0.400000     x--------+        |        |      192.0.0.8 > 192.168.1.2 icmp time exceeded for 203.0.113.2:6000: ignored
`
		if got := n.Diagram(); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	})
}
