package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/stilenet/stile/rendezvous"
	"github.com/stilenet/stile/turn"
	"github.com/stilenet/stile/turn/dataplane"
)

// Pages of sessions and counts of traces.
const (
	defaultSessions = 1000
	maxSessions     = 10_000 // 4 MB of JSON
	maxTraceCount   = 16     // sessions of one trace: as many as a core traces
)

func reply(w http.ResponseWriter, code int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)+1))
	w.WriteHeader(code)
	w.Write(append(b, '\n')) // an error is the reader's going
	return nil
}

// fail answers with an error.
func fail(w http.ResponseWriter, err error) {
	e := asError(err)
	reply(w, e.Code, struct {
		Version int `json:"version"`
		*Error
	}{FormatVersion, e})
}

func asError(err error) *Error {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, dataplane.ErrClosed), errors.Is(err, rendezvous.ErrClosed):
		return &Error{http.StatusServiceUnavailable, "the server is ending", "start it again"}
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{http.StatusServiceUnavailable, "the relay does not answer", "ask again; if it stays so, restart the server and report it with its log"}
	}
	return &Error{http.StatusInternalServerError, err.Error(), ""}
}

func (s *Server) audit(name string, r *http.Request, err error) {
	if s.cfg.Audit != nil {
		s.cfg.Audit(Action{Name: name, Remote: r.RemoteAddr, Session: r.PathValue("id"), Err: err})
	}
}

// query reads the parameters and refuses those that the route has not: a misspelt filter must not pass everything.
func query(r *http.Request, names ...string) (url.Values, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, &Error{http.StatusBadRequest, "the query cannot be read", "write NAME=VALUE, with & between them"}
	}
	for name, values := range q {
		if !slices.Contains(names, name) {
			return nil, &Error{http.StatusBadRequest, fmt.Sprintf("there is no parameter %q", name), fmt.Sprintf("the parameters are %q", names)}
		}
		if len(values) != 1 {
			return nil, &Error{http.StatusBadRequest, fmt.Sprintf("%s is there %d times", name, len(values)), "write it once"}
		}
	}
	return q, nil
}

// ParseClients reads an address or a prefix of clients. Empty is the invalid prefix.
func ParseClients(text string) (netip.Prefix, error) {
	if text == "" {
		return netip.Prefix{}, nil
	}
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, &Error{http.StatusBadRequest, fmt.Sprintf("client: %q is no address and no prefix", text), "write one such as 10.1.2.3 or 10.1.0.0/16"}
	}
	return p.Masked(), nil
}

func number(q url.Values, name string, def, most int) (int, error) {
	text := q.Get(name)
	if text == "" {
		return def, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		return 0, &Error{http.StatusBadRequest, fmt.Sprintf("%s: %q is no number from 1 to %d", name, text, most), "write one"}
	}
	return n, nil
}

func sessionID(text string) (turn.SessionID, error) {
	id, err := turn.ParseSessionID(text)
	if err != nil || id == 0 {
		return 0, &Error{http.StatusBadRequest, fmt.Sprintf("%q is no session's ID", text), "take one that `stile sessions` shows"}
	}
	return id, nil
}

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) error {
	return reply(w, http.StatusOK, struct {
		Version int  `json:"version"`
		Alive   bool `json:"alive"`
	}{FormatVersion, true})
}

func (s *Server) readyz(w http.ResponseWriter, r *http.Request) error {
	reasons := s.cfg.Service.Ready()
	v, code := Readiness{Version: FormatVersion, Ready: len(reasons) == 0, Reasons: reasons}, http.StatusOK
	if !v.Ready {
		code = http.StatusServiceUnavailable
	}
	if s.cfg.Service.Notes != nil {
		v.Notes = s.cfg.Service.Notes()
	}
	if s.certificate != nil && s.authorized(r) != nil {
		v.Reasons, v.Notes = nil, nil
	}
	return reply(w, code, v)
}

func (s *Server) metrics(w http.ResponseWriter, r *http.Request) error {
	s.cfg.Service.Metrics.ServeHTTP(w, r)
	return nil
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.limits.call)
	defer cancel()
	v, err := s.cfg.Service.Status(ctx)
	if err != nil {
		return err
	}
	v.Version = FormatVersion
	if v.Started.IsZero() {
		v.Started = s.started
	}
	v.Uptime = time.Since(v.Started).Round(time.Millisecond).Seconds()
	v.Started = v.Started.UTC()
	return reply(w, http.StatusOK, v)
}

func (s *Server) sessions(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "client", "limit", "after")
	if err != nil {
		return err
	}
	clients, err := ParseClients(q.Get("client"))
	if err != nil {
		return err
	}
	limit, err := number(q, "limit", defaultSessions, maxSessions)
	if err != nil {
		return err
	}
	var after turn.SessionID
	if text := q.Get("after"); text != "" {
		if after, err = sessionID(text); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.limits.call)
	defer cancel()
	all, err := s.cfg.Service.Sessions(ctx)
	if err != nil {
		return err
	}
	if clients.IsValid() {
		all = slices.DeleteFunc(all, func(v turn.Session) bool { return !clients.Contains(v.Client.Addr()) })
	}
	slices.SortFunc(all, func(a, b turn.Session) int {
		switch {
		case a.ID < b.ID:
			return -1
		case a.ID > b.ID:
			return 1
		}
		return 0
	})
	list := SessionList{Version: FormatVersion, Total: len(all), Sessions: []Session{}}
	for i := range all {
		if all[i].ID <= after {
			continue
		}
		if len(list.Sessions) == limit {
			list.Next = list.Sessions[limit-1].Session
			break
		}
		list.Sessions = append(list.Sessions, SessionOf(&all[i]))
	}
	return reply(w, http.StatusOK, list)
}

func (s *Server) kill(w http.ResponseWriter, r *http.Request) (err error) {
	defer func() { s.audit("kill", r, err) }()
	if id, err := rendezvous.ParseSessionID(r.PathValue("id")); err == nil {
		return s.killRTMFP(w, r, id)
	}
	id, err := sessionID(r.PathValue("id"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.limits.call)
	defer cancel()
	found, err := s.cfg.Service.Kill(ctx, id)
	if err != nil {
		return err
	}
	if !found {
		return noSession(id)
	}
	return reply(w, http.StatusOK, Done{Version: FormatVersion, Session: id.String(), Killed: true})
}

func noSession(id turn.SessionID) *Error {
	return &Error{http.StatusNotFound, fmt.Sprintf("there is no session %s", id), "see `stile sessions`; it may have ended"}
}

func (s *Server) drain(w http.ResponseWriter, r *http.Request) (err error) {
	defer func() { s.audit("drain", r, err) }()
	ctx, cancel := context.WithTimeout(r.Context(), s.limits.call)
	defer cancel()
	if err := s.cfg.Service.Drain(ctx); err != nil {
		return err
	}
	return reply(w, http.StatusAccepted, Done{Version: FormatVersion, Draining: true})
}

func (s *Server) reload(w http.ResponseWriter, r *http.Request) (err error) {
	defer func() { s.audit("reload", r, err) }()
	ctx, cancel := context.WithTimeout(r.Context(), s.limits.call)
	defer cancel()
	v, err := s.cfg.Service.Reload(ctx)
	if err != nil {
		var e *Error
		if !errors.As(err, &e) {
			err = &Error{http.StatusUnprocessableEntity, err.Error(), "nothing was changed"}
		}
		return err
	}
	v.Version = FormatVersion
	if v.Changed == nil {
		v.Changed = []string{}
	}
	return reply(w, http.StatusOK, v)
}

type handlerFunc = func(http.ResponseWriter, *http.Request) error

func (s *Server) traceSession(ending context.Context) handlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		id, err := sessionID(r.PathValue("id"))
		if err == nil {
			_, err = query(r)
		}
		if err != nil {
			s.audit("trace", r, err)
			return err
		}
		return s.trace(ending, w, r, TraceRequest{Session: id})
	}
}

func (s *Server) traceNext(ending context.Context) handlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		req, err := func() (req TraceRequest, err error) {
			q, err := query(r, "client", "count")
			if err != nil {
				return req, err
			}
			if req.Clients, err = ParseClients(q.Get("client")); err != nil {
				return req, err
			}
			if !req.Clients.IsValid() {
				return req, &Error{http.StatusBadRequest, "client is missing", "write ?client= and an address or a prefix"}
			}
			req.Count, err = number(q, "count", 1, maxTraceCount)
			return req, err
		}()
		if err != nil {
			s.audit("trace", r, err)
			return err
		}
		return s.trace(ending, w, r, req)
	}
}

// trace streams a transcript. An error before its first line is an answer of its own; later it is a comment in the transcript.
func (s *Server) trace(ending context.Context, w http.ResponseWriter, r *http.Request, req TraceRequest) error {
	rc := http.NewResponseController(w)
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(ending, cancel)()
	out := &stream{w: w, rc: rc, timeout: s.limits.write}
	err := s.cfg.Service.Trace(ctx, req, out)
	if ctx.Err() != nil && !isAnswer(err) {
		err = nil // the reader went, or the server ends
	}
	s.audit("trace", r, err)
	if err != nil && out.begun {
		fmt.Fprintf(out, "# %v\n", err)
		return nil
	}
	return err
}

func isAnswer(err error) bool {
	var e *Error
	return errors.As(err, &e)
}

// stream sends each Write at once, and gives up on a reader that does not take it in time.
type stream struct {
	w       http.ResponseWriter
	rc      *http.ResponseController
	timeout time.Duration
	begun   bool
}

// Write implements io.Writer.
func (s *stream) Write(b []byte) (int, error) {
	if !s.begun {
		s.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		s.begun = true
	}
	if err := s.rc.SetWriteDeadline(time.Now().Add(s.timeout)); err != nil {
		return 0, err
	}
	n, err := s.w.Write(b)
	if err == nil {
		err = s.rc.Flush()
	}
	return n, err
}

var _ io.Writer = (*stream)(nil)
