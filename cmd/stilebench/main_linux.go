package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use:           "stilebench",
		Short:         "Load TURN servers and compare what a packet costs them",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(runCommand(), allocateCommand(), floodCommand(), stunCommand(), rtmfpCommand(), compareCommand(), calibrateCommand(), labCommand(), abuseCommand())
	err := root.ExecuteContext(ctx)
	restorePriority()
	if err != nil {
		clearProgress()
		fmt.Fprintln(os.Stderr, "stilebench:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has been called
	}
}
