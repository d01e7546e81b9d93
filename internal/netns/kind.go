//go:build linux

package netns

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// NATKind is a box made of nftables rules, and what a prober should find behind it.
type NATKind struct {
	Name      string
	Mapping   Mapping
	Filtering Filtering
	About     string

	source  string // statement that gives a UDP flow its public source; PUBLIC stands for the address; "" leaves it
	stray   bool   // packets from outside that belong to nothing reach the box itself
	forward string // rules ahead of all others for what passes through
}

// The kinds. Without a word about it a box has port preservation, and drops what comes from outside and belongs to nothing.
var (
	Masquerade = NATKind{Name: "masquerade", Mapping: EIM, Filtering: APDF, source: "masquerade",
		About: "port-restricted cone: Linux with a firewall"}
	OpenLinux = NATKind{Name: "open-linux", Mapping: EIM, Filtering: APDF, source: "masquerade", stray: true,
		About: "Linux without a firewall: a peer's early packet occupies the mapping, and the next packet to that peer leaves from another port"}
	PortRange = NATKind{Name: "port-range", Mapping: EIM, Filtering: APDF, source: "masquerade to :40000-40999",
		About: "port-restricted cone with 1000 public ports and no preservation"}
	FullCone = NATKind{Name: "full-cone", Mapping: EIM, Filtering: EIF, source: "masquerade",
		About: "anybody reaches a mapped socket"}
	AddressRestricted = NATKind{Name: "address-restricted", Mapping: EIM, Filtering: ADF, source: "masquerade",
		About: "the addresses that the inside socket has sent to reach it"}
	Random = NATKind{Name: "random", Mapping: APDM, Filtering: APDF, source: "masquerade random",
		About: "symmetric; the port is a keyed hash of the flow"}
	FullyRandom = NATKind{Name: "fully-random", Mapping: APDM, Filtering: APDF, source: "masquerade fully-random",
		About: "symmetric; the port is a random number"}
	// The mask sets the high bit of the port's first byte: the kernel's hash is host-endian and the port is not, so that on a
	// little-endian machine 0x80 stands for port 32768.
	AddressDependent = NATKind{Name: "address-dependent", Mapping: ADM, Filtering: APDF,
		source: "snat to PUBLIC:(jhash ip saddr . udp sport . ip daddr mod 65536 seed 0x5717e) | 0x80",
		About:  "one port from 32768 for each remote address"}
	Sequential = NATKind{Name: "sequential", Mapping: APDM, Filtering: APDF, source: "snat to PUBLIC:numgen inc mod 512 map { " + ports(40000, 512) + " }",
		About: "symmetric; each flow gets the next port of 40000 to 40511"}
	Sequential256 = NATKind{Name: "sequential-256", Mapping: APDM, Filtering: APDF, source: "snat to PUBLIC:numgen inc mod 128 offset 128",
		About: "symmetric with a byte-swapped counter: steps of 256 from 32768 to 65280 (on little-endian machines)"}
	SymmetricFull = NATKind{Name: "symmetric-full", Mapping: APDM, Filtering: EIF, source: "masquerade fully-random",
		About: "symmetric, everybody reaches each mapping, and replies to them keep it (reply-same)"}
	AddressDependentFull = NATKind{Name: "address-dependent-full", Mapping: ADM, Filtering: EIF, source: AddressDependent.source,
		About: "one port for each remote address, everybody reaches it, and replies to them keep it (reply-same)"}
	AddressDependentRestricted = NATKind{Name: "address-dependent-restricted", Mapping: ADM, Filtering: ADF, source: AddressDependent.source,
		About: "one port for each remote address, which that address reaches from every port"}
	Firewall = NATKind{Name: "firewall", Mapping: NoMapping, Filtering: APDF,
		About: "stateful, without NAT: the LAN has public addresses"}
	Open = NATKind{Name: "open", Mapping: NoMapping, Filtering: NoFiltering, stray: true,
		About: "a plain router: the LAN has public addresses"}
	UDPDropped = NATKind{Name: "udp-dropped", Mapping: MappingBlocked, Filtering: FilteringBlocked, source: "masquerade",
		forward: "meta l4proto udp counter name blocked drop",
		About:   "UDP vanishes; TCP passes"}
	UDPRejected = NATKind{Name: "udp-rejected", Mapping: MappingBlocked, Filtering: FilteringBlocked, source: "masquerade",
		forward: "meta l4proto udp counter name blocked reject",
		About:   "UDP is answered with ICMP port unreachable; TCP passes"}
)

// Kinds returns every kind without parameters.
func Kinds() []NATKind {
	return []NATKind{
		Masquerade, OpenLinux, PortRange, FullCone, AddressRestricted, Random, FullyRandom, AddressDependent, Sequential, Sequential256,
		SymmetricFull, AddressDependentFull, AddressDependentRestricted, Firewall, Open, UDPDropped, UDPRejected,
	}
}

// OnlyTCP is a box that lets through nothing but TCP to the given address and port, and the answers.
func OnlyTCP(to netip.AddrPort) NATKind {
	family := "ip"
	if to.Addr().Is6() {
		family = "ip6"
	}
	return NATKind{Name: "only-tcp", Mapping: MappingBlocked, Filtering: FilteringBlocked, source: "masquerade",
		forward: fmt.Sprintf("%s daddr %s tcp dport %d accept\nct state established,related accept\ncounter name blocked drop", family, to.Addr(), to.Port()),
		About:   "TCP to " + to.String() + " and nothing else"}
}

// UDPDroppedTo is a masquerading box that drops UDP to one destination port, such as 3478, and lets other UDP pass.
func UDPDroppedTo(port uint16) NATKind {
	k := Masquerade
	k.Name, k.About = fmt.Sprintf("udp-dropped-to-%d", port), fmt.Sprintf("port-restricted cone that drops UDP to port %d", port)
	k.forward = fmt.Sprintf("udp dport %d counter name blocked drop", port)
	return k
}

func ports(first, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%d : %d, ", i, first+i)
	}
	return strings.TrimSuffix(b.String(), ", ")
}

// nat reports whether the kind translates addresses.
func (k NATKind) nat() bool { return k.source != "" }

// rules writes the box's rules in nft's language. The box's interface to the outside is called wan; its counters are stray
// (from outside, belongs to nothing), blocked and lost.
func (k NATKind) rules(public netip.Addr, hairpin bool, loss float64, timeout time.Duration) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("table inet box {\ncounter stray {\n}\ncounter blocked {\n}\ncounter lost {\n}")
	line("chain forward {\ntype filter hook forward priority 0")
	if loss > 0 {
		line("numgen random mod 10000 < %d counter name lost drop", int(loss*10000+0.5))
	}
	line("%s", k.forward)
	if !k.stray {
		line("ct state established,related accept")
		line("ct status dnat accept")
		line(`iifname "wan" meta l4proto ipv6-icmp icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept`)
		line(`iifname "wan" counter name stray drop`)
	}
	line("}")
	if !k.stray {
		// Without this, the box would answer with an ICMP error and remember the flow: that is OpenLinux.
		line("chain input {\ntype filter hook input priority 0")
		line("iifname != \"wan\" accept\nct state established,related accept\nmeta l4proto ipv6-icmp accept\ncounter name stray drop\n}")
	}
	line("}")
	if !k.nat() {
		return b.String()
	}

	mapped := k.Filtering == EIF || k.Filtering == ADF || hairpin
	snat := strings.NewReplacer("masquerade to :", "snat to PUBLIC:", "masquerade", "snat to PUBLIC").Replace(k.source)
	line("table ip box {\nchain source {\ntype nat hook postrouting priority 100")
	line(`oifname "wan" meta l4proto udp %s`, k.source)
	line(`oifname "wan" masquerade`)
	if hairpin {
		line(`oifname != "wan" ct status dnat meta l4proto udp %s`, snat)
	}
	line("}")
	if mapped {
		const flags = "flags dynamic,timeout\ntimeout %ds\nsize 65535\n}"
		seconds := max(1, int(timeout.Seconds()))
		line("map mapped {\ntype inet_service : ipv4_addr . inet_service\n"+flags, seconds)
		line("set contacted {\ntype ipv4_addr . inet_service\n"+flags, seconds)
		// After translation: what the flow's answers are addressed to is its public port. An inside host's answers to a flow from
		// outside count as well.
		line("chain record {\ntype filter hook postrouting priority 110")
		line("meta l4proto udp ct direction original ct status snat update @mapped { ct reply proto-dst : ct original ip saddr . ct original proto-src }")
		line("meta l4proto udp ct direction original ct status snat update @contacted { ip daddr . ct reply proto-dst }")
		line(`oifname "wan" meta l4proto udp ct direction reply update @mapped { ct original proto-dst : ct reply ip saddr . ct reply proto-src }`)
		line(`oifname "wan" meta l4proto udp ct direction reply update @contacted { ip daddr . ct original proto-dst }`)
		line("}\nchain incoming {\ntype nat hook prerouting priority -100")
		switch k.Filtering {
		case EIF:
			line(`iifname "wan" ip daddr PUBLIC dnat ip to udp dport map @mapped`)
		case ADF:
			line(`iifname "wan" ip daddr PUBLIC ip saddr . udp dport @contacted dnat ip to udp dport map @mapped`)
		}
		if hairpin {
			line(`iifname != "wan" ip daddr PUBLIC dnat ip to udp dport map @mapped`)
		}
		line("}")
	}
	line("}")
	return strings.ReplaceAll(b.String(), "PUBLIC", public.String())
}
