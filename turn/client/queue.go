package client

import (
	"net"
	"net/netip"
	"sync"
)

// queue holds the payloads that ReadFrom has not taken. Its buffers are used again and again. It is safe for concurrent use.
type queue struct {
	mu    sync.Mutex
	slots [queueDatagrams]slot // a ring
	first int
	n     int
	bytes int
	addrs map[netip.AddrPort]*net.UDPAddr // what ReadFrom has handed out
	ready chan struct{}                   // holds a token while there may be something
}

type slot struct {
	from netip.AddrPort
	data []byte
}

func newQueue() *queue {
	return &queue{addrs: map[netip.AddrPort]*net.UDPAddr{}, ready: make(chan struct{}, 1)}
}

// push copies data. It reports false when the queue is full.
func (q *queue) push(from netip.AddrPort, data []byte) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.n == len(q.slots) || q.bytes+len(data) > queueBytes {
		return false
	}
	s := &q.slots[(q.first+q.n)%len(q.slots)]
	s.from, s.data = from, append(s.data[:0], data...)
	q.n++
	q.bytes += len(data)
	q.wake()
	return true
}

func (q *queue) wake() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// pop copies the oldest payload to b and cuts what does not fit.
func (q *queue) pop(b []byte) (n int, from netip.AddrPort, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.n == 0 {
		return 0, from, false
	}
	s := &q.slots[q.first]
	n, from = copy(b, s.data), s.from
	q.bytes -= len(s.data)
	if cap(s.data) > 2048 {
		s.data = nil // so that the ring never holds more than 1 MiB while it is empty
	}
	q.first = (q.first + 1) % len(q.slots)
	if q.n--; q.n > 0 {
		q.wake() // another reader may wait
	}
	return n, from, true
}

// addr is from as a net.Addr, the same one each time so that reading allocates nothing.
func (q *queue) addr(from netip.AddrPort) *net.UDPAddr {
	q.mu.Lock()
	defer q.mu.Unlock()
	a := q.addrs[from]
	if a == nil {
		if len(q.addrs) >= addrCache {
			clear(q.addrs)
		}
		a = net.UDPAddrFromAddrPort(from)
		q.addrs[from] = a
	}
	return a
}
