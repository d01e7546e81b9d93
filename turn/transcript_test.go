package turn

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stilenet/stile/stun"
)

// trace runs a session of a draft-08 client and returns its transcript.
func traceSession(t *testing.T) (transcript []byte, s *server) {
	s = newServer(t, setup{})
	s.cores[0].TraceNext(netip.MustParsePrefix("198.51.100.77/32"), 1)
	s.client("198.51.100.78:7000").allocate() // not traced
	c := s.client("198.51.100.77:7000")
	c.request(stun.Refresh) // 437 for a start
	s.after(250 * time.Millisecond)
	b := c.message(stun.Allocate, stun.Request, udp, lifetimeOf(700), value(stun.AttrSoftware, []byte("Flash")...))
	c.ask(b)
	c.ask(b)
	c.sendTo("203.0.113.99:19350", "secret payload")
	c.hears("203.0.113.99:19350")
	s.after(time.Second)
	c.give(c.message(stun.Send, stun.Indication, peerOf("203.0.113.98:0")))
	c.request(stun.ChannelBind, channelOf(0x4001), peerOf("203.0.113.98:1935"), (*stun.Builder).Fingerprint)
	c.channel(0x4001, "not a control message")
	c.request(stun.ChannelBind, channelOf(0xFFFF), peerOf("203.0.113.98:1935"))
	s.after(500 * time.Second)
	c.request(stun.Refresh, value(stun.AttrUsername, []byte("somebody")...), value(0x8777, []byte("203.0.113.99")...))
	c.request(stun.Refresh, value(0x7777))
	c.request(stun.Refresh, lifetimeOf(0))
	transcript = AppendTranscriptHeader(nil)
	var first time.Time
	for _, e := range s.events {
		if e.Kind != EventTrace {
			continue
		}
		if first.IsZero() {
			first = e.At
		}
		m := TranscriptMessage{At: e.At.Sub(first), Out: e.Out, Data: e.Data}
		transcript = m.Append(transcript)
	}
	return transcript, s
}

func TestTranscriptIsWhatTheDocumentsSay(t *testing.T) {
	got, _ := traceSession(t)
	const file = "testdata/transcript.txt"
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%v\n got %s\nwant %s", err, got, want)
	}
}

func TestTraceIsScrubbed(t *testing.T) {
	transcript, _ := traceSession(t)
	messages, err := ParseTranscript(bytes.NewReader(transcript))
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range messages {
		for _, secret := range []string{"secret", "somebody", "203.0.113.99", "ping"} {
			if bytes.Contains(m.Data, []byte(secret)) {
				t.Errorf("message %d: %q in %x", i, secret, m.Data)
			}
		}
		for _, hidden := range []string{"198.51.100.77", "203.0.113.99", "203.0.113.98", "192.0.2.15"} {
			a := ipOf(hidden).As4()
			x := a
			for k, b := range []byte{0x21, 0x12, 0xA4, 0x42} {
				x[k] ^= b
			}
			if bytes.Contains(m.Data, a[:]) || bytes.Contains(m.Data, x[:]) {
				t.Errorf("message %d: %v in %x", i, hidden, m.Data)
			}
		}
	}
	if len(messages) != 2+2+2+1+1+1+2+2+2+2+2 {
		t.Errorf("%d messages:\n%s", len(messages), transcript)
	}
}

// TestTraceReplays feeds a transcript to a core that has never seen the client and compares the answers: a trace from a real player
// is a test vector.
func TestTraceReplays(t *testing.T) {
	transcript, err := os.ReadFile("testdata/transcript.txt")
	if err != nil {
		t.Fatal(err)
	}
	messages, err := ParseTranscript(bytes.NewReader(transcript))
	if err != nil {
		t.Fatal(err)
	}
	var src Source
	var relayed netip.AddrPort
	for _, m := range messages {
		v, err := stun.Parse(m.Data)
		if err != nil {
			t.Fatal(err)
		}
		if a, ok := v.GetXORAddress(stun.AttrXORRelayedAddress); ok {
			relayed = a
			src.Client, _ = v.GetXORAddress(stun.AttrXORMappedAddress)
		}
	}
	src.Server = endpointOf("192.0.2.10:3478")
	s := newServer(t, setup{
		relays: []RelayAddress{{relayed.Addr(), relayed.Addr()}}, ports: PortRange{relayed.Port(), relayed.Port()},
	})
	var out []Output
	for i, m := range messages {
		s.now = testEpoch.Add(m.At)
		v, _ := stun.Parse(m.Data)
		if !m.Out {
			out = s.from(0, src, m.Data)
			continue
		}
		if v.Method() == stun.Data {
			from, _ := v.GetXORAddress(stun.AttrXORPeerAddress)
			data, _ := v.Get(stun.AttrData)
			out = s.peer(relayed, from.String(), data)
		}
		if len(out) != 1 {
			t.Fatalf("message %d: %+v instead of %x", i, out, m.Data)
		}
		if v.Method() == stun.Data {
			copy(out[0].Data[8:20], m.Data[8:20]) // its transaction ID is a random one
		}
		a, _ := stun.Parse(out[0].Data)
		b, _ := stun.Parse(m.Data)
		if g, w := describe(a), describe(b); g != w {
			t.Errorf("message %d:\n got %s\nwant %s", i, g, w)
		}
	}
}

// describe writes a message so that two can be compared whose transaction IDs differ.
func describe(m stun.Message) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%#x", uint16(m.Type()))
	for it := m.Attrs(); it.Next(); {
		switch it.Type {
		case stun.AttrXORPeerAddress, stun.AttrXORRelayedAddress, stun.AttrXORMappedAddress:
			a, _ := m.XORAddress(it.Value)
			fmt.Fprintf(&b, " %#x=%v", uint16(it.Type), a)
		case stun.AttrFingerprint:
			b.WriteString(" FINGERPRINT")
		default:
			fmt.Fprintf(&b, " %#x=%x", uint16(it.Type), it.Value)
		}
	}
	return b.String()
}

func TestTracesAreBounded(t *testing.T) {
	s := newServer(t, setup{})
	core := s.cores[0]
	core.TraceNext(netip.MustParsePrefix("0.0.0.0/0"), 100)
	traced := func() int { return len(core.traces.sessions) }
	var last *client
	for k := range maxTraces + 3 {
		last = s.client(fmt.Sprintf("198.51.100.1:%d", 7000+k)).allocate()
	}
	same(t, "traced", traced(), maxTraces)
	session, _ := last.session()
	same(t, "one more", core.Trace(s.now, session.ID), false)
	same(t, "none", core.Trace(s.now, 12345), false)
	core.TraceNext(netip.Prefix{}, 0)
	first := s.client("198.51.100.1:7000")
	for range maxTraceEvents {
		first.sendTo("203.0.113.5:5000", "x")
	}
	same(t, "a trace ends", traced(), maxTraces-1)
	for id := range core.traces.sessions {
		core.Untrace(id)
	}
	same(t, "untraced", traced(), 0)
	same(t, "again", core.Trace(s.now, session.ID), true)
	same(t, "twice", core.Trace(s.now, session.ID), true)
	core.TraceNext(netip.MustParsePrefix("198.51.100.0/24"), 1)
	s.events = nil
	for range 100 {
		s.client("198.51.100.9:1").request(stun.Refresh)
	}
	same(t, "refusals", len(s.events), 2*maxTraceRefuse)
	same(t, "without a session", s.events[0].Session.ID, 0)
}

func TestAWrongFingerprintLengthDoesNotOverflowATrace(t *testing.T) {
	s := newServer(t, setup{})
	c := s.stream("198.51.100.1:7000", 4).confirmed()
	session, _ := c.session()
	s.cores[0].Trace(s.now, session.ID)
	b := c.message(stun.Send, stun.Indication, peerOf("203.0.113.5:5000"),
		func(b *stun.Builder) { b.Attr(stun.AttrData, make([]byte, 65532-12-4-4)) }, value(stun.AttrFingerprint))
	same(t, "body", len(b)-stun.HeaderSize, 65532)
	s.expect(DropFingerprint, func() []Output { return c.give(b) })
	same(t, "traced", s.events[len(s.events)-1].Kind, EventTrace)
}

func TestTranscriptErrorsNameTheLine(t *testing.T) {
	message := strings.ReplaceAll(vectorAllocate, " ", "")
	const header = "stile-turn-transcript 1\n"
	for text, want := range map[string]struct {
		line int
		err  error
	}{
		"":                           {1, ErrTranscriptHeader},
		"# a comment\n\n":            {3, ErrTranscriptHeader},
		"+0s < " + message:           {1, ErrTranscriptHeader},
		"stile-turn-transcript 2\n":  {1, ErrTranscriptHeader},
		header + "+0s " + message:    {2, ErrTranscriptLine},
		header + "+0s = " + message:  {2, ErrTranscriptLine},
		header + "0s < " + message:   {2, ErrTranscriptLine},
		header + "+x < " + message:   {2, ErrTranscriptLine},
		header + "+0s < 0":           {2, ErrTranscriptLine},
		header + "+0s < 00":          {2, stun.ErrShort},
		header + "+-1s < " + message: {2, ErrTranscriptTime},
		header + "#\n+2s < " + message + "\n+1s > " + message:                             {4, ErrTranscriptTime},
		header + strings.Repeat("+0s < "+message+"\n", maxTranscript+1):                   {maxTranscript + 2, ErrTranscriptTooLong},
		header + "+0s < " + hex.EncodeToString(make([]byte, maxTranscriptLine)) + message: {2, nil},
	} {
		_, err := ParseTranscript(strings.NewReader(text))
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("line %d:", want.line)) || want.err != nil && !errors.Is(err, want.err) {
			t.Errorf("%.60q: %v", text, err)
		}
	}
}

func TestTranscriptReadsWhatItWrites(t *testing.T) {
	message := unhex(t, vectorAllocate)
	b := AppendTranscriptHeader(nil)
	want := []TranscriptMessage{{0, false, message}, {1, true, message}, {90 * time.Minute, false, message}, {90 * time.Minute, true, message}}
	for i := range want {
		b = want[i].Append(b)
	}
	got, err := ParseTranscript(bytes.NewReader(b))
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v %v", got, err)
	}
}
