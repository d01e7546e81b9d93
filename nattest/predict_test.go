package nattest_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/stilenet/stile/nattest"
)

// pairs is the table that was measured on real NATs: rows and columns EIM, ADM, APDM by EIF, ADF, APDF.
var pairs = [9]string{"DDDDDDDDD", "DDDDDDDDD", "DDDRRRRRR", "DDRDDRDDR", "DDRDRRDRR", "DDRRRRRRR", "DDRDDRDDR", "DDRDRRDRR", "DDRRRRRRR"}

func class(i int) nattest.Verdict {
	return nattest.Verdict{Mapping: nattest.EIM + nattest.Mapping(i/3), Filtering: nattest.EIF + nattest.Filtering(i%3), UDP: nattest.UDPOpen,
		Quota: 64} // too few sockets for a birthday
}

func TestPredictGivesTheMeasuredTable(t *testing.T) {
	for row := range 9 {
		for col := range 9 {
			want := nattest.PathRelay
			if pairs[row][col] == 'D' {
				want = nattest.PathDirect
			}
			if got := nattest.Predict(class(row), class(col)); got.Path != want || len(got.Why) == 0 {
				t.Errorf("row %d, column %d: %+v, want %v", row, col, got, want)
			}
		}
	}
}

func TestPredictTable(t *testing.T) {
	with := func(i int, change func(*nattest.Verdict)) nattest.Verdict { v := class(i); change(&v); return v }
	sequential := func(v *nattest.Verdict) { v.Ports = nattest.Ports{Allocation: nattest.Sequential, Step: 256} }
	random := func(v *nattest.Verdict) { v.Ports.Allocation, v.Quota = nattest.Random, 0 }
	at := func(a string, h nattest.Hairpin) func(*nattest.Verdict) {
		return func(v *nattest.Verdict) { v.Public, v.Hairpin = []netip.Addr{netip.MustParseAddr(a)}, h }
	}
	for _, tc := range []struct {
		name       string
		a, b       nattest.Verdict
		path       nattest.Path
		techniques []nattest.Technique
	}{
		{"no NAT is EIM/EIF", nattest.Verdict{Mapping: nattest.MappingNone, Filtering: nattest.FilteringOpen}, class(8), nattest.PathDirect, nil},
		{"a firewall is EIM/APDF", nattest.Verdict{Mapping: nattest.MappingNone, Filtering: nattest.APDF}, class(8), nattest.PathRelay, nil},
		{"blocked", nattest.Verdict{UDP: nattest.UDPBlocked}, class(0), nattest.PathRelay, nil},
		{"some ports", with(0, func(v *nattest.Verdict) { v.UDP = nattest.UDPSomePorts }), class(0), nattest.PathRelay, nil},
		{"nothing known", nattest.Verdict{}, class(8), nattest.PathUnknown, nil},
		{"nothing known, and it does not matter", nattest.Verdict{}, class(0), nattest.PathDirect, nil},
		{"among two that are alike", with(0, func(v *nattest.Verdict) {
			v.Filtering, v.FilteringAmong = nattest.FilteringUnknown, []nattest.Filtering{nattest.EIF, nattest.ADF}
		}), class(8), nattest.PathDirect, nil},
		{"among two that differ", with(3, func(v *nattest.Verdict) {
			v.Filtering, v.FilteringAmong = nattest.FilteringUnknown, []nattest.Filtering{nattest.EIF, nattest.ADF}
		}), class(4), nattest.PathUnknown, nil},
		{"steps on both sides", with(8, sequential), with(8, sequential), nattest.PathTechnique, []nattest.Technique{nattest.PortPrediction}},
		{"steps and random", with(8, sequential), with(8, random), nattest.PathRelay, nil},
		{"steps in an arbitrary pool", with(8, func(v *nattest.Verdict) { sequential(v); v.Pooling = nattest.Arbitrary }), class(2), nattest.PathRelay, nil},
		{"random and cone", with(8, random), class(2), nattest.PathTechnique, []nattest.Technique{nattest.Birthday}},
		{"random and cone, small quota", class(8), class(2), nattest.PathRelay, nil},
		{"random and random", with(8, random), with(8, random), nattest.PathRelay, nil},
		{"open Linux and itself", with(2, func(v *nattest.Verdict) { v.OpenLinux = nattest.Yes }), class(2), nattest.PathTechnique, []nattest.Technique{nattest.LowTTL}},
		{"open Linux and ADF", with(2, func(v *nattest.Verdict) { v.OpenLinux = nattest.Yes }), class(1), nattest.PathDirect, nil},
		{"arbitrary pool and ADF", with(8, func(v *nattest.Verdict) { v.Pooling = nattest.Arbitrary }), class(1), nattest.PathRelay, nil},
		{"same NAT", with(2, at("203.0.113.1", nattest.HairpinOff)), with(2, at("203.0.113.1", nattest.HairpinOff)), nattest.PathTechnique,
			[]nattest.Technique{nattest.PrivateAddresses}},
		{"same NAT that turns packets round", with(2, at("203.0.113.1", nattest.HairpinExternal)), with(2, at("203.0.113.1", nattest.HairpinExternal)),
			nattest.PathDirect, nil},
		{"other NAT", with(2, at("203.0.113.1", nattest.HairpinOff)), with(2, at("203.0.113.2", nattest.HairpinOff)), nattest.PathDirect, nil},
	} {
		for _, swap := range []bool{false, true} {
			a, b := tc.a, tc.b
			if swap {
				a, b = b, a
			}
			if got := nattest.Predict(a, b); got.Path != tc.path || !slices.Equal(got.Techniques, tc.techniques) {
				t.Errorf("%s (swapped %v): %+v", tc.name, swap, got)
			}
		}
	}
}

func TestVerdictNeverNeedsARelayOnlyIfEveryClassConnects(t *testing.T) {
	for i := range 9 {
		all := pairs[i] == "DDDDDDDDD"
		v, _ := nattest.Classify(nattest.Observations{})
		if v.Relay != nattest.RelayUnknown {
			t.Errorf("nothing observed: relay %v", v.Relay)
		}
		for j := range 9 {
			all = all && nattest.Predict(class(i), class(j)).Path == nattest.PathDirect
		}
		if want := i < 2; want != all {
			t.Error(fmt.Sprint(i, all))
		}
	}
}
