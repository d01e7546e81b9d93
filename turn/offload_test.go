package turn

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stilenet/stile/stun"
)

// cache is an offload in memory. By itself it relays nothing, so that all packets come to the core, as they do where the kernel has doubts:
// every test of this package runs with one.
type cache struct {
	t      testing.TB
	full   bool
	flows  map[uint32]*cached
	meters map[uint32]Meter
	next   uint32
	gone   []string // what was removed
	// whenRemoved is called before a flow goes.
	whenRemoved func()
}

type cached struct {
	Flow
	used Usage
}

func newCache(t testing.TB) *cache {
	return &cache{t: t, flows: make(map[uint32]*cached), meters: make(map[uint32]Meter)}
}

func (c *cache) OpenMeter(_ time.Time, m Meter) (uint32, bool) {
	if c.full {
		return 0, false
	}
	c.next++
	c.meters[c.next] = m
	return c.next, true
}

func (c *cache) Take(now time.Time, id uint32, size int) bool {
	m, ok := c.meters[id]
	if !ok {
		c.t.Errorf("a packet is charged to meter %d, which is closed", id)
	}
	ok = takeUntil(&m.PacketsFull, now, 1, m.PacketsPerSecond) && takeUntil(&m.BytesFull, now, size, m.BytesPerSecond)
	c.meters[id] = m
	return ok
}

func takeUntil(full *time.Time, now time.Time, n, rate int) bool {
	b := bucket{max(0, full.Sub(now))}
	ok := b.take(0, n, rate)
	*full = now.Add(b.at)
	return ok
}

func (c *cache) CloseMeter(_ time.Time, id uint32) Meter {
	m, ok := c.meters[id]
	if !ok {
		c.t.Errorf("meter %d is closed twice", id)
	}
	delete(c.meters, id)
	for _, f := range c.flows {
		if f.Meter == id {
			c.t.Errorf("meter %d is closed, and pays for %+v", id, f.Flow)
		}
	}
	return m
}

func (c *cache) Add(f *Flow) (uint32, bool) {
	if c.full {
		return 0, false
	}
	if _, ok := c.meters[f.Meter]; !ok {
		c.t.Errorf("a flow without a meter: %+v", *f)
	}
	c.next++
	c.flows[c.next] = &cached{Flow: *f}
	return c.next, true
}

func (c *cache) get(id uint32) *cached {
	f := c.flows[id]
	if f == nil {
		c.t.Fatalf("flow %d is gone", id)
	}
	return f
}

func (c *cache) Extend(id uint32, until time.Time) { c.get(id).Until = until }
func (c *cache) Usage(id uint32) Usage             { return c.get(id).used }

func (c *cache) Remove(id uint32) Usage {
	f := c.get(id)
	if c.whenRemoved != nil {
		c.whenRemoved()
	}
	delete(c.flows, id)
	c.gone = append(c.gone, f.String())
	return f.used
}

func (c *cache) Reset(int) {
	clear(c.flows)
	clear(c.meters)
}

func (f *cached) String() string {
	s := []string{"unknown", "channel up", "send up", "channel down", "data down"}[f.Kind]
	if f.Hairpin {
		s += " hairpin"
	}
	return fmt.Sprintf("%s %v", s, f.Named)
}

// has describes the flows of a core.
func (s *server) offloaded(n int) string {
	var list []string
	for _, f := range s.offloads[n].flows {
		list = append(list, f.String())
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

// relay has the cache relay packets of its only flow of a kind.
func (s *server) relayed(n int, kind FlowKind, packets, bytes uint64, at time.Time) {
	s.t.Helper()
	for _, f := range s.offloads[n].flows {
		if f.Kind == kind {
			if !at.Before(f.Until) {
				s.t.Fatalf("%v has ended", f)
			}
			f.used.Packets += packets
			f.used.Bytes += bytes
			f.used.Last = at
			return
		}
	}
	s.t.Fatalf("no flow of kind %d: %s", kind, s.offloaded(n))
}

// checkFlows checks that the offload has what the tables allow, and that its entries end with them.
func (c *Core) checkFlows(o *cache, fail func(string, ...any)) {
	n := 0
	for i := range c.allocs {
		a := &c.allocs[i]
		if a.id == 0 {
			continue
		}
		for at := a.firstFlow; at != none; at = c.flows[at].next {
			if n++; n > len(c.flows) {
				fail("allocation %d: its flows have no end", i)
			}
			x := &c.flows[at]
			f := o.flows[x.id]
			if f == nil || x.allocation != uint32(i) || f.Kind != x.kind || f.Named != x.peer || f.Client != a.source.Client || f.Meter != a.meter {
				fail("flow %d of allocation %d: %+v, offloaded as %+v", at, i, x, f)
			}
			p := &c.perms[x.permission]
			if p.allocation != uint32(i) || p.addr != x.peer.Addr() || !p.answered {
				fail("flow %d leads through permission %+v", at, p)
			}
			if x.channel != none && (c.chans[x.channel].allocation != uint32(i) || c.chans[x.channel].peer != x.peer || c.chans[x.channel].number != f.Channel) {
				fail("flow %d leads through channel %+v", at, c.chans[x.channel])
			}
			if f.Until.After(c.epoch.Add(c.flowUntil(x))) {
				fail("flow %d ends at %v, what it leads through at %v", at, f.Until, c.epoch.Add(c.flowUntil(x)))
			}
			if s := c.traces.of(a.id); s != nil {
				fail("session %v is traced, and flow %d offloaded", a.id, at)
			}
			if a.source.Stream != 0 {
				fail("flow %d is of a stream", at)
			}
			if f.Kind == DataDown && !f.Hairpin {
				if ch, ok := c.chanByPeer[peerKey{x.peer.Addr().As16(), uint32(i), x.peer.Port()}]; ok && c.now < c.chans[ch].expires {
					fail("data from %v go by an indication, and it has channel %#x", x.peer, c.chans[ch].number)
				}
			}
		}
	}
	if n != len(c.flowIndex) || n != len(o.flows) || n+len(c.freeFlows) != len(c.flows) {
		fail("%d flows, %d in the index, %d offloaded, %d free of %d", n, len(c.flowIndex), len(o.flows), len(c.freeFlows), len(c.flows))
	}
}

const aPeer = "203.0.113.9:5000"

func TestOnlyAFlowWhosePeerHasAnsweredIsOffloaded(t *testing.T) {
	s := newServer(t, setup{})
	c := s.client("198.51.100.1:7000").allocate()
	c.bind(0x4000, aPeer)
	c.channel(0x4000, "one")
	same(t, "before an answer", s.offloaded(0), "")
	c.hears(aPeer)
	c.channel(0x4000, "two")
	same(t, "after it", s.offloaded(0), "channel down "+aPeer+", channel up "+aPeer)
	c.sendTo(aPeer, "three")
	c.hears("203.0.113.9:5001")
	same(t, "by indications", s.offloaded(0),
		"channel down "+aPeer+", channel up "+aPeer+", data down 203.0.113.9:5001, send up "+aPeer)
}

func TestAStreamIsNeverOffloaded(t *testing.T) {
	s := newServer(t, setup{})
	c := s.stream("198.51.100.1:7000", 1).allocate()
	c.bind(0x4000, aPeer)
	c.hears(aPeer)
	c.channel(0x4000, "one")
	same(t, "flows", s.offloaded(0), "")
}

func TestOffloadedPacketsAreCountedLikeOthers(t *testing.T) {
	s := newServer(t, setup{})
	c := s.client("198.51.100.1:7000").allocate()
	c.bind(0x4000, aPeer)
	c.hears(aPeer)
	c.channel(0x4000, "one")
	before := s.stats()
	s.relayed(0, ChannelUp, 10, 1000, s.now)
	s.relayed(0, ChannelDown, 20, 3000, s.now)
	after := s.stats()
	same(t, "read", after.Read-before.Read, 30)
	same(t, "up", after.Packets[RelayedChannel]-before.Packets[RelayedChannel], 10)
	same(t, "down", after.Packets[RelayedToChannel]-before.Packets[RelayedToChannel], 20)
	same(t, "bytes up", after.BytesToPeers-before.BytesToPeers, 1000)
	same(t, "bytes down", after.BytesToClients-before.BytesToClients, 3000)
	same(t, "offloaded", after.Offloaded, 30)
	session, _ := c.session()
	same(t, "of the session", fmt.Sprint(session.PacketsUp, session.BytesUp, session.PacketsDown, session.BytesDown), "11 1003 21 3004")
	s.relayed(0, ChannelUp, 1, 1, s.now)
	c.request(stun.Refresh, lifetimeOf(0))
	for _, e := range s.events {
		if e.Kind == EventEnded {
			same(t, "of its end", fmt.Sprint(e.Session.PacketsUp, e.Session.BytesUp), "12 1004")
		}
	}
	same(t, "flows", s.offloaded(0), "")
}

// TestOffloadedChannelDataRefreshesAsEver: in draft-08 what the client sends keeps channel and permission, in the modern dialect it does not.
func TestOffloadedChannelDataRefreshesAsEver(t *testing.T) {
	for _, modern := range []bool{false, true} {
		s := newServer(t, setup{})
		c := s.client("198.51.100.1:7000")
		if modern {
			c.allocate(familyOf(1), lifetimeOf(3600))
		} else {
			c.allocate(lifetimeOf(3600))
		}
		c.bind(0x4000, aPeer)
		c.hears(aPeer)
		c.channel(0x4000, "one")
		for range 70 {
			s.after(10 * time.Second)
			if s.offloaded(0) == "" {
				break
			}
			s.relayed(0, ChannelUp, 1, 100, s.now.Add(-time.Second))
			s.tick()
			if modern && s.now.Sub(testEpoch) > PermissionLifetime-20*time.Second {
				break
			}
		}
		if modern {
			s.after(20 * time.Second)
			same(t, "modern", c.hears(aPeer), "")
			continue
		}
		same(t, "draft-08", c.hears(aPeer), "0x4000")
		s.after(PermissionLifetime)
		same(t, "draft-08, silent for a permission's life", c.hears(aPeer), "")
	}
}

func TestOffloadedDataDownRefreshesNothing(t *testing.T) {
	s := newServer(t, setup{})
	c := s.client("198.51.100.1:7000").allocate()
	c.sendTo(aPeer, "one")
	c.hears(aPeer)
	for range 29 {
		s.after(10 * time.Second)
		s.relayed(0, DataDown, 1, 100, s.now)
		s.tick()
	}
	same(t, "before its end", c.hears(aPeer), "data")
	s.after(10 * time.Second)
	same(t, "at its end", c.hears(aPeer), "")
	s.tick()
	same(t, "flows", s.offloaded(0), "")
}

// TestFlowsGoBeforeWhatTheyLeadThrough, for every way in which that goes.
func TestFlowsGoBeforeWhatTheyLeadThrough(t *testing.T) {
	for name, end := range map[string]func(*server, *client){
		"released":   func(_ *server, c *client) { c.request(stun.Refresh, lifetimeOf(0)) },
		"expired":    func(s *server, c *client) { s.after(MaxLifetime); s.tick() },
		"killed":     func(s *server, c *client) { x, _ := c.session(); s.cores[0].Kill(s.now, x.ID) },
		"shutdown":   func(s *server, c *client) { s.cores[0].Shutdown(s.now) },
		"permission": func(s *server, c *client) { s.after(PermissionLifetime); s.tick() },
		"idle":       func(s *server, c *client) { s.after(flowIdle); s.tick() },
		"rules": func(s *server, c *client) {
			s.cfg.policy = func(p *PolicyConfig) { p.Deny = prefixesOf("203.0.113.9/32") }
			s.cores[0].SetRules(s.now, s.makeRules())
		},
		"trace": func(s *server, c *client) { x, _ := c.session(); s.cores[0].Trace(s.now, x.ID) },
	} {
		s := newServer(t, setup{})
		c := s.client("198.51.100.1:7000").allocate(lifetimeOf(3600))
		c.bind(0x4000, aPeer)
		c.hears(aPeer)
		c.channel(0x4000, "one")
		same(t, name+": before", len(s.offloads[0].flows), 2)
		s.offloads[0].whenRemoved = func() {
			if len(s.ports[0].open) != 1 || len(s.cores[0].tuples) != 1 || len(s.cores[0].chanByNumber) != 1 || len(s.cores[0].permIndex) != 1 {
				t.Errorf("%s: a flow went after what it leads through", name)
			}
		}
		end(s, c)
		s.settle(0)
		same(t, name+": after", s.offloaded(0), "")
		same(t, name+": budgets", len(s.offloads[0].meters), 0)
	}
}

func TestNewRulesEndTheFlowsThatTheyMayRefuse(t *testing.T) {
	for name, x := range map[string]struct {
		change func(*setup)
		left   string
	}{
		"the same rules":   {func(*setup) {}, "data down " + aPeer + ", send up " + aPeer},
		"another rate":     {func(c *setup) { c.limits = func(l *Limits) { l.PacketsPerSecond = 7 } }, ""},
		"the port refused": {func(c *setup) { c.policy = func(p *PolicyConfig) { p.Ports = NewPortSet([]PortRange{{1, 4999}}) } }, "data down " + aPeer},
		"the peer refused": {func(c *setup) { c.policy = func(p *PolicyConfig) { p.Deny = prefixesOf("203.0.113.9/32") } }, ""},
		"a gate": {func(c *setup) {
			c.rules = func(r *Rules) { r.Gate = words() }
		}, ""},
	} {
		s := newServer(t, setup{})
		c := s.client("198.51.100.1:7000").allocate()
		c.sendTo(aPeer, "one")
		c.hears(aPeer)
		c.sendTo(aPeer, "two")
		same(t, name+": before", s.offloaded(0), "data down "+aPeer+", send up "+aPeer)
		x.change(&s.cfg)
		s.cores[0].SetRules(s.now, s.makeRules())
		s.settle(0)
		same(t, name, s.offloaded(0), x.left)
	}
	a, b := pair(t, 1, HairpinAll, ProfileCorporate)
	for range 2 {
		a.sendTo(b.relayed.String(), "one")
		b.sendTo(a.relayed.String(), "two")
	}
	a.cores[0].SetRules(a.now, a.makeRules()) // prefixes of clients may have other numbers now
	a.settle(0)
	same(t, "hairpins", a.offloaded(0), "")
}

func TestAChannelThatIsOverTakesItsFlowsAlong(t *testing.T) {
	s := newServer(t, setup{})
	c := s.client("198.51.100.1:7000").allocate(lifetimeOf(3600))
	c.bind(0x4000, aPeer)
	for range 62 {
		s.after(10 * time.Second)
		c.sendTo(aPeer, "one") // keeps the permission, not the channel
		c.hears(aPeer)
		s.tick()
	}
	same(t, "flows", s.offloaded(0), "data down "+aPeer+", send up "+aPeer)
}

func TestANewChannelEndsTheIndicationsOfItsPeer(t *testing.T) {
	s := newServer(t, setup{})
	c := s.client("198.51.100.1:7000").allocate()
	c.sendTo(aPeer, "one")
	c.hears(aPeer)
	same(t, "before", s.offloaded(0), "data down "+aPeer)
	c.bind(0x4000, aPeer)
	same(t, "bound", s.offloaded(0), "")
	same(t, "heard", c.hears(aPeer), "0x4000")
	same(t, "after", s.offloaded(0), "channel down "+aPeer)
}

// TestOneBudgetForBothWays: what the offload has taken the core cannot take again.
func TestOneBudgetForBothWays(t *testing.T) {
	s := newServer(t, setup{limits: func(l *Limits) { l.PacketsPerSecond = 10 }})
	c := s.client("198.51.100.1:7000").allocate()
	c.bind(0x4000, aPeer)
	c.hears(aPeer)
	c.channel(0x4000, "one")
	for id := range s.offloads[0].meters {
		for range 5 {
			if !s.offloads[0].Take(s.now, id, 1) {
				t.Fatal("the budget is less than it says")
			}
		}
	}
	for range 3 {
		s.expect(RelayedChannel, func() []Output { return c.channel(0x4000, "x") })
	}
	s.expect(DropRate, func() []Output { return c.channel(0x4000, "x") })
	x, _ := c.session()
	s.cores[0].Trace(s.now, x.ID) // ends the flows: the budget goes back as it is
	same(t, "flows", s.offloaded(0), "")
	s.expect(DropRate, func() []Output { return c.channel(0x4000, "x") })
	s.after(time.Second)
	s.expect(RelayedChannel, func() []Output { return c.channel(0x4000, "x") })
}

func TestAFullOffloadLeavesTheFlowToTheCore(t *testing.T) {
	s := newServer(t, setup{})
	s.offloads[0].full = true
	c := s.client("198.51.100.1:7000").allocate()
	c.bind(0x4000, aPeer)
	c.hears(aPeer)
	same(t, "relayed", toPeer(c.channel(0x4000, "one")), "2->"+aPeer+" one")
	same(t, "flows", s.offloaded(0), "")
	s.offloads[0].full = false
	c.channel(0x4000, "two")
	same(t, "in the same second", s.offloaded(0), "")
	s.after(time.Second)
	s.tick()
	c.channel(0x4000, "three")
	same(t, "in the next", s.offloaded(0), "channel up "+aPeer)
}

func TestHairpinsAreOffloadedInHalves(t *testing.T) {
	for _, shards := range []int{1, 2} {
		a, b := pair(t, shards, HairpinAll, ProfileCorporate)
		for range 2 {
			a.sendTo(b.relayed.String(), "one")
			b.sendTo(a.relayed.String(), "two")
		}
		var all []*cached
		for _, o := range a.offloads {
			for _, f := range o.flows {
				all = append(all, f)
			}
		}
		same(t, "halves", len(all), 4)
		for _, f := range all {
			same(t, "hairpin", f.Hairpin, true)
			partner := slices.ContainsFunc(all, func(g *cached) bool {
				return g.Kind.Up() != f.Kind.Up() && g.Relayed == f.Peer && g.Peer == f.Relayed && g.Prefix == f.Prefix
			})
			same(t, "its other half", partner, true)
			same(t, "public form", f.Relayed.Addr(), netip.MustParseAddr("192.0.2.15"))
		}
	}
}

func TestARefusedHairpinIsNotOffloaded(t *testing.T) {
	a, b := pair(t, 1, HairpinOff, ProfileCorporate)
	for range 2 {
		a.sendTo(b.relayed.String(), "one")
		b.sendTo(a.relayed.String(), "two")
	}
	same(t, "flows", a.offloaded(0), "")
}

// TestAPacketOfAFlowThatIsOffloadedAllocatesNothing when the kernel leaves it to the core.
func TestAPacketOfAFlowThatIsOffloadedAllocatesNothing(t *testing.T) {
	s := newServer(t, setup{})
	c := s.client("198.51.100.1:7000").allocate()
	c.bind(0x4000, aPeer)
	c.hears(aPeer)
	c.channel(0x4000, "one")
	p, core := s.packet(channelData(0x4000, "hello")), s.cores[0]
	same(t, "allocations", testing.AllocsPerRun(100, func() {
		core.FromClient(s.now, &c.src, p)
		core.Reset()
	}), 0)
}

func TestASuccessorBeginsWithoutFlows(t *testing.T) {
	s := newServer(t, setup{})
	c := s.client("198.51.100.1:7000").allocate()
	c.bind(0x4000, aPeer)
	c.hears(aPeer)
	clear(s.ports[0].open)
	s.cores[0] = s.cores[0].Successor(s.now)
	same(t, "flows", len(s.offloads[0].flows)+len(s.offloads[0].meters), 0)
	s.settle(0)
}
