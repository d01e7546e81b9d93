package config

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// home makes state.dir resolvable.
const home = "HOME=/home/x"

// write makes a configuration file with mode 0600 and returns its path.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func load(t *testing.T, src Source) *Config {
	t.Helper()
	src.Environ = append([]string{home}, src.Environ...)
	c, err := Load(src)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func flags(t *testing.T, args ...string) *pflag.FlagSet {
	t.Helper()
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	Flags(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return fs
}

// values returns every key's value as text, without origins.
func values(c *Config) map[string][]string {
	all := map[string][]string{}
	for i := range keys {
		all[keys[i].name] = append([]string{}, keys[i].get(c)...)
	}
	return all
}

const shipped = "../../configs/stile.yaml"

func TestTheShippedFileEqualsNoFile(t *testing.T) {
	with, without := values(load(t, Source{File: shipped})), values(load(t, Source{}))
	if !reflect.DeepEqual(with, without) {
		for name, v := range with {
			if !slices.Equal(v, without[name]) {
				t.Errorf("%s is %q in the file and %q by default", name, v, without[name])
			}
		}
	}
}

func TestTheShippedFileHoldsEveryKeyOnceWithAComment(t *testing.T) {
	b, err := os.ReadFile(shipped)
	if err != nil {
		t.Fatal(err)
	}
	found, errs := parseFile(shipped, b)
	if errs != nil {
		t.Fatal(errs)
	}
	if len(found) != len(keys) {
		t.Errorf("%d keys, want %d", len(found), len(keys))
	}
	for i := range keys {
		k := &keys[i]
		if e, ok := found[k.name]; !ok {
			t.Errorf("%s is missing", k.name)
		} else if !slices.Equal([]string(e.value), []string(k.def)) {
			t.Errorf("%s is %q, its default is %q", k.name, e.value, k.def)
		}
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	comments := map[string]string{}
	var walk func(n *yaml.Node, group string)
	walk = func(n *yaml.Node, group string) {
		for i := 0; i+1 < len(n.Content); i += 2 {
			full := strings.TrimPrefix(group+"."+n.Content[i].Value, ".")
			comments[full] = n.Content[i].HeadComment
			if len(n.Content[i].HeadComment) < 10 {
				t.Errorf("%s has the comment %q", full, n.Content[i].HeadComment)
			}
			if groups[full] {
				walk(n.Content[i+1], full)
			}
		}
	}
	walk(doc.Content[0], "")
	if len(comments) != len(keys)+len(groups) {
		t.Errorf("%d names with comments, want %d keys and %d groups", len(comments), len(keys), len(groups))
	}
	for i := range keys {
		k := &keys[i]
		if marked := strings.Contains(comments[k.name], "(restart)"); marked != k.restart {
			t.Errorf("%s: the comment says restart %v, the key %v", k.name, marked, k.restart)
		}
	}
}

func TestTheShippedFileListsTheReflectors(t *testing.T) {
	b, err := os.ReadFile(shipped)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(b), "\n    # ", " ")
	_, list, _ := strings.Cut(text, "than they were sent: ")
	if list == "" {
		_, list, _ = strings.Cut(text, "more than they were sent: ")
	}
	list, _, _ = strings.Cut(list, ".")
	var want []string
	for _, r := range Reflectors {
		want = append(want, strconv.Itoa(int(r.Port)))
	}
	if list != strings.Join(want, ", ") {
		t.Errorf("the comment lists %s\nwant              %s", list, strings.Join(want, ", "))
	}
}

func TestRangesInTheShippedFileAreTheRealOnes(t *testing.T) {
	b, err := os.ReadFile(shipped)
	if err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`\n *# `).ReplaceAllString(string(b), " ")
	for i := range keys {
		k := &keys[i]
		if k.kind != numberKind {
			continue
		}
		// The mistake's remedy names the range.
		pr := k.set(&Config{}, value{"-1"})
		var least, most int
		if _, err := fmt.Sscanf(pr.remedy, "write a number from %d to %d", &least, &most); err != nil {
			t.Fatal(k.name, err)
		}
		_, last := splitName(k.name)
		if !regexp.MustCompile(fmt.Sprintf(`%d-%d[^\n]*\n *%s:`, least, most, last)).MatchString(text) {
			t.Errorf("%s: the comment does not say %d-%d", k.name, least, most)
		}
	}
}

func TestTheLabFileIsLocal(t *testing.T) {
	c := load(t, Source{File: "../../configs/lab.yaml"})
	for _, l := range c.Turn.Listen {
		if !l.Addr.IsLoopback() {
			t.Errorf("listens on %s", l)
		}
	}
	for _, r := range c.Turn.Relay.Addresses {
		if !r.Public.IsLoopback() || !r.Local.IsLoopback() {
			t.Errorf("relays from %s", r)
		}
	}
	if c.Turn.Peers.Profile != Lab || !c.Admin.Listen.Addr().IsLoopback() {
		t.Errorf("profile %s, admin %s", c.Turn.Peers.Profile, c.Admin.Listen)
	}
	if w := c.Warnings(); w != nil {
		t.Errorf("warnings %q", w)
	}
}

func TestDefaultsAreThoseOfTheSpecification(t *testing.T) {
	c := Defaults()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	any := netip.Addr{}
	want := []ListenURL{{"udp", any, 3478, ""}, {"tcp", any, 3478, ""}}
	if !slices.Equal(c.Turn.Listen, want) || c.Turn.Relay.Ports != (PortRange{49152, 65535}) || !c.Turn.Relay.Addresses[0].Auto ||
		c.Turn.Limits.UnansweredPackets != 20 || c.Turn.Limits.UnansweredBytes != 16384 || c.Turn.Limits.UnansweredAllClients != 4 ||
		c.Admin.Listen.String() != "127.0.0.1:9478" || c.Server.DrainTimeout != time.Minute || c.Turn.Peers.Profile != Corporate {
		t.Errorf("defaults %+v", c)
	}
	ports := c.Turn.Peers.Ports
	for port, in := range map[uint16]bool{0: false, 1023: false, 1024: true, 1900: false, 1935: true, 3478: false, 3702: false, 5353: false, 11211: false,
		19350: true, 49152: true, 65535: true} {
		if ports.Contains(port) != in {
			t.Errorf("port %d: %v", port, !in)
		}
	}
	n := 0
	for _, r := range ports.Ranges() {
		n += r.Len()
	}
	if n != 65536-1024-len(Reflectors) {
		t.Errorf("%d ports", n)
	}
}

func TestReflectorsAreAscendingAndExplained(t *testing.T) {
	for i, r := range Reflectors {
		if r.Port < 1024 || i > 0 && r.Port <= Reflectors[i-1].Port || r.Name == "" || r.Factor == "" || r.Source == "" {
			t.Errorf("%+v", r)
		}
	}
}

func TestFlagWinsOverEnvironmentOverFileOverDefault(t *testing.T) {
	file := write(t, "a.yaml", "turn:\n  hairpin: \"off\"\n  shards: 1\n  clients: [10.1.0.0/16, 10.2.0.0/16]\n  peers:\n    deny: [192.0.2.1]\nlog: {level: warn, permissions: true}\n")
	environ := []string{"STILE_TURN_SHARDS=2", "STILE_TURN_CLIENTS=10.3.0.0/16, 10.4.0.0/16", "STILE_LOG_LEVEL=error", "STILE_LOG_FORMAT="}
	fs := flags(t, "--log.level=debug", "--turn.peers.allow=192.0.2.0/24", "--turn.peers.allow=2001:db8::/32,198.51.100.0/24", "--turn.allow_open_relay", "--log.permissions=false")
	c := load(t, Source{File: file, Environ: environ, Flags: fs})
	got := values(c)
	for name, want := range map[string]struct {
		value  string
		origin string
	}{
		"turn.hairpin":          {"off", file + " line 2"},
		"turn.shards":           {"2", "environment STILE_TURN_SHARDS"},
		"turn.clients":          {"10.3.0.0/16,10.4.0.0/16", "environment STILE_TURN_CLIENTS"},
		"turn.peers.deny":       {"192.0.2.1", file + " line 6"},
		"turn.peers.allow":      {"192.0.2.0/24,2001:db8::/32,198.51.100.0/24", "flag --turn.peers.allow"},
		"turn.allow_open_relay": {"true", "flag --turn.allow_open_relay"},
		"log.level":             {"debug", "flag --log.level"},
		"log.permissions":       {"false", "flag --log.permissions"},
		"log.format":            {"auto", "default"},
		"turn.engine":           {"auto", "default"},
	} {
		if v := strings.Join(got[name], ","); v != want.value || c.Origin(name).String() != want.origin {
			t.Errorf("%s is %s from %s, want %s from %s", name, v, c.Origin(name), want.value, want.origin)
		}
	}
}

func TestAnEmptyListOverridesAFilledOne(t *testing.T) {
	file := write(t, "a.yaml", "turn: {clients: [10.1.0.0/16], peers: {deny: []}}\n")
	c := load(t, Source{File: file, Flags: flags(t, "--turn.clients=")})
	if len(c.Turn.Clients) != 0 {
		t.Errorf("clients %v", c.Turn.Clients)
	}
}

func TestEveryKeyHasItsOwnFlagAndVariable(t *testing.T) {
	fs := flags(t)
	seen := map[string]bool{}
	for i := range keys {
		k := &keys[i]
		f := fs.Lookup(k.name)
		if f == nil || f.Usage == "" || f.Value.Type() == "" {
			t.Fatalf("%s: flag %+v", k.name, f)
		}
		if v := k.variable(); seen[v] || serviceVariable.MatchString(v) && k.name != "stun.alternate.port" {
			t.Errorf("%s: variable %s is taken", k.name, v)
		} else {
			seen[v] = true
		}
		if k.name != strings.ToLower(k.name) {
			t.Errorf("%s: viper does not keep capitals", k.name)
		}
		// The default, given as a flag and as a variable, is the default.
		if len(k.def) == 0 || k.def[0] == "" {
			continue
		}
		def := joinList(k.def)
		for from, src := range map[string]Source{"flag": {Flags: flags(t, "--"+k.name+"="+def)}, "variable": {Environ: []string{k.variable() + "=" + def}}} {
			if c := load(t, src); !reflect.DeepEqual(values(c), values(load(t, Source{}))) || c.Origin(k.name).Kind == Default {
				t.Errorf("%s=%s as %s: origin %s", k.name, def, from, c.Origin(k.name))
			}
		}
	}
	if f := fs.ShorthandLookup("c"); f == nil || f.Name != "config" {
		t.Error("-c is not --config")
	}
}

func TestTheFileIsNamedByCallerFlagOrVariable(t *testing.T) {
	a, b, c := write(t, "a.yaml", "turn: {shards: 1}\n"), write(t, "b.yaml", "turn: {shards: 2}\n"), write(t, "c.yaml", "turn: {shards: 3}\n")
	variable := []string{"STILE_CONFIG=" + c}
	for want, src := range map[int]Source{
		1: {File: a, Flags: flags(t, "-c", b), Environ: variable},
		2: {Flags: flags(t, "--config="+b), Environ: variable},
		3: {Flags: flags(t), Environ: variable},
		0: {Flags: flags(t)},
	} {
		if got := load(t, src).Turn.Shards; got != want {
			t.Errorf("%d shards, want %d", got, want)
		}
	}
}

func TestServiceVariablesOfContainersAreNotKeys(t *testing.T) {
	load(t, Source{Environ: []string{"STILE_PORT=udp://10.0.0.1:3478", "STILE_SERVICE_HOST=10.0.0.1", "STILE_SERVICE_PORT_TURN=3478", "STILE_PORT_3478_UDP_ADDR=10.0.0.1",
		"STILE_TURN_SERVICE_PORT=1", "STILE_TURN_PORT_3478_UDP=x"}})
}

func TestBadInputNamesKeyPlaceAndRemedy(t *testing.T) {
	const prefix = ": write a prefix such as 192.0.2.0/24 or 2001:db8::/32 (FILE line 1)"
	const listenForm = ": write udp://:3478 or tcp://192.0.2.1:3478"
	const alternate = ": write another address of this machine, or public=local; or nothing (FILE line 1)"
	const openRelay = "set turn.auth.users or turn.auth.secret and no listener with auth=none, or turn.allow_open_relay: true to let strangers use your address"
	for name, tt := range map[string]struct{ yaml, want string }{
		"not YAML":         {"turn:\n\tlisten: x\n", `config: the file is not YAML: found character that cannot start any token: check the indentation, and put values with special characters in "quotes" (FILE line 2)`},
		"a list":           {"- a\n", "config: the file holds no keys: write keys and values, as in configs/stile.yaml (FILE line 1)"},
		"a word":           {"turn\n", "config: the file holds no keys: write keys and values, as in configs/stile.yaml (FILE line 1)"},
		"two documents":    {"turn: {}\n---\nlog: {}\n", "config: the file has a second document: write one document (FILE line 2)"},
		"misspelt":         {"turn:\n  limits:\n    per_cleint: 5\n", "config: turn.limits.per_cleint: there is no key turn.limits.per_cleint: did you mean turn.limits.per_client? (FILE line 3)"},
		"misspelt group":   {"trun: {}\n", "config: trun: there is no key trun: did you mean turn? (FILE line 1)"},
		"capital":          {"Turn: {}\n", "config: Turn: there is no key Turn: did you mean turn? (FILE line 1)"},
		"hyphen":           {"server: {drain-timeout: 5s}\n", "config: server.drain-timeout: there is no key server.drain-timeout: did you mean server.drain_timeout? (FILE line 1)"},
		"wrong group":      {"turn:\n  profile: lab\n", "config: turn.profile: there is no key turn.profile: did you mean turn.peers.profile? (FILE line 2)"},
		"no idea":          {"admin: {xyzzy: 1}\n", "config: admin.xyzzy: there is no key admin.xyzzy: here are listen, tls, token_file (FILE line 1)"},
		"dotted":           {"turn.hairpin: all\n", "config: turn.hairpin: keys are not written with dots here: write it nested, as in {turn: {hairpin: …}} (FILE line 1)"},
		"twice":            {"log:\n  level: info\n  level: warn\n", "config: log.level: it is on line 2 already: remove one of them (FILE line 3)"},
		"merge":            {"log: &a\n  level: info\nturn:\n  <<: *a\n", "config: turn: aliases and merge keys are not read: write the keys out (FILE line 4)"},
		"alias":            {"turn: {clients: &a [10.0.0.1], peers: {deny: *a}}\n", "config: turn.peers.deny: aliases are not read: write the value out (FILE line 1)"},
		"group as value":   {"turn: 5\n", "config: turn: it is a group of keys, not a value: write its keys below it, indented (FILE line 1)"},
		"no value":         {"log:\n  level:\n", "config: log.level: it has no value: write a value, or remove the line for the default (FILE line 2)"},
		"value as group":   {"log:\n  level: {a: b}\n", "config: log.level: it is a list or a group where one value belongs: write one value (FILE line 2)"},
		"value as list":    {"turn: {clients: 10.0.0.0/8}\n", `config: turn.clients: it is not a list: write ["10.0.0.0/8"] (FILE line 1)`},
		"null item":        {"turn: {clients: [~]}\n", "config: turn.clients: an item is empty: write a value, or remove the item (FILE line 1)"},
		"tag":              {"turn:\n  peers:\n    ports:\n      - 1024-65535\n      - !1900\n", `config: turn.peers.ports: !1900 without quotes is a YAML tag, not a value: put it in quotes: "!1900" (FILE line 5)`},
		"number as text":   {"turn: {shards: \"4\"}\n", `config: turn.shards: "4" is text, not a number: remove the quotes (FILE line 1)`},
		"not a number":     {"turn: {shards: many}\n", `config: turn.shards: "many" is not a whole number: write a number from 0 to 256, digits only (FILE line 1)`},
		"hexadecimal":      {"turn: {shards: 0x10}\n", `config: turn.shards: "0x10" is not a whole number: write a number from 0 to 256, digits only (FILE line 1)`},
		"octal":            {"turn: {shards: 010}\n", `config: turn.shards: "010" is not a whole number: write a number from 0 to 256, digits only (FILE line 1)`},
		"fraction":         {"turn: {shards: 1.5}\n", `config: turn.shards: "1.5" is not a whole number: write a number from 0 to 256, digits only (FILE line 1)`},
		"out of range":     {"turn: {shards: 257}\n", "config: turn.shards: 257 is out of range: write a number from 0 to 256 (FILE line 1)"},
		"negative":         {"turn: {limits: {channels: -1}}\n", "config: turn.limits.channels: -1 is out of range: write a number from 1 to 49151 (FILE line 1)"},
		"yes":              {"turn: {allow_open_relay: yes}\n", `config: turn.allow_open_relay: "yes" is neither true nor false: write true or false (FILE line 1)`},
		"no unit":          {"server: {drain_timeout: 60}\n", "config: server.drain_timeout: 60 has no unit: write 60s for seconds (FILE line 1)"},
		"not a duration":   {"server: {drain_timeout: soon}\n", `config: server.drain_timeout: "soon" is not a duration: write a number and a unit, as in 60s, 10m or 1h30m (FILE line 1)`},
		"long duration":    {"server: {drain_timeout: 25h}\n", "config: server.drain_timeout: 25h is out of range: write a duration from 0s to 24h (FILE line 1)"},
		"choice":           {"turn: {engine: sockets}\n", `config: turn.engine: "sockets" is not one of auto, plain, socket, kernel: did you mean socket? (FILE line 1)`},
		"choice, no idea":  {"log: {format: xml}\n", `config: log.format: "xml" is not one of auto, json, console: write one of them (FILE line 1)`},
		"off unquoted":     {"turn: {hairpin: none}\n", `config: turn.hairpin: "none" is not one of all, same-prefix, off: write one of them (FILE line 1)`},
		"empty ports":      {"turn:\n  relay:\n    ports: 60000-50000\n", "config: turn.relay.ports: 60000-50000 is empty: the first port must not be above the last (FILE line 3)"},
		"low ports":        {"turn: {relay: {ports: 1000-2000}}\n", "config: turn.relay.ports: 1000-2000 has well-known ports: begin at 1024 or above (draft-ietf-behave-turn-08 §6.2) (FILE line 1)"},
		"no ports":         {"turn: {relay: {ports: all}}\n", `config: turn.relay.ports: "all" is not a range of ports: write ports from 1 to 65535, as in 49152-65535 (FILE line 1)`},
		"port 65536":       {"turn: {relay: {ports: 50000-65536}}\n", `config: turn.relay.ports: "50000-65536" is not a range of ports: write ports from 1 to 65535, as in 49152-65535 (FILE line 1)`},
		"peer ports":       {"turn: {peers: {ports: [\"!1900\"]}}\n", `config: turn.peers.ports: the list has exclusions only: write ports and ranges, and exclusions in quotes: [1024-65535, "!1900"] (FILE line 1)`},
		"no peer ports":    {"turn: {peers: {ports: []}}\n", `config: turn.peers.ports: the list is empty, so no peer could be reached: write ports and ranges, and exclusions in quotes: [1024-65535, "!1900"] (FILE line 1)`},
		"all excluded":     {"turn: {peers: {ports: [5000, \"!1-65535\"]}}\n", `config: turn.peers.ports: the exclusions leave no port: write ports and ranges, and exclusions in quotes: [1024-65535, "!1900"] (FILE line 1)`},
		"peer port item":   {"turn:\n  peers:\n    ports:\n      - 1024-65535\n      - \"!http\"\n", `config: turn.peers.ports: "http" is not a range of ports: write ports from 1 to 65535, as in 49152-65535 (FILE line 5)`},
		"prefix length":    {"turn: {clients: [10.0.0.0/33]}\n", `config: turn.clients: "10.0.0.0/33" is not a prefix` + prefix},
		"prefix of a name": {"turn: {clients: [office]}\n", `config: turn.clients: "office" is not an IP address` + prefix},
		"host bits":        {"turn:\n  clients:\n    - 10.0.0.0/8\n    - 192.0.2.5/24\n", "config: turn.clients: 192.0.2.5/24 has bits behind its length: write 192.0.2.0/24 for the network, or 192.0.2.5 for the address (FILE line 4)"},
		"mapped prefix":    {"turn: {peers: {deny: [\"::ffff:10.0.0.0/104\"]}}\n", `config: turn.peers.deny: "::ffff:10.0.0.0/104" is an IPv4 prefix in IPv6 form: write it as an IPv4 prefix (FILE line 1)`},
		"mapped address":   {"turn: {peers: {deny: [\"::ffff:10.0.0.1\"]}}\n", `config: turn.peers.deny: "::ffff:10.0.0.1" is an IPv4 address in IPv6 form: write 10.0.0.1 (FILE line 1)`},
		"no listeners":     {"turn: {listen: []}\n", "config: turn.listen: the list is empty, so nobody could reach the proxy: write at least udp://:3478 (FILE line 1)"},
		"listener":         {"turn: {listen: [\"3478\"]}\n", `config: turn.listen: "3478" is not a listener` + listenForm + " (FILE line 1)"},
		"listener scheme":  {"turn: {listen: [\"tls://:5349\"]}\n", `config: turn.listen: "tls://:5349" has the scheme tls: write udp:// or tcp:// (FILE line 1)`},
		"listener name":    {"turn: {listen: [\"udp://localhost:3478\"]}\n", `config: turn.listen: "udp://localhost:3478" does not name an address` + listenForm + "; a name is not resolved here (FILE line 1)"},
		"listener port":    {"turn: {listen: [\"udp://:70000\"]}\n", `config: turn.listen: "udp://:70000" has the port 70000: write a port from 0 to 65535 (FILE line 1)`},
		"listener colon":   {"turn: {listen: [\"udp://192.0.2.1:\"]}\n", `config: turn.listen: "udp://192.0.2.1:" has no port behind the colon` + listenForm + " (FILE line 1)"},
		"listener path":    {"turn: {listen: [\"udp://:3478/x\"]}\n", `config: turn.listen: "udp://:3478/x" has more than an address, a port and options` + listenForm + " (FILE line 1)"},
		"listener option":  {"turn: {listen: [\"udp://:3478?tls=1\"]}\n", `config: turn.listen: "udp://:3478?tls=1" has the unknown option tls: the only option is auth (FILE line 1)`},
		"listener auth":    {"turn: {listen: [\"udp://:3478?auth=maybe\"]}\n", `config: turn.listen: "udp://:3478?auth=maybe" has the option auth=maybe: write auth=none or auth=required once (FILE line 1)`},
		"listener twice":   {"turn:\n  listen:\n    - udp://:3478\n    - udp://:3478?auth=none\n", "config: turn.listen: udp://:3478 is there twice: remove one of them (FILE line 4)"},
		"auth required":    {"turn:\n  listen:\n    - udp://:3478?auth=required\n", "config: turn.listen: udp://:3478?auth=required requires credentials, and there are none: set turn.auth.users or turn.auth.secret (FILE line 3)"},
		"auto and address": {"turn: {relay: {addresses: [192.0.2.1, auto]}}\n", "config: turn.relay.addresses: auto stands beside addresses: write auto alone, or addresses (FILE line 1)"},
		"no address":       {"turn: {relay: {addresses: []}}\n", "config: turn.relay.addresses: the list is empty, so nothing could be relayed: write auto (FILE line 1)"},
		"bad pair":         {"turn: {relay: {addresses: [192.0.2.1=eth0]}}\n", `config: turn.relay.addresses: "eth0" is not an IP address: write auto, an address, or public=local (FILE line 1)`},
		"mixed pair":       {"turn: {relay: {addresses: [\"192.0.2.1=2001:db8::1\"]}}\n", `config: turn.relay.addresses: "192.0.2.1=2001:db8::1" pairs two families: write two IPv4 or two IPv6 addresses (FILE line 1)`},
		"unspecified":      {"turn: {relay: {addresses: [0.0.0.0]}}\n", "config: turn.relay.addresses: 0.0.0.0 is not an address of this machine: write the address of one interface, or auto (FILE line 1)"},
		"same address":     {"turn: {relay: {addresses: [192.0.2.1, 192.0.2.1=10.0.0.1]}}\n", "config: turn.relay.addresses: 192.0.2.1=10.0.0.1 has an address that 192.0.2.1 has: remove one of them (FILE line 1)"},
		"public":           {"turn: {peers: {profile: public}}\n", "config: turn.peers.profile: public without credentials is a relay that anybody may use: " + openRelay + " (FILE line 1)"},
		"public, one open": {"turn:\n  listen: [\"udp://:3478?auth=none\"]\n  auth: {secret: 0123456789abcdef}\n  peers: {profile: public}\n",
			"config: turn.peers.profile: public without credentials is a relay that anybody may use: " + openRelay + " (FILE line 4)"},
		"everybody":         {"turn: {clients: [0.0.0.0/0]}\n", "config: turn.clients: 0.0.0.0/0 without credentials is a relay that anybody may use: list the prefixes of your clients; else " + openRelay + " (FILE line 1)"},
		"half of everybody": {"turn: {clients: [\"8000::/1\"]}\n", "config: turn.clients: 8000::/1 without credentials is a relay that anybody may use: list the prefixes of your clients; else " + openRelay + " (FILE line 1)"},
		"allowed, denied":   {"turn: {peers: {allow: [10.0.0.1], deny: [10.0.0.1/32]}}\n", "config: turn.peers.deny: 10.0.0.1 is in turn.peers.allow as well: remove one of the two (FILE line 1)"},
		"allow all":         {"turn: {peers: {allow: [\"::/0\"]}}\n", "config: turn.peers.allow: ::/0 is too wide to open anything that the profile refuses: list the networks that your players need (FILE line 1)"},
		"long realm":        {"turn: {auth: {realm: turn.example.com!}}\n", `config: turn.auth.realm: "turn.example.com!" cannot be a realm: write at most 16 bytes without quotes, backslashes and control characters (FILE line 1)`},
		"limits":            {"turn: {limits: {per_client: 9000}}\n", "config: turn.limits.per_client: 9000 exceeds turn.limits.per_client_prefix, 4096: raise turn.limits.per_client_prefix, or lower this (FILE line 1)"},
		"realm":             {"turn: {auth: {realm: \"\"}}\n", "config: turn.auth.realm: the realm is empty: write a name such as your domain (FILE line 1)"},
		"user without key":  {"turn: {auth: {users: [{name: a}]}}\n", `config: turn.auth.users: user "a" has no key: write {name: NAME, key: KEY} (FILE line 1)`},
		"user field":        {"turn: {auth: {users: [{name: a, password: hunter2}]}}\n", `config: turn.auth.users: a user has the unknown field "password": write {name: NAME, key: KEY} (FILE line 1)`},
		"user as text":      {"turn: {auth: {users: [\"a:hunter2\"]}}\n", "config: turn.auth.users: a user is not a name and a key: write {name: NAME, key: KEY} (FILE line 1)"},
		"users as text":     {"turn: {auth: {users: \"a:hunter2\"}}\n", "config: turn.auth.users: it is not a list: write a list, one item on a line after a hyphen (FILE line 1)"},
		"user twice":        {"turn:\n  auth:\n    users:\n      - {name: a, key: hunter2}\n      - {name: a, key: hunter3}\n", `config: turn.auth.users: user "a" is there twice: give each user one key (FILE line 5)`},
		"user with colon":   {"turn: {auth: {users: [{name: \"a:b\", key: hunter2}]}}\n", `config: turn.auth.users: user "a:b" has a colon in the name: write a name without it; time-limited credentials use it (FILE line 1)`},
		"secret":            {"turn: {auth: {secret: \"hunter2\\x01\"}}\n", "config: turn.auth.secret: the secret has a control character: write printable characters (FILE line 1)"},
		"secret, tag":       {"turn: {auth: {users: [{name: a, key: !x hunter2}]}}\n", `config: turn.auth.users: the key of a user is not text: write {name: NAME, key: KEY}, in "quotes" if it has special characters (FILE line 1)`},
		"secret twice":      {"turn: {auth: {secret: hunter2hunter2hunter2, secret_file: /x}}\n", "config: turn.auth.secret_file: turn.auth.secret is set as well: set one of the two (FILE line 1)"},
		"secret absent":     {"turn: {auth: {secret_file: /nonexistent}}\n", "config: turn.auth.secret_file: cannot read /nonexistent: no such file or directory: name a file that the server can read (FILE line 1)"},
		"admin port only":   {"admin: {listen: \":9478\"}\n", `config: admin.listen: ":9478" has no address: write 127.0.0.1:9478 or [::1]:9478, or 0.0.0.0 with a port and admin.tls for every address (FILE line 1)`},
		"admin name":        {"admin: {listen: \"localhost:9478\"}\n", `config: admin.listen: "localhost:9478" does not name an address: write 127.0.0.1:9478 or [::1]:9478; a name is not resolved here (FILE line 1)`},
		"admin no port":     {"admin: {listen: 127.0.0.1}\n", `config: admin.listen: "127.0.0.1" is not an address with a port: write 127.0.0.1:9478 or [::1]:9478 (FILE line 1)`},
		"admin open":        {"admin: {listen: \"0.0.0.0:9478\"}\n", "config: admin.listen: 0.0.0.0:9478 is not loopback, and the token would cross the network in the clear: set admin.tls.cert and admin.tls.key, or listen on 127.0.0.1 (FILE line 1)"},
		"admin half TLS":    {"admin: {tls: {cert: a.pem}}\n", "config: admin.tls.cert: a certificate without its key: set admin.tls.key as well (FILE line 1)"},
		"admin other half":  {"admin: {tls: {key: a.pem}}\n", "config: admin.tls.key: a key without its certificate: set admin.tls.cert as well (FILE line 1)"},
		"alternate auto":    {"stun: {alternate: {address: auto}}\n", "config: stun.alternate.address: auto cannot choose a second address" + alternate},
		"alternate name":    {"stun: {alternate: {address: eth1}}\n", `config: stun.alternate.address: "eth1" is not an IP address` + alternate},
		"alternate first": {"turn: {listen: [\"udp://192.0.2.1:3478\"]}\nstun: {alternate: {address: 192.0.2.1}}\n",
			"config: stun.alternate.address: 192.0.2.1 is the address of udp://192.0.2.1:3478: write another address of this machine (FILE line 2)"},
		"alternate family": {"turn: {listen: [\"udp://192.0.2.1:3478\"]}\nstun: {alternate: {address: \"2001:db8::1\"}}\n",
			"config: stun.alternate.address: 2001:db8::1 and udp://192.0.2.1:3478 are of two families: write two IPv4 or two IPv6 addresses (FILE line 2)"},
		"alternate, no UDP": {"turn: {listen: [\"tcp://:3478\"]}\nstun: {alternate: {address: 192.0.2.1}}\n",
			"config: stun.alternate.address: discovery needs a UDP listener with a port, and turn.listen has none: add udp://:3478 to turn.listen, or remove the address (FILE line 2)"},
		"alternate, no port": {"stun: {alternate: {address: 192.0.2.1, port: 0}}\n",
			"config: stun.alternate.address: a second address is of no use without a second port: set stun.alternate.port, or remove the address (FILE line 1)"},
		"alternate port": {"stun: {alternate: {port: 3478}}\n", "config: stun.alternate.port: 3478 is the port of udp://:3478: write another port, or 0 for none (FILE line 1)"},
		"secret, alias":  {"turn: {auth: {secret: *hunter2}}\n", `config: the file is not YAML: an alias has no anchor: check the indentation, and put values with special characters in "quotes" (FILE)`},
		"all of them": {"log: {level: loud}\nturn:\n  shard: 1\n  clients: [a, 10.0.0.0/8]\n", strings.Join([]string{
			"config: turn.shard: there is no key turn.shard: did you mean turn.shards? (FILE line 3)",
			`config: turn.clients: "a" is not an IP address: write a prefix such as 192.0.2.0/24 or 2001:db8::/32 (FILE line 4)`,
			`config: log.level: "loud" is not one of trace, debug, info, warn, error: write one of them (FILE line 1)`}, "\n")},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, "stile.yaml", tt.yaml)
			c, err := Load(Source{File: path, Environ: []string{home}})
			if err == nil {
				t.Fatalf("loaded: %+v", values(c))
			}
			if got := strings.ReplaceAll(err.Error(), path, "FILE"); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if strings.Contains(err.Error(), "hunter") {
				t.Error("the message shows a secret")
			}
			var one *Error
			if !errors.As(err, &one) {
				t.Errorf("%T is no Error", err)
			}
		})
	}
}

func TestBadFlagsAndVariablesNameThemselves(t *testing.T) {
	for name, tt := range map[string]struct {
		environ []string
		args    []string
		want    string
	}{
		"variable value": {[]string{"STILE_TURN_SHARDS=x"}, nil, `config: turn.shards: "x" is not a whole number: write a number from 0 to 256, digits only (environment STILE_TURN_SHARDS)`},
		"variable name":  {[]string{"STILE_TURN_SHARD=1"}, nil, "config: no key has the variable STILE_TURN_SHARD: did you mean STILE_TURN_SHARDS? (environment STILE_TURN_SHARD)"},
		"variable, no idea": {[]string{"STILE_FOO=1"}, nil, "config: no key has the variable STILE_FOO: remove it; `stile config print` shows the keys, and a variable is STILE_ and the key in capitals with _ for . " +
			"(environment STILE_FOO)"},
		"variable list": {[]string{`STILE_TURN_CLIENTS=10.0.0.0/8,"`}, nil, `config: turn.clients: the list cannot be read: separate the items by commas, and put an item that holds a comma in "quotes" (environment STILE_TURN_CLIENTS)`},
		"flag value":    {nil, []string{"--turn.relay.ports=9"}, "config: turn.relay.ports: 9 has well-known ports: begin at 1024 or above (draft-ietf-behave-turn-08 §6.2) (flag --turn.relay.ports)"},
		"flag bool":     {nil, []string{"--log.permissions=maybe"}, `config: log.permissions: "maybe" is neither true nor false: write true or false (flag --log.permissions)`},
		"flag user":     {nil, []string{"--turn.auth.users=hunter2"}, "config: turn.auth.users: a user has no key: give each user a name and a key (flag --turn.auth.users)"},
		"covered":       {[]string{"STILE_TURN_SHARDS=x"}, []string{"--turn.shards=1"}, `config: turn.shards: "x" is not a whole number: write a number from 0 to 256, digits only (environment STILE_TURN_SHARDS)`},
		"rule":          {nil, []string{"--turn.peers.profile=lab", "--admin.listen=0.0.0.0:1"}, "config: admin.listen: 0.0.0.0:1 is not loopback, and the token would cross the network in the clear: set admin.tls.cert and admin.tls.key, or listen on 127.0.0.1 (flag --admin.listen)"},
		"no file":       {nil, []string{"--config=/nonexistent"}, "config: cannot read /nonexistent: no such file or directory: name a readable file with --config or STILE_CONFIG"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Load(Source{Environ: append([]string{home}, tt.environ...), Flags: flags(t, tt.args...)})
			if err == nil || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestFileAboveTheLimitIsRefused(t *testing.T) {
	path := write(t, "big.yaml", "#"+strings.Repeat("x", maxFile))
	if _, err := Load(Source{File: path}); err == nil || err.Error() != "config: "+path+" has more than 1048576 bytes: name a readable file with --config or STILE_CONFIG" {
		t.Error(err)
	}
}

func TestSecretsComeFromTheirFilesAndAreNeverShown(t *testing.T) {
	secretFile, usersFile := write(t, "secret", "hunter2hunter2hunter2\r\n"), write(t, "users", "# names\nalice:hunter3:x\n\n bob:hunter4 \n")
	fromFiles := load(t, Source{File: write(t, "a.yaml", "turn:\n  peers: {profile: public}\n  auth: {secret_file: "+secretFile+", users_file: "+usersFile+"}\n")})
	auth := fromFiles.Turn.Auth
	if auth.Secret != "hunter2hunter2hunter2" || !slices.Equal(auth.Users, []User{{"alice", "hunter3:x"}, {"bob", "hunter4"}}) || !fromFiles.Asks(fromFiles.Turn.Listen[0]) {
		t.Errorf("credentials %q %q", string(auth.Secret), auth.Users)
	}
	inline := load(t, Source{File: write(t, "b.yaml", "turn: {auth: {secret: hunter5hunter5hunter5, users: [{name: carol, key: hunter6}]}}\n")})
	for name, c := range map[string]*Config{"files": fromFiles, "inline": inline} {
		var b strings.Builder
		if err := Print(&b, c, true); err != nil {
			t.Fatal(err)
		}
		b.WriteString(fmt.Sprintf("%v %+v %#v %s %q %x", c.Turn, c.Turn, c.Turn.Auth, c.Turn.Auth.Users, c.Turn.Auth.Secret, c.Turn.Auth.Secret))
		for _, change := range append(Diff(c, Defaults()), Diff(fromFiles, inline)...) {
			b.WriteString(change.String())
		}
		if strings.Contains(b.String(), "hunter") || strings.Contains(b.String(), fmt.Sprintf("%x", "hunter")) {
			t.Errorf("%s: a secret is shown in\n%s", name, b.String())
		}
		if w := c.Warnings(); w != nil {
			t.Errorf("%s: warnings %q", name, w)
		}
	}
	if err := os.WriteFile(usersFile, []byte("alice:hunter3\nalice:hunter4\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Load(Source{Environ: []string{home}, Flags: flags(t, "--turn.auth.users_file="+usersFile)})
	if want := "config: turn.auth.users_file: " + usersFile + ` line 2: user "alice" is there twice: give each user one key (flag --turn.auth.users_file)`; err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestListenersAskForCredentialsAsConfigured(t *testing.T) {
	c := load(t, Source{File: write(t, "a.yaml", "turn:\n  listen: ['udp://:3478?auth=none', 'udp://:3479', 'tcp://[::1]?auth=required']\n  auth: {secret: 0123456789abcdef}\n")})
	for i, want := range []bool{false, true, true} {
		if got := c.Asks(c.Turn.Listen[i]); got != want {
			t.Errorf("%s asks: %v", c.Turn.Listen[i], got)
		}
	}
	if got := c.Turn.Listen[2].HostPort(); got != "[::1]:3478" {
		t.Errorf("third listener on %s", got)
	}
}

func TestWarningsNameWhatIsAllowedButDangerous(t *testing.T) {
	path := write(t, "a.yaml", "turn: {allow_open_relay: true, listen: ['udp://127.0.0.1', 'udp://:3479?auth=none'], peers: {profile: lab}, auth: {secret: short}}\n")
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"turn.allow_open_relay is true: whoever reaches this server may use its address",
		"turn.peers.profile is lab and udp://:3479?auth=none is not loopback: whoever reaches it may use this server, and reaches this host and its networks",
		"turn.auth.secret has 5 bytes: one recorded request is enough to guess a secret below 16",
		path + " holds secrets and others may read it: chmod 600 " + path,
	}
	if got := load(t, Source{File: path}).Warnings(); !slices.Equal(got, want) {
		t.Errorf("warnings\n%s", strings.Join(got, "\n"))
	}
}

func TestPrintedConfigurationLoadsAsItself(t *testing.T) {
	for name, text := range map[string]string{
		"defaults": "",
		"changed": "turn:\n  listen: ['udp://[2001:db8::1]:3478?auth=none', 'tcp://:0']\n  relay: {addresses: ['203.0.113.5=10.0.0.5', '2001:db8::5'], ports: 5000}\n" +
			"  clients: [10.0.0.0/8, 192.0.2.1]\n  peers: {ports: [\"!5000-6000\", 1-65535]}\n  hairpin: \"off\"\nserver: {drain_timeout: 1h30m}\nadmin: {token_file: /x}\nstate: {dir: /y}\n",
	} {
		t.Run(name, func(t *testing.T) {
			c := load(t, Source{File: write(t, "a.yaml", text)})
			for _, origins := range []bool{false, true} {
				var b strings.Builder
				if err := Print(&b, c, origins); err != nil {
					t.Fatal(err)
				}
				if got := values(load(t, Source{File: write(t, "b.yaml", b.String())})); !reflect.DeepEqual(got, values(c)) {
					t.Errorf("printed\n%s\nloads as %v", b.String(), got)
				}
			}
		})
	}
}

func TestPrintSaysWhereAValueComesFrom(t *testing.T) {
	path := write(t, "a.yaml", "turn:\n  clients: [10.0.0.0/8]\n")
	c := load(t, Source{File: path, Environ: []string{"STILE_LOG_LEVEL=warn"}, Flags: flags(t, "--turn.auth.users=a:b")})
	var b strings.Builder
	if err := Print(&b, c, true); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"  clients: # " + path + " line 2\n    - 10.0.0.0/8\n",
		"    users: # flag --turn.auth.users\n      - {name: a, key: (hidden)}\n",
		"  level: warn # environment STILE_LOG_LEVEL\n",
		"  shards: 0 # default\n",
		"    - '!reflectors'\n",
		"    allow: [] # default\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("lacks %q:\n%s", want, b.String())
		}
	}
	if err := Print(brokenWriter{}, c, false); err == nil {
		t.Error("an error of the writer is lost")
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestDiffTellsWhatWaitsForARestart(t *testing.T) {
	before := load(t, Source{})
	after := load(t, Source{File: write(t, "a.yaml", "turn:\n  listen: [udp://:3478]\n  relay: {ports: 1024-65535}\n  auth: {secret: hunter2hunter2hunter2}\nlog: {level: debug}\n")})
	changes := Diff(before, after)
	var got []string
	for _, c := range changes {
		got = append(got, c.String())
	}
	want := []string{
		"turn.listen: udp://:3478,tcp://:3478 -> udp://:3478, needs a restart",
		"turn.relay.ports: 49152-65535 -> 1024-65535, needs a restart",
		"turn.auth.secret: nothing -> (hidden)",
		"log.level: info -> debug",
	}
	if !slices.Equal(got, want) {
		t.Errorf("changes\n%s", strings.Join(got, "\n"))
	}
	if got := NeedsRestart(changes); got != "config: turn.listen, turn.relay.ports changed, which needs a restart: the old values stay in force until then" {
		t.Error(got)
	}
	if got := NeedsRestart(changes[1:3]); got != "config: turn.relay.ports changed, which needs a restart: the old value stays in force until then" {
		t.Error(got)
	}
	if got := NeedsRestart(Diff(before, before)) + NeedsRestart(changes[3:]); got != "" {
		t.Error(got)
	}
}

func TestStateLivesWhereTheSystemKeepsIt(t *testing.T) {
	for _, tt := range []struct {
		goos string
		root bool
		env  map[string]string
		want string
	}{
		{"linux", true, nil, "/var/lib/stile"},
		{"linux", true, map[string]string{"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"}, "/var/lib/a"},
		{"linux", false, map[string]string{"HOME": "/home/x"}, "/home/x/.local/state/stile"},
		{"linux", false, map[string]string{"HOME": "/home/x", "XDG_STATE_HOME": "/s/"}, "/s/stile"},
		{"linux", false, nil, ""},
		{"darwin", true, nil, "/Library/Application Support/stile"},
		{"darwin", false, map[string]string{"HOME": "/Users/x"}, "/Users/x/Library/Application Support/stile"},
		{"windows", false, map[string]string{"LOCALAPPDATA": `C:\Users\x\AppData\Local`}, `C:\Users\x\AppData\Local\stile`},
	} {
		if got := stateDir(tt.goos, tt.root, tt.env); got != tt.want {
			t.Errorf("%s root=%v %v: %q, want %q", tt.goos, tt.root, tt.env, got, tt.want)
		}
	}
	c := load(t, Source{Flags: flags(t, "--state.dir=/s/")})
	if c.Admin.TokenFile != filepath.FromSlash("/s/admin.token") {
		t.Errorf("token in %s", c.Admin.TokenFile)
	}
}

func TestValidateJudgesAConfigurationMadeInCode(t *testing.T) {
	c := Defaults()
	c.Turn.Shards = 1000
	c.Turn.Peers.Profile = "home"
	want := "config: turn.peers.profile: \"home\" is not one of corporate, public, lab: write one of them\nconfig: turn.shards: 1000 is out of range: write a number from 0 to 256"
	if err := c.Validate(); err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if err := new(Config).Validate(); err == nil {
		t.Error("the zero value is valid")
	}
}

func TestPortSetIsTheSetOfItsItems(t *testing.T) {
	for spec, want := range map[string]string{
		"1024-65535,!1900":        "1024-1899,1901-65535",
		"!10-20,5-30,25-40":       "5-9,21-40",
		"5,6,7,9":                 "5-7,9",
		"1-65535,!1,!65535":       "2-65534",
		"1900-1901,!reflectors,7": "7,1901",
	} {
		s, pr := parsePortSet(strings.Split(spec, ","))
		if pr != nil || s.String() != want {
			t.Errorf("%s is %s, want %s (%v)", spec, s, want, pr)
		}
		for p := range 1 << 16 {
			in := slices.ContainsFunc(s.Ranges(), func(r PortRange) bool { return r.Contains(uint16(p)) })
			if s.Contains(uint16(p)) != in {
				t.Fatalf("%s: port %d", spec, p)
			}
		}
	}
	if (PortSet{}).Contains(0) {
		t.Error("the zero set has a port")
	}
}

func FuzzParseFile(f *testing.F) {
	for _, path := range []string{shipped, "../../configs/lab.yaml"} {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		// Whatever the file says: a value that its key takes or refuses with a remedy, or a mistake with a place and a remedy.
		found, errs := parseFile("f", b)
		for _, e := range errs {
			if e.Problem == "" || e.Remedy == "" || e.Origin.Kind != File {
				t.Errorf("mistake %#v", e)
			}
		}
		for name, e := range found {
			if pr := keyByName[name].set(&Config{}, e.value); pr != nil && (pr.what == "" || pr.remedy == "") {
				t.Errorf("%s: %#v", name, pr)
			}
		}
	})
}

func TestBadInputOfTheRendezvousNamesKeyAndRemedy(t *testing.T) {
	for name, tt := range map[string]struct{ yaml, want string }{
		"TCP":          {"rendezvous: {listen: [\"tcp://:1935\"]}\n", `config: rendezvous.listen: "tcp://:1935" has the scheme tcp: write udp://:1935 or udp://192.0.2.1:1935: RTMFP is UDP only`},
		"options":      {"rendezvous: {listen: [\"udp://:1935?auth=none\"]}\n", `config: rendezvous.listen: "udp://:1935?auth=none" has options, and there are none here: write udp://:1935 or udp://192.0.2.1:1935`},
		"twice":        {"rendezvous: {listen: [\"udp://:1935\", \"udp://\"]}\n", "config: rendezvous.listen: udp://:1935 is there twice: remove one"},
		"TURN's TCP":   {"rendezvous: {directory: {listen: \":3478\"}}\n", "config: rendezvous.directory.listen: tcp://:3478 is a listener of turn.listen as well: choose another port"},
		"TURN's":       {"rendezvous: {listen: [\"udp://:3478\"]}\n", "config: rendezvous.listen: udp://:3478 is a listener of turn.listen as well: choose another port"},
		"auto":         {"rendezvous: {addresses: [auto]}\n", "config: rendezvous.addresses: auto cannot choose an address of the connectivity check: write an address of this machine, or public=local"},
		"four":         {"rendezvous: {addresses: [192.0.2.1, 192.0.2.2, 192.0.2.3, 192.0.2.4]}\n", "config: rendezvous.addresses: 4 addresses: write at most three"},
		"same":         {"rendezvous: {addresses: [192.0.2.1=10.0.0.1, 192.0.2.2=10.0.0.1]}\n", "config: rendezvous.addresses: 192.0.2.1=10.0.0.1 and 192.0.2.2=10.0.0.1 are the same: write different addresses"},
		"families":     {"rendezvous: {addresses: [192.0.2.1, \"2001:db8::1\"]}\n", "config: rendezvous.addresses: 192.0.2.1 and 2001:db8::1 are of two: write addresses of one family"},
		"no listener":  {"rendezvous: {listen: [], addresses: [192.0.2.1]}\n", "config: rendezvous.addresses: there is no rendezvous to check connectivity: add udp://:1935 to rendezvous.listen, or remove the addresses"},
		"keys for who": {"rendezvous: {listen: [], keys: {required: true}}\n", "config: rendezvous.keys.required: there is no rendezvous to need keys: add udp://:1935 to rendezvous.listen, or remove this"},
		"directory":    {"rendezvous: {directory: {listen: \"8935\"}}\n", `config: rendezvous.directory.listen: "8935" is not an address with a port: write :8935 or 192.0.2.1:8935, or nothing`},
		"port 0":       {"rendezvous: {directory: {listen: \":0\"}}\n", `config: rendezvous.directory.listen: ":0" has the port "0": write :8935 or 192.0.2.1:8935, or nothing`},
		"group":        {"rendezvous: {dh_groups: [1]}\n", `config: rendezvous.dh_groups: "1" is none of the groups: write some of 2, 5, 14 and 16`},
		"no group":     {"rendezvous: {dh_groups: []}\n", "config: rendezvous.dh_groups: the list is empty, so no client could connect: write [2, 5, 14]"},
		"keepalive":    {"rendezvous: {keepalive: 4s}\n", "config: rendezvous.keepalive: 4s is out of range: write a duration from 5s to 10m"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "stile.yaml")
			if err := os.WriteFile(file, []byte(tt.yaml), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Load(Source{File: file})
			if err == nil {
				t.Fatal("no error")
			}
			if got := strings.Split(err.Error(), " ("+file)[0]; got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestDirectoryListenersRoundTrip(t *testing.T) {
	for _, s := range []string{"", ":8935", "192.0.2.1:8935", "[2001:db8::1]:80", "127.0.0.1:0", "0.0.0.0:8935"} {
		l, pr := parseHTTPListen(s)
		if pr != nil || l.String() != s || l.Off() != (s == "") {
			t.Errorf("%q: %+v %v", s, l, pr)
		}
	}
}
