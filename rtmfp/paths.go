package rtmfp

import (
	"crypto/hmac"
	"encoding/binary"
	"slices"
	"time"
)

// A path is an interface with an address of the far end. Normally the address of a session follows the far end (§3.5.4.2).
// With Config.ManualPaths the user decides: EventPathSeen tells of a path that the far end sends by, Probe asks by one, EventPath tells
// of the answer, and Move alone changes where packets go. It is for endpoints with a relay, where several
// paths work at once, so that "where the last packet came from" says nothing.

// Path returns where packets of the session go; the zero with an invalid address in S_IHELLO_SENT.
func (s *Session) Path() Candidate { return Candidate{s.far.iface, s.far.addr} }

// Candidates returns the addresses at which the session was tried before it opened. The caller owns the slice.
func (s *Session) Candidates() []Candidate {
	if s.opening == nil {
		return append([]Candidate(nil), s.tried...)
	}
	return s.opening.tried()
}

func (o *opening) tried() []Candidate {
	list := make([]Candidate, len(o.candidates))
	for i, c := range o.candidates {
		list[i] = Candidate{c.iface, c.addr}
	}
	return list
}

// PathHeard is when the last packet came by Path.
func (s *Session) PathHeard() time.Time { return s.e.epoch.Add(time.Duration(s.pathHeard)) }

// UnansweredSince reports since when the far end owes an answer to data or to a ping. ok is false if it does not.
func (s *Session) UnansweredSince() (at time.Time, ok bool) {
	return s.e.epoch.Add(time.Duration(s.unanswered)), s.unanswered != never
}

// Transmissions counts the fragments that were sent, again or for the first time, and those of them that were taken for lost.
func (s *Session) Transmissions() (sent, lost uint64) { return s.sent, s.lost }

// Probe asks by a path whether the far end is there. An answer is an EventPath. Only with Config.ManualPaths.
// Errors: ErrState, also without an authenticated cipher (§5); ErrCandidate.
func (s *Session) Probe(now time.Time, c Candidate) error {
	s.e.clock(now)
	p, err := s.manualPath(c)
	if err != nil {
		return err
	}
	s.sendProbe(p)
	return nil
}

// Move makes a path that of the session. What is on its way by another is not lost. Errors: as of Probe.
func (s *Session) Move(now time.Time, c Candidate) error {
	s.e.clock(now)
	p, err := s.manualPath(c)
	if err != nil {
		return err
	}
	if p != s.far {
		s.move(p)
		s.pathHeard = s.e.now
		s.touch()
	}
	return nil
}

func (s *Session) manualPath(c Candidate) (path, error) {
	switch {
	case s.state != StateOpen || !s.e.cfg.ManualPaths || !s.keys.Authenticated():
		return path{}, ErrState
	case c.Interface < 0 || c.Interface >= len(s.e.cfg.Interfaces) || !s.e.cfg.Interfaces[c.Interface].reaches(c.Addr):
		return path{}, ErrCandidate
	}
	return path{c.Interface, c.Addr}, nil
}

// Sizes of a check: a mark and the time, the path for a probe, and the hash.
const (
	checkHead = 1 + 8
	checkMAC  = 16
)

// sendCheck sends a ping that proves, when it comes back, that the far end is at the path (§3.5.4.2).
func (s *Session) sendCheck(to path) {
	message := binary.BigEndian.AppendUint64([]byte{'M'}, uint64(s.e.now))
	s.sendControl(to, AppendChunk(nil, ChunkPing, append(message, s.e.mobilityMAC(s.id, message, to)...)))
}

// answersCheck says whether the reply that came by a path is to a check that was sent there, and when it was sent.
func (s *Session) answersCheck(from path, reply []byte) (sent instant, ok bool) {
	if len(reply) != checkHead+checkMAC || reply[0] != 'M' {
		return 0, false
	}
	sent = instant(binary.BigEndian.Uint64(reply[1:]))
	if sent > s.e.now || s.e.now.sub(sent) > mobilityLifetime {
		return 0, false
	}
	return sent, hmac.Equal(reply[checkHead:], s.e.mobilityMAC(s.id, reply[:checkHead], from))
}

// sendProbe sends a ping that names the path that it takes.
func (s *Session) sendProbe(to path) {
	message := binary.BigEndian.AppendUint64([]byte{'P'}, uint64(s.e.now))
	message = AppendAddress(append(message, byte(to.iface)), Address{AddrPort: to.addr})
	s.sendControl(to, AppendChunk(nil, ChunkPing, append(message, s.e.mobilityMAC(s.id, message, to)...)))
}

// answersProbe says by which path a probe went that this is the reply to, wherever it comes from. Deviation: §3.5.4.2 asks that the
// reply come from there. Between two NATs that map by destination, whose filters let everything in, it comes from elsewhere
// for ever. That it comes at all, authentic, proves as much: what is sent by the path arrives.
func (s *Session) answersProbe(reply []byte) (to path, sent instant, ok bool) {
	if len(reply) < checkHead+1+checkMAC || reply[0] != 'P' {
		return path{}, 0, false
	}
	message, mac := reply[:len(reply)-checkMAC], reply[len(reply)-checkMAC:]
	a, rest, err := ParseAddress(message[checkHead+1:])
	if err != nil || len(rest) != 0 {
		return path{}, 0, false
	}
	to = path{int(message[checkHead]), a.AddrPort}
	sent = instant(binary.BigEndian.Uint64(message[1:]))
	if sent > s.e.now || s.e.now.sub(sent) > mobilityLifetime || to.iface >= len(s.e.cfg.Interfaces) || !s.e.cfg.Interfaces[to.iface].reaches(to.addr) {
		return path{}, 0, false
	}
	return to, sent, hmac.Equal(mac, s.e.mobilityMAC(s.id, message, to))
}

// seenPath is when the user was last told of a path.
type seenPath struct {
	path
	at instant
}

// maxSeen is how many paths are told apart: the far end's probes come by several at once.
const maxSeen = 8

// pathSeen tells the user that the far end sends by a path, once a second for each.
func (s *Session) pathSeen(m *mobility, from path) {
	i := slices.IndexFunc(m.seen, func(p seenPath) bool { return p.path == from })
	switch {
	case i >= 0 && s.e.now.sub(m.seen[i].at) < mobilityInterval:
		return
	case i >= 0:
		m.seen[i].at = s.e.now
	case len(m.seen) < maxSeen:
		m.seen = append(m.seen, seenPath{from, s.e.now})
	default:
		i = 0
		for j := range m.seen {
			if m.seen[j].at < m.seen[i].at {
				i = j
			}
		}
		m.seen[i] = seenPath{from, s.e.now}
	}
	s.e.emit(Event{Kind: EventPathSeen, Session: s, Path: Candidate{from.iface, from.addr}})
}

// pathAnswered tells the user of a path.
func (s *Session) pathAnswered(to path, rtt time.Duration) {
	s.e.emit(Event{Kind: EventPath, Session: s, Path: Candidate{to.iface, to.addr}, RTT: rtt})
}
