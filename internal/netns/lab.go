//go:build linux

package netns

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// How long ending a lab may take. Ours to tune.
const (
	toolTimeout = 20 * time.Second // for one run of nft; it takes milliseconds, but the machine may be busy
	stopGrace   = 3 * time.Second  // between SIGTERM and SIGKILL for what a test left running
)

// Lab is a set of hosts and links that live as long as one test. Its building methods are for the test's goroutine only.
type Lab struct {
	tb  testing.TB
	ctx context.Context // ends when the lab is cleaned up; every command of the lab ends with it

	cancel context.CancelFunc
	hosts  []*Host
	inet   *Internet

	nextIndex int // of veth interfaces

	mu      sync.Mutex // guards what follows: sockets and commands are made by running tests
	closed  bool
	closers map[io.Closer]struct{}
	cmds    []*Cmd
	notes   []func() string // lines for the picture, from userspace links and NATs
}

// New returns an empty lab that the test's cleanup removes. It ends the test if the machine cannot run one.
func New(tb testing.TB) *Lab {
	tb.Helper()
	if err := usable(); err != nil {
		tb.Fatalf("netns: this test needs network namespaces: %v", err)
	}
	l := &Lab{tb: tb, closers: make(map[io.Closer]struct{})}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	tb.Cleanup(l.close)
	return l
}

// usable says what the machine lacks, with the remedy.
func usable() error {
	for _, tool := range []struct{ name, pkg string }{{"nft", "nftables"}, {"nsenter", "util-linux"}} {
		if _, err := exec.LookPath(tool.name); err != nil {
			return fmt.Errorf("%s is not installed: apt-get install %s", tool.name, tool.pkg)
		}
	}
	fd, err := newNamespace()
	if err != nil {
		return fmt.Errorf("%w: run the tests as root", err)
	}
	return unix.Close(fd)
}

// close removes the lab: it stops commands, closes sockets, and lets go of the namespaces, which the kernel then dismantles.
func (l *Lab) close() {
	if l.tb.Failed() {
		l.tb.Log("the lab:\n" + l.Picture())
	}
	l.cancel()
	l.mu.Lock()
	l.closed = true
	cmds, closers := l.cmds, l.closers
	l.closers = nil
	l.mu.Unlock()
	for _, c := range cmds {
		c.end()
	}
	for c := range closers {
		c.Close()
	}
	if l.tb.Failed() {
		for _, c := range cmds {
			l.tb.Logf("%s printed:\n%s", c.title, indent(c.Log()))
		}
	}
	for _, h := range l.hosts {
		h.nl.Close()
		unix.Close(h.ns)
	}
}

// keep has c closed with the lab. It reports false, and closes c at once, when the lab is gone.
func (l *Lab) keep(c io.Closer) bool {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		c.Close()
		return false
	}
	l.closers[c] = struct{}{}
	l.mu.Unlock()
	return true
}

func (l *Lab) note(f func() string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.notes = append(l.notes, f)
}

// must ends the test if err is not nil.
func (l *Lab) must(err error, format string, args ...any) {
	l.tb.Helper()
	if err != nil {
		l.tb.Fatalf("netns: "+format+": %v", append(args, err)...)
	}
}

func indent(s string) string {
	s = strings.TrimRight(s, "\n")
	if s == "" {
		return "    (nothing)"
	}
	return "    " + strings.ReplaceAll(s, "\n", "\n    ")
}

func nsPath(fd int) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd) }
