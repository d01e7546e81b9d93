// Package rtmfp implements RTMFP, the Secure Real-Time Media Flow Protocol of RFC 7016: its wire format, sessions, flows and
// congestion control, without a socket, a clock or a goroutine. In all of its files § means RFC 7016.
//
// # Limitations
//
//   - Path MTU discovery (§3.5.4.3) is not performed: datagrams have one size.
//   - Packet fragments (§2.3.1) are a matter of session startup only.
package rtmfp
