package turn

import (
	"net/netip"
	"testing"

	"github.com/stilenet/stile/stun"
)

// pair is a server behind a NAT with two clients that know each other's relayed address.
func pair(t *testing.T, shards int, hairpin Hairpin, profile Profile) (a, b *client) {
	s := newServer(t, setup{
		relays: []RelayAddress{{Public: ipOf("192.0.2.15"), Local: ipOf("10.1.0.5")}}, shards: shards,
		policy: func(p *PolicyConfig) {
			p.Profile, p.Hairpin = profile, hairpin
			p.Clients = prefixesOf("198.51.100.0/25", "198.51.100.128/25")
			p.Routes = []Route{routeOf("0.0.0.0/0", 2, "10.1.0.1"), routeOf("10.1.0.0/24", 2, "")}
			p.OwnAddresses = ipsOf("127.0.0.1", "10.1.0.5")
			p.Services = []netip.AddrPort{endpointOf("10.1.0.5:1935"), endpointOf("192.0.2.15:1935")}
		},
	})
	a, b = s.client("198.51.100.1:7000").allocate(), s.client("198.51.100.2:7000")
	b.shard = shards - 1
	b.allocate()
	return a, b
}

// gets describes what the client gets of a step's outputs.
func (c *client) gets(out []Output) string {
	c.t.Helper()
	for _, o := range out {
		if o.Kind != ToClient || o.Source != c.src {
			continue
		}
		if m, err := stun.Parse(o.Data); err == nil {
			from, _ := m.GetXORAddress(stun.AttrXORPeerAddress)
			data, _ := m.Get(stun.AttrData)
			return from.String() + " " + string(data)
		}
		_, data, _ := ChannelData(o.Data)
		return string(data)
	}
	return ""
}

func TestTwoClientsOfOneServerReachEachOther(t *testing.T) {
	for _, shards := range []int{1, 2} {
		for _, profile := range []Profile{ProfileCorporate, ProfileLab} {
			a, b := pair(t, shards, HairpinAll, profile)
			same(t, "relayed address", a.relayed.Addr().String(), "192.0.2.15")
			same(t, "without b's permission", a.gets(a.sendTo(b.relayed.String(), "one")), "")
			same(t, "b answers", a.gets(b.sendTo(a.relayed.String(), "two")), b.relayed.String()+" two")
			same(t, "with b's permission", b.gets(a.sendTo(b.relayed.String(), "three")), a.relayed.String()+" three")
			a.bind(0x4000, b.relayed.String())
			b.bind(0x5000, a.relayed.String())
			same(t, "by channels", b.gets(a.channel(0x4000, "four")), "four")
			same(t, "and back", a.gets(b.channel(0x5000, "five")), "five")
			same(t, "the local form", b.gets(a.sendTo(netip.AddrPortFrom(ipOf("10.1.0.5"), b.relayed.Port()).String(), "six")), "six")
			s := a.stats()
			same(t, "hairpins", s.Packets[RelayedHairpin], 6)
			same(t, "deliveries", s.Packets[RelayedToData]+s.Packets[RelayedToChannel]+s.Packets[DropPeerStranger], 6)
			same(t, "nothing left the host", s.Packets[RelayedSend]+s.Packets[RelayedChannel], 0)
		}
	}
}

func TestHairpinsFollowThePolicy(t *testing.T) {
	for _, shards := range []int{1, 2} {
		for hairpin, want := range map[Hairpin]bool{HairpinAll: true, HairpinSamePrefix: true, HairpinOff: false} {
			a, b := pair(t, shards, hairpin, ProfileCorporate)
			b.sendTo(a.relayed.String(), "x")
			same(t, hairpin.String(), b.gets(a.sendTo(b.relayed.String(), "y")) != "", want)
			same(t, "refused", a.did(DropHairpin) > 0, !want)
			same(t, "by the rule", a.stats().Refused[RuleHairpin] > 0, !want)
		}
		a, _ := pair(t, shards, HairpinSamePrefix, ProfileCorporate)
		far := a.server.client("198.51.100.200:7000") // in the other half
		far.shard = shards - 1
		far.allocate().sendTo(a.relayed.String(), "x")
		same(t, "another entry of the client list", far.gets(a.sendTo(far.relayed.String(), "y")), "")
	}
}

func TestARelayedAddressThatNobodyHasIsAHole(t *testing.T) {
	a, _ := pair(t, 1, HairpinAll, ProfileCorporate)
	var nobody netip.AddrPort
	for port := uint16(50000); ; port++ {
		nobody = netip.AddrPortFrom(ipOf("192.0.2.15"), port)
		if _, _, ok := a.ledger.owner(nobody); !ok {
			break
		}
	}
	a.expect(DropHairpin, func() []Output { return a.sendTo(nobody.String(), "x") })
	a, _ = pair(t, 1, HairpinAll, ProfileLab) // other programs of this host may be there
	out := a.expect(RelayedSend, func() []Output { return a.sendTo("192.0.2.15:50099", "x") })
	same(t, "in a laboratory", out[0].Peer.String(), "10.1.0.5:50099")
}

func TestTheOwnRendezvousIsReachedByItsLocalAddress(t *testing.T) {
	for _, profile := range []Profile{ProfileCorporate, ProfileLab} {
		a, _ := pair(t, 1, HairpinOff, profile)
		same(t, "public form", toPeer(a.sendTo("192.0.2.15:1935", "x")), "2->10.1.0.5:1935 x")
		same(t, "local form", toPeer(a.sendTo("10.1.0.5:1935", "x")), "2->10.1.0.5:1935 x")
	}
}

func TestAnswersOfThisHostComeFromItsPublicAddress(t *testing.T) {
	a, _ := pair(t, 1, HairpinAll, ProfileCorporate)
	a.sendTo("192.0.2.15:1935", "x")
	same(t, "from", a.gets(a.peer(a.relayed, "10.1.0.5:1935", []byte("y"))), "192.0.2.15:1935 y")
}

func TestOneRefusedPortOfTheOwnHostStaysRefused(t *testing.T) {
	a, _ := pair(t, 1, HairpinAll, ProfileCorporate)
	a.sendTo("192.0.2.15:1935", "x") // the permission is by address
	a.expect(DropPeerPort, func() []Output { return a.sendTo("192.0.2.15:3478", "x") })
	a.expect(DropPeerPort, func() []Output { return a.sendTo("10.1.0.5:8080", "x") })
	same(t, "nor a channel", a.bind(0x4000, "192.0.2.15:3478"), 400)
}

func TestIPv6(t *testing.T) {
	relays := []RelayAddress{{ipOf("2001:db8::15"), ipOf("2001:db8::15")}, {ipOf("192.0.2.15"), ipOf("192.0.2.15")}}
	s := newServer(t, setup{relays: relays})
	c := s.client("[2001:db8:1::1]:7000").allocate()
	same(t, "an IPv6 server address gives an IPv6 relayed one", c.relayed.Addr().String(), "2001:db8::15")
	same(t, "Send", toPeer(c.sendTo("[2001:db8:9::5]:5000", "x")), "2->[2001:db8:9::5]:5000 x")
	same(t, "Data", c.hears("[2001:db8:9::5]:6000"), "data")
	same(t, "channel", c.bind(0x4000, "[2001:db8:9::5]:5000"), 0)
	same(t, "ChannelData", c.hears("[2001:db8:9::5]:5000"), "0x4000")
	same(t, "an IPv4 peer", toPeer(s.expect(DropPeerFamily, func() []Output { return c.sendTo("203.0.113.5:5000", "x") })), "")
	mapped := func(b *stun.Builder) { // the builder would write it as IPv4
		v := [20]byte{1: 2}
		a := netip.AddrFrom16(ipOf("203.0.113.5").As16()).As16()
		copy(v[4:], a[:])
		key := b.Bytes()[4:20]
		for i := range 16 {
			v[4+i] ^= key[i]
		}
		b.Attr(stun.AttrXORPeerAddress, v[:])
	}
	s.expect(DropPeerFamily, func() []Output { return c.give(c.message(stun.Send, stun.Indication, mapped, dataOf("x"))) })
	same(t, "an IPv4-mapped peer", c.request(stun.ChannelBind, channelOf(0x4001), mapped), 400)

	four := s.client("198.51.100.1:7000").allocate()
	same(t, "IPv4", four.relayed.Addr().String(), "192.0.2.15")
	other := s.client("198.51.100.1:7001").allocate(familyOf(2))
	same(t, "IPv6 by request", other.relayed.Addr().String(), "2001:db8::15")
	same(t, "Refresh of its family", other.request(stun.Refresh, familyOf(2)), 0)
	same(t, "Refresh of the other one", other.request(stun.Refresh, familyOf(1)), 443)
	same(t, "Refresh of none", other.request(stun.Refresh, familyOf(7)), 400)
	same(t, "IPv4 by request", s.client("[2001:db8:1::1]:7001").allocate(familyOf(1)).relayed.Addr().String(), "192.0.2.15")
	both := s.client("[2001:db8:1::1]:7002")
	code, answer := both.ask(both.message(stun.Allocate, stun.Request, udp, value(stun.AttrAdditionalFamily, 2, 0, 0, 0)))
	v, _ := answer.Get(stun.AttrAddressErrorCode)
	same(t, "both", code, 0)
	same(t, "gives IPv4", both.relayed.Addr().String(), "192.0.2.15")
	same(t, "and says that there is no IPv6 one", string(v), "\x02\x00\x05\x08")

	only4 := newServer(t, setup{})
	same(t, "no relay of the family", only4.client("[2001:db8:1::1]:7000").allocate().relayed.Addr().String(), "192.0.2.15")
	same(t, "but for who insists", only4.client("[2001:db8:1::1]:7001").request(stun.Allocate, udp, familyOf(2)), 440)
}

func TestDatagramBetweenShardsMissesTheNextHolderOfTheTargetsPlace(t *testing.T) {
	a, b := pair(t, 2, HairpinAll, ProfileCorporate)
	b.sendTo(a.relayed.String(), "opens the permission")
	target := b.relayed
	b.request(stun.Refresh, lifetimeOf(0))
	next := b.client("198.51.100.3:7000") // takes the place that b has left in the slab, and lets our address in
	next.shard = b.shard
	next.allocate()
	next.sendTo(a.relayed.String(), "opens the permission")
	core := b.cores[b.shard]
	core.HairpinFrom(b.now, Crossing{From: a.relayed, To: target, Prefix: 0}, b.packet([]byte("late")))
	same(t, "what arrives", next.gets(b.settle(b.shard)), "")
	core.HairpinFrom(b.now, Crossing{From: a.relayed, To: next.relayed, Prefix: 0}, b.packet([]byte("in time")))
	same(t, "what is addressed to it arrives", next.gets(b.settle(b.shard)), a.relayed.String()+" in time")
}

// The rendezvous of this host is reached by its public address and by its local one, and each client hears it under the name that it uses.
func TestTheOwnRendezvousAnswersUnderTheNameItWasCalledBy(t *testing.T) {
	cfg := setup{relays: []RelayAddress{{ipOf("192.0.2.15"), ipOf("10.0.0.5")}}, policy: func(p *PolicyConfig) {
		p.Profile = ProfileCorporate
		p.OwnAddresses = append(p.OwnAddresses, ipOf("10.0.0.5"))
		p.Services = append(p.Services, endpointOf("10.0.0.5:1935"), endpointOf("192.0.2.15:1935"))
	}}
	for _, name := range []string{"192.0.2.15:1935", "10.0.0.5:1935"} {
		s := newServer(t, cfg)
		c := s.client("10.1.2.3:4000").allocate()
		out := c.expect(RelayedSend, func() []Output { return c.sendTo(name, "hello") })
		same(t, name, out[0].Peer, endpointOf("10.0.0.5:1935")) // delivered on this host
		out = c.expect(RelayedToData, func() []Output { return c.peer(c.relayed, "10.0.0.5:1935", []byte("welcome")) })
		m, err := stun.Parse(out[0].Data)
		from, _ := m.GetXORAddress(stun.AttrXORPeerAddress)
		if err != nil || from != endpointOf(name) {
			t.Errorf("%s answers as %v", name, from)
		}
		c.expect(DropPeerPort, func() []Output { return c.sendTo("192.0.2.15:9478", "admin") }) // and nothing else of this host
	}
}
