package turn

import (
	"net/netip"

	"github.com/stilenet/stile/stun"
)

// reply is the answer to one request while it is made.
type reply struct {
	src     *Source
	m       stun.Message
	body    stun.Builder // of a success
	start   int          // where the answer begins in the arena
	code    int          // of a failure; 0: success, or nothing yet
	unknown []stun.AttrType
	nonce   bool        // the failure is a challenge: REALM and a fresh NONCE go with it
	user    *credential // who asked, when the listener wants credentials
	session uint32      // the allocation that the request belongs to, none without
	trace   *scrubber   // of that allocation, even when it has ended; nil: not traced
	c       *Core
}

func (r *reply) succeed() {
	r.body = stun.Begin(r.c.arena, stun.NewType(r.m.Method(), stun.Success), r.m.TransactionID())
}

func (r *reply) fail(code int) { r.code = code }

// request handles every request: the checks that all share, then the method's own.
func (c *Core) request(src *Source, m stun.Message) {
	fingerprint := m.CheckFingerprint()
	if fingerprint == stun.FingerprintInvalid {
		c.count(DropFingerprint)
		return
	}
	i, a := c.lookup(src)
	if a == nil {
		if v := c.rules.Policy.JudgeClient(src.Client.Addr(), src.Interface); !v.Allowed {
			c.count(DropClient)
			c.refused(v.Rule, src.Client, netip.AddrPort{}, nil)
			return
		}
	}
	if m.Method() == stun.Binding {
		c.binding(src, m, a)
		return
	}
	r := reply{src: src, m: m, start: len(c.arena), session: i, c: c}
	if a != nil {
		r.trace = c.traces.of(a.id)
		c.trace(r.trace, false, m)
	}
	switch {
	case c.wantsAuth(src) && !c.authenticate(&r, a):
	case c.refuseModern(&r, a):
	case r.listUnknown(c.unknown[:0]):
	case c.replay(&r):
	case m.Method() == stun.Allocate:
		c.allocate(src, m, &r)
	case a == nil:
		r.fail(stun.CodeAllocationMismatch)
	case m.Method() == stun.Refresh:
		c.refresh(i, a, m, &r)
	case m.Method() == stun.ChannelBind:
		c.channelBind(i, a, m, &r)
	case m.Method() == stun.CreatePermission:
		c.createPermission(i, a, m, &r)
	}
	c.finish(&r, fingerprint == stun.FingerprintValid)
}

// refuseModern refuses a client without credentials that speaks the modern dialect, and ends what it has: a web page must not
// be able to use an employee's browser on the open proxy.
func (c *Core) refuseModern(r *reply, a *allocation) bool {
	if r.user != nil || c.rules.ModernWithoutCredentials || !speaksModern(r.m) && r.m.Method() != stun.CreatePermission {
		return false
	}
	c.stats.ModernRefused++
	if a != nil {
		c.end(r.session, EndModern)
		r.session = none
	}
	r.fail(stun.CodeForbidden)
	return true
}

// maxUnknown bounds the list in a 420, as a request may have more unknown attributes than are worth an answer.
const maxUnknown = 8

// listUnknown notes the attributes that must be understood and are not (rfc3489bis-15 §7.3.1).
func (r *reply) listUnknown(list []stun.AttrType) bool {
	r.unknown = r.m.UnknownRequired(list, known)
	if len(r.unknown) == 0 {
		return false
	}
	r.fail(stun.CodeUnknownAttribute)
	return true
}

// known lists the comprehension-required attributes that a request may carry. Those that mean nothing to its method are
// ignored (rfc3489bis-15 §7.3), and so are credentials where none are wanted.
//
// Deviation: draft-08 reserves 0x0010; BANDWIDTH of the drafts before is known and ignored. DONT-FRAGMENT is answered
// with 420, which RFC 8656 §7.2 leaves to a server that cannot set DF for each packet.
func known(t stun.AttrType) bool {
	switch t {
	case stun.AttrUsername, stun.AttrMessageIntegrity, stun.AttrRealm, stun.AttrNonce,
		stun.AttrChannelNumber, stun.AttrLifetime, stun.AttrBandwidth, stun.AttrXORPeerAddress, stun.AttrData,
		stun.AttrRequestedFamily, stun.AttrEvenPort, stun.AttrRequestedTransport, stun.AttrReservationToken:
		return true
	}
	return false
}

func (c *Core) binding(src *Source, m stun.Message, a *allocation) {
	if d, at := c.discovery(src); d != nil {
		c.discover(d, at, src, m, a)
		return
	}
	start := len(c.arena)
	c.arena = stun.RespondMessage(c.arena, m, src.Server, src.Client)
	if c.emit(src, start, a, len(m.Raw())) {
		c.count(AnsweredBinding)
	}
}

// finish completes the answer, checks that it is worth sending, and leaves it among the outputs.
func (c *Core) finish(r *reply, fingerprint bool) {
	tail := func(b *stun.Builder) {
		if r.user != nil {
			b.Integrity(r.user.mac)
		}
		if fingerprint {
			b.Fingerprint()
		}
		c.arena = b.Bytes()
	}
	if r.code == 0 {
		tail(&r.body)
	} else {
		reason := stun.Reason(r.code)
		for {
			b := stun.Begin(c.arena[:r.start], stun.NewType(r.m.Method(), stun.Error), r.m.TransactionID())
			b.ErrorCode(r.code, reason)
			if len(r.unknown) > 0 {
				b.UnknownAttributes(r.unknown)
			}
			if r.nonce {
				c.challenge(&b, r.src.Client)
			}
			tail(&b)
			if reason == "" || r.src.Stream != 0 || c.factorOK(r.src, len(c.arena)-r.start, len(r.m.Raw())) {
				break
			}
			reason = "" // the text is for people; the code says it all
		}
	}
	c.traceRefusal(r)
	if r.trace != nil {
		if m, err := stun.Parse(c.arena[r.start:]); err == nil {
			c.trace(r.trace, true, m)
		}
	}
	var a *allocation
	if r.session != none {
		a = &c.allocs[r.session]
	}
	if !c.emit(r.src, r.start, a, len(r.m.Raw())) {
		return
	}
	if r.code == 0 {
		c.count(AnsweredSuccess)
		return
	}
	c.count(AnsweredError)
	if c.stats.Errors == nil {
		c.stats.Errors = make(map[int]uint64)
	}
	c.stats.Errors[r.code]++
}

// wireHeaders is what IP and UDP add to a datagram, in bytes.
func wireHeaders(a netip.Addr) int {
	if a.Is4() {
		return 20 + 8
	}
	return 40 + 8
}

// factorOK reports whether an answer is at most twice its request on the wire.
func (c *Core) factorOK(src *Source, answer, request int) bool {
	h := wireHeaders(src.Client.Addr())
	return answer+h <= 2*(request+h)
}

// emit leaves arena[start:] as the answer to src. Over UDP it may be at most twice the request, and an address that
// has not proved itself gets no more than its prefix's budget.
func (c *Core) emit(src *Source, start int, a *allocation, request int) bool {
	if src.Stream == 0 && !c.factorOK(src, len(c.arena)-start, request) {
		c.arena = c.arena[:start]
		c.count(DropReplySize)
		return false
	}
	return c.deliver(src, start, a)
}

// deliver is emit for an answer whose size has been judged.
func (c *Core) deliver(src *Source, start int, a *allocation) bool {
	data := c.arena[start:]
	if src.Stream == 0 {
		proven := a != nil && a.confirmed
		if !proven && !c.ledger.replyAllowed(c.clock, src.Client.Addr(), len(data)+wireHeaders(src.Client.Addr()), c.rules.Limits.ReplyBytesPerPrefix) {
			c.arena = c.arena[:start]
			c.count(DropReplyBudget)
			return false
		}
	}
	c.out = append(c.out, Output{Kind: ToClient, Source: *src, Data: data})
	return true
}
