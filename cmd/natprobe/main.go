// Command natprobe says what the NATs and firewalls between this machine and the internet do, with which kinds of peer a
// direct connection works, whether a relay is needed, and what to change. `natprobe --help` lists its commands.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// Exit codes. Those of a probe carry the decision, and `pair` and `relay` have their own.
const (
	exitCone      = 0 // no NAT, or one with EIM
	exitSymmetric = 1 // ADM or APDM
	exitSomePorts = 2 // UDP to some ports only
	exitBlocked   = 3 // UDP is blocked
	exitUnknown   = 4
	exitUsage     = 64 // of sysexits(3): a mistake in the command line, or nobody to ask

	exitDirect    = 0 // pair
	exitTechnique = 1
	exitRelay     = 2

	exitRelayWorks = 0 // relay
	exitRelayOpen  = 1 // it works, and reaches addresses that it should not
	exitRelayFails = 2
)

// app is what a command may touch of the world.
type app struct {
	out, err io.Writer
	in       io.Reader
	environ  []string
	terminal bool // err is one: progress is shown
	machine  machine
	code     int // what run returns if no command fails
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], &app{out: os.Stdout, err: os.Stderr, in: os.Stdin, environ: os.Environ(),
		terminal: term.IsTerminal(int(os.Stderr.Fd())), machine: thisMachine()})
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, a *app) int {
	root := a.probe()
	root.SilenceErrors, root.SilenceUsage = true, true
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetIn(a.in)
	root.SetArgs(args)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usage{fmt.Errorf("%w: see `%s --help`", err, c.CommandPath())}
	})
	root.AddCommand(a.pair(), a.relay(), a.version())
	err := root.ExecuteContext(ctx)
	if err == nil {
		return a.code
	}
	fmt.Fprintln(a.err, "natprobe:", err)
	var u usage
	if errors.As(err, &u) {
		return exitUsage
	}
	return exitUnknown
}

// usage is a mistake in the command line.
type usage struct{ error }

func (u usage) Unwrap() error { return u.error }

// noArgs is cobra.NoArgs with the exit code of a usage error.
func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage{fmt.Errorf("what is %q? See `%s --help`", args[0], c.CommandPath())}
	}
	return nil
}

// exactly is cobra.ExactArgs with the exit code of a usage error.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != n {
			return usage{fmt.Errorf("want %s: see `%s --help`", what, c.CommandPath())}
		}
		return nil
	}
}
