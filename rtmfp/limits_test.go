package rtmfp

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

func TestPendingKeyingsAreLimited(t *testing.T) {
	w := newWorld(t, 1)
	b := w.add("b", Config{DeferKeying: true, Limits: Limits{PendingKeying: 3}}, addrB)
	var jobs []*Keying
	for i := range 10 {
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 1)
		k := IIKeying{SessionID: uint32(i + 1), CookieEcho: b.e.appendCookie(nil, from), Certificate: []byte("cert:x:"), Component: []byte("skic:x")}
		k.Signature = (&plainIdentity{name: "x"}).Sign(k.AppendSignedParameters(nil))
		for range 2 { // the second is a retransmission
			b.e.Receive(w.now, 0, from, startupPacket(b.e, AppendIIKeying(nil, k)))
		}
		for _, ev := range b.e.Events() {
			jobs = append(jobs, ev.Keying)
		}
	}
	c := b.e.Counters()
	if len(jobs) != 3 || c.Chunks[ChunkLimit] != 14 || c.Chunks[ChunkDuplicate] != 3 {
		t.Errorf("%d keyings, %d over the limit, %d duplicates", len(jobs), c.Chunks[ChunkLimit], c.Chunks[ChunkDuplicate])
	}
	for _, k := range jobs {
		k.Run()
		b.e.Keyed(w.now, k)
	}
	if len(b.e.sessions) != 3 || len(b.e.keyings) != 0 {
		t.Errorf("%d sessions, %d keyings left", len(b.e.sessions), len(b.e.keyings))
	}
}

func TestForwardedHellosAreLimitedBySession(t *testing.T) {
	w := newWorld(t, 1)
	a, b := w.add("a", Config{}, addrA), w.add("b", Config{}, addrB)
	near, _ := w.connect(a, b)
	answers := 0
	w.filter = func(p *packet) bool {
		if slices.Contains(kinds(p.data), ChunkRHello) {
			answers++
		}
		return true
	}
	w.run(start.Add(time.Second).Sub(w.now), nil)
	for range 3 * forwardedPerSecond {
		near.Forward(w.now, &Hello{EPD: []byte("id:b"), Tag: make([]byte, 200), From: netip.MustParseAddrPort(addrC)})
		w.run(2*time.Millisecond, nil)
	}
	w.run(100*time.Millisecond, nil)
	if answers != forwardedPerSecond {
		t.Errorf("%d answers in a second", answers)
	}
}

func TestPingRepliesAreBounded(t *testing.T) {
	w := newWorld(t, 1)
	a, b := w.add("a", Config{}, addrA), w.add("b", Config{}, addrB)
	near, far := w.connect(a, b)
	for range 100 {
		near.sendControl(near.far, AppendChunk(nil, ChunkPing, make([]byte, 1000)))
		data := a.e.Flush(w.now)
		b.e.Receive(w.now, 0, a.addrs[0], data[len(data)-1].Data)
	}
	if n := len(far.control); n == 0 || n > maxControl {
		t.Errorf("%d bytes of replies wait", n)
	}
}

func TestCandidatesAreTriedOnEveryInterfaceThatReachesThem(t *testing.T) {
	w := newWorld(t, 1)
	a, b := w.add("a", Config{}, "192.0.2.1:1", "192.0.2.1:2"), w.add("b", Config{}, addrB)
	var from []netip.AddrPort
	w.filter = func(p *packet) bool {
		if slices.Contains(kinds(p.data), ChunkIHello) {
			from = append(from, p.from)
		}
		// Only the second, a relay, gets through.
		return p.from != a.addrs[0] && p.to != a.addrs[0]
	}
	near, far := w.connect(a, b)
	if len(from) != 2 {
		t.Errorf("IHellos from %v", from)
	}
	if iface, _ := near.FarAddress(); iface != 1 {
		t.Errorf("interface %d", iface)
	}
	if _, addr := far.FarAddress(); addr != a.addrs[1] {
		t.Errorf("far end sees %v", addr)
	}
}

func TestOneSeedGivesOneRun(t *testing.T) {
	run := func() []string {
		w := newWorld(t, 42)
		w.loss, w.dup, w.delayMax = 0.2, 0.1, 100*time.Millisecond
		a, b := w.add("a", Config{}, addrA), w.add("b", Config{}, addrB)
		near, _ := w.connect(a, b)
		for i := range 5 {
			f, _ := near.OpenFlow(w.now, FlowConfig{Metadata: []byte{byte(i)}, Priority: Priority(i % 2)})
			for n := range 20 {
				f.Write(w.now, body(n, 700), WriteOptions{FinishWithin: time.Duration(i) * time.Second})
			}
			f.Close(w.now)
		}
		w.run(5*time.Minute, nil)
		return w.trace
	}
	first, second := run(), run()
	if !slices.Equal(first, second) {
		t.Errorf("%d and %d packets", len(first), len(second))
	}
}
