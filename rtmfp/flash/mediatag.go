package flash

// § means "Enhanced RTMP (V2)" of the Veovera Software Organization unless annex E (of "Adobe Flash Video File Format Specification",
// version 10.1) is named.

import (
	"errors"
	"fmt"
)

// Codec names how media is coded: the FourCC where Enhanced RTMP has one, and a word for the formats that only Flash had.
type Codec string

// The codecs. The FourCCs are those of VideoFourCc and AudioFourCc.
const (
	VP8  Codec = "vp08"
	VP9  Codec = "vp09"
	AV1  Codec = "av01"
	AVC  Codec = "avc1" // H.264
	HEVC Codec = "hvc1"
	VVC  Codec = "vvc1"

	Opus Codec = "Opus"
	AAC  Codec = "mp4a"
	MP3  Codec = ".mp3"
	FLAC Codec = "fLaC"
	AC3  Codec = "ac-3"
	EAC3 Codec = "ec-3"

	H263       Codec = "H.263" // Sorenson's, what a camera sends up to Flash Player 10
	VP6        Codec = "VP6"
	ScreenCode Codec = "Screen video"
	Speex      Codec = "Speex"
	Nellymoser Codec = "Nellymoser"
	PCM        Codec = "PCM"
	ADPCM      Codec = "ADPCM"
	G711A      Codec = "G.711 A-law"
	G711U      Codec = "G.711 mu-law"
)

// PacketType says what a media tag holds. The numbers are those of VideoPacketType; audio has its own on the wire.
type PacketType uint8

// The packet types.
const (
	SequenceStart  PacketType = 0 // the decoder's configuration
	CodedFrames    PacketType = 1
	SequenceEnd    PacketType = 2
	MediaMetadata  PacketType = 4 // AMF: colours
	MPEG2TSStart   PacketType = 5
	ChannelsConfig PacketType = 16 // audio: how channels map to speakers; 4 on the wire
	VideoCommand   PacketType = 17 // a frame type rather than a packet type on the wire
)

// FrameType is how a frame of video depends on others (annex E.4.3.1).
type FrameType uint8

// The frame types.
const (
	KeyFrame        FrameType = 1
	InterFrame      FrameType = 2
	DisposableFrame FrameType = 3
	GeneratedKey    FrameType = 4
	commandFrame    FrameType = 5
)

// From the specification.
const (
	exVideoFlag      = 0x80 // isExVideoHeader
	exAudioFormat    = 9    // SoundFormat.ExHeader
	wireCodedFramesX = 3    // composition time 0, not written
	wireMultitrack   = 6    // video; audio has 5
	wireAudioTracks  = 5
	wireChannels     = 4
	wireModEx        = 7
	legacyAVC        = 7
	legacyAAC        = 10
)

// maxModEx bounds the modifiers before a packet: one is defined.
const maxModEx = 8

// Errors of ParseVideoTag and ParseAudioTag.
var (
	ErrMediaTag   = errors.New("flash: a media tag that ends in its header")
	ErrMediaCodec = errors.New("flash: a media tag of an unknown kind")
	ErrMultitrack = errors.New("flash: a media tag with several tracks")
)

// VideoTag is a video message taken apart.
type VideoTag struct {
	Codec       Codec
	Legacy      bool // in the header of annex E.4.3.1, as Flash Player writes and reads it: AVC, H263, VP6 and ScreenCode
	Packet      PacketType
	Frame       FrameType
	Composition int32  // milliseconds from decoding to showing, from -8388608 to 8388607; of CodedFrames of AVC, HEVC and VVC
	Data        []byte // what the codec wrote, or its configuration; aliases the message when parsed
}

// AudioTag is an audio message taken apart.
type AudioTag struct {
	Codec  Codec
	Legacy bool // in the header of annex E.4.2.1: everything but Opus, FLAC, AC3, EAC3
	Packet PacketType
	Format byte   // Legacy: the first byte, with the rate, the size and the number of channels; 0xAF for AAC
	Data   []byte // aliases the message when parsed
}

var legacyVideo = [16]Codec{2: H263, 3: ScreenCode, 4: VP6, 5: VP6, 6: ScreenCode, legacyAVC: AVC}

var legacyAudio = [16]Codec{PCM, ADPCM, MP3, PCM, Nellymoser, Nellymoser, Nellymoser, G711A, G711U, legacyAAC: AAC, 11: Speex, 14: MP3}

func hasComposition(c Codec) bool { return c == AVC || c == HEVC || c == VVC }

// ParseVideoTag takes a video message apart. Errors: ErrMediaTag, ErrMediaCodec, ErrMultitrack. An empty message, which Flash Player sends to
// clear the picture, is ErrMediaTag.
func ParseVideoTag(b []byte) (VideoTag, error) {
	if len(b) == 0 {
		return VideoTag{}, ErrMediaTag
	}
	if b[0]&exVideoFlag == 0 {
		return parseLegacyVideo(b)
	}
	t := VideoTag{Frame: FrameType(b[0] >> 4 & 7)}
	packet, b, err := skipModEx(b[0]&0x0f, b[1:])
	if err != nil {
		return VideoTag{}, err
	}
	if t.Frame == commandFrame && PacketType(packet) != MediaMetadata {
		if len(b) == 0 {
			return VideoTag{}, ErrMediaTag
		}
		t.Packet, t.Data = VideoCommand, b[:1]
		return t, nil
	}
	if packet == wireMultitrack {
		return VideoTag{}, ErrMultitrack
	}
	if t.Codec, b, err = fourCC(b, VP8, VP9, AV1, AVC, HEVC, VVC); err != nil {
		return VideoTag{}, err
	}
	switch packet {
	case byte(SequenceStart), byte(SequenceEnd), byte(MediaMetadata), byte(MPEG2TSStart):
		t.Packet = PacketType(packet)
	case byte(CodedFrames):
		t.Packet = CodedFrames
		if hasComposition(t.Codec) {
			if t.Composition, b, err = int24(b); err != nil {
				return VideoTag{}, err
			}
		}
	case wireCodedFramesX:
		t.Packet = CodedFrames
	default:
		return VideoTag{}, ErrMediaCodec
	}
	t.Data = b
	return t, nil
}

func parseLegacyVideo(b []byte) (VideoTag, error) {
	t := VideoTag{Legacy: true, Frame: FrameType(b[0] >> 4), Codec: legacyVideo[b[0]&0x0f], Packet: CodedFrames}
	b = b[1:]
	switch {
	case t.Frame == commandFrame:
		if len(b) == 0 {
			return VideoTag{}, ErrMediaTag
		}
		t.Packet, t.Data = VideoCommand, b[:1]
		return t, nil
	case t.Codec == "":
		return VideoTag{}, ErrMediaCodec
	case t.Codec != AVC:
		t.Data = b
		return t, nil
	}
	if len(b) == 0 {
		return VideoTag{}, ErrMediaTag
	}
	if t.Packet = PacketType(b[0]); t.Packet > SequenceEnd {
		return VideoTag{}, ErrMediaCodec
	}
	var err error
	t.Composition, t.Data, err = int24(b[1:])
	return t, err
}

// AppendVideoTag appends the message that t describes. A Legacy tag must be of AVC: nothing here encodes the others, and asking for one is
// a mistake of the caller's program, as is a codec that has no FourCC.
func AppendVideoTag(b []byte, t VideoTag) []byte {
	if t.Legacy {
		if t.Codec != AVC {
			panic("BUG: no legacy video tag is written but AVC's")
		}
		return append(appendInt24(append(b, byte(t.Frame)<<4|legacyAVC, byte(t.Packet)), t.Composition), t.Data...)
	}
	packet := byte(t.Packet)
	composed := t.Packet == CodedFrames && hasComposition(t.Codec)
	if composed && t.Composition == 0 {
		packet, composed = wireCodedFramesX, false
	}
	b = append(b, exVideoFlag|byte(t.Frame&7)<<4|packet)
	b = append(b, mustFourCC(t.Codec)...)
	if composed {
		b = appendInt24(b, t.Composition)
	}
	return append(b, t.Data...)
}

// ParseAudioTag takes an audio message apart. Errors: ErrMediaTag, ErrMediaCodec, ErrMultitrack. An empty message, which Flash Player sends
// when the microphone falls silent, is ErrMediaTag.
func ParseAudioTag(b []byte) (AudioTag, error) {
	if len(b) == 0 {
		return AudioTag{}, ErrMediaTag
	}
	if b[0]>>4 != exAudioFormat {
		t := AudioTag{Legacy: true, Codec: legacyAudio[b[0]>>4], Packet: CodedFrames, Format: b[0], Data: b[1:]}
		switch {
		case t.Codec == "":
			return AudioTag{}, ErrMediaCodec
		case t.Codec == AAC && len(t.Data) == 0:
			return AudioTag{}, ErrMediaTag
		case t.Codec == AAC:
			if t.Packet = PacketType(t.Data[0]); t.Packet > CodedFrames {
				return AudioTag{}, ErrMediaCodec
			}
			t.Data = t.Data[1:]
		}
		return t, nil
	}
	packet, b, err := skipModEx(b[0]&0x0f, b[1:])
	if err != nil {
		return AudioTag{}, err
	}
	if packet == wireAudioTracks {
		return AudioTag{}, ErrMultitrack
	}
	t := AudioTag{Packet: PacketType(packet)}
	switch {
	case packet == wireChannels:
		t.Packet = ChannelsConfig
	case packet > byte(SequenceEnd):
		return AudioTag{}, ErrMediaCodec
	}
	t.Codec, t.Data, err = fourCC(b, Opus, AAC, MP3, FLAC, AC3, EAC3)
	if err != nil {
		return AudioTag{}, err
	}
	return t, nil
}

// AppendAudioTag appends the message that t describes. A codec without a FourCC, or a Legacy tag whose Format is of another codec, is a
// mistake of the caller's program.
func AppendAudioTag(b []byte, t AudioTag) []byte {
	if t.Legacy {
		if legacyAudio[t.Format>>4] != t.Codec {
			panic("BUG: an audio tag of " + string(t.Codec) + " in the format of another codec")
		}
		b = append(b, t.Format)
		if t.Codec == AAC {
			b = append(b, byte(t.Packet))
		}
		return append(b, t.Data...)
	}
	packet := byte(t.Packet)
	if t.Packet == ChannelsConfig {
		packet = wireChannels
	}
	return append(append(append(b, exAudioFormat<<4|packet), mustFourCC(t.Codec)...), t.Data...)
}

// skipModEx passes over the modifiers before a packet: the one that is defined adds nanoseconds to the timestamp. It returns the packet
// type behind them.
func skipModEx(packet byte, b []byte) (byte, []byte, error) {
	for range maxModEx {
		if packet != wireModEx {
			return packet, b, nil
		}
		if len(b) < 1 {
			return 0, nil, ErrMediaTag
		}
		size := int(b[0]) + 1
		b = b[1:]
		if size == 256 {
			if len(b) < 2 {
				return 0, nil, ErrMediaTag
			}
			size = int(b[0])<<8 | int(b[1]) + 1
			b = b[2:]
		}
		if size > len(b)-1 {
			return 0, nil, ErrMediaTag
		}
		packet, b = b[size]&0x0f, b[size+1:]
	}
	return 0, nil, ErrMediaCodec
}

func fourCC(b []byte, known ...Codec) (Codec, []byte, error) {
	if len(b) < 4 {
		return "", nil, ErrMediaTag
	}
	for _, c := range known {
		if string(b[:4]) == string(c) {
			return c, b[4:], nil
		}
	}
	return "", nil, fmt.Errorf("%w: %q", ErrMediaCodec, b[:4])
}

func mustFourCC(c Codec) string {
	if len(c) != 4 {
		panic("BUG: " + string(c) + " has no FourCC")
	}
	return string(c)
}

func int24(b []byte) (int32, []byte, error) {
	if len(b) < 3 {
		return 0, nil, ErrMediaTag
	}
	return int32(uint32(b[0])<<24|uint32(b[1])<<16|uint32(b[2])<<8) >> 8, b[3:], nil
}

func appendInt24(b []byte, v int32) []byte { return append(b, byte(v>>16), byte(v>>8), byte(v)) }
