package flash

// § means annex E of "Adobe Flash Video File Format Specification", version 10.1.

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// From the specification.
const (
	flvHeaderSize   = 9  // §E.2, without PreviousTagSize0
	flvTagHeader    = 11 // §E.4.1
	flvFlagAudio    = 0x04
	flvFlagVideo    = 0x01
	flvTagTypeMask  = 0x1f
	flvFilterFlag   = 0x20 // the payload is encrypted (§F)
	maxFLVDataSize  = 1<<24 - 1
	flvBackPointer  = 4 // PreviousTagSize
	flvOldestFormat = 1
)

// Ours to tune.
const (
	// MaxFLVPayload bounds the bytes of one tag's payload that an FLVReader takes: a key frame of 1080p at the quality of a camera is
	// about a tenth of it.
	MaxFLVPayload = 4 << 20
	// maxFLVHeader bounds how far DataOffset may point: every version so far says 9.
	maxFLVHeader = 4096
	// flvChunk is how much is read before the file has shown that it holds what a tag's size claims.
	flvChunk = 64 << 10
)

// Errors of an FLVReader, wrapped with the position in bytes.
var (
	ErrNotFLV       = errors.New("not an FLV file")
	ErrFLVTruncated = errors.New("the FLV file ends inside a tag")
	ErrFLVTag       = errors.New("an FLV tag that cannot be played")
)

// FLVReader reads the tags of an FLV file one by one. A tag is what a NetStream carries as one message: the types are the same, and
// the timestamp is extended to 32 bits (§E.4.1). It is not safe for concurrent use.
type FLVReader struct {
	r            *bufio.Reader
	offset       int64 // of the next byte
	started      bool
	audio, video bool
	payload      []byte
}

// NewFLVReader returns a reader of the file that r holds. Nothing is read before the first Next.
func NewFLVReader(r io.Reader) *FLVReader { return &FLVReader{r: bufio.NewReaderSize(r, flvChunk)} }

// Claims reports what the file's header says about its tags (§E.2); many files say it wrongly. It is known after the first Next.
func (f *FLVReader) Claims() (audio, video bool) { return f.audio, f.video }

// Next returns the next tag; its Payload is valid until the call after it. At the end of the file the error is io.EOF; otherwise it wraps
// ErrNotFLV, ErrFLVTruncated, ErrFLVTag, or is the reader's own. PreviousTagSize is not looked at: it serves reading backwards, and writers
// get it wrong.
func (f *FLVReader) Next() (Message, error) {
	if !f.started {
		if err := f.header(); err != nil {
			return Message{}, err
		}
		f.started = true
	}
	for {
		at := f.offset
		var h [flvTagHeader]byte
		if err := f.full(h[:]); err != nil {
			// Some writers leave out the last PreviousTagSize, others cut it: both end the file at a tag's border.
			if errors.Is(err, io.EOF) && f.offset-at == 0 {
				return Message{}, io.EOF
			}
			return Message{}, f.truncated(err, at)
		}
		size := int(h[1])<<16 | int(h[2])<<8 | int(h[3])
		if size > MaxFLVPayload {
			return Message{}, fmt.Errorf("flash: at byte %d: %w: its payload has %d bytes, more than %d: encode the file with a lower bit rate", at, ErrFLVTag, size, MaxFLVPayload)
		}
		payload, err := f.body(size)
		if err != nil {
			return Message{}, f.truncated(err, at)
		}
		var back [flvBackPointer]byte
		if err := f.full(back[:]); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return Message{}, err
		}
		if h[0]&flvFilterFlag != 0 {
			return Message{}, fmt.Errorf("flash: at byte %d: %w: it is encrypted: export the file without protection", at, ErrFLVTag)
		}
		switch t := MessageType(h[0] & flvTagTypeMask); t {
		case MessageAudio, MessageVideo, MessageDataAMF0:
			return Message{t, uint32(h[7])<<24 | uint32(h[4])<<16 | uint32(h[5])<<8 | uint32(h[6]), payload}, nil
		}
		// §E.4.1: other types are reserved, and a reader passes over them.
	}
}

func (f *FLVReader) header() error {
	var h [flvHeaderSize]byte
	if err := f.full(h[:]); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("flash: %w: it has %d bytes", ErrNotFLV, f.offset)
		}
		return err
	}
	if string(h[:3]) != "FLV" {
		return fmt.Errorf("flash: %w: it begins with %q: convert it first, such as with `ffmpeg -i FILE -c copy out.flv`", ErrNotFLV, h[:3])
	}
	offset := binary.BigEndian.Uint32(h[5:])
	if h[3] < flvOldestFormat || offset < flvHeaderSize || offset > maxFLVHeader {
		return fmt.Errorf("flash: %w: version %d with a header of %d bytes", ErrNotFLV, h[3], offset)
	}
	f.audio, f.video = h[4]&flvFlagAudio != 0, h[4]&flvFlagVideo != 0
	// PreviousTagSize0 follows whatever else the header holds.
	if _, err := f.body(int(offset) - flvHeaderSize + flvBackPointer); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	return nil
}

// body reads n bytes into the reader's own buffer, which grows with what the file really holds and not with what it claims.
func (f *FLVReader) body(n int) ([]byte, error) {
	f.payload = f.payload[:0]
	for len(f.payload) < n {
		step := min(n-len(f.payload), flvChunk)
		start := len(f.payload)
		if cap(f.payload)-start < step {
			f.payload = append(f.payload, make([]byte, step)...)
		} else {
			f.payload = f.payload[:start+step]
		}
		if err := f.full(f.payload[start:]); err != nil {
			return nil, err
		}
	}
	return f.payload, nil
}

func (f *FLVReader) full(b []byte) error {
	n, err := io.ReadFull(f.r, b)
	f.offset += int64(n)
	return err
}

func (f *FLVReader) truncated(err error, at int64) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("flash: at byte %d: %w", at, ErrFLVTruncated)
	}
	return err
}

// FLVWriter writes an FLV file. It is not safe for concurrent use.
type FLVWriter struct {
	w   io.Writer
	buf []byte
}

// NewFLVWriter writes the header of a file that will hold audio, video or both to w, and returns a writer of its tags.
func NewFLVWriter(w io.Writer, audio, video bool) (*FLVWriter, error) {
	h := []byte{'F', 'L', 'V', flvOldestFormat, 0, 0, 0, 0, flvHeaderSize, 0, 0, 0, 0}
	if audio {
		h[4] |= flvFlagAudio
	}
	if video {
		h[4] |= flvFlagVideo
	}
	if _, err := w.Write(h); err != nil {
		return nil, err
	}
	return &FLVWriter{w: w}, nil
}

// WriteTag writes one tag in one Write, so that a file is cut at a tag's border wherever writing stops. It fails with ErrFLVTag for a type
// that is not audio, video or AMF0 script data, and for a payload of 16 MiB or more.
func (f *FLVWriter) WriteTag(t Message) error {
	switch t.Type {
	case MessageAudio, MessageVideo, MessageDataAMF0:
	default:
		return fmt.Errorf("flash: %w: a file has no place for type %d", ErrFLVTag, t.Type)
	}
	n := len(t.Payload)
	if n > maxFLVDataSize {
		return fmt.Errorf("flash: %w: its payload has %d bytes", ErrFLVTag, n)
	}
	b := append(f.buf[:0], byte(t.Type), byte(n>>16), byte(n>>8), byte(n),
		byte(t.Timestamp>>16), byte(t.Timestamp>>8), byte(t.Timestamp), byte(t.Timestamp>>24), 0, 0, 0)
	b = append(b, t.Payload...)
	f.buf = binary.BigEndian.AppendUint32(b, uint32(flvTagHeader+n))
	_, err := f.w.Write(f.buf)
	return err
}
