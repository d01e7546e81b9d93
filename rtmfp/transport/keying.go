package transport

import (
	"sync"
	"time"

	"github.com/stilenet/stile/rtmfp"
)

// keyingPool negotiates keys on a bounded number of goroutines, which exist while there is work. What waits is bounded by
// rtmfp.Limits: PendingKeying and Opening of each endpoint.
type keyingPool struct {
	limit int

	mu      sync.Mutex
	waiting []keying
	running int
	closed  bool
	done    sync.WaitGroup
}

type keying struct {
	t *Transport
	k *rtmfp.Keying
}

func newKeyingPool(n int) *keyingPool { return &keyingPool{limit: workers(n)} }

// add has a keying run and given back to the endpoint.
func (p *keyingPool) add(t *Transport, k *rtmfp.Keying) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.waiting = append(p.waiting, keying{t, k})
	if p.running < p.limit {
		p.running++
		p.done.Add(1)
		go p.work()
	}
}

func (p *keyingPool) work() {
	defer p.done.Done()
	for {
		p.mu.Lock()
		if len(p.waiting) == 0 || p.closed {
			p.running--
			p.mu.Unlock()
			return
		}
		next := p.waiting[0]
		p.waiting = p.waiting[1:]
		p.mu.Unlock()
		next.k.Run()
		_ = next.t.post(func(now time.Time, e *rtmfp.Endpoint) { e.Keyed(now, next.k) }, 2*maxPosted) // closed, or never refused
	}
}

// close waits for the goroutines.
func (p *keyingPool) close() {
	p.mu.Lock()
	p.closed = true
	p.waiting = nil
	p.mu.Unlock()
	p.done.Wait()
}
