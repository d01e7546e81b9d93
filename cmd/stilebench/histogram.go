package main

import (
	"math/bits"
	"time"
)

// histogram counts durations in buckets of at most 1/32 of their value, from 1 ns to 2^40 ns (18 minutes). Adding
// allocates nothing. A negative duration counts as zero.
type histogram struct {
	counts [36 * 32]uint64
	total  uint64
	max    int64
}

func bucketOf(ns int64) int {
	if ns < 32 {
		return int(max(ns, 0))
	}
	exp := bits.Len64(uint64(ns)) - 6 // the five bits after the leading one say which of 32
	return min((exp+1)*32+int(ns>>exp)&31, len(histogram{}.counts)-1)
}

// bucketTop is the largest value of a bucket.
func bucketTop(i int) int64 {
	if i < 32 {
		return int64(i)
	}
	exp := i/32 - 1
	return (int64(32+i%32)+1)<<exp - 1
}

func (h *histogram) add(ns int64) {
	h.counts[bucketOf(ns)]++
	h.total++
	h.max = max(h.max, ns)
}

// quantile is the smallest recorded bound that at least q of all values do not exceed, 0 for an empty histogram.
func (h *histogram) quantile(q float64) time.Duration {
	if h.total == 0 {
		return 0
	}
	need := uint64(q * float64(h.total))
	if float64(need) < q*float64(h.total) {
		need++
	}
	need = max(need, 1)
	var seen uint64
	for i, n := range h.counts {
		if seen += n; seen >= need {
			return time.Duration(min(bucketTop(i), h.max))
		}
	}
	return time.Duration(h.max)
}

// Latency is a summary in microseconds.
type Latency struct {
	P50 float64 `json:"p50_us"`
	P90 float64 `json:"p90_us"`
	P99 float64 `json:"p99_us"`
	Max float64 `json:"max_us"`
}

func (h *histogram) latency() Latency {
	us := func(d time.Duration) float64 { return float64(d) / 1e3 }
	return Latency{P50: us(h.quantile(0.5)), P90: us(h.quantile(0.9)), P99: us(h.quantile(0.99)), Max: us(time.Duration(h.max))}
}
