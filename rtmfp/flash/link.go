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
	upgrade  time.Duration
	switched time.Time
	switches int

	lossFrom   time.Time
	lossSent   uint64
	lossLost   uint64
	loss       float64
	suspicious bool
}

type linkPath struct {
	rtmfp.Candidate
	pathState
	waiting bool // a probe is unanswered
}

func (c *core) newLink(s *rtmfp.Session, exclude netip.AddrPort) *link {
	l := &link{c: c, session: s, exclude: exclude, settle: c.now.Add(settleTime), next: c.now, upgrade: upgradeMin, lossFrom: c.now}
	path := s.Path()
	l.add(path)
	for _, p := range s.Candidates() {
		l.add(p)
	}
	return l
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
	l.settle, l.next, l.upgrade = l.c.now.Add(settleTime), l.c.now, upgradeMin
}

// answered is EventPath.
func (l *link) answered(ev rtmfp.Event) {
	i := l.add(ev.Path)
	if i < 0 {
		return
	}
	p := &l.list[i]
	p.heard, p.waiting = l.c.now, false
	p.loss *= 0.8
	if p.rtt == 0 {
		p.rtt = ev.RTT
	} else {
		p.rtt += (ev.RTT - p.rtt) / 4
	}
	l.choose()
	if l.c.now.Add(pathLag).Before(l.next) {
		l.next = l.c.now.Add(pathLag) // whether the current path is silent is known then
	}
}

// choose moves the session if another path is better.
func (l *link) choose() {
	current := l.add(l.session.Path())
	if current < 0 {
		return
	}
	l.list[current].heard = later(l.list[current].heard, l.session.PathHeard())
	states := make([]pathState, len(l.list))
	for i, p := range l.list {
		states[i] = p.pathState
	}
	best := choosePath(l.c.now, current, l.switched, states)
	if best == current || l.session.Move(l.c.now, l.list[best].Candidate) != nil {
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
	if now.Before(l.next) {
		return
	}
	l.measureLoss()
	since, owes := l.session.UnansweredSince()
	suspect := owes && now.Sub(since) >= suspectAfter || l.loss > pathBadLoss
	if suspect && !l.suspicious {
		l.settle = later(l.settle, now.Add(settleTime))
		l.upgrade = upgradeMin
	}
	l.suspicious = suspect
	current := l.index(l.session.Path())
	relayed := current >= 0 && l.list[current].relayed
	switch {
	case len(l.list) < 2:
		l.next = now.Add(suspectAfter)
	case now.Before(l.settle):
		l.probe(true)
		l.next = now.Add(probeInterval)
	case relayed:
		l.probe(false)
		l.next = now.Add(l.upgrade)
		l.upgrade = min(2*l.upgrade, upgradeMax)
	case suspect:
		l.probe(true)
		l.next = now.Add(upgradeMin)
	default:
		l.next = now.Add(suspectAfter)
	}
	l.choose()
}

// probe asks by the current path and by the others, or by those of them that are direct.
func (l *link) probe(relayed bool) {
	for i := range l.list {
		p := &l.list[i]
		if p.relayed && !relayed && p.Candidate != l.session.Path() {
			continue
		}
		if p.waiting {
			p.loss += (1 - p.loss) * 0.2
		}
		if l.session.Probe(l.c.now, p.Candidate) == nil {
			p.waiting = true
		}
	}
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
