package client

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/stilenet/stile/stun"
)

// start sends the Allocate request (§6.1). With a stream, the 39.5 s count from began, when the connection was begun.
func (c *core) start(now, began time.Time) {
	t := c.request(now, subject{method: stun.Allocate})
	if c.p.stream && began.Before(now) {
		t.at = began.Add(streamTimeout)
		c.arm(t.at)
	}
}

func (c *core) buildAllocate(b *stun.Builder) {
	b.Uint32(stun.AttrRequestedTransport, udpProtocol<<24)
	if c.p.lifetime > 0 {
		b.Uint32(stun.AttrLifetime, uint32(c.p.lifetime/time.Second))
	}
	if c.p.evenPort || c.p.reserve {
		if c.dialect == Modern {
			// EVEN-PORT, RFC 8656 §18.6: one byte, R at the top.
			r := byte(0)
			if c.p.reserve {
				r = 0x80
			}
			b.Attr(stun.AttrEvenPort, []byte{r})
		} else {
			// REQUESTED-PROPS, §13.6: E, and R which is only valid with E.
			props := uint32(0x80000000)
			if c.p.reserve {
				props |= 0x40000000
			}
			b.Uint32(stun.AttrEvenPort, props)
		}
	}
	if c.p.token != nil {
		b.Attr(stun.AttrReservationToken, c.p.token)
	}
	if c.p.family != FamilyDefault {
		b.Attr(stun.AttrRequestedFamily, []byte{byte(c.p.family), 0, 0, 0})
	}
}

// allocateDone takes the success (§6.3).
func (c *core) allocateDone(now time.Time, t *transaction, m stun.Message) {
	relayed, ok := m.GetXORAddress(stun.AttrXORRelayedAddress)
	seconds, timed := m.Uint32(stun.AttrLifetime)
	if !ok || !timed || seconds == 0 || relayed.Port() == 0 || relayed.Addr().IsUnspecified() {
		c.lose(fmt.Errorf("allocate: %w: its success names no relayed address or no lifetime", ErrProtocol))
		return
	}
	relayed = netip.AddrPortFrom(relayed.Addr().Unmap(), relayed.Port())
	c.phase, c.relayed = allocated, relayed
	c.mapped, _ = m.GetXORAddress(stun.AttrXORMappedAddress)
	c.mapped = netip.AddrPortFrom(c.mapped.Addr().Unmap(), c.mapped.Port())
	if v, ok := m.Get(stun.AttrReservationToken); ok && len(v) == 8 {
		c.token = append([]byte(nil), v...)
	}
	c.extend(t.began, now, seconds)
	c.lastRefresh = ErrTimeout
	c.heard(now)
	c.arm(c.keepAt)
	if c.p.family == IPv4 && !relayed.Addr().Is4() || c.p.family == IPv6 && relayed.Addr().Is4() {
		c.events = append(c.events, event{kind: eventFailed, err: fmt.Errorf("allocate: %w: the relayed address %v is of another family",
			ErrProtocol, relayed)})
		c.release(now)
		return
	}
	c.emit(eventAllocated, nil)
}

// extend notes the lifetime that the server counts from some time between the request and now.
func (c *core) extend(began, now time.Time, seconds uint32) {
	c.lifetime = min(time.Duration(seconds)*time.Second, maxLifetime)
	lead := refreshLead
	if c.lifetime <= 2*refreshLead {
		lead = c.lifetime / 2
	}
	c.expires = began.Add(c.lifetime)
	c.refreshAt = began.Add(c.lifetime - lead)
	if c.refreshAt.Before(now) {
		c.refreshAt = now
	}
	c.arm(c.refreshAt)
	c.arm(c.expires)
}

// refresh asks for more time (§7).
func (c *core) refresh(now time.Time) {
	c.refreshAt = time.Time{}
	c.request(now, subject{method: stun.Refresh})
}

func (c *core) refreshDone(now time.Time, t *transaction, m stun.Message) {
	if t.release {
		c.lose(nil)
		return
	}
	if c.phase != allocated {
		return
	}
	seconds, ok := m.Uint32(stun.AttrLifetime)
	switch {
	case !ok:
		c.refreshFailed(now, t, ErrProtocol)
	case seconds == 0:
		c.lose(fmt.Errorf("refresh: %w: lifetime 0 was not asked for", ErrProtocol))
	default:
		c.extend(t.began, now, seconds)
	}
}

// refreshFailed tries again until the allocation expires: an error to a Refresh does not end it (§7), and neither does
// silence.
func (c *core) refreshFailed(now time.Time, t *transaction, err error) {
	if t.release {
		c.lose(nil)
		return
	}
	if c.phase != allocated {
		return
	}
	c.lastRefresh, c.refreshAt = err, now
	if !errors.Is(err, ErrTimeout) {
		c.refreshAt = now.Add(refreshAgain)
	}
	c.arm(c.refreshAt)
}

// release gives the allocation back (§7). eventReleased tells when the server has answered or need not be asked.
func (c *core) release(now time.Time) {
	switch c.phase {
	case allocated:
		c.phase, c.txs = releasing, nil
		c.request(now, subject{method: stun.Refresh, release: true})
	case allocating:
		// The server may have an allocation whose success is lost or on its way. One Refresh, whose answer nobody waits for,
		// spares it ten minutes of an allocation that nobody uses.
		asked := len(c.txs) > 0
		c.end()
		if asked {
			b := stun.Begin(nil, stun.NewType(stun.Refresh, stun.Request), c.newID())
			b.Uint32(stun.AttrLifetime, 0)
			c.auth.sign(&b)
			c.send(now, b.Bytes())
		}
		c.emit(eventReleased, nil)
	case ended:
		c.emit(eventReleased, nil)
	}
}
