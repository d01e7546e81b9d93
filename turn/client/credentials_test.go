package client

import (
	"errors"
	"testing"

	"github.com/stilenet/stile/stun"
)

var testMac = stun.NewMac(stun.LongTermKey("user", "realm", "key"))

func challenged(number int, realm, nonce string) func(*stun.Builder) {
	return func(b *stun.Builder) {
		code(number)(b)
		b.String(stun.AttrRealm, realm)
		b.String(stun.AttrNonce, nonce)
	}
}

func signed(fill func(*stun.Builder)) func(*stun.Builder) {
	return func(b *stun.Builder) { fill(b); b.Integrity(testMac) }
}

// authenticated is a bench whose Allocate has been challenged and is sent again; second is that request.
func authenticated(t *testing.T) (b *bench, second stun.Message) {
	t.Helper()
	b = newBench(t, params{dialect: Modern, username: "user", password: "key", evenPort: true})
	b.start(b.now, b.now)
	first := b.one()
	if first.Has(stun.AttrUsername) || first.Has(stun.AttrMessageIntegrity) {
		t.Fatalf("credentials before they are asked for: %x", first.Raw())
	}
	b.reply(first, stun.Error, challenged(401, "realm", "nonce1"))
	second = b.one()
	user, _ := second.Get(stun.AttrUsername)
	nonce, _ := second.Get(stun.AttrNonce)
	if string(user) != "user" || string(nonce) != "nonce1" || !testMac.Check(second) || second.TransactionID() == first.TransactionID() {
		t.Fatalf("sent %x", second.Raw())
	}
	if v, ok := second.Get(stun.AttrEvenPort); !ok || len(v) != 1 {
		t.Errorf("EVEN-PORT %x, %v", v, ok)
	}
	return b, second
}

func TestChallengedAllocateIsSignedAndSucceeds(t *testing.T) {
	b, second := authenticated(t)
	b.reply(second, stun.Success, signed(allocation(600)))
	if b.phase != allocated {
		t.Fatal("no allocation")
	}
	b.release(b.now)
	if m := b.one(); !testMac.Check(m) {
		t.Errorf("the release is not signed: %x", m.Raw())
	}
}

func TestUnsignedAnswersToSignedRequestsDoNotCount(t *testing.T) {
	other := stun.NewMac([]byte("another key"))
	b, second := authenticated(t)
	b.reply(second, stun.Success, allocation(600))
	b.reply(second, stun.Success, func(m *stun.Builder) { allocation(600)(m); m.Integrity(other) })
	b.reply(second, stun.Error, code(437))
	if b.phase != allocating || b.stats.Dropped[DropIntegrity] != 3 {
		t.Fatalf("phase %d, %+v", b.phase, b.stats)
	}
	for b.phase != ended {
		b.at(b.wake.Sub(epoch))
	}
	if news := b.news(); len(news) != 1 || !errors.Is(news[0].err, ErrIntegrity) {
		t.Errorf("events %+v", news)
	}
}

func TestStaleNonceIsReplaced(t *testing.T) {
	b, second := authenticated(t)
	b.reply(second, stun.Error, challenged(438, "realm", "nonce2"))
	third := b.one()
	if nonce, _ := third.Get(stun.AttrNonce); string(nonce) != "nonce2" || !testMac.Check(third) {
		t.Fatalf("sent %x", third.Raw())
	}
	b.reply(third, stun.Success, signed(allocation(600)))
	if b.phase != allocated {
		t.Error("no allocation")
	}
}

func TestRefusedCredentialsEndTheAttempt(t *testing.T) {
	for name, fill := range map[string]func(*stun.Builder){
		"401 again":                challenged(401, "realm", "nonce2"),
		"438 with the same nonce":  challenged(438, "realm", "nonce1"),
		"438 of draft-08, unsaid":  code(438),
		"441":                      signed(code(441)),
		"401 without a nonce, too": code(401),
	} {
		b, second := authenticated(t)
		b.reply(second, stun.Error, fill)
		b.quiet()
		if news := b.news(); len(news) != 1 || !errors.Is(news[0].err, ErrCredentials) {
			t.Errorf("%s: events %+v", name, news)
		}
	}
}

func TestEndlessStaleNoncesEndTheAttempt(t *testing.T) {
	b, m := authenticated(t)
	for i := range 20 {
		b.reply(m, stun.Error, challenged(438, "realm", string(rune('a'+i))))
		out := b.sent()
		if len(out) == 0 {
			break
		}
		m = out[0]
	}
	if news := b.news(); b.phase != ended || len(news) != 1 || !errors.Is(news[0].err, ErrCredentials) {
		t.Errorf("events %+v", news)
	}
}

func TestChallengeWithoutRealmOrNonceBreaksTheProtocol(t *testing.T) {
	long := string(make([]byte, maxCredential+1))
	for name, fill := range map[string]func(*stun.Builder){
		"nothing":    code(401),
		"no nonce":   func(b *stun.Builder) { code(401)(b); b.String(stun.AttrRealm, "realm") },
		"no realm":   func(b *stun.Builder) { code(401)(b); b.String(stun.AttrNonce, "nonce") },
		"long nonce": challenged(401, "realm", long),
		"long realm": challenged(401, long, "nonce"),
	} {
		b := newBench(t, params{username: "user"})
		b.start(b.now, b.now)
		b.reply(b.one(), stun.Error, fill)
		if news := b.news(); len(news) != 1 || !errors.Is(news[0].err, ErrProtocol) {
			t.Errorf("%s: events %+v", name, news)
		}
	}
}

func TestOnlyASignedAlternateServerIsBelieved(t *testing.T) {
	alternate := func(b *stun.Builder) { code(300)(b); b.Address(stun.AttrAlternateServer, bob) }
	b, second := authenticated(t)
	b.reply(second, stun.Error, signed(alternate))
	if e, ok := answered(b.news()[0].err); !ok || e.Alternate != bob {
		t.Errorf("%+v", e)
	}
	b = newBench(t, params{})
	b.start(b.now, b.now)
	b.reply(b.one(), stun.Error, alternate)
	if e, ok := answered(b.news()[0].err); !ok || e.Alternate.IsValid() {
		t.Errorf("%+v", e)
	}
}
