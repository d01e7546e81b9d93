package mmscfg

import (
	"fmt"
	"slices"
)

// Check parses a file and returns everything to know about it, by line. A file that is too large gets one finding.
func Check(b []byte) []Finding {
	f, err := Parse(b)
	if err != nil {
		return []Finding{{Severity: Error, Problem: fmt.Sprintf("the file has %d bytes, more than %d", len(b), MaxSize), Remedy: "check that this is mms.cfg"}}
	}
	return f.Check()
}

// Check returns everything to know about the file, by line, those of the file as a whole first; at most [MaxFindings]. The caller owns the slice.
// A file without findings above [Info] configures a proxy in the documented form; whether it resolves and answers is for the caller to try.
func (f *File) Check() []Finding {
	found := append([]Finding(nil), f.findings...)
	for _, s := range f.settings {
		// Earlier duplicates are judged as well: the player may be the one that takes them.
		switch known, _ := canonicalName(s.Name); known {
		case NameTURNProxy:
			_, notes, err := parseProxy(s.Value)
			if err != nil {
				notes = append(notes, Finding{Severity: Error, Problem: err.Problem, Remedy: err.Remedy})
			}
			for _, n := range notes {
				n.Line = s.Line
				found = appendFinding(found, n)
			}
		case NameP2PDisable:
			found = f.checkP2P(found, s)
		}
	}
	if _, ok := f.Lookup(NameTURNProxy); !ok {
		found = appendFinding(found, Finding{Severity: Warning, Problem: "the file does not set " + NameTURNProxy + ", so players have no proxy to fall back to",
			Remedy: "add " + NameTURNProxy + "=your-proxy"})
	}
	slices.SortStableFunc(found, func(a, b Finding) int { return a.Line - b.Line })
	return found
}

func (f *File) checkP2P(found []Finding, s Setting) []Finding {
	switch s.Value {
	case "0":
		return found
	case "1":
		problem := NameP2PDisable + " is 1: players refuse peer-to-peer connections"
		if _, ok := f.Lookup(NameTURNProxy); ok {
			problem += ", and use the proxy only to reach the service"
		}
		return appendFinding(found, Finding{Line: s.Line, Severity: Warning, Problem: problem, Remedy: "write 0 if players shall reach each other"})
	}
	return appendFinding(found, Finding{Line: s.Line, Severity: Error, Problem: quote(s.Value) + " is not a value of " + NameP2PDisable,
		Remedy: "write 0 (peer-to-peer on) or 1 (off)"})
}
