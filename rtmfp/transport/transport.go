package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stilenet/stile/rtmfp"
)

// Ours to tune.
const (
	// maxPosted bounds the functions that wait for the goroutine of the endpoint.
	maxPosted = 1 << 16
	// batchesPerRound is how many batches are handed to the endpoint before it sends what they led to. With 64 packets in each a
	// packet waits for 255 others at most, which take it about a millisecond.
	batchesPerRound = 4
	// stopTime is how long Serve tells far ends that it ends.
	stopTime = time.Second
)

// Errors.
var (
	// ErrClosed means that Serve has returned.
	ErrClosed = errors.New("transport: closed")
	// ErrBusy means that too many functions wait for the endpoint.
	ErrBusy = errors.New("transport: busy")
)

// Config is what a Transport is made of.
type Config struct {
	// Endpoint configures the endpoint. Its Interfaces and DeferKeying are set by New.
	Endpoint rtmfp.Config
	// Interfaces are the sockets at the start; more can come later.
	Interfaces []Interface
	// Handle is called with every event but EventKeying, on the goroutine that owns the endpoint. It must not block.
	Handle func(now time.Time, e *rtmfp.Endpoint, ev rtmfp.Event)
	// NextTimer and Tick, if not nil, are the user's own timer: Tick is called on the goroutine of Handle when the time that
	// NextTimer returns has come; the zero time is never. NextTimer is asked whenever something has happened.
	NextTimer func() time.Time
	Tick      func(now time.Time, e *rtmfp.Endpoint)
	// InterfaceLost, if not nil, is called on the same goroutine when an interface has ended by itself, as a relay does.
	InterfaceLost func(index int, err error)
	// KeyingWorkers is how many goroutines negotiate keys; 0 means as many as there are processors.
	KeyingWorkers int
	// StartupPerPrefix bounds the startup packets that are processed for each /24, or /56 of IPv6, in a second; 0 means no
	// bound. A server is given one, because it answers addresses that have proved nothing.
	StartupPerPrefix int

	pool  *keyingPool // of a Server, for all shards
	group *Server     // of a shard
	shard uint32
}

// Transport runs an rtmfp.Endpoint. Its methods may be called from any goroutine.
type Transport struct {
	cfg      Config
	endpoint *rtmfp.Endpoint // only by the goroutine of Serve
	links    []*link         // the same
	prefixes *prefixLimit    // the same
	ownPool  bool
	in       chan *batch
	wake     chan struct{} // there are posted functions
	stopped  chan struct{} // Serve has returned
	started  atomic.Bool
	readers  sync.WaitGroup

	mu     sync.Mutex
	posted []func(now time.Time, e *rtmfp.Endpoint)
	closed bool

	stats counters
}

// New makes a Transport. It owns the sockets from now on. Errors are those of the configuration.
func New(cfg Config) (*Transport, error) {
	if cfg.Handle == nil {
		return nil, errors.New("transport: Config.Handle is required")
	}
	t := &Transport{
		cfg: cfg, in: make(chan *batch, 16), wake: make(chan struct{}, 1), stopped: make(chan struct{}),
		prefixes: newPrefixLimit(cfg.StartupPerPrefix),
	}
	if cfg.pool == nil {
		t.cfg.pool, t.ownPool = newKeyingPool(cfg.KeyingWorkers), true
	}
	ec := cfg.Endpoint
	ec.DeferKeying = true
	ec.Interfaces = []rtmfp.Interface{{}}
	if len(cfg.Interfaces) > 0 {
		ec.Interfaces = nil
	}
	for n, i := range cfg.Interfaces {
		l, err := newLink(t, n, i)
		if err != nil {
			return nil, err
		}
		t.links = append(t.links, l)
		ec.Interfaces = append(ec.Interfaces, l.reach)
	}
	var err error
	t.endpoint, err = rtmfp.New(time.Now(), ec)
	return t, err
}

// Serve runs the endpoint until ctx ends, then tells all far ends, closes the sockets and returns nil. It may be called once.
func (t *Transport) Serve(ctx context.Context) error {
	if t.started.Swap(true) {
		panic("BUG: transport: Serve is called twice")
	}
	for _, l := range t.links {
		t.startReader(l)
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		t.pump(time.Now())
		if at, ok := t.nextTimer(); ok {
			timer.Reset(time.Until(at))
		} else {
			timer.Stop()
		}
		select {
		case <-ctx.Done():
			t.stop()
			return nil
		case b := <-t.in:
			now := time.Now()
			t.receive(now, b)
			t.receiveMore(now)
		case <-t.wake:
		case <-timer.C:
		}
		now := time.Now()
		t.runPosted(now)
		t.endpoint.Tick(now)
		if t.cfg.Tick != nil {
			if at := t.cfg.NextTimer(); !at.IsZero() && !now.Before(at) {
				t.cfg.Tick(now, t.endpoint)
			}
		}
	}
}

// nextTimer is when the endpoint or the user wants to be called.
func (t *Transport) nextTimer() (at time.Time, ok bool) {
	at, ok = t.endpoint.NextTimer()
	if t.cfg.NextTimer != nil {
		if user := t.cfg.NextTimer(); !user.IsZero() && (!ok || user.Before(at)) {
			return user, true
		}
	}
	return at, ok
}

// receiveMore takes what waits already.
func (t *Transport) receiveMore(now time.Time) {
	for range batchesPerRound - 1 {
		select {
		case b := <-t.in:
			t.receive(now, b)
		default:
			return
		}
	}
}

// receive hands a batch to the endpoint, and gives it back to its reader.
func (t *Transport) receive(now time.Time, b *batch) {
	for n := range b.n {
		data, from := b.datagram(n)
		if id, ok := rtmfp.SessionID(data); ok && id == 0 && !t.prefixes.allow(now, from.Addr()) {
			t.stats.limited.Add(1)
			continue
		}
		t.endpoint.Receive(now, b.link, from, data)
	}
	if b.home != nil {
		b.home <- b
	}
}

// pump hands out events and sends datagrams until there are none.
func (t *Transport) pump(now time.Time) {
	for {
		events := t.endpoint.Events()
		for _, ev := range events {
			if ev.Kind == rtmfp.EventKeying {
				t.cfg.pool.add(t, ev.Keying)
				continue
			}
			t.cfg.Handle(now, t.endpoint, ev)
		}
		out := t.endpoint.Flush(now)
		t.send(out)
		t.endpoint.Recycle(out)
		if len(events) == 0 && len(out) == 0 {
			return
		}
	}
}

// send sends datagrams, neighbours of one interface together.
func (t *Transport) send(out []rtmfp.Datagram) {
	for len(out) > 0 {
		n := 1
		for n < len(out) && out[n].Interface == out[0].Interface {
			n++
		}
		if l := t.links[out[0].Interface]; l != nil {
			if lost := l.send(out[:n]); lost > 0 {
				t.stats.unsent.Add(uint64(lost))
			}
		}
		out = out[n:]
	}
}

// Post has f called on the goroutine that owns the endpoint, and does not wait. Errors: ErrBusy, ErrClosed.
func (t *Transport) Post(f func(now time.Time, e *rtmfp.Endpoint)) error {
	return t.post(f, maxPosted)
}

func (t *Transport) post(f func(now time.Time, e *rtmfp.Endpoint), limit int) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return ErrClosed
	}
	if len(t.posted) >= limit {
		t.stats.busy.Add(1)
		return ErrBusy
	}
	t.posted = append(t.posted, f)
	select {
	case t.wake <- struct{}{}:
	default:
	}
	return nil
}

// Do has f called on the goroutine that owns the endpoint, and waits for its return. It must not be called on that goroutine, so
// not by Handle. If ctx ends first, f may still be called. Errors: ErrBusy, ErrClosed, that of ctx.
func (t *Transport) Do(ctx context.Context, f func(now time.Time, e *rtmfp.Endpoint)) error {
	done := make(chan struct{})
	if err := t.Post(func(now time.Time, e *rtmfp.Endpoint) {
		defer close(done)
		f(now, e)
	}); err != nil {
		return err
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-t.stopped:
		select {
		case <-done:
			return nil
		default:
			return ErrClosed
		}
	}
}

func (t *Transport) runPosted(now time.Time) {
	t.mu.Lock()
	posted := t.posted
	t.posted = nil
	t.mu.Unlock()
	for _, f := range posted {
		f(now, t.endpoint)
	}
}

// stop ends the sessions and closes everything.
func (t *Transport) stop() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	began := time.Now()
	t.runPosted(began) // nobody waits for what is never called
	all := t.endpoint.All()
	for chunk := range slices.Chunk(all, 64) {
		now := time.Now()
		if now.Sub(began) > stopTime {
			break
		}
		for _, s := range chunk {
			s.Abort(now)
		}
		t.pump(now)
	}
	for _, l := range t.links {
		if l != nil {
			l.close()
		}
	}
	if t.ownPool {
		t.cfg.pool.close()
	}
	done := make(chan struct{})
	go func() {
		t.readers.Wait()
		close(done)
	}()
	for {
		select {
		case b := <-t.in: // so that no reader waits
			if b.home != nil {
				b.home <- b
			}
		case <-done:
			close(t.stopped)
			return
		}
	}
}

// AddInterface makes another socket usable, and returns its index, by which a Candidate names it. The Transport owns the socket
// from now on, also if it fails. Errors: those of New and Do.
func (t *Transport) AddInterface(ctx context.Context, i Interface) (index int, err error) {
	l, err := newLink(t, 0, i)
	if err != nil {
		return 0, err
	}
	added := false
	doErr := t.Do(ctx, func(now time.Time, e *rtmfp.Endpoint) {
		if ctx.Err() != nil {
			l.close()
			return
		}
		added = true
		l.index = e.AddInterface(now, l.reach)
		if l.index >= len(t.links) {
			t.links = append(t.links, make([]*link, l.index+1-len(t.links))...)
		}
		t.links[l.index] = l
		t.startReader(l)
	})
	switch {
	case doErr != nil:
		// If only the context has ended, the function may run later, or just have run.
		_ = t.Post(func(now time.Time, _ *rtmfp.Endpoint) { t.removeLink(now, l.index, l) })
		l.close()
		return 0, doErr
	case !added:
		return 0, ctx.Err()
	}
	return l.index, nil
}

// RemoveInterface forgets a socket and closes it. Errors: those of Do.
func (t *Transport) RemoveInterface(ctx context.Context, index int) error {
	return t.Do(ctx, func(now time.Time, e *rtmfp.Endpoint) { t.removeLink(now, index, nil) })
}

// removeLink forgets the link at index, if it is l or l is nil.
func (t *Transport) removeLink(now time.Time, index int, l *link) bool {
	if index < 0 || index >= len(t.links) || t.links[index] == nil || l != nil && t.links[index] != l {
		return false
	}
	t.links[index].close()
	t.links[index] = nil
	t.endpoint.RemoveInterface(now, index)
	return true
}

// startReader reads from a link until it ends.
func (t *Transport) startReader(l *link) {
	t.readers.Add(1)
	go func() {
		defer t.readers.Done()
		err := l.read()
		if errors.Is(err, net.ErrClosed) && l.closing.Load() {
			return
		}
		_ = t.post(func(now time.Time, _ *rtmfp.Endpoint) {
			if t.removeLink(now, l.index, l) && t.cfg.InterfaceLost != nil {
				t.cfg.InterfaceLost(l.index, fmt.Errorf("transport: read from %v: %w", l.conn.LocalAddr(), err))
			}
		}, 2*maxPosted) // never refused for others' posts
	}()
}

// workers is the default of Config.KeyingWorkers.
func workers(n int) int {
	if n <= 0 {
		return runtime.GOMAXPROCS(0)
	}
	return n
}

// LocalAddr is the local address of one of Config.Interfaces: that of a relay is its relayed one.
func (t *Transport) LocalAddr(index int) net.Addr { return t.cfg.Interfaces[index].Conn.LocalAddr() }
