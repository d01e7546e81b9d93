package dataplane

import (
	"bytes"
	"encoding/binary"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stilenet/stile/turn"
)

// Ours to tune.
const (
	// slotCount is how many datagrams a shard takes, if so many wait, before it sends what they led to: a packet waits at
	// most 1.3 ms for the others. With 400 packets of 100 clients in the queue, 128 cost 3.8 µs for each packet to the peers, 256 cost
	// 3.7 and 512 cost 2.4, since more of them leave by one port.
	slotCount = 512
	// batchCount is how many it takes from one socket at a time, so that a flood of one client does not keep the others waiting.
	batchCount = 64
	// slotSize is the distance of receive buffers in bytes. Each holds the longest message there is, so that nothing is ever cut;
	// of the 33 MB of address space that takes, only the first page of each buffer exists (2 MB), until a datagram is longer.
	// The odd 256 bytes keep the beginnings of all buffers from sharing one set of the processor's first cache.
	slotSize = 65536 + 256
)

const _ = uint(slotSize - (turn.Headroom + turn.MaxFrame + turn.Tailroom))

// mmsghdr is struct mmsghdr.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// receiver is the buffers of recvmmsg, made once. Slots are used in turn and all freed at once.
type receiver struct {
	slab  []byte
	hdrs  []mmsghdr
	iovs  []unix.Iovec
	names []sockaddr
	ctls  []control
	used  int
}

func newReceiver() (*receiver, error) {
	slab, err := unix.Mmap(-1, 0, slotCount*slotSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		return nil, err
	}
	_ = unix.Madvise(slab, unix.MADV_NOHUGEPAGE) // a huge page would make all of it exist
	r := &receiver{
		slab: slab, hdrs: make([]mmsghdr, slotCount), iovs: make([]unix.Iovec, slotCount),
		names: make([]sockaddr, slotCount), ctls: make([]control, slotCount), used: slotCount,
	}
	for i := range r.hdrs {
		r.iovs[i].Base = &r.slab[i*slotSize+turn.Headroom]
		r.iovs[i].SetLen(turn.MaxFrame)
		h := &r.hdrs[i].hdr
		h.Name = &r.names[i][0]
		h.Iov = &r.iovs[i]
		h.SetIovlen(1)
		h.Control = &r.ctls[i].bytes()[0]
	}
	r.reset()
	return r, nil
}

func (r *receiver) close() { _ = unix.Munmap(r.slab) }

// reset frees all slots.
func (r *receiver) reset() {
	for i := range r.hdrs[:r.used] {
		h := &r.hdrs[i].hdr
		h.Namelen = uint32(len(r.names[i]))
		h.SetControllen(controlSize)
	}
	r.used = 0
}

func (r *receiver) left() int { return slotCount - r.used }

// packet is the datagram of a slot.
func (r *receiver) packet(slot int) turn.Packet {
	return turn.Packet{Buf: r.slab[slot*slotSize:][:slotSize:slotSize], At: turn.Headroom, Len: int(r.hdrs[slot].len)}
}

// receive fills up to limit slots, from r.used on, and takes them.
func (r *receiver) receive(fd, limit int) (n int, errno syscall.Errno) {
	n, errno = recvmmsg(fd, r.hdrs[r.used:r.used+limit])
	r.used += n
	return n, errno
}

// copied puts a message that did not come by recvmmsg into a slot.
func (r *receiver) copied(b []byte) turn.Packet {
	slot := r.used
	r.used++
	r.hdrs[slot].len = uint32(copy(r.slab[slot*slotSize+turn.Headroom:][:turn.MaxFrame], b))
	return r.packet(slot)
}

// item is one datagram to send.
type item struct {
	ctl     control
	iov     unix.Iovec
	name    sockaddr
	nameLen uint32
	ctlLen  uint32
	next    int32 // of the same socket: index + 1
}

func (it *item) put(data []byte) {
	it.iov.Base = unsafe.SliceData(data)
	it.iov.SetLen(len(data))
}

func (it *item) data() []byte { return unsafe.Slice(it.iov.Base, int(it.iov.Len)) }

// queue is the items of one socket. The zero queue is empty.
type queue struct {
	head, tail int32 // index + 1
	count      int32
}

// sender is the buffers of sendmmsg, made once.
//
// Items are collected for each socket over a whole batch: a relayed port that has several pays for one
// system call.
type sender struct {
	items []item
	used  int
	hdrs  []mmsghdr
	iovs  []unix.Iovec

	groups  []group  // the addresses of a queue, while it is laid out
	grouped []uint16 // the places that are taken

	segments    bool // the system can cut datagrams (UDP_SEGMENT)
	longestRun  int  // bytes of a datagram that it may be asked to cut into; lowered when a path is narrower
	segmentRuns uint64
}

// Bounds of one run of equal datagrams, which the kernel sends as one and cuts late.
const (
	maxSegments     = 64 // from the specification: the kernel's bound
	maxSegmentBytes = 65000
	longestSegment  = 9000 // bytes; above, IP fragments anyway
)

func newSender() *sender {
	return &sender{
		items: make([]item, 2*slotCount), hdrs: make([]mmsghdr, 2*slotCount), iovs: make([]unix.Iovec, 2*slotCount),
		groups: make([]group, groupCount), grouped: make([]uint16, 0, 2*slotCount), segments: true, longestRun: longestSegment,
	}
}

// add makes an item. There must be one left.
func (s *sender) add(q *queue, data []byte) *item {
	it := &s.items[s.used]
	s.used++
	it.put(data)
	it.nameLen, it.ctlLen, it.next = 0, 0, 0
	if q.count == 0 {
		q.head = int32(s.used)
	} else {
		s.items[q.tail-1].next = int32(s.used)
	}
	q.tail = int32(s.used)
	q.count++
	return it
}

func (s *sender) full() bool { return s.used == len(s.items) }

// take empties a queue and returns the index + 1 of its first item, and whether that is its only one.
func (q *queue) take() (first int32, single bool) {
	first, single = q.head, q.count == 1
	*q = queue{}
	return first, single
}

// send sends a queue from one UDP socket and empties it. It returns how many datagrams the system did not take.
func (s *sender) send(fd int, q *queue) (lost int) {
	first, single := q.take()
	if it := &s.items[first-1]; single && it.ctlLen == 0 { // sendto is cheaper than sendmmsg by its copies of headers
		if sendto(fd, it.data(), &it.name, it.nameLen) != 0 {
			return 1
		}
		return 0
	}
	return s.sendAll(fd, s.hdrs[:s.gather(first, s.segments)], s.sendSingly)
}

// group is the items to one address.
type group struct{ first, last int32 } // index + 1

// groupCount is the places of the table of groups, by a hash of the address: twice as many as there are items.
const groupCount = 4 * slotCount

// regroup links the items of a queue anew, so that those to one address are neighbours, in their order. It returns the first. What a shard takes in
// one go comes from many peers in turn, and what is for one client can be one message.
func (s *sender) regroup(first int32) int32 {
	for k := first; k != 0; {
		it := &s.items[k-1]
		next := it.next
		it.next = 0
		at := it.hash() % groupCount
		for s.groups[at].first != 0 && !it.sameWay(&s.items[s.groups[at].first-1]) {
			at = (at + 1) % groupCount
		}
		if g := &s.groups[at]; g.first != 0 {
			s.items[g.last-1].next = k
			g.last = k
		} else {
			*g = group{k, k}
			s.grouped = append(s.grouped, uint16(at))
		}
		k = next
	}
	first = 0
	for last := int32(0); len(s.grouped) > 0; {
		at := s.grouped[len(s.grouped)-1]
		s.grouped = s.grouped[:len(s.grouped)-1]
		g := &s.groups[at]
		if last == 0 {
			first = g.first
		} else {
			s.items[last-1].next = g.first
		}
		last = g.last
		*g = group{}
	}
	return first
}

// hash spreads addresses over the table of groups. Clients choose their ports, and can make some of them collide: it costs them the time
// of a walk over at most as many items as are queued.
func (it *item) hash() uint64 {
	h := binary.NativeEndian.Uint64(it.name[:]) ^ binary.NativeEndian.Uint64(it.name[16:])*0x9E3779B97F4A7C15
	return h * 0xD6E8FEB86659FD93 >> 32
}

// sameWay reports whether two items of one socket go from the same address to the same address.
func (it *item) sameWay(other *item) bool {
	return it.nameLen == other.nameLen && it.name == other.name && it.ctlLen == other.ctlLen &&
		(it.ctlLen == 0 || bytes.Equal(it.ctl.bytes()[:it.ctlLen], other.ctl.bytes()[:it.ctlLen]))
}

// gather lays the items of a queue out for sendmmsg. If runs are allowed, neighbours of the same size, or with the last one shorter, to the
// same address become one message that the kernel cuts.
func (s *sender) gather(first int32, runs bool) (msgs int) {
	if runs {
		first = s.regroup(first)
	}
	iovs := 0
	var run *item // the first of the run that the last message is
	var size, total, count int
	open := false
	for k := first; k != 0; {
		it := &s.items[k-1]
		k = it.next
		n := int(it.iov.Len)
		s.iovs[iovs] = it.iov
		iovs++
		if open && n <= size && n > 0 && count < maxSegments && total+n <= maxSegmentBytes && it.sameWay(run) {
			h := &s.hdrs[msgs-1].hdr
			if count == 1 {
				h.Control = &run.ctl.bytes()[0]
				h.SetControllen(run.ctl.putSegment(int(run.ctlLen), size))
				s.segmentRuns++
			}
			count++
			total += n
			h.SetIovlen(count)
			open = n == size
			continue
		}
		h := &s.hdrs[msgs].hdr
		msgs++
		h.Name, h.Namelen = &it.name[0], it.nameLen
		h.Iov = &s.iovs[iovs-1]
		h.SetIovlen(1)
		h.Control = nil
		h.SetControllen(0)
		if it.ctlLen > 0 {
			h.Control = &it.ctl.bytes()[0]
			h.SetControllen(int(it.ctlLen))
		}
		run, size, total, count = it, n, n, 1
		open = runs && n > 0 && n <= s.longestRun
	}
	return msgs
}

// sendAll sends messages with as few system calls as possible. refused is given a message that the system did not take, and returns how
// many datagrams are lost.
func (s *sender) sendAll(fd int, hdrs []mmsghdr, refused func(fd int, m *unix.Msghdr, why syscall.Errno) (lost int)) (lost int) {
	for len(hdrs) > 0 {
		n, errno := sendmmsg(fd, hdrs)
		switch {
		case errno == 0:
			hdrs = hdrs[n:]
		case errno == unix.EINTR:
		case errno == unix.EAGAIN: // the socket's buffer is full: the rest would fare no better
			for i := range hdrs {
				lost += int(hdrs[i].hdr.Iovlen)
			}
			return lost
		default:
			lost += refused(fd, &hdrs[0].hdr, errno)
			hdrs = hdrs[1:]
		}
	}
	return lost
}

// sendSingly sends the datagrams of a run that the system would not take as one.
func (s *sender) sendSingly(fd int, run *unix.Msghdr, why syscall.Errno) (lost int) {
	if run.Iovlen == 1 {
		return 1
	}
	iovs := unsafe.Slice(run.Iov, int(run.Iovlen))
	h := mmsghdr{hdr: *run}
	h.hdr.SetIovlen(1)
	h.hdr.SetControllen(int(run.Controllen) - unix.CmsgSpace(2))
	if h.hdr.Controllen == 0 {
		h.hdr.Control = nil
	}
	s.hdrs[len(s.hdrs)-1] = h // not on the stack: the kernel is given its address
	one := s.hdrs[len(s.hdrs)-1:]
	for i := range iovs {
		one[0].hdr.Iov = &iovs[i]
		if _, errno := sendmmsg(fd, one); errno != 0 {
			lost++
		}
	}
	if lost == 0 { // so it was the cutting
		if why == unix.EINVAL || why == unix.EMSGSIZE {
			s.longestRun = int(iovs[0].Len) - 1
		} else {
			s.segments = false
		}
	}
	return lost
}

// The sockets do not block, so that the scheduler need not know of these calls: it would cost 100 ns for each.

func sendto(fd int, b []byte, to *sockaddr, toLen uint32) syscall.Errno {
	for {
		_, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_DONTWAIT,
			uintptr(unsafe.Pointer(to)), uintptr(toLen))
		if errno != unix.EINTR {
			return errno
		}
	}
}

func recvmmsg(fd int, hdrs []mmsghdr) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(hdrs))), uintptr(len(hdrs)),
		unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

func sendmmsg(fd int, hdrs []mmsghdr) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(hdrs))), uintptr(len(hdrs)),
		unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}
