package dataplane

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stilenet/stile/turn"
)

// From the specification.
const (
	ipv4HeaderSize   = 20 // RFC 791, without options
	ipv6HeaderSize   = 40 // RFC 8200
	udpHeaderSize    = 8  // RFC 768
	fragHeaderSize   = 8  // RFC 8200 §4.5
	protocolUDP      = 17
	protocolFragment = 44
	moreFragments    = 0x2000 // RFC 791; in IPv6's fragment header it is 1
)

// hopLimit is Linux's default time to live.
const hopLimit = 64

const _ = uint(turn.Headroom - (ipv6HeaderSize + udpHeaderSize))

// rawSender sends from any port of one relay address. It is bound to the address, for the sake of routing rules that look at the source.
type rawSender struct {
	queue
	fd      int
	inet6   bool
	id      uint32 // of the last datagram in fragments
	scratch []byte // of a fragment
	// head is what all headers have in common, sum the part of the checksum that the source address and the protocol are.
	head [ipv6HeaderSize + udpHeaderSize]byte
	sum  uint64
}

func newRawSender(source netip.Addr) (r rawSender, err error) {
	r.describe(source)
	r.id = rand.Uint32()
	r.fd, err = unix.Socket(family(r.inet6), unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return r, fmt.Errorf("open a raw socket: %w", err)
	}
	set := options{fd: r.fd}
	set.buffers(listenBuffer)
	set.int(unix.SOL_SOCKET, unix.SO_RCVBUF, 0) // it is only sent from
	if err = set.err; err == nil {
		err = bind(r.fd, netip.AddrPortFrom(source, 0), r.inet6)
	}
	if err != nil {
		_ = unix.Close(r.fd)
		return r, fmt.Errorf("relay address %v: %w", source, err)
	}
	return r, nil
}

// describe makes what the headers of all datagrams from the address have in common.
func (r *rawSender) describe(source netip.Addr) {
	if r.inet6 = source.Is6(); r.inet6 {
		r.head[0] = 6 << 4
		r.head[6], r.head[7] = protocolUDP, hopLimit
		*(*[16]byte)(r.head[8:]) = source.As16()
		r.sum = sum(0, r.head[8:24])
	} else {
		r.head[0] = 4<<4 | ipv4HeaderSize/4
		r.head[8], r.head[9] = hopLimit, protocolUDP
		*(*[4]byte)(r.head[12:]) = source.As4()
		r.sum = sum(0, r.head[12:16])
	}
	r.sum = uint64(fold(sum(r.sum, []byte{0, protocolUDP})))
}

func (r *rawSender) headerSize() int {
	if r.inet6 {
		return ipv6HeaderSize
	}
	return ipv4HeaderSize
}

// take takes over the datagrams that leave by a port.
func (r *rawSender) take(tx *sender, port uint16, q *queue) {
	for k := q.head; k != 0; k = tx.items[k-1].next {
		r.prepare(&tx.items[k-1], port)
	}
	if r.count == 0 {
		r.queue = *q
	} else {
		tx.items[r.tail-1].next = q.head
		r.tail = q.tail
		r.count += q.count
	}
	*q = queue{}
}

// prepare writes the headers in front of a datagram, which lies in a receive buffer with Headroom bytes before it and Tailroom behind
// (an empty slice at the end of a buffer would point elsewhere). DF is 0 (§11), and the kernel puts in IPv4's identification and header checksum.
func (r *rawSender) prepare(it *item, port uint16) {
	data := it.data()
	ip := r.headerSize()
	size := udpHeaderSize + len(data)
	b := unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(data)), -(ip+udpHeaderSize))), ip+size)
	copy(b, r.head[:ip])
	udp := b[ip:]
	binary.BigEndian.PutUint16(udp, port)
	copy(udp[2:4], it.name[2:4])
	binary.BigEndian.PutUint16(udp[4:], uint16(size))
	binary.BigEndian.PutUint16(udp[6:], 0)
	pseudo := r.sum + uint64(binary.NativeEndian.Uint16(udp[4:]))
	if r.inet6 {
		binary.BigEndian.PutUint16(b[4:], uint16(size))
		copy(b[24:40], it.name[8:24])
		pseudo = sum(pseudo, b[24:40])
	} else {
		binary.BigEndian.PutUint16(b[2:], uint16(ip+size))
		copy(b[16:20], it.name[4:8])
		pseudo += uint64(binary.NativeEndian.Uint32(b[16:]))
	}
	check := ^fold(sum(pseudo, udp))
	if check == 0 { // which would say that there is none
		check = 0xFFFF
	}
	binary.NativeEndian.PutUint16(udp[6:], check)
	it.name[2], it.name[3] = 0, 0 // the port would be taken for a protocol
	it.put(b)
}

// send sends the queue and returns how many datagrams the system did not take.
func (r *rawSender) send(tx *sender) (lost int) {
	first, single := r.queue.take()
	if it := &tx.items[first-1]; single {
		errno := sendto(r.fd, it.data(), &it.name, it.nameLen)
		if errno == unix.EMSGSIZE {
			return r.fragment(it.data(), &it.name, it.nameLen)
		}
		return failed(errno)
	}
	return tx.sendAll(r.fd, tx.hdrs[:tx.gather(first, false)], r.refused)
}

func failed(errno syscall.Errno) int {
	if errno != 0 {
		return 1
	}
	return 0
}

// refused deals with a datagram of a batch that the system did not take.
func (r *rawSender) refused(_ int, h *unix.Msghdr, why syscall.Errno) (lost int) {
	if why != unix.EMSGSIZE {
		return 1
	}
	return r.fragment(unsafe.Slice(h.Iov.Base, int(h.Iov.Len)), (*sockaddr)(unsafe.Pointer(h.Name)), h.Namelen)
}

// Sizes of fragments. Ours to tune: what passes nearly everywhere, so that the width of the path need not be known, and what passes
// everywhere that IPv4 must.
const (
	fragmentSize = 1280
	fragmentLast = 576
)

// fragment sends a datagram that is larger than what it leaves by, or than what the kernel has learned of the path. The kernel does this
// for a UDP socket, and for a raw one only where IPv4's path is narrower than the interface.
func (r *rawSender) fragment(b []byte, to *sockaddr, toLen uint32) (lost int) {
	r.id++
	errno := r.fragmentTo(fragmentSize, b, to, toLen)
	if errno == unix.EMSGSIZE && !r.inet6 {
		errno = r.fragmentTo(fragmentLast, b, to, toLen)
	}
	return failed(errno)
}

func (r *rawSender) fragmentTo(size int, b []byte, to *sockaddr, toLen uint32) syscall.Errno {
	ip := r.headerSize()
	head, data := b[:ip], b[ip:]
	if r.inet6 {
		ip += fragHeaderSize
	}
	if r.scratch == nil {
		r.scratch = make([]byte, fragmentSize)
	}
	part := (size - ip) &^ 7 // offsets count 8 bytes
	for at := 0; at < len(data); at += part {
		n := min(part, len(data)-at)
		more := at+n < len(data)
		f := r.scratch[:ip+n]
		copy(f, head)
		copy(f[ip:], data[at:at+n])
		if r.inet6 {
			binary.BigEndian.PutUint16(f[4:], uint16(fragHeaderSize+n))
			f[6] = protocolFragment
			x := f[ipv6HeaderSize:]
			x[0], x[1] = protocolUDP, 0
			binary.BigEndian.PutUint16(x[2:], uint16(at|int(flag(more, 1))))
			binary.BigEndian.PutUint32(x[4:], r.id)
		} else {
			binary.BigEndian.PutUint16(f[2:], uint16(ip+n))
			binary.BigEndian.PutUint16(f[4:], uint16(max(1, r.id&0xFFFF))) // the kernel would replace 0, differently in each
			binary.BigEndian.PutUint16(f[6:], uint16(at/8)|flag(more, moreFragments))
		}
		if errno := sendto(r.fd, f, to, toLen); errno != 0 {
			return errno
		}
	}
	return 0
}

func flag(on bool, bit uint16) uint16 {
	if on {
		return bit
	}
	return 0
}

// sum adds b to a sum in ones' complement (RFC 1071), in 64 bits and in the byte order of the machine; b begins at an even place.
func sum(s uint64, b []byte) uint64 {
	var c uint64
	for len(b) >= 32 {
		s, c = bits.Add64(s, binary.NativeEndian.Uint64(b), 0)
		s, c = bits.Add64(s, binary.NativeEndian.Uint64(b[8:]), c)
		s, c = bits.Add64(s, binary.NativeEndian.Uint64(b[16:]), c)
		s, c = bits.Add64(s, binary.NativeEndian.Uint64(b[24:]), c)
		s, c = bits.Add64(s, 0, c)
		s += c
		b = b[32:]
	}
	for len(b) >= 8 {
		s, c = bits.Add64(s, binary.NativeEndian.Uint64(b), 0)
		s += c
		b = b[8:]
	}
	if len(b) > 0 {
		var last [8]byte
		copy(last[:], b)
		s, c = bits.Add64(s, binary.NativeEndian.Uint64(last[:]), 0)
		s += c
	}
	return s
}

// fold makes 16 bits of a sum.
func fold(s uint64) uint16 {
	s = s>>32 + s&0xFFFFFFFF
	s = s>>16 + s&0xFFFF
	s = s>>16 + s&0xFFFF
	s = s>>16 + s&0xFFFF
	return uint16(s)
}
