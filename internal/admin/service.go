package admin

import (
	"context"
	"io"
	"net/http"
	"net/netip"
	"time"

	"github.com/stilenet/stile/turn"
	"github.com/stilenet/stile/turn/dataplane"
)

// FormatVersion is the version of the JSON that this package writes. Fields may be added under one version.
const FormatVersion = 1

// Service is what the listener offers, all of it required but Rendezvous. The functions are called by several goroutines at once and end when ctx does. An
// error that is an [*Error] decides its own status.
type Service struct {
	Status   func(ctx context.Context) (Status, error)
	Sessions func(ctx context.Context) ([]turn.Session, error)
	Kill     func(ctx context.Context, id turn.SessionID) (found bool, err error)
	// Trace writes a transcript until it is at its end, or ctx is. See Tracer.
	Trace func(ctx context.Context, r TraceRequest, w io.Writer) error
	// Drain begins to drain and returns. Again is no error.
	Drain func(ctx context.Context) error
	// Reload reads the configuration again. Its error is the operator's mistake; nothing has changed then.
	Reload func(ctx context.Context) (Reloaded, error)
	// Ready returns why the server should get no new clients: nothing when it should.
	Ready func() (reasons []string)
	// Notes returns what is not as good as it could be, and is no reason to send clients elsewhere. Nil: nothing.
	Notes   func() []string
	Metrics http.Handler
	// Rendezvous is nil if the server hosts none.
	Rendezvous *Rendezvous
}

// Status is the whole server at a glance.
type Status struct {
	Version   int            `json:"version"` // of the format; filled in
	Build     Build          `json:"build"`
	Engine    Engine         `json:"engine"`
	Started   time.Time      `json:"started"`
	Uptime    float64        `json:"uptime_seconds"` // filled in
	Listeners []Listener     `json:"listeners"`
	Relays    []RelayAddress `json:"relays"`
	Profile   string         `json:"profile"`
	Clients   string         `json:"clients"` // in words: who may use it
	Peers     string         `json:"peers"`   // in words: whom they reach
	Warnings  []string       `json:"warnings,omitempty"`

	Allocations Allocations `json:"allocations"`
	Ports       Ports       `json:"ports"`
	Traffic     Traffic     `json:"traffic"`
	Limits      Limits      `json:"limits"`
	Drain       Drain       `json:"drain"`

	Rendezvous *RendezvousStatus `json:"rendezvous,omitempty"` // absent without one
}

// Build says which program it is.
type Build struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Go       string `json:"go"`
}

// Engine says what moves the packets.
type Engine struct {
	Name    string  `json:"name"`
	Shards  int     `json:"shards"`
	Why     string  `json:"why,omitempty"` // not a better one
	Offload Offload `json:"offload"`
}

// Offload says what of the traffic is left to the kernel.
type Offload struct {
	Running  bool   `json:"running"` // on one interface at least
	Text     string `json:"text"`    // where, and where not and why
	Flows    int    `json:"flows"`   // now
	MaxFlows int    `json:"max_flows"`
}

// Listener is an address that clients send to.
type Listener struct {
	URL  string `json:"url"`  // udp://… or tcp://…
	Auth bool   `json:"auth"` // asks for credentials
}

// RelayAddress is a relayed address as peers and as the host see it.
type RelayAddress struct {
	Public netip.Addr `json:"public"`
	Local  netip.Addr `json:"local"`
}

// Allocations are counted now, but for Opened.
type Allocations struct {
	Now         int    `json:"now"`
	Unconfirmed int    `json:"unconfirmed"` // of them
	Permissions int    `json:"permissions"`
	Channels    int    `json:"channels"`
	Streams     int    `json:"streams"` // TCP connections
	Most        int    `json:"most"`    // what configuration and system allow; 0: unknown
	Opened      uint64 `json:"opened"`  // ever
}

// Ports are the states of the relayed ports; they sum to Total.
type Ports struct {
	Total       int    `json:"total"`
	Free        int    `json:"free"`
	InUse       int    `json:"in_use"`
	Quarantined int    `json:"quarantined"`
	Reserved    int    `json:"reserved"`
	Reused      uint64 `json:"reused"` // ever taken out of quarantine early
}

// Traffic counts since the start.
type Traffic struct {
	PacketsRead uint64            `json:"packets_read"`
	BytesUp     uint64            `json:"bytes_up"`
	BytesDown   uint64            `json:"bytes_down"`
	Offloaded   uint64            `json:"offloaded"` // packets, of those read: by the kernel
	Packets     map[string]uint64 `json:"packets"`   // by disposition; only those above 0
	Refusals    map[string]uint64 `json:"refusals"`  // by rule; only those above 0
}

// Limits are turn.limits, by the same names; 0 is no limit.
type Limits struct {
	Allocations          int `json:"allocations"`
	PerClient            int `json:"per_client"`
	PerClientPrefix      int `json:"per_client_prefix"`
	Unconfirmed          int `json:"unconfirmed"`
	Permissions          int `json:"permissions"`
	Channels             int `json:"channels"`
	BytesPerSecond       int `json:"bytes_per_second"`
	PacketsPerSecond     int `json:"packets_per_second"`
	TCPConnections       int `json:"tcp_connections"`
	ReplyBytesPerPrefix  int `json:"reply_bytes_per_prefix"`
	UnansweredPackets    int `json:"unanswered_packets"`
	UnansweredBytes      int `json:"unanswered_bytes"`
	UnansweredAllClients int `json:"unanswered_all_clients"`
}

// Drain says whether the server is about to end.
type Drain struct {
	Draining bool       `json:"draining"`
	Since    *time.Time `json:"since,omitempty"`
	Deadline *time.Time `json:"deadline,omitempty"` // when it ends, sessions or not
}

// Fill takes the counters over.
func (s *Status) Fill(stats *dataplane.Stats, ports turn.PortStats) {
	a := &s.Allocations
	a.Now, a.Unconfirmed, a.Opened = stats.Allocations, stats.Unconfirmed, stats.Allocated
	a.Permissions, a.Channels, a.Streams = stats.Permissions, stats.Channels, stats.Streams
	s.Ports = Ports{
		Total: ports.Total, Free: ports.Free, Quarantined: ports.Quarantined, Reserved: ports.Reserved, Reused: ports.Reused,
		InUse: ports.Total - ports.Free - ports.Quarantined - ports.Reserved,
	}
	s.Traffic = Traffic{
		PacketsRead: stats.Read, BytesUp: stats.BytesToPeers, BytesDown: stats.BytesToClients, Offloaded: stats.Offloaded,
		Packets: map[string]uint64{}, Refusals: map[string]uint64{},
	}
	for d, n := range stats.Packets {
		if n > 0 {
			s.Traffic.Packets[turn.Disposition(d).String()] = n
		}
	}
	for r, n := range stats.Refused {
		if n > 0 {
			s.Traffic.Refusals[turn.Rule(r).String()] = n
		}
	}
}

// LimitsOf writes limits as the API does. TCP connections are the data plane's, not the core's.
func LimitsOf(l turn.Limits, tcpConnections int) Limits {
	return Limits{
		Allocations: l.Allocations, PerClient: l.PerClient, PerClientPrefix: l.PerClientPrefix, Unconfirmed: l.Unconfirmed,
		Permissions: l.Permissions, Channels: l.Channels, BytesPerSecond: l.BytesPerSecond, PacketsPerSecond: l.PacketsPerSecond,
		TCPConnections: tcpConnections, ReplyBytesPerPrefix: l.ReplyBytesPerPrefix,
		UnansweredPackets: l.UnansweredPackets, UnansweredBytes: l.UnansweredBytes, UnansweredAllClients: l.UnansweredAllClients,
	}
}

// Session is one allocation.
type Session struct {
	Session     string    `json:"session"` // the ID
	Client      string    `json:"client"`
	User        string    `json:"user,omitempty"`
	Server      string    `json:"server"`
	Transport   string    `json:"transport"` // udp or tcp
	Relay       string    `json:"relay"`
	Dialect     string    `json:"dialect"`
	Confirmed   bool      `json:"confirmed"`
	Started     time.Time `json:"started"`
	Expires     time.Time `json:"expires"` // unless refreshed
	Permissions int       `json:"permissions"`
	Channels    int       `json:"channels"`
	Peers       int       `json:"peers"` // ever
	LastPeer    string    `json:"last_peer,omitempty"`
	BytesUp     uint64    `json:"bytes_up"`
	PacketsUp   uint64    `json:"packets_up"`
	BytesDown   uint64    `json:"bytes_down"`
	PacketsDown uint64    `json:"packets_down"`
}

// SessionOf writes a session as the API does.
func SessionOf(s *turn.Session) Session {
	v := Session{
		Session: s.ID.String(), Client: s.Client.String(), User: s.User, Server: s.Server.String(), Transport: "udp",
		Relay: s.Relayed.String(), Dialect: s.Dialect.String(), Confirmed: s.Confirmed, Started: s.Started.UTC(), Expires: s.Expires.UTC(),
		Permissions: s.Permissions, Channels: s.Channels, Peers: s.Peers,
		BytesUp: s.BytesUp, PacketsUp: s.PacketsUp, BytesDown: s.BytesDown, PacketsDown: s.PacketsDown,
	}
	if s.Stream {
		v.Transport = "tcp"
	}
	if s.LastPeer.IsValid() {
		v.LastPeer = s.LastPeer.String()
	}
	return v
}

// SessionList is one page of sessions, in the order of their IDs.
type SessionList struct {
	Version  int       `json:"version"`
	Total    int       `json:"total"` // that the filter passes, on all pages
	Sessions []Session `json:"sessions"`
	Next     string    `json:"next,omitempty"` // give it as after for the next page
}

// SessionQuery says which sessions. The zero value is the first page of all.
type SessionQuery struct {
	Client netip.Prefix // only those of clients in it; invalid: all
	Limit  int          // on a page, up to 10,000; 0: 1,000
	After  string       // Next of the page before
}

// Reloaded says what a reload did.
type Reloaded struct {
	Version int      `json:"version"` // filled in
	Changed []string `json:"changed"` // in words, one for each key
}

// Readiness is the body of /readyz.
type Readiness struct {
	Version int      `json:"version"`
	Ready   bool     `json:"ready"`
	Reasons []string `json:"reasons,omitempty"`
	Notes   []string `json:"notes,omitempty"` // not as good as it could be: a slower engine than the machine could have
}

// Done answers what was done.
type Done struct {
	Version  int    `json:"version"`
	Session  string `json:"session,omitempty"`
	Killed   bool   `json:"killed,omitempty"`
	Revoked  string `json:"revoked,omitempty"` // name of a developer key
	Draining bool   `json:"draining,omitempty"`
}

// Error is a failed request, as JSON from the server and as an error from the client.
type Error struct {
	Code    int    `json:"-"` // HTTP status; 0 when no server answered
	Message string `json:"error"`
	Remedy  string `json:"remedy,omitempty"`
}

// Error returns "message: remedy".
func (e *Error) Error() string {
	if e.Remedy == "" {
		return e.Message
	}
	return e.Message + ": " + e.Remedy
}
