package turn

import (
	"net/netip"
	"strconv"
	"time"
)

// SessionID names an allocation in logs and in the control commands. It is unique while the server runs.
type SessionID uint64

func (id SessionID) String() string { return strconv.FormatUint(uint64(id), 36) }

// ParseSessionID reads what String printed.
func ParseSessionID(s string) (SessionID, error) {
	n, err := strconv.ParseUint(s, 36, 64)
	return SessionID(n), err
}

// EndReason says why an allocation ended.
type EndReason uint8

// The reasons.
const (
	EndUnknown  EndReason = iota
	EndReleased           // Refresh with LIFETIME 0
	EndExpired            // not refreshed
	EndStream             // its TCP connection closed
	EndEvicted            // unconfirmed, and its place was needed
	EndKilled             // by the administrator
	EndPolicy             // the policy changed and refuses the client
	EndModern             // it spoke the modern dialect without credentials
	EndQuota              // the client had all it may have when it was to be confirmed
	EndShutdown           // the server ended
	EndBug                // the core panicked, and with it all allocations of its shard ended
	endReasons
)

var endReasonNames = [endReasons]string{"unknown", "released", "expired", "stream-closed", "evicted", "killed", "policy", "modern-dialect", "quota", "shutdown", "bug"}

func (r EndReason) String() string {
	if r >= endReasons {
		return endReasonNames[EndUnknown]
	}
	return endReasonNames[r]
}

// Session is what there is to say about an allocation. It is a copy.
type Session struct {
	ID             SessionID
	Client, Server netip.AddrPort // the 5-tuple
	Stream         bool           // over TCP
	Relayed        netip.AddrPort // in its public form
	Dialect        Dialect
	User           string // empty without credentials
	Confirmed      bool
	Started        time.Time
	Expires        time.Time
	Permissions    int
	Channels       int
	Peers          int // permissions ever opened
	LastPeer       netip.AddrPort
	PacketsUp      uint64 // to peers
	BytesUp        uint64
	PacketsDown    uint64 // to the client
	BytesDown      uint64
}

// EventKind says what an Event reports.
type EventKind uint8

// The kinds.
const (
	EventUnknown   EventKind = iota
	EventStarted             // an allocation was confirmed: Session
	EventEnded               // a confirmed allocation ended: Session, Reason
	EventPeer                // a permission for a new peer was opened: Session, Peer
	EventRefused             // the policy refused somebody: Client or Session, Peer, Rule. Sampled: Count is how many since the last one
	EventOpenError           // the system would not open a relayed port: Err
	EventBug                 // the core panicked and another took its place: Err, with the stack. Sampled like EventRefused
	EventTrace               // a control message of a traced allocation: Session.ID, Out, Data. ID 0: TraceNext, without an allocation
)

// Event is something that an administrator may want to know. Events are rare: none is made for relayed packets.
type Event struct {
	Kind    EventKind
	At      time.Time
	Session Session
	Reason  EndReason
	Client  netip.AddrPort
	Peer    netip.AddrPort
	Rule    Rule
	Count   uint64
	Out     bool   // EventTrace: the server sent it
	Data    []byte // EventTrace: the scrubbed message, owned by the receiver
	Err     error
}
