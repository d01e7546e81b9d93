package flash

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"math/rand"
	"testing"

	"github.com/stilenet/stile/rtmfp"
)

// keyPair makes the keys of two ends of a session that verifies as told.
func keyPair(hmac, sequences bool) (a, b *keys) {
	flags := func(on bool) byte {
		if on {
			return flagSendAlways
		}
		return 0
	}
	c := component{hmac: flags(hmac), hmacLength: 10, sequence: flags(sequences)}
	return newKeys([]byte("secret"), []byte("i"), []byte("r"), c, c), newKeys([]byte("secret"), []byte("r"), []byte("i"), c, c)
}

func TestChangedPacketsFailVerification(t *testing.T) {
	for _, withHMAC := range []bool{false, true} {
		for _, sequences := range []bool{false, true} {
			a, b := keyPair(withHMAC, sequences)
			sealed := a.Seal(nil, []byte("\x89 a packet of more than one block"))
			for n := range sealed {
				if _, err := b.Open(bytes.Clone(sealed[:n])); !errors.Is(err, rtmfp.ErrIntegrity) && (withHMAC || n%blockSize != 0 || n == 0) {
					t.Errorf("HMAC %v: cut at %d: %v", withHMAC, n, err)
				}
			}
			for n := range sealed {
				changed := bytes.Clone(sealed)
				changed[n] ^= 0x40
				if _, err := b.Open(changed); err == nil {
					t.Errorf("HMAC %v, sequence numbers %v: changed at %d", withHMAC, sequences, n)
				}
			}
			if _, err := b.Open(bytes.Clone(sealed)); err != nil {
				t.Errorf("HMAC %v, sequence numbers %v: forgeries disturb: %v", withHMAC, sequences, err)
			}
			if _, err := b.Open(bytes.Clone(sealed)); sequences != errors.Is(err, rtmfp.ErrReplay) {
				t.Errorf("HMAC %v, sequence numbers %v: replay: %v", withHMAC, sequences, err)
			}
		}
	}
}

// The window is compared with a set of all numbers that were seen.
func TestSequenceWindowAgainstAModel(t *testing.T) {
	for seed := range int64(20) {
		r := rand.New(rand.NewSource(seed))
		k := new(keys)
		seen := map[uint64]bool{}
		highest := uint64(0)
		for range 5000 {
			n := highest + uint64(r.Intn(200)) - min(highest, uint64(r.Intn(200)))
			if r.Intn(500) == 0 {
				n += uint64(r.Intn(1 << 40))
			}
			want := !seen[n] && n+windowSize > highest
			if got := k.admit(n); got != want {
				t.Fatalf("seed %d: number %d after %d: %v", seed, n, highest, got)
			}
			if want {
				seen[n] = true
				highest = max(highest, n)
			}
		}
	}
	if new(keys).admit(^uint64(0)) {
		t.Error("the last number would end the session")
	}
}

func TestMACIsThatOfCryptoHMAC(t *testing.T) {
	for n := range 200 {
		message := bytes.Repeat([]byte{byte(n)}, n)
		key := sha256.Sum256([]byte{byte(n)})
		h := hmac.New(sha256.New, key[:])
		h.Write(message)
		if got := newDigest().appendHMAC([]byte("x"), newMACKey(key), message, 32); !bytes.Equal(got[1:], h.Sum(nil)) {
			t.Fatalf("%d bytes: %x", n, got)
		}
	}
}

func TestMaxPlainIsWhatFits(t *testing.T) {
	for _, withHMAC := range []bool{false, true} {
		for _, sequences := range []bool{false, true} {
			a, _ := keyPair(withHMAC, sequences)
			for _, next := range []uint64{0, 127, 128, 1<<14 - 1, 1<<21 - 1, 1 << 40} {
				for size := range 200 {
					a.send.next = next
					n := a.MaxPlain(size)
					if n == 0 {
						continue
					}
					for range 100 {
						if got := len(a.Seal(nil, make([]byte, n))); got > size {
							t.Fatalf("%d bytes in %d: %d", n, size, got)
						}
					}
				}
			}
		}
	}
}

func TestPacketsCostNoAllocation(t *testing.T) {
	for _, withHMAC := range []bool{false, true} {
		a, b := keyPair(withHMAC, true)
		dst, plain := make([]byte, 4, 2048), make([]byte, 1100)
		b.Open(a.Seal(dst[:4], plain)[4:])
		if n := testing.AllocsPerRun(100, func() { a.Seal(dst[:4], plain) }); n != 0 {
			t.Errorf("HMAC %v: %v allocations to seal", withHMAC, n)
		}
		if n := testing.AllocsPerRun(100, func() {
			if _, err := b.Open(a.Seal(dst[:4], plain)[4:]); err != nil {
				t.Error(err)
			}
		}); n != 0 {
			t.Errorf("HMAC %v: %v allocations to open", withHMAC, n)
		}
		a.Rest()
		b.Rest()
		if _, err := b.Open(a.Seal(dst[:4], plain)[4:]); err != nil {
			t.Error("after a rest:", err)
		}
	}
}

func BenchmarkSeal(b *testing.B) {
	for name, withHMAC := range map[string]bool{"checksum": false, "hmac": true} {
		b.Run(name, func(b *testing.B) {
			k, _ := keyPair(withHMAC, true)
			dst, plain := make([]byte, 4, 2048), make([]byte, 1100)
			b.SetBytes(int64(len(plain)))
			b.ReportAllocs()
			for b.Loop() {
				k.Seal(dst[:4], plain)
			}
		})
	}
}
