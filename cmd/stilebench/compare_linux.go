package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// compareOptions are the matrix.
type compareOptions struct {
	servers, peers       []string // command lines: ours, theirs
	sizes                []int
	directions, modes    []string
	rounds, allocations  int
	fixedRate, latRate   float64
	memoryAllocations    int
	outstanding          int
	duration, settle     time.Duration
	maxLoss              float64
	netns, smoke, asJSON bool
	lab                  labFlags
	title                string
	markdown             string
}

func compareCommand() *cobra.Command {
	var o compareOptions
	cmd := &cobra.Command{
		Use:   "compare",
		Short: "Compare servers in one interleaved run and write a part of the page of results",
		Long: `Compare starts every server on one CPU, in a laboratory of its own, and measures them in turn, case by case and round
by round: allocations per second and memory (a fresh process each time), the highest rate without loss, the
CPU per packet there and at a common rate, latency. The first server is the one that ratios are about.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			rep, err := compare(cmd.Context(), o)
			if err != nil {
				return err
			}
			clearProgress()
			part := rep.markdown()
			if o.markdown != "" {
				if err := writePart(o.markdown, o.title, part); err != nil {
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
	fl.StringArrayVar(&o.servers, "server-cmd", nil, "NAME=COMMAND or preset of a server; the first is what ratios are about (default, without --peer-cmd: the preset stile); COMMAND may hold "+placeholders)
	fl.StringArrayVar(&o.peers, "peer-cmd", nil, "NAME=COMMAND or preset of a server to compare with (default: the preset coturn)")
	fl.IntSliceVar(&o.sizes, "sizes", []int{172, 1200}, "bytes of payload")
	fl.StringSliceVar(&o.directions, "directions", []string{"up", "down"}, "up, down, both")
	fl.StringSliceVar(&o.modes, "modes", []string{"channel"}, "channel, indication")
	fl.IntVar(&o.rounds, "rounds", 3, "times that everything is measured")
	fl.IntVar(&o.allocations, "allocations", 100, "that carry the data")
	fl.Float64Var(&o.fixedRate, "fixed-rate", 100_000, "packets/s of the comparison at a common rate; 0 leaves it out")
	fl.Float64Var(&o.latRate, "latency-rate", 20_000, "packets/s of the latency measurement; 0 leaves it out")
	fl.IntVar(&o.memoryAllocations, "memory-allocations", 10_000, "of the measurement of allocations and memory; 0 leaves it out")
	fl.IntVar(&o.outstanding, "outstanding", 128, "requests that wait for an answer at most")
	fl.DurationVar(&o.duration, "duration", 2*time.Second, "of a measured trial")
	fl.DurationVar(&o.settle, "settle", 3*time.Second, "wait before memory is read")
	fl.Float64Var(&o.maxLoss, "max-loss", 0.001, "share of the packets that may be lost")
	fl.BoolVar(&o.netns, "netns", true, "in laboratories of network namespaces (root); false: on loopback, which hides costs")
	fl.BoolVar(&o.smoke, "smoke", false, "seconds instead of minutes: everything runs once, nothing is compared")
	fl.BoolVar(&o.asJSON, "json", false, "print every trial as JSON instead of the page")
	fl.StringVar(&o.title, "title", "Relaying", "of the part of the page")
	fl.StringVar(&o.markdown, "markdown", "", "write the part into this page too, in the place of the one with the same title")
	o.lab.add(cmd)
	return cmd
}

// contestant is one server of a comparison with its place.
type contestant struct {
	spec    serverSpec
	target  *target
	session *session
	meter   *meter
	guess   map[string]float64 // where the next search of a case begins
}

func compare(ctx context.Context, o compareOptions) (_ *CompareReport, err error) {
	if o.smoke {
		o.rounds, o.allocations, o.fixedRate, o.latRate = 1, min(o.allocations, 10), 0, 1000
		o.memoryAllocations, o.duration, o.settle = min(o.memoryAllocations, 200), 300*time.Millisecond, 50*time.Millisecond
	}
	if len(o.servers)+len(o.peers) == 0 {
		o.servers = []string{"stile"}
	}
	if len(o.peers) == 0 {
		o.peers = []string{"coturn"}
	}
	if o.rounds < 1 || o.allocations < 1 || o.outstanding < 1 || len(o.sizes) == 0 || len(o.directions) == 0 || len(o.modes) == 0 {
		return nil, errors.New("--rounds, --allocations, --outstanding: must be at least 1; --sizes, --directions, --modes: must not be empty")
	}
	opts, err := o.lab.options()
	if err != nil {
		return nil, err
	}
	cases, err := o.cases()
	if err != nil {
		return nil, err
	}
	cpus, err := place(o.lab.nice)
	if err != nil {
		return nil, err
	}
	if cpus.server < 0 && !o.smoke {
		return nil, errors.New("compare needs two CPUs: one for the server, one for the generator")
	}
	rep := &CompareReport{Version: 1, Title: o.title, Date: time.Now().UTC(), Facts: machineFacts(), CommandLine: commandLine(), Smoke: o.smoke,
		Laboratory: describeLab(o.netns, opts), Rounds: o.rounds, Allocations: o.allocations, MaxLoss: o.maxLoss}

	var all []*contestant
	defer func() {
		for _, c := range all {
			if c.session != nil {
				c.session.close()
			}
			c.target.close()
		}
	}()
	for i, text := range slices.Concat(o.servers, o.peers) {
		spec, err := parseServerSpec(text)
		if err != nil {
			return nil, err
		}
		for _, c := range all {
			if c.spec.Name == spec.Name {
				return nil, fmt.Errorf("two servers are called %s", spec.Name)
			}
		}
		c := &contestant{spec: spec, guess: map[string]float64{}}
		if o.netns {
			c.target, err = newLabTarget(i, cpus, opts)
		} else {
			c.target, err = newLoopbackTarget(cpus, opts)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, c)
		rep.Servers = append(rep.Servers, ComparedServer{Name: spec.Name, Command: spec.Command, Version: versionOf(spec)})
	}
	if o.netns && !o.smoke {
		for _, size := range o.sizes {
			progress("generator, %d bytes …", size)
			c, err := calibrateIn(all[0].target.lab, size)
			if err != nil {
				return nil, err
			}
			rep.Generator = append(rep.Generator, *c)
		}
	}

	// Allocations and memory, a fresh process each time and nothing else running.
	for round := range o.rounds {
		for _, i := range turn(len(all), round) {
			c := all[i]
			progress("round %d of %d: %s: start …", round+1, o.rounds, c.spec.Name)
			if err := c.target.start(ctx, c.spec); err != nil {
				return nil, err
			}
			rep.Servers[i].Args = c.target.srv.args
			idle, err := c.target.idle(ctx, o.settle)
			if err != nil {
				return nil, err
			}
			rep.Servers[i].Idle = append(rep.Servers[i].Idle, idle)
			if o.memoryAllocations > 0 {
				progress("round %d of %d: %s: %d allocations …", round+1, o.rounds, c.spec.Name, o.memoryAllocations)
				res, err := c.target.allocate(ctx, 1, sessionConfig{allocations: o.memoryAllocations, peers: min(100, o.memoryAllocations, peersAtMost(o.netns)),
					mode: Channel, outstanding: o.outstanding}, o.settle)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", c.spec.Name, err)
				}
				rep.Servers[i].Allocations = append(rep.Servers[i].Allocations, res)
			}
			c.target.stop()
		}
	}

	for _, mode := range o.modes {
		mine := slices.DeleteFunc(slices.Clone(cases), func(c CompareCase) bool { return c.Mode != Mode(mode) })
		for _, c := range all {
			progress("%s: %d allocations …", c.spec.Name, o.allocations)
			if err := c.target.start(ctx, c.spec); err != nil {
				return nil, err
			}
			c.session, err = c.target.open(1, sessionConfig{allocations: o.allocations, peers: min(o.allocations, 100, peersAtMost(o.netns)),
				mode: Mode(mode), outstanding: o.outstanding})
			if err != nil {
				return nil, err
			}
			if err := c.session.establish(ctx); err != nil {
				return nil, fmt.Errorf("%s: %w", c.spec.Name, err)
			}
			c.meter = c.target.meter()
		}
		if err := compareData(ctx, o, rep, all, mine); err != nil {
			return nil, err
		}
		for _, c := range all {
			c.session.close()
			c.session = nil
			c.target.stop()
		}
	}
	return rep, nil
}

// compareData measures the cases of one mode.
func compareData(ctx context.Context, o compareOptions, rep *CompareReport, all []*contestant, cases []CompareCase) error {
	each := func(list []CompareCase, what string, measure func(c *contestant, cs *CompareCase) (Run, error)) error {
		for i := range list {
			list[i].Runs = make([][]Run, len(all))
		}
		for round := range o.rounds {
			for i := range list {
				for _, j := range turn(len(all), round) {
					progress("round %d of %d: %s: %s: %s …", round+1, o.rounds, what, list[i].title(), all[j].spec.Name)
					run, err := measure(all[j], &list[i])
					if err == nil {
						err = all[j].target.srv.ended()
					}
					if err != nil {
						return fmt.Errorf("%s, %s: %w", all[j].spec.Name, list[i].title(), err)
					}
					list[i].Runs[j] = append(list[i].Runs[j], run)
				}
			}
		}
		return nil
	}
	fixed := func(c *contestant, cs *CompareCase) (Run, error) {
		t, err := c.session.trial(ctx, trialSpec{direction: cs.Direction, size: cs.SizeBytes, rate: cs.Rate, duration: o.duration, maxLoss: o.maxLoss}, c.meter)
		if err != nil {
			return Run{}, err
		}
		return Run{Trial: t, LimitedBy: t.Limit}, nil
	}

	if !o.smoke {
		high := slices.Clone(cases)
		err := each(high, "highest rate", func(c *contestant, cs *CompareCase) (Run, error) {
			key := cs.title()
			first := c.guess[key]
			if first == 0 {
				first = searchFirst
			}
			res, err := highest(ctx, c.session, trialSpec{direction: cs.Direction, size: cs.SizeBytes, duration: o.duration, maxLoss: o.maxLoss}, c.meter, first,
				c.spec.Name+", "+key)
			if err != nil {
				return Run{}, err
			}
			run := Run{Trial: res.trial, LimitedBy: limitServer}
			if res.generator {
				run.LimitedBy = limitGenerator
			}
			c.guess[key] = res.rate * 0.7
			return run, nil
		})
		if err != nil {
			return err
		}
		rep.Highest = append(rep.Highest, high...)
		if o.fixedRate > 0 {
			list := slices.Clone(cases)
			for i := range list {
				var reach []float64
				for j := range all {
					reach = append(reach, median(high[i].values(j, rateOf)))
				}
				list[i].Rate, list[i].Lowered = commonRate(o.fixedRate, reach)
			}
			if err := each(list, "common rate", fixed); err != nil {
				return err
			}
			rep.Fixed = append(rep.Fixed, list...)
		}
	}
	if o.latRate > 0 {
		list := slices.Clone(cases)
		for i := range list {
			list[i].Rate = o.latRate
		}
		if err := each(list, "latency", fixed); err != nil {
			return err
		}
		rep.Latency = append(rep.Latency, list...)
		if o.smoke {
			for _, c := range list {
				for j, runs := range c.Runs {
					if t := runs[0].Trial; t.Loss > smokeLoss || t.Strange > 0 {
						return fmt.Errorf("smoke: %s, %s: loss %.2f %%, %d strange datagrams", all[j].spec.Name, c.title(), t.Loss*100, t.Strange)
					}
				}
			}
		}
	}
	return nil
}

// turn is the order of the servers in a round: each round begins with the next one, so that none is always first.
func turn(n, round int) []int {
	order := make([]int, n)
	for i := range order {
		order[i] = (i + round) % n
	}
	return order
}

func peersAtMost(netns bool) int {
	if netns {
		return 100
	}
	return 8
}

func (o compareOptions) cases() (cases []CompareCase, err error) {
	for _, mode := range o.modes {
		if m := Mode(mode); m != Channel && m != Indication {
			return nil, fmt.Errorf("--modes %s: must be channel or indication", mode)
		}
		for _, size := range o.sizes {
			if size < probeSize || size > maxPayload {
				return nil, fmt.Errorf("--sizes %d: must be %d to %d", size, probeSize, maxPayload)
			}
			for _, text := range o.directions {
				dir, err := parseDirection(text)
				if err != nil {
					return nil, err
				}
				cases = append(cases, CompareCase{Mode: Mode(mode), Direction: dir, SizeBytes: size})
			}
		}
	}
	return cases, nil
}

func describeLab(netns bool, o labOptions) string {
	if !netns {
		return "loopback, UDP sockets"
	}
	s := "three namespaces joined by veth, clients and peers on packet sockets; "
	if o.threadedNAPI {
		s += "the server's receive side runs in NAPI threads on its CPU and is counted"
	} else {
		s += "the server's receive side runs in the sender's system call, on the generator's CPU, and is not counted"
	}
	if o.txChecksum {
		return s + "; transmit checksum offload on"
	}
	return s + "; transmit checksum offload off"
}

// versionOf asks a program, in the two usual ways, for the first line about itself.
func versionOf(spec serverSpec) string {
	args, err := splitCommand(spec.Command)
	if err != nil {
		return "unknown"
	}
	for _, arg := range []string{"--version", "version"} {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		out, err := exec.CommandContext(ctx, args[0], arg).CombinedOutput()
		cancel()
		if line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n"); err == nil && line != "" {
			return line
		}
	}
	return "unknown"
}

// commandLine is how this program was called, as a reader of the page would call it.
func commandLine() []string {
	return append([]string{"go", "run", "./cmd/stilebench"}, os.Args[1:]...)
}
