package main

import (
	"fmt"
	"strings"
	"time"
)

// bindingWindow is how many requests are without an answer at most: many full batches of any server, and less than a default socket
// buffer holds. Ours to tune.
const bindingWindow = 512

// BindingReport is what `stun --json` prints.
type BindingReport struct {
	Version     int             `json:"version"` // of this format: 1
	Date        time.Time       `json:"date"`
	Facts       Facts           `json:"machine"`
	CommandLine []string        `json:"command_line"`
	Laboratory  string          `json:"laboratory"`
	Rounds      int             `json:"rounds"`
	Servers     []BindingServer `json:"servers"` // the first is the one the ratios are about
}

// BindingServer is one column of the table.
type BindingServer struct {
	Name    string           `json:"name"`
	Command string           `json:"command"`
	Version string           `json:"version"`
	Runs    []*BindingResult `json:"runs"` // one for each round
}

// BindingResult is what one trial with Binding requests brought.
type BindingResult struct {
	Seconds      float64 `json:"seconds"`
	RequestBytes int     `json:"request_bytes"` // of UDP payload
	AnswerBytes  int     `json:"answer_bytes"`
	Answered     int     `json:"answered"`
	Lost         int     `json:"lost"` // at most
	Strange      int     `json:"strange"`
	PerSecond    float64 `json:"per_second"`
	PerCPUSecond float64 `json:"per_cpu_second"` // of the server's run time
	ServerShare  float64 `json:"server_share"`   // of a CPU
}

// markdown is the section of the page. Every figure is a median over the rounds; a ratio is the median of the rounds' ratios.
func (r *BindingReport) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "## STUN Binding\n\nRequests that a server answers with a second of its CPU while it is kept busy (%d requests under way), %d rounds, the servers in turn within each, on %s:\n\n```\n%s\n```\n\n",
		bindingWindow, r.Rounds, r.Date.Format("2 January 2006"), shellJoin(r.CommandLine))
	names, rule := "| |", "|---|"
	for _, s := range r.Servers {
		names, rule = names+" "+s.Name+" |", rule+"---|"
	}
	for _, s := range r.Servers[1:] {
		names, rule = names+fmt.Sprintf(" %s / %s |", r.Servers[0].Name, s.Name), rule+"---|"
	}
	b.WriteString(names + "\n" + rule + "\n")
	row := func(name string, ratios bool, of func(*BindingResult) float64, format func(float64) string) {
		b.WriteString("| " + name + " |")
		values := make([][]float64, len(r.Servers))
		for i, s := range r.Servers {
			for _, run := range s.Runs {
				values[i] = append(values[i], of(run))
			}
			fmt.Fprintf(&b, " %s |", format(median(values[i])))
		}
		for i := range r.Servers[1:] {
			var v []float64
			for round := range values[0] {
				v = append(v, values[0][round]/values[i+1][round])
			}
			if !ratios {
				b.WriteString(" |")
				continue
			}
			fmt.Fprintf(&b, " %s |", ratio(median(finite(v))))
		}
		b.WriteByte('\n')
	}
	row("answers per CPU-second", true, func(x *BindingResult) float64 { return x.PerCPUSecond }, grouped)
	row("answers per second", true, func(x *BindingResult) float64 { return x.PerSecond }, grouped)
	row("its CPU, %", false, func(x *BindingResult) float64 { return 100 * x.ServerShare }, grouped)
	row("bytes of an answer", false, func(x *BindingResult) float64 { return float64(x.AnswerBytes) }, grouped)
	return b.String()
}
