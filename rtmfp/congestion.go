package rtmfp

import "math"

// transfer is the congestion control of a session (Appendix A), with what acknowledges and retransmits its flows.
type transfer struct {
	smss        int
	cwnd        int
	ssthresh    int
	accumulator int // ACKED_BYTES_ACCUMULATOR
	outstanding int // S_OUTSTANDING_BYTES
	dataPackets int // DATA_PACKET_COUNT
	burst       int // what it may come to

	// Of the packet that is being processed.
	acked          int
	preOutstanding int
	anyLoss        bool
	anyNAKs        bool
	anyAcks        bool

	tcSent      instant // when a time critical packet was last sent in this session
	tcrReceived instant // when a reverse notification was last received

	nextTSN, maxTSNAck uint64
	first, last        *fragment // in flight, by TSN
	timeout            instant   // TIMEOUT_ALARM

	ackNow        bool
	delayedAck    instant // DELACK_ALARM
	rxDataPackets int
	acks          []*ReceiveFlow // with SHOULD_ACK
	turn          int            // round robin among flows of one priority
}

func (s *Session) transferring() *transfer {
	if s.transfer == nil {
		smss := s.e.cfg.MaxDatagram
		s.transfer = &transfer{
			smss: smss, cwnd: 3 * smss, burst: burstLimit, ssthresh: math.MaxInt, tcSent: longAgo, tcrReceived: longAgo, nextTSN: 1, timeout: never, delayedAck: never,
		}
	}
	return s.transfer
}

// initialCWND is CWND_INIT by RFC 5681 §3.1, for segments of usual sizes.
func (t *transfer) initialCWND() int { return 3 * t.smss }

func (t *transfer) beforePacket() {
	t.anyLoss, t.anyNAKs, t.anyAcks, t.acked, t.preOutstanding = false, false, false, 0, t.outstanding
}

// timedOut is Figure 24.
func (t *transfer) timedOut(wasLoss bool) {
	t.ssthresh = max(t.ssthresh, t.cwnd/4*3)
	t.accumulator = 0
	t.cwnd = t.initialCWND()
	if wasLoss {
		t.cwnd = t.smss
	}
}

// adjust is Figure 25.
func (t *transfer) adjust(e *Endpoint) {
	tcSent := e.now.sub(t.tcSent) <= timeCriticalLifetime
	fastGrow := e.now.sub(t.tcrReceived) > timeCriticalLifetime && e.now.sub(e.tcSent) > timeCriticalLifetime
	switch {
	case t.anyLoss:
		keep := t.preOutstanding / 2
		if tcSent || t.preOutstanding > 67200 && fastGrow {
			keep = t.preOutstanding * 7 / 8
		}
		t.ssthresh = max(keep, t.initialCWND())
		t.cwnd = t.ssthresh
		t.accumulator = 0
	case t.anyAcks && !t.anyNAKs && t.preOutstanding >= t.cwnd:
		increase := 0
		switch {
		case t.cwnd < t.ssthresh && fastGrow:
			increase = t.acked
		case t.cwnd < t.ssthresh && tcSent:
			increase = (t.acked + 3) / 4
		default:
			limit, step := 4800, 48
			if !fastGrow {
				step = 24
				if tcSent {
					limit = 2400
				}
			}
			t.accumulator += t.acked
			threshold := min(max(t.cwnd/16, 64), limit)
			increase = t.accumulator / threshold * step
			t.accumulator %= threshold
		}
		t.cwnd = max(t.cwnd+min(increase, t.smss), t.initialCWND())
	}
}

// afterPacket infers losses and adjusts the window (§3.6.2.5, A.2), and counts packets to acknowledge (§3.6.3.2).
func (t *transfer) afterPacket(s *Session, data bool) {
	if data {
		if t.rxDataPackets++; t.rxDataPackets >= 2 {
			t.ackNow = true
		}
	}
	if t.anyAcks {
		// Deviation: §3.5.2.3 has six packets between acknowledgements, of which the receiver sends one for every two packets. A
		// receiver that reads packets in batches sends one for many, and a sender may read several at once: that would slow a
		// session down to six packets in a round trip. So an acknowledgement counts for as many as it stands for.
		if t.dataPackets > 0 {
			t.burst, t.dataPackets = 0, 0
		}
		t.burst = min(t.burst+burstLimit*max(1, (t.acked/t.smss+1)/2), maxBurst)
		for f := t.first; f != nil && f.tsn < t.maxTSNAck; {
			next := f.next
			t.anyNAKs = true
			if f.naks++; f.naks >= lossNAKs {
				s.lost++
				t.anyLoss = true
				s.e.counters.Lost++
				t.unflight(f)
				f.flow.lost(f)
			}
			f = next
		}
		if t.timeout != never {
			t.timeout = s.e.now.add(s.rtt.erto)
		}
	}
	t.adjust(s.e)
}

// flight notes that a fragment was sent with so many bytes.
func (t *transfer) flight(f *fragment, size int) {
	f.inFlight, f.naks, f.size = true, 0, size
	f.tsn = t.nextTSN
	t.nextTSN++
	t.outstanding += size
	f.flow.outstanding += size
	f.prev, f.next = t.last, nil
	if t.last != nil {
		t.last.next = f
	} else {
		t.first = f
	}
	t.last = f
}

// unflight notes that a fragment is acknowledged or lost.
func (t *transfer) unflight(f *fragment) {
	f.inFlight = false
	t.outstanding -= f.size
	f.flow.outstanding -= f.size
	if f.prev != nil {
		f.prev.next = f.next
	} else {
		t.first = f.next
	}
	if f.next != nil {
		f.next.prev = f.prev
	} else {
		t.last = f.prev
	}
	f.prev, f.next = nil, nil
}

// expire is the firing of TIMEOUT_ALARM (§3.6.2.6).
func (t *transfer) expire(s *Session) {
	t.timeout = never
	t.dataPackets, t.burst = 0, burstLimit
	wasLoss := t.first != nil
	for f := t.first; f != nil; {
		next := f.next
		s.e.counters.TimedOut++
		s.lost++
		t.unflight(f)
		f.flow.lost(f)
		f = next
	}
	if wasLoss {
		s.rtt.backoff()
	}
	t.timedOut(wasLoss)
}
