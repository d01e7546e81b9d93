package natlab_test

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/stilenet/stile/nattest/natlab"
)

// A host behind a home router asks a public server which address it has. Tests use natlab.Run, where time is virtual.
func Example() {
	n := natlab.New(1)
	defer n.Close()

	server := n.Internet().Host("server", "198.51.100.1")
	router := n.Internet().Box("router", natlab.BoxConfig{
		Outside: []string{"203.0.113.7"},
		NAT:     &natlab.NATConfig{Mapping: natlab.EIM, Filtering: natlab.APDF},
	})
	router.Outside().Set(natlab.LinkConfig{Delay: 5 * time.Millisecond, MTU: 1492})
	alice := router.Inside().Host("alice", "192.168.1.2")

	ctx := context.Background()
	s, err := server.ListenPacket(ctx, "udp", ":3478")
	if err != nil {
		fmt.Println(err)
		return
	}
	a, err := alice.DialContext(ctx, "udp", "server:3478")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Fprint(a, "who am I?")

	b := make([]byte, 1500)
	k, from, err := s.ReadFrom(b)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%v asks: %s\n", from.(*net.UDPAddr).IP, b[:k])
	fmt.Println(n.Stats())
	// Output:
	// 203.0.113.7 asks: who am I?
	// 1 packets, 1 delivered
}
