//go:build e2e

package dataplane

import (
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// TestOffloadTakesLittleTime logs what one packet costs in the program, with warm caches, by the kernel's own count (bpf_stats_enabled).
func TestOffloadTakesLittleTime(t *testing.T) {
	stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		t.Fatal(err)
	}
	defer stats.Close()
	onRig(t, nil, func(b *rig) {
		for _, p := range b.corpus() {
			frame := p.frame(make([]byte, 172)).build()
			program := b.o.programs.Programs["offload"]
			before, err := program.Stats()
			if err != nil {
				t.Fatal(err)
			}
			const n = 3000
			for range n {
				if verdict, _ := b.run(p.iface, frame); verdict == xdpPass {
					t.Fatalf("%s: passed", p.name)
				}
			}
			after, err := program.Stats()
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%-60s %v", p.name, (after.Runtime-before.Runtime)/n)
		}
	})
}
