package natlab

import (
	"net/netip"
	"time"
)

// A Box stands between an inside segment and a link to an outside segment.
type Box struct {
	node    *node
	outside *Link
}

func (b *Box) hides(netip.Addr) bool               { return false }
func (b *Box) fromInside(now time.Time, p *Packet) {}
