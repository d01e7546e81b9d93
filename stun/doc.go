// Package stun is Stile's view of STUN messages and its Binding server.
//
// § means RFC 8489 unless another document is named. The wire format is the one of
// draft-ietf-behave-rfc3489bis-15 too, which draft-ietf-behave-turn-08 builds on; where this package does otherwise than
// RFC 8489, the code says Deviation.
//
// # Reading
//
// [Parse] checks the framing of a datagram once and gives a [Message]: a view into it, without copies and without
// allocations, for the packet path of a server. [Message.Get] finds an attribute, [Message.Attrs] walks over all that count,
// and [Message.XORAddress], [Message.Uint32] and [Message.ErrorCode] decode values. What counts follows §9 and §14: the first of
// several attributes of one type, and after MESSAGE-INTEGRITY nothing but FINGERPRINT.
//
// The order of §6.3 for a receiver is Parse, [Message.CheckFingerprint], the credentials with [Mac.Check], then
// [Message.UnknownRequired]. A Parse error, like [FingerprintInvalid], means that the datagram is dropped without an answer.
//
// # Writing
//
// [Begin] appends a message to a buffer of the caller and the methods of [Builder] append its attributes. The message is
// complete after every call. [Builder.Integrity] and [Builder.Fingerprint] come last, in this order. Buffers that are
// reused make a writer that allocates nothing.
//
// # Answering
//
// [Respond] is the whole Binding server as a pure function: a request in, a reply of at most 1.36 times its size on the wire out.
//
// Programs that are no packet path (clients, tools) may as well use github.com/pion/stun/v3. It is also the oracle of this
// package's differential fuzz test, whose table lists every message the two read differently and why.
//
// # Limitations
//
// No RFC 3489 compatibility (messages without the magic cookie are refused), no MESSAGE-INTEGRITY-SHA256, USERHASH or
// PASSWORD-ALGORITHMS, no string preparation of user names and passwords (bytes are compared as they are), no retransmission and no
// DNS discovery. A message has at most [MaxAttributes] attributes.
package stun
