package main
import "github.com/spf13/cobra"
func calibrateCommand() *cobra.Command { return &cobra.Command{Use: "calibrate"} }
