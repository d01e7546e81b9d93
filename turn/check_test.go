package turn

import (
	"net/netip"
	"slices"
)

// check compares all tables of all cores and the ledger with each other.
func (s *server) check() {
	s.t.Helper()
	fail := func(format string, args ...any) {
		s.t.Helper()
		s.t.Fatalf("BUG: "+format, args...)
	}
	type place struct{ relay, port int }
	used := make(map[place]string)
	use := func(l Lease, what string) {
		at := place{l.Relay, int(l.Port)}
		if other, ok := used[at]; ok {
			fail("%v is %s and %s", at, other, what)
		}
		used[at] = what
	}
	clients, prefixes := make(map[netip.Addr]int), make(map[netip.Prefix]int)
	living := 0
	for n, c := range s.cores {
		c.checkTables(s.ports[n], fail)
		c.checkFlows(s.offloads[n], fail)
		for i := range c.allocs {
			a := &c.allocs[i]
			if a.id == 0 {
				continue
			}
			living++
			use(a.lease, "an allocation's")
			if a.confirmed {
				clients[a.source.Client.Addr()]++
				prefixes[clientPrefix(a.source.Client.Addr())]++
			}
			relay := c.cfg.Relays[a.lease.Relay]
			if a.relayed != netip.AddrPortFrom(relay.Public, a.lease.Port) || s.ports[n].open[uint32(i)] != netip.AddrPortFrom(relay.Local, a.lease.Port) {
				fail("allocation %d: %v, lease %v, open %v", i, a.relayed, a.lease, s.ports[n].open[uint32(i)])
			}
			if shard, other, ok := s.ledger.owner(a.relayed); !ok || shard != n || other != uint32(i) {
				fail("the owner of %v: %d %d %v", a.relayed, shard, other, ok)
			}
		}
	}
	l := s.ledger
	for _, r := range l.reservations {
		use(r.lease, "reserved")
	}
	owners := 0
	for i := range l.ports {
		t := &l.ports[i]
		for at, off := range t.free {
			use(Lease{i, t.first + off}, "free")
			if t.pos[off] != int32(at) {
				fail("port %d is free at %d, and %d says so", off, at, t.pos[off])
			}
		}
		last := s.now
		for at := t.quarantine.head; at < len(t.quarantine.items); at++ {
			r := t.quarantine.items[at]
			use(Lease{i, r.port}, "resting")
			if r.client.IsValid() {
				clients[r.client]++
				prefixes[clientPrefix(r.client)]++
			}
			if at > t.quarantine.head && r.until.Before(last) {
				fail("the quarantine is not in order")
			}
			last = r.until
		}
		for j := range t.owners {
			if t.owners[j].Load() != 0 {
				owners++
			}
		}
		for off := range t.pos {
			if used[place{i, int(t.first) + off}] == "" {
				fail("port %d of relay %d is lost", int(t.first)+off, i)
			}
		}
	}
	if len(used) != len(l.ports)*s.cfg.ports.Size() {
		fail("%d ports are accounted for", len(used))
	}
	if owners != living || l.total != living+len(l.reservations) {
		fail("%d allocations, %d owners, %d ports in use, %d reserved", living, owners, l.total, len(l.reservations))
	}
	if len(clients) != len(l.clients) || len(prefixes) != len(l.prefixes) {
		fail("%d clients and %d prefixes, the ledger has %d and %d", len(clients), len(prefixes), len(l.clients), len(l.prefixes))
	}
	for a, n := range clients {
		if l.clients[a] != n {
			fail("client %v has %d, the ledger says %d", a, n, l.clients[a])
		}
	}
	for p, n := range prefixes {
		if l.prefixes[p] != n {
			fail("prefix %v has %d, the ledger says %d", p, n, l.prefixes[p])
		}
	}
	if len(l.unanswered) != l.unansweredAt.len() || len(l.unanswered) > maxUnanswered {
		fail("%d silent peers, %d in the queue", len(l.unanswered), l.unansweredAt.len())
	}
	held := 0
	for at := l.held.head; at < len(l.held.items); at++ {
		if _, ok := l.reservations[l.held.items[at]]; ok {
			held++
		}
	}
	if held != len(l.reservations) || l.held.len() > maxReservations {
		fail("%d reservations, %d of them in a queue of %d", len(l.reservations), held, l.held.len())
	}
}

// checkTables checks one core's slabs against its maps.
func (c *Core) checkTables(o *portOpener, fail func(string, ...any)) {
	var sum uint64
	for _, n := range c.stats.Packets {
		sum += n
	}
	if sum != c.stats.Read || c.stats.Packets[DispositionUnknown] != 0 {
		fail("%d packets read, %d counted", c.stats.Read, sum)
	}
	living, unconfirmed, perms, chans := 0, 0, 0, 0
	for i := range c.allocs {
		a, i := &c.allocs[i], uint32(i)
		if a.id == 0 {
			if !slices.Contains(c.free, i) {
				fail("allocation %d is neither free nor alive", i)
			}
			continue
		}
		living++
		if !a.confirmed {
			unconfirmed++
			if a.nperms != 0 || a.nchans != 0 {
				fail("allocation %d is unconfirmed and has %d permissions", i, a.nperms)
			}
		}
		if c.tuples[a.key] != i || c.sessions[a.id] != i || a.key != a.source.key() {
			fail("allocation %d is not found by its names", i)
		}
		n := 0
		for p := a.firstPerm; p != none; p = c.perms[p].next {
			x := &c.perms[p]
			if n++; n > len(c.perms) || x.allocation != i || c.permIndex[permKey{x.addr.As16(), i}] != p {
				fail("permission %d of allocation %d: %+v", p, i, x)
			}
		}
		if n != a.nperms {
			fail("allocation %d: %d permissions, counted %d", i, n, a.nperms)
		}
		perms += n
		n = 0
		for ch := a.firstChan; ch != none; ch = c.chans[ch].next {
			x := &c.chans[ch]
			if n++; n > len(c.chans) || x.allocation != i || c.chanByNumber[numberKey(i, x.number)] != ch ||
				c.chanByPeer[peerKey{x.peer.Addr().As16(), i, x.peer.Port()}] != ch {
				fail("channel %d of allocation %d: %+v", ch, i, x)
			}
			if p := &c.perms[x.permission]; p.allocation != i || p.addr != x.peer.Addr() {
				fail("channel %d of allocation %d leads through %+v", ch, i, p)
			}
		}
		if n != a.nchans {
			fail("allocation %d: %d channels, counted %d", i, n, a.nchans)
		}
		chans += n
	}
	if living != len(c.tuples) || living != len(c.sessions) || living != c.stats.Allocations || living+len(c.free) != len(c.allocs) || living != len(o.open) {
		fail("%d allocations: %d 5-tuples, %d sessions, %d counted, %d free of %d, %d open",
			living, len(c.tuples), len(c.sessions), c.stats.Allocations, len(c.free), len(c.allocs), len(o.open))
	}
	if perms != len(c.permIndex) || perms+len(c.freePerms) != len(c.perms) {
		fail("%d permissions, %d in the index, %d free of %d", perms, len(c.permIndex), len(c.freePerms), len(c.perms))
	}
	if chans != len(c.chanByNumber) || chans != len(c.chanByPeer) || chans+len(c.freeChans) != len(c.chans) {
		fail("%d channels, %d by number, %d by peer, %d free of %d", chans, len(c.chanByNumber), len(c.chanByPeer), len(c.freeChans), len(c.chans))
	}
	gates := 0
	for p := range c.permIndex {
		at := c.permIndex[p]
		n := 0
		for g := c.perms[at].firstGate; g != none; g = c.gates[g].next {
			if n++; n > maxGates {
				fail("permission %d has a circle of gates, or too many", at)
			}
		}
		gates += n
	}
	if gates+len(c.freeGates) != len(c.gates) {
		fail("%d gates, %d free of %d", gates, len(c.freeGates), len(c.gates))
	}
	doubted, before := 0, none
	for i := c.oldestDoubt; i != none; before, i = i, c.allocs[i].newer {
		if a := &c.allocs[i]; a.id == 0 || !a.confirmed || !a.doubted || a.older != before || a.source.Stream != 0 || a.user != nil {
			fail("the list of those in doubt is broken at allocation %d: %+v", i, a)
		}
		if doubted++; doubted > len(c.allocs) {
			fail("the list of those in doubt is a circle")
		}
	}
	for i := range c.allocs {
		if c.allocs[i].doubted {
			doubted--
		}
	}
	if doubted != 0 || before != c.newestDoubt {
		fail("%d more in the list of those in doubt, newest %d and last %d", doubted, c.newestDoubt, before)
	}
	n, last := 0, none
	for i := c.oldest; i != none; last, i = i, c.allocs[i].newer {
		if n++; n > len(c.allocs) || c.allocs[i].id == 0 || c.allocs[i].confirmed || c.allocs[i].older != last {
			fail("the pool is broken at allocation %d", i)
		}
	}
	if last != c.newest || n != unconfirmed || n != c.stats.Unconfirmed {
		fail("%d allocations in the pool, %d unconfirmed, %d counted, newest %d and last %d", n, unconfirmed, c.stats.Unconfirmed, c.newest, last)
	}
	if len(c.tombs) > c.tombOrder.len() || c.tombOrder.len() > maxTombstones || len(c.tombs) == 0 && c.tombOrder.len() > 0 {
		fail("%d tombstones, %d in their order", len(c.tombs), c.tombOrder.len())
	}
	for id := range c.traces.sessions {
		if _, ok := c.sessions[id]; !ok {
			fail("session %v is traced and gone", id)
		}
	}
}
