// Command stile is the TURN relay proxy and its control commands. `stile help` lists them.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
)

// Exit codes, those of sysexits(3) where one fits.
const (
	exitFailure = 1
	exitUsage   = 64
)

// app is what a command may touch of the world.
type app struct {
	out, err io.Writer
	environ  []string
}

func main() { os.Exit(run(os.Args[1:], app{os.Stdout, os.Stderr, os.Environ()})) }

func run(args []string, a app) int {
	root := &cobra.Command{
		Use:   "stile",
		Short: "A TURN relay proxy and an RTMFP rendezvous for Flash Player, AIR and WebRTC",
		Long: "Stile introduces players to each other, and relays UDP for those whose firewall or NAT keeps them apart.\n\n" +
			"Start with `stile serve`: it needs no configuration and says what it does.",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          help,
	}
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetArgs(args)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usage{fmt.Errorf("%w: see `%s --help`", err, c.CommandPath())}
	})
	root.AddCommand(a.serve(), a.status(), a.sessions(), a.drain(), a.reloadCmd(), a.keys(), a.config(), a.mmscfg(), a.version())
	explainArgs(root)
	err := root.ExecuteContext(context.Background())
	if err == nil {
		return 0
	}
	fmt.Fprintln(a.err, "stile:", err)
	var u usage
	if errors.As(err, &u) {
		return exitUsage
	}
	return exitFailure
}

// help is what a command does that only holds others. Without it cobra would take an unknown one for a question and exit with 0.
func help(c *cobra.Command, _ []string) error { return c.Help() }

// explainArgs makes a wrong number of arguments, or an unknown command, a mistake in the command line that names the remedy.
func explainArgs(c *cobra.Command) {
	c.SuggestionsMinimumDistance = 2
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			err := check(c, args)
			if err == nil {
				return nil
			}
			if c.HasSubCommands() && len(args) > 0 {
				if s := c.SuggestionsFor(args[0]); len(s) > 0 {
					return usage{fmt.Errorf("%w: did you mean `%s %s`?", err, c.CommandPath(), s[0])}
				}
			}
			return usage{fmt.Errorf("%w: see `%s --help`", err, c.CommandPath())}
		}
	}
	for _, sub := range c.Commands() {
		explainArgs(sub)
	}
}

// usage is a mistake in the command line.
type usage struct{ error }

func (u usage) Unwrap() error { return u.error }
