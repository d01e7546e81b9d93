package rtmfp

// ParseError says why bytes from the network do not parse. Values are constants, so that returning one costs nothing
// and a counter can be indexed by it.
type ParseError uint8

// The parse errors.
const (
	ErrTruncated     ParseError = iota + 1 // a field, a type or a list ends before it should
	ErrRange                               // a VLU above 64 bits, or a sequence number above MaxSequence
	ErrMode                                // packet mode 0 (§2.2.4)
	ErrEmptyFragment                       // a packet fragment without bytes (§2.3.1)
	ErrFSNOffset                           // fsnOffset is 0 without abandon, or above the sequence number (§2.3.11)
)

var parseErrors = [...]string{
	ErrTruncated:     "rtmfp: truncated",
	ErrRange:         "rtmfp: number out of range",
	ErrMode:          "rtmfp: packet mode 0",
	ErrEmptyFragment: "rtmfp: empty packet fragment",
	ErrFSNOffset:     "rtmfp: impossible fsnOffset",
}

func (e ParseError) Error() string {
	if int(e) < len(parseErrors) && parseErrors[e] != "" {
		return parseErrors[e]
	}
	return "rtmfp: unknown parse error"
}
