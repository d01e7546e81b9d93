package turn

import (
	"net/netip"
	"testing"

	"github.com/stilenet/stile/stun"
)

// Two addresses behind a translation, two ports, a socket for each: listeners 0 and 1 are the first address, 2 and 3 the second.
var twoAddresses = setup{
	relays: []RelayAddress{{ipOf("192.0.2.15"), ipOf("10.0.0.5")}},
	discovery: [2]Discovery{{
		Addrs: [2]RelayAddress{{ipOf("192.0.2.15"), ipOf("10.0.0.5")}, {ipOf("192.0.2.16"), ipOf("10.0.0.6")}},
		Ports: [2]uint16{3478, 3479}, Listeners: [2][2]uint16{{0, 1}, {2, 3}},
	}},
	bindingOnly: []bool{false, true, true, true},
}

var corners = [4]netip.AddrPort{endpointOf("10.0.0.5:3478"), endpointOf("10.0.0.5:3479"), endpointOf("10.0.0.6:3478"), endpointOf("10.0.0.6:3479")}

func publicCorner(i int) netip.AddrPort {
	public := [2]netip.Addr{ipOf("192.0.2.15"), ipOf("192.0.2.16")}
	return netip.AddrPortFrom(public[i/2], corners[i].Port())
}

func binding(t *testing.T, s *server, at int, attrs ...attr) ([]Output, stun.Message) {
	t.Helper()
	c := s.client("198.51.100.1:7000")
	c.src.Server, c.src.Listener = corners[at], uint16(at)
	out := s.from(0, c.src, c.message(stun.Binding, stun.Request, attrs...))
	if len(out) != 1 {
		return out, stun.Message{}
	}
	m, err := stun.Parse(out[0].Data)
	if err != nil {
		t.Fatal(err)
	}
	return out, m
}

func addressOf(t *testing.T, m stun.Message, a stun.AttrType) netip.AddrPort {
	t.Helper()
	v, _ := m.Get(a)
	x, _ := stun.Address(v)
	return x
}

func TestDiscoveryAnswersFromTheSocketThatIsAskedFor(t *testing.T) {
	for at := range 4 {
		for change := range 4 {
			s := newServer(t, twoAddresses)
			from := at ^ change
			out := s.expect(AnsweredBinding, func() []Output {
				out, m := binding(t, s, at, func(b *stun.Builder) {
					b.Uint32(stun.AttrChangeRequest, stun.ChangeRequest(change&2 != 0, change&1 != 0))
				})
				same(t, "RESPONSE-ORIGIN", addressOf(t, m, stun.AttrResponseOrigin), publicCorner(from))
				same(t, "OTHER-ADDRESS", addressOf(t, m, stun.AttrOtherAddress), publicCorner(at^3))
				return out
			})
			same(t, "listener", int(out[0].Source.Listener), from)
			same(t, "address", out[0].Source.Server, corners[from])
			same(t, "client", out[0].Source.Client, endpointOf("198.51.100.1:7000"))
		}
	}
}

// A listener of all addresses has both, and is told which one a request came to; a third address of the host is its first one.
func TestOneListenerMayHaveBothAddresses(t *testing.T) {
	cfg := twoAddresses
	cfg.discovery[0].Listeners = [2][2]uint16{{0, 1}, {0, 1}}
	cfg.bindingOnly = []bool{false, true}
	s := newServer(t, cfg)
	c := s.client("198.51.100.1:7000")
	for server, want := range map[string][3]string{
		"10.0.0.5:3478": {"10.0.0.6:3479", "192.0.2.16:3479", "192.0.2.16:3479"},
		"10.0.0.6:3478": {"10.0.0.5:3479", "192.0.2.15:3479", "192.0.2.15:3479"},
		"10.0.0.7:3478": {"10.0.0.6:3479", "192.0.2.16:3479", "192.0.2.16:3479"},
	} {
		c.src.Server = endpointOf(server)
		out := c.give(c.message(stun.Binding, stun.Request, func(b *stun.Builder) { b.Uint32(stun.AttrChangeRequest, 6) }))
		m, err := stun.Parse(out[0].Data)
		if err != nil || out[0].Source.Server.String() != want[0] || out[0].Source.Listener != 1 ||
			addressOf(t, m, stun.AttrResponseOrigin).String() != want[1] || addressOf(t, m, stun.AttrOtherAddress).String() != want[2] {
			t.Errorf("%s: from %v, %x", server, out[0].Source, out[0].Data)
		}
	}
}

func TestWithOneAddressThePortAloneChanges(t *testing.T) {
	cfg := setup{
		discovery:   [2]Discovery{{Ports: [2]uint16{3478, 3479}, Listeners: [2][2]uint16{{0, 1}}}},
		bindingOnly: []bool{false, true},
	}
	s := newServer(t, cfg)
	for change, from := range map[uint32]int{0: 0, 2: 1, 4: -1, 6: -1} {
		out, m := binding(t, s, 0, func(b *stun.Builder) { b.Uint32(stun.AttrChangeRequest, change) })
		if m.Has(stun.AttrOtherAddress) {
			t.Error("OTHER-ADDRESS")
		}
		if code, _, _ := m.ErrorCode(); from < 0 && (code != 420 || out[0].Source.Listener != 0) || from >= 0 && int(out[0].Source.Listener) != from {
			t.Errorf("change %d: code %d from listener %d", change, code, out[0].Source.Listener)
		}
	}
	// IPv6 has no discovery here.
	six := s.client("[2001:db8:1::1]:7000")
	if code, m := six.ask(six.message(stun.Binding, stun.Request)); code != 0 || m.Has(stun.AttrResponseOrigin) {
		t.Errorf("IPv6: code %d", code)
	}
	// Nor has TCP.
	tcp := s.stream("198.51.100.1:7000", 1)
	if code, _ := tcp.ask(tcp.message(stun.Binding, stun.Request, func(b *stun.Builder) { b.Uint32(stun.AttrChangeRequest, 2) })); code != 420 {
		t.Errorf("TCP: code %d", code)
	}
}

func TestAListenerForBindingServesNothingElse(t *testing.T) {
	s := newServer(t, twoAddresses)
	c := s.client("198.51.100.1:7000")
	c.src.Server, c.src.Listener = corners[1], 1
	for d, b := range map[Disposition][]byte{
		DropMethod:      c.message(stun.Allocate, stun.Request, udp),
		DropMalformed:   channelData(0x4000, "hello"),
		Keepalive:       c.message(stun.Binding, stun.Indication),
		AnsweredBinding: c.message(stun.Binding, stun.Request),
		DropFingerprint: unhex(t, "00010008 2112a442 000000000000000000000000 80280004 00000000"),
	} {
		s.expect(d, func() []Output { return c.give(b) })
	}
	same(t, "allocations", s.stats().Allocations, 0)
}

// The client policy and the budget of its prefix hold for these answers as for any other, whichever socket they leave by.
func TestDiscoveryKeepsToPolicyAndBudget(t *testing.T) {
	cfg := twoAddresses
	cfg.policy = func(p *PolicyConfig) { p.Profile = ProfileCorporate }
	s := newServer(t, cfg)
	s.expect(DropClient, func() []Output { out, _ := binding(t, s, 3); return out })

	cfg = twoAddresses
	cfg.limits = func(l *Limits) { l.ReplyBytesPerPrefix = 1000 }
	s = newServer(t, cfg)
	for at := range 40 {
		binding(t, s, at%4, func(b *stun.Builder) { b.Uint32(stun.AttrChangeRequest, 6) })
	}
	same(t, "answered", s.did(AnsweredBinding), 10) // of 96 bytes, headers included
	same(t, "over the budget", s.did(DropReplyBudget), 30)
}

// The bound that the issue of the probe names: at most 2.5 times the request on the wire. None is held back for its size.
func TestNoAnswerOfDiscoveryIsMoreThanTwoAndAHalfTimesItsRequest(t *testing.T) {
	six := [2]RelayAddress{{ipOf("2001:db8::15"), ipOf("2001:db8::15")}, {ipOf("2001:db8::16"), ipOf("2001:db8::16")}}
	cfg := twoAddresses
	cfg.discovery[1] = Discovery{Addrs: six, Ports: [2]uint16{3478, 3479}, Listeners: [2][2]uint16{{4, 5}, {6, 7}}}
	s := newServer(t, cfg)
	worst := 0.0
	for _, from := range []string{"198.51.100.1:7000", "[2001:db8:1::1]:7000"} {
		c := s.client(from)
		c.src.Server = corners[0]
		if c.src.Client.Addr().Is6() {
			c.src.Server, c.src.Listener = endpointOf("[2001:db8::15]:3478"), 4
		}
		for kind := range 32 {
			var attrs []attr
			for i, a := range []attr{
				func(b *stun.Builder) { b.Uint32(stun.AttrChangeRequest, 6) }, func(b *stun.Builder) { b.Uint32(stun.AttrResponsePort, 53<<16) },
				value(stun.AttrPadding, make([]byte, 64)...), value(0x7001), (*stun.Builder).Fingerprint,
			} {
				if kind>>i&1 != 0 {
					attrs = append(attrs, a)
				}
			}
			b := c.message(stun.Binding, stun.Request, attrs...)
			out := s.expect(AnsweredBinding, func() []Output { return c.give(b) })
			h := wireHeaders(c.src.Client.Addr())
			worst = max(worst, float64(len(out[0].Data)+h)/float64(len(b)+h))
		}
	}
	if worst > 2.5 || worst < 2.4 {
		t.Errorf("the longest answer is %.2f times its request", worst)
	}
}

func TestADiscoveryRequestAllocatesNothing(t *testing.T) {
	s := newServer(t, twoAddresses)
	s.quiet = true
	c := s.client("198.51.100.1:7000")
	c.src.Server = corners[0]
	b := c.message(stun.Binding, stun.Request, func(b *stun.Builder) { b.Uint32(stun.AttrChangeRequest, 6) })
	p := s.packet(b)
	same(t, "allocations", testing.AllocsPerRun(1000, func() {
		s.cores[0].FromClient(s.now, &c.src, p)
		s.cores[0].Reset()
	}), 0)
}

func BenchmarkDiscovery(b *testing.B) {
	s := newServer(b, twoAddresses)
	c := s.client("198.51.100.1:7000")
	c.src.Server = corners[0]
	p := s.packet(c.message(stun.Binding, stun.Request))
	b.ReportAllocs()
	for b.Loop() {
		s.cores[0].FromClient(s.now, &c.src, p)
		s.cores[0].Reset()
	}
}
