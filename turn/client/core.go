package client

import (
	"io"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/stilenet/stile/stun"
)

// core is one attempt at an allocation and, when that succeeds, the allocation. It takes the time, the server's bytes and
// the caller's payloads and leaves messages for the server in out and news for the shell in events. It performs no
// I/O and reads no clock. It is not safe for concurrent use: Conn guards it with its mutex.
//
//	allocating --success--> allocated --release--> releasing --answer--> ended
//	     |                      |                       |
//	     +-------error----------+--437, expiry----------+--------------> ended
type core struct {
	p     params
	ids   *rand.ChaCha8
	phase phase
	auth  credentials

	dialect  Dialect   // Legacy, Modern, or Auto while the server has not shown which
	probeEnd time.Time // Auto: when silence means Legacy; zero before the first CreatePermission

	relayed, mapped netip.AddrPort
	token           []byte
	lifetime        time.Duration
	refreshAt       time.Time // zero while a Refresh is under way
	expires         time.Time
	lastRefresh     error     // why the last Refresh failed
	keepAt          time.Time // when the server must hear something; zero: no keepalives

	txs       []*transaction // in the order they began
	perms     map[netip.Addr]*permission
	permList  []*permission // the same, in an order that a simulation can repeat
	peers     map[netip.AddrPort]*peer
	peerList  []*peer
	channels  map[uint16]*peer
	nextChan  uint16
	heldBytes int

	wake   time.Time // when tick wants to be called; zero: not at all
	taken  time.Time // what wake was when the shell set its timer
	out    [][]byte  // messages for the server; the shell takes them
	events []event   // news for the shell, which takes them
	stats  Stats
}

// params is what a core needs of a Config.
type params struct {
	username, password string
	dialect            Dialect
	lifetime           time.Duration // 0: the server's
	channelAfter       int           // negative: never
	keepalive          time.Duration // 0: none
	evenPort, reserve  bool
	token              []byte
	family             Family
	stream             bool // TCP: no retransmission, padded ChannelData
}

type phase uint8

const (
	allocating phase = iota + 1
	allocated
	releasing
	ended
)

// event is something the shell must know of.
type event struct {
	kind eventKind
	addr netip.Addr     // of eventPermission
	peer netip.AddrPort // of eventBound
	err  error          // why; nil in eventPermission: granted; nil in eventBound: bound
}

type eventKind uint8

const (
	eventAllocated  eventKind = iota + 1
	eventFailed               // no allocation; err says why
	eventLost                 // the allocation is gone; err says why
	eventReleased             // the server has released it, or was never asked to
	eventPermission           // a permission was granted or refused
	eventBound                // what bindNow asked for
)

// newCore prepares an attempt. seed is read for 32 bytes.
func newCore(p params, seed io.Reader) (*core, error) {
	var key [32]byte
	if _, err := io.ReadFull(seed, key[:]); err != nil {
		return nil, err
	}
	return &core{
		p: p, ids: rand.NewChaCha8(key), phase: allocating, dialect: p.dialect, nextChan: firstChannel,
		auth:  credentials{username: p.username, password: p.password},
		perms: map[netip.Addr]*permission{}, peers: map[netip.AddrPort]*peer{}, channels: map[uint16]*peer{},
	}, nil
}

// newID is a transaction identifier nobody can guess.
func (c *core) newID() (id stun.TransactionID) {
	_, _ = c.ids.Read(id[:]) // never fails
	return id
}

// send leaves a message for the server.
func (c *core) send(now time.Time, b []byte) {
	c.out = append(c.out, b)
	c.heard(now)
}

// heard notes that the server hears from us now, so that no keepalive is needed for a while.
func (c *core) heard(now time.Time) {
	if c.p.keepalive > 0 {
		c.keepAt = now.Add(c.p.keepalive)
	}
}

func (c *core) emit(kind eventKind, err error) {
	c.events = append(c.events, event{kind: kind, err: err})
}

// arm makes sure that tick is called at t.
func (c *core) arm(t time.Time) {
	if !t.IsZero() && (c.wake.IsZero() || t.Before(c.wake)) {
		c.wake = t
	}
}

// tick does what is due. It may be called at any time.
func (c *core) tick(now time.Time) {
	if c.phase == ended {
		c.wake = time.Time{}
		return
	}
	c.tickTransactions(now)
	if c.phase == allocated && !c.expires.After(now) {
		c.lose(c.lastRefresh)
	}
	if c.phase == allocated {
		if due(c.refreshAt, now) {
			c.refresh(now)
		}
		if due(c.probeEnd, now) {
			c.probeEnd = time.Time{}
			if c.dialect == Auto {
				c.settle(now, Legacy)
			}
		}
		c.tickPermissions(now)
		c.tickChannels(now)
		if due(c.keepAt, now) {
			// RFC 8489 §6.2.2: a Binding indication keeps a mapping alive and wants no answer.
			b := stun.Begin(nil, stun.NewType(stun.Binding, stun.Indication), c.newID())
			c.send(now, b.Bytes())
		}
	}
	c.wake = time.Time{}
	if c.phase == ended {
		return
	}
	for _, t := range c.txs {
		c.arm(t.at)
	}
	if c.phase != allocated {
		return
	}
	c.arm(c.expires)
	c.arm(c.refreshAt)
	c.arm(c.probeEnd)
	c.arm(c.keepAt)
	for _, p := range c.permList {
		c.arm(p.due)
	}
	for _, p := range c.peerList {
		c.arm(p.due)
	}
}

// wakeTaken is the time that the shell sets its timer to.
func (c *core) wakeTaken() time.Time {
	c.taken = c.wake
	return c.wake
}

// wakeMoved reports whether the shell's timer is not set to what it should be.
func (c *core) wakeMoved() bool { return !c.taken.Equal(c.wake) }

func due(t, now time.Time) bool { return !t.IsZero() && !t.After(now) }

// handle takes one message of the server. data, which aliases b, is what a peer sent; ok says whether there is any.
func (c *core) handle(now time.Time, b []byte) (from netip.AddrPort, data []byte, ok bool) {
	c.stats.Read++
	if isChannelData(b) {
		from, data, drop := c.channelData(now, b)
		return from, data, c.count(drop)
	}
	m, err := stun.Parse(b)
	if err != nil {
		return from, nil, c.count(DropMalformed)
	}
	if m.CheckFingerprint() == stun.FingerprintInvalid {
		return from, nil, c.count(DropFingerprint)
	}
	switch m.Class() {
	case stun.Indication:
		from, data, drop := c.indication(m)
		return from, data, c.count(drop)
	case stun.Success, stun.Error:
		if drop := c.response(now, m); drop != 0 {
			c.count(drop)
		} else {
			c.stats.Responses++
		}
		return from, nil, false
	}
	return from, nil, c.count(DropUnexpected)
}

// count counts what became of one message and reports whether it was data.
func (c *core) count(drop Drop) bool {
	if drop == 0 {
		c.stats.Delivered++
		return true
	}
	c.stats.Dropped[drop]++
	return false
}

// lose ends the allocation for a reason that is not ours.
func (c *core) lose(cause error) {
	if c.phase == ended {
		return
	}
	was := c.phase
	c.end()
	switch was {
	case allocating:
		c.emit(eventFailed, cause)
	case allocated:
		c.emit(eventLost, cause)
	case releasing:
		c.emit(eventReleased, nil)
	}
}

func (c *core) end() {
	c.phase, c.txs, c.wake = ended, nil, time.Time{}
}

// takeOut hands over what is to be sent and told.
func (c *core) takeOut() (out [][]byte, events []event) {
	out, events = c.out, c.events
	c.out, c.events = nil, nil
	return out, events
}
