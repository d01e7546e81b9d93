package rtmfp

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"
)

// AnyInterface as the interface of a Candidate means every one that reaches the address.
const AnyInterface = -1

// Candidate is an address at which a session may be opened.
type Candidate struct {
	Interface int // an index of Config.Interfaces, or AnyInterface
	Addr      netip.AddrPort
}

// opening is what a session has beside while it opens.
type opening struct {
	tag        [tagSize]byte
	epd        []byte
	candidates []candidate
	began      instant
	deadline   instant

	// In S_KEYING_SENT.
	sent       int    // IIKeyings by the current path
	dead       []path // by which IIKeyings were not answered
	initiation Initiation
	iikeying   IIKeying
	next       instant // the next transmission of iikeying
	interval   time.Duration
	changed    bool // the cookie was changed once
	combining  bool // an RIKeying waits for Keyed
}

type candidate struct {
	path
	any      bool // by any interface
	next     instant
	interval time.Duration
}

// Open begins a session with the identity that epd selects, at the candidates (§3.5.1.1.1). It ends in EventSessionOpen or
// EventSessionFailed. Errors: ErrLimit, ErrCandidate, ErrTooLong.
func (e *Endpoint) Open(now time.Time, epd []byte, candidates ...Candidate) (*Session, error) {
	e.clock(now)
	if len(e.opening) >= e.cfg.Limits.Opening || len(e.sessions) >= e.cfg.Limits.Sessions {
		return nil, ErrLimit
	}
	if len(epd) > e.cfg.MaxDatagram/2 {
		return nil, ErrTooLong
	}
	s := e.newSession(StateIHelloSent, RoleInitiator)
	s.opening = &opening{epd: bytes.Clone(epd), began: e.now, deadline: e.now.add(openTimeout)}
	for {
		e.random(s.opening.tag[:])
		if e.opening[s.opening.tag] == nil {
			break
		}
	}
	for _, c := range candidates {
		s.addCandidate(c)
	}
	if len(candidates) > 0 && len(s.opening.candidates) == 0 {
		return nil, ErrCandidate
	}
	e.opening[s.opening.tag] = s
	s.touch()
	return s, nil
}

// AddCandidate adds an address to those that are tried, if there is room (§3.5.1.1.1).
func (s *Session) AddCandidate(now time.Time, c Candidate) error {
	s.e.clock(now)
	if s.state != StateIHelloSent {
		return ErrState
	}
	if !s.addCandidate(c) {
		return ErrCandidate
	}
	return nil
}

func (s *Session) addCandidate(c Candidate) (any bool) {
	addr := netip.AddrPortFrom(c.Addr.Addr().Unmap(), c.Addr.Port())
	for i, iface := range s.e.cfg.Interfaces {
		if c.Interface != AnyInterface && c.Interface != i || !iface.reaches(addr) || addr.Addr().IsUnspecified() {
			continue
		}
		p := path{i, addr}
		if slices.ContainsFunc(s.opening.candidates, func(c candidate) bool { return c.path == p }) {
			any = true
			continue
		}
		if len(s.opening.candidates) >= s.e.cfg.Limits.Candidates {
			s.e.drop(ChunkLimit)
			return any
		}
		next := s.e.now
		if c.Interface == AnyInterface {
			next = max(next, s.opening.began.add(iface.Delay))
		}
		s.opening.candidates = append(s.opening.candidates, candidate{path: p, any: c.Interface == AnyInterface, next: next})
		any = true
	}
	if any {
		s.touch()
	}
	return any
}

// flushOpening sends what is due of an opening session.
func (s *Session) flushOpening() {
	e, o := s.e, s.opening
	switch s.state {
	case StateIHelloSent:
		s.sendIHellos()
	case StateKeyingSent:
		if o.combining {
			return
		}
		if o.searching() {
			s.sendIHellos()
		}
		if o.next > e.now {
			return
		}
		o.sent++
		e.plain = AppendIIKeying(e.startupHeader(e.plain[:0]), o.iikeying)
		e.sendStartup(s.far, 0, e.plain, nil)
		o.interval += startupBackoff
		o.next = e.now.add(o.interval)
	}
}

// sendIHellos sends what is due.
func (s *Session) sendIHellos() {
	e, o := s.e, s.opening
	for i := range o.candidates {
		c := &o.candidates[i]
		if c.next > e.now {
			continue
		}
		e.plain = AppendIHello(e.startupHeader(e.plain[:0]), IHello{o.epd, o.tag[:]})
		e.sendStartup(c.path, 0, e.plain, nil)
		c.interval += startupBackoff
		c.next = e.now.add(c.interval)
	}
}

// searching says whether other paths are looked for, because the IIKeying was repeated without an answer. Deviation: by
// §3.5.1.1.1 the first RHello decides. Behind a NAT that maps by destination it can come by a path that leads one way only:
// the responder's filter knows the address that the introducer saw, not the one that the IIKeying comes from.
func (o *opening) searching() bool { return o.sent >= 2 }

// resume takes another path for the IIKeying: one that answers an IHello while the current one is silent.
func (s *Session) resume(from path, h RHello) {
	e, o := s.e, s.opening
	if !o.searching() || o.combining || from == s.far || !bytes.Equal(h.Certificate, s.cert) || len(h.Cookie) > e.cfg.MaxDatagram ||
		slices.Contains(o.dead, from) && o.sent < 4 {
		e.drop(ChunkTagUnknown)
		return
	}
	if !slices.Contains(o.dead, s.far) && len(o.dead) < maxRedirects {
		o.dead = append(o.dead, s.far)
	}
	s.far, o.sent, o.changed = from, 0, false
	s.sendIIKeying(h.Cookie)
}

func (o *opening) nextAlarm(state State) instant {
	at := o.deadline
	if state == StateIHelloSent || o.searching() && !o.combining {
		for i := range o.candidates {
			at = min(at, o.candidates[i].next)
		}
	}
	if state == StateKeyingSent && !o.combining {
		at = min(at, o.next)
	}
	return at
}

// endOpening ends a session that is not open yet.
func (s *Session) endOpening(state State, reason Reason, other *Session) {
	e := s.e
	delete(e.opening, s.opening.tag)
	if e.cfg.ManualPaths {
		s.tried = s.opening.tried()
	}
	if s.id != 0 {
		delete(e.sessions, s.id)
	}
	s.opening = nil
	s.state = state
	e.counters.Failed++
	e.setAlarm(s, never)
	e.emit(Event{Kind: EventSessionFailed, Session: s, Reason: reason, Other: other})
}

// handleIHello answers statelessly (§3.5.1.1.2).
func (e *Endpoint) handleIHello(from path, payload []byte, budget *int) {
	h, err := ParseIHello(payload)
	if err != nil {
		e.drop(ChunkMalformed)
		return
	}
	if !e.cfg.Identity.SelectsNear(h.EPD) {
		e.emit(Event{Kind: EventHello, Hello: &Hello{
			EPD: bytes.Clone(h.EPD), Tag: bytes.Clone(h.Tag), From: from.addr, Interface: from.iface, budget: *budget,
		}})
		*budget = 0 // belongs to the Hello
		return
	}
	if !e.sendRHello(from, h.Tag, budget) {
		e.drop(ChunkAmplification)
	}
}

func (e *Endpoint) sendRHello(to path, tag []byte, budget *int) bool {
	var cookie [cookieSize]byte
	h := RHello{TagEcho: tag, Cookie: e.appendCookie(cookie[:0], to.addr), Certificate: e.cfg.Identity.Certificate()}
	e.plain = AppendRHello(e.startupHeader(e.plain[:0]), h)
	return e.sendStartup(to, 0, e.plain, budget)
}

// handleFIHello does as an IHello from the reply address would, or sends an Implied Redirect (§3.5.1.1.2). The reply goes
// out by every interface that reaches the address, because a hole in each helps.
func (e *Endpoint) handleFIHello(s *Session, payload []byte) {
	h, err := ParseFIHello(payload)
	if err != nil {
		e.drop(ChunkMalformed)
		return
	}
	if e.cfg.ForwardedHello == ForwardedHelloIgnore || !e.cfg.Identity.SelectsNear(h.EPD) {
		return
	}
	if second := int64(e.now) / int64(time.Second); s.forwardSecond != second {
		s.forwardSecond, s.forwards = second, 0
	}
	if s.forwards++; s.forwards > forwardedPerSecond {
		e.drop(ChunkForwardRate)
		return
	}
	addr := netip.AddrPortFrom(h.ReplyAddress.AddrPort.Addr().Unmap(), h.ReplyAddress.AddrPort.Port())
	if addr.IsValid() && e.cfg.ManualPaths {
		e.emit(Event{Kind: EventForwarded, Session: s, Path: Candidate{AnyInterface, addr}})
	}
	reached, age := false, e.sinceForwarded(h.Tag)
	for i, iface := range e.cfg.Interfaces {
		if !iface.reaches(addr) || addr.Addr().IsUnspecified() || addr.Addr().IsMulticast() {
			continue
		}
		reached = true
		if iface.Delay > age {
			continue
		}
		budget := amplification * (len(payload) + wireOverhead(addr))
		to := path{i, addr}
		if e.cfg.ForwardedHello == ForwardedHelloRedirect {
			e.plain = AppendRedirect(e.startupHeader(e.plain[:0]), Redirect{TagEcho: h.Tag})
			e.sendStartup(to, 0, e.plain, &budget)
		} else if !e.sendRHello(to, h.Tag, &budget) {
			e.drop(ChunkAmplification)
		}
	}
	if !reached {
		e.drop(ChunkUnreachable)
	}
}

func (e *Endpoint) byTag(tag []byte) *Session {
	if len(tag) != tagSize {
		return nil
	}
	return e.opening[[tagSize]byte(tag)]
}

func (e *Endpoint) handleRedirect(from path, payload []byte) {
	r, err := ParseRedirect(payload)
	if err != nil {
		e.drop(ChunkMalformed)
		return
	}
	s := e.byTag(r.TagEcho)
	if s == nil || s.state != StateIHelloSent && !s.opening.searching() {
		e.drop(ChunkTagUnknown)
		return
	}
	if len(r.Destinations) == 0 {
		s.addCandidate(Candidate{from.iface, from.addr})
		return
	}
	for _, a := range r.Destinations {
		if !s.addCandidate(Candidate{AnyInterface, a.AddrPort}) {
			e.drop(ChunkUnreachable)
		}
	}
}

// handleRHello selects the responder (§3.5.1.1.1).
func (e *Endpoint) handleRHello(from path, payload []byte) {
	h, err := ParseRHello(payload)
	if err != nil {
		e.drop(ChunkMalformed)
		return
	}
	s := e.byTag(h.TagEcho)
	if s != nil && s.state == StateKeyingSent {
		s.resume(from, h)
		return
	}
	if s == nil || s.state != StateIHelloSent {
		e.drop(ChunkTagUnknown)
		return
	}
	id := e.cfg.Identity
	if !id.Selects(s.opening.epd, h.Certificate) || !id.Authentic(h.Certificate) {
		e.drop(ChunkCertificate)
		return
	}
	// "1. If the Canonical Endpoint Discriminator for the responder certificate matches [...] another existing session"
	canonical := id.CanonicalEPD(h.Certificate)
	if other := e.sameIdentity(canonical); other != nil && id.Selects(s.opening.epd, other.cert) {
		s.endOpening(StateClosed, ReasonDuplicate, other)
		return
	}
	// "2. Move to the S_KEYING_SENT state."
	if len(h.Cookie) > e.cfg.MaxDatagram {
		e.drop(ChunkLimit)
		return
	}
	cert := bytes.Clone(h.Certificate) // what Initiate returns may alias it
	initiation, err := id.Initiate(cert)
	if err != nil {
		e.drop(ChunkCertificate)
		return
	}
	s.state = StateKeyingSent
	s.far = from
	s.cert = cert
	s.canonical = string(canonical)
	s.id = e.newSessionID()
	e.sessions[s.id] = s
	s.opening.initiation = initiation
	s.opening.iikeying = IIKeying{SessionID: s.id, Certificate: id.Certificate(), Component: initiation.Component()}
	s.sendIIKeying(h.Cookie)
}

// sameIdentity finds the session in S_KEYING_SENT or S_OPEN with the Canonical Endpoint Discriminator.
func (e *Endpoint) sameIdentity(canonical []byte) *Session {
	if s := e.byIdentity[string(canonical)]; s != nil {
		return s
	}
	var found *Session
	for _, s := range e.opening {
		if s.state == StateKeyingSent && s.canonical == string(canonical) && (found == nil || s.id < found.id) {
			found = s
		}
	}
	return found
}

// sendIIKeying signs the IIKeying for a cookie and begins its schedule.
func (s *Session) sendIIKeying(cookie []byte) {
	o := s.opening
	o.iikeying.CookieEcho = bytes.Clone(cookie)
	o.iikeying.Signature = s.e.cfg.Identity.Sign(o.iikeying.AppendSignedParameters(nil))
	o.next, o.interval = s.e.now, 0
	s.touch()
}

// handleCookieChange repeats the IIKeying with another cookie, once (§3.5.1.2).
func (e *Endpoint) handleCookieChange(s *Session, payload []byte) {
	c, err := ParseCookieChange(payload)
	if err != nil {
		e.drop(ChunkMalformed)
		return
	}
	if s.opening.changed || !bytes.Equal(c.OldCookie, s.opening.iikeying.CookieEcho) || len(c.NewCookie) > e.cfg.MaxDatagram {
		e.drop(ChunkCookie)
		return
	}
	s.opening.changed = true
	s.sendIIKeying(c.NewCookie)
}

// Keying is the expensive half of a key negotiation. With Config.DeferKeying the user calls Run, on any goroutine, then
// Endpoint.Keyed on that which owns the endpoint.
type Keying struct {
	identity  Identity
	now       instant
	from      path
	digest    [16]byte
	stamp     uint32   // of the cookie
	opener    *Session // of an initiator; nil for a responder
	init      Initiation
	farID     uint32
	cert      []byte
	signed    []byte
	component []byte // the far end's
	signature []byte
	id        uint32 // the responder's session ID

	done bool
	ok   bool
	skrc []byte
	sign []byte
	keys SessionKeys
}

// Run verifies what the far end sent and computes the keys. It uses nothing of the endpoint but its Identity.
func (k *Keying) Run() {
	k.done = true
	if !k.identity.Verify(k.cert, k.signed, k.signature) {
		return
	}
	var err error
	if k.opener != nil {
		k.keys, err = k.init.Combine(k.component)
		k.ok = err == nil
		return
	}
	k.skrc, k.keys, err = k.identity.Respond(k.cert, k.component)
	if err != nil {
		return
	}
	k.sign = k.identity.Sign(append(RIKeying{SessionID: k.id, Component: k.skrc}.AppendSignedPortion(nil), k.component...))
	k.ok = true
}

// Keyed takes back a Keying that has run.
func (e *Endpoint) Keyed(now time.Time, k *Keying) {
	e.clock(now)
	if !k.done {
		panic("BUG: rtmfp: Keyed before Run")
	}
	if k.opener != nil {
		e.finishInitiator(k)
	} else {
		e.finishResponder(k)
	}
}

func (e *Endpoint) runKeying(k *Keying) {
	if e.cfg.DeferKeying {
		e.emit(Event{Kind: EventKeying, Keying: k})
		return
	}
	k.Run()
	if k.opener != nil {
		e.finishInitiator(k)
	} else {
		e.finishResponder(k)
	}
}

// handleIIKeying is the responder's second step (§3.5.1.1.2).
func (e *Endpoint) handleIIKeying(from path, payload []byte, budget *int) {
	k, signed, err := ParseIIKeying(payload)
	if err != nil || k.SessionID == 0 {
		e.drop(ChunkMalformed)
		return
	}
	switch e.checkCookie(k.CookieEcho, from.addr) {
	case cookieForeign:
		e.drop(ChunkCookie)
		return
	case cookieMoved:
		var cookie [cookieSize]byte
		e.plain = AppendCookieChange(e.startupHeader(e.plain[:0]), CookieChange{k.CookieEcho, e.appendCookie(cookie[:0], from.addr)})
		e.sendStartup(from, k.SessionID, e.plain, budget)
		e.drop(ChunkCookieAddress)
		return
	}
	digest := keyingDigest(k)
	stamp := cookieStamp(k.CookieEcho)
	if !e.admit(from, k.Certificate, digest, stamp, budget) {
		return
	}
	if e.keyings[digest] != nil {
		e.drop(ChunkDuplicate)
		return
	}
	l := &e.cfg.Limits
	if len(e.sessions) >= l.Sessions || e.unconfirmed >= l.Unconfirmed || len(e.keyings) >= l.PendingKeying {
		e.drop(ChunkLimit)
		return
	}
	if !e.cfg.Identity.Authentic(k.Certificate) {
		e.drop(ChunkCertificate)
		return
	}
	job := &Keying{
		identity: e.cfg.Identity, from: from, digest: digest, stamp: stamp, farID: k.SessionID,
		cert: bytes.Clone(k.Certificate), signed: bytes.Clone(signed), component: bytes.Clone(k.Component), signature: bytes.Clone(k.Signature),
		id: e.newSessionID(),
	}
	e.keyings[digest] = job
	e.runKeying(job)
}

// keyingDigest identifies an IIKeying by what a retransmission has in common (§3.5.1.1.2): not by its cookie.
func keyingDigest(k IIKeying) [16]byte {
	h := sha256.New()
	var b [8]byte
	binary.BigEndian.PutUint32(b[:], k.SessionID)
	binary.BigEndian.PutUint32(b[4:], uint32(len(k.Certificate)))
	h.Write(b[:])
	h.Write(k.Certificate)
	h.Write(k.Component)
	return [16]byte(h.Sum(nil))
}

// admit says whether an IIKeying may become a session, and repeats the answer to one that has.
func (e *Endpoint) admit(from path, cert []byte, digest [16]byte, stamp uint32, budget *int) bool {
	// "1. If the address from which this IIKeying was received corresponds to an opening session"
	for _, s := range e.glaring(from, cert) {
		if s.state == StateIHelloSent || e.cfg.Identity.Overrides(s.cert, cert) {
			if e.cfg.Identity.NearPrevails(cert) {
				e.drop(ChunkGlare)
				return false
			}
		}
	}
	// "2. If the address from which this IIKeying was received corresponds to a session in the S_OPEN state"
	s := e.byAddress[from.addr]
	switch {
	case s == nil:
		return true
	case s.role == RoleResponder && s.digest == digest:
		e.drop(ChunkDuplicate)
		if s.rikeying != nil {
			s.received = e.now // the initiator lives, until its cookie expires
			e.plain = append(e.startupHeader(e.plain[:0]), s.rikeying...)
			e.sendStartup(from, s.farID, e.plain, budget)
		}
		return false
	case !e.cfg.Identity.Overrides(s.cert, cert):
		e.drop(ChunkNoOverride)
		return false
	// Deviation: by the specification any other IIKeying of the same identity overrides. One with a cookie from before the
	// session was opened is no restart: it is the losing one of a glare that the network has delayed until the winning one was
	// answered, and nobody waits for its RIKeying any more.
	case int32(stamp-s.openedStamp) <= 0:
		e.drop(ChunkStale)
		return false
	}
	return true
}

// glaring finds the opening sessions that an IIKeying from an address is glare for (§3.5.1.3), in the order of their tags.
//
// Deviation: the specification goes by the address alone. Here the certificate must also be one that the opening session
// wants, because a Redirector is a candidate of many openings and its own session is glare for none of them; and a
// certificate that is being keyed with is glare from any address, because NATs make one peer come from two.
func (e *Endpoint) glaring(from path, cert []byte) (found []*Session) {
	for _, s := range e.opening {
		switch s.state {
		case StateIHelloSent:
			known := slices.ContainsFunc(s.opening.candidates, func(c candidate) bool { return c.addr == from.addr })
			if !known || !e.cfg.Identity.Selects(s.opening.epd, cert) {
				continue
			}
		case StateKeyingSent:
			if !bytes.Equal(s.cert, cert) {
				continue
			}
		}
		found = append(found, s)
	}
	slices.SortFunc(found, func(a, b *Session) int { return bytes.Compare(a.opening.tag[:], b.opening.tag[:]) })
	return found
}

func (e *Endpoint) finishResponder(k *Keying) {
	delete(e.keyings, k.digest)
	if !k.ok {
		e.drop(ChunkSignature)
		return
	}
	budget := 0 // the first RIKeying was sent if this is a duplicate
	if !e.admit(k.from, k.cert, k.digest, k.stamp, &budget) {
		return
	}
	if e.sessions[k.id] != nil {
		e.drop(ChunkDuplicate) // the ID was taken meanwhile; the initiator tries again
		return
	}
	glaring := e.glaring(k.from, k.cert)
	if stale := e.byAddress[k.from.addr]; stale != nil {
		// "3. The certificate from this IIKeying overrides the certificate of the S_OPEN session"
		e.counters.Overrides++
		stale.end(StateClosed, ReasonOverride)
	}
	s := e.newSession(StateOpen, RoleResponder)
	s.id, s.farID, s.far = k.id, k.farID, k.from
	s.cert, s.canonical = k.cert, string(e.cfg.Identity.CanonicalEPD(k.cert))
	s.keys, s.digest = k.keys, k.digest
	s.rikeying = AppendRIKeying(nil, RIKeying{SessionID: s.id, Component: k.skrc, Signature: k.sign})
	e.sessions[s.id] = s
	e.unconfirmed++
	s.pingAt = e.now.add(unconfirmedPing)
	e.plain = append(e.startupHeader(e.plain[:0]), s.rikeying...)
	e.sendStartup(s.far, s.farID, e.plain, nil)
	s.opened()
	for _, o := range glaring {
		o.endOpening(StateClosed, ReasonGlare, s)
	}
}

func (e *Endpoint) handleRIKeying(s *Session, payload []byte) {
	k, portion, err := ParseRIKeying(payload)
	if err != nil || k.SessionID == 0 {
		e.drop(ChunkMalformed)
		return
	}
	if s.opening.combining {
		e.drop(ChunkDuplicate)
		return
	}
	s.opening.combining = true
	e.runKeying(&Keying{
		identity: e.cfg.Identity, opener: s, init: s.opening.initiation, farID: k.SessionID, cert: s.cert,
		signed: append(bytes.Clone(portion), s.opening.iikeying.Component...), component: bytes.Clone(k.Component), signature: bytes.Clone(k.Signature),
	})
}

func (e *Endpoint) finishInitiator(k *Keying) {
	s := k.opener
	if s.state != StateKeyingSent {
		return // it ended meanwhile
	}
	s.opening.combining = false
	if !k.ok {
		e.drop(ChunkSignature)
		s.touch()
		return
	}
	if stale := e.byAddress[s.far.addr]; stale != nil && e.cfg.Identity.Overrides(stale.cert, s.cert) {
		e.counters.Overrides++
		stale.end(StateClosed, ReasonOverride)
	}
	delete(e.opening, s.opening.tag)
	if e.cfg.ManualPaths {
		s.tried = s.opening.tried()
	}
	s.opening = nil
	s.state = StateOpen
	s.farID, s.keys = k.farID, k.keys
	s.opened()
}
