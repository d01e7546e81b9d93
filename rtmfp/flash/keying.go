package flash

import (
	"fmt"
	"io"

	"github.com/stilenet/stile/rtmfp"
)

// Initiate begins a key negotiation with the owner of a responder's certificate (§4.6.1). Errors: those of
// ParseCertificate, ErrGroup.
func (id *Identity) Initiate(farCert []byte) (rtmfp.Initiation, error) {
	far, err := ParseCertificate(farCert)
	if err != nil {
		return nil, err
	}
	var common *group
	for _, g := range groups {
		if id.certificate.supports(g.id) && far.supports(g.id) {
			common = g
			break
		}
	}
	if common == nil {
		return nil, ErrGroup
	}
	i := &initiation{id: id, far: far, group: common}
	i.near = id.flags(component{}, true)
	if k := id.staticKey(common); k != nil {
		i.key = k
		i.near.selected, i.near.hasSelected = common.id, true
		if i.near.randomness, err = id.randomness(); err != nil {
			return nil, err
		}
	} else {
		id.mu.Lock()
		i.key, err = common.newPrivateKey(id.cfg.Random)
		id.mu.Unlock()
		if err != nil {
			return nil, err
		}
		i.near.ephemeral = &PublicKey{common.id, i.key.public}
	}
	i.skic = appendInitiatorComponent(nil, i.near)
	return i, nil
}

// initiation is an rtmfp.Initiation.
type initiation struct {
	id    *Identity
	far   Certificate // aliases nothing that changes: the endpoint keeps the certificate of an opening session
	group *group
	key   *privateKey
	near  component
	skic  []byte
}

// Component is the Session Key Initiator Component.
func (i *initiation) Component() []byte { return i.skic }

// Combine makes the keys of the session. Errors: those of parseComponent, ErrGroup, ErrKeying, ErrUnacceptableKey,
// ErrUnverified.
func (i *initiation) Combine(skrc []byte) (rtmfp.SessionKeys, error) {
	far, err := parseComponent(skrc)
	if err != nil {
		return nil, err
	}
	public := i.far.staticKey(i.group.id)
	if public == nil {
		switch {
		case far.ephemeral == nil:
			return nil, ErrKeying
		case far.ephemeral.Group != i.group.id:
			return nil, ErrGroup
		}
		public = far.ephemeral.Key
	}
	if err := i.id.accepts(far); err != nil {
		return nil, err
	}
	secret, err := i.key.shared(public)
	if err != nil {
		return nil, err
	}
	return newKeys(secret, i.skic, skrc, i.near, far), nil
}

// Respond makes the Session Key Responder Component and the keys of the session (§4.6). Errors: those of ParseCertificate
// and parseComponent, ErrGroup, ErrKeying, ErrUnacceptableKey, ErrUnverified.
func (id *Identity) Respond(farCert, skic []byte) ([]byte, rtmfp.SessionKeys, error) {
	cert, err := ParseCertificate(farCert)
	if err != nil {
		return nil, nil, err
	}
	far, err := parseComponent(skic)
	if err != nil {
		return nil, nil, err
	}
	var chosen Group
	var public []byte
	switch {
	case len(cert.Static) > 0: // "The Initiator MUST send this option when it advertises a static [...] key" (§4.5.2.3)
		if !far.hasSelected || far.ephemeral != nil {
			return nil, nil, ErrKeying
		}
		chosen, public = far.selected, cert.staticKey(far.selected)
	case far.ephemeral != nil && !far.hasSelected:
		chosen, public = far.ephemeral.Group, far.ephemeral.Key
	default:
		return nil, nil, ErrKeying
	}
	if chosen == 0 || public == nil || !id.certificate.supports(chosen) {
		return nil, nil, ErrGroup
	}
	if err := id.accepts(far); err != nil {
		return nil, nil, err
	}
	near := id.flags(far, false)
	key := id.staticKey(groupByID(chosen))
	if key != nil {
		if near.randomness, err = id.randomness(); err != nil {
			return nil, nil, err
		}
	} else {
		if key, err = id.ephemeralKey(groupByID(chosen)); err != nil {
			return nil, nil, err
		}
		near.ephemeral = &PublicKey{chosen, key.public}
	}
	secret, err := key.shared(public)
	if err != nil {
		return nil, nil, err
	}
	skrc := appendResponderComponent(nil, near)
	return skrc, newKeys(secret, skrc, skic, near, far), nil
}

func (id *Identity) staticKey(g *group) *privateKey {
	for _, k := range id.static {
		if k.group == g {
			return k
		}
	}
	return nil
}

// ephemeralKey is a responder's key for one session.
func (id *Identity) ephemeralKey(g *group) (*privateKey, error) {
	id.mu.Lock()
	defer id.mu.Unlock()
	if id.cfg.Now != nil {
		now := id.cfg.Now()
		if k := id.ephemeral[g.id]; k != nil && now.Sub(id.drawn[g.id]) < maxKeyReuse {
			k = k.next()
			id.ephemeral[g.id] = k
			return k, nil
		}
		id.drawn[g.id] = now
	}
	k, err := g.newPrivateKey(id.cfg.Random)
	if err == nil && id.cfg.Now != nil {
		id.ephemeral[g.id] = k
	}
	return k, err
}

func (id *Identity) randomness() ([]byte, error) {
	b := make([]byte, randomnessSize)
	id.mu.Lock()
	defer id.mu.Unlock()
	if _, err := io.ReadFull(id.cfg.Random, b); err != nil {
		return nil, fmt.Errorf("flash: random numbers: %w", err)
	}
	return b, nil
}

// flags makes the near end's negotiations. As a responder it knows those of the initiator.
func (id *Identity) flags(far component, initiator bool) (near component) {
	choose := func(v Verification, far byte) byte {
		switch {
		case v == VerificationOff:
			return 0
		case v == VerificationRequire || initiator || far&(flagRequest|flagSendAlways) != 0:
			return flagSendOnRequest | flagRequest
		}
		return flagSendOnRequest
	}
	near.hmac, near.sequence = choose(id.cfg.HMAC, far.hmac), choose(id.cfg.SequenceNumbers, far.sequence)
	if near.hmac != 0 {
		near.hmacLength = hmacLength
	}
	return near
}

// accepts tests what the far end is ready to send (§4.6.4, §4.6.6). Error: ErrUnverified.
func (id *Identity) accepts(far component) error {
	const sends = flagSendAlways | flagSendOnRequest
	if id.cfg.HMAC == VerificationRequire && far.hmac&sends == 0 || id.cfg.SequenceNumbers == VerificationRequire && far.sequence&sends == 0 {
		return ErrUnverified
	}
	return nil
}

// sends reports whether an end with the flags sends what is negotiated, given the flags of the other (§4.6.4, §4.6.6).
func sends(sender, other byte) bool {
	return sender&flagSendAlways != 0 || sender&flagSendOnRequest != 0 && other&flagRequest != 0
}

// newKeys computes what §4.6 defines from DH_SECRET, the near and the far component.
func newKeys(secret, sknc, skfc []byte, near, far component) *keys {
	inner := hmacSHA256(skfc, sknc)
	encrypt := hmacSHA256(secret, inner[:])
	inner = hmacSHA256(sknc, skfc)
	decrypt := hmacSHA256(secret, inner[:])
	k := &keys{near: hmacSHA256(secret, sknc), far: hmacSHA256(secret, skfc)}
	copy(k.send.key[:], encrypt[:])
	copy(k.receive.key[:], decrypt[:])
	k.send.sequences, k.receive.sequences = sends(near.sequence, far.sequence), sends(far.sequence, near.sequence)
	if sends(near.hmac, far.hmac) {
		k.send.mac, k.send.macLength = newMACKey(hmacSHA256(secret, encrypt[:])), near.hmacLength
	}
	if sends(far.hmac, near.hmac) {
		k.receive.mac, k.receive.macLength = newMACKey(hmacSHA256(secret, decrypt[:])), far.hmacLength
	}
	return k
}
