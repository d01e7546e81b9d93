package flash

import (
	"context"
	"net/netip"
)

// connection is what a NetConnection does.
type connection struct {
	public *NetConnection
	cfg    Config
	done   chan struct{}
}

// stream is what a NetStream does.
type stream struct {
	public *NetStream
	c      *connection
	far    PeerID
}

func newConnection(public *NetConnection, cfg Config) *connection {
	return &connection{public: public, cfg: cfg, done: make(chan struct{})}
}

func (c *connection) connect(ctx context.Context, url string, arguments []any) error {
	return ErrNotConnected
}
func (c *connection) uri() string                       { return "" }
func (c *connection) connected() bool                   { return false }
func (c *connection) nearID() PeerID                    { return PeerID{} }
func (c *connection) farID() PeerID                     { return PeerID{} }
func (c *connection) nonces() (near, far []byte)        { return nil, nil }
func (c *connection) maxPeers() int                     { return 8 }
func (c *connection) setMaxPeers(n int)                 {}
func (c *connection) unconnected() []*NetStream         { return nil }
func (c *connection) serverPath() Path                  { return Path{} }
func (c *connection) relayAddr() (netip.AddrPort, bool) { return netip.AddrPort{}, false }
func (c *connection) close() error                      { return ErrNotConnected }

func newStream(public *NetStream, c *connection, peer PeerID) *stream {
	return &stream{public: public, c: c, far: peer}
}

func (s *stream) publish(name string) error                  { return ErrNotConnected }
func (s *stream) play(name string) error                     { return ErrNotConnected }
func (s *stream) send(handler string, arguments []any) error { return ErrNotConnected }
func (s *stream) sendMessage(m Message) error                { return ErrNotConnected }
func (s *stream) publicName() string                         { return "" }
func (s *stream) peerStreams() []*NetStream                  { return nil }
func (s *stream) farID() PeerID                              { return s.far }
func (s *stream) nonces() (near, far []byte)                 { return nil, nil }
func (s *stream) info() StreamInfo                           { return StreamInfo{} }
func (s *stream) closeStream() error                         { return ErrNotConnected }
