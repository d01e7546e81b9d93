package rendezvous

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// KeyFile is the file of keys: one bbolt database that one process has open at a time. It is made with the first key. Its
// methods may be called by any number of goroutines.
type KeyFile struct {
	path string
	ring *Keyring // gets every change; may be nil

	mu sync.Mutex
	db *bbolt.DB // nil while there is no file
}

// keysBucket holds JSON of Key by KeyHash.
var keysBucket = []byte("keys")

// keyFileWait is how long another process may take to let go of the file.
const keyFileWait = 2 * time.Second

// ErrKeyFileHeld means that another process has the file open.
var ErrKeyFileHeld = errors.New("rendezvous: another process has the file of keys")

// OpenKeyFile opens the file if it is there, and gives its keys to the ring. Errors: ErrKeyFileHeld, those of the file system,
// and what is wrong in the file.
func OpenKeyFile(path string, ring *Keyring) (*KeyFile, error) {
	f := &KeyFile{path: path, ring: ring}
	return f, f.Reopen()
}

// Reopen opens a file that somebody has made meanwhile. It does nothing if the file is open already or is not there.
func (f *KeyFile) Reopen() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.db != nil {
		return nil
	}
	if _, err := os.Stat(f.path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := f.open(); err != nil {
		return err
	}
	return f.publish()
}

func (f *KeyFile) open() error {
	db, err := bbolt.Open(f.path, 0o600, &bbolt.Options{Timeout: keyFileWait})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return fmt.Errorf("%w %s: end it, or use its administration", ErrKeyFileHeld, f.path)
	case err != nil:
		return fmt.Errorf("rendezvous: keys in %s: %w", f.path, err)
	}
	f.db = db
	return nil
}

// Close lets go of the file.
func (f *KeyFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.db == nil {
		return nil
	}
	db := f.db
	f.db = nil
	return db.Close()
}

// Add draws a key and keeps its hash. It is shown this once. Errors: those of Key.Check, ErrKeyExists, ErrTooMany,
// ErrKeyFileHeld, and those of the file system.
func (f *KeyFile) Add(now time.Time, k Key) (text string, err error) {
	if err := k.Check(now); err != nil {
		return "", err
	}
	if text, err = NewKey(nil); err != nil {
		return "", err
	}
	k.Created = now.UTC().Truncate(time.Second)
	k.Expires = k.Expires.UTC()
	value, err := json.Marshal(k)
	if err != nil {
		return "", err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.db == nil {
		if err := os.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
			return "", fmt.Errorf("rendezvous: keys: %w", err)
		}
		if err := f.open(); err != nil {
			return "", err
		}
	}
	err = f.db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(keysBucket)
		if err != nil {
			return err
		}
		all, err := read(b)
		if err != nil {
			return err
		}
		if len(all) >= maxKeys {
			return ErrTooMany
		}
		for _, old := range all {
			if old.Name == k.Name {
				return ErrKeyExists
			}
		}
		hash := HashKey(text)
		return b.Put(hash[:], value)
	})
	if err != nil {
		return "", err
	}
	return text, f.publish()
}

// Revoke removes the key of a name. Errors: ErrNoKey, and those of the file system.
func (f *KeyFile) Revoke(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.db == nil {
		return ErrNoKey
	}
	err := f.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(keysBucket)
		if b == nil {
			return ErrNoKey
		}
		all, err := read(b)
		if err != nil {
			return err
		}
		for hash, k := range all {
			if k.Name == name {
				return b.Delete(hash[:])
			}
		}
		return ErrNoKey
	})
	if err != nil {
		return err
	}
	return f.publish()
}

// Keys returns all keys by hash.
func (f *KeyFile) Keys() (map[KeyHash]Key, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.keys()
}

func (f *KeyFile) keys() (all map[KeyHash]Key, err error) {
	if f.db == nil {
		return map[KeyHash]Key{}, nil
	}
	err = f.db.View(func(tx *bbolt.Tx) error {
		all, err = read(tx.Bucket(keysBucket))
		return err
	})
	if err != nil {
		err = fmt.Errorf("rendezvous: keys in %s: %w", f.path, err)
	}
	return all, err
}

// read returns what a bucket holds. A value that is none is an error: a key must not vanish from the list silently.
func read(b *bbolt.Bucket) (map[KeyHash]Key, error) {
	all := map[KeyHash]Key{}
	if b == nil {
		return all, nil
	}
	err := b.ForEach(func(hash, value []byte) error {
		var k Key
		if len(hash) != len(KeyHash{}) {
			return fmt.Errorf("an entry of %d bytes where a hash has %d", len(hash), len(KeyHash{}))
		}
		if err := json.Unmarshal(value, &k); err != nil {
			return fmt.Errorf("the key %x…: %w", hash[:4], err)
		}
		all[KeyHash(hash)] = k
		return nil
	})
	return all, err
}

func (f *KeyFile) publish() error {
	if f.ring == nil {
		return nil
	}
	all, err := f.keys()
	if err == nil {
		f.ring.Replace(all)
	}
	return err
}
