package nattest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// surroundings reads what stands near this machine: a carrier's NAT, and who would map ports.
func (c *classifier) surroundings() {
	s := c.o.Near
	for _, a := range c.o.Local {
		if carrier.Contains(a) && c.v.Mapping != MappingNone {
			c.carrier("this machine's address %v is a carrier's (RFC 6598)", a)
		}
	}
	var names []string
	for i, a := range s.Hops {
		names = append(names, "?")
		if a.IsValid() {
			names[i] = a.String()
		}
	}
	path := strings.Join(names, ", ")
	var private []netip.Addr
	for i, a := range s.Hops {
		switch {
		case !a.IsValid():
			continue
		case carrier.Contains(a):
			c.carrier("hop %d on the way out, %v, is a carrier's (RFC 6598); the way is %s", i+1, a, path)
		case a.IsPrivate():
			private = append(private, a)
			c.v.InsideHops = max(c.v.InsideHops, i+1)
			continue
		default:
			continue
		}
		c.v.InsideHops = max(c.v.InsideHops, i+1)
	}
	if len(private) > 1 && c.v.CGN != Yes {
		c.find(SeveralHops, "the first routers, %s, have private addresses: there may be a NAT behind a NAT", path)
	}
	for _, a := range s.Tunnels {
		c.find(Tunnel, "%v is the address of a tunnel, such as a VPN's", a)
	}
	for _, m := range s.Missing {
		c.find(NotMeasured, "%s", m)
	}
	if !s.Gateway.IsValid() {
		return
	}
	c.v.PortMapping = No
	var protocols []string
	var external netip.Addr
	for _, m := range s.Mappers {
		protocols = append(protocols, m.Protocol)
		c.v.PortMapping = Yes
		if m.External.IsValid() && !m.External.IsUnspecified() {
			external = m.External
		}
	}
	if len(protocols) == 0 {
		return
	}
	c.v.Gateway = external
	slices.Sort(protocols)
	which := strings.ToUpper(strings.Join(protocols, ", "))
	switch {
	case !external.IsValid() || len(c.v.Public) == 0:
		c.find(MapsPorts, "the gateway %v maps ports on request (%s)", s.Gateway, which)
	case slices.Contains(c.v.Public, external):
		c.v.CGN = max(c.v.CGN, No)
		c.find(MapsPorts, "the gateway %v maps ports on request (%s), and its address %v is the one seen outside: a mapping makes this machine reachable", s.Gateway, which, external)
	case carrier.Contains(external) || external.IsPrivate():
		c.carrier("the gateway's outside address is %v, and %v is seen outside: another NAT is beyond it, and port mappings (%s) reach nobody", external, c.v.Public, which)
	default:
		c.find(MapsPorts, "the gateway %v maps ports on request (%s) at %v, but %v is seen outside", s.Gateway, which, external, c.v.Public)
	}
}

// carrier notes a carrier's NAT, once.
func (c *classifier) carrier(format string, args ...any) {
	c.v.CGN = Yes
	text := fmt.Sprintf(format, args...)
	c.judged("cgn", Yes, sureOfSight, text)
	if !slices.ContainsFunc(c.findings, func(f Finding) bool { return f.Code == CarrierNAT }) {
		c.find(CarrierNAT, "%s", text)
	}
}

// mtu reads which datagrams with DF came back.
func (c *classifier) mtu() {
	for _, x := range c.o.Probes {
		if x.Role != RoleMTU || x.Bytes <= 0 {
			continue
		}
		switch {
		case x.Answered > 0:
			c.v.MTU = max(c.v.MTU, x.Bytes)
		case x.Judged >= mtuTries && x.Error == 0 && c.v.Fragments == Yes && silence(x.Judged, x.Controls, x.ControlsLost) < 1e-3:
			if c.v.MTUBelow == 0 || x.Bytes < c.v.MTUBelow {
				c.v.MTUBelow = x.Bytes
			}
		}
	}
	if c.v.MTUBelow > 0 && c.v.MTUBelow <= c.v.MTU {
		c.v.MTUBelow = 0
	}
	if c.v.MTUBelow > 0 && c.v.MTU > 0 {
		c.find(SmallMTU, "packets of %d bytes pass in one piece, of %d they do not", c.v.MTU, c.v.MTUBelow)
	}
}

// streams reads the mapping of TCP (RFC 5382 §4.1): what did each destination see of connections from one local endpoint?
func (c *classifier) streams() {
	type view struct{ to, mapped, local netip.AddrPort }
	var list []view
	for _, x := range c.o.Probes {
		if x.Role == RoleStreamMapping && len(x.Replies) > 0 {
			list = append(list, view{x.To, x.Replies[0].Mapped, x.Local})
		}
	}
	if len(list) < 2 {
		return
	}
	ports, addrs := [2]bool{}, [2]bool{} // different, equal
	own := true
	var evidence []string
	for i, a := range list {
		evidence = append(evidence, fmt.Sprintf("%v saw %v over TCP", a.to, a.mapped))
		own = own && a.mapped == a.local
		for _, b := range list[:i] {
			equal := 0
			if a.mapped == b.mapped {
				equal = 1
			}
			if a.to.Addr() == b.to.Addr() {
				ports[equal] = true
			} else {
				addrs[equal] = true
			}
		}
	}
	switch {
	case own:
		c.v.TCPMapping = MappingNone
	case ports[0]:
		c.v.TCPMapping = APDM
	case addrs[1] && !addrs[0]:
		c.v.TCPMapping = EIM
	case addrs[0] && ports[1]:
		c.v.TCPMapping = ADM
	case addrs[0]:
		c.find(TCPSymmetric, "TCP connections from one port are seen from different ports, by address or by address and port: %s", strings.Join(evidence, "; "))
	}
	if c.v.TCPMapping != MappingUnknown {
		c.judged("tcp_mapping", c.v.TCPMapping, 1.0/smallestBlock, evidence...)
	}
}
