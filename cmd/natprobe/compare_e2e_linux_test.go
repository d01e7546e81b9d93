//go:build e2e

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stilenet/stile/internal/netns"
)

// prober is a program that says what a NAT does.
type prober struct {
	name string
	args []string
	read func(out string) (mapping, filtering string) // in the words of RFC 4787; "?" where it does not say
}

// between finds which of the phrases is in a text.
func between(out string, phrases ...string) string {
	for i := 0; i+1 < len(phrases); i += 2 {
		if strings.Contains(out, phrases[i]) {
			return phrases[i+1]
		}
	}
	return "?"
}

func probers(pion string) []prober {
	return []prober{
		{natprobeBinary, []string{"--json", "--server", serverAddr}, func(out string) (string, string) {
			var r result
			if json.Unmarshal([]byte(out), &r) != nil {
				return "?", "?"
			}
			return strings.ReplaceAll(r.Verdict.Mapping.String(), "unknown", "?"), strings.ReplaceAll(r.Verdict.Filtering.String(), "unknown", "?")
		}},
		{"turnutils_natdiscovery", []string{"-m", "-f", serverAddr}, func(out string) (string, string) {
			m := between(out, "No NAT", "none", "NAT with Endpoint Independent Mapping", "EIM", "NAT with Address and Port Dependent Mapping", "APDM", "NAT with Address Dependent Mapping", "ADM")
			f := between(out, "NAT with Endpoint Independent Filtering", "EIF", "NAT with Address and Port Dependent Filtering", "APDF", "NAT with Address Dependent Filtering", "ADF")
			return m, f
		}},
		{"stun", []string{serverAddr}, func(out string) (string, string) {
			out = out[strings.LastIndex(out, "Primary:")+1:]
			m := between(out, "Open", "none", "Blocked", "blocked", "Firewall", "none", "Independent Mapping", "EIM", "Dependent Mapping", "symmetric")
			f := between(out, "Open", "open", "Blocked", "blocked", "Firewall", "APDF", "Independent Filter", "EIF", "Address Dependent Filter", "ADF", "Port Dependent Filter", "APDF")
			return m, f
		}},
		{pion, []string{"-server", serverAddr + ":3478", "-verbose", "2"}, func(out string) (string, string) {
			out = strings.ToLower(out)
			m, f := out, ""
			if i := strings.Index(out, "filtering behavior"); i >= 0 {
				m, f = out[:i], out[i:]
			}
			return between(m, "mapping behavior: no nat", "none", "behavior: endpoint independent", "EIM", "behavior: address and port dependent", "APDM", "behavior: address dependent", "ADM", "no nat", "none"),
				between(f, "endpoint independent", "EIF", "address and port dependent", "APDF", "address dependent", "ADF")
		}},
	}
}

var transmitted = regexp.MustCompile(`(?m)^\s*lan:\s*(?:\d+\s+){8}\d+\s+(\d+)`)

// sentBy counts the packets that a host has sent.
func sentBy(h *netns.Host) (n int) {
	h.Do(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/dev")
		if m := transmitted.FindSubmatch(b); m != nil {
			n, _ = strconv.Atoi(string(m[1]))
		}
		return err
	})
	return n
}

// BenchmarkOtherProbers prints the table of docs/benchmarks.md. NATPROBE_PION names pion's stun-nat-behaviour.
//
//	go install github.com/pion/stun/v3/cmd/stun-nat-behaviour@v3.1.7
//	NATPROBE_PION=$(go env GOPATH)/bin/stun-nat-behaviour go test -tags e2e ./cmd/natprobe -run '^$' -bench OtherProbers -benchtime 1x
func BenchmarkOtherProbers(b *testing.B) {
	pion := os.Getenv("NATPROBE_PION")
	if _, err := exec.LookPath(pion); err != nil {
		b.Fatalf("NATPROBE_PION: %v: build pion's stun-nat-behaviour first", err)
	}
	lab := netns.New(b)
	inet := lab.Internet()
	server := inet.Host("server", serverAddr, otherAddr)
	turnserver := server.Command(b.Context(), "turnserver", "-n", "-S", "-L", serverAddr, "-L", otherAddr, "-p", "3478", "--alt-listening-port", "3479",
		"--no-tls", "--no-dtls", "--no-cli", "-l", "stdout", "--pidfile", b.TempDir()+"/pid")
	if err := turnserver.Start(); err != nil {
		b.Fatal(err)
	}
	go turnserver.Wait()
	time.Sleep(2 * time.Second)
	list := probers(pion)
	var table bytes.Buffer
	right, took, packets := make([]int, len(list)), make([]time.Duration, len(list)), make([]int, len(list))
	fmt.Fprintf(&table, "| NAT | | natprobe | turnutils_natdiscovery | stun | stun-nat-behaviour |\n|---|---|---|---|---|---|\n")
	for i, kind := range netns.Kinds() {
		cfg := netns.SiteConfig{NAT: kind, Name: kind.Name, Public: fmt.Sprintf("192.0.2.%d", i+1), LAN: fmt.Sprintf("10.0.%d.0/24", i+1)}
		if kind.Mapping == netns.NoMapping {
			cfg.LAN = fmt.Sprintf("198.51.100.%d/29", 8*(i+1))
		}
		site := inet.Site(cfg)
		fmt.Fprintf(&table, "| %s | %v/%v |", kind.Name, kind.Mapping, kind.Filtering)
		for j, p := range list {
			h := site.Host(fmt.Sprintf("%s-%d", kind.Name, j)) // an address of its own, so that none meets another's sessions
			ctx, cancel := context.WithTimeout(b.Context(), 60*time.Second)
			cmd := h.Command(ctx, p.name, p.args...)
			before, start := sentBy(h), time.Now()
			out, _ := cmd.CombinedOutput()
			spent := time.Since(start)
			cancel()
			sent := sentBy(h) - before
			m, f := p.read(string(out))
			mark := ""
			if m == kind.Mapping.String() && f == kind.Filtering.String() {
				right[j]++
			} else {
				mark = " ✗"
			}
			took[j] += spent
			packets[j] += sent
			fmt.Fprintf(&table, " %s/%s%s, %.1f s, %d |", m, f, mark, spent.Seconds(), sent)
			if testing.Verbose() {
				b.Logf("%s %s:\n%s", kind.Name, p.name, out)
			}
		}
		fmt.Fprintln(&table)
	}
	n := len(netns.Kinds())
	fmt.Fprintf(&table, "| **right, of %d; mean time, packets** | |", n)
	for j := range list {
		fmt.Fprintf(&table, " **%d; %.1f s, %d** |", right[j], took[j].Seconds()/float64(n), packets[j]/n)
	}
	fmt.Printf("\n%s\n", table.String()) // a benchmark's log is cut after ten lines
}
