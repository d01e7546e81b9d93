package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/stilenet/stile/internal/config"
	"github.com/stilenet/stile/nattest"
	"github.com/stilenet/stile/nattest/natlab"
	"github.com/stilenet/stile/turn"
	"github.com/stilenet/stile/turn/dataplane"
)

// edge is a machine with two public addresses; the default route uses the first.
var edge = &host{
	own:     []netip.Addr{netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("198.51.100.3"), netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("2001:db8::2")},
	source4: netip.MustParseAddr("198.51.100.2"), source6: netip.MustParseAddr("2001:db8::2"),
	routes: []turn.Route{
		{Prefix: netip.MustParsePrefix("0.0.0.0/0"), Interface: 2, Gateway: netip.MustParseAddr("198.51.100.1")},
		{Prefix: netip.MustParsePrefix("198.51.100.0/29"), Interface: 2},
	},
}

func configOf(t *testing.T, args ...string) *config.Config {
	t.Helper()
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	config.Flags(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(config.Source{Flags: fs, Environ: []string{"HOME=/nonexistent"}})
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// corners lists the sockets of a discovery as listener@address for each corner.
func corners(d turn.Discovery, l []dataplane.Listener) string {
	if d.Ports[0] == 0 {
		return "none"
	}
	var out []string
	for a := range 2 {
		for p := range 2 {
			if d.Ports[p] != 0 && (a == 0 || d.Addrs[1].Local.IsValid()) {
				out = append(out, fmt.Sprint(l[d.Listeners[a][p]].Address))
			}
		}
	}
	return strings.Join(out, " ")
}

func TestDiscoveryHasASocketForEachCorner(t *testing.T) {
	for name, tc := range map[string]struct {
		args       []string
		four, six  string
		first      string // the first address of IPv4, as a prober at the second one is told
		more, page string
	}{
		"nothing configured": {nil, "[::]:3478 [::]:3479", "[::]:3478 [::]:3479", "198.51.100.2", "udp://[::]:3479",
			"STUN on UDP ports 3478 and 3479; for all of RFC 5780 name a second address in stun.alternate.address"},
		"a second address": {[]string{"--stun.alternate.address=198.51.100.3"}, "[::]:3478 [::]:3479 [::]:3478 [::]:3479", "[::]:3478 [::]:3479", "198.51.100.2",
			"udp://[::]:3479", "STUN on UDP ports 3478 and 3479 of 198.51.100.2 and 198.51.100.3 (RFC 5780)"},
		"one address each": {[]string{"--turn.listen=udp://198.51.100.2:3478", "--stun.alternate.address=198.51.100.3"},
			"198.51.100.2:3478 198.51.100.2:3479 198.51.100.3:3478 198.51.100.3:3479", "none", "198.51.100.2",
			"udp://198.51.100.2:3479 udp://198.51.100.3:3478 udp://198.51.100.3:3479", "of 198.51.100.2 and 198.51.100.3"},
		"what turn.listen has": {[]string{"--turn.listen=udp://198.51.100.2:3478,udp://198.51.100.3:3478,udp://:3479", "--stun.alternate.address=198.51.100.3"},
			"198.51.100.2:3478 [::]:3479 198.51.100.3:3478 [::]:3479", "none", "198.51.100.2", "", "of 198.51.100.2 and 198.51.100.3"},
		"translated": {[]string{"--turn.relay.addresses=203.0.113.1=198.51.100.2", "--stun.alternate.address=203.0.113.2=198.51.100.3"},
			"[::]:3478 [::]:3479 [::]:3478 [::]:3479", "[::]:3478 [::]:3479", "203.0.113.1", "udp://[::]:3479",
			"of 203.0.113.1 (here 198.51.100.2) and 203.0.113.2 (here 198.51.100.3)"},
		"IPv6":             {[]string{"--turn.listen=udp://[::1]:3478", "--stun.alternate.address=2001:db8::2"}, "none", "[::1]:3478 [::1]:3479 [2001:db8::2]:3478 [2001:db8::2]:3479", "", "udp://[::1]:3479 udp://[2001:db8::2]:3478 udp://[2001:db8::2]:3479", "of ::1 and 2001:db8::2"},
		"no second port":   {[]string{"--stun.alternate.port=0"}, "[::]:3478", "[::]:3478", "198.51.100.2", "", "STUN on UDP port 3478;"},
		"the port is used": {[]string{"--turn.listen=udp://:3479"}, "[::]:3479", "[::]:3479", "198.51.100.2", "", "STUN on UDP port 3479;"},
		"TCP only":         {[]string{"--turn.listen=tcp://:3478"}, "none", "none", "", "", "none"},
		"any port":         {[]string{"--turn.listen=udp://127.0.0.1:0"}, "none", "none", "", "", "none"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := configOf(t, tc.args...)
			relays, _, err := edge.relays(cfg)
			if err != nil {
				t.Fatal(err)
			}
			before := listeners(cfg)
			all, d, err := discovery(cfg, edge, relays, before)
			if err != nil {
				t.Fatal(err)
			}
			if four, six := corners(d[0], all), corners(d[1], all); four != tc.four || six != tc.six {
				t.Errorf("IPv4: %s, want %s\nIPv6: %s, want %s", four, tc.four, six, tc.six)
			}
			if first := d[0].Addrs[0].Public; first.IsValid() != (tc.first != "") || first.IsValid() && first.String() != tc.first {
				t.Errorf("the first address is %v, want %s", first, tc.first)
			}
			var more []string
			for _, l := range all[len(before):] {
				if more = append(more, l.String()); !l.BindingOnly {
					t.Errorf("%v serves more than Binding", l)
				}
			}
			if got := strings.Join(more, " "); got != tc.more {
				t.Errorf("opens %q besides, want %q", got, tc.more)
			}
			if page := describeDiscovery(cfg, d); !strings.Contains(page, tc.page) {
				t.Errorf("the page says %q, want %q", page, tc.page)
			}
		})
	}
}

func TestASecondAddressThatIsNoneIsRefused(t *testing.T) {
	lonely := &host{own: []netip.Addr{netip.MustParseAddr("198.51.100.3")}}
	for _, tc := range []struct {
		h    *host
		addr string
		want string
	}{
		{edge, "198.51.100.77", "198.51.100.77 is not an address of this machine: name one of [198.51.100.2 198.51.100.3"},
		{edge, "198.51.100.2", "198.51.100.2 is the address that the default route uses, and so the first one"},
		{lonely, "198.51.100.3", "no first address beside it"},
	} {
		cfg := configOf(t, "--stun.alternate.address="+tc.addr)
		if _, _, err := discovery(cfg, tc.h, nil, listeners(cfg)); err == nil || !strings.Contains(err.Error(), "stun.alternate.address: ") || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.addr, err, tc.want)
		}
	}
}

// serveSimulated runs the data plane of a configuration on a simulated host.
func serveSimulated(t *testing.T, n *natlab.Net, h *natlab.Host, args ...string) {
	t.Helper()
	cfg := configOf(t, args...)
	relays, _, err := edge.relays(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r, err := rules(cfg, edge, relays, nil, [32]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	all, d, err := discovery(cfg, edge, relays, listeners(cfg))
	if err != nil {
		t.Fatal(err)
	}
	plane := dataplane.Config{
		Engine: dataplane.Plain, Listeners: all, Discovery: d, Relays: relays, Ports: turn.PortRange(cfg.Turn.Relay.Ports), Rules: r,
		ListenPacket: h.ListenPacket, Listen: h.Listen, Seed: [32]byte{byte(n.Seed())},
	}
	s, err := dataplane.Open(t.Context(), plane)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// The prober of this house finds all nine classes with the server of this house, whose two addresses are told and used.
func TestTheProbeFindsEveryClassWithThisServer(t *testing.T) {
	for _, listen := range []string{"udp://:3478", "udp://198.51.100.2:3478"} {
		for _, m := range []natlab.Mapping{natlab.EIM, natlab.ADM, natlab.APDM} {
			for _, f := range []natlab.Filtering{natlab.EIF, natlab.ADF, natlab.APDF} {
				t.Run(fmt.Sprintf("%s %v %v", listen, m, f), func(t *testing.T) {
					natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
						serveSimulated(t, n, n.Internet().Host("server", "198.51.100.2", "198.51.100.3"), "--turn.listen="+listen,
							"--turn.clients=203.0.113.0/24", "--stun.alternate.address=198.51.100.3")
						box := n.Internet().Box("nat", natlab.BoxConfig{Outside: []string{"203.0.113.1"}, NAT: &natlab.NATConfig{Mapping: m, Filtering: f}})
						client := box.Inside().Host("client", "192.168.1.2")
						r := probeSimulated(t, client)
						if got, want := fmt.Sprint(r.Verdict.Mapping, " ", r.Verdict.Filtering), fmt.Sprint(m, " ", f); got != want {
							t.Errorf("found %s, want %s", got, want)
						}
					})
				})
			}
		}
	}
}

func probeSimulated(t *testing.T, client *natlab.Host) *nattest.Report {
	t.Helper()
	r, err := nattest.Run(t.Context(), nattest.Config{Servers: []string{"server"}, ListenPacket: client.ListenPacket, LookupNetIP: client.LookupNetIP, LocalAddrs: client.Addrs})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// With one address, as nobody has configured it, the second port still answers: a probe tells EIM from the rest, and says what stays open.
func TestTheProbeUsesTheSecondPortOfAServerWithOneAddress(t *testing.T) {
	natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
		serveSimulated(t, n, n.Internet().Host("server", "198.51.100.2"), "--turn.clients=203.0.113.0/24")
		box := n.Internet().Box("nat", natlab.BoxConfig{Outside: []string{"203.0.113.1"}, NAT: &natlab.NATConfig{Mapping: natlab.APDM, Filtering: natlab.APDF}})
		r := probeSimulated(t, box.Inside().Host("client", "192.168.1.2"))
		if !slices.Contains(r.Verdict.MappingAmong, nattest.APDM) && r.Verdict.Mapping != nattest.APDM {
			t.Errorf("found %v among %v", r.Verdict.Mapping, r.Verdict.MappingAmong)
		}
		if ports := r.Observations; len(ports.Probes) == 0 || !slices.ContainsFunc(ports.Probes, func(p nattest.Observation) bool { return p.To.Port() == 3479 && p.Answered > 0 }) {
			t.Error("the second port did not answer")
		}
	})
}
