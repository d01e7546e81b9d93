package main

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"
)

func sampleReport() *CompareReport {
	run := func(rate, cpu float64, by limit) Run {
		return Run{Trial: &TrialResult{DeliveryRate: rate, CPU: &CPU{ProcessUs: cpu}, LatencyUp: &Latency{P50: cpu * 10, P99: cpu * 50}}, LimitedBy: by}
	}
	alloc := func(perSecond, pss, slab float64) *AllocationResult {
		return &AllocationResult{Allocations: 10000, PerSecond: perSecond, ServerUs: 20, PSSBytes: pss, SlabBytes: slab, Memory: true}
	}
	return &CompareReport{
		Version: 1, Title: "Relaying", Date: time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC), Rounds: 3, Allocations: 100, MaxLoss: 0.001,
		Facts: Facts{CPU: "A CPU", CPUs: 2, Kernel: "6.18", Go: "go1.26"}, Laboratory: "a network",
		CommandLine: []string{"stilebench", "compare", "--server-cmd", "own=./own -p {port}"},
		Servers: []ComparedServer{
			{Name: "own", Command: "./own a|b", Version: "1", Allocations: []*AllocationResult{alloc(40000, 3000, 1000)}},
			{Name: "other", Command: "other", Version: "2", Allocations: []*AllocationResult{alloc(5000, 22000, 3000)}},
		},
		Highest: []CompareCase{
			{Mode: Channel, Direction: Up, SizeBytes: 172, Runs: [][]Run{
				{run(400_000, 2, limitGenerator), run(420_000, 2.2, limitServer), run(440_000, 2.4, limitServer)},
				{run(150_000, 6, limitServer), run(140_000, 6.4, limitServer), run(160_000, 6.2, limitServer)}}},
			{Mode: Channel, Direction: Down, SizeBytes: 172, Runs: [][]Run{
				{run(100_000, 8, limitServer)},
				{{LimitedBy: limitServer}}}},
		},
		Fixed: []CompareCase{{Mode: Channel, Direction: Up, SizeBytes: 172, Rate: 95_000, Lowered: true, Runs: [][]Run{
			{run(95_000, 3, limitNone)}, {run(95_000, 6, limitNone)}}}},
	}
}

func TestThePageHoldsMediansAndRatiosRoundByRound(t *testing.T) {
	page := sampleReport().markdown()
	for _, want := range []string{
		"## Relaying\n",
		"stilebench compare --server-cmd 'own=./own -p {port}'",
		"| own | 1 | `./own a\\|b` |",
		"| 172 B up | ≥ 420,000 | 150,000 | 2.75 |", // 400/150, 420/140, 440/160: the median is the last
		"| 172 B up | 2.20 | 6.20 | 0.34 |",
		"| 172 B down | 100,000 | – | – |",
		"| 172 B up, 95,000/s (lowered) | 3.00 | 6.00 | 0.50 |",
		"| Allocate + ChannelBind per second | 40,000 | 5,000 | 8.00 |",
		"| both for each of 10,000, bytes | 4,000 | 25,000 | 0.16 |",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if t.Failed() {
		t.Log(page)
	}
	columns := 0
	for line := range strings.Lines(page) {
		if !strings.HasPrefix(line, "|") {
			columns = 0
			continue
		}
		n := strings.Count(strings.ReplaceAll(line, `\|`, ""), "|")
		if columns != 0 && n != columns {
			t.Errorf("a row of %d columns in a table of %d: %s", n-1, columns-1, line)
		}
		columns = n
	}
}

func TestASmokeRunComparesNothing(t *testing.T) {
	r := sampleReport()
	r.Smoke = true
	if page := r.markdown(); strings.Contains(page, "own / other") {
		t.Error("the page of a smoke run has ratios")
	}
}

func TestTheReportIsJSON(t *testing.T) {
	if _, err := json.Marshal(sampleReport()); err != nil {
		t.Fatal(err)
	}
}

func TestMedianAndMeans(t *testing.T) {
	if m := median([]float64{3, 1, 2}); m != 2 {
		t.Errorf("median of three: %g", m)
	}
	if m := median([]float64{4, 1, 2, 3}); m != 2.5 {
		t.Errorf("median of four: %g", m)
	}
	if m := geometricMean([]float64{0.5, 2, 4, 0.25}); math.Abs(m-1) > 1e-12 {
		t.Errorf("geometric mean: %g", m)
	}
	for _, v := range [][]float64{nil, {1, math.NaN()}, {1, 0}} {
		if m := geometricMean(v); !math.IsNaN(m) {
			t.Errorf("geometric mean of %v: %g", v, m)
		}
	}
}

func TestTheCommonRateIsWhatEveryServerReaches(t *testing.T) {
	cases := []struct {
		highest []float64
		want    float64
		lowered bool
	}{
		{[]float64{400_000, 150_000}, 100_000, false},
		{[]float64{400_000, 90_000}, 85_000, true},
		{[]float64{400_000, math.NaN()}, 100_000, false},
		{[]float64{500}, 1000, true},
	}
	for _, c := range cases {
		if got, lowered := commonRate(100_000, c.highest); got != c.want || lowered != c.lowered {
			t.Errorf("%v: %g, lowered %v", c.highest, got, lowered)
		}
	}
}

func TestThousandsAreGrouped(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 999: "999", 1000: "1,000", -1234567: "-1,234,567", 12.6: "13"} {
		if got := grouped(v); got != want {
			t.Errorf("%g: %s", v, got)
		}
	}
}
