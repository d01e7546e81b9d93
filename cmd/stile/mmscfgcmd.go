package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/stilenet/stile/internal/mmscfg"
	"github.com/stilenet/stile/turn/client"
)

// proxyTrial bounds one attempt to reach the proxy over one transport: the player gives up after 90 s, a person sooner.
const proxyTrial = 8 * time.Second

func (a app) mmscfg() *cobra.Command {
	var proxy string
	c := &cobra.Command{
		Use: "mmscfg", Short: "Print the mms.cfg line to deploy and where the file lives; check such a file", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if proxy == "" {
				h, err := readHost()
				if err != nil {
					return err
				}
				switch {
				case h.source4.IsValid():
					proxy = h.source4.String()
				case h.source6.IsValid():
					proxy = h.source6.String()
				default:
					return usage{errors.New("this machine has no address that others could reach: name the proxy, as in `stile mmscfg --proxy turn.example.net`")}
				}
			}
			line, err := mmscfg.Line(proxy)
			if err != nil {
				return usage{fmt.Errorf("--proxy: %w", err)}
			}
			fmt.Fprintf(a.out, "%s\n\nmms.cfg is a UTF-8 text file. Where players look for it:\n", line)
			for _, goos := range []string{"windows", "darwin", "linux"} {
				fmt.Fprintf(a.out, "\n  %s\n", map[string]string{"windows": "Windows", "darwin": "macOS", "linux": "Linux"}[goos])
				var env func(string) string
				if goos == runtime.GOOS {
					env = os.Getenv
				}
				for _, l := range mmscfg.Locations(goos, env) {
					fmt.Fprintf(a.out, "    %s\n        %s\n", l.Path, l.Player)
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&proxy, "proxy", "", "the proxy's host, or host:port; default: this machine")
	c.AddCommand(&cobra.Command{
		Use: "check [FILE]", Short: "Find mistakes, resolve the proxy and try it as a player would; without FILE, this machine's", Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return a.mmscfgCheck(c.Context(), args) },
	})
	return c
}

func (a app) mmscfgCheck(ctx context.Context, args []string) error {
	var file *mmscfg.File
	var err error
	if len(args) == 1 {
		file, err = mmscfg.Read(args[0])
	} else {
		var where mmscfg.Location
		if file, where, err = mmscfg.ReadLocal(); err == nil {
			fmt.Fprintln(a.out, where.Path)
		}
	}
	if err != nil {
		return err
	}
	bad := 0
	for _, f := range file.Check() {
		fmt.Fprintln(a.out, f)
		if f.Severity == mmscfg.Error {
			bad++
		}
	}
	proxy, ok := file.RTMFPTURNProxy()
	if !ok {
		if bad > 0 {
			return fmt.Errorf("%d mistakes, and no proxy to try", bad)
		}
		fmt.Fprintln(a.out, "no RTMFPTURNProxy line: players use no proxy")
		return nil
	}
	fmt.Fprintf(a.out, "proxy %s\n", proxy)
	addrs, err := new(net.Resolver).LookupNetIP(ctx, "ip", proxy.Host)
	if err != nil {
		return fmt.Errorf("%s does not resolve (%w): correct the name, or write the proxy's address", proxy.Host, err)
	}
	if _, err := netip.ParseAddr(proxy.Host); err != nil {
		fmt.Fprintf(a.out, "  resolves to %v\n", addrs)
	}
	worked := false
	for _, network := range []string{"udp", "tcp"} {
		took, relayed, err := tryProxy(ctx, proxy.HostPort(), network)
		if err != nil {
			fmt.Fprintf(a.out, "  %s: %v\n", network, explain(err))
			continue
		}
		worked = true
		fmt.Fprintf(a.out, "  %s: allocated %v in %v\n", network, relayed, took.Round(time.Millisecond))
	}
	switch {
	case !worked:
		return fmt.Errorf("the proxy %s gives no allocation: see whether `stile serve` runs there, and whether a firewall between lets UDP and TCP %d pass",
			proxy, proxy.Port)
	case bad > 0:
		return fmt.Errorf("%d mistakes", bad)
	}
	return nil
}

// tryProxy allocates and releases, as a player does: draft-08 without credentials.
func tryProxy(ctx context.Context, server, network string) (took time.Duration, relayed net.Addr, err error) {
	ctx, cancel := context.WithTimeout(ctx, proxyTrial)
	defer cancel()
	start := time.Now()
	conn, err := client.Dial(ctx, client.Config{Server: server, Network: network})
	if err != nil {
		return 0, nil, err
	}
	took = time.Since(start)
	return took, conn.LocalAddr(), conn.Close()
}

// explain adds what to do to an error of the client.
func explain(err error) string {
	switch {
	case errors.Is(err, client.ErrCredentialsWanted):
		return "the server asks for credentials, which a player has not: set ?auth=none on a listener of turn.listen"
	case errors.Is(err, client.ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		return "no answer: a firewall drops it, nothing listens there, or the proxy does not serve this address (turn.clients)"
	case errors.Is(err, client.ErrQuota), errors.Is(err, client.ErrCapacity):
		return err.Error() + " (turn.limits, turn.relay.ports)"
	}
	return err.Error()
}
