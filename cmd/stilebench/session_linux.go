package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/stilenet/stile/stun"
)

// session is a set of allocations on one server with the generator's links to it. It is not safe for concurrent
// use: one thread does everything, so that what it costs can be said.
type session struct {
	clients, peers link
	server         netip.AddrPort
	mode           Mode
	cred           credentials
	outstanding    int // requests under way at most
	allocs         []allocation
	size           int // of the payload in the frames, 0 before makeFrames
	primedAt       time.Time
	retransmits    int
	tag            uint32
	scratch        []*frame
}

// From the specification: RFC 8489 §6.2.1. Rc is lower, as a benchmark has no patience.
const (
	firstTimeout = 500 * time.Millisecond
	maxTries     = 5
)

// Ours to tune.
const (
	primeEvery  = 120 * time.Second // well below the 300 s of a permission
	primeTries  = 15                // below the 20 packets that a server may allow towards a silent peer
	silenceGone = 8 * time.Second   // without any answer a server counts as absent
)

type sessionConfig struct {
	allocations int
	peers       int // addresses of the peer side
	mode        Mode
	cred        credentials
	outstanding int
}

func newSession(clients, peers link, server netip.AddrPort, cfg sessionConfig) *session {
	s := &session{clients: clients, peers: peers, server: server, mode: cfg.mode, cred: cfg.cred,
		outstanding: cfg.outstanding, allocs: make([]allocation, cfg.allocations), tag: rand.Uint32() &^ 0xFFFF}
	for i := range s.allocs {
		s.allocs[i].peer = peers.local(i % cfg.peers)
		s.allocs[i].channel = 0x4000 + uint16(i%0x1000) // the range of every dialect; a channel belongs to its allocation
	}
	return s
}

func (s *session) close() {
	s.clients.close()
	s.peers.close()
}

// awaitServer asks with Binding requests until the server answers.
func (s *session) awaitServer(ctx context.Context, srv *server) error {
	id := stun.TransactionID{1}
	ask := stun.Begin(nil, stun.NewType(stun.Binding, stun.Request), id)
	req := s.clients.frame(0, s.server, ask.Bytes(), -1)
	answered := false
	for deadline := time.Now().Add(15 * time.Second); !answered; {
		if srv != nil {
			if err := srv.ended(); err != nil {
				return err
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no answer to Binding requests from %v", s.server)
		}
		if _, err := s.clients.send([]*frame{req}); err != nil {
			return err
		}
		for range 20 {
			s.clients.receive(func(a *arrival) {
				m, err := stun.Parse(a.payload)
				answered = answered || err == nil && m.TransactionID() == id
			})
			if err := sleep(ctx, 5*time.Millisecond); err != nil {
				return err
			}
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// transact takes all allocations through the transactions that begin with first, with a bounded number under way.
func (s *session) transact(ctx context.Context, first step) error {
	active := make([]int, 0, s.outstanding)
	next, lastAnswer := 0, time.Now()
	out := s.scratch[:0]
	emit := func(i int, now time.Time) {
		a := &s.allocs[i]
		a.sentAt = now.UnixNano()
		a.tries++
		out = append(out, s.clients.frame(i, s.server, a.request(nil, s.cred), -1))
	}
	for rounds := 0; ; rounds++ {
		now := time.Now()
		for ; len(active) < s.outstanding && next < len(s.allocs); next++ {
			if a := &s.allocs[next]; a.step != stepFailed {
				a.begin(first)
				active = append(active, next)
				emit(next, now)
			}
		}
		if len(active) == 0 && next == len(s.allocs) {
			break
		}
		if err := s.flush(s.clients, out); err != nil {
			return err
		}
		out = out[:0]
		s.peers.receive(func(*arrival) {})
		ended := false
		n := s.clients.receive(func(ar *arrival) {
			if ar.to < 0 || ar.to >= len(s.allocs) {
				return
			}
			m, err := stun.Parse(ar.payload)
			if err != nil {
				return
			}
			a := &s.allocs[ar.to]
			if !a.response(m, s.mode, s.cred) {
				return
			}
			lastAnswer = now
			if a.waiting() {
				a.tries = 0
				emit(ar.to, now)
			} else {
				ended = true
			}
		})
		if n == 0 && rounds%64 == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			if now.Sub(lastAnswer) > silenceGone {
				return fmt.Errorf("%v has not answered for %v; %d of %d allocations were done", s.server, silenceGone, next-len(active), len(s.allocs))
			}
			for _, i := range active {
				a := &s.allocs[i]
				if now.UnixNano()-a.sentAt < int64(firstTimeout)<<(a.tries-1) {
					continue
				}
				if a.tries == maxTries {
					a.fail(stepNames[a.step] + ": no answer")
					ended = true
					continue
				}
				s.retransmits++
				emit(i, now)
			}
		}
		if ended {
			left := active[:0]
			for _, i := range active {
				if s.allocs[i].waiting() {
					left = append(left, i)
				}
			}
			active = left
		}
	}
	s.scratch = out
	return nil
}

// flush sends everything, waiting for the kernel where it must.
func (s *session) flush(l link, frames []*frame) error {
	for tries := 0; len(frames) > 0; tries++ {
		n, err := l.send(frames)
		if err != nil {
			return err
		}
		frames = frames[n:]
		if n == 0 {
			if tries > 1000 {
				return errors.New("the kernel takes no packets for a second")
			}
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}

// failures counts the allocations that failed, by reason.
func (s *session) failures() (n int, by map[string]int) {
	by = map[string]int{}
	for i := range s.allocs {
		if s.allocs[i].step == stepFailed {
			n++
			by[s.allocs[i].err]++
		}
	}
	return n, by
}

// establish allocates everything and fails if anything does.
func (s *session) establish(ctx context.Context) error {
	if err := s.transact(ctx, stepAllocate); err != nil {
		return err
	}
	if n, by := s.failures(); n > 0 {
		return fmt.Errorf("%d of %d allocations failed: %s", n, len(s.allocs), describe(by))
	}
	return nil
}

// release deletes all allocations that there are.
func (s *session) release(ctx context.Context) error { return s.transact(ctx, stepRelease) }

// makeFrames builds the data of all allocations with payloads of size bytes.
func (s *session) makeFrames(size int) error {
	if size < probeSize || size > maxPayload {
		return fmt.Errorf("a payload of %d bytes: must be %d to %d", size, probeSize, maxPayload)
	}
	payload := make([]byte, size)
	for i := range payload {
		payload[i] = byte(i)
	}
	for i := range s.allocs {
		a := &s.allocs[i]
		a.up = s.clients.frame(i, s.server, a.wrap(nil, s.mode, payload), a.offset(s.mode))
		a.down = s.peers.frame(s.peerIndex(i), a.relay, payload, 0)
	}
	s.size = size
	return nil
}

// maxPayload keeps an indication over IPv6 below an MTU of 1500 bytes.
const maxPayload = 1500 - 40 - 8 - 48 - 4

func (s *session) peerIndex(i int) int {
	// newSession dealt the peers out in turn, and the first allocation has the first again after a whole round.
	n := 1
	for n < len(s.allocs) && s.allocs[n].peer != s.allocs[0].peer {
		n++
	}
	return i % n
}

// prime renews permissions and channels and has every peer answer, which proves both directions of every
// allocation, and lifts what a server holds back until a peer has answered.
func (s *session) prime(ctx context.Context) error {
	if time.Since(s.primedAt) < primeEvery {
		return nil
	}
	if !s.primedAt.IsZero() {
		if s.mode == Channel {
			if err := s.transact(ctx, stepBind); err != nil {
				return err
			}
		} else if s.cred.user != "" {
			if err := s.transact(ctx, stepPermit); err != nil {
				return err
			}
		}
	}
	s.tag++
	for i := range s.allocs {
		s.allocs[i].primed = [2]bool{}
	}
	var strangers map[string]int
	for range primeTries {
		missing := 0
		for at := 0; at < len(s.allocs); at += batchSize {
			batch := s.scratch[:0]
			for i := at; i < min(at+batchSize, len(s.allocs)); i++ {
				if a := &s.allocs[i]; !a.primed[1] {
					missing++
					putProbe(a.up.probe, probe{tag: s.tag, alloc: uint32(i), sent: time.Now().UnixNano()})
					batch = append(batch, a.up)
				}
			}
			if err := s.flush(s.clients, batch); err != nil {
				return err
			}
			s.scratch = batch
			for wait := time.Now().Add(2 * time.Millisecond); time.Now().Before(wait); {
				if err := s.answerPrimes(&strangers); err != nil {
					return err
				}
			}
		}
		if missing == 0 {
			s.primedAt = time.Now()
			return nil
		}
		for wait := time.Now().Add(200 * time.Millisecond); time.Now().Before(wait) && !s.allPrimed(); {
			if err := s.answerPrimes(&strangers); err != nil {
				return err
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	var up, down int
	for i := range s.allocs {
		if s.allocs[i].primed[0] {
			up++
		}
		if s.allocs[i].primed[1] {
			down++
		}
	}
	err := fmt.Errorf("of %d allocations %d carried a packet to their peer and %d its answer", len(s.allocs), up, down)
	if len(strangers) > 0 {
		err = fmt.Errorf("%w; packets came from other addresses than RELAY-ADDRESS: %s", err, describe(strangers))
	}
	return err
}

func (s *session) allPrimed() bool {
	for i := range s.allocs {
		if !s.allocs[i].primed[1] {
			return false
		}
	}
	return true
}

func (s *session) answerPrimes(strangers *map[string]int) error {
	var answers []*frame
	s.peers.receive(func(ar *arrival) {
		p, ok := parseProbe(ar.payload)
		if !ok || p.tag != s.tag || int(p.alloc) >= len(s.allocs) {
			return
		}
		a := &s.allocs[p.alloc]
		if ar.from != a.relay {
			if *strangers == nil {
				*strangers = map[string]int{}
			}
			if len(*strangers) < 4 {
				(*strangers)[ar.from.String()]++
			}
			return
		}
		a.primed[0] = true
		putProbe(a.down.probe, p)
		answers = append(answers, a.down)
	})
	for _, f := range answers { // singly, as the same frame may stand here twice
		if err := s.flush(s.peers, []*frame{f}); err != nil {
			return err
		}
	}
	s.clients.receive(func(ar *arrival) {
		head, _, ok := unwrap(ar.payload, ar.size)
		if !ok {
			return
		}
		if p, ok := parseProbe(head); ok && p.tag == s.tag && int(p.alloc) == ar.to {
			s.allocs[p.alloc].primed[1] = true
		}
	})
	return nil
}
