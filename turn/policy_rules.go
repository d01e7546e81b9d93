package turn

import "fmt"

// Profile is a named set of answers to "who may use the relay, and whom may it reach".
type Profile uint8

const (
	ProfileUnknown Profile = iota // not set: [NewPolicy] refuses it
	// ProfileCorporate admits clients from RFC 1918, fc00::/7 and loopback, and reaches the public internet
	// where the default route leads. Link-local clients are not in it: a reply to one needs a zone, and no
	// mms.cfg names a proxy by one.
	ProfileCorporate
	ProfilePublic // admits every client and reaches what ProfileCorporate reaches
	ProfileLab    // admits every client and reaches everything that is an endpoint, local ones too
)

var profileNames = [...]string{"unknown", "corporate", "public", "lab"}

// String returns the name that [ParseProfile] reads.
func (p Profile) String() string {
	if int(p) < len(profileNames) {
		return profileNames[p]
	}
	return profileNames[ProfileUnknown]
}

// ParseProfile reads corporate, public or lab.
func ParseProfile(s string) (Profile, error) {
	for i, name := range profileNames {
		if s == name && Profile(i) != ProfileUnknown {
			return Profile(i), nil
		}
	}
	return ProfileUnknown, fmt.Errorf("turn.peers.profile: %q is not a profile: write corporate, public or lab", s)
}

// Hairpin says which clients of this server may reach each other through it.
type Hairpin uint8

const (
	HairpinUnknown    Hairpin = iota // not set: HairpinAll
	HairpinAll                       // every client reaches every other
	HairpinSamePrefix                // only clients that the same entry of the client list admitted
	HairpinOff                       // none
)

var hairpinNames = [...]string{"unknown", "all", "same-prefix", "off"}

// String returns the name that [ParseHairpin] reads.
func (h Hairpin) String() string {
	if int(h) < len(hairpinNames) {
		return hairpinNames[h]
	}
	return hairpinNames[HairpinUnknown]
}

// ParseHairpin reads all, same-prefix or off.
func ParseHairpin(s string) (Hairpin, error) {
	for i, name := range hairpinNames {
		if s == name && Hairpin(i) != HairpinUnknown {
			return Hairpin(i), nil
		}
	}
	return HairpinUnknown, fmt.Errorf("turn.hairpin: %q is not a choice: write all, same-prefix or off", s)
}

// Rule says why a [Policy] judged as it did. Its String is the metric label and the log's rule field; the
// upper half of the values, up to [RuleCount], are the same rules for an IPv4 address inside the IPv6 address judged.
type Rule uint8

const (
	RuleUnknown Rule = iota // no judgement

	// Allowed.
	RuleDefault         // nothing refuses it
	RuleAllowedByConfig // an entry of turn.peers.allow or turn.clients names it
	RuleOwnRelay        // a relayed address of this server
	RuleOwnService      // a rendezvous listener of this server

	// Refused for what the address is.
	RuleInvalidAddress // not an address
	RuleZone           // carries a zone: it means something on one link of one host only
	RuleUnspecified    // :: and 0.0.0.0/8, which reach this host or nobody
	RuleMulticast
	RuleBroadcast      // 255.255.255.255, and the first and last address of an on-link IPv4 prefix
	RuleLoopback       // 127.0.0.0/8, ::1
	RuleLinkLocal      // 169.254.0.0/16, fe80::/10
	RuleMetadata       // where clouds answer questions about the machine, credentials among them
	RuleOwnAddress     // this host, at a port that is neither a relayed one nor a service
	RulePrivate        // RFC 1918, fc00::/7, fec0::/10
	RuleCGN            // 100.64.0.0/10, between a carrier's NAT and its customers
	RuleReserved       // 240.0.0.0/4, and IPv6 outside the global unicast space
	RuleSpecialPurpose // the rest of the IANA special-purpose registries

	// Refused for where it is.
	RuleOnLink          // a neighbour: reached without a router
	RuleNotDefaultRoute // reached by a route other than the default, or by none

	// Refused for other reasons.
	RuleDeniedByConfig  // an entry of turn.peers.deny names it
	RulePort            // not in turn.peers.ports
	RuleHairpin         // another client of this server, and turn.hairpin keeps them apart
	RuleClientNotListed // no entry of turn.clients, or of the profile's list, names the client
	RulePayload         // not what turn.peers.payload lets pass; judged by a Gate, not by a Policy
	RuleReversePath     // the way back to the client leaves by another interface than the packet came by

	ruleCount
)

// RuleCount is above every Rule, so that an array of that length may be indexed by one.
const RuleCount = 2 * int(ruleCount)

var ruleNames = [ruleCount]string{
	RuleUnknown:         "unknown",
	RuleDefault:         "default",
	RuleAllowedByConfig: "allowed-by-config",
	RuleOwnRelay:        "own-relay",
	RuleOwnService:      "own-service",
	RuleInvalidAddress:  "invalid-address",
	RuleZone:            "zone",
	RuleUnspecified:     "unspecified",
	RuleMulticast:       "multicast",
	RuleBroadcast:       "broadcast",
	RuleLoopback:        "loopback",
	RuleLinkLocal:       "link-local",
	RuleMetadata:        "metadata",
	RuleOwnAddress:      "own-address",
	RulePrivate:         "private",
	RuleCGN:             "cgn",
	RuleReserved:        "reserved",
	RuleSpecialPurpose:  "special-purpose",
	RuleOnLink:          "on-link",
	RuleNotDefaultRoute: "not-default-route",
	RuleDeniedByConfig:  "denied-by-config",
	RulePort:            "port",
	RuleHairpin:         "hairpin",
	RuleClientNotListed: "client-not-listed",
	RulePayload:         "payload",
	RuleReversePath:     "reverse-path",
}

// embeddedRuleNames holds the names with their prefix, so that String never allocates.
var embeddedRuleNames = func() (names [ruleCount]string) {
	for i, name := range ruleNames {
		names[i] = "embedded-ipv4:" + name
	}
	return names
}()

// String returns the rule's name: "loopback", or "embedded-ipv4:loopback" when it is the rule of an IPv4 address
// inside the IPv6 address judged.
func (r Rule) String() string {
	switch {
	case r < ruleCount:
		return ruleNames[r]
	case int(r) < RuleCount:
		return embeddedRuleNames[r-ruleCount]
	}
	return ruleNames[RuleUnknown]
}

// Embedded reports whether the rule is that of an IPv4 address inside the IPv6 address judged.
func (r Rule) Embedded() bool { return r >= ruleCount }

// Base returns the rule that an address has when it stands alone.
func (r Rule) Base() Rule {
	if r.Embedded() {
		return r - ruleCount
	}
	return r
}

// embedded returns the rule for an address that stands inside another.
func (r Rule) embedded() Rule { return r.Base() + ruleCount }

// Verdict is a judgement and the rule that it rests on. The zero Verdict refuses.
type Verdict struct {
	Allowed bool
	Rule    Rule
}

func allowed(r Rule) Verdict { return Verdict{Allowed: true, Rule: r} }
func refused(r Rule) Verdict { return Verdict{Rule: r} }
