package main

import "testing"

func TestEncoderKeepsToTheBudget(t *testing.T) {
	var r rateControl
	for range 30 {
		if got := r.step(uplinkSample{subscribers: 2, hint: 400_000}); got > 360_000 {
			t.Fatalf("%d bit/s of a budget of 400,000", got)
		}
	}
}

func TestEncoderBacksOffAndComesBack(t *testing.T) {
	var r rateControl
	first := r.step(uplinkSample{subscribers: 1})
	low := r.step(uplinkSample{subscribers: 1, dropped: 3})
	if low >= first {
		t.Errorf("%d after %d with drops", low, first)
	}
	var last int
	for range 30 {
		last = r.step(uplinkSample{subscribers: 1, dropped: 3})
	}
	if last <= first {
		t.Errorf("%d after half a calm minute, began with %d", last, first)
	}
	if lossy := r.step(uplinkSample{subscribers: 1, dropped: 3, loss: 0.2}); lossy >= last {
		t.Errorf("%d after %d with loss", lossy, last)
	}
}

func TestVideoPausesBeforeSoundSuffers(t *testing.T) {
	var r rateControl
	if got := r.step(uplinkSample{subscribers: 3, hint: 40_000}); got != 0 {
		t.Errorf("%d bit/s of video in 40,000", got)
	}
	if got := r.step(uplinkSample{subscribers: 3, hint: 80_000}); got != 0 {
		t.Errorf("video comes back too early, with %d", got)
	}
	var got int
	for range 20 {
		got = r.step(uplinkSample{subscribers: 1, hint: 800_000})
	}
	if got < videoAgain {
		t.Errorf("video does not come back: %d", got)
	}
}

func TestNobodyIsSentNothing(t *testing.T) {
	var r rateControl
	if got := r.step(uplinkSample{hint: 1 << 20}); got != 0 {
		t.Errorf("%d", got)
	}
}
