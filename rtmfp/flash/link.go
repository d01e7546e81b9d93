package flash

import (
	"net/netip"
	"slices"
	"time"

	"github.com/stilenet/stile/rtmfp"
)

// Ours to tune.
const (
	// maxPaths bounds the paths that are remembered for one session: 24 addresses can be tried by two interfaces.
	maxPaths = 48
	// settleTime is how long all paths are compared after a session has opened, or the network has changed.
	settleTime = 5 * time.Second
	// probeInterval is between probes while paths are compared.
	probeInterval = 500 * time.Millisecond
	// suspectAfter is how long the far end may owe an answer before other paths are tried. It is above the round trip of any
	// network that carries speech.
	suspectAfter = 800 * time.Millisecond
	// A far end that was heard and is not any more is asked after quietAfter. After quietUntil it has nothing to say.
	quietAfter = 1500 * time.Millisecond
	quietUntil = 10 * time.Second
	// upgradeMin and upgradeMax are between attempts to leave a relay.
	upgradeMin = time.Second
	upgradeMax = 15 * time.Second
	// lossPeriod is how long the loss of a session is measured.
	lossPeriod = 5 * time.Second
)

// link is a session with the paths to its far end.
type link struct {
	c        *core
	session  *rtmfp.Session
	exclude  netip.AddrPort // the introducer, which is not the far end
	list     []linkPath
	settle   time.Time // paths are compared until then
	next     time.Time // the next tick
	probeAt  time.Time // the next probes
	upgrade  time.Duration
	switched time.Time
	switches int

	confirmed time.Time // since when the far end is known to have the keys

	lossFrom   time.Time
	lossSent   uint64
	lossLost   uint64
	loss       float64
	suspicious bool
	suspects   []rtmfp.Candidate // that the far end sends by, while the current path does not answer
}

type linkPath struct {
	rtmfp.Candidate
	pathState
}

func (c *core) newLink(s *rtmfp.Session, exclude netip.AddrPort) *link {
	l := &link{c: c, session: s, exclude: exclude, settle: c.now.Add(settleTime), next: c.now, upgrade: upgradeMin, lossFrom: c.now}
	path := s.Path()
	l.add(path)
	for _, p := range s.Candidates() {
		l.add(p)
	}
	if s.Role() == rtmfp.RoleResponder {
		for _, from := range c.callers {
			if c.now.Sub(from.at) <= callerTime {
				l.addEverywhere(from.addr)
			}
		}
	}
	return l
}

// doubtful says whether another introduction may help: packets do not arrive, or go by a relay.
func (l *link) doubtful() bool {
	i := l.current()
	return l.suspicious || i >= 0 && l.list[i].relayed
}

// add remembers a path and returns its index, or -1. A full list loses a path that was never heard.
func (l *link) add(p rtmfp.Candidate) int {
	if i := l.index(p); i >= 0 {
		return i
	}
	if p.Addr == l.exclude || !p.Addr.IsValid() {
		return -1
	}
	if len(l.list) >= maxPaths {
		i := slices.IndexFunc(l.list, func(o linkPath) bool { return o.heard.IsZero() && o.Candidate != l.session.Path() })
		if i < 0 {
			return -1
		}
		l.list = slices.Delete(l.list, i, i+1)
	}
	l.list = append(l.list, linkPath{Candidate: p, pathState: pathState{relayed: l.c.relayed(p)}})
	return len(l.list) - 1
}

func (l *link) index(p rtmfp.Candidate) int {
	return slices.IndexFunc(l.list, func(o linkPath) bool { return o.Candidate == p })
}

// addEverywhere lets an address be tried by every interface that it makes sense for.
func (l *link) addEverywhere(addr netip.AddrPort) {
	l.add(rtmfp.Candidate{Interface: 0, Addr: addr})
	for i := range l.c.relays {
		l.add(rtmfp.Candidate{Interface: i, Addr: addr})
	}
	l.next, l.probeAt = l.c.now, l.c.now
}

// addInterface lets every address be tried by an interface that has come.
func (l *link) addInterface(i int) {
	for _, p := range slices.Clone(l.list) {
		if !p.relayed || !l.c.isRelay(i) {
			l.add(rtmfp.Candidate{Interface: i, Addr: p.Addr})
		}
	}
	l.resettle()
}

// dropInterface forgets the paths by an interface that has gone.
func (l *link) dropInterface(i int) {
	l.list = slices.DeleteFunc(l.list, func(p linkPath) bool { return p.Interface == i })
	l.resettle()
}

// resettle compares all paths again.
func (l *link) resettle() {
	l.settle, l.next, l.probeAt, l.upgrade = l.c.now.Add(settleTime), l.c.now, l.c.now, upgradeMin
}

// answered is EventPath.
func (l *link) answered(ev rtmfp.Event) {
	i := l.add(ev.Path)
	if i < 0 {
		return
	}
	p := &l.list[i]
	p.loss *= 0.8
	if l.c.now.Sub(p.heard) > pathFresh {
		p.loss = 0 // what was lost while it was dead says nothing about it now
	}
	p.hear(l.c.now)
	if p.rtt == 0 {
		p.rtt = ev.RTT
	} else {
		p.rtt += (ev.RTT - p.rtt) / 4
	}
	l.choose()
}

// seen is EventPathSeen: the far end sends by a path that this end does not send by. If that is a way off the relay, it is tried.
// Otherwise it means something only if what this end sends does not arrive, so the current path is asked.
func (l *link) seen(path rtmfp.Candidate) {
	i, current := l.add(path), l.current()
	if i < 0 || current < 0 {
		return
	}
	switch {
	case pathRank(l.list[i].pathState) < pathRank(l.list[current].pathState):
		l.ask(i)
	case l.c.now.Sub(l.list[current].heard) >= seenAfter && l.list[current].asked.IsZero():
		l.ask(current)
		l.suspects = append(l.suspects[:min(len(l.suspects), maxSuspects-1)], path)
		l.wakeAt(l.c.now.Add(max(pathLag, 2*l.list[current].rtt)))
	}
}

const (
	// seenAfter is how long the current path may not have been heard before another that the far end sends by makes it doubtful.
	seenAfter = 100 * time.Millisecond
	// maxSuspects bounds the other paths that are remembered while the current one is asked.
	maxSuspects = 4
)

// hear notes that something came by the path.
func (p *linkPath) hear(at time.Time) {
	p.heard, p.asked = later(p.heard, at), time.Time{}
}

// current is the index of the session's path, which it hears.
func (l *link) current() int {
	i := l.add(l.session.Path())
	if i >= 0 {
		if at := l.session.PathHeard(); at.After(l.list[i].heard) {
			l.list[i].hear(at)
		}
	}
	return i
}

// ask sends a probe.
func (l *link) ask(i int) {
	p := &l.list[i]
	if !p.asked.IsZero() {
		p.loss += (1 - p.loss) * 0.2
	}
	if l.session.Probe(l.c.now, p.Candidate) == nil && p.asked.IsZero() {
		p.asked = l.c.now
	}
}

func (l *link) wakeAt(t time.Time) {
	if t.Before(l.next) {
		l.next = t
	}
}

// choose moves the session if another path is better.
func (l *link) choose() {
	current := l.current()
	if current < 0 {
		return
	}
	states := make([]pathState, len(l.list))
	for i, p := range l.list {
		states[i] = p.pathState
	}
	best := choosePath(l.c.now, current, l.switched, states)
	if best == current || l.session.Move(l.c.now, l.list[best].Candidate) != nil {
		if !l.list[current].asked.IsZero() {
			l.wakeAt(l.c.now.Add(pathLag)) // whether it is silent is known then
		}
		return
	}
	l.switched = l.c.now
	l.switches++
	l.upgrade = upgradeMin
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// tick probes, and says when it wants to be called again.
func (l *link) tick() {
	now := l.c.now
	if l.confirmed.IsZero() && l.session.Confirmed() {
		l.confirmed = now
	}
	if now.Before(l.next) {
		return
	}
	l.askSuspects()
	if now.Before(l.probeAt) {
		l.next = l.probeAt
		l.choose()
		return
	}
	l.measureLoss()
	since, owes := l.session.UnansweredSince()
	suspect := owes && now.Sub(since) >= suspectAfter || l.loss > pathBadLoss
	if i := l.current(); i >= 0 && l != l.c.server {
		// Whoever only listens is owed nothing: it asks when it becomes quiet.
		asked := l.list[i].asked
		suspect = suspect || !asked.IsZero() && now.Sub(asked) >= suspectAfter
		if quiet := now.Sub(l.session.LastReceived()); asked.IsZero() && quiet >= quietAfter && quiet < quietUntil {
			l.ask(i)
		}
	}
	if suspect && !l.suspicious {
		l.settle = later(l.settle, now.Add(settleTime))
		l.upgrade = upgradeMin
	}
	if suspect && !l.suspicious && l != l.c.server && l.c.server != nil {
		// If it is this end whose address has changed, the server should know before it introduces again.
		if i := l.c.server.current(); i >= 0 {
			l.c.server.ask(i)
		}
	}
	l.suspicious = suspect
	current := l.current()
	relayed := current >= 0 && l.list[current].relayed
	switch {
	case len(l.list) < 2:
		l.probeAt = now.Add(suspectAfter)
	case now.Before(l.settle):
		l.probe(true)
		l.probeAt = now.Add(probeInterval)
	case relayed:
		l.probe(false)
		l.probeAt = now.Add(l.upgrade)
		l.upgrade = min(2*l.upgrade, upgradeMax)
	case suspect:
		l.probe(true)
		l.probeAt = now.Add(upgradeMin)
	default:
		l.probeAt = now.Add(suspectAfter)
	}
	l.next = l.probeAt
	l.choose()
}

// probe asks by the current path and by the others, or by those of them that are direct.
func (l *link) probe(relayed bool) {
	for i := range l.list {
		if l.list[i].relayed && !relayed && l.list[i].Candidate != l.session.Path() {
			continue
		}
		l.ask(i)
	}
}

// askSuspects asks by the paths that the far end sends by when the current one has not answered.
func (l *link) askSuspects() {
	if len(l.suspects) == 0 {
		return
	}
	current := l.current()
	if current >= 0 && !l.list[current].asked.IsZero() && l.c.now.Sub(l.list[current].asked) >= pathLag {
		l.ask(current)
		for _, p := range l.suspects {
			if i := l.index(p); i >= 0 {
				l.ask(i)
			}
		}
	}
	l.suspects = nil
}

func (l *link) measureLoss() {
	if l.c.now.Sub(l.lossFrom) < lossPeriod {
		return
	}
	sent, lost := l.session.Transmissions()
	l.loss = 0
	if n := sent - l.lossSent; n >= 20 {
		l.loss = float64(lost-l.lossLost) / float64(n)
	}
	l.lossFrom, l.lossSent, l.lossLost = l.c.now, sent, lost
}

// path describes where packets go.
func (l *link) path() Path {
	if l == nil || l.session == nil {
		return Path{}
	}
	p := l.session.Path()
	rtt, _ := l.session.RTT()
	return Path{Relayed: l.c.relayed(p), Remote: p.Addr, RTT: rtt, Loss: min(1, l.loss), Switched: l.switches}
}
