package flash

// DirectConnections in the place of a publisher's peer ID makes a NetStream that publishes to peers who connect to it: what
// ActionScript calls NetStream.DIRECT_CONNECTIONS.
var DirectConnections PeerID

// NetStream is a stream of audio, video and data in one direction: one that publishes to peers, one that plays from a
// peer, or, on the publishing side, one subscriber of it. Set its fields before Publish, Play, or, for a subscriber's, in
// OnPeerConnect. The methods may be called from any goroutine; see NetConnection about the functions.
type NetStream struct {
	// OnNetStatus is told what happens to the stream. May be nil.
	OnNetStatus func(Status)
	// OnPeerConnect is asked on a publishing stream for each subscriber; false refuses it. nil accepts everybody. The
	// subscriber's FarID, FarNonce and Name are known; it can be sent to when OnPeerConnect has returned true.
	OnPeerConnect func(subscriber *NetStream) bool
	// OnMessage is given every audio, video and data message of a playing stream: audio and video in the order of arrival, in which
	// messages of partial reliability may be missing; data in the order of sending, without gaps. It owns the message.
	OnMessage func(Message)
	// Client has the functions that the publisher's Send calls, by name. OnMessage is given those messages too.
	Client map[string]func(arguments []any)

	s *stream
}

// NewNetStream makes a stream on a connection: to play from the peer, or with DirectConnections to publish.
func NewNetStream(nc *NetConnection, peer PeerID) *NetStream {
	ns := &NetStream{}
	ns.s = newStream(ns, nc.c, peer)
	return ns
}

// Publish begins to publish under a name that peers Play; names are of this NetConnection. Nothing is sent until somebody
// subscribes. Errors: ErrNotConnected, ErrClosed, ErrDirection, ErrDisabled; *StatusError NetStream.Publish.BadName if the name
// is being published.
func (ns *NetStream) Publish(name string) error { return ns.s.publish(name) }

// Play subscribes to what the peer publishes, or will publish, under the name. What becomes of it comes to OnNetStatus:
// NetStream.Play.Start; and to that of the NetConnection: NetStream.Connect.Success, .Failed if the peer cannot be reached
// in 95 seconds, .Rejected, .Closed. Errors: ErrNotConnected, ErrClosed, ErrDirection, ErrDisabled, those of rtmfp.Endpoint.Open.
func (ns *NetStream) Play(name string) error { return ns.s.play(name) }

// Send calls the function of the name in the Client of every subscriber, or of the one that ns is. It is reliable and in order.
// Values are those of AMF; see Object. Errors: ErrClosed, ErrDirection, ErrTooLong, ErrBacklog, an AMFError.
func (ns *NetStream) Send(handler string, arguments ...any) error {
	return ns.s.send(handler, arguments)
}

// SendMessage sends a message of the types audio, video or data to every subscriber, or to the one that ns is. Audio is given up
// when it is not delivered in Config.AudioLifetime, video in Config.VideoLifetime or when a key frame follows that cannot wait;
// data and decoders' configurations are not. The message is copied. The last configurations are kept for whoever subscribes
// later. Errors: ErrClosed, ErrDirection, ErrTooLong, ErrBacklog, ErrMessage for another type.
func (ns *NetStream) SendMessage(m Message) error { return ns.s.sendMessage(m) }

// Name is what Publish or Play was called with; for a subscriber, what it plays.
func (ns *NetStream) Name() string { return ns.s.publicName() }

// PeerStreams are the subscribers of a publishing stream.
func (ns *NetStream) PeerStreams() []*NetStream { return ns.s.peerStreams() }

// FarID is the peer ID of the far end; DirectConnections for a publishing stream.
func (ns *NetStream) FarID() PeerID { return ns.s.farID() }

// NearNonce and FarNonce are those of the session with the peer, as NetConnection's; nil if there is none.
func (ns *NetStream) NearNonce() []byte { near, _ := ns.s.nonces(); return near }

// FarNonce is the peer's NearNonce.
func (ns *NetStream) FarNonce() []byte { _, far := ns.s.nonces(); return far }

// Info returns what is known about the stream now.
func (ns *NetStream) Info() StreamInfo { return ns.s.info() }

// Close ends the stream: what is published is taken back from all subscribers, a subscription ends, a subscriber is
// dismissed. Reliable messages that were sent are still delivered. Error: ErrClosed if it was.
func (ns *NetStream) Close() error { return ns.s.closeStream() }

// StreamInfo is what is known about a stream. Counts are of bytes of payload: sent, to all subscribers together, or received.
type StreamInfo struct {
	Path                                Path // with a subscriber or publisher; the zero for a publishing stream
	AudioBytes, VideoBytes, DataBytes   uint64
	AudioDropped, VideoDropped, Invalid uint64 // messages: not sent or given up; received that did not parse
	// VideoBitrate is what the encoder should keep to, in bits per second, for all subscribers to keep up: what the uplink
	// has left, divided among them. 0 says nothing.
	VideoBitrate int
}
