package metrics

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/stilenet/stile/rendezvous"
)

// busyRendezvous has another number in each counter.
func busyRendezvous(t *testing.T) *Rendezvous {
	t.Helper()
	reg, err := rendezvous.NewRegistry(time.Unix(1e9, 0), rand.NewChaCha8([32]byte{}), rendezvous.Rules{})
	if err != nil {
		t.Fatal(err)
	}
	n := uint64(100)
	next := func() uint64 { n++; return n }
	var s rendezvous.Stats
	for _, list := range [][]uint64{s.Endpoint.Packets[1:], s.Endpoint.Chunks[:], s.Ended[:], s.Refused[:], s.Introductions[:]} {
		for i := range list {
			list[i] = next()
		}
	}
	s.Limited, s.Long, s.Busy, s.Unsent = next(), next(), next(), next()
	s.Read = s.Limited + s.Long + s.Busy
	for _, p := range s.Endpoint.Packets {
		s.Read += p
	}
	s.Endpoint.Sent, s.Sessions, s.Opened, s.Connected = next(), int(next()), next(), next()
	s.Malformed, s.Ignored, s.CommandRate, s.Dropped, s.AddressesSkipped = next(), next(), next(), next(), next()
	s.Replaced, s.Mixed, s.Checks = next(), next(), next()
	return &Rendezvous{
		Stats:    func(context.Context) (rendezvous.Stats, error) { return s, nil },
		Registry: reg, Directory: &rendezvous.Directory{Names: reg.Names},
	}
}

func TestExpositionOfTheRendezvousIsTheGoldenOne(t *testing.T) {
	const file = "testdata/rendezvous.txt"
	cfg := config(newSource())
	cfg.Rendezvous = busyRendezvous(t)
	var b strings.Builder
	for line := range strings.Lines(ours(scrape(t, New(cfg)))) {
		if strings.Contains(line, "stile_rtmfp_") || strings.Contains(line, "stile_rendezvous_") {
			b.WriteString(line)
		}
	}
	got := b.String()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal([]byte(got), want) {
		t.Errorf("the exposition differs from %s (go test -update writes it anew):\n%s", file, got)
	}
}

func TestPacketsOfTheRendezvousSumToThoseRead(t *testing.T) {
	cfg := config(newSource())
	cfg.Rendezvous = busyRendezvous(t)
	r := New(cfg)
	if read, counted := sum(t, r, "stile_rtmfp_packets_read_total"), sum(t, r, "stile_rtmfp_packets_total"); read != counted || read == 0 {
		t.Errorf("%v read, %v counted", read, counted)
	}
	p := prometheus.NewPedanticRegistry()
	p.MustRegister(&collector{cfg})
	problems, err := testutil.GatherAndLint(p)
	if err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}

func TestAStuckRendezvousIsSaidAndNotZero(t *testing.T) {
	cfg := config(newSource())
	cfg.Rendezvous = busyRendezvous(t)
	cfg.Rendezvous.Stats = func(context.Context) (rendezvous.Stats, error) { return rendezvous.Stats{}, errors.New("stuck") }
	got := scrape(t, New(cfg))
	if !strings.Contains(got, "\nstile_rtmfp_up 0\n") || strings.Contains(got, "stile_rtmfp_packets") {
		t.Error(ours(got))
	}
}
