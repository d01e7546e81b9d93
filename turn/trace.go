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
}

// Ours to tune.
const (
	maxTraces      = 16   // traced allocations of one shard
	maxTraceEvents = 1000 // messages of one trace
)

func (t *traces) any() bool { return len(t.sessions) > 0 }

func (t *traces) forget(id SessionID) { delete(t.sessions, id) }

// Trace begins to report the control messages of an allocation as events of EventTrace, scrubbed, at most 1,000 of them.
// It reports false when there is no such allocation or 16 are traced already.
func (c *Core) Trace(now time.Time, id SessionID) bool {
	c.begin(now)
	i, ok := c.sessions[id]
	return ok && c.startTrace(&c.allocs[i])
}

// TraceNext traces the next allocations of these clients from their Allocate request on, count of them.
func (c *Core) TraceNext(clients netip.Prefix, count int) {
	c.traces.next, c.traces.count = clients, count
}

// Untrace ends a trace.
func (c *Core) Untrace(id SessionID) { c.traces.forget(id) }

func (c *Core) startTrace(a *allocation) bool {
	if len(c.traces.sessions) >= maxTraces {
		return false
	}
	if c.traces.sessions == nil {
		c.traces.sessions = make(map[SessionID]*scrubber)
	}
	c.traces.sessions[a.id] = newScrubber(a)
	return true
}

// traceNew traces an allocation from its first message if its client was named.
func (c *Core) traceNew(a *allocation, m stun.Message) {
	if c.traces.count == 0 || !c.traces.next.Contains(a.source.Client.Addr()) {
		return
	}
	c.traces.count--
	if c.startTrace(a) {
		c.trace(a.id, false, m)
	}
}

func (c *Core) trace(id SessionID, out bool, m stun.Message) {
	if !c.traces.any() {
		return
	}
	s := c.traces.sessions[id]
	if s == nil {
		return
	}
	if s.left--; s.left < 0 {
		c.traces.forget(id)
		return
	}
	c.events = append(c.events, Event{Kind: EventTrace, At: c.clock, Session: Session{ID: id}, Out: out, Data: s.scrub(m)})
}

// scrubber rewrites messages so that they still show what a client does, and replay, but not who talks to whom and what: payload and
// credentials become zeros of the same length, addresses become documentation addresses, each always the same.
type scrubber struct {
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

func newScrubber(a *allocation) *scrubber {
	s := &scrubber{names: make(map[netip.Addr]netip.Addr), left: maxTraceEvents}
	client, relay := traceClient4, traceRelay4
	if a.source.Client.Addr().Is6() {
		client = traceClient6
	}
	if a.relayed.Addr().Is6() {
		relay = traceRelay6
	}
	s.names[a.relayed.Addr()] = relay
	s.names[a.source.Client.Addr()] = client
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
		case stun.AttrData, stun.AttrUsername, stun.AttrRealm, stun.AttrNonce, stun.AttrMessageIntegrity, stun.AttrReservationToken:
			b.Attr(it.Type, make([]byte, len(it.Value)))
		case stun.AttrFingerprint:
		default:
			b.Attr(it.Type, it.Value)
		}
	}
	if m.Has(stun.AttrFingerprint) {
		b.Fingerprint()
	}
	return b.Bytes()
}
