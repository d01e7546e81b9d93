package mmscfg

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// DefaultPort is the TURN port of a proxy without one (draft-ietf-behave-turn-08 §4: the port of STUN).
const DefaultPort = 3478

// Proxy is where a player finds its TURN proxy.
type Proxy struct {
	Host string // an IP address in its canonical form (IPv6 without brackets), or a host name as written, without a final dot
	Port uint16 // never 0
}

// HostPort returns host:port for a dialler, IPv6 addresses in brackets.
func (p Proxy) HostPort() string { return net.JoinHostPort(p.Host, strconv.Itoa(int(p.Port))) }

// String returns the value to write into mms.cfg: the published form, a host alone, when the port is [DefaultPort]; else host:port. An IPv6 address
// has brackets only when a port follows.
func (p Proxy) String() string {
	if p.Port == DefaultPort {
		return p.Host
	}
	return p.HostPort()
}

// Line returns the line to deploy for a proxy. host is an address or a name, with or without a port; the error says what is wrong with it.
func Line(host string) (string, error) {
	p, err := ParseProxy(host)
	if err != nil {
		return "", err
	}
	return NameTURNProxy + "=" + p.String(), nil
}

// ProxyError says why a value of RTMFPTURNProxy cannot be used.
type ProxyError struct {
	Problem string
	Remedy  string
}

// Error returns "mmscfg: problem: remedy".
func (e *ProxyError) Error() string { return "mmscfg: " + e.Problem + ": " + e.Remedy }

// ParseProxy reads a value of RTMFPTURNProxy: host, host:port, an IPv6 address, or [IPv6]:port. The error is a *[ProxyError].
func ParseProxy(value string) (Proxy, error) {
	p, _, err := parseProxy(value)
	if err != nil {
		return Proxy{}, err
	}
	return p, nil
}

// notes are findings about a usable value, without a line.
type notes []Finding

func (n *notes) add(s Severity, problem, remedy string) {
	*n = append(*n, Finding{Severity: s, Problem: problem, Remedy: remedy})
}

func parseProxy(value string) (Proxy, notes, *ProxyError) {
	bad := func(remedy, format string, args ...any) (Proxy, notes, *ProxyError) {
		return Proxy{}, nil, &ProxyError{Problem: fmt.Sprintf(format, args...), Remedy: remedy}
	}
	const hostOnly = "write the address or name alone, as in " + NameTURNProxy + "=proxy.example.com"
	var found notes

	v := strings.TrimSpace(value)
	switch {
	case v == "":
		return bad(hostOnly, "the proxy is empty")
	case strings.ContainsAny(v, `"'`):
		return bad("remove the quotes", "%s has quotes, which would be a part of the name", quote(v))
	case strings.Contains(v, "#"):
		return bad("put the comment on a line of its own", "%s has a comment behind the value", quote(v))
	case strings.ContainsAny(v, ",;"):
		return bad("name one proxy; for several, give one name several addresses in DNS", "%s is a list", quote(v))
	case strings.ContainsAny(v, " \t"):
		return bad(hostOnly, "%s has a space in it", quote(v))
	case strings.Contains(v, "://") || hasScheme(v):
		return bad(hostOnly, "%s is a URL", quote(v))
	case strings.ContainsAny(v, "/?"):
		return bad(hostOnly, "%s has a path", quote(v))
	case strings.Contains(v, "@"):
		return bad("remove what stands before the @: the player sends no credentials", "%s has a user name", quote(v))
	}

	host, port := v, ""
	hasPort, brackets := false, false
	switch {
	case v[0] == '[':
		end := strings.IndexByte(v, ']')
		if end < 0 {
			return bad("write [address]:port, or the address without brackets", "%s has no closing bracket", quote(v))
		}
		brackets = true
		host = v[1:end]
		switch rest := v[end+1:]; {
		case rest == "":
			found.add(Warning, quote(v)+" has brackets without a port", "write "+host)
		case rest[0] == ':':
			hasPort, port = true, rest[1:]
		default:
			return bad("write [address]:port", "%s has %s behind the bracket", quote(v), quote(rest))
		}
	case strings.Count(v, ":") == 1:
		host, port, hasPort = strings.Cut(v, ":")
	}

	p := Proxy{Port: DefaultPort}
	if hasPort {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 || port[0] == '+' {
			return bad(fmt.Sprintf("write a port from 1 to 65535, or none for %d", DefaultPort), "%s is not a port", quote(port))
		}
		p.Port = uint16(n)
	}

	host, hostNotes, perr := parseHost(host, brackets)
	if perr != nil {
		return Proxy{}, nil, perr
	}
	p.Host = host
	found = append(found, hostNotes...)
	switch {
	case p.Port != DefaultPort:
		found.add(Warning, fmt.Sprintf("port %d: that the player reads a port here is not documented", p.Port),
			fmt.Sprintf("let the proxy listen on %d as well and write %s", DefaultPort, p.Host))
	case hasPort:
		found.add(Info, fmt.Sprintf("port %d is what the player takes without one, and a port is not documented here", DefaultPort), "write "+p.Host)
	}
	return p, found, nil
}

// hasScheme reports a URI scheme of this trade without slashes, as in turn:host.
func hasScheme(v string) bool {
	scheme, rest, ok := strings.Cut(strings.ToLower(v), ":")
	if !ok || strings.Trim(rest, "0123456789") == "" { // turn:3478 is a host with a port
		return false
	}
	switch scheme {
	case "turn", "turns", "stun", "stuns", "udp", "tcp", "rtmfp", "rtmp", "http", "https":
		return true
	}
	return false
}

func parseHost(host string, brackets bool) (string, notes, *ProxyError) {
	bad := func(remedy, format string, args ...any) (string, notes, *ProxyError) {
		return "", nil, &ProxyError{Problem: fmt.Sprintf(format, args...), Remedy: remedy}
	}
	var found notes
	if a, err := netip.ParseAddr(host); err == nil {
		switch {
		case a.Zone() != "":
			return bad("write an address that is reachable from every player", "%s has a zone, which means something on one machine only", quote(host))
		case a.Is4In6():
			found.add(Warning, quote(host)+" is an IPv4 address in IPv6 form", "write "+a.Unmap().String())
			a = a.Unmap()
		}
		switch {
		case brackets && a.Is4():
			return bad("write "+a.String(), "%s is an IPv4 address in brackets", quote(host))
		case a.IsUnspecified():
			return bad("write the address that the players reach", "%s is no address of a machine", quote(host))
		case a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			return bad("write the address of one machine", "%s is a multicast or broadcast address", quote(host))
		case a.IsLoopback():
			found.add(Warning, quote(host)+" is the player's own machine", "write the address that the players reach, unless each runs its own proxy")
		case a.IsLinkLocalUnicast():
			found.add(Warning, quote(host)+" is reachable on one link only", "write an address that every player reaches")
		case a.Is6():
			found.add(Info, "the proxy is an IPv6 address, and that the player uses one is not documented", "give the proxy a name with both kinds of addresses")
		}
		return a.String(), found, nil
	}
	switch {
	case brackets:
		return bad("brackets are for IPv6 addresses", "%s is not an IPv6 address", quote(host))
	case strings.Contains(host, ":"):
		return bad("write an IPv6 address, or host:port", "%s is neither an IPv6 address nor host:port", quote(host))
	case host == "":
		return bad("write host:port", "the host before the port is empty")
	}
	if bare := strings.TrimSuffix(host, "."); bare != host {
		found.add(Warning, quote(host)+" ends in a dot, and the player may not resolve that", "write "+bare)
		host = bare
	}
	if perr := checkHostName(host); perr != nil {
		return "", nil, perr
	}
	switch {
	case strings.EqualFold(host, "localhost"):
		found.add(Warning, quote(host)+" is the player's own machine", "write the name that the players reach, unless each runs its own proxy")
	case !strings.Contains(host, "."):
		found.add(Info, quote(host)+" has no dot: each player completes it with its own DNS suffix", "write the full name if the suffixes differ")
	}
	if strings.Contains(host, "_") {
		found.add(Warning, quote(host)+" has an underscore, which some resolvers refuse", "give the proxy a name of letters, digits and hyphens")
	}
	return host, found, nil
}

// checkHostName applies RFC 1123 §2.1, with the underscore let through for the caller to report.
func checkHostName(host string) *ProxyError {
	bad := func(remedy, format string, args ...any) *ProxyError {
		return &ProxyError{Problem: fmt.Sprintf(format, args...), Remedy: remedy}
	}
	if host == "" {
		return bad("write an address or a name", "the host is empty")
	}
	if len(host) > 253 {
		return bad("write a name of at most 253 bytes", "the name has %d bytes", len(host))
	}
	labels := strings.Split(host, ".")
	for _, label := range labels {
		switch {
		case label == "":
			return bad("remove it", "%s has an empty part between dots", quote(host))
		case len(label) > 63:
			return bad("write parts of at most 63 bytes", "%s has a part of %d bytes", quote(host), len(label))
		case label[0] == '-' || label[len(label)-1] == '-':
			return bad("remove the hyphen", "%s has a part that begins or ends with a hyphen", quote(host))
		}
		for _, c := range label {
			switch {
			case c > 127:
				return bad("write the name in its ASCII form (xn--…)", "%s has letters outside ASCII", quote(host))
			case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_':
			default:
				return bad("write letters, digits, hyphens and dots", "%s has the character %q", quote(host), c)
			}
		}
	}
	// The last part of a name is never a number (RFC 3696 §2), so this was meant to be an address.
	if _, err := strconv.ParseUint(labels[len(labels)-1], 0, 64); err == nil {
		return bad("write four decimal numbers from 0 to 255 without leading zeros", "%s is not an IPv4 address", quote(host))
	}
	return nil
}
