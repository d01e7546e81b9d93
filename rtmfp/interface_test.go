package rtmfp

import (
	"net/netip"
	"testing"
	"time"
)

func TestInterfacesComeAndGo(t *testing.T) {
	w := newWorld(t, 1)
	a := w.add("a", Config{Keepalive: 10 * time.Second}, "192.0.2.1:1")
	b := w.add("b", Config{Keepalive: 10 * time.Second}, "192.0.2.2:1")
	// The direct way is closed, so that only the relay, which comes later, opens the session.
	w.filter = func(p *packet) bool { return p.from != a.addrs[0] }
	s, err := a.e.Open(w.now, []byte("id:b"), Candidate{AnyInterface, b.addrs[0]})
	if err != nil {
		t.Fatal(err)
	}
	w.drain(a)
	w.run(5*time.Second, nil)
	if s.State() != StateIHelloSent {
		t.Fatal(s.State())
	}
	a.addrs = append(a.addrs, netip.MustParseAddrPort("198.51.100.1:9"))
	if got := a.e.AddInterface(w.now, Interface{IPv4: true}); got != 1 {
		t.Fatalf("index %d", got)
	}
	w.drain(a)
	w.run(5*time.Second, nil)
	if s.State() != StateOpen || s.far.iface != 1 {
		t.Fatalf("%v by %d", s.State(), s.far.iface)
	}
	// The direct way opens, and the relay goes: the session moves, and the far end follows.
	w.filter = nil
	a.e.RemoveInterface(w.now, 1)
	w.drain(a)
	w.run(5*time.Second, nil)
	if s.State() != StateOpen || s.far.iface != 0 || a.seen[EventAddressChanged] != 1 {
		t.Errorf("%v by %d, moved %d times", s.State(), s.far.iface, a.seen[EventAddressChanged])
	}
	far := b.e.SessionByAddress(a.addrs[0])
	if far == nil || b.seen[EventAddressChanged] != 1 {
		t.Errorf("the far end did not follow: %d changes", b.seen[EventAddressChanged])
	}
	before := a.e.Counters().Packets[DropInterface]
	a.e.Receive(w.now, 1, b.addrs[0], make([]byte, 100))
	if got := a.e.Counters().Packets[DropInterface] - before; got != 1 {
		t.Error("a packet of the removed interface was not dropped")
	}
	// Without any interface there is nothing to send by, and the session ends in time.
	a.e.RemoveInterface(w.now, 0)
	w.drain(a)
	w.run(5*time.Minute, nil)
	if s.State() != StateClosed || a.e.Counters().Unsendable == 0 {
		t.Errorf("%v, %d datagrams not sent", s.State(), a.e.Counters().Unsendable)
	}
	if got := a.e.AddInterface(w.now, Interface{IPv4: true}); got != 0 {
		t.Errorf("the place of a removed interface is not used: %d", got)
	}
}
