package turn

import (
	"fmt"
	"testing"
	"time"

	"github.com/stilenet/stile/stun"
)

func TestLifetimesAreClamped(t *testing.T) {
	for asked, given := range map[int]uint32{-1: 600, 0: 600, 1: 600, 599: 600, 601: 601, 3600: 3600, 3601: 3600, 1<<32 - 1: 3600} {
		for _, method := range []stun.Method{stun.Allocate, stun.Refresh} {
			if asked == 0 && method == stun.Refresh {
				continue // releases
			}
			c := newServer(t, setup{}).client("198.51.100.1:7000")
			if method == stun.Refresh {
				c.allocate()
			}
			attrs := []attr{udp}
			if asked >= 0 {
				attrs = append(attrs, lifetimeOf(uint32(asked)))
			}
			code, answer := c.ask(c.message(method, stun.Request, attrs...))
			v, _ := answer.Uint32(stun.AttrLifetime)
			if code != 0 || v != given {
				t.Errorf("method %d: asked for %d: %d, %d s, want %d s", method, asked, code, v, given)
			}
			c.sendTo("203.0.113.5:5000", "x")
			c.after(time.Duration(given)*time.Second - PermissionLifetime)
			c.sendTo("203.0.113.5:5000", "x")
			c.after(PermissionLifetime - 1)
			same(t, "a nanosecond before the end", c.hears("203.0.113.5:5000"), "data")
			c.after(1)
			same(t, "at the end", c.hears("203.0.113.5:5000"), "")
		}
	}
}

func TestAnAllocationEndsExactlyAndForEveryMessage(t *testing.T) {
	for name, do := range map[string]func(c *client) (dead bool){
		"Refresh":          func(c *client) bool { return c.request(stun.Refresh) == 437 },
		"ChannelBind":      func(c *client) bool { return c.bind(0x4000, "203.0.113.5:5000") == 437 },
		"CreatePermission": func(c *client) bool { return c.request(stun.CreatePermission, peerOf("203.0.113.5:5000")) == 437 },
		"Send":             func(c *client) bool { return len(c.sendTo("203.0.113.5:5000", "x")) == 0 },
		"a new Allocate":   func(c *client) bool { return c.request(stun.Allocate, udp) == 0 },
		"the list":         func(c *client) bool { _, ok := c.session(); return !ok },
		"Kill":             func(c *client) bool { return !c.cores[0].Kill(c.now, c.cores[0].lastID) },
		"Tick":             func(c *client) bool { c.tick(); return c.stats().Allocations == 0 },
	} {
		for _, d := range []time.Duration{DefaultLifetime - 1, DefaultLifetime} {
			c := newServer(t, setup{}).client("198.51.100.1:7000").allocate()
			c.after(d)
			if dead := do(c); dead != (d == DefaultLifetime) {
				t.Errorf("%s after %v: dead is %v", name, d, dead)
			}
			c.check()
		}
	}
}

func TestDataDoesNotRefreshAnAllocation(t *testing.T) {
	c := newServer(t, setup{}).client("198.51.100.1:7000").allocate()
	c.bind(0x4000, "203.0.113.5:5000")
	for range 599 {
		c.after(time.Second)
		c.channel(0x4000, "x")
		c.sendTo("203.0.113.5:5000", "x")
		c.hears("203.0.113.5:5000")
		c.tick()
	}
	same(t, "allocations", c.stats().Allocations, 1)
	c.after(time.Second)
	c.tick()
	same(t, "allocations at the end", c.stats().Allocations, 0)
	same(t, "reason", fmt.Sprint(c.ended()), "[expired]")
}

func TestExpiredPermissionDropsThePeer(t *testing.T) {
	const peer = "203.0.113.5:5000"
	for name, refresh := range map[string]func(c *client){
		"Send":             func(c *client) { c.sendTo(peer, "x") },
		"Send, no data":    func(c *client) { c.give(c.message(stun.Send, stun.Indication, peerOf("203.0.113.5:0"))) },
		"ChannelBind":      func(c *client) { c.bind(0x4000, peer) },
		"ChannelData":      func(c *client) { c.bind(0x4000, peer); c.channel(0x4000, "x") },
		"CreatePermission": func(c *client) { c.request(stun.CreatePermission, peerOf(peer)) },
	} {
		for _, ticks := range []bool{true, false} {
			c := newServer(t, setup{}).client("198.51.100.1:7000").allocate()
			refresh(c)
			c.after(PermissionLifetime / 2)
			refresh(c) // a second time
			c.after(PermissionLifetime - 1)
			if ticks {
				c.tick()
			}
			if c.hears(peer) == "" {
				t.Errorf("%s: dead a nanosecond before the end", name)
			}
			c.after(1) // what the peer sent has not refreshed it
			if ticks {
				c.tick()
			}
			c.expect(DropPeerStranger, func() []Output { return c.peer(c.relayed, peer, []byte("x")) })
		}
	}
}

func TestChannelOutlivesItsPermission(t *testing.T) {
	const peer = "203.0.113.5:5000"
	for _, dialect := range []Dialect{DialectLegacy, DialectModern} {
		c := newServer(t, setup{}).client("198.51.100.1:7000")
		if c.allocate(lifetimeOf(3600)); dialect == DialectModern {
			c = c.server.client("198.51.100.1:7001").allocate(lifetimeOf(3600), familyOf(1))
		}
		c.bind(0x4000, peer)
		c.after(PermissionLifetime)
		c.tick()
		same(t, "the peer", c.hears(peer), "")
		c.after(ChannelLifetime - PermissionLifetime - 1)
		c.tick()
		same(t, "ChannelData", toPeer(c.channel(0x4000, "x")), "2->"+peer+" x")
		if dialect == DialectModern {
			same(t, "modern: ChannelData opens nothing", c.hears(peer), "")
			c.after(1)
			c.expect(DropChannel, func() []Output { return c.channel(0x4000, "x") })
			continue
		}
		same(t, "legacy: ChannelData opens the permission", c.hears(peer), "0x4000")
		c.after(ChannelLifetime - 1)
		same(t, "legacy: ChannelData refreshes the channel", toPeer(c.channel(0x4000, "x")), "2->"+peer+" x")
		c.after(ChannelLifetime)
		c.expect(DropChannel, func() []Output { return c.channel(0x4000, "x") })
	}
}

func TestChannelNumberAndAddressBelongToEachOther(t *testing.T) {
	const a, b = "203.0.113.5:5000", "203.0.113.5:5001"
	for _, modern := range []bool{false, true} {
		s := newServer(t, setup{})
		c := s.client("198.51.100.1:7000").allocate(lifetimeOf(3600))
		if modern {
			c = s.client("198.51.100.1:7001").allocate(lifetimeOf(3600), familyOf(1))
		}
		same(t, "first", c.bind(0x4000, a), 0)
		same(t, "again", c.bind(0x4000, a), 0)
		same(t, "number taken", c.bind(0x4000, b), 400)
		same(t, "address taken", c.bind(0x4001, a), 400)
		same(t, "both new", c.bind(0x4001, b), 0)
		same(t, "crossed", c.bind(0x4001, a), 400)
		for _, bad := range []uint16{0, 1, 0x3FFF, 0xFFFF} {
			same(t, fmt.Sprintf("number %#x", bad), c.bind(bad, "203.0.113.6:5000"), 400)
		}
		same(t, "port 0", c.bind(0x4002, "203.0.113.6:0"), 400)
		same(t, "no number", c.request(stun.ChannelBind, peerOf(a)), 400)
		same(t, "no address", c.request(stun.ChannelBind, channelOf(0x4002)), 400)
		same(t, "a number of two bytes", c.request(stun.ChannelBind, value(stun.AttrChannelNumber, 0x40, 0x02), peerOf(a)), 400)
		c.after(ChannelLifetime - 1)
		same(t, "a nanosecond before the end", c.bind(0x4002, a), 400)
		c.after(1)
		same(t, "ChannelData at the end", len(c.channel(0x4000, "x")), 0)
		if modern { // RFC 8656 §12: five minutes more
			same(t, "modern: the same pair", c.bind(0x4001, b), 0)
			same(t, "modern: another address", c.bind(0x4000, "203.0.113.6:5000"), 400)
			c.after(modernReuseGuard - 1)
			same(t, "modern: a nanosecond before the guard's end", c.bind(0x4002, a), 400)
			c.after(1)
		}
		same(t, "free again", c.bind(0x4002, a), 0)
		same(t, "the number too", c.bind(0x4000, "203.0.113.7:5000"), 0)
	}
}

func TestReleasedPortRestsForTwoMinutes(t *testing.T) {
	s := newServer(t, setup{ports: PortRange{50000, 50007}})
	c := s.client("198.51.100.1:7000").allocate()
	c.sendTo("203.0.113.5:5000", "x")
	same(t, "release", c.request(stun.Refresh, lifetimeOf(0)), 0)
	same(t, "resting", s.ledger.Ports().Quarantined, 1)
	s.after(portQuarantine - 1)
	for k := range 7 {
		if d := s.client(fmt.Sprintf("198.51.100.2:%d", 7000+k)).allocate(); d.relayed == c.relayed {
			t.Errorf("%v is given again too early", c.relayed)
		}
		if s.ledger.Ports().Free < 2 { // below a quarter the oldest resting port is taken
			break
		}
	}
	same(t, "reused", s.ledger.Ports().Reused, 0)
	same(t, "resting a nanosecond before the end", s.ledger.Ports().Quarantined, 1)
	s.after(1)
	s.client("198.51.100.3:7000").allocate()
	same(t, "resting at the end", s.ledger.Ports().Quarantined, 0)
	same(t, "reused early", s.ledger.Ports().Reused, 0)
}

func TestWhenPortsAreShortTheOldestRestingOneIsReused(t *testing.T) {
	s := newServer(t, setup{ports: PortRange{50000, 50007}})
	var relayed []string
	for k := range 8 {
		c := s.client(fmt.Sprintf("198.51.100.1:%d", 7000+k)).allocate()
		c.sendTo("203.0.113.5:5000", "x")
		c.request(stun.Refresh, lifetimeOf(0))
		relayed = append(relayed, c.relayed.String())
		s.after(time.Second)
	}
	p := s.ledger.Ports()
	if p.Reused == 0 || p.Free+p.Quarantined != 8 {
		t.Errorf("%v: %+v", relayed, p)
	}
}

func TestAnUnconfirmedPortDoesNotRest(t *testing.T) {
	s := newServer(t, setup{})
	c := s.client("198.51.100.1:7000").allocate()
	c.request(stun.Refresh, lifetimeOf(0))
	same(t, "free", s.ledger.Ports().Free, 100)
	s.after(1)
	c.allocate()
	s.after(DefaultLifetime)
	s.tick()
	same(t, "free", s.ledger.Ports().Free, 100)
	same(t, "events", len(s.events), 0)
}

func TestReservation(t *testing.T) {
	for _, after := range []time.Duration{0, reservationHold - 1, reservationHold} {
		s := newServer(t, setup{shards: 2})
		a, b := s.client("198.51.100.1:7000").allocate(props(0xC0)), s.client("198.51.100.2:7000")
		b.shard = 1 // any 5-tuple, on any shard
		s.after(after)
		code := b.request(stun.Allocate, udp, value(stun.AttrReservationToken, a.token...))
		if after == reservationHold {
			same(t, "at the end of the hold", code, 508)
			same(t, "free", s.ledger.Ports().Free, 99)
			continue
		}
		same(t, "redeemed", code, 0)
		same(t, "the port", b.relayed.Port(), a.relayed.Port()+1)
		same(t, "redeemed twice", s.client("198.51.100.3:7000").request(stun.Allocate, udp, value(stun.AttrReservationToken, a.token...)), 508)
		b.sendTo("203.0.113.5:5000", "x")
		same(t, "works on the other shard", b.hears("203.0.113.5:5000"), "data")
		s.after(DefaultLifetime)
		s.tick()
		s.after(portQuarantine)
		s.client("198.51.100.4:7000").allocate()
		same(t, "free in the end", s.ledger.Ports().Free, 99)
	}
}

func TestReservationsAreBounded(t *testing.T) {
	s := newServer(t, setup{ports: PortRange{40000, 49999}, limits: func(l *Limits) { l.Unconfirmed = 4096 }})
	s.quiet = true
	for k := range maxReservations + 1 {
		code := s.client(fmt.Sprintf("198.51.100.1:%d", 1024+k)).request(stun.Allocate, udp, props(0xC0))
		if (code == 0) != (k < maxReservations) {
			t.Fatalf("reservation %d: %d", k, code)
		}
	}
	s.check()
}

func TestNoEvenPortMeans508(t *testing.T) {
	s := newServer(t, setup{ports: PortRange{50001, 50002}})
	same(t, "no pair fits", s.client("198.51.100.1:1").request(stun.Allocate, udp, props(0xC0)), 508)
	c := s.client("198.51.100.1:2").allocate(props(0x80))
	same(t, "the even one", c.relayed.Port(), 50002)
	c.bind(0x4000, "203.0.113.5:5000")
	same(t, "no even one left", s.client("198.51.100.1:3").request(stun.Allocate, udp, props(0x80)), 508)
	same(t, "an odd one", s.client("198.51.100.1:4").request(stun.Allocate, udp), 0)
}
