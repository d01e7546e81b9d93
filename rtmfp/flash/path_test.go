package flash_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stilenet/stile/nattest/natlab"
	"github.com/stilenet/stile/rtmfp/flash"
)

// talk sends audio and numbered data until it is told to stop, and then says whether all data came, in order.
type talk struct {
	pub  *flash.NetStream
	v    *listener
	stop chan struct{}
	done chan struct{}
	sent int
}

func startTalk(pub *flash.NetStream, v *listener) *talk {
	k := &talk{pub: pub, v: v, stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(k.done)
		for {
			select {
			case <-k.stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			_ = pub.SendMessage(flash.Message{Type: flash.MessageAudio, Payload: []byte{0xb2, 1}})
			if pub.Send("n", k.sent, string(make([]byte, 300))) == nil {
				k.sent++
			}
		}
	}()
	return k
}

func (k *talk) end(t *testing.T) {
	t.Helper()
	close(k.stop)
	<-k.done
	wait(t, "all data", 30*time.Second, func() bool { return k.v.count(flash.MessageDataAMF0) >= k.sent+1 })
	k.v.mu.Lock()
	defer k.v.mu.Unlock()
	next := 0
	for _, m := range k.v.messages {
		if d, err := flash.ParseData(m); m.Type == flash.MessageDataAMF0 && err == nil && d.Handler == "n" {
			if d.Arguments[0] != float64(next) {
				t.Fatalf("%v came, not %d", d.Arguments[0], next)
			}
			next++
		}
	}
	if next != k.sent {
		t.Fatalf("%d of %d", next, k.sent)
	}
}

// silence is the longest time without audio after a moment.
func (v *listener) silence(since time.Time) (longest time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	last := since
	for i, m := range v.messages {
		if m.Type == flash.MessageAudio && v.at[i].After(since) {
			longest = max(longest, v.at[i].Sub(last))
			last = v.at[i]
		}
	}
	return max(longest, time.Since(last))
}

// relayedCall is a call between two players behind port-restricted NATs, both with the proxy.
func relayedCall(t *testing.T, l *lab) (alice, bob *player, boxes [2]*natlab.Box, pub *flash.NetStream, v *listener) {
	t.Helper()
	var segs [2]*natlab.Segment
	for i := range boxes {
		boxes[i] = l.n.Internet().Box(fmt.Sprint("nat", i), natlab.BoxConfig{
			Outside: []string{fmt.Sprintf("203.0.113.%d", 10+i)}, NAT: &natlab.NATConfig{Mapping: natlab.EIM, Filtering: natlab.APDF, Ports: natlab.PortConfig{Order: natlab.Random}},
			Firewall: &natlab.FirewallConfig{},
		})
		boxes[i].Outside().Set(natlab.LinkConfig{Delay: linkDelay / 2})
		segs[i] = boxes[i].Inside()
	}
	alice, bob = l.relayedPlayer("alice", segs[0], "192.168.10.2"), l.relayedPlayer("bob", segs[1], "192.168.11.2")
	alice.connect()
	bob.connect()
	wait(t, "relays", 5*time.Second, func() bool {
		_, a := alice.nc.Relay()
		_, b := bob.nc.Relay()
		return a && b
	})
	time.Sleep(500 * time.Millisecond)
	pub = alice.publish("cam")
	v = bob.play(alice.nc.NearID(), "cam")
	wait(t, "Play.Start", 5*time.Second, func() bool { return v.has(flash.NetStreamPlayStart) })
	return
}

func TestACallGoesOnWhenItsNATForgets(t *testing.T) {
	for seed := range uint64(10) {
		inLab(t, seed, func(t *testing.T, l *lab) {
			rng := rand.New(rand.NewPCG(seed, 3))
			defer l.proxy()()
			_, _, boxes, pub, v := relayedCall(t, l)
			k := startTalk(pub, v)
			time.Sleep(6*time.Second + time.Duration(rng.IntN(1000))*time.Millisecond)
			// The NAT gives other ports from now on, and what comes to the old ones is dropped.
			at := time.Now()
			boxes[seed%2].Reboot()
			time.Sleep(20 * time.Second)
			if s := v.silence(at); s > 4*time.Second {
				t.Errorf("%v of silence", s)
			}
			k.end(t)
			if near, far := v.ns.Info().Path, pub.PeerStreams()[0].Info().Path; near.Relayed || far.Relayed {
				t.Errorf("%+v, %+v", near, far)
			}
		})
	}
}

// TestACallTakesTheRelayWhenUDPIsCutAndLeavesItAgain also loses no reliable byte.
func TestACallTakesTheRelayWhenUDPIsCutAndLeavesItAgain(t *testing.T) {
	inLab(t, 1, func(t *testing.T, l *lab) {
		defer l.proxy()()
		alice, bob, _, pub, v := relayedCall(t, l)
		k := startTalk(pub, v)
		time.Sleep(7 * time.Second)
		relayed := func() bool { return v.ns.Info().Path.Relayed || pub.PeerStreams()[0].Info().Path.Relayed }
		if relayed() {
			t.Fatal("relayed at first")
		}
		// A firewall between the two that lets them reach the proxy and the server only.
		cut := netip.MustParseAddr("203.0.113.11")
		l.block(alice, cut)
		at := time.Now()
		wait(t, "the relay", 8*time.Second, func() bool { return v.ns.Info().Path.Relayed && pub.PeerStreams()[0].Info().Path.Relayed })
		time.Sleep(5 * time.Second)
		if s := v.silence(at); s > 4*time.Second {
			t.Errorf("%v of silence", s)
		}
		l.block(alice)
		wait(t, "direct again", 20*time.Second, func() bool { return !relayed() })
		k.end(t)
		_ = bob
	})
}

func TestACallSurvivesTheRestartOfTheProxy(t *testing.T) {
	inLab(t, 1, func(t *testing.T, l *lab) {
		stop := l.proxy()
		symmetric := natlab.BoxConfig{NAT: &natlab.NATConfig{Mapping: natlab.APDM, Filtering: natlab.APDF}}
		alice := l.join("alice", 10, way{box: &symmetric})
		bob := l.join("bob", 11, way{box: &symmetric})
		alice.connect()
		bob.connect()
		time.Sleep(2 * time.Second)
		pub := alice.publish("cam")
		v := bob.play(alice.nc.NearID(), "cam")
		wait(t, "Play.Start", 5*time.Second, func() bool { return v.has(flash.NetStreamPlayStart) })
		if !v.ns.Info().Path.Relayed || !pub.PeerStreams()[0].Info().Path.Relayed {
			t.Fatal("direct")
		}
		stop()
		// The call is over, and says so.
		bob.waitCode(flash.NetStreamConnectClosed, 2*time.Minute)
		alice.waitCode(flash.NetStreamConnectClosed, 2*time.Minute)
		defer l.restartProxy()()
		// turn/client learns of it when it refreshes the allocation.
		have := func(want bool) func() bool {
			return func() bool {
				_, a := alice.nc.Relay()
				_, b := bob.nc.Relay()
				return a == want && b == want
			}
		}
		wait(t, "the loss of the relayed addresses", time.Hour, func() bool { return !have(true)() })
		wait(t, "others", time.Hour, have(true))
		time.Sleep(2 * time.Second)
		again := bob.play(alice.nc.NearID(), "cam")
		wait(t, "Play.Start", 10*time.Second, func() bool { return again.has(flash.NetStreamPlayStart) })
	})
}

func TestAnotherNetworkIsToldAndTaken(t *testing.T) {
	inLab(t, 1, func(t *testing.T, l *lab) {
		var mu sync.Mutex
		addrs := []netip.Addr{netip.MustParseAddr("203.0.113.1")}
		alice := l.player("alice", l.n.Internet(), "203.0.113.1", func(cfg *flash.Config) {
			cfg.InterfaceAddrs = func() ([]netip.Addr, error) {
				mu.Lock()
				defer mu.Unlock()
				return slices.Clone(addrs), nil
			}
		})
		alice.connect()
		mu.Lock()
		addrs[0] = netip.MustParseAddr("203.0.113.77")
		mu.Unlock()
		alice.waitCode(flash.NetConnectionConnectNetworkChange, 6*time.Second)
	})
}

// TestTheRelayIsGivenBackWhenItIsOfNoUse: without peers it only stands in for blocked UDP.
func TestTheRelayIsGivenBackWhenItIsOfNoUse(t *testing.T) {
	inLab(t, 1, func(t *testing.T, l *lab) {
		defer l.proxy()()
		var p *player
		with := relayed(func() *natlab.Host { return p.host }, "udp")
		p = l.player("alice", l.n.Internet(), "203.0.113.1", func(cfg *flash.Config) { with(cfg); cfg.MMS.P2PDisable = true })
		p.connect()
		time.Sleep(5 * time.Second)
		if a, ok := p.nc.Relay(); ok {
			t.Errorf("it still has %v", a)
		}
		ns := flash.NewNetStream(p.nc, flash.DirectConnections)
		if err := ns.Publish("x"); err != flash.ErrDisabled {
			t.Errorf("publish: %v", err)
		}
		if err := flash.NewNetStream(p.nc, flash.PeerID{1}).Play("x"); err != flash.ErrDisabled {
			t.Errorf("play: %v", err)
		}
	})
}

// TestTwoBehindOneNATMeetByTheirOwnAddresses though the NAT turns nothing round.
func TestTwoBehindOneNATMeetByTheirOwnAddresses(t *testing.T) {
	inLab(t, 1, func(t *testing.T, l *lab) {
		defer l.proxy()()
		seg := l.behind("home", "203.0.113.10", natlab.BoxConfig{NAT: &natlab.NATConfig{Mapping: natlab.APDM, Filtering: natlab.APDF}})
		alice, bob := l.relayedPlayer("alice", seg, "192.168.1.2"), l.relayedPlayer("bob", seg, "192.168.1.3")
		alice.connect()
		bob.connect()
		time.Sleep(time.Second)
		pub := alice.publish("cam")
		v := bob.play(alice.nc.NearID(), "cam")
		took := wait(t, "Play.Start", 5*time.Second, func() bool { return v.has(flash.NetStreamPlayStart) })
		if p := v.ns.Info().Path; p.Relayed || p.Remote.Addr().String() != "192.168.1.2" || took > 2*time.Second {
			t.Errorf("%+v after %v", p, took)
		}
		_ = pub
	})
}

// TestBulkDataIsWholeOverChangingPaths is a transfer while the direct path comes and goes.
func TestBulkDataIsWholeOverChangingPaths(t *testing.T) {
	for seed := range uint64(5) {
		inLab(t, seed, func(t *testing.T, l *lab) {
			defer l.proxy()()
			alice, _, _, pub, v := relayedCall(t, l)
			rng := rand.New(rand.NewPCG(seed, 9))
			var want bytes.Buffer
			for i := range 300 {
				part := make([]byte, 5000)
				for j := range part {
					part[j] = byte(rng.Uint32())
				}
				want.Write(part)
				if err := pub.Send("bytes", part); err != nil {
					t.Fatal(err)
				}
				if i%60 == 30 {
					l.block(alice, netip.MustParseAddr("203.0.113.11"))
				}
				if i%60 == 59 {
					l.block(alice)
				}
				time.Sleep(100 * time.Millisecond)
			}
			l.block(alice)
			wait(t, "everything", time.Minute, func() bool { return v.count(flash.MessageDataAMF0) == 301 })
			var got bytes.Buffer
			for _, m := range v.messages {
				if d, err := flash.ParseData(m); err == nil && d.Handler == "bytes" {
					got.Write(d.Arguments[0].([]byte))
				}
			}
			if !bytes.Equal(got.Bytes(), want.Bytes()) {
				t.Error("other bytes")
			}
		})
	}
}
