package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// placement says which CPUs are used. A server of -1 is not pinned: there is only one CPU.
type placement struct{ generator, server int }

// place pins this process, so that nothing of it runs where the server is measured, and locks the calling goroutine
// to its thread, which is the generator's. nice is its priority and, by inheritance, its servers'.
func place(nice int) (placement, error) {
	cpus, err := allowedCPUs()
	if err != nil {
		return placement{}, err
	}
	runtime.LockOSThread()
	if nice != 0 {
		// Threads have their own priority on Linux; those that follow inherit it.
		if err := eachThread(func(tid int) error { return unix.Setpriority(unix.PRIO_PROCESS, tid, nice) }); err != nil {
			return placement{}, fmt.Errorf("--nice %d: %w", nice, err)
		}
		if err := raiseAutogroup(nice); err != nil {
			return placement{}, fmt.Errorf("--nice %d: %w", nice, err)
		}
	}
	p := placement{generator: cpus[0], server: -1}
	if len(cpus) < 2 {
		return p, nil
	}
	p.server = cpus[len(cpus)-1]
	return p, pinProcess(p.generator)
}

// restorePriority undoes what place did to processes that are not ours. main calls it at the end.
var restorePriority = func() {}

// raiseAutogroup gives the session its priority: where the kernel groups processes by session (sched_autogroup), a
// thread's own counts only against others of the same session.
func raiseAutogroup(nice int) error {
	const name = "/proc/self/autogroup"
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	// "/autogroup-10 nice 0"
	f := strings.Fields(string(b))
	if len(f) != 3 {
		return nil // the session has no group
	}
	if err := os.WriteFile(name, []byte(fmt.Sprint(nice)), 0); err != nil {
		return err
	}
	restorePriority = func() { _ = os.WriteFile(name, []byte(f[2]), 0) }
	return nil
}
