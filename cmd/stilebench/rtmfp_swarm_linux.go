package main

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilenet/stile/rtmfp"
	"github.com/stilenet/stile/rtmfp/flash"
)

// Ours to tune.
const (
	swarmWindow  = 64                     // clients that are connecting at a time
	swarmRetry   = time.Second            // after which a packet without an answer is repeated
	swarmTries   = 10                     // of one packet
	introWindow  = 64                     // introductions under way at a time, when the server is kept busy
	introLost    = 2 * time.Second        // after which an introduction counts as lost
	swarmBuffer  = 16 << 20               // of the socket
	swarmSettle  = 500 * time.Millisecond // for what follows the last answer
	firstClient  = 0x7f010000             // 127.1.0.0: the address of the first client; the others follow
	firstStrange = 0x7f800000             // 127.128.0.0: the same for initiators that are no clients
)

// memberState is how far a client has come.
type memberState uint8

const (
	memberNew        memberState = iota
	memberHello                  // IHello sent
	memberKeying                 // IIKeying sent
	memberConnecting             // connect sent
	memberTelling                // setPeerInfo sent
	memberConnected
	memberFailed
)

// member is a client. It is small, because there may be a million.
type member struct {
	keys       rtmfp.SessionKeys
	opening    *memberOpening
	id         flash.PeerID
	flows      [2]memberFlow // of the server
	farID      uint32
	tries      uint8
	state      memberState
	generation uint8 // of the answer that is awaited
}

// memberFlow is how much of a flow of the server has come.
type memberFlow struct{ id, cumulative uint64 }

// memberOpening is what a client has until it has its keys.
type memberOpening struct {
	identity   *flash.Identity
	initiation rtmfp.Initiation
	iikeying   []byte
}

// retry is when a client must have been answered.
type retry struct {
	at         time.Time
	client     uint32
	generation uint8
}

// swarm is many RTMFP clients of one server on one socket: each has an address of 127.0.0.0/8 of its own, and the number of its
// session tells whose a packet is. It is single-threaded. What it leaves out of a client is congestion control and media.
type swarm struct {
	fd      int
	server  *unix.SockaddrInet4
	uri     string
	group   flash.Group
	cipher  rtmfp.Cipher
	all     []member
	retries []retry
	opening int
	failed  int
	gone    int // clients whose session the server has closed
	resent  int
	reason  string // of the last failure
	connect []byte

	intros    map[uint64]time.Time // when they were asked for, by the number in their tags
	introNext uint64
	redirects histogram
	forwarded int // FIHellos that targets have received

	buf, plain, out []byte
}

func newSwarm(server netip.AddrPort, group flash.Group) (*swarm, error) {
	if !server.Addr().Is4() || !server.Addr().IsLoopback() {
		return nil, fmt.Errorf("the server is at %v: the clients have addresses of 127.0.0.0/8, and reach only those", server)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	for _, name := range []int{unix.SO_RCVBUFFORCE, unix.SO_SNDBUFFORCE} {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, name, swarmBuffer)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{}); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	id, err := flash.NewIdentity(flash.IdentityConfig{Random: crand.Reader})
	if err != nil {
		return nil, err
	}
	s := &swarm{
		fd: fd, server: &unix.SockaddrInet4{Port: int(server.Port()), Addr: server.Addr().As4()}, uri: "rtmfp://" + server.String() + "/bench",
		group: group, cipher: id.DefaultCipher(), intros: make(map[uint64]time.Time), buf: make([]byte, 4096),
	}
	s.connect, err = flash.AppendCommand(nil, flash.AMF0, flash.ConnectCommand(flash.ConnectInfo{App: "bench", TCURL: s.uri, FlashVersion: "WIN 11,9,900,117"}))
	return s, err
}

func (s *swarm) close() { _ = unix.Close(s.fd) }

// send sends a plain packet from an address.
func (s *swarm) send(from uint32, c rtmfp.Cipher, id uint32, plain []byte) error {
	s.out = c.Seal(append(s.out[:0], 0, 0, 0, 0), plain)
	rtmfp.PutSessionID(s.out, id)
	info := unix.Inet4Pktinfo{}
	binary.BigEndian.PutUint32(info.Spec_dst[:], from)
	_, err := unix.SendmsgN(s.fd, s.out, unix.PktInfo4(&info), s.server, 0)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOBUFS) {
		return nil // lost, like any datagram
	}
	return err
}

func (s *swarm) startup() []byte {
	s.plain = rtmfp.AppendHeader(s.plain[:0], rtmfp.Header{Mode: rtmfp.ModeStartup, TimestampPresent: true})
	return s.plain
}

// tag is 16 bytes with a kind and a number.
func tag(kind byte, n uint64) []byte {
	var b [16]byte
	b[0] = kind
	binary.BigEndian.PutUint64(b[8:], n)
	return b[:]
}

// step sends what the client's state asks for, and awaits an answer.
func (s *swarm) step(now time.Time, n uint32) error {
	m := &s.all[n]
	m.generation++
	var err error
	switch m.state {
	case memberHello:
		err = s.send(firstClient+n, s.cipher, 0, rtmfp.AppendIHello(s.startup(), rtmfp.IHello{EPD: flash.ServerEPD(s.uri), Tag: tag('C', uint64(n))}))
	case memberKeying:
		err = s.send(firstClient+n, s.cipher, 0, append(s.startup(), m.opening.iikeying...))
	case memberConnecting:
		metadata := flash.AppendFlowMetadata(nil, flash.FlowMetadata{})
		err = s.sendSession(n, rtmfp.AppendUserData(nil, rtmfp.UserData{
			OptionsPresent: true, FlowID: 2, Sequence: 1, FSNOffset: 1, Data: s.connect,
			Options: rtmfp.AppendOption(nil, rtmfp.Option{Type: 0, Value: metadata}),
		}))
	case memberTelling:
		var b []byte
		if b, err = flash.AppendCommand(nil, flash.AMF0, flash.SetPeerInfo(nil)); err == nil {
			err = s.sendSession(n, rtmfp.AppendUserData(nil, rtmfp.UserData{FlowID: 2, Sequence: 2, FSNOffset: 1, Data: b}))
		}
	default:
		return nil
	}
	s.retries = append(s.retries, retry{now.Add(swarmRetry), n, m.generation})
	return err
}

func (s *swarm) sendSession(n uint32, chunks []byte) error {
	m := &s.all[n]
	s.plain = rtmfp.AppendHeader(s.plain[:0], rtmfp.Header{Mode: rtmfp.ModeInitiator})
	s.plain = append(s.plain, chunks...)
	return s.send(firstClient+n, m.keys, m.farID, s.plain)
}

func (s *swarm) fail(n uint32, reason string) {
	if m := &s.all[n]; m.state < memberConnected {
		m.state, m.opening = memberFailed, nil
		s.opening--
		s.failed++
		s.reason = reason
	}
}

// advance enters the next state.
func (s *swarm) advance(now time.Time, n uint32, to memberState) error {
	m := &s.all[n]
	m.state, m.tries = to, 0
	if to == memberConnected {
		m.generation++
		s.opening--
		if r, ok := m.keys.(interface{ Rest() }); ok {
			r.Rest()
		}
		return nil
	}
	return s.step(now, n)
}

// poll takes all packets that wait, and repeats what has waited for too long.
func (s *swarm) poll(now time.Time) (packets int, err error) {
	for {
		k, _, err := unix.Recvfrom(s.fd, s.buf, unix.MSG_DONTWAIT)
		if err != nil {
			if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.ECONNREFUSED) {
				break
			}
			return packets, err
		}
		packets++
		if err := s.receive(now, s.buf[:k]); err != nil {
			return packets, err
		}
		if packets%64 == 0 {
			now = time.Now()
		}
	}
	for len(s.retries) > 0 && !s.retries[0].at.After(now) {
		r := s.retries[0]
		s.retries = s.retries[1:]
		m := &s.all[r.client]
		if m.generation != r.generation || m.state >= memberConnected {
			continue
		}
		if m.tries++; m.tries >= swarmTries {
			s.fail(r.client, fmt.Sprintf("no answer in state %d", m.state))
			continue
		}
		s.resent++
		if err := s.step(now, r.client); err != nil {
			return packets, err
		}
	}
	return packets, nil
}

func (s *swarm) receive(now time.Time, data []byte) error {
	id, ok := rtmfp.SessionID(data)
	if !ok || int64(id) > int64(len(s.all)) {
		return nil
	}
	if id == 0 || s.all[id-1].state == memberKeying {
		return s.receiveStartup(now, id, data[4:])
	}
	n := id - 1
	m := &s.all[n]
	if m.keys == nil {
		return nil
	}
	plain, err := m.keys.Open(data[4:])
	if err != nil {
		return nil
	}
	_, chunks, err := rtmfp.ParseHeader(plain)
	if err != nil {
		return nil
	}
	return s.receiveSession(now, n, chunks)
}

func (s *swarm) receiveStartup(now time.Time, id uint32, packet []byte) error {
	plain, err := s.cipher.Open(packet)
	if err != nil {
		return nil
	}
	_, chunks, err := rtmfp.ParseHeader(plain)
	if err != nil {
		return nil
	}
	for kind, payload := range rtmfp.Chunks(chunks) {
		switch {
		case kind == rtmfp.ChunkRHello:
			h, err := rtmfp.ParseRHello(payload)
			if err != nil || len(h.TagEcho) != 16 || h.TagEcho[0] != 'C' {
				continue
			}
			n := binary.BigEndian.Uint64(h.TagEcho[8:])
			if n < uint64(len(s.all)) && s.all[n].state == memberHello {
				return s.helloed(now, uint32(n), h)
			}
		case kind == rtmfp.ChunkRedirect:
			r, err := rtmfp.ParseRedirect(payload)
			if err != nil || len(r.TagEcho) != 16 || r.TagEcho[0] != 'I' {
				continue
			}
			number := binary.BigEndian.Uint64(r.TagEcho[8:])
			if at, ok := s.intros[number]; ok {
				delete(s.intros, number)
				s.redirects.add(now.Sub(at).Nanoseconds())
			}
		case kind == rtmfp.ChunkRIKeying && id != 0:
			k, _, err := rtmfp.ParseRIKeying(payload)
			if err != nil {
				continue
			}
			m := &s.all[id-1]
			keys, err := m.opening.initiation.Combine(k.Component)
			if err != nil {
				s.fail(id-1, err.Error())
				return nil
			}
			m.keys, m.farID, m.opening = keys, k.SessionID, nil
			return s.advance(now, id-1, memberConnecting)
		}
	}
	return nil
}

// helloed answers an RHello.
func (s *swarm) helloed(now time.Time, n uint32, h rtmfp.RHello) error {
	m := &s.all[n]
	o := m.opening
	cert := bytes.Clone(h.Certificate)
	var err error
	if o.initiation, err = o.identity.Initiate(cert); err != nil {
		s.fail(n, err.Error())
		return nil
	}
	k := rtmfp.IIKeying{SessionID: n + 1, CookieEcho: h.Cookie, Certificate: o.identity.Certificate(), Component: o.initiation.Component()}
	k.Signature = o.identity.Sign(nil)
	o.iikeying = rtmfp.AppendIIKeying(nil, k)
	return s.advance(now, n, memberKeying)
}

func (s *swarm) receiveSession(now time.Time, n uint32, chunks []byte) error {
	m := &s.all[n]
	var answer []byte
	var previous rtmfp.UserData
	next := memberNew
	for kind, payload := range rtmfp.Chunks(chunks) {
		switch kind {
		case rtmfp.ChunkUserData, rtmfp.ChunkNextUserData:
			u, err := rtmfp.ParseUserData(payload)
			if kind == rtmfp.ChunkNextUserData {
				u, err = rtmfp.ParseNextUserData(payload, previous)
			}
			if err != nil {
				continue
			}
			previous = u
			answer = rtmfp.AppendAckRanges(answer, rtmfp.Ack{FlowID: u.FlowID, BufferBlocks: 64, Cumulative: m.received(u)}, nil, 100)
			switch {
			case m.state != memberConnecting:
			case bytes.Contains(u.Data, []byte(flash.NetConnectionConnectSuccess)):
				next = memberTelling
			case bytes.Contains(u.Data, []byte(flash.CommandError)):
				s.fail(n, "the server refuses connect")
			}
		case rtmfp.ChunkAckRanges, rtmfp.ChunkAckBitmap:
			if a, err := rtmfp.ParseAck(kind, payload); err == nil && a.FlowID == 2 && a.Cumulative >= 2 && m.state == memberTelling {
				next = memberConnected
			}
		case rtmfp.ChunkPing:
			answer = rtmfp.AppendChunk(answer, rtmfp.ChunkPingReply, payload)
		case rtmfp.ChunkFIHello:
			s.forwarded++
		case rtmfp.ChunkClose, rtmfp.ChunkCloseAck:
			s.fail(n, "the server has closed the session")
			s.gone++
			m.keys = nil
			return nil
		}
	}
	if len(answer) > 0 {
		if err := s.sendSession(n, answer); err != nil {
			return err
		}
	}
	if next != memberNew && m.state < memberConnected {
		return s.advance(now, n, next)
	}
	if m.state == memberConnected {
		if r, ok := m.keys.(interface{ Rest() }); ok {
			r.Rest()
		}
	}
	return nil
}

// received notes user data of a server's flow, and returns what is to be acknowledged.
func (m *member) received(u rtmfp.UserData) uint64 {
	i := slices.IndexFunc(m.flows[:], func(f memberFlow) bool { return f.id == u.FlowID || f == memberFlow{} })
	if i < 0 {
		return u.Sequence // one flow too many to remember: nothing is lost on loopback
	}
	f := &m.flows[i]
	f.id = u.FlowID
	if u.Sequence == f.cumulative+1 {
		f.cumulative++
	}
	return f.cumulative
}

// open connects clients until there are count.
func (s *swarm) open(ctx context.Context, count int) error {
	begin := len(s.all)
	s.all = slices.Grow(s.all, count-begin)
	for now := time.Now(); ; now = time.Now() {
		for s.opening < swarmWindow && len(s.all) < count {
			id, err := flash.NewIdentity(flash.IdentityConfig{Random: crand.Reader, Groups: []flash.Group{s.group}})
			if err != nil {
				return err
			}
			s.all = append(s.all, member{opening: &memberOpening{identity: id}, id: id.PeerID()})
			s.opening++
			if err := s.advance(now, uint32(len(s.all)-1), memberHello); err != nil {
				return err
			}
			if _, err := s.poll(time.Now()); err != nil {
				return err
			}
		}
		if s.opening == 0 && len(s.all) >= count {
			if s.failed > 0 {
				return fmt.Errorf("%d of %d clients failed to connect: %s", s.failed, count-begin, s.reason)
			}
			return nil
		}
		if err := s.wait(ctx, now); err != nil {
			return err
		}
	}
}

// wait polls, and gives the CPU away if there is nothing.
func (s *swarm) wait(ctx context.Context, now time.Time) error {
	n, err := s.poll(now)
	if err != nil {
		return err
	}
	if n == 0 {
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}, 5); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	return ctx.Err()
}

// idle answers pings for some time.
func (s *swarm) idle(ctx context.Context, d time.Duration) error {
	for now, end := time.Now(), time.Now().Add(d); now.Before(end); now = time.Now() {
		if err := s.wait(ctx, now); err != nil {
			return err
		}
	}
	return nil
}

// introResult is what asking for introductions brought.
type introResult struct {
	asked, answered, forwarded int
	seconds                    float64
	latency                    histogram
}

// introduce has strangers ask for clients by their peer IDs: rate times a second, or with a window of them under way for rate 0.
func (s *swarm) introduce(ctx context.Context, d time.Duration, rate float64) (res introResult, err error) {
	clear(s.intros)
	s.redirects, s.forwarded = histogram{}, 0
	begin := time.Now()
	last := begin
	for now := begin; now.Sub(begin) < d; now = time.Now() {
		due := introWindow - len(s.intros)
		if rate > 0 {
			due = int(now.Sub(begin).Seconds()*rate) - res.asked
		}
		for range due {
			if err := s.ask(now); err != nil {
				return res, err
			}
			res.asked++
		}
		n, err := s.poll(time.Now())
		if err != nil {
			return res, err
		}
		switch {
		case n > 0:
			last = now
		case rate == 0 && now.Sub(last) > introLost:
			clear(s.intros)
			last = now
		case ctx.Err() != nil:
			return res, ctx.Err()
		}
	}
	res.seconds = time.Since(begin).Seconds()
	if err := s.idle(ctx, swarmSettle); err != nil {
		return res, err
	}
	res.answered, res.forwarded, res.latency = int(s.redirects.total), s.forwarded, s.redirects
	return res, nil
}

// ask is an IHello of a stranger for a client.
func (s *swarm) ask(now time.Time) error {
	target := &s.all[rand.IntN(len(s.all))]
	s.introNext++
	s.intros[s.introNext] = now
	from := firstStrange + uint32(s.introNext*257%(1<<22)) // neighbours in another /24
	return s.send(from, s.cipher, 0, rtmfp.AppendIHello(s.startup(), rtmfp.IHello{EPD: target.id.EPD(), Tag: tag('I', s.introNext)}))
}
