package admin

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stilenet/stile/turn"
)

// What a trace writes is a transcript as turn.ParseTranscript reads it, of one session: the first that is traced, after the requests without a session
// that were refused before it began. Lines of any other session are comments, so that nothing is lost and the transcript still replays:
//
//	stile-turn-transcript 1
//	# session 1k2f
//	+0s < 000300082112a442…
//	+112µs > 010300202112a442…
//	# session 1k3f: +1.2s < 000300082112a442…
//
// All times are since the first message of all, and sed -n 's/^# session 1k3f: //p' takes another session out.

// TraceRequest says what to trace: a living session, or the next Count sessions of Clients.
type TraceRequest struct {
	Session turn.SessionID
	Clients netip.Prefix // when Session is zero
	Count   int          // sessions, 1 to 16
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
		if e := &events[i]; e.Kind == turn.EventTrace {
			t.message(e)
		}
	}
	// A session ends before the answer to the Refresh that ends it.
	for i := range events {
		if e := &events[i]; e.Kind == turn.EventEnded {
			if r := t.byID[e.Session.ID]; r != nil {
				r.put(traced{id: e.Session.ID, at: e.At, ended: true, reason: e.Reason})
			}
		}
	}
}

// message finds who wants a message.
func (t *Tracer) message(e *turn.Event) {
	id := e.Session.ID
	r := t.byID[id]
	if r == nil && t.next != nil {
		r = t.next
		switch {
		case id == 0: // a refused request, which has no session
		case r.want > 0:
			r.want--
			t.byID[id] = r
		default:
			select {
			case r.stray <- id:
			default: // the next message tells again
			}
			return
		}
	}
	if r != nil {
		r.put(traced{id: id, at: e.At, out: e.Out, data: e.Data})
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
	run := &traceRun{Tracer: t, cores: cores, r: r, req: req, w: w}
	defer run.stop()
	if err := run.start(ctx); err != nil {
		return err
	}
	// The first line goes out at once: it tells the reader that the trace has begun.
	if _, err := w.Write(fmt.Appendf(turn.AppendTranscriptHeader(nil), "# %s\n", run.title())); err != nil {
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
	done  int            // sessions that gave all they will
	armed bool           // the cores wait for new sessions
	first turn.SessionID // whose transcript it is; 0: none has begun
	begin time.Time      // of the first message
	last  time.Duration  // of the last one: shards may overtake each other, a transcript does not go back
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
	ids := t.adopted()
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
		case <-look.C:
			if err := t.look(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// look notices what no event tells: the end of an unconfirmed session, and what had no room.
func (t *traceRun) look(ctx context.Context) error {
	adopted := t.adopted()
	if t.armed && len(adopted) == t.req.Count {
		if err := t.disarm(ctx); err != nil {
			return err
		}
	}
	living, err := t.living(ctx)
	if err != nil || len(t.r.lines) > 0 { // what waits may be the end itself
		return err
	}
	t.mu.Lock()
	lost := t.r.lost
	t.r.lost = 0
	t.mu.Unlock()
	if err := t.sayLost(lost); err != nil {
		return err
	}
	for _, id := range adopted {
		if t.r.mine[id] >= 0 && !living[id] {
			if err := t.end(id, fmt.Sprintf("session %s is gone", id)); err != nil {
				return err
			}
		}
	}
	return nil
}

// adopted lists the sessions that are this reader's.
func (t *traceRun) adopted() (ids []turn.SessionID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, r := range t.byID {
		if r == t.r {
			ids = append(ids, id)
		}
	}
	return ids
}

// end says that a session gives no more.
func (t *traceRun) end(id turn.SessionID, why string) error {
	t.r.mine[id] = -1
	t.done++
	_, err := fmt.Fprintf(t.w, "# %s\n", why)
	return err
}

func (t *traceRun) write(v traced) error {
	if err := t.sayLost(v.lost); err != nil {
		return err
	}
	n := t.r.mine[v.id]
	if n < 0 {
		return nil
	}
	if v.ended {
		return t.end(v.id, fmt.Sprintf("session %s ended: %s", v.id, v.reason))
	}
	if _, err := t.w.Write(t.line(v)); err != nil || v.id == 0 {
		return err
	}
	t.r.mine[v.id] = n + 1
	if n+1 == traceMessages {
		return t.end(v.id, fmt.Sprintf("session %s: %d messages, the most of one trace", v.id, traceMessages))
	}
	return nil
}

func (t *traceRun) sayLost(n int) (err error) {
	if n > 0 {
		_, err = fmt.Fprintf(t.w, "# %d messages lost: the reader was slow\n", n)
	}
	return err
}

// line is the line of a message.
func (t *traceRun) line(v traced) (b []byte) {
	if t.begin.IsZero() {
		t.begin = v.at
	}
	t.last = max(t.last, v.at.Sub(t.begin))
	switch {
	case v.id == 0 && t.first != 0:
		b = append(b, "# without a session: "...)
	case v.id == 0, v.id == t.first:
	case t.first == 0:
		t.first = v.id
		if t.req.Session == 0 {
			b = fmt.Appendf(b, "# session %s\n", v.id)
		}
	default:
		b = fmt.Appendf(b, "# session %s: ", v.id)
	}
	m := turn.TranscriptMessage{At: t.last, Out: v.out, Data: v.data}
	return m.Append(b)
}
