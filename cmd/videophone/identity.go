package main

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// onIdentity carries a long-term key and its proof: key, signature. A peer ID is new with each connection, the key is not; signing the
// session's nonces proves the key for this session only, so that nobody can pass a proof on.
const (
	onIdentity    = "onIdentity"
	identityLabel = "stile videophone identity 1"
	maxFriends    = 1000
	maxKeyFile    = 1 << 20
)

// standing is what we know of a friend's key.
type standing string

const (
	standingNone     standing = ""         // no proof came, as from the sample
	standingNew      standing = "new"      // first seen now, and remembered
	standingKnown    standing = "known"    // the key that we remember
	standingVerified standing = "verified" // and the code was compared
	standingChanged  standing = "changed"  // another key than the one that we remember
	standingForged   standing = "forged"   // a signature that is not of this session
)

// proof is what onIdentity carries, for a session whose nonces and IDs are given from the signer's side.
func proof(key ed25519.PrivateKey, near, far []byte, self, peer string) (public, signature string) {
	return hex.EncodeToString(key.Public().(ed25519.PublicKey)), hex.EncodeToString(ed25519.Sign(key, proofText(near, far, self, peer)))
}

func proofText(near, far []byte, self, peer string) []byte {
	return fmt.Appendf(nil, "%s\n%x\n%x\n%s\n%s\n", identityLabel, near, far, self, peer)
}

// checkProof checks what a peer sent. The nonces are ours, so its near one is our far one.
func checkProof(public, signature string, near, far []byte, self, peer string) (key string, ok bool) {
	p, err1 := hex.DecodeString(public)
	s, err2 := hex.DecodeString(signature)
	if err1 != nil || err2 != nil || len(p) != ed25519.PublicKeySize || len(s) != ed25519.SignatureSize {
		return "", false
	}
	return strings.ToLower(public), ed25519.Verify(p, proofText(far, near, peer, self), s)
}

// friend is a name with the key that it had.
type friend struct {
	Key      string `json:"key,omitempty"` // hexadecimal; empty while it has proved none
	Verified bool   `json:"verified,omitempty"`
}

// keyBook is what outlives the program: our own keys, one for each name that we used, and our friends'. It is a JSON file that only
// its user may read.
type keyBook struct {
	path string

	Version int               `json:"version"`
	Own     map[string]string `json:"own"` // name to seed
	Friends map[string]friend `json:"friends"`
}

// openKeyBook reads the file in dir; one that does not exist is empty. An empty dir keeps everything in memory.
func openKeyBook(dir string) (*keyBook, error) {
	b := &keyBook{Version: 1, Own: map[string]string{}, Friends: map[string]friend{}}
	if dir == "" {
		return b, nil
	}
	b.path = filepath.Join(dir, "keys.json")
	f, err := os.Open(b.path)
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	} else if err != nil {
		return nil, fmt.Errorf("videophone: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err == nil && len(text) > maxKeyFile {
		err = errors.New("it is too large")
	}
	if err == nil {
		err = json.Unmarshal(text, b)
	}
	if err == nil && b.Version != 1 {
		err = fmt.Errorf("it is of version %d", b.Version)
	}
	if err != nil {
		return nil, fmt.Errorf("videophone: %s: %w: repair it, or move it away to begin with new keys", b.path, err)
	}
	if b.Own == nil {
		b.Own = map[string]string{}
	}
	if b.Friends == nil {
		b.Friends = map[string]friend{}
	}
	return b, nil
}

// save replaces the file.
func (b *keyBook) save() error {
	if b.path == "" {
		return nil
	}
	text, err := json.MarshalIndent(b, "", "\t")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(b.path), 0o700); err != nil {
		return fmt.Errorf("videophone: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(b.path), ".keys-*")
	if err != nil {
		return fmt.Errorf("videophone: %w", err)
	}
	_, err = f.Write(append(text, '\n'))
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), b.path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("videophone: %w", err)
	}
	return nil
}

// own returns the key of a name of ours, made at its first use.
func (b *keyBook) own(name string, rand io.Reader) (ed25519.PrivateKey, error) {
	if seed, err := hex.DecodeString(b.Own[name]); err == nil && len(seed) == ed25519.SeedSize {
		return ed25519.NewKeyFromSeed(seed), nil
	}
	_, key, err := ed25519.GenerateKey(rand)
	if err != nil {
		return nil, err
	}
	b.Own[name] = hex.EncodeToString(key.Seed())
	return key, b.save()
}

// meet says what we know of a friend who has proved a key, and remembers it if it is the first one.
func (b *keyBook) meet(name, key string) (standing, error) {
	was := b.look(name, key)
	if _, known := b.Friends[name]; was != standingNew || !known && len(b.Friends) >= maxFriends {
		return was, nil
	}
	b.Friends[name] = friend{Key: key}
	return was, b.save()
}

// trust takes a key as the friend's, because the codes were compared.
func (b *keyBook) trust(name, key string) error {
	b.Friends[name] = friend{Key: key, Verified: true}
	return b.save()
}

// add puts a name on the list of friends, and drop takes it away.
func (b *keyBook) add(name string) error {
	if _, ok := b.Friends[name]; ok || name == "" || len(b.Friends) >= maxFriends {
		return nil
	}
	b.Friends[name] = friend{}
	return b.save()
}

func (b *keyBook) drop(name string) error {
	delete(b.Friends, name)
	return b.save()
}

// look says what meet would, and remembers nothing.
func (b *keyBook) look(name, key string) standing {
	switch f := b.Friends[name]; {
	case f.Key == "":
		return standingNew
	case f.Key != key:
		return standingChanged
	case f.Verified:
		return standingVerified
	}
	return standingKnown
}
