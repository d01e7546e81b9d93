package logging

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stilenet/stile/turn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var began = time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC)

func someSession() turn.Session {
	return turn.Session{
		ID: 0x1234, Client: netip.MustParseAddrPort("10.1.2.3:40000"), Server: netip.MustParseAddrPort("10.0.0.1:3478"),
		Relayed: netip.MustParseAddrPort("198.51.100.7:50000"), Dialect: turn.DialectLegacy, Confirmed: true, Started: began,
		Peers: 2, LastPeer: netip.MustParseAddrPort("203.0.113.9:1935"), PacketsUp: 3, BytesUp: 300, PacketsDown: 4, BytesDown: 400,
	}
}

// written is the log of these events, line by line.
func written(t *testing.T, cfg Config, permissions bool, events ...turn.Event) []string {
	t.Helper()
	var out bytes.Buffer
	cfg.Out = &out
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	e := l.Events(permissions)
	e.Put(events)
	if err := e.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out.Len() == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
}

func TestEachEventHasItsLine(t *testing.T) {
	s := someSession()
	withUser := s
	withUser.User, withUser.Stream, withUser.LastPeer, withUser.Dialect = "ann\nadmin", true, netip.AddrPort{}, turn.DialectModern
	at := began.Add(90*time.Second + 1234567)
	for _, c := range []struct {
		name, level string
		event       turn.Event
		want        string
	}{
		{"started", "debug", turn.Event{Kind: turn.EventStarted, At: at, Session: s},
			`{"level":"debug","session":"3lg","client":"10.1.2.3:40000","relay":"198.51.100.7:50000","transport":"udp","dialect":"draft-08",` +
				`"time":"2026-01-02T03:05:35.679Z","message":"session started"}`},
		{"ended", "info", turn.Event{Kind: turn.EventEnded, At: at, Session: s, Reason: turn.EndExpired},
			`{"level":"info","session":"3lg","client":"10.1.2.3:40000","relay":"198.51.100.7:50000","transport":"udp","dialect":"draft-08",` +
				`"peers":2,"last_peer":"203.0.113.9:1935","bytes_up":300,"packets_up":3,"bytes_down":400,"packets_down":4,` +
				`"duration_seconds":90.001,"reason":"expired","time":"2026-01-02T03:05:35.679Z","message":"session ended"}`},
		{"ended, of a user over TCP without a peer", "info", turn.Event{Kind: turn.EventEnded, At: at, Session: withUser, Reason: turn.EndStream},
			`{"level":"info","session":"3lg","client":"10.1.2.3:40000","user":"ann\nadmin","relay":"198.51.100.7:50000","transport":"tcp",` +
				`"dialect":"rfc8656","peers":2,"bytes_up":300,"packets_up":3,"bytes_down":400,"packets_down":4,` +
				`"duration_seconds":90.001,"reason":"stream-closed","time":"2026-01-02T03:05:35.679Z","message":"session ended"}`},
		{"peer", "info", turn.Event{Kind: turn.EventPeer, At: at, Session: s, Peer: netip.MustParseAddrPort("203.0.113.9:0")},
			`{"level":"info","session":"3lg","client":"10.1.2.3:40000","relay":"198.51.100.7:50000","transport":"udp","dialect":"draft-08",` +
				`"peer":"203.0.113.9","time":"2026-01-02T03:05:35.679Z","message":"new peer"}`},
		{"refused peer", "info", turn.Event{Kind: turn.EventRefused, At: at, Session: s, Peer: netip.MustParseAddrPort("10.9.9.9:53"), Rule: turn.RulePrivate, Count: 7},
			`{"level":"info","session":"3lg","client":"10.1.2.3:40000","relay":"198.51.100.7:50000","transport":"udp","dialect":"draft-08",` +
				`"peer":"10.9.9.9:53","rule":"private","count":7,"remedy":"add the prefix to turn.peers.allow if clients may reach it",` +
				`"time":"2026-01-02T03:05:35.679Z","message":"peer refused"}`},
		{"refused client", "info", turn.Event{Kind: turn.EventRefused, At: at, Client: s.Client, Rule: turn.RuleClientNotListed, Count: 1},
			`{"level":"info","client":"10.1.2.3:40000","rule":"client-not-listed","count":1,` +
				`"remedy":"add the client's prefix to turn.clients if it may use the proxy","time":"2026-01-02T03:05:35.679Z","message":"client refused"}`},
		{"open error", "info", turn.Event{Kind: turn.EventOpenError, At: at, Err: os.NewSyscallError("socket", syscall.EMFILE), Count: 2},
			`{"level":"error","error":"socket: too many open files","count":2,` +
				`"remedy":"raise the limit of open files (LimitNOFILE= or ulimit -n), or lower turn.limits.allocations",` +
				`"time":"2026-01-02T03:05:35.679Z","message":"relayed port not opened"}`},
		{"bug", "error", turn.Event{Kind: turn.EventBug, At: at, Err: errors.New("BUG: x\nstack"), Count: 1},
			`{"level":"error","error":"BUG: x\nstack","count":1,` +
				`"remedy":"report this line to the maintainers; the sessions of one shard ended, new ones are served",` +
				`"time":"2026-01-02T03:05:35.679Z","message":"bug in the relay"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := written(t, Config{Format: "json", Level: c.level}, true, c.event)
			if len(got) != 1 || got[0] != c.want {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), c.want)
			}
		})
	}
}

func TestNothingIsWrittenThatNobodyAskedFor(t *testing.T) {
	s := someSession()
	for _, e := range []turn.Event{
		{Kind: turn.EventStarted, Session: s},                         // level info
		{Kind: turn.EventPeer, Session: s},                            // no permissions
		{Kind: turn.EventTrace, Session: s, Data: []byte{0, 3, 0, 0}}, // for who traces
		{Kind: turn.EventUnknown},
	} {
		if got := written(t, Config{}, false, e); got != nil {
			t.Errorf("kind %d: wrote %q", e.Kind, got)
		}
	}
}

func TestEachFieldIsInTheGlossaryAndEachRuleThatCanBeOpenedHasARemedy(t *testing.T) {
	var events []turn.Event
	s := someSession()
	s.User = "ann"
	for kind := turn.EventStarted; kind < turn.EventTrace; kind++ {
		events = append(events, turn.Event{Kind: kind, Session: s, Client: s.Client, Peer: s.LastPeer, Rule: turn.RulePort, Err: errors.New("x")})
	}
	lines := written(t, Config{Format: "json", Level: "trace"}, true, events...)
	if len(lines) != len(events) {
		t.Fatalf("%d lines for %d events", len(lines), len(events))
	}
	for _, line := range lines {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatal(err)
		}
		for name := range fields {
			if !slices.Contains(Fields, name) {
				t.Errorf("%q is not in Fields", name)
			}
		}
	}
	never := []turn.Rule{turn.RuleUnknown, turn.RuleDefault, turn.RuleAllowedByConfig, turn.RuleOwnRelay, turn.RuleOwnService,
		turn.RuleInvalidAddress, turn.RuleZone, turn.RuleUnspecified, turn.RuleMulticast, turn.RuleBroadcast}
	for r := range turn.RuleCount {
		rule := turn.Rule(r)
		if want := !slices.Contains(never, rule.Base()); (ruleRemedy(rule) != "") != want {
			t.Errorf("%v: remedy %q", rule, ruleRemedy(rule))
		}
	}
}

func TestFormatFollowsTheTerminalUnlessSaid(t *testing.T) {
	for _, c := range []struct {
		format   string
		terminal bool
		json     bool
	}{{"", false, true}, {"auto", false, true}, {"auto", true, false}, {"json", true, true}, {"console", false, false}} {
		got := written(t, Config{Format: c.format, Terminal: c.terminal}, false, turn.Event{Kind: turn.EventEnded, At: began, Session: someSession()})
		if len(got) != 1 || strings.HasPrefix(got[0], "{") != c.json || strings.Contains(got[0], "\x1b") == (c.json || !c.terminal) {
			t.Errorf("%+v: %q", c, got)
		}
	}
	for _, cfg := range []Config{{Format: "xml"}, {Level: "loud"}, {Level: "disabled"}, {Level: "fatal"}} {
		if _, err := New(cfg); err == nil || !strings.HasPrefix(err.Error(), "log.") {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

func TestConsoleLineHasItsFieldsInTheOrderOfTheGlossary(t *testing.T) {
	line := written(t, Config{Format: "console"}, false, turn.Event{Kind: turn.EventEnded, At: began, Session: someSession(), Reason: turn.EndKilled})[0]
	at := -1
	for _, f := range Fields[3:] {
		if i := strings.Index(line, " "+f+"="); i >= 0 {
			if i < at {
				t.Errorf("%s is out of order: %s", f, line)
			}
			at = i
		}
	}
	if want := began.Local().Format("15:04:05.000") + " INF session ended session=3lg "; !strings.HasPrefix(line, want) {
		t.Errorf("got %q, want it to begin %q", line, want)
	}
}

func TestLevelChangesForLoggersThatWereDerivedBefore(t *testing.T) {
	var out bytes.Buffer
	l, err := New(Config{Out: &out, Level: "warn"})
	if err != nil {
		t.Fatal(err)
	}
	derived := l.With().Str(FieldAction, "x").Logger()
	derived.Info().Msg("silent")
	if err := l.SetLevel("debug"); err != nil {
		t.Fatal(err)
	}
	derived.Debug().Msg("heard")
	if got := out.String(); strings.Contains(got, "silent") || !strings.Contains(got, "heard") || !strings.Contains(got, `"time":"`) {
		t.Error(got)
	}
	if l.SetLevel("loud") == nil {
		t.Error("a level that is none was taken")
	}
}

// gate is a writer that waits until it is opened.
type gate struct {
	open chan struct{}
	mu   sync.Mutex
	bytes.Buffer
}

func (g *gate) Write(b []byte) (int, error) {
	<-g.open
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.Buffer.Write(b)
}

func TestAStuckWriterDropsCountsAndIsSaidLater(t *testing.T) {
	out := &gate{open: make(chan struct{})}
	l, err := New(Config{Out: out})
	if err != nil {
		t.Fatal(err)
	}
	e := l.Events(false)
	ended := func(n int) []turn.Event {
		return slices.Repeat([]turn.Event{{Kind: turn.EventEnded, At: began, Session: someSession()}}, n)
	}
	put := make(chan struct{})
	go func() {
		defer close(put)
		for range 3 * maxQueued {
			e.Put(ended(1))
		}
	}()
	select {
	case <-put:
	case <-time.After(10 * time.Second):
		t.Fatal("Put waits for the writer")
	}
	dropped := e.Dropped()
	if dropped < maxQueued || dropped > 2*maxQueued {
		t.Errorf("dropped %d of %d", dropped, 3*maxQueued)
	}
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := e.Close(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close of a stuck log: %v", err)
	}
	e.Put(ended(5))
	if n := e.Dropped(); n != dropped+5 {
		t.Errorf("after Close: dropped %d, want %d", n, dropped+5)
	}
	close(out.open)
	if err := e.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Count(out.String(), "session ended"), 3*maxQueued-int(dropped); got != want {
		t.Errorf("%d lines, want %d", got, want)
	}
	said := uint64(0)
	for line := range strings.Lines(out.String()) {
		var v struct {
			Message string
			Count   uint64
		}
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatal(err)
		}
		if v.Message == "events dropped: the log was too slow" {
			said += v.Count
		}
	}
	if said != dropped+5 {
		t.Errorf("the log says that %d were dropped, not %d", said, dropped+5)
	}
}

func TestTheLastBatchIsTakenWhole(t *testing.T) {
	all := make([]turn.Event, 5*maxQueued)
	for i := range all {
		all[i] = turn.Event{Kind: turn.EventEnded, At: began, Session: someSession(), Reason: turn.EndShutdown}
	}
	if got := written(t, Config{}, false, all...); len(got) != len(all) {
		t.Errorf("%d lines for %d sessions", len(got), len(all))
	}
}

func TestShardsPutAtOnce(t *testing.T) {
	var out bytes.Buffer
	l, err := New(Config{Out: &out})
	if err != nil {
		t.Fatal(err)
	}
	e := l.Events(true)
	var group sync.WaitGroup
	for shard := range 4 {
		group.Go(func() {
			for i := range 100 {
				s := someSession()
				s.User = fmt.Sprint(shard, i)
				e.Put([]turn.Event{{Kind: turn.EventEnded, Session: s}})
				e.SetPermissions(i%2 == 0)
			}
		})
	}
	group.Wait()
	if err := e.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "\n"); n != 400 || e.Dropped() != 0 {
		t.Errorf("%d lines, %d dropped", n, e.Dropped())
	}
}
