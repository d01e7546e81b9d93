package turn

import (
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // as the REST credentials are defined
	"encoding/base64"
	"fmt"
	"testing"
	"time"

	"github.com/stilenet/stile/stun"
)

const (
	testRealm    = "proxy.example.org" // one byte too long for an answer to a bare request
	shortRealm   = "example.org"
	longestRealm = "sixteen.example."
)

func authSetup() setup {
	return setup{auth: []bool{true}, rules: func(r *Rules) {
		r.ModernWithoutCredentials = false
		r.Auth = Auth{Realm: shortRealm, Users: []User{{"anna", "pass"}, {"bert", "word"}}, Secret: "north", NonceKey: [32]byte{9}}
	}}
}

// login sets the credentials to use from now on, with the realm and nonce of the last challenge.
func (c *client) login(user, password string) *client {
	c.user, c.mac = user, stun.NewMac(stun.LongTermKey(user, c.realm, password))
	return c
}

// challenged gets a challenge.
func (c *client) challenged() *client {
	c.t.Helper()
	c.mac = nil
	if code := c.request(stun.Allocate, udp); code != 401 || c.realm == "" || len(c.nonce) != nonceSize {
		c.t.Fatalf("no challenge: %d %q %q", code, c.realm, c.nonce)
	}
	return c
}

func restPassword(secret, user string) string {
	mac := hmac.New(sha1.New, []byte(secret))
	mac.Write([]byte(user))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

func TestCredentialsOpenAModernAllocation(t *testing.T) {
	const peer = "203.0.113.5:5000"
	s := newServer(t, authSetup())
	c := s.client("198.51.100.1:7000").challenged().login("anna", "pass")
	code, answer := c.ask(c.message(stun.Allocate, stun.Request, udp))
	same(t, "Allocate", code, 0)
	same(t, "the answer is protected", c.mac.Check(answer), true)
	same(t, "dialect", c.dialect(), DialectModern)
	session, _ := c.session()
	same(t, "user", session.User, "anna")
	same(t, "confirmed at once", session.Confirmed, true)
	same(t, "Send without a permission", toPeer(c.sendTo(peer, "x")), "")
	same(t, "CreatePermission", c.request(stun.CreatePermission, peerOf(peer)), 0)
	same(t, "Send", toPeer(c.sendTo(peer, "x")), "2->"+peer+" x")
	code, answer = c.ask(c.message(stun.CreatePermission, stun.Request))
	same(t, "an error", code, 400)
	same(t, "an error is protected", c.mac.Check(answer), true)
	same(t, "an unknown attribute", c.request(stun.Refresh, value(stun.AttrDontFragment)), 420)
	same(t, "Refresh", c.request(stun.Refresh), 0)
	same(t, "Allocate again", c.request(stun.Allocate, udp), 437)
	same(t, "release", c.request(stun.Refresh, lifetimeOf(0)), 0)
	same(t, "allocations", s.stats().Allocations, 0)
}

func TestLegacyPropertiesKeepTheirDialectWithCredentials(t *testing.T) {
	c := newServer(t, authSetup()).client("198.51.100.1:7000").challenged().login("anna", "pass").allocate(props(0))
	same(t, "dialect", c.dialect(), DialectLegacy)
	same(t, "Send", toPeer(c.sendTo("203.0.113.5:5000", "x")), "2->203.0.113.5:5000 x")
}

func TestWrongCredentialsAreChallenged(t *testing.T) {
	s := newServer(t, authSetup())
	c := s.client("198.51.100.1:7000").challenged()
	for name, login := range map[string]func(){
		"a wrong password":    func() { c.login("anna", "word") },
		"an unknown user":     func() { c.login("carl", "pass") },
		"another realm":       func() { c.realm = "elsewhere"; c.login("anna", "pass") },
		"no number":           func() { c.login("x:y", restPassword("north", "x:y")) },
		"a time that is over": func() { u := fmt.Sprint(s.now.Unix()) + ":x"; c.login(u, restPassword("north", u)) },
		"a wrong secret":      func() { u := fmt.Sprint(s.now.Unix()+60) + ":x"; c.login(u, restPassword("south", u)) },
		"an overlong name":    func() { u := fmt.Sprintf("%d:%0512d", s.now.Unix()+60, 1); c.login(u, restPassword("north", u)) },
	} {
		c.challenged()
		login()
		code, answer := c.ask(c.message(stun.Allocate, stun.Request, udp))
		same(t, name, code, 401)
		same(t, name+": nonce", answer.Has(stun.AttrNonce), true)
		same(t, name+": protected", answer.Has(stun.AttrMessageIntegrity), false)
	}
	same(t, "allocations", s.stats().Allocations, 0)
}

func TestIncompleteCredentialsAreABadRequest(t *testing.T) {
	c := newServer(t, authSetup()).client("198.51.100.1:7000").challenged()
	mac := stun.NewMac(stun.LongTermKey("anna", c.realm, "pass"))
	all := map[stun.AttrType]string{stun.AttrUsername: "anna", stun.AttrRealm: c.realm, stun.AttrNonce: c.nonce}
	for without := range all {
		same(t, fmt.Sprintf("without %#x", without), c.request(stun.Allocate, udp, func(b *stun.Builder) {
			for typ, v := range all {
				if typ != without {
					b.String(typ, v)
				}
			}
			b.Integrity(mac)
		}), 400)
	}
	same(t, "credentials behind the integrity do not count", c.request(stun.Allocate, udp, func(b *stun.Builder) {
		b.Integrity(mac)
		for typ, v := range all {
			b.String(typ, v)
		}
	}), 400)
}

func TestNonceIsBoundToAddressAndTime(t *testing.T) {
	s := newServer(t, authSetup())
	c := s.client("198.51.100.1:7000").challenged().login("anna", "pass")
	nonce := c.nonce
	for _, other := range []string{"198.51.100.1:7001", "198.51.100.2:7000"} {
		o := s.client(other)
		o.realm, o.nonce = c.realm, nonce
		same(t, other, o.login("anna", "pass").request(stun.Allocate, udp), 438)
		same(t, other+" with the new one", o.request(stun.Allocate, udp), 0)
	}
	s.after(nonceLifetime - 1)
	c.nonce = nonce
	same(t, "a nanosecond before the end", c.request(stun.Allocate, udp), 0)
	s.after(1)
	c.nonce = nonce
	same(t, "at the end", c.request(stun.Refresh), 438)
	same(t, "with the new one", c.request(stun.Refresh), 0)
	for name, bad := range map[string]string{
		"empty": "", "short": nonce[1:], "long": nonce + "A", "not base64": "****************", "of another key": "AAAAAAAAAAAAAAAA", "with a line end": nonce[:15] + "\n",
	} {
		c.nonce = bad
		same(t, name, c.request(stun.Allocate, udp), 438)
	}
	future := newServer(t, authSetup())
	future.after(time.Hour)
	f := future.client("198.51.100.1:7000").challenged()
	c.nonce = f.nonce
	s.now = testEpoch
	same(t, "from the future", c.request(stun.Allocate, udp), 438)
}

func TestSomebodyElsesAllocationIsRefused(t *testing.T) {
	s := newServer(t, authSetup())
	c := s.client("198.51.100.1:7000").challenged().login("anna", "pass").allocate()
	c.login("bert", "word")
	same(t, "Refresh", c.request(stun.Refresh, lifetimeOf(0)), 441)
	same(t, "ChannelBind", c.bind(0x4000, "203.0.113.5:5000"), 441)
	same(t, "CreatePermission", c.request(stun.CreatePermission, peerOf("203.0.113.5:5000")), 441)
	same(t, "Allocate", c.request(stun.Allocate, udp), 437)
	c.tx = 1 // the transaction ID of the first Allocate with credentials
	same(t, "an Allocate that looks like a retransmission", c.request(stun.Allocate, udp), 437)
	same(t, "allocations", s.stats().Allocations, 1)
}

func TestRetransmissionWithCredentialsGetsTheSameSuccess(t *testing.T) {
	s := newServer(t, authSetup())
	c := s.client("198.51.100.1:7000").challenged().login("anna", "pass")
	b := c.message(stun.Allocate, stun.Request, udp)
	_, first := c.ask(b)
	a1 := string(first.Raw())
	_, again := c.ask(b)
	same(t, "Allocate again", string(again.Raw()), a1)
	b = c.message(stun.Refresh, stun.Request, lifetimeOf(0))
	code, first := c.ask(b)
	same(t, "release", code, 0)
	a1 = string(first.Raw())
	_, again = c.ask(b)
	same(t, "release again", string(again.Raw()), a1)
}

func TestTimeLimitedCredentialsEnd(t *testing.T) {
	s := newServer(t, authSetup())
	user := fmt.Sprint(s.now.Unix()+300) + ":anna"
	c := s.client("198.51.100.1:7000").challenged().login(user, restPassword("north", user)).allocate()
	s.after(300*time.Second - 1)
	same(t, "a nanosecond before the end", c.request(stun.Refresh), 0)
	s.after(1)
	same(t, "at the end", c.request(stun.Refresh), 401)
	same(t, "the allocation lives on", s.stats().Allocations, 1)
	bare := s.client("198.51.100.1:7001").challenged()
	user = fmt.Sprint(s.now.Unix() + 1)
	same(t, "a name of a time only", bare.login(user, restPassword("north", user)).request(stun.Allocate, udp), 0)
}

func TestAListenerWithoutCredentialsStaysOpenBesideOne(t *testing.T) {
	s := newServer(t, authSetup())
	open := s.client("198.51.100.1:7000")
	open.src.Listener = 1 // beyond the list
	open.src.Server = endpointOf("192.0.2.10:3479")
	same(t, "open", open.request(stun.Allocate, udp), 0)
	s.client("198.51.100.1:7000").challenged()
	same(t, "Binding needs none", len(s.client("198.51.100.1:7001").give(open.message(stun.Binding, stun.Request))), 1)
}

func TestALongRealmGetsNoAnswerRatherThanALongOne(t *testing.T) {
	cfg := authSetup()
	rules := cfg.rules
	for realm, answered := range map[string]bool{longestRealm: true, testRealm: false} {
		cfg.rules = func(r *Rules) { rules(r); r.Auth.Realm = realm }
		s := newServer(t, cfg)
		c := s.client("198.51.100.1:7000")
		same(t, realm, c.request(stun.Allocate) == 401, answered)
		if !answered {
			same(t, "counted", s.did(DropReplySize), 1)
		}
	}
	same(t, "the longest", len(longestRealm), MaxRealm)
}
