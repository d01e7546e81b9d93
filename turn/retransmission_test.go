package turn

import (
	"fmt"
	"testing"
	"time"

	"github.com/stilenet/stile/stun"
)

func TestRetransmittedAllocateGetsTheSameSuccess(t *testing.T) {
	s := newServer(t, setup{})
	c := s.client("198.51.100.1:7000")
	b := c.message(stun.Allocate, stun.Request, udp, props(0xC0))
	_, first := c.ask(b)
	relayed, token := c.relayed, string(c.token)
	for range 6 {
		s.after(time.Second / 2)
		_, again := c.ask(b)
		same(t, "relayed address", c.relayed, relayed)
		same(t, "token", string(c.token), token)
		same(t, "length", len(again.Raw()), len(first.Raw()))
		v, _ := again.Uint32(stun.AttrLifetime)
		left := DefaultLifetime - s.now.Sub(testEpoch)
		same(t, "lifetime", v, uint32((left+time.Second-1)/time.Second))
	}
	same(t, "allocations", s.stats().Allocations, 1)
	same(t, "with another transaction ID", c.request(stun.Allocate, udp), 437)
	b[3], b = 0, b[:20] // the same ID with nothing else: nobody reads on
	same(t, "a retransmission is not read", func() int { code, _ := c.ask(b); return code }(), 0)
}

func TestAllocateOnAStreamInUseIs437(t *testing.T) {
	c := newServer(t, setup{}).stream("198.51.100.1:7000", 3)
	b := c.message(stun.Allocate, stun.Request, udp)
	code, _ := c.ask(b)
	same(t, "first", code, 0)
	code, _ = c.ask(b)
	same(t, "again", code, 437)
}

func TestTombstonesAnswerForFortySeconds(t *testing.T) {
	for _, ticks := range []bool{false, true} {
		s := newServer(t, setup{})
		c := s.client("198.51.100.1:7000")
		allocate := c.message(stun.Allocate, stun.Request, udp)
		c.ask(allocate)
		c.sendTo("203.0.113.5:5000", "x")
		release := c.message(stun.Refresh, stun.Request, lifetimeOf(0))
		c.ask(release)
		relayed := c.relayed
		s.after(replayWindow - 1)
		if ticks {
			s.tick()
		}
		same(t, "busy", s.cores[0].Busy(), true)
		code, answer := c.ask(release)
		v, _ := answer.Uint32(stun.AttrLifetime)
		same(t, "a nanosecond before the end", code, 0)
		same(t, "lifetime", v, 0)
		code, _ = c.ask(allocate)
		same(t, "the late Allocate", code, 0)
		same(t, "relayed address", c.relayed, relayed)
		same(t, "another Refresh", c.request(stun.Refresh), 437)
		s.after(1)
		if ticks {
			s.tick()
			same(t, "busy", s.cores[0].Busy(), false)
		}
		code, _ = c.ask(release)
		same(t, "at the end", code, 437)
		code, _ = c.ask(allocate)
		same(t, "the Allocate is a new one", code, 0)
		same(t, "allocations", s.stats().Allocations, 1)
	}
}

func TestADelayedReleaseDoesNotEndTheNextAllocation(t *testing.T) {
	s := newServer(t, setup{})
	c := s.client("198.51.100.1:7000").allocate()
	c.sendTo("203.0.113.5:5000", "x")
	release := c.message(stun.Refresh, stun.Request, lifetimeOf(0))
	c.ask(release)
	s.after(time.Second)
	c.allocate()
	code, _ := c.ask(release)
	same(t, "the delayed release", code, 0)
	same(t, "allocations", s.stats().Allocations, 1)

	// The second one's tombstone takes the place of the first one's and outlives its time.
	c.sendTo("203.0.113.5:5000", "x")
	second := c.message(stun.Refresh, stun.Request, lifetimeOf(0))
	c.ask(second)
	s.after(replayWindow - time.Second)
	s.tick()
	code, _ = c.ask(second)
	same(t, "the second release again", code, 0)
	s.after(time.Second)
	s.tick()
	code, _ = c.ask(second)
	same(t, "and at its end", code, 437)
}

func TestStreamsAndUnconfirmedAllocationsLeaveNoTombstone(t *testing.T) {
	s := newServer(t, setup{})
	for _, c := range []*client{s.stream("198.51.100.1:7000", 9), s.client("198.51.100.1:7001")} {
		c.allocate()
		if c.src.Stream != 0 {
			c.sendTo("203.0.113.5:5000", "x")
		}
		b := c.message(stun.Refresh, stun.Request, lifetimeOf(0))
		code, _ := c.ask(b)
		same(t, "release", code, 0)
		code, _ = c.ask(b)
		same(t, "again", code, 437)
	}
	same(t, "busy", s.cores[0].Busy(), false)
	same(t, "streams closed", len(s.ports[0].streams), 0)
}

func TestTombstonesAreBounded(t *testing.T) {
	s := newServer(t, setup{})
	s.quiet = true
	var oldest *client
	var release []byte
	for k := range maxTombstones + 1 {
		c := s.client(fmt.Sprintf("198.51.%d.%d:7000", k>>8, k&0xFF)).allocate()
		c.sendTo("203.0.113.5:5000", "x")
		b := c.message(stun.Refresh, stun.Request, lifetimeOf(0))
		if c.ask(b); k == 0 {
			oldest, release = c, b
		}
	}
	s.check()
	same(t, "tombstones", len(s.cores[0].tombs), maxTombstones)
	code, _ := oldest.ask(release)
	same(t, "the oldest is forgotten", code, 437)
}

func TestIdempotentRequestsMayBeRepeated(t *testing.T) {
	s := newServer(t, setup{})
	c := s.client("198.51.100.1:7000").allocate()
	for _, b := range [][]byte{
		c.message(stun.ChannelBind, stun.Request, channelOf(0x4000), peerOf("203.0.113.5:5000")),
		c.message(stun.Refresh, stun.Request, lifetimeOf(900)),
		c.message(stun.CreatePermission, stun.Request, peerOf("203.0.113.6:5000")),
		c.message(stun.ChannelBind, stun.Request, channelOf(0x4000), peerOf("203.0.113.6:5000")),
	} {
		_, first := c.ask(b)
		a := string(first.Raw())
		_, again := c.ask(b)
		same(t, "the answer", string(again.Raw()), a)
	}
}
