package turn

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/stilenet/stile/stun"
)

// traces says which allocations are traced, and hides in their messages what is nobody's business.
type traces struct {
	sessions map[SessionID]*scrubber
	next     netip.Prefix // clients whose next allocations are traced from their beginning
	count    int          // how many of them
	refused  int          // how many refused requests of theirs are still reported
}

// Ours to tune.
const (
	maxTraces      = 16   // traced allocations of one shard
	maxTraceEvents = 1000 // messages of one trace
	maxTraceRefuse = 32   // refused requests without an allocation that one TraceNext reports
)

// of returns the scrubber of a traced allocation, or nil.
func (t *traces) of(id SessionID) *scrubber {
	if len(t.sessions) == 0 {
		return nil
	}
	return t.sessions[id]
}

func (t *traces) forget(id SessionID) { delete(t.sessions, id) }

// Trace begins to report the control messages of an allocation as events of EventTrace, scrubbed, at most 1,000 of them.
// It reports false when there is no such allocation or 16 are traced already.
func (c *Core) Trace(now time.Time, id SessionID) bool {
	c.begin(now)
	i, ok := c.sessions[id]
	return ok && c.startTrace(&c.allocs[i])
}

// TraceNext traces the next allocations of these clients from their Allocate request on, count of them. Requests of theirs
// that are refused and belong to no allocation are reported as well, with a Session.ID of 0, at most 32 of them.
// A count of 0 ends that.
func (c *Core) TraceNext(clients netip.Prefix, count int) {
	c.traces.next, c.traces.count, c.traces.refused = clients, count, maxTraceRefuse
}

// Untrace ends a trace.
func (c *Core) Untrace(id SessionID) { c.traces.forget(id) }

func (c *Core) startTrace(a *allocation) bool {
	if c.traces.of(a.id) != nil {
		return true
	}
	if len(c.traces.sessions) >= maxTraces {
		return false
	}
	if c.traces.sessions == nil {
		c.traces.sessions = make(map[SessionID]*scrubber)
	}
	c.dropFlows(c.sessions[a.id], none, none) // their indications are messages to trace
	c.traces.sessions[a.id] = newScrubber(a.id, a.source.Client.Addr(), a.relayed.Addr())
	return true
}

// tracesNext reports whether what the client does next is to be traced.
func (c *Core) tracesNext(client netip.Addr) bool {
	return c.traces.count > 0 && c.traces.next.Contains(client)
}

// traceNew traces an allocation from its first message if its client was named.
func (c *Core) traceNew(r *reply, a *allocation) {
	if !c.tracesNext(a.source.Client.Addr()) {
		return
	}
	c.traces.count--
	if c.startTrace(a) {
		r.trace = c.traces.of(a.id)
		c.trace(r.trace, false, r.m)
	}
}

// traceRefusal begins to trace a request that has no allocation.
func (c *Core) traceRefusal(r *reply) {
	if r.trace != nil || r.session != none || c.traces.refused == 0 || !c.tracesNext(r.src.Client.Addr()) {
		return
	}
	c.traces.refused--
	relay := traceRelay4
	if r.src.Server.Addr().Is6() {
		relay = traceRelay6
	}
	r.trace = newScrubber(0, r.src.Client.Addr(), relay)
	c.trace(r.trace, false, r.m)
}

func (c *Core) trace(s *scrubber, out bool, m stun.Message) {
	if s == nil {
		return
	}
	if s.left--; s.left < 0 {
		c.traces.forget(s.id)
		return
	}
	c.events = append(c.events, Event{Kind: EventTrace, At: c.clock, Session: Session{ID: s.id}, Out: out, Data: s.scrub(m)})
}

// scrubber rewrites messages so that they still show what a client does, and replay, but not who talks to whom and what:
// addresses become documentation addresses, each always the same one, and every value that is not known to be harmless
// becomes zeros of its length.
type scrubber struct {
	id    SessionID
	names map[netip.Addr]netip.Addr
	left  int
}

// The first names of a scrubbed trace: the client's own address and the relayed one. Peers get 203.0.113.1 and so
// on, or 2001:db8:3::1.
var (
	traceClient4 = netip.MustParseAddr("192.0.2.1")
	traceClient6 = netip.MustParseAddr("2001:db8:1::1")
	traceRelay4  = netip.MustParseAddr("198.51.100.1")
	traceRelay6  = netip.MustParseAddr("2001:db8:2::1")
	tracePeers6  = netip.MustParseAddr("2001:db8:3::")
)

func newScrubber(id SessionID, client, relayed netip.Addr) *scrubber {
	s := &scrubber{id: id, names: make(map[netip.Addr]netip.Addr), left: maxTraceEvents}
	s.names[relayed], s.names[client] = traceRelay4, traceClient4
	if relayed.Is6() {
		s.names[relayed] = traceRelay6
	}
	if client.Is6() {
		s.names[client] = traceClient6
	}
	return s
}

func (s *scrubber) name(a netip.AddrPort) netip.AddrPort {
	n, ok := s.names[a.Addr()]
	if !ok {
		k := len(s.names) - 1
		if a.Addr().Is4() {
			n = netip.AddrFrom4([4]byte{203, 0, 113, byte(k)})
		} else {
			v := tracePeers6.As16()
			binary.BigEndian.PutUint16(v[14:], uint16(k))
			n = netip.AddrFrom16(v)
		}
		if len(s.names) < 256 { // more peers than names share them
			s.names[a.Addr()] = n
		}
	}
	return netip.AddrPortFrom(n, a.Port())
}

// scrub returns a copy that shares nothing with m.
func (s *scrubber) scrub(m stun.Message) []byte {
	b := stun.Begin(make([]byte, 0, len(m.Raw())), m.Type(), m.TransactionID())
	for it := m.Attrs(); it.Next(); {
		switch it.Type {
		case stun.AttrXORPeerAddress, stun.AttrXORRelayedAddress, stun.AttrXORMappedAddress:
			if a, ok := m.XORAddress(it.Value); ok {
				b.XORAddress(it.Type, s.name(a))
				continue
			}
			b.Attr(it.Type, make([]byte, len(it.Value)))
		case stun.AttrChannelNumber, stun.AttrLifetime, stun.AttrBandwidth, stun.AttrEvenPort, stun.AttrRequestedTransport,
			stun.AttrRequestedFamily, stun.AttrAdditionalFamily, stun.AttrAddressErrorCode, stun.AttrDontFragment,
			stun.AttrErrorCode, stun.AttrUnknownAttributes, stun.AttrSoftware:
			b.Attr(it.Type, it.Value)
		case stun.AttrFingerprint:
		default:
			b.Attr(it.Type, make([]byte, len(it.Value)))
		}
	}
	if m.Has(stun.AttrFingerprint) && b.Fits(4) {
		b.Fingerprint()
	}
	return b.Bytes()
}
