package main

import (
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/stilenet/stile/internal/config"
	"github.com/stilenet/stile/internal/mmscfg"
	"github.com/stilenet/stile/turn"
)

// page is what the administrator is told at the start, and what the admin API repeats.
type page struct {
	Listen      string
	Discovery   string
	Rendezvous  string
	Exchange    string
	Clients     string
	Peers       string
	Relayed     string
	Allocations string
	Engine      string
	Offload     string
	Admin       string
	MMSLine     string // empty: the server asks for credentials, which the player has not
	Notes       []string
}

func (p *page) write(w io.Writer, version string) {
	fmt.Fprintf(w, "stile %s: TURN proxy (draft-ietf-behave-turn-08 and RFC 8656) and RTMFP rendezvous (RFC 7016)\n\n", version)
	for _, row := range [][2]string{
		{"listens on", p.Listen},
		{"NAT discovery", p.Discovery},
		{"rendezvous", p.Rendezvous},
		{"ID exchange", p.Exchange},
		{"clients", p.Clients},
		{"peers", p.Peers},
		{"relayed address", p.Relayed},
		{"allocations", p.Allocations},
		{"engine", p.Engine},
		{"offload", p.Offload},
		{"administration", p.Admin},
	} {
		if row[1] == "" {
			continue
		}
		if row[1] != "" { // a dry run has no administration
			fmt.Fprintf(w, "  %-16s %s\n", row[0], wrap(row[1], 19))
		}
	}
	if p.MMSLine != "" {
		fmt.Fprintf(w, "\n  Deploy this line in mms.cfg (`stile mmscfg` says where the file lives):\n\n      %s\n", p.MMSLine)
	}
	for _, n := range p.Notes {
		fmt.Fprintf(w, "\n  note: %s\n", wrap(n, 8))
	}
	fmt.Fprintln(w)
}

// wrap breaks lines of text before column 110 and indents the rest.
func wrap(text string, indent int) string {
	var b strings.Builder
	at := indent
	for i, word := range strings.Fields(text) {
		switch {
		case i == 0:
		case at+1+len(word) > 110:
			b.WriteString("\n" + strings.Repeat(" ", indent))
			at = indent
		default:
			b.WriteByte(' ')
			at++
		}
		b.WriteString(word)
		at += len(word)
	}
	return b.String()
}

func describeListen(cfg *config.Config) string {
	var out []string
	for _, l := range cfg.Turn.Listen {
		s := l.Network + "://" + l.HostPort()
		if cfg.Asks(l) {
			s += " (long-term credentials)"
		}
		out = append(out, s)
	}
	return strings.Join(out, "  ")
}

func describeClients(cfg *config.Config) string {
	switch {
	case len(cfg.Turn.Clients) > 0:
		return joinPrefixes(cfg.Turn.Clients)
	case cfg.Turn.Peers.Profile == config.Corporate:
		return "private networks and this machine: " + joinPrefixes(turn.ProfileCorporate.Clients())
	}
	return "everybody"
}

func describePeers(cfg *config.Config) string {
	ports := cfg.Turn.Peers.Ports.String()
	if n := strings.Count(ports, ","); n > 4 {
		ports = "1024-65535 without well-known reflectors (`stile config print` lists them)"
	}
	var s string
	if cfg.Turn.Peers.Profile == config.Lab {
		s = "everything this machine reaches (profile lab), ports " + ports
	} else {
		s = "the public internet by the default route, ports " + ports + "; not this machine, its neighbours, private or special addresses"
	}
	if cfg.OnlyRTMFP() {
		s += "; nothing but RTMFP"
		if cfg.Credentials() {
			s += " without credentials"
		}
	}
	if a := cfg.Turn.Peers.Allow; len(a) > 0 {
		s += "; also " + joinPrefixes(a)
	}
	if d := cfg.Turn.Peers.Deny; len(d) > 0 {
		s += "; never " + joinPrefixes(d)
	}
	switch cfg.Turn.Hairpin {
	case config.HairpinAll:
		s += "; other clients of this proxy"
	case config.HairpinSamePrefix:
		s += "; other clients of this proxy that the same entry admits"
	}
	return s
}

func joinPrefixes(ps []netip.Prefix) string {
	var out []string
	for _, p := range ps {
		if p.IsSingleIP() {
			out = append(out, p.Addr().String())
			continue
		}
		out = append(out, p.String())
	}
	return strings.Join(out, ", ")
}

func describeRelays(relays []turn.RelayAddress, ports turn.PortRange) string {
	var out []string
	for _, r := range relays {
		s := r.Public.String()
		if r.Public != r.Local {
			s += " (here " + r.Local.String() + ")"
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ") + "  ports " + ports.String()
}

// mmsLine is the line to deploy: the address of the first UDP listener that needs no credentials, else a TCP one.
func mmsLine(cfg *config.Config, h *host) string {
	for _, network := range []string{"udp", "tcp"} {
		for _, l := range cfg.Turn.Listen {
			if l.Network != network || cfg.Asks(l) {
				continue
			}
			addr := l.Addr
			if !addr.IsValid() {
				addr = h.source4
			}
			if !addr.IsValid() {
				addr = h.source6
			}
			if !addr.IsValid() {
				addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
			}
			value := addr.String()
			if l.Port != config.DefaultTURNPort {
				value = netip.AddrPortFrom(addr, l.Port).String()
			}
			if line, err := mmscfg.Line(value); err == nil {
				return line
			}
		}
	}
	return ""
}

// number writes n with thousands separated.
func number(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
