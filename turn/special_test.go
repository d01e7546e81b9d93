package turn

import (
	"net/netip"
	"testing"
)

func TestEveryRegistryRowIsJudgedFromItsFirstToItsLastAddress(t *testing.T) {
	rows := append(append(append([]special(nil), registry...), addressSpace...), metadata...)
	base := PolicyConfig{Profile: ProfileCorporate}
	corporate := policyOf(t, base)
	lab := policyOf(t, PolicyConfig{Profile: ProfileLab})
	base.Allow = prefixesOf("0.0.0.0/0", "::/0")
	everything := policyOf(t, base)
	seen := make(map[netip.Prefix]bool)
	for _, r := range rows {
		if r.prefix != r.prefix.Masked() || seen[r.prefix] || r.name == "" || r.ref == "" {
			t.Errorf("%v: is not masked, is there twice, or says nothing", r.prefix)
		}
		seen[r.prefix] = true
		if r.rule == RuleDefault != (r.reach == reachOpen) {
			t.Errorf("%v: the rule is %v, but the reach is %d", r.prefix, r.rule, r.reach)
		}
		for _, a := range []netip.Addr{r.prefix.Addr(), lastAddress(r.prefix)} {
			if v := corporate.JudgePeer(a); v.Allowed != (r.reach == reachOpen) && a != ipOf("64:ff9b::") && a != ipOf("64:ff9b::ffff:ffff") {
				t.Errorf("%v: %v: corporate says %s", r.prefix, a, verdictString(v))
			}
			if v := everything.JudgePeer(a); v.Allowed && r.reach != reachOpen {
				t.Errorf("%v: %v: an allow entry for everything opens it", r.prefix, a)
			}
			if v := lab.JudgePeer(a); v.Allowed && r.reach < reachLab {
				t.Errorf("%v: %v: lab opens it", r.prefix, a)
			}
		}
		// An entry for the row itself opens the address at which no narrower row and no embedded address stands in the way.
		cfg := PolicyConfig{Profile: ProfileCorporate, Allow: []netip.Prefix{r.prefix}}
		p, err := NewPolicy(cfg)
		if (err != nil) != (r.reach == reachNever) {
			t.Errorf("%v: as an allow entry: %v", r.prefix, err)
		}
		if err != nil {
			continue
		}
		a := r.prefix.Addr()
		if c := canonicalize(a, 0); c.count > 0 {
			continue
		}
		if _, narrower, _ := p.special.lookup(a); narrower.prefix == r.prefix && p.JudgePeer(a) != allowed(RuleAllowedByConfig) && r.prefix.Bits() >= 16 {
			t.Errorf("%v: %v: its own allow entry does not open it: %s", r.prefix, a, verdictString(p.JudgePeer(a)))
		}
	}
}

func TestIPv6OutsideGlobalUnicastIsRefused(t *testing.T) {
	p := policyOf(t, PolicyConfig{Profile: ProfileCorporate})
	for first := range 0x10000 {
		a := netip.AddrFrom16([16]byte{0: byte(first >> 8), 1: byte(first), 2: 0xab, 6: 1, 7: 2, 15: 1})
		global := first>>13 == 1 && first != 0x2002 && first != 0x3fff
		if got := p.JudgePeer(a); got.Allowed != global && first != 0x3fff {
			t.Fatalf("%v: %s", a, verdictString(got))
		}
	}
}
