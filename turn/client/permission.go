package client

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/stilenet/stile/stun"
)

// permission is the server's leave for one peer address, whatever the port, to send to us (§8).
type permission struct {
	peer    netip.AddrPort // the address, with the port that was written to last
	state   permissionState
	asking  bool      // a CreatePermission is under way
	opened  time.Time // when the server was last told
	due     time.Time // when to tell it again; zero: not by itself
	used    time.Time // when the caller last wrote, to know which lapses when the table is full
	pinned  bool      // by Permit: never lapses
	err     error     // why it was refused
	retryAt time.Time // when a refused one may be asked for again
	held    [][]byte  // Send indications that wait for the server's leave
}

type permissionState uint8

const (
	permissionNew     permissionState = iota + 1 // nothing known
	permissionGranted                            // the server agreed, or in Legacy was told
	permissionRefused
)

// permission finds or makes the entry of an address. It is nil when the table is full of pinned ones.
func (c *core) permission(now time.Time, to netip.AddrPort) *permission {
	if p := c.perms[to.Addr()]; p != nil {
		p.peer, p.used = to, now
		return p
	}
	if len(c.permList) >= MaxPeers && !c.evictPermission() {
		return nil
	}
	p := &permission{peer: to, state: permissionNew, used: now}
	c.perms[to.Addr()] = p
	c.permList = append(c.permList, p)
	return p
}

// evictPermission lets the least recently used permission lapse, with its peers.
func (c *core) evictPermission() bool {
	victim := -1
	for i, p := range c.permList {
		if !p.pinned && !p.asking && (victim < 0 || p.used.Before(c.permList[victim].used)) {
			victim = i
		}
	}
	if victim < 0 {
		return false
	}
	p := c.permList[victim]
	c.discardHeld(p)
	delete(c.perms, p.peer.Addr())
	c.permList = append(c.permList[:victim], c.permList[victim+1:]...)
	return true
}

// open makes sure that the server lets p send to us, and reports whether data may be sent to p before it answers.
// told: a message that opens the permission in the Legacy dialect follows at once.
func (c *core) open(now time.Time, p *permission, told bool) (free bool, err error) {
	if c.dialect == Legacy {
		switch {
		case told:
			p.opened = now // §9.2, §10.2: data of the client, in either form, installs and refreshes it
		case p.state != permissionGranted:
			c.sendEmpty(now, p)
		}
		if p.state != permissionGranted {
			p.state, p.due = permissionGranted, now.Add(permissionWarm)
			c.arm(p.due)
			c.tell(p, nil)
		}
		return true, nil
	}
	if p.state == permissionGranted {
		return true, nil
	}
	if p.state == permissionRefused && now.Before(p.retryAt) {
		return false, p.err
	}
	if !p.asking {
		p.state, p.err, p.asking = permissionNew, nil, true
		c.request(now, subject{method: stun.CreatePermission, perm: p})
		if c.dialect == Auto && c.probeEnd.IsZero() {
			c.probeEnd = now.Add(probeSilence)
			c.arm(c.probeEnd)
		}
	}
	return c.dialect == Auto, nil
}

// sendEmpty opens or keeps a permission in the Legacy dialect: a Send without DATA (§9.2).
func (c *core) sendEmpty(now time.Time, p *permission) {
	b := stun.Begin(make([]byte, 0, indicationHeader), stun.NewType(stun.Send, stun.Indication), c.newID())
	b.XORAddress(stun.AttrXORPeerAddress, p.peer)
	c.send(now, b.Bytes())
	p.opened = now
}

// permit keeps the way open for a peer until the end, whether it is written to or not. An eventPermission follows.
func (c *core) permit(now time.Time, peer netip.AddrPort) error {
	if c.phase != allocated {
		return ErrAllocationLost
	}
	if err := c.reachable(peer); err != nil {
		return err
	}
	p := c.permission(now, peer)
	if p == nil {
		return ErrPermissions
	}
	p.pinned = true
	known := p.state == permissionGranted
	if _, err := c.open(now, p, false); err != nil {
		c.tell(p, err)
	} else if known {
		c.tell(p, nil)
	}
	return nil
}

func (c *core) tell(p *permission, err error) {
	c.events = append(c.events, event{kind: eventPermission, addr: p.peer.Addr(), err: err})
}

// tickPermissions renews what is due.
func (c *core) tickPermissions(now time.Time) {
	for _, p := range c.permList {
		if !due(p.due, now) {
			continue
		}
		if c.dialect == Modern {
			p.due = time.Time{}
			if !p.asking {
				p.asking = true
				c.request(now, subject{method: stun.CreatePermission, perm: p})
			}
			continue
		}
		// Data since then has kept it as well.
		if next := p.opened.Add(permissionWarm); next.After(now) {
			p.due = next
			continue
		}
		c.sendEmpty(now, p)
		p.due = now.Add(permissionWarm)
	}
}

// permitted takes the success of CreatePermission.
func (c *core) permitted(now time.Time, t *transaction) {
	p := t.perm
	c.settle(now, Modern)
	p.asking = false // only now, so that settle does not ask for it again
	if c.perms[p.peer.Addr()] != p {
		return // evicted
	}
	p.state, p.err, p.opened = permissionGranted, nil, t.began
	p.due = t.began.Add(permissionRenew)
	if p.due.Before(now) {
		p.due = now
	}
	c.arm(p.due)
	for _, b := range p.held {
		c.heldBytes -= len(b)
		c.send(now, b)
	}
	p.held = nil
	c.tell(p, nil)
}

// permissionFailed takes an error, or silence, to CreatePermission.
func (c *core) permissionFailed(now time.Time, t *transaction, err error) {
	p := t.perm
	e, spoke := answered(err)
	defer func() { p.asking = false }() // only then, so that settle does not ask for it again
	if c.p.dialect == Auto {
		switch {
		case !spoke:
			// Silence in the dialect of those who have never heard of CreatePermission.
			if c.dialect != Modern {
				c.settle(now, Legacy)
				return
			}
		case e.Code == stun.CodeBadRequest || e.Code == stun.CodeUnknownAttribute || e.Code == stun.CodeServerError:
			// A server that does not know the method should stay silent, but some answer this way.
			if c.dialect == Auto {
				c.settle(now, Legacy)
			}
			if c.dialect == Legacy {
				return
			}
		default:
			c.settle(now, Modern)
		}
	}
	p.state, p.err, p.due = permissionRefused, fmt.Errorf("client: %w", err), time.Time{}
	p.retryAt = now
	if spoke {
		p.retryAt = now.Add(refusedFor)
	}
	if p.pinned {
		p.due = now.Add(refusedFor)
		c.arm(p.due)
	}
	c.discardHeld(p)
	c.tell(p, p.err)
}

func (c *core) discardHeld(p *permission) {
	for _, b := range p.held {
		c.heldBytes -= len(b)
		c.stats.Discarded++
	}
	p.held = nil
}

// hold keeps a Send indication until the permission is granted. What does not fit is lost, as datagrams may be.
func (c *core) hold(p *permission, b []byte) {
	if len(p.held) >= heldDatagrams || c.heldBytes+len(b) > heldBytes {
		c.stats.Discarded++
		return
	}
	p.held = append(p.held, b)
	c.heldBytes += len(b)
}

// settle is told which dialect the server has shown and brings the permissions of an Auto connection into it.
func (c *core) settle(now time.Time, d Dialect) {
	if c.p.dialect != Auto || c.dialect == d {
		return
	}
	c.dialect, c.probeEnd = d, time.Time{}
	for _, p := range c.permList {
		switch d {
		case Legacy:
			// What was written so far went out as Send indications and has opened the permissions.
			if p.state == permissionNew {
				if p.opened.IsZero() {
					c.sendEmpty(now, p)
				}
				p.state, p.due = permissionGranted, p.opened.Add(permissionWarm)
				c.arm(p.due)
				c.tell(p, nil)
			}
		case Modern:
			// A late answer: what counted as opened by a Send was not.
			if p.state == permissionGranted && !p.asking {
				p.asking, p.due = true, time.Time{}
				c.request(now, subject{method: stun.CreatePermission, perm: p})
			}
		}
	}
}
