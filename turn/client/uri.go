package client

import (
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/stilenet/stile/stun"
)

// Server names a TURN server. ParseServer makes one.
type Server struct {
	Host    string // a name or an address, without brackets
	Port    uint16
	Network string // "udp", "tcp", or "" when the name leaves it open
}

// String is the name in the form of RFC 7065.
func (s Server) String() string {
	host := s.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	out := "turn:" + host + ":" + strconv.Itoa(int(s.Port))
	if s.Network != "" {
		out += "?transport=" + s.Network
	}
	return out
}

// ParseServer reads "host", "host:port" or an RFC 7065 URI ("turn:host:port?transport=udp"). IPv6 addresses with a
// port stand in brackets; the default port is 3478. "turns:" is refused with [ErrTLS], because TLS is not built.
//
// Deviation: RFC 7065 gives a URI without a transport the order UDP, TCP, TLS by way of S-NAPTR (RFC 5928 §3). There
// is no NAPTR lookup here; without a transport [Dial] tries UDP, then TCP.
func ParseServer(s string) (Server, error) {
	rest, scheme := s, ""
	// A scheme is told from "host:port" by its name only: both have a colon after a word.
	if at := strings.IndexByte(s, ':'); at > 0 {
		switch word := strings.ToLower(s[:at]); word {
		case "turn", "turns", "stun", "stuns":
			scheme, rest = word, s[at+1:]
		}
	}
	switch scheme {
	case "turns":
		return Server{}, fmt.Errorf("client: server %q: %w", s, ErrTLS)
	case "stun", "stuns":
		return Server{}, fmt.Errorf("client: server %q: this is a STUN server: want turn:host:port", s)
	}
	if strings.HasPrefix(rest, "//") {
		return Server{}, fmt.Errorf("client: server %q: a turn: URI has no //: want turn:host:port", s)
	}
	out := Server{Port: stun.DefaultPort}
	rest, query, asked := strings.Cut(rest, "?")
	if asked {
		transport, ok := strings.CutPrefix(query, "transport=")
		if scheme == "" || !ok {
			return Server{}, fmt.Errorf("client: server %q: want turn:host:port?transport=udp or tcp", s)
		}
		switch out.Network = strings.ToLower(transport); out.Network {
		case "udp", "tcp":
		default:
			return Server{}, fmt.Errorf("client: server %q: transport %q is not built: want udp or tcp", s, transport)
		}
	}
	host, port, err := splitHost(rest)
	if err != nil {
		return Server{}, fmt.Errorf("client: server %q: %w", s, err)
	}
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return Server{}, fmt.Errorf("client: server %q: port %q is not between 1 and 65535", s, port)
		}
		out.Port = uint16(n)
	}
	out.Host = host
	return out, nil
}

// splitHost is net.SplitHostPort with an optional port, and with the host checked.
func splitHost(s string) (host, port string, err error) {
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return "", "", fmt.Errorf("missing ] after the address")
		}
		host, rest := s[1:end], s[end+1:]
		host, err := url.PathUnescape(host) // RFC 6874 writes the zone's % as %25
		if err != nil {
			host = s[1:end]
		}
		if !isIPv6(host) {
			return "", "", fmt.Errorf("%q in brackets is not an IPv6 address", s[1:end])
		}
		if rest == "" {
			return host, "", nil
		}
		if rest[0] != ':' || len(rest) == 1 {
			return "", "", fmt.Errorf("want :port after ]")
		}
		return host, rest[1:], nil
	}
	if isIPv6(s) {
		return s, "", nil
	}
	host, port, asked := strings.Cut(s, ":")
	if asked && port == "" {
		return "", "", fmt.Errorf("nothing after the colon: want a port")
	}
	if host == "" || len(host) > maxHost {
		return "", "", fmt.Errorf("want a host of 1 to %d characters", maxHost)
	}
	if at := strings.IndexFunc(host, foreignToNames); at >= 0 {
		return "", "", fmt.Errorf("%q does not belong into a host name", host[at:])
	}
	return host, port, nil
}

// isIPv6 is strict about the zone, in which netip takes anything.
func isIPv6(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Is6() && !strings.ContainsFunc(a.Zone(), foreignToNames)
}

func foreignToNames(r rune) bool {
	return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_", r)
}

const maxHost = 253 // characters of a name, RFC 1035 §2.3.4 without the root
