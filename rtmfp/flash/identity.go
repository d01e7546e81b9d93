package flash

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/stilenet/stile/rtmfp"
)

// Verification says what a session does with an optional means of verification: the HMAC or the session sequence numbers.
type Verification uint8

// The choices.
const (
	// VerificationPrefer asks for it as an initiator, and as a responder if the initiator does; a far end without it is
	// accepted. A responder does not ask by itself, because clients of the Flash era that are not by Adobe announce that they
	// send an HMAC on request, and do not.
	VerificationPrefer Verification = iota
	// VerificationOff neither sends nor asks for it.
	VerificationOff
	// VerificationRequire refuses far ends without it.
	VerificationRequire
)

// hmacLength is that of our HMACs: half of the hash (RFC 2104 §5).
const hmacLength = 16

// maxKeyReuse is how long the ephemeral keys of a responder descend from the same random number.
const maxKeyReuse = time.Hour

// IdentityConfig is what an Identity is made of. Random is required; the zero of everything else works.
type IdentityConfig struct {
	// Random must be unpredictable.
	Random io.Reader
	// Server makes the certificate of a server: it accepts a URI in the discriminator, and its keys are ephemeral (§7).
	Server bool
	// Hostname is for discriminators that ask for one. The clients of the Flash era read exactly the 77 bytes of a server's
	// certificate without it.
	Hostname string
	// Groups are the groups to support. None means 2, 5 and 14 for a server and with Ephemeral, and 2 alone for static keys: it
	// is the only group, and the first key the only key, that old peers read. Of those in common the strongest is taken.
	Groups []Group
	// Ephemeral gives a client ephemeral keys. Its peer ID can then be claimed by others (§7).
	Ephemeral bool
	// HMAC and SequenceNumbers say how packets are verified. Without either, a session has a 16-bit checksum under the
	// cipher.
	HMAC, SequenceNumbers Verification
	// Now lets a responder derive its ephemeral keys for up to an hour from the same random number: each session has its own
	// key, but who learns one private key learns those of that hour. Without it each is drawn anew, which takes twice the time.
	Now func() time.Time
}

// Identity is a certificate with its private keys. It implements rtmfp.Identity, and is safe for concurrent use. A client
// must use another for every server that it connects to (§5.3).
type Identity struct {
	cfg         IdentityConfig
	encoded     []byte
	certificate Certificate
	id          PeerID
	static      []*privateKey

	mu        sync.Mutex // of what follows, and of cfg.Random
	ephemeral map[Group]*privateKey
	drawn     map[Group]time.Time
}

var _ rtmfp.Identity = (*Identity)(nil)

// NewIdentity draws keys and makes a certificate of them. Errors are those of the configuration and of Random.
func NewIdentity(cfg IdentityConfig) (*Identity, error) {
	if cfg.Random == nil {
		return nil, errors.New("flash: IdentityConfig.Random is required")
	}
	ephemeral := cfg.Server || cfg.Ephemeral
	if len(cfg.Groups) == 0 {
		cfg.Groups = []Group{Group2}
		if ephemeral {
			cfg.Groups = []Group{Group2, Group5, Group14}
		}
	}
	id := &Identity{cfg: cfg, ephemeral: make(map[Group]*privateKey), drawn: make(map[Group]time.Time)}
	c := &id.certificate
	c.AcceptsAncillary = cfg.Server
	if cfg.Hostname != "" {
		c.Hostname = []byte(cfg.Hostname)
	}
	var randomness []byte
	if ephemeral {
		randomness = make([]byte, randomnessSize)
		if _, err := io.ReadFull(cfg.Random, randomness); err != nil {
			return nil, fmt.Errorf("flash: random numbers: %w", err)
		}
	}
	for i, g := range cfg.Groups {
		group := groupByID(g)
		switch {
		case group == nil:
			return nil, fmt.Errorf("flash: IdentityConfig.Groups: %d is none of 2, 5, 14 and 16", g)
		case slices.Contains(cfg.Groups[:i], g):
			return nil, fmt.Errorf("flash: IdentityConfig.Groups: %d is there twice", g)
		case ephemeral:
			c.Ephemeral = append(c.Ephemeral, g)
		default:
			k, err := group.newPrivateKey(cfg.Random)
			if err != nil {
				return nil, err
			}
			id.static = append(id.static, k)
			c.Static = append(c.Static, PublicKey{g, k.public})
		}
	}
	id.encoded = AppendCertificate(nil, *c, randomness)
	id.id = FingerprintOf(id.encoded)
	return id, nil
}

// PeerID is the fingerprint of the certificate.
func (id *Identity) PeerID() PeerID { return id.id }

// DefaultCipher returns the cipher of the Default Session Key (§4.1).
func (id *Identity) DefaultCipher() rtmfp.Cipher { return newDefaultCipher() }

// Certificate returns the certificate, which must not be changed.
func (id *Identity) Certificate() []byte { return id.encoded }

// Authentic reports whether a certificate is well formed: nobody signs any (§4.3.4).
func (id *Identity) Authentic(cert []byte) bool {
	_, err := ParseCertificate(cert)
	return err == nil
}

// Selects tests whether a discriminator selects a certificate (§4.4.3). One that does not parse selects none.
func (id *Identity) Selects(epd, cert []byte) bool {
	e, err := ParseEPD(epd)
	if err != nil {
		return false
	}
	c, err := ParseCertificate(cert)
	return err == nil && e.selects(c, FingerprintOf(cert))
}

// SelectsNear tests whether a discriminator selects this identity.
func (id *Identity) SelectsNear(epd []byte) bool {
	e, err := ParseEPD(epd)
	return err == nil && e.selects(id.certificate, id.id)
}

// CanonicalEPD makes the discriminator of a certificate's fingerprint (§4.4.4).
func (id *Identity) CanonicalEPD(cert []byte) []byte { return FingerprintOf(cert).EPD() }

// Verify accepts any signature: no certificate has a key to sign with (§4.3.5).
func (id *Identity) Verify(cert, message, signature []byte) bool { return true }

// Sign makes the signature of those who have none to give, as Flash did (§4.3.5).
func (id *Identity) Sign(message []byte) []byte { return []byte("X") }

// NearPrevails reports whether this certificate is ordered before the other (§4.3.6).
func (id *Identity) NearPrevails(farCert []byte) bool { return bytes.Compare(id.encoded, farCert) <= 0 }

// Overrides reports whether the certificates are the same (§4.3.7).
func (id *Identity) Overrides(old, cert []byte) bool { return bytes.Equal(old, cert) }
