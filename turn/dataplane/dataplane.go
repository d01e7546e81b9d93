// Package dataplane moves the packets of a TURN server: the sockets, threads and clocks around turn.Core.
//
// An engine runs one turn.Core for each shard. plain is net.PacketConn and a goroutine for each socket, on any
// system and in the simulator; socket, on Linux, is a thread for each shard around epoll and batched system calls, without a lock and without an
// allocation for each packet. kernel is the same threads, but relayed ports are entries of a table instead of sockets: an eBPF program brings what comes to them, and
// a raw socket sends from them, or for a port that sends bursts a socket of its own while they last. All keep to one seam, engine, so that policy, limits, counters and administration are the same.
//
// In front of the socket and the kernel engine stands the offload, a cache of established flows (turn.Offload): an eBPF program at the interfaces (XDP)
// relays their packets as they come in. Whatever is not in the cache, and every doubt, passes to the engine unchanged, which relays the same packet.
//
// # Limitations
//
// A listener with a wildcard address answers from the address the request came to only where the system tells it: on
// Linux, macOS and the BSDs. Elsewhere name the addresses.
//
// The kernel engine: a program that Linux has given a relayed port because it asked for any, and that has not connected its socket, misses what comes to
// the port while it is allocated (net.ipv4.ip_local_reserved_ports keeps them apart). A socket that is bound to a device is not seen by the check of
// whether a port is free. All relayed ports of a shard share one receive buffer: a flood of datagrams to one of them is dropped together with some of the
// others'. Fragments of datagrams that are wider than the path are 1,280 bytes, or 576, long.
//
// The offload: what it relays is seen neither by the host's firewall and connection tracking nor by its packet captures; DSCP and ECN are not carried
// over, as by the engines. It does not verify UDP checksums: a datagram that came damaged leaves as damaged, and its receiver drops it. It takes
// packets without IP options and extension headers, that are no fragments, and no streams; of Send indications those of PEER-ADDRESS and DATA alone;
// frames of 60 bytes at least; one VLAN tag. A bridge has no program: where the address is on one, the engine relays. Since programs
// that are loaded once do not learn of it, a listener's port must be given, not left to the system. The counters in a flow are read once a second and
// when somebody asks: a permission of draft-08 that such a flow keeps alive is known to the core that much later. The object is little-endian.
package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/stilenet/stile/turn"
)

// Kind names an engine.
type Kind uint8

// The engines. The zero Kind takes the best that works.
const (
	Auto Kind = iota
	Plain
	Socket
	Kernel
)

func (k Kind) String() string { return [...]string{"auto", "plain", "socket", "kernel"}[k] }

// ParseKind reads auto, plain, socket or kernel.
func ParseKind(s string) (Kind, error) {
	for k := Auto; k <= Kernel; k++ {
		if s == k.String() {
			return k, nil
		}
	}
	return Auto, fmt.Errorf("turn.engine: %q is no engine: write auto, plain, socket or kernel", s)
}

// Listener is one address that clients send to.
type Listener struct {
	Network     string         // "udp" or "tcp"
	Address     netip.AddrPort // an unspecified IPv6 address takes IPv4 as well
	RequireAuth bool           // requests need long-term credentials
	BindingOnly bool           // takes STUN Binding and nothing else
}

func (l Listener) String() string { return l.Network + "://" + l.Address.String() }

// key is what an administrator looks for when the listener cannot be opened.
func (l Listener) key() string {
	if l.BindingOnly {
		return "stun.alternate"
	}
	return "turn.listen"
}

// Config is what a Server is made of.
type Config struct {
	Engine    Kind
	Listeners []Listener
	Relays    []turn.RelayAddress // at least one
	Ports     turn.PortRange
	Rules     *turn.Rules
	Discovery [2]turn.Discovery // of IPv4 and IPv6, by index of Listeners
	Shards    int               // socket engine; zero: one for each processor that the process may use

	// Offload says whether established flows may be left to the kernel, and OffloadInterfaces by which interfaces: none, those that the
	// routes to clients and peers lead by. It has no effect on the plain engine.
	Offload           OffloadMode
	OffloadInterfaces []string
	OnOffload         func(OffloadState) // is told when it begins or ends on an interface while the server runs; nil: nobody
	offload           offloader          // that runs; nil: none

	// Streams and StreamsPerClient bound the TCP connections, all together and for one client address. Zero: no limit.
	Streams, StreamsPerClient int

	// OnEvents is given the events of a shard, which it then owns. It is called from the packet path and must not block. Nil: they are dropped.
	OnEvents func([]turn.Event)

	// Seed makes ports and transaction IDs unpredictable. A zero Seed is replaced by one from the system.
	Seed [32]byte

	// ListenPacket and Listen open the plain engine's sockets, listeners and relayed ports alike; the simulator's
	// hosts have such functions. Nil: the system's. The socket engine uses the system's always.
	ListenPacket func(ctx context.Context, network, address string) (net.PacketConn, error)
	Listen       func(ctx context.Context, network, address string) (net.Listener, error)
}

// Stats are the counters of a server: the cores' and what only sockets know.
type Stats struct {
	turn.Stats
	Streams        int    // TCP connections now
	StreamsRefused uint64 // for a limit
	StreamsBroken  uint64 // closed because nothing could be made of what they sent
	SendErrors     uint64 // datagrams that the system did not take
	StreamDrops    uint64 // datagrams for a stream whose client does not read
	HairpinDrops   uint64 // datagrams between shards that found the mailbox full
	ReceiveDrops   uint64 // datagrams that the kernel dropped because the shard was late, where it says so
	Panics         uint64 // BUGs in a core, each of which ended one shard's allocations
}

// ErrClosed is returned for a server that has ended.
var ErrClosed = errors.New("dataplane: the server has ended")

// errBug is what a function given to Do gets when it met a BUG.
var errBug = errors.New("dataplane: a BUG ended the shard's allocations")

// engine is the seam: what plain and socket have in common.
type engine interface {
	// serve runs until the context ends, then closes all sockets and ends all allocations.
	serve(ctx context.Context) error
	// do runs f on the thread that owns the core of the shard, and waits for it.
	do(ctx context.Context, shard int, f func(now time.Time, c *turn.Core)) error
	shards() int
	// addStats adds what only the engine counts.
	addStats(*Stats)
	// warnings says what the engine cannot do here that it should.
	warnings() []string
}

// Server is a TURN server with its sockets open. Its methods may be called by any number of goroutines.
type Server struct {
	cfg  Config
	kind Kind
	why  string
	// noOffload says why there is none.
	noOffload string
	ledger    *turn.Ledger
	engine    engine
}

// channelTooEarly reports whether a message on a stream is ChannelData although the client has no allocation. It is then no client of
// TURN, and the stream must end: a browser that a web page has send an HTTP request begins it with a letter, which makes its first four
// bytes ChannelData ("POST" has 0x5354 bytes), and what the page puts behind those would be read as requests.
func channelTooEarly(b []byte, allocated bool) bool {
	return len(b) > 0 && b[0]&0xC0 != 0 && !allocated
}
