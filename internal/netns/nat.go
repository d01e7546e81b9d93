package netns

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"
)

// Limits of the userspace NAT. Ours to tune.
const (
	maxContacts      = 8192             // remote addresses that a mapping remembers: four birthday attempts
	maxFragmented    = 1024             // datagrams whose later fragments are awaited
	fragmentTimeout  = 30 * time.Second // the kernel's time for reassembly
	natTCPTimeout    = 2 * time.Hour    // RFC 5382 REQ-5: not less than 2 h 4 min for established flows; a test is shorter
	natICMPTimeout   = 60 * time.Second // RFC 5508 REQ-2
	natSweepInterval = time.Second
)

// PortAllocation is how the userspace NAT chooses public ports. A port belongs to one mapping at a time.
type PortAllocation int

const (
	PreservePorts   PortAllocation = iota // the inside port if it is free, else the next free one
	RandomPorts                           // any free port
	SequentialPorts                       // NATConfig.Step after the last one
)

// Hairpin is what the userspace NAT does with packets from inside to its public address.
type Hairpin int

const (
	HairpinOff      Hairpin = iota // dropped
	HairpinExternal                // delivered with the sender's public address (RFC 4787 REQ-9)
	HairpinInternal                // delivered with the sender's inside address
)

// NATConfig is the behaviour of a userspace NAT. It concerns UDP: TCP and ICMP echo always get EIM, APDF and port preservation,
// and no hairpin.
type NATConfig struct {
	Mapping   Mapping   // EIM, ADM or APDM
	Filtering Filtering // EIF, ADF or APDF; a mapping's filter opens for what was sent through that mapping

	Ports       PortAllocation
	First, Last uint16 // public ports; 0 and 0 are 1024 to 65535
	Step        int    // of SequentialPorts, may be negative; 0 is 1

	UDPTimeout     time.Duration // of mappings and filters without traffic; 0 is 120 s
	InboundRefresh bool          // packets from outside keep a mapping as well

	Hairpin       Hairpin
	ReplySame     bool   // answers to a packet from outside use the mapping that it came by, whatever Mapping says
	Quota         int    // UDP mappings for each inside address; 0 is no quota
	DropFragments bool   // every fragment, the first as well
	Seed          uint64 // of random ports
}

func (c NATConfig) check() error {
	switch {
	case c.Mapping < EIM || c.Mapping > APDM:
		return fmt.Errorf("netns: NATConfig.Mapping is %v: choose EIM, ADM or APDM", c.Mapping)
	case c.Filtering < EIF || c.Filtering > APDF:
		return fmt.Errorf("netns: NATConfig.Filtering is %v: choose EIF, ADF or APDF", c.Filtering)
	case c.First > c.Last:
		return fmt.Errorf("netns: NATConfig ports %d to %d are empty: the first must not be above the last", c.First, c.Last)
	}
	return nil
}

// NATFate is what became of a packet in a userspace NAT.
type NATFate int

const (
	NATUnknown    NATFate = iota
	NATOut                // translated, to the outside
	NATIn                 // translated, to the inside
	NATHairpinned         // translated, back to the inside
	NATMalformed          // dropped: not an IPv4 packet, or cut short
	NATProtocol           // dropped: neither UDP nor TCP nor an ICMP echo or error
	NATStray              // dropped: from outside and for no mapping
	NATFiltered           // dropped: the filter of its mapping is closed for the sender
	NATFull               // dropped: no port, or no room for another contact
	NATQuota              // dropped: the inside host has all mappings it may have
	NATNoHairpin          // dropped: for the public address, from inside
	NATFragment           // dropped: a fragment that the configuration refuses or whose first part was not seen
	natFates
)

func (f NATFate) String() string {
	return name(int(f), "unknown", "out", "in", "hairpinned", "malformed", "protocol", "stray", "filtered", "full", "quota", "no-hairpin", "fragment")
}

// nat is the translation. It performs no I/O and reads no clock, and is not safe for concurrent use.
type nat struct {
	cfg    NATConfig
	public netip.Addr
	random *rand.Rand

	flows   map[flow]*mapping
	ports   map[publicPort]*mapping
	replies map[flow]*mapping // of ReplySame: the whole flow, both endpoints
	held    map[netip.Addr]int
	partial map[fragment]partial
	next    int // the next port of SequentialPorts
	swept   time.Time
}

// flow is an inside endpoint and as much of the remote one as the mapping depends on.
type flow struct {
	proto  byte
	inside netip.AddrPort
	remote netip.AddrPort
}

type publicPort struct {
	proto byte
	port  uint16
}

type mapping struct {
	flow     flow
	port     uint16
	expires  time.Time
	contacts map[netip.AddrPort]time.Time // whom the filter lets in, until when; what filtering ignores is zero
}

type fragment struct {
	src, dst netip.Addr
	id       uint16
	proto    byte
}

type partial struct {
	src, dst netip.Addr // after translation
	fate     NATFate
	expires  time.Time
}

func newNAT(public netip.Addr, cfg NATConfig) *nat {
	if cfg.First == 0 && cfg.Last == 0 {
		cfg.First, cfg.Last = 1024, 65535
	}
	if cfg.Step == 0 {
		cfg.Step = 1
	}
	if cfg.UDPTimeout == 0 {
		cfg.UDPTimeout = 120 * time.Second
	}
	return &nat{
		cfg: cfg, public: public, random: rand.New(rand.NewPCG(cfg.Seed, 1)), next: int(cfg.First),
		flows: make(map[flow]*mapping), ports: make(map[publicPort]*mapping), replies: make(map[flow]*mapping),
		held: make(map[netip.Addr]int), partial: make(map[fragment]partial),
	}
}

// fromInside translates a packet in place and says where it goes: NATOut, NATHairpinned, or why it is dropped.
func (n *nat) fromInside(now time.Time, b []byte) NATFate {
	n.sweep(now)
	p, ok := parsePacket(b, false)
	if !ok {
		return NATMalformed
	}
	return n.fragments(now, p, func() NATFate {
		if p.isICMPError() {
			return n.errorFromInside(now, p)
		}
		if !translatable(p) || p.proto == protoICMP && p.payload[0] != icmpEcho {
			return NATProtocol
		}
		inside, remote := p.source(), p.destination()
		if remote.Addr() == n.public && (n.cfg.Hairpin == HairpinOff || p.proto != protoUDP) {
			return NATNoHairpin
		}
		m, fate := n.outbound(now, flow{p.proto, inside, remote})
		if m == nil {
			return fate
		}
		external := netip.AddrPortFrom(n.public, m.port)
		if remote.Addr() != n.public {
			p.setSource(external)
			return NATOut
		}
		target, fate := n.inbound(now, p.proto, remote.Port(), external)
		if target == nil {
			return fate
		}
		if n.cfg.Hairpin == HairpinExternal {
			p.setSource(external)
		}
		p.setDestination(target.flow.inside)
		return NATHairpinned
	})
}

// fromOutside translates a packet in place and says where it goes: NATIn, or why it is dropped.
func (n *nat) fromOutside(now time.Time, b []byte) NATFate {
	n.sweep(now)
	p, ok := parsePacket(b, false)
	if !ok {
		return NATMalformed
	}
	return n.fragments(now, p, func() NATFate {
		if p.dst() != n.public {
			return NATStray
		}
		if p.isICMPError() {
			return n.errorFromOutside(now, p)
		}
		if !translatable(p) || p.proto == protoICMP && p.payload[0] != icmpEchoReply {
			return NATProtocol
		}
		m, fate := n.inbound(now, p.proto, p.destination().Port(), p.source())
		if m == nil {
			return fate
		}
		p.setDestination(m.flow.inside)
		return NATIn
	})
}

func translatable(p packet) bool {
	return p.proto == protoUDP || p.proto == protoTCP || p.proto == protoICMP
}

// outbound finds or makes the mapping of a flow and opens its filter for the remote endpoint.
func (n *nat) outbound(now time.Time, whole flow) (*mapping, NATFate) {
	m := n.lookup(now, whole)
	if m == nil {
		key := n.key(whole)
		if n.cfg.Quota > 0 && key.proto == protoUDP && n.held[key.inside.Addr()] >= n.cfg.Quota {
			return nil, NATQuota
		}
		port, ok := n.allocate(now, key)
		if !ok {
			return nil, NATFull
		}
		m = &mapping{flow: key, port: port, contacts: make(map[netip.AddrPort]time.Time)}
		n.flows[key], n.ports[publicPort{key.proto, port}] = m, m
		if key.proto == protoUDP {
			n.held[key.inside.Addr()]++
		}
	}
	m.expires = now.Add(n.timeout(whole.proto))
	if contact, filtered := n.contact(whole.proto, whole.remote); filtered {
		if _, known := m.contacts[contact]; !known && len(m.contacts) >= maxContacts {
			return nil, NATFull
		}
		m.contacts[contact] = m.expires
	}
	return m, NATOut
}

// lookup finds the mapping that the flow's packets use, if there is one.
func (n *nat) lookup(now time.Time, whole flow) *mapping {
	for _, m := range []*mapping{n.replies[whole], n.flows[n.key(whole)]} {
		if m != nil && m.expires.After(now) {
			return m
		}
		if m != nil {
			n.remove(m)
		}
	}
	return nil
}

// inbound finds the mapping of a public port if its filter lets the remote endpoint in.
func (n *nat) inbound(now time.Time, proto byte, port uint16, remote netip.AddrPort) (*mapping, NATFate) {
	m := n.ports[publicPort{proto, port}]
	if m == nil {
		return nil, NATStray
	}
	if !m.expires.After(now) {
		n.remove(m)
		return nil, NATStray
	}
	contact, filtered := n.contact(proto, remote)
	if filtered && !m.contacts[contact].After(now) {
		return nil, NATFiltered
	}
	if n.cfg.InboundRefresh || proto != protoUDP {
		m.expires = now.Add(n.timeout(proto))
		if filtered {
			m.contacts[contact] = m.expires
		}
	}
	if n.cfg.ReplySame && proto == protoUDP && len(n.replies) < maxContacts {
		n.replies[flow{proto, m.flow.inside, remote}] = m
	}
	return m, NATIn
}

// key cuts a flow down to what its mapping depends on (RFC 4787 §4.1).
func (n *nat) key(whole flow) flow {
	mapping := n.cfg.Mapping
	if whole.proto != protoUDP {
		mapping = EIM
	}
	switch mapping {
	case EIM:
		whole.remote = netip.AddrPort{}
	case ADM:
		whole.remote = netip.AddrPortFrom(whole.remote.Addr(), 0)
	}
	return whole
}

// contact cuts a remote endpoint down to what filtering depends on (RFC 4787 §5), and reports whether there is filtering at all.
func (n *nat) contact(proto byte, remote netip.AddrPort) (netip.AddrPort, bool) {
	filtering := n.cfg.Filtering
	if proto != protoUDP {
		filtering = APDF
	}
	switch filtering {
	case EIF:
		return netip.AddrPort{}, false
	case ADF:
		return netip.AddrPortFrom(remote.Addr(), 0), true
	}
	return remote, true
}

func (n *nat) timeout(proto byte) time.Duration {
	switch proto {
	case protoTCP:
		return natTCPTimeout
	case protoICMP:
		return natICMPTimeout
	}
	return n.cfg.UDPTimeout
}

// allocate chooses a public port.
func (n *nat) allocate(now time.Time, key flow) (uint16, bool) {
	first, size, step := int(n.cfg.First), int(n.cfg.Last)-int(n.cfg.First)+1, 1
	start := int(key.inside.Port())
	method := n.cfg.Ports
	if key.proto != protoUDP {
		method = PreservePorts
	}
	switch method {
	case RandomPorts:
		start = first + n.random.IntN(size)
		for range 64 { // a range that is nearly full is searched in order
			if n.free(now, key.proto, start) {
				break
			}
			start = first + n.random.IntN(size)
		}
	case SequentialPorts:
		start, step = n.next, n.cfg.Step
	}
	wrap := func(port int) int { return first + ((port-first)%size+size)%size }
	port := wrap(start)
	for i := range 2 * size {
		if n.free(now, key.proto, port) {
			if method == SequentialPorts {
				n.next = wrap(port + step)
			}
			return uint16(port), true
		}
		if i == size {
			step = 1 // a step that divides the size does not reach every port
		}
		port = wrap(port + step)
	}
	return 0, false
}

func (n *nat) free(now time.Time, proto byte, port int) bool {
	m := n.ports[publicPort{proto, uint16(port)}]
	if m != nil && !m.expires.After(now) {
		n.remove(m)
		m = nil
	}
	return m == nil
}

func (n *nat) remove(m *mapping) {
	if n.flows[m.flow] != m {
		return // already removed; the table of replies may still know it
	}
	delete(n.flows, m.flow)
	delete(n.ports, publicPort{m.flow.proto, m.port})
	if m.flow.proto != protoUDP {
		return
	}
	if n.held[m.flow.inside.Addr()]--; n.held[m.flow.inside.Addr()] == 0 {
		delete(n.held, m.flow.inside.Addr())
	}
}

// sweep lets go of what has expired. Lookups check times themselves: this only frees memory.
func (n *nat) sweep(now time.Time) {
	if now.Sub(n.swept) < natSweepInterval {
		return
	}
	n.swept = now
	for _, m := range n.flows {
		if !m.expires.After(now) {
			n.remove(m)
			continue
		}
		for c, until := range m.contacts {
			if !until.After(now) {
				delete(m.contacts, c)
			}
		}
	}
	for f, m := range n.replies {
		if !m.expires.After(now) {
			delete(n.replies, f)
		}
	}
	for f, p := range n.partial {
		if !p.expires.After(now) {
			delete(n.partial, f)
		}
	}
}

// fragments translates a packet with a transport header by translate, and later fragments as the first one was.
func (n *nat) fragments(now time.Time, p packet, translate func() NATFate) NATFate {
	if p.first && !p.more {
		return translate()
	}
	if n.cfg.DropFragments {
		return NATFragment
	}
	key := fragment{p.src(), p.dst(), p.id(), p.proto}
	if !p.first {
		was, ok := n.partial[key]
		if !ok || !was.expires.After(now) {
			return NATFragment
		}
		p.setSource(netip.AddrPortFrom(was.src, 0))
		p.setDestination(netip.AddrPortFrom(was.dst, 0))
		return was.fate
	}
	if len(n.partial) >= maxFragmented {
		return NATFragment
	}
	fate := translate()
	if fate == NATOut || fate == NATIn || fate == NATHairpinned {
		n.partial[key] = partial{src: p.src(), dst: p.dst(), fate: fate, expires: now.Add(fragmentTimeout)}
	}
	return fate
}

// errorFromOutside translates an ICMP error about a packet that left through the NAT (RFC 5508 §4.2).
func (n *nat) errorFromOutside(now time.Time, p packet) NATFate {
	if p.more {
		return NATFragment // its checksum covers what is not here
	}
	quoted, ok := parsePacket(p.payload[8:], true)
	if !ok || !quoted.first || !translatable(quoted) || quoted.src() != n.public {
		return NATMalformed
	}
	m := n.ports[publicPort{quoted.proto, quoted.source().Port()}]
	if m == nil || !m.expires.After(now) {
		return NATStray
	}
	quoted.setSource(m.flow.inside)
	p.setDestination(netip.AddrPortFrom(m.flow.inside.Addr(), 0))
	fillICMPChecksum(p.payload)
	return NATIn
}

// errorFromInside translates an ICMP error about a packet that came in through the NAT.
func (n *nat) errorFromInside(now time.Time, p packet) NATFate {
	if p.more {
		return NATFragment // its checksum covers what is not here
	}
	quoted, ok := parsePacket(p.payload[8:], true)
	if !ok || !quoted.first || !translatable(quoted) {
		return NATMalformed
	}
	if p.dst() == n.public {
		return NATNoHairpin
	}
	m := n.lookup(now, flow{quoted.proto, quoted.destination(), quoted.source()})
	if m == nil {
		return NATStray
	}
	quoted.setDestination(netip.AddrPortFrom(n.public, m.port))
	p.setSource(netip.AddrPortFrom(n.public, 0))
	fillICMPChecksum(p.payload)
	return NATOut
}
