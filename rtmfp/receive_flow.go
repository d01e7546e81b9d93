package rtmfp

import (
	"bytes"
	"slices"
	"time"
)

// defaultCapacity is the BUFFER_CAPACITY of a receiving flow until SetCapacity: a megabyte a second at 250 ms.
const defaultCapacity = 256 << 10

// ReceiveFlow is a receiving flow (§3.6.3).
type ReceiveFlow struct {
	User any

	s           *Session
	id          uint64
	state       FlowState
	metadata    []byte
	association *SendFlow

	csn        uint64  // everything up to it is in SEQUENCE_SET
	above      []Range // the rest of SEQUENCE_SET: ascending, not touching
	final      uint64  // RF_FINAL_SN, if hasFinal
	buffer     []received
	buffered   int // BUFFERED_SIZE
	capacity   int // BUFFER_CAPACITY
	window     int // PREV_RWND in blocks, or -1
	consumed   uint64
	exception  uint64
	hasFinal   bool
	finalEmpty bool // the final sequence number carries no message
	shouldAck  bool
	suspended  bool
	anyOrder   bool
	gap        bool // a message was passed over since the last delivery
	lost       bool // a message was passed over
	told       bool // EventFlowComplete was emitted

	lingerUntil instant
}

// received is an entry of a RECV_BUFFER.
type received struct {
	seq     uint64
	control FragmentControl
	data    []byte
}

// Session returns the flow's session.
func (f *ReceiveFlow) Session() *Session { return f.s }

// ID is the flow ID, which the far end chose.
func (f *ReceiveFlow) ID() uint64 { return f.id }

// State returns the state.
func (f *ReceiveFlow) State() FlowState { return f.state }

// Metadata names the flow. It must not be changed.
func (f *ReceiveFlow) Metadata() []byte { return f.metadata }

// Association is the sending flow that this one is in return to, or nil.
func (f *ReceiveFlow) Association() *SendFlow { return f.association }

// Buffered is how many bytes wait for delivery, with the overhead of keeping them.
func (f *ReceiveFlow) Buffered() int { return f.buffered }

// SetCapacity sets how many bytes the flow should buffer: it bounds what the far end may have on the way. 256 KiB at first;
// with 0 the far end must stop. One message may be longer, up to Limits.FlowBuffer.
func (f *ReceiveFlow) SetCapacity(now time.Time, bytes int) {
	f.s.e.clock(now)
	f.capacity = max(0, bytes)
	f.ackSoon()
}

// DeliverInAnyOrder delivers messages when they are complete, whatever is missing before them; Event.Sequence tells their
// order. Otherwise they come in the order in which they were written.
func (f *ReceiveFlow) DeliverInAnyOrder(now time.Time) {
	f.s.e.clock(now)
	if f.state != FlowOpen || f.anyOrder {
		return
	}
	f.anyOrder = true
	f.sweep()
	f.deliver()
}

// Suspend holds messages back until Resume, and with a full buffer the far end (§3.6.3.3).
func (f *ReceiveFlow) Suspend() { f.suspended = true }

// Resume delivers what was held back.
func (f *ReceiveFlow) Resume(now time.Time) {
	f.s.e.clock(now)
	if !f.suspended {
		return
	}
	f.suspended = false
	if f.anyOrder {
		f.sweep()
	}
	f.deliver()
	f.ackSoon()
}

// Reject tells the far end to close the flow, with a code of the application (§3.6.3.7). Nothing more is delivered.
func (f *ReceiveFlow) Reject(now time.Time, code uint64) {
	f.s.e.clock(now)
	f.reject(code)
}

func (f *ReceiveFlow) reject(code uint64) {
	if f.state != FlowOpen {
		return
	}
	f.state = FlowRejected
	f.discard()
	f.exception = code
	f.ackSoon()
}

func (f *ReceiveFlow) discard() {
	f.s.e.buffered -= f.buffered
	f.buffer, f.buffered = nil, 0
}

// abort closes the flow with its session, or after its linger.
func (f *ReceiveFlow) abort() {
	f.discard()
	f.state = FlowClosed
}

// ackSoon sends an acknowledgement with the next Flush.
func (f *ReceiveFlow) ackSoon() {
	if f.state == FlowClosed || f.s.transfer == nil {
		return
	}
	f.owesAck()
	f.s.transfer.ackNow = true
	f.s.touch()
}

func (f *ReceiveFlow) owesAck() {
	if !f.shouldAck {
		f.shouldAck = true
		f.s.transfer.acks = append(f.s.transfer.acks, f)
	}
}

func (s *Session) receiveFlow(id uint64) (i int, ok bool) {
	return slices.BinarySearchFunc(s.recv, id, func(f *ReceiveFlow, id uint64) int { return compare(f.id, id) })
}

// receiveUserData is §3.6.3.2, with its step numbers.
func (s *Session) receiveUserData(u UserData) {
	e := s.e
	// 1., 2.
	i, ok := s.receiveFlow(u.FlowID)
	if !ok && !s.startFlow(i, u) {
		return
	}
	f, t := s.recv[i], s.transfer
	// 3.
	f.owesAck()
	// 4.
	if f.state == FlowOpen && u.OptionsPresent && hasUnknownOption(u.Options) {
		f.rejectItself()
	}
	seen := f.contains(u.Sequence)
	highest := f.highest()
	switch {
	case f.hasFinal && u.Sequence > f.final:
		e.drop(ChunkAfterFinal)
		t.ackNow = true
		return
	// A hole that would be one too many is not recorded, so not acknowledged, and is sent again.
	case !seen && u.ForwardSequence() < u.Sequence-1 && len(f.above) >= maxGaps && !f.touches(u.Sequence):
		e.drop(ChunkGapLimit)
		t.ackNow = true
		return
	}
	// 5. to 9.
	if f.state != FlowOpen || f.window >= 0 && f.window < 2 || u.Abandon || len(f.above) > 0 || seen {
		t.ackNow = true
	}
	// 10.
	if !seen && u.Final && !f.hasFinal && u.Sequence >= highest {
		f.final, f.hasFinal, f.finalEmpty = u.Sequence, true, u.Abandon
		t.ackNow = true
	}
	// 11.
	inserted := -1
	if f.state == FlowOpen && !seen && !u.Abandon {
		if inserted = f.insert(u); inserted < 0 {
			f.rejectItself()
		}
	}
	// 12., 13.
	f.add(Range{0, u.ForwardSequence()})
	f.add(Range{u.Sequence, u.Sequence})
	// 14., and §3.6.3.4.1 on a buffer that is nearly full
	if len(f.above) > 0 || f.capacity-f.buffered < AckBlock {
		t.ackNow = true
	}
	// 15.
	if !t.ackNow && t.delayedAck == never {
		t.delayedAck = e.now.add(ackDelay)
	}
	// 16.
	if inserted >= 0 && f.anyOrder && !f.suspended {
		f.deliverAround(inserted)
	}
	f.deliver()
	f.complete()
}

// startFlow is §3.6.3.1, with its step numbers. It inserts the flow at index i.
func (s *Session) startFlow(i int, u UserData) bool {
	e := s.e
	if len(s.recv) >= e.cfg.Limits.ReceiveFlows {
		e.drop(ChunkFlowLimit)
		return false
	}
	// 2.
	f := &ReceiveFlow{s: s, id: u.FlowID, state: FlowOpen, capacity: defaultCapacity, window: -1, lingerUntil: never}
	s.recv = slices.Insert(s.recv, i, f)
	t := s.transferring()
	// 1., 3., 4.
	hasMetadata, bad := false, false
	if u.OptionsPresent {
		for o := range u.Options.All() {
			switch o.Type {
			case OptionMetadata:
				hasMetadata = true
				f.metadata = bytes.Clone(o.Value)
			case OptionAssociation:
				// 6., 7.
				id, _, err := ParseVLU(o.Value)
				if f.association = s.sendFlow(id); err != nil || f.association == nil || f.association.state != FlowOpen {
					bad = true
				}
			}
		}
		// 8.
		bad = bad || hasUnknownOption(u.Options)
	}
	// 5. and 9.
	if bad || !hasMetadata {
		e.counters.Rejected++
		f.reject(0)
	} else {
		e.emit(Event{Kind: EventFlowOpen, Session: s, Receive: f})
	}
	s.updateIdle()
	// 11.
	t.ackNow = true
	return true
}

func hasUnknownOption(l OptionList) bool {
	for o := range l.All() {
		if o.Type != OptionMetadata && o.Type != OptionAssociation && o.Type < optionTypeOptional {
			return true
		}
	}
	return false
}

// rejectItself rejects an open flow for the endpoint's own reasons, of which the user is told.
func (f *ReceiveFlow) rejectItself() {
	f.s.e.counters.Rejected++
	f.reject(0)
	f.s.e.emit(Event{Kind: EventFlowRejected, Session: f.s, Receive: f})
}

// highest is the highest number in SEQUENCE_SET.
func (f *ReceiveFlow) highest() uint64 {
	if n := len(f.above); n > 0 {
		return f.above[n-1].To
	}
	return f.csn
}

// position is the index of the first range above that ends at or after seq.
func (f *ReceiveFlow) position(seq uint64) int {
	i, _ := slices.BinarySearchFunc(f.above, seq, func(r Range, seq uint64) int { return compare(r.To, seq) })
	return i
}

func (f *ReceiveFlow) contains(seq uint64) bool {
	if seq <= f.csn {
		return true
	}
	i := f.position(seq)
	return i < len(f.above) && f.above[i].From <= seq
}

// touches says whether seq extends a range that exists.
func (f *ReceiveFlow) touches(seq uint64) bool {
	if seq == f.csn+1 {
		return true
	}
	i := f.position(seq - 1)
	return i < len(f.above) && f.above[i].From <= seq+1
}

// add adds a range to SEQUENCE_SET.
func (f *ReceiveFlow) add(r Range) {
	if r.From > f.csn+1 {
		// Merge with the ranges that r overlaps or touches.
		i := f.position(r.From - 1)
		j := i
		for j < len(f.above) && f.above[j].From <= r.To+1 {
			r.From, r.To = min(r.From, f.above[j].From), max(r.To, f.above[j].To)
			j++
		}
		f.above = slices.Replace(f.above, i, j, r)
		return
	}
	f.csn = max(f.csn, r.To)
	n := 0
	for n < len(f.above) && f.above[n].From <= f.csn+1 {
		f.csn = max(f.csn, f.above[n].To)
		n++
	}
	if f.above = slices.Delete(f.above, 0, n); len(f.above) == 0 {
		f.above = nil
	}
}

// insert buffers a fragment and returns its index, or -1 if that would pass a limit.
func (f *ReceiveFlow) insert(u UserData) int {
	e, size := f.s.e, len(u.Data)+entryOverhead
	if f.buffered+size > e.cfg.Limits.FlowBuffer || e.buffered+size > e.cfg.Limits.Buffer {
		return -1
	}
	i, _ := slices.BinarySearchFunc(f.buffer, u.Sequence, func(r received, seq uint64) int { return compare(r.seq, seq) })
	f.buffer = slices.Insert(f.buffer, i, received{u.Sequence, u.Control, bytes.Clone(u.Data)})
	f.buffered += size
	e.buffered += size
	return i
}

// remove takes n entries out of the buffer.
func (f *ReceiveFlow) remove(i, n int) {
	for _, r := range f.buffer[i : i+n] {
		f.buffered -= len(r.data) + entryOverhead
		f.s.e.buffered -= len(r.data) + entryOverhead
	}
	if i == 0 {
		clear(f.buffer[:n])
		f.buffer = f.buffer[n:]
	} else {
		f.buffer = slices.Delete(f.buffer, i, i+n)
	}
	if len(f.buffer) == 0 {
		f.buffer = nil
	}
}

// segment finds the end of the message segment that begins at i: the index after its last entry, and whether it is
// complete.
func (f *ReceiveFlow) segment(i int) (end int, complete bool) {
	if f.buffer[i].control == FragmentWhole {
		return i + 1, true
	}
	for end = i + 1; end < len(f.buffer); end++ {
		r := f.buffer[end]
		if r.seq != f.buffer[end-1].seq+1 || r.control != FragmentMiddle && r.control != FragmentEnd {
			return end, false
		}
		if r.control == FragmentEnd {
			return end + 1, f.buffer[i].control == FragmentBegin
		}
	}
	return end, false
}

// deliver delivers in the original order and discards what will never be complete (§3.6.3.3).
func (f *ReceiveFlow) deliver() {
	if f.suspended || f.state == FlowRejected || f.state == FlowClosed {
		return
	}
	for len(f.buffer) > 0 && f.buffer[0].seq <= f.csn {
		first := f.buffer[0]
		// 2.
		if first.control == FragmentEnd || first.control == FragmentMiddle {
			f.remove(0, 1)
			continue
		}
		// 1., 3.
		end, complete := f.segment(0)
		last := f.buffer[end-1].seq
		switch {
		case complete:
			f.hand(0, end)
		case last < f.csn:
			f.remove(0, end)
		default:
			return // still in progress
		}
	}
	if f.hasFinal && f.csn >= f.final && len(f.buffer) == 0 && !f.told {
		f.told = true
		end := f.final
		if f.finalEmpty {
			end--
		}
		f.s.e.emit(Event{Kind: EventFlowComplete, Session: f.s, Receive: f, Lost: f.lost || !f.anyOrder && f.consumed < end})
	}
}

// sweep delivers every complete message, when any order is or becomes allowed.
func (f *ReceiveFlow) sweep() {
	if f.suspended {
		return
	}
	for i := 0; i < len(f.buffer); {
		if c := f.buffer[i].control; c == FragmentBegin || c == FragmentWhole {
			if end, complete := f.segment(i); complete {
				f.hand(i, end)
				continue
			}
		}
		i++
	}
}

// deliverAround delivers the message that the entry at i completes.
func (f *ReceiveFlow) deliverAround(i int) {
	for f.buffer[i].control != FragmentBegin && f.buffer[i].control != FragmentWhole {
		if i == 0 || f.buffer[i-1].seq != f.buffer[i].seq-1 {
			return
		}
		i--
	}
	if end, complete := f.segment(i); complete {
		f.hand(i, end)
	}
}

// hand gives the complete message from i to end to the user.
func (f *ReceiveFlow) hand(i, end int) {
	first, last := f.buffer[i].seq, f.buffer[end-1].seq
	data := f.buffer[i].data
	if end-i > 1 {
		size := 0
		for _, r := range f.buffer[i:end] {
			size += len(r.data)
		}
		data = make([]byte, 0, size)
		for _, r := range f.buffer[i:end] {
			data = append(data, r.data...)
		}
	}
	gap := !f.anyOrder && first != f.consumed+1
	f.lost = f.lost || gap
	f.consumed = max(f.consumed, last)
	f.remove(i, end-i)
	f.s.e.emit(Event{Kind: EventMessage, Session: f.s, Receive: f, Data: data, Sequence: first, Lost: gap})
}

// complete is §3.6.3.8.
func (f *ReceiveFlow) complete() {
	if f.state != FlowOpen && f.state != FlowRejected || !f.hasFinal || f.csn < f.final {
		return
	}
	f.state = FlowLinger
	f.lingerUntil = f.s.e.now.add(receiveLinger)
	f.s.updateIdle()
	f.ackSoon()
}

// receiveProbe is §3.6.3.6.
func (s *Session) receiveProbe(payload []byte) {
	p, err := ParseBufferProbe(payload)
	if err != nil {
		s.e.drop(ChunkMalformed)
		return
	}
	if i, ok := s.receiveFlow(p.FlowID); ok {
		s.recv[i].ackSoon()
	} else {
		s.e.drop(ChunkFlowUnknown)
	}
}

// blocks calculates the receive window (§3.6.3.5).
func (f *ReceiveFlow) blocks() int {
	n := (max(0, f.capacity-f.buffered) + AckBlock - 1) / AckBlock
	if n == 0 && f.capacity > 0 && !f.suspended {
		n = 1
	}
	return n
}

// appendAcks adds acknowledgements of the flows that owe one: all that fit; the first one cut to what fits, if the packet is
// for them (§3.6.3.4.5, §3.6.3.4.6).
//
// Deviation: always in ranges, though the bitmap is sometimes shorter; servers of the Flash era do not know the bitmap.
func (s *Session) appendAcks(p []byte, limit int, must bool) []byte {
	t := s.transfer
	for n := 0; len(t.acks) > 0; n++ {
		f := t.acks[0]
		if f.state != FlowClosed {
			begin := len(p)
			if f.state == FlowRejected {
				p = AppendFlowException(p, FlowException{f.id, f.exception})
			}
			window := f.blocks()
			a := Ack{FlowID: f.id, BufferBlocks: uint64(window), Cumulative: f.csn}
			if len(p)+MaxAckSize > limit {
				return p[:begin]
			}
			room := limit - len(p)
			if !must || n > 0 {
				room = maxChunkPayload
			}
			if p = AppendAckRanges(p, a, f.above, room); len(p) > limit {
				return p[:begin]
			}
			f.window = window
		}
		f.shouldAck = false
		t.acks[0] = nil
		t.acks = t.acks[1:]
	}
	t.acks = nil
	t.ackNow, t.rxDataPackets, t.delayedAck = false, 0, never
	return p
}
