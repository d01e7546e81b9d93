package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/stilenet/stile/internal/admin"
	"github.com/stilenet/stile/internal/config"
	"github.com/stilenet/stile/internal/logging"
	"github.com/stilenet/stile/turn"
	"github.com/stilenet/stile/turn/dataplane"
)

func (a app) serve() *cobra.Command {
	var dryRun bool
	c := &cobra.Command{
		Use: "serve", Short: "Run the TURN proxy and the rendezvous until told to stop", Args: cobra.NoArgs,
		Long: "Serve runs the TURN proxy, STUN and the RTMFP rendezvous. It needs no configuration: clients from private networks reach the public\n" +
			"internet through the proxy, and players from everywhere are introduced to each other. It says so, with the line for mms.cfg.\n\n" +
			"SIGHUP reads the configuration again; SIGTERM or Ctrl-C takes no new allocations, waits for the old ones for\n" +
			"server.drain_timeout, and ends; a second one ends at once.",
		RunE: func(c *cobra.Command, _ []string) error {
			load := func() (*config.Config, error) {
				return config.Load(config.Source{Flags: c.Flags(), Environ: a.environ})
			}
			s, err := a.newServer(c.Context(), load, dryRun)
			if err != nil {
				return err
			}
			if dryRun {
				s.page.write(a.out, version())
				return errors.Join(s.meeting.close(), s.plane.Close())
			}
			return s.run(c.Context())
		},
	}
	c.Flags().BoolVar(&dryRun, "dry-run", false, "open the sockets of TURN and the rendezvous, print what would be served, and end")
	config.Flags(c.Flags())
	return c
}

// logFlush is how long the last events may take to reach the log.
const logFlush = 3 * time.Second

// server is the process: the data plane, the administration, and what changes while they run.
type server struct {
	app      app
	load     func() (*config.Config, error)
	log      *logging.Log
	events   *logging.Events
	tracer   admin.Tracer
	plane    *dataplane.Server
	meeting  *meeting // the rendezvous; nil without one
	capacity int      // allocations that the machine and the configuration allow
	nonceKey [32]byte
	relays   []turn.RelayAddress
	started  time.Time

	mu   sync.Mutex // guards what follows: reloads, and changes of the host, come from several goroutines
	cfg  *config.Config
	host *host
	page *page

	draining   atomic.Bool
	drainSince time.Time     // under mu
	stop       chan struct{} // closed by the first request to drain
	stopOnce   sync.Once
}

// newServer loads the configuration and opens everything, so that each mistake ends the start with one line.
// dryRun leaves the interfaces alone: a program that comes and goes makes some of them lose packets.
func (a app) newServer(ctx context.Context, load func() (*config.Config, error), dryRun bool) (_ *server, err error) {
	cfg, err := load()
	if err != nil {
		return nil, err
	}
	s := &server{app: a, load: load, cfg: cfg, started: time.Now(), stop: make(chan struct{})}
	if _, err := rand.Read(s.nonceKey[:]); err != nil {
		return nil, err
	}
	if s.host, err = readHost(); err != nil {
		return nil, err
	}
	var warn []string
	if s.relays, warn, err = s.host.relays(cfg); err != nil {
		return nil, err
	}
	s.log, err = logging.New(logging.Config{Level: string(cfg.Log.Level), Format: string(cfg.Log.Format), Out: a.err, Terminal: isTerminal(a.err)})
	if err != nil {
		return nil, err
	}
	s.events = s.log.Events(cfg.Log.Permissions)
	if s.meeting, err = s.openMeeting(ctx); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = s.meeting.close()
		}
	}()
	r, err := rules(cfg, s.host, s.relays, s.meeting.services(cfg, s.relays), s.nonceKey)
	if err != nil {
		return nil, err
	}
	kind, err := engineKind(cfg)
	if err != nil {
		return nil, err
	}
	sockets, discovers, err := discovery(cfg, s.host, s.relays, listeners(cfg))
	if err != nil {
		return nil, err
	}
	plane := dataplane.Config{
		Engine: kind, Listeners: sockets, Discovery: discovers, Relays: s.relays, Ports: turn.PortRange(cfg.Turn.Relay.Ports),
		Rules: r, Shards: shards(cfg), OffloadInterfaces: cfg.Turn.OffloadInterfaces, OnOffload: s.offloadChanged, StreamsPerClient: cfg.Turn.Limits.TCPConnections, OnEvents: s.onEvents,
	}
	if plane.Offload, err = dataplane.ParseOffloadMode(string(cfg.Turn.Offload)); err != nil {
		return nil, err
	}
	if dryRun {
		plane.Offload = dataplane.OffloadOff
	}
	// Connections may take a quarter of the descriptors; what they leave bounds the relayed ports.
	capacity, _ := dataplane.MaxAllocations(&plane)
	plane.Streams = max(1, capacity/4)
	if s.plane, err = dataplane.Open(ctx, plane); err != nil {
		return nil, startError(err)
	}
	var limit string
	plane.Engine, _, _ = s.plane.Engine()
	s.capacity, limit = dataplane.MaxAllocations(&plane)
	s.page = s.describe(r.Policy, limit)
	if dryRun && cfg.Turn.Offload != config.OffloadOff {
		s.page.Offload = "not tried by --dry-run, which leaves the interfaces alone"
	}
	s.page.Discovery = describeDiscovery(cfg, discovers)
	s.page.Rendezvous, s.page.Exchange = s.meeting.describe(cfg)
	s.page.Notes = append(append(append(append(cfg.Warnings(), warn...), s.meeting.notes(cfg)...), s.page.Notes...), s.plane.Warnings()...)
	return s, nil
}

// startError adds the remedy to what commonly keeps a server from starting.
func startError(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w: end that program, or choose another port there", err)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return fmt.Errorf("%w: choose a port above 1023 there, or give the process CAP_NET_BIND_SERVICE", err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%w: name an address of this machine there", err)
	}
	return err
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// describe makes the start page of what is in force.
func (s *server) describe(policy *turn.Policy, limit string) *page {
	kind, shards, why := s.plane.Engine()
	p := &page{
		Listen:      describeListen(s.cfg),
		Clients:     describeClients(s.cfg),
		Peers:       describePeers(s.cfg),
		Relayed:     describeRelays(s.relays, turn.PortRange(s.cfg.Turn.Relay.Ports)),
		Allocations: fmt.Sprintf("at most %s (%s)", number(s.capacity), limit),
		Engine:      fmt.Sprintf("%s, %d shards", kind, shards),
		Offload:     s.plane.Offload().String(),
		MMSLine:     mmsLine(s.cfg, s.host),
		Notes:       unjudged(policy),
	}
	if shards == 1 {
		p.Engine = fmt.Sprintf("%s, 1 shard", kind)
	}
	if why != "" {
		p.Engine += "; not a faster one: " + why
	}
	return p
}

// run serves until ctx ends, a signal comes or somebody drains the server.
func (s *server) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	notify := newNotifier()

	control, err := s.openAdmin(ctx)
	if err != nil {
		s.plane.Close()
		_ = s.meeting.close()
		return err
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)

	var group sync.WaitGroup
	failed := make(chan error, 4)
	group.Go(func() { failed <- s.plane.Serve(ctx) })
	s.meeting.serve(ctx, &group, failed)
	group.Go(func() { failed <- control.Serve(ctx) })
	if err := watchHost(ctx, func() { s.hostChanged(ctx) }); err != nil {
		s.log.Warn().Err(err).Msg("changes of routes and addresses are noticed at the next start or SIGHUP only")
	}
	s.mu.Lock()
	s.page.Admin = control.Describe()
	s.page.write(s.app.out, version())
	s.mu.Unlock()
	if kind, _, why := s.plane.Engine(); why != "" {
		s.log.Warn().Stringer("engine", kind).Msg("not a faster engine: " + why)
	}
	notify.send("READY=1")
	if every := watchdog(); every > 0 {
		group.Go(func() { s.watchdog(ctx, notify, every) })
	}
	if s.cfg.Turn.AllowOpenRelay && !s.cfg.Credentials() {
		group.Go(func() { s.remindOpenRelay(ctx) })
	}

	err = s.wait(ctx, signals, failed)
	notify.send("STOPPING=1")
	cancel()
	group.Wait()
	flush, stopFlush := context.WithTimeout(context.Background(), logFlush)
	defer stopFlush()
	if s.events.Close(flush) != nil {
		s.log.Warn().Msg("the log is slower than the server: the last lines are missing")
	}
	return err
}

// wait returns when the server is to end: nil after a drain, else what failed.
func (s *server) wait(ctx context.Context, signals <-chan os.Signal, failed <-chan error) error {
	var ended <-chan struct{} // of the drain
	stop := s.stop
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			if err == nil {
				err = errors.New("a part of the server ended by itself")
			}
			return err
		case <-stop:
			stop = nil // it stays closed
			if ended == nil {
				ended = s.startDrain(ctx)
			}
		case <-ended:
			return nil
		case sig := <-signals:
			switch {
			case sig == syscall.SIGHUP:
				if _, err := s.reload(ctx); err != nil {
					s.log.Error().Err(err).Msg("the configuration was not changed")
				}
			case ended != nil:
				s.log.Warn().Msg("ends at once")
				return nil
			default:
				s.drainNow()
			}
		}
		if s.draining.Load() && ended == nil {
			ended = s.startDrain(ctx)
		}
	}
}

// startDrain refuses new allocations and returns a channel that is closed when the last one has ended or the time is up.
func (s *server) startDrain(ctx context.Context) <-chan struct{} {
	timeout := s.config().Server.DrainTimeout
	done := make(chan struct{})
	// The clients of the rendezvous are connected for as long as they like, so nobody waits for them: their sessions with each other go on.
	if err := errors.Join(s.plane.Do(ctx, func(_ time.Time, _ int, c *turn.Core) { c.SetDraining(true) }), s.meeting.drain(ctx)); err != nil {
		close(done)
		return done
	}
	go func() {
		defer close(done)
		end := time.Now().Add(timeout)
		said := time.Time{}
		for {
			stats, err := s.plane.Stats(ctx)
			switch {
			case err != nil:
				return
			case stats.Allocations == 0:
				s.log.Info().Msg("ends: was told to, and no allocation is left")
				return
			case !time.Now().Before(end):
				s.log.Warn().Int("allocations", stats.Allocations).Msg("ends: server.drain_timeout is over, and these allocations with it")
				return
			}
			if time.Since(said) > 10*time.Second {
				said = time.Now()
				s.log.Info().Int("allocations", stats.Allocations).Dur("at_most", time.Until(end)).Msg("drains: takes no new allocations, waits for the old ones")
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(min(200*time.Millisecond, max(time.Millisecond, time.Until(end)))):
			}
		}
	}()
	return done
}

func (s *server) config() *config.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cfg
}

// reload reads the configuration again and applies what may change while the server runs. It returns what has changed.
// Either all of it is applied, or nothing and the error says why.
func (s *server) reload(ctx context.Context) (admin.Reloaded, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next, err := s.load()
	if err != nil {
		return admin.Reloaded{}, err
	}
	changes := config.Diff(s.cfg, next)
	if restart := config.NeedsRestart(changes); restart != "" {
		return admin.Reloaded{}, errors.New(restart)
	}
	h, err := readHost()
	if err != nil {
		return admin.Reloaded{}, err
	}
	r, err := rules(next, h, s.relays, s.meeting.services(next, s.relays), s.nonceKey)
	if err != nil {
		return admin.Reloaded{}, err
	}
	if err := s.plane.SetRules(ctx, r); err != nil {
		return admin.Reloaded{}, err
	}
	if err := s.meeting.reload(next, s.relays); err != nil {
		return admin.Reloaded{}, err
	}
	s.events.SetPermissions(next.Log.Permissions)
	if err := s.log.SetLevel(string(next.Log.Level)); err != nil {
		return admin.Reloaded{}, err
	}
	s.cfg, s.host = next, h
	old := s.page
	s.page = &page{
		Listen: old.Listen, Discovery: old.Discovery, Exchange: old.Exchange, Relayed: old.Relayed, Allocations: old.Allocations, Engine: old.Engine, Offload: s.plane.Offload().String(), Admin: old.Admin, MMSLine: old.MMSLine,
		Clients: describeClients(next), Peers: describePeers(next),
		Notes: append(append(append(next.Warnings(), s.meeting.notes(next)...), unjudged(r.Policy)...), s.plane.Warnings()...),
	}
	s.page.Rendezvous, _ = s.meeting.describe(next)
	words := make([]string, len(changes))
	for i, c := range changes {
		words[i] = c.String()
	}
	s.log.Info().Strs("changes", words).Msg("configuration read again")
	return admin.Reloaded{Changed: words}, nil
}

// hostChanged judges by the new routes and addresses.
func (s *server) hostChanged(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, err := readHost()
	if err != nil {
		s.log.Warn().Err(err).Msg("routes and addresses")
		return
	}
	if h.equal(s.host) {
		return
	}
	r, err := rules(s.cfg, h, s.relays, s.meeting.services(s.cfg, s.relays), s.nonceKey)
	if err == nil {
		err = s.plane.SetRules(ctx, r)
	}
	if err != nil {
		s.log.Error().Err(err).Msg("the new routes and addresses are not in force")
		return
	}
	s.host = h
	s.log.Info().Int("routes", len(h.routes)).Int("addresses", len(h.own)).Msg("routes or addresses have changed: peers are judged by the new ones")
}

// watchdog tells systemd that all shards answer, as often as it wants to know.
func (s *server) watchdog(ctx context.Context, n notifier, every time.Duration) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			try, cancel := context.WithTimeout(ctx, every)
			if s.plane.Do(try, func(time.Time, int, *turn.Core) {}) == nil && s.meeting.alive(try) == nil {
				n.send("WATCHDOG=1")
			}
			cancel()
		}
	}
}

// remindOpenRelay says every hour that strangers may use the server.
func (s *server) remindOpenRelay(ctx context.Context) {
	t := time.NewTicker(time.Hour)
	defer t.Stop()
	for {
		s.log.Warn().Msg("this server is an open relay (turn.allow_open_relay): strangers may send through its address")
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}
