package nattest

import "math"

// Ours to tune.
const (
	// falseSilence is how rarely silence may be chance for it to be judged.
	falseSilence = 1e-5
	// enoughSilence is when no more is sent: below falseSilence, because some of what is on its way will be lost.
	enoughSilence = 5e-6
)

// silence is the probability that loss alone made all of n attempts silent, given that of k controls on the same path at the
// same time f were lost: Fisher's exact test. Whatever the rate of loss, if attempts and controls are lost alike, the n + f losses
// among n + k packets fall on all n attempts with
//
//	P = C(k, f) / C(n + k, n + f)
//
// The numbers must be n, k, f >= 0 and f <= k. Without attempts or without controls that came back, P is 1.
func silence(n, k, f int) float64 {
	if n <= 0 || k <= 0 || f >= k {
		return 1
	}
	return min(1, math.Exp(choose(k, f)-choose(n+k, n+f)))
}

// silenceInPieces is silence for attempts that are two packets each way, of which none may be lost: two controls, of which none is lost,
// are as probable.
func silenceInPieces(n, k, f int) float64 { return silence(n, k/2, f) }

// choose is the logarithm of a binomial coefficient.
func choose(n, k int) float64 {
	lg := func(x int) float64 { v, _ := math.Lgamma(float64(x) + 1); return v }
	return lg(n) - lg(k) - lg(n-k)
}
