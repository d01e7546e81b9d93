package main

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/stilenet/stile/internal/admin"
	"github.com/stilenet/stile/internal/metrics"
	"github.com/stilenet/stile/turn"
	"github.com/stilenet/stile/turn/dataplane"
)

// openAdmin opens the administrator's listener.
func (s *server) openAdmin(ctx context.Context) (*admin.Server, error) {
	cfg := s.cfg.Admin
	registry := metrics.New(metrics.Config{
		Server: s.plane, Version: version(), LogDropped: s.events.Dropped, Draining: s.draining.Load,
		Rendezvous: s.meeting.metrics(),
	})
	return admin.Open(ctx, admin.Config{
		Listen: cfg.Listen, TokenFile: cfg.TokenFile, Cert: cfg.TLS.Cert, Key: cfg.TLS.Key,
		Service: admin.Service{
			Status:   s.status,
			Sessions: s.plane.Sessions,
			Kill:     s.plane.Kill,
			Trace: func(ctx context.Context, r admin.TraceRequest, w io.Writer) error {
				return s.tracer.Run(ctx, s.plane, r, w)
			},
			Drain: func(context.Context) error {
				s.drainNow()
				return nil
			},
			Reload:     s.reload,
			Ready:      s.notReady,
			Notes:      s.notes,
			Metrics:    metrics.Handler(registry),
			Rendezvous: s.meeting.admin(),
		},
		Audit: func(a admin.Action) {
			e := s.log.Info()
			if a.Err != nil {
				e = s.log.Warn().Err(a.Err)
			}
			e.Str("action", a.Name).Str("remote", a.Remote).Str("session", a.Session).Msg("administration")
		},
		Problem: func(line string) { s.log.Warn().Str("problem", line).Msg("administration") },
	})
}

// onEvents hands a shard's events to who traces, and to the log, which then owns them.
func (s *server) onEvents(events []turn.Event) {
	s.tracer.Take(events)
	s.events.Put(events)
}

func offloadStatus(o dataplane.OffloadState) admin.Offload {
	return admin.Offload{Running: o.Running(), Text: o.String(), Flows: o.Flows, MaxFlows: o.MaxFlows}
}

// offloadChanged reports what the offload does from now on.
func (s *server) offloadChanged(o dataplane.OffloadState) {
	e := s.log.Info()
	if !o.Running() {
		e = s.log.Warn()
	}
	e.Str("offload", o.String()).Msg("the offload has changed: other flows are relayed by the engine")
}

// notReady says why the server should get no new clients.
func (s *server) notReady() (reasons []string) {
	if s.draining.Load() {
		reasons = append(reasons, "draining")
	}
	return reasons
}

// notes says what is not as good as it could be.
func (s *server) notes() (notes []string) {
	if kind, _, why := s.plane.Engine(); why != "" {
		notes = append(notes, fmt.Sprintf("engine %s, not a faster one: %s", kind, why))
	}
	if o := s.plane.Offload(); o.Mode != dataplane.OffloadOff && !o.Complete() {
		notes = append(notes, "offload: "+o.String())
	}
	return notes
}

func (s *server) status(ctx context.Context) (admin.Status, error) {
	stats, err := s.plane.Stats(ctx)
	if err != nil {
		return admin.Status{}, err
	}
	meets, err := s.meeting.status(ctx, s.config())
	if err != nil {
		return admin.Status{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	kind, shards, why := s.plane.Engine()
	st := admin.Status{
		Build:   admin.Build{Version: version(), Go: runtime.Version()},
		Engine:  admin.Engine{Name: kind.String(), Shards: shards, Why: why, Offload: offloadStatus(s.plane.Offload())},
		Started: s.started,
		Profile: string(s.cfg.Turn.Peers.Profile), Clients: s.page.Clients, Peers: s.page.Peers, Warnings: s.page.Notes,
		Limits: admin.LimitsOf(limits(s.cfg), s.cfg.Turn.Limits.TCPConnections),
	}
	for _, l := range s.cfg.Turn.Listen {
		st.Listeners = append(st.Listeners, admin.Listener{URL: l.Network + "://" + l.HostPort(), Auth: s.cfg.Asks(l)})
	}
	for _, r := range s.relays {
		st.Relays = append(st.Relays, admin.RelayAddress{Public: r.Public, Local: r.Local})
	}
	st.Rendezvous = meets
	st.Fill(&stats, s.plane.Ledger().Ports())
	st.Allocations.Most = s.capacity
	if s.draining.Load() {
		since, deadline := s.drainSince, s.drainSince.Add(s.cfg.Server.DrainTimeout)
		st.Drain = admin.Drain{Draining: true, Since: &since, Deadline: &deadline}
	}
	return st, nil
}

// drainNow begins the drain; a second call does nothing.
func (s *server) drainNow() {
	s.stopOnce.Do(func() {
		s.mu.Lock()
		s.drainSince = time.Now()
		s.mu.Unlock()
		s.draining.Store(true)
		close(s.stop)
	})
}
