//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "stilebench: needs Linux: packet rings, namespaces and /proc are what it measures with")
	os.Exit(1)
}
