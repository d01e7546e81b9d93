//go:build linux

package netns

import (
	"fmt"
	"net/netip"
)

// The Internet's own addresses: the source of its ICMP errors and everybody's next hop.
const (
	InternetIPv4 = "203.0.113.254"
	internetHop6 = "fe80::1"
)

// Internet is a router with one link for each host, so that a packet between two hosts loses one hop there and everything that is
// public is reachable. It forwards what it has a route for: nothing leads to RFC 1918 addresses.
type Internet struct {
	Router *Host
	lab    *Lab
}

// Internet returns the lab's internet, made at the first call.
func (l *Lab) Internet() *Internet {
	l.tb.Helper()
	if l.inet == nil {
		r := l.Router("internet")
		r.Addr("lo", InternetIPv4+"/32")
		l.inet = &Internet{Router: r, lab: l}
	}
	return l.inet
}

// Host adds a host in the open with public addresses, such as 203.0.113.1 and 2001:db8:1::1. Its interface is called wan.
func (n *Internet) Host(name string, addrs ...string) *Host {
	n.lab.tb.Helper()
	h := n.lab.Host(name)
	n.Attach(h.At(addrs...).Named("wan"))
	return h
}

// Attach joins an end to the internet: its addresses are routed to it, and it gets the default routes.
func (n *Internet) Attach(e End) {
	n.lab.tb.Helper()
	port := n.port(&e)
	n.lab.Link(e, port)
	n.route(e, port, InternetIPv4, internetHop6)
}

// AttachSlow is Attach by a userspace link with delay, loss and a rate; cfg.AtoB is the way to the internet.
func (n *Internet) AttachSlow(e End, cfg UserLinkConfig) *UserLink {
	n.lab.tb.Helper()
	port := n.port(&e)
	link := n.lab.UserLink(e, port, cfg)
	n.route(e, port, "", "")
	return link
}

func (n *Internet) port(e *End) End {
	e.addrs = append([]string(nil), e.addrs...)
	e.complete()
	port := n.Router.At(internetHop6 + "/64").Named(fmt.Sprintf("port%d", n.Router.next)).MTU(e.mtu)
	n.Router.next++
	return port
}

// route makes the end's addresses known to the internet and gives the end its default routes.
func (n *Internet) route(e, port End, hop4, hop6 string) {
	n.lab.tb.Helper()
	var is4, is6 bool
	for _, a := range e.addrs {
		p, err := netip.ParsePrefix(a)
		n.lab.must(err, "host %s", e.host.name)
		n.Router.RouteDev(netip.PrefixFrom(p.Addr(), p.Addr().BitLen()).String(), "", port.name)
		is4, is6 = is4 || p.Addr().Is4(), is6 || p.Addr().Is6()
	}
	if is4 {
		e.host.RouteDev("default", hop4, e.name)
	}
	if is6 {
		e.host.RouteDev("default6", hop6, e.name)
	}
}
