package main

import (
	"bytes"
	"errors"
	"testing"

	"github.com/stilenet/stile/rtmfp/flash"
)

func TestFramesOfThePageReachTheOtherPageUnchanged(t *testing.T) {
	for _, f := range []frame{
		{kind: kindVideo, packet: packetCoded, key: true, codec: flash.VP8, timestamp: 40, data: []byte("key")},
		{kind: kindVideo, packet: packetCoded, codec: flash.VP8, timestamp: 80, data: []byte("inter")},
		{kind: kindVideo, packet: packetConfig, key: true, codec: flash.AVC, timestamp: 80, data: []byte("avcC")},
		{kind: kindVideo, packet: packetConfig, key: true, codec: flash.VP8, timestamp: 1},
		{kind: kindVideo, packet: packetCoded, codec: flash.AVC, timestamp: 120, data: []byte("nalu")},
		{kind: kindAudio, packet: packetConfig, key: true, codec: flash.Opus, data: []byte("OpusHead")},
		{kind: kindAudio, packet: packetCoded, key: true, codec: flash.Opus, timestamp: 1 << 31, data: []byte("sound")},
	} {
		parsed, err := parseFrame(f.append(nil))
		if err != nil {
			t.Fatal(err)
		}
		got, err := frameOf(3, parsed.tag())
		f.leg = 3
		if err != nil || !bytes.Equal(got.append(nil), f.append(nil)) {
			t.Errorf("%+v became %+v, %v", f, got, err)
		}
	}
}

func TestMediaOfRealPlayersIsToldApart(t *testing.T) {
	for _, c := range []struct {
		name string
		tag  flash.Message
		want error
	}{
		{"Speex", flash.Message{Type: flash.MessageAudio, Payload: []byte("\xb2sound")}, errUnshown},
		{"Nellymoser", flash.Message{Type: flash.MessageAudio, Payload: []byte("\x62sound")}, errUnshown},
		{"H.263", flash.Message{Type: flash.MessageVideo, Payload: []byte("\x12picture")}, errUnshown},
		{"H.264", flash.Message{Type: flash.MessageVideo, Payload: []byte("\x17\x01\x00\x00\x00picture")}, nil},
		{"silence", flash.Message{Type: flash.MessageAudio}, errNoMedia},
		{"onMetaData", flash.Message{Type: flash.MessageDataAMF0, Payload: []byte("\x02")}, errNoMedia},
		{"a seek", flash.Message{Type: flash.MessageVideo, Payload: []byte("\x57\x00")}, errNoMedia},
		{"nonsense", flash.Message{Type: flash.MessageVideo, Payload: []byte("\x91vp")}, flash.ErrMediaTag},
	} {
		if _, err := frameOf(1, c.tag); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// FuzzFrame holds that neither the page nor a peer can make a frame that panics on its way.
func FuzzFrame(f *testing.F) {
	f.Add(frame{kind: kindVideo, packet: packetCoded, key: true, codec: flash.VP8, data: []byte("key")}.append(nil), uint8(9))
	f.Fuzz(func(t *testing.T, b []byte, kind uint8) {
		if fr, err := parseFrame(b); err == nil {
			_ = fr.tag()
		}
		if fr, err := frameOf(1, flash.Message{Type: flash.MessageType(kind), Payload: b}); err == nil {
			if _, err := parseFrame(fr.append(nil)); err != nil {
				t.Fatalf("%+v cannot be read back: %v", fr, err)
			}
		}
	})
}
