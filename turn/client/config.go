package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

// Dialect is how permissions are asked for.
type Dialect uint8

// The dialects.
const (
	// DialectDefault is Legacy without credentials and Modern with them.
	DialectDefault Dialect = iota
	// Legacy is draft-ietf-behave-turn-08: a Send indication opens the permission. CreatePermission is never sent.
	Legacy
	// Modern is RFC 5766 and RFC 8656: CreatePermission comes before data. Until the server has granted it, datagrams
	// for the peer are held back, at most 16.
	Modern
	// Auto sends CreatePermission beside the first Send. An answer means Modern, 2 s of silence mean Legacy; an
	// answer that comes later still means Modern.
	Auto
)

// String is the name of the dialect.
func (d Dialect) String() string {
	switch d {
	case Legacy:
		return "legacy"
	case Modern:
		return "modern"
	case Auto:
		return "auto"
	}
	return "default"
}

// Family is an address family.
type Family uint8

// The families.
const (
	FamilyDefault Family = 0 // what the server chooses: the family of its own address
	IPv4          Family = 0x01
	IPv6          Family = 0x02
)

// Config says how to reach a server and what to ask it for. Only Server is needed.
type Config struct {
	// Server is "host", "host:port" or "turn:host:port?transport=udp"; see ParseServer.
	Server string
	// Fallbacks are further servers, each tried 2 s after the one before it, or when that one has failed.
	Fallbacks []string
	// Network is "udp" or "tcp"; a transport in a server's URI wins. Empty: UDP, and TCP beside it after a second.
	Network string

	// Username and Password are long-term credentials (RFC 8489 §9.2), sent when the server asks for them. Empty: none,
	// and a server that asks is an error.
	Username, Password string

	// Dialect: zero is Legacy without a Username and Modern with one.
	Dialect Dialect
	// Lifetime is the lifetime asked for, in whole seconds. Zero: the server's, which is 10 minutes as a rule.
	Lifetime time.Duration
	// ChannelAfter is how many datagrams are written to a peer before a channel is bound to it. Zero: 16. Negative: never.
	ChannelAfter int
	// Keepalive is the longest silence towards the server over UDP, so that a NAT on the way keeps its mapping. Zero: 25 s.
	// Negative: no keepalives.
	Keepalive time.Duration

	// EvenPort asks for an even relayed port, ReserveNext for the next one to be held as well (EvenPort is implied). A
	// server that cannot is asked again without, so look at LocalAddr and ReservationToken.
	EvenPort, ReserveNext bool
	// ReservationToken, of 8 bytes, asks for the port that an earlier allocation reserved. Not together with EvenPort.
	ReservationToken []byte
	// Family of the relayed address, if not the server's own. Modern only: draft-08 has no word for it.
	Family Family

	// ListenPacket opens a UDP socket. Nil: net.ListenConfig. network is "udp4" or "udp6", address has port 0.
	ListenPacket func(ctx context.Context, network, address string) (net.PacketConn, error)
	// DialContext opens a TCP connection. Nil: net.Dialer.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
	// Resolve looks a host up. Nil: net.DefaultResolver. network is "ip".
	Resolve func(ctx context.Context, network, host string) ([]netip.Addr, error)
	// Rand seeds the transaction identifiers of each connection with 32 bytes. Nil: crypto/rand. A simulation sets it;
	// elsewhere identifiers that can be guessed let anybody forge the server's answers.
	Rand io.Reader
}

var (
	errNetwork  = errors.New(`client: Config.Network: want "udp", "tcp" or nothing`)
	errLifetime = errors.New("client: Config.Lifetime: want 0 (the server's) or 1 s to 1 h")
	errToken    = errors.New("client: Config.ReservationToken: want 8 bytes")
	errProps    = errors.New("client: Config.ReservationToken and EvenPort exclude each other: the token names the port")
	errFamily   = errors.New("client: Config.Family: draft-08 cannot ask for a family: set Config.Dialect to Modern")
	errUser     = fmt.Errorf("client: Config.Username: longer than %d bytes", maxCredential)
)

// check finds the operator's mistakes and reads the servers.
func (c *Config) check() ([]Server, error) {
	switch {
	case c.Network != "" && c.Network != "udp" && c.Network != "tcp":
		return nil, errNetwork
	case c.Lifetime < 0, c.Lifetime > 0 && c.Lifetime < time.Second, c.Lifetime > maxLifetime:
		return nil, errLifetime
	case c.ReservationToken != nil && len(c.ReservationToken) != 8:
		return nil, errToken
	case c.ReservationToken != nil && (c.EvenPort || c.ReserveNext):
		return nil, errProps
	case len(c.Username) > maxCredential:
		return nil, errUser
	case c.Family != FamilyDefault && c.dialect() != Modern:
		return nil, errFamily
	case c.Family > IPv6:
		return nil, fmt.Errorf("client: Config.Family: %d is none", c.Family)
	case c.Dialect > Auto:
		return nil, fmt.Errorf("client: Config.Dialect: %d is none", c.Dialect)
	case len(c.Fallbacks) >= maxServers:
		return nil, fmt.Errorf("client: Config.Fallbacks: want fewer than %d", maxServers)
	}
	names := append([]string{c.Server}, c.Fallbacks...)
	servers := make([]Server, 0, len(names))
	for _, name := range names {
		s, err := ParseServer(name)
		if err != nil {
			return nil, err
		}
		if s.Network == "" {
			s.Network = c.Network
		}
		servers = append(servers, s)
	}
	return servers, nil
}

func (c *Config) dialect() Dialect {
	switch {
	case c.Dialect != DialectDefault:
		return c.Dialect
	case c.Username != "":
		return Modern
	}
	return Legacy
}
