package flash_test

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stilenet/stile/nattest/natlab"
	"github.com/stilenet/stile/rtmfp"
	"github.com/stilenet/stile/rtmfp/flash"
	"github.com/stilenet/stile/rtmfp/transport"
	"github.com/stilenet/stile/turn"
	"github.com/stilenet/stile/turn/client"
	"github.com/stilenet/stile/turn/dataplane"
)

// The laboratory of these tests: an introducer, a TURN proxy and players behind boxes. Each player's link takes 20 ms.
const (
	introducerAddress = "198.51.100.1"
	proxyAddress      = "198.51.100.2"
	url               = "rtmfp://introducer/KEY"
	linkDelay         = 20 * time.Millisecond
)

// random is a source for tests, from a seed.
type random struct {
	mu sync.Mutex
	r  *rand.Rand
}

func newRandom(seed, stream uint64) *random { return &random{r: rand.New(rand.NewPCG(seed, stream))} }

func (r *random) Read(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range b {
		b[i] = byte(r.r.Uint32())
	}
	return len(b), nil
}

// introducer is the least of a rendezvous: it accepts every client and introduces them.
type introducer struct {
	host   *natlab.Host
	tr     *transport.Transport
	cancel context.CancelFunc
	ended  chan struct{}
	seed   uint64

	// Of the transport's goroutine.
	addrs     map[*rtmfp.Session][]netip.AddrPort
	answer    func(flash.ConnectInfo) flash.Command // nil accepts
	keepalive [2]uint32
	silent    bool // about peers that it does not know, and connects
}

func (in *introducer) start() {
	conn, err := in.host.ListenPacket(context.Background(), "udp4", ":1935")
	must(err)
	id, err := flash.NewIdentity(flash.IdentityConfig{Random: newRandom(in.seed, 1935), Server: true, Groups: []flash.Group{flash.Group2}})
	must(err)
	in.addrs = make(map[*rtmfp.Session][]netip.AddrPort)
	in.tr, err = transport.New(transport.Config{
		Endpoint:   rtmfp.Config{Identity: id, Random: newRandom(in.seed, 1936), Keepalive: 10 * time.Second, RetransmitLimit: 20 * time.Second, IdleLimit: -1},
		Interfaces: []transport.Interface{{Conn: conn}}, Handle: in.handle, KeyingWorkers: 1,
	})
	must(err)
	ctx, cancel := context.WithCancel(context.Background())
	in.cancel, in.ended = cancel, make(chan struct{})
	go func() { _ = in.tr.Serve(ctx); close(in.ended) }()
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func (in *introducer) stop() {
	in.cancel()
	<-in.ended
}

func (in *introducer) handle(now time.Time, e *rtmfp.Endpoint, ev rtmfp.Event) {
	switch ev.Kind {
	case rtmfp.EventHello:
		epd, err := flash.ParseEPD(ev.Hello.EPD)
		if err != nil || epd.Fingerprint == nil {
			return
		}
		s := e.SessionByIdentity(epd.Fingerprint.EPD())
		if s == nil || in.addrs[s] == nil {
			return
		}
		_, far := s.FarAddress()
		list := []rtmfp.Address{{Origin: rtmfp.OriginObserved, AddrPort: far}}
		for _, a := range in.addrs[s] {
			list = append(list, rtmfp.Address{Origin: rtmfp.OriginReported, AddrPort: a})
		}
		e.Redirect(now, ev.Hello, list)
		_ = s.Forward(now, ev.Hello)
	case rtmfp.EventSessionClosing:
		delete(in.addrs, ev.Session)
	case rtmfp.EventFlowOpen:
		if _, err := flash.ParseFlowMetadata(ev.Receive.Metadata()); err != nil {
			ev.Receive.Reject(now, 0)
		}
	case rtmfp.EventFlowComplete:
		ev.Session.Close(now)
	case rtmfp.EventMessage:
		m, err := flash.ParseMessage(ev.Data)
		if err != nil || in.silent {
			return
		}
		cmd, err := flash.ParseCommand(m)
		if err != nil {
			return
		}
		switch cmd.Name {
		case flash.CommandConnect:
			info, _ := flash.ParseConnect(cmd)
			answer := flash.ConnectResult(cmd.Transaction, info.ObjectEncoding)
			if in.answer != nil {
				answer = in.answer(info)
			}
			f, err := ev.Session.OpenFlow(now, rtmfp.FlowConfig{Metadata: flash.AppendFlowMetadata(nil, flash.FlowMetadata{}), Association: ev.Receive})
			if err != nil {
				return
			}
			ev.Session.User = f
			in.send(now, ev.Session, answer)
		case flash.CommandSetPeerInfo:
			in.addrs[ev.Session], _ = flash.ParsePeerInfo(cmd)
			if in.addrs[ev.Session] == nil {
				in.addrs[ev.Session] = []netip.AddrPort{}
			}
			if f, ok := ev.Session.User.(*rtmfp.SendFlow); ok && in.keepalive[0] > 0 {
				_, _ = f.Write(now, flash.AppendUserControl(nil, flash.UserControl{Event: flash.SetKeepalive, First: in.keepalive[0], Second: in.keepalive[1]}), rtmfp.WriteOptions{})
			}
		}
	}
}

func (in *introducer) send(now time.Time, s *rtmfp.Session, c flash.Command) {
	b, err := flash.AppendCommand(nil, flash.AMF0, c)
	if err != nil {
		panic(err)
	}
	if f, ok := s.User.(*rtmfp.SendFlow); ok {
		_, _ = f.Write(now, b, rtmfp.WriteOptions{})
	}
}

// lab is a laboratory in virtual time.
type lab struct {
	t   *testing.T
	n   *natlab.Net
	in  *introducer
	all []*player

	proxyHost *natlab.Host
	boxes     []*natlab.Box
}

// inLab runs f in a bubble with an introducer.
func inLab(t *testing.T, seed uint64, f func(t *testing.T, l *lab)) {
	natlab.Run(t, seed, func(t *testing.T, n *natlab.Net) {
		n.KeepPackets(300)
		host := n.Internet().Host("introducer", introducerAddress)
		l := &lab{t: t, n: n, in: &introducer{host: host, seed: seed}}
		l.in.start()
		defer func() {
			for _, p := range l.all {
				_ = p.nc.Close()
				<-p.nc.Done()
			}
			l.in.stop()
		}()
		f(t, l)
	})
}

// proxy puts a TURN proxy into the internet. The function ends it.
func (l *lab) proxy() (stop func()) {
	l.t.Helper()
	l.proxyHost = l.n.Internet().Host("proxy", proxyAddress)
	return l.restartProxy()
}

func (l *lab) restartProxy() (stop func()) {
	l.t.Helper()
	host := l.proxyHost
	local := netip.MustParseAddr(proxyAddress)
	policy, err := turn.NewPolicy(turn.PolicyConfig{
		Profile: turn.ProfileLab, Relays: []turn.RelayAddress{{Public: local, Local: local}}, RelayPorts: turn.PortRange{First: 49152, Last: 65535},
		Clients: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}, OwnAddresses: []netip.Addr{local},
		Routes: []turn.Route{{Prefix: netip.MustParsePrefix("0.0.0.0/0"), Interface: 2, Gateway: netip.MustParseAddr("198.51.100.254")}},
	})
	if err != nil {
		l.t.Fatal(err)
	}
	at := netip.AddrPortFrom(local, 3478)
	cfg := dataplane.Config{
		Engine: dataplane.Plain, Listeners: []dataplane.Listener{{Network: "udp", Address: at}, {Network: "tcp", Address: at}},
		Relays: []turn.RelayAddress{{Public: local, Local: local}}, Ports: turn.PortRange{First: 49152, Last: 65535},
		Rules: &turn.Rules{Policy: policy, Limits: turn.DefaultLimits()}, ListenPacket: host.ListenPacket, Listen: host.Listen,
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

// player is an application on a simulated host.
type player struct {
	l    *lab
	host *natlab.Host
	nc   *flash.NetConnection

	mu      sync.Mutex
	events  []flash.NetStatusEvent
	blocked []netip.Addr // whom its direct socket does not reach
	deaf    []netip.Addr // whom it does not hear
}

// gate is the direct socket of a player, behind a firewall that can be told what to drop.
type gate struct {
	net.PacketConn
	p *player
}

func (g *gate) drops(a net.Addr) bool {
	g.p.mu.Lock()
	defer g.p.mu.Unlock()
	return slices.Contains(g.p.blocked, a.(*net.UDPAddr).AddrPort().Addr().Unmap())
}

func (g *gate) WriteTo(b []byte, to net.Addr) (int, error) {
	if g.drops(to) {
		return len(b), nil
	}
	return g.PacketConn.WriteTo(b, to)
}

func (g *gate) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := g.PacketConn.ReadFrom(b)
		if err != nil || !g.drops(from) && !g.deafTo(from) {
			return n, from, err
		}
	}
}

func (g *gate) deafTo(a net.Addr) bool {
	g.p.mu.Lock()
	defer g.p.mu.Unlock()
	return slices.Contains(g.p.deaf, a.(*net.UDPAddr).AddrPort().Addr().Unmap())
}

// deafen drops what comes to a player's direct socket from the addresses, and nothing else any more.
func (l *lab) deafen(p *player, addrs ...netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deaf = addrs
}

// block drops what goes between a player's direct socket and the addresses, and nothing else any more.
func (l *lab) block(p *player, addrs ...netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.blocked = addrs
}

// box is a player's way to the internet; the zero value is none.
func (l *lab) player(name string, seg *natlab.Segment, addr string, change func(*flash.Config)) *player {
	l.t.Helper()
	h := seg.Host(name, addr)
	h.Link().Set(natlab.LinkConfig{Delay: linkDelay / 2})
	p := &player{l: l, host: h}
	cfg := flash.Config{
		ListenPacket: func(ctx context.Context, network, address string) (net.PacketConn, error) {
			conn, err := h.ListenPacket(ctx, network, address)
			return &gate{conn, p}, err
		}, LookupNetIP: h.LookupNetIP,
		InterfaceAddrs: func() ([]netip.Addr, error) { return h.Addrs(), nil },
		Random:         newRandom(l.n.Seed(), uint64(len(l.all))+7),
	}
	if change != nil {
		change(&cfg)
	}
	p.nc = flash.NewNetConnection(cfg)
	p.nc.OnNetStatus = func(ev flash.NetStatusEvent) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.events = append(p.events, ev)
	}
	l.all = append(l.all, p)
	return p
}

// relayed gives a player the proxy.
func relayed(h func() *natlab.Host, network string) func(*flash.Config) {
	return func(cfg *flash.Config) {
		cfg.MMS.Proxy = "proxy"
		cfg.DialRelay = func(ctx context.Context, proxy string) (net.PacketConn, error) {
			return client.Dial(ctx, client.Config{
				Server: proxy, Network: network, ListenPacket: h().ListenPacket, DialContext: h().DialContext, Resolve: h().LookupNetIP,
			})
		}
	}
}

// relayedPlayer is a player with the proxy.
func (l *lab) relayedPlayer(name string, seg *natlab.Segment, addr string) *player {
	var p *player
	p = l.player(name, seg, addr, relayed(func() *natlab.Host { return p.host }, ""))
	return p
}

// behind puts a box between the internet and a player.
func (l *lab) behind(name, outside string, cfg natlab.BoxConfig) *natlab.Segment {
	cfg.Outside = []string{outside}
	b := l.n.Internet().Box(name, cfg)
	b.Outside().Set(natlab.LinkConfig{Delay: linkDelay / 2})
	l.boxes = append(l.boxes, b)
	return b.Inside()
}

func (p *player) connect() {
	p.l.t.Helper()
	if err := p.nc.Connect(p.l.t.Context(), url); err != nil {
		p.l.t.Fatalf("%s: %v", p.host.Name(), err)
	}
}

// codes are the status codes that the NetConnection has had.
func (p *player) codes() (list []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, ev := range p.events {
		list = append(list, ev.Code)
	}
	return list
}

// wait waits until the condition holds, in virtual time.
func wait(t testing.TB, what string, limit time.Duration, condition func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !condition() {
		if time.Since(start) >= limit {
			t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(max(5*time.Millisecond, limit/5000))
	}
	return time.Since(start)
}

func (p *player) waitCode(code string, limit time.Duration) time.Duration {
	p.l.t.Helper()
	return wait(p.l.t, p.host.Name()+" "+code, limit, func() bool { return slices.Contains(p.codes(), code) })
}

// listener is a stream that plays, with what came.
type listener struct {
	ns *flash.NetStream

	mu       sync.Mutex
	statuses []string
	messages []flash.Message
	at       []time.Time
}

func (p *player) play(peer flash.PeerID, name string) *listener {
	p.l.t.Helper()
	v := &listener{ns: flash.NewNetStream(p.nc, peer)}
	v.ns.OnNetStatus = func(s flash.Status) {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.statuses = append(v.statuses, s.Code)
	}
	v.ns.OnMessage = func(m flash.Message) {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.messages = append(v.messages, m)
		v.at = append(v.at, time.Now())
	}
	if err := v.ns.Play(name); err != nil {
		p.l.t.Fatal(err)
	}
	return v
}

func (v *listener) count(types ...flash.MessageType) (n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, m := range v.messages {
		if len(types) == 0 || slices.Contains(types, m.Type) {
			n++
		}
	}
	return n
}

func (v *listener) has(code string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Contains(v.statuses, code)
}

func (p *player) publish(name string) *flash.NetStream {
	p.l.t.Helper()
	ns := flash.NewNetStream(p.nc, flash.DirectConnections)
	if err := ns.Publish(name); err != nil {
		p.l.t.Fatal(err)
	}
	return ns
}

func contains(list []string, want ...string) bool {
	for _, w := range want {
		i := slices.Index(list, w)
		if i < 0 {
			return false
		}
		list = list[i+1:]
	}
	return true
}
