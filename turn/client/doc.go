// Package client is a TURN client: a net.PacketConn whose LocalAddr is an address on a relay.
//
// § means draft-ietf-behave-turn-08 unless another document is named. The client speaks that draft without credentials,
// as a Flash player does, and RFC 5766/8656 with long-term credentials, over UDP and TCP. [Dial] allocates; [Conn.WriteTo] and
// [Conn.ReadFrom] exchange datagrams with peers; permissions, channels, refreshes and keepalives look after
// themselves; [Conn.Close] gives the relayed address back.
//
// # Loss
//
// The relay is a datagram service, and it does not report. In the [Legacy] dialect a peer that the server refuses, or
// that does not exist, is a silent loss: WriteTo succeeds and nothing comes back. In the [Modern] dialect the server
// answers for each peer address once; while a peer is refused WriteTo returns an *[Error]. Neither tells whether a
// datagram arrived.
//
// # Overhead
//
// Between client and server a datagram for an IPv4 peer is 36 bytes longer, plus up to 3 bytes of padding, and 48
// plus padding for an IPv6 peer; 4 bytes once a channel is bound (over TCP, padded to a multiple of 4 as well). A path with an
// MTU of 1500 carries payloads of 1436 bytes over UDP and IPv4 without fragments, whether a channel is bound or not.
//
// # Time
//
// A relayed address lives as long as its Conn: it is refreshed 60 s before it expires. When the server loses it
// (restart, a NAT on the way that forgot the mapping, no answer until it expired), ReadFrom and WriteTo return
// [ErrAllocationLost] and the caller dials again, to another relayed address.
//
// # Limitations
//
// No TLS and DTLS between client and server, no TCP to peers (RFC 6062), no dual allocation (ADDITIONAL-ADDRESS-FAMILY),
// no DONT-FRAGMENT, no ICMP reports, no mobility (RFC 8016), no SRV or NAPTR lookup, no SHA-256 credentials. A
// reserved port is only asked for together with its even neighbour.
package client
