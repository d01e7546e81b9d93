// Package rtmfp implements RTMFP, the Secure Real-Time Media Flow Protocol of RFC 7016: its wire format, sessions, flows and
// congestion control, without a socket, a clock or a goroutine. In all of its files § means RFC 7016.
//
// An Endpoint is client, server and peer in one. It is driven from outside:
//
//	for {
//		// a datagram came:             e.Receive(now, iface, from, datagram)
//		// the time of NextTimer came:  e.Tick(now)
//		for _, event := range e.Events() { ... } // may open, write, reject, redirect, forward, close
//		for _, d := range e.Flush(now) { ... }   // to be sent
//		at, ok := e.NextTimer()
//	}
//
// Certificates, keys and encryption are those of a Cryptography Profile, which implements Identity; RFC 7016 leaves them
// open. What an Endpoint remembers for others is bounded by Limits; what it does with every packet is counted in Counters.
//
// A responder keeps nothing for an address that has not echoed its cookie, except fragments of long startup packets, which
// are few. An answer to such an address is at most three times as long as what it answers, counted with IP and UDP
// headers; an IHello that is too short for its RHello is dropped and counted. An IHello that selects somebody else comes
// out as EventHello; Endpoint.Redirect and Session.Forward introduce.
//
// # Limitations
//
//   - Path MTU discovery (§3.5.4.3) is not performed: datagrams have one size, Config.MaxDatagram.
//   - Packet fragments (§2.3.1) are sent and understood during session startup only; in a session they are ignored.
//   - Acknowledgements are always sent in ranges; the bitmap is understood.
//   - The address of a session does not change if its cipher is not authenticated (§5), as with the simple checksum of RFC
//     7425: after a NAT has rebound, such a session dies.
//   - Answers to unproven addresses are limited in their factor only. Limits for each source prefix are the shell's.
//   - A receiving flow takes at most 512 holes, a session at most 256 receiving flows, those that linger for two minutes
//     after their end included: a far end that opens flows faster than two a second waits.
//   - The congestion window of a session that rests stays as it was; its flows and their state, about 1 KiB, stay as well.
//   - Counters do not name far ends; an Event does.
package rtmfp
