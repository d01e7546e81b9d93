package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stilenet/stile/nattest"
)

// summary is the verdict in one sentence.
func summary(v *nattest.Verdict, peers []peerLine) string {
	direct, technique, relay := 0, 0, 0
	for _, p := range peers {
		switch p.Path {
		case nattest.PathDirect:
			direct++
		case nattest.PathTechnique:
			technique++
		case nattest.PathRelay:
			relay++
		}
	}
	switch {
	case v.UDP == nattest.UDPBlocked:
		return "UDP is blocked here: nothing connects directly, everything needs a relay that is reached over TCP."
	case v.UDP == nattest.UDPSomePorts:
		return "UDP gets through on some ports only: peers are on any port, so everything needs a relay on a port that passes."
	case v.UDP == nattest.UDPUnknown:
		return "No verdict: nothing answered, so nothing is known about UDP."
	case v.Mapping == nattest.MappingNone && v.Filtering == nattest.FilteringOpen:
		return "No NAT and no filter: everybody reaches this machine directly, no relay is needed."
	case v.Relay == nattest.RelayNever:
		return "Direct connections work with peers behind every kind of NAT; no relay is needed."
	case v.Relay == nattest.RelayUnknown || direct+technique+relay < len(peers):
		return "Direct connections work with some kinds of peer; for others the measurement leaves it open."
	case cones(peers):
		return "Direct connections work with peers in most homes; with peers behind a symmetric NAT a relay is needed."
	case direct > 0:
		return "Direct connections work with peers that let others in; with most homes and offices a relay is needed."
	}
	return "Direct connections do not work without a technique: a relay is needed."
}

// cones reports whether peers behind every cone are reached directly.
func cones(peers []peerLine) bool {
	for _, p := range peers {
		if p.Mapping == nattest.EIM && p.Path != nattest.PathDirect {
			return false
		}
	}
	return true
}

func natWords(v *nattest.Verdict) string {
	switch v.Mapping {
	case nattest.MappingNone:
		return "none: this machine's own address is seen outside"
	case nattest.EIM:
		return "yes, a cone: each socket keeps one outside port, whoever it talks to (EIM)"
	case nattest.ADM:
		return "yes, symmetric: another outside port for each address that is talked to (ADM)"
	case nattest.APDM:
		return "yes, symmetric: another outside port for each address and port that is talked to (APDM)"
	case nattest.MappingBlocked:
		return "not known, because UDP does not get out"
	}
	if len(v.MappingAmong) > 0 {
		return fmt.Sprintf("yes, of a kind that this server cannot tell: one of %s", list(v.MappingAmong))
	}
	return "not known"
}

func filterWords(v *nattest.Verdict) string {
	switch v.Filtering {
	case nattest.FilteringOpen:
		return "none: packets from anybody arrive"
	case nattest.EIF:
		return "lets anybody send to a port that is in use (EIF)"
	case nattest.ADF:
		return "lets in the addresses that something was sent to (ADF)"
	case nattest.APDF:
		return "lets in answers only, from exactly where something was sent (APDF)"
	case nattest.FilteringBlocked:
		return "blocks all UDP"
	}
	if len(v.FilteringAmong) > 0 {
		return fmt.Sprintf("of a kind that this server cannot tell: one of %s", list(v.FilteringAmong))
	}
	return "not known"
}

func udpWords(v *nattest.Verdict) string {
	switch v.UDP {
	case nattest.UDPOpen:
		return "passes"
	case nattest.UDPSomePorts:
		return "passes to some ports only"
	case nattest.UDPBlocked:
		return "blocked"
	}
	return "not known"
}

func list[T fmt.Stringer](of []T) string {
	var words []string
	for _, x := range of {
		words = append(words, x.String())
	}
	return strings.Join(words, ", ")
}

// kinds are the classes of peers as people know them.
var kinds = []struct {
	name      string
	mapping   nattest.Mapping
	filtering nattest.Filtering
}{
	{"in the open, or behind a full cone", nattest.EIM, nattest.EIF},
	{"behind an address-restricted cone", nattest.EIM, nattest.ADF},
	{"behind a port-restricted cone (most homes) or a firewall", nattest.EIM, nattest.APDF},
	{"behind a symmetric NAT (many offices and mobile networks)", nattest.APDM, nattest.APDF},
}

// pathWords says how a peer is reached, for people who use Flash Player or AIR: it knows no techniques.
func pathWords(p peerLine) string {
	switch p.Path {
	case nattest.PathDirect:
		return "direct"
	case nattest.PathTechnique:
		return "direct with " + techniqueWords(p.Techniques) + ", else relay"
	case nattest.PathRelay:
		return "relay"
	}
	return "not known"
}

func techniqueWords(list []nattest.Technique) string {
	var words []string
	for _, t := range list {
		switch t {
		case nattest.PortPrediction:
			words = append(words, "port prediction")
		case nattest.LowTTL:
			words = append(words, "low-TTL punching")
		case nattest.Birthday:
			words = append(words, "a birthday attempt")
		case nattest.PrivateAddresses:
			words = append(words, "private addresses")
		default:
			words = append(words, t.String())
		}
	}
	return strings.Join(words, " and ")
}

// told are the findings that the lines above them say already.
var told = []string{nattest.NoNAT, nattest.BehindNAT, nattest.StatefulFirewall, nattest.UDPIsBlocked, nattest.UDPIsPartial, nattest.RelayUsed}

// print writes the result in plain words.
func (r *result) print(w io.Writer) {
	v := &r.Verdict
	line := func(name, format string, args ...any) {
		text := wrap(fmt.Sprintf(format, args...), lineWidth-16)
		fmt.Fprintf(w, "  %-12s  %s\n", name, strings.ReplaceAll(text, "\n", "\n                "))
	}
	fmt.Fprintln(w, wrap(r.Summary, lineWidth))
	fmt.Fprintln(w)
	line("NAT", "%s", natWords(v))
	line("Firewall", "%s", filterWords(v))
	line("UDP", "%s", udpWords(v))
	if len(v.Public) > 0 {
		line("Seen as", "%s", list(v.Public))
	}
	name := "Peers"
	for _, k := range kinds {
		for _, p := range r.Peers {
			if p.Mapping == k.mapping && p.Filtering == k.filtering && v.UDP != nattest.UDPUnknown {
				line(name, "%s: %s", k.name, pathWords(p))
				name = ""
			}
		}
	}
	line("TURN proxy", "%s", r.Proxy.words())
	line("Rendezvous", "%s", r.Rendezvous.words())
	name = "Also"
	for _, f := range r.Findings {
		if !slices.Contains(told, f.Code) {
			line(name, "%s", f.Text)
			name = ""
		}
	}
	if len(r.Advice) > 0 {
		fmt.Fprintln(w, "\nWhat to do")
		for _, x := range r.Advice {
			text := wrap(x.Text, lineWidth-4)
			fmt.Fprintf(w, "  - %s\n", strings.ReplaceAll(text, "\n", "\n    "))
			if x.Line != "" {
				fmt.Fprintf(w, "\n      %s\n\n", x.Line)
			}
		}
	}
	var asked []string
	for _, s := range r.Observations.Servers {
		text := s.Name
		if s.Addr.IsValid() && s.Addr.Addr().String() != s.Name && s.Addr.String() != s.Name {
			text += " (" + s.Addr.String() + ")"
		}
		asked = append(asked, text)
	}
	confidence := ""
	if v.Confidence > 0 {
		confidence = ", the chance of a wrong verdict is below " + rare(1-v.Confidence)
	}
	fmt.Fprintf(w, "\n%s\n", wrap(fmt.Sprintf("Asked %s, as named by %s: %d packets in %v%s.", strings.Join(asked, ", "), r.ServersFrom, r.Observations.Sent,
		(time.Duration(r.Observations.TookMS*1000)*time.Microsecond).Round(10*time.Millisecond), confidence), lineWidth))
}

const lineWidth = 100

// wrap breaks a text between words.
func wrap(text string, width int) string {
	var b strings.Builder
	column := 0
	for i, word := range strings.Fields(text) {
		n := len([]rune(word))
		switch {
		case i == 0:
		case column+1+n > width:
			b.WriteByte('\n')
			column = 0
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += n
	}
	return b.String()
}

// rare is a small probability for people.
func rare(p float64) string {
	for _, n := range []int{1000000, 100000, 10000, 1000, 100, 10} {
		if p <= 1/float64(n)*1.0000001 {
			return "1 in " + thousands(n)
		}
	}
	return fmt.Sprintf("%.0f %%", p*100)
}

// thousands writes 1,000,000.
func thousands(n int) string {
	if n < 1000 {
		return strconv.Itoa(n)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}

func (p proxyResult) words() string {
	one := func(t transport) string {
		switch t.State {
		case stateAnswers:
			return fmt.Sprintf("answers in %.0f ms and relays from %s", t.TookMS, t.Relayed)
		case stateRefuses:
			return "refuses: " + t.Error
		case stateSilent:
			if t.Error == "" {
				return "silent"
			}
			return t.Error
		}
		return "not tested"
	}
	if p.Server == "" {
		return "not tested"
	}
	return fmt.Sprintf("%s; over UDP: %s; over TCP: %s", p.Server, one(p.UDP), one(p.TCP))
}

func (s serviceState) words() string {
	switch s.State {
	case stateAnswers:
		return fmt.Sprintf("%s answers in %.0f ms", s.Server, s.TookMS)
	case stateNotTested:
		return "not tested"
	}
	return fmt.Sprintf("%s: %s", s.Server, s.Error)
}
