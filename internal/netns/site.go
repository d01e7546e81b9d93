//go:build linux

package netns

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
)

// defaultUDPTimeout is how long a box remembers a silent UDP flow: the kernel's value for an answered one.
const defaultUDPTimeout = 120 * time.Second

// SiteConfig describes a LAN behind a box.
type SiteConfig struct {
	Name   string
	NAT    NATKind // the zero kind is Open
	Public string  // the box's address outside, such as 192.0.2.1
	LAN    string  // the inside prefix, such as 10.0.1.0/24; behind Firewall and Open a public one
	LAN6   string  // an IPv6 prefix, routed and filtered but not translated, such as 2001:db8:1::/64; empty for none

	Hairpin    bool          // inside hosts reach each other's public endpoints, with the external source
	Loss       float64       // share of packets that the box loses at random, each way, 0 to 1
	UDPTimeout time.Duration // for unanswered and answered flows alike, whole seconds; 0 is 120 s

	Access *UserLinkConfig // a userspace link between the box and the outside; nil is a veth pair. AtoB is the way out
	User   *NATConfig      // a userspace NAT in place of NAT, which must be zero
}

// Site is a LAN behind a box.
type Site struct {
	Config SiteConfig
	Box    *Host     // its interfaces are wan and lan
	Access *UserLink // if configured
	User   *UserNAT  // if configured

	lab     *Lab
	lan     netlink.Link
	last    netip.Addr // the last address given to an inside host
	last6   netip.Addr
	prefix  netip.Prefix // LAN and LAN6, masked; the first address of each is the box's
	prefix6 netip.Prefix
}

// upstream is what a box's wan leads to: the internet, or the box of a carrier.
type upstream struct {
	router *Host
	hop4   string
}

// Site adds a site whose box is on the internet.
func (n *Internet) Site(cfg SiteConfig) *Site {
	n.lab.tb.Helper()
	return n.lab.site(cfg, upstream{n.Router, InternetIPv4})
}

// Site adds a site whose box is behind this one's: this one is then a carrier-grade NAT and the inner Public an address of its
// LAN's kind, such as 100.64.0.2.
func (s *Site) Site(cfg SiteConfig) *Site {
	s.lab.tb.Helper()
	return s.lab.site(cfg, upstream{s.Box, s.prefix.Addr().Next().String()})
}

func (l *Lab) site(cfg SiteConfig, up upstream) *Site {
	l.tb.Helper()
	if cfg.NAT.Name == "" {
		cfg.NAT = Open
	} else if cfg.User != nil {
		l.tb.Fatalf("netns: site %s: NAT and User exclude each other", cfg.Name)
	}
	if cfg.User != nil && (cfg.Access != nil || cfg.LAN6 != "") {
		l.tb.Fatalf("netns: site %s: the userspace NAT goes with neither Access nor LAN6", cfg.Name)
	}
	if cfg.UDPTimeout == 0 {
		cfg.UDPTimeout = defaultUDPTimeout
	}
	public, err := netip.ParseAddr(cfg.Public)
	l.must(err, "site %s: Public", cfg.Name)
	prefix, err := netip.ParsePrefix(cfg.LAN)
	l.must(err, "site %s: LAN", cfg.Name)

	s := &Site{Config: cfg, lab: l, prefix: prefix.Masked()}
	s.Box = l.Router(cfg.Name + "-box")
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "lan"
	snooping := false
	l.must(s.Box.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}), "site %s", cfg.Name)
	s.lan, err = s.Box.nl.LinkByName("lan")
	l.must(err, "site %s", cfg.Name)
	s.last = s.prefix.Addr().Next()
	inside := s.Box.At(netip.PrefixFrom(s.last, prefix.Bits()).String()).Named("lan")
	if cfg.LAN6 != "" {
		p, err := netip.ParsePrefix(cfg.LAN6)
		l.must(err, "site %s: LAN6", cfg.Name)
		s.prefix6 = p.Masked()
		s.last6 = s.prefix6.Addr().Next()
		inside.addrs = append(inside.addrs, netip.PrefixFrom(s.last6, p.Bits()).String())
	}
	inside.up()
	s.join(up, public)

	if cfg.User == nil {
		s.Box.NFT(context.Background(), cfg.NAT.rules(public, cfg.Hairpin, cfg.Loss, cfg.UDPTimeout))
		if !cfg.NAT.stray || cfg.NAT.nat() { // otherwise nothing is tracked and the keys may not exist
			seconds := max(1, int(cfg.UDPTimeout.Seconds()))
			s.Box.ConntrackUDPTimeouts(seconds, seconds)
		}
	}
	return s
}

// join makes the box's wan and the routes on both of its sides.
func (s *Site) join(up upstream, public netip.Addr) {
	l := s.lab
	l.tb.Helper()
	const boxHop6 = "fe80::2"
	port := up.router.At().Named(fmt.Sprintf("port%d", up.router.next))
	up.router.next++
	wan := s.Box.At(public.String()).Named("wan")
	hop4, hop6, back4, back6 := up.hop4, internetHop6, public.String(), boxHop6
	switch {
	case s.Config.User != nil:
		hop4, back4 = "", ""
		// The address is the NAT's, not the box's; the box needs one of its own only for ICMP errors, and has its LAN's.
		wan.addrs = nil
		s.User = l.UserNAT(wan, port, public, *s.Config.User)
	case s.Config.Access != nil:
		hop4, hop6, back4, back6 = "", "", "", ""
		s.Access = l.UserLink(wan, port, *s.Config.Access)
	default:
		port.addrs, wan.addrs = []string{internetHop6 + "/64"}, append(wan.addrs, boxHop6+"/64")
		l.Link(wan, port)
	}
	up.router.RouteDev(public.String()+"/32", "", port.name)
	s.Box.RouteDev("default", hop4, "wan")
	if s.Config.User == nil && !s.Config.NAT.nat() {
		up.router.RouteDev(s.prefix.String(), back4, port.name)
	}
	if s.Config.LAN6 != "" {
		s.Box.RouteDev("default6", hop6, "wan")
		up.router.RouteDev(s.prefix6.String(), back6, port.name)
	}
}

// Host adds a host to the LAN; hosts get the addresses that follow the box's, .2 first. Its interface is called lan.
func (s *Site) Host(name string) *Host {
	s.lab.tb.Helper()
	h := s.lab.Host(name)
	s.last = s.last.Next()
	addrs := []string{netip.PrefixFrom(s.last, s.prefix.Bits()).String()}
	if s.last6.IsValid() {
		s.last6 = s.last6.Next()
		addrs = append(addrs, netip.PrefixFrom(s.last6, s.prefix6.Bits()).String())
	}
	port := s.Box.At().Named(fmt.Sprintf("host%d", s.Box.next))
	s.Box.next++
	s.lab.Link(h.At(addrs...).Named("lan"), port)
	link, err := s.Box.nl.LinkByName(port.name)
	s.lab.must(err, "site %s", s.Config.Name)
	s.lab.must(s.Box.nl.LinkSetMaster(link, s.lan), "site %s: attach %s", s.Config.Name, name)
	s.Box.awaitReady("lan")
	h.Route("default", s.prefix.Addr().Next().String())
	if s.prefix6.IsValid() {
		h.Route("default6", s.prefix6.Addr().Next().String())
	}
	return h
}
