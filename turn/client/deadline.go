package client

import (
	"sync"
	"time"
)

// deadline is a point in time after which a channel is closed, and that can be moved.
type deadline struct {
	mu     sync.Mutex
	timer  *time.Timer
	passed chan struct{}
	over   bool // passed is closed
}

// wait is closed once the deadline that holds now has passed.
func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.channel()
}

func (d *deadline) channel() chan struct{} {
	if d.passed == nil {
		d.passed = make(chan struct{})
	}
	return d.passed
}

// set moves the deadline; the zero time means none. Whoever waits sees the move.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if d.over && (t.IsZero() || time.Until(t) > 0) {
		d.passed, d.over = nil, false
	}
	if t.IsZero() {
		return
	}
	wait := time.Until(t)
	if wait <= 0 {
		d.expire()
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(wait, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.timer == timer { // not moved since
			d.expire()
		}
	})
	d.timer = timer
}

func (d *deadline) expire() {
	if !d.over {
		close(d.channel())
		d.over = true
	}
}

// stop leaves no timer behind.
func (d *deadline) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}
