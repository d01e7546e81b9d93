package turn

import (
	"bufio"
	"net/netip"
	"os"
	"strings"
	"testing"
)

// corpusConfig is the server that testdata/policy/peers.txt describes.
func corpusConfig(profile Profile) PolicyConfig {
	return PolicyConfig{
		Profile: profile,
		Allow:   prefixesOf("10.7.0.0/16", "172.16.5.0/24", "100.64.9.0/24"),
		Deny:    prefixesOf("10.7.9.0/24", "8.8.4.0/24", "2a00:bad::/32"),
		Routes: []Route{
			routeOf("0.0.0.0/0", 2, "10.1.0.1"),
			routeOf("10.1.0.0/24", 2, ""),
			routeOf("10.2.0.0/24", 3, ""),
			routeOf("10.0.0.0/8", 3, "10.2.0.1"),
			routeOf("130.10.0.0/16", 3, "10.2.0.1"),
			routeOf("198.51.100.0/25", 4, ""),
			routeOf("::/0", 2, "fe80::1"),
			routeOf("2a00:1:2:3::/64", 2, ""),
			routeOf("2a00:1:2:4::/64", 3, "fe80::2"),
			routeOf("fe80::/64", 2, ""),
			routeOf("fe80::/64", 3, ""),
		},
		OwnAddresses: ipsOf("127.0.0.1", "::1", "10.1.0.5", "10.2.0.5", "198.51.100.9", "2a00:1:2:3::5", "fe80::5%eth0"),
		Relays:       []RelayAddress{{Public: ipOf("203.0.113.5"), Local: ipOf("10.1.0.5")}},
		RelayPorts:   PortRange{49152, 65535},
		Services:     []netip.AddrPort{endpointOf("10.1.0.5:1935"), endpointOf("203.0.113.5:1935")},
	}
}

type corpusLine struct {
	peer           netip.Addr
	corporate, lab string
	what           string
}

func readCorpus(t testing.TB) (lines []corpusLine) {
	t.Helper()
	f, err := os.Open("testdata/policy/peers.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if strings.HasPrefix(s.Text(), "#") {
			continue
		}
		fields := strings.Fields(s.Text())
		if len(fields) < 4 {
			t.Fatalf("%q: want address, two verdicts and words", s.Text())
		}
		lines = append(lines, corpusLine{ipOf(fields[0]), fields[1], fields[2], strings.Join(fields[3:], " ")})
	}
	if len(lines) < 500 {
		t.Fatalf("%d lines: the corpus is not whole", len(lines))
	}
	return lines
}

func verdictString(v Verdict) string {
	if v.Allowed {
		return "+" + v.Rule.String()
	}
	return v.Rule.String()
}

func TestEveryDisguiseIsJudgedAsTheCorpusSays(t *testing.T) {
	corporate := policyOf(t, corpusConfig(ProfileCorporate))
	public := policyOf(t, corpusConfig(ProfilePublic))
	lab := policyOf(t, corpusConfig(ProfileLab))
	for _, line := range readCorpus(t) {
		if got := verdictString(corporate.JudgePeer(line.peer)); got != line.corporate {
			t.Errorf("%v (%s): corporate: got %s, want %s", line.peer, line.what, got, line.corporate)
		}
		if got := verdictString(public.JudgePeer(line.peer)); got != line.corporate {
			t.Errorf("%v (%s): public: got %s, want %s", line.peer, line.what, got, line.corporate)
		}
		if got := verdictString(lab.JudgePeer(line.peer)); got != line.lab {
			t.Errorf("%v (%s): lab: got %s, want %s", line.peer, line.what, got, line.lab)
		}
	}
}

func policyOf(t testing.TB, cfg PolicyConfig) *Policy {
	t.Helper()
	p, err := NewPolicy(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func ipOf(s string) netip.Addr           { return netip.MustParseAddr(s) }
func endpointOf(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func ipsOf(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, ipOf(s))
	}
	return out
}

func prefixesOf(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func routeOf(prefix string, ifIndex int, gateway string) Route {
	r := Route{Prefix: netip.MustParsePrefix(prefix), Interface: ifIndex}
	if gateway != "" {
		r.Gateway = ipOf(gateway)
	}
	return r
}
