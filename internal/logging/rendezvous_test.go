package logging

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stilenet/stile/rendezvous"
	"github.com/stilenet/stile/rtmfp"
	"github.com/stilenet/stile/turn"
)

func TestEachEventOfTheRendezvousHasItsLine(t *testing.T) {
	s := rendezvous.Session{
		ID: 0x1234, Peer: rendezvous.PeerID{0xab, 31: 0xcd}, Client: netip.MustParseAddrPort("203.0.113.9:40000"), Key: "phone",
		Opened: began, Introduced: 3, Asked: 2,
	}
	at := began.Add(90 * time.Second)
	who := `"session":"r-3lg","client":"203.0.113.9:40000","peer_id":"ab` + strings.Repeat("00", 30) + `cd","key":"phone"`
	const when = `"time":"2026-01-02T03:05:35.`
	for _, c := range []struct {
		level string
		event rendezvous.Event
		want  string
	}{
		{"debug", rendezvous.Event{Kind: rendezvous.EventConnected, At: at, Session: s}, `{"level":"debug",` + who + `,` + when + `678Z","message":"client connected"}`},
		{"info", rendezvous.Event{Kind: rendezvous.EventConnected, At: at, Session: s}, ""},
		{"info", rendezvous.Event{Kind: rendezvous.EventEnded, At: at, Session: s, Reason: rtmfp.ReasonUnresponsive},
			`{"level":"info",` + who + `,"introduced":3,"asked":2,"duration_seconds":90,"reason":"unresponsive",` + when + `678Z","message":"client disconnected"}`},
		{"info", rendezvous.Event{Kind: rendezvous.EventRefused, At: at, Client: s.Client, Refusal: rendezvous.RefusedPerAddress, Count: 7},
			`{"level":"info","client":"203.0.113.9:40000","reason":"per_address","count":7,` +
				`"remedy":"raise rendezvous.limits.per_address if the address is a NAT's with many clients",` + when + `678Z","message":"client of the rendezvous refused"}`},
	} {
		var out bytes.Buffer
		l, err := New(Config{Out: &out, Format: "json", Level: c.level})
		if err != nil {
			t.Fatal(err)
		}
		e := l.Events(false)
		e.PutRendezvous([]rendezvous.Event{c.event})
		if err := e.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSuffix(out.String(), "\n"); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

func TestEventsOfBothServicesKeepTheirOrderAndTheGlossary(t *testing.T) {
	var out bytes.Buffer
	l, err := New(Config{Out: &out, Format: "json", Level: "trace"})
	if err != nil {
		t.Fatal(err)
	}
	e := l.Events(false)
	e.Put([]turn.Event{{Kind: turn.EventEnded, Session: someSession()}})
	var want []string
	want = append(want, "session ended")
	for kind := rendezvous.EventConnected; kind <= rendezvous.EventMixed; kind++ {
		e.PutRendezvous([]rendezvous.Event{{Kind: kind, Session: rendezvous.Session{ID: 1, Key: "k"}, Refusal: rendezvous.RefusedKeyUnknown}})
	}
	e.Put([]turn.Event{{Kind: turn.EventEnded, Session: someSession()}})
	if err := e.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	var messages []string
	for line := range strings.Lines(out.String()) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatal(err)
		}
		messages = append(messages, fields["message"].(string))
		for name := range fields {
			if !slices.Contains(Fields, name) {
				t.Errorf("%q is not in Fields", name)
			}
		}
	}
	want = append(want, "client connected", "client disconnected", "client of the rendezvous refused",
		"the rendezvous sees some clients by private and others by public addresses", "session ended")
	if !slices.Equal(messages, want) {
		t.Errorf("got %q", messages)
	}
}
