package turn

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stilenet/stile/stun"
)

// confirmed makes an allocation and confirms it.
func (c *client) confirmed() *client {
	c.t.Helper()
	c.allocate()
	if code := c.request(stun.Refresh); code != 0 {
		c.t.Fatalf("Refresh: %d", code)
	}
	return c
}

func TestPerClientLimitCountsRestingPorts(t *testing.T) {
	for name, set := range map[string]func(*Limits){
		"per_client":        func(l *Limits) { l.PerClient = 2 },
		"per_client_prefix": func(l *Limits) { l.PerClientPrefix = 2 },
	} {
		s := newServer(t, setup{limits: set})
		a := s.client("198.51.100.1:7000").confirmed()
		b := s.client("198.51.100.1:7001").allocate()
		c := s.client("198.51.100.1:7002").allocate() // unconfirmed ones do not count
		b.confirmedBy(t, 0)
		same(t, name+": the third is confirmed", c.request(stun.Refresh), 486)
		same(t, name+": a fourth", s.client("198.51.100.1:7003").request(stun.Allocate, udp), 486)
		neighbour := 0
		if name == "per_client_prefix" {
			neighbour = 486
		}
		same(t, name+": a neighbour", s.client("198.51.100.2:7000").request(stun.Allocate, udp), neighbour)
		same(t, name+": another network", s.client("198.51.101.1:7000").request(stun.Allocate, udp), 0)
		same(t, name+": release", a.request(stun.Refresh, lifetimeOf(0)), 0)
		s.after(portQuarantine - 1)
		same(t, name+": while the port rests", a.request(stun.Allocate, udp), 486)
		s.after(1)
		same(t, name+": afterwards", a.request(stun.Allocate, udp), 0)
		same(t, name+": ended for it", s.stats().Ended[EndQuota], 1)
	}
}

func (c *client) confirmedBy(t *testing.T, code int) {
	t.Helper()
	same(t, "Refresh", c.request(stun.Refresh), code)
}

func TestIPv6ClientsCountByTheirSite(t *testing.T) {
	s := newServer(t, setup{limits: func(l *Limits) { l.PerClientPrefix = 1 }, relays: []RelayAddress{{ipOf("2001:db8::15"), ipOf("2001:db8::15")}}})
	s.client("[2001:db8:7:100::1]:7000").confirmed()
	same(t, "the same /56", s.client("[2001:db8:7:1ff:9::1]:7000").request(stun.Allocate, udp), 486)
	same(t, "the next /56", s.client("[2001:db8:7:200::1]:7000").request(stun.Allocate, udp), 0)
}

func TestQuotaReachedDropsTheSend(t *testing.T) {
	s := newServer(t, setup{limits: func(l *Limits) { l.PerClient = 1 }})
	a, b := s.client("198.51.100.1:7000").allocate(), s.client("198.51.100.1:7001").allocate()
	same(t, "the first", toPeer(a.sendTo("203.0.113.5:5000", "x")), "2->203.0.113.5:5000 x")
	s.expect(DropQuota, func() []Output { return b.sendTo("203.0.113.5:5000", "x") })
	same(t, "allocations", s.stats().Allocations, 1)
}

func TestAllocationsLimitEvictsUnconfirmedOnesFirst(t *testing.T) {
	s := newServer(t, setup{limits: func(l *Limits) { l.Allocations = 2 }})
	s.client("198.51.100.1:7000").confirmed()
	evicted := s.client("198.51.100.1:7001").allocate()
	s.client("198.51.100.1:7002").confirmed()
	same(t, "the unconfirmed one", evicted.request(stun.Refresh), 437)
	same(t, "evicted", s.stats().Evicted, 1)
	same(t, "one too many", s.client("198.51.100.1:7003").request(stun.Allocate, udp), 508)
	same(t, "a reservation too many", s.client("198.51.100.1:7003").request(stun.Allocate, udp, props(0xC0)), 508)
	s.after(DefaultLifetime)
	s.tick()
	same(t, "resting ports do not count", s.client("198.51.100.1:7003").request(stun.Allocate, udp), 0)
}

func TestEveryPortIsGivenAndThen508(t *testing.T) {
	s := newServer(t, setup{ports: PortRange{50000, 50009}})
	seen := make(map[uint16]bool)
	for k := range 10 {
		seen[s.client(fmt.Sprintf("198.51.100.1:%d", 7000+k)).confirmed().relayed.Port()] = true
	}
	same(t, "ports", len(seen), 10)
	same(t, "one more", s.client("198.51.100.1:8000").request(stun.Allocate, udp), 508)
}

func TestPoolEvictsItsOldestAndRecyclesThePort(t *testing.T) {
	s := newServer(t, setup{limits: func(l *Limits) { l.Unconfirmed = 3; l.PerClient = 2 }})
	established := s.client("198.51.100.9:7000").confirmed()
	var all []*client
	for k := range 3 {
		all = append(all, s.client(fmt.Sprintf("198.51.100.1:%d", 7000+k)).allocate())
	}
	opened := s.ports[0].opened
	next := s.client("198.51.100.2:7000").allocate()
	same(t, "the port of the oldest", next.relayed, all[0].relayed)
	same(t, "ports opened", s.ports[0].opened, opened)
	same(t, "recycled", s.stats().Recycled, 1)
	same(t, "the oldest", all[0].request(stun.Refresh), 437)
	same(t, "the second", all[1].request(stun.Refresh), 0)
	same(t, "unconfirmed", s.stats().Unconfirmed, 2)
	s.client("198.51.100.2:7001").allocate()
	even := s.client("198.51.100.2:7002").allocate(props(0x80)) // cannot take what the oldest has
	same(t, "the third", all[2].request(stun.Refresh), 437)
	same(t, "recycled", s.stats().Recycled, 1)
	same(t, "evicted", s.stats().Evicted, 2)
	even.request(stun.Refresh)
	next.request(stun.Refresh)
	s.client("198.51.100.3:7000").allocate()
	s.client("198.51.100.3:7001").allocate()
	same(t, "who may have no more evicts nobody", s.client("198.51.100.2:7003").request(stun.Allocate, udp, props(0x80)), 486)
	same(t, "nor recycles", s.client("198.51.100.2:7003").request(stun.Allocate, udp), 486)
	same(t, "unconfirmed", s.stats().Unconfirmed, 3)
	same(t, "the established one", established.request(stun.Refresh), 0)
}

func TestAnEvictedStreamIsClosed(t *testing.T) {
	s := newServer(t, setup{limits: func(l *Limits) { l.Unconfirmed = 1 }})
	s.stream("198.51.100.1:7000", 5).allocate()
	s.client("198.51.100.1:7001").allocate()
	same(t, "closed", fmt.Sprint(s.ports[0].streams), "[5]")
	s.stream("198.51.100.1:7002", 6).confirmed()
	s.cores[0].StreamClosed(s.now, 6)
	s.settle(0)
	same(t, "its own end closes nothing", fmt.Sprint(s.ports[0].streams), "[5]")
	same(t, "gone", s.cores[0].HasStream(6), false)
	same(t, "reason", fmt.Sprint(s.ended()), "[stream-closed]")
}

func TestPermissionsAndChannelsAreBounded(t *testing.T) {
	s := newServer(t, setup{limits: func(l *Limits) { l.Permissions = 3; l.Channels = 2 }})
	c := s.client("198.51.100.1:7000").allocate(lifetimeOf(3600))
	same(t, "first channel", c.bind(0x4000, "203.0.113.1:5000"), 0)
	same(t, "second channel", c.bind(0x4001, "203.0.113.1:5001"), 0)
	same(t, "third channel", c.bind(0x4002, "203.0.113.1:5002"), 508)
	c.sendTo("203.0.113.2:5000", "x")
	same(t, "all or none", c.request(stun.CreatePermission, peerOf("203.0.113.3:1"), peerOf("203.0.113.4:1")), 508)
	same(t, "none", s.stats().Permissions, 2)
	c.sendTo("203.0.113.3:5000", "x")
	s.expect(DropTableFull, func() []Output { return c.sendTo("203.0.113.4:5000", "x") })
	same(t, "a known one", toPeer(c.sendTo("203.0.113.3:5000", "x")), "2->203.0.113.3:5000 x")
	same(t, "refreshing known ones", c.request(stun.CreatePermission, peerOf("203.0.113.1:1"), peerOf("203.0.113.2:1"), peerOf("203.0.113.3:1")), 0)
	s.after(PermissionLifetime)
	same(t, "what expired makes room without a Tick", toPeer(c.sendTo("203.0.113.4:5000", "x")), "2->203.0.113.4:5000 x")
	s.after(ChannelLifetime - PermissionLifetime)
	same(t, "so do channels", c.bind(0x4002, "203.0.113.1:5002"), 0)
	same(t, "a permission for the bound one only", c.bind(0x4003, "203.0.113.9:5000"), 0)
}

func TestTooManyAddressesInOneRequest(t *testing.T) {
	c := newServer(t, setup{}).client("198.51.100.1:7000").allocate()
	var peers []attr
	for k := range maxPeersPerPerm {
		peers = append(peers, peerOf(fmt.Sprintf("203.0.113.%d:1", k+1)), peerOf(fmt.Sprintf("203.0.113.%d:2", k+1)))
	}
	same(t, "as many as fit", c.request(stun.CreatePermission, peers...), 0)
	same(t, "permissions", c.stats().Permissions, maxPeersPerPerm)
	same(t, "one more", c.request(stun.CreatePermission, append(peers, peerOf("203.0.113.250:1"))...), 508)
	same(t, "none", c.request(stun.CreatePermission), 400)
	same(t, "a malformed one", c.request(stun.CreatePermission, peers[0], value(stun.AttrXORPeerAddress, 1)), 400)
}

func TestRatesBoundAnAllocation(t *testing.T) {
	const peer = "203.0.113.5:5000"
	for name, set := range map[string]func(*Limits){
		"packets": func(l *Limits) { l.PacketsPerSecond = 10 },
		"bytes":   func(l *Limits) { l.BytesPerSecond = 100 },
	} {
		s := newServer(t, setup{limits: set})
		c := s.client("198.51.100.1:7000").allocate()
		other := s.client("198.51.100.1:7001").allocate()
		other.bind(0x4000, peer)
		c.bind(0x4000, peer)
		for range 5 {
			same(t, name+": up", len(c.channel(0x4000, "ten bytes!")), 1)
			same(t, name+": down", len(s.peer(c.relayed, peer, []byte("ten bytes!"))), 1)
		}
		s.expect(DropRate, func() []Output { return c.channel(0x4000, "ten bytes!") })
		s.expect(DropPeerRate, func() []Output { return s.peer(c.relayed, peer, []byte("ten bytes!")) })
		s.expect(DropRate, func() []Output { return c.sendTo(peer, "ten bytes!") })
		same(t, name+": another allocation", len(other.channel(0x4000, "ten bytes!")), 1)
		s.after(time.Second/10 - 1)
		s.expect(DropRate, func() []Output { return c.channel(0x4000, "ten bytes!") })
		s.after(1)
		same(t, name+": a tenth of a second later", len(c.channel(0x4000, "ten bytes!")), 1)
	}
}

func TestUnansweredPeerGetsLittle(t *testing.T) {
	const peer = "203.0.113.5:5000"
	set := func(l *Limits) { l.UnansweredPackets, l.UnansweredBytes, l.UnansweredAllClients = 20, 16<<10, 4 }
	s := newServer(t, setup{limits: set})
	clients := make([]*client, 6)
	got := 0
	for i := range clients {
		clients[i] = s.client(fmt.Sprintf("198.51.100.%d:7000", i+1)).allocate()
		mine := 0
		for range 25 {
			mine += len(clients[i].sendTo(peer, "x"))
		}
		got += mine
		if i < 4 {
			same(t, "one allocation", mine, 20)
		}
	}
	same(t, "all clients", got, 80)
	same(t, "dropped", s.did(DropUnanswered), uint64(6*25-80))
	same(t, "by a channel neither", clients[0].bind(0x4000, peer), 0)
	s.expect(DropUnanswered, func() []Output { return clients[0].channel(0x4000, "x") })
	same(t, "another port of the peer neither", len(clients[0].sendTo("203.0.113.5:6000", "x")), 0)
	same(t, "another peer", len(clients[0].sendTo("203.0.113.6:5000", "x")), 1)
	same(t, "it answers one client", clients[5].hears(peer), "data")
	for range 100 {
		same(t, "which is free then", len(clients[5].sendTo(peer, "x")), 1)
	}
	same(t, "the others are not", len(clients[0].sendTo(peer, "x")), 0)

	s = newServer(t, setup{limits: set})
	c := s.client("198.51.100.1:7000").allocate(lifetimeOf(3600))
	big := string(make([]byte, 1000))
	for range 16 {
		c.sendTo(peer, big)
	}
	same(t, "bytes", len(c.sendTo(peer, big)), 0)
	same(t, "what is left of them", len(c.sendTo(peer, big[:384])), 1)
	same(t, "and no more", len(c.sendTo(peer, "x")), 0)
	for range 3 { // a client that keeps on trying
		s.after(unansweredWindow / 4)
		c.sendTo(peer, "x")
	}
	s.after(unansweredWindow/4 - 1)
	same(t, "a nanosecond before the window's end", len(c.sendTo(peer, "x")), 0)
	s.after(1)
	same(t, "at its end", len(c.sendTo(peer, "x")), 1)
}

func TestUnansweredPeersAreBounded(t *testing.T) {
	l := NewLedger([]RelayAddress{{ipOf("192.0.2.1"), ipOf("192.0.2.1")}}, PortRange{50000, 50001},
		Limits{UnansweredPackets: 1, UnansweredAllClients: 1}, [32]byte{})
	a := ipOf("2001:db8::")
	for k := range maxUnanswered + 100 {
		if a = a.Next(); !l.unansweredAllowed(testEpoch.Add(time.Duration(k)), a, 1) || l.unansweredAllowed(testEpoch, a, 1) {
			t.Fatal(k)
		}
	}
	same(t, "peers", l.Ports().SilentPeers, maxUnanswered)
	same(t, "the oldest is forgotten", l.unansweredAllowed(testEpoch, ipOf("2001:db8::1"), 1), true)
	l.unansweredAllowed(testEpoch.Add(2*unansweredWindow), a, 1)
	same(t, "after the window", l.Ports().SilentPeers, 1)
}

func TestReplyBudgetBoundsAPrefix(t *testing.T) {
	s := newServer(t, setup{limits: func(l *Limits) { l.ReplyBytesPerPrefix = 400 }})
	old := s.client("198.51.100.200:7000").confirmed() // 160 bytes of it
	s.after(time.Second)
	answered := 0
	for k := range 20 {
		if s.client(fmt.Sprintf("198.51.100.%d:7000", k+1)).request(stun.Allocate, udp) == 0 {
			answered++
		}
	}
	same(t, "answers of 80 bytes", answered, 5)
	same(t, "dropped", s.did(DropReplyBudget), 15)
	same(t, "another prefix", s.client("198.51.101.1:7000").request(stun.Allocate, udp), 0)
	same(t, "a stream", s.stream("198.51.100.77:7000", 4).request(stun.Allocate, udp), 0)
	same(t, "who has proved itself", old.request(stun.Refresh), 0)
	s.after(time.Second / 5)
	same(t, "a fifth of a second later", s.client("198.51.100.99:7000").request(stun.Allocate, udp), 0)
	same(t, "and no more", s.client("198.51.100.98:7000").request(stun.Allocate, udp), -1)
}

func TestPortsOfOtherProgramsAreAvoided(t *testing.T) {
	s := newServer(t, setup{ports: PortRange{50000, 50009}, foreign: []uint16{50000, 50001, 50002, 50003}})
	for k := range 6 {
		c := s.client(fmt.Sprintf("198.51.100.1:%d", 7000+k))
		for c.request(stun.Allocate, udp) != 0 { // nine tries of a request may all meet them
			if s.after(1); s.stats().OpenFailed > 1000 {
				t.Fatal("no port found")
			}
		}
		c.request(stun.Refresh)
	}
	same(t, "none left", s.client("198.51.100.1:8000").request(stun.Allocate, udp, props(0x80)), 508)
}

func TestAnOpenErrorIsReportedAtMostEveryTenSeconds(t *testing.T) {
	s := newServer(t, setup{})
	s.ports[0].err = errors.New("too many open files")
	for range 100 {
		same(t, "Allocate", s.client("198.51.100.1:7000").request(stun.Allocate, udp, props(0xC0)), 508)
		s.after(time.Second / 5)
	}
	same(t, "counted", s.stats().OpenFailed, 100)
	same(t, "events", len(s.events), 2)
	same(t, "free", s.ledger.Ports().Free, 100)
}

func TestRefusalsAreReportedAtMostEveryTenSeconds(t *testing.T) {
	s := newServer(t, setup{})
	c := s.client("198.51.100.1:7000").allocate()
	for range 100 {
		c.sendTo("224.0.0.1:5000", "x")
		s.after(time.Second / 5)
	}
	same(t, "counted", s.stats().Refused[RuleMulticast], 100)
	var counts []uint64
	for _, e := range s.events {
		counts = append(counts, e.Count)
	}
	same(t, "events", fmt.Sprint(counts), "[1 50]")
}

func TestATCPClientsOversizedPayloadIsDropped(t *testing.T) {
	s := newServer(t, setup{})
	c := s.stream("198.51.100.1:7000", 4).allocate()
	c.bind(0x4000, "203.0.113.5:5000")
	longest := string(make([]byte, maxPayload))
	same(t, "the longest datagram", len(c.channel(0x4000, longest)), 1)
	s.expect(DropSize, func() []Output { return c.channel(0x4000, longest+"x") })
	s.expect(DropSize, func() []Output { return c.channel(0x4000, longest+string(make([]byte, 28))) })
}

func TestAPeersOversizedDatagramIsDropped(t *testing.T) {
	const six = "[2001:db8:9::5]:5000"
	s := newServer(t, setup{relays: []RelayAddress{{ipOf("2001:db8::15"), ipOf("2001:db8::15")}}})
	tcp, plain := s.stream("[2001:db8:1::1]:7000", 4).allocate(), s.client("[2001:db8:1::1]:7001").allocate()
	for _, tt := range []struct {
		c     *client
		bound bool
		size  int
		end   Disposition
	}{
		{tcp, false, 65532 - 28, RelayedToData},
		{tcp, false, 65532 - 27, DropPeerSize},
		{tcp, false, 65535, DropPeerSize},
		{plain, false, 65507 - 48 - 3, RelayedToData},
		{plain, false, 65507 - 48, DropPeerSize},
		{tcp, true, 65535, RelayedToChannel},
		{plain, true, 65503, RelayedToChannel},
		{plain, true, 65504, DropPeerSize},
	} {
		if tt.c.sendTo(six, "x"); tt.bound {
			tt.c.bind(0x4000, six)
		}
		out := s.expect(tt.end, func() []Output { return s.peer(tt.c.relayed, six, make([]byte, tt.size)) })
		if len(out) == 1 && !tt.bound {
			m, err := stun.Parse(out[0].Data)
			if v, _ := m.Get(stun.AttrData); err != nil || len(v) != tt.size {
				t.Errorf("%d bytes: %v, %d in DATA", tt.size, err, len(v))
			}
		}
	}
}
