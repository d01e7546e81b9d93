package turn

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // the REST credentials are defined with HMAC-SHA-1
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"hash"
	"net/netip"
	"strconv"
	"time"

	"github.com/stilenet/stile/stun"
)

// User has long-term credentials (RFC 8489 §9.2).
type User struct{ Name, Password string }

// Auth is who may use a listener that requires credentials. The zero Auth knows nobody.
type Auth struct {
	// Realm is at most 16 bytes: a longer one would make the answer to a bare Refresh more than twice as long as the request.
	Realm string
	Users []User
	// Secret makes time-limited credentials valid: the user name is "UNIXTIME:NAME" or "UNIXTIME", the time at which they end, and
	// the password is base64(HMAC-SHA1(Secret, user name)) (draft-uberti-behave-turn-rest). Empty: none are.
	Secret string
	// NonceKey signs the nonces. All shards share it, and it survives a change of the rules.
	NonceKey [32]byte
}

// Configured reports whether anybody has credentials.
func (a *Auth) Configured() bool { return len(a.Users) > 0 || a.Secret != "" }

// MaxRealm is the length of the longest realm in bytes.
const MaxRealm = 16

// nonceLifetime is how long a nonce is taken: the hour of RFC 8656 §5.
const nonceLifetime = time.Hour

const nonceSize = 16 // characters: 4 bytes of time and 8 of MAC in base64

// credential is a user whose key is prepared.
type credential struct {
	name  string
	mac   *stun.Mac
	key   [16]byte  // of LongTermKey
	until time.Time // of time-limited credentials; zero: no end
}

func (c *Core) wantsAuth(src *Source) bool {
	return int(src.Listener) < len(c.cfg.RequireAuth) && c.cfg.RequireAuth[src.Listener]
}

// authenticate checks the long-term credentials of a request (RFC 8489 §9.2.4, the numbers are its). It reports
// false when r has become the error response.
//
// Deviation: the nonce has no security feature bits, since there is no second algorithm to protect.
func (c *Core) authenticate(r *reply, a *allocation) bool {
	// 1. No MESSAGE-INTEGRITY: a challenge.
	if !r.m.Has(stun.AttrMessageIntegrity) {
		return r.challenge(stun.CodeUnauthenticated)
	}
	// 2. The attributes that must go with it.
	name, ok1 := r.m.Get(stun.AttrUsername)
	_, ok2 := r.m.Get(stun.AttrRealm)
	nonce, ok3 := r.m.Get(stun.AttrNonce)
	if !ok1 || !ok2 || !ok3 {
		r.fail(stun.CodeBadRequest)
		return false
	}
	// 4. A nonce that is not ours, or of another address, or old. The order is ours: the nonce costs less to check
	// than the integrity, and nobody without a fresh one can make the server look for users.
	if !c.nonceValid(nonce, r.src.Client) {
		return r.challenge(stun.CodeStaleNonce)
	}
	// 3. and 5. The user and the integrity, answered alike: which of the two was wrong is nobody's business.
	user := c.credential(name, a)
	if user == nil || !user.mac.Check(r.m) {
		return r.challenge(stun.CodeUnauthenticated)
	}
	// §5: whoever made the allocation, also where draft-08 has 438 for it. An Allocate on a 5-tuple in use is answered with 437,
	// so that the client looks for the fault where it is (§6.2).
	if a != nil && (a.user == nil || a.user.name != user.name) && r.m.Method() != stun.Allocate {
		r.user = user
		r.fail(stun.CodeWrongCredentials)
		return false
	}
	r.user = user
	return true
}

func (r *reply) challenge(code int) bool {
	r.fail(code)
	r.nonce = true
	return false
}

func (c *Core) challenge(b *stun.Builder, client netip.AddrPort) {
	var v [nonceSize]byte
	c.nonce(&v, uint32(c.clock.Unix()), client)
	b.String(stun.AttrRealm, c.rules.Auth.Realm)
	b.Attr(stun.AttrNonce, v[:])
}

func (c *Core) nonce(out *[nonceSize]byte, at uint32, client netip.AddrPort) {
	if c.nonceMac == nil {
		c.nonceMac = hmac.New(sha256.New, c.rules.Auth.NonceKey[:])
	}
	var in [4 + 16 + 2]byte
	addr := client.Addr().As16()
	binary.BigEndian.PutUint32(in[:], at)
	copy(in[4:], addr[:])
	binary.BigEndian.PutUint16(in[20:], client.Port())
	c.nonceMac.Reset()
	c.nonceMac.Write(in[:])
	sum := c.nonceMac.Sum(c.nonceSum[:0])
	var raw [12]byte
	copy(raw[:], in[:4])
	copy(raw[4:], sum[:8])
	base64.RawURLEncoding.Encode(out[:], raw[:])
}

func (c *Core) nonceValid(v []byte, client netip.AddrPort) bool {
	var raw [12]byte
	if len(v) != nonceSize {
		return false
	}
	if _, err := base64.RawURLEncoding.Decode(raw[:], v); err != nil {
		return false
	}
	at := binary.BigEndian.Uint32(raw[:])
	if age := c.clock.Sub(time.Unix(int64(at), 0)); age < -time.Second || age >= nonceLifetime {
		return false
	}
	var want [nonceSize]byte
	c.nonce(&want, at, client)
	return hmac.Equal(want[:], v)
}

// credential finds the user. Keys of configured users are computed once; those of time-limited ones live with their
// allocation.
func (c *Core) credential(name []byte, a *allocation) *credential {
	if a != nil && a.user != nil && a.user.name == string(name) {
		if !a.user.until.IsZero() && !c.clock.Before(a.user.until) {
			return nil
		}
		return a.user
	}
	user := c.lookupUser(name)
	if user == nil || !user.until.IsZero() && !c.clock.Before(user.until) {
		return nil
	}
	return user
}

// lookupUser finds the user, or makes it of a time-limited name, whether that time is over or not.
func (c *Core) lookupUser(name []byte) *credential {
	auth := &c.rules.Auth
	if c.users == nil {
		c.users = make(map[string]*credential, len(auth.Users))
		for _, u := range auth.Users {
			c.users[u.Name] = newCredential(u.Name, auth.Realm, u.Password)
		}
	}
	if u := c.users[string(name)]; u != nil {
		return u
	}
	if auth.Secret == "" || len(name) > 512 {
		return nil
	}
	stamp, _, _ := bytes.Cut(name, []byte{':'})
	unix, err := strconv.ParseInt(string(stamp), 10, 64)
	if err != nil {
		return nil
	}
	if c.secretMac == nil {
		c.secretMac = hmac.New(sha1.New, []byte(auth.Secret))
	}
	c.secretMac.Reset()
	c.secretMac.Write(name)
	password := base64.StdEncoding.EncodeToString(c.secretMac.Sum(nil))
	user := newCredential(string(name), auth.Realm, password)
	user.until = time.Unix(unix, 0)
	return user
}

func newCredential(name, realm, password string) *credential {
	key := stun.LongTermKey(name, realm, password)
	return &credential{name: name, key: [16]byte(key), mac: stun.NewMac(key)}
}

// authState is what a core prepares from the rules' Auth; a change of the rules drops it.
type authState struct {
	users     map[string]*credential
	nonceMac  hash.Hash
	nonceSum  [sha256.Size]byte
	secretMac hash.Hash
}
