package config

import (
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Rendezvous is the service that introduces RTMFP peers.
type Rendezvous struct {
	Listen    []ListenURL    // rendezvous.listen, all udp; none: there is no service
	Addresses []RelayAddress // rendezvous.addresses of the connectivity check, at most 3; Auto is never set
	Directory Directory
	Keys      Keys
	DHGroups  []int // rendezvous.dh_groups, of 2, 5, 14 and 16; at least one
	Limits    RendezvousLimits
	Keepalive time.Duration // rendezvous.keepalive, 5 s to 10 min
}

// Directory is the exchange of peer IDs over HTTP.
type Directory struct {
	Listen HTTPListen // rendezvous.directory.listen
}

// HTTPListen is a listener of HTTP, or none.
type HTTPListen struct {
	Addr netip.Addr // the zero Addr: every address of both families
	Port uint16     // 0 and no Addr: there is no listener; with an Addr the system chooses
}

// Off reports whether there is no listener.
func (l HTTPListen) Off() bool { return !l.Addr.IsValid() && l.Port == 0 }

// String returns what net.Listen takes: ":8935" for every address, "" for none.
func (l HTTPListen) String() string {
	switch {
	case l.Off():
		return ""
	case !l.Addr.IsValid():
		return ":" + strconv.Itoa(int(l.Port))
	}
	return netip.AddrPortFrom(l.Addr, l.Port).String()
}

// Keys are the developer keys of the rendezvous. They are in a file of state.dir.
type Keys struct {
	Required bool // rendezvous.keys.required
}

// RendezvousLimits bound what clients and strangers may use. A prefix is an IPv4 /24 or an IPv6 /56.
type RendezvousLimits struct {
	Sessions               int // rendezvous.limits.sessions in all
	PerAddress             int // rendezvous.limits.per_address: sessions; 0: no limit
	HandshakesPerPrefix    int // rendezvous.limits.handshakes_per_prefix: new sessions a second; 0: no limit
	StartupPerPrefix       int // rendezvous.limits.startup_per_prefix: startup packets a second, for each shard; 0: no limit
	IntroductionsPerPrefix int // rendezvous.limits.introductions_per_prefix: a second, asked for; 0: no limit
	IntroductionsPerPeer   int // rendezvous.limits.introductions_per_peer: a second, to one peer; 0: no limit
	DirectoryPerPrefix     int // rendezvous.limits.directory_per_prefix: requests a second; 0: no limit
}

// Default ports of the rendezvous.
const (
	DefaultRTMFPPort     = 1935
	DefaultDirectoryPort = 8935
)

// keysRendezvous are the keys of the rendezvous, in the order of configs/stile.yaml.
var keysRendezvous = []key{
	listKey("rendezvous.listen", value{"udp://:1935"}, "listeners of the rendezvous, as udp://:1935; empty: no rendezvous",
		parseRTMFPListen, ListenURL.String, checkRTMFPListen, func(c *Config) *[]ListenURL { return &c.Rendezvous.Listen }).restarts(),
	listKey("rendezvous.addresses", nil, "addresses of the connectivity check, up to three, or public=local pairs",
		parseCheckAddress, RelayAddress.String, checkCheckAddresses, func(c *Config) *[]RelayAddress { return &c.Rendezvous.Addresses }).restarts(),
	{name: "rendezvous.directory.listen", kind: textKind, def: value{":8935"}, usage: "address of the ID exchange over HTTP; empty: none", restart: true,
		set: func(c *Config, v value) *problem {
			l, pr := parseHTTPListen(v[0])
			if pr != nil {
				return pr
			}
			c.Rendezvous.Directory.Listen = l
			return nil
		},
		get: func(c *Config) value { return value{c.Rendezvous.Directory.Listen.String()} }},
	boolKey("rendezvous.keys.required", "serve only clients whose URL has a key made by stile keys", func(c *Config) *bool { return &c.Rendezvous.Keys.Required }),
	listKey("rendezvous.dh_groups", value{"2", "5", "14"}, "Diffie-Hellman groups that clients may choose: 2, 5, 14, 16",
		parseDHGroup, strconv.Itoa, checkDHGroups, func(c *Config) *[]int { return &c.Rendezvous.DHGroups }).restarts(),
	numberKey("rendezvous.limits.sessions", 1_000_000, 1, 100_000_000, "sessions in all", func(c *Config) *int { return &c.Rendezvous.Limits.Sessions }).restarts(),
	numberKey("rendezvous.limits.per_address", 4096, 0, 100_000_000, "sessions of one address; 0: no limit",
		func(c *Config) *int { return &c.Rendezvous.Limits.PerAddress }),
	numberKey("rendezvous.limits.handshakes_per_prefix", 500, 0, 1_000_000, "new sessions a second of an IPv4 /24 or IPv6 /56; 0: no limit",
		func(c *Config) *int { return &c.Rendezvous.Limits.HandshakesPerPrefix }),
	numberKey("rendezvous.limits.startup_per_prefix", 2000, 0, 10_000_000, "startup packets a second of an IPv4 /24 or IPv6 /56, for each shard; 0: no limit",
		func(c *Config) *int { return &c.Rendezvous.Limits.StartupPerPrefix }).restarts(),
	numberKey("rendezvous.limits.introductions_per_prefix", 200, 0, 1_000_000, "introductions a second that an IPv4 /24 or IPv6 /56 may ask for; 0: no limit",
		func(c *Config) *int { return &c.Rendezvous.Limits.IntroductionsPerPrefix }),
	numberKey("rendezvous.limits.introductions_per_peer", 20, 0, 1_000_000, "introductions a second to one peer; 0: no limit",
		func(c *Config) *int { return &c.Rendezvous.Limits.IntroductionsPerPeer }),
	numberKey("rendezvous.limits.directory_per_prefix", 50, 0, 1_000_000, "requests a second to the ID exchange of an IPv4 /24 or IPv6 /56; 0: no limit",
		func(c *Config) *int { return &c.Rendezvous.Limits.DirectoryPerPrefix }),
	durationKey("rendezvous.keepalive", 20*time.Second, 5*time.Second, 10*time.Minute, "how often a silent client gives a sign of life",
		func(c *Config) *time.Duration { return &c.Rendezvous.Keepalive }),
}

func parseRTMFPListen(s string) (ListenURL, *problem) {
	const form = "write udp://:1935 or udp://192.0.2.1:1935"
	u, err := url.Parse(s)
	switch {
	case err == nil && (u.Scheme == "tcp" || u.Scheme == "rtmfp"):
		return ListenURL{}, bad(form+": RTMFP is UDP only", "%q has the scheme %s", s, u.Scheme)
	case err == nil && u.RawQuery != "":
		return ListenURL{}, bad(form, "%q has options, and there are none here", s)
	case err == nil && u.Scheme == "udp" && u.Port() == "" && !strings.HasSuffix(u.Host, ":"):
		u.Host += ":" + strconv.Itoa(DefaultRTMFPPort)
		s = u.String()
	}
	l, pr := parseListen(s)
	if pr != nil {
		pr.remedy = form
	}
	return l, pr
}

func checkRTMFPListen(all []ListenURL) *problem {
	for i, l := range all {
		if l.Port != 0 && slices.Contains(all[:i], l) {
			return bad("remove one", "%s is there twice", l)
		}
	}
	if len(all) > 16 {
		return bad("remove some", "%d listeners, and 16 are the most", len(all))
	}
	return nil
}

func parseCheckAddress(s string) (RelayAddress, *problem) {
	r, pr := parseRelayAddress(s)
	if pr == nil && r.Auto {
		pr = bad("", "auto cannot choose an address of the connectivity check")
	}
	if pr != nil {
		pr.remedy = "write an address of this machine, or public=local"
	}
	return r, pr
}

func checkCheckAddresses(all []RelayAddress) *problem {
	if len(all) > 3 {
		return bad("write at most three", "%d addresses", len(all))
	}
	for i, r := range all {
		for _, other := range all[:i] {
			switch {
			case r.Public == other.Public || r.Local == other.Local:
				return bad("write different addresses", "%s and %s are the same", other, r)
			case r.Public.Is4() != other.Public.Is4():
				return bad("write addresses of one family", "%s and %s are of two", other, r)
			}
		}
	}
	return nil
}

func parseHTTPListen(s string) (HTTPListen, *problem) {
	const form = "write :8935 or 192.0.2.1:8935, or nothing"
	if s == "" {
		return HTTPListen{}, nil
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return HTTPListen{}, bad(form, "%q is not an address with a port", s)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || host == "" && n == 0 {
		return HTTPListen{}, bad(form, "%q has the port %q", s, port)
	}
	l := HTTPListen{Port: uint16(n)}
	if host == "" {
		return l, nil
	}
	a, pr := parseAddr(host)
	if pr != nil {
		return HTTPListen{}, bad(form+"; a name is not resolved here", "%q does not name an address", s)
	}
	if a.IsMulticast() {
		return HTTPListen{}, bad(form, "%q is a multicast address", s)
	}
	if !a.IsUnspecified() || a.Is4() {
		l.Addr = a
	}
	if a.IsUnspecified() && a.Is6() && n == 0 {
		l.Addr = a
	}
	return l, nil
}

func parseDHGroup(s string) (int, *problem) {
	n, err := strconv.Atoi(s)
	if err != nil || !slices.Contains([]int{2, 5, 14, 16}, n) || strconv.Itoa(n) != s {
		return 0, bad("write some of 2, 5, 14 and 16", "%q is none of the groups", s)
	}
	return n, nil
}

func checkDHGroups(all []int) *problem {
	if len(all) == 0 {
		return bad("write [2, 5, 14]", "the list is empty, so no client could connect")
	}
	for i, g := range all {
		if slices.Contains(all[:i], g) {
			return bad("write it once", "%d is there twice", g)
		}
	}
	return nil
}

// validateRendezvous judges what several keys say together.
func (c *Config) validateRendezvous(fail func(name, remedy, format string, args ...any)) {
	r := &c.Rendezvous
	for _, l := range r.Listen {
		for _, t := range c.Turn.Listen {
			if t.Network == "udp" && t.Port == l.Port && t.Port != 0 && (!t.Addr.IsValid() || !l.Addr.IsValid() || t.Addr == l.Addr) {
				fail("rendezvous.listen", "choose another port", "%s is a listener of turn.listen as well", l)
			}
		}
	}
	if d := r.Directory.Listen; len(r.Listen) > 0 && d.Port != 0 {
		for _, t := range c.Turn.Listen {
			if t.Network == "tcp" && t.Port == d.Port && (!t.Addr.IsValid() || !d.Addr.IsValid() || t.Addr == d.Addr) {
				fail("rendezvous.directory.listen", "choose another port", "%s is a listener of turn.listen as well", t)
			}
		}
	}
	if len(r.Listen) == 0 && len(r.Addresses) > 0 {
		fail("rendezvous.addresses", "add udp://:1935 to rendezvous.listen, or remove the addresses", "there is no rendezvous to check connectivity")
	}
	if len(r.Listen) == 0 && r.Keys.Required {
		fail("rendezvous.keys.required", "add udp://:1935 to rendezvous.listen, or remove this", "there is no rendezvous to need keys")
	}
}
