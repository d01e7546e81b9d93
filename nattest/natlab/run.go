package natlab

import (
	"testing"
	"testing/synctest"
)

// Run runs f with a new network in a testing/synctest bubble, so that time is virtual, and closes the network.
// If the test fails or panics, the log has the seed and the packet diagram.
func Run(t *testing.T, seed uint64, f func(t *testing.T, n *Net)) {
	t.Helper()
	var n *Net
	report := func() { t.Logf("natlab: %v; %s", n.Stats(), n.Diagram()) }
	defer func() {
		if p := recover(); p != nil { // synctest found a deadlock
			if n != nil {
				report()
			}
			panic(p)
		}
	}()
	synctest.Test(t, func(t *testing.T) {
		n = New(seed)
		defer func() {
			n.Close()
			if left := n.Stats().By[InFlight]; left != 0 {
				t.Errorf("BUG: natlab: %d packets have no disposition", left)
			}
			if t.Failed() {
				report()
			}
		}()
		f(t, n)
	})
}
