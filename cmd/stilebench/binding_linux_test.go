package main

import (
	"strings"
	"testing"
)

func TestTheBindingTableHasMediansAndRatiosRoundByRound(t *testing.T) {
	run := func(v float64) *BindingResult {
		return &BindingResult{PerSecond: v / 2, PerCPUSecond: v, ServerShare: 0.5, AnswerBytes: 44}
	}
	r := &BindingReport{Rounds: 3, CommandLine: []string{"stilebench", "stun"}, Servers: []BindingServer{
		{Name: "own", Runs: []*BindingResult{run(200_000), run(300_000), run(400_000)}},
		{Name: "other", Runs: []*BindingResult{run(100_000), run(100_000), run(400_000)}},
	}}
	page := r.markdown()
	for _, want := range []string{"| | own | other | own / other |", "| answers per CPU-second | 300,000 | 100,000 | 2.00 |", "| its CPU, % | 50 | 50 | |"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q:\n%s", want, page)
		}
	}
}

func TestNoFrameStandsTwiceInABatch(t *testing.T) {
	a, b, c := &frame{}, &frame{}, &frame{}
	for _, tc := range []struct {
		in   []*frame
		want int
	}{{nil, 0}, {[]*frame{a}, 1}, {[]*frame{a, b, c}, 3}, {[]*frame{a, b, a, c}, 2}, {[]*frame{a, a}, 1}} {
		if got := distinct(tc.in); len(got) != tc.want {
			t.Errorf("%d of %d", len(got), len(tc.in))
		}
	}
}
