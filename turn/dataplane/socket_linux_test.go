package dataplane

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stilenet/stile/stun"
	"github.com/stilenet/stile/turn"
)

var loopback6 = netip.IPv6Loopback()

// socketConfig is a laboratory on loopback, IPv4 and IPv6.
func socketConfig(t testing.TB) Config {
	t.Helper()
	relays := []turn.RelayAddress{{Public: loopback, Local: loopback}, {Public: loopback6, Local: loopback6}}
	ports := turn.PortRange{First: 30000, Last: 39999}
	policy, err := turn.NewPolicy(turn.PolicyConfig{Profile: turn.ProfileLab, Relays: relays, RelayPorts: ports})
	if err != nil {
		t.Fatal(err)
	}
	return Config{
		Engine: Socket,
		Listeners: []Listener{
			{Network: "udp", Address: netip.AddrPortFrom(loopback, 0)},
			{Network: "tcp", Address: netip.AddrPortFrom(loopback, 0)},
			{Network: "udp", Address: netip.AddrPortFrom(loopback6, 0)},
			{Network: "udp", Address: netip.AddrPortFrom(netip.IPv6Unspecified(), 0)},
		},
		Relays: relays, Ports: ports, Shards: 1,
		Rules: &turn.Rules{Policy: policy, Limits: turn.Limits{}, ModernWithoutCredentials: true},
	}
}

// startSocket serves until the test ends, and checks that neither a goroutine nor a descriptor is left then.
func startSocket(t testing.TB, cfg Config) *Server {
	t.Helper()
	leak := goleak.IgnoreCurrent()
	before := descriptors(t)
	s, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if kind, _, why := s.Engine(); kind != Socket {
		t.Fatalf("the engine is %v: %s", kind, why)
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
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
			after := descriptors(t)
			if len(after) <= len(before) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("descriptors left:\n%s\nbefore:\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
			}
		}
	})
	return s
}

// descriptors lists the sockets, eventfds and epolls of this process but those of the Go runtime, which come with its first
// socket and stay.
func descriptors(t testing.TB) []string {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		if name, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(name, "socket:") {
			names = append(names, e.Name()+" "+name)
		}
	}
	return names
}

func (s *Server) address(i int) string { return s.cfg.Listeners[i].Address.String() }

func dial(t testing.TB, network, address string) net.Conn {
	t.Helper()
	c, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func peerOn(t testing.TB, a netip.Addr) (*net.UDPConn, netip.AddrPort) {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, addrPort(c.LocalAddr())
}

func sendIndication(peer netip.AddrPort, data []byte) []byte {
	return request(stun.Send, stun.Indication, 2, func(b *stun.Builder) {
		b.XORAddress(stun.AttrXORPeerAddress, peer)
		b.Attr(stun.AttrData, data)
	})
}

func bindChannel(t *testing.T, conn net.Conn, number uint16, peer netip.AddrPort) {
	t.Helper()
	m := ask(t, conn, request(stun.ChannelBind, stun.Request, 3, func(b *stun.Builder) {
		b.Attr(stun.AttrChannelNumber, []byte{byte(number >> 8), byte(number), 0, 0})
		b.XORAddress(stun.AttrXORPeerAddress, peer)
	}))
	if m.Class() != stun.Success {
		t.Fatalf("ChannelBind: %x", m.Raw())
	}
}

func channelData(number uint16, data []byte, stream bool) []byte {
	b := append([]byte{byte(number >> 8), byte(number), byte(len(data) >> 8), byte(len(data))}, data...)
	for stream && len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func write(t *testing.T, conn net.Conn, b []byte) {
	t.Helper()
	if _, err := conn.Write(b); err != nil {
		t.Fatal(err)
	}
}

func readPeer(t *testing.T, c *net.UDPConn) ([]byte, netip.AddrPort) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	b := make([]byte, 70000)
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n], netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
}

// wantData checks that the client gets a Data indication.
func wantData(t *testing.T, conn net.Conn, from netip.AddrPort, data []byte) {
	t.Helper()
	m := next(t, conn)
	peer, _ := m.GetXORAddress(stun.AttrXORPeerAddress)
	got, _ := m.Get(stun.AttrData)
	if m.Type() != stun.NewType(stun.Data, stun.Indication) || peer != from || !bytes.Equal(got, data) {
		t.Fatalf("got type %v from %v with %d bytes, want Data from %v with %d", m.Type(), peer, len(got), from, len(data))
	}
}

// wantChannel checks that the client gets ChannelData.
func wantChannel(t *testing.T, conn net.Conn, number uint16, data []byte) {
	t.Helper()
	n, got, ok := turn.ChannelData(receive(t, conn))
	if !ok || n != number || !bytes.Equal(got, data) {
		t.Fatalf("got %v: channel %#x with %d bytes, want %#x with %d", ok, n, len(got), number, len(data))
	}
}

// relayBothWays sends indications, then ChannelData, to a peer and back.
func relayBothWays(t *testing.T, conn net.Conn, peerAddr netip.Addr, size int) {
	t.Helper()
	stream := conn.RemoteAddr().Network() == "tcp"
	relayed := allocate(t, conn)
	peer, to := peerOn(t, peerAddr)
	data := bytes.Repeat([]byte("stile"), size/5+1)[:size]
	write(t, conn, sendIndication(to, data))
	if got, from := readPeer(t, peer); !bytes.Equal(got, data) || from != relayed {
		t.Fatalf("the peer got %d bytes from %v, want %d from %v", len(got), from, len(data), relayed)
	}
	if _, err := peer.WriteToUDPAddrPort(data, relayed); err != nil {
		t.Fatal(err)
	}
	wantData(t, conn, to, data)
	bindChannel(t, conn, 0x4001, to)
	for i := range 3 {
		data := append([]byte{byte(i)}, data[:size-1]...)
		write(t, conn, channelData(0x4001, data, stream))
		if got, from := readPeer(t, peer); !bytes.Equal(got, data) || from != relayed {
			t.Fatalf("the peer got %d bytes from %v, want %d from %v", len(got), from, len(data), relayed)
		}
		if _, err := peer.WriteToUDPAddrPort(data, relayed); err != nil {
			t.Fatal(err)
		}
		wantChannel(t, conn, 0x4001, data)
	}
}

func TestSocketRelaysBothWays(t *testing.T) {
	for _, shards := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d shards", shards), func(t *testing.T) {
			cfg := socketConfig(t)
			cfg.Shards = shards
			s := startSocket(t, cfg)
			for _, c := range []struct {
				name, network, address string
				peer                   netip.Addr
				size                   int
			}{
				{"UDP over IPv4", "udp", s.address(0), loopback, 172},
				{"UDP over IPv6", "udp", s.address(2), loopback6, 173},
				{"TCP", "tcp", s.address(1), loopback, 171},
				{"wildcard, IPv4", "udp", netip.AddrPortFrom(loopback, s.cfg.Listeners[3].Address.Port()).String(), loopback, 1200},
				{"wildcard, IPv6", "udp", netip.AddrPortFrom(loopback6, s.cfg.Listeners[3].Address.Port()).String(), loopback6, 1200},
				{"large datagrams over UDP", "udp", s.address(0), loopback, 65400},
				{"large datagrams over TCP", "tcp", s.address(1), loopback, 65400},
				{"empty but for the number", "udp", s.address(0), loopback, 1},
			} {
				t.Run(c.name, func(t *testing.T) { relayBothWays(t, dial(t, c.network, c.address), c.peer, c.size) })
			}
		})
	}
}
