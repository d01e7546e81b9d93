package config

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
)

// Ours to tune: a prefix of clients that is shorter than this takes in so much of the internet that it is everybody.
const (
	everybodyBits4 = 8
	everybodyBits6 = 16
)

// privateRanges hold no strangers, however short the prefix is.
var privateRanges = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("fe80::/10"),
}

func isPrivate(p netip.Prefix) bool {
	for _, r := range privateRanges {
		if r.Bits() <= p.Bits() && r.Contains(p.Addr()) {
			return true
		}
	}
	return false
}

// Validate judges every value and the rules between keys, for a configuration that was built or changed in code; [Load] has done it. The error is [Errors].
func (c *Config) Validate() error {
	var errs Errors
	fail := func(name, remedy, format string, args ...any) {
		errs = append(errs, &Error{Key: name, Problem: fmt.Sprintf(format, args...), Remedy: remedy, Origin: c.origins[name]})
	}
	for i := range keys {
		k := &keys[i]
		if pr := k.set(&Config{}, k.get(c)); pr != nil {
			fail(k.name, pr.remedy, "%s", pr.what)
		}
	}

	t := &c.Turn
	const credentials = "set turn.auth.users or turn.auth.secret"
	open := false // some listener serves clients without credentials
	for _, l := range t.Listen {
		open = open || !c.Asks(l)
		if l.Auth == AuthRequired && !c.Credentials() {
			fail("turn.listen", credentials, "%s requires credentials, and there are none", l)
		}
	}
	if open && !t.AllowOpenRelay {
		const remedy = credentials + " and no listener with auth=none, or turn.allow_open_relay: true to let strangers use your address"
		if t.Peers.Profile == Public {
			fail("turn.peers.profile", remedy, "public without credentials is a relay that anybody may use")
		}
		for _, p := range t.Clients {
			wide := everybodyBits4
			if p.Addr().Is6() {
				wide = everybodyBits6
			}
			if p.Bits() < wide && !isPrivate(p) {
				fail("turn.clients", "list the prefixes of your clients; else "+remedy, "%s without credentials is a relay that anybody may use", p)
			}
		}
	}
	for _, allow := range t.Peers.Allow {
		if allow.Bits() == 0 {
			fail("turn.peers.allow", "list the networks that your players need", "%s is too wide to open anything that the profile refuses", allow)
		}
		for _, deny := range t.Peers.Deny {
			if allow == deny {
				fail("turn.peers.deny", "remove one of the two", "%s is in turn.peers.allow as well", formatPrefix(deny))
			}
		}
	}
	if l := t.Limits; l.PerClientPrefix > 0 && l.PerClient > l.PerClientPrefix {
		fail("turn.limits.per_client", "raise turn.limits.per_client_prefix, or lower this", "%d exceeds turn.limits.per_client_prefix, %d", l.PerClient, l.PerClientPrefix)
	}

	c.validateAlternate(fail)
	c.validateRendezvous(fail)

	switch tls := c.Admin.TLS; {
	case tls.Cert == "" && tls.Key != "":
		fail("admin.tls.key", "set admin.tls.cert as well", "a key without its certificate")
	case tls.Cert != "" && tls.Key == "":
		fail("admin.tls.cert", "set admin.tls.key as well", "a certificate without its key")
	case tls.Cert == "" && !c.Admin.Listen.Addr().IsLoopback():
		fail("admin.listen", "set admin.tls.cert and admin.tls.key, or listen on 127.0.0.1", "%s is not loopback, and the token would cross the network in the clear", c.Admin.Listen)
	}
	return errs.or()
}

// validateAlternate judges stun.alternate beside the listener that it belongs to.
func (c *Config) validateAlternate(fail func(name, remedy, format string, args ...any)) {
	first, alternate := c.DiscoveryListener(), c.STUN.Alternate
	a := alternate.Address.Local
	switch {
	case first == nil:
		if a.IsValid() {
			fail("stun.alternate.address", "add udp://:3478 to turn.listen, or remove the address", "discovery needs a UDP listener with a port, and turn.listen has none")
		}
		return
	case a.IsValid() && alternate.Port == 0:
		fail("stun.alternate.address", "set stun.alternate.port, or remove the address", "a second address is of no use without a second port")
	case a.IsValid() && first.Addr == a:
		fail("stun.alternate.address", "write another address of this machine", "%s is the address of %s", a, first)
	case a.IsValid() && first.Addr.IsValid() && !first.Addr.IsUnspecified() && first.Addr.Is4() != a.Is4():
		fail("stun.alternate.address", "write two IPv4 or two IPv6 addresses", "%s and %s are of two families", a, first)
	}
	if alternate.Port == int(first.Port) && c.origins["stun.alternate.port"].Kind != Default {
		fail("stun.alternate.port", "write another port, or 0 for none", "%d is the port of %s", alternate.Port, first)
	}
}

// DiscoveryListener returns the listener that answers NAT behaviour discovery: the first UDP one, unless the system chooses its port. Nil: none does.
func (c *Config) DiscoveryListener() *ListenURL {
	for i := range c.Turn.Listen {
		if l := &c.Turn.Listen[i]; l.Network == "udp" {
			if l.Port == 0 {
				return nil
			}
			return l
		}
	}
	return nil
}

// warn collects what is allowed but deserves a line at the start. path is the configuration file, or "".
func (c *Config) warn(path string) {
	add := func(format string, args ...any) { c.warnings = append(c.warnings, fmt.Sprintf(format, args...)) }
	t := &c.Turn
	if t.AllowOpenRelay {
		add("turn.allow_open_relay is true: whoever reaches this server may use its address")
	}
	for _, l := range t.Listen {
		if t.Peers.Profile == Lab && !c.Asks(l) && !l.Addr.IsLoopback() {
			add("turn.peers.profile is lab and %s is not loopback: whoever reaches it may use this server, and reaches this host and its networks", l)
		}
	}
	if t.ModernWithoutCredentials == ModernAllow && c.OnlyRTMFP() {
		add("turn.modern_without_credentials is allow and turn.peers.payload lets nothing but RTMFP pass: browsers without credentials get an allocation and " +
			"reach nobody; set turn.peers.payload: any if they shall")
	}
	if n := len(t.Auth.Secret); n > 0 && n < 16 {
		add("turn.auth.secret has %d bytes: one recorded request is enough to guess a secret below 16", n)
	}
	// Windows has no mode bits that mean this.
	readable := func(name string) bool {
		info, err := os.Stat(name)
		return runtime.GOOS != "windows" && err == nil && info.Mode().Perm()&0o077 != 0
	}
	for _, file := range []struct {
		path    string
		secrets bool
	}{
		{path, c.origins["turn.auth.secret"].Kind == File || c.origins["turn.auth.users"].Kind == File},
		{t.Auth.SecretFile, true},
		{t.Auth.UsersFile, true},
	} {
		if file.secrets && c.Credentials() && file.path != "" && readable(file.path) {
			add("%s holds secrets and others may read it: chmod 600 %s", file.path, file.path)
		}
	}
}
