package turn

import (
	"encoding/binary"
	"time"
)

// Successor returns a core that goes on where c must not, after a BUG: with its configuration, rules and counters, and
// without an allocation. The relayed ports of the lost allocations go back to the Ledger, as far as the broken tables
// still name them, and each lost session is reported with EndBug. The data plane closes the sockets and streams itself; c must not be
// used again.
func (c *Core) Successor(now time.Time) *Core {
	cfg := c.cfg
	if cfg.Offload != nil {
		cfg.Offload.Reset(cfg.Shard)
	}
	cfg.Rules = c.rules
	cfg.Rules.Limits.Unconfirmed *= cfg.Shards // NewCore divides it
	for at := 0; at < len(cfg.Seed); at += 8 {
		binary.LittleEndian.PutUint64(cfg.Seed[at:], c.rng.Uint64())
	}
	s := NewCore(now, cfg)
	s.draining = c.draining
	s.lastID = c.lastID // IDs are unique while the server runs
	s.events = c.events
	s.stats = c.snapshot()
	s.stats.Flows, s.stats.Allocations, s.stats.Unconfirmed, s.stats.Permissions, s.stats.Channels = 0, 0, 0, 0, 0
	s.stats.Read = 0 // the packet at which c broke has no disposition
	for _, n := range s.stats.Packets {
		s.stats.Read += n
	}
	for i := range c.allocs {
		if c.allocs[i].id != 0 {
			s.inherit(now, c, &c.allocs[i])
		}
	}
	return s
}

// inherit takes the port of a lost allocation back. What the allocation says may be wrong, so a second BUG costs this
// one port and no more.
func (c *Core) inherit(now time.Time, old *Core, a *allocation) {
	defer func() { _ = recover() }()
	c.stats.Ended[EndBug]++
	if a.confirmed {
		c.events = append(c.events, Event{Kind: EventEnded, At: now, Session: old.session(a), Reason: EndBug})
	}
	c.ledger.release(now, a.lease, a.source.Client.Addr(), a.confirmed)
}
