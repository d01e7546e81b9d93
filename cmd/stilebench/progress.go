package main

import (
	"fmt"
	"os"
)

// stderrIsTerminal decides once whether progress is shown.
var stderrIsTerminal = func() bool {
	fi, err := os.Stderr.Stat()
	return err == nil && fi.Mode()&os.ModeCharDevice != 0
}()

// progress shows one line on a terminal, over the one before.
func progress(format string, args ...any) {
	if stderrIsTerminal {
		fmt.Fprintf(os.Stderr, "\r\x1b[K"+format, args...)
	}
}

func clearProgress() {
	if stderrIsTerminal {
		fmt.Fprint(os.Stderr, "\r\x1b[K")
	}
}
