//go:build interop

package transport_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stilenet/stile/rtmfp"
	"github.com/stilenet/stile/rtmfp/flash"
	"github.com/stilenet/stile/rtmfp/transport"
)

// The programs of zenomt/rtmfp-cpp, built elsewhere: scripts/interop-rtmfp names their directory.
func program(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("STILE_RTMFP_CPP")
	if dir == "" {
		t.Fatal("STILE_RTMFP_CPP is not set: run ./scripts/interop-rtmfp DIR")
	}
	return filepath.Join(dir, name)
}

// process is one of their programs with what it says.
type process struct {
	t    *testing.T
	name string
	cmd  *exec.Cmd
	mu   sync.Mutex
	out  bytes.Buffer
}

func run(t *testing.T, name string, args ...string) *process {
	t.Helper()
	p := &process{t: t, name: name, cmd: exec.Command("stdbuf", append([]string{"-oL", program(t, name)}, args...)...)}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stderr = p.cmd.Stdout
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for s := bufio.NewScanner(out); s.Scan(); {
			p.mu.Lock()
			p.out.WriteString(s.Text() + "\n")
			p.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-read
		_ = p.cmd.Wait()
		if t.Failed() {
			t.Logf("%s %q said:\n%s", name, args, tail(p.said()))
		}
	})
	return p
}

func tail(s string) string { return s[max(0, len(s)-4000):] }

func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

func (p *process) wait(what string) string {
	p.t.Helper()
	until(p.t, p.name+" does not say "+what, func() bool { return strings.Contains(p.said(), what) })
	return p.said()
}

// listening waits until a program has its port.
func listening(t *testing.T, at netip.AddrPort) {
	t.Helper()
	until(t, "nobody listens on "+at.String(), func() bool {
		c, err := net.ListenPacket("udp", at.String())
		if err != nil {
			return true
		}
		_ = c.Close()
		return false
	})
}

// freePort is a UDP port that nobody has.
func freePort(t *testing.T, host string) netip.AddrPort {
	t.Helper()
	c, err := net.ListenPacket("udp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

func udp(t *testing.T, host string) transport.Interface {
	t.Helper()
	c, err := net.ListenPacket("udp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	return transport.Interface{Conn: c}
}

func identityOf(t *testing.T, cfg flash.IdentityConfig) *flash.Identity {
	t.Helper()
	cfg.Random = rand.Reader
	id, err := flash.NewIdentity(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (x *end) open(t *testing.T, epd []byte, to netip.AddrPort) {
	t.Helper()
	x.do(t, func(now time.Time, e *rtmfp.Endpoint) {
		if _, err := e.Open(now, epd, rtmfp.Candidate{Interface: rtmfp.AnyInterface, Addr: to}); err != nil {
			t.Error(err)
		}
	})
	until(t, "no session", func() bool { return x.opened.Load() == 1 })
}

// Messages of all sizes come back from the echo server on a return flow, under every kind of keys and verification, also when the
// client moves to another port meanwhile.
func TestInteropEchoServer(t *testing.T) {
	for _, test := range []struct {
		name     string
		identity flash.IdentityConfig
		server   []string
		host     string
		move     bool
	}{
		{"static keys", flash.IdentityConfig{}, nil, "127.0.0.1", false},
		{"static key of group 14", flash.IdentityConfig{Groups: []flash.Group{flash.Group14}}, nil, "127.0.0.1", false},
		{"ephemeral keys", flash.IdentityConfig{Ephemeral: true}, nil, "127.0.0.1", false},
		{"ephemeral keys of group 16", flash.IdentityConfig{Ephemeral: true, Groups: []flash.Group{flash.Group16}}, nil, "127.0.0.1", false},
		{"nothing required", flash.IdentityConfig{}, []string{"-H", "-S"}, "127.0.0.1", false},
		{"checksum", flash.IdentityConfig{HMAC: flash.VerificationOff, SequenceNumbers: flash.VerificationOff}, []string{"-H", "-S"}, "127.0.0.1", false},
		{"required here", flash.IdentityConfig{HMAC: flash.VerificationRequire, SequenceNumbers: flash.VerificationRequire}, []string{"-H", "-S"}, "127.0.0.1", false},
		{"IPv6", flash.IdentityConfig{}, nil, "::1", false},
		{"client that moves", flash.IdentityConfig{}, nil, "127.0.0.1", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			at := freePort(t, test.host)
			run(t, "echoserver", append([]string{"-B", at.String(), "-v"}, test.server...)...)
			listening(t, at)
			client := &echoClient{end: &end{ended: make(chan error, 1)}}
			client.serve(t, identityOf(t, test.identity), udp(t, test.host))
			defer client.stop(t)
			client.open(t, flash.AppendEPD(nil, flash.EPD{Hostname: []byte("echo")}), at)
			const count = 60
			client.do(t, func(now time.Time, e *rtmfp.Endpoint) {
				f, err := client.session.OpenFlow(now, rtmfp.FlowConfig{Metadata: []byte("interop")})
				if err != nil {
					t.Fatal(err)
				}
				for n := range count {
					if _, err := f.Write(now, echoBody(n), rtmfp.WriteOptions{}); err != nil {
						t.Error(err)
					}
				}
				client.flow = f
			})
			if test.move {
				until(t, "no echo", func() bool { return client.messages.Load() > 3 })
				if _, err := client.AddInterface(context.Background(), udp(t, test.host)); err != nil {
					t.Fatal(err)
				}
				if err := client.RemoveInterface(context.Background(), 0); err != nil {
					t.Fatal(err)
				}
			}
			until(t, "echoes are missing", func() bool { return client.messages.Load() == count })
			client.do(t, func(now time.Time, e *rtmfp.Endpoint) {
				if client.wrong != "" {
					t.Error(client.wrong)
				}
				client.flow.Close(now)
			})
			until(t, "the return flow does not end", func() bool { return client.complete.Load() == 1 })
		})
	}
}

func echoBody(n int) []byte { return bytes.Repeat([]byte{byte(n)}, n*n*n/3) }

// echoClient compares echoes.
type echoClient struct {
	*end
	flow  *rtmfp.SendFlow
	next  int
	wrong string
}

func (x *echoClient) serve(t *testing.T, id *flash.Identity, i transport.Interface) {
	t.Helper()
	tr, err := transport.New(transport.Config{
		Endpoint: rtmfp.Config{Identity: id, Random: rand.Reader}, Interfaces: []transport.Interface{i},
		Handle: func(now time.Time, _ *rtmfp.Endpoint, ev rtmfp.Event) {
			x.count(ev)
			switch ev.Kind {
			case rtmfp.EventFlowOpen:
				if a := ev.Receive.Association(); a != x.flow || string(ev.Receive.Metadata()) != "interop return" {
					x.wrong = fmt.Sprintf("return flow %q to %p, want %p", ev.Receive.Metadata(), a, x.flow)
				}
			case rtmfp.EventMessage:
				if !bytes.Equal(ev.Data, echoBody(x.next)) {
					x.wrong = fmt.Sprintf("message %d of %d bytes", x.next, len(ev.Data))
				}
				x.next++
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	x.Transport = tr
	var ctx context.Context
	ctx, x.cancel = context.WithCancel(context.Background())
	go func() { x.ended <- tr.Serve(ctx) }()
}

// tcEnd is an end that speaks RFC 7425 §5 as a client, with all commands that it has received.
type tcEnd struct {
	*end
	id       *flash.Identity
	control  *rtmfp.SendFlow
	sessions map[flash.PeerID]*rtmfp.Session
	mu       sync.Mutex
	commands []flash.Command
	controls []flash.UserControl
	bytes    int
	flows    []string
}

func startTC(t *testing.T, cfg flash.IdentityConfig, host string) *tcEnd {
	t.Helper()
	x := &tcEnd{end: &end{ended: make(chan error, 1)}, id: identityOf(t, cfg), sessions: make(map[flash.PeerID]*rtmfp.Session)}
	tr, err := transport.New(transport.Config{
		Endpoint: rtmfp.Config{Identity: x.id, Random: rand.Reader, Keepalive: 10 * time.Second}, Interfaces: []transport.Interface{udp(t, host)},
		Handle: x.handle,
	})
	if err != nil {
		t.Fatal(err)
	}
	x.Transport = tr
	var ctx context.Context
	ctx, x.cancel = context.WithCancel(context.Background())
	go func() { x.ended <- tr.Serve(ctx) }()
	return x
}

func (x *tcEnd) handle(now time.Time, e *rtmfp.Endpoint, ev rtmfp.Event) {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch ev.Kind {
	case rtmfp.EventSessionOpen:
		id, _ := flash.PeerIDOf(ev.Session.FarIdentity())
		x.sessions[id] = ev.Session
	case rtmfp.EventFlowOpen:
		x.flows = append(x.flows, string(ev.Receive.Metadata()))
	case rtmfp.EventMessage:
		x.bytes += len(ev.Data)
		m, err := flash.ParseMessage(ev.Data)
		if err != nil {
			break
		}
		if c, err := flash.ParseCommand(m); err == nil {
			x.commands = append(x.commands, c)
		}
		if c, err := flash.ParseUserControl(m); err == nil {
			x.controls = append(x.controls, c)
		}
	}
	x.count(ev)
}

// connect connects to a TC server, and tells it addresses.
func (x *tcEnd) connect(t *testing.T, uri string, at netip.AddrPort, addrs ...netip.AddrPort) {
	t.Helper()
	x.open(t, flash.ServerEPD(uri), at)
	x.do(t, func(now time.Time, e *rtmfp.Endpoint) {
		f, err := x.session.OpenFlow(now, rtmfp.FlowConfig{Metadata: flash.AppendFlowMetadata(nil, flash.FlowMetadata{})})
		if err != nil {
			t.Fatal(err)
		}
		x.control = f
		x.send(t, now, flash.ConnectCommand(flash.ConnectInfo{App: "live", TCURL: uri, FlashVersion: "WIN 11,9,900,117"}))
	})
	result := x.command(t, flash.CommandResult)
	if o, ok := result.Argument(0).(*flash.Object); !ok || o.Text("code") != flash.NetConnectionConnectSuccess {
		t.Fatalf("%+v", result)
	}
	x.do(t, func(now time.Time, e *rtmfp.Endpoint) { x.send(t, now, flash.SetPeerInfo(addrs)) })
}

func (x *tcEnd) send(t *testing.T, now time.Time, c flash.Command) {
	b, err := flash.AppendCommand(nil, flash.AMF0, c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.control.Write(now, b, rtmfp.WriteOptions{}); err != nil {
		t.Error(err)
	}
}

// command waits for one with the name.
func (x *tcEnd) command(t *testing.T, name string) (found flash.Command) {
	t.Helper()
	until(t, "no "+name, func() bool {
		x.mu.Lock()
		defer x.mu.Unlock()
		for _, c := range x.commands {
			if c.Name == name {
				found = c
				return true
			}
		}
		return false
	})
	return found
}

// Two of our endpoints connect to tcserver in every way that it has, are introduced to each other by it, and tcserver's own client
// is introduced to one of them.
func TestInteropTCServer(t *testing.T) {
	for _, test := range []struct {
		name     string
		identity flash.IdentityConfig
		server   []string
		client   []string
	}{
		{"as it is", flash.IdentityConfig{}, nil, nil},
		{"nothing required", flash.IdentityConfig{}, []string{"-H", "-S"}, []string{"-H", "-S"}},
		{"checksum", flash.IdentityConfig{HMAC: flash.VerificationOff, SequenceNumbers: flash.VerificationOff}, []string{"-H", "-S"}, []string{"-H", "-S"}},
		{"its keys static", flash.IdentityConfig{}, []string{"-x"}, nil},
		{"our keys ephemeral", flash.IdentityConfig{Ephemeral: true}, nil, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			at := freePort(t, "127.0.0.1")
			server := run(t, "tcserver", append([]string{"-B", at.String(), "-v", "-v"}, test.server...)...)
			listening(t, at)
			uri := "rtmfp://" + at.String() + "/live"
			a, b := startTC(t, test.identity, "127.0.0.1"), startTC(t, test.identity, "127.0.0.1")
			defer a.stop(t)
			defer b.stop(t)
			a.connect(t, uri, at)
			b.connect(t, uri, at)
			server.wait(a.id.PeerID().String())
			// setPeerInfo has arrived when something later is answered.
			for _, x := range []*tcEnd{a, b} {
				x.do(t, func(now time.Time, e *rtmfp.Endpoint) {
					x.commands = nil
					x.send(t, now, flash.Command{Name: flash.CommandCreateStream, Transaction: 2})
				})
				x.command(t, flash.CommandResult)
			}
			b.do(t, func(now time.Time, e *rtmfp.Endpoint) {
				if _, err := e.Open(now, a.id.PeerID().EPD(), rtmfp.Candidate{Interface: rtmfp.AnyInterface, Addr: at}); err != nil {
					t.Error(err)
				}
			})
			until(t, "no introduction", func() bool { return a.opened.Load() == 2 && b.opened.Load() == 2 })
			client := run(t, "fcclient", append(append([]string{"-4", "-v", "-X", "-f", a.id.PeerID().String()}, test.client...), at.Addr().String(), fmt.Sprint(at.Port()))...)
			until(t, "fcclient is not introduced", func() bool { return a.opened.Load() == 3 })
			client.wait("my fingerprint")
		})
	}
}

// tcconn, which answers introductions itself, is introduced to us by tcserver.
func TestInteropTCConn(t *testing.T) {
	at := freePort(t, "127.0.0.1")
	run(t, "tcserver", "-B", at.String(), "-v", "-v")
	listening(t, at)
	uri := "rtmfp://" + at.String() + "/live"
	far := run(t, "tcconn", "-4", "-v", "-v", uri+"#cam")
	words := strings.Fields(far.wait("my fingerprint"))
	far.wait("NetConnection.Connect.Success")
	var id flash.PeerID
	for _, w := range words {
		if p, err := flash.ParsePeerID(w); err == nil { // it prints nonces later
			id = p
			break
		}
	}
	a := startTC(t, flash.IdentityConfig{}, "127.0.0.1")
	defer a.stop(t)
	a.connect(t, uri, at)
	a.do(t, func(now time.Time, e *rtmfp.Endpoint) {
		if _, err := e.Open(now, id.EPD(), rtmfp.Candidate{Interface: rtmfp.AnyInterface, Addr: at}); err != nil {
			t.Error(err)
		}
	})
	until(t, "no introduction", func() bool { return a.opened.Load() == 2 })
	a.do(t, func(now time.Time, e *rtmfp.Endpoint) {
		if a.sessions[id] == nil {
			t.Error("another peer")
		}
	})
}

// A server that has registered with the redirector is found by its hostname.
func TestInteropRedirector(t *testing.T) {
	redirector, echo := freePort(t, "127.0.0.1"), freePort(t, "127.0.0.1")
	run(t, "redirector", "-B", redirector.String(), "-n", "redirector", "-l", "user:pass", "-v", "-v")
	listening(t, redirector)
	server := run(t, "echoserver", "-B", echo.String(), "-n", "echo", "-l", "user:pass", "-L", "redirector@"+redirector.String(), "-v")
	listening(t, echo)
	_ = server
	a := startTC(t, flash.IdentityConfig{}, "127.0.0.1")
	defer a.stop(t)
	a.open(t, flash.ServerEPD("rtmfp://echo/"), redirector)
	a.do(t, func(now time.Time, e *rtmfp.Endpoint) {
		if _, addr := a.session.FarAddress(); addr != echo {
			t.Errorf("at %v, want %v", addr, echo)
		}
	})
	static := freePort(t, "127.0.0.1")
	run(t, "static-redirector", "-B", static.String(), echo.String())
	listening(t, static)
	b := startTC(t, flash.IdentityConfig{}, "127.0.0.1")
	defer b.stop(t)
	b.open(t, flash.AppendEPD(nil, flash.EPD{Hostname: []byte("echo")}), static)
}

// The connectivity checker's packets from other ports and addresses, and its introduction, are answered as it expects.
func TestInteropConnCheck(t *testing.T) {
	at := freePort(t, "127.0.0.1")
	port, a, i := freePort(t, "127.0.0.1"), freePort(t, "127.0.0.2"), freePort(t, "127.0.0.3")
	run(t, "conncheck", "-B", at.String(), "-p", fmt.Sprint(port.Port()), "-a", a.String(), "-i", i.String(), "-v")
	listening(t, at)
	x := startTC(t, flash.IdentityConfig{}, "127.0.0.1")
	defer x.stop(t)
	x.connect(t, "rtmfp://"+at.String()+"/cc", at, netip.MustParseAddrPort("192.0.2.1:1234"))
	status := x.command(t, flash.CommandOnStatus)
	o, ok := status.Argument(0).(*flash.Object)
	if !ok || o.Text("code") != "NetConnection.ConnectivityCheck.Results" {
		t.Fatalf("%+v", status)
	}
	for name, want := range map[string]any{
		"publicAddressIsLocal": false, "publicPortMatchesLocalPort": false, "receiveSameAddressDifferentPortAllowed": true,
		"receiveDifferentAddressDifferentPortAllowed": true, "sendAfterIntroductionAllowed": true,
		"sendAfterIntroductionPreservesSourceAddress": true, "sendAfterIntroductionPreservesSourcePort": true,
	} {
		if got, _ := o.Get(name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

// rtclient sends audio and video, with priorities and deadlines, to a server of ours.
func TestInteropRTClient(t *testing.T) {
	for _, test := range []struct {
		name string
		args []string
		cfg  flash.IdentityConfig
	}{
		{"as it is", nil, flash.IdentityConfig{Server: true}},
		{"group 16", nil, flash.IdentityConfig{Server: true, Groups: []flash.Group{2, 5, 14, 16}}},
		{"nothing required", []string{"-H", "-S"}, flash.IdentityConfig{Server: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			x := startTC(t, test.cfg, "127.0.0.1")
			defer x.stop(t)
			at, err := netip.ParseAddrPort(x.LocalAddr(0).String())
			if err != nil {
				t.Fatal(err)
			}
			run(t, "rtclient", append(append([]string{"-4", "-v"}, test.args...), at.Addr().String(), fmt.Sprint(at.Port()))...)
			until(t, "no media", func() bool {
				x.mu.Lock()
				defer x.mu.Unlock()
				return x.bytes > 200_000 && len(x.flows) >= 2
			})
			x.do(t, func(now time.Time, e *rtmfp.Endpoint) {
				c := e.Counters()
				if c.Chunks != [len(c.Chunks)]uint64{} || c.Received != c.Packets[rtmfp.PacketStartup]+c.Packets[rtmfp.PacketSession] {
					t.Errorf("%+v", c)
				}
			})
		})
	}
}
