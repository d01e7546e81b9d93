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
		for _, p := range r.corpus() {
			frame := p.frame(make([]byte, 172)).build()
			b.Run(p.name, func(b *testing.B) {
				program := r.o.programs.Programs["offload"]
				before, err := program.Stats()
				if err != nil {
					b.Fatal(err)
				}
				for b.Loop() {
					if verdict, _ := r.run(p.iface, frame); verdict == xdpPass {
						b.Fatal("the packet passed")
					}
				}
				after, err := program.Stats()
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(after.Runtime-before.Runtime)/float64(after.RunCount-before.RunCount), "ns/packet")
				b.ReportMetric(0, "ns/op")
			})
		}
	})
}
