package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/stilenet/stile/stun"
)

// Bounds of what a peer that never answers may get: from one client, and from all together.
const (
	silentPackets = 20
	silentBytes   = 16 << 10
	silentClients = 4 // times the two
)

// abuseUnconsenting has one client, then a hundred, send to peers that never answer.
func abuseUnconsenting(ctx context.Context, a *arena, t *AbuseTrial) error {
	count := func(peer netip.Addr) (packets, bytes int, err error) {
		seen, err := a.witness.sightings()
		for _, s := range seen {
			if s.to.Addr() == peer {
				packets++
				bytes += s.size
			}
		}
		return packets, bytes, err
	}
	judge := func(name string, peer netip.Addr, times int) error {
		time.Sleep(200 * time.Millisecond)
		packets, bytes, err := count(peer)
		if err != nil {
			return err
		}
		t.bounded(name+": packets", float64(packets), "", float64(silentPackets*times))
		t.bounded(name+": bytes", float64(bytes), "bytes", float64(silentBytes*times))
		return nil
	}
	// fire sends n datagrams in the hope that they leave, to ports from port on.
	fire := func(c *attacker, peer netip.Addr, n, size, ports int) error {
		for i := range n {
			if err := c.send(sendTo(netip.AddrPortFrom(peer, uint16(disguisePort+i%ports)), mark(uint32(i), size))); err != nil {
				return err
			}
			if i%50 == 49 {
				time.Sleep(2 * time.Millisecond)
			}
		}
		return nil
	}
	watch := func(i, ports int) (netip.Addr, error) {
		peer := a.stranger(i)
		for p := range ports {
			if err := a.witness.watch(netip.AddrPortFrom(peer, uint16(disguisePort+p))); err != nil {
				return peer, err
			}
		}
		return peer, nil
	}

	for i, one := range []struct {
		name  string
		n     int
		size  int
		ports int
	}{{"one client, small datagrams", 1000, 20, 1}, {"one client, datagrams of 1,200 bytes", 1000, 1200, 1}, {"one client, 50 ports of the peer", 1000, 100, 50}} {
		peer, err := watch(10+i, one.ports)
		if err != nil {
			return err
		}
		c, err := a.allocated(func() (*attacker, error) { return a.udp(10 + i) })
		if err != nil {
			return err
		}
		defer c.close()
		if err := fire(c, peer, one.n, one.size, one.ports); err != nil {
			return err
		}
		if err := judge(one.name, peer, 1); err != nil {
			return err
		}
	}

	peer, err := watch(15, 1)
	if err != nil {
		return err
	}
	c, err := a.allocated(func() (*attacker, error) { return a.udp(15) })
	if err != nil {
		return err
	}
	defer c.close()
	if _, err := c.ask(request(stun.ChannelBind, channelAttr(0x4001), peerAttr(netip.AddrPortFrom(peer, disguisePort)))); err != nil {
		return fmt.Errorf("ChannelBind: %w", err)
	}
	for i := range 1000 {
		if err := c.send(channelData(0x4001, mark(uint32(i), 100))); err != nil {
			return err
		}
		if i%50 == 49 {
			time.Sleep(2 * time.Millisecond)
		}
	}
	if err := judge("one client, ChannelData", peer, 1); err != nil {
		return err
	}

	// A new allocation begins anew only within what all clients have.
	if peer, err = watch(16, 1); err != nil {
		return err
	}
	for range 20 {
		c, err := a.allocated(func() (*attacker, error) { return a.udp(16) })
		if err != nil {
			return err
		}
		err = fire(c, peer, 30, 100, 1)
		c.release()
		c.close()
		if err != nil {
			return err
		}
	}
	if err := judge("one client, 20 allocations after each other", peer, silentClients); err != nil {
		return err
	}

	if peer, err = watch(17, 1); err != nil {
		return err
	}
	for i := range 100 {
		c, err := a.allocated(func() (*attacker, error) { return a.udp(300 + 3*i) })
		if err != nil {
			return err
		}
		defer c.close()
		if err := fire(c, peer, 30, 1000, 1); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return judge("100 clients together", peer, silentClients)
}
