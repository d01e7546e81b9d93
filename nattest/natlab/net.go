package natlab

import (
	"container/heap"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"sync"
	"time"
)

// minHop is the least time that a packet takes over a link. In a synctest bubble time advances only when every
// goroutine waits, so whatever is sent in one instant is known before the first of it arrives, and can be put into
// an order that does not depend on the scheduling of goroutines.
const minHop = time.Nanosecond

// Net is a simulated internet. Its methods, and those of everything in it, are safe for concurrent use.
type Net struct {
	seed  uint64
	start time.Time

	wake    chan struct{} // an event was added
	done    chan struct{} // closed by Close
	stopped chan struct{} // closed when the loop has ended

	mu     sync.Mutex // guards everything below and everything in hosts, links, segments and boxes
	closed bool
	events eventHeap
	serial uint64
	fragID uint32
	root   *Segment
	nodes  []*node
	hosts  map[string]*Host
	ring   ring
	sent   uint64
	counts [dispositionSentinel]uint64
}

// node is a host or a box: something with a column in the diagram.
type node struct {
	id     int
	name   string
	inside *node // the box it is inside of; nil in the internet
}

// New returns a network with an empty internet. The seed decides every loss, delay and random port. Inside a
// testing/synctest bubble time is virtual, and New, the sockets and Close must be called in the same bubble.
// The caller must Close it.
func New(seed uint64) *Net {
	n := &Net{
		seed:    seed,
		start:   time.Now(),
		wake:    make(chan struct{}, 1),
		done:    make(chan struct{}),
		stopped: make(chan struct{}),
		hosts:   make(map[string]*Host),
		ring:    ring{size: defaultRingPackets},
	}
	n.root = n.newSegment("internet")
	n.root.hops = defaultInternetHops
	go n.loop()
	return n
}

// Seed returns the seed that New was given.
func (n *Net) Seed() uint64 { return n.seed }

// Internet returns the segment where public hosts and the outsides of boxes are attached.
func (n *Net) Internet() *Segment { return n.root }

// Close ends the network, closes every socket in it and returns when its goroutine has ended. Packets that are on
// their way are gone. Close may be called again.
func (n *Net) Close() error {
	n.mu.Lock()
	first := !n.closed
	n.closed = true
	if first {
		for _, h := range n.hosts {
			h.closeAll()
		}
		for _, e := range n.events {
			if e.pkt != nil && e.pkt.trace != nil {
				n.end(e.pkt, NetClosed)
			}
		}
		n.events = nil
		close(n.done)
	}
	n.mu.Unlock()
	<-n.stopped
	return nil
}

// Stats counts what became of the packets.
type Stats struct {
	// Sent is the number of packets that came into being: sent by sockets, made by links that duplicate or
	// fragment, by hosts that reassemble, and ICMP errors.
	Sent uint64
	// By is how they ended. The values add up to Sent; By[InFlight] are those on their way.
	By map[Disposition]uint64
}

// Stats returns the counters so far.
func (n *Net) Stats() Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := Stats{Sent: n.sent, By: make(map[Disposition]uint64)}
	inFlight := n.sent
	for d, c := range n.counts {
		if c > 0 {
			s.By[Disposition(d)] = c
			inFlight -= c
		}
	}
	if inFlight > 0 {
		s.By[InFlight] = inFlight
	}
	return s
}

func (s Stats) String() string {
	out := fmt.Sprintf("%d packets", s.Sent)
	by := maps.Clone(s.By)
	for d := range dispositionSentinel {
		if c := by[d]; c > 0 {
			out += fmt.Sprintf(", %d %v", c, d)
		}
	}
	return out
}

// rand returns a generator whose values depend on the seed and the name alone.
func (n *Net) rand(name string) *rand.Rand {
	h := fnv.New64a()
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], n.seed)
	h.Write(b[:])
	h.Write([]byte(name))
	return rand.New(rand.NewPCG(n.seed, h.Sum64()))
}

func (n *Net) newNode(name string, at *Segment) *node {
	for _, o := range n.nodes {
		if o.name == name {
			panic(fmt.Sprintf("natlab: there is already a %q", name))
		}
	}
	nd := &node{id: len(n.nodes), name: name}
	if at.gateway != nil {
		nd.inside = at.gateway.node
	}
	n.nodes = append(n.nodes, nd)
	return nd
}

// begin enters a packet into the books.
func (n *Net) begin(now time.Time, p *Packet, at *node) {
	n.sent++
	p.trace = &trace{at: now, proto: p.Proto, bytes: len(p.Payload), icmp: p.Err, frag: p.Fragment, tcp: p.seg.String(), ttl: p.TTL}
	p.trace.visit(at, p)
	n.ring.add(p.trace)
}

// end closes a packet's entry in the books.
func (n *Net) end(p *Packet, d Disposition) {
	if p.trace.end != InFlight {
		panic(fmt.Sprintf("BUG: natlab: packet ended twice: %v, then %v", p.trace.end, d))
	}
	p.trace.end = d
	p.trace.src, p.trace.dst = p.Src, p.Dst
	n.counts[d]++
}

// event is something that happens at a time. Events of one instant run in the order of rank: first what the loop
// itself caused, in the order in which it did, then what sockets sent, by socket.
type event struct {
	at   time.Time
	rank rank
	pkt  *Packet // nil for timers
	do   func(now time.Time, p *Packet)
}

// rank orders the events of one instant without regard to goroutines. The zero socket is the loop.
type rank struct {
	host   int // node id + 1
	proto  Proto
	port   uint16
	conn   uint64 // of TCP
	serial uint64
}

func (a rank) less(b rank) bool {
	switch {
	case a.host != b.host:
		return a.host < b.host
	case a.proto != b.proto:
		return a.proto < b.proto
	case a.port != b.port:
		return a.port < b.port
	case a.conn != b.conn:
		return a.conn < b.conn
	}
	return a.serial < b.serial
}

type eventHeap []event

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	if c := h[i].at.Compare(h[j].at); c != 0 {
		return c < 0
	}
	return h[i].rank.less(h[j].rank)
}
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(event)) }
func (h *eventHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = event{}
	*h = old[:len(old)-1]
	return e
}

// at runs do at a time; the loop's own order decides among equals. Called by the loop only, with mu held.
func (n *Net) at(at time.Time, p *Packet, do func(now time.Time, p *Packet)) {
	n.serial++
	heap.Push(&n.events, event{at: at, rank: rank{serial: n.serial}, pkt: p, do: do})
}

// from runs do a moment later; r decides among equals. Called by sockets, with mu held.
func (n *Net) from(r rank, p *Packet, do func(now time.Time, p *Packet)) {
	n.fromAt(time.Now().Add(minHop), r, p, do)
}

func (n *Net) fromAt(at time.Time, r rank, p *Packet, do func(now time.Time, p *Packet)) {
	n.serial++
	r.serial = n.serial
	heap.Push(&n.events, event{at: at, rank: r, pkt: p, do: do})
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// loop is the only goroutine of a network: it runs the events when their time has come.
func (n *Net) loop() {
	defer close(n.stopped)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if wait, ok := n.runDue(); ok {
			timer.Reset(wait)
		} else {
			timer.Stop()
		}
		select {
		case <-timer.C:
		case <-n.wake:
		case <-n.done:
			return
		}
	}
}

// runDue runs what is due and returns the time to the next event.
func (n *Net) runDue() (wait time.Duration, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	for len(n.events) > 0 {
		if d := n.events[0].at.Sub(now); d > 0 {
			return d, true
		}
		e := heap.Pop(&n.events).(event)
		e.do(e.at, e.pkt)
	}
	return 0, false
}
