package rtmfp

import "time"

// rtt measures the round-trip time and derives the retransmission timeout by the timestamps of packets (§3.5.2.2).
type rtt struct {
	rxTime       instant // TS_RX_TIME
	srtt, rttvar time.Duration
	mrto, erto   time.Duration
	rx           uint16 // TS_RX
	echoTX       uint16 // TS_ECHO_TX
	echoRX       uint16 // TS_ECHO_RX
	hasRX        bool
	hasEchoTX    bool
	hasEchoRX    bool
}

func newRTT() rtt {
	return rtt{rxTime: longAgo, srtt: -1, mrto: ertoMin, erto: ertoInit}
}

// sendHeader sets the timestamps of a packet.
//
// Deviation: §3.5.2.2 sends a timestamp only if it differs from the last. Servers of the Flash era take a packet without
// one for invalid; a repeated timestamp tells an RFC 7016 receiver nothing new and does no harm.
func (s *Session) sendHeader(h *Header) {
	h.TimestampPresent, h.Timestamp = true, s.e.ticks()
	r := &s.rtt
	if !r.hasRX {
		return
	}
	elapsed := s.e.now.sub(r.rxTime)
	if elapsed > echoLifetime {
		r.hasRX, r.hasEchoTX = false, false
		return
	}
	if echo := r.rx + uint16(elapsed/Tick); !r.hasEchoTX || echo != r.echoTX {
		r.echoTX, r.hasEchoTX = echo, true
		h.TimestampEchoPresent, h.TimestampEcho = true, echo
	}
}

// receiveHeader takes the timestamps and the time critical notifications of a packet.
func (s *Session) receiveHeader(h Header) {
	e, r := s.e, &s.rtt
	if h.TimestampPresent && (!r.hasRX || h.Timestamp != r.rx) {
		r.rx, r.hasRX, r.rxTime = h.Timestamp, true, e.now
	}
	if h.TimestampEchoPresent && (!r.hasEchoRX || h.TimestampEcho != r.echoRX) {
		r.echoRX, r.hasEchoRX = h.TimestampEcho, true
		if ticks := e.ticks() - h.TimestampEcho; ticks <= 32767 {
			r.measure(time.Duration(ticks) * Tick)
		}
	}
	if h.TimeCritical {
		if e.tcSession != s {
			e.tcSession, e.tcReceived2 = s, e.tcReceived
		}
		e.tcReceived = e.now
	}
	if h.TimeCriticalReverse && s.transfer != nil {
		s.transfer.tcrReceived = e.now
	}
}

// receivingTimeCriticalElsewhere says whether a packet to s carries the Time Critical Reverse Notification (§2.2.4).
func (e *Endpoint) receivingTimeCriticalElsewhere(s *Session) bool {
	last := e.tcReceived
	if e.tcSession == s {
		last = e.tcReceived2
	}
	return e.now.sub(last) <= timeCriticalLifetime
}

func (r *rtt) measure(d time.Duration) {
	if r.srtt >= 0 {
		r.rttvar = (3*r.rttvar + (r.srtt - d).Abs()) / 4
		r.srtt = (7*r.srtt + d) / 8
	} else {
		r.srtt, r.rttvar = d, d/2
	}
	r.mrto = r.srtt + 4*r.rttvar + 200*time.Millisecond
	r.erto = max(r.mrto, ertoMin)
}

// backoff lengthens the timeout after one (§3.5.2.2).
func (r *rtt) backoff() {
	r.erto = max(min(r.erto*14142/10000, ertoCap), r.mrto)
}
