package main

import "time"

// The search for the highest rate without loss.
//
//	ramp     rates grow by half until one fails
//	bisect   between the last that passed and the first that failed, until they are 3 % apart
//	confirm  one long trial at what passed; when it fails, 4 % less, and again
//
// Noise only ever makes a trial worse, never better: another process takes the CPU for some milliseconds and a queue
// overflows. So one passing trial proves a rate, and only two failing ones refute it; one that failed because of the
// generator or the machine says nothing and is repeated, within reason. What the machine cannot sustain over seconds is
// caught by the confirming trial.
type searchConfig struct {
	first   float64       // packets/s of the first trial
	highest float64       // packets/s; the search does not go above
	short   time.Duration // of a ramp or bisection trial
	long    time.Duration // of the confirming trial
	maxLoss float64       // share of the packets sent
}

// Ours to tune.
const (
	rampFactor      = 1.5
	bisectUntil     = 1.03 // first failing rate / last passing rate
	backOff         = 0.96
	confirmAttempts = 8
	refutations     = 2
	trialsAtMost    = 4 // at one rate
)

type searchResult struct {
	rate      float64      // packets/s of the confirmed trial
	trial     *TrialResult // the confirmed trial, nil when no rate passed
	trials    int
	generator bool // the generator ended the search, not the server
}

// passes reports whether the trial kept its rate without loss.
func passes(t *TrialResult, maxLoss float64) bool {
	return t.Loss <= maxLoss && t.Limit != limitGenerator
}

// searchMaxRate finds the highest rate that loses at most maxLoss. The only errors are those of try.
func searchMaxRate(cfg searchConfig, try func(rate float64, d time.Duration) (*TrialResult, error)) (searchResult, error) {
	var res searchResult
	attempt := func(rate float64) (bool, error) {
		for tries, refuted := 0, 0; tries < trialsAtMost && refuted < refutations; tries++ {
			t, err := try(rate, cfg.short)
			if err != nil {
				return false, err
			}
			res.trials++
			if passes(t, cfg.maxLoss) {
				res.generator = false
				return true, nil
			}
			if res.generator = t.Limit == limitGenerator; t.Limit == limitServer {
				refuted++
			}
		}
		return false, nil
	}

	good, bad, generatorAtBad := 0.0, 0.0, false
	for rate := cfg.first; ; {
		ok, err := attempt(rate)
		if err != nil {
			return res, err
		}
		switch {
		case ok && rate >= cfg.highest:
			good, bad, generatorAtBad = rate, rate, true
		case ok:
			good = rate
			rate = min(rate*rampFactor, cfg.highest)
		default:
			bad, generatorAtBad = rate, res.generator
			if good == 0 && rate > 500 { // the first guess was too high
				rate /= 3
				bad = 0
			}
		}
		if bad > 0 {
			break
		}
	}
	if good == 0 {
		res.generator = generatorAtBad
		return res, nil
	}
	for bad/good > bisectUntil {
		mid := (good + bad) / 2
		ok, err := attempt(mid)
		if err != nil {
			return res, err
		}
		if ok {
			good = mid
		} else {
			bad, generatorAtBad = mid, res.generator
		}
	}
	for range confirmAttempts {
		t, err := try(good, cfg.long)
		if err != nil {
			return res, err
		}
		res.trials++
		if passes(t, cfg.maxLoss) {
			res.rate, res.trial, res.generator = good, t, generatorAtBad
			return res, nil
		}
		generatorAtBad = t.Limit == limitGenerator
		good *= backOff
	}
	res.generator = generatorAtBad
	return res, nil
}
