//go:build e2e

package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stilenet/stile/internal/netns"
	"github.com/stilenet/stile/nattest"
)

// coturn is how turnutils_natdiscovery words what it finds. It takes address-dependent mapping for address- and port-dependent: its third request
// goes to the first address again.
var coturn = map[string][]string{
	netns.FullCone.Name:    {"NAT with Endpoint Independent Mapping!", "NAT with Endpoint Independent Filtering!"},
	netns.FullyRandom.Name: {"NAT with Address and Port Dependent Mapping!", "NAT with Address and Port Dependent Filtering!"},
}

// The built program with two addresses, real NATs, and two probers: this house's and coturn's.
func TestDiscoveryWithTwoAddressesTellsTheKindsApart(t *testing.T) {
	lab := netns.New(t)
	inet := lab.Internet()
	server := inet.Host("server", "203.0.113.10", "203.0.113.11")
	for i, tc := range []struct {
		listen string
		kinds  []netns.NATKind
	}{
		{"udp://:3478", []netns.NATKind{netns.Masquerade, netns.FullCone, netns.AddressRestricted, netns.AddressDependent, netns.FullyRandom}},
		{"udp://203.0.113.10:3478", []netns.NATKind{netns.AddressDependentRestricted, netns.SymmetricFull}},
	} {
		t.Run(tc.listen, func(t *testing.T) {
			cmd := serve(t, server, "--turn.listen="+tc.listen, "--turn.relay.addresses=203.0.113.10", "--turn.clients=192.0.2.0/24", "--stun.alternate.address=203.0.113.11")
			if want := "STUN on UDP ports 3478 and 3479 of 203.0.113.10 and 203.0.113.11 (RFC 5780)"; !strings.Contains(cmd.Log(), want) {
				t.Errorf("the start page does not say %q:\n%s", want, cmd.Log())
			}
			for j, kind := range tc.kinds {
				site := inet.Site(netns.SiteConfig{Name: fmt.Sprintf("site%d%d", i, j), NAT: kind, Public: fmt.Sprintf("192.0.2.%d", 10*i+j+1), LAN: fmt.Sprintf("10.%d.%d.0/24", i, j)})
				desk := site.Host(fmt.Sprintf("desk%d%d", i, j))
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				r, err := nattest.Run(ctx, nattest.Config{
					Servers: []string{"203.0.113.10"}, ListenPacket: desk.ListenPacket, LocalAddrs: desk.IPs,
					LookupNetIP: func(_ context.Context, _, host string) ([]netip.Addr, error) {
						return []netip.Addr{netip.MustParseAddr(host)}, nil
					},
				})
				if err != nil {
					t.Fatal(err)
				}
				if got, want := fmt.Sprint(r.Verdict.Mapping, "/", r.Verdict.Filtering), fmt.Sprint(kind.Mapping, "/", kind.Filtering); got != want {
					t.Errorf("%s: found %s, want %s: %+v", kind.Name, got, want, r.Verdict)
				}
				if says, ok := coturn[kind.Name]; ok {
					if out := natdiscovery(t, desk, "-m", "-f"); !strings.Contains(out, says[0]) || !strings.Contains(out, says[1]) {
						t.Errorf("%s: turnutils_natdiscovery does not say %q:\n%s", kind.Name, says, out)
					}
				}
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
		})
	}
}

func natdiscovery(t *testing.T, h *netns.Host, options ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := h.Command(ctx, program(t, "turnutils_natdiscovery"), append(options, "-L", h.IPs()[0].String(), "203.0.113.10")...)
	if err := cmd.Run(); err != nil {
		t.Errorf("turnutils_natdiscovery: %v", err)
	}
	return cmd.Log()
}
