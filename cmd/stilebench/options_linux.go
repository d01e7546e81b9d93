package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

// targetFlags say which server is loaded.
type targetFlags struct {
	server    string
	pid       int
	serverCmd string
	netns     bool
	lab       labFlags
}

func (f *targetFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.server, "server", "", "HOST:PORT of a server that runs")
	fl.IntVar(&f.pid, "pid", 0, "its process, when it runs on this machine: measures CPU and memory")
	fl.StringVar(&f.serverCmd, "server-cmd", "", "start this server instead: NAME=COMMAND or a preset (coturn, stile); COMMAND may hold "+placeholders)
	fl.BoolVar(&f.netns, "netns", false, "start it in the laboratory of three network namespaces (root)")
	f.lab.add(cmd)
}

// labFlags say how the machine is arranged around a server.
type labFlags struct {
	napi       string
	txChecksum string
	nice       int
	relayPorts string
}

func (f *labFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.napi, "napi", "inline", "laboratory: where the server's receive side runs: inline in the sender's system call, or threaded on the server's CPU and counted")
	fl.StringVar(&f.txChecksum, "tx-checksum", "off", "laboratory: transmit checksum offload of the server's interfaces: off (packets look as on a wire) or on")
	fl.StringVar(&f.relayPorts, "relay-ports", "49152-65535", "{min_port} and {max_port} of a server that is started")
	fl.IntVar(&f.nice, "nice", 0, "priority of the generator and the servers it starts, -20 to 19; below 0 (root) keeps other programs from spoiling a run")
}

func (f *labFlags) options() (o labOptions, err error) {
	o.nice = f.nice
	if n, err := fmt.Sscanf(f.relayPorts, "%d-%d", &o.minPort, &o.maxPort); n != 2 || err != nil || o.minPort < 1 || o.minPort > o.maxPort || o.maxPort > 65535 {
		return o, fmt.Errorf("--relay-ports %s: must be FIRST-LAST, from 1 to 65535", f.relayPorts)
	}
	switch f.napi {
	case "inline":
	case "threaded":
		o.threadedNAPI = true
	default:
		return o, fmt.Errorf("--napi %s: must be inline or threaded", f.napi)
	}
	switch f.txChecksum {
	case "off":
	case "on":
		o.txChecksum = true
	default:
		return o, fmt.Errorf("--tx-checksum %s: must be off or on", f.txChecksum)
	}
	return o, nil
}

// open prepares the target and starts its server.
func (f *targetFlags) open(ctx context.Context) (t *target, err error) {
	if (f.server == "") == (f.serverCmd == "") {
		return nil, errors.New("give either --server HOST:PORT or --server-cmd")
	}
	opts, err := f.lab.options()
	if err != nil {
		return nil, err
	}
	if f.server != "" {
		if f.netns {
			return nil, errors.New("--netns needs --server-cmd: a server that runs is in no laboratory")
		}
		return newRemoteTarget(f.server, f.pid)
	}
	spec, err := parseServerSpec(f.serverCmd)
	if err != nil {
		return nil, fmt.Errorf("--server-cmd: %w", err)
	}
	cpus, err := place(f.lab.nice)
	if err != nil {
		return nil, err
	}
	if f.netns {
		t, err = newLabTarget(0, cpus, opts)
	} else {
		t, err = newLoopbackTarget(cpus, opts)
	}
	if err != nil {
		return nil, err
	}
	if err := t.start(ctx, spec); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

// loadFlags say what it is loaded with.
type loadFlags struct {
	allocations int
	peers       int
	mode        string
	outstanding int
	cred        credentials
}

func (f *loadFlags) add(cmd *cobra.Command, allocations int) {
	fl := cmd.Flags()
	fl.IntVar(&f.allocations, "allocations", allocations, "number of clients, each with one allocation and one peer")
	fl.IntVar(&f.peers, "peers", 0, "number of addresses that the peers have (default: one for each allocation, at most 100; with sockets at most 8)")
	fl.StringVar(&f.mode, "mode", string(Channel), "channel (ChannelData) or indication (Send and Data)")
	fl.IntVar(&f.outstanding, "outstanding", 128, "requests that wait for an answer at most")
	fl.StringVar(&f.cred.user, "user", "", "user name of long-term credentials")
	fl.StringVar(&f.cred.password, "password", "", "password of long-term credentials")
}

func (f *loadFlags) session(t *target) (sessionConfig, error) {
	cfg := sessionConfig{allocations: f.allocations, peers: f.peers, mode: Mode(f.mode), cred: f.cred, outstanding: f.outstanding}
	if cfg.mode != Channel && cfg.mode != Indication {
		return cfg, fmt.Errorf("--mode %s: must be channel or indication", f.mode)
	}
	if cfg.allocations < 1 || cfg.allocations > 60000 {
		return cfg, fmt.Errorf("--allocations %d: must be 1 to 60000", cfg.allocations)
	}
	if cfg.outstanding < 1 {
		return cfg, fmt.Errorf("--outstanding %d: must be at least 1", cfg.outstanding)
	}
	most := 100
	if t.lab == nil {
		most = 8
	}
	if cfg.peers == 0 {
		cfg.peers = min(cfg.allocations, most)
	}
	if cfg.peers < 1 || cfg.peers > min(cfg.allocations, 10000) {
		return cfg, fmt.Errorf("--peers %d: must be 1 to the number of allocations, at most 10000", cfg.peers)
	}
	return cfg, nil
}

// parseRate reads packets/s, or 0 for max.
func parseRate(s string) (float64, error) {
	if s == "max" {
		return 0, nil
	}
	r, err := strconv.ParseFloat(s, 64)
	if err != nil || !(r >= 1 && r <= 1e7) {
		return 0, fmt.Errorf("--rate %s: must be max or packets/s from 1 to 10000000", s)
	}
	return r, nil
}

func parseDirection(s string) (Direction, error) {
	switch d := Direction(s); d {
	case Up, Down, Both:
		return d, nil
	}
	return "", fmt.Errorf("--direction %s: must be up, down or both", s)
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// Ours to tune: how a highest rate is searched.
const (
	searchFirst   = 20_000
	searchHighest = 2_000_000
	searchShort   = 400 * time.Millisecond
)

// highest searches the highest rate of a session's direction and size.
func highest(ctx context.Context, s *session, spec trialSpec, m *meter, first float64, label string) (searchResult, error) {
	return searchMaxRate(searchConfig{first: first, highest: searchHighest, short: min(searchShort, spec.duration), long: spec.duration, maxLoss: spec.maxLoss},
		func(rate float64, d time.Duration) (*TrialResult, error) {
			progress("%s: %.0f packets/s …", label, rate)
			trial := spec
			trial.rate, trial.duration = rate, d
			return s.trial(ctx, trial, m)
		})
}
