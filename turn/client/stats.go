package client

// Stats counts the messages of the server since the Conn was made: Read = Delivered + Responses + the sum of Dropped.
type Stats struct {
	Read      uint64           // messages read, from whomever
	Delivered uint64           // payloads of peers, handed to ReadFrom
	Responses uint64           // answers to our requests
	Dropped   [numDrops]uint64 // the rest, by Drop
	Discarded uint64           // payloads of WriteTo that no permission could be had for
}

// Drop says why a message was ignored.
type Drop uint8

// The reasons.
const (
	DropMalformed   Drop = iota + 1 // not a message, or one without the attributes that its kind needs
	DropFingerprint                 // a wrong FINGERPRINT
	DropForeign                     // not from the server's address
	DropUnasked                     // a response to no request of ours, or to one that has ended
	DropIntegrity                   // a response that should be signed with the password and is not
	DropUnexpected                  // a request, or an indication other than Data
	DropUnknown                     // a Data indication with attributes that must be understood and are not
	DropChannel                     // ChannelData for a number that is bound to no peer
	DropICMP                        // a Data indication that reports an ICMP error instead of data
	DropFull                        // ReadFrom was not called in time
	numDrops
)

// String is a word for a metric's label.
func (d Drop) String() string {
	switch d {
	case DropMalformed:
		return "malformed"
	case DropFingerprint:
		return "fingerprint"
	case DropForeign:
		return "foreign"
	case DropUnasked:
		return "unasked"
	case DropIntegrity:
		return "integrity"
	case DropUnexpected:
		return "unexpected"
	case DropUnknown:
		return "unknown_attribute"
	case DropChannel:
		return "channel"
	case DropICMP:
		return "icmp"
	case DropFull:
		return "full"
	}
	return "none"
}
