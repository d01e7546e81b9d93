package dataplane

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilenet/stile/turn"
)

// Ours to tune: what waits for a shard that is late. A millisecond of one direction between two busy shards is some 300
// datagrams; what is older than that is better dropped.
const (
	mailboxCount = 1024    // datagrams
	mailboxBytes = 1 << 20 // with their headroom; for each of two buffers of a shard
)

// mail is a datagram of an allocation of another shard for one of this.
type mail struct {
	way      turn.Crossing
	at, size int // in the arena
}

// letters is a batch of mail. Both slices are kept and reused.
type letters struct {
	mail  []mail
	arena []byte // each datagram with its headroom and tailroom
}

// call is a function to run on the thread of a shard.
type call struct {
	f     func(now time.Time, c *turn.Core)
	taken atomic.Bool   // by the shard, which runs it, or by who asked and waits no longer
	done  chan struct{} // closed when it has run
	err   error         // set before
}

func (c *call) finish(err error) {
	c.err = err
	close(c.done)
}

// mailbox is the only thing of a shard that others may touch.
type mailbox struct {
	mu     sync.Mutex
	in     letters
	calls  []*call
	closed bool
	event  int // eventfd, edge-triggered: never read
}

// post copies a datagram. It reports false when the box is full. The owner is not woken; see wake.
func (m *mailbox) post(o *turn.Output) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	need := turn.Headroom + len(o.Data) + turn.Tailroom
	if m.closed || len(m.in.mail) >= mailboxCount || len(m.in.arena)+need > mailboxBytes {
		return false
	}
	if m.in.arena == nil {
		m.in.arena = make([]byte, 0, mailboxBytes)
	}
	at := len(m.in.arena) + turn.Headroom
	m.in.arena = m.in.arena[:len(m.in.arena)+need]
	copy(m.in.arena[at:], o.Data)
	m.in.mail = append(m.in.mail, mail{o.Crossing, at, len(o.Data)})
	return true
}

// ask queues a call.
func (m *mailbox) ask(c *call) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return ErrClosed
	}
	m.calls = append(m.calls, c)
	m.signal()
	return nil
}

// wake makes the owner look.
func (m *mailbox) wake() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed {
		m.signal()
	}
}

func (m *mailbox) signal() {
	one := [8]byte{1} // the counter's first byte on one kind of machine and its last on another; both wake
	_, _ = unix.Write(m.event, one[:])
}

// take exchanges the mail for an empty batch, whose memory is used for the next.
func (m *mailbox) take(empty letters) (letters, []*call) {
	m.mu.Lock()
	defer m.mu.Unlock()
	full, calls := m.in, m.calls
	m.in = letters{empty.mail[:0], empty.arena[:0]}
	m.calls = nil
	return full, calls
}

// close refuses everything from now on, and what has waited.
func (m *mailbox) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return
	}
	m.closed = true
	for _, c := range m.calls {
		if c.taken.CompareAndSwap(false, true) {
			c.finish(ErrClosed)
		}
	}
	m.calls = nil
	_ = unix.Close(m.event)
}
