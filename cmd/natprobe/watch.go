package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// watch probes again and again, and says what changes, until ctx ends.
func (a *app) watch(ctx context.Context, o *options, s sources, p *progress) error {
	last := ""
	for {
		r, err := a.measure(ctx, o, s, p)
		p.clear()
		if errors.Is(err, context.Canceled) || ctx.Err() != nil {
			return nil // the exit code is that of the last probe
		}
		if err != nil {
			return err
		}
		if now := r.state(); now != last {
			last, a.code = now, r.ExitCode
			if !o.quiet && !o.json {
				fmt.Fprintf(a.out, "%s  %s\n", r.At.Local().Format(time.DateTime), now)
			}
			if err := a.write(r, o); err != nil {
				return err
			}
		}
		p.show("watching, the next probe is in " + watchInterval.String())
		select {
		case <-time.After(watchInterval):
		case <-ctx.Done():
			p.clear()
			return nil
		}
		p.clear()
	}
}

// state is what a watch compares, in one line.
func (r *result) state() string {
	v := &r.Verdict
	seen := "nowhere"
	if len(v.Public) > 0 {
		seen = list(v.Public)
	}
	return fmt.Sprintf("UDP %v, mapping %v, filtering %v, relay %v, seen as %s; proxy over UDP: %s, over TCP: %s",
		v.UDP, v.Mapping, v.Filtering, v.Relay, seen, r.Proxy.UDP.State, r.Proxy.TCP.State)
}
