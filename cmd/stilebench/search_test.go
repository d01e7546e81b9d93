package main

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// simulated is a server that carries capacity packets/s, behind a generator of its own limit, on a machine that
// disturbs a share of the trials.
type simulated struct {
	capacity, generator float64
	disturbed           float64
	rng                 *rand.Rand
	seconds             float64
}

func (s *simulated) trial(rate float64, d time.Duration) (*TrialResult, error) {
	s.seconds += d.Seconds()
	offered := rate * d.Seconds()
	sent := min(rate, s.generator) * d.Seconds()
	got := min(sent, s.capacity*d.Seconds())
	if s.rng.Float64() < s.disturbed {
		got *= 0.99
	}
	t := &TrialResult{Sent: uint64(sent), Skipped: uint64(offered - sent), Received: uint64(got), TargetRate: rate}
	t.Loss = (sent - got) / sent
	t.Limit = judge(t, 0.001)
	return t, nil
}

func searchIn(s *simulated, first float64) searchResult {
	res, _ := searchMaxRate(searchConfig{first: first, highest: 2e6, short: 400 * time.Millisecond, long: 2 * time.Second, maxLoss: 0.001}, s.trial)
	return res
}

func TestSearchFindsTheCapacityWithinFivePercent(t *testing.T) {
	for _, capacity := range []float64{1_000, 19_000, 152_000, 480_000} {
		for _, first := range []float64{800, 20_000, 900_000} {
			s := &simulated{capacity: capacity, generator: 1e9, rng: rand.New(rand.NewPCG(1, 1))}
			res := searchIn(s, first)
			if res.trial == nil || res.rate < capacity*0.95 || res.rate > capacity*1.002 || res.generator {
				t.Errorf("capacity %g from %g: found %g, generator %v", capacity, first, res.rate, res.generator)
			}
			if s.seconds > 30 {
				t.Errorf("capacity %g from %g: %d trials, %.0f s", capacity, first, res.trials, s.seconds)
			}
		}
	}
}

func TestSearchOnADisturbedMachineStaysNearTheCapacity(t *testing.T) {
	worst := 1.0
	for seed := range uint64(200) {
		s := &simulated{capacity: 150_000, generator: 1e9, disturbed: 0.15, rng: rand.New(rand.NewPCG(seed, 7))}
		res := searchIn(s, 20_000)
		if res.rate > 150_000*1.002 {
			t.Fatalf("seed %d: %g is above the capacity", seed, res.rate)
		}
		worst = math.Min(worst, res.rate/150_000)
	}
	// Two disturbances in a row at a low rate of the ramp cost much; they must be rare, not impossible.
	bad := 0
	for seed := range uint64(200) {
		s := &simulated{capacity: 150_000, generator: 1e9, disturbed: 0.15, rng: rand.New(rand.NewPCG(seed, 7))}
		if searchIn(s, 20_000).rate < 150_000*0.85 {
			bad++
		}
	}
	if bad > 30 {
		t.Errorf("%d of 200 searches missed by more than 15 %%, the worst found %.0f %%", bad, worst*100)
	}
}

func TestSearchSaysWhenTheGeneratorWasTheLimit(t *testing.T) {
	s := &simulated{capacity: 1e9, generator: 300_000, rng: rand.New(rand.NewPCG(1, 1))}
	res := searchIn(s, 20_000)
	if !res.generator || res.rate < 280_000 || res.rate > 310_000 {
		t.Errorf("found %g, generator %v", res.rate, res.generator)
	}
}

func TestSearchWithoutAnyPassingRateReportsNone(t *testing.T) {
	s := &simulated{capacity: 0, generator: 1e9, rng: rand.New(rand.NewPCG(1, 1))}
	if res := searchIn(s, 20_000); res.trial != nil || res.rate != 0 {
		t.Errorf("found %g packets/s through a server that carries none", res.rate)
	}
}

func TestSearchBacksOffFromARateThatOnlyAShortTrialSurvives(t *testing.T) {
	// A queue of 20 ms hides overload for a moment.
	s := &simulated{capacity: 150_000, generator: 1e9, rng: rand.New(rand.NewPCG(1, 1))}
	res, _ := searchMaxRate(searchConfig{first: 20_000, highest: 2e6, short: 400 * time.Millisecond, long: 2 * time.Second, maxLoss: 0.001},
		func(rate float64, d time.Duration) (*TrialResult, error) {
			s.capacity = 150_000 * (1 + 0.05/d.Seconds())
			return s.trial(rate, d)
		})
	if sustained := 150_000 * 1.025 * 1.002; res.trial == nil || res.rate > sustained || res.rate < sustained*0.93 {
		t.Errorf("found %g, sustained are %g", res.rate, sustained)
	}
}
