package main

import (
	"time"

	"github.com/stilenet/stile/nattest"
)

// result is all that a probe says, and its JSON: a nattest.Report with what the command adds. docs/natprobe.md has the contract.
type result struct {
	nattest.Report
	Program     string       `json:"program"`
	At          time.Time    `json:"at"`
	Servers     []string     `json:"servers"`
	ServersFrom string       `json:"servers_from"`
	Summary     string       `json:"summary"` // one sentence
	Peers       []peerLine   `json:"peers"`   // the nine classes
	Proxy       proxyResult  `json:"proxy"`
	Rendezvous  serviceState `json:"rendezvous"`
	Config      mmsState     `json:"mms_cfg"`
	Advice      []advice     `json:"advice"`
	ExitCode    int          `json:"exit_code"`
}

// peerLine is how a peer of one class is reached.
type peerLine struct {
	Mapping    nattest.Mapping     `json:"mapping"`
	Filtering  nattest.Filtering   `json:"filtering"`
	Path       nattest.Path        `json:"path"`
	Techniques []nattest.Technique `json:"techniques,omitempty"`
	Why        string              `json:"why"`
}

// proxyResult is what the TURN proxy did.
type proxyResult struct {
	Server string    `json:"server"`
	UDP    transport `json:"udp"`
	TCP    transport `json:"tcp"`
}

// answers reports whether the proxy gave an allocation.
func (p proxyResult) answers() bool {
	return p.UDP.State == stateAnswers || p.TCP.State == stateAnswers
}

// transport is what became of an allocation over one transport.
type transport struct {
	State   string  `json:"state"`             // a state
	Relayed string  `json:"relayed,omitempty"` // address
	TookMS  float64 `json:"took_ms,omitempty"`
	Error   string  `json:"error,omitempty"`
}

// The states of a service.
const (
	stateNotTested = "not-tested"
	stateAnswers   = "answers"
	stateRefuses   = "refuses" // it is there and says no
	stateSilent    = "silent"
)

// serviceState is what became of another service.
type serviceState struct {
	Server string  `json:"server,omitempty"`
	State  string  `json:"state"`
	TookMS float64 `json:"took_ms,omitempty"`
	Error  string  `json:"error,omitempty"`
}

// mmsState is what this machine's mms.cfg says.
type mmsState struct {
	Path     string   `json:"path,omitempty"` // empty: there is none
	Proxy    string   `json:"proxy,omitempty"`
	P2POff   bool     `json:"p2p_disabled,omitempty"`
	Findings []string `json:"findings,omitempty"`
}

// advice is something to do.
type advice struct {
	Code string `json:"code"`
	Text string `json:"text"`
	File string `json:"file,omitempty"` // where Line belongs
	Line string `json:"line,omitempty"`
}

// exitCode is the decision as a number.
func exitCode(v *nattest.Verdict) int {
	symmetric := func(m nattest.Mapping) bool { return m == nattest.ADM || m == nattest.APDM }
	switch {
	case v.UDP == nattest.UDPBlocked:
		return exitBlocked
	case v.UDP == nattest.UDPSomePorts:
		return exitSomePorts
	case v.Mapping == nattest.MappingNone, v.Mapping == nattest.EIM:
		return exitCone
	case symmetric(v.Mapping):
		return exitSymmetric
	}
	among := v.MappingAmong
	for _, m := range among {
		if !symmetric(m) {
			return exitUnknown
		}
	}
	if len(among) > 0 {
		return exitSymmetric
	}
	return exitUnknown
}

// classOfPeer is the verdict of a peer of whom only the class is known.
func classOfPeer(m nattest.Mapping, f nattest.Filtering) nattest.Verdict {
	return nattest.Verdict{UDP: nattest.UDPOpen, Mapping: m, Filtering: f}
}

// predictPeers is the row of the pair table that belongs to a verdict.
func predictPeers(v nattest.Verdict) []peerLine {
	var out []peerLine
	for m := nattest.EIM; m <= nattest.APDM; m++ {
		for f := nattest.EIF; f <= nattest.APDF; f++ {
			p := nattest.Predict(v, classOfPeer(m, f))
			line := peerLine{Mapping: m, Filtering: f, Path: p.Path, Techniques: p.Techniques}
			if len(p.Why) > 0 {
				line.Why = p.Why[0]
			}
			out = append(out, line)
		}
	}
	return out
}
