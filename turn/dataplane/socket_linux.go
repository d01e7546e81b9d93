package dataplane

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilenet/stile/turn"
)

// threadEngine is the socket and the kernel engine: a thread for each shard, which has its own sockets of every listener, its own
// epoll and its own core.
//
//	          ┌ shard 0 ───────────────────────────────────────────────┐
//	clients ══╡ listener (SO_REUSEPORT) ─▶ recvmmsg ─▶ core ─▶ sendto   ╞══ peers
//	          │           ◀─ sendmmsg ◀─ core ◀─ recvmmsg ◀─ relayed port│
//	          └──────────────────────────┬─────────────────────────────┘
//	                            mailbox (hairpins, control)
//	          ┌ shard 1 ─────────────────┴─────────────────────────────┐
//
// The kernel picks a client's shard by its address and port, and the relayed ports of the client are the shard's, so
// that no packet crosses shards but those between two clients.
type threadEngine struct {
	cfg     *Config
	kernel  *kernel // nil: the socket engine
	all     []*shard
	streams streamCount
	tidier  tidier // of shard 0
	started atomic.Bool
}

func openSocket(ctx context.Context, cfg *Config, ledger *turn.Ledger) (engine, error) {
	growDescriptors(cfg)
	return openThreads(ctx, cfg, ledger, nil)
}

func openThreads(_ context.Context, cfg *Config, ledger *turn.Ledger, k *kernel) (_ engine, err error) {
	n := shardCount(cfg)
	e := &threadEngine{cfg: cfg, kernel: k, all: make([]*shard, n)}
	e.streams = streamCount{clients: make(map[netip.Addr]int), max: cfg.Streams, perClient: cfg.StreamsPerClient}
	defer func() {
		if err != nil {
			e.close()
		}
	}()
	for i := range e.all {
		if e.all[i], err = newShard(e, i, ledger); err != nil {
			return nil, fmt.Errorf("dataplane: shard %d: %w", i, err)
		}
		e.all[i].posted = make([]bool, n)
	}
	cfg.Listeners = slices.Clone(cfg.Listeners)
	for i := range cfg.Listeners {
		if err := e.listen(&cfg.Listeners[i], i); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// growDescriptors makes the process's table of descriptors as large as it will ever be (8 bytes and 3 bits each). When it grows
// later, the kernel holds the thread that opened a socket until every processor has passed through an RCU grace period: under a flood of
// allocations that stopped a shard, and the flows of all its clients, for up to 4.9 s.
func growDescriptors(cfg *Config) {
	most := cfg.Ports.Size()*len(cfg.Relays) + cfg.Streams + 2*reservedDescriptors
	if limit, ok := descriptorLimit(); ok {
		most = min(most, limit)
	}
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return // a start without it is a start
	}
	defer unix.Close(null)
	if high, err := unix.FcntlInt(uintptr(null), unix.F_DUPFD_CLOEXEC, most-1); err == nil {
		_ = unix.Close(high)
	}
}

// listen opens a listener for all shards. A port of 0 becomes the one that the system gave to the first.
func (e *threadEngine) listen(l *Listener, index int) error {
	if l.Network != "udp" && l.Network != "tcp" {
		return fmt.Errorf("%s: %v: the network must be udp or tcp", l.key(), l)
	}
	if len(e.all) > 1 && l.Address.Port() != 0 {
		if err := exclusive(*l, index); err != nil {
			return listenError(*l, err)
		}
	}
	for _, s := range e.all {
		x, err := openListener(*l, index, len(e.all) > 1)
		if err != nil {
			return listenError(*l, err)
		}
		if err := s.listen(x); err != nil {
			return listenError(*l, err)
		}
		l.Address = netip.AddrPortFrom(l.Address.Addr(), x.local.Port())
	}
	return nil
}

// close closes an engine that does not run.
func (e *threadEngine) close() {
	for _, s := range e.all {
		if s != nil {
			s.close()
			s.box.close()
		}
	}
	if e.kernel != nil {
		e.kernel.close()
	}
}

func (e *threadEngine) serve(ctx context.Context) error {
	if !e.started.CompareAndSwap(false, true) {
		if ctx.Err() != nil {
			return nil
		}
		return ErrClosed
	}
	var running sync.WaitGroup
	for _, s := range e.all {
		running.Go(s.run)
	}
	<-ctx.Done()
	for _, s := range e.all {
		s.stop.Store(true)
		s.box.wake()
	}
	running.Wait()
	for _, s := range e.all {
		s.box.close()
	}
	if e.kernel != nil {
		e.kernel.close()
	}
	return nil
}

func (e *threadEngine) do(ctx context.Context, shard int, f func(time.Time, *turn.Core)) error {
	c := &call{f: f, done: make(chan struct{})}
	if err := e.all[shard].box.ask(c); err != nil {
		return err
	}
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		if c.taken.CompareAndSwap(false, true) {
			return ctx.Err()
		}
		<-c.done // it runs already
		return c.err
	}
}

func (e *threadEngine) shards() int { return len(e.all) }

func (e *threadEngine) warnings() []string {
	if e.kernel == nil {
		return nil
	}
	return e.kernel.warnings
}

func (e *threadEngine) addStats(s *Stats) {
	s.Streams += e.streams.now()
	for _, x := range e.all {
		c := &x.counters
		s.StreamsRefused += c.streamsRefused.Load()
		s.StreamsBroken += c.streamsBroken.Load()
		s.SendErrors += c.sendErrors.Load()
		s.StreamDrops += c.streamDrops.Load()
		s.HairpinDrops += c.hairpinDrops.Load()
		s.ReceiveDrops += c.receiveDrops.Load()
		s.Panics += c.panics.Load()
	}
}
