//go:build e2e

package main

import (
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// buildStile makes our own server.
func buildStile(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "stile")
	if out, err := exec.Command("go", "build", "-o", bin, "../stile").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return bin
}

func TestNoAbuseOfOurServerSucceeds(t *testing.T) {
	bin := build(t)
	var rep AbuseReport
	spec := "stile=" + buildStile(t) + strings.TrimPrefix(abusePresets["stile"], "./build/stile")
	out := run1(t, bin, "abuse", "all", "--netns", "--repo", repoRoot, "--server-cmd", spec, "--json")
	if err := json.Unmarshal([]byte(out), &rep); err != nil {
		t.Fatal(err)
	}
	if len(rep.Trials) != len(abuses) || !rep.Laboratory {
		t.Errorf("%d trials", len(rep.Trials))
	}
	for _, trial := range rep.Trials {
		for _, s := range trial.Successes {
			t.Errorf("%s: %s", trial.Name, s)
		}
	}
}

func TestAbuseOfCoturnSucceedsWithStatusOne(t *testing.T) {
	bin := build(t)
	cmd := exec.Command(bin, "abuse", "unconsenting", "--netns", "--server-cmd", "coturn")
	out, err := cmd.Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), "100 clients together: packets: 3000") {
		t.Errorf("%v: %s", err, out)
	}
	cmd = exec.Command(bin, "abuse", "acl", "--netns", "--server-cmd", "broken=false")
	if _, err := cmd.Output(); !errors.As(err, &exit) || exit.ExitCode() != 2 {
		t.Errorf("a server that does not start: %v", err)
	}
}
