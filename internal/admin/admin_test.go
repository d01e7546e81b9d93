package admin

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stilenet/stile/internal/logging"
	"github.com/stilenet/stile/turn"
	"github.com/stilenet/stile/turn/dataplane"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var loopback = netip.MustParseAddrPort("127.0.0.1:0")

// fake is a server as the listener sees it.
type fake struct {
	mu       sync.Mutex
	list     []turn.Session
	reasons  []string
	drained  int
	reload   error
	status   error
	trace    func(ctx context.Context, r TraceRequest, w io.Writer) error
	actions  []Action
	problems []string
}

func (f *fake) service() Service {
	return Service{
		Status: func(context.Context) (Status, error) {
			return Status{Build: Build{Version: "v1"}, Started: time.Now().Add(-time.Minute), Clients: "everybody here"}, f.status
		},
		Sessions: func(context.Context) ([]turn.Session, error) { return slices.Clone(f.list), nil },
		Kill: func(_ context.Context, id turn.SessionID) (bool, error) {
			n := len(f.list)
			f.list = slices.DeleteFunc(f.list, func(s turn.Session) bool { return s.ID == id })
			return len(f.list) < n, nil
		},
		Trace: func(ctx context.Context, r TraceRequest, w io.Writer) error { return f.trace(ctx, r, w) },
		Drain: func(context.Context) error { f.drained++; return nil },
		Reload: func(context.Context) (Reloaded, error) {
			return Reloaded{Changed: []string{"log.level: debug"}}, f.reload
		},
		Ready:   func() []string { return f.reasons },
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "stile_x 1\n") }),
	}
}

func (f *fake) audit(a Action) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.actions = append(f.actions, a)
}

func (f *fake) problem(line string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.problems = append(f.problems, line)
}

// some sessions: IDs 1 to n, of 10.0.0.1, 10.0.1.2, 10.0.2.3, …
func some(n int) (list []turn.Session) {
	for i := n; i >= 1; i-- {
		list = append(list, turn.Session{
			ID: turn.SessionID(i), Client: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i - 1), byte(i)}), 4000), Server: loopback,
			Relayed: netip.MustParseAddrPort("198.51.100.1:50000"), Stream: i%2 == 0, Started: time.Unix(int64(i), 0),
		})
	}
	return list
}

// start serves until the test ends. change may be nil.
func start(t *testing.T, f *fake, change func(*Config, *timeouts)) *Server {
	t.Helper()
	cfg := Config{Listen: loopback, TokenFile: filepath.Join(t.TempDir(), "state", "admin.token"), Service: f.service(), Audit: f.audit, Problem: f.problem}
	limits := defaultTimeouts
	if change != nil {
		change(&cfg, &limits)
	}
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.limits = limits
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error("Serve:", err)
		}
	})
	return s
}

func (s *Server) client(t *testing.T) *Client {
	c := NewClient(ClientConfig{Listen: s.addr, TokenFile: s.cfg.TokenFile, Cert: s.cfg.Cert})
	t.Cleanup(c.Close)
	return c
}

func (s *Server) token(t *testing.T) string {
	t.Helper()
	token, err := readToken(s.cfg.TokenFile)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// exchange sends a request as it stands and reads the answer.
func exchange(t *testing.T, conn net.Conn, text string) (*http.Response, string) {
	t.Helper()
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(text, " ")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

func (s *Server) dial(t *testing.T) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", s.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestEachRequestThatIsNotForUsIsRefused(t *testing.T) {
	f := &fake{list: some(1)}
	s := start(t, f, nil)
	own := "Host: " + s.addr.String() + "\r\n"
	auth := "Authorization: Bearer " + s.token(t) + "\r\n"
	const browser = "Sec-Fetch-Site: cross-site\r\n"
	for _, c := range []struct {
		name, line, headers string
		want                int
		says                string
	}{
		{"own address", "GET /api/v1/status", own, 200, `"version":1`},
		{"localhost", "GET /api/v1/status", "Host: localhost:9478\r\n", 200, ""},
		{"localhost of a forwarded port", "GET /api/v1/status", "Host: LOCALHOST.:1\r\n", 200, ""},
		{"IPv6 loopback", "GET /api/v1/status", "Host: [::1]:9478\r\n", 200, ""},
		{"HEAD", "HEAD /api/v1/status", own, 200, ""},
		{"a name pointed here", "GET /api/v1/status", "Host: attacker.example\r\n", 403, "another server"},
		{"a name like ours", "GET /healthz", "Host: localhost.attacker.example\r\n", 403, ""},
		{"another address", "GET /healthz", "Host: 192.0.2.1:9478\r\n", 403, ""},
		{"an address in a name", "GET /healthz", "Host: 127.0.0.1.nip.example\r\n", 403, ""},
		{"a user in front", "GET /healthz", "Host: attacker@127.0.0.1\r\n", 400, "malformed"},
		{"empty host", "GET /healthz", "Host: \r\n", 403, ""},
		{"foreign target", "GET http://attacker.example/healthz", own, 403, ""},
		{"same origin", "GET /healthz", own + "Origin: http://" + s.addr.String() + "\r\n", 200, ""},
		{"foreign origin", "GET /healthz", own + "Origin: http://attacker.example\r\n", 403, "web page"},
		{"foreign origin with the token", "POST /api/v1/drain", own + auth + "Origin: http://attacker.example\r\n", 403, ""},
		{"no origin", "GET /healthz", own + "Origin: null\r\n", 403, ""},
		{"origin of another port", "GET /healthz", own + "Origin: http://127.0.0.1:80\r\n", 403, ""},
		{"origin of another scheme", "GET /healthz", own + "Origin: https://" + s.addr.String() + "\r\n", 403, ""},
		{"two origins", "GET /healthz", own + "Origin: http://" + s.addr.String() + "\r\nOrigin: http://x.example\r\n", 403, ""},
		{"an image in a page", "GET /metrics", own + browser + "Sec-Fetch-Mode: no-cors\r\n", 403, ""},
		{"a form in a page", "POST /api/v1/drain", own + auth + browser + "Sec-Fetch-Mode: navigate\r\n", 403, ""},
		{"a link in a page", "GET /metrics", own + browser + "Sec-Fetch-Mode: navigate\r\n", 200, ""},
		{"typed", "GET /metrics", own + "Sec-Fetch-Site: none\r\n", 200, ""},
		{"change without token", "POST /api/v1/drain", own, 401, "admin.token_file"},
		{"change with a wrong token", "POST /api/v1/drain", own + "Authorization: Bearer x\r\n", 401, "wrong"},
		{"change with a part of the token", "POST /api/v1/drain", own + auth[:len(auth)-4] + "\r\n", 401, ""},
		{"change with basic authentication", "POST /api/v1/drain", own + "Authorization: Basic " + s.token(t) + "\r\n", 401, ""},
		{"trace without token", "POST /api/v1/sessions/1/trace", own, 401, ""},
		{"next trace without token", "POST /api/v1/trace?client=10.0.0.1", own, 401, ""},
		{"kill without token", "DELETE /api/v1/sessions/1", own, 401, ""},
		{"reload without token", "POST /api/v1/reload", own, 401, ""},
		{"drain by GET", "GET /api/v1/drain", own + auth, 405, "use POST"},
		{"kill by POST", "POST /api/v1/sessions/1", own + auth, 405, "use DELETE"},
		{"status by PUT", "PUT /api/v1/status", own + auth, 405, "use GET, HEAD"},
		{"preflight", "OPTIONS /api/v1/drain", own, 405, ""},
		{"nothing there", "GET /api/v2/status", own, 404, ""},
		{"root", "GET /", own, 404, ""},
		{"dots", "GET /api/v1/../../healthz", own, 404, ""},
		{"slashes", "GET //healthz", own, 404, ""},
		{"slash behind", "GET /healthz/", own, 404, ""},
		{"body", "POST /api/v1/drain", own + auth + "Content-Length: 1\r\n", 413, ""},
		{"body without an end", "POST /api/v1/drain", own + auth + "Transfer-Encoding: chunked\r\n", 413, ""},
		{"unknown parameter", "GET /api/v1/sessions?clients=10.0.0.1", own, 400, "clients"},
		{"parameter twice", "GET /api/v1/sessions?limit=1&limit=2", own, 400, "2 times"},
		{"parameter of none", "GET /api/v1/status?x=1", own, 400, ""},
		{"bad query", "GET /api/v1/sessions?limit=%zz", own, 400, ""},
		{"bad client", "GET /api/v1/sessions?client=me", own, 400, "10.1.0.0/16"},
		{"bad limit", "GET /api/v1/sessions?limit=0", own, 400, ""},
		{"limit too large", "GET /api/v1/sessions?limit=10001", own, 400, ""},
		{"bad cursor", "GET /api/v1/sessions?after=-", own, 400, ""},
		{"bad session", "DELETE /api/v1/sessions/..-", own + auth, 400, ""},
		{"no such session", "DELETE /api/v1/sessions/zz", own + auth, 404, "there is no session zz"},
		{"trace of nobody", "POST /api/v1/trace", own + auth, 400, "client is missing"},
		{"trace of too many", "POST /api/v1/trace?client=10.0.0.1&count=17", own + auth, 400, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			body := ""
			if c.want == 413 {
				body = "1\r\nx\r\n0\r\n\r\n" // enough of one for the server to see it
			}
			resp, got := exchange(t, s.dial(t), c.line+" HTTP/1.1\r\n"+c.headers+"\r\n"+body)
			if resp.StatusCode != c.want || !strings.Contains(got, c.says) {
				t.Fatalf("%s: %s, want %d and %q", resp.Status, got, c.want, c.says)
			}
			if c.want == 200 || c.says == "malformed" { // the handler's answer; net/http's own
				return
			}
			var e struct {
				Version int
				Error   string
				Remedy  string
			}
			if err := json.Unmarshal([]byte(got), &e); err != nil || e.Version != FormatVersion || e.Error == "" || e.Remedy == "" {
				t.Errorf("no error as JSON: %s", got)
			}
			for name, want := range map[string]string{
				"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
				"Content-Type": "application/json", "Access-Control-Allow-Origin": "",
			} {
				if resp.Header.Get(name) != want {
					t.Errorf("%s: %q, want %q", name, resp.Header.Get(name), want)
				}
			}
			if (c.want == 405) != (resp.Header.Get("Allow") != "") || (c.want == 401) != (resp.Header.Get("WWW-Authenticate") != "") {
				t.Errorf("headers of a %d: %v", c.want, resp.Header)
			}
		})
	}
	if f.drained != 0 || len(f.list) != 1 {
		t.Errorf("a refused request drained %d times, left %d sessions", f.drained, len(f.list))
	}
}

func TestAHeaderWithoutAnEndIsNotKept(t *testing.T) {
	s := start(t, &fake{}, nil)
	conn := s.dial(t)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	line := []byte("X: " + strings.Repeat("x", 1000) + "\r\n")
	io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
	for sent := 0; ; sent += len(line) {
		if _, err := conn.Write(line); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
			return // cut
		}
		if sent > 64<<20 { // more than the buffers of both sockets
			t.Fatal("the header may have any length")
		}
	}
}

func TestReadinessFollowsTheReasons(t *testing.T) {
	f := &fake{}
	s := start(t, f, nil)
	get := "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"
	if resp, body := exchange(t, s.dial(t), get); resp.StatusCode != 200 || body != `{"version":1,"ready":true}`+"\n" {
		t.Error(resp.Status, body)
	}
	f.reasons = []string{"draining"}
	if resp, body := exchange(t, s.dial(t), get); resp.StatusCode != 503 || body != `{"version":1,"ready":false,"reasons":["draining"]}`+"\n" {
		t.Error(resp.Status, body)
	}
	if resp, body := exchange(t, s.dial(t), "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"); resp.StatusCode != 200 || body != `{"version":1,"alive":true}`+"\n" {
		t.Error(resp.Status, body)
	}
}

func TestTheClientDoesWhatTheCommandsNeed(t *testing.T) {
	f := &fake{list: some(5)}
	f.trace = func(_ context.Context, r TraceRequest, w io.Writer) error {
		if r.Session == 9 {
			return noSession(9)
		}
		_, err := fmt.Fprintf(w, "%v %v %d\n", r.Session, r.Clients, r.Count)
		return err
	}
	s := start(t, f, nil)
	c := s.client(t)
	ctx := t.Context()

	st, err := c.Status(ctx)
	if err != nil || st.Version != FormatVersion || st.Build.Version != "v1" || st.Clients != "everybody here" || st.Uptime < 60 || st.Uptime > 120 {
		t.Errorf("%+v %v", st, err)
	}

	page, err := c.Sessions(ctx, SessionQuery{Limit: 2})
	if err != nil || page.Total != 5 || len(page.Sessions) != 2 || page.Next != "2" || page.Sessions[0].Session != "1" || page.Sessions[1].Transport != "tcp" {
		t.Errorf("first page: %+v %v", page, err)
	}
	page, err = c.Sessions(ctx, SessionQuery{Limit: 3, After: "2"})
	if err != nil || len(page.Sessions) != 3 || page.Next != "" {
		t.Errorf("last page: %+v %v", page, err)
	}
	page, err = c.Sessions(ctx, SessionQuery{Client: netip.MustParsePrefix("10.0.0.0/23")})
	if err != nil || page.Total != 2 || page.Sessions[1].Client != "10.0.1.2:4000" {
		t.Errorf("of a prefix: %+v %v", page, err)
	}
	page, err = c.Sessions(ctx, SessionQuery{Client: netip.MustParsePrefix("192.0.2.0/24")})
	if err != nil || page.Total != 0 || page.Sessions == nil {
		t.Errorf("of nobody: %+v %v", page, err)
	}

	if err := c.Kill(ctx, "3"); err != nil || len(f.list) != 4 {
		t.Error(err, len(f.list))
	}
	wantError(t, c.Kill(ctx, "3"), 404, "there is no session 3: see `stile sessions`")
	wantError(t, c.Kill(ctx, "-"), 400, "is no session's ID")
	if err := c.Drain(ctx); err != nil || f.drained != 1 {
		t.Error(err, f.drained)
	}
	if r, err := c.Reload(ctx); err != nil || r.Version != FormatVersion || !slices.Equal(r.Changed, []string{"log.level: debug"}) {
		t.Error(r, err)
	}
	f.reload = errors.New("config: log.level: \"x\" is not one of trace: write one of them")
	_, err = c.Reload(ctx)
	wantError(t, err, 422, "config: log.level: \"x\" is not one of trace: write one of them: nothing was changed")

	var out bytes.Buffer
	if err := c.Trace(ctx, "a1", &out); err != nil {
		t.Error(err)
	}
	if err := c.TraceNext(ctx, netip.MustParsePrefix("10.0.0.0/8"), 3, &out); err != nil {
		t.Error(err)
	}
	if out.String() != "a1 invalid Prefix 0\n0 10.0.0.0/8 3\n" {
		t.Errorf("%q", out.String())
	}
	wantError(t, c.Trace(ctx, "9", &out), 404, "there is no session 9")

	var names []string
	for _, a := range f.actions {
		names = append(names, fmt.Sprint(a.Name, " ", a.Session, " ", a.Err != nil))
		if p, err := netip.ParseAddrPort(a.Remote); err != nil || !p.Addr().IsLoopback() {
			t.Errorf("remote %q", a.Remote)
		}
	}
	if want := []string{"kill 3 false", "kill 3 true", "kill - true", "drain  false", "reload  false", "reload  true", "trace a1 false", "trace  false", "trace 9 true"}; !slices.Equal(names, want) {
		t.Errorf("audit: %q", names)
	}
}

func wantError(t *testing.T, err error, code int, says string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Error(), says) {
		t.Errorf("got %v, want %d with %q", err, code, says)
	}
}

func TestAServerThatDoesNotAnswerIsSaid(t *testing.T) {
	f := &fake{}
	c := start(t, f, nil).client(t)
	for _, v := range []struct {
		err  error
		code int
	}{{context.DeadlineExceeded, 503}, {fmt.Errorf("x: %w", dataplane.ErrClosed), 503}, {errors.New("x"), 500}, {&Error{Code: 418, Message: "x"}, 418}} {
		f.status = v.err
		_, err := c.Status(t.Context())
		wantError(t, err, v.code, "")
	}
}

func TestClientErrorsSayWhatToDo(t *testing.T) {
	f := &fake{}
	s := start(t, f, nil)
	ctx := t.Context()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := l.Addr().(*net.TCPAddr).AddrPort()
	l.Close()
	c := NewClient(ClientConfig{Listen: free})
	_, err = c.Status(ctx)
	wantError(t, err, 0, fmt.Sprintf("no server answers on %v: is `stile serve` running", free))

	c = NewClient(ClientConfig{Listen: s.addr, TokenFile: filepath.Join(t.TempDir(), "none")})
	defer c.Close()
	wantError(t, c.Drain(ctx), 0, "is `stile serve` running")
	if _, err := c.Status(ctx); err != nil {
		t.Errorf("reading needs no token: %v", err)
	}

	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, []byte(strings.Repeat("0", 64)), 0o600); err != nil {
		t.Fatal(err)
	}
	c = NewClient(ClientConfig{Listen: s.addr, TokenFile: other})
	defer c.Close()
	wantError(t, c.Drain(ctx), 401, "the token is wrong")
	if err := os.Chmod(other, 0o640); err != nil {
		t.Fatal(err)
	}
	wantError(t, c.Drain(ctx), 0, "run chmod 600")
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := c.Status(canceled); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestClientOfAllAddressesAsksLoopback(t *testing.T) {
	for listen, want := range map[string]string{
		"0.0.0.0:1": "http://127.0.0.1:1", "[::]:1": "http://[::1]:1", "127.0.0.9:1": "http://127.0.0.9:1",
	} {
		if c := NewClient(ClientConfig{Listen: netip.MustParseAddrPort(listen)}); c.base != want {
			t.Errorf("%s: %s, want %s", listen, c.base, want)
		}
	}
}

func TestTokenFileIsMadeOnceAndForItsOwnerOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	path := filepath.Join(dir, "token")
	first, err := makeToken(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{path: 0o600, dir: os.ModeDir | 0o700} {
		if info, err := os.Stat(name); err != nil || info.Mode() != want {
			t.Errorf("%s: %v %v, want %v", name, info.Mode(), err, want)
		}
	}
	if len(first) != 2*tokenBytes {
		t.Errorf("token of %d characters", len(first))
	}
	again, err := makeToken(path)
	if err != nil || again != first {
		t.Errorf("a second start made %q of %q: %v", again, first, err)
	}
	other, err := makeToken(filepath.Join(dir, "other"))
	if err != nil || other == first {
		t.Errorf("two files have one token: %v", err)
	}
}

func TestTokenFilesThatProtectNothingAreRefused(t *testing.T) {
	good := strings.Repeat("k", 64)
	for _, c := range []struct {
		name    string
		content string
		mode    os.FileMode
		says    string
	}{
		{"group", good, 0o640, "chmod 600"},
		{"others", good, 0o604, "chmod 600"},
		{"writable", good, 0o620, "chmod 600"},
		{"empty", "", 0o600, "remove the file"},
		{"short", "secret", 0o600, "remove the file"},
		{"two lines", good + "\n" + good, 0o600, "remove the file"},
		{"long", strings.Repeat("k", 600), 0o600, "remove the file"},
		{"endless", strings.Repeat("k", 1<<20), 0o600, "remove the file"},
		{"good", good + "\n", 0o400, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "token")
			if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, c.mode); err != nil {
				t.Fatal(err)
			}
			token, err := makeToken(path)
			if c.says == "" {
				if err != nil || token != good {
					t.Error(token, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.says) || !strings.HasPrefix(err.Error(), "admin.token_file: ") {
				t.Error(err)
			}
			if err != nil && strings.Contains(err.Error(), good) {
				t.Error("the error shows the token")
			}
		})
	}
	if _, err := makeToken(t.TempDir()); err == nil {
		t.Error("a directory is a token file")
	}
	if _, err := makeToken(""); err == nil {
		t.Error("no file is a token file")
	}
}

func TestListenersThatOthersReachNeedTLS(t *testing.T) {
	for _, c := range []struct{ listen, cert, key, says string }{
		{"0.0.0.0:0", "", "", "admin.tls.cert"},
		{"[::]:0", "", "", "admin.tls.cert"},
		{"192.0.2.1:9478", "", "", "or listen on 127.0.0.1"},
		{"127.0.0.1:0", "x", "", "admin.tls"},
		{"127.0.0.1:0", "/nonexistent", "/nonexistent", "admin.tls.cert"},
	} {
		s, err := Open(t.Context(), Config{Listen: netip.MustParseAddrPort(c.listen), Cert: c.cert, Key: c.key, TokenFile: filepath.Join(t.TempDir(), "t")})
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if _, err := Open(t.Context(), Config{}); err == nil {
		t.Error("listens on nothing")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = Open(t.Context(), Config{Listen: l.Addr().(*net.TCPAddr).AddrPort(), TokenFile: filepath.Join(t.TempDir(), "t")})
	if err == nil || !strings.HasPrefix(err.Error(), "admin.listen: ") || strings.Contains(err.Error(), "\n") {
		t.Error("a port in use:", err)
	}
}

// writePair writes a certificate for admin.example and its key.
func writePair(t *testing.T, cert, key string, serial int64) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "admin.example"}, DNSNames: []string{"admin.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	b, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	// The key first: a server that looks in between keeps the old pair.
	if err := os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: b}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	// Two pairs within the resolution of a file system's clock must differ in time.
	at := time.Unix(1e9+serial, 0)
	if err := os.Chtimes(cert, at, at); err != nil {
		t.Fatal(err)
	}
}

func TestWithTLSReadingNeedsTheToken(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
	writePair(t, cert, key, 1)
	f := &fake{reasons: []string{"draining"}}
	s := start(t, f, func(c *Config, _ *timeouts) {
		c.Listen, c.Cert, c.Key = netip.MustParseAddrPort("0.0.0.0:0"), cert, key
	})
	port := s.addr.Port()
	dial := func() net.Conn {
		conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	auth := "Authorization: Bearer " + s.token(t) + "\r\n"
	for _, c := range []struct {
		name, line, headers string
		want                int
		body                string
	}{
		{"without token", "GET /api/v1/status", "Host: localhost\r\n", 401, ""},
		{"sessions without token", "GET /api/v1/sessions", "Host: localhost\r\n", 401, ""},
		{"metrics without token", "GET /metrics", "Host: localhost\r\n", 401, ""},
		{"with token", "GET /metrics", "Host: localhost\r\n" + auth, 200, ""},
		{"name of the certificate", "GET /healthz", "Host: admin.example\r\n", 200, ""},
		{"another name", "GET /healthz", "Host: attacker.example\r\n", 403, ""},
		{"address of the connection", "GET /healthz", "Host: 127.0.0.1:1\r\n", 200, ""},
		{"another address", "GET /healthz", "Host: 192.0.2.1:1\r\n", 403, ""},
		{"same origin", "GET /healthz", "Host: admin.example\r\nOrigin: https://admin.example\r\n", 200, ""},
		{"origin without TLS", "GET /healthz", "Host: admin.example\r\nOrigin: http://admin.example\r\n", 403, ""},
		{"probe without token", "GET /readyz", "Host: localhost\r\n", 503, `{"version":1,"ready":false}` + "\n"},
		{"probe with token", "GET /readyz", "Host: localhost\r\n" + auth, 503, `{"version":1,"ready":false,"reasons":["draining"]}` + "\n"},
	} {
		resp, body := exchange(t, dial(), c.line+" HTTP/1.1\r\n"+c.headers+"\r\n")
		if resp.StatusCode != c.want || c.body != "" && body != c.body {
			t.Errorf("%s: %s %s", c.name, resp.Status, body)
		}
	}

	listen := netip.AddrPortFrom(netip.IPv4Unspecified(), port)
	c := NewClient(ClientConfig{Listen: listen, TokenFile: s.cfg.TokenFile, Cert: cert})
	defer c.Close()
	if _, err := c.Status(t.Context()); err != nil {
		t.Error("the client:", err)
	}
	c.Close()
	writePair(t, cert, key, 2)
	if _, err := c.Status(t.Context()); err != nil {
		t.Error("after the certificate was renewed:", err)
	}
	stale := filepath.Join(dir, "stale.pem")
	writePair(t, stale, filepath.Join(dir, "stale.key"), 3)
	wrong := NewClient(ClientConfig{Listen: listen, TokenFile: s.cfg.TokenFile, Cert: stale})
	_, err := wrong.Status(t.Context())
	wantError(t, err, 0, "answers with another certificate")
	plain := NewClient(ClientConfig{Listen: listen, TokenFile: s.cfg.TokenFile})
	_, err = plain.Status(t.Context())
	wantError(t, err, 400, "")
	// A renewed certificate whose key is missing leaves the old pair in use.
	writePair(t, cert, filepath.Join(dir, "elsewhere.pem"), 4)
	dial().Close()
}

func TestClientTellsAServerWithoutTLS(t *testing.T) {
	dir := t.TempDir()
	cert := filepath.Join(dir, "c.pem")
	writePair(t, cert, filepath.Join(dir, "k.pem"), 1)
	s := start(t, &fake{}, nil)
	c := NewClient(ClientConfig{Listen: s.addr, TokenFile: s.cfg.TokenFile, Cert: cert})
	_, err := c.Status(t.Context())
	wantError(t, err, 0, "does not speak TLS")
}

func TestSlowClientsAreCutAndHoldNobodyUp(t *testing.T) {
	s := start(t, &fake{}, func(_ *Config, l *timeouts) {
		l.header, l.request, l.idle = 300*time.Millisecond, 500*time.Millisecond, 300*time.Millisecond
	})
	var slow []net.Conn
	for i := range maxConnections { // all places
		conn := s.dial(t)
		defer conn.Close()
		text := []string{"", "GET /healthz HTTP/1.1\r\nHost: loc", "POST /api/v1/drain HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx"}[i%3]
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
		slow = append(slow, conn)
	}
	if resp, _ := exchange(t, s.dial(t), "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"); resp.StatusCode != 200 {
		t.Error(resp.Status)
	}
	for i, conn := range slow {
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("connection %d lives", i)
		}
	}
}

func TestTooManyReadersAreTurnedAway(t *testing.T) {
	f := &fake{}
	release := make(chan struct{})
	s := start(t, f, func(c *Config, l *timeouts) {
		l.call = 100 * time.Millisecond
		c.Service.Status = func(context.Context) (Status, error) { <-release; return Status{}, nil }
	})
	var group sync.WaitGroup
	codes := make(chan int, maxBusy+1)
	for range maxBusy + 1 {
		group.Go(func() {
			resp, _ := exchange(t, s.dial(t), "GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
			codes <- resp.StatusCode
		})
	}
	if first := <-codes; first != 503 {
		t.Errorf("%d while %d are served", first, maxBusy)
	}
	close(release)
	group.Wait()
	for range maxBusy {
		if code := <-codes; code != 200 {
			t.Error(code)
		}
	}
}

func TestATraceOutlivesTheTimeoutsOfOtherRequests(t *testing.T) {
	f := &fake{trace: func(ctx context.Context, _ TraceRequest, w io.Writer) error {
		for i := range 8 {
			if _, err := fmt.Fprintln(w, i); err != nil {
				return err
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(50 * time.Millisecond):
			}
		}
		return errors.New("the relay went")
	}}
	s := start(t, f, func(_ *Config, l *timeouts) {
		l.header, l.request, l.write = 100*time.Millisecond, 100*time.Millisecond, 150*time.Millisecond
	})
	var out bytes.Buffer
	if err := s.client(t).Trace(t.Context(), "1", &out); err != nil || out.String() != "0\n1\n2\n3\n4\n5\n6\n7\n# the relay went\n" {
		t.Errorf("%q %v", out.String(), err)
	}
}

func TestAReaderThatDoesNotReadEndsItsTrace(t *testing.T) {
	ended := make(chan error, 1)
	f := &fake{trace: func(ctx context.Context, _ TraceRequest, w io.Writer) (err error) {
		line := bytes.Repeat([]byte("x"), 1<<16)
		for err == nil {
			_, err = w.Write(line)
		}
		ended <- err
		return err
	}}
	s := start(t, f, func(_ *Config, l *timeouts) { l.write = 200 * time.Millisecond })
	conn := s.dial(t)
	defer conn.Close()
	fmt.Fprintf(conn, "POST /api/v1/sessions/1/trace HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n\r\n", s.token(t))
	select {
	case err := <-ended:
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it waits for the reader")
	}
}

func TestTheEndOfTheServerAndOfTheReaderEndATrace(t *testing.T) {
	begun := make(chan struct{}, 1)
	ended := make(chan struct{}, 1)
	f := &fake{trace: func(ctx context.Context, _ TraceRequest, w io.Writer) error {
		fmt.Fprintln(w, "begun")
		begun <- struct{}{}
		<-ctx.Done()
		ended <- struct{}{}
		return ctx.Err()
	}}
	cfg := Config{Listen: loopback, TokenFile: filepath.Join(t.TempDir(), "token"), Service: f.service(), Audit: f.audit}
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	serving, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(serving) }()
	c := s.client(t)

	reading, leave := context.WithCancel(t.Context())
	traced := make(chan error, 1)
	go func() { traced <- c.Trace(reading, "1", io.Discard) }()
	<-begun
	leave()
	<-ended
	if err := <-traced; err != nil {
		t.Error("Ctrl-C is an error:", err)
	}

	go func() { traced <- c.Trace(t.Context(), "1", io.Discard) }()
	<-begun
	at := time.Now()
	stop()
	<-ended
	if err := <-served; err != nil {
		t.Error(err)
	}
	if err := <-traced; err != nil {
		t.Error(err)
	}
	if d := time.Since(at); d > defaultTimeouts.shutdown {
		t.Errorf("the end took %v", d)
	}
	for _, a := range f.actions {
		if a.Err != nil {
			t.Error("the reader's going is an error in the audit:", a.Err)
		}
	}
}

func TestAPanicOfAHandlerIsToldAndEndsOneConnection(t *testing.T) {
	f := &fake{}
	s := start(t, f, func(c *Config, _ *timeouts) { c.Service.Ready = func() []string { panic("BUG: x") } })
	conn := s.dial(t)
	io.WriteString(conn, "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
	io.Copy(io.Discard, conn)
	conn.Close()
	if resp, _ := exchange(t, s.dial(t), "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"); resp.StatusCode != 200 {
		t.Error(resp.Status)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.problems) != 1 || !strings.Contains(f.problems[0], "BUG: x") {
		t.Errorf("%q", f.problems)
	}
}

func TestSessionsHaveTheLogsFieldNames(t *testing.T) {
	b, err := json.Marshal(SessionOf(&turn.Session{User: "u", LastPeer: loopback}))
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(b, &fields); err != nil {
		t.Fatal(err)
	}
	own := []string{"confirmed", "started", "expires", "permissions", "channels"} // states; the log has events
	for name := range fields {
		if !slices.Contains(logging.Fields, name) && !slices.Contains(own, name) {
			t.Errorf("%q is not in logging.Fields", name)
		}
	}
}

func TestStatusTakesTheCountersOver(t *testing.T) {
	var stats dataplane.Stats
	stats.Allocations, stats.Unconfirmed, stats.Read, stats.Streams = 5, 2, 9, 3
	stats.Packets[turn.RelayedSend], stats.Refused[turn.RulePrivate] = 8, 1
	var s Status
	s.Fill(&stats, turn.PortStats{Total: 10, Free: 4, Quarantined: 3, Reserved: 1})
	if s.Allocations.Now != 5 || s.Allocations.Unconfirmed != 2 || s.Allocations.Streams != 3 || s.Ports.InUse != 2 || s.Traffic.PacketsRead != 9 ||
		len(s.Traffic.Packets) != 1 || s.Traffic.Packets["relayed_send"] != 8 || len(s.Traffic.Refusals) != 1 || s.Traffic.Refusals["private"] != 1 {
		t.Errorf("%+v", s)
	}
	l := LimitsOf(turn.DefaultLimits(), 77)
	if l.TCPConnections != 77 || l.UnansweredPackets != turn.DefaultLimits().UnansweredPackets {
		t.Errorf("%+v", l)
	}
}
