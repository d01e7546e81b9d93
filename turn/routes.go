package turn

import "net/netip"

// Route is one line of the system's main routing table. From a netlink route it takes Dst (no destination is 0.0.0.0/0
// or ::/0), LinkIndex and Gw; a route with several next hops gives one Route for each of them. Blackhole, unreachable
// and prohibit routes have neither interface nor gateway, and are refused like a neighbour.
type Route struct {
	Prefix    netip.Prefix
	Interface int        // index of the interface that it leaves by; 0 is none
	Gateway   netip.Addr // invalid: on-link
}

// A prefix up to these lengths is a default route: tunnels write the default as two halves, and IPv6 networks as 2000::/3,
// all there is of the global unicast space.
const (
	defaultRouteBits4 = 1
	defaultRouteBits6 = 3
)

func isDefault(p netip.Prefix) bool {
	if p.Addr().Is4() {
		return p.Bits() <= defaultRouteBits4
	}
	return p.Bits() <= defaultRouteBits6
}

// hops is what all routes to one prefix have in common.
type hops struct {
	interfaces []int
	onLink     bool // at least one of them has no gateway
}

// routeTable answers where an address is and by which interfaces a packet to it may leave.
type routeTable struct {
	prefixTable[*hops]
	known      bool // the system's table was given
	interfaces map[int]bool
}

func newRouteTable(routes []Route) (t routeTable) {
	t.known = len(routes) > 0
	t.interfaces = make(map[int]bool)
	for _, r := range routes {
		h, ok := t.at(r.Prefix)
		if !ok {
			h = new(hops)
			t.insert(r.Prefix, h)
		}
		h.interfaces = append(h.interfaces, r.Interface)
		h.onLink = h.onLink || !r.Gateway.IsValid()
		if r.Interface != 0 {
			t.interfaces[r.Interface] = true
		}
	}
	t.seal()
	return t
}

// judgePeer refuses what is a neighbour and what lies elsewhere than where the default route leads. An address inside
// another (embedded) is not routed from here, so having no route at all is no reason to refuse it.
func (t *routeTable) judgePeer(a netip.Addr, embedded bool) Verdict {
	if !t.known {
		return allowed(RuleDefault)
	}
	p, h, ok := t.lookup(a)
	switch {
	case !ok && embedded, ok && isDefault(p):
		return allowed(RuleDefault)
	case ok && h.onLink:
		return refused(RuleOnLink)
	}
	return refused(RuleNotDefaultRoute)
}

// leavesBy reports whether a packet to a may leave by the interface: whether one of the routes of the longest prefix
// does. That is the feasible-path check of RFC 3704 §2.3, as routes of one prefix with different metrics all count.
func (t *routeTable) leavesBy(a netip.Addr, ifIndex int) bool {
	_, h, ok := t.lookup(a)
	if !ok {
		return false
	}
	for _, i := range h.interfaces {
		if i == ifIndex {
			return true
		}
	}
	return false
}
