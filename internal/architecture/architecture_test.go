// Package architecture keeps the arrows of the house: which room may import which.
package architecture

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/stilenet/stile/"

// arrows lists for each room the rooms that it may import, tests apart. A room that is not listed fails the test, so
// that a new one is thought about. "*" stands for everything.
var arrows = map[string][]string{
	"cmd/stile": {
		"internal/admin", "internal/config", "internal/logging", "internal/metrics", "internal/mmscfg",
		"stun", "turn", "turn/dataplane", "turn/client", "rendezvous", "rtmfp", "rtmfp/flash",
	},
	"cmd/natprobe":     {"internal/config", "internal/mmscfg", "nattest", "rtmfp", "rtmfp/flash", "rtmfp/transport", "stun", "turn/client"},
	"cmd/videophone":   {"internal/mmscfg", "nattest", "rtmfp/flash", "turn/client"},
	"cmd/stilebench":   {"stun", "turn/client", "rtmfp", "rtmfp/flash", "rtmfp/transport"},
	"stun":             {},
	"turn":             {"stun"},
	"turn/client":      {"stun"},
	"turn/dataplane":   {"turn", "stun"},
	"rtmfp":            {},
	"rtmfp/transport":  {"rtmfp"},
	"rtmfp/flash":      {"rtmfp", "rtmfp/transport", "nattest", "internal/mmscfg"},
	"rendezvous":       {"rtmfp", "rtmfp/flash", "rtmfp/transport"},
	"nattest":          {"stun"},
	"nattest/natlab":   {},
	"internal/admin":   {"turn", "turn/dataplane", "rendezvous", "rtmfp"},
	"internal/logging": {"turn", "turn/dataplane", "rendezvous"},
	"internal/metrics": {"turn", "turn/dataplane", "rendezvous", "rtmfp"},
	"internal/config":  {},
	"internal/mmscfg":  {},
	"internal/netns":   {},
	"configs":          {},
}

// only lists the packages of others that a single room may import.
var only = map[string][]string{
	"github.com/spf13/viper":       {"internal/config"},
	"github.com/cilium/ebpf":       {"turn/dataplane"},
	"github.com/pion/stun/v3":      {},
	"github.com/pion/turn/v2":      {},
	"github.com/pion/turn/v5":      {},
	"github.com/rs/zerolog":        {"cmd/stile", "internal/logging"},
	"github.com/prometheus/client": {"internal/metrics", "internal/admin", "cmd/stile"},
}

type listed struct {
	ImportPath string
	Name       string
	Imports    []string
	Deps       []string
}

func list(t *testing.T, args ...string) (out []listed) {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Name,Imports,Deps"}, args...)...)
	cmd.Dir = "../.."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	b, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	for {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
}

func TestRoomsImportOnlyWhatTheHouseAllows(t *testing.T) {
	for _, p := range list(t, "./...") {
		room := strings.TrimPrefix(p.ImportPath, module)
		allowed, ok := arrows[room]
		if !ok {
			if room != "internal/architecture" {
				t.Errorf("%s is a room that no arrow leads to: add it to this test and to ARCHITECTURE.md", room)
			}
			continue
		}
		for _, imp := range p.Imports {
			if to, inside := strings.CutPrefix(imp, module); inside && !slices.Contains(allowed, to) {
				t.Errorf("%s imports %s: the house has no such arrow", room, to)
			}
			for prefix, rooms := range only {
				if strings.HasPrefix(imp, prefix) && !slices.Contains(rooms, room) {
					t.Errorf("%s imports %s: only %v may", room, imp, rooms)
				}
			}
		}
	}
}

func TestNoRoomIsCalledUtil(t *testing.T) {
	for _, p := range list(t, "./...") {
		switch p.Name {
		case "util", "utils", "common", "types", "helpers", "misc":
			t.Errorf("%s: package %s says nothing about what is in it", p.ImportPath, p.Name)
		}
	}
}

// linksNoServer are the programs of users' machines.
var linksNoServer = []string{"cmd/natprobe", "cmd/videophone"}

func TestProgramsOfUsersLinkNoServerParts(t *testing.T) {
	for _, p := range list(t, "./cmd/...") {
		if !slices.Contains(linksNoServer, strings.TrimPrefix(p.ImportPath, module)) {
			continue
		}
		for _, dep := range p.Deps {
			switch strings.TrimPrefix(dep, module) {
			case "turn", "turn/dataplane", "rendezvous", "internal/admin", "internal/metrics", "internal/logging":
				t.Errorf("%s links %s", p.ImportPath, dep)
			}
		}
	}
}
