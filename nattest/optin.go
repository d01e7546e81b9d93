package nattest

import (
	"fmt"
	"slices"
	"time"
)

// wantedLifetime is how long a binding should last without traffic (§4.3).
const wantedLifetime = 2 * time.Minute

// optIn reads the tests that take time.
func (c *classifier) optIn() {
	c.hairpin()
	c.lifetime()
	x := c.get("quota")
	if x.Role != RoleQuota || x.Answered >= x.Sent || silence(mostTries, x.Controls, x.ControlsLost) > falseSilence {
		return
	}
	sockets := make(map[int]bool)
	for _, p := range c.o.Probes {
		if p.Role == RoleControl || p.Role == RoleMapping || p.Role == RoleFiltering || p.Role == RoleReturn {
			sockets[p.Socket] = true
		}
	}
	c.v.Quota = x.Answered + len(sockets)
	c.find(QuotaReached, "after %d sockets no other one gets through: a birthday attempt would cost all UDP for the lifetime of a mapping", c.v.Quota)
}

func (c *classifier) hairpin() {
	x := c.get("hairpin")
	switch {
	case x.Role != RoleHairpin || c.v.Mapping == MappingNone:
		return
	case len(x.Replies) > 0 && slices.Contains(c.o.Local, x.Replies[0].From.Addr()):
		c.v.Hairpin = HairpinInternal
	case len(x.Replies) > 0:
		c.v.Hairpin = HairpinExternal
	case c.chance(x) <= falseSilence:
		c.v.Hairpin = HairpinOff
		c.judged("hairpin", HairpinOff, c.chance(x), fmt.Sprintf("%d packets to our own endpoint vanished", x.Judged))
		return
	default:
		return
	}
	c.judged("hairpin", c.v.Hairpin, 0, fmt.Sprintf("a packet to our own endpoint came back from %v", x.Replies[0].From))
	c.find(HairpinSeen, "peers behind the same NAT reach each other's public endpoints (source: %v)", c.v.Hairpin)
}

func (c *classifier) lifetime() {
	refused := false
	for i := range c.o.Probes {
		x := &c.o.Probes[i]
		switch {
		case x.Role != RoleLifetime || x.AfterMS <= 0:
		case x.Answered > 0:
			c.v.LifetimeMin = max(c.v.LifetimeMin, x.AfterMS)
		case x.Error != 0:
			refused = true
		case c.chance(x) <= falseSilence && (c.v.LifetimeMax == 0 || x.AfterMS < c.v.LifetimeMax):
			c.v.LifetimeMax = x.AfterMS
		}
	}
	if refused {
		c.find(OpenQuestion, "binding lifetime: this server does not know RESPONSE-PORT")
	}
	if c.v.LifetimeMax > 0 && c.v.LifetimeMax <= c.v.LifetimeMin { // the NAT has no single one
		c.v.LifetimeMin, c.v.LifetimeMax = 0, 0
		c.find(OpenQuestion, "binding lifetime: a longer timer outlived a shorter one")
	}
	for i := range c.o.Probes { // where the silent binding is gone, did the one that was sent to stay?
		x := &c.o.Probes[i]
		if x.Role != RoleRefresh || x.AfterMS != c.v.LifetimeMax || x.AfterMS <= 0 {
			continue
		}
		switch {
		case x.Answered > 0:
			c.v.InboundRefresh = Yes
			c.judged("inbound_refresh", Yes, 0, x.Name+": a packet from outside after half of the time kept the binding")
		case c.chance(x) <= falseSilence:
			c.v.InboundRefresh = No
			c.judged("inbound_refresh", No, c.chance(x), x.Name+": a packet from outside after half of the time did not keep the binding")
		}
	}
	if max := time.Duration(c.v.LifetimeMax) * time.Millisecond; max > 0 && max <= wantedLifetime {
		c.find(ShortLifetime, "a binding is gone after %v without traffic; RFC 4787 wants more than %v", max, wantedLifetime)
	}
}
