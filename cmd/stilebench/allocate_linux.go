package main

import (
	"os"
	"time"

	"github.com/spf13/cobra"
)

func allocateCommand() *cobra.Command {
	var tf targetFlags
	var lf loadFlags
	var asJSON bool
	var settle time.Duration
	cmd := &cobra.Command{
		Use:   "allocate",
		Short: "Measure allocations per second and memory for each allocation",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			t, err := tf.open(cmd.Context())
			if err != nil {
				return err
			}
			defer t.close()
			cfg, err := lf.session(t)
			if err != nil {
				return err
			}
			progress("%d allocations …", cfg.allocations)
			res, err := t.allocate(cmd.Context(), 1, cfg, settle)
			if err != nil {
				return err
			}
			clearProgress()
			if asJSON {
				return writeJSON(os.Stdout, res)
			}
			return writeAllocations(os.Stdout, t.addr.String(), res)
		},
	}
	tf.add(cmd)
	lf.add(cmd, 10000)
	cmd.Flags().DurationVar(&settle, "settle", 3*time.Second, "wait before memory is read, before and after")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print everything as JSON")
	return cmd
}
