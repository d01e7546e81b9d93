package main
import "github.com/spf13/cobra"
func floodCommand() *cobra.Command { return &cobra.Command{Use: "flood"} }
