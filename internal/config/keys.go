package config

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// kind is how a value is written.
type kind uint8

const (
	textKind kind = iota
	numberKind
	boolKind
	durationKind
	listKind
	usersKind // a list of {name, key} in a file, of name:key elsewhere
)

// String names the kind as the usage of a flag does.
func (k kind) String() string {
	return [...]string{"text", "number", "true|false", "duration", "list", "name:key,…"}[k]
}

func (k kind) list() bool { return k == listKind || k == usersKind }

// value is a value as text: one item, or those of a list.
type value []string

// key is one key of the configuration: the only place that knows its name, type, default, range and what a change needs.
type key struct {
	name    string // dotted
	kind    kind
	def     value
	usage   string // one line, for --help
	secret  bool   // no message and no listing shows the value
	restart bool   // a change takes effect at the next start
	set     func(*Config, value) *problem
	get     func(*Config) value
}

// variable is the environment variable of the key.
func (k *key) variable() string {
	return "STILE_" + strings.ToUpper(strings.ReplaceAll(k.name, ".", "_"))
}

// restarts marks a key whose change needs a restart: what it configures is made once.
func (k key) restarts() key { k.restart = true; return k }

func textKey(name, def, usage string, check func(string) *problem, field func(*Config) *string) key {
	return key{name: name, kind: textKind, def: value{def}, usage: usage,
		set: func(c *Config, v value) *problem {
			if check != nil {
				if pr := check(v[0]); pr != nil {
					return pr
				}
			}
			*field(c) = v[0]
			return nil
		},
		get: func(c *Config) value { return value{*field(c)} },
	}
}

func choiceKey[T ~string](name string, def T, usage string, field func(*Config) *T, choices ...T) key {
	words := make([]string, len(choices))
	for i, c := range choices {
		words[i] = string(c)
	}
	check := func(s string) *problem {
		if slices.Contains(words, s) {
			return nil
		}
		if near := nearest(s, words); near != "" {
			return bad("did you mean "+near+"?", "%q is not one of %s", s, strings.Join(words, ", "))
		}
		return bad("write one of them", "%q is not one of %s", s, strings.Join(words, ", "))
	}
	return key{name: name, kind: textKind, def: value{string(def)}, usage: usage + " (" + strings.Join(words, ", ") + ")",
		set: func(c *Config, v value) *problem {
			if pr := check(v[0]); pr != nil {
				return pr
			}
			*field(c) = T(v[0])
			return nil
		},
		get: func(c *Config) value { return value{string(*field(c))} },
	}
}

func numberKey(name string, def, least, most int, usage string, field func(*Config) *int) key {
	return key{name: name, kind: numberKind, def: value{strconv.Itoa(def)}, usage: usage,
		set: func(c *Config, v value) *problem {
			n, err := strconv.Atoi(v[0])
			switch {
			case err != nil || v[0] != strconv.Itoa(n):
				return bad(fmt.Sprintf("write a number from %d to %d, digits only", least, most), "%q is not a whole number", v[0])
			case n < least || n > most:
				return bad(fmt.Sprintf("write a number from %d to %d", least, most), "%d is out of range", n)
			}
			*field(c) = n
			return nil
		},
		get: func(c *Config) value { return value{strconv.Itoa(*field(c))} },
	}
}

func boolKey(name string, usage string, field func(*Config) *bool) key {
	return key{name: name, kind: boolKind, def: value{"false"}, usage: usage,
		set: func(c *Config, v value) *problem {
			if v[0] != "true" && v[0] != "false" {
				return bad("write true or false", "%q is neither true nor false", v[0])
			}
			*field(c) = v[0] == "true"
			return nil
		},
		get: func(c *Config) value { return value{strconv.FormatBool(*field(c))} },
	}
}

func durationKey(name string, def, least, most time.Duration, usage string, field func(*Config) *time.Duration) key {
	return key{name: name, kind: durationKind, def: value{formatDuration(def)}, usage: usage,
		set: func(c *Config, v value) *problem {
			d, pr := parseDuration(v[0])
			if pr != nil {
				return pr
			}
			if d < least || d > most {
				return bad(fmt.Sprintf("write a duration from %s to %s", formatDuration(least), formatDuration(most)), "%s is out of range", v[0])
			}
			*field(c) = d
			return nil
		},
		get: func(c *Config) value { return value{formatDuration(*field(c))} },
	}
}

// listKey reads each item by itself; check judges the list, and may be nil.
func listKey[T any](name string, def value, usage string, parse func(string) (T, *problem), format func(T) string,
	check func([]T) *problem, field func(*Config) *[]T) key {
	return key{name: name, kind: listKind, def: def, usage: usage,
		set: func(c *Config, v value) *problem {
			var all []T
			for i, item := range v {
				one, pr := parse(item)
				if pr != nil {
					pr.item = i
					return pr
				}
				all = append(all, one)
			}
			if check != nil {
				if pr := check(all); pr != nil {
					return pr
				}
			}
			*field(c) = all
			return nil
		},
		get: func(c *Config) value {
			v := value{}
			for _, one := range *field(c) {
				v = append(v, format(one))
			}
			return v
		},
	}
}

func prefixesKey(name, usage string, field func(*Config) *[]netip.Prefix) key {
	return listKey(name, nil, usage, parsePrefix, formatPrefix, nil, field)
}

// fileKey is a path; empty is allowed.
func fileKey(name, def, usage string, field func(*Config) *string) key {
	return textKey(name, def, usage, func(s string) *problem {
		if strings.ContainsRune(s, 0) || s != strings.TrimSpace(s) {
			return bad("write a path", "%q has a space at an end or a NUL byte", s)
		}
		return nil
	}, field)
}

// keys are all keys, in the order of configs/stile.yaml.
var keys = slices.Concat(keysTURN, keysRendezvous, keysProcess)

// keysTURN are the keys of the proxy and of STUN.
var keysTURN = []key{
	listKey("turn.listen", value{"udp://:3478", "tcp://:3478"}, "listeners, as udp://:3478 or tcp://192.0.2.1:3478?auth=required",
		parseListen, ListenURL.String, checkListen, func(c *Config) *[]ListenURL { return &c.Turn.Listen }).restarts(),
	listKey("turn.relay.addresses", value{"auto"}, "relayed addresses: auto, addresses, or public=local pairs",
		parseRelayAddress, RelayAddress.String, checkRelayAddresses, func(c *Config) *[]RelayAddress { return &c.Turn.Relay.Addresses }).restarts(),
	{name: "turn.relay.ports", kind: textKind, def: value{"49152-65535"}, usage: "relayed ports, within 1024-65535", restart: true,
		set: func(c *Config, v value) *problem {
			r, pr := parsePortRange(v[0])
			if pr != nil {
				return pr
			}
			if r.First < 1024 {
				return bad("begin at 1024 or above (draft-ietf-behave-turn-08 §6.2)", "%s has well-known ports", r)
			}
			c.Turn.Relay.Ports = r
			return nil
		},
		get: func(c *Config) value { return value{c.Turn.Relay.Ports.String()} }},
	prefixesKey("turn.clients", "who may use the proxy, as prefixes; empty: who the profile says", func(c *Config) *[]netip.Prefix { return &c.Turn.Clients }),

	choiceKey("turn.peers.profile", Corporate, "which clients and peers are allowed", func(c *Config) *Profile { return &c.Turn.Peers.Profile }, Corporate, Public, Lab),
	prefixesKey("turn.peers.allow", "peers that the profile refuses and clients shall reach, as prefixes",
		func(c *Config) *[]netip.Prefix { return &c.Turn.Peers.Allow }),
	prefixesKey("turn.peers.deny", "peers that clients shall not reach, as prefixes; of allow and deny the longest decides",
		func(c *Config) *[]netip.Prefix { return &c.Turn.Peers.Deny }),
	{name: "turn.peers.ports", kind: listKind, def: value{"1024-65535", excludeReflectors}, usage: "ports of peers: ports, ranges, !exclusions, !reflectors",
		set: func(c *Config, v value) *problem {
			s, pr := parsePortSet(v)
			if pr != nil {
				return pr
			}
			c.Turn.Peers.Ports = s
			return nil
		},
		get: func(c *Config) value { return slices.Clone(c.Turn.Peers.Ports.spec) }},
	choiceKey("turn.peers.payload", PayloadAuto, "what clients without credentials may exchange with peers",
		func(c *Config) *Payload { return &c.Turn.Peers.Payload }, PayloadAuto, PayloadAny, PayloadRTMFP),

	choiceKey("turn.engine", EngineAuto, "what moves the packets", func(c *Config) *Engine { return &c.Turn.Engine }, EngineAuto, EnginePlain, EngineSocket, EngineKernel).restarts(),
	choiceKey("turn.offload", OffloadAuto, "whether established flows are left to the kernel", func(c *Config) *Offload { return &c.Turn.Offload },
		OffloadAuto, OffloadOff, OffloadGeneric).restarts(),
	listKey("turn.offload_interfaces", nil, "interfaces of the offload; none: those that the routes to clients and peers lead by", parseInterface,
		func(s string) string { return s }, nil, func(c *Config) *[]string { return &c.Turn.OffloadInterfaces }).restarts(),
	numberKey("turn.shards", 0, 0, 256, "threads that move packets; 0: one for each core", func(c *Config) *int { return &c.Turn.Shards }).restarts(),
	choiceKey("turn.hairpin", HairpinAll, "which clients reach each other through the proxy", func(c *Config) *Hairpin { return &c.Turn.Hairpin },
		HairpinAll, HairpinSamePrefix, HairpinOff),
	boolKey("turn.allow_open_relay", "let everybody use the proxy without credentials", func(c *Config) *bool { return &c.Turn.AllowOpenRelay }),
	choiceKey("turn.modern_without_credentials", ModernAuto, "allocations without credentials in the dialect of browsers",
		func(c *Config) *ModernPolicy { return &c.Turn.ModernWithoutCredentials }, ModernAuto, ModernRefuse, ModernAllow),

	textKey("turn.auth.realm", "stile", "realm of the credentials", checkRealm, func(c *Config) *string { return &c.Turn.Auth.Realm }),
	{name: "turn.auth.users", kind: usersKind, usage: "long-term credentials; a flag is visible to every user of this machine", secret: true,
		set: setUsers,
		get: func(c *Config) value {
			v := value{}
			for _, u := range c.Turn.Auth.Users {
				v = append(v, u.Name+":"+string(u.Key))
			}
			return v
		}},
	fileKey("turn.auth.users_file", "", "file of long-term credentials, a line name:key for each", func(c *Config) *string { return &c.Turn.Auth.UsersFile }),
	{name: "turn.auth.secret", kind: textKind, def: value{""}, usage: "signs time-limited credentials; a flag is visible to every user of this machine", secret: true,
		set: func(c *Config, v value) *problem {
			if strings.ContainsFunc(v[0], isControl) {
				return bad("write printable characters", "the secret has a control character")
			}
			c.Turn.Auth.Secret = Secret(v[0])
			return nil
		},
		get: func(c *Config) value { return value{string(c.Turn.Auth.Secret)} }},
	fileKey("turn.auth.secret_file", "", "file whose content is the secret", func(c *Config) *string { return &c.Turn.Auth.SecretFile }),

	numberKey("turn.limits.allocations", 0, 0, 10_000_000, "allocations in all; 0: what ports and file descriptors allow", func(c *Config) *int { return &c.Turn.Limits.Allocations }),
	numberKey("turn.limits.per_client", 1024, 0, 10_000_000, "allocations of a client address; 0: no limit", func(c *Config) *int { return &c.Turn.Limits.PerClient }),
	numberKey("turn.limits.per_client_prefix", 4096, 0, 10_000_000, "allocations of an IPv4 /24 or IPv6 /56 of clients; 0: no limit",
		func(c *Config) *int { return &c.Turn.Limits.PerClientPrefix }),
	numberKey("turn.limits.unconfirmed", 1024, 16, 65536, "allocations that have sent nothing yet, in all", func(c *Config) *int { return &c.Turn.Limits.Unconfirmed }),
	numberKey("turn.limits.permissions", 128, 1, 65536, "permissions of an allocation", func(c *Config) *int { return &c.Turn.Limits.Permissions }),
	numberKey("turn.limits.channels", 128, 1, 49151, "channels of an allocation", func(c *Config) *int { return &c.Turn.Limits.Channels }),
	numberKey("turn.limits.bytes_per_second", 2<<20, 0, 2_000_000_000, "payload of an allocation, both directions together; 0: no limit",
		func(c *Config) *int { return &c.Turn.Limits.BytesPerSecond }),
	numberKey("turn.limits.packets_per_second", 5000, 0, 100_000_000, "packets of an allocation, both directions together; 0: no limit",
		func(c *Config) *int { return &c.Turn.Limits.PacketsPerSecond }),
	numberKey("turn.limits.tcp_connections", 1024, 0, 1_000_000, "TCP connections of a client address; 0: no limit", func(c *Config) *int { return &c.Turn.Limits.TCPConnections }),
	numberKey("turn.limits.reply_bytes_per_prefix", 1<<18, 0, 2_000_000_000, "bytes of replies a second to an unproven IPv4 /24 or IPv6 /56; 0: no limit",
		func(c *Config) *int { return &c.Turn.Limits.ReplyBytesPerPrefix }),
	numberKey("turn.limits.unanswered_packets", 20, 0, 1_000_000, "packets of an allocation to a peer that has not answered; 0: no limit",
		func(c *Config) *int { return &c.Turn.Limits.UnansweredPackets }),
	numberKey("turn.limits.unanswered_bytes", 16384, 0, 1_000_000_000, "bytes of an allocation to a peer that has not answered; 0: no limit",
		func(c *Config) *int { return &c.Turn.Limits.UnansweredBytes }),
	numberKey("turn.limits.unanswered_all_clients", 4, 1, 10_000, "times the two above, for all clients together", func(c *Config) *int { return &c.Turn.Limits.UnansweredAllClients }),

	{name: "stun.alternate.address", kind: textKind, def: value{""}, usage: "second address for NAT behaviour discovery, or public=local; empty: none", restart: true,
		set: func(c *Config, v value) *problem {
			r, pr := parseAlternateAddress(v[0])
			if pr != nil {
				return pr
			}
			c.STUN.Alternate.Address = r
			return nil
		},
		get: func(c *Config) value {
			if a := c.STUN.Alternate.Address; a.Local.IsValid() {
				return value{a.String()}
			}
			return value{""}
		}},
	numberKey("stun.alternate.port", DefaultAlternatePort, 0, 65535, "second port for NAT behaviour discovery; 0: none",
		func(c *Config) *int { return &c.STUN.Alternate.Port }).restarts(),
}

// keysProcess are the keys of the process.
var keysProcess = []key{
	{name: "admin.listen", kind: textKind, def: value{"127.0.0.1:9478"}, usage: "address of the administrator's listener", restart: true,
		set: func(c *Config, v value) *problem {
			ap, pr := parseAdminListen(v[0])
			if pr != nil {
				return pr
			}
			c.Admin.Listen = ap
			return nil
		},
		get: func(c *Config) value { return value{c.Admin.Listen.String()} }},
	fileKey("admin.token_file", "auto", "file of the administrator's token; auto: admin.token in state.dir", func(c *Config) *string { return &c.Admin.TokenFile }).restarts(),
	fileKey("admin.tls.cert", "", "certificate chain of the administrator's listener, PEM", func(c *Config) *string { return &c.Admin.TLS.Cert }).restarts(),
	fileKey("admin.tls.key", "", "its private key, PEM", func(c *Config) *string { return &c.Admin.TLS.Key }).restarts(),

	durationKey("server.drain_timeout", time.Minute, 0, 24*time.Hour, "how long a stopping server waits for its allocations to end",
		func(c *Config) *time.Duration { return &c.Server.DrainTimeout }),
	fileKey("state.dir", "auto", "directory of what survives the process", func(c *Config) *string { return &c.State.Dir }).restarts(),

	choiceKey("log.level", Info, "least severity that is logged", func(c *Config) *Level { return &c.Log.Level }, Trace, Debug, Info, Warn, Fail),
	choiceKey("log.format", FormatAuto, "how events are written", func(c *Config) *Format { return &c.Log.Format }, FormatAuto, FormatJSON, FormatConsole).restarts(),
	boolKey("log.permissions", "one line for each new peer of an allocation", func(c *Config) *bool { return &c.Log.Permissions }),
}

// keyByName finds keys by dotted name; groups are the names that have keys below them.
var keyByName, groups = func() (map[string]*key, map[string]bool) {
	byName, groups := map[string]*key{}, map[string]bool{}
	for i := range keys {
		k := &keys[i]
		byName[k.name] = k
		for at, c := range k.name {
			if c == '.' {
				groups[k.name[:at]] = true
			}
		}
	}
	return byName, groups
}()

func setUsers(c *Config, v value) *problem {
	var users []User
	for i, item := range v {
		u, pr := parseUser(item)
		if pr == nil && slices.ContainsFunc(users, func(other User) bool { return other.Name == u.Name }) {
			pr = bad("give each user one key", "user %q is there twice", u.Name)
		}
		if pr != nil {
			pr.item = i
			return pr
		}
		users = append(users, u)
	}
	c.Turn.Auth.Users = users
	return nil
}

// maxRealm bounds the realm in bytes: RFC 8489 §14.9 takes 127 characters, but a challenge goes to whoever a request claims to come from, and with
// a longer realm it would be more than twice the request.
const maxRealm = 16

func checkRealm(s string) *problem {
	switch {
	case s == "":
		return bad("write a name such as your domain", "the realm is empty")
	case len(s) > maxRealm || strings.ContainsFunc(s, isControl) || strings.ContainsAny(s, `"\`):
		return bad(fmt.Sprintf("write at most %d bytes without quotes, backslashes and control characters", maxRealm), "%q cannot be a realm", s)
	}
	return nil
}

func checkListen(all []ListenURL) *problem {
	if len(all) == 0 {
		return bad("write at least udp://:3478", "the list is empty, so nobody could reach the proxy")
	}
	for i, l := range all {
		for _, other := range all[:i] {
			if l.Port != 0 && l.Network == other.Network && l.Port == other.Port && l.Addr == other.Addr {
				pr := bad("remove one of them", "%s is there twice", l.Network+"://"+l.HostPort())
				pr.item = i
				return pr
			}
		}
	}
	return nil
}

func checkRelayAddresses(all []RelayAddress) *problem {
	if len(all) == 0 {
		return bad("write auto", "the list is empty, so nothing could be relayed")
	}
	for i, r := range all {
		if r.Auto && len(all) > 1 {
			pr := bad("write auto alone, or addresses", "auto stands beside addresses")
			pr.item = i
			return pr
		}
		for _, other := range all[:i] {
			if r.Local == other.Local || r.Public == other.Public {
				pr := bad("remove one of them", "%s has an address that %s has", r, other)
				pr.item = i
				return pr
			}
		}
	}
	return nil
}

// nearest returns the candidate that s was probably meant to be, or "": at most two letters differ, and at most a third of them.
func nearest(s string, candidates []string) string {
	fold := func(s string) string {
		return strings.NewReplacer("_", "", "-", "", " ", "").Replace(strings.ToLower(s))
	}
	best, bestDistance := "", 3
	for _, c := range candidates {
		if len(s) > len(c)+8 {
			continue
		}
		d := distance(fold(s), fold(c))
		if d < bestDistance && 3*d <= max(len(c), 3) {
			best, bestDistance = c, d
		}
	}
	return best
}

// distance counts the insertions, deletions, replacements and swaps of neighbours that make b out of a. Bytes, as keys are ASCII.
func distance(a, b string) int {
	var before, last []int // the rows of a[:i-1] and a[:i]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, last, row = last, row, make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			if a[i] == b[j] {
				row[j+1] = last[j]
				continue
			}
			row[j+1] = 1 + min(last[j], last[j+1], row[j])
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], 1+before[j-1])
			}
		}
	}
	return row[len(b)]
}

// unknownKey words the mistake of a key that does not exist. group is where it stands, "" at the top.
func unknownKey(group, name string) *problem {
	full := name
	if group != "" {
		full = group + "." + name
	}
	if group == "" && strings.Contains(name, ".") && keyByName[name] != nil {
		parts := strings.Split(name, ".")
		return bad("write it nested, as in {"+strings.Join(parts, ": {")+": …"+strings.Repeat("}", len(parts)), "keys are not written with dots here")
	}
	var here, elsewhere []string
	for candidate := range keyByName {
		if parent, last := splitName(candidate); parent == group {
			here = append(here, last)
		} else if last == name {
			elsewhere = append(elsewhere, candidate)
		}
	}
	for candidate := range groups {
		if parent, last := splitName(candidate); parent == group {
			here = append(here, last)
		} else if last == name {
			elsewhere = append(elsewhere, candidate)
		}
	}
	slices.Sort(here)
	slices.SortFunc(elsewhere, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	switch near := nearest(name, here); {
	case near != "" && group != "":
		return bad("did you mean "+group+"."+near+"?", "there is no key %s", full)
	case near != "":
		return bad("did you mean "+near+"?", "there is no key %s", full)
	case len(elsewhere) > 0:
		return bad("did you mean "+elsewhere[0]+"?", "there is no key %s", full)
	}
	return bad("here are "+strings.Join(here, ", "), "there is no key %s", full)
}

func splitName(name string) (parent, last string) {
	if at := strings.LastIndexByte(name, '.'); at >= 0 {
		return name[:at], name[at+1:]
	}
	return "", name
}
