package turn

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stilenet/stile/stun"
)

// fuzzServer is a small server with credentials on its second listener, tight limits and a peer that is refused. Its tables are
// checked after every step.
func fuzzServer(t testing.TB) *server {
	cfg := authSetup()
	users := cfg.rules
	cfg.auth = []bool{false, true}
	cfg.rules = func(r *Rules) { users(r); r.ModernWithoutCredentials = true }
	cfg.relays = []RelayAddress{{ipOf("192.0.2.15"), ipOf("10.1.0.5")}, {ipOf("2001:db8::15"), ipOf("2001:db8::15")}}
	cfg.ports = PortRange{50000, 50011}
	cfg.foreign = []uint16{50003}
	cfg.limits = func(l *Limits) {
		*l = Limits{Allocations: 12, PerClient: 3, PerClientPrefix: 5, Unconfirmed: 3, Permissions: 4, Channels: 3, BytesPerSecond: 100000,
			PacketsPerSecond: 40, ReplyBytesPerPrefix: 4000, UnansweredPackets: 5, UnansweredBytes: 3000, UnansweredAllClients: 2}
	}
	return newServer(t, cfg)
}

// checkAnswers fails if an answer over UDP is more than twice its request or no STUN message.
func checkAnswers(t testing.TB, request []byte, out []Output) {
	t.Helper()
	for _, o := range out {
		if o.Kind != ToClient || o.Source.Stream != 0 {
			continue
		}
		m, err := stun.Parse(o.Data)
		if err != nil || m.Class() == stun.Indication {
			continue // a hairpin delivery
		}
		if h := wireHeaders(o.Source.Client.Addr()); len(o.Data)+h > 2*(len(request)+h) {
			t.Fatalf("%x is answered with %x", request, o.Data)
		}
	}
}

// FuzzFromClient gives a core with an established allocation, traced, one message of any bytes, twice, then one from a peer.
func FuzzFromClient(f *testing.F) {
	for _, s := range []string{vectorAllocate, vectorSend, vectorBind, "40010005 68656c6c 6f"} {
		f.Add(unhex(f, s), byte(0))
	}
	f.Fuzz(func(t *testing.T, b []byte, how byte) {
		if len(b) > MaxFrame {
			return
		}
		s := fuzzServer(t)
		s.cores[0].TraceNext(netip.MustParsePrefix("0.0.0.0/0"), 10)
		c := s.client("198.51.100.1:7000")
		if how&1 != 0 {
			c = s.stream("198.51.100.1:7000", 9)
		}
		if how&2 != 0 {
			c.allocate()
			c.bind(0x4001, "192.0.2.210:18200")
		}
		if how&4 != 0 {
			c.src.Listener = 1
		}
		for range 2 {
			checkAnswers(t, b, c.give(b))
		}
		c.peer(endpointOf("192.0.2.15:50000"), "192.0.2.210:18200", b)
		for _, e := range s.events {
			if e.Kind == EventTrace {
				if _, err := stun.Parse(e.Data); err != nil {
					t.Fatalf("traced %x: %v", e.Data, err)
				}
			}
		}
	})
}

// FuzzSequence reads a program for five clients, their peers, the administrator and the clock, two bytes for each step.
func FuzzSequence(f *testing.F) {
	f.Add([]byte{0x00, 0x00, 0x02, 0x00, 0x03, 0x11, 0x05, 0x00, 0x08, 0x02})
	f.Fuzz(func(t *testing.T, program []byte) {
		s := fuzzServer(t)
		clients := []*client{s.client("198.51.100.1:7000"), s.client("198.51.100.1:7001"), s.stream("198.51.100.2:7000", 5),
			s.client("[2001:db8:1::1]:7000"), s.client("198.51.100.9:7000")}
		clients[4].src.Listener, clients[4].src.Server = 1, endpointOf("192.0.2.10:3479")
		peers := []string{"203.0.113.1:5000", "203.0.113.1:5001", "203.0.113.2:5000", "[2001:db8:9::1]:5000", "224.0.0.1:5000", "203.0.113.3:53",
			"10.1.0.5:50004", "192.0.2.15:50001"}
		lives := []uint32{0, 1, 600, 700, 1 << 31}
		steps := []time.Duration{1, time.Second, 31 * time.Second, 40 * time.Second, 120 * time.Second, 300*time.Second - 1, 600 * time.Second}
		last := string(unhex(t, vectorAllocate))
		for ; len(program) >= 2 && len(program) < 400; program = program[2:] {
			op, arg := int(program[0]), int(program[1])
			c := clients[op>>4%len(clients)]
			peer := peers[arg%len(peers)]
			if arg&0x80 != 0 && c.relayed.IsValid() { // some other client's relayed address
				peer = clients[arg%len(clients)].relayed.String()
				if peer == "invalid AddrPort" {
					peer = peers[0]
				}
			}
			var b []byte
			switch op & 15 {
			case 0:
				attrs := []attr{udp, lifetimeOf(lives[arg%len(lives)])}
				for bit, a := range []attr{props(0xC0), familyOf(2), value(stun.AttrReservationToken, clients[arg&3].token...), even(0)} {
					if arg>>4&(1<<bit) != 0 {
						attrs = append(attrs, a)
					}
				}
				b = c.message(stun.Allocate, stun.Request, attrs...)
			case 1:
				b = c.message(stun.Refresh, stun.Request, lifetimeOf(lives[arg%len(lives)]))
			case 2:
				b = c.message(stun.Send, stun.Indication, peerOf(peer), dataOf("data"[:arg>>4&3]))
			case 3:
				b = c.message(stun.ChannelBind, stun.Request, channelOf(0x4000+uint16(arg>>3&3)), peerOf(peer))
			case 4:
				b = c.message(stun.CreatePermission, stun.Request, peerOf(peer), peerOf(peers[arg>>4%3]))
			case 5:
				b = channelData(0x4000+uint16(arg&3), "data")
			case 6:
				b = c.message(stun.Send, stun.Indication, peerOf(peer))
			case 7:
				if c.realm != "" {
					c.login([]string{"anna", "bert"}[arg&1], "pass")
				}
			case 8:
				s.after(steps[arg%len(steps)])
			case 9:
				s.tick()
			case 10:
				if relayed := clients[arg%len(clients)].relayed; relayed.IsValid() && relayed.Addr().Is4() == endpointOf(peer).Addr().Is4() {
					s.peer(relayed, peer, []byte("data"))
				}
			case 11:
				for _, session := range s.cores[0].Sessions(s.now, nil) {
					if arg&1 == 0 {
						s.cores[0].Kill(s.now, session.ID)
						break
					}
					s.cores[0].Trace(s.now, session.ID)
				}
				s.settle(0)
			case 12:
				if c.src.Stream != 0 {
					s.cores[0].StreamClosed(s.now, c.src.Stream)
					s.settle(0)
				}
			case 13:
				s.cores[0].SetDraining(arg&1 != 0)
			case 14:
				s.cfg.policy = nil
				if arg&1 != 0 {
					s.cfg.policy = func(p *PolicyConfig) {
						p.Clients, p.Deny = prefixesOf("198.51.100.0/29", "2001:db8::/32"), prefixesOf("203.0.113.1/32")
					}
				}
				s.reload()
			case 15:
				b = []byte(last)
				if len(b) > 0 {
					b[arg%len(b)] ^= byte(1 << (arg & 7))
				}
			}
			if b == nil {
				continue
			}
			last = string(b)
			out := c.give(b)
			checkAnswers(t, b, out)
			for _, o := range out {
				m, err := stun.Parse(o.Data)
				if o.Kind != ToClient || err != nil {
					continue
				}
				if a, ok := m.GetXORAddress(stun.AttrXORRelayedAddress); ok {
					c.relayed = a
					if v, ok := m.Get(stun.AttrReservationToken); ok {
						c.token = v
					}
				}
				if r, ok := m.Get(stun.AttrRealm); ok {
					n, _ := m.Get(stun.AttrNonce)
					c.realm, c.nonce = string(r), string(n)
				}
			}
		}
		s.after(MaxLifetime)
		s.tick()
		same(t, "allocations in the end", s.stats().Allocations, 0)
	})
}

func FuzzFrame(f *testing.F) {
	for _, s := range []string{vectorAllocate, "40010005 68656c6c 6f000000", "ffff0000", "c0000000"} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		size, ok := Frame(b)
		if size > MaxFrame || size < 0 || ok && size != 0 && (size < 4 || size&3 != 0) {
			t.Fatalf("Frame(%x) = %d, %v", b, size, ok)
		}
		for n := range min(len(b), 12) { // a shorter read says the same or waits
			if early, fine := Frame(b[:n]); fine && early != 0 && (early != size || !ok) || !fine && ok {
				t.Fatalf("Frame(%x) = %d, %v; Frame(%x) = %d, %v", b[:n], early, fine, b, size, ok)
			}
		}
		if n, data, ok := ChannelData(b); ok {
			if n < FirstChannel || n > LastChannel || !bytes.Equal(data, b[4:4+len(data)]) {
				t.Fatalf("ChannelData(%x) = %#x %x", b, n, data)
			}
			if framed, fine := Frame(b); !fine || framed != 4+(len(data)+3)&^3 {
				t.Fatalf("Frame(%x) = %d, %v for ChannelData with %d bytes", b, framed, fine, len(data))
			}
		}
		p, d, code := parsePorts(b)
		switch {
		case code != 0 && code != 400 && code != 508, code == 0 && (p.reserve && !p.even || p.preserve),
			code != 400 && d != map[int]Dialect{1: DialectModern, 4: DialectLegacy}[len(b)], (code == 400) != (len(b) != 1 && len(b) != 4):
			t.Fatalf("parsePorts(%x) = %+v, %v, %d", b, p, d, code)
		}
	})
}

func FuzzTranscript(f *testing.F) {
	f.Add("stile-turn-transcript 1\n# a comment\n+0s < 000300082112a4421111111111111111111111110019000411000000\n")
	f.Fuzz(func(t *testing.T, text string) {
		first, err := ParseTranscript(bytes.NewReader([]byte(text)))
		if err != nil {
			return
		}
		b := AppendTranscriptHeader(nil)
		for i := range first {
			b = first[i].Append(b)
		}
		again, err := ParseTranscript(bytes.NewReader(b))
		if err != nil || fmt.Sprint(again) != fmt.Sprint(first) {
			t.Fatalf("%q: written as %q: %v", text, b, err)
		}
	})
}
