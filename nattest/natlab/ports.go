package natlab

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
)

// PortOrder says which external port a new mapping gets.
type PortOrder uint8

// The orders.
const (
	Preserve   PortOrder = iota // the inside port, or the next free one above it
	Random                      // any
	Sequential                  // the last one plus Step
)

// PortConfig is how a NAT chooses external ports (§4.2). The zero value preserves them.
type PortConfig struct {
	Order PortOrder
	// Step is between the ports of Sequential; zero means 1. Routers with a byte-swapped counter have 256. At the end
	// of the range a step above 1 goes on one port beside where it began.
	Step int
	// First and Last are the range; zero means 1024 and 65535.
	First, Last uint16
	// Parity keeps even ports even and odd ports odd (§4.2.2).
	Parity bool
	// Block is the number of ports in a block; with it an inside address uses only the ports of the blocks that it
	// was given, as large-scale NATs do (RFC 6888). Zero means no blocks.
	Block int
	// Blocks is how many blocks an inside address may have; zero means 1.
	Blocks int
	// Overload lets several inside sockets use one external port, as long as their peers differ (§4.2.1 "port overloading").
	Overload bool
}

func (c *PortConfig) normalize() {
	if c.Step == 0 {
		c.Step = 1
	}
	if c.First == 0 {
		c.First = defaultFirstPort
	}
	if c.Last == 0 {
		c.Last = defaultLastPort
	}
	if c.Blocks == 0 {
		c.Blocks = 1
	}
	size := int(c.Last) - int(c.First) + 1
	if size < 1 || c.Step < 0 || c.Step > size || c.Block < 0 || c.Block > size || c.Blocks < 0 {
		panic(fmt.Sprintf("natlab: PortConfig makes no sense: %+v", *c))
	}
}

// portAllocator finds free external ports.
type portAllocator struct {
	cfg    PortConfig
	next   map[counterKey]uint16
	blocks map[netip.Addr][]block // of an inside address
	serial uint64
}

type counterKey struct {
	proto Proto
	addr  netip.Addr
	first uint16 // of the range
}

type block struct {
	addr        netip.Addr
	first, last uint16
}

type portRequest struct {
	proto  Proto
	addr   netip.Addr // external
	inside netip.AddrPort
	moved  bool // not the preserved port
	rand   *rand.Rand
	free   func(port uint16) bool
}

func (a *portAllocator) allocate(r portRequest) (uint16, bool) {
	if a.cfg.Block == 0 {
		return a.inRange(r, a.cfg.First, a.cfg.Last)
	}
	subscriber := r.inside.Addr()
	for _, b := range a.blocks[subscriber] {
		if b.addr == r.addr {
			if port, ok := a.inRange(r, b.first, b.last); ok {
				return port, true
			}
		}
	}
	if len(a.blocks[subscriber]) >= a.cfg.Blocks {
		return 0, false
	}
	b, ok := a.newBlock(r.addr)
	if !ok {
		return 0, false
	}
	a.blocks[subscriber] = append(a.blocks[subscriber], b)
	return a.inRange(r, b.first, b.last)
}

// newBlock gives out the lowest block of an external address that nobody has.
func (a *portAllocator) newBlock(addr netip.Addr) (block, bool) {
	taken := make(map[uint16]bool)
	for _, list := range a.blocks {
		for _, b := range list {
			taken[b.first] = taken[b.first] || b.addr == addr
		}
	}
	for first := int(a.cfg.First); first+a.cfg.Block-1 <= int(a.cfg.Last); first += a.cfg.Block {
		if !taken[uint16(first)] {
			return block{addr, uint16(first), uint16(first + a.cfg.Block - 1)}, true
		}
	}
	return block{}, false
}

func (a *portAllocator) inRange(r portRequest, first, last uint16) (uint16, bool) {
	size := int(last) - int(first) + 1
	fits := func(port uint16) bool {
		return (!a.cfg.Parity || port%2 == r.inside.Port()%2) && r.free(port)
	}
	counter := counterKey{r.proto, r.addr, first}
	order, start, step := a.cfg.Order, 0, 1
	switch {
	case order == Sequential:
		if next, ok := a.next[counter]; ok {
			start = int(next - first)
		} else {
			start = r.rand.IntN(size)
		}
		step = a.cfg.Step
	case order == Random || r.moved || r.inside.Port() < first || r.inside.Port() > last:
		start = r.rand.IntN(size)
	default:
		start = int(r.inside.Port() - first)
	}
	at := start
	for range size {
		port := first + uint16(at)
		at = advance(at, step, size)
		if fits(port) {
			if order == Sequential {
				a.next[counter] = first + uint16(at)
			}
			return port, true
		}
		if order == Random { // a neighbour of a taken port would not be random
			at = r.rand.IntN(size)
		}
	}
	if order == Random { // nearly full: the first free one
		for i := range size {
			if port := first + uint16(i); fits(port) {
				return port, true
			}
		}
	}
	return 0, false
}

// advance moves an offset by step in a range. Past the end it goes on beside where this round began, so that every
// offset has its turn.
func advance(at, step, size int) int {
	if at+step < size {
		return at + step
	}
	return (at%step + 1) % step
}
