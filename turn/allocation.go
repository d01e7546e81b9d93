package turn

import (
	"errors"
	"net/netip"
	"time"

	"github.com/stilenet/stile/stun"
)

// ErrPortTaken is what an Opener returns when another program has the port.
var ErrPortTaken = errors.New("turn: another program has the port")

// allocate handles an Allocate request (§6.2). The numbers are those of the section's checks.
func (c *Core) allocate(src *Source, m stun.Message, r *reply) {
	key := src.key()
	// 2. The 5-tuple is in use: a retransmission gets the same success, with what is left of the lifetime. One whose allocation was
	// released a moment ago has had its answer in request.
	//
	// Deviation: a 5-tuple that was in use within the last two minutes is free, as it is since draft-10. A client that keeps its
	// port over a restart would be locked out for those minutes.
	if i, ok := c.tuples[key]; ok {
		a := &c.allocs[i]
		if src.Stream == 0 && a.tx == m.TransactionID() && sameUser(a.user, r.user) {
			c.allocateSuccess(r, a.relayed, a.expires-c.now, a.token, a.hasToken)
			return
		}
		r.fail(stun.CodeAllocationMismatch)
		return
	}
	// 3. Only UDP is relayed.
	if code := transport(m); code != 0 {
		r.fail(code)
		return
	}
	life, ok := lifetime(m)
	if !ok {
		r.fail(stun.CodeBadRequest)
		return
	}
	// 4. The port's properties.
	var p ports
	var dialect Dialect
	if v, ok := m.Get(stun.AttrEvenPort); ok {
		var code int
		if p, dialect, code = parsePorts(v); code != 0 {
			r.fail(code)
			return
		}
	}
	switch {
	case speaksModern(m):
		dialect = DialectModern
	case m.Has(stun.AttrBandwidth):
		dialect = DialectLegacy
	case r.user != nil && dialect == DialectUnknown:
		dialect = DialectModern
	}
	ipv6, explicit, code := wantedFamily(src, m, dialect, r.user != nil)
	if code == 0 && m.Has(stun.AttrAdditionalFamily) && p.reserve {
		code = stun.CodeBadRequest
	}
	if code != 0 {
		r.fail(code)
		return
	}
	w := want{client: src.Client.Addr(), ipv6: ipv6, ports: p}
	// 5. A port that an earlier Allocate reserved. REQUESTED-PROPS may be there too if it asks for nothing, as §6.1 and draft-09 have it.
	if v, ok := m.Get(stun.AttrReservationToken); ok {
		if len(v) != 8 || p.even || p.reserve {
			r.fail(stun.CodeBadRequest)
			return
		}
		w.token, w.redeem = [8]byte(v), true
	}
	if c.draining {
		r.fail(stun.CodeInsufficientPorts)
		return
	}
	if !c.hasFamily(ipv6) && !w.redeem {
		if explicit {
			r.fail(stun.CodeFamilyNotSupported)
			return
		}
		// Deviation: §6.2 wants the family of the server's address. A client that reaches this server by a family that it does
		// not relay in would get nothing at all, so it gets the other one and may refuse it (§6.3).
		w.ipv6 = !ipv6
	}
	// 6. The quota, and the port itself.
	//
	// Deviation: §6.2 would count by user name. Without credentials there is none, and with them many players share one.
	i, token, code := c.newAllocation(w, r.user != nil)
	if code != 0 {
		r.fail(code)
		return
	}
	a := &c.allocs[i]
	a.source, a.key = *src, key
	a.tx, a.token, a.hasToken = m.TransactionID(), token, p.reserve
	a.user, a.dialect = r.user, dialect
	a.started, a.expires = c.now, c.now+life
	a.clientPrefix = c.rules.Policy.ClientPrefix(src.Client.Addr())
	c.tuples[key] = i
	c.ledger.own(a.lease, c.cfg.Shard, i)
	r.session = i
	c.traceNew(r, a)
	if r.user != nil && !c.confirm(i) { // the credentials prove the address: the nonce went there
		r.session = none
		r.fail(stun.CodeQuotaReached)
		return
	}
	c.allocateSuccess(r, a.relayed, a.expires-c.now, a.token, a.hasToken)
}

// speaksModern reports whether the message has an attribute that only the modern dialect has.
func speaksModern(m stun.Message) bool {
	return m.Has(stun.AttrRequestedFamily) || m.Has(stun.AttrDontFragment) || m.Has(stun.AttrAdditionalFamily)
}

func sameUser(a, b *credential) bool {
	return a == nil && b == nil || a != nil && b != nil && a.name == b.name
}

// wantedFamily decides in which address family to relay: the one that the client names (RFC 8656 §7.2), else that of the server's
// address (§6.2), or for a client of RFC 8656 with credentials IPv4. explicit means that no other will do.
func wantedFamily(src *Source, m stun.Message, d Dialect, proven bool) (ipv6, explicit bool, code int) {
	v, named := m.Get(stun.AttrRequestedFamily)
	if w, ok := m.Get(stun.AttrAdditionalFamily); ok {
		if named || len(w) != 4 || w[0] != familyIPv6 || m.Has(stun.AttrReservationToken) {
			return false, false, stun.CodeBadRequest
		}
		return false, false, 0
	}
	if !named {
		return src.Server.Addr().Is6() && !(proven && d == DialectModern), false, 0
	}
	if len(v) != 4 || m.Has(stun.AttrReservationToken) {
		return false, false, stun.CodeBadRequest
	}
	switch v[0] {
	case familyIPv4:
		return false, true, 0
	case familyIPv6:
		return true, true, 0
	}
	return false, false, stun.CodeFamilyNotSupported
}

func (c *Core) hasFamily(ipv6 bool) bool {
	for _, r := range c.cfg.Relays {
		if r.Local.Is6() == ipv6 {
			return true
		}
	}
	return false
}

func (c *Core) allocateSuccess(r *reply, relayed netip.AddrPort, lifetime time.Duration, token [8]byte, hasToken bool) {
	r.succeed()
	r.body.XORAddress(stun.AttrXORRelayedAddress, relayed)
	r.body.Uint32(stun.AttrLifetime, seconds(lifetime))
	r.body.XORAddress(stun.AttrXORMappedAddress, r.src.Client)
	if hasToken {
		r.body.Attr(stun.AttrReservationToken, token[:])
	}
	if r.m.Has(stun.AttrAdditionalFamily) {
		// Deviation: RFC 8656 §7.2 would give an IPv6 address beside the IPv4 one. The client learns which it did not get.
		missing := byte(familyIPv6)
		if relayed.Addr().Is6() {
			missing = familyIPv4
		}
		r.body.Attr(stun.AttrAddressErrorCode, []byte{missing, 0, stun.CodeInsufficientPorts / 100, stun.CodeInsufficientPorts % 100})
	}
}

// seconds rounds up, so that a rebuilt answer does not say one second less than the first one did.
func seconds(d time.Duration) uint32 { return uint32((d + time.Second - 1) / time.Second) }

// transport checks REQUESTED-TRANSPORT (§13.7).
//
// Deviation: §6.2 answers 400 when it is missing, and 442 when its first byte is not 17 (which it misprints as 422; §14 has
// 442). Clients of that time left it out, wrote the number into the last byte, or wrote 0, which meant UDP until draft-05.
func transport(m stun.Message) (code int) {
	v, ok := m.Get(stun.AttrRequestedTransport)
	switch {
	case !ok:
		return 0
	case len(v) != 4:
		return stun.CodeBadRequest
	case v[0] == protocolUDP,
		v[0] == 0 && v[1] == 0 && v[2] == 0 && (v[3] == protocolUDP || v[3] == 0):
		return 0
	}
	return stun.CodeUnsupportedProtocol
}

// lifetime computes the time to expiry (§6.2, §7.2): the requested one within 600 to 3600 seconds, 600 without one.
// It reports false when LIFETIME is malformed.
//
// Deviation: §6.2 gives the default to a request for more than the maximum; RFC 8656 §7.2 gives the maximum. The client uses
// what it is told.
func lifetime(m stun.Message) (time.Duration, bool) {
	if !m.Has(stun.AttrLifetime) {
		return DefaultLifetime, true
	}
	v, ok := m.Uint32(stun.AttrLifetime)
	return min(max(time.Duration(v)*time.Second, DefaultLifetime), MaxLifetime), ok
}

// newAllocation finds a place and a relayed port. When the pool of unconfirmed allocations is full, the newcomer
// takes over the place and the open port of the oldest: nothing was ever sent from it, and a flood then costs no system call.
func (c *Core) newAllocation(w want, proven bool) (i uint32, token [8]byte, code int) {
	full := !proven && c.stats.Unconfirmed >= c.rules.Limits.Unconfirmed
	if full && !c.ledger.admits(c.clock, w.client) { // before anybody gives way
		return none, token, stun.CodeQuotaReached
	}
	if full && !w.redeem && !w.ports.even && !c.allocs[c.oldest].hasToken && c.oldestIs(w.ipv6) {
		i = c.oldest
		lease, relayed, stream := c.allocs[i].lease, c.allocs[i].relayed, c.allocs[i].source.Stream
		c.forget(i, EndEvicted)
		if stream != 0 {
			c.cfg.Opener.CloseStream(stream)
		}
		c.stats.Recycled++
		c.enter(i, lease, relayed)
		return i, token, 0
	}
	if full {
		c.end(c.oldest, EndEvicted)
	}
	for try := 0; ; try++ {
		lease, token, code := c.ledger.take(c.clock, w)
		if code == stun.CodeInsufficientPorts && !w.redeem && try < openTries && c.oldestIs(w.ipv6) {
			c.end(c.oldest, EndEvicted) // an unconfirmed one gives way before a newcomer is refused
			continue
		}
		if d := c.oldestDoubt; code == stun.CodeInsufficientPorts && !w.redeem && try < openTries && d != none && c.allocs[d].relayed.Addr().Is6() == w.ipv6 {
			c.end(d, EndEvicted) // then one whose client is not proven
			continue
		}
		if code != 0 {
			return none, token, code
		}
		i = c.place()
		relay := c.cfg.Relays[lease.Relay]
		err := c.cfg.Opener.OpenRelay(i, netip.AddrPortFrom(relay.Local, lease.Port))
		if err == nil {
			c.enter(i, lease, netip.AddrPortFrom(relay.Public, lease.Port))
			return i, token, 0
		}
		c.free = append(c.free, i)
		c.stats.OpenFailed++
		if w.ports.reserve {
			c.ledger.cancel(token)
		}
		if !errors.Is(err, ErrPortTaken) {
			c.ledger.release(c.clock, lease, w.client, false)
			c.openFailed(err)
			return none, token, stun.CodeInsufficientPorts
		}
		c.ledger.foreign(c.clock, lease)
		if try >= openTries || w.redeem {
			return none, token, stun.CodeInsufficientPorts
		}
	}
}

// oldestIs reports whether there is an unconfirmed allocation and the oldest one relays in this family.
func (c *Core) oldestIs(ipv6 bool) bool {
	return c.oldest != none && c.cfg.Relays[c.allocs[c.oldest].lease.Relay].Local.Is6() == ipv6
}

// openFailed reports at most one failure in ten seconds.
func (c *Core) openFailed(err error) {
	r := &c.refusals[RuleUnknown]
	r.count++
	if c.now < r.next {
		return
	}
	c.events = append(c.events, Event{Kind: EventOpenError, At: c.clock, Err: err, Count: r.count})
	r.count, r.next = 0, c.now+refusalEvery
}

// place takes a free entry of the slab.
func (c *Core) place() uint32 {
	if n := len(c.free); n > 0 {
		i := c.free[n-1]
		c.free = c.free[:n-1]
		return i
	}
	c.allocs = append(c.allocs, allocation{})
	return uint32(len(c.allocs) - 1)
}

// enter makes a fresh allocation of the entry, unconfirmed.
func (c *Core) enter(i uint32, lease Lease, relayed netip.AddrPort) {
	c.lastID += 1 << 8
	c.allocs[i] = allocation{
		id: c.lastID, lease: lease, relayed: relayed,
		firstPerm: none, firstChan: none, firstFlow: none, older: c.newest, newer: none,
	}
	if c.newest != none {
		c.allocs[c.newest].newer = i
	} else {
		c.oldest = i
	}
	c.newest = i
	c.sessions[c.lastID] = i
	c.stats.Allocations++
	c.stats.Unconfirmed++
	c.stats.Allocated++
}

// leavePool takes the allocation out of the list of unconfirmed ones.
func (c *Core) leavePool(i uint32) {
	a := &c.allocs[i]
	if a.older != none {
		c.allocs[a.older].newer = a.newer
	} else {
		c.oldest = a.newer
	}
	if a.newer != none {
		c.allocs[a.newer].older = a.older
	} else {
		c.newest = a.older
	}
	a.older, a.newer = none, none
	c.stats.Unconfirmed--
}

// confirm notes the first valid Send, Refresh or ChannelBind. It reports false, and the allocation has ended, when
// its client has all it may have.
func (c *Core) confirm(i uint32) bool {
	a := &c.allocs[i]
	if a.confirmed {
		return true
	}
	if !c.ledger.confirm(c.clock, a.source.Client.Addr()) {
		c.end(i, EndQuota)
		return false
	}
	c.leavePool(i)
	a.confirmed = true
	c.doubt(i)
	c.events = append(c.events, Event{Kind: EventStarted, At: c.clock, Session: c.session(a)})
	return true
}

// end frees everything that the allocation has.
func (c *Core) end(i uint32, why EndReason) {
	a := &c.allocs[i]
	lease, client, confirmed, stream := a.lease, a.source.Client.Addr(), a.confirmed, a.source.Stream
	c.forget(i, why)
	c.cfg.Opener.CloseRelay(i)
	c.ledger.release(c.clock, lease, client, confirmed)
	c.allocs[i] = allocation{}
	c.free = append(c.free, i)
	if stream != 0 && why != EndStream && why != EndReleased {
		c.cfg.Opener.CloseStream(stream)
	}
}

// forget takes the allocation out of all tables, but leaves its port open and its entry taken.
func (c *Core) forget(i uint32, why EndReason) {
	a := &c.allocs[i]
	c.dropFlows(i, none, none)
	for a.firstChan != none {
		c.dropChannel(i, a.firstChan)
	}
	for a.firstPerm != none {
		c.dropPermission(i, a.firstPerm)
	}
	if a.confirmed {
		c.prove(i)
		if why == EndEvicted {
			c.stats.Evicted++
		}
		c.events = append(c.events, Event{Kind: EventEnded, At: c.clock, Session: c.session(a), Reason: why})
	} else {
		c.leavePool(i)
		if why == EndEvicted {
			c.stats.Evicted++
		}
	}
	delete(c.tuples, a.key)
	delete(c.sessions, a.id)
	c.traces.forget(a.id)
	c.stats.Allocations--
	c.stats.Ended[why]++
	a.id = 0
}

// refresh handles a Refresh request (§7.2).
func (c *Core) refresh(i uint32, a *allocation, m stun.Message, r *reply) {
	if v, ok := m.Get(stun.AttrRequestedFamily); ok { // RFC 8656 §8.2
		if len(v) != 4 || v[0] != familyIPv4 && v[0] != familyIPv6 {
			r.fail(stun.CodeBadRequest)
			return
		}
		if (v[0] == familyIPv6) != a.relayed.Addr().Is6() {
			r.fail(stun.CodePeerFamilyMismatch)
			return
		}
	}
	life, ok := lifetime(m)
	if !ok {
		r.fail(stun.CodeBadRequest)
		return
	}
	if v, ok := m.Uint32(stun.AttrLifetime); ok && v == 0 {
		c.bury(a, m.TransactionID())
		c.end(i, EndReleased)
		r.session = none
		r.succeed()
		r.body.Uint32(stun.AttrLifetime, 0)
		return
	}
	if !c.confirm(i) {
		r.session = none
		r.fail(stun.CodeQuotaReached)
		return
	}
	a.expires = c.now + life
	r.succeed()
	r.body.Uint32(stun.AttrLifetime, seconds(life))
}

// bury remembers a released allocation: a retransmission of its Refresh, or a late one of its Allocate, must get the
// answer that the first one got (rfc3489bis-15 §7.3.1). Streams do not retransmit.
//
// Deviation: an unconfirmed allocation is forgotten, since spoofed pairs of Allocate and Refresh would fill the memory. The
// retransmission gets 437, by which the client knows that it is gone.
func (c *Core) bury(a *allocation, release stun.TransactionID) {
	if a.source.Stream != 0 || !a.confirmed {
		return
	}
	if c.tombOrder.len() >= maxTombstones {
		c.exhume()
	}
	c.tombs[a.key] = tombstone{
		allocate: a.tx, release: release, relayed: a.relayed, lifetime: a.expires - c.now,
		token: a.token, hasToken: a.hasToken, until: c.now + replayWindow,
	}
	c.tombOrder.push(grave{a.key, c.now + replayWindow})
}

// exhume forgets the oldest tombstone.
func (c *Core) exhume() {
	g := c.tombOrder.pop()
	if t, ok := c.tombs[g.key]; ok && t.until <= g.until {
		delete(c.tombs, g.key)
	}
}

// replay answers a late retransmission of the Allocate or the Refresh of a released allocation as the first one was, even if its
// 5-tuple has another allocation by now: that one must not be released by it.
func (c *Core) replay(r *reply) bool {
	if len(c.tombs) == 0 || r.src.Stream != 0 {
		return false
	}
	t, ok := c.tombs[r.src.key()]
	if !ok || c.now >= t.until {
		return false
	}
	switch tx := r.m.TransactionID(); {
	case r.m.Method() == stun.Allocate && tx == t.allocate:
		c.allocateSuccess(r, t.relayed, t.lifetime, t.token, t.hasToken)
	case r.m.Method() == stun.Refresh && tx == t.release:
		r.succeed()
		r.body.Uint32(stun.AttrLifetime, 0)
	default:
		return false
	}
	return true
}
