package rtmfp

import (
	"net/netip"
	"slices"
	"time"
)

// State is the state of a session (§3.5).
//
//	S_IHELLO_SENT --RHello--> S_KEYING_SENT --RIKeying--> S_OPEN <--IIKeying-- (responder)
//	 |  |    |                 |   |    |                  |  |  \
//	 |  |    +-- 95 s ---------|---|----+                  |  |   \-- Close Request --> S_FARCLOSE_LINGER
//	 |  |                      |   +--> S_OPEN_FAILED      |  |                           |
//	 |  +- glare, duplicate,---+                           |  +-- Close --> S_NEARCLOSE   | Close Ack, 19 s
//	 |     cancelled                                       |                 | Close Ack, |
//	 |                                                     | Abort, Close    | 90 s       |
//	 +---------------> S_CLOSED <--------------------------+ Ack, override --+------------+
type State uint8

// The states.
const (
	StateUnknown State = iota
	StateIHelloSent
	StateKeyingSent
	StateOpen
	StateNearClose
	StateFarCloseLinger
	StateClosed
	StateOpenFailed
)

func (s State) String() string {
	names := [...]string{"unknown", "S_IHELLO_SENT", "S_KEYING_SENT", "S_OPEN", "S_NEARCLOSE", "S_FARCLOSE_LINGER", "S_CLOSED", "S_OPEN_FAILED"}
	if int(s) < len(names) {
		return names[s]
	}
	return "unknown"
}

// Role is an end's part in the startup of a session.
type Role uint8

// The roles.
const (
	RoleUnknown Role = iota
	RoleInitiator
	RoleResponder
)

// mode is the mark of packets from the role.
func (r Role) mode() Mode {
	if r == RoleInitiator {
		return ModeInitiator
	}
	return ModeResponder
}

// Session is the relationship with one far end (§3.5). Its methods belong to the goroutine of its Endpoint. User is the user's.
type Session struct {
	User any

	e           *Endpoint
	opening     *opening // until S_OPEN
	keys        SessionKeys
	transfer    *transfer // what carrying user data needs; nil until there is a flow
	send        []*SendFlow
	recv        []*ReceiveFlow // by ID
	cert        []byte         // the far end's
	canonical   string         // Canonical EPD of cert
	rikeying    []byte         // the RIKeying chunk, until the initiator has proved that it has it
	control     []byte         // chunks that wait for Flush
	mobility    *mobility      // nil until the far end comes from elsewhere
	far         path           // DESTADDR
	alarm       instant
	digest      [16]byte // of the IIKeying
	openedStamp uint32   // cookieClock at S_OPEN
	id, farID   uint32   // receive and send session identifier
	timerIndex  int32
	state       State
	role        Role
	dirty       bool
	confirmed   bool // a packet under the keys was received
	pinging     bool // a keepalive ping is unanswered
	askClose    bool // a Close Request is due
	linger      instant
	next        instant // the next Close Request

	nextFlowID    uint64
	forwardSecond int64
	forwards      int

	keepalive  time.Duration
	pingAt     instant // the next ping; never if none
	received   instant // the last packet from the far end
	restAt     instant // when the keys rest; never if they do, or cannot
	pathHeard  instant // the last packet that came from DESTADDR
	unanswered instant // since when it owes an answer; never if it does not
	idleSince  instant // since when there are no flows; never if there are

	rtt   rtt
	sent  uint64      // fragments
	lost  uint64      // of these, taken for lost
	tried []Candidate // while it was opening; only with Config.ManualPaths
}

// mobility verifies an address change (§3.5.4.2).
type mobility struct {
	tx, rx instant // MOB_TX_TS, MOB_RX_TS
	to     path    // where the last check was sent
	seen   []seenPath
}

func (e *Endpoint) newSession(state State, role Role) *Session {
	return &Session{
		e: e, state: state, role: role, alarm: never, pingAt: never, unanswered: never, restAt: never, idleSince: e.now, received: e.now, keepalive: e.cfg.Keepalive,
		nextFlowID: 2, rtt: newRTT(),
	}
}

// State returns the state.
func (s *Session) State() State { return s.state }

// Role returns the role.
func (s *Session) Role() Role { return s.role }

// ID is the session ID of packets from the far end; 0 in S_IHELLO_SENT.
func (s *Session) ID() uint32 { return s.id }

// FarID is the session ID of packets to the far end; 0 before S_OPEN.
func (s *Session) FarID() uint32 { return s.farID }

// FarCertificate is the far end's certificate; nil in S_IHELLO_SENT. It must not be changed.
func (s *Session) FarCertificate() []byte { return s.cert }

// FarIdentity is the Canonical Endpoint Discriminator of the far end's certificate.
func (s *Session) FarIdentity() string { return s.canonical }

// FarAddress is DESTADDR, by the interface; invalid in S_IHELLO_SENT.
func (s *Session) FarAddress() (iface int, addr netip.AddrPort) { return s.far.iface, s.far.addr }

// Keys returns the session keys with their nonces; nil before S_OPEN.
func (s *Session) Keys() SessionKeys { return s.keys }

// Confirmed reports whether the far end has sent a packet under the session's keys, and so proved that it has them.
func (s *Session) Confirmed() bool { return s.confirmed }

// RTT returns the smoothed round-trip time and its variance; 0 before a measurement (§3.5.2.2).
func (s *Session) RTT() (smoothed, variance time.Duration) { return max(0, s.rtt.srtt), s.rtt.rttvar }

// LastReceived is when the last packet of the far end came.
func (s *Session) LastReceived() time.Time { return s.e.epoch.Add(time.Duration(s.received)) }

// ReceiveFlows and SendFlows return the flows in any state. The slices must not be changed.
func (s *Session) ReceiveFlows() []*ReceiveFlow { return s.recv }

// SendFlows returns the sending flows in any state. The slice must not be changed.
func (s *Session) SendFlows() []*SendFlow { return s.send }

// Ping asks the far end for a sign of life with the next Flush, unless it owes one already. LastReceived and Unanswered tell
// whether it came.
func (s *Session) Ping(now time.Time) {
	s.e.clock(now)
	if s.state == StateOpen && s.unanswered == never {
		s.ping()
	}
}

// Unanswered reports since when the far end owes an answer to a ping, to data or to a buffer probe. ok is false if it does not.
func (s *Session) Unanswered() (since time.Time, ok bool) {
	if s.unanswered == never {
		return time.Time{}, false
	}
	return s.e.epoch.Add(time.Duration(s.unanswered)), true
}

// SetKeepalive changes after how much silence of the far end it is pinged; 0 means never.
func (s *Session) SetKeepalive(now time.Time, period time.Duration) {
	s.e.clock(now)
	s.keepalive = max(0, period)
	s.schedulePing()
	s.touch()
}

// Forward tells the far end of an IHello for it (§3.5.1.5). Error: ErrState, ErrTooLong.
func (s *Session) Forward(now time.Time, h *Hello) error {
	s.e.clock(now)
	if s.state != StateOpen {
		return ErrState
	}
	chunk := AppendFIHello(nil, FIHello{h.EPD, Address{OriginObserved, h.From}, h.Tag})
	return s.queueControl(chunk)
}

// queueControl adds a chunk to the next packet.
func (s *Session) queueControl(chunk []byte) error {
	if len(chunk) > s.maxPlain()-maxHeaderSize {
		return ErrTooLong
	}
	if len(s.control)+len(chunk) > maxControl {
		s.e.drop(ChunkLimit)
		return ErrLimit
	}
	s.control = append(s.control, chunk...)
	s.touch()
	return nil
}

// maxPlain is the size of the longest plain packet.
func (s *Session) maxPlain() int { return s.keys.MaxPlain(s.e.cfg.MaxDatagram - sessionIDSize) }

// touch has Flush look at the session.
func (s *Session) touch() {
	if !s.dirty {
		s.dirty = true
		s.e.dirty = append(s.e.dirty, s)
	}
}

// opened enters S_OPEN.
func (s *Session) opened() {
	e := s.e
	e.counters.Opened++
	e.byAddress[s.far.addr] = s
	if e.byIdentity[s.canonical] == nil {
		e.byIdentity[s.canonical] = s
	}
	s.received, s.pathHeard, s.idleSince, s.openedStamp = e.now, e.now, e.now, e.cookieClock()
	if s.role == RoleInitiator {
		s.confirmed = true // it answered with a component that combines
		s.schedulePing()
	}
	e.emit(Event{Kind: EventSessionOpen, Session: s})
	s.touch()
}

// confirm notes the first packet under the keys.
func (s *Session) confirm() {
	s.confirmed = true
	s.rikeying = nil // the initiator has the keys, so it has no use for another RIKeying
	s.e.unconfirmed--
	s.e.byIdentity[s.canonical] = s
	s.schedulePing()
}

// schedulePing sets the alarm of the next keepalive ping (§3.5.4.1).
func (s *Session) schedulePing() {
	if s.state != StateOpen || !s.confirmed {
		return
	}
	s.pingAt = never
	if s.keepalive > 0 {
		s.pingAt = s.received.add(s.keepalive)
	}
}

// Close ends the session in order: S_OPEN becomes S_NEARCLOSE (§3.5.5). An opening session is given up.
func (s *Session) Close(now time.Time) {
	s.e.clock(now)
	switch s.state {
	case StateIHelloSent, StateKeyingSent:
		s.endOpening(StateClosed, ReasonNear, nil)
	case StateOpen:
		s.nearClose(ReasonNear)
	}
}

func (s *Session) nearClose(reason Reason) {
	s.end(StateNearClose, reason)
	s.linger, s.next = s.e.now.add(nearCloseLimit), s.e.now
	s.touch()
}

// Abort ends the session at once: the far end is told by one Close Ack, without waiting (§3.5.5).
func (s *Session) Abort(now time.Time) {
	s.e.clock(now)
	switch s.state {
	case StateIHelloSent, StateKeyingSent:
		s.endOpening(StateClosed, ReasonAbort, nil)
	case StateOpen:
		s.sendControl(s.far, AppendChunk(nil, ChunkCloseAck, nil))
		s.end(StateClosed, ReasonAbort)
	case StateNearClose, StateFarCloseLinger:
		s.forget()
	}
}

// end leaves S_OPEN for S_NEARCLOSE, S_FARCLOSE_LINGER or S_CLOSED. Flows only exist in S_OPEN sessions.
func (s *Session) end(state State, reason Reason) {
	if s.state != StateOpen {
		panic("BUG: rtmfp: end of a session in " + s.state.String())
	}
	e := s.e
	e.counters.Closed++
	if !s.confirmed {
		e.unconfirmed--
	}
	if e.byAddress[s.far.addr] == s {
		delete(e.byAddress, s.far.addr)
	}
	if e.byIdentity[s.canonical] == s {
		delete(e.byIdentity, s.canonical)
	}
	for _, f := range s.send {
		f.abort()
	}
	for _, f := range s.recv {
		f.abort()
	}
	s.send, s.recv, s.transfer, s.control, s.mobility, s.rikeying = nil, nil, nil, nil, nil, nil
	s.pingAt, s.unanswered, s.idleSince, s.restAt = never, never, never, never
	s.state = state
	e.emit(Event{Kind: EventSessionClosing, Session: s, Reason: reason})
	if state == StateClosed {
		s.forget()
	}
}

// forget is S_CLOSED.
func (s *Session) forget() {
	s.state = StateClosed
	delete(s.e.sessions, s.id)
	s.e.setAlarm(s, never)
	if s.e.tcSession == s {
		s.e.tcSession = nil
	}
	s.e.emit(Event{Kind: EventSessionClosed, Session: s})
}

// receive processes a packet of the session in S_OPEN, S_NEARCLOSE or S_FARCLOSE_LINGER.
func (s *Session) receive(from path, packet []byte) Disposition {
	plain, err := s.keys.Open(packet)
	s.wake()
	if err == ErrReplay {
		return DropReplay
	}
	if err != nil {
		return DropIntegrity
	}
	h, chunks, err := ParseHeader(plain)
	if err != nil {
		return DropHeader
	}
	// "It SHOULD ignore any packet received in that session with packet mode" of its own mark (§2.2.4).
	if h.Mode == ModeStartup || h.Mode == s.role.mode() {
		return DropMode
	}
	if s.state != StateOpen {
		return s.receiveClosing(chunks)
	}
	e := s.e
	s.received, s.unanswered, s.pinging = e.now, never, false
	if from == s.far {
		s.pathHeard = e.now
	}
	if !s.confirmed {
		s.confirm()
	}
	s.schedulePing()
	s.receiveHeader(h)
	t := s.transfer
	if t != nil {
		t.beforePacket()
	}
	var previous UserData
	var inRun, data bool
	for kind, payload := range Chunks(chunks) {
		run := false
		switch kind {
		case ChunkUserData, ChunkNextUserData:
			var u UserData
			if kind == ChunkUserData {
				u, err = ParseUserData(payload)
			} else if inRun {
				u, err = ParseNextUserData(payload, previous)
			} else {
				err = ErrTruncated // it must follow another (§2.3.12)
			}
			if err != nil {
				e.drop(ChunkMalformed)
				break
			}
			s.receiveUserData(u)
			previous, run, data = u, true, true
		case ChunkAckRanges, ChunkAckBitmap:
			a, err := ParseAck(kind, payload)
			if err != nil {
				e.drop(ChunkMalformed)
				break
			}
			s.receiveAck(a)
		case ChunkFlowException:
			s.receiveException(payload)
		case ChunkBufferProbe:
			s.receiveProbe(payload)
		case ChunkPing:
			s.answerPing(from, payload)
		case ChunkPingReply:
			s.receivePingReply(from, payload)
		case ChunkFIHello:
			e.handleFIHello(s, payload)
		case ChunkClose:
			s.sendControl(s.far, AppendChunk(nil, ChunkCloseAck, nil))
			s.end(StateFarCloseLinger, ReasonFar)
			s.linger = e.now.add(farCloseLinger)
			s.touch()
			return PacketSession
		case ChunkCloseAck:
			s.end(StateClosed, ReasonFarAbort)
			return PacketSession
		case ChunkPadding, ChunkPaddingFF:
			run = inRun
		default:
			e.drop(ChunkUnrecognized)
		}
		inRun = run
	}
	if t = s.transfer; t != nil {
		t.afterPacket(s, data)
	}
	s.checkMobility(from)
	s.touch()
	return PacketSession
}

// receiveClosing answers Close in S_NEARCLOSE and S_FARCLOSE_LINGER (§3.5.5).
func (s *Session) receiveClosing(chunks []byte) Disposition {
	d := DropClosed
	for kind := range Chunks(chunks) {
		switch kind {
		case ChunkClose:
			s.sendControl(s.far, AppendChunk(nil, ChunkCloseAck, nil))
			d = PacketSession
		case ChunkCloseAck:
			s.forget()
			return PacketSession
		}
	}
	return d
}

// answerPing answers a ping; one that is too long is not answered. Deviation: one that came by another path than DESTADDR is
// answered by that path, if it is authentic: an endpoint with several sockets could otherwise never prove that it is reached.
func (s *Session) answerPing(from path, message []byte) {
	reply := AppendChunk(nil, ChunkPingReply, message)
	if from == s.far || !s.keys.Authenticated() || len(reply) > s.maxPlain()-maxHeaderSize || !s.e.cfg.Interfaces[from.iface].reaches(from.addr) {
		s.queueControl(reply)
		return
	}
	s.sendControl(from, reply)
}

func (s *Session) receivePingReply(from path, message []byte) {
	m := s.mobility
	if s.e.cfg.ManualPaths && s.keys.Authenticated() {
		if to, at, ok := s.answersProbe(message); ok {
			s.pathAnswered(to, s.e.now.sub(at))
			return
		}
	}
	if m == nil || from == s.far || s.e.cfg.ManualPaths {
		return
	}
	if !s.keys.Authenticated() {
		s.e.drop(ChunkUnauthenticated)
		return
	}
	if len(message) == 0 {
		// Deviation: servers and clients of the Flash era answer every ping with an empty reply, so that they could never
		// move. Theirs is taken if it is authentic and comes from where a check was sent within a second, by the cipher
		// not a copy of an older one. An attacker on the path could make us send to an address that it can spoof.
		if from == m.to && s.e.now.sub(m.tx) <= mobilityInterval {
			s.e.counters.MovedEmpty++
			s.move(from)
		}
		return
	}
	at, ok := s.answersCheck(from, message)
	if !ok || at <= m.rx {
		return
	}
	m.rx = at
	s.move(from)
}

func (s *Session) move(to path) {
	e := s.e
	if e.byAddress[s.far.addr] == s {
		delete(e.byAddress, s.far.addr)
	}
	s.far = to
	if e.byAddress[to.addr] == nil {
		e.byAddress[to.addr] = s
	}
	e.counters.Moved++
	e.emit(Event{Kind: EventAddressChanged, Session: s})
}

// checkMobility asks at a new address whether the far end is there (§3.5.4.2).
func (s *Session) checkMobility(from path) {
	if s.state != StateOpen || from == s.far || !s.e.cfg.Interfaces[from.iface].reaches(from.addr) {
		return
	}
	if !s.keys.Authenticated() {
		s.e.drop(ChunkUnauthenticated)
		return
	}
	m := s.mobility
	if m == nil {
		m = &mobility{tx: longAgo, rx: longAgo}
		s.mobility = m
	}
	if s.e.cfg.ManualPaths {
		s.pathSeen(m, from)
		return
	}
	if s.e.now.sub(m.tx) < mobilityInterval {
		return
	}
	m.tx, m.to = s.e.now, from
	s.sendCheck(from)
}

// beginPacket begins a plain packet with its header. Callers add the time critical flags when they know them.
func (s *Session) beginPacket(b []byte) []byte {
	h := Header{Mode: s.role.mode()}
	s.sendHeader(&h)
	return AppendHeader(b, h)
}

// sendPacket sends a plain packet that beginPacket began.
func (s *Session) sendPacket(to path, plain []byte) {
	if s.e.receivingTimeCriticalElsewhere(s) {
		plain[0] |= flagTCR
	}
	s.e.send(to, s.e.seal(s.keys, s.farID, plain))
	s.wake()
}

// wake notes that the keys were used.
func (s *Session) wake() {
	if _, ok := s.keys.(Rester); ok && s.state == StateOpen {
		if s.restAt == never {
			s.touch() // also for a forged packet: the alarm must know
		}
		s.restAt = s.e.now.add(restAfter)
	}
}

// sendControl sends a chunk in a packet of its own, at once.
func (s *Session) sendControl(to path, chunk []byte) {
	s.e.plain = append(s.beginPacket(s.e.plain[:0]), chunk...)
	s.sendPacket(to, s.e.plain)
}

// tick does what is due and is not the business of flush.
func (s *Session) tick() {
	e := s.e
	switch s.state {
	case StateIHelloSent, StateKeyingSent:
		if e.now >= s.opening.deadline {
			s.endOpening(StateOpenFailed, ReasonTimeout, nil)
		}
	case StateNearClose, StateFarCloseLinger:
		if e.now >= s.linger {
			s.forget()
		}
	case StateOpen:
		s.tickOpen()
	}
}

func (s *Session) tickOpen() {
	e := s.e
	switch {
	case s.unansweredUntil() <= e.now:
		s.end(StateClosed, ReasonUnresponsive)
		return
	case !s.confirmed && e.now.sub(s.received) >= e.cfg.Limits.UnconfirmedLifetime:
		s.end(StateClosed, ReasonUnconfirmed)
		return
	case s.idleUntil() <= e.now:
		s.nearClose(ReasonIdle)
		return
	}
	if s.restAt <= e.now {
		s.keys.(Rester).Rest()
		s.restAt = never
	}
	if s.pingAt <= e.now {
		s.ping()
	}
	s.tickFlows()
}

// ping asks for a sign of life, and again until it comes (§3.5.4.1).
func (s *Session) ping() {
	e := s.e
	if s.pinging {
		s.rtt.backoff() // the last ping is unanswered
	}
	s.queueControl(AppendChunk(nil, ChunkPing, nil))
	s.pinging = true
	s.owe()
	s.pingAt = e.now.add(max(s.rtt.erto, time.Second))
	if !s.confirmed {
		s.pingAt = e.now.add(unconfirmedPing)
	}
}

// owe notes that the far end has something to answer.
func (s *Session) owe() {
	if s.unanswered == never {
		s.unanswered = s.e.now
	}
}

func (s *Session) unansweredUntil() instant {
	if s.unanswered == never {
		return never
	}
	return s.unanswered.add(s.e.cfg.RetransmitLimit)
}

func (s *Session) idleUntil() instant {
	if s.idleSince == never || s.e.cfg.IdleLimit < 0 {
		return never
	}
	return s.idleSince.add(s.e.cfg.IdleLimit)
}

// flush sends what there is to send.
func (s *Session) flush() {
	switch s.state {
	case StateIHelloSent, StateKeyingSent:
		s.flushOpening()
	case StateNearClose:
		if s.next <= s.e.now {
			s.sendControl(s.far, AppendChunk(nil, ChunkClose, nil))
			s.next = s.e.now.add(closeInterval)
		}
	case StateOpen:
		s.flushOpen()
	}
}

// nextAlarm is when tick or flush has something to do.
func (s *Session) nextAlarm() instant {
	switch s.state {
	case StateIHelloSent, StateKeyingSent:
		return s.opening.nextAlarm(s.state)
	case StateNearClose:
		return min(s.linger, s.next)
	case StateFarCloseLinger:
		return s.linger
	case StateOpen:
		at := min(s.pingAt, s.restAt, s.unansweredUntil(), s.idleUntil(), s.nextFlowAlarm())
		if !s.confirmed {
			at = min(at, s.received.add(s.e.cfg.Limits.UnconfirmedLifetime))
		}
		return at
	}
	return never
}

// updateIdle keeps idleSince: lingering flows do not keep a session (§3.5.5).
func (s *Session) updateIdle() {
	busy := slices.ContainsFunc(s.send, func(f *SendFlow) bool { return f.state == FlowOpen || f.state == FlowClosing }) ||
		slices.ContainsFunc(s.recv, func(f *ReceiveFlow) bool { return f.state == FlowOpen || f.state == FlowRejected })
	switch {
	case busy:
		s.idleSince = never
	case s.idleSince == never:
		s.idleSince = s.e.now
	}
}
