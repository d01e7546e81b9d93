package main

// limit says what bounded a trial.
type limit string

const (
	limitNone      limit = "none"      // nothing: the load was carried
	limitServer    limit = "server"    // loss, and the generator and its queues were fine
	limitGenerator limit = "generator" // the generator was late or lost packets itself: says nothing about the server
	limitMachine   limit = "machine"   // loss while others used the server's CPU, or the host did
)

// Ours to tune.
const (
	lateShare     = 0.02 // of the schedule that may be skipped before the generator is to blame
	foreignShare  = 0.05 // of the server's CPU that others may use before the machine is to blame
	saturatedFrom = 0.90 // of the server's CPU, from which loss is its own even when others run too
)

// judge fills Limit from the other fields.
func judge(t *TrialResult, maxLoss float64) limit {
	offered := float64(t.Sent + t.Skipped)
	switch {
	case offered == 0 || float64(t.Skipped)/offered > lateShare:
		return limitGenerator
	case t.Loss <= maxLoss:
		return limitNone
	case t.GeneratorDrops > 0 && float64(t.GeneratorDrops) > float64(t.Sent-t.Received)/10:
		return limitGenerator
	case t.CPU != nil && t.CPU.ForeignShare+t.CPU.StealShare > foreignShare && t.CPU.ServerShare < saturatedFrom:
		return limitMachine
	}
	return limitServer
}
