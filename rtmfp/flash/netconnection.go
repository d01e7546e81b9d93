package flash

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// What methods of NetConnection and NetStream return, beside a *StatusError.
var (
	ErrClosed       = errors.New("flash: closed")
	ErrNotConnected = errors.New("flash: not connected: wait for NetConnection.Connect.Success")
	ErrUsed         = errors.New("flash: a NetConnection connects once, because its peer ID must not be used again: make another (RFC 7425 §5.3)")
	ErrDirection    = errors.New("flash: a NetStream either publishes or plays, once")
	ErrDisabled     = errors.New("flash: peer-to-peer is turned off by RTMFPP2PDisable in mms.cfg")
	ErrTooLong      = errors.New("flash: longer than a message can be")
	ErrBacklog      = errors.New("flash: a subscriber does not take what is sent: 16 MiB wait for it")
)

// NetStatusEvent tells a NetConnection what happened to it or to a peer's connection. Info has what else the server said,
// such as the results of a connectivity check; it is nil if it said nothing.
type NetStatusEvent struct {
	Status
	Stream *NetStream // of the codes NetStream.Connect.*: the stream that connects the peer; otherwise nil
	Info   *Object
}

// StatusError is the error for what ended with a status.
type StatusError struct{ Status }

func (e *StatusError) Error() string {
	if e.Description == "" {
		return "flash: " + e.Code
	}
	return fmt.Sprintf("flash: %s: %s", e.Code, e.Description)
}

// NetConnection is the connection to a rendezvous service, and what peers are reached through. Make one with
// NewNetConnection, set its fields, then Connect. The methods may be called from any goroutine, those of its streams too.
//
// The functions in its fields and in those of its streams are called one after another by one goroutine; they may call any
// method but Connect. While one does not return, what comes for them waits, and when a megabyte waits the senders do.
type NetConnection struct {
	// OnNetStatus is told what happens to the connection, and the codes NetStream.Connect.* of peers. May be nil.
	OnNetStatus func(NetStatusEvent)
	// Client has the functions that the server may call, by name.
	Client map[string]func(arguments []any)

	c *connection
}

// NewNetConnection returns a connection that is not connected.
func NewNetConnection(cfg Config) *NetConnection {
	nc := &NetConnection{}
	nc.c = newConnection(nc, cfg)
	return nc
}

// Connect connects to rtmfp://host[:port]/path, for Stratus rtmfp://host/KEY, with arguments for the server. It returns
// when NetConnection.Connect.Success has come, or an error: a *StatusError if the server rejects the connection or nobody
// answers for Config.ConnectTimeout; ctx's if that ends before; ErrUsed; one of opening the socket. After an error the
// NetConnection is closed. Direct UDP is tried at once, the relay beside it after two seconds.
func (nc *NetConnection) Connect(ctx context.Context, url string, arguments ...any) error {
	return nc.c.connect(ctx, url, arguments)
}

// URI is what Connect was called with.
func (nc *NetConnection) URI() string { return nc.c.uri() }

// Connected reports whether the connection is up.
func (nc *NetConnection) Connected() bool { return nc.c.connected() }

// NearID is the peer ID of this end: others Play from it. It is known when Connect has begun; before it is zero.
func (nc *NetConnection) NearID() PeerID { return nc.c.nearID() }

// FarID is the fingerprint of the server. It is known when connected, and stays.
func (nc *NetConnection) FarID() PeerID { return nc.c.farID() }

// NearNonce and FarNonce are 32 bytes that this session alone has: the server's far nonce is this end's near nonce. Both
// ends' being equal, by another channel, excludes a man in the middle. nil before the connection is up.
func (nc *NetConnection) NearNonce() []byte { near, _ := nc.c.nonces(); return near }

// FarNonce is the server's NearNonce.
func (nc *NetConnection) FarNonce() []byte { _, far := nc.c.nonces(); return far }

// MaxPeerConnections is how many peers may be connected at once, inbound and outbound. 8 at first.
func (nc *NetConnection) MaxPeerConnections() int { return nc.c.maxPeers() }

// SetMaxPeerConnections changes the limit. Peers above it stay, but no others may connect to this end.
func (nc *NetConnection) SetMaxPeerConnections(n int) { nc.c.setMaxPeers(n) }

// UnconnectedPeerStreams are streams that peers want to play and that nothing publishes yet. A Publish of the name takes
// them.
func (nc *NetConnection) UnconnectedPeerStreams() []*NetStream { return nc.c.unconnected() }

// Path says how packets reach the server.
func (nc *NetConnection) Path() Path { return nc.c.serverPath() }

// Relay is the relayed address, if there is one at the moment.
func (nc *NetConnection) Relay() (netip.AddrPort, bool) { return nc.c.relayAddr() }

// Close closes all streams and the connection in order, and returns when it is done: at once without a far end that
// answers, after two seconds at most. Nothing is delivered afterwards. Error: ErrClosed if it was.
func (nc *NetConnection) Close() error { return nc.c.close() }

// Done is closed when the connection is.
func (nc *NetConnection) Done() <-chan struct{} { return nc.c.done }

// Path says how packets to a far end go.
type Path struct {
	Relayed  bool           // this end sends by its relay, or the far end's address is one of a relay that this end knows
	Remote   netip.AddrPort // the far end's address; invalid if there is no session
	RTT      time.Duration  // smoothed; 0 before a measurement
	Loss     float64        // of what this end sent by the session in the last 5 to 10 seconds: 0 to 1
	Switched int            // how often the session changed its path
}
