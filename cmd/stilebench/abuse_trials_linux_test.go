package main

import (
	"net/netip"
	"strings"
	"testing"
)

// A trial that cannot succeed proves nothing: each of them does against a server that does what it is asked.

func wantSuccesses(t *testing.T, trial *AbuseTrial, texts ...string) {
	t.Helper()
	all := strings.Join(trial.Successes, "\n")
	for _, text := range texts {
		if !strings.Contains(all, text) {
			t.Errorf("%s: no success with %q, only:\n%s", trial.Name, text, all)
		}
	}
}

func TestACLTrialSeesWhatArrivesAndWhatIsGranted(t *testing.T) {
	trial := attack(t, "acl", startVulnerable(t, nil))
	wantSuccesses(t, trial, "557 channels granted", "557 permissions granted", "datagrams that arrived")
	if !strings.Contains(strings.Join(trial.Successes, "\n"), "loopback") {
		t.Errorf("nothing arrived on loopback: %q", trial.Successes)
	}
}

func TestReflectionTrialWeighsAnswers(t *testing.T) {
	wantSuccesses(t, attack(t, "reflection", startVulnerable(t, nil)), "largest factor", "bytes that come back to it")
}

func TestUnconsentingTrialCountsWhatASilentPeerGets(t *testing.T) {
	wantSuccesses(t, attack(t, "unconsenting", startVulnerable(t, nil)), "one client, small datagrams: packets", "1,200 bytes: bytes",
		"one client, 50 ports", "one client, ChannelData: packets", "20 allocations after each other: packets", "100 clients together: bytes")
}

func TestScanTrialCountsHostsAndPorts(t *testing.T) {
	a := startVulnerable(t, nil)
	a.lab = true
	a.inside = []netip.Prefix{netip.MustParsePrefix("127.66.0.0/29")}
	wantSuccesses(t, attack(t, "scan", a), "inside hosts reached: 8", "silent internet hosts in the first two seconds")
}

func TestDeputyTrialSpeaksAsBrowsersDo(t *testing.T) {
	trial := attack(t, "deputy", startVulnerable(t, nil))
	wantSuccesses(t, trial, "UDP: Allocate with DONT-FRAGMENT", "TCP: Allocate, CreatePermission, data", "an HTTP POST aligned")
	if n := strings.Count(strings.Join(trial.Successes, "\n"), "a peer's answer"); n != 28 {
		t.Errorf("%d of 28 sequences succeed", n)
	}
}

func TestTunnelTrialHearsWhatComesBack(t *testing.T) {
	wantSuccesses(t, attack(t, "tunnel", startVulnerable(t, nil)), "indications: datagrams that came back", "ChannelData: datagrams", "over TCP", "made-up startup")
}

func TestPortDrainTrialFindsThatNoPortIsLeft(t *testing.T) {
	wantSuccesses(t, attack(t, "port-drain", startVulnerable(t, func(v *vulnerable) { v.most = 100 })),
		"after forged Allocates an honest client gets no allocation", "20 of 20 honest clients")
}

func TestMalformedTrialSeesAServerDie(t *testing.T) {
	wantSuccesses(t, attack(t, "malformed", startVulnerable(t, func(v *vulnerable) { v.dies = true })), "end")
}

func TestMalformedTrialLetsAServerLive(t *testing.T) {
	if trial := attack(t, "malformed", startVulnerable(t, nil)); trial.Success() {
		t.Error(trial.Successes)
	}
}

func TestOffPathTrialSeesStrangersAndNamesWhatForgersCan(t *testing.T) {
	a := startVulnerable(t, nil)
	a.lab = true
	trial := attack(t, "off-path", a)
	wantSuccesses(t, trial, "20 strangers")
	if len(trial.Limits) != 2 {
		t.Errorf("%q", trial.Limits)
	}
}

func TestDatagramsOfASegmentedPacketAreCountedOneByOne(t *testing.T) {
	to := netip.MustParseAddrPort("192.0.2.1:40000")
	payload := append(append(mark(1, 100), mark(2, 100)...), mark(3, 30)...)
	got := appendSightings(nil, "x", to, payload)
	if len(got) != 3 || got[0] != (sighting{"x", to, 1, 100}) || got[2] != (sighting{"x", to, 3, 30}) {
		t.Errorf("%+v", got)
	}
	if got := appendSightings(nil, "x", to, append([]byte{0x40, 1, 0, 100}, payload...)); got != nil {
		t.Errorf("what a client sends to the server is taken for what it relays: %+v", got)
	}
}
