package nattest

import "fmt"

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
	Socket int    // probes with one number share a socket, all others have their own
	Server int    // index of the server, for Fixed
	Port   uint16 // for Fixed, 0 means the configured one
	To     Place  // where the request goes
	From   Place  // where the reply is to come from, and what CHANGE-REQUEST asks for
	// Into is the probe to whose external port the reply is to go (RESPONSE-PORT), empty for this one's.
	Into    string
	Padding int // bytes of PADDING
	// After is the probe that must be settled (answered, or judged silent) before this one may be sent; empty means none.
	After string
	Most  int // attempts; 0 means as many as the budget allows
}

// PlanConfig is what a plan depends on.
type PlanConfig struct {
	Servers int      // how many servers have an address, 1 to 4
	Ports   []uint16 // to try on the first one
}

// A Plan is all probes of a run in the order of their importance. It is a value: what becomes of it depends on the answers.
type Plan struct {
	Probes  []Probe
	Sockets int
}

// fragmentPadding makes a request of 1,828 bytes on the wire, more than Ethernet takes in one piece and less than in two.
const fragmentPadding = 1776

// The sockets of a plan.
const (
	socketBoth    = iota // filtering by address and port
	socketPort           // filtering by port
	socketMapping        // all mapping probes
	socketControl        // the first of several
	controls      = 4
	socketRelay   = socketControl + controls // filtering by a relay's address
	sockets       = socketRelay + 1
)

// NewPlan returns the plan of a default run. The filtering probes come first, and no socket of theirs sends anything to
// another address before they are settled (RFC 5780 §4.4).
func NewPlan(c PlanConfig) Plan {
	p := Plan{Sockets: sockets}
	add := func(x Probe) { p.Probes = append(p.Probes, x) }
	add(Probe{Name: "filter-both", Role: RoleFiltering, Socket: socketBoth, To: Primary, From: Other})
	add(Probe{Name: "filter-port", Role: RoleFiltering, Socket: socketPort, To: Primary, From: OtherPort})
	add(Probe{Name: "map-primary", Role: RoleMapping, Socket: socketMapping, To: Primary, From: Primary})
	for i := range controls {
		add(Probe{Name: fmt.Sprintf("control-%d", i+1), Role: RoleControl, Socket: socketControl + i, To: Primary, From: Primary})
	}
	add(Probe{Name: "map-other-port", Role: RoleMapping, Socket: socketMapping, To: OtherPort, From: OtherPort})
	add(Probe{Name: "map-other-addr", Role: RoleMapping, Socket: socketMapping, To: OtherAddr, From: OtherAddr})
	add(Probe{Name: "map-other", Role: RoleMapping, Socket: socketMapping, To: Other, From: Other})
	for i := 1; i < c.Servers; i++ {
		add(Probe{Name: fmt.Sprintf("map-server-%d", i+1), Role: RoleMapping, Socket: socketMapping, To: Fixed, From: Fixed, Server: i})
	}
	for _, port := range c.Ports {
		add(Probe{Name: fmt.Sprintf("port-%d", port), Role: RolePort, Socket: socketMapping, To: Fixed, From: Fixed, Port: port, Most: 8})
	}
	add(Probe{Name: "deliver-port", Role: RoleDelivery, Socket: socketControl, To: Primary, From: OtherPort, Into: "map-other-port"})
	add(Probe{Name: "deliver-both", Role: RoleDelivery, Socket: socketControl, To: Primary, From: Other, Into: "map-other"})
	add(Probe{Name: "return-primary", Role: RoleReturn, Socket: socketBoth, To: Primary, From: Primary, After: "filter-both"})
	add(Probe{Name: "return-other", Role: RoleReturn, Socket: socketBoth, To: Other, From: Other, After: "filter-both"})
	add(Probe{Name: "fragment", Role: RoleFragment, Socket: socketControl + 1, To: Primary, From: Primary, Padding: fragmentPadding, Most: 7})
	return p
}
