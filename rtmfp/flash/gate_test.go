package flash

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/stilenet/stile/rtmfp"
)

// gated is two endpoints with a gate between them. Lost says what the network loses.
type gated struct {
	t         testing.TB
	now       time.Time
	near, far *rtmfp.Endpoint
	gate      *Gate
	state     GateState
	open      bool
	verdicts  [3]int
	lost      func(up bool) bool
	blocked   [][]byte
}

var (
	nearAddr = netip.MustParseAddrPort("203.0.113.1:49152")
	farAddr  = netip.MustParseAddrPort("198.51.100.2:1935")
)

func newGated(t testing.TB, near, far IdentityConfig, maxDatagram int) (g *gated, nearID, farID *Identity) {
	g = &gated{t: t, now: time.Unix(1_000_000_000, 0), gate: NewGate(), lost: func(bool) bool { return false }}
	nearID, farID = newIdentity(t, near), newIdentity(t, far)
	for _, e := range []struct {
		to **rtmfp.Endpoint
		id *Identity
	}{{&g.near, nearID}, {&g.far, farID}} {
		var err error
		if *e.to, err = rtmfp.New(g.now, rtmfp.Config{Identity: e.id, Random: randomReader{}, MaxDatagram: maxDatagram}); err != nil {
			t.Fatal(err)
		}
	}
	return g, nearID, farID
}

// randomReader is unpredictable enough.
type randomReader struct{}

func (randomReader) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return len(b), nil
}

// pass lets one datagram come to the gate, and reports whether it goes on.
func (g *gated) pass(up bool, b []byte) bool {
	if g.open {
		return true
	}
	before := bytes.Clone(b)
	v := g.gate.Inspect(&g.state, up, b, make([]byte, 2048))
	if !bytes.Equal(b, before) {
		g.t.Fatal("the gate changed the datagram")
	}
	g.verdicts[v]++
	g.open = v == GateOpen
	if v == GateDrop {
		g.blocked = append(g.blocked, before)
	}
	return v != GateDrop
}

// run lets both ends talk for a while, or until both have an open session.
func (g *gated) run(d time.Duration) (near, far *rtmfp.Session) {
	for end := g.now.Add(d); g.now.Before(end); g.now = g.now.Add(10 * time.Millisecond) {
		for _, dir := range []struct {
			up       bool
			from, to *rtmfp.Endpoint
			source   netip.AddrPort
		}{{true, g.near, g.far, nearAddr}, {false, g.far, g.near, farAddr}} {
			dir.from.Tick(g.now)
			for _, d := range dir.from.Flush(g.now) {
				if g.pass(dir.up, d.Data) && !g.lost(dir.up) {
					dir.to.Receive(g.now, 0, dir.source, d.Data)
				}
			}
			dir.from.Events()
		}
		near, far = g.near.SessionByAddress(farAddr), g.far.SessionByAddress(nearAddr)
		if near != nil && far != nil && near.State() == rtmfp.StateOpen && far.Confirmed() {
			return near, far
		}
	}
	return near, far
}

func TestARealSessionOpensTheGate(t *testing.T) {
	server, client := IdentityConfig{Server: true}, IdentityConfig{}
	for name, tc := range map[string]struct {
		near, far   IdentityConfig
		up, down    bool // who opens
		maxDatagram int
		loss        float64
	}{
		"client to server":            {client, server, true, false, 0, 0},
		"the far end calls":           {client, client, false, true, 0, 0},
		"both call":                   {client, client, true, true, 0, 0},
		"with loss":                   {client, server, true, false, 0, 0.4},
		"both call, with loss":        {client, client, true, true, 0, 0.3},
		"a startup in fragments":      {IdentityConfig{Groups: []Group{Group16}}, IdentityConfig{Server: true, Groups: []Group{Group16}}, true, false, 512, 0},
		"fragments of the far caller": {IdentityConfig{Server: true, Groups: []Group{Group16}}, IdentityConfig{Groups: []Group{Group16}}, false, true, 512, 0},
	} {
		t.Run(name, func(t *testing.T) {
			g, nearID, farID := newGated(t, tc.near, tc.far, tc.maxDatagram)
			g.lost = func(bool) bool { return rand.Float64() < tc.loss }
			for _, o := range []struct {
				open bool
				from *rtmfp.Endpoint
				to   *Identity
				at   netip.AddrPort
			}{{tc.up, g.near, farID, farAddr}, {tc.down, g.far, nearID, nearAddr}} {
				if !o.open {
					continue
				}
				epd := o.to.PeerID().EPD()
				if o.to.cfg.Server {
					epd = ServerEPD("rtmfp://198.51.100.2/key")
				}
				if _, err := o.from.Open(g.now, epd, rtmfp.Candidate{Addr: o.at}); err != nil {
					t.Fatal(err)
				}
			}
			near, far := g.run(90 * time.Second)
			if near == nil || far == nil || !g.open {
				t.Fatalf("no session: near %v, far %v, the gate is open %v, verdicts %v", near, far, g.open, g.verdicts)
			}
			if len(g.blocked) > 0 && tc.loss == 0 {
				t.Errorf("%d packets of the session were dropped, the first %x", len(g.blocked), g.blocked[0])
			}
			if !g.state.Proven() && (tc.loss == 0 || tc.up != tc.down) {
				t.Error("the near end has echoed what it was sent, and it is not said")
			}
			// The far end's NAT gives it another port: its session's packets say that they belong to it, others do not.
			far.Ping(g.now)
			for _, d := range g.far.Flush(g.now) {
				if !g.gate.Belongs(&g.state, d.Data) {
					t.Errorf("a packet of the session is a stranger's: %x", d.Data)
				}
				d.Data[0] ^= 1
				if g.gate.Belongs(&g.state, d.Data) {
					t.Errorf("another session's packet belongs to it: %x", d.Data)
				}
			}
		})
	}
}

// startup seals a startup packet.
func startup(id uint32, chunks ...[]byte) []byte {
	plain := rtmfp.AppendHeader(nil, rtmfp.Header{Mode: rtmfp.ModeStartup, TimestampPresent: true})
	for _, c := range chunks {
		plain = append(plain, c...)
	}
	b := newDefaultCipher().Seal(make([]byte, 4), plain)
	rtmfp.PutSessionID(b, id)
	return b
}

var (
	someIHello = rtmfp.AppendIHello(nil, rtmfp.IHello{EPD: PeerID{}.EPD(), Tag: make([]byte, 16)})
	someRHello = rtmfp.AppendRHello(nil, rtmfp.RHello{TagEcho: make([]byte, 16), Cookie: []byte("cookie"), Certificate: make([]byte, 77)})
	iikeying   = func(id uint32, cookie string) []byte {
		return rtmfp.AppendIIKeying(nil, rtmfp.IIKeying{SessionID: id, CookieEcho: []byte(cookie), Certificate: make([]byte, 132), Component: make([]byte, 76), Signature: []byte("X")})
	}
	rikeying = func(id uint32) []byte {
		return rtmfp.AppendRIKeying(nil, rtmfp.RIKeying{SessionID: id, Component: make([]byte, 73), Signature: []byte("X")})
	}
)

// step is a datagram and what the gate says of it.
type step struct {
	up   bool
	b    []byte
	want GateVerdict
}

func TestTheGateOpensByAnAnsweredIIKeyingOnly(t *testing.T) {
	const up, down = true, false
	padded := func(chunks ...[]byte) []byte { return bytes.Join(append(chunks, bytes.Repeat([]byte{0xff}, 40)), nil) }
	redirect := rtmfp.AppendRedirect(nil, rtmfp.Redirect{TagEcho: make([]byte, 16), Destinations: []rtmfp.Address{{AddrPort: farAddr}}})
	broken := bytes.Clone(redirect)
	broken[len(broken)-7] = 0x80 // an IPv6 address with 6 bytes
	change := rtmfp.AppendCookieChange(nil, rtmfp.CookieChange{OldCookie: []byte("cookie"), NewCookie: []byte("other")})
	ping := rtmfp.AppendChunk(nil, rtmfp.ChunkPing, []byte("?"))
	data := rtmfp.AppendChunk(nil, rtmfp.ChunkUserData, []byte("\x00\x02\x01\x01data"))
	for name, steps := range map[string][]step{
		"an initiator": {{up, startup(0, someIHello), GatePass}, {down, startup(0, someRHello), GatePass}, {up, startup(0, iikeying(7, "cookie")), GatePass},
			{down, startup(7, rikeying(9)), GateOpen}},
		"a responder": {{down, startup(0, someIHello), GatePass}, {up, startup(0, someRHello), GatePass}, {down, startup(0, iikeying(7, "cookie")), GatePass},
			{up, startup(7, rikeying(9)), GateOpen}},
		"a redirected one":    {{up, startup(0, someIHello), GatePass}, {down, startup(0, redirect), GatePass}, {down, startup(0, broken), GateDrop}},
		"an implied redirect": {{up, startup(0, rtmfp.AppendRedirect(nil, rtmfp.Redirect{TagEcho: make([]byte, 16)})), GatePass}},
		"padding":             {{up, startup(0, padded(someIHello)), GatePass}, {up, startup(0, padded()), GateDrop}},
		"retransmissions": {{up, startup(0, iikeying(7, "c")), GatePass}, {up, startup(0, iikeying(7, "c")), GatePass}, {down, startup(7, rikeying(9)), GateOpen},
			{down, startup(7, rikeying(9)), GateOpen}},
		"a changed cookie": {{up, startup(0, iikeying(7, "cookie")), GatePass}, {down, startup(7, change), GatePass}, {up, startup(0, iikeying(7, "other")), GatePass},
			{down, startup(7, rikeying(9)), GateOpen}},
		"an answer to nobody":         {{down, startup(7, rikeying(9)), GateDrop}, {down, startup(0, rikeying(9)), GateDrop}, {up, startup(7, rikeying(9)), GateDrop}},
		"an answer to another":        {{up, startup(0, iikeying(7, "c")), GatePass}, {down, startup(8, rikeying(9)), GateDrop}, {up, startup(7, rikeying(9)), GateDrop}},
		"a cookie change of a nobody": {{down, startup(7, change), GateDrop}, {down, startup(0, change), GateDrop}},
		"opaque":                      {{up, []byte("hello"), GateDrop}, {up, make([]byte, 1200), GateDrop}, {up, nil, GateDrop}, {up, make([]byte, 20), GateDrop}},
		"a session's chunk":           {{up, startup(0, ping), GateDrop}, {up, startup(0, data), GateDrop}, {up, startup(0, someIHello, data), GateDrop}, {up, startup(0), GateDrop}},
		"a session's mode":            {{up, seal(0, append([]byte{0x09, 0, 0}, someIHello...)), GateDrop}, {up, seal(0, append([]byte{0x0a, 0, 0}, someIHello...)), GateDrop}},
		"too long":                    {{up, startup(0, rtmfp.AppendIHello(nil, rtmfp.IHello{EPD: make([]byte, 1600)})), GateDrop}},
		"an echo service": {{up, startup(0, iikeying(7, "c")), GatePass}, {up, startup(0, iikeying(8, "c")), GatePass}, {up, startup(0, iikeying(9, "c")), GatePass},
			{down, startup(0, iikeying(7, "c")), GateDrop}, {down, startup(0, iikeying(8, "c")), GateDrop}, {up, startup(7, rikeying(1)), GateDrop},
			{down, startup(0, iikeying(1007, "c")), GatePass}, {up, startup(1007, rikeying(1)), GateOpen}},
		"session ID 0":             {{up, startup(0, iikeying(0, "c")), GateDrop}, {up, startup(0, iikeying(7, "c")), GatePass}, {down, startup(7, rikeying(0)), GateDrop}},
		"a later fragment":         {{up, startup(0, rtmfp.AppendFragment(nil, rtmfp.Fragment{PacketID: 1, Number: 1, Data: []byte("x")})), GatePass}},
		"fragments of data":        {{up, startup(0, rtmfp.AppendFragment(nil, rtmfp.Fragment{More: true, Data: append([]byte{0x0b, 0, 0}, data...)})), GateDrop}},
		"a fragment in a fragment": {{up, startup(0, rtmfp.AppendFragment(nil, rtmfp.Fragment{More: true, Data: append([]byte{3}, rtmfp.AppendFragment(nil, rtmfp.Fragment{Data: []byte("x")})...)})), GateDrop}},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewGate()
			var s GateState
			for i, st := range steps {
				if got := g.Inspect(&s, st.up, st.b, nil); got != st.want {
					t.Fatalf("step %d: %v, want %v", i+1, got, st.want)
				}
			}
		})
	}
}

// seal seals any plain packet under the default key.
func seal(id uint32, plain []byte) []byte {
	b := newDefaultCipher().Seal(make([]byte, 4), plain)
	rtmfp.PutSessionID(b, id)
	return b
}

func TestOnlyTheEchoOfTheCookieProvesTheNearEnd(t *testing.T) {
	for cookie, want := range map[string]bool{"cookie": true, "guess": false, "": false} {
		g := NewGate()
		var s GateState
		g.Inspect(&s, true, startup(0, someIHello), nil)
		g.Inspect(&s, false, startup(0, someRHello), nil)
		g.Inspect(&s, true, startup(0, iikeying(7, cookie)), nil)
		if s.Proven() != want {
			t.Errorf("%q: proven %v", cookie, s.Proven())
		}
	}
	// Without an RHello from the far end there is nothing to echo.
	g := NewGate()
	var s GateState
	if g.Inspect(&s, true, startup(0, iikeying(7, "")), nil); s.Proven() {
		t.Error("nothing was echoed")
	}
}

func TestTheGateSeesThroughEveryTruncation(t *testing.T) {
	g := NewGate()
	whole := startup(0, iikeying(7, "cookie"))
	for n := range whole {
		var s GateState
		if v := g.Inspect(&s, true, whole[:n], nil); v != GateDrop || s != (GateState{}) {
			t.Errorf("%d bytes: %v", n, v)
		}
	}
	for _, chunk := range [][]byte{someIHello, someRHello, iikeying(7, "cookie")} {
		for n := 3; n < len(chunk); n++ {
			var s GateState
			short := rtmfp.AppendChunk(nil, rtmfp.ChunkType(chunk[0]), chunk[3:n])
			g.Inspect(&s, true, startup(0, short), nil) // what is left may be well-formed, and must not panic
		}
	}
}

func TestInspectingAllocatesNothing(t *testing.T) {
	g := NewGate()
	scratch := make([]byte, maxStartupPacket)
	for name, b := range map[string][]byte{"IHello": startup(0, someIHello), "IIKeying": startup(0, iikeying(7, "cookie")), "opaque": make([]byte, 1204)} {
		var s GateState
		if n := testing.AllocsPerRun(100, func() { g.Inspect(&s, true, b, scratch) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkGate(b *testing.B) {
	g := NewGate()
	scratch := make([]byte, maxStartupPacket)
	zero := make([]byte, 1204)
	rtmfp.PutSessionID(zero, 0)
	for name, p := range map[string][]byte{"IHello": startup(0, someIHello), "IIKeying": startup(0, iikeying(7, "cookie")), "opaque": bytes.Repeat([]byte("opaque!"), 172),
		"opaque with session ID 0": zero} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var s GateState
			for b.Loop() {
				g.Inspect(&s, true, p, scratch)
			}
		})
	}
}

// What the fuzzer makes is the plain packet, as the cipher hides it from mutation: whatever it is, what passes is a startup packet to the parsers of
// rtmfp too, and nothing opens without an answered IIKeying.
func FuzzGate(f *testing.F) {
	for _, c := range [][]byte{someIHello, someRHello, iikeying(7, "cookie"), rikeying(9)} {
		f.Add(append([]byte{0x0b, 0, 0}, c...), uint32(0), true)
		f.Add(append([]byte{0x0b, 0, 0}, c...), uint32(7), false)
	}
	f.Add(append([]byte{0x0b, 0, 0}, rtmfp.AppendFragment(nil, rtmfp.Fragment{More: true, Data: append([]byte{3}, someIHello...)})...), uint32(0), true)
	f.Fuzz(func(t *testing.T, plain []byte, id uint32, up bool) {
		g := NewGate()
		var fresh, s GateState
		if v := g.Inspect(&fresh, up, plain, nil); v == GateOpen {
			t.Fatal("a datagram alone opens the gate")
		}
		b := seal(id, bytes.Clone(plain))
		if v := g.Inspect(&fresh, up, b, nil); v == GateOpen {
			t.Fatal("a startup packet alone opens the gate")
		}
		g.Inspect(&s, !up, startup(0, iikeying(7, "cookie")), nil)
		before := s
		v := g.Inspect(&s, up, b, nil)
		if v == GateDrop && s != before {
			t.Fatal("a dropped packet changes the state")
		}
		if v == GateDrop {
			return
		}
		opened, err := newDefaultCipher().Open(bytes.Clone(b[4:])) // with the padding, which may complete a chunk
		if err != nil {
			t.Fatal(err)
		}
		h, chunks, err := rtmfp.ParseHeader(opened)
		if err != nil || h.Mode != rtmfp.ModeStartup || len(b) > maxStartupPacket {
			t.Fatalf("%v: passes with %v, mode %v", v, err, h.Mode)
		}
		if v == GateOpen && id != 7 {
			t.Fatal("opened by an answer to another")
		}
		n := 0
		for range rtmfp.Chunks(chunks) {
			n++
		}
		if n == 0 {
			t.Fatal("passes without a chunk")
		}
	})
}

func TestAProbePassesTheGateInAnIHello(t *testing.T) {
	g := NewGate()
	for _, n := range []int{0, 1, 20, 100, 1200, 1400} {
		data := bytes.Repeat([]byte{byte(n)}, n)
		b := SealHello(data)
		for _, up := range []bool{true, false} {
			var s GateState
			if v := g.Inspect(&s, up, b, nil); v != GatePass {
				t.Errorf("%d bytes, up %v: %v", n, up, v)
			}
		}
		if got, ok := OpenHello(b); !ok || !bytes.Equal(got, data) {
			t.Errorf("%d bytes: %x, %v", n, got, ok)
		}
		if _, ok := OpenHello(b[:len(b)-1]); ok {
			t.Error("cut")
		}
	}
	for _, b := range [][]byte{nil, []byte("opaque"), startup(0, someRHello), make([]byte, 100)} {
		if _, ok := OpenHello(b); ok {
			t.Errorf("%x", b)
		}
	}
}
