package client

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/stilenet/stile/stun"
)

func TestLegacySendOpensAndEmptySendsKeepThePermission(t *testing.T) {
	b := established(t, params{channelAfter: -1})
	b.put(alice, "x")
	b.quiet()
	b.at(100*time.Second - 1)
	b.quiet()
	b.at(100 * time.Second)
	m := b.one()
	if peer, _ := m.GetXORAddress(stun.AttrXORPeerAddress); m.Method() != stun.Send || m.Has(stun.AttrData) || peer != alice {
		t.Errorf("sent %x", m.Raw())
	}
	// Data keeps it as well.
	b.at(150 * time.Second)
	b.put(alice, "x")
	b.at(250*time.Second - 1)
	b.quiet()
	b.at(250 * time.Second)
	b.one()
}

func TestModernAsksBeforeDataAndAgainIn240Seconds(t *testing.T) {
	b := established(t, params{dialect: Modern, channelAfter: -1})
	if msg := b.put(alice, "one"); len(msg) > 0 {
		t.Fatalf("data goes out before the permission: %x", msg)
	}
	b.put(netip.AddrPortFrom(alice.Addr(), 5000), "two") // the same address: the same permission
	ask := b.one()
	if ask.Type() != stun.NewType(stun.CreatePermission, stun.Request) {
		t.Fatalf("sent %x", ask.Raw())
	}
	b.reply(ask, stun.Success, nothing)
	held := b.sent()
	if len(held) != 2 {
		t.Fatalf("%d held datagrams go out, want 2", len(held))
	}
	for i, want := range []string{"one", "two"} {
		if v, _ := held[i].Get(stun.AttrData); string(v) != want || held[i].Method() != stun.Send {
			t.Errorf("held datagram %d: %x", i, held[i].Raw())
		}
	}
	if b.heldBytes != 0 {
		t.Errorf("%d bytes are still held", b.heldBytes)
	}
	if msg := b.put(alice, "three"); len(msg) == 0 {
		t.Error("data is held after the permission")
	}
	b.at(240*time.Second - 1)
	b.quiet()
	b.at(240 * time.Second)
	if m := b.one(); m.Method() != stun.CreatePermission {
		t.Errorf("sent %x", m.Raw())
	}
}

func TestRefusedPeerIsReportedAndAskedForAgainLater(t *testing.T) {
	b := established(t, params{dialect: Modern})
	b.put(alice, "x")
	b.reply(b.one(), stun.Error, code(403))
	if news := b.news(); len(news) != 1 || !errors.Is(news[0].err, ErrForbidden) || news[0].addr != alice.Addr() {
		t.Errorf("events %+v", news)
	}
	if b.stats.Discarded != 1 {
		t.Errorf("%d datagrams are discarded", b.stats.Discarded)
	}
	for range 3 {
		if _, err := b.write(b.now, nil, alice, nil); !errors.Is(err, ErrForbidden) {
			t.Errorf("write: %v", err)
		}
	}
	b.quiet()
	if b.put(bob, "x"); b.one().Method() != stun.CreatePermission {
		t.Error("another peer is not asked for")
	}
	b.now = b.now.Add(refusedFor)
	b.put(alice, "x")
	b.one()
}

func TestPermittedPeerIsAskedForAgainAfterARefusal(t *testing.T) {
	b := established(t, params{dialect: Modern})
	if err := b.permit(b.now, alice); err != nil {
		t.Fatal(err)
	}
	b.reply(b.one(), stun.Error, code(500))
	b.at(refusedFor - 1)
	b.quiet()
	b.at(refusedFor)
	b.reply(b.one(), stun.Success, nothing)
	if news := b.news(); len(news) != 2 || news[0].err == nil || news[1].err != nil {
		t.Errorf("events %+v", news)
	}
}

func TestHeldDatagramsAreBounded(t *testing.T) {
	b := established(t, params{dialect: Modern})
	for range 100 {
		b.put(alice, "x")
	}
	if n := len(b.perms[alice.Addr()].held); n != heldDatagrams || b.stats.Discarded != 100-heldDatagrams {
		t.Errorf("%d held, %d discarded", n, b.stats.Discarded)
	}
	b = established(t, params{dialect: Modern})
	big := string(make([]byte, MaxPayload))
	a := alice.Addr()
	for range 20 {
		a = a.Next()
		b.put(netip.AddrPortFrom(a, 9), big)
	}
	if b.heldBytes > heldBytes || b.stats.Discarded == 0 {
		t.Errorf("%d bytes held, %d discarded", b.heldBytes, b.stats.Discarded)
	}
}

func TestAutoTakesSilenceForLegacy(t *testing.T) {
	b := established(t, params{dialect: Auto, channelAfter: 1})
	msg := b.put(alice, "x")
	ask := b.one() // before the data, so that a modern server permits it in time
	if len(msg) == 0 || ask.Method() != stun.CreatePermission {
		t.Fatalf("sent %x and %x", ask.Raw(), msg)
	}
	b.at(2*time.Second - 1)
	if b.dialect != Auto {
		t.Fatal("decided early")
	}
	b.sent()
	b.at(2 * time.Second)
	if b.dialect != Legacy {
		t.Fatal("undecided after 2 s")
	}
	b.put(bob, "x")
	if m := b.one(); m.Method() != stun.ChannelBind {
		t.Errorf("sent %x", m.Raw())
	}
	// The permission of the first peer counts from its Send.
	b.at(41 * time.Second) // the CreatePermission that was asked with has run its course
	b.sent()
	b.at(100 * time.Second)
	found := false
	for _, m := range b.sent() {
		peer, _ := m.GetXORAddress(stun.AttrXORPeerAddress)
		found = found || m.Method() == stun.Send && peer == alice
		if m.Method() == stun.CreatePermission {
			t.Error("CreatePermission in Legacy")
		}
	}
	if !found {
		t.Error("the permission of the first peer is not kept")
	}
}

func TestAutoTakesAnAnswerForModernHoweverLate(t *testing.T) {
	for _, after := range []time.Duration{100 * time.Millisecond, 10 * time.Second} {
		for class, fill := range map[stun.Class]func(*stun.Builder){stun.Success: nothing, stun.Error: code(403)} {
			b := established(t, params{dialect: Auto})
			b.put(alice, "x")
			ask := b.one()
			b.at(after)
			b.sent()
			b.reply(ask, class, fill)
			if b.dialect != Modern {
				t.Fatalf("after %v: %v", after, b.dialect)
			}
			for _, m := range b.sent() {
				t.Errorf("after %v: sent %x", after, m.Raw())
			}
			if _, err := b.write(b.now, nil, alice, nil); (err != nil) != (class == stun.Error) {
				t.Errorf("after %v: write: %v", after, err)
			}
		}
	}
}

func TestAutoTakesBadRequestForLegacy(t *testing.T) {
	b := established(t, params{dialect: Auto})
	b.put(alice, "x")
	b.reply(b.one(), stun.Error, code(400))
	if b.dialect != Legacy {
		t.Fatalf("%v", b.dialect)
	}
	if msg := b.put(alice, "x"); len(msg) == 0 {
		t.Error("data is held")
	}
}

func TestLeastRecentlyUsedPermissionLapsesWhenTheTableIsFull(t *testing.T) {
	b := established(t, params{channelAfter: -1})
	if err := b.permit(b.now, alice); err != nil {
		t.Fatal(err)
	}
	a := netip.MustParseAddr("198.51.100.0")
	first := a.Next()
	for range 2 * MaxPeers {
		b.now = b.now.Add(time.Millisecond)
		a = a.Next()
		b.put(netip.AddrPortFrom(a, 9), "x")
	}
	if len(b.perms) != MaxPeers || len(b.permList) != MaxPeers || len(b.peers) != MaxPeers || len(b.peerList) != MaxPeers {
		t.Errorf("%d permissions, %d peers", len(b.perms), len(b.peers))
	}
	if b.perms[first] != nil || b.perms[a] == nil || b.perms[alice.Addr()] == nil {
		t.Error("the wrong ones lapsed")
	}
}

func TestPermitFailsWhenAllArePinned(t *testing.T) {
	b := established(t, params{})
	a := netip.MustParseAddr("198.51.100.0")
	for range MaxPeers {
		a = a.Next()
		if err := b.permit(b.now, netip.AddrPortFrom(a, 9)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.permit(b.now, alice); !errors.Is(err, ErrPermissions) {
		t.Errorf("permit: %v", err)
	}
	if _, err := b.write(b.now, nil, alice, nil); !errors.Is(err, ErrPermissions) {
		t.Errorf("write: %v", err)
	}
}

func TestUnreachablePeersAreRefused(t *testing.T) {
	b := established(t, params{})
	for _, to := range []string{"0.0.0.0:9", "192.0.2.1:0", "[2001:db8::1]:9"} {
		if _, err := b.write(b.now, nil, netip.MustParseAddrPort(to), nil); !errors.Is(err, ErrPeer) {
			t.Errorf("%s: %v", to, err)
		}
	}
	if _, err := b.write(b.now, nil, netip.AddrPort{}, nil); !errors.Is(err, ErrPeer) {
		t.Errorf("zero: %v", err)
	}
	if _, err := b.write(b.now, nil, alice, make([]byte, MaxPayload+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	if msg, err := b.write(b.now, nil, alice, make([]byte, MaxPayload)); err != nil || len(msg) > 65507 {
		t.Errorf("largest: %d bytes, %v", len(msg), err)
	}
}
