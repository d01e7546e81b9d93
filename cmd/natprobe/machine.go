package main

import (
	"bufio"
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/stilenet/stile/internal/mmscfg"
)

// machine is what the probe asks of the system. The laboratory's hosts have the same functions.
type machine struct {
	goos         string
	listenPacket func(ctx context.Context, network, address string) (net.PacketConn, error)
	dialContext  func(ctx context.Context, network, address string) (net.Conn, error)
	lookupNetIP  func(ctx context.Context, network, host string) ([]netip.Addr, error)
	lookupSRV    func(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
	localAddrs   func() []netip.Addr // nil: nattest's own
	readMMS      func() (*mmscfg.File, mmscfg.Location, error)
	domains      func() []string
	beyond       bool     // it has what nattest.Config.UseSystem sets
	configs      []string // paths, the first that exists is read
}

func thisMachine() machine {
	configs := []string{filepath.Join("/etc", "stile", "natprobe.yaml")}
	if dir, err := os.UserConfigDir(); err == nil {
		configs = append([]string{filepath.Join(dir, "stile", "natprobe.yaml")}, configs...)
	}
	return machine{configs: configs, beyond: true,
		goos: runtime.GOOS, listenPacket: new(net.ListenConfig).ListenPacket, dialContext: new(net.Dialer).DialContext,
		lookupNetIP: net.DefaultResolver.LookupNetIP, lookupSRV: net.DefaultResolver.LookupSRV, readMMS: mmscfg.ReadLocal, domains: domains,
	}
}

const maxDomains = 3 // whose SRV records are asked for

// domains lists the DNS domains that this machine belongs to: the resolver's, Windows's, the host name's.
func domains() []string {
	var out []string
	add := func(d string) {
		d = strings.Trim(strings.ToLower(d), ".")
		if d != "" && d != "localdomain" && d != "local" && strings.Contains(d, ".") && !slices.Contains(out, d) && len(out) < maxDomains {
			out = append(out, d)
		}
	}
	if f, err := os.Open("/etc/resolv.conf"); err == nil {
		defer f.Close()
		lines := bufio.NewScanner(f)
		for n := 0; n < 100 && lines.Scan(); n++ {
			words := strings.Fields(lines.Text())
			if len(words) > 1 && (words[0] == "search" || words[0] == "domain") {
				for _, w := range words[1:] {
					add(w)
				}
			}
		}
	}
	add(os.Getenv("USERDNSDOMAIN"))
	if name, err := os.Hostname(); err == nil {
		_, domain, _ := strings.Cut(name, ".")
		add(domain)
	}
	return out
}
