package flash

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/stilenet/stile/rtmfp"
)

// target is where an rtmfp URI leads (§6.1).
type target struct {
	uri  string
	host string
	port uint16
	app  string // the path without its first slash
}

// parseTarget parses rtmfp://host[:port]/path.
func parseTarget(uri string) (target, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return target{}, fmt.Errorf("flash: %q is no URL: %w", uri, err)
	}
	if u.Scheme != "rtmfp" || u.Hostname() == "" || u.User != nil {
		return target{}, fmt.Errorf("flash: %q: write rtmfp://host/key", uri)
	}
	t := target{uri: uri, host: u.Hostname(), port: DefaultPort, app: strings.TrimPrefix(u.EscapedPath(), "/")}
	if p := u.Port(); p != "" {
		a, err := netip.ParseAddrPort("0.0.0.0:" + p)
		if err != nil || a.Port() == 0 {
			return target{}, fmt.Errorf("flash: %q: the port must be from 1 to 65535", uri)
		}
		t.port = a.Port()
	}
	if len(uri) > 500 {
		return target{}, fmt.Errorf("flash: a URL of %d bytes: it travels in one packet, so at most 500", len(uri))
	}
	return t, nil
}

// open begins to connect to the server at its addresses.
func (c *core) open(now time.Time, addrs []netip.Addr) error {
	c.now = now
	var candidates []rtmfp.Candidate
	for _, a := range addrs {
		candidates = append(candidates, rtmfp.Candidate{Interface: rtmfp.AnyInterface, Addr: netip.AddrPortFrom(a.Unmap().WithZone(""), c.cfg.target.port)})
	}
	s, err := c.e.Open(now, ServerEPD(c.cfg.target.uri), candidates...)
	c.opening = s
	return err
}

func (c *core) serverOpen(s *rtmfp.Session) {
	c.opening = nil
	l := c.newLink(s, netip.AddrPort{})
	s.User, c.server = l, l
	c.farID, _ = PeerIDOf(s.FarIdentity())
	c.near, c.far = slices.Clone(s.Keys().NearNonce()), slices.Clone(s.Keys().FarNonce())
	f, err := s.OpenFlow(c.now, rtmfp.FlowConfig{Metadata: AppendFlowMetadata(nil, FlowMetadata{}), Priority: rtmfp.PriorityImmediate})
	if err != nil {
		panic("BUG: flash: a flow in a session that is open: " + err.Error())
	}
	f.User, c.control, c.state = c, f, stateRequested
	info := ConnectInfo{
		App: c.cfg.target.app, TCURL: c.cfg.target.uri, FlashVersion: c.cfg.FlashVersion, SWFURL: c.cfg.SWFURL, PageURL: c.cfg.PageURL,
		ObjectEncoding: c.cfg.ObjectEncoding, Arguments: c.cfg.extra,
	}
	if info.FlashVersion == "" {
		info.FlashVersion = "LNX 11,2,202,644"
	}
	// §5.3.3: connect is before any negotiation, so in AMF0.
	if err := c.command(AMF0, ConnectCommand(info)); err != nil {
		c.fail(NetConnectionConnectFailed, err.Error())
	}
}

// command sends a command to the server.
func (c *core) command(encoding ObjectEncoding, cmd Command) error {
	b, err := AppendCommand(nil, encoding, cmd)
	if err != nil {
		return err
	}
	if len(b) > maxMessage {
		return ErrTooLong
	}
	_, err = c.control.Write(c.now, b, rtmfp.WriteOptions{})
	return err
}

// serverFlow is a flow that the server opens.
func (c *core) serverFlow(f *rtmfp.ReceiveFlow, m FlowMetadata) {
	if m.StreamID != 0 || f.Association() == nil || f.Association() != c.control {
		f.Reject(c.now, 0) // no NetStream is with the server
		return
	}
	f.User = c
	if c.canonical == nil {
		c.canonical = f // §5.3.2
	}
}

func (c *core) serverMessage(f *rtmfp.ReceiveFlow, m Message) {
	switch m.Type {
	case MessageUserControl:
		u, err := ParseUserControl(m)
		if err == nil && u.Event == SetKeepalive {
			c.setKeepalive(u)
		}
	case MessageCommandAMF0, MessageCommandAMF3:
		cmd, err := ParseCommand(m)
		if err == nil {
			c.serverCommand(cmd)
		}
	default:
	}
}

// setKeepalive is §5.3.4.
func (c *core) setKeepalive(u UserControl) {
	period := func(ms uint32) time.Duration { return max(minKeepalive, time.Duration(ms)*time.Millisecond) }
	c.server.session.SetKeepalive(c.now, period(u.First))
	c.peerAlive = period(u.Second)
	for _, p := range c.peers {
		for _, l := range p.links {
			l.session.SetKeepalive(c.now, c.peerAlive)
		}
	}
}

func (c *core) serverCommand(cmd Command) {
	switch {
	case c.state == stateRequested && cmd.Transaction == 1 && (cmd.Name == CommandResult || cmd.Name == CommandError):
		c.connectAnswered(cmd)
	case cmd.Name == CommandOnStatus:
		s, ok := ParseStatus(cmd.Argument(0))
		if !ok {
			return
		}
		info, _ := cmd.Argument(0).(*Object)
		c.notify(notice{kind: noticeConnection, status: s, info: info})
	case cmd.Name == CommandClose:
		c.serverClosed(Status{Code: NetConnectionConnectClosed, Description: "the server has closed the connection"})
	case c.state == stateUp && cmd.Name != CommandResult && cmd.Name != CommandError:
		c.notify(notice{kind: noticeCall, command: cmd})
	}
}

func (c *core) connectAnswered(cmd Command) {
	s, ok := ParseStatus(cmd.Argument(0))
	if !ok {
		s = Status{Code: NetConnectionConnectSuccess, Level: "status"}
		if cmd.Name == CommandError {
			s = Status{Code: NetConnectionConnectFailed, Level: "error", Description: "the server refuses without a reason"}
		}
	}
	info, _ := cmd.Argument(0).(*Object)
	if cmd.Name == CommandError {
		c.notify(notice{kind: noticeConnection, status: s, info: info})
		c.notify(notice{kind: noticeConnected, err: &StatusError{s}})
		c.finish(Status{})
		return
	}
	if v, _ := info.Get("objectEncoding"); v == float64(AMF3) && c.cfg.ObjectEncoding == AMF3 {
		c.encoding = AMF3
	}
	c.state = stateUp
	c.told = nil
	c.sendPeerInfo()
	c.notify(notice{kind: noticeConnection, status: s, info: info})
	c.notify(notice{kind: noticeConnected})
}

// sendPeerInfo tells the server where this end may be reached, when that has changed. "To complete the RTMFP NetConnection
// handshake, an RTMFP client MUST send a setPeerInfo command" (§5.3.3).
func (c *core) sendPeerInfo() {
	if c.state != stateUp {
		return
	}
	addrs := slices.Clone(c.cfg.addrs)
	for _, i := range sortedKeys(c.relays) {
		addrs = append(addrs, c.relays[i])
	}
	if c.told != nil && slices.Equal(addrs, c.told) {
		return
	}
	c.told = append([]netip.AddrPort{}, addrs...)
	if err := c.command(c.encoding, SetPeerInfo(addrs)); err != nil {
		panic("BUG: flash: setPeerInfo: " + err.Error())
	}
}

func sortedKeys(m map[int]netip.AddrPort) []int {
	keys := make([]int, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// fail ends connecting.
func (c *core) fail(code, why string) {
	if c.state >= stateUp {
		return
	}
	s := Status{Code: code, Level: levelOf(code), Description: why}
	c.notify(notice{kind: noticeConnection, status: s})
	c.notify(notice{kind: noticeConnected, err: &StatusError{s}})
	c.finish(Status{})
}

// serverClosed ends the connection from the other side. Peers' sessions end with it: "Endpoints stay connected to the service for the
// whole communication".
func (c *core) serverClosed(s Status) {
	switch c.state {
	case stateConnecting, stateRequested:
		c.fail(NetConnectionConnectFailed, s.Description)
	case stateUp:
		c.finish(s)
	case stateClosing:
		c.server = nil // it went at the same time
		c.shutIfDone()
	case stateClosed:
	}
}

// finish begins to close: streams, then sessions. The status, if it has a code, is told.
func (c *core) finish(s Status) {
	if c.state >= stateClosing {
		return
	}
	c.state, c.deadline, c.closeStatus = stateClosing, c.now.Add(closeLimit), s
	if c.opening != nil {
		c.opening.Abort(c.now)
		c.opening = nil
	}
	for _, st := range slices.Clone(c.streams) {
		st.end(c)
	}
	c.shutIfDone()
}

// closeLimit is how long closing may take.
const closeLimit = 2 * time.Second

// shutIfDone goes on with closing: when nothing of a stream is under way any more the sessions are closed, and when they are,
// it is over.
func (c *core) shutIfDone() {
	if c.state != stateClosing {
		return
	}
	for _, p := range c.peers {
		if p.busy() {
			return
		}
	}
	if c.ending == nil {
		c.ending = make(map[*rtmfp.Session]bool)
		for _, s := range c.e.All() {
			if s.State() == rtmfp.StateOpen {
				c.ending[s] = true
			}
			s.Close(c.now)
		}
	}
	if len(c.ending) == 0 {
		c.shut()
	}
}

// shut ends it all.
func (c *core) shut() {
	if c.state == stateClosed {
		return
	}
	c.state = stateClosed
	for _, p := range c.peerList() {
		p.end(Status{Code: NetStreamConnectClosed, Level: "status", Description: "the NetConnection is closed"})
	}
	c.server = nil
	if c.closeStatus.Code != "" {
		c.notify(notice{kind: noticeConnection, status: c.closeStatus})
	}
	c.notify(notice{kind: noticeClosed})
}
