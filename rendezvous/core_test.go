package rendezvous

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stilenet/stile/rtmfp"
	"github.com/stilenet/stile/rtmfp/flash"
)

const (
	success = flash.NetConnectionConnectSuccess
	second  = time.Second
)

// mustConnect fails the test if a client is not welcome.
func (p *peer) mustConnect(path string, addrs ...string) *peer {
	p.w.t.Helper()
	if code := p.connect(path, flash.AMF3, addrs...); code != success {
		p.w.t.Fatalf("%s: %q", path, code)
	}
	return p
}

func TestTwoClientsBehindNATsAreIntroducedAndMeet(t *testing.T) {
	for _, shards := range []int{1, 3} {
		for _, encoding := range []flash.ObjectEncoding{flash.AMF0, flash.AMF3} {
			w := newWorld(t, setup{shards: shards})
			a, b := w.client("192.168.1.2:5000", "203.0.113.1"), w.client("192.168.1.3:5001", "203.0.113.2")
			if code := a.connect("any-key", encoding, "192.168.1.2:5000"); code != success {
				t.Fatal(code)
			}
			if code := b.connect("other/instance", encoding, "192.168.1.3:5001"); code != success {
				t.Fatal(code)
			}
			s, at := a.meet(b, 5*second)
			if s == nil || at.Addr() != b.nat.outside {
				t.Fatalf("%d shards: session %v at %v", shards, s, at)
			}
			if s.FarIdentity() != string(b.id.PeerID().EPD()) {
				t.Error("somebody else answered")
			}
			made := w.stats().Introductions[IntroductionMade]
			if made == 0 {
				t.Error("no introduction was counted")
			}
		}
	}
}

func TestTwoClientsBehindOneNATWithoutHairpinMeetByTheirOwnAddresses(t *testing.T) {
	w := newWorld(t, setup{shards: 2})
	a := w.client("192.168.1.2:5000", "203.0.113.1").mustConnect("k", "192.168.1.2:5000")
	b := w.client("192.168.1.3:5001", "203.0.113.1").mustConnect("k", "192.168.1.3:5001")
	if s, at := a.meet(b, 5*second); s == nil || at != b.at {
		t.Errorf("session %v at %v", s, at)
	}
}

func TestTheResultHasTheEncodingAndSetPeerInfoIsAnsweredWithKeepalives(t *testing.T) {
	for _, encoding := range []flash.ObjectEncoding{flash.AMF0, flash.AMF3} {
		w := newWorld(t, setup{rules: Rules{Keepalive: 30 * second, PeerKeepalive: 15 * second}})
		a := w.client("203.0.113.1:5000", "")
		a.connect("", encoding) // no path, and no address in setPeerInfo
		o, _ := a.answers[0].Argument(0).(*flash.Object)
		if v, _ := o.Get("objectEncoding"); a.answers[0].Name != flash.CommandResult || v != float64(encoding) {
			t.Errorf("answer %+v", a.answers[0])
		}
		want := flash.UserControl{Event: flash.SetKeepalive, First: 30_000, Second: 15_000}
		if len(a.controls) != 1 || a.controls[0] != want {
			t.Errorf("user control %+v", a.controls)
		}
		w.run(10 * time.Minute)
		if a.session.State() != rtmfp.StateOpen {
			t.Errorf("the session is in %v", a.session.State())
		}
	}
}

func TestAnUnknownIDIsAnsweredWithSilence(t *testing.T) {
	w := newWorld(t, setup{})
	a := w.client("203.0.113.1:5000", "").mustConnect("k")
	stranger := w.client("203.0.113.9:5000", "") // not connected
	w.run(second)
	sent := w.stats().Endpoint.Sent
	if _, err := a.e.Open(w.now, stranger.id.PeerID().EPD(), rtmfp.Candidate{Interface: rtmfp.AnyInterface, Addr: w.server}); err != nil {
		t.Fatal(err)
	}
	w.run(5 * second)
	s := w.stats()
	if s.Endpoint.Sent != sent || s.Introductions[IntroductionNoPeer] < 2 {
		t.Errorf("%d packets sent, introductions %v", s.Endpoint.Sent-sent, s.Introductions)
	}
}

func TestARedirectHasTheObservedAddressFirstAndAsManyAsFit(t *testing.T) {
	w := newWorld(t, setup{})
	reported := []string{"not an address", "127.0.0.1:1", "[fe80::1]:1", "0.0.0.0:5", "192.168.1.2:0"}
	for i := range 20 {
		reported = append(reported, fmt.Sprintf("192.168.1.%d:5000", i+2))
	}
	reported = append(reported, "203.0.113.1:40000")
	b := w.client("192.168.1.2:5000", "203.0.113.1").mustConnect("k", reported...)
	if got := w.stats().AddressesSkipped; got < 5 {
		t.Errorf("%d addresses were skipped", got)
	}
	a := w.client("198.18.0.1:7000", "")
	w.keep = true
	if _, err := a.e.Open(w.now, b.id.PeerID().EPD(), rtmfp.Candidate{Interface: rtmfp.AnyInterface, Addr: w.server}); err != nil {
		t.Fatal(err)
	}
	w.run(100 * time.Millisecond)
	found := false
	for _, f := range w.seen {
		if f.to != a.at {
			continue
		}
		r, ok := redirectIn(t, f.data)
		if !ok {
			continue
		}
		found = true
		if d := r.Destinations; len(d) < 10 || d[0] != (rtmfp.Address{Origin: rtmfp.OriginObserved, AddrPort: ap("203.0.113.1:40000")}) ||
			d[1] != (rtmfp.Address{Origin: rtmfp.OriginReported, AddrPort: ap("192.168.1.2:5000")}) {
			t.Errorf("the Redirect has %v", d)
		}
		if size, most := len(f.data)+28, 3*(w.helloSize+28); size > most {
			t.Errorf("a Redirect of %d bytes for an IHello of %d", size, w.helloSize+28)
		}
	}
	if !found {
		t.Error("no Redirect came")
	}
}

// redirectIn finds a Redirect in a startup packet.
func redirectIn(t *testing.T, data []byte) (r rtmfp.Redirect, ok bool) {
	t.Helper()
	if id, _ := rtmfp.SessionID(data); id != 0 {
		return r, false
	}
	id, err := flash.NewIdentity(flash.IdentityConfig{Random: zeros{}, Ephemeral: true})
	if err != nil {
		t.Fatal(err)
	}
	plain, err := id.DefaultCipher().Open(slices.Clone(data[4:]))
	if err != nil {
		return r, false
	}
	_, chunks, err := rtmfp.ParseHeader(plain)
	if err != nil {
		t.Fatal(err)
	}
	for kind, payload := range rtmfp.Chunks(chunks) {
		if kind == rtmfp.ChunkRedirect {
			r, err = rtmfp.ParseRedirect(payload)
			return r, err == nil
		}
	}
	return r, false
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestNobodyIsIntroducedToTheDead(t *testing.T) {
	w := newWorld(t, setup{shards: 2, rules: Rules{Keepalive: 100 * second}})
	a := w.client("203.0.113.1:5000", "").mustConnect("k")
	b := w.client("203.0.113.2:5000", "").mustConnect("k")
	w.run(10 * second)
	b.dead = true // its power fails
	w.run(second)
	if s, _ := a.meet(b, 20*second); s != nil {
		t.Fatal("met the dead")
	}
	s := w.stats()
	if s.Introductions[IntroductionMade] == 0 || s.Introductions[IntroductionSilent] == 0 {
		t.Errorf("introductions %v: the first is made, and later ones are not", s.Introductions)
	}
	made := s.Introductions[IntroductionMade]
	c := w.client("203.0.113.3:5000", "").mustConnect("k")
	if s, _ := c.meet(b, 5*second); s != nil {
		t.Fatal("met the dead")
	}
	if got := w.stats().Introductions[IntroductionMade]; got != made {
		t.Error("somebody was introduced to a peer that does not answer")
	}
	w.run(60 * second)
	if w.reg.Peers() != 2 || w.stats().Ended[rtmfp.ReasonUnresponsive] != 1 {
		t.Errorf("%d peers, ended %v", w.reg.Peers(), w.stats().Ended)
	}
}

func TestAPeerThatAnswersAgainIsIntroducedAgain(t *testing.T) {
	w := newWorld(t, setup{})
	a := w.client("203.0.113.1:5000", "").mustConnect("k")
	b := w.client("203.0.113.2:5000", "").mustConnect("k")
	w.run(10 * second)
	b.dead = true
	a.meet(b, 10*second)
	if w.stats().Introductions[IntroductionSilent] == 0 {
		t.Fatal("the peer is not taken for dead")
	}
	b.dead = false
	w.run(5 * second)
	c := w.client("203.0.113.3:5000", "")
	if s, _ := c.meet(b, 5*second); s == nil {
		t.Error("the peer is still taken for dead")
	}
}

func TestKeepaliveFindsTheDead(t *testing.T) {
	w := newWorld(t, setup{rules: Rules{Keepalive: 20 * second}})
	b := w.client("203.0.113.2:5000", "").mustConnect("k")
	w.reg.Names.take("ann", b.id.PeerID())
	b.dead = true
	w.run(25*second + retransmitLimit + 2*second)
	if w.reg.Peers() != 0 || w.reg.Names.Len() != 0 || w.stats().Sessions != 0 {
		t.Errorf("%d peers, %d names, %d sessions", w.reg.Peers(), w.reg.Names.Len(), w.stats().Sessions)
	}
}

func TestEveryRetransmissionIsAnsweredAndACopyIsNot(t *testing.T) {
	w := newWorld(t, setup{})
	b := w.client("203.0.113.2:5000", "").mustConnect("k")
	a := w.client("203.0.113.1:5000", "")
	lost := 0
	w.drop = func(from, to netip.AddrPort, data []byte) bool {
		if to == a.at && lost < 2 {
			lost++
			return true
		}
		if from == a.at && to == w.server { // the network makes a copy
			w.serial++
			w.queue = append(w.queue, flight{w.now.Add(latency), w.serial, from, to, false, slices.Clone(data)})
		}
		return false
	}
	if s, _ := a.meet(b, 10*second); s == nil {
		t.Fatal("not met though only two packets were lost")
	}
	s := w.stats()
	if s.Introductions[IntroductionRepeated] == 0 || s.Introductions[IntroductionMade] < 2 {
		t.Errorf("introductions %v", s.Introductions)
	}
}

func TestBudgetsOfSourceAndPeer(t *testing.T) {
	limits := DefaultLimits()
	limits.IntroductionsPerPrefix, limits.IntroductionsPerPeer = 50, 10
	w := newWorld(t, setup{shards: 2, rules: Rules{Limits: limits}})
	b := w.client("203.0.113.2:5000", "").mustConnect("k")
	hello := func(from string, tag byte) {
		h := &rtmfp.Hello{EPD: b.id.PeerID().EPD(), Tag: []byte{tag, byte(w.serial), byte(w.serial >> 8), 4, 5, 6, 7, 8}, From: ap(from)}
		w.serial++
		w.cores[0].Handle(w.now, rtmfp.Event{Kind: rtmfp.EventHello, Hello: h})
		w.flush()
	}
	for i := range 300 {
		hello(fmt.Sprintf("192.0.2.%d:7000", i%250), byte(i))
	}
	s := w.stats()
	if got := s.Introductions[IntroductionSourceRate]; got < 300-101-20 {
		t.Errorf("%d over the budget of the prefix: %v", got, s.Introductions)
	}
	w.run(10 * second)
	before := w.stats()
	for i := range 300 {
		hello(fmt.Sprintf("%d.0.2.1:7000", i%200+1), byte(i))
	}
	s = w.stats()
	// What Redirect would send has no budget in these Hellos, so none is made; the FIHellos are what counts.
	if got := s.Introductions[IntroductionForwardOnly] - before.Introductions[IntroductionForwardOnly]; got == 0 || got > 21 {
		t.Errorf("%d FIHellos in an instant: %v", got, s.Introductions)
	}
}

func TestKeysDecideWhoComesIn(t *testing.T) {
	w := newWorld(t, setup{shards: 2})
	expired := w.now.Add(-time.Hour)
	w.reg.Keys.Replace(map[KeyHash]Key{
		HashKey("good"): {Name: "good", Sessions: 2}, HashKey("old"): {Name: "old", Expires: expired},
	})
	w.reg.Keys.SetRequired(true)
	i := 0
	try := func(path string) (string, *peer) {
		i++
		p := w.client(fmt.Sprintf("203.0.113.%d:5000", i), "")
		return p.connect(path, flash.AMF0), p
	}
	for _, c := range []struct{ path, want, description string }{
		{"good", success, "Connection succeeded."},
		{"good/", success, "Connection succeeded."},
		{"good/app", flash.NetConnectionConnectFailed, KeyFull.description()},
		{"bad", flash.NetConnectionConnectFailed, KeyUnknown.description()},
		{"", flash.NetConnectionConnectFailed, KeyMissing.description()},
		{"old", flash.NetConnectionConnectFailed, KeyExpired.description()},
	} {
		code, p := try(c.path)
		st, _ := flash.ParseStatus(p.answers[0].Argument(0))
		if code != c.want || st.Description != c.description {
			t.Errorf("%q: %+v", c.path, st)
		}
		w.run(10 * second)
		if closed := len(p.closing) > 0; closed != (c.want != success) {
			t.Errorf("%q: closed %v", c.path, p.closing)
		}
	}
	if n := w.stats().Sessions; n != 2 {
		t.Errorf("%d sessions", n)
	}
	refusals := map[Refusal]int{}
	for _, ev := range w.events {
		if ev.Kind == EventRefused {
			refusals[ev.Refusal]++
		}
	}
	for _, r := range []Refusal{RefusedKeyMissing, RefusedKeyUnknown, RefusedKeyExpired, RefusedKeyFull} {
		if refusals[r] != 1 {
			t.Errorf("%v: %d lines", r, refusals[r])
		}
	}
	uses := w.reg.Keys.Uses()
	if uses[0].Live != 2 || uses[0].Refused != 1 || uses[1].Refused != 1 {
		t.Errorf("uses %+v", uses)
	}
}

func TestARevokedKeyEndsItsSessionsAndAnotherDoesNot(t *testing.T) {
	w := newWorld(t, setup{shards: 2})
	one, two := Key{Name: "one"}, Key{Name: "two"}
	w.reg.Keys.Replace(map[KeyHash]Key{HashKey("one"): one, HashKey("two"): two})
	w.reg.Keys.SetRequired(true)
	a := w.client("203.0.113.1:5000", "").mustConnect("one")
	b := w.client("203.0.113.2:5000", "").mustConnect("two")
	w.reg.Keys.Replace(map[KeyHash]Key{HashKey("two"): two})
	for _, c := range w.cores {
		c.KeysChanged(w.now)
	}
	w.run(10 * second)
	if a.code() != flash.NetConnectionConnectClosed || len(a.closing) == 0 || len(b.closing) != 0 {
		t.Errorf("%q %v, %v", a.code(), a.closing, b.closing)
	}
	if w.reg.Keys.Uses()[0].Live != 1 {
		t.Errorf("%+v", w.reg.Keys.Uses())
	}
}

func TestWithoutRequiredEveryPathIsWelcomeAndKeysCount(t *testing.T) {
	w := newWorld(t, setup{})
	w.reg.Keys.Replace(map[KeyHash]Key{HashKey("k"): {Name: "k", Sessions: 1, Expires: w.now.Add(-1)}})
	for i, path := range []string{"k", "k", "nobody", ""} {
		w.client(fmt.Sprintf("203.0.113.%d:5000", i+1), "").mustConnect(path)
	}
	if uses := w.reg.Keys.Uses(); uses[0].Live != 2 {
		t.Errorf("%+v", uses)
	}
}

func TestAPeerIDBelongsToWhoAnswers(t *testing.T) {
	for _, shards := range []int{1, 3} {
		w := newWorld(t, setup{shards: shards})
		first := w.client("203.0.113.1:5000", "").mustConnect("k")
		thief := w.clientAs("203.0.113.2:5001", "", first.id)
		thief.dial("rtmfp://x/k")
		thief.command(flash.AMF0, flash.ConnectCommand(flash.ConnectInfo{App: "k"}))
		w.run(10 * second)
		if thief.code() != flash.NetConnectionConnectRejected || len(first.closing) != 0 {
			t.Errorf("%q, %v", thief.code(), first.closing)
		}
		w.reg.Names.take("ann", first.id.PeerID())
		first.dead = true
		w.run(second)
		again := w.clientAs("203.0.113.3:5002", "", first.id)
		again.dial("rtmfp://x/k")
		again.command(flash.AMF0, flash.ConnectCommand(flash.ConnectInfo{App: "k"}))
		w.run(10 * second)
		if again.code() != success || w.reg.Peers() != 1 || w.stats().Replaced != 1 {
			t.Errorf("%d shards: %q, %d peers, %d replaced", shards, again.code(), w.reg.Peers(), w.stats().Replaced)
		}
		if w.reg.Names.Len() != 0 {
			t.Error("the name of a session that has gone")
		}
		c := w.client("203.0.113.9:5000", "")
		if s, at := c.meet(again, 5*second); s == nil || at != again.at {
			t.Errorf("met %v at %v", s, at)
		}
	}
}

func TestARestartFromTheSameAddressTakesItsIDBackAtOnce(t *testing.T) {
	w := newWorld(t, setup{shards: 2})
	first := w.client("203.0.113.1:5000", "").mustConnect("k")
	w.run(2 * second)
	again := w.clientAs("203.0.113.1:5000", "", first.id) // takes its place on the network
	again.mustConnect("k")
	w.run(10 * second)
	if w.reg.Peers() != 1 || w.stats().Ended[rtmfp.ReasonOverride] != 1 {
		t.Errorf("%d peers, ended %v", w.reg.Peers(), w.stats().Ended)
	}
}

func TestClientsThatDoNotConnectOrOnlyTalkNonsenseEnd(t *testing.T) {
	w := newWorld(t, setup{})
	silent := w.client("203.0.113.1:5000", "").dial("rtmfp://x/k")
	odd := w.client("203.0.113.2:5000", "").dial("rtmfp://x/k")
	for _, b := range [][]byte{nil, {1}, {20, 0, 0, 0, 0}, {20, 0, 0, 0, 0, 2, 0xff, 0xff}, {17, 0, 0, 0, 0, 9}, {8, 0, 0, 0, 0, 1}} {
		if _, err := odd.control.Write(w.now, b, rtmfp.WriteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	odd.command(flash.AMF0, flash.Command{Name: flash.CommandSetPeerInfo, Arguments: []any{"203.0.113.2:5000"}}) // before connect
	odd.command(flash.AMF0, flash.Command{Name: flash.CommandConnect, Transaction: 1})                           // without its object
	w.run(second)
	s := w.stats()
	if s.Malformed < 5 || w.reg.Peers() != 0 {
		t.Errorf("%d malformed, %d peers", s.Malformed, w.reg.Peers())
	}
	w.run(connectWait + 5*second)
	if len(silent.closing) == 0 || len(odd.closing) == 0 || w.stats().Sessions != 0 {
		t.Errorf("%v, %v, %d sessions", silent.closing, odd.closing, w.stats().Sessions)
	}
}

func TestStreamsAndMethodsAreNotOffered(t *testing.T) {
	w := newWorld(t, setup{})
	a := w.client("203.0.113.1:5000", "").mustConnect("k")
	a.command(flash.AMF3, flash.Command{Name: flash.CommandCreateStream, Transaction: 2})
	w.run(second)
	if last := a.answers[len(a.answers)-1]; last.Name != flash.CommandResult || last.Transaction != 2 || last.Argument(0) != 1.0 {
		t.Errorf("createStream: %+v", last)
	}
	a.command(flash.AMF3, flash.Command{Name: "doSomething", Transaction: 3})
	f, err := a.session.OpenFlow(w.now, rtmfp.FlowConfig{Metadata: flash.AppendFlowMetadata(nil, flash.FlowMetadata{StreamID: 2000001})})
	if err != nil {
		t.Fatal(err)
	}
	f.Begin(w.now)
	w.run(2 * second)
	if a.code() != flash.NetConnectionCallFailed || f.State() == rtmfp.FlowOpen || a.session.State() != rtmfp.StateOpen {
		t.Errorf("%q, flow %v, session %v", a.code(), f.State(), a.session.State())
	}
}

func TestACloseOfTheControlFlowEndsTheConnectionInOrder(t *testing.T) {
	w := newWorld(t, setup{})
	a := w.client("203.0.113.1:5000", "").mustConnect("k")
	a.control.Close(w.now)
	w.run(2 * second)
	if w.stats().Sessions != 0 || w.reg.Peers() != 0 || !slices.Contains(a.closing, rtmfp.ReasonFar) {
		t.Errorf("%d sessions, closing %v", w.stats().Sessions, a.closing)
	}
}

func TestLimitsOfAnAddressAndOfItsPrefix(t *testing.T) {
	limits := DefaultLimits()
	limits.PerAddress = 2
	w := newWorld(t, setup{rules: Rules{Limits: limits}})
	for i := range 3 {
		p := w.client(fmt.Sprintf("203.0.113.1:%d", 5000+i), "")
		s, err := p.e.Open(w.now, flash.ServerEPD("rtmfp://x/k"), rtmfp.Candidate{Interface: rtmfp.AnyInterface, Addr: w.server})
		if err != nil {
			t.Fatal(err)
		}
		w.run(second)
		if open := s.State() == rtmfp.StateOpen; open != (i < 2) {
			t.Errorf("session %d is in %v", i, s.State())
		}
	}
	if w.stats().Refused[RefusedPerAddress] != 1 {
		t.Errorf("refused %v", w.stats().Refused)
	}
	limits = DefaultLimits()
	limits.HandshakesPerPrefix = 2
	w = newWorld(t, setup{rules: Rules{Limits: limits}})
	for i := range 20 {
		p := w.client(fmt.Sprintf("203.0.113.%d:5000", i+1), "")
		if _, err := p.e.Open(w.now, flash.ServerEPD("rtmfp://x/k"), rtmfp.Candidate{Interface: rtmfp.AnyInterface, Addr: w.server}); err != nil {
			t.Fatal(err)
		}
	}
	w.run(100 * time.Millisecond)
	if got := w.stats().Sessions; got != 8 {
		t.Errorf("%d sessions in an instant, want 8: four seconds' worth", got)
	}
}

func TestDrainingRefusesAndShutdownTells(t *testing.T) {
	w := newWorld(t, setup{})
	a := w.client("203.0.113.1:5000", "").mustConnect("k")
	w.cores[0].SetDraining(true)
	b := w.client("203.0.113.2:5000", "")
	if code := b.connect("k", flash.AMF0); code != flash.NetConnectionConnectRejected {
		t.Error(code)
	}
	if a.session.State() != rtmfp.StateOpen {
		t.Error("draining has ended a session")
	}
	w.cores[0].Shutdown(w.now)
	w.run(second)
	if !slices.Contains(a.closing, rtmfp.ReasonFarAbort) || w.stats().Sessions != 0 {
		t.Errorf("%v, %d sessions", a.closing, w.stats().Sessions)
	}
}

func TestAKilledSessionIsToldWhy(t *testing.T) {
	w := newWorld(t, setup{shards: 2})
	a := w.client("203.0.113.1:5000", "").mustConnect("k")
	var id SessionID
	for _, c := range w.cores {
		for _, s := range c.Sessions(nil) {
			id = s.ID
			if s.Peer != a.id.PeerID() || s.Client != a.at || s.State != "connected" {
				t.Errorf("%+v", s)
			}
			if back, err := ParseSessionID(s.ID.String()); err != nil || back != id {
				t.Errorf("%v %v", back, err)
			}
		}
	}
	if w.cores[(id+1)%2].Kill(w.now, id) || !w.cores[id%2].Kill(w.now, id) {
		t.Error("the ID does not name the shard")
	}
	w.run(2 * second)
	if a.code() != flash.NetConnectionConnectClosed || len(a.closing) == 0 {
		t.Errorf("%q %v", a.code(), a.closing)
	}
}

func TestClientsOfTheOwnRelayAreKnownByItsPublicAddress(t *testing.T) {
	w := newWorld(t, setup{rules: Rules{Relays: []AddressPair{{Public: netip.MustParseAddr("198.51.100.1"), Local: netip.MustParseAddr("10.0.0.5")}}}})
	b := w.client("10.0.0.5:50000", "").mustConnect("k") // by the relay's socket
	a := w.client("203.0.113.1:5000", "")
	w.keep = true
	if _, err := a.e.Open(w.now, b.id.PeerID().EPD(), rtmfp.Candidate{Interface: rtmfp.AnyInterface, Addr: w.server}); err != nil {
		t.Fatal(err)
	}
	w.run(100 * time.Millisecond)
	found := false
	for _, f := range w.seen {
		if r, ok := redirectIn(t, f.data); ok && f.to == a.at {
			found = r.Destinations[0].AddrPort == ap("198.51.100.1:50000")
		}
	}
	if !found {
		t.Error("the Redirect has not the relayed address")
	}
	// And the other way round: the peer is told the relayed address of an initiator, but the Redirect goes where it came from.
	w.seen = nil
	c := w.client("203.0.113.7:5000", "").mustConnect("k")
	w.seen = nil
	relayed := w.client("10.0.0.5:50001", "")
	if _, err := relayed.e.Open(w.now, c.id.PeerID().EPD(), rtmfp.Candidate{Interface: rtmfp.AnyInterface, Addr: w.server}); err != nil {
		t.Fatal(err)
	}
	var answered []netip.AddrPort
	w.drop = func(from, to netip.AddrPort, _ []byte) bool {
		if from == c.at {
			answered = append(answered, to)
		}
		return false
	}
	w.run(100 * time.Millisecond)
	if !slices.Contains(answered, ap("198.51.100.1:50001")) {
		t.Errorf("the peer has answered to %v", answered)
	}
	if !slices.ContainsFunc(w.seen, func(f flight) bool { _, ok := redirectIn(t, f.data); return ok && f.to == relayed.at }) {
		t.Error("the Redirect did not go back by the relay")
	}
}

func TestAWarningTellsOfPrivateAmongPublicClients(t *testing.T) {
	w := newWorld(t, setup{})
	w.client("203.0.113.1:5000", "").mustConnect("k")
	if w.stats().Mixed != 0 {
		t.Fatal("one client is mixed")
	}
	w.client("10.1.2.3:5000", "").mustConnect("k")
	w.client("10.1.2.4:5000", "").mustConnect("k")
	if w.stats().Mixed != 1 || !slices.ContainsFunc(w.events, func(e Event) bool { return e.Kind == EventMixed }) {
		t.Errorf("%d warnings", w.stats().Mixed)
	}
}
