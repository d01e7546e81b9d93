package client

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/stilenet/stile/stun"
)

// What a caller may test with errors.Is.
var (
	// ErrTimeout: the server did not answer within 39.5 s. Another transport or server may.
	ErrTimeout = errors.New("the server does not answer")
	// ErrCredentialsWanted: the server answers 401 and Config.Username is empty.
	ErrCredentialsWanted = errors.New("the server asks for credentials: set Config.Username and Config.Password")
	// ErrCredentials: the server refuses Config.Username or Config.Password (401 to a signed request, 438, 441).
	ErrCredentials = errors.New("the server refuses the credentials")
	// ErrIntegrity: the only answers were not signed with the password, so they do not count.
	ErrIntegrity = errors.New("the server's answers are not signed with the password")
	// ErrMismatch: 437 from three local ports. Each is unusable for two minutes (draft-08 §5).
	ErrMismatch = errors.New("allocation mismatch from three local ports: try again in 2 minutes")
	// ErrQuota: 486, this user or address has too many allocations. Try again in a minute or later.
	ErrQuota = errors.New("the server's allocation quota is reached")
	// ErrCapacity: 508, the server has no port to give. Try again in a minute or later.
	ErrCapacity = errors.New("the server has no port to give")
	// ErrForbidden: 403, a rule of the server forbids this peer or this client.
	ErrForbidden = errors.New("the server forbids it")
	// ErrAllocationLost: the relayed address is no longer ours. Only a new Dial helps; it gets another address.
	ErrAllocationLost = errors.New("the allocation is lost")
	// ErrProtocol: the server said something that it must not say.
	ErrProtocol = errors.New("the server breaks the protocol")
	// ErrTLS: a turns: server was asked for.
	ErrTLS = errors.New("turns: TURN over TLS is not built: use turn:")
	// ErrPeer: the address given is none that a datagram can be sent to, or of another family than the relayed address.
	ErrPeer = errors.New("not a peer that this relayed address can reach")
	// ErrTooLarge: the payload is longer than MaxPayload.
	ErrTooLarge = errors.New("the payload is too large")
	// ErrPermissions: Permit holds as many addresses as a Conn keeps.
	ErrPermissions = errors.New("too many peers are permitted")
)

// Error is an error response of the server. errors.Is finds ErrQuota, ErrCapacity, ErrForbidden, ErrCredentials and
// ErrCredentialsWanted in it.
type Error struct {
	Method     stun.Method
	Code       int
	Reason     string          // the server's words, at most 128 bytes, unprintable ones replaced
	Unknown    []stun.AttrType // with 420: what the server does not understand
	RetryAfter time.Duration   // how long to wait before the same is asked again; 0: asking again is of no use
	Alternate  netip.AddrPort  // ALTERNATE-SERVER, only if the answer was signed with the password
	cause      error
}

// Error is the server's code and words, with what they mean to the caller.
func (e *Error) Error() string {
	s := fmt.Sprintf("%s: the server answers %d %q", methodName(e.Method), e.Code, e.Reason)
	if len(e.Unknown) > 0 {
		s += fmt.Sprintf(", it does not understand %#04x", e.Unknown)
	}
	if e.cause != nil {
		s += ": " + e.cause.Error()
	}
	return s
}

// Unwrap is the sentinel of this package that the code stands for, or nil.
func (e *Error) Unwrap() error { return e.cause }

func methodName(m stun.Method) string {
	switch m {
	case stun.Allocate:
		return "allocate"
	case stun.Refresh:
		return "refresh"
	case stun.CreatePermission:
		return "create permission"
	case stun.ChannelBind:
		return "channel bind"
	}
	return fmt.Sprintf("method %#03x", uint16(m))
}

// newError reads ERROR-CODE. It reports false when there is none that makes sense.
func newError(m stun.Message, signed bool) (*Error, bool) {
	code, reason, ok := m.ErrorCode()
	if !ok {
		return nil, false
	}
	e := &Error{Method: m.Method(), Code: code, Reason: printable(reason)}
	switch code {
	case stun.CodeForbidden:
		e.cause = ErrForbidden
	case stun.CodeQuotaReached:
		e.cause, e.RetryAfter = ErrQuota, retryAfter
	case stun.CodeInsufficientPorts:
		e.cause, e.RetryAfter = ErrCapacity, retryAfter
	case stun.CodeAllocationMismatch:
		if e.Method == stun.Allocate {
			e.RetryAfter = quarantine
		}
	case stun.CodeServerError:
		e.RetryAfter = retryAfter
	case stun.CodeUnknownAttribute:
		list, _ := m.Get(stun.AttrUnknownAttributes)
		for ; len(list) >= 2 && len(e.Unknown) < maxUnknown; list = list[2:] {
			e.Unknown = append(e.Unknown, stun.AttrType(list[0])<<8|stun.AttrType(list[1]))
		}
	}
	if v, ok := m.Get(stun.AttrAlternateServer); ok && signed {
		e.Alternate, _ = stun.Address(v)
	}
	return e, true
}

// printable makes the server's words fit for a log line.
func printable(b []byte) string {
	out := make([]rune, 0, min(len(b), maxReason))
	for _, r := range string(b[:min(len(b), maxReason)]) {
		if r < ' ' || r == 0x7F || r == '\uFFFD' || r >= 0x80 && r < 0xA0 {
			r = '.'
		}
		out = append(out, r)
	}
	return string(out)
}
