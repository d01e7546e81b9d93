package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// FloodReport is what `flood --json` prints: the same load of established flows without and with the flood.
type FloodReport struct {
	Version  int          `json:"version"`
	Facts    Facts        `json:"machine"`
	Command  []string     `json:"command"`
	Sequence Sequence     `json:"sequence"`
	Rate     float64      `json:"flood_pps"`
	Quiet    *TrialResult `json:"quiet"`
	Flooded  *TrialResult `json:"flooded"`
	After    *TrialResult `json:"after"`
}

func floodCommand() *cobra.Command {
	var tf targetFlags
	var lf loadFlags
	var sequence, direction string
	var cfg floodConfig
	var size int
	var rate float64
	var duration time.Duration
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "flood",
		Short: "Send requests from spoofed sources beside established flows, in the laboratory (root)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := parseDirection(direction)
			if err != nil {
				return err
			}
			if tf.serverCmd == "" {
				return errors.New("flood needs --server-cmd: it spoofs addresses, and does so in its own laboratory only")
			}
			cfg.sequence = Sequence(sequence)
			tf.netns = true
			t, err := tf.open(cmd.Context())
			if err != nil {
				return err
			}
			defer t.close()
			sc, err := lf.session(t)
			if err != nil {
				return err
			}
			rep, err := runFlood(cmd.Context(), t, sc, cfg,
				trialSpec{direction: dir, size: size, rate: rate, duration: duration, maxLoss: 0.001})
			if err != nil {
				return err
			}
			clearProgress()
			if asJSON {
				return writeJSON(os.Stdout, rep)
			}
			return writeFlood(os.Stdout, rep)
		},
	}
	tf.add(cmd)
	lf.add(cmd, 100)
	fl := cmd.Flags()
	fl.IntVar(&cfg.sources, "sources", 60000, "addresses that requests come from")
	fl.StringVar(&sequence, "sequence", string(FloodAllocate), "of each source: allocate, two-packet (and ChannelBind) or two-packet-send (and Send)")
	fl.Float64Var(&cfg.rate, "flood-rate", 20000, "spoofed packets/s; a source whose turn comes again sends a new transaction")
	fl.StringVar(&direction, "direction", "both", "of the established flows: up, down or both")
	fl.IntVar(&size, "size", 172, "bytes of their payload")
	fl.Float64Var(&rate, "rate", 5000, "their packets/s")
	fl.DurationVar(&duration, "duration", 5*time.Second, "of each of the three trials: before, during and after")
	fl.BoolVar(&asJSON, "json", false, "print everything as JSON")
	return cmd
}

func runFlood(ctx context.Context, t *target, sc sessionConfig, fc floodConfig, spec trialSpec) (*FloodReport, error) {
	if fc.rate < 1 || spec.rate < 1 {
		return nil, errors.New("--rate and --flood-rate: must be at least 1 packet/s")
	}
	s, err := t.open(0, sc)
	if err != nil {
		return nil, err
	}
	defer s.close()
	if err := s.establish(ctx); err != nil {
		return nil, err
	}
	rep := &FloodReport{Version: 1, Facts: machineFacts(), Command: t.srv.args, Sequence: fc.sequence, Rate: fc.rate}
	progress("before the flood …")
	if rep.Quiet, err = s.trial(ctx, spec, t.meter()); err != nil {
		return nil, err
	}
	f, err := newFlood(s.clients.(*packetLink), t.addr, s.peers.local(0), fc)
	if err != nil {
		return nil, err
	}
	pss0, err := pssKB(t.pids())
	if err != nil {
		return nil, err
	}
	slab0, err := slabKB()
	if err != nil {
		return nil, err
	}
	progress("%s packets/s from %s sources …", grouped(fc.rate), grouped(float64(fc.sources)))
	flooded := spec
	flooded.flood = f
	if rep.Flooded, err = s.trial(ctx, flooded, t.meter()); err != nil {
		return nil, err
	}
	if err := t.srv.ended(); err != nil {
		return nil, err
	}
	pss1, err := pssKB(t.pids())
	if err != nil {
		return nil, err
	}
	slab1, err := slabKB()
	if err != nil {
		return nil, err
	}
	rep.Flooded.Flood.PSSGrowthKB, rep.Flooded.Flood.SlabGrowthKB = pss1-pss0, slab1-slab0
	progress("after the flood …")
	rep.After, err = s.trial(ctx, spec, t.meter())
	return rep, err
}

func writeFlood(w io.Writer, r *FloodReport) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "established flows\tbefore\tduring\tafter")
	cell := func(name string, f func(t *TrialResult) string) {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", name, f(r.Quiet), f(r.Flooded), f(r.After))
	}
	cell("loss, %", func(t *TrialResult) string { return fmt.Sprintf("%.3f", t.Loss*100) })
	if r.Quiet.LatencyUp != nil {
		cell("up, p50 / p90 / p99 / max µs", func(t *TrialResult) string { return t.LatencyUp.String() })
	}
	if r.Quiet.LatencyDown != nil {
		cell("down, p50 / p90 / p99 / max µs", func(t *TrialResult) string { return t.LatencyDown.String() })
	}
	cell("server, % of a CPU", func(t *TrialResult) string {
		if t.CPU == nil {
			return "-"
		}
		return fmt.Sprintf("%.0f", t.CPU.ServerShare*100)
	})
	if err := tw.Flush(); err != nil {
		return err
	}
	f := r.Flooded.Flood
	_, err := fmt.Fprintf(w, "\nflood (%s): %s packets, %s sources, %s replies, %.2f bytes back for each byte\nmemory growth: %s KB of the server, %s KB of the kernel\n",
		r.Sequence, grouped(float64(f.Sent)), grouped(float64(min(f.Sources, int(f.Sent)))), grouped(float64(f.Replies)), f.Amplified,
		grouped(float64(f.PSSGrowthKB)), grouped(float64(f.SlabGrowthKB)))
	return err
}
