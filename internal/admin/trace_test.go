package admin

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stilenet/stile/turn"
)

// cores are real cores, a shard each, with nothing around them but the events' way to a tracer.
type cores struct {
	t      *testing.T
	tracer *Tracer
	shards []*turn.Core
	mu     []sync.Mutex
}

var relay = netip.MustParseAddr("198.18.7.7")

func newCores(t *testing.T, tracer *Tracer, shards int) *cores {
	relays := []turn.RelayAddress{{Public: relay, Local: relay}}
	ports := turn.PortRange{First: 20000, Last: 20999}
	policy, err := turn.NewPolicy(turn.PolicyConfig{Profile: turn.ProfileLab, Relays: relays, RelayPorts: ports})
	if err != nil {
		t.Fatal(err)
	}
	limits := turn.DefaultLimits()
	ledger := turn.NewLedger(relays, ports, limits, [32]byte{1})
	c := &cores{t: t, tracer: tracer, mu: make([]sync.Mutex, shards)}
	for i := range shards {
		c.shards = append(c.shards, turn.NewCore(time.Now(), turn.Config{
			Ledger: ledger, Relays: relays, Rules: &turn.Rules{Policy: policy, Limits: limits}, Shard: i, Shards: shards, Opener: opener{}, Seed: [32]byte{byte(i)},
		}))
	}
	return c
}

type opener struct{}

func (opener) OpenRelay(uint32, netip.AddrPort) error { return nil }
func (opener) CloseRelay(uint32)                      {}
func (opener) CloseStream(uint32)                     {}

// Do implements Cores. Like an engine it gives the events away while the core is held.
func (c *cores) Do(_ context.Context, f func(now time.Time, shard int, core *turn.Core)) error {
	for i, core := range c.shards {
		c.mu[i].Lock()
		f(time.Now(), i, core)
		c.tracer.Take(core.TakeEvents())
		core.Reset()
		c.mu[i].Unlock()
	}
	return nil
}

// The messages of a client.
const (
	allocate  = "0003000821 12a442 000000000000000000000001 00190004 11000000"
	indicate  = "0016001821 12a442 000000000000000000000002 00120008 0001 2c42 ea12d543 00130005 68656c6c6f 000000" // to 203.0.113.1:3434
	release   = "0004000821 12a442 000000000000000000000003 000d0004 00000000"
	refreshed = "0004000821 12a442 000000000000000000000004 000d0004 00000258"
)

func (c *cores) send(shard int, client string, message string) {
	c.t.Helper()
	var b []byte
	if _, err := fmt.Sscanf(strings.ReplaceAll(message, " ", ""), "%x", &b); err != nil {
		c.t.Fatal(err)
	}
	buf := make([]byte, 256)
	copy(buf[64:], b)
	c.mu[shard].Lock()
	defer c.mu[shard].Unlock()
	core := c.shards[shard]
	core.FromClient(time.Now(), &turn.Source{Client: netip.MustParseAddrPort(client), Server: netip.MustParseAddrPort("198.18.7.7:3478")},
		turn.Packet{Buf: buf, At: 64, Len: len(b)})
	c.tracer.Take(core.TakeEvents())
	core.Reset()
}

func (c *cores) sessions() (all []turn.Session) {
	c.Do(c.t.Context(), func(now time.Time, _ int, core *turn.Core) { all = core.Sessions(now, all) })
	return all
}

// running is a Run in the background.
type running struct {
	out    lines
	cancel context.CancelFunc
	done   chan error
}

// lines is a writer that may be read meanwhile.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// run begins a trace and waits until it waits for messages. It must be called in a bubble.
func (c *cores) run(req TraceRequest) *running {
	ctx, cancel := context.WithCancel(c.t.Context())
	r := &running{cancel: cancel, done: make(chan error, 1)}
	go func() { r.done <- c.tracer.Run(ctx, c, req, &r.out) }()
	synctest.Wait()
	return r
}

// shape is a transcript with only the first four digits of each message: its type.
func shape(transcript string) string {
	return regexp.MustCompile(`([<>] [0-9a-f]{4})[0-9a-f]+`).ReplaceAllString(transcript, "$1")
}

func wantShape(t *testing.T, got, want string) {
	t.Helper()
	if got := shape(got); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

const (
	clientA = "10.66.0.1:4001"
	clientB = "10.66.0.2:4002"
)

var office = netip.MustParsePrefix("10.66.0.0/16")

func TestTheNextSessionIsTracedFromItsFirstMessageAndHidesWhoItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tracer := new(Tracer)
		c := newCores(t, tracer, 2)
		r := c.run(TraceRequest{Clients: office, Count: 1})
		c.send(0, "10.77.0.1:1", allocate) // somebody else
		c.send(1, clientA, refreshed)      // without a session
		time.Sleep(20 * time.Millisecond)
		c.send(1, clientA, allocate)
		c.send(0, clientB, allocate) // one too many: the other shard counts for itself
		synctest.Wait()
		c.send(0, clientB, indicate)
		c.send(1, clientA, indicate)
		time.Sleep(time.Second)
		c.send(1, clientA, release)
		if err := <-r.done; err != nil {
			t.Fatal(err)
		}
		id := regexp.MustCompile(`(?m)^# session (\S+)$`).FindStringSubmatch(r.out.String())[1]
		wantShape(t, r.out.String(), "stile-turn-transcript 1\n# the next 1 sessions of the clients that were asked for\n"+
			"+0s < 0004\n+0s > 0114\n# session "+id+"\n+20ms < 0003\n+20ms > 0103\n+20ms < 0016\n+1.02s < 0004\n+1.02s > 0104\n# session "+id+" ended: released\n")
		messages, err := turn.ParseTranscript(strings.NewReader(r.out.String()))
		if err != nil || len(messages) != 7 {
			t.Fatal(len(messages), err)
		}
		for _, secret := range []string{"hello", "10.66", "198.18"} {
			if strings.Contains(r.out.String(), secret) || strings.Contains(r.out.String(), fmt.Sprintf("%x", secret)) {
				t.Errorf("the transcript shows %s", secret)
			}
		}
		c.idle()
	})
}

// idle checks that neither the tracer nor a core goes on after the traces have ended.
func (c *cores) idle() {
	c.t.Helper()
	if c.tracer.active.Load() || len(c.tracer.byID) > 0 || c.tracer.next != nil {
		c.t.Errorf("the tracer goes on: %+v", c.tracer)
	}
	seen := new(Tracer)
	seen.active.Store(true)
	seen.byID = map[turn.SessionID]*reader{}
	seen.next = &reader{lines: make(chan traced, 100), stray: make(chan turn.SessionID, 100)}
	c.tracer = seen
	for shard := range c.shards {
		for _, client := range []string{clientA, clientB} {
			c.send(shard, client, indicate)
			c.send(shard, client, refreshed)
		}
		c.send(shard, fmt.Sprintf("10.66.9.9:%d", shard+1), allocate)
	}
	if n := len(seen.next.lines) + len(seen.next.stray); n > 0 {
		c.t.Errorf("cores still report %d messages", n)
	}
}

func TestSeveralSessionsAreOneTranscriptAndItsComments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCores(t, new(Tracer), 2)
		r := c.run(TraceRequest{Clients: office, Count: 2})
		c.send(0, clientA, allocate)
		time.Sleep(time.Millisecond)
		c.send(1, clientB, allocate)
		c.send(0, clientA, indicate)
		c.send(1, clientB, indicate)
		var a, b string
		for _, s := range c.sessions() {
			if s.Client.String() == clientA {
				a = s.ID.String()
			} else {
				b = s.ID.String()
			}
		}
		c.send(0, clientA, release)
		c.send(1, clientB, release)
		if err := <-r.done; err != nil {
			t.Fatal(err)
		}
		wantShape(t, r.out.String(), "stile-turn-transcript 1\n# the next 2 sessions of the clients that were asked for\n"+
			"# session "+a+"\n+0s < 0003\n+0s > 0103\n"+
			"# session "+b+": +1ms < 0003\n# session "+b+": +1ms > 0103\n+1ms < 0016\n# session "+b+": +1ms < 0016\n"+
			"+1ms < 0004\n+1ms > 0104\n# session "+a+" ended: released\n"+
			"# session "+b+": +1ms < 0004\n# session "+b+": +1ms > 0104\n# session "+b+" ended: released\n")
		for _, session := range []string{"", "# session " + b + ": "} {
			text := r.out.String()
			if session != "" {
				text = "stile-turn-transcript 1\n" + strings.Join(regexp.MustCompile(`(?m)^`+session+`(.*\n)`).FindAllString(text, -1), "")
				text = strings.ReplaceAll(text, session, "")
			}
			if m, err := turn.ParseTranscript(strings.NewReader(text)); err != nil || len(m) != 5 {
				t.Errorf("%q: %d messages, %v", session, len(m), err)
			}
		}
		c.idle()
	})
}

func TestALivingSessionIsTracedOnceUntilTheReaderGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCores(t, new(Tracer), 2)
		c.send(1, clientA, allocate)
		c.send(1, clientA, indicate)
		id := c.sessions()[0].ID
		r := c.run(TraceRequest{Session: id})
		wantError(t, c.tracer.Run(t.Context(), c, TraceRequest{Session: id}, io.Discard), 409, "it is traced already")
		wantError(t, c.tracer.Run(t.Context(), c, TraceRequest{Session: 999}, io.Discard), 404, "there is no session rr")
		c.send(1, clientA, refreshed)
		synctest.Wait()
		wantShape(t, r.out.String(), "stile-turn-transcript 1\n# session "+id.String()+"\n+0s < 0004\n+0s > 0104\n")
		r.cancel()
		if err := <-r.done; err != context.Canceled {
			t.Error(err)
		}
		c.idle()
	})
}

func TestOneWaitsForNewSessionsAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCores(t, new(Tracer), 1)
		r := c.run(TraceRequest{Clients: office, Count: 1})
		wantError(t, c.tracer.Run(t.Context(), c, TraceRequest{Clients: office, Count: 1}, io.Discard), 409, "already")
		r.cancel()
		<-r.done
		c.idle()
	})
}

func TestATraceOfAnUnconfirmedSessionEndsWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCores(t, new(Tracer), 1)
		r := c.run(TraceRequest{Clients: office, Count: 1})
		c.send(0, clientA, allocate)
		time.Sleep(time.Hour)
		synctest.Wait()
		select {
		case err := <-r.done:
			if err != nil || !strings.HasSuffix(r.out.String(), " is gone\n") {
				t.Error(err, r.out.String())
			}
		default:
			t.Error("it waits for a session that is gone")
			r.cancel()
			<-r.done
		}
		c.idle()
	})
}

func TestTooManyTracedSessionsAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCores(t, new(Tracer), 1)
		for i := range maxTraceCount + 1 {
			client := fmt.Sprintf("10.66.1.1:%d", i+1)
			c.send(0, client, allocate)
			c.send(0, client, indicate)
		}
		var all []*running
		for _, s := range c.sessions()[:maxTraceCount] {
			all = append(all, c.run(TraceRequest{Session: s.ID}))
		}
		wantError(t, c.tracer.Run(t.Context(), c, TraceRequest{Session: c.sessions()[maxTraceCount].ID}, io.Discard), 409, "too many sessions are traced")
		for _, r := range all {
			r.cancel()
			<-r.done
		}
		c.idle()
	})
}

func TestATraceEndsAtItsThousandthMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCores(t, new(Tracer), 1)
		r := c.run(TraceRequest{Clients: office, Count: 1})
		c.send(0, clientA, allocate)
		for range 2 * traceMessages {
			c.send(0, clientA, indicate)
			time.Sleep(time.Millisecond)
		}
		if err := <-r.done; err != nil {
			t.Fatal(err)
		}
		messages, err := turn.ParseTranscript(strings.NewReader(r.out.String()))
		if err != nil || len(messages) != traceMessages || !strings.HasSuffix(r.out.String(), ": 1000 messages, the most of one trace\n") {
			t.Error(len(messages), err)
		}
		c.idle()
	})
}

// stuck is a writer that waits to be let go.
type stuck struct {
	lines
	let chan struct{}
}

func (s *stuck) Write(b []byte) (int, error) {
	<-s.let
	return s.lines.Write(b)
}

func TestAReaderThatIsSlowLosesMessagesAndIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCores(t, new(Tracer), 1)
		out := &stuck{let: make(chan struct{})}
		done := make(chan error, 1)
		go func() { done <- c.tracer.Run(t.Context(), c, TraceRequest{Clients: office, Count: 3}, out) }()
		synctest.Wait()
		const each = traceBacklog / 2 // of three sessions: half of one has no room
		for i := range 3 {
			client := fmt.Sprintf("10.66.1.1:%d", i+1)
			c.send(0, client, allocate)
			for range each {
				c.send(0, client, indicate)
			}
		}
		close(out.let)
		synctest.Wait()
		for i := range 3 {
			c.send(0, fmt.Sprintf("10.66.1.1:%d", i+1), release)
		}
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(time.Hour): // of virtual time
			t.Errorf("the trace does not end: %s", shape(out.String())[len(shape(out.String()))-200:])
		}
		if !regexp.MustCompile(`(?m)^# [0-9]+ messages lost: the reader was slow$`).MatchString(out.String()) {
			t.Error("nothing says that messages were lost")
		}
	})
}
