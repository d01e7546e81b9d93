package main

import (
	"fmt"
	"math"
	"strings"
)

// markdown renders a part of the page. Every figure is a median over the rounds; a ratio is the median of the rounds' ratios.
func (r *CompareReport) markdown() string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("## %s\n", r.Title)
	p("Made by `stilebench compare` on %s.\n", r.Date.Format("2 January 2006"))
	p("| machine | |\n|---|---|")
	p("| CPU | %s, %d online; the server has one of them, the generator another |", r.Facts.CPU, r.Facts.CPUs)
	p("| kernel | Linux %s |", r.Facts.Kernel)
	p("| Go | %s |", r.Facts.Go)
	p("| network | %s |", r.Laboratory)
	p("| load | %d allocations, %d rounds, the servers in turn within each |\n", r.Allocations, r.Rounds)
	p("The whole run, from the repository:\n\n```\n%s\n```\n", shellJoin(r.CommandLine))
	p("| server | version | command |\n|---|---|---|")
	for _, s := range r.Servers {
		p("| %s | %s | `%s` |", s.Name, s.Version, strings.ReplaceAll(s.Command, "|", `\|`))
	}
	if r.Smoke {
		p("\nThis was a smoke run of a few seconds: it shows that everything works and says nothing about speed.")
		return b.String()
	}

	p("\n### Highest rate\n")
	p("Packets per second delivered with at most %g %% loss. \"≥\": the generator was the limit, not the server.\n", r.MaxLoss*100)
	r.table(&b, r.Highest, rateOf, func(c *CompareCase, server int, v float64) string {
		if c.generatorLimited(server) {
			return "≥ " + grouped(v)
		}
		return grouped(v)
	})
	p("\n### CPU per packet, each server at its own highest rate\n")
	p("Microseconds of CPU charged to the server's threads for each delivered packet.\n")
	r.table(&b, r.Highest, cpuOf, func(_ *CompareCase, _ int, v float64) string { return fmt.Sprintf("%.2f", v) })
	if len(r.Fixed) > 0 {
		p("\n### CPU per packet at a common rate\n")
		p("Where a server does not reach the wanted rate, all are compared at the highest that all reach. \"lost\": more than %g %% in most rounds.\n", r.MaxLoss*100)
		r.table(&b, r.Fixed, cpuOf, func(c *CompareCase, server int, v float64) string {
			if c.lossy(server, r.MaxLoss) {
				return fmt.Sprintf("%.2f (lost)", v)
			}
			return fmt.Sprintf("%.2f", v)
		})
	}
	if len(r.Latency) > 0 {
		p("\n### One-way latency\n")
		p("Microseconds from the sender's system call to the receiver's interface, p50 / p99.\n")
		r.header(&b, false)
		for i := range r.Latency {
			c := &r.Latency[i]
			fmt.Fprintf(&b, "| %s |", c.title())
			for server := range r.Servers {
				p50 := median(c.values(server, func(t *TrialResult) float64 { return t.oneWay().P50 }))
				p99 := median(c.values(server, func(t *TrialResult) float64 { return t.oneWay().P99 }))
				fmt.Fprintf(&b, " %.0f / %.0f |", p50, p99)
			}
			b.WriteByte('\n')
		}
	}
	p("\n### Allocations, memory, idleness\n")
	r.allocationTable(&b)
	if len(r.Generator) > 0 {
		p("\n### The generator\n")
		p("What one packet costs the generator without a server (`stilebench calibrate`); delivery into the server's socket buffer happens in the sender's system call, on the generator's CPU.\n")
		p("| payload | send and deliver, µs | receive, µs | highest rate |\n|---|---|---|---|")
		for _, g := range r.Generator {
			p("| %d | %.2f | %.2f | %s |", g.SizeBytes, g.DeliverUs, g.ReceiveUs, grouped(g.Highest))
		}
	}
	return b.String()
}

// oneWay is the latency of a trial in one direction.
func (t *TrialResult) oneWay() Latency {
	switch {
	case t.LatencyUp != nil:
		return *t.LatencyUp
	case t.LatencyDown != nil:
		return *t.LatencyDown
	}
	return Latency{}
}

func (c *CompareCase) title() string {
	s := fmt.Sprintf("%d B %s", c.SizeBytes, c.Direction)
	if c.Mode != Channel {
		s += ", indications"
	}
	if c.Rate > 0 {
		s += fmt.Sprintf(", %s/s", grouped(c.Rate))
		if c.Lowered {
			s += " (lowered)"
		}
	}
	return s
}

// header begins a table with a column for each server and, if there are ratios, one for each other server.
func (r *CompareReport) header(b *strings.Builder, ratios bool) {
	b.WriteString("| |")
	rule := "|---|"
	for _, s := range r.Servers {
		fmt.Fprintf(b, " %s |", s.Name)
		rule += "---|"
	}
	if ratios {
		for _, s := range r.Servers[1:] {
			fmt.Fprintf(b, " %s / %s |", r.Servers[0].Name, s.Name)
			rule += "---|"
		}
	}
	b.WriteString("\n" + rule + "\n")
}

// table writes one row for each case, and the geometric mean of the ratios.
func (r *CompareReport) table(b *strings.Builder, cases []CompareCase, of func(*TrialResult) float64, cell func(c *CompareCase, server int, v float64) string) {
	r.header(b, true)
	all := make([][]float64, len(r.Servers))
	for i := range cases {
		c := &cases[i]
		fmt.Fprintf(b, "| %s |", c.title())
		for server := range r.Servers {
			if v := median(c.values(server, of)); math.IsNaN(v) || v == 0 {
				b.WriteString(" – |")
			} else {
				fmt.Fprintf(b, " %s |", cell(c, server, v))
			}
		}
		for other := 1; other < len(r.Servers); other++ {
			v := median(c.ratios(0, other, of))
			all[other] = append(all[other], v)
			fmt.Fprintf(b, " %s |", ratio(v))
		}
		b.WriteByte('\n')
	}
	if len(r.Servers) < 2 || len(cases) < 2 {
		return
	}
	b.WriteString("| **geometric mean** |" + strings.Repeat(" |", len(r.Servers)))
	for other := 1; other < len(r.Servers); other++ {
		fmt.Fprintf(b, " **%s** |", ratio(geometricMean(all[other])))
	}
	b.WriteByte('\n')
}

func ratio(v float64) string {
	if math.IsNaN(v) {
		return "–"
	}
	return fmt.Sprintf("%.2f", v)
}

func (r *CompareReport) allocationTable(b *strings.Builder) {
	r.header(b, true)
	row := func(name string, format func(float64) string, of func(*AllocationResult) (float64, bool)) {
		values := func(server int) (v []float64) {
			for _, a := range r.Servers[server].Allocations {
				if x, ok := of(a); ok {
					v = append(v, x)
				} else {
					v = append(v, math.NaN())
				}
			}
			return v
		}
		fmt.Fprintf(b, "| %s |", name)
		for server := range r.Servers {
			if m := median(finite(values(server))); math.IsNaN(m) {
				b.WriteString(" – |")
			} else {
				fmt.Fprintf(b, " %s |", format(m))
			}
		}
		own := values(0)
		for other := 1; other < len(r.Servers); other++ {
			theirs := values(other)
			var v []float64
			for i := range min(len(own), len(theirs)) {
				v = append(v, own[i]/theirs[i])
			}
			fmt.Fprintf(b, " %s |", ratio(median(finite(v))))
		}
		b.WriteByte('\n')
	}
	row("Allocate + ChannelBind per second", grouped, func(a *AllocationResult) (float64, bool) { return a.PerSecond, true })
	row("CPU for each, µs", func(v float64) string { return fmt.Sprintf("%.1f", v) },
		func(a *AllocationResult) (float64, bool) { return a.ServerUs, a.ServerUs > 0 })
	n := 0
	if len(r.Servers[0].Allocations) > 0 {
		n = r.Servers[0].Allocations[0].Allocations
	}
	of := fmt.Sprintf("for each of %s, bytes", grouped(float64(n)))
	row("server's memory (PSS) "+of, grouped, func(a *AllocationResult) (float64, bool) { return a.PSSBytes, a.Memory })
	row("kernel's memory (slab) "+of, grouped, func(a *AllocationResult) (float64, bool) { return a.SlabBytes, a.Memory })
	row("both "+of, grouped, func(a *AllocationResult) (float64, bool) { return a.PSSBytes + a.SlabBytes, a.Memory })
	r.idleRow(b)
}

func (r *CompareReport) idleRow(b *strings.Builder) {
	b.WriteString("| CPU without work, % |")
	for _, s := range r.Servers {
		if m := median(s.Idle); math.IsNaN(m) {
			b.WriteString(" – |")
		} else {
			fmt.Fprintf(b, " %.2f |", m*100)
		}
	}
	b.WriteString(strings.Repeat(" |", len(r.Servers)-1) + "\n")
}

func finite(v []float64) (out []float64) {
	for _, x := range v {
		if !math.IsNaN(x) && !math.IsInf(x, 0) {
			out = append(out, x)
		}
	}
	return out
}

// shellJoin writes arguments so that a shell reads them back.
func shellJoin(args []string) string {
	out := make([]string, len(args))
	for i, a := range args {
		if a == "" || strings.ContainsAny(a, " \t\n'\"\\$&|;<>(){}*?#~`!") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		out[i] = a
	}
	return strings.Join(out, " ")
}
