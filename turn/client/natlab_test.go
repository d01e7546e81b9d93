package client

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stilenet/stile/nattest/natlab"
)

// TestClientRunsInTheSimulator: the seams of Config take the methods of a simulated host as they are, the name included, and a
// lossy link costs retransmissions only.
func TestClientRunsInTheSimulator(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			natlab.Run(t, 8, func(t *testing.T, n *natlab.Net) {
				proxy, player := n.Internet().Host("proxy", "198.51.100.1"), n.Internet().Host("player", "198.51.100.2")
				player.Link().Set(natlab.LinkConfig{Delay: 20 * time.Millisecond, Loss: 0.2})
				s := &fakeServer{}
				pc, err := proxy.ListenPacket(t.Context(), "udp4", ":3478")
				if err != nil {
					t.Fatal(err)
				}
				defer pc.Close()
				go s.serve(pc)
				l, err := proxy.Listen(t.Context(), "tcp", ":3478")
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				go func() {
					for {
						conn, err := l.Accept()
						if err != nil {
							return
						}
						go new(fakeNet).serve(s, conn)
					}
				}()
				conn, err := Dial(t.Context(), Config{
					Server: "proxy", Network: network, ListenPacket: player.ListenPacket, DialContext: player.DialContext, Resolve: player.LookupNetIP,
				})
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				peer, b, back := net.UDPAddrFromAddrPort(alice), make([]byte, 100), 0
				for range 50 {
					if _, err := conn.WriteTo([]byte("hello"), peer); err != nil {
						t.Fatal(err)
					}
					_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
					if _, _, err := conn.ReadFrom(b); err == nil {
						back++
					} else if !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Fatal(err)
					}
				}
				if back < 10 {
					t.Errorf("%d of 50 datagrams came back", back)
				}
			})
		})
	}
}
