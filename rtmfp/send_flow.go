package rtmfp

import (
	"bytes"
	"slices"
	"sort"
	"time"
)

// FlowState is the state of a flow in either direction (§3.6.2, §3.6.3).
//
//	sending:    F_OPEN ---- Close, exception ---> F_CLOSING --all acknowledged--> F_COMPLETE_LINGER --130 s--> F_CLOSED
//	receiving:  RF_OPEN --- reject ------------> RF_REJECTED --all received-----> RF_COMPLETE_LINGER --120 s--> RF_CLOSED
//	               \--------- all received ------------------------------------------^
//
// The end of the session closes a flow in any state.
type FlowState uint8

// The states.
const (
	FlowUnknown  FlowState = iota
	FlowOpen               // F_OPEN, RF_OPEN
	FlowClosing            // F_CLOSING
	FlowRejected           // RF_REJECTED
	FlowLinger             // F_COMPLETE_LINGER, RF_COMPLETE_LINGER
	FlowClosed             // F_CLOSED, RF_CLOSED
)

func (s FlowState) String() string {
	names := [...]string{"unknown", "open", "closing", "rejected", "linger", "closed"}
	if int(s) < len(names) {
		return names[s]
	}
	return "unknown"
}

// Priority orders the flows of a session: whatever a higher one has to send goes first.
type Priority uint8

// Names of priorities; any value is allowed.
const (
	PriorityBackground Priority = 0
	PriorityBulk       Priority = 1
	PriorityData       Priority = 2
	PriorityRoutine    Priority = 3
	PriorityPriority   Priority = 4
	PriorityImmediate  Priority = 5
)

// FlowConfig describes a sending flow.
type FlowConfig struct {
	Metadata     []byte       // up to 512 bytes; names the flow to the far end (§2.3.11.1.1)
	Association  *ReceiveFlow // the flow that this one is in return to, or nil (§2.3.11.1.2)
	Priority     Priority
	TimeCritical bool // its packets are marked as real-time (§2.2.4)
	LowWater     int  // EventSendable comes when Queued falls to it, in bytes
}

// SendFlow is a sending flow (§3.6.2).
type SendFlow struct {
	User any

	s       *Session
	cfg     FlowConfig
	id      uint64
	options OptionList // STARTUP_OPTIONS, until acknowledged
	state   FlowState

	queue       []*fragment // SEND_QUEUE in the order of sequence numbers; those in it that are done wait to be trimmed
	live        int         // entries that are not done
	from        int         // no entry before it is eligible
	queued      int         // bytes of live entries
	nextSN      uint64
	finalSN     uint64 // 0 is none
	rxBuffer    uint64 // RX_BUFFER_SIZE
	outstanding int    // F_OUTSTANDING_BYTES
	exception   bool

	abandonAt     instant // the earliest deadline of a message in the queue
	probeAt       instant // the next buffer probe
	probeInterval time.Duration
	lingerUntil   instant
}

// fragment is an entry of a SEND_QUEUE.
type fragment struct {
	flow       *SendFlow
	message    *Message // nil for an entry that only carries flags
	data       []byte
	seq, tsn   uint64
	prev, next *fragment // in flight
	size       int       // TRANSMIT_SIZE
	sends      int
	naks       uint8
	control    FragmentControl
	abandoned  bool
	sentAbn    bool
	inFlight   bool
	done       bool // acknowledged or trimmed
}

// Message is one that was written.
type Message struct {
	flow             *SendFlow
	first, last      uint64
	left             int // fragments that are neither acknowledged nor trimmed
	startBy, endBy   instant
	attempts         int
	started, abandon bool
}

// Abandoned reports whether the message was given up.
func (m *Message) Abandoned() bool { return m.abandon }

// Done reports whether the message is out of the queue: delivered, or abandoned and forgotten.
func (m *Message) Done() bool { return m.left == 0 }

// WriteOptions make a message partially reliable. The zero is full reliability.
type WriteOptions struct {
	StartWithin  time.Duration // abandoned if not begun to be sent after so long; 0 is never
	FinishWithin time.Duration // abandoned if not acknowledged after so long; nothing of it is sent then; 0 is never
	Attempts     int           // abandoned if a fragment is lost after so many transmissions; 0 is never
}

// OpenFlow opens a sending flow. The far end learns of it with the first message, or by Begin. Errors: ErrState also if the
// association is not RF_OPEN, ErrTooLong.
func (s *Session) OpenFlow(now time.Time, cfg FlowConfig) (*SendFlow, error) {
	s.e.clock(now)
	if s.state != StateOpen || cfg.Association != nil && (cfg.Association.s != s || cfg.Association.state != FlowOpen) {
		return nil, ErrState
	}
	if len(cfg.Metadata) > maxMetadata || len(cfg.Metadata)+128 > s.maxPlain() {
		return nil, ErrTooLong
	}
	options := AppendOption(nil, Option{OptionMetadata, cfg.Metadata})
	if cfg.Association != nil {
		options = AppendOption(options, Option{OptionAssociation, AppendVLU(nil, cfg.Association.id)})
	}
	cfg.Metadata = bytes.Clone(cfg.Metadata)
	f := &SendFlow{
		s: s, cfg: cfg, id: s.nextFlowID, options: options, state: FlowOpen, nextSN: 1, rxBuffer: initialWindow, abandonAt: never, probeAt: never,
		lingerUntil: never,
	}
	s.nextFlowID++
	s.send = append(s.send, f) // ascending
	s.updateIdle()
	s.transferring()
	s.touch()
	return f, nil
}

// Session returns the flow's session.
func (f *SendFlow) Session() *Session { return f.s }

// ID is the flow ID.
func (f *SendFlow) ID() uint64 { return f.id }

// State returns the state.
func (f *SendFlow) State() FlowState { return f.state }

// Queued is how many bytes wait to be sent or acknowledged.
func (f *SendFlow) Queued() int { return f.queued }

// SetPriority changes the priority and whether packets of the flow are time critical.
func (f *SendFlow) SetPriority(p Priority, timeCritical bool) {
	f.cfg.Priority, f.cfg.TimeCritical = p, timeCritical
}

// Write queues a copy of data as one message. Error: ErrState.
func (f *SendFlow) Write(now time.Time, data []byte, o WriteOptions) (*Message, error) {
	f.s.e.clock(now)
	if f.state != FlowOpen {
		return nil, ErrState
	}
	m := &Message{flow: f, first: f.nextSN, startBy: never, endBy: never, attempts: o.Attempts}
	if o.StartWithin > 0 {
		m.startBy = f.s.e.now.add(o.StartWithin)
	}
	if o.FinishWithin > 0 {
		m.endBy = f.s.e.now.add(o.FinishWithin)
	}
	f.abandonAt = min(f.abandonAt, m.startBy, m.endBy)
	// A fragment fits a packet even with the longest header, numbers and, until acknowledged, the options (§3.6.2.2).
	size := f.s.maxPlain() - maxHeaderSize - chunkHeaderSize - 1 - 3*MaxVLUSize - 1 - len(f.options)
	data = bytes.Clone(data)
	for n := 0; n == 0 || len(data) > 0; n++ {
		part := data[:min(size, len(data))]
		data = data[len(part):]
		control := FragmentMiddle
		switch {
		case n == 0 && len(data) == 0:
			control = FragmentWhole
		case n == 0:
			control = FragmentBegin
		case len(data) == 0:
			control = FragmentEnd
		}
		f.push(&fragment{flow: f, message: m, data: part, control: control})
		m.left++
	}
	m.last = f.nextSN - 1
	f.s.touch()
	return m, nil
}

func (f *SendFlow) push(x *fragment) {
	x.seq = f.nextSN
	f.nextSN++
	f.queue = append(f.queue, x)
	f.live++
	f.queued += len(x.data)
}

// Begin makes the far end learn of a flow that has no message yet, by an FSN Update (§3.6.2.1).
func (f *SendFlow) Begin(now time.Time) {
	f.s.e.clock(now)
	if f.state == FlowOpen && f.nextSN == 1 {
		f.push(&fragment{flow: f, abandoned: true})
		f.s.touch()
	}
}

// Abandon gives the message up, as far as it is not delivered (§3.6.2.7).
func (m *Message) Abandon(now time.Time) {
	m.flow.s.e.clock(now)
	if m.left > 0 && m.flow.state != FlowClosed {
		m.drop()
		m.flow.s.touch()
	}
}

func (m *Message) drop() {
	m.abandon = true
	f := m.flow
	for _, x := range f.queue[f.find(m.first):] {
		if x.seq > m.last {
			break
		}
		x.abandoned = true
	}
	f.from = 0
}

// find returns the index of the first entry with a sequence number of at least seq.
func (f *SendFlow) find(seq uint64) int {
	return sort.Search(len(f.queue), func(i int) bool { return f.queue[i].seq >= seq })
}

// Close ends the flow when everything that was written is delivered or abandoned (§3.6.2.11).
func (f *SendFlow) Close(now time.Time) {
	f.s.e.clock(now)
	f.close()
}

func (f *SendFlow) close() {
	if f.state != FlowOpen {
		return
	}
	f.state = FlowClosing
	if n := len(f.queue); n > 0 && !f.queue[n-1].done && f.queue[n-1].seq == f.nextSN-1 && f.queue[n-1].sends == 0 {
		f.finalSN = f.queue[n-1].seq
	} else {
		f.push(&fragment{flow: f, abandoned: true})
		f.finalSN = f.nextSN - 1
	}
	f.from = 0
	f.s.touch()
}

// abort closes the flow with its session.
func (f *SendFlow) abort() {
	f.state = FlowClosed
	f.queue, f.live, f.queued = nil, 0, 0
}

// finish takes an entry out of the queue, at once or when what is before it is out too.
func (f *SendFlow) finish(x *fragment) {
	before := f.queued
	x.done = true
	f.live--
	f.queued -= len(x.data)
	if x.message != nil {
		x.message.left--
	}
	x.data = nil
	if before > f.cfg.LowWater && f.queued <= f.cfg.LowWater && f.state == FlowOpen {
		f.s.e.emit(Event{Kind: EventSendable, Session: f.s, Send: f})
	}
}

// trim drops the entries at the front that are done.
func (f *SendFlow) trim() {
	n := 0
	for n < len(f.queue) && f.queue[n].done {
		f.queue[n] = nil
		n++
	}
	f.queue = f.queue[n:]
	f.from = max(0, f.from-n)
	if len(f.queue) == 0 {
		f.queue, f.from = nil, 0
	}
}

// lost is told that a fragment is no longer in flight though not acknowledged.
func (f *SendFlow) lost(x *fragment) {
	f.from = 0
	if m := x.message; m != nil && m.attempts > 0 && x.sends >= m.attempts && !m.abandon {
		m.drop()
	}
}

// forwardSequence trims abandoned entries and finds the FSN (§3.6.2.3). The queue must have a live entry.
func (f *SendFlow) forwardSequence() uint64 {
	f.trim()
	// "1. While the SEND_QUEUE contains at least two entries, AND the first entry is not IN_FLIGHT, AND [it] is ABANDONED"
	//
	// Deviation: also, the second must not be in flight. Otherwise nothing may be left to carry the new FSN: what is in
	// flight has an older one, and when that is acknowledged the queue is empty while the receiver waits for the gap.
	for f.live >= 2 && !f.queue[0].inFlight && f.queue[0].abandoned && !f.second().inFlight {
		f.finish(f.queue[0])
		f.trim()
	}
	// 2., 3., 4.
	first := f.queue[0]
	if !first.abandoned || first.inFlight && !first.sentAbn {
		return first.seq - 1
	}
	return first.seq
}

// second is the second live entry of a trimmed queue.
func (f *SendFlow) second() *fragment {
	for _, x := range f.queue[1:] {
		if !x.done {
			return x
		}
	}
	panic("BUG: rtmfp: no second entry")
}

// eligible finds the first entry to send (§3.6.2.3), or nil.
func (f *SendFlow) eligible() *fragment {
	// The first entry becomes eligible, though abandoned, when those before it go, which may be after from has passed it.
	if x := f.queue[0]; !x.done && !x.inFlight {
		return x
	}
	for ; f.from < len(f.queue); f.from++ {
		x := f.queue[f.from]
		if !x.done && !x.inFlight && (!x.abandoned || x.seq == f.finalSN) {
			return x
		}
	}
	return nil
}

// ready says whether the flow has something that it may send (§3.6.2.3).
func (f *SendFlow) ready() bool {
	if f.live == 0 || f.state != FlowOpen && f.state != FlowClosing || uint64(f.outstanding) >= f.rxBuffer && !f.exception {
		return false
	}
	f.trim()
	// Abandoned entries at the front go without being sent, so that the entry after them is the first.
	f.forwardSequence()
	return f.eligible() != nil
}

// expire abandons messages whose time is over.
func (f *SendFlow) expire() {
	now := f.s.e.now
	if f.abandonAt > now {
		return
	}
	f.abandonAt = never
	for i := 0; i < len(f.queue); i++ {
		m := f.queue[i].message
		if m == nil || m.abandon || f.queue[i].done {
			continue
		}
		if m.endBy <= now || m.startBy <= now && !m.started {
			m.drop()
			continue
		}
		f.abandonAt = min(f.abandonAt, m.endBy)
		if !m.started {
			f.abandonAt = min(f.abandonAt, m.startBy)
		}
	}
}

// suspended says whether the far end has closed the window while there is something to send (§3.6.2.9.1).
func (f *SendFlow) suspended() bool {
	return f.rxBuffer == 0 && !f.exception && f.live > 0 && (f.state == FlowOpen || f.state == FlowClosing)
}

// probe sends a Buffer Probe if one is due. Deviation: a probe is allowed at once; here the first comes after its interval, and
// only of a closed window with something to send, because peers of the Flash era end the session on receiving one.
func (f *SendFlow) probe() {
	if !f.suspended() {
		f.probeAt, f.probeInterval = never, 0
		return
	}
	s := f.s
	switch {
	case f.probeAt == never:
		f.probeInterval = max(probeMin, s.rtt.erto)
	case f.probeAt > s.e.now:
		return
	default:
		s.queueControl(AppendBufferProbe(nil, BufferProbe{f.id}))
		s.owe()
		f.probeInterval = min(2*f.probeInterval, max(probeMax, s.rtt.erto))
	}
	f.probeAt = s.e.now.add(f.probeInterval)
}

// sendFlow finds a sending flow.
func (s *Session) sendFlow(id uint64) *SendFlow {
	i, ok := slices.BinarySearchFunc(s.send, id, func(f *SendFlow, id uint64) int { return compare(f.id, id) })
	if !ok {
		return nil
	}
	return s.send[i]
}

func compare(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// receiveAck processes an acknowledgement (§3.6.2.4).
func (s *Session) receiveAck(a Ack) {
	f := s.sendFlow(a.FlowID)
	if f == nil {
		s.e.drop(ChunkFlowUnknown)
		return
	}
	t := s.transferring()
	t.anyAcks = true
	f.options = nil
	f.rxBuffer = min(a.BufferBlocks, MaxSequence/AckBlock) * AckBlock
	before := f.outstanding
	acknowledge := func(from, to uint64) {
		for _, x := range f.queue[f.find(from):] {
			if x.seq > to {
				break
			}
			// Deviation: an entry that is believed lost is not in flight and would stay queued; here its acknowledgement
			// counts, and spares a retransmission.
			if x.done || x.sends == 0 {
				continue
			}
			if x.inFlight {
				t.maxTSNAck = max(t.maxTSNAck, x.tsn)
				t.unflight(x)
			}
			f.finish(x)
		}
	}
	acknowledge(0, a.Cumulative)
	for r := range a.Ranges() {
		acknowledge(r.From, r.To)
	}
	t.acked += before - f.outstanding
	f.trim()
	f.completed()
}

// completed ends an F_CLOSING flow of which everything is acknowledged (§3.6.2.11).
func (f *SendFlow) completed() {
	if f.state != FlowClosing || f.live > 0 {
		return
	}
	f.state = FlowLinger
	f.lingerUntil = f.s.e.now.add(sendLinger)
	f.s.updateIdle()
	f.s.e.emit(Event{Kind: EventFlowFinished, Session: f.s, Send: f})
}

// receiveException processes a Flow Exception Report (§3.6.2.10).
func (s *Session) receiveException(payload []byte) {
	x, err := ParseFlowException(payload)
	if err != nil {
		s.e.drop(ChunkMalformed)
		return
	}
	f := s.sendFlow(x.FlowID)
	if f == nil {
		s.e.drop(ChunkFlowUnknown)
		return
	}
	if f.state == FlowOpen {
		f.close()
		s.e.emit(Event{Kind: EventFlowException, Session: s, Send: f, Code: x.Code})
	}
	f.exception = true
	for _, x := range f.queue {
		if x.abandoned = true; x.message != nil {
			x.message.abandon = true
		}
	}
	f.from = 0
}

// tickFlows does what time brings to flows.
func (s *Session) tickFlows() {
	t := s.transfer
	if t == nil {
		return
	}
	now := s.e.now
	if t.timeout <= now {
		t.expire(s)
	}
	if t.delayedAck <= now {
		t.delayedAck, t.ackNow = never, true
	}
	s.send = slices.DeleteFunc(s.send, func(f *SendFlow) bool {
		f.expire()
		if f.lingerUntil > now {
			return false
		}
		f.state = FlowClosed
		return true
	})
	s.recv = slices.DeleteFunc(s.recv, func(f *ReceiveFlow) bool {
		if f.lingerUntil > now || f.suspended && len(f.buffer) > 0 {
			return false
		}
		f.abort()
		return true
	})
}

// nextFlowAlarm is when tickFlows or flushOpen has something to do.
func (s *Session) nextFlowAlarm() instant {
	t := s.transfer
	if t == nil {
		return never
	}
	at := min(t.timeout, t.delayedAck)
	for _, f := range s.send {
		at = min(at, f.abandonAt, f.probeAt, f.lingerUntil)
	}
	for _, f := range s.recv {
		if !f.suspended || len(f.buffer) == 0 {
			at = min(at, f.lingerUntil)
		}
	}
	return at
}

// flushOpen assembles and sends the packets of an S_OPEN session.
func (s *Session) flushOpen() {
	t := s.transfer
	for _, f := range s.send {
		f.expire()
		f.probe()
	}
	for {
		limit := s.maxPlain()
		p := s.beginPacket(s.e.plain[:0])
		begin := len(p)
		p = s.takeControl(p, limit)
		data, timeCritical := false, false
		if t != nil {
			if t.ackNow {
				p = s.appendAcks(p, limit, true)
			}
			n := len(p)
			p, timeCritical = s.appendUserData(p, limit)
			data = len(p) > n
			if data && !t.ackNow {
				p = s.appendAcks(p, limit, false)
			}
		}
		s.e.plain = p
		if len(p) == begin {
			return
		}
		if data {
			t.dataPackets++
			t.timeout = s.e.now.add(s.rtt.erto)
			s.owe()
		}
		if timeCritical {
			p[0] |= flagTC
			t.tcSent, s.e.tcSent = s.e.now, s.e.now
		}
		s.sendPacket(s.far, p)
	}
}

// takeControl moves chunks that wait into the packet.
func (s *Session) takeControl(p []byte, limit int) []byte {
	for len(s.control) > 0 {
		n := chunkHeaderSize + int(s.control[1])<<8 + int(s.control[2])
		if len(p)+n > limit {
			return p
		}
		p = append(p, s.control[:n]...)
		s.control = s.control[n:]
	}
	s.control = nil
	return p
}

// appendUserData fills the packet with user data as far as the transmission budget and the windows of the flows allow.
func (s *Session) appendUserData(p []byte, limit int) (out []byte, timeCritical bool) {
	t := s.transfer
	if t.dataPackets >= t.burst || t.outstanding >= t.cwnd {
		return p, false
	}
	for _, f := range s.choose() {
		if !f.ready() {
			continue
		}
		fsn := f.forwardSequence()
		var last uint64
		for first := true; t.outstanding < t.cwnd && (uint64(f.outstanding) < f.rxBuffer || f.exception); first = false {
			x := f.eligible()
			if x == nil {
				break
			}
			u := UserData{
				Abandon: x.abandoned, Final: x.seq == f.finalSN, Control: x.control, FlowID: f.id, Sequence: x.seq, FSNOffset: x.seq - fsn,
			}
			if !x.abandoned {
				u.Data = x.data
			}
			begin := len(p)
			if first {
				u.OptionsPresent, u.Options = len(f.options) > 0, f.options
			}
			if !first && x.seq == last+1 {
				p = AppendNextUserData(p, u)
			} else {
				p = AppendUserData(p, u)
			}
			if len(p) > limit {
				return p[:begin], timeCritical
			}
			t.flight(x, len(p)-begin)
			s.sent++
			x.sends++
			x.sentAbn = x.abandoned
			if x.message != nil {
				x.message.started = true
			}
			last = x.seq
			timeCritical = timeCritical || f.cfg.TimeCritical
		}
	}
	return p, timeCritical
}

// choose returns the sending flows by priority, those of one priority in turn.
func (s *Session) choose() []*SendFlow {
	if len(s.send) < 2 {
		return s.send
	}
	t := s.transfer
	t.turn++
	n := len(s.send)
	flows := make([]*SendFlow, 0, n)
	for i := range n {
		if f := s.send[(i+t.turn)%n]; f.live > 0 {
			flows = append(flows, f)
		}
	}
	slices.SortStableFunc(flows, func(a, b *SendFlow) int { return int(b.cfg.Priority) - int(a.cfg.Priority) })
	return flows
}
