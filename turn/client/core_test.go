package client

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stilenet/stile/stun"
)

var (
	epoch   = time.Date(2008, 10, 15, 12, 0, 0, 0, time.UTC)
	relayed = netip.MustParseAddrPort("192.0.2.15:50000")
	mapped  = netip.MustParseAddrPort("192.0.2.1:7000")
	alice   = netip.MustParseAddrPort("192.0.2.210:18200")
	bob     = netip.MustParseAddrPort("192.0.2.211:18200")
)

// bench drives a core by hand.
type bench struct {
	*core
	t   *testing.T
	now time.Time
}

func newBench(t *testing.T, p params) *bench {
	t.Helper()
	if p.dialect == DialectDefault {
		p.dialect = Legacy
	}
	if p.channelAfter == 0 {
		p.channelAfter = -1
	}
	c, err := newCore(p, rand.NewChaCha8([32]byte{1}))
	if err != nil {
		t.Fatal(err)
	}
	return &bench{core: c, t: t, now: epoch}
}

// established is a bench with an allocation of 600 s.
func established(t *testing.T, p params) *bench {
	t.Helper()
	b := newBench(t, p)
	b.start(b.now, b.now)
	b.reply(b.one(), stun.Success, allocation(600))
	if got := b.news(); len(got) != 1 || got[0].kind != eventAllocated {
		t.Fatalf("events %+v", got)
	}
	return b
}

func allocation(seconds uint32) func(*stun.Builder) {
	return func(b *stun.Builder) {
		b.XORAddress(stun.AttrXORRelayedAddress, relayed)
		b.Uint32(stun.AttrLifetime, seconds)
		b.XORAddress(stun.AttrXORMappedAddress, mapped)
	}
}

func code(code int) func(*stun.Builder) {
	return func(b *stun.Builder) { b.ErrorCode(code, stun.Reason(code)) }
}

func nothing(*stun.Builder) {}

// sent takes the messages that the core has left.
func (b *bench) sent() []stun.Message {
	b.t.Helper()
	var out []stun.Message
	for _, raw := range b.out {
		m, err := stun.Parse(raw)
		if err != nil {
			b.t.Fatalf("the core sends %x: %v", raw, err)
		}
		out = append(out, m)
	}
	b.out = nil
	return out
}

// one takes the only message that the core has left.
func (b *bench) one() stun.Message {
	b.t.Helper()
	out := b.sent()
	if len(out) != 1 {
		b.t.Fatalf("%d messages were sent, want 1: %v", len(out), types(out))
	}
	return out[0]
}

// quiet fails if the core has left a message.
func (b *bench) quiet() {
	b.t.Helper()
	if out := b.sent(); len(out) > 0 {
		b.t.Fatalf("at %v: sent %v, want nothing", b.now.Sub(epoch), types(out))
	}
}

func (b *bench) news() []event {
	e := b.events
	b.events = nil
	return e
}

func types(list []stun.Message) (out []string) {
	for _, m := range list {
		out = append(out, fmt.Sprintf("%#04x", uint16(m.Type())))
	}
	return out
}

// reply answers a request.
func (b *bench) reply(req stun.Message, class stun.Class, fill func(*stun.Builder)) {
	b.feed(answer(req, class, fill))
}

func answer(req stun.Message, class stun.Class, fill func(*stun.Builder)) []byte {
	m := stun.Begin(nil, stun.NewType(req.Method(), class), req.TransactionID())
	fill(&m)
	return m.Bytes()
}

func (b *bench) feed(raw []byte) (netip.AddrPort, []byte, bool) { return b.handle(b.now, raw) }

// at moves the clock there, with a tick whenever the core wants one on the way, the end included.
func (b *bench) at(d time.Duration) {
	b.t.Helper()
	end := epoch.Add(d)
	for n := 0; !b.wake.IsZero() && !b.wake.After(end); n++ {
		if n > 10000 {
			b.t.Fatal("the core wants to be woken again and again")
		}
		if b.wake.After(b.now) {
			b.now = b.wake
		}
		b.tick(b.now)
	}
	b.now = end
}

// put writes a datagram and returns the message for the server, nil if it is held.
func (b *bench) put(to netip.AddrPort, payload string) []byte {
	b.t.Helper()
	msg, err := b.write(b.now, nil, to, []byte(payload))
	if err != nil {
		b.t.Fatalf("write to %v: %v", to, err)
	}
	return msg
}

// unhex reads a vector.
func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// likeVector compares a message with a vector whose transaction identifier is another.
func likeVector(t *testing.T, got []byte, vector string) {
	t.Helper()
	want := unhex(t, vector)
	got = bytes.Clone(got)
	if len(got) >= stun.HeaderSize && len(want) >= stun.HeaderSize && stun.IsMessage(got) {
		copy(got[8:20], want[8:20])
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got  %x\nwant %x", got, want)
	}
}

// The vectors are made from draft-08's figures; their XOR is that of RFC 5769: 192.0.2.1:32853 is 0001a147e112a643.
func TestRequestsEqualTheVectors(t *testing.T) {
	b := newBench(t, params{})
	b.start(b.now, b.now)
	likeVector(t, b.out[0], "00030008 2112a442 11111111 11111111 11111111 00190004 11000000")

	b = newBench(t, params{evenPort: true, reserve: true})
	b.start(b.now, b.now)
	likeVector(t, b.out[0], "00030010 2112a442 12121212 12121212 12121212 00190004 11000000 00180004 c0000000")

	b = established(t, params{channelAfter: 2})
	likeVector(t, b.put(alice, "hello"), "00160018 2112a442 22222222 22222222 22222222 00120008 0001660a e112a690 00130005 68656c6c 6f000000")
	b.nextChan = 0x4001
	b.put(alice, "hello")
	bind := b.one()
	likeVector(t, bind.Raw(), "00090014 2112a442 44444444 44444444 44444444 000c0004 40010000 00120008 0001660a e112a690")
	b.reply(bind, stun.Success, nothing)
	likeVector(t, b.put(alice, "hello"), "40010005 68656c6c 6f")
	b.p.stream = true
	likeVector(t, b.put(alice, "hello"), "40010005 68656c6c 6f000000")
	b.release(b.now)
	likeVector(t, b.one().Raw(), "00040008 2112a442 55555555 55555555 55555555 000d0004 00000000")

	b = established(t, params{})
	if err := b.permit(b.now, alice); err != nil {
		t.Fatal(err)
	}
	// A Send without DATA; the port is that of the peer, since a server may look at it.
	likeVector(t, b.one().Raw(), "0016000c 2112a442 23232323 23232323 23232323 00120008 0001660a e112a690")
}

func TestAnswersOfTheVectorsAreUnderstood(t *testing.T) {
	b := newBench(t, params{})
	b.start(b.now, b.now)
	raw := unhex(t, `01030020 2112a442 11111111 11111111 11111111 00160008 0001e242 e112a64d 000d0004 00000258 00200008 00013a4a e112a643`)
	copy(raw[8:20], b.out[0][8:20])
	b.feed(raw)
	if b.phase != allocated || b.relayed != relayed || b.mapped != mapped || b.lifetime != 600*time.Second {
		t.Fatalf("phase %d, relayed %v, mapped %v, lifetime %v", b.phase, b.relayed, b.mapped, b.lifetime)
	}
	from, data, ok := b.feed(unhex(t, "00170018 2112a442 33333333 33333333 33333333 00120008 0001660a e112a690 00130008 776f726c 64212121"))
	if !ok || from != alice || string(data) != "world!!!" {
		t.Errorf("Data: %q from %v, %v", data, from, ok)
	}
	b = newBench(t, params{})
	b.start(b.now, b.now)
	raw = unhex(t, "0113001c 2112a442 66666666 66666666 66666666 00090018 00000425 416c6c6f 63617469 6f6e204d 69736d61 7463682e")
	copy(raw[8:20], b.out[0][8:20])
	b.feed(raw)
	news := b.news()
	e, ok := answered(news[0].err)
	if len(news) != 1 || !ok || e.Code != 437 || e.Reason != "Allocation Mismatch." || e.RetryAfter != 2*time.Minute {
		t.Errorf("events %+v", news)
	}
}

func TestEveryTruncationOfAnAnswerIsDropped(t *testing.T) {
	for _, vector := range []string{
		"01030020 2112a442 11111111 11111111 11111111 00160008 0001e242 e112a64d 000d0004 00000258 00200008 00013a4a e112a643",
		"00170018 2112a442 33333333 33333333 33333333 00120008 0001660a e112a690 00130008 776f726c 64212121",
		"4000000568656c6c6f",
	} {
		b := established(t, params{channelAfter: 1})
		b.put(alice, "x")
		raw := unhex(t, vector)
		for n := range raw {
			if _, data, ok := b.feed(raw[:n]); ok {
				t.Errorf("%x: the first %d bytes bring %x", raw, n, data)
			}
		}
		if got := b.stats.Dropped[DropMalformed]; got != uint64(len(raw)) {
			t.Errorf("%x: %d truncations are malformed, want %d", raw, got, len(raw))
		}
	}
}

func TestRequestsAreSentSevenTimesIn39500Milliseconds(t *testing.T) {
	b := newBench(t, params{})
	b.start(b.now, b.now)
	id := b.one().TransactionID()
	var times []time.Duration
	for b.phase != ended {
		b.at(b.wake.Sub(epoch))
		for _, m := range b.sent() {
			if m.TransactionID() != id {
				t.Error("a retransmission has another identifier")
			}
			times = append(times, b.now.Sub(epoch))
		}
	}
	ms := time.Millisecond
	if want := []time.Duration{500 * ms, 1500 * ms, 3500 * ms, 7500 * ms, 15500 * ms, 31500 * ms}; !reflect.DeepEqual(times, want) {
		t.Errorf("sent again at %v, want %v", times, want)
	}
	if got := b.now.Sub(epoch); got != 39500*ms {
		t.Errorf("given up at %v", got)
	}
	if news := b.news(); len(news) != 1 || news[0].kind != eventFailed || !errors.Is(news[0].err, ErrTimeout) {
		t.Errorf("events %+v", news)
	}
}

func TestStreamRequestsAreSentOnce(t *testing.T) {
	b := newBench(t, params{stream: true})
	b.now = epoch.Add(2 * time.Second)
	b.start(b.now, epoch) // the connection took two seconds
	b.one()
	b.at(39499 * time.Millisecond)
	if b.phase != allocating {
		t.Fatal("given up before 39.5 s from the SYN")
	}
	b.at(39500 * time.Millisecond)
	b.quiet()
	if news := b.news(); len(news) != 1 || !errors.Is(news[0].err, ErrTimeout) {
		t.Errorf("events %+v", news)
	}
}

func TestRefreshGoesOutSixtySecondsBeforeTheEnd(t *testing.T) {
	for _, test := range []struct {
		seconds uint32
		want    time.Duration
	}{
		{600, 540 * time.Second}, {3600, 3540 * time.Second}, {121, 61 * time.Second}, {120, 60 * time.Second}, {10, 5 * time.Second},
		{0xFFFFFFFF, 3540 * time.Second},
	} {
		b := newBench(t, params{})
		b.start(b.now, b.now)
		b.reply(b.one(), stun.Success, allocation(test.seconds))
		b.at(test.want - time.Nanosecond)
		b.quiet()
		b.at(test.want)
		m := b.one()
		if m.Method() != stun.Refresh || m.Has(stun.AttrLifetime) {
			t.Errorf("lifetime %d: sent %x", test.seconds, m.Raw())
		}
		b.reply(m, stun.Success, func(b *stun.Builder) { b.Uint32(stun.AttrLifetime, 600) })
		b.at(test.want + 540*time.Second - time.Nanosecond)
		b.quiet()
		b.at(test.want + 540*time.Second)
		b.one()
	}
}

func TestAnErrorToRefreshDoesNotEndTheAllocation(t *testing.T) {
	b := established(t, params{})
	b.at(540 * time.Second)
	b.reply(b.one(), stun.Error, code(500))
	b.at(545*time.Second - 1)
	b.quiet()
	b.at(545 * time.Second)
	b.reply(b.one(), stun.Error, code(500))
	b.at(600*time.Second - 1)
	if b.phase != allocated {
		t.Fatal("ended before its time")
	}
	b.at(600 * time.Second)
	news := b.news()
	if len(news) != 1 || news[0].kind != eventLost {
		t.Fatalf("events %+v", news)
	}
	// The cause is what the last Refresh met: here silence, because nobody answered the third.
	if e, ok := answered(news[0].err); !ok && !errors.Is(news[0].err, ErrTimeout) {
		t.Errorf("cause %v (%v)", news[0].err, e)
	}
	if _, err := b.write(b.now, nil, alice, nil); !errors.Is(err, ErrAllocationLost) {
		t.Errorf("write: %v", err)
	}
}

func TestMismatchOnAnythingButAllocateMeansLost(t *testing.T) {
	for _, method := range []stun.Method{stun.Refresh, stun.CreatePermission, stun.ChannelBind} {
		b := established(t, params{dialect: Modern, channelAfter: 1})
		switch method {
		case stun.Refresh:
			b.at(540 * time.Second)
		case stun.ChannelBind:
			b.put(alice, "x")
			b.reply(b.one(), stun.Success, nothing)
			b.news()
			b.sent()
			b.put(alice, "x")
		case stun.CreatePermission:
			b.put(alice, "x")
		}
		m := b.one()
		if m.Method() != method {
			t.Fatalf("sent %v, want %v", m.Method(), method)
		}
		b.reply(m, stun.Error, code(437))
		if news := b.news(); len(news) != 1 || news[0].kind != eventLost {
			t.Errorf("%v: events %+v", method, news)
		}
	}
}

func TestReleaseAsksForLifetimeZero(t *testing.T) {
	for name, fill := range map[string]struct {
		class stun.Class
		fill  func(*stun.Builder)
	}{
		"success":  {stun.Success, func(b *stun.Builder) { b.Uint32(stun.AttrLifetime, 0) }},
		"mismatch": {stun.Error, code(437)},
		"error":    {stun.Error, code(400)},
	} {
		b := established(t, params{})
		b.release(b.now)
		m := b.one()
		if v, ok := m.Uint32(stun.AttrLifetime); !ok || v != 0 || m.Method() != stun.Refresh {
			t.Errorf("%s: sent %x", name, m.Raw())
		}
		b.reply(m, fill.class, fill.fill)
		if news := b.news(); len(news) != 1 || news[0].kind != eventReleased || b.phase != ended {
			t.Errorf("%s: events %+v", name, news)
		}
	}
}

func TestAnAbandonedAllocateIsReleased(t *testing.T) {
	b := newBench(t, params{})
	b.start(b.now, b.now)
	b.one()
	b.release(b.now)
	if m := b.one(); m.Method() != stun.Refresh {
		t.Errorf("sent %x", m.Raw())
	}
	if news := b.news(); len(news) != 1 || news[0].kind != eventReleased {
		t.Errorf("events %+v", news)
	}
}

func TestBadAllocateSuccessesFail(t *testing.T) {
	for name, fill := range map[string]func(*stun.Builder){
		"empty":       nothing,
		"no lifetime": func(b *stun.Builder) { b.XORAddress(stun.AttrXORRelayedAddress, relayed) },
		"lifetime 0":  allocation(0),
		"port 0": func(b *stun.Builder) {
			b.XORAddress(stun.AttrXORRelayedAddress, netip.AddrPortFrom(relayed.Addr(), 0))
			b.Uint32(stun.AttrLifetime, 600)
		},
		"unknown attribute": func(b *stun.Builder) { allocation(600)(b); b.Uint32(0x7000, 1) },
	} {
		b := newBench(t, params{})
		b.start(b.now, b.now)
		b.reply(b.one(), stun.Success, fill)
		if news := b.news(); len(news) != 1 || news[0].kind != eventFailed || !errors.Is(news[0].err, ErrProtocol) {
			t.Errorf("%s: events %+v", name, news)
		}
	}
}

func TestUnknownOptionalAttributesAreIgnored(t *testing.T) {
	b := newBench(t, params{})
	b.start(b.now, b.now)
	b.reply(b.one(), stun.Success, func(b *stun.Builder) { allocation(600)(b); b.Uint32(0xF000, 1); b.Uint32(stun.AttrBandwidth, 64) })
	if b.phase != allocated {
		t.Error("refused")
	}
}

func TestCapacityErrorDropsTheWishesAndAsksAgain(t *testing.T) {
	for name, p := range map[string]params{"props": {evenPort: true}, "token": {token: []byte("12345678")}} {
		b := newBench(t, p)
		b.start(b.now, b.now)
		first := b.one()
		if !first.Has(stun.AttrEvenPort) && !first.Has(stun.AttrReservationToken) {
			t.Fatalf("%s: sent %x", name, first.Raw())
		}
		b.reply(first, stun.Error, code(508))
		second := b.one()
		if second.Has(stun.AttrEvenPort) || second.Has(stun.AttrReservationToken) || second.TransactionID() == first.TransactionID() {
			t.Errorf("%s: sent %x", name, second.Raw())
		}
		b.reply(second, stun.Error, code(508))
		news := b.news()
		if len(news) != 1 || !errors.Is(news[0].err, ErrCapacity) {
			t.Errorf("%s: events %+v", name, news)
		}
		if e, _ := answered(news[0].err); e.RetryAfter != time.Minute {
			t.Errorf("%s: retry after %v", name, e.RetryAfter)
		}
	}
}

func TestErrorsOfAllocateAreTyped(t *testing.T) {
	for number, want := range map[int]error{
		401: ErrCredentialsWanted, 403: ErrForbidden, 486: ErrQuota, 508: ErrCapacity, 400: nil, 442: nil, 422: nil, 300: nil, 699: nil,
	} {
		b := newBench(t, params{})
		b.start(b.now, b.now)
		b.reply(b.one(), stun.Error, func(b *stun.Builder) {
			b.ErrorCode(number, "no\r\nway\xff")
			b.Attr(stun.AttrAlternateServer, []byte{0, 1, 13, 150, 192, 0, 2, 9})
		})
		news := b.news()
		if len(news) != 1 || news[0].kind != eventFailed {
			t.Fatalf("%d: events %+v", number, news)
		}
		e, ok := answered(news[0].err)
		if !ok || e.Code != number || e.Method != stun.Allocate || e.Reason != "no..way." || want != nil && !errors.Is(e, want) {
			t.Errorf("%d: %+v", number, e)
		}
		if e.Alternate.IsValid() {
			t.Errorf("%d: an unsigned ALTERNATE-SERVER is believed", number)
		}
	}
	b := newBench(t, params{})
	b.start(b.now, b.now)
	b.reply(b.one(), stun.Error, func(b *stun.Builder) { code(420)(b); b.UnknownAttributes([]stun.AttrType{0x19, 0x18}) })
	if e, _ := answered(b.news()[0].err); !reflect.DeepEqual(e.Unknown, []stun.AttrType{0x19, 0x18}) {
		t.Errorf("unknown attributes %v", e.Unknown)
	}
}

func TestKeepaliveFollowsSilenceOnly(t *testing.T) {
	b := established(t, params{keepalive: 25 * time.Second})
	b.at(20 * time.Second)
	b.put(alice, "x")
	b.at(45*time.Second - 1)
	b.quiet()
	b.at(45 * time.Second)
	if m := b.one(); m.Type() != stun.NewType(stun.Binding, stun.Indication) {
		t.Errorf("sent %x", m.Raw())
	}
	b.at(70 * time.Second)
	b.one()
}

func TestEveryMessageIsCountedOnce(t *testing.T) {
	b := established(t, params{channelAfter: 1})
	b.put(alice, "x")
	bind := b.one()
	data := func(fill func(*stun.Builder)) []byte {
		m := stun.Begin(nil, stun.NewType(stun.Data, stun.Indication), stun.TransactionID{9})
		fill(&m)
		return m.Bytes()
	}
	peer := func(b *stun.Builder) { b.XORAddress(stun.AttrXORPeerAddress, alice) }
	wrong := data(func(m *stun.Builder) { peer(m); m.String(stun.AttrData, "x"); m.Fingerprint() })
	wrong[len(wrong)-1]++
	for i, test := range []struct {
		raw  []byte
		want Drop
	}{
		{nil, DropMalformed},
		{[]byte{0x40}, DropMalformed},
		{[]byte{0x40, 0, 0, 1}, DropMalformed},
		{[]byte{0x40, 1, 0, 0}, DropChannel},
		{[]byte{0xFF, 0xFF, 0, 0}, DropChannel},
		{data(nothing), DropMalformed},
		{data(peer), DropMalformed},
		{data(func(m *stun.Builder) { m.String(stun.AttrData, "x") }), DropMalformed},
		{data(func(m *stun.Builder) { peer(m); m.Uint32(stun.AttrICMP, 0) }), DropICMP},
		{data(func(m *stun.Builder) { peer(m); m.Uint32(stun.AttrICMPDraft09, 0) }), DropICMP},
		{data(func(m *stun.Builder) { peer(m); m.String(stun.AttrData, "x"); m.Uint32(0x7000, 0) }), DropUnknown},
		{wrong, DropFingerprint},
		{bind.Raw(), DropUnexpected},
		{answer(mustParse(t, wrongID(bind.Raw())), stun.Success, nothing), DropUnasked},
		{answer(bind, stun.Error, nothing), DropMalformed},
		{otherMethod(answer(bind, stun.Success, nothing)), DropUnasked},
		{data(func(m *stun.Builder) { peer(m); m.String(stun.AttrData, "") }), 0},
		{[]byte{0x40, 0, 0, 1, 'x', 0, 0, 0}, 0}, // padding is allowed over UDP as well, and the number counts before the answer
	} {
		before := b.stats
		_, _, ok := b.feed(test.raw)
		if ok != (test.want == 0) || b.stats.Dropped[test.want] != before.Dropped[test.want]+uint64(min(test.want, 1)) {
			t.Errorf("%d: %x: not %v: %+v", i, test.raw, test.want, b.stats)
		}
	}
	b.reply(bind, stun.Success, nothing)
	sum := b.stats.Delivered + b.stats.Responses
	for _, n := range b.stats.Dropped {
		sum += n
	}
	if sum != b.stats.Read {
		t.Errorf("read %d, counted %d: %+v", b.stats.Read, sum, b.stats)
	}
}

// otherMethod makes it an answer to Refresh.
func otherMethod(raw []byte) []byte {
	raw = bytes.Clone(raw)
	raw[1] = raw[1]&^0x0F | byte(stun.Refresh)
	return raw
}

func mustParse(t *testing.T, raw []byte) stun.Message {
	t.Helper()
	m, err := stun.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func wrongID(raw []byte) []byte {
	raw = bytes.Clone(raw)
	raw[19]++
	return raw
}
