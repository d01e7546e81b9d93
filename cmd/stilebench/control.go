package main

import (
	"crypto/rand"
	"fmt"
	"net/netip"

	"github.com/stilenet/stile/stun"
)

// Mode is how data is wrapped between client and server.
type Mode string

// Modes.
const (
	Channel    Mode = "channel"    // ChannelData
	Indication Mode = "indication" // Send and Data
)

// credentials are long-term ones (RFC 8489 §9.2); the zero value is none, as draft-08 allows.
type credentials struct{ user, password string }

// step is where an allocation is on its way.
type step uint8

const (
	stepIdle step = iota
	stepAllocate
	stepBind    // ChannelBind
	stepPermit  // CreatePermission: indications with credentials, where Send alone permits nothing
	stepRelease // Refresh with lifetime 0
	stepReady
	stepFailed
)

// allocation is one client's state. It decides what to send next; sockets and clocks are its session's.
type allocation struct {
	peer    netip.AddrPort
	relay   netip.AddrPort
	channel uint16
	step    step
	id      stun.TransactionID
	nonce   []byte
	realm   []byte
	retried bool // with this nonce
	tries   int
	sentAt  int64 // ns
	err     string
	up      *frame
	down    *frame
	lastSeq [2]uint32 // received, up and down
	nextSeq [2]uint32
	primed  [2]bool
}

// request appends the request of the current step.
func (a *allocation) request(out []byte, cred credentials) []byte {
	method := map[step]stun.Method{stepAllocate: stun.Allocate, stepBind: stun.ChannelBind,
		stepPermit: stun.CreatePermission, stepRelease: stun.Refresh}[a.step]
	b := stun.Begin(out, stun.NewType(method, stun.Request), a.id)
	switch a.step {
	case stepAllocate:
		b.Attr(stun.AttrRequestedTransport, []byte{17, 0, 0, 0})
		b.Uint32(stun.AttrLifetime, allocationLifetime)
	case stepBind:
		b.Uint32(stun.AttrChannelNumber, uint32(a.channel)<<16)
		b.XORAddress(stun.AttrXORPeerAddress, a.peer)
	case stepPermit:
		b.XORAddress(stun.AttrXORPeerAddress, a.peer)
	case stepRelease:
		b.Uint32(stun.AttrLifetime, 0)
	}
	if a.nonce != nil {
		b.String(stun.AttrUsername, cred.user)
		b.Attr(stun.AttrRealm, a.realm)
		b.Attr(stun.AttrNonce, a.nonce)
		b.Integrity(stun.NewMac(stun.LongTermKey(cred.user, string(a.realm), cred.password)))
	}
	return b.Bytes()
}

// allocationLifetime is in seconds: longer than a comparison, so that no Refresh is needed.
const allocationLifetime = 3600

// begin starts a step with a fresh transaction.
func (a *allocation) begin(s step) {
	a.step, a.tries, a.retried = s, 0, false
	a.newTransaction()
}

func (a *allocation) newTransaction() { _, _ = rand.Read(a.id[:]) }

// response takes a message from the server and reports whether it ended the transaction. Then step says what follows.
func (a *allocation) response(m stun.Message, mode Mode, cred credentials) bool {
	if m.TransactionID() != a.id || a.step == stepIdle || a.step == stepReady || a.step == stepFailed {
		return false
	}
	switch m.Class() {
	case stun.Success:
		switch a.step {
		case stepAllocate:
			relay, ok := m.GetXORAddress(stun.AttrXORRelayedAddress)
			if !ok {
				a.fail("Allocate: a success without RELAY-ADDRESS")
				return true
			}
			a.relay = relay
			switch {
			case mode == Channel:
				a.begin(stepBind)
			case a.nonce != nil:
				a.begin(stepPermit)
			default:
				a.step = stepReady
			}
		case stepRelease:
			a.step = stepIdle
		default:
			a.step = stepReady
		}
		return true
	case stun.Error:
		code, reason, _ := m.ErrorCode()
		if a.step == stepRelease && code == stun.CodeAllocationMismatch {
			a.step = stepIdle // gone already
			return true
		}
		nonce, hasNonce := m.Get(stun.AttrNonce)
		if (code == stun.CodeUnauthenticated || code == stun.CodeStaleNonce) && cred.user != "" && hasNonce && !a.retried {
			a.nonce = append([]byte(nil), nonce...)
			if realm, ok := m.Get(stun.AttrRealm); ok {
				a.realm = append([]byte(nil), realm...)
			}
			a.retried = true
			a.newTransaction()
			return true
		}
		a.fail(fmt.Sprintf("%v: %d %s", stepNames[a.step], code, reason))
		return true
	}
	return false
}

// waiting reports whether an answer is due.
func (a *allocation) waiting() bool {
	return a.step == stepAllocate || a.step == stepBind || a.step == stepPermit || a.step == stepRelease
}

func (a *allocation) fail(why string) { a.step, a.err = stepFailed, why }

var stepNames = map[step]string{stepAllocate: "Allocate", stepBind: "ChannelBind", stepPermit: "CreatePermission", stepRelease: "Refresh"}

// wrap appends a payload as this client sends it to its peer.
func (a *allocation) wrap(out []byte, mode Mode, payload []byte) []byte {
	if mode == Channel {
		out = append(out, byte(a.channel>>8), byte(a.channel), byte(len(payload)>>8), byte(len(payload)))
		return append(out, payload...)
	}
	var id stun.TransactionID
	_, _ = rand.Read(id[:])
	b := stun.Begin(out, stun.NewType(stun.Send, stun.Indication), id)
	b.XORAddress(stun.AttrXORPeerAddress, a.peer)
	b.Attr(stun.AttrData, payload)
	return b.Bytes()
}

// offset is where the peer's payload begins in what wrap made.
func (a *allocation) offset(mode Mode) int {
	switch {
	case mode == Channel:
		return 4
	case a.peer.Addr().Is4():
		return stun.HeaderSize + 12 + 4 // PEER-ADDRESS, the head of DATA
	}
	return stun.HeaderSize + 24 + 4
}

// unwrap finds the peer's payload in what a client received. head may be cut off; size is what the datagram had.
// It returns the payload's beginning and its whole size, and false when the datagram is no data.
func unwrap(head []byte, size int) ([]byte, int, bool) {
	if len(head) < 4 {
		return nil, 0, false
	}
	if head[0]&0xC0 == 0x40 {
		n := int(head[2])<<8 | int(head[3])
		return head[4:], n, n <= size-4
	}
	if !stun.IsMessage(head) || stun.Type(uint16(head[0])<<8|uint16(head[1])) != stun.NewType(stun.Data, stun.Indication) {
		return nil, 0, false
	}
	for b := head[stun.HeaderSize:]; len(b) >= 4; {
		n := int(b[2])<<8 | int(b[3])
		if stun.AttrType(uint16(b[0])<<8|uint16(b[1])) == stun.AttrData {
			return b[4:min(len(b), 4+n)], n, true
		}
		b = b[min(len(b), 4+(n+3)&^3):]
	}
	return nil, 0, false
}
