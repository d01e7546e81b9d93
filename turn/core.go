package turn

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/stilenet/stile/stun"
)

// Rules is what an administrator may change while the server runs. A Core keeps the pointer; nobody changes what it
// points to.
type Rules struct {
	Policy *Policy
	Limits Limits
	Auth   Auth
	// ModernWithoutCredentials lets allocations without credentials speak the modern dialect. Outside laboratories
	// it must stay false: a web page could use the browser of an employee on the open proxy.
	ModernWithoutCredentials bool
	// Gate keeps what clients without credentials exchange with peers to one protocol. Nil: they may send anything.
	Gate *Gate
}

// Config is what a Core is made of and keeps for its life.
type Config struct {
	Ledger *Ledger
	Relays []RelayAddress // as the Ledger has them
	Rules  *Rules
	Shard  int // index of this core among those that share the Ledger
	Shards int // how many there are; zero means one
	Opener Opener
	// Offload takes established flows. Nil: the core relays everything.
	Offload Offload
	// RequireAuth says by index of the listener whether requests need credentials. Missing entries need none.
	RequireAuth []bool
	// BindingOnly says by index of the listener whether it takes STUN Binding and nothing else. Missing entries take all.
	BindingOnly []bool
	// Discovery is the NAT behaviour discovery of IPv4 and of IPv6.
	Discovery [2]Discovery
	// Seed makes transaction IDs and session IDs unpredictable, and a run repeatable. It must differ between shards.
	Seed [32]byte
}

// Opener opens the relayed ports of a shard: the seam to the data plane. Its methods are called from within FromClient
// and Tick, and must not call the core.
type Opener interface {
	// OpenRelay makes the relayed address usable under the allocation's index. ErrPortTaken means that another
	// program has the port, and another is tried.
	OpenRelay(allocation uint32, local netip.AddrPort) error
	// CloseRelay ends it. Packets that were received before may still come in; the core drops them.
	CloseRelay(allocation uint32)
	// CloseStream ends the TCP connection of a client.
	CloseStream(stream uint32)
}

// Source is where a client's message came from: the 5-tuple.
type Source struct {
	Client    netip.AddrPort // as seen, unmapped
	Server    netip.AddrPort // the local address it came to, unmapped
	Stream    uint32         // 0 for UDP, else the number of the TCP connection, unique among the living ones of the shard
	Listener  uint16         // index of the listener
	Interface int            // the interface it came in by; 0 when unknown
}

// Packet is a datagram in a receive buffer: Buf[At:At+Len], with Headroom bytes free before it and Tailroom behind.
// The core may write anywhere in Buf; outputs alias it.
type Packet struct {
	Buf     []byte
	At, Len int
}

func (p Packet) bytes() []byte { return p.Buf[p.At : p.At+p.Len] }

// OutputKind says which socket an Output leaves by.
type OutputKind uint8

// The kinds.
const (
	ToClient OutputKind = iota + 1 // from Source.Server to Source.Client, or on Source.Stream
	ToPeer                         // from the relayed port of Allocation to Peer
	ToShard                        // to the core of Shard: HairpinFrom with Crossing
)

// Output is one datagram to send. Data aliases the packet's buffer or the core's own memory and is valid until Reset. What is ToPeer lies in the
// packet's buffer, and the data plane may write in the Headroom bytes in front of it.
type Output struct {
	Kind       OutputKind
	Allocation uint32         // ToPeer: whose port it leaves by
	Peer       netip.AddrPort // ToPeer: to
	Shard      int            // ToShard
	Crossing   Crossing       // ToShard
	Source     Source         // ToClient: the client
	Data       []byte
}

// Crossing is the way of a datagram between two allocations of this server. It names addresses, not table entries: what
// waits between two shards goes to whoever has the address when it arrives, as on a wire.
type Crossing struct {
	From, To netip.AddrPort // relayed addresses in their public form
	Prefix   int            // the sender's client prefix
}

// Core holds the allocations of one shard and decides what to send. It performs no I/O and reads no clock.
// It is not safe for concurrent use: the shard's loop is its only caller.
type Core struct {
	cfg    Config
	rules  *Rules
	ledger *Ledger
	rng    *rand.ChaCha8

	epoch time.Time     // expiries are kept as durations since then: 8 bytes, and no pointer for the collector
	now   time.Duration // of the packet in hand
	clock time.Time     // the same

	tuples   map[tupleKey]uint32
	allocs   []allocation
	free     []uint32
	sessions map[SessionID]uint32
	lastID   SessionID

	perms     []permission
	freePerms []uint32
	permIndex map[permKey]uint32

	gates     []gate
	freeGates []uint32
	inspected GateState // of the payload in hand; a field, so that it is not allocated
	scratch   []byte    // of Gate.Inspect

	chans        []channel
	freeChans    []uint32
	chanByNumber map[uint64]uint32 // allocation<<16 | number
	chanByPeer   map[peerKey]uint32

	flows       []offloaded
	freeFlows   []uint32
	flowIndex   map[flowKey]uint32
	offloadFull bool // until the next Tick

	oldest, newest           uint32 // unconfirmed allocations in the order of their making; none = ^0
	oldestDoubt, newestDoubt uint32 // confirmed ones whose client's address is not proven, likewise

	tombs     map[tupleKey]tombstone
	tombOrder fifo[grave]

	authState
	draining bool
	traces   traces
	refusals [RuleCount]refusal

	out     []Output
	arena   []byte
	unknown [maxUnknown]stun.AttrType // of the request in hand
	events  []Event
	stats   Stats
}

// tupleKey is a 5-tuple without pointers. Of a TCP client it has the number of the connection only.
type tupleKey struct {
	client, server         [16]byte
	clientPort, serverPort uint16
	stream                 uint32
}

func (s *Source) key() tupleKey {
	if s.Stream != 0 {
		return tupleKey{stream: s.Stream}
	}
	return tupleKey{s.Client.Addr().As16(), s.Server.Addr().As16(), s.Client.Port(), s.Server.Port(), 0}
}

type permKey struct {
	addr       [16]byte
	allocation uint32
}

type peerKey struct {
	addr       [16]byte
	allocation uint32
	port       uint16
}

// none is the end of a list of indices.
const none = ^uint32(0)

// allocation is one entry of the slab. Its index is its name towards the data plane.
type allocation struct {
	id           SessionID // 0: the entry is free
	source       Source
	key          tupleKey
	lease        Lease
	relayed      netip.AddrPort // public form
	tx           stun.TransactionID
	token        [8]byte
	hasToken     bool
	confirmed    bool
	dialect      Dialect
	user         *credential
	started      time.Duration
	expires      time.Duration
	firstPerm    uint32
	firstChan    uint32
	firstFlow    uint32 // of those that the offload relays
	meter        uint32 // while there is one
	nperms       int
	nchans       int
	clientPrefix int
	older, newer uint32 // in the list of unconfirmed allocations, or of those in doubt
	doubted      bool   // in the list of those in doubt
	bytes        bucket
	packets      bucket

	peers              int
	lastPeer           netip.AddrPort
	packetsUp, bytesUp uint64
	packetsDown        uint64
	bytesDown          uint64
}

// permission lets one peer IP through (§8).
type permission struct {
	addr       netip.Addr
	allocation uint32
	next       uint32
	firstGate  uint32
	openPort   uint16 // the last port whose gate was found open; 0 without
	expires    time.Duration
	answered   bool          // the peer has sent something to this allocation
	ownHost    bool          // one of our relay addresses: packets to it may be hairpins
	since      time.Duration // of the first of sent
	sent       int           // packets while unanswered
	sentBytes  int
}

// channel is one number for one peer address (§10).
type channel struct {
	peer       netip.AddrPort
	allocation uint32
	next       uint32
	permission uint32
	number     uint16
	expires    time.Duration
}

// grave is a place in the order in which tombstones are forgotten. Its tombstone may have been replaced since by a later
// one of the same 5-tuple, which has a later time.
type grave struct {
	key   tupleKey
	until time.Duration
}

// tombstone remembers an ended allocation for its retransmissions.
type tombstone struct {
	allocate, release stun.TransactionID
	relayed           netip.AddrPort
	lifetime          time.Duration
	token             [8]byte
	hasToken          bool
	until             time.Duration
}

// bucket is a token bucket with a burst of one second: at is when it is full again.
type bucket struct{ at time.Duration }

// take takes n tokens of rate for each second.
func (b *bucket) take(now time.Duration, n, rate int) bool {
	if rate <= 0 {
		return true
	}
	at := max(b.at, now)
	at += time.Duration(n) * time.Second / time.Duration(rate)
	if at-now > time.Second {
		return false
	}
	b.at = at
	return true
}

// NewCore makes the core of one shard. now is the beginning of its time.
func NewCore(now time.Time, cfg Config) *Core {
	if cfg.Shards == 0 {
		cfg.Shards = 1
	}
	c := &Core{
		cfg:          cfg,
		ledger:       cfg.Ledger,
		rng:          rand.NewChaCha8(cfg.Seed),
		epoch:        now,
		clock:        now,
		tuples:       make(map[tupleKey]uint32),
		sessions:     make(map[SessionID]uint32),
		permIndex:    make(map[permKey]uint32),
		chanByNumber: make(map[uint64]uint32),
		chanByPeer:   make(map[peerKey]uint32),
		tombs:        make(map[tupleKey]tombstone),
		oldest:       none,
		newest:       none,
		oldestDoubt:  none,
		newestDoubt:  none,
	}
	// Session IDs count up from a random place, with the shard in the lowest bits: short, and no two shards give the same.
	c.lastID = SessionID(c.rng.Uint64()&0xFFFFF<<8 | uint64(cfg.Shard))
	c.rules = cfg.Rules
	c.defaults()
	return c
}

// defaults fills in the limits that may not be absent.
func (c *Core) defaults() {
	r, d := *c.rules, DefaultLimits()
	for _, f := range []struct{ v, def *int }{
		{&r.Limits.Unconfirmed, &d.Unconfirmed}, {&r.Limits.Permissions, &d.Permissions}, {&r.Limits.Channels, &d.Channels},
	} {
		if *f.v <= 0 {
			*f.v = *f.def
		}
	}
	r.Limits.Unconfirmed = max(1, r.Limits.Unconfirmed/c.cfg.Shards)
	c.rules = &r
}

// SetRules swaps policy, limits and credentials, and ends or narrows at once what the new ones refuse.
func (c *Core) SetRules(now time.Time, r *Rules) {
	c.begin(now)
	old := c.rules
	c.rules = r
	c.authState = authState{}
	c.defaults()
	for i := range c.allocs {
		a := &c.allocs[i]
		if a.id == 0 {
			continue
		}
		c.judgeFlows(uint32(i), old)
		if c.now >= a.expires {
			c.end(uint32(i), EndExpired)
			continue
		}
		if v := r.Policy.JudgeClient(a.source.Client.Addr(), a.source.Interface); !v.Allowed {
			c.refused(v.Rule, a.source.Client, netip.AddrPort{}, a)
			c.end(uint32(i), EndPolicy)
			continue
		}
		a.clientPrefix = r.Policy.ClientPrefix(a.source.Client.Addr())
		if old := a.user; old != nil { // who lost the password that opened the allocation loses the allocation
			user := c.lookupUser([]byte(old.name))
			if user == nil || user.key != old.key {
				c.end(uint32(i), EndPolicy)
				continue
			}
			a.user = user
		} else if a.dialect == DialectModern && !r.ModernWithoutCredentials {
			c.stats.ModernRefused++
			c.end(uint32(i), EndModern)
			continue
		}
		for p := a.firstPerm; p != none; {
			next := c.perms[p].next
			if v := r.Policy.JudgePeer(c.perms[p].addr); !v.Allowed {
				c.refused(v.Rule, a.source.Client, netip.AddrPortFrom(c.perms[p].addr, 0), a)
				c.dropPermission(uint32(i), p)
			}
			p = next
		}
		for ch := a.firstChan; ch != none; {
			next := c.chans[ch].next
			if v := r.Policy.JudgePort(c.chans[ch].peer); !v.Allowed {
				c.dropChannel(uint32(i), ch)
			}
			ch = next
		}
	}
}

// SetDraining makes the core refuse new allocations with 508, or take them again.
func (c *Core) SetDraining(on bool) { c.draining = on }

// Outputs are the datagrams to send, in order. They are valid until Reset.
func (c *Core) Outputs() []Output { return c.out }

// TakeEvents returns the events since the last call. The caller owns them.
func (c *Core) TakeEvents() []Event {
	e := c.events
	c.events = nil
	return e
}

// Reset forgets the outputs, after they were sent. The buffers of the packets may then be used again.
func (c *Core) Reset() {
	clear(c.out)
	c.out = c.out[:0]
	c.arena = c.arena[:0]
}

// Stats are the counters so far. The caller owns the copy.
func (c *Core) Stats() Stats {
	c.collectFlows()
	return c.snapshot()
}

func (c *Core) snapshot() Stats {
	s := c.stats
	s.Errors = make(map[int]uint64, len(c.stats.Errors))
	for code, n := range c.stats.Errors {
		s.Errors[code] = n
	}
	s.Permissions, s.Channels, s.Flows = len(c.permIndex), len(c.chanByNumber), len(c.flowIndex)
	return s
}

func (c *Core) begin(now time.Time) {
	c.clock, c.now = now, now.Sub(c.epoch)
}

func (c *Core) count(d Disposition) { c.stats.Packets[d]++ }

// FromClient takes one message of a client: a datagram, or one frame of a stream. src is not kept.
func (c *Core) FromClient(now time.Time, src *Source, p Packet) {
	c.begin(now)
	c.stats.Read++
	b := p.bytes()
	if i := int(src.Listener); i < len(c.cfg.BindingOnly) && c.cfg.BindingOnly[i] {
		c.fromProbe(src, b)
		return
	}
	if len(b) > 0 && b[0]&0xC0 != 0 {
		c.fromChannel(src, p)
		return
	}
	m, err := stun.Parse(b)
	if err != nil {
		c.count(DropMalformed)
		return
	}
	switch m.Type() {
	case stun.NewType(stun.Send, stun.Indication):
		c.send(src, m, p)
	case stun.NewType(stun.Binding, stun.Request),
		stun.NewType(stun.Allocate, stun.Request),
		stun.NewType(stun.Refresh, stun.Request),
		stun.NewType(stun.ChannelBind, stun.Request),
		stun.NewType(stun.CreatePermission, stun.Request):
		c.request(src, m)
	case stun.NewType(stun.Binding, stun.Indication): // RFC 8489 §3
		c.count(Keepalive)
	default: // rfc3489bis-15 §7.3: silently
		c.count(DropMethod)
	}
}

// lookup finds the living allocation of a 5-tuple.
func (c *Core) lookup(src *Source) (uint32, *allocation) {
	i, ok := c.tuples[src.key()]
	if !ok {
		return none, nil
	}
	a := &c.allocs[i]
	if c.now >= a.expires {
		c.end(i, EndExpired)
		return none, nil
	}
	return i, a
}

// refused counts a refusal by the policy, and at most every ten seconds for each rule makes an event of it.
func (c *Core) refused(rule Rule, client, peer netip.AddrPort, a *allocation) {
	c.stats.Refused[rule]++
	r := &c.refusals[rule]
	r.count++
	if c.now < r.next {
		return
	}
	e := Event{Kind: EventRefused, At: c.clock, Client: client, Peer: peer, Rule: rule, Count: r.count}
	if a != nil {
		e.Session = c.session(a)
	}
	c.events = append(c.events, e)
	r.count, r.next = 0, c.now+refusalEvery
}

// refusal samples the events of one rule.
type refusal struct {
	count uint64
	next  time.Duration
}

// refusalEvery is the pause between two events of one rule: a flood of refused packets must not become a flood of log lines.
const refusalEvery = 10 * time.Second

func (c *Core) session(a *allocation) Session {
	s := Session{
		ID: a.id, Client: a.source.Client, Server: a.source.Server, Stream: a.source.Stream != 0, Relayed: a.relayed,
		Dialect: a.dialect, Confirmed: a.confirmed, Started: c.epoch.Add(a.started), Expires: c.epoch.Add(a.expires),
		Permissions: a.nperms, Channels: a.nchans, Peers: a.peers, LastPeer: a.lastPeer,
		PacketsUp: a.packetsUp, BytesUp: a.bytesUp, PacketsDown: a.packetsDown, BytesDown: a.bytesDown,
	}
	if a.user != nil {
		s.User = a.user.name
	}
	return s
}

// Sessions appends the living allocations to dst, in no order.
func (c *Core) Sessions(now time.Time, dst []Session) []Session {
	c.begin(now)
	c.collectFlows()
	for i := range c.allocs {
		if a := &c.allocs[i]; a.id != 0 && c.now < a.expires {
			dst = append(dst, c.session(a))
		}
	}
	return dst
}

// Kill ends an allocation. It reports false when there is none of that ID.
func (c *Core) Kill(now time.Time, id SessionID) bool {
	c.begin(now)
	i, ok := c.sessions[id]
	if !ok {
		return false
	}
	if c.now >= c.allocs[i].expires {
		c.end(i, EndExpired)
		return false
	}
	c.end(i, EndKilled)
	return true
}

// StreamClosed ends the allocation of a TCP connection. §2.1 is silent about it; the RFCs end it.
func (c *Core) StreamClosed(now time.Time, stream uint32) {
	c.begin(now)
	if i, ok := c.tuples[tupleKey{stream: stream}]; ok {
		c.end(i, EndStream)
	}
}

// HasStream reports whether the TCP connection has an allocation. The data plane ends connections that have none for long.
func (c *Core) HasStream(stream uint32) bool {
	_, ok := c.tuples[tupleKey{stream: stream}]
	return ok
}

// Shutdown ends all allocations, so that each has its line in the log.
func (c *Core) Shutdown(now time.Time) {
	c.begin(now)
	for i := range c.allocs {
		if c.allocs[i].id != 0 {
			c.end(uint32(i), EndShutdown)
		}
	}
}

// Tick removes what has expired. Call it about once a second while Busy; lookups judge expiry exactly, so a late Tick
// keeps memory and ports longer but lets nothing through.
func (c *Core) Tick(now time.Time) {
	c.begin(now)
	c.sweepFlows()
	for i := range c.allocs {
		a := &c.allocs[i]
		if a.id == 0 {
			continue
		}
		if c.now >= a.expires {
			c.end(uint32(i), EndExpired)
			continue
		}
		c.reap(uint32(i), false)
	}
	for c.tombOrder.len() > 0 && c.now >= c.tombOrder.front().until {
		c.exhume()
	}
}

// Busy reports whether there is anything that can expire, so that an idle server need not wake up.
func (c *Core) Busy() bool { return len(c.tuples) > 0 || c.tombOrder.len() > 0 }

// newTransaction makes the ID of an indication.
func (c *Core) newTransaction() (id stun.TransactionID) {
	binary.LittleEndian.PutUint64(id[:], c.rng.Uint64())
	binary.LittleEndian.PutUint32(id[8:], uint32(c.rng.Uint64()))
	return id
}
