package flash

import "time"

// Ours to tune.
const (
	// pathLag is how long the current path has to answer, at least, when another does: above the difference of two paths' delays,
	// below what a listener notices.
	pathLag = 200 * time.Millisecond
	// pathFresh is how long an answer says that a path works; probes come twice a second while it matters.
	pathFresh = 3 * time.Second
	// pathDwell is between changes that are for a better round trip only, so that two ends do not chase each other.
	pathDwell = 5 * time.Second
	// pathBadLoss of the probes makes a path bad: speech is no longer understood.
	pathBadLoss = 0.3
	// pathGain and pathGainMin are how much better another path of the same kind must be.
	pathGain    = 1.5
	pathGainMin = 10 * time.Millisecond
)

// pathState is what is known about one way to a far end.
type pathState struct {
	relayed bool
	heard   time.Time     // the last packet or answer by it; zero is never
	asked   time.Time     // the first probe since then; zero is none
	rtt     time.Duration // smoothed, of answers to probes; 0 is unknown
	loss    float64       // of probes, 0 to 1, the older the less
}

// choosePath says by which of the paths packets go. It is the whole decision:
//
//  1. A current path that does not answer while another does gives way to the best of these: it is dead, or the far end has
//     moved.
//  2. Direct is better than relayed, and both than a path that loses so much that nobody understands speech.
//  3. Of one kind, a much shorter round trip is better, but not more often than every pathDwell.
//
// It is a function of what both ends see, so that they come to the same kind of path, and of nothing that moves while
// nothing happens, so that they stay there.
func choosePath(now time.Time, current int, switched time.Time, paths []pathState) int {
	best, c := -1, paths[current]
	silent := false
	for i, p := range paths {
		if i == current || p.heard.IsZero() || now.Sub(p.heard) > pathFresh {
			continue
		}
		if !c.asked.IsZero() && now.Sub(c.asked) >= max(pathLag, 2*c.rtt) && p.heard.After(c.asked) {
			silent = true
		}
		if best < 0 || pathBetter(p, paths[best]) {
			best = i
		}
	}
	switch {
	case best < 0:
		return current
	case silent:
		return best
	case pathRank(paths[best]) != pathRank(c):
		if pathRank(paths[best]) < pathRank(c) {
			return best
		}
	case now.Sub(switched) >= pathDwell && paths[best].rtt > 0 && c.rtt > 0 &&
		time.Duration(pathGain*float64(paths[best].rtt))+pathGainMin < c.rtt:
		return best
	}
	return current
}

// pathRank orders kinds of paths, the best first.
func pathRank(p pathState) int {
	rank := 0
	if p.relayed {
		rank = 1
	}
	if p.loss > pathBadLoss {
		rank += 2
	}
	return rank
}

func pathBetter(a, b pathState) bool {
	if ra, rb := pathRank(a), pathRank(b); ra != rb {
		return ra < rb
	}
	return a.rtt < b.rtt
}
