package flash

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/stilenet/stile/rtmfp"
)

// MaxStreamID is the highest stream ID (§5.1).
const MaxStreamID = 1<<24 - 1

// Bits of the flags of a flow's metadata (§5.1.1).
const (
	tcStreamIDPresent = 0x04
	tcReceiveIntent   = 0x01
)

// What does not parse.
var (
	// ErrMetadata means that a flow is not one for messages: it should be rejected (§5.1.1).
	ErrMetadata = errors.New("flash: not the metadata of a message flow")
	// ErrMessage means that a message is shorter than its header, or is not of the type that it should be parsed as.
	ErrMessage = errors.New("flash: not such a message")
)

// FlowMetadata is the User Metadata of a flow of messages (§5.1.1).
//
//	'T' 'C' reserved:5 streamIDPresent:1 reserved:1 receiveIntent:1 streamID:vlu
type FlowMetadata struct {
	StreamID     uint32 // 0 is a NetConnection
	NetworkOrder bool   // the sender hints that messages be delivered as they arrive
}

// AppendFlowMetadata appends m. It panics if the stream ID is above MaxStreamID.
func AppendFlowMetadata(b []byte, m FlowMetadata) []byte {
	if m.StreamID > MaxStreamID {
		panic(fmt.Sprintf("BUG: flash: stream ID %d", m.StreamID))
	}
	flags := byte(tcStreamIDPresent)
	if m.NetworkOrder {
		flags |= tcReceiveIntent
	}
	return rtmfp.AppendVLU(append(b, 'T', 'C', flags), uint64(m.StreamID))
}

// ParseFlowMetadata parses the metadata of a flow. What follows the stream ID is ignored. Error: ErrMetadata.
func ParseFlowMetadata(b []byte) (FlowMetadata, error) {
	if len(b) < 4 || b[0] != 'T' || b[1] != 'C' || b[2]&tcStreamIDPresent == 0 {
		return FlowMetadata{}, ErrMetadata
	}
	id, _, err := rtmfp.ParseVLU(b[3:])
	if err != nil || id > MaxStreamID {
		return FlowMetadata{}, ErrMetadata
	}
	return FlowMetadata{StreamID: uint32(id), NetworkOrder: b[2]&tcReceiveIntent != 0}, nil
}

// MessageType is the type of an RTMP message (§5.1).
type MessageType uint8

// The types. Types 1, 2, 3, 5 and 6 are RTMP's own transport's and must be ignored; so are all that are not listed.
const (
	MessageUserControl MessageType = 4
	MessageAudio       MessageType = 8
	MessageVideo       MessageType = 9
	MessageDataAMF3    MessageType = 15 // a format byte, then AMF0 values, of which some are AMF3
	MessageCommandAMF3 MessageType = 17 // a format byte, then AMF0 values, of which some are AMF3
	MessageDataAMF0    MessageType = 18
	MessageCommandAMF0 MessageType = 20
)

func (t MessageType) String() string {
	switch t {
	case MessageUserControl:
		return "user-control"
	case MessageAudio:
		return "audio"
	case MessageVideo:
		return "video"
	case MessageDataAMF3, MessageDataAMF0:
		return "data"
	case MessageCommandAMF3, MessageCommandAMF0:
		return "command"
	}
	return fmt.Sprintf("type-%d", uint8(t))
}

// Message is an RTMP message (§5.1.2).
//
//	messageType:8 timestamp:32 messagePayload[...]
type Message struct {
	Type      MessageType
	Timestamp uint32 // milliseconds; it wraps around
	Payload   []byte
}

const messageHeaderSize = 1 + 4

// AppendMessage appends m.
func AppendMessage(b []byte, m Message) []byte {
	b = binary.BigEndian.AppendUint32(append(b, byte(m.Type)), m.Timestamp)
	return append(b, m.Payload...)
}

// ParseMessage parses what a flow delivered. The payload aliases b. Error: ErrMessage.
func ParseMessage(b []byte) (Message, error) {
	if len(b) < messageHeaderSize {
		return Message{}, ErrMessage
	}
	return Message{Type: MessageType(b[0]), Timestamp: binary.BigEndian.Uint32(b[1:]), Payload: b[messageHeaderSize:]}, nil
}

// UserControlEvent is the event type of a User Control message.
type UserControlEvent uint16

// The events, with what First and Second of a UserControl are for them.
const (
	StreamBegin     UserControlEvent = 0  // stream ID
	StreamEOF       UserControlEvent = 1  // stream ID
	StreamDry       UserControlEvent = 2  // stream ID
	SetBufferLength UserControlEvent = 3  // stream ID, milliseconds
	StreamRecorded  UserControlEvent = 4  // stream ID
	FlowSync        UserControlEvent = 34 // sync ID, number of flows (§5.2)
	SetKeepalive    UserControlEvent = 41 // milliseconds for the server's session, for peers' sessions (§5.3.4)
)

// UserControl is the payload of a User Control message.
//
//	eventType:16 first:32 [second:32]
type UserControl struct {
	Event         UserControlEvent
	First, Second uint32
}

func (e UserControlEvent) hasSecond() bool {
	return e == SetBufferLength || e == FlowSync || e == SetKeepalive
}

// AppendUserControl appends a whole message, with timestamp 0. Second is written for the events that have one.
func AppendUserControl(b []byte, c UserControl) []byte {
	b = append(b, byte(MessageUserControl), 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(c.Event))
	b = binary.BigEndian.AppendUint32(b, c.First)
	if c.Event.hasSecond() {
		b = binary.BigEndian.AppendUint32(b, c.Second)
	}
	return b
}

// ParseUserControl parses a message of that type. What follows is ignored; what an event unknown here lacks is 0.
// Error: ErrMessage.
func ParseUserControl(m Message) (UserControl, error) {
	if m.Type != MessageUserControl || len(m.Payload) < 2 {
		return UserControl{}, ErrMessage
	}
	c := UserControl{Event: UserControlEvent(binary.BigEndian.Uint16(m.Payload))}
	rest := m.Payload[2:]
	if len(rest) >= 4 {
		c.First = binary.BigEndian.Uint32(rest)
	}
	if len(rest) >= 8 {
		c.Second = binary.BigEndian.Uint32(rest[4:])
	}
	known := c.Event <= StreamRecorded || c.Event.hasSecond()
	if known && len(rest) < 4 || c.Event.hasSecond() && len(rest) < 8 || c.Event == FlowSync && c.Second == 0 {
		return UserControl{}, ErrMessage
	}
	return c, nil
}
