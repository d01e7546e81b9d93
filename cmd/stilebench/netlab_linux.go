package main

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Addresses of the laboratory. The peer is public and beyond a router, as proxies refuse private and on-link peers.
var (
	labServer  = netip.MustParseAddr("10.77.0.1")
	labClient  = netip.MustParseAddr("10.77.0.2")
	labRelay   = netip.MustParseAddr("203.0.113.1")
	labGateway = netip.MustParseAddr("203.0.113.2")
	labPeer    = netip.MustParseAddr("198.51.100.2")
	labFlood   = netip.MustParseAddr("10.128.0.0") // and the 2^16 addresses above it
)

// First local ports. From the peers' on there is no port of a service that answers strangers, which proxies refuse.
const (
	labPortBase     = 2000
	labPeerPortBase = 50000
)

// Locally administered addresses of machines that do not exist (see packetLink).
var (
	macClient  = [6]byte{0x02, 0x77, 0, 0, 0, 0x02}
	macGateway = [6]byte{0x02, 0x77, 0, 0, 1, 0x02}
)

// labOptions are how the machine is arranged around a server. All but the ports concern the laboratory only.
type labOptions struct {
	// threadedNAPI runs the server's receive side in kernel threads on the server's CPU, counted as the server's,
	// as a real interface would. Otherwise it runs in the sender's system call, on the generator's CPU.
	threadedNAPI bool
	// txChecksum leaves UDP checksums to the interface, which on veth computes none. Off, packets look as on a wire.
	txChecksum bool
	serverCPU  int
	nice       int // of the NAPI threads
	minPort    int // that a server relays from
	maxPort    int
}

// netlab is three namespaces: clients, server, peers. It is not safe for concurrent use.
type netlab struct {
	opts           labOptions
	server         *nsThread
	client, peer   *nsThread
	macC, macP     [6]byte // of the server's two interfaces
	netdev         []*os.File
	snmp           *os.File // the server's
	napi           []int    // thread ids of the server's interfaces
	ifClient, ifSC string   // names at both ends of the client's cable
	ifPeer, ifSP   string
}

// newNetlab builds the laboratory; id tells its kernel threads from those of others.
func newNetlab(id int, opts labOptions) (_ *netlab, err error) {
	l := &netlab{opts: opts}
	l.ifClient, l.ifSC = fmt.Sprintf("sb%dc", id), fmt.Sprintf("sb%dsc", id)
	l.ifPeer, l.ifSP = fmt.Sprintf("sb%dp", id), fmt.Sprintf("sb%dsp", id)
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	for _, t := range []**nsThread{&l.server, &l.client, &l.peer} {
		if *t, err = newNSThread(true); err != nil {
			return nil, err
		}
	}
	err = l.server.do(func() error {
		return ipBatch(
			"link set lo up",
			fmt.Sprintf("link add %s type veth peer name %s netns %s", l.ifSC, l.ifClient, l.client.path()),
			fmt.Sprintf("link add %s type veth peer name %s netns %s", l.ifSP, l.ifPeer, l.peer.path()),
			fmt.Sprintf("link set %s up", l.ifSC),
			fmt.Sprintf("link set %s up", l.ifSP),
			fmt.Sprintf("addr add %s/24 dev %s", labServer, l.ifSC),
			fmt.Sprintf("addr add %s/24 dev %s", labRelay, l.ifSP),
			fmt.Sprintf("neigh add %s lladdr %s nud permanent dev %s", labClient, net.HardwareAddr(macClient[:]), l.ifSC),
			fmt.Sprintf("neigh add %s lladdr %s nud permanent dev %s", labGateway, net.HardwareAddr(macGateway[:]), l.ifSP),
			fmt.Sprintf("route add 10.0.0.0/8 via %s dev %s", labClient, l.ifSC),
			fmt.Sprintf("route add default via %s dev %s", labGateway, l.ifSP),
		)
	})
	if err != nil {
		return nil, err
	}
	for _, far := range []struct {
		ns  *nsThread
		dev string
	}{{l.client, l.ifClient}, {l.peer, l.ifPeer}} {
		err = far.ns.do(func() error {
			if err := ipBatch("link set " + far.dev + " up"); err != nil || !opts.threadedNAPI {
				return err
			}
			// veth takes what XDP sends only when its far end has NAPI, and it has that only with GRO.
			return ethtool(far.dev, unix.ETHTOOL_SGRO, 1)
		})
		if err != nil {
			return nil, err
		}
	}
	err = l.server.do(func() error {
		// An XDP program's route lookup (bpf_fib_lookup) answers only where the kernel forwards.
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
			return err
		}
		for dev, mac := range map[string]*[6]byte{l.ifSC: &l.macC, l.ifSP: &l.macP} {
			ifi, err := net.InterfaceByName(dev)
			if err != nil {
				return err
			}
			copy(mac[:], ifi.HardwareAddr)
			if !opts.txChecksum {
				if err := ethtool(dev, unix.ETHTOOL_STXCSUM, 0); err != nil {
					return fmt.Errorf("turn off the transmit checksum offload of %s: %w", dev, err)
				}
			}
			if opts.threadedNAPI {
				if err := l.threadNAPI(dev); err != nil {
					return err
				}
			}
		}
		snmp, err := os.Open("/proc/thread-self/net/snmp")
		l.snmp = snmp
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, t := range []*nsThread{l.server, l.client, l.peer} {
		err = t.do(func() error {
			f, err := os.Open("/proc/thread-self/net/dev")
			if err == nil {
				l.netdev = append(l.netdev, f)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return l, nil
}

// threadNAPI gives a veth NAPI (which it has only with GRO, toggled while it is up) and a kernel thread for it.
func (l *netlab) threadNAPI(dev string) error {
	if err := ethtool(dev, unix.ETHTOOL_SGRO, 1); err != nil {
		return fmt.Errorf("turn on GRO of %s: %w", dev, err)
	}
	// /sys of this process shows the namespace that it was mounted in.
	out, err := exec.Command("unshare", "-m", "sh", "-c",
		"mount -t sysfs none /sys && echo 1 > /sys/class/net/"+dev+"/threaded").CombinedOutput()
	if err != nil {
		return fmt.Errorf("threaded NAPI of %s: %w: %s", dev, err, bytes.TrimSpace(out))
	}
	pids, err := kernelThreads("napi/" + dev + "-")
	if err != nil {
		return err
	}
	if len(pids) == 0 {
		return fmt.Errorf("threaded NAPI of %s: no kernel thread napi/%s-* appeared", dev, dev)
	}
	for _, pid := range pids {
		if err := pinThread(pid, l.opts.serverCPU); err != nil {
			return fmt.Errorf("pin the NAPI thread of %s: %w", dev, err)
		}
		if err := unix.Setpriority(unix.PRIO_PROCESS, pid, l.opts.nice); err != nil {
			return fmt.Errorf("priority of the NAPI thread of %s: %w", dev, err)
		}
	}
	l.napi = append(l.napi, pids...)
	return nil
}

// ethtool sets one of the old on-off properties.
func ethtool(dev string, cmd, value uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	arg := struct{ cmd, data uint32 }{cmd, value}
	req := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&arg)}
	copy(req.name[:unix.IFNAMSIZ-1], dev)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return errno
	}
	return nil
}

func ipBatch(lines ...string) error {
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// clientLink and peerLink open the generator's ends. first shifts the local ports, so that sessions on one
// server do not meet each other's 5-tuples.
func (l *netlab) clientLink(first, ports int) (link *packetLink, err error) {
	err = l.client.do(func() error {
		link, err = newPacketLink(packetLinkConfig{ifname: l.ifClient, mac: macClient, gw: l.macC,
			addr: labClient, base: uint16(labPortBase + first), ports: ports})
		return err
	})
	return link, err
}

func (l *netlab) peerLink(ports int) (link *packetLink, err error) {
	err = l.peer.do(func() error {
		link, err = newPacketLink(packetLinkConfig{ifname: l.ifPeer, mac: macGateway, gw: l.macP,
			addr: labPeer, base: labPeerPortBase, ports: ports})
		return err
	})
	return link, err
}

func (l *netlab) close() {
	for _, f := range l.netdev {
		_ = f.Close()
	}
	if l.snmp != nil {
		_ = l.snmp.Close()
	}
	for _, t := range []*nsThread{l.client, l.peer, l.server} {
		if t != nil {
			t.close()
		}
	}
}
