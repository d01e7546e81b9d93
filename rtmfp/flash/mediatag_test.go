package flash

import (
	"bytes"
	"errors"
	"testing"
)

// Written by hand after the tables of the specifications.
var videoVectors = []struct {
	name string
	wire string
	tag  VideoTag
}{
	{"VP8 key frame", "\x91vp08data", VideoTag{Codec: VP8, Packet: CodedFrames, Frame: KeyFrame, Data: []byte("data")}},
	{"VP8 inter frame", "\xa1vp08data", VideoTag{Codec: VP8, Packet: CodedFrames, Frame: InterFrame, Data: []byte("data")}},
	{"VP8 configuration", "\x90vp08\x00\x0a\x82", VideoTag{Codec: VP8, Packet: SequenceStart, Frame: KeyFrame, Data: []byte("\x00\x0a\x82")}},
	{"H.264 without composition time", "\xa3avc1data", VideoTag{Codec: AVC, Packet: CodedFrames, Frame: InterFrame, Data: []byte("data")}},
	{"H.264 shown before it is decoded", "\xa1avc1\xff\xff\xfedata", VideoTag{Codec: AVC, Packet: CodedFrames, Frame: InterFrame, Composition: -2, Data: []byte("data")}},
	{"end", "\x92vp08", VideoTag{Codec: VP8, Packet: SequenceEnd, Frame: KeyFrame, Data: []byte{}}},
	{"Flash Player's H.264", "\x17\x01\x00\x00\x21data", VideoTag{Codec: AVC, Legacy: true, Packet: CodedFrames, Frame: KeyFrame, Composition: 33, Data: []byte("data")}},
	{"Flash Player's H.264 configuration", "\x17\x00\x00\x00\x00\x01d", VideoTag{Codec: AVC, Legacy: true, Packet: SequenceStart, Frame: KeyFrame, Data: []byte("\x01d")}},
}

func sameVideo(a, b VideoTag) bool {
	same := bytes.Equal(a.Data, b.Data)
	a.Data, b.Data = nil, nil
	return same && a.Codec == b.Codec && a.Legacy == b.Legacy && a.Packet == b.Packet && a.Frame == b.Frame && a.Composition == b.Composition
}

func TestVideoTagsReadAndWriteAsSpecified(t *testing.T) {
	for _, v := range videoVectors {
		got, err := ParseVideoTag([]byte(v.wire))
		if err != nil || !sameVideo(got, v.tag) {
			t.Errorf("%s: %+v, %v", v.name, got, err)
		}
		if b := AppendVideoTag(nil, v.tag); string(b) != v.wire {
			t.Errorf("%s is written as %q", v.name, b)
		}
	}
	for _, v := range []struct {
		name, wire string
		tag        VideoTag
	}{
		{"H.263 of a camera", "\x22data", VideoTag{Codec: H263, Legacy: true, Packet: CodedFrames, Frame: InterFrame, Data: []byte("data")}},
		{"nanoseconds", "\x97\x02\x00\x01\x02\x01vp08d", VideoTag{Codec: VP8, Packet: CodedFrames, Frame: KeyFrame, Data: []byte("d")}},
		{"a long modifier", "\x97\xff\x00\x00\xaa\x01vp08d", VideoTag{Codec: VP8, Packet: CodedFrames, Frame: KeyFrame, Data: []byte("d")}},
		{"seek command", "\xd1\x01", VideoTag{Packet: VideoCommand, Frame: commandFrame, Data: []byte("\x01")}},
	} {
		if got, err := ParseVideoTag([]byte(v.wire)); err != nil || !sameVideo(got, v.tag) {
			t.Errorf("%s: %+v, %v", v.name, got, err)
		}
	}
}

var audioVectors = []struct {
	name string
	wire string
	tag  AudioTag
}{
	{"Opus", "\x91Opusdata", AudioTag{Codec: Opus, Packet: CodedFrames, Data: []byte("data")}},
	{"Opus head", "\x90OpusOpusHead", AudioTag{Codec: Opus, Packet: SequenceStart, Data: []byte("OpusHead")}},
	{"channels", "\x94Opus\x01\x02", AudioTag{Codec: Opus, Packet: ChannelsConfig, Data: []byte("\x01\x02")}},
	{"Speex of a microphone", "\xb2data", AudioTag{Codec: Speex, Legacy: true, Packet: CodedFrames, Format: 0xb2, Data: []byte("data")}},
	{"Nellymoser", "\x62data", AudioTag{Codec: Nellymoser, Legacy: true, Packet: CodedFrames, Format: 0x62, Data: []byte("data")}},
	{"AAC configuration", "\xaf\x00\x12\x10", AudioTag{Codec: AAC, Legacy: true, Packet: SequenceStart, Format: 0xaf, Data: []byte("\x12\x10")}},
	{"AAC", "\xaf\x01data", AudioTag{Codec: AAC, Legacy: true, Packet: CodedFrames, Format: 0xaf, Data: []byte("data")}},
}

func sameAudio(a, b AudioTag) bool {
	same := bytes.Equal(a.Data, b.Data)
	a.Data, b.Data = nil, nil
	return same && a.Codec == b.Codec && a.Legacy == b.Legacy && a.Packet == b.Packet && a.Format == b.Format
}

func TestAudioTagsReadAndWriteAsSpecified(t *testing.T) {
	for _, v := range audioVectors {
		got, err := ParseAudioTag([]byte(v.wire))
		if err != nil || !sameAudio(got, v.tag) {
			t.Errorf("%s: %+v, %v", v.name, got, err)
		}
		if b := AppendAudioTag(nil, v.tag); string(b) != v.wire {
			t.Errorf("%s is written as %q", v.name, b)
		}
	}
}

func TestMediaTagsThatEndInTheirHeaderAreRefused(t *testing.T) {
	for _, v := range videoVectors {
		for n := range len(v.wire) - len(v.tag.Data) {
			if got, err := ParseVideoTag([]byte(v.wire[:n])); !errors.Is(err, ErrMediaTag) {
				t.Errorf("%s, %d bytes: %+v, %v", v.name, n, got, err)
			}
		}
	}
	for _, v := range audioVectors {
		for n := range len(v.wire) - len(v.tag.Data) {
			if got, err := ParseAudioTag([]byte(v.wire[:n])); !errors.Is(err, ErrMediaTag) {
				t.Errorf("%s, %d bytes: %+v, %v", v.name, n, got, err)
			}
		}
	}
}

func TestUnknownMediaTagsAreRefusedByName(t *testing.T) {
	for wire, want := range map[string]error{
		"\x18data": ErrMediaCodec, "\x91wxyzd": ErrMediaCodec, "\x99vp08d": ErrMediaCodec, "\x17\x03\x00\x00\x00": ErrMediaCodec,
		"\x96\x01vp08": ErrMultitrack, "\x97\x00\x00\x07\x00\x00\x07\x00\x00\x07\x00\x00\x07\x00\x00\x07\x00\x00\x07\x00\x00\x07\x00\x00\x07\x00\x00\x01vp08d": ErrMediaCodec,
	} {
		if got, err := ParseVideoTag([]byte(wire)); !errors.Is(err, want) {
			t.Errorf("video %x: %+v, %v", wire, got, err)
		}
	}
	for wire, want := range map[string]error{"\xc2d": ErrMediaCodec, "\x93Opus": ErrMediaCodec, "\x91opus": ErrMediaCodec, "\x95\x01Opus": ErrMultitrack, "\xaf\x02": ErrMediaCodec} {
		if got, err := ParseAudioTag([]byte(wire)); !errors.Is(err, want) {
			t.Errorf("audio %x: %+v, %v", wire, got, err)
		}
	}
}

// FuzzMediaTag holds that what a peer sends is taken apart without a panic, and that what can be written is read back as it was.
func FuzzMediaTag(f *testing.F) {
	for _, v := range videoVectors {
		f.Add([]byte(v.wire))
	}
	for _, v := range audioVectors {
		f.Add([]byte(v.wire))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := ParseVideoTag(b); err == nil && v.Packet != VideoCommand && (!v.Legacy || v.Codec == AVC) {
			if again, err := ParseVideoTag(AppendVideoTag(nil, v)); err != nil || !sameVideo(v, again) {
				t.Fatalf("%+v became %+v, %v", v, again, err)
			}
		}
		if a, err := ParseAudioTag(b); err == nil {
			if again, err := ParseAudioTag(AppendAudioTag(nil, a)); err != nil || !sameAudio(a, again) {
				t.Fatalf("%+v became %+v, %v", a, again, err)
			}
		}
	})
}
