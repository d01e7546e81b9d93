package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The laboratory of attacks is the network that the policy corpus describes: the proxy has one leg in the DMZ, by which the
// default route leads, one in the company, and one in a network beside it.
//
//	clients 10.77.0.2, 10.128.0.0/16, fd12:77::2
//	   |
//	company 10.2.0.1, fd12:2::1: every other address of 10/8, 172.16/12, 192.168/16, 130.10/16, 2a00:1:2:4::/64
//	   |
//	proxy 10.2.0.5, fd12:2::5 | 10.1.0.5, 2a00:1:2:3::5 | 198.51.100.9
//	                               |                          |
//	                            internet 10.1.0.1, fe80::1: every other address there is
//
// The company and the internet have all their IPv4 addresses at once (a route of the type local), so that whatever the proxy
// sends to whom arrives, and a witness on every interface sees it, IPv6 too. Ports that nobody listens on are silent.
const (
	abuseClient  = "10.77.0.2"
	abuseClient6 = "fd12:77::2"
	abuseProxy   = "10.2.0.5"
	abuseProxy6  = "fd12:2::5"
	abuseRelay   = "10.1.0.5"
	abuseRelay6  = "2a00:1:2:3::5"
)

// abusePresets are the servers as somebody would start them for Flash Player who reads no further.
var abusePresets = map[string]string{
	"stile": "./build/stile serve --rendezvous.listen= --turn.peers.payload {payload} --state.dir {dir} --log.level warn",
	"coturn": "turnserver -n -z --server-relay -L {ip} -L {ip6} -p {port} -E {relay_ip} -E {relay_ip6} --no-tls --no-dtls --no-cli" +
		" --no-stdout-log -l {dir}/log --pidfile {dir}/pid -b {dir}/db",
}

// abuseLab is four namespaces.
type abuseLab struct {
	client, company, proxy, internet *nsThread
	taps                             *taps
	spec                             serverSpec
	srv                              *server
}

func newAbuseLab(spec serverSpec) (_ *abuseLab, err error) {
	l := &abuseLab{spec: spec, taps: &taps{}}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	for _, t := range []**nsThread{&l.client, &l.company, &l.proxy, &l.internet} {
		if *t, err = newNSThread(true); err != nil {
			return nil, err
		}
	}
	common := []string{"net/ipv4/conf/all/rp_filter=0", "net/ipv4/conf/default/rp_filter=0", "net/ipv6/conf/default/dad_transmits=0"}
	forward := []string{"net/ipv4/ip_forward=1", "net/ipv6/conf/all/forwarding=1"}
	for _, step := range []struct {
		ns     *nsThread
		sysctl []string
		quiet  bool // no ICMP about ports that nobody listens on
		ip     []string
	}{
		// First of all, so that interfaces begin with it: a router whose link-local address is tentative forwards nothing for a second.
		{ns: l.client, sysctl: common}, {ns: l.company, sysctl: common}, {ns: l.internet, sysctl: common},
		{ns: l.proxy, sysctl: common, ip: []string{
			"link set lo up",
			"link add inside0 type veth peer name up0 netns " + l.company.path(),
			"link add dmz0 type veth peer name gw0 netns " + l.internet.path(),
			"link add side0 type veth peer name side1 netns " + l.internet.path(),
		}},
		{ns: l.company, ip: []string{"link set lo up", "link add c1 type veth peer name c0 netns " + l.client.path()}},
		{ns: l.client, quiet: true, ip: []string{
			"link set lo up", "link set c0 up",
			"addr add " + abuseClient + "/24 dev c0", "addr add " + abuseClient6 + "/64 dev c0 nodad",
			"route add local 10.128.0.0/16 dev lo table main", "route add default via 10.77.0.1", "route add default via fd12:77::1",
		}},
		{ns: l.company, sysctl: forward, quiet: true, ip: []string{
			"link set up0 up", "link set c1 up",
			"addr add 10.2.0.1/32 dev up0", "route add 10.2.0.5/32 dev up0", "addr add fd12:2::1/128 dev up0 nodad", "route add fd12:2::5/128 dev up0",
			"addr add 10.77.0.1/24 dev c1", "route add 10.128.0.0/16 via " + abuseClient, "addr add fd12:77::1/64 dev c1 nodad",
			"route add local 10.0.0.0/8 dev lo table main", "route add local 172.16.0.0/12 dev lo table main",
			"route add local 192.168.0.0/16 dev lo table main", "route add local 130.10.0.0/16 dev lo table main",
		}},
		{ns: l.internet, quiet: true, ip: []string{
			"link set lo up", "link set gw0 up", "link set side1 up",
			"addr add 10.1.0.1/32 dev gw0", "route add " + abuseRelay + "/32 dev gw0", "addr add fe80::1/64 dev gw0 nodad",
			"addr add 198.51.100.1/32 dev side1", "route add 198.51.100.9/32 dev side1",
			"route add local 0.0.0.0/0 dev lo table main",
		}},
		{ns: l.proxy, ip: []string{
			"link set inside0 up", "link set dmz0 up", "link set side0 up",
			"addr add " + abuseProxy + "/24 dev inside0", "addr add " + abuseProxy6 + "/64 dev inside0 nodad",
			"addr add " + abuseRelay + "/24 dev dmz0", "addr add " + abuseRelay6 + "/64 dev dmz0 nodad", "addr add 198.51.100.9/25 dev side0",
			"route add 10.0.0.0/8 via 10.2.0.1", "route add 130.10.0.0/16 via 10.2.0.1", "route add 2a00:1:2:4::/64 via fd12:2::1",
			"route add fd12:77::/64 via fd12:2::1", "route add default via 10.1.0.1", "route add default via fe80::1 dev dmz0",
		}},
	} {
		err := step.ns.do(func() error {
			for _, s := range step.sysctl {
				key, value, _ := strings.Cut(s, "=")
				if err := os.WriteFile("/proc/sys/"+key, []byte(value), 0); err != nil {
					return err
				}
			}
			if step.quiet {
				if err := nftRules("table inet quiet {\nchain out {\ntype filter hook output priority 0;\n" +
					"icmp type destination-unreachable drop\nicmpv6 type destination-unreachable drop\n}\n}\n"); err != nil {
					return err
				}
			}
			if len(step.ip) == 0 {
				return nil
			}
			return ipBatch(step.ip...)
		})
		if err != nil {
			return nil, err
		}
	}
	// A neighbour that is not there answers no solicitation, so its address is told, and so that of the gateway.
	var mac net.HardwareAddr
	err = l.internet.do(func() error {
		ifi, err := net.InterfaceByName("gw0")
		if err == nil {
			mac = ifi.HardwareAddr
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if err = l.proxy.do(func() error {
		return ipBatch("neigh add 2a00:1:2:3::77 lladdr "+mac.String()+" nud permanent dev dmz0", "neigh add fe80::1 lladdr "+mac.String()+" nud permanent dev dmz0")
	}); err != nil {
		return nil, err
	}
	for _, w := range []struct {
		ns   *nsThread
		name string
	}{{l.company, "company"}, {l.internet, "internet"}, {l.proxy, "proxy"}} {
		if err := w.ns.do(func() error { return l.taps.add(w.name) }); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func nftRules(rules string) error {
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s (the laboratory of attacks needs Debian's package nftables)", err, bytes.TrimSpace(out))
	}
	return nil
}

// start runs a fresh server and waits until it answers.
func (l *abuseLab) start(ctx context.Context, a *arena) error {
	l.stop()
	srv, err := startServer(serverConfig{
		spec:   serverSpec{l.spec.Name, strings.NewReplacer("{ip6}", abuseProxy6, "{relay_ip6}", abuseRelay6, "{payload}", a.payload).Replace(l.spec.Command)},
		listen: a.server, relay: netip.MustParseAddr(abuseRelay), minPort: 49152, maxPort: 65535,
		cpus: placement{server: -1}, thread: l.proxy,
	})
	if err != nil {
		return err
	}
	l.srv = srv
	for begin := time.Now(); time.Since(begin) < 15*time.Second; {
		if err := errors.Join(srv.ended(), ctx.Err()); err != nil {
			return err
		}
		if _, err = a.alive(askTimeout); err == nil {
			_, err = a.witness.sightings() // what another server was told to send
			return err
		}
	}
	return fmt.Errorf("server %s: %w", l.spec.Name, err)
}

func (l *abuseLab) stop() {
	if l.srv != nil {
		l.srv.stop()
		l.srv = nil
	}
}

func (l *abuseLab) arena(ctx context.Context, repo string) *arena {
	a := &arena{
		server: netip.AddrPortFrom(netip.MustParseAddr(abuseProxy), 3478), server6: netip.AddrPortFrom(netip.MustParseAddr(abuseProxy6), 3478),
		lab: true, repo: repo, inClients: l.client.do, inInternet: l.internet.do,
		source:   func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 128, byte(i / 250), byte(1 + i%250)}) },
		stranger: func(i int) netip.Addr { return netip.AddrFrom4([4]byte{45, 40, byte(i / 250), byte(1 + i%250)}) },
		echo:     netip.MustParseAddr("203.0.113.7"),
		inside: []netip.Prefix{
			netip.MustParsePrefix("10.2.0.0/24"), netip.MustParsePrefix("10.66.0.0/24"), netip.MustParsePrefix("130.10.0.0/24"),
			netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("198.51.100.0/25"), netip.MustParsePrefix("192.168.1.0/24"),
		},
		witness: l.taps,
		pids:    func() []int { return l.srv.pids() },
		ended:   func() error { return l.srv.ended() },
	}
	a.restart = func() error { return l.start(ctx, a) }
	return a
}

func (l *abuseLab) close() {
	l.stop()
	l.taps.close()
	for _, t := range []*nsThread{l.client, l.company, l.internet, l.proxy} {
		if t != nil {
			t.close()
		}
	}
}

// taps are packet sockets on every interface of some namespaces. In the proxy's namespace only what stays on the host counts: the rest is
// counted where it arrives.
type taps struct {
	mu   sync.Mutex
	fds  []int
	seen []sighting
	wg   sync.WaitGroup
	stop chan struct{}
}

func (w *taps) watch(...netip.AddrPort) error { return nil }

// add opens a tap in the namespace of the calling thread.
func (w *taps) add(name string) error {
	const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, all)
	if err != nil {
		return fmt.Errorf("a packet socket: %w", err)
	}
	if w.stop == nil {
		w.stop = make(chan struct{})
	}
	w.fds = append(w.fds, fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
		return err
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}); err != nil {
		return err
	}
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		return err
	}
	loopbackOnly := name == "proxy"
	w.wg.Go(func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := unix.Recvfrom(fd, b, 0)
			if err != nil {
				select {
				case <-w.stop:
					return
				default:
					continue
				}
			}
			ll, ok := from.(*unix.SockaddrLinklayer)
			if !ok || ll.Pkttype == unix.PACKET_OUTGOING || (ll.Ifindex == lo.Index) != loopbackOnly {
				continue
			}
			if to, payload, ok := udpPacket(b[:n]); ok {
				w.mu.Lock()
				w.seen = appendSightings(w.seen, name, to, payload)
				w.mu.Unlock()
			}
		}
	})
	return nil
}

// udpPacket reads an IP packet that carries UDP. Of extension headers it skips a fragment header.
func udpPacket(b []byte) (to netip.AddrPort, payload []byte, ok bool) {
	if len(b) < 1 {
		return to, nil, false
	}
	var addr netip.Addr
	switch {
	case b[0]>>4 == 4 && len(b) >= 20:
		if b[9] != unix.IPPROTO_UDP || len(b) < int(b[0]&15)*4 {
			return to, nil, false
		}
		addr, b = netip.AddrFrom4([4]byte(b[16:20])), b[int(b[0]&15)*4:]
	case b[0]>>4 == 6 && len(b) >= 40:
		next := b[6]
		addr, b = netip.AddrFrom16([16]byte(b[24:40])), b[40:]
		if next == unix.IPPROTO_FRAGMENT && len(b) >= 8 {
			next, b = b[0], b[8:]
		}
		if next != unix.IPPROTO_UDP {
			return to, nil, false
		}
	default:
		return to, nil, false
	}
	if len(b) < 8 {
		return to, nil, false
	}
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b[2:])), b[8:], true
}

// sightings waits a moment for what is under way.
func (w *taps) sightings() ([]sighting, error) {
	time.Sleep(100 * time.Millisecond)
	for _, fd := range w.fds {
		st, err := unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
		if err != nil {
			return nil, err
		}
		if st.Drops > 0 {
			return nil, fmt.Errorf("the witness lost %d packets: the machine is too busy", st.Drops)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.seen
	w.seen = nil
	return s, nil
}

func (w *taps) close() {
	if w.stop != nil {
		close(w.stop)
	}
	w.wg.Wait()
	for _, fd := range w.fds {
		_ = unix.Close(fd)
	}
}
