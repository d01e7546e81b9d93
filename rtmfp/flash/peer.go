package flash

import (
	"slices"
	"time"

	"github.com/stilenet/stile/rtmfp"
)

// peer is another client, with the session and the streams that this end has with it (§5.4).
type peer struct {
	c       *core
	id      PeerID
	link    *link          // with the session for new streams, if one is open
	links   []*link        // of all sessions: glare and a change of path while opening can leave several
	opening *rtmfp.Session // if this end opens one
	players []*stream      // that play from it
	subs    []*subscriber  // of what this end publishes
	idle    time.Time      // since when there is no stream
	used    bool           // there was a stream

	again     *rtmfp.Session // opens only to be introduced again
	againEnd  time.Time      // of that
	againNext time.Time      // the next one is not before
	againWait time.Duration
}

// Ours to tune.
const (
	// introductionTime is how long another introduction may take: two attempts.
	introductionTime = 3 * time.Second
	// introductionMin and introductionMax are between introductions, doubled each time: of two that can never be direct the server
	// hears seldom.
	introductionMin = 15 * time.Second
	introductionMax = 4 * time.Minute
)

// introduce asks the server for the peer's addresses again, and tells the peer this end's. They change when a NAT forgets, and a
// peer that has opened a session by a relay may never have told. The session that is opened for it ends as a duplicate.
func (p *peer) introduce() {
	c := p.c
	doubtful := slices.ContainsFunc(p.links, (*link).doubtful)
	switch {
	case p.again != nil && !c.now.Before(p.againEnd):
		s := p.again
		p.introduced(s)
		s.Abort(c.now)
	case p.again == nil && doubtful && c.state == stateUp && !c.now.Before(p.againNext):
		p.againWait = min(max(2*p.againWait, introductionMin), introductionMax)
		p.againNext = c.now.Add(p.againWait)
		s, err := c.e.Open(c.now, p.id.EPD(), rtmfp.Candidate{Interface: rtmfp.AnyInterface, Addr: c.server.session.Path().Addr})
		if err == nil {
			s.User, p.again, p.againEnd = p, s, c.now.Add(introductionTime)
		}
	case !doubtful && !c.now.Before(p.againNext):
		p.againWait = 0
	}
}

// introduced takes the addresses that an introduction has brought.
func (p *peer) introduced(s *rtmfp.Session) {
	p.again = nil
	for _, l := range p.links {
		for _, a := range s.Candidates() {
			l.add(a)
		}
		l.resettle()
	}
}

func (c *core) peer(id PeerID) *peer {
	p := c.peers[id]
	if p == nil {
		p = &peer{c: c, id: id, idle: c.now}
		c.peers[id] = p
	}
	return p
}

// connectedPeers counts the peers that there are streams with, apart from one.
func (c *core) connectedPeers(apart *peer) (n int) {
	for _, p := range c.peers {
		if p != apart && len(p.players)+len(p.subs) > 0 {
			n++
		}
	}
	return n
}

// reach opens a session with the peer if there is none. "using the server session's DESTADDR as the initial candidate address"
// (§5.4.1): the server introduces.
func (p *peer) reach() error {
	c := p.c
	if p.link != nil || p.opening != nil {
		return nil
	}
	if p.again != nil {
		p.opening, p.again = p.again, nil // two openings would be duplicates of each other
		return nil
	}
	if s := c.e.SessionByIdentity(p.id.EPD()); s != nil {
		p.adopt(s)
		return nil
	}
	server := c.server.session.Path()
	// Where the server is reached by the relay only, peers are not reached otherwise: the relay need not wait.
	delay := relayDelay
	if c.isRelay(server.Interface) {
		delay = 0
	}
	for i := range c.relays {
		c.e.SetDelay(i, delay)
	}
	s, err := c.e.Open(c.now, p.id.EPD(), rtmfp.Candidate{Interface: rtmfp.AnyInterface, Addr: server.Addr})
	if err != nil {
		return err
	}
	s.User, p.opening = p, s
	return nil
}

// peerOpen is the opening of a session with a peer, by either end.
func (c *core) peerOpen(s *rtmfp.Session) {
	id, ok := PeerIDOf(s.FarIdentity())
	if !ok || c.cfg.MMS.P2PDisable || c.state != stateUp {
		s.Close(c.now)
		return
	}
	c.peer(id).adopt(s)
}

func (p *peer) adopt(s *rtmfp.Session) {
	c := p.c
	if p.opening == s {
		p.opening = nil
	}
	if p.again == s {
		p.again = nil
	}
	s.User = p
	exclude := c.server.session.Path().Addr
	p.link = c.newLink(s, exclude)
	p.links = append(p.links, p.link)
	p.prefer()
	s.SetKeepalive(c.now, c.peerAlive)
	for _, st := range slices.Clone(p.players) {
		// What was asked in a session that the far end may never have known is asked again.
		if st.control == nil || st.control.Session() != s && !st.connected && !st.control.Session().Confirmed() {
			st.subscribe(c, p.link.session)
		}
	}
}

// prefer takes a session that the far end has proved to know for new streams, if there is one.
func (p *peer) prefer() {
	if p.link == nil || p.link.session.Confirmed() {
		return
	}
	for _, l := range p.links {
		if l.session.Confirmed() && l.session.State() == rtmfp.StateOpen {
			p.link = l
			return
		}
	}
}

// failed is the end of an opening session.
func (p *peer) failed(ev rtmfp.Event) {
	if p.again == ev.Session {
		p.introduced(ev.Session)
		return
	}
	if p.opening != ev.Session {
		return
	}
	p.opening = nil
	if p.c.state != stateUp {
		p.release()
		return
	}
	if p.link == nil && ev.Other != nil && ev.Other.State() == rtmfp.StateOpen {
		p.adopt(ev.Other)
	}
	if p.link != nil {
		return // theirs prevailed, or was first (RFC 7016 §3.5.1.3)
	}
	for _, st := range slices.Clone(p.players) {
		st.drop(p.c, Status{Code: NetStreamConnectFailed, Level: "error",
			Description: "the peer cannot be reached: it is not connected to this server, or no path between its NAT and this one exists"})
	}
	p.release()
}

// closed is the end of a session with the peer.
func (p *peer) closed(s *rtmfp.Session, reason rtmfp.Reason) {
	p.links = slices.DeleteFunc(p.links, func(l *link) bool { return l.session == s })
	if p.link != nil && p.link.session == s {
		p.link = nil
		if n := len(p.links); n > 0 {
			p.link = p.links[n-1]
		}
		p.prefer()
	}
	status := Status{Code: NetStreamConnectClosed, Level: "status", Description: "the session with the peer has ended: " + reason.String()}
	for _, st := range slices.Clone(p.players) {
		if st.control != nil && st.control.Session() == s && !st.retry(reason) {
			st.drop(p.c, status)
		}
	}
	for _, sub := range slices.Clone(p.subs) {
		if sub.control.Session() == s {
			sub.drop(status)
		}
	}
	p.release()
}

const (
	// retryTime is how long after Play a session that ends before the publisher has answered is no reason to give up, as long as a
	// session may take to open: an initiator may have changed its path while this end answered by the other.
	retryTime = 95 * time.Second
	// maxRetries bounds what a far end that ends every session at once can cost.
	maxRetries = 4
)

// retry asks again in another session, if the one that ended never carried anything.
func (s *stream) retry(reason rtmfp.Reason) bool {
	p, c := s.peer, s.peer.c
	if s.connected || c.state != stateUp || c.now.Sub(s.began) > retryTime || s.retries >= maxRetries {
		return false
	}
	switch reason {
	case rtmfp.ReasonUnconfirmed, rtmfp.ReasonUnresponsive, rtmfp.ReasonOverride:
	case rtmfp.ReasonFar, rtmfp.ReasonFarAbort:
		if s.asked.Done() {
			return false // that is the answer
		}
		// The far end never knew what the session was for: it may have waited through the losses of the opening.
	default:
		return false
	}
	s.retries++
	s.control = nil
	if p.link != nil {
		s.subscribe(c, p.link.session)
		return true
	}
	return p.reach() == nil
}

// release forgets a peer that there is nothing with.
func (p *peer) release() {
	if len(p.players)+len(p.subs) == 0 {
		if p.idle.IsZero() {
			p.idle = p.c.now
		}
		if p.link == nil && p.opening == nil && p.again == nil {
			delete(p.c.peers, p.id)
		}
	} else {
		p.idle, p.used = time.Time{}, true
	}
	p.c.shutIfDone()
}

// end ends everything with the peer.
func (p *peer) end(status Status) {
	for _, st := range slices.Clone(p.players) {
		st.drop(p.c, status)
	}
	for _, sub := range slices.Clone(p.subs) {
		sub.drop(status)
	}
	for _, s := range []**rtmfp.Session{&p.opening, &p.again} {
		if *s != nil {
			gone := *s
			*s = nil
			gone.Abort(p.c.now)
		}
	}
	delete(p.c.peers, p.id)
}

// busy says whether something that was sent may still be on its way.
func (p *peer) busy() bool {
	if len(p.subs) > 0 {
		return true
	}
	return slices.ContainsFunc(p.links, func(l *link) bool {
		return slices.ContainsFunc(l.session.SendFlows(), func(f *rtmfp.SendFlow) bool { return f.State() == rtmfp.FlowClosing })
	})
}

// lingerEnd is when a session without streams ends, or the zero for not because of that. The far end that opened it cannot ask for a
// stream before it has the last packet of the opening, which bad links repeat for long: until it is heard, the session ends as
// unconfirmed or not at all, and then its request may be lost as long as anything else.
func (p *peer) lingerEnd(l *link) time.Time {
	switch {
	case p.idle.IsZero() || l.confirmed.IsZero():
		return time.Time{}
	case !p.used:
		return later(p.idle, l.confirmed).Add(retransmitLimit)
	}
	return later(p.idle, l.confirmed).Add(peerLinger)
}

func (p *peer) tick() {
	p.prefer()
	for _, l := range slices.Clone(p.links) {
		l.tick()
	}
	p.introduce()
	for _, sub := range slices.Clone(p.subs) {
		if sub.dismissing && !p.c.now.Before(sub.deadline) {
			sub.dismissed()
		}
	}
	for _, l := range slices.Clone(p.links) {
		if end := p.lingerEnd(l); !end.IsZero() && !p.c.now.Before(end) {
			l.session.Close(p.c.now)
		}
	}
}

func (p *peer) nextTimer() (at time.Time) {
	earlier := func(t time.Time) {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	for _, l := range p.links {
		earlier(l.next)
		if end := p.lingerEnd(l); !end.IsZero() {
			earlier(end)
		}
	}
	if p.again != nil {
		earlier(p.againEnd)
	}
	for _, sub := range p.subs {
		if sub.dismissing {
			earlier(sub.deadline)
		}
	}
	return at
}

// flowOpen is a flow from the peer: of a stream that this end plays, if it is in return to that, or a subscription.
func (p *peer) flowOpen(f *rtmfp.ReceiveFlow, m FlowMetadata) {
	c := p.c
	if a := f.Association(); a != nil {
		st, ok := a.User.(*stream)
		if !ok || st.control != a || st.closed || len(st.flows) >= maxStreamsOfPeer {
			f.Reject(c.now, 0)
			return
		}
		st.mediaFlow(c, f, m)
		return
	}
	switch {
	// "The flow MUST have a non-zero Stream ID" (§5.4.1).
	case m.StreamID == 0, c.state != stateUp, c.cfg.MMS.P2PDisable, len(p.subs) >= maxStreamsOfPeer:
		f.Reject(c.now, 0)
	case len(p.subs)+len(p.players) == 0 && c.connectedPeers(p) >= c.maxPeers:
		f.Reject(c.now, 0)
	default:
		c.newSubscriber(p, f, m)
	}
}
