package flash

import (
	"time"

	"github.com/stilenet/stile/rtmfp"
)

// Ours to tune.
const (
	// staleFrame is how old a video frame must be to be given up for a key frame: younger ones are only on their way.
	staleFrame = 500 * time.Millisecond
	// packetCost is what IP, UDP and RTMFP add to a packet, on average.
	packetCost = 28 + 40
	// uplinkBurst is how much of a second's budget may be sent at once.
	uplinkBurst = 0.25
	// paceInterval is between adjustments of what the encoder is told.
	paceInterval = 500 * time.Millisecond
	// congested and relaxed are the ages of the oldest frame that waits, by which the encoder is told less or more.
	congested = 400 * time.Millisecond
	relaxed   = 150 * time.Millisecond
	// minVideoBitrate is what the encoder is told at least, in bits per second: a picture, if a poor one.
	minVideoBitrate = 50_000
)

// bucket is the budget of an uplink: a token bucket of bytes. The zero rate is no limit.
type bucket struct {
	rate  float64 // bytes per second
	level float64
	at    time.Time
}

func newBucket(now time.Time, bitsPerSecond int) bucket {
	rate := float64(bitsPerSecond) / 8
	return bucket{rate: rate, level: rate * uplinkBurst, at: now}
}

// spend takes what a message costs. Debt is bounded by a second, so that a burst of data does not silence video for long.
func (b *bucket) spend(payload int) {
	if b.rate <= 0 {
		return
	}
	packets := payload/1100 + 1
	b.level = max(b.level-float64(payload+packets*packetCost), -b.rate)
}

// allows says whether there is something left.
func (b *bucket) allows(now time.Time) bool {
	if b.rate <= 0 {
		return true
	}
	b.level = min(b.level+b.rate*now.Sub(b.at).Seconds(), b.rate*uplinkBurst)
	b.at = now
	return b.level >= 0
}

// pace follows how much a publishing stream sends, and says how much its encoder should.
type pace struct {
	next              time.Time
	from              time.Time
	video, other      int     // bytes for each subscriber since from
	videoRate, others float64 // bits per second
	target            float64 // 0 is no limit
	dropped           bool
}

func (p *pace) begin(now time.Time) { p.from, p.next = now, now.Add(paceInterval) }

// adjust is additive increase, multiplicative decrease, on the age of what waits.
func (p *pace) adjust(now time.Time, oldest time.Duration) {
	if now.Before(p.next) {
		return
	}
	seconds := now.Sub(p.from).Seconds()
	p.videoRate, p.others = float64(p.video)*8/seconds, float64(p.other)*8/seconds
	p.from, p.next, p.video, p.other = now, now.Add(paceInterval), 0, 0
	switch {
	case oldest > congested || p.dropped:
		base := p.videoRate
		if p.target > 0 {
			base = min(base, p.target)
		}
		p.target = max(0.7*base, minVideoBitrate)
	case p.target > 0 && oldest < relaxed:
		if p.target += max(0.05*p.target, 10_000); p.target > 4*p.videoRate && p.videoRate > 0 {
			p.target = 0
		}
	}
	p.dropped = false
}

// bitrate is what the encoder should keep to, in bits per second; 0 is no limit.
func (p *pace) bitrate(uplink, subscribers int) int {
	rate := p.target
	if uplink > 0 && subscribers > 0 {
		share := max(float64(uplink)/float64(subscribers)-p.others, minVideoBitrate)
		if rate == 0 || share < rate {
			rate = share
		}
	}
	return int(rate)
}

// mediaKind is what matters about a message for its delivery.
type mediaKind struct {
	config bool // what a decoder cannot do without
	key    bool
}

func kindOf(m Message) mediaKind {
	switch m.Type {
	case MessageAudio:
		t, err := ParseAudioTag(m.Payload)
		return mediaKind{config: err == nil && (t.Packet == SequenceStart && (t.Codec == AAC || !t.Legacy) || t.Packet == ChannelsConfig)}
	case MessageVideo:
		t, err := ParseVideoTag(m.Payload)
		if err != nil {
			return mediaKind{}
		}
		config := t.Packet == SequenceStart && (t.Codec == AVC || !t.Legacy) || t.Packet == MPEG2TSStart || t.Packet == MediaMetadata
		return mediaKind{config: config, key: t.Frame == KeyFrame || t.Frame == GeneratedKey}
	}
	return mediaKind{config: true}
}

// receivers are whom a stream sends to.
func (s *stream) receivers() ([]*subscriber, error) {
	switch {
	case s.closed:
		return nil, ErrClosed
	case s.kind == streamPublishing:
		return s.subscribers, nil
	case s.kind == streamSubscriber && s.subscriber.accepted:
		return []*subscriber{s.subscriber}, nil
	}
	return nil, ErrDirection
}

// transmit sends a message to all receivers. It is whole when it returns: the payload is copied.
func (s *stream) transmit(c *core, m Message) error {
	to, err := s.receivers()
	switch {
	case err != nil:
		return err
	case len(m.Payload) > maxMessage-messageHeaderSize:
		return ErrTooLong
	}
	switch m.Type {
	case MessageAudio, MessageVideo, MessageDataAMF0, MessageDataAMF3:
	default:
		return ErrMessage
	}
	kind := kindOf(m)
	s.remember(m, kind)
	if len(to) == 0 {
		return nil
	}
	isData := m.Type != MessageAudio && m.Type != MessageVideo
	if isData {
		for _, sub := range to {
			if sub.data != nil && sub.data.Queued()+len(m.Payload) > maxQueued {
				return ErrBacklog
			}
		}
	}
	b := AppendMessage(make([]byte, 0, messageHeaderSize+len(m.Payload)), m)
	for _, sub := range to {
		if !sub.sendNow(m, b, kind) {
			continue
		}
		n := uint64(len(m.Payload))
		switch m.Type {
		case MessageAudio:
			s.info_.AudioBytes += n
		case MessageVideo:
			s.info_.VideoBytes += n
		default:
			s.info_.DataBytes += n
		}
	}
	if s.kind == streamPublishing {
		s.paced(c, m)
	}
	return nil
}

// remember keeps what later subscribers need.
func (s *stream) remember(m Message, kind mediaKind) {
	if s.kind != streamPublishing || !kind.config {
		return
	}
	m.Payload = append([]byte(nil), m.Payload...)
	switch m.Type {
	case MessageAudio:
		s.audioConfig = &m
	case MessageVideo:
		s.videoConfig = &m
	default:
		if d, err := ParseData(m); err == nil && (d.Handler == "onMetaData" || d.Handler == "@setDataFrame") {
			s.metadata = &m
		}
	}
}

func (s *stream) paced(c *core, m Message) {
	p := &s.pace
	if m.Type == MessageVideo {
		p.video += len(m.Payload)
	} else {
		p.other += len(m.Payload) + packetCost
	}
	var oldest time.Duration
	for _, sub := range s.subscribers {
		if sub.trimFrames(); len(sub.frames) > 0 {
			oldest = max(oldest, c.now.Sub(sub.frames[0].at))
		}
	}
	p.adjust(c.now, oldest)
}

func (sub *subscriber) trimFrames() {
	n := 0
	for n < len(sub.frames) && sub.frames[n].message.Done() {
		n++
	}
	sub.frames = sub.frames[n:]
}

// sendNow sends a message, whose encoding is b, to the subscriber. It reports whether it did.
func (sub *subscriber) sendNow(m Message, b []byte, kind mediaKind) bool {
	c := sub.c
	var options rtmfp.WriteOptions
	f := sub.data
	switch m.Type {
	case MessageAudio:
		f = sub.audio
		if sub.mute {
			return false
		}
		if !kind.config && c.cfg.AudioLifetime > 0 {
			options.FinishWithin = c.cfg.AudioLifetime
		}
	case MessageVideo:
		f = sub.video
		if sub.blind || !sub.admitVideo(kind) {
			return false
		}
		if !kind.config && c.cfg.VideoLifetime > 0 {
			options.FinishWithin = c.cfg.VideoLifetime
		}
	}
	if f == nil || f.State() != rtmfp.FlowOpen {
		return false
	}
	c.uplink.allows(c.now)
	c.uplink.spend(len(b))
	message, err := f.Write(c.now, b, options)
	if err != nil {
		return false
	}
	if m.Type == MessageVideo && !kind.config {
		sub.frames = append(sub.frames, frame{c.now, message})
	}
	return true
}

// admitVideo makes room for a frame, or says that it is left out, because the uplink's budget is used up or what the frame
// builds upon was left out.
func (sub *subscriber) admitVideo(kind mediaKind) bool {
	c := sub.c
	if kind.config {
		return true
	}
	leaveOut := func() bool {
		sub.needKey = true
		sub.stream.info_.VideoDropped++
		if sub.publisher != nil {
			sub.publisher.info_.VideoDropped++
			sub.publisher.pace.dropped = true
		}
		return false
	}
	if sub.needKey && !kind.key || !c.uplink.allows(c.now) || sub.video != nil && sub.video.Queued() > maxQueued {
		return leaveOut()
	}
	sub.needKey = false
	if kind.key {
		// What has waited for long is of no use once the picture begins anew.
		for _, f := range sub.frames {
			if !f.message.Done() && c.now.Sub(f.at) >= staleFrame {
				f.message.Abandon(c.now)
			}
		}
	}
	sub.trimFrames()
	return true
}
