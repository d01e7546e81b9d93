package dataplane_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stilenet/stile/nattest/natlab"
	"github.com/stilenet/stile/turn"
	"github.com/stilenet/stile/turn/client"
	"github.com/stilenet/stile/turn/dataplane"
)

// The deployments of this file are an administrator's network, with its server and clients as they are in production: the plain
// engine and turn/client take a simulated host's functions where they would take those of package net.
//
//	LAN 10.0.0.0/24 ── firewall ── internet: peer 203.0.113.7
//	                                  └─ proxy 198.51.100.2
const (
	proxyAddress = "198.51.100.2"
	proxyServer  = proxyAddress + ":3478"
	peerAddress  = "203.0.113.7"
)

// bubble runs f in virtual time once for each seed, and checks that nothing is left.
func bubble(t *testing.T, f func(t *testing.T, n *natlab.Net)) {
	for seed := uint64(1); seed <= 5; seed++ {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
			natlab.Run(t, seed, f)
		})
	}
}

// proxy is a server on a simulated host.
type proxy struct {
	*dataplane.Server
	host   *natlab.Host
	rules  *turn.Rules
	cancel context.CancelFunc
	ended  chan error

	mu     sync.Mutex
	events []turn.Event
}

// addProxy puts a host into the internet and a server on it, with the rules that nobody has configured.
func addProxy(t *testing.T, n *natlab.Net, clients ...string) *proxy {
	t.Helper()
	p := &proxy{host: n.Internet().Host("proxy", proxyAddress)}
	local := netip.MustParseAddr(proxyAddress)
	cfg := turn.PolicyConfig{
		Profile:      turn.ProfileCorporate,
		Relays:       []turn.RelayAddress{{Public: local, Local: local}},
		RelayPorts:   turn.PortRange{First: 49152, Last: 65535},
		OwnAddresses: []netip.Addr{local},
		Routes: []turn.Route{
			{Prefix: netip.MustParsePrefix("0.0.0.0/0"), Interface: 2, Gateway: netip.MustParseAddr("198.51.100.1")},
			{Prefix: netip.MustParsePrefix("198.51.100.0/29"), Interface: 2},
		},
	}
	for _, c := range clients {
		cfg.Clients = append(cfg.Clients, netip.MustParsePrefix(c))
	}
	policy, err := turn.NewPolicy(cfg)
	if err != nil {
		t.Fatal(err)
	}
	p.rules = &turn.Rules{Policy: policy, Limits: turn.DefaultLimits()}
	p.start(t, n.Seed())
	return p
}

// start opens and serves; after stop it is the restart of the machine's program.
func (p *proxy) start(t *testing.T, seed uint64) {
	t.Helper()
	local := netip.MustParseAddr(proxyAddress)
	at := netip.MustParseAddrPort(proxyServer)
	cfg := dataplane.Config{
		Engine:       dataplane.Plain,
		Listeners:    []dataplane.Listener{{Network: "udp", Address: at}, {Network: "tcp", Address: at}},
		Relays:       []turn.RelayAddress{{Public: local, Local: local}},
		Ports:        turn.PortRange{First: 49152, Last: 65535},
		Rules:        p.rules,
		ListenPacket: p.host.ListenPacket,
		Listen:       p.host.Listen,
		OnEvents: func(e []turn.Event) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.events = append(p.events, e...)
		},
	}
	binary.BigEndian.PutUint64(cfg.Seed[:], seed)
	s, err := dataplane.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.Server, p.cancel, p.ended = s, cancel, make(chan error, 1)
	go func() { p.ended <- s.Serve(ctx) }()
}

// stop ends the server and checks that each packet was counted once.
func (p *proxy) stop(t *testing.T) {
	t.Helper()
	stats := p.stats(t)
	var sum uint64
	for _, n := range stats.Packets {
		sum += n
	}
	if sum != stats.Read || stats.Panics != 0 {
		t.Errorf("%d packets read, %d counted, %d panics", stats.Read, sum, stats.Panics)
	}
	p.cancel()
	if err := <-p.ended; err != nil {
		t.Error("Serve:", err)
	}
}

func (p *proxy) stats(t *testing.T) dataplane.Stats {
	t.Helper()
	s, err := p.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// session is the only allocation that there is.
func (p *proxy) session(t *testing.T) turn.Session {
	t.Helper()
	all, err := p.Sessions(t.Context())
	if err != nil || len(all) != 1 {
		t.Fatalf("%d allocations, %v; want 1", len(all), err)
	}
	return all[0]
}

// endings are the events that tell of the end of an allocation.
func (p *proxy) endings() (list []turn.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.events {
		if e.Kind == turn.EventEnded {
			list = append(list, e)
		}
	}
	return list
}

// config is that of a client on a simulated host.
func config(h *natlab.Host, network string) client.Config {
	return client.Config{Server: proxyServer, Network: network, ListenPacket: h.ListenPacket, DialContext: h.DialContext}
}

// dial allocates with transaction identifiers that the seed decides.
func dial(t *testing.T, n *natlab.Net, cfg client.Config) *client.Conn {
	t.Helper()
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], n.Seed())
	binary.BigEndian.PutUint64(seed[8:], uint64(time.Now().UnixNano()))
	cfg.Rand = rand.NewChaCha8(seed)
	c, err := client.Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func listen(t *testing.T, h *natlab.Host, address string) net.PacketConn {
	t.Helper()
	c, err := h.ListenPacket(t.Context(), "udp4", address)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func tell(t *testing.T, conn net.PacketConn, text string, to net.Addr) {
	t.Helper()
	if _, err := conn.WriteTo([]byte(text), to); err != nil {
		t.Fatalf("send %q: %v", text, err)
	}
}

// hear reads one datagram within a second, or reports false.
func hear(t *testing.T, conn net.PacketConn) (text string, from net.Addr, ok bool) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(time.Second))
	b := make([]byte, 2000)
	n, from, err := conn.ReadFrom(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return "", nil, false
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n]), from, true
}

func expect(t *testing.T, conn net.PacketConn, text string, from net.Addr) {
	t.Helper()
	if got, at, ok := hear(t, conn); !ok || got != text || at.String() != from.String() {
		t.Fatalf("%v got %q from %v, want %q from %v", conn.LocalAddr(), got, at, text, from)
	}
}

// converse exchanges enough datagrams that the client binds a channel on the way. a is reached at atA, b at atB.
func converse(t *testing.T, a, b net.PacketConn, atA, atB net.Addr) {
	t.Helper()
	for i := range 40 {
		tell(t, a, fmt.Sprintf("there %d", i), atB)
		expect(t, b, fmt.Sprintf("there %d", i), atA)
		tell(t, b, fmt.Sprintf("back %d", i), atA)
		expect(t, a, fmt.Sprintf("back %d", i), atB)
	}
}

// office is a LAN behind a firewall that lets out what the rules say.
func office(n *natlab.Net, udp, tcp natlab.Rule) *natlab.Segment {
	return n.Internet().Box("firewall", natlab.BoxConfig{
		Firewall: &natlab.FirewallConfig{Filtering: natlab.APDF, UDP: udp, TCP: tcp},
	}).Inside()
}

// only lets through what goes to the proxy.
var only = natlab.Rule{Block: natlab.Drop, To: []netip.Prefix{netip.MustParsePrefix(proxyAddress + "/32")}}

func TestClientWhoseUDPIsDroppedReachesAPeerThroughTheProxy(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *natlab.Net) {
				p := addProxy(t, n)
				defer p.stop(t)
				desk := office(n, only, natlab.Rule{}).Host("desk", "10.0.0.11")
				desk.Link().Set(natlab.LinkConfig{Delay: 5 * time.Millisecond, Jitter: time.Millisecond})
				peer := listen(t, n.Internet().Host("peer", peerAddress), peerAddress+":1935")
				direct := listen(t, desk, ":0")
				tell(t, direct, "direct", peer.LocalAddr())
				if text, _, ok := hear(t, peer); ok {
					t.Fatalf("the laboratory is wrong: the peer got %q", text)
				}
				c := dial(t, n, config(desk, network))
				defer c.Close()
				if got := c.MappedAddr(); got.Addr() != desk.Addr() {
					t.Errorf("mapped address %v, want one of %v", got, desk.Addr())
				}
				converse(t, c, peer, c.LocalAddr(), peer.LocalAddr())
				s := p.stats(t)
				if s.Channels != 1 || s.Packets[turn.RelayedChannel] == 0 || s.Packets[turn.RelayedSend] == 0 ||
					s.Packets[turn.RelayedToChannel] == 0 || s.Packets[turn.RelayedToData] == 0 {
					t.Errorf("%d channels; relayed: %d of channels and %d of indications up, %d and %d down", s.Channels, s.Packets[turn.RelayedChannel],
						s.Packets[turn.RelayedSend], s.Packets[turn.RelayedToChannel], s.Packets[turn.RelayedToData])
				}
			})
		})
	}
}

func TestClientWithNothingButTCPToTheProxyFindsIt(t *testing.T) {
	bubble(t, func(t *testing.T, n *natlab.Net) {
		p := addProxy(t, n)
		defer p.stop(t)
		desk := office(n, natlab.Rule{Block: natlab.Drop}, only).Host("desk", "10.0.0.11")
		peer := listen(t, n.Internet().Host("peer", peerAddress), peerAddress+":1935")
		begin := time.Now()
		c := dial(t, n, config(desk, "")) // tries UDP first
		defer c.Close()
		if c.ServerAddr().Network() != "tcp" || time.Since(begin) > 2*time.Second {
			t.Errorf("the proxy was reached over %s after %v", c.ServerAddr().Network(), time.Since(begin))
		}
		converse(t, c, peer, c.LocalAddr(), peer.LocalAddr())
		// A desk that is switched off ends no connection. Its allocation expires and takes the connection along.
		desk.Link().Cut()
		time.Sleep(601 * time.Second)
		if s := p.stats(t); s.Allocations != 0 || s.Streams != 0 {
			t.Errorf("%d allocations and %d connections are left", s.Allocations, s.Streams)
		}
	})
}

func TestClientBehindASymmetricNATReachesAPortRestrictedPeer(t *testing.T) {
	bubble(t, func(t *testing.T, n *natlab.Net) {
		p := addProxy(t, n, "192.0.2.20/32")
		defer p.stop(t)
		branch := n.Internet().Box("branch", natlab.BoxConfig{
			Outside: []string{"192.0.2.20"},
			NAT:     &natlab.NATConfig{Mapping: natlab.APDM, Filtering: natlab.APDF, Ports: natlab.PortConfig{Order: natlab.Random}},
		}).Inside().Host("player", "10.0.2.2")
		home := n.Internet().Box("home", natlab.BoxConfig{
			Outside: []string{"192.0.2.30"}, NAT: &natlab.NATConfig{Mapping: natlab.EIM, Filtering: natlab.APDF},
		}).Inside().Host("friend", "10.0.3.2")

		// The introducer sees both as their NATs show them.
		introducer := listen(t, n.Internet().Host("introducer", "203.0.113.9"), ":1935")
		at, _ := net.ResolveUDPAddr("udp4", "203.0.113.9:1935")
		ours, theirs := listen(t, branch, ":0"), listen(t, home, ":0")
		tell(t, theirs, "friend", at)
		_, friend, _ := hear(t, introducer)
		tell(t, ours, "player", at)
		_, player, _ := hear(t, introducer)
		for range 3 {
			tell(t, ours, "direct", friend)
			tell(t, theirs, "direct", player)
			if text, from, ok := hear(t, theirs); ok {
				t.Fatalf("the laboratory is wrong: %q came directly from %v", text, from)
			}
		}

		c := dial(t, n, config(branch, "udp"))
		defer c.Close()
		tell(t, c, "opens the permission", friend)
		if text, from, ok := hear(t, theirs); ok {
			t.Fatalf("the laboratory is wrong: the home's NAT let %q in from %v", text, from)
		}
		tell(t, theirs, "opens the NAT", c.LocalAddr())
		expect(t, c, "opens the NAT", friend)
		converse(t, c, theirs, c.LocalAddr(), friend)
	})
}

func TestTwoClientsOfOneProxyReachEachOther(t *testing.T) {
	bubble(t, func(t *testing.T, n *natlab.Net) {
		p := addProxy(t, n)
		defer p.stop(t)
		lan := office(n, only, only)
		one := dial(t, n, config(lan.Host("desk1", "10.0.0.11"), "udp"))
		defer one.Close()
		two := dial(t, n, config(lan.Host("desk2", "10.0.0.12"), "tcp"))
		defer two.Close()
		tell(t, one, "opens its permission", two.LocalAddr())
		time.Sleep(time.Second)
		tell(t, two, "opens the other", one.LocalAddr())
		expect(t, one, "opens the other", two.LocalAddr())
		converse(t, one, two, one.LocalAddr(), two.LocalAddr())
		s := p.stats(t)
		if s.Packets[turn.RelayedHairpin] < 80 || s.SendErrors != 0 {
			t.Errorf("%d packets were delivered within the server, %d could not be sent", s.Packets[turn.RelayedHairpin], s.SendErrors)
		}
	})
}

// TestBadLinkCostsDatagramsAndNothingElse: each Dial leaves one allocation, whatever was lost, doubled or overtaken on the way, and
// it has the relayed address that the client knows.
func TestBadLinkCostsDatagramsAndNothingElse(t *testing.T) {
	repeated := uint64(0)
	bubble(t, func(t *testing.T, n *natlab.Net) {
		p := addProxy(t, n)
		defer p.stop(t)
		desk := office(n, only, only).Host("desk", "10.0.0.11")
		desk.Link().Set(natlab.LinkConfig{
			Delay: 20 * time.Millisecond, Jitter: 5 * time.Millisecond, Loss: 0.1, Duplicate: 0.1, Reorder: 0.1, ReorderBy: 100 * time.Millisecond,
		})
		peer := listen(t, n.Internet().Host("peer", peerAddress), peerAddress+":1935")
		const dials, datagrams = 20, 100
		var up, down int
		for i := range dials {
			c := dial(t, n, config(desk, "udp"))
			if s := p.stats(t); s.Allocated != uint64(i+1) || s.Allocations > i+1 {
				t.Fatalf("Dial %d: %d allocations were made, %d live", i+1, s.Allocated, s.Allocations)
			}
			all, err := p.Sessions(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			relayed := netip.MustParseAddrPort(c.LocalAddr().String())
			if !slices.ContainsFunc(all, func(s turn.Session) bool { return s.Relayed == relayed }) {
				t.Fatalf("nobody has %v, the address that the client was told", relayed)
			}
			got, back := make(map[uint32]bool), make(map[uint32]bool)
			payload := make([]byte, 200)
			for k := range uint32(datagrams) {
				binary.BigEndian.PutUint32(payload, k)
				tell(t, c, string(payload), peer.LocalAddr())
				time.Sleep(20 * time.Millisecond)
				for number, ok := poll(t, peer, c.LocalAddr(), payload); ok; number, ok = poll(t, peer, c.LocalAddr(), payload) {
					got[number] = true
					binary.BigEndian.PutUint32(payload, number)
					tell(t, peer, string(payload), c.LocalAddr())
				}
				for number, ok := poll(t, c, peer.LocalAddr(), payload); ok; number, ok = poll(t, c, peer.LocalAddr(), payload) {
					back[number] = true
				}
			}
			up += len(got)
			down += len(back)
			if err := c.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		}
		// Of a hundred, ninety arrive and eighty-one come back, some of them after the last look.
		if up < dials*datagrams*85/100 || down < dials*datagrams*70/100 || up == dials*datagrams {
			t.Errorf("of %d datagrams %d arrived and %d came back", dials*datagrams, up, down)
		}
		time.Sleep(11 * time.Minute) // a lost release ends with the lifetime
		s := p.stats(t)
		if s.Allocations != 0 || s.Allocated != dials {
			t.Errorf("%d allocations are left of %d, want 0 of %d", s.Allocations, s.Allocated, dials)
		}
		repeated += s.Packets[turn.AnsweredSuccess]
	})
	if repeated <= 5*20*2+5*20 { // Allocate, ChannelBind and the releasing Refresh of each
		t.Errorf("%d successes: no request was ever repeated, so the test proves nothing", repeated)
	}
}

// poll takes one datagram of a sender that is there already, checks it against the payload, and returns its number.
func poll(t *testing.T, conn net.PacketConn, from net.Addr, want []byte) (number uint32, ok bool) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(time.Microsecond))
	b := make([]byte, 2000)
	for {
		n, at, err := conn.ReadFrom(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, false
		}
		if err != nil {
			t.Fatal(err)
		}
		if at.String() != from.String() {
			continue // late, from the allocation before
		}
		if n != len(want) || !bytes.Equal(b[4:n], want[4:]) {
			t.Fatalf("%d bytes changed on their way", n)
		}
		return binary.BigEndian.Uint32(b), true
	}
}

// lose reads until the client says that its allocation is lost, and reports how long that took.
func lose(t *testing.T, c *client.Conn) time.Duration {
	t.Helper()
	begin := time.Now()
	_ = c.SetReadDeadline(begin.Add(time.Hour))
	if _, from, err := c.ReadFrom(make([]byte, 100)); !errors.Is(err, client.ErrAllocationLost) {
		t.Fatalf("after %v: from %v, %v; want ErrAllocationLost", time.Since(begin), from, err)
	}
	return time.Since(begin)
}

func TestClientThatItsNATForgotDialsAgain(t *testing.T) {
	bubble(t, func(t *testing.T, n *natlab.Net) {
		p := addProxy(t, n, "192.0.2.20/32")
		defer p.stop(t)
		nat := n.Internet().Box("nat", natlab.BoxConfig{
			Outside: []string{"192.0.2.20"}, NAT: &natlab.NATConfig{Mapping: natlab.EIM, Ports: natlab.PortConfig{Order: natlab.Random}},
		})
		desk := nat.Inside().Host("desk", "10.0.0.11")
		peer := listen(t, n.Internet().Host("peer", peerAddress), peerAddress+":1935")
		first := dial(t, n, config(desk, "udp"))
		defer first.Close()
		converse(t, first, peer, first.LocalAddr(), peer.LocalAddr())
		// The mapping survives silence: the client's keepalives are more frequent than the NAT's two minutes.
		time.Sleep(8 * time.Minute)
		tell(t, first, "still here", peer.LocalAddr())
		expect(t, peer, "still here", first.LocalAddr())

		nat.Reboot()
		if took := lose(t, first); took > 10*time.Minute {
			t.Errorf("the client noticed after %v", took)
		}
		if _, err := first.WriteTo([]byte("too late"), peer.LocalAddr()); !errors.Is(err, client.ErrAllocationLost) {
			t.Errorf("WriteTo: %v, want ErrAllocationLost", err)
		}
		second := dial(t, n, config(desk, "udp"))
		defer second.Close()
		converse(t, second, peer, second.LocalAddr(), peer.LocalAddr())
		if first.LocalAddr().String() == second.LocalAddr().String() {
			t.Errorf("both had %v: a peer of the first could write to the second", first.LocalAddr())
		}
		time.Sleep(10 * time.Minute)
		if got := p.session(t).Relayed.String(); got != second.LocalAddr().String() { // the first has expired
			t.Errorf("the living allocation is %s, want %v", got, second.LocalAddr())
		}
	})
}

func TestRestartOfTheServerIsNoticedAndTheClientDialsAgain(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *natlab.Net) {
				p := addProxy(t, n)
				desk := office(n, only, only).Host("desk", "10.0.0.11")
				peer := listen(t, n.Internet().Host("peer", peerAddress), peerAddress+":1935")
				first := dial(t, n, config(desk, network))
				defer first.Close()
				converse(t, first, peer, first.LocalAddr(), peer.LocalAddr())
				p.stop(t)
				if e := p.endings(); len(e) != 1 || e[0].Reason != turn.EndShutdown || e[0].Session.PacketsUp != 40 || e[0].Session.PacketsDown != 40 {
					t.Errorf("endings: %+v, want one at the shutdown with 40 packets each way", e)
				}
				time.Sleep(5 * time.Second)
				p.start(t, n.Seed()+1000)
				defer p.stop(t)
				most := 10 * time.Minute // with the next Refresh
				if network == "tcp" {
					most = time.Second // the connection is closed
				}
				if took := lose(t, first); took > most {
					t.Errorf("the client noticed after %v", took)
				}
				second := dial(t, n, config(desk, network))
				defer second.Close()
				converse(t, second, peer, second.LocalAddr(), peer.LocalAddr())
			})
		})
	}
}

// TestAllocationsLiveForHours: a client that only listens keeps its permission, one that writes rarely keeps its channel.
func TestAllocationsLiveForHours(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		for _, dialect := range []client.Dialect{client.Legacy, client.Modern} {
			t.Run(fmt.Sprintf("%v over %s", dialect, network), func(t *testing.T) {
				bubble(t, func(t *testing.T, n *natlab.Net) {
					p := addProxy(t, n)
					defer p.stop(t)
					rules := *p.rules
					rules.ModernWithoutCredentials = dialect == client.Modern
					if err := p.SetRules(t.Context(), &rules); err != nil {
						t.Fatal(err)
					}
					desk := office(n, only, only).Host("desk", "10.0.0.11")
					desk.Link().Set(natlab.LinkConfig{Delay: 10 * time.Millisecond})
					out := n.Internet().Host("peer", peerAddress)
					quiet, busy := listen(t, out, peerAddress+":1935"), listen(t, n.Internet().Host("other", "203.0.113.8"), ":1935")
					busyAt, _ := net.ResolveUDPAddr("udp4", "203.0.113.8:1935")
					cfg := config(desk, network)
					cfg.Dialect = dialect
					c := dial(t, n, cfg)
					defer c.Close()
					if err := c.Permit(t.Context(), netip.MustParseAddrPort(quiet.LocalAddr().String())); err != nil {
						t.Fatal(err)
					}
					converse(t, c, busy, c.LocalAddr(), busyAt)
					before := p.session(t)
					for minutes := 0; minutes < 6*60; minutes += 7 {
						time.Sleep(7 * time.Minute)
						tell(t, quiet, "news", c.LocalAddr())
						expect(t, c, "news", quiet.LocalAddr())
						channels := p.stats(t).Packets[turn.RelayedChannel]
						tell(t, c, "by channel", busyAt)
						expect(t, busy, "by channel", c.LocalAddr())
						if p.stats(t).Packets[turn.RelayedChannel] != channels+1 {
							t.Fatalf("after %d minutes the channel is gone", minutes)
						}
						tell(t, busy, "answer", c.LocalAddr())
						expect(t, c, "answer", busyAt)
					}
					after := p.session(t)
					if after.ID != before.ID || after.Relayed != before.Relayed || after.Permissions != 2 || after.Channels != 1 {
						t.Errorf("before: %+v\nafter: %+v", before, after)
					}
					if errs := p.stats(t).Errors; len(errs) != 0 {
						t.Errorf("error responses: %v", errs)
					}
				})
			})
		}
	}
}

func TestAllocationOfAClientThatVanishedExpires(t *testing.T) {
	bubble(t, func(t *testing.T, n *natlab.Net) {
		p := addProxy(t, n)
		defer p.stop(t)
		desk := office(n, only, only).Host("desk", "10.0.0.11")
		peer := listen(t, n.Internet().Host("peer", peerAddress), peerAddress+":1935")
		before := p.Ledger().Ports()
		c := dial(t, n, config(desk, "udp"))
		defer c.Close()
		relayed := c.LocalAddr()
		begin := p.session(t).Started
		converse(t, c, peer, relayed, peer.LocalAddr())
		desk.Link().Cut()

		// A nanosecond before its end it is there, and its channel and permission end by themselves before or with it.
		time.Sleep(time.Until(begin.Add(600*time.Second - 1)))
		if s := p.stats(t); s.Allocations != 1 {
			t.Fatalf("%d allocations a nanosecond before the end", s.Allocations)
		}
		if len(p.endings()) != 0 {
			t.Fatal("it ended too early")
		}
		time.Sleep(2 * time.Second) // tables are tidied once a second
		s := p.stats(t)
		if s.Allocations+s.Unconfirmed+s.Permissions+s.Channels+s.Streams != 0 {
			t.Errorf("left: %d allocations, %d permissions, %d channels", s.Allocations, s.Permissions, s.Channels)
		}
		e := p.endings()
		if len(e) != 1 || e[0].Reason != turn.EndExpired || e[0].Session.Relayed.String() != relayed.String() ||
			e[0].Session.Client.Addr() != desk.Addr() || e[0].Session.PacketsUp != 40 || e[0].Session.PacketsDown != 40 {
			t.Errorf("endings: %+v, want one, expired, of %v with 40 packets each way", e, relayed)
		}
		tell(t, peer, "too late", relayed)
		// The port rests, so that a late datagram of this peer meets nobody, and is free again later.
		if ports := p.Ledger().Ports(); ports.Free != before.Free-1 || ports.Quarantined != 1 {
			t.Errorf("ports: %+v, before: %+v", ports, before)
		}
		desk.Link().Restore()
		lose(t, c)
		time.Sleep(5 * time.Minute)
		other := dial(t, n, config(desk, "udp"))
		defer other.Close()
		if ports := p.Ledger().Ports(); ports.Free != before.Free-1 || ports.Quarantined != 0 {
			t.Errorf("ports with one allocation: %+v, before: %+v", ports, before)
		}
	})
}

func TestDrainRefusesNewcomersAndServesTheRest(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *natlab.Net) {
				p := addProxy(t, n)
				defer p.stop(t)
				lan := office(n, only, only)
				one, two := lan.Host("desk1", "10.0.0.11"), lan.Host("desk2", "10.0.0.12")
				peer := listen(t, n.Internet().Host("peer", peerAddress), peerAddress+":1935")
				c := dial(t, n, config(one, network))
				converse(t, c, peer, c.LocalAddr(), peer.LocalAddr())
				drain := func(on bool) {
					if err := p.Do(t.Context(), func(_ time.Time, _ int, core *turn.Core) { core.SetDraining(on) }); err != nil {
						t.Fatal(err)
					}
				}
				drain(true)
				if late, err := client.Dial(t.Context(), config(two, network)); !errors.Is(err, client.ErrCapacity) {
					if err == nil {
						late.Close()
					}
					t.Errorf("Dial while draining: %v, want ErrCapacity", err)
				}
				time.Sleep(time.Hour) // refreshes go on
				converse(t, c, peer, c.LocalAddr(), peer.LocalAddr())
				if err := c.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
				time.Sleep(2 * time.Second)
				if s := p.stats(t); s.Allocations != 0 {
					t.Errorf("%d allocations are left", s.Allocations)
				}
				if e := p.endings(); len(e) != 1 || e[0].Reason != turn.EndReleased {
					t.Errorf("endings: %+v, want one, released", e)
				}
				drain(false)
				again := dial(t, n, config(two, network))
				defer again.Close()
				converse(t, again, peer, again.LocalAddr(), peer.LocalAddr())
			})
		})
	}
}
