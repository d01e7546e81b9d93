package main

import (
	"fmt"
	"net/netip"
	"runtime"

	"github.com/stilenet/stile/internal/config"
	"github.com/stilenet/stile/rtmfp/flash"
	"github.com/stilenet/stile/turn"
	"github.com/stilenet/stile/turn/dataplane"
)

// rules turns the configuration and what is known of the host into what the cores judge by.
//
// services are the sockets of this process's own rendezvous.
func rules(cfg *config.Config, h *host, relays []turn.RelayAddress, services []netip.AddrPort, nonceKey [32]byte) (*turn.Rules, error) {
	profile, err := turn.ParseProfile(string(cfg.Turn.Peers.Profile))
	if err != nil {
		return nil, err
	}
	hairpin, err := turn.ParseHairpin(string(cfg.Turn.Hairpin))
	if err != nil {
		return nil, err
	}
	var ports []turn.PortRange
	for _, r := range cfg.Turn.Peers.Ports.Ranges() {
		ports = append(ports, turn.PortRange(r))
	}
	clients := cfg.Turn.Clients
	if len(clients) == 0 && profile == turn.ProfileCorporate {
		// This machine is a client too, by whichever address: its administrator tries the proxy from here first.
		clients = profile.Clients()
		for _, a := range h.own {
			if a.Zone() == "" && a.IsGlobalUnicast() && !a.IsPrivate() {
				clients = append(clients, netip.PrefixFrom(a, a.BitLen()))
			}
		}
	}
	policy, err := turn.NewPolicy(turn.PolicyConfig{
		Profile: profile,
		Clients: clients,
		Allow:   cfg.Turn.Peers.Allow, Deny: cfg.Turn.Peers.Deny,
		Ports:   turn.NewPortSet(ports),
		Hairpin: hairpin,
		Routes:  h.routes, OwnAddresses: h.own,
		Relays: relays, RelayPorts: turn.PortRange(cfg.Turn.Relay.Ports),
		Services: services,
	})
	if err != nil {
		return nil, err
	}
	r := &turn.Rules{
		Policy: policy,
		Limits: limits(cfg),
		Auth: turn.Auth{
			Realm: cfg.Turn.Auth.Realm, Secret: string(cfg.Turn.Auth.Secret), NonceKey: nonceKey,
		},
		ModernWithoutCredentials: cfg.Turn.ModernWithoutCredentials == config.ModernAllow ||
			cfg.Turn.ModernWithoutCredentials == config.ModernAuto && cfg.Turn.Peers.Profile == config.Lab,
	}
	if cfg.OnlyRTMFP() {
		r.Gate = rtmfpGate()
	}
	for _, u := range cfg.Turn.Auth.Users {
		r.Auth.Users = append(r.Auth.Users, turn.User{Name: u.Name, Password: string(u.Key)})
	}
	return r, nil
}

// rtmfpGate lets nothing but RTMFP pass between a client and a peer.
func rtmfpGate() *turn.Gate {
	g := flash.NewGate()
	return &turn.Gate{
		Inspect: func(s *turn.GateState, up bool, payload, scratch []byte) turn.GateVerdict {
			switch g.Inspect((*flash.GateState)(s), up, payload, scratch) {
			case flash.GatePass:
				return turn.GatePass
			case flash.GateOpen:
				return turn.GateOpen
			}
			return turn.GateDrop
		},
		Belongs: func(s *turn.GateState, payload []byte) bool { return g.Belongs((*flash.GateState)(s), payload) },
		Proven:  func(s *turn.GateState) bool { return (*flash.GateState)(s).Proven() },
	}
}

func limits(cfg *config.Config) turn.Limits {
	l := cfg.Turn.Limits
	t := turn.Limits{
		Allocations: l.Allocations, PerClient: l.PerClient, PerClientPrefix: l.PerClientPrefix, Unconfirmed: l.Unconfirmed,
		Permissions: l.Permissions, Channels: l.Channels, BytesPerSecond: l.BytesPerSecond, PacketsPerSecond: l.PacketsPerSecond,
		ReplyBytesPerPrefix: l.ReplyBytesPerPrefix,
		UnansweredPackets:   l.UnansweredPackets, UnansweredBytes: l.UnansweredBytes, UnansweredAllClients: l.UnansweredAllClients,
	}
	if cfg.Turn.Peers.Profile == config.Lab {
		t.UnansweredPackets, t.UnansweredBytes, t.UnansweredAllClients = 0, 0, 0
	}
	return t
}

// listeners turns the URLs into what the data plane listens on.
func listeners(cfg *config.Config) (out []dataplane.Listener) {
	for _, l := range cfg.Turn.Listen {
		addr := l.Addr
		if !addr.IsValid() {
			addr = netip.IPv6Unspecified()
		}
		out = append(out, dataplane.Listener{Network: l.Network, Address: netip.AddrPortFrom(addr, l.Port), RequireAuth: cfg.Asks(l)})
	}
	return out
}

func engineKind(cfg *config.Config) (dataplane.Kind, error) {
	return dataplane.ParseKind(string(cfg.Turn.Engine))
}

func shards(cfg *config.Config) int {
	if cfg.Turn.Shards > 0 {
		return cfg.Turn.Shards
	}
	return runtime.GOMAXPROCS(0)
}

// unjudged says in words what the policy cannot see on this machine.
func unjudged(p *turn.Policy) (out []string) {
	for _, r := range p.Unjudged() {
		switch r {
		case turn.RuleReversePath:
			out = append(out, "there is one interface, so a forged source address of another network cannot be told by the way back to it: "+
				"let the router drop packets whose source is not its network's (BCP 38)")
		case turn.RuleNotDefaultRoute:
			out = append(out, "the routes are not known, so peers on inside networks are told by their addresses only: list inside networks with "+
				"public addresses in turn.peers.deny")
		case turn.RuleOnLink:
			out = append(out, "the neighbours are not known: list this network in turn.peers.deny")
		case turn.RuleOwnAddress:
			out = append(out, "the addresses of this machine are not known")
		default:
			out = append(out, fmt.Sprintf("the rule %q cannot be judged here", r))
		}
	}
	return out
}
