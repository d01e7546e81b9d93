package client

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/stilenet/stile/stun"
)

// peer is a transport address that the caller has written to, with the channel that may be bound to it (§10).
//
//	no number --ChannelAfter writes--> asking --success--> bound --refresh each 540 s, if used--> bound
//	    ^                                 |                  |
//	    +---- 900 s after the last bind --+---error, idle----+
//
// The number stays the peer's for 900 s after it was last asked for: until then the server knows it or guards it.
type peer struct {
	addr    netip.AddrPort
	written int       // since the peer was made
	used    time.Time // when the caller last wrote or the channel brought something

	channel uint16    // 0: none
	bound   bool      // data may go over it
	asking  bool      // a ChannelBind is under way
	awaited bool      // by a caller of Bind
	asked   time.Time // when the last one began
	barred  time.Time // no ChannelBind before
	due     time.Time // when to look at it again; zero with no channel
}

// peer finds or makes the entry of a peer. It is nil when every entry has a channel, which leaves indications.
func (c *core) peer(now time.Time, addr netip.AddrPort) *peer {
	p := c.peers[addr]
	if p == nil {
		if len(c.peerList) >= MaxPeers && !c.evictPeer() {
			return nil
		}
		p = &peer{addr: addr}
		c.peers[addr] = p
		c.peerList = append(c.peerList, p)
	}
	p.used = now
	p.written++
	return p
}

func (c *core) evictPeer() bool {
	victim := -1
	for i, p := range c.peerList {
		if p.channel == 0 && (victim < 0 || p.used.Before(c.peerList[victim].used)) {
			victim = i
		}
	}
	if victim < 0 {
		return false
	}
	delete(c.peers, c.peerList[victim].addr)
	c.peerList = append(c.peerList[:victim], c.peerList[victim+1:]...)
	return true
}

// wantsChannel reports whether p is busy enough, and there is a number for it.
func (c *core) wantsChannel(now time.Time, p *peer) bool {
	if p.bound || p.asking || c.p.channelAfter < 0 || p.written < c.p.channelAfter || now.Before(p.barred) {
		return false
	}
	return p.channel != 0 || len(c.channels) < maxChannels
}

// bind asks for a channel, or for the one that p has for another ten minutes.
func (c *core) bind(now time.Time, p *peer) {
	if p.channel == 0 {
		for c.channels[c.nextChan] != nil {
			c.nextChan = nextChannel(c.nextChan)
		}
		p.channel = c.nextChan
		c.channels[p.channel] = p
		c.nextChan = nextChannel(c.nextChan)
	}
	p.asking, p.asked, p.due = true, now, time.Time{}
	c.request(now, subject{method: stun.ChannelBind, peer: p})
}

// bindNow binds a channel to a peer that nothing was written to. An eventBound follows.
func (c *core) bindNow(now time.Time, to netip.AddrPort) error {
	if c.phase != allocated {
		return ErrAllocationLost
	}
	if err := c.reachable(to); err != nil {
		return err
	}
	p := c.peer(now, to)
	if p == nil || p.channel == 0 && len(c.channels) >= maxChannels {
		return ErrPermissions
	}
	p.awaited = true
	switch {
	case p.bound:
		c.tellBound(p, nil)
	case !p.asking:
		c.bind(now, p)
	}
	return nil
}

func (c *core) tellBound(p *peer, err error) {
	if p.awaited {
		p.awaited = false
		c.events = append(c.events, event{kind: eventBound, peer: p.addr, err: err})
	}
}

func nextChannel(n uint16) uint16 {
	if n == lastChannel {
		return firstChannel
	}
	return n + 1
}

// bound takes the success of ChannelBind, which installs the permission in every dialect.
func (c *core) bound(now time.Time, t *transaction) {
	p := t.peer
	p.asking, p.bound, p.asked = false, true, t.began
	c.tellBound(p, nil)
	p.due = t.began.Add(channelRenew)
	if p.due.Before(now) {
		p.due = now
	}
	c.arm(p.due)
	if perm := c.perms[p.addr.Addr()]; perm != nil && perm.opened.Before(t.began) && perm.state == permissionGranted {
		perm.opened = t.began
		if c.dialect == Modern && !perm.asking {
			perm.due = t.began.Add(permissionRenew)
		}
	}
}

// bindFailed leaves the peer with indications.
func (c *core) bindFailed(now time.Time, t *transaction, err error) {
	p := t.peer
	p.asking, p.bound = false, false
	c.tellBound(p, fmt.Errorf("client: %w", err))
	p.barred = now.Add(unboundFor)
	p.due = p.asked.Add(channelLife + channelGuard)
	c.arm(p.due)
}

// tickChannels renews the channels in use, stops using the others and gives their numbers back in time.
func (c *core) tickChannels(now time.Time) {
	for _, p := range c.peerList {
		if !due(p.due, now) {
			continue
		}
		switch {
		case p.bound && p.used.After(p.asked):
			c.bind(now, p)
		case p.bound:
			// Nothing went over it since it was bound. It may end; the reader knows the number until nobody else does.
			p.bound = false
			p.due = p.asked.Add(channelLife + channelGuard)
		default:
			delete(c.channels, p.channel)
			p.channel, p.due = 0, time.Time{}
		}
	}
}

// channelData takes a ChannelData message. It is taken as soon as the number was asked for (§10.5).
func (c *core) channelData(now time.Time, b []byte) (from netip.AddrPort, data []byte, drop Drop) {
	number, data, ok := parseChannelData(b)
	if !ok {
		return from, nil, DropMalformed
	}
	p := c.channels[number]
	if p == nil {
		return from, nil, DropChannel
	}
	p.used = now
	return p.addr, data, 0
}
