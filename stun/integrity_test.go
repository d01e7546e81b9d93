package stun_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"testing"

	"github.com/stilenet/stile/stun"
)

func TestIntegrityAndFingerprintOfRFC5769(t *testing.T) {
	for _, v := range rfc5769 {
		key, fingerprint := rfc5769ShortTerm, stun.FingerprintValid
		if v.name == "rfc5769-2.4-long-term" {
			key, fingerprint = rfc5769LongTerm, stun.FingerprintAbsent
		}
		b := unhex(v.hex)
		m, mac := mustParse(t, b), stun.NewMac(key)
		if !mac.Check(m) || !mac.Check(m) { // a Mac is used again and again
			t.Errorf("%s: MESSAGE-INTEGRITY is not accepted", v.name)
		}
		if got := m.CheckFingerprint(); got != fingerprint {
			t.Errorf("%s: FINGERPRINT is %v, want %v", v.name, got, fingerprint)
		}
		if stun.NewMac([]byte("another")).Check(m) {
			t.Errorf("%s: another key is accepted", v.name)
		}
	}
}

// Of RFC 5769 only §2.4 is padded with zeros, as the Builder pads.
func TestIntegrityIsWrittenAsInRFC5769(t *testing.T) {
	want := unhex(rfc5769[3].hex)
	b := stun.Begin(nil, rfc5769[3].typ, stun.TransactionID(want[8:20]))
	for _, a := range rfc5769[3].at[:3] {
		b.Attr(a.typ, unhex(a.value))
	}
	b.Integrity(stun.NewMac(rfc5769LongTerm))
	if !bytes.Equal(b.Bytes(), want) {
		t.Errorf("\n%x, want\n%x", b.Bytes(), want)
	}
}

func TestEveryFlippedBitIsNoticed(t *testing.T) {
	whole := unhex(rfc5769[0].hex)
	mac := stun.NewMac(rfc5769ShortTerm)
	end := len(whole) - 8 // of MESSAGE-INTEGRITY
	for i := range 8 * len(whole) {
		b := bytes.Clone(whole)
		b[i/8] ^= 0x80 >> (i % 8)
		m, err := stun.Parse(b)
		if err != nil {
			continue
		}
		if m.CheckFingerprint() == stun.FingerprintValid {
			t.Errorf("bit %d: FINGERPRINT is valid", i)
		}
		if i/8 < end && mac.Check(m) {
			t.Errorf("bit %d: MESSAGE-INTEGRITY is accepted", i)
		}
	}
}

func TestIntegrityDoesNotCoverWhatFollowsIt(t *testing.T) {
	b := stun.Begin(nil, 0x0001, stun.TransactionID{})
	b.String(stun.AttrUsername, "user")
	mac := stun.NewMac([]byte("key"))
	b.Integrity(mac)
	b.String(stun.AttrRealm, "added on the way")
	m := mustParse(t, b.Bytes())
	if !mac.Check(m) || m.Has(stun.AttrRealm) {
		t.Errorf("Check %v, and REALM is seen: %v", mac.Check(m), m.Has(stun.AttrRealm))
	}
}

func TestIntegrityOfAnotherLengthIsRefused(t *testing.T) {
	mac := stun.NewMac(nil)
	for _, body := range []string{"", "00080000", "00080013 00000000000000000000000000000000000000", "00080018 000000000000000000000000000000000000000000000000"} {
		if mac.Check(mustParse(t, message(body))) {
			t.Errorf("%q is accepted", body)
		}
	}
}

func TestFingerprintIsLastOrInvalid(t *testing.T) {
	build := func(f func(b *stun.Builder)) stun.Message {
		b := stun.Begin(nil, 0x0001, stun.TransactionID{7})
		f(&b)
		return mustParse(t, b.Bytes())
	}
	notLast := message("80280004 00000000 80000000")
	binary.BigEndian.PutUint32(notLast[24:], crc32.ChecksumIEEE(notLast[:20])^0x5354554e)
	for name, c := range map[string]struct {
		m    stun.Message
		want stun.Fingerprint
	}{
		"absent":                              {build(func(b *stun.Builder) { b.Uint32(stun.AttrLifetime, 1) }), stun.FingerprintAbsent},
		"alone":                               {build(func(b *stun.Builder) { b.Fingerprint() }), stun.FingerprintValid},
		"last":                                {build(func(b *stun.Builder) { b.Uint32(stun.AttrLifetime, 1); b.Fingerprint() }), stun.FingerprintValid},
		"not last":                            {build(func(b *stun.Builder) { b.Fingerprint(); b.Uint32(stun.AttrLifetime, 1) }), stun.FingerprintInvalid},
		"not last, with the CRC of its place": {mustParse(t, notLast), stun.FingerprintInvalid},
		"twice":                               {build(func(b *stun.Builder) { b.Fingerprint(); b.Fingerprint() }), stun.FingerprintInvalid},
		"wrong":                               {build(func(b *stun.Builder) { b.Uint32(stun.AttrFingerprint, 1) }), stun.FingerprintInvalid},
		"of no bytes":                         {build(func(b *stun.Builder) { b.Attr(stun.AttrFingerprint, nil) }), stun.FingerprintInvalid},
		"of five bytes":                       {build(func(b *stun.Builder) { b.Attr(stun.AttrFingerprint, make([]byte, 5)) }), stun.FingerprintInvalid},
	} {
		if got := c.m.CheckFingerprint(); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
