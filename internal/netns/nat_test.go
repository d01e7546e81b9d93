package netns

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"
)

var (
	natPublic = netip.MustParseAddr("192.0.2.1")
	natNow    = time.Unix(1_000_000, 0)
	inA       = netip.MustParseAddrPort("10.0.0.2:5000")
	inB       = netip.MustParseAddrPort("10.0.0.3:5000")
	remote1   = netip.MustParseAddrPort("203.0.113.1:3478")
	remote1b  = netip.MustParseAddrPort("203.0.113.1:3479")
	remote2   = netip.MustParseAddrPort("203.0.113.2:3478")
)

// datagram builds an IPv4 packet with right checksums.
func datagram(proto byte, from, to netip.AddrPort, payload string) []byte {
	var l4 []byte
	switch proto {
	case protoUDP:
		l4 = make([]byte, 8)
		binary.BigEndian.PutUint16(l4[4:], uint16(8+len(payload)))
	case protoTCP:
		l4 = make([]byte, 20)
		l4[12] = 5 << 4
	case protoICMP:
		l4 = []byte{icmpEcho, 0, 0, 0, 0, 0, 0, 1}
		binary.BigEndian.PutUint16(l4[4:], from.Port())
	}
	if proto != protoICMP {
		binary.BigEndian.PutUint16(l4, from.Port())
		binary.BigEndian.PutUint16(l4[2:], to.Port())
	}
	return finish(proto, from.Addr(), to.Addr(), append(l4, payload...))
}

// finish puts a header in front of a transport message and fills in the checksums.
func finish(proto byte, from, to netip.Addr, l4 []byte) []byte {
	b := make([]byte, 20, 20+len(l4))
	b[0], b[8], b[9] = 4<<4|5, 64, proto
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(l4)))
	src, dst := from.As4(), to.As4()
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	binary.BigEndian.PutUint16(b[10:], internetChecksum(b))
	b = append(b, l4...)
	switch proto {
	case protoUDP:
		binary.BigEndian.PutUint16(b[26:], transportChecksum(b))
	case protoTCP:
		binary.BigEndian.PutUint16(b[36:], transportChecksum(b))
	case protoICMP:
		fillICMPChecksum(b[20:])
	}
	return b
}

// transportChecksum sums pseudo-header and payload of a packet; over a packet with a right checksum it is zero.
func transportChecksum(b []byte) uint16 {
	pseudo := append([]byte(nil), b[12:20]...)
	pseudo = append(pseudo, 0, b[9])
	pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(len(b)-20))
	return internetChecksum(append(pseudo, b[20:]...))
}

func checkSums(t *testing.T, b []byte) {
	t.Helper()
	if internetChecksum(b[:20]) != 0 {
		t.Errorf("wrong header checksum: % x", b)
	}
	sum := transportChecksum(b)
	if b[9] == protoICMP {
		sum = internetChecksum(b[20:])
	}
	if sum != 0 {
		t.Errorf("wrong transport checksum: % x", b)
	}
}

// send passes a datagram out and returns its public source.
func send(t *testing.T, n *nat, now time.Time, from, to netip.AddrPort) netip.AddrPort {
	t.Helper()
	b := datagram(protoUDP, from, to, "hi")
	if fate := n.fromInside(now, b); fate != NATOut {
		t.Fatalf("%v to %v: %v", from, to, fate)
	}
	checkSums(t, b)
	p, _ := parsePacket(b, false)
	return p.source()
}

// receive passes a datagram in and returns its fate and where it goes.
func receive(n *nat, now time.Time, from, to netip.AddrPort) (NATFate, netip.AddrPort) {
	b := datagram(protoUDP, from, to, "yo")
	fate := n.fromOutside(now, b)
	p, _ := parsePacket(b, false)
	return fate, p.destination()
}

func TestAllNineClasses(t *testing.T) {
	for m := EIM; m <= APDM; m++ {
		for f := EIF; f <= APDF; f++ {
			for ports := PreservePorts; ports <= SequentialPorts; ports++ {
				t.Run(fmt.Sprintf("%v/%v/%d", m, f, ports), func(t *testing.T) {
					n := newNAT(natPublic, NATConfig{Mapping: m, Filtering: f, Ports: ports})
					p1 := send(t, n, natNow, inA, remote1)
					for _, x := range []struct {
						from netip.AddrPort
						pass bool
					}{{remote1, true}, {remote1b, f <= ADF}, {remote2, f == EIF}} {
						fate, to := receive(n, natNow, x.from, p1)
						if passed := fate == NATIn; passed != x.pass || passed && to != inA || !passed && fate != NATFiltered {
							t.Errorf("from %v: %v to %v", x.from, fate, to)
						}
					}
					if same := send(t, n, natNow, inA, remote1b) == p1; same != (m <= ADM) {
						t.Errorf("another port: same mapping %v", same)
					}
					if same := send(t, n, natNow, inA, remote2) == p1; same != (m == EIM) {
						t.Errorf("another address: same mapping %v", same)
					}
					if again := send(t, n, natNow, inA, remote1); again != p1 {
						t.Errorf("the mapping moved from %v to %v", p1, again)
					}
				})
			}
		}
	}
}

func TestSequentialPortsStepAndWrap(t *testing.T) {
	n := newNAT(natPublic, NATConfig{Mapping: APDM, Filtering: APDF, Ports: SequentialPorts, First: 40000, Last: 40009, Step: 4})
	seen := make(map[uint16]bool)
	for i := range 10 {
		port := send(t, n, natNow, inA, netip.AddrPortFrom(remote1.Addr(), uint16(2000+i))).Port()
		if want := uint16(40000 + i*4%10); i < 5 && port != want {
			t.Errorf("port %d is %d, want %d", i, port, want)
		}
		seen[port] = true // after five, the step has met all it can meet, and the next free port serves
	}
	if len(seen) != 10 {
		t.Errorf("%d different ports of ten: %v", len(seen), seen)
	}
	if fate := n.fromInside(natNow, datagram(protoUDP, inA, remote2, "")); fate != NATFull {
		t.Errorf("the eleventh of ten ports: %v", fate)
	}
}

func TestMappingLivesUntilItsTimeout(t *testing.T) {
	for _, refresh := range []bool{false, true} {
		n := newNAT(natPublic, NATConfig{Mapping: EIM, Filtering: APDF, Ports: RandomPorts, UDPTimeout: 10 * time.Second, InboundRefresh: refresh})
		public := send(t, n, natNow, inA, remote1)
		end := natNow.Add(10 * time.Second)
		if fate, _ := receive(n, end.Add(-1), remote1, public); fate != NATIn {
			t.Errorf("a nanosecond before the end: %v", fate)
		}
		want := NATStray
		if refresh {
			want = NATIn
		}
		if fate, _ := receive(n, end, remote1, public); fate != want {
			t.Errorf("inbound refresh %v: %v at the end", refresh, fate)
		}
	}
}

func TestQuotaHoldsUntilMappingsExpire(t *testing.T) {
	n := newNAT(natPublic, NATConfig{Mapping: APDM, Filtering: APDF, Quota: 2, UDPTimeout: time.Second})
	send(t, n, natNow, inA, remote1)
	send(t, n, natNow, inA, remote2)
	if fate := n.fromInside(natNow, datagram(protoUDP, inA, remote1b, "")); fate != NATQuota {
		t.Errorf("third mapping: %v", fate)
	}
	send(t, n, natNow, inB, remote1b) // another host's quota
	send(t, n, natNow.Add(time.Second), inA, remote1b)
}

func TestReplySameKeepsTheMappingOfAnInboundPacket(t *testing.T) {
	for _, same := range []bool{false, true} {
		n := newNAT(natPublic, NATConfig{Mapping: APDM, Filtering: EIF, ReplySame: same})
		p1 := send(t, n, natNow, inA, remote1)
		if fate, _ := receive(n, natNow, remote2, p1); fate != NATIn {
			t.Fatal(fate)
		}
		if kept := send(t, n, natNow, inA, remote2) == p1; kept != same {
			t.Errorf("ReplySame %v: kept %v", same, kept)
		}
	}
}

func TestUserspaceHairpinHasTheSourceItsModeSays(t *testing.T) {
	for mode, want := range map[Hairpin]NATFate{HairpinOff: NATNoHairpin, HairpinExternal: NATHairpinned, HairpinInternal: NATHairpinned} {
		n := newNAT(natPublic, NATConfig{Mapping: EIM, Filtering: EIF, Hairpin: mode})
		pa, pb := send(t, n, natNow, inA, remote1), send(t, n, natNow, inB, remote1)
		if pa == pb {
			t.Fatal("two hosts share a mapping")
		}
		b := datagram(protoUDP, inA, pb, "hello")
		if fate := n.fromInside(natNow, b); fate != want {
			t.Errorf("mode %d: %v", mode, fate)
		}
		if want != NATHairpinned {
			continue
		}
		checkSums(t, b)
		p, _ := parsePacket(b, false)
		source := map[Hairpin]netip.AddrPort{HairpinExternal: pa, HairpinInternal: inA}[mode]
		if p.source() != source || p.destination() != inB {
			t.Errorf("mode %d: %v to %v", mode, p.source(), p.destination())
		}
	}
}

func TestICMPErrorsAreTranslatedBothWays(t *testing.T) {
	for _, proto := range []byte{protoUDP, protoTCP} {
		n := newNAT(natPublic, NATConfig{Mapping: APDM, Filtering: APDF, Ports: RandomPorts})
		out := datagram(proto, inA, remote1, "payload")
		if fate := n.fromInside(natNow, out); fate != NATOut {
			t.Fatal(fate)
		}
		checkSums(t, out)
		sent, _ := parsePacket(out, false)
		public := sent.source()

		// A router outside says that it could not deliver.
		router := netip.MustParseAddr("198.51.100.9")
		icmp := finish(protoICMP, router, natPublic, append([]byte{icmpUnreachable, 3, 0, 0, 0, 0, 0, 0}, out[:28]...))
		if fate := n.fromOutside(natNow, icmp); fate != NATIn {
			t.Fatal(fate)
		}
		checkSums(t, icmp)
		p, _ := parsePacket(icmp, false)
		quoted, _ := parsePacket(p.payload[8:], true)
		if p.dst() != inA.Addr() || p.src() != router || quoted.source() != inA || quoted.destination() != remote1 {
			t.Errorf("error to %v about %v to %v", p.dst(), quoted.source(), quoted.destination())
		}

		// The inside host says that nobody listens.
		in := datagram(proto, remote1, public, "answer")
		if fate := n.fromOutside(natNow, in); fate != NATIn {
			t.Fatal(fate)
		}
		checkSums(t, in)
		icmp = finish(protoICMP, inA.Addr(), remote1.Addr(), append([]byte{icmpUnreachable, 3, 0, 0, 0, 0, 0, 0}, in[:28]...))
		if fate := n.fromInside(natNow, icmp); fate != NATOut {
			t.Fatal(fate)
		}
		checkSums(t, icmp)
		p, _ = parsePacket(icmp, false)
		quoted, _ = parsePacket(p.payload[8:], true)
		if p.src() != natPublic || quoted.source() != remote1 || quoted.destination() != public {
			t.Errorf("error from %v about %v to %v", p.src(), quoted.source(), quoted.destination())
		}
	}
}

func TestEchoAndTCPPass(t *testing.T) {
	n := newNAT(natPublic, NATConfig{Mapping: APDM, Filtering: APDF, Ports: RandomPorts})
	for _, proto := range []byte{protoTCP, protoICMP} {
		n.fromInside(natNow, datagram(proto, inB, remote1, "")) // takes the port or identifier that inA would keep
		b := datagram(proto, inA, remote1, "data")
		if fate := n.fromInside(natNow, b); fate != NATOut {
			t.Fatal(fate)
		}
		checkSums(t, b)
		p, _ := parsePacket(b, false)
		if p.source() != netip.AddrPortFrom(natPublic, inA.Port()+1) {
			t.Errorf("protocol %d leaves from %v", proto, p.source())
		}
		back := datagram(proto, remote1, p.source(), "answer")
		if proto == protoICMP {
			back[20] = icmpEchoReply
			binary.BigEndian.PutUint16(back[24:], p.source().Port())
			fillICMPChecksum(back[20:])
		}
		if fate := n.fromOutside(natNow, back); fate != NATIn {
			t.Fatalf("protocol %d: %v", proto, fate)
		}
		checkSums(t, back)
		if p, _ := parsePacket(back, false); p.destination() != inA {
			t.Errorf("protocol %d arrives at %v", proto, p.destination())
		}
	}
}

func TestFragmentsFollowTheFirst(t *testing.T) {
	whole := datagram(protoUDP, inA, remote1, string(make([]byte, 100)))
	first := append([]byte(nil), whole[:20+64]...)
	binary.BigEndian.PutUint16(first[2:], 20+64)
	first[6] |= 0x20
	rest := append(append([]byte(nil), whole[:20]...), whole[20+64:]...)
	binary.BigEndian.PutUint16(rest[2:], uint16(len(rest)))
	rest[7] = 64 / 8
	for _, b := range [][]byte{first, rest} {
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], internetChecksum(b[:20]))
	}
	refused := append([]byte(nil), first...)
	n := newNAT(natPublic, NATConfig{Mapping: EIM, Filtering: EIF, Ports: RandomPorts})
	if fate := n.fromInside(natNow, append([]byte(nil), rest...)); fate != NATFragment {
		t.Errorf("a later fragment first: %v", fate)
	}
	if a, b := n.fromInside(natNow, first), n.fromInside(natNow, rest); a != NATOut || b != NATOut {
		t.Fatalf("%v, %v", a, b)
	}
	// Together they are one datagram again, with a right checksum.
	joined := append(append([]byte(nil), first...), rest[20:]...)
	if transportChecksum(joined) != 0 || [4]byte(rest[12:16]) != natPublic.As4() || internetChecksum(rest[:20]) != 0 {
		t.Errorf("reassembled % x", joined[:40])
	}
	n = newNAT(natPublic, NATConfig{Mapping: EIM, Filtering: EIF, DropFragments: true})
	if fate := n.fromInside(natNow, refused); fate != NATFragment {
		t.Errorf("DropFragments: %v", fate)
	}
}

func TestEveryTruncationIsMalformed(t *testing.T) {
	whole := datagram(protoUDP, inA, remote1, "payload")
	for i := range len(whole) {
		n := newNAT(natPublic, NATConfig{Mapping: EIM, Filtering: EIF})
		if fate := n.fromInside(natNow, append([]byte(nil), whole[:i]...)); fate != NATMalformed {
			t.Errorf("the first %d bytes: %v", i, fate)
		}
	}
}

func FuzzNATNeverPanicsAndKeepsItsTablesAlike(f *testing.F) {
	f.Add(datagram(protoUDP, inA, remote1, "x"), false)
	f.Add(datagram(protoTCP, remote1, netip.AddrPortFrom(natPublic, 5000), "x"), true)
	quoting := append([]byte{icmpUnreachable, 3, 0, 0, 0, 0, 0, 0}, datagram(protoUDP, inA, remote1, "")...)
	f.Add(finish(protoICMP, remote1.Addr(), natPublic, quoting), true)
	f.Add(finish(protoICMP, inA.Addr(), remote1.Addr(), quoting), false)
	f.Fuzz(func(t *testing.T, b []byte, outside bool) {
		n := newNAT(natPublic, NATConfig{Mapping: APDM, Filtering: ADF, Hairpin: HairpinExternal, ReplySame: true})
		n.fromInside(natNow, datagram(protoUDP, inA, remote1, "x"))
		translate := n.fromInside
		if outside {
			translate = n.fromOutside
		}
		if fate := translate(natNow, b); fate <= NATUnknown || fate >= natFates {
			t.Errorf("fate %v", fate)
		}
		if len(n.flows) != len(n.ports) {
			t.Errorf("%d flows, %d ports", len(n.flows), len(n.ports))
		}
	})
}
