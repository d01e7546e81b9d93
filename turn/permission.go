package turn

import (
	"net/netip"
	"slices"

	"github.com/stilenet/stile/stun"
)

// sameFamily reports whether a relayed address can reach the peer: same family, and no IPv4 address in IPv6 clothes.
func sameFamily(a *allocation, peer netip.Addr) bool {
	return peer.Is4() == a.relayed.Addr().Is4() && !peer.Is4In6() && peer.Zone() == ""
}

// permissionOf finds the permission of a peer IP, expired or not.
func (c *Core) permissionOf(i uint32, peer netip.Addr) (uint32, bool) {
	p, ok := c.permIndex[permKey{peer.As16(), i}]
	return p, ok
}

// permit installs or refreshes the permission of a peer IP that the policy has been asked about (§8).
// It reports false when the allocation has all it may have.
func (c *Core) permit(i uint32, peer netip.Addr) (uint32, bool) {
	a := &c.allocs[i]
	p, ok := c.permissionOf(i, peer)
	if ok {
		perm := &c.perms[p]
		if c.now >= perm.expires { // a new beginning: whether the peer still answers is to be seen
			perm.answered = false
			c.dropFlows(i, p, none)
			c.audit(a, peer)
		}
		perm.expires = c.now + PermissionLifetime
		return p, true
	}
	if !c.roomForPermissions(i, peer) {
		return none, false
	}
	if n := len(c.freePerms); n > 0 {
		p = c.freePerms[n-1]
		c.freePerms = c.freePerms[:n-1]
	} else {
		c.perms = append(c.perms, permission{})
		p = uint32(len(c.perms) - 1)
	}
	c.perms[p] = permission{
		addr: peer, allocation: i, next: a.firstPerm, firstGate: none, expires: c.now + PermissionLifetime, since: c.now,
		ownHost: c.ownHost(peer),
	}
	a.firstPerm = p
	a.nperms++
	a.peers++
	c.permIndex[permKey{peer.As16(), i}] = p
	c.audit(a, peer)
	return p, true
}

// audit reports a new peer of an allocation.
func (c *Core) audit(a *allocation, peer netip.Addr) {
	c.events = append(c.events, Event{Kind: EventPeer, At: c.clock, Session: c.session(a), Peer: netip.AddrPortFrom(peer, 0)})
}

// roomForPermissions reports whether the allocation may have permissions for all these peers, after it has made room as the next
// Tick would.
func (c *Core) roomForPermissions(i uint32, peers ...netip.Addr) bool {
	a, limit := &c.allocs[i], c.rules.Limits.Permissions
	for reaped := false; ; reaped = true {
		fresh := 0
		for _, peer := range peers {
			if _, ok := c.permissionOf(i, peer); !ok {
				fresh++
			}
		}
		if fresh == 0 || a.nperms+fresh <= limit {
			return true
		}
		if reaped {
			return false
		}
		c.reap(i, true) // perhaps one of the peers as well
	}
}

// reap removes the channels of an allocation that are over, then the permissions that are, and that no channel leads through. Those with an open
// gate stay for a while, unless the room is needed.
func (c *Core) reap(i uint32, needed bool) {
	a := &c.allocs[i]
	for ch := a.firstChan; ch != none; {
		next := c.chans[ch].next
		if c.channelOver(a, ch) {
			c.dropChannel(i, ch)
		}
		ch = next
	}
	for p := a.firstPerm; p != none; {
		next := c.perms[p].next
		if c.now >= c.perms[p].expires && !c.permissionInUse(a, p) && (needed || !c.gatesOpen(p)) {
			c.dropPermission(i, p)
		}
		p = next
	}
}

// permissionInUse reports whether a channel of the allocation leads through the permission.
func (c *Core) permissionInUse(a *allocation, p uint32) bool {
	for ch := a.firstChan; ch != none; ch = c.chans[ch].next {
		if c.chans[ch].permission == p {
			return true
		}
	}
	return false
}

// dropPermission removes a permission and the channels that lead through it.
func (c *Core) dropPermission(i, p uint32) {
	a := &c.allocs[i]
	c.dropFlows(i, p, none)
	for ch := a.firstChan; ch != none; {
		next := c.chans[ch].next
		if c.chans[ch].permission == p {
			c.dropChannel(i, ch)
		}
		ch = next
	}
	for at := &a.firstPerm; *at != none; at = &c.perms[*at].next {
		if *at == p {
			*at = c.perms[p].next
			break
		}
	}
	for c.perms[p].firstGate != none {
		c.unlinkGate(p, c.perms[p].firstGate)
	}
	delete(c.permIndex, permKey{c.perms[p].addr.As16(), i})
	c.perms[p] = permission{}
	c.freePerms = append(c.freePerms, p)
	a.nperms--
}

// ownHost reports whether the address is one of our relay addresses, public or local.
func (c *Core) ownHost(a netip.Addr) bool {
	for _, r := range c.cfg.Relays {
		if a == r.Public || a == r.Local {
			return true
		}
	}
	return false
}

// createPermission handles the request of RFC 8656 §10.2, which draft-08 does not have.
func (c *Core) createPermission(i uint32, a *allocation, m stun.Message, r *reply) {
	if a.dialect == DialectUnknown {
		a.dialect = DialectModern
	}
	var peers [maxPeersPerPerm]netip.Addr
	n := 0
	for it := m.Attrs(); it.Next(); {
		if it.Type != stun.AttrXORPeerAddress {
			continue
		}
		peer, ok := m.XORAddress(it.Value)
		if !ok {
			r.fail(stun.CodeBadRequest)
			return
		}
		if !sameFamily(a, peer.Addr()) {
			r.fail(stun.CodePeerFamilyMismatch)
			return
		}
		if v := c.rules.Policy.JudgePeer(peer.Addr()); !v.Allowed {
			c.refused(v.Rule, a.source.Client, peer, a)
			r.fail(stun.CodeForbidden)
			return
		}
		if slices.Contains(peers[:n], peer.Addr()) {
			continue
		}
		if n == len(peers) {
			r.fail(stun.CodeInsufficientPorts)
			return
		}
		peers[n] = peer.Addr()
		n++
	}
	if n == 0 {
		r.fail(stun.CodeBadRequest)
		return
	}
	if !c.confirm(i) {
		r.session = none
		r.fail(stun.CodeQuotaReached)
		return
	}
	if !c.roomForPermissions(i, peers[:n]...) { // all or none
		r.fail(stun.CodeInsufficientPorts)
		return
	}
	for _, peer := range peers[:n] {
		c.permit(i, peer)
	}
	r.succeed()
}
