package turn

import (
	"fmt"
	"strings"
	"testing"
)

// words is a gate for tests: "hello…" passes, "welcome N" from the other side of an earlier "hello" opens, the rest is opaque. What follows the
// digit N belongs to that session. A client is proven by "echo".
func words() *Gate {
	return &Gate{
		Inspect: func(s *GateState, up bool, payload, _ []byte) GateVerdict {
			side := uint32(1)
			if up {
				side = 2
			}
			switch p := string(payload); {
			case strings.HasPrefix(p, "hello"):
				s[0] |= side
			case strings.HasPrefix(p, "echo"):
				s[2] = 1
			case strings.HasPrefix(p, "welcome ") && s[0]&(3-side) != 0:
				s[1] = uint32(p[8])
				return GateOpen
			default:
				return GateDrop
			}
			return GatePass
		},
		Belongs: func(s *GateState, payload []byte) bool { return len(payload) > 0 && uint32(payload[0]) == s[1] },
		Proven:  func(s *GateState) bool { return s[2] != 0 },
	}
}

func gatedSetup() setup {
	return setup{policy: func(p *PolicyConfig) { p.Profile = ProfileLab }, rules: func(r *Rules) { r.Gate = words() }}
}

// open sets up a session between the client and a peer, as an initiator by indications.
func (c *client) open(peer string) {
	c.t.Helper()
	c.expect(RelayedSend, func() []Output { return c.sendTo(peer, "hello") })
	c.says(RelayedToData, peer, "welcome 7")
}

// says lets a peer say something to the client's relayed address.
func (c *client) says(d Disposition, peer, text string) []Output {
	c.t.Helper()
	return c.expect(d, func() []Output { return c.peer(c.relayed, peer, []byte(text)) })
}

func TestOpaqueDataPassesAfterAStartupOnly(t *testing.T) {
	s := newServer(t, gatedSetup())
	c := s.client("10.1.2.3:4000").allocate()
	const peer, other = "203.0.113.7:1935", "203.0.113.7:1936"
	c.expect(DropPayload, func() []Output { return c.sendTo(peer, "opaque") })
	c.says(DropPeerPayload, peer, "opaque")
	c.expect(DropPayload, func() []Output { return c.sendTo(peer, "welcome 7") }) // to nobody's hello
	c.open(peer)
	c.expect(RelayedSend, func() []Output { return c.sendTo(peer, "opaque") })
	c.says(RelayedToData, peer, "opaque")
	// Another port of the same address has nothing of it.
	c.expect(DropPayload, func() []Output { return c.sendTo(other, "opaque") })
	c.says(DropPeerPayload, other, "opaque")
	// Channels are as indications are, also those that were bound before.
	if c.bind(0x4000, peer) != 0 || c.bind(0x4001, other) != 0 {
		t.Fatal("no channel")
	}
	c.expect(RelayedChannel, func() []Output { return c.channel(0x4000, "opaque") })
	c.says(RelayedToChannel, peer, "opaque")
	c.expect(DropPayload, func() []Output { return c.channel(0x4001, "opaque") })
	c.says(DropPeerPayload, other, "opaque")
	c.says(RelayedToChannel, other, "hello")
	c.expect(RelayedChannel, func() []Output { return c.channel(0x4001, "welcome 8") }) // as the responder
	c.expect(RelayedChannel, func() []Output { return c.channel(0x4001, "opaque") })
	// The log names the rule.
	rules := 0
	for _, e := range s.events {
		if e.Kind == EventRefused && e.Rule == RulePayload {
			rules++
		}
	}
	same(t, "events", rules, 1) // at most one in ten seconds
	if s.stats().Refused[RulePayload] != 7 {
		t.Errorf("%d refusals counted", s.stats().Refused[RulePayload])
	}
}

func TestAPeerWhoseNATGivesItAnotherPortGoesOn(t *testing.T) {
	s := newServer(t, gatedSetup())
	c := s.client("10.1.2.3:4000").allocate()
	c.open("203.0.113.7:1935")
	c.says(DropPeerPayload, "203.0.113.7:2000", "8 of another session")
	c.expect(DropPayload, func() []Output { return c.sendTo("203.0.113.7:2000", "7 to a port that was not heard of") })
	c.says(RelayedToData, "203.0.113.7:2000", "7 of this one")
	c.expect(RelayedSend, func() []Output { return c.sendTo("203.0.113.7:2000", "opaque") })
	c.says(RelayedToData, "203.0.113.7:1935", "opaque") // and the old one
	c.says(DropPeerPayload, "203.0.113.7:0", "opaque")
}

func TestAHairpinPassesTheGatesOfBoth(t *testing.T) {
	s := newServer(t, gatedSetup())
	a, b := s.client("10.1.2.3:4000").allocate(), s.client("10.1.2.4:4000").allocate()
	to, back := b.relayed.String(), a.relayed.String()
	b.give(b.message(0x006, 0x0010, peerOf(back))) // permits a
	same(t, "opaque", len(a.sendTo(to, "opaque")), 0)
	same(t, "hello", len(a.sendTo(to, "hello")), 1)
	same(t, "opaque back", len(b.sendTo(back, "opaque")), 0)
	same(t, "welcome", len(b.sendTo(back, "welcome 7")), 1)
	same(t, "opaque, open", len(a.sendTo(to, "opaque")), 1)
	same(t, "opaque back, open", len(b.sendTo(back, "opaque")), 1)
	same(t, "dropped", s.did(DropPayload), uint64(2))
}

func TestCredentialsAndOwnServicesNeedNoGate(t *testing.T) {
	cfg := authSetup()
	users := cfg.rules
	cfg.rules = func(r *Rules) { users(r); r.Gate = words() }
	s := newServer(t, cfg)
	c := s.client("198.51.100.1:7000").challenged().login("anna", "pass").allocate()
	c.bind(0x4000, flowPeer)
	c.expect(RelayedChannel, func() []Output { return c.channel(0x4000, "opaque") })

	cfg = gatedSetup()
	cfg.policy = func(p *PolicyConfig) { p.Services = append(p.Services, endpointOf("192.0.2.15:1935")) }
	s = newServer(t, cfg)
	c = s.client("10.1.2.3:4000").allocate()
	c.expect(RelayedSend, func() []Output { return c.sendTo("192.0.2.15:1935", "opaque") })
	c.says(RelayedToData, "192.0.2.15:1935", "opaque")
}

func TestAnOpenGateOutlivesItsPermission(t *testing.T) {
	s := newServer(t, gatedSetup())
	c := s.client("10.1.2.3:4000").allocate(lifetimeOf(3600))
	const peer = "203.0.113.7:1935"
	c.open(peer)
	c.sendTo("203.0.113.8:1935", "hello") // never opened
	s.after(PermissionLifetime)
	s.tick()
	c.says(DropPeerStranger, peer, "opaque") // the permission itself is over
	c.expect(RelayedSend, func() []Output { return c.sendTo(peer, "opaque") })
	same(t, "permissions", s.stats().Permissions, 1)
	s.after(PermissionLifetime + gateMemory)
	s.tick()
	c.expect(DropPayload, func() []Output { return c.sendTo(peer, "opaque") })
}

func TestPermissionsThatAreOverGiveWayToLivingOnes(t *testing.T) {
	cfg := gatedSetup()
	cfg.limits = func(l *Limits) { l.Permissions = 2 }
	s := newServer(t, cfg)
	c := s.client("10.1.2.3:4000").allocate()
	c.open("203.0.113.7:1935")
	c.open("203.0.113.8:1935")
	s.after(PermissionLifetime)
	s.tick()
	c.open("203.0.113.9:1935")
}

func TestGatesOfAnAddressAreBounded(t *testing.T) {
	s := newServer(t, gatedSetup())
	c := s.client("10.1.2.3:4000").allocate()
	for port := range 10 * maxGates {
		c.sendTo(fmt.Sprintf("203.0.113.7:%d", 2000+port), "hello")
	}
	same(t, "gates", len(s.cores[0].gates), maxGates)
	last := fmt.Sprintf("203.0.113.7:%d", 2000+10*maxGates-1)
	c.says(RelayedToData, last, "welcome 7")
	c.sendTo("203.0.113.7:1999", "hello")
	c.expect(RelayedSend, func() []Output { return c.sendTo(last, "opaque") }) // open ones do not give way
	for port := range maxGates {
		at := fmt.Sprintf("203.0.113.7:%d", 40000+port)
		c.sendTo(at, "hello")
		c.peer(c.relayed, at, []byte("welcome 7"))
	}
	c.expect(DropPayload, func() []Output { return c.sendTo("203.0.113.7:3000", "hello") })
}

// What is not RTMFP does not make a peer count as one that answers: its budget stays small.
func TestAnOpaqueAnswerIsNoAnswer(t *testing.T) {
	cfg := gatedSetup()
	cfg.limits = func(l *Limits) { l.UnansweredPackets = 3 }
	s := newServer(t, cfg)
	c := s.client("10.1.2.3:4000").allocate()
	const peer = "203.0.113.7:1935"
	for range 3 {
		c.expect(RelayedSend, func() []Output { return c.sendTo(peer, "hello") })
		c.says(DropPeerPayload, peer, "opaque")
	}
	c.expect(DropUnanswered, func() []Output { return c.sendTo(peer, "hello") })
	c.says(RelayedToData, peer, "hello")
	c.expect(RelayedSend, func() []Output { return c.sendTo(peer, "hello") })
}

func TestRulesWithAGateHoldAtOnce(t *testing.T) {
	cfg := gatedSetup()
	cfg.rules = nil
	s := newServer(t, cfg)
	c := s.client("10.1.2.3:4000").allocate()
	c.expect(RelayedSend, func() []Output { return c.sendTo(flowPeer, "opaque") })
	r := *s.rules
	r.Gate = words()
	s.cores[0].SetRules(s.now, &r)
	c.expect(DropPayload, func() []Output { return c.sendTo(flowPeer, "opaque") })
	r2 := r
	r2.Gate = nil
	s.cores[0].SetRules(s.now, &r2)
	c.expect(RelayedSend, func() []Output { return c.sendTo(flowPeer, "opaque") })
}

// Forged pairs of Allocate and Send take all ports. Who has echoed something keeps its place, and a newcomer gets one.
func TestAFullServerTakesThePlaceOfTheOldestThatIsNotProven(t *testing.T) {
	cfg := gatedSetup()
	cfg.ports = PortRange{50000, 50009}
	s := newServer(t, cfg)
	proven := s.client("10.1.2.3:4000").allocate()
	proven.sendTo(flowPeer, "hello")
	proven.sendTo(flowPeer, "echo")
	stream := s.stream("10.1.2.3:4001", 1).allocate()
	stream.sendTo(flowPeer, "hello")
	for n := range 50 {
		forged := s.client(fmt.Sprintf("10.9.%d.1:4000", n)).allocate()
		forged.expect(RelayedSend, func() []Output { return forged.sendTo(flowPeer, "hello") })
	}
	if _, ok := proven.session(); !ok {
		t.Error("the proven client has lost its place")
	}
	if _, ok := stream.session(); !ok {
		t.Error("the TCP client has lost its place")
	}
	same(t, "evicted", s.stats().Ended[EndEvicted], uint64(42))
	newcomer := s.client("10.1.2.5:4000").allocate()
	newcomer.open(flowPeer)
	// Without a gate nothing proves anybody, and nobody gives way.
	cfg.rules = nil
	s = newServer(t, cfg)
	for n := range 10 {
		s.client(fmt.Sprintf("10.9.%d.1:4000", n)).allocate().sendTo(flowPeer, "hello")
	}
	same(t, "a newcomer", s.client("10.1.2.5:4000").request(0x003, udp), 508)
}

func TestAnOpenGateCostsNoAllocation(t *testing.T) {
	f, s := newFlow(t, 10)
	s.cores[0].rules.Gate = words()
	core, a := s.cores[0], &s.cores[0].allocs[f.index]
	for p := a.firstPerm; p != none; p = core.perms[p].next { // as after a startup
		g := core.newGate(p, 5000)
		core.gates[g].open = true
	}
	f.b = channelData(0x4000, "opaque")
	same(t, "ChannelDataUp", testing.AllocsPerRun(1000, f.up), 0)
	f.b = (&client{server: s, src: f.src}).message(0x006, 0x0010, peerOf(dataPeer), dataOf("opaque"))
	same(t, "SendUp", testing.AllocsPerRun(1000, f.up), 0)
	f.b, f.from = []byte("opaque"), endpointOf(flowPeer)
	same(t, "ChannelDataDown", testing.AllocsPerRun(1000, f.down), 0)
	same(t, "dropped", s.did(DropPayload)+s.did(DropPeerPayload), uint64(0))
}

// What the kernel relays is not looked at any more, so it is given open flows only.
func TestAFlowIsOffloadedWhenItsGateIsOpen(t *testing.T) {
	s := newServer(t, gatedSetup())
	o := s.offloads[0]
	c := s.client("10.1.2.3:4000").allocate()
	const peer = "203.0.113.7:1935"
	for range 3 {
		c.sendTo(peer, "hello")
		c.says(RelayedToData, peer, "hello") // answered, and not open
	}
	same(t, "offloaded during the startup", len(o.flows), 0)
	c.says(RelayedToData, peer, "welcome 7")
	c.sendTo(peer, "opaque")
	same(t, "offloaded", len(o.flows), 2)
	c.says(RelayedToData, "203.0.113.7:1936", "hello") // another port of the same address
	c.sendTo("203.0.113.7:1936", "hello")
	same(t, "offloaded besides", len(o.flows), 2)
}
