package nattest

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/stilenet/stile/stun"
)

// Ours to tune.
const (
	maxQuota   = 1024 // sockets
	quotaBatch = 16   // at once
	mostTries  = 24   // of one question before its silence stays unexplained
)

// timers are the times after which a binding is tried. They are those that NATs are seen to have, and what is between.
var timers = []time.Duration{10, 20, 30, 45, 60, 90, 120, 150, 180, 240, 300, 600, 900, 1800, 3600}

// optIn runs the tests that Config asks for, one after the other, after the plan.
func (r *runner) optIn(ctx context.Context, o *Observations) {
	var mutex sync.Mutex
	add := func(x Observation, packets int) {
		mutex.Lock()
		defer mutex.Unlock()
		o.Probes = append(o.Probes, x)
		o.Sent += packets
	}
	k, f, _ := r.s.lost(time.Now())
	q := questioner{r: r, server: r.s.primary, wait: r.s.patience(), controls: k, lost: f, network: "udp4", add: add}
	if q.server.Addr().Is6() {
		q.network = "udp6"
	}
	if r.cfg.Hairpin {
		r.cfg.Progress("hairpin")
		q.hairpin(ctx)
	}
	if r.cfg.Lifetime > 0 {
		r.cfg.Progress("lifetime")
		var wait sync.WaitGroup
		for i, seconds := range timers {
			if d := seconds * time.Second; d <= r.cfg.Lifetime {
				wait.Go(func() { q.lifetime(ctx, i, d, false) })
				wait.Go(func() { q.lifetime(ctx, i, d, true) })
			}
		}
		wait.Wait()
	}
	if r.cfg.Quota > 0 {
		r.cfg.Progress("quota")
		q.quota(ctx)
	}
}

// questioner asks single questions, each on sockets of its own.
type questioner struct {
	r              *runner
	server         netip.AddrPort
	wait           time.Duration // for an answer
	controls, lost int           // of the plan
	network        string
	add            func(Observation, int)
}

// question is one request, repeated until it arrives or its silence is not the network's.
type question struct {
	from, into net.PacketConn // the sender, and where the answer, or the request itself, is to arrive
	to         netip.AddrPort
	port       uint16 // RESPONSE-PORT
}

func (q *questioner) listen(ctx context.Context) (net.PacketConn, bool) {
	c, err := q.r.cfg.ListenPacket(ctx, q.network, ":0")
	return c, err == nil
}

// ask sends a question until something with its transaction ID arrives: an answer, or, in a hairpin, the request.
func (q *questioner) ask(ctx context.Context, x question) (o Observation) {
	o = Observation{To: x.to, Expect: x.to, Local: addrPort(x.from.LocalAddr()), Controls: q.controls, ControlsLost: q.lost}
	stop := context.AfterFunc(ctx, func() { x.into.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	ids := make(map[stun.TransactionID]time.Time)
	buf := make([]byte, 2048)
	for o.Sent < mostTries && silence(o.Sent, q.controls, q.lost) > falseSilence && ctx.Err() == nil {
		var id stun.TransactionID
		rand.Read(id[:])
		b := stun.Begin(nil, stun.NewType(stun.Binding, stun.Request), id)
		if x.port != 0 {
			b.Uint32(stun.AttrResponsePort, stun.ResponsePort(x.port))
		}
		ids[id] = time.Now()
		o.Sent++
		x.from.WriteTo(b.Bytes(), net.UDPAddrFromAddrPort(x.to)) // a refusal is as good as a loss
		x.into.SetReadDeadline(time.Now().Add(q.wait))
		for reads := 0; reads < floodLimit && ctx.Err() == nil; reads++ {
			n, from, err := x.into.ReadFrom(buf)
			if e, ok := err.(net.Error); ok && e.Timeout() { //nolint:errorlint // as package net returns it
				break
			}
			m, perr := stun.Parse(buf[:max(n, 0)])
			if err != nil || perr != nil || m.CheckFingerprint() == stun.FingerprintInvalid {
				continue
			}
			at, ours := ids[m.TransactionID()]
			switch mapped, ok := m.GetXORAddress(stun.AttrXORMappedAddress); {
			case !ours:
			case m.Class() == stun.Request:
				o.Answered, o.Judged = 1, o.Sent
				o.Replies = []Reply{{From: addrPort(from), RTTms: milliseconds(time.Since(at))}}
				return o
			case addrPort(from) != x.to:
			case m.Class() == stun.Error:
				o.Error, _, _ = m.ErrorCode()
				o.Judged = o.Sent
				return o
			case ok:
				mapped = netip.AddrPortFrom(mapped.Addr().Unmap(), mapped.Port())
				o.Answered, o.Judged = 1, o.Sent
				o.Replies = []Reply{{From: addrPort(from), Mapped: mapped, RTTms: milliseconds(time.Since(at))}}
				return o
			}
		}
	}
	o.Judged = o.Sent
	return o
}

// open returns a socket and how the server sees it.
func (q *questioner) open(ctx context.Context) (c net.PacketConn, mapped netip.AddrPort, sent int, ok bool) {
	c, ok = q.listen(ctx)
	if !ok {
		return nil, mapped, 0, false
	}
	o := q.ask(ctx, question{from: c, into: c, to: q.server})
	if o.Answered == 0 {
		c.Close()
		return nil, mapped, o.Sent, false
	}
	return c, o.Replies[0].Mapped, o.Sent, true
}

// hairpin lets two sockets send to each other's external endpoints, so that no filter holds them.
func (q *questioner) hairpin(ctx context.Context) {
	a, seenA, sentA, ok := q.open(ctx)
	if !ok {
		return
	}
	defer a.Close()
	b, seenB, sentB, ok := q.open(ctx)
	if !ok {
		return
	}
	defer b.Close()
	b.WriteTo([]byte{0}, net.UDPAddrFromAddrPort(seenA)) // only to open b's filter for a
	o := q.ask(ctx, question{from: a, into: b, to: seenB})
	o.Name, o.Role = "hairpin", RoleHairpin
	for i := range o.Replies {
		o.Replies[i].Mapped = seenA
	}
	q.add(o, o.Sent+sentA+sentB+1)
}

// lifetime leaves a socket alone for d, and then lets the server send to it on another socket's request. With refresh the server
// sends to it after half of the time too: if that keeps the binding, packets from outside refresh it.
func (q *questioner) lifetime(ctx context.Context, i int, d time.Duration, refresh bool) {
	c, seen, packets, ok := q.open(ctx)
	if !ok {
		return
	}
	defer c.Close()
	visits, x := []time.Duration{d}, Observation{}
	if refresh {
		visits = []time.Duration{d / 2, d - d/2}
	}
	for visit, rest := range visits {
		select {
		case <-time.After(rest):
		case <-ctx.Done():
			return
		}
		other, from, more, ok := q.open(ctx)
		if !ok {
			return
		}
		if packets += more; from.Addr() == seen.Addr() { // RESPONSE-PORT reaches the address of the request only
			x = q.ask(ctx, question{from: other, into: c, to: q.server, port: seen.Port()})
			packets += x.Sent
		}
		other.Close()
		if x.Sent == 0 || visit < len(visits)-1 && x.Answered == 0 {
			return // nothing to be learnt
		}
	}
	x.Name, x.Role, x.Socket, x.AfterMS = fmt.Sprintf("lifetime-%v", d), RoleLifetime, i, d.Milliseconds()
	if refresh {
		x.Name, x.Role = fmt.Sprintf("refresh-%v", d), RoleRefresh
	}
	q.add(x, packets)
}

// quota opens sockets until one gets no answer. Those of the plan count too.
func (q *questioner) quota(ctx context.Context) {
	var conns []net.PacketConn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	o := Observation{Name: "quota", Role: RoleQuota, To: q.server, Expect: q.server, Controls: q.controls, ControlsLost: q.lost}
	packets := 0
	for o.Sent < q.r.cfg.Quota && o.Answered == o.Sent && ctx.Err() == nil {
		var mutex sync.Mutex
		var wait sync.WaitGroup
		for range min(quotaBatch, q.r.cfg.Quota-o.Sent) {
			c, ok := q.listen(ctx)
			if !ok { // this machine's own limit
				q.add(o, packets)
				return
			}
			conns = append(conns, c)
			o.Sent++
			wait.Go(func() {
				x := q.ask(ctx, question{from: c, into: c, to: q.server})
				mutex.Lock()
				defer mutex.Unlock()
				o.Answered += x.Answered
				packets += x.Sent
			})
		}
		wait.Wait()
	}
	o.Judged = o.Sent
	q.add(o, packets)
}
