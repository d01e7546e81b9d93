package dataplane

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/stilenet/stile/turn"
)

// A relayed port of the socket engine is a socket, which keeps others off it. Here three things stand for that:
//
//   - taken asks, before a port is allocated, whether a socket would get what comes to it. Connected sockets do not count: the kernel finds them
//     before it asks steer, so nothing is taken from them.
//   - guard refuses the bind(2) of other programs to an allocated port, as far as they are in the cgroup that this process sees as the root.
//   - What the kernel chooses for programs that ask for any port, guard does not see. net.ipv4.ip_local_reserved_ports keeps it off the range; portWarnings
//     says so where it matters. A program that got such a port and did not connect would miss what comes to it while the port is allocated.

// guard attaches the programs that refuse a bind.
func (k *kernel) guard() error {
	if len(k.addrs) > maxGuarded {
		return fmt.Errorf("there are more than %d relay addresses", maxGuarded)
	}
	root, err := cgroupRoot()
	if err != nil {
		return err
	}
	cookie, err := namespaceCookie()
	if err != nil {
		return fmt.Errorf("needs Linux 5.14: %w", err)
	}
	spec, err := loadSpec("guard")
	if err != nil {
		return err
	}
	var saysWhy uint32
	if features.HaveProgramHelper(ebpf.CGroupSockAddr, asm.FnSetRetval) == nil {
		saysWhy = 1
	}
	for name, v := range map[string]any{"netns": cookie, "relay_count": uint32(len(k.addrs)), "says_why": saysWhy} {
		if err := spec.Variables[name].Set(v); err != nil {
			return err
		}
	}
	replace := make(map[string]*ebpf.Map)
	for _, name := range []string{"relayed", "relays"} {
		replace[name] = k.programs.Maps[name]
		spec.Maps[name].MaxEntries = k.programs.Maps[name].MaxEntries()
	}
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replace})
	if err != nil {
		return err
	}
	defer c.Close() // the links keep what they need
	for name, at := range map[string]ebpf.AttachType{"guard4": ebpf.AttachCGroupInet4Bind, "guard6": ebpf.AttachCGroupInet6Bind} {
		l, err := link.AttachCgroup(link.CgroupOptions{Path: root, Attach: at, Program: c.Programs[name]})
		if err != nil {
			return err
		}
		k.links = append(k.links, l)
	}
	return nil
}

// cgroupRoot is where the second version of control groups is mounted.
func cgroupRoot() (string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		mount, fs, ok := strings.Cut(line, " - ")
		if fields := strings.Fields(mount); ok && strings.HasPrefix(fs, "cgroup2 ") && len(fields) > 4 {
			return unescapeMount(fields[4]), nil
		}
	}
	return "", errors.New("the cgroup2 file system is not mounted")
}

// unescapeMount undoes the escapes of /proc/self/mountinfo: a backslash and three octal digits.
func unescapeMount(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// namespaceCookie is the number by which programs know the network namespace.
func namespaceCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
}

// portWarnings says what keeps relayed ports from being the relay's alone.
func portWarnings(guard error, ports turn.PortRange) (w []string) {
	if guard != nil {
		w = append(w, fmt.Sprintf("other programs of this host are not kept from binding relayed ports that are in use: %s", oneLine(guard)))
	}
	local, err1 := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	reserved, err2 := os.ReadFile("/proc/sys/net/ipv4/ip_local_reserved_ports")
	if err1 != nil || err2 != nil {
		return w
	}
	if overlap, ok := unreserved(ports, string(local), string(reserved)); ok {
		w = append(w, fmt.Sprintf("Linux gives outgoing datagrams of other programs ports that relayed addresses use (%d-%d): sysctl -w net.ipv4.ip_local_reserved_ports=%d-%d keeps them apart",
			overlap.First, overlap.Last, ports.First, ports.Last))
	}
	return w
}

// unreserved is the part of the relayed ports that the kernel gives to programs that ask for any port, from the first to the last such port. local
// and reserved are what the two files in /proc/sys/net/ipv4 say: "32768	60999" and "8080,9000-9100".
func unreserved(ports turn.PortRange, local, reserved string) (turn.PortRange, bool) {
	var first, last int
	if n, _ := fmt.Sscan(local, &first, &last); n != 2 {
		return turn.PortRange{}, false
	}
	first, last = max(first, int(ports.First)), min(last, int(ports.Last))
	free := make(map[int]bool)
	for p := first; p <= last; p++ {
		free[p] = true
	}
	for _, part := range strings.Split(strings.TrimSpace(reserved), ",") {
		a, b, isRange := strings.Cut(part, "-")
		from, err := strconv.ParseUint(a, 10, 16)
		if err != nil {
			continue
		}
		to := from
		if isRange {
			if to, err = strconv.ParseUint(b, 10, 16); err != nil {
				continue
			}
		}
		for p := from; p <= to; p++ {
			delete(free, int(p))
		}
	}
	for ; first <= last && !free[first]; first++ {
	}
	for ; first <= last && !free[last]; last-- {
	}
	if first > last {
		return turn.PortRange{}, false
	}
	return turn.PortRange{First: uint16(first), Last: uint16(last)}, true
}
