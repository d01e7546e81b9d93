package rendezvous

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/stilenet/stile/rtmfp"
)

// EventKind says what happened.
type EventKind uint8

// The kinds of events.
const (
	EventUnknown   EventKind = iota
	EventConnected           // Session is new
	EventEnded               // Session has ended: Reason
	EventRefused             // Client, or Session if it has one, was refused: Refusal; Count times since the last such event
	EventMixed               // Session is of another kind of address than others: some are private, some public
)

// Event is something for the log.
type Event struct {
	Kind    EventKind
	At      time.Time
	Session Session
	Client  netip.AddrPort
	Reason  rtmfp.Reason
	Refusal Refusal
	Count   uint64
}

// Refusal says why a client was refused.
type Refusal uint8

// The refusals.
const (
	RefusedUnknown       Refusal = iota
	RefusedKeyMissing            // the URL has no path, and a key is required
	RefusedKeyUnknown            // there is no such key
	RefusedKeyExpired            // the key has expired
	RefusedKeyFull               // the key has as many sessions as it may
	RefusedRevoked               // the key was revoked while the session lived
	RefusedDuplicate             // another session has its peer ID and lives
	RefusedDraining              // the service is about to end
	RefusedPerAddress            // its address has as many sessions as it may
	RefusedHandshakeRate         // its prefix has opened as many sessions as it may for now
	RefusedNoConnect             // it has sent no connect command
	refusalCount
)

func (r Refusal) String() string {
	return [...]string{"unknown", "key_missing", "key_unknown", "key_expired", "key_full", "key_revoked", "duplicate_id", "draining", "per_address",
		"handshake_rate", "no_connect"}[r]
}

func refusalOf(r KeyRefusal) Refusal {
	return map[KeyRefusal]Refusal{KeyMissing: RefusedKeyMissing, KeyUnknown: RefusedKeyUnknown, KeyExpired: RefusedKeyExpired, KeyFull: RefusedKeyFull}[r]
}

// Session is a client as the log and the administration show it.
type Session struct {
	ID         SessionID
	Peer       PeerID
	Client     netip.AddrPort // observed, in its public form
	Key        string         // the name of its key
	State      string         // opened, claiming, connected, check or goodbye
	Opened     time.Time
	Heard      time.Time // when its last packet came
	RTT        time.Duration
	Reported   []netip.AddrPort
	Names      []string
	Introduced uint32 // times that it was introduced to others
	Asked      uint32 // introductions that it has asked for
}

func (s clientState) String() string {
	return [...]string{"unknown", "opened", "claiming", "connected", "goodbye", "parted"}[s]
}

// describe makes the description of a client.
func (c *Core) describe(cl *client) Session {
	rtt, _ := cl.session.RTT()
	s := Session{
		ID: SessionID(cl.serial), Peer: cl.id(), Client: c.observed(cl), State: cl.state.String(),
		Opened: c.reg.epoch.Add(time.Duration(cl.opened)), Heard: cl.session.LastReceived(), RTT: rtt,
		Reported: cl.reportedAddresses(), Introduced: cl.introduced, Asked: cl.asked,
	}
	if cl.check != nil {
		s.State = "check"
	}
	if cl.key != nil {
		s.Key = cl.key.Name
	}
	if cl.registered {
		s.Names = c.reg.Names.of(s.Peer)
	}
	return s
}

// Sessions lists the clients that f passes; nil passes all.
func (c *Core) Sessions(f func(netip.Addr) bool) (out []Session) {
	for _, cl := range c.clients {
		if f == nil || f(c.observed(cl).Addr()) {
			out = append(out, c.describe(cl))
		}
	}
	return out
}

// Addresses returns the addresses of a peer: the observed one and those that it has reported; none if it is not here.
func (c *Core) Addresses(id PeerID) (out []netip.Addr) {
	p, ok := c.reg.find(id)
	if !ok || int(p.shard) != c.cfg.Shard {
		return nil
	}
	cl := c.clients[p.token]
	if cl == nil || !cl.registered {
		return nil
	}
	out = append(out, c.observed(cl).Addr())
	for _, a := range cl.reportedAddresses() {
		out = append(out, a.Addr())
	}
	return out
}

func (c *Core) emit(ev Event) {
	ev.At = c.now
	c.events = append(c.events, ev)
}

// refuse counts a refusal, and tells of it unless it has told of its kind a moment ago.
func (c *Core) refuse(why Refusal, from netip.AddrPort, cl *client) {
	c.stats.Refused[why]++
	t := &c.told[why]
	t.count++
	if t.at != 0 && c.t < t.at {
		return
	}
	ev := Event{Kind: EventRefused, Client: from, Refusal: why, Count: t.count}
	if cl != nil {
		ev.Session = c.describe(cl)
	}
	*t = told{at: c.t + int64(logInterval)}
	c.emit(ev)
}

// idPrefix tells the IDs of these sessions from those of allocations.
const idPrefix = "r-"

// String writes the ID as the log and the administration show it.
func (id SessionID) String() string { return idPrefix + strconv.FormatUint(uint64(id), 36) }

// ParseSessionID reads what String has written.
func ParseSessionID(text string) (SessionID, error) {
	rest, ok := strings.CutPrefix(text, idPrefix)
	n, err := strconv.ParseUint(rest, 36, 64)
	if !ok || err != nil {
		return 0, fmt.Errorf("rendezvous: %q is no session's ID", text)
	}
	return SessionID(n), nil
}
