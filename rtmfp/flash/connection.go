package flash

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stilenet/stile/rtmfp"
	"github.com/stilenet/stile/rtmfp/transport"
)

// Ours to tune.
const (
	// networkCheck is how often this machine's addresses are looked at.
	networkCheck = 5 * time.Second
	// relayRetry and maxRelayRetry are between attempts to get a relayed address.
	relayRetry    = 2 * time.Second
	maxRelayRetry = 5 * time.Minute
	// maxServerAddrs bounds the addresses of the server that are tried.
	maxServerAddrs = 8
)

// connection is the shell of a NetConnection: sockets, goroutines, callbacks. The core decides; the goroutine of the transport
// owns it.
type connection struct {
	public *NetConnection
	cfg    Config
	done   chan struct{}

	mu     sync.Mutex // of what is set once by connect
	used   bool
	url    string
	id     PeerID
	core   *core
	t      *transport.Transport
	stop   context.CancelFunc
	served chan struct{} // the transport has ended: nobody owns the core

	result    chan error // of connecting
	relayWake chan struct{}
	relayWant atomic.Bool
	peers     atomic.Int64 // maxPeers before connecting

	queue dispatcher
}

func newConnection(public *NetConnection, cfg Config) *connection {
	c := &connection{
		public: public, cfg: cfg, done: make(chan struct{}), served: make(chan struct{}), result: make(chan error, 1),
		relayWake: make(chan struct{}, 1), queue: dispatcher{wake: make(chan struct{}, 1)},
	}
	c.peers.Store(defaultMaxPeers)
	return c
}

func (cfg *Config) setDefaults() {
	var lc net.ListenConfig
	if cfg.ListenPacket == nil {
		cfg.ListenPacket = lc.ListenPacket
	}
	if cfg.LookupNetIP == nil {
		cfg.LookupNetIP = net.DefaultResolver.LookupNetIP
	}
	if cfg.InterfaceAddrs == nil {
		cfg.InterfaceAddrs = interfaceAddrs
	}
	if cfg.Random == nil {
		cfg.Random = rand.Reader
	} else {
		cfg.Random = &lockedReader{r: cfg.Random}
	}
}

// lockedReader lets keys be made while something is opened.
type lockedReader struct {
	mu sync.Mutex
	r  io.Reader
}

func (l *lockedReader) Read(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.r.Read(b)
}

func interfaceAddrs() ([]netip.Addr, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			addrs = append(addrs, p.Addr().Unmap())
		}
	}
	return addrs, nil
}

// localAddrs are the addresses to tell the server, in an order that changes only with them.
func (c *connection) localAddrs(port uint16) []netip.AddrPort {
	addrs, err := c.cfg.InterfaceAddrs()
	if err != nil {
		return nil // the server observes one, and the list "MAY be empty" (§5.3.3)
	}
	var list []netip.AddrPort
	for _, a := range addrs {
		if !a.IsLoopback() && !a.IsLinkLocalUnicast() {
			list = append(list, netip.AddrPortFrom(a, port))
		}
	}
	slices.SortFunc(list, netip.AddrPort.Compare)
	return list
}

func (c *connection) connect(ctx context.Context, url string, arguments []any) error {
	c.mu.Lock()
	if c.used {
		c.mu.Unlock()
		return ErrUsed
	}
	c.used, c.url = true, url
	c.mu.Unlock()
	t, err := parseTarget(url)
	if err == nil {
		err = c.start(ctx, t, arguments)
	}
	if err != nil {
		c.abandon()
		return err
	}
	select {
	case err := <-c.result:
		return err
	case <-ctx.Done():
		_ = c.do(func(k *core) { k.finish(Status{}) })
		<-c.served
		return ctx.Err()
	}
}

// abandon ends a connection that did not start.
func (c *connection) abandon() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.t == nil {
		close(c.served)
		close(c.done)
	}
}

func (c *connection) start(ctx context.Context, t target, arguments []any) error {
	cfg := c.cfg
	cfg.setDefaults()
	c.cfg = cfg
	id, err := NewIdentity(IdentityConfig{Random: cfg.Random})
	if err != nil {
		return err
	}
	addrs, err := resolve(ctx, cfg, t)
	if err != nil {
		return err
	}
	conn, err := cfg.ListenPacket(ctx, "udp", ":0")
	if err != nil {
		return fmt.Errorf("flash: open a UDP socket: %w", err)
	}
	port := uint16(0)
	if local, err := netip.ParseAddrPort(conn.LocalAddr().String()); err == nil {
		port = local.Port()
	}
	k, ec := newCore(coreConfig{
		Config: cfg, now: time.Now(), id: id, target: t, extra: arguments, addrs: c.localAddrs(port),
	})
	k.shell = c
	k.maxPeers = int(c.peers.Load())
	tr, err := transport.New(transport.Config{
		Endpoint: ec, Interfaces: []transport.Interface{{Conn: conn}}, KeyingWorkers: 2,
		Handle: func(now time.Time, e *rtmfp.Endpoint, ev rtmfp.Event) {
			k.handle(now, ev)
			c.flush(k)
		},
		NextTimer: k.nextTimer,
		Tick:      func(now time.Time, e *rtmfp.Endpoint) { k.tick(now); c.flush(k) },
		InterfaceLost: func(index int, err error) {
			k.relayDown(k.now, index)
			k.relayError = err
			c.flush(k)
			c.wakeRelay()
		},
	})
	if err != nil {
		_ = conn.Close()
		return err
	}
	life, stop := context.WithCancel(context.Background())
	c.mu.Lock()
	c.core, c.t, c.stop, c.id = k, tr, stop, id.PeerID()
	c.mu.Unlock()
	c.relayWant.Store(true)
	var all sync.WaitGroup
	all.Go(func() { _ = tr.Serve(life); close(c.served) })
	all.Go(func() { c.dispatch(k) })
	all.Go(func() { c.watchNetwork(life, port) })
	if cfg.DialRelay != nil && cfg.MMS.Proxy != "" {
		all.Go(func() { c.keepRelay(life) })
	}
	go func() { all.Wait(); close(c.done) }()
	var openErr error
	err = tr.Do(ctx, func(now time.Time, e *rtmfp.Endpoint) {
		k.e = e
		if openErr = k.open(now, addrs); openErr != nil {
			k.finish(Status{})
		}
		c.flush(k)
	})
	if err := errors.Join(err, openErr); err != nil {
		c.stop()
		return fmt.Errorf("flash: connect to %v: %w", addrs, err)
	}
	return nil
}

func resolve(ctx context.Context, cfg Config, t target) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(t.host); err == nil {
		return []netip.Addr{a}, nil
	}
	addrs, err := cfg.LookupNetIP(ctx, "ip", t.host)
	if err != nil {
		return nil, fmt.Errorf("flash: look %s up: %w", t.host, err)
	}
	if len(addrs) == 0 {
		return nil, fmt.Errorf("flash: %s has no address", t.host)
	}
	return addrs[:min(len(addrs), maxServerAddrs)], nil
}

// do has f called by the owner of the core. After the end it is called here, to look at what is left.
func (c *connection) do(f func(k *core)) error {
	c.mu.Lock()
	k, t := c.core, c.t
	c.mu.Unlock()
	if k == nil {
		return ErrNotConnected
	}
	err := t.Do(context.Background(), func(now time.Time, e *rtmfp.Endpoint) {
		k.now = now
		f(k)
		c.flush(k)
	})
	if errors.Is(err, transport.ErrClosed) {
		<-c.served
		c.mu.Lock()
		defer c.mu.Unlock()
		f(k)
		return ErrClosed
	}
	return err
}

// flush hands what the core wants to tell to the dispatcher. It runs on the core's goroutine.
func (c *connection) flush(k *core) {
	notices := k.take()
	if want := k.wantsRelay(); want != c.relayWant.Load() {
		c.relayWant.Store(want)
		c.wakeRelay()
	}
	if len(notices) == 0 {
		return
	}
	for _, n := range notices {
		switch n.kind {
		case noticeConnected:
			select {
			case c.result <- n.err:
			default:
			}
		case noticeClosed:
			select {
			case c.result <- ErrClosed: // closed while connecting
			default:
			}
			c.stop()
		}
	}
	c.queue.add(notices)
}

func (c *connection) wakeRelay() {
	select {
	case c.relayWake <- struct{}{}:
	default:
	}
}

// keepRelay has a relayed address while the core wants one.
func (c *connection) keepRelay(ctx context.Context) {
	retry := relayRetry
	for ctx.Err() == nil {
		if !c.relayWant.Load() {
			select {
			case <-ctx.Done():
			case <-c.relayWake:
			}
			continue
		}
		began := time.Now()
		index, err := c.dialRelay(ctx)
		if err == nil {
			c.holdRelay(ctx, index)
		} else {
			_ = c.do(func(k *core) { k.relayError = err })
		}
		if time.Since(began) > maxRelayRetry {
			retry = relayRetry
		}
		select {
		case <-ctx.Done():
		case <-time.After(retry):
		}
		retry = min(2*retry, maxRelayRetry)
	}
}

// dialRelay makes a relayed address an interface.
func (c *connection) dialRelay(ctx context.Context) (index int, err error) {
	conn, err := c.cfg.DialRelay(ctx, c.cfg.MMS.Proxy)
	if err != nil {
		return 0, err
	}
	addr, err := netip.ParseAddrPort(conn.LocalAddr().String())
	if err != nil {
		_ = conn.Close()
		return 0, fmt.Errorf("flash: a relay without an address: %w", err)
	}
	index, err = c.t.AddInterface(ctx, transport.Interface{Conn: conn, Delay: relayDelay})
	if err != nil {
		return 0, err
	}
	return index, c.do(func(k *core) { k.relayError = nil; k.relayUp(k.now, index, addr) })
}

// holdRelay returns when the relay is gone or not wanted any more.
func (c *connection) holdRelay(ctx context.Context, index int) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.relayWake:
		}
		gone := true
		if c.do(func(k *core) { gone = !k.isRelay(index) }) != nil || gone {
			return
		}
		if !c.relayWant.Load() {
			if c.do(func(k *core) { k.relayDown(k.now, index) }) == nil {
				_ = c.t.RemoveInterface(ctx, index)
			}
			return
		}
	}
}

// watchNetwork tells the core when this machine's addresses change.
func (c *connection) watchNetwork(ctx context.Context, port uint16) {
	known := c.localAddrs(port)
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(networkCheck):
		}
		if addrs := c.localAddrs(port); !slices.Equal(addrs, known) {
			known = addrs
			_ = c.do(func(k *core) { k.networkChanged(k.now, addrs) })
		}
	}
}

func (c *connection) close() error {
	c.mu.Lock()
	if !c.used {
		c.used = true
		close(c.served)
		close(c.done)
		c.mu.Unlock()
		return nil
	}
	c.mu.Unlock()
	closed := true
	err := c.do(func(k *core) {
		closed = k.state >= stateClosing
		k.finish(Status{Code: NetConnectionConnectClosed, Level: "status"})
	})
	if err != nil {
		return ErrClosed
	}
	<-c.served
	if closed {
		return ErrClosed
	}
	return nil
}

func (c *connection) uri() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.url
}

func (c *connection) nearID() PeerID {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.id
}

func (c *connection) connected() (up bool) {
	_ = c.do(func(k *core) { up = k.state == stateUp })
	return up
}

func (c *connection) farID() (id PeerID) {
	_ = c.do(func(k *core) { id = k.farID })
	return id
}

func (c *connection) nonces() (near, far []byte) {
	_ = c.do(func(k *core) { near, far = slices.Clone(k.near), slices.Clone(k.far) })
	return near, far
}

func (c *connection) maxPeers() int { return int(c.peers.Load()) }

func (c *connection) setMaxPeers(n int) {
	n = max(0, n)
	c.peers.Store(int64(n))
	_ = c.do(func(k *core) { k.maxPeers = n })
}

func (c *connection) unconnected() (list []*NetStream) {
	_ = c.do(func(k *core) {
		for _, s := range k.unconnected {
			list = append(list, s.public)
		}
	})
	return list
}

func (c *connection) serverPath() (p Path) {
	_ = c.do(func(k *core) { p = k.server.path() })
	return p
}

func (c *connection) relayAddr() (addr netip.AddrPort, ok bool) {
	_ = c.do(func(k *core) {
		for _, i := range sortedKeys(k.relays) {
			addr, ok = k.relays[i], true
		}
	})
	return addr, ok
}
