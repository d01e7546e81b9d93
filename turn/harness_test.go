package turn

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stilenet/stile/stun"
)

// setup is what a test wants of its server; the zero value is a laboratory in which nothing is refused.
type setup struct {
	relays  []RelayAddress // 192.0.2.15
	ports   PortRange      // 50000-50099
	policy  func(*PolicyConfig)
	limits  func(*Limits)
	rules   func(*Rules)
	auth    []bool
	shards  int
	foreign []uint16 // ports that another program has
	// noOffload is for measurements: all others have an offload that takes flows and leaves their packets to the core.
	noOffload bool

	bindingOnly []bool
	discovery   [2]Discovery
}

// server is one or several cores with a ledger, an opener that remembers, and a clock. After every step its tables are checked.
type server struct {
	t        testing.TB
	now      time.Time
	cfg      setup
	rules    *Rules
	ledger   *Ledger
	cores    []*Core
	ports    []*portOpener
	offloads []*cache
	events   []Event
	quiet    bool // no check after each step, for benchmarks and floods
	buf      []byte
}

var testEpoch = time.Date(2008, 6, 24, 12, 0, 0, 0, time.UTC)

func newServer(t testing.TB, cfg setup) *server {
	t.Helper()
	if cfg.relays == nil {
		cfg.relays = []RelayAddress{{ipOf("192.0.2.15"), ipOf("192.0.2.15")}}
	}
	if cfg.ports == (PortRange{}) {
		cfg.ports = PortRange{50000, 50099}
	}
	cfg.shards = max(1, cfg.shards)
	s := &server{t: t, now: testEpoch, cfg: cfg, buf: make([]byte, Headroom+MaxFrame+Tailroom)}
	s.rules = s.makeRules()
	s.ledger = NewLedger(cfg.relays, cfg.ports, s.rules.Limits, [32]byte{1})
	for i := range cfg.shards {
		o := &portOpener{t: t, open: make(map[uint32]netip.AddrPort), foreign: cfg.foreign}
		s.ports = append(s.ports, o)
		s.offloads = append(s.offloads, newCache(t))
		config := Config{
			Ledger: s.ledger, Relays: cfg.relays, Rules: s.rules, Shard: i, Shards: cfg.shards, Opener: o, Offload: s.offloads[i],
			RequireAuth: cfg.auth, BindingOnly: cfg.bindingOnly, Discovery: cfg.discovery, Seed: [32]byte{2, byte(i)},
		}
		if cfg.noOffload {
			config.Offload = nil
		}
		s.cores = append(s.cores, NewCore(s.now, config))
	}
	return s
}

func (s *server) makeRules() *Rules {
	policy := PolicyConfig{Profile: ProfileLab, Relays: s.cfg.relays, RelayPorts: s.cfg.ports}
	if s.cfg.policy != nil {
		s.cfg.policy(&policy)
	}
	r := &Rules{Policy: policyOf(s.t, policy), Limits: Limits{Unconfirmed: 64, Permissions: 64, Channels: 64}, ModernWithoutCredentials: true}
	if s.cfg.limits != nil {
		s.cfg.limits(&r.Limits)
	}
	if s.cfg.rules != nil {
		s.cfg.rules(r)
	}
	return r
}

// portOpener is a data plane that opens everything but what is foreign.
type portOpener struct {
	t       testing.TB
	open    map[uint32]netip.AddrPort
	foreign []uint16
	err     error
	opened  int
	streams []uint32 // closed
}

func (o *portOpener) OpenRelay(i uint32, local netip.AddrPort) error {
	if o.err != nil {
		return o.err
	}
	if slices.Contains(o.foreign, local.Port()) {
		return ErrPortTaken
	}
	if old, ok := o.open[i]; ok {
		o.t.Errorf("allocation %d has %v open and opens %v", i, old, local)
	}
	o.open[i] = local
	o.opened++
	return nil
}

func (o *portOpener) CloseRelay(i uint32) {
	if _, ok := o.open[i]; !ok {
		o.t.Errorf("allocation %d closes what is not open", i)
	}
	delete(o.open, i)
}

func (o *portOpener) CloseStream(stream uint32) { o.streams = append(o.streams, stream) }

// after moves the clock.
func (s *server) after(d time.Duration) { s.now = s.now.Add(d) }

func (s *server) tick() {
	for _, c := range s.cores {
		c.Tick(s.now)
	}
	s.settle(0)
}

// settle takes what core n left, after deliveries between shards.
func (s *server) settle(n int) (out []Output) {
	s.t.Helper()
	for _, o := range s.cores[n].Outputs() {
		o.Data = bytes.Clone(o.Data)
		out = append(out, o)
	}
	s.cores[n].Reset()
	s.events = append(s.events, s.cores[n].TakeEvents()...)
	for i := 0; i < len(out); i++ {
		if o := out[i]; o.Kind == ToShard {
			s.cores[o.Shard].HairpinFrom(s.now, o.Crossing, s.packet(o.Data))
			out = append(out, s.settle(o.Shard)...)
		}
	}
	if !s.quiet {
		s.check()
	}
	return out
}

func (s *server) packet(b []byte) Packet {
	if !s.quiet {
		clear(s.buf)
	}
	copy(s.buf[Headroom:], b)
	return Packet{s.buf, Headroom, len(b)}
}

// from gives the cores of shard n a client's message and returns what they leave.
func (s *server) from(n int, src Source, b []byte) []Output {
	s.t.Helper()
	s.cores[n].FromClient(s.now, &src, s.packet(b))
	return s.settle(n)
}

// peer gives the shard that has the relayed address, in its public form, a datagram. It is closed if nobody has it.
func (s *server) peer(relayed netip.AddrPort, from string, payload []byte) []Output {
	s.t.Helper()
	n, i, ok := s.ledger.owner(relayed)
	if !ok {
		n, i = 0, none
	}
	s.cores[n].FromPeer(s.now, i, endpointOf(from), s.packet(payload))
	return s.settle(n)
}

// did returns how many packets had this end, in all cores.
func (s *server) did(d Disposition) (n uint64) {
	for _, c := range s.cores {
		n += c.stats.Packets[d]
	}
	return n
}

func (s *server) stats() (all Stats) {
	for _, c := range s.cores {
		one := c.Stats()
		all.Add(&one)
	}
	return all
}

// ended returns the reasons of the ends among the events.
func (s *server) ended() (reasons []EndReason) {
	for _, e := range s.events {
		if e.Kind == EventEnded {
			reasons = append(reasons, e.Reason)
		}
	}
	return reasons
}

// expect fails unless the step that f takes counts exactly one packet, under d.
func (s *server) expect(d Disposition, f func() []Output) []Output {
	s.t.Helper()
	before := make([][dispositions]uint64, len(s.cores))
	for i, c := range s.cores {
		before[i] = c.stats.Packets
	}
	out := f()
	var got []string
	for i, c := range s.cores {
		for d := range dispositions {
			for range c.stats.Packets[d] - before[i][d] {
				got = append(got, d.String())
			}
		}
	}
	if len(got) != 1 || got[0] != d.String() {
		s.t.Errorf("counted %v, want %v", got, d)
	}
	return out
}

// client is a TURN client of a server.
type client struct {
	*server
	shard   int
	src     Source
	tx      byte
	relayed netip.AddrPort // of the last successful Allocate
	token   []byte
	user    string
	mac     *stun.Mac
	realm   string
	nonce   string
}

func (s *server) client(addr string) *client {
	a := endpointOf(addr)
	server := "192.0.2.10:3478"
	if a.Addr().Is6() {
		server = "[2001:db8::10]:3478"
	}
	return &client{server: s, src: Source{Client: a, Server: endpointOf(server)}}
}

func (s *server) stream(addr string, n uint32) *client {
	c := s.client(addr)
	c.src.Stream = n
	return c
}

// attr is an attribute to write.
type attr func(*stun.Builder)

func value(t stun.AttrType, v ...byte) attr { return func(b *stun.Builder) { b.Attr(t, v) } }
func lifetimeOf(seconds uint32) attr {
	return func(b *stun.Builder) { b.Uint32(stun.AttrLifetime, seconds) }
}
func peerOf(addr string) attr {
	return func(b *stun.Builder) { b.XORAddress(stun.AttrXORPeerAddress, endpointOf(addr)) }
}
func dataOf(v string) attr    { return func(b *stun.Builder) { b.String(stun.AttrData, v) } }
func channelOf(n uint16) attr { return value(stun.AttrChannelNumber, byte(n>>8), byte(n), 0, 0) }
func props(b byte) attr       { return value(stun.AttrEvenPort, b, 0, 0, 0) }
func even(b byte) attr        { return value(stun.AttrEvenPort, b) }
func familyOf(f byte) attr    { return value(stun.AttrRequestedFamily, f, 0, 0, 0) }

var udp = value(stun.AttrRequestedTransport, 17, 0, 0, 0)

// message writes a message with a transaction ID of its own.
func (c *client) message(m stun.Method, class stun.Class, attrs ...attr) []byte {
	c.tx++
	id := stun.TransactionID{0: byte(m), 1: c.tx, 2: byte(c.src.Client.Port() >> 8), 3: byte(c.src.Client.Port()), 4: c.src.Client.Addr().As16()[15]}
	b := stun.Begin(nil, stun.NewType(m, class), id)
	for _, a := range attrs {
		a(&b)
	}
	if c.mac != nil && class == stun.Request {
		b.String(stun.AttrUsername, c.user)
		b.String(stun.AttrRealm, c.realm)
		b.String(stun.AttrNonce, c.nonce)
		b.Integrity(c.mac)
	}
	return b.Bytes()
}

// give sends raw bytes.
func (c *client) give(b []byte) []Output {
	c.t.Helper()
	return c.from(c.shard, c.src, b)
}

// request sends a request and returns the code of its answer: 0 for a success, -1 for none.
func (c *client) request(m stun.Method, attrs ...attr) int {
	c.t.Helper()
	code, _ := c.ask(c.message(m, stun.Request, attrs...))
	return code
}

// ask sends a request as it is.
func (c *client) ask(b []byte) (code int, answer stun.Message) {
	c.t.Helper()
	request, err := stun.Parse(b)
	if err != nil {
		c.t.Fatal(err)
	}
	out := c.give(b)
	if len(out) == 0 {
		return -1, answer
	}
	o := out[0]
	if len(out) != 1 || o.Kind != ToClient || o.Source != c.src {
		c.t.Fatalf("answered with %+v", out)
	}
	answer, err = stun.Parse(o.Data)
	if err != nil || answer.Method() != request.Method() || answer.TransactionID() != request.TransactionID() {
		c.t.Fatalf("the answer %x to %x: %v", o.Data, b, err)
	}
	switch answer.Class() {
	case stun.Success:
	case stun.Error:
		code, _, _ = answer.ErrorCode()
		if r, ok := answer.Get(stun.AttrRealm); ok {
			n, _ := answer.Get(stun.AttrNonce)
			c.realm, c.nonce = string(r), string(n)
		}
	default:
		c.t.Fatalf("an answer of class %v", answer.Class())
	}
	if a, ok := answer.GetXORAddress(stun.AttrXORRelayedAddress); ok {
		c.relayed = a
		c.token, _ = answer.Get(stun.AttrReservationToken)
	}
	return code, answer
}

// allocate must succeed; it is the shortest way to an allocation.
func (c *client) allocate(attrs ...attr) *client {
	c.t.Helper()
	if code := c.request(stun.Allocate, append([]attr{udp}, attrs...)...); code != 0 {
		c.t.Fatalf("Allocate: %d", code)
	}
	return c
}

// sendTo sends a Send indication with data.
func (c *client) sendTo(peer, data string) []Output {
	c.t.Helper()
	return c.give(c.message(stun.Send, stun.Indication, peerOf(peer), dataOf(data)))
}

func (c *client) bind(n uint16, peer string) int {
	c.t.Helper()
	return c.request(stun.ChannelBind, channelOf(n), peerOf(peer))
}

func (c *client) channel(n uint16, data string) []Output {
	c.t.Helper()
	return c.give(channelData(n, data))
}

func channelData(n uint16, data string) []byte {
	b := binary.BigEndian.AppendUint16(nil, n)
	b = binary.BigEndian.AppendUint16(b, uint16(len(data)))
	return append(b, data...)
}

// hears reports how a datagram of the peer reaches the client: "" when it does not, "data" or the number of the channel.
func (c *client) hears(peer string) string {
	c.t.Helper()
	out := c.peer(c.relayed, peer, []byte("ping"))
	if len(out) == 0 {
		return ""
	}
	if len(out) != 1 || out[0].Kind != ToClient || out[0].Source != c.src {
		c.t.Fatalf("heard %+v", out)
	}
	if n, data, ok := ChannelData(out[0].Data); ok && string(data) == "ping" {
		return fmt.Sprintf("%#x", n)
	}
	m, err := stun.Parse(out[0].Data)
	if err != nil {
		c.t.Fatal(err)
	}
	from, _ := m.GetXORAddress(stun.AttrXORPeerAddress)
	data, _ := m.Get(stun.AttrData)
	if m.Type() != stun.NewType(stun.Data, stun.Indication) || from != endpointOf(peer) || string(data) != "ping" {
		c.t.Fatalf("heard %x", out[0].Data)
	}
	return "data"
}

// session returns what the server says of the client's allocation.
func (c *client) session() (s Session, ok bool) {
	for _, s := range c.cores[c.shard].Sessions(c.now, nil) {
		if s.Relayed == c.relayed && s.Client == c.src.Client {
			return s, true
		}
	}
	return s, false
}

func (c *client) dialect() Dialect {
	s, _ := c.session()
	return s.Dialect
}

// toPeer describes what goes to a peer, or "".
func toPeer(out []Output) string {
	if len(out) == 0 {
		return ""
	}
	return fmt.Sprintf("%d->%v %s", out[0].Kind, out[0].Peer, out[0].Data)
}

// unhex reads bytes as they stand in the documents.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func same[T comparable](t testing.TB, what string, got, wanted T) {
	t.Helper()
	if got != wanted {
		t.Errorf("%s: got %v, want %v", what, got, wanted)
	}
}
