package main

import "runtime"

// placement says which CPUs are used. A server of -1 is not pinned: there is only one CPU.
type placement struct{ generator, server int }

// place pins this process, so that nothing of it runs where the server is measured, and locks the calling goroutine
// to its thread, which is the generator's.
func place() (placement, error) {
	cpus, err := allowedCPUs()
	if err != nil {
		return placement{}, err
	}
	runtime.LockOSThread()
	p := placement{generator: cpus[0], server: -1}
	if len(cpus) < 2 {
		return p, nil
	}
	p.server = cpus[len(cpus)-1]
	return p, pinProcess(p.generator)
}
