package main

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestQuantilesAreWithinABucketOfTheExactOnes(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, scale := range []float64{20, 3e3, 4e5, 7e9} {
		var h histogram
		var all []int64
		for range 5000 {
			v := int64(rng.ExpFloat64() * scale)
			h.add(v)
			all = append(all, v)
		}
		slices.Sort(all)
		for _, q := range []float64{0.001, 0.5, 0.9, 0.99, 1} {
			exact := all[int(math.Ceil(q*float64(len(all))))-1]
			got := int64(h.quantile(q))
			if got < exact || float64(got) > float64(exact)*(1+1.0/32)+1 {
				t.Errorf("scale %g: quantile %g is %d, exactly %d", scale, q, got, exact)
			}
		}
		if h.max != all[len(all)-1] {
			t.Errorf("max %d, exactly %d", h.max, all[len(all)-1])
		}
	}
}

func TestEveryDurationFallsIntoTheBucketWhoseTopIsNotBelowIt(t *testing.T) {
	last := -1
	for _, ns := range []int64{0, 1, 31, 32, 33, 63, 64, 65, 1023, 1024, 1 << 20, 1<<20 + 1, 1<<39 + 12345} {
		i := bucketOf(ns)
		if bucketTop(i) < ns || i > 0 && bucketTop(i-1) >= ns {
			t.Errorf("%d ns: bucket %d covers %d to %d", ns, i, bucketTop(i-1)+1, bucketTop(i))
		}
		if i < last {
			t.Errorf("%d ns: bucket %d is below that of a smaller value", ns, i)
		}
		last = i
	}
	var h histogram
	h.add(-5) // clocks of two CPUs
	h.add(math.MaxInt64)
	if h.total != 2 {
		t.Error("values out of range are not counted")
	}
}

func TestAnEmptyHistogramHasNoLatency(t *testing.T) {
	var h histogram
	if h.quantile(0.99) != time.Duration(0) || h.latency() != (Latency{}) {
		t.Error("an empty histogram reports a latency")
	}
}
