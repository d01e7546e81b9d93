package main

import (
	"context"
	"crypto/rand"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stilenet/stile/rendezvous"
	"github.com/stilenet/stile/rtmfp/flash"
)

// The swarm connects to our rendezvous, stays, and strangers are introduced to its clients; the other end's counters agree.
func TestSwarmConnectsAndIsIntroduced(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	const none = 1 << 30
	reg, err := rendezvous.NewRegistry(time.Now(), rand.Reader, rendezvous.Rules{Keepalive: 20 * time.Second, Limits: rendezvous.Limits{
		HandshakesPerPrefix: none, IntroductionsPerPrefix: none, IntroductionsPerPeer: none, PerAddress: none,
	}})
	if err != nil {
		t.Fatal(err)
	}
	srv, err := rendezvous.Open(t.Context(), rendezvous.ServerConfig{
		Registry: reg, Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, OnEvents: func([]rendezvous.Event) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ctx) }()
	s, err := newSwarm(srv.Addrs()[0], flash.Group14)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	const clients = 100
	if err := s.open(t.Context(), clients); err != nil {
		t.Fatal(err)
	}
	for _, rate := range []float64{0, 200} {
		res, err := s.introduce(t.Context(), 500*time.Millisecond, rate)
		if err != nil {
			t.Fatal(err)
		}
		if res.answered == 0 || res.answered > res.asked || res.forwarded < res.answered || res.latency.total != uint64(res.answered) {
			t.Errorf("at %v: %d asked, %d answered, %d forwarded", rate, res.asked, res.answered, res.forwarded)
		}
	}
	if s.failed != 0 || s.gone != 0 || s.all[0].state != memberConnected {
		t.Errorf("%d failed, %d gone", s.failed, s.gone)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := s.idle(t.Context(), 100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if s.gone != clients {
		t.Errorf("%d of %d clients were told that the server ends", s.gone, clients)
	}
	if _, err := newSwarm(netip.MustParseAddrPort("192.0.2.1:1935"), flash.Group2); err == nil {
		t.Error("a server that is not on loopback")
	}
}

func TestRTMFPReportHasARowForEachGroup(t *testing.T) {
	run := &RTMFPRun{
		Connects: []RTMFPConnects{{Group: 2, PerCPUSecond: 6000}, {Group: 14, PerCPUSecond: 3000}}, SessionBytes: 2000, IntrosPerCPUSecond: 50000,
		RateAsked: 100, RateAnswered: 99, RateForwarded: 98, P50: time.Millisecond, P99: 2 * time.Millisecond,
	}
	half := *run
	half.Connects = []RTMFPConnects{{Group: 2, PerCPUSecond: 3000}, {Group: 14, PerCPUSecond: 1000}}
	r := &RTMFPReport{Groups: []int{2, 14}, Rate: 1000, Servers: []RTMFPServer{{Name: "a", Runs: []*RTMFPRun{run}}, {Name: "b", Runs: []*RTMFPRun{&half}}}}
	text := r.markdown()
	for _, want := range []string{
		"| clients per CPU-second, group 2 | 6,000 | 3,000 | 2.00 |", "| clients per CPU-second, group 14 | 3,000 | 1,000 | 3.00 |",
		"| bytes for an idle session | 2,000 | 2,000 | 1.00 |", "| 99th percentile, ms | 2.000 | 2.000 | |", "| answered, % | 99.000 | 99.000 | |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}
