package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Ours to tune.
const (
	batchSize    = 32      // datagrams in one sendmmsg: what waits in it is latency, and a server's socket buffer holds about 90
	ringFrame    = 512     // bytes of a ring slot: the packet's head and 80 bytes of the kernel's
	ringSlots    = 8192    // 4 MiB; 16 ms at 500,000 packets/s
	ringBlock    = 1 << 16 // bytes
	snapControl  = 384     // bytes kept of a packet that is not data: a 401 with realm and nonce fits
	snapData     = 128     // bytes kept of data: headers, a Data indication's 36 bytes, the probe
	receiveBatch = 256     // datagrams taken before the sender has its turn
)

const (
	etherSize = 14
	ipv4Size  = 20
	udpSize   = 8
	headSize  = etherSize + ipv4Size + udpSize
)

// packetLink speaks Ethernet on one interface of the laboratory. Its addresses and its MAC are the kernel's on
// neither side: what arrives is for "another host", so that the kernel drops it first thing and answers nothing.
type packetLink struct {
	tx, rx   int
	ring     []byte
	slot     int
	mac, gw  [6]byte
	addr     netip.Addr
	base     uint16
	ports    int
	hdrs     [batchSize]mmsghdr
	iovs     [batchSize]unix.Iovec
	arrival  arrival
	statDrop uint64
}

type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte
}

type packetLinkConfig struct {
	ifname  string
	mac, gw [6]byte // ours, made up; the server's interface
	addr    netip.Addr
	base    uint16 // first local port
	ports   int
}

// newPacketLink must be called on a thread in the namespace of the interface.
func newPacketLink(cfg packetLinkConfig) (_ *packetLink, err error) {
	if int(cfg.base)+cfg.ports > 1<<16 {
		return nil, fmt.Errorf("%d ports from %d on do not exist", cfg.ports, cfg.base)
	}
	ifi, err := net.InterfaceByName(cfg.ifname)
	if err != nil {
		return nil, err
	}
	l := &packetLink{tx: -1, rx: -1, mac: cfg.mac, gw: cfg.gw, addr: cfg.addr, base: cfg.base, ports: cfg.ports}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if l.tx, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("packet socket: %w (needs CAP_NET_RAW)", err)
	}
	// Without a queueing discipline between, and unseen by our own receiver.
	if err = unix.SetsockoptInt(l.tx, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
		return nil, fmt.Errorf("PACKET_QDISC_BYPASS: %w", err)
	}
	_ = unix.SetsockoptInt(l.tx, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 8<<20)
	if err = unix.Bind(l.tx, &unix.SockaddrLinklayer{Ifindex: ifi.Index}); err != nil {
		return nil, fmt.Errorf("bind to %s: %w", cfg.ifname, err)
	}
	if l.rx, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return nil, err
	}
	if err = unix.SetsockoptInt(l.rx, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2); err != nil {
		return nil, fmt.Errorf("TPACKET_V2: %w", err)
	}
	if err = unix.SetsockoptInt(l.rx, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
		return nil, fmt.Errorf("PACKET_IGNORE_OUTGOING: %w", err)
	}
	prog := dataFilter()
	if err = unix.SetsockoptSockFprog(l.rx, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}); err != nil {
		return nil, fmt.Errorf("packet filter: %w", err)
	}
	req := unix.TpacketReq{Block_size: ringBlock, Block_nr: ringSlots * ringFrame / ringBlock, Frame_size: ringFrame, Frame_nr: ringSlots}
	if err = unix.SetsockoptTpacketReq(l.rx, unix.SOL_PACKET, unix.PACKET_RX_RING, &req); err != nil {
		return nil, fmt.Errorf("receive ring: %w", err)
	}
	if l.ring, err = unix.Mmap(l.rx, 0, ringSlots*ringFrame, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		return nil, fmt.Errorf("map the receive ring: %w", err)
	}
	if err = unix.Bind(l.rx, &unix.SockaddrLinklayer{Ifindex: ifi.Index, Protocol: htons(unix.ETH_P_ALL)}); err != nil {
		return nil, fmt.Errorf("bind to %s: %w", cfg.ifname, err)
	}
	for i := range l.hdrs {
		l.hdrs[i].hdr.Iov = &l.iovs[i]
		l.hdrs[i].hdr.SetIovlen(1)
	}
	return l, nil
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// dataFilter keeps whole IPv4 UDP packets without options: the head of ChannelData and of what is no STUN message,
// more of the rest.
func dataFilter() []unix.SockFilter {
	const ld, jeq, ret = unix.BPF_LD | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	const and = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	return []unix.SockFilter{
		{Code: ld | unix.BPF_H, K: 12},
		{Code: jeq, Jf: 8, K: unix.ETH_P_IP},
		{Code: ld | unix.BPF_H, K: 14},
		{Code: and, K: 0xFF00},
		{Code: jeq, Jf: 5, K: 0x4500},
		{Code: ld | unix.BPF_B, K: 23},
		{Code: jeq, Jf: 3, K: unix.IPPROTO_UDP},
		{Code: ld | unix.BPF_W, K: headSize + 4}, // the cookie; too short a packet ends the program with 0
		{Code: jeq, Jf: 2, K: 0x2112A442},
		{Code: ret, K: snapControl},
		{Code: ret, K: 0},
		{Code: ret, K: snapData},
	}
}

func (l *packetLink) local(i int) netip.AddrPort { return netip.AddrPortFrom(l.addr, l.base+uint16(i)) }

func (l *packetLink) frame(i int, to netip.AddrPort, payload []byte, probeAt int) *frame {
	return l.frameFrom(i, l.local(i), to, payload, probeAt)
}

// frameFrom makes a frame with any source address, for the flood.
func (l *packetLink) frameFrom(i int, from, to netip.AddrPort, payload []byte, probeAt int) *frame {
	b := make([]byte, headSize+len(payload))
	copy(b, l.gw[:])
	copy(b[6:], l.mac[:])
	binary.BigEndian.PutUint16(b[12:], unix.ETH_P_IP)
	ip := b[etherSize:]
	ip[0] = 0x45
	binary.BigEndian.PutUint16(ip[2:], uint16(len(b)-etherSize))
	binary.BigEndian.PutUint16(ip[6:], 0x4000) // do not fragment, as Linux sends
	ip[8], ip[9] = 64, unix.IPPROTO_UDP
	src, dst := from.Addr().As4(), to.Addr().As4()
	copy(ip[12:], src[:])
	copy(ip[16:], dst[:])
	binary.BigEndian.PutUint16(ip[10:], ^fold(onesSum(ip[:ipv4Size])))
	udp := ip[ipv4Size:]
	binary.BigEndian.PutUint16(udp, from.Port())
	binary.BigEndian.PutUint16(udp[2:], to.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	copy(udp[udpSize:], payload)
	f := &frame{wire: b, payload: udp[udpSize:], from: i, to: to}
	if probeAt >= 0 {
		if probeAt%2 != 0 {
			panic("BUG: a probe at an odd offset breaks the checksum")
		}
		f.probe = f.payload[probeAt : probeAt+probeSize]
		clear(f.probe)
	}
	f.sum = uint32(fold(onesSum(ip[12:]) + unix.IPPROTO_UDP + uint32(len(udp))))
	l.seal(f)
	return f
}

// seal writes the UDP checksum.
func (l *packetLink) seal(f *frame) {
	sum := ^fold(f.sum + onesSum(f.probe))
	if sum == 0 {
		sum = 0xFFFF
	}
	binary.BigEndian.PutUint16(f.wire[etherSize+ipv4Size+6:], sum)
}

// onesSum adds 16-bit words; b holds at most 64 KiB, so that 32 bits suffice.
func onesSum(b []byte) (sum uint32) {
	for len(b) >= 2 {
		sum += uint32(b[0])<<8 | uint32(b[1])
		b = b[2:]
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	return sum
}

func fold(sum uint32) uint16 {
	sum = sum&0xFFFF + sum>>16
	return uint16(sum + sum>>16)
}

func (l *packetLink) send(frames []*frame) (sent int, err error) {
	for len(frames) > 0 {
		n := min(len(frames), batchSize)
		for i, f := range frames[:n] {
			if f.probe != nil {
				l.seal(f)
			}
			l.iovs[i].Base = &f.wire[0]
			l.iovs[i].SetLen(len(f.wire))
		}
		got, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(l.tx), uintptr(unsafe.Pointer(&l.hdrs[0])), uintptr(n), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			sent += int(got)
			frames = frames[got:]
			if int(got) < n {
				return sent, nil
			}
		case unix.EAGAIN, unix.ENOBUFS, unix.EINTR:
			return sent, nil
		default:
			return sent, fmt.Errorf("send: %w", errno)
		}
	}
	return sent, nil
}

func (l *packetLink) receive(take func(*arrival)) (n int) {
	for ; n < receiveBatch; n++ {
		b := l.ring[l.slot*ringFrame : (l.slot+1)*ringFrame]
		hdr := (*unix.Tpacket2Hdr)(unsafe.Pointer(&b[0]))
		if atomic.LoadUint32(&hdr.Status)&unix.TP_STATUS_USER == 0 {
			return n
		}
		if l.slot++; l.slot == ringSlots {
			l.slot = 0
		}
		if p := b[hdr.Mac:][:hdr.Snaplen]; len(p) > headSize {
			a := &l.arrival
			a.from = netip.AddrPortFrom(netip.AddrFrom4([4]byte(p[26:30])), binary.BigEndian.Uint16(p[34:]))
			a.to = -1
			if netip.AddrFrom4([4]byte(p[30:34])) == l.addr {
				if i := int(binary.BigEndian.Uint16(p[36:])) - int(l.base); i >= 0 && i < l.ports {
					a.to = i
				}
			}
			a.size = int(binary.BigEndian.Uint16(p[38:])) - udpSize
			a.payload = p[headSize:]
			if a.size < len(a.payload) {
				a.payload = a.payload[:max(a.size, 0)] // Ethernet padding
			}
			a.at = int64(hdr.Sec)*1e9 + int64(hdr.Nsec)
			take(a)
		}
		atomic.StoreUint32(&hdr.Status, unix.TP_STATUS_KERNEL)
	}
	return n
}

func (l *packetLink) drops() uint64 {
	// The kernel resets the counters when they are read.
	if st, err := unix.GetsockoptTpacketStats(l.rx, unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
		l.statDrop += uint64(st.Drops)
	}
	return l.statDrop
}

func (l *packetLink) close() {
	if l.ring != nil {
		_ = unix.Munmap(l.ring)
		l.ring = nil
	}
	for _, fd := range []*int{&l.tx, &l.rx} {
		if *fd >= 0 {
			_ = unix.Close(*fd)
			*fd = -1
		}
	}
}
