package client

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stilenet/stile/stun"
)

// mustDial dials and closes at the end of the bubble, which ends only when every goroutine has.
func mustDial(t *testing.T, config Config) *Conn {
	t.Helper()
	conn, err := Dial(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func mustClose(t *testing.T, conn *Conn) {
	t.Helper()
	if err := conn.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func only(s *fakeServer) map[netip.AddrPort]*fakeServer {
	return map[netip.AddrPort]*fakeServer{serverAddr: s}
}

func TestDialGivesTheRelayedAddressAndCloseGivesItBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeServer{}
		n := &fakeNet{t: t, udp: only(s)}
		conn := mustDial(t, n.config())
		if conn.LocalAddr().String() != relayed.String() || conn.MappedAddr() != mapped || conn.ServerAddr().String() != serverAddr.String() {
			t.Errorf("local %v, mapped %v, server %v", conn.LocalAddr(), conn.MappedAddr(), conn.ServerAddr())
		}
		if conn.BaseAddr().String() != n.sockets[0].addr.String() {
			t.Errorf("base %v", conn.BaseAddr())
		}
		mustClose(t, conn)
		r := s.requests(stun.Refresh)
		if len(r) != 1 {
			t.Fatalf("%d refreshes", len(r))
		}
		if v, ok := r[0].msg.Uint32(stun.AttrLifetime); !ok || v != 0 {
			t.Errorf("lifetime %d", v)
		}
	})
}

func TestBlockedUDPFallsBackToTCPAfterASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeServer{}
		n := &fakeNet{t: t, tcp: only(s)}
		began := time.Now()
		conn := mustDial(t, n.config())
		if got := time.Since(began); got != time.Second {
			t.Errorf("took %v", got)
		}
		if _, ok := conn.ServerAddr().(*net.TCPAddr); !ok {
			t.Errorf("server %v", conn.ServerAddr())
		}
		mustClose(t, conn)
	})
}

func TestNoRouteForUDPGoesToTCPAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &fakeNet{t: t, tcp: only(&fakeServer{}), broken: map[netip.AddrPort]error{serverAddr: syscall.ENETUNREACH}}
		config := n.config()
		began := time.Now()
		conn := mustDial(t, config)
		if got := time.Since(began); got != 0 {
			t.Errorf("took %v", got)
		}
		mustClose(t, conn)
		config.Network = "udp"
		if _, err := Dial(t.Context(), config); !errors.Is(err, syscall.ENETUNREACH) {
			t.Errorf("%v", err)
		}
	})
}

func TestRefusedTCPLeavesUDPItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &fakeServer{}
		first := time.Now()
		slow.script = func(m stun.Message, _ string) ([][]byte, bool) { return nil, time.Since(first) < 3*time.Second }
		conn := mustDial(t, (&fakeNet{t: t, udp: only(slow)}).config())
		if got := time.Since(first); got != 3500*time.Millisecond {
			t.Errorf("took %v", got)
		}
		mustClose(t, conn)
	})
}

func TestTheLoserOfTheRaceIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		udp, tcp := &fakeServer{}, &fakeServer{}
		began := time.Now()
		udp.script = func(m stun.Message, _ string) ([][]byte, bool) {
			return nil, m.Method() == stun.Allocate && time.Since(began) < 1500*time.Millisecond
		}
		tcp.script = func(m stun.Message, _ string) ([][]byte, bool) { return nil, m.Method() == stun.Allocate }
		conn := mustDial(t, (&fakeNet{t: t, udp: only(udp), tcp: only(tcp)}).config())
		if _, ok := conn.ServerAddr().(*net.UDPAddr); !ok || len(tcp.requests(stun.Allocate)) != 1 {
			t.Errorf("server %v, %d over TCP", conn.ServerAddr(), len(tcp.requests(stun.Allocate)))
		}
		mustClose(t, conn)
	})
}

func TestSilenceEverywhereIsATimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		_, err := Dial(t.Context(), (&fakeNet{t: t}).config())
		if !errors.Is(err, ErrTimeout) || !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%v", err)
		}
		if got := time.Since(began); got != 39500*time.Millisecond {
			t.Errorf("took %v", got)
		}
	})
}

func TestFallbackServerIsTriedAfterTwoSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &fakeNet{t: t, udp: map[netip.AddrPort]*fakeServer{otherAddr: {}}}
		config := n.config()
		config.Network, config.Fallbacks = "udp", []string{otherAddr.String()}
		began := time.Now()
		conn := mustDial(t, config)
		if got := time.Since(began); got != 2*time.Second || conn.ServerAddr().String() != otherAddr.String() {
			t.Errorf("took %v to %v", got, conn.ServerAddr())
		}
		mustClose(t, conn)
		config.Server = "no.such.host"
		began = time.Now()
		conn = mustDial(t, config)
		if got := time.Since(began); got != 0 {
			t.Errorf("took %v, although the first server failed at once", got)
		}
		mustClose(t, conn)
	})
}

func TestMismatchIsTriedFromThreePorts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeServer{}
		s.script = func(m stun.Message, from string) ([][]byte, bool) {
			return [][]byte{answer(m, stun.Error, code(437))}, m.Method() == stun.Allocate
		}
		config := (&fakeNet{t: t, udp: only(s)}).config()
		config.Network = "udp"
		_, err := Dial(t.Context(), config)
		if !errors.Is(err, ErrMismatch) || !strings.Contains(err.Error(), "2 minutes") {
			t.Errorf("%v", err)
		}
		ports, ids := map[string]bool{}, map[stun.TransactionID]bool{}
		for _, r := range s.requests(stun.Allocate) {
			ports[r.from], ids[r.msg.TransactionID()] = true, true
		}
		if len(s.requests(stun.Allocate)) != 3 || len(ports) != 3 || len(ids) != 3 {
			t.Errorf("%d requests from %d ports with %d identifiers", len(s.requests(stun.Allocate)), len(ports), len(ids))
		}
	})
}

func TestMismatchOnceIsOvercome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeServer{}
		s.script = func(m stun.Message, from string) ([][]byte, bool) {
			return [][]byte{answer(m, stun.Error, code(437))}, strings.HasSuffix(from, ":40001")
		}
		conn := mustDial(t, (&fakeNet{t: t, udp: only(s)}).config())
		mustClose(t, conn)
	})
}

func TestARefusalIsNotRepeatedOverTCP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		udp, tcp := &fakeServer{}, &fakeServer{}
		udp.script = func(m stun.Message, _ string) ([][]byte, bool) {
			return [][]byte{answer(m, stun.Error, code(401))}, true
		}
		began := time.Now()
		_, err := Dial(t.Context(), (&fakeNet{t: t, udp: only(udp), tcp: only(tcp)}).config())
		if !errors.Is(err, ErrCredentialsWanted) || time.Since(began) != 0 || len(tcp.requests(stun.Allocate)) != 0 {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

func TestSignedAlternateServerIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := &fakeServer{}, &fakeServer{}
		ask := func(m stun.Message) ([][]byte, bool) {
			return [][]byte{answer(m, stun.Error, challenged(401, "realm", "nonce"))}, true
		}
		first.script = func(m stun.Message, _ string) ([][]byte, bool) {
			if !m.Has(stun.AttrMessageIntegrity) {
				return ask(m)
			}
			return [][]byte{answer(m, stun.Error, signed(func(b *stun.Builder) {
				code(300)(b)
				b.Address(stun.AttrAlternateServer, otherAddr)
			}))}, true
		}
		second.script = func(m stun.Message, _ string) ([][]byte, bool) {
			switch {
			case !m.Has(stun.AttrMessageIntegrity):
				return ask(m)
			case m.Method() == stun.Allocate:
				return [][]byte{answer(m, stun.Success, signed(allocation(600)))}, true
			}
			return [][]byte{answer(m, stun.Success, signed(func(b *stun.Builder) { b.Uint32(stun.AttrLifetime, 0) }))}, true
		}
		n := &fakeNet{t: t, udp: map[netip.AddrPort]*fakeServer{serverAddr: first, otherAddr: second}}
		config := n.config()
		config.Username, config.Password = "user", "key"
		conn := mustDial(t, config)
		if conn.ServerAddr().String() != otherAddr.String() {
			t.Errorf("server %v", conn.ServerAddr())
		}
		mustClose(t, conn)
		// Two servers that name each other are no reason to go round for ever.
		second.script = func(m stun.Message, _ string) ([][]byte, bool) {
			if !m.Has(stun.AttrMessageIntegrity) {
				return ask(m)
			}
			return [][]byte{answer(m, stun.Error, signed(func(b *stun.Builder) {
				code(300)(b)
				b.Address(stun.AttrAlternateServer, serverAddr)
			}))}, true
		}
		var e *Error
		if _, err := Dial(t.Context(), config); !errors.As(err, &e) || e.Code != 300 {
			t.Errorf("%v", err)
		}
	})
}

func TestCancelledDialReturnsAtOnceAndReleases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeServer{script: func(m stun.Message, _ string) ([][]byte, bool) { return nil, true }}
		ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
		defer cancel()
		began := time.Now()
		_, err := Dial(ctx, (&fakeNet{t: t, udp: only(s)}).config())
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 700*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if len(s.requests(stun.Refresh)) != 1 {
			t.Error("nothing releases an allocation whose success may have been lost")
		}
	})
}

func TestConfigMistakesNameTheField(t *testing.T) {
	for want, config := range map[string]Config{
		"server":                  {},
		"Config.Network":          {Server: "x", Network: "udp4"},
		"Config.Lifetime":         {Server: "x", Lifetime: time.Millisecond},
		"Config.ReservationToken": {Server: "x", ReservationToken: []byte("1")},
		"exclude each other":      {Server: "x", ReservationToken: []byte("12345678"), EvenPort: true},
		"Config.Family":           {Server: "x", Family: IPv6},
		"Config.Dialect":          {Server: "x", Dialect: 9},
		"Config.Username":         {Server: "x", Username: strings.Repeat("u", 764)},
		"Config.Fallbacks":        {Server: "x", Fallbacks: make([]string, 16)},
		"TLS is not built":        {Server: "turns:x"},
	} {
		if _, err := Dial(t.Context(), config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
