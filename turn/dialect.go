package turn

// Dialect is what an allocation turned out to speak. It begins unknown and is set by the first message that only
// one of the two would send.
type Dialect uint8

// The dialects.
const (
	DialectUnknown Dialect = iota
	DialectLegacy          // draft-08 and its neighbours: Send, ChannelBind and ChannelData open permissions
	DialectModern          // RFC 5766 and RFC 8656: CreatePermission and ChannelBind do
)

func (d Dialect) String() string {
	switch d {
	case DialectLegacy:
		return "draft-08"
	case DialectModern:
		return "rfc8656"
	}
	return "unknown"
}
