package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/stilenet/stile/rtmfp/flash"
)

// rtmfpOptions are a comparison of RTMFP servers.
type rtmfpOptions struct {
	servers, peers []string
	groups         []int
	rounds         int
	clients        int
	rate           float64
	duration       time.Duration
	nice           int
	asJSON         bool
	markdown       string
}

func rtmfpCommand() *cobra.Command {
	var o rtmfpOptions
	cmd := &cobra.Command{
		Use:   "rtmfp",
		Short: "Compare what RTMFP servers pay for a client that connects, a session that is idle, and an introduction",
		Long: `Rtmfp starts every server on one CPU and connects clients to it, each with an address of 127.0.0.0/8, an identity and keys of its
own: IHello to setPeerInfo. With the clients of the first group it then measures the memory of a session and introductions: strangers
ask for clients by their peer IDs, first as fast as the server answers, then at a rate. The servers are measured in turn, round by round;
the first is what ratios are about.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			rep, err := compareRTMFP(cmd.Context(), o)
			if err != nil {
				return err
			}
			clearProgress()
			part := rep.markdown()
			if o.markdown != "" {
				if err := writePart(o.markdown, "RTMFP", part); err != nil {
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
	fl.StringArrayVar(&o.servers, "server-cmd", []string{"rendezvous"}, "NAME=COMMAND or preset of a server; the first is what ratios are about; COMMAND may hold {ip}, {port} and {dir}")
	fl.StringArrayVar(&o.peers, "peer-cmd", nil, "NAME=COMMAND of a server to compare with")
	fl.IntSliceVar(&o.groups, "groups", []int{2, 14, 16}, "Diffie-Hellman groups of clients")
	fl.IntVar(&o.rounds, "rounds", 3, "times that everything is measured")
	fl.IntVar(&o.clients, "clients", 2000, "clients that connect with the first group; the others have a quarter")
	fl.Float64Var(&o.rate, "rate", 1000, "introductions a second whose latency is measured")
	fl.DurationVar(&o.duration, "duration", 3*time.Second, "of introductions, each way")
	fl.IntVar(&o.nice, "nice", 0, "priority of this program and of the servers")
	fl.StringVar(&o.markdown, "markdown", "", "write the part into this page too, in the place of the one with the same title")
	fl.BoolVar(&o.asJSON, "json", false, "print every trial as JSON instead of the table")
	return cmd
}

// compareRTMFP runs the comparison.
func compareRTMFP(ctx context.Context, o rtmfpOptions) (*RTMFPReport, error) {
	if o.rounds < 1 || o.clients < 4 || o.clients > 4<<20 || o.duration <= 0 || o.rate <= 0 || len(o.groups) == 0 {
		return nil, errors.New("--rounds, --rate, --duration: must be positive; --clients: must be 4 to 4194304; --groups: must not be empty")
	}
	cpus, err := place(o.nice)
	if err != nil {
		return nil, err
	}
	rep := &RTMFPReport{Version: 1, Date: time.Now().UTC(), Facts: machineFacts(), CommandLine: commandLine(), Rounds: o.rounds, Clients: o.clients, Groups: o.groups, Rate: o.rate}
	var specs []serverSpec
	for _, text := range slices.Concat(o.servers, o.peers) {
		spec, err := parseServerSpec(text)
		if err != nil {
			return nil, err
		}
		specs = append(specs, spec)
		rep.Servers = append(rep.Servers, RTMFPServer{Name: spec.Name, Command: spec.Command})
	}
	for round := range o.rounds {
		for _, i := range turn(len(specs), round) {
			run := &RTMFPRun{}
			for n, g := range o.groups {
				clients := o.clients
				if n > 0 {
					clients = max(1, clients/4)
				}
				progress("round %d of %d: RTMFP, group %d: %s …", round+1, o.rounds, g, specs[i].Name)
				if err := rtmfpTrial(ctx, cpus, specs[i], flash.Group(g), clients, n == 0, o, run); err != nil {
					return nil, fmt.Errorf("%s, group %d: %w", specs[i].Name, g, err)
				}
			}
			rep.Servers[i].Runs = append(rep.Servers[i].Runs, run)
		}
	}
	return rep, nil
}

// rtmfpTrial starts a server and measures it.
func rtmfpTrial(ctx context.Context, cpus placement, spec serverSpec, group flash.Group, clients int, all bool, o rtmfpOptions, run *RTMFPRun) (err error) {
	t, err := newLoopbackTarget(cpus, labOptions{})
	if err != nil {
		return err
	}
	defer t.close()
	if t.srv, err = startServer(serverConfig{spec: spec, listen: t.addr, relay: t.addr.Addr(), minPort: 40000, maxPort: 40100, cpus: cpus, thread: t.thread}); err != nil {
		return err
	}
	s, err := newSwarm(t.addr, group)
	if err != nil {
		return err
	}
	defer s.close()
	defer func() {
		if ended := t.srv.ended(); ended != nil {
			err = ended
		}
	}()
	measure := func(f func() error) (cpu, seconds float64, err error) {
		before, err := readProc(t.pids())
		if err != nil {
			return 0, 0, err
		}
		begin := time.Now()
		if err := f(); err != nil {
			return 0, 0, err
		}
		seconds = time.Since(begin).Seconds()
		after, err := readProc(t.pids())
		return float64(after.run-before.run) / 1e9, seconds, err
	}
	// The first clients find out when the server is there, and pay for what it does once.
	const first = 8
	if err := s.open(ctx, first); err != nil {
		return err
	}
	if err := s.idle(ctx, swarmSettle); err != nil {
		return err
	}
	empty, err := pssKB(t.pids())
	if err != nil {
		return err
	}
	cpu, seconds, err := measure(func() error { return s.open(ctx, first+clients) })
	if err != nil {
		return err
	}
	run.Connects = append(run.Connects, RTMFPConnects{
		Group: int(group), Clients: clients, Seconds: seconds, CPUSeconds: cpu, PerCPUSecond: float64(clients) / cpu, Resent: s.resent,
	})
	if !all {
		return nil
	}
	if err := s.idle(ctx, 4*time.Second); err != nil {
		return err
	}
	full, err := pssKB(t.pids())
	if err != nil {
		return err
	}
	run.SessionBytes = float64(full-empty) * 1024 / float64(clients)
	var res introResult
	cpu, _, err = measure(func() (err error) {
		res, err = s.introduce(ctx, o.duration, 0)
		return err
	})
	if err != nil {
		return err
	}
	if res.answered == 0 {
		run.IntrosPerCPUSecond = math.NaN()
		return errors.New("no introduction was answered")
	}
	run.Intros, run.IntrosPerCPUSecond = res.answered, float64(res.answered)/cpu
	if res, err = s.introduce(ctx, o.duration, o.rate); err != nil {
		return err
	}
	run.RateAsked, run.RateAnswered, run.RateForwarded = res.asked, res.answered, res.forwarded
	run.P50, run.P99, run.Max = res.latency.quantile(0.5), res.latency.quantile(0.99), time.Duration(res.latency.max)
	return nil
}
