package main

import (
	"math"
	"sort"
	"time"
)

// CompareReport is what `compare --json` prints: every trial, from which the tables are made.
type CompareReport struct {
	Version     int              `json:"version"` // of this format: 1
	Title       string           `json:"title"`
	Date        time.Time        `json:"date"`
	Facts       Facts            `json:"machine"`
	CommandLine []string         `json:"command_line"`
	Smoke       bool             `json:"smoke"`
	Laboratory  string           `json:"laboratory"`
	Rounds      int              `json:"rounds"`
	Allocations int              `json:"allocations"`
	MaxLoss     float64          `json:"max_loss"`
	Servers     []ComparedServer `json:"servers"` // the first is the one the ratios are about
	Highest     []CompareCase    `json:"highest"`
	Fixed       []CompareCase    `json:"fixed"`
	Latency     []CompareCase    `json:"latency"`
	Generator   []Calibration    `json:"generator"`
}

// ComparedServer is one column of the tables.
type ComparedServer struct {
	Name        string              `json:"name"`
	Command     string              `json:"command"`
	Args        []string            `json:"args"`
	Version     string              `json:"version"`
	Idle        []float64           `json:"idle"`        // share of a CPU without work, one for each round
	Allocations []*AllocationResult `json:"allocations"` // one for each round
}

// CompareCase is one row: the same load on every server, once in each round.
type CompareCase struct {
	Mode      Mode      `json:"mode"`
	Direction Direction `json:"direction"`
	SizeBytes int       `json:"size_bytes"`
	Rate      float64   `json:"rate_pps"` // 0: each server's highest
	Lowered   bool      `json:"lowered"`  // the rate is below the wanted one, which a server does not reach
	Runs      [][]Run   `json:"runs"`     // by server, by round
}

// Run is one measurement of a case.
type Run struct {
	Trial     *TrialResult `json:"result"` // nil when no rate passed
	LimitedBy limit        `json:"limited_by"`
}

// values of one server over the rounds; rounds without a result are left out.
func (c *CompareCase) values(server int, of func(*TrialResult) float64) (v []float64) {
	for _, r := range c.Runs[server] {
		if r.Trial != nil {
			v = append(v, of(r.Trial))
		}
	}
	return v
}

// ratios of a server to another, round by round: both ran one after the other, so that the machine's mood cancels.
func (c *CompareCase) ratios(server, other int, of func(*TrialResult) float64) (v []float64) {
	for i := range min(len(c.Runs[server]), len(c.Runs[other])) {
		a, b := c.Runs[server][i].Trial, c.Runs[other][i].Trial
		if a != nil && b != nil && of(b) > 0 {
			v = append(v, of(a)/of(b))
		}
	}
	return v
}

// generatorLimited reports whether a server was ever faster than the generator.
func (c *CompareCase) generatorLimited(server int) bool {
	for _, r := range c.Runs[server] {
		if r.LimitedBy == limitGenerator {
			return true
		}
	}
	return false
}

// lossy reports whether a server lost more than allowed in more than half of the rounds of a fixed rate.
func (c *CompareCase) lossy(server int, maxLoss float64) bool {
	n := 0
	for _, r := range c.Runs[server] {
		if r.Trial == nil || r.Trial.Loss > maxLoss {
			n++
		}
	}
	return 2*n > len(c.Runs[server])
}

// median of no values is NaN.
func median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	s := append([]float64(nil), v...)
	sort.Float64s(s)
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// geometricMean of no values, or of one that is not positive, is NaN.
func geometricMean(v []float64) float64 {
	sum := 0.0
	for _, x := range v {
		if !(x > 0) {
			return math.NaN()
		}
		sum += math.Log(x)
	}
	if len(v) == 0 {
		return math.NaN()
	}
	return math.Exp(sum / float64(len(v)))
}

// commonRate is the rate at which all servers of a case are compared: the wanted one when every server reaches it,
// else 95 % of what the slowest reaches, whole thousands. highest holds each server's median; a NaN (a server without
// a result) does not count.
func commonRate(wanted float64, highest []float64) (rate float64, lowered bool) {
	slowest := math.Inf(1)
	for _, h := range highest {
		if !math.IsNaN(h) {
			slowest = min(slowest, h)
		}
	}
	if slowest >= wanted {
		return wanted, false
	}
	return max(1000, math.Floor(slowest*0.95/1000)*1000), true
}

func cpuOf(t *TrialResult) float64 {
	if t.CPU == nil {
		return 0
	}
	return t.CPU.ProcessUs
}

func rateOf(t *TrialResult) float64 { return t.DeliveryRate }
