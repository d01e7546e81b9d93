package nattest_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/stilenet/stile/nattest"
	"github.com/stilenet/stile/nattest/natlab"
)

func TestHairpinIsSeenOnlyWhenAskedFor(t *testing.T) {
	for hairpin, want := range map[natlab.Hairpin]nattest.Hairpin{natlab.HairpinOff: nattest.HairpinOff,
		natlab.HairpinExternal: nattest.HairpinExternal, natlab.HairpinInternal: nattest.HairpinInternal} {
		for _, ask := range []bool{false, true} {
			natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
				cfg := natlab.NATConfig{Hairpin: hairpin, Filtering: natlab.APDF}
				if hairpin == natlab.HairpinInternal { // an internal source is nobody that b has sent to
					cfg.Filtering = natlab.EIF
				}
				r := newLab(t, n, nat(cfg), near, &discovery, nil).probe(t, func(c *nattest.Config) { c.Hairpin, c.Packets = ask, 200 })
				if !ask {
					want := nattest.HairpinUnknown
					if r.Verdict.Hairpin != want {
						t.Errorf("not asked for: %v", r.Verdict.Hairpin)
					}
				} else if r.Verdict.Hairpin != want {
					t.Errorf("%v, want %v: %v", r.Verdict.Hairpin, want, explain(r))
				}
			})
		}
	}
}

func TestLifetimeTakesAsLongAsItsLongestTimer(t *testing.T) {
	for _, tc := range []struct{ timeout, min, max time.Duration }{
		{50 * time.Second, 45 * time.Second, 60 * time.Second},
		{3 * time.Minute, 150 * time.Second, 180 * time.Second},
		{time.Hour, 300 * time.Second, 0},
	} {
		natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
			start := time.Now()
			r := newLab(t, n, nat(natlab.NATConfig{Timeout: tc.timeout}), near, &discovery, nil).probe(t, func(c *nattest.Config) {
				c.Lifetime, c.Packets = 5*time.Minute, 1000
			})
			v := r.Verdict
			if v.LifetimeMin != tc.min.Milliseconds() || v.LifetimeMax != tc.max.Milliseconds() || time.Since(start) > 5*time.Minute+10*time.Second {
				t.Errorf("timeout %v: %v to %v ms after %v", tc.timeout, v.LifetimeMin, v.LifetimeMax, time.Since(start))
			}
			if short := tc.timeout < time.Minute; short != has(r, nattest.ShortLifetime) {
				t.Errorf("timeout %v: %v", tc.timeout, explain(r))
			}
		})
	}
}

func TestRefreshFromOutsideIsToldFromRefreshFromInside(t *testing.T) {
	for inbound, want := range map[bool]nattest.Answer{false: nattest.No, true: nattest.Yes} {
		natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
			r := newLab(t, n, nat(natlab.NATConfig{Timeout: 50 * time.Second, InboundRefresh: inbound}), near, &discovery, nil).probe(t,
				func(c *nattest.Config) { c.Lifetime, c.Packets = 2*time.Minute, 1000 })
			if r.Verdict.InboundRefresh != want {
				t.Errorf("%v, want %v: %v", r.Verdict.InboundRefresh, want, explain(r))
			}
		})
	}
}

func TestQuotaIsBounded(t *testing.T) {
	for _, quota := range []int{0, 40} {
		natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
			r := newLab(t, n, nat(natlab.NATConfig{Quota: quota}), near, &discovery, nil).probe(t, func(c *nattest.Config) {
				c.Quota, c.Packets = 100, 2000
			})
			if r.Verdict.Quota != quota || has(r, nattest.QuotaReached) != (quota > 0) {
				t.Errorf("%d, want %d: %v", r.Verdict.Quota, quota, r.Findings)
			}
		})
	}
}

func TestRunEndsWithItsContextAndClosesEverything(t *testing.T) {
	for _, after := range []time.Duration{0, 30 * time.Millisecond, time.Minute} {
		natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
			l := newLab(t, n, nat(natlab.NATConfig{}), near, &discovery, nil)
			ctx, cancel := context.WithTimeout(context.Background(), after)
			defer cancel()
			start := time.Now()
			_, err := nattest.Run(ctx, nattest.Config{Servers: []string{"server"}, ListenPacket: l.client.ListenPacket, LookupNetIP: l.client.LookupNetIP,
				LocalAddrs: l.client.Addrs, DialContext: l.client.DialContext, Lifetime: time.Hour})
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > after+time.Second {
				t.Errorf("after %v: %v", time.Since(start), err)
			}
		})
	}
}

func TestRunNeedsAServer(t *testing.T) {
	if _, err := nattest.Run(context.Background(), nattest.Config{}); !errors.Is(err, nattest.ErrNoServers) {
		t.Error(err)
	}
}

// The defaults of Config are this machine's: against a server on loopback, with sockets of the system.
func TestRunOnTheMachineItself(t *testing.T) {
	r, err := nattest.Run(context.Background(), nattest.Config{Servers: []string{loopback(t)}, AlternatePorts: []uint16{},
		LocalAddrs: func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("127.0.0.1")} }})
	if err != nil {
		t.Fatal(err)
	}
	if r.Verdict.Mapping != nattest.MappingNone || r.Verdict.UDP != nattest.UDPOpen {
		t.Error(explain(r))
	}
}
