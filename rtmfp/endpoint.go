package rtmfp

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"
)

// Datagram is one to send from an interface.
type Datagram struct {
	Interface int
	To        netip.AddrPort
	Data      []byte
}

// Endpoint is the core of an RTMFP: client, server and peer in one. It performs no I/O and reads no clock. Datagrams and
// the time go in by Receive and Tick; events come out of Events, datagrams out of Flush. All packets but the answers to
// startup packets are assembled in Flush, so that what the user writes in response to events travels with the
// acknowledgements. It is not safe for concurrent use: one goroutine owns it, its sessions and its flows.
type Endpoint struct {
	cfg          Config
	cipher       Cipher // of the Default Session Key
	epoch        time.Time
	now          instant
	secret       [32]byte                    // of mobility checks
	sessions     map[uint32]*Session         // by receive session ID: all from S_KEYING_SENT to S_CLOSED
	byAddress    map[netip.AddrPort]*Session // S_OPEN, by DESTADDR
	byIdentity   map[string]*Session         // S_OPEN, by Canonical Endpoint Discriminator
	opening      map[[tagSize]byte]*Session  // S_IHELLO_SENT and S_KEYING_SENT
	keyings      map[[16]byte]*Keying        // IIKeyings that wait for Keyed, by digest
	reassemblies map[reassemblyKey]*reassembly
	timers       timers
	dirty        []*Session // to be looked at by Flush
	forwarded    []forwardedTag
	paced        []pacedDatagram
	out          []Datagram
	spare        [][]byte // buffers of datagrams that were flushed
	plain        []byte   // scratch
	events       []Event
	unconfirmed  int // sessions whose initiator has not used them
	buffered     int // bytes in receiving flows
	packetID     uint64
	counters     Counters
	tcSent       instant // when a time critical packet was last sent in any session
	tcReceived   instant // when one was last received, in tcSession
	tcSession    *Session
	tcReceived2  instant // when one was last received in another session than tcSession
}

type pacedDatagram struct {
	at instant
	Datagram
}

// What New and methods that open something return.
var (
	ErrLimit     = errors.New("rtmfp: limit reached")
	ErrState     = errors.New("rtmfp: not open")
	ErrCandidate = errors.New("rtmfp: no interface reaches any candidate address")
	ErrTooLong   = errors.New("rtmfp: too long")
)

// New makes an endpoint. Later times must not be before now; if they are, they count as the latest one.
func New(now time.Time, cfg Config) (*Endpoint, error) {
	if cfg.Identity == nil || cfg.Random == nil {
		return nil, errors.New("rtmfp: Config.Identity and Config.Random are required")
	}
	cfg.Interfaces = slices.Clone(cfg.Interfaces)
	if len(cfg.Interfaces) == 0 {
		cfg.Interfaces = []Interface{{IPv4: true, IPv6: true}}
	}
	if cfg.Shards == 0 {
		cfg.Shards = 1
	}
	if cfg.Shard >= cfg.Shards || cfg.Shards > 1<<16 {
		return nil, fmt.Errorf("rtmfp: Config.Shard %d of %d: it must be below Config.Shards, and that at most 65536", cfg.Shard, cfg.Shards)
	}
	orDefault(&cfg.MaxDatagram, 1192)
	if cfg.MaxDatagram < 512 || cfg.MaxDatagram > 65000 {
		return nil, fmt.Errorf("rtmfp: Config.MaxDatagram %d: it must be from 512 to 65000", cfg.MaxDatagram)
	}
	orDefault(&cfg.RetransmitLimit, 120*time.Second)
	if cfg.IdleLimit == 0 {
		cfg.IdleLimit = 300 * time.Second
	}
	cfg.Limits.setDefaults()
	e := &Endpoint{
		cfg:          cfg,
		cipher:       cfg.Identity.DefaultCipher(),
		epoch:        now,
		sessions:     make(map[uint32]*Session),
		byAddress:    make(map[netip.AddrPort]*Session),
		byIdentity:   make(map[string]*Session),
		opening:      make(map[[tagSize]byte]*Session),
		keyings:      make(map[[16]byte]*Keying),
		reassemblies: make(map[reassemblyKey]*reassembly),
		tcSent:       longAgo, tcReceived: longAgo, tcReceived2: longAgo,
	}
	e.random(e.secret[:])
	if e.cfg.CookieKey == [32]byte{} {
		e.random(e.cfg.CookieKey[:])
	}
	return e, nil
}

func (e *Endpoint) random(b []byte) {
	if _, err := io.ReadFull(e.cfg.Random, b); err != nil {
		panic(fmt.Sprintf("BUG: rtmfp: Config.Random: %v", err))
	}
}

func (e *Endpoint) clock(now time.Time) {
	if at := instant(now.Sub(e.epoch)); at > e.now {
		e.now = at
	}
}

// Receive takes a datagram that came from from to an interface, by its index. It decrypts in place and keeps nothing of
// the buffer. Afterwards the user looks at Events, and calls Flush.
func (e *Endpoint) Receive(now time.Time, iface int, from netip.AddrPort, datagram []byte) {
	e.clock(now)
	e.counters.Received++
	e.counters.Packets[e.receive(path{iface, netip.AddrPortFrom(from.Addr().Unmap(), from.Port())}, datagram)]++
}

// path is one way to a far end.
type path struct {
	iface int
	addr  netip.AddrPort
}

// wireOverhead is what IP and UDP add to a datagram.
func wireOverhead(a netip.AddrPort) int {
	if a.Addr().Is4() {
		return 20 + 8
	}
	return 40 + 8
}

func (e *Endpoint) receive(from path, datagram []byte) Disposition {
	if from.iface < 0 || from.iface >= len(e.cfg.Interfaces) || !e.cfg.Interfaces[from.iface].reaches(from.addr) {
		return DropInterface
	}
	id, ok := SessionID(datagram)
	if !ok {
		return DropShort
	}
	wire := len(datagram) + wireOverhead(from.addr)
	packet := datagram[sessionIDSize:]
	s := e.sessions[id]
	switch {
	case id == 0:
		return e.receiveStartup(from, nil, packet, wire)
	case s == nil:
		return DropUnknownSession
	case s.state == StateKeyingSent:
		return e.receiveStartup(from, s, packet, wire)
	}
	return s.receive(from, packet)
}

// receiveStartup processes a packet under the Default Session Key: for session ID 0, or for the opening session s.
func (e *Endpoint) receiveStartup(from path, s *Session, packet []byte, wire int) Disposition {
	plain, err := e.cipher.Open(packet)
	if err != nil {
		return DropIntegrity
	}
	h, chunks, err := ParseHeader(plain)
	if err != nil {
		return DropHeader
	}
	if h.Mode != ModeStartup {
		return DropMode
	}
	e.startupChunks(from, s, chunks, wire, false)
	return PacketStartup
}

// startupChunks processes the chunks of a startup packet. All answers together stay within the budget for wire bytes.
func (e *Endpoint) startupChunks(from path, s *Session, chunks []byte, wire int, reassembled bool) {
	budget := amplification * wire
	for kind, payload := range Chunks(chunks) {
		switch {
		case kind == ChunkFragment && !reassembled:
			f, err := ParseFragment(payload)
			if err != nil {
				e.drop(ChunkMalformed)
				continue
			}
			key := reassemblyKey{from: from.addr, packetID: f.PacketID}
			if s != nil {
				key.session = s.id
			}
			// The bytes of this packet count once: for the reassembled packet or for what is answered here.
			plain, total := e.reassemble(key, f, budget/amplification)
			budget = 0
			if plain == nil {
				continue
			}
			h, inner, err := ParseHeader(plain)
			if err != nil || h.Mode != ModeStartup {
				e.drop(ChunkReassembly)
				continue
			}
			e.startupChunks(from, s, inner, total, true)
		case kind == ChunkIHello && s == nil:
			e.handleIHello(from, payload, &budget)
		case kind == ChunkRHello && s == nil:
			e.handleRHello(from, payload)
		case kind == ChunkRedirect && s == nil:
			e.handleRedirect(from, payload)
		case kind == ChunkIIKeying && s == nil:
			e.handleIIKeying(from, payload, &budget)
		case kind == ChunkRIKeying && s != nil && s.state == StateKeyingSent:
			e.handleRIKeying(s, payload)
		case kind == ChunkCookieChange && s != nil && s.state == StateKeyingSent:
			e.handleCookieChange(s, payload)
		case kind == ChunkPadding || kind == ChunkPaddingFF:
		default:
			e.drop(ChunkUnrecognized)
		}
	}
}

// buffer returns an empty buffer for a datagram with room for its session ID at its front.
func (e *Endpoint) buffer() []byte {
	if n := len(e.spare); n > 0 {
		b := e.spare[n-1]
		e.spare = e.spare[:n-1]
		return b[:sessionIDSize]
	}
	return make([]byte, sessionIDSize, e.cfg.MaxDatagram)
}

func (e *Endpoint) seal(c Cipher, id uint32, plain []byte) []byte {
	b := c.Seal(e.buffer(), plain)
	PutSessionID(b, id)
	return b
}

func (e *Endpoint) send(to path, data []byte) {
	if !e.cfg.Interfaces[to.iface].reaches(to.addr) {
		e.counters.Unsendable++
		e.spare = append(e.spare, data)
		return
	}
	e.counters.Sent++
	e.out = append(e.out, Datagram{to.iface, to.addr, data})
}

// startupHeader begins a startup packet. Deviation: §2.2.4 leaves the timestamp to the sender; the stacks of the Flash era
// always sent one, and some were written against those bytes.
func (e *Endpoint) startupHeader(b []byte) []byte {
	return AppendHeader(b, Header{Mode: ModeStartup, TimestampPresent: true, Timestamp: e.ticks()})
}

// ticks is the send timestamp (§2.2.4).
func (e *Endpoint) ticks() uint16 { return uint16(int64(e.now) / int64(Tick)) }

// sendStartup sends a plain packet under the Default Session Key, in fragments if it is too long (§3.4). With a budget,
// nothing is sent that passes it.
func (e *Endpoint) sendStartup(to path, id uint32, plain []byte, budget *int) bool {
	if limit := e.cipher.MaxPlain(e.cfg.MaxDatagram - sessionIDSize); len(plain) > limit {
		return e.sendFragments(to, id, plain, limit, budget)
	}
	data := e.seal(e.cipher, id, plain)
	if budget != nil {
		wire := len(data) + wireOverhead(to.addr)
		if wire > *budget {
			e.spare = append(e.spare, data)
			return false
		}
		*budget -= wire
	}
	e.send(to, data)
	return true
}

func (e *Endpoint) sendFragments(to path, id uint32, plain []byte, limit int, budget *int) bool {
	e.packetID++
	size := limit - maxHeaderSize - chunkHeaderSize - 1 - 2*MaxVLUSize
	count := (len(plain) + size - 1) / size
	// An answer to an unproven address that would need a second burst is never sent, so that no such address has anything in paced.
	if budget != nil && (count > fragmentBurst || count*(e.cfg.MaxDatagram+wireOverhead(to.addr)) > *budget) || len(e.paced)+count > maxPaced {
		return false
	}
	at, burst, burstBytes := e.now, 0, 0
	for n := range count {
		f := Fragment{More: n < count-1, PacketID: e.packetID, Number: uint64(n), Data: plain[n*size : min((n+1)*size, len(plain))]}
		data := e.seal(e.cipher, id, AppendFragment(e.startupHeader(nil), f))
		if burst == fragmentBurst || burstBytes+len(data) > fragmentBurstBytes {
			at, burst, burstBytes = at.add(fragmentBurstPeriod), 0, 0
		}
		burst++
		burstBytes += len(data)
		if budget != nil {
			*budget -= len(data) + wireOverhead(to.addr)
		}
		if at == e.now {
			e.send(to, data)
		} else {
			e.paced = append(e.paced, pacedDatagram{at, Datagram{to.iface, to.addr, data}})
		}
	}
	return true
}

// Tick does what is due at now. Afterwards the user looks at Events, and calls Flush.
func (e *Endpoint) Tick(now time.Time) {
	e.clock(now)
	for len(e.timers) > 0 && e.timers[0].alarm <= e.now {
		s := e.timers[0]
		s.tick()
		s.touch()
		e.setAlarm(s, never) // Flush sets it again
	}
	later := e.paced[:0]
	for _, p := range e.paced {
		if p.at <= e.now {
			e.send(path{p.Interface, p.To}, p.Data)
		} else {
			later = append(later, p)
		}
	}
	e.paced = later
}

// NextTimer reports when Tick is due. ok is false if nothing is. It is right after Flush.
func (e *Endpoint) NextTimer() (at time.Time, ok bool) {
	next := never
	if len(e.timers) > 0 {
		next = e.timers[0].alarm
	}
	for _, p := range e.paced {
		next = min(next, p.at)
	}
	if next == never {
		return time.Time{}, false
	}
	return e.epoch.Add(time.Duration(next)), true
}

// Events returns what happened since it was last called, in order. The slice is valid until the next call of a method.
func (e *Endpoint) Events() []Event {
	events := e.events
	e.events = e.events[len(e.events):]
	if len(e.events) == cap(e.events) {
		e.events = nil
	}
	return events
}

// Flush assembles what the sessions have to send and returns all datagrams to send since it was last called. They are valid
// until its next call.
func (e *Endpoint) Flush(now time.Time) []Datagram {
	e.clock(now)
	for i := 0; i < len(e.dirty); i++ {
		s := e.dirty[i]
		s.dirty = false
		s.flush()
		e.setAlarm(s, s.nextAlarm())
	}
	clear(e.dirty)
	e.dirty = e.dirty[:0]
	out := e.out
	e.out = e.out[len(e.out):]
	if cap(e.out) == 0 {
		e.out = nil
	}
	return out
}

// Recycle gives back what Flush returned when it has been sent, so that its memory is used again. It is optional.
func (e *Endpoint) Recycle(sent []Datagram) {
	for i := range sent {
		if cap(sent[i].Data) >= e.cfg.MaxDatagram && len(e.spare) < 64 {
			e.spare = append(e.spare, sent[i].Data)
		}
		sent[i] = Datagram{}
	}
	if len(e.out) == 0 {
		e.out = sent[:0]
	}
}

// SessionByIdentity returns the S_OPEN session with the holder of a Canonical Endpoint Discriminator, or nil. Of several
// it is the one that was first, until another proved itself by a packet under its keys.
func (e *Endpoint) SessionByIdentity(canonicalEPD []byte) *Session {
	return e.byIdentity[string(canonicalEPD)]
}

// SessionByAddress returns the S_OPEN session with the far end at addr, or nil.
func (e *Endpoint) SessionByAddress(addr netip.AddrPort) *Session { return e.byAddress[addr] }

// Sessions reports how many sessions there are, from S_IHELLO_SENT until S_CLOSED.
func (e *Endpoint) Sessions() int { return len(e.sessions) + e.openingWithoutID() }

func (e *Endpoint) openingWithoutID() (n int) {
	for _, s := range e.opening {
		if s.state == StateIHelloSent {
			n++
		}
	}
	return n
}

// Redirect answers a Hello with the addresses, as many as the limit on answers to unproven addresses lets through, in
// order, and reports how many that were. With none to give, or none that fits, nothing is sent (§3.5.1.4).
func (e *Endpoint) Redirect(now time.Time, h *Hello, destinations []Address) int {
	e.clock(now)
	for n := min(len(destinations), maxRedirects); n > 0; n-- {
		plain := AppendRedirect(e.startupHeader(e.plain[:0]), Redirect{h.Tag, destinations[:n]})
		e.plain = plain
		if e.sendStartup(path{h.Interface, h.From}, 0, plain, &h.budget) {
			return n
		}
	}
	e.drop(ChunkAmplification)
	return 0
}

// newSessionID draws an ID that no session has, of this shard.
func (e *Endpoint) newSessionID() uint32 {
	for {
		var b [4]byte
		e.random(b[:])
		id := binary.BigEndian.Uint32(b[:])
		id -= id % e.cfg.Shards
		id += e.cfg.Shard
		if id != 0 && e.sessions[id] == nil && id%e.cfg.Shards == e.cfg.Shard {
			return id
		}
	}
}

// mobilityMAC binds a mobility check to the session and to the address that it is sent to (§3.5.4.2).
func (e *Endpoint) mobilityMAC(session uint32, message []byte, to path) []byte {
	mac := hmac.New(sha256.New, e.secret[:])
	mac.Write(binary.BigEndian.AppendUint32(nil, session))
	mac.Write(message)
	ip := to.addr.Addr().As16()
	mac.Write(binary.BigEndian.AppendUint16(ip[:], to.addr.Port()))
	mac.Write(binary.BigEndian.AppendUint32(nil, uint32(to.iface)))
	return mac.Sum(nil)[:16]
}
