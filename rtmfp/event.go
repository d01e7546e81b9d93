package rtmfp

import (
	"net/netip"
	"time"
)

// EventKind says what happened.
type EventKind uint8

// The kinds of events, with the fields of Event that they set beside Session.
const (
	EventUnknown        EventKind = iota
	EventHello                    // an IHello selects another identity: Hello; no Session
	EventKeying                   // Keying is to be run and given to Keyed; no Session
	EventSessionOpen              // S_OPEN
	EventSessionFailed            // an opening session ended: Reason; Other for ReasonDuplicate and ReasonGlare
	EventSessionClosing           // left S_OPEN: Reason. All its flows are aborted, without further events
	EventSessionClosed            // S_CLOSED after EventSessionClosing; the endpoint has forgotten it
	EventAddressChanged           // the far end has moved: Session.FarAddress
	EventPath                     // the far end answers what was sent by Path: RTT; only with Config.ManualPaths
	EventPathSeen                 // the far end sends by Path, which is not Session.Path; once a second, only with Config.ManualPaths
	EventForwarded                // an FIHello that selects this end came by Session, for Path.Addr; only with Config.ManualPaths
	EventFlowOpen                 // the far end opened Receive, which is RF_OPEN
	EventMessage                  // Receive delivers Data; Sequence, Lost
	EventFlowComplete             // Receive has delivered everything; Lost if not every message
	EventFlowRejected             // the endpoint itself rejected Receive, after EventFlowOpen
	EventFlowException            // the far end rejected Send with Code; the flow closes
	EventFlowFinished             // every sequence number of Send, which was closed, is acknowledged
	EventSendable                 // the queue of Send has drained to its LowWater
)

func (k EventKind) String() string {
	names := [...]string{"unknown", "hello", "keying", "session-open", "session-failed", "session-closing", "session-closed", "address-changed",
		"path", "path-seen", "forwarded", "flow-open", "message", "flow-complete", "flow-rejected", "flow-exception", "flow-finished", "sendable"}
	if int(k) < len(names) {
		return names[k]
	}
	return "unknown"
}

// Event tells the user of an Endpoint what happened. Data belongs to the user.
type Event struct {
	Kind     EventKind
	Reason   Reason
	Lost     bool // messages before this one, or before the end, were abandoned by the sender
	Session  *Session
	Other    *Session
	Receive  *ReceiveFlow
	Send     *SendFlow
	Hello    *Hello
	Keying   *Keying
	Data     []byte
	Sequence uint64 // of the first fragment of the message
	Code     uint64
	Path     Candidate
	RTT      time.Duration
}

// Reason says why a session ended.
type Reason uint8

// The reasons.
const (
	ReasonUnknown      Reason = iota
	ReasonNear                // Session.Close
	ReasonAbort               // Session.Abort
	ReasonIdle                // no flow for Config.IdleLimit; closed in order
	ReasonFar                 // the far end sent a Close Request
	ReasonFarAbort            // the far end sent a Close Ack
	ReasonOverride            // the same identity opened a new session from the same address (§3.5.1.1.2)
	ReasonUnresponsive        // nothing came for Config.RetransmitLimit though there was something to answer
	ReasonUnconfirmed         // the initiator never used the session
	ReasonTimeout             // not open within 95 s (§3.5.1.1.1)
	ReasonDuplicate           // there is a session with this identity already: Other (§3.5.1.1.1)
	ReasonGlare               // the far end's own opening prevailed, and became Other (§3.5.1.3)
)

func (r Reason) String() string {
	names := [...]string{"unknown", "near", "abort", "idle", "far", "far-abort", "override", "unresponsive", "unconfirmed", "timeout", "duplicate", "glare"}
	if int(r) < len(names) {
		return names[r]
	}
	return "unknown"
}

// Hello is an IHello for another identity. A Redirector or Forwarder answers it (§3.5.1.4, §3.5.1.5); silence is an answer.
type Hello struct {
	EPD, Tag  []byte
	From      netip.AddrPort
	Interface int
	budget    int // bytes on the wire that may still be sent for it
}

func (e *Endpoint) emit(ev Event) { e.events = append(e.events, ev) }
