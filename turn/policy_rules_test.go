package turn

import "testing"

func TestEveryRuleHasItsOwnName(t *testing.T) {
	seen := make(map[string]Rule)
	for i := range RuleCount {
		r := Rule(i)
		name := r.String()
		if other, ok := seen[name]; ok || name == "" {
			t.Errorf("rules %d and %d are both called %q", other, r, name)
		}
		seen[name] = r
		if r.Base().Embedded() || r.embedded() != r.Base().embedded() || !r.embedded().Embedded() {
			t.Errorf("%v: Base and embedded do not agree", r)
		}
	}
	if got := Rule(RuleCount).String(); got != "unknown" {
		t.Errorf("a rule out of range is called %q", got)
	}
}

func TestNamesOfProfilesAndHairpinModesReadBack(t *testing.T) {
	for _, p := range []Profile{ProfileCorporate, ProfilePublic, ProfileLab} {
		if got, err := ParseProfile(p.String()); got != p || err != nil {
			t.Errorf("%v: got %v, %v", p, got, err)
		}
	}
	for _, h := range []Hairpin{HairpinAll, HairpinSamePrefix, HairpinOff} {
		if got, err := ParseHairpin(h.String()); got != h || err != nil {
			t.Errorf("%v: got %v, %v", h, got, err)
		}
	}
	for _, s := range []string{"", "unknown", "Corporate", "all "} {
		if p, err := ParseProfile(s); err == nil {
			t.Errorf("ParseProfile(%q) = %v", s, p)
		}
		if h, err := ParseHairpin(s); err == nil {
			t.Errorf("ParseHairpin(%q) = %v", s, h)
		}
	}
	if Profile(200).String() != "unknown" || Hairpin(200).String() != "unknown" {
		t.Error("a value out of range has a name")
	}
}
