package nattest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"
)

// Version is the version of the JSON of a Report. It grows when a field changes its meaning.
const Version = 1

// Ours to tune: what ParseReport takes. A default run gives about 20 KB.
const (
	maxReport       = 1 << 20 // bytes
	maxObservations = 4096
	maxReplies      = 256 // of one probe
	maxFindings     = 256
	maxText         = 4096 // bytes of one text
)

// Errors of ParseReport.
var (
	ErrReport        = errors.New("nattest: not a report")
	ErrReportSize    = errors.New("nattest: the report is larger than 1 MiB")
	ErrReportVersion = errors.New("nattest: the report has another version")
)

// A Report is what Run found.
type Report struct {
	Version      int          `json:"version"`
	Verdict      Verdict      `json:"verdict"`
	Findings     []Finding    `json:"findings"`
	Observations Observations `json:"observations"`
}

// A Verdict is what Classify makes of observations. Its zero value knows nothing.
type Verdict struct {
	Mapping   Mapping   `json:"mapping"`
	Filtering Filtering `json:"filtering"`
	// Confidence is a lower bound for the probability that Mapping and Filtering are both right, 0 if one is unknown.
	Confidence float64 `json:"confidence"`
	Relay      Relay   `json:"relay"`
	UDP        UDP     `json:"udp"`

	// MappingAmong and FilteringAmong are what remains possible where the verdict is unknown, empty if that is everything.
	MappingAmong   []Mapping   `json:"mapping_among,omitempty"`
	FilteringAmong []Filtering `json:"filtering_among,omitempty"`

	Public    []netip.Addr `json:"public,omitempty"` // addresses seen outside, in the order of first sight
	Ports     Ports        `json:"ports"`
	Pooling   Pooling      `json:"pooling"`
	Hairpin   Hairpin      `json:"hairpin"`    // unknown unless Config.Hairpin
	OpenLinux Answer       `json:"open_linux"` // a stray packet from a peer moves the mapping towards it
	ReplySame Answer       `json:"reply_same"` // answers to a stranger keep the mapping
	ALG       Answer       `json:"alg"`        // addresses in payloads are rewritten
	Fragments Answer       `json:"fragments"`  // fragmented datagrams pass
	TCP       Answer       `json:"tcp"`        // STUN answers over TCP
	IPv6      Answer       `json:"ipv6"`       // STUN answers over IPv6
	// CGN says whether a carrier's NAT is in between: by this machine's address, a router's or the gateway's (100.64.0.0/10). No
	// is said only where the gateway's address is the one seen outside.
	CGN Answer `json:"cgn"`

	TCPMapping  Mapping    `json:"tcp_mapping"`           // of TCP connections
	PortMapping Answer     `json:"port_mapping"`          // the gateway maps ports: NAT-PMP, PCP or UPnP IGD
	Gateway     netip.Addr `json:"gateway,omitzero"`      // its outside address, as it says
	InsideHops  int        `json:"inside_hops,omitempty"` // routers with private or a carrier's addresses on the way out; a low TTL must be above
	MTU         int        `json:"mtu,omitempty"`         // bytes of the largest packet that came back in one piece
	MTUBelow    int        `json:"mtu_below,omitempty"`   // bytes of the smallest one that did not

	// Lifetime is how long a binding lasts without traffic, unset unless Config.Lifetime was: the longest timer in ms after
	// which it was there, and the shortest after which it was not. 0 means none.
	LifetimeMin int64 `json:"lifetime_min_ms,omitempty"`
	LifetimeMax int64 `json:"lifetime_max_ms,omitempty"`
	// InboundRefresh says whether packets from outside keep a binding, as measured together with the lifetime.
	InboundRefresh Answer `json:"inbound_refresh"`
	// Quota is how many sockets got mappings before the NAT refused more, 0 if it did not or was not asked.
	Quota int `json:"quota,omitempty"`

	// Judgements are the steps to the verdict with their evidence, for people.
	Judgements []Judgement `json:"judgements,omitempty"`
}

// Ports is how external ports are chosen.
type Ports struct {
	Allocation Allocation `json:"allocation"`
	Step       int        `json:"step,omitempty"`   // of Sequential; may be negative
	Parity     Answer     `json:"parity"`           // even stays even, odd stays odd
	First      uint16     `json:"first,omitempty"`  // the lowest one seen
	Last       uint16     `json:"last,omitempty"`   // the highest one seen
	Narrow     Answer     `json:"narrow,omitempty"` // the ports seen come from a small part of the range, as from a block
	Block      int        `json:"block,omitempty"`  // ports that the block has at least, a power of two
}

// A Judgement is one step to a verdict.
type Judgement struct {
	About      string   `json:"about"` // "mapping", "filtering", "open_linux", …
	Value      string   `json:"value"`
	Confidence float64  `json:"confidence"` // a lower bound for the probability that it is right
	Evidence   []string `json:"evidence"`   // sentences, with the names of probes
}

// A Finding is something that the reader should know. Codes are stable, texts are not.
type Finding struct {
	Code string `json:"code"`
	Text string `json:"text"`
}

// The codes of findings.
const (
	NoNAT             = "no-nat"               // this machine's own address is seen outside
	StatefulFirewall  = "stateful-firewall"    // no NAT, but strangers are filtered
	BehindNAT         = "nat"                  // an address is translated
	UDPIsBlocked      = "udp-blocked"          // no answer to any UDP packet, though a server is there
	UDPIsPartial      = "udp-some-ports"       // some UDP ports pass, others do not
	STUNPortBlocked   = "stun-port-blocked"    // the configured port is silent, another port of the same server is not
	OnlyTCP           = "only-tcp"             // STUN answers over TCP only
	NoAnswer          = "no-answer"            // no server answered by any way: network, server or name is at fault
	NoRoute           = "no-route"             // the system refused to send
	NameFailed        = "name-not-found"       // a server's name was not resolved
	CaptivePortal     = "captive-portal"       // TCP connects, and what answers is not STUN
	OpenQuestion      = "open"                 // a verdict that this server cannot close; the text says which
	Loss              = "loss"                 // packets were lost; the text says how many
	SequentialPorts   = "sequential-ports"     // external ports can be predicted
	ArbitraryPooling  = "arbitrary-pooling"    // several external addresses are used at once
	IsOpenLinux       = "open-linux"           // see Verdict.OpenLinux
	KeepsReplies      = "reply-same"           // see Verdict.ReplySame
	HasALG            = "alg"                  // see Verdict.ALG
	FragmentsDropped  = "fragments-dropped"    // see Verdict.Fragments
	CarrierNAT        = "cgn"                  // see Verdict.CGN
	SeveralInterfaces = "several-interfaces"   // addresses of this machine lead to different public addresses
	IPv6Works         = "ipv6"                 // an IPv6 address is seen outside
	IPv6Translated    = "ipv6-translated"      // and it is not this machine's
	HairpinSeen       = "hairpin"              // see Verdict.Hairpin
	ShortLifetime     = "short-lifetime"       // bindings end sooner than §4.3 wants
	QuotaReached      = "quota"                // see Verdict.Quota
	MappingUnstable   = "mapping-unstable"     // the same socket and destination gave different endpoints
	ChangeIgnored     = "change-ignored"       // the server answered a CHANGE-REQUEST from the address it was sent to
	ChangeUnproven    = "change-unproven"      // the server was not seen to send from its other address at all
	WrongSource       = "wrong-source"         // a reply came from an address that was not asked for
	BadOtherAddress   = "bad-other-address"    // OTHER-ADDRESS is refused; the text says why
	OtherSilent       = "other-silent"         // the server's other address does not answer
	MalformedReply    = "malformed-reply"      // something that is no answer came from the server's address
	RepeatedReplies   = "repeated-replies"     // more copies of replies than networks make
	SeveralHops       = "several-private-hops" // the first routers have private addresses
	Tunnel            = "tunnel"               // this machine has a VPN
	NotMeasured       = "not-measured"         // what this system does not show to a program without privileges
	MapsPorts         = "port-mapping"         // see Verdict.PortMapping
	SmallMTU          = "small-mtu"            // see Verdict.MTU
	TCPSymmetric      = "tcp-symmetric"        // see Verdict.TCPMapping
	PortBlock         = "port-block"           // see Ports.Block
	Flood             = "flood"                // so many packets that the rest was not read
	RelayFailed       = "relay-failed"         // Config.DialRelay gave an error
	RelayUsed         = "relay-used"           // a relay took the place of the server's second address
)

// Observations are what was measured, and all that Classify looks at.
type Observations struct {
	Local   []netip.Addr  `json:"local"` // this machine's addresses
	Servers []ServerSeen  `json:"servers"`
	Probes  []Observation `json:"probes"`
	Sent    int           `json:"sent"` // packets, fragments counted
	Strange Strange       `json:"strange"`
	Near    Surroundings  `json:"near"`
	TookMS  float64       `json:"took_ms"`
	Refused []string      `json:"refused,omitempty"` // errors of the system, each once
	Relay   string        `json:"relay,omitempty"`   // error of DialRelay
}

// ServerSeen is what is known about a server.
type ServerSeen struct {
	Name  string         `json:"name"` // as in Config.Servers
	Addr  netip.AddrPort `json:"addr"`
	Other netip.AddrPort `json:"other"`           // OTHER-ADDRESS, the zero value if there was none
	Bad   string         `json:"bad,omitempty"`   // why OTHER-ADDRESS is refused
	Error string         `json:"error,omitempty"` // why the name has no address
}

// Strange counts datagrams that are no evidence.
type Strange struct {
	Malformed   int `json:"malformed,omitempty"`    // from a server's address, but no answer to anything
	WrongSource int `json:"wrong_source,omitempty"` // a reply from an address that was not asked for
	Ignored     int `json:"ignored,omitempty"`      // a reply from the address of the request in spite of CHANGE-REQUEST
	Repeated    int `json:"repeated,omitempty"`     // a reply that was there already
	Unexpected  int `json:"unexpected,omitempty"`   // from elsewhere, unknown to any probe
	Flooded     int `json:"flooded,omitempty"`      // sockets that were given up
}

// An Observation is what became of one probe.
type Observation struct {
	Name     string         `json:"name"`
	Role     Role           `json:"role"`
	Socket   int            `json:"socket"` // probes with one number share a socket
	Local    netip.AddrPort `json:"local"`  // of the socket; the address may be unspecified
	To       netip.AddrPort `json:"to"`     // where the request went
	Expect   netip.AddrPort `json:"expect"` // where the reply was to come from; unset until it is known
	Sent     int            `json:"sent"`   // attempts, each with a transaction ID of its own
	Judged   int            `json:"judged"` // attempts that had the time to be answered; only these count as lost
	Answered int            `json:"answered"`
	Error    int            `json:"error,omitempty"`    // the code of an error response
	Ignored  int            `json:"ignored,omitempty"`  // replies from the address of the request in spite of CHANGE-REQUEST
	AfterMS  int64          `json:"after_ms,omitempty"` // of rest before a lifetime probe
	Bytes    int            `json:"bytes,omitempty"`    // of the packet, of a probe of the path MTU
	// Controls and ControlsLost are what the silence of this probe is measured by, as counted when it was judged.
	Controls     int     `json:"controls"`
	ControlsLost int     `json:"controls_lost"`
	First        int     `json:"first"` // position of the first attempt among all packets of the run
	Replies      []Reply `json:"replies,omitempty"`
}

// A Reply is one answer.
type Reply struct {
	From   netip.AddrPort `json:"from"`
	Mapped netip.AddrPort `json:"mapped"`          // XOR-MAPPED-ADDRESS
	Clear  netip.AddrPort `json:"clear,omitempty"` // MAPPED-ADDRESS, which ALGs rewrite
	RTTms  float64        `json:"rtt_ms"`
}

// ParseReport reads a report from a file, which may be hostile: it bounds everything and checks every word. The errors
// wrap ErrReport, ErrReportSize and ErrReportVersion. Unknown fields are ignored.
func ParseReport(b []byte) (*Report, error) {
	if len(b) > maxReport {
		return nil, ErrReportSize
	}
	d := json.NewDecoder(bytes.NewReader(b))
	var r Report
	if err := d.Decode(&r); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrReport, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("%w: something follows it", ErrReport)
	}
	if r.Version != Version {
		return nil, fmt.Errorf("%w: %d, this program reads %d", ErrReportVersion, r.Version, Version)
	}
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrReport, err)
	}
	return &r, nil
}

func (r *Report) check() error {
	o := &r.Observations
	if len(o.Near.Hops) > maxFindings || len(o.Near.Mappers) > maxFindings || len(o.Near.Tunnels) > maxFindings || len(o.Near.Missing) > maxFindings {
		return errors.New("a list is too long")
	}
	if len(o.Probes) > maxObservations || len(r.Findings) > maxFindings || len(r.Verdict.Judgements) > maxFindings ||
		len(o.Local) > maxFindings || len(o.Servers) > maxFindings || len(r.Verdict.Public) > maxFindings ||
		len(r.Verdict.MappingAmong) > len(mappingWords) || len(r.Verdict.FilteringAmong) > len(filteringWords) {
		return errors.New("a list is too long")
	}
	if c := r.Verdict.Confidence; !(c >= 0 && c <= 1) {
		return errors.New("confidence is not a probability")
	}
	for _, f := range r.Findings {
		if len(f.Code) > maxText || len(f.Text) > maxText {
			return errors.New("a text is too long")
		}
	}
	for _, p := range o.Probes {
		if len(p.Replies) > maxReplies || p.Sent < 0 || p.Judged < 0 || p.Judged > p.Sent || p.Answered < 0 || p.Answered > p.Sent ||
			p.Sent > maxObservations || p.Controls < 0 || p.ControlsLost < 0 || p.ControlsLost > p.Controls {
			return fmt.Errorf("probe %.40q has impossible numbers", p.Name)
		}
	}
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
