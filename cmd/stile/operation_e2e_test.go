//go:build e2e

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stilenet/stile/internal/netns"
	"github.com/stilenet/stile/stun"
	"github.com/stilenet/stile/turn"
	"github.com/stilenet/stile/turn/client"
)

// desk is a lab with a proxy and one client beside it.
type desk struct {
	proxy, client *netns.Host
	state         string
	cmd           *netns.Cmd
}

func newDesk(t *testing.T, config string, env ...string) *desk {
	lab := netns.New(t)
	d := &desk{proxy: lab.Host("proxy"), client: lab.Host("client"), state: t.TempDir()}
	lab.Link(d.proxy.At("10.0.0.1/24"), d.client.At("10.0.0.2/24"))
	d.proxy.Route("default", "10.0.0.2")
	d.write(t, config)
	d.cmd = d.proxy.Command(t.Context(), binary, "serve", "--config="+d.file(), "--state.dir="+d.state)
	d.cmd.Env = append(os.Environ(), env...)
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go d.cmd.Wait()
	d.waitLog(t, "RTMFPTURNProxy=")
	return d
}

func (d *desk) file() string { return filepath.Join(d.state, "stile.yaml") }

func (d *desk) write(t *testing.T, config string) {
	t.Helper()
	if err := os.WriteFile(d.file(), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (d *desk) waitLog(t *testing.T, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	if err := d.cmd.WaitLog(ctx, text); err != nil {
		t.Fatalf("no %q: %v\n%s", text, err, d.cmd.Log())
	}
}

// control runs a command of the administrator on the proxy's machine.
func (d *desk) control(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := d.proxy.Command(t.Context(), binary, append(args, "--config="+d.file(), "--state.dir="+d.state)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (d *desk) must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := d.control(t, args...)
	if err != nil {
		t.Fatalf("stile %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (d *desk) sessions(t *testing.T) (ids []string) {
	t.Helper()
	var list struct{ Sessions []struct{ Session string } }
	if err := json.Unmarshal([]byte(d.must(t, "sessions", "--json")), &list); err != nil {
		t.Fatal(err)
	}
	for _, s := range list.Sessions {
		ids = append(ids, s.Session)
	}
	return ids
}

func TestReloadAppliesAGoodFileAndKeepsTheOldOneOverABadOne(t *testing.T) {
	d := newDesk(t, "turn: {peers: {profile: lab}}\n")
	peer := listen(t, d.client, "10.0.0.2:5000")
	relay := dial(t, d.client, "10.0.0.1", "udp")
	tell(t, relay, "before", peer.LocalAddr())
	expect(t, peer, "before", relay.LocalAddr())

	d.write(t, "turn: {peers: {profile: lab, dney: [10.0.0.2]}}\n")
	_ = d.cmd.Process.Signal(syscall.SIGHUP)
	d.waitLog(t, "the configuration was not changed")
	if log := d.cmd.Log(); !strings.Contains(log, "dney") || !strings.Contains(log, "turn.peers.deny") {
		t.Errorf("the error names neither the key nor the one that was meant:\n%s", log)
	}
	tell(t, relay, "still", peer.LocalAddr())
	expect(t, peer, "still", relay.LocalAddr())

	d.write(t, "turn: {listen: ['udp://:3479']}\n")
	if out, err := d.control(t, "reload"); err == nil || !strings.Contains(out, "turn.listen") {
		t.Errorf("a key that needs a restart was taken: %v\n%s", err, out)
	}

	d.write(t, "turn: {peers: {profile: lab, deny: [10.0.0.2]}}\n")
	if out := d.must(t, "reload"); !strings.Contains(out, "turn.peers.deny") {
		t.Errorf("reload says %q", out)
	}
	tell(t, relay, "after", peer.LocalAddr())
	_ = peer.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if n, _, err := peer.ReadFrom(make([]byte, 100)); err == nil {
		t.Errorf("%d bytes reached a peer that is denied now", n)
	}
	if out := d.must(t, "status"); !strings.Contains(out, "denied-by-config") {
		t.Errorf("the refusal is not counted under its rule:\n%s", out)
	}
}

func TestSessionsAreListedTracedAndKilled(t *testing.T) {
	d := newDesk(t, "turn: {peers: {profile: lab}}\n")
	var transcript bytes.Buffer
	trace := d.proxy.Command(t.Context(), binary, "sessions", "trace", "--next=10.0.0.2", "--config="+d.file(), "--state.dir="+d.state)
	trace.Stdout = &transcript
	if err := trace.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond) // the command has no sign that it waits
	peer := listen(t, d.client, "10.0.0.2:5000")
	relay := dial(t, d.client, "10.0.0.1", "udp")
	tell(t, relay, "secret payload", peer.LocalAddr())
	expect(t, peer, "secret payload", relay.LocalAddr())

	ids := d.sessions(t)
	if len(ids) != 1 {
		t.Fatalf("sessions %v", ids)
	}
	if out := d.must(t, "sessions"); !strings.Contains(out, "10.0.0.2:5000") || !strings.Contains(out, "draft-08") {
		t.Errorf("the list does not show the peer and the dialect:\n%s", out)
	}
	d.must(t, "sessions", "kill", ids[0])
	if left := d.sessions(t); len(left) != 0 {
		t.Errorf("the session lives on: %v", left)
	}
	d.waitLog(t, "killed")
	if err := trace.Wait(); err != nil { // it ends with the session
		t.Error("trace:", err)
	}
	text := transcript.String()
	messages, err := turn.ParseTranscript(strings.NewReader(text)) // what a test would replay
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	var types []stun.Type
	for _, m := range messages {
		v, err := stun.Parse(m.Data)
		if err != nil || m.Out != (v.Class() == stun.Success) {
			t.Errorf("%x, from the server %t: %v", m.Data, m.Out, err)
			continue
		}
		types = append(types, v.Type())
	}
	for _, want := range []stun.Type{
		stun.NewType(stun.Allocate, stun.Request), stun.NewType(stun.Allocate, stun.Success), stun.NewType(stun.Send, stun.Indication),
	} {
		if !slices.Contains(types, want) {
			t.Errorf("no message of type %#04x in the transcript:\n%s", want, text)
		}
	}
	if !strings.Contains(text, "ended: killed") {
		t.Errorf("the transcript does not say why it ends:\n%s", text)
	}
	if strings.Contains(text, "736563726574") || strings.Contains(text, "10.0.0.") { // "secret" in hexadecimal
		t.Errorf("the transcript tells too much:\n%s", text)
	}
}

func TestDrainRefusesNewAllocationsAndEndsWithTheLastOne(t *testing.T) {
	d := newDesk(t, "turn: {peers: {profile: lab}}\nserver: {drain_timeout: 1h}\n")
	relay := dial(t, d.client, "10.0.0.1", "udp")
	d.must(t, "drain")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err := client.Dial(ctx, client.Config{Server: "10.0.0.1", Network: "udp", ListenPacket: d.client.ListenPacket})
	var refusal *client.Error
	if !errors.As(err, &refusal) || refusal.Code != 508 {
		t.Errorf("a new allocation while draining: %v, want 508", err)
	}
	if out := d.must(t, "status"); !strings.Contains(out, "draining") {
		t.Errorf("status does not say that it drains:\n%s", out)
	}
	relay.Close()
	done := make(chan error, 1)
	go func() { done <- d.cmd.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("the server ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the server lives after its last allocation")
	}
	if log := d.cmd.Log(); !strings.Contains(log, "no allocation is left") {
		t.Errorf("the log does not say why it ended:\n%s", log)
	}
}

func TestSystemdHearsReadyWatchdogAndStopping(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	d := newDesk(t, "turn: {peers: {profile: lab}}\n", "NOTIFY_SOCKET="+socket, "WATCHDOG_USEC=400000")
	hear := func(want string) {
		t.Helper()
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		buf := make([]byte, 100)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				t.Fatalf("waiting for %s: %v", want, err)
			}
			if string(buf[:n]) == want {
				return
			}
		}
	}
	hear("READY=1")
	hear("WATCHDOG=1")
	hear("WATCHDOG=1")
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	hear("STOPPING=1")
}

func TestMistakesStopTheStartWithOneClearLine(t *testing.T) {
	taken, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	takenTCP, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer takenTCP.Close()
	for name, c := range map[string]struct {
		args []string
		want []string
	}{
		"port in use":      {[]string{"--turn.listen=udp://" + taken.LocalAddr().String()}, []string{"turn.listen", "in use"}},
		"empty port range": {[]string{"--turn.relay.ports=60000-50000"}, []string{"turn.relay.ports", "60000-50000"}},
		"not our address":  {[]string{"--turn.listen=udp://192.0.2.199:3478"}, []string{"turn.listen", "192.0.2.199"}},
		"relay not ours":   {[]string{"--turn.relay.addresses=192.0.2.199"}, []string{"turn.relay.addresses", "192.0.2.199"}},
		"open relay":       {[]string{"--turn.peers.profile=public"}, []string{"turn.allow_open_relay"}},
		"rendezvous port":  {[]string{"--rendezvous.listen=udp://" + taken.LocalAddr().String()}, []string{"rendezvous.listen", "in use", "rendezvous.listen: []"}},
		"exchange port": {[]string{"--rendezvous.listen=udp://127.0.0.1:0", "--rendezvous.directory.listen=" + takenTCP.Addr().String()},
			[]string{"rendezvous.directory.listen", "in use"}},
		"unknown engine": {[]string{"--turn.engine=warp"}, []string{"turn.engine", "warp"}},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"serve", "--admin.listen=127.0.0.1:0", "--state.dir=" + t.TempDir(), "--rendezvous.listen="}, c.args...)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			out, err := exec.CommandContext(ctx, binary, args...).CombinedOutput()
			if err == nil || ctx.Err() != nil {
				t.Fatalf("the server started: %v\n%s", err, out)
			}
			if n := strings.Count(strings.TrimSpace(string(out)), "\n"); n > 0 {
				t.Errorf("%d lines:\n%s", n+1, out)
			}
			for _, want := range c.want {
				if !strings.Contains(string(out), want) {
					t.Errorf("no %q in %s", want, out)
				}
			}
		})
	}
}

func TestServerWithoutThePrivilegeForALowPortSaysWhatToDo(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	lab := netns.New(t)
	h := lab.Host("machine")
	copied := filepath.Join(os.TempDir(), "stile-e2e-nobody")
	b, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(copied, b, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(copied)
	cmd := h.Command(t.Context(), "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", copied, "serve", "--turn.listen=udp://127.0.0.1:78",
		"--state.dir=/tmp/stile-e2e-state", "--admin.listen=127.0.0.1:0")
	defer os.RemoveAll("/tmp/stile-e2e-state")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "turn.listen") || !strings.Contains(string(out), "CAP_NET_BIND_SERVICE") {
		t.Errorf("%v: %s", err, out)
	}
}
