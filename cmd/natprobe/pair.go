package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stilenet/stile/nattest"
)

const maxReportFile = 4 << 20 // bytes of a file: a page with its pictures is larger than the report in it

func (a *app) pair() *cobra.Command {
	var asJSON, quiet bool
	c := &cobra.Command{
		Use:   "pair A.json B.json",
		Short: "Say whether two probed machines connect directly, and why",
		Long: "pair compares two results of `natprobe --json` or `natprobe --html` and says how the two machines connect: directly, directly with a technique, or by a relay.\n\n" +
			"Exit code: 0 direct, 1 with a technique, 2 relay, 4 unknown, 64 a mistake in the command line or in a file.",
		Args: exactly(2, "two files"),
		RunE: func(_ *cobra.Command, args []string) error {
			var v [2]nattest.Verdict
			for i, path := range args {
				r, err := a.readReport(path)
				if err != nil {
					return usage{fmt.Errorf("%s: %w", path, err)}
				}
				v[i] = r.Verdict
			}
			p := nattest.Predict(v[0], v[1])
			a.code = map[nattest.Path]int{nattest.PathDirect: exitDirect, nattest.PathTechnique: exitTechnique, nattest.PathRelay: exitRelay, nattest.PathUnknown: exitUnknown}[p.Path]
			switch {
			case asJSON:
				e := json.NewEncoder(a.out)
				e.SetIndent("", "  ")
				return e.Encode(p)
			case !quiet:
				printPair(a.out, args, v, p)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().BoolVar(&quiet, "quiet", false, "print nothing; the exit code says it")
	return c
}

func printPair(w io.Writer, names []string, v [2]nattest.Verdict, p nattest.Prediction) {
	for i := range v {
		fmt.Fprintf(w, "  %c  %s: NAT %s; firewall %s\n", 'A'+i, names[i], natWords(&v[i]), filterWords(&v[i]))
	}
	fmt.Fprintln(w)
	switch p.Path {
	case nattest.PathDirect:
		fmt.Fprintln(w, "They connect directly.")
	case nattest.PathTechnique:
		fmt.Fprintf(w, "They connect directly with %s. Players without it need the relay.\n", techniqueWords(p.Techniques))
	case nattest.PathRelay:
		fmt.Fprintln(w, "They need a relay.")
	default:
		fmt.Fprintln(w, "What is known leaves it open.")
	}
	for _, why := range p.Why {
		fmt.Fprintln(w, wrap(why, lineWidth))
	}
}

// The marks around the JSON in a page.
const (
	jsonBegin = `<script type="application/json" id="report">`
	jsonEnd   = `</script>`
)

// readReport reads a result, or a page with one. "-" is the standard input.
func (a *app) readReport(path string) (*nattest.Report, error) {
	var in io.Reader = a.in
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, errors.New(strings.TrimPrefix(err.Error(), "open "+path+": "))
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxReportFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxReportFile {
		return nil, nattest.ErrReportSize
	}
	if _, rest, ok := bytes.Cut(b, []byte(jsonBegin)); ok {
		b, _, _ = bytes.Cut(rest, []byte(jsonEnd))
	}
	return nattest.ParseReport(b)
}
