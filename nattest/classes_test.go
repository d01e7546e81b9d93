package nattest_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stilenet/stile/nattest"
	"github.com/stilenet/stile/nattest/natlab"
)

func TestEachOfTheNineClassesIsRecognised(t *testing.T) {
	for i := range 9 {
		m, f := natlab.EIM+natlab.Mapping(i/3), natlab.EIF+natlab.Filtering(i%3)
		t.Run(fmt.Sprintf("%v_%v", m, f), func(t *testing.T) {
			for _, order := range []natlab.PortOrder{natlab.Preserve, natlab.Random, natlab.Sequential} {
				for _, seed := range seedsAnd(3) {
					natlab.Run(t, seed, func(t *testing.T, n *natlab.Net) {
						l := newLab(t, n, nat(natlab.NATConfig{Mapping: m, Filtering: f, Ports: natlab.PortConfig{Order: order}}), near, &discovery, nil)
						start := time.Now()
						r := l.probe(t, beyond(l.client, "")) // as natprobe runs it
						took := time.Since(start)
						if r.Verdict.Mapping.String() != m.String() || r.Verdict.Filtering.String() != f.String() {
							t.Errorf("order %d: %v", order, explain(r))
						}
						if took > time.Second {
							t.Errorf("took %v: %v", took, explain(r))
						}
						if testing.Verbose() && seed == 0 {
							t.Logf("order %d: %v, %d packets", order, took, r.Observations.Sent)
						}
						if want := m == natlab.EIM && f != natlab.APDF; want != (r.Verdict.Relay == nattest.RelayNever) {
							t.Errorf("relay is %v", r.Verdict.Relay)
						}
					})
				}
			}
		})
	}
}
