package rtmfp

import (
	"iter"
	"math"
)

// In this file every AppendX appends a whole chunk, header included, and every ParseX takes the payload of one. Parsed
// byte slices alias the payload. Errors are ErrTruncated and ErrRange, unless said otherwise. Ping and Ping Reply, whose
// payload is their message, and Close and Close Ack, which have none, are written with AppendChunk.

// MaxSequence is the highest sequence number that is accepted. At a million fragments a second a flow reaches it after
// 290,000 years; below it sums of two do not overflow.
const MaxSequence = math.MaxInt64

// FragmentControl says which part of a message a fragment is (§2.3.11).
type FragmentControl uint8

// The fragment controls. The wire gives zero a meaning.
const (
	FragmentWhole FragmentControl = iota
	FragmentBegin
	FragmentEnd
	FragmentMiddle
)

func (f FragmentControl) String() string {
	return [...]string{"whole", "begin", "end", "middle"}[f&3]
}

// Option types of User Data (§2.3.11.1). A flow with an unknown type below optionTypeOptional must be rejected.
const (
	OptionMetadata     = 0x00
	OptionAssociation  = 0x0a
	optionTypeOptional = 0x2000
)

// Bits of the flags byte (§2.3.11).
const (
	userDataOPT = 0x80
	userDataABN = 0x02
	userDataFIN = 0x01
)

// UserData is one fragment of a message (§2.3.11), and with FSNOffset 0 and Abandon an FSN Update (§3.6.2.7.1).
//
//	OPT:1 reserved:1 FRA:2 reserved:2 ABN:1 FIN:1 flowID:vlu sequenceNumber:vlu fsnOffset:vlu [options] userData[...]
type UserData struct {
	OptionsPresent bool
	Abandon        bool // the sender gave this sequence number up; Data is ignored
	Final          bool // this is the last sequence number of the flow
	Control        FragmentControl
	FlowID         uint64
	Sequence       uint64 // up to MaxSequence
	FSNOffset      uint64 // up to Sequence; 0 only with Abandon
	Options        OptionList
	Data           []byte
}

// ForwardSequence is the Forward Sequence Number: nothing up to it will be sent again.
func (u UserData) ForwardSequence() uint64 { return u.Sequence - u.FSNOffset }

func (u UserData) flags() byte {
	flags := byte(u.Control&3) << 4
	if u.OptionsPresent {
		flags |= userDataOPT
	}
	if u.Abandon {
		flags |= userDataABN
	}
	if u.Final {
		flags |= userDataFIN
	}
	return flags
}

func (u *UserData) setFlags(flags byte) {
	u.OptionsPresent = flags&userDataOPT != 0
	u.Abandon = flags&userDataABN != 0
	u.Final = flags&userDataFIN != 0
	u.Control = FragmentControl(flags >> 4 & 3)
}

// appendTail appends the options, if any, and the data.
func (u UserData) appendTail(b []byte) []byte {
	if u.OptionsPresent {
		b = AppendOptionList(b, u.Options)
	}
	return append(b, u.Data...)
}

func (u *UserData) parseTail(b []byte) (err error) {
	if u.OptionsPresent {
		if u.Options, b, err = ParseOptionList(b); err != nil {
			return err
		}
	}
	u.Data = b
	return nil
}

// AppendUserData appends u.
func AppendUserData(b []byte, u UserData) []byte {
	b, at := beginChunk(b, ChunkUserData)
	b = append(b, u.flags())
	b = AppendVLU(b, u.FlowID)
	b = AppendVLU(b, u.Sequence)
	b = AppendVLU(b, u.FSNOffset)
	return endChunk(u.appendTail(b), at)
}

// ParseUserData parses a UserData. Also: ErrFSNOffset.
func ParseUserData(b []byte) (u UserData, err error) {
	if len(b) == 0 {
		return UserData{}, ErrTruncated
	}
	u.setFlags(b[0])
	b = b[1:]
	for _, field := range []*uint64{&u.FlowID, &u.Sequence, &u.FSNOffset} {
		if *field, b, err = ParseVLU(b); err != nil {
			return UserData{}, err
		}
	}
	if u.Sequence > MaxSequence {
		return UserData{}, ErrRange
	}
	if u.FSNOffset > u.Sequence || u.FSNOffset == 0 && !u.Abandon {
		return UserData{}, ErrFSNOffset
	}
	if err = u.parseTail(b); err != nil {
		return UserData{}, err
	}
	return u, nil
}

// AppendNextUserData appends u as a Next User Data chunk (§2.3.12): of the same flow and the same Forward Sequence Number
// as the UserData before it in the packet, with the next sequence number. Those fields are not written.
//
//	OPT:1 reserved:1 FRA:2 reserved:2 ABN:1 FIN:1 [options] userData[...]
func AppendNextUserData(b []byte, u UserData) []byte {
	b, at := beginChunk(b, ChunkNextUserData)
	return endChunk(u.appendTail(append(b, u.flags())), at)
}

// ParseNextUserData parses a Next User Data chunk that follows previous in its packet. FlowID, Sequence and FSNOffset of
// the result are what previous implies.
func ParseNextUserData(b []byte, previous UserData) (u UserData, err error) {
	if len(b) == 0 {
		return UserData{}, ErrTruncated
	}
	if previous.Sequence >= MaxSequence {
		return UserData{}, ErrRange
	}
	u.setFlags(b[0])
	u.FlowID, u.Sequence, u.FSNOffset = previous.FlowID, previous.Sequence+1, previous.FSNOffset+1
	if err = u.parseTail(b[1:]); err != nil {
		return UserData{}, err
	}
	return u, nil
}

// AckBlock is the unit in which a receive window is advertised (§2.3.13).
const AckBlock = 1024

// Ack is a Data Acknowledgement in either form (§2.3.13, §2.3.14).
//
//	flowID:vlu bufferBlocksAvailable:vlu cumulativeAck:vlu then a bit field or pairs of holesMinusOne:vlu receivedMinusOne:vlu
type Ack struct {
	FlowID       uint64
	BufferBlocks uint64 // of AckBlock bytes, that the receiver can accept
	Cumulative   uint64 // everything up to it is acknowledged
	runs         []byte // what follows, in the form that bitmap says
	bitmap       bool
}

// Range is a run of sequence numbers, both ends included.
type Range struct{ From, To uint64 }

// AppendAckRanges appends a Data Acknowledgement Ranges chunk (§2.3.14) of a and of ranges above a.Cumulative, which must be
// in ascending order with at least one number missing before each. At most limit bytes are appended, and as many ranges
// as fit; limit must be at least MaxAckSize.
func AppendAckRanges(b []byte, a Ack, ranges []Range, limit int) []byte {
	b, at := beginChunk(b, ChunkAckRanges)
	b = AppendVLU(b, a.FlowID)
	b = AppendVLU(b, a.BufferBlocks)
	b = AppendVLU(b, a.Cumulative)
	cursor := a.Cumulative
	for _, r := range ranges {
		holes, received := r.From-cursor-2, r.To-r.From
		if len(b)-at+SizeVLU(holes)+SizeVLU(received) > limit {
			break
		}
		b = AppendVLU(AppendVLU(b, holes), received)
		cursor = r.To
	}
	return endChunk(b, at)
}

// MaxAckSize is the size of the largest acknowledgement chunk without ranges.
const MaxAckSize = chunkHeaderSize + 3*MaxVLUSize

// AppendAckBitmap appends a Data Acknowledgement Bitmap chunk (§2.3.13) of a and of ranges, as AppendAckRanges does.
// The bit field is as long as the highest number that fits needs.
func AppendAckBitmap(b []byte, a Ack, ranges []Range, limit int) []byte {
	b, at := beginChunk(b, ChunkAckBitmap)
	b = AppendVLU(b, a.FlowID)
	b = AppendVLU(b, a.BufferBlocks)
	b = AppendVLU(b, a.Cumulative)
	field := len(b)
	for _, r := range ranges {
		for n := r.From; n <= r.To; n++ {
			// The least significant bit of the first byte is cumulative + 2: one below it cannot be received.
			bit := n - a.Cumulative - 2
			for uint64(len(b)-field) <= bit/8 {
				if len(b)-at >= limit {
					return endChunk(b, at)
				}
				b = append(b, 0)
			}
			b[field+int(bit/8)] |= 1 << (bit % 8)
		}
	}
	return endChunk(b, at)
}

// ParseAck parses an acknowledgement of type t, which is ChunkAckBitmap or ChunkAckRanges. A range that is cut off at the
// end of the payload is passed over without error (§2.3.14).
func ParseAck(t ChunkType, b []byte) (a Ack, err error) {
	for _, field := range []*uint64{&a.FlowID, &a.BufferBlocks, &a.Cumulative} {
		if *field, b, err = ParseVLU(b); err != nil {
			return Ack{}, err
		}
	}
	if a.Cumulative > MaxSequence {
		return Ack{}, ErrRange
	}
	a.runs, a.bitmap = b, t == ChunkAckBitmap
	return a, nil
}

// Ranges yields the acknowledged runs above Cumulative in ascending order. It stops where the encoding is cut off or
// passes MaxSequence. Runs of a bit field that touch across bytes come as one.
func (a Ack) Ranges() iter.Seq[Range] {
	if a.bitmap {
		return a.bitmapRanges
	}
	return a.pairRanges
}

func (a Ack) pairRanges(yield func(Range) bool) {
	cursor := a.Cumulative
	for b := a.runs; len(b) > 0; {
		holes, rest, err := ParseVLU(b)
		if err != nil {
			return
		}
		received, rest, err := ParseVLU(rest)
		if err != nil {
			return
		}
		if holes > MaxSequence-2 || cursor > MaxSequence-2-holes {
			return
		}
		r := Range{From: cursor + holes + 2}
		if received > MaxSequence-r.From {
			return
		}
		r.To = r.From + received
		if !yield(r) {
			return
		}
		cursor, b = r.To, rest
	}
}

func (a Ack) bitmapRanges(yield func(Range) bool) {
	if a.Cumulative > MaxSequence-2-8*uint64(len(a.runs)) {
		return
	}
	var run Range
	for i, c := range a.runs {
		for bit := range 8 {
			if c>>bit&1 == 0 {
				continue
			}
			n := a.Cumulative + 2 + uint64(8*i+bit)
			if run.To != 0 && run.To == n-1 {
				run.To = n
				continue
			}
			if run.To != 0 && !yield(run) {
				return
			}
			run = Range{n, n}
		}
	}
	if run.To != 0 {
		yield(run)
	}
}

// BufferProbe asks for an acknowledgement, to learn the receive window of a flow (§2.3.15).
//
//	flowID:vlu
type BufferProbe struct{ FlowID uint64 }

// AppendBufferProbe appends p.
func AppendBufferProbe(b []byte, p BufferProbe) []byte {
	b, at := beginChunk(b, ChunkBufferProbe)
	return endChunk(AppendVLU(b, p.FlowID), at)
}

// ParseBufferProbe parses a BufferProbe.
func ParseBufferProbe(b []byte) (p BufferProbe, err error) {
	p.FlowID, _, err = ParseVLU(b)
	return p, err
}

// FlowException says that the receiver rejects a flow (§2.3.16).
//
//	flowID:vlu exception:vlu
type FlowException struct {
	FlowID uint64
	Code   uint64 // 0 for an automatic rejection; the rest is the application's
}

// AppendFlowException appends e.
func AppendFlowException(b []byte, e FlowException) []byte {
	b, at := beginChunk(b, ChunkFlowException)
	return endChunk(AppendVLU(AppendVLU(b, e.FlowID), e.Code), at)
}

// ParseFlowException parses a FlowException.
func ParseFlowException(b []byte) (e FlowException, err error) {
	if e.FlowID, b, err = ParseVLU(b); err != nil {
		return FlowException{}, err
	}
	if e.Code, _, err = ParseVLU(b); err != nil {
		return FlowException{}, err
	}
	return e, nil
}
