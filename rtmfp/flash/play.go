package flash

import (
	"slices"
	"time"

	"github.com/stilenet/stile/rtmfp"
)

// streamKind is the direction of a stream.
type streamKind uint8

const (
	streamNew        streamKind = iota
	streamPublishing            // to subscribers
	streamSubscriber            // one of these
	streamPlaying               // from a publisher
)

// stream is what a NetStream does. Everything belongs to the loop of the connection but public, c and far.
type stream struct {
	public *NetStream
	c      *connection
	far    PeerID

	kind   streamKind
	name   string
	closed bool
	info_  StreamInfo // counts

	// Of one that plays.
	peer      *peer
	began     time.Time
	control   *rtmfp.SendFlow
	asked     *rtmfp.Message // the request in control
	retries   int
	connected bool // the publisher has answered
	flows     []*mediaFlow
	barriers  map[uint32]int // flow synchronization messages by their ID (§5.2)
	near      []byte
	farNonce  []byte

	subscriber *subscriber // of a streamSubscriber
	publishing             // of a streamPublishing
}

// begin plays a stream of a peer.
func (s *stream) begin(c *core, name string) error {
	switch {
	case s.kind != streamNew || s.far == DirectConnections:
		return ErrDirection
	case c.cfg.MMS.P2PDisable:
		return ErrDisabled
	case c.state != stateUp:
		return ErrNotConnected
	}
	p := c.peer(s.far)
	if err := p.reach(); err != nil {
		p.release()
		return err
	}
	s.kind, s.name, s.peer, s.began = streamPlaying, name, p, c.now
	p.players = append(p.players, s)
	c.streams = append(c.streams, s)
	p.release()
	if p.link != nil {
		s.subscribe(c, p.link.session)
	}
	return nil
}

// subscribe asks the publisher: "the client creates a new independent flow to that peer" (§5.4.1).
func (s *stream) subscribe(c *core, session *rtmfp.Session) {
	// The IDs of the player, because librtmfp knows no others.
	id := firstStreamID + 1 + c.nextStream%(streamIDs-1)
	c.nextStream++
	f, err := session.OpenFlow(c.now, rtmfp.FlowConfig{Metadata: AppendFlowMetadata(nil, FlowMetadata{StreamID: id}), Priority: rtmfp.PriorityImmediate})
	if err != nil {
		s.drop(c, Status{Code: NetStreamConnectFailed, Level: "error", Description: "the session with the peer has ended"})
		return
	}
	f.User, s.control = s, f
	keys := session.Keys()
	s.near, s.farNonce = slices.Clone(keys.NearNonce()), slices.Clone(keys.FarNonce())
	// In AMF0, whatever the server speaks: librtmfp knows no other.
	b, err := AppendCommand(nil, AMF0, Command{Name: CommandPlay, Arguments: []any{s.name}})
	if err != nil {
		panic("BUG: flash: play: " + err.Error())
	}
	if s.asked, err = f.Write(c.now, b, rtmfp.WriteOptions{}); err != nil {
		panic("BUG: flash: play: " + err.Error())
	}
}

// mediaFlow is a flow of a stream that is played.
type mediaFlow struct {
	c      *core
	stream *stream
	flow   *rtmfp.ReceiveFlow
	barred bool      // it waits at a barrier
	sync   uint32    // which
	held   []Message // what came behind the barrier before the flow was suspended
}

func (s *stream) mediaFlow(c *core, f *rtmfp.ReceiveFlow, m FlowMetadata) {
	mf := &mediaFlow{c: c, stream: s, flow: f}
	f.User = mf
	s.flows = append(s.flows, mf)
	if m.NetworkOrder {
		f.DeliverInAnyOrder(c.now)
	}
	s.answered(c)
}

// answered is the first sign that the publisher accepts.
func (s *stream) answered(c *core) {
	if s.connected {
		return
	}
	s.connected = true
	c.notify(notice{kind: noticeConnection, stream: s, status: Status{Code: NetStreamConnectSuccess, Level: "status"}})
}

func (m *mediaFlow) message(f *rtmfp.ReceiveFlow, msg Message, err error) {
	s := m.stream
	switch {
	case s.closed:
	case err != nil:
		s.info_.Invalid++
	case m.barred:
		m.held = append(m.held, msg)
	default:
		m.deliver(msg)
	}
}

func (m *mediaFlow) deliver(msg Message) {
	s, c := m.stream, m.c
	n := uint64(len(msg.Payload))
	switch msg.Type {
	case MessageAudio:
		s.info_.AudioBytes += n
	case MessageVideo:
		s.info_.VideoBytes += n
	case MessageDataAMF0, MessageDataAMF3:
		s.info_.DataBytes += n
	case MessageUserControl:
		u, err := ParseUserControl(msg)
		if err != nil {
			s.info_.Invalid++
		} else if u.Event == FlowSync {
			m.barrier(u)
		}
		return
	case MessageCommandAMF0, MessageCommandAMF3:
		cmd, err := ParseCommand(msg)
		status, ok := ParseStatus(cmd.Argument(0))
		if err != nil || cmd.Name == CommandOnStatus && !ok {
			s.info_.Invalid++
		} else if cmd.Name == CommandOnStatus {
			c.notify(notice{kind: noticeStream, stream: s, status: status})
		}
		return
	default:
		return // types 1, 2, 3, 5, 6 "MUST be ignored" (§5.1), others are unknown
	}
	c.notify(notice{kind: noticeMessage, stream: s, message: msg, flow: m.flow})
	if c.waiting > maxWaiting && m.flow.State() == rtmfp.FlowOpen {
		m.flow.Suspend()
		if !slices.Contains(c.held, m.flow) {
			c.held = append(c.held, m.flow)
		}
	}
}

// maxBarriers bounds the barriers that a publisher can leave open.
const maxBarriers = 16

// barrier is §5.2: the flow waits until as many flows have come to the barrier.
func (m *mediaFlow) barrier(u UserControl) {
	s := m.stream
	if s.barriers == nil {
		s.barriers = make(map[uint32]int)
	}
	if len(s.barriers) >= maxBarriers && s.barriers[u.First] == 0 {
		s.info_.Invalid++
		return
	}
	s.barriers[u.First]++
	if s.barriers[u.First] < int(min(u.Second, maxStreamsOfPeer)) {
		m.barred, m.sync = true, u.First
		m.flow.Suspend()
		return
	}
	s.lift(u.First)
}

// lift lets the flows that wait at a barrier go on.
func (s *stream) lift(sync uint32) {
	delete(s.barriers, sync)
	for _, m := range slices.Clone(s.flows) {
		if !m.barred || m.sync != sync {
			continue
		}
		m.barred = false
		held := m.held
		m.held = nil
		for i, msg := range held {
			if m.barred {
				m.held = append(m.held, held[i])
				continue
			}
			m.deliver(msg)
		}
		if !m.barred && !slices.Contains(m.c.held, m.flow) {
			m.flow.Resume(m.c.now)
		}
	}
}

// complete is the end of a flow, which has "no semantic meaning for the stream" (§5.4.2). It comes to no barrier any more.
func (m *mediaFlow) complete(f *rtmfp.ReceiveFlow) {
	s := m.stream
	s.flows = slices.DeleteFunc(s.flows, func(o *mediaFlow) bool { return o == m })
	for _, o := range slices.Clone(s.flows) {
		if o.barred {
			s.lift(o.sync)
		}
	}
}

// refused is an exception on the flow that asked: "The subscriber SHOULD consider the stream closed" (§5.4.3).
func (s *stream) refused() {
	c := s.peer.c
	if s.connected {
		s.drop(c, Status{Code: NetStreamConnectClosed, Level: "status", Description: "the publisher has ended the stream"})
		return
	}
	s.drop(c, Status{Code: NetStreamConnectRejected, Level: "error", Description: "the peer does not accept, or has as many peers as it accepts"})
}

// drop ends a stream that plays, and tells the NetConnection.
func (s *stream) drop(c *core, status Status) {
	if s.closed {
		return
	}
	s.closed = true
	p := s.peer
	p.players = slices.DeleteFunc(p.players, func(o *stream) bool { return o == s })
	c.streams = slices.DeleteFunc(c.streams, func(o *stream) bool { return o == s })
	for _, m := range s.flows {
		m.held = nil
		m.flow.Reject(c.now, 0)
	}
	if s.control != nil {
		s.control.Close(c.now)
	}
	c.notify(notice{kind: noticeConnection, stream: s, status: status})
	p.release()
}

// end closes a stream of any kind, by the application's will.
func (s *stream) end(c *core) {
	switch s.kind {
	case streamPlaying:
		s.drop(c, Status{Code: NetStreamConnectClosed, Level: "status"})
	case streamPublishing:
		s.unpublish(c)
	case streamSubscriber:
		s.subscriber.dismiss()
	case streamNew:
		s.closed = true
	}
}
