//go:build e2e && linux

package dataplane

import (
	"encoding/binary"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stilenet/stile/stun"
	"github.com/stilenet/stile/turn"
)

// TestFiftyThousandAllocationsOfTheKernelEngine take fewer than 100 descriptors and at most 1 KB each, their permission and channel included. The requests are
// given to the core on its thread: a client of its own for each would need the descriptors that the server does not.
func TestFiftyThousandAllocationsOfTheKernelEngine(t *testing.T) {
	const count = 50_000
	cfg := socketConfig(t)
	cfg.Engine, cfg.Ports = Kernel, turn.PortRange{First: 1024, Last: 65535}
	rules := *cfg.Rules
	rules.Limits = turn.Limits{Unconfirmed: count}
	cfg.Rules = &rules
	s := startEngine(t, cfg)
	before := heap()
	slot := make([]byte, turn.Headroom+turn.MaxFrame+turn.Tailroom)
	ask := func(c *turn.Core, now time.Time, client netip.AddrPort, msg []byte) stun.Message {
		src := turn.Source{Client: client, Server: netip.AddrPortFrom(loopback, 3478)}
		n := copy(slot[turn.Headroom:], msg)
		c.FromClient(now, &src, turn.Packet{Buf: slot, At: turn.Headroom, Len: n})
		outs := c.Outputs()
		if len(outs) != 1 {
			t.Fatalf("%d answers", len(outs))
		}
		m, err := stun.Parse(append([]byte(nil), outs[0].Data...))
		if err != nil {
			t.Fatal(err)
		}
		c.Reset()
		return m
	}
	s.on(t, 0, func(x *shard) {
		now := time.Now()
		for i := range count {
			client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1, byte(i >> 14), 1}), uint16(1024+i&(1<<14-1)))
			var id [12]byte
			binary.BigEndian.PutUint32(id[:], uint32(i))
			m := ask(x.core, now, client, request(stun.Allocate, stun.Request, byte(i), func(b *stun.Builder) {
				b.Attr(stun.AttrRequestedTransport, []byte{17, 0, 0, 0})
			}))
			if m.Class() != stun.Success {
				t.Fatalf("allocation %d: %x", i, m.Raw())
			}
			m = ask(x.core, now, client, request(stun.ChannelBind, stun.Request, byte(i+1), func(b *stun.Builder) {
				b.Attr(stun.AttrChannelNumber, []byte{0x40, 1, 0, 0})
				b.XORAddress(stun.AttrXORPeerAddress, netip.AddrPortFrom(loopback, 40000))
			}))
			if m.Class() != stun.Success {
				t.Fatalf("channel of allocation %d: %x", i, m.Raw())
			}
		}
		x.core.TakeEvents()
	})
	if st := s.stats(t); st.Allocations != count {
		t.Fatalf("%d allocations", st.Allocations)
	}
	each := float64(heap()-before) / count
	t.Logf("%.0f bytes for each of %d allocations, %d descriptors", each, count, len(descriptors(t)))
	if each > 1024 {
		t.Errorf("%.0f bytes for each allocation", each)
	}
	if n := len(descriptors(t)); n >= 100 {
		t.Errorf("%d descriptors:\n%s", n, strings.Join(descriptors(t), "\n"))
	}
}

// heap is what the heap holds after a collection.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
