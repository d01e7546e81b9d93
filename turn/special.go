package turn

import "net/netip"

// reach says what opens a range of addresses.
type reach uint8

const (
	reachNever reach = iota // nothing does: it is no endpoint
	reachEntry              // an allow entry that lies inside the range
	reachLab                // the same, or the lab profile
	reachOpen               // it is open in every profile
)

// special is a range of addresses that is judged by what it is.
type special struct {
	prefix netip.Prefix
	name   string
	ref    string
	rule   Rule
	reach  reach
}

func row(prefix, name, ref string, rule Rule, reach reach) special {
	return special{netip.MustParsePrefix(prefix), name, ref, rule, reach}
}

// registry is the IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890, RFC 8190) as of 2025-10-09, a row for each row there.
// It leaves out 64:ff9b::/96 and ::ffff:0:0/96, which are judged by the address inside. "Globally reachable" there
// says that a route may exist, not that a peer lives there: anycast helpers and identifiers are refused.
// Documentation is open, because laboratories use it.
var registry = []special{
	row("0.0.0.0/8", "this network", "RFC 791 §3.2", RuleUnspecified, reachNever),
	row("0.0.0.0/32", "this host on this network", "RFC 1122 §3.2.1.3", RuleUnspecified, reachNever),
	row("10.0.0.0/8", "private use", "RFC 1918", RulePrivate, reachLab),
	row("100.64.0.0/10", "shared address space", "RFC 6598", RuleCGN, reachLab),
	row("127.0.0.0/8", "loopback", "RFC 1122 §3.2.1.3", RuleLoopback, reachLab),
	row("169.254.0.0/16", "link local", "RFC 3927", RuleLinkLocal, reachLab),
	row("172.16.0.0/12", "private use", "RFC 1918", RulePrivate, reachLab),
	row("192.0.0.0/24", "IETF protocol assignments", "RFC 6890 §2.1", RuleSpecialPurpose, reachLab),
	row("192.0.0.0/29", "IPv4 service continuity prefix", "RFC 7335", RuleSpecialPurpose, reachLab),
	row("192.0.0.8/32", "IPv4 dummy address", "RFC 7600", RuleSpecialPurpose, reachLab),
	row("192.0.0.9/32", "port control protocol anycast", "RFC 7723", RuleSpecialPurpose, reachLab),
	row("192.0.0.10/32", "TURN anycast", "RFC 8155", RuleSpecialPurpose, reachLab),
	row("192.0.0.170/32", "NAT64/DNS64 discovery", "RFC 8880, RFC 7050 §2.2", RuleSpecialPurpose, reachLab),
	row("192.0.0.171/32", "NAT64/DNS64 discovery", "RFC 8880, RFC 7050 §2.2", RuleSpecialPurpose, reachLab),
	row("192.0.2.0/24", "documentation (TEST-NET-1)", "RFC 5737", RuleDefault, reachOpen),
	row("192.31.196.0/24", "AS112-v4", "RFC 7535", RuleSpecialPurpose, reachLab),
	row("192.52.193.0/24", "AMT", "RFC 7450", RuleSpecialPurpose, reachLab),
	row("192.88.99.0/24", "6to4 relay anycast, deprecated", "RFC 7526", RuleSpecialPurpose, reachLab),
	row("192.88.99.2/32", "6a44 relay anycast", "RFC 6751", RuleSpecialPurpose, reachLab),
	row("192.168.0.0/16", "private use", "RFC 1918", RulePrivate, reachLab),
	row("192.175.48.0/24", "direct delegation AS112 service", "RFC 7534", RuleSpecialPurpose, reachLab),
	row("198.18.0.0/15", "benchmarking", "RFC 2544", RuleSpecialPurpose, reachLab),
	row("198.51.100.0/24", "documentation (TEST-NET-2)", "RFC 5737", RuleDefault, reachOpen),
	row("203.0.113.0/24", "documentation (TEST-NET-3)", "RFC 5737", RuleDefault, reachOpen),
	row("240.0.0.0/4", "reserved", "RFC 1112 §4", RuleReserved, reachEntry),
	row("255.255.255.255/32", "limited broadcast", "RFC 8190, RFC 919 §7", RuleBroadcast, reachNever),

	row("::1/128", "loopback", "RFC 4291 §2.5.3", RuleLoopback, reachLab),
	row("::/128", "unspecified", "RFC 4291 §2.5.2", RuleUnspecified, reachNever),
	row("64:ff9b:1::/48", "local-use translation", "RFC 8215", RuleSpecialPurpose, reachLab),
	row("100::/64", "discard only", "RFC 6666", RuleSpecialPurpose, reachLab),
	row("100:0:0:1::/64", "dummy prefix", "RFC 9780", RuleSpecialPurpose, reachLab),
	row("2001::/23", "IETF protocol assignments", "RFC 2928", RuleSpecialPurpose, reachLab),
	row("2001::/32", "Teredo", "RFC 4380, RFC 8190", RuleSpecialPurpose, reachLab),
	row("2001:1::1/128", "port control protocol anycast", "RFC 7723", RuleSpecialPurpose, reachLab),
	row("2001:1::2/128", "TURN anycast", "RFC 8155", RuleSpecialPurpose, reachLab),
	row("2001:1::3/128", "DNS-SD service registration anycast", "RFC 9665", RuleSpecialPurpose, reachLab),
	row("2001:2::/48", "benchmarking", "RFC 5180, erratum 1752", RuleSpecialPurpose, reachLab),
	row("2001:3::/32", "AMT", "RFC 7450", RuleSpecialPurpose, reachLab),
	row("2001:4:112::/48", "AS112-v6", "RFC 7535", RuleSpecialPurpose, reachLab),
	row("2001:10::/28", "ORCHID, deprecated", "RFC 4843", RuleSpecialPurpose, reachLab),
	row("2001:20::/28", "ORCHIDv2", "RFC 7343", RuleSpecialPurpose, reachLab),
	row("2001:30::/28", "drone remote ID entity tags", "RFC 9374", RuleSpecialPurpose, reachLab),
	row("2001:db8::/32", "documentation", "RFC 3849", RuleDefault, reachOpen),
	row("2002::/16", "6to4", "RFC 3056", RuleSpecialPurpose, reachLab),
	row("2620:4f:8000::/48", "direct delegation AS112 service", "RFC 7534", RuleSpecialPurpose, reachLab),
	row("3fff::/20", "documentation", "RFC 9637", RuleDefault, reachOpen),
	row("5f00::/16", "segment routing (SRv6) SIDs", "RFC 9602", RuleSpecialPurpose, reachLab),
	row("fc00::/7", "unique local", "RFC 4193", RulePrivate, reachLab),
	row("fe80::/10", "link-local unicast", "RFC 4291 §2.5.6", RuleLinkLocal, reachLab),
}

// addressSpace is what is special without being in those registries: multicast, and IPv6 outside the global
// unicast space 2000::/3. The three rows around 2000::/3 make what IANA has not assigned refused until it is.
var addressSpace = []special{
	row("224.0.0.0/4", "multicast", "RFC 5771", RuleMulticast, reachNever),
	row("ff00::/8", "multicast", "RFC 4291 §2.7", RuleMulticast, reachNever),
	row("fec0::/10", "site-local unicast, deprecated", "RFC 3879", RulePrivate, reachLab),
	row("64:ff9b::/96", "NAT64, judged by the address inside", "RFC 6052", RuleDefault, reachOpen),
	row("::/3", "outside global unicast", "RFC 4291 §2.4", RuleReserved, reachLab),
	row("4000::/2", "outside global unicast", "RFC 4291 §2.4", RuleReserved, reachLab),
	row("8000::/1", "outside global unicast", "RFC 4291 §2.4", RuleReserved, reachLab),
}

// metadata is where clouds answer a machine's questions about itself. Most are link-local as well; the others look like any
// public, shared or private address. No laboratory needs them, so the lab profile does not open them.
var metadata = []special{
	row("169.254.169.254/32", "instance metadata of most clouds", "AWS, Azure, Google, Oracle and others", RuleMetadata, reachEntry),
	row("169.254.169.253/32", "resolver", "AWS", RuleMetadata, reachEntry),
	row("169.254.169.123/32", "time service", "AWS", RuleMetadata, reachEntry),
	row("169.254.170.2/32", "task credentials", "AWS ECS", RuleMetadata, reachEntry),
	row("169.254.170.23/32", "pod credentials", "AWS EKS", RuleMetadata, reachEntry),
	row("169.254.0.23/32", "instance metadata", "Tencent", RuleMetadata, reachEntry),
	row("168.63.129.16/32", "wire server: keys, extensions, DNS", "Azure", RuleMetadata, reachEntry),
	row("100.100.100.200/32", "instance metadata", "Alibaba", RuleMetadata, reachEntry),
	row("192.0.0.192/32", "instance metadata", "Oracle Cloud Classic", RuleMetadata, reachEntry),
	row("fd00:ec2::254/128", "instance metadata", "AWS", RuleMetadata, reachEntry),
	row("fd00:ec2::253/128", "resolver", "AWS", RuleMetadata, reachEntry),
	row("fd00:ec2::123/128", "time service", "AWS", RuleMetadata, reachEntry),
	row("fd00:ec2::23/128", "pod credentials", "AWS EKS", RuleMetadata, reachEntry),
	row("fd20:ce::254/128", "instance metadata", "Google", RuleMetadata, reachEntry),
	row("fd00:42::42/128", "instance metadata", "Scaleway", RuleMetadata, reachEntry),
	row("169.254.42.42/32", "instance metadata", "Scaleway", RuleMetadata, reachEntry),
}
