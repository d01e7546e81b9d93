// Package mmscfg reads mms.cfg, the file in which an administrator configures Flash Player and AIR, and says what is wrong with it.
// It is the only parser of that file in this module.
//
// The file is text: one `name = value` per line, comments on lines that begin with `#`. Two names matter here:
//
//	RTMFPTURNProxy = proxy.example.com   the TURN proxy to fall back to, an address or a host name
//	RTMFPP2PDisable = 0                  1 turns peer-to-peer connections off
//
// [Parse] never fails on what the file says: what it cannot use is a [Finding] with the line, the problem and the remedy.
// Everything but [Read] and [ReadLocal] is pure, and all of it is safe for concurrent use.
//
// # Limitations
//
// What the player does with duplicate names, other letter case, a byte order mark, UTF-16 or a port in RTMFPTURNProxy is not documented.
// Such lines are read in the tolerant way and reported, because the player may read them otherwise.
// Nothing here resolves a name or talks to a proxy: the caller does.
package mmscfg

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Ours to tune.
const (
	// MaxSize bounds the bytes of a file. The player knows fewer than 100 settings, so 64 KiB leaves room for comments and long lists of domains.
	MaxSize = 64 << 10
	// MaxFindings bounds the findings of one file: somebody reads them. The last one then says that there are more.
	MaxFindings = 100
)

// The names that this module acts on, as Adobe writes them.
const (
	NameTURNProxy  = "RTMFPTURNProxy"
	NameP2PDisable = "RTMFPP2PDisable"
)

// ErrTooLarge reports a file of more than [MaxSize] bytes.
var ErrTooLarge = errors.New("mmscfg: larger than 64 KiB: this is not a mms.cfg file")

// Severity says what a finding means for the player. The zero value is not a severity.
type Severity uint8

const (
	_       Severity = iota
	Info             // correct, and worth knowing
	Warning          // may not do what was meant
	Error            // does not do what was meant
)

// String returns the severity in lower case.
func (s Severity) String() string {
	switch s {
	case Info:
		return "info"
	case Warning:
		return "warning"
	case Error:
		return "error"
	}
	return "unknown"
}

// Finding is one thing to know about a file.
type Finding struct {
	Line     int // from 1; 0 is the file as a whole
	Severity Severity
	Problem  string // what is the matter
	Remedy   string // what to do about it; may be empty for Info
}

// String returns "line 3: error: problem: remedy".
func (f Finding) String() string {
	s := f.Severity.String() + ": " + f.Problem
	if f.Remedy != "" {
		s += ": " + f.Remedy
	}
	if f.Line > 0 {
		s = fmt.Sprintf("line %d: %s", f.Line, s)
	}
	return s
}

// Setting is one `name = value` line.
type Setting struct {
	Line  int    // from 1
	Name  string // as written
	Value string // without the white space around it; may be empty
}

// File is a parsed mms.cfg. The zero value is an empty file. It is not changed after Parse.
type File struct {
	settings []Setting
	findings []Finding // of the text; Check adds those of the values
}

// Settings returns every setting in file order, the unknown ones too. The caller owns the slice.
func (f *File) Settings() []Setting { return append([]Setting(nil), f.settings...) }

// Lookup returns the last setting of that name, in any letter case.
func (f *File) Lookup(name string) (Setting, bool) {
	for i := len(f.settings) - 1; i >= 0; i-- {
		if strings.EqualFold(f.settings[i].Name, name) {
			return f.settings[i], true
		}
	}
	return Setting{}, false
}

// RTMFPTURNProxy returns the proxy that the file names. ok is false when it names none, or one that cannot be used; [File.Check] says why.
func (f *File) RTMFPTURNProxy() (proxy Proxy, ok bool) {
	s, found := f.Lookup(NameTURNProxy)
	if !found {
		return Proxy{}, false
	}
	proxy, err := ParseProxy(s.Value)
	return proxy, err == nil
}

// RTMFPP2PDisable reports whether the file turns peer-to-peer connections off. A value other than 0 and 1 counts as 0; [File.Check] reports it.
func (f *File) RTMFPP2PDisable() bool {
	s, _ := f.Lookup(NameP2PDisable)
	return s.Value == "1"
}

// Parse reads the text of a mms.cfg: UTF-8 with or without a byte order mark (UTF-16 with one is decoded, and reported), lines that end in LF, CRLF
// or CR. It keeps no reference to b. The only error is [ErrTooLarge].
func Parse(b []byte) (*File, error) {
	if len(b) > MaxSize {
		return nil, ErrTooLarge
	}
	f := &File{}
	text := f.decode(b)
	for i, line := range splitLines(text) {
		f.parseLine(i+1, line)
	}
	return f, nil
}

// decode returns the text of the file without its byte order mark.
func (f *File) decode(b []byte) string {
	utf16Text := func(order binary.ByteOrder, b []byte) string {
		f.find(0, Error, "the file is saved as UTF-16", "save it as UTF-8 (in Notepad: Save As, encoding UTF-8 or ANSI)")
		units := make([]uint16, len(b)/2)
		for i := range units {
			units[i] = order.Uint16(b[2*i:])
		}
		return string(utf16.Decode(units))
	}
	switch {
	case bytes.HasPrefix(b, []byte{0xEF, 0xBB, 0xBF}):
		f.find(1, Warning, "the file begins with a byte order mark, which the player may take for a part of the first name",
			"save it as UTF-8 without a mark, or begin it with an empty line")
		b = b[3:]
	case bytes.HasPrefix(b, []byte{0xFF, 0xFE}):
		return utf16Text(binary.LittleEndian, b[2:])
	case bytes.HasPrefix(b, []byte{0xFE, 0xFF}):
		return utf16Text(binary.BigEndian, b[2:])
	}
	return string(b)
}

// splitLines splits at LF, CRLF and CR: files from all three systems exist.
func splitLines(text string) []string {
	text = strings.ReplaceAll(text, "\r\n", "\n")
	return strings.Split(strings.ReplaceAll(text, "\r", "\n"), "\n")
}

func (f *File) parseLine(n int, line string) {
	line = strings.TrimSpace(line)
	switch {
	case line == "" || line[0] == '#':
		return
	case strings.ContainsRune(line, 0):
		f.find(n, Error, "the line holds a NUL byte", "write the file again with a text editor, as UTF-8")
		return
	case !utf8.ValidString(line):
		f.find(n, Warning, "the line is not UTF-8", "save the file as UTF-8")
	case strings.HasPrefix(line, "//") || line[0] == ';':
		f.find(n, Error, quote(line)+" is not a comment in this file", "begin comments with #")
		return
	}
	name, value, ok := strings.Cut(line, "=")
	name, value = strings.TrimSpace(name), strings.TrimSpace(value)
	switch {
	case !ok:
		f.find(n, Error, quote(line)+" is not a setting", "write name = value, or begin the line with # if it is a comment")
		return
	case name == "":
		f.find(n, Error, quote(line)+" has no name before the =", "write name = value")
		return
	}
	f.checkName(n, name, value)
	f.settings = append(f.settings, Setting{Line: n, Name: name, Value: value})
}

// checkName reports names in another letter case, misspelt names and duplicates. It runs before the setting joins the others.
func (f *File) checkName(n int, name, value string) {
	known, repeats := canonicalName(name)
	switch {
	case known == "":
		if near := nearName(name); near != "" {
			f.find(n, Warning, quote(name)+" is not a known setting", "did you mean "+near+"?")
		}
	case known != name:
		f.find(n, Warning, quote(name)+" differs from "+known+" in letter case, and the player may tell them apart", "write "+known)
	}
	if repeats {
		return
	}
	if old, dup := f.Lookup(name); dup {
		if known == "" {
			name = quote(name) // anything may stand there, control characters too
		}
		if old.Value == value {
			f.find(n, Info, fmt.Sprintf("%s is already on line %d with the same value", name, old.Line), "remove one of the two lines")
			return
		}
		f.find(n, Warning, fmt.Sprintf("%s is already on line %d as %s; the last one, this, is taken here, and which one the player takes is not documented",
			name, old.Line, quote(old.Value)), "remove one of the two lines")
	}
}

func (f *File) find(line int, s Severity, problem, remedy string) {
	f.findings = appendFinding(f.findings, Finding{Line: line, Severity: s, Problem: problem, Remedy: remedy})
}

// appendFinding holds MaxFindings: the last place is for the finding that says so.
func appendFinding(to []Finding, f Finding) []Finding {
	switch {
	case len(to) < MaxFindings-1:
		return append(to, f)
	case len(to) == MaxFindings-1:
		return append(to, Finding{Severity: Error, Problem: "there are more findings than the first 99", Remedy: "repair these and check again"})
	}
	return to
}

// quote returns s in quotes, printable and at most 60 runes of it, for a line that somebody reads.
func quote(s string) string {
	if r := []rune(s); len(r) > 60 {
		s = string(r[:60]) + "…"
	}
	return fmt.Sprintf("%q", s)
}
