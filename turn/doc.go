// Package turn is a TURN server without a socket: the protocol, the allocations, the policy.
//
// § without a document means draft-ietf-behave-turn-08, the draft that Flash Player speaks; RFC 8656 is named where
// it is meant. Both dialects share one wire format, so there is one server and a [Dialect] for each allocation that decides
// the few things in which they differ.
//
// A [Core] takes the time and the bytes of a datagram and leaves the datagrams to send: it has no socket, no clock,
// no goroutine and no lock, so the simulator runs it as it is. A server has one Core for each shard; what all
// shards must count together (ports, quotas, budgets) is in one [Ledger], which only control messages touch.
// [Policy] says who may use the relay and whom it may reach. The sockets are the business of turn/dataplane.
//
//	                 Core (one for each shard)                     Ledger (one for a server)
//	client ──Input──▶ tuple ─▶ allocation ─┬─▶ permission (IP)     relayed ports, quarantine
//	       ◀─Output── (5-tuple)            └─▶ channel (IP, port)  quotas by client and prefix
//	peer   ──Input──▶ relayed port ─┘                              unanswered peers, reply bytes
//
// # Limitations
//
// No DTLS and no TLS; no TCP allocations (RFC 6062); no mobility (RFC 8016); ADDITIONAL-ADDRESS-FAMILY is always
// answered with one address and an ADDRESS-ERROR-CODE; ICMP is not relayed; REQUESTED-PROPS with P
// (preserving allocations) is answered with 508, as §6.2 has it for a server that cannot.
package turn
