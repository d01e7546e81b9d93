package rtmfp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// body is a message of a size that says its number and can be checked.
func body(n, size int) []byte {
	b := make([]byte, max(size, 4))
	binary.BigEndian.PutUint32(b, uint32(n))
	for i := 4; i < len(b); i++ {
		b[i] = byte(n + i)
	}
	return b
}

func TestReliableFlowsDeliverEverythingInOrder(t *testing.T) {
	for i, loss := range slices.Repeat([]float64{0, 0.02, 0.1, 0.2, 0.3}, 6) {
		t.Run(fmt.Sprintf("loss %v seed %d", loss, i), func(t *testing.T) {
			w := newWorld(t, uint64(i))
			w.delayMin, w.delayMax, w.loss, w.dup = 5*time.Millisecond, 60*time.Millisecond, loss, 0.1
			a, b := w.add("a", Config{}, addrA), w.add("b", Config{}, addrB)
			const count = 150
			got := map[*node]int{}
			complete := map[*node]bool{}
			var there *SendFlow
			receive := func(n *node) func(Event) {
				return func(ev Event) {
					switch ev.Kind {
					case EventFlowOpen:
						if string(ev.Receive.Metadata()) != "there" {
							if ev.Receive.Association() != there {
								t.Error("the answer is not associated")
							}
							there.Close(w.now) // before, the association would be one to a flow that is not F_OPEN
							return
						}
						// The answer goes by a flow in return.
						back, err := ev.Session.OpenFlow(w.now, FlowConfig{Metadata: []byte("back"), Association: ev.Receive})
						if err != nil {
							t.Fatal(err)
						}
						ev.Receive.User = back
					case EventMessage:
						number := int(binary.BigEndian.Uint32(ev.Data))
						if number != got[n] || ev.Lost || !bytes.Equal(ev.Data, body(number, len(ev.Data))) {
							t.Fatalf("%s got message %d of %d bytes instead of %d, lost %v", n.name, number, len(ev.Data), got[n], ev.Lost)
						}
						got[n]++
						if back, ok := ev.Receive.User.(*SendFlow); ok {
							if _, err := back.Write(w.now, ev.Data, WriteOptions{}); err != nil {
								t.Fatal(err)
							}
						}
					case EventFlowComplete:
						if ev.Lost {
							t.Errorf("%s: lost messages", n.name)
						}
						complete[n] = true
						if back, ok := ev.Receive.User.(*SendFlow); ok {
							back.Close(w.now)
						}
					}
				}
			}
			a.handle, b.handle = receive(a), receive(b)
			near, far := w.connect(a, b)
			there, _ = near.OpenFlow(w.now, FlowConfig{Metadata: []byte("there")})
			for n := range count {
				size := w.rng.IntN(100)
				if n%10 == 0 {
					size = w.rng.IntN(8000)
				}
				if _, err := there.Write(w.now, body(n, size), WriteOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			if !w.run(30*time.Minute, func() bool { return complete[a] && complete[b] }) {
				t.Fatalf("delivered %d and %d of %d after 30 minutes", got[b], got[a], count)
			}
			if got[a] != count || got[b] != count {
				t.Errorf("delivered %d and %d of %d", got[b], got[a], count)
			}
			w.run(10*time.Minute, func() bool { return a.seen[EventFlowFinished] == 1 && b.seen[EventFlowFinished] == 1 })
			w.run(131*time.Second, nil)
			if there.State() != FlowClosed || len(near.SendFlows())+len(near.ReceiveFlows())+len(far.SendFlows())+len(far.ReceiveFlows()) != 0 {
				t.Errorf("%v; flows remain after their linger", there.State())
			}
			if a.seen[EventFlowFinished] != 1 || b.seen[EventFlowFinished] != 1 {
				t.Error("EventFlowFinished did not come once at each end")
			}
			for _, s := range []*Session{near, far} {
				if srtt, _ := s.RTT(); srtt < 5*time.Millisecond || srtt > 500*time.Millisecond {
					t.Errorf("round-trip time %v", srtt)
				}
			}
		})
	}
}

func TestPartiallyReliableFlowsNeverDeliverLate(t *testing.T) {
	sent, delivered := 0, 0
	for seed := range uint64(100) {
		w := newWorld(t, seed)
		w.delayMin, w.delayMax, w.loss, w.dup = 20*time.Millisecond, 80*time.Millisecond, 0.3, 0.1
		a, b := w.add("a", Config{}, addrA), w.add("b", Config{}, addrB)
		const lifetime, count = 300 * time.Millisecond, 400
		written := map[int]time.Time{}
		got := 0
		inOrder := 0
		b.handle = func(ev Event) {
			switch ev.Kind {
			case EventFlowOpen:
				if string(ev.Receive.Metadata()) == "any" {
					ev.Receive.DeliverInAnyOrder(w.now)
				}
			case EventMessage:
				number := int(binary.BigEndian.Uint32(ev.Data))
				if string(ev.Receive.Metadata()) == "ordered" {
					if number < inOrder {
						t.Fatalf("message %d after %d", number, inOrder)
					}
					if ev.Lost != (number != inOrder) {
						t.Errorf("message %d after %d has Lost %v", number, inOrder-1, ev.Lost)
					}
					inOrder = number + 1
					return
				}
				got++
				if late := w.now.Sub(written[number]); late > lifetime+w.delayMax {
					t.Errorf("message %d came after %v", number, late)
				}
			}
		}
		near, _ := w.connect(a, b)
		any, _ := near.OpenFlow(w.now, FlowConfig{Metadata: []byte("any"), TimeCritical: true, Priority: PriorityImmediate})
		ordered, _ := near.OpenFlow(w.now, FlowConfig{Metadata: []byte("ordered")})
		for n := range count {
			written[n] = w.now
			any.Write(w.now, body(n, 200), WriteOptions{FinishWithin: lifetime})
			ordered.Write(w.now, body(n, 50), WriteOptions{FinishWithin: lifetime})
			w.run(20*time.Millisecond, nil)
		}
		any.Close(w.now)
		ordered.Close(w.now)
		if !w.run(10*time.Minute, func() bool { return b.seen[EventFlowComplete] == 2 && a.seen[EventFlowFinished] == 2 }) {
			t.Fatalf("not complete: %d", b.seen[EventFlowComplete])
		}
		// A run that loses its first six packets or their acknowledgements waits for ERTO, so all runs are judged together.
		sent, delivered = sent+count, delivered+got
	}
	if delivered < sent*6/10 {
		t.Errorf("%d of %d delivered", delivered, sent)
	}
	t.Logf("%d of %d delivered in time at 30 %% loss", delivered, sent)
}

func TestWriteOptionsAbandon(t *testing.T) {
	for name, o := range map[string]WriteOptions{"start": {StartWithin: time.Second}, "finish": {FinishWithin: time.Second}, "attempts": {Attempts: 2}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			a, b := w.add("a", Config{IdleLimit: -1}, addrA), w.add("b", Config{}, addrB)
			near, _ := w.connect(a, b)
			f, _ := near.OpenFlow(w.now, FlowConfig{Metadata: []byte("m")})
			if name == "start" {
				near.transferring().dataPackets = burstLimit // nothing can be sent
			}
			w.filter = func(*packet) bool { return false }
			m, _ := f.Write(w.now, []byte("old"), o)
			w.run(999*time.Millisecond, nil)
			if m.Abandoned() {
				t.Error("abandoned too early")
			}
			w.run(20*time.Second, nil)
			if !m.Abandoned() {
				t.Error("not abandoned")
			}
			w.filter = nil
			near.transferring().dataPackets = 0
			f.Write(w.now, []byte("new"), WriteOptions{})
			if !w.run(time.Minute, func() bool { return b.seen[EventMessage] == 1 }) {
				t.Fatal("the message after it is not delivered")
			}
			if ev, _ := b.last(EventMessage); string(ev.Data) != "new" || !ev.Lost {
				t.Errorf("got %q, lost %v", ev.Data, ev.Lost)
			}
			f.Close(w.now)
			w.run(time.Minute, nil)
			if ev, ok := b.last(EventFlowComplete); !ok || !ev.Lost {
				t.Errorf("complete %v, lost %v", ok, ev.Lost)
			}
		})
	}
}

func TestRejectedFlowTellsItsSender(t *testing.T) {
	w := newWorld(t, 1)
	a, b := w.add("a", Config{}, addrA), w.add("b", Config{}, addrB)
	near, _ := w.connect(a, b)
	b.handle = func(ev Event) {
		if ev.Kind == EventFlowOpen {
			ev.Receive.Reject(w.now, 77)
		}
	}
	f, _ := near.OpenFlow(w.now, FlowConfig{Metadata: []byte("m")})
	for range 50 {
		f.Write(w.now, make([]byte, 3000), WriteOptions{})
	}
	w.run(10*time.Second, nil)
	ev, _ := a.last(EventFlowException)
	if ev.Code != 77 || ev.Send != f || a.seen[EventFlowException] != 1 || a.seen[EventFlowFinished] != 1 || f.State() != FlowLinger {
		t.Errorf("code %d, %d exceptions, %v", ev.Code, a.seen[EventFlowException], f.State())
	}
	if _, err := f.Write(w.now, nil, WriteOptions{}); err != ErrState {
		t.Errorf("write after the exception: %v", err)
	}
	if b.seen[EventMessage] > 1 { // those of the packet that opened the flow
		t.Errorf("%d messages of a rejected flow", b.seen[EventMessage])
	}
}

func TestFlowsThatMustBeRejected(t *testing.T) {
	metadata := AppendOption(nil, Option{OptionMetadata, []byte("m")})
	for _, test := range []struct {
		name    string
		options OptionList
		reject  bool
	}{
		{"without metadata", AppendOption(nil, Option{0x2001, nil}), true},
		{"with metadata", metadata, false},
		{"in return to no flow", AppendOption(slices.Clone(metadata), Option{OptionAssociation, []byte{99}}), true},
		{"with an unknown option", AppendOption(slices.Clone(metadata), Option{0x1fff, nil}), true},
		{"with an unknown option that may be ignored", AppendOption(slices.Clone(metadata), Option{0x2000, nil}), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, 1)
			a, b := w.add("a", Config{}, addrA), w.add("b", Config{}, addrB)
			near, far := w.connect(a, b)
			near.queueControl(AppendUserData(nil, UserData{OptionsPresent: true, FlowID: 9, Sequence: 1, FSNOffset: 1, Options: test.options}))
			w.run(time.Second, nil)
			f := far.ReceiveFlows()[0]
			if rejected := f.State() == FlowRejected; rejected != test.reject || b.seen[EventFlowOpen] == 1 == test.reject {
				t.Errorf("%v, %d opened", f.State(), b.seen[EventFlowOpen])
			}
		})
	}
}

func TestClosedWindowIsProbedAndOnlyThen(t *testing.T) {
	w := newWorld(t, 1)
	a, b := w.add("a", Config{}, addrA), w.add("b", Config{}, addrB)
	near, _ := w.connect(a, b)
	var flow *ReceiveFlow
	b.handle = func(ev Event) {
		if ev.Kind == EventFlowOpen {
			flow = ev.Receive
			flow.SetCapacity(w.now, 4096)
			flow.Suspend()
		}
	}
	var probes []time.Time
	w.filter = func(p *packet) bool {
		if slices.Contains(kinds(p.data), ChunkBufferProbe) {
			probes = append(probes, w.now)
		}
		return true
	}
	f, _ := near.OpenFlow(w.now, FlowConfig{Metadata: []byte("m")})
	const count = 100
	for n := range count {
		f.Write(w.now, body(n, 1000), WriteOptions{})
	}
	w.run(10*time.Minute, nil)
	if len(probes) < 5 || flow.Buffered() > 4096+65536+count*entryOverhead {
		t.Errorf("%d probes, %d buffered", len(probes), flow.Buffered())
	}
	for i := 2; i < len(probes); i++ {
		if d := probes[i].Sub(probes[i-1]); d < time.Second || d > time.Minute || d < probes[i-1].Sub(probes[i-2]) {
			t.Errorf("probes %v apart", d)
		}
	}
	before := len(probes)
	flow.Resume(w.now)
	if !w.run(time.Minute, func() bool { return b.seen[EventMessage] == count }) {
		t.Errorf("%d delivered after Resume", b.seen[EventMessage])
	}
	if len(probes) > before+1 {
		t.Error("probes of an open window")
	}
}

func TestMessageLongerThanTheBufferIsDelivered(t *testing.T) {
	w := newWorld(t, 1)
	w.loss = 0.1
	a, b := w.add("a", Config{}, addrA), w.add("b", Config{}, addrB)
	near, _ := w.connect(a, b)
	b.handle = func(ev Event) {
		if ev.Kind == EventFlowOpen {
			ev.Receive.SetCapacity(w.now, 2048)
		}
	}
	f, _ := near.OpenFlow(w.now, FlowConfig{Metadata: []byte("m")})
	f.Write(w.now, body(0, 50000), WriteOptions{})
	if !w.run(time.Minute, func() bool { return b.seen[EventMessage] == 1 }) {
		t.Error("not delivered")
	}
}

// TestForwardSequenceNumberWaitsForWhatIsInFlight: "The FSN MUST NOT be equal to any sequence number currently outstanding that was
// not abandoned when sent" (§3.6.2.3).
func TestForwardSequenceNumberWaitsForWhatIsInFlight(t *testing.T) {
	w := newWorld(t, 1)
	a, b := w.add("a", Config{}, addrA), w.add("b", Config{}, addrB)
	near, _ := w.connect(a, b)
	f, _ := near.OpenFlow(w.now, FlowConfig{Metadata: []byte("m")})
	first, _ := f.Write(w.now, []byte("first"), WriteOptions{})
	a.e.Flush(w.now)
	first.Abandon(w.now)
	f.Write(w.now, []byte("second"), WriteOptions{})
	if fsn := f.forwardSequence(); fsn != 0 {
		t.Errorf("FSN %d while 1 is in flight", fsn)
	}
	a.e.Flush(w.now)
	near.transfer.unflight(f.queue[0])
	if fsn := f.forwardSequence(); fsn != 1 {
		t.Errorf("FSN %d when 1 is lost", fsn)
	}
}

// TestGapIsNotLeftToTheReceiver: what is abandoned while everything after it is in flight must still be told, though the last
// acknowledgement then empties the queue.
func TestGapIsNotLeftToTheReceiver(t *testing.T) {
	w := newWorld(t, 1)
	a, b := w.add("a", Config{}, addrA), w.add("b", Config{}, addrB)
	near, _ := w.connect(a, b)
	f, _ := near.OpenFlow(w.now, FlowConfig{Metadata: []byte("m")})
	first, _ := f.Write(w.now, []byte("first"), WriteOptions{})
	w.filter = func(*packet) bool { return false }
	w.drain(a)
	w.filter = nil
	for range 4 { // the fourth acknowledgement would declare the first lost
		f.Write(w.now, []byte("more"), WriteOptions{})
		w.drain(a)
	}
	f.Close(w.now)
	first.Abandon(w.now)
	if !w.run(time.Minute, func() bool { return b.seen[EventFlowComplete] == 1 && a.seen[EventFlowFinished] == 1 }) {
		t.Errorf("the receiver is left at %d %v, the sender in %v", b.e.SessionByIdentity([]byte("id:a")).ReceiveFlows()[0].csn,
			b.e.SessionByIdentity([]byte("id:a")).ReceiveFlows()[0].above, f.State())
	}
}

func TestNothingIsReceivedAboveTheFinalSequenceNumber(t *testing.T) {
	w := newWorld(t, 1)
	a, b := w.add("a", Config{}, addrA), w.add("b", Config{}, addrB)
	near, far := w.connect(a, b)
	options := AppendOption(nil, Option{OptionMetadata, []byte("m")})
	near.queueControl(AppendUserData(nil, UserData{OptionsPresent: true, Final: true, FlowID: 9, Sequence: 3, FSNOffset: 3, Options: options}))
	near.queueControl(AppendUserData(nil, UserData{FlowID: 9, Sequence: 4, FSNOffset: 4}))
	w.run(time.Second, nil)
	if f := far.ReceiveFlows()[0]; f.contains(4) || !f.contains(3) || b.e.counters.Chunks[ChunkAfterFinal] != 1 {
		t.Errorf("set %d %v", f.csn, f.above)
	}
}

func TestHigherPriorityGoesFirst(t *testing.T) {
	w := newWorld(t, 1)
	a, b := w.add("a", Config{}, addrA), w.add("b", Config{}, addrB)
	near, _ := w.connect(a, b)
	low, _ := near.OpenFlow(w.now, FlowConfig{Metadata: []byte("low"), Priority: PriorityBulk})
	high, _ := near.OpenFlow(w.now, FlowConfig{Metadata: []byte("high"), Priority: PriorityImmediate, TimeCritical: true})
	for n := range 100 {
		low.Write(w.now, body(n, 1000), WriteOptions{})
	}
	w.run(30*time.Millisecond, nil)
	high.Write(w.now, body(0, 1000), WriteOptions{})
	low.Close(w.now)
	w.run(time.Minute, func() bool { return b.seen[EventFlowComplete] == 1 })
	before := 0
	for _, ev := range b.events {
		if ev.Kind == EventMessage {
			if string(ev.Receive.Metadata()) == "high" {
				break
			}
			before++
		}
	}
	if before > 12 {
		t.Errorf("%d messages of low priority before the one of high priority", before)
	}
}

func TestTimeCriticalIsNotifiedInReverseToOthers(t *testing.T) {
	w := newWorld(t, 1)
	a, b, c := w.add("a", Config{}, addrA), w.add("b", Config{}, addrB), w.add("c", Config{}, addrC)
	ab, _ := w.connect(a, b)
	cb, bc := w.connect(c, b)
	f, _ := ab.OpenFlow(w.now, FlowConfig{Metadata: []byte("live"), TimeCritical: true})
	g, _ := cb.OpenFlow(w.now, FlowConfig{Metadata: []byte("bulk")})
	w.run(time.Second, nil)
	if w.now.Add(-time.Second); b.e.receivingTimeCriticalElsewhere(bc) {
		t.Error("notified before anything is time critical")
	}
	f.Write(w.now, []byte("x"), WriteOptions{})
	w.run(100*time.Millisecond, nil)
	g.Write(w.now, []byte("y"), WriteOptions{})
	w.run(300*time.Millisecond, nil)
	if cb.transfer.tcrReceived == longAgo {
		t.Error("the sender of bulk is not notified")
	}
	if ab.transfer.tcrReceived != longAgo {
		t.Error("the sender of time critical data is notified of itself")
	}
}

func TestBurstsAreLimited(t *testing.T) {
	w := newWorld(t, 1)
	a, b := w.add("a", Config{}, addrA), w.add("b", Config{}, addrB)
	near, _ := w.connect(a, b)
	f, _ := near.OpenFlow(w.now, FlowConfig{Metadata: []byte("m")})
	near.transfer.cwnd = 1 << 20
	for n := range 100 {
		f.Write(w.now, body(n, 1100), WriteOptions{})
	}
	if out := a.e.Flush(w.now); len(out) != burstLimit {
		t.Errorf("%d packets at once", len(out))
	}
}

// TestCongestionWindow checks Figures 24 and 25 of Appendix A by cases worked out by hand for segments of 1460 bytes.
func TestCongestionWindow(t *testing.T) {
	const inf = int(^uint(0) >> 1)
	recently, before := instant(-1), longAgo
	for _, test := range []struct {
		name           string
		t              transfer
		wantCWND, want int // ssthresh
	}{
		{"slow start", transfer{cwnd: 4380, ssthresh: inf, acked: 1000, preOutstanding: 4380, anyAcks: true, tcSent: before, tcrReceived: before}, 5380, inf},
		{"not if the window is not used", transfer{cwnd: 4380, ssthresh: inf, acked: 1000, preOutstanding: 4379, anyAcks: true, tcSent: before, tcrReceived: before}, 4380, inf},
		{"not with a NAK", transfer{cwnd: 4380, ssthresh: inf, acked: 1000, preOutstanding: 4380, anyAcks: true, anyNAKs: true, tcSent: before, tcrReceived: before}, 4380, inf},
		{"at most a segment", transfer{cwnd: 4380, ssthresh: inf, acked: 5000, preOutstanding: 4380, anyAcks: true, tcSent: before, tcrReceived: before}, 5840, inf},
		{"avoidance, 16 steps of 48", transfer{cwnd: 16000, ssthresh: 8000, acked: 16000, preOutstanding: 16000, anyAcks: true, tcSent: before, tcrReceived: before}, 16768, 8000},
		{"after a reverse notification, 24", transfer{cwnd: 16000, ssthresh: inf, acked: 16000, preOutstanding: 16000, anyAcks: true, tcSent: before, tcrReceived: recently}, 16000 + 0, inf},
		{"loss halves", transfer{cwnd: 20000, ssthresh: inf, preOutstanding: 20000, anyLoss: true, tcSent: before, tcrReceived: before}, 10000, 10000},
		{"loss while time critical takes an eighth", transfer{cwnd: 20000, ssthresh: inf, preOutstanding: 20000, anyLoss: true, tcSent: recently, tcrReceived: before}, 17500, 17500},
		{"loss of a large window takes an eighth", transfer{cwnd: 80000, ssthresh: inf, preOutstanding: 80000, anyLoss: true, tcSent: before, tcrReceived: before}, 70000, 70000},
		{"never below the initial window", transfer{cwnd: 5000, ssthresh: inf, preOutstanding: 5000, anyLoss: true, tcSent: before, tcrReceived: before}, 4380, 4380},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := &Endpoint{tcSent: longAgo}
			x := test.t
			x.smss = 1460
			if x.tcrReceived == recently {
				test.wantCWND = 16000 + 16*24
			}
			x.adjust(e)
			if x.cwnd != test.wantCWND || x.ssthresh != test.want {
				t.Errorf("cwnd %d, want %d; ssthresh %d, want %d", x.cwnd, test.wantCWND, x.ssthresh, test.want)
			}
		})
	}
	x := transfer{smss: 1460, cwnd: 20000, ssthresh: 1000}
	if x.timedOut(true); x.cwnd != 1460 || x.ssthresh != 15000 {
		t.Errorf("timeout with loss: cwnd %d, ssthresh %d", x.cwnd, x.ssthresh)
	}
	if x.timedOut(false); x.cwnd != 4380 {
		t.Errorf("timeout without loss: cwnd %d", x.cwnd)
	}
}

// TestSequenceSetIsASet compares a receiving flow's SEQUENCE_SET with a map.
func TestSequenceSetIsASet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f, model := &ReceiveFlow{}, map[uint64]bool{0: true}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				seq := rapid.Uint64Range(1, 60).Draw(t, "seq")
				f.add(Range{seq, seq})
				model[seq] = true
			},
			"forward": func(t *rapid.T) {
				to := rapid.Uint64Range(0, 40).Draw(t, "to")
				f.add(Range{0, to})
				for n := range to + 1 {
					model[n] = true
				}
			},
			"": func(t *rapid.T) {
				highest := uint64(0)
				for n := range uint64(70) {
					if model[n] {
						highest = n
					}
					if f.contains(n) != model[n] {
						t.Fatalf("%d: %v, set %d %v", n, f.contains(n), f.csn, f.above)
					}
					if n > 0 && !model[n] && f.touches(n) != (model[n-1] || model[n+1]) {
						t.Fatalf("touches %d: %v, set %d %v", n, f.touches(n), f.csn, f.above)
					}
				}
				if f.highest() != highest {
					t.Fatalf("highest %d, want %d", f.highest(), highest)
				}
				previous := f.csn
				for _, r := range f.above {
					if r.From < previous+2 || r.To < r.From {
						t.Fatalf("set %d %v", f.csn, f.above)
					}
					previous = r.To
				}
			},
		})
	})
}

func TestAbusiveSendersAreBounded(t *testing.T) {
	open := AppendOption(nil, Option{OptionMetadata, []byte("m")})
	t.Run("holes", func(t *testing.T) {
		w := newWorld(t, 1)
		a, b := w.add("a", Config{}, addrA), w.add("b", Config{}, addrB)
		near, far := w.connect(a, b)
		for n := range 3000 {
			near.queueControl(AppendUserData(nil, UserData{OptionsPresent: true, FlowID: 9, Sequence: uint64(2*n + 2), FSNOffset: uint64(2*n + 2), Options: open}))
			if n%50 == 49 {
				w.run(50*time.Millisecond, nil)
			}
		}
		w.run(time.Second, nil)
		if n := len(far.ReceiveFlows()[0].above); n != maxGaps || b.e.counters.Chunks[ChunkGapLimit] == 0 {
			t.Errorf("%d holes, %d refused", n, b.e.counters.Chunks[ChunkGapLimit])
		}
	})
	t.Run("a message without an end", func(t *testing.T) {
		w := newWorld(t, 1)
		a, b := w.add("a", Config{}, addrA), w.add("b", Config{Limits: Limits{FlowBuffer: 100000}}, addrB)
		near, far := w.connect(a, b)
		for n := range 400 {
			control := FragmentMiddle
			if n == 0 {
				control = FragmentBegin
			}
			near.queueControl(AppendUserData(nil, UserData{OptionsPresent: true, Control: control, FlowID: 9, Sequence: uint64(n + 1), FSNOffset: 1, Options: open,
				Data: make([]byte, 1000)}))
			w.run(50*time.Millisecond, nil)
		}
		if f := far.ReceiveFlows()[0]; f.State() != FlowRejected || f.Buffered() != 0 || b.seen[EventFlowRejected] != 1 {
			t.Errorf("%v, %d buffered", f.State(), f.Buffered())
		}
	})
	t.Run("flows", func(t *testing.T) {
		w := newWorld(t, 1)
		a, b := w.add("a", Config{}, addrA), w.add("b", Config{}, addrB)
		near, far := w.connect(a, b)
		for n := range 1000 {
			near.queueControl(AppendUserData(nil, UserData{OptionsPresent: true, FlowID: uint64(n), Sequence: 1, FSNOffset: 1, Options: open}))
			if n%50 == 49 {
				w.run(50*time.Millisecond, nil)
			}
		}
		if n := len(far.ReceiveFlows()); n != 256 || b.e.counters.Chunks[ChunkFlowLimit] != 1000-256 {
			t.Errorf("%d flows, %d refused", n, b.e.counters.Chunks[ChunkFlowLimit])
		}
	})
}
