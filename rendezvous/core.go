package rendezvous

import (
	"crypto/sha256"
	"encoding/binary"
	"io"
	"math"
	"time"

	"github.com/stilenet/stile/rtmfp"
	"github.com/stilenet/stile/rtmfp/flash"
)

// PeerID names a client: the SHA-256 of its certificate (RFC 7425 §4.3.2).
type PeerID = flash.PeerID

// Config is what a Core is made of. All but Check is required.
type Config struct {
	Registry *Registry // the same for all shards
	Identity rtmfp.Identity
	Random   io.Reader
	// Shard and Shards say which of the shards this is.
	Shard, Shards int
	// Check is what the connectivity check can do.
	Check CheckConfig
}

// Core is one shard of the service: it decides about the events of an rtmfp.Endpoint, whose owner runs it. It performs no I/O and
// reads no clock: events and the time go in; messages to other shards, probes and events for the log come out. It is not safe
// for concurrent use: the goroutine that owns the endpoint owns it.
type Core struct {
	cfg      Config
	reg      *Registry
	e        *rtmfp.Endpoint
	cipher   rtmfp.Cipher // of probes
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

// NewCore makes the core of a shard. Attach must follow.
func NewCore(cfg Config) *Core {
	cfg.Shards = max(1, cfg.Shards)
	return &Core{cfg: cfg, reg: cfg.Registry, cipher: cfg.Identity.DefaultCipher(), clients: make(map[uint32]*client)}
}

// EndpointConfig is what the endpoint of a shard is made of, but for its interfaces, its shard and its cookie key.
func EndpointConfig(reg *Registry, identity rtmfp.Identity, random io.Reader, shards int) rtmfp.Config {
	rules := reg.Rules()
	return rtmfp.Config{
		Identity: identity, Random: random,
		// An FIHello is what this end sends, and nobody is to redirect this end.
		ForwardedHello:  rtmfp.ForwardedHelloIgnore,
		Keepalive:       rules.sessionKeepalive(),
		RetransmitLimit: retransmitLimit,
		IdleLimit:       connectWait,
		Limits: rtmfp.Limits{
			Sessions: max(1, rules.Sessions/max(1, shards)), Opening: 1, ReceiveFlows: maxFlows, FlowBuffer: maxMessage + 1<<10, Buffer: 64 << 20,
		},
	}
}

// retransmitLimit is how long a client may leave a ping or a message unanswered before its session ends.
const retransmitLimit = 30 * time.Second

// sessionKeepalive is the server's own period: longer than what clients are told, so that a client that follows is never pinged.
func (r *Rules) sessionKeepalive() time.Duration { return r.Keepalive + r.Keepalive/4 }

// Attach gives the core its endpoint. Again is no error.
func (c *Core) Attach(e *rtmfp.Endpoint) { c.e = e }

func (c *Core) clock(now time.Time) {
	if now.After(c.now) {
		c.now, c.t = now, c.reg.since(now)
	}
}

// Tick does what is due at now.
func (c *Core) Tick(now time.Time) {
	c.clock(now)
	for {
		d, ok := c.due.pop(c.t)
		if !ok {
			break
		}
		c.deadline(d)
	}
	c.settle()
}

// NextTimer reports when Tick is due. ok is false if nothing is.
func (c *Core) NextTimer() (at time.Time, ok bool) {
	next := int64(math.MaxInt64)
	if len(c.due) > 0 {
		next = c.due[0].at
	}
	if len(c.challenges) > 0 {
		next = min(next, c.challenges[0].at)
	}
	if next == math.MaxInt64 {
		return time.Time{}, false
	}
	return c.reg.epoch.Add(time.Duration(next)), true
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

// Handle takes an event of the endpoint, but for rtmfp.EventKeying.
func (c *Core) Handle(now time.Time, ev rtmfp.Event) {
	c.clock(now)
	c.event(&ev)
}

func (c *Core) event(ev *rtmfp.Event) {
	switch ev.Kind {
	case rtmfp.EventHello:
		if outcome := c.hello(ev.Hello); outcome != introductionPosted {
			c.stats.Introductions[outcome]++
		}
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
			c.parted(cl)
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
