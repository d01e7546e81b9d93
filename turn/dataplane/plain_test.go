package dataplane

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stilenet/stile/stun"
	"github.com/stilenet/stile/turn"
)

var loopback = netip.MustParseAddr("127.0.0.1")

// startPlain serves on loopback until the test ends, and checks that nothing is left then.
func startPlain(t *testing.T, change func(*Config)) *Server {
	t.Helper()
	leak := goleak.IgnoreCurrent()
	policy, err := turn.NewPolicy(turn.PolicyConfig{
		Profile: turn.ProfileLab, Relays: []turn.RelayAddress{{Public: loopback, Local: loopback}}, RelayPorts: turn.PortRange{First: 20000, Last: 29999},
	})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Engine:    Plain,
		Listeners: []Listener{{Network: "udp", Address: netip.AddrPortFrom(loopback, 0)}, {Network: "tcp", Address: netip.AddrPortFrom(loopback, 0)}},
		Relays:    []turn.RelayAddress{{Public: loopback, Local: loopback}},
		Ports:     turn.PortRange{First: 20000, Last: 29999},
		Rules:     &turn.Rules{Policy: policy, Limits: turn.DefaultLimits(), ModernWithoutCredentials: true},
	}
	if change != nil {
		change(&cfg)
	}
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error("Serve:", err)
		}
		goleak.VerifyNone(t, leak)
	})
	return s
}

func (s *Server) plainUDP() string {
	return s.engine.(*plain).udp[0].conn.(interface{ LocalAddr() net.Addr }).LocalAddr().String()
}
func (s *Server) plainTCP() string { return s.engine.(*plain).tcp[0].Addr().String() }

// ask sends a request and returns the answer.
func ask(t *testing.T, conn net.Conn, b []byte) stun.Message {
	t.Helper()
	if _, err := conn.Write(b); err != nil {
		t.Fatal(err)
	}
	return next(t, conn)
}

func next(t *testing.T, conn net.Conn) stun.Message {
	t.Helper()
	m, err := stun.Parse(receive(t, conn))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func receive(t *testing.T, conn net.Conn) []byte {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, 70000)
	if conn.RemoteAddr().Network() == "udp" {
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return buf[:n]
	}
	if _, err := io.ReadFull(conn, buf[:8]); err != nil {
		t.Fatal(err)
	}
	size, ok := turn.Frame(buf[:8])
	if !ok {
		t.Fatalf("not a frame: %x", buf[:8])
	}
	if _, err := io.ReadFull(conn, buf[8:size]); err != nil {
		t.Fatal(err)
	}
	return buf[:size]
}

func request(m stun.Method, c stun.Class, id byte, add func(*stun.Builder)) []byte {
	b := stun.Begin(nil, stun.NewType(m, c), stun.TransactionID{id})
	if add != nil {
		add(&b)
	}
	return b.Bytes()
}

func allocate(t *testing.T, conn net.Conn) netip.AddrPort {
	t.Helper()
	m := ask(t, conn, request(stun.Allocate, stun.Request, 1, func(b *stun.Builder) {
		b.Attr(stun.AttrRequestedTransport, []byte{17, 0, 0, 0})
	}))
	relayed, ok := m.GetXORAddress(stun.AttrXORRelayedAddress)
	if !ok {
		t.Fatalf("no relayed address in %x", m.Raw())
	}
	return relayed
}

func testRelay(t *testing.T, conn net.Conn) {
	relayed := allocate(t, conn)
	peer, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	to := addrPort(peer.LocalAddr())
	send := request(stun.Send, stun.Indication, 2, func(b *stun.Builder) {
		b.XORAddress(stun.AttrXORPeerAddress, to)
		b.Attr(stun.AttrData, []byte("hello"))
	})
	if _, err := conn.Write(send); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	_ = peer.SetReadDeadline(time.Now().Add(5 * time.Second))
	n, from, err := peer.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "hello" || addrPort(from) != relayed {
		t.Fatalf("the peer got %q from %v, %v; want hello from %v", buf[:n], from, err, relayed)
	}
	if _, err := peer.WriteTo([]byte("world!!"), from); err != nil {
		t.Fatal(err)
	}
	m := next(t, conn)
	data, _ := m.Get(stun.AttrData)
	if got, _ := m.GetXORAddress(stun.AttrXORPeerAddress); m.Type() != stun.NewType(stun.Data, stun.Indication) || got != to || string(data) != "world!!" {
		t.Fatalf("the client got %x", m.Raw())
	}
	m = ask(t, conn, request(stun.ChannelBind, stun.Request, 3, func(b *stun.Builder) {
		b.Uint32(stun.AttrChannelNumber, 0x4001<<16)
		b.XORAddress(stun.AttrXORPeerAddress, to)
	}))
	if m.Class() != stun.Success {
		t.Fatalf("ChannelBind: %x", m.Raw())
	}
	if _, err := conn.Write([]byte{0x40, 1, 0, 5, 'a', 'g', 'a', 'i', 'n', 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	if n, _, err = peer.ReadFrom(buf); err != nil || string(buf[:n]) != "again" {
		t.Fatalf("the peer got %q, %v", buf[:n], err)
	}
	if _, err := peer.WriteTo([]byte("back"), from); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, conn); string(got) != "\x40\x01\x00\x04back" {
		t.Fatalf("the client got %q", got)
	}
}

func TestPlainRelaysOverUDP(t *testing.T) {
	s := startPlain(t, nil)
	conn, err := net.Dial("udp", s.plainUDP())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	testRelay(t, conn)
}

func TestPlainRelaysOverTCP(t *testing.T) {
	s := startPlain(t, nil)
	conn, err := net.Dial("tcp", s.plainTCP())
	if err != nil {
		t.Fatal(err)
	}
	testRelay(t, conn)
	conn.Close()
	for range 100 { // the allocation goes with its connection
		stats, err := s.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if stats.Allocations == 0 && stats.Streams == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the allocation outlives its connection")
}

func TestPlainAnswersFromTheAddressAskedOnAWildcardListener(t *testing.T) {
	s := startPlain(t, func(c *Config) { c.Listeners[0].Address = netip.MustParseAddrPort("[::]:0") })
	_, port, _ := net.SplitHostPort(s.plainUDP())
	for _, host := range []string{"127.0.0.2", "127.0.0.3"} {
		conn, err := net.Dial("udp", net.JoinHostPort(host, port)) // a connected socket takes answers from there only
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		allocate(t, conn)
	}
}

func TestPlainPassesBetweenTwoClients(t *testing.T) {
	s := startPlain(t, nil)
	var conns [2]net.Conn
	var relayed [2]netip.AddrPort
	for i := range conns {
		conn, err := net.Dial("udp", s.plainUDP())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns[i], relayed[i] = conn, allocate(t, conn)
	}
	for i, text := range []string{"first", "second", "third"} {
		from, to := i%2, 1-i%2
		if _, err := conns[from].Write(request(stun.Send, stun.Indication, 9, func(b *stun.Builder) {
			b.XORAddress(stun.AttrXORPeerAddress, relayed[to])
			b.Attr(stun.AttrData, []byte(text))
		})); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			continue // the other side has no permission for us yet
		}
		m := next(t, conns[to])
		data, _ := m.Get(stun.AttrData)
		if peer, _ := m.GetXORAddress(stun.AttrXORPeerAddress); peer != relayed[from] || string(data) != text {
			t.Fatalf("%q arrived from %v, want %q from %v", data, peer, text, relayed[from])
		}
	}
}

func TestPlainGoesOnAfterABug(t *testing.T) {
	bugs := make(chan turn.Event, 4)
	s := startPlain(t, func(c *Config) {
		c.OnEvents = func(events []turn.Event) {
			for _, e := range events {
				if e.Kind == turn.EventBug {
					bugs <- e
				}
			}
		}
	})
	conn, err := net.Dial("udp", s.plainUDP())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	allocate(t, conn)
	if err := s.Do(t.Context(), func(time.Time, int, *turn.Core) { panic("BUG: planted") }); !errors.Is(err, errBug) {
		t.Errorf("Do returns %v", err)
	}
	select {
	case <-bugs:
	case <-time.After(5 * time.Second):
		t.Error("nobody was told")
	}
	stats, err := s.Stats(t.Context())
	if err != nil || stats.Panics != 1 || stats.Allocations != 0 {
		t.Errorf("%d panics, %d allocations, %v", stats.Panics, stats.Allocations, err)
	}
	again, err := net.Dial("udp", s.plainUDP())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	allocate(t, again)
}
