package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/stilenet/stile/rtmfp/flash"
)

// mediaTarget is what the page's encoders are to do.
type mediaTarget struct {
	Video   int    `json:"video"` // bit/s; 0: no video
	Audio   int    `json:"audio"`
	Codec   string `json:"codec"`   // of video
	Key     int    `json:"key"`     // when it changes a key frame is wanted
	Sending bool   `json:"sending"` // somebody receives
}

// mediaState is what is sent: by the page, or from a file.
type mediaState struct {
	target         mediaTarget
	rate           rateControl
	key            int
	video, audio   []string // what the page shows
	encode         []string // what it encodes
	configs        map[byte]frame
	file           bool // a file is being published
	fileEnd        time.Time
	dropped        uint64
	refusedByQueue uint64
}

// shows are the codecs to tell peers, separated by commas. Without a page everything is recorded that comes.
func (m *mediaState) shows() (video, audio string) {
	if m.video == nil && m.audio == nil {
		return string(flash.VP8) + "," + string(flash.AVC), string(flash.Opus)
	}
	return strings.Join(m.video, ","), strings.Join(m.audio, ",")
}

// fromPage sends a frame of the page to everybody in the conference.
func (p *phone) fromPage(f frame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f.packet == packetConfig {
		if p.media.configs == nil {
			p.media.configs = map[byte]frame{}
		}
		f.data = slices.Clone(f.data)
		p.media.configs[f.kind] = f
	}
	for _, l := range p.talking() {
		p.sendFrame(l, f)
	}
}

// talking are the lines that get our media.
func (p *phone) talking() (lines []*line) {
	if p.board == nil {
		return nil
	}
	for _, c := range p.board.calls {
		// Not before the peer has been told that the call is accepted: on the flow of data that stands in front.
		if l := p.lines[c.leg]; c.state == stateInCall && c.takes && l != nil && l.out != nil {
			lines = append(lines, l)
		}
	}
	return lines
}

// sendFrame sends a frame of the page to one peer, after the configurations that it builds on.
func (p *phone) sendFrame(l *line, f frame) {
	if !l.primed {
		l.primed = true
		p.media.key++
		p.dirty = true
		for _, kind := range []byte{kindAudio, kindVideo} {
			if c, ok := p.media.configs[kind]; ok && (f.packet != packetConfig || f.kind != kind) {
				p.sendTag(l, c)
			}
		}
	}
	p.sendTag(l, f)
}

func (p *phone) sendTag(l *line, f frame) {
	m := f.tag()
	if f.codec == flash.AVC && l.codecs == nil {
		m = f.plainTag() // Flash Player knows H.264 by its own header only
	}
	p.sendMessage(l, m)
}

func (p *phone) sendMessage(l *line, m flash.Message) {
	if err := l.out.SendMessage(m); err != nil && !errors.Is(err, flash.ErrClosed) {
		p.media.refusedByQueue++
	}
}

// received is told of a peer's message.
func (p *phone) received(leg int, m flash.Message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.lines[leg]
	if l == nil || p.board == nil {
		return
	}
	switch c := p.board.byLeg(leg); {
	case c == nil || c.state == stateEnded:
		return
	case c.state != stateInCall:
		// Sound and pictures have flows of their own, so they may overtake the word that the call is accepted.
		if len(l.ahead) < maxAhead && m.Type != flash.MessageDataAMF0 && m.Type != flash.MessageDataAMF3 {
			l.ahead = append(l.ahead, m)
		}
		return
	}
	p.take(l, m)
}

// take records a message and gives it to the page.
func (p *phone) take(l *line, m flash.Message) {
	if l.recorder != nil {
		l.recorder.write(m)
	}
	f, err := frameOf(l.leg, m)
	switch {
	case err == nil:
		if !p.hub.play(f) && f.kind == kindVideo && f.packet == packetConfig {
			p.dirty = true // a page that comes later asks for a key frame anyway
		}
	case errors.Is(err, errUnshown) && !l.unshown[f.codec]:
		l.unshown[f.codec] = true
		l.note = "Sends " + string(f.codec) + ", which no browser shows." + map[bool]string{true: " It is recorded.", false: ""}[l.recorder != nil]
		p.dirty = true
	}
}

// figures takes the second's measurements, and decides what the encoder may use.
func (p *phone) figures(now time.Time, took time.Duration) {
	s := uplinkSample{}
	for _, o := range p.offered {
		if hint := o.Info().VideoBitrate; hint > 0 && (s.hint == 0 || hint < s.hint) {
			s.hint = hint
		}
	}
	for _, l := range p.talking() {
		out, in := l.out.Info(), flash.StreamInfo{}
		if l.in != nil {
			in = l.in.Info()
		}
		up, down := out.AudioBytes+out.VideoBytes+out.DataBytes, in.AudioBytes+in.VideoBytes+in.DataBytes
		l.up, l.down = perSecond(up, l.upWas, took), perSecond(down, l.downWas, took)
		l.upWas, l.downWas = up, down
		s.subscribers++
		s.dropped += out.VideoDropped
		s.loss = max(s.loss, out.Path.Loss)
		if l.recorder != nil {
			l.recorder.flush()
		}
		if out.VideoBitrate > 0 && (s.hint == 0 || out.VideoBitrate < s.hint) {
			s.hint = out.VideoBitrate
		}
	}
	m := &p.media
	m.dropped = s.dropped
	m.target.Video = m.rate.step(s)
	m.target.Sending = s.subscribers > 0 && !m.file
	m.target.Codec = p.chooseCodec(now)
	if p.board != nil && p.board.count() > 0 {
		p.dirty = true
		for _, c := range p.board.calls {
			if c.state == stateInCall && c.leg == p.board.newest() {
				p.measureCall(c)
				p.writeReport()
			}
		}
	}
}

func perSecond(now, was uint64, took time.Duration) int {
	if now < was || took <= 0 {
		return 0
	}
	return int(float64(now-was) * 8 / took.Seconds())
}

// chooseCodec takes VP8 unless somebody in the conference does not show it and the page encodes H.264.
func (p *phone) chooseCodec(now time.Time) string {
	if !slices.Contains(p.media.encode, string(flash.AVC)) {
		return string(flash.VP8)
	}
	for _, l := range p.talking() {
		plain := l.codecs == nil && now.Sub(l.since) > plainAfter
		if plain || l.codecs != nil && !slices.Contains(l.codecs, string(flash.VP8)) {
			return string(flash.AVC)
		}
	}
	return string(flash.VP8)
}

// fileGrace is how long a call goes on behind the end of its file: what was sent last may be on its way for as long as video may.
const fileGrace = 2500 * time.Millisecond

// startPublishing begins to play the file of --publish to the first call of the run.
func (p *phone) startPublishing() {
	if p.opt.publish == "" || p.media.file || !p.media.fileEnd.IsZero() {
		return
	}
	p.media.file = true
	go p.publishFile()
}

func (p *phone) publishFile() {
	err := p.playFile()
	if err != nil {
		err = fmt.Errorf("videophone: --publish %s: %w", p.opt.publish, err)
		p.logf("%v", err)
	}
	time.Sleep(fileGrace)
	p.update(func() {
		p.media.file, p.media.fileEnd, p.filmErr = false, time.Now(), err
		if p.opt.call != "" && p.opt.withoutUI && p.board != nil {
			p.board.hangUpAll(time.Now())
			p.settle()
		}
	})
}

// playFile sends the tags of the file, each at its time.
func (p *phone) playFile() error {
	f, err := os.Open(p.opt.publish)
	if err != nil {
		return err
	}
	defer f.Close()
	r := flash.NewFLVReader(f)
	var began time.Time
	var first uint32
	for {
		m, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if began.IsZero() {
			for !p.listens() {
				time.Sleep(tickEvery / 10)
			}
			began, first = time.Now(), m.Timestamp
		}
		// A timestamp before the first one, as when a file was cut badly, is sent at once.
		if wait := time.Duration(int32(m.Timestamp-first)) * time.Millisecond; wait > 0 {
			time.Sleep(time.Until(began.Add(wait)))
		}
		p.mu.Lock()
		lines := p.talking()
		for _, l := range lines {
			p.sendMessage(l, m)
		}
		p.mu.Unlock()
		if len(lines) == 0 {
			return nil // the call is over
		}
	}
}

// listens reports whether somebody gets what we publish, or nobody will.
func (p *phone) listens() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.talking()) > 0 || p.board == nil || p.board.count() == 0
}
