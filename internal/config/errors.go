package config

import (
	"fmt"
	"strings"
)

// Source kinds of an [Origin], in the order of precedence. The zero value is Default.
const (
	Default OriginKind = iota
	File
	Environment
	Flag
)

// OriginKind is one of the four sources.
type OriginKind uint8

// Origin says where a value was written.
type Origin struct {
	Kind OriginKind
	Name string // path of the file, name of the variable or of the flag; empty for Default
	Line int    // of the file, from 1; 0 when it is not about one line
}

// String returns "stile.yaml line 3", "environment STILE_TURN_LISTEN", "flag --turn.listen" or "default".
func (o Origin) String() string {
	switch o.Kind {
	case File:
		if o.Line > 0 {
			return fmt.Sprintf("%s line %d", o.Name, o.Line)
		}
		return o.Name
	case Environment:
		return "environment " + o.Name
	case Flag:
		return "flag --" + o.Name
	}
	return "default"
}

// Error is one operator's mistake.
type Error struct {
	Key     string // the full key; empty for a mistake of the file as a whole
	Problem string
	Remedy  string
	Origin  Origin
}

// Error returns "config: key: problem: remedy (origin)", without the origin when it is the default.
func (e *Error) Error() string {
	s := "config: "
	if e.Key != "" {
		s += e.Key + ": "
	}
	s += e.Problem
	if e.Remedy != "" {
		s += ": " + e.Remedy
	}
	if e.Origin.Kind != Default {
		s += " (" + e.Origin.String() + ")"
	}
	return s
}

// Errors are all mistakes of a configuration, in the order of the file, then environment, flags and rules between keys.
type Errors []*Error

// Error returns one line for each.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, one := range e {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives errors.As each of them.
func (e Errors) Unwrap() []error {
	all := make([]error, len(e))
	for i, one := range e {
		all[i] = one
	}
	return all
}

// or returns e as an error, nil when there is none.
func (e Errors) or() error {
	if len(e) == 0 {
		return nil
	}
	return e
}

// problem is a mistake in a value, before its key and origin are known. item is the index in a list, -1 for the value as a whole.
type problem struct {
	what, remedy string
	item         int
}

func bad(remedy, format string, args ...any) *problem {
	return &problem{what: fmt.Sprintf(format, args...), remedy: remedy, item: -1}
}
