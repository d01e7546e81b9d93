package main

import (
	"encoding/binary"
	"errors"

	"github.com/stilenet/stile/rtmfp/flash"
)

// Coded media travels between the page and this program in binary messages:
//
//	kind:u8 packet:u8 flags:u8 0:u8 leg:u32 codec[4] timestamp:u32 data[...]
//
// in network byte order. To peers it goes as the audio and video messages of Enhanced RTMP.
const (
	frameHeader = 16

	kindAudio = 1
	kindVideo = 2

	packetConfig = 0 // data is the decoder's configuration
	packetCoded  = 1

	flagKey = 1
)

// frame is one of these messages.
type frame struct {
	kind, packet byte
	key          bool
	leg          int // whose it is; 0 from the page
	codec        flash.Codec
	timestamp    uint32 // milliseconds
	data         []byte
}

// Errors of frames and tags that are not for showing.
var (
	errFrame    = errors.New("a frame of the page that makes no sense")
	errNoMedia  = errors.New("a message without media")
	errUnshown  = errors.New("media that no browser decodes")
	shownCodecs = map[byte][]flash.Codec{kindVideo: {flash.VP8, flash.VP9, flash.AV1, flash.AVC, flash.HEVC}, kindAudio: {flash.Opus, flash.AAC, flash.MP3, flash.FLAC}}
)

func parseFrame(b []byte) (frame, error) {
	if len(b) < frameHeader {
		return frame{}, errFrame
	}
	f := frame{kind: b[0], packet: b[1], key: b[2]&flagKey != 0, leg: int(binary.BigEndian.Uint32(b[4:])), codec: flash.Codec(b[8:12]),
		timestamp: binary.BigEndian.Uint32(b[12:]), data: b[frameHeader:]}
	if f.packet > packetCoded || !shown(f.kind, f.codec) {
		return frame{}, errFrame
	}
	return f, nil
}

func shown(kind byte, c flash.Codec) bool {
	for _, k := range shownCodecs[kind] {
		if k == c {
			return true
		}
	}
	return false
}

func (f frame) append(b []byte) []byte {
	flags := byte(0)
	if f.key {
		flags = flagKey
	}
	b = binary.BigEndian.AppendUint32(append(b, f.kind, f.packet, flags, 0), uint32(f.leg))
	b = append(b, f.codec...)
	return append(binary.BigEndian.AppendUint32(b, f.timestamp), f.data...)
}

// tag makes of a frame of the page what a peer gets.
func (f frame) tag() flash.Message {
	packet := flash.CodedFrames
	if f.packet == packetConfig {
		packet = flash.SequenceStart
	}
	if f.kind == kindAudio {
		return flash.Message{Type: flash.MessageAudio, Timestamp: f.timestamp,
			Payload: flash.AppendAudioTag(nil, flash.AudioTag{Codec: f.codec, Packet: packet, Data: f.data})}
	}
	v := flash.VideoTag{Codec: f.codec, Packet: packet, Frame: flash.InterFrame, Data: f.data}
	if f.key || f.packet == packetConfig {
		v.Frame = flash.KeyFrame
	}
	if f.packet == packetConfig && f.codec == flash.VP8 {
		v.Data = vp8Configuration
	}
	return flash.Message{Type: flash.MessageVideo, Timestamp: f.timestamp, Payload: flash.AppendVideoTag(nil, v)}
}

// plainTag makes of a frame of H.264 what Flash Player gets.
func (f frame) plainTag() flash.Message {
	v := flash.VideoTag{Codec: flash.AVC, Legacy: true, Packet: flash.CodedFrames, Frame: flash.InterFrame, Data: f.data}
	if f.packet == packetConfig {
		v.Packet = flash.SequenceStart
	}
	if f.key {
		v.Frame = flash.KeyFrame
	}
	return flash.Message{Type: flash.MessageVideo, Timestamp: f.timestamp, Payload: flash.AppendVideoTag(nil, v)}
}

// vp8Configuration is a VPCodecConfigurationRecord: profile 0, level unknown, 8 bits, 4:2:0 in the narrow range, colours unknown.
var vp8Configuration = []byte{0, 0, 8<<4 | 1<<1, 2, 2, 2, 0, 0}

// frameOf makes of a peer's message what the page gets. Errors: errNoMedia for what there is nothing to show of, errUnshown with the codec set
// in the frame, and those of flash.ParseVideoTag and flash.ParseAudioTag.
func frameOf(leg int, t flash.Message) (frame, error) {
	f := frame{leg: leg, timestamp: t.Timestamp, packet: packetCoded}
	var packet flash.PacketType
	switch {
	case len(t.Payload) == 0:
		return f, errNoMedia // Flash Player's sign that the camera or the microphone is silent
	case t.Type == flash.MessageVideo:
		v, err := flash.ParseVideoTag(t.Payload)
		if err != nil {
			return f, err
		}
		f.kind, f.codec, f.data, f.key, packet = kindVideo, v.Codec, v.Data, v.Frame == flash.KeyFrame, v.Packet
	case t.Type == flash.MessageAudio:
		a, err := flash.ParseAudioTag(t.Payload)
		if err != nil {
			return f, err
		}
		f.kind, f.codec, f.data, f.key, packet = kindAudio, a.Codec, a.Data, true, a.Packet
	default:
		return f, errNoMedia
	}
	switch {
	case packet == flash.SequenceStart:
		f.packet = packetConfig
	case packet != flash.CodedFrames || len(f.data) == 0:
		return f, errNoMedia
	}
	if !shown(f.kind, f.codec) {
		return f, errUnshown
	}
	if f.packet == packetConfig && f.codec == flash.VP8 {
		f.data = nil // a decoder of VP8 needs none
	}
	return f, nil
}
