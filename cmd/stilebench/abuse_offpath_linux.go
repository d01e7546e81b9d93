package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/stilenet/stile/stun"
)

// abuseOffPath attacks the allocation of somebody else: from another 5-tuple, from peers that were never named, and with forged packets of
// the victim's own 5-tuple. The last is possible by design without credentials over UDP, and is reported, not judged.
func abuseOffPath(ctx context.Context, a *arena, t *AbuseTrial) error {
	echo, peer, err := a.echoPeer()
	if err != nil {
		return err
	}
	defer echo.Close()
	// talk reports whether the victim still reaches its peer.
	talk := func(c *attacker) (bool, error) {
		for range 3 {
			if err := c.send(sendTo(peer, mark(1, 40))); err != nil {
				return false, err
			}
			if err := c.drain(time.Now().Add(100 * time.Millisecond)); err != nil {
				return false, err
			}
			if c.heard() > 0 {
				return true, nil
			}
		}
		return false, nil
	}
	victim := func(i int) (*attacker, error) {
		c, err := a.allocated(func() (*attacker, error) { return a.udp(i) })
		if err != nil {
			return nil, err
		}
		if ok, err := talk(c); err != nil || !ok {
			c.close()
			return nil, errors.Join(err, errors.New("an ordinary client does not reach its peer"))
		}
		return c, nil
	}

	// 1. From another 5-tuple, with all that could be guessed or seen.
	v, err := victim(80)
	if err != nil {
		return err
	}
	defer v.close()
	id := newID()
	bind := message(stun.NewType(stun.ChannelBind, stun.Request), id, channelAttr(0x4000), peerAttr(peer))
	if _, err := v.ask(bind); err != nil {
		return fmt.Errorf("the victim's ChannelBind: %w", err)
	}
	local := v.conn.LocalAddr().String()
	thief, err := a.udp(81)
	if err != nil {
		return err
	}
	defer thief.close()
	for _, m := range [][]byte{
		message(stun.NewType(stun.Refresh, stun.Request), id, lifetimeAttr(0)), bind,
		channelData(0x4000, mark(99, 40)), sendTo(peer, mark(99, 40)),
	} {
		if err := thief.send(m); err != nil {
			return err
		}
	}
	if err := thief.drain(time.Now().Add(150 * time.Millisecond)); err != nil {
		return err
	}
	if n := thief.heard(); n > 0 {
		t.success("another 5-tuple uses the allocation of %s: %d answers of the peer", local, n)
	}
	if ok, err := talk(v); err != nil {
		return err
	} else if !ok {
		t.success("another 5-tuple ends the allocation of %s", local)
	}

	// 2. Peers that the client never named.
	strangers := 0
	if a.lab {
		for i := range 20 {
			c, err := a.peer(netip.AddrPortFrom(a.stranger(2000+i), 0))
			if err != nil {
				return err
			}
			_, err = c.WriteToUDPAddrPort(mark(uint32(i), 40), v.relay)
			_ = c.Close()
			if err != nil {
				return err
			}
		}
		if err := v.drain(time.Now().Add(200 * time.Millisecond)); err != nil {
			return err
		}
		strangers = v.heard()
		t.none("datagrams of 20 strangers that the client was given", float64(strangers), "")
	}

	// 3. Forged packets of the victim's 5-tuple, with transaction IDs of the forger's own.
	if v, err = victim(82); err != nil {
		return err
	}
	defer v.close()
	if err := v.send(request(stun.Refresh, lifetimeAttr(0))); err != nil {
		return err
	}
	_ = v.drain(time.Now().Add(100 * time.Millisecond))
	v.data = nil
	ended, err := talk(v)
	if err != nil {
		return err
	}
	if !ended {
		t.limit("one forged Refresh with LIFETIME 0 from a client's UDP address and port ends its allocation: without credentials nothing but the 5-tuple names it (§7)")
	}
	if v, err = victim(83); err != nil {
		return err
	}
	defer v.close()
	third, at, err := a.echoPeer()
	if err != nil {
		return err
	}
	defer third.Close()
	if err := v.send(sendTo(at, mark(3, 40))); err != nil {
		return err
	}
	_ = v.drain(time.Now().Add(150 * time.Millisecond))
	if v.heard() > 0 {
		t.limit("a forged Send from a client's UDP address and port opens its allocation to a peer of the forger's choice, whose datagrams then reach the client")
	}

	// 4. The same over TCP needs the sequence numbers of the connection, which another 5-tuple does not have.
	vt, err := a.allocated(func() (*attacker, error) { return a.tcp(84) })
	if err != nil {
		return err
	}
	defer vt.close()
	from := vt.conn.LocalAddr().String()
	forger, err := a.udpFrom(netip.MustParseAddrPort(from))
	if err != nil {
		return err
	}
	defer forger.close()
	if err := forger.send(request(stun.Refresh, lifetimeAttr(0))); err != nil {
		return err
	}
	_ = forger.drain(time.Now().Add(100 * time.Millisecond))
	if ok, err := talk(vt); err != nil || !ok {
		t.success("a datagram from the address and port of a TCP client ends its allocation")
	}
	return ctx.Err()
}
