package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/stilenet/stile/stun"
)

// Dial allocates a relayed address.
//
// Unless Config or the server's URI names a transport, UDP is tried, TCP beside it after a second, and the first to succeed
// wins; the allocation of the other is given back. Further addresses of a name follow 250 ms, further servers 2 s after the one
// before them, or at once when everything before has failed.
//
// ctx bounds Dial only; without a deadline it returns after about 40 s of silence from every server. Errors: the
// sentinels of this package, *Error for what a server answered (joined, with several servers or transports), and what the
// sockets say. A mistake in Config is reported with the name of its field.
func Dial(ctx context.Context, config Config) (*Conn, error) {
	servers, err := config.check()
	if err != nil {
		return nil, err
	}
	d := &dialer{config: config, strays: &sync.WaitGroup{}}
	d.defaults()
	var ways []way
	for i, s := range servers {
		ways = append(ways, way{after: time.Duration(i) * serverDelay, dial: func(ctx context.Context) (*Conn, error) {
			return d.server(ctx, s)
		}})
	}
	d.strays.Add(1) // so that the count is never zero while a way of the race may still add to it
	conn, err := d.race(ctx, ways, func(error) bool { return false })
	d.strays.Done()
	if err != nil {
		d.strays.Wait()
		return nil, err
	}
	return conn, nil
}

type dialer struct {
	config Config
	strays *sync.WaitGroup // ways that lost the race and clean up
}

func (d *dialer) defaults() {
	c := &d.config
	if c.ListenPacket == nil {
		c.ListenPacket = new(net.ListenConfig).ListenPacket
	}
	if c.DialContext == nil {
		c.DialContext = new(net.Dialer).DialContext
	}
	if c.Resolve == nil {
		c.Resolve = net.DefaultResolver.LookupNetIP
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	} else {
		c.Rand = &lockedReader{r: c.Rand}
	}
}

// way is one of several ways to an allocation.
type way struct {
	after time.Duration // since the start of the race
	dial  func(context.Context) (*Conn, error)
}

// race tries the ways, which are sorted by after, and returns the first success. final reports that an error makes the others
// pointless.
func (d *dialer) race(ctx context.Context, ways []way, final func(error) bool) (*Conn, error) {
	type result struct {
		conn *Conn
		err  error
	}
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan result, len(ways))
	began, running, next := time.Now(), 0, 0
	start := func() {
		dial := ways[next].dial
		next++
		running++
		go func() {
			conn, err := dial(ctx)
			results <- result{conn, err}
		}()
	}
	// finish ends the losers behind the caller's back. Close of the winner waits for it.
	finish := func() {
		cancel()
		d.strays.Go(func() {
			for ; running > 0; running-- {
				if r := <-results; r.conn != nil {
					r.conn.strays = new(sync.WaitGroup) // or it would wait for this goroutine
					_ = r.conn.Close()
				}
			}
		})
	}
	start()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var errs []error
	for {
		if next < len(ways) {
			timer.Reset(time.Until(began.Add(ways[next].after)))
		} else {
			timer.Stop()
		}
		select {
		case <-timer.C:
			start()
		case r := <-results:
			running--
			if r.err == nil {
				finish()
				return r.conn, nil
			}
			errs = append(errs, r.err)
			if ctx.Err() != nil || final(r.err) || running == 0 && next == len(ways) {
				finish()
				return nil, join(errs)
			}
			if running == 0 {
				start()
			}
		case <-ctx.Done():
			finish()
			return nil, fmt.Errorf("client: dial: %w", join(append(errs, ctx.Err())))
		}
	}
}

func join(errs []error) error {
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

// server tries the addresses of one server over the transports it may be reached by.
func (d *dialer) server(ctx context.Context, s Server) (*Conn, error) {
	addrs, err := d.resolve(ctx, s.Host)
	if err != nil {
		return nil, fmt.Errorf("client: %v: %w", s, err)
	}
	var ways []way
	add := func(network string, delay time.Duration) {
		for i, addr := range addrs {
			to := netip.AddrPortFrom(addr, s.Port)
			ways = append(ways, way{after: delay + time.Duration(i)*familyDelay, dial: func(ctx context.Context) (*Conn, error) {
				conn, err := d.attempt(ctx, network, to)
				if err != nil {
					return nil, fmt.Errorf("client: %v over %s: %w", to, network, err)
				}
				return conn, nil
			}})
		}
	}
	switch s.Network {
	case "udp", "tcp":
		add(s.Network, 0)
	default:
		add("udp", 0)
		add("tcp", streamDelay)
	}
	return d.race(ctx, ways, refusesUs)
}

// refusesUs reports whether another transport to the same server would get the same answer.
func refusesUs(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Code < stun.CodeServerError && e.Code != stun.CodeAllocationMismatch
}

func (d *dialer) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr.Unmap()}, nil
	}
	found, err := d.config.Resolve(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	addrs := make([]netip.Addr, 0, maxAddrs)
	for _, a := range found[:min(len(found), maxAddrs)] {
		addrs = append(addrs, a.Unmap())
	}
	if len(addrs) == 0 {
		return nil, errors.New("the name has no address")
	}
	return addrs, nil
}

// attempt allocates over one transport: again from another port after 437, and at another server if a server we have reason to
// trust says so (§6.3).
func (d *dialer) attempt(ctx context.Context, network string, to netip.AddrPort) (*Conn, error) {
	visited := map[netip.AddrPort]bool{}
	ports := 0
	for {
		visited[to] = true
		conn, err := d.allocate(ctx, network, to)
		if err == nil {
			return conn, nil
		}
		if conn != nil {
			defer conn.abort() // not before the end: the next socket must not get this one's port
		}
		e, ok := answered(err)
		switch {
		case !ok:
			return nil, err
		case e.Code == stun.CodeAllocationMismatch:
			if ports++; ports == maxPorts {
				return nil, fmt.Errorf("%w: %w", ErrMismatch, err)
			}
		case e.Alternate.Port() != 0 && !visited[e.Alternate] && len(visited) <= maxHops:
			to = netip.AddrPortFrom(e.Alternate.Addr().Unmap(), e.Alternate.Port())
		default:
			return nil, err
		}
	}
}

// allocate is one Allocate from a fresh port. The Conn is not nil once there is one, even if err is not.
func (d *dialer) allocate(ctx context.Context, network string, to netip.AddrPort) (*Conn, error) {
	began := time.Now()
	c, err := newCore(d.params(network), d.config.Rand)
	if err != nil {
		return nil, fmt.Errorf("random numbers: %w", err)
	}
	var t transport
	var server net.Addr
	if network == "udp" {
		family, local := "udp4", "0.0.0.0:0"
		if to.Addr().Is6() {
			family, local = "udp6", "[::]:0"
		}
		pc, err := d.config.ListenPacket(ctx, family, local)
		if err != nil {
			return nil, err
		}
		t, server = newDatagrams(pc, to), net.UDPAddrFromAddrPort(to)
	} else {
		ctx, cancel := context.WithTimeout(ctx, streamTimeout)
		defer cancel()
		nc, err := d.config.DialContext(ctx, "tcp", net.JoinHostPort(to.Addr().String(), strconv.Itoa(int(to.Port()))))
		if err != nil {
			return nil, err
		}
		t, server = newStream(nc), net.TCPAddrFromAddrPort(to)
	}
	conn := newConn(t, c, server, d.strays)
	return conn, conn.allocate(ctx, began)
}

func (d *dialer) params(network string) params {
	c := &d.config
	p := params{
		username: c.Username, password: c.Password, dialect: c.dialect(), lifetime: c.Lifetime, channelAfter: c.ChannelAfter,
		keepalive: c.Keepalive, evenPort: c.EvenPort, reserve: c.ReserveNext, token: c.ReservationToken, family: c.Family,
		stream: network == "tcp",
	}
	if p.channelAfter == 0 {
		p.channelAfter = defaultChannelAfter
	}
	switch {
	case p.stream || p.keepalive < 0:
		p.keepalive = 0 // the kernel's own keepalives do for TCP
	case p.keepalive == 0:
		p.keepalive = defaultKeepalive
	}
	return p
}

// lockedReader lets the ways of one race share a source of randomness.
type lockedReader struct {
	mu sync.Mutex
	r  interface{ Read([]byte) (int, error) }
}

func (l *lockedReader) Read(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.r.Read(b)
}
