package turn

import (
	"net/netip"
	"time"
)

// Gate says what may pass between a client without credentials and a peer's address and port, until the two have shown that they speak the
// protocol that the relay is for (turn.peers.payload). It knows that protocol; the core knows whose packets they are, and keeps for
// each pair of addresses what the gate wants to remember. Its functions may be called by all cores at once, must not keep
// what they are given, and should allocate nothing.
type Gate struct {
	// Inspect judges a payload from the client (up) or from the peer. Scratch is memory for whatever it needs, as long as the payload or longer than
	// any that it lets pass.
	Inspect func(s *GateState, up bool, payload, scratch []byte) GateVerdict
	// Belongs reports whether a payload from another port of the peer's address belongs to what opened s.
	Belongs func(s *GateState, payload []byte) bool
	// Proven reports whether the client has repeated something that it can only have received at its address.
	Proven func(s *GateState) bool
}

// GateState is what a Gate remembers of a pair of addresses; the zero value is the beginning.
type GateState [6]uint32

// GateVerdict is what a Gate says of a payload.
type GateVerdict uint8

// The verdicts.
const (
	GateDrop GateVerdict = iota
	GatePass
	GateOpen // it passes, and from now on everything does
)

// Ours to tune.
const (
	// maxGates bounds the ports of one peer address of an allocation, as many as there may be peers behind one NAT; the oldest that is not open gives way.
	maxGates = 64
	// gateMemory is how long an open gate outlives the permission that it belongs to. A session whose two ends are silent for five minutes goes on
	// when the client speaks again.
	gateMemory = 30 * time.Minute
	// gateScratch is the memory of a core for Inspect, in bytes: more than the longest packet of session startup.
	gateScratch = 2048
)

// gate is what is remembered of one port of a peer's address.
type gate struct {
	state GateState
	next  uint32 // of the same permission
	port  uint16
	open  bool
}

// passes reports whether a payload may pass between the client and a port of the permission's address. Of an established flow it
// costs one comparison.
func (c *Core) passes(i, p uint32, port uint16, up bool, payload []byte) bool {
	if c.perms[p].openPort == port && port != 0 || c.rules.Gate == nil || c.allocs[i].user != nil {
		return true
	}
	return c.inspect(i, p, port, up, payload)
}

func (c *Core) inspect(i, p uint32, port uint16, up bool, payload []byte) bool {
	x, g := &c.perms[p], c.rules.Gate
	at := x.firstGate
	for at != none && c.gates[at].port != port {
		at = c.gates[at].next
	}
	if at != none && c.gates[at].open {
		x.openPort = port
		return true
	}
	s := &c.inspected
	*s = GateState{}
	if at != none {
		*s = c.gates[at].state
	}
	if c.scratch == nil {
		c.scratch = make([]byte, gateScratch)
	}
	verdict := GateOpen
	if !x.ownHost || c.rules.Policy.JudgePort(netip.AddrPortFrom(x.addr, port)).Rule.Base() != RuleOwnService { // our rendezvous speaks nothing else
		verdict = g.Inspect(s, up, payload, c.scratch)
	}
	if verdict == GateDrop && !up {
		for o := x.firstGate; o != none && verdict == GateDrop; o = c.gates[o].next {
			if c.gates[o].open && g.Belongs(&c.gates[o].state, payload) {
				*s, verdict = c.gates[o].state, GateOpen
			}
		}
	}
	if verdict == GateDrop {
		return false
	}
	if at == none {
		if at = c.newGate(p, port); at == none {
			return false
		}
	}
	c.gates[at].state = *s
	if verdict == GateOpen {
		c.gates[at].open = true
		x.openPort = port
	}
	if g.Proven(s) {
		c.prove(i)
	}
	return true
}

// newGate makes an entry for a port, or reports none when all that there may be are open.
func (c *Core) newGate(p uint32, port uint16) (at uint32) {
	x := &c.perms[p]
	n, idle := 0, none // the oldest that is not open
	for o := x.firstGate; o != none; o = c.gates[o].next {
		if n++; !c.gates[o].open {
			idle = o
		}
	}
	switch {
	case n >= maxGates && idle == none:
		return none
	case n >= maxGates:
		c.unlinkGate(p, idle)
	}
	if k := len(c.freeGates); k > 0 {
		at = c.freeGates[k-1]
		c.freeGates = c.freeGates[:k-1]
	} else {
		c.gates = append(c.gates, gate{})
		at = uint32(len(c.gates) - 1)
	}
	c.gates[at] = gate{next: x.firstGate, port: port}
	x.firstGate = at
	return at
}

func (c *Core) unlinkGate(p, g uint32) {
	for at := &c.perms[p].firstGate; *at != none; at = &c.gates[*at].next {
		if *at == g {
			*at = c.gates[g].next
			break
		}
	}
	c.gates[g] = gate{}
	c.freeGates = append(c.freeGates, g)
}

// gatesOpen reports whether a permission that is over is remembered for its open gates.
func (c *Core) gatesOpen(p uint32) bool {
	x := &c.perms[p]
	if c.now >= x.expires+gateMemory {
		return false
	}
	for g := x.firstGate; g != none; g = c.gates[g].next {
		if c.gates[g].open {
			return true
		}
	}
	return false
}

// doubt notes that nothing but a source address speaks for the client of a confirmed allocation yet. When the server is full, the oldest
// of these gives way to a newcomer: forged pairs of Allocate and Send fill no server for longer than they come.
func (c *Core) doubt(i uint32) {
	a := &c.allocs[i]
	if c.rules.Gate == nil || a.user != nil || a.source.Stream != 0 {
		return
	}
	a.doubted = true
	a.older, a.newer = c.newestDoubt, none
	if c.newestDoubt != none {
		c.allocs[c.newestDoubt].newer = i
	} else {
		c.oldestDoubt = i
	}
	c.newestDoubt = i
}

// prove takes the allocation out of those that give way.
func (c *Core) prove(i uint32) {
	a := &c.allocs[i]
	if !a.doubted {
		return
	}
	a.doubted = false
	if a.older != none {
		c.allocs[a.older].newer = a.newer
	} else {
		c.oldestDoubt = a.newer
	}
	if a.newer != none {
		c.allocs[a.newer].older = a.older
	} else {
		c.newestDoubt = a.older
	}
	a.older, a.newer = none, none
}
