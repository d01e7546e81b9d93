//go:build linux

package netns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// logLimit is how much of a command's output is kept, in bytes. The end matters most when a test fails, so the beginning goes.
const logLimit = 256 << 10

// Cmd is an exec.Cmd that runs inside a host. It ends (SIGTERM, then SIGKILL, both to its process group) with its context or
// with the lab, whichever comes first. What it prints to a stream that the caller has not taken is kept for Log.
type Cmd struct {
	*exec.Cmd
	title  string
	log    outputLog
	cancel context.CancelFunc

	started atomic.Bool
	once    sync.Once
	waited  chan struct{} // closed when Wait is done
	err     error         // of Wait, once waited is closed
}

// Command prepares a program to run inside the host. A name without a slash is looked up in PATH.
func (h *Host) Command(ctx context.Context, name string, args ...string) *Cmd {
	// The namespace is entered by nsenter, which then becomes the program: same process ID, and no way to start it outside.
	path, lookErr := exec.LookPath(name)
	ctx, cancel := context.WithCancel(ctx)
	context.AfterFunc(h.lab.ctx, cancel)
	c := &Cmd{cancel: cancel, waited: make(chan struct{})}
	c.Cmd = exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + h.NetNS(), "--", path}, args...)...)
	if lookErr != nil {
		c.Cmd.Err = lookErr
	}
	c.title = fmt.Sprintf("%s: %s", h.name, strings.Join(append([]string{name}, args...), " "))
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.WaitDelay = stopGrace
	c.Cancel = func() error {
		err := unix.Kill(-c.Process.Pid, unix.SIGTERM)
		if errors.Is(err, unix.ESRCH) {
			return os.ErrProcessDone
		}
		return err
	}
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	if h.lab.closed {
		cancel()
	}
	h.lab.cmds = append(h.lab.cmds, c)
	return c
}

// Start starts the program.
func (c *Cmd) Start() error {
	if c.Stdout == nil {
		c.Stdout = &c.log
	}
	if c.Stderr == nil {
		c.Stderr = &c.log
	}
	if err := c.Cmd.Start(); err != nil {
		return fmt.Errorf("netns: %s: %w", c.title, err)
	}
	c.started.Store(true)
	return nil
}

// Wait waits for the program to end, and ends what is left of its process group. It may be called more than once and from several goroutines.
func (c *Cmd) Wait() error {
	c.once.Do(func() {
		c.err = c.Cmd.Wait()
		c.cancel()
		unix.Kill(-c.Process.Pid, unix.SIGKILL) // what the program started and left behind
		close(c.waited)
	})
	<-c.waited
	return c.err
}

// Run starts the program and waits for it; an error carries what it printed.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	if err := c.Wait(); err != nil {
		return fmt.Errorf("netns: %s: %w\n%s", c.title, err, indent(c.Log()))
	}
	return nil
}

// Output runs the program and returns what it printed to its standard output.
func (c *Cmd) Output() ([]byte, error) {
	var out bytes.Buffer
	c.Stdout = io.MultiWriter(&out, &c.log)
	err := c.Run()
	return out.Bytes(), err
}

// CombinedOutput runs the program and returns what it printed.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	err := c.Run()
	return []byte(c.Log()), err
}

// Log is what the program has printed so far, at most its last 256 KiB. It is safe to call while the program runs.
func (c *Cmd) Log() string { return c.log.String() }

// WaitLog waits until the program has printed text. It fails when the program ends before or ctx does. The program's end is only
// seen if somebody else calls Wait.
func (c *Cmd) WaitLog(ctx context.Context, text string) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if strings.Contains(c.Log(), text) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("netns: %s has not printed %q: %w\n%s", c.title, text, ctx.Err(), indent(c.Log()))
		case <-c.waited:
			if strings.Contains(c.Log(), text) {
				return nil
			}
			return fmt.Errorf("netns: %s ended without printing %q: %v\n%s", c.title, text, c.err, indent(c.Log()))
		case <-tick.C:
		}
	}
}

// Stop ends the program as the lab's end would, and waits for it.
func (c *Cmd) Stop() error {
	c.cancel()
	return c.Wait()
}

// end makes sure that neither the program nor what it started outlives the lab.
func (c *Cmd) end() {
	c.cancel()
	if c.started.Load() {
		c.Wait()
	}
}

// outputLog keeps the end of what is written to it. It is safe for concurrent use.
type outputLog struct {
	mu  sync.Mutex
	buf []byte
}

func (o *outputLog) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf = append(o.buf, p...)
	if over := len(o.buf) - logLimit; over > 0 {
		o.buf = append(o.buf[:0], o.buf[over:]...)
	}
	return len(p), nil
}

func (o *outputLog) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.buf)
}
