package admin

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stilenet/stile/turn"
)

// A transcript is text, a message a line:
//
//	stile-trace 1
//	# comments and empty lines mean nothing
//	0.000000 1k2f > 000300082112a442…    # Allocate request
//	0.000112 1k2f < 010300202112a442…    # Allocate success
//
// Seconds since the transcript's beginning, the session, > for client to server and < for server to client, and the message, scrubbed
// as turn.Core.Trace does it: no payload, no credentials, no real address.

// TraceRequest says what to trace: a living session, or the next Count sessions of Clients.
type TraceRequest struct {
	Session turn.SessionID
	Clients netip.Prefix // when Session is zero
	Count   int          // sessions, 1 to 16
}

// TraceMessage is one line of a transcript.
type TraceMessage struct {
	At      time.Duration // since the beginning
	Session string
	Out     bool // from the server
	Data    []byte
}

const traceHeader = "stile-trace 1"

// AppendTo appends the line.
func (m TraceMessage) AppendTo(b []byte) []byte {
	way := '<'
	if !m.Out {
		way = '>'
	}
	return fmt.Appendf(b, "%.6f %s %c %x    # %s\n", m.At.Seconds(), m.Session, way, m.Data, messageName(m.Data))
}

// maxTraceLine holds the longest message, 65,535 bytes, twice over.
const maxTraceLine = 1 << 18

// ReadTranscript reads the messages of a transcript. Errors name the line.
func ReadTranscript(r io.Reader) (messages []TraceMessage, err error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxTraceLine)
	for n := 1; lines.Scan(); n++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		text = strings.TrimSpace(text)
		switch {
		case n == 1 && text != traceHeader:
			return nil, fmt.Errorf("line 1: no transcript: it begins with %q", traceHeader)
		case n == 1 || text == "":
			continue
		}
		f := strings.Fields(text)
		if len(f) != 4 || f[2] != ">" && f[2] != "<" {
			return nil, fmt.Errorf("line %d: not SECONDS SESSION > or < and HEXADECIMAL", n)
		}
		at, err := strconv.ParseFloat(f[0], 64)
		if err != nil || !(at >= 0 && at < 1e9) {
			return nil, fmt.Errorf("line %d: %q is no number of seconds", n, f[0])
		}
		data, err := hex.DecodeString(f[3])
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		messages = append(messages, TraceMessage{time.Duration(at * float64(time.Second)).Round(time.Microsecond), f[1], f[2] == "<", data})
	}
	return messages, lines.Err()
}

// messageName names the type of a STUN message for people.
func messageName(b []byte) string {
	if len(b) < 2 {
		return "no message"
	}
	t := binary.BigEndian.Uint16(b)
	// rfc3489bis-15 §6: the bits of the class stand between those of the method.
	method, class := t&0x00F|t&0x0E0>>1|t&0x3E00>>2, t&0x0110
	name, ok := map[uint16]string{
		0x001: "Binding", 0x003: "Allocate", 0x004: "Refresh", 0x006: "Send", 0x007: "Data", 0x008: "CreatePermission", 0x009: "ChannelBind",
	}[method]
	if !ok {
		name = fmt.Sprintf("method 0x%03x", method)
	}
	return name + " " + map[uint16]string{0x000: "request", 0x010: "indication", 0x100: "success", 0x110: "error"}[class]
}

// Cores is what a Tracer needs of the data plane. *dataplane.Server is one.
type Cores interface {
	Do(ctx context.Context, f func(now time.Time, shard int, c *turn.Core)) error
}

// Ours to tune.
const (
	traceBacklog  = 2048 // messages that wait for the reader; more are lost, and the transcript says so
	traceMessages = 1000 // of one session: what turn.Core.Trace gives
	traceLook     = 5 * time.Second
)

// Tracer gives what cores report of traced sessions to who asked for it. Its zero value is ready. It is safe for concurrent use.
type Tracer struct {
	active atomic.Bool // something is traced
	mu     sync.Mutex
	byID   map[turn.SessionID]*reader
	next   *reader // who waits for new sessions
}

// reader is one trace that runs.
type reader struct {
	lines chan traced
	stray chan turn.SessionID    // sessions that a core traces and nobody wants: each shard counts for itself
	want  int                    // sessions still to come
	mine  map[turn.SessionID]int // messages written of each, -1 when it gives no more; of the loop alone
	lost  int
}

// traced is a message, or the end of a session.
type traced struct {
	id     turn.SessionID
	at     time.Time
	out    bool
	data   []byte
	ended  bool
	reason turn.EndReason
	lost   int // messages before this one that had no room
}

// Take looks through the events of a shard for messages of traced sessions. It does not block, keeps the messages, and does not
// change the slice: call it before logging's Put, which does.
func (t *Tracer) Take(events []turn.Event) {
	if !t.active.Load() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range events {
		switch e := &events[i]; e.Kind {
		case turn.EventTrace:
			id := e.Session.ID
			r := t.byID[id]
			if r == nil && t.next != nil {
				if r = t.next; r.want > 0 {
					r.want--
					t.byID[id] = r
				} else {
					select {
					case r.stray <- id:
					default:
					}
					continue
				}
			}
			if r != nil {
				r.put(traced{id: id, at: e.At, out: e.Out, data: e.Data})
			}
		case turn.EventEnded:
			if r := t.byID[e.Session.ID]; r != nil {
				r.put(traced{id: e.Session.ID, at: e.At, ended: true, reason: e.Reason})
			}
		}
	}
}

func (r *reader) put(v traced) {
	v.lost = r.lost
	select {
	case r.lines <- v:
		r.lost = 0
	default:
		r.lost++
	}
}

// Run traces: it begins on the cores, writes a transcript line by line, and ends when the sessions have ended, each has had its 1,000
// messages, ctx ends, or w fails. It fails with an *Error when the session does not exist or cannot be traced.
func (t *Tracer) Run(ctx context.Context, cores Cores, req TraceRequest, w io.Writer) (err error) {
	if req.Session != 0 {
		req.Count = 1
	}
	r := &reader{lines: make(chan traced, traceBacklog), stray: make(chan turn.SessionID, maxTraceCount), mine: map[turn.SessionID]int{}, want: req.Count}
	if err := t.register(r, req); err != nil {
		return err
	}
	run := &traceRun{Tracer: t, cores: cores, r: r, req: req, w: w, begin: time.Now()}
	defer run.stop()
	if err := run.start(ctx); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(w, "%s\n# %s\n", traceHeader, run.title()); err != nil {
		return err
	}
	return run.loop(ctx)
}

func (t *Tracer) register(r *reader, req TraceRequest) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID == nil {
		t.byID = make(map[turn.SessionID]*reader)
	}
	busy := &Error{http.StatusConflict, "it is traced already", "end the other `stile sessions trace` first"}
	switch {
	case req.Session == 0 && t.next != nil, req.Session != 0 && t.byID[req.Session] != nil:
		return busy
	case req.Session == 0:
		t.next = r
	default:
		t.byID[req.Session] = r
	}
	t.active.Store(true)
	return nil
}

// traceRun is one call of Run.
type traceRun struct {
	*Tracer
	cores Cores
	r     *reader
	req   TraceRequest
	w     io.Writer
	begin time.Time
	done  int  // sessions that gave all they will
	armed bool // the cores wait for new sessions
}

func (t *traceRun) title() string {
	if t.req.Session != 0 {
		return "session " + t.req.Session.String()
	}
	return fmt.Sprintf("the next %d sessions of the clients that were asked for", t.req.Count) // whose addresses are nobody's business
}

// start tells the cores. The Tracer's lock is not held: a core that reports takes it.
func (t *traceRun) start(ctx context.Context) error {
	if t.req.Session == 0 {
		t.armed = true
		return t.cores.Do(ctx, func(_ time.Time, _ int, c *turn.Core) { c.TraceNext(t.req.Clients, t.req.Count) })
	}
	id, begun := t.req.Session, false
	if err := t.cores.Do(ctx, func(now time.Time, _ int, c *turn.Core) { begun = c.Trace(now, id) || begun }); err != nil {
		return err
	}
	if begun {
		t.r.mine[id] = 0
		return nil
	}
	living, err := t.living(ctx)
	switch {
	case err != nil:
		return err
	case living[id]:
		return &Error{http.StatusConflict, "too many sessions are traced", "end another `stile sessions trace` first"}
	}
	return noSession(id)
}

func (t *traceRun) living(ctx context.Context) (map[turn.SessionID]bool, error) {
	var all []turn.Session
	if err := t.cores.Do(ctx, func(now time.Time, _ int, c *turn.Core) { all = c.Sessions(now, all) }); err != nil {
		return nil, err
	}
	ids := make(map[turn.SessionID]bool, len(all))
	for i := range all {
		ids[all[i].ID] = true
	}
	return ids, nil
}

// stop tells the cores that nobody listens any more. It has its own time: ctx of Run may have ended.
func (t *traceRun) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), defaultTimeouts.call)
	defer cancel()
	if t.armed {
		t.disarm(ctx)
	}
	t.mu.Lock()
	var ids []turn.SessionID
	for id, r := range t.byID {
		if r == t.r {
			ids = append(ids, id)
		}
	}
	t.mu.Unlock()
	for len(t.r.stray) > 0 {
		ids = append(ids, <-t.r.stray)
	}
	// The sessions are this reader's until no core reports them: else another that waits for new ones would take them for its own.
	t.untrace(ctx, ids...)
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, id := range ids {
		if t.byID[id] == t.r {
			delete(t.byID, id)
		}
	}
	if t.next == t.r {
		t.next = nil
	}
	t.active.Store(len(t.byID) > 0 || t.next != nil)
}

func (t *traceRun) disarm(ctx context.Context) error {
	t.armed = false
	return t.cores.Do(ctx, func(_ time.Time, _ int, c *turn.Core) { c.TraceNext(netip.Prefix{}, 0) })
}

func (t *traceRun) untrace(ctx context.Context, ids ...turn.SessionID) error {
	if len(ids) == 0 {
		return nil
	}
	return t.cores.Do(ctx, func(_ time.Time, _ int, c *turn.Core) {
		for _, id := range ids {
			c.Untrace(id)
		}
	})
}

func (t *traceRun) loop(ctx context.Context) error {
	look := time.NewTicker(traceLook)
	defer look.Stop()
	for t.done < t.req.Count {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case v := <-t.r.lines:
			if err := t.write(v); err != nil {
				return err
			}
			if t.armed && len(t.r.mine) == t.req.Count {
				if err := t.disarm(ctx); err != nil {
					return err
				}
			}
		case id := <-t.r.stray:
			if err := t.untrace(ctx, id); err != nil {
				return err
			}
		case <-look.C: // an unconfirmed session ends without an event
			living, err := t.living(ctx)
			if err != nil {
				return err
			}
			for id, n := range t.r.mine {
				if n >= 0 && !living[id] && len(t.r.lines) == 0 {
					if err := t.end(id, "session "+id.String()+" ended unconfirmed"); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

// end says that a session gives no more.
func (t *traceRun) end(id turn.SessionID, why string) error {
	t.r.mine[id] = -1
	t.done++
	_, err := fmt.Fprintf(t.w, "# %s\n", why)
	return err
}

func (t *traceRun) write(v traced) error {
	n := t.r.mine[v.id]
	if n < 0 {
		return nil
	}
	if v.lost > 0 {
		if _, err := fmt.Fprintf(t.w, "# %d messages lost: the reader was slow\n", v.lost); err != nil {
			return err
		}
	}
	if v.ended {
		return t.end(v.id, fmt.Sprintf("session %s ended: %s", v.id, v.reason))
	}
	t.r.mine[v.id] = n + 1
	line := TraceMessage{At: max(0, v.at.Sub(t.begin)), Session: v.id.String(), Out: v.out, Data: v.data}
	if _, err := t.w.Write(line.AppendTo(nil)); err != nil {
		return err
	}
	if n+1 == traceMessages {
		return t.end(v.id, fmt.Sprintf("session %s: %d messages, the most of one trace", v.id, traceMessages))
	}
	return nil
}
