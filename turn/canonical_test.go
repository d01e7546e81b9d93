package turn

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// disguise writes an IPv4 address into an IPv6 address, by text: it shares nothing with canonicalize.
type disguise struct {
	name  string
	write func(a, b, c, d byte) string
}

var disguises = []disguise{
	{"IPv4-mapped", func(a, b, c, d byte) string { return fmt.Sprintf("::ffff:%d.%d.%d.%d", a, b, c, d) }},
	{"IPv4-compatible", func(a, b, c, d byte) string { return fmt.Sprintf("::%d.%d.%d.%d", a, b, c, d) }},
	{"IPv4-translated", func(a, b, c, d byte) string { return fmt.Sprintf("::ffff:0:%d.%d.%d.%d", a, b, c, d) }},
	{"NAT64", func(a, b, c, d byte) string { return fmt.Sprintf("64:ff9b::%d.%d.%d.%d", a, b, c, d) }},
	{"local-use NAT64 /48", func(a, b, c, d byte) string { return fmt.Sprintf("64:ff9b:1:%02x%02x:%02x:%02x00::", a, b, c, d) }},
	{"local-use NAT64 /56", func(a, b, c, d byte) string { return fmt.Sprintf("64:ff9b:1:77%02x:%02x:%02x%02x::", a, b, c, d) }},
	{"local-use NAT64 /64", func(a, b, c, d byte) string {
		return fmt.Sprintf("64:ff9b:1:7777:%02x:%02x%02x:%02x00:0", a, b, c, d)
	}},
	{"local-use NAT64 /96", func(a, b, c, d byte) string {
		return fmt.Sprintf("64:ff9b:1:7777:77:7777:%d.%d.%d.%d", a, b, c, d)
	}},
	{"6to4", func(a, b, c, d byte) string { return fmt.Sprintf("2002:%02x%02x:%02x%02x:7:7:7:7:7", a, b, c, d) }},
	{"Teredo client", func(a, b, c, d byte) string {
		return fmt.Sprintf("2001:0:5db8:d822:8000:7777:%02x%02x:%02x%02x", a^255, b^255, c^255, d^255)
	}},
	{"Teredo server", func(a, b, c, d byte) string {
		return fmt.Sprintf("2001:0:%02x%02x:%02x%02x:8000:7777:a247:27dd", a, b, c, d)
	}},
	{"ISATAP", func(a, b, c, d byte) string { return fmt.Sprintf("2a00:1450:7:7:0:5efe:%d.%d.%d.%d", a, b, c, d) }},
	{"ISATAP, universal", func(a, b, c, d byte) string { return fmt.Sprintf("2a00:1450:7:7:200:5efe:%d.%d.%d.%d", a, b, c, d) }},
	{"ISATAP under 6to4", func(a, b, c, d byte) string { return fmt.Sprintf("2002:5db8:d822:7:0:5efe:%d.%d.%d.%d", a, b, c, d) }},
	{"ISATAP under unique local", func(a, b, c, d byte) string { return fmt.Sprintf("fd00:7::5efe:%d.%d.%d.%d", a, b, c, d) }},
	{"ISATAP under link-local", func(a, b, c, d byte) string { return fmt.Sprintf("fe80::5efe:%d.%d.%d.%d", a, b, c, d) }},
}

func (d disguise) of(a netip.Addr) netip.Addr {
	b := a.As4()
	return ipOf(d.write(b[0], b[1], b[2], b[3]))
}

func TestEveryDisguiseGivesItsAddressAway(t *testing.T) {
	want := ipOf("198.51.100.203")
	for _, d := range disguises {
		a := d.of(want)
		c := canonicalize(a, 0)
		if c.addr != want && !slices.Contains(c.inner[:c.count], want) {
			t.Errorf("%s: %v: %v and %v inside", d.name, a, c.addr, c.inner[:c.count])
		}
	}
	for _, plain := range []string{"::", "::1", "2a00:1450::1", "2a00:1450::5efe", "2a00::1:5efe:10.0.0.1", "2a00::0:5eff:10.0.0.1", "64:ff9b:2::10.0.0.1"} {
		if c := canonicalize(ipOf(plain), 0); c.count != 0 || c.addr != ipOf(plain) {
			t.Errorf("%s: %v inside, want nothing", plain, c.inner[:c.count])
		}
	}
}

// Whatever the configuration: where an IPv4 address is refused, no disguise of it is allowed.
func TestNoDisguiseOfARefusedAddressIsAllowed(t *testing.T) {
	known := []string{"127.0.0.1", "0.0.0.0", "0.0.0.1", "10.1.0.77", "10.7.1.1", "10.7.9.1", "172.16.5.1", "192.168.0.1", "169.254.169.254", "168.63.129.16",
		"100.100.100.200", "100.64.9.9", "224.0.0.1", "255.255.255.255", "240.0.0.1", "198.51.100.127", "198.51.100.50", "130.10.0.1", "8.8.4.4",
		"10.1.0.5", "10.2.0.5", "203.0.113.5", "198.51.100.9", "192.0.0.10", "198.18.0.1", "93.184.216.34"}
	allow := prefixesOf("10.0.0.0/8", "10.7.0.0/16", "127.0.0.0/8", "169.254.169.254/32", "0.0.0.0/0", "192.0.2.0/24", "::/0", "2002::/16", "2001::/32", "::/96",
		"::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b::/32", "2a00::/16", "fe80::/10", "fc00::/7", "fd00:7::/64", "130.0.0.0/8", "240.0.0.0/4", "::/3")
	deny := prefixesOf("10.7.9.0/24", "8.8.4.0/24", "0.0.0.0/0", "93.184.0.0/16", "127.0.0.1/32", "2a00:bad::/32", "64:ff9b::/96")
	rapid.Check(t, func(t *rapid.T) {
		cfg := corpusConfig(rapid.SampledFrom([]Profile{ProfileCorporate, ProfilePublic, ProfileLab}).Draw(t, "profile"))
		cfg.Allow = rapid.SliceOfN(rapid.SampledFrom(allow), 0, 6).Draw(t, "allow")
		cfg.Deny = rapid.SliceOfN(rapid.SampledFrom(deny), 0, 3).Draw(t, "deny")
		if rapid.Bool().Draw(t, "routes unknown") {
			cfg.Routes = nil
		}
		p, err := NewPolicy(cfg)
		if err != nil {
			t.Fatal(err)
		}
		b := [4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "octets"))
		a := netip.AddrFrom4(b)
		if rapid.Bool().Draw(t, "known") {
			a = ipOf(rapid.SampledFrom(known).Draw(t, "address"))
		}
		plain := p.JudgePeer(a)
		if got := p.JudgePeer(mapped(a)); got != plain {
			t.Fatalf("%v: %s, but IPv4-mapped %s", a, verdictString(plain), verdictString(got))
		}
		for _, d := range disguises {
			in := d.of(a)
			if in == ipOf("::1") {
				continue // loopback itself
			}
			got := p.JudgePeer(in)
			if got.Allowed && !plain.Allowed {
				t.Fatalf("%v is refused (%v), but as %s it is %v, and allowed (%v)", a, plain.Rule, d.name, in, got.Rule)
			}
			if in.Unmap() == a {
				continue // the same address, its exception for own relays included
			}
			if got.Allowed && cfg.Profile != ProfileLab && !p.judge(a).Allowed {
				t.Fatalf("%v is reachable as this server's own only, but as %s it is %v, and allowed (%v)", a, d.name, in, got.Rule)
			}
		}
	})
}

func FuzzJudgePeer(f *testing.F) {
	for _, line := range readCorpus(f) {
		b, err := line.peer.MarshalBinary()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	var policies [ProfileLab + 1]*Policy
	for _, profile := range []Profile{ProfileCorporate, ProfilePublic, ProfileLab} {
		policies[profile] = policyOf(f, corpusConfig(profile))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var a netip.Addr
		if err := a.UnmarshalBinary(b); err != nil {
			return
		}
		var verdicts [ProfileLab + 1]Verdict
		for _, profile := range []Profile{ProfileCorporate, ProfilePublic, ProfileLab} {
			p := policies[profile]
			v := p.JudgePeer(a)
			verdicts[profile] = v
			if v.Rule.String() == "unknown" {
				t.Fatalf("%v: %v: no rule", profile, a)
			}
			if a.Zone() == "" && v != p.JudgePeer(a.Unmap()) || a.Is4() && v != p.JudgePeer(mapped(a)) {
				t.Fatalf("%v: %v: IPv4-mapped and IPv4 differ", profile, a)
			}
			if a.Zone() != "" && v.Allowed {
				t.Fatalf("%v: %v: allowed with a zone", profile, a)
			}
			if u := a.Unmap(); v.Allowed && (u.IsMulticast() || u.IsUnspecified() || u == ipOf("255.255.255.255")) {
				t.Fatalf("%v: %v: allowed", profile, a)
			}
			if v.Allowed && profile != ProfileLab && v.Rule == RuleDefault &&
				(a.Unmap().IsPrivate() || a.Unmap().IsLoopback() || a.Unmap().IsLinkLocalUnicast()) {
				t.Fatalf("%v: %v: allowed without an entry", profile, a)
			}
			c := canonicalize(a.WithZone(""), 0)
			for _, inner := range c.inner[:c.count] {
				if v.Allowed && !p.judge(inner).Allowed && p.judge(inner).Rule != RuleNotDefaultRoute {
					t.Fatalf("%v: %v: allowed with %v inside", profile, a, inner)
				}
			}
		}
		if verdicts[ProfileCorporate] != verdicts[ProfilePublic] {
			t.Fatalf("%v: corporate and public differ", a)
		}
		if verdicts[ProfileCorporate].Allowed && !verdicts[ProfileLab].Allowed {
			t.Fatalf("%v: allowed in corporate, refused in lab", a)
		}
	})
}
