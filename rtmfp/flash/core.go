package flash

import (
	"net/netip"
	"slices"
	"time"

	"github.com/stilenet/stile/rtmfp"
)

// From the specification.
const (
	// minKeepalive is the shortest period that a server can set (§5.3.4).
	minKeepalive = 5 * time.Second
	// defaultMaxPeers is NetConnection.maxPeerConnections of the player.
	defaultMaxPeers = 8
	// defaultConnectTimeout is after how long the player gave a connection up.
	defaultConnectTimeout = 90 * time.Second
)

// Ours to tune.
const (
	defaultAudioLifetime = 200 * time.Millisecond
	defaultVideoLifetime = 2 * time.Second
	// maxMessage bounds the bytes of a message to send, half of what a receiver of ours buffers for one flow.
	maxMessage = 4 << 20
	// maxQueued bounds the bytes that wait for one subscriber to take its data.
	maxQueued = 16 << 20
	// maxUnconnected bounds the streams that peers want and nobody publishes, of all peers.
	maxUnconnected = 64
	// maxStreamsOfPeer bounds the streams with one peer in either direction.
	maxStreamsOfPeer = 32
	// peerLinger is how long a session without streams is kept: for the second stream of a call.
	peerLinger = 10 * time.Second
	// relayDelay is how long direct UDP has before the relay is tried: the first retransmission of a hello, after 1.5 s, goes
	// both ways.
	relayDelay = 1400 * time.Millisecond
	// defaultKeepalive holds until the server says otherwise: below the shortest UDP mapping that is common, 30 s.
	defaultKeepalive = 20 * time.Second
	// retransmitLimit is how long a far end may leave something unanswered: long enough for a change of network.
	retransmitLimit = 30 * time.Second
	// firstStreamID is where the player begins; librtmfp accepts no others than the 128 from here.
	firstStreamID = 2000000
	streamIDs     = 128
	// dismissLimit is how long what was published to a subscriber may take to be acknowledged after the end.
	dismissLimit = 10 * time.Second
)

// noticeKind says what a notice is.
type noticeKind uint8

const (
	noticeUnknown    noticeKind = iota
	noticeConnection            // status, info, stream: of the NetConnection
	noticeStream                // status: of stream
	noticeMessage               // message: of stream
	noticeCall                  // command: from the server
	noticeAsk                   // stream: OnPeerConnect of publisher decides
	noticeConnected             // Connect may return: err
	noticeClosed                // nothing comes after it
)

// notice is something to tell the application.
type notice struct {
	kind      noticeKind
	status    Status
	info      *Object
	stream    *stream
	publisher *stream
	message   Message
	flow      *rtmfp.ReceiveFlow // of the message
	command   Command
	err       error
}

// coreConfig is what a core is made of.
type coreConfig struct {
	Config
	now    time.Time
	id     *Identity
	target target
	addrs  []netip.AddrPort // of the interfaces, to be told to the server
	extra  []any            // arguments of connect
}

// core decides what a NetConnection and its streams do. It performs no I/O and reads no clock; what it wants is in its
// endpoint and in notices. It is not safe for concurrent use: the connection's loop is its only caller. Every method sets now.
type core struct {
	cfg   coreConfig
	shell *connection // only to be given to the streams of subscribers
	e     *rtmfp.Endpoint
	now   time.Time
	state connectionState

	server      *link
	opening     *rtmfp.Session // with the server
	control     *rtmfp.SendFlow
	canonical   *rtmfp.ReceiveFlow
	deadline    time.Time // of connecting, or of closing
	encoding    ObjectEncoding
	farID       PeerID
	near, far   []byte
	peerAlive   time.Duration
	told        []netip.AddrPort // by the last setPeerInfo
	closeStatus Status
	ending      map[*rtmfp.Session]bool // closing in order, once there is nothing else to wait for
	relayError  error                   // why there is no relay

	callers []caller

	relays  map[int]netip.AddrPort // the relayed addresses, by interface
	relayIP map[netip.Addr]bool    // every IP address that a relay of ours has had

	peers       map[PeerID]*peer
	publishing  map[string]*stream
	streams     []*stream // all that are not closed
	unconnected []*stream
	maxPeers    int
	nextStream  uint32

	uplink  bucket
	notices []notice
	waiting int // bytes of messages that the application has not taken
	held    []*rtmfp.ReceiveFlow
}

// connectionState is the state of the connection to the server.
//
//	connecting --session open--> requested --_result--> up --close, far close--> closing --> closed
//	     \------------ failed, rejected, timeout ---------/---------------------------------^
type connectionState uint8

const (
	stateConnecting connectionState = iota
	stateRequested
	stateUp
	stateClosing
	stateClosed
)

// newCore makes a core, and the configuration of the endpoint that its owner gives it as e.
func newCore(cfg coreConfig) (*core, rtmfp.Config) {
	if cfg.ConnectTimeout <= 0 {
		cfg.ConnectTimeout = defaultConnectTimeout
	}
	if cfg.AudioLifetime == 0 {
		cfg.AudioLifetime = defaultAudioLifetime
	}
	if cfg.VideoLifetime == 0 {
		cfg.VideoLifetime = defaultVideoLifetime
	}
	forwarded := rtmfp.ForwardedHelloRHello
	if cfg.MMS.P2PDisable {
		forwarded = rtmfp.ForwardedHelloIgnore
	}
	ec := rtmfp.Config{
		Identity: cfg.id, Random: cfg.Random, ManualPaths: true, ForwardedHello: forwarded, Keepalive: defaultKeepalive,
		RetransmitLimit: retransmitLimit, IdleLimit: -1,
		Limits: rtmfp.Limits{Sessions: 1024, Unconfirmed: 64, PendingKeying: 64, Buffer: 64 << 20},
	}
	c := &core{
		cfg: cfg, now: cfg.now, deadline: cfg.now.Add(cfg.ConnectTimeout), peerAlive: defaultKeepalive,
		relays: make(map[int]netip.AddrPort), relayIP: make(map[netip.Addr]bool),
		peers: make(map[PeerID]*peer), publishing: make(map[string]*stream), maxPeers: defaultMaxPeers,
		uplink: newBucket(cfg.now, cfg.Uplink),
	}
	return c, ec
}

func (c *core) notify(n notice) {
	if n.kind == noticeMessage {
		c.waiting += len(n.message.Payload)
	}
	c.notices = append(c.notices, n)
}

// take returns what the application is to be told.
func (c *core) take() []notice {
	n := c.notices
	c.notices = nil
	return n
}

const (
	maxWaiting    = 1 << 20 // bytes of messages for the application; then senders wait
	resumeWaiting = maxWaiting / 2
)

// taken says that the application has taken messages of so many bytes.
func (c *core) taken(now time.Time, bytes int) {
	c.now = now
	c.waiting -= bytes
	if c.waiting > resumeWaiting {
		return
	}
	held := c.held
	c.held = nil
	for _, f := range held {
		if m, ok := f.User.(*mediaFlow); ok && !m.barred {
			f.Resume(now)
		}
	}
}

func (c *core) isRelay(iface int) bool { _, ok := c.relays[iface]; return ok }

// relayed says whether a path uses a relay, as far as this end can know: its own, or an address of the same machine.
func (c *core) relayed(p rtmfp.Candidate) bool {
	return c.isRelay(p.Interface) || c.relayIP[p.Addr.Addr()]
}

// handle processes what happened at the endpoint.
func (c *core) handle(now time.Time, ev rtmfp.Event) {
	c.now = now
	switch ev.Kind {
	case rtmfp.EventSessionOpen:
		c.sessionOpen(ev.Session)
	case rtmfp.EventSessionFailed:
		c.sessionFailed(ev)
	case rtmfp.EventSessionClosing:
		c.sessionClosing(ev)
	case rtmfp.EventPath:
		if l := c.linkOf(ev.Session); l != nil {
			l.answered(ev)
		}
	case rtmfp.EventPathSeen:
		if l := c.linkOf(ev.Session); l != nil {
			l.seen(ev.Path)
		}
	case rtmfp.EventForwarded:
		c.forwarded(ev.Path.Addr)
	case rtmfp.EventFlowOpen:
		c.flowOpen(ev.Receive)
	case rtmfp.EventMessage:
		c.message(ev)
	case rtmfp.EventFlowComplete, rtmfp.EventFlowRejected:
		c.flowComplete(ev.Receive)
	case rtmfp.EventFlowException:
		c.flowException(ev.Send)
	case rtmfp.EventFlowFinished:
		if sub, ok := ev.Send.User.(*subscriber); ok {
			sub.finished()
		}
		c.shutIfDone()
	case rtmfp.EventSessionClosed:
		delete(c.ending, ev.Session)
		c.shutIfDone()
	case rtmfp.EventHello, rtmfp.EventKeying, rtmfp.EventAddressChanged, rtmfp.EventSendable:
		// A client introduces nobody; the rest has no consequence here.
	}
}

// caller is an address that the server has said wants to reach this end.
type caller struct {
	addr netip.AddrPort
	at   time.Time
}

const (
	// maxCallers bounds the callers that are remembered.
	maxCallers = 16
	// callerTime is how long after the server's word a caller's session may open by another path.
	callerTime = 10 * time.Second
)

// forwarded remembers where a caller was seen: if its session opens by a relay, this end knows no other way to it.
func (c *core) forwarded(addr netip.AddrPort) {
	c.callers = slices.DeleteFunc(c.callers, func(o caller) bool { return o.addr == addr || c.now.Sub(o.at) > callerTime })
	if len(c.callers) >= maxCallers {
		c.callers = c.callers[1:]
	}
	c.callers = append(c.callers, caller{addr, c.now})
	for _, p := range c.peerList() {
		// One whose session is just open, or does not work any more: the peer may have another address now.
		for _, l := range p.links {
			if c.now.Before(l.settle) || l.doubtful() || c.now.Sub(l.session.LastReceived()) > suspectAfter {
				l.addEverywhere(addr)
				l.settle = later(l.settle, c.now.Add(settleTime))
			}
		}
	}
}

func (c *core) linkOf(s *rtmfp.Session) *link {
	switch u := s.User.(type) {
	case *link:
		return u
	case *peer:
		for _, l := range u.links {
			if l.session == s {
				return l
			}
		}
	}
	return nil
}

func (c *core) sessionOpen(s *rtmfp.Session) {
	if s == c.opening {
		c.serverOpen(s)
		return
	}
	c.peerOpen(s)
}

func (c *core) sessionFailed(ev rtmfp.Event) {
	if ev.Session == c.opening {
		c.fail(NetConnectionConnectFailed, "the server does not answer: "+c.remedy())
		return
	}
	if p, ok := ev.Session.User.(*peer); ok {
		p.failed(ev)
	}
}

func (c *core) sessionClosing(ev rtmfp.Event) {
	switch u := ev.Session.User.(type) {
	case *link:
		c.serverClosed(Status{Code: NetConnectionConnectClosed, Description: "the session with the server has ended: " + ev.Reason.String()})
	case *peer:
		u.closed(ev.Session, ev.Reason)
	}
}

func (c *core) flowOpen(f *rtmfp.ReceiveFlow) {
	m, err := ParseFlowMetadata(f.Metadata())
	if err != nil {
		f.Reject(c.now, 0) // "A receiver SHOULD reject a flow having an unrecognized metadata signature" (§5.1.1)
		return
	}
	switch u := f.Session().User.(type) {
	case *link:
		c.serverFlow(f, m)
	case *peer:
		u.flowOpen(f, m)
	default:
		f.Reject(c.now, 0)
	}
}

func (c *core) message(ev rtmfp.Event) {
	m, err := ParseMessage(ev.Data)
	switch u := ev.Receive.User.(type) {
	case *core:
		if err == nil {
			c.serverMessage(ev.Receive, m)
		}
	case *subscriber:
		if err == nil {
			u.controlMessage(m)
		}
	case *mediaFlow:
		u.message(ev.Receive, m, err)
	}
}

func (c *core) flowComplete(f *rtmfp.ReceiveFlow) {
	switch u := f.User.(type) {
	case *core:
		if f == c.canonical {
			c.serverClosed(Status{Code: NetConnectionConnectClosed, Description: "the server has closed the connection"})
		}
	case *subscriber:
		u.left()
	case *mediaFlow:
		u.complete(f)
	}
}

func (c *core) flowException(f *rtmfp.SendFlow) {
	switch u := f.User.(type) {
	case *core:
		c.serverClosed(Status{Code: NetConnectionConnectClosed, Description: "the server has closed the connection"})
	case *stream:
		u.refused()
	case *subscriber:
		u.flowRefused(f)
	}
}

// tick does what is due.
func (c *core) tick(now time.Time) {
	c.now = now
	if c.state < stateUp && !now.Before(c.deadline) {
		why := "nobody has answered for " + c.cfg.ConnectTimeout.String() + ": " + c.remedy()
		if c.state == stateRequested {
			why = "the server is there, but has not answered the connect command: it may be overloaded, or no RTMFP service for applications"
		}
		c.fail(NetConnectionConnectFailed, why)
	}
	if c.state == stateClosing && !now.Before(c.deadline) {
		c.shut()
	}
	if c.server != nil {
		c.server.tick()
	}
	for _, p := range c.peerList() {
		p.tick()
	}
}

// remedy says what may help when nobody answers.
func (c *core) remedy() string {
	switch {
	case c.relayError != nil:
		return "see whether a firewall blocks UDP; the TURN proxy " + c.cfg.MMS.Proxy + " does not help: " + c.relayError.Error()
	case len(c.relays) > 0:
		return "it is not there, or neither UDP nor the TURN proxy " + c.cfg.MMS.Proxy + " leads to it"
	case c.cfg.MMS.Proxy == "":
		return "see whether a firewall blocks UDP, and name a TURN proxy in mms.cfg (RTMFPTURNProxy)"
	}
	return "see whether a firewall blocks UDP; the TURN proxy " + c.cfg.MMS.Proxy + " has not answered either"
}

// wantsRelay says whether a relayed address may be needed: always while peers may call, otherwise until the server is reached
// without.
func (c *core) wantsRelay() bool {
	switch {
	case c.state >= stateClosing:
		return false
	case c.state < stateUp || !c.cfg.MMS.P2PDisable:
		return true
	}
	return c.relayed(c.server.session.Path())
}

// nextTimer is when tick wants to be called, or the zero for never.
func (c *core) nextTimer() (at time.Time) {
	earlier := func(t time.Time) {
		if !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	if c.state < stateUp || c.state == stateClosing {
		earlier(c.deadline)
	}
	if c.state == stateClosed {
		return time.Time{}
	}
	if c.server != nil {
		earlier(c.server.next)
	}
	for _, p := range c.peers {
		earlier(p.nextTimer())
	}
	return at
}

// peerList is the peers in the order of their IDs.
func (c *core) peerList() []*peer {
	list := make([]*peer, 0, len(c.peers))
	for _, p := range c.peers {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b *peer) int { return slices.Compare(a.id[:], b.id[:]) })
	return list
}

// relayUp says that a relay works, as an interface of the endpoint.
func (c *core) relayUp(now time.Time, iface int, addr netip.AddrPort) {
	c.now = now
	c.relays[iface] = addr
	c.relayIP[addr.Addr()] = true
	if c.server != nil {
		c.server.addInterface(iface)
	}
	for _, p := range c.peerList() {
		for _, l := range p.links {
			l.addInterface(iface)
		}
	}
	c.sendPeerInfo()
}

// relayDown says that a relay has gone, before its interface is removed.
func (c *core) relayDown(now time.Time, iface int) {
	c.now = now
	delete(c.relays, iface)
	if c.server != nil {
		c.server.dropInterface(iface)
	}
	for _, p := range c.peerList() {
		for _, l := range p.links {
			l.dropInterface(iface)
		}
	}
	c.sendPeerInfo()
}

// networkChanged says that this machine has other addresses than before.
func (c *core) networkChanged(now time.Time, addrs []netip.AddrPort) {
	c.now = now
	c.cfg.addrs = addrs
	if c.state != stateUp {
		return
	}
	c.notify(notice{kind: noticeConnection, status: Status{Code: NetConnectionConnectNetworkChange, Description: "the addresses of this machine have changed"}})
	c.server.resettle()
	for _, p := range c.peerList() {
		for _, l := range p.links {
			l.resettle()
		}
	}
	c.sendPeerInfo()
}
