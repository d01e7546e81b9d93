package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
)

func runCommand() *cobra.Command {
	var tf targetFlags
	var lf loadFlags
	var direction, rateText string
	var size int
	var duration time.Duration
	var maxLoss float64
	var asJSON, smoke bool
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Load one server and say what it does",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := parseDirection(direction)
			if err != nil {
				return err
			}
			rate, err := parseRate(rateText)
			if err != nil {
				return err
			}
			if duration < 100*time.Millisecond {
				return fmt.Errorf("--duration %v: must be at least 100ms", duration)
			}
			if maxLoss < 0 || maxLoss >= 1 {
				return fmt.Errorf("--max-loss %v: must be at least 0 and below 1", maxLoss)
			}
			if smoke {
				lf.allocations, rate, dir, duration, maxLoss = min(lf.allocations, 10), 1000, Both, time.Second, smokeLoss
			}
			ctx := cmd.Context()
			t, err := tf.open(ctx)
			if err != nil {
				return err
			}
			defer t.close()
			cfg, err := lf.session(t)
			if err != nil {
				return err
			}
			rep, err := run(ctx, t, cfg, trialSpec{direction: dir, size: size, rate: rate, duration: duration, maxLoss: maxLoss})
			if err != nil {
				return err
			}
			clearProgress()
			if asJSON {
				err = writeJSON(os.Stdout, rep)
			} else {
				err = writeRun(os.Stdout, rep)
			}
			if smoke && err == nil && (rep.Trial.Loss > maxLoss || rep.Trial.Strange > 0) {
				return fmt.Errorf("smoke: loss %.2f %%, %d strange datagrams at 1,000 packets/s", rep.Trial.Loss*100, rep.Trial.Strange)
			}
			return err
		},
	}
	tf.add(cmd)
	lf.add(cmd, 100)
	fl := cmd.Flags()
	fl.StringVar(&direction, "direction", "up", "of the data: up (client to peer), down or both")
	fl.IntVar(&size, "size", 172, "bytes of payload, 24 or more; 172 is 20 ms of G.711 in RTP")
	fl.StringVar(&rateText, "rate", "20000", "packets/s of both directions together, or max for the highest that loses at most --max-loss")
	fl.DurationVar(&duration, "duration", 3*time.Second, "of the measured trial")
	fl.Float64Var(&maxLoss, "max-loss", 0.001, "share of the packets that may be lost")
	fl.BoolVar(&asJSON, "json", false, "print everything as JSON")
	fl.BoolVar(&smoke, "smoke", false, "a second of both directions with 10 allocations; fails on loss")
	return cmd
}

// smokeLoss is the share of packets that a smoke run may lose: it runs on machines that are busy with other tests.
const smokeLoss = 0.1

func run(ctx context.Context, t *target, cfg sessionConfig, spec trialSpec) (*RunReport, error) {
	s, err := t.open(0, cfg)
	if err != nil {
		return nil, err
	}
	defer s.close()
	if t.srv == nil {
		if err := s.awaitServer(ctx, nil); err != nil {
			return nil, err
		}
	}
	start := time.Now()
	progress("%d allocations …", cfg.allocations)
	if err := s.establish(ctx); err != nil {
		return nil, err
	}
	rep := &RunReport{Version: 1, Facts: machineFacts(), Server: t.addr.String(), Allocations: cfg.allocations, Peers: cfg.peers,
		Mode: cfg.mode, Laboratory: t.lab != nil, SetupPerSec: float64(cfg.allocations) / time.Since(start).Seconds()}
	if t.srv != nil {
		rep.Command = t.srv.args
	}
	if spec.rate > 0 {
		progress("%s %d bytes: %.0f packets/s …", spec.direction, spec.size, spec.rate)
		if rep.Trial, err = s.trial(ctx, spec, t.meter()); err != nil {
			return nil, err
		}
		rep.Trials, rep.LimitedBy = 1, rep.Trial.Limit
	} else {
		res, err := highest(ctx, s, spec, t.meter(), searchFirst, "search")
		if err != nil {
			return nil, err
		}
		if res.trial == nil {
			return nil, errors.New("no rate passed: even the lowest one lost packets")
		}
		rep.Searched, rep.Trial, rep.Trials, rep.LimitedBy = true, res.trial, res.trials, limitServer
		if res.generator {
			rep.LimitedBy = limitGenerator
		}
	}
	return rep, s.release(ctx)
}
