package turn

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stilenet/stile/stun"
)

// Ledger holds what the shards of one server count together: the relayed ports, the quotas, the budgets. Control
// messages and the first packets to a peer touch it, relayed packets do not. It is safe for concurrent use.
type Ledger struct {
	mu           sync.Mutex
	limits       Limits
	rng          *rand.Rand
	relays       []RelayAddress
	ports        []portTable // one for each relay address
	total        int         // ports in use, by allocations and reservations
	clients      map[netip.Addr]int
	prefixes     map[netip.Prefix]int
	reservations map[[8]byte]reservation
	held         fifo[[8]byte]
	reused       uint64
	unanswered   map[netip.Addr]*peerBudget
	unansweredAt fifo[netip.Addr]

	silentMu sync.Mutex
	silent   []time.Time // by hashed client: when none of its silent peers counts any more

	replyMu sync.Mutex
	key     [2]uint64 // of hash
	replies []replyBucket
}

// portTable is the ports of one relay address: a free list that is taken from at random, since a port that can be
// guessed is half of an attack (RFC 6056), and the owner of each port for hairpin deliveries between shards.
type portTable struct {
	first  uint16
	free   []uint16        // offsets
	pos    []int32         // offset to its place in free, or -1
	owners []atomic.Uint64 // 0, or shard<<32 | allocation + 1

	quarantine fifo[resting]
}

// Lease is a relayed port that an allocation has.
type Lease struct {
	Relay int    // index of the relay address
	Port  uint16 // 0: none
}

type resting struct {
	port   uint16
	until  time.Time
	client netip.Addr // invalid when it counts against nobody
}

type reservation struct {
	lease Lease
	until time.Time
}

// peerBudget is what all clients together have sent to a peer address since it last answered one of them.
type peerBudget struct {
	until   time.Time
	packets int
	bytes   int
}

type replyBucket struct {
	at     time.Time
	tokens int
}

// unansweredWindow is how long a silent peer's shared budget is remembered: longer than RTMFP tries to reach it.
const unansweredWindow = 10 * time.Minute

// silentWindow is how long a peer that does not answer counts against the client that tried it: as long as a permission lives.
const silentWindow = PermissionLifetime

// NewLedger makes the ledger for these relay addresses and this range of ports. seed makes ports unpredictable and runs repeatable.
func NewLedger(relays []RelayAddress, ports PortRange, limits Limits, seed [32]byte) *Ledger {
	l := &Ledger{
		limits:       limits,
		rng:          rand.New(rand.NewChaCha8(seed)),
		relays:       relays,
		clients:      make(map[netip.Addr]int),
		prefixes:     make(map[netip.Prefix]int),
		reservations: make(map[[8]byte]reservation),
		unanswered:   make(map[netip.Addr]*peerBudget),
		replies:      make([]replyBucket, replyBuckets),
		silent:       make([]time.Time, replyBuckets),
	}
	l.key = [2]uint64{l.rng.Uint64(), l.rng.Uint64()}
	n := int(ports.Last) - int(ports.First) + 1
	for range relays {
		t := portTable{first: ports.First, free: make([]uint16, n), pos: make([]int32, n), owners: make([]atomic.Uint64, n)}
		for i := range n {
			t.free[i], t.pos[i] = uint16(i), int32(i)
		}
		l.ports = append(l.ports, t)
	}
	return l
}

// SetLimits replaces the limits; what is above a new limit stays until it ends.
func (l *Ledger) SetLimits(limits Limits) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.limits = limits
}

// PortStats is the state of the relayed ports.
type PortStats struct {
	Total, Free, Quarantined, Reserved int
	Reused                             uint64 // taken out of quarantine early, because free ports were short
	SilentPeers                        int    // peer addresses with a shared unanswered budget
}

// Ports reports the state of the relayed ports of all addresses.
func (l *Ledger) Ports() PortStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := PortStats{Reserved: len(l.reservations), Reused: l.reused, SilentPeers: len(l.unanswered)}
	for i := range l.ports {
		s.Quarantined += l.ports[i].quarantine.len()
		s.Total += len(l.ports[i].pos)
		s.Free += len(l.ports[i].free)
	}
	return s
}

func (t *portTable) remove(off uint16) {
	at := t.pos[off]
	last := t.free[len(t.free)-1]
	t.free[at], t.pos[last] = last, at
	t.free = t.free[:len(t.free)-1]
	t.pos[off] = -1
}

func (t *portTable) add(off uint16) {
	if t.pos[off] >= 0 {
		panic("BUG: turn: a relayed port was freed twice")
	}
	t.pos[off] = int32(len(t.free))
	t.free = append(t.free, off)
}

func (t *portTable) isFree(off int) bool { return off >= 0 && off < len(t.pos) && t.pos[off] >= 0 }

// want is what an Allocate asks for.
type want struct {
	client netip.Addr
	ipv6   bool
	ports  ports
	token  [8]byte
	redeem bool
}

// take gives a port, or the error code to answer with. The port is not open yet: the core opens it and calls
// foreign if another program has it.
func (l *Ledger) take(now time.Time, w want) (lease Lease, token [8]byte, code int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire(now)
	if !l.allowed(w.client) {
		return Lease{}, token, stun.CodeQuotaReached
	}
	if w.redeem {
		r, ok := l.reservations[w.token]
		if !ok {
			return Lease{}, token, stun.CodeInsufficientPorts
		}
		delete(l.reservations, w.token)
		return r.lease, token, 0
	}
	n := 1
	if w.ports.reserve {
		n = 2
	}
	if l.limits.Allocations > 0 && l.total+n > l.limits.Allocations || w.ports.reserve && l.held.len() >= maxReservations {
		return Lease{}, token, stun.CodeInsufficientPorts
	}
	// One client keeps one relayed address while it can (paired pooling, RFC 4787 REQ-2): peers and services that
	// compare addresses see one host.
	start := int(l.hash(w.client) % uint64(len(l.relays)))
	for i := range l.relays {
		at := (start + i) % len(l.relays)
		if l.relays[at].Local.Is6() != w.ipv6 {
			continue
		}
		t := &l.ports[at]
		l.refill(t)
		off, ok := t.pick(l.rng, w.ports)
		if !ok {
			continue
		}
		t.remove(off)
		l.total += n
		if w.ports.reserve {
			t.remove(off + 1)
			binary.BigEndian.PutUint64(token[:], l.rng.Uint64())
			l.reservations[token] = reservation{Lease{at, t.first + off + 1}, now.Add(reservationHold)}
			l.held.push(token)
		}
		return Lease{at, t.first + off}, token, 0
	}
	return Lease{}, token, stun.CodeInsufficientPorts
}

// pick finds a free port, even and with a free successor if asked to.
func (t *portTable) pick(rng *rand.Rand, p ports) (off uint16, ok bool) {
	if len(t.free) == 0 {
		return 0, false
	}
	if !p.even {
		return t.free[rng.IntN(len(t.free))], true
	}
	n := len(t.pos)
	for i, start := 0, rng.IntN(n); i < n; i++ {
		off := (start + i) % n
		if (int(t.first)+off)&1 == 0 && t.isFree(off) && (!p.reserve || t.isFree(off+1)) {
			return uint16(off), true
		}
	}
	return 0, false
}

// refill takes the oldest ports out of quarantine while less than a quarter of the table is free.
func (l *Ledger) refill(t *portTable) {
	for len(t.free) < len(t.pos)/4 && t.quarantine.len() > 0 {
		l.wake(t)
		l.reused++
	}
}

// wake ends the quarantine of the port that has rested longest.
func (l *Ledger) wake(t *portTable) {
	r := t.quarantine.pop()
	t.add(r.port - t.first)
	l.credit(r.client)
}

func (l *Ledger) expire(now time.Time) {
	for i := range l.ports {
		t := &l.ports[i]
		for t.quarantine.len() > 0 && !now.Before(t.quarantine.front().until) {
			l.wake(t)
		}
	}
	for l.held.len() > 0 {
		token := l.held.front()
		r, ok := l.reservations[token]
		if ok && now.Before(r.until) {
			break
		}
		l.held.pop()
		l.drop(token)
	}
}

// drop frees a reserved port, unless it was redeemed.
func (l *Ledger) drop(token [8]byte) {
	if r, ok := l.reservations[token]; ok {
		delete(l.reservations, token)
		t := &l.ports[r.lease.Relay]
		t.add(r.lease.Port - t.first)
		l.total--
	}
}

// cancel takes a reservation back whose allocation came to nothing.
func (l *Ledger) cancel(token [8]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drop(token)
}

// admits reports whether the client may have another allocation.
func (l *Ledger) admits(now time.Time, client netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire(now)
	return l.allowed(client)
}

func clientPrefix(a netip.Addr) netip.Prefix {
	bits := clientPrefixIPv4
	if !a.Is4() {
		bits = clientPrefixIPv6
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.PrefixFrom(a, a.BitLen())
	}
	return p
}

func (l *Ledger) allowed(client netip.Addr) bool {
	return (l.limits.PerClient <= 0 || l.clients[client] < l.limits.PerClient) &&
		(l.limits.PerClientPrefix <= 0 || l.prefixes[clientPrefix(client)] < l.limits.PerClientPrefix)
}

func (l *Ledger) credit(client netip.Addr) {
	if !client.IsValid() {
		return
	}
	if l.clients[client]--; l.clients[client] <= 0 {
		delete(l.clients, client)
	}
	p := clientPrefix(client)
	if l.prefixes[p]--; l.prefixes[p] <= 0 {
		delete(l.prefixes, p)
	}
}

// confirm counts an allocation against its client. It reports false when the client has all it may have.
func (l *Ledger) confirm(now time.Time, client netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire(now)
	if !l.allowed(client) {
		return false
	}
	l.clients[client]++
	l.prefixes[clientPrefix(client)]++
	return true
}

// own records who has the port, for hairpin deliveries.
func (l *Ledger) own(lease Lease, shard int, allocation uint32) {
	t := &l.ports[lease.Relay]
	t.owners[lease.Port-t.first].Store(uint64(shard)<<32 | uint64(allocation) + 1)
}

// owner finds who has a relayed address, given in its public form.
func (l *Ledger) owner(a netip.AddrPort) (shard int, allocation uint32, ok bool) {
	for i := range l.relays {
		if l.relays[i].Public != a.Addr() {
			continue
		}
		t := &l.ports[i]
		off := int(a.Port()) - int(t.first)
		if off < 0 || off >= len(t.owners) {
			return 0, 0, false
		}
		v := t.owners[off].Load()
		return int(v >> 32), uint32(v) - 1, v != 0
	}
	return 0, 0, false
}

// release takes a port back. The port of a confirmed allocation rests, so that what its peers still send does not
// reach somebody else (§5), and counts against its client until then.
//
// Deviation: §5 lets every port rest. One that was never confirmed has sent nothing to a peer, and if it rested, spoofed
// requests could drain the range.
func (l *Ledger) release(now time.Time, lease Lease, client netip.Addr, confirmed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := &l.ports[lease.Relay]
	t.owners[lease.Port-t.first].Store(0)
	l.total--
	if confirmed {
		t.quarantine.push(resting{lease.Port, now.Add(portQuarantine), client})
		return
	}
	t.add(lease.Port - t.first)
}

// foreign rests a port that another program has.
func (l *Ledger) foreign(now time.Time, lease Lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	l.ports[lease.Relay].quarantine.push(resting{port: lease.Port, until: now.Add(portQuarantine)})
}

// unansweredAllowed counts a packet to a peer that has not answered this allocation, and reports whether all
// clients together may still send it that.
func (l *Ledger) unansweredAllowed(now time.Time, peer netip.Addr, size int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.limits.UnansweredAllClients
	if n <= 0 {
		return true
	}
	for l.unansweredAt.len() > 0 && !now.Before(l.unanswered[l.unansweredAt.front()].until) {
		delete(l.unanswered, l.unansweredAt.pop())
	}
	b := l.unanswered[peer]
	if b == nil {
		if len(l.unanswered) >= maxUnanswered {
			delete(l.unanswered, l.unansweredAt.pop())
		}
		b = &peerBudget{until: now.Add(unansweredWindow)}
		l.unanswered[peer] = b
		l.unansweredAt.push(peer)
	}
	if l.limits.UnansweredPackets > 0 && b.packets >= n*l.limits.UnansweredPackets ||
		l.limits.UnansweredBytes > 0 && b.bytes+size > n*l.limits.UnansweredBytes {
		return false
	}
	b.packets++
	b.bytes += size
	return true
}

// answered clears the shared budget of a peer that has answered somebody.
func (l *Ledger) answered(peer netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b := l.unanswered[peer]; b != nil {
		b.packets, b.bytes = 0, 0
	}
}

// silentPeers is how many peers that do not answer a client address may begin to send to within silentWindow. Zero: no limit.
func (l *Limits) silentPeers() int {
	if l.PerClient <= 0 || l.UnansweredPackets <= 0 && l.UnansweredBytes <= 0 {
		return 0
	}
	return max(l.PerClient, silentPeersAtLeast)
}

// silentPeerAllowed counts a peer that has not answered against the client that begins to send to it, and reports whether the client may.
// An open proxy would otherwise be a fast way to look for hosts: each allocation reaches 128 of them, and a client has many.
func (l *Ledger) silentPeerAllowed(now time.Time, client netip.Addr, limits *Limits) bool {
	n := limits.silentPeers()
	if n == 0 {
		return true
	}
	l.silentMu.Lock()
	defer l.silentMu.Unlock()
	full := &l.silent[l.hash(client)%replyBuckets]
	at := *full
	if at.Before(now) {
		at = now
	}
	if at = at.Add(silentWindow / time.Duration(n)); at.Sub(now) > silentWindow {
		return false
	}
	*full = at
	return true
}

// silentPeerAnswered takes back what silentPeerAllowed has counted, when the peer has answered or nothing was sent.
func (l *Ledger) silentPeerAnswered(client netip.Addr, limits *Limits) {
	n := limits.silentPeers()
	if n == 0 {
		return
	}
	l.silentMu.Lock()
	defer l.silentMu.Unlock()
	full := &l.silent[l.hash(client)%replyBuckets]
	*full = full.Add(-silentWindow / time.Duration(n))
}

// replyAllowed takes size bytes out of the reply budget of the address's prefix.
func (l *Ledger) replyAllowed(now time.Time, client netip.Addr, size, perSecond int) bool {
	if perSecond <= 0 {
		return true
	}
	l.replyMu.Lock()
	defer l.replyMu.Unlock()
	b := &l.replies[l.hash(clientPrefix(client).Addr())%replyBuckets]
	if since := now.Sub(b.at); b.at.IsZero() || since >= time.Second {
		b.tokens, b.at = perSecond, now
	} else if add := int(int64(perSecond) * int64(since) / int64(time.Second)); add > 0 {
		b.tokens, b.at = min(perSecond, b.tokens+add), now
	}
	if b.tokens < size {
		return false
	}
	b.tokens -= size
	return true
}

// hash spreads addresses, differently on every server.
func (l *Ledger) hash(a netip.Addr) uint64 {
	b := a.As16()
	return mix(mix(binary.BigEndian.Uint64(b[:])^l.key[0]) ^ binary.BigEndian.Uint64(b[8:]) ^ l.key[1])
}

// mix is the finalizer of SplitMix64, a bijection.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xBF58476D1CE4E5B9
	x = (x ^ x>>27) * 0x94D049BB133111EB
	return x ^ x>>31
}

// fifo is a queue whose memory is bounded by twice its longest length.
type fifo[T any] struct {
	items []T
	head  int
}

func (q *fifo[T]) len() int { return len(q.items) - q.head }
func (q *fifo[T]) front() T { return q.items[q.head] }
func (q *fifo[T]) push(v T) { q.items = append(q.items, v) }
func (q *fifo[T]) pop() (v T) {
	var zero T
	v, q.items[q.head] = q.items[q.head], zero
	if q.head++; q.head*2 >= len(q.items) {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	return v
}
