package natlab

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"
)

// § means RFC 4787, whose words this file uses; TCP behaves alike (RFC 5382).

// Mapping says when a NAT reuses an external endpoint (§4.1).
type Mapping uint8

// The mapping behaviours. The zero value means EIM.
const (
	MappingDefault Mapping = iota
	EIM                    // endpoint-independent: one external endpoint for each inside socket
	ADM                    // address-dependent: one for each remote address
	APDM                   // address- and port-dependent: one for each remote endpoint
)

func (m Mapping) String() string { return [...]string{"EIM", "EIM", "ADM", "APDM"}[min(m, APDM)] }

// Filtering says which packets from outside a NAT or firewall admits (§5).
type Filtering uint8

// The filtering behaviours. The zero value means APDF in a NAT and no filter in a firewall.
const (
	FilteringDefault Filtering = iota
	EIF                        // endpoint-independent: everybody, once the inside socket has sent something
	ADF                        // address-dependent: addresses that the inside socket has sent to
	APDF                       // address- and port-dependent: endpoints that the inside socket has sent to
)

func (f Filtering) String() string { return [...]string{"default", "EIF", "ADF", "APDF"}[min(f, APDF)] }

// Pooling says how a NAT with several external addresses uses them (§4.1).
type Pooling uint8

// The pooling behaviours.
const (
	Paired    Pooling = iota // an inside address always gets the same external address
	Arbitrary                // each mapping gets any
)

// Hairpin says what a NAT does with packets from inside to its own external addresses (§6).
type Hairpin uint8

// The hairpinning behaviours.
const (
	HairpinOff      Hairpin = iota // dropped
	HairpinExternal                // turned round; the receiver sees the sender's external endpoint
	HairpinInternal                // turned round; the receiver sees the sender's inside endpoint
)

// Ours to tune; these are the values of the RFCs where they name one.
const (
	defaultUDPTimeout = 2 * time.Minute             // §4.3: not below
	defaultTCPTimeout = 2*time.Hour + 4*time.Minute // RFC 5382 §5: not below
	maxStrays         = 4096                        // remembered by an open-Linux NAT; more are forgotten at once
	prunePeers        = 256                         // contacts of a mapping before the expired ones are looked for
	defaultFirstPort  = uint16(1024)                // the ports of a NAT unless configured
	defaultLastPort   = uint16(65535)               //
	foreverTimeout    = 100 * 365 * 24 * time.Hour  // of a forward without lifetime
)

// NATConfig is the behaviour of a NAT for IPv4. The zero value is the usual home router: EIM/APDF, ports preserved,
// no hairpinning, mappings that live for two minutes after the last packet from inside.
type NATConfig struct {
	Mapping   Mapping
	Filtering Filtering
	Ports     PortConfig
	Pooling   Pooling
	Hairpin   Hairpin

	// Quota is the number of mappings that one inside address may have; zero means no limit. Packets that would need
	// more are dropped.
	Quota int

	// Timeout is how long a UDP mapping, and the admission of a peer, outlives the packet that last refreshed it; zero
	// means two minutes. At the end of it the mapping is gone.
	Timeout time.Duration
	// StreamTimeout replaces Timeout once a peer has answered; zero means no difference (Linux has 30 s and 120 s).
	StreamTimeout time.Duration
	// TCPTimeout is the same for TCP; zero means 2 h 4 min.
	TCPTimeout time.Duration
	// InboundRefresh says that admitted packets from outside refresh too (§4.3).
	InboundRefresh bool

	// ALG rewrites addresses in payloads: bytes that are the endpoint (port, then address, as in STUN) or the address
	// of the socket are translated like the header, in both directions.
	ALG bool
	// ReplySame makes the answers to an admitted packet leave from the mapping that it came by, whatever Mapping says.
	ReplySame bool
	// OpenLinux is how Linux masquerades if stray packets from outside are not dropped: such a packet is taken for one
	// to the box itself and makes a conntrack entry, and the next packet from inside to its sender collides with that
	// entry and gets another port. It lives for Timeout.
	OpenLinux bool
	// DropFragments drops fragments in both directions.
	DropFragments bool
}

// NAT decides how packets are translated. It performs no I/O, reads no clock and has no goroutine; it is not safe for
// concurrent use. Box puts one into a network.
type NAT struct {
	cfg  NATConfig
	pool []netip.Addr
	rand *rand.Rand

	byKey  map[mapKey]*mapping
	byExt  map[extKey][]*mapping // several only with PortConfig.Overload
	count  map[netip.Addr]int    // mappings of an inside address
	paired map[netip.Addr]int    // inside address to index of pool
	ports  portAllocator
	strays map[strayKey]time.Time // when they are forgotten
	check  time.Time              // no mapping expires before
}

// mapKey is what a mapping is reused for; parts of remote are zero as Mapping says.
type mapKey struct {
	proto  Proto
	inside netip.AddrPort
	remote netip.AddrPort
}

type extKey struct {
	proto Proto
	ext   netip.AddrPort
}

type strayKey struct {
	extKey
	remote netip.AddrPort
}

type mapping struct {
	keys    []mapKey // the first is its own, others come from ReplySame
	ext     extKey
	inside  netip.AddrPort
	expires time.Time
	used    uint64 // for Overload: the latest wins
	forward bool   // a static forward: admits everybody, lives as long as it was asked for
	answer  bool   // a peer has answered
	peers   contacts
}

// NewNAT returns a NAT with these external IPv4 addresses. It panics if the configuration makes no sense.
func NewNAT(cfg NATConfig, pool []netip.Addr, rnd *rand.Rand) *NAT {
	if cfg.Mapping == MappingDefault {
		cfg.Mapping = EIM
	}
	if cfg.Filtering == FilteringDefault {
		cfg.Filtering = APDF
	}
	setDefault(&cfg.Timeout, defaultUDPTimeout)
	setDefault(&cfg.StreamTimeout, cfg.Timeout)
	setDefault(&cfg.TCPTimeout, defaultTCPTimeout)
	cfg.Ports.normalize()
	if len(pool) == 0 || slices.ContainsFunc(pool, func(a netip.Addr) bool { return !a.Is4() }) {
		panic(fmt.Sprintf("natlab: a NAT needs IPv4 addresses outside, not %v", pool))
	}
	return &NAT{cfg: cfg, pool: pool, rand: rnd,
		byKey: make(map[mapKey]*mapping), byExt: make(map[extKey][]*mapping), count: make(map[netip.Addr]int),
		paired: make(map[netip.Addr]int), strays: make(map[strayKey]time.Time),
		ports: portAllocator{cfg: cfg.Ports, next: make(map[counterKey]uint16), blocks: make(map[netip.Addr][]block)}}
}

func setDefault(d *time.Duration, v time.Duration) {
	if *d == 0 {
		*d = v
	}
}

// Mappings returns the number of mappings that are alive.
func (n *NAT) Mappings(now time.Time) int {
	n.expire(now)
	total := 0
	for _, list := range n.byExt {
		total += len(list)
	}
	return total
}

// Owns reports whether addr is one of the external addresses.
func (n *NAT) Owns(addr netip.Addr) bool { return slices.Contains(n.pool, addr) }

// FromInside judges a packet from inside. If drop is InFlight, q leaves to the outside, or back to the inside if
// hairpin is set.
func (n *NAT) FromInside(now time.Time, p Packet) (q Packet, hairpin bool, drop Disposition) {
	n.expire(now)
	if p.Fragment != nil && n.cfg.DropFragments {
		return p, false, FragmentDropped
	}
	hairpin = n.Owns(p.Dst.Addr())
	if p.Proto == ICMP {
		if hairpin {
			return p, false, NoHairpin
		}
		q, drop = n.errorFromInside(p)
		return q, false, drop
	}
	if hairpin && n.cfg.Hairpin == HairpinOff {
		return p, false, NoHairpin
	}
	m, drop := n.outbound(now, p.Proto, p.Src, p.Dst)
	if drop != InFlight {
		return p, false, drop
	}
	q = p
	q.Src = m.ext.ext
	if n.cfg.ALG {
		q.Payload = rewrite(p.Payload, m.inside, m.ext.ext)
	}
	if !hairpin {
		return q, false, InFlight
	}
	q, drop = n.inbound(now, q, true)
	if n.cfg.Hairpin == HairpinInternal {
		q.Src = p.Src
	}
	return q, true, drop
}

// FromOutside judges a packet from outside whose destination is one of the external addresses. If drop is InFlight, q
// goes to the inside.
func (n *NAT) FromOutside(now time.Time, p Packet) (q Packet, drop Disposition) {
	n.expire(now)
	if p.Fragment != nil && n.cfg.DropFragments {
		return p, FragmentDropped
	}
	if p.Proto == ICMP {
		return n.errorFromOutside(now, p)
	}
	return n.inbound(now, p, false)
}

// outbound finds or makes the mapping for a packet from inside.
func (n *NAT) outbound(now time.Time, proto Proto, inside, remote netip.AddrPort) (*mapping, Disposition) {
	exact := mapKey{proto, inside, remote}
	if m := n.byKey[exact]; m != nil { // APDM, an answer with ReplySame, or what OpenLinux moved
		n.refresh(now, m, remote)
		return m, InFlight
	}
	key := mapKey{proto, inside, n.scope(remote)}
	m := n.byKey[key]
	if m == nil {
		var drop Disposition
		if m, drop = n.create(now, key, remote, false); drop != InFlight {
			return nil, drop
		}
	}
	if n.cfg.OpenLinux && !m.forward {
		if at, ok := n.strays[strayKey{m.ext, remote}]; ok && now.Before(at) {
			var drop Disposition
			if m, drop = n.create(now, exact, remote, true); drop != InFlight {
				return nil, drop
			}
		}
	}
	n.refresh(now, m, remote)
	return m, InFlight
}

// scope reduces a remote endpoint to what Mapping depends on.
func (n *NAT) scope(remote netip.AddrPort) netip.AddrPort {
	switch n.cfg.Mapping {
	case EIM:
		return netip.AddrPort{}
	case ADM:
		return netip.AddrPortFrom(remote.Addr(), 0)
	default:
		return remote
	}
}

// create makes a mapping; moved says that it must not preserve the port.
func (n *NAT) create(now time.Time, key mapKey, remote netip.AddrPort, moved bool) (*mapping, Disposition) {
	subscriber := key.inside.Addr()
	if n.cfg.Quota > 0 && n.count[subscriber] >= n.cfg.Quota {
		return nil, OverQuota
	}
	m := &mapping{keys: []mapKey{key}, inside: key.inside, peers: make(contacts)}
	for _, addr := range n.addresses(subscriber) {
		port, ok := n.ports.allocate(portRequest{proto: key.proto, addr: addr, inside: key.inside, moved: moved, rand: n.rand,
			free: func(port uint16) bool {
				return n.free(now, extKey{key.proto, netip.AddrPortFrom(addr, port)}, key, remote)
			}})
		if ok {
			m.ext = extKey{key.proto, netip.AddrPortFrom(addr, port)}
			n.add(now, m)
			return m, InFlight
		}
	}
	return nil, NoPort
}

func (n *NAT) add(now time.Time, m *mapping) {
	for _, k := range m.keys {
		n.byKey[k] = m
	}
	n.byExt[m.ext] = append(n.byExt[m.ext], m)
	n.count[m.inside.Addr()]++
	m.expires = now.Add(n.timeout(m))
	n.expiresBy(m.expires)
}

// free reports whether a mapping may use an external endpoint.
func (n *NAT) free(now time.Time, ext extKey, key mapKey, remote netip.AddrPort) bool {
	if at, ok := n.strays[strayKey{ext, remote}]; ok && now.Before(at) && key.remote == remote {
		return false
	}
	others := n.byExt[ext]
	if len(others) == 0 {
		return true
	}
	if !n.cfg.Ports.Overload {
		return false
	}
	return !slices.ContainsFunc(others, func(m *mapping) bool { return m.forward || m.inside == key.inside || m.peers.live(now, remote) })
}

// addresses lists the external addresses that a subscriber may use, in the order of trying.
func (n *NAT) addresses(subscriber netip.Addr) []netip.Addr {
	if n.cfg.Pooling == Paired {
		i, ok := n.paired[subscriber]
		if !ok {
			i = len(n.paired) % len(n.pool)
			n.paired[subscriber] = i
		}
		return n.pool[i : i+1]
	}
	first := n.rand.IntN(len(n.pool))
	return append(slices.Clone(n.pool[first:]), n.pool[:first]...)
}

// inbound translates a packet to an external address, if it is admitted.
func (n *NAT) inbound(now time.Time, p Packet, hairpin bool) (Packet, Disposition) {
	ext := extKey{p.Proto, p.Dst}
	m, drop := n.admit(now, ext, p.Src)
	if drop != InFlight {
		if n.cfg.OpenLinux && !hairpin {
			n.stray(now, strayKey{ext, p.Src})
		}
		return p, drop
	}
	if m.peers.live(now, p.Src) {
		m.answer = true
	}
	if n.cfg.InboundRefresh {
		n.refresh(now, m, p.Src)
	}
	if n.cfg.ReplySame {
		n.alias(m, mapKey{p.Proto, m.inside, p.Src})
	}
	q := p
	q.Dst = m.inside
	if n.cfg.ALG {
		q.Payload = rewrite(p.Payload, m.ext.ext, m.inside)
	}
	return q, InFlight
}

// admit finds the mapping that admits a packet from remote: with overloaded ports the one that knows remote best, and
// of these the one used last.
func (n *NAT) admit(now time.Time, ext extKey, remote netip.AddrPort) (*mapping, Disposition) {
	list := n.byExt[ext]
	if len(list) == 0 {
		return nil, NoMapping
	}
	var best *mapping
	fit := 0
	for _, m := range list {
		f := 1
		switch {
		case m.peers.live(now, remote):
			f = 3
		case m.peers.liveAddr(now, remote.Addr()):
			f = 2
		}
		if best == nil || f > fit || (f == fit && m.used > best.used) {
			best, fit = m, f
		}
	}
	need := map[Filtering]int{EIF: 1, ADF: 2, APDF: 3}[n.cfg.Filtering]
	if !best.forward && fit < need {
		return nil, Filtered
	}
	return best, InFlight
}

// alias makes packets from inside to a remote endpoint use a mapping.
func (n *NAT) alias(m *mapping, key mapKey) {
	if n.cfg.Mapping == EIM || n.byKey[key] == m {
		return
	}
	if old := n.byKey[key]; old != nil {
		old.keys = slices.DeleteFunc(old.keys, func(k mapKey) bool { return k == key })
	}
	n.byKey[key] = m
	m.keys = append(m.keys, key)
}

func (n *NAT) stray(now time.Time, key strayKey) {
	if len(n.strays) >= maxStrays {
		for k, at := range n.strays {
			if !now.Before(at) {
				delete(n.strays, k)
			}
		}
		if len(n.strays) >= maxStrays {
			return
		}
	}
	n.strays[key] = now.Add(n.cfg.Timeout)
}

func (n *NAT) timeout(m *mapping) time.Duration {
	switch {
	case m.ext.proto == TCP:
		return n.cfg.TCPTimeout
	case m.answer:
		return n.cfg.StreamTimeout
	}
	return n.cfg.Timeout
}

// refresh prolongs a mapping and the admission of remote.
func (n *NAT) refresh(now time.Time, m *mapping, remote netip.AddrPort) {
	until := now.Add(n.timeout(m))
	m.peers.add(now, remote, until)
	if until.After(m.expires) {
		m.expires = until
	}
	n.ports.serial++
	m.used = n.ports.serial
}

// expiresBy notes that something may expire at a time.
func (n *NAT) expiresBy(at time.Time) {
	if n.check.IsZero() || at.Before(n.check) {
		n.check = at
	}
}

// expire removes the mappings whose time is over.
func (n *NAT) expire(now time.Time) {
	if n.check.IsZero() || now.Before(n.check) {
		return
	}
	n.check = time.Time{}
	for _, list := range n.byExt {
		for _, m := range slices.Clone(list) {
			if now.Before(m.expires) {
				n.expiresBy(m.expires)
			} else {
				n.remove(m)
			}
		}
	}
}

func (n *NAT) remove(m *mapping) {
	for _, k := range m.keys {
		delete(n.byKey, k)
	}
	rest := slices.DeleteFunc(n.byExt[m.ext], func(o *mapping) bool { return o == m })
	if len(rest) == 0 {
		delete(n.byExt, m.ext)
	} else {
		n.byExt[m.ext] = rest
	}
	subscriber := m.inside.Addr()
	if n.count[subscriber]--; n.count[subscriber] == 0 {
		delete(n.count, subscriber)
		delete(n.ports.blocks, subscriber)
	}
}

// Forget removes all mappings, as a reboot does; forwards too.
func (n *NAT) Forget() {
	clear(n.byKey)
	clear(n.byExt)
	clear(n.count)
	clear(n.strays)
	clear(n.ports.blocks)
	n.check = time.Time{}
}

// Forward makes a static mapping, as UPnP IGD, NAT-PMP and PCP do: everybody is admitted, and the inside socket's own
// packets leave from it. A zero lifetime means that it stays. It reports whether the external endpoint was free (or
// was the same forward, whose lifetime is then new).
func (n *NAT) Forward(now time.Time, proto Proto, external, inside netip.AddrPort, lifetime time.Duration) bool {
	n.expire(now)
	if !n.Owns(external.Addr()) || external.Port() == 0 {
		return false
	}
	if lifetime == 0 {
		lifetime = foreverTimeout
	}
	ext := extKey{proto, external}
	if taken := n.byExt[ext]; len(taken) > 0 {
		m := taken[0]
		if !m.forward || m.inside != inside {
			return false
		}
		m.expires = now.Add(lifetime)
		n.check = now
		return true
	}
	key := mapKey{proto: proto, inside: inside}
	if old := n.byKey[key]; old != nil {
		n.remove(old)
	}
	m := &mapping{keys: []mapKey{key}, ext: ext, inside: inside, forward: true, peers: make(contacts)}
	n.add(now, m)
	m.expires = now.Add(lifetime)
	n.expiresBy(m.expires)
	return true
}

// Unforward removes a static mapping. It reports whether there was one.
func (n *NAT) Unforward(proto Proto, external netip.AddrPort) bool {
	for _, m := range n.byExt[extKey{proto, external}] {
		if m.forward {
			n.remove(m)
			return true
		}
	}
	return false
}

// errorFromOutside translates an ICMP error about a packet that went out.
func (n *NAT) errorFromOutside(now time.Time, p Packet) (Packet, Disposition) {
	for _, m := range n.byExt[extKey{p.Err.Proto, p.Err.Src}] {
		if m.peers.live(now, p.Err.Dst) {
			e := *p.Err
			e.Src = m.inside
			q := p
			q.Err, q.Dst = &e, netip.AddrPortFrom(m.inside.Addr(), 0)
			return q, InFlight
		}
	}
	return p, NoMapping
}

// errorFromInside translates an ICMP error about a packet that was admitted.
func (n *NAT) errorFromInside(p Packet) (Packet, Disposition) {
	inside, remote := p.Err.Dst, p.Err.Src
	m := n.byKey[mapKey{p.Err.Proto, inside, remote}]
	if m == nil {
		m = n.byKey[mapKey{p.Err.Proto, inside, n.scope(remote)}]
	}
	if m == nil {
		return p, NoMapping
	}
	e := *p.Err
	e.Dst, e.From = m.ext.ext, m.ext.ext.Addr()
	q := p
	q.Err, q.Src = &e, netip.AddrPortFrom(m.ext.ext.Addr(), 0)
	return q, InFlight
}

// contacts are the peers of a socket and until when they are admitted.
type contacts map[netip.AddrPort]time.Time

func (c contacts) live(now time.Time, peer netip.AddrPort) bool {
	until, ok := c[peer]
	return ok && now.Before(until)
}

func (c contacts) liveAddr(now time.Time, addr netip.Addr) bool {
	for peer, until := range c {
		if peer.Addr() == addr && now.Before(until) {
			return true
		}
	}
	return false
}

func (c contacts) add(now time.Time, peer netip.AddrPort, until time.Time) {
	if len(c) >= prunePeers && len(c)%prunePeers == 0 {
		for p, at := range c {
			if !now.Before(at) {
				delete(c, p)
			}
		}
	}
	if until.After(c[peer]) {
		c[peer] = until
	}
}
