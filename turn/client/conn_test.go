package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stilenet/stile/stun"
)

func TestDatagramsGoThereAndBack(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		for _, chunk := range []int{0, 1, 7} {
			t.Run(fmt.Sprintf("%s in chunks of %d", network, chunk), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := &fakeServer{}
					n := &fakeNet{t: t, udp: only(s), tcp: only(s), chunk: chunk}
					config := n.config()
					config.Network, config.ChannelAfter = network, 3
					conn := mustDial(t, config)
					defer mustClose(t, conn)
					b := make([]byte, 2048)
					for size := range 40 {
						want := bytes.Repeat([]byte{byte(size)}, size)
						if k, err := conn.WriteTo(want, net.UDPAddrFromAddrPort(alice)); err != nil || k != size {
							t.Fatalf("write: %d, %v", k, err)
						}
						k, from, err := conn.ReadFrom(b)
						if err != nil || from.String() != alice.String() || !bytes.Equal(b[:k], want) {
							t.Fatalf("size %d: %x from %v, %v", size, b[:k], from, err)
						}
					}
					if len(s.requests(stun.ChannelBind)) != 1 || len(s.requests(stun.Send)) > 5 {
						t.Errorf("%d ChannelBind, %d Send", len(s.requests(stun.ChannelBind)), len(s.requests(stun.Send)))
					}
				})
			})
		}
	}
}

func TestDeadlinesPassAndMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &fakeNet{t: t, udp: only(&fakeServer{})}
		conn := mustDial(t, n.config())
		defer mustClose(t, conn)
		b := make([]byte, 10)
		began := time.Now()
		_ = conn.SetReadDeadline(began.Add(time.Second))
		if _, _, err := conn.ReadFrom(b); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if _, _, err := conn.ReadFrom(b); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("again: %v", err)
		}
		var timeout net.Error
		if _, _, err := conn.ReadFrom(b); !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("%v is no net.Error with Timeout", err)
		}
		_ = conn.SetReadDeadline(time.Time{})
		time.AfterFunc(time.Minute, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
		if _, _, err := conn.ReadFrom(b); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("moved: %v", err)
		}
		_ = conn.SetDeadline(time.Unix(1, 0))
		if _, err := conn.WriteTo(b, net.UDPAddrFromAddrPort(alice)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write: %v", err)
		}
		_ = conn.SetDeadline(time.Now().Add(time.Hour))
		if _, err := conn.WriteTo(b, net.UDPAddrFromAddrPort(alice)); err != nil {
			t.Errorf("write: %v", err)
		}
	})
}

func TestCloseUnblocksReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &fakeNet{t: t, udp: only(&fakeServer{})}
		conn := mustDial(t, n.config())
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if _, _, err := conn.ReadFrom(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
					t.Errorf("read: %v", err)
				}
			})
		}
		synctest.Wait()
		mustClose(t, conn)
		wg.Wait()
		if _, err := conn.WriteTo(nil, net.UDPAddrFromAddrPort(alice)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write: %v", err)
		}
		mustClose(t, conn)
	})
}

func TestCloseWaitsASecondForASilentServer(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		synctest.Test(t, func(t *testing.T) {
			s := &fakeServer{script: func(m stun.Message, _ string) ([][]byte, bool) { return nil, m.Method() == stun.Refresh }}
			config := (&fakeNet{t: t, udp: only(s), tcp: only(s)}).config()
			config.Network = network
			conn := mustDial(t, config)
			began := time.Now()
			mustClose(t, conn)
			if got := time.Since(began); got != time.Second {
				t.Errorf("%s: took %v", network, got)
			}
		})
	}
}

func TestLostAllocationIsToldAfterWhatWasReceived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeServer{script: func(m stun.Message, _ string) ([][]byte, bool) {
			return [][]byte{dataFrom(alice, []byte("last words")), answer(m, stun.Error, code(437))}, m.Method() == stun.Refresh
		}}
		conn := mustDial(t, (&fakeNet{t: t, udp: only(s)}).config())
		defer mustClose(t, conn)
		b := make([]byte, 100)
		began := time.Now()
		if n, _, err := conn.ReadFrom(b); err != nil || string(b[:n]) != "last words" {
			t.Errorf("%q, %v", b[:n], err)
		}
		if got := time.Since(began); got != 540*time.Second {
			t.Errorf("refreshed after %v", got)
		}
		for range 2 {
			var e *Error
			if _, _, err := conn.ReadFrom(b); !errors.Is(err, ErrAllocationLost) || !errors.As(err, &e) || e.Code != 437 {
				t.Errorf("read: %v", err)
			}
			if _, err := conn.WriteTo(b, net.UDPAddrFromAddrPort(alice)); !errors.Is(err, ErrAllocationLost) {
				t.Errorf("write: %v", err)
			}
		}
	})
}

func TestBrokenStreamLosesTheAllocation(t *testing.T) {
	for name, reply := range map[string][]byte{"closed": nil, "garbage": {0, 1, 0, 1}} {
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			s := &fakeServer{}
			n := &fakeNet{t: t, tcp: only(s)}
			go n.serve(s, far)
			c, _ := newCore(params{dialect: Legacy, stream: true, channelAfter: -1}, (&fakeSeed{}))
			conn := newConn(newStream(near), c, nil, new(sync.WaitGroup))
			if err := conn.allocate(t.Context(), time.Now()); err != nil {
				t.Fatal(err)
			}
			if reply != nil {
				_, _ = far.Write(reply)
			}
			_ = far.Close()
			_, _, err := conn.ReadFrom(make([]byte, 1))
			if want := map[bool]error{true: io.EOF, false: errFrame}[reply == nil]; !errors.Is(err, ErrAllocationLost) || !errors.Is(err, want) {
				t.Errorf("%s: %v", name, err)
			}
			_ = conn.Close()
		})
	}
}

type fakeSeed struct{}

func (*fakeSeed) Read(b []byte) (int, error) { return len(b), nil }

// stuckConfig is for a server that reads nothing after the first Send until it is let go.
func stuckConfig(t *testing.T) (config Config, letGo func()) {
	stop, stuck := make(chan struct{}), false
	s := &fakeServer{script: func(m stun.Message, _ string) ([][]byte, bool) {
		if m.Method() == stun.Send && !stuck {
			stuck = true
			<-stop
		}
		return nil, false
	}}
	config = (&fakeNet{t: t, tcp: only(s)}).config()
	config.Network, config.ChannelAfter = "tcp", -1
	return config, func() { close(stop) }
}

func writeUntilError(conn *Conn) (err error) {
	for err == nil {
		_, err = conn.WriteTo(make([]byte, 1000), net.UDPAddrFromAddrPort(alice))
	}
	return err
}

func TestServerThatDoesNotReadHoldsWritersToTheirDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config, letGo := stuckConfig(t)
		conn := mustDial(t, config)
		_ = conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
		began := time.Now()
		if err := writeUntilError(conn); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != 5*time.Second {
			t.Errorf("write: %v after %v", err, time.Since(began))
		}
		letGo()
		mustClose(t, conn)
	})
}

func TestServerThatDoesNotReadFor30SecondsLosesTheAllocation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config, letGo := stuckConfig(t)
		conn := mustDial(t, config)
		began := time.Now()
		if err := writeUntilError(conn); !errors.Is(err, ErrAllocationLost) || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write: %v", err)
		}
		if got := time.Since(began); got != streamStall {
			t.Errorf("noticed after %v", got)
		}
		if _, _, err := conn.ReadFrom(nil); !errors.Is(err, ErrAllocationLost) {
			t.Errorf("read: %v", err)
		}
		letGo()
		_ = conn.Close()
	})
}

func TestForeignDatagramsAreDroppedAndCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &fakeNet{t: t, udp: only(&fakeServer{})}
		conn := mustDial(t, n.config())
		defer mustClose(t, conn)
		forged := dataFrom(alice, []byte("forged"))
		n.sockets[0].put(otherAddr, forged)
		n.sockets[0].put(netip.AddrPortFrom(serverAddr.Addr(), 9), forged)
		n.sockets[0].put(serverAddr, dataFrom(alice, []byte("true")))
		b := make([]byte, 100)
		if k, _, err := conn.ReadFrom(b); err != nil || string(b[:k]) != "true" {
			t.Errorf("%q, %v", b[:k], err)
		}
		s := conn.Stats()
		if s.Dropped[DropForeign] != 2 || s.Read != 4 || s.Delivered != 1 || s.Responses != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestFullQueueDropsAndCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &fakeNet{t: t, udp: only(&fakeServer{})}
		conn := mustDial(t, n.config())
		defer mustClose(t, conn)
		for range 600 {
			n.sockets[0].put(serverAddr, dataFrom(alice, []byte("x")))
		}
		synctest.Wait()
		s := conn.Stats()
		if s.Delivered != queueDatagrams || s.Dropped[DropFull] != 600-queueDatagrams {
			t.Errorf("%+v", s)
		}
		_ = conn.SetReadDeadline(time.Now().Add(time.Second))
		for i := range queueDatagrams {
			if _, _, err := conn.ReadFrom(make([]byte, 1)); err != nil {
				t.Fatalf("datagram %d: %v", i, err)
			}
		}
	})
}

func TestEveryWaitingReaderIsWoken(t *testing.T) {
	q := newQueue()
	q.push(alice, nil)
	q.push(bob, nil)
	<-q.ready // one token for two payloads
	q.pop(nil)
	select {
	case <-q.ready:
	default:
		t.Error("the second reader sleeps beside a payload")
	}
}

func TestPermitWaitsForTheServerInModern(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeServer{script: func(m stun.Message, _ string) ([][]byte, bool) {
			peer, _ := m.GetXORAddress(stun.AttrXORPeerAddress)
			if peer == bob {
				return [][]byte{answer(m, stun.Error, code(403))}, true
			}
			return [][]byte{answer(m, stun.Success, nothing)}, m.Method() == stun.CreatePermission
		}}
		config := (&fakeNet{t: t, udp: only(s)}).config()
		config.Dialect = Modern
		conn := mustDial(t, config)
		defer mustClose(t, conn)
		for range 2 {
			if err := conn.Permit(t.Context(), alice); err != nil {
				t.Error(err)
			}
			if err := conn.Permit(t.Context(), bob); !errors.Is(err, ErrForbidden) {
				t.Error(err)
			}
		}
		if n := len(s.requests(stun.CreatePermission)); n != 2 {
			t.Errorf("%d requests", n)
		}
	})
}

func TestPermitReturnsAtOnceInLegacy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeServer{}
		conn := mustDial(t, (&fakeNet{t: t, udp: only(s)}).config())
		defer mustClose(t, conn)
		if err := conn.Permit(t.Context(), alice); err != nil {
			t.Error(err)
		}
		if n := len(s.requests(stun.Send)); n != 1 {
			t.Errorf("%d Send indications", n)
		}
		time.Sleep(time.Hour + time.Second) // and it lives on: 36 more, one each 100 s
		if n := len(s.requests(stun.Send)); n != 37 {
			t.Errorf("%d Send indications after an hour", n)
		}
		if n := len(s.requests(stun.Refresh)); n != 6 {
			t.Errorf("%d refreshes after an hour", n)
		}
	})
}

func TestManyGoroutinesMayUseAConn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &fakeNet{t: t, udp: only(&fakeServer{})}
		conn := mustDial(t, n.config())
		var readers, writers sync.WaitGroup
		for range 4 {
			readers.Go(func() {
				b := make([]byte, 100)
				for {
					if _, _, err := conn.ReadFrom(b); err != nil {
						return
					}
				}
			})
			writers.Go(func() {
				to := alice.Addr()
				for range 200 {
					to = to.Next()
					_, _ = conn.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 9)))
					_ = conn.SetReadDeadline(time.Now().Add(time.Hour))
					conn.Stats()
				}
			})
		}
		writers.Wait()
		mustClose(t, conn)
		readers.Wait()
	})
}

func TestBindAsksWithoutSendingAnythingToThePeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeServer{script: func(m stun.Message, _ string) ([][]byte, bool) {
			if peer, ok := m.GetXORAddress(stun.AttrXORPeerAddress); ok && peer == bob && m.Method() == stun.ChannelBind {
				return [][]byte{answer(m, stun.Error, code(403))}, true
			}
			return nil, false
		}}
		n := &fakeNet{t: t, udp: only(s)}
		conn := mustDial(t, n.config())
		for range 2 {
			if err := conn.Bind(t.Context(), alice); err != nil {
				t.Errorf("bind alice: %v", err)
			}
		}
		if err := conn.Bind(t.Context(), bob); !errors.Is(err, ErrForbidden) {
			t.Errorf("bind bob: %v", err)
		}
		if sent := s.requests(stun.Send); len(sent) > 0 || len(s.requests(stun.ChannelBind)) != 2 {
			t.Errorf("%d indications, %d binds", len(sent), len(s.requests(stun.ChannelBind)))
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		s.mu.Lock()
		s.script = func(stun.Message, string) ([][]byte, bool) { return nil, true }
		s.mu.Unlock()
		if err := conn.Bind(ctx, netip.MustParseAddrPort("198.51.100.77:7")); !errors.Is(err, context.Canceled) {
			t.Errorf("bind without an answer: %v", err)
		}
		conn.abort()
	})
}
