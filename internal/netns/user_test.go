//go:build e2e && linux

package netns

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"
)

func TestUserLinkDelaysEachWay(t *testing.T) {
	lab := New(t)
	a, b := lab.Host("a"), lab.Host("b")
	lab.UserLink(a.At("10.0.0.1/24", "2001:db8:1::1/64"), b.At("10.0.0.2/24", "2001:db8:1::2/64"),
		UserLinkConfig{Delay: 20 * time.Millisecond, BtoA: &UserLinkConfig{Delay: 50 * time.Millisecond}})
	echo(t, b, "[::]:7")
	for _, x := range [][2]string{{"10.0.0.1:0", "10.0.0.2:7"}, {"[2001:db8:1::1]:0", "[2001:db8:1::2]:7"}} {
		conn := listen(t, a, x[0])
		best := time.Hour // of five: a busy machine only ever adds
		for range 5 {
			begin := time.Now()
			if ask(t, conn, x[1], patience) == "" {
				t.Fatal("no answer")
			}
			best = min(best, time.Since(begin))
		}
		if best < 70*time.Millisecond || best > 100*time.Millisecond {
			t.Errorf("round trip %v, want 70 ms", best)
		}
	}
}

func TestUserLinkCountsWhatItLosesAndOverflows(t *testing.T) {
	lab := New(t)
	a, b := lab.Host("a"), lab.Host("b")
	link := lab.UserLink(a.At("10.0.0.1/24").MTU(1400), b.At("10.0.0.2/24").MTU(1400), UserLinkConfig{Loss: 0.2, Seed: 3})
	to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.0.0.2:9"))
	listen(t, b, "10.0.0.2:9") // so that nothing comes back as an ICMP error
	conn := listen(t, a, "10.0.0.1:0")
	before := link.AtoB.Counters()
	const sent = 2000
	for range sent {
		conn.WriteTo(make([]byte, 72), to) // 100 bytes with headers
		time.Sleep(20 * time.Microsecond)
	}
	settle := func(sent uint64) DirectionCounters {
		for range 500 {
			c := link.AtoB.Counters()
			if c.Sent == c.Lost+c.Overflowed+c.Delivered && c.Sent >= before.Sent+sent {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		return link.AtoB.Counters()
	}
	c := settle(sent)
	// Binomial with deviation 18: ten of them are never reached by chance. The kernel sends a few packets of IPv6 as well.
	if lost := c.Lost - before.Lost; c.Sent != c.Lost+c.Overflowed+c.Delivered || lost < 220 || lost > 580 {
		t.Errorf("%+v", c)
	}
	before = c
	link.AtoB.Set(UserLinkConfig{Rate: 80_000, Queue: 10_000}) // 100 packets of 100 bytes each second, and as many waiting
	for range 300 {
		conn.WriteTo(make([]byte, 72), to)
	}
	c = settle(300)
	if over := c.Overflowed - before.Overflowed; over < 150 || over > 205 {
		t.Errorf("%d of 300 overflowed: %+v", over, c)
	}
}

func TestUserLinkKeepsItsMTU(t *testing.T) {
	lab := New(t)
	a, b := lab.Host("a"), lab.Host("b")
	link := lab.UserLink(a.At("10.0.0.1/24").MTU(1300), b.At("10.0.0.2/24").MTU(1300), UserLinkConfig{})
	echo(t, b, "10.0.0.2:7")
	conn := listen(t, a, "10.0.0.1:0")
	if n, err := conn.WriteTo(make([]byte, 2000), net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.0.0.2:7"))); n != 2000 || err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(patience))
	if _, _, err := conn.ReadFrom(make([]byte, 64)); err != nil {
		t.Error(err)
	}
	if c := link.AtoB.Counters(); c.SentBytes < 2000+28+20 { // two fragments, two headers
		t.Errorf("%+v: the datagram was not fragmented", c)
	}
}

// TestUserspaceNATIsOfItsClass runs the classifier of the nftables kinds on all nine classes.
func TestUserspaceNATIsOfItsClass(t *testing.T) {
	for m := EIM; m <= APDM; m++ {
		for f := EIF; f <= APDF; f++ {
			t.Run(fmt.Sprintf("%v-%v", m, f), func(t *testing.T) {
				w := newWorld(t)
				s, client := w.site(SiteConfig{User: &NATConfig{Mapping: m, Filtering: f, Ports: RandomPorts}})
				if got := w.mapping(client); got != m {
					t.Errorf("mapping %v", got)
				}
				if got := w.filtering(client); got != f {
					t.Errorf("filtering %v", got)
				}
				if got := ask(t, w.socket(client), s1, patience); netip.MustParseAddrPort(got).Addr() != netip.MustParseAddr("192.0.2.1") {
					t.Errorf("public endpoint %q", got)
				}
				if f != EIF && s.User.Count(NATFiltered) == 0 {
					t.Errorf("nothing filtered: %v", s.User)
				}
			})
		}
	}
}

func TestUserspaceNATPassesTCPAndICMPErrors(t *testing.T) {
	w := newWorld(t)
	_, client := w.site(SiteConfig{User: &NATConfig{Mapping: APDM, Filtering: APDF}})
	server := w.inet.Host("web", "203.0.113.9")
	ln, err := server.Listen(t.Context(), "tcp", "203.0.113.9:80")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		if conn, err := ln.Accept(); err == nil {
			conn.Write(make([]byte, 200_000))
			conn.Close()
		}
	}()
	conn, err := dialWithin(t, client, "203.0.113.9:80", patience)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, conn); n != 200_000 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	udp, err := client.Dial(t.Context(), "udp", "203.0.113.9:81")
	if err != nil {
		t.Fatal(err)
	}
	udp.Write([]byte("anybody?"))
	udp.SetReadDeadline(time.Now().Add(patience))
	if _, err := udp.Read(make([]byte, 9)); err == nil || err.(net.Error).Timeout() {
		t.Errorf("the ICMP error of a closed port did not come back: %v", err)
	}
}

func TestUserspaceHairpinBetweenTwoHosts(t *testing.T) {
	w := newWorld(t)
	s, a := w.site(SiteConfig{User: &NATConfig{Mapping: EIM, Filtering: EIF, Hairpin: HairpinExternal}})
	b := s.Host("neighbour")
	ca, cb := w.socket(a), w.socket(b)
	pa, pb := ask(t, ca, s1, patience), ask(t, cb, s1, patience)
	ca.WriteTo([]byte("hello"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(pb)))
	cb.SetReadDeadline(time.Now().Add(patience))
	if _, from, err := cb.ReadFrom(make([]byte, 64)); err != nil || from.String() != pa {
		t.Errorf("from %v, %v; want %s", from, err, pa)
	}
}

func TestSlowAccessDelaysASite(t *testing.T) {
	w := newWorld(t)
	_, client := w.site(SiteConfig{NAT: Masquerade, Access: &UserLinkConfig{Delay: 30 * time.Millisecond}})
	begin := time.Now()
	if ask(t, w.socket(client), s1, patience) == "" {
		t.Fatal("no answer")
	}
	if d := time.Since(begin); d < 60*time.Millisecond {
		t.Errorf("round trip %v", d)
	}
}
