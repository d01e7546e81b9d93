package main

import (
	"context"
	"time"
)

// trialSpec is one load.
type trialSpec struct {
	direction Direction
	size      int     // bytes of payload
	rate      float64 // packets/s, both directions together
	duration  time.Duration
	maxLoss   float64
	flood     *flood // nil without
}

// Ours to tune.
const (
	// maxDebt is how many packets the generator may be behind its schedule and still send them. What it cannot keep
	// is skipped and said: sent at once it would overflow a server's socket buffer, which holds about 90
	// packets of 1200 bytes by default.
	maxDebt = 64
	// drainQuiet ends a trial after the last packet was sent: nothing has arrived for so long. Longer than a server
	// waits for its CPU on a busy machine, or its queue would be called lost.
	drainQuiet = 100 * time.Millisecond
	drainMax   = time.Second
)

// pacer says how many packets are due.
type pacer struct {
	start, interval float64 // ns
	done            float64 // packets sent or skipped
	skipped         uint64
}

func (p *pacer) due(now int64) int {
	if p.interval == 0 {
		return 0
	}
	n := (float64(now)-p.start)/p.interval - p.done
	if n > maxDebt {
		over := float64(int(n - maxDebt))
		p.done += over
		p.skipped += uint64(over)
		n -= over
	}
	return max(int(n), 0)
}

func newPacer(now int64, rate float64) pacer {
	if rate <= 0 {
		return pacer{}
	}
	return pacer{start: float64(now), interval: 1e9 / rate}
}

// flow is one direction of a trial.
type flow struct {
	pacer    pacer
	link     link
	frames   func(i int) *frame
	which    int // 0 up, 1 down
	next     int // allocation
	sent     uint64
	received uint64
	hist     histogram
}

// trial loads the server with spec and reports what happened. meter may be nil.
func (s *session) trial(ctx context.Context, spec trialSpec, meter *meter) (*TrialResult, error) {
	if s.size != spec.size {
		if err := s.makeFrames(spec.size); err != nil {
			return nil, err
		}
	}
	if err := s.prime(ctx); err != nil {
		return nil, err
	}
	s.tag++
	up := &flow{link: s.clients, frames: func(i int) *frame { return s.allocs[i].up }, which: 0}
	down := &flow{link: s.peers, frames: func(i int) *frame { return s.allocs[i].down }, which: 1}
	flows := map[Direction][]*flow{Up: {up}, Down: {down}, Both: {up, down}}[spec.direction]
	for i := range s.allocs {
		s.allocs[i].nextSeq, s.allocs[i].lastSeq = [2]uint32{}, [2]uint32{}
	}
	res := &TrialResult{Direction: spec.direction, SizeBytes: spec.size, TargetRate: spec.rate}

	count := func(f *flow, head []byte, size int, alloc int, at int64) {
		p, ok := parseProbe(head)
		if !ok || size != spec.size || int(p.alloc) >= len(s.allocs) || alloc >= 0 && int(p.alloc) != alloc {
			res.Strange++
			return
		}
		if p.tag != s.tag {
			return // late, from an earlier trial
		}
		f.received++
		f.hist.add(at - p.sent)
		a := &s.allocs[p.alloc]
		if p.seq <= a.lastSeq[f.which] {
			res.Reordered++
		}
		a.lastSeq[f.which] = p.seq
	}
	atPeer := func(a *arrival) { count(up, a.payload, a.size, -1, a.at) }
	atClient := func(a *arrival) {
		if a.to < 0 {
			if spec.flood != nil {
				spec.flood.reply(a)
			}
			return
		}
		head, size, ok := unwrap(a.payload, a.size)
		if !ok {
			res.Strange++
			return
		}
		count(down, head, size, a.to, a.at)
	}
	// Late packets of an earlier trial cost this one nothing.
	for s.clients.receive(atClient)+s.peers.receive(atPeer) > 0 {
	}
	res.Strange = 0

	before, err := meter.read(s)
	if err != nil {
		return nil, err
	}
	start := time.Now().UnixNano()
	end := start + int64(spec.duration)
	for _, f := range flows {
		f.pacer = newPacer(start, spec.rate/float64(len(flows)))
	}
	if spec.flood != nil {
		spec.flood.begin(start)
	}
	batch := make([]*frame, 0, batchSize)
	var worked int64
	now, quietSince := start, int64(0)
	for round := 0; ; round++ {
		did := 0
		if now < end {
			for _, f := range flows {
				n, err := s.sendDue(f, now, batch)
				if err != nil {
					return nil, err
				}
				did += n
			}
			if spec.flood != nil {
				n, err := spec.flood.send(now)
				if err != nil {
					return nil, err
				}
				did += n
			}
		}
		did += s.clients.receive(atClient) + s.peers.receive(atPeer)
		was := now
		now = time.Now().UnixNano()
		if did > 0 {
			worked += now - was
			quietSince = now
		} else if now >= end && (now-quietSince > int64(drainQuiet) || up.received+down.received == up.sent+down.sent) || now > end+int64(drainMax) {
			break
		}
		if round%4096 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	after, err := meter.read(s)
	if err != nil {
		return nil, err
	}

	for _, f := range flows {
		res.Sent += f.sent
		res.Received += f.received
		res.Skipped += f.pacer.skipped
		l := f.hist.latency()
		if f == up {
			res.LatencyUp = &l
		} else {
			res.LatencyDown = &l
		}
	}
	res.Seconds = spec.duration.Seconds()
	res.Rate = float64(res.Sent) / res.Seconds
	res.DeliveryRate = float64(res.Received) / res.Seconds
	if res.Sent > res.Received {
		res.Loss = float64(res.Sent-res.Received) / float64(res.Sent)
	}
	packets := res.Sent
	if spec.flood != nil {
		res.Flood = spec.flood.result()
		packets += res.Flood.Sent
	}
	if packets > 0 {
		res.GeneratorUs = float64(worked) / 1e3 / float64(packets)
	}
	res.GeneratorBusy = min(float64(worked)/float64(spec.duration), 1)
	meter.fill(res, before, after)
	res.Limit = judge(res, spec.maxLoss)
	return res, nil
}

// sendDue sends what the flow's schedule asks for, at most one batch, so that receiving has its turn.
func (s *session) sendDue(f *flow, now int64, batch []*frame) (int, error) {
	n := min(f.pacer.due(now), batchSize, len(s.allocs))
	if n == 0 {
		return 0, nil
	}
	first := f.next
	for range n {
		i := f.next
		if f.next++; f.next == len(s.allocs) {
			f.next = 0
		}
		a := &s.allocs[i]
		fr := f.frames(i)
		putProbe(fr.probe, probe{tag: s.tag, alloc: uint32(i), sent: now, seq: a.nextSeq[f.which] + 1})
		a.nextSeq[f.which]++
		batch = append(batch, fr)
	}
	sent, err := f.link.send(batch)
	if sent < n {
		// The rest is due again; its sequence numbers stay unused, which only a reordering test would see.
		f.next = (first + sent) % len(s.allocs)
	}
	f.sent += uint64(sent)
	f.pacer.done += float64(sent)
	return sent, err
}
