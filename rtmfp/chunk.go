package rtmfp

import (
	"encoding/binary"
	"fmt"
)

// ChunkType is the type code of a chunk (§2.3).
type ChunkType uint8

// The chunk types (§2.3), in the order of a typical session.
const (
	ChunkFragment      ChunkType = 0x7f
	ChunkIHello        ChunkType = 0x30
	ChunkFIHello       ChunkType = 0x0f
	ChunkRHello        ChunkType = 0x70
	ChunkRedirect      ChunkType = 0x71
	ChunkCookieChange  ChunkType = 0x79
	ChunkIIKeying      ChunkType = 0x38
	ChunkRIKeying      ChunkType = 0x78
	ChunkPing          ChunkType = 0x01
	ChunkPingReply     ChunkType = 0x41
	ChunkUserData      ChunkType = 0x10
	ChunkNextUserData  ChunkType = 0x11
	ChunkAckBitmap     ChunkType = 0x50
	ChunkAckRanges     ChunkType = 0x51
	ChunkBufferProbe   ChunkType = 0x18
	ChunkFlowException ChunkType = 0x5e
	ChunkClose         ChunkType = 0x0c
	ChunkCloseAck      ChunkType = 0x4c
	ChunkPadding       ChunkType = 0x00
	ChunkPaddingFF     ChunkType = 0xff
)

func (t ChunkType) String() string {
	switch t {
	case ChunkFragment:
		return "Fragment"
	case ChunkIHello:
		return "IHello"
	case ChunkFIHello:
		return "FIHello"
	case ChunkRHello:
		return "RHello"
	case ChunkRedirect:
		return "Redirect"
	case ChunkCookieChange:
		return "CookieChange"
	case ChunkIIKeying:
		return "IIKeying"
	case ChunkRIKeying:
		return "RIKeying"
	case ChunkPing:
		return "Ping"
	case ChunkPingReply:
		return "PingReply"
	case ChunkUserData:
		return "UserData"
	case ChunkNextUserData:
		return "NextUserData"
	case ChunkAckBitmap:
		return "AckBitmap"
	case ChunkAckRanges:
		return "AckRanges"
	case ChunkBufferProbe:
		return "BufferProbe"
	case ChunkFlowException:
		return "FlowException"
	case ChunkClose:
		return "Close"
	case ChunkCloseAck:
		return "CloseAck"
	case ChunkPadding, ChunkPaddingFF:
		return "Padding"
	}
	return fmt.Sprintf("0x%02x", uint8(t))
}

const (
	chunkHeaderSize = 3
	maxChunkPayload = 1<<16 - 1
)

// beginChunk appends the header of a chunk whose length endChunk fills in; at is where the chunk begins.
func beginChunk(b []byte, t ChunkType) (out []byte, at int) {
	return append(b, byte(t), 0, 0), len(b)
}

// endChunk writes the length of the chunk that begins at at. A payload above 65535 bytes is the caller's mistake: no
// field that comes from the network can be as long, because it came in a chunk.
func endChunk(b []byte, at int) []byte {
	n := len(b) - at - chunkHeaderSize
	if n > maxChunkPayload {
		panic(fmt.Sprintf("BUG: rtmfp: a %v chunk of %d bytes", ChunkType(b[at]), n))
	}
	binary.BigEndian.PutUint16(b[at+1:], uint16(n))
	return b
}

// AppendChunk appends a chunk of any type with the payload. It panics if the payload is longer than 65535 bytes.
func AppendChunk(b []byte, t ChunkType, payload []byte) []byte {
	b, at := beginChunk(b, t)
	return endChunk(append(b, payload...), at)
}
