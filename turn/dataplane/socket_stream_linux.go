package dataplane

import (
	"net/netip"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stilenet/stile/turn"
)

// Ours to tune.
const (
	// streamPending is what waits for a TCP client beyond the kernel's buffer, in bytes: two of the longest messages, half a second of
	// video. Late media is worth nothing, so more is dropped, whole datagrams at a time.
	streamPending = 128 << 10
	// streamScratch holds the beginning of a message that was not complete, and what comes next.
	streamScratch = turn.MaxFrame + 64<<10
	acceptCount   = 32   // connections accepted at a time
	keptBuffer    = 4096 // bytes: a stream gives larger buffers back when they are empty
)

// stream is one TCP connection.
type stream struct {
	queue             // messages to the client
	fd         int    // valid while open
	index      uint32 // its number for the core is one more
	generation uint32
	open       bool
	dying      bool // to be closed at the end of the batch
	writing    bool // waits until the kernel takes more
	src        turn.Source
	since      time.Time // when it was last seen with an allocation, or began
	in         []byte    // the beginning of a message
	out        []byte    // what the kernel has not taken
}

// streams is the connections of a shard.
type streams struct {
	all     []*stream
	free    []uint32
	dying   []uint32
	open    int
	paused  bool // a listener waits for descriptors
	scratch []byte
}

// streamCount bounds the connections of all shards.
type streamCount struct {
	mu        sync.Mutex
	total     int
	clients   map[netip.Addr]int
	max       int // 0: no limit
	perClient int // 0: no limit
}

func (c *streamCount) enter(client netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.max > 0 && c.total >= c.max || c.perClient > 0 && c.clients[client] >= c.perClient {
		return false
	}
	c.total++
	c.clients[client]++
	return true
}

func (c *streamCount) leave(client netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total--
	if c.clients[client]--; c.clients[client] <= 0 {
		delete(c.clients, client)
	}
}

func (c *streamCount) now() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.total
}

const streamEvents = unix.EPOLLIN | unix.EPOLLRDHUP

// accept takes the connections that wait at a TCP listener.
func (s *shard) accept(l *listener) {
	for range acceptCount {
		fd, peer, err := unix.Accept4(l.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch err {
		case nil:
			s.startStream(l, fd, fromSockaddr(peer))
		case unix.EINTR, unix.ECONNABORTED:
		case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM:
			// The connection stays in the queue, and so would the event.
			if s.poll.change(l.fd, 0, s.listenerTag(l)) == nil {
				l.paused, s.streams.paused = true, true
			}
			s.counters.streamsRefused.Add(1)
			return
		default:
			return
		}
	}
}

func (s *shard) listenerTag(l *listener) tag { return makeTag(tagListener, 0, uint32(l.index)) }

func (s *shard) startStream(l *listener, fd int, client netip.AddrPort) {
	local, err := localAddress(fd)
	if err != nil || !s.engine.streams.enter(client.Addr()) {
		s.counters.streamsRefused.Add(1)
		_ = unix.Close(fd)
		return
	}
	t := &s.streams
	if len(t.free) == 0 {
		t.free = append(t.free, uint32(len(t.all)))
		t.all = append(t.all, &stream{index: uint32(len(t.all))})
	}
	i := t.free[len(t.free)-1]
	st := t.all[i]
	*st = stream{
		fd: fd, index: i, generation: (st.generation + 1) & tagGenerations, open: true, since: s.now,
		src: turn.Source{Client: client, Server: local, Stream: i + 1, Listener: l.index},
	}
	if err := s.poll.add(fd, streamEvents, st.tag()); err != nil {
		st.open = false
		s.engine.streams.leave(client.Addr())
		s.counters.streamsRefused.Add(1)
		_ = unix.Close(fd)
		return
	}
	t.free = t.free[:len(t.free)-1]
	t.open++
}

func (st *stream) tag() tag { return makeTag(tagStream, st.generation, st.index) }

func (s *shard) streamEvent(index, generation uint32, events uint32) {
	st := s.streams.all[index]
	if !st.open || st.generation != generation {
		return
	}
	if events&unix.EPOLLOUT != 0 {
		s.resumeStream(st)
	}
	if events&^unix.EPOLLOUT != 0 && !st.dying {
		s.readStream(st)
	}
}

// readStream takes the messages of one read.
func (s *shard) readStream(st *stream) {
	buf := s.streams.scratch
	kept := copy(buf, st.in)
	n, _, errno := syscall.RawSyscall(unix.SYS_READ, uintptr(st.fd), uintptr(unsafe.Pointer(&buf[kept])), uintptr(len(buf)-kept))
	if errno == unix.EAGAIN || errno == unix.EINTR {
		return
	}
	if errno != 0 || n == 0 {
		s.endStream(st)
		return
	}
	b := buf[:kept+int(n)]
	for len(b) > 0 {
		size, ok := turn.Frame(b)
		if !ok || channelTooEarly(b, s.core.HasStream(st.index+1)) {
			s.counters.streamsBroken.Add(1)
			s.endStream(st)
			return
		}
		if size == 0 || size > len(b) {
			break
		}
		s.room(1)
		if st.dying || !st.open {
			return
		}
		s.src = st.src
		// A copy: outputs of the messages before alias their bytes, and the core writes in front of a message's data.
		s.core.FromClient(s.now, &s.src, s.rx.copied(b[:size]))
		s.route()
		if st.dying {
			return
		}
		b = b[size:]
	}
	st.in = append(shrunk(st.in), b...)
}

// shrunk empties a buffer and gives it back when it is large.
func shrunk(b []byte) []byte {
	if cap(b) > keptBuffer {
		return nil
	}
	return b[:0]
}

// toStream queues a message to a TCP client.
func (s *shard) toStream(o *turn.Output) {
	st := s.streams.all[o.Source.Stream-1]
	if !st.open {
		return // it ended with the answer under way
	}
	s.tx.add(&st.queue, o.Data)
	if st.count == 1 {
		s.touched = append(s.touched, st.tag())
	}
}

// writeStream sends the queue of a stream; what the kernel does not take waits, as far as there is room.
func (s *shard) writeStream(st *stream) {
	next := st.head
	st.queue = queue{}
	if !st.open || next == 0 {
		return
	}
	written := 0
	if len(st.out) == 0 {
		iovs := 0
		for k := next; k != 0; k = s.tx.items[k-1].next {
			s.tx.iovs[iovs] = s.tx.items[k-1].iov
			iovs++
		}
		var ok bool
		if written, ok = s.writev(st, iovs); !ok {
			return
		}
	}
	for ; next != 0; next = s.tx.items[next-1].next {
		data := s.tx.items[next-1].data()
		switch {
		case written >= len(data):
			written -= len(data)
			continue
		case written > 0: // the rest of this message must follow
			st.out = append(st.out, data[written:]...)
			written = 0
		case len(st.out)+len(data) > streamPending:
			s.counters.streamDrops.Add(1)
		default:
			st.out = append(st.out, data...)
		}
	}
	s.armStream(st)
}

// writev writes the first iovs of the sender's. It reports false when the connection is no more.
func (s *shard) writev(st *stream, iovs int) (n int, ok bool) {
	h := &s.tx.hdrs[0].hdr
	*h = unix.Msghdr{Iov: &s.tx.iovs[0]}
	h.SetIovlen(iovs)
	for {
		r, _, errno := syscall.RawSyscall(unix.SYS_SENDMSG, uintptr(st.fd), uintptr(unsafe.Pointer(h)), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		switch errno {
		case 0:
			return int(r), true
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return 0, true
		}
		s.endStream(st)
		return 0, false
	}
}

// resumeStream writes what has waited.
func (s *shard) resumeStream(st *stream) {
	if len(st.out) > 0 {
		s.tx.iovs[0].Base = &st.out[0]
		s.tx.iovs[0].SetLen(len(st.out))
		n, ok := s.writev(st, 1)
		if !ok {
			return
		}
		st.out = st.out[:copy(st.out, st.out[n:])]
		if len(st.out) == 0 {
			st.out = shrunk(st.out)
		}
	}
	s.armStream(st)
}

// armStream asks to be told when the kernel takes more, or no longer.
func (s *shard) armStream(st *stream) {
	if want := len(st.out) > 0; want != st.writing {
		events := uint32(streamEvents)
		if want {
			events |= unix.EPOLLOUT
		}
		if s.poll.change(st.fd, events, st.tag()) == nil {
			st.writing = want
		}
	}
}

// CloseStream implements turn.Opener. What is queued, an answer that says why for one, is written first.
func (s *shard) CloseStream(number uint32) { s.endStream(s.streams.all[number-1]) }

// endStream has a stream closed at the end of the batch.
func (s *shard) endStream(st *stream) {
	if st.open && !st.dying {
		st.dying = true
		s.streams.dying = append(s.streams.dying, st.index)
	}
}

func (s *shard) reapStreams() {
	for len(s.streams.dying) > 0 { // the core may end more
		n := len(s.streams.dying) - 1
		st := s.streams.all[s.streams.dying[n]]
		s.streams.dying = s.streams.dying[:n]
		s.closeStream(st)
		s.core.StreamClosed(s.now, st.index+1)
	}
}

func (s *shard) closeStream(st *stream) {
	_ = unix.Close(st.fd)
	st.open, st.dying, st.queue, st.in, st.out = false, false, queue{}, nil, nil
	s.streams.free = append(s.streams.free, st.index)
	s.streams.open--
	s.engine.streams.leave(st.src.Client.Addr())
}

// closeStreams closes what a core that is no more has left.
func (s *shard) closeStreams() {
	for _, st := range s.streams.all {
		if st.open {
			s.closeStream(st)
		}
	}
	s.streams.dying = s.streams.dying[:0]
}

// sweepStreams ends connections that hold no allocation for long, and lets listeners accept again.
func (s *shard) sweepStreams() {
	if s.streams.open > 0 {
		for _, st := range s.streams.all {
			switch {
			case !st.open:
			case s.core.HasStream(st.index + 1):
				st.since = s.now
			case s.now.Sub(st.since) > streamIdle:
				s.endStream(st)
			}
		}
	}
	if s.streams.paused {
		s.streams.paused = false
		for _, l := range s.listeners {
			if l.paused {
				l.paused = s.poll.change(l.fd, unix.EPOLLIN, s.listenerTag(l)) != nil
				s.streams.paused = s.streams.paused || l.paused
			}
		}
	}
}
