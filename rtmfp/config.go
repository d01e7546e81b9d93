package rtmfp

import (
	"io"
	"time"
)

// From the specification.
const (
	openTimeout          = 95 * time.Second        // S_OPEN_FAILED after it (§3.5.1.1.1)
	startupBackoff       = 1500 * time.Millisecond // added to the interval between attempts (§3.5.1.1.1)
	maxRedirects         = 24                      // REDIRECT_THRESHOLD (§3.5.1.1.1)
	closeInterval        = 5 * time.Second         // between Session Close Requests (§3.5.5)
	nearCloseLimit       = 90 * time.Second        // in S_NEARCLOSE (§3.5.5)
	farCloseLinger       = 19 * time.Second        // in S_FARCLOSE_LINGER (§3.5.5)
	ertoInit             = 3 * time.Second         // §3.5.2.2
	ertoMin              = 250 * time.Millisecond  // §3.5.2.2
	ertoCap              = 10 * time.Second        // §3.5.2.2
	echoLifetime         = 128 * time.Second       // a timestamp is echoed for so long (§3.5.2.2)
	burstLimit           = 6                       // packets with user data between acknowledgements (§3.5.2.3)
	mobilityInterval     = time.Second             // between checks of a new address (§3.5.4.2)
	mobilityLifetime     = 120 * time.Second       // of a check (§3.5.4.2)
	lossNAKs             = 3                       // negative acknowledgements of a lost fragment (§3.6.2.5)
	initialWindow        = 65536                   // RX_BUFFER_SIZE before an acknowledgement (§3.6.2)
	sendLinger           = 130 * time.Second       // in F_COMPLETE_LINGER (§3.6.2.11)
	receiveLinger        = 120 * time.Second       // in RF_COMPLETE_LINGER (§3.6.3.8)
	probeMin             = time.Second             // between buffer probes (§3.6.2.9.1)
	probeMax             = time.Minute             // between buffer probes (§3.6.2.9.1)
	ackDelay             = 200 * time.Millisecond  // DELACK_ALARM (§3.6.3.2)
	timeCriticalLifetime = 800 * time.Millisecond  // a time critical notification counts for so long (§3.5.2.1)
	fragmentLifetime     = 60 * time.Second        // to receive a fragmented packet (§3.4)
	fragmentProgress     = time.Second             // without a new fragment, it does not progress (§3.4)
	fragmentBurst        = 4                       // packets of a fragmented one at once (§3.4)
	fragmentBurstBytes   = 4380                    // and their bytes (§3.4)
	fragmentBurstPeriod  = 200 * time.Millisecond  // then a pause (§3.4)
	maxMetadata          = 512                     // bytes of a flow's metadata (§2.3.11.1.1)
)

// Ours to tune.
const (
	// cookieSize is what the peers of the Flash era hard-code, whatever the RFC allows.
	cookieSize = 64
	// cookieLifetime is above the open timeout, by as much as a packet may be under way.
	cookieLifetime = 120 * time.Second
	// tagSize is what the peers of the Flash era hard-code; the RFC asks for 8 or more.
	tagSize = 16
	// amplification bounds a reply to an unproven address to so many times the bytes that it sent, on the wire.
	amplification = 3
	// forwardedPerSecond bounds the answers to FIHellos of one session: the far end names their destination.
	forwardedPerSecond = 50
	// restAfter is how long nothing may be sealed or opened before a session's keys rest: longer than the pauses of media, and
	// much shorter than a keepalive.
	restAfter = 2 * time.Second
	// unconfirmedPing is how often a new responder asks an initiator that has sent nothing yet.
	unconfirmedPing = 2 * time.Second
	// entryOverhead is what a buffered fragment costs beside its bytes, so that tiny fragments count.
	entryOverhead = 64
	// maxGaps bounds the holes in a receiving flow; a fragment that would make another is dropped unacknowledged. The
	// window of a flow holds less than so many packets at the usual sizes.
	maxGaps = 512
	// maxBurst bounds the packets that acknowledgements which were read together let go at once.
	maxBurst = 96
	// maxControl bounds the bytes of ping replies that wait for Flush in one session.
	maxControl = 8192
	// maxPaced bounds the datagrams of fragmented packets that wait for their turn, in the endpoint.
	maxPaced = 256
)

// Config is what an Endpoint is made of. Identity and Random are required; the zero of everything else works.
type Config struct {
	Identity Identity
	// Random must be unpredictable: tags, session IDs, cookies and mobility checks come from it. Only New and calls
	// that open something read it; it must not fail.
	Random io.Reader
	// Interfaces are the sockets of the endpoint, in order of preference. None means one that reaches both families. See
	// Endpoint.AddInterface.
	Interfaces []Interface
	// ForwardedHello says what an FIHello that selects this endpoint is answered with.
	ForwardedHello ForwardedHello
	// ManualPaths leaves it to the user where packets of a session go; see Session.Move.
	ManualPaths bool
	// DeferKeying gives the expensive half of a key negotiation to the user as EventKeying, to be run elsewhere.
	DeferKeying bool
	// CookieKey makes cookies. Zero means a random one. Endpoints that share an address must share it.
	CookieKey [32]byte
	// Shard and Shards divide session IDs among endpoints that share an address: SessionID(datagram) modulo Shards is
	// Shard. Shards 0 means 1; above 65536 is refused.
	Shard, Shards uint32
	// MaxDatagram is the size of the longest datagram to send, in bytes; zero means 1192, which Flash also used. At
	// least 512.
	MaxDatagram int
	// Keepalive is after how much silence of the far end it is pinged; zero means never. Session.SetKeepalive changes it.
	Keepalive time.Duration
	// RetransmitLimit is how long the far end may leave data and pings unanswered; zero means 120 s.
	RetransmitLimit time.Duration
	// IdleLimit closes a session that has had no flow for so long; zero means 300 s, negative never.
	IdleLimit time.Duration
	Limits    Limits
}

// ForwardedHello is an answer to FIHello (§3.5.1.1.2).
type ForwardedHello uint8

// The answers to an FIHello.
const (
	ForwardedHelloRHello   ForwardedHello = iota // as if it were an IHello from the reply address
	ForwardedHelloRedirect                       // an Implied Redirect to the reply address
	ForwardedHelloIgnore                         // none
)

// Limits bound what others can make an Endpoint remember. Zero means the default.
type Limits struct {
	Sessions      int // all of them; 1<<21 by default; at the limit IIKeyings are dropped and Open fails
	Opening       int // sessions this end is opening; 256 by default; at the limit Open fails
	Unconfirmed   int // responder's sessions whose far end has sent nothing under their keys; 16384; IIKeyings are dropped
	PendingKeying int // Keyings not yet given back; 1024; IIKeyings are dropped
	Candidates    int // addresses tried for one opening session, up to 24, which is the default; more are ignored
	Reassemblies  int // fragmented startup packets being received; 64; the one longest without progress goes
	Reassembly    int // bytes of one such packet; 65536; dropped
	ReceiveFlows  int // receiving flows of a session, lingering ones included; 256; user data of more is dropped
	FlowBuffer    int // bytes buffered for a receiving flow, so of one message; 8 MiB; the flow is rejected
	Buffer        int // bytes buffered for all receiving flows; 256 MiB; the flow that would pass it is rejected
	// UnconfirmedLifetime is how long a responder's session lives without a packet under its keys; 30 s.
	UnconfirmedLifetime time.Duration
}

func orDefault[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

func (l *Limits) setDefaults() {
	orDefault(&l.Sessions, 1<<21)
	orDefault(&l.Opening, 256)
	orDefault(&l.Unconfirmed, 16384)
	orDefault(&l.PendingKeying, 1024)
	orDefault(&l.Candidates, maxRedirects)
	l.Candidates = min(l.Candidates, maxRedirects)
	orDefault(&l.Reassemblies, 64)
	orDefault(&l.Reassembly, 1<<16)
	orDefault(&l.ReceiveFlows, 256)
	orDefault(&l.FlowBuffer, 8<<20)
	orDefault(&l.Buffer, 256<<20)
	orDefault(&l.UnconfirmedLifetime, 30*time.Second)
}
