package admin

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"time"
)

// ClientConfig says where the server is, by the same keys of the configuration.
type ClientConfig struct {
	Listen    netip.AddrPort // admin.listen; an unspecified address is asked on loopback
	TokenFile string         // admin.token_file
	Cert      string         // admin.tls.cert: with it the client talks TLS, and only to who has this certificate
}

// Client asks a running server. Its methods may be called by any number of goroutines; all but Trace take at most 15 s. Errors that an
// operator can do something about are an [*Error]; its Code is 0 when no server answered.
type Client struct {
	cfg  ClientConfig
	base string
	http *http.Client
}

const (
	clientTimeout  = 15 * time.Second
	maxAnswerBytes = 16 << 20 // a page of 10,000 sessions is 4 MB
)

// NewClient makes a client. It reads and connects to nothing yet.
func NewClient(cfg ClientConfig) *Client {
	a := cfg.Listen
	switch {
	case a.Addr() == netip.IPv4Unspecified():
		a = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), a.Port())
	case a.Addr() == netip.IPv6Unspecified():
		a = netip.AddrPortFrom(netip.IPv6Loopback(), a.Port())
	}
	cfg.Listen = a
	c := &Client{cfg: cfg, base: "http://" + a.String()}
	transport := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext, // no proxy of the environment
		TLSHandshakeTimeout: 5 * time.Second, MaxIdleConnsPerHost: 1, DisableCompression: true,
	}
	if cfg.Cert != "" {
		c.base = "https://" + a.String()
		transport.TLSClientConfig = &tls.Config{
			MinVersion: tls.VersionTLS12,
			// The address is no name in the certificate. What proves the server is that it has the certificate of the file.
			InsecureSkipVerify: true,
			VerifyConnection:   c.verify,
		}
	}
	c.http = &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // a token goes nowhere else
	}
	return c
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// verify compares the server's certificate with that of the file, which is read now: it may have been renewed.
func (c *Client) verify(s tls.ConnectionState) error {
	b, err := os.ReadFile(c.cfg.Cert)
	if err != nil {
		return &Error{0, fmt.Sprintf("admin.tls.cert: %v", err), "run as a user who may read it"}
	}
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			return &Error{0, fmt.Sprintf("admin.tls.cert: %s has no certificate", c.cfg.Cert), "name a PEM file"}
		}
		if block.Type == "CERTIFICATE" {
			if len(s.PeerCertificates) > 0 && bytes.Equal(block.Bytes, s.PeerCertificates[0].Raw) {
				return nil
			}
			return &Error{0, fmt.Sprintf("%s answers with another certificate than %s", c.cfg.Listen, c.cfg.Cert), "see which program has the port"}
		}
	}
}

// request is one question.
type request struct {
	method, path string
	query        url.Values
	token        bool // without TLS too
}

// send returns the answer of a status below 300; the caller closes its body.
func (c *Client) send(ctx context.Context, q request) (*http.Response, error) {
	target := c.base + q.path
	if len(q.query) > 0 {
		target += "?" + q.query.Encode()
	}
	r, err := http.NewRequestWithContext(ctx, q.method, target, nil)
	if err != nil {
		return nil, err
	}
	if q.token || c.cfg.Cert != "" {
		token, err := readToken(c.cfg.TokenFile)
		if err != nil {
			return nil, c.tokenError(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, c.connectError(ctx, err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	e := &Error{Code: resp.StatusCode}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswerBytes)).Decode(e); err != nil || e.Message == "" {
		e.Message = fmt.Sprintf("%s answers %s", c.cfg.Listen, resp.Status)
		e.Remedy = "see which program has the port, and whether admin.tls.cert fits the server"
	}
	return nil, e
}

// tokenError says what to do about a token that cannot be read.
func (c *Client) tokenError(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return unanswered{&Error{0, fmt.Sprintf("no token in %s", c.cfg.TokenFile), "is `stile serve` running, with the same admin.token_file and as a user whose state.dir this is?"}}
	}
	return &Error{0, err.Error(), ""}
}

func (c *Client) connectError(ctx context.Context, err error) error {
	var e *Error
	var record tls.RecordHeaderError
	var timeout net.Error
	switch {
	case errors.As(err, &e):
		return e
	case ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	case errors.Is(err, http.ErrSchemeMismatch), errors.As(err, &record):
		return &Error{0, fmt.Sprintf("%s does not speak TLS as configured", c.cfg.Listen), "does `stile serve` run with the same admin.tls?"}
	case errors.As(err, &timeout) && timeout.Timeout():
		return &Error{0, fmt.Sprintf("the server on %s does not answer in time", c.cfg.Listen), "see its log"}
	}
	return unanswered{&Error{0, fmt.Sprintf("no server answers on %s", c.cfg.Listen), "is `stile serve` running, with the same admin.listen?"}}
}

// ErrNoServer is what an error is, for errors.Is, if nothing listens or no server has made its token yet.
var ErrNoServer = errors.New("no server answers")

type unanswered struct{ e *Error }

func (u unanswered) Error() string     { return u.e.Error() }
func (u unanswered) Unwrap() error     { return u.e }
func (u unanswered) Is(err error) bool { return err == ErrNoServer }

// do sends and decodes the answer.
func (c *Client) do(ctx context.Context, q request, into any) error {
	ctx, cancel := context.WithTimeout(ctx, clientTimeout)
	defer cancel()
	resp, err := c.send(ctx, q)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswerBytes)).Decode(into); err != nil {
		return &Error{resp.StatusCode, fmt.Sprintf("the answer of %s cannot be read: %v", c.cfg.Listen, err), "see which program has the port"}
	}
	return nil
}

// Status is the server at a glance.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	v := new(Status)
	return v, c.do(ctx, request{method: http.MethodGet, path: "/api/v1/status"}, v)
}

func (q SessionQuery) values() url.Values {
	values := url.Values{}
	if q.Client.IsValid() {
		values.Set("client", q.Client.String())
	}
	if q.Limit > 0 {
		values.Set("limit", strconv.Itoa(q.Limit))
	}
	if q.After != "" {
		values.Set("after", q.After)
	}
	return values
}

// Sessions is one page of sessions.
func (c *Client) Sessions(ctx context.Context, q SessionQuery) (*SessionList, error) {
	v := new(SessionList)
	return v, c.do(ctx, request{method: http.MethodGet, path: "/api/v1/sessions", query: q.values()}, v)
}

// AllSessions is all pages. Sessions that begin or end meanwhile may be there or not.
func (c *Client) AllSessions(ctx context.Context, client netip.Prefix) ([]Session, error) {
	var all []Session
	q := SessionQuery{Client: client, Limit: maxSessions}
	for {
		page, err := c.Sessions(ctx, q)
		if err != nil {
			return nil, err
		}
		all = append(all, page.Sessions...)
		if page.Next == "" {
			return all, nil
		}
		q.After = page.Next
	}
}

// Kill ends a session.
func (c *Client) Kill(ctx context.Context, id string) error {
	return c.do(ctx, request{method: http.MethodDelete, path: "/api/v1/sessions/" + url.PathEscape(id), token: true}, new(Done))
}

// Drain tells the server to take no new sessions and to end when the old ones have.
func (c *Client) Drain(ctx context.Context) error {
	return c.do(ctx, request{method: http.MethodPost, path: "/api/v1/drain", token: true}, new(Done))
}

// Reload tells the server to read its configuration again.
func (c *Client) Reload(ctx context.Context) (*Reloaded, error) {
	v := new(Reloaded)
	return v, c.do(ctx, request{method: http.MethodPost, path: "/api/v1/reload", token: true}, v)
}

// Trace writes the transcript of a session to w, line by line, until the session ends or ctx does, which is no error.
func (c *Client) Trace(ctx context.Context, id string, w io.Writer) error {
	return c.trace(ctx, request{method: http.MethodPost, path: "/api/v1/sessions/" + url.PathEscape(id) + "/trace", token: true}, w)
}

// TraceNext is Trace for the next count sessions of these clients, each from its first message.
func (c *Client) TraceNext(ctx context.Context, clients netip.Prefix, count int, w io.Writer) error {
	q := url.Values{"client": {clients.String()}, "count": {strconv.Itoa(count)}}
	return c.trace(ctx, request{method: http.MethodPost, path: "/api/v1/trace", query: q, token: true}, w)
}

func (c *Client) trace(ctx context.Context, q request, w io.Writer) error {
	resp, err := c.send(ctx, q)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(w, resp.Body)
	switch {
	case ctx.Err() != nil:
		return nil
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &Error{0, "the server ended in the middle of the transcript", "see its log"}
	}
	return err
}
