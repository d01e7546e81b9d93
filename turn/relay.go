package turn

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/stilenet/stile/stun"
)

// send handles a Send indication (§9.2). Whatever is wrong with it, nothing is answered.
func (c *Core) send(src *Source, m stun.Message, p Packet) {
	i, a := c.lookup(src)
	if a == nil {
		c.count(DropNoAllocation)
		return
	}
	c.trace(c.traces.of(a.id), false, m)
	if m.CheckFingerprint() == stun.FingerprintInvalid {
		c.count(DropFingerprint)
		return
	}
	at, size, value, kind := readSend(m)
	if kind == sendModern && a.user == nil && !c.rules.ModernWithoutCredentials {
		c.stats.ModernRefused++
		c.end(i, EndModern)
		c.count(DropAttributes)
		return
	}
	peer, ok := m.XORAddress(value)
	if !ok || kind == sendUnknown || kind == sendModern && m.Has(stun.AttrDontFragment) {
		c.count(DropAttributes)
		return
	}
	hasData := at != 0
	if hasData && peer.Port() == 0 || !hasData && a.dialect == DialectModern {
		c.count(DropAttributes)
		return
	}
	if !sameFamily(a, peer.Addr()) {
		c.count(DropPeerFamily)
		return
	}
	if hasData {
		if v := c.rules.Policy.JudgePort(peer); !v.Allowed {
			c.refused(v.Rule, a.source.Client, peer, a)
			c.count(DropPeerPort)
			return
		}
	}
	perm, ok := c.permissionOf(i, peer.Addr())
	live := ok && c.now < c.perms[perm].expires
	if a.dialect == DialectModern {
		if !live {
			c.count(DropNoPermission)
			return
		}
	} else {
		if !live { // a permission that lives was judged when it began, and again when the rules changed
			if v := c.rules.Policy.JudgePeer(peer.Addr()); !v.Allowed {
				c.refused(v.Rule, a.source.Client, peer, a)
				c.count(DropPeer)
				return
			}
			a.dialect = DialectLegacy // nobody else sends without a permission
		} else if !hasData && a.dialect == DialectUnknown {
			a.dialect = DialectLegacy
		}
		if !c.confirm(i) {
			c.count(DropQuota)
			return
		}
		if perm, ok = c.permit(i, peer.Addr()); !ok { // §9.2: with or without DATA
			c.count(DropTableFull)
			return
		}
	}
	if !hasData {
		c.count(PermissionOnly)
		return
	}
	c.toPeer(i, perm, peer, Packet{p.Buf, p.At + at, size}, RelayedSend, none)
}

// What readSend found besides what a Send has.
const (
	sendPlain   = iota
	sendModern  // an attribute that only the modern dialect has
	sendUnknown // an attribute that must be understood and is not
)

// readSend reads a Send indication in one walk, since it is a packet like any other: where the value of DATA lies, at 0 if there is
// none, and the value of PEER-ADDRESS, nil if there is none. The first attribute of each type counts.
func readSend(m stun.Message) (at, size int, peer []byte, kind int) {
	offset := stun.HeaderSize
	for it := m.Attrs(); it.Next(); {
		switch it.Type {
		case stun.AttrXORPeerAddress:
			if peer == nil {
				peer = it.Value
			}
		case stun.AttrData:
			if at == 0 {
				at, size = offset+4, len(it.Value)
			}
		case stun.AttrRequestedFamily, stun.AttrDontFragment, stun.AttrAdditionalFamily:
			kind = max(kind, sendModern)
		default:
			if it.Type.Required() && !known(it.Type) {
				kind = sendUnknown
			}
		}
		offset += 4 + (len(it.Value)+3)&^3
	}
	return at, size, peer, kind
}

// toPeer sends p to the peer from the relayed address, or hands it over to the allocation that has the peer's address.
// ch is the channel that it came by, or none.
func (c *Core) toPeer(i, perm uint32, peer netip.AddrPort, p Packet, d Disposition, ch uint32) {
	a, x := &c.allocs[i], &c.perms[perm]
	if p.Len > maxPayload {
		c.count(DropSize)
		return
	}
	if !c.take(a, p.Len) {
		c.count(DropRate)
		return
	}
	if !c.passes(i, perm, peer.Port(), true, p.bytes()) {
		c.refused(RulePayload, a.source.Client, peer, a)
		c.count(DropPayload)
		return
	}
	if x.ownHost {
		if public, ok := c.rules.Policy.OwnRelay(peer); ok && c.hairpin(i, public, p) {
			if c.cfg.Offload != nil {
				c.offer(i, perm, ch, Flow{Kind: upKind(ch), Relayed: a.relayed, Named: peer, Peer: public, Hairpin: true, Prefix: a.clientPrefix})
			}
			return
		}
		peer = c.localForm(peer)
	} else if !x.answered && !c.unanswered(x, p.Len, a.source.Client.Addr()) {
		c.count(DropUnanswered)
		return
	}
	a.packetsUp++
	a.bytesUp += uint64(p.Len)
	a.lastPeer = peer
	c.stats.BytesToPeers += uint64(p.Len)
	c.count(d)
	c.out = append(c.out, Output{Kind: ToPeer, Allocation: i, Peer: peer, Data: p.bytes()})
	if c.cfg.Offload != nil && !x.ownHost {
		c.offer(i, perm, ch, Flow{Kind: upKind(ch), Relayed: c.localForm(a.relayed), Named: peer, Peer: peer})
	}
}

func upKind(ch uint32) FlowKind {
	if ch == none {
		return SendUp
	}
	return ChannelUp
}

// unanswered takes a packet out of what a peer gets before it has answered. The budget is one for ten minutes: without an
// end, a client that keeps on trying would never reach a server that was down when it began.
func (c *Core) unanswered(x *permission, size int, client netip.Addr) bool {
	limits := &c.rules.Limits
	if limits.UnansweredPackets <= 0 && limits.UnansweredBytes <= 0 {
		return true
	}
	if c.now >= x.since+unansweredWindow {
		x.since, x.sent, x.sentBytes = c.now, 0, 0
	}
	if limits.UnansweredPackets > 0 && x.sent >= limits.UnansweredPackets ||
		limits.UnansweredBytes > 0 && x.sentBytes+size > limits.UnansweredBytes {
		return false
	}
	first := x.sent == 0
	if first && !c.ledger.silentPeerAllowed(c.clock, client, limits) {
		return false
	}
	if !c.ledger.unansweredAllowed(c.clock, x.addr, size) {
		if first {
			c.ledger.silentPeerAnswered(client, limits)
		}
		return false
	}
	x.sent++
	x.sentBytes += size
	return true
}

// localForm translates an address of this host from its public form to the one that the kernel knows.
func (c *Core) localForm(a netip.AddrPort) netip.AddrPort {
	for _, r := range c.cfg.Relays {
		if a.Addr() == r.Public {
			return netip.AddrPortFrom(r.Local, a.Port())
		}
	}
	return a
}

// nameOf is the form of a peer's address that the client of the allocation uses: for a program of this host the public one, unless it has a
// permission for the local one only.
func (c *Core) nameOf(i uint32, from netip.AddrPort) netip.AddrPort {
	public := c.publicForm(from)
	if public == from {
		return from
	}
	if _, ok := c.permissionOf(i, public.Addr()); ok {
		return public
	}
	if _, ok := c.permissionOf(i, from.Addr()); ok {
		return from
	}
	return public
}

// publicForm is the other way round.
func (c *Core) publicForm(a netip.AddrPort) netip.AddrPort {
	for i := range c.cfg.Relays {
		if r := &c.cfg.Relays[i]; r.Public != r.Local && a.Addr() == r.Local {
			return netip.AddrPortFrom(r.Public, a.Port())
		}
	}
	return a
}

// hairpin delivers to another allocation of this server, with our public address as the source. It reports false when
// nobody has the port and the policy opens this host: then another program may have it.
func (c *Core) hairpin(i uint32, to netip.AddrPort, p Packet) bool {
	a := &c.allocs[i]
	shard, _, ok := c.ledger.owner(to)
	if !ok {
		if c.rules.Policy.OwnHostOpen(to.Addr()) {
			return false
		}
		c.count(DropHairpin)
		return true
	}
	a.packetsUp++
	a.bytesUp += uint64(p.Len)
	a.lastPeer = to
	c.stats.BytesToPeers += uint64(p.Len)
	c.count(RelayedHairpin)
	h := Crossing{From: a.relayed, To: to, Prefix: a.clientPrefix}
	if shard == c.cfg.Shard {
		c.HairpinFrom(c.clock, h, p)
	} else {
		c.out = append(c.out, Output{Kind: ToShard, Shard: shard, Crossing: h, Data: p.bytes()})
	}
	return true
}

// HairpinFrom takes a datagram that another allocation of this server, perhaps of another shard, has sent to one of this
// shard.
func (c *Core) HairpinFrom(now time.Time, h Crossing, p Packet) {
	c.begin(now)
	c.stats.Read++
	shard, i, ok := c.ledger.owner(h.To)
	if !ok || shard != c.cfg.Shard || int(i) >= len(c.allocs) || c.allocs[i].id == 0 {
		c.count(DropPeerClosed)
		return
	}
	a := &c.allocs[i]
	if v := c.rules.Policy.JudgeHairpin(h.Prefix, a.clientPrefix); !v.Allowed {
		c.refused(v.Rule, a.source.Client, h.From, a)
		c.count(DropHairpin)
		return
	}
	c.fromPeer(i, h.From, p, &h)
}

// FromPeer takes a datagram that came to a relayed address (§9.3, §10.7). from is unmapped.
func (c *Core) FromPeer(now time.Time, allocation uint32, from netip.AddrPort, p Packet) {
	c.begin(now)
	c.stats.Read++
	c.fromPeer(allocation, c.nameOf(allocation, from), p, nil)
}

// fromPeer takes a datagram from a peer, whose address is in its public form. h is the way of one that another client sent.
func (c *Core) fromPeer(i uint32, from netip.AddrPort, p Packet, h *Crossing) {
	if int(i) >= len(c.allocs) {
		c.count(DropPeerClosed)
		return
	}
	a := &c.allocs[i]
	if a.id == 0 || c.now >= a.expires {
		c.count(DropPeerClosed)
		return
	}
	ip := from.Addr().As16()
	ch, bound := c.chanByPeer[peerKey{ip, i, from.Port()}]
	var perm uint32
	ok := bound
	if bound {
		perm = c.chans[ch].permission
		bound = c.now < c.chans[ch].expires
	} else {
		perm, ok = c.permIndex[permKey{ip, i}]
	}
	if !ok || c.now >= c.perms[perm].expires {
		c.count(DropPeerStranger)
		return
	}
	if !c.passes(i, perm, from.Port(), false, p.bytes()) {
		c.refused(RulePayload, a.source.Client, from, a)
		c.count(DropPeerPayload)
		return
	}
	if x := &c.perms[perm]; !x.answered {
		x.answered = true
		if !x.ownHost {
			c.ledger.answered(x.addr)
			if x.sent > 0 && c.now < x.since+unansweredWindow {
				c.ledger.silentPeerAnswered(a.source.Client.Addr(), &c.rules.Limits)
			}
		}
	}
	if !c.take(a, p.Len) {
		c.count(DropPeerRate)
		return
	}
	d, size, head := RelayedToData, p.Len, dataHeader(from)
	if bound {
		d, head = RelayedToChannel, channelHeader
	}
	whole := head + size
	if !bound || a.source.Stream != 0 {
		whole = head + (size+3)&^3
	}
	if whole > maxMessage || a.source.Stream == 0 && whole > maxPayload {
		c.count(DropPeerSize)
		return
	}
	if bound {
		p = c.asChannelData(c.chans[ch].number, a.source.Stream != 0, p)
	} else {
		p = c.asData(from, p)
	}
	a.packetsDown++
	a.bytesDown += uint64(size)
	c.stats.BytesToClients += uint64(size)
	c.count(d)
	c.out = append(c.out, Output{Kind: ToClient, Source: a.source, Data: p.bytes()})
	if c.cfg.Offload != nil {
		c.offerDown(i, perm, ch, bound, from, h)
	}
	if s := c.traces.of(a.id); s != nil && !bound {
		if m, err := stun.Parse(p.bytes()); err == nil {
			c.trace(s, true, m)
		}
	}
}

// offerDown offers the way from a peer to the client.
func (c *Core) offerDown(i, perm, ch uint32, bound bool, from netip.AddrPort, h *Crossing) {
	a := &c.allocs[i]
	f := Flow{Kind: ChannelDown, Relayed: c.localForm(a.relayed), Named: from, Peer: from}
	if !bound {
		f.Kind, ch = DataDown, none
	}
	switch {
	case h != nil:
		f.Relayed, f.Hairpin, f.Prefix = a.relayed, true, h.Prefix
	case c.perms[perm].ownHost: // another program of this host
		return
	}
	c.offer(i, perm, ch, f)
}

// maxMessage is the longest STUN message: its length field counts multiples of 4.
const maxMessage = stun.HeaderSize + 0xFFFC

// dataHeader is what a Data indication puts in front of the datagram of this peer, in bytes.
func dataHeader(from netip.AddrPort) int {
	if from.Addr().Is4() {
		return stun.HeaderSize + 4 + 8 + 4
	}
	return stun.HeaderSize + 4 + 20 + 4
}

// asChannelData puts a ChannelData header in front of the datagram, and on a stream padding behind it (§10.5).
func (c *Core) asChannelData(number uint16, stream bool, p Packet) Packet {
	size := p.Len
	p.At -= channelHeader
	p.Len += channelHeader
	h := p.Buf[p.At:]
	binary.BigEndian.PutUint16(h, number)
	binary.BigEndian.PutUint16(h[2:], uint16(size))
	if stream {
		p = pad(p)
	}
	return p
}

// asData makes a Data indication of the datagram where it lies (§9.3): PEER-ADDRESS, then DATA.
func (c *Core) asData(from netip.AddrPort, p Packet) Packet {
	size := p.Len
	head := dataHeader(from)
	start := p.At - head
	b := stun.Begin(p.Buf[start:start], stun.NewType(stun.Data, stun.Indication), c.newTransaction())
	b.XORAddress(stun.AttrXORPeerAddress, from)
	h := p.Buf[p.At-4:]
	binary.BigEndian.PutUint16(h, uint16(stun.AttrData))
	binary.BigEndian.PutUint16(h[2:], uint16(size))
	p.At, p.Len = start, p.Len+head
	p = pad(p)
	binary.BigEndian.PutUint16(p.Buf[p.At+2:], uint16(p.Len-stun.HeaderSize))
	return p
}

func pad(p Packet) Packet {
	for p.Len&3 != 0 {
		p.Buf[p.At+p.Len] = 0
		p.Len++
	}
	return p
}
