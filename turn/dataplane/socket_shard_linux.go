package dataplane

import (
	"fmt"
	"net/netip"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stilenet/stile/turn"
)

// Ours to tune.
const (
	tickEvery = time.Second
	// spinFor is how many milliseconds a shard waits for the next packet without telling the scheduler, which interrupts
	// it every 10 ms for others. With 1 ms the wait is the processor's next timer, which is set again for each packet:
	// at 20,000 packets/s one then costs 15.8 µs, with 20 ms 11.3.
	spinFor = 20
	// With less than pauseGap between packets, but not so many that batches fill anyway, a shard would wake for each, and
	// that costs more than the packet. It then lets them gather for pauseFor. At 100,000 packets/s a packet costs 5.4 to 5.6 µs
	// of the thread, with half the pause 5.8 to 6.1, without one 9.1 to 9.7; half of them wait 150 µs or more, without it 16.
	pauseGap   = 25 * time.Microsecond
	pauseFor   = 100 * time.Microsecond
	pauseTaken = 32               // datagrams of a round
	bugEvery   = 10 * time.Second // between two reports of a BUG
)

// shard is one thread with its sockets and its core. Only the thread touches it, but for the mailbox and the counters.
type shard struct {
	cfg    *Config
	engine *threadEngine
	number int
	core   *turn.Core
	ports  relayPorts
	box    mailbox
	stop   atomic.Bool

	poll      epoll
	rx        *receiver
	tx        *sender
	listeners []*listener // as the configuration has them
	streams   streams
	letters   letters // the spare one
	calls     []*call // taken from the mailbox
	called    bool    // some of them have run in this round
	posted    []bool  // by shard: its mailbox got something in this batch

	now      time.Time
	nextTick time.Time
	hot      bool          // there was traffic a moment ago
	taken    int           // datagrams of this round
	gap      time.Duration // between two datagrams, on average
	ready    []tag         // sockets that have more than the last batch took
	spare    []tag         // the list before, reused
	touched  []tag         // sockets that have something to send
	routed   int           // outputs of the core that are queued
	src      turn.Source   // of the message in hand; a field, so that it is not allocated

	counters struct {
		streamsRefused, streamsBroken, sendErrors, streamDrops, hairpinDrops, receiveDrops, panics atomic.Uint64
	}
	bugs    uint64 // not reported yet
	nextBug time.Time
}

// relayPorts is how the relayed ports of a shard send and receive: what the socket and the kernel engine do not share. Only the
// shard's thread calls it.
type relayPorts interface {
	// open and shut are turn.Opener's OpenRelay and CloseRelay.
	open(allocation uint32, local netip.AddrPort) error
	shut(allocation uint32)
	// note puts the socket of an event into the shard's list of what is ready.
	note(t tag)
	// receive takes a batch from a socket of that list.
	receive(t tag)
	// queue queues a datagram to a peer.
	queue(o *turn.Output)
	// send sends what is queued at a socket that queue has put into the shard's list of what is touched.
	send(t tag)
	// flushPorts sends what send has put together.
	flushPorts()
	// tick is called every second while there is an allocation.
	tick()
	// shutAll ends what a core that is no more has left.
	shutAll()
	// close closes everything.
	close()
}

func newShard(e *threadEngine, number int, ledger *turn.Ledger) (*shard, error) {
	s := &shard{cfg: e.cfg, engine: e, number: number, tx: newSender()}
	s.streams.scratch = make([]byte, streamScratch)
	var err error
	if s.rx, err = newReceiver(); err != nil {
		return nil, err
	}
	if s.box.event, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		s.rx.close()
		return nil, err
	}
	if s.poll, err = newEpoll(); err == nil {
		err = s.poll.add(s.box.event, unix.EPOLLIN|edge, makeTag(tagMailbox, 0, 0))
	}
	switch {
	case err != nil:
	case e.kernel != nil:
		s.ports, err = newKernelPorts(s, e.kernel)
	default:
		s.ports = &relaySockets{shard: s}
	}
	if err != nil {
		s.close()
		s.box.close()
		return nil, err
	}
	s.gap = time.Millisecond
	s.core = turn.NewCore(time.Now(), coreConfig(e.cfg, ledger, number, len(e.all), s))
	return s, nil
}

// listen takes a listener's socket.
func (s *shard) listen(l *listener) error {
	s.listeners = append(s.listeners, l)
	events := uint32(unix.EPOLLIN)
	if !l.stream {
		events |= edge
	}
	return s.poll.add(l.fd, events, makeTag(tagListener, 0, uint32(len(s.listeners)-1)))
}

// run is the shard's life.
func (s *shard) run() {
	runtime.LockOSThread() // and never unlocked: the thread ends with the shard
	name, _ := unix.BytePtrFromString(fmt.Sprintf("shard %d", s.number))
	_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(name)), 0, 0, 0)
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1000, 0, 0, 0) // nanoseconds; the default would double a pause
	for !s.stop.Load() {
		s.guarded(func() { s.round(s.wait()) })
	}
	s.guarded(func() {
		s.now = time.Now()
		s.core.Shutdown(s.now)
		s.flush()
	})
	s.close()
}

// close closes all descriptors but the mailbox's, which other shards may still use.
func (s *shard) close() {
	if s.ports != nil {
		s.ports.close()
	}
	s.closeStreams()
	for _, l := range s.listeners {
		_ = unix.Close(l.fd)
	}
	_ = unix.Close(s.poll.fd)
	s.rx.close()
}

// wait waits until there is something to do, and returns the number of events.
func (s *shard) wait() int {
	if len(s.ready) > 0 {
		n, _ := s.poll.spin(0)
		return n
	}
	if s.hot {
		if s.gap < pauseGap && s.taken < pauseTaken {
			pause(pauseFor)
		}
		n, interrupted := s.poll.spin(spinFor)
		if n > 0 || interrupted {
			return n
		}
		s.hot = false
	}
	timeout := -1
	if s.busy() {
		timeout = max(0, int((time.Until(s.nextTick)+time.Millisecond-1)/time.Millisecond))
	}
	n := s.poll.sleep(timeout)
	s.hot = n > 0
	return n
}

// busy reports whether time alone can change anything.
func (s *shard) busy() bool { return s.core.Busy() || s.streams.open > 0 || s.streams.paused }

// round takes a batch from each socket that has something, and sends what that led to.
func (s *shard) round(events int) {
	s.measure(time.Now())
	for i := range events {
		s.note(s.poll.tag(i), s.poll.events[i].Events)
	}
	batch := s.ready
	s.ready = s.spare[:0]
	for _, t := range batch {
		switch t.kind() {
		case tagMailbox:
			s.takeMail()
		case tagListener:
			s.receiveListener(t.index())
		case tagRelay:
			s.ports.receive(t)
		}
	}
	s.spare = batch
	if !s.now.Before(s.nextTick) {
		s.tick()
	}
	// While there is more to take, what is to be sent from one port gathers.
	if len(s.ready) == 0 || s.rx.left() < batchCount {
		s.flush()
	}
	if s.called { // who asked may need this very processor; it would get it 10 ms later
		s.called = false
		runtime.Gosched()
	}
}

// note puts the socket of an event into the list of what is ready, once.
func (s *shard) note(t tag, events uint32) {
	i := t.index()
	switch t.kind() {
	case tagMailbox:
		s.ready = append(s.ready, t)
	case tagListener:
		l := s.listeners[i]
		if l.stream {
			s.accept(l)
			return
		}
		s.again(&l.queued, t)
	case tagRelay:
		s.ports.note(t)
	case tagStream:
		s.streamEvent(i, t.generation(), events)
	}
}

func (s *shard) again(queued *bool, t tag) {
	if !*queued {
		*queued = true
		s.ready = append(s.ready, t)
	}
}

// room makes sure that at least so many receive slots are free, and returns how many a batch may have.
func (s *shard) room(least int) int {
	if s.rx.left() < least {
		s.flush()
	}
	return min(s.rx.left(), batchCount)
}

// measure takes the time of a round, and what the one before tells of the traffic.
func (s *shard) measure(now time.Time) {
	if s.taken > 0 {
		s.gap += (min(now.Sub(s.now)/time.Duration(s.taken), time.Millisecond) - s.gap) / 8
	}
	s.now, s.taken = now, 0
}

func (s *shard) tick() {
	s.nextTick = s.now.Add(tickEvery)
	s.tx.longestRun = longestSegment // what was too long for a path may be for another, or not any more
	if !s.busy() {
		return
	}
	s.core.Tick(s.now)
	s.route()
	s.ports.tick()
	if s.number == 0 {
		s.engine.tidier.look(s.now)
	}
	s.sweepStreams()
}

// route queues the core's new outputs at the sockets that they leave by. It comes after each packet, so that an
// output cannot meet another port under the index of its allocation.
func (s *shard) route() {
	outs := s.core.Outputs()
	for ; s.routed < len(outs); s.routed++ {
		if s.tx.full() {
			s.send()
		}
		o := &outs[s.routed]
		switch o.Kind {
		case turn.ToPeer:
			s.ports.queue(o)
		case turn.ToClient:
			if o.Source.Stream != 0 {
				s.toStream(o)
				continue
			}
			l := s.listeners[o.Source.Listener]
			it := s.tx.add(&l.queue, o.Data)
			it.nameLen = it.name.put(o.Source.Client, l.inet6, o.Source.Interface)
			if l.wildcard {
				it.ctlLen = uint32(it.ctl.putSource(o.Source.Server.Addr(), l.inet6, o.Source.Interface))
			}
			if l.count == 1 {
				s.touched = append(s.touched, makeTag(tagListener, 0, uint32(o.Source.Listener)))
			}
		case turn.ToShard:
			if !s.engine.all[o.Shard].box.post(o) {
				s.counters.hairpinDrops.Add(1)
				continue
			}
			s.posted[o.Shard] = true
		default:
			panic("BUG: dataplane: an output of no kind")
		}
	}
}

// send sends what is queued.
func (s *shard) send() {
	for _, t := range s.touched {
		switch i := t.index(); t.kind() {
		case tagRelay:
			s.ports.send(t)
		case tagListener:
			l := s.listeners[i]
			s.lost(s.tx.send(l.fd, &l.queue))
		case tagStream:
			s.writeStream(s.streams.all[i])
		}
	}
	s.ports.flushPorts()
	s.touched = s.touched[:0]
	s.tx.used = 0
}

// OpenRelay and CloseRelay implement turn.Opener.
func (s *shard) OpenRelay(allocation uint32, local netip.AddrPort) error {
	return s.ports.open(allocation, local)
}
func (s *shard) CloseRelay(allocation uint32) { s.ports.shut(allocation) }

// flush ends a batch: everything is sent, and the buffers are free again.
func (s *shard) flush() {
	s.route()
	s.send()
	for i, posted := range s.posted {
		if posted {
			s.engine.all[i].box.wake()
			s.posted[i] = false
		}
	}
	s.reapStreams()
	s.core.Reset()
	s.routed = 0
	s.rx.reset()
	if events := s.core.TakeEvents(); len(events) > 0 && s.cfg.OnEvents != nil {
		s.cfg.OnEvents(events)
	}
}

func (s *shard) lost(n int) {
	if n > 0 {
		s.counters.sendErrors.Add(uint64(n))
	}
}

func (s *shard) noteDrops(last *uint32, f facts) {
	if f.saysDrops && f.drops != *last {
		s.counters.receiveDrops.Add(uint64(f.drops - *last))
		*last = f.drops
	}
}

// takeMail takes what other shards and the control functions have left.
func (s *shard) takeMail() {
	full, calls := s.box.take(s.letters)
	for i := range full.mail {
		m := &full.mail[i]
		p := turn.Packet{Buf: full.arena[m.at-turn.Headroom : m.at+m.size+turn.Tailroom], At: turn.Headroom, Len: m.size}
		s.core.HairpinFrom(s.now, m.way, p)
		s.route()
	}
	if len(full.mail) > 0 {
		s.flush() // outputs alias the letters
	}
	s.letters = full
	s.calls = append(s.calls, calls...)
	s.called = len(s.calls) > 0
	for len(s.calls) > 0 { // what is left after a BUG in one of them waits for the next round
		c := s.calls[0]
		s.calls = s.calls[1:]
		s.call(c)
	}
	s.calls = nil
}

func (s *shard) call(c *call) {
	if !c.taken.CompareAndSwap(false, true) {
		return
	}
	err := errBug
	defer func() { c.finish(err) }()
	c.f(s.now, s.core)
	s.route()
	err = nil
}

// guarded runs f. A BUG in it ends the allocations of this shard, and not the process: it is one packet of one client that
// led there, and the other shards' clients have no part in it. The core's tables may be inconsistent after it, so all of
// them go, and a fresh core takes over.
func (s *shard) guarded(f func()) {
	defer func() {
		if v := recover(); v != nil {
			s.restart(v, debug.Stack())
		}
	}()
	f()
}

func (s *shard) restart(v any, stack []byte) {
	s.counters.panics.Add(1)
	s.now = time.Now()
	s.ports.shutAll()
	s.closeStreams()
	s.tx.used, s.routed, s.touched = 0, 0, s.touched[:0]
	s.rx.reset()
	s.core = s.core.Successor(s.now)
	s.ready = s.ready[:0]
	for i, l := range s.listeners {
		l.queue, l.queued = queue{}, false
		if !l.stream {
			s.again(&l.queued, makeTag(tagListener, 0, uint32(i))) // its event may have been in hand
		}
	}
	s.ready = append(s.ready, makeTag(tagMailbox, 0, 0))
	events := s.core.TakeEvents()
	if s.bugs++; !s.now.Before(s.nextBug) {
		events = append(events, turn.Event{Kind: turn.EventBug, At: s.now, Count: s.bugs, Err: fmt.Errorf("%v\n%s", v, stack)})
		s.bugs, s.nextBug = 0, s.now.Add(bugEvery)
	}
	if len(events) > 0 && s.cfg.OnEvents != nil {
		s.cfg.OnEvents(events)
	}
}
