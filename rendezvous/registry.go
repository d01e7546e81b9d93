package rendezvous

import (
	"encoding/binary"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Registry is what the shards share: which shard has which peer, the keys, the names, the budgets of sources and the rules. Its
// methods may be called by any number of goroutines; a core uses it while it handles a packet, so nothing in it waits.
type Registry struct {
	Keys  *Keyring
	Names *Names

	epoch   time.Time
	rules   atomic.Pointer[Rules]
	peers   [registryStripes]peerStripe
	clients [registryStripes]clientStripe
	intros  *sources // introductions that sources ask for
	opens   *sources // sessions that sources open
	http    *sources // requests to the directory

	private, public atomic.Int64 // clients now, by the kind of address that they are seen at
	mixedAt         atomic.Int64 // when the warning is due again
}

// registryStripes divide the tables so that shards rarely wait for each other; a power of two.
const registryStripes = 64

// place is where a peer's session is.
type place struct {
	shard uint16
	token uint32 // the session ID, which tells a session from the next one of the same peer
}

type peerStripe struct {
	sync.Mutex
	at map[PeerID]place
}

type clientStripe struct {
	sync.Mutex
	sessions map[netip.Addr]int32
}

// Rules are what may change while the service runs. They must not be changed after they were given away.
type Rules struct {
	Limits
	// Keepalive is how long a client may be silent before it is pinged; the client is told to ping as often. At least 5 s.
	Keepalive time.Duration
	// PeerKeepalive is what clients are told to use among themselves; zero means 10 s.
	PeerKeepalive time.Duration
	// Relays are the addresses of this process's own TURN relay, local and public: a client that comes by the local one is known
	// to others by the public one.
	Relays []AddressPair
	// Check describes the addresses of the connectivity check.
	rates rates
}

// AddressPair is an address of this host as its own system knows it and as others do. They are equal without a NAT in front.
type AddressPair struct{ Public, Local netip.Addr }

// NewRegistry makes a registry. epoch is the zero of its clock: cores must get no earlier times.
func NewRegistry(epoch time.Time, random io.Reader, rules Rules) (*Registry, error) {
	r := &Registry{Keys: new(Keyring), Names: newNames(), epoch: epoch}
	for _, s := range []**sources{&r.intros, &r.opens, &r.http} {
		var err error
		if *s, err = newSources(random); err != nil {
			return nil, err
		}
	}
	for i := range r.peers {
		r.peers[i].at = map[PeerID]place{}
		r.clients[i].sessions = map[netip.Addr]int32{}
	}
	r.mixedAt.Store(-1 << 62)
	r.SetRules(rules)
	return r, nil
}

// SetRules puts other rules in force, for all shards at once. Keepalives of sessions that are open stay as they are.
func (r *Registry) SetRules(rules Rules) {
	if rules.Sessions <= 0 {
		rules.Sessions = DefaultLimits().Sessions
	}
	rules.Keepalive = max(rules.Keepalive, maxKeepaliveMin)
	if rules.PeerKeepalive == 0 {
		rules.PeerKeepalive = 10 * time.Second
	}
	rules.PeerKeepalive = max(rules.PeerKeepalive, maxKeepaliveMin)
	rules.rates = rules.Limits.rates()
	r.rules.Store(&rules)
}

// Rules returns the rules in force, to be read only.
func (r *Registry) Rules() *Rules { return r.rules.Load() }

func (r *Registry) since(now time.Time) int64 { return int64(now.Sub(r.epoch)) }

// AllowDirectory takes one request to the directory from the budget of its source.
func (r *Registry) AllowDirectory(now time.Time, source netip.Addr) bool {
	return r.http.of(source).take(r.since(now), 1, r.Rules().rates.directory)
}

func (r *Registry) peer(id PeerID) *peerStripe {
	return &r.peers[binary.BigEndian.Uint32(id[:])%registryStripes]
}

// find says where a peer is.
func (r *Registry) find(id PeerID) (place, bool) {
	s := r.peer(id)
	s.Lock()
	defer s.Unlock()
	p, ok := s.at[id]
	return p, ok
}

// Shard says which shard has the session of a peer.
func (r *Registry) Shard(id PeerID) (int, bool) {
	p, ok := r.find(id)
	return int(p.shard), ok
}

// claim registers a peer at a place. If another place has it, that one is returned and stays.
func (r *Registry) claim(id PeerID, at place) (holder place, ok bool) {
	s := r.peer(id)
	s.Lock()
	defer s.Unlock()
	if holder, taken := s.at[id]; taken && holder != at {
		return holder, false
	}
	s.at[id] = at
	return at, true
}

// vacate forgets a peer, if it is still at this place.
func (r *Registry) vacate(id PeerID, at place) bool {
	s := r.peer(id)
	s.Lock()
	defer s.Unlock()
	if s.at[id] != at {
		return false
	}
	delete(s.at, id)
	return true
}

// Peers reports how many peers can be introduced.
func (r *Registry) Peers() (n int) {
	for i := range r.peers {
		s := &r.peers[i]
		s.Lock()
		n += len(s.at)
		s.Unlock()
	}
	return n
}

func (r *Registry) client(a netip.Addr) *clientStripe {
	ip := a.As16()
	return &r.clients[(ip[15]^ip[13]<<3^ip[7]<<5)%registryStripes]
}

// admit counts a session of an address, unless that has as many as it may.
func (r *Registry) admit(a netip.Addr, most int) bool {
	s := r.client(a)
	s.Lock()
	defer s.Unlock()
	if most > 0 && int(s.sessions[a]) >= most {
		return false
	}
	s.sessions[a]++
	return true
}

func (r *Registry) dismiss(a netip.Addr) {
	s := r.client(a)
	s.Lock()
	defer s.Unlock()
	if s.sessions[a]--; s.sessions[a] <= 0 {
		delete(s.sessions, a)
	}
}

// public translates an address that the own relay has sent from to the one that others know.
func (r *Rules) publicForm(a netip.AddrPort) netip.AddrPort {
	for _, p := range r.Relays {
		if a.Addr() == p.Local && p.Public != p.Local {
			return netip.AddrPortFrom(p.Public, a.Port())
		}
	}
	return a
}

// isInside says whether an address means nothing to the internet: outsiders cannot use it.
func isInside(a netip.Addr) bool {
	return a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || sharedSpace.Contains(a)
}

// sharedSpace is what providers use behind their own NAT (RFC 6598).
var sharedSpace = netip.MustParsePrefix("100.64.0.0/10")

// seen counts a client by the kind of its address, and reports whether it is time to say that both kinds are here.
func (r *Registry) seen(now time.Time, a netip.Addr, delta int64) (mixed bool) {
	mine, other := &r.public, &r.private
	if isInside(a) {
		mine, other = other, mine
	}
	mine.Add(delta)
	if delta < 0 || other.Load() == 0 {
		return false
	}
	at, t := r.mixedAt.Load(), r.since(now)
	return t >= at && r.mixedAt.CompareAndSwap(at, t+int64(mixedInterval))
}
