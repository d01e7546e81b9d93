package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Profile says who uses the proxy and whom they reach.
type Profile string

const (
	Corporate Profile = "corporate" // clients from private ranges and loopback, peers in the public internet
	Public    Profile = "public"    // clients from everywhere, with credentials
	Lab       Profile = "lab"       // everything local, no budgets
)

// Engine moves the packets.
type Engine string

const (
	EngineAuto   Engine = "auto"   // the best that works here
	EnginePlain  Engine = "plain"  // net.PacketConn, any system
	EngineSocket Engine = "socket" // batched system calls, Linux
	EngineKernel Engine = "kernel" // relayed ports without a socket, Linux with capabilities
)

// Hairpin says which clients of this proxy reach each other through their relayed addresses.
type Hairpin string

const (
	HairpinAll        Hairpin = "all"
	HairpinSamePrefix Hairpin = "same-prefix" // those that one entry of turn.clients, or of the profile, admits
	HairpinOff        Hairpin = "off"
)

// ModernPolicy says what happens to an allocation without credentials that speaks the modern dialect, as a browser does.
type ModernPolicy string

const (
	ModernAuto   ModernPolicy = "auto" // refuse outside the lab profile
	ModernRefuse ModernPolicy = "refuse"
	ModernAllow  ModernPolicy = "allow"
)

// Payload is what clients without credentials may exchange with peers.
type Payload string

const (
	PayloadAuto  Payload = "auto"  // rtmfp outside the lab profile
	PayloadAny   Payload = "any"   // whatever they like
	PayloadRTMFP Payload = "rtmfp" // sessions of RTMFP
)

// Level is the least severity that is logged.
type Level string

const (
	Trace Level = "trace"
	Debug Level = "debug"
	Info  Level = "info"
	Warn  Level = "warn"
	Fail  Level = "error"
)

// Offload says whether established flows are left to the kernel.
type Offload string

const (
	OffloadAuto    Offload = "auto"    // where an interface's driver can
	OffloadOff     Offload = "off"     // the engine relays everything
	OffloadGeneric Offload = "generic" // also where the driver cannot
)

// Format is how events are written.
type Format string

const (
	FormatAuto    Format = "auto" // console on a terminal, else json
	FormatJSON    Format = "json"
	FormatConsole Format = "console"
)

// ListenAuth says whether a listener asks for credentials.
type ListenAuth string

const (
	AuthDefault  ListenAuth = "" // when there are any
	AuthNone     ListenAuth = "none"
	AuthRequired ListenAuth = "required"
)

// DefaultTURNPort is the port of a listener that names none.
const DefaultTURNPort = 3478

// DefaultAlternatePort is the second port of NAT behaviour discovery, as RFC 5780 §9 registers it.
const DefaultAlternatePort = 3479

// ListenURL is a listener.
type ListenURL struct {
	Network string     // udp or tcp
	Addr    netip.Addr // the zero Addr: every address of both families
	Port    uint16     // 0: the system chooses
	Auth    ListenAuth
}

// HostPort returns what net.Listen takes: ":3478" for every address.
func (l ListenURL) HostPort() string {
	if !l.Addr.IsValid() {
		return ":" + strconv.Itoa(int(l.Port))
	}
	return netip.AddrPortFrom(l.Addr, l.Port).String()
}

// String returns the listener as it is configured.
func (l ListenURL) String() string {
	s := l.Network + "://" + l.HostPort()
	if l.Auth != AuthDefault {
		s += "?auth=" + string(l.Auth)
	}
	return s
}

func parseListen(s string) (ListenURL, *problem) {
	const form = "write udp://:3478 or tcp://192.0.2.1:3478"
	var l ListenURL
	u, err := url.Parse(s)
	if err != nil || u.Scheme == "" || u.Opaque != "" {
		return l, bad(form, "%q is not a listener", s)
	}
	switch u.Scheme {
	case "udp", "tcp":
		l.Network = u.Scheme
	default:
		return l, bad("write udp:// or tcp://", "%q has the scheme %s", s, u.Scheme)
	}
	if u.User != nil || u.Path != "" || u.Fragment != "" {
		return l, bad(form, "%q has more than an address, a port and options", s)
	}
	l.Port = DefaultTURNPort
	if p := u.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil {
			return l, bad("write a port from 0 to 65535", "%q has the port %s", s, p)
		}
		l.Port = uint16(n)
	} else if strings.HasSuffix(u.Host, ":") {
		return l, bad(form, "%q has no port behind the colon", s)
	}
	if host := u.Hostname(); host != "" {
		a, pr := parseAddr(host)
		switch {
		case pr != nil:
			return l, bad(form+"; a name is not resolved here", "%q does not name an address", s)
		case a.IsMulticast():
			return l, bad(form, "%q is a multicast address", s)
		}
		l.Addr = a
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return l, bad("write ?auth=none or ?auth=required", "%q has options that cannot be read", s)
	}
	for name, values := range query {
		if name != "auth" {
			return l, bad("the only option is auth", "%q has the unknown option %s", s, name)
		}
		l.Auth = ListenAuth(values[0])
		if len(values) > 1 || l.Auth != AuthNone && l.Auth != AuthRequired {
			return l, bad("write auth=none or auth=required once", "%q has the option auth=%s", s, strings.Join(values, ","))
		}
	}
	return l, nil
}

// parseAddr reads an address without a zone. IPv4 in IPv6 form is refused: two forms of one address would be judged as two.
func parseAddr(s string) (netip.Addr, *problem) {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return a, bad("write an address such as 192.0.2.1 or 2001:db8::1", "%q is not an IP address", s)
	case a.Zone() != "":
		return a, bad("write it without the % and what follows", "%q has a zone", s)
	case a.Is4In6():
		return a, bad("write "+a.Unmap().String(), "%q is an IPv4 address in IPv6 form", s)
	}
	return a, nil
}

// RelayAddress is an address that allocations are made on.
type RelayAddress struct {
	Public netip.Addr // what clients are told and peers see
	Local  netip.Addr // what sockets are bound to; equal to Public without a translation in front of this machine
	Auto   bool       // the default route's source address; Public and Local are zero
}

// String returns the address as it is configured.
func (r RelayAddress) String() string {
	switch {
	case r.Auto:
		return "auto"
	case r.Public == r.Local:
		return r.Public.String()
	}
	return r.Public.String() + "=" + r.Local.String()
}

func parseRelayAddress(s string) (RelayAddress, *problem) {
	if s == "auto" {
		return RelayAddress{Auto: true}, nil
	}
	public, local, pair := strings.Cut(s, "=")
	if !pair {
		local = public
	}
	var r RelayAddress
	for _, side := range []struct {
		text string
		to   *netip.Addr
	}{{public, &r.Public}, {local, &r.Local}} {
		a, pr := parseAddr(strings.TrimSpace(side.text))
		if pr != nil {
			return r, bad("write auto, an address, or public=local", "%s", pr.what)
		}
		if a.IsUnspecified() || a.IsMulticast() {
			return r, bad("write the address of one interface, or auto", "%s is not an address of this machine", a)
		}
		*side.to = a
	}
	if r.Public.Is4() != r.Local.Is4() {
		return r, bad("write two IPv4 or two IPv6 addresses", "%q pairs two families", s)
	}
	return r, nil
}

// parseAlternateAddress reads stun.alternate.address; "" is none.
func parseAlternateAddress(s string) (RelayAddress, *problem) {
	if s == "" {
		return RelayAddress{}, nil
	}
	r, pr := parseRelayAddress(s)
	if pr == nil && r.Auto {
		pr = bad("", "auto cannot choose a second address")
	}
	if pr != nil {
		pr.remedy = "write another address of this machine, or public=local; or nothing"
	}
	return r, pr
}

// maxInterfaceName is the kernel's IFNAMSIZ without its zero.
const maxInterfaceName = 15

func parseInterface(s string) (string, *problem) {
	if s == "" || len(s) > maxInterfaceName || strings.ContainsAny(s, "/ \t\n:") {
		return "", bad("write one that `ip link` shows, such as eth0", "%q is no name of an interface", s)
	}
	return s, nil
}

func parsePrefix(s string) (netip.Prefix, *problem) {
	if !strings.Contains(s, "/") {
		a, pr := parseAddr(s)
		if pr != nil {
			pr.remedy = strings.Replace(pr.remedy, "an address such as 192.0.2.1 or 2001:db8::1", "a prefix such as 192.0.2.0/24 or 2001:db8::/32", 1)
			return netip.Prefix{}, pr
		}
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return p, bad("write a prefix such as 192.0.2.0/24 or 2001:db8::/32", "%q is not a prefix", s)
	case p.Addr().Is4In6():
		return p, bad("write it as an IPv4 prefix", "%q is an IPv4 prefix in IPv6 form", s)
	case p != p.Masked():
		return p, bad(fmt.Sprintf("write %s for the network, or %s for the address", p.Masked(), p.Addr()), "%s has bits behind its length", s)
	}
	return p, nil
}

// formatPrefix writes a single address without its length.
func formatPrefix(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// PortRange is a range of ports, both ends included.
type PortRange struct{ First, Last uint16 }

// Contains reports whether port is in the range.
func (r PortRange) Contains(port uint16) bool { return r.First <= port && port <= r.Last }

// Len returns the number of ports.
func (r PortRange) Len() int { return int(r.Last) - int(r.First) + 1 }

// String returns "49152-65535", or "3478" for one port.
func (r PortRange) String() string {
	if r.First == r.Last {
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

func parsePortRange(s string) (PortRange, *problem) {
	first, last, ok := strings.Cut(s, "-")
	if !ok {
		last = first
	}
	var r PortRange
	for _, side := range []struct {
		text string
		to   *uint16
	}{{first, &r.First}, {last, &r.Last}} {
		n, err := strconv.ParseUint(strings.TrimSpace(side.text), 10, 16)
		if err != nil || n == 0 {
			return r, bad("write ports from 1 to 65535, as in 49152-65535", "%q is not a range of ports", s)
		}
		*side.to = uint16(n)
	}
	if r.First > r.Last {
		return r, bad("the first port must not be above the last", "%s is empty", s)
	}
	return r, nil
}

// PortSet is a set of ports. The zero value is empty.
type PortSet struct {
	ranges []PortRange // ascending, apart from each other
	spec   []string    // as configured
}

// Contains reports whether port is in the set. It takes the logarithm of the number of ranges and does not allocate.
func (s PortSet) Contains(port uint16) bool {
	_, ok := slices.BinarySearchFunc(s.ranges, port, func(r PortRange, port uint16) int {
		switch {
		case r.Last < port:
			return -1
		case r.First > port:
			return 1
		}
		return 0
	})
	return ok
}

// Ranges returns the ports in ascending order. The caller owns the slice.
func (s PortSet) Ranges() []PortRange { return slices.Clone(s.ranges) }

// String returns the ports themselves, as "1024-1433,1435-65535".
func (s PortSet) String() string {
	parts := make([]string, len(s.ranges))
	for i, r := range s.ranges {
		parts[i] = r.String()
	}
	return strings.Join(parts, ",")
}

// excludeReflectors stands for all of Reflectors in a list of ports.
const excludeReflectors = "!reflectors"

// parsePortSet reads ports, ranges and exclusions. Exclusions win, in whatever order they stand.
func parsePortSet(items []string) (PortSet, *problem) {
	const form = `write ports and ranges, and exclusions in quotes: [1024-65535, "!1900"]`
	set := PortSet{spec: slices.Clone(items)}
	if len(items) == 0 {
		return set, bad(form, "the list is empty, so no peer could be reached")
	}
	var in, out [1 << 16]bool
	any := false
	for i, item := range items {
		text, exclude := strings.CutPrefix(item, "!")
		if item == excludeReflectors {
			for _, r := range Reflectors {
				out[r.Port] = true
			}
			continue
		}
		r, pr := parsePortRange(text)
		if pr != nil {
			pr.item = i
			return set, pr
		}
		which := &in
		if exclude {
			which = &out
		} else {
			any = true
		}
		for p := int(r.First); p <= int(r.Last); p++ {
			which[p] = true
		}
	}
	if !any {
		return set, bad(form, "the list has exclusions only")
	}
	for p := 1; p < 1<<16; p++ {
		if !in[p] || out[p] {
			continue
		}
		if n := len(set.ranges); n > 0 && int(set.ranges[n-1].Last) == p-1 {
			set.ranges[n-1].Last = uint16(p)
		} else {
			set.ranges = append(set.ranges, PortRange{uint16(p), uint16(p)})
		}
	}
	if len(set.ranges) == 0 {
		return set, bad(form, "the exclusions leave no port")
	}
	return set, nil
}

func parseDuration(s string) (time.Duration, *problem) {
	d, err := time.ParseDuration(s)
	switch {
	case err == nil && strings.Trim(s, "0123456789+-.") == "", err != nil && s != "" && strings.Trim(s, "0123456789") == "":
		return d, bad("write "+s+"s for seconds", "%s has no unit", s)
	case err != nil:
		return d, bad("write a number and a unit, as in 60s, 10m or 1h30m", "%q is not a duration", s)
	}
	return d, nil
}

// formatDuration writes what an administrator would: 60s, 10m, 1h30m.
func formatDuration(d time.Duration) string {
	if d%time.Second == 0 && d < 10*time.Minute {
		return fmt.Sprintf("%ds", d/time.Second)
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func parseAdminListen(s string) (netip.AddrPort, *problem) {
	const form = "write 127.0.0.1:9478 or [::1]:9478"
	ap, err := netip.ParseAddrPort(s)
	if err == nil {
		a, pr := parseAddr(ap.Addr().String())
		if pr != nil {
			return ap, pr
		}
		return netip.AddrPortFrom(a, ap.Port()), nil
	}
	host, _, splitErr := net.SplitHostPort(s)
	switch {
	case splitErr == nil && host == "":
		return ap, bad(form+", or 0.0.0.0 with a port and admin.tls for every address", "%q has no address", s)
	case splitErr == nil && net.ParseIP(host) == nil:
		return ap, bad(form+"; a name is not resolved here", "%q does not name an address", s)
	}
	return ap, bad(form, "%q is not an address with a port", s)
}

func parseUser(s string) (User, *problem) {
	// The text after the colon is a key: no message shows it.
	name, key, ok := strings.Cut(s, ":")
	switch {
	case !ok:
		return User{}, bad("give each user a name and a key", "a user has no key")
	case name == "":
		return User{}, bad("give each user a name and a key", "a user has no name")
	case key == "":
		return User{}, bad("give each user a name and a key", "user %q has an empty key", name)
	case len(name) > 508:
		return User{}, bad("a name has at most 508 bytes (RFC 8489 §14.3)", "a user's name has %d bytes", len(name))
	case strings.ContainsFunc(s, isControl):
		return User{}, bad("write printable characters", "user %q has a control character in name or key", name)
	}
	return User{Name: name, Key: Secret(key)}, nil
}

func isControl(r rune) bool { return r < 0x20 || r == 0x7F }
