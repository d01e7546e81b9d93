package main

import (
	"fmt"
	"strings"
	"time"
)

// RTMFPReport is what `rtmfp --json` prints.
type RTMFPReport struct {
	Version     int           `json:"version"` // of this format: 1
	Date        time.Time     `json:"date"`
	Facts       Facts         `json:"machine"`
	CommandLine []string      `json:"command_line"`
	Rounds      int           `json:"rounds"`
	Clients     int           `json:"clients"` // with the first group
	Groups      []int         `json:"groups"`
	Rate        float64       `json:"rate"`    // of introductions, a second
	Servers     []RTMFPServer `json:"servers"` // the first is the one the ratios are about
}

// RTMFPServer is one column of the table.
type RTMFPServer struct {
	Name    string      `json:"name"`
	Command string      `json:"command"`
	Runs    []*RTMFPRun `json:"runs"` // one for each round
}

// RTMFPRun is what one round brought.
type RTMFPRun struct {
	Connects           []RTMFPConnects `json:"connects"`      // one for each group
	SessionBytes       float64         `json:"session_bytes"` // of the server's memory, for an idle session
	Intros             int             `json:"introductions"` // while it was kept busy
	IntrosPerCPUSecond float64         `json:"introductions_per_cpu_second"`
	RateAsked          int             `json:"rate_asked"` // at the rate
	RateAnswered       int             `json:"rate_answered"`
	RateForwarded      int             `json:"rate_forwarded"`
	P50                time.Duration   `json:"p50_ns"`
	P99                time.Duration   `json:"p99_ns"`
	Max                time.Duration   `json:"max_ns"`
}

// RTMFPConnects is what clients with keys of one group cost.
type RTMFPConnects struct {
	Group        int     `json:"group"`
	Clients      int     `json:"clients"`
	Seconds      float64 `json:"seconds"`
	CPUSeconds   float64 `json:"cpu_seconds"` // of the server
	PerCPUSecond float64 `json:"per_cpu_second"`
	Resent       int     `json:"resent"` // packets that were not answered within a second
}

// markdown is the section of the page. Every figure is a median over the rounds; a ratio is the median of the rounds' ratios.
func (r *RTMFPReport) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "## RTMFP\n\nClients that connect (IHello to setPeerInfo, %s of them with group %d), what an idle session costs in memory, and introductions, %d rounds, each server on one CPU, the servers in turn within each, on %s:\n\n```\n%s\n```\n\n",
		grouped(float64(r.Clients)), r.Groups[0], r.Rounds, r.Date.Format("2 January 2006"), shellJoin(r.CommandLine))
	names, rule := "| |", "|---|"
	for _, s := range r.Servers {
		names, rule = names+" "+s.Name+" |", rule+"---|"
	}
	for _, s := range r.Servers[1:] {
		names, rule = names+fmt.Sprintf(" %s / %s |", r.Servers[0].Name, s.Name), rule+"---|"
	}
	b.WriteString(names + "\n" + rule + "\n")
	row := func(name string, ratios bool, of func(*RTMFPRun) float64, format func(float64) string) {
		b.WriteString("| " + name + " |")
		values := make([][]float64, len(r.Servers))
		for i, s := range r.Servers {
			for _, run := range s.Runs {
				values[i] = append(values[i], of(run))
			}
			fmt.Fprintf(&b, " %s |", format(median(values[i])))
		}
		for i := range r.Servers[1:] {
			if !ratios {
				b.WriteString(" |")
				continue
			}
			var v []float64
			for round := range values[0] {
				v = append(v, values[0][round]/values[i+1][round])
			}
			fmt.Fprintf(&b, " %s |", ratio(median(finite(v))))
		}
		b.WriteByte('\n')
	}
	for i, g := range r.Groups {
		row(fmt.Sprintf("clients per CPU-second, group %d", g), true, func(x *RTMFPRun) float64 { return x.Connects[i].PerCPUSecond }, grouped)
	}
	row("bytes for an idle session", true, func(x *RTMFPRun) float64 { return x.SessionBytes }, grouped)
	row("introductions per CPU-second", true, func(x *RTMFPRun) float64 { return x.IntrosPerCPUSecond }, grouped)
	ms := func(of func(*RTMFPRun) time.Duration) func(*RTMFPRun) float64 {
		return func(x *RTMFPRun) float64 { return float64(of(x)) / 1e6 }
	}
	three := func(v float64) string { return fmt.Sprintf("%.3f", v) }
	row(fmt.Sprintf("median latency at %s a second, ms", grouped(r.Rate)), false, ms(func(x *RTMFPRun) time.Duration { return x.P50 }), three)
	row("99th percentile, ms", false, ms(func(x *RTMFPRun) time.Duration { return x.P99 }), three)
	row("answered, %", false, func(x *RTMFPRun) float64 { return 100 * float64(x.RateAnswered) / float64(x.RateAsked) }, three)
	row("forwarded to the peer, %", false, func(x *RTMFPRun) float64 { return 100 * float64(x.RateForwarded) / float64(x.RateAsked) }, three)
	return b.String()
}
