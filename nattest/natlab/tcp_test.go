package natlab_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/stilenet/stile/nattest/natlab"
)

// tcpPair returns both ends of a connection from a to b:80.
func tcpPair(t *testing.T, a, b *natlab.Host) (client, server net.Conn) {
	t.Helper()
	ctx := context.Background()
	l, err := b.Listen(ctx, "tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err = a.DialContext(ctx, "tcp4", b.Name()+":80")
	if err != nil {
		t.Fatal(err)
	}
	server, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return client, server
}

func TestStreamSurvivesBadLinks(t *testing.T) {
	for _, cfg := range []natlab.LinkConfig{
		{},
		{Delay: 20 * time.Millisecond},
		{Delay: 20 * time.Millisecond, Loss: 0.1, Duplicate: 0.1, Reorder: 0.2, Jitter: 10 * time.Millisecond},
		{Delay: 5 * time.Millisecond, Rate: 10_000_000, Queue: 20_000},
		{Delay: 5 * time.Millisecond, MTU: 600},
	} {
		t.Run(fmt.Sprintf("%+v", cfg), func(t *testing.T) {
			natlab.Run(t, 3, func(t *testing.T, n *natlab.Net) {
				a, b := pair(n)
				b.Link().Set(cfg)
				client, server := tcpPair(t, a, b)
				data := make([]byte, 1<<20)
				rnd := rand.New(rand.NewPCG(1, 2))
				for i := range data {
					data[i] = byte(rnd.Uint32())
				}
				go func() { // the server sends back what it gets
					io.Copy(server, server)
					server.Close()
				}()
				go func() {
					client.Write(data)
					client.(*natlab.TCPConn).CloseWrite()
				}()
				client.SetReadDeadline(time.Now().Add(time.Hour))
				got, err := io.ReadAll(client)
				if err != nil || !bytes.Equal(got, data) {
					t.Errorf("%d of %d bytes came back, %v", len(got), len(data), err)
				}
				client.Close()
			})
		})
	}
}

func TestConnBehavesLikeANetConn(t *testing.T) {
	if testing.Short() {
		t.Skip("runs in real time: 3 s")
	}
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		n := natlab.New(1)
		a, b := pair(n)
		c1, c2 = tcpPair(t, a, b)
		return c1, c2, func() { n.Close() }, nil
	})
}

func TestDialIsRefusedOrTimesOut(t *testing.T) {
	natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
		a, b := pair(n)
		b.Link().Set(natlab.LinkConfig{Delay: 10 * time.Millisecond})
		start := time.Now()
		if _, err := a.DialContext(context.Background(), "tcp", "b:80"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("closed port: %v", err)
		}
		if d := time.Since(start).Round(time.Millisecond); d != 20*time.Millisecond {
			t.Errorf("refused after %v", d)
		}
		b.SetQuiet(true)
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		if _, err := a.DialContext(ctx, "tcp", "b:80"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("quiet port: %v", err)
		}
		start = time.Now()
		if _, err := a.DialContext(context.Background(), "tcp", "b:80"); !errors.Is(err, syscall.ETIMEDOUT) {
			t.Errorf("quiet port without deadline: %v", err)
		}
		if d := time.Since(start).Round(time.Second); d != 123*time.Second { // 1+2+4+8+16+32+60
			t.Errorf("timed out after %v", d)
		}
	})
}

func TestListenersHaveTheirPortsAlone(t *testing.T) {
	natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
		a, _ := pair(n)
		ctx := context.Background()
		l, err := a.Listen(ctx, "tcp", ":80")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Listen(ctx, "tcp", "198.51.100.1:80"); !errors.Is(err, syscall.EADDRINUSE) {
			t.Error(err)
		}
		go func() {
			time.Sleep(time.Second)
			l.Close()
		}()
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		l, err = a.Listen(ctx, "tcp", ":80")
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
	})
}

func TestCloseDeliversWhatWasWritten(t *testing.T) {
	natlab.Run(t, 5, func(t *testing.T, n *natlab.Net) {
		a, b := pair(n)
		b.Link().Set(natlab.LinkConfig{Delay: 10 * time.Millisecond, Loss: 0.3})
		client, server := tcpPair(t, a, b)
		client.Write(bytes.Repeat([]byte("x"), 100_000))
		client.Close()
		got, err := io.ReadAll(server)
		if len(got) != 100_000 || err != nil {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		server.Close()
	})
}

func TestUnreadBytesResetTheConnection(t *testing.T) {
	natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
		a, b := pair(n)
		client, server := tcpPair(t, a, b)
		client.Write([]byte("x"))
		time.Sleep(time.Second)
		server.Close()
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Error(err)
		}
		time.Sleep(time.Second)
		if _, err := client.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
			t.Error(err)
		}
	})
}

func TestWriterWaitsForAReaderThatIsSlow(t *testing.T) {
	natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
		a, b := pair(n)
		client, server := tcpPair(t, a, b)
		client.SetWriteDeadline(time.Now().Add(10 * time.Second))
		written, err := client.Write(make([]byte, 2<<20))
		if !errors.Is(err, os.ErrDeadlineExceeded) || written < 256<<10 || written > 600<<10 {
			t.Fatalf("wrote %d, %v", written, err)
		}
		time.Sleep(5 * time.Minute) // the window stays closed; probes keep the connection
		client.SetWriteDeadline(time.Time{})
		go client.Close()
		got, err := io.ReadAll(server)
		if len(got) != written || err != nil {
			t.Errorf("read %d of %d, %v", len(got), written, err)
		}
		server.Close()
	})
}

func TestFirewallsAndNATsTreatTCPAsConfigured(t *testing.T) {
	natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
		server := n.Internet().Host("server", "198.51.100.1")
		ctx := context.Background()
		for _, port := range []string{":80", ":443"} {
			l, err := server.Listen(ctx, "tcp", port)
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
					fmt.Fprint(c, c.RemoteAddr())
					c.Close()
				}
			}()
		}
		for _, block := range []natlab.Block{natlab.Drop, natlab.Reject} {
			box := n.Internet().Box(fmt.Sprint("box", block), natlab.BoxConfig{Outside: []string{fmt.Sprintf("203.0.113.%d", block)},
				NAT:      &natlab.NATConfig{},
				Firewall: &natlab.FirewallConfig{TCP: natlab.Rule{Block: block, Ports: []uint16{443}}}})
			h := box.Inside().Host(fmt.Sprint("client", block), "192.168.1.2")
			c, err := h.DialContext(ctx, "tcp", "server:443")
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(c)
			if err != nil || netip.MustParseAddrPort(string(got)).Addr().String() != fmt.Sprintf("203.0.113.%d", block) {
				t.Errorf("the server sees %q, %v", got, err)
			}
			c.Close()
			want := map[natlab.Block]error{natlab.Drop: context.DeadlineExceeded, natlab.Reject: syscall.EACCES}[block]
			short, cancel := context.WithTimeout(ctx, time.Second)
			if _, err := h.DialContext(short, "tcp", "server:80"); !errors.Is(err, want) {
				t.Errorf("blocked port: %v, want %v", err, want)
			}
			cancel()
		}
	})
}

func TestSimultaneousOpenPunchesThroughTwoNATs(t *testing.T) {
	natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
		w := newWorld(t, n, natlab.BoxConfig{NAT: &natlab.NATConfig{}}, natlab.BoxConfig{NAT: &natlab.NATConfig{}})
		errs := make(chan error, 2)
		for i, h := range w.hosts {
			go func() {
				c, err := h.DialTCP(context.Background(), "tcp", ":7000", fmt.Sprintf("203.0.113.%d:7000", 2-i))
				if err == nil {
					fmt.Fprint(c, "hello")
					b := make([]byte, 5)
					_, err = io.ReadFull(c, b)
					c.Close()
				}
				errs <- err
			}()
		}
		for range 2 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
	})
}

func TestStreamsEndWellOnEverySeed(t *testing.T) {
	bad := natlab.LinkConfig{Delay: 20 * time.Millisecond, Loss: 0.15, Duplicate: 0.15, Reorder: 0.2, Jitter: 20 * time.Millisecond}
	for seed := range uint64(60) {
		natlab.Run(t, seed, func(t *testing.T, n *natlab.Net) {
			a, b := pair(n)
			l, err := b.Listen(context.Background(), "tcp", ":80")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			a.Link().Set(bad)
			go func() {
				c, err := l.Accept()
				if err != nil {
					return
				}
				io.Copy(c, c)
				c.Close()
			}()
			c, err := a.DialContext(context.Background(), "tcp", "b:80")
			if err != nil {
				t.Fatal(err)
			}
			data := bytes.Repeat([]byte("0123456789abcde"), 2000)
			go func() {
				c.Write(data)
				c.(*natlab.TCPConn).CloseWrite()
			}()
			if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d of %d bytes, %v", len(got), len(data), err)
			}
			c.Close()
		})
	}
}
