package rendezvous

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"
)

// Key is a developer key without the key itself: a handle for quotas, not a secret. It travels in the URL, in a client's first
// packet, under a published encryption key.
type Key struct {
	Name          string    `json:"name"`          // unique, of the operator's choice
	Sessions      int       `json:"sessions"`      // at once; 0: no limit
	Introductions int       `json:"introductions"` // a second, to its sessions; 0: no limit
	Created       time.Time `json:"created"`
	Expires       time.Time `json:"expires"` // no new sessions from then on; zero: never
}

// KeyHash is the SHA-256 of a key: what is kept of it.
type KeyHash [sha256.Size]byte

// HashKey returns the hash of a key as a URL has it.
func HashKey(key string) KeyHash { return sha256.Sum256([]byte(key)) }

// keyBytes is the randomness of a generated key: 128 bits.
const keyBytes = 16

// Bounds of a key's fields.
const (
	maxKeyName = 64
	maxQuota   = 100_000_000
	maxKeys    = 100_000 // all are in memory, 300 bytes each
)

// NewKey draws a key: 32 hexadecimal digits.
func NewKey(random io.Reader) (string, error) {
	if random == nil {
		random = rand.Reader
	}
	var b [keyBytes]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return "", err
	}
	return hex.EncodeToString(b[:]), nil
}

// What may be wrong with a change of keys.
var (
	ErrKeyName   = errors.New("rendezvous: the name of a key has 1 to 64 printable characters and no spaces")
	ErrKeyExists = errors.New("rendezvous: there is a key of this name")
	ErrKeyQuota  = errors.New("rendezvous: a quota is a number from 0, for no limit, to 100,000,000")
	ErrKeyPast   = errors.New("rendezvous: the key would have expired already")
	ErrNoKey     = errors.New("rendezvous: there is no key of this name")
	ErrTooMany   = errors.New("rendezvous: 100,000 keys are the most")
)

// Check reports what is wrong with a new key: ErrKeyName, ErrKeyQuota, ErrKeyPast.
func (k *Key) Check(now time.Time) error {
	printable := func(r rune) bool { return unicode.IsPrint(r) && !unicode.IsSpace(r) }
	switch {
	case k.Name == "" || len(k.Name) > maxKeyName || !utf8.ValidString(k.Name) || strings.ContainsFunc(k.Name, func(r rune) bool { return !printable(r) }):
		return ErrKeyName
	case k.Sessions < 0 || k.Sessions > maxQuota || k.Introductions < 0 || k.Introductions > maxQuota:
		return ErrKeyQuota
	case !k.Expires.IsZero() && !k.Expires.After(now):
		return ErrKeyPast
	}
	return nil
}

// heldKey is a key with what it is used for.
type heldKey struct {
	Key
	introductionRate rate
	revoked          atomic.Bool
	sessions         atomic.Int64
	refused          atomic.Uint64
	introductions    bucket
}

// Keyring is the keys in force. The shards share it, and judge by it without a lock.
type Keyring struct {
	mu       sync.Mutex // one Replace at a time
	keys     atomic.Pointer[map[KeyHash]*heldKey]
	required atomic.Bool
}

// SetRequired says whether a client needs a key. Without, every path is welcome, and the keys that are known only count.
func (r *Keyring) SetRequired(on bool) { r.required.Store(on) }

// Required reports what SetRequired has set.
func (r *Keyring) Required() bool { return r.required.Load() }

// Replace puts other keys in force. A key that stays keeps its count of sessions; the sessions of one that goes end with the
// next Core.KeysChanged.
func (r *Keyring) Replace(keys map[KeyHash]Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := make(map[KeyHash]*heldKey, len(keys))
	old := r.held()
	for hash, k := range keys {
		h := old[hash]
		if h == nil || h.Key != k {
			h = &heldKey{Key: k, introductionRate: perSecond(k.Introductions, 2)}
		}
		next[hash] = h
	}
	for hash, h := range old {
		if next[hash] != h {
			h.revoked.Store(true)
		}
	}
	r.keys.Store(&next)
}

func (r *Keyring) held() map[KeyHash]*heldKey {
	if m := r.keys.Load(); m != nil {
		return *m
	}
	return nil
}

// KeyRefusal says why a client may not come in.
type KeyRefusal uint8

// The refusals. The zero value is none.
const (
	KeyWelcome KeyRefusal = iota
	KeyMissing            // the URL has no path
	KeyUnknown
	KeyExpired
	KeyFull // the quota of sessions is used up
	keyRefusalCount
)

func (r KeyRefusal) String() string {
	return [...]string{"welcome", "missing", "unknown", "expired", "full"}[r]
}

// description is what the application is told.
func (r KeyRefusal) description() string {
	switch r {
	case KeyMissing:
		return "A developer key is required: connect to rtmfp://host/KEY."
	case KeyUnknown:
		return "The developer key is not known here."
	case KeyExpired:
		return "The developer key has expired."
	case KeyFull:
		return "The developer key has as many sessions as it may have."
	}
	return ""
}

// enter admits a session by the path of its URL. key is nil for a path that is no key; else leave must follow.
func (r *Keyring) enter(now time.Time, path string) (key *heldKey, refusal KeyRefusal) {
	if path == "" {
		if r.required.Load() {
			return nil, KeyMissing
		}
		return nil, KeyWelcome
	}
	h := r.held()[HashKey(path)]
	required := r.required.Load()
	switch {
	case h == nil && required:
		return nil, KeyUnknown
	case h == nil:
		return nil, KeyWelcome
	case required && !h.Expires.IsZero() && !now.Before(h.Expires):
		h.refused.Add(1)
		return nil, KeyExpired
	case h.sessions.Add(1) > int64(h.Sessions) && h.Sessions > 0 && required:
		h.sessions.Add(-1)
		h.refused.Add(1)
		return nil, KeyFull
	}
	return h, KeyWelcome
}

func (h *heldKey) leave() { h.sessions.Add(-1) }

// KeyUse is a key with what it is used for now.
type KeyUse struct {
	Key
	Live    int64  `json:"live"`    // sessions now
	Refused uint64 `json:"refused"` // sessions, since the server's start
}

// Uses lists all keys, by name.
func (r *Keyring) Uses() []KeyUse {
	held := r.held()
	out := make([]KeyUse, 0, len(held))
	for _, h := range held {
		out = append(out, KeyUse{Key: h.Key, Live: h.sessions.Load(), Refused: h.refused.Load()})
	}
	slices.SortFunc(out, func(a, b KeyUse) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Len reports how many keys there are.
func (r *Keyring) Len() int { return len(r.held()) }

// keyOf is the part of a connect command's app, or of a URL's path, that is the key: its first segment.
func keyOf(app string) string {
	app = strings.TrimLeft(app, "/")
	if i := strings.IndexAny(app, "/?#"); i >= 0 {
		app = app[:i]
	}
	return app
}

func (k Key) String() string {
	s := k.Name
	if k.Sessions > 0 {
		s += fmt.Sprintf(", at most %d sessions", k.Sessions)
	}
	return s
}
