//go:build e2e

package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stilenet/stile/internal/netns"
)

// turnutils_uclient is coturn's client. It allocates twice for each session (the first is a probe), refreshes, binds two channels
// or permits two peers, sends on a beat and waits for the echo of turnutils_peer. Without -c it has a second session for RTCP, whose
// allocations ask for an even port and the next one. It always sends REQUESTED-ADDRESS-FAMILY, so it speaks the modern dialect, and
// without credentials the default configuration refuses it: these tests have to allow it.
const (
	peerPort        = 31000 // of the first turnutils_peer, and the next one for RTCP; the other peers are 10 ports apart
	uclientMessages = 50    // for each session, one every 40 ms
)

// echo starts a turnutils_peer in the internet for each uclient that runs at a time: its buffers are small.
func echo(t *testing.T, o *office, count int) {
	t.Helper()
	for i := range count {
		cmd := o.peer.Command(t.Context(), program(t, "turnutils_peer"), "-p", strconv.Itoa(peerPort+10*i), "-L", "203.0.113.7")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go cmd.Wait()
		for port := peerPort + 10*i; port <= peerPort+10*i+1; port++ {
			conn, err := o.peer.Dial(t.Context(), "udp4", "203.0.113.7:"+strconv.Itoa(port))
			if err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(20 * time.Millisecond) {
				_, _ = conn.Write([]byte("are you there?"))
				_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
				if _, err := conn.Read(make([]byte, 100)); err == nil { // refused until it listens
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("turnutils_peer does not listen\n%s", cmd.Log())
				}
			}
			conn.Close()
		}
	}
}

func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("the package coturn is not installed: %v", err)
	}
	return path
}

// uclient prepares one run against the proxy of the office, with the peer of that number.
func uclient(t *testing.T, ctx context.Context, host *netns.Host, peer int, options ...string) *netns.Cmd {
	t.Helper()
	args := append([]string{"-n", strconv.Itoa(uclientMessages), "-z", "40", "-e", "203.0.113.7", "-r", strconv.Itoa(peerPort + 10*peer)}, options...)
	return host.Command(ctx, program(t, "turnutils_uclient"), append(args, "198.51.100.2")...)
}

var totals = regexp.MustCompile(`tot_send_msgs=(\d+), tot_recv_msgs=(\d+)`)

// complete checks the totals that uclient prints: it sent what it was asked to, and all of it came back. It returns how many.
func complete(t *testing.T, out string, atLeast int) int {
	t.Helper()
	all := totals.FindAllStringSubmatch(out, -1)
	if len(all) == 0 {
		t.Errorf("no totals:\n%s", out)
		return 0
	}
	last := all[len(all)-1]
	sent, _ := strconv.Atoi(last[1])
	if last[1] != last[2] || sent < atLeast || !strings.Contains(out, "Total lost packets 0 (0.000000%), total send dropped 0 ") {
		t.Errorf("sent %s, received %s, want all of %d at least:\n%s", last[1], last[2], atLeast, out)
	}
	return sent
}

// exchange runs some uclients side by side, each for two clients, and returns how many messages they exchanged.
func exchange(t *testing.T, host *netns.Host, cases [][]string, more ...string) (sent int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	type result struct {
		options string
		out     string
		err     error
	}
	results := make(chan result)
	for i, options := range cases {
		cmd := uclient(t, ctx, host, i, append(append(slices.Clone(options), "-m", "2"), more...)...)
		go func() {
			out, err := cmd.CombinedOutput()
			results <- result{strings.Join(options, " "), string(out), err}
		}()
	}
	for range cases {
		r := <-results
		if r.err != nil {
			t.Errorf("uclient %s: %v\n%s", r.options, r.err, r.out)
			continue
		}
		n := complete(t, r.out, 2*uclientMessages)
		t.Logf("uclient %s: %d messages", r.options, n)
		sent += n
	}
	return sent
}

// ended is a line of the log about a session.
type ended struct {
	Message, Reason, Transport, Dialect, Relay, User string
	Up                                               int `json:"packets_up"`
	Down                                             int `json:"packets_down"`
}

// serveJSON starts a server whose log stop can read, which does not wait for allocations that nobody releases, and which has no budget
// for peers that have not answered: all clients together may send such an address 80 packets, and here they all use one address, which
// on a busy machine may answer later than that.
func serveJSON(t *testing.T, o *office, args ...string) *netns.Cmd {
	t.Helper()
	cmd := o.proxy.Command(t.Context(), binary, append([]string{"serve", "--state.dir=" + t.TempDir(), "--log.format=json",
		"--server.drain_timeout=100ms", "--turn.limits.unanswered_packets=0", "--turn.limits.unanswered_bytes=0", anyPayload}, args...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go cmd.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	if err := cmd.WaitLog(ctx, "administration"); err != nil { // with credentials there is no line for mms.cfg
		t.Fatalf("%v\n%s", err, cmd.Log())
	}
	return cmd
}

// stop ends the server and returns what it said of the sessions.
func stop(t *testing.T, cmd *netns.Cmd) (list []ended) {
	t.Helper()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the server: %v", err)
	}
	for line := range strings.Lines(cmd.Log()) {
		var e ended
		if json.Unmarshal([]byte(line), &e) == nil && e.Message == "session ended" {
			list = append(list, e)
		}
	}
	return list
}

// metric reads one counter of the server.
func metric(t *testing.T, host *netns.Host, name string) int {
	t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return host.Dial(ctx, network, addr)
	}}}
	r, err := c.Get("http://127.0.0.1:9478/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			f, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
			if err != nil {
				t.Fatal(err)
			}
			return int(f)
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}

func relayed(t *testing.T, host *netns.Host, disposition string) int {
	t.Helper()
	return metric(t, host, `stile_turn_packets_total{disposition="`+disposition+`"}`)
}

// uclientCases are the ways of use: -t is TCP, -s are indications instead of channels, -c no RTCP, -y from client to client, -D padded
// ChannelData over UDP as well, -G more requests, for peers that nobody has.
var uclientCases = [][]string{
	{}, {"-s"}, {"-c"}, {"-c", "-s"}, {"-c", "-D"}, {"-c", "-G"}, {"-y"}, {"-c", "-y", "-s"},
	{"-t"}, {"-t", "-s"}, {"-t", "-c"}, {"-t", "-c", "-s"}, {"-t", "-c", "-G"}, {"-t", "-y"},
}

func TestUclientLosesNothing(t *testing.T) {
	for name, engine := range map[string]string{"kernel": "--turn.engine=kernel", "socket": "--turn.engine=socket", "plain": "--turn.engine=plain"} {
		t.Run(name, func(t *testing.T) {
			o := newOffice(t, "meta l4proto { tcp, udp } th dport 3478")
			echo(t, o, len(uclientCases))
			cmd := serveJSON(t, o, engine, "--turn.modern_without_credentials=allow")
			sent := exchange(t, o.desks[0], uclientCases)
			for _, d := range []string{"relayed_channel", "relayed_send", "relayed_to_channel", "relayed_to_data", "relayed_hairpin"} {
				if relayed(t, o.proxy, d) < 2*uclientMessages {
					t.Errorf("%d packets are counted as %s", relayed(t, o.proxy, d), d)
				}
			}
			checkSessions(t, stop(t, cmd), sent, "")
		})
	}
}

// checkSessions compares what the server says with what the clients said, and looks for pairs of ports.
func checkSessions(t *testing.T, sessions []ended, sent int, user string) {
	t.Helper()
	var up, down, pairs int
	var transports []string
	ports := make(map[netip.AddrPort]bool)
	for _, e := range sessions {
		up, down = up+e.Up, down+e.Down
		transports = append(transports, e.Transport)
		// The probe of a session only refreshes, which both dialects do, and over UDP it is never released.
		if e.Dialect != "rfc8656" && e.Up > 0 || e.Reason != "released" && e.Reason != "stream-closed" && e.Reason != "shutdown" || !strings.HasSuffix(e.User, user) {
			t.Errorf("a session ended like this: %+v", e)
		}
		if a, err := netip.ParseAddrPort(e.Relay); err == nil {
			ports[a] = true
		}
	}
	for a := range ports {
		if a.Port()%2 == 0 && ports[netip.AddrPortFrom(a.Addr(), a.Port()+1)] {
			pairs++
		}
	}
	if up != sent || down != sent {
		t.Errorf("the clients exchanged %d messages; the server counts %d up and %d down", sent, up, down)
	}
	if !slices.Contains(transports, "udp") || !slices.Contains(transports, "tcp") {
		t.Errorf("transports: %v", transports)
	}
	// Six runs have RTCP. The probe asks for the pair, and the session takes the odd port with the token.
	if pairs < 6 {
		t.Errorf("%d pairs of an even port and the next one among %d: reservation tokens were not redeemed", pairs, len(ports))
	}
}

func TestUclientWithCredentialsLosesNothing(t *testing.T) {
	const secret = "the secret of an application server"
	for name, with := range map[string][]string{
		"long-term": {"-u", "alice", "-w", "correct horse"}, "time-limited": {"-u", "alice", "-W", secret},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOffice(t, "meta l4proto { tcp, udp } th dport 3478")
			echo(t, o, len(uclientCases))
			cmd := serveJSON(t, o, "--turn.auth.users=alice:correct horse", "--turn.auth.secret="+secret)
			sent := exchange(t, o.desks[0], uclientCases, with...)
			if n := metric(t, o.proxy, `stile_turn_error_responses_total{code="401"}`); n == 0 {
				t.Error("nobody was asked for credentials")
			}
			checkSessions(t, stop(t, cmd), sent, "alice")

			again := serveJSON(t, o, "--turn.auth.users=alice:another key")
			refused(t, o, with...)
			refused(t, o)
			if list := stop(t, again); len(list) != 0 {
				t.Errorf("sessions of nobody: %+v", list)
			}
		})
	}
}

// refused checks that uclient gets no allocation, over UDP and TCP.
func refused(t *testing.T, o *office, options ...string) {
	t.Helper()
	for _, transport := range []string{"-c", "-t"} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		out, err := uclient(t, ctx, o.desks[0], 0, append([]string{transport}, options...)...).CombinedOutput()
		cancel()
		if err == nil || strings.Contains(string(out), "tot_recv_msgs=1") {
			t.Errorf("uclient %s %v: %v\n%s", transport, options, err, out)
		}
	}
}

// TestUclientIsRefusedWithoutCredentials: what it speaks is what a browser speaks.
func TestUclientIsRefusedWithoutCredentials(t *testing.T) {
	o := newOffice(t, "meta l4proto { tcp, udp } th dport 3478")
	echo(t, o, 1)
	cmd := serveJSON(t, o)
	refused(t, o)
	if list := stop(t, cmd); len(list) != 0 {
		t.Errorf("sessions: %+v", list)
	}
}

// TestNegativeTestsOfUclient: -N binds channels with numbers of chance. The second for the same peer is an error, at which uclient gives
// up; with indications there is nothing to refuse.
func TestNegativeTestsOfUclient(t *testing.T) {
	o := newOffice(t, "meta l4proto { tcp, udp } th dport 3478")
	echo(t, o, 4)
	serveJSON(t, o, "--turn.modern_without_credentials=allow")
	exchange(t, o.desks[0], [][]string{{"-N", "-s"}, {"-N", "-c", "-s"}, {"-N", "-t", "-s"}, {"-N", "-t", "-c", "-s"}})
	for _, transport := range [][]string{{"-c"}, {"-t", "-c"}} {
		for try := 0; ; try++ { // of 16,384 numbers it may draw the same one twice
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			out, err := uclient(t, ctx, o.desks[0], 0, append([]string{"-N"}, transport...)...).CombinedOutput()
			cancel()
			if err != nil && strings.Contains(string(out), "channel bind: error 400") {
				break
			}
			if try == 2 {
				t.Errorf("uclient -N %v: %v, want channel bind: error 400\n%s", transport, err, out)
				break
			}
		}
	}
}

// TestBrokenMessagesOfUclientDisturbNobody: -R overwrites bytes in a tenth of what it sends, and waits for ever when the answer fails
// to come, so it is run several times and ended.
func TestBrokenMessagesOfUclientDisturbNobody(t *testing.T) {
	o := newOffice(t, "meta l4proto { tcp, udp } th dport 3478")
	echo(t, o, 5)
	cmd := serveJSON(t, o, "--turn.modern_without_credentials=allow")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	broken := [][]string{{"-R"}, {"-R", "-s"}, {"-R", "-t"}, {"-R", "-t", "-s"}}
	for _, options := range broken {
		go func() {
			defer func() { done <- struct{}{} }()
			for ctx.Err() == nil {
				one, end := context.WithTimeout(ctx, time.Second)
				_ = uclient(t, one, o.desks[1], 4, append(options, "-m", "8", "-z", "1")...).Run()
				end()
			}
		}()
	}
	exchange(t, o.desks[0], [][]string{{}, {"-s"}, {"-t"}, {"-t", "-s"}})
	cancel()
	for range broken {
		<-done
	}
	bad := 0
	for _, d := range []string{"drop_fingerprint", "drop_malformed", "drop_attributes", "drop_channel", "drop_method", "answered_error"} {
		bad += relayed(t, o.proxy, d)
	}
	if bad == 0 {
		t.Error("no broken message came, so the test proves nothing")
	}
	t.Logf("%d broken messages", bad)
	exchange(t, o.desks[0], [][]string{{}, {"-t", "-s"}})
	if stop(t, cmd); strings.Contains(cmd.Log(), "BUG") {
		t.Errorf("the core panicked:\n%s", cmd.Log())
	}
}
