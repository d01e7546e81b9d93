//go:build e2e

package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// coturn starts Debian's turnserver on a free loopback port and returns its address.
func coturn(t *testing.T, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("turnserver")
	if err != nil {
		t.Fatalf("the package coturn is not installed: %v", err)
	}
	port := freePort(t)
	dir := t.TempDir()
	cmd := exec.Command(path, append([]string{"-n", "--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1", "--no-tls", "--no-dtls", "--no-cli",
		"--allow-loopback-peers", "--listening-port=" + strconv.Itoa(port), "--pidfile=" + filepath.Join(dir, "pid"),
		"--db=" + filepath.Join(dir, "db"), "--log-file=stdout", "-v"}, args...)...)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		done := make(chan struct{})
		go func() { _ = cmd.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			_ = cmd.Process.Kill()
			<-done
		}
		if t.Failed() {
			t.Logf("coturn said:\n%s", log.Bytes())
		}
	})
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	for deadline := time.Now().Add(10 * time.Second); ; {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			_ = conn.Close()
			return addr
		}
		if time.Now().After(deadline) {
			t.Fatalf("coturn does not listen: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// freePort is a port that is free for UDP and TCP on loopback.
func freePort(t *testing.T) int {
	t.Helper()
	for range 20 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		pc, err := net.ListenPacket("udp", l.Addr().String())
		_ = l.Close()
		if err != nil {
			continue
		}
		_ = pc.Close()
		return port
	}
	t.Fatal("no free port")
	return 0
}

func TestCoturnRelaysInBothDialectsAndOverBothTransports(t *testing.T) {
	open := coturn(t, "-z", "--server-relay")
	closed := coturn(t, "--lt-cred-mech", "-u", "user:key", "-r", "realm")
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	for _, network := range []string{"udp", "tcp"} {
		for name, config := range map[string]Config{
			"legacy":      {Server: open},
			"auto":        {Server: open, Dialect: Auto},
			"modern":      {Server: open, Dialect: Modern},
			"credentials": {Server: closed, Username: "user", Password: "key"},
			"even port":   {Server: closed, Username: "user", Password: "key", EvenPort: true},
		} {
			for _, channels := range []int{-1, 1} {
				t.Run(fmt.Sprintf("%s over %s, channels %d", name, network, channels), func(t *testing.T) {
					config.Network, config.ChannelAfter = network, channels
					echoThrough(t, config)
				})
			}
		}
	}
}

// echoThrough sends datagrams of many sizes to an echo server by way of a relay and wants each back.
func echoThrough(t *testing.T, config Config) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := Dial(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}()
	relay := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	if config.EvenPort && relay.Port()%2 != 0 {
		t.Errorf("relayed port %d is odd", relay.Port())
	}
	if got := conn.MappedAddr().Addr(); got != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("mapped address %v", got)
	}
	peer, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := peer.ReadFrom(b)
			if err != nil {
				return
			}
			if from.(*net.UDPAddr).AddrPort() != relay {
				continue
			}
			_, _ = peer.WriteTo(b[:n], from)
		}
	}()
	b := make([]byte, 1<<16)
	for _, size := range []int{1, 2, 3, 4, 172, 1200, 1201, 1400} {
		for i := range 8 {
			want := bytes.Repeat([]byte{byte(size + i)}, size)
			if _, err := conn.WriteTo(want, peer.LocalAddr()); err != nil {
				t.Fatal(err)
			}
			_ = conn.SetReadDeadline(time.Now().Add(3 * time.Second))
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				t.Fatalf("size %d, datagram %d: %v; %+v", size, i, err, conn.Stats())
			}
			if from.String() != peer.LocalAddr().String() || !bytes.Equal(b[:n], want) {
				t.Fatalf("%d bytes from %v, want %d from %v", n, from, size, peer.LocalAddr())
			}
		}
	}
	conn.mu.Lock()
	bound := len(conn.core.channels)
	conn.mu.Unlock()
	if want := max(config.ChannelAfter, 0); bound != want {
		t.Errorf("%d channels are bound, want %d", bound, want)
	}
}

func TestCoturnRefusesAWrongPassword(t *testing.T) {
	server := coturn(t, "--lt-cred-mech", "-u", "user:key", "-r", "realm")
	for _, config := range []Config{
		{Server: server, Username: "user", Password: "wrong"},
		{Server: server, Username: "nobody", Password: "key"},
	} {
		if _, err := Dial(t.Context(), config); !errors.Is(err, ErrCredentials) {
			t.Errorf("%s: %v, want ErrCredentials", config.Username, err)
		}
	}
	if _, err := Dial(t.Context(), Config{Server: server}); !errors.Is(err, ErrCredentialsWanted) {
		t.Errorf("without credentials: %v, want ErrCredentialsWanted", err)
	}
}

func TestCoturnForbidsADeniedPeer(t *testing.T) {
	server := coturn(t, "--lt-cred-mech", "-u", "user:key", "-r", "realm", "--denied-peer-ip=192.0.2.0-192.0.2.255")
	conn, err := Dial(t.Context(), Config{Server: server, Username: "user", Password: "key"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.Permit(t.Context(), netip.MustParseAddrPort("192.0.2.1:5000")); !errors.Is(err, ErrForbidden) {
		t.Errorf("Permit: %v, want ErrForbidden", err)
	}
	if err := conn.Permit(t.Context(), netip.MustParseAddrPort("127.0.0.1:5000")); err != nil {
		t.Errorf("Permit: %v", err)
	}
}

func TestCoturnReleasesOnClose(t *testing.T) {
	server := coturn(t, "--lt-cred-mech", "-u", "user:key", "-r", "realm", "--user-quota=1")
	config := Config{Server: server, Username: "user", Password: "key", Network: "udp"}
	first, err := Dial(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Dial(t.Context(), config); !errors.Is(err, ErrQuota) {
		t.Errorf("second allocation: %v, want ErrQuota", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	// coturn counts a deleted session for a moment longer.
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		second, err := Dial(t.Context(), config)
		if err == nil {
			_ = second.Close()
			return
		}
		if !errors.Is(err, ErrQuota) || time.Now().After(deadline) {
			t.Fatalf("after Close: %v", err)
		}
	}
}
