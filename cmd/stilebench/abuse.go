package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// AbuseReport is what a run of `stilebench abuse` found.
type AbuseReport struct {
	Version     int          `json:"version"`
	Date        time.Time    `json:"date"`
	Facts       Facts        `json:"machine"`
	CommandLine []string     `json:"command_line"`
	Server      string       `json:"server"`
	ServerIs    string       `json:"server_version,omitempty"`
	ServerArgs  []string     `json:"server_command,omitempty"`
	Laboratory  bool         `json:"laboratory"`
	Trials      []AbuseTrial `json:"trials"`
}

// Succeeded counts the trials that succeeded.
func (r *AbuseReport) Succeeded() (n int) {
	for _, t := range r.Trials {
		if t.Success() {
			n++
		}
	}
	return n
}

// AbuseTrial is one attack and what came of it.
type AbuseTrial struct {
	Name      string   `json:"name"`
	Question  string   `json:"question"`
	Successes []string `json:"successes"` // what the attack achieved; empty: nothing
	Figures   []Figure `json:"figures"`
	// Limits is what remains possible by design of draft-08 without credentials, measured and not held against the server.
	Limits  []string `json:"known_limits,omitempty"`
	Seconds float64  `json:"seconds"`
}

// Success reports whether the attack achieved something.
func (t *AbuseTrial) Success() bool { return len(t.Successes) > 0 }

// Figure is one number of a trial. Bound 0 has none; else more than Bound is a success of the attack.
type Figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit,omitempty"`
	Bound float64 `json:"bound,omitempty"`
}

// figure notes a number without a bound.
func (t *AbuseTrial) figure(name string, value float64, unit string) {
	t.Figures = append(t.Figures, Figure{Name: name, Value: value, Unit: unit})
}

// bounded notes a number that must not be above bound.
func (t *AbuseTrial) bounded(name string, value float64, unit string, bound float64) {
	t.Figures = append(t.Figures, Figure{name, value, unit, bound})
	if value > bound {
		t.success("%s: %s, more than %s", name, quantity(value, unit), quantity(bound, unit))
	}
}

// none notes a number of things that must not happen at all.
func (t *AbuseTrial) none(name string, value float64, unit string) {
	t.figure(name, value, unit)
	if value > 0 {
		t.success("%s: %s", name, quantity(value, unit))
	}
}

func (t *AbuseTrial) success(format string, args ...any) {
	t.Successes = append(t.Successes, fmt.Sprintf(format, args...))
}

func (t *AbuseTrial) limit(format string, args ...any) {
	t.Limits = append(t.Limits, fmt.Sprintf(format, args...))
}

func quantity(v float64, unit string) string {
	s := strconv.FormatFloat(v, 'f', 2, 64)
	s = strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
	if unit != "" {
		s += " " + unit
	}
	return s
}

// writeAbuse writes the report for people.
func writeAbuse(w io.Writer, r *AbuseReport) error {
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "%s\n", r.Server)
	for i := range r.Trials {
		t := &r.Trials[i]
		verdict := "no success"
		if t.Success() {
			verdict = "SUCCESS"
		}
		fmt.Fprintf(out, "\n%s: %s (%.1f s)\n  %s\n", t.Name, verdict, t.Seconds, t.Question)
		for _, s := range t.Successes {
			fmt.Fprintf(out, "  ! %s\n", s)
		}
		for _, f := range t.Figures {
			bound := ""
			if f.Bound != 0 {
				bound = ", at most " + quantity(f.Bound, f.Unit)
			}
			fmt.Fprintf(out, "    %-58s %s%s\n", f.Name, quantity(f.Value, f.Unit), bound)
		}
		for _, l := range t.Limits {
			fmt.Fprintf(out, "  ~ by design: %s\n", l)
		}
	}
	if n := r.Succeeded(); n == 0 {
		fmt.Fprintf(out, "\nno success in %d trials\n", len(r.Trials))
	} else {
		fmt.Fprintf(out, "\n%d of %d trials succeeded\n", n, len(r.Trials))
	}
	return out.Flush()
}

// disguise is a line of the policy corpus: an address that a relay must not send to.
type disguise struct {
	peer netip.Addr
	rule string // why not, in the words of the corpus
	what string
}

// corpusFile is where the policy corpus lies in the repository.
const corpusFile = "turn/testdata/policy/peers.txt"

// readDisguises reads the addresses of the corpus that a server without any list of its own must refuse: not those that its
// configuration denies or names as its public form, and not those with a zone, which no message can carry.
func readDisguises(repo string) (list []disguise, err error) {
	f, err := os.Open(filepath.Join(repo, corpusFile))
	if err != nil {
		return nil, fmt.Errorf("--repo: the corpus of disguises is part of the source: %w", err)
	}
	defer f.Close()
	seen := make(map[netip.Addr]bool)
	for s := bufio.NewScanner(f); s.Scan(); {
		if strings.HasPrefix(s.Text(), "#") {
			continue
		}
		v := strings.Fields(s.Text())
		if len(v) < 4 {
			return nil, fmt.Errorf("%s: %q: want an address, two verdicts and words", corpusFile, s.Text())
		}
		a, err := netip.ParseAddr(v[0])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", corpusFile, err)
		}
		if strings.HasPrefix(v[1], "+") || strings.HasSuffix(v[1], "denied-by-config") ||
			strings.HasPrefix(strings.Join(v[3:], " "), "own relay, public form") || a.Zone() != "" || seen[a] {
			continue
		}
		seen[a] = true
		list = append(list, disguise{a, v[1], strings.Join(v[3:], " ")})
	}
	if len(list) < 500 {
		return nil, fmt.Errorf("%s: %d addresses to refuse: the corpus is not whole", corpusFile, len(list))
	}
	return list, nil
}

// fuzzCorpora are the committed inputs of what reads clients' bytes.
var fuzzCorpora = []string{
	"turn/testdata/fuzz/FuzzFromClient", "turn/testdata/fuzz/FuzzFrame", "stun/testdata/fuzz/FuzzParse",
}

// readFuzzCorpora reads the first argument of every committed input.
func readFuzzCorpora(repo string) (inputs [][]byte, err error) {
	for _, dir := range fuzzCorpora {
		files, err := filepath.Glob(filepath.Join(repo, dir, "*"))
		if err != nil {
			return nil, err
		}
		if len(files) == 0 {
			return nil, fmt.Errorf("--repo: the fuzz corpora are part of the source: %s has no file", dir)
		}
		for _, name := range files {
			b, err := os.ReadFile(name)
			if err != nil {
				return nil, err
			}
			input, err := parseFuzzInput(b)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			inputs = append(inputs, input)
		}
	}
	return inputs, nil
}

// parseFuzzInput reads the first argument of a file of go test's fuzzing, which must be a []byte.
func parseFuzzInput(b []byte) ([]byte, error) {
	lines := strings.Split(string(b), "\n")
	if len(lines) < 2 || !strings.HasPrefix(lines[0], "go test fuzz v") {
		return nil, errors.New("no fuzz input")
	}
	quoted, ok := strings.CutPrefix(lines[1], "[]byte(")
	if !ok || !strings.HasSuffix(quoted, ")") {
		return nil, errors.New("the first argument is no []byte")
	}
	s, err := strconv.Unquote(strings.TrimSuffix(quoted, ")"))
	return []byte(s), err
}

// tally counts things by name and lists the most frequent.
type tally map[string]int

func (t tally) String() string {
	names := make([]string, 0, len(t))
	for name := range t {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		if t[a] != t[b] {
			return t[b] - t[a]
		}
		return strings.Compare(a, b)
	})
	var out []string
	for i, name := range names {
		if i == 8 {
			out = append(out, fmt.Sprintf("%d more kinds", len(names)-i))
			break
		}
		out = append(out, fmt.Sprintf("%d %s", t[name], name))
	}
	return strings.Join(out, ", ")
}
