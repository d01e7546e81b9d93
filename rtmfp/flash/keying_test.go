package flash

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"math/big"
	"os"
	"testing"
	"time"

	"github.com/stilenet/stile/rtmfp"
)

// keyingVectors were computed by other means than this package; the file says by which.
type keyingVectors struct {
	Provenance            string
	Startup, StartupPlain string
	Sessions              []struct {
		Name                               string
		Group                              Group
		InitiatorPrivate, ResponderPrivate string
		InitiatorCertificate, PeerID       string
		SKIC, SKRC, Secret                 string
		InitiatorNonce, ResponderNonce     string
		Plain, Sealed, BackPlain, Back     []string
	}
}

func readKeyingVectors(t testing.TB) (v keyingVectors) {
	t.Helper()
	b, err := os.ReadFile("testdata/keying.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func privateKeyOf(t testing.TB, g Group, hex string) *privateKey {
	t.Helper()
	group := groupByID(g)
	x, ok := new(big.Int).SetString(hex, 16)
	if !ok {
		t.Fatal(hex)
	}
	y := new(big.Int).Exp(generator, x, group.p)
	return &privateKey{group: group, x: x, y: y, public: y.Bytes()}
}

func TestKeyingVectors(t *testing.T) {
	v := readKeyingVectors(t)
	for _, s := range v.Sessions {
		t.Run(s.Name, func(t *testing.T) {
			cert := unhex(t, s.InitiatorCertificate)
			if got := FingerprintOf(cert).String(); got != s.PeerID {
				t.Errorf("peer ID %s, want %s", got, s.PeerID)
			}
			c, err := ParseCertificate(cert)
			if err != nil {
				t.Fatal(err)
			}
			skic, skrc := unhex(t, s.SKIC), unhex(t, s.SKRC)
			i, err := parseComponent(skic)
			if err != nil {
				t.Fatal(err)
			}
			r, err := parseComponent(skrc)
			if err != nil {
				t.Fatal(err)
			}
			if got := appendInitiatorComponent(nil, i); !bytes.Equal(got, skic) {
				t.Errorf("initiator's component %x, want %x", got, skic)
			}
			if got := appendResponderComponent(nil, r); !bytes.Equal(got, skrc) {
				t.Errorf("responder's component %x, want %x", got, skrc)
			}
			secret, err := privateKeyOf(t, s.Group, s.InitiatorPrivate).shared(r.ephemeral.Key)
			if err != nil || !bytes.Equal(secret, unhex(t, s.Secret)) {
				t.Fatalf("initiator's secret %x, %v", secret, err)
			}
			secret, err = privateKeyOf(t, s.Group, s.ResponderPrivate).shared(c.staticKey(i.selected))
			if err != nil || !bytes.Equal(secret, unhex(t, s.Secret)) {
				t.Fatalf("responder's secret %x, %v", secret, err)
			}
			near, far := newKeys(secret, skic, skrc, i, r), newKeys(secret, skrc, skic, r, i)
			if !bytes.Equal(near.NearNonce(), unhex(t, s.InitiatorNonce)) || !bytes.Equal(near.FarNonce(), unhex(t, s.ResponderNonce)) ||
				!bytes.Equal(far.NearNonce(), near.FarNonce()) || !bytes.Equal(far.FarNonce(), near.NearNonce()) {
				t.Errorf("nonces %x %x", near.NearNonce(), near.FarNonce())
			}
			for n := range s.Plain {
				checkSealed(t, near, far, unhex(t, s.Plain[n]), unhex(t, s.Sealed[n]))
				checkSealed(t, far, near, unhex(t, s.BackPlain[n]), unhex(t, s.Back[n]))
			}
		})
	}
	checkSealed(t, newDefaultCipher(), newDefaultCipher(), unhex(t, v.StartupPlain), unhex(t, v.Startup))
}

func checkSealed(t *testing.T, from, to *keys, plain, sealed []byte) {
	t.Helper()
	got := from.Seal([]byte("dst"), bytes.Clone(plain))
	if !bytes.Equal(got, append([]byte("dst"), sealed...)) {
		t.Errorf("sealed %x, want %x", got[3:], sealed)
	}
	opened, err := to.Open(bytes.Clone(sealed))
	if err != nil || !bytes.Equal(bytes.TrimRight(opened, "\xff"), bytes.TrimRight(plain, "\xff")) {
		t.Errorf("opened %x %v, want %x", opened, err, plain)
	}
}

func newIdentity(t testing.TB, cfg IdentityConfig) *Identity {
	t.Helper()
	if cfg.Random == nil {
		cfg.Random = rand.Reader
	}
	id, err := NewIdentity(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// negotiate keys a session between two identities.
func negotiate(t testing.TB, initiator, responder *Identity) (i, r *keys, err error) {
	t.Helper()
	start, err := initiator.Initiate(responder.Certificate())
	if err != nil {
		return nil, nil, err
	}
	skrc, far, err := responder.Respond(initiator.Certificate(), start.Component())
	if err != nil {
		return nil, nil, err
	}
	near, err := start.Combine(skrc)
	if err != nil {
		return nil, nil, err
	}
	return near.(*keys), far.(*keys), nil
}

func TestEveryPairOfIdentitiesAgrees(t *testing.T) {
	kinds := map[string]IdentityConfig{
		"client":    {},
		"two keys":  {Groups: []Group{Group2, Group14}},
		"ephemeral": {Ephemeral: true},
		"server":    {Server: true},
		"host":      {Server: true, Hostname: "example.org", Groups: []Group{Group16, Group2}, Now: time.Now},
		"off":       {HMAC: VerificationOff, SequenceNumbers: VerificationOff},
		"require":   {HMAC: VerificationRequire, SequenceNumbers: VerificationRequire, Server: true},
	}
	for an, a := range kinds {
		for bn, b := range kinds {
			i, r, err := negotiate(t, newIdentity(t, a), newIdentity(t, b))
			refused := a.HMAC == VerificationOff && b.HMAC == VerificationRequire || a.HMAC == VerificationRequire && b.HMAC == VerificationOff
			if refused {
				if !errors.Is(err, ErrUnverified) {
					t.Errorf("%s to %s: %v", an, bn, err)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s to %s: %v", an, bn, err)
				continue
			}
			if want := a.HMAC != VerificationOff && b.HMAC != VerificationOff; i.Authenticated() != want || r.Authenticated() != want {
				t.Errorf("%s to %s: authenticated %v, %v", an, bn, i.Authenticated(), r.Authenticated())
			}
			for n := range 3 {
				plain := []byte("\x89 some packet" + string(rune('0'+n)))
				if got, err := r.Open(i.Seal(nil, plain)); err != nil || !bytes.HasPrefix(got, plain) {
					t.Errorf("%s to %s: %q %v", an, bn, got, err)
				}
				if got, err := i.Open(r.Seal(nil, plain)); err != nil || !bytes.HasPrefix(got, plain) {
					t.Errorf("%s back from %s: %q %v", an, bn, got, err)
				}
			}
		}
	}
}

// What the stacks of the Flash era read at fixed places (the RFC allows much more).
func TestLengthsAreThoseOfTheFlashEra(t *testing.T) {
	client, peer := newIdentity(t, IdentityConfig{}), newIdentity(t, IdentityConfig{})
	server := newIdentity(t, IdentityConfig{Server: true, Now: time.Now})
	if c := client.Certificate(); len(c) != 132 || !bytes.HasPrefix(c, []byte{0x81, 0x02, 0x1d, 0x02}) {
		t.Errorf("client's certificate: %x", c)
	}
	if c := server.Certificate(); len(c) != 77 || !bytes.HasPrefix(c, []byte{0x01, 0x0a, 0x41, 0x0e}) ||
		!bytes.HasSuffix(c, []byte{2, 0x15, 2, 2, 0x15, 5, 2, 0x15, 14}) {
		t.Errorf("server's certificate: %x", c)
	}
	for range 3 {
		i, err := client.Initiate(server.Certificate())
		if err != nil {
			t.Fatal(err)
		}
		if c := i.Component(); len(c) != 76 || !bytes.HasPrefix(c, []byte{2, 0x1d, 2, 0x41, 0x0e}) {
			t.Errorf("initiator's component: %x", c)
		}
		skrc, _, err := server.Respond(client.Certificate(), i.Component())
		if err != nil || len(skrc) != 139 || !bytes.Equal(skrc[7:11], []byte{0x81, 0x02, 0x0d, 0x02}) {
			t.Errorf("server's component: %x %v", skrc, err)
		}
		skrc, _, err = peer.Respond(client.Certificate(), i.Component())
		if err != nil || len(skrc) != 73 || !bytes.Equal(skrc[7:9], []byte{0x41, 0x0e}) {
			t.Errorf("peer's component: %x %v", skrc, err)
		}
	}
}

// An initiator that sends an HMAC on request is not asked: some only say so.
func TestResponderDoesNotAskAFlashInitiatorForAnHMAC(t *testing.T) {
	server, client := newIdentity(t, IdentityConfig{Server: true}), newIdentity(t, IdentityConfig{})
	skic := append([]byte{2, 0x1d, 2, 0x41, 0x0e}, make([]byte, 64)...)
	skic = append(skic, 3, 0x1a, flagSendOnRequest, 10, 2, 0x1e, flagSendOnRequest)
	_, k, err := server.Respond(client.Certificate(), skic)
	if err != nil {
		t.Fatal(err)
	}
	if k := k.(*keys); k.receive.mac != nil || k.send.mac != nil || k.receive.sequences || k.send.sequences {
		t.Errorf("%+v", k)
	}
	strict := newIdentity(t, IdentityConfig{Server: true, HMAC: VerificationRequire})
	_, k, err = strict.Respond(client.Certificate(), skic)
	if err != nil {
		t.Fatal(err)
	}
	if k := k.(*keys); k.receive.mac == nil || k.receive.macLength != 10 || k.send.mac != nil {
		t.Errorf("%+v", k)
	}
}

func TestStrongestCommonGroupIsChosen(t *testing.T) {
	for _, test := range []struct {
		a, b IdentityConfig
		want Group
	}{
		{IdentityConfig{}, IdentityConfig{Server: true}, Group2},
		{IdentityConfig{Ephemeral: true}, IdentityConfig{Server: true}, Group14},
		{IdentityConfig{Ephemeral: true, Groups: []Group{2, 16}}, IdentityConfig{Server: true, Groups: []Group{2, 5, 14, 16}}, Group16},
		{IdentityConfig{Ephemeral: true, Groups: []Group{5, 2}}, IdentityConfig{Groups: []Group{2, 14}}, Group2},
		{IdentityConfig{Groups: []Group{14}}, IdentityConfig{}, 0},
	} {
		i, err := newIdentity(t, test.a).Initiate(newIdentity(t, test.b).Certificate())
		switch {
		case test.want == 0:
			if !errors.Is(err, ErrGroup) {
				t.Errorf("%v", err)
			}
		case err != nil:
			t.Error(err)
		case i.(*initiation).group.id != test.want:
			t.Errorf("%v, want %v", i.(*initiation).group.id, test.want)
		}
	}
}

func TestBadComponentsAreRefused(t *testing.T) {
	static, server := newIdentity(t, IdentityConfig{}), newIdentity(t, IdentityConfig{Server: true})
	ephemeral := newIdentity(t, IdentityConfig{Ephemeral: true})
	degenerate := func(y *big.Int) []byte { return appendKey(nil, keyingEphemeral, PublicKey{Group2, y.Bytes()}) }
	p := groupByID(Group2).p
	for _, test := range []struct {
		name string
		cert []byte
		skic []byte
		want error
	}{
		{"static without a selection", static.Certificate(), nil, ErrKeying},
		{"static with an ephemeral key", static.Certificate(), append([]byte{2, 0x1d, 2}, degenerate(p)...), ErrKeying},
		{"another group than the key", static.Certificate(), []byte{2, 0x1d, 14}, ErrGroup},
		{"unknown group", static.Certificate(), []byte{3, 0x1d, 0x81, 0}, ErrGroup},
		{"two selections", static.Certificate(), []byte{2, 0x1d, 2, 2, 0x1d, 2}, ErrRepeated},
		{"truncated", static.Certificate(), []byte{3, 0x1d, 2}, rtmfp.ErrTruncated},
		{"short HMAC", static.Certificate(), []byte{2, 0x1d, 2, 3, 0x1a, 4, 3}, ErrHMACLength},
		{"long HMAC", static.Certificate(), []byte{2, 0x1d, 2, 3, 0x1a, 4, 33}, ErrHMACLength},
		{"no key", ephemeral.Certificate(), nil, ErrKeying},
		{"selection with an ephemeral key", ephemeral.Certificate(), []byte{2, 0x1d, 2}, ErrKeying},
		{"zero", ephemeral.Certificate(), degenerate(new(big.Int)), ErrUnacceptableKey},
		{"one", ephemeral.Certificate(), degenerate(big.NewInt(1)), ErrUnacceptableKey},
		{"minus one", ephemeral.Certificate(), degenerate(new(big.Int).Sub(p, big.NewInt(1))), ErrUnacceptableKey},
		{"the modulus", ephemeral.Certificate(), degenerate(p), ErrUnacceptableKey},
		{"too long", ephemeral.Certificate(), degenerate(new(big.Int).Lsh(p, 64)), ErrUnacceptableKey},
		{"mixed certificate", append(static.Certificate(), 2, 0x15, 2), []byte{2, 0x1d, 2}, ErrMixedKeys},
		{"empty certificate", nil, []byte{2, 0x1d, 2}, ErrKeying},
	} {
		if _, _, err := server.Respond(test.cert, test.skic); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
	i, err := static.Initiate(server.Certificate())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Combine(nil); !errors.Is(err, ErrKeying) {
		t.Error(err)
	}
	if _, err := i.Combine(appendKey(nil, keyingEphemeral, PublicKey{Group14, make([]byte, 256)})); !errors.Is(err, ErrGroup) {
		t.Error(err)
	}
}

// TestReusedKeysDifferForEachSession holds the argument for responders' components without a salt: no two are equal.
func TestReusedKeysDifferForEachSession(t *testing.T) {
	now := time.Unix(1e9, 0)
	server := newIdentity(t, IdentityConfig{Server: true, Now: func() time.Time { return now }})
	g := groupByID(Group2)
	first, _ := server.ephemeralKey(g)
	seen := map[string]bool{string(first.public): true}
	for n := range 1000 {
		k, err := server.ephemeralKey(g)
		if err != nil || seen[string(k.public)] {
			t.Fatalf("key %d: %v, repeated %v", n, err, seen[string(k.public)])
		}
		seen[string(k.public)] = true
		if n%100 == 0 && new(big.Int).Exp(generator, k.x, g.p).Cmp(k.y) != 0 {
			t.Fatalf("key %d is no pair", n)
		}
	}
	last := server.ephemeral[Group2]
	now = now.Add(maxKeyReuse - time.Nanosecond)
	k, _ := server.ephemeralKey(g)
	if d := new(big.Int).Sub(k.x, last.x); d.BitLen() > 16 {
		t.Error("another random number before an hour")
	}
	now = now.Add(time.Nanosecond)
	k, _ = server.ephemeralKey(g)
	if d := new(big.Int).Sub(k.x, last.x); d.BitLen() <= 16 {
		t.Error("the same random number after an hour")
	}
}

func FuzzComponent(f *testing.F) {
	id, server := newIdentity(f, IdentityConfig{Ephemeral: true, Groups: []Group{2}}), newIdentity(f, IdentityConfig{Server: true, Now: time.Now})
	i, err := id.Initiate(server.Certificate())
	if err != nil {
		f.Fatal(err)
	}
	skrc, _, err := server.Respond(id.Certificate(), i.Component())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(i.Component())
	f.Add(skrc)
	f.Add([]byte{2, 0x1d, 2, 3, 0x1a, 2, 10, 2, 0x1e, 2})
	static := newIdentity(f, IdentityConfig{})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseComponent(b)
		if err == nil {
			if c.hmacLength != 0 && (c.hmacLength < minHMAC || c.hmacLength > maxHMAC) {
				t.Errorf("HMAC of %d bytes", c.hmacLength)
			}
			again, err := parseComponent(appendInitiatorComponent(nil, c))
			if err != nil || again.hmac != c.hmac || again.selected != c.selected || !bytes.Equal(again.randomness, c.randomness) {
				t.Errorf("%+v becomes %+v, %v", c, again, err)
			}
		}
		for _, cert := range [][]byte{id.Certificate(), static.Certificate()} {
			if _, k, err := server.Respond(cert, b); err == nil {
				k.Seal(nil, []byte{0x89})
			}
		}
		if k, err := i.Combine(b); err == nil {
			k.Seal(nil, []byte{0x89})
		}
	})
}
