package main

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

func id(c string) string { return strings.Repeat(c, 64) }

var start = time.Date(2027, 3, 2, 12, 0, 0, 0, time.UTC)

// phones is a world of switchboards whose streams take a random time, each in order, as RTMFP's flows do.
type phones struct {
	t     *testing.T
	rng   *rand.Rand
	now   time.Time
	board map[string]*switchboard
	queue []delivery
	sent  int
	// streams that are open: who subscribes to what with which leg, and which leg publishes it.
	streams []*stream
	slow    time.Duration
}

type stream struct {
	from, to string // subscriber, publisher
	name     string
	leg      int // the subscriber's
	pubLeg   int // the publisher's, once it is claimed
	open     bool
	dead     bool
	held     bool
	next     bool      // it rings again when the call of pubLeg has ended
	last     time.Time // of the last delivery either way: streams keep their order
}

type delivery struct {
	at  time.Time
	seq int
	do  func()
}

func newPhones(t *testing.T, seed uint64, names ...string) *phones {
	p := &phones{t: t, rng: rand.New(rand.NewPCG(seed, 1)), now: start, board: map[string]*switchboard{}, slow: 80 * time.Millisecond}
	for _, n := range names {
		p.board[id(n)] = newSwitchboard(id(n), "name "+n, false)
	}
	return p
}

func (p *phones) of(n string) *switchboard { return p.board[id(n)] }

// later delivers after a random time, behind whatever else is under way on the stream.
func (p *phones) later(s *stream, do func()) {
	at := p.now.Add(time.Millisecond + time.Duration(p.rng.Int64N(int64(p.slow))))
	if at.Before(s.last) {
		at = s.last
	}
	s.last = at
	p.sent++
	p.queue = append(p.queue, delivery{at, p.sent, do})
}

// drain does what every switchboard wants done.
func (p *phones) drain() {
	for again := true; again; {
		again = false
		for _, self := range slices.Sorted(maps.Keys(p.board)) { // in order, so that a seed means the same run
			b := p.board[self]
			out := b.out
			b.out = nil
			for _, a := range out {
				again = true
				p.act(self, b, a)
			}
		}
	}
}

func (p *phones) subscribe(self string, a action, name string) {
	s := &stream{from: self, to: a.peer, name: name, leg: a.leg}
	p.streams = append(p.streams, s)
	p.later(s, func() { p.arrive(s) })
}

// arrive brings a subscription to the publisher.
func (p *phones) arrive(s *stream) {
	b := p.board[s.to]
	if s.dead || b == nil {
		return
	}
	if s.name == mediaCallee && !b.publishes(mediaCallee) {
		return // it waits among the unconnected ones
	}
	var ok bool
	if strings.HasPrefix(s.name, controlPrefix) {
		before := b.live(s.from)
		if ok = b.ring(p.now, s.from); ok {
			s.pubLeg = b.live(s.from).leg
			s.next = before != nil && before.leg == s.pubLeg
		}
	} else {
		switch b.admit(s.from, s.name) {
		case take:
			s.pubLeg, ok = b.live(s.from).leg, true
		case hold:
			s.held = true
			return
		}
	}
	if !ok {
		s.dead = true
		p.later(s, func() { p.board[s.from].closed(p.now, s.leg, true, "NetStream.Connect.Rejected") })
		return
	}
	s.open = true
	p.later(s, func() {
		if strings.HasPrefix(s.name, controlPrefix) {
			p.board[s.from].reached(p.now, s.leg)
		}
	})
	if !strings.HasPrefix(s.name, controlPrefix) {
		b.subscribed(p.now, s.pubLeg)
	}
}

func (p *phones) act(self string, b *switchboard, a action) {
	switch a.kind {
	case actionRing:
		p.subscribe(self, a, a.text)
		p.subscribe(self, a, mediaCallee)
	case actionListen:
		p.subscribe(self, a, a.text)
		for _, s := range p.streams {
			if s.to == self && s.from == a.peer && s.held && !s.dead {
				s.held = false
				p.arrive(s)
			}
		}
	case actionAnswer:
		for _, s := range p.streams {
			if s.to == self && s.name == mediaCallee && !s.open && !s.dead && (s.from == a.peer || !s.held) {
				p.later(s, func() { p.arrive(s) })
			}
		}
	case actionSend, actionDecline:
		for _, s := range p.streams {
			if s.to == self && s.pubLeg == a.leg && s.open && !s.dead && (a.kind == actionDecline) == strings.HasPrefix(s.name, controlPrefix) {
				p.later(s, func() { p.board[s.from].message(p.now, s.leg, a.text, a.args) })
			}
		}
	case actionClose:
		for _, s := range p.streams {
			switch {
			case s.dead:
			case s.to == self && s.pubLeg == a.leg && s.next:
				p.later(s, func() { p.arrive(s) })
			case s.from == self && s.leg == a.leg:
				s.dead = true
				p.later(s, func() {
					switch b := p.board[s.to]; {
					case s.pubLeg == 0 || b == nil || s.next:
					case strings.HasPrefix(s.name, controlPrefix):
						b.ringerLeft(p.now, s.pubLeg)
					default:
						b.closed(p.now, s.pubLeg, false, "NetStream.Connect.Closed")
					}
				})
			case s.to == self && s.pubLeg == a.leg:
				s.dead = true
				p.later(s, func() { p.board[s.from].closed(p.now, s.leg, false, "NetStream.Play.UnpublishNotify") })
			}
		}
	}
}

// publishes reports whether a media stream is out: some call has it.
func (s *switchboard) publishes(stream string) bool {
	return slices.ContainsFunc(s.calls, func(c *call) bool {
		return c.caller == (stream == mediaCaller) && (c.state == stateInCall || c.state == stateRinging)
	})
}

// run lets the time pass.
func (p *phones) run(d time.Duration) {
	end := p.now.Add(d)
	for {
		p.drain()
		next := end
		for _, b := range p.board {
			if at := b.next(); !at.IsZero() && at.Before(next) {
				next = at
			}
		}
		i := -1
		for j, q := range p.queue {
			if i < 0 || q.at.Before(p.queue[i].at) || q.at.Equal(p.queue[i].at) && q.seq < p.queue[i].seq {
				i = j
			}
		}
		if i >= 0 && !p.queue[i].at.After(next) {
			q := p.queue[i]
			p.queue = slices.Delete(p.queue, i, i+1)
			p.now = q.at
			q.do()
			continue
		}
		if p.now = next; !next.Before(end) {
			break
		}
		for _, b := range p.board {
			b.tick(p.now)
		}
	}
	p.drain()
}

func (p *phones) state(n, with string) string {
	for i := len(p.of(n).calls) - 1; i >= 0; i-- {
		if c := p.of(n).calls[i]; c.peer == id(with) {
			if c.state == stateEnded {
				return string(c.reason)
			}
			return string(c.state)
		}
	}
	return "none"
}

func (p *phones) want(a, b, wantA, wantB string) {
	p.t.Helper()
	if gotA, gotB := p.state(a, b), p.state(b, a); gotA != wantA || gotB != wantB {
		p.t.Errorf("%s is %q and %s %q, want %q and %q", a, gotA, b, gotB, wantA, wantB)
	}
}

func (p *phones) leg(n, with string) int {
	if c := p.of(n).live(id(with)); c != nil {
		return c.leg
	}
	return 0
}

func TestCallIsRungAcceptedAndEndedByEither(t *testing.T) {
	for seed := range uint64(40) {
		p := newPhones(t, seed, "a", "b")
		p.of("a").place(p.now, id("b"), "b", "b")
		p.run(time.Second)
		p.want("a", "b", "ringing", "incoming")
		if c := p.of("b").live(id("a")); c.name != "name a" || !c.reached {
			t.Fatalf("the callee knows %q", c.name)
		}
		if c := p.of("a").live(id("b")); !c.reached {
			t.Fatal("the caller does not know that it rings")
		}
		p.of("b").accept(p.now, p.leg("b", "a"))
		p.run(time.Second)
		p.want("a", "b", "in-call", "in-call")
		p.of("a").say(p.now, "hello\x1b[31m")
		p.run(time.Second)
		if h := p.of("b").heard; len(h) != 1 || h[0].name != "name a" || h[0].text != "hello[31m" {
			t.Fatalf("heard %+v", h)
		}
		if seed%2 == 0 {
			p.of("a").hangUp(p.now, p.leg("a", "b"))
			p.run(time.Second)
			p.want("a", "b", "hung-up", "they-hung-up")
		} else {
			p.of("b").hangUp(p.now, p.leg("b", "a"))
			p.run(time.Second)
			p.want("a", "b", "they-hung-up", "hung-up")
		}
		p.run(time.Minute)
		p.want("a", "b", "none", "none")
	}
}

func TestCallEndsAsItShouldWithoutAnAnswer(t *testing.T) {
	for _, c := range []struct {
		name         string
		do           func(p *phones)
		wait         time.Duration
		wantA, wantB string
	}{
		{"refused", func(p *phones) { p.of("b").hangUp(p.now, p.leg("b", "a")) }, time.Second, "refused", "we-refused"},
		{"given up", func(p *phones) { p.of("a").hangUp(p.now, p.leg("a", "b")) }, time.Second, "hung-up", "missed"},
		{"nobody there", func(*phones) {}, ringTime, "no-answer", "missed"},
		{"the service is gone", func(p *phones) { p.of("a").lost(p.now, "NetConnection.Connect.Closed") }, time.Second, "lost", "missed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPhones(t, 7, "a", "b")
			p.of("a").place(p.now, id("b"), "b", "b")
			p.run(time.Second)
			c.do(p)
			p.run(c.wait)
			p.want("a", "b", c.wantA, c.wantB)
		})
	}
}

func TestCallToNobodyIsUnreachableAfterTheTimeASessionMayTake(t *testing.T) {
	p := newPhones(t, 1, "a")
	p.of("a").place(p.now, id("b"), "b", "b")
	p.run(reachTime - time.Second)
	if s := p.state("a", "b"); s != "ringing" {
		t.Errorf("%s too early", s)
	}
	p.run(2 * time.Second)
	if s := p.state("a", "b"); s != "unreachable" {
		t.Errorf("%s", s)
	}
}

func TestFullPhoneIsBusy(t *testing.T) {
	p := newPhones(t, 1, "a", "b", "c", "d", "e")
	for _, n := range []string{"b", "c", "d"} {
		p.of("a").place(p.now, id(n), n, n)
	}
	p.of("e").place(p.now, id("a"), "a", "a")
	p.run(time.Second)
	p.want("e", "a", "busy", "none")
	if p.of("a").place(p.now, id("e"), "e", "e") {
		t.Error("a fifth phone was called")
	}
}

// TestGlareEndsInOneCall is the case that the sample does not solve: both dial before either hears the other.
func TestGlareEndsInOneCall(t *testing.T) {
	for seed := range uint64(300) {
		p := newPhones(t, seed, "a", "b")
		p.of("b").place(p.now, id("a"), "a", "a")
		p.run(time.Duration(p.rng.Int64N(int64(100 * time.Millisecond))))
		p.of("a").place(p.now, id("b"), "b", "b")
		p.run(2 * time.Second)
		if p.state("a", "b") != "in-call" || p.state("b", "a") != "in-call" {
			t.Fatalf("seed %d: a is %q and b %q", seed, p.state("a", "b"), p.state("b", "a"))
		}
		if a, b := p.of("a").live(id("b")), p.of("b").live(id("a")); a.caller == b.caller {
			t.Fatalf("seed %d: who is the caller?", seed)
		} else if a.name != "name b" || b.name != "name a" {
			t.Fatalf("seed %d: they know each other as %q and %q", seed, b.name, a.name)
		}
	}
}

func TestInGlareTheSmallerIDStaysTheCaller(t *testing.T) {
	for seed := range uint64(20) {
		p := newPhones(t, seed, "a", "b")
		p.of("b").place(p.now, id("a"), "a", "a")
		p.of("a").place(p.now, id("b"), "b", "b")
		p.run(2 * time.Second)
		if c := p.of("a").live(id("b")); c == nil || !c.caller {
			t.Fatalf("seed %d: %+v", seed, c)
		}
	}
}

// TestClosingInEveryOrderLeavesNothingBehind lets both sides do everything at random times, and then waits.
func TestClosingInEveryOrderLeavesNothingBehind(t *testing.T) {
	for seed := range uint64(2000) {
		p := newPhones(t, seed, "a", "b")
		var did []string
		for range 2 + p.rng.IntN(6) {
			x, y := "a", "b"
			if p.rng.IntN(2) == 0 {
				x, y = y, x
			}
			b := p.of(x)
			what := p.rng.IntN(4)
			did = append(did, fmt.Sprintf("%s%d@%v", x, what, p.now.Sub(start)))
			switch what {
			case 0, 1:
				b.place(p.now, id(y), y, y)
			case 2:
				b.accept(p.now, p.leg(x, y))
			case 3:
				b.hangUp(p.now, p.leg(x, y))
			}
			p.run(time.Duration(p.rng.Int64N(int64(150 * time.Millisecond))))
		}
		p.run(3 * time.Second)
		a, b := p.of("a").live(id("b")), p.of("b").live(id("a"))
		switch {
		case a == nil && b == nil:
		case a == nil || b == nil:
			t.Fatalf("seed %d %v: a is %q, b is %q", seed, did, p.state("a", "b"), p.state("b", "a"))
		case a.state == stateInCall && b.state == stateInCall, a.state == stateRinging && b.state == stateIncoming, a.state == stateIncoming && b.state == stateRinging:
		default:
			t.Fatalf("seed %d %v: a is %q, b is %q", seed, did, a.state, b.state)
		}
		p.of("a").hangUpAll(p.now)
		p.of("b").hangUpAll(p.now)
		p.run(2 * time.Minute)
		if len(p.of("a").calls)+len(p.of("b").calls) != 0 {
			t.Fatalf("seed %d %v: calls are left: %q, %q", seed, did, p.state("a", "b"), p.state("b", "a"))
		}
		for _, s := range p.streams {
			if !s.dead {
				t.Fatalf("seed %d %v: stream %s of %.1s at %.1s is left open", seed, did, s.name, s.from, s.to)
			}
		}
	}
}

func TestThreePhonesFormAMesh(t *testing.T) {
	for seed := range uint64(500) {
		p := newPhones(t, seed, "a", "b", "c")
		hub, others := "b", []string{"a", "c"}
		if seed%2 == 1 {
			hub, others = "a", []string{"b", "c"}
		}
		for _, o := range others {
			p.of(hub).place(p.now, id(o), o, o)
			p.run(time.Duration(p.rng.Int64N(int64(time.Second))))
		}
		p.run(time.Second)
		for _, o := range others {
			p.of(o).accept(p.now, p.leg(o, hub))
			p.run(time.Duration(p.rng.Int64N(int64(300 * time.Millisecond))))
		}
		p.run(3 * time.Second)
		for _, pair := range [][2]string{{"a", "b"}, {"b", "c"}, {"a", "c"}} {
			p.want(pair[0], pair[1], "in-call", "in-call")
		}
		p.of(hub).hangUpAll(p.now)
		p.run(time.Second)
		p.want(others[0], others[1], "in-call", "in-call")
	}
}

func TestStrangerIsNotPutThroughByWhoIsNotInTheCall(t *testing.T) {
	p := newPhones(t, 1, "a", "b", "c")
	p.of("a").place(p.now, id("b"), "b", "b")
	p.run(time.Second)
	// b has not accepted: what a says about c counts for nothing.
	p.of("b").message(p.now, p.leg("b", "a"), onMember, []string{id("c"), "c"})
	if c := p.of("b").live(id("c")); c != nil {
		t.Error("b calls c")
	}
	if p.of("b").isExpected(p.now, id("c")) {
		t.Error("b would let c in")
	}
}

func TestTextOfStrangersIsMadeFitToShow(t *testing.T) {
	for _, c := range []struct {
		in, want string
		n        int
	}{
		{"  two\nlines\t", "two lines", 16}, {"\x00\x1b[2J", "[2J", 16}, {"abc\u202etxt", "abctxt", 16}, {"a\xffb", "ab", 16}, {"ätsch", "ätsc", 4},
	} {
		if got := clip(c.in, c.n); got != c.want {
			t.Errorf("%q became %q", c.in, got)
		}
	}
}
