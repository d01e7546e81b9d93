package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"time"

	"github.com/stilenet/stile/nattest"
	"github.com/stilenet/stile/rtmfp/flash"
)

// Ours to tune.
const (
	reconnectFirst = time.Second
	reconnectMost  = 30 * time.Second
	tickEvery      = 100 * time.Millisecond
	// pageGrace is how long a page may be away, as when it is loaded again, before its calls end.
	pageGrace = 10 * time.Second
	// presenceEvery is how often the directory is asked who is online.
	presenceEvery = 5 * time.Second
	maxChat       = 200 // lines that are kept
)

// options is the command line.
type options struct {
	server, name, call       string
	directory                string // base URL; empty: port 8935 of the server
	mms                      string // path; empty: this machine's
	http                     string
	publish, record, report  string
	stateDir                 string
	auto, browser, withoutUI bool
	uplink                   int // bit/s; 0: no limit
}

// phone is the shell around the switchboard: the connection to the service, the streams of calls, the page. Everything under mu belongs to whoever
// holds it: the connection's goroutine (its callbacks), the page's, and run.
type phone struct {
	opt  options
	out  io.Writer
	hub  *hub
	mms  flash.MMSConfig
	wake chan struct{}

	mu      sync.Mutex
	book    *keyBook
	name    string
	named   chan struct{} // closed when there is a name
	phase   string        // name, connecting, online, failed
	trouble string
	listed  bool   // others find our name
	listing string // why they do not
	nc      *flash.NetConnection
	key     ed25519.PrivateKey
	dir     *directory
	board   *switchboard
	lines   map[int]*line
	offered map[string]*flash.NetStream
	control []*flash.NetStream
	early   map[string]held // by peer
	todo    []func()        // after the callback that is running
	online  map[string]string
	chat    []saying
	nat     natView
	verdict *nattest.Report
	media   mediaState
	pageWas time.Time // when a page was last there
	calls   int       // that were answered in this run
	newest  report    // of the newest call
	filmErr error     // of the file of --publish
	ended   error     // how the call of --call ended; set before over is closed
	over    chan struct{}
	dirty   bool
}

func newPhone(opt options, h *hub, book *keyBook, out io.Writer) (*phone, error) {
	mms, err := flash.ReadMMSConfig(opt.mms)
	if err != nil {
		return nil, fmt.Errorf("videophone: --mms-config: %w", err)
	}
	p := &phone{opt: opt, out: out, hub: h, mms: mms, wake: make(chan struct{}, 1), book: book, named: make(chan struct{}), phase: "name",
		lines: map[int]*line{}, offered: map[string]*flash.NetStream{}, early: map[string]held{}, online: map[string]string{}, over: make(chan struct{})}
	p.nat = natView{State: "none", Servers: p.natServers()}
	p.media.target.Audio = audioRate
	p.media.target.Codec = string(flash.VP8)
	if opt.directory == "" {
		p.opt.directory = "http://" + net.JoinHostPort(p.serverHost(), directoryPort) + "/"
	}
	p.dir = newDirectory(p.opt.directory)
	h.command, h.media, h.gone = p.command, p.fromPage, func() {}
	if opt.name != "" {
		p.setName(opt.name)
	}
	return p, nil
}

// serverHost is the host of the service's URL, which main has checked.
func (p *phone) serverHost() string {
	u, err := url.Parse(p.opt.server)
	if err != nil {
		return "127.0.0.1"
	}
	return u.Hostname()
}

func (p *phone) natServers() []string { return []string{p.serverHost()} }

func (p *phone) setName(name string) {
	if p.name = clip(name, maxName); p.name != "" {
		select {
		case <-p.named:
		default:
			close(p.named)
		}
	}
}

// run connects and stays connected until ctx ends or the call of --call has.
func (p *phone) run(ctx context.Context) error {
	defer p.finish()
	go p.keep(ctx)
	if p.opt.report != "" && !p.check(ctx) {
		return ctx.Err()
	}
	p.show()
	select {
	case <-p.named:
	case <-ctx.Done():
		return nil
	}
	wait := reconnectFirst
	for {
		began := time.Now()
		err := p.session(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-p.over:
			return p.ended
		default:
		}
		if p.opt.withoutUI && err != nil {
			return fmt.Errorf("videophone: %s", connectWords(err, p.opt.server, p.mms.Proxy)) // nobody is there to wait
		}
		if time.Since(began) > time.Minute {
			wait = reconnectFirst
		}
		p.update(func() {
			p.phase, p.trouble = "connecting", connectWords(err, p.opt.server, p.mms.Proxy)
		})
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = min(2*wait, reconnectMost)
	}
}

// connectWords says what is wrong with the service and what to do.
func connectWords(err error, server, proxy string) string {
	var status *flash.StatusError
	switch {
	case err == nil:
		return "The service has closed the connection. Connecting again."
	case errors.As(err, &status) && status.Code == flash.NetConnectionConnectRejected:
		return fmt.Sprintf("%s rejects the connection: %s", server, status.Description)
	case errors.As(err, &status) && status.Description != "":
		return fmt.Sprintf("%s: %s", server, status.Description)
	case errors.As(err, &status) && proxy == "":
		return fmt.Sprintf("%s does not answer. A firewall may block UDP: name a TURN proxy in mms.cfg (RTMFPTURNProxy).", server)
	case errors.As(err, &status):
		return fmt.Sprintf("%s answers neither directly nor through the TURN proxy %s.", server, proxy)
	}
	return err.Error()
}

// check measures the network before the phone is in anybody's way; it reports whether to go on.
func (p *phone) check(ctx context.Context) bool {
	r, err := checkNetwork(ctx, p.natServers(), p.mms.Proxy)
	p.update(func() { p.measured(r, err) })
	return ctx.Err() == nil
}

func (p *phone) measured(r *nattest.Report, err error) {
	p.nat.State = "done"
	if err != nil {
		p.nat.Title, p.nat.Lines = "Not measured.", []natLine{{err.Error(), true}}
		return
	}
	p.verdict = r
	p.newest.Nat = &r.Verdict
	p.nat.Title, p.nat.Lines = tell(r)
}

// session is one connection to the service, from connecting to its end.
func (p *phone) session(ctx context.Context) error {
	cfg := flash.Config{MMS: p.mms, DialRelay: dialRelay, FlashVersion: "STILE " + version(), Uplink: p.opt.uplink}
	if p.opt.publish != "" {
		cfg.AudioLifetime, cfg.VideoLifetime = -1, -1 // nobody answers a film: what is late is still wanted
	}
	nc := flash.NewNetConnection(cfg)
	nc.OnNetStatus = p.status
	p.update(func() { p.phase, p.nc = "connecting", nc })
	defer nc.Close()
	if err := nc.Connect(ctx, p.opt.server); err != nil {
		return err
	}
	key, err := p.book.own(p.name, rand.Reader)
	if err != nil {
		p.logf("%v: your key is new at the next start", err)
	}
	p.update(func() {
		p.phase, p.trouble, p.key = "online", "", key
		p.board = newSwitchboard(nc.NearID().String(), p.name, p.opt.auto)
		p.newest.Self, p.newest.Name = p.board.self, p.name
		err = p.publishControl()
	})
	if err != nil {
		return err
	}
	p.logf("online as %s\nid %s", p.name, nc.NearID())
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var group sync.WaitGroup
	group.Go(func() { p.keepName(ctx) })
	group.Go(func() { p.presence(ctx) })
	if p.opt.call != "" {
		group.Go(func() { p.dial(ctx, p.opt.call) })
	}
	select {
	case <-ctx.Done():
	case <-nc.Done():
	case <-p.over:
	}
	p.update(func() {
		if p.board != nil {
			p.board.hangUpAll(time.Now())
			p.settle()
		}
	})
	if p.listed {
		bye, done := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		_ = p.dir.release(bye, p.name) // the name is free when the session ends anyway
		done()
	}
	cancel()
	group.Wait()
	p.update(func() {
		p.listed, p.board, p.lines, p.offered, p.control, p.early = false, nil, map[int]*line{}, map[string]*flash.NetStream{}, nil, map[string]held{}
	})
	return nil
}

// publishControl lets others ring: under our name, and, for who only has our ID, under none.
func (p *phone) publishControl() error {
	for _, name := range []string{controlPrefix + p.name, controlPrefix} {
		s := flash.NewNetStream(p.nc, flash.DirectConnections)
		s.OnPeerConnect = p.rung
		if err := s.Publish(name); err != nil {
			return err
		}
		p.control = append(p.control, s)
	}
	return nil
}

// keepName keeps our name in the directory.
func (p *phone) keepName(ctx context.Context) {
	for {
		err := p.dir.register(ctx, p.name, p.nc.NearID().String())
		if ctx.Err() != nil {
			return
		}
		words := ""
		if err != nil {
			words = fmt.Sprintf("Others do not find you by name: %v. Give them your ID.", err)
		}
		p.update(func() {
			if words != p.listing && words != "" {
				p.logf("%s", words)
			}
			p.listed, p.listing = err == nil, words
		})
		wait := directoryRefresh
		if err != nil && !errors.Is(err, errNameRefused) {
			wait = presenceEvery
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// presence asks who of the friends is online, while somebody looks.
func (p *phone) presence(ctx context.Context) {
	for {
		var names []string
		p.mu.Lock()
		for n := range p.book.Friends {
			names = append(names, n)
		}
		p.mu.Unlock()
		if len(names) > 0 && p.hub.present() {
			online, err := p.dir.lookup(ctx, names)
			if err == nil {
				p.update(func() { p.online = online })
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(presenceEvery):
		}
	}
}

// dial finds a name, or takes an ID, and calls it. Without a page it waits for the other to come online.
func (p *phone) dial(ctx context.Context, who string) {
	id, name, control := who, "", ""
	for !isPeerID(id) {
		online, err := p.dir.lookup(ctx, []string{who})
		if found := online[who]; found != "" {
			id, name, control = found, who, who
			break
		}
		if err == nil {
			err = fmt.Errorf("%s: %w", who, errNotOnline)
		}
		if !p.opt.withoutUI || ctx.Err() != nil {
			p.update(func() { p.trouble = upper(err.Error()) + "." })
			return
		}
		p.logf("%v: asking again", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(reconnectFirst):
		}
	}
	p.update(func() {
		p.trouble = ""
		if p.board == nil {
			return
		}
		if !p.board.place(time.Now(), id, name, control) {
			p.trouble = "That call cannot be placed: it is your own ID, or you are in as many calls as a phone takes."
			p.failed(errors.New(p.trouble))
		}
		if name != "" {
			if err := p.book.add(name); err != nil {
				p.logf("%v", err)
			}
		}
		p.settle()
	})
}

// failed ends the run when it was for one call, and nobody looks at a page.
func (p *phone) failed(err error) {
	if p.opt.call == "" || !p.opt.withoutUI {
		return
	}
	select {
	case <-p.over:
	default:
		p.ended = err
		close(p.over)
	}
}

// keep lets the time pass: what ends by itself, the second's figures, the page's state.
func (p *phone) keep(ctx context.Context) {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	second := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-p.wake:
		}
		now := time.Now()
		p.mu.Lock()
		for len(p.todo) > 0 {
			f := p.todo[0]
			p.todo = p.todo[1:]
			f()
		}
		if p.board != nil {
			p.board.tick(now)
			p.settle()
			p.release(now)
		}
		if now.Sub(second) >= time.Second {
			p.figures(now, now.Sub(second))
			second = now
		}
		p.watchPage(now)
		if p.dirty {
			p.dirty = false
			p.hub.show(p.view())
		}
		p.mu.Unlock()
	}
}

// watchPage ends calls whose page has gone away.
func (p *phone) watchPage(now time.Time) {
	switch {
	case p.hub.present():
		p.pageWas = now
	case p.pageWas.IsZero() || now.Sub(p.pageWas) < pageGrace || p.board == nil:
	default:
		p.pageWas = time.Time{}
		p.board.hangUpAll(now)
		p.settle()
	}
}

// update changes the state under the lock, and lets the page know.
func (p *phone) update(f func()) {
	p.mu.Lock()
	f()
	p.dirty = true
	p.mu.Unlock()
	p.show()
}

// show wakes keep.
func (p *phone) show() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// later does something once the callback that is running has returned.
func (p *phone) later(f func()) {
	p.todo = append(p.todo, f)
	p.show()
}

// finish writes what is left to write.
func (p *phone) finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.lines {
		p.stopRecording(l)
	}
	p.writeReport()
}

func (p *phone) writeReport() {
	if p.opt.report == "" {
		return
	}
	r := p.newest
	r.Version, r.Program = reportVersion, "videophone "+version()
	if p.nc != nil {
		r.Service = routeOf(p.nc.Path())
	}
	if err := r.write(p.opt.report); err != nil {
		p.logf("%v", err)
	}
}

// routeOf is the word for a path; empty while there is none.
func routeOf(path flash.Path) string {
	switch {
	case !path.Remote.IsValid():
		return ""
	case path.Relayed:
		return "relay"
	}
	return "direct"
}
