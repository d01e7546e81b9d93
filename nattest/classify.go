package nattest

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
)

// Ours to tune.
const (
	smallestBlock = 512  // ports that a carrier gives to one subscriber: two random ports of it are equal once in so many times
	narrowRange   = 4096 // external ports within so few come from a block: eight random ones do so once in 30 million times
	sureOfSight   = 1e-9 // what is seen is wrong as rarely as a transaction ID is guessed; more is not claimed
)

// Classify says what observations mean. It is a pure function; observations from a file may be anything.
func Classify(o Observations) (Verdict, []Finding) {
	c := classifier{o: o}
	c.index()
	c.reachability()
	if c.v.UDP != UDPBlocked && c.alive {
		c.addresses()
		c.mapping()
		c.filtering()
		c.ports()
		c.pooling()
		c.returns()
		c.payloads()
		c.mtu()
		c.streams()
		c.optIn()
	}
	c.family()
	c.surroundings()
	c.strange()
	c.conclude()
	return c.v, c.findings
}

type classifier struct {
	o        Observations
	v        Verdict
	findings []Finding
	byName   map[string]*Observation
	alive    bool // something came back over UDP

	count, lost int // of the controls
}

func (c *classifier) find(code, format string, args ...any) {
	c.findings = append(c.findings, Finding{code, fmt.Sprintf(format, args...)})
}

func (c *classifier) judged(about string, value fmt.Stringer, wrong float64, evidence ...string) {
	c.v.Judgements = append(c.v.Judgements, Judgement{about, value.String(), sureness(wrong), evidence})
}

// sureness is the confidence that goes with a probability of being wrong.
func sureness(wrong float64) float64 { return 1 - max(sureOfSight, min(1, wrong)) }

func (c *classifier) index() {
	c.byName = make(map[string]*Observation)
	for i := range c.o.Probes {
		x := &c.o.Probes[i]
		c.byName[x.Name] = x
		c.alive = c.alive || (x.Answered > 0 && x.Role != RoleStream && x.Role != RoleStreamMapping && x.Role != RoleFamily)
		if x.Role == RoleControl || x.Name == "map-primary" || (x.Answered > 0 && x.Role.controls()) {
			c.count += x.Judged
			c.lost += max(0, x.Judged-x.Answered)
		}
	}
}

// get never returns nil.
func (c *classifier) get(name string) *Observation {
	if x := c.byName[name]; x != nil {
		return x
	}
	return &Observation{}
}

// chance is the probability that the silence of a probe is the network's doing.
func (c *classifier) chance(x *Observation) float64 {
	if x.Answered > 0 || x.Error != 0 || x.Ignored > 0 {
		return 1
	}
	return silence(x.Judged, x.Controls, x.ControlsLost)
}

// reachability decides about UDP as such.
func (c *classifier) reachability() {
	for _, s := range c.o.Servers {
		if s.Error != "" {
			c.find(NameFailed, "%s: %s", s.Name, s.Error)
		}
	}
	for _, e := range c.o.Refused {
		c.find(NoRoute, "the system refused to send: %s", e)
	}
	stream, odd, asked := false, false, false
	silentServers := make(map[netip.Addr]bool)
	for _, x := range c.o.Probes {
		if x.Role == RoleStream {
			stream = stream || x.Answered > 0
			odd = odd || x.Error != 0
			c.v.TCP = max(c.v.TCP, No)
		} else if x.Sent >= fewAttempts && x.Answered == 0 {
			silentServers[x.To.Addr()] = true
		}
		asked = asked || x.Sent > 0
	}
	if stream {
		c.v.TCP = Yes
	}
	if c.alive {
		c.v.UDP = UDPOpen
		c.partial()
		return
	}
	switch {
	case stream:
		c.v.UDP = UDPBlocked
		c.find(UDPIsBlocked, "no UDP packet came back, but the server answers over TCP")
		c.find(OnlyTCP, "only TCP gets through")
	case odd:
		c.find(CaptivePortal, "TCP connections are answered by something that is not a STUN server; a login page in between does that")
	case asked && len(silentServers) > 1:
		c.v.UDP = UDPBlocked
		c.find(UDPIsBlocked, "no UDP packet came back from %d servers", len(silentServers))
	default:
		c.find(NoAnswer, "nothing answered: the network, the server or its name is at fault")
	}
	if c.v.UDP == UDPBlocked {
		c.v.Mapping, c.v.Filtering = MappingBlocked, FilteringBlocked
		wrong := math.Pow(0.5, float64(c.o.Sent))
		c.judged("mapping", c.v.Mapping, wrong, "no UDP packet came back")
		c.judged("filtering", c.v.Filtering, wrong, "no UDP packet came back")
	}
}

// partial recognises a configured port that is silent while another one of the same server answers.
func (c *classifier) partial() {
	x := c.get("left")
	if x.Role != RolePort || x.Answered > 0 {
		return
	}
	silent := 0
	for _, o := range c.o.Probes { // whatever was sent there
		if o.To == x.To && o.Answered == 0 && o.Role != RoleFiltering && o.Role != RoleStream && o.Role != RoleStreamMapping {
			silent += o.Judged
		}
	}
	if p := silence(silent, x.Controls, x.ControlsLost); p > 1e-3 { // a finding, not a verdict: the path was proved by another port
		return
	}
	c.v.UDP = UDPSomePorts
	c.find(STUNPortBlocked, "port %d is silent, port %d of the same server answers", x.To.Port(), c.get("map-primary").To.Port())
	c.find(UDPIsPartial, "UDP passes to some ports only; peers use any")
}

// ours reports whether an endpoint seen outside is this machine's own.
func (c *classifier) ours(x *Observation, r Reply) bool {
	a := r.Mapped.Addr()
	return (slices.Contains(c.o.Local, a) || a.IsLoopback()) && r.Mapped.Port() == x.Local.Port()
}

// addresses collects what is seen outside.
func (c *classifier) addresses() {
	for _, x := range c.o.Probes {
		switch x.Role {
		case RoleFamily, RoleInterface, RoleDelivery, RoleStream, RoleStreamMapping: // TCP may pass another box
			continue
		}
		for _, r := range x.Replies {
			if a := r.Mapped.Addr(); a.IsValid() && !slices.Contains(c.v.Public, a) && len(c.v.Public) < maxFindings {
				c.v.Public = append(c.v.Public, a)
			}
		}
	}
}

// seen is what one destination saw of the mapping socket.
type seen struct {
	name   string
	to     netip.AddrPort
	mapped netip.AddrPort
	local  netip.AddrPort
	own    bool
}

// views lists what each destination saw of the mapping socket; stable is false if one saw different things.
func (c *classifier) views() (list []seen, stable bool) {
	stable = true
	for i := range c.o.Probes {
		x := &c.o.Probes[i]
		if x.Role != RoleMapping && x.Role != RolePort && x.Role != RoleRelayMapping {
			continue
		}
		for _, r := range x.Replies {
			s := seen{x.Name, x.To, r.Mapped, x.Local, c.ours(x, r)}
			at := slices.IndexFunc(list, func(o seen) bool { return o.to == s.to })
			if at < 0 {
				list = append(list, s)
			} else if list[at].mapped != s.mapped {
				stable = false
			}
		}
	}
	for i := range c.o.Probes { // controls ask one destination again and again
		for _, r := range c.o.Probes[i].Replies {
			if x := &c.o.Probes[i]; x.Role == RoleControl && r.Mapped != x.Replies[0].Mapped {
				stable = false
			}
		}
	}
	return list, stable
}

// mapping compares what different destinations saw of one socket.
func (c *classifier) mapping() {
	list, stable := c.views()
	if !stable {
		c.find(MappingUnstable, "one destination saw different endpoints of one socket: the NAT was restarted, or the server's answers are wrong")
		c.judged("mapping", MappingUnknown, 1, "one destination saw different endpoints of one socket")
		return
	}
	var ports, addrs [2]int // pairs of destinations that saw different, equal endpoints: of one address, of two
	var evidence []string
	own, other := 0, 0
	for i, a := range list {
		evidence = append(evidence, fmt.Sprintf("%s: %v saw %v", a.name, a.to, a.mapped))
		if a.own {
			own++
		} else {
			other++
		}
		for _, b := range list[:i] {
			equal := 0
			if a.mapped == b.mapped {
				equal = 1
			}
			if a.to.Addr() == b.to.Addr() {
				ports[equal]++
			} else {
				addrs[equal]++
			}
		}
	}
	chance := math.Pow(1.0/smallestBlock, float64(len(list)-1)) // that different mappings got equal ports
	switch {
	case len(list) == 0:
		return
	case own > 0 && other == 0:
		c.v.Mapping = MappingNone
		c.judged("mapping", MappingNone, 0, append(evidence, "this machine's own address and port are seen outside")...)
		return
	case own > 0:
		c.find(MappingUnstable, "some destinations see this machine's own endpoint, others do not")
		c.judged("mapping", MappingUnknown, 1, evidence...)
		return
	case ports[0] > 0 && ports[1] == 0 && addrs[1] == 0:
		c.v.Mapping = APDM
		c.judged("mapping", APDM, 0, append(evidence, "two ports of one address saw different endpoints")...)
	case ports[0] == 0 && addrs[0] > 0 && addrs[1] == 0 && ports[1] > 0:
		c.v.Mapping = ADM
		c.judged("mapping", ADM, math.Pow(1.0/smallestBlock, float64(ports[1])),
			append(evidence, "two ports of one address saw one endpoint, two addresses did not")...)
	case ports[0] == 0 && addrs[0] == 0 && addrs[1] > 0:
		c.v.Mapping = EIM
		c.judged("mapping", EIM, chance, append(evidence, "different addresses saw one endpoint")...)
	case ports[0] == 0 && addrs[0] > 0 && addrs[1] == 0:
		c.v.MappingAmong = []Mapping{ADM, APDM}
	case ports[0] == 0 && addrs[0] == 0 && ports[1] > 0:
		c.v.MappingAmong = []Mapping{EIM, ADM}
	case len(list) == 1:
		c.v.MappingAmong = []Mapping{EIM, ADM, APDM}
	default:
		c.find(MappingUnstable, "destinations saw endpoints in a way that no RFC 4787 mapping gives")
		c.judged("mapping", MappingUnknown, 1, evidence...)
		return
	}
	if c.v.MappingAmong != nil {
		c.judged("mapping", MappingUnknown, 1, evidence...)
		c.find(OpenQuestion, "mapping is one of %v: this server's addresses cannot tell which", c.v.MappingAmong)
	}
}

// filtering reads who was let in. Silence counts if it is not the network's, and if the server was seen to send from there.
func (c *classifier) filtering() {
	both, port := c.get("filter-both"), c.get("filter-port")
	relay := c.get("relay-filter")
	delivered := func(name string) bool { return c.get(name).Answered > 0 || c.get(name+"-plain").Answered > 0 }
	silent := func(x *Observation, delivered bool) (wrong float64, ok bool) {
		wrong = c.chance(x)
		return wrong, wrong <= falseSilence && delivered
	}
	open := EIF
	if c.v.Mapping == MappingNone {
		open = FilteringOpen
	}
	noBoth, bothSilent := silent(both, delivered("deliver-both"))
	noPort, portSilent := silent(port, delivered("deliver-port"))
	noRelay, relaySilent := silent(relay, c.get("relay-deliver").Answered > 0)
	if relay.To.IsValid() && relay.To.Addr() == both.To.Addr() { // the relay is on the server's own address: another port of it
		if port.Answered == 0 && !portSilent {
			port, noPort, portSilent = relay, noRelay, relaySilent
		}
		relay, relaySilent = &Observation{}, false
	}
	controls := fmt.Sprintf("%d of %d controls were lost at the same time", port.ControlsLost, port.Controls)
	if both.Controls > port.Controls {
		controls = fmt.Sprintf("%d of %d controls were lost at the same time", both.ControlsLost, both.Controls)
	}
	set := func(f Filtering, wrong float64, evidence ...string) {
		c.v.Filtering = f
		c.judged("filtering", f, wrong, append(evidence, controls)...)
	}
	switch {
	case both.Answered > 0 && len(both.Replies) > 0:
		set(open, 0, fmt.Sprintf("filter-both: %v, which had not been sent to, was let in", both.Replies[0].From))
	case relay.Answered > 0:
		set(open, 0, "relay-filter: a relay that had not been sent to was let in")
	case portSilent:
		set(APDF, noPort, fmt.Sprintf("filter-port: %d attempts from another port of the server were held", port.Judged))
	case port.Answered > 0 && bothSilent:
		set(ADF, noBoth, "filter-port: another port of the server was let in", fmt.Sprintf("filter-both: %d attempts from another address were held", both.Judged))
	case port.Answered > 0 && relaySilent:
		set(ADF, noRelay, "filter-port: another port of the server was let in", fmt.Sprintf("relay-filter: %d attempts of a relay were held", relay.Judged))
	case port.Answered > 0:
		c.v.FilteringAmong = []Filtering{open, ADF}
	case bothSilent || relaySilent:
		c.v.FilteringAmong = []Filtering{ADF, APDF}
	default:
		c.v.FilteringAmong = []Filtering{open, ADF, APDF}
	}
	if c.v.Filtering != FilteringUnknown {
		return
	}
	c.judged("filtering", FilteringUnknown, 1, controls)
	for _, x := range []struct {
		name      string
		wrong     float64
		delivered bool
	}{{"filter-both", noBoth, delivered("deliver-both")}, {"filter-port", noPort, delivered("deliver-port")}} {
		if x.wrong <= falseSilence && !x.delivered {
			c.find(ChangeUnproven, "%s: the server was not seen to send from there even where no filter holds it; its silence says nothing", x.name)
		}
	}
	c.find(OpenQuestion, "filtering is one of %v", c.v.FilteringAmong)
}

// returns reads the mapping towards somebody who has sent first.
func (c *classifier) returns() {
	both, a, b := c.get("filter-both"), c.get("return-primary"), c.get("return-other")
	if c.v.Mapping == MappingNone {
		c.v.OpenLinux, c.v.ReplySame = No, No
		return
	}
	if len(a.Replies) == 0 || len(b.Replies) == 0 {
		return
	}
	moved := a.Replies[0].Mapped != b.Replies[0].Mapped
	evidence := fmt.Sprintf("return-primary saw %v, return-other %v, which had sent first", a.Replies[0].Mapped, b.Replies[0].Mapped)
	answer := func(yes bool) Answer {
		if yes {
			return Yes
		}
		return No
	}
	switch {
	case c.v.Mapping == EIM && c.v.Filtering == APDF && both.Answered == 0 && both.Sent >= fewAttempts:
		c.v.OpenLinux = answer(moved)
		c.judged("open_linux", c.v.OpenLinux, 0, evidence)
		if moved {
			c.find(IsOpenLinux, "a packet that arrives before ours moves our port: punch with a low TTL first")
		}
	case c.v.Mapping == EIM && c.v.Filtering != FilteringUnknown:
		c.v.OpenLinux = No
	}
	if c.v.Mapping == ADM || c.v.Mapping == APDM {
		if both.Answered > 0 {
			c.v.ReplySame = answer(!moved)
			c.judged("reply_same", c.v.ReplySame, 1.0/smallestBlock, evidence)
			if !moved {
				c.find(KeepsReplies, "answers to a stranger keep their port")
			}
		}
		c.v.OpenLinux = No
	}
}

// payloads compares the address in the clear with the one that is hidden from NATs, and looks at large datagrams.
func (c *classifier) payloads() {
	for _, x := range c.o.Probes {
		for _, r := range x.Replies {
			if !r.Clear.IsValid() || x.Role == RoleFamily {
				continue
			}
			if r.Clear != r.Mapped {
				if c.v.ALG != Yes {
					c.find(HasALG, "%s: MAPPED-ADDRESS is %v and XOR-MAPPED-ADDRESS %v: something rewrites payloads", x.Name, r.Clear, r.Mapped)
				}
				c.v.ALG = Yes
			} else {
				c.v.ALG = max(c.v.ALG, No)
			}
		}
	}
	x := c.get("fragment")
	p := c.chance(x)
	if p < 1 {
		p = silenceInPieces(x.Judged, x.Controls, x.ControlsLost)
	}
	switch {
	case x.Answered > 0:
		c.v.Fragments = Yes
	case x.Sent > 0 && p <= falseSilence:
		c.v.Fragments = No
		c.judged("fragments", No, p, fmt.Sprintf("fragment: %d requests of %d bytes were lost", x.Judged, fragmentPadding))
		c.find(FragmentsDropped, "datagrams in fragments vanish")
	}
}

// family reads IPv6 and other interfaces.
func (c *classifier) family() {
	for _, x := range c.o.Probes {
		if x.Role == RoleFamily && len(x.Replies) > 0 {
			c.v.IPv6 = Yes
			if a := x.Replies[0].Mapped.Addr(); slices.Contains(c.o.Local, a) {
				c.find(IPv6Works, "IPv6 works, as %v", a)
			} else {
				c.find(IPv6Translated, "IPv6 works, translated to %v", a)
			}
		}
		if x.Role == RoleInterface && len(x.Replies) > 0 && len(c.v.Public) > 0 && !slices.Contains(c.v.Public, x.Replies[0].Mapped.Addr()) {
			c.find(SeveralInterfaces, "packets from %v are seen as %v, others as %v", x.Local.Addr(), x.Replies[0].Mapped.Addr(), c.v.Public)
		}
	}
}

var carrier = netip.MustParsePrefix("100.64.0.0/10")

// strange says what was odd about the servers.
func (c *classifier) strange() {
	for _, s := range c.o.Servers {
		if s.Bad != "" {
			c.find(BadOtherAddress, "%s: OTHER-ADDRESS is refused: %s", s.Name, s.Bad)
		}
	}
	for _, x := range c.o.Probes {
		if x.Role == RoleMapping && x.Name == "map-other" && x.Answered == 0 && x.Judged >= fewAttempts {
			if o := c.get("map-other-port"); o.Answered == 0 && o.Judged >= fewAttempts && c.get("map-other-addr").Answered > 0 {
				c.find(OtherSilent, "port %d does not answer at either of the server's addresses: a firewall lets UDP pass to some ports only, or the server is not right", x.To.Port())
				continue
			}
			c.find(OtherSilent, "the server's other address %v does not answer", x.To)
		}
	}
	n := c.o.Strange
	for _, x := range []struct {
		n    int
		code string
		text string
	}{
		{n.Ignored, ChangeIgnored, "replies came from the address of the request in spite of CHANGE-REQUEST: this server cannot test filtering"},
		{n.WrongSource, WrongSource, "replies came from an address that was not asked for; they are no evidence"},
		{n.Malformed, MalformedReply, "datagrams from the server's address are no answers"},
		{n.Flooded, Flood, "sockets were flooded and given up"},
	} {
		if x.n > 0 {
			c.find(x.code, "%d %s", x.n, x.text)
		}
	}
	if n.Repeated > c.o.Sent/4+2 {
		c.find(RepeatedReplies, "%d replies came twice", n.Repeated)
	}
	if c.lost > 0 && c.alive {
		c.find(Loss, "%d of %d control packets were lost", c.lost, c.count)
	}
	if c.o.Relay != "" {
		c.find(RelayFailed, "no relay: %s", c.o.Relay)
	} else if c.get("relay-map").Answered > 0 {
		c.find(RelayUsed, "a relay took the place of a second address")
	}
}

// conclude draws the sum.
func (c *classifier) conclude() {
	switch {
	case c.v.Mapping == MappingNone && c.v.Filtering == FilteringOpen:
		c.find(NoNAT, "no NAT and no firewall: everybody can send here")
	case c.v.Mapping == MappingNone:
		c.find(NoNAT, "no NAT: this machine's own address is seen outside")
		if c.v.Filtering != FilteringUnknown && c.v.Filtering != FilteringBlocked {
			c.find(StatefulFirewall, "a firewall admits answers only (%v)", c.v.Filtering)
		}
	case c.v.Mapping != MappingUnknown && c.v.Mapping != MappingBlocked || len(c.v.MappingAmong) > 0:
		var list []string
		for _, a := range c.v.Public {
			list = append(list, a.String())
		}
		c.find(BehindNAT, "behind a NAT, seen as %s", strings.Join(list, ", "))
	}
	if c.v.Mapping != MappingUnknown && c.v.Filtering != FilteringUnknown {
		c.v.Confidence = 1
		for _, j := range c.v.Judgements {
			if j.About == "mapping" || j.About == "filtering" {
				c.v.Confidence = min(c.v.Confidence, j.Confidence)
			}
		}
	}
	if c.v.UDP != UDPUnknown {
		c.v.Relay = relayNeed(&c.v)
	}
}
