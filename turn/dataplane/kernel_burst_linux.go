package dataplane

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// A raw socket sends one datagram at a time. Where several leave by one port in one go, as the packets of a picture do, a UDP socket is cheaper: the kernel takes
// them as one and cuts them late. So a port that sends bursts has a socket, for as long as it does. What comes to the port still takes its way to the door,
// since the kernel asks steer before it looks at sockets like this.

// Ours to tune.
const (
	burstLeast   = 3   // datagrams of one port in one go, below which raw is as good
	burstsFirst  = 8   // bursts before a port gets a socket: it costs as much as six datagrams
	burstSockets = 512 // of a shard; other ports send raw
)

// burstSocket reports whether the port of an allocation has a socket for its bursts, and makes one when it has had some.
func (x *kernelPorts) burstSocket(allocation uint32, p *kernelPort) bool {
	if p.socket != 0 {
		p.used = true
		return true
	}
	if !x.tx.segments || len(x.bursty) >= x.burstMost {
		return false
	}
	if p.bursts++; p.bursts < burstsFirst {
		return false
	}
	p.bursts = 0
	at := netip.AddrPortFrom(x.kernel.addrs[p.address], p.port)
	fd, err := udpSocket(at.Addr().Is6())
	if err != nil {
		x.burstMost = len(x.bursty) // the system is out of descriptors, which others need more
		return false
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 0) // it is only sent from
	owner := x.kernel.owner(int(p.address), p.port)
	owner.Or(ownerBinds)
	err = bind(fd, at, at.Addr().Is6())
	owner.And(^uint64(ownerBinds))
	if err != nil {
		_ = unix.Close(fd)
		return false
	}
	p.socket, p.used = int32(fd+1), true
	x.bursty = append(x.bursty, allocation)
	return true
}

// tick closes the sockets of ports that have sent no burst in the last second.
func (x *kernelPorts) tick() {
	for at := len(x.bursty) - 1; at >= 0; at-- {
		p := &x.table[x.bursty[at]]
		if !p.used {
			x.closeSocket(p)
		}
		p.used = false
	}
	x.burstMost = burstSockets
}

func (x *kernelPorts) closeSocket(p *kernelPort) {
	if p.socket == 0 {
		return
	}
	_ = unix.Close(int(p.socket - 1))
	p.socket = 0
	at := slices.IndexFunc(x.bursty, func(i uint32) bool { return &x.table[i] == p })
	x.bursty = slices.Delete(x.bursty, at, at+1)
}
