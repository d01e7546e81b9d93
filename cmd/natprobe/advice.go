package main

import (
	"fmt"
	"os"
	"slices"

	"github.com/stilenet/stile/internal/mmscfg"
	"github.com/stilenet/stile/nattest"
	"github.com/stilenet/stile/rtmfp/flash"
)

// advise says what to change.
func (r *result) advise(goos string, mms mmsFile) []advice {
	v := &r.Verdict
	var out []advice
	add := func(code, format string, args ...any) {
		out = append(out, advice{Code: code, Text: fmt.Sprintf(format, args...)})
	}
	has := func(code string) bool {
		return slices.ContainsFunc(r.Findings, func(f nattest.Finding) bool { return f.Code == code })
	}
	if mms.failed != nil {
		add("mms-cfg-unreadable", "This machine's mms.cfg cannot be read (%v): players cannot either.", mms.failed)
	}
	if mms.disabled {
		out = append(out, advice{"p2p-disabled", "mms.cfg turns peer-to-peer connections off. If they are wanted, remove its RTMFPP2PDisable line, or write:",
			mms.path, mmscfg.NameP2PDisable + "=0"})
	}
	for _, f := range mms.findings {
		add("mms-cfg", "%s, %v", mms.path, f)
	}
	out = append(out, r.adviseRelay(goos, mms)...)
	if r.Rendezvous.State == stateSilent && v.UDP != nattest.UDPUnknown {
		if v.UDP == nattest.UDPBlocked {
			add("rendezvous", "The rendezvous %s is out of reach because UDP is blocked; players reach it through the TURN proxy.", r.Rendezvous.Server)
		} else {
			add("rendezvous", "The rendezvous %s does not answer: see whether it runs, and whether UDP port %d to it passes.", r.Rendezvous.Server, flash.DefaultPort)
		}
	}
	if has(nattest.NoAnswer) {
		add("no-answer", "Nothing answered, by UDP or by TCP: see whether this machine is online and whether the server's name and port are right, or ask another server with --server.")
	}
	if has(nattest.NameFailed) && !has(nattest.NoAnswer) {
		add("name", "A server's name does not resolve: correct it, or write its address.")
	}
	if has(nattest.CaptivePortal) {
		add("captive-portal", "Open a web page and log in to this network, then probe again.")
	}
	if has(nattest.STUNPortBlocked) {
		add("open-udp", "The firewall lets UDP pass to some ports and not to others. For direct connections let outgoing UDP pass to all ports above 1023, and the answers; "+
			"else put the TURN proxy on a port that passes.")
	}
	if v.Mapping == nattest.ADM || v.Mapping == nattest.APDM {
		add("symmetric", "To need the relay less: configure the NAT for endpoint-independent mapping. It is called cone or persistent NAT, "+
			"\"static-port\" in pf, \"permit any-remote-host\" for Juniper, and in nftables it is masquerade without random or fully-random.")
	}
	if v.OpenLinux == nattest.Yes {
		add("open-linux", "The Linux NAT box lets stray packets from outside reach itself, and a peer's early packet then spoils our port. Drop them there: "+
			"nft add rule inet filter input iifname WAN ct state new drop")
	}
	if v.ALG == nattest.Yes {
		add("alg", "Something rewrites addresses inside packets. Turn the NAT's application layer gateway (ALG) off.")
	}
	if v.Pooling == nattest.Arbitrary {
		add("pooling", "The NAT gives one machine several outside addresses at once. Configure paired pooling (RFC 4787, REQ-2).")
	}
	if v.Fragments == nattest.No {
		add("fragments", "Fragments are dropped: keep datagrams below 1,200 bytes, as RTMFP does, or let fragments pass.")
	}
	if has(nattest.ShortLifetime) {
		add("lifetime", "The NAT forgets a silent connection after at most %d s: send a keepalive more often, or raise the NAT's UDP timeout to 120 s.", v.LifetimeMax/1000)
	}
	if v.MTUBelow > 0 && v.MTU > 0 && v.MTU < 1280 {
		add("mtu", "Packets above %d bytes do not pass in one piece: keep datagrams below that, or raise the MTU of the tunnel or link in between.", v.MTU)
	}
	if v.PortMapping == nattest.Yes && v.CGN == nattest.No && v.Relay != nattest.RelayNever {
		add("port-mapping", "The router maps ports on request (NAT-PMP, PCP or UPnP): a program that asks for a mapping is reachable by everybody.")
	}
	if v.CGN == nattest.Yes {
		add("cgn", "A carrier's NAT is in between, so a port mapping on the home router reaches nobody. IPv6 does, where both peers have it; "+
			"else ask the carrier for a public address.")
	}
	if v.IPv6 == nattest.Yes && v.Relay != nattest.RelayNever {
		add("ipv6", "IPv6 works here: between two peers that have it there is no NAT, only firewalls.")
	}
	if has(nattest.ChangeIgnored) || has(nattest.ChangeUnproven) || has(nattest.OtherSilent) || has(nattest.BadOtherAddress) {
		add("server", "The STUN server does not do all that RFC 5780 asks for, which leaves questions open: ask one that does, such as `stile serve` with stun.alternate.")
	} else if has(nattest.OpenQuestion) && v.UDP == nattest.UDPOpen {
		add("server", "To close what is open, ask a STUN server with two addresses (`stile serve` with stun.alternate), or name a TURN proxy on another address with --turn.")
	}
	return out
}

// adviseRelay is about the TURN proxy and the line that names it.
func (r *result) adviseRelay(goos string, mms mmsFile) []advice {
	v := &r.Verdict
	where := mms.path
	if where == "" {
		if list := mmscfg.Locations(goos, os.Getenv); len(list) > 0 {
			where = list[0].Path
		}
	}
	needed := v.Relay == nattest.RelayAlways || v.Relay == nattest.RelaySometimes || v.Relay == nattest.RelayUnknown && v.UDP != nattest.UDPUnknown
	proxy := r.Proxy.Server
	switch {
	case mms.proxy != "" && mms.proxy == proxy && !r.Proxy.answers():
		return []advice{{"proxy-silent", fmt.Sprintf("mms.cfg names the TURN proxy %s, which gives no allocation: see whether it runs, whether it serves this network (turn.clients), "+
			"and whether a firewall lets UDP and TCP to it pass. If it has moved, correct the line:", proxy), where, line("")}}
	case mms.proxy != "" && needed:
		if r.Proxy.UDP.State != stateAnswers {
			return []advice{{"proxy-tcp", "The TURN proxy of mms.cfg answers over TCP only. Flash Player is known to use UDP: let UDP to the proxy pass.", "", ""}}
		}
		return []advice{{Code: "proxy-set", Text: "Nothing to change for the relay: mms.cfg names the TURN proxy " + mms.proxy + ", and it answers."}}
	case needed && r.Proxy.answers():
		text := fmt.Sprintf("Flash Player and AIR use a relay when mms.cfg (%s) names it. This one answers:", where)
		if r.Proxy.UDP.State != stateAnswers {
			text = fmt.Sprintf("Flash Player and AIR use a relay when mms.cfg (%s) names it. This one answers over TCP only, and players are known to use UDP: let UDP to it pass.", where)
		}
		return []advice{{"proxy-line", text, where, line(proxy)}}
	case needed:
		return []advice{{"proxy-wanted", fmt.Sprintf("A relay is needed and none was found. Run a TURN proxy (`stile serve`) where this machine reaches it, and name it in mms.cfg (%s):", where),
			where, line("")}}
	}
	return nil
}
