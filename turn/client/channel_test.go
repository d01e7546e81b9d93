package client

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stilenet/stile/stun"
)

// withChannel is a bench whose peer alice has channel 0x4000, asked for at once.
func withChannel(t *testing.T, p params) *bench {
	t.Helper()
	p.channelAfter = 1
	b := established(t, p)
	b.put(alice, "x")
	bind := b.one()
	if v, _ := bind.Uint32(stun.AttrChannelNumber); bind.Method() != stun.ChannelBind || v != 0x40000000 {
		t.Fatalf("sent %x", bind.Raw())
	}
	b.reply(bind, stun.Success, nothing)
	return b
}

func TestChannelIsBoundAfterTheAgreedNumberOfDatagrams(t *testing.T) {
	b := established(t, params{channelAfter: 16})
	for range 15 {
		b.put(alice, "x")
	}
	b.quiet()
	msg := b.put(alice, "x")
	if b.one().Method() != stun.ChannelBind || isChannelData(msg) {
		t.Error("want a ChannelBind and, until it is answered, a Send")
	}
	for range 20 {
		if isChannelData(b.put(alice, "x")) {
			t.Fatal("ChannelData before the answer")
		}
	}
	b.quiet()
}

func TestChannelInUseIsRenewedAt540Seconds(t *testing.T) {
	b := withChannel(t, params{})
	for d := 50 * time.Second; d < 540*time.Second; d += 50 * time.Second {
		b.at(d)
		if !isChannelData(b.put(alice, "x")) {
			t.Fatalf("no ChannelData at %v", d)
		}
		b.quiet() // the data keeps the permission in Legacy
	}
	b.at(540*time.Second - 1)
	b.quiet()
	b.at(540 * time.Second)
	var bind, refresh int
	for _, m := range b.sent() {
		switch m.Method() {
		case stun.ChannelBind:
			bind++
			b.reply(m, stun.Success, nothing)
		case stun.Refresh:
			refresh++
			b.reply(m, stun.Success, func(b *stun.Builder) { b.Uint32(stun.AttrLifetime, 600) })
		}
	}
	if bind != 1 || refresh != 1 {
		t.Errorf("%d ChannelBind, %d Refresh", bind, refresh)
	}
	if !isChannelData(b.put(alice, "x")) {
		t.Error("no ChannelData afterwards")
	}
}

func TestReceivingCountsAsUseOfAChannel(t *testing.T) {
	b := withChannel(t, params{})
	b.at(300 * time.Second)
	if from, _, ok := b.feed([]byte{0x40, 0, 0, 1, 'x'}); !ok || from != alice {
		t.Fatal("ChannelData is dropped")
	}
	b.sent()
	b.at(540 * time.Second)
	for _, m := range b.sent() {
		if m.Method() == stun.ChannelBind {
			return
		}
	}
	t.Error("not renewed")
}

// keep answers the refreshes up to d.
func (b *bench) keep(d time.Duration) {
	b.t.Helper()
	for step := b.now.Sub(epoch) + time.Second; step <= d; step += time.Second {
		b.at(step)
		for _, m := range b.sent() {
			switch m.Method() {
			case stun.Refresh:
				b.reply(m, stun.Success, func(b *stun.Builder) { b.Uint32(stun.AttrLifetime, 600) })
			case stun.ChannelBind:
				b.t.Fatalf("ChannelBind at %v", step)
			}
		}
	}
}

func TestIdleChannelEndsAndItsNumberRestsFor900Seconds(t *testing.T) {
	b := withChannel(t, params{})
	b.keep(560 * time.Second)
	if b.channels[0x4000] == nil {
		t.Fatal("the number is forgotten while the server knows it")
	}
	if _, _, ok := b.feed([]byte{0x40, 0, 0, 0}); !ok {
		t.Error("the server's ChannelData is dropped while the server may send it")
	}
	// Used again, it is bound again with its number, and until the answer nothing relies on it.
	if msg := b.put(alice, "x"); isChannelData(msg) {
		t.Error("ChannelData on a channel that may have ended")
	}
	var bind stun.Message
	for _, m := range b.sent() {
		if m.Method() == stun.ChannelBind {
			bind = m
		}
	}
	if v, ok := bind.Uint32(stun.AttrChannelNumber); !ok || v != 0x40000000 {
		t.Fatalf("sent %x", bind.Raw())
	}
	b.reply(bind, stun.Success, nothing)
	b.keep(560*time.Second + 899*time.Second)
	if b.channels[0x4000] == nil {
		t.Error("the number is free while it may be guarded")
	}
	b.keep(560*time.Second + 901*time.Second)
	if b.channels[0x4000] != nil || b.peers[alice].channel != 0 {
		t.Error("the number is not given back")
	}
}

func TestRefusedChannelLeavesIndications(t *testing.T) {
	b := established(t, params{channelAfter: 1})
	b.put(alice, "x")
	b.reply(b.one(), stun.Error, code(400))
	for range 50 {
		if isChannelData(b.put(alice, "x")) {
			t.Fatal("ChannelData after a refusal")
		}
	}
	b.quiet()
	b.now = b.now.Add(unboundFor)
	b.put(alice, "x")
	if b.one().Method() != stun.ChannelBind {
		t.Error("never asked for again")
	}
}

func TestChannelNumbersStayInTheRangeOfEveryDialect(t *testing.T) {
	b := established(t, params{channelAfter: 1})
	b.nextChan = 0x4FFE
	a := alice.Addr()
	for _, want := range []uint32{0x4FFE, 0x4FFF, 0x4000, 0x4001} {
		a = a.Next()
		b.put(netip.AddrPortFrom(a, 9), "x")
		if v, _ := b.one().Uint32(stun.AttrChannelNumber); v>>16 != want {
			t.Errorf("number %#x, want %#x", v>>16, want)
		}
	}
}

func TestChannelsAreBounded(t *testing.T) {
	b := established(t, params{channelAfter: 1})
	a := alice.Addr()
	for range 2 * MaxPeers {
		a = a.Next()
		b.put(netip.AddrPortFrom(a, 9), "x")
	}
	if len(b.channels) != maxChannels || len(b.peers) != MaxPeers {
		t.Errorf("%d channels, %d peers", len(b.channels), len(b.peers))
	}
}

func TestModernChannelDataDoesNotReplaceCreatePermission(t *testing.T) {
	b := established(t, params{dialect: Modern, channelAfter: 2})
	b.put(alice, "x")
	b.reply(b.one(), stun.Success, nothing)
	b.sent()
	b.put(alice, "x")
	b.reply(b.one(), stun.Success, nothing)
	for d := 10 * time.Second; d < 240*time.Second; d += 10 * time.Second {
		b.at(d)
		if !isChannelData(b.put(alice, "x")) {
			t.Fatal("no ChannelData")
		}
	}
	b.at(240 * time.Second)
	if b.one().Method() != stun.CreatePermission {
		t.Error("no CreatePermission")
	}
}
