package dataplane

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilenet/stile/turn"
)

// Ours to tune: socket options.
const (
	// listenBuffer is the receive and the send buffer of a UDP listener in bytes, for each shard. At 300,000 packets of
	// 172 bytes a second, which the kernel books as 768 each, it bridges 36 ms in which the shard does not run. A relayed
	// port keeps the system's default (208 KB, 90 packets of 1,200 bytes): its traffic is one client's.
	listenBuffer = 4 << 20
	// streamBuffer is the kernel's send and receive buffer of a TCP connection: the speed limit of an allocation at 100 ms round-trip time.
	streamBuffer = 256 << 10
	// A TCP client that answers nothing for streamTimeout, probes included, is gone: as long as the core waits for a silent one over UDP
	// would be 600 s, but here the kernel asks.
	streamTimeout   = 60 * time.Second
	streamKeepalive = 30 * time.Second
	streamProbe     = 10 * time.Second
	listenBacklog   = 512 // connections that wait to be accepted
)

// listener is one socket of a shard that clients send to.
type listener struct {
	queue           // answers and data to clients
	fd       int    // -1 in the place of a TCP listener's UDP socket, and the other way round: see stream
	index    uint16 // of the configuration
	local    netip.AddrPort
	stream   bool
	inet6    bool // the socket's family; an IPv6 socket with the unspecified address takes IPv4 as well
	wildcard bool // answers must say which address they leave from
	queued   bool // in the list of what is ready
	paused   bool // accepts nothing until the next tick: the system is out of descriptors
	drops    uint32
}

// openListener opens the socket of one listener for one shard. shared is whether other shards open it as well.
func openListener(l Listener, index int, shared bool) (_ *listener, err error) {
	at := l.Address
	if at.Addr() == netip.IPv6Unspecified() && !hasIPv6() {
		at = netip.AddrPortFrom(netip.IPv4Unspecified(), at.Port())
	}
	x := &listener{index: uint16(index), inet6: at.Addr().Is6(), wildcard: at.Addr().IsUnspecified(), stream: l.Network == "tcp"}
	kind := unix.SOCK_DGRAM
	if x.stream {
		kind = unix.SOCK_STREAM
	}
	x.fd, err = unix.Socket(family(x.inet6), kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = unix.Close(x.fd)
		}
	}()
	set := options{fd: x.fd}
	if shared {
		set.int(unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	}
	if x.inet6 {
		only := 1
		if x.wildcard {
			only = 0
		}
		set.int(unix.SOL_IPV6, unix.IPV6_V6ONLY, only)
	}
	if x.stream {
		// What a listening socket has, the connections inherit.
		set.int(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		set.int(unix.SOL_SOCKET, unix.SO_SNDBUF, streamBuffer)
		set.int(unix.SOL_SOCKET, unix.SO_RCVBUF, streamBuffer)
		set.int(unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
		set.int(unix.SOL_TCP, unix.TCP_NODELAY, 1)
		set.int(unix.SOL_TCP, unix.TCP_KEEPIDLE, int(streamKeepalive/time.Second))
		set.int(unix.SOL_TCP, unix.TCP_KEEPINTVL, int(streamProbe/time.Second))
		set.int(unix.SOL_TCP, unix.TCP_USER_TIMEOUT, int(streamTimeout/time.Millisecond))
	} else {
		set.buffers(listenBuffer)
		set.fragment(x.inet6)
		set.int(unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1)
		// The interface is asked for by the reverse-path check, the address only by wildcards.
		if x.inet6 {
			set.int(unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1)
		} else {
			set.int(unix.SOL_IP, unix.IP_PKTINFO, 1)
		}
	}
	if set.err != nil {
		return nil, set.err
	}
	if err := bind(x.fd, at, x.inet6); err != nil {
		return nil, err
	}
	if x.stream {
		if err := unix.Listen(x.fd, listenBacklog); err != nil {
			return nil, err
		}
	}
	x.local, err = localAddress(x.fd)
	return x, err
}

// exclusive reports whether nobody has the address: sockets that share a port among shards would share it with those of
// another process, too.
func exclusive(l Listener, index int) error {
	x, err := openListener(l, index, false)
	if err != nil {
		return err
	}
	return unix.Close(x.fd)
}

func listenError(l Listener, err error) error {
	remedy := ""
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		remedy = ": another program has the port"
	case errors.Is(err, unix.EADDRNOTAVAIL):
		remedy = ": this host does not have the address"
	case errors.Is(err, unix.EACCES):
		remedy = ": a port below 1024 needs root or CAP_NET_BIND_SERVICE"
	}
	return fmt.Errorf("%s: %v: %w%s", l.key(), l, err, remedy)
}

// receiveListener takes a batch from a UDP listener.
func (s *shard) receiveListener(index uint32) {
	l := s.listeners[index]
	l.queued = false
	limit := s.room(batchCount / 2)
	first := s.rx.used
	n, errno := s.rx.receive(l.fd, limit)
	s.taken += n
	src := &s.src
	for slot := first; slot < first+n; slot++ {
		f := s.rx.ctls[slot].parse(int(s.rx.hdrs[slot].hdr.Controllen))
		s.noteDrops(&l.drops, f)
		server := l.local
		if l.wildcard && f.local.IsValid() {
			server = netip.AddrPortFrom(f.local, l.local.Port())
		}
		*src = turn.Source{Client: s.rx.names[slot].get(), Server: server, Listener: l.index, Interface: f.ifIndex}
		s.core.FromClient(s.now, src, s.rx.packet(slot))
		s.route()
	}
	if n == limit || errno != 0 && errno != unix.EAGAIN {
		s.again(&l.queued, makeTag(tagListener, 0, index))
	}
}

// options sets socket options until one fails.
type options struct {
	fd  int
	err error
}

func (o *options) int(level, name, value int) {
	if o.err == nil {
		o.err = unix.SetsockoptInt(o.fd, level, name, value)
	}
}

// buffers asks for buffers above the system's bound, and is content with less.
func (o *options) buffers(size int) {
	if unix.SetsockoptInt(o.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size) != nil {
		o.int(unix.SOL_SOCKET, unix.SO_RCVBUF, size)
	}
	if unix.SetsockoptInt(o.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, size) != nil {
		o.int(unix.SOL_SOCKET, unix.SO_SNDBUF, size)
	}
}

// fragment lets routers fragment what is sent (§11: DF is 0).
func (o *options) fragment(inet6 bool) {
	o.int(unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT)
	if inet6 {
		o.int(unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DONT)
	}
}

// udpSocket makes the socket of a relayed port.
func udpSocket(inet6 bool) (int, error) {
	fd, err := unix.Socket(family(inet6), unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	set := options{fd: fd}
	if inet6 {
		set.int(unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DONT)
	} else {
		set.int(unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT)
	}
	set.int(unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1)
	if set.err != nil {
		_ = unix.Close(fd)
		return -1, set.err
	}
	return fd, nil
}

func family(inet6 bool) int {
	if inet6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func bind(fd int, at netip.AddrPort, inet6 bool) error {
	if inet6 {
		return unix.Bind(fd, &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16(), ZoneId: zoneIndex(at.Addr().Zone())})
	}
	return unix.Bind(fd, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()})
}

// zoneIndex is the index of an interface by its name or number; 0 when there is none such, and bind then says so.
func zoneIndex(zone string) uint32 {
	if zone == "" {
		return 0
	}
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n)
	}
	i, err := net.InterfaceByName(zone)
	if err != nil {
		return 0
	}
	return uint32(i.Index)
}

func hasIPv6() bool {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.Bind(fd, &unix.SockaddrInet6{}) == nil
}

// localAddress is where a socket is bound, unmapped.
func localAddress(fd int) (netip.AddrPort, error) {
	a, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return fromSockaddr(a), nil
}

func fromSockaddr(a unix.Sockaddr) netip.AddrPort {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}
