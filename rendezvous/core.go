package rendezvous

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/stilenet/stile/rtmfp"
	"github.com/stilenet/stile/rtmfp/flash"
)

// PeerID names a client: the SHA-256 of its certificate (RFC 7425 §4.3.2).
type PeerID = flash.PeerID

// Config is what a Core is made of. All but the last two fields are required.
type Config struct {
	Registry *Registry // the same for all shards
	Identity rtmfp.Identity
	Random   io.Reader
	// CookieKey is the same for all shards, so that a client may come to any of them.
	CookieKey [32]byte
	// Shard and Shards say which of the shards this is.
	Shard, Shards int
	// Interfaces are the sockets, the same for all shards. None means one that reaches both families.
	Interfaces []rtmfp.Interface
	// DeferKeying gives key negotiations out by Keyings.
	DeferKeying bool
	// Check is what the connectivity check can do.
	Check CheckConfig
}

// Core is one shard of the service. It performs no I/O and reads no clock: datagrams and the time go in; datagrams, messages to
// other shards, probes, keyings and events come out. It is not safe for concurrent use: one goroutine owns it.
type Core struct {
	cfg      Config
	reg      *Registry
	e        *rtmfp.Endpoint
	now      time.Time
	t        int64 // now, on the registry's clock
	clients  map[uint32]*client
	serial   uint64
	draining bool

	due        deadlines
	challenges []challenge // by time
	recent     [recentHellos]recentHello
	posts      []Post
	probes     []Probe
	keyings    []*rtmfp.Keying
	events     []Event
	stats      Stats
	told       [refusalCount]told
	scratch    []rtmfp.Address
}

// told is when a kind of refusal was last told of, and how often it has happened since.
type told struct {
	at    int64
	count uint64
}

// recentHello remembers an IHello that was answered.
type recentHello struct {
	digest uint64
	at     int64
}

// NewCore makes the core of a shard.
func NewCore(now time.Time, cfg Config) (*Core, error) {
	if cfg.Shards <= 0 {
		cfg.Shards = 1
	}
	rules := cfg.Registry.Rules()
	e, err := rtmfp.New(now, rtmfp.Config{
		Identity: cfg.Identity, Random: cfg.Random, Interfaces: cfg.Interfaces, CookieKey: cfg.CookieKey, DeferKeying: cfg.DeferKeying,
		Shard: uint32(cfg.Shard), Shards: uint32(cfg.Shards),
		// An FIHello is what this end sends, and nobody is to redirect this end.
		ForwardedHello:  rtmfp.ForwardedHelloIgnore,
		Keepalive:       rules.sessionKeepalive(),
		RetransmitLimit: retransmitLimit,
		IdleLimit:       connectWait,
		Limits: rtmfp.Limits{
			Sessions: max(1, rules.Sessions/cfg.Shards), Opening: 1, ReceiveFlows: maxFlows, FlowBuffer: maxMessage + 1<<10, Buffer: 64 << 20,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("rendezvous: %w", err)
	}
	return &Core{cfg: cfg, reg: cfg.Registry, e: e, clients: make(map[uint32]*client)}, nil
}

// retransmitLimit is how long a client may leave a ping or a message unanswered before its session ends.
const retransmitLimit = 30 * time.Second

// sessionKeepalive is the server's own period: longer than what clients are told, so that a client that follows is never pinged.
func (r *Rules) sessionKeepalive() time.Duration { return r.Keepalive + r.Keepalive/4 }

func (c *Core) clock(now time.Time) {
	if now.After(c.now) {
		c.now, c.t = now, c.reg.since(now)
	}
}

// Receive takes a datagram that came from from to an interface. It decrypts in place and keeps nothing of the buffer.
func (c *Core) Receive(now time.Time, iface int, from netip.AddrPort, datagram []byte) {
	c.clock(now)
	c.stats.Read++
	// What goes to unproven addresses is at most three times what came, so that is what a startup packet may cost.
	if id, ok := rtmfp.SessionID(datagram); ok && id == 0 {
		units := int64(3 * (len(datagram) + 48))
		if !c.reg.hellos.of(from.Addr().Unmap()).take(c.t, units, c.reg.Rules().rates.replyBytes) {
			c.stats.SourceRate++
			return
		}
	}
	c.e.Receive(now, iface, from, datagram)
	c.handle()
}

// Tick does what is due at now.
func (c *Core) Tick(now time.Time) {
	c.clock(now)
	c.e.Tick(now)
	c.handle()
	for {
		d, ok := c.due.pop(c.t)
		if !ok {
			break
		}
		c.deadline(d)
	}
	c.settle()
	c.handle()
}

// NextTimer reports when Tick is due. ok is false if nothing is. It is right after Flush.
func (c *Core) NextTimer() (at time.Time, ok bool) {
	at, ok = c.e.NextTimer()
	mine := func(t int64) {
		if m := c.reg.epoch.Add(time.Duration(t)); !ok || m.Before(at) {
			at, ok = m, true
		}
	}
	if len(c.due) > 0 {
		mine(c.due[0].at)
	}
	if len(c.challenges) > 0 {
		mine(c.challenges[0].at)
	}
	return at, ok
}

// Keyed takes back a keying that has run.
func (c *Core) Keyed(now time.Time, k *rtmfp.Keying) {
	c.clock(now)
	c.e.Keyed(now, k)
	c.handle()
}

// Flush returns the datagrams to send, which are valid until its next call. Recycle gives them back.
func (c *Core) Flush(now time.Time) []rtmfp.Datagram {
	c.clock(now)
	return c.e.Flush(now)
}

// Recycle gives back what Flush returned when it has been sent.
func (c *Core) Recycle(sent []rtmfp.Datagram) { c.e.Recycle(sent) }

// Keyings returns the key negotiations to be run elsewhere, since it was last called. The caller owns the slice.
func (c *Core) Keyings() []*rtmfp.Keying {
	out := c.keyings
	c.keyings = nil
	return out
}

// Posts returns the messages to other shards since it was last called: each is for Core.Deliver of its shard. The caller owns
// the slice.
func (c *Core) Posts() []Post {
	out := c.posts
	c.posts = nil
	return out
}

// Probes returns the packets of connectivity checks to send since it was last called. The caller owns the slice.
func (c *Core) Probes() []Probe {
	out := c.probes
	c.probes = nil
	return out
}

// Events returns what happened since it was last called. The caller owns the slice.
func (c *Core) Events() []Event {
	out := c.events
	c.events = nil
	return out
}

// handle processes what the endpoint has to say.
func (c *Core) handle() {
	for {
		events := c.e.Events()
		if len(events) == 0 {
			return
		}
		for i := range events {
			c.event(&events[i])
		}
	}
}

func (c *Core) event(ev *rtmfp.Event) {
	switch ev.Kind {
	case rtmfp.EventHello:
		c.stats.Introductions[c.hello(ev.Hello)]++
	case rtmfp.EventKeying:
		c.keyings = append(c.keyings, ev.Keying)
	case rtmfp.EventSessionOpen:
		c.open(ev.Session)
	case rtmfp.EventSessionClosing:
		if cl := c.client(ev.Session); cl != nil {
			c.closed(cl, ev.Reason)
		}
	case rtmfp.EventAddressChanged:
		if cl := c.client(ev.Session); cl != nil {
			c.moved(cl)
		}
	case rtmfp.EventFlowOpen:
		c.flowOpen(ev.Receive)
	case rtmfp.EventMessage:
		if cl := c.client(ev.Session); cl != nil {
			c.message(cl, ev.Receive, ev.Data)
		}
	case rtmfp.EventFlowComplete, rtmfp.EventFlowRejected:
		// "The other end, on receiving a close/complete notification for the canonical NetConnection control receiving flow,
		// closes its sending flows" (RFC 7425 §5.3.6).
		if cl := c.client(ev.Session); cl != nil && ev.Receive == cl.control {
			c.goodbye(cl)
		}
	case rtmfp.EventFlowException:
		// "the end seeing the exception knows the other end has terminated abruptly" (RFC 7425 §5.3.6).
		if cl := c.client(ev.Session); cl != nil && ev.Send == cl.reply {
			cl.session.Close(c.now)
		}
	case rtmfp.EventFlowFinished:
		if cl := c.client(ev.Session); cl != nil && ev.Send == cl.reply && cl.state == stateGoodbye {
			cl.session.Close(c.now)
		}
	}
}

// client is who has the session, or nil.
func (c *Core) client(s *rtmfp.Session) *client {
	if cl, ok := s.User.(*client); ok {
		return cl
	}
	return nil
}

// digestHello is of everything that a copy of an IHello has in common with it.
func digestHello(h *rtmfp.Hello) uint64 {
	d := sha256.New()
	ip := h.From.Addr().As16()
	d.Write(ip[:])
	var b [4]byte
	binary.BigEndian.PutUint16(b[:], h.From.Port())
	binary.BigEndian.PutUint16(b[2:], uint16(len(h.EPD)))
	d.Write(b[:])
	d.Write(h.EPD)
	d.Write(h.Tag)
	var sum [sha256.Size]byte
	return binary.BigEndian.Uint64(d.Sum(sum[:0]))
}

// repeated says whether this IHello was answered a moment ago, and remembers it.
func (c *Core) repeated(h *rtmfp.Hello) bool {
	digest := digestHello(h)
	r := &c.recent[digest%recentHellos]
	if r.digest == digest && c.t-r.at < int64(repeatWindow) {
		return true
	}
	*r = recentHello{digest, c.t}
	return false
}
