package rendezvous

import (
	"container/heap"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stilenet/stile/rtmfp"
	"github.com/stilenet/stile/rtmfp/flash"
)

// world is a service of some shards and its clients, on a network in virtual time. Everything is in one goroutine.
//
// A datagram to a client whose NAT has not let it in is lost; inside addresses are reached by who is behind the same NAT.
type world struct {
	t         testing.TB
	now       time.Time
	random    *rand.ChaCha8
	reg       *Registry
	cores     []*Core
	ends      []*rtmfp.Endpoint // of the cores
	server    netip.AddrPort
	events    []Event
	hosts     map[netip.AddrPort]*peer // by inside address
	nats      map[netip.Addr]*nat      // by outside address
	queue     flights
	serial    int
	drop      func(from, to netip.AddrPort, data []byte) bool
	probes    [CheckSockets]netip.AddrPort
	seen      []flight // everything that the service has sent
	keep      bool     // seen
	helloSize int      // of the last startup packet to the service
}

// flight is a datagram on its way.
type flight struct {
	at       time.Time
	serial   int
	from, to netip.AddrPort
	inside   bool // does not cross a NAT
	data     []byte
}

type flights []flight

func (q flights) Len() int      { return len(q) }
func (q flights) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q flights) Less(i, j int) bool {
	if q[i].at.Equal(q[j].at) {
		return q[i].serial < q[j].serial
	}
	return q[i].at.Before(q[j].at)
}
func (q *flights) Push(x any) { *q = append(*q, x.(flight)) }
func (q *flights) Pop() any {
	x := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return x
}

const latency = 10 * time.Millisecond

// nat maps independently of the endpoint and filters by address and port, without hairpinning.
type nat struct {
	outside netip.Addr
	ports   map[netip.AddrPort]uint16 // by inside address
	back    map[uint16]netip.AddrPort
	open    map[[2]netip.AddrPort]bool // inside, far
}

// peer is a client: an endpoint that connects to the service and says what its tests tell it to.
type peer struct {
	w        *world
	e        *rtmfp.Endpoint
	id       *flash.Identity
	at       netip.AddrPort
	nat      *nat
	session  *rtmfp.Session // with the service
	control  *rtmfp.SendFlow
	answers  []flash.Command
	controls []flash.UserControl
	closing  []rtmfp.Reason // of sessions
	open     []*rtmfp.Session
	dead     bool
}

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// setup is what differs between worlds.
type setup struct {
	shards int
	rules  Rules
	check  CheckConfig
	probes [CheckSockets]netip.AddrPort
	seed   uint64
}

func newWorld(t testing.TB, s setup) *world {
	t.Helper()
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], s.seed+1)
	w := &world{
		t: t, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), random: rand.NewChaCha8(seed), server: ap("198.51.100.1:1935"),
		hosts: map[netip.AddrPort]*peer{}, nats: map[netip.Addr]*nat{}, probes: s.probes,
	}
	if s.rules.Keepalive == 0 {
		s.rules.Keepalive = 20 * time.Second
	}
	if s.rules.Limits == (Limits{}) {
		s.rules.Limits = DefaultLimits()
	}
	var err error
	if w.reg, err = NewRegistry(w.now, w.random, s.rules); err != nil {
		t.Fatal(err)
	}
	server, err := flash.NewIdentity(flash.IdentityConfig{Random: w.random, Server: true, Groups: []flash.Group{flash.Group2}, Now: func() time.Time { return w.now }})
	if err != nil {
		t.Fatal(err)
	}
	for i := range max(1, s.shards) {
		cfg := EndpointConfig(w.reg, server, w.random, max(1, s.shards))
		cfg.Shard, cfg.Shards, cfg.CookieKey = uint32(i), uint32(max(1, s.shards)), [32]byte{1}
		e, err := rtmfp.New(w.now, cfg)
		if err != nil {
			t.Fatal(err)
		}
		c := NewCore(Config{Registry: w.reg, Identity: server, Random: w.random, Shard: i, Shards: max(1, s.shards), Check: s.check})
		c.Attach(e)
		w.cores, w.ends = append(w.cores, c), append(w.ends, e)
	}
	t.Cleanup(w.verify)
	return w
}

// verify checks that every packet and every IHello was counted once.
func (w *world) verify() {
	var all Stats
	for _, c := range w.cores {
		s := c.Stats()
		all.Add(&s)
	}
	sum := uint64(0)
	for _, n := range all.Endpoint.Packets {
		sum += n
	}
	if sum != all.Endpoint.Received {
		w.t.Errorf("%d datagrams read, %d counted", all.Endpoint.Received, sum)
	}
	if all.Introductions[IntroductionUnknown] != 0 {
		w.t.Error("an introduction of unknown outcome")
	}
	if n, m := w.reg.Names.Len(), w.reg.Peers(); n > 0 && m == 0 {
		w.t.Errorf("%d names of %d peers", n, m)
	}
}

// stats are those of all shards.
func (w *world) stats() (all Stats) {
	for _, c := range w.cores {
		s := c.Stats()
		all.Add(&s)
	}
	return all
}

// client puts a client on the network; behind is the outside address of its NAT, or "".
func (w *world) client(at, behind string) *peer {
	w.t.Helper()
	id, err := flash.NewIdentity(flash.IdentityConfig{Random: w.random})
	if err != nil {
		w.t.Fatal(err)
	}
	return w.clientAs(at, behind, id)
}

func (w *world) clientAs(at, behind string, id *flash.Identity) *peer {
	w.t.Helper()
	p := &peer{w: w, id: id, at: ap(at)}
	var err error
	if p.e, err = rtmfp.New(w.now, rtmfp.Config{Identity: id, Random: w.random}); err != nil {
		w.t.Fatal(err)
	}
	if behind != "" {
		outside := netip.MustParseAddr(behind)
		p.nat = w.nats[outside]
		if p.nat == nil {
			p.nat = &nat{outside, map[netip.AddrPort]uint16{}, map[uint16]netip.AddrPort{}, map[[2]netip.AddrPort]bool{}}
			w.nats[outside] = p.nat
		}
	}
	w.hosts[p.at] = p
	return p
}

// send puts a datagram on the network.
func (w *world) send(from, to netip.AddrPort, inside bool, data []byte) {
	if w.drop != nil && w.drop(from, to, data) {
		return
	}
	w.serial++
	heap.Push(&w.queue, flight{w.now.Add(latency), w.serial, from, to, inside, slices.Clone(data)})
}

// flush sends what everybody has to send.
func (w *world) flush() {
	for again := true; again; {
		again = false
		for i, c := range w.cores {
			for events := w.ends[i].Events(); len(events) > 0; events = w.ends[i].Events() {
				for _, ev := range events {
					c.Handle(w.now, ev)
				}
			}
			for _, d := range w.ends[i].Flush(w.now) {
				if w.keep {
					w.seen = append(w.seen, flight{from: w.server, to: d.To, data: slices.Clone(d.Data)})
				}
				w.send(w.server, d.To, false, d.Data)
			}
			for _, p := range c.Posts() {
				w.cores[p.Shard].Deliver(w.now, p)
				again = true
			}
			for _, p := range c.Probes() {
				w.send(w.probes[p.Socket], p.To, false, p.Data)
			}
			w.events = append(w.events, c.Events()...)
		}
	}
	for _, p := range w.ordered() {
		for _, d := range p.e.Flush(w.now) {
			w.fromHost(p, d)
		}
	}
}

func (w *world) ordered() []*peer {
	all := make([]*peer, 0, len(w.hosts))
	for _, p := range w.hosts {
		if !p.dead {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b *peer) int { return a.at.Compare(b.at) })
	return all
}

func (w *world) fromHost(p *peer, d rtmfp.Datagram) {
	to := w.hosts[d.To]
	switch {
	case p.nat == nil:
		w.send(p.at, d.To, false, d.Data)
	case to != nil && to.nat == p.nat: // behind the same NAT
		w.send(p.at, d.To, true, d.Data)
	case d.To.Addr() == p.nat.outside: // no hairpin
	default:
		port, ok := p.nat.ports[p.at]
		if !ok {
			port = uint16(40000 + len(p.nat.ports))
			p.nat.ports[p.at], p.nat.back[port] = port, p.at
		}
		p.nat.open[[2]netip.AddrPort{p.at, d.To}] = true
		w.send(netip.AddrPortFrom(p.nat.outside, port), d.To, false, d.Data)
	}
}

// arrive delivers a datagram.
func (w *world) arrive(f flight) {
	if f.to == w.server {
		if id, _ := rtmfp.SessionID(f.data); id == 0 {
			w.helloSize = len(f.data)
		}
		w.core(f).Receive(w.now, 0, f.from, f.data)
		return
	}
	if i := slices.Index(w.probes[:], f.to); i >= 0 && f.to.IsValid() {
		if p, ok := ParseProbeReply(w.cores[0].cfg.Identity.DefaultCipher(), len(w.cores), CheckSocket(i), f.from, f.data); ok {
			w.cores[p.Shard].Deliver(w.now, p)
		}
		return
	}
	to := w.hosts[f.to]
	if n := w.nats[f.to.Addr()]; n != nil {
		inside, ok := n.back[f.to.Port()]
		if !ok || !n.open[[2]netip.AddrPort{inside, f.from}] {
			return
		}
		to = w.hosts[inside]
	} else if to != nil && to.nat != nil && !f.inside {
		return // a private address means nothing out here
	}
	if to == nil || to.dead {
		return
	}
	to.e.Receive(w.now, 0, f.from, f.data)
	to.events()
}

// core is the shard that the kernel and the shell would give a datagram to.
func (w *world) core(f flight) *rtmfp.Endpoint {
	n := uint32(len(w.cores))
	if id, ok := rtmfp.SessionID(f.data); ok && id != 0 {
		return w.ends[id%n]
	}
	return w.ends[uint32(f.from.Port())%n]
}

// run lets time pass.
func (w *world) run(d time.Duration) {
	w.t.Helper()
	end := w.now.Add(d)
	for {
		w.flush()
		next := end
		if len(w.queue) > 0 && w.queue[0].at.Before(next) {
			next = w.queue[0].at
		}
		for i, c := range w.cores {
			if at, ok := c.NextTimer(); ok && at.Before(next) {
				next = at
			}
			if at, ok := w.ends[i].NextTimer(); ok && at.Before(next) {
				next = at
			}
		}
		for _, p := range w.ordered() {
			if at, ok := p.e.NextTimer(); ok && at.Before(next) {
				next = at
			}
		}
		if next.After(w.now) {
			w.now = next
		}
		if !w.now.Before(end) {
			w.flush()
			return
		}
		for len(w.queue) > 0 && !w.queue[0].at.After(w.now) {
			w.arrive(heap.Pop(&w.queue).(flight))
		}
		for i, c := range w.cores {
			w.ends[i].Tick(w.now)
			c.Tick(w.now)
		}
		for _, p := range w.ordered() {
			p.e.Tick(w.now)
			p.events()
		}
	}
}

// events are what happens to a client.
func (p *peer) events() {
	for _, ev := range p.e.Events() {
		switch ev.Kind {
		case rtmfp.EventSessionOpen:
			p.open = append(p.open, ev.Session)
		case rtmfp.EventSessionClosing, rtmfp.EventSessionFailed:
			p.closing = append(p.closing, ev.Reason)
		case rtmfp.EventMessage:
			m, err := flash.ParseMessage(ev.Data)
			if err != nil {
				p.w.t.Fatal(err)
			}
			if m.Type == flash.MessageUserControl {
				u, err := flash.ParseUserControl(m)
				if err != nil {
					p.w.t.Fatal(err)
				}
				p.controls = append(p.controls, u)
				continue
			}
			c, err := flash.ParseCommand(m)
			if err != nil {
				p.w.t.Fatal(err)
			}
			p.answers = append(p.answers, c)
		}
	}
}

// dial opens the session with the service and its control flow.
func (p *peer) dial(url string) *peer {
	p.w.t.Helper()
	s, err := p.e.Open(p.w.now, flash.ServerEPD(url), rtmfp.Candidate{Interface: rtmfp.AnyInterface, Addr: p.w.server})
	if err != nil {
		p.w.t.Fatal(err)
	}
	p.session = s
	for range 100 {
		p.w.run(20 * time.Millisecond)
		if s.State() == rtmfp.StateOpen {
			break
		}
	}
	if s.State() != rtmfp.StateOpen {
		p.w.t.Fatalf("the session is in %v", s.State())
	}
	p.control, err = s.OpenFlow(p.w.now, rtmfp.FlowConfig{Metadata: flash.AppendFlowMetadata(nil, flash.FlowMetadata{})})
	if err != nil {
		p.w.t.Fatal(err)
	}
	return p
}

func (p *peer) command(encoding flash.ObjectEncoding, c flash.Command) {
	p.w.t.Helper()
	b, err := flash.AppendCommand(nil, encoding, c)
	if err != nil {
		p.w.t.Fatal(err)
	}
	if _, err := p.control.Write(p.w.now, b, rtmfp.WriteOptions{}); err != nil {
		p.w.t.Fatal(err)
	}
}

// connect connects with a path and an encoding, and returns the code of the answer; "" is none.
func (p *peer) connect(path string, encoding flash.ObjectEncoding, addrs ...string) string {
	p.w.t.Helper()
	url := "rtmfp://rendezvous.example/" + path
	p.dial(url)
	p.command(flash.AMF0, flash.ConnectCommand(flash.ConnectInfo{App: path, TCURL: url, ObjectEncoding: encoding}))
	p.w.run(200 * time.Millisecond)
	code := p.code()
	if code == flash.NetConnectionConnectSuccess {
		c := flash.Command{Name: flash.CommandSetPeerInfo}
		for _, a := range addrs {
			c.Arguments = append(c.Arguments, a)
		}
		p.command(encoding, c)
		p.w.run(200 * time.Millisecond)
	}
	return code
}

// code is that of the last answer with one.
func (p *peer) code() string {
	for _, c := range slices.Backward(p.answers) {
		if s, ok := flash.ParseStatus(c.Argument(0)); ok {
			return s.Code
		}
	}
	return ""
}

// meet opens a session with another peer through the service, and says whether it opened and at which address.
func (p *peer) meet(other *peer, within time.Duration) (*rtmfp.Session, netip.AddrPort) {
	p.w.t.Helper()
	s, err := p.e.Open(p.w.now, other.id.PeerID().EPD(), rtmfp.Candidate{Interface: rtmfp.AnyInterface, Addr: p.w.server})
	if err != nil {
		p.w.t.Fatal(err)
	}
	end := p.w.now.Add(within)
	for p.w.now.Before(end) && s.State() != rtmfp.StateOpen {
		p.w.run(50 * time.Millisecond)
	}
	if s.State() != rtmfp.StateOpen {
		return nil, netip.AddrPort{}
	}
	_, at := s.FarAddress()
	return s, at
}
