package rtmfp

import (
	"fmt"
	"math"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestCloseInEveryOrder(t *testing.T) {
	ways := map[string]func(*Session, time.Time){"close": (*Session).Close, "abort": (*Session).Abort, "nothing": func(*Session, time.Time) {}}
	for first := range ways {
		for second := range ways {
			for seed := range uint64(6) {
				name := fmt.Sprintf("%s, %s, seed %d", first, second, seed)
				w := newWorld(t, seed)
				if seed > 2 {
					w.loss, w.dup = 0.3, 0.2
				}
				w.delayMax = 100 * time.Millisecond
				a, b := w.add("a", Config{Keepalive: 20 * time.Second}, addrA), w.add("b", Config{Keepalive: 20 * time.Second}, addrB)
				near, far := w.connect(a, b)
				f, _ := near.OpenFlow(w.now, FlowConfig{Metadata: []byte("m")})
				f.Write(w.now, make([]byte, 5000), WriteOptions{})
				w.run(time.Duration(seed%3)*70*time.Millisecond, nil)
				ways[first](near, w.now)
				w.run(time.Duration(w.rng.Int64N(int64(200*time.Millisecond))), nil)
				ways[second](far, w.now)
				if f.State() != FlowClosed && first != "nothing" && second != "nothing" {
					t.Errorf("%s: the flow is %v", name, f.State())
				}
				w.run(5*time.Minute, nil)
				if open := first == "nothing" && second == "nothing"; open {
					if near.State() != StateOpen || far.State() != StateOpen {
						t.Errorf("%s: %v, %v", name, near.State(), far.State())
					}
					continue
				}
				if near.State() != StateClosed || far.State() != StateClosed || a.e.Sessions()+b.e.Sessions() != 0 || len(a.e.timers)+len(b.e.timers) != 0 {
					t.Errorf("%s: %v, %v", name, near.State(), far.State())
				}
				for _, n := range w.nodes {
					if n.seen[EventSessionClosing] != 1 || n.seen[EventSessionClosed] != 1 {
						t.Errorf("%s: %s saw %v", name, n.name, n.seen)
					}
				}
			}
		}
	}
}

func TestCloseTimers(t *testing.T) {
	w := newWorld(t, 1)
	a, b := w.add("a", Config{}, addrA), w.add("b", Config{}, addrB)
	near, far := w.connect(a, b)
	w.run(7*time.Second, nil)
	var at []time.Duration
	begin := w.now
	w.filter = func(p *packet) bool {
		if slices.Contains(kinds(p.data), ChunkClose) {
			at = append(at, w.now.Sub(begin))
			return len(at) == 1 // the far end hears the first, and its answers are lost
		}
		return false
	}
	near.Close(w.now)
	w.run(20*time.Millisecond, nil)
	w.run(time.Nanosecond, nil)
	if near.State() != StateNearClose || far.State() != StateFarCloseLinger {
		t.Fatalf("%v, %v", near.State(), far.State())
	}
	w.run(19*time.Second-2*time.Nanosecond, nil)
	if far.State() != StateFarCloseLinger {
		t.Errorf("%v before 19 s", far.State())
	}
	w.run(2*time.Nanosecond, nil)
	if far.State() != StateClosed {
		t.Errorf("%v at 19 s", far.State())
	}
	w.run(begin.Add(90*time.Second).Sub(w.now), nil)
	if near.State() != StateNearClose {
		t.Errorf("%v before 90 s", near.State())
	}
	w.run(time.Nanosecond, nil)
	if near.State() != StateClosed {
		t.Errorf("%v at 90 s", near.State())
	}
	if len(at) != 18 || at[17] != 85*time.Second {
		t.Errorf("Close at %v", at)
	}
}

func TestSessionSurvivesRebinding(t *testing.T) {
	w := newWorld(t, 3)
	w.loss = 0.1
	a, b := w.add("a", Config{Keepalive: 5 * time.Second}, addrA), w.add("b", Config{Keepalive: 5 * time.Second}, addrB)
	near, far := w.connect(a, b)
	f, _ := near.OpenFlow(w.now, FlowConfig{Metadata: []byte("m")})
	for n := range 40 {
		f.Write(w.now, body(n, 3000), WriteOptions{})
		if n%10 == 9 {
			a.addrs[0] = netip.AddrPortFrom(a.addrs[0].Addr(), a.addrs[0].Port()+1)
		}
		w.run(500*time.Millisecond, nil)
	}
	w.run(time.Minute, func() bool { return b.seen[EventMessage] == 40 })
	if _, addr := far.FarAddress(); addr != a.addrs[0] || b.seen[EventMessage] != 40 || b.e.counters.Moved != 4 || b.e.SessionByAddress(addr) != far {
		t.Errorf("at %v, %d messages, moved %d times", addr, b.seen[EventMessage], b.e.counters.Moved)
	}
	_ = near
}

func TestAddressChangeNeedsProof(t *testing.T) {
	other := netip.MustParseAddrPort("192.0.2.66:6")
	for _, test := range []struct {
		name            string
		unauthenticated bool
		reply           bool // the check is answered
		empty           bool // as peers of the Flash era do
		moves           bool
	}{
		{"answered", false, true, false, true},
		{"answered with an empty reply", false, true, true, true},
		{"not answered", false, false, false, false},
		{"without authentication", true, true, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, 1)
			a := w.add("a", Config{Identity: &plainIdentity{name: "a", unauthenticated: test.unauthenticated}}, addrA)
			b := w.add("b", Config{Identity: &plainIdentity{name: "b", unauthenticated: test.unauthenticated}}, addrB)
			near, far := w.connect(a, b)
			w.run(7*time.Second, nil)
			w.filter = func(p *packet) bool {
				if p.from == a.addrs[0] {
					p.from = other // a NAT, or somebody who sends copies from elsewhere
				}
				if p.to == other {
					if !test.reply {
						return false
					}
					p.to = a.addrs[0]
					if test.empty && slices.Contains(kinds(p.data), ChunkPing) {
						near.queueControl(AppendChunk(nil, ChunkPingReply, nil))
						return false
					}
				}
				return true
			}
			near.queueControl(AppendChunk(nil, ChunkPing, nil))
			w.run(500*time.Millisecond, nil)
			if _, addr := far.FarAddress(); (addr == other) != test.moves {
				t.Errorf("at %v", addr)
			}
		})
	}
}

func TestForgedMobilityReplyDoesNotMove(t *testing.T) {
	w := newWorld(t, 1)
	a, b := w.add("a", Config{}, addrA), w.add("b", Config{}, addrB)
	near, far := w.connect(a, b)
	w.run(7*time.Second, nil)
	first, second := netip.MustParseAddrPort("192.0.2.66:6"), netip.MustParseAddrPort("192.0.2.67:7")
	from := func(addr netip.AddrPort, chunk []byte) (reply []byte) {
		near.sendControl(near.far, chunk)
		b.e.Receive(w.now, 0, addr, slices.Clone(a.e.Flush(w.now)[0].Data))
		for _, d := range b.e.Flush(w.now) {
			if d.To != addr {
				continue
			}
			_, chunks, _ := ParseHeader(d.Data[4+plainOverhead:])
			for kind, payload := range Chunks(chunks) {
				if kind == ChunkPing {
					reply = AppendChunk(nil, ChunkPingReply, payload)
				}
			}
		}
		return reply
	}
	at := func() netip.AddrPort { _, addr := far.FarAddress(); return addr }
	reply := from(first, AppendChunk(nil, ChunkPadding, nil))
	if reply == nil {
		t.Fatal("no check of the new address")
	}
	w.now = w.now.Add(2 * time.Second)
	from(second, reply) // the hash is for another address
	forged := slices.Clone(reply)
	forged[len(forged)-1] ^= 1
	from(first, forged)
	if at() != a.addrs[0] {
		t.Fatalf("moved to %v by a forged reply", at())
	}
	w.now = w.now.Add(mobilityLifetime - 2*time.Second + time.Nanosecond)
	from(first, reply)
	if at() != a.addrs[0] {
		t.Fatal("moved by an old reply")
	}
	w.now = w.now.Add(2 * time.Second)
	if reply = from(first, AppendChunk(nil, ChunkPadding, nil)); reply == nil {
		t.Fatal("no second check")
	}
	from(first, reply)
	if at() != first {
		t.Fatal("not moved by a good reply")
	}
	from(a.addrs[0], AppendChunk(nil, ChunkPadding, nil))
	from(first, reply)
	from(second, reply)
	if at() != first {
		t.Error("moved by a reply that was used")
	}
}

func TestPacketWithTheWrongMarkIsDropped(t *testing.T) {
	w := newWorld(t, 1)
	a, b := w.add("a", Config{}, addrA), w.add("b", Config{}, addrB)
	near, far := w.connect(a, b)
	for _, mode := range []Mode{ModeResponder, ModeStartup} {
		before := b.e.counters.Packets[DropMode]
		plain := AppendChunk(AppendHeader(nil, Header{Mode: mode}), ChunkCloseAck, nil)
		b.e.Receive(w.now, 0, a.addrs[0], a.e.seal(near.keys, far.ID(), plain))
		if far.State() != StateOpen || b.e.counters.Packets[DropMode] != before+1 {
			t.Errorf("%v: %v", mode, b.e.counters.Packets)
		}
	}
}

// TestRetransmissionTimeout is §3.5.2.2 by hand.
func TestRetransmissionTimeout(t *testing.T) {
	e := &Endpoint{tcReceived: longAgo}
	s := e.newSession(StateOpen, RoleInitiator)
	if s.rtt.erto != 3*time.Second {
		t.Errorf("at first %v", s.rtt.erto)
	}
	echo := func(ago time.Duration) {
		s.receiveHeader(Header{TimestampEchoPresent: true, TimestampEcho: e.ticks() - uint16(ago/Tick)})
	}
	e.now = instant(time.Hour)
	echo(100 * time.Millisecond)
	if s.rtt.srtt != 100*time.Millisecond || s.rtt.rttvar != 50*time.Millisecond || s.rtt.erto != 500*time.Millisecond {
		t.Errorf("first measurement: %+v", s.rtt)
	}
	echo(180 * time.Millisecond)
	if s.rtt.srtt != 110*time.Millisecond || s.rtt.rttvar != 57500*time.Microsecond || s.rtt.erto != 540*time.Millisecond {
		t.Errorf("second measurement: %+v", s.rtt)
	}
	echo(-time.Second) // from the future
	if s.rtt.srtt != 110*time.Millisecond {
		t.Errorf("an invalid echo counted: %+v", s.rtt)
	}
	for range 20 {
		s.rtt.backoff()
	}
	if s.rtt.erto != 10*time.Second {
		t.Errorf("backed off to %v", s.rtt.erto)
	}
}

func TestTimestampIsEchoedFor128Seconds(t *testing.T) {
	e := &Endpoint{tcReceived: longAgo}
	s := e.newSession(StateOpen, RoleInitiator)
	s.receiveHeader(Header{TimestampPresent: true, Timestamp: 65530})
	e.now = instant(40*time.Millisecond + 3*time.Millisecond)
	var h Header
	if s.sendHeader(&h); !h.TimestampEchoPresent || h.TimestampEcho != 4 {
		t.Errorf("%+v", h)
	}
	h = Header{}
	if s.sendHeader(&h); h.TimestampEchoPresent {
		t.Error("the same echo twice")
	}
	e.now = instant(128 * time.Second)
	if s.sendHeader(&h); !h.TimestampEchoPresent {
		t.Error("no echo at 128 s")
	}
	h = Header{}
	e.now++
	if s.sendHeader(&h); h.TimestampEchoPresent {
		t.Error("an echo after 128 s")
	}
}

func TestKeepaliveFindsTheDead(t *testing.T) {
	w := newWorld(t, 1)
	a, b := w.add("a", Config{}, addrA), w.add("b", Config{Keepalive: 10 * time.Second, RetransmitLimit: 30 * time.Second, IdleLimit: -1}, addrB)
	near, far := w.connect(a, b)
	w.run(100*time.Second, nil)
	if far.State() != StateOpen || near.State() != StateOpen {
		t.Fatalf("%v, %v while both live", near.State(), far.State())
	}
	silent := w.now
	w.nodes = []*node{b}
	w.run(10*time.Minute, func() bool { return far.State() == StateClosed })
	if ev, _ := b.last(EventSessionClosing); ev.Reason != ReasonUnresponsive || w.now.Sub(silent) > 41*time.Second || w.now.Sub(silent) < 30*time.Second {
		t.Errorf("%v after %v", ev.Reason, w.now.Sub(silent))
	}
}

func TestIdleSessionIsClosed(t *testing.T) {
	w := newWorld(t, 1)
	a, b := w.add("a", Config{IdleLimit: time.Minute}, addrA), w.add("b", Config{}, addrB)
	near, far := w.connect(a, b)
	f, _ := near.OpenFlow(w.now, FlowConfig{Metadata: []byte("m")})
	f.Begin(w.now)
	w.run(3*time.Minute, nil)
	if near.State() != StateOpen || b.seen[EventFlowOpen] != 1 {
		t.Fatalf("%v with an open flow, %d flows begun", near.State(), b.seen[EventFlowOpen])
	}
	f.Close(w.now)
	w.run(62*time.Second, nil)
	if ev, _ := a.last(EventSessionClosing); ev.Reason != ReasonIdle || far.State() == StateOpen {
		t.Errorf("%v, far end %v", ev.Reason, far.State())
	}
}

func TestKeysRestInSilence(t *testing.T) {
	w := newWorld(t, 1)
	a, b := w.add("a", Config{Keepalive: 10 * time.Second}, addrA), w.add("b", Config{}, addrB)
	near, far := w.connect(a, b)
	f, _ := near.OpenFlow(w.now, FlowConfig{Metadata: []byte("m")})
	rests := func() int { return near.keys.(*plainCipher).rests + far.keys.(*plainCipher).rests }
	for range 20 { // as long as something comes or goes, they do not
		f.Write(w.now, []byte("x"), WriteOptions{})
		w.drain(a)
		w.run(restAfter-500*time.Millisecond, nil)
	}
	if rests() != 0 {
		t.Errorf("%d rests in traffic", rests())
	}
	w.run(5*time.Second, nil)
	if rests() != 2 {
		t.Errorf("%d rests in silence", rests())
	}
	w.run(time.Minute, nil) // with a ping each 10 s
	if got := rests(); got < 8 || got > 14 {
		t.Errorf("%d rests between pings", got)
	}
	near.Close(w.now)
	w.drain(a)
	w.run(2*time.Minute, nil)
}

func TestReplayedAndForgedPacketsAreCounted(t *testing.T) {
	w := newWorld(t, 1)
	a, b := w.add("a", Config{}, addrA), w.add("b", Config{}, addrB)
	near, far := w.connect(a, b)
	near.sendControl(near.far, AppendChunk(nil, ChunkPing, nil))
	data := a.e.Flush(w.now)[0].Data
	send := func(b []byte) []byte { return append([]byte(nil), b...) }
	forged := send(data)
	forged[20] ^= 1
	unknown := send(data)
	PutSessionID(unknown, far.ID()+1)
	for _, test := range []struct {
		name string
		data []byte
		want Disposition
	}{
		{"authentic", send(data), PacketSession},
		{"replayed", send(data), DropReplay},
		{"forged", forged, DropIntegrity},
		{"for another session", unknown, DropUnknownSession},
		{"short", []byte{1, 2, 3, 4}, DropShort},
	} {
		before := b.e.counters.Packets[test.want]
		b.e.Receive(w.now, 0, a.addrs[0], test.data)
		if b.e.counters.Packets[test.want] != before+1 {
			t.Errorf("%s: %v", test.name, b.e.counters.Packets)
		}
	}
	b.e.Receive(w.now, 3, a.addrs[0], send(data))
	checkEndpoint(t, b.e)
	if b.e.counters.Packets[DropInterface] != 1 {
		t.Error("an interface that does not exist")
	}
}

// TestIdleSessionTakesLittleMemory measures what a session with a flow in each direction keeps, but for what the profile keeps.
func TestIdleSessionTakesLittleMemory(t *testing.T) {
	w := newWorld(t, 1)
	b := w.add("b", Config{}, addrB)
	const count = 2000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range count {
		k := &Keying{
			identity: b.e.cfg.Identity, from: path{0, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 1)},
			farID: 1, cert: make([]byte, 132), ok: true, id: b.e.newSessionID(), keys: &plainCipher{key: 1, authenticated: true},
		}
		copy(k.cert, fmt.Sprintf("cert:%d:", i))
		b.e.finishResponder(k)
		s := b.e.sessions[k.id]
		s.confirm()
		f, err := s.OpenFlow(w.now, FlowConfig{Metadata: []byte("TC\x04\x00")})
		if err != nil {
			t.Fatal(err)
		}
		f.Write(w.now, []byte("hello"), WriteOptions{})
		s.receiveUserData(UserData{FlowID: 2, Sequence: 1, FSNOffset: 1, OptionsPresent: true, Options: f.options, Data: []byte("hello")})
		b.e.Recycle(b.e.Flush(w.now))
		s.receiveAck(Ack{FlowID: f.id, BufferBlocks: 64, Cumulative: 1})
		b.e.Events()
	}
	b.e.Recycle(b.e.Flush(w.now))
	runtime.GC()
	runtime.ReadMemStats(&after)
	each := int(after.HeapAlloc-before.HeapAlloc) / count
	runtime.KeepAlive(b)
	t.Logf("%d bytes a session", each)
	if each > 2800 {
		t.Errorf("%d bytes a session", each)
	}
}

// TestSessionStatesFollowTheFigure drives two endpoints at random and holds every transition to Figure 8, and flows to
// Figures 19 and 22.
func TestSessionStatesFollowTheFigure(t *testing.T) {
	flowAllowed := map[FlowState][]FlowState{
		FlowUnknown:  {FlowOpen, FlowRejected, FlowClosing, FlowLinger, FlowClosed},
		FlowOpen:     {FlowClosing, FlowRejected, FlowLinger, FlowClosed},
		FlowClosing:  {FlowLinger, FlowClosed},
		FlowRejected: {FlowLinger, FlowClosed},
		FlowLinger:   {FlowClosed},
	}
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t, rapid.Uint64().Draw(rt, "seed"))
		w.loss, w.dup, w.delayMax = rapid.Float64Range(0, 0.3).Draw(rt, "loss"), 0.1, 100*time.Millisecond
		nodes := []*node{w.add("a", Config{}, addrA), w.add("b", Config{}, addrB)}
		states := map[*Session]State{}
		flows := map[any]FlowState{}
		written := map[*SendFlow]int{}
		delivered := map[*ReceiveFlow]int{}
		note := func(s *Session) {
			if old := states[s]; old != s.State() {
				if !slices.Contains(allowed[old], s.State()) {
					rt.Fatalf("%v to %v", old, s.State())
				}
				states[s] = s.State()
			}
			flow := func(f any, now FlowState) {
				if old := flows[f]; old != now {
					if !slices.Contains(flowAllowed[old], now) {
						rt.Fatalf("flow %T: %v to %v", f, old, now)
					}
					flows[f] = now
				}
			}
			for _, f := range s.SendFlows() {
				flow(f, f.State())
			}
			for _, f := range s.ReceiveFlows() {
				flow(f, f.State())
			}
		}
		var sessions []*Session
		for _, n := range nodes {
			n.handle = func(ev Event) {
				if ev.Session != nil {
					if !slices.Contains(sessions, ev.Session) {
						sessions = append(sessions, ev.Session)
					}
					note(ev.Session)
				}
				if ev.Kind == EventMessage {
					if ev.Lost || len(ev.Data) < 4 || ev.Data[3] != byte(delivered[ev.Receive]) {
						rt.Fatalf("message %v after %d", ev.Data[:4], delivered[ev.Receive])
					}
					delivered[ev.Receive]++
				}
			}
		}
		some := func(rt *rapid.T) *Session {
			if len(sessions) == 0 {
				rt.Skip()
			}
			return rapid.SampledFrom(sessions).Draw(rt, "session")
		}
		rt.Repeat(map[string]func(*rapid.T){
			"open": func(rt *rapid.T) {
				i := rapid.IntRange(0, 1).Draw(rt, "from")
				s, err := nodes[i].e.Open(w.now, []byte("id:"+nodes[1-i].name), Candidate{0, nodes[1-i].addrs[0]})
				if err == nil {
					sessions = append(sessions, s)
				}
			},
			"wait": func(rt *rapid.T) {
				w.run(time.Duration(rapid.Int64Range(0, int64(3*time.Second)).Draw(rt, "d")), nil)
			},
			"wait long": func(rt *rapid.T) {
				w.run(time.Duration(rapid.IntRange(10, 150).Draw(rt, "s"))*time.Second, nil)
			},
			"close": func(rt *rapid.T) { some(rt).Close(w.now) },
			"abort": func(rt *rapid.T) { some(rt).Abort(w.now) },
			"flow": func(rt *rapid.T) {
				s := some(rt)
				f, err := s.OpenFlow(w.now, FlowConfig{Metadata: []byte("m")})
				if (err == nil) != (s.State() == StateOpen) {
					rt.Fatalf("OpenFlow in %v: %v", s.State(), err)
				}
				if err == nil {
					f.Begin(w.now)
				}
			},
			"write": func(rt *rapid.T) {
				s := some(rt)
				if len(s.SendFlows()) == 0 {
					rt.Skip()
				}
				f := rapid.SampledFrom(s.SendFlows()).Draw(rt, "flow")
				if f.nextSN == 2 && written[f] == 0 {
					rt.Skip() // Begin has made a gap
				}
				if _, err := f.Write(w.now, body(written[f], rapid.IntRange(0, 4000).Draw(rt, "size")), WriteOptions{}); err == nil {
					written[f]++
				}
			},
			"end flow": func(rt *rapid.T) {
				s := some(rt)
				if len(s.SendFlows()) > 0 {
					rapid.SampledFrom(s.SendFlows()).Draw(rt, "flow").Close(w.now)
				}
			},
			"reject": func(rt *rapid.T) {
				s := some(rt)
				if len(s.ReceiveFlows()) > 0 {
					rapid.SampledFrom(s.ReceiveFlows()).Draw(rt, "flow").Reject(w.now, 5)
				}
			},
			"": func(rt *rapid.T) {
				for _, s := range sessions {
					note(s)
				}
			},
		})
		for _, s := range sessions {
			s.Close(w.now)
		}
		w.run(10*time.Minute, nil)
		for _, n := range nodes {
			if n.e.Sessions() != 0 || len(n.e.timers) != 0 || len(n.e.byAddress)+len(n.e.byIdentity)+len(n.e.keyings) != 0 {
				rt.Fatalf("%s keeps %d sessions, %d timers", n.name, n.e.Sessions(), len(n.e.timers))
			}
		}
	})
}

func TestNextTimerIsNeverInThePastAfterFlush(t *testing.T) {
	w := newWorld(t, 5)
	w.loss, w.delayMax = 0.2, 100*time.Millisecond
	a, b := w.add("a", Config{Keepalive: time.Second}, addrA), w.add("b", Config{}, addrB)
	near, _ := w.connect(a, b)
	f, _ := near.OpenFlow(w.now, FlowConfig{Metadata: []byte("m")})
	for n := range 100 {
		f.Write(w.now, body(n, 2000), WriteOptions{FinishWithin: time.Second})
		w.run(100*time.Millisecond, nil)
		for _, n := range w.nodes {
			n.e.Tick(w.now)
			w.drain(n)
			if at, ok := n.e.NextTimer(); ok && !at.After(w.now) {
				t.Fatalf("%s: a timer at %v, now %v", n.name, at.Sub(start), w.now.Sub(start))
			}
		}
	}
}

// FuzzSession feeds chunks under the keys of a session, which its far end could send.
func FuzzSession(f *testing.F) {
	for _, s := range chunkSamples() {
		f.Add(byte(0x0d), s.wire)
	}
	var all []byte
	for _, s := range chunkSamples() {
		all = append(all, s.wire...)
	}
	f.Add(byte(0x0d), all)
	f.Fuzz(func(t *testing.T, flags byte, chunks []byte) {
		if len(chunks) > 2000 {
			return
		}
		w := newWorld(t, 1)
		a, b := w.add("a", Config{}, addrA), w.add("b", Config{}, addrB)
		near, far := w.connect(a, b)
		send, _ := far.OpenFlow(w.now, FlowConfig{Metadata: []byte("m")})
		for n := range 10 {
			send.Write(w.now, body(n, 300), WriteOptions{})
		}
		w.drain(b)
		plain := append([]byte{flags, 0, 1, 0, 2}, chunks...)
		b.e.Receive(w.now, 0, a.addrs[0], a.e.seal(near.keys, far.ID(), plain))
		w.drain(b)
		w.run(time.Second, nil)
	})
}

// FuzzStartup feeds chunks under the Default Session Key, which anybody could send, for session ID 0 and for a session that opens.
func FuzzStartup(f *testing.F) {
	for _, s := range chunkSamples() {
		f.Add(false, s.wire)
		f.Add(true, s.wire)
	}
	f.Fuzz(func(t *testing.T, session bool, chunks []byte) {
		if len(chunks) > 2000 {
			return
		}
		w := newWorld(t, 1)
		a, b := w.add("a", Config{}, addrA), w.add("b", Config{}, addrB)
		s, _ := a.e.Open(w.now, []byte("id:b"), Candidate{0, b.addrs[0]})
		w.run(50*time.Millisecond, nil) // S_KEYING_SENT
		data := startupPacket(b.e, chunks)
		if session {
			PutSessionID(data, s.ID())
		}
		wire := len(data) + 28
		from := netip.MustParseAddrPort(addrC)
		before := len(a.e.Flush(w.now))
		a.e.Receive(w.now, 0, from, data)
		sent := 0
		for _, d := range a.e.Flush(w.now) {
			if d.To == from {
				sent += len(d.Data) + 28
			}
		}
		if before == 0 && sent > 3*wire {
			t.Fatalf("%d bytes for %d", sent, wire)
		}
		w.drain(a)
	})
}

func TestConfigIsChecked(t *testing.T) {
	random := rngReader{newWorld(t, 1).rng}
	for name, cfg := range map[string]Config{
		"nothing": {}, "shard": {Identity: &plainIdentity{}, Random: random, Shard: 2, Shards: 2},
		"datagram": {Identity: &plainIdentity{}, Random: random, MaxDatagram: 100},
	} {
		if _, err := New(start, cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	e, err := New(start, Config{Identity: &plainIdentity{}, Random: random, Shard: 5, Shards: 7})
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		if id := e.newSessionID(); id%7 != 5 || id == 0 || id > math.MaxUint32 {
			t.Fatalf("session ID %d of shard 5 of 7", id)
		}
	}
}
