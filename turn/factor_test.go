package turn

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/stilenet/stile/stun"
)

// requestAttrs are attributes of every kind and form that a request can have, as short as they can be.
var requestAttrs = []attr{
	udp, lifetimeOf(0), lifetimeOf(700), props(0x80), props(0xC0), even(0x80), even(0), familyOf(1), familyOf(2), channelOf(0x4000), channelOf(0x8001),
	value(stun.AttrAdditionalFamily, 2, 0, 0, 0), value(stun.AttrDontFragment), value(stun.AttrBandwidth), value(stun.AttrUsername),
	value(stun.AttrRealm), value(stun.AttrNonce), value(stun.AttrMessageIntegrity), value(stun.AttrMessageIntegrity, make([]byte, 20)...),
	value(stun.AttrRequestedTransport, 6, 0, 0, 0), value(stun.AttrRequestedTransport), value(stun.AttrReservationToken, make([]byte, 8)...),
	peerOf("203.0.113.5:5000"), peerOf("[2001:db8:9::5]:5000"), peerOf("224.0.0.1:5000"), value(stun.AttrXORPeerAddress), value(stun.AttrData),
	value(0x7001), value(0x7002), value(0x7003), value(0x7004), value(0x7005), value(0x7006), value(0x7007), value(0x7008), value(0x7009),
	(*stun.Builder).Fingerprint,
}

// TestNoAnswerIsMoreThanTwiceItsRequest says what a spoofer can get out of the server: per request, IP and UDP headers included, at
// most twice what it cost. No answer is held back for its size either, so the bound costs no client anything.
func TestNoAnswerIsMoreThanTwiceItsRequest(t *testing.T) {
	relays := []RelayAddress{{ipOf("192.0.2.15"), ipOf("192.0.2.15")}, {ipOf("2001:db8::15"), ipOf("2001:db8::15")}}
	cfg := authSetup()
	cfg.relays, cfg.auth = relays, []bool{false, true, true}
	users := cfg.rules
	cfg.rules = func(r *Rules) { users(r); r.Auth.Realm = longestRealm; r.ModernWithoutCredentials = true }
	worst := map[string]float64{}
	rapid.Check(t, func(rt *rapid.T) {
		s := newServer(t, cfg)
		four := s.client("198.51.100.1:7000")
		six := s.client("[2001:db8:1::1]:7000")
		for range rapid.IntRange(1, 12).Draw(rt, "requests") {
			c := rapid.SampledFrom([]*client{four, six}).Draw(rt, "client")
			c.src.Listener = uint16(rapid.IntRange(0, 1).Draw(rt, "listener"))
			c.src.Server = netip.AddrPortFrom(c.src.Server.Addr(), 3478+c.src.Listener)
			if rapid.Bool().Draw(rt, "credentials") {
				c.login("anna", "pass")
			} else {
				c.mac = nil
			}
			method := rapid.SampledFrom([]stun.Method{stun.Binding, stun.Allocate, stun.Refresh, stun.ChannelBind, stun.CreatePermission}).Draw(rt, "method")
			attrs := rapid.SliceOfN(rapid.SampledFrom(requestAttrs), 0, 12).Draw(rt, "attributes")
			if rapid.Bool().Draw(rt, "fingerprint") && c.mac == nil {
				attrs = append(attrs, (*stun.Builder).Fingerprint)
			}
			b := c.message(method, stun.Request, attrs...)
			for range 2 {
				out := c.give(b)
				if s.did(DropReplySize) != 0 {
					rt.Fatalf("%x is not answered for the size of the answer", b)
				}
				if len(out) == 0 {
					continue
				}
				h := wireHeaders(c.src.Client.Addr())
				factor := float64(len(out[0].Data)+h) / float64(len(b)+h)
				if len(out) != 1 || factor > 2 {
					rt.Fatalf("%x is answered %.2f times as long with %x", b, factor, out[0].Data)
				}
				key := method2name[method]
				worst[key] = max(worst[key], factor)
				if m, err := stun.Parse(out[0].Data); err == nil {
					if r, ok := m.Get(stun.AttrRealm); ok {
						n, _ := m.Get(stun.AttrNonce)
						c.realm, c.nonce = string(r), string(n)
					}
				}
			}
			s.after(1)
		}
	})
	t.Logf("the longest answers: %v", worst)
}

var method2name = map[stun.Method]string{
	stun.Binding: "Binding", stun.Allocate: "Allocate", stun.Refresh: "Refresh", stun.ChannelBind: "ChannelBind", stun.CreatePermission: "CreatePermission",
}
