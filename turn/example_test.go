package turn_test

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/stilenet/stile/stun"
	"github.com/stilenet/stile/turn"
)

// noSockets is a data plane that opens nothing.
type noSockets struct{}

func (noSockets) OpenRelay(uint32, netip.AddrPort) error { return nil }
func (noSockets) CloseRelay(uint32)                      {}
func (noSockets) CloseStream(uint32)                     {}

// A client of draft-08 allocates and sends one datagram: two messages in, an answer and a datagram to the peer out.
func Example() {
	relays := []turn.RelayAddress{{Public: netip.MustParseAddr("192.0.2.15"), Local: netip.MustParseAddr("192.0.2.15")}}
	ports := turn.PortRange{First: 50000, Last: 50000}
	policy, err := turn.NewPolicy(turn.PolicyConfig{Profile: turn.ProfileLab, Relays: relays, RelayPorts: ports})
	if err != nil {
		panic(err)
	}
	now := time.Date(2008, 6, 24, 12, 0, 0, 0, time.UTC)
	core := turn.NewCore(now, turn.Config{
		Ledger: turn.NewLedger(relays, ports, turn.DefaultLimits(), [32]byte{}), // the seed comes from crypto/rand
		Relays: relays, Rules: &turn.Rules{Policy: policy}, Opener: noSockets{},
	})
	src := turn.Source{Client: netip.MustParseAddrPort("192.0.2.1:7000"), Server: netip.MustParseAddrPort("192.0.2.10:3478")}

	allocate := stun.Begin(nil, stun.NewType(stun.Allocate, stun.Request), stun.TransactionID{1})
	send := stun.Begin(nil, stun.NewType(stun.Send, stun.Indication), stun.TransactionID{2})
	send.XORAddress(stun.AttrXORPeerAddress, netip.MustParseAddrPort("192.0.2.210:18200"))
	send.String(stun.AttrData, "hello")
	for _, m := range [][]byte{allocate.Bytes(), send.Bytes()} {
		core.FromClient(now, &src, turn.Packet{Buf: m, Len: len(m)}) // hairpins would need Headroom and Tailroom
	}

	for _, o := range core.Outputs() {
		if o.Kind == turn.ToPeer {
			fmt.Printf("to %v: %s\n", o.Peer, o.Data)
		} else {
			m, _ := stun.Parse(o.Data)
			relayed, _ := m.GetXORAddress(stun.AttrXORRelayedAddress)
			fmt.Printf("to %v: you are %v\n", o.Source.Client, relayed)
		}
	}
	core.Reset()
	// Output:
	// to 192.0.2.1:7000: you are 192.0.2.15:50000
	// to 192.0.2.210:18200: hello
}
