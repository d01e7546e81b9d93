package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// udpLink is a row of ordinary UDP sockets, one for each port, and works everywhere and without privileges. A batch
// holds what consecutive frames have in common: peers, that is one socket with many destinations, gain by it.
type udpLink struct {
	fds     []int
	addrs   []netip.AddrPort
	epoll   int
	events  [64]unix.EpollEvent
	conn    bool
	hdrs    [batchSize]mmsghdr
	iovs    [batchSize]unix.Iovec
	names   [batchSize]sockaddr
	rhdrs   [batchSize]mmsghdr
	riovs   [batchSize]unix.Iovec
	rnames  [batchSize]sockaddr
	buffers [batchSize][2048]byte
	arrival arrival
}

// sockaddr is large enough for both families, as the kernel has them.
type sockaddr [unix.SizeofSockaddrInet6]byte

// newUDPLink binds n ports of addr, which the kernel chooses. With a remote the sockets are connected to it.
func newUDPLink(addr netip.Addr, n int, remote netip.AddrPort) (_ *udpLink, err error) {
	l := &udpLink{epoll: -1, conn: remote.IsValid()}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	family := unix.AF_INET
	if addr.Is6() {
		family = unix.AF_INET6
	}
	for i := range n {
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			if errors.Is(err, unix.EMFILE) {
				return nil, fmt.Errorf("socket %d of %d: %w (raise `ulimit -n`, or use --netns, which needs no socket for a client)", i+1, n, err)
			}
			return nil, fmt.Errorf("socket %d of %d: %w", i+1, n, err)
		}
		l.fds = append(l.fds, fd)
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20)
		}
		if err := unix.Bind(fd, toSockaddr(netip.AddrPortFrom(addr, 0))); err != nil {
			return nil, fmt.Errorf("bind to %v: %w", addr, err)
		}
		if l.conn {
			if err := unix.Connect(fd, toSockaddr(remote)); err != nil {
				return nil, fmt.Errorf("connect to %v: %w", remote, err)
			}
		}
		name, err := unix.Getsockname(fd)
		if err != nil {
			return nil, err
		}
		l.addrs = append(l.addrs, fromSockaddr(name))
		if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}); err != nil {
			return nil, err
		}
	}
	for i := range batchSize {
		l.hdrs[i].hdr.Iov = &l.iovs[i]
		l.hdrs[i].hdr.SetIovlen(1)
		l.rhdrs[i].hdr.Iov = &l.riovs[i]
		l.rhdrs[i].hdr.SetIovlen(1)
		l.rhdrs[i].hdr.Name = &l.rnames[i][0]
		l.riovs[i].Base = &l.buffers[i][0]
		l.riovs[i].SetLen(len(l.buffers[i]))
	}
	return l, nil
}

func toSockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

func fromSockaddr(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// put writes an address as the kernel wants it and reports its size.
func (s *sockaddr) put(a netip.AddrPort) uint32 {
	clear(s[:])
	binary.BigEndian.PutUint16(s[2:], a.Port())
	if a.Addr().Is4() {
		binary.NativeEndian.PutUint16(s[:], unix.AF_INET)
		b := a.Addr().As4()
		copy(s[4:], b[:])
		return unix.SizeofSockaddrInet4
	}
	binary.NativeEndian.PutUint16(s[:], unix.AF_INET6)
	b := a.Addr().As16()
	copy(s[8:], b[:])
	return unix.SizeofSockaddrInet6
}

func (s *sockaddr) get() netip.AddrPort {
	port := binary.BigEndian.Uint16(s[2:])
	if binary.NativeEndian.Uint16(s[:]) == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(s[4:8])), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(s[8:24])), port)
}

func (l *udpLink) local(i int) netip.AddrPort { return l.addrs[i] }

func (l *udpLink) frame(i int, to netip.AddrPort, payload []byte, probeAt int) *frame {
	b := append([]byte(nil), payload...)
	f := &frame{wire: b, payload: b, from: i, to: to}
	if probeAt >= 0 {
		f.probe = b[probeAt : probeAt+probeSize]
	}
	return f
}

func (l *udpLink) send(frames []*frame) (sent int, err error) {
	for len(frames) > 0 {
		n, from := 0, frames[0].from
		for n < batchSize && n < len(frames) && frames[n].from == from {
			f := frames[n]
			l.iovs[n].Base = &f.wire[0]
			l.iovs[n].SetLen(len(f.wire))
			l.hdrs[n].hdr.Name = nil
			l.hdrs[n].hdr.Namelen = 0
			if !l.conn {
				l.hdrs[n].hdr.Namelen = l.names[n].put(f.to)
				l.hdrs[n].hdr.Name = &l.names[n][0]
			}
			n++
		}
		got, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(l.fds[from]), uintptr(unsafe.Pointer(&l.hdrs[0])), uintptr(n), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			sent += int(got)
			frames = frames[got:]
		case unix.ECONNREFUSED:
			// An ICMP error of an earlier datagram: the server or the relayed port is gone. The loss says so.
		case unix.EAGAIN, unix.ENOBUFS, unix.EINTR:
			return sent, nil
		default:
			return sent, fmt.Errorf("send from %v to %v: %w", l.addrs[from], frames[0].to, errno)
		}
	}
	return sent, nil
}

func (l *udpLink) receive(take func(*arrival)) (total int) {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(l.epoll), uintptr(unsafe.Pointer(&l.events[0])), uintptr(len(l.events)), 0, 0, 0)
	if errno != 0 {
		return 0
	}
	for _, ev := range l.events[:n] {
		i := int(ev.Fd)
		for j := range l.rhdrs {
			l.rhdrs[j].hdr.Namelen = uint32(len(l.rnames[j]))
		}
		got, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(l.fds[i]), uintptr(unsafe.Pointer(&l.rhdrs[0])), batchSize, unix.MSG_DONTWAIT, 0, 0)
		if errno != 0 {
			continue
		}
		a := &l.arrival
		a.to, a.at = i, time.Now().UnixNano()
		for j := range int(got) {
			a.from = l.rnames[j].get()
			a.size = int(l.rhdrs[j].len)
			a.payload = l.buffers[j][:min(a.size, len(l.buffers[j]))]
			take(a)
		}
		total += int(got)
	}
	return total
}

// skMeminfoDrops is the index of the drop counter in what SO_MEMINFO returns.
const skMeminfoDrops = 8

func (l *udpLink) drops() (sum uint64) {
	for _, fd := range l.fds {
		var info [9]uint32
		size := uint32(unsafe.Sizeof(info))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
		if errno == 0 {
			sum += uint64(info[skMeminfoDrops])
		}
	}
	return sum
}

func (l *udpLink) close() {
	for _, fd := range l.fds {
		_ = unix.Close(fd)
	}
	l.fds = nil
	if l.epoll >= 0 {
		_ = unix.Close(l.epoll)
		l.epoll = -1
	}
}
