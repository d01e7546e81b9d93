package main

import "net/netip"

// frame is one datagram that is sent many times. Between two sends only the probe changes (see probe.go).
type frame struct {
	wire    []byte // what the kernel gets: the payload, on the packet link with Ethernet, IPv4 and UDP headers before it
	payload []byte // part of wire
	probe   []byte // part of payload: the 24 bytes that change; nil when the payload is fixed
	from    int    // index of the local port
	sum     uint32 // packet link: one's complement sum of everything the UDP checksum covers, with a zero probe
	to      netip.AddrPort
}

// arrival is one datagram that came in. Payload is valid until the call returns and may hold less than Size bytes:
// the packet link copies only the beginning of data packets.
type arrival struct {
	to      int // index of the local port; -1 when the datagram is for an address of a flood
	from    netip.AddrPort
	payload []byte
	size    int   // bytes of the whole payload
	at      int64 // ns since 1970
}

// link is one side of the relay: the clients, or the peers. It owns a row of local UDP ports on one address. It is not
// safe for concurrent use, and none of its calls blocks.
type link interface {
	// local is the address of a port of the row.
	local(i int) netip.AddrPort
	// frame makes a datagram from port i. The payload is copied. probeAt is the offset of the probe in it, even, or -1.
	frame(i int, to netip.AddrPort, payload []byte, probeAt int) *frame
	// send hands frames to the kernel and reports how many it took; fewer than all when its queue is full.
	// The same frame must not stand twice in one call.
	send(frames []*frame) (int, error)
	// receive calls take for what has arrived, at most a few hundred datagrams, and reports how many there were.
	receive(take func(*arrival)) int
	// drops counts datagrams that the kernel discarded because the generator did not take them in time.
	drops() uint64
	close()
}
