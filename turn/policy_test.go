package turn

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// publicConfig is a server with a default route and nothing else.
func publicConfig() PolicyConfig {
	return PolicyConfig{
		Profile: ProfileCorporate,
		Routes:  []Route{routeOf("0.0.0.0/0", 2, "192.0.2.1"), routeOf("::/0", 2, "fe80::1")},
	}
}

func TestAllowEntryOpensARangeOnlyFromInside(t *testing.T) {
	tests := []struct {
		name, peer, closed string
		opening            []string
		tooWide            []string
	}{
		{"private", "10.2.3.4", "private", []string{"10.0.0.0/8", "10.2.0.0/16", "10.2.3.4/32"}, []string{"0.0.0.0/0", "8.0.0.0/6"}},
		{"unique local", "fd00:1::1", "private", []string{"fc00::/7", "fd00:1::/32"}, []string{"::/0", "f000::/4"}},
		{"shared", "100.64.0.1", "cgn", []string{"100.64.0.0/10"}, []string{"100.0.0.0/8"}},
		{"loopback", "127.0.0.1", "loopback", []string{"127.0.0.0/8", "127.0.0.1/32"}, []string{"0.0.0.0/0", "126.0.0.0/7"}},
		{"loopback IPv6", "::1", "loopback", []string{"::1/128"}, []string{"::/0", "::/127", "::/96"}},
		{"link-local", "169.254.7.7", "link-local", []string{"169.254.0.0/16"}, []string{"169.0.0.0/8"}},
		{"class E", "250.1.1.1", "reserved", []string{"240.0.0.0/4", "250.1.0.0/16"}, []string{"0.0.0.0/0", "128.0.0.0/1"}},
		{"benchmarking", "198.18.1.1", "special-purpose", []string{"198.18.0.0/15"}, []string{"198.0.0.0/8"}},
		{"unassigned IPv6", "4001::1", "reserved", []string{"4000::/2", "4001::/16"}, []string{"::/0"}},
		{"6to4", "2002:5db8:d822::1", "special-purpose", []string{"2002::/16", "2002:5db8:d822::/48"}, []string{"2000::/3"}},
		{"link-local metadata", "169.254.169.254", "metadata", []string{"169.254.169.254/32"}, []string{"169.254.0.0/16", "169.254.169.254/31"}},
		{"public metadata", "168.63.129.16", "metadata", []string{"168.63.129.16/32"}, []string{"168.63.129.0/24", "0.0.0.0/0"}},
		{"own address", "198.51.100.9", "own-address", []string{"198.51.100.9/32"}, []string{"198.51.100.8/31", "198.51.100.0/24"}},
		{"own IPv6 address", "2a00:1:2:3::5", "own-address", []string{"2a00:1:2:3::5/128"}, []string{"2a00:1:2:3::/64"}},
		{"neighbour", "198.51.100.50", "on-link", []string{"198.51.100.0/25", "198.51.0.0/16", "198.0.0.0/8"}, []string{"0.0.0.0/0", "198.0.0.0/7"}},
		{"IPv6 neighbour", "2a00:1:2:3::7", "on-link", []string{"2a00::/16", "2a00:1:2:3::/64"}, []string{"::/0", "2a00::/15"}},
		{"internal", "130.10.1.1", "not-default-route", []string{"130.10.1.0/24", "130.0.0.0/8"}, []string{"0.0.0.0/0", "128.0.0.0/7"}},
	}
	for _, tt := range tests {
		judge := func(entry string) Verdict {
			cfg := corpusConfig(ProfileCorporate)
			cfg.Deny, cfg.Allow = nil, nil
			if entry != "" {
				cfg.Allow = prefixesOf(entry)
			}
			return policyOf(t, cfg).JudgePeer(ipOf(tt.peer))
		}
		for _, entry := range append([]string{""}, tt.tooWide...) {
			if got := verdictString(judge(entry)); got != tt.closed {
				t.Errorf("%s: allow %q: %s gives %s, want %s", tt.name, entry, tt.peer, got, tt.closed)
			}
		}
		for _, entry := range tt.opening {
			if got := verdictString(judge(entry)); got != "+allowed-by-config" {
				t.Errorf("%s: allow %q: %s gives %s, want +allowed-by-config", tt.name, entry, tt.peer, got)
			}
		}
	}
}

func TestTheLongestListEntryDecidesAndDenyWinsATie(t *testing.T) {
	cfg := publicConfig()
	cfg.Deny = prefixesOf("0.0.0.0/0", "93.184.216.0/24", "10.7.9.0/24", "192.0.2.0/24")
	cfg.Allow = prefixesOf("93.184.0.0/16", "93.184.216.34/32", "10.7.0.0/16", "192.0.2.0/24")
	p := policyOf(t, cfg)
	for peer, want := range map[string]string{
		"93.184.1.1":          "+allowed-by-config",
		"93.184.216.33":       "denied-by-config",
		"93.184.216.34":       "+allowed-by-config",
		"10.7.1.1":            "+allowed-by-config",
		"10.7.9.1":            "denied-by-config",
		"192.0.2.1":           "denied-by-config",
		"8.8.8.8":             "denied-by-config",
		"2a00:1450::1":        "+default",
		"64:ff9b::8.8.8.8":    "embedded-ipv4:denied-by-config",
		"64:ff9b::93.184.1.1": "+default",
	} {
		if got := verdictString(p.JudgePeer(ipOf(peer))); got != want {
			t.Errorf("%s: got %s, want %s", peer, got, want)
		}
	}
}

func TestAnAllowedTranslatorPrefixSaysWhereTheAddressIs(t *testing.T) {
	for entry, peers := range map[string][2]string{ // a public address, 10.1.2.3
		"64:ff9b:1::/48":      {"64:ff9b:1:820a:1:100::", "64:ff9b:1:0a01:2:300::"},
		"64:ff9b:1:100::/56":  {"64:ff9b:1:182:a:101::", "64:ff9b:1:10a:1:203::"},
		"64:ff9b:1:7::/64":    {"64:ff9b:1:7:82:a01:100:0", "64:ff9b:1:7:a:102:300:0"},
		"64:ff9b:1:7::/96":    {"64:ff9b:1:7::130.10.1.1", "64:ff9b:1:7::10.1.2.3"},
		"64:ff9b:1:fff0::/96": {"64:ff9b:1:fff0::130.10.1.1", "64:ff9b:1:fff0::10.1.2.3"},
	} {
		for _, profile := range []Profile{ProfileCorporate, ProfilePublic} {
			cfg := publicConfig()
			cfg.Profile, cfg.Allow = profile, prefixesOf(entry)
			p := policyOf(t, cfg)
			if got := verdictString(p.JudgePeer(ipOf(peers[0]))); got != "+allowed-by-config" {
				t.Errorf("%s: %s: got %s, want it allowed", entry, peers[0], got)
			}
			if got := verdictString(p.JudgePeer(ipOf(peers[1]))); got != "embedded-ipv4:private" {
				t.Errorf("%s: %s: got %s, want embedded-ipv4:private", entry, peers[1], got)
			}
		}
	}
}

func TestWithoutAnIPv4RouteNAT64StillReachesThePublicInternet(t *testing.T) {
	cfg := PolicyConfig{Profile: ProfileCorporate, Routes: []Route{routeOf("::/0", 2, "fe80::1")}}
	p := policyOf(t, cfg)
	for peer, want := range map[string]string{
		"64:ff9b::93.184.216.34": "+default",
		"64:ff9b::10.0.0.1":      "embedded-ipv4:private",
		"93.184.216.34":          "not-default-route",
	} {
		if got := verdictString(p.JudgePeer(ipOf(peer))); got != want {
			t.Errorf("%s: got %s, want %s", peer, got, want)
		}
	}
}

func TestTheDefaultRouteMayBeWrittenInHalves(t *testing.T) {
	p := policyOf(t, PolicyConfig{Profile: ProfilePublic, Routes: []Route{
		routeOf("0.0.0.0/1", 7, ""), routeOf("128.0.0.0/1", 7, ""), routeOf("2000::/3", 7, "fe80::1"), routeOf("9.0.0.0/8", 7, ""),
	}})
	for peer, want := range map[string]string{
		"93.184.216.34": "+default", "193.0.0.1": "+default", "2a00:1450::1": "+default", "9.9.9.9": "on-link",
		"127.255.255.255": "loopback", "9.255.255.255": "broadcast", "128.0.0.0": "+default",
	} {
		if got := verdictString(p.JudgePeer(ipOf(peer))); got != want {
			t.Errorf("%s: got %s, want %s", peer, got, want)
		}
	}
}

func TestOneRouteWithoutAGatewayMakesAPrefixOnLink(t *testing.T) {
	for _, gateways := range [][2]string{{"", "192.0.2.9"}, {"192.0.2.9", ""}} {
		cfg := publicConfig()
		cfg.Routes = append(cfg.Routes, routeOf("93.184.0.0/16", 3, gateways[0]), routeOf("93.184.0.0/16", 4, gateways[1]))
		if got := verdictString(policyOf(t, cfg).JudgePeer(ipOf("93.184.216.34"))); got != "on-link" {
			t.Errorf("gateways %q: got %s, want on-link", gateways, got)
		}
	}
}

func TestPointToPointSubnetsHaveNoBroadcastAddress(t *testing.T) {
	cfg := publicConfig()
	cfg.Routes = append(cfg.Routes, routeOf("93.184.216.34/31", 3, ""), routeOf("93.184.217.4/30", 3, ""), routeOf("93.184.218.0/24", 3, "192.0.2.9"))
	cfg.Allow = prefixesOf("93.184.0.0/16")
	p := policyOf(t, cfg)
	for peer, want := range map[string]string{
		"93.184.216.34": "+allowed-by-config", "93.184.216.35": "+allowed-by-config",
		"93.184.217.4": "broadcast", "93.184.217.5": "+allowed-by-config", "93.184.217.7": "broadcast",
		"93.184.218.255": "+allowed-by-config", // not on-link: it looks like any host
	} {
		if got := verdictString(p.JudgePeer(ipOf(peer))); got != want {
			t.Errorf("%s: got %s, want %s", peer, got, want)
		}
	}
}

func TestOwnRelaysAndServicesAreReachableInEveryProfileAndNothingElseThere(t *testing.T) {
	for _, profile := range []Profile{ProfileCorporate, ProfilePublic, ProfileLab} {
		cfg := corpusConfig(profile)
		cfg.Deny = prefixesOf("0.0.0.0/0", "::/0") // closes anything but these
		cfg.Allow = nil
		cfg.Ports = NewPortSet([]PortRange{{2000, 3000}})
		cfg.Services = append(cfg.Services, endpointOf("198.51.100.9:1935"))
		p := policyOf(t, cfg)
		for peer, want := range map[string]string{ // address, port
			"10.1.0.5:49152":     "+own-relay +own-relay",
			"203.0.113.5:65535":  "+own-relay +own-relay",
			"203.0.113.5:49151":  "+own-relay denied-by-config",
			"203.0.113.5:22":     "+own-relay denied-by-config",
			"203.0.113.5:1935":   "+own-relay +own-service",
			"10.1.0.5:1935":      "+own-relay +own-service",
			"198.51.100.9:1935":  "+own-service +own-service",
			"198.51.100.9:2500":  "+own-service denied-by-config",
			"198.51.100.9:50000": "+own-service denied-by-config",
			"10.2.0.5:1935":      "denied-by-config denied-by-config",
			"8.8.8.8:2500":       "denied-by-config +default",
			"8.8.8.8:3001":       "denied-by-config port",
		} {
			for _, form := range []netip.AddrPort{endpointOf(peer), netip.AddrPortFrom(mapped(endpointOf(peer).Addr()), endpointOf(peer).Port())} {
				if got := verdictString(p.JudgePeer(form.Addr())) + " " + verdictString(p.JudgePort(form)); got != want {
					t.Errorf("%v: %v: got %s, want %s", profile, form, got, want)
				}
			}
		}
	}
}

func TestOwnAddressesRefuseTheirOtherPorts(t *testing.T) {
	p := policyOf(t, corpusConfig(ProfileCorporate))
	for _, peer := range []string{"203.0.113.5:22", "203.0.113.5:2500", "10.1.0.5:8080"} {
		if got := verdictString(p.JudgePort(endpointOf(peer))); got != "own-address" {
			t.Errorf("%s: got %s, want own-address", peer, got)
		}
	}
	if got := verdictString(policyOf(t, corpusConfig(ProfileLab)).JudgePort(endpointOf("10.1.0.5:8080"))); got != "+default" {
		t.Errorf("lab: got %s, want +default", got)
	}
}

func TestAnOwnAddressThatIsNoEndpointStaysRefused(t *testing.T) {
	cfg := corpusConfig(ProfileLab)
	cfg.OwnAddresses = ipsOf("10.1.0.255", "224.0.0.5", "10.1.0.6")
	p := policyOf(t, cfg)
	for peer, want := range map[string]string{"10.1.0.255": "broadcast", "224.0.0.5": "multicast", "10.1.0.6": "+default"} {
		if got := verdictString(p.JudgePeer(ipOf(peer))); got != want {
			t.Errorf("%s: got %s, want %s", peer, got, want)
		}
	}
}

func TestOwnRelayIsKnownByBothFormsAndNamedByThePublicOne(t *testing.T) {
	p := policyOf(t, corpusConfig(ProfileCorporate))
	for peer, want := range map[string]string{
		"203.0.113.5:50000":          "203.0.113.5:50000",
		"10.1.0.5:50000":             "203.0.113.5:50000",
		"[::ffff:10.1.0.5]:50000":    "203.0.113.5:50000",
		"[64:ff9b::10.1.0.5]:50000":  "",
		"10.1.0.5:1935":              "",
		"10.2.0.5:50000":             "",
		"[::ffff:203.0.113.5]:49151": "",
	} {
		got, ok := p.OwnRelay(endpointOf(peer))
		if ok != (want != "") || ok && got != endpointOf(want) {
			t.Errorf("%s: got %v, %t, want %q", peer, got, ok, want)
		}
	}
}

func TestAServiceOnTheUnspecifiedAddressIsOnEveryOwnAddress(t *testing.T) {
	cfg := corpusConfig(ProfileCorporate)
	cfg.Services = []netip.AddrPort{endpointOf("0.0.0.0:1935"), endpointOf("[::]:1936")}
	p := policyOf(t, cfg)
	for peer, want := range map[string]string{
		"10.2.0.5:1935": "+own-service", "203.0.113.5:1935": "+own-service", "10.2.0.5:1936": "+own-service",
		"[2a00:1:2:3::5]:1936": "+own-service", "[2a00:1:2:3::5]:1935": "own-address",
	} {
		if got := verdictString(p.JudgePort(endpointOf(peer))); got != want {
			t.Errorf("%s: got %s, want %s", peer, got, want)
		}
	}
}

func TestPortsOfPeersAreThoseOfTheSetOrAllFrom1024(t *testing.T) {
	cfg := publicConfig()
	byDefault := policyOf(t, cfg)
	cfg.Ports = NewPortSet([]PortRange{{443, 443}, {1024, 65535}}, PortRange{1900, 1900})
	chosen := policyOf(t, cfg)
	for port, want := range map[uint16][2]bool{ // by default, chosen
		0: {false, false}, 53: {false, false}, 443: {false, true}, 1023: {false, false}, 1024: {true, true}, 1900: {true, false}, 1935: {true, true},
		65535: {true, true},
	} {
		peer := netip.AddrPortFrom(ipOf("93.184.216.34"), port)
		if got := [2]bool{byDefault.JudgePort(peer).Allowed, chosen.JudgePort(peer).Allowed}; got != want {
			t.Errorf("port %d: got %v, want %v", port, got, want)
		}
	}
}

func TestHairpinFollowsItsMode(t *testing.T) {
	for mode, want := range map[Hairpin][3]bool{ // same prefix, different prefixes, unknown prefix
		HairpinUnknown: {true, true, true}, HairpinAll: {true, true, true}, HairpinSamePrefix: {true, false, false}, HairpinOff: {false, false, false},
	} {
		cfg := publicConfig()
		cfg.Hairpin = mode
		p := policyOf(t, cfg)
		got := [3]bool{p.JudgeHairpin(1, 1).Allowed, p.JudgeHairpin(1, 2).Allowed, p.JudgeHairpin(-1, -1).Allowed}
		if got != want {
			t.Errorf("%v: got %v, want %v", mode, got, want)
		}
	}
}

func TestClientsAreThoseOfTheProfileOrOfTheList(t *testing.T) {
	listed := corpusConfig(ProfilePublic)
	listed.Clients = prefixesOf("93.184.216.0/24", "93.184.216.34/32", "2a00:1450::/32", "::ffff:172.16.0.0/108", "172.16.0.0/12")
	tests := []struct {
		client                           string
		corporate, public, lab, fromList string
	}{
		{"10.9.9.9", "+default", "+default", "+default", "client-not-listed"},
		{"172.16.1.1", "+default", "+default", "+default", "+allowed-by-config"},
		{"192.168.1.1", "+default", "+default", "+default", "client-not-listed"},
		{"::ffff:192.168.1.1", "+default", "+default", "+default", "client-not-listed"},
		{"::192.168.1.1", "client-not-listed", "+default", "+default", "client-not-listed"},
		{"fd12::1", "+default", "+default", "+default", "client-not-listed"},
		{"127.0.0.1", "+default", "+default", "+default", "client-not-listed"},
		{"::1", "+default", "+default", "+default", "client-not-listed"},
		{"fe80::7%eth0", "client-not-listed", "+default", "+default", "client-not-listed"},
		{"169.254.3.3", "client-not-listed", "+default", "+default", "client-not-listed"},
		{"100.64.1.1", "client-not-listed", "+default", "+default", "client-not-listed"},
		{"93.184.216.34", "client-not-listed", "+default", "+default", "+allowed-by-config"},
		{"2a00:1450::1", "client-not-listed", "+default", "+default", "+allowed-by-config"},
		{"0.0.0.0", "unspecified", "unspecified", "unspecified", "unspecified"},
		{"224.0.0.1", "multicast", "multicast", "multicast", "multicast"},
		{"10.1.0.255", "broadcast", "broadcast", "broadcast", "broadcast"},
		{"255.255.255.255", "broadcast", "broadcast", "broadcast", "broadcast"},
		{"ff02::1", "multicast", "multicast", "multicast", "multicast"},
	}
	policies := []*Policy{policyOf(t, corpusConfig(ProfileCorporate)), policyOf(t, corpusConfig(ProfilePublic)), policyOf(t, corpusConfig(ProfileLab)),
		policyOf(t, listed)}
	for _, tt := range tests {
		for i, want := range []string{tt.corporate, tt.public, tt.lab, tt.fromList} {
			if got := verdictString(policies[i].JudgeClient(ipOf(tt.client), 0)); got != want {
				t.Errorf("%s, policy %d: got %s, want %s", tt.client, i, got, want)
			}
		}
	}
	p := policies[3]
	for client, want := range map[string]int{"93.184.216.1": 0, "93.184.216.34": 1, "2a00:1450::1": 2, "172.16.0.1": 3, "8.8.8.8": -1} {
		if got := p.ClientPrefix(ipOf(client)); got != want {
			t.Errorf("ClientPrefix(%s) = %d, want %d", client, got, want)
		}
	}
	if got := p.ClientPrefix(netip.Addr{}); got != -1 {
		t.Errorf("ClientPrefix of no address = %d, want -1", got)
	}
	if got := p.JudgeClient(netip.Addr{}, 0); got != refused(RuleInvalidAddress) {
		t.Errorf("JudgeClient of no address = %v", got)
	}
	if got := p.JudgePeer(netip.Addr{}); got != refused(RuleInvalidAddress) {
		t.Errorf("JudgePeer of no address = %v", got)
	}
}

func TestAClientWhoseWayBackLeavesElsewhereIsRefused(t *testing.T) {
	cfg := corpusConfig(ProfilePublic)
	cfg.Routes = append(cfg.Routes, routeOf("0.0.0.0/0", 9, "192.0.2.1")) // a second default route
	p := policyOf(t, cfg)
	tests := []struct {
		client  string
		ifIndex int
		want    string
	}{
		{"10.1.0.77", 2, "+default"},
		{"10.1.0.77", 3, "reverse-path"},
		{"10.99.0.1", 3, "+default"},
		{"10.99.0.1", 2, "reverse-path"},
		{"10.99.0.1", 0, "+default"},
		{"93.184.216.34", 2, "+default"},
		{"93.184.216.34", 9, "+default"},
		{"93.184.216.34", 4, "reverse-path"},
		{"2a00:1450::1", 2, "+default"},
		{"2a00:1450::1", 3, "reverse-path"},
		{"fe80::7%eth1", 3, "+default"},
		{"fe80::7%eth2", 4, "reverse-path"},
		{"127.0.0.1", 1, "+default"},
		{"127.0.0.9", 1, "+default"},
		{"::1", 1, "+default"},
		{"10.2.0.5", 1, "+default"}, // own addresses arrive by loopback
	}
	for _, tt := range tests {
		if got := verdictString(p.JudgeClient(ipOf(tt.client), tt.ifIndex)); got != tt.want {
			t.Errorf("%s by interface %d: got %s, want %s", tt.client, tt.ifIndex, got, tt.want)
		}
	}
	noDefault := policyOf(t, PolicyConfig{Profile: ProfilePublic, Routes: []Route{routeOf("10.0.0.0/8", 2, "")}})
	if got := verdictString(noDefault.JudgeClient(ipOf("93.184.216.34"), 2)); got != "reverse-path" {
		t.Errorf("no way back: got %s, want reverse-path", got)
	}
}

func TestUnjudgedNamesWhatCannotBeKnown(t *testing.T) {
	tests := []struct {
		name string
		cfg  PolicyConfig
		want []Rule
	}{
		{"nothing known", PolicyConfig{Profile: ProfilePublic}, []Rule{RuleOnLink, RuleNotDefaultRoute, RuleReversePath, RuleOwnAddress}},
		{"one interface", publicConfig(), []Rule{RuleReversePath, RuleOwnAddress}},
		{"all known", corpusConfig(ProfilePublic), nil},
	}
	for _, tt := range tests {
		if got := policyOf(t, tt.cfg).Unjudged(); !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
	if got := verdictString(policyOf(t, PolicyConfig{Profile: ProfilePublic}).JudgePeer(ipOf("93.184.216.34"))); got != "+default" {
		t.Errorf("without routes: got %s, want +default", got)
	}
}

func TestConfigurationMistakesNameTheKeyAndTheRemedy(t *testing.T) {
	tests := []struct {
		name   string
		change func(*PolicyConfig)
		want   string
	}{
		{"no profile", func(c *PolicyConfig) { c.Profile = ProfileUnknown }, "turn.peers.profile: is not set: write corporate, public or lab"},
		{"profile out of range", func(c *PolicyConfig) { c.Profile = 9 }, "turn.peers.profile:"},
		{"hairpin out of range", func(c *PolicyConfig) { c.Hairpin = 9 }, "turn.hairpin: 9 is not a choice"},
		{"host bits", func(c *PolicyConfig) { c.Clients = prefixesOf("10.2.0.1/16") }, "turn.clients: 10.2.0.1/16 has bits beyond its length: write 10.2.0.0/16"},
		{"invalid prefix", func(c *PolicyConfig) { c.Deny = []netip.Prefix{{}} }, "turn.peers.deny: a prefix is not valid"},
		{"invalid route", func(c *PolicyConfig) { c.Routes = []Route{{}} }, "turn: routing table: a prefix is not valid"},
		{"multicast", func(c *PolicyConfig) { c.Allow = prefixesOf("239.1.0.0/16") }, "turn.peers.allow: 239.1.0.0/16 is multicast (RFC 5771), and a relay never sends there: remove"},
		{"multicast IPv6", func(c *PolicyConfig) { c.Allow = prefixesOf("ff0e::/16") }, "turn.peers.allow: ff0e::/16 is multicast"},
		{"mapped broadcast", func(c *PolicyConfig) { c.Allow = prefixesOf("::ffff:255.255.255.255/128") }, "limited broadcast"},
		{"this network", func(c *PolicyConfig) { c.Allow = prefixesOf("0.0.0.0/8") }, "is this network (RFC 791 §3.2)"},
		{"unspecified", func(c *PolicyConfig) { c.Allow = prefixesOf("::/128") }, "is unspecified"},
		{"directed broadcast", func(c *PolicyConfig) { c.Allow = prefixesOf("10.1.0.255/32") }, "is directed broadcast"},
		{"translator", func(c *PolicyConfig) { c.Allow = prefixesOf("64:ff9b:1::/80") }, "write the translator's own prefix"},
		{"relay without ports", func(c *PolicyConfig) { c.RelayPorts = PortRange{} }, "turn.relay.ports: "},
		{"reversed ports", func(c *PolicyConfig) { c.RelayPorts = PortRange{6, 5} }, "turn.relay.ports: 6-5 is empty"},
		{"relay of two families", func(c *PolicyConfig) { c.Relays[0].Public = ipOf("2001:db8::1") }, "turn.relay.addresses: 2001:db8::1=10.1.0.5: write two addresses of one family"},
		{"relay of no address", func(c *PolicyConfig) { c.Relays[0].Local = netip.Addr{} }, "turn.relay.addresses:"},
		{"relay anywhere", func(c *PolicyConfig) { c.Relays[0].Local = ipOf("0.0.0.0") }, "turn.relay.addresses:"},
		{"public address twice", func(c *PolicyConfig) {
			c.Relays = append(c.Relays, RelayAddress{ipOf("203.0.113.5"), ipOf("10.2.0.5")})
		}, "203.0.113.5 is in two pairs"},
		{"local address twice", func(c *PolicyConfig) {
			c.Relays = append(c.Relays, RelayAddress{ipOf("203.0.113.6"), ipOf("10.1.0.5")})
		}, "10.1.0.5 is in two pairs"},
		{"public address is another's local", func(c *PolicyConfig) {
			c.Relays = append(c.Relays, RelayAddress{ipOf("10.1.0.5"), ipOf("10.1.0.5")})
		}, "10.1.0.5 is in two pairs"},
		{"own address of nothing", func(c *PolicyConfig) { c.OwnAddresses = []netip.Addr{{}} }, "turn: own address"},
		{"service without a port", func(c *PolicyConfig) { c.Services = []netip.AddrPort{netip.AddrPortFrom(ipOf("10.1.0.5"), 0)} }, "turn: own service 10.1.0.5:0"},
		{"service nowhere", func(c *PolicyConfig) {
			c.Relays, c.OwnAddresses, c.Services = nil, nil, []netip.AddrPort{endpointOf("[::]:1935")}
		}, "turn: own service [::]:1935: stands for"},
	}
	for _, tt := range tests {
		cfg := corpusConfig(ProfileCorporate)
		tt.change(&cfg)
		if _, err := NewPolicy(cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestAPolicyKeepsNothingOfItsConfiguration(t *testing.T) {
	cfg := corpusConfig(ProfileCorporate)
	p := policyOf(t, cfg)
	for i := range cfg.Allow {
		cfg.Allow[i] = netip.Prefix{}
	}
	for i := range cfg.Routes {
		cfg.Routes[i] = Route{}
	}
	cfg.Relays[0] = RelayAddress{}
	if got := verdictString(p.JudgePeer(ipOf("10.7.1.1"))); got != "+allowed-by-config" {
		t.Errorf("got %s", got)
	}
	ProfileCorporate.Clients()[0] = netip.Prefix{}
	if got := ProfileCorporate.Clients()[0]; !got.IsValid() {
		t.Error("Clients hands out its own list")
	}
}

func TestJudgingAllocatesNothing(t *testing.T) {
	p := policyOf(t, corpusConfig(ProfileCorporate))
	peers := ipsOf("93.184.216.34", "10.1.0.77", "2a00:1450::1", "64:ff9b:1::10.0.0.1", "2001:0:5db8:d822:0:5efe:f5ff:fffe", "::ffff:127.0.0.1", "203.0.113.5")
	var keep int
	if n := testing.AllocsPerRun(100, func() {
		for _, a := range peers {
			v := p.JudgePeer(a)
			keep += len(v.Rule.String())
			keep += len(p.JudgePort(netip.AddrPortFrom(a, 50000)).Rule.String())
			keep += len(p.JudgeClient(a, 2).Rule.String()) + p.ClientPrefix(a)
			if _, ok := p.OwnRelay(netip.AddrPortFrom(a, 50000)); ok {
				keep += len(p.JudgeHairpin(0, 1).Rule.String())
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkJudgePeer(b *testing.B) {
	p := policyOf(b, corpusConfig(ProfileCorporate))
	for _, peer := range []string{"93.184.216.34", "2a00:1450::1", "64:ff9b:1::10.0.0.1"} {
		b.Run(peer, func(b *testing.B) {
			b.ReportAllocs()
			for a := ipOf(peer); b.Loop(); {
				p.JudgePeer(a)
			}
		})
	}
}

func BenchmarkJudgePort(b *testing.B) {
	p := policyOf(b, corpusConfig(ProfileCorporate))
	b.ReportAllocs()
	for peer := endpointOf("93.184.216.34:50000"); b.Loop(); {
		p.JudgePort(peer)
	}
}

// mapped writes an IPv4 address in the IPv4-mapped form, and leaves others.
func mapped(a netip.Addr) netip.Addr { return netip.AddrFrom16(a.As16()) }
