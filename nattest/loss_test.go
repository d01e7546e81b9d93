package nattest_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stilenet/stile/nattest"
	"github.com/stilenet/stile/nattest/natlab"
)

// The links of the client lose a share of the packets in each direction. NATLAB_SEEDS=1200 gives the 10,800 runs for which
// "wrong at most once in 10,000" is asked.
func TestLossMakesVerdictsUnknownAndNeverWrong(t *testing.T) {
	for _, tc := range []struct {
		name    string
		link    natlab.LinkConfig
		unknown float64 // share that may be unknown
		median  time.Duration
	}{
		{"10 % loss", natlab.LinkConfig{Delay: 50 * time.Millisecond, Loss: 0.1}, 0.02, 1200 * time.Millisecond},
		{"20 % loss, 50 ms jitter", natlab.LinkConfig{Delay: 50 * time.Millisecond, Jitter: 50 * time.Millisecond, Loss: 0.2}, 0.1, 1600 * time.Millisecond},
	} {
		t.Run(tc.name, func(t *testing.T) {
			runs, wrong, unknown, packets := 0, 0, 0, 0
			var took []time.Duration
			for seed := range seeds(6) {
				for i := range 9 {
					m, f := natlab.EIM+natlab.Mapping(i/3), natlab.EIF+natlab.Filtering(i%3)
					natlab.Run(t, seed*9+uint64(i), func(t *testing.T, n *natlab.Net) {
						order := []natlab.PortOrder{natlab.Preserve, natlab.Random, natlab.Sequential}[seed%3]
						l := newLab(t, n, nat(natlab.NATConfig{Mapping: m, Filtering: f, Ports: natlab.PortConfig{Order: order}}), tc.link, &discovery, nil)
						start := time.Now()
						r := l.probe(t, beyond(l.client, "192.168.1.1")) // as natprobe runs it
						took = append(took, time.Since(start))
						runs++
						packets += r.Observations.Sent
						v := r.Verdict
						switch {
						case v.Mapping != nattest.MappingUnknown && v.Mapping.String() != m.String(),
							v.Filtering != nattest.FilteringUnknown && v.Filtering.String() != f.String():
							wrong++
							t.Logf("wrong for %v/%v: %v", m, f, explain(r))
						case v.Mapping == nattest.MappingUnknown || v.Filtering == nattest.FilteringUnknown:
							unknown++
							if testing.Verbose() && unknown < 10 {
								t.Logf("seed %d: unknown for %v/%v: %v", seed*9+uint64(i), m, f, explain(r))
							}
						}
						if v.OpenLinux == nattest.Yes || v.ReplySame == nattest.Yes || v.ALG == nattest.Yes || v.Fragments == nattest.No {
							t.Errorf("behaviour that is not there: %v", explain(r))
						}
					})
				}
			}
			slices.Sort(took)
			t.Logf("%d runs: %d wrong, %d unknown (%.2f %%), median %v, longest %v, %d packets on average", runs, wrong, unknown,
				100*float64(unknown)/float64(runs), took[len(took)/2], took[len(took)-1], packets/runs)
			if wrong*10000 > runs {
				t.Errorf("%d of %d are wrong", wrong, runs)
			}
			if allowed := tc.unknown*float64(runs) + 2; float64(unknown) > allowed {
				t.Errorf("%d of %d are unknown, allowed are %.0f", unknown, runs, allowed)
			}
			if took[len(took)/2] > tc.median || took[len(took)-1] > 3*time.Second {
				t.Errorf("median %v, longest %v", took[len(took)/2], took[len(took)-1])
			}
		})
	}
}
