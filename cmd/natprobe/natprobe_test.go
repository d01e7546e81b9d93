package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stilenet/stile/internal/mmscfg"
	"github.com/stilenet/stile/nattest"
	"github.com/stilenet/stile/nattest/natlab"
	"github.com/stilenet/stile/rtmfp"
	"github.com/stilenet/stile/rtmfp/flash"
	"github.com/stilenet/stile/stun"
)

// desk is a host of the laboratory on which commands run.
type desk struct {
	host *natlab.Host
	mms  string // content of mms.cfg; empty: there is none
	srv  map[string]string
	env  []string
}

func (d *desk) app(out, errs *bytes.Buffer) *app {
	return &app{out: out, err: errs, in: strings.NewReader(""), environ: d.env, machine: machine{
		goos: "linux", listenPacket: d.host.ListenPacket, dialContext: d.host.DialContext, lookupNetIP: d.host.LookupNetIP, localAddrs: d.host.Addrs,
		lookupSRV: func(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
			target, ok := d.srv[service]
			if !ok {
				return "", nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
			}
			return "", []*net.SRV{{Target: target + ".", Port: 3478}}, nil
		},
		domains: func() []string { return []string{"example.net"} },
		readMMS: func() (*mmscfg.File, mmscfg.Location, error) {
			if d.mms == "" {
				return nil, mmscfg.Location{}, fs.ErrNotExist
			}
			f, err := mmscfg.Parse([]byte(d.mms))
			return f, mmscfg.Location{Path: "/etc/adobe/mms.cfg"}, err
		},
	}}
}

// run runs a command as a shell would; stderr is to stay empty unless the command line is wrong.
func (d *desk) run(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return d.runFor(t, context.Background(), args...)
}

func (d *desk) runFor(t *testing.T, ctx context.Context, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(ctx, args, d.app(&out, &errs))
	if (code == exitUsage) != (errs.Len() > 0) {
		t.Errorf("natprobe %q: code %d, stderr %q", args, code, &errs)
	}
	return out.String(), errs.String(), code
}

// newDesk makes an internet with a STUN server on two addresses, called server, and a desk behind a box.
func newDesk(t *testing.T, n *natlab.Net, box natlab.BoxConfig) *desk {
	t.Helper()
	d := stun.Discovery{Addrs: [2]netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2")}, Ports: [2]uint16{3478, 3479}}
	server := n.Internet().Host("server", "198.51.100.1", "198.51.100.2")
	conns := make(map[stun.Corner]*natlab.UDPConn)
	for i := range 4 {
		c := stun.Corner{Addr: uint8(i / 2), Port: uint8(i % 2)}
		conn, err := server.ListenUDP(context.Background(), "udp", d.At(c).String())
		if err != nil {
			t.Fatal(err)
		}
		conns[c] = conn
	}
	for c, conn := range conns {
		go func() {
			b := make([]byte, 4096)
			for {
				k, from, err := conn.ReadFromUDPAddrPort(b)
				if err != nil {
					return
				}
				if m, err := stun.Parse(b[:k]); err == nil {
					if out, corner, to := d.Respond(nil, m, c, from); len(out) > 0 {
						conns[corner].WriteToUDPAddrPort(out, to)
					}
				}
			}
		}()
	}
	inside := "192.168.1.2"
	if box.NAT == nil {
		inside = "203.0.113.101"
	} else {
		box.Outside = []string{"203.0.113.1"}
	}
	x := n.Internet().Box("box", box)
	x.Outside().Set(natlab.LinkConfig{Delay: 50 * time.Millisecond})
	return &desk{host: x.Inside().Host("desk", inside)}
}

func box(m natlab.Mapping, f natlab.Filtering) natlab.BoxConfig {
	return natlab.BoxConfig{NAT: &natlab.NATConfig{Mapping: m, Filtering: f, Ports: natlab.PortConfig{Order: natlab.Random}}}
}

var (
	home    = box(natlab.EIM, natlab.APDF)
	office  = box(natlab.APDM, natlab.APDF)
	blocked = natlab.BoxConfig{NAT: &natlab.NATConfig{}, Firewall: &natlab.FirewallConfig{UDP: natlab.Rule{Block: natlab.Drop}}}
)

func TestProbeSaysItInPlainWords(t *testing.T) {
	for name, tc := range map[string]struct {
		box  natlab.BoxConfig
		code int
		says []string
	}{
		"home": {home, exitCone, []string{"peers in most homes", "one outside port", "answers only", "symmetric NAT (many offices and mobile networks): direct with a birthday", "203.0.113.1",
			"RTMFPTURNProxy=turn.example.net", "no answer", "not tested", "as named by --server"}},
		"office":  {office, exitSymmetric, []string{"most homes and offices a relay is needed", "yes, symmetric", "endpoint-independent mapping"}},
		"open":    {natlab.BoxConfig{}, exitCone, []string{"no relay is needed", "none: packets from anybody arrive"}},
		"blocked": {blocked, exitUnknown, []string{"nothing answered", "see whether this machine is online"}},
	} {
		t.Run(name, func(t *testing.T) {
			natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
				start := time.Now()
				out, _, code := newDesk(t, n, tc.box).run(t, "--server", "server")
				if code != tc.code || time.Since(start) > 3*time.Second {
					t.Errorf("code %d after %v", code, time.Since(start))
				}
				flat := strings.Join(strings.Fields(out), " ")
				for _, want := range tc.says {
					if !strings.Contains(flat, want) {
						t.Errorf("%q is missing in\n%s", want, out)
					}
				}
				for _, l := range strings.Split(out, "\n") {
					if len([]rune(l)) > lineWidth {
						t.Errorf("a line of %d columns: %s", len(l), l)
					}
				}
			})
		})
	}
}

func TestServersComeFromFlagsThenMMSThenDNSThenTheConfiguration(t *testing.T) {
	file := filepath.Join(t.TempDir(), "natprobe.yaml")
	if err := os.WriteFile(file, []byte("servers: [server]\nturn: turn:server:3479\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	all := desk{mms: "RTMFPTURNProxy=server\n", srv: map[string]string{"stun": "server", "turn": "server"}, env: []string{"NATPROBE_CONFIG=" + file}}
	for _, tc := range []struct {
		name string
		desk desk
		args []string
		from string
		turn string
	}{
		{"flag", all, []string{"--server", "198.51.100.1"}, "--server", "server:3478"},
		{"turn flag", all, []string{"--turn", "turn:198.51.100.1:3478?transport=udp"}, "--turn", "turn:198.51.100.1:3478?transport=udp"},
		{"mms.cfg", all, nil, "RTMFPTURNProxy in /etc/adobe/mms.cfg", "server:3478"},
		{"DNS", desk{srv: all.srv, env: all.env}, nil, "DNS (SRV records _stun._udp and _turn._udp)", "server:3478"},
		{"configuration", desk{env: all.env}, nil, file, "turn:server:3479"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
				d := tc.desk
				d.host = newDesk(t, n, home).host
				out, _, code := d.run(t, append(tc.args, "--json")...)
				var r result
				if err := json.Unmarshal([]byte(out), &r); err != nil || code != exitCone {
					t.Fatalf("code %d, %v: %s", code, err, out)
				}
				if r.ServersFrom != tc.from || r.Proxy.Server != tc.turn {
					t.Errorf("from %q, TURN %q; want %q, %q", r.ServersFrom, r.Proxy.Server, tc.from, tc.turn)
				}
			})
		})
	}
}

func TestMistakesExitWith64AndSayTheRemedy(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	os.WriteFile(bad, []byte("server: x\n"), 0o600)
	report := filepath.Join(t.TempDir(), "r.json")
	os.WriteFile(report, []byte("{}"), 0o600)
	for _, tc := range []struct {
		args []string
		says string
	}{
		{nil, "natprobe --server stun.example.net"},
		{[]string{"--sever", "x"}, "--help"},
		{[]string{"stun.example.net"}, `what is "stun.example.net"`},
		{[]string{"--config", bad}, "servers (a list), turn and rtmfp"},
		{[]string{"--config", filepath.Join(t.TempDir(), "none")}, "none"},
		{[]string{"--server", "x", "--quota", "5000"}, "1024"},
		{[]string{"--server", "x", "--lifetime", "3s"}, "10s"},
		{[]string{"--server", "x", "--watch", "--quota", "100"}, "--watch"},
		{[]string{"--server", "a", "--server", "b", "--server", "c", "--server", "d", "--server", "e"}, "at most 4"},
		{[]string{"pair", "one.json"}, "two files"},
		{[]string{"pair", report, report}, "another version"},
		{[]string{"pair", "/nonexistent", report}, "no such file"},
		{[]string{"relay"}, "TURN-URI"},
		{[]string{"relay", "turns:example.net"}, "TLS"},
		{[]string{"relay", "turn:x", "--rate", "0"}, "--rate"},
	} {
		natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
			_, stderr, code := newDesk(t, n, home).run(t, tc.args...)
			if code != exitUsage || !strings.Contains(stderr, tc.says) {
				t.Errorf("natprobe %q: code %d, %q is missing in %q", tc.args, code, tc.says, stderr)
			}
		})
	}
}

func TestJSONIsAReportWithTheContract(t *testing.T) {
	natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
		out, _, _ := newDesk(t, n, office).run(t, "--server", "server", "--json", "--quiet")
		if _, err := nattest.ParseReport([]byte(out)); err != nil {
			t.Error(err)
		}
		var m map[string]any
		if err := json.Unmarshal([]byte(out), &m); err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"version", "verdict", "findings", "observations", "program", "at", "servers", "servers_from", "summary", "peers", "proxy", "rendezvous", "mms_cfg", "advice", "exit_code"} {
			if _, ok := m[key]; !ok {
				t.Errorf("no %s", key)
			}
		}
		v := m["verdict"].(map[string]any)
		if v["mapping"] != "APDM" || v["filtering"] != "APDF" || v["relay"] != "sometimes" || v["confidence"].(float64) < 0.999 {
			t.Errorf("verdict %v", v)
		}
	})
}

func TestQuietPrintsNothing(t *testing.T) {
	natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
		if out, _, code := newDesk(t, n, office).run(t, "--server", "server", "--quiet"); out != "" || code != exitSymmetric {
			t.Errorf("code %d, %q", code, out)
		}
	})
}

func TestPageStandsAloneAndPairReadsIt(t *testing.T) {
	natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
		dir := t.TempDir()
		file := filepath.Join(dir, "page.html")
		out, _, _ := newDesk(t, n, home).run(t, "--server", "server", "--html", file)
		if !strings.Contains(out, file) {
			t.Errorf("the output does not name the page: %s", out)
		}
		page, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if refs := regexp.MustCompile(`(?i)(src|href)\s*=|@import|url\((?:[^#])|https?://`).FindAllString(strings.ReplaceAll(string(page), `xmlns="http://www.w3.org/2000/svg"`, ""), -1); len(refs) > 0 {
			t.Errorf("references: %q", refs)
		}
		if strings.Count(string(page), "<svg") != 2 || strings.Contains(string(page), "ZgotmplZ") {
			t.Error("a picture is missing, or a value is not what the template takes")
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
			t.Errorf("left behind: %v", left)
		}
		out, _, code := newDesk2(t, n).run(t, "pair", file, file)
		if code != exitTechnique || !strings.Contains(out, "private addresses") { // both are seen with one address
			t.Errorf("code %d: %s", code, out)
		}
	})
}

// newDesk2 is a desk without a network, for commands that need none.
func newDesk2(t *testing.T, n *natlab.Net) *desk {
	t.Helper()
	return &desk{host: n.Internet().Host("idle", "203.0.113.200")}
}

func TestPageEscapesWhatOthersSay(t *testing.T) {
	const evil = `</script><script>alert(1)</script>"'><img src=x>`
	r := &result{Summary: evil, ServersFrom: evil, Program: evil, Proxy: proxyResult{Server: evil, UDP: transport{State: stateRefuses, Error: evil}},
		Advice: []advice{{"x", evil, evil, evil}}, Rendezvous: serviceState{Server: evil, State: stateSilent, Error: evil}}
	r.Findings = []nattest.Finding{{Code: evil, Text: evil}}
	r.Observations.Servers = []nattest.ServerSeen{{Name: evil}}
	r.Observations.Probes = []nattest.Observation{{Name: evil, Role: nattest.RoleMapping, Sent: 1}}
	r.Verdict.Judgements = []nattest.Judgement{{About: evil, Value: evil, Evidence: []string{evil}}}
	r.Peers = predictPeers(r.Verdict)
	page, err := r.page()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(page), "<img") || strings.Contains(string(page), "<script>") || strings.Count(string(page), "</script>") != 1 {
		t.Errorf("not escaped:\n%s", page)
	}
}

func TestPairExitCodes(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, v nattest.Verdict) string {
		b, err := json.Marshal(nattest.Report{Version: nattest.Version, Verdict: v})
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		os.WriteFile(path, b, 0o600)
		return path
	}
	cone, strict := write("cone", classOfPeer(nattest.EIM, nattest.APDF)), write("strict", classOfPeer(nattest.APDM, nattest.APDF))
	unknown := write("unknown", nattest.Verdict{})
	natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
		d := newDesk2(t, n)
		for _, tc := range []struct {
			a, b string
			code int
			says string
		}{
			{cone, cone, exitDirect, "They connect directly."},
			{cone, strict, exitTechnique, "birthday"},
			{strict, strict, exitRelay, "They need a relay."},
			{unknown, strict, exitUnknown, "leaves it open"},
		} {
			out, _, code := d.run(t, "pair", tc.a, tc.b)
			if code != tc.code || !strings.Contains(out, tc.says) {
				t.Errorf("%s and %s: code %d: %s", tc.a, tc.b, code, out)
			}
			if out, _, code := d.run(t, "pair", tc.a, tc.b, "--json"); code != tc.code || !json.Valid([]byte(out)) {
				t.Errorf("JSON: code %d: %s", code, out)
			}
		}
	})
}

func TestWatchSaysOnlyWhatChanges(t *testing.T) {
	natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
		d := newDesk(t, n, home)
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		time.AfterFunc(time.Minute, func() { d.host.Link().Cut() })
		out, _, code := d.runFor(t, ctx, "--server", "server", "--watch")
		lines := strings.Split(strings.TrimSpace(out), "\n")
		if len(lines) != 2 || !strings.Contains(lines[0], "mapping EIM") || !strings.Contains(lines[1], "mapping unknown") || code != exitUnknown {
			t.Errorf("code %d:\n%s", code, out)
		}
	})
}

func TestMMSFileIsReadAndExplained(t *testing.T) {
	natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
		d := newDesk(t, n, home)
		d.mms = "RTMFPTURNProxy=server\nRTMFPP2PDisable=1\n"
		out, _, _ := d.run(t)
		for _, want := range []string{"RTMFPP2PDisable=0", "gives no allocation", "RTMFPTURNProxy=turn.example.net"} {
			if !strings.Contains(out, want) {
				t.Errorf("%q is missing in\n%s", want, out)
			}
		}
	})
}

// rendezvous runs an RTMFP endpoint on a host.
func rendezvous(t *testing.T, h *natlab.Host, answer bool) {
	t.Helper()
	conn, err := h.ListenUDP(context.Background(), "udp", ":1935")
	if err != nil {
		t.Fatal(err)
	}
	id, err := flash.NewIdentity(flash.IdentityConfig{Random: bytes.NewReader(make([]byte, 4096)), Server: true})
	if err != nil {
		t.Fatal(err)
	}
	e, err := rtmfp.New(time.Now(), rtmfp.Config{Identity: id, Random: bytes.NewReader(make([]byte, 4096))})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		b := make([]byte, 2048)
		for {
			k, from, err := conn.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			if !answer {
				conn.WriteToUDPAddrPort([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"), from)
				continue
			}
			e.Receive(time.Now(), 0, from, b[:k])
			for _, d := range e.Flush(time.Now()) {
				conn.WriteToUDPAddrPort(d.Data, d.To)
			}
		}
	}()
}

func TestRendezvousIsTriedByAHandshake(t *testing.T) {
	for name, tc := range map[string]struct {
		answer bool
		server string
		state  string
	}{
		"answers":           {true, "meet", stateAnswers},
		"URI":               {true, "rtmfp://meet:1935/key", stateAnswers},
		"something else":    {false, "meet", stateRefuses},
		"silent":            {true, "meet:1936", stateSilent},
		"name without host": {true, "nobody", stateSilent},
		// Nobody names one: the proxy's host may have one, and is not accused if it has none.
		"beside the proxy": {true, "", stateAnswers},
		"something beside": {false, "", stateNotTested},
	} {
		t.Run(name, func(t *testing.T) {
			natlab.Run(t, 1, func(t *testing.T, n *natlab.Net) {
				d := newDesk(t, n, home)
				meet := n.Internet().Host("meet", "203.0.113.9")
				meet.SetQuiet(true)
				rendezvous(t, meet, tc.answer)
				args := []string{"--server", "server", "--json"}
				if tc.server != "" {
					args = append(args, "--rtmfp", tc.server)
				} else {
					args = append(args, "--turn", "meet")
				}
				out, _, _ := d.run(t, args...)
				var r result
				if err := json.Unmarshal([]byte(out), &r); err != nil || r.Rendezvous.State != tc.state {
					t.Errorf("%v: %+v", err, r.Rendezvous)
				}
			})
		})
	}
}

func TestConfigurationIsStrict(t *testing.T) {
	if _, _, err := (&app{}).configuration(filepath.Join(t.TempDir(), "none.yaml")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
