package nattest

import (
	"fmt"
	"net/netip"
	"slices"
)

// Role says what a probe is for.
type Role uint8

// The roles.
const (
	RoleUnknown        Role = iota
	RoleControl             // an ordinary request that must come back; its losses are the measure of silence
	RoleMapping             // which endpoint does this destination see?
	RoleFiltering           // does a stranger's packet arrive?
	RoleReturn              // which endpoint does a stranger see that has sent first?
	RoleDelivery            // does the server send from its other address at all?
	RoleFragment            // does a datagram in fragments come back?
	RolePort                // does another port of the server answer?
	RoleFamily              // does IPv6 work?
	RoleInterface           // what does another address of this machine look like from outside?
	RoleRelayMapping        // which endpoint does a relay see?
	RoleRelayFiltering      // does a relay's packet arrive at a socket that does not know it?
	RoleRelayDelivery       // does a relay's packet arrive at a socket that has sent to it?
	RoleHairpin             // does a packet to our own external endpoint come back?
	RoleLifetime            // does a binding still admit the server?
	RoleQuota               // does another socket get a mapping?
	RoleStream              // does TCP work?
	RoleRefresh             // does a binding that the server has sent to half-way still admit it?
	RoleMTU                 // does a datagram of this size come back in one piece?
	RoleStreamMapping       // which endpoint does this destination see of TCP connections from one port?
)

func (r Role) String() string                { return word(roleWords, r) }
func (r Role) MarshalText() ([]byte, error)  { return []byte(r.String()), nil }
func (r *Role) UnmarshalText(b []byte) error { return parse(roleWords, r, b) }

// Place is an endpoint of the server, in the words of RFC 5780.
type Place uint8

// The places.
const (
	PlaceUnknown Place = iota
	Primary            // address and port that were configured
	OtherPort          // the primary address with the port of OTHER-ADDRESS
	OtherAddr          // the address of OTHER-ADDRESS with the primary port
	Other              // OTHER-ADDRESS
	Fixed              // Probe.Server and Probe.Port say where
	Relayed            // the relayed address
)

// A Probe is one question. What it needs to know before it can be asked, it needs by its places.
type Probe struct {
	Name   string
	Role   Role
	Socket int            // probes with one number share a socket, all others have their own
	Server int            // index of the server, for Fixed
	Port   uint16         // for Fixed, 0 means the configured one
	At     netip.AddrPort // for Fixed, instead of Server and Port
	To     Place          // where the request goes
	From   Place          // where the reply is to come from, and what CHANGE-REQUEST asks for
	// Aside asks that the reply goes to the external port of the mapping socket (RESPONSE-PORT), which has sent to where it is
	// to come from, so that no filter holds it.
	Aside   bool
	Padding int // bytes of PADDING
	Bytes   int // of the packet on the wire, for RoleMTU
	Most    int // attempts; 0 means as many as the budget allows
}

// PlanConfig is what a plan depends on.
type PlanConfig struct {
	Servers int            // how many servers have an address, 1 to 4
	Six     bool           // they are IPv6
	Ports   []uint16       // to try on the first one
	Local   []netip.Addr   // of this machine
	IPv6    netip.AddrPort // of the first server, if the others are IPv4
	Relay   bool           // there may be one
	MTU     bool           // DF can be set
}

// A Plan is all probes of a run in the order of their importance. It is a value: what becomes of it depends on the answers.
type Plan struct {
	Probes []Probe
	Binds  []Bind // the sockets, by number
}

// A Bind is what a socket is opened with.
type Bind struct {
	Network, Address string
	DF               bool // its packets are not to be fragmented
}

// fragmentPadding makes a request of 1,828 bytes on the wire, more than Ethernet takes in one piece and less than in two.
const fragmentPadding = 1776

// mtuSizes are tried with DF: Ethernet, DSL with PPPoE, tunnels, and the least that IPv6 has.
var mtuSizes = []int{1500, 1492, 1400, 1280}

const mtuTries = 3 // of each; three of three are lost by chance once in 1,000 times at a loss of 10 %

// The sockets of a plan.
const (
	socketBoth    = iota                     // filtering by address and port
	socketPort                               // filtering by port
	socketMapping                            // all mapping probes
	socketControl                            // the first of several
	controls      = 8                        // sockets; each is another port that is seen
	socketRelay   = socketControl + controls // filtering by a relay's address
	sockets       = socketRelay + 1
)

// NewPlan returns the plan of a default run. The filtering probes come first, and no socket of theirs sends anything to
// another address before they are settled (RFC 5780 §4.4).
func NewPlan(c PlanConfig) Plan {
	var p Plan
	network := "udp4"
	if c.Six {
		network = "udp6"
	}
	for range sockets {
		p.Binds = append(p.Binds, Bind{Network: network, Address: ":0"})
	}
	add := func(x Probe) { p.Probes = append(p.Probes, x) }
	add(Probe{Name: "filter-both", Role: RoleFiltering, Socket: socketBoth, To: Primary, From: Other})
	add(Probe{Name: "filter-port", Role: RoleFiltering, Socket: socketPort, To: Primary, From: OtherPort})
	add(Probe{Name: "map-primary", Role: RoleMapping, Socket: socketMapping, To: Primary, From: Primary})
	for i := range controls {
		add(Probe{Name: fmt.Sprintf("control-%d", i+1), Role: RoleControl, Socket: socketControl + i, To: Primary, From: Primary})
	}
	add(Probe{Name: "map-other-port", Role: RoleMapping, Socket: socketMapping, To: OtherPort, From: OtherPort, Most: 12})
	add(Probe{Name: "map-other-addr", Role: RoleMapping, Socket: socketMapping, To: OtherAddr, From: OtherAddr, Most: 12})
	add(Probe{Name: "map-other", Role: RoleMapping, Socket: socketMapping, To: Other, From: Other, Most: 12})
	for i := 1; i < c.Servers; i++ {
		add(Probe{Name: fmt.Sprintf("map-server-%d", i+1), Role: RoleMapping, Socket: socketMapping, To: Fixed, From: Fixed, Server: i, Most: 8})
	}
	for _, port := range c.Ports {
		add(Probe{Name: fmt.Sprintf("port-%d", port), Role: RolePort, Socket: socketMapping, To: Fixed, From: Fixed, Port: port, Most: 8})
	}
	add(Probe{Name: "deliver-port", Role: RoleDelivery, Socket: socketControl, To: Primary, From: OtherPort, Aside: true, Most: 10})
	add(Probe{Name: "deliver-both", Role: RoleDelivery, Socket: socketControl, To: Primary, From: Other, Aside: true, Most: 10})
	add(Probe{Name: "deliver-port-plain", Role: RoleDelivery, Socket: socketMapping, To: Primary, From: OtherPort, Most: 8})
	add(Probe{Name: "deliver-both-plain", Role: RoleDelivery, Socket: socketMapping, To: Primary, From: Other, Most: 8})
	add(Probe{Name: "return-primary", Role: RoleReturn, Socket: socketBoth, To: Primary, From: Primary, Most: 10})
	add(Probe{Name: "return-other", Role: RoleReturn, Socket: socketBoth, To: Other, From: Other, Most: 10})
	add(Probe{Name: "fragment", Role: RoleFragment, Socket: socketControl + 1, To: Primary, From: Primary, Padding: fragmentPadding, Most: 9})
	if c.Relay {
		add(Probe{Name: "relay-open", Role: RoleControl, Socket: socketRelay, To: Primary, From: Primary, Most: 10})
		add(Probe{Name: "relay-filter", Role: RoleRelayFiltering, Socket: socketRelay, To: Relayed, From: Relayed})
		add(Probe{Name: "relay-map", Role: RoleRelayMapping, Socket: socketMapping, To: Relayed, From: Relayed, Most: 10})
		add(Probe{Name: "relay-deliver", Role: RoleRelayDelivery, Socket: socketMapping, To: Relayed, From: Relayed, Most: 10})
	}
	if c.IPv6.IsValid() && slices.ContainsFunc(c.Local, func(a netip.Addr) bool { return a.Is6() && usable(a) }) {
		add(Probe{Name: "ipv6", Role: RoleFamily, Socket: len(p.Binds), To: Fixed, From: Fixed, At: c.IPv6, Most: 4})
		p.Binds = append(p.Binds, Bind{Network: "udp6", Address: ":0"})
	}
	var own []netip.Addr
	for _, a := range c.Local {
		if usable(a) && a.Is6() == c.Six && len(own) < maxInterfaces {
			own = append(own, a)
		}
	}
	for i, a := range own {
		if len(own) > 1 {
			add(Probe{Name: fmt.Sprintf("interface-%d", i+1), Role: RoleInterface, Socket: len(p.Binds), To: Primary, From: Primary, Most: 4})
			p.Binds = append(p.Binds, Bind{Network: network, Address: netip.AddrPortFrom(a, 0).String()})
		}
	}
	if c.MTU {
		headers := 20 + 8 + 20 + 4 // IPv4, UDP, STUN, PADDING
		if c.Six {
			headers += 20
		}
		for _, size := range mtuSizes {
			add(Probe{Name: fmt.Sprintf("mtu-%d", size), Role: RoleMTU, Socket: len(p.Binds), To: Primary, From: Primary, Padding: size - headers, Bytes: size, Most: mtuTries})
		}
		p.Binds = append(p.Binds, Bind{Network: network, Address: ":0", DF: true})
	}
	return p
}

// maxInterfaces bounds how many addresses of this machine are tried.
const maxInterfaces = 3

// usable reports whether packets to the internet may leave from an address.
func usable(a netip.Addr) bool { return a.IsGlobalUnicast() && !a.IsLinkLocalUnicast() }
