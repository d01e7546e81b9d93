package nattest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/stilenet/stile/stun"
)

// Ours to tune.
const (
	maxServers    = 4
	maxPorts      = 4
	lookupTime    = 2 * time.Second
	streamTime    = 2500 * time.Millisecond // of one TCP attempt
	readErrors    = 64                      // of one socket before it is given up; ICMP errors come this way
	maxRefused    = 4                       // errors of the system that are kept
	httpsPort     = 443
	bufferedReads = 256
	blockedTime   = 1800 * time.Millisecond // of silence before UDP is given up where TCP has answered in less than half of it
)

// ErrNoServers is Run's answer to a Config without servers.
var ErrNoServers = errors.New("nattest: no server to ask: Config.Servers is empty")

// Run asks the servers of cfg and returns what it found. It takes a few round trips, at most Config.Timeout, and the time of
// the opt-in tests. What goes wrong in the network is a finding of the report; the error is ErrNoServers, what ListenPacket
// said when no socket could be opened, or that of ctx.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	if len(cfg.Servers) == 0 {
		return nil, ErrNoServers
	}
	cfg.setDefaults()
	r := runner{cfg: cfg, local: cfg.LocalAddrs(), in: make(chan datagram, bufferedReads), streams: make(chan Observation, 2*maxServers),
		relays: make(chan relayed, 1), near: make(chan near, 1), tcp: make(chan []Observation, 1)}
	ctx, cancel := context.WithCancel(ctx)
	defer r.drain()
	defer r.close()
	defer cancel()
	o, err := r.run(ctx)
	if err != nil {
		return nil, err
	}
	verdict, findings := Classify(o)
	return &Report{Version: Version, Verdict: verdict, Findings: findings, Observations: o}, nil
}

func (c *Config) setDefaults() {
	c.Servers = c.Servers[:min(len(c.Servers), maxServers)]
	if c.AlternatePorts == nil {
		c.AlternatePorts = []uint16{stun.DefaultPort + 1, httpsPort}
	}
	c.AlternatePorts = c.AlternatePorts[:min(len(c.AlternatePorts), maxPorts)]
	if c.ListenPacket == nil {
		c.ListenPacket = new(net.ListenConfig).ListenPacket
	}
	if c.LookupNetIP == nil {
		c.LookupNetIP = net.DefaultResolver.LookupNetIP
	}
	if c.LocalAddrs == nil {
		c.LocalAddrs = interfaceAddrs
	}
	if c.Packets <= 0 {
		c.Packets = DefaultPackets
	}
	c.Quota = min(c.Quota, maxQuota)
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
}

// interfaceAddrs lists this machine's addresses without loopback.
func interfaceAddrs() []netip.Addr {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var out []netip.Addr
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLoopback() {
			out = append(out, p.Addr().Unmap())
		}
	}
	return out
}

// runner is the shell of a session.
type runner struct {
	cfg     Config
	local   []netip.Addr
	s       *session
	conns   []net.PacketConn // by socket number
	relay   net.PacketConn
	dialed  bool
	failed  string
	refused []string
	in      chan datagram
	streams chan Observation
	relays  chan relayed
	near    chan near
	tcp     chan []Observation
	mapping time.Time // when the TCP mapping was asked for
	quiet   int       // socket whose errors are expected: its packets are too large for some link; 0 for none
	missing []string
	looked  time.Time // when surround began
	stop    func()    // ends it
	wait    sync.WaitGroup
}

type datagram struct {
	socket int
	from   netip.AddrPort
	bytes  []byte
}

type relayed struct {
	conn net.PacketConn
	err  error
}

func (r *runner) close() {
	for _, c := range r.conns {
		c.Close()
	}
	if r.relay != nil {
		r.relay.Close()
	}
}

// drain waits for all goroutines. A relay that nobody waits for any more is closed.
func (r *runner) drain() {
	r.wait.Wait()
	select {
	case x := <-r.relays:
		if x.conn != nil {
			x.conn.Close()
		}
	default:
	}
}

func (r *runner) run(ctx context.Context) (Observations, error) {
	r.cfg.Progress("names")
	servers, six := r.resolve(ctx)
	if err := ctx.Err(); err != nil {
		return Observations{}, err
	}
	with := 0
	for _, s := range servers {
		if s.Addr.IsValid() {
			with++
		}
	}
	if with == 0 {
		return Observations{Local: r.local, Servers: servers}, nil
	}
	// Servers without an address come last, so that the numbers of the plan are those of the others.
	slices.SortStableFunc(servers, func(a, b ServerSeen) int { return rank(a) - rank(b) })
	plan := NewPlan(PlanConfig{Servers: with, Six: servers[0].Addr.Addr().Is6(), Ports: r.cfg.AlternatePorts, Local: r.local,
		IPv6: six, Relay: r.cfg.DialRelay != nil, MTU: r.cfg.DontFragment != nil})
	for i, b := range plan.Binds {
		c, err := r.cfg.ListenPacket(ctx, b.Network, b.Address)
		if err != nil {
			if i < sockets {
				return Observations{}, fmt.Errorf("nattest: listen %s %s: %w", b.Network, b.Address, err)
			}
			plan.Probes = slices.DeleteFunc(plan.Probes, func(p Probe) bool { return p.Socket >= i })
			break
		}
		r.conns = append(r.conns, c)
		if b.DF {
			if err := r.cfg.DontFragment(c); err != nil {
				r.missing = append(r.missing, "path MTU: "+err.Error())
				plan.Probes = slices.DeleteFunc(plan.Probes, func(p Probe) bool { return p.Socket == i })
			}
			r.quiet = i
		}
		r.read(i, c)
	}
	r.cfg.Progress("probes")
	r.s = newSession(plan, servers, r.cfg.Packets, r.cfg.Timeout, rand.Reader)
	streams := r.startStreams(ctx, servers[:with])
	list, err := r.loop(ctx, streams)
	if err != nil {
		return Observations{}, err
	}
	list = append(list, r.awaitStreamMapping(ctx)...)
	o := r.s.observations(time.Now(), r.local, r.addr)
	o.Probes = append(o.Probes, list...)
	beside := r.awaitSurroundings(ctx)
	o.Near, o.Sent = beside.s, o.Sent+beside.sent
	o.Near.Missing = append(o.Near.Missing, r.missing...)
	o.Refused, o.Relay = r.refused, r.failed
	if r.s.replied {
		r.optIn(ctx, &o)
	}
	return o, ctx.Err()
}

func rank(s ServerSeen) int {
	if s.Addr.IsValid() {
		return 0
	}
	return 1
}

// addr is the address of a socket.
func (r *runner) addr(socket int) netip.AddrPort {
	if socket < 0 || socket >= len(r.conns) {
		return netip.AddrPort{}
	}
	return addrPort(r.conns[socket].LocalAddr())
}

func addrPort(a net.Addr) netip.AddrPort {
	if u, ok := a.(*net.UDPAddr); ok {
		p := u.AddrPort()
		return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	if a == nil {
		return netip.AddrPort{}
	}
	p, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}

// resolve finds the addresses of the servers, all at once: of each the first IPv4 one, or, if none has one, the first IPv6 one.
// six is the first server's IPv6 endpoint where the others are IPv4.
func (r *runner) resolve(ctx context.Context) (list []ServerSeen, six netip.AddrPort) {
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	list = make([]ServerSeen, len(r.cfg.Servers))
	sixes := make([]netip.AddrPort, len(list))
	var wait sync.WaitGroup
	for i, name := range r.cfg.Servers {
		wait.Go(func() {
			list[i].Name = name
			host, port, err := splitServer(name)
			if err != nil {
				list[i].Error = err.Error()
				return
			}
			addrs := []netip.Addr{}
			if a, err := netip.ParseAddr(host); err == nil {
				addrs = append(addrs, a)
			} else if addrs, err = r.cfg.LookupNetIP(ctx, "ip", host); err != nil {
				list[i].Error = err.Error()
				return
			}
			for _, a := range addrs {
				at := netip.AddrPortFrom(a.Unmap(), port)
				if at.Addr().Is4() && !list[i].Addr.IsValid() {
					list[i].Addr = at
				} else if at.Addr().Is6() && !sixes[i].IsValid() {
					sixes[i] = at
				}
			}
			if !list[i].Addr.IsValid() && !sixes[i].IsValid() {
				list[i].Error = "the name has no address"
			}
		})
	}
	wait.Wait()
	if slices.ContainsFunc(list, func(s ServerSeen) bool { return s.Addr.IsValid() }) {
		for _, at := range sixes {
			if at.IsValid() {
				return list, at
			}
		}
		return list, six
	}
	for i := range list {
		list[i].Addr = sixes[i]
	}
	return list, six
}

// splitServer reads "host", "host:port", "[address]:port" or an address.
func splitServer(name string) (host string, port uint16, err error) {
	if _, err := netip.ParseAddr(name); err == nil {
		return name, stun.DefaultPort, nil
	}
	host, service, err := net.SplitHostPort(name)
	if err != nil {
		return name, stun.DefaultPort, nil // a name alone
	}
	n, err := strconv.ParseUint(service, 10, 16)
	if err != nil || n == 0 || host == "" {
		return "", 0, fmt.Errorf("%q is not host:port", name)
	}
	return host, uint16(n), nil
}

// read hands the datagrams of a socket to the loop until the socket is closed.
func (r *runner) read(socket int, c net.PacketConn) {
	r.wait.Go(func() {
		b := make([]byte, 1<<16)
		for failures := 0; failures < readErrors; {
			n, from, err := c.ReadFrom(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				failures++
				continue
			}
			select {
			case r.in <- datagram{socket, addrPort(from), slices.Clone(b[:n])}:
			default: // the loop is behind: as if the system's buffer were full
			}
		}
	})
}

// flush sends what the session left.
func (r *runner) flush() {
	for _, d := range r.s.out {
		c := r.relay
		if d.socket != relaySocket {
			c = r.conns[d.socket]
		}
		if r.cfg.Wrap != nil && (d.socket == relaySocket || d.to == r.s.relay) {
			d.bytes = r.cfg.Wrap(d.bytes)
		}
		if _, err := c.WriteTo(d.bytes, net.UDPAddrFromAddrPort(d.to)); err != nil && !errors.Is(err, net.ErrClosed) && !(r.quiet > 0 && d.socket == r.quiet) {
			var op *net.OpError
			if errors.As(err, &op) {
				err = op.Err // without the ports, which differ
			}
			if text := err.Error(); len(r.refused) < maxRefused && !slices.Contains(r.refused, text) {
				r.refused = append(r.refused, text)
			}
		}
	}
	r.s.out = r.s.out[:0]
}

// loop runs the session to its end.
func (r *runner) loop(ctx context.Context, streams int) (list []Observation, err error) {
	s := r.s
	timer := time.NewTimer(0)
	defer timer.Stop()
	s.start(time.Now())
	var answered time.Time // when TCP was
	for {
		r.flush()
		if s.wantsRelay() && !r.dialed {
			r.dialRelay(ctx)
		}
		if s.other.IsValid() && r.cfg.DialFrom != nil && r.mapping.IsZero() {
			r.startStreamMapping(ctx)
		}
		now := time.Now()
		r.maySurround(ctx, now)
		next := s.tick(now)
		r.flush()
		if !s.replied && !answered.IsZero() && now.After(s.begin.Add(max(blockedTime, 2*answered.Sub(s.begin)))) {
			return list, nil
		}
		if s.done(now) && (s.replied || streams == 0 || !now.Before(s.deadline())) {
			return list, nil
		}
		timer.Reset(max(0, next.Sub(now)))
		select {
		case d := <-r.in:
			if r.cfg.Unwrap != nil && (d.socket == relaySocket || d.from == s.relay) {
				if b, ok := r.cfg.Unwrap(d.bytes); ok {
					d.bytes = b
				}
			}
			if !s.handle(time.Now(), d.socket, d.from, d.bytes) && d.socket != relaySocket {
				r.conns[d.socket].Close()
			}
		case o := <-r.streams:
			list = append(list, o)
			if o.Answered > 0 && answered.IsZero() {
				answered = time.Now()
			}
			streams--
		case x := <-r.relays:
			r.takeRelay(x)
		case <-timer.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// dialRelay allocates a relay in the background.
func (r *runner) dialRelay(ctx context.Context) {
	r.dialed, r.s.dialing = true, true
	name := r.s.servers[r.s.server].Name
	r.wait.Go(func() {
		c, err := r.cfg.DialRelay(ctx, name)
		if err == nil && ctx.Err() != nil {
			c.Close()
			return
		}
		r.relays <- relayed{c, err}
	})
}

func (r *runner) takeRelay(x relayed) {
	r.s.dialing = false
	if x.err != nil {
		r.failed = x.err.Error()
		return
	}
	r.relay = x.conn
	at := addrPort(x.conn.LocalAddr())
	if !at.IsValid() || at.Port() == 0 || !usable(at.Addr()) && !at.Addr().IsLoopback() {
		r.failed = fmt.Sprintf("%v is not the address of a relay", x.conn.LocalAddr())
		return
	}
	r.s.relay = at
	r.read(relaySocket, x.conn)
}

// startStreams asks the servers over TCP, each on its own port and on 443.
func (r *runner) startStreams(ctx context.Context, servers []ServerSeen) (count int) {
	if r.cfg.DialContext == nil {
		return 0
	}
	for _, s := range servers[:min(len(servers), 2)] {
		for _, port := range []uint16{s.Addr.Port(), httpsPort} {
			if count > 0 && port == servers[0].Addr.Port() && s.Addr.Port() == httpsPort {
				continue
			}
			count++
			at := netip.AddrPortFrom(s.Addr.Addr(), port)
			r.wait.Go(func() {
				ctx, cancel := context.WithTimeout(ctx, streamTime)
				defer cancel()
				r.streams <- askStream(ctx, r.cfg.DialContext, at)
			})
		}
	}
	return count
}

// askStream sends a Binding request over TCP. Error is 1 if something else than STUN answers.
func askStream(ctx context.Context, dial func(context.Context, string, string) (net.Conn, error), at netip.AddrPort) Observation {
	o := Observation{Name: "tcp-" + at.String(), Role: RoleStream, To: at, Expect: at, Sent: 1, Judged: 1}
	c, err := dial(ctx, "tcp", at.String())
	if err != nil {
		return o
	}
	askOn(ctx, c, &o)
	return o
}

// askOn sends a Binding request over a connection, and closes it.
func askOn(ctx context.Context, c net.Conn, o *Observation) {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer func() { stop(); c.Close() }()
	var id stun.TransactionID
	rand.Read(id[:])
	b := stun.Begin(nil, stun.NewType(stun.Binding, stun.Request), id)
	if _, err := c.Write(b.Bytes()); err != nil {
		return
	}
	buf, n := make([]byte, 2048), 0
	for n < len(buf) {
		k, err := c.Read(buf[n:])
		n += k
		if m, perr := stun.Parse(buf[:n]); perr == nil && m.TransactionID() == id {
			o.Answered = 1
			if mapped, ok := m.GetXORAddress(stun.AttrXORMappedAddress); ok {
				o.Replies = []Reply{{From: o.To, Mapped: netip.AddrPortFrom(mapped.Addr().Unmap(), mapped.Port())}}
			}
			return
		}
		if n >= stun.HeaderSize && !stun.IsMessage(buf[:n]) {
			o.Error = 1
			return
		}
		if err != nil {
			break
		}
	}
	if n > 0 {
		o.Error = 1
	}
}

// startStreamMapping asks the server's endpoints over TCP connections from one local port, in the background.
func (r *runner) startStreamMapping(ctx context.Context) {
	r.mapping = time.Now()
	first := r.s.primary
	others := []netip.AddrPort{netip.AddrPortFrom(r.s.other.Addr(), first.Port()), netip.AddrPortFrom(first.Addr(), r.s.other.Port())}
	r.wait.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, streamTime)
		defer cancel()
		r.tcp <- streamMapping(ctx, r.cfg.DialFrom, first, others)
	})
}

func streamMapping(ctx context.Context, dial func(context.Context, string, string, string) (net.Conn, error), first netip.AddrPort, others []netip.AddrPort) []Observation {
	local := "0.0.0.0:0"
	if first.Addr().Is6() {
		local = "[::]:0"
	}
	c, err := dial(ctx, "tcp", local, first.String())
	if err != nil {
		return nil
	}
	from := c.LocalAddr().String()
	out := make([]Observation, 1+len(others))
	at, _ := netip.ParseAddrPort(from)
	var wait sync.WaitGroup
	for i, to := range others {
		wait.Go(func() {
			o := Observation{Name: "tcp-map-" + to.String(), Role: RoleStreamMapping, Local: at, To: to, Expect: to, Sent: 1, Judged: 1}
			if c, err := dial(ctx, "tcp", from, to.String()); err == nil {
				askOn(ctx, c, &o)
			}
			out[i+1] = o
		})
	}
	out[0] = Observation{Name: "tcp-map-" + first.String(), Role: RoleStreamMapping, Local: at, To: first, Expect: first, Sent: 1, Judged: 1}
	askOn(ctx, c, &out[0])
	wait.Wait()
	return out
}

// awaitStreamMapping waits as long as three exchanges take, and some more.
func (r *runner) awaitStreamMapping(ctx context.Context) []Observation {
	if r.mapping.IsZero() {
		return nil
	}
	until := r.mapping.Add(4*r.s.longest + 2*graceTime)
	if d := r.s.deadline(); d.Before(until) {
		until = d
	}
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case list := <-r.tcp:
		return list
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil
}
