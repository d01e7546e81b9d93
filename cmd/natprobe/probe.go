package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stilenet/stile/nattest"
	"github.com/stilenet/stile/rtmfp/flash"
)

// Ours to tune.
const (
	watchInterval = 15 * time.Second // so that a watch costs a server four packets a second
	maxLifetime   = time.Hour
	maxQuota      = 1024
)

// options are the flags of a probe.
type options struct {
	servers  []string
	turn     string
	rtmfp    string
	config   string
	json     bool
	html     string
	quiet    bool
	watch    bool
	hairpin  bool
	lifetime time.Duration
	quota    int
}

func (a *app) probe() *cobra.Command {
	var o options
	c := &cobra.Command{
		Use:   "natprobe",
		Short: "Say what this network's NAT and firewall do, and whether peers connect directly",
		Long: "natprobe says in plain words what the NAT and firewall in front of this machine do, with which kinds of peer a direct connection works,\n" +
			"whether a relay is needed, whether the TURN proxy answers, and what to change. It takes about a second and needs no privileges.\n\n" +
			"Without --server it asks the proxy of this machine's mms.cfg, else what DNS names (SRV records _stun._udp, _turn._udp), else its configuration.\n\n" +
			"Exit code: 0 no NAT, or one with endpoint-independent mapping; 1 a symmetric NAT; 2 UDP passes to some ports only; 3 UDP is blocked;\n" +
			"4 unknown; 64 a mistake in the command line, or nobody to ask.",
		Example: "  natprobe --server stun.example.net\n  natprobe --html report.html     a page to send to the help desk\n  natprobe --json > me.json       then: natprobe pair me.json peer.json",
		Args:    noArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return a.runProbe(c.Context(), &o) },
	}
	f := c.Flags()
	f.StringArrayVar(&o.servers, "server", nil, "STUN server, host or host:port; may be repeated, up to 4")
	f.StringVar(&o.turn, "turn", "", "TURN proxy to try; default: that of mms.cfg, else the first server")
	f.StringVar(&o.rtmfp, "rtmfp", "", "rendezvous to try, host, host:port or rtmfp://host (default: that of the proxy's host, if it has one)")
	f.StringVar(&o.config, "config", "", "configuration file; default: NATPROBE_CONFIG, else stile/natprobe.yaml of the user, else /etc/stile/natprobe.yaml")
	f.BoolVar(&o.json, "json", false, "print JSON, with the evidence")
	f.StringVar(&o.html, "html", "", "write a page with pictures to this file")
	f.BoolVar(&o.quiet, "quiet", false, "print nothing but what --json asks for; the exit code says it")
	f.BoolVar(&o.watch, "watch", false, "go on, and print a line when something changes")
	f.BoolVar(&o.hairpin, "hairpin", false, "test hairpinning too; some firewalls take that for an attack")
	f.DurationVar(&o.lifetime, "lifetime", 0, "measure how long a silent connection is remembered, with timers up to this, such as 5m; takes that long")
	f.IntVar(&o.quota, "quota", 0, "open up to this many sockets to find the NAT's limit; at the limit UDP fails for others behind it")
	return c
}

func (o *options) check() error {
	switch {
	case len(o.servers) > 4:
		return usage{fmt.Errorf("--server: %d are too many: name at most 4", len(o.servers))}
	case o.lifetime < 0 || o.lifetime > maxLifetime:
		return usage{fmt.Errorf("--lifetime %v: want up to %v", o.lifetime, maxLifetime)}
	case o.lifetime > 0 && o.lifetime < 10*time.Second:
		return usage{fmt.Errorf("--lifetime %v: the shortest timer is 10s", o.lifetime)}
	case o.quota < 0 || o.quota > maxQuota:
		return usage{fmt.Errorf("--quota %d: want 1 to %d", o.quota, maxQuota)}
	case o.watch && (o.lifetime > 0 || o.quota > 0):
		return usage{errors.New("--watch goes with neither --lifetime nor --quota: they strain the NAT")}
	}
	for _, s := range o.servers {
		if strings.TrimSpace(s) == "" {
			return usage{errors.New("--server: it is empty: name a host")}
		}
	}
	return nil
}

func (a *app) runProbe(ctx context.Context, o *options) error {
	if err := o.check(); err != nil {
		return err
	}
	p := a.newProgress(!o.quiet)
	p.show("looking for servers")
	s, err := a.find(ctx, o)
	p.clear()
	if err != nil {
		return err
	}
	if o.watch {
		return a.watch(ctx, o, s, p)
	}
	r, err := a.measure(ctx, o, s, p)
	p.clear()
	if err != nil {
		return err
	}
	a.code = r.ExitCode
	return a.write(r, o)
}

// write gives out the result as the options ask.
func (a *app) write(r *result, o *options) error {
	if o.html != "" {
		page, err := r.page()
		if err != nil {
			return err
		}
		if err := replaceFile(o.html, page); err != nil {
			return usage{fmt.Errorf("--html: %w", err)}
		}
	}
	switch {
	case o.json:
		e := json.NewEncoder(a.out)
		e.SetEscapeHTML(false)
		if !o.watch {
			e.SetIndent("", "  ")
		}
		return e.Encode(r)
	case !o.quiet && !o.watch:
		r.print(a.out)
		if o.html != "" {
			fmt.Fprintf(a.out, "The page is in %s.\n", o.html)
		}
	}
	return nil
}

// replaceFile writes a file so that a reader sees the old or the new one.
func replaceFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".natprobe-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err := f.Write(b); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if runtime.GOOS != "windows" {
		if err := os.Chmod(f.Name(), 0o644); err != nil {
			return err
		}
	}
	return os.Rename(f.Name(), path)
}

// measure runs everything at once.
func (a *app) measure(ctx context.Context, o *options, s sources, p *progress) (*result, error) {
	m := a.machine
	proxy, rendezvous := a.startProxyTest(ctx, s.turn), a.startRendezvousTest(ctx, s.rtmfp)
	cfg := nattest.Config{Servers: s.servers, ListenPacket: m.listenPacket, LookupNetIP: m.lookupNetIP, LocalAddrs: m.localAddrs, DialContext: m.dialContext,
		DialRelay: func(ctx context.Context, _ string) (net.PacketConn, error) { return a.dialRelay(ctx, s.turn) },
		Wrap:      flash.SealHello, Unwrap: flash.OpenHello,
		Hairpin: o.hairpin, Lifetime: o.lifetime, Quota: o.quota, Progress: func(phase string) { p.show(phases[phase]) }}
	if m.beyond {
		cfg.UseSystem()
	}
	report, err := nattest.Run(ctx, cfg)
	p.show("waiting for the other servers")
	grace := proxyGrace
	if err == nil && report.Verdict.UDP == nattest.UDPBlocked {
		grace = proxyLast
	}
	tried, until := proxy(grace)
	if s.guessed { // it has had the probe's round trips, and its silence is no finding
		until = time.Now()
	}
	met := rendezvous(until)
	if s.guessed && met.State != stateAnswers {
		met = serviceState{State: stateNotTested}
	}
	if err != nil {
		return nil, err
	}
	r := &result{Report: *report, Program: "natprobe " + version(), At: time.Now().UTC().Truncate(time.Second), Servers: s.servers, ServersFrom: s.from,
		Proxy: tried, Rendezvous: met}
	r.Config = mmsState{Path: s.mms.path, Proxy: s.mms.proxy, P2POff: s.mms.disabled}
	for _, f := range s.mms.findings {
		r.Config.Findings = append(r.Config.Findings, f.String())
	}
	r.Peers = predictPeers(r.Verdict)
	r.Summary = summary(&r.Verdict, r.Peers)
	r.Advice = r.advise(m.goos, s.mms)
	r.ExitCode = exitCode(&r.Verdict)
	return r, nil
}

// phases are nattest's phases for people.
var phases = map[string]string{
	"names": "resolving names", "probes": "probing", "hairpin": "testing hairpinning", "lifetime": "waiting for bindings to end", "quota": "counting sockets",
}
