package transport

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stilenet/stile/rtmfp"
)

// newPacketIO returns batched reads and writes for a UDP socket of the system.
func newPacketIO(c net.PacketConn) packetIO {
	u, ok := c.(*net.UDPConn)
	if !ok || u.RemoteAddr() != nil {
		return newSingle(c)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return newSingle(c)
	}
	x := &batched{raw: raw, receive: newVector(), transmit: newVector()}
	if err := raw.Control(func(fd uintptr) {
		a, err := unix.Getsockname(int(fd))
		_, x.inet6 = a.(*unix.SockaddrInet6)
		if err != nil {
			x.raw = nil
		}
	}); err != nil || x.raw == nil {
		return newSingle(c)
	}
	x.readNow = func(fd uintptr) bool {
		x.count, x.errno = mmsg(unix.SYS_RECVMMSG, fd, x.receive.hdrs[:])
		return x.errno != unix.EAGAIN
	}
	x.writeNow = func(fd uintptr) bool {
		x.sent, x.sendErrno = mmsg(unix.SYS_SENDMMSG, fd, x.transmit.hdrs[:x.queued])
		return true
	}
	return x
}

// mmsghdr is struct mmsghdr.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// sockaddr is a struct sockaddr_in or sockaddr_in6.
type sockaddr [unix.SizeofSockaddrInet6]byte

// vector is the arguments of recvmmsg or sendmmsg.
type vector struct {
	hdrs  [batchCount]mmsghdr
	iovs  [batchCount]unix.Iovec
	names [batchCount]sockaddr
}

func newVector() *vector {
	v := new(vector)
	for i := range v.hdrs {
		v.hdrs[i].hdr.Name = &v.names[i][0]
		v.hdrs[i].hdr.Iov = &v.iovs[i]
		v.hdrs[i].hdr.SetIovlen(1)
	}
	return v
}

func mmsg(call, fd uintptr, hdrs []mmsghdr) (n int, errno syscall.Errno) {
	for {
		r, _, errno := unix.Syscall6(call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(hdrs))), uintptr(len(hdrs)), unix.MSG_DONTWAIT, 0, 0)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return 0, errno
		}
		return int(r), 0
	}
}

// batched is a packetIO with recvmmsg and sendmmsg. One goroutine reads, another writes.
type batched struct {
	raw   syscall.RawConn
	inet6 bool

	receive *vector
	readNow func(fd uintptr) bool
	count   int
	errno   syscall.Errno

	transmit  *vector
	writeNow  func(fd uintptr) bool
	queued    int
	sent      int
	sendErrno syscall.Errno
}

func (x *batched) room() int { return batchCount }

func (x *batched) read(b *batch) error {
	v := x.receive
	for i := range v.hdrs {
		v.iovs[i].Base = &b.slab[i*bufferSize]
		v.iovs[i].SetLen(bufferSize)
		v.hdrs[i].hdr.Namelen = uint32(len(v.names[i]))
	}
	if err := x.raw.Read(x.readNow); err != nil {
		return err
	}
	if x.errno != 0 {
		return os.NewSyscallError("recvmmsg", x.errno)
	}
	for i := range x.count {
		b.sizes[i], b.from[i] = int(v.hdrs[i].len), v.names[i].get()
	}
	b.n = x.count
	return nil
}

func (x *batched) write(out []rtmfp.Datagram) (lost int) {
	for len(out) > 0 {
		n := min(len(out), batchCount)
		v := x.transmit
		for i := range out[:n] {
			v.iovs[i].Base = unsafe.SliceData(out[i].Data)
			v.iovs[i].SetLen(len(out[i].Data))
			v.hdrs[i].hdr.Namelen = v.names[i].put(out[i].To, x.inet6)
		}
		x.queued = n
		if err := x.raw.Write(x.writeNow); err != nil {
			return lost + len(out)
		}
		switch x.sendErrno {
		case 0:
			out = out[x.sent:]
		case unix.EAGAIN: // the socket's buffer is full: UDP loses the rest
			return lost + len(out)
		default: // of the first datagram
			lost++
			out = out[1:]
		}
	}
	return lost
}

// put writes an address in the family of the socket and returns its size in bytes.
func (s *sockaddr) put(a netip.AddrPort, inet6 bool) uint32 {
	binary.BigEndian.PutUint16(s[2:], a.Port())
	if !inet6 {
		binary.NativeEndian.PutUint16(s[:], unix.AF_INET)
		if a.Addr().Is4() {
			*(*[4]byte)(s[4:]) = a.Addr().As4()
		}
		clear(s[8:])
		return unix.SizeofSockaddrInet4
	}
	binary.NativeEndian.PutUint16(s[:], unix.AF_INET6)
	clear(s[4:8])
	*(*[16]byte)(s[8:]) = a.Addr().As16()
	clear(s[24:])
	return unix.SizeofSockaddrInet6
}

// get reads an address, unmapped and without a zone.
func (s *sockaddr) get() netip.AddrPort {
	port := binary.BigEndian.Uint16(s[2:])
	switch binary.NativeEndian.Uint16(s[:]) {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(s[4:8])), port)
	case unix.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(s[8:24])).Unmap(), port)
	}
	return netip.AddrPort{}
}
