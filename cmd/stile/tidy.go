package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// Ours to tune.
const (
	tidyLook  = time.Second
	tidyEvery = 10 * time.Second // a collection of 100,000 sessions takes 100 ms of a processor
	tidyLeast = 8 << 20          // bytes, below which nobody notices
	tidyShare = 4                // of what lives, what may be garbage or free and not given back: a quarter
)

// tidy gives memory back to the system after a burst of new clients of the rendezvous, until ctx ends. Key agreements leave garbage behind, and
// keepalives make too little of it for the collector to run again soon: a server whose clients came at once would keep three times
// the memory that they need for as long as they stay.
func tidy(ctx context.Context) {
	samples := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/free:bytes"}, {Name: "/gc/heap/live:bytes"}}
	t := time.NewTicker(tidyLook)
	defer t.Stop()
	var last, kept uint64 // the heap at the last look, and after the last collection here
	var next time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			metrics.Read(samples)
			heap, free, live := samples[0].Value.Uint64(), samples[1].Value.Uint64(), samples[2].Value.Uint64()
			grown := heap - min(heap, last)
			last = heap
			// While it grows the burst is not over.
			spare := free + heap - min(heap, live)
			switch {
			case spare < tidyLeast, spare < live/tidyShare, grown > spare/tidyShare:
				continue
			case now.Before(next) && heap < kept+2*tidyLeast: // no other burst since then
				continue
			}
			next = now.Add(tidyEvery)
			debug.FreeOSMemory()
			metrics.Read(samples)
			last = samples[0].Value.Uint64()
			kept = last
		}
	}
}
