package dataplane

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

// TestGarbageOfABurstIsGivenBack when the burst is over, and not while it lasts.
func TestGarbageOfABurstIsGivenBack(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // as between two collections
	runtime.GC()
	var collections uint32
	count := func() uint32 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.NumForcedGC
	}
	collections = count()
	var x tidier
	now := time.Unix(1e9, 0)
	var burst [][]byte
	for range 3 {
		burst = append(burst, make([]byte, 8<<20))
		x.look(now)
		now = now.Add(time.Second)
	}
	if n := count(); n != collections {
		t.Fatalf("%d collections in the burst", n-collections)
	}
	runtime.KeepAlive(burst)
	x.look(now)
	eventually(t, "a collection", func() bool { return count() > collections })
}
