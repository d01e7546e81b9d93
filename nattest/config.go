package nattest

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// Ours to tune; the zero values of Config mean these.
const (
	DefaultPackets = 64                      // of a default run
	DefaultTimeout = 2800 * time.Millisecond // while round trips are below half a second
	LongTimeout    = 9500 * time.Millisecond // with longer ones
)

// Config says what Run asks, and how it reaches the network. ListenPacket, LookupNetIP and LocalAddrs default to this
// machine's; the laboratory's hosts have the same functions.
type Config struct {
	// Servers are STUN servers as "host" or "host:port"; without a port it is 3478. The first one that knows RFC 5780 is
	// asked about filtering; others serve as further addresses. At most 4 are used.
	Servers []string
	// AlternatePorts are tried on the first server where it names no other port itself. Nil means 3479 and 443.
	AlternatePorts []uint16

	// ListenPacket has the signature of net.ListenConfig.ListenPacket.
	ListenPacket func(ctx context.Context, network, address string) (net.PacketConn, error)
	// LookupNetIP has the signature of net.Resolver.LookupNetIP.
	LookupNetIP func(ctx context.Context, network, host string) ([]netip.Addr, error)
	// LocalAddrs lists this machine's addresses; one of them seen outside means that there is no NAT.
	LocalAddrs func() []netip.Addr
	// DialContext has the signature of net.Dialer.DialContext. With it TCP is tried too; nil means that it is not.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
	// DialRelay allocates a relay near the server: a socket whose LocalAddr is the relayed address. Run closes it. With it, a
	// server with one address is enough; nil means that there is none. The relay's own packets are not counted.
	DialRelay func(ctx context.Context, server string) (net.PacketConn, error)

	// The rest goes beyond sockets. Nil means that it is not measured; UseSystem sets them to this machine's.
	//
	// Gateway is the next hop of the default route, not valid if there is none. It is asked whether it maps ports (NAT-PMP, PCP,
	// UPnP IGD); no mapping is made.
	Gateway func() netip.Addr
	// Hop sends a payload that dies after so many hops, waits until ctx ends, and returns which router says so; to itself if the
	// packet arrives there.
	Hop func(ctx context.Context, to netip.AddrPort, payload []byte, hops int) (netip.Addr, error)
	// DialFrom connects from a local endpoint, which other connections have too. Port 0 picks one.
	DialFrom func(ctx context.Context, network, local, address string) (net.Conn, error)
	// DontFragment makes a socket's packets stay in one piece, whatever is believed of the path.
	DontFragment func(net.PacketConn) error
	// Tunnels lists this machine's addresses on interfaces with one other end, as VPNs have.
	Tunnels func() []netip.Addr

	// Wrap makes what goes through the relay of a request, and Unwrap the other way round; Unwrap reports false for what is nothing of ours. A relay may
	// carry one protocol only. Nil: requests go as they are.
	Wrap   func(request []byte) []byte
	Unwrap func(datagram []byte) (request []byte, ok bool)

	Packets int           // at most this many UDP packets without the opt-in tests; 0 means DefaultPackets
	Timeout time.Duration // of everything but the opt-in tests; 0 means DefaultTimeout or LongTimeout, by the round trip

	// Opt-in tests, because they take time or annoy firewalls.
	Hairpin  bool          // some firewalls read it as an attack
	Lifetime time.Duration // of bindings: try timers up to this; 0 means do not
	Quota    int           // of mappings: open up to this many sockets (at most 1024); 0 means do not

	// Progress, if not nil, is called from Run's goroutine with a word for each phase.
	Progress func(phase string)
}
