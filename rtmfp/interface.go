package rtmfp

import (
	"bytes"
	"net/netip"
	"slices"
	"time"
)

// Interface is one of the sockets, or a relay that works as one. The zero Interface reaches nothing; it is in the place of one
// that was removed.
type Interface struct {
	IPv4, IPv6 bool // the families of addresses that it reaches
	// Delay is how long a session is opened by other interfaces only, at addresses that AnyInterface or a Redirect gave, and
	// how long repeated FIHellos must have come before they are answered by it. It is for a relay, which is a last resort.
	Delay time.Duration
}

func (i Interface) reaches(a netip.AddrPort) bool {
	return a.IsValid() && a.Port() != 0 && (a.Addr().Is4() && i.IPv4 || a.Addr().Is6() && i.IPv6)
}

// AddInterface makes another interface usable and returns its index, which may be that of one that was removed. Sessions that
// are opened by AnyInterface try their candidates by it, too.
func (e *Endpoint) AddInterface(now time.Time, i Interface) int {
	e.clock(now)
	index := slices.Index(e.cfg.Interfaces, Interface{})
	if index < 0 {
		index = len(e.cfg.Interfaces)
		e.cfg.Interfaces = append(e.cfg.Interfaces, Interface{})
	}
	e.cfg.Interfaces[index] = i
	for _, s := range e.openings() {
		if s.state != StateIHelloSent {
			continue
		}
		for _, c := range slices.Clone(s.opening.candidates) {
			if c.any {
				s.addCandidate(Candidate{AnyInterface, c.addr})
			}
		}
	}
	return index
}

// SetDelay changes the Delay of an interface, for sessions that are opened from now on.
func (e *Endpoint) SetDelay(index int, delay time.Duration) {
	if index >= 0 && index < len(e.cfg.Interfaces) && e.cfg.Interfaces[index] != (Interface{}) {
		e.cfg.Interfaces[index].Delay = delay
	}
}

// forwardedTag is when an FIHello first came with a tag.
type forwardedTag struct {
	tag   [tagSize]byte
	first instant
}

// maxForwardedTags bounds the FIHellos that are remembered: peers that call within a few seconds.
const maxForwardedTags = 32

// sinceForwarded reports how long ago an FIHello with the tag first came. Of a tag of another size it is always now.
func (e *Endpoint) sinceForwarded(tag []byte) time.Duration {
	if len(tag) != tagSize {
		return 0
	}
	for _, f := range e.forwarded {
		if bytes.Equal(f.tag[:], tag) {
			return e.now.sub(f.first)
		}
	}
	if len(e.forwarded) >= maxForwardedTags {
		e.forwarded = e.forwarded[1:]
	}
	e.forwarded = append(e.forwarded, forwardedTag{[tagSize]byte(tag), e.now})
	return 0
}

// RemoveInterface forgets an interface. Sessions whose far end another one reaches go on by that, where the far end may take the
// change for an address change (§3.5.4.2); the others end when they have been unresponsive for too long.
func (e *Endpoint) RemoveInterface(now time.Time, index int) {
	e.clock(now)
	if index < 0 || index >= len(e.cfg.Interfaces) {
		return
	}
	e.cfg.Interfaces[index] = Interface{}
	for _, s := range e.openings() {
		o := s.opening
		o.candidates = slices.DeleteFunc(o.candidates, func(c candidate) bool { return c.iface == index })
	}
	e.paced = slices.DeleteFunc(e.paced, func(p pacedDatagram) bool { return p.Interface == index })
	var moved []*Session
	for _, s := range e.sessions {
		if s.mobility != nil && s.mobility.to.iface == index {
			s.mobility = nil
		}
		if s.far.iface == index {
			moved = append(moved, s)
		}
	}
	slices.SortFunc(moved, func(a, b *Session) int { return int(int64(a.id) - int64(b.id)) })
	for _, s := range moved {
		other := slices.IndexFunc(e.cfg.Interfaces, func(i Interface) bool { return i.reaches(s.far.addr) })
		if other < 0 {
			continue
		}
		s.far.iface = other
		if s.state == StateOpen {
			e.counters.Moved++
			e.emit(Event{Kind: EventAddressChanged, Session: s})
			s.pingAt = e.now // so that the far end comes to know
			s.touch()
		}
	}
}

// openings are the opening sessions in the order of their tags.
func (e *Endpoint) openings() (all []*Session) {
	for _, s := range e.opening {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *Session) int { return slices.Compare(a.opening.tag[:], b.opening.tag[:]) })
	return all
}

// All returns all sessions in any state from S_IHELLO_SENT to before S_CLOSED, in no order.
func (e *Endpoint) All() []*Session {
	all := make([]*Session, 0, len(e.sessions))
	for _, s := range e.sessions {
		all = append(all, s)
	}
	for _, s := range e.opening {
		if s.state == StateIHelloSent {
			all = append(all, s)
		}
	}
	return all
}
