package turn

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/stilenet/stile/stun"
)

// A transcript is the control messages of one allocation as text: what [Core.Trace] reports, written down by a person's
// tool and read by a test. The first line is the header; each line after it is a message: the time since the first one,
// < from the client or > to it, and the message in hexadecimal. Blank lines and lines that begin with # are comments.
//
//	stile-turn-transcript 1
//	+0s < 000300082112a4421111111111111111111111110019000411000000
//	+250.5ms > 010300202112a442…
const (
	transcriptMagic   = "stile-turn-transcript"
	transcriptVersion = 1

	maxTranscript     = maxTraceEvents   // messages: what one trace reports
	maxTranscriptLine = 2*MaxFrame + 256 // bytes: the longest message and what stands before it
)

// Errors of ParseTranscript, wrapped with the number of the line.
var (
	ErrTranscriptHeader  = errors.New("the first line must be \"stile-turn-transcript 1\"")
	ErrTranscriptLine    = errors.New("want the time since the first message, < or >, and a STUN message in hexadecimal")
	ErrTranscriptTime    = errors.New("the time must not be negative or before the line above")
	ErrTranscriptTooLong = errors.New("more than 1000 messages")
)

// TranscriptMessage is one line of a transcript.
type TranscriptMessage struct {
	At   time.Duration // since the first message
	Out  bool          // the server sent it
	Data []byte        // a STUN message
}

// AppendTranscriptHeader appends the first line of a transcript.
func AppendTranscriptHeader(b []byte) []byte {
	b = append(b, transcriptMagic+" "...)
	b = strconv.AppendInt(b, transcriptVersion, 10)
	return append(b, '\n')
}

// Append appends the message's line, its end included.
func (m *TranscriptMessage) Append(b []byte) []byte {
	b = append(b, '+')
	b = append(b, m.At.String()...)
	if m.Out {
		b = append(b, " > "...)
	} else {
		b = append(b, " < "...)
	}
	b = hex.AppendEncode(b, m.Data)
	return append(b, '\n')
}

// ParseTranscript reads a transcript of at most 1,000 messages. Its errors name the line and wrap one of
// ErrTranscriptHeader, ErrTranscriptLine, ErrTranscriptTime, ErrTranscriptTooLong, an error of stun.Parse or one of the reader.
func ParseTranscript(r io.Reader) (messages []TranscriptMessage, err error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxTranscriptLine)
	n, header := 0, false
	for lines.Scan() {
		n++
		line := strings.TrimSpace(lines.Text())
		switch {
		case line == "", line[0] == '#':
			continue
		case !header:
			if line != fmt.Sprintf("%s %d", transcriptMagic, transcriptVersion) {
				return nil, fmt.Errorf("turn: transcript: line %d: %w", n, ErrTranscriptHeader)
			}
			header = true
			continue
		case len(messages) == maxTranscript:
			return nil, fmt.Errorf("turn: transcript: line %d: %w", n, ErrTranscriptTooLong)
		}
		m, err := parseTranscriptLine(line)
		if err == nil && (m.At < 0 || len(messages) > 0 && m.At < messages[len(messages)-1].At) {
			err = ErrTranscriptTime
		}
		if err != nil {
			return nil, fmt.Errorf("turn: transcript: line %d: %w", n, err)
		}
		messages = append(messages, m)
	}
	switch err := lines.Err(); {
	case err != nil:
		return nil, fmt.Errorf("turn: transcript: line %d: %w", n+1, err)
	case !header:
		return nil, fmt.Errorf("turn: transcript: line %d: %w", n+1, ErrTranscriptHeader)
	}
	return messages, nil
}

func parseTranscriptLine(line string) (m TranscriptMessage, err error) {
	fields := strings.Fields(line)
	if len(fields) != 3 || fields[0][0] != '+' || fields[1] != "<" && fields[1] != ">" {
		return m, ErrTranscriptLine
	}
	if m.At, err = time.ParseDuration(fields[0][1:]); err != nil {
		return m, ErrTranscriptLine
	}
	m.Out = fields[1] == ">"
	if m.Data, err = hex.DecodeString(fields[2]); err != nil {
		return m, ErrTranscriptLine
	}
	_, err = stun.Parse(m.Data)
	return m, err
}
