//go:build e2e

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stilenet/stile/rtmfp"
	"github.com/stilenet/stile/rtmfp/flash"
)

// rtmfpEnd is an RTMFP endpoint on any datagram socket, a relayed address among them. Talk is its only goroutine.
type rtmfpEnd struct {
	t    *testing.T
	conn net.PacketConn
	id   *flash.Identity
	*rtmfp.Endpoint
	open int
	said []string
}

func newEnd(t *testing.T, conn net.PacketConn) *rtmfpEnd {
	t.Helper()
	id, err := flash.NewIdentity(flash.IdentityConfig{Random: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	p := &rtmfpEnd{t: t, conn: conn, id: id}
	if p.Endpoint, err = rtmfp.New(time.Now(), rtmfp.Config{Identity: id, Random: rand.Reader}); err != nil {
		t.Fatal(err)
	}
	return p
}

// talk lets the players exchange packets until done, or fails.
func talk(t *testing.T, done func() bool, players ...*rtmfpEnd) {
	t.Helper()
	buf := make([]byte, 2000)
	for end := time.Now().Add(4 * time.Second); !done(); {
		if time.Now().After(end) {
			for _, p := range players {
				t.Logf("%+v", p.Counters())
			}
			t.Fatal("the players have not got so far")
		}
		for _, p := range players {
			p.Tick(time.Now())
			for _, d := range p.Flush(time.Now()) {
				if _, err := p.conn.WriteTo(d.Data, net.UDPAddrFromAddrPort(d.To)); err != nil {
					t.Fatal(err)
				}
			}
			_ = p.conn.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
			n, from, err := p.conn.ReadFrom(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				continue
			} else if err != nil {
				t.Fatal(err)
			}
			p.Receive(time.Now(), 0, netip.MustParseAddrPort(from.String()), buf[:n])
			for _, e := range p.Events() {
				println(e.Kind.String(), e.Reason)
				switch e.Kind {
				case rtmfp.EventSessionOpen:
					p.open++
				case rtmfp.EventMessage:
					p.said = append(p.said, string(e.Data))
				}
			}
		}
	}
}

// meetAs has one player call the other at an address, and both say something.
func meetAs(t *testing.T, caller, called *rtmfpEnd, at net.Addr) {
	t.Helper()
	if _, err := caller.Open(time.Now(), called.id.PeerID().EPD(), rtmfp.Candidate{Addr: netip.MustParseAddrPort(at.String())}); err != nil {
		t.Fatal(err)
	}
	talk(t, func() bool { return caller.open > 0 && called.open > 0 }, caller, called)
	for _, p := range []*rtmfpEnd{caller, called} {
		var s *rtmfp.Session
		other := called
		if p == called {
			other = caller
		}
		if s = p.SessionByIdentity(other.id.PeerID().EPD()); s == nil {
			t.Fatal("no session")
		}
		f, err := s.OpenFlow(time.Now(), rtmfp.FlowConfig{Metadata: []byte("words")})
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			if _, err := f.Write(time.Now(), []byte(strings.Repeat("media ", 150)), rtmfp.WriteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	talk(t, func() bool { return len(caller.said) >= 20 && len(called.said) >= 20 }, caller, called)
}

// The proxy as it comes carries RTMFP, in both directions, over UDP and TCP, and between two of its clients; and nothing else.
func TestTheProxyAsItComesCarriesPlayersAndNothingElse(t *testing.T) {
	o := newOffice(t, "meta l4proto { tcp, udp } th dport 3478")
	cmd := serve(t, o.proxy)
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := o.proxy.Command(context.Background(), binary, "status").CombinedOutput()
			t.Logf("%s", out)
		}
	})
	if !strings.Contains(strings.Join(strings.Fields(cmd.Log()), " "), "nothing but RTMFP") {
		t.Errorf("the start page does not say what the proxy carries:\n%s", cmd.Log())
	}
	for _, network := range []string{"udp", "tcp"} {
		relay := dial(t, o.desks[0], "198.51.100.2", network)
		peer := listen(t, o.peer, "203.0.113.7:0")
		// What is not RTMFP does not arrive, whoever sends it.
		for range 3 {
			tell(t, relay, "a tunnel", peer.LocalAddr())
			tell(t, peer, "an answer", relay.LocalAddr())
		}
		meetAs(t, newEnd(t, relay), newEnd(t, peer), peer.LocalAddr())
		// And the other way round: a peer calls, as after a rendezvous. The player's own packet opens the permission.
		peer2 := listen(t, o.peer, "203.0.113.7:0")
		meetAs(t, newEnd(t, peer2), newEnd(t, relay), relay.LocalAddr())
	}
	one, two := dial(t, o.desks[0], "198.51.100.2", "udp"), dial(t, o.desks[1], "198.51.100.2", "tcp")
	for range 3 {
		tell(t, one, "a tunnel", two.LocalAddr())
		tell(t, two, "a tunnel", one.LocalAddr())
	}
	meetAs(t, newEnd(t, one), newEnd(t, two), two.LocalAddr())

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	out, err := o.proxy.Command(ctx, binary, "status").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "payload 1") || !strings.Contains(cmd.Log(), "turn.peers.payload: any") {
		t.Errorf("the drops are not said: %v\n%s\n%s", err, out, cmd.Log())
	}
}
