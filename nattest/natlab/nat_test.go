package natlab

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

var (
	epoch  = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	inside = ap("192.168.1.2:5000")
	other  = ap("192.168.1.3:5000")
	ext    = "203.0.113.1"
	r1p1   = ap("198.51.100.1:1000")
	r1p2   = ap("198.51.100.1:2000")
	r2p1   = ap("198.51.100.2:1000")
)

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func newTestNAT(cfg NATConfig, pool ...string) *NAT {
	if pool == nil {
		pool = []string{ext}
	}
	var addrs []netip.Addr
	for _, p := range pool {
		addrs = append(addrs, netip.MustParseAddr(p))
	}
	return NewNAT(cfg, addrs, rand.New(rand.NewPCG(1, 2)))
}

func udp(src, dst netip.AddrPort) Packet {
	return Packet{Proto: UDP, Src: src, Dst: dst, TTL: 64, Payload: []byte("x")}
}

// out sends a packet from inside and returns its external source.
func out(t *testing.T, n *NAT, now time.Time, src, dst netip.AddrPort) netip.AddrPort {
	t.Helper()
	q, hairpin, drop := n.FromInside(now, udp(src, dst))
	if drop != InFlight || hairpin {
		t.Fatalf("%v > %v: %v, hairpin %v", src, dst, drop, hairpin)
	}
	if q.Dst != dst {
		t.Fatalf("destination became %v", q.Dst)
	}
	return q.Src
}

func outDrop(t *testing.T, n *NAT, now time.Time, src, dst netip.AddrPort, want Disposition) {
	t.Helper()
	if _, _, drop := n.FromInside(now, udp(src, dst)); drop != want {
		t.Fatalf("%v > %v: %v, want %v", src, dst, drop, want)
	}
}

// in sends a packet from outside and checks where it comes out.
func in(t *testing.T, n *NAT, now time.Time, src, dst, want netip.AddrPort) {
	t.Helper()
	q, drop := n.FromOutside(now, udp(src, dst))
	if drop != InFlight || q.Dst != want || q.Src != src {
		t.Fatalf("%v > %v: %v > %v, %v; want to %v", src, dst, q.Src, q.Dst, drop, want)
	}
}

func inDrop(t *testing.T, n *NAT, now time.Time, src, dst netip.AddrPort, want Disposition) {
	t.Helper()
	if _, drop := n.FromOutside(now, udp(src, dst)); drop != want {
		t.Fatalf("%v > %v: %v, want %v", src, dst, drop, want)
	}
}

func TestMappingDependsOnWhatItsNameSays(t *testing.T) {
	for _, tc := range []struct {
		mapping           Mapping
		samePort, sameAdr bool // same mapping for another port, another address
	}{{EIM, true, true}, {ADM, true, false}, {APDM, false, false}, {MappingDefault, true, true}} {
		n := newTestNAT(NATConfig{Mapping: tc.mapping})
		first := out(t, n, epoch, inside, r1p1)
		if got := out(t, n, epoch, inside, r1p2) == first; got != tc.samePort {
			t.Errorf("%v: same mapping for another port is %v", tc.mapping, got)
		}
		if got := out(t, n, epoch, inside, r2p1) == first; got != tc.sameAdr {
			t.Errorf("%v: same mapping for another address is %v", tc.mapping, got)
		}
		if out(t, n, epoch, inside, r1p1) != first {
			t.Errorf("%v: another mapping for the same endpoint", tc.mapping)
		}
		if out(t, n, epoch, other, r1p1) == first {
			t.Errorf("%v: two inside sockets share a mapping", tc.mapping)
		}
	}
}

func TestFilteringAdmitsWhatItsNameSays(t *testing.T) {
	for _, tc := range []struct {
		filtering Filtering
		sameAddr  Disposition // another port of a known address
		stranger  Disposition
	}{{EIF, InFlight, InFlight}, {ADF, InFlight, Filtered}, {APDF, Filtered, Filtered}, {FilteringDefault, Filtered, Filtered}} {
		for _, m := range []Mapping{EIM, ADM, APDM} {
			n := newTestNAT(NATConfig{Mapping: m, Filtering: tc.filtering})
			x := out(t, n, epoch, inside, r1p1)
			in(t, n, epoch, r1p1, x, inside)
			inDrop(t, n, epoch, r1p2, x, tc.sameAddr)
			inDrop(t, n, epoch, r2p1, x, tc.stranger)
			inDrop(t, n, epoch, r1p1, netip.AddrPortFrom(x.Addr(), x.Port()+7), NoMapping)
		}
	}
}

func TestMappingLivesUntilOneNanosecondBeforeItsTimeout(t *testing.T) {
	for _, tc := range []struct {
		name    string
		cfg     NATConfig
		refresh func(t *testing.T, n *NAT, x netip.AddrPort) // at 20 s
		ends    time.Duration
	}{
		{"default", NATConfig{}, nil, 2 * time.Minute},
		{"timeout", NATConfig{Timeout: 30 * time.Second}, nil, 30 * time.Second},
		{"outbound refresh", NATConfig{Timeout: 30 * time.Second},
			func(t *testing.T, n *NAT, x netip.AddrPort) { out(t, n, epoch.Add(20*time.Second), inside, r1p1) }, 50 * time.Second},
		{"no inbound refresh", NATConfig{Timeout: 30 * time.Second},
			func(t *testing.T, n *NAT, x netip.AddrPort) { in(t, n, epoch.Add(20*time.Second), r1p1, x, inside) }, 30 * time.Second},
		{"inbound refresh", NATConfig{Timeout: 30 * time.Second, InboundRefresh: true},
			func(t *testing.T, n *NAT, x netip.AddrPort) { in(t, n, epoch.Add(20*time.Second), r1p1, x, inside) }, 50 * time.Second},
		{"stream", NATConfig{Timeout: 30 * time.Second, StreamTimeout: 2 * time.Minute, InboundRefresh: true},
			func(t *testing.T, n *NAT, x netip.AddrPort) { in(t, n, epoch.Add(20*time.Second), r1p1, x, inside) }, 140 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, late := range []bool{false, true} {
				n := newTestNAT(tc.cfg)
				x := out(t, n, epoch, inside, r1p1)
				if tc.refresh != nil {
					tc.refresh(t, n, x)
				}
				if end := epoch.Add(tc.ends); late {
					inDrop(t, n, end, r1p1, x, NoMapping)
					if got := n.Mappings(end); got != 0 {
						t.Errorf("%d mappings left", got)
					}
				} else {
					in(t, n, end.Add(-1), r1p1, x, inside)
				}
			}
		})
	}
}

func TestAdmissionOfAPeerEndsThoughTheMappingLives(t *testing.T) {
	n := newTestNAT(NATConfig{Timeout: 30 * time.Second})
	x := out(t, n, epoch, inside, r1p1)
	out(t, n, epoch.Add(20*time.Second), inside, r2p1)
	in(t, n, epoch.Add(30*time.Second-1), r1p1, x, inside)
	inDrop(t, n, epoch.Add(30*time.Second), r1p1, x, Filtered)
	in(t, n, epoch.Add(50*time.Second-1), r2p1, x, inside)
}

func TestTCPMappingsLiveLonger(t *testing.T) {
	n := newTestNAT(NATConfig{})
	p := udp(inside, r1p1)
	p.Proto = TCP
	q, _, _ := n.FromInside(epoch, p)
	back := Packet{Proto: TCP, Src: r1p1, Dst: q.Src}
	if _, drop := n.FromOutside(epoch.Add(124*time.Minute-1), back); drop != InFlight {
		t.Error(drop)
	}
	if _, drop := n.FromOutside(epoch.Add(124*time.Minute), back); drop != NoMapping {
		t.Error(drop)
	}
}

// ports returns the external ports for packets from one socket to k destinations.
func ports(t *testing.T, n *NAT, src netip.AddrPort, k int) []int {
	t.Helper()
	var list []int
	for i := range k {
		list = append(list, int(out(t, n, epoch, src, netip.AddrPortFrom(r1p1.Addr(), uint16(1000+i))).Port()))
	}
	return list
}

func TestPortsFollowTheirOrder(t *testing.T) {
	for _, step := range []int{1, 2, 3, 256} {
		t.Run(fmt.Sprintf("sequential %d", step), func(t *testing.T) {
			n := newTestNAT(NATConfig{Mapping: APDM, Ports: PortConfig{Order: Sequential, Step: step}})
			seen := make(map[int]bool)
			last := 0
			jumps := 0
			for i, p := range ports(t, n, inside, 2000) {
				if seen[p] {
					t.Fatalf("port %d twice", p)
				}
				seen[p] = true
				if i > 0 && p-last != step {
					jumps++
				}
				last = p
			}
			if limit := 2000*step/64000 + 1; jumps > limit {
				t.Errorf("%d jumps, at most %d are wraps", jumps, limit)
			}
		})
	}
	t.Run("preserve", func(t *testing.T) {
		n := newTestNAT(NATConfig{})
		if x := out(t, n, epoch, inside, r1p1); x.Port() != 5000 {
			t.Errorf("got %v", x)
		}
		if x := out(t, n, epoch, other, r1p1); x.Port() != 5001 {
			t.Errorf("when taken: %v", x)
		}
	})
	t.Run("random", func(t *testing.T) {
		n := newTestNAT(NATConfig{Mapping: APDM, Ports: PortConfig{Order: Random}})
		near, last := 0, 0
		for _, p := range ports(t, n, inside, 500) {
			if d := p - last; d > -1000 && d < 1000 {
				near++
			}
			last = p
		}
		if near > 40 {
			t.Errorf("%d of 500 ports are near the one before", near)
		}
	})
	t.Run("parity", func(t *testing.T) {
		for _, order := range []PortOrder{Preserve, Random, Sequential} {
			n := newTestNAT(NATConfig{Mapping: APDM, Ports: PortConfig{Order: order, Parity: true}})
			for _, src := range []netip.AddrPort{inside, ap("192.168.1.2:5001")} {
				for _, p := range ports(t, n, src, 50) {
					if p%2 != int(src.Port())%2 {
						t.Errorf("order %d: %v got %d", order, src, p)
					}
				}
			}
		}
	})
	t.Run("range", func(t *testing.T) {
		for _, order := range []PortOrder{Preserve, Random, Sequential} {
			n := newTestNAT(NATConfig{Mapping: APDM, Ports: PortConfig{Order: order, First: 40000, Last: 40009}})
			for _, p := range ports(t, n, inside, 10) {
				if p < 40000 || p > 40009 {
					t.Errorf("port %d", p)
				}
			}
			outDrop(t, n, epoch, inside, r2p1, NoPort)
		}
	})
}

func TestSequentialVisitsEveryPort(t *testing.T) {
	for _, size := range []int{1, 7, 10, 256, 1000} {
		for step := 1; step <= size; step++ {
			seen := make(map[int]bool)
			at := size / 2
			for range size {
				seen[at] = true
				at = advance(at, step, size)
			}
			if len(seen) != size {
				t.Fatalf("step %d visits %d of %d", step, len(seen), size)
			}
		}
	}
}

func TestBlocksConfineASubscriber(t *testing.T) {
	n := newTestNAT(NATConfig{Mapping: APDM, Ports: PortConfig{Order: Random, First: 10000, Last: 10031, Block: 8, Blocks: 2}})
	for i, p := range ports(t, n, inside, 16) {
		if p < 10000 || p > 10015 {
			t.Errorf("mapping %d has port %d", i, p)
		}
	}
	outDrop(t, n, epoch, inside, r2p1, NoPort)
	if x := out(t, n, epoch, other, r2p1); x.Port() < 10016 || x.Port() > 10023 {
		t.Errorf("the other subscriber has %v", x)
	}
	// The blocks come back with the last mapping.
	later := epoch.Add(2 * time.Minute)
	if x := out(t, n, later, ap("192.168.1.4:1"), r2p1); x.Port() > 10007 {
		t.Errorf("after expiry: %v", x)
	}
}

func TestOverloadSharesAPortBetweenDifferentPeers(t *testing.T) {
	n := newTestNAT(NATConfig{Mapping: APDM, Ports: PortConfig{Overload: true}})
	x := out(t, n, epoch, inside, r1p1)
	y := out(t, n, epoch, other, r2p1)
	if x != y {
		t.Fatalf("%v and %v, want one", x, y)
	}
	if z := out(t, n, epoch, other, r1p1); z == x {
		t.Error("one endpoint for the same peer")
	}
	in(t, n, epoch, r1p1, x, inside)
	in(t, n, epoch, r2p1, x, other)
}

func TestQuotaIsPerSubscriberAndReturns(t *testing.T) {
	n := newTestNAT(NATConfig{Mapping: APDM, Quota: 3})
	ports(t, n, inside, 3)
	outDrop(t, n, epoch, inside, r2p1, OverQuota)
	out(t, n, epoch, inside, r1p1) // what exists goes on
	out(t, n, epoch, other, r2p1)
	outDrop(t, n, epoch.Add(2*time.Minute-1), inside, r2p1, OverQuota)
	out(t, n, epoch.Add(2*time.Minute), inside, r2p1)
}

func TestPoolIsPairedOrArbitrary(t *testing.T) {
	pool := []string{"203.0.113.1", "203.0.113.2", "203.0.113.3", "203.0.113.4"}
	for _, pooling := range []Pooling{Paired, Arbitrary} {
		n := newTestNAT(NATConfig{Pooling: pooling}, pool...)
		seen := make(map[netip.Addr]bool)
		for i := range 40 {
			seen[out(t, n, epoch, netip.AddrPortFrom(inside.Addr(), uint16(5000+i)), r1p1).Addr()] = true
		}
		if want := map[Pooling]int{Paired: 1, Arbitrary: 4}[pooling]; len(seen) != want {
			t.Errorf("pooling %d uses %d addresses, want %d", pooling, len(seen), want)
		}
	}
}

func TestHairpinShowsTheSourceThatItIsConfiguredFor(t *testing.T) {
	for _, tc := range []struct {
		hairpin Hairpin
		want    string // source, "" for dropped
	}{{HairpinOff, ""}, {HairpinExternal, "203.0.113.1:5001"}, {HairpinInternal, "192.168.1.3:5000"}} {
		n := newTestNAT(NATConfig{Hairpin: tc.hairpin, Filtering: EIF})
		x := out(t, n, epoch, inside, r1p1)
		q, turned, drop := n.FromInside(epoch, udp(other, x))
		if tc.want == "" {
			if drop != NoHairpin {
				t.Errorf("off: %v", drop)
			}
			continue
		}
		if drop != InFlight || !turned || q.Dst != inside || q.Src != ap(tc.want) {
			t.Errorf("%v > %v, %v, %v", q.Src, q.Dst, turned, drop)
		}
	}
	n := newTestNAT(NATConfig{Hairpin: HairpinExternal})
	x := out(t, n, epoch, inside, r1p1)
	if _, _, drop := n.FromInside(epoch, udp(other, x)); drop != Filtered {
		t.Errorf("a hairpinned packet must pass the filter: %v", drop)
	}
}

func TestALGTranslatesPayloads(t *testing.T) {
	n := newTestNAT(NATConfig{ALG: true})
	p := udp(inside, r1p1)
	p.Payload = []byte("abc\x13\x88\xc0\xa8\x01\x02def\xc0\xa8\x01\x02")
	before := string(p.Payload)
	x := out(t, n, epoch, inside, r1p1)
	out(t, n, epoch, other, r1p1)
	q, _, _ := n.FromInside(epoch, p)
	if want := "abc\x13\x88\xcb\x00\x71\x01def\xcb\x00\x71\x01"; string(q.Payload) != want {
		t.Errorf("out: %q", q.Payload)
	}
	if string(p.Payload) != before {
		t.Error("the sender's bytes were changed")
	}
	back := udp(r1p1, x)
	back.Payload = q.Payload
	if q, _ := n.FromOutside(epoch, back); string(q.Payload) != before {
		t.Errorf("in: %q", q.Payload)
	}
	// Another port changes with the address, and only where it is the socket's.
	p = udp(other, r1p1)
	p.Payload = []byte("\x13\x88\xc0\xa8\x01\x03\x13\x89\xc0\xa8\x01\x03")
	if q, _, _ := n.FromInside(epoch, p); string(q.Payload) != "\x13\x89\xcb\x00\x71\x01\x13\x89\xcb\x00\x71\x01" {
		t.Errorf("port: %q", q.Payload)
	}
}

func TestReplySameAnswersFromTheMappingItWasAskedBy(t *testing.T) {
	for _, same := range []bool{false, true} {
		n := newTestNAT(NATConfig{Mapping: APDM, Filtering: EIF, ReplySame: same})
		x := out(t, n, epoch, inside, r1p1)
		in(t, n, epoch, r2p1, x, inside)
		if got := out(t, n, epoch, inside, r2p1) == x; got != same {
			t.Errorf("ReplySame %v: answer from the same mapping is %v", same, got)
		}
		if out(t, n, epoch, inside, r1p2) == x {
			t.Error("a fresh destination must have a fresh mapping")
		}
	}
}

func TestOpenLinuxMovesTheMappingAfterAStrayPacket(t *testing.T) {
	n := newTestNAT(NATConfig{OpenLinux: true, Timeout: 30 * time.Second})
	x := out(t, n, epoch, inside, r1p1)
	if out(t, n, epoch, inside, r1p2) != x {
		t.Error("without strays it is EIM")
	}
	inDrop(t, n, epoch, r2p1, x, Filtered)
	y := out(t, n, epoch, inside, r2p1)
	if y == x {
		t.Error("the mapping did not move")
	}
	in(t, n, epoch, r2p1, y, inside)
	inDrop(t, n, epoch, r2p1, x, Filtered)
	if out(t, n, epoch, inside, r1p1) != x {
		t.Error("other peers must keep the mapping")
	}

	// The order decides: a contacted peer is no stray.
	n = newTestNAT(NATConfig{OpenLinux: true, Timeout: 30 * time.Second})
	x = out(t, n, epoch, inside, r1p1)
	out(t, n, epoch, inside, r2p1)
	in(t, n, epoch, r2p1, x, inside)
	if out(t, n, epoch, inside, r2p1) != x {
		t.Error("moved without a stray")
	}

	// The entry lives for Timeout.
	for d, moved := range map[time.Duration]bool{30*time.Second - 1: true, 30 * time.Second: false} {
		n = newTestNAT(NATConfig{OpenLinux: true, Timeout: 30 * time.Second})
		x = out(t, n, epoch, inside, r1p1)
		inDrop(t, n, epoch, r2p1, x, Filtered)
		out(t, n, epoch.Add(20*time.Second), inside, r1p1)
		if got := out(t, n, epoch.Add(d), inside, r2p1) != x; got != moved {
			t.Errorf("after %v: moved is %v", d, got)
		}
	}
}

func TestFragmentsPassOrNot(t *testing.T) {
	for _, drop := range []bool{false, true} {
		n := newTestNAT(NATConfig{DropFragments: drop})
		p := udp(inside, r1p1)
		p.Fragment = &Fragment{ID: 1, Offset: 8}
		if _, _, d := n.FromInside(epoch, p); (d == FragmentDropped) != drop {
			t.Errorf("out: %v", d)
		}
	}
}

func TestForwardAdmitsEverybodyForItsLifetime(t *testing.T) {
	n := newTestNAT(NATConfig{Mapping: APDM})
	x := netip.AddrPortFrom(netip.MustParseAddr(ext), 7777)
	if !n.Forward(epoch, UDP, x, inside, time.Hour) {
		t.Fatal("refused")
	}
	if n.Forward(epoch, UDP, x, other, time.Hour) {
		t.Error("a taken port was given to another")
	}
	in(t, n, epoch.Add(time.Hour-1), r2p1, x, inside)
	inDrop(t, n, epoch.Add(time.Hour), r2p1, x, NoMapping)
	n.Forward(epoch, UDP, x, inside, 0)
	in(t, n, epoch.Add(10000*time.Hour), r2p1, x, inside)
	if !n.Unforward(UDP, x) || n.Unforward(UDP, x) {
		t.Error("Unforward")
	}
	inDrop(t, n, epoch, r2p1, x, NoMapping)
}

func TestErrorsAreTranslatedBothWays(t *testing.T) {
	n := newTestNAT(NATConfig{Filtering: EIF})
	x := out(t, n, epoch, inside, r1p1)
	e := Packet{Proto: ICMP, Src: ap("192.0.0.8:0"), Dst: netip.AddrPortFrom(x.Addr(), 0),
		Err: &ICMPError{Type: TimeExceeded, Proto: UDP, Src: x, Dst: r1p1}}
	q, drop := n.FromOutside(epoch, e)
	if drop != InFlight || q.Dst.Addr() != inside.Addr() || q.Err.Src != inside || e.Err.Src != x {
		t.Errorf("in: %v %v %v", q.Dst, q.Err, drop)
	}
	e.Err = &ICMPError{Type: TimeExceeded, Proto: UDP, Src: x, Dst: r2p1}
	if _, drop := n.FromOutside(epoch, e); drop != NoMapping {
		t.Errorf("an error about a packet that nobody sent: %v", drop)
	}
	e = Packet{Proto: ICMP, Src: netip.AddrPortFrom(inside.Addr(), 0), Dst: netip.AddrPortFrom(r1p1.Addr(), 0),
		Err: &ICMPError{Type: PortUnreachable, Proto: UDP, Src: r1p1, Dst: inside}}
	q, _, drop = n.FromInside(epoch, e)
	if drop != InFlight || q.Src.Addr() != x.Addr() || q.Err.Dst != x {
		t.Errorf("out: %v %v %v", q.Src, q.Err, drop)
	}
}

func TestFirewallAdmitsWhatItsConfigurationSays(t *testing.T) {
	for _, tc := range []struct {
		filtering                Filtering
		known, sameAddr, strange Disposition
	}{
		{FilteringDefault, InFlight, InFlight, InFlight},
		{EIF, InFlight, InFlight, InFlight},
		{ADF, InFlight, InFlight, Filtered},
		{APDF, InFlight, Filtered, Filtered},
	} {
		for _, x := range []struct {
			src  netip.AddrPort
			want Disposition
		}{{r1p1, tc.known}, {r1p2, tc.sameAddr}, {r2p1, tc.strange}} {
			f := NewFirewall(FirewallConfig{Filtering: tc.filtering, Timeout: time.Minute})
			f.FromInside(epoch, udp(inside, r1p1))
			if got := f.FromOutside(epoch.Add(time.Minute-1), udp(x.src, inside)); got != x.want {
				t.Errorf("%v from %v: %v, want %v", tc.filtering, x.src, got, x.want)
			}
		}
		f := NewFirewall(FirewallConfig{Filtering: tc.filtering, Timeout: time.Minute})
		f.FromInside(epoch, udp(inside, r1p1))
		if got := f.FromOutside(epoch.Add(time.Minute), udp(r1p1, inside)); tc.filtering != FilteringDefault && got != Filtered {
			t.Errorf("%v after the timeout: %v", tc.filtering, got)
		}
	}
	f := NewFirewall(FirewallConfig{Filtering: APDF, Admit: []netip.AddrPort{inside}})
	if got := f.FromOutside(epoch, udp(r1p1, inside)); got != InFlight {
		t.Errorf("admitted endpoint: %v", got)
	}
	if got := f.FromOutside(epoch, udp(r1p1, ap("192.168.1.2:5001"))); got != Filtered {
		t.Errorf("another port: %v", got)
	}
}

func TestFirewallLetsOutWhatItsRulesSay(t *testing.T) {
	f := NewFirewall(FirewallConfig{UDP: Rule{Block: Reject, Ports: []uint16{443}, To: []netip.Prefix{netip.MustParsePrefix("198.51.100.2/32")}},
		TCP: Rule{Block: Drop, Ports: []uint16{443}}})
	for _, tc := range []struct {
		proto  Proto
		dst    string
		drop   Disposition
		reject bool
	}{
		{UDP, "198.51.100.1:3478", Blocked, true},
		{UDP, "198.51.100.1:443", InFlight, false},
		{UDP, "198.51.100.2:3478", InFlight, false},
		{TCP, "198.51.100.2:3478", Blocked, false},
		{TCP, "198.51.100.1:443", InFlight, false},
	} {
		p := udp(inside, ap(tc.dst))
		p.Proto = tc.proto
		if drop, reject := f.FromInside(epoch, p); drop != tc.drop || reject != tc.reject {
			t.Errorf("%v to %s: %v, %v", tc.proto, tc.dst, drop, reject)
		}
	}
}

func TestFirewallSessionsLiveOnTrafficInBothDirections(t *testing.T) {
	f := NewFirewall(FirewallConfig{Filtering: APDF, Timeout: time.Minute})
	f.FromInside(epoch, udp(inside, r1p1))
	if got := f.FromOutside(epoch.Add(50*time.Second), udp(r1p1, inside)); got != InFlight {
		t.Fatal(got)
	}
	if got := f.FromOutside(epoch.Add(110*time.Second-1), udp(r1p1, inside)); got != InFlight {
		t.Errorf("an answer did not refresh: %v", got)
	}
}

func TestFirewallLetsOutAnswersToWhatItAdmitted(t *testing.T) {
	f := NewFirewall(FirewallConfig{UDP: Rule{Block: Drop}, Timeout: time.Minute})
	if drop, _ := f.FromInside(epoch, udp(inside, r1p1)); drop != Blocked {
		t.Fatal(drop)
	}
	f = NewFirewall(FirewallConfig{Filtering: ADF, UDP: Rule{Block: Drop, Ports: []uint16{1000}}, Timeout: time.Minute})
	f.FromInside(epoch, udp(inside, r1p1))
	f.FromOutside(epoch, udp(r1p2, inside)) // another port of a known address
	if drop, _ := f.FromInside(epoch, udp(inside, r1p2)); drop != InFlight {
		t.Errorf("the answer: %v", drop)
	}
	if drop, _ := f.FromInside(epoch, udp(inside, ap("198.51.100.2:2000"))); drop != Blocked {
		t.Errorf("a stranger: %v", drop)
	}
}

func TestJitterKeepsTheOrder(t *testing.T) {
	d := pipe{rand: rand.New(rand.NewPCG(1, 2)), cfg: LinkConfig{Delay: time.Millisecond, Jitter: 50 * time.Millisecond}}
	last, spread := epoch, false
	for i := range 500 {
		now := epoch.Add(time.Duration(i) * time.Millisecond)
		at, _, fate := d.send(now, 100)
		if fate != InFlight || at.Before(last) {
			t.Fatalf("packet %d: %v, %v after the one before", i, fate, at.Sub(last))
		}
		spread = spread || at.Sub(now) > 40*time.Millisecond
		last = at
	}
	if !spread {
		t.Error("no jitter")
	}
}
