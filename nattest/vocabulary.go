package nattest

import (
	"fmt"
	"slices"
)

// § means RFC 4787.

// Mapping says when a NAT reuses an external endpoint (§4.1).
type Mapping uint8

// The mapping behaviours.
const (
	MappingUnknown Mapping = iota
	MappingNone            // there is no NAT: the address seen outside is this machine's
	EIM                    // endpoint-independent: one external endpoint for each inside socket
	ADM                    // address-dependent: one for each remote address
	APDM                   // address- and port-dependent: one for each remote endpoint
	MappingBlocked         // UDP does not get through
)

// Filtering says who may send to a socket that has sent something (§5).
type Filtering uint8

// The filtering behaviours.
const (
	FilteringUnknown Filtering = iota
	FilteringOpen              // there is no NAT and no filter was seen: everybody
	EIF                        // endpoint-independent: everybody
	ADF                        // address-dependent: addresses that the socket has sent to
	APDF                       // address- and port-dependent: endpoints that the socket has sent to
	FilteringBlocked           // UDP does not get through
)

// Relay says how often a relay is needed.
type Relay uint8

// The needs for a relay.
const (
	RelayUnknown   Relay = iota
	RelayNever           // direct with peers of all nine classes
	RelaySometimes       // depends on the peer
	RelayAlways          // UDP is blocked, or passes to some ports only
)

// UDP says whether UDP gets through.
type UDP uint8

// The states of UDP.
const (
	UDPUnknown   UDP = iota
	UDPOpen          // no port was found to be blocked
	UDPSomePorts     // some ports answer, others do not
	UDPBlocked       // nothing answers, and the servers are there
)

// Allocation says how a NAT chooses external ports (§4.2).
type Allocation uint8

// The allocations of ports.
const (
	AllocationUnknown Allocation = iota
	Preserved                    // the inside port, wherever it is free
	Sequential                   // the last one plus a step
	Random                       // without an order that was found
)

// Pooling says how a NAT with several external addresses uses them (§4.1).
type Pooling uint8

// The pooling behaviours.
const (
	PoolingUnknown Pooling = iota
	Paired                 // all sockets, ten or so, were seen with one address
	Arbitrary              // several addresses were seen
)

// Hairpin says what a NAT does with packets from inside to its own external addresses (§6).
type Hairpin uint8

// The hairpinning behaviours.
const (
	HairpinUnknown  Hairpin = iota
	HairpinOff              // dropped
	HairpinExternal         // turned round, with the sender's external endpoint as source
	HairpinInternal         // turned round, with the sender's inside endpoint as source
)

// Answer is yes, no, or not known.
type Answer uint8

// The answers.
const (
	AnswerUnknown Answer = iota
	No
	Yes
)

// The words of the JSON contract, by value.
var (
	mappingWords    = []string{"unknown", "none", "EIM", "ADM", "APDM", "blocked"}
	filteringWords  = []string{"unknown", "open", "EIF", "ADF", "APDF", "blocked"}
	relayWords      = []string{"unknown", "never", "sometimes", "always"}
	udpWords        = []string{"unknown", "open", "some-ports", "blocked"}
	allocationWords = []string{"unknown", "preserved", "sequential", "random"}
	poolingWords    = []string{"unknown", "paired", "arbitrary"}
	hairpinWords    = []string{"unknown", "off", "external", "internal"}
	answerWords     = []string{"unknown", "no", "yes"}
	pathWords       = []string{"unknown", "direct", "technique", "relay"}
	techniqueWords  = []string{"unknown", "port-prediction", "low-ttl", "birthday", "private-addresses"}
	roleWords       = []string{"unknown", "control", "mapping", "filtering", "return", "delivery", "fragment", "port", "family",
		"interface", "relay-mapping", "relay-filtering", "relay-delivery", "hairpin", "lifetime", "quota", "stream", "refresh", "mtu", "stream-mapping"}
)

func word[T ~uint8](words []string, v T) string {
	if int(v) >= len(words) {
		return words[0]
	}
	return words[v]
}

func parse[T ~uint8](words []string, v *T, text []byte) error {
	i := slices.Index(words, string(text))
	if i < 0 {
		return fmt.Errorf("nattest: %.20q is none of %q", text, words)
	}
	*v = T(i)
	return nil
}

func (m Mapping) String() string               { return word(mappingWords, m) }
func (m Mapping) MarshalText() ([]byte, error) { return []byte(m.String()), nil }
func (m *Mapping) UnmarshalText(b []byte) error {
	return parse(mappingWords, m, b)
}

func (f Filtering) String() string               { return word(filteringWords, f) }
func (f Filtering) MarshalText() ([]byte, error) { return []byte(f.String()), nil }
func (f *Filtering) UnmarshalText(b []byte) error {
	return parse(filteringWords, f, b)
}

func (r Relay) String() string                { return word(relayWords, r) }
func (r Relay) MarshalText() ([]byte, error)  { return []byte(r.String()), nil }
func (r *Relay) UnmarshalText(b []byte) error { return parse(relayWords, r, b) }

func (u UDP) String() string                { return word(udpWords, u) }
func (u UDP) MarshalText() ([]byte, error)  { return []byte(u.String()), nil }
func (u *UDP) UnmarshalText(b []byte) error { return parse(udpWords, u, b) }

func (a Allocation) String() string                { return word(allocationWords, a) }
func (a Allocation) MarshalText() ([]byte, error)  { return []byte(a.String()), nil }
func (a *Allocation) UnmarshalText(b []byte) error { return parse(allocationWords, a, b) }

func (p Pooling) String() string                { return word(poolingWords, p) }
func (p Pooling) MarshalText() ([]byte, error)  { return []byte(p.String()), nil }
func (p *Pooling) UnmarshalText(b []byte) error { return parse(poolingWords, p, b) }

func (h Hairpin) String() string                { return word(hairpinWords, h) }
func (h Hairpin) MarshalText() ([]byte, error)  { return []byte(h.String()), nil }
func (h *Hairpin) UnmarshalText(b []byte) error { return parse(hairpinWords, h, b) }

func (a Answer) String() string                { return word(answerWords, a) }
func (a Answer) MarshalText() ([]byte, error)  { return []byte(a.String()), nil }
func (a *Answer) UnmarshalText(b []byte) error { return parse(answerWords, a, b) }
