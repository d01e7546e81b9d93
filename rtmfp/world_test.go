package rtmfp

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// world is a network of endpoints in virtual time: packets are lost, doubled and delayed by chance, from a seed.
type world struct {
	t        testing.TB
	seed     uint64
	rng      *rand.Rand
	now      time.Time
	nodes    []*node
	packets  []packet
	loss     float64
	dup      float64
	delayMin time.Duration
	delayMax time.Duration
	// filter sees every packet and may drop it.
	filter func(p *packet) bool
	trace  []string
}

type packet struct {
	at       time.Time
	order    uint64 // of sending
	from, to netip.AddrPort
	data     []byte
}

// node is an endpoint at addresses, one for each interface.
type node struct {
	w        *world
	name     string
	e        *Endpoint
	addrs    []netip.AddrPort
	firewall map[netip.AddrPort]bool // what it has sent to, if only that may answer
	handle   func(Event)
	events   []Event
	seen     map[EventKind]int
	states   map[*Session]State
}

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func newWorld(t testing.TB, seed uint64) *world {
	w := &world{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 7016)), now: start, delayMin: 20 * time.Millisecond, delayMax: 20 * time.Millisecond}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed %d, the last packets:\n%s", seed, strings.Join(w.trace[max(0, len(w.trace)-60):], "\n"))
		}
	})
	return w
}

type rngReader struct{ r *rand.Rand }

func (r rngReader) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(r.r.Uint32())
	}
	return len(b), nil
}

func (w *world) add(name string, cfg Config, addrs ...string) *node {
	w.t.Helper()
	n := &node{w: w, name: name, seen: make(map[EventKind]int), states: make(map[*Session]State)}
	for _, a := range addrs {
		n.addrs = append(n.addrs, netip.MustParseAddrPort(a))
		cfg.Interfaces = append(cfg.Interfaces, Interface{IPv4: true, IPv6: true})
	}
	if cfg.Identity == nil {
		cfg.Identity = &plainIdentity{name: name}
	}
	cfg.Random = rngReader{rand.New(rand.NewPCG(w.seed, uint64(len(w.nodes))))}
	var err error
	if n.e, err = New(w.now, cfg); err != nil {
		w.t.Fatal(err)
	}
	w.nodes = append(w.nodes, n)
	return n
}

// drain hands the events of a node to its handler and its datagrams to the network.
func (w *world) drain(n *node) {
	for {
		events := n.e.Events()
		for _, ev := range events {
			n.seen[ev.Kind]++
			n.events = append(n.events, ev)
			if n.handle != nil {
				n.handle(ev)
			}
		}
		if len(events) == 0 {
			break
		}
	}
	out := n.e.Flush(w.now)
	for _, d := range out {
		w.send(n.addrs[d.Interface], d.To, d.Data, n)
	}
	n.e.Recycle(out)
	checkEndpoint(w.t, n.e)
	if len(n.e.events) > 0 {
		w.drain(n)
	}
}

func (w *world) send(from, to netip.AddrPort, data []byte, n *node) {
	if n != nil && n.firewall != nil {
		n.firewall[to] = true
	}
	p := packet{from: from, to: to, data: bytes.Clone(data), order: uint64(len(w.trace))}
	w.trace = append(w.trace, fmt.Sprintf("%v %v > %v %d bytes %s", w.now.Sub(start), from, to, len(data), describe(data)))
	if w.filter != nil && !w.filter(&p) || w.rng.Float64() < w.loss {
		w.trace[len(w.trace)-1] += " LOST"
		return
	}
	copies := 1
	if w.rng.Float64() < w.dup {
		copies = 2
	}
	for range copies {
		p.at = w.now.Add(w.delayMin + time.Duration(w.rng.Int64N(int64(w.delayMax-w.delayMin)+1)))
		w.packets = append(w.packets, p)
		p.data = bytes.Clone(p.data)
	}
}

// describe names the chunks of a packet of the plain profile.
func describe(data []byte) string {
	if len(data) < 4+plainOverhead {
		return ""
	}
	_, chunks, err := ParseHeader(data[4+plainOverhead:])
	if err != nil {
		return err.Error()
	}
	var names []string
	for kind, payload := range Chunks(chunks) {
		name := kind.String()
		switch kind {
		case ChunkUserData:
			u, _ := ParseUserData(payload)
			name = fmt.Sprintf("%v(%d:%d fsn %d)", kind, u.FlowID, u.Sequence, u.ForwardSequence())
		case ChunkAckRanges:
			a, _ := ParseAck(kind, payload)
			name = fmt.Sprintf("Ack(%d:%d %v)", a.FlowID, a.Cumulative, slices.Collect(a.Ranges()))
		}
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

// kinds are the chunk types in a datagram of the plain profile.
func kinds(data []byte) (found []ChunkType) {
	if len(data) < 4+plainOverhead {
		return nil
	}
	_, chunks, _ := ParseHeader(data[4+plainOverhead:])
	for kind := range Chunks(chunks) {
		found = append(found, kind)
	}
	return found
}

// step advances to the next thing that happens, but not past limit. It reports whether something did.
func (w *world) step(limit time.Time) bool {
	for _, n := range w.nodes {
		w.drain(n)
	}
	next := limit
	for _, p := range w.packets {
		if p.at.Before(next) {
			next = p.at
		}
	}
	for _, n := range w.nodes {
		if at, ok := n.e.NextTimer(); ok && at.Before(next) {
			next = at
		}
	}
	if !next.Before(limit) {
		w.now = limit
		return false
	}
	if next.After(w.now) {
		w.now = next
	}
	var due []packet
	w.packets = slices.DeleteFunc(w.packets, func(p packet) bool {
		if p.at.After(w.now) {
			return false
		}
		due = append(due, p)
		return true
	})
	slices.SortStableFunc(due, func(a, b packet) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.order, b.order)) })
	for _, p := range due {
		for _, n := range w.nodes {
			for i, a := range n.addrs {
				if a == p.to && (n.firewall == nil || n.firewall[p.from]) {
					n.e.Receive(w.now, i, p.from, p.data)
					w.drain(n)
				}
			}
		}
	}
	for _, n := range w.nodes {
		if at, ok := n.e.NextTimer(); ok && !at.After(w.now) {
			n.e.Tick(w.now)
			w.drain(n)
		}
	}
	return true
}

// run advances by d, or until done says so.
func (w *world) run(d time.Duration, done func() bool) bool {
	limit := w.now.Add(d)
	for steps := 0; ; steps++ {
		if done != nil && done() {
			return true
		}
		if steps > 2_000_000 {
			w.t.Fatalf("no progress at %v", w.now.Sub(start))
		}
		if !w.step(limit) {
			return done != nil && done()
		}
	}
}

// connect opens a session from a to b and returns both ends.
func (w *world) connect(a, b *node) (near, far *Session) {
	w.t.Helper()
	s, err := a.e.Open(w.now, []byte("id:"+b.name), Candidate{AnyInterface, b.addrs[0]})
	if err != nil {
		w.t.Fatal(err)
	}
	if !w.run(90*time.Second, func() bool { return s.State() == StateOpen }) {
		w.t.Fatalf("%v after 90 s", s.State())
	}
	far = b.e.sessions[s.FarID()]
	if far == nil {
		w.t.Fatal("the responder has no session")
	}
	return s, far
}

// last returns the last event of a kind.
func (n *node) last(kind EventKind) (Event, bool) {
	for i := len(n.events) - 1; i >= 0; i-- {
		if n.events[i].Kind == kind {
			return n.events[i], true
		}
	}
	return Event{}, false
}

// allowed are the transitions of Figure 8, and of §3.5 for the ends that the figure leaves out.
var allowed = map[State][]State{
	StateUnknown:        {StateIHelloSent, StateKeyingSent, StateOpen, StateNearClose, StateFarCloseLinger, StateClosed},
	StateIHelloSent:     {StateKeyingSent, StateOpen, StateOpenFailed, StateClosed},
	StateKeyingSent:     {StateOpen, StateOpenFailed, StateClosed},
	StateOpen:           {StateNearClose, StateFarCloseLinger, StateClosed},
	StateNearClose:      {StateClosed},
	StateFarCloseLinger: {StateClosed},
}

// checkEndpoint holds an endpoint to its invariants.
func checkEndpoint(t testing.TB, e *Endpoint) {
	t.Helper()
	c := e.counters
	var sum uint64
	for _, n := range c.Packets {
		sum += n
	}
	if sum != c.Received || c.Packets[DispositionUnknown] != 0 || c.Chunks[ChunkDropUnknown] != 0 {
		t.Fatalf("received %d, dispositions %v", c.Received, c.Packets)
	}
	buffered, unconfirmed := 0, 0
	for id, s := range e.sessions {
		if s.id != id || s.state == StateIHelloSent || s.state == StateClosed || s.state == StateOpenFailed {
			t.Fatalf("session %d in the table: %d, %v", id, s.id, s.state)
		}
		if s.state == StateOpen && !s.confirmed {
			unconfirmed++
		}
		if s.state != StateOpen && len(s.send)+len(s.recv) > 0 {
			t.Fatalf("flows in %v", s.state)
		}
		outstanding := 0
		for _, f := range s.send {
			of, live, queued := 0, 0, 0
			for _, x := range f.queue {
				if x == nil {
					t.Fatal("a hole in the queue")
				}
				if x.inFlight {
					of += x.size
				}
				if !x.done {
					live++
					queued += len(x.data)
				}
			}
			if of != f.outstanding || live != f.live || queued != f.queued {
				t.Fatalf("flow %d: outstanding %d, counted %d; live %d, %d; queued %d, %d", f.id, f.outstanding, of, f.live, live, f.queued, queued)
			}
			outstanding += of
		}
		if s.transfer != nil && s.transfer.outstanding != outstanding {
			t.Fatalf("outstanding %d, counted %d", s.transfer.outstanding, outstanding)
		}
		for _, f := range s.recv {
			size := 0
			for i, r := range f.buffer {
				size += len(r.data) + entryOverhead
				if i > 0 && r.seq <= f.buffer[i-1].seq {
					t.Fatal("the receive buffer is out of order")
				}
			}
			if size != f.buffered {
				t.Fatalf("flow %d: buffered %d, counted %d", f.id, f.buffered, size)
			}
			buffered += size
		}
	}
	if buffered != e.buffered || unconfirmed != e.unconfirmed {
		t.Fatalf("buffered %d, counted %d; unconfirmed %d, counted %d", e.buffered, buffered, e.unconfirmed, unconfirmed)
	}
	for i, s := range e.timers {
		if int(s.timerIndex) != i+1 {
			t.Fatalf("timer %d has index %d", i, s.timerIndex)
		}
	}
	for _, s := range e.byAddress {
		if s.state != StateOpen {
			t.Fatalf("%v by address", s.state)
		}
	}
	for _, s := range e.byIdentity {
		if s.state != StateOpen {
			t.Fatalf("%v by identity", s.state)
		}
	}
}
