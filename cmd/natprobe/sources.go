package main

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/stilenet/stile/internal/config"
	"github.com/stilenet/stile/internal/mmscfg"
)

const srvTime = 1500 * time.Millisecond // for all SRV records

// sources says whom to ask, and who said so.
type sources struct {
	servers []string
	turn    string // a TURN proxy as turn/client reads it
	rtmfp   string // a rendezvous
	guessed bool   // nobody named rtmfp: `stile serve` has one beside its proxy
	from    string // for people
	mms     mmsFile
}

// mmsFile is this machine's mms.cfg.
type mmsFile struct {
	there    bool
	path     string
	proxy    string // RTMFPTURNProxy as host:port; "" if there is none
	disabled bool   // RTMFPP2PDisable
	findings []mmscfg.Finding
	failed   error // it is there and cannot be read
}

func (m machine) mms() (out mmsFile) {
	f, where, err := m.readMMS()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return out
	case err != nil:
		out.failed = err
		return out
	}
	out.there, out.path, out.disabled = true, where.Path, f.RTMFPP2PDisable()
	if p, ok := f.RTMFPTURNProxy(); ok {
		out.proxy = p.HostPort()
	}
	for _, x := range f.Check() {
		if x.Severity != mmscfg.Info {
			out.findings = append(out.findings, x)
		}
	}
	return out
}

// find says whom to ask: the flags, else this machine's mms.cfg, else DNS, else the configuration.
func (a *app) find(ctx context.Context, o *options) (sources, error) {
	s := sources{servers: o.servers, turn: o.turn, rtmfp: o.rtmfp, from: "--server", mms: a.machine.mms()}
	if len(s.servers) == 0 && s.turn != "" {
		s.servers, s.from = []string{bare(s.turn)}, "--turn"
	}
	if s.turn == "" {
		s.turn = s.mms.proxy
	}
	if len(s.servers) == 0 && s.mms.proxy != "" {
		s.servers, s.from = []string{s.mms.proxy}, "RTMFPTURNProxy in "+s.mms.path
	}
	if len(s.servers) == 0 {
		var turn string
		s.servers, turn = a.fromDNS(ctx)
		s.from = "DNS (SRV records _stun._udp and _turn._udp)"
		if s.turn == "" {
			s.turn = turn
		}
	}
	conf, path, err := a.configuration(o.config)
	if err != nil {
		return s, usage{err}
	}
	if len(s.servers) == 0 {
		s.servers, s.from = conf.Servers, path
		if len(s.servers) == 0 && conf.Turn != "" {
			s.servers = []string{bare(conf.Turn)}
		}
	}
	if s.turn == "" {
		s.turn = conf.Turn
	}
	if s.rtmfp == "" {
		s.rtmfp = conf.RTMFP
	}
	if len(s.servers) == 0 {
		return s, usage{errors.New("no server to ask: neither a flag, nor mms.cfg, nor DNS, nor a configuration names one.\n\n" +
			"  natprobe --server stun.example.net\n\n" +
			"Every STUN server will do; one with two addresses (`stile serve` with stun.alternate) tells most")}
	}
	if s.turn == "" {
		s.turn = s.servers[0]
	}
	if s.rtmfp == "" {
		s.rtmfp, s.guessed = bare(s.turn), true
		if host, _, err := net.SplitHostPort(s.rtmfp); err == nil {
			s.rtmfp = host
		}
	}
	return s, nil
}

// bare is the host:port of a TURN URI.
func bare(uri string) string {
	rest := uri
	if at := strings.IndexByte(rest, ':'); at > 0 && strings.EqualFold(rest[:at], "turn") {
		rest = rest[at+1:]
	}
	rest, _, _ = strings.Cut(rest, "?")
	return rest
}

// fromDNS looks for SRV records (RFC 8489 §8.1, RFC 5766 §6.1) in the domains of this machine.
func (a *app) fromDNS(ctx context.Context) (servers []string, turn string) {
	ctx, cancel := context.WithTimeout(ctx, srvTime)
	defer cancel()
	list := a.machine.domains()
	found := make([][2]string, len(list))
	var wait sync.WaitGroup
	for i, domain := range list {
		for j, service := range []string{"stun", "turn"} {
			wait.Go(func() {
				_, records, err := a.machine.lookupSRV(ctx, service, "udp", domain)
				if err == nil && len(records) > 0 && records[0].Target != "." {
					found[i][j] = net.JoinHostPort(strings.TrimSuffix(records[0].Target, "."), strconv.Itoa(int(records[0].Port)))
				}
			})
		}
	}
	wait.Wait()
	for _, f := range found {
		for j, at := range f {
			if at == "" {
				continue
			}
			if len(servers) == 0 || servers[len(servers)-1] != at {
				servers = append(servers, at)
			}
			if j == 1 && turn == "" {
				turn = at
			}
		}
	}
	return servers, turn
}

// configuration reads the file that --config or NATPROBE_CONFIG names, else natprobe.yaml of the user, else of the system.
func (a *app) configuration(path string) (config.Probe, string, error) {
	if path == "" {
		path = a.env("NATPROBE_CONFIG")
	}
	if path != "" {
		c, err := config.LoadProbe(path)
		return c, path, err
	}
	for _, path := range a.machine.configs {
		c, err := config.LoadProbe(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return c, path, err
	}
	return config.Probe{}, "", nil
}

func (a *app) env(name string) string {
	for _, v := range a.environ {
		if value, ok := strings.CutPrefix(v, name+"="); ok {
			return value
		}
	}
	return ""
}

// line is the mms.cfg line for a proxy, or an example if there is none.
func line(proxy string) string {
	if l, err := mmscfg.Line(bare(proxy)); err == nil && proxy != "" {
		return l
	}
	l, _ := mmscfg.Line("turn.example.net")
	return l
}
