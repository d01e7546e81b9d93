package flash

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"testing"
)

func TestEPDSelects(t *testing.T) {
	server := newIdentity(t, IdentityConfig{Server: true, Hostname: "example.org"})
	plain := newIdentity(t, IdentityConfig{Server: true})
	client := newIdentity(t, IdentityConfig{})
	other := PeerID{1}
	id := func(i *Identity) *PeerID { p := i.PeerID(); return &p }
	for _, test := range []struct {
		name string
		epd  EPD
		id   *Identity
		want bool
	}{
		{"nothing", EPD{}, server, false},
		{"its fingerprint", EPD{Fingerprint: id(client)}, client, true},
		{"another fingerprint", EPD{Fingerprint: &other}, client, false},
		{"its fingerprint decides alone", EPD{Fingerprint: id(client), Hostname: []byte("x"), Ancillary: []byte("y")}, client, true},
		{"another fingerprint decides alone", EPD{Fingerprint: &other, Hostname: []byte("example.org")}, server, false},
		{"hostname", EPD{Hostname: []byte("example.org")}, server, true},
		{"other hostname", EPD{Hostname: []byte("example.com"), Ancillary: []byte("y")}, server, false},
		{"hostname where there is none", EPD{Hostname: []byte("example.org")}, plain, false},
		{"URI", EPD{Ancillary: []byte("rtmfp://h/k")}, server, true},
		{"hostname and URI", EPD{Hostname: []byte("example.org"), Ancillary: []byte("y")}, server, true},
		{"URI for a client", EPD{Ancillary: []byte("rtmfp://h/k")}, client, false},
		{"empty URI", EPD{Ancillary: []byte{}}, plain, true},
	} {
		epd := AppendEPD(nil, test.epd)
		if got := test.id.SelectsNear(epd); got != test.want {
			t.Errorf("%s: near %v", test.name, got)
		}
		if got := client.Selects(epd, test.id.Certificate()); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
	for n := range client.PeerID().EPD() {
		if client.SelectsNear(client.PeerID().EPD()[:n]) {
			t.Errorf("a fingerprint of %d bytes selects", n)
		}
	}
	if !bytes.Equal(client.CanonicalEPD(client.Certificate()), AppendEPD(nil, EPD{Fingerprint: id(client)})) {
		t.Error("canonical discriminator")
	}
	if _, err := ParseEPD(append(PeerID{}.EPD(), PeerID{}.EPD()...)); !errors.Is(err, ErrRepeated) {
		t.Error(err)
	}
}

func TestFingerprintCoversTheCanonicalSectionOnly(t *testing.T) {
	canonical := []byte{2, 0x15, 2, 3, 0x0e, 1, 2}
	want := PeerID(sha256.Sum256(canonical))
	for _, cert := range [][]byte{canonical, append(bytes.Clone(canonical), 0), append(bytes.Clone(canonical), 0, 2, 0x15, 14, 0, 1, 0)} {
		if got := FingerprintOf(cert); got != want {
			t.Errorf("%x: %v", cert, got)
		}
		c, err := ParseCertificate(cert)
		if err != nil || len(c.Ephemeral) != 1 || c.Ephemeral[0] != Group2 || c.Hostname != nil {
			t.Errorf("%x: %+v %v", cert, c, err)
		}
	}
	if got := FingerprintOf([]byte{0, 2, 0x15, 2}); got != sha256.Sum256(nil) {
		t.Errorf("empty canonical section: %v", got)
	}
}

func TestPeerIDText(t *testing.T) {
	id := newIdentity(t, IdentityConfig{}).PeerID()
	got, err := ParsePeerID(id.String())
	if err != nil || got != id {
		t.Errorf("%v %v", got, err)
	}
	for _, s := range []string{"", id.String()[1:], id.String() + "0", "g" + id.String()[1:]} {
		if _, err := ParsePeerID(s); !errors.Is(err, ErrPeerID) {
			t.Errorf("%q: %v", s, err)
		}
	}
	if got, ok := PeerIDOf(string(id.EPD())); !ok || got != id {
		t.Error("discriminator")
	}
	if _, ok := PeerIDOf(string(ServerEPD("rtmfp://h"))); ok {
		t.Error("a URI is a peer ID")
	}
}

func TestGlareHasOneWinner(t *testing.T) {
	a, b := newIdentity(t, IdentityConfig{}), newIdentity(t, IdentityConfig{Server: true})
	if a.NearPrevails(b.Certificate()) == b.NearPrevails(a.Certificate()) {
		t.Error("both or none prevail")
	}
	if !b.NearPrevails(a.Certificate()) { // 01 is before 81
		t.Error("the larger certificate prevails")
	}
}

func FuzzCertificate(f *testing.F) {
	for _, cfg := range []IdentityConfig{{}, {Server: true, Hostname: "h"}, {Groups: []Group{2, 5}}} {
		id := newIdentity(f, cfg)
		f.Add(id.Certificate())
		f.Add(id.PeerID().EPD())
	}
	f.Add(ServerEPD("rtmfp://host/key"))
	id := newIdentity(f, IdentityConfig{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := ParseEPD(b); err == nil {
			again, err := ParseEPD(AppendEPD(nil, e))
			if err != nil || !bytes.Equal(again.Ancillary, e.Ancillary) || !bytes.Equal(again.Hostname, e.Hostname) {
				t.Errorf("%+v becomes %+v, %v", e, again, err)
			}
		}
		id.SelectsNear(b)
		id.Selects(id.PeerID().EPD(), b)
		c, err := ParseCertificate(b)
		if err != nil {
			return
		}
		for n := range b {
			ParseCertificate(b[:n])
		}
		again, err := ParseCertificate(AppendCertificate(nil, c, nil))
		if err != nil || len(again.Static) != len(c.Static) || len(again.Ephemeral) != len(c.Ephemeral) {
			t.Errorf("%+v becomes %+v, %v", c, again, err)
		}
		if _, err := id.Initiate(b); err == nil && !c.supports(Group2) {
			t.Error("a session without a common group")
		}
	})
}
