package rtmfp

import "fmt"

// Disposition says what became of a received datagram. Each is counted once.
type Disposition uint8

// The dispositions.
const (
	DispositionUnknown Disposition = iota
	PacketStartup                  // a startup packet, processed
	PacketSession                  // a packet of a session, processed
	DropShort                      // too short for a session ID and a packet
	DropUnknownSession             // no session has this ID
	DropIntegrity                  // does not decrypt or verify
	DropReplay                     // authentic, but a duplicate
	DropHeader                     // the plain packet has no valid header
	DropMode                       // the mode does not fit the session ID or the role
	DropClosed                     // for a session that has closed but for answering Close
	DropInterface                  // of an interface that does not exist, or from an address that cannot be answered
	dispositionCount
)

var dispositionNames = [dispositionCount]string{"unknown", "startup", "session", "short", "unknown-session", "integrity", "replay", "header",
	"mode", "closed", "interface"}

func (d Disposition) String() string {
	if d < dispositionCount {
		return dispositionNames[d]
	}
	return fmt.Sprintf("disposition-%d", uint8(d))
}

// ChunkDrop says why a chunk of a processed packet has no effect.
type ChunkDrop uint8

// The reasons.
const (
	ChunkDropUnknown     ChunkDrop = iota
	ChunkUnrecognized              // its type is unknown, or not for this mode
	ChunkMalformed                 // it does not parse
	ChunkAmplification             // its answer would be more than 3 times as long, on the wire
	ChunkTagUnknown                // an RHello or Redirect for no opening session
	ChunkCertificate               // a certificate that is not authentic, not the wanted one, or refused by the profile
	ChunkCookie                    // a cookie that is not ours or has expired
	ChunkCookieAddress             // a cookie for another address: a Cookie Change was sent, or would be too long
	ChunkSignature                 // a signature or a key component that is refused
	ChunkDuplicate                 // a repeated IIKeying or RIKeying
	ChunkGlare                     // an IIKeying while this end prevails as initiator
	ChunkStale                     // an IIKeying whose cookie is older than the session it would override
	ChunkNoOverride                // an IIKeying from the address of another identity's session
	ChunkLimit                     // a limit is reached
	ChunkReassembly                // a fragment that cannot be used, or a reassembled packet that is invalid
	ChunkForwardRate               // an FIHello over the rate of its session
	ChunkUnreachable               // an address of another family than the interfaces, or none
	ChunkFlowUnknown               // an acknowledgement, exception or probe of no flow
	ChunkFlowLimit                 // user data of a flow above the limit
	ChunkGapLimit                  // user data that would make too many holes
	ChunkAfterFinal                // user data above the final sequence number
	ChunkUnauthenticated           // an address change in a session without authentication
	chunkDropCount
)

var chunkDropNames = [chunkDropCount]string{"unknown", "unrecognized", "malformed", "amplification", "tag", "certificate", "cookie",
	"cookie-address", "signature", "duplicate", "glare", "stale", "no-override", "limit", "reassembly", "forward-rate", "unreachable", "flow-unknown",
	"flow-limit", "gap-limit", "after-final", "unauthenticated"}

func (d ChunkDrop) String() string {
	if d < chunkDropCount {
		return chunkDropNames[d]
	}
	return fmt.Sprintf("chunk-drop-%d", uint8(d))
}

// Counters count since New. Received is the sum of Packets.
type Counters struct {
	Received    uint64 // datagrams
	Sent        uint64 // datagrams
	Unsendable  uint64 // datagrams for a far end that was reached by an interface that is gone
	Packets     [dispositionCount]uint64
	Chunks      [chunkDropCount]uint64
	Opened      uint64 // sessions that became S_OPEN
	Failed      uint64 // sessions that did not
	Closed      uint64 // sessions that left S_OPEN
	Rejected    uint64 // receiving flows that the endpoint rejected by itself
	Lost        uint64 // fragments by negative acknowledgement
	TimedOut    uint64 // fragments by timeout
	Overrides   uint64 // sessions closed for a new one of the same identity
	Reassembled uint64 // startup packets from fragments
	Moved       uint64 // address changes accepted
	MovedEmpty  uint64 // of these, by an empty ping reply
}

func (e *Endpoint) drop(d ChunkDrop) { e.counters.Chunks[d]++ }

// Counters returns a copy.
func (e *Endpoint) Counters() Counters { return e.counters }
