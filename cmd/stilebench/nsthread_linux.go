package main

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// nsThread is one operating system thread, normally in a network namespace of its own. The namespace has no name: it
// ends with the thread, its sockets and its processes, so that a killed benchmark leaves nothing behind.
type nsThread struct {
	calls chan func()
	self  *os.File // the namespace
}

// newNSThread starts the thread, in a namespace of its own or, if not isolated, in the caller's.
func newNSThread(isolated bool) (*nsThread, error) {
	t := &nsThread{calls: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		var err error
		if isolated {
			err = unix.Unshare(unix.CLONE_NEWNET)
		}
		if err == nil {
			t.self, err = os.Open("/proc/thread-self/ns/net")
		}
		ready <- err
		if err != nil {
			return
		}
		for f := range t.calls {
			f()
		}
	}()
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("a network namespace: %w (the laboratory needs root, or CAP_SYS_ADMIN and CAP_NET_ADMIN)", err)
	}
	return t, nil
}

// do runs f on the thread. Processes that f starts, and sockets that it opens, belong to the namespace.
func (t *nsThread) do(f func() error) error {
	res := make(chan error)
	t.calls <- func() { res <- f() }
	return <-res
}

// path names the namespace for `ip link … netns`.
func (t *nsThread) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), t.self.Fd()) }

func (t *nsThread) close() {
	close(t.calls)
	_ = t.self.Close()
}
