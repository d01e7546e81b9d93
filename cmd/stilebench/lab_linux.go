package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"github.com/spf13/cobra"
)

func labCommand() *cobra.Command {
	var flags labFlags
	cmd := &cobra.Command{
		Use:   "lab [flags] -- COMMAND [ARG]...",
		Short: "Run a command in the server's namespace of a laboratory (root)",
		Long: fmt.Sprintf(`Run a command where servers are measured, to look at one by hand. The clients are at %v, the peers at %v;
the server's addresses are %v for clients and %v for peers.`, labClient, labPeer, labServer, labRelay),
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts, err := flags.options()
			if err != nil {
				return err
			}
			cpus, err := allowedCPUs()
			if err != nil {
				return err
			}
			opts.serverCPU = cpus[len(cpus)-1]
			lab, err := newNetlab(0, opts)
			if err != nil {
				return err
			}
			defer lab.close()
			c := exec.Command(args[0], args[1:]...)
			c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
			c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			if err := lab.server.do(c.Start); err != nil {
				return err
			}
			return c.Wait()
		},
	}
	flags.add(cmd)
	return cmd
}
