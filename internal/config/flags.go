package config

import (
	"bytes"
	"encoding/csv"
	"strings"

	"github.com/spf13/pflag"
)

const configFlag = "config"

// Flags registers --config (-c) and a flag for each key: --turn.listen, --log.level. Lists are separated by commas, or the flag is repeated. What the
// flags say is judged by [Load], together with everything else.
func Flags(fs *pflag.FlagSet) {
	fs.StringP(configFlag, "c", "", "configuration file (variable "+ConfigVariable+")")
	for i := range keys {
		k := &keys[i]
		f := &flagValue{key: k}
		fs.Var(f, k.name, k.usage)
		added := fs.Lookup(k.name)
		added.DefValue = joinList(k.def)
		if k.kind == boolKind {
			added.NoOptDefVal = "true"
		}
	}
}

// flagValue keeps the text: the key judges it later, with its place in the order of sources.
type flagValue struct {
	key  *key
	text string
	set  bool
}

// String returns the text; pflag compares it with the default.
func (f *flagValue) String() string { return f.text }

// Set keeps or, for a list that is repeated, appends. It never fails.
func (f *flagValue) Set(s string) error {
	if f.set && f.key.kind.list() && f.text != "" {
		s = f.text + "," + s
	}
	f.text, f.set = s, true
	return nil
}

// Type names the kind of value in the usage.
func (f *flagValue) Type() string { return f.key.kind.String() }

func parseFlags(fs *pflag.FlagSet) (layer, Errors) {
	l := layer{}
	var errs Errors
	if fs == nil {
		return l, nil
	}
	for i := range keys {
		k := &keys[i]
		f := fs.Lookup(k.name)
		if f == nil || !f.Changed {
			continue
		}
		origin := Origin{Kind: Flag, Name: k.name}
		v, pr := k.split(f.Value.String())
		if pr != nil {
			errs = append(errs, &Error{Key: k.name, Problem: pr.what, Remedy: pr.remedy, Origin: origin})
			continue
		}
		l[k.name] = entry{value: v, origin: origin}
	}
	return l, errs
}

// joinList writes items as a flag takes them.
func joinList(v value) string {
	if len(v) == 0 {
		return ""
	}
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	w.Write(v) // a bytes.Buffer does not fail
	w.Flush()
	return strings.TrimSuffix(b.String(), "\n")
}
