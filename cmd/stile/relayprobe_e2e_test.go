//go:build e2e

package main

import (
	"context"
	"encoding/json"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stilenet/stile/internal/netns"
	"github.com/stilenet/stile/nattest"
	"github.com/stilenet/stile/rtmfp/flash"
	"github.com/stilenet/stile/turn/client"
)

// The house's own probes go through the proxy as it comes: what they ask travels in packets that begin a session.
func TestProbesPassTheProxyAsItComes(t *testing.T) {
	lab := netns.New(t)
	inet := lab.Internet()
	server := inet.Host("server", "203.0.113.10")
	site := inet.Site(netns.SiteConfig{Name: "office", NAT: netns.AddressRestricted, Public: "192.0.2.20", LAN: "10.0.2.0/24"})
	desk := site.Host("desk")
	serve(t, server, "--turn.clients=192.0.2.0/24")
	r, err := nattest.Run(t.Context(), nattest.Config{
		Servers: []string{"203.0.113.10"}, ListenPacket: desk.ListenPacket, LocalAddrs: desk.IPs, Wrap: flash.SealHello, Unwrap: flash.OpenHello,
		LookupNetIP: func(_ context.Context, _, host string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr(host)}, nil
		},
		DialRelay: func(ctx context.Context, _ string) (net.PacketConn, error) {
			return client.Dial(ctx, client.Config{Server: "203.0.113.10", Network: "udp", ListenPacket: desk.ListenPacket})
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	through := 0
	for _, p := range r.Observations.Probes {
		if p.Role == nattest.RoleRelayMapping || p.Role == nattest.RoleRelayDelivery {
			through += p.Answered
		}
	}
	if through == 0 {
		t.Errorf("nothing came through the relay: %+v", r.Observations.Probes)
	}

	probe := filepath.Join(t.TempDir(), "natprobe")
	if out, err := exec.Command("go", "build", "-o", probe, "../natprobe").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, _ := desk.Command(ctx, probe, "relay", "--json", "turn:203.0.113.10").Output()
	var link struct{ Link struct{ Received int } }
	if err := json.Unmarshal(out, &link); err != nil || link.Link.Received == 0 {
		t.Errorf("natprobe relay: %v\n%s", err, out)
	}
}
