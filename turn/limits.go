package turn

// Limits bounds what clients can use. A zero means no limit of that kind, except where the field says otherwise.
// DefaultLimits has the values for a server that nobody has configured.
type Limits struct {
	// Allocations is how many may live at once on the whole server, unconfirmed ones included. Zero: as many as there are ports.
	Allocations int
	// PerClient is how many confirmed allocations, and relayed ports of theirs still in quarantine, one client address may have. It is
	// also how many peers that do not answer the address may begin to send to in five minutes, at least 128, while there is a budget for
	// unanswered peers: a proxy is no port scanner.
	PerClient int
	// PerClientPrefix is the same for a /24 or, with IPv6, a /56.
	PerClientPrefix int
	// Unconfirmed is how many allocations may wait for their first valid Send, Refresh or ChannelBind; a newcomer
	// evicts the oldest. Zero means DefaultLimits' value: nothing may be stored without a bound for an address that has not proved itself.
	Unconfirmed int
	// Permissions and Channels bound one allocation's tables. Zero means DefaultLimits' value.
	Permissions, Channels int
	// BytesPerSecond and PacketsPerSecond bound one allocation, both directions together; a burst of one second is
	// let through.
	BytesPerSecond, PacketsPerSecond int
	// ReplyBytesPerPrefix is how many bytes a second, IP and UDP headers included, all unproven addresses of one
	// /24 or /56 are answered over UDP.
	ReplyBytesPerPrefix int
	// UnansweredPackets and UnansweredBytes are what one allocation may send in ten minutes to a peer address that has not
	// answered it, and UnansweredAllClients times that is what all clients together may. Both zero: no such budget.
	UnansweredPackets, UnansweredBytes, UnansweredAllClients int
}

// DefaultLimits is what the configuration has as defaults.
func DefaultLimits() Limits {
	return Limits{
		PerClient:            1024,    // an office behind one address, and a sixteenth of the default port range
		PerClientPrefix:      4096,    // a quarter of the default port range
		Unconfirmed:          1024,    // a second of 1,000 players starting at once; under 1 MB, kernel sockets included 5 MB
		Permissions:          128,     // peers of one player; a full mesh of Flash is 8
		Channels:             128,     // one for each permission
		BytesPerSecond:       2 << 20, // 16 Mbit/s, several video calls
		PacketsPerSecond:     5000,    // the same in packets of 400 bytes
		ReplyBytesPerPrefix:  1 << 18, // 3,000 answers to Allocate a second
		UnansweredPackets:    20,      // RTMFP's start takes 11 over 95 s
		UnansweredBytes:      16 << 10,
		UnansweredAllClients: 4,
	}
}

// Ours to tune.
const (
	maxTombstones   = 4096    // ended allocations remembered for 40 s, for each shard; the oldest goes first
	maxUnanswered   = 1 << 16 // peer addresses with a shared unanswered budget; the oldest goes first
	maxReservations = 1024    // ports reserved by EVEN-PORT with R within 30 s; more are refused with 508
	replyBuckets    = 1 << 14 // hashed prefixes with a reply budget, and clients with one of silent peers; a collision makes it smaller, never larger

	silentPeersAtLeast = 128 // peers of one client in five minutes that do not answer: the permissions of one allocation
	openTries          = 8   // ports tried when another program holds the first ones
	maxPeersPerPerm    = 32  // addresses in one CreatePermission
	clientPrefixIPv4   = 24  // bits
	clientPrefixIPv6   = 56  // bits: what one site is given
)
