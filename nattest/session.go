package nattest

import (
	"fmt"
	"io"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/stilenet/stile/stun"
)

// Ours to tune.
const (
	firstGap      = 40 * time.Millisecond  // between rounds before anything has answered; it grows by half each time
	longestGap    = 500 * time.Millisecond //
	shortestGap   = 25 * time.Millisecond  // between rounds once the round trip is known: a quarter of it, within these
	slowGap       = 200 * time.Millisecond //
	portsAfter    = 350 * time.Millisecond // of silence, other ports are tried
	graceTime     = 60 * time.Millisecond  // on top of the longest round trip, before an attempt counts as lost
	tickTime      = 25 * time.Millisecond  // at the latest the session wants to be asked again
	longRoundTrip = 500 * time.Millisecond // above it LongTimeout is the limit
	// controlsAtOnce go out with each round while filtering is open.
	controlsAtOnce = 4
	floodLimit     = 512 // datagrams on one socket
	keptReplies    = 8   // of one probe
	fewAttempts    = 4   // silent ones on one filtering probe before the other one is looked at alone
)

// session carries out a plan. It takes datagrams and the time, and leaves datagrams to send in out. It performs no I/O and
// reads no clock. It is not safe for concurrent use: Run's loop is its only caller.
type session struct {
	budget  int
	timeout time.Duration // 0: by the round trip
	rand    io.Reader

	servers []ServerSeen
	server  int            // index of the one that is asked about filtering
	primary netip.AddrPort // of that one
	other   netip.AddrPort // its OTHER-ADDRESS, unset if there is none to be used
	relay   netip.AddrPort // unset while there is none
	dialing bool           // a relay is being allocated

	probes []*probe
	byName map[string]*probe
	byID   map[stun.TransactionID]*attempt
	seen   map[int]int // datagrams by socket

	begin    time.Time
	next     time.Time // round
	gap      time.Duration
	replied  bool
	shortest time.Duration // round trips
	longest  time.Duration
	sent     int  // packets
	order    int  // of attempts
	turn     int  // of the controls
	idle     bool // the last round had nothing to send, or nothing to send it with
	strange  Strange
	out      []outgoing
}

// relaySocket is the number of the relay among the sockets.
const relaySocket = -1

// outgoing is a datagram to send.
type outgoing struct {
	socket int
	to     netip.AddrPort
	bytes  []byte
}

// probe is a Probe with what became of it.
type probe struct {
	Probe
	to, expect netip.AddrPort
	attempts   []*attempt
	replies    []Reply
	answered   int
	code       int  // of an error response
	ignored    int  // replies from the address of the request in spite of CHANGE-REQUEST
	silent     bool // judged, by these controls
	controls   int
	lost       int
}

type attempt struct {
	probe    *probe
	at       time.Time
	order    int
	answered bool
}

func newSession(plan Plan, servers []ServerSeen, budget int, timeout time.Duration, rand io.Reader) *session {
	s := &session{budget: budget, timeout: timeout, rand: rand, servers: servers, byName: make(map[string]*probe),
		byID: make(map[stun.TransactionID]*attempt), seen: make(map[int]int), gap: firstGap}
	for i := range servers {
		if servers[i].Addr.IsValid() {
			s.server, s.primary = i, servers[i].Addr
			break
		}
	}
	for _, p := range plan.Probes {
		s.add(p)
	}
	return s
}

func (s *session) add(p Probe) {
	x := &probe{Probe: p}
	s.probes = append(s.probes, x)
	s.byName[p.Name] = x
}

// start sends the first round.
func (s *session) start(now time.Time) {
	s.begin, s.next = now, now
	s.tick(now)
}

// place is the endpoint of a place, invalid while it is not known.
func (s *session) place(p *probe, at Place) netip.AddrPort {
	switch at {
	case Primary:
		return s.primary
	case Other:
		return s.other
	case OtherPort:
		if s.other.IsValid() {
			return netip.AddrPortFrom(s.primary.Addr(), s.other.Port())
		}
		for _, x := range s.probes { // a server with one address: the port that answered is the one it has
			if x.Role == RolePort && x.answered > 0 && x.to.Addr() == s.primary.Addr() && x.to != s.primary {
				return x.to
			}
		}
	case OtherAddr:
		if s.other.IsValid() {
			return netip.AddrPortFrom(s.other.Addr(), s.primary.Port())
		}
	case Fixed:
		if p.At.IsValid() {
			return p.At
		}
		addr := s.servers[p.Server].Addr
		if p.Port != 0 {
			addr = netip.AddrPortFrom(s.primary.Addr(), p.Port)
		}
		return addr
	case Relayed:
		return s.relay
	}
	return netip.AddrPort{}
}

// changes reports whether the reply is to come from elsewhere than the request went to.
func (p *probe) changes() bool { return p.From != p.To }

// refused reports whether the server said or showed that it does not do this.
func (p *probe) refused() bool { return p.code != 0 || p.ignored > 0 }

// settled reports whether nothing more is to be learnt from a probe.
func (s *session) settled(now time.Time, p *probe) bool {
	if p.answered > 0 || p.silent || p.refused() {
		return true
	}
	return p.Most > 0 && len(p.attempts) >= p.Most && s.aged(now, p.attempts[len(p.attempts)-1])
}

// aged reports whether an attempt has had the time to be answered.
func (s *session) aged(now time.Time, a *attempt) bool {
	return s.replied && now.Sub(a.at) >= s.patience()
}

func (s *session) patience() time.Duration { return s.longest + s.longest/4 + graceTime }

// lost counts the attempts of the controls that had the time to be answered, and those that were not.
// Mapping probes count too, as soon as their destination has answered once.
func (s *session) lost(now time.Time) (count, lost, flying int) {
	for _, p := range s.probes {
		counts := p.Role == RoleControl || p.Name == "map-primary" || (p.answered > 0 && p.Role.controls())
		if !counts {
			continue
		}
		for _, a := range p.attempts {
			switch {
			case a.answered:
				count++
			case s.aged(now, a):
				count++
				lost++
			default:
				flying++
			}
		}
	}
	return count, lost, flying
}

// lossless reports whether nothing was lost so far.
func (s *session) lossless(now time.Time) bool {
	_, f, _ := s.lost(now)
	return f == 0
}

// controls reports whether the losses of a role's probes are the path's, once one has been answered.
func (r Role) controls() bool {
	switch r {
	case RoleControl, RoleMapping, RoleFiltering, RoleDelivery, RoleReturn:
		return true
	}
	return false
}

// judge marks the probes whose silence is none of the network's. It looks only when all attempts have had their time, so that
// the numbers stay what they are.
func (s *session) judge(now time.Time) {
	for _, p := range s.probes {
		last := len(p.attempts) - 1
		if (p.Role != RoleFiltering && p.Role != RoleFragment && p.Role != RoleRelayFiltering) || p.answered > 0 || p.silent ||
			last < 0 || !s.aged(now, p.attempts[last]) {
			continue
		}
		k, f, _ := s.lost(now)
		p.controls, p.lost = k, f
		if p.Role == RoleFragment {
			p.silent = silenceInPieces(len(p.attempts), k, f) <= falseSilence
		} else {
			p.silent = silence(len(p.attempts), k, f) <= falseSilence
		}
	}
}

// enough reports whether the attempts that were sent will be enough to judge a probe, if the loss stays what it is.
func (s *session) enough(now time.Time, p *probe) bool {
	k, f := s.projected(now)
	if p.Role == RoleFragment {
		return silenceInPieces(len(p.attempts), k, f) <= enoughSilence
	}
	return silence(len(p.attempts), k, f) <= enoughSilence
}

// projected is what lost will count when everything has had its time, if the loss stays what it is.
func (s *session) projected(now time.Time) (count, lost int) {
	k, f, flying := s.lost(now)
	if k > 0 {
		f += (flying*f + k - 1) / k
	}
	return k + flying, min(f, k+flying)
}

// wanted reports whether a filtering probe is to be tried on. If the port makes no difference, the address decides; if it
// does, nothing else matters.
func (s *session) wanted(now time.Time, p *probe) bool {
	if p.Role == RoleRelayFiltering {
		_, ok := s.external(p)
		return ok && s.relay.IsValid() && !s.settled(now, p)
	}
	both, port := s.byName["filter-both"], s.byName["filter-port"]
	if s.settled(now, p) || both.answered > 0 {
		return false
	}
	if p == both && len(both.attempts) >= fewAttempts {
		return port.answered > 0 || port.refused()
	}
	return true
}

// ready reports whether a probe other than those of filtering and control may be sent now.
func (s *session) ready(now time.Time, p *probe) bool {
	p.to, p.expect = s.place(p, p.To), s.place(p, p.From)
	if !p.to.IsValid() || s.settled(now, p) || (p.Most > 0 && len(p.attempts) >= p.Most) {
		return false
	}
	both, port := s.byName["filter-both"], s.byName["filter-port"]
	switch p.Role {
	case RoleMapping:
		return p.expect.IsValid()
	case RolePort:
		if p.Port == s.primary.Port() || s.other.IsValid() {
			return false
		}
		return s.byName["map-primary"].answered > 0 || now.Sub(s.begin) >= portsAfter
	case RoleDelivery:
		test := both
		if p.From == OtherPort {
			test = port
		} else if port.silent { // then the address does not matter
			return false
		}
		if !p.expect.IsValid() || test.answered > 0 || test.refused() || !s.expects(p) {
			return false
		}
		if !p.Aside { // only where the server does not know RESPONSE-PORT
			return s.byName[directOf[p.Name]].code != 0
		}
		_, ok := s.sender(p)
		return ok
	case RoleReturn: // it opens the filter: no answer of filter-both may be on its way
		if last := len(both.attempts) - 1; both.answered == 0 && last >= 0 && !s.aged(now, both.attempts[last]) {
			return false
		}
		return p.expect.IsValid() && !both.refused() && (both.answered > 0 || (both.silent || port.silent) && len(both.attempts) >= fewAttempts) &&
			s.replied
	case RoleRelayMapping: // a relay lets nobody in that it was not told to send to
		f := s.byName["relay-filter"]
		return len(f.attempts) > 0 && now.Sub(f.attempts[0].at) >= s.shortest
	case RoleRelayDelivery:
		_, ok := s.external(p)
		return ok && s.byName["relay-filter"].answered == 0
	case RoleMTU: // the answer is longer than the request: where fragments are dropped it says nothing
		return s.byName["fragment"].answered > 0 && !s.wanted(now, both) && !s.wanted(now, port) && s.sent+1 <= s.budget-s.reserve(now)
	case RoleFragment:
		return s.replied && s.sent+2 <= s.budget-s.reserve(now) &&
			(len(p.attempts) == 0 && s.lossless(now) || !s.wanted(now, both) && !s.wanted(now, port) && !s.enough(now, p))
	}
	return true
}

// directOf names the delivery probe that each plain one stands in for.
var directOf = map[string]string{"deliver-port-plain": "deliver-port", "deliver-both-plain": "deliver-both"}

// expects reports whether the endpoint that a delivery comes from has answered, so that it is there and the filter is open.
func (s *session) expects(p *probe) bool {
	_, ok := s.opened(p.expect)
	return ok
}

// opened is the external endpoint of the mapping socket towards a destination that has answered it.
func (s *session) opened(at netip.AddrPort) (netip.AddrPort, bool) {
	for _, x := range s.probes {
		if x.Socket == socketMapping && !x.changes() && x.to == at && len(x.replies) > 0 {
			return x.replies[0].Mapped, true
		}
	}
	return netip.AddrPort{}, false
}

// external is the endpoint to which a relay's packet must go to reach the socket of a probe: as the server saw it, or as the
// relay itself did.
func (s *session) external(p *probe) (netip.AddrPort, bool) {
	from := s.byName["relay-open"]
	if p.Role == RoleRelayDelivery {
		from = s.byName["relay-map"]
	}
	if len(from.replies) == 0 {
		return netip.AddrPort{}, false
	}
	return from.replies[0].Mapped, true
}

// wantsRelay reports whether a relay would tell what the server cannot.
func (s *session) wantsRelay() bool {
	return s.byName["relay-map"] != nil && s.byName["map-primary"].answered > 0 && !s.other.IsValid()
}

// sender is a socket that is seen with the address which a delivery is to go to: RESPONSE-PORT changes the port only.
func (s *session) sender(p *probe) (socket int, ok bool) {
	into, ok := s.opened(p.expect)
	if !ok {
		return 0, false
	}
	for i := range s.probes {
		x := s.probes[(i+len(p.attempts))%len(s.probes)] // another one for each attempt
		if !x.changes() && x.to == s.primary && len(x.replies) > 0 && x.replies[0].Mapped.Addr() == into.Addr() &&
			(x.Role == RoleControl || x.Role == RoleMapping) {
			return x.Socket, true
		}
	}
	return 0, false
}

// reserve is how many packets filtering and controls leave for the rest.
func (s *session) reserve(now time.Time) int {
	n := 0
	for _, p := range s.probes {
		if p.Role != RoleMapping && p.Role != RoleReturn && p.Role != RoleRelayMapping && !(p.Role == RoleDelivery && p.Aside) || s.settled(now, p) {
			continue
		}
		if answered := s.byName["filter-port"].answered > 0; p.Role == RoleDelivery && (p.From == OtherPort) == answered {
			continue // proves what is not in question
		}
		if p.Role == RoleMapping && p.To == Fixed || !s.replied || s.place(p, p.To).IsValid() {
			n += 2
		}
	}
	return n
}

// tick sends what is due and says when to ask again, at the latest.
func (s *session) tick(now time.Time) time.Time {
	s.rebase(now)
	s.judge(now)
	s.urgent(now)
	if !now.Before(s.next) {
		s.round(now)
	}
	at := now.Add(tickTime)
	if s.next.Before(at) {
		at = s.next
	}
	if d := s.deadline(); d.Before(at) {
		at = d
	}
	return at
}

// asks reports whether a probe wants one answer and no more.
func (s *session) asks(p *probe) bool {
	return p.Role != RoleFiltering && p.Role != RoleRelayFiltering && (p.Role != RoleControl || p.Name == "relay-open" && s.relay.IsValid())
}

// urgent sends the first attempts of probes that have become possible.
func (s *session) urgent(now time.Time) {
	for _, p := range s.probes {
		if s.asks(p) && len(p.attempts) == 0 && s.ready(now, p) {
			s.send(now, p)
		}
	}
}

// round sends one attempt of everything that is open.
func (s *session) round(now time.Time) {
	before := s.order
	defer func() { s.idle = s.order == before }()
	var tests []*probe
	for _, p := range s.probes {
		if p.Role != RoleFiltering && p.Role != RoleRelayFiltering {
			continue
		}
		p.to, p.expect = s.place(p, p.To), s.place(p, p.From)
		if s.wanted(now, p) && !s.enough(now, p) && (!s.replied && s.sent < s.budget/2 || s.alive()) { // half is for another port
			tests = append(tests, p)
			s.test(now, p)
		}
	}
	if len(tests) > 0 {
		first := s.begin.Equal(now)
		for i := range controlsAtOnce {
			switch {
			case first || len(tests) > 1 && i > 0:
				s.control(now)
			case len(tests) == 1 && s.better(now, tests[0]):
				s.test(now, tests[0])
			case len(tests) == 1:
				s.control(now)
			}
		}
	}
	for _, p := range s.probes {
		if s.asks(p) && s.ready(now, p) && s.retry(now, p) {
			s.send(now, p)
		}
	}
	if s.replied {
		s.gap = min(max(s.shortest/4, shortestGap), slowGap)
		s.next = now.Add(s.gap)
		return
	}
	s.next = now.Add(s.gap)
	s.gap = min(s.gap+s.gap/2, longestGap)
}

// retry reports whether it is time for another attempt.
func (s *session) retry(now time.Time, p *probe) bool {
	if len(p.attempts) == 0 {
		return true
	}
	since := now.Sub(p.attempts[len(p.attempts)-1].at)
	if s.replied {
		return since >= s.shortest+s.shortest/4+shortestGap
	}
	return since >= s.gap
}

// alive reports whether the primary endpoint has answered.
func (s *session) alive() bool {
	return slices.ContainsFunc(s.probes, func(p *probe) bool {
		return p.answered > 0 && (p.Role == RoleControl || p.Name == "map-primary")
	})
}

// test sends an attempt whose silence is to be judged.
func (s *session) test(now time.Time, p *probe) {
	if s.sent < s.budget-s.reserve(now) {
		s.send(now, p)
	}
}

// better reports whether another attempt will bring the judgement nearer than another control, if the loss stays what it is.
func (s *session) better(now time.Time, p *probe) bool {
	k, f := s.projected(now)
	n, rate := len(p.attempts), (float64(f)+0.5)/(float64(k)+1)
	control := (1-rate)*math.Log(silence(n, k+1, f)) + rate*math.Log(silence(n, k+1, f+1))
	return math.Log(silence(n+1, k, f)) < control
}

// control sends from the next control socket.
func (s *session) control(now time.Time) {
	p := s.byName[fmt.Sprintf("control-%d", s.turn%controls+1)]
	s.turn++
	if s.sent < s.budget-s.reserve(now) {
		p.to, p.expect = s.primary, s.primary
		s.send(now, p)
	}
}

// send appends an attempt to out.
func (s *session) send(now time.Time, p *probe) {
	cost := 1
	if p.Role == RoleFragment {
		cost = 2
	}
	if s.sent+cost > s.budget {
		return
	}
	socket := p.Socket
	var id stun.TransactionID
	if _, err := io.ReadFull(s.rand, id[:]); err != nil {
		panic("BUG: nattest: the source of random numbers failed: " + err.Error())
	}
	b := stun.Begin(nil, stun.NewType(stun.Binding, stun.Request), id)
	if p.changes() {
		b.Uint32(stun.AttrChangeRequest, stun.ChangeRequest(p.From == Other || p.From == OtherAddr, p.From == Other || p.From == OtherPort))
	}
	if p.Aside {
		into, _ := s.opened(p.expect)
		socket, _ = s.sender(p)
		b.Uint32(stun.AttrResponsePort, stun.ResponsePort(into.Port()))
	}
	if p.Padding > 0 {
		b.Attr(stun.AttrPadding, make([]byte, p.Padding))
	}
	to := p.to
	if p.Role == RoleRelayFiltering || p.Role == RoleRelayDelivery {
		socket = relaySocket
		to, _ = s.external(p)
	}
	a := &attempt{probe: p, at: now, order: s.order}
	s.order++
	s.sent += cost
	p.attempts = append(p.attempts, a)
	s.byID[id] = a
	s.out = append(s.out, outgoing{socket, to, b.Bytes()})
}

// handle takes a datagram. It reports false if the socket is to be given up.
func (s *session) handle(now time.Time, socket int, from netip.AddrPort, b []byte) bool {
	from = netip.AddrPortFrom(from.Addr().Unmap().WithZone(""), from.Port())
	if s.seen[socket]++; s.seen[socket] > floodLimit {
		s.strange.Flooded++
		return false
	}
	m, err := stun.Parse(b)
	if err != nil || m.Method() != stun.Binding || m.CheckFingerprint() == stun.FingerprintInvalid {
		s.odd(from)
		return true
	}
	a := s.byID[m.TransactionID()]
	if a != nil && m.Class() == stun.Request {
		s.relayed(now, a, socket, from)
		s.tick(now)
		return true
	}
	if a == nil || (m.Class() != stun.Success && m.Class() != stun.Error) {
		s.odd(from)
		return true
	}
	p := a.probe
	arrives := p.Socket
	if p.Aside {
		arrives = socketMapping
	}
	switch {
	case m.Class() == stun.Error:
		if code, _, ok := m.ErrorCode(); ok && from == p.to {
			p.code = code
		} else {
			s.odd(from)
		}
	case a.answered:
		s.strange.Repeated++
	case socket != arrives:
		s.strange.Unexpected++
	case p.Name == "filter-both" && p.answered == 0 && len(s.byName["return-other"].attempts) > 0: // late: the filter is open now
		s.strange.Unexpected++
	case s.fits(p, from):
		s.reply(now, a, from, m)
	case p.changes() && from == p.to:
		p.ignored++
		s.strange.Ignored++
	default:
		s.strange.WrongSource++
	}
	s.tick(now)
	return true
}

// relayed takes one of our own requests, which came through the relay or to it.
func (s *session) relayed(now time.Time, a *attempt, socket int, from netip.AddrPort) {
	p := a.probe
	r := Reply{From: from, RTTms: milliseconds(now.Sub(a.at))}
	switch {
	case a.answered:
		s.strange.Repeated++
		return
	case p.Role == RoleRelayMapping && socket == relaySocket:
		r.From, r.Mapped = s.relay, from
	case (p.Role == RoleRelayFiltering || p.Role == RoleRelayDelivery) && socket == p.Socket && from == s.relay:
		r.Mapped, _ = s.external(p)
	default:
		s.strange.WrongSource++
		return
	}
	a.answered = true
	p.answered++
	p.replies = append(p.replies, r)
}

// odd counts what is no answer.
func (s *session) odd(from netip.AddrPort) {
	for _, x := range s.servers {
		if from.Addr() == x.Addr.Addr() || (s.other.IsValid() && from.Addr() == s.other.Addr()) {
			s.strange.Malformed++
			return
		}
	}
	s.strange.Unexpected++
}

// fits reports whether a reply comes from where it is to come from.
func (s *session) fits(p *probe, from netip.AddrPort) bool {
	expect := s.place(p, p.From)
	if p.changes() && p.From == OtherPort && !s.other.IsValid() { // which one that is the reply says
		return from.Addr() == p.to.Addr() && from.Port() != p.to.Port()
	}
	if !p.changes() {
		expect = p.to
	}
	return from == expect
}

// reply notes an answer.
func (s *session) reply(now time.Time, a *attempt, from netip.AddrPort, m stun.Message) {
	p := a.probe
	mapped, ok := m.GetXORAddress(stun.AttrXORMappedAddress)
	mapped = netip.AddrPortFrom(mapped.Addr().Unmap(), mapped.Port())
	if !ok || mapped.Port() == 0 || mapped.Addr().IsUnspecified() || mapped.Addr().Is4() != p.to.Addr().Is4() {
		s.strange.Malformed++
		return
	}
	r := Reply{From: from, Mapped: mapped, RTTms: milliseconds(now.Sub(a.at))}
	if v, ok := m.Get(stun.AttrMappedAddress); ok {
		if clear, ok := stun.Address(v); ok {
			r.Clear = netip.AddrPortFrom(clear.Addr().Unmap(), clear.Port())
		}
	}
	a.answered = true
	p.answered++
	if len(p.replies) < keptReplies {
		p.replies = append(p.replies, r)
	}
	d := now.Sub(a.at)
	if !s.replied || d < s.shortest {
		s.shortest = d
	}
	s.longest = max(s.longest, d)
	if !s.replied {
		s.next = now
	}
	s.replied = true
	for i := range s.servers {
		if x := &s.servers[i]; p.to == x.Addr && !p.changes() {
			s.learn(x, m)
		}
	}
}

// learn takes OTHER-ADDRESS from a server's reply. It comes from outside and is a place to send to: it must be such a one as
// the server itself.
func (s *session) learn(x *ServerSeen, m stun.Message) {
	v, ok := m.Get(stun.AttrOtherAddress)
	if !ok {
		return
	}
	other, ok := stun.Address(v)
	other = netip.AddrPortFrom(other.Addr().Unmap(), other.Port())
	bad := ""
	switch a, b := x.Addr.Addr(), other.Addr(); {
	case !ok || other.Port() == 0 || !(b.IsGlobalUnicast() || b.IsLoopback() && a.IsLoopback()):
		bad = "it is not an endpoint"
	case a == b:
		bad = "it has the same address as the server (RFC 5780 §7.4)"
	case other.Port() == x.Addr.Port():
		bad = "it has the same port as the server (RFC 5780 §7.4)"
	case a.Is4() != b.Is4():
		bad = "it is of the other family"
	case b.IsPrivate() && !a.IsPrivate():
		bad = "it is a private address, and the server's is not"
	case x.Other.IsValid() && x.Other != other:
		bad = "it changes from reply to reply"
	}
	if bad != "" {
		x.Bad = bad
		if x.Addr == s.primary {
			s.other = netip.AddrPort{}
		}
		return
	}
	x.Other = other
	if x.Addr == s.primary && x.Bad == "" {
		s.other = other
	}
}

// rebase goes on with another port, or another server, if that one is better: the first answers and the other does not, or
// it alone has a second address. What was measured with the old one is kept only as a sign of life.
func (s *session) rebase(now time.Time) {
	first := s.byName["map-primary"]
	for _, p := range s.probes {
		if p.answered == 0 || (p.Role != RolePort && (p.To != Fixed || p.Role != RoleMapping)) {
			continue
		}
		silent := first.answered == 0 && len(first.attempts) >= fewAttempts && s.aged(now, first.attempts[fewAttempts-1])
		better := p.Role == RoleMapping && first.answered > 0 && !s.other.IsValid() && s.servers[p.Server].Other.IsValid() &&
			s.servers[p.Server].Bad == ""
		if !silent && !better {
			continue
		}
		first.Name, first.To, first.From, first.Server, first.Port, first.Role = "left", Fixed, Fixed, s.server, 0, RolePort
		first.Most = len(first.attempts)
		if better {
			first.Role = RoleMapping
		}
		if p.Role == RoleMapping {
			s.server = p.Server
		} else {
			s.servers[s.server].Addr, first.Port = p.to, first.to.Port()
		}
		s.primary = p.to
		if x := s.servers[s.server]; x.Bad == "" {
			s.other = x.Other
		}
		p.Name, p.Role, p.To, p.From = "map-primary", RoleMapping, Primary, Primary
		s.byName[p.Name], s.byName[first.Name] = p, first
		for _, x := range s.probes {
			places := x.Role == RoleMapping && x.To != Fixed && x != p      // which are others now
			if x.Role == RoleControl || x.Role == RoleFiltering || places { // asked the old one
				x.attempts, x.replies, x.answered, x.code, x.ignored, x.silent = nil, nil, 0, 0, 0, false
			}
		}
		return
	}
}

func (s *session) deadline() time.Time {
	d := s.timeout
	if d == 0 {
		d = DefaultTimeout
		if s.replied && s.longest > longRoundTrip {
			d = LongTimeout
		}
	}
	return s.begin.Add(d)
}

// done reports whether nothing more can be learnt: nothing is open, or what is open cannot be sent and nothing is on its way.
func (s *session) done(now time.Time) bool {
	if !now.Before(s.deadline()) {
		return true
	}
	if !s.replied {
		return false
	}
	if s.dialing {
		return false
	}
	open, flying := false, false
	for _, p := range s.probes {
		last := len(p.attempts) - 1
		fresh := last >= 0 && !s.aged(now, p.attempts[last])
		switch {
		case p.Role == RoleFiltering || p.Role == RoleRelayFiltering:
			open = open || s.wanted(now, p)
		case !s.asks(p):
			flying = flying || fresh
			continue
		default:
			open = open || s.ready(now, p) || (fresh && !s.settled(now, p))
		}
		flying = flying || (fresh && !s.settled(now, p))
	}
	return !open || (!flying && s.idle)
}

// observations is everything as Classify wants it.
func (s *session) observations(now time.Time, local []netip.Addr, socket func(int) netip.AddrPort) Observations {
	o := Observations{Local: local, Servers: slices.Clone(s.servers), Sent: s.sent, Strange: s.strange, TookMS: milliseconds(now.Sub(s.begin))}
	for _, p := range s.probes {
		if len(p.attempts) == 0 {
			continue
		}
		x := Observation{Name: p.Name, Role: p.Role, Socket: p.Socket, Local: socket(p.Socket), To: p.to, Expect: p.expect, Sent: len(p.attempts),
			Answered: p.answered, Error: p.code, Ignored: p.ignored, First: p.attempts[0].order, Bytes: p.Bytes, Replies: p.replies}
		for _, a := range p.attempts {
			if a.answered || s.aged(now, a) {
				x.Judged++
			}
		}
		x.Controls, x.ControlsLost = p.controls, p.lost
		if !p.silent {
			x.Controls, x.ControlsLost, _ = s.lost(now)
		}
		o.Probes = append(o.Probes, x)
	}
	return o
}
