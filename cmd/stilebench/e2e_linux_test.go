//go:build e2e

package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// build makes the program once for each test: it pins its own process, which the test's must not be.
func build(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "stilebench")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := exec.LookPath("turnserver"); err != nil {
		t.Fatal("needs Debian's package coturn: ", err)
	}
	return bin
}

func run1(t *testing.T, bin string, args ...string) string {
	t.Helper()
	cmd := exec.Command(bin, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("stilebench %s: %v: %s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

func TestSmokeRunsRelayThroughCoturn(t *testing.T) {
	bin := build(t)
	for _, mode := range []string{"channel", "indication"} {
		for _, where := range []string{"--netns=false", "--netns"} {
			var rep RunReport
			if err := json.Unmarshal([]byte(run1(t, bin, "run", "--server-cmd", "coturn", "--smoke", "--mode", mode, where, "--json")), &rep); err != nil {
				t.Fatal(err)
			}
			r := rep.Trial
			if r.Sent < 100 || r.Received*10 < r.Sent*9 || r.LatencyUp.P50 <= 0 || r.LatencyDown.P50 <= 0 || r.CPU == nil || r.CPU.ProcessUs <= 0 {
				t.Errorf("%s %s: %+v", mode, where, r)
			}
		}
	}
}

func TestLongTermCredentialsAreSpoken(t *testing.T) {
	bin := build(t)
	const cmd = "auth=turnserver -n -a -u u:p -r example.org -L {ip} -p {port} -E {relay_ip} --no-tls --no-dtls --no-cli" +
		" --allow-loopback-peers --no-stdout-log -l {dir}/log --pidfile {dir}/pid -b {dir}/db"
	for _, mode := range []string{"channel", "indication"} {
		run1(t, bin, "run", "--server-cmd", cmd, "--smoke", "--mode", mode, "--user", "u", "--password", "p")
	}
	out, err := exec.Command(bin, "run", "--server-cmd", cmd, "--smoke", "--user", "u", "--password", "wrong").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "401") {
		t.Errorf("a wrong password: %v: %s", err, out)
	}
}

func TestSmokeComparisonWritesAPage(t *testing.T) {
	bin := build(t)
	page := filepath.Join(t.TempDir(), "benchmarks.md")
	run1(t, bin, "compare", "--smoke", "--server-cmd", "again="+presets["coturn"], "--markdown", page)
	b, err := os.ReadFile(page)
	if err != nil || !strings.HasPrefix(string(b), "<!-- begin: Relaying -->\n## Relaying\n") {
		t.Errorf("%v: %s", err, b)
	}
}

func TestSpoofedSourcesReachTheServer(t *testing.T) {
	bin := build(t)
	for _, sequence := range []Sequence{FloodAllocate, FloodBind, FloodSend} {
		var rep FloodReport
		out := run1(t, bin, "flood", "--server-cmd", "coturn", "--sources", "200", "--flood-rate", "1000", "--rate", "1000", "--duration", "500ms",
			"--sequence", string(sequence), "--json")
		if err := json.Unmarshal([]byte(out), &rep); err != nil {
			t.Fatal(err)
		}
		if f := rep.Flooded.Flood; f.Sent < 100 || f.Replies == 0 {
			t.Errorf("%s: %+v", sequence, f)
		}
	}
}

func TestAServerThatEndsIsReportedWithItsLastWords(t *testing.T) {
	bin := build(t)
	out, err := exec.Command(bin, "run", "--server-cmd", "broken=sh -c 'echo no such luck; exit 3'").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "no such luck") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestBindingRequestsAreAnsweredAndCounted(t *testing.T) {
	bin := build(t)
	for _, where := range []string{"--netns=false", "--netns"} {
		var rep BindingReport
		if err := json.Unmarshal([]byte(run1(t, bin, "stun", "--server-cmd", "again="+presets["coturn"], "--rounds", "1", "--duration", "200ms", where, "--json")), &rep); err != nil {
			t.Fatal(err)
		}
		for _, s := range rep.Servers {
			if r := s.Runs[0]; r.Answered < 100 || r.PerCPUSecond <= 0 || r.Strange > 0 || r.AnswerBytes < 32 {
				t.Errorf("%s, %s: %+v", where, s.Name, r)
			}
		}
	}
}
