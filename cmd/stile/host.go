package main

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/stilenet/stile/internal/config"
	"github.com/stilenet/stile/turn"
)

// host is what the policy must know of this machine.
type host struct {
	routes []turn.Route // the main routing table
	own    []netip.Addr // of all interfaces
	// source4 and source6 are the addresses that the default routes use; invalid without one.
	source4, source6 netip.Addr
}

func (h *host) equal(o *host) bool {
	return slices.Equal(h.routes, o.routes) && slices.Equal(h.own, o.own)
}

func (h *host) sort() {
	slices.SortFunc(h.own, netip.Addr.Compare)
	h.own = slices.Compact(h.own)
	slices.SortFunc(h.routes, func(a, b turn.Route) int {
		if c := a.Prefix.Addr().Compare(b.Prefix.Addr()); c != 0 {
			return c
		}
		if c := a.Prefix.Bits() - b.Prefix.Bits(); c != 0 {
			return c
		}
		return a.Interface - b.Interface
	})
}

// relays resolves turn.relay.addresses, and says in warn what an administrator should know of the result.
func (h *host) relays(cfg *config.Config) (relays []turn.RelayAddress, warn []string, err error) {
	for _, a := range cfg.Turn.Relay.Addresses {
		if !a.Auto {
			if !slices.Contains(h.own, a.Local) && !a.Local.IsLoopback() {
				return nil, nil, fmt.Errorf("config: turn.relay.addresses: %v is not an address of this machine: name one of %v, or PUBLIC=LOCAL when a firewall "+
					"translates %v to one of them", a.Local, h.global(), a.Local)
			}
			relays = append(relays, turn.RelayAddress{Public: a.Public, Local: a.Local})
			continue
		}
		before := len(relays)
		for _, source := range []netip.Addr{h.source4, h.source6} {
			if source.IsValid() {
				relays = append(relays, turn.RelayAddress{Public: source, Local: source})
			}
		}
		if len(relays) == before {
			lo := netip.AddrFrom4([4]byte{127, 0, 0, 1})
			relays = append(relays, turn.RelayAddress{Public: lo, Local: lo})
			warn = append(warn, "there is no default route, so the relayed address is 127.0.0.1 and reaches this machine only: "+
				"name the address that peers see in turn.relay.addresses")
		}
	}
	for _, r := range relays {
		if r.Public == r.Local && r.Public.IsPrivate() && r.Public.Is4() && cfg.Turn.Peers.Profile != config.Lab {
			warn = append(warn, fmt.Sprintf("the relayed address %v is private: peers in the internet cannot answer it unless a firewall translates it one to one; "+
				"then name both: turn.relay.addresses: [PUBLIC=%v]", r.Public, r.Local))
		}
	}
	return relays, warn, nil
}

// global lists the addresses that other machines could reach.
func (h *host) global() (out []netip.Addr) {
	for _, a := range h.own {
		if a.IsGlobalUnicast() {
			out = append(out, a)
		}
	}
	return out
}
