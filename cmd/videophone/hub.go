package main

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"github.com/coder/websocket"
)

//go:embed page
var pageFiles embed.FS

// Ours to tune.
const (
	// maxPageMessage bounds a message of the page: a key frame of its largest picture has about a tenth of it.
	maxPageMessage = 1 << 20
	// pageQueue bounds the frames that wait for the page, two seconds of a call. What does not fit is lost, as on a network.
	pageQueue = 200
	// pageWrite bounds how long the page may take for one message: a sleeping tab is let go and connects again.
	pageWrite = 10 * time.Second
	tokenSize = 18
)

// pageCommand is what the page asks for. Do says what; the rest are its arguments.
type pageCommand struct {
	Do     string   `json:"do"`
	Leg    int      `json:"leg"`
	Name   string   `json:"name"`
	Text   string   `json:"text"`
	Video  []string `json:"video"`
	Audio  []string `json:"audio"`
	Encode []string `json:"encode"`
}

// hub serves the page to this machine's browser and talks with it over a WebSocket. Whoever knows the token of this run may: it is in the fragment of
// the URL that is printed, which browsers send to nobody. Host and Origin are checked, so that no other page of the browser gets in.
//
// One page is the phone; a later one takes its place.
type hub struct {
	listener net.Listener
	token    string
	command  func(pageCommand) // called by the page's goroutine, one at a time
	media    func(frame)
	gone     func() // no page is left

	mu    sync.Mutex
	page  *page
	state []byte // the newest, for a page that comes
}

// page is a connected page.
type page struct {
	conn   *websocket.Conn
	state  chan []byte // the newest state, at most one
	frames chan []byte
	closed context.CancelFunc
}

// newHub listens. The address must be of this machine alone.
func newHub(ctx context.Context, address string) (*hub, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("videophone: --http %s: %w: write an address such as 127.0.0.1:0", address, err)
	}
	if ip, err := netip.ParseAddr(host); (err != nil || !ip.IsLoopback()) && host != "localhost" {
		return nil, fmt.Errorf("videophone: --http %s: camera and microphone stay on this machine: write a loopback address such as 127.0.0.1:0", address)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("videophone: --http %s: %w", address, err)
	}
	return &hub{listener: l, token: rand.Text()[:tokenSize]}, nil
}

// url is where the browser finds the page.
func (h *hub) url() string { return "http://" + h.listener.Addr().String() + "/#" + h.token }

// serve runs until ctx ends.
func (h *hub) serve(ctx context.Context) error {
	files, err := fs.Sub(pageFiles, "page")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(files))
	mux.HandleFunc("GET /socket", h.socket)
	s := &http.Server{Handler: h.guard(mux), ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10, BaseContext: func(net.Listener) context.Context { return ctx }}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(h.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("videophone: the page: %w", err)
	}
	return nil
}

// guard refuses what was not meant for this server, as when a name was rebound to this machine's address.
func (h *hub) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !h.here(r.Host) {
			http.Error(w, "this is not the address of the video phone", http.StatusForbidden)
			return
		}
		for k, v := range map[string]string{
			"Content-Security-Policy":      "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self' ws://" + r.Host + "; worker-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
			"X-Content-Type-Options":       "nosniff",
			"Referrer-Policy":              "no-referrer",
			"Cross-Origin-Resource-Policy": "same-origin",
			"Cross-Origin-Opener-Policy":   "same-origin",
			"Permissions-Policy":           "camera=(self), microphone=(self)",
			"Cache-Control":                "no-store",
		} {
			w.Header().Set(k, v)
		}
		next.ServeHTTP(w, r)
	})
}

// here reports whether host:port is this server's, by address or as localhost.
func (h *hub) here(hostport string) bool {
	own := h.listener.Addr().String()
	_, port, err := net.SplitHostPort(own)
	return err == nil && (hostport == own || hostport == net.JoinHostPort("localhost", port))
}

func (h *hub) socket(w http.ResponseWriter, r *http.Request) {
	origin, err := url.Parse(r.Header.Get("Origin"))
	if err != nil || origin.Scheme != "http" || !h.here(origin.Host) {
		http.Error(w, "only the page of this video phone may do that", http.StatusForbidden)
		return
	}
	if subtle.ConstantTimeCompare([]byte(r.URL.Query().Get("token")), []byte(h.token)) != 1 {
		http.Error(w, "the token is not of this run: open the address that the video phone has printed", http.StatusForbidden)
		return
	}
	// The Origin is checked above, more strictly than by the library, which only compares it with Host.
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true, CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return // the library has answered
	}
	conn.SetReadLimit(maxPageMessage)
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	p := &page{conn: conn, state: make(chan []byte, 1), frames: make(chan []byte, pageQueue), closed: cancel}
	h.mu.Lock()
	old := h.page
	h.page = p
	if h.state != nil {
		p.state <- h.state
	}
	h.mu.Unlock()
	if old != nil {
		old.conn.Close(websocket.StatusPolicyViolation, "opened elsewhere")
		old.closed()
	}
	go h.write(ctx, p)
	h.read(ctx, p)
	conn.CloseNow()
	h.mu.Lock()
	last := h.page == p
	if last {
		h.page = nil
	}
	h.mu.Unlock()
	if last {
		h.gone()
	}
}

func (h *hub) read(ctx context.Context, p *page) {
	for {
		kind, b, err := p.conn.Read(ctx)
		if err != nil {
			return
		}
		if kind == websocket.MessageBinary {
			if f, err := parseFrame(b); err == nil {
				h.media(f)
			}
			continue
		}
		var c pageCommand
		if err := json.Unmarshal(b, &c); err == nil {
			h.command(c)
		}
	}
}

func (h *hub) write(ctx context.Context, p *page) {
	for {
		kind, b := websocket.MessageText, []byte(nil)
		select {
		case <-ctx.Done():
			return
		case b = <-p.state:
		case b = <-p.frames:
			kind = websocket.MessageBinary
		}
		wctx, cancel := context.WithTimeout(ctx, pageWrite)
		err := p.conn.Write(wctx, kind, b)
		cancel()
		if err != nil {
			p.closed()
			return
		}
	}
}

// show gives the page the newest state; one that it has not taken yet is replaced.
func (h *hub) show(state any) {
	b, err := json.Marshal(state)
	if err != nil {
		panic("BUG: the page's state: " + err.Error())
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.state = b
	if h.page == nil {
		return
	}
	select {
	case <-h.page.state:
	default:
	}
	h.page.state <- b // there is room: only this function sends, under the lock
}

// play gives the page a frame; it reports false when there is no page or it does not keep up.
func (h *hub) play(f frame) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.page == nil {
		return false
	}
	select {
	case h.page.frames <- f.append(make([]byte, 0, frameHeader+len(f.data))):
		return true
	default:
		return false
	}
}

// present reports whether a page is open.
func (h *hub) present() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.page != nil
}
