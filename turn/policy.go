package turn

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// RelayAddress is an address that the server relays from: as the internet sees it, and as the socket is bound. Without a
// NAT between, both are the same.
type RelayAddress struct{ Public, Local netip.Addr }

// PolicyConfig is what a [Policy] is made of. Prefixes are masked (10.2.0.0/16, not 10.2.0.1/16).
type PolicyConfig struct {
	Profile Profile // required

	// Clients are the prefixes that may use the relay; empty means the profile's own.
	Clients []netip.Prefix

	// Allow and Deny adjust which peers the profile reaches. The longest prefix of both lists that contains a peer
	// decides; a prefix in both is denied.
	//
	// A deny entry closes everything except the server's own relays and services. An allow entry opens
	//   - a range that is refused for what it is (loopback, link-local, private, 100.64.0.0/10, 240.0.0.0/4, the
	//     special-purpose registries) only if the entry lies inside that range: 0.0.0.0/0 opens none of them, and
	//     10.0.0.0/8 or 10.2.0.0/16 opens RFC 1918 addresses;
	//   - a metadata address, and an address of this host other than loopback, only if it names exactly that address;
	//   - neighbours and what the default route does not lead to if it has at least 8 bits (IPv4) or 16 (IPv6);
	//   - multicast, broadcast, :: and 0.0.0.0/8 never: such an entry is an error.
	//
	// An IPv6 address with an IPv4 address inside is reached only if both would be. An entry that lies in
	// 64:ff9b:1::/48 must be the translator's own prefix, of 48, 56, 64 or 96 bits, since it says where to read the address.
	Allow, Deny []netip.Prefix

	Ports   *PortSet // ports of peers; nil means all from 1024
	Hairpin Hairpin  // zero means HairpinAll

	// Routes is the system's main routing table. Empty means unknown: neighbours, what lies behind other routes than the
	// default, directed broadcasts and the way back to a client cannot be judged, and [Policy.Unjudged] says so.
	Routes []Route

	OwnAddresses []netip.Addr   // every address of this host's interfaces; zones are ignored
	Relays       []RelayAddress // what the server relays from
	RelayPorts   PortRange      // required with Relays

	// Services are this server's own rendezvous listeners in their local and public forms; they are reachable in every
	// profile. An unspecified address stands for all of OwnAddresses and Relays.
	Services []netip.AddrPort
}

// Bounds of an allow entry that opens neighbours and what other routes than the default lead to (ours to tune): as long
// as the shortest prefix that one holder is given, so that "everything" cannot open an internal network by accident.
const (
	topologyBits4 = 8
	topologyBits6 = 16
)

// Policy judges clients and peers. It is immutable and safe for concurrent use, and judging allocates nothing.
//
// # Limitations
//
// It judges addresses, not what answers there: a public address that a router translates to an internal host passes, and the
// broadcast address of a network that is not on-link looks like a host. The routing table is that of NewPolicy's day: a change
// of routes or addresses needs a new Policy.
// IPv6 prefixes that networks choose themselves for 6rd and NAT64 hide an IPv4 address that it cannot see. Loopback and
// own source addresses skip the reverse-path check, because they are not in the main routing table; the system's own check
// of such packets stands there.
type Policy struct {
	profile    Profile
	clients    prefixTable[int] // index in the client list
	clientRule Rule             // of an admitted client
	lists      prefixTable[bool]
	special    prefixTable[*special]
	routes     routeTable
	ports      *PortSet
	hairpin    Hairpin
	own        map[netip.Addr]*ownAddress
	relayPorts PortRange
}

// ownAddress is an address of this server.
type ownAddress struct {
	public   netip.Addr // the relay's public form; invalid: the address is no relay's
	services []uint16
	verdict  Verdict // of its other ports
}

var (
	corporateClients = []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
		netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"),
	}
	anyClients = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
)

// Clients returns the client list of the profile.
func (p Profile) Clients() []netip.Prefix {
	switch p {
	case ProfileCorporate:
		return slices.Clone(corporateClients)
	case ProfilePublic, ProfileLab:
		return slices.Clone(anyClients)
	}
	return nil
}

// NewPolicy checks cfg and keeps nothing of it but Ports. Its errors name the key to change and how.
func NewPolicy(cfg PolicyConfig) (*Policy, error) {
	p := &Policy{
		profile:    cfg.Profile,
		clientRule: RuleDefault,
		ports:      cfg.Ports,
		hairpin:    cfg.Hairpin,
		own:        make(map[netip.Addr]*ownAddress),
		relayPorts: cfg.RelayPorts,
	}
	switch cfg.Profile {
	case ProfileCorporate, ProfilePublic, ProfileLab:
	default:
		return nil, errors.New("turn.peers.profile: is not set: write corporate, public or lab")
	}
	if cfg.Hairpin > HairpinOff {
		return nil, fmt.Errorf("turn.hairpin: %d is not a choice: write all, same-prefix or off", cfg.Hairpin)
	}
	if p.ports == nil {
		p.ports = unprivilegedPorts
	}
	for _, rows := range [...][]special{addressSpace, registry, metadata} {
		for _, r := range rows {
			p.special.insert(r.prefix, &r)
		}
	}
	for _, fill := range [...]func(*PolicyConfig) error{p.addRoutes, p.addClients, p.addLists, p.addRelays, p.addOwn} {
		if err := fill(&cfg); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *Policy) addRoutes(cfg *PolicyConfig) error {
	routes := make([]Route, 0, len(cfg.Routes))
	for _, r := range cfg.Routes {
		prefix, err := canonicalPrefix("turn: routing table", r.Prefix)
		if err != nil {
			return err
		}
		r.Prefix = prefix
		routes = append(routes, r)
		// RFC 3021: a /31 has no broadcast address. The first address of a longer subnet is the broadcast address of old
		// systems, and some still take it for one.
		if a := prefix.Addr(); a.Is4() && prefix.Bits() <= 30 && !r.Gateway.IsValid() && !isDefault(prefix) {
			for _, b := range [...]netip.Addr{a, lastAddress(prefix)} {
				host := netip.PrefixFrom(b, 32)
				p.special.insert(host, &special{host, "directed broadcast", "RFC 919 §7", RuleBroadcast, reachNever})
			}
		}
	}
	p.routes = newRouteTable(routes)
	return nil
}

func (p *Policy) addClients(cfg *PolicyConfig) error {
	list := cfg.Clients
	if len(list) == 0 {
		list = cfg.Profile.Clients()
	} else {
		p.clientRule = RuleAllowedByConfig
	}
	for i, entry := range list {
		prefix, err := canonicalPrefix("turn.clients", entry)
		if err != nil {
			return err
		}
		if _, ok := p.clients.at(prefix); !ok {
			p.clients.insert(prefix, i)
		}
	}
	p.clients.seal()
	return nil
}

func (p *Policy) addLists(cfg *PolicyConfig) error {
	for _, entry := range cfg.Allow {
		prefix, err := canonicalPrefix("turn.peers.allow", entry)
		if err != nil {
			return err
		}
		if r, ok := p.neverReached(prefix); ok {
			return fmt.Errorf("turn.peers.allow: %v is %s (%s), and a relay never sends there: remove the entry", entry, r.name, r.ref)
		}
		if inside(prefix, prefixNAT64Local) && nat64Bits(prefix) == 0 {
			return fmt.Errorf("turn.peers.allow: %v: write the translator's own prefix, of 48, 56, 64 or 96 bits", entry)
		}
		p.lists.insert(prefix, true)
	}
	for _, entry := range cfg.Deny {
		prefix, err := canonicalPrefix("turn.peers.deny", entry)
		if err != nil {
			return err
		}
		p.lists.insert(prefix, false)
	}
	p.lists.seal()
	return nil
}

// neverReached returns the range that holds all of prefix and that no entry opens.
func (p *Policy) neverReached(prefix netip.Prefix) (*special, bool) {
	for bits := prefix.Bits(); bits >= 0; bits-- {
		if r, ok := p.special.at(netip.PrefixFrom(prefix.Addr(), bits).Masked()); ok && r.reach == reachNever {
			return r, true
		}
	}
	return nil, false
}

func (p *Policy) addRelays(cfg *PolicyConfig) error {
	if len(cfg.Relays) > 0 && cfg.RelayPorts.Size() == 0 {
		return fmt.Errorf("turn.relay.ports: %v is empty: the first port must be at least 1 and not above the last", cfg.RelayPorts)
	}
	locals := make(map[netip.Addr]netip.Addr, len(cfg.Relays)) // by public form
	for _, r := range cfg.Relays {
		public, local := r.Public.WithZone("").Unmap(), r.Local.WithZone("").Unmap()
		if !public.IsValid() || !local.IsValid() || public.IsUnspecified() || local.IsUnspecified() || public.Is4() != local.Is4() {
			return fmt.Errorf("turn.relay.addresses: %v=%v: write two addresses of one family, the public one first", r.Public, r.Local)
		}
		for _, form := range [...]netip.Addr{public, local} {
			o := p.ownAt(form)
			other, paired := locals[public]
			if o.public.IsValid() && o.public != public || paired && other != local {
				return fmt.Errorf("turn.relay.addresses: %v is in two pairs: each public and each local address may be in one", form)
			}
			o.public = public
		}
		locals[public] = local
	}
	return nil
}

// addOwn runs last: it judges the own addresses with everything else in place.
func (p *Policy) addOwn(cfg *PolicyConfig) error {
	for _, a := range cfg.OwnAddresses {
		if !a.IsValid() || a.IsUnspecified() {
			return fmt.Errorf("turn: own address %v is none: list the addresses of the interfaces", a)
		}
		p.ownAt(a.WithZone("").Unmap())
	}
	for _, s := range cfg.Services {
		a := s.Addr().WithZone("").Unmap()
		if !a.IsValid() || s.Port() == 0 {
			return fmt.Errorf("turn: own service %v: needs an address and a port", s)
		}
		if !a.IsUnspecified() {
			p.ownAt(a).addService(s.Port())
			continue
		}
		if len(p.own) == 0 {
			return fmt.Errorf("turn: own service %v: stands for this host's addresses, and none is known: name the address", s)
		}
		for own, o := range p.own {
			if own.Is4() || a.Is6() { // [::] takes IPv4 as well
				o.addService(s.Port())
			}
		}
	}
	p.special.seal()
	for a := range p.own {
		// Loopback is this host already, with a rule and a range of its own.
		if _, r, ok := p.special.lookup(a); ok && (r.rule == RuleLoopback || r.reach == reachNever) {
			continue
		}
		host := netip.PrefixFrom(a, a.BitLen())
		p.special.insert(host, &special{host, "address of this host", "", RuleOwnAddress, reachLab})
	}
	p.special.seal()
	for a, o := range p.own {
		o.verdict = p.judge(a)
	}
	return nil
}

func (p *Policy) ownAt(a netip.Addr) *ownAddress {
	o, ok := p.own[a]
	if !ok {
		o = new(ownAddress)
		p.own[a] = o
	}
	return o
}

func (o *ownAddress) addService(port uint16) {
	if !slices.Contains(o.services, port) {
		o.services = append(o.services, port)
	}
}

// Unjudged returns the rules that this policy cannot apply for want of knowledge: of the routing table, of the host's
// addresses, or because the host has one interface, by which every way back leaves. The shell says so at start.
func (p *Policy) Unjudged() []Rule {
	var rules []Rule
	if !p.routes.known {
		rules = append(rules, RuleOnLink, RuleNotDefaultRoute)
	}
	if len(p.routes.interfaces) < 2 {
		rules = append(rules, RuleReversePath)
	}
	if len(p.own) == 0 {
		rules = append(rules, RuleOwnAddress)
	}
	return rules
}

// JudgeClient says whether client may use the relay: whether the client list has it, and whether the way back to it
// leaves by the interface ifIndex that its packet came by, as a forged source often does not. ifIndex 0 is unknown and skips
// the second question.
func (p *Policy) JudgeClient(client netip.Addr, ifIndex int) Verdict {
	if !client.IsValid() {
		return refused(RuleInvalidAddress)
	}
	a := client.WithZone("").Unmap()
	_, r, special := p.special.lookup(a)
	if special && r.reach == reachNever {
		return refused(r.rule) // a reply there would be a packet to nobody, or to everybody
	}
	if p.ClientPrefix(a) < 0 {
		return refused(RuleClientNotListed)
	}
	_, own := p.own[a]
	if ifIndex != 0 && p.routes.known && !own && !(special && r.rule == RuleLoopback) && !p.routes.leavesBy(a, ifIndex) {
		return refused(RuleReversePath)
	}
	return allowed(p.clientRule)
}

// ClientPrefix returns the index of the longest entry of the client list that contains client, or -1. Of two equal entries
// it is the first.
func (p *Policy) ClientPrefix(client netip.Addr) int {
	if !client.IsValid() {
		return -1
	}
	if _, i, ok := p.clients.lookup(client.WithZone("").Unmap()); ok {
		return i
	}
	return -1
}

// JudgePeer says whether a permission for peer may be given. It judges the address; at an address of this server
// [Policy.JudgePort] then passes the ports of its relays and services only.
func (p *Policy) JudgePeer(peer netip.Addr) Verdict {
	switch {
	case !peer.IsValid():
		return refused(RuleInvalidAddress)
	case peer.Zone() != "":
		return refused(RuleZone)
	}
	a := peer.Unmap()
	if o, ok := p.own[a]; ok {
		switch {
		case o.public.IsValid():
			return allowed(RuleOwnRelay)
		case len(o.services) > 0:
			return allowed(RuleOwnService)
		}
		return o.verdict
	}
	return p.judge(a)
}

// judge judges a and every address inside it.
func (p *Policy) judge(a netip.Addr) Verdict {
	entry, allow, listed := p.lists.lookup(a)
	bits := 0
	if listed && allow {
		bits = nat64Bits(entry)
	}
	c := canonicalize(a, bits)
	for _, inner := range c.inner[:c.count] {
		innerEntry, innerAllow, innerListed := p.lists.lookup(inner)
		if v := p.judgeOne(inner, innerEntry, innerListed, innerAllow, true); !v.Allowed {
			return refused(v.Rule.embedded())
		}
	}
	return p.judgeOne(c.addr, entry, listed, allow, false)
}

// judgeOne judges a alone. entry is the longest entry of the allow and deny lists that contains it.
func (p *Policy) judgeOne(a netip.Addr, entry netip.Prefix, listed, allow, embedded bool) Verdict {
	_, r, special := p.special.lookup(a)
	lab := p.profile == ProfileLab
	switch {
	case special && r.reach == reachNever:
		return refused(r.rule)
	case listed && !allow:
		return refused(RuleDeniedByConfig)
	case special && r.reach != reachOpen && !(listed && inside(entry, r.prefix)) && !(lab && r.reach == reachLab):
		return refused(r.rule)
	case listed && opensTopology(entry):
		return allowed(RuleAllowedByConfig)
	case lab:
		return allowed(RuleDefault)
	}
	v := p.routes.judgePeer(a, embedded)
	if v.Allowed && listed {
		v.Rule = RuleAllowedByConfig
	}
	return v
}

// JudgePort says whether peer's port may be sent to, after [Policy.JudgePeer] allowed its address. It is cheap enough to
// ask for each Send.
func (p *Policy) JudgePort(peer netip.AddrPort) Verdict {
	port := peer.Port()
	if o, ok := p.own[peer.Addr().Unmap()]; ok {
		switch {
		case o.public.IsValid() && p.relayPorts.Contains(port):
			return allowed(RuleOwnRelay)
		case slices.Contains(o.services, port):
			return allowed(RuleOwnService)
		case !o.verdict.Allowed:
			return o.verdict
		}
	}
	if !p.ports.Contains(port) {
		return refused(RulePort)
	}
	return allowed(RuleDefault)
}

// OwnRelay reports whether peer, in its public or local form, is a relayed address of this server, and returns the public
// form, by which the allocation is known. Whether an allocation holds it is not asked.
func (p *Policy) OwnRelay(peer netip.AddrPort) (netip.AddrPort, bool) {
	o, ok := p.own[peer.Addr().Unmap()]
	if !ok || !o.public.IsValid() || !p.relayPorts.Contains(peer.Port()) {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(o.public, peer.Port()), true
}

// OwnHostOpen reports whether the policy would let a client reach programs of this host at the address, which is one
// of the relay addresses: in laboratories, or where an entry says so.
func (p *Policy) OwnHostOpen(peer netip.Addr) bool {
	o, ok := p.own[peer.Unmap()]
	return ok && o.verdict.Allowed
}

// JudgeHairpin says whether one client of this server may reach another through it. from and to are what
// [Policy.ClientPrefix] says of them.
func (p *Policy) JudgeHairpin(from, to int) Verdict {
	switch {
	case p.hairpin == HairpinOff, p.hairpin == HairpinSamePrefix && (from != to || from < 0):
		return refused(RuleHairpin)
	}
	return allowed(RuleOwnRelay)
}

// canonicalPrefix checks p and writes an IPv4-mapped one as IPv4.
func canonicalPrefix(key string, p netip.Prefix) (netip.Prefix, error) {
	if !p.IsValid() {
		return p, fmt.Errorf("%s: a prefix is not valid: write 10.2.0.0/16 or 2001:db8::/32", key)
	}
	if p != p.Masked() {
		return p, fmt.Errorf("%s: %v has bits beyond its length: write %v", key, p, p.Masked())
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p, nil
}

// inside reports whether every address of p is in outer.
func inside(p, outer netip.Prefix) bool { return p.Bits() >= outer.Bits() && outer.Contains(p.Addr()) }

func opensTopology(entry netip.Prefix) bool {
	if entry.Addr().Is4() {
		return entry.Bits() >= topologyBits4
	}
	return entry.Bits() >= topologyBits6
}

// nat64Bits returns the length at which addresses under an entry of the local-use NAT64 prefix carry their IPv4 address,
// or 0 if the entry is no such prefix.
func nat64Bits(entry netip.Prefix) int {
	if !inside(entry, prefixNAT64Local) {
		return 0
	}
	switch bits := entry.Bits(); bits {
	case 48, 56, 64, 96:
		return bits
	}
	return 0
}
