package mmscfg

import (
	"strings"
	"testing"
)

// FuzzParse holds what callers rely on for any file: bounded findings with lines inside the file, a remedy for whatever is wrong, and a proxy that can be
// dialled and whose own line is read back as itself.
func FuzzParse(f *testing.F) {
	f.Add([]byte("# c\r\nRTMFPTURNProxy = [2001:db8::1]:3478\r\nRTMFPP2PDisable=1\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := Parse(b)
		if err != nil {
			if len(b) <= MaxSize {
				t.Fatalf("%d bytes: %v", len(b), err)
			}
			return
		}
		found := file.Check()
		if len(found) > MaxFindings {
			t.Errorf("%d findings", len(found))
		}
		usable := true
		for _, n := range found {
			if n.Line < 0 || n.Line > len(b)+1 {
				t.Errorf("line %d of a file of %d bytes", n.Line, len(b))
			}
			if n.Severity < Info || n.Severity > Error || n.Problem == "" || n.Remedy == "" && n.Severity > Info {
				t.Errorf("finding %#v", n)
			}
			if strings.ContainsAny(n.String(), "\n\x00") {
				t.Errorf("finding %q is not one line", n)
			}
			usable = usable && n.Severity != Error
		}
		p, ok := file.RTMFPTURNProxy()
		if !ok {
			if _, set := file.Lookup(NameTURNProxy); set && usable {
				t.Error("an unusable proxy without a finding")
			}
			return
		}
		if p.Host == "" || p.Port == 0 {
			t.Errorf("proxy %#v", p)
		}
		line, err := Line(p.HostPort())
		if err != nil {
			t.Fatalf("the proxy %#v is not read back: %v", p, err)
		}
		again, err := Parse([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		if q, ok := again.RTMFPTURNProxy(); !ok || q != p {
			t.Errorf("%q is read as %#v, want %#v", line, q, p)
		}
	})
}
