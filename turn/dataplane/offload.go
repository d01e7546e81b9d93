package dataplane

import (
	"fmt"
	"slices"
	"strings"

	"github.com/stilenet/stile/turn"
)

// OffloadMode says whether established flows are left to the kernel.
type OffloadMode uint8

// The modes. The zero mode offloads where the interfaces' drivers can.
const (
	OffloadAuto    OffloadMode = iota
	OffloadOff                 // the engine relays everything
	OffloadGeneric             // also where the driver cannot: after the kernel has built its own packet, which saves less
)

func (m OffloadMode) String() string { return [...]string{"auto", "off", "generic"}[m] }

// ParseOffloadMode reads auto, off or generic.
func ParseOffloadMode(s string) (OffloadMode, error) {
	for m := OffloadAuto; m <= OffloadGeneric; m++ {
		if s == m.String() {
			return m, nil
		}
	}
	return OffloadAuto, fmt.Errorf("turn.offload: %q is no mode: write auto, off or generic", s)
}

// OffloadInterface is an interface that the offload was to run on.
type OffloadInterface struct {
	Name   string
	Native bool   // in the driver
	Why    string // it does not run there; empty: it does
}

// Mode is where it runs: native, generic or none.
func (i OffloadInterface) Mode() string {
	switch {
	case i.Why != "":
		return "none"
	case i.Native:
		return "native"
	}
	return "generic"
}

// OffloadState is what there is to say about the offload.
type OffloadState struct {
	Mode       OffloadMode
	Why        string // it does not run at all; empty: it runs on an interface at least
	Interfaces []OffloadInterface
	Flows      int    // that it relays now
	MaxFlows   int    // zero: it does not run
	Refused    uint64 // flows that it had no room for
	// Passed is how many packets of its flows it has left to the engine, by the reason.
	Passed map[string]uint64
}

// Running reports whether flows are offloaded on one interface at least.
func (s OffloadState) Running() bool {
	return s.Why == "" && slices.ContainsFunc(s.Interfaces, func(i OffloadInterface) bool { return i.Why == "" })
}

// Complete reports whether they are on all.
func (s OffloadState) Complete() bool {
	return s.Running() && !slices.ContainsFunc(s.Interfaces, func(i OffloadInterface) bool { return i.Why != "" })
}

// String is one line for people: where it runs, or what it would need.
func (s OffloadState) String() string {
	if s.Mode == OffloadOff {
		return "off (turn.offload)"
	}
	var on, not []string
	for _, i := range s.Interfaces {
		switch {
		case i.Why != "":
			not = append(not, i.Name+": "+i.Why)
		case i.Native:
			on = append(on, i.Name)
		default:
			on = append(on, i.Name+" (generic)")
		}
	}
	slices.Sort(not)
	if s.Why != "" {
		return "none: " + strings.Join(append([]string{s.Why}, not...), "; ")
	}
	text := "XDP on " + strings.Join(on, ", ")
	if len(not) > 0 {
		text += "; not on " + strings.Join(not, "; ")
	}
	return text
}

// offloader is the seam to the offload of this system.
type offloader interface {
	turn.Offload
	state() OffloadState
	close()
}

// Offload reports the state of the offload. It may be called at any time.
func (s *Server) Offload() OffloadState {
	if s.cfg.offload == nil {
		return OffloadState{Mode: s.cfg.Offload, Why: s.noOffload}
	}
	return s.cfg.offload.state()
}
