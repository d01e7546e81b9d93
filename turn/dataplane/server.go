package dataplane

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"strings"
	"time"

	"github.com/stilenet/stile/turn"
)

// Open opens the listeners, so that what is wrong with them is known before anything is served. Relayed ports are
// opened when they are allocated. Serve must follow, or Close.
func Open(ctx context.Context, cfg Config) (*Server, error) {
	if len(cfg.Listeners) == 0 {
		return nil, errors.New("dataplane: no listener")
	}
	if len(cfg.Relays) == 0 {
		return nil, errors.New("dataplane: no relay address")
	}
	if cfg.Ports.Size() == 0 {
		return nil, errors.New("dataplane: the range of relayed ports is empty")
	}
	if cfg.Seed == ([32]byte{}) {
		if _, err := rand.Read(cfg.Seed[:]); err != nil {
			return nil, err
		}
	}
	s := &Server{cfg: cfg, ledger: turn.NewLedger(cfg.Relays, cfg.Ports, cfg.Rules.Limits, cfg.Seed)}
	var err error
	for _, e := range []struct {
		kind Kind
		open func(context.Context, *Config, *turn.Ledger) (engine, error)
	}{{Kernel, openKernel}, {Socket, openSocket}, {Plain, openPlain}} {
		if cfg.Engine != Auto && cfg.Engine < e.kind || e.kind != Plain && cfg.ListenPacket != nil {
			continue
		}
		s.kind = e.kind
		if s.kind != Plain {
			s.openOffload()
		}
		s.engine, err = e.open(ctx, &s.cfg, s.ledger)
		if err == nil {
			return s, nil
		}
		if s.cfg.offload != nil {
			s.cfg.offload.close()
			s.cfg.offload = nil
		}
		// The socket engine on a system without it is an operator's mistake. The kernel engine may work today and not after an update of
		// the system: relaying goes on, and says what is missing.
		if !errors.Is(err, errors.ErrUnsupported) || cfg.Engine == Socket {
			return nil, err
		}
		s.why = strings.TrimSuffix(strings.TrimPrefix(err.Error(), "dataplane: "), ": "+errors.ErrUnsupported.Error())
	}
	return nil, err
}

// openOffload puts the offload in front of the engine that is about to start. Without it the engine relays everything, so what it lacks is
// said, and is no error.
func (s *Server) openOffload() {
	if s.cfg.Offload == OffloadOff {
		return
	}
	var err error
	if s.cfg.offload, err = openOffload(&s.cfg); err != nil {
		s.cfg.offload, s.noOffload = nil, err.Error()
	}
}

// coreConfig is the part of a core's configuration that engines share.
func coreConfig(cfg *Config, ledger *turn.Ledger, shard, shards int, opener turn.Opener) turn.Config {
	seed := cfg.Seed
	binary.BigEndian.PutUint16(seed[30:], binary.BigEndian.Uint16(seed[30:])+uint16(shard)+1)
	auth, probes := make([]bool, len(cfg.Listeners)), make([]bool, len(cfg.Listeners))
	for i, l := range cfg.Listeners {
		auth[i], probes[i] = l.RequireAuth, l.BindingOnly
	}
	core := turn.Config{
		Ledger: ledger, Relays: cfg.Relays, Rules: cfg.Rules, Shard: shard, Shards: shards, Opener: opener, RequireAuth: auth, BindingOnly: probes,
		Discovery: cfg.Discovery, Seed: seed,
	}
	if cfg.offload != nil { // a nil pointer in an interface is not nil
		core.Offload = cfg.offload
	}
	return core
}

// Serve relays until the context ends, then closes everything. It returns nil when the context was the reason.
func (s *Server) Serve(ctx context.Context) error {
	if s.cfg.offload != nil {
		defer s.cfg.offload.close()
	}
	return s.engine.serve(ctx)
}

// Close closes the sockets of a server that never came to Serve.
func (s *Server) Close() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return s.Serve(ctx)
}

// Engine reports which engine runs, and why not a better one (empty when it is the best there is).
func (s *Server) Engine() (kind Kind, shards int, why string) {
	return s.kind, s.engine.shards(), s.why
}

// Warnings says in sentences what the engine should do and cannot on this system.
func (s *Server) Warnings() []string { return s.engine.warnings() }

// Ledger is what the shards count together.
func (s *Server) Ledger() *turn.Ledger { return s.ledger }

// Do runs f for each shard in turn, on the thread that owns its core, between two packets. f must be quick: the
// shard's clients wait. It returns ErrClosed when the server has ended.
func (s *Server) Do(ctx context.Context, f func(now time.Time, shard int, c *turn.Core)) error {
	for shard := range s.engine.shards() {
		if err := s.engine.do(ctx, shard, func(now time.Time, c *turn.Core) { f(now, shard, c) }); err != nil {
			return err
		}
	}
	return nil
}

// SetRules swaps policy, limits and credentials on all shards.
func (s *Server) SetRules(ctx context.Context, r *turn.Rules) error {
	s.ledger.SetLimits(r.Limits)
	return s.Do(ctx, func(now time.Time, _ int, c *turn.Core) { c.SetRules(now, r) })
}

// Stats adds up the counters of all shards.
func (s *Server) Stats(ctx context.Context) (Stats, error) {
	var sum Stats
	err := s.Do(ctx, func(_ time.Time, _ int, c *turn.Core) {
		part := c.Stats()
		sum.Stats.Add(&part)
	})
	s.engine.addStats(&sum)
	return sum, err
}

// Sessions lists the living allocations of all shards, in no order.
func (s *Server) Sessions(ctx context.Context) ([]turn.Session, error) {
	var all []turn.Session
	err := s.Do(ctx, func(now time.Time, _ int, c *turn.Core) { all = c.Sessions(now, all) })
	return all, err
}

// Kill ends an allocation and reports whether there was one of that ID.
func (s *Server) Kill(ctx context.Context, id turn.SessionID) (found bool, err error) {
	err = s.Do(ctx, func(now time.Time, _ int, c *turn.Core) { found = c.Kill(now, id) || found })
	return found, err
}
