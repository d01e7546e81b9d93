package main

// Ours to tune, in bits per second.
const (
	audioRate  = 32_000
	videoFirst = 600_000   // where a call begins
	videoMost  = 1_500_000 // 640×480 gains nothing above it
	videoLeast = 60_000    // below it pictures are not worth their bits: sound goes on alone
	videoAgain = 100_000   // when they are worth it again
	lossBad    = 0.08
)

// uplinkSample is what a second of sending has shown.
type uplinkSample struct {
	subscribers int
	hint        int     // what the connection says that the encoder may use, for all subscribers to keep up; 0: it says nothing
	dropped     uint64  // video messages that were given up so far
	loss        float64 // the worst subscriber's, 0 to 1
}

// rateControl decides how much the video encoder may use. Sound is not its subject: it goes first and stays as it is, and what the
// subscribers' copies of it take is left out of the hint by the connection. It backs off by a third when video is given up or much is lost, and
// creeps up again while all is well.
type rateControl struct {
	video   float64
	dropped uint64
	calm    int // seconds
	paused  bool
}

// step takes a second's sample and returns the bits per second of the video encoder; 0: no video.
func (r *rateControl) step(s uplinkSample) int {
	if r.video == 0 {
		r.video, r.dropped = videoFirst, s.dropped
	}
	if s.dropped > r.dropped || s.loss > lossBad {
		r.video, r.calm = r.video*2/3, 0
	} else if r.calm++; r.calm > 2 {
		r.video *= 1.1
	}
	r.dropped = s.dropped
	// An encoder overshoots now and then, so it gets a little less than there is.
	if most := float64(s.hint) * 0.9; s.hint > 0 && r.video > most {
		r.video = most
	}
	r.video = min(max(r.video, videoLeast/2), videoMost)
	switch {
	case s.subscribers == 0:
		return 0
	case r.paused && r.video >= videoAgain:
		r.paused = false
	case r.video < videoLeast:
		r.paused = true
	}
	if r.paused {
		return 0
	}
	return int(r.video)
}
