package natlab_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stilenet/stile/nattest/natlab"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair is two public hosts, a at 198.51.100.1 and b at 198.51.100.2.
func pair(n *natlab.Net) (a, b *natlab.Host) {
	return n.Internet().Host("a", "198.51.100.1", "2001:db8::1"), n.Internet().Host("b", "198.51.100.2", "2001:db8::2")
}

func listen(t *testing.T, h *natlab.Host, address string) *natlab.UDPConn {
	t.Helper()
	c, err := h.ListenUDP(context.Background(), "udp", address)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func send(t *testing.T, c *natlab.UDPConn, to netip.AddrPort, payload string) {
	t.Helper()
	if _, err := c.WriteToUDPAddrPort([]byte(payload), to); err != nil {
		t.Fatal(err)
	}
}

// receive returns the next datagram within a second of the simulation, or "" and why not.
func receive(t *testing.T, c *natlab.UDPConn) (string, netip.AddrPort, error) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 65536)
	n, from, err := c.ReadFromUDPAddrPort(b)
	return string(b[:n]), from, err
}

func mustReceive(t *testing.T, c *natlab.UDPConn, want string) netip.AddrPort {
	t.Helper()
	got, from, err := receive(t, c)
	if err != nil || got != want {
		t.Fatalf("received %.40q, %v; want %.40q", got, err, want)
	}
	return from
}

func mustNotReceive(t *testing.T, c *natlab.UDPConn) {
	t.Helper()
	if got, from, err := receive(t, c); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("received %.40q from %v, %v; want silence", got, from, err)
	}
}

func TestDatagramArrivesAfterTheDelayOfBothLinks(t *testing.T) {
	natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
		a, b := pair(n)
		a.Link().Set(natlab.LinkConfig{Delay: 10 * time.Millisecond})
		b.Link().Set(natlab.LinkConfig{Delay: 5 * time.Millisecond})
		ca, cb := listen(t, a, ":1000"), listen(t, b, ":2000")
		start := time.Now()
		send(t, ca, netip.MustParseAddrPort("198.51.100.2:2000"), "hello")
		from := mustReceive(t, cb, "hello")
		if d := time.Since(start); d < 15*time.Millisecond || d > 15*time.Millisecond+10 {
			t.Errorf("took %v, want 15ms", d)
		}
		if from != netip.MustParseAddrPort("198.51.100.1:1000") {
			t.Errorf("from %v", from)
		}
		send(t, cb, from, "back")
		mustReceive(t, ca, "back")
	})
}

func TestWildcardSocketTellsAndChoosesItsLocalAddress(t *testing.T) {
	natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
		server := n.Internet().Host("server", "198.51.100.1", "198.51.100.9")
		client := n.Internet().Host("client", "198.51.100.2")
		s, c := listen(t, server, "0.0.0.0:3478"), listen(t, client, ":0")
		send(t, c, netip.MustParseAddrPort("198.51.100.9:3478"), "x")
		b := make([]byte, 10)
		_, from, to, err := s.ReadFromTo(b)
		if err != nil || to != netip.MustParseAddrPort("198.51.100.9:3478") {
			t.Fatalf("sent to %v, %v", to, err)
		}
		if _, err := s.WriteFromTo([]byte("y"), to.Addr(), from); err != nil {
			t.Fatal(err)
		}
		if from := mustReceive(t, c, "y"); from != to {
			t.Errorf("answer from %v, want %v", from, to)
		}
		if _, err := s.WriteFromTo([]byte("y"), netip.MustParseAddr("198.51.100.77"), from); !errors.Is(err, syscall.EADDRNOTAVAIL) {
			t.Errorf("sending from another's address: %v", err)
		}
	})
}

func TestBindRulesAreThoseOfUDP(t *testing.T) {
	natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
		a, _ := pair(n)
		ctx := context.Background()
		for _, tc := range []struct {
			first, network, second string
			want                   error
		}{
			{"198.51.100.1:1000", "udp", "198.51.100.1:1000", syscall.EADDRINUSE},
			{"198.51.100.1:1001", "udp", "[2001:db8::1]:1001", nil},
			{"198.51.100.1:1002", "udp4", ":1002", syscall.EADDRINUSE},
			{"198.51.100.1:1003", "udp6", ":1003", nil},
			{"198.51.100.1:1004", "udp", ":1004", syscall.EADDRINUSE},
			{":1005", "udp", "[2001:db8::1]:1005", syscall.EADDRINUSE},
			{":1006", "udp", "127.0.0.1:1006", syscall.EADDRINUSE},
			{":1007", "udp", "198.51.100.2:1008", syscall.EADDRNOTAVAIL},
			{":1009", "tcp", ":1010", net.UnknownNetworkError("tcp")},
		} {
			c := listen(t, a, tc.first)
			d, err := a.ListenPacket(ctx, tc.network, tc.second)
			if !errors.Is(err, tc.want) {
				t.Errorf("%s then %s %s: %v, want %v", tc.first, tc.network, tc.second, err, tc.want)
			}
			if err == nil {
				d.Close()
			}
			c.Close()
			if again, err := a.ListenPacket(ctx, "udp", tc.first); err != nil {
				t.Errorf("%s after Close: %v", tc.first, err)
			} else {
				again.Close()
			}
		}
	})
}

func TestCloseAndDeadlineWakeReaders(t *testing.T) {
	natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
		a, _ := pair(n)
		c := listen(t, a, ":0")
		errs := make(chan error)
		for range 2 {
			go func() {
				_, _, err := c.ReadFrom(make([]byte, 1))
				errs <- err
			}()
		}
		time.Sleep(time.Second)
		start := time.Now()
		c.SetReadDeadline(start.Add(time.Hour))
		c.SetReadDeadline(start.Add(time.Minute))
		for range 2 {
			if err := <-errs; !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error(err)
			}
		}
		if d := time.Since(start); d != time.Minute {
			t.Errorf("deadline after %v", d)
		}
		c.SetReadDeadline(time.Time{})
		go func() {
			_, _, err := c.ReadFrom(make([]byte, 1))
			errs <- err
		}()
		time.Sleep(time.Second)
		c.Close()
		if err := <-errs; !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		if _, err := c.WriteTo(nil, &net.UDPAddr{IP: net.IPv4(198, 51, 100, 2), Port: 1}); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
}

func TestClosedPortIsReportedToConnectedSockets(t *testing.T) {
	natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
		a, b := pair(n)
		c, err := a.DialUDP(context.Background(), "udp", "", "b:9")
		if err != nil {
			t.Fatal(err)
		}
		c.Write([]byte("x"))
		if _, _, err := receive(t, c); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("connected: %v", err)
		}
		plain := listen(t, a, ":0")
		send(t, plain, netip.AddrPortFrom(b.Addr(), 9), "x")
		mustNotReceive(t, plain)
		plain.ReportErrors(true)
		send(t, plain, netip.AddrPortFrom(b.Addr(), 9), "x")
		var icmp *natlab.ICMPError
		if _, _, err := receive(t, plain); !errors.As(err, &icmp) || icmp.Type != natlab.PortUnreachable || icmp.Dst.Port() != 9 {
			t.Errorf("with ReportErrors: %v", err)
		}
		b.SetQuiet(true)
		send(t, plain, netip.AddrPortFrom(b.Addr(), 9), "x")
		mustNotReceive(t, plain)
	})
}

func TestFullReceiveBufferDropsAndCounts(t *testing.T) {
	natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
		a, b := pair(n)
		ca, cb := listen(t, a, ":0"), listen(t, b, ":7")
		cb.SetReadBuffer(4 * 356)
		for range 10 {
			send(t, ca, netip.AddrPortFrom(b.Addr(), 7), strings.Repeat("x", 100))
		}
		time.Sleep(time.Second)
		if got := cb.Dropped(); got != 6 {
			t.Errorf("dropped %d, want 6", got)
		}
	})
}

func TestTTLEndsOnTheWayAndIsReported(t *testing.T) {
	natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
		a, b := pair(n)
		ca, cb := listen(t, a, ":0"), listen(t, b, ":7")
		ca.ReportErrors(true)
		ca.SetTTL(4)
		send(t, ca, netip.AddrPortFrom(b.Addr(), 7), "x")
		var icmp *natlab.ICMPError
		if _, _, err := receive(t, ca); !errors.As(err, &icmp) || icmp.Type != natlab.TimeExceeded {
			t.Errorf("TTL 4: %v", err)
		}
		ca.SetTTL(5)
		send(t, ca, netip.AddrPortFrom(b.Addr(), 7), "x")
		mustReceive(t, cb, "x")
	})
}

func TestBigDatagramsAreFragmentedOrReported(t *testing.T) {
	natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
		a, b := pair(n)
		b.Link().Set(natlab.LinkConfig{MTU: 1280})
		ca, cb := listen(t, a, ":0"), listen(t, b, ":7")
		ca.ReportErrors(true)
		for _, size := range []int{0, 1252, 1253, 1472, 1473, 9000, 65507} {
			payload := make([]byte, size)
			for i := range payload {
				payload[i] = byte(i * 7 >> 3)
			}
			send(t, ca, netip.AddrPortFrom(b.Addr(), 7), string(payload))
			got, _, err := receive(t, cb)
			if err != nil || !bytes.Equal([]byte(got), payload) {
				t.Errorf("%d bytes: got %d, %v", size, len(got), err)
			}
		}
		ca.SetDF(true)
		send(t, ca, netip.AddrPortFrom(b.Addr(), 7), strings.Repeat("x", 1253))
		var icmp *natlab.ICMPError
		if _, _, err := receive(t, ca); !errors.As(err, &icmp) || icmp.Type != natlab.PacketTooBig || icmp.MTU != 1280 {
			t.Errorf("DF: %v", err)
		}
		ca.SetDF(false)
		six := netip.MustParseAddrPort("[2001:db8::2]:7")
		send(t, ca, six, strings.Repeat("x", 1233)) // 1281 bytes: IPv6 is not fragmented on the way
		if _, _, err := receive(t, ca); !errors.As(err, &icmp) || icmp.Type != natlab.PacketTooBig {
			t.Errorf("IPv6: %v", err)
		}
		send(t, ca, six, strings.Repeat("x", 1232))
		mustReceive(t, cb, strings.Repeat("x", 1232))
		if _, err := ca.WriteToUDPAddrPort(make([]byte, 65508), six); !errors.Is(err, syscall.EMSGSIZE) {
			t.Errorf("65508 bytes: %v", err)
		}
	})
}

func TestLossDuplicationReorderingAreAsConfigured(t *testing.T) {
	natlab.Run(t, 7, func(t *testing.T, n *natlab.Net) {
		a, b := pair(n)
		a.Link().SetUp(natlab.LinkConfig{Loss: 0.2, Duplicate: 0.1, Reorder: 0.1, Delay: time.Millisecond})
		ca, cb := listen(t, a, ":0"), listen(t, b, ":7")
		const total = 2000
		go func() {
			for i := range total {
				send(t, ca, netip.AddrPortFrom(b.Addr(), 7), fmt.Sprintf("%04d", i))
				time.Sleep(100 * time.Microsecond)
			}
		}()
		seen := make(map[string]int)
		overtaken, last := 0, ""
		for {
			p, _, err := receive(t, cb)
			if err != nil {
				break
			}
			seen[p]++
			if p < last {
				overtaken++
			}
			last = max(last, p)
		}
		twice := 0
		for _, c := range seen {
			twice += c - 1
		}
		if len(seen) < 1540 || len(seen) > 1660 {
			t.Errorf("%d of %d arrived at 20%% loss", len(seen), total)
		}
		if twice < 110 || twice > 210 {
			t.Errorf("%d duplicates at 10%%", twice)
		}
		if overtaken < 110 || overtaken > 250 {
			t.Errorf("%d reordered at 10%%", overtaken)
		}
		a.Link().SetUp(natlab.LinkConfig{})
		a.Link().Cut()
		send(t, ca, netip.AddrPortFrom(b.Addr(), 7), "x")
		mustNotReceive(t, cb)
		a.Link().Restore()
		send(t, ca, netip.AddrPortFrom(b.Addr(), 7), "x")
		mustReceive(t, cb, "x")
	})
}

func TestRateSpacesPacketsAndItsQueueIsBounded(t *testing.T) {
	natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
		a, b := pair(n)
		a.Link().SetUp(natlab.LinkConfig{Rate: 80_000, Queue: 5000}) // 10,000 bytes a second
		ca, cb := listen(t, a, ":0"), listen(t, b, ":7")
		start := time.Now()
		for range 20 {
			send(t, ca, netip.AddrPortFrom(b.Addr(), 7), strings.Repeat("x", 972)) // 1000 bytes on the wire
		}
		got := 0
		for ; ; got++ {
			if _, _, err := receive(t, cb); err != nil {
				break
			}
			if d := time.Since(start).Round(time.Millisecond); d != time.Duration(got+1)*100*time.Millisecond {
				t.Errorf("packet %d after %v", got, d)
			}
		}
		if got != 5 {
			t.Errorf("%d packets, want the 5 that fit into the queue", got)
		}
	})
}

// chatter makes traffic from many goroutines over bad links.
func chatter(t *testing.T, n *natlab.Net) {
	a, b := pair(n)
	bad := natlab.LinkConfig{Loss: 0.1, Duplicate: 0.1, Reorder: 0.1, Jitter: 10 * time.Millisecond, Delay: 20 * time.Millisecond}
	a.Link().Set(bad)
	b.Link().Set(bad)
	done := make(chan struct{})
	for i := range 20 {
		ca, cb := listen(t, a, fmt.Sprintf(":%d", 1000+i)), listen(t, b, fmt.Sprintf(":%d", 1000+i))
		go func() {
			for {
				b := make([]byte, 100)
				k, from, err := cb.ReadFromUDPAddrPort(b)
				if err != nil {
					return
				}
				cb.WriteToUDPAddrPort(b[:k], from)
			}
		}()
		go func() {
			defer func() { done <- struct{}{} }()
			for k := range 20 {
				send(t, ca, netip.AddrPortFrom(b.Addr(), uint16(1000+i)), fmt.Sprint(k))
				time.Sleep(10 * time.Millisecond)
			}
		}()
	}
	// TCP from behind a NAT, at the same time.
	box := n.Internet().Box("box", natlab.BoxConfig{Outside: []string{"203.0.113.1"},
		NAT: &natlab.NATConfig{Mapping: natlab.APDM, Ports: natlab.PortConfig{Order: natlab.Random}}})
	inner := box.Inside().Host("inner", "192.168.1.2")
	l, err := b.Listen(context.Background(), "tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	for i := range 5 {
		go func() {
			defer func() { done <- struct{}{} }()
			c, err := inner.DialTCP(context.Background(), "tcp", fmt.Sprintf(":%d", 2000+i), "198.51.100.2:80")
			if err != nil {
				t.Error(err)
				return
			}
			go func() {
				c.Write(make([]byte, 20_000))
				c.CloseWrite()
			}()
			if back, err := io.ReadAll(c); len(back) != 20_000 || err != nil {
				t.Errorf("%d bytes, %v", len(back), err)
			}
			c.Close()
		}()
	}
	for range 25 {
		<-done
	}
	time.Sleep(2 * time.Minute)
}

func TestTheSameSeedGivesTheSameRun(t *testing.T) {
	run := func(seed uint64) (diagram string) {
		natlab.Run(t, seed, func(t *testing.T, n *natlab.Net) {
			n.KeepPackets(5000)
			chatter(t, n)
			diagram = n.Diagram()
			s := n.Stats()
			sum := uint64(0)
			for _, c := range s.By {
				sum += c
			}
			if sum != s.Sent || s.By[natlab.InFlight] != 0 {
				t.Errorf("every packet must be counted once: %v", s)
			}
		})
		return diagram
	}
	first := run(1)
	for range 3 {
		if again := run(1); again != first {
			t.Fatalf("two runs differ:\n%.3000s\n%.3000s", first, again)
		}
	}
	if run(2) == first {
		t.Error("another seed gives the same run")
	}
}

func TestTheNetworkAlsoRunsInRealTime(t *testing.T) {
	n := natlab.New(1)
	defer n.Close()
	a, b := pair(n)
	a.Link().Set(natlab.LinkConfig{Delay: 5 * time.Millisecond})
	ca, cb := listen(t, a, ":0"), listen(t, b, ":7")
	start := time.Now()
	send(t, ca, netip.AddrPortFrom(b.Addr(), 7), "x")
	mustReceive(t, cb, "x")
	if d := time.Since(start); d < 5*time.Millisecond {
		t.Errorf("took %v", d)
	}
}
