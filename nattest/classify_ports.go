package nattest

import (
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
)

// Ours to tune.
const (
	largestStep   = 1024 // between sequential ports; byte-swapped counters go by 256
	fewestSteps   = 3    // of equal size: three random ports in a row do that once in 100 million times
	fewestParity  = 14   // ports that keep their parity by chance once in 16,384 times
	fewestNarrow  = 6
	fewestSockets = 4 // that say something about pooling
)

// made is a mapping that was seen to be made.
type made struct {
	order  int
	socket int
	local  netip.AddrPort
	ext    netip.AddrPort
}

// mappingsMade lists the external endpoints in the order in which they were probably made: that of the first packet which
// needed them. Loss may change it.
func (c *classifier) mappingsMade() []made {
	var list []made
	for _, x := range c.o.Probes {
		switch x.Role {
		case RoleControl, RoleMapping, RolePort, RoleReturn, RoleQuota:
		default:
			continue
		}
		if len(x.Replies) == 0 {
			continue
		}
		list = append(list, made{x.First, x.Socket, x.Local, x.Replies[0].Mapped})
	}
	slices.SortStableFunc(list, func(a, b made) int { return a.order - b.order })
	var out []made
	for _, m := range list {
		if !slices.ContainsFunc(out, func(o made) bool { return o.socket == m.socket && o.ext == m.ext }) {
			out = append(out, m)
		}
	}
	return out
}

// ports reads how external ports are chosen.
func (c *classifier) ports() {
	if c.v.Mapping == MappingNone {
		return
	}
	list := c.mappingsMade()
	if len(list) == 0 {
		return
	}
	p := &c.v.Ports
	p.First, p.Last = list[0].ext.Port(), list[0].ext.Port()
	first := make(map[int]bool)
	firsts, preserved, parity := 0, 0, 0
	for _, m := range list {
		p.First, p.Last = min(p.First, m.ext.Port()), max(p.Last, m.ext.Port())
		if m.ext.Port()%2 == m.local.Port()%2 {
			parity++
		}
		if !first[m.socket] {
			first[m.socket] = true
			firsts++
			if m.ext.Port() == m.local.Port() {
				preserved++
			}
		}
	}
	step, equal := commonStep(list)
	switch {
	case preserved >= 3 && preserved*4 >= firsts*3:
		p.Allocation = Preserved
		c.judged("ports", p.Allocation, 1e-9, fmt.Sprintf("%d of %d sockets kept their port", preserved, firsts))
		p.Step = stepsWithin(list)
	case equal >= fewestSteps && equal*2 >= len(list)-1:
		p.Allocation, p.Step = Sequential, step
		c.judged("ports", p.Allocation, 1e-6, fmt.Sprintf("%d of %d steps between ports are %d", equal, len(list)-1, step))
		c.find(SequentialPorts, "external ports go up in steps of %d", step)
	case len(list) > fewestSteps:
		p.Allocation = Random
		c.judged("ports", p.Allocation, 0.01, fmt.Sprintf("no order in %d ports", len(list)))
	}
	switch {
	case p.Allocation != Random:
	case parity < len(list):
		p.Parity = No
	case len(list) >= fewestParity:
		p.Parity = Yes
	}
	if p.Allocation == Random && len(list) >= fewestNarrow {
		p.Narrow = No
		if int(p.Last)-int(p.First) < narrowRange {
			p.Narrow = Yes
			p.Block = 1 << bits.Len16(p.Last-p.First)
			c.find(PortBlock, "the outside ports come from a block of %d or somewhat more: others share the address, and the block is all that this machine has", p.Block)
		}
	}
}

// commonStep is the most frequent step between neighbours among the ports, and how often it occurs. It does not look at the
// order in time: packets of one instant overtake each other. Which way the ports go, and whether they go at all, the mappings of
// one socket say.
func commonStep(list []made) (step, equal int) {
	var ports []int
	for _, m := range list {
		ports = append(ports, int(m.ext.Port()))
	}
	slices.Sort(ports)
	count := make(map[int]int)
	for i := 1; i < len(ports); i++ {
		d := ports[i] - ports[i-1]
		if d == 0 || d > largestStep {
			continue
		}
		if count[d]++; count[d] > equal {
			step, equal = d, count[d]
		}
	}
	last, up, down, within := make(map[int]int), 0, 0, 0
	for _, m := range list {
		port := int(m.ext.Port())
		if before, ok := last[m.socket]; ok {
			within++
			if port-before == step {
				up++
			}
			if before-port == step {
				down++
			}
		}
		last[m.socket] = port
	}
	switch {
	case down > up:
		return -step, equal
	case within > 2 && up == 0:
		return step, 0
	}
	return step, equal
}

// stepsWithin is the step between the mappings of one socket, if it is nearly always the same: a port that is taken is passed over.
func stepsWithin(list []made) int {
	last, count, total := make(map[int]uint16), make(map[int]int), 0
	for _, m := range list {
		if before, ok := last[m.socket]; ok {
			count[int(m.ext.Port())-int(before)]++
			total++
		}
		last[m.socket] = m.ext.Port()
	}
	for step, n := range count {
		if n >= 2 && n*4 >= total*3 && step <= largestStep && -step <= largestStep {
			return step
		}
	}
	return 0
}

// pooling looks whether sockets are seen with different addresses.
func (c *classifier) pooling() {
	sockets := make(map[int]bool)
	for _, x := range c.o.Probes {
		if len(x.Replies) > 0 && (x.Role == RoleControl || x.Role == RoleMapping) {
			sockets[x.Socket] = true
		}
	}
	switch {
	case c.v.Mapping == MappingNone:
	case len(c.v.Public) > 1:
		c.v.Pooling = Arbitrary
		c.judged("pooling", Arbitrary, 0, fmt.Sprintf("seen with %v", c.v.Public))
		c.find(ArbitraryPooling, "%d external addresses are in use at once: a peer that was told one may see another", len(c.v.Public))
	case len(c.v.Public) == 1 && len(sockets) >= fewestSockets:
		c.v.Pooling = Paired
		c.judged("pooling", Paired, 0.05, fmt.Sprintf("%d sockets are seen with %v", len(sockets), c.v.Public[0]))
	}
}
