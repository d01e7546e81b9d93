package rtmfp

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// twoPaths is a session between endpoints with two interfaces each, both with manual paths, opened by the first interfaces.
func twoPaths(t *testing.T, seed uint64) (w *world, a, b *node, near, far *Session) {
	w = newWorld(t, seed)
	a = w.add("a", Config{ManualPaths: true}, "10.0.0.1:1", "10.1.0.1:1")
	b = w.add("b", Config{ManualPaths: true}, "10.0.0.2:1", "10.1.0.2:1")
	s, err := a.e.Open(w.now, []byte("id:b"), Candidate{0, b.addrs[0]})
	if err != nil {
		t.Fatal(err)
	}
	if !w.run(10*time.Second, func() bool { return s.State() == StateOpen && len(b.e.sessions) == 1 }) {
		t.Fatal("not open")
	}
	return w, a, b, s, b.e.sessions[s.FarID()]
}

func TestAPathIsAnsweredButNotTakenUntilMove(t *testing.T) {
	w, a, b, near, far := twoPaths(t, 1)
	second := Candidate{1, b.addrs[1]}
	if err := near.Probe(w.now, second); err != nil {
		t.Fatal(err)
	}
	w.run(time.Second, func() bool { return a.seen[EventPath] > 0 })
	if ev, ok := a.last(EventPath); !ok || ev.RTT != 40*time.Millisecond || ev.Path != second {
		t.Fatalf("%+v, %v", ev, ok)
	}
	if ev, ok := b.last(EventPathSeen); !ok || ev.Path != (Candidate{1, a.addrs[1]}) || b.seen[EventPathSeen] != 1 {
		t.Fatalf("%+v, %v", ev, ok)
	}
	if near.Path() != (Candidate{0, b.addrs[0]}) || far.Path() != (Candidate{0, a.addrs[0]}) {
		t.Fatalf("moved by itself: %v, %v", near.Path(), far.Path())
	}
	if err := near.Move(w.now, second); err != nil || near.Path() != second {
		t.Fatalf("%v, %v", near.Path(), err)
	}
	if got := near.Candidates(); len(got) != 1 || got[0] != (Candidate{0, b.addrs[0]}) {
		t.Errorf("candidates %v", got)
	}
}

func TestAMoveLosesNoReliableByte(t *testing.T) {
	for seed := range uint64(20) {
		w, a, b, near, _ := twoPaths(t, seed)
		w.delayMin, w.delayMax, w.loss = 5*time.Millisecond, 80*time.Millisecond, 0.05
		f, err := near.OpenFlow(w.now, FlowConfig{Metadata: []byte("bulk")})
		if err != nil {
			t.Fatal(err)
		}
		var sent, got bytes.Buffer
		b.handle = func(ev Event) {
			if ev.Kind == EventMessage {
				got.Write(ev.Data)
			}
		}
		for i := range 200 {
			message := bytes.Repeat([]byte{byte(i)}, 700)
			sent.Write(message)
			if _, err := f.Write(w.now, message, WriteOptions{}); err != nil {
				t.Fatal(err)
			}
			if i%20 == 0 {
				to := Candidate{(i / 20) % 2, b.addrs[(i/20)%2]}
				if err := near.Move(w.now, to); err != nil {
					t.Fatal(err)
				}
			}
			w.run(30*time.Millisecond, nil)
		}
		f.Close(w.now)
		w.run(time.Minute, func() bool { return a.seen[EventFlowFinished] > 0 })
		if !bytes.Equal(sent.Bytes(), got.Bytes()) {
			t.Fatalf("seed %d: %d bytes of %d", seed, got.Len(), sent.Len())
		}
		if n, lost := near.Transmissions(); n < 200 || lost == 0 || lost > n {
			t.Errorf("%d sent, %d lost", n, lost)
		}
	}
}

func TestPathsNeedAnAuthenticatedCipher(t *testing.T) {
	w := newWorld(t, 1)
	a := w.add("a", Config{ManualPaths: true, Identity: &plainIdentity{name: "a", unauthenticated: true}}, "10.0.0.1:1", "10.1.0.1:1")
	b := w.add("b", Config{}, "10.0.0.2:1")
	near, _ := w.connect(a, b)
	if err := near.Probe(w.now, Candidate{1, b.addrs[0]}); err != ErrState {
		t.Errorf("probe: %v", err)
	}
	if err := near.Move(w.now, Candidate{1, b.addrs[0]}); err != ErrState {
		t.Errorf("move: %v", err)
	}
}

// Between two NATs that map by destination no reply ever comes from where the probe went.
func TestAProbeIsAnsweredWhereverItsReplyComesFrom(t *testing.T) {
	w, a, b, near, _ := twoPaths(t, 3)
	second := Candidate{1, b.addrs[1]}
	w.filter = func(p *packet) bool {
		if p.from == b.addrs[1] {
			p.from = b.addrs[0]
		}
		return true
	}
	if err := near.Probe(w.now, second); err != nil {
		t.Fatal(err)
	}
	w.run(3*time.Second, nil)
	if ev, ok := a.last(EventPath); !ok || ev.Path != second {
		t.Fatalf("%+v, %v", ev, ok)
	}
}

func TestAForgedReplyToAProbeIsNoAnswer(t *testing.T) {
	w, a, b, near, far := twoPaths(t, 4)
	message := binary.BigEndian.AppendUint64([]byte{'P'}, uint64(a.e.now))
	message = AppendAddress(append(message, 1), Address{AddrPort: b.addrs[1]})
	good := append(bytes.Clone(message), a.e.mobilityMAC(near.id, message, path{1, b.addrs[1]})...)
	for n := range good {
		forged := bytes.Clone(good)
		forged[n] ^= 0x40
		for _, reply := range [][]byte{forged, good[:n]} {
			if err := far.queueControl(AppendChunk(nil, ChunkPingReply, reply)); err != nil {
				t.Fatal(err)
			}
			w.run(50*time.Millisecond, nil)
		}
	}
	if a.seen[EventPath] != 0 {
		t.Fatal("a forged reply was believed")
	}
	if err := far.queueControl(AppendChunk(nil, ChunkPingReply, good)); err != nil {
		t.Fatal(err)
	}
	w.run(50*time.Millisecond, nil)
	if a.seen[EventPath] != 1 {
		t.Fatal("the true reply was not believed")
	}
}

// A NAT that maps by destination sends the IIKeying from an address that the responder's filter does not know, though the RHello
// came.
func TestAKeyingThatIsNotAnsweredTakesAnotherPath(t *testing.T) {
	w := newWorld(t, 5)
	a := w.add("a", Config{}, "10.0.0.1:1")
	b := w.add("b", Config{}, "10.0.0.2:1", "10.1.0.2:1")
	w.filter = func(p *packet) bool { return p.to != b.addrs[0] || !slices.Contains(kinds(p.data), ChunkIIKeying) }
	s, err := a.e.Open(w.now, []byte("id:b"), Candidate{0, b.addrs[0]})
	if err != nil {
		t.Fatal(err)
	}
	w.run(500*time.Millisecond, nil)
	if s.State() != StateKeyingSent || s.AddCandidate(w.now, Candidate{0, b.addrs[1]}) != ErrState {
		t.Fatalf("%v", s.State())
	}
	s.Close(w.now)
	if s, err = a.e.Open(w.now, []byte("id:b"), Candidate{0, b.addrs[0]}, Candidate{0, b.addrs[1]}); err != nil {
		t.Fatal(err)
	}
	w.run(4*time.Second, func() bool { return s.State() == StateOpen })
	if s.State() != StateOpen || s.Path().Addr != b.addrs[1] {
		t.Fatalf("%v by %v", s.State(), s.Path())
	}
}

func TestAnInterfaceWithADelayIsTheLastResort(t *testing.T) {
	for _, direct := range []bool{true, false} {
		w := newWorld(t, 6)
		a := w.add("a", Config{}, "10.0.0.1:1", "10.1.0.1:1")
		b := w.add("b", Config{}, "10.0.0.2:1")
		a.e.SetDelay(1, 1400*time.Millisecond)
		relayed := 0
		w.filter = func(p *packet) bool {
			if p.from == a.addrs[1] {
				relayed++
			}
			return direct || p.from != a.addrs[0]
		}
		s, err := a.e.Open(w.now, []byte("id:b"), Candidate{AnyInterface, b.addrs[0]})
		if err != nil {
			t.Fatal(err)
		}
		began := w.now
		w.run(10*time.Second, func() bool { return s.State() == StateOpen })
		took := w.now.Sub(began)
		if direct && (relayed != 0 || took > 100*time.Millisecond) || !direct && (s.Path().Interface != 1 || took != 1480*time.Millisecond) {
			t.Errorf("direct %v: %d packets by the relay, by %v after %v", direct, relayed, s.Path(), took)
		}
	}
}

// An FIHello is answered by a relay only when it comes again, because nothing else has helped.
func TestAForwardedHelloIsAnsweredByARelayLater(t *testing.T) {
	w := newWorld(t, 7)
	a := w.add("a", Config{}, "10.0.0.1:1", "10.1.0.1:1")
	b := w.add("b", Config{}, "10.0.0.2:1")
	_, far := w.connect(b, a)
	a.e.SetDelay(1, 1400*time.Millisecond)
	relayed := 0
	w.filter = func(p *packet) bool {
		if p.from == a.addrs[1] {
			relayed++
		}
		return true
	}
	server := b.e.sessions[far.FarID()]
	hello := &Hello{EPD: []byte("id:a"), Tag: bytes.Repeat([]byte{7}, tagSize), From: netip.MustParseAddrPort("10.0.0.9:9")}
	for n, want := range []int{0, 1} {
		if err := server.Forward(w.now, hello); err != nil {
			t.Fatal(err)
		}
		w.run(1500*time.Millisecond, nil)
		if relayed != want {
			t.Fatalf("after %d: %d by the relay", n+1, relayed)
		}
	}
}
