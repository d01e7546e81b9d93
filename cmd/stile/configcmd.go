package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stilenet/stile/internal/config"
)

func (a app) config() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Check or print a configuration", Args: cobra.NoArgs, RunE: help}
	check := &cobra.Command{
		Use: "check FILE", Short: "Say what is wrong with a configuration file", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			cfg, err := config.Load(config.Source{File: args[0], Environ: a.environ})
			if err != nil {
				return err
			}
			h, err := readHost()
			if err != nil {
				return err
			}
			// What only this machine can tell is looked at too: addresses, and lists that contradict each other.
			relays, warn, err := h.relays(cfg)
			if err != nil {
				return err
			}
			if _, err := rules(cfg, h, relays, nil, [32]byte{}); err != nil {
				return err
			}
			for _, w := range append(cfg.Warnings(), warn...) {
				fmt.Fprintln(a.out, "warning:", w)
			}
			fmt.Fprintf(a.out, "%s: good\n", args[0])
			return nil
		},
	}
	var origins bool
	printing := &cobra.Command{
		Use: "print", Short: "Print the configuration that would be in force", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := config.Load(config.Source{Flags: c.Flags(), Environ: a.environ})
			if err != nil {
				return err
			}
			return config.Print(a.out, cfg, origins)
		},
	}
	printing.Flags().BoolVar(&origins, "origins", false, "say where each value comes from")
	config.Flags(printing.Flags())
	c.AddCommand(check, printing)
	return c
}
