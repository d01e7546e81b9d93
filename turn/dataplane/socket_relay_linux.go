package dataplane

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/stilenet/stile/turn"
)

// relay is the socket of a relayed port. Its index in the shard's table is the allocation's. The table has no pointers, so
// the garbage collector passes it by.
type relay struct {
	queue             // datagrams to peers
	fd         int32  // valid while open
	generation uint32 // of this use of the entry, so that an event for the socket before is recognized
	drops      uint32
	open       bool
	inet6      bool
	queued     bool // in the list of what is ready
}

// relaySockets is the relayed ports of a shard of the socket engine: a socket for each.
type relaySockets struct {
	*shard
	relays []relay // by allocation
}

func (s *relaySockets) open(allocation uint32, local netip.AddrPort) error {
	for int(allocation) >= len(s.relays) {
		s.relays = append(s.relays, relay{})
	}
	r := &s.relays[allocation]
	if r.open {
		panic("BUG: dataplane: the allocation has a relayed port already")
	}
	inet6 := local.Addr().Is6()
	fd, err := udpSocket(inet6)
	if err != nil {
		return openError(local, err)
	}
	err = bind(fd, local, inet6)
	if err == nil {
		r.generation = (r.generation + 1) & tagGenerations
		err = s.poll.add(fd, unix.EPOLLIN|edge, makeTag(tagRelay, r.generation, allocation))
	}
	if err != nil {
		_ = unix.Close(fd)
		if errors.Is(err, unix.EADDRINUSE) {
			return turn.ErrPortTaken
		}
		return openError(local, err)
	}
	r.fd, r.open, r.inet6, r.queued, r.drops, r.queue = int32(fd), true, inet6, false, 0, queue{}
	return nil
}

func openError(local netip.AddrPort, err error) error {
	remedy := ""
	switch {
	case errors.Is(err, unix.EMFILE):
		remedy = ": raise the limit of open files (LimitNOFILE, ulimit -n) or set turn.limits.allocations"
	case errors.Is(err, unix.ENFILE):
		remedy = ": raise fs.file-max"
	case errors.Is(err, unix.ENOSPC):
		remedy = ": raise fs.epoll.max_user_watches"
	case errors.Is(err, unix.EADDRNOTAVAIL):
		remedy = ": turn.relay.addresses names an address that this host does not have"
	}
	return fmt.Errorf("dataplane: open the relayed port %v: %w%s", local, err, remedy)
}

// shut closes a socket. What the core has left for the port before this packet is sent.
func (s *relaySockets) shut(allocation uint32) {
	r := &s.relays[allocation]
	if !r.open {
		panic("BUG: dataplane: the allocation has no relayed port")
	}
	if r.count > 0 {
		s.lost(s.tx.send(int(r.fd), &r.queue))
	}
	_ = unix.Close(int(r.fd)) // which takes it out of epoll
	r.open = false
}

func (s *relaySockets) note(t tag) {
	if r := &s.relays[t.index()]; r.open && r.generation == t.generation() {
		s.again(&r.queued, t)
	}
}

func (s *relaySockets) queue(o *turn.Output) {
	r := &s.relays[o.Allocation]
	if !r.open {
		panic("BUG: dataplane: an output of a relayed port that is closed")
	}
	it := s.tx.add(&r.queue, o.Data)
	it.nameLen = it.name.put(o.Peer, r.inet6, 0)
	if r.count == 1 {
		s.touched = append(s.touched, makeTag(tagRelay, r.generation, o.Allocation))
	}
}

func (s *relaySockets) send(t tag) {
	if r := &s.relays[t.index()]; r.count > 0 { // else it was closed
		s.lost(s.tx.send(int(r.fd), &r.queue))
	}
}

// receive takes a batch from a relayed port.
func (s *relaySockets) receive(t tag) {
	allocation := t.index()
	r := &s.relays[allocation]
	if !r.open || r.generation != t.generation() {
		return
	}
	r.queued = false
	limit := s.room(1)
	first := s.rx.used
	n, errno := s.rx.receive(int(r.fd), limit)
	s.taken += n
	for slot := first; slot < first+n; slot++ {
		if c := s.rx.hdrs[slot].hdr.Controllen; c > 0 {
			s.noteDrops(&r.drops, s.rx.ctls[slot].parse(int(c)))
		}
		s.core.FromPeer(s.now, allocation, s.rx.names[slot].get(), s.rx.packet(slot))
		s.route()
		r = &s.relays[allocation] // a packet may have opened another port
	}
	// Less than asked for is all there was: the next datagram is a new event.
	if n == limit || errno != 0 && errno != unix.EAGAIN {
		s.again(&r.queued, t)
	}
}

func (s *relaySockets) shutAll() {
	for i := range s.relays {
		r := &s.relays[i]
		if r.open {
			_ = unix.Close(int(r.fd))
			r.open, r.queue = false, queue{}
		}
	}
}

func (s *relaySockets) flushPorts() {}
func (s *relaySockets) tick()       {}

func (s *relaySockets) close() { s.shutAll() }
