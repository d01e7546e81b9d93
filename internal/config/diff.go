package config

import (
	"fmt"
	"slices"
	"strings"
)

// Change is a key whose value differs between two configurations.
type Change struct {
	Key      string
	Old, New string // as a flag would take them; secrets hidden
	Restart  bool   // the running server cannot take the new value
}

// String returns "log.level: info -> debug", with ", needs a restart" where it does.
func (c Change) String() string {
	s := fmt.Sprintf("%s: %s -> %s", c.Key, orNothing(c.Old), orNothing(c.New))
	if c.Restart {
		s += ", needs a restart"
	}
	return s
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

// Diff returns the keys that differ, in the order of configs/stile.yaml. A changed content of turn.auth.secret_file or turn.auth.users_file is a change
// of turn.auth.secret or turn.auth.users.
func Diff(before, after *Config) []Change {
	var changes []Change
	for i := range keys {
		k := &keys[i]
		if !slices.Equal(k.get(before), k.get(after)) {
			changes = append(changes, Change{Key: k.name, Old: joinList(k.hide(before)), New: joinList(k.hide(after)), Restart: k.restart})
		}
	}
	return changes
}

// hide returns the value without secrets, those of their own files too.
func (k *key) hide(c *Config) value {
	if !k.secret {
		return k.get(c)
	}
	if v := k.get(c); len(v) > 0 && v[0] != "" {
		return value{hidden}
	}
	return nil
}

// NeedsRestart returns one line for an administrator who reloads: which changes wait for a restart. It is "" when none does.
func NeedsRestart(changes []Change) string {
	var names []string
	for _, c := range changes {
		if c.Restart {
			names = append(names, c.Key)
		}
	}
	switch len(names) {
	case 0:
		return ""
	case 1:
		return "config: " + names[0] + " changed, which needs a restart: the old value stays in force until then"
	}
	return "config: " + strings.Join(names, ", ") + " changed, which needs a restart: the old values stay in force until then"
}
