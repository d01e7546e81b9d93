package nattest

import (
	"fmt"
	"net/netip"
	"slices"
)

// Path says how two peers reach each other.
type Path uint8

// The paths, from the best to the worst.
const (
	PathUnknown   Path = iota
	PathDirect         // both send to the endpoint the other was seen with, and answer to the true source
	PathTechnique      // directly, with one of the techniques
	PathRelay
)

func (p Path) String() string                { return word(pathWords, p) }
func (p Path) MarshalText() ([]byte, error)  { return []byte(p.String()), nil }
func (p *Path) UnmarshalText(b []byte) error { return parse(pathWords, p, b) }

// Technique is what makes a connection that would fail otherwise.
type Technique uint8

// The techniques.
const (
	TechniqueUnknown Technique = iota
	PortPrediction             // tell the peer the external port that the next mapping will have
	LowTTL                     // send the first punches, for about 300 ms, with a TTL that ends before the peer's NAT
	Birthday                   // 256 sockets on the symmetric side, up to 2,048 probes from the other
	PrivateAddresses           // tell the peer the private address too: both are behind one NAT
)

func (t Technique) String() string                { return word(techniqueWords, t) }
func (t Technique) MarshalText() ([]byte, error)  { return []byte(t.String()), nil }
func (t *Technique) UnmarshalText(b []byte) error { return parse(techniqueWords, t, b) }

// birthdaySockets is how many mappings the symmetric side needs at once: with 2,048 probes of 64,512 ports the chance of
// a miss is 0.0003.
const birthdaySockets = 256

// A Prediction is how a pair connects.
type Prediction struct {
	Path       Path        `json:"path"`
	Techniques []Technique `json:"techniques,omitempty"` // all that are needed together
	Why        []string    `json:"why"`                  // sentences, of the peers as "A" and "B"
}

// Predict says how two peers connect, from what Classify found about each. Both send to the endpoint that a server saw
// the other with, keep sending, and answer to the source they really hear from. A verdict with candidates is tried with
// each of them: if they lead to different paths, the path is unknown.
func Predict(a, b Verdict) Prediction {
	for i, v := range [2]Verdict{a, b} {
		name := string(rune('A' + i))
		switch {
		case v.blocked():
			return Prediction{Path: PathRelay, Why: []string{"UDP is blocked for " + name + ": a relay, which " + name + " must reach over TCP."}}
		case v.UDP == UDPSomePorts:
			return Prediction{Path: PathRelay, Why: []string{name + " reaches some UDP ports only, and peers are on any port: a relay on a port that passes."}}
		}
	}
	if p, same := predictSameNAT(a, b); same {
		return p
	}
	var out Prediction
	for _, x := range a.classes() {
		for _, y := range b.classes() {
			p := predictClasses(x, y)
			switch {
			case out.Path == PathUnknown:
				out = p
			case out.Path != p.Path || !slices.Equal(out.Techniques, p.Techniques):
				return Prediction{Why: []string{fmt.Sprintf("What is known of A (%v) and B (%v) leaves more than one answer: %v or %v.",
					a.class(), b.class(), out.Path, p.Path)}}
			}
		}
	}
	if a.IPv6 == Yes && b.IPv6 == Yes {
		out.Why = append(out.Why, "Both have IPv6: try it too.")
	}
	return out
}

func (v Verdict) blocked() bool {
	return v.UDP == UDPBlocked || v.Mapping == MappingBlocked || v.Filtering == FilteringBlocked
}

// predictSameNAT decides about peers that are seen with one public address.
func predictSameNAT(a, b Verdict) (Prediction, bool) {
	same := slices.ContainsFunc(a.Public, func(x netip.Addr) bool { return slices.Contains(b.Public, x) })
	if !same || a.Mapping == MappingNone || b.Mapping == MappingNone {
		return Prediction{}, false
	}
	turns := func(v Verdict) bool { return v.Hairpin == HairpinExternal || v.Hairpin == HairpinInternal }
	if turns(a) && turns(b) {
		return Prediction{}, false // as with any other peer
	}
	return Prediction{Path: PathTechnique, Techniques: []Technique{PrivateAddresses}, Why: []string{
		"A and B are behind one NAT, which was not seen to turn packets round: hand out private addresses too. " +
			"If it is a carrier's and they are in different homes, that leads nowhere and it takes a relay."}}, true
}

// class is one peer as the rules see it.
type class struct {
	mapping   Mapping // EIM, ADM, APDM
	filtering Filtering
	verdict   *Verdict
}

func (c class) String() string { return c.mapping.String() + "/" + c.filtering.String() }

func (c class) symmetric() bool { return c.mapping != EIM }

// arbitrary reports whether the peer sees another address than it was told.
func (c class) arbitrary() bool { return c.symmetric() && c.verdict.Pooling == Arbitrary }

// predictable reports whether the port of the next mapping can be told.
func (c class) predictable() bool {
	p := c.verdict.Ports
	return c.symmetric() && !c.arbitrary() && p.Step != 0 && (p.Allocation == Sequential || p.Allocation == Preserved)
}

// class is the verdict in words, with the candidates.
func (v *Verdict) class() string {
	return fmt.Sprint(v.mappings()) + "/" + fmt.Sprint(v.filterings())
}

func (v *Verdict) mappings() []Mapping {
	switch {
	case v.Mapping == MappingNone:
		return []Mapping{EIM}
	case v.Mapping != MappingUnknown:
		return []Mapping{v.Mapping}
	case len(v.MappingAmong) > 0:
		return among(v.MappingAmong, MappingNone, EIM)
	}
	return []Mapping{EIM, ADM, APDM}
}

func (v *Verdict) filterings() []Filtering {
	switch {
	case v.Filtering == FilteringOpen:
		return []Filtering{EIF}
	case v.Filtering != FilteringUnknown:
		return []Filtering{v.Filtering}
	case len(v.FilteringAmong) > 0:
		return among(v.FilteringAmong, FilteringOpen, EIF)
	}
	return []Filtering{EIF, ADF, APDF}
}

// among is a set in which one word stands for another.
func among[T comparable](set []T, word, means T) []T {
	var out []T
	for _, x := range set {
		if x == word {
			x = means
		}
		if !slices.Contains(out, x) {
			out = append(out, x)
		}
	}
	return out
}

func (v *Verdict) classes() []class {
	var out []class
	for _, m := range v.mappings() {
		for _, f := range v.filterings() {
			out = append(out, class{m, f, v})
		}
	}
	return out
}

// predictClasses decides about two peers of known classes.
func predictClasses(a, b class) Prediction {
	if direct(a, b) {
		if races(a, b) || races(b, a) {
			return Prediction{Path: PathTechnique, Techniques: []Technique{LowTTL}, Why: []string{fmt.Sprintf(
				"%v and %v connect, but a packet that arrives before ours moves an open-Linux NAT's port, and the peer's filter drops what "+
					"comes from there: the first punches must not arrive.", a, b)}}
		}
		return Prediction{Path: PathDirect, Why: []string{fmt.Sprintf("%v and %v: each hears the other.", a, b)}}
	}
	// A side whose next port can be told is as good as one whose port does not change.
	told := func(c class) class {
		if c.predictable() {
			c.mapping = EIM
		}
		return c
	}
	if direct(told(a), told(b)) {
		return technique(PortPrediction, a, b, fmt.Sprintf(
			"%v and %v miss each other's ports, but they go up in steps and can be told, as long as the NAT is quiet.", a, b))
	}
	if why, ok := birthday(a, b); ok {
		return technique(Birthday, a, b, why)
	}
	if why, ok := birthday(b, a); ok {
		return technique(Birthday, a, b, why)
	}
	return Prediction{Path: PathRelay, Why: []string{fmt.Sprintf("%v and %v: one's port is not known to the other, whose filter wants it.", a, b)}}
}

// technique is a prediction with a technique, and with LowTTL where an early packet would spoil it.
func technique(t Technique, a, b class, why string) Prediction {
	p := Prediction{Path: PathTechnique, Techniques: []Technique{t}, Why: []string{why}}
	if a.verdict.OpenLinux == Yes || b.verdict.OpenLinux == Yes { // a moved port gets its answer from another one, whatever is filtered
		p.Techniques = append(p.Techniques, LowTTL)
		p.Why = append(p.Why, "One of them is an open-Linux NAT: the first packets of the other must not arrive.")
	}
	return p
}

// birthday reports whether many sockets behind a symmetric NAT and many probes from a peer with one port find each other.
func birthday(symmetric, cone class) (why string, ok bool) {
	q := symmetric.verdict.Quota
	if !symmetric.symmetric() || cone.symmetric() || symmetric.arbitrary() || (q > 0 && q < birthdaySockets) {
		return "", false
	}
	return fmt.Sprintf("%v has random ports, but %v keeps its own: %d sockets and up to 2,048 probes meet. It uses up a carrier's quota of "+
		"ports, if there is one: then all UDP is lost for minutes.", symmetric, cone, birthdaySockets), true
}

// direct reports whether two peers hear each other, by the rules that RFC 4787's words give:
//
//	a hears b at the endpoint that the server saw, or, once b has heard a, at the endpoint that a's own packets came from
func direct(a, b class) bool {
	heard := [2]bool{first(a, b), first(b, a)} // a hears b, b hears a
	if heard[1] && !heard[0] {
		heard[0] = then(a, b)
	}
	if heard[0] && !heard[1] {
		heard[1] = then(b, a)
	}
	return heard[0] && heard[1]
}

// first reports whether a hears b's packets to the endpoint that the server saw.
func first(a, b class) bool {
	switch {
	case a.filtering == EIF:
		return true
	case a.symmetric(): // nothing was sent to b from that endpoint
		return false
	case a.filtering == ADF:
		return !b.arbitrary()
	}
	return !b.symmetric() // a has sent to the port that b comes from
}

// then reports whether a hears b's packets to the endpoint that a's own packets came from.
func then(a, b class) bool {
	switch a.filtering {
	case EIF:
		return true
	case ADF:
		return !b.arbitrary() || b.verdict.ReplySame == Yes
	}
	return !b.symmetric() || b.verdict.ReplySame == Yes
}

// races reports whether an early packet from b moves the port of a to where b does not hear it.
func races(a, b class) bool {
	return a.verdict.OpenLinux == Yes && a.filtering == APDF && b.filtering == APDF
}

// relayNeed is how often a verdict needs a relay: never if every class of peer connects without a technique.
func relayNeed(v *Verdict) Relay {
	if v.blocked() || v.UDP == UDPSomePorts {
		return RelayAlways
	}
	never, sometimes := 0, 0
	for _, c := range v.classes() {
		all := true
		for m := EIM; m <= APDM; m++ {
			for f := EIF; f <= APDF; f++ {
				peer := class{m, f, &Verdict{}}
				all = all && direct(c, peer)
			}
		}
		if all {
			never++
		} else {
			sometimes++
		}
	}
	switch {
	case sometimes == 0:
		return RelayNever
	case never == 0:
		return RelaySometimes
	}
	return RelayUnknown
}
