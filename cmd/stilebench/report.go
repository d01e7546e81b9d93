package main

import (
	"fmt"
	"io"
	"sort"
	"strings"
	"text/tabwriter"
)

// grouped writes a whole number with commas.
func grouped(v float64) string {
	s := fmt.Sprintf("%.0f", v)
	sign := ""
	if strings.HasPrefix(s, "-") {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

func (l *Latency) String() string {
	return fmt.Sprintf("%.0f / %.0f / %.0f / %.0f", l.P50, l.P90, l.P99, l.Max)
}

// limitText explains a verdict to a reader.
func limitText(l limit, searched bool) string {
	switch {
	case l == limitGenerator && searched:
		return "the generator: the server can do more than this rate"
	case l == limitGenerator:
		return "the generator was late or lost packets itself; this says nothing about the server"
	case l == limitMachine:
		return "the machine: others used the server's CPU"
	case l == limitServer && searched:
		return "the server: above this rate it loses packets"
	case l == limitServer:
		return "the server lost packets; the generator and its queues did not"
	}
	return "nothing: the load was carried"
}

func writeRun(w io.Writer, r *RunReport) error {
	t := r.Trial
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(tw, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	row("server", "%s", r.Server)
	row("load", "%d allocations, %s, %s, %d bytes, %s packets/s for %.1f s", r.Allocations, r.Mode, t.Direction, t.SizeBytes, grouped(t.TargetRate), t.Seconds)
	row("delivered", "%s packets/s (%d of %d sent, loss %.3f %%)", grouped(t.DeliveryRate), t.Received, t.Sent, t.Loss*100)
	if t.LatencyUp != nil {
		row("latency up, µs", "%s (p50 / p90 / p99 / max)", t.LatencyUp)
	}
	if t.LatencyDown != nil {
		row("latency down, µs", "%s (p50 / p90 / p99 / max)", t.LatencyDown)
	}
	writeCPU(row, t)
	row("generator", "%.2f µs per packet, busy %.0f %%, %d packets skipped, %d dropped", t.GeneratorUs, t.GeneratorBusy*100, t.Skipped, t.GeneratorDrops)
	if t.Reordered+t.Strange > 0 {
		row("odd", "%d reordered or repeated, %d strange", t.Reordered, t.Strange)
	}
	if f := t.Flood; f != nil {
		row("flood", "%s packets from %s sources, %s replies, %.2f bytes for each byte", grouped(float64(f.Sent)), grouped(float64(f.Sources)), grouped(float64(f.Replies)), f.Amplified)
		row("memory growth", "%d KB of the server, %d KB of the kernel", f.PSSGrowthKB, f.SlabGrowthKB)
	}
	row("limited by", "%s", limitText(r.LimitedBy, r.Searched))
	return tw.Flush()
}

func writeCPU(row func(name, format string, args ...any), t *TrialResult) {
	c := t.CPU
	if c == nil {
		return
	}
	row("server CPU", "%.2f µs per packet (user %.2f, system %.2f by the tick), %.0f %% of a CPU", c.ProcessUs, c.UserUs, c.SystemUs, c.ServerShare*100)
	if c.CoreUs > 0 {
		row("its CPU in all", "%.2f µs per packet; others %.0f %%, the host %.0f %%", c.CoreUs, c.ForeignShare*100, c.StealShare*100)
	}
	row("server drops", "%d before its sockets", t.ServerDrops)
}

func writeAllocations(w io.Writer, name string, r *AllocationResult) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(tw, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	row("server", "%s", name)
	row("allocations", "%s made, %s failed %s", grouped(float64(r.Allocations-r.Failed)), grouped(float64(r.Failed)), describe(r.Errors))
	row("rate", "%s per second (Allocate and ChannelBind, %d outstanding, %d retransmissions)", grouped(r.PerSecond), r.Outstanding, r.Retransmits)
	if r.ServerUs > 0 {
		row("server CPU", "%.1f µs for each", r.ServerUs)
	}
	if r.Memory {
		row("memory for each", "%s bytes of the server (PSS), %s bytes of the kernel (slab)", grouped(r.PSSBytes), grouped(r.SlabBytes))
	}
	return tw.Flush()
}

// describe lists reasons with how often there were.
func describe(by map[string]int) string {
	var parts []string
	for why, n := range by {
		parts = append(parts, fmt.Sprintf("%d times %q", n, why))
	}
	sort.Strings(parts)
	return strings.Join(parts, ", ")
}
