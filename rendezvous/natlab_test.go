package rendezvous_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stilenet/stile/nattest/natlab"
	"github.com/stilenet/stile/rendezvous"
	"github.com/stilenet/stile/rtmfp/flash"
	"github.com/stilenet/stile/turn"
	"github.com/stilenet/stile/turn/client"
	"github.com/stilenet/stile/turn/dataplane"
)

// The deployments of this file are whole: the shell of the service on a simulated host, and players that are package flash's.
//
//	player ── NAT ──┬── internet ──┬── NAT ── player
//	                └── service 198.51.100.2, where the TURN proxy is too
const (
	serviceAddress = "198.51.100.2"
	secondAddress  = "198.51.100.3"
	thirdAddress   = "198.51.100.4"
	linkDelay      = 20 * time.Millisecond
)

// seeds are how many runs each deployment has: 3, or NATLAB_SEEDS.
func seeds(t *testing.T) uint64 {
	if text := os.Getenv("NATLAB_SEEDS"); text != "" {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return 3
}

// random is a source for tests, from a seed.
type random struct {
	mu sync.Mutex
	r  *rand.ChaCha8
}

func newRandom(seed, stream uint64) *random {
	var b [32]byte
	binary.BigEndian.PutUint64(b[:], seed)
	binary.BigEndian.PutUint64(b[8:], stream)
	return &random{r: rand.NewChaCha8(b)}
}

func (r *random) Read(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.r.Read(b)
}

// lab is a deployment in virtual time.
type lab struct {
	t       *testing.T
	n       *natlab.Net
	host    *natlab.Host
	reg     *rendezvous.Registry
	server  *rendezvous.Server
	stop    func()
	players []*player

	mu     sync.Mutex
	events []rendezvous.Event
}

// inLab runs f in a bubble with a service, once for each seed.
func inLab(t *testing.T, f func(t *testing.T, l *lab)) {
	for seed := uint64(1); seed <= seeds(t); seed++ {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
			natlab.Run(t, seed, func(t *testing.T, n *natlab.Net) {
				l := &lab{t: t, n: n, host: n.Internet().Host("service", serviceAddress, secondAddress, thirdAddress)}
				l.start()
				defer func() {
					for _, p := range l.players {
						_ = p.nc.Close()
						<-p.nc.Done()
					}
					l.verify()
					l.stop()
				}()
				f(t, l)
			})
		})
	}
}

// start serves; after stop it is the restart of the machine's program.
func (l *lab) start() {
	l.t.Helper()
	rules := rendezvous.Rules{
		Limits: rendezvous.DefaultLimits(), Keepalive: 20 * time.Second,
		Relays: []rendezvous.AddressPair{{Public: netip.MustParseAddr(serviceAddress), Local: netip.MustParseAddr(serviceAddress)}},
	}
	var err error
	if l.reg, err = rendezvous.NewRegistry(time.Now(), newRandom(l.n.Seed(), 1), rules); err != nil {
		l.t.Fatal(err)
	}
	var check []rendezvous.AddressPair
	for _, a := range []string{serviceAddress, secondAddress, thirdAddress} {
		check = append(check, rendezvous.AddressPair{Public: netip.MustParseAddr(a), Local: netip.MustParseAddr(a)})
	}
	l.server, err = rendezvous.Open(context.Background(), rendezvous.ServerConfig{
		Registry: l.reg, Listen: []netip.AddrPort{netip.MustParseAddrPort(serviceAddress + ":1935")}, Groups: []flash.Group{flash.Group2},
		ListenPacket: l.host.ListenPacket, Random: newRandom(l.n.Seed(), 2), Check: check,
		OnEvents: func(events []rendezvous.Event) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.events = append(l.events, events...)
		},
	})
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.server.Serve(ctx) }()
	l.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			l.t.Error("Serve:", err)
		}
	}
}

// verify checks that each packet was counted once.
func (l *lab) verify() {
	s, err := l.server.Stats(l.t.Context())
	if err != nil {
		l.t.Error(err)
		return
	}
	sum := s.Limited + s.Long + s.Busy
	for _, n := range s.Endpoint.Packets {
		sum += n
	}
	if sum != s.Read || s.Endpoint.Packets[0] != 0 || s.Introductions[0] != 0 {
		l.t.Errorf("%d packets read, %d counted", s.Read, sum)
	}
}

// player is an application on a simulated host.
type player struct {
	l    *lab
	host *natlab.Host
	nc   *flash.NetConnection

	mu     sync.Mutex
	events []flash.NetStatusEvent
}

func (l *lab) player(name string, seg *natlab.Segment, addr string, link natlab.LinkConfig, change func(*player, *flash.Config)) *player {
	l.t.Helper()
	p := &player{l: l, host: seg.Host(name, addr)}
	if link.Delay == 0 {
		link.Delay = linkDelay / 2
	}
	p.host.Link().Set(link)
	cfg := flash.Config{
		ListenPacket: p.host.ListenPacket, LookupNetIP: p.host.LookupNetIP,
		InterfaceAddrs: func() ([]netip.Addr, error) { return p.host.Addrs(), nil },
		Random:         newRandom(l.n.Seed(), uint64(len(l.players))+7),
	}
	if change != nil {
		change(p, &cfg)
	}
	p.nc = flash.NewNetConnection(cfg)
	p.nc.OnNetStatus = func(ev flash.NetStatusEvent) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.events = append(p.events, ev)
	}
	l.players = append(l.players, p)
	return p
}

// byProxy gives a player the TURN proxy.
func byProxy(network string) func(*player, *flash.Config) {
	return func(p *player, cfg *flash.Config) {
		cfg.MMS.Proxy = serviceAddress + ":3478"
		cfg.DialRelay = func(ctx context.Context, proxy string) (net.PacketConn, error) {
			return client.Dial(ctx, client.Config{
				Server: proxy, Network: network, ListenPacket: p.host.ListenPacket, DialContext: p.host.DialContext, Rand: newRandom(p.l.n.Seed(), 99),
			})
		}
	}
}

func (p *player) connect(path string) error {
	return p.nc.Connect(p.l.t.Context(), "rtmfp://"+serviceAddress+"/"+path)
}

func (p *player) mustConnect() *player {
	p.l.t.Helper()
	if err := p.connect("KEY"); err != nil {
		p.l.t.Fatalf("%s: %v", p.host.Name(), err)
	}
	return p
}

func (p *player) event(code string) (flash.NetStatusEvent, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.events, func(e flash.NetStatusEvent) bool { return e.Code == code })
	if i < 0 {
		return flash.NetStatusEvent{}, false
	}
	return p.events[i], true
}

// within waits in virtual time until the condition holds.
func (l *lab) within(limit time.Duration, what string, condition func() bool) {
	l.t.Helper()
	for end := time.Now().Add(limit); !condition(); {
		if !time.Now().Before(end) {
			l.t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// watch has q play what p publishes, and waits until data arrives. It returns the way that q's session with p takes.
func (l *lab) watch(p, q *player, limit time.Duration) flash.Path {
	l.t.Helper()
	out := flash.NewNetStream(p.nc, flash.DirectConnections)
	if err := out.Publish("cam"); err != nil {
		l.t.Fatal(err)
	}
	in := flash.NewNetStream(q.nc, p.nc.NearID())
	var mu sync.Mutex
	got := 0
	in.OnMessage = func(m flash.Message) {
		mu.Lock()
		defer mu.Unlock()
		if m.Type == flash.MessageDataAMF0 {
			got++
		}
	}
	if err := in.Play("cam"); err != nil {
		l.t.Fatal(err)
	}
	l.within(limit, "a subscriber", func() bool { return len(out.PeerStreams()) == 1 })
	if err := out.Send("hello", 1); err != nil {
		l.t.Fatal(err)
	}
	l.within(limit, "data", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return got > 0
	})
	return in.Info().Path
}

func (l *lab) behind(name, outside string, mapping natlab.Mapping, filtering natlab.Filtering) *natlab.Segment {
	b := l.n.Internet().Box(name, natlab.BoxConfig{Outside: []string{outside}, NAT: &natlab.NATConfig{Mapping: mapping, Filtering: filtering}})
	b.Outside().Set(natlab.LinkConfig{Delay: linkDelay / 2})
	return b.Inside()
}

func TestPlayersBehindNATsMeetThroughTheService(t *testing.T) {
	for _, c := range []struct {
		name     string
		mapping  [2]natlab.Mapping
		filtring [2]natlab.Filtering
	}{
		{"port-restricted both", [2]natlab.Mapping{natlab.EIM, natlab.EIM}, [2]natlab.Filtering{natlab.APDF, natlab.APDF}},
		{"symmetric and full cone", [2]natlab.Mapping{natlab.APDM, natlab.EIM}, [2]natlab.Filtering{natlab.APDF, natlab.EIF}},
		{"symmetric and address-restricted", [2]natlab.Mapping{natlab.APDM, natlab.EIM}, [2]natlab.Filtering{natlab.APDF, natlab.ADF}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inLab(t, func(t *testing.T, l *lab) {
				a := l.player("ann", l.behind("nat-a", "203.0.113.1", c.mapping[0], c.filtring[0]), "192.168.1.2", natlab.LinkConfig{}, nil).mustConnect()
				b := l.player("bob", l.behind("nat-b", "203.0.113.2", c.mapping[1], c.filtring[1]), "192.168.1.2", natlab.LinkConfig{}, nil).mustConnect()
				if path := l.watch(a, b, 10*time.Second); path.Relayed {
					t.Errorf("the session takes %+v", path)
				}
			})
		})
	}
}

func TestPlayersMeetOverBadLinks(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		// Between the players that is 28 % each way. By the schedules of IHello, IIKeying and the request, in turn and without what the
		// forwarded IHello adds, at most 8 runs in 10,000 need longer than the 95 s that an opening may take.
		bad := natlab.LinkConfig{Delay: 15 * time.Millisecond, Jitter: 20 * time.Millisecond, Loss: 0.15, Duplicate: 0.2, Reorder: 0.2}
		a := l.player("ann", l.behind("nat-a", "203.0.113.1", natlab.EIM, natlab.APDF), "192.168.1.2", bad, nil).mustConnect()
		b := l.player("bob", l.behind("nat-b", "203.0.113.2", natlab.EIM, natlab.APDF), "192.168.1.2", bad, nil).mustConnect()
		l.watch(a, b, 95*time.Second)
	})
}

// TestAPlayerWithoutUDPMeetsThroughTheProxyOfTheSameMachine is a company whose firewall lets nothing out but what goes to the
// machine's TURN proxy.
func TestAPlayerWithoutUDPMeetsThroughTheProxyOfTheSameMachine(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			inLab(t, func(t *testing.T, l *lab) {
				defer l.proxy()()
				only := natlab.Rule{Block: natlab.Drop, Ports: []uint16{3478}}
				office := l.n.Internet().Box("firewall", natlab.BoxConfig{
					Outside: []string{"203.0.113.1"}, NAT: &natlab.NATConfig{Mapping: natlab.EIM, Filtering: natlab.APDF},
					Firewall: &natlab.FirewallConfig{Filtering: natlab.APDF, UDP: only, TCP: only},
				}).Inside()
				a := l.player("ann", office, "10.0.0.2", natlab.LinkConfig{}, byProxy(network)).mustConnect()
				b := l.player("bob", l.behind("nat-b", "203.0.113.2", natlab.EIM, natlab.APDF), "192.168.1.2", natlab.LinkConfig{}, nil).mustConnect()
				relay, ok := a.nc.Relay()
				if !ok || relay.Addr().String() != serviceAddress {
					t.Fatalf("relay %v", relay)
				}
				sessions, err := l.server.Sessions(t.Context())
				if err != nil || !slices.ContainsFunc(sessions, func(s rendezvous.Session) bool { return s.Peer == a.nc.NearID() && s.Client == relay }) {
					t.Errorf("the service sees %+v, %v; want the relayed address %v", sessions, err, relay)
				}
				l.watch(a, b, 20*time.Second)
				l.watch(b, a, 20*time.Second)
			})
		})
	}
}

// proxy puts the TURN proxy on the service's machine, with the policy of a company. The function ends it.
func (l *lab) proxy() (stop func()) {
	l.t.Helper()
	local := netip.MustParseAddr(serviceAddress)
	policy, err := turn.NewPolicy(turn.PolicyConfig{
		Profile: turn.ProfileCorporate, Relays: []turn.RelayAddress{{Public: local, Local: local}}, RelayPorts: turn.PortRange{First: 49152, Last: 65535},
		Clients: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}, OwnAddresses: []netip.Addr{local},
		Routes:   []turn.Route{{Prefix: netip.MustParsePrefix("0.0.0.0/0"), Interface: 2, Gateway: netip.MustParseAddr("198.51.100.1")}},
		Services: l.server.Addrs(),
	})
	if err != nil {
		l.t.Fatal(err)
	}
	at := netip.AddrPortFrom(local, 3478)
	cfg := dataplane.Config{
		Engine: dataplane.Plain, Listeners: []dataplane.Listener{{Network: "udp", Address: at}, {Network: "tcp", Address: at}},
		Relays: []turn.RelayAddress{{Public: local, Local: local}}, Ports: turn.PortRange{First: 49152, Last: 65535},
		Rules: &turn.Rules{Policy: policy, Limits: turn.DefaultLimits()}, ListenPacket: l.host.ListenPacket, Listen: l.host.Listen,
	}
	binary.BigEndian.PutUint64(cfg.Seed[:], l.n.Seed())
	s, err := dataplane.Open(context.Background(), cfg)
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { _ = s.Serve(ctx); close(ended) }()
	return func() { cancel(); <-ended }
}

func TestAWrongKeyIsToldToTheApplication(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		l.reg.Keys.Replace(map[rendezvous.KeyHash]rendezvous.Key{rendezvous.HashKey("right"): {Name: "app"}})
		l.reg.Keys.SetRequired(true)
		a := l.player("ann", l.n.Internet(), "203.0.113.1", natlab.LinkConfig{}, nil)
		var refused *flash.StatusError
		err := a.connect("wrong")
		if !errors.As(err, &refused) || refused.Code != flash.NetConnectionConnectFailed || refused.Description != "The developer key is not known here." {
			t.Errorf("a wrong key: %v", err)
		}
		b := l.player("bob", l.n.Internet(), "203.0.113.2", natlab.LinkConfig{}, nil)
		if err := b.connect("right"); err != nil {
			t.Error(err)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if !slices.ContainsFunc(l.events, func(e rendezvous.Event) bool {
			return e.Kind == rendezvous.EventRefused && e.Refusal == rendezvous.RefusedKeyUnknown
		}) {
			t.Errorf("events %+v", l.events)
		}
	})
}

func TestTheConnectivityCheckJudgesSimulatedNATs(t *testing.T) {
	for _, c := range []struct {
		mapping                           natlab.Mapping
		filtering                         natlab.Filtering
		samePort, otherAddress, keepsPort bool
	}{
		{natlab.EIM, natlab.EIF, true, true, true},
		{natlab.EIM, natlab.ADF, true, false, true},
		{natlab.EIM, natlab.APDF, false, false, true},
		{natlab.APDM, natlab.APDF, false, false, false},
	} {
		t.Run(fmt.Sprint(c.mapping, c.filtering), func(t *testing.T) {
			inLab(t, func(t *testing.T, l *lab) {
				p := l.player("ann", l.behind("nat", "203.0.113.1", c.mapping, c.filtering), "192.168.1.2", natlab.LinkConfig{}, nil)
				if err := p.connect("cc"); err != nil {
					t.Fatal(err)
				}
				l.within(20*time.Second, "results", func() bool { _, ok := p.event(flash.NetConnectionConnectivityCheck); return ok })
				ev, _ := p.event(flash.NetConnectionConnectivityCheck)
				for name, want := range map[string]bool{
					"publicAddressIsLocal":                        false,
					"receiveSameAddressDifferentPortAllowed":      c.samePort,
					"receiveDifferentAddressDifferentPortAllowed": c.otherAddress,
					"sendAfterIntroductionAllowed":                true,
					"sendAfterIntroductionPreservesSourceAddress": true,
					"sendAfterIntroductionPreservesSourcePort":    c.keepsPort,
				} {
					if got, _ := ev.Info.Get(name); got != want {
						t.Errorf("%s is %v, want %v", name, got, want)
					}
				}
			})
		})
	}
}

func TestPlayersKeepTheirPeersWhenTheServiceEnds(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a := l.player("ann", l.n.Internet(), "203.0.113.1", natlab.LinkConfig{}, nil).mustConnect()
		l.verify()
		l.stop()
		l.within(5*time.Second, "Connect.Closed", func() bool { _, ok := a.event(flash.NetConnectionConnectClosed); return ok })
		l.start()
		l.player("bob", l.n.Internet(), "203.0.113.2", natlab.LinkConfig{}, nil).mustConnect()
	})
}
