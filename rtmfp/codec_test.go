package rtmfp

import (
	"bytes"
	"encoding/hex"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// unhex decodes hexadecimal digits; spaces are for the eye.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestVLUVectors(t *testing.T) {
	for _, test := range []struct {
		name, wire string
		value      uint64
	}{
		{"zero", "00", 0},
		{"the largest of one byte", "7f", 127},
		{"the smallest of two bytes", "8100", 128},
		{"128-byte key with group, length of the option in a Flash client's certificate", "8102", 130},
		{"stream 2000001 in the metadata of a Flash peer-to-peer flow", "fa8901", 2000001},
		{"2^64-1", "81ffffffffffffffff7f", math.MaxUint64},
	} {
		t.Run(test.name, func(t *testing.T) {
			wire := unhex(t, test.wire)
			if got := AppendVLU(nil, test.value); !bytes.Equal(got, wire) {
				t.Errorf("append: %x", got)
			}
			if SizeVLU(test.value) != len(wire) {
				t.Errorf("size: %d", SizeVLU(test.value))
			}
			got, rest, err := ParseVLU(append(slices.Clone(wire), 0xaa))
			if err != nil || got != test.value || len(rest) != 1 {
				t.Errorf("parse: %d, %x, %v", got, rest, err)
			}
			for n := range wire {
				if _, _, err := ParseVLU(wire[:n]); err != ErrTruncated {
					t.Errorf("cut to %d bytes: %v", n, err)
				}
			}
		})
	}
}

func TestVLUAbove64BitsIsRefused(t *testing.T) {
	for _, wire := range []string{"8280808080808080808000", "82808080808080808000", "8080808080808080808001"} {
		if _, _, err := ParseVLU(unhex(t, wire)); err != ErrRange {
			t.Errorf("%s: %v", wire, err)
		}
	}
	if v, _, err := ParseVLU(unhex(t, "80808001")); v != 1 || err != nil {
		t.Errorf("leading zero digits: %d, %v", v, err)
	}
}

func TestOptionVectors(t *testing.T) {
	// A Flash server's certificate (RFC 7425 §4.3): accepts ancillary data, extra randomness (here 2 bytes), groups 2, 5, 14.
	wire := unhex(t, "010a 030eaabb 021502 021505 02150e 00 ff")
	list, rest, err := ParseOptionList(wire)
	if err != nil || !bytes.Equal(rest, []byte{0xff}) {
		t.Fatal(rest, err)
	}
	got := slices.Collect(list.All())
	want := []Option{{0x0a, []byte{}}, {0x0e, []byte{0xaa, 0xbb}}, {0x15, []byte{2}}, {0x15, []byte{5}}, {0x15, []byte{14}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v", got)
	}
	var again OptionList
	for _, o := range want {
		again = AppendOption(again, o)
	}
	if !bytes.Equal(AppendOptionList(nil, again), wire[:len(wire)-1]) {
		t.Errorf("append: %x", again)
	}
	for n := range len(wire) - 1 {
		if _, _, err := ParseOptionList(wire[:n]); err != ErrTruncated {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
}

func TestAddressVectors(t *testing.T) {
	// Layout of §2.1.5; the addresses are those of the documentation prefixes.
	for _, test := range []struct {
		wire string
		want Address
	}{
		{"02 c0000201 078f", Address{OriginObserved, netip.MustParseAddrPort("192.0.2.1:1935")}},
		{"81 20010db8000000000000000000000001 0050", Address{OriginReported, netip.MustParseAddrPort("[2001:db8::1]:80")}},
	} {
		wire := unhex(t, test.wire)
		if got := AppendAddress(nil, test.want); !bytes.Equal(got, wire) {
			t.Errorf("append %v: %x", test.want, got)
		}
		got, rest, err := ParseAddress(wire)
		if err != nil || got != test.want || len(rest) != 0 {
			t.Errorf("parse %x: %v, %x, %v", wire, got, rest, err)
		}
		for n := range wire {
			if _, _, err := ParseAddress(wire[:n]); err != ErrTruncated {
				t.Errorf("cut to %d bytes: %v", n, err)
			}
		}
	}
	if got := AppendAddress(nil, Address{}); !bytes.Equal(got, make([]byte, 7)) {
		t.Errorf("invalid address: %x", got)
	}
}

func TestSessionIDIsScrambledWithThePacket(t *testing.T) {
	for _, test := range []struct {
		name, packet string
		id           uint32
		want         string
	}{
		// By hand from the procedure of §2.2.2.
		{"startup", "0102030405060708", 0, "0404040c"},
		{"session", "0102030405060708ffff", 0xdeadbeef, "daa9bae3"},
		{"a packet of five bytes is padded with zeros", "0102030405", 0, "04020304"},
		{"a packet of one byte", "01", 1, "01000001"},
	} {
		t.Run(test.name, func(t *testing.T) {
			datagram := append(make([]byte, 4), unhex(t, test.packet)...)
			PutSessionID(datagram, test.id)
			if !bytes.Equal(datagram[:4], unhex(t, test.want)) {
				t.Errorf("scrambled: %x", datagram[:4])
			}
			if id, ok := SessionID(datagram); !ok || id != test.id {
				t.Errorf("unscrambled: %#x, %v", id, ok)
			}
		})
	}
	if _, ok := SessionID(make([]byte, 4)); ok {
		t.Error("a datagram without a packet has a session ID")
	}
}

func TestHeaderVectors(t *testing.T) {
	for _, test := range []struct {
		name, wire string
		want       Header
	}{
		{"startup of a Flash-era stack, 0x0b", "0b 1234", Header{Mode: ModeStartup, TimestampPresent: true, Timestamp: 0x1234}},
		{"in session, 0x8d", "8d 0102 0304", Header{Mode: ModeInitiator, TimeCritical: true, TimestampPresent: true, TimestampEchoPresent: true,
			Timestamp: 0x0102, TimestampEcho: 0x0304}},
		{"reverse notification", "42", Header{Mode: ModeResponder, TimeCriticalReverse: true}},
		{"echo without timestamp", "06 0a0b", Header{Mode: ModeResponder, TimestampEchoPresent: true, TimestampEcho: 0x0a0b}},
	} {
		t.Run(test.name, func(t *testing.T) {
			wire := unhex(t, test.wire)
			if got := AppendHeader(nil, test.want); !bytes.Equal(got, wire) {
				t.Errorf("append: %x", got)
			}
			got, rest, err := ParseHeader(append(slices.Clone(wire), 0xff))
			if err != nil || got != test.want || len(rest) != 1 {
				t.Errorf("parse: %+v, %x, %v", got, rest, err)
			}
			for n := range wire {
				if _, _, err := ParseHeader(wire[:n]); err != ErrTruncated {
					t.Errorf("cut to %d bytes: %v", n, err)
				}
			}
		})
	}
	if _, _, err := ParseHeader([]byte{0x88}); err != ErrMode {
		t.Errorf("mode 0: %v", err)
	}
}

func TestPaddingEndsThePacket(t *testing.T) {
	packet := unhex(t, "010002aabb 4c0000 ffffffffff")
	var got []ChunkType
	for kind := range Chunks(packet) {
		got = append(got, kind)
	}
	if want := []ChunkType{ChunkPing, ChunkCloseAck}; !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	for n := range packet {
		for _, payload := range Chunks(packet[:n]) {
			if len(payload) > n-chunkHeaderSize {
				t.Fatalf("cut to %d bytes: payload of %d", n, len(payload))
			}
		}
	}
}

// TestNextUserDataFigure3 is Figure 3 of §2.3.12.
func TestNextUserDataFigure3(t *testing.T) {
	wire := unhex(t, "100007 00 020503 000102  110004 00 030405  110004 00 060708")
	var got []UserData
	var previous UserData
	for kind, payload := range Chunks(wire) {
		var err error
		if kind == ChunkUserData {
			previous, err = ParseUserData(payload)
		} else {
			previous, err = ParseNextUserData(payload, previous)
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, previous)
	}
	want := []UserData{
		{FlowID: 2, Sequence: 5, FSNOffset: 3, Data: []byte{0, 1, 2}},
		{FlowID: 2, Sequence: 6, FSNOffset: 4, Data: []byte{3, 4, 5}},
		{FlowID: 2, Sequence: 7, FSNOffset: 5, Data: []byte{6, 7, 8}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
	for _, u := range got {
		if u.ForwardSequence() != 2 {
			t.Errorf("sequence %d: forward sequence number %d", u.Sequence, u.ForwardSequence())
		}
	}
	again := AppendUserData(nil, want[0])
	again = AppendNextUserData(AppendNextUserData(again, want[1]), want[2])
	if !bytes.Equal(again, wire) {
		t.Errorf("append: %x", again)
	}
}

// TestAcknowledgementFigures are Figures 4, 5 and 6 of §2.3.13 and §2.3.14. Figure 6 prints length 7 for a payload of 7.
func TestAcknowledgementFigures(t *testing.T) {
	for _, test := range []struct {
		name, wire string
		ranges     []Range
		exact      bool // the encoder writes the same
	}{
		{"figure 4, bitmap", "500005 057f10 7906", []Range{{18, 18}, {21, 24}, {27, 28}}, true},
		{"figure 5, ranges", "510007 057f10 0000 0103", []Range{{18, 18}, {21, 24}}, true},
		{"figure 6, truncated", "510007 057f10 0000 0183", []Range{{18, 18}}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			wire := unhex(t, test.wire)
			a, err := ParseAck(ChunkType(wire[0]), wire[3:])
			if err != nil || a.FlowID != 5 || a.BufferBlocks != 127 || a.Cumulative != 16 {
				t.Fatalf("%+v, %v", a, err)
			}
			if got := slices.Collect(a.Ranges()); !slices.Equal(got, test.ranges) {
				t.Errorf("ranges %v", got)
			}
			if !test.exact {
				return
			}
			appendAck := AppendAckRanges
			if wire[0] == byte(ChunkAckBitmap) {
				appendAck = AppendAckBitmap
			}
			if got := appendAck(nil, a, test.ranges, 1000); !bytes.Equal(got, wire) {
				t.Errorf("append: %x", got)
			}
		})
	}
}

func TestAcknowledgementNeverPassesItsLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := Ack{FlowID: rapid.Uint64().Draw(t, "flow"), BufferBlocks: rapid.Uint64().Draw(t, "blocks"),
			Cumulative: rapid.Uint64Range(0, 1<<40).Draw(t, "cumulative")}
		var ranges []Range
		cursor := a.Cumulative
		for range rapid.IntRange(0, 40).Draw(t, "ranges") {
			from := cursor + 2 + rapid.Uint64Range(0, 300).Draw(t, "holes")
			cursor = from + rapid.Uint64Range(0, 300).Draw(t, "received")
			ranges = append(ranges, Range{from, cursor})
		}
		limit := rapid.IntRange(MaxAckSize, 200).Draw(t, "limit")
		for kind, appendAck := range map[ChunkType]func([]byte, Ack, []Range, int) []byte{
			ChunkAckRanges: AppendAckRanges, ChunkAckBitmap: AppendAckBitmap,
		} {
			wire := appendAck(nil, a, ranges, limit)
			if len(wire) > limit {
				t.Fatalf("%v: %d bytes, limit %d", kind, len(wire), limit)
			}
			back, err := ParseAck(kind, wire[chunkHeaderSize:])
			if err != nil || back.FlowID != a.FlowID || back.BufferBlocks != a.BufferBlocks || back.Cumulative != a.Cumulative {
				t.Fatalf("%v: %+v, %v", kind, back, err)
			}
			got := slices.Collect(back.Ranges())
			for i, r := range got {
				whole := r == ranges[i]
				cutHere := kind == ChunkAckBitmap && i == len(got)-1 && r.From == ranges[i].From && r.To < ranges[i].To
				if !whole && !cutHere {
					t.Fatalf("%v: range %d is %v, want %v", kind, i, r, ranges[i])
				}
			}
		}
	})
}

func TestHugeRangesStopBeforeTheyOverflow(t *testing.T) {
	for _, wire := range []string{
		"057f 8ffefefefefefefe7e 00 00",         // cumulative near 2^63
		"057f10 81ffffffffffffffff7f 00",        // holes of 2^64
		"057f10 00 81ffffffffffffffff7f 00 00",  // received 2^64
		"057f 80ffffffffffffffff7f 00 00 00 00", // cumulative 2^63-1
	} {
		for _, kind := range []ChunkType{ChunkAckRanges, ChunkAckBitmap} {
			a, err := ParseAck(kind, unhex(t, wire))
			if err != nil {
				continue
			}
			for r := range a.Ranges() {
				if r.From <= a.Cumulative || r.To < r.From || r.To > MaxSequence {
					t.Errorf("%v %s: %v", kind, wire, r)
				}
			}
		}
	}
}

func TestImpossibleForwardSequenceNumbersAreRefused(t *testing.T) {
	for wire, want := range map[string]error{
		"00 02 05 00":                   ErrFSNOffset, // 0 without abandon
		"00 02 05 06":                   ErrFSNOffset, // above the sequence number
		"02 02 05 00":                   nil,          // an FSN Update
		"00 02 81ffffffffffffffff7f 01": ErrRange,
	} {
		if _, err := ParseUserData(unhex(t, wire)); err != want {
			t.Errorf("%s: %v, want %v", wire, err, want)
		}
	}
	if _, err := ParseNextUserData([]byte{0}, UserData{Sequence: MaxSequence}); err != ErrRange {
		t.Errorf("next after the last: %v", err)
	}
}

// chunkSamples holds one of every chunk with the value it parses to.
func chunkSamples() []chunkSample {
	options := AppendOption(AppendOption(nil, Option{OptionMetadata, []byte("TC\x04\x00")}), Option{OptionAssociation, []byte{5}})
	v4 := Address{OriginObserved, netip.MustParseAddrPort("192.0.2.1:1935")}
	v6 := Address{OriginRelay, netip.MustParseAddrPort("[2001:db8::2]:1936")}
	return []chunkSample{
		{"Fragment", AppendFragment(nil, Fragment{true, 300, 2, []byte("part")})},
		{"IHello", AppendIHello(nil, IHello{[]byte("who"), []byte("tag")})},
		{"FIHello", AppendFIHello(nil, FIHello{[]byte("who"), v4, []byte("tag")})},
		{"RHello", AppendRHello(nil, RHello{[]byte("tag"), bytes.Repeat([]byte("c"), 64), []byte("certificate")})},
		{"Redirect", AppendRedirect(nil, Redirect{[]byte("tag"), []Address{v4, v6}})},
		{"implied Redirect", AppendRedirect(nil, Redirect{TagEcho: []byte("tag")})},
		{"CookieChange", AppendCookieChange(nil, CookieChange{[]byte("old"), []byte("new")})},
		{"IIKeying", AppendIIKeying(nil, IIKeying{7, []byte("cookie"), []byte("certificate"), []byte("component"), []byte("X")})},
		{"RIKeying", AppendRIKeying(nil, RIKeying{8, []byte("component"), []byte("X")})},
		{"Ping", AppendChunk(nil, ChunkPing, []byte("message"))},
		{"PingReply", AppendChunk(nil, ChunkPingReply, []byte("message"))},
		{"UserData", AppendUserData(nil, UserData{OptionsPresent: true, Control: FragmentBegin, FlowID: 2, Sequence: 1, FSNOffset: 1,
			Options: options, Data: []byte("data")})},
		{"FSN Update", AppendUserData(nil, UserData{Abandon: true, Final: true, FlowID: 2, Sequence: 9})},
		{"NextUserData", AppendNextUserData(nil, UserData{OptionsPresent: true, Control: FragmentEnd, Options: options, Data: []byte("more")})},
		{"AckBitmap", AppendAckBitmap(nil, Ack{FlowID: 2, BufferBlocks: 64, Cumulative: 5}, []Range{{7, 9}, {20, 20}}, 1000)},
		{"AckRanges", AppendAckRanges(nil, Ack{FlowID: 2, BufferBlocks: 64, Cumulative: 5}, []Range{{7, 9}, {20, 20}}, 1000)},
		{"BufferProbe", AppendBufferProbe(nil, BufferProbe{200})},
		{"FlowException", AppendFlowException(nil, FlowException{2, 1000})},
		{"Close", AppendChunk(nil, ChunkClose, nil)},
		{"CloseAck", AppendChunk(nil, ChunkCloseAck, nil)},
	}
}

type chunkSample struct {
	name string
	wire []byte
}

// reappend parses the payload of a chunk and appends it again. again is nil if it does not parse, or if the type is one
// that has no parser.
func reappend(kind ChunkType, payload []byte) (value any, again []byte, err error) {
	switch kind {
	case ChunkFragment:
		v, err := ParseFragment(payload)
		return v, AppendFragment(nil, v), err
	case ChunkIHello:
		v, err := ParseIHello(payload)
		return v, AppendIHello(nil, v), err
	case ChunkFIHello:
		v, err := ParseFIHello(payload)
		return v, AppendFIHello(nil, v), err
	case ChunkRHello:
		v, err := ParseRHello(payload)
		return v, AppendRHello(nil, v), err
	case ChunkRedirect:
		v, err := ParseRedirect(payload)
		return v, AppendRedirect(nil, v), err
	case ChunkCookieChange:
		v, err := ParseCookieChange(payload)
		return v, AppendCookieChange(nil, v), err
	case ChunkIIKeying:
		v, _, err := ParseIIKeying(payload)
		return v, AppendIIKeying(nil, v), err
	case ChunkRIKeying:
		v, _, err := ParseRIKeying(payload)
		return v, AppendRIKeying(nil, v), err
	case ChunkUserData:
		v, err := ParseUserData(payload)
		return v, AppendUserData(nil, v), err
	case ChunkNextUserData:
		v, err := ParseNextUserData(payload, UserData{FlowID: 1, Sequence: 1, FSNOffset: 1})
		return v, AppendNextUserData(nil, v), err
	case ChunkAckBitmap, ChunkAckRanges:
		v, err := ParseAck(kind, payload)
		ranges := slices.Collect(v.Ranges())
		appended := AppendAckRanges(nil, v, ranges, 1<<20)
		if kind == ChunkAckBitmap {
			appended = AppendAckBitmap(nil, v, ranges, 1<<20)
		}
		return []any{v.FlowID, v.BufferBlocks, v.Cumulative, ranges}, appended, err
	case ChunkBufferProbe:
		v, err := ParseBufferProbe(payload)
		return v, AppendBufferProbe(nil, v), err
	case ChunkFlowException:
		v, err := ParseFlowException(payload)
		return v, AppendFlowException(nil, v), err
	}
	return payload, AppendChunk(nil, kind, payload), nil
}

func TestEveryChunkRoundTrips(t *testing.T) {
	for _, s := range chunkSamples() {
		t.Run(s.name, func(t *testing.T) {
			_, again, err := reappend(ChunkType(s.wire[0]), s.wire[chunkHeaderSize:])
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(again, s.wire) {
				t.Errorf("got %x\nwant %x", again, s.wire)
			}
		})
	}
}

// TestEveryTruncationOfEveryChunk cuts the payload of every sample. Where the last field of a chunk extends to its end a
// shorter chunk is another chunk, so that what parses must append to what was parsed.
func TestEveryTruncationOfEveryChunk(t *testing.T) {
	// The bytes of each sample below which it cannot parse.
	least := map[string]int{
		"Fragment": 5, "IHello": 4, "FIHello": 11, "RHello": 69, "Redirect": 4, "implied Redirect": 4, "CookieChange": 4, "IIKeying": 33,
		"RIKeying": 14, "UserData": 14, "FSN Update": 4, "NextUserData": 11, "AckBitmap": 3, "AckRanges": 3, "BufferProbe": 2, "FlowException": 3,
	}
	for _, s := range chunkSamples() {
		kind, payload := ChunkType(s.wire[0]), s.wire[chunkHeaderSize:]
		for n := range payload {
			value, again, err := reappend(kind, payload[:n:n])
			if n < least[s.name] {
				if _, typed := err.(ParseError); !typed {
					t.Errorf("%s cut to %d bytes: %v, %v", s.name, n, value, err)
				}
				continue
			}
			if err != nil {
				if s.name != "Redirect" { // an address that is cut off
					t.Errorf("%s cut to %d bytes: %v", s.name, n, err)
				}
				continue
			}
			back, _, err := reappend(kind, again[chunkHeaderSize:])
			if err != nil || !reflect.DeepEqual(back, value) {
				t.Errorf("%s cut to %d bytes: %v, then %v, %v", s.name, n, value, back, err)
			}
		}
	}
}

func TestOversizedChunkIsOurMistake(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	AppendChunk(nil, ChunkPing, make([]byte, maxChunkPayload+1))
}

func FuzzChunk(f *testing.F) {
	for _, s := range chunkSamples() {
		f.Add(s.wire[0], s.wire[chunkHeaderSize:])
	}
	f.Fuzz(func(t *testing.T, kind byte, payload []byte) {
		if len(payload) > 4096 {
			return
		}
		value, again, err := reappend(ChunkType(kind), payload)
		if err != nil {
			if _, typed := err.(ParseError); !typed {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		back, _, err := reappend(ChunkType(kind), again[chunkHeaderSize:])
		if err != nil || !reflect.DeepEqual(back, value) {
			t.Fatalf("%v\nthen %v, %v", value, back, err)
		}
	})
}

func FuzzPacket(f *testing.F) {
	packet := AppendHeader(nil, Header{Mode: ModeInitiator, TimestampPresent: true, Timestamp: 9})
	for _, s := range chunkSamples() {
		packet = append(packet, s.wire...)
	}
	f.Add(packet)
	f.Add([]byte{0x0b, 0, 1, 0x30, 0, 3, 1, 2, 3, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, rest, err := ParseHeader(b)
		if err != nil {
			return
		}
		again := AppendHeader(nil, h)
		for kind, payload := range Chunks(rest) {
			again = AppendChunk(again, kind, payload)
		}
		if len(again) > len(b) || !bytes.Equal(again[1:], b[1:len(again)]) {
			t.Fatalf("%x\nthen %x", b, again)
		}
	})
}

func FuzzOptionList(f *testing.F) {
	f.Add([]byte{1, 0x0a, 3, 0x0e, 1, 2, 0, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		l, rest, err := ParseOptionList(b)
		if err != nil {
			return
		}
		var again OptionList
		for o := range l.All() {
			again = AppendOption(again, o)
		}
		back, _, err := ParseOptionList(AppendOptionList(nil, again))
		if err != nil || !bytes.Equal(back, again) || len(rest) > len(b)-1 {
			t.Fatalf("%x: %x, then %x, %v", b, again, back, err)
		}
	})
}

func FuzzAddress(f *testing.F) {
	f.Add([]byte{2, 192, 0, 2, 1, 7, 0x8f})
	f.Add(append([]byte{0x83}, make([]byte, 18)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, rest, err := ParseAddress(b)
		if err != nil {
			return
		}
		back, _, err := ParseAddress(AppendAddress(nil, a))
		if err != nil || back != a || len(b)-len(rest) > maxAddressSize {
			t.Fatalf("%v, then %v, %v", a, back, err)
		}
	})
}
