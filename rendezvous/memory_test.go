package rendezvous

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/stilenet/stile/rtmfp/flash"
)

// idleSessions connects n clients, forgets them, lets their sessions fall idle, and returns what the service keeps for each.
func idleSessions(tb testing.TB, n int) (bytesEach float64) {
	w := newWorld(tb, setup{shards: 2, rules: Rules{Keepalive: 1000 * time.Hour}})
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for i := range n {
		at := fmt.Sprintf("10.%d.%d.%d:5000", i>>16&0xff, i>>8&0xff, i&0xff)
		c := w.client(at, "")
		if code := c.connect("key", flash.AMF3, at); code != flash.NetConnectionConnectSuccess {
			tb.Fatal(code)
		}
		w.run(time.Second)
		c.dead = true
		delete(w.hosts, c.at)
	}
	w.run(3 * time.Minute)
	if got := w.stats().Sessions; got != n {
		tb.Fatalf("%d sessions of %d", got, n)
	}
	w.queue, w.events = nil, nil // the world is not the service
	after := heap()
	runtime.KeepAlive(w)
	keptWorld = w
	return float64(after-before) / float64(n)
}

func BenchmarkIdleSessionMemory(b *testing.B) {
	b.ReportMetric(idleSessions(b, 3000), "B/session")
}

var keptWorld *world
