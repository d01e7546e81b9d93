package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/stilenet/stile/nattest"
	"github.com/stilenet/stile/turn/client"
)

// dialRelay allocates a relayed address at the proxy of mms.cfg, as the player does: without credentials, by UDP and, where that is blocked, by TCP.
func dialRelay(ctx context.Context, proxy string) (net.PacketConn, error) {
	return client.Dial(ctx, client.Config{Server: proxy})
}

// natLine is a sentence about the network.
type natLine struct {
	Text string `json:"text"`
	Warn bool   `json:"warn,omitempty"`
}

// natView is what the page shows of the network.
type natView struct {
	State   string    `json:"state"` // none, running, done
	Servers []string  `json:"servers"`
	Title   string    `json:"title,omitempty"`
	Lines   []natLine `json:"lines,omitempty"`
}

// checkNetwork asks the servers what stands between them and this machine.
func checkNetwork(ctx context.Context, servers []string, proxy string) (*nattest.Report, error) {
	cfg := nattest.Config{Servers: servers, DialContext: new(net.Dialer).DialContext}
	if proxy != "" {
		cfg.DialRelay = func(ctx context.Context, _ string) (net.PacketConn, error) { return dialRelay(ctx, proxy) }
	}
	return nattest.Run(ctx, cfg)
}

// tell puts a verdict into words for people. The findings have more; natprobe shows them.
func tell(r *nattest.Report) (title string, lines []natLine) {
	v := r.Verdict
	switch v.Relay {
	case nattest.RelayNever:
		title = "Direct with everybody."
	case nattest.RelaySometimes:
		title = "Direct with most, relayed with some."
	case nattest.RelayAlways:
		title = "Relayed with everybody."
	default:
		title = "Not certain."
	}
	switch v.UDP {
	case nattest.UDPBlocked:
		lines = append(lines, natLine{"A firewall blocks UDP.", true})
	case nattest.UDPSomePorts:
		lines = append(lines, natLine{"A firewall blocks some UDP ports.", true})
	}
	switch v.Mapping {
	case nattest.MappingNone:
		lines = append(lines, natLine{"No address translation.", false})
	case nattest.EIM:
		lines = append(lines, natLine{"The router keeps one public port for everybody.", false})
	case nattest.ADM, nattest.APDM:
		lines = append(lines, natLine{"The router takes a new public port for each peer (symmetric).", true})
	}
	switch v.Filtering {
	case nattest.FilteringOpen, nattest.EIF:
		lines = append(lines, natLine{"Strangers can reach this machine.", false})
	case nattest.ADF:
		lines = append(lines, natLine{"Only addresses that were sent to get in.", false})
	case nattest.APDF:
		lines = append(lines, natLine{"Only ports that were sent to get in.", false})
	}
	if v.CGN == nattest.Yes {
		lines = append(lines, natLine{"The provider translates addresses too (CGN).", true})
	}
	if len(v.Public) > 0 {
		var public []string
		for _, a := range v.Public {
			public = append(public, a.String())
		}
		lines = append(lines, natLine{"Seen as " + strings.Join(public, ", ") + ".", false})
	}
	for _, f := range r.Findings {
		if slices.Contains([]string{nattest.NoAnswer, nattest.NoRoute, nattest.NameFailed, nattest.CaptivePortal, nattest.STUNPortBlocked}, f.Code) {
			lines = append(lines, natLine{f.Text, true})
		}
	}
	return title, lines
}

// logf prints a line for whoever started the program.
func (p *phone) logf(format string, args ...any) {
	fmt.Fprintf(p.out, format+"\n", args...)
}
