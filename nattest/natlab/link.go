package natlab

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// Ours to tune.
const (
	defaultMTU        = 1500             // bytes, Ethernet
	defaultQueueBytes = 64 << 10         // of a link with a Rate: what small routers have
	defaultReorder    = time.Millisecond // how much later a reordered packet comes, at least
	minMTU            = 68               // RFC 791: every link carries 68 bytes
)

// LinkConfig is the quality of a link in one direction. The zero value is a perfect Ethernet.
type LinkConfig struct {
	Delay     time.Duration // one way; at least a nanosecond
	Jitter    time.Duration // added to Delay, uniform in [0, Jitter); does not change the order
	Loss      float64       // share of packets lost, 0 to 1
	Duplicate float64       // share of packets that arrive twice, 0 to 1
	Reorder   float64       // share of packets that others overtake, 0 to 1
	ReorderBy time.Duration // how much later these come; zero means the larger of Jitter and 1 ms
	Rate      int64         // bits per second; zero means without limit
	Queue     int           // bytes that wait for a Rate; zero means 64 KiB
	MTU       int           // bytes, IP header included; zero means 1500, the least is 68
}

func (c LinkConfig) check() {
	for name, p := range map[string]float64{"Loss": c.Loss, "Duplicate": c.Duplicate, "Reorder": c.Reorder} {
		if !(p >= 0 && p <= 1) {
			panic(fmt.Sprintf("natlab: LinkConfig.%s is %v: it must be from 0 to 1", name, p))
		}
	}
	if c.Delay < 0 || c.Jitter < 0 || c.ReorderBy < 0 || c.Rate < 0 || c.Queue < 0 {
		panic(fmt.Sprintf("natlab: LinkConfig has a negative value: %+v", c))
	}
	if c.MTU != 0 && c.MTU < minMTU {
		panic(fmt.Sprintf("natlab: LinkConfig.MTU is %d: the least is %d", c.MTU, minMTU))
	}
}

// A Link connects a host or the outside of a box with a segment. Up is from the host or box to the segment, down
// the other way. All can be changed at any time; packets that are on their way are not affected.
type Link struct {
	net      *Net
	name     string
	seg      *Segment
	node     *node
	to       endpoint
	up, down pipe
	cut      bool
}

// endpoint is what a link ends at: a host or the outside of a box.
type endpoint interface {
	// arrive takes a packet from the link.
	arrive(now time.Time, l *Link, p *Packet)
	// reflect takes an ICMP error about a packet that could not enter the link.
	reflect(now time.Time, l *Link, p *Packet)
}

func (n *Net) newLink(name string, seg *Segment, nd *node) *Link {
	return &Link{net: n, name: name, seg: seg, node: nd,
		up: pipe{rand: n.rand(name + " up")}, down: pipe{rand: n.rand(name + " down")}}
}

// Set sets both directions. It returns the link.
func (l *Link) Set(c LinkConfig) *Link { return l.SetUp(c).SetDown(c) }

// SetUp sets the direction towards the segment. It returns the link.
func (l *Link) SetUp(c LinkConfig) *Link {
	c.check()
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	l.up.cfg = c
	return l
}

// SetDown sets the direction from the segment. It returns the link.
func (l *Link) SetDown(c LinkConfig) *Link {
	c.check()
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	l.down.cfg = c
	return l
}

// Cut takes the link down: it drops all packets until Restore.
func (l *Link) Cut() { l.setCut(true) }

// Restore takes the link up again.
func (l *Link) Restore() { l.setCut(false) }

func (l *Link) setCut(cut bool) {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	l.cut = cut
}

// sendUp carries a packet to the segment. origin says that the link is the first, whose sender may fragment IPv6.
func (l *Link) sendUp(now time.Time, p *Packet, origin bool) {
	l.send(now, &l.up, p, origin, func(now time.Time, p *Packet) { l.seg.forward(now, l, p) },
		func(p *Packet) { l.to.reflect(now, l, p) })
}

// sendDown carries a packet from the segment to the host or box.
func (l *Link) sendDown(now time.Time, p *Packet) {
	l.send(now, &l.down, p, false, func(now time.Time, p *Packet) {
		p.trace.visit(l.node, p)
		l.to.arrive(now, l, p)
	}, func(p *Packet) { l.seg.route(now, l, p) })
}

func (l *Link) send(now time.Time, dir *pipe, p *Packet, origin bool, arrive func(time.Time, *Packet), back func(*Packet)) {
	n := l.net
	if l.cut {
		n.end(p, LinkDown)
		return
	}
	parts := []*Packet{p}
	if mtu := dir.mtu(); p.Size() > mtu {
		if p.DF || (p.is6() && !origin) || p.Proto != UDP {
			n.end(p, TooBig)
			if e := n.icmp(now, l.node, p, PacketTooBig, mtu); e != nil {
				back(e)
			}
			return
		}
		parts = n.fragment(now, p, mtu, l.node)
	}
	for _, p := range parts {
		first, second, d := dir.send(now, p.Size())
		if d != InFlight {
			n.end(p, d)
			continue
		}
		n.at(first, p, arrive)
		if !second.IsZero() {
			twin := *p
			n.begin(now, &twin, l.node)
			twin.trace.note = "duplicate"
			n.at(second, &twin, arrive)
		}
	}
}

// pipe is one direction of a link. It decides when packets arrive, and performs no I/O.
type pipe struct {
	cfg  LinkConfig
	rand *rand.Rand
	idle time.Time // when the last bit of the queue is sent
	last time.Time // when the last packet in order arrives
}

func (d *pipe) mtu() int {
	if d.cfg.MTU == 0 {
		return defaultMTU
	}
	return d.cfg.MTU
}

// send says when a packet of size bytes arrives, and a second time if it is duplicated, or why it does not
// (InFlight means that it does). It draws the same number of random values for every packet, so that changing one
// quality does not change what becomes of others.
func (d *pipe) send(now time.Time, size int) (first, second time.Time, fate Disposition) {
	c := d.cfg
	lost := d.rand.Float64() < c.Loss
	duplicated := d.rand.Float64() < c.Duplicate
	reordered := d.rand.Float64() < c.Reorder
	jitter := time.Duration(d.rand.Float64() * float64(c.Jitter))

	at := now
	if c.Rate > 0 {
		limit := c.Queue
		if limit == 0 {
			limit = defaultQueueBytes
		}
		if d.idle.Before(now) {
			d.idle = now
		}
		bytesPerNano := float64(c.Rate) / float64(8*time.Second)
		if float64(d.idle.Sub(now))*bytesPerNano+float64(size) > float64(limit) {
			return first, second, QueueFull
		}
		d.idle = d.idle.Add(time.Duration(float64(size) / bytesPerNano))
		at = d.idle
	}
	if lost { // after the queue: a lost packet has used the line
		return first, second, Lost
	}
	first = at.Add(max(c.Delay+jitter, minHop))
	if reordered {
		by := c.ReorderBy
		if by == 0 {
			by = max(c.Jitter, defaultReorder)
		}
		first = first.Add(by)
	} else {
		if first.Before(d.last) {
			first = d.last
		}
		d.last = first
	}
	if duplicated {
		second = first.Add(minHop)
	}
	return first, second, InFlight
}
