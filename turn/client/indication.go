package client

import (
	"net/netip"
	"time"

	"github.com/stilenet/stile/stun"
)

// indication takes a Data indication (§9.4).
func (c *core) indication(m stun.Message) (from netip.AddrPort, data []byte, drop Drop) {
	if m.Method() != stun.Data {
		return from, nil, DropUnexpected
	}
	var list [1]stun.AttrType
	unknown := m.UnknownRequired(list[:0], func(t stun.AttrType) bool { return clientKnows(t) || t == stun.AttrICMPDraft09 })
	if len(unknown) > 0 {
		return from, nil, DropUnknown
	}
	from, ok := m.GetXORAddress(stun.AttrXORPeerAddress)
	if !ok {
		return from, nil, DropMalformed
	}
	if m.Has(stun.AttrICMP) || m.Has(stun.AttrICMPDraft09) {
		return from, nil, DropICMP
	}
	data, ok = m.Get(stun.AttrData)
	if !ok {
		return from, nil, DropMalformed
	}
	return netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), data, 0
}

// write appends to buf the message that brings payload to a peer. It appends nothing when the payload waits for a permission.
// Messages in out go before it.
func (c *core) write(now time.Time, buf []byte, to netip.AddrPort, payload []byte) ([]byte, error) {
	if c.phase != allocated {
		return buf, ErrAllocationLost
	}
	if err := c.reachable(to); err != nil {
		return buf, err
	}
	if len(payload) > MaxPayload {
		return buf, ErrTooLarge
	}
	perm := c.permission(now, to)
	if perm == nil {
		return buf, ErrPermissions
	}
	free, err := c.open(now, perm, true)
	if err != nil {
		return buf, err
	}
	p := c.peer(now, to)
	if free && p != nil && c.dialect != Auto && c.wantsChannel(now, p) {
		c.bind(now, p)
	}
	if !free {
		c.hold(perm, c.appendSend(make([]byte, 0, indicationHeader+len(payload)+3), to, payload))
		return buf, nil
	}
	if c.dialect != Modern {
		perm.opened = now // RFC 8656 §9: there data does not refresh a permission
	}
	c.heard(now)
	if p != nil && p.bound {
		return appendChannelData(buf, p.channel, payload, c.p.stream), nil
	}
	return c.appendSend(buf, to, payload), nil
}

// appendSend appends a Send indication (§9.1).
func (c *core) appendSend(buf []byte, to netip.AddrPort, payload []byte) []byte {
	b := stun.Begin(buf, stun.NewType(stun.Send, stun.Indication), c.newID())
	b.XORAddress(stun.AttrXORPeerAddress, to)
	b.Attr(stun.AttrData, payload)
	return b.Bytes()
}

// reachable refuses what no server could send to.
func (c *core) reachable(to netip.AddrPort) error {
	if !to.IsValid() || to.Port() == 0 || to.Addr().IsUnspecified() || to.Addr().Is4() != c.relayed.Addr().Is4() {
		return ErrPeer
	}
	return nil
}
