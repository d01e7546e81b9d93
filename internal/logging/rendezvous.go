package logging

import (
	"time"

	"github.com/rs/zerolog"

	"github.com/stilenet/stile/rendezvous"
)

func (e *Events) writeRendezvous(v *rendezvous.Event) {
	log := &e.log.bare
	var l *zerolog.Event
	message := ""
	switch v.Kind {
	case rendezvous.EventConnected:
		l, message = rtmfpSession(log.Debug(), &v.Session), "client connected"
	case rendezvous.EventEnded:
		s := &v.Session
		l = rtmfpSession(log.Info(), s).Uint32(FieldIntroduced, s.Introduced).Uint32(FieldAsked, s.Asked).
			Float64(FieldDuration, v.At.Sub(s.Opened).Round(time.Millisecond).Seconds()).Stringer(FieldReason, v.Reason)
		message = "client disconnected"
	case rendezvous.EventRefused:
		l = log.Info()
		if v.Session.ID != 0 {
			l = rtmfpSession(l, &v.Session)
		} else {
			l.Stringer(FieldClient, v.Client)
		}
		l.Stringer(FieldReason, v.Refusal).Uint64(FieldCount, v.Count)
		if r := refusalRemedy(v.Refusal); r != "" {
			l.Str(FieldRemedy, r)
		}
		message = "client of the rendezvous refused"
	case rendezvous.EventMixed:
		l = rtmfpSession(log.Warn(), &v.Session).
			Str(FieldRemedy, "let all clients reach the rendezvous by its public address, or those inside through the TURN proxy: outsiders cannot use private addresses")
		message = "the rendezvous sees some clients by private and others by public addresses"
	default:
		return
	}
	stamp(l, v.At)
	l.Msg(message)
}

// rtmfpSession adds who it is.
func rtmfpSession(l *zerolog.Event, s *rendezvous.Session) *zerolog.Event {
	l.Stringer(FieldSession, s.ID).Stringer(FieldClient, s.Client).Stringer(FieldPeerID, s.Peer)
	if s.Key != "" {
		l.Str(FieldKey, s.Key)
	}
	return l
}

// refusalRemedy says what an administrator can do about a refusal; nothing where it is as it should be.
func refusalRemedy(r rendezvous.Refusal) string {
	switch r {
	case rendezvous.RefusedKeyMissing, rendezvous.RefusedKeyUnknown:
		return "make a key with `stile keys add` for the application, or set rendezvous.keys.required: false"
	case rendezvous.RefusedKeyExpired:
		return "make a new key with `stile keys add` if the application may go on"
	case rendezvous.RefusedKeyFull:
		return "make a key with a larger quota with `stile keys add --sessions` if the application may have more"
	case rendezvous.RefusedPerAddress:
		return "raise rendezvous.limits.per_address if the address is a NAT's with many clients"
	case rendezvous.RefusedHandshakeRate:
		return "raise rendezvous.limits.handshakes_per_prefix if the clients are yours"
	}
	return ""
}
