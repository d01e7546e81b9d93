package flash_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stilenet/stile/nattest/natlab"
	"github.com/stilenet/stile/rtmfp"
	"github.com/stilenet/stile/rtmfp/flash"
	"github.com/stilenet/stile/rtmfp/transport"
)

// rogue is a peer with an endpoint of its own, which does what no NetStream does.
type rogue struct {
	t      testing.TB
	tr     *transport.Transport
	id     *flash.Identity
	events map[rtmfp.EventKind]int
	ends   int // so many sessions of others it closes as soon as they are open
	frees  []func()
}

func (l *lab) rogue(addr string) *rogue {
	l.t.Helper()
	h := l.n.Internet().Host("rogue", addr)
	h.Link().Set(natlab.LinkConfig{Delay: linkDelay / 2})
	conn, err := h.ListenPacket(context.Background(), "udp4", ":0")
	if err != nil {
		l.t.Fatal(err)
	}
	id, err := flash.NewIdentity(flash.IdentityConfig{Random: newRandom(l.n.Seed(), 666)})
	if err != nil {
		l.t.Fatal(err)
	}
	r := &rogue{t: l.t, id: id, events: make(map[rtmfp.EventKind]int)}
	r.tr, err = transport.New(transport.Config{
		Endpoint: rtmfp.Config{Identity: id, Random: newRandom(l.n.Seed(), 667)}, Interfaces: []transport.Interface{{Conn: conn}}, KeyingWorkers: 1,
		Handle: func(now time.Time, _ *rtmfp.Endpoint, ev rtmfp.Event) {
			r.events[ev.Kind]++
			if ev.Kind == rtmfp.EventSessionOpen && ev.Session.Role() == rtmfp.RoleResponder && r.ends > 0 {
				r.ends--
				ev.Session.Close(now)
			}
		},
	})
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { _ = r.tr.Serve(ctx); close(ended) }()
	r.frees = append(r.frees, func() { cancel(); <-ended })
	return r
}

func (r *rogue) end() {
	for _, f := range r.frees {
		f()
	}
}

func (r *rogue) do(f func(now time.Time, e *rtmfp.Endpoint)) {
	r.t.Helper()
	if err := r.tr.Do(context.Background(), f); err != nil {
		r.t.Fatal(err)
	}
}

// register lets the introducer know of it.
func (r *rogue) register() {
	r.t.Helper()
	s := r.open(flash.ServerEPD(url))
	b, err := flash.AppendCommand(nil, flash.AMF0, flash.SetPeerInfo(nil))
	if err != nil {
		r.t.Fatal(err)
	}
	r.flow(s, flash.AppendFlowMetadata(nil, flash.FlowMetadata{}), b)
	time.Sleep(time.Second)
}

// reach opens a session with a peer through the introducer.
func (r *rogue) reach(peer flash.PeerID) *rtmfp.Session { r.t.Helper(); return r.open(peer.EPD()) }

func (r *rogue) open(epd []byte) (s *rtmfp.Session) {
	r.t.Helper()
	r.do(func(now time.Time, e *rtmfp.Endpoint) {
		var err error
		s, err = e.Open(now, epd, rtmfp.Candidate{Interface: rtmfp.AnyInterface, Addr: netip.AddrPortFrom(netip.MustParseAddr(introducerAddress), 1935)})
		if err != nil {
			r.t.Error(err)
		}
	})
	wait(r.t, "a session", 10*time.Second, func() (open bool) {
		r.do(func(time.Time, *rtmfp.Endpoint) { open = s.State() == rtmfp.StateOpen })
		return open
	})
	return s
}

// flow opens a flow and writes messages.
func (r *rogue) flow(s *rtmfp.Session, metadata []byte, messages ...[]byte) {
	r.do(func(now time.Time, _ *rtmfp.Endpoint) {
		f, err := s.OpenFlow(now, rtmfp.FlowConfig{Metadata: metadata})
		if err != nil {
			return
		}
		for _, m := range messages {
			_, _ = f.Write(now, m, rtmfp.WriteOptions{})
		}
	})
}

func playMessage(name string) []byte {
	b, err := flash.AppendCommand(nil, flash.AMF0, flash.Command{Name: flash.CommandPlay, Arguments: []any{name}})
	if err != nil {
		panic(err)
	}
	return b
}

// TestASessionThatEndsBeforeTheRequestIsOpenedAgain, but not for ever: a publisher may have given up waiting for the opening.
func TestASessionThatEndsBeforeTheRequestIsOpenedAgain(t *testing.T) {
	for _, test := range []struct{ ends, opened int }{{1, 2}, {4, 5}, {1000, 5}} {
		inLab(t, 1, func(t *testing.T, l *lab) {
			bob := l.player("bob", l.n.Internet(), "203.0.113.2", nil)
			bob.connect()
			r := l.rogue("203.0.113.66")
			defer r.end()
			r.register()
			r.do(func(time.Time, *rtmfp.Endpoint) { r.ends = test.ends; clear(r.events) })
			bob.play(r.id.PeerID(), "cam")
			time.Sleep(90 * time.Second)
			r.do(func(time.Time, *rtmfp.Endpoint) {
				if n := r.events[rtmfp.EventSessionOpen]; n != test.opened {
					t.Errorf("%d sessions of %d end: %d opened", test.ends, test.opened, n)
				}
				if n := r.events[rtmfp.EventFlowOpen]; (n == 1) != (test.ends < test.opened) {
					t.Errorf("%d requests", n)
				}
			})
			if closed := slices.Contains(bob.codes(), flash.NetStreamConnectClosed); closed != (test.ends >= test.opened) {
				t.Error(bob.codes())
			}
		})
	}
}

func TestAPeerThatOpensTooManyStreamsIsBounded(t *testing.T) {
	inLab(t, 1, func(t *testing.T, l *lab) {
		alice := l.player("alice", l.n.Internet(), "203.0.113.1", nil)
		bob := l.player("bob", l.n.Internet(), "203.0.113.2", nil)
		alice.connect()
		bob.connect()
		pub := alice.publish("cam")
		r := l.rogue("203.0.113.66")
		defer r.end()
		s := r.reach(alice.nc.NearID())
		for i := range 500 {
			r.flow(s, flash.AppendFlowMetadata(nil, flash.FlowMetadata{StreamID: uint32(i + 1)}), playMessage(fmt.Sprint("x", i)))
		}
		time.Sleep(10 * time.Second)
		if n := len(alice.nc.UnconnectedPeerStreams()); n != 32 {
			t.Errorf("%d streams wait", n)
		}
		v := bob.play(alice.nc.NearID(), "cam")
		wait(t, "Play.Start", 5*time.Second, func() bool { return v.has(flash.NetStreamPlayStart) })
		_ = pub
	})
}

// TestNonsenseFromAPeerHarmsNobody: flows and messages of every wrong kind, while another peer listens.
func TestNonsenseFromAPeerHarmsNobody(t *testing.T) {
	for seed := range uint64(3) {
		inLab(t, seed, func(t *testing.T, l *lab) {
			rng := rand.New(rand.NewPCG(seed, 5))
			alice, _, pub, v := call(t, l)
			r := l.rogue("203.0.113.66")
			defer r.end()
			s := r.reach(alice.nc.NearID())
			bytesOf := func(n int) []byte {
				b := make([]byte, rng.IntN(n))
				for i := range b {
					b[i] = byte(rng.Uint32())
				}
				return b
			}
			for range 200 {
				metadata := [][]byte{bytesOf(20), {'T', 'C', 0}, {'T', 'C', 4, 0}, {'T', 'C', 4, 9}, {'T', 'C', 5, 0xfa, 0x89, 1}}[rng.IntN(5)]
				messages := [][]byte{
					{}, {20}, bytesOf(100), append([]byte{20, 0, 0, 0, 0}, bytesOf(100)...), append([]byte{17, 0, 0, 0, 0, 0}, bytesOf(50)...),
					playMessage("cam"), playMessage(""), flash.AppendUserControl(nil, flash.UserControl{Event: flash.FlowSync, First: 1, Second: 1000}),
					append([]byte{4, 0, 0, 0, 0}, bytesOf(12)...),
				}
				rng.Shuffle(len(messages), func(i, j int) { messages[i], messages[j] = messages[j], messages[i] })
				r.flow(s, metadata, messages...)
				time.Sleep(10 * time.Millisecond)
			}
			before := v.count()
			for i := range 50 {
				if err := pub.Send("n", i); err != nil {
					t.Fatal(err)
				}
			}
			wait(t, "the other peer's data", 5*time.Second, func() bool { return v.count() == before+50 })
			if !alice.nc.Connected() {
				t.Error("disconnected")
			}
		})
	}
}

// TestAnApplicationThatDoesNotTakeMessagesHoldsTheSenderBack: memory is bounded, and nothing is lost.
func TestAnApplicationThatDoesNotTakeMessagesHoldsTheSenderBack(t *testing.T) {
	inLab(t, 1, func(t *testing.T, l *lab) {
		alice := l.player("alice", l.n.Internet(), "203.0.113.1", nil)
		bob := l.player("bob", l.n.Internet(), "203.0.113.2", nil)
		alice.connect()
		bob.connect()
		pub := alice.publish("cam")
		blocked, n := make(chan struct{}), 0
		ns := flash.NewNetStream(bob.nc, alice.nc.NearID())
		ns.Client = map[string]func([]any){"bulk": func([]any) { <-blocked; n++ }}
		if err := ns.Play("cam"); err != nil {
			t.Fatal(err)
		}
		wait(t, "a subscriber", 5*time.Second, func() bool { return len(pub.PeerStreams()) == 1 })
		part := make([]byte, 100_000)
		sent := 0
		var err error
		for ; sent < 400; sent++ {
			if err = pub.Send("bulk", part); err != nil {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		if err != flash.ErrBacklog {
			t.Fatalf("after %d: %v", sent, err)
		}
		if got := ns.Info().DataBytes; got > 3<<20 {
			t.Errorf("%d bytes wait for the application", got)
		}
		close(blocked)
		wait(t, "everything", time.Minute, func() bool { return ns.Info().DataBytes >= uint64(sent)*100_000 })
		time.Sleep(time.Second)
		_ = bob.nc.Close()
		<-bob.nc.Done()
		if n != sent {
			t.Errorf("%d of %d", n, sent)
		}
	})
}

// TestAFullMeshSharesTheUplink is the article's conference of four: audio is whole, video is what the uplink has left, and the
// encoder is told.
func TestAFullMeshSharesTheUplink(t *testing.T) {
	inLab(t, 1, func(t *testing.T, l *lab) {
		const uplink = 1_000_000
		alice := l.player("alice", l.n.Internet(), "203.0.113.1", func(cfg *flash.Config) { cfg.Uplink = uplink })
		alice.connect()
		alice.host.Link().SetUp(natlab.LinkConfig{Delay: linkDelay / 2, Rate: uplink * 12 / 10, Queue: 30_000})
		pub := alice.publish("cam")
		var viewers []*listener
		for i := range 3 {
			p := l.player(fmt.Sprint("p", i), l.n.Internet(), fmt.Sprintf("203.0.113.%d", 10+i), nil)
			p.connect()
			viewers = append(viewers, p.play(alice.nc.NearID(), "cam"))
		}
		wait(t, "three", 5*time.Second, func() bool { return len(pub.PeerStreams()) == 3 })
		// The encoder keeps to what it is told from the tenth second on.
		const n = 1000
		bitrate := 1_500_000
		audio := 0
		for i := range n {
			_ = pub.SendMessage(flash.Message{Type: flash.MessageAudio, Timestamp: uint32(i * 20), Payload: make([]byte, 80)})
			audio++
			if i%2 == 0 {
				kind := byte(0x22)
				if i%50 == 0 {
					kind = 0x12
				}
				_ = pub.SendMessage(flash.Message{Type: flash.MessageVideo, Timestamp: uint32(i * 20), Payload: append([]byte{kind}, make([]byte, bitrate/8/25)...)})
			}
			if i >= n/2 {
				if told := pub.Info().VideoBitrate; told > 0 {
					bitrate = min(told, 1_500_000)
				}
			}
			time.Sleep(20 * time.Millisecond)
		}
		time.Sleep(2 * time.Second)
		info := pub.Info()
		if info.VideoDropped == 0 || bitrate > uplink/3 {
			t.Errorf("%d frames left out, the encoder at %d bit/s", info.VideoDropped, bitrate)
		}
		for i, v := range viewers {
			if got := v.count(flash.MessageAudio); got < audio*98/100 {
				t.Errorf("viewer %d: %d of %d audio messages", i, got, audio)
			}
			if got := v.count(flash.MessageVideo); got < 200 {
				t.Errorf("viewer %d: %d video messages", i, got)
			}
		}
	})
}
