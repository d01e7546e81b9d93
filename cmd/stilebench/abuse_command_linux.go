package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// abuse is one trial.
type abuse struct {
	name     string
	question string
	run      func(context.Context, *arena, *AbuseTrial) error
}

// abuses are the trials in the order of docs/abuse.md.
var abuses = []abuse{
	{"acl", "Does any disguise of an address that must be refused get a datagram, a channel or a permission?", abuseACL},
	{"reflection", "Does more than twice of what a forged source sent come back to it, or much to one prefix?", abuseReflection},
	{"unconsenting", "How much can a peer be sent that never answers?", abuseUnconsenting},
	{"scan", "Can inside networks, or the internet at speed, be scanned through the server?", abuseScan},
	{"deputy", "Can a web page use the browser of somebody inside on the server?", abuseDeputy},
	{"port-drain", "Can forged sources or one client take the ports from others, or disturb an established flow?", abuseDrain},
	{"malformed", "Does anything malformed end, stop or swell the server?", abuseMalformed},
	{"tunnel", "Does anything but RTMFP pass between a client and a peer that answers whatever it is sent?", abuseTunnel},
	{"off-path", "Can somebody else use or end a client's allocation, or reach it unasked?", abuseOffPath},
}

type abuseFlags struct {
	server, serverCmd, repo string
	pid                     int
	netns, asJSON           bool
}

func abuseCommand() *cobra.Command {
	var f abuseFlags
	cmd := &cobra.Command{
		Use:   "abuse TRIAL",
		Short: "Attack a server that serves without credentials, and say what succeeds",
		Long: `Attack a TURN server that serves without credentials. The exit status is 0 when no attack succeeds, 1 when one does, and 2
when that could not be found out. Attack your own servers only.

With --netns (root) the server is started in a laboratory of namespaces with clients, an inside network and an internet
around it, afresh for each trial. With --server a server that runs is attacked from here, as far as that goes.`,
	}
	cmd.PersistentFlags().StringVar(&f.server, "server", "", "HOST:PORT of a server that runs, yours")
	cmd.PersistentFlags().IntVar(&f.pid, "pid", 0, "its process, when it runs on this machine: measures memory")
	cmd.PersistentFlags().StringVar(&f.serverCmd, "server-cmd", "", "start this server instead: NAME=COMMAND or a preset (coturn, stile); COMMAND may hold "+placeholders+", {ip6}, {relay_ip6}, {payload}: auto in the trial tunnel, any in the others")
	cmd.PersistentFlags().BoolVar(&f.netns, "netns", false, "in the laboratory (root)")
	cmd.PersistentFlags().StringVar(&f.repo, "repo", ".", "where the source of Stile is, which has the corpora")
	cmd.PersistentFlags().BoolVar(&f.asJSON, "json", false, "print the report as JSON")
	for _, a := range abuses {
		cmd.AddCommand(&cobra.Command{Use: a.name, Short: a.question, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			return f.main(cmd.Context(), []abuse{a})
		}})
	}
	cmd.AddCommand(&cobra.Command{Use: "all", Short: "Every trial, each with a fresh server", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		return f.main(cmd.Context(), abuses)
	}})
	return cmd
}

// errAbused is the error of a run in which an attack succeeded.
var errAbused = errors.New("abuse")

// main runs trials and prints the report. Its error makes status 1, so it is the successes'; what else goes wrong ends the process with 2.
func (f *abuseFlags) main(ctx context.Context, list []abuse) error {
	rep, err := f.run(ctx, list)
	clearProgress()
	if err == nil {
		if f.asJSON {
			err = writeJSON(os.Stdout, rep)
		} else {
			err = writeAbuse(os.Stdout, rep)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "stilebench:", err)
		os.Exit(2)
	}
	if n := rep.Succeeded(); n > 0 {
		return fmt.Errorf("%w: %d of %d trials succeeded", errAbused, n, len(rep.Trials))
	}
	return nil
}

func (f *abuseFlags) run(ctx context.Context, list []abuse) (*AbuseReport, error) {
	rep := &AbuseReport{Version: 1, Date: time.Now().UTC(), Facts: machineFacts(), CommandLine: commandLine(), Server: f.server}
	var a *arena
	switch {
	case (f.server == "") == (f.serverCmd == ""):
		return nil, errors.New("give either --server HOST:PORT or --server-cmd with --netns")
	case f.serverCmd != "" && !f.netns:
		return nil, errors.New("--server-cmd needs --netns: the server is started in the laboratory")
	case f.netns && f.serverCmd == "":
		return nil, errors.New("--netns needs --server-cmd: a server that runs is in no laboratory")
	case f.netns:
		spec, err := parseAbuseSpec(f.serverCmd)
		if err != nil {
			return nil, fmt.Errorf("--server-cmd: %w", err)
		}
		lab, err := newAbuseLab(spec)
		if err != nil {
			return nil, err
		}
		defer lab.close()
		a = lab.arena(ctx, f.repo)
		rep.Server, rep.ServerIs, rep.Laboratory = spec.Name, versionOf(spec), true
		defer func() {
			if lab.srv != nil {
				rep.ServerArgs = lab.srv.args
			}
		}()
	default:
		var err error
		if a, err = newRemoteArena(f.server, f.repo, f.pid); err != nil {
			return nil, err
		}
		defer a.witness.close()
	}
	for _, trial := range list {
		t, err := trial.against(ctx, a)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", trial.name, err)
		}
		rep.Trials = append(rep.Trials, *t)
	}
	return rep, nil
}

func parseAbuseSpec(text string) (serverSpec, error) {
	if cmd, ok := abusePresets[text]; ok {
		return serverSpec{text, cmd}, nil
	}
	return parseServerSpec(text)
}

// against runs the trial on a fresh server, if there can be one.
func (x *abuse) against(ctx context.Context, a *arena) (*AbuseTrial, error) {
	progress("%s …", x.name)
	t := &AbuseTrial{Name: x.name, Question: x.question, Successes: []string{}}
	a.payload = "any" // what stands in the way of the others must do so by itself
	if x.name == "tunnel" {
		a.payload = "auto"
	}
	if a.restart != nil {
		if err := a.restart(); err != nil {
			return nil, err
		}
	}
	begin := time.Now()
	err := x.run(ctx, a, t)
	t.Seconds = time.Since(begin).Seconds()
	if dead := a.ended(); dead != nil && !slices.ContainsFunc(t.Successes, func(s string) bool { return strings.Contains(s, "end the server") }) {
		t.success("the server ended: %v", dead)
		err = nil
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return t, err
}
