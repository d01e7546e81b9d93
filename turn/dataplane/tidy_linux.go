package dataplane

import (
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// Ours to tune.
const (
	// tidyShare is which share of what lives may be garbage, or free and not given back to the system: a quarter.
	tidyShare = 4
	tidyLeast = 4 << 20          // bytes, below which nobody notices
	tidyEvery = 10 * time.Second // a collection of 50,000 allocations takes 30 ms of a processor
)

// tidier gives memory back after a burst of control messages. Relayed packets allocate nothing, so nothing else makes the garbage collector run, and a
// server whose 50,000 clients all came at once would keep twice the memory they need for as long as they stay.
type tidier struct {
	samples []metrics.Sample
	last    uint64    // bytes of the heap at the last look
	next    time.Time // not before
}

// look is called every second. It collects when there is garbage and the burst is over.
func (t *tidier) look(now time.Time) {
	if t.samples == nil {
		t.samples = []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/free:bytes"}, {Name: "/gc/heap/live:bytes"}}
	}
	metrics.Read(t.samples)
	heap, free, live := t.samples[0].Value.Uint64(), t.samples[1].Value.Uint64(), t.samples[2].Value.Uint64()
	grown := heap - min(heap, t.last)
	t.last = heap
	if spare := free + heap - min(heap, live); spare < tidyLeast || spare < live/tidyShare || grown > spare/tidyShare || now.Before(t.next) {
		return
	}
	t.next = now.Add(tidyEvery)
	go debug.FreeOSMemory() // not on the thread of a shard, which would wait for the end of it
}
