package main

import (
	"fmt"
	"io"
)

// progress shows one line on a terminal, over the one before. On anything else it is silent.
type progress struct{ w io.Writer }

func (a *app) newProgress(wanted bool) *progress {
	if !wanted || !a.terminal {
		return &progress{}
	}
	return &progress{a.err}
}

func (p *progress) show(phase string) {
	if p.w != nil {
		fmt.Fprintf(p.w, "\r\x1b[K%s ...", phase)
	}
}

func (p *progress) clear() {
	if p.w != nil {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
