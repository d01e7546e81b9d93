package turn

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/stilenet/stile/stun"
)

// spoofed is the k-th source of a flood, each of another /24.
func spoofed(k int) string {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{11 + byte(k>>16), byte(k >> 8), byte(k), 7}), 4000).String()
}

// TestAFloodOfForgedSourcesStaysWithinTheLimits sends what 60,000 forged sources can: an Allocate, and an Allocate with a valid Send.
func TestAFloodOfForgedSourcesStaysWithinTheLimits(t *testing.T) {
	const sources = 60000
	for name, packets := range map[string]int{"one packet": 1, "two packets": 2} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, setup{ports: PortRange{49152, 65535}, limits: func(l *Limits) { *l = DefaultLimits() }})
			core, o := s.cores[0], s.ports[0]
			var established []*client
			for k := range 20 {
				c := s.client(fmt.Sprintf("198.51.100.%d:7000", k+1)).allocate()
				c.bind(0x4000, flowPeer)
				c.sendTo(dataPeer, "x")
				same(t, "before", c.hears(flowPeer)+c.hears(dataPeer), "0x4000data")
				established = append(established, c)
			}
			works := func(when string) {
				t.Helper()
				for _, c := range established {
					same(t, when+": ChannelData", toPeer(c.channel(0x4000, "x")), "2->"+flowPeer+" x")
					same(t, when+": Send", toPeer(c.sendTo(dataPeer, "x")), "2->"+dataPeer+" x")
					same(t, when+": the peers", c.hears(flowPeer)+c.hears(dataPeer), "0x4000data")
				}
			}
			s.quiet = true
			started := heap()
			var opened int
			for k := range sources {
				c := s.client(spoofed(k))
				c.request(stun.Allocate, udp)
				if packets == 2 { // a forger does not know the relayed address and need not
					c.sendTo("203.0.113.77:5000", "x")
				}
				if k == sources/2 {
					works("in the flood")
					opened = o.opened
				}
				s.events = s.events[:0]
				s.after(time.Millisecond)
			}
			works("after the flood")
			s.check()
			st := s.stats()
			if st.Unconfirmed > s.rules.Limits.Unconfirmed {
				t.Errorf("%d unconfirmed allocations", st.Unconfirmed)
			}
			if packets == 1 {
				same(t, "allocations", st.Allocations, len(established)+s.rules.Limits.Unconfirmed)
				same(t, "ports opened in the second half", o.opened, opened)
			}
			if ports := s.ledger.Ports(); st.Allocations > ports.Total || st.Permissions > ports.Total+20 {
				t.Errorf("%d allocations and %d permissions on %d ports", st.Allocations, st.Permissions, ports.Total)
			}
			if got := s.unansweredTo("203.0.113.77"); got > 80 || packets == 2 && got < 80 {
				t.Errorf("the peer of all of them got %d packets in a window", got)
			}
			grown := int64(heap()) - int64(started)
			most := int64(st.Allocations+1) * 1536 * 2 // the slabs double
			t.Logf("%s: %d allocations, %d unconfirmed, %d evicted, %d recycled; %d KB, most %d KB",
				name, st.Allocations, st.Unconfirmed, st.Evicted, st.Recycled, grown>>10, most>>10)
			if grown > most {
				t.Errorf("the heap grew by %d bytes, at most %d", grown, most)
			}
			runtime.KeepAlive(core)
			s.after(DefaultLifetime)
			s.tick()
			same(t, "afterwards", s.stats().Allocations, 0)
		})
	}
}

// unansweredTo is what the silent peer has got from all clients together.
func (s *server) unansweredTo(peer string) int {
	b := s.ledger.unanswered[ipOf(peer)]
	if b == nil {
		return 0
	}
	return b.packets
}
