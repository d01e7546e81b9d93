//go:build e2e && linux

package netns

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"
)

// site makes a site of a kind: with a public LAN if the kind does not translate.
func (w *world) site(cfg SiteConfig) (*Site, *Host) {
	w.t.Helper()
	if cfg.LAN == "" {
		cfg.LAN = "10.0.1.0/24"
		if cfg.User == nil && !cfg.NAT.nat() {
			cfg.LAN = "198.51.100.64/28"
		}
	}
	if cfg.Public == "" {
		cfg.Public = "192.0.2.1"
	}
	cfg.Name = "home"
	s := w.inet.Site(cfg)
	return s, s.Host("client")
}

func TestEachKindMapsAndFiltersAsItsTableSays(t *testing.T) {
	kinds := append(Kinds(), OnlyTCP(netip.MustParseAddrPort("203.0.113.1:443")))
	for _, k := range kinds {
		t.Run(k.Name, func(t *testing.T) {
			w := newWorld(t)
			_, client := w.site(SiteConfig{NAT: k})
			for range 2 { // the second time with another socket, next to what the first left behind
				if got := w.mapping(client); got != k.Mapping {
					t.Errorf("mapping %v, the table says %v", got, k.Mapping)
				}
				got := w.filtering(client)
				if got == EIF && k.Mapping == NoMapping && w.openBefore(client) {
					got = NoFiltering
				}
				if got != k.Filtering {
					t.Errorf("filtering %v, the table says %v", got, k.Filtering)
				}
			}
		})
	}
}

func TestMappedConesKeepTwoInsideHostsApart(t *testing.T) {
	for _, k := range []NATKind{FullCone, AddressRestricted} {
		t.Run(k.Name, func(t *testing.T) {
			w := newWorld(t)
			s, a := w.site(SiteConfig{NAT: k})
			b := s.Host("second")
			// Both use one inside port: only one can have it outside.
			ca, cb := listen(t, a, a.IPs()[0].String()+":5000"), listen(t, b, b.IPs()[0].String()+":5000")
			pa, pb := ask(t, ca, s1, patience), ask(t, cb, s1, patience)
			if pa != "192.0.2.1:5000" || pb == pa || pb == "" {
				t.Fatalf("public endpoints %q and %q", pa, pb)
			}
			for _, x := range []struct {
				conn   net.PacketConn
				public string
			}{{ca, pa}, {cb, pb}} {
				if !w.knock(x.conn, x.public, s1b)[s1b] {
					t.Errorf("%s is not reached at %s", x.conn.LocalAddr(), x.public)
				}
			}
		})
	}
}

// TestOpenLinuxMovesTheMappingAfterAnEarlyPacket is the difference that RFC 4787's classes do not show.
func TestOpenLinuxMovesTheMappingAfterAnEarlyPacket(t *testing.T) {
	for _, k := range []NATKind{OpenLinux, Masquerade} {
		w := newWorld(t)
		_, client := w.site(SiteConfig{NAT: k})
		conn := w.socket(client)
		before := ask(t, conn, s1, patience)
		if w.knock(conn, before, s2)[s2] {
			t.Errorf("%s: the early packet passed", k.Name)
		}
		after := ask(t, conn, s2, patience)
		if moved := before != after; after == "" || moved != (k.Name == OpenLinux.Name) {
			t.Errorf("%s: mapping %s, and %s after the early packet", k.Name, before, after)
		}
	}
}

func TestSequentialKindsStepAsTheySay(t *testing.T) {
	for _, x := range []struct {
		kind NATKind
		step int
	}{{Sequential, 1}, {Sequential256, 256}} {
		w := newWorld(t)
		_, client := w.site(SiteConfig{NAT: x.kind})
		conn := w.socket(client)
		last := 0
		for i, s := range []string{s1, s1b, s2, s2b} {
			port := int(netip.MustParseAddrPort(ask(t, conn, s, patience)).Port())
			if i > 0 && port-last != x.step {
				t.Errorf("%s: from %d to %d", x.kind.Name, last, port)
			}
			last = port
		}
	}
}

func TestAddressDependentPortsAreNotPrivileged(t *testing.T) {
	w := newWorld(t)
	_, client := w.site(SiteConfig{NAT: AddressDependent})
	for range 50 {
		if p := netip.MustParseAddrPort(ask(t, w.socket(client), s1, patience)).Port(); p < 32768 {
			t.Errorf("port %d", p)
		}
	}
}

func TestHairpinReachesANeighbourByItsPublicEndpoint(t *testing.T) {
	for _, k := range []NATKind{Masquerade, FullCone, AddressRestricted, PortRange} {
		for _, on := range []bool{true, false} {
			w := newWorld(t)
			s, a := w.site(SiteConfig{NAT: k, Hairpin: on})
			b := s.Host("neighbour")
			ca, cb := w.socket(a), w.socket(b)
			pa, pb := ask(t, ca, s1, patience), ask(t, cb, s1, patience)
			ca.WriteTo([]byte("hello"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(pb)))
			cb.SetReadDeadline(time.Now().Add(silence))
			_, from, err := cb.ReadFrom(make([]byte, 64))
			switch {
			case on && (err != nil || from.String() != pa):
				t.Errorf("%s: %s sent to %s: arrived from %v, %v", k.Name, pa, pb, from, err)
			case !on && err == nil:
				t.Errorf("%s: arrived without hairpin, from %v", k.Name, from)
			}
			if on { // the mapping stays what it was
				if again := ask(t, ca, s2, patience); again != pa {
					t.Errorf("%s: mapping %s, after hairpin %s", k.Name, pa, again)
				}
			}
		}
	}
}

func TestCarrierHidesTheBoxAndIsAsStrictAsTheWorst(t *testing.T) {
	for _, x := range []struct {
		home, carrier NATKind
		mapping       Mapping
		filtering     Filtering
	}{
		{FullCone, FullCone, EIM, EIF},
		{FullCone, AddressRestricted, EIM, ADF},
		{Masquerade, FullCone, EIM, APDF},
		{FullyRandom, FullCone, APDM, APDF},
		{FullCone, AddressDependent, ADM, APDF},
	} {
		w := newWorld(t)
		carrier := w.inet.Site(SiteConfig{Name: "carrier", NAT: x.carrier, Public: "198.51.100.1", LAN: "100.64.0.0/24"})
		home := carrier.Site(SiteConfig{Name: "home", NAT: x.home, Public: "100.64.0.10", LAN: "10.0.1.0/24"})
		client := home.Host("client")
		if got := ask(t, w.socket(client), s1, patience); !strings.HasPrefix(got, "198.51.100.1:") {
			t.Errorf("public endpoint %q", got)
		}
		if m, f := w.mapping(client), w.filtering(client); m != x.mapping || f != x.filtering {
			t.Errorf("%s behind %s: %v/%v, want %v/%v", x.home.Name, x.carrier.Name, m, f, x.mapping, x.filtering)
		}
	}
}

func TestBlockedUDPIsSilentOrRefused(t *testing.T) {
	for _, x := range []struct {
		kind    NATKind
		refused bool
	}{{UDPDropped, false}, {UDPRejected, true}} {
		w := newWorld(t)
		s, client := w.site(SiteConfig{NAT: x.kind})
		conn, err := client.Dial(t.Context(), "udp", s1)
		if err != nil {
			t.Fatal(err)
		}
		conn.Write([]byte("?"))
		conn.SetReadDeadline(time.Now().Add(silence))
		_, err = conn.Read(make([]byte, 64))
		if refused := errors.Is(err, syscall.ECONNREFUSED); err == nil || refused != x.refused {
			t.Errorf("%s: %v", x.kind.Name, err)
		}
		if n, _, err := s.Box.Counter(t.Context(), "blocked"); n != 1 || err != nil {
			t.Errorf("%s: %d blocked, %v", x.kind.Name, n, err)
		}
	}
}

func TestOnlyTCPPassesOneEndpoint(t *testing.T) {
	w := newWorld(t)
	server := w.inet.Host("web", "203.0.113.9")
	_, client := w.site(SiteConfig{NAT: OnlyTCP(netip.MustParseAddrPort("203.0.113.9:443"))})
	for port, want := range map[string]bool{"443": true, "80": false} {
		if _, err := server.Listen(t.Context(), "tcp", "203.0.113.9:"+port); err != nil {
			t.Fatal(err)
		}
		conn, err := dialWithin(t, client, "203.0.113.9:"+port, silence)
		if (err == nil) != want {
			t.Errorf("port %s: %v", port, err)
		}
		if conn != nil {
			conn.Close()
		}
	}
}

func TestOnePortBlockedLeavesTheOther(t *testing.T) {
	w := newWorld(t)
	_, client := w.site(SiteConfig{NAT: UDPDroppedTo(3478)})
	conn := w.socket(client)
	if ask(t, conn, s1, silence) != "" || ask(t, conn, s1b, patience) == "" {
		t.Error("3478 must be silent and 3479 answer")
	}
}

func TestIPv6FirewallPassesAnswersOnly(t *testing.T) {
	for _, k := range []NATKind{Masquerade, Open} {
		w := newWorld(t)
		server := w.inet.Host("six", "2001:db8:ffff::1")
		echo(t, server, "[2001:db8:ffff::1]:7")
		lan := "10.0.1.0/24"
		s := w.inet.Site(SiteConfig{Name: "home", NAT: k, Public: "192.0.2.1", LAN: lan, LAN6: "2001:db8:1::/64"})
		client := s.Host("client")
		conn := listen(t, client, "[2001:db8:1::2]:0")
		stray := listen(t, server, "[2001:db8:ffff::1]:0")
		stray.WriteTo([]byte("knock"), conn.LocalAddr())
		conn.SetReadDeadline(time.Now().Add(silence))
		_, _, err := conn.ReadFrom(make([]byte, 64))
		if passed := err == nil; passed != (k.Name == Open.Name) {
			t.Errorf("%s: a stray packet passed: %v", k.Name, passed)
		}
		if got := ask(t, conn, "[2001:db8:ffff::1]:7", patience); got != conn.LocalAddr().String() {
			t.Errorf("%s: the server saw %q", k.Name, got)
		}
	}
}

func TestLossLosesItsShare(t *testing.T) {
	w := newWorld(t)
	s, client := w.site(SiteConfig{NAT: Open, Loss: 0.2})
	conn := w.socket(client)
	const sent = 2000
	for range sent {
		conn.WriteTo([]byte("??"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(s1))) // two bytes: the server does not answer
	}
	// Binomial: 400 expected, standard deviation 18; ten of them are never reached by chance.
	if n, _, err := s.Box.Counter(t.Context(), "lost"); err != nil || n < 220 || n > 580 {
		t.Errorf("%d of %d lost, %v", n, sent, err)
	}
}

func TestMappingsEndWithTheirTimeout(t *testing.T) {
	w := newWorld(t)
	_, client := w.site(SiteConfig{NAT: FullCone, UDPTimeout: time.Second})
	conn := w.socket(client)
	public := ask(t, conn, s1, patience)
	if !w.knock(conn, public, s2)[s2] {
		t.Error("not reached in time")
	}
	time.Sleep(2500 * time.Millisecond)
	if w.knock(conn, public, s2b)[s2b] {
		t.Error("reached after the timeout")
	}
}
