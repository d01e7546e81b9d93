package dataplane

import (
	"fmt"
	"math"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/stilenet/stile/turn"
)

// kernelPorts is the relayed ports of a shard of the kernel engine: entries of a table. What comes to all of them comes by two
// doors, one for each family; what leaves them leaves by the raw sender of their relay address.
type kernelPorts struct {
	*shard
	kernel  *kernel
	table   []kernelPort // by allocation
	doors   [2]door      // of IPv4 and IPv6
	senders []rawSender  // by the index of the relay address
	bursty  []uint32     // allocations whose port has a socket
	// burstMost is how many may have one.
	burstMost int
}

// kernelPort is one relayed port. The table has no pointers.
type kernelPort struct {
	queue          // datagrams to peers
	address uint32 // index of the relay address
	port    uint16
	open    bool
	bursts  uint8 // that left it; see kernel_burst_linux.go
	used    bool  // the socket, since the last tick
	socket  int32 // descriptor + 1 of a socket for bursts; 0: none
}

// door is a socket that steer hands over what comes to relayed ports.
type door struct {
	fd     int // -1: there is no relay address of this family
	queued bool
	drops  uint32
}

func newKernelPorts(s *shard, k *kernel) (_ *kernelPorts, err error) {
	x := &kernelPorts{shard: s, kernel: k, burstMost: burstSockets, doors: [2]door{{fd: -1}, {fd: -1}}}
	defer func() {
		if err != nil {
			x.close()
		}
	}()
	for _, a := range k.addrs {
		sender, err := newRawSender(a)
		if err != nil {
			return nil, err
		}
		x.senders = append(x.senders, sender)
		if err := x.openDoor(a.Is6()); err != nil {
			return nil, err
		}
	}
	return x, nil
}

// openDoor opens the door of a family, if it is not open. It has a port of its own, on the loopback interface, because the kernel hands over to
// sockets that are bound only.
func (x *kernelPorts) openDoor(inet6 bool) error {
	i, at := 0, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)
	if inet6 {
		i, at = 1, netip.AddrPortFrom(netip.IPv6Loopback(), 0)
	}
	d := &x.doors[i]
	if d.fd >= 0 {
		return nil
	}
	fd, err := udpSocket(inet6)
	if err != nil {
		return err
	}
	d.fd = fd
	set := options{fd: fd}
	set.buffers(listenBuffer)
	if inet6 {
		set.int(unix.SOL_IPV6, unix.IPV6_V6ONLY, 1)
		set.int(unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
		set.int(unix.SOL_IPV6, unix.IPV6_RECVORIGDSTADDR, 1)
	} else {
		set.int(unix.SOL_IP, unix.IP_FREEBIND, 1) // a namespace whose loopback interface is down has no address on it
		set.int(unix.SOL_IP, unix.IP_RECVORIGDSTADDR, 1)
	}
	if set.err != nil {
		return set.err
	}
	if err := bind(fd, at, inet6); err != nil {
		return fmt.Errorf("bind to %v: %w", at.Addr(), err)
	}
	if err := x.kernel.admit(x.number, inet6, fd); err != nil {
		return err
	}
	return x.poll.add(fd, unix.EPOLLIN|edge, makeTag(tagRelay, 0, uint32(i)))
}

// none is the index of no allocation.
const noAllocation = math.MaxInt32

func (x *kernelPorts) open(allocation uint32, local netip.AddrPort) error {
	for int(allocation) >= len(x.table) {
		x.table = append(x.table, kernelPort{})
	}
	p := &x.table[allocation]
	if p.open {
		panic("BUG: dataplane: the allocation has a relayed port already")
	}
	i := x.kernel.index(local.Addr())
	owner := x.kernel.owner(i, local.Port())
	if owner.Load() != 0 { // two relays share the address
		return turn.ErrPortTaken
	}
	taken, err := x.kernel.taken(local)
	if err != nil {
		return openError(local, err)
	}
	if taken {
		return turn.ErrPortTaken
	}
	*p = kernelPort{address: uint32(i), port: local.Port(), open: true}
	owner.Store(uint64(x.number+1)<<32 | uint64(allocation))
	return nil
}

func (x *kernelPorts) shut(allocation uint32) {
	p := &x.table[allocation]
	if !p.open {
		panic("BUG: dataplane: the allocation has no relayed port")
	}
	if p.count > 0 {
		x.send(makeTag(tagRelay, 0, allocation))
		x.flushPorts()
	}
	x.closeSocket(p)
	x.kernel.owner(int(p.address), p.port).Store(0)
	p.open = false
}

// allocation is whose relayed port a datagram came to, if it is one of this shard.
func (x *kernelPorts) allocation(to netip.AddrPort) uint32 {
	if i := x.kernel.index(to.Addr()); i >= 0 {
		if owner := x.kernel.owner(i, to.Port()).Load(); owner&^ownerBinds>>32 == uint64(x.number+1) {
			return uint32(owner)
		}
	}
	return noAllocation
}

func (x *kernelPorts) note(t tag) { x.again(&x.doors[t.index()].queued, t) }

func (x *kernelPorts) receive(t tag) {
	d := &x.doors[t.index()]
	d.queued = false
	limit := x.room(batchCount / 2)
	first := x.rx.used
	n, errno := x.rx.receive(d.fd, limit)
	x.taken += n
	for slot := first; slot < first+n; slot++ {
		f := x.rx.ctls[slot].parse(int(x.rx.hdrs[slot].hdr.Controllen))
		x.noteDrops(&d.drops, f)
		// A port that was shut, or went to another shard, a moment ago counts as closed.
		x.core.FromPeer(x.now, x.allocation(f.target), x.rx.names[slot].get(), x.rx.packet(slot))
		x.route()
	}
	if n == limit || errno != 0 && errno != unix.EAGAIN {
		x.again(&d.queued, t)
	}
}

func (x *kernelPorts) queue(o *turn.Output) {
	p := &x.table[o.Allocation]
	if !p.open {
		panic("BUG: dataplane: an output of a relayed port that is closed")
	}
	it := x.tx.add(&p.queue, o.Data)
	r := &x.senders[p.address]
	it.nameLen = it.name.put(o.Peer, r.inet6, 0)
	if p.count == 1 {
		x.touched = append(x.touched, makeTag(tagRelay, 0, o.Allocation))
	}
}

// send sends what is queued at a port: a burst by the port's own socket, if it has one, and the rest together with what leaves by other ports.
func (x *kernelPorts) send(t tag) {
	p := &x.table[t.index()]
	if p.count == 0 { // it was closed
		return
	}
	if p.count >= burstLeast && x.burstSocket(t.index(), p) {
		x.lost(x.tx.send(int(p.socket-1), &p.queue))
		return
	}
	x.senders[p.address].take(x.tx, p.port, &p.queue)
}

func (x *kernelPorts) flushPorts() {
	for i := range x.senders {
		if r := &x.senders[i]; r.count > 0 {
			x.lost(r.send(x.tx))
		}
	}
}

func (x *kernelPorts) shutAll() {
	for i := range x.table {
		if p := &x.table[i]; p.open {
			p.queue = queue{}
			x.shut(uint32(i))
		}
	}
	for i := range x.senders {
		x.senders[i].queue = queue{}
	}
	for i := range x.doors { // their events may have been in hand
		if d := &x.doors[i]; d.fd >= 0 {
			d.queued = false
		}
	}
}

func (x *kernelPorts) close() {
	x.shutAll()
	for i := range x.doors {
		if x.doors[i].fd >= 0 {
			_ = unix.Close(x.doors[i].fd)
		}
	}
	for i := range x.senders {
		_ = unix.Close(x.senders[i].fd)
	}
}
