package rtmfp

import (
	"bytes"
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
	w.run(time.Second, func() bool { return a.seen[EventPath] > 0 && b.seen[EventPath] > 0 })
	for _, n := range []*node{a, b} {
		ev, ok := n.last(EventPath)
		if !ok || ev.RTT != 40*time.Millisecond || ev.Path.Interface != 1 {
			t.Fatalf("%s: %+v, %v", n.name, ev, ok)
		}
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

func TestAReplyToAnotherPathIsNoAnswer(t *testing.T) {
	w, a, b, near, _ := twoPaths(t, 3)
	// The answer to what was sent to the second address comes from the first.
	w.filter = func(p *packet) bool {
		if p.from == b.addrs[1] {
			p.from = b.addrs[0]
		}
		return true
	}
	if err := near.Probe(w.now, Candidate{1, b.addrs[1]}); err != nil {
		t.Fatal(err)
	}
	w.run(3*time.Second, nil)
	for _, ev := range a.events {
		if ev.Kind == EventPath && ev.Path.Addr == b.addrs[1] {
			t.Fatalf("%+v", ev)
		}
	}
}
