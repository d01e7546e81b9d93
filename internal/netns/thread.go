//go:build linux

package netns

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// home is the namespace that the process started in. Threads that run goroutines are always there, so it is safe to ask any.
var home = sync.OnceValues(func() (int, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
})

var errGoexit = errors.New("netns: the function ended its goroutine")

// onThread runs f on a goroutine with an OS thread of its own that enter has moved to another namespace. The thread comes back
// home before others may use it; if it cannot, it ends with its goroutine.
func onThread(enter func() error, f func() error) error {
	back, err := home()
	if err != nil {
		return fmt.Errorf("netns: open the own namespace: %w", err)
	}
	done := make(chan error, 1)
	go func() {
		result := errGoexit // stands if f calls runtime.Goexit, as testing's FailNow does
		runtime.LockOSThread()
		defer func() { done <- result }()
		if err := enter(); err != nil {
			runtime.UnlockOSThread()
			result = err
			return
		}
		defer func() {
			if unix.Setns(back, unix.CLONE_NEWNET) == nil {
				runtime.UnlockOSThread()
			}
		}()
		result = f()
	}()
	return <-done
}

// newNamespace makes a network namespace and returns the descriptor that keeps it alive.
func newNamespace() (fd int, err error) {
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		return nil
	}, func() error {
		var err error
		fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	return fd, err
}
