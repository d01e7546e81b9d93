//go:build e2e

package dataplane

import (
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// BenchmarkOffload is what a packet costs in the program, by the kernel's own count (bpf_stats_enabled), whose two looks at the clock are included. Between two
// packets lies a system call; in a driver's loop caches are warmer.
func BenchmarkOffload(b *testing.B) {
	stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		b.Fatal(err)
	}
	defer stats.Close()
	onRig(b, nil, func(r *rig) {
		paths := r.corpus()
		for i, unit := range []string{"ns/channel-up", "ns/channel-down", "ns/send", "ns/data"} { // over IPv4, from one interface to another
			p := paths[i]
			frame := p.frame(make([]byte, 172)).build()
			program := r.o.programs.Programs["offload"]
			before, err := program.Stats()
			if err != nil {
				b.Fatal(err)
			}
			for range b.N {
				if verdict, _ := r.run(p.iface, frame); verdict == xdpPass {
					b.Fatalf("%s: the packet passed", p.name)
				}
			}
			after, err := program.Stats()
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(after.Runtime-before.Runtime)/float64(after.RunCount-before.RunCount), unit)
		}
		b.ReportMetric(0, "ns/op") // of system calls
	})
}
