// Package stun is Stile's view of STUN messages and its Binding server.
//
// § means RFC 8489 unless another document is named. The wire format is the one of
// draft-ietf-behave-rfc3489bis-15 too, which draft-ietf-behave-turn-08 builds on; where they differ the code says so.
//
// [Parse] gives a [Message]: a view into the datagram, checked once, without copies and without allocations, for the
// packet path of a server. [Begin] and the methods of [Builder] append a message to a buffer of the caller.
// [Respond] is the whole Binding server as a pure function. Programs that are no packet path (clients, tools) may as
// well use github.com/pion/stun/v3, which is also the oracle that this package is fuzzed against.
//
// # Limitations
//
// No RFC 3489 compatibility (messages without the magic cookie are refused), no MESSAGE-INTEGRITY-SHA256, no
// PASSWORD-ALGORITHMS, no string preparation of user names (bytes are compared as they are).
package stun
