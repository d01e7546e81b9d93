// Package config loads the configuration of the server: flags over STILE_… environment over file over default.
//
// It is strict, because a misspelt key that is ignored is a rule that somebody believes in: an unknown key, a wrong type or a bad value is an
// [Error] that names the key, where it was written and the remedy, and [Load] returns all of them at once ([Errors]).
// One table (keys.go) holds every key; flags, environment, file, [Print], [Diff] and the test of configs/stile.yaml come from it.
//
// Types are plain, and nothing of the house is imported: the command converts them. A *[Config] is not changed after Load, so it may be read from
// any goroutine; after a reload a new one takes its place.
//
// # Limitations
//
// YAML anchors, aliases, merge keys and several documents in one file are refused. Host names are refused where an address is listened on or judged:
// resolving them belongs to whoever can do it again when DNS changes. Files named by admin.tls are read by who serves TLS, not here.
package config

import (
	"fmt"
	"net/netip"
	"time"
)

// Config is the whole configuration. Build one with [Load] or [Defaults]; the zero value is not usable. A field's key is its path in lower case.
type Config struct {
	Turn       Turn
	STUN       STUN
	Rendezvous Rendezvous
	Admin      Admin
	Server     Server
	State      State
	Log        Log

	origins  map[string]Origin
	warnings []string
}

// Turn is the TURN proxy.
type Turn struct {
	Listen                   []ListenURL // turn.listen; at least one
	Relay                    Relay
	Clients                  []netip.Prefix // turn.clients; empty: those of the profile
	Peers                    Peers
	Engine                   Engine       // turn.engine
	Offload                  Offload      // turn.offload
	OffloadInterfaces        []string     // turn.offload_interfaces; empty: those that the routes lead by
	Shards                   int          // turn.shards, 0 to 256; 0: one for each core
	Hairpin                  Hairpin      // turn.hairpin
	AllowOpenRelay           bool         // turn.allow_open_relay
	ModernWithoutCredentials ModernPolicy // turn.modern_without_credentials
	Auth                     Auth
	Limits                   Limits
}

// Relay is where relayed addresses come from.
type Relay struct {
	Addresses []RelayAddress // turn.relay.addresses; at least one
	Ports     PortRange      // turn.relay.ports, within 1024 to 65535
}

// Peers says which peers clients reach.
type Peers struct {
	Profile Profile        // turn.peers.profile
	Allow   []netip.Prefix // turn.peers.allow: peers that the profile refuses
	Deny    []netip.Prefix // turn.peers.deny: peers that the profile reaches; of Allow and Deny the longest prefix decides
	Ports   PortSet        // turn.peers.ports
	Payload Payload        // turn.peers.payload
}

// Auth is the long-term credential mechanism. Without users and secret nobody is asked for credentials.
type Auth struct {
	Realm      string // turn.auth.realm, 1 to 16 bytes
	Users      []User // turn.auth.users, or the content of UsersFile
	UsersFile  string // turn.auth.users_file
	Secret     Secret // turn.auth.secret, or the content of SecretFile; signs time-limited REST credentials
	SecretFile string // turn.auth.secret_file
}

// User is one long-term credential.
type User struct {
	Name string // without a colon, which REST credentials use
	Key  Secret // the password
}

// Limits bound what clients may use. A client is an IP address; a prefix of clients is an IPv4 /24 or an IPv6 /56.
type Limits struct {
	Allocations          int // turn.limits.allocations in all; 0: what ports and file descriptors allow
	PerClient            int // turn.limits.per_client, allocations and quarantined ports; 0: no limit
	PerClientPrefix      int // turn.limits.per_client_prefix, likewise; 0: no limit
	Unconfirmed          int // turn.limits.unconfirmed allocations in all; the oldest is evicted
	Permissions          int // turn.limits.permissions of an allocation
	Channels             int // turn.limits.channels of an allocation
	BytesPerSecond       int // turn.limits.bytes_per_second of payload of an allocation, both directions together; 0: no limit
	PacketsPerSecond     int // turn.limits.packets_per_second of an allocation, both directions together; 0: no limit
	TCPConnections       int // turn.limits.tcp_connections of a client; 0: no limit
	ReplyBytesPerPrefix  int // turn.limits.reply_bytes_per_prefix a second to those of a prefix without a confirmed allocation, headers included; 0: no limit
	UnansweredPackets    int // turn.limits.unanswered_packets of an allocation in ten minutes to a peer that has not answered; 0: no limit
	UnansweredBytes      int // turn.limits.unanswered_bytes likewise; 0: no limit
	UnansweredAllClients int // turn.limits.unanswered_all_clients: all clients together may send a silent peer this many times the two above
}

// STUN is NAT behaviour discovery (RFC 5780) on the first UDP listener of Turn.Listen.
type STUN struct {
	Alternate Alternate
}

// Alternate is where discovery has its other sockets.
type Alternate struct {
	Address RelayAddress // stun.alternate.address; the zero value: none. Auto is never set
	Port    int          // stun.alternate.port, 0 to 65535; 0: none
}

// Admin is the administrator's HTTP listener.
type Admin struct {
	Listen    netip.AddrPort // admin.listen; port 0: the system chooses
	TokenFile string         // admin.token_file; Load resolves auto
	TLS       TLS
}

// TLS names a certificate and its key, PEM files; both or none.
type TLS struct {
	Cert string // admin.tls.cert
	Key  string // admin.tls.key
}

// Server is the life of the process.
type Server struct {
	DrainTimeout time.Duration // server.drain_timeout, 0 to 24 h; 0: end at once
}

// State is what survives the process.
type State struct {
	Dir string // state.dir; Load resolves auto
}

// Log is the event log on standard error.
type Log struct {
	Level       Level  // log.level
	Format      Format // log.format
	Permissions bool   // log.permissions: one audit line for each new peer
}

// Credentials reports whether users or a secret are configured.
func (c *Config) Credentials() bool { return len(c.Turn.Auth.Users) > 0 || c.Turn.Auth.Secret != "" }

// OnlyRTMFP reports whether clients without credentials may exchange nothing but RTMFP with peers.
func (c *Config) OnlyRTMFP() bool {
	return c.Turn.Peers.Payload == PayloadRTMFP || c.Turn.Peers.Payload == PayloadAuto && c.Turn.Peers.Profile != Lab
}

// Asks reports whether a listener asks its clients for credentials: as its auth option says, else when there are any.
func (c *Config) Asks(l ListenURL) bool {
	return l.Auth == AuthRequired || l.Auth == AuthDefault && c.Credentials()
}

// Warnings returns what is allowed but deserves a line at the start. The caller owns the slice.
func (c *Config) Warnings() []string { return append([]string(nil), c.warnings...) }

// Origin returns where the value of a key came from.
func (c *Config) Origin(key string) Origin { return c.origins[key] }

// Secret is a text that no log, error or printed configuration shows: it formats as (hidden), or as nothing when empty. string(s) is the text.
type Secret string

const hidden = "(hidden)"

// String returns "(hidden)", or "" for an empty secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return hidden
}

// Format implements fmt.Formatter, so that no verb shows the text.
func (s Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, s.String()) }

// MarshalText implements encoding.TextMarshaler, for JSON and YAML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
