package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/stilenet/stile/stun"
)

// Ours to tune.
const (
	bindingLost = 50 * time.Millisecond // without any answer the window counts as lost
)

// bindingOptions are a comparison of STUN servers.
type bindingOptions struct {
	servers, peers  []string
	rounds, clients int
	duration        time.Duration
	netns, asJSON   bool
	lab             labFlags
	markdown        string
}

func stunCommand() *cobra.Command {
	var o bindingOptions
	cmd := &cobra.Command{
		Use:   "stun",
		Short: "Compare how many STUN Binding requests servers answer with a second of CPU",
		Long: `Stun keeps every server, started on one CPU in a laboratory of its own, busy with Binding requests: a new one for each
answer. The servers are measured in turn, round by round; the first is what ratios are about.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			rep, err := compareBinding(cmd.Context(), o)
			if err != nil {
				return err
			}
			clearProgress()
			part := rep.markdown()
			if o.markdown != "" {
				if err := writePart(o.markdown, "STUN Binding", part); err != nil {
					return err
				}
			}
			if o.asJSON {
				return writeJSON(os.Stdout, rep)
			}
			fmt.Print(part)
			return nil
		},
	}
	fl := cmd.Flags()
	fl.StringArrayVar(&o.servers, "server-cmd", []string{"stile"}, "NAME=COMMAND or preset of a server; the first is what ratios are about; COMMAND may hold "+placeholders)
	fl.StringArrayVar(&o.peers, "peer-cmd", []string{"coturn"}, "NAME=COMMAND or preset of a server to compare with")
	fl.IntVar(&o.rounds, "rounds", 5, "times that everything is measured")
	fl.IntVar(&o.clients, "clients", 100, "ports that requests come from")
	fl.DurationVar(&o.duration, "duration", 2*time.Second, "of a measured trial")
	fl.BoolVar(&o.netns, "netns", true, "in laboratories of network namespaces (root); false: on loopback, which hides costs")
	fl.StringVar(&o.markdown, "markdown", "", "write the part into this page too, in the place of the one with the same title")
	fl.BoolVar(&o.asJSON, "json", false, "print every trial as JSON instead of the table")
	o.lab.add(cmd)
	return cmd
}

// compareBinding runs the comparison.
func compareBinding(ctx context.Context, o bindingOptions) (*BindingReport, error) {
	if o.rounds < 1 || o.clients < 1 || o.clients > 10000 || o.duration <= 0 {
		return nil, errors.New("--rounds and --duration: must be positive; --clients: must be 1 to 10000")
	}
	opts, err := o.lab.options()
	if err != nil {
		return nil, err
	}
	cpus, err := place(o.lab.nice)
	if err != nil {
		return nil, err
	}
	rep := &BindingReport{Version: 1, Date: time.Now().UTC(), Facts: machineFacts(), CommandLine: commandLine(), Laboratory: describeLab(o.netns, opts), Rounds: o.rounds}
	var all []*target
	defer func() {
		for _, t := range all {
			t.close()
		}
	}()
	for i, text := range slices.Concat(o.servers, o.peers) {
		spec, err := parseServerSpec(text)
		if err != nil {
			return nil, err
		}
		t, err := newTarget(o.netns, i, cpus, opts)
		if err != nil {
			return nil, err
		}
		all = append(all, t)
		if err := t.start(ctx, spec); err != nil {
			return nil, err
		}
		rep.Servers = append(rep.Servers, BindingServer{Name: spec.Name, Command: spec.Command, Version: versionOf(spec)})
	}
	for round := range o.rounds {
		for _, i := range turn(len(all), round) {
			progress("round %d of %d: Binding: %s …", round+1, o.rounds, rep.Servers[i].Name)
			res, err := all[i].binding(ctx, o.clients, o.duration)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", rep.Servers[i].Name, err)
			}
			rep.Servers[i].Runs = append(rep.Servers[i].Runs, res)
		}
	}
	return rep, nil
}

func newTarget(netns bool, id int, cpus placement, opts labOptions) (*target, error) {
	if netns {
		return newLabTarget(id, cpus, opts)
	}
	return newLoopbackTarget(cpus, opts)
}

// binding keeps the server busy with Binding requests, and counts what it answers.
func (t *target) binding(ctx context.Context, clients int, duration time.Duration) (*BindingResult, error) {
	s, err := t.open(1, sessionConfig{allocations: clients, peers: 1, mode: Channel, outstanding: 1})
	if err != nil {
		return nil, err
	}
	defer s.close()
	request := func(i int) *frame {
		b := stun.Begin(nil, stun.NewType(stun.Binding, stun.Request), stun.TransactionID{0: byte(i >> 8), 1: byte(i), 11: 'b'})
		return s.clients.frame(i, s.server, b.Bytes(), -1)
	}
	frames := make([]*frame, clients)
	for i := range frames {
		frames[i] = request(i)
	}
	res := &BindingResult{RequestBytes: len(frames[0].payload)}
	var out, again []*frame
	answer := func(a *arrival) {
		if a.to < 0 || a.to >= clients || len(a.payload) < stun.HeaderSize || a.payload[0] != 1 || a.payload[1] != 1 {
			res.Strange++
			return
		}
		res.Answered++
		res.AnswerBytes = a.size
		again = append(again, frames[a.to])
	}
	before, err := readProc(t.pids())
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	last, sent := begin, 0
	for now := begin; now.Sub(begin) < duration; now = time.Now() {
		if sent == 0 || now.Sub(last) > bindingLost { // the beginning, or all of the window is lost
			if sent > 0 {
				res.Lost += bindingWindow
			}
			for i := range bindingWindow {
				out = append(out, frames[i%clients])
			}
			last = now
		}
		for len(out) > 0 {
			n, err := s.clients.send(distinct(out))
			if err != nil {
				return nil, err
			}
			sent += n
			if out = out[n:]; n == 0 {
				break
			}
		}
		if s.clients.receive(answer) > 0 {
			last = now
		}
		out, again = append(out, again...), again[:0]
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	res.Seconds = time.Since(begin).Seconds()
	after, err := readProc(t.pids())
	if err != nil {
		return nil, err
	}
	if t.srv != nil {
		if err := t.srv.ended(); err != nil {
			return nil, err
		}
	}
	if res.Answered == 0 {
		return nil, errors.New("no Binding request was answered")
	}
	res.PerSecond = float64(res.Answered) / res.Seconds
	if cpu := float64(after.run-before.run) / 1e9; cpu > 0 {
		res.PerCPUSecond = float64(res.Answered) / cpu
		res.ServerShare = cpu / res.Seconds
	}
	return res, nil
}

// distinct is the beginning of the frames in which none stands twice, as links want it.
func distinct(frames []*frame) []*frame {
	for n, f := range frames {
		if n == batchSize || slices.Contains(frames[:n], f) {
			return frames[:n]
		}
	}
	return frames
}
