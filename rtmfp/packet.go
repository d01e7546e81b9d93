package rtmfp

import (
	"encoding/binary"
	"iter"
	"time"
)

// Mode is the mode of a packet (§2.2.4). Its zero is the forbidden value.
type Mode uint8

// The modes.
const (
	ModeForbidden Mode = iota
	ModeInitiator      // in a session, from its initiator
	ModeResponder      // in a session, from its responder
	ModeStartup        // session startup
)

func (m Mode) String() string {
	return [...]string{"forbidden", "initiator", "responder", "startup"}[m&3]
}

// Bits of the flags byte (§2.2.4).
const (
	flagTC  = 0x80
	flagTCR = 0x40
	flagTS  = 0x08
	flagTSE = 0x04
)

// Tick is the period of the clock that timestamps count (§2.2.4).
const Tick = 4 * time.Millisecond

// Header begins a plain packet (§2.2.4).
//
//	TC:1 TCR:1 reserved:2 TS:1 TSE:1 mode:2 [timestamp:16] [timestampEcho:16]
type Header struct {
	TimeCritical         bool
	TimeCriticalReverse  bool
	TimestampPresent     bool
	TimestampEchoPresent bool
	Mode                 Mode
	Timestamp            uint16 // in Ticks, if TimestampPresent
	TimestampEcho        uint16 // in Ticks, if TimestampEchoPresent
}

// maxHeaderSize is the size of a header with both timestamps.
const maxHeaderSize = 5

// AppendHeader appends h. Timestamps that are not present are not written.
func AppendHeader(b []byte, h Header) []byte {
	flags := byte(h.Mode) & 3
	if h.TimeCritical {
		flags |= flagTC
	}
	if h.TimeCriticalReverse {
		flags |= flagTCR
	}
	if h.TimestampPresent {
		flags |= flagTS
	}
	if h.TimestampEchoPresent {
		flags |= flagTSE
	}
	b = append(b, flags)
	if h.TimestampPresent {
		b = binary.BigEndian.AppendUint16(b, h.Timestamp)
	}
	if h.TimestampEchoPresent {
		b = binary.BigEndian.AppendUint16(b, h.TimestampEcho)
	}
	return b
}

// ParseHeader parses the header of a plain packet. chunks aliases b. Errors: ErrTruncated, ErrMode.
func ParseHeader(b []byte) (h Header, chunks []byte, err error) {
	if len(b) == 0 {
		return Header{}, nil, ErrTruncated
	}
	flags := b[0]
	b = b[1:]
	h = Header{
		TimeCritical:         flags&flagTC != 0,
		TimeCriticalReverse:  flags&flagTCR != 0,
		TimestampPresent:     flags&flagTS != 0,
		TimestampEchoPresent: flags&flagTSE != 0,
		Mode:                 Mode(flags & 3),
	}
	if h.Mode == ModeForbidden {
		return Header{}, nil, ErrMode
	}
	for _, field := range []struct {
		present bool
		value   *uint16
	}{{h.TimestampPresent, &h.Timestamp}, {h.TimestampEchoPresent, &h.TimestampEcho}} {
		if !field.present {
			continue
		}
		if len(b) < 2 {
			return Header{}, nil, ErrTruncated
		}
		*field.value = binary.BigEndian.Uint16(b)
		b = b[2:]
	}
	return h, b, nil
}

// Chunks yields the type and payload of every chunk of a packet. Payloads alias b. What does not hold a whole chunk is
// padding and ends the sequence (§2.2.4).
func Chunks(b []byte) iter.Seq2[ChunkType, []byte] {
	return func(yield func(ChunkType, []byte) bool) {
		for len(b) >= chunkHeaderSize {
			n := int(binary.BigEndian.Uint16(b[1:]))
			if len(b)-chunkHeaderSize < n {
				return
			}
			payload := b[chunkHeaderSize : chunkHeaderSize+n : chunkHeaderSize+n]
			if !yield(ChunkType(b[0]), payload) {
				return
			}
			b = b[chunkHeaderSize+n:]
		}
	}
}
