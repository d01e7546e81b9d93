package main

import (
	"os"
	"runtime"
	"strings"
)

// Facts is what a reader must know of the machine.
type Facts struct {
	CPU    string `json:"cpu"`
	CPUs   int    `json:"cpus"` // online
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
}

func machineFacts() Facts {
	f := Facts{CPUs: runtime.NumCPU(), Go: runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH}
	b, _ := os.ReadFile("/proc/cpuinfo")
	n := 0
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(name) {
		case "model name":
			f.CPU = strings.TrimSpace(value)
		case "processor":
			n++
		}
	}
	f.CPUs = max(f.CPUs, n)
	b, _ = os.ReadFile("/proc/sys/kernel/osrelease")
	f.Kernel = strings.TrimSpace(string(b))
	return f
}
