//go:build linux

package netns

import (
	"container/heap"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// defaultQueue is a UserLink's queue in bytes when the configuration names a rate and no queue: about 100 ms at 20 Mbit/s, what a
// home router buffers.
const defaultQueue = 256 << 10

// maxInFlight bounds the packets that one direction of a UserLink holds because of delay. Ours to tune: 50 ms of 1 Mpackets/s.
const maxInFlight = 50_000

// UserLinkConfig says how a userspace link treats packets, in each direction alike unless BtoA is set. The zero value passes
// everything at once.
type UserLinkConfig struct {
	Delay  time.Duration // one way
	Jitter time.Duration // added to Delay, evenly from 0 to Jitter; packets may overtake each other
	Loss   float64       // share of packets lost at random, 0 to 1
	Rate   int           // bits per second of IP packets; 0 is no limit
	Queue  int           // bytes that wait for the rate; what does not fit is dropped; 0 is 256 KiB
	Seed   uint64        // of loss and jitter; the same seed loses the same packets by number

	BtoA *UserLinkConfig // the other direction, if it differs
}

// UserLink joins two hosts by TUN devices and this process.
type UserLink struct {
	AtoB, BtoA *Direction
}

// Direction is one way through a UserLink. Its methods are safe for concurrent use.
type Direction struct {
	from, to string

	mu  sync.Mutex
	cfg UserLinkConfig

	sent, sentBytes, lost, overflowed, delivered atomic.Uint64
}

// Set changes delay, jitter, loss, rate and queue while packets flow. Seed and BtoA are ignored.
func (d *Direction) Set(cfg UserLinkConfig) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cfg = cfg.withDefaults()
}

// DirectionCounters says what became of a direction's packets. Sent = Lost + Overflowed + Delivered + what is under way.
type DirectionCounters struct {
	Sent, SentBytes uint64 // that the kernel gave to the link
	Lost            uint64 // by chance
	Overflowed      uint64 // no room in the queue
	Delivered       uint64 // that the other kernel got
}

// Counters reads the direction's counters.
func (d *Direction) Counters() DirectionCounters {
	return DirectionCounters{
		Sent: d.sent.Load(), SentBytes: d.sentBytes.Load(), Lost: d.lost.Load(), Overflowed: d.overflowed.Load(), Delivered: d.delivered.Load(),
	}
}

func (c UserLinkConfig) withDefaults() UserLinkConfig {
	if c.Queue == 0 {
		c.Queue = defaultQueue
	}
	return c
}

// UserLink joins two ends by a link that delays, loses and paces packets, as netem would. It needs no ARP or neighbour discovery:
// an interface's route is enough.
func (l *Lab) UserLink(a, b End, cfg UserLinkConfig) *UserLink {
	l.tb.Helper()
	a.addrs, b.addrs = append([]string(nil), a.addrs...), append([]string(nil), b.addrs...)
	a.complete()
	b.complete()
	fa, fb := l.tun(a), l.tun(b)
	back := cfg
	back.Seed++ // the directions lose different packets
	if cfg.BtoA != nil {
		back = *cfg.BtoA
	}
	link := &UserLink{
		AtoB: &Direction{from: a.host.name, to: b.host.name, cfg: cfg.withDefaults()},
		BtoA: &Direction{from: b.host.name, to: a.host.name, cfg: back.withDefaults()},
	}
	mtu := max(a.mtu, b.mtu)
	run := newRunner(fa, fb)
	link.AtoB.run(run, fa, fb, mtu, cfg.Seed)
	link.BtoA.run(run, fb, fa, mtu, back.Seed)
	l.keep(run)
	l.note(func() string {
		return fmt.Sprintf("userspace link: %v\nuserspace link: %v", link.AtoB, link.BtoA)
	})
	return link
}

func (d *Direction) String() string { return fmt.Sprintf("%s to %s %+v", d.from, d.to, d.Counters()) }

// runner owns the files and goroutines of a userspace link or NAT. Close ends both.
type runner struct {
	wg    sync.WaitGroup
	files []*os.File
	once  sync.Once
}

func newRunner(files ...*os.File) *runner { return &runner{files: files} }

func (r *runner) Close() error {
	r.once.Do(func() {
		for _, f := range r.files {
			f.Close()
		}
		r.wg.Wait()
	})
	return nil
}

// run starts the direction: one goroutine reads and decides, one delivers when the time has come.
func (d *Direction) run(r *runner, from, to *os.File, mtu int, seed uint64) {
	arrivals := make(chan timedPacket, 256)
	r.wg.Add(2)
	go func() {
		defer r.wg.Done()
		defer close(arrivals)
		shape := shaper{random: rand.New(rand.NewPCG(seed, 0))}
		buf := make([]byte, mtu)
		for {
			n, err := from.Read(buf)
			if err != nil {
				if errors.Is(err, os.ErrClosed) || errors.Is(err, io.EOF) {
					return
				}
				continue // the interface is down for now
			}
			d.sent.Add(1)
			d.sentBytes.Add(uint64(n))
			d.mu.Lock()
			cfg := d.cfg
			d.mu.Unlock()
			at, fate := shape.decide(time.Now(), n, cfg)
			switch fate {
			case lost:
				d.lost.Add(1)
			case overflowed:
				d.overflowed.Add(1)
			default:
				arrivals <- timedPacket{at: at, data: append([]byte(nil), buf[:n]...)}
			}
		}
	}()
	go func() {
		defer r.wg.Done()
		d.deliver(arrivals, to)
	}()
}

func (d *Direction) deliver(arrivals <-chan timedPacket, to *os.File) {
	var waiting packetHeap
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var order uint64
	for {
		for len(waiting) > 0 && !waiting[0].at.After(time.Now()) {
			p := heap.Pop(&waiting).(timedPacket)
			if _, err := to.Write(p.data); err == nil {
				d.delivered.Add(1)
			} else {
				d.lost.Add(1) // the other end is down
			}
		}
		wait := time.Hour
		if len(waiting) > 0 {
			wait = time.Until(waiting[0].at)
		}
		timer.Reset(wait)
		select {
		case p, ok := <-arrivals:
			if !ok {
				return
			}
			if len(waiting) >= maxInFlight {
				d.overflowed.Add(1)
				continue
			}
			order++
			p.order = order
			heap.Push(&waiting, p)
		case <-timer.C:
		}
	}
}

type fate int

const (
	delivered fate = iota + 1
	lost
	overflowed
)

// shaper decides what becomes of each packet. It performs no I/O and reads no clock.
type shaper struct {
	random *rand.Rand
	free   time.Time // when the link has sent everything that it accepted
}

// decide returns when a packet that is sent now arrives, or why it does not.
func (s *shaper) decide(now time.Time, size int, cfg UserLinkConfig) (time.Time, fate) {
	// Both numbers are drawn for each packet, so that the seed decides by the packet's number whatever the configuration is.
	chance, jitter := s.random.Float64(), s.random.Float64()
	if s.free.Before(now) {
		s.free = now
	}
	if cfg.Rate > 0 {
		backlog := int(s.free.Sub(now).Seconds() * float64(cfg.Rate) / 8)
		if backlog+size > cfg.Queue {
			return time.Time{}, overflowed
		}
		s.free = s.free.Add(time.Duration(float64(size) * 8 / float64(cfg.Rate) * float64(time.Second)))
	}
	if chance < cfg.Loss {
		return time.Time{}, lost // after the queue: a packet that is lost on the way has used the link
	}
	return s.free.Add(cfg.Delay + time.Duration(jitter*float64(cfg.Jitter))), delivered
}

type timedPacket struct {
	at    time.Time
	order uint64 // packets for the same time keep their order
	data  []byte
}

// packetHeap is a container/heap of packets, the earliest first.
type packetHeap []timedPacket

func (h packetHeap) Len() int { return len(h) }
func (h packetHeap) Less(i, j int) bool {
	if h[i].at.Equal(h[j].at) {
		return h[i].order < h[j].order
	}
	return h[i].at.Before(h[j].at)
}
func (h packetHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *packetHeap) Push(x any)   { *h = append(*h, x.(timedPacket)) }
func (h *packetHeap) Pop() any {
	old := *h
	p := old[len(old)-1]
	old[len(old)-1] = timedPacket{}
	*h = old[:len(old)-1]
	return p
}
