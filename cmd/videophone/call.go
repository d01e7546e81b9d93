package main

import (
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// The protocol is that of Adobe's VideoPhone sample, so that two of these phones, or one and the sample, can call each other:
//
//	caller                                              callee
//	plays "control"+NAME of the callee  ──────────────▶ onPeerConnect: somebody rings
//	publishes "media-caller", plays "media-callee"      plays "media-caller", to hear who it is
//	onIncomingCall(name) to its subscriber ───────────▶ the page shows the call
//	                                                    accepted: publishes "media-callee"
//	in call ◀─────────────────────────────────────────  onCallAccepted(name)
//	onIm(name, text) both ways; whoever closes its streams hangs up
//
// A call's states:
//
//	            place                    onCallAccepted
//	(none) ───────────────▶ ringing ───────────────────────▶ in call
//	   │                       │ glare, and our ID is the larger ▲ │
//	   │ somebody rings        └──────────────────────────────┐  │ │
//	   └──────────▶ incoming ─────────────────────────────────┴──┘ │
//	                   │      accept                               │
//	                   └──────────────▶ ended ◀────────────────────┘   (and from ringing; forgotten after a while)

// The streams and the functions that are called by send(). Those below onIm are ours: a program that has no such function passes over them.
const (
	controlPrefix = "control"
	mediaCaller   = "media-caller"
	mediaCallee   = "media-callee"

	onIncomingCall = "onIncomingCall"
	onCallAccepted = "onCallAccepted"
	onIm           = "onIm"
	onCallRefused  = "onCallRefused" // why: on the control stream, from the callee
	onMember       = "onMember"      // peer ID, name: who else is in this conversation
	onCodecs       = "onCodecs"      // video and audio formats that the sender shows, separated by commas
)

// Ours to tune.
const (
	ringTime     = 60 * time.Second // nobody answers after that
	reachTime    = 95 * time.Second // RFC 7016 §3.5.1.1.1: a session opens by then or never
	joinTime     = 20 * time.Second // how long the media streams of an accepted call may take to open
	memberTime   = 40 * time.Second // how long a member that was announced may take to ring
	endedTime    = 8 * time.Second  // how long an ended call is shown
	maxCalls     = 3                // each costs a copy of our media on the uplink: a mesh of four
	maxText      = 2000             // runes of one chat message
	maxName      = 64               // runes of a name
	maxRemembers = 8                // ended calls and announced members
)

// callState is where a call stands.
type callState string

const (
	stateRinging  callState = "ringing"  // we call them
	stateIncoming callState = "incoming" // they call us
	stateInCall   callState = "in-call"
	stateEnded    callState = "ended"
)

// endReason is why a call ended, in a word for programs; the page has the sentences.
type endReason string

const (
	endHungUp      endReason = "hung-up"      // by us
	endTheyHungUp  endReason = "they-hung-up" // by them
	endRefused     endReason = "refused"
	endWeRefused   endReason = "we-refused"
	endBusy        endReason = "busy"
	endNoAnswer    endReason = "no-answer"
	endMissed      endReason = "missed" // they gave up, or we did not answer
	endUnreachable endReason = "unreachable"
	endLost        endReason = "lost"
)

// call is one conversation with one peer. Several together are a conference: a full mesh.
type call struct {
	leg      int    // its number; the streams carry it, so that late events of an older call are told apart
	peer     string // 64 hexadecimal digits
	name     string // what they call themselves, or what we dialled
	state    callState
	caller   bool // we placed it, so our stream is media-caller
	reached  bool // they know of it: it rings there
	takes    bool // the peer subscribes to what we publish
	heard    bool // something has come by its media streams, either way
	member   bool // brought in by a member of the conference: accepted without asking
	began    time.Time
	answered time.Time
	until    time.Time // when the state ends by itself; zero: never
	reason   endReason
	code     string // the status code behind the reason, if there is one
}

// actionKind is what the switchboard wants done.
type actionKind uint8

const (
	actionUnknown actionKind = iota
	actionRing               // play the control stream text of the peer, offer it media-caller, play its media-callee
	actionListen             // play the peer's media-caller, without audio and video
	actionAnswer             // take the peer's audio and video, offer it media-callee
	actionSend               // call text with args at the peer, on the stream that is offered to it
	actionDecline            // call onCallRefused with args at the peer, on our control stream
	actionClose              // close every stream of the leg
)

// action is one thing for the shell to do, in order.
type action struct {
	kind actionKind
	leg  int
	peer string
	text string
	args []string
}

// saying is a line of chat.
type saying struct {
	at         time.Time
	peer, name string // empty peer: ours
	text       string
}

// switchboard decides what happens to calls. It performs no I/O and reads no clock; it is not safe for concurrent use. What it wants done is
// left in out, in order.
type switchboard struct {
	self, name string // our ID and name
	auto       bool   // accept whoever calls
	calls      []*call
	legs       int
	expected   map[string]time.Time // members that were announced, and until when they may ring
	out        []action
	heard      []saying // what was said since the shell last took it
}

func newSwitchboard(self, name string, auto bool) *switchboard {
	return &switchboard{self: self, name: name, auto: auto, expected: map[string]time.Time{}}
}

func (s *switchboard) do(k actionKind, c *call, text string, args ...string) {
	s.out = append(s.out, action{k, c.leg, c.peer, text, args})
}

// live finds the call with a peer that has not ended.
func (s *switchboard) live(peer string) *call {
	for _, c := range s.calls {
		if c.peer == peer && c.state != stateEnded {
			return c
		}
	}
	return nil
}

func (s *switchboard) byLeg(leg int) *call {
	for _, c := range s.calls {
		if c.leg == leg {
			return c
		}
	}
	return nil
}

func (s *switchboard) count() (n int) {
	for _, c := range s.calls {
		if c.state != stateEnded {
			n++
		}
	}
	return n
}

func (s *switchboard) add(now time.Time, peer, name string, state callState) *call {
	s.legs++
	c := &call{leg: s.legs, peer: peer, name: clip(name, maxName), state: state, began: now}
	s.calls = append(s.calls, c)
	return c
}

// place calls a peer. control is the suffix of its control stream: the name that it registered, or nothing when only its ID is known. It
// reports whether there is now a call with it that we want: a call of theirs that waits is accepted.
func (s *switchboard) place(now time.Time, peer, name, control string) bool {
	if peer == s.self || !isPeerID(peer) {
		return false
	}
	if c := s.live(peer); c != nil {
		if c.state == stateIncoming {
			s.accept(now, c.leg)
		}
		return true
	}
	if s.count() >= maxCalls {
		return false
	}
	c := s.add(now, peer, name, stateRinging)
	c.caller, c.until = true, now.Add(reachTime)
	s.do(actionRing, c, controlPrefix+control)
	return true
}

// ring decides about a peer that subscribes to our control stream: false refuses it. If there is a call with the peer already and it stays, the
// shell keeps the subscription, and asks again when that call has ended.
func (s *switchboard) ring(now time.Time, peer string) bool {
	c := s.live(peer)
	switch {
	case peer == s.self || !isPeerID(peer):
		return false
	case c == nil && s.count() >= maxCalls:
		return false
	case c == nil:
	case c.state == stateRinging && peer < s.self:
		// Glare: both sides called. The smaller ID stays the caller, so we are the one to answer. They want to talk to us and we to them: nobody needs to be asked.
		s.do(actionClose, c, "")
		s.remove(c)
		n := s.add(c.began, peer, c.name, stateIncoming)
		n.member = c.member
		s.do(actionListen, n, mediaCaller)
		s.accept(now, n.leg)
		return true
	default:
		// Beside a call there is no other one. It is the other end of glare, which the peer closes when it answers us, also when it comes
		// late; or the peer has hung up and calls again, and one has overtaken the other. So it waits for the end of the call.
		return true
	}
	s.forget(now)
	c = s.add(now, peer, "", stateIncoming)
	c.until = now.Add(ringTime)
	c.member = s.isExpected(now, peer)
	s.do(actionListen, c, mediaCaller)
	if c.member {
		s.accept(now, c.leg)
	}
	return true
}

// admission is what becomes of a subscription to one of our media streams.
type admission uint8

const (
	refuse admission = iota
	hold             // nothing is sent on it; it may belong to a call that is about to ring
	take
)

// admit decides about a peer that subscribes to one of our media streams. Who calls us subscribes to media-callee as well as to our control
// stream, and the two overtake each other; without another call nothing would be published yet, and the subscription would wait.
func (s *switchboard) admit(peer, stream string) admission {
	switch c := s.live(peer); {
	case c != nil && c.caller == (stream == mediaCaller):
		return take
	case stream == mediaCallee && isPeerID(peer) && (c != nil || s.count() < maxCalls):
		return hold
	}
	return refuse
}

// subscribed is told that the peer receives what we publish.
func (s *switchboard) subscribed(now time.Time, leg int) {
	c := s.byLeg(leg)
	if c == nil || c.state == stateEnded {
		return
	}
	s.heardOf(c)
	if c.caller {
		// In glare the answer can be here before they hear who calls.
		if c.state == stateRinging {
			s.reachedBy(now, c)
		}
		s.do(actionSend, c, onIncomingCall, s.name)
	}
	c.takes = true
	s.welcome(c)
}

// welcome tells a peer whose call is accepted, once it can be told.
func (s *switchboard) welcome(c *call) {
	if !c.caller && c.state == stateInCall && c.takes {
		s.do(actionSend, c, onCallAccepted, s.name)
		s.introduce(c)
	}
}

// reached is told that the peer has let us subscribe to its control stream.
func (s *switchboard) reached(now time.Time, leg int) {
	if c := s.byLeg(leg); c != nil && c.state == stateRinging {
		s.reachedBy(now, c)
	}
}

func (s *switchboard) reachedBy(now time.Time, c *call) {
	if !c.reached {
		c.reached, c.until = true, now.Add(ringTime)
	}
}

// message is told of a function that the peer calls. Strangers' words are bounded here.
func (s *switchboard) message(now time.Time, leg int, function string, args []string) {
	c := s.byLeg(leg)
	if c == nil || c.state == stateEnded {
		return
	}
	s.heardOf(c)
	arg := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	switch function {
	case onIncomingCall:
		if c.state != stateIncoming && c.state != stateInCall || c.caller {
			return
		}
		if name := clip(arg(0), maxName); name != "" {
			c.name = name
		}
		if c.state == stateIncoming {
			c.reached = true // they have said who they are: now it is worth a person's attention
			if s.auto {
				s.accept(now, leg)
			}
		}
	case onCallAccepted:
		if c.state != stateRinging {
			return
		}
		if name := clip(arg(0), maxName); name != "" {
			c.name = name
		}
		c.state, c.answered, c.until = stateInCall, now, time.Time{}
		s.introduce(c)
	case onCallRefused:
		if c.state != stateRinging {
			return
		}
		reason := endRefused
		switch endReason(arg(0)) {
		case endBusy, endNoAnswer:
			reason = endReason(arg(0))
		}
		s.end(now, c, reason, "")
	case onIm:
		if c.state == stateEnded || clip(arg(1), maxText) == "" {
			return
		}
		// The name is the one that the call has: what a message claims could be anybody's.
		s.heard = append(s.heard, saying{now, c.peer, c.name, clip(arg(1), maxText)})
	case onMember:
		s.announced(now, c, arg(0), arg(1))
	}
}

// introduce tells a new member of the conference about the others, and them about it.
func (s *switchboard) introduce(c *call) {
	for _, o := range s.calls {
		if o != c && o.state == stateInCall {
			s.do(actionSend, o, onMember, c.peer, c.name)
			s.do(actionSend, c, onMember, o.peer, o.name)
		}
	}
}

// announced is told by a member that there is another one. Of the two that do not know each other the smaller ID calls.
func (s *switchboard) announced(now time.Time, by *call, peer, name string) {
	if by.state != stateInCall || !isPeerID(peer) || peer == s.self || peer == by.peer {
		return
	}
	if c := s.live(peer); c != nil {
		if c.state == stateIncoming {
			c.member = true
			s.accept(now, c.leg)
		}
		return
	}
	if s.self < peer {
		if s.place(now, peer, name, "") {
			s.live(peer).member = true
		}
		return
	}
	for p, until := range s.expected {
		if now.After(until) {
			delete(s.expected, p)
		}
	}
	if len(s.expected) < maxRemembers {
		s.expected[peer] = now.Add(memberTime)
	}
}

func (s *switchboard) isExpected(now time.Time, peer string) bool {
	until, ok := s.expected[peer]
	delete(s.expected, peer)
	return ok && !now.After(until)
}

// accept answers a call.
func (s *switchboard) accept(now time.Time, leg int) {
	c := s.byLeg(leg)
	if c == nil || c.state != stateIncoming {
		return
	}
	c.state, c.answered = stateInCall, now
	if c.until = (time.Time{}); !c.heard {
		c.until = now.Add(joinTime)
	}
	s.do(actionAnswer, c, mediaCallee)
	s.welcome(c)
}

// hangUp ends a call, whatever its state: an incoming one is refused.
func (s *switchboard) hangUp(now time.Time, leg int) {
	c := s.byLeg(leg)
	switch {
	case c == nil || c.state == stateEnded:
	case c.state == stateIncoming:
		s.do(actionDecline, c, onCallRefused, string(endRefused))
		s.end(now, c, endWeRefused, "")
	default:
		s.end(now, c, endHungUp, "")
	}
}

// hangUpAll leaves the conference.
func (s *switchboard) hangUpAll(now time.Time) {
	for _, c := range slices.Clone(s.calls) {
		s.hangUp(now, c.leg)
	}
}

// say sends a line of chat to everybody in the conference.
func (s *switchboard) say(now time.Time, text string) {
	if text = clip(text, maxText); text == "" {
		return
	}
	sent := false
	for _, c := range s.calls {
		if c.state == stateInCall {
			s.do(actionSend, c, onIm, s.name, text)
			sent = true
		}
	}
	if sent {
		s.heard = append(s.heard, saying{now, "", s.name, text})
	}
}

// closed is told that a stream of the leg has ended or did not open: refused by the peer, or with the status code that says why.
func (s *switchboard) closed(now time.Time, leg int, refused bool, code string) {
	c := s.byLeg(leg)
	if c == nil || c.state == stateEnded {
		return
	}
	reason := endTheyHungUp
	switch {
	case c.state == stateRinging && refused:
		reason = endBusy
	case c.state == stateRinging && !c.reached:
		reason = endUnreachable
	case c.state == stateRinging:
		reason = endRefused
	case c.state == stateIncoming:
		reason = endMissed
	}
	s.end(now, c, reason, code)
}

// ringerLeft is told that the peer has left our control stream. A caller stays there for the whole call; once there are media streams it is
// those that tell the end, because in glare the side that answers leaves the control stream on its own.
func (s *switchboard) ringerLeft(now time.Time, leg int) {
	c := s.byLeg(leg)
	switch {
	case c == nil || c.caller:
	case c.state == stateIncoming:
		s.end(now, c, endMissed, "")
	case c.state == stateInCall && !c.heard:
		s.end(now, c, endLost, "")
	}
}

// heardOf notes that the media streams of a call work.
func (s *switchboard) heardOf(c *call) {
	if !c.heard {
		c.heard = true
		if c.state == stateInCall {
			c.until = time.Time{}
		}
	}
}

// lost is told that the service, and every peer with it, is gone.
func (s *switchboard) lost(now time.Time, code string) {
	for _, c := range slices.Clone(s.calls) {
		if c.state != stateEnded {
			s.end(now, c, endLost, code)
		}
	}
}

func (s *switchboard) end(now time.Time, c *call, reason endReason, code string) {
	c.state, c.reason, c.code, c.until = stateEnded, reason, code, now.Add(endedTime)
	s.do(actionClose, c, "")
}

// dismiss forgets an ended call.
func (s *switchboard) dismiss(leg int) {
	if c := s.byLeg(leg); c != nil && c.state == stateEnded {
		s.remove(c)
	}
}

func (s *switchboard) remove(c *call) {
	s.calls = slices.DeleteFunc(s.calls, func(o *call) bool { return o == c })
}

// forget bounds the ended calls that are still shown.
func (s *switchboard) forget(now time.Time) {
	ended := 0
	for i := len(s.calls) - 1; i >= 0; i-- {
		if c := s.calls[i]; c.state == stateEnded {
			if ended++; ended > maxRemembers || !now.Before(c.until) {
				s.remove(c)
			}
		}
	}
}

// tick ends what has waited long enough.
func (s *switchboard) tick(now time.Time) {
	for _, c := range slices.Clone(s.calls) {
		if c.until.IsZero() || now.Before(c.until) {
			continue
		}
		switch c.state {
		case stateRinging:
			reason := endNoAnswer
			if !c.reached {
				reason = endUnreachable
			}
			s.end(now, c, reason, "")
		case stateIncoming:
			s.do(actionDecline, c, onCallRefused, string(endNoAnswer))
			s.end(now, c, endMissed, "")
		case stateInCall:
			s.end(now, c, endLost, "")
		}
	}
	s.forget(now)
}

// next is when tick has something to do; zero: never.
func (s *switchboard) next() (at time.Time) {
	for _, c := range s.calls {
		if !c.until.IsZero() && (at.IsZero() || c.until.Before(at)) {
			at = c.until
		}
	}
	return at
}

// newest is the leg of the call that began last.
func (s *switchboard) newest() (leg int) {
	for _, c := range s.calls {
		leg = max(leg, c.leg)
	}
	return leg
}

// words says where a call stands, for people.
func (c *call) words() string {
	switch c.state {
	case stateRinging:
		if c.reached {
			return "Ringing…"
		}
		return "Connecting…"
	case stateIncoming:
		return "is calling"
	case stateInCall:
		return "In call"
	}
	switch c.reason {
	case endHungUp, endTheyHungUp:
		return "The call has ended."
	case endRefused:
		return "The call was refused."
	case endWeRefused:
		return "You refused the call."
	case endBusy:
		return "Busy: the other phone takes no more calls."
	case endNoAnswer:
		return "Nobody answered."
	case endMissed:
		return "You missed the call."
	case endUnreachable:
		if c.code == "" {
			return "Nobody answers there. Are they online, and is the ID right?"
		}
		return "They do not answer: offline, or no way leads there (" + c.code + "). If others reach them, a TURN proxy in mms.cfg (RTMFPTURNProxy) helps."
	}
	return "The connection was lost."
}

// isPeerID reports whether s is a peer ID as this program writes it.
func isPeerID(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// clip makes a stranger's text fit to be shown: one line of valid UTF-8 without control characters, of at most n runes.
func clip(s string, n int) string {
	s = strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r < ' ' || r == utf8.RuneError || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069:
			return -1 // controls, and what turns the direction of text
		}
		return r
	}, s))
	if utf8.RuneCountInString(s) > n {
		s = string([]rune(s)[:n])
	}
	return s
}
