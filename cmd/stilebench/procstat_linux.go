package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// procTimes is CPU time of a set of processes since they started.
type procTimes struct {
	run          int64   // ns on a CPU, all living threads, by the scheduler's clock
	user, system float64 // seconds, by the tick, ended threads included
}

const ticksPerSecond = 100 // USER_HZ, which is 100 on every architecture that Go knows

// readProc adds up the processes and, for run, their threads. A process that has ended counts nothing.
func readProc(pids []int) (t procTimes, err error) {
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return t, err
		}
		// The name in parentheses may hold anything, parentheses too.
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		if len(fields) < 13 {
			return t, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
		}
		u, _ := strconv.ParseFloat(fields[11], 64)
		s, _ := strconv.ParseFloat(fields[12], 64)
		t.user += u / ticksPerSecond
		t.system += s / ticksPerSecond
		tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		for _, task := range tasks {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", pid, task.Name()))
			if err != nil {
				continue
			}
			if f := strings.Fields(string(b)); len(f) > 0 {
				ns, _ := strconv.ParseInt(f[0], 10, 64)
				t.run += ns
			}
		}
	}
	return t, nil
}

// processTree is a process and its descendants.
func processTree(root int) []int {
	pids := []int{root}
	for i := 0; i < len(pids); i++ {
		tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pids[i]))
		for _, task := range tasks {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pids[i], task.Name()))
			for _, f := range strings.Fields(string(b)) {
				if pid, err := strconv.Atoi(f); err == nil {
					pids = append(pids, pid)
				}
			}
		}
	}
	return pids
}

// kernelThreads finds kernel threads by the beginning of their names.
func kernelThreads(prefix string) (pids []int, err error) {
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if b, err := os.ReadFile(name); err == nil && strings.HasPrefix(string(b), prefix) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// coreTimes is what one CPU did since boot, in seconds.
type coreTimes struct{ busy, steal float64 }

func readCore(cpu int) (coreTimes, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return coreTimes{}, err
	}
	prefix := fmt.Sprintf("cpu%d ", cpu)
	for line := range strings.Lines(string(b)) {
		if !strings.HasPrefix(line, prefix) {
			continue
		}
		var v [8]float64 // user nice system idle iowait irq softirq steal
		for i, f := range strings.Fields(line)[1:] {
			if i < len(v) {
				v[i], _ = strconv.ParseFloat(f, 64)
			}
		}
		return coreTimes{busy: (v[0] + v[1] + v[2] + v[5] + v[6]) / ticksPerSecond, steal: v[7] / ticksPerSecond}, nil
	}
	return coreTimes{}, fmt.Errorf("/proc/stat has no CPU %d", cpu)
}

// pssKB is the proportional memory of processes in KiB.
func pssKB(pids []int) (sum int64, err error) {
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return 0, fmt.Errorf("memory of the server: %w", err)
		}
		sum += kbField(b, "Pss:")
	}
	return sum, nil
}

func kbField(b []byte, name string) int64 {
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			kb, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kb
		}
	}
	return 0
}

// slabKB is the kernel's memory in objects, of the whole machine, in KiB: those in use where /proc/slabinfo may be
// read (root), because a slab that earlier sockets left half empty hides growth; else whole slabs.
func slabKB() (int64, error) {
	if b, err := os.ReadFile("/proc/slabinfo"); err == nil {
		var sum int64
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) < 4 || f[0] == "#" || f[0] == "slabinfo" {
				continue
			}
			n, _ := strconv.ParseInt(f[1], 10, 64)
			size, _ := strconv.ParseInt(f[3], 10, 64)
			sum += n * size
		}
		return sum / 1024, nil
	}
	b, err := os.ReadFile("/proc/meminfo")
	return kbField(b, "Slab:"), err
}

// netdevDrops adds up what the interfaces of an open /proc/…/net/dev could not transmit.
func netdevDrops(f *os.File) (sum uint64) {
	for line := range strings.Lines(readAgain(f)) {
		_, rest, ok := strings.Cut(line, ":")
		if v := strings.Fields(rest); ok && len(v) >= 12 {
			n, _ := strconv.ParseUint(v[11], 10, 64)
			sum += n
		}
	}
	return sum
}

// udpDrops is what an open /proc/…/net/snmp says did not fit into socket buffers.
func udpDrops(f *os.File) uint64 {
	var names []string
	for line := range strings.Lines(readAgain(f)) {
		v := strings.Fields(line)
		if len(v) == 0 || v[0] != "Udp:" {
			continue
		}
		if names == nil {
			names = v
			continue
		}
		for i, name := range names {
			if name == "RcvbufErrors" && i < len(v) {
				n, _ := strconv.ParseUint(v[i], 10, 64)
				return n
			}
		}
	}
	return 0
}

func readAgain(f *os.File) string {
	b, _ := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
	return string(b)
}

// backlogDrops is what each CPU's receive backlog discarded, indexed by CPU. Offline CPUs have no line.
func backlogDrops() (drops []uint64) {
	b, _ := os.ReadFile("/proc/net/softnet_stat")
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 {
			n, _ := strconv.ParseUint(f[1], 16, 64)
			drops = append(drops, n)
		}
	}
	return drops
}

// pinThread lets a thread run on one CPU only; 0 is the calling thread.
func pinThread(tid, cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	return unix.SchedSetaffinity(tid, &set)
}

// allowedCPUs are the CPUs this process may use, ascending.
func allowedCPUs() (cpus []int, err error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, err
	}
	for cpu := range len(set) * 64 {
		if set.IsSet(cpu) {
			cpus = append(cpus, cpu)
		}
	}
	return cpus, nil
}

// pinProcess pins every thread that this process has; those it starts later inherit it.
func pinProcess(cpu int) error {
	if err := eachThread(func(tid int) error { return pinThread(tid, cpu) }); err != nil {
		return fmt.Errorf("pin to CPU %d: %w", cpu, err)
	}
	return nil
}

// eachThread calls f for the threads of this process. One that has ended meanwhile is no error.
func eachThread(f func(tid int) error) error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, task := range tasks {
		tid, _ := strconv.Atoi(task.Name())
		if err := f(tid); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}
