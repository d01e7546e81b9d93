package flash

import (
	"testing"
	"time"
)

func TestChoosePath(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	ms := time.Millisecond
	direct := pathState{heard: ago(100 * ms), rtt: 40 * ms}
	relay := pathState{relayed: true, heard: ago(100 * ms), rtt: 80 * ms}
	with := func(p pathState, change func(p *pathState)) pathState { change(&p); return p }
	for _, test := range []struct {
		name     string
		current  int
		switched time.Time
		paths    []pathState
		want     int
	}{
		{"alone", 0, time.Time{}, []pathState{direct}, 0},
		{"direct rather than relayed", 0, now, []pathState{relay, direct}, 1},
		{"direct though its round trip is longer", 0, now, []pathState{relay, with(direct, func(p *pathState) { p.rtt = 300 * ms })}, 1},
		{"not to a direct path that was never heard", 0, now, []pathState{relay, {}}, 0},
		{"not to one that was heard long ago", 0, now, []pathState{relay, with(direct, func(p *pathState) { p.heard = ago(pathFresh + 1) })}, 0},
		{"at the end of its freshness", 0, now, []pathState{relay, with(direct, func(p *pathState) { p.heard = ago(pathFresh) })}, 1},
		{"not to a relay while direct works", 0, time.Time{}, []pathState{direct, with(relay, func(p *pathState) { p.rtt = ms })}, 0},
		{"to a relay when direct does not answer", 0, now, []pathState{with(direct, func(p *pathState) { p.heard, p.asked = ago(time.Second), ago(300*ms) }), relay}, 1},
		{"not before it could have answered", 0, now, []pathState{with(direct, func(p *pathState) { p.heard, p.asked = ago(time.Second), ago(pathLag-1) }), relay}, 0},
		{"not before its round trip is over twice", 0, now, []pathState{with(direct, func(p *pathState) { p.heard, p.asked, p.rtt = ago(time.Second), ago(300*ms), 200*ms }), relay}, 0},
		{"not because another was heard before the question", 0, now, []pathState{
			with(direct, func(p *pathState) { p.heard, p.asked = ago(time.Second), ago(300*ms) }), with(relay, func(p *pathState) { p.heard = ago(400 * ms) })}, 0},
		{"direct before relayed when the current is dead", 0, now, []pathState{with(direct, func(p *pathState) { p.asked = ago(time.Second) }), relay, direct}, 2},
		{"to a relay when direct loses too much", 0, now, []pathState{with(direct, func(p *pathState) { p.loss = 0.5 }), relay}, 1},
		{"not when the relay loses as much", 0, now, []pathState{with(direct, func(p *pathState) { p.loss = 0.5 }), with(relay, func(p *pathState) { p.loss = 0.5 })}, 0},
		{"much shorter", 0, ago(time.Minute), []pathState{with(direct, func(p *pathState) { p.rtt = 100 * ms }), direct}, 1},
		{"a little shorter", 0, ago(time.Minute), []pathState{with(direct, func(p *pathState) { p.rtt = 50 * ms }), direct}, 0},
		{"much shorter, but just changed", 0, ago(pathDwell - 1), []pathState{with(direct, func(p *pathState) { p.rtt = 100 * ms }), direct}, 0},
		{"the best of several", 0, now, []pathState{relay, with(direct, func(p *pathState) { p.rtt = 90 * ms }), direct, relay}, 2},
	} {
		if got := choosePath(now, test.current, test.switched, test.paths); got != test.want {
			t.Errorf("%s: %d, want %d", test.name, got, test.want)
		}
	}
}

// FuzzChoosePath: the choice is a fixed point, whatever is known: after a change nothing but news changes it again.
func FuzzChoosePath(f *testing.F) {
	f.Add([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12})
	f.Fuzz(func(t *testing.T, b []byte) {
		now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		var paths []pathState
		for ; len(b) >= 5 && len(paths) < 8; b = b[5:] {
			p := pathState{relayed: b[0]&1 != 0, loss: float64(b[1]) / 255, rtt: time.Duration(b[2]) * 2 * time.Millisecond}
			if b[3] > 0 {
				p.heard = now.Add(-time.Duration(b[3]) * 20 * time.Millisecond)
			}
			if b[4] > 0 {
				p.asked = now.Add(-time.Duration(b[4]) * 10 * time.Millisecond)
			}
			paths = append(paths, p)
		}
		if len(paths) == 0 {
			return
		}
		first := choosePath(now, 0, time.Time{}, paths)
		if first != 0 && (paths[first].heard.IsZero() || now.Sub(paths[first].heard) > pathFresh) {
			t.Fatalf("to a path that is not heard: %+v", paths[first])
		}
		// A path that was asked while others answered may be silent itself; one that answers is not left again.
		paths[first].asked = time.Time{}
		for i := range paths {
			paths[i].asked = time.Time{}
		}
		second := choosePath(now, first, now, paths)
		if third := choosePath(now, second, now, paths); third != second {
			t.Fatalf("%d, %d, %d of %+v", first, second, third, paths)
		}
	})
}

func TestTheUplinkIsABudget(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	b := newBucket(now, 800_000) // 100,000 bytes a second
	sent := 0
	for range 1000 { // 10 s
		if b.allows(now) {
			b.spend(4000)
			sent += 4000
		}
		now = now.Add(10 * time.Millisecond)
	}
	if sent < 900_000 || sent > 1_030_000 {
		t.Errorf("%d bytes in 10 s", sent)
	}
	b.allows(now)
	b.spend(10_000_000)
	if b.allows(now.Add(999 * time.Millisecond)) {
		t.Error("the debt is forgotten")
	}
	if !b.allows(now.Add(1001 * time.Millisecond)) {
		t.Error("the debt is above a second")
	}
	var unlimited bucket
	unlimited.spend(1 << 30)
	if !unlimited.allows(now) {
		t.Error("no limit is a limit")
	}
}

func TestTheEncoderBacksOffAndComesBack(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var p pace
	p.begin(now)
	step := func(bytes int, oldest time.Duration) {
		p.video += bytes
		now = now.Add(paceInterval)
		p.adjust(now, oldest)
	}
	step(62_500, 0) // 1 Mbit/s
	if got := p.bitrate(0, 3); got != 0 {
		t.Errorf("without need: %d", got)
	}
	if got := p.bitrate(1_500_000, 3); got != 500_000 {
		t.Errorf("the share of a third: %d", got)
	}
	step(62_500, time.Second)
	if got := p.bitrate(0, 1); got != 700_000 {
		t.Errorf("congested: %d", got)
	}
	step(31_250, time.Second)
	if got := p.bitrate(0, 1); got != 350_000 {
		t.Errorf("still congested: %d", got)
	}
	for range 200 {
		step(31_250, 0)
	}
	if got := p.bitrate(0, 1); got != 0 {
		t.Errorf("after a while: %d", got)
	}
}
