package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/stilenet/stile/stun"
)

// disguisePort is an ordinary port, so that only the address is judged, and none that the system gives to others.
const disguisePort = 17000

// How a peer is named to the server.
const (
	bySend = iota
	byChannel
	byPermission
	peerWays
)

// abuseACL names every address that a proxy must refuse, in every disguise, in every way that draft-08 and RFC 8656 have, to an
// allocation of each address family.
func abuseACL(ctx context.Context, a *arena, t *AbuseTrial) error {
	list, err := readDisguises(a.repo)
	if err != nil {
		return err
	}
	for _, d := range list {
		if err := a.witness.watch(netip.AddrPortFrom(d.peer, disguisePort)); err != nil {
			return err
		}
	}
	t.figure("addresses that must be refused", float64(len(list)), "")
	families := []struct {
		name string
		open func() (*attacker, error)
	}{{"IPv4", func() (*attacker, error) { return a.udp(1) }}}
	if a.server6.IsValid() {
		families = append(families, struct {
			name string
			open func() (*attacker, error)
		}{"IPv6", a.udp6})
	}
	for _, f := range families {
		x := acl{arena: a, open: f.open, list: list}
		if f.name == "IPv6" {
			x.family = stun.AttrRequestedFamily
		}
		if err := x.run(ctx, t, f.name); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return nil
}

type acl struct {
	*arena
	open   func() (*attacker, error)
	family stun.AttrType // 0, or what asks for an IPv6 allocation if the server gives none by itself
	list   []disguise
	c      *attacker
	fresh  int // addresses named since c began
}

// renew begins with another allocation.
func (x *acl) renew() (err error) {
	if x.c != nil {
		x.c.release()
		x.c.close()
	}
	x.fresh = 0
	if x.c, err = x.allocated(x.open); err != nil {
		return err
	}
	if x.family != 0 && x.c.relay.Addr().Is4() {
		x.c.close()
		x.c, err = x.allocated(x.open, attr{x.family, []byte{2, 0, 0, 0}})
	}
	return err
}

func (x *acl) run(ctx context.Context, t *AbuseTrial, name string) error {
	if err := x.renew(); err != nil {
		return err
	}
	defer func() { x.c.close() }()
	relay6 := x.c.relay.Addr().Is6()
	granted := [peerWays]tally{{}, {}, {}}
	arrived := map[uint32]bool{}
	look := func() error {
		seen, err := x.witness.sightings()
		for _, s := range seen {
			arrived[s.tag] = true
		}
		return err
	}
	for way := range peerWays {
		for i, d := range x.list {
			if err := ctx.Err(); err != nil {
				return err
			}
			if x.fresh >= 50 { // fewer than any server's permissions and channels
				if err := x.renew(); err != nil {
					return err
				}
			}
			x.fresh++
			ok, err := x.name(way, uint32(i*peerWays+way), netip.AddrPortFrom(d.peer, disguisePort))
			if err != nil {
				return fmt.Errorf("%v (%s): %w", d.peer, d.what, err)
			}
			if ok {
				granted[way][d.rule]++
			}
		}
		if err := look(); err != nil {
			return err
		}
	}
	by := tally{}
	for tag := range arrived {
		by[x.list[tag/peerWays].rule]++
	}
	if name == "IPv6" && !relay6 {
		t.limit("the server gives no IPv6 relayed address, so IPv6 disguises were tried from an IPv4 one only")
	}
	for _, r := range []struct {
		what string
		n    tally
	}{{"channels granted", granted[byChannel]}, {"permissions granted", granted[byPermission]}, {"datagrams that arrived", by}} {
		n := 0
		for _, v := range r.n {
			n += v
		}
		t.figure(fmt.Sprintf("%s allocation: %s", name, r.what), float64(n), "")
		if n > 0 {
			t.success("%s allocation: %d %s: %v", name, n, r.what, r.n)
		}
	}
	return nil
}

// name names one peer, and sends to it whatever the answer was. It reports whether the server granted a channel or a permission.
func (x *acl) name(way int, tag uint32, to netip.AddrPort) (granted bool, err error) {
	data := mark(tag, 32)
	number := uint16(0x4000 + x.fresh)
	switch way {
	case bySend:
		return false, x.c.send(sendTo(to, data))
	case byChannel:
		granted, err = x.grants(request(stun.ChannelBind, channelAttr(number), peerAttr(to)))
		if err == nil {
			err = x.c.send(channelData(number, data))
		}
	default:
		granted, err = x.grants(request(stun.CreatePermission, peerAttr(to)))
		if err == nil {
			err = x.c.send(sendTo(to, data))
		}
	}
	return granted, err
}

// grants asks, once more with another allocation if this one is gone.
func (x *acl) grants(msg []byte) (bool, error) {
	for again := false; ; again = true {
		_, err := x.c.ask(msg)
		var r refusal
		switch {
		case err == nil:
			return true, nil
		case errors.As(err, &r) && r.code == stun.CodeAllocationMismatch && !again:
			if err := x.renew(); err != nil {
				return false, err
			}
		case errors.As(err, &r), errors.Is(err, errSilent):
			return false, nil
		default:
			return false, err
		}
	}
}
