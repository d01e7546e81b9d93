package turn

import (
	"net/netip"
	"time"
)

// Offload relays established flows below the core: the seam to what the kernel can do by itself. It is a cache. A Core offers a flow when
// a packet of it was relayed and its peer has answered; packets that the offload does not take come to the core as ever. Its
// methods are called from within the core's, must not call the core, and must not block.
type Offload interface {
	// OpenMeter makes the budget of an allocation, which all its flows and the core share. It reports false when there is no room.
	OpenMeter(now time.Time, m Meter) (meter uint32, ok bool)
	// Take takes one packet of size bytes out of a budget.
	Take(now time.Time, meter uint32, size int) bool
	// CloseMeter ends a budget that has no flow any more, and returns what is left of it.
	CloseMeter(now time.Time, meter uint32) Meter

	// Add begins to relay a flow. It reports false when there is no room.
	Add(f *Flow) (id uint32, ok bool)
	// Extend changes when a flow ends by itself.
	Extend(id uint32, until time.Time)
	// Usage reports what a flow has relayed so far.
	Usage(id uint32) Usage
	// Remove ends a flow, and returns what it has relayed. Nothing is relayed for it after Remove has returned.
	Remove(id uint32) Usage
	// Reset ends all flows and budgets of the shard.
	Reset(shard int)
}

// FlowKind is a direction, and what the packets look like on the client's side of the relay.
type FlowKind uint8

// The kinds.
const (
	FlowUnknown FlowKind = iota
	ChannelUp            // ChannelData to the peer
	SendUp               // Send indications to the peer
	ChannelDown          // ChannelData to the client
	DataDown             // Data indications to the client
)

// Up reports whether the packets go to the peer.
func (k FlowKind) Up() bool { return k == ChannelUp || k == SendUp }

// Flow is one direction between a client and one address of a peer.
type Flow struct {
	Kind    FlowKind
	Shard   int
	Client  netip.AddrPort // the 5-tuple
	Server  netip.AddrPort
	Relayed netip.AddrPort // in the form that packets carry: local, but public between two clients of this server
	Named   netip.AddrPort // the peer's address as the client's messages have it
	Peer    netip.AddrPort // the same as packets carry it
	Channel uint16         // ChannelUp, ChannelDown
	// Hairpin: the peer is another client of this server. The flow is one half of the way: its packets come from, or go to, a flow
	// whose Relayed and Peer are this one's Peer and Relayed, perhaps of another shard, if both have the same Prefix.
	Hairpin bool
	Prefix  int       // what Policy.ClientPrefix says of the sender
	Meter   uint32    // whose budget pays
	Until   time.Time // when the flow ends, unless it is extended
}

// Meter is a budget: packets and bytes for each second, 0 for no limit, with a burst of one second. The times are when each is full again.
type Meter struct {
	Shard                            int
	PacketsPerSecond, BytesPerSecond int
	PacketsFull, BytesFull           time.Time
}

// Usage is what a flow has relayed since it was added.
type Usage struct {
	Packets, Bytes uint64    // bytes of payload
	Last           time.Time // when, to some milliseconds; of no meaning without packets
}

// flowIdle is how long a flow without packets is kept. Its first packet after that makes it again.
const flowIdle = 60 * time.Second

// flowKey is what a flow is known by.
type flowKey struct {
	peer peerKey // as the client names it
	way  uint8
}

// way tells flows of one peer apart. There is one way down: data comes by the channel or by an indication, never by both.
func (k FlowKind) way() uint8 {
	if k == ChannelUp || k == SendUp {
		return uint8(k)
	}
	return uint8(ChannelDown)
}

// offloaded is a flow that the offload relays. A free entry has no kind.
type offloaded struct {
	kind       FlowKind
	hairpin    bool
	id         uint32 // the offload's
	allocation uint32
	next       uint32 // of the allocation
	permission uint32
	channel    uint32 // none: an indication
	peer       netip.AddrPort
	packets    uint64 // that have been counted
	bytes      uint64
	until      time.Duration // as the offload knows it
	active     time.Duration // when a packet was last seen
}

// take takes one packet out of the allocation's budget. While the offload relays for it, the budget is there.
func (c *Core) take(a *allocation, size int) bool {
	if a.firstFlow != none {
		return c.cfg.Offload.Take(c.clock, a.meter, size)
	}
	limits := &c.rules.Limits
	return a.packets.take(c.now, 1, limits.PacketsPerSecond) && a.bytes.take(c.now, size, limits.BytesPerSecond)
}

// offer gives a flow to the offload, when a packet of it has just been relayed. way is what is known of it: Kind, Relayed, Named, Peer, Hairpin and
// Prefix; perm and ch are what it leads through.
func (c *Core) offer(i, perm, ch uint32, f Flow) {
	a := &c.allocs[i]
	if c.cfg.Offload == nil || c.offloadFull || a.source.Stream != 0 || !c.perms[perm].answered || c.now >= c.perms[perm].expires {
		return
	}
	if c.rules.Gate != nil && a.user == nil && c.perms[perm].openPort != f.Named.Port() { // what follows must be looked at
		return
	}
	if len(c.traces.sessions) > 0 && c.traces.of(a.id) != nil { // indications are traced
		return
	}
	if a.source.Client.Addr().IsLinkLocalUnicast() || f.Peer.Addr().IsLinkLocalUnicast() { // an address of one interface only
		return
	}
	key := flowKey{peerKey{f.Named.Addr().As16(), i, f.Named.Port()}, f.Kind.way()}
	if at, ok := c.flowIndex[key]; ok {
		x := &c.flows[at]
		if x.kind == f.Kind && x.channel == ch && x.permission == perm {
			return // it passed this packet on
		}
		c.dropFlow(at)
	}
	if a.firstFlow == none {
		limits := &c.rules.Limits
		m, ok := c.cfg.Offload.OpenMeter(c.clock, Meter{
			c.cfg.Shard, limits.PacketsPerSecond, limits.BytesPerSecond, c.epoch.Add(a.packets.at), c.epoch.Add(a.bytes.at),
		})
		if !ok {
			c.offloadFull = true
			return
		}
		a.meter = m
	}
	x := offloaded{
		kind: f.Kind, hairpin: f.Hairpin, allocation: i, next: a.firstFlow, permission: perm, channel: ch, peer: f.Named, active: c.now,
	}
	x.until = c.flowUntil(&x)
	whole := f // f itself would be put on the heap for every packet
	whole.Shard, whole.Client, whole.Server, whole.Meter, whole.Until = c.cfg.Shard, a.source.Client, a.source.Server, a.meter, c.epoch.Add(x.until)
	if ch != none {
		whole.Channel = c.chans[ch].number
	}
	var ok bool
	if x.id, ok = c.cfg.Offload.Add(&whole); !ok {
		c.offloadFull = true
		if a.firstFlow == none {
			c.closeMeter(a)
		}
		return
	}
	var at uint32
	if n := len(c.freeFlows); n > 0 {
		at = c.freeFlows[n-1]
		c.freeFlows = c.freeFlows[:n-1]
		c.flows[at] = x
	} else {
		at = uint32(len(c.flows))
		c.flows = append(c.flows, x)
	}
	a.firstFlow = at
	if c.flowIndex == nil {
		c.flowIndex = make(map[flowKey]uint32)
	}
	c.flowIndex[key] = at
}

// flowUntil is when a flow must end unless the client refreshes what it leads through.
func (c *Core) flowUntil(x *offloaded) time.Duration {
	t := min(c.allocs[x.allocation].expires, c.perms[x.permission].expires)
	if x.channel != none {
		t = min(t, c.chans[x.channel].expires)
	}
	return t
}

// closeMeter takes the budget back.
func (c *Core) closeMeter(a *allocation) {
	m := c.cfg.Offload.CloseMeter(c.clock, a.meter)
	a.packets.at, a.bytes.at = m.PacketsFull.Sub(c.epoch), m.BytesFull.Sub(c.epoch)
}

// dropFlow ends a flow, before what it leads through goes.
func (c *Core) dropFlow(at uint32) {
	x := &c.flows[at]
	a := &c.allocs[x.allocation]
	c.collect(x, c.cfg.Offload.Remove(x.id))
	for p := &a.firstFlow; *p != none; p = &c.flows[*p].next {
		if *p == at {
			*p = x.next
			break
		}
	}
	delete(c.flowIndex, flowKey{peerKey{x.peer.Addr().As16(), x.allocation, x.peer.Port()}, x.kind.way()})
	*x = offloaded{}
	c.freeFlows = append(c.freeFlows, at)
	if a.firstFlow == none {
		c.closeMeter(a)
	}
}

// dropFlows ends the flows of an allocation that lead through the permission or the channel; none for either means any.
func (c *Core) dropFlows(i, perm, ch uint32) {
	if c.cfg.Offload == nil {
		return
	}
	for at := c.allocs[i].firstFlow; at != none; {
		x := &c.flows[at]
		next := x.next
		if (perm == none || x.permission == perm) && (ch == none || x.channel == ch) {
			c.dropFlow(at)
		}
		at = next
	}
}

// judgeFlows ends the flows of an allocation that the new rules may refuse, before anything else is judged by them: what they still allow comes
// back with its next packet. Routes change often where a routing protocol runs, so the others stay; whose permission or channel goes, goes
// with it.
func (c *Core) judgeFlows(i uint32, old *Rules) {
	limits := &c.rules.Limits
	all := limits.PacketsPerSecond != old.Limits.PacketsPerSecond || limits.BytesPerSecond != old.Limits.BytesPerSecond || // budgets were made of them
		c.rules.Gate != nil && old.Gate == nil
	for at := c.allocs[i].firstFlow; at != none; {
		x := &c.flows[at]
		next := x.next
		if all || x.hairpin || x.kind == SendUp && !c.rules.Policy.JudgePort(x.peer).Allowed {
			c.dropFlow(at)
		}
		at = next
	}
}

// dropFlowFrom ends the way down from a peer: a new channel changes what its data look like.
func (c *Core) dropFlowFrom(i uint32, peer netip.AddrPort) {
	if at, ok := c.flowIndex[flowKey{peerKey{peer.Addr().As16(), i, peer.Port()}, ChannelDown.way()}]; ok {
		c.dropFlow(at)
	}
}

// collect counts what a flow has relayed since the last time, as if the packets had come to the core.
func (c *Core) collect(x *offloaded, u Usage) {
	packets, bytes := u.Packets-x.packets, u.Bytes-x.bytes
	x.packets, x.bytes = u.Packets, u.Bytes
	if packets == 0 {
		return
	}
	last := u.Last.Sub(c.epoch)
	x.active = max(x.active, last)
	a, d := &c.allocs[x.allocation], RelayedToData
	switch {
	case x.kind.Up() && x.hairpin:
		d = RelayedHairpin
	case x.kind == ChannelUp:
		d = RelayedChannel
	case x.kind == SendUp:
		d = RelayedSend
	case x.kind == ChannelDown:
		d = RelayedToChannel
	}
	c.stats.Read += packets
	c.stats.Packets[d] += packets
	c.stats.Offloaded += packets
	if !x.kind.Up() {
		a.packetsDown += packets
		a.bytesDown += bytes
		c.stats.BytesToClients += bytes
		return
	}
	a.packetsUp += packets
	a.bytesUp += bytes
	a.lastPeer = x.peer
	c.stats.BytesToPeers += bytes
	if a.dialect == DialectModern { // refreshed by requests only
		return
	}
	p := &c.perms[x.permission] // §8, §9.2, §10.7
	p.expires = max(p.expires, last+PermissionLifetime)
	if x.channel != none {
		ch := &c.chans[x.channel]
		ch.expires = max(ch.expires, last+ChannelLifetime)
	}
}

// sweepFlows counts what all flows have relayed, lets those live longer whose client has earned it, and drops idle ones.
func (c *Core) sweepFlows() {
	c.offloadFull = false
	for at := range c.flows {
		x := &c.flows[at]
		if x.kind == FlowUnknown {
			continue
		}
		c.collect(x, c.cfg.Offload.Usage(x.id))
		if c.now >= x.active+flowIdle {
			c.dropFlow(uint32(at))
			continue
		}
		if t := c.flowUntil(x); t != x.until {
			x.until = t
			c.cfg.Offload.Extend(x.id, c.epoch.Add(t))
		}
	}
}

// collectFlows makes the counters those of this moment.
func (c *Core) collectFlows() {
	for at := range c.flows {
		if x := &c.flows[at]; x.kind != FlowUnknown {
			c.collect(x, c.cfg.Offload.Usage(x.id))
		}
	}
}
