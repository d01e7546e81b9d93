package turn

import (
	"fmt"
	"testing"

	"github.com/stilenet/stile/stun"
)

// The rows are those of the table of what a tolerant server accepts: what is sent, the answer's code, whether a port was reserved,
// whether it must be even, and the dialect that the allocation then has.
func TestAllocateAcceptsEveryHistoricalForm(t *testing.T) {
	raw := func(v ...byte) attr { return value(stun.AttrEvenPort, v...) }
	tests := []struct {
		name    string
		attrs   []attr
		code    int
		even    bool
		reserve bool
		dialect Dialect
	}{
		{"RFC 5766 EVEN-PORT", []attr{udp, even(0x00)}, 0, true, false, DialectModern},
		{"RFC 5766 EVEN-PORT with R", []attr{udp, even(0x80)}, 0, true, true, DialectModern},
		{"RFC 5766 EVEN-PORT, other bits ignored", []attr{udp, even(0x7F)}, 0, true, false, DialectModern},
		{"draft-08 nothing", []attr{udp, props(0x00)}, 0, false, false, DialectLegacy},
		{"draft-08 E", []attr{udp, props(0x80)}, 0, true, false, DialectLegacy},
		{"draft-08 E and R", []attr{udp, props(0xC0)}, 0, true, true, DialectLegacy},
		{"draft-08 R without E", []attr{udp, props(0x40)}, 508, false, false, 0},
		{"draft-08 P", []attr{udp, props(0x20)}, 508, false, false, 0},
		{"draft-08 E and P", []attr{udp, props(0xA0)}, 508, false, false, 0},
		{"draft-08 an unknown flag", []attr{udp, props(0x90)}, 508, false, false, 0},
		{"draft-08 an unknown flag in the second byte", []attr{udp, raw(0x80, 0x80, 0, 0)}, 508, false, false, 0},
		{"draft-07 even", []attr{udp, props(0x01)}, 0, true, false, DialectLegacy},
		{"draft-07 pair", []attr{udp, props(0x02)}, 0, true, true, DialectLegacy},
		{"draft-06 even", []attr{udp, raw(0, 2, 0, 0)}, 0, true, false, DialectLegacy},
		{"draft-06 even and reserve", []attr{udp, raw(0, 3, 0, 0)}, 0, true, true, DialectLegacy},
		{"draft-06 odd", []attr{udp, raw(0, 1, 0, 0)}, 508, false, false, 0},
		{"draft-06 a certain port", []attr{udp, raw(0, 0, 0xC3, 0x50)}, 508, false, false, 0},
		{"draft-06 even, with a port hint", []attr{udp, raw(0, 2, 0xC3, 0x50)}, 0, true, false, DialectLegacy},
		{"neither", []attr{udp, raw(0x80, 3, 0, 0)}, 508, false, false, 0},
		{"an empty one", []attr{udp, raw()}, 400, false, false, 0},
		{"two bytes", []attr{udp, raw(0x80, 0)}, 400, false, false, 0},
		{"eight bytes", []attr{udp, raw(0x80, 0, 0, 0, 0, 0, 0, 0)}, 400, false, false, 0},

		{"BANDWIDTH", []attr{udp, value(stun.AttrBandwidth, 0, 0, 4, 0)}, 0, false, false, DialectLegacy},
		{"BANDWIDTH, malformed", []attr{udp, value(stun.AttrBandwidth, 1)}, 0, false, false, DialectLegacy},
		{"DONT-FRAGMENT", []attr{udp, value(stun.AttrDontFragment)}, 420, false, false, 0},
		{"the family that the server has", []attr{udp, familyOf(1)}, 0, false, false, DialectModern},
		{"the family that it has not", []attr{udp, familyOf(2)}, 440, false, false, 0},
		{"a family that is none", []attr{udp, familyOf(3)}, 440, false, false, 0},
		{"a family of two bytes", []attr{udp, value(stun.AttrRequestedFamily, 1, 0)}, 400, false, false, 0},
		{"an additional family", []attr{udp, value(stun.AttrAdditionalFamily, 2, 0, 0, 0)}, 0, false, false, DialectModern},
		{"an additional family that is the first one", []attr{udp, value(stun.AttrAdditionalFamily, 1, 0, 0, 0)}, 400, false, false, 0},
		{"both family attributes", []attr{udp, familyOf(1), value(stun.AttrAdditionalFamily, 2, 0, 0, 0)}, 400, false, false, 0},
		{"an additional family and a reservation", []attr{udp, even(0x80), value(stun.AttrAdditionalFamily, 2, 0, 0, 0)}, 400, false, false, 0},
		{"a family and a token", []attr{udp, familyOf(1), value(stun.AttrReservationToken, 1, 2, 3, 4, 5, 6, 7, 8)}, 400, false, false, 0},

		{"no transport", nil, 0, false, false, DialectUnknown},
		{"transport in the last byte", []attr{value(stun.AttrRequestedTransport, 0, 0, 0, 17)}, 0, false, false, DialectUnknown},
		{"transport zero", []attr{value(stun.AttrRequestedTransport, 0, 0, 0, 0)}, 0, false, false, DialectUnknown},
		{"transport with noise in the reserved bytes", []attr{value(stun.AttrRequestedTransport, 17, 1, 2, 3)}, 0, false, false, DialectUnknown},
		{"TCP", []attr{value(stun.AttrRequestedTransport, 6, 0, 0, 0)}, 442, false, false, 0},
		{"TCP until draft-05", []attr{value(stun.AttrRequestedTransport, 0, 0, 0, 1)}, 442, false, false, 0},
		{"transport of one byte", []attr{value(stun.AttrRequestedTransport, 17)}, 400, false, false, 0},

		{"LIFETIME of two bytes", []attr{udp, value(stun.AttrLifetime, 2, 88)}, 400, false, false, 0},
		{"an unknown token", []attr{udp, value(stun.AttrReservationToken, 1, 2, 3, 4, 5, 6, 7, 8)}, 508, false, false, 0},
		{"a token of four bytes", []attr{udp, value(stun.AttrReservationToken, 1, 2, 3, 4)}, 400, false, false, 0},
		{"a token and E", []attr{udp, props(0x80), value(stun.AttrReservationToken, 1, 2, 3, 4, 5, 6, 7, 8)}, 400, false, false, 0},
		{"a token and EVEN-PORT", []attr{udp, even(0), value(stun.AttrReservationToken, 1, 2, 3, 4, 5, 6, 7, 8)}, 400, false, false, 0},
		{"a token and properties that ask for nothing", []attr{udp, props(0), value(stun.AttrReservationToken, 1, 2, 3, 4, 5, 6, 7, 8)}, 508, false, false, 0},

		{"credentials that nobody wants", []attr{udp, value(stun.AttrUsername, 'x'), value(stun.AttrRealm, 'y'), value(stun.AttrNonce, 'z'),
			value(stun.AttrMessageIntegrity, make([]byte, 20)...)}, 0, false, false, DialectUnknown},
		{"an attribute that must be understood", []attr{udp, value(0x7777)}, 420, false, false, 0},
		{"an attribute that need not be", []attr{udp, value(0x8777, 1, 2, 3)}, 0, false, false, DialectUnknown},
		{"SERVER", []attr{udp, value(stun.AttrSoftware, 'F', 'l', 'a', 's', 'h')}, 0, false, false, DialectUnknown},
		{"a known attribute that means nothing here", []attr{udp, peerOf("192.0.2.1:1"), dataOf("x"), channelOf(1)}, 0, false, false, DialectUnknown},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for k := range 8 { // ports are taken at random
				s := newServer(t, setup{})
				s.client("198.51.100.9:9").allocate() // does not stand in the way
				s.after(1)
				c := s.client(fmt.Sprintf("198.51.100.1:%d", 7000+k))
				code := c.request(stun.Allocate, tt.attrs...)
				same(t, "code", code, tt.code)
				if code != 0 {
					same(t, "error counted", s.stats().Errors[code], 1)
					same(t, "allocations", s.stats().Allocations, 1)
					return
				}
				same(t, "dialect", c.dialect(), tt.dialect)
				same(t, "token", len(c.token), map[bool]int{true: 8}[tt.reserve])
				if tt.even && c.relayed.Port()&1 != 0 {
					t.Errorf("port %d is odd", c.relayed.Port())
				}
			}
		})
	}
}

func TestTheFirstDecidingPacketSetsTheDialect(t *testing.T) {
	const peer = "203.0.113.5:5000"
	legacy := map[string]func(c *client){
		"Send without a permission":           func(c *client) { c.sendTo(peer, "x") },
		"Send without data":                   func(c *client) { c.give(c.message(stun.Send, stun.Indication, peerOf(peer))) },
		"Send without data, with permission":  func(c *client) { c.bind(0x4000, peer); c.give(c.message(stun.Send, stun.Indication, peerOf(peer))) },
		"a channel above 0x7FFF":              func(c *client) { c.bind(0x8000, peer) },
		"the last channel":                    func(c *client) { c.bind(0xFFFE, peer) },
		"legacy, then CreatePermission later": func(c *client) { c.sendTo(peer, "x"); c.request(stun.CreatePermission, peerOf(peer)) },
	}
	modern := map[string]func(c *client){
		"CreatePermission":              func(c *client) { c.request(stun.CreatePermission, peerOf(peer)) },
		"CreatePermission, then Send":   func(c *client) { c.request(stun.CreatePermission, peerOf(peer)); c.sendTo(peer, "x") },
		"CreatePermission, then 0x8000": func(c *client) { c.request(stun.CreatePermission, peerOf(peer)); c.bind(0x8000, peer) },
	}
	neither := map[string]func(c *client){
		"a channel that both have":       func(c *client) { c.bind(0x4000, peer); c.bind(0x7FFF, "203.0.113.6:5000") },
		"Send with a permission":         func(c *client) { c.bind(0x4000, peer); c.sendTo(peer, "x") },
		"Refresh":                        func(c *client) { c.request(stun.Refresh) },
		"a Send that is refused":         func(c *client) { c.sendTo("224.0.0.1:5000", "x") },
		"ChannelData without a channel":  func(c *client) { c.channel(0x4000, "x") },
		"an address of the wrong family": func(c *client) { c.sendTo("[2001:db8::1]:5", "x") },
	}
	for want, tests := range map[Dialect]map[string]func(*client){DialectLegacy: legacy, DialectModern: modern, DialectUnknown: neither} {
		for name, do := range tests {
			c := newServer(t, setup{}).client("198.51.100.1:7000").allocate()
			do(c)
			same(t, name, c.dialect(), want)
		}
	}
}

func TestTheDialectsDifferWhereTheyShould(t *testing.T) {
	const peer = "203.0.113.5:5000"
	s := newServer(t, setup{})
	modern := s.client("198.51.100.2:7000").allocate(familyOf(1))
	same(t, "modern: Send without a permission", toPeer(s.expect(DropNoPermission, func() []Output { return modern.sendTo(peer, "x") })), "")
	same(t, "modern: Send without data", toPeer(s.expect(DropAttributes, func() []Output {
		return modern.give(modern.message(stun.Send, stun.Indication, peerOf(peer)))
	})), "")
	same(t, "modern: a channel above 0x7FFF", modern.bind(0x8000, peer), 400)
	same(t, "modern: several addresses", modern.request(stun.CreatePermission, peerOf(peer), peerOf("203.0.113.6:0"), peerOf("203.0.113.5:1")), 0)
	same(t, "modern: Send", toPeer(s.expect(RelayedSend, func() []Output { return modern.sendTo(peer, "x") })), "2->"+peer+" x")
	same(t, "modern: the second address", modern.hears("203.0.113.6:9"), "data")
	same(t, "modern: two permissions", s.stats().Permissions, 2)
	same(t, "modern: a refused peer", modern.request(stun.CreatePermission, peerOf("203.0.113.9:1"), peerOf("224.0.0.1:1")), 403)
	same(t, "modern: none of them is opened", modern.hears("203.0.113.9:1"), "")
	same(t, "modern: a refused channel", modern.bind(0x4001, "224.0.0.1:9"), 403)
	same(t, "modern: the wrong family", modern.request(stun.CreatePermission, peerOf("[2001:db8::1]:5")), 443)
	same(t, "modern: the wrong family for a channel", modern.bind(0x4001, "[2001:db8::1]:5"), 443)

	legacy := s.client("198.51.100.1:7000").allocate(props(0))
	same(t, "legacy: a refused channel", legacy.bind(0x4000, "224.0.0.1:9"), 400)
	same(t, "legacy: the wrong family for a channel", legacy.bind(0x4000, "[2001:db8::1]:5"), 400)
	same(t, "legacy: Send", toPeer(s.expect(RelayedSend, func() []Output { return legacy.sendTo(peer, "x") })), "2->"+peer+" x")
}

func TestAnUnpaddedLastAttributeIsAccepted(t *testing.T) {
	c := newServer(t, setup{}).client("198.51.100.1:7000").allocate()
	b := c.message(stun.Send, stun.Indication, peerOf("203.0.113.5:5000"), dataOf("hello"))
	b = b[:len(b)-3]
	b[3] -= 3
	same(t, "Send", toPeer(c.give(b)), "2->203.0.113.5:5000 hello")
}

func TestMessagesThatAreDropped(t *testing.T) {
	const peer = "203.0.113.5:5000"
	s := newServer(t, setup{})
	c := s.client("198.51.100.1:7000").allocate()
	c.bind(0x4000, peer)
	stranger := s.client("198.51.100.1:7001")
	send := func(attrs ...attr) []byte { return c.message(stun.Send, stun.Indication, attrs...) }
	badPrint := c.message(stun.Refresh, stun.Request, value(stun.AttrFingerprint, 1, 2, 3, 4))
	badSend := send(peerOf(peer), dataOf("x"), value(stun.AttrFingerprint, 1, 2, 3, 4))
	cookie := c.message(stun.Allocate, stun.Request)
	cookie[4]++
	tests := []struct {
		name string
		by   *client
		b    []byte
		end  Disposition
	}{
		{"nothing", c, nil, DropMalformed},
		{"one byte", c, []byte{0}, DropMalformed},
		{"a bad cookie", c, cookie, DropMalformed},
		{"a wrong length", c, c.message(stun.Refresh, stun.Request)[:19], DropMalformed},
		{"a wrong FINGERPRINT", c, badPrint, DropFingerprint},
		{"a wrong FINGERPRINT in a Send", c, badSend, DropFingerprint},
		{"a method that is none", c, c.message(0x00A, stun.Request), DropMethod},
		{"a method of draft-04", c, c.message(0x005, stun.Request), DropMethod},
		{"Allocate as an indication", c, c.message(stun.Allocate, stun.Indication), DropMethod},
		{"an answer", c, c.message(stun.Allocate, stun.Success), DropMethod},
		{"Data from a client", c, c.message(stun.Data, stun.Indication), DropMethod},
		{"Send as a request", c, c.message(stun.Send, stun.Request), DropMethod},
		{"Send without an address", c, send(dataOf("x")), DropAttributes},
		{"Send to a malformed address", c, send(value(stun.AttrXORPeerAddress, 0, 1, 2), dataOf("x")), DropAttributes},
		{"Send to a plain IPv6 address of no family", c, send(value(stun.AttrXORPeerAddress, 0, 3, 2, 2, 1, 1, 1, 1), dataOf("x")), DropAttributes},
		{"Send with an unknown attribute", c, send(peerOf(peer), dataOf("x"), value(0x7777)), DropAttributes},
		{"Send with draft-09's ICMP", c, send(peerOf(peer), dataOf("x"), value(stun.AttrICMPDraft09, 3, 4, 0, 0)), DropAttributes},
		{"Send with DONT-FRAGMENT", c, send(peerOf(peer), dataOf("x"), value(stun.AttrDontFragment)), DropAttributes},
		{"Send to port 0", c, send(peerOf("203.0.113.5:0"), dataOf("x")), DropAttributes},
		{"Send to another family", c, send(peerOf("[2001:db8::1]:5000"), dataOf("x")), DropPeerFamily},
		{"Send to a refused address", c, send(peerOf("224.0.0.1:5000"), dataOf("x")), DropPeer},
		{"Send to a refused port", c, send(peerOf("203.0.113.6:53"), dataOf("x")), DropPeerPort},
		{"a permission for a refused address", c, send(peerOf("255.255.255.255:5000")), DropPeer},
		{"Send without an allocation", stranger, stranger.message(stun.Send, stun.Indication, peerOf(peer), dataOf("x")), DropNoAllocation},
		{"ChannelData without an allocation", stranger, channelData(0x4000, "x"), DropNoAllocation},
		{"ChannelData of a channel that is not bound", c, channelData(0x4001, "x"), DropChannel},
		{"ChannelData of 0xFFFF", c, channelData(0xFFFF, "x"), DropMalformed},
		{"ChannelData that is too short", c, channelData(0x4000, "xyz")[:6], DropMalformed},
		{"half a ChannelData header", c, []byte{0x40, 0, 0}, DropMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if out := s.expect(tt.end, func() []Output { return tt.by.give(tt.b) }); len(out) != 0 {
				t.Errorf("%+v", out)
			}
		})
	}
	out := s.expect(Keepalive, func() []Output { return c.give(c.message(stun.Binding, stun.Indication)) })
	same(t, "answers to a keepalive", len(out), 0)
	out = s.expect(AnsweredBinding, func() []Output { return stranger.give(stranger.message(stun.Binding, stun.Request)) })
	m, err := stun.Parse(out[0].Data)
	mapped, _ := m.GetXORAddress(stun.AttrXORMappedAddress)
	if err != nil || mapped != stranger.src.Client {
		t.Errorf("Binding: %v %v", mapped, err)
	}
	s.expect(DropPeerStranger, func() []Output { return s.peer(c.relayed, "203.0.113.77:5000", nil) })
	s.expect(DropPeerClosed, func() []Output { return s.peer(endpointOf("192.0.2.15:1"), peer, nil) })
	same(t, "permissions", s.stats().Permissions, 1)
}

func TestModernWithoutCredentialsIsRefused(t *testing.T) {
	const peer = "203.0.113.5:5000"
	for name, attr := range map[string]attr{
		"0x0017": familyOf(1), "0x001A": value(stun.AttrDontFragment), "0x8000": value(stun.AttrAdditionalFamily, 2, 0, 0, 0),
	} {
		s := newServer(t, setup{rules: func(r *Rules) { r.ModernWithoutCredentials = false }})
		c := s.client("198.51.100.1:7000")
		same(t, name+" in Allocate", c.request(stun.Allocate, udp, attr), 403)
		same(t, "allocations", s.stats().Allocations, 0)
		c.allocate().sendTo(peer, "x")
		same(t, name+" in Refresh", c.request(stun.Refresh, attr), 403)
		same(t, "allocations", s.stats().Allocations, 0)
		c.allocate().sendTo(peer, "x")
		c.expect(DropAttributes, func() []Output { return c.give(c.message(stun.Send, stun.Indication, peerOf(peer), dataOf("x"), attr)) })
		same(t, "allocations", s.stats().Allocations, 0)
		same(t, name+" counted", s.stats().ModernRefused, 3)
		same(t, name+" ended", fmt.Sprint(s.ended()), "[modern-dialect modern-dialect]")
	}
	s := newServer(t, setup{rules: func(r *Rules) { r.ModernWithoutCredentials = false }})
	c := s.client("198.51.100.1:7000").allocate()
	same(t, "CreatePermission", c.request(stun.CreatePermission, peerOf(peer)), 403)
	same(t, "allocations", s.stats().Allocations, 0)
	same(t, "counted", s.stats().ModernRefused, 1)
	same(t, "then", c.request(stun.Refresh), 437)
}
