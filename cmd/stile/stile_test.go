package main

import (
	"bytes"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stilenet/stile/internal/config"
	"github.com/stilenet/stile/turn"
)

// command runs stile as a shell would.
func command(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(args, app{&out, &errs, []string{"STATE_DIRECTORY=" + t.TempDir()}})
	return out.String(), errs.String(), code
}

func TestDefaultLimitsOfTheConfigurationAreThoseOfTheCore(t *testing.T) {
	cfg := config.Defaults()
	if got, want := limits(cfg), turn.DefaultLimits(); got != want {
		t.Errorf("the configuration has %+v\nthe core has          %+v", got, want)
	}
}

func TestLabHasNoBudgetForSilentPeers(t *testing.T) {
	cfg := config.Defaults()
	cfg.Turn.Peers.Profile = config.Lab
	if l := limits(cfg); l.UnansweredPackets != 0 || l.UnansweredBytes != 0 || l.UnansweredAllClients != 0 {
		t.Errorf("lab bounds silent peers: %+v", l)
	}
}

func TestAutoRelayWithoutADefaultRouteIsLoopbackAndSaysSo(t *testing.T) {
	relays, warn, err := new(host).relays(config.Defaults())
	if err != nil || len(relays) != 1 || !relays[0].Public.IsLoopback() || len(warn) != 1 || !strings.Contains(warn[0], "turn.relay.addresses") {
		t.Errorf("relays %v, warnings %q, %v", relays, warn, err)
	}
}

func TestRelayAddressOfAnotherMachineStopsTheStart(t *testing.T) {
	cfg := config.Defaults()
	other := netip.MustParseAddr("203.0.113.77")
	cfg.Turn.Relay.Addresses = []config.RelayAddress{{Public: other, Local: other}}
	h := &host{own: []netip.Addr{netip.MustParseAddr("198.51.100.2")}}
	if _, _, err := h.relays(cfg); err == nil || !strings.Contains(err.Error(), "turn.relay.addresses") || !strings.Contains(err.Error(), "198.51.100.2") {
		t.Errorf("the error names neither the key nor the remedy: %v", err)
	}
}

func TestPrivateRelayAddressIsExplained(t *testing.T) {
	h := &host{source4: netip.MustParseAddr("10.0.0.5")}
	_, warn, err := h.relays(config.Defaults())
	if err != nil || len(warn) != 1 || !strings.Contains(warn[0], "PUBLIC=10.0.0.5") {
		t.Errorf("warnings %q, %v", warn, err)
	}
}

func TestPublicProfileWithoutCredentialsIsRefused(t *testing.T) {
	_, stderr, code := command(t, "serve", "--turn.peers.profile=public", "--dry-run")
	if code != exitFailure || !strings.Contains(stderr, "turn.allow_open_relay") {
		t.Errorf("exit %d: %s", code, stderr)
	}
}

func TestStartPageSaysWhoMayReachWhom(t *testing.T) {
	stdout, stderr, code := command(t, "serve", "--dry-run", "--turn.listen=udp://127.0.0.1:0", "--turn.relay.addresses=127.0.0.1",
		"--turn.clients=10.1.0.0/16", "--turn.peers.deny=203.0.113.0/24", "--admin.listen=127.0.0.1:0",
		"--rendezvous.listen=udp://127.0.0.1:0", "--rendezvous.directory.listen=127.0.0.1:0", "--state.dir="+t.TempDir())
	if code != 0 {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	for _, want := range []string{"udp://127.0.0.1:0", "10.1.0.0/16", "never 203.0.113.0/24", "127.0.0.1 ports 49152-65535", "at most 1",
		"rendezvous udp://127.0.0.1:", "every path is welcome; at most 1,000,000 sessions", "ID exchange http://127.0.0.1:"} {
		if !strings.Contains(strings.Join(strings.Fields(stdout), " "), want) {
			t.Errorf("the page does not say %q:\n%s", want, stdout)
		}
	}
}

func TestMistakesOfTheCommandLineExitWith64(t *testing.T) {
	for _, args := range [][]string{{"serve", "--no-such-flag"}, {"sessions", "trace"}, {"mmscfg", "--proxy", "http://x/"},
		{"config", "check"}, {"config", "chekc"}, {"keys", "frob"}, {"serve", "now"}} {
		if _, stderr, code := command(t, args...); code != exitUsage {
			t.Errorf("stile %s: exit %d: %s", strings.Join(args, " "), code, stderr)
		}
	}
}

func TestAnUnknownCommandNamesTheOneThatIsMeant(t *testing.T) {
	stdout, stderr, code := command(t, "stauts")
	if code != exitUsage || !strings.Contains(stderr, "`stile status`") || stdout != "" {
		t.Errorf("exit %d: %s%s", code, stdout, stderr)
	}
}

func TestControlCommandsWithoutAServerNameTheRemedy(t *testing.T) {
	_, stderr, code := command(t, "status", "--admin.listen=127.0.0.1:1")
	if code != exitFailure || !strings.Contains(stderr, "stile serve") {
		t.Errorf("exit %d: %s", code, stderr)
	}
}

func TestConfigCheckAcceptsTheShippedFiles(t *testing.T) {
	files, err := filepath.Glob("../../configs/*.yaml")
	if err != nil || len(files) < 2 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		if filepath.Base(f) == "natprobe.yaml" { // the probe's own
			continue
		}
		if stdout, stderr, code := command(t, "config", "check", f); code != 0 || !strings.Contains(stdout, "good") {
			t.Errorf("%s: exit %d: %s%s", f, code, stdout, stderr)
		}
	}
}

func TestMMSCfgPrintsTheLineAndTheThreeSystems(t *testing.T) {
	stdout, stderr, code := command(t, "mmscfg", "--proxy", "turn.example.net")
	if code != 0 || !strings.HasPrefix(stdout, "RTMFPTURNProxy=turn.example.net\n") {
		t.Fatalf("exit %d: %s%s", code, stdout, stderr)
	}
	for _, want := range []string{"Windows", "macOS", "/etc/adobe/mms.cfg"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in:\n%s", want, stdout)
		}
	}
}

func TestNumbersAreReadable(t *testing.T) {
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		if got := number(n); got != want {
			t.Errorf("number(%d) is %s, want %s", n, got, want)
		}
	}
	for n, want := range map[uint64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 2_500_000: "2.5 MB"} {
		if got := bytesize(n); got != want {
			t.Errorf("bytesize(%d) is %s, want %s", n, got, want)
		}
	}
}
