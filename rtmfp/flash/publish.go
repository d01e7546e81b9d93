package flash

import (
	"slices"
	"time"

	"github.com/stilenet/stile/rtmfp"
)

// publishing is what a publishing stream has beside.
type publishing struct {
	subscribers                        []*subscriber
	metadata, audioConfig, videoConfig *Message // for whoever subscribes later
	pace                               pace
}

// subscriber is a subscription of a peer: its flow, which asks, and the flows in return (§5.4.2).
type subscriber struct {
	c         *core
	stream    *stream // that the application sees
	publisher *stream // nil while nothing of the name is published
	peer      *peer
	control   *rtmfp.ReceiveFlow
	id        uint32

	asked      bool // the application decides
	accepted   bool
	dismissing bool
	gone       bool
	deadline   time.Time // of dismissing
	open       int       // flows that are not finished

	data, audio, video *rtmfp.SendFlow // nil when refused
	mute, blind        bool            // receiveAudio(false), receiveVideo(false)
	frames             []frame         // video that may not have arrived
	needKey            bool            // video was left out: nothing until the next key frame
}

type frame struct {
	at      time.Time
	message *rtmfp.Message
}

func (c *core) newSubscriber(p *peer, f *rtmfp.ReceiveFlow, m FlowMetadata) {
	sub := &subscriber{c: c, peer: p, control: f, id: m.StreamID}
	f.User = sub
	keys := f.Session().Keys()
	sub.stream = &stream{c: c.shell, far: p.id, kind: streamSubscriber, subscriber: sub, peer: p, near: slices.Clone(keys.NearNonce()), farNonce: slices.Clone(keys.FarNonce())}
	sub.stream.public = &NetStream{s: sub.stream}
	p.subs = append(p.subs, sub)
	c.streams = append(c.streams, sub.stream)
	p.release()
}

// controlMessage is what a subscriber says.
func (sub *subscriber) controlMessage(m Message) {
	if sub.gone || m.Type != MessageCommandAMF0 && m.Type != MessageCommandAMF3 {
		return
	}
	cmd, err := ParseCommand(m)
	if err != nil {
		sub.stream.info_.Invalid++
		return
	}
	switch cmd.Name {
	case CommandPlay:
		if name := cmd.Text(0); sub.stream.name == "" && name != "" {
			sub.stream.name = name
			sub.match()
		}
	case CommandCloseStream:
		sub.left()
	case "receiveAudio":
		on, _ := cmd.Argument(0).(bool)
		sub.mute = !on
	case "receiveVideo":
		on, _ := cmd.Argument(0).(bool)
		sub.blind, sub.needKey = !on, true
	}
}

// match gives the subscriber to the stream that publishes the name, or keeps it until one does.
func (sub *subscriber) match() {
	c := sub.c
	pub := c.publishing[sub.stream.name]
	if pub == nil {
		if len(c.unconnected) >= maxUnconnected {
			sub.reject()
			return
		}
		c.unconnected = append(c.unconnected, sub.stream)
		return
	}
	c.unconnected = slices.DeleteFunc(c.unconnected, func(s *stream) bool { return s == sub.stream })
	sub.publisher = pub
	if pub.public.OnPeerConnect == nil {
		sub.accept()
		return
	}
	sub.asked = true
	c.notify(notice{kind: noticeAsk, stream: sub.stream, publisher: pub})
}

// decided is the application's answer to noticeAsk.
func (c *core) decided(now time.Time, s *stream, accept bool) {
	c.now = now
	sub := s.subscriber
	if sub.gone || sub.accepted || !sub.asked {
		return
	}
	sub.asked = false
	if !accept || sub.publisher.closed {
		sub.reject()
		return
	}
	sub.accept()
}

// reject refuses a subscription that was not accepted.
func (sub *subscriber) reject() {
	sub.control.Reject(sub.c.now, 0)
	sub.forget()
}

// accept opens the flows in return and says what old players expect (§5.4.2).
func (sub *subscriber) accept() {
	c := sub.c
	session := sub.control.Session()
	open := func(priority rtmfp.Priority, timeCritical, networkOrder bool) *rtmfp.SendFlow {
		f, err := session.OpenFlow(c.now, rtmfp.FlowConfig{
			Metadata:    AppendFlowMetadata(nil, FlowMetadata{StreamID: sub.id, NetworkOrder: networkOrder}),
			Association: sub.control, Priority: priority, TimeCritical: timeCritical,
		})
		if err != nil {
			return nil
		}
		f.User = sub
		sub.open++
		return f
	}
	sub.data = open(rtmfp.PriorityRoutine, false, false)
	if sub.data == nil {
		sub.forget() // the subscriber has left meanwhile
		return
	}
	sub.accepted = true
	sub.audio = open(rtmfp.PriorityImmediate, true, true)
	sub.video = open(rtmfp.PriorityPriority, true, false)
	pub := sub.publisher
	pub.subscribers = append(pub.subscribers, sub)
	sub.control1(AppendUserControl(nil, UserControl{Event: StreamBegin, First: sub.id}))
	sub.status(Status{Code: NetStreamPlayReset, Description: "Playing and resetting " + pub.name + "."})
	sub.status(Status{Code: NetStreamPlayStart, Description: "Started playing " + pub.name + "."})
	if b, err := AppendData(nil, AMF0, 0, Data{"|RtmpSampleAccess", []any{true, true}}); err == nil {
		sub.control1(b)
	}
	for _, m := range []*Message{pub.metadata, pub.audioConfig, pub.videoConfig} {
		if m != nil {
			sub.sendNow(*m, AppendMessage(nil, *m), mediaKind{config: true})
		}
	}
	c.notify(notice{kind: noticeConnection, stream: sub.stream, status: Status{Code: NetStreamConnectSuccess, Level: "status"}})
}

// control1 sends a message of the stream's own on the data flow.
func (sub *subscriber) control1(b []byte) {
	if sub.data != nil && sub.data.State() == rtmfp.FlowOpen {
		_, _ = sub.data.Write(sub.c.now, b, rtmfp.WriteOptions{})
	}
}

func (sub *subscriber) status(s Status) {
	b, err := AppendCommand(nil, AMF0, OnStatus(s))
	if err != nil {
		panic("BUG: flash: onStatus: " + err.Error())
	}
	sub.control1(b)
}

// left is the subscriber's leaving: "The publisher SHOULD close and unpublish to the subscriber on receipt of a close/complete
// of the control flow" (§5.4.3).
func (sub *subscriber) left() {
	if sub.gone {
		return
	}
	for _, f := range sub.flows() {
		f.Close(sub.c.now)
	}
	sub.drop(Status{Code: NetStreamConnectClosed, Level: "status", Description: "the subscriber has left"})
}

// flowRefused is the subscriber's refusal of one of the flows. "SHOULD NOT open a new flow to take the rejected flow's place" (§5.3.5.3).
func (sub *subscriber) flowRefused(f *rtmfp.SendFlow) {
	switch f {
	case sub.data:
		sub.data = nil
	case sub.audio:
		sub.audio = nil
	case sub.video:
		sub.video = nil
	}
}

func (sub *subscriber) flows() []*rtmfp.SendFlow {
	var list []*rtmfp.SendFlow
	for _, f := range []*rtmfp.SendFlow{sub.data, sub.audio, sub.video} {
		if f != nil && f.State() == rtmfp.FlowOpen {
			list = append(list, f)
		}
	}
	return list
}

// dismiss ends the subscription after what was sent. The end must not overtake the media on the other flows, so a barrier
// precedes it (§5.2).
func (sub *subscriber) dismiss() {
	switch {
	case sub.gone || sub.dismissing:
		return
	case !sub.accepted:
		sub.reject()
		return
	}
	c := sub.c
	flows := sub.flows()
	sub.dismissing, sub.deadline = true, c.now.Add(dismissLimit)
	sync := AppendUserControl(nil, UserControl{Event: FlowSync, First: uint32(sub.open) + 1, Second: uint32(len(flows))})
	for _, f := range flows {
		if _, err := f.Write(c.now, sync, rtmfp.WriteOptions{}); err != nil {
			panic("BUG: flash: an open flow does not take a message: " + err.Error())
		}
	}
	sub.control1(AppendUserControl(nil, UserControl{Event: StreamEOF, First: sub.id}))
	sub.status(Status{Code: NetStreamPlayUnpublishNotify, Description: sub.stream.name + " is now unpublished."})
	for _, f := range flows {
		f.Close(c.now)
	}
	sub.unlist()
	if len(flows) == 0 {
		sub.dismissed()
	}
}

// finished is the delivery of everything on one of the flows.
func (sub *subscriber) finished() {
	if sub.open--; sub.open == 0 && sub.dismissing {
		sub.dismissed()
	}
}

func (sub *subscriber) dismissed() {
	if sub.gone {
		return
	}
	sub.control.Reject(sub.c.now, 0)
	sub.drop(Status{Code: NetStreamConnectClosed, Level: "status"})
}

// drop ends the subscription at once.
func (sub *subscriber) drop(status Status) {
	if sub.gone {
		return
	}
	if sub.accepted {
		sub.c.notify(notice{kind: noticeConnection, stream: sub.stream, status: status})
	}
	sub.forget()
}

// unlist takes the subscriber from what it is listed in for sending.
func (sub *subscriber) unlist() {
	sub.stream.closed = true
	if sub.publisher != nil {
		sub.publisher.subscribers = slices.DeleteFunc(sub.publisher.subscribers, func(o *subscriber) bool { return o == sub })
	}
}

func (sub *subscriber) forget() {
	c := sub.c
	sub.gone = true
	sub.unlist()
	sub.frames = nil
	c.unconnected = slices.DeleteFunc(c.unconnected, func(s *stream) bool { return s == sub.stream })
	c.streams = slices.DeleteFunc(c.streams, func(s *stream) bool { return s == sub.stream })
	sub.peer.subs = slices.DeleteFunc(sub.peer.subs, func(o *subscriber) bool { return o == sub })
	sub.peer.release()
}

// publishAs begins to publish.
func (s *stream) publishAs(c *core, name string) error {
	switch {
	case s.kind != streamNew || s.far != DirectConnections || name == "":
		return ErrDirection
	case c.cfg.MMS.P2PDisable:
		return ErrDisabled
	case c.state != stateUp:
		return ErrNotConnected
	case c.publishing[name] != nil:
		return &StatusError{Status{Code: NetStreamPublishBadName, Level: "error", Description: name + " is being published"}}
	}
	s.kind, s.name = streamPublishing, name
	s.pace.begin(c.now)
	c.publishing[name] = s
	c.streams = append(c.streams, s)
	c.notify(notice{kind: noticeStream, stream: s, status: Status{Code: NetStreamPublishStart, Level: "status", Description: "Publishing " + name + "."}})
	for _, waiting := range slices.Clone(c.unconnected) {
		if waiting.name == name {
			waiting.subscriber.match()
		}
	}
	return nil
}

func (s *stream) unpublish(c *core) {
	if s.closed {
		return
	}
	s.closed = true
	delete(c.publishing, s.name)
	c.streams = slices.DeleteFunc(c.streams, func(o *stream) bool { return o == s })
	for _, p := range c.peerList() {
		for _, sub := range slices.Clone(p.subs) {
			if sub.publisher == s {
				sub.dismiss()
			}
		}
	}
	c.notify(notice{kind: noticeStream, stream: s, status: Status{Code: NetStreamUnpublishSuccess, Level: "status", Description: s.name + " is now unpublished."}})
}
