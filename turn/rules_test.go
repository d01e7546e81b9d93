package turn

import (
	"fmt"
	"testing"

	"github.com/stilenet/stile/stun"
)

// reload makes rules of the setup as it is now and swaps them in.
func (s *server) reload() {
	s.t.Helper()
	s.rules = s.makeRules()
	s.ledger.SetLimits(s.rules.Limits)
	for _, c := range s.cores {
		c.SetRules(s.now, s.rules)
	}
	s.settle(0)
}

func TestNewRulesEndWhatTheyRefuse(t *testing.T) {
	s := newServer(t, setup{})
	near, far := s.client("198.51.100.1:7000").confirmed(), s.stream("203.0.113.1:7000", 5).confirmed()
	near.bind(0x4000, "192.0.2.77:5000")
	near.bind(0x4001, "192.0.2.78:5000")
	near.bind(0x4002, "192.0.2.78:6000")
	near.sendTo("192.0.2.79:5000", "x")
	s.cfg.policy = func(p *PolicyConfig) {
		p.Clients = prefixesOf("198.51.100.0/24")
		p.Deny = prefixesOf("192.0.2.77/32", "192.0.2.79/32")
		p.Ports = NewPortSet([]PortRange{{1024, 5999}})
	}
	s.reload()
	same(t, "a refused client", far.request(stun.Refresh), -1)
	same(t, "its connection", fmt.Sprint(s.ports[0].streams), "[5]")
	same(t, "reason", fmt.Sprint(s.ended()), "[policy]")
	same(t, "who may stay", near.request(stun.Refresh), 0)
	s.expect(DropChannel, func() []Output { return near.channel(0x4000, "x") })
	s.expect(DropPeerStranger, func() []Output { return s.peer(near.relayed, "192.0.2.77:5000", nil) })
	s.expect(DropPeerStranger, func() []Output { return s.peer(near.relayed, "192.0.2.79:5000", nil) })
	s.expect(DropPeer, func() []Output { return near.sendTo("192.0.2.79:5000", "x") })
	same(t, "a peer that may stay", toPeer(near.channel(0x4001, "x")), "2->192.0.2.78:5000 x")
	s.expect(DropChannel, func() []Output { return near.channel(0x4002, "x") })
	same(t, "new clients", s.client("203.0.113.1:7001").request(stun.Allocate, udp), -1)
	same(t, "counted", s.did(DropClient), 2)
}

func TestNewRulesTakeCredentialsAway(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Auth)
		alive  int
	}{
		"nothing":           {func(*Auth) {}, 2},
		"a user goes":       {func(a *Auth) { a.Users = a.Users[1:] }, 1},
		"a password":        {func(a *Auth) { a.Users[0].Password = "new" }, 1},
		"the secret":        {func(a *Auth) { a.Secret = "south" }, 1},
		"the realm":         {func(a *Auth) { a.Realm = "elsewhere" }, 0},
		"another user goes": {func(a *Auth) { a.Users = a.Users[:1] }, 2},
	} {
		cfg := authSetup()
		s := newServer(t, cfg)
		s.client("198.51.100.1:7000").challenged().login("anna", "pass").allocate()
		user := fmt.Sprint(s.now.Unix() + 1)
		s.client("198.51.100.1:7001").challenged().login(user, restPassword("north", user)).allocate()
		s.after(DefaultLifetime / 2) // the name's time is over, the allocation's is not
		s.cfg.rules = func(r *Rules) { cfg.rules(r); tt.change(&r.Auth) }
		s.reload()
		same(t, name, s.stats().Allocations, tt.alive)
	}
}

func TestNewRulesEndModernAllocationsWithoutCredentials(t *testing.T) {
	s := newServer(t, setup{})
	s.client("198.51.100.1:7000").allocate(familyOf(1))
	s.client("198.51.100.1:7001").allocate()
	expired := s.client("198.51.100.1:7002")
	s.cfg.rules = func(r *Rules) { r.ModernWithoutCredentials = false }
	s.reload()
	same(t, "left", s.stats().Allocations, 1)
	same(t, "counted", s.stats().ModernRefused, 1)
	expired.allocate()
	s.after(DefaultLifetime)
	s.reload()
	same(t, "expired ones end as such", s.stats().Ended[EndExpired], 2)
}

func TestNewLimitsHold(t *testing.T) {
	s := newServer(t, setup{})
	c := s.client("198.51.100.1:7000").confirmed()
	for k := range 5 {
		c.sendTo(fmt.Sprintf("203.0.113.%d:5000", k), "x")
	}
	s.cfg.limits = func(l *Limits) { l.PerClient, l.Permissions = 1, 2 }
	s.reload()
	same(t, "what is there stays", s.stats().Permissions, 5)
	s.expect(DropTableFull, func() []Output { return c.sendTo("203.0.113.9:5000", "x") })
	same(t, "another allocation", s.client("198.51.100.1:7001").request(stun.Allocate, udp), 486)
}

func TestDrainingRefusesNewAllocationsOnly(t *testing.T) {
	s := newServer(t, setup{})
	c := s.client("198.51.100.1:7000")
	b := c.message(stun.Allocate, stun.Request, udp)
	c.ask(b)
	s.cores[0].SetDraining(true)
	same(t, "a new one", s.client("198.51.100.1:7001").request(stun.Allocate, udp), 508)
	code, _ := c.ask(b)
	same(t, "a retransmission", code, 0)
	same(t, "Refresh", c.request(stun.Refresh), 0)
	same(t, "Send", len(c.sendTo("203.0.113.5:5000", "x")), 1)
	s.cores[0].SetDraining(false)
	same(t, "afterwards", s.client("198.51.100.1:7001").request(stun.Allocate, udp), 0)
}

func TestKillEndsOneSession(t *testing.T) {
	s := newServer(t, setup{})
	a, b := s.stream("198.51.100.1:7000", 3).confirmed(), s.client("198.51.100.1:7001").confirmed()
	session, _ := a.session()
	id, err := ParseSessionID(session.ID.String())
	if err != nil || id != session.ID {
		t.Fatal(id, err)
	}
	same(t, "Kill", s.cores[0].Kill(s.now, id), true)
	s.settle(0)
	same(t, "again", s.cores[0].Kill(s.now, id), false)
	same(t, "the connection", fmt.Sprint(s.ports[0].streams), "[3]")
	same(t, "the other one", b.request(stun.Refresh), 0)
	same(t, "reason", fmt.Sprint(s.ended()), "[killed]")
}

func TestShutdownEndsAll(t *testing.T) {
	s := newServer(t, setup{shards: 2})
	for k := range 4 {
		c := s.client(fmt.Sprintf("198.51.100.1:%d", 7000+k))
		c.shard = k & 1
		c.confirmed()
	}
	for n, c := range s.cores {
		c.Shutdown(s.now)
		s.settle(n)
	}
	same(t, "reasons", fmt.Sprint(s.ended()), "[shutdown shutdown shutdown shutdown]")
	same(t, "resting", s.ledger.Ports().Quarantined, 4)
}

func TestASuccessorGoesOn(t *testing.T) {
	s := newServer(t, setup{})
	s.client("198.51.100.1:7000").confirmed()
	s.client("198.51.100.1:7001").allocate()
	old := s.cores[0]
	last := old.lastID
	s.cores[0] = old.Successor(s.now)
	clear(s.ports[0].open) // the data plane closes them itself
	s.settle(0)
	same(t, "ended", fmt.Sprint(s.ended()), "[bug]")
	c := s.client("198.51.100.1:7000").confirmed()
	session, _ := c.session()
	same(t, "session IDs go on", session.ID > last, true)
	same(t, "ports", s.ledger.Ports().Quarantined, 1)
}

func TestEventsTellALife(t *testing.T) {
	s := newServer(t, setup{})
	c := s.client("198.51.100.1:7000").allocate()
	same(t, "an unconfirmed allocation has no event", len(s.events), 0)
	c.sendTo("203.0.113.5:5000", "hello")
	c.hears("203.0.113.5:5000")
	c.sendTo("203.0.113.5:5001", "x")
	c.request(stun.Refresh, lifetimeOf(0))
	var kinds []EventKind
	for _, e := range s.events {
		kinds = append(kinds, e.Kind)
	}
	same(t, "events", fmt.Sprint(kinds), fmt.Sprint([]EventKind{EventStarted, EventPeer, EventEnded}))
	e := s.events[2].Session
	same(t, "up", fmt.Sprint(e.PacketsUp, e.BytesUp), "2 6")
	same(t, "down", fmt.Sprint(e.PacketsDown, e.BytesDown), "1 4")
	same(t, "who", fmt.Sprint(e.Client, e.Relayed, e.Peers, e.LastPeer, e.Dialect), fmt.Sprint("198.51.100.1:7000 ", c.relayed, " 1 203.0.113.5:5001 draft-08"))
	same(t, "totals", fmt.Sprint(s.stats().BytesToPeers, s.stats().BytesToClients), "6 4")
}
