// Package flash is the Flash profile of RTMFP (RFC 7425): what a Flash Player and a server such as Stratus add to RFC 7016. In
// its files § means RFC 7425 unless another document is named.
//
//	application ──▶ NetConnection, NetStream         under ActionScript's names
//	                      │ one goroutine
//	                    core ──▶ choosePath          decisions: connection, peers, streams, paths; no socket, no clock
//	                      │
//	     AMF, Command, Message, Identity, EPD        codecs and the Cryptography Profile, which the rendezvous uses too
//	                      │
//	               rtmfp, rtmfp/transport            sessions and flows; sockets
//
// A program that is to a Go program what a SWF was to a player:
//
//	mms, err := flash.ReadMMSConfig("")              // the proxy that the administrator has named
//	nc := flash.NewNetConnection(flash.Config{MMS: mms, DialRelay: dial})
//	nc.OnNetStatus = func(ev flash.NetStatusEvent) { log.Print(ev.Code) }
//	err = nc.Connect(ctx, "rtmfp://rendezvous.example.com/KEY")
//	out := flash.NewNetStream(nc, flash.DirectConnections)
//	out.OnPeerConnect = func(subscriber *flash.NetStream) bool { return friends[subscriber.FarID()] }
//	err = out.Publish("cam")
//	in := flash.NewNetStream(nc, friend)             // whose NearID came by another way
//	in.OnMessage = func(m flash.Message) { ... }
//	err = in.Play("cam")
//
// # Paths
//
// Direct UDP is always tried. A proxy is one more interface, DialRelay: its relayed address is told to the server, and after 1.4
// seconds without an answer it is tried as well. While a session uses a relay the direct paths are probed, at once and
// then at most every 15 seconds; when one answers, the session moves, and no reliable byte is lost. A path that becomes silent is
// left for one that answers, within a second or two. When nothing does, the server is asked to introduce again, because addresses
// change when a NAT forgets. A session without authentication (an old peer without HMAC and sequence numbers) stays where it opened.
//
// # Delivery
//
// Audio goes before video before data. Data, and the configuration of decoders, is reliable; audio is given up after 200
// ms, video after 2 s or when a key frame follows that cannot wait. With Config.Uplink video that does not fit is left out, and
// StreamInfo.VideoBitrate tells the encoder.
//
// # Limitations
//
//   - A NetStream is with a peer: there are none to or from a media server, no remoting, no shared objects, no NetGroup.
//   - A NetConnection connects once, because its peer ID must not be used again (§5.3).
//   - NetConnection.Call is not there, and reliability is by kind of message, not by flags of a stream.
//   - There is no playback buffer: NetStream.Buffer.* is not produced, and OnMessage has messages as they come.
//   - Streams of peers are in AMF0, whatever Config.ObjectEncoding says of the server, because librtmfp reads no other.
//   - A peer's relayed address is known as one if it is of the same machine as this end's; otherwise the path is taken for
//     direct, and left when its round trip is clearly longer than another's.
//   - The loss of a relayed address is noticed when its Conn says so; for turn/client that is when it refreshes.
//   - Ports are not predicted and packets with a low TTL not sent, where nattest says that they would help.
//   - Peers of the Flash era were not available; what they expect is in the tests by what others have written about them.
package flash
