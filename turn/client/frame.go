package client

import (
	"encoding/binary"
	"errors"

	"github.com/stilenet/stile/stun"
)

// ChannelData (§10.4):
//
//	channel:16 length:16 payload[length], and over TCP padding to a multiple of 4 that length does not count

// appendChannelData appends a message. Over a stream it is padded.
func appendChannelData(out []byte, channel uint16, payload []byte, stream bool) []byte {
	out = binary.BigEndian.AppendUint16(out, channel)
	out = binary.BigEndian.AppendUint16(out, uint16(len(payload)))
	out = append(out, payload...)
	if stream {
		for n := len(payload); n&3 != 0; n++ {
			out = append(out, 0)
		}
	}
	return out
}

// parseChannelData reads a message that is no STUN message. Bytes behind the payload are padding, which §10.4 allows over
// UDP as well. payload aliases b.
func parseChannelData(b []byte) (channel uint16, payload []byte, ok bool) {
	if len(b) < channelHeader {
		return 0, nil, false
	}
	size := int(binary.BigEndian.Uint16(b[2:]))
	if size > len(b)-channelHeader {
		return 0, nil, false
	}
	return binary.BigEndian.Uint16(b), b[channelHeader : channelHeader+size : channelHeader+size], true
}

// isChannelData tells the two kinds of messages apart by the first two bits (§10.4).
func isChannelData(b []byte) bool { return len(b) > 0 && b[0]&0xC0 != 0 }

const (
	frameHead = 4                        // bytes that say how long a message on a stream is
	maxFrame  = stun.HeaderSize + 0xFFFC // bytes of the longest one, a STUN message
)

var errFrame = errors.New("what comes over TCP is neither STUN nor ChannelData")

// frameSize reports how many bytes the message at the start of a stream takes, of whose first bytes head has at least
// frameHead. At most maxFrame.
func frameSize(head []byte) (int, error) {
	size := int(binary.BigEndian.Uint16(head[2:]))
	if isChannelData(head) {
		return channelHeader + (size+3)&^3, nil
	}
	if size&3 != 0 {
		return 0, errFrame
	}
	return stun.HeaderSize + size, nil
}
