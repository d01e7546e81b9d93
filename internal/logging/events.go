package logging

import (
	"context"
	"errors"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/stilenet/stile/rendezvous"
	"github.com/stilenet/stile/turn"
)

// maxQueued is how many events may wait for the writer, about 4 MB. A batch that finds less waiting is taken whole, so that the last
// batch of a server that ends has a line for each session. Ours to tune: 10 s of a log that takes 1,000 lines/s.
const maxQueued = 10_000

// Events writes the events of a data plane and of a rendezvous. Its methods may be called by any number of goroutines.
type Events struct {
	log  *Log
	done chan struct{} // closed when the writer has ended
	wake chan struct{}

	mu          sync.Mutex
	queue       []batch
	waiting     int // events in the queue
	closed      bool
	permissions bool
	unsaid      uint64 // dropped, and no line has said so yet
	dropped     uint64
}

// batch is events of one kind, in the order in which they were put.
type batch struct {
	turn       []turn.Event
	rendezvous []rendezvous.Event
}

// Events begins to write events. permissions adds a line for each new peer of a session. Close must follow.
func (l *Log) Events(permissions bool) *Events {
	e := &Events{log: l, done: make(chan struct{}), wake: make(chan struct{}, 1), permissions: permissions}
	go e.run()
	return e
}

// SetPermissions turns the line for each new peer on or off.
func (e *Events) SetPermissions(on bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.permissions = on
}

// Put queues what is worth a line. It owns the slice from then on, and changes it. It never waits for the writer: when 10,000 events wait
// already the batch is dropped and counted, and a line says so later.
func (e *Events) Put(events []turn.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	debug := e.log.level.Sample(zerolog.DebugLevel)
	events = slices.DeleteFunc(events, func(v turn.Event) bool {
		return v.Kind == turn.EventTrace || v.Kind == turn.EventPeer && !e.permissions || v.Kind == turn.EventStarted && !debug
	})
	e.put(batch{turn: events}, len(events))
}

// PutRendezvous is Put for events of the rendezvous.
func (e *Events) PutRendezvous(events []rendezvous.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	debug := e.log.level.Sample(zerolog.DebugLevel)
	events = slices.DeleteFunc(events, func(v rendezvous.Event) bool { return v.Kind == rendezvous.EventConnected && !debug })
	e.put(batch{rendezvous: events}, len(events))
}

func (e *Events) put(b batch, n int) {
	switch {
	case n == 0:
		return
	case e.closed || e.waiting >= maxQueued:
		e.dropped += uint64(n)
		e.unsaid += uint64(n)
		return
	}
	e.queue = append(e.queue, b)
	e.waiting += n
	e.signal()
}

func (e *Events) signal() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// Dropped reports how many events were dropped because the writer was slow.
func (e *Events) Dropped() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.dropped
}

// Close writes what waits. Events that come later are dropped. When ctx ends first, its error is returned and the goroutine
// ends as soon as the writer lets it. Close may be called again.
func (e *Events) Close(ctx context.Context) error {
	e.mu.Lock()
	e.closed = true
	e.signal()
	e.mu.Unlock()
	select {
	case <-e.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run is the writer. It takes all that waits at once, so that Put finds the lock free.
func (e *Events) run() {
	defer close(e.done)
	for range e.wake {
		for {
			e.mu.Lock()
			events, lost, closed := e.queue, e.unsaid, e.closed
			e.queue, e.waiting, e.unsaid = nil, 0, 0
			e.mu.Unlock()
			for _, b := range events {
				for i := range b.turn {
					e.write(&b.turn[i])
				}
				for i := range b.rendezvous {
					e.writeRendezvous(&b.rendezvous[i])
				}
			}
			if lost > 0 {
				e.log.Warn().Uint64(FieldCount, lost).
					Str(FieldRemedy, "let what reads the log keep up, or set log.permissions: false").
					Msg("events dropped: the log was too slow")
			}
			if closed {
				return
			}
			if len(events) == 0 && lost == 0 {
				break
			}
		}
	}
}

func (e *Events) write(v *turn.Event) {
	log := &e.log.bare
	switch v.Kind {
	case turn.EventStarted:
		end(session(log.Debug(), &v.Session), v, "session started")
	case turn.EventEnded:
		s := &v.Session
		l := session(log.Info(), s).Int(FieldPeers, s.Peers)
		if s.LastPeer.IsValid() {
			l.Stringer(FieldLastPeer, s.LastPeer)
		}
		l.Uint64(FieldBytesUp, s.BytesUp).Uint64(FieldPacketsUp, s.PacketsUp).
			Uint64(FieldBytesDown, s.BytesDown).Uint64(FieldPacketsDown, s.PacketsDown).
			Float64(FieldDuration, v.At.Sub(s.Started).Round(time.Millisecond).Seconds()).
			Stringer(FieldReason, v.Reason)
		end(l, v, "session ended")
	case turn.EventPeer:
		end(session(log.Info(), &v.Session).Stringer(FieldPeer, v.Peer.Addr()), v, "new peer")
	case turn.EventRefused:
		refused(log, v)
	case turn.EventOpenError:
		end(log.Error().AnErr(FieldError, v.Err).Uint64(FieldCount, v.Count).Str(FieldRemedy, openRemedy(v.Err)), v, "relayed port not opened")
	case turn.EventBug:
		end(log.Error().AnErr(FieldError, v.Err).Uint64(FieldCount, v.Count).
			Str(FieldRemedy, "report this line to the maintainers; the sessions of one shard ended, new ones are served"), v, "bug in the relay")
	}
}

func end(l *zerolog.Event, v *turn.Event, message string) {
	stamp(l, v.At)
	l.Msg(message)
}

// session adds who it is.
func session(l *zerolog.Event, s *turn.Session) *zerolog.Event {
	l.Stringer(FieldSession, s.ID).Stringer(FieldClient, s.Client)
	if s.User != "" {
		l.Str(FieldUser, s.User)
	}
	return l.Stringer(FieldRelay, s.Relayed).Str(FieldTransport, Transport(s.Stream)).Stringer(FieldDialect, s.Dialect)
}

// Transport names how a client reaches the server.
func Transport(stream bool) string {
	if stream {
		return "tcp"
	}
	return "udp"
}

func refused(log *zerolog.Logger, v *turn.Event) {
	l, message := log.Info(), "peer refused"
	if v.Session.ID != 0 {
		session(l, &v.Session)
	} else if v.Client.IsValid() {
		l.Stringer(FieldClient, v.Client)
	}
	switch {
	case v.Peer.IsValid() && v.Peer.Port() == 0:
		l.Stringer(FieldPeer, v.Peer.Addr())
	case v.Peer.IsValid():
		l.Stringer(FieldPeer, v.Peer)
	default:
		message = "client refused"
	}
	l.Stringer(FieldRule, v.Rule).Uint64(FieldCount, v.Count)
	if r := ruleRemedy(v.Rule); r != "" {
		l.Str(FieldRemedy, r)
	}
	end(l, v, message)
}

// ruleRemedy says what an administrator can do about a refusal; nothing where nothing opens the address.
func ruleRemedy(r turn.Rule) string {
	switch r.Base() {
	case turn.RuleClientNotListed:
		return "add the client's prefix to turn.clients if it may use the proxy"
	case turn.RuleReversePath:
		return "correct the routes so that answers to the client leave by the interface it comes in by"
	case turn.RulePort:
		return "add the port to turn.peers.ports if clients may reach it"
	case turn.RulePayload:
		return "set turn.peers.payload: any if clients may send other protocols than RTMFP"
	case turn.RuleHairpin:
		return "set turn.hairpin: all if clients may reach each other"
	case turn.RuleDeniedByConfig:
		return "remove the prefix from turn.peers.deny, or add a longer one to turn.peers.allow, if clients may reach it"
	case turn.RulePrivate, turn.RuleCGN, turn.RuleLoopback, turn.RuleLinkLocal, turn.RuleMetadata, turn.RuleOwnAddress,
		turn.RuleReserved, turn.RuleSpecialPurpose, turn.RuleOnLink, turn.RuleNotDefaultRoute:
		return "add the prefix to turn.peers.allow if clients may reach it"
	}
	return ""
}

// openRemedy says what an administrator can do about a port that could not be opened.
func openRemedy(err error) string {
	switch {
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return "raise the limit of open files (LimitNOFILE= or ulimit -n), or lower turn.limits.allocations"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "name addresses of this host in turn.relay.addresses"
	case errors.Is(err, syscall.ENOMEM), errors.Is(err, syscall.ENOBUFS):
		return "give the host more memory, or lower turn.limits.allocations"
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return "let the server's user open ports in turn.relay.ports"
	}
	return "see the error"
}
