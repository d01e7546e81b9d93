package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stilenet/stile/rtmfp/flash"
)

// onNeedKey asks the peer's encoder for a key frame.
const onNeedKey = "onNeedKey"

// Ours to tune.
const (
	maxEarly   = 8  // subscriptions that are held for calls that are about to ring
	maxAhead   = 64 // messages that are here before the word that the call is accepted
	maxPending = 16 // calls of functions that wait for the peer's subscription
	// plainAfter is how long a peer may take to say which codecs it shows. After that it is taken for a Flash Player.
	plainAfter = 3 * time.Second
)

// line is the streams of a call, and what was learnt on them.
type line struct {
	leg     int
	peer    string
	control *flash.NetStream // we ring there
	ringer  *flash.NetStream // they ring here
	next    *flash.NetStream // they ring again
	in      *flash.NetStream // what they publish
	out     *flash.NetStream // their subscription to what we publish
	pending []action         // for out, while there is none
	ahead   []flash.Message  // of in, while the call is not accepted

	greeted   bool
	safety    *safety
	key       string // that they have proved
	standing  standing
	differs   bool // a person said that the codes differ
	codecs    []string
	since     time.Time // of being in call, as the line saw it
	primed    bool      // out has our configurations
	note      string
	announced bool

	recorder *recorder
	unshown  map[flash.Codec]bool

	upWas, downWas uint64
	up, down       int // bit/s
}

// rung decides about a peer that subscribes to a control stream of ours.
func (p *phone) rung(sub *flash.NetStream) bool {
	sub.OnNetStatus = func(s flash.Status) { p.streamStatus(sub, s) }
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.board != nil && p.rings(sub)
}

func (p *phone) rings(sub *flash.NetStream) bool {
	peer, before := sub.FarID().String(), 0
	if c := p.board.live(sub.FarID().String()); c != nil {
		before = c.leg
	}
	if !p.board.ring(time.Now(), peer) {
		return false
	}
	c := p.board.live(peer)
	l := p.line(c)
	old := &l.ringer
	if c.leg == before {
		old = &l.next
	}
	if was := *old; was != nil {
		p.later(func() { was.Close() })
	}
	*old = sub
	p.later(p.settle)
	p.dirty = true
	return true
}

// subscribes decides about a peer that subscribes to what we publish.
func (p *phone) subscribes(stream string, sub *flash.NetStream) bool {
	sub.OnNetStatus = func(s flash.Status) { p.streamStatus(sub, s) }
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.board == nil {
		return false
	}
	peer := sub.FarID().String()
	switch p.board.admit(peer, stream) {
	case hold:
		return p.hold(peer, sub)
	case refuse:
		return false
	}
	p.attach(p.board.live(peer), sub)
	return true
}

// held is a subscription that no call claims yet.
type held struct {
	stream *flash.NetStream
	until  time.Time
}

// hold keeps a subscription for a call that is about to ring.
func (p *phone) hold(peer string, sub *flash.NetStream) bool {
	if old, ok := p.early[peer]; ok {
		p.later(func() { old.stream.Close() })
	} else if len(p.early) >= maxEarly {
		return false
	}
	p.early[peer] = held{sub, time.Now().Add(joinTime)}
	return true
}

// claim gives a call the subscription that was held for it.
func (p *phone) claim(c *call) {
	if h, ok := p.early[c.peer]; ok {
		delete(p.early, c.peer)
		p.attach(c, h.stream)
	}
}

// release lets go of subscriptions that no call has claimed in time.
func (p *phone) release(now time.Time) {
	for peer, h := range p.early {
		if now.After(h.until) {
			delete(p.early, peer)
			_ = h.stream.Close() // it may be closed
		}
	}
}

// attach makes a subscription that of a call.
func (p *phone) attach(c *call, sub *flash.NetStream) {
	l := p.line(c)
	if old := l.out; old != nil {
		p.later(func() { old.Close() })
	}
	l.out, l.primed = sub, false
	leg := c.leg
	p.later(func() { p.connected(leg) })
}

// connected is told when the peer's subscription can be sent to.
func (p *phone) connected(leg int) {
	if p.board == nil {
		return
	}
	p.board.subscribed(time.Now(), leg)
	p.settle()
}

func (p *phone) line(c *call) *line {
	l := p.lines[c.leg]
	if l == nil {
		l = &line{leg: c.leg, peer: c.peer, unshown: map[flash.Codec]bool{}}
		p.lines[c.leg] = l
	}
	return l
}

// settle does what the switchboard wants done, and what follows from where the calls now stand.
func (p *phone) settle() {
	for p.board != nil && len(p.board.out) > 0 {
		out := p.board.out
		p.board.out = nil
		for _, a := range out {
			p.act(a)
		}
		p.dirty = true
	}
	if p.board == nil {
		return
	}
	if len(p.board.heard) > 0 {
		p.chat = append(p.chat, p.board.heard...)
		p.chat = p.chat[max(0, len(p.chat)-maxChat):]
		p.board.heard, p.dirty = nil, true
	}
	for _, c := range p.board.calls {
		p.follow(c)
	}
}

// follow is what a call's state wants beside the protocol.
func (p *phone) follow(c *call) {
	if c.state == stateEnded {
		p.note(c)
		return
	}
	l := p.line(c)
	if c.state == stateIncoming && c.reached && !l.announced && !c.member {
		l.announced = true
		p.logf("%s is calling", cmpName(c))
	}
	if c.state == stateInCall && l.since.IsZero() {
		l.since = time.Now()
		p.calls++
		p.logf("in call with %s", cmpName(c))
		if p.opt.record != "" {
			var err error
			if l.recorder, err = newRecorder(p.opt.record, p.calls); err != nil {
				p.logf("%v", err)
				p.failed(err)
			}
		}
		for _, m := range l.ahead {
			p.take(l, m)
		}
		l.ahead = nil
		p.media.key++
		p.startPublishing()
	}
	if !l.greeted && l.out != nil && l.in != nil && (c.caller || c.state == stateInCall) {
		p.greet(c, l)
	}
	if c.state == stateInCall && l.key != "" && l.standing == standingNone && c.name != "" {
		var err error
		if l.standing, err = p.book.meet(c.name, l.key); err != nil {
			p.logf("%v", err)
		}
	}
	p.note(c)
}

// note keeps the report of the newest call.
func (p *phone) note(c *call) {
	if c.leg < p.board.newest() {
		return
	}
	r := &p.newest
	if r.Peer != c.peer || r.State != c.state {
		p.dirty = true
	}
	again := r.State != c.state || r.Peer != c.peer
	r.Peer, r.PeerName, r.State, r.End, r.Code = c.peer, c.name, c.state, c.reason, c.code
	r.SetupMS = 0
	if !c.answered.IsZero() {
		r.SetupMS = c.answered.Sub(c.began).Milliseconds()
	}
	if c.state != stateEnded && c.state == stateInCall && r.Path == "" {
		p.measureCall(c)
	}
	if again {
		p.writeReport()
	}
	if c.state == stateEnded && again {
		p.logf("call with %s ended: %s", cmpName(c), c.words())
		if c.caller {
			err := p.filmErr
			if c.answered.IsZero() {
				err = fmt.Errorf("videophone: %s: %s", cmpName(c), c.words())
			}
			p.failed(err)
		}
	}
}

// measureCall notes how a call goes.
func (p *phone) measureCall(c *call) {
	l := p.lines[c.leg]
	if l == nil || l.in == nil {
		return
	}
	path := l.in.Info().Path
	if route := routeOf(path); route != "" {
		p.newest.Path, p.newest.Candidate = route, path.Remote.String()
		p.newest.RTTms = float64(path.RTT) / float64(time.Millisecond)
	}
}

func cmpName(c *call) string {
	if c.name != "" {
		return c.name
	}
	return c.peer[:8]
}

// act does one thing for the switchboard.
func (p *phone) act(a action) {
	c := p.board.byLeg(a.leg)
	switch a.kind {
	case actionRing:
		l := p.line(c)
		p.newest.Path, p.newest.Candidate = "", ""
		l.control = p.play(l, a.text)
		p.offer(mediaCaller)
		l.in = p.play(l, mediaCallee)
	case actionListen:
		p.newest.Path, p.newest.Candidate = "", ""
		l := p.line(c)
		l.in = p.play(l, a.text)
		p.claim(c)
	case actionAnswer:
		p.offer(a.text)
	case actionSend:
		if l := p.lines[a.leg]; l != nil {
			p.tell(l, a)
		}
	case actionDecline:
		if l := p.lines[a.leg]; l != nil && l.ringer != nil {
			_ = l.ringer.Send(a.text, values(a.args)...) // who does not hear it sees the stream end
		}
	case actionClose:
		p.closeLine(a.leg)
	}
}

func values(args []string) []any {
	v := make([]any, len(args))
	for i, a := range args {
		v[i] = a
	}
	return v
}

// tell calls a function at the peer, once it has subscribed.
func (p *phone) tell(l *line, a action) {
	if l.out == nil {
		if len(l.pending) < maxPending {
			l.pending = append(l.pending, a)
		}
		return
	}
	for _, waiting := range l.pending {
		_ = l.out.Send(waiting.text, values(waiting.args)...)
	}
	l.pending = nil
	if a.text == "" {
		return
	}
	if err := l.out.Send(a.text, values(a.args)...); err != nil && !errors.Is(err, flash.ErrClosed) {
		p.logf("%s: %v", a.text, err)
	}
}

// play subscribes to a stream of the peer.
func (p *phone) play(l *line, name string) *flash.NetStream {
	id, err := flash.ParsePeerID(l.peer)
	if err != nil {
		panic("BUG: a call with the peer ID " + l.peer)
	}
	s := flash.NewNetStream(p.nc, id)
	leg := l.leg
	s.OnNetStatus = func(st flash.Status) { p.streamStatus(s, st) }
	s.OnMessage = func(m flash.Message) { p.received(leg, m) }
	s.Client = map[string]func([]any){}
	for _, f := range callFunctions {
		s.Client[f] = func(args []any) { p.called(leg, f, args) }
	}
	if err := s.Play(name); err != nil {
		code := err.Error()
		var status *flash.StatusError
		if errors.As(err, &status) {
			code = status.Code
		}
		p.later(func() { p.closed(leg, false, code) })
	}
	return s
}

// offer publishes one of our media streams, if it is not yet.
func (p *phone) offer(name string) {
	if p.offered[name] != nil {
		return
	}
	s := flash.NewNetStream(p.nc, flash.DirectConnections)
	s.OnPeerConnect = func(sub *flash.NetStream) bool { return p.subscribes(name, sub) }
	if err := s.Publish(name); err != nil {
		p.logf("%s: %v", name, err)
		return
	}
	p.offered[name] = s
}

// closeLine ends the streams of a call, and a stream of ours that nobody has a call on any more.
func (p *phone) closeLine(leg int) {
	l := p.lines[leg]
	if l == nil {
		return
	}
	delete(p.lines, leg)
	p.stopRecording(l)
	for _, s := range []*flash.NetStream{l.control, l.ringer, l.in, l.out} {
		if s != nil {
			_ = s.Close() // it may be closed
		}
	}
	if again := l.next; again != nil {
		p.later(func() {
			if p.board == nil || !p.rings(again) {
				_ = again.Close() // it may be closed
			}
		})
	}
	for name, s := range p.offered {
		if !slices.ContainsFunc(p.board.calls, func(c *call) bool {
			return c.leg != leg && c.state != stateEnded && c.caller == (name == mediaCaller)
		}) {
			_ = s.Close()
			delete(p.offered, name)
		}
	}
}

func (p *phone) stopRecording(l *line) {
	if l.recorder == nil {
		return
	}
	if err := l.recorder.close(); err != nil {
		p.logf("%v", err)
	}
	l.recorder = nil
}

// status is told what happens to the connection, and to peers.
func (p *phone) status(e flash.NetStatusEvent) {
	if e.Stream != nil {
		p.streamStatus(e.Stream, e.Status)
		return
	}
	switch e.Code {
	case flash.NetConnectionConnectClosed, flash.NetConnectionConnectFailed:
		p.update(func() {
			if p.board != nil {
				p.board.lost(time.Now(), e.Code)
				p.settle()
			}
		})
	}
}

// streamStatus is told what happens to a stream, by itself or by the connection.
func (p *phone) streamStatus(s *flash.NetStream, status flash.Status) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var l *line
	for _, x := range p.lines {
		if s == x.in || s == x.out || s == x.control || s == x.ringer || s == x.next {
			l = x
		}
	}
	if l == nil || p.board == nil {
		return // of a stream that was replaced, or that no call has claimed
	}
	if s == l.next {
		if closes(status.Code) {
			l.next = nil
		}
		return
	}
	leg := l.leg
	switch {
	case status.Code == flash.NetStreamPlayStart && s == l.control:
		p.board.reached(time.Now(), leg)
	case closes(status.Code) && s == l.ringer:
		p.board.ringerLeft(time.Now(), leg)
	case closes(status.Code):
		p.board.closed(time.Now(), leg, status.Code == flash.NetStreamConnectRejected, status.Code)
	}
	p.settle()
}

// closes reports whether a status is the end of its stream.
func closes(code string) bool {
	switch code {
	case flash.NetStreamConnectRejected, flash.NetStreamConnectFailed, flash.NetStreamConnectClosed, flash.NetStreamPlayFailed,
		flash.NetStreamPlayStreamNotFound, flash.NetStreamPlayUnpublishNotify:
		return true
	}
	return false
}

func (p *phone) closed(leg int, refused bool, code string) {
	if p.board != nil {
		p.board.closed(time.Now(), leg, refused, code)
		p.settle()
	}
}

// greet tells the peer who we are and what we show, and begins the safety code.
func (p *phone) greet(c *call, l *line) {
	near, far := l.in.NearNonce(), l.in.FarNonce()
	if near == nil {
		return // the session is not up; the next event tries again
	}
	l.greeted = true
	video, audio := p.media.shows()
	p.tell(l, action{text: onCodecs, args: []string{video, audio}})
	if p.key != nil {
		public, signature := proof(p.key, near, far, p.board.self, l.peer)
		p.tell(l, action{text: onIdentity, args: []string{public, signature}})
	}
	var err error
	if l.safety, err = newSafety(c.caller, near, far, rand.Reader); err != nil {
		p.logf("%v", err)
		l.safety = nil
		return
	}
	if f, v, ok := l.safety.begin(); ok {
		p.tell(l, action{text: f, args: []string{v}})
	}
}

// called is told of a function that the peer has called on a stream of the call.
func (p *phone) called(leg int, function string, arguments []any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.lines[leg]
	if l == nil || p.board == nil {
		return
	}
	args := make([]string, 0, len(arguments))
	for _, a := range arguments {
		s, _ := a.(string)
		args = append(args, s)
	}
	args = append(args, "", "")
	switch function {
	case onIdentity:
		p.identified(l, args[0], args[1])
	case onCodecs:
		l.codecs = strings.Split(clip(args[0]+","+args[1], maxText), ",")
	case onNeedKey:
		p.media.key++
	case onVerify1, onVerify2, onVerify3:
		if l.safety == nil {
			c := p.board.byLeg(leg)
			if c != nil && !l.greeted && l.in != nil {
				p.greet(c, l) // the callee's part begins with the caller's first message
			}
		}
		if l.safety == nil {
			break
		}
		if f, v, ok := l.safety.message(function, args[0]); ok {
			p.tell(l, action{text: f, args: []string{v}})
		}
	default:
		p.board.message(time.Now(), leg, function, args)
	}
	p.dirty = true
	p.settle()
}

func (p *phone) identified(l *line, public, signature string) {
	if l.key != "" || l.in == nil {
		return
	}
	near, far := l.in.NearNonce(), l.in.FarNonce()
	key, ok := checkProof(public, signature, near, far, p.board.self, l.peer)
	if !ok {
		l.standing = standingForged
		return
	}
	l.key = key
	if c := p.board.byLeg(l.leg); c != nil && c.name != "" && c.state != stateInCall {
		if s := p.book.look(c.name, key); s == standingChanged {
			l.standing = s // worth knowing before answering
		}
	}
}
