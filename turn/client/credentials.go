package client

import "github.com/stilenet/stile/stun"

// credentials is the long-term mechanism (RFC 8489 §9.2) for one connection. Nothing is signed until the server has asked.
type credentials struct {
	username, password string
	realm, nonce       string
	mac                *stun.Mac // of username, realm and password; nil until a realm is known
}

// sign appends the credentials, if the server has asked for any, and reports what it signed with.
func (a *credentials) sign(b *stun.Builder) (nonce, realm string) {
	if a.mac == nil {
		return "", ""
	}
	b.String(stun.AttrUsername, a.username)
	b.String(stun.AttrRealm, a.realm)
	b.String(stun.AttrNonce, a.nonce)
	b.Integrity(a.mac)
	return a.nonce, a.realm
}

// check reports whether an answer is signed with the password.
func (a *credentials) check(m stun.Message) bool { return a.mac != nil && a.mac.Check(m) }

// challenge takes the 401, 438 or 441 to t. again: with what is known now the request may be repeated; cause is the verdict
// otherwise.
//
// In draft-08 438 is Wrong Credentials, in every other document it is Stale Nonce: it is stale if it brings another
// nonce than t was signed with.
func (a *credentials) challenge(t *transaction, m stun.Message, code int) (again bool, cause error) {
	if a.username == "" {
		return false, ErrCredentialsWanted
	}
	if code == stun.CodeWrongCredentials {
		return false, ErrCredentials
	}
	realm := a.realm
	if v, ok := m.Get(stun.AttrRealm); ok {
		realm = string(v)
	} else if a.mac == nil {
		return false, ErrProtocol
	}
	nonce, ok := m.Get(stun.AttrNonce)
	switch {
	case len(nonce) > maxCredential || len(realm) > maxCredential:
		return false, ErrProtocol
	case (!ok || len(nonce) == 0) && t.nonce == "":
		return false, ErrProtocol
	case !ok || len(nonce) == 0:
		return false, ErrCredentials // 438 of draft-08
	}
	if t.nonce != "" {
		stale := code == stun.CodeStaleNonce && string(nonce) != t.nonce
		moved := code == stun.CodeUnauthenticated && realm != t.realm
		if !stale && !moved {
			return false, ErrCredentials
		}
	}
	if a.mac == nil || realm != a.realm {
		a.mac = stun.NewMac(stun.LongTermKey(a.username, realm, a.password))
	}
	a.realm, a.nonce = realm, string(nonce)
	return true, nil
}
