//go:build e2e

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stilenet/stile/internal/netns"
	"github.com/stilenet/stile/nattest"
)

// The built programs.
var natprobeBinary, stileBinary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "natprobe-e2e")
	if err != nil {
		panic(err)
	}
	natprobeBinary, stileBinary = filepath.Join(dir, "natprobe"), filepath.Join(dir, "stile")
	for path, pkg := range map[string]string{natprobeBinary: ".", stileBinary: "../stile"} {
		if out, err := exec.Command("go", "build", "-o", path, pkg).CombinedOutput(); err != nil {
			panic(string(out))
		}
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

const (
	serverAddr = "203.0.113.10"
	otherAddr  = "203.0.113.11"
)

// arena is an internet with `stile serve` on two addresses.
type arena struct {
	t    *testing.T
	lab  *netns.Lab
	inet *netns.Internet
	dir  string
}

func newArena(t *testing.T, flags ...string) *arena {
	a := &arena{t: t, lab: netns.New(t), dir: t.TempDir()}
	a.inet = a.lab.Internet()
	server := a.inet.Host("server", serverAddr, otherAddr)
	cmd := server.Command(t.Context(), stileBinary, append([]string{"serve", "--turn.relay.addresses=" + serverAddr, "--turn.clients=192.0.2.0/24,198.51.100.0/24",
		"--state.dir=" + a.dir, "--stun.alternate.address=" + otherAddr}, flags...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go cmd.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := cmd.WaitLog(ctx, "RTMFPTURNProxy="); err != nil {
		t.Fatal(err)
	}
	return a
}

// site is the n-th LAN, behind a box of a kind, with one host.
func (a *arena) site(n int, cfg netns.SiteConfig) *netns.Host {
	cfg.Name, cfg.Public, cfg.LAN = fmt.Sprintf("site%d", n), fmt.Sprintf("192.0.2.%d", n), fmt.Sprintf("10.0.%d.0/24", n)
	if cfg.User == nil && cfg.NAT.Mapping == netns.NoMapping { // its LAN is public
		cfg.LAN = fmt.Sprintf("198.51.100.%d/29", 8*n)
	}
	return a.inet.Site(cfg).Host(fmt.Sprintf("desk%d", n))
}

// run runs natprobe on a host.
func (a *arena) run(h *netns.Host, args ...string) (stdout string, code int) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), 60*time.Second)
	defer cancel()
	cmd := h.Command(ctx, natprobeBinary, args...)
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	cmd.Wait()
	if noise := cmd.Log(); noise != "" {
		a.t.Errorf("natprobe %q wrote to stderr: %s", args, noise)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// probe runs natprobe --json and keeps the file.
func (a *arena) probe(h *netns.Host, name string, args ...string) (r result, file string) {
	a.t.Helper()
	var out string
	var code int
	for range 3 { // a machine that stands still now and then looks like a lossy network, and what is lossy may stay unknown
		out, code = a.run(h, append([]string{"--json", "--server", serverAddr}, args...)...)
		r = result{}
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			a.t.Errorf("%v: %s", err, out)
			return r, ""
		}
		if r.Verdict.Confidence > 0 || r.Verdict.UDP == nattest.UDPSomePorts {
			break
		}
	}
	if code != r.ExitCode {
		a.t.Errorf("exit code %d, the JSON says %d", code, r.ExitCode)
	}
	file = filepath.Join(a.dir, name+".json")
	if err := os.WriteFile(file, []byte(out), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return r, file
}

// orUnknown lets unknown pass for the right word.
func orUnknown(right string, got fmt.Stringer) string {
	if got.String() == "unknown" {
		return "unknown"
	}
	return right
}

// NATPROBE_PAGES names a directory for the pages of this test.
func TestVerdictIsRightOnEveryKind(t *testing.T) {
	a := newArena(t)
	kinds := append(netns.Kinds(), netns.OnlyTCP(netip.MustParseAddrPort(serverAddr+":3478")), netns.UDPDroppedTo(3478))
	want := map[netns.Mapping]int{netns.EIM: exitCone, netns.NoMapping: exitCone, netns.ADM: exitSymmetric, netns.APDM: exitSymmetric, netns.MappingBlocked: exitBlocked}
	for i, kind := range kinds {
		t.Run(kind.Name, func(t *testing.T) {
			h := a.site(i+1, netns.SiteConfig{NAT: kind})
			var args []string
			if dir := os.Getenv("NATPROBE_PAGES"); dir != "" {
				args = []string{"--html", filepath.Join(dir, kind.Name+".html")}
			}
			start := time.Now()
			r, _ := a.probe(h, kind.Name, args...)
			t.Logf("%v/%v, %d packets, %.0f ms, the program took %v", r.Verdict.Mapping, r.Verdict.Filtering, r.Observations.Sent, r.Observations.TookMS,
				time.Since(start).Round(time.Millisecond))
			m, f, code := kind.Mapping.String(), kind.Filtering.String(), want[kind.Mapping]
			if strings.HasPrefix(kind.Name, "udp-dropped-to") {
				// Two of the server's four endpoints are out of reach.
				m, code = orUnknown(m, r.Verdict.Mapping), exitSomePorts
				f = orUnknown(f, r.Verdict.Filtering)
			}
			if r.Verdict.Mapping.String() != m || r.Verdict.Filtering.String() != f || r.ExitCode != code {
				t.Errorf("found %v/%v, exit code %d; want %s/%s, %d: %+v", r.Verdict.Mapping, r.Verdict.Filtering, r.ExitCode, m, f, code, r.Findings)
			}
			if open := kind.Name == netns.OpenLinux.Name; open != (r.Verdict.OpenLinux.String() == "yes") {
				t.Errorf("open Linux: %v", r.Verdict.OpenLinux)
			}
			if m := r.Verdict.TCPMapping; m.String() != "unknown" && m.String() != kind.Mapping.String() && kind.Mapping != netns.MappingBlocked {
				t.Logf("TCP is mapped in another way: %v", m)
			}
			if near := r.Observations.Near; len(near.Missing) > 0 || r.Verdict.InsideHops > 1 || len(near.Hops) == 0 {
				t.Errorf("%d hops inside: %+v", r.Verdict.InsideHops, near)
			}
			if r.Verdict.UDP == nattest.UDPOpen && r.Verdict.MTU != 1500 {
				t.Errorf("path MTU %d", r.Verdict.MTU)
			}
			if !r.Proxy.answers() {
				t.Errorf("the proxy: %+v", r.Proxy)
			}
			if r.Observations.Sent > 64 {
				t.Errorf("%d packets", r.Observations.Sent)
			}
		})
	}
}

func TestCarriersNATIsRecognised(t *testing.T) {
	a := newArena(t)
	carrier := a.inet.Site(netns.SiteConfig{Name: "carrier", NAT: netns.FullyRandom, Public: "192.0.2.1", LAN: "100.64.7.0/24"})
	home := carrier.Site(netns.SiteConfig{Name: "home", NAT: netns.FullCone, Public: "100.64.7.9", LAN: "192.168.1.0/24"})
	r, _ := a.probe(home.Host("desk"), "desk")
	if v := r.Verdict; v.CGN != nattest.Yes || v.InsideHops != 2 || v.Mapping != nattest.APDM || v.Filtering != nattest.APDF {
		t.Errorf("%v/%v, carrier %v, %d hops inside: %+v", v.Mapping, v.Filtering, v.CGN, v.InsideHops, r.Observations.Near)
	}
}
