package client

import (
	"errors"
	"fmt"
	"time"

	"github.com/stilenet/stile/stun"
)

// transaction is a request that waits for its answer (RFC 5389 §7.2).
type transaction struct {
	subject
	id    stun.TransactionID
	raw   []byte
	sends int
	wait  time.Duration
	at    time.Time // of the next send, or of the failure after the last
	began time.Time

	nonce, realm string // what it was signed with; "" nonce: not signed
	tries        int    // repetitions with other credentials
	distrusted   bool   // an answer was dropped for its integrity
}

// subject is what a request is about. It is built anew, with another identifier, when credentials change.
type subject struct {
	method  stun.Method
	release bool        // Refresh with lifetime 0
	perm    *permission // of CreatePermission
	peer    *peer       // of ChannelBind
}

// request begins a transaction.
func (c *core) request(now time.Time, s subject) *transaction {
	t := &transaction{subject: s}
	c.txs = append(c.txs, t)
	c.begin(now, t)
	return t
}

// begin sends t for the first time, or again with a new identifier and the credentials that hold now.
func (c *core) begin(now time.Time, t *transaction) {
	t.id, t.began, t.sends, t.wait = c.newID(), now, 1, rto
	b := stun.Begin(make([]byte, 0, 128), stun.NewType(t.method, stun.Request), t.id)
	c.build(&b, t.subject)
	t.nonce, t.realm = c.auth.sign(&b)
	t.raw = b.Bytes()
	t.at = now.Add(rto)
	if c.p.stream {
		t.at = now.Add(streamTimeout)
	}
	c.arm(t.at)
	c.send(now, t.raw)
}

// build appends the attributes of a request.
func (c *core) build(b *stun.Builder, s subject) {
	switch s.method {
	case stun.Allocate:
		c.buildAllocate(b)
	case stun.Refresh:
		switch {
		case s.release:
			b.Uint32(stun.AttrLifetime, 0)
		case c.p.lifetime > 0:
			b.Uint32(stun.AttrLifetime, uint32(c.p.lifetime/time.Second))
		}
	case stun.CreatePermission:
		b.XORAddress(stun.AttrXORPeerAddress, s.perm.peer)
	case stun.ChannelBind:
		b.Uint32(stun.AttrChannelNumber, uint32(s.peer.channel)<<16)
		b.XORAddress(stun.AttrXORPeerAddress, s.peer.addr)
	default:
		panic("BUG: client: a request without a method")
	}
}

// tickTransactions sends again what is due and gives up on what has waited long enough.
func (c *core) tickTransactions(now time.Time) {
	// A copy: what gives up may begin another one.
	for _, t := range append([]*transaction(nil), c.txs...) {
		if c.phase == ended {
			return
		}
		if t.at.After(now) {
			continue
		}
		if c.p.stream || t.sends == maxSends {
			err := ErrTimeout
			if t.distrusted {
				err = ErrIntegrity
			}
			c.remove(t)
			c.failed(now, t, fmt.Errorf("%s: %w", methodName(t.method), err))
			continue
		}
		t.sends++
		t.wait *= 2
		if t.sends == maxSends {
			t.wait = lastWait
		}
		// From the time it was due, so that a late tick does not stretch the schedule.
		if t.at = t.at.Add(t.wait); !t.at.After(now) {
			t.at = now.Add(t.wait)
		}
		c.send(now, t.raw)
	}
}

func (c *core) remove(t *transaction) {
	for i := range c.txs {
		if c.txs[i] == t {
			c.txs = append(c.txs[:i], c.txs[i+1:]...)
			return
		}
	}
}

func (c *core) find(m stun.Message) *transaction {
	id := m.TransactionID()
	for _, t := range c.txs {
		if t.id == id && t.method == m.Method() {
			return t
		}
	}
	return nil
}

// response takes an answer. A drop leaves the transaction as if nothing had come.
func (c *core) response(now time.Time, m stun.Message) Drop {
	t := c.find(m)
	if t == nil {
		return DropUnasked
	}
	signed := false
	if t.nonce != "" {
		signed = c.auth.check(m)
		if !signed && !(m.Class() == stun.Error && mayBeUnsigned(m)) {
			t.distrusted = true
			return DropIntegrity
		}
	}
	// RFC 5389 §7.3.3: an answer with unknown comprehension-required attributes fails the transaction. §7.3.4 says the
	// same of error responses, but what such an error says is worth more to the caller than what it adds.
	if m.Class() == stun.Success {
		var list [maxUnknown]stun.AttrType
		if unknown := m.UnknownRequired(list[:0], clientKnows); len(unknown) > 0 {
			c.remove(t)
			c.failed(now, t, fmt.Errorf("%s: %w: its success has the attributes %#04x, which nobody here understands",
				methodName(t.method), ErrProtocol, unknown))
			return 0
		}
		c.remove(t)
		c.succeeded(now, t, m)
		return 0
	}
	e, ok := newError(m, signed)
	if !ok {
		return DropMalformed
	}
	c.remove(t)
	c.refused(now, t, m, e)
	return 0
}

// mayBeUnsigned lists the errors a server sends before it knows with what key to sign (RFC 8489 §9.2.4).
func mayBeUnsigned(m stun.Message) bool {
	code, _, _ := m.ErrorCode()
	switch code {
	case stun.CodeBadRequest, stun.CodeUnauthenticated, stun.CodeUnknownAttribute, stun.CodeStaleNonce:
		return true
	}
	return false
}

// clientKnows lists the comprehension-required attributes that an answer may carry. 0x0010 is BANDWIDTH of draft-07.
func clientKnows(t stun.AttrType) bool {
	switch t {
	case stun.AttrMappedAddress, stun.AttrUsername, stun.AttrMessageIntegrity, stun.AttrErrorCode, stun.AttrUnknownAttributes,
		stun.AttrChannelNumber, stun.AttrLifetime, stun.AttrBandwidth, stun.AttrXORPeerAddress, stun.AttrData, stun.AttrRealm,
		stun.AttrNonce, stun.AttrXORRelayedAddress, stun.AttrRequestedFamily, stun.AttrEvenPort, stun.AttrRequestedTransport,
		stun.AttrXORMappedAddress, stun.AttrReservationToken:
		return true
	}
	return false
}

// refused handles an error response (§6.3, §7).
func (c *core) refused(now time.Time, t *transaction, m stun.Message, e *Error) {
	switch e.Code {
	case stun.CodeUnauthenticated, stun.CodeStaleNonce, stun.CodeWrongCredentials:
		again, cause := c.auth.challenge(t, m, e.Code)
		if again && t.tries < maxTries {
			t.tries++
			c.txs = append(c.txs, t)
			c.begin(now, t)
			return
		}
		if again {
			cause = ErrCredentials
		}
		e.cause = cause
	case stun.CodeAllocationMismatch:
		if t.method != stun.Allocate {
			c.lose(e) // §5: no allocation, whatever was asked
			return
		}
	case stun.CodeInsufficientPorts:
		if t.method == stun.Allocate && (c.p.evenPort || c.p.reserve || c.p.token != nil) {
			// §6.3: the wish is what cannot be met, so ask without it, at once.
			c.p.evenPort, c.p.reserve, c.p.token = false, false, nil
			c.txs = append(c.txs, t)
			c.begin(now, t)
			return
		}
	}
	c.failed(now, t, e)
}

// succeeded hands a success to the chapter it belongs to.
func (c *core) succeeded(now time.Time, t *transaction, m stun.Message) {
	switch t.method {
	case stun.Allocate:
		c.allocateDone(now, t, m)
	case stun.Refresh:
		c.refreshDone(now, t, m)
	case stun.CreatePermission:
		c.permitted(now, t)
	case stun.ChannelBind:
		c.bound(now, t)
	}
}

// failed hands a failure to the chapter it belongs to.
func (c *core) failed(now time.Time, t *transaction, err error) {
	switch t.method {
	case stun.Allocate:
		c.lose(err)
	case stun.Refresh:
		c.refreshFailed(now, t, err)
	case stun.CreatePermission:
		c.permissionFailed(now, t, err)
	case stun.ChannelBind:
		c.bindFailed(now, t, err)
	}
}

// answered reports whether err is an answer of the server, in contrast to silence.
func answered(err error) (*Error, bool) {
	var e *Error
	return e, errors.As(err, &e)
}
