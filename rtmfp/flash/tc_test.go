package flash

import (
	"bytes"
	"errors"
	"net/netip"
	"reflect"
	"testing"
)

// 54 43 04 00 and 54 43 04 fa 89 01 are what Cumulus and librtmfp compare flows with.
func TestFlowMetadataIsWhatOldPeersExpect(t *testing.T) {
	for _, test := range []struct {
		wire string
		want FlowMetadata
	}{
		{"54 43 04 00", FlowMetadata{}},
		{"54 43 04 fa 89 01", FlowMetadata{StreamID: 2000001}},
		{"54 43 05 fa 89 01", FlowMetadata{StreamID: 2000001, NetworkOrder: true}},
	} {
		wire := unhex(t, test.wire)
		if got := AppendFlowMetadata(nil, test.want); !bytes.Equal(got, wire) {
			t.Errorf("%x, want %x", got, wire)
		}
		if got, err := ParseFlowMetadata(wire); err != nil || got != test.want {
			t.Errorf("%+v, %v", got, err)
		}
		for i := range wire {
			if _, err := ParseFlowMetadata(wire[:i]); !errors.Is(err, ErrMetadata) {
				t.Errorf("%x: %v", wire[:i], err)
			}
		}
	}
	for _, s := range []string{"54 43 00 00", "47 43 04 00", "54 43 04 88808000"} {
		if m, err := ParseFlowMetadata(unhex(t, s)); !errors.Is(err, ErrMetadata) {
			t.Errorf("%s: %+v, %v", s, m, err)
		}
	}
}

// Figures of §5.2 and §5.3.4.
func TestUserControlMessages(t *testing.T) {
	for _, test := range []struct {
		wire string
		want UserControl
	}{
		{"04 00000000 0000 001e8481", UserControl{Event: StreamBegin, First: 2000001}},
		{"04 00000000 0003 00000001 000003e8", UserControl{Event: SetBufferLength, First: 1, Second: 1000}},
		{"04 00000000 0022 00000008 00000002", UserControl{Event: FlowSync, First: 8, Second: 2}},
		{"04 00000000 0029 00003a98 00002710", UserControl{Event: SetKeepalive, First: 15000, Second: 10000}},
	} {
		wire := unhex(t, test.wire)
		if got := AppendUserControl(nil, test.want); !bytes.Equal(got, wire) {
			t.Errorf("%x, want %x", got, wire)
		}
		for i := range len(wire) + 1 {
			m, err := ParseMessage(wire[:i])
			if i < 5 && !errors.Is(err, ErrMessage) {
				t.Errorf("%d bytes: %v", i, err)
			}
			got, err := ParseUserControl(m)
			if i == len(wire) && (err != nil || got != test.want) || i < len(wire) && !errors.Is(err, ErrMessage) {
				t.Errorf("%d bytes: %+v, %v", i, got, err)
			}
		}
	}
	if _, err := ParseUserControl(Message{Type: MessageUserControl, Payload: unhex(t, "0022 00000008 00000000")}); !errors.Is(err, ErrMessage) {
		t.Errorf("a barrier of no flows: %v", err)
	}
}

// Figure 3 of §5.3.3.
func TestSetPeerInfoOfTheSpecification(t *testing.T) {
	c := SetPeerInfo([]netip.AddrPort{
		netip.MustParseAddrPort("192.0.2.129:50001"), netip.MustParseAddrPort("[2001:db8:1::2]:50002"),
		netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("[fe80::1%eth0]:1"), netip.MustParseAddrPort("[::ffff:192.0.2.1]:2"),
	})
	want := []any{"192.0.2.129:50001", "[2001:db8:1::2]:50002", "192.0.2.1:2"}
	if !reflect.DeepEqual(c.Arguments, want) {
		t.Errorf("%v", c.Arguments)
	}
	b, err := AppendCommand(nil, AMF0, c)
	if err != nil {
		t.Fatal(err)
	}
	prefix := unhex(t, "14 00000000 02 000b 736574506565 72496e666f 00 0000000000000000 05 02 0011")
	if !bytes.HasPrefix(b, prefix) {
		t.Errorf("%x", b)
	}
	c.Arguments = append(c.Arguments, "[::]:1", "nonsense", 5.0, "10.0.0.1:0", "10.0.0.1:9")
	addrs, skipped := ParsePeerInfo(c)
	if len(addrs) != 4 || skipped != 4 {
		t.Errorf("%v, %d skipped", addrs, skipped)
	}
}

func TestCommandsInBothEncodings(t *testing.T) {
	for _, encoding := range []ObjectEncoding{AMF0, AMF3} {
		info := ConnectInfo{App: "KEY", TCURL: "rtmfp://h/KEY", FlashVersion: "X", ObjectEncoding: encoding, Arguments: []any{"user"}}
		for _, c := range []Command{
			ConnectCommand(info), ConnectResult(1, encoding, Property{"x", 1}), CommandFailed(2, Status{Code: NetConnectionConnectFailed}),
			OnStatus(Status{Code: NetStreamPlayStart, Description: "d"}), {Name: CommandPlay, Arguments: []any{"name", []byte{1}}},
		} {
			b, err := AppendCommand(nil, encoding, c)
			if err != nil {
				t.Fatal(err)
			}
			m, err := ParseMessage(b)
			if err != nil {
				t.Fatal(err)
			}
			got, err := ParseCommand(m)
			if err != nil || got.Name != c.Name || got.Transaction != c.Transaction || len(got.Arguments) != len(c.Arguments) {
				t.Errorf("%+v, %v", got, err)
			}
			for i := range m.Payload {
				if c2, err := ParseCommand(Message{Type: m.Type, Payload: m.Payload[:i]}); err == nil && len(c2.Arguments) >= len(c.Arguments)+1 {
					t.Errorf("%d bytes of %x: %+v", i, m.Payload, c2)
				}
			}
			if c.Name == CommandConnect {
				if back, ok := ParseConnect(got); !ok || !reflect.DeepEqual(back, info) {
					t.Errorf("%+v, %v", back, ok)
				}
			}
			if c.Name == CommandError {
				if s, ok := ParseStatus(got.Argument(0)); !ok || s.Code != NetConnectionConnectFailed || s.Level != "error" {
					t.Errorf("%+v, %v", s, ok)
				}
			}
		}
	}
}

func FuzzMessage(f *testing.F) {
	b, _ := AppendCommand(nil, AMF3, ConnectCommand(ConnectInfo{App: "a"}))
	f.Add(b)
	b, _ = AppendData(nil, AMF0, 1, Data{"onTextData", []any{"hi"}})
	f.Add(b)
	f.Add(AppendUserControl(nil, UserControl{SetKeepalive, 1, 2}))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseMessage(b)
		if err != nil {
			return
		}
		encoding := AMF0
		if m.Type == MessageCommandAMF3 || m.Type == MessageDataAMF3 {
			encoding = AMF3
		}
		again := func(b []byte, err error) Message {
			if err != nil {
				t.Skip(err) // names of sealed members count, empty names are not for AMF3
			}
			m, err := ParseMessage(b)
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		if c, err := ParseCommand(m); err == nil {
			ParseConnect(c)
			ParsePeerInfo(c)
			ParseStatus(c.Argument(0))
			c2, err := ParseCommand(again(AppendCommand(nil, encoding, c)))
			if err != nil || c2.Name != c.Name || len(c2.Arguments) != len(c.Arguments) {
				t.Fatalf("%+v, then %+v, %v", c, c2, err)
			}
		}
		if d, err := ParseData(m); err == nil {
			d2, err := ParseData(again(AppendData(nil, encoding, m.Timestamp, d)))
			if err != nil || d2.Handler != d.Handler || len(d2.Arguments) != len(d.Arguments) {
				t.Fatalf("%+v, then %+v, %v", d, d2, err)
			}
		}
		if u, err := ParseUserControl(m); err == nil {
			if u2, err := ParseUserControl(again(AppendUserControl(nil, u), nil)); err != nil || u.Event.hasSecond() && u2 != u {
				t.Fatalf("%+v, then %+v, %v", u, u2, err)
			}
		}
	})
}
