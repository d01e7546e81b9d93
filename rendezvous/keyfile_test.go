package rendezvous

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

func TestTheFileIsMadeWithTheFirstKeyAndHasNoKeyInIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "keys.db")
	ring := new(Keyring)
	f, err := OpenKeyFile(path, ring)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Error("there is a file before the first key")
	}
	if err := f.Revoke("x"); !errors.Is(err, ErrNoKey) {
		t.Error(err)
	}
	now := time.Now()
	key, err := f.Add(now, Key{Name: "phone", Sessions: 10, Introductions: 5, Expires: now.Add(time.Hour)})
	if err != nil || len(key) != 32 {
		t.Fatal(key, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info, err)
	}
	if ring.Len() != 1 {
		t.Error("the ring has not got the key")
	}
	ring.SetRequired(true)
	if h, refusal := ring.enter(now, key); refusal != KeyWelcome || h.Name != "phone" {
		t.Error(refusal)
	}
	if _, refusal := ring.enter(now.Add(2*time.Hour), key); refusal != KeyExpired {
		t.Error(refusal)
	}
	if _, err := f.Add(now, Key{Name: "phone"}); !errors.Is(err, ErrKeyExists) {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil || strings.Contains(string(b), key) {
		t.Error("the key is in the file", err)
	}
	again, err := OpenKeyFile(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	all, err := again.Keys()
	if k := all[HashKey(key)]; err != nil || k.Name != "phone" || k.Sessions != 10 || k.Introductions != 5 || !k.Expires.Equal(now.Add(time.Hour)) {
		t.Errorf("%+v %v", all, err)
	}
	if err := again.Revoke("phone"); err != nil {
		t.Fatal(err)
	}
	if all, err := again.Keys(); len(all) != 0 || err != nil {
		t.Error(all, err)
	}
}

func TestTwoProcessesDoNotHaveTheFileAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	one, err := OpenKeyFile(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	if _, err := one.Add(time.Now(), Key{Name: "a"}); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenKeyFile(path, nil); !errors.Is(err, ErrKeyFileHeld) {
		t.Error(err)
	}
}

func TestAFileWithNonsenseIsAnError(t *testing.T) {
	for name, put := range map[string][2][]byte{
		"short hash": {[]byte("x"), []byte("{}")},
		"no JSON":    {make([]byte, 32), []byte("{")},
	} {
		path := filepath.Join(t.TempDir(), "keys.db")
		db, err := bbolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucket(keysBucket)
			if err != nil {
				return err
			}
			return b.Put(put[0], put[1])
		})
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		f, err := OpenKeyFile(path, new(Keyring))
		if err == nil {
			t.Errorf("%s: no error", name)
		}
		_ = f.Close()
	}
}

func TestFieldsOfAKeyAreJudged(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		key  Key
		want error
	}{
		{Key{Name: "phone-app_1"}, nil}, {Key{Name: "ünïcode"}, nil},
		{Key{}, ErrKeyName}, {Key{Name: "a b"}, ErrKeyName}, {Key{Name: "a\n"}, ErrKeyName}, {Key{Name: strings.Repeat("a", 65)}, ErrKeyName},
		{Key{Name: "\xff"}, ErrKeyName}, {Key{Name: "a", Sessions: -1}, ErrKeyQuota}, {Key{Name: "a", Introductions: maxQuota + 1}, ErrKeyQuota},
		{Key{Name: "a", Expires: now}, ErrKeyPast},
	} {
		if err := c.key.Check(now); !errors.Is(err, c.want) {
			t.Errorf("%+v: %v", c.key, err)
		}
	}
}

func TestTheKeyIsTheFirstSegmentOfThePath(t *testing.T) {
	for app, want := range map[string]string{"": "", "k": "k", "/k": "k", "k/": "k", "k/a/b": "k", "k?x=1": "k", "//k//": "k", "/": ""} {
		if got := keyOf(app); got != want {
			t.Errorf("%q: %q", app, got)
		}
	}
}
