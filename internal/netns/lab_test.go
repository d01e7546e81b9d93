//go:build e2e && linux

package netns

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo answers every datagram with its source address as text.
func echo(t *testing.T, h *Host, address string) {
	t.Helper()
	conn, err := h.ListenPacket(t.Context(), "udp", address)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		buf := make([]byte, 2048)
		for {
			_, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			conn.WriteTo([]byte(from.String()), from)
		}
	}()
}

// patience is how long a test waits for a datagram that must come; silence is how long for one that must not.
const (
	patience = 3 * time.Second
	silence  = 150 * time.Millisecond
)

// ask sends a datagram to an echo and returns the address that the echo saw, or "" if nothing came from there in time.
func ask(t *testing.T, conn net.PacketConn, to string, wait time.Duration) string {
	t.Helper()
	dst := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to))
	if _, err := conn.WriteTo([]byte("?"), dst); err != nil {
		return ""
	}
	deadline := time.Now().Add(wait)
	buf := make([]byte, 2048)
	for {
		conn.SetReadDeadline(deadline)
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return ""
		}
		if from.String() == to {
			return string(buf[:n])
		}
	}
}

func listen(t *testing.T, h *Host, address string) net.PacketConn {
	t.Helper()
	conn, err := h.ListenPacket(t.Context(), "udp", address)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestHostsReachEachOtherOverVethSwitchAndInternet(t *testing.T) {
	lab := New(t)
	a, b, c := lab.Host("a"), lab.Host("b"), lab.Host("c")
	lab.Link(a.At("10.0.0.1/24", "2001:db8:1::1/64"), b.At("10.0.0.2/24", "2001:db8:1::2/64"))
	lab.Switch("lan", a.At("10.0.1.1/24", "2001:db8:2::1/64"), b.At("10.0.1.2/24"), c.At("10.0.1.3/24", "2001:db8:2::3/64"))
	inet := lab.Internet()
	server := inet.Host("server", "203.0.113.1", "2001:db8:ffff::1")
	user := inet.Host("user", "198.51.100.7", "2001:db8:fffe::7")
	for _, h := range []*Host{b, c, server} {
		echo(t, h, "[::]:7")
	}
	for _, try := range []struct {
		from   *Host
		source string
		to     string
	}{
		{a, "10.0.0.1", "10.0.0.2:7"},
		{a, "2001:db8:1::1", "[2001:db8:1::2]:7"},
		{a, "10.0.1.1", "10.0.1.3:7"},
		{a, "2001:db8:2::1", "[2001:db8:2::3]:7"},
		{user, "198.51.100.7", "203.0.113.1:7"},
		{user, "2001:db8:fffe::7", "[2001:db8:ffff::1]:7"},
	} {
		conn := listen(t, try.from, net.JoinHostPort(try.source, "0"))
		begin := time.Now()
		if got := ask(t, conn, try.to, patience); got != conn.LocalAddr().String() {
			t.Errorf("%s asked %s from %s: answer %q", try.from.Name(), try.to, conn.LocalAddr(), got)
		}
		if d := time.Since(begin); d > 500*time.Millisecond {
			t.Errorf("%s to %s took %v: the address was not usable at once", try.source, try.to, d)
		}
	}
}

func TestTenHostsComeUpInUnderASecond(t *testing.T) {
	begin := time.Now()
	lab := New(t)
	inet := lab.Internet()
	for i := range 10 {
		inet.Host("h", netip.AddrFrom4([4]byte{203, 0, 113, byte(i + 1)}).String())
	}
	if d := time.Since(begin); d > time.Second {
		t.Errorf("took %v", d)
	} else {
		t.Log(d)
	}
}

func TestLabsDoNotSeeEachOther(t *testing.T) {
	for range 2 {
		lab := New(t)
		h := lab.Internet().Host("server", "203.0.113.1")
		listen(t, h, "203.0.113.1:3478") // the second would be in use
	}
}

func TestCommandRunsInsideAndEndsWithTheLab(t *testing.T) {
	var endless *Cmd
	t.Run("lab", func(t *testing.T) {
		lab := New(t)
		h := lab.Host("h")
		lab.Link(h.At("10.9.8.7/24"), lab.Host("other").At("10.9.8.6/24"))
		out, err := h.Command(t.Context(), "ip", "-4", "-br", "addr").Output()
		if err != nil || !strings.Contains(string(out), "10.9.8.7/24") {
			t.Errorf("ip printed %q, %v", out, err)
		}
		if err := h.Command(t.Context(), "sh", "-c", "echo why >&2; exit 3").Run(); err == nil || !strings.Contains(err.Error(), "why") {
			t.Errorf("the error %v lacks what the program printed", err)
		}
		if err := h.Command(t.Context(), "no-such-program").Run(); err == nil {
			t.Error("a program that does not exist ran")
		}
		endless = h.Command(context.Background(), "sh", "-c", "echo ready; sleep 1000 & sleep 1000")
		if err := endless.Start(); err != nil {
			t.Fatal(err)
		}
		if err := endless.WaitLog(t.Context(), "ready"); err != nil {
			t.Fatal(err)
		}
	})
	if endless.ProcessState == nil {
		t.Error("the command outlived its lab")
	}
}

func TestTCPDialAndListenStayInside(t *testing.T) {
	inet := New(t).Internet()
	server, user := inet.Host("server", "203.0.113.1"), inet.Host("user", "198.51.100.7")
	ln, err := server.Listen(t.Context(), "tcp", "203.0.113.1:80")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := user.Dial(t.Context(), "tcp", "203.0.113.1:80")
	if err != nil {
		t.Fatal(err)
	}
	peer, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	if got, want := peer.RemoteAddr().String(), conn.LocalAddr().String(); got != want {
		t.Errorf("the server saw %s, the client is %s", got, want)
	}
	if _, err := user.Dial(t.Context(), "tcp", "localhost:80"); err == nil {
		t.Error("a name was resolved outside the namespace")
	}
}

func TestPictureShowsAddressesRulesAndCounters(t *testing.T) {
	lab := New(t)
	inet := lab.Internet()
	server, user := inet.Host("server", "203.0.113.1"), inet.Host("user", "198.51.100.7")
	echo(t, server, "203.0.113.1:7")
	server.NFT(t.Context(), `
		table inet count {
			counter asked {
			}
			chain in {
				type filter hook input priority 0
				udp dport 7 counter name asked
			}
		}`)
	conn := listen(t, user, "198.51.100.7:0")
	if ask(t, conn, "203.0.113.1:7", patience) == "" {
		t.Fatal("no answer")
	}
	if packets, _, err := server.Counter(t.Context(), "asked"); packets != 1 || err != nil {
		t.Errorf("counter %d, %v; want 1", packets, err)
	}
	picture := lab.Picture()
	for _, want := range []string{"host server", "203.0.113.1/32", "packets 1 bytes 29", "198.51.100.7", "route"} {
		if !strings.Contains(picture, want) {
			t.Errorf("the picture lacks %q:\n%s", want, picture)
		}
	}
}

func dialWithin(t *testing.T, h *Host, address string, d time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	return h.Dial(ctx, "tcp", address)
}
