package turn

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/stilenet/stile/stun"
)

// modernReuseGuard is how long a channel number and its peer stay with each other after the binding ended, in the modern
// dialect (RFC 8656 §12); draft-08 frees both at once.
const modernReuseGuard = 300 * time.Second

// lastModernChannel is the last channel number of RFC 5766; RFC 8656 reserves those from 0x5000, which clients of the
// RFC before use.
const lastModernChannel = 0x7FFF

func (c *Core) reuseGuard(a *allocation) time.Duration {
	if a.dialect == DialectModern {
		return modernReuseGuard
	}
	return 0
}

// channelOver reports whether number and address of the channel are free again.
func (c *Core) channelOver(a *allocation, ch uint32) bool {
	return c.now >= c.chans[ch].expires+c.reuseGuard(a)
}

func numberKey(i uint32, number uint16) uint64 { return uint64(i)<<16 | uint64(number) }

// channelBind handles a ChannelBind request (§10.1, §10.2).
func (c *Core) channelBind(i uint32, a *allocation, m stun.Message, r *reply) {
	v, ok := m.Get(stun.AttrChannelNumber)
	peer, ok2 := m.GetXORAddress(stun.AttrXORPeerAddress)
	if !ok || len(v) != 4 || !ok2 || peer.Port() == 0 {
		r.fail(stun.CodeBadRequest)
		return
	}
	number := binary.BigEndian.Uint16(v)
	if number < FirstChannel || number > LastChannel || a.dialect == DialectModern && number > lastModernChannel {
		r.fail(stun.CodeBadRequest)
		return
	}
	if number > lastModernChannel && a.dialect == DialectUnknown {
		a.dialect = DialectLegacy
	}
	if !sameFamily(a, peer.Addr()) {
		r.fail(a.refusal(stun.CodePeerFamilyMismatch))
		return
	}
	policy := c.rules.Policy
	verdict := policy.JudgePeer(peer.Addr())
	if verdict.Allowed {
		verdict = policy.JudgePort(peer)
	}
	if !verdict.Allowed {
		c.refused(verdict.Rule, a.source.Client, peer, a)
		r.fail(a.refusal(stun.CodeForbidden))
		return
	}
	key := peerKey{peer.Addr().As16(), i, peer.Port()}
	ch, bound := c.chanByNumber[numberKey(i, number)]
	other, taken := c.chanByPeer[key]
	if bound && c.channelOver(a, ch) {
		c.dropChannel(i, ch)
		bound = false
		other, taken = c.chanByPeer[key]
	}
	if taken && c.channelOver(a, other) {
		c.dropChannel(i, other)
		taken = false
	}
	if bound != taken || bound && ch != other {
		r.fail(stun.CodeBadRequest) // §10.2: one number, one address
		return
	}
	if !c.confirm(i) {
		r.session = none
		r.fail(stun.CodeQuotaReached)
		return
	}
	if !bound && a.nchans >= c.rules.Limits.Channels {
		if c.reap(i, true); a.nchans >= c.rules.Limits.Channels {
			r.fail(stun.CodeInsufficientPorts)
			return
		}
	}
	p, ok := c.permit(i, peer.Addr())
	if !ok {
		r.fail(stun.CodeInsufficientPorts)
		return
	}
	if !bound || c.now >= c.chans[ch].expires {
		c.dropFlowFrom(i, peer)
	}
	if !bound {
		ch = c.bind(i, number, peer, p)
	}
	c.chans[ch].expires = c.now + ChannelLifetime
	r.succeed()
}

// refusal is the code that a dialect knows for what draft-08 has no code for.
func (a *allocation) refusal(modern int) int {
	if a.dialect == DialectModern {
		return modern
	}
	return stun.CodeBadRequest
}

func (c *Core) bind(i uint32, number uint16, peer netip.AddrPort, p uint32) (ch uint32) {
	a := &c.allocs[i]
	if n := len(c.freeChans); n > 0 {
		ch = c.freeChans[n-1]
		c.freeChans = c.freeChans[:n-1]
	} else {
		c.chans = append(c.chans, channel{})
		ch = uint32(len(c.chans) - 1)
	}
	c.chans[ch] = channel{peer: peer, allocation: i, next: a.firstChan, permission: p, number: number}
	a.firstChan = ch
	a.nchans++
	c.chanByNumber[numberKey(i, number)] = ch
	c.chanByPeer[peerKey{peer.Addr().As16(), i, peer.Port()}] = ch
	return ch
}

func (c *Core) dropChannel(i, ch uint32) {
	a := &c.allocs[i]
	c.dropFlows(i, none, ch)
	for at := &a.firstChan; *at != none; at = &c.chans[*at].next {
		if *at == ch {
			*at = c.chans[ch].next
			break
		}
	}
	x := &c.chans[ch]
	delete(c.chanByNumber, numberKey(i, x.number))
	delete(c.chanByPeer, peerKey{x.peer.Addr().As16(), i, x.peer.Port()})
	*x = channel{}
	c.freeChans = append(c.freeChans, ch)
	a.nchans--
}

// fromChannel relays ChannelData to the peer (§10.6, §10.7). In the modern dialect a channel whose permission ended still
// carries data to the peer (RFC 8656 §12.6 asks for the binding only), but nothing back.
func (c *Core) fromChannel(src *Source, p Packet) {
	number, data, ok := ChannelData(p.bytes())
	if !ok {
		c.count(DropMalformed)
		return
	}
	i, a := c.lookup(src)
	if a == nil {
		c.count(DropNoAllocation)
		return
	}
	ch, ok := c.chanByNumber[numberKey(i, number)]
	if !ok || c.now >= c.chans[ch].expires {
		c.count(DropChannel)
		return
	}
	x := &c.chans[ch]
	perm := &c.perms[x.permission]
	if a.dialect != DialectModern { // §10.7, §8: refreshed by what the client sends
		x.expires = c.now + ChannelLifetime
		if c.now >= perm.expires {
			c.permit(i, perm.addr)
		}
		perm.expires = c.now + PermissionLifetime
	}
	c.toPeer(i, x.permission, x.peer, Packet{p.Buf, p.At + channelHeader, len(data)}, RelayedChannel, ch)
}
