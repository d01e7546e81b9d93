//go:build e2e

package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stilenet/stile/internal/netns"
)

func TestRelayIsTriedAndAudited(t *testing.T) {
	a := newArena(t)
	coturn := a.inet.Host("coturn", "203.0.113.20")
	cmd := coturn.Command(t.Context(), "turnserver", "-n", "-a", "-u", "alice:secret", "-r", "example.net", "-L", "203.0.113.20", "-E", "203.0.113.20", "-p", "3478",
		"--no-tls", "--no-dtls", "--no-cli", "-l", "stdout", "--pidfile", a.dir+"/coturn.pid", "-b", a.dir+"/coturn.db")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go cmd.Wait()
	desk := a.site(1, netns.SiteConfig{NAT: netns.Masquerade})
	secret := a.dir + "/secret"
	if err := os.WriteFile(secret, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := 0; ; i++ { // until coturn listens
		if c, err := desk.Dial(t.Context(), "tcp", "203.0.113.20:3478"); err == nil {
			c.Close()
			break
		} else if i == 200 {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	for _, tc := range []struct {
		name    string
		args    []string
		code    int
		allowed func(auditLine) bool
	}{
		{"stile", []string{"turn:" + serverAddr}, exitRelayWorks, func(auditLine) bool { return false }},
		{"stile over TCP", []string{"turn:" + serverAddr + "?transport=tcp", "--no-load"}, exitRelayWorks, func(auditLine) bool { return false }},
		// coturn as it comes denies loopback, and lets clients into the networks that its machine is in.
		{"coturn with credentials", []string{"turn:203.0.113.20:3478?transport=udp", "--user", "alice", "--password-file", secret}, exitRelayOpen,
			func(x auditLine) bool { return !strings.Contains(x.What, "loopback") }},
		{"coturn without credentials", []string{"turn:203.0.113.20:3478?transport=udp"}, exitRelayFails, nil},
		{"nobody", []string{"turn:203.0.113.20:3479?transport=udp"}, exitRelayFails, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out, code := a.run(desk, append([]string{"relay", "--json"}, tc.args...)...)
			var r relayReport
			if err := json.Unmarshal([]byte(out), &r); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if code != tc.code || r.ExitCode != code {
				t.Errorf("code %d, want %d: %s", code, tc.code, out)
			}
			if tc.code == exitRelayFails {
				return
			}
			if l := r.Link; !l.passes() || l.Path != "two-allocations" || l.MedianMS <= 0 {
				t.Errorf("link %+v", l)
			}
			for _, x := range r.Audit {
				if x.State == auditOpen && !tc.allowed(x) {
					t.Errorf("it says that the relay reaches %s (%v)", x.What, x.Address)
				}
			}
			if len(r.Audit) < 10 {
				t.Errorf("audit %+v", r.Audit)
			}
			t.Logf("%+v, %d questions", *r.Link, len(r.Audit))
		})
	}
}
