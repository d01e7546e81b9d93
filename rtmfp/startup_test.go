package rtmfp

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"
)

const (
	addrA = "192.0.2.1:1001"
	addrB = "192.0.2.2:1002"
	addrC = "192.0.2.3:1935"
)

func TestHandshakeOpensBothEnds(t *testing.T) {
	w := newWorld(t, 1)
	a, b := w.add("a", Config{}, addrA), w.add("b", Config{}, addrB)
	near, far := w.connect(a, b)
	if near.Role() != RoleInitiator || far.Role() != RoleResponder {
		t.Errorf("roles %v, %v", near.Role(), far.Role())
	}
	if !bytes.Equal(near.Keys().NearNonce(), far.Keys().FarNonce()) || !bytes.Equal(near.Keys().FarNonce(), far.Keys().NearNonce()) {
		t.Error("the nonces are not each other's")
	}
	if near.ID() != far.FarID() || near.FarID() != far.ID() || !bytes.Equal(near.FarCertificate(), b.e.cfg.Identity.Certificate()) {
		t.Error("the ends do not agree")
	}
	if b.e.SessionByIdentity([]byte("id:a")) != far || b.e.SessionByAddress(a.addrs[0]) != far {
		t.Error("not found by identity and address")
	}
	if w.now.Sub(start) != 80*time.Millisecond {
		t.Errorf("open after %v, not two round trips", w.now.Sub(start))
	}
	if far.Confirmed() {
		t.Error("the responder is confirmed without a packet")
	}
	w.run(6*time.Second, nil)
	if !far.Confirmed() || far.rikeying != nil {
		t.Error("not confirmed by the answer to a ping, or the RIKeying is kept")
	}
}

func TestHandshakeWithDeferredKeying(t *testing.T) {
	w := newWorld(t, 1)
	a, b := w.add("a", Config{DeferKeying: true}, addrA), w.add("b", Config{DeferKeying: true}, addrB)
	for _, n := range w.nodes {
		n.handle = func(ev Event) {
			if ev.Kind == EventKeying {
				ev.Keying.Run()
				n.e.Keyed(w.now, ev.Keying)
			}
		}
	}
	w.connect(a, b)
}

func TestStartupPacketsAreWhatOldPeersExpect(t *testing.T) {
	w := newWorld(t, 1)
	a, b := w.add("a", Config{}, addrA), w.add("b", Config{}, addrB)
	seen := map[ChunkType]bool{}
	w.filter = func(p *packet) bool {
		h, chunks, _ := ParseHeader(p.data[4+plainOverhead:])
		for kind, payload := range Chunks(chunks) {
			seen[kind] = true
			switch kind {
			case ChunkIHello:
				if c, _ := ParseIHello(payload); len(c.Tag) != 16 {
					t.Errorf("a tag of %d bytes", len(c.Tag))
				}
			case ChunkRHello:
				if c, _ := ParseRHello(payload); len(c.Cookie) != 64 {
					t.Errorf("a cookie of %d bytes", len(c.Cookie))
				}
			}
			if h.Mode == ModeStartup && p.data[4+plainOverhead] != 0x0b {
				t.Errorf("flags %#x", p.data[4+plainOverhead])
			}
		}
		return true
	}
	w.connect(a, b)
	for _, kind := range []ChunkType{ChunkIHello, ChunkRHello, ChunkIIKeying, ChunkRIKeying} {
		if !seen[kind] {
			t.Errorf("no %v", kind)
		}
	}
}

func TestIHelloBacksOffByOneAndAHalfSecondsUntil95(t *testing.T) {
	w := newWorld(t, 1)
	a := w.add("a", Config{}, addrA)
	var at []time.Duration
	w.filter = func(p *packet) bool {
		at = append(at, w.now.Sub(start))
		return false
	}
	s, err := a.e.Open(w.now, []byte("id:b"), Candidate{0, netip.MustParseAddrPort(addrB)})
	if err != nil {
		t.Fatal(err)
	}
	w.run(95*time.Second, nil)
	if s.State() != StateIHelloSent {
		t.Errorf("%v before 95 s", s.State())
	}
	w.run(time.Nanosecond, nil)
	if ev, _ := a.last(EventSessionFailed); s.State() != StateOpenFailed || ev.Reason != ReasonTimeout || a.e.Sessions() != 0 {
		t.Errorf("%v, %v at 95 s", s.State(), ev.Reason)
	}
	var want []time.Duration
	for n, sum := 0, time.Duration(0); sum < 95*time.Second; n++ {
		sum += time.Duration(n) * 1500 * time.Millisecond
		if sum < 95*time.Second {
			want = append(want, sum)
		}
	}
	if !slices.Equal(at, want) {
		t.Errorf("sent at %v\nwant %v", at, want)
	}
}

func TestLostStartupPacketsAreRepeated(t *testing.T) {
	for _, lost := range []ChunkType{ChunkIHello, ChunkRHello, ChunkIIKeying, ChunkRIKeying} {
		t.Run(lost.String(), func(t *testing.T) {
			w := newWorld(t, 1)
			a, b := w.add("a", Config{}, addrA), w.add("b", Config{}, addrB)
			dropped := 0
			w.filter = func(p *packet) bool {
				if slices.Contains(kinds(p.data), lost) && dropped < 3 {
					dropped++
					return false
				}
				return true
			}
			w.connect(a, b)
			if len(b.e.sessions) != 1 {
				t.Errorf("%d sessions at the responder", len(b.e.sessions))
			}
		})
	}
}

func TestGlareLeavesOneSession(t *testing.T) {
	for seed := range uint64(60) {
		w := newWorld(t, seed)
		w.delayMax = 150 * time.Millisecond
		w.loss, w.dup = 0.2, 0.1
		a, b := w.add("a", Config{}, addrA), w.add("b", Config{}, addrB)
		sa, _ := a.e.Open(w.now, []byte("id:b"), Candidate{0, b.addrs[0]})
		w.run(time.Duration(w.rng.Int64N(int64(300*time.Millisecond))), nil)
		sb, _ := b.e.Open(w.now, []byte("id:a"), Candidate{0, a.addrs[0]})
		w.run(60*time.Second, nil)
		x, y := a.e.SessionByIdentity([]byte("id:b")), b.e.SessionByIdentity([]byte("id:a"))
		if x == nil || y == nil || x.ID() != y.FarID() || len(a.e.sessions) != 1 || len(b.e.sessions) != 1 || x.Role() == y.Role() {
			t.Fatalf("seed %d: %v %v; %d and %d sessions", seed, sa.State(), sb.State(), len(a.e.sessions), len(b.e.sessions))
		}
	}
}

func TestRedirectorAndForwarderIntroduceThroughFirewalls(t *testing.T) {
	for _, answer := range []ForwardedHello{ForwardedHelloRHello, ForwardedHelloRedirect, ForwardedHelloIgnore} {
		w := newWorld(t, 1)
		a, b := w.add("a", Config{}, addrA), w.add("b", Config{ForwardedHello: answer}, addrB)
		a.firewall, b.firewall = map[netip.AddrPort]bool{}, map[netip.AddrPort]bool{}
		c := w.add("c", Config{}, addrC)
		c.handle = func(ev Event) {
			if ev.Kind != EventHello {
				return
			}
			target := c.e.SessionByIdentity(ev.Hello.EPD)
			if target == nil {
				return
			}
			_, addr := target.FarAddress()
			c.e.Redirect(w.now, ev.Hello, []Address{{OriginObserved, addr}})
			if err := target.Forward(w.now, ev.Hello); err != nil {
				t.Error(err)
			}
		}
		w.connect(b, c)
		s, err := a.e.Open(w.now, []byte("id:b"), Candidate{0, c.addrs[0]})
		if err != nil {
			t.Fatal(err)
		}
		opened := w.run(20*time.Second, func() bool { return s.State() == StateOpen })
		if opened != (answer != ForwardedHelloIgnore) {
			t.Errorf("answer %d: open %v", answer, opened)
		}
		if _, addr := s.FarAddress(); opened && addr != b.addrs[0] {
			t.Errorf("open to %v", addr)
		}
	}
}

func TestCookieForAnotherAddressIsChanged(t *testing.T) {
	w := newWorld(t, 1)
	a, b := w.add("a", Config{}, addrA), w.add("b", Config{}, addrB)
	// The initiator's IIKeying leaves by another address than its IHello did.
	other := netip.MustParseAddrPort("192.0.2.9:9")
	w.filter = func(p *packet) bool {
		if p.from == a.addrs[0] && slices.Contains(kinds(p.data), ChunkIIKeying) {
			p.from = other
			a.addrs[0] = other
		}
		return true
	}
	near, far := w.connect(a, b)
	if _, addr := far.FarAddress(); addr != other || near.State() != StateOpen || b.e.counters.Chunks[ChunkCookieAddress] != 1 {
		t.Errorf("open to %v, drops %v", addr, b.e.counters.Chunks)
	}
}

func TestCookieExpiresAfterItsLifetime(t *testing.T) {
	w := newWorld(t, 1)
	b := w.add("b", Config{}, addrB)
	from := netip.MustParseAddrPort(addrA)
	cookie := b.e.appendCookie(nil, from)
	forged := bytes.Clone(cookie)
	forged[10] ^= 1
	for _, test := range []struct {
		name   string
		after  time.Duration
		from   netip.AddrPort
		cookie []byte
		want   cookieVerdict
	}{
		{"at once", 0, from, cookie, cookieValid},
		{"at the open timeout", openTimeout, from, cookie, cookieValid},
		{"at the end of its life", cookieLifetime, from, cookie, cookieValid},
		{"one tick later", cookieLifetime + cookieTick, from, cookie, cookieForeign},
		{"from another port", 0, netip.AddrPortFrom(from.Addr(), 1), cookie, cookieMoved},
		{"forged", 0, from, forged, cookieForeign},
		{"short", 0, from, cookie[:63], cookieForeign},
	} {
		b.e.now = instant(test.after)
		if got := b.e.checkCookie(test.cookie, test.from); got != test.want {
			t.Errorf("%s: %d, want %d", test.name, got, test.want)
		}
	}
}

// startupPacket is a datagram for session ID 0 with the chunk.
func startupPacket(e *Endpoint, chunk []byte) []byte {
	return bytes.Clone(e.seal(&plainCipher{}, 0, append(e.startupHeader(nil), chunk...)))
}

func TestRepliesToAnUnprovenAddressAreAtMostThreeTimesAsLong(t *testing.T) {
	w := newWorld(t, 1)
	from := netip.MustParseAddrPort(addrA)
	for _, padding := range []int{0, 50, 200, 400, 3000} {
		b := w.add("b", Config{Identity: &plainIdentity{name: "b", padding: padding}}, addrB)
		for _, tag := range []int{1, 16, 50, 100, 400, 1000} {
			for _, repeat := range []int{1, 3} { // several IHellos in a packet share what it pays for
				var chunk []byte
				for range repeat {
					chunk = AppendIHello(chunk, IHello{[]byte("id:b"), make([]byte, tag)})
				}
				data := startupPacket(b.e, chunk)
				wire := len(data) + wireOverhead(from)
				before := b.e.counters.Chunks[ChunkAmplification]
				b.e.Receive(w.now, 0, from, data)
				sent, n := 0, 0
				for _, d := range b.e.Flush(w.now) {
					sent += len(d.Data) + wireOverhead(from)
					n++
				}
				if sent > 3*wire {
					t.Errorf("certificate of %d, %d tags of %d: %d bytes for %d", padding, repeat, tag, sent, wire)
				}
				if refused := int(b.e.counters.Chunks[ChunkAmplification] - before); n == 0 && refused != repeat {
					t.Errorf("certificate of %d, %d tags of %d: nothing sent, %d counted", padding, repeat, tag, refused)
				}
			}
		}
	}
	// What a Flash player sends for a short URL, and the certificate of a server, must get their answer.
	b := w.add("b", Config{Identity: &plainIdentity{name: "b", padding: 77 - len("cert:b:")}}, addrB)
	b.e.Receive(w.now, 0, from, startupPacket(b.e, AppendIHello(nil, IHello{[]byte("any"), make([]byte, 30)})))
	if len(b.e.Flush(w.now)) != 1 {
		t.Error("an ordinary IHello gets no RHello")
	}
}

func TestRedirectCarriesAsManyAddressesAsFit(t *testing.T) {
	w := newWorld(t, 1)
	b := w.add("b", Config{}, addrB)
	from := netip.MustParseAddrPort(addrA)
	data := startupPacket(b.e, AppendIHello(nil, IHello{[]byte("id:x"), make([]byte, 16)}))
	wire := len(data) + wireOverhead(from)
	b.e.Receive(w.now, 0, from, data)
	hello := b.e.Events()[0].Hello
	var many []Address
	for i := range 30 {
		many = append(many, Address{OriginReported, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 1)})
	}
	n := b.e.Redirect(w.now, hello, many)
	out := b.e.Flush(w.now)
	if n < 5 || n >= 24 || len(out) != 1 || len(out[0].Data)+28 > 3*wire || len(out[0].Data)+28+7 <= 3*wire {
		t.Errorf("%d addresses, %d datagrams", n, len(out))
	}
	if again := b.e.Redirect(w.now, hello, many); again != 0 {
		t.Errorf("%d addresses more for the same hello", again)
	}
}

func TestOpenAttemptsAndCandidatesAreLimited(t *testing.T) {
	w := newWorld(t, 1)
	a := w.add("a", Config{Limits: Limits{Opening: 2}}, addrA)
	var many []Candidate
	for i := range 40 {
		many = append(many, Candidate{0, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 1)})
	}
	s, err := a.e.Open(w.now, []byte("id:b"), many...)
	if err != nil {
		t.Fatal(err)
	}
	if out := a.e.Flush(w.now); len(out) != 24 {
		t.Errorf("%d IHellos", len(out))
	}
	if _, err := a.e.Open(w.now, []byte("id:b"), Candidate{0, netip.AddrPort{}}); err != ErrCandidate {
		t.Errorf("an invalid candidate: %v", err)
	}
	if _, err := a.e.Open(w.now, []byte("id:b"), many[0]); err != nil {
		t.Error(err)
	}
	if _, err := a.e.Open(w.now, []byte("id:b"), many[0]); err != ErrLimit {
		t.Errorf("one too many: %v", err)
	}
	s.Close(w.now)
	if _, err := a.e.Open(w.now, []byte("id:b"), many[0]); err != nil {
		t.Errorf("after a close: %v", err)
	}
}

func TestLongCertificatesTravelInFragments(t *testing.T) {
	for _, size := range []int{1192, 600} {
		w := newWorld(t, 1)
		w.delayMax = 100 * time.Millisecond
		a := w.add("a", Config{Identity: &plainIdentity{name: "a", padding: 5000}, MaxDatagram: size}, addrA)
		b := w.add("b", Config{}, addrB)
		type sent struct {
			at   time.Duration
			size int
		}
		var fragments []sent
		w.filter = func(p *packet) bool {
			if slices.Contains(kinds(p.data), ChunkFragment) {
				fragments = append(fragments, sent{w.now.Sub(start), len(p.data)})
			}
			return true
		}
		w.connect(a, b)
		if len(fragments) < 9 || b.e.counters.Reassembled == 0 || b.e.counters.Reassembled > 2 {
			t.Errorf("%d fragments, %d reassembled", len(fragments), b.e.counters.Reassembled)
		}
		for i, first := range fragments {
			count, bytes := 0, 0
			for _, f := range fragments[i:] {
				if f.at-first.at < 200*time.Millisecond {
					count++
					bytes += f.size
				}
			}
			if count > 4 || bytes > 4380 {
				t.Errorf("datagrams of %d: %d fragments of %d bytes within 200 ms", size, count, bytes)
			}
		}
		if len(b.e.reassemblies) != 0 {
			t.Errorf("%d reassemblies left", len(b.e.reassemblies))
		}
	}
}

func TestReassembliesAreBounded(t *testing.T) {
	w := newWorld(t, 1)
	b := w.add("b", Config{Limits: Limits{Reassemblies: 8}}, addrB)
	for i := range 1000 {
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1)
		b.e.Receive(w.now, 0, from, startupPacket(b.e, AppendFragment(nil, Fragment{true, 1, 0, make([]byte, 500)})))
	}
	if len(b.e.reassemblies) != 8 {
		t.Errorf("%d reassemblies", len(b.e.reassemblies))
	}
	from := netip.MustParseAddrPort(addrA)
	for i := range 100 {
		b.e.Receive(w.now, 0, from, startupPacket(b.e, AppendFragment(nil, Fragment{true, 7, uint64(i), make([]byte, 1000)})))
	}
	for _, r := range b.e.reassemblies {
		if r.size > 65536 {
			t.Errorf("a reassembly of %d bytes", r.size)
		}
	}
}

func TestSpoofedHellosLeaveNothingBehind(t *testing.T) {
	w := newWorld(t, 1)
	b := w.add("b", Config{}, addrB)
	for i := range 20000 {
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 1)
		b.e.Receive(w.now, 0, from, startupPacket(b.e, AppendIHello(nil, IHello{[]byte("id:b"), make([]byte, 16)})))
		b.e.Recycle(b.e.Flush(w.now))
	}
	if len(b.e.sessions)+len(b.e.opening)+len(b.e.keyings)+len(b.e.timers)+len(b.e.reassemblies)+cap(b.e.events) != 0 {
		t.Error("something is left")
	}
}

func TestSilentInitiatorIsForgotten(t *testing.T) {
	w := newWorld(t, 1)
	a, b := w.add("a", Config{}, addrA), w.add("b", Config{}, addrB)
	w.connect(a, b)
	w.nodes = []*node{b}
	w.run(30*time.Second, nil)
	if ev, ok := b.last(EventSessionClosing); !ok || ev.Reason != ReasonUnconfirmed || b.e.Sessions() != 0 {
		t.Errorf("%v, %d sessions", ev.Reason, b.e.Sessions())
	}
}

func TestSameIdentityFromTheSameAddressOverrides(t *testing.T) {
	w := newWorld(t, 1)
	a, b := w.add("a", Config{}, addrA), w.add("b", Config{}, addrB)
	_, far := w.connect(a, b)
	w.run(10*time.Second, nil)
	// a restarts.
	w.seed++
	w.nodes = []*node{b}
	a2 := w.add("a", Config{}, addrA)
	_, far2 := w.connect(a2, b)
	if ev, _ := b.last(EventSessionClosing); far.State() != StateClosed || ev.Reason != ReasonOverride || far2 == far || len(b.e.sessions) != 1 {
		t.Errorf("%v, %v, %d sessions", far.State(), ev.Reason, len(b.e.sessions))
	}
	// Another identity at that address has to wait.
	w.nodes = []*node{b}
	x := w.add("x", Config{}, addrA)
	s, _ := x.e.Open(w.now, []byte("id:b"), Candidate{0, b.addrs[0]})
	if w.run(10*time.Second, func() bool { return s.State() == StateOpen }) {
		t.Error("another identity overrode the session")
	}
}

func TestSecondSessionWithTheSameIdentityIsADuplicate(t *testing.T) {
	w := newWorld(t, 1)
	a, b := w.add("a", Config{}, addrA), w.add("b", Config{}, addrB)
	near, _ := w.connect(a, b)
	s, _ := a.e.Open(w.now, []byte("id:b"), Candidate{0, b.addrs[0]})
	w.run(5*time.Second, nil)
	if ev, _ := a.last(EventSessionFailed); s.State() != StateClosed || ev.Reason != ReasonDuplicate || ev.Other != near {
		t.Errorf("%v, %v", s.State(), ev.Reason)
	}
}
