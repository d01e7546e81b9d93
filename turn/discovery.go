package turn

import (
	"net/netip"

	"github.com/stilenet/stile/stun"
)

// Discovery is NAT behaviour discovery (RFC 5780) in one address family: one or two ports of one or two addresses of this server, and the
// UDP listeners that have them. A listener may stand for both addresses if its address is unspecified. The zero value discovers
// nothing: its Binding requests get what RFC 8489 wants.
type Discovery struct {
	// Addrs are the addresses. Addrs[1] is the alternate one, zero when there is none; then Addrs[0] may be zero as well, since
	// a client is answered from the address that it asked.
	Addrs [2]RelayAddress
	// Ports are the ports of the listeners; Ports[0] is 0 in the zero value, and Ports[1] where there is no second port.
	Ports [2]uint16
	// Listeners are the indices of the listeners, by address and port.
	Listeners [2][2]uint16
}

// discoveryFactor is twice what an answer of discovery may be on the wire for each byte of its request. Two addresses more than RFC 8489 has
// must fit; stun.Discovery.Respond states what they come to, 2 for IPv4 and 2.42 for IPv6.
const discoveryFactor = 5

// discovery finds the discovery of the listener and the address that a request came to.
func (c *Core) discovery(src *Source) (d *Discovery, at stun.Corner) {
	if src.Stream != 0 {
		return nil, at
	}
	d = &c.cfg.Discovery[0]
	if src.Server.Addr().Is6() {
		d = &c.cfg.Discovery[1]
	}
	if d.Addrs[1].Local.IsValid() && src.Server.Addr() == d.Addrs[1].Local {
		at.Addr = 1
	}
	for p, port := range d.Ports {
		if port != 0 && d.Listeners[at.Addr][p] == src.Listener {
			at.Port = uint8(p)
			return d, at
		}
	}
	return nil, at
}

// discover answers a Binding request to the listeners of d.
func (c *Core) discover(d *Discovery, at stun.Corner, src *Source, m stun.Message, a *allocation) {
	seen := stun.Discovery{Addrs: [2]netip.Addr{d.Addrs[0].Public, d.Addrs[1].Public}, Ports: d.Ports}
	// A listener for all addresses of this host may have been asked at a third one, or not be told which one it was.
	if at.Addr == 0 && !src.Server.Addr().IsUnspecified() {
		seen.Addrs[0] = c.publicForm(src.Server).Addr()
	}
	start := len(c.arena)
	var from stun.Corner
	to := *src
	c.arena, from, to.Client = seen.Respond(c.arena, m, at, src.Client)
	if len(c.arena) == start {
		c.count(DropFingerprint) // the rest was looked at before
		return
	}
	to.Listener = d.Listeners[from.Addr][from.Port]
	local := src.Server.Addr()
	if from.Addr != at.Addr {
		local = d.Addrs[from.Addr].Local
	}
	to.Server = netip.AddrPortFrom(local, d.Ports[from.Port])
	if h := wireHeaders(src.Client.Addr()); 2*(len(c.arena)-start+h) > discoveryFactor*(len(m.Raw())+h) {
		c.arena = c.arena[:start]
		c.count(DropReplySize)
		return
	}
	if c.deliver(&to, start, a) {
		c.count(AnsweredBinding)
	}
}

// fromProbe takes a message to a listener that answers nothing but Binding.
func (c *Core) fromProbe(src *Source, b []byte) {
	m, err := stun.Parse(b)
	switch {
	case err != nil:
		c.count(DropMalformed)
	case m.Type() == stun.NewType(stun.Binding, stun.Request):
		c.request(src, m)
	case m.Type() == stun.NewType(stun.Binding, stun.Indication): // RFC 8489 §3
		c.count(Keepalive)
	default:
		c.count(DropMethod)
	}
}
