package flash_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stilenet/stile/rtmfp"
	"github.com/stilenet/stile/rtmfp/flash"
)

// A recording is what another program sent to an endpoint of ours, with the times at which that was driven. Random numbers
// come from a seed, so the same packets decrypt again. TestInteropRecord makes them: see scripts/interop-rtmfp.
type recording struct {
	Program string // and its arguments
	Version string
	Begin   time.Time
	Far     string   // its address
	Nonces  []string // its far and near nonce as it has printed them; none if it does not
	Steps   []step
}

// step is a call of the endpoint: Receive, or Tick without a packet.
type step struct {
	At     time.Duration // since Begin
	Packet string        `json:",omitempty"` // hexadecimal
}

// scenario is one of our ends of a recorded exchange.
type scenario struct {
	name     string
	program  string
	args     []string
	identity flash.IdentityConfig
	epd      []byte // of the session to open; nil waits for one
	messages int    // that come
	checksum bool
}

var scenarios = []scenario{
	{name: "echoserver", program: "echoserver", epd: flash.AppendEPD(nil, flash.EPD{Hostname: []byte("echo")}), messages: 6},
	{
		name: "echoserver-checksum", program: "echoserver", args: []string{"-H", "-S"}, epd: flash.AppendEPD(nil, flash.EPD{Hostname: []byte("echo")}), messages: 6,
		identity: flash.IdentityConfig{HMAC: flash.VerificationOff, SequenceNumbers: flash.VerificationOff}, checksum: true,
	},
	{
		name: "echoserver-ephemeral", program: "echoserver", epd: flash.AppendEPD(nil, flash.EPD{Hostname: []byte("echo")}), messages: 6,
		identity: flash.IdentityConfig{Ephemeral: true, Groups: []flash.Group{flash.Group2}},
	},
	{name: "fcclient", program: "fcclient", identity: flash.IdentityConfig{Server: true}},
}

// replayer is our end of a scenario.
type replayer struct {
	scenario
	e       *rtmfp.Endpoint
	session *rtmfp.Session
	flow    *rtmfp.SendFlow
	got     int
	wrong   string
}

func newReplayer(t *testing.T, s scenario, begin time.Time) *replayer {
	t.Helper()
	cfg := s.identity
	cfg.Random = rand.NewChaCha8([32]byte{1})
	id, err := flash.NewIdentity(cfg)
	if err != nil {
		t.Fatal(err)
	}
	p := &replayer{scenario: s}
	if p.e, err = rtmfp.New(begin, rtmfp.Config{Identity: id, Random: rand.NewChaCha8([32]byte{2})}); err != nil {
		t.Fatal(err)
	}
	return p
}

func recordedBody(n int) []byte { return bytes.Repeat([]byte{byte(n + 1)}, n*n*60+1) }

func (p *replayer) begin(t *testing.T, now time.Time, far netip.AddrPort) {
	t.Helper()
	if p.epd == nil {
		return
	}
	if _, err := p.e.Open(now, p.epd, rtmfp.Candidate{Interface: rtmfp.AnyInterface, Addr: far}); err != nil {
		t.Fatal(err)
	}
}

// drain handles events and returns the datagrams to send.
func (p *replayer) drain(now time.Time) []rtmfp.Datagram {
	for {
		events := p.e.Events()
		if len(events) == 0 {
			return p.e.Flush(now)
		}
		for _, ev := range events {
			switch ev.Kind {
			case rtmfp.EventSessionOpen:
				p.session = ev.Session
				if p.epd == nil {
					break
				}
				f, err := ev.Session.OpenFlow(now, rtmfp.FlowConfig{Metadata: []byte("recorded")})
				if err != nil {
					p.wrong = err.Error()
					break
				}
				for n := range p.messages {
					if _, err := f.Write(now, recordedBody(n), rtmfp.WriteOptions{}); err != nil {
						p.wrong = err.Error()
					}
				}
				p.flow = f
			case rtmfp.EventMessage:
				if p.epd != nil && !bytes.Equal(ev.Data, recordedBody(p.got)) {
					p.wrong = fmt.Sprintf("message %d of %d bytes", p.got, len(ev.Data))
				}
				if p.got++; p.epd != nil && p.got == p.messages {
					p.flow.Close(now) // only while it is open may flows be associated to it
				}
			}
		}
	}
}

// Packets that other programs have sent are understood as they were when they were recorded.
func TestRecordedExchanges(t *testing.T) {
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			b, err := os.ReadFile("testdata/recorded/" + s.name + ".json")
			if err != nil {
				t.Fatal(err)
			}
			var r recording
			if err := json.Unmarshal(b, &r); err != nil {
				t.Fatal(err)
			}
			p := newReplayer(t, s, r.Begin)
			p.begin(t, r.Begin, netip.MustParseAddrPort(r.Far))
			p.drain(r.Begin)
			for _, step := range r.Steps {
				now := r.Begin.Add(step.At)
				if step.Packet == "" {
					p.e.Tick(now)
				} else {
					packet, err := hex.DecodeString(step.Packet)
					if err != nil {
						t.Fatal(err)
					}
					p.e.Receive(now, 0, netip.MustParseAddrPort(r.Far), packet)
				}
				p.drain(now)
			}
			p.check(t, r)
		})
	}
}

func (p *replayer) check(t *testing.T, r recording) {
	t.Helper()
	if p.session == nil {
		t.Fatalf("no session: %+v", p.e.Counters())
	}
	if p.wrong != "" || p.messages > 0 && p.got != p.messages {
		t.Errorf("%d messages, wrong: %q", p.got, p.wrong)
	}
	if p.session.Keys().Authenticated() == p.checksum {
		t.Errorf("authenticated: %v", p.session.Keys().Authenticated())
	}
	c := p.e.Counters()
	if c.Chunks != [len(c.Chunks)]uint64{} || c.Packets[rtmfp.PacketStartup] == 0 || c.Packets[rtmfp.PacketSession] == 0 ||
		c.Received != c.Packets[rtmfp.PacketStartup]+c.Packets[rtmfp.PacketSession] {
		t.Errorf("%+v", c)
	}
	for i, nonce := range [][]byte{p.session.Keys().NearNonce(), p.session.Keys().FarNonce()} {
		if len(r.Nonces) > i && r.Nonces[i] != hex.EncodeToString(nonce) {
			t.Errorf("nonce %x, the other end has %s", nonce, r.Nonces[i])
		}
	}
}

// nonces finds what echoserver prints of a session: its far nonce, which is our near one, then its near nonce.
func nonces(said string) []string {
	find := func(label string) string {
		_, after, _ := strings.Cut(said, label)
		line, _, _ := strings.Cut(after, "\n")
		return strings.TrimSpace(line)
	}
	if far, near := find("far nonce:"), find("near nonce:"); far != "" && near != "" {
		return []string{far, near}
	}
	return nil
}
