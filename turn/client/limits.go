package client

import "time"

// From the specification.
const (
	rto              = 500 * time.Millisecond // first retransmission, doubled each time (RFC 5389 §7.2.1)
	maxSends         = 7                      // Rc
	lastWait         = 16 * rto               // Rm x RTO after the last send: 39.5 s in all
	streamTimeout    = 39500 * time.Millisecond
	defaultLifetime  = 600 * time.Second // §6.2
	maxLifetime      = time.Hour         // §6.2, recommended
	permissionLife   = 300 * time.Second // §8
	channelLife      = 600 * time.Second // §10
	channelGuard     = 300 * time.Second // RFC 8656 §12: neither number nor peer may be used anew for so long
	refreshLead      = 60 * time.Second  // §7
	firstChannel     = 0x4000
	lastChannel      = 0x4FFF // RFC 8656 §12; valid in every dialect
	maxPorts         = 3      // §6.3: local ports tried against 437
	quarantine       = 2 * time.Minute
	retryAfter       = time.Minute     // §6.3: after 486 and 508
	probeSilence     = 2 * time.Second // Auto: a server silent for so long about CreatePermission is a draft-08 server
	udpProtocol      = 17              // REQUESTED-TRANSPORT
	channelHeader    = 4               // bytes, §10.4
	indicationHeader = 20 + 4 + 20 + 4 // bytes of a Send indication for an IPv6 peer, without DATA's value

	// MaxPayload is the longest payload, in bytes, that WriteTo takes: what one UDP datagram over IPv4 has room for
	// besides the header of a Send indication for an IPv6 peer, padding included.
	MaxPayload = (65507 - indicationHeader) &^ 3
)

// Ours to tune.
const (
	// MaxPeers bounds the peers, and separately the permissions, a Conn keeps warm. One video phone has a handful, a
	// full mesh tens. When it is full the least recently written one lapses.
	MaxPeers = 1024
	// maxChannels bounds the numbers in use, so that most peers can be forgotten at any time: a number cannot be given
	// to another peer for 15 minutes.
	maxChannels = 256
	// defaultChannelAfter: an RTMFP handshake is two datagrams; a peer that gets 16 is in a session.
	defaultChannelAfter = 16
	// permissionWarm is how often a Send keeps a permission. There is no answer, so it leaves room for two lost ones.
	permissionWarm = 100 * time.Second
	// permissionRenew is when CreatePermission is repeated: a transaction of 39.5 s still ends within the 300 s.
	permissionRenew = 240 * time.Second
	// channelRenew is when ChannelBind is repeated, by the same reckoning.
	channelRenew = 540 * time.Second
	// refusedFor is how long a refused permission is not asked for again.
	refusedFor = 30 * time.Second
	// unboundFor is how long no channel is asked for after the server refused one.
	unboundFor = 10 * time.Minute
	// refreshAgain is the pause after a Refresh that the server refused without saying that the allocation is gone.
	refreshAgain = 5 * time.Second
	// defaultKeepalive holds the mapping of a NAT between client and server: 30 s is the shortest seen in practice.
	defaultKeepalive = 25 * time.Second

	// Datagrams held for one peer, and for all, until the server has granted the permission.
	heldDatagrams = 16
	heldBytes     = 256 << 10
	// What ReadFrom has not taken yet. More is dropped, as a socket's buffer would.
	queueDatagrams = 512
	queueBytes     = 1 << 20
	// Datagrams waiting for a TCP connection. Behind them WriteTo waits.
	streamQueue = 64
	// streamStall is how long a server may refuse to read before its TCP connection counts as dead.
	streamStall = 30 * time.Second
	// closeWait is how long Close waits for the answer to its Refresh: one retransmission.
	closeWait = time.Second
	// maxTries bounds how often one request is repeated with other credentials.
	maxTries = 3
	// maxHops bounds how often ALTERNATE-SERVER is followed.
	maxHops = 3
	// readErrors in a row mean that the socket is of no use any more.
	readErrors = 16

	// Delays of the race between the ways to a server.
	familyDelay = 250 * time.Millisecond // between addresses (RFC 8305 §5)
	streamDelay = time.Second            // before TCP: two retransmissions over UDP
	serverDelay = 2 * time.Second        // before the next server
	maxAddrs    = 4                      // addresses of one name
	maxServers  = 16

	maxReason     = 128 // bytes of a server's reason phrase
	maxUnknown    = 16  // attributes of a 420
	maxCredential = 763 // bytes of USERNAME, REALM and NONCE (RFC 8489 §14)
	addrCache     = 1024
)
