package flash_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stilenet/stile/nattest/natlab"
	"github.com/stilenet/stile/rtmfp/flash"
	"github.com/stilenet/stile/turn/client"
)

// call puts alice, who publishes "cam", and bob, who plays it, into the internet.
func call(t *testing.T, l *lab) (alice, bob *player, pub *flash.NetStream, v *listener) {
	t.Helper()
	alice = l.player("alice", l.n.Internet(), "203.0.113.1", nil)
	bob = l.player("bob", l.n.Internet(), "203.0.113.2", nil)
	alice.connect()
	bob.connect()
	pub = alice.publish("cam")
	v = bob.play(alice.nc.NearID(), "cam")
	wait(t, "Play.Start", 5*time.Second, func() bool { return v.has(flash.NetStreamPlayStart) })
	return alice, bob, pub, v
}

func TestConnectFailsAsThePlayerDid(t *testing.T) {
	rejected := func(in flash.ConnectInfo) flash.Command {
		return flash.CommandFailed(1, flash.Status{Code: flash.NetConnectionConnectFailed, Description: "no such key: " + in.App})
	}
	for _, test := range []struct {
		name   string
		url    string
		setup  func(l *lab)
		change func(l *lab, cfg *flash.Config)
		code   string
		text   string // in the error
		after  time.Duration
	}{
		{"wrong key", url, func(l *lab) { l.in.answer = rejected }, nil, flash.NetConnectionConnectFailed, "no such key: KEY", 60 * time.Millisecond},
		{"UDP is blocked", url, func(l *lab) { l.in.host.Link().Cut() }, nil, flash.NetConnectionConnectFailed, "RTMFPTURNProxy", 90 * time.Second},
		{"a server that never answers connect", url, func(l *lab) { l.in.silent = true }, nil, flash.NetConnectionConnectFailed, "has not answered the connect command", 90 * time.Second},
		{"a dead proxy", url, func(l *lab) { l.in.host.Link().Cut() }, func(l *lab, cfg *flash.Config) {
			cfg.MMS.Proxy = "192.0.2.9:3478"
			cfg.DialRelay = func(ctx context.Context, proxy string) (net.PacketConn, error) {
				return client.Dial(ctx, client.Config{Server: proxy, Network: "udp", ListenPacket: cfg.ListenPacket})
			}
		}, flash.NetConnectionConnectFailed, "the TURN proxy 192.0.2.9:3478 does not help: ", 90 * time.Second},
		{"a proxy that asks for credentials", url, func(l *lab) { l.in.host.Link().Cut() }, func(l *lab, cfg *flash.Config) {
			cfg.MMS.Proxy = "proxy"
			cfg.DialRelay = func(context.Context, string) (net.PacketConn, error) { return nil, client.ErrCredentialsWanted }
		}, flash.NetConnectionConnectFailed, "the server asks for credentials", 90 * time.Second},
		{"no such host", "rtmfp://nobody/KEY", nil, nil, "", "nobody", 0},
		{"no RTMFP", "rtmp://introducer/KEY", nil, nil, "", "rtmfp://host/key", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			inLab(t, 1, func(t *testing.T, l *lab) {
				if test.setup != nil {
					test.setup(l)
				}
				p := l.player("alice", l.n.Internet(), "203.0.113.1", func(cfg *flash.Config) {
					if test.change != nil {
						test.change(l, cfg)
					}
				})
				began := time.Now()
				err := p.nc.Connect(t.Context(), test.url)
				took := time.Since(began)
				if err == nil || !strings.Contains(err.Error(), test.text) {
					t.Fatalf("%v", err)
				}
				var status *flash.StatusError
				if errors.As(err, &status) != (test.code != "") || status != nil && (status.Code != test.code || status.Level != "error") {
					t.Fatalf("%v", err)
				}
				if took < test.after || took > test.after+time.Second {
					t.Errorf("after %v, want %v", took, test.after)
				}
				<-p.nc.Done()
				if test.code != "" && !slices.Equal(p.codes(), []string{test.code}) {
					t.Errorf("%v", p.codes())
				}
				if err := p.nc.Connect(t.Context(), url); test.after > 0 && !errors.Is(err, flash.ErrUsed) {
					t.Errorf("again: %v", err)
				}
			})
		})
	}
}

func TestConnectEndsWithItsContext(t *testing.T) {
	inLab(t, 1, func(t *testing.T, l *lab) {
		l.in.host.Link().Cut()
		p := l.player("alice", l.n.Internet(), "203.0.113.1", nil)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if err := p.nc.Connect(ctx, url); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		<-p.nc.Done()
		if _, err := netip.ParseAddrPort("x"); err == nil || p.nc.Connected() {
			t.Error("connected")
		}
	})
}

func TestPeersThatCannotBeReached(t *testing.T) {
	inLab(t, 1, func(t *testing.T, l *lab) {
		alice := l.player("alice", l.n.Internet(), "203.0.113.1", nil)
		alice.connect()
		began := time.Now()
		v := alice.play(flash.PeerID{1}, "cam")
		alice.waitCode(flash.NetStreamConnectFailed, 100*time.Second)
		if took := time.Since(began); took < 94*time.Second || took > 96*time.Second {
			t.Errorf("after %v", took)
		}
		if err := v.ns.Close(); !errors.Is(err, flash.ErrClosed) {
			t.Errorf("close: %v", err)
		}
	})
}

func TestAPublisherRefusesAPeer(t *testing.T) {
	inLab(t, 1, func(t *testing.T, l *lab) {
		alice := l.player("alice", l.n.Internet(), "203.0.113.1", nil)
		bob := l.player("bob", l.n.Internet(), "203.0.113.2", nil)
		carol := l.player("carol", l.n.Internet(), "203.0.113.3", nil)
		for _, p := range []*player{alice, bob, carol} {
			p.connect()
		}
		pub := flash.NewNetStream(alice.nc, flash.DirectConnections)
		var asked []flash.PeerID
		pub.OnPeerConnect = func(s *flash.NetStream) bool {
			asked = append(asked, s.FarID())
			return s.FarID() == bob.nc.NearID() && s.Name() == "cam"
		}
		if err := pub.Publish("cam"); err != nil {
			t.Fatal(err)
		}
		vb, vc := bob.play(alice.nc.NearID(), "cam"), carol.play(alice.nc.NearID(), "cam")
		carol.waitCode(flash.NetStreamConnectRejected, 5*time.Second)
		wait(t, "bob", 5*time.Second, func() bool { return vb.has(flash.NetStreamPlayStart) })
		if err := pub.Send("secret", 1); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if len(pub.PeerStreams()) != 1 || vb.count() != 2 || vc.count() != 0 || len(asked) != 2 {
			t.Errorf("%d peers, %d and %d messages, %d asked", len(pub.PeerStreams()), vb.count(), vc.count(), len(asked))
		}
	})
}

func TestMaxPeerConnectionsBoundsThePeers(t *testing.T) {
	inLab(t, 1, func(t *testing.T, l *lab) {
		alice := l.player("alice", l.n.Internet(), "203.0.113.1", nil)
		alice.connect()
		if alice.nc.MaxPeerConnections() != 8 {
			t.Errorf("%d at first", alice.nc.MaxPeerConnections())
		}
		pub := alice.publish("cam")
		var all []*player
		for i := range 10 {
			p := l.player(fmt.Sprint("p", i), l.n.Internet(), fmt.Sprintf("203.0.113.%d", 10+i), nil)
			p.connect()
			all = append(all, p)
			p.play(alice.nc.NearID(), "cam")
			p.play(alice.nc.NearID(), "cam") // a second stream is no second peer
			want := flash.NetStreamConnectSuccess
			if i >= 8 {
				want = flash.NetStreamConnectRejected
			}
			p.waitCode(want, 5*time.Second)
		}
		time.Sleep(time.Second)
		if n := len(pub.PeerStreams()); n != 16 {
			t.Errorf("%d streams", n)
		}
		// One leaves, and another takes its place.
		if err := all[0].nc.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		again := all[8].play(alice.nc.NearID(), "cam")
		wait(t, "the ninth", 5*time.Second, func() bool { return again.has(flash.NetStreamPlayStart) })
	})
}

func TestAStreamThatNobodyPublishesWaits(t *testing.T) {
	inLab(t, 1, func(t *testing.T, l *lab) {
		alice := l.player("alice", l.n.Internet(), "203.0.113.1", nil)
		bob := l.player("bob", l.n.Internet(), "203.0.113.2", nil)
		alice.connect()
		bob.connect()
		v := bob.play(alice.nc.NearID(), "later")
		wait(t, "unconnected", 5*time.Second, func() bool { return len(alice.nc.UnconnectedPeerStreams()) == 1 })
		u := alice.nc.UnconnectedPeerStreams()[0]
		if u.Name() != "later" || u.FarID() != bob.nc.NearID() || v.has(flash.NetStreamPlayStart) || !errors.Is(u.Send("x"), flash.ErrDirection) {
			t.Errorf("%q", u.Name())
		}
		alice.publish("other")
		pub := alice.publish("later")
		wait(t, "Play.Start", 5*time.Second, func() bool { return v.has(flash.NetStreamPlayStart) })
		if len(alice.nc.UnconnectedPeerStreams()) != 0 || len(pub.PeerStreams()) != 1 || pub.PeerStreams()[0] != u {
			t.Error("it is not in peerStreams")
		}
		second := flash.NewNetStream(alice.nc, flash.DirectConnections)
		var status *flash.StatusError
		if err := second.Publish("later"); !errors.As(err, &status) || status.Code != flash.NetStreamPublishBadName {
			t.Errorf("%v", err)
		}
		// One that waits can be refused.
		w := bob.play(alice.nc.NearID(), "never")
		wait(t, "unconnected", 5*time.Second, func() bool { return len(alice.nc.UnconnectedPeerStreams()) == 1 })
		if err := alice.nc.UnconnectedPeerStreams()[0].Close(); err != nil {
			t.Fatal(err)
		}
		bob.waitCode(flash.NetStreamConnectRejected, 5*time.Second)
		_ = w
	})
}

func TestSendReachesAllOrOne(t *testing.T) {
	inLab(t, 1, func(t *testing.T, l *lab) {
		alice, _, pub, v1 := call(t, l)
		carol := l.player("carol", l.n.Internet(), "203.0.113.3", nil)
		carol.connect()
		got := make(chan []any, 10)
		ns := flash.NewNetStream(carol.nc, alice.nc.NearID())
		ns.Client = map[string]func([]any){"chat": func(args []any) { got <- args }}
		if err := ns.Play("cam"); err != nil {
			t.Fatal(err)
		}
		wait(t, "two", 5*time.Second, func() bool { return len(pub.PeerStreams()) == 2 })
		i := slices.IndexFunc(pub.PeerStreams(), func(s *flash.NetStream) bool { return s.FarID() == carol.nc.NearID() })
		if err := pub.PeerStreams()[i].Send("chat", "only you", 1, true, nil, []any{"x"}); err != nil {
			t.Fatal(err)
		}
		args := <-got
		if len(args) != 5 || args[0] != "only you" || args[1] != 1.0 || args[2] != true || args[3] != nil {
			t.Errorf("%v", args)
		}
		if err := pub.Send("chat", "all"); err != nil {
			t.Fatal(err)
		}
		if args := <-got; args[0] != "all" {
			t.Errorf("%v", args)
		}
		time.Sleep(time.Second)
		if n := v1.count(flash.MessageDataAMF0); n != 2 {
			t.Errorf("the other got %d", n)
		}
		if err := pub.Send("chat", make(chan int)); !errors.Is(err, flash.ErrAMFType) {
			t.Errorf("%v", err)
		}
		if err := pub.SendMessage(flash.Message{Type: flash.MessageAudio, Payload: make([]byte, 5<<20)}); !errors.Is(err, flash.ErrTooLong) {
			t.Errorf("%v", err)
		}
		if err := v1.ns.Send("chat"); !errors.Is(err, flash.ErrDirection) {
			t.Errorf("%v", err)
		}
	})
}

// TestNothingIsSentUntilSomebodySubscribes: media of a publisher without subscribers stays at home.
func TestNothingIsSentUntilSomebodySubscribes(t *testing.T) {
	inLab(t, 1, func(t *testing.T, l *lab) {
		alice := l.player("alice", l.n.Internet(), "203.0.113.1", nil)
		alice.connect()
		pub := alice.publish("cam")
		time.Sleep(time.Second)
		before := l.n.Stats()
		config := flash.AppendVideoTag(nil, flash.VideoTag{Codec: flash.AVC, Legacy: true, Packet: flash.SequenceStart, Frame: flash.KeyFrame, Data: []byte("sps")})
		for range 100 {
			for _, m := range []flash.Message{{Type: flash.MessageAudio, Payload: []byte{0xb2, 1}}, {Type: flash.MessageVideo, Payload: config}} {
				if err := pub.SendMessage(m); err != nil {
					t.Fatal(err)
				}
			}
		}
		if after := l.n.Stats(); after.Sent != before.Sent {
			t.Errorf("%d packets", after.Sent-before.Sent)
		}
		// Who comes later gets the decoder's configuration.
		bob := l.player("bob", l.n.Internet(), "203.0.113.2", nil)
		bob.connect()
		v := bob.play(alice.nc.NearID(), "cam")
		wait(t, "the configuration", 5*time.Second, func() bool { return v.count(flash.MessageVideo) == 1 })
	})
}

func TestClosesInEveryOrder(t *testing.T) {
	for _, first := range []string{"publisher stream", "player stream", "peer stream", "publisher connection", "player connection", "server", "both"} {
		t.Run(first, func(t *testing.T) {
			inLab(t, 1, func(t *testing.T, l *lab) {
				alice, bob, pub, v := call(t, l)
				for i := range 100 {
					if err := pub.Send("n", i); err != nil {
						t.Fatal(err)
					}
				}
				sent := 100
				began := time.Now()
				switch first {
				case "publisher stream":
					_ = pub.Close()
				case "player stream":
					_ = v.ns.Close()
					sent = 0
				case "peer stream":
					_ = pub.PeerStreams()[0].Close()
				case "publisher connection":
					_ = alice.nc.Close()
				case "player connection":
					_ = bob.nc.Close()
					sent = 0
				case "server":
					time.Sleep(time.Second)
					l.in.stop()
					defer l.in.start()
				case "both":
					go func() { _ = alice.nc.Close() }()
					_ = bob.nc.Close()
					sent = 0
				}
				if took := time.Since(began); took > 500*time.Millisecond && first != "server" {
					t.Errorf("closing took %v", took)
				}
				if first != "both" && first != "player connection" {
					bob.waitCode(flash.NetStreamConnectClosed, 5*time.Second)
				}
				if first != "both" && first != "publisher connection" {
					alice.waitCode(flash.NetStreamConnectClosed, 5*time.Second)
				}
				if n := v.count(); n < sent+1 {
					t.Errorf("%d messages of %d", n, sent+1)
				}
				if first == "server" {
					alice.waitCode(flash.NetConnectionConnectClosed, 5*time.Second)
					bob.waitCode(flash.NetConnectionConnectClosed, 5*time.Second)
				}
				_ = alice.nc.Close()
				_ = bob.nc.Close()
				<-alice.nc.Done()
				<-bob.nc.Done()
				for _, p := range []*player{alice, bob} {
					if codes := p.codes(); codes[len(codes)-1] != flash.NetConnectionConnectClosed {
						t.Errorf("%v", codes)
					}
				}
			})
		})
	}
}

// TestPeersWhoCallEachOtherAtOnceShareASession is glare (RFC 7016 §3.5.1.3).
func TestPeersWhoCallEachOtherAtOnceShareASession(t *testing.T) {
	for seed := range uint64(30) {
		inLab(t, seed, func(t *testing.T, l *lab) {
			rng := rand.New(rand.NewPCG(seed, 1))
			alice := l.player("alice", l.n.Internet(), "203.0.113.1", nil)
			bob := l.player("bob", l.n.Internet(), "203.0.113.2", nil)
			alice.connect()
			bob.connect()
			alice.publish("media-caller")
			bob.publish("media-callee")
			va := alice.play(bob.nc.NearID(), "media-callee")
			time.Sleep(time.Duration(rng.IntN(200)) * time.Millisecond)
			vb := bob.play(alice.nc.NearID(), "media-caller")
			wait(t, "both play", 5*time.Second, func() bool { return va.has(flash.NetStreamPlayStart) && vb.has(flash.NetStreamPlayStart) })
			if string(va.ns.NearNonce()) != string(vb.ns.FarNonce()) || len(va.ns.NearNonce()) == 0 {
				t.Error("two sessions")
			}
		})
	}
}

// TestLossOf5PercentHoldsNoAudioBack: reliable data is whole, and audio comes at most 250 ms late or not at all.
// TestAPublisherWaitsForAPeerWhoseSessionOpensSlowly loses each answer to the IIKeying for 9 s, and then the request itself for 2 s: longer
// than a session without streams is kept, counted from the publisher's end of the opening.
func TestAPublisherWaitsForAPeerWhoseSessionOpensSlowly(t *testing.T) {
	inLab(t, 1, func(t *testing.T, l *lab) {
		alice := l.player("alice", l.n.Internet(), "203.0.113.1", nil)
		bob := l.player("bob", l.n.Internet(), "203.0.113.2", nil)
		alice.connect()
		bob.connect()
		alice.publish("cam")
		v := bob.play(alice.nc.NearID(), "cam")
		// By the introducer the first answer of alice comes 3 links later. The IIKeying is sent then, and 1.5, 4.5 and 9 s later.
		const keying = 3 * linkDelay
		time.Sleep(keying + linkDelay/2)
		l.deafen(bob, netip.MustParseAddr("203.0.113.1"))
		time.Sleep(9*time.Second - linkDelay/2)
		l.deafen(bob)
		time.Sleep(linkDelay * 3 / 2)
		l.deafen(alice, netip.MustParseAddr("203.0.113.2"))
		time.Sleep(linkDelay)
		l.deafen(bob, netip.MustParseAddr("203.0.113.1"))
		time.Sleep(2 * time.Second)
		l.deafen(alice)
		l.deafen(bob)
		// Before the publisher would say a second time that it has closed.
		wait(t, "Play.Start", 3*time.Second, func() bool { return v.has(flash.NetStreamPlayStart) })
		for _, p := range []*player{alice, bob} {
			if slices.Contains(p.codes(), flash.NetStreamConnectClosed) {
				t.Errorf("%s: %v", p.host.Name(), p.codes())
			}
		}
	})
}

func TestLossOf5PercentHoldsNoAudioBack(t *testing.T) {
	for seed := range uint64(5) {
		inLab(t, seed, func(t *testing.T, l *lab) {
			alice, bob, pub, v := call(t, l)
			link := natlab.LinkConfig{Delay: linkDelay / 2, Loss: 0.025}
			alice.host.Link().Set(link)
			bob.host.Link().Set(link)
			const n = 1000
			began := time.Now()
			for i := range n {
				if err := pub.SendMessage(flash.Message{Type: flash.MessageAudio, Timestamp: uint32(time.Since(began).Milliseconds()), Payload: make([]byte, 60)}); err != nil {
					t.Fatal(err)
				}
				if i%5 == 0 {
					if err := pub.Send("n", i); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(20 * time.Millisecond)
			}
			wait(t, "all data", 10*time.Second, func() bool { return v.count(flash.MessageDataAMF0) == n/5+1 })
			audio := v.count(flash.MessageAudio)
			if audio < n*98/100 {
				t.Errorf("%d of %d audio messages", audio, n)
			}
			v.mu.Lock()
			defer v.mu.Unlock()
			var worst time.Duration
			next := 0.0
			for i, m := range v.messages {
				switch m.Type {
				case flash.MessageAudio:
					late := v.at[i].Sub(began) - time.Duration(m.Timestamp)*time.Millisecond - linkDelay
					worst = max(worst, late)
				case flash.MessageDataAMF0:
					if d, err := flash.ParseData(m); err == nil && d.Handler == "n" {
						if d.Arguments[0] != next {
							t.Fatalf("data %v, want %v", d.Arguments[0], next)
						}
						next += 5
					}
				}
			}
			if worst > 250*time.Millisecond {
				t.Errorf("audio came %v late", worst)
			}
		})
	}
}

// TestAudioGoesBeforeVideoBeforeData: on a link that is too narrow for all, a bulk of data takes what the media leave.
func TestAudioGoesBeforeVideoBeforeData(t *testing.T) {
	inLab(t, 1, func(t *testing.T, l *lab) {
		alice, _, pub, v := call(t, l)
		alice.host.Link().Set(natlab.LinkConfig{Delay: linkDelay / 2, Rate: 4_000_000, Queue: 20_000})
		stop := make(chan struct{})
		bulk := make(chan int)
		go func() {
			n := 0
			defer func() { bulk <- n }()
			for {
				select {
				case <-stop:
					return
				default:
				}
				if pub.Info().DataBytes-uint64(0) > 0 && n-v.count(flash.MessageDataAMF0) > 40 {
					time.Sleep(5 * time.Millisecond)
					continue
				}
				if pub.Send("bulk", strings.Repeat("x", 10000)) == nil {
					n++
				}
			}
		}()
		const n = 500
		began := time.Now()
		for i := range n {
			at := uint32(time.Since(began).Milliseconds())
			_ = pub.SendMessage(flash.Message{Type: flash.MessageAudio, Timestamp: at, Payload: make([]byte, 80)})
			kind := byte(0x22)
			if i%50 == 0 {
				kind = 0x12
			}
			if i%2 == 0 { // 2 Mbit/s at 25 frames per second
				_ = pub.SendMessage(flash.Message{Type: flash.MessageVideo, Timestamp: at, Payload: append([]byte{kind}, make([]byte, 10_000)...)})
			}
			time.Sleep(20 * time.Millisecond)
		}
		close(stop)
		sent := <-bulk
		time.Sleep(2 * time.Second)
		audio, video := v.count(flash.MessageAudio), v.count(flash.MessageVideo)
		t.Logf("audio %d of %d, video %d of %d, %d kbit/s of bulk", audio, n, video, n/2, sent*10000*8/10/1000)
		if audio != n || video < n/2*95/100 || sent < 100 {
			t.Errorf("audio %d of %d, video %d of %d, %d bulk messages", audio, n, video, n/2, sent)
		}
	})
}
