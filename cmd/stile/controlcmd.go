package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stilenet/stile/internal/admin"
	"github.com/stilenet/stile/internal/config"
)

// control makes a command that asks the running server. It finds the server as `stile serve` was told to listen: by the same
// flags, environment and file.
func (a app) control(c *cobra.Command, run func(ctx context.Context, c *cobra.Command, args []string, client *admin.Client) error) *cobra.Command {
	config.Flags(c.Flags())
	c.Flags().VisitAll(func(f *pflag.Flag) {
		f.Hidden = strings.Contains(f.Name, ".") && !strings.HasPrefix(f.Name, "admin.")
	})
	c.RunE = func(c *cobra.Command, args []string) error {
		cfg, err := config.Load(config.Source{Flags: c.Flags(), Environ: a.environ})
		if err != nil {
			return err
		}
		client := admin.NewClient(admin.ClientConfig{Listen: cfg.Admin.Listen, TokenFile: cfg.Admin.TokenFile, Cert: cfg.Admin.TLS.Cert})
		defer client.Close()
		ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		return run(ctx, c, args, client)
	}
	return c
}

func (a app) status() *cobra.Command {
	var asJSON bool
	c := a.control(&cobra.Command{Use: "status", Short: "Show what the running server does", Args: cobra.NoArgs},
		func(ctx context.Context, _ *cobra.Command, _ []string, client *admin.Client) error {
			st, err := client.Status(ctx)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(a.out, st)
			}
			a.printStatus(st)
			return nil
		})
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func (a app) printStatus(st *admin.Status) {
	row := func(name, format string, args ...any) {
		fmt.Fprintf(a.out, "  %-16s %s\n", name, wrap(fmt.Sprintf(format, args...), 19))
	}
	fmt.Fprintf(a.out, "stile %s, up %v\n\n", st.Build.Version, (time.Duration(st.Uptime) * time.Second).Round(time.Second))
	var urls []string
	for _, l := range st.Listeners {
		urls = append(urls, l.URL)
	}
	row("listens on", "%s", strings.Join(urls, " "))
	row("clients", "%s", st.Clients)
	row("peers", "%s", st.Peers)
	var relays []string
	for _, r := range st.Relays {
		relays = append(relays, r.Public.String())
	}
	row("relayed address", "%s", strings.Join(relays, ", "))
	row("engine", "%s, %d shards", st.Engine.Name, st.Engine.Shards)
	row("offload", "%s", st.Engine.Offload.Text)
	if st.Engine.Offload.Running {
		row("", "%s flows of at most %s, %s packets so far", number(st.Engine.Offload.Flows), number(st.Engine.Offload.MaxFlows), number(int(st.Traffic.Offloaded)))
	}
	al := st.Allocations
	row("allocations", "%s of at most %s (%s unconfirmed), %s permissions, %s channels, %s TCP connections", number(al.Now), number(al.Most),
		number(al.Unconfirmed), number(al.Permissions), number(al.Channels), number(al.Streams))
	p := st.Ports
	row("relayed ports", "%s free, %s in use, %s at rest, %s reserved", number(p.Free), number(p.InUse), number(p.Quarantined), number(p.Reserved))
	row("relayed", "%s to peers, %s to clients", bytesize(st.Traffic.BytesUp), bytesize(st.Traffic.BytesDown))
	if r := st.Rendezvous; r != nil {
		row("rendezvous", "%s; %s sessions of at most %s, %s peers, %s keys (%s), %s names", strings.Join(r.Listeners, " "), number(r.Sessions), number(r.Most),
			number(r.Peers), number(r.Keys), map[bool]string{true: "required", false: "not required"}[r.KeysRequired], number(r.Names))
		if made := counts(r.Introductions, ""); made != "" {
			row("introductions", "%s", made)
		}
		if refused := counts(r.Refused, ""); refused != "" {
			row("clients refused", "%s", refused)
		}
	}
	if st.Drain.Draining {
		row("draining", "takes no new allocations, ends at %s", st.Drain.Deadline.Local().Format(time.TimeOnly))
	}
	if dropped := counts(st.Traffic.Packets, "drop_"); dropped != "" {
		row("dropped", "%s", dropped)
	}
	if refused := counts(st.Traffic.Refusals, ""); refused != "" {
		row("refused", "%s", refused)
	}
	for _, w := range st.Warnings {
		fmt.Fprintf(a.out, "\n  note: %s\n", wrap(w, 8))
	}
}

// counts lists the counters whose names begin with prefix, largest first.
func counts(m map[string]uint64, prefix string) string {
	var names []string
	for name := range m {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		if m[a] != m[b] {
			if m[a] > m[b] {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	var out []string
	for _, name := range names {
		out = append(out, fmt.Sprintf("%s %s", strings.TrimPrefix(name, prefix), number(int(m[name]))))
	}
	return strings.Join(out, ", ")
}

func bytesize(n uint64) string {
	const units = "kMGTPE"
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1000, 0
	for f >= 1000 {
		f /= 1000
		i++
	}
	return fmt.Sprintf("%.1f %cB", f, units[i])
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func (a app) sessions() *cobra.Command {
	var (
		watch, asJSON bool
		clients       string
		every         time.Duration
	)
	c := a.control(&cobra.Command{Use: "sessions", Short: "List the living sessions", Args: cobra.NoArgs},
		func(ctx context.Context, _ *cobra.Command, _ []string, client *admin.Client) error {
			prefix, err := admin.ParseClients(clients)
			if err != nil {
				return usage{fmt.Errorf("--client: %w", err)}
			}
			if watch && every < 100*time.Millisecond {
				return usage{fmt.Errorf("--every: %v is too often: 100ms or more", every)}
			}
			return a.listSessions(ctx, client, prefix, asJSON, watch, every)
		})
	c.Flags().BoolVar(&watch, "watch", false, "list again and again, until Ctrl-C")
	c.Flags().DurationVar(&every, "every", 2*time.Second, "pause between two lists of --watch")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON, one object a list")
	c.Flags().StringVar(&clients, "client", "", "only clients of this address or prefix")

	c.AddCommand(a.control(&cobra.Command{Use: "kill ID", Short: "End a session", Args: cobra.ExactArgs(1)},
		func(ctx context.Context, _ *cobra.Command, args []string, client *admin.Client) error {
			if err := client.Kill(ctx, args[0]); err != nil {
				return err
			}
			fmt.Fprintln(a.out, "ended", args[0])
			return nil
		}))

	var next string
	var count int
	trace := a.control(&cobra.Command{
		Use: "trace [ID]", Short: "Print a scrubbed transcript of control messages", Args: cobra.MaximumNArgs(1),
		Long: "Trace prints the control messages of a session as they come, until it ends or Ctrl-C: no payload, no credentials, and each address\n" +
			"replaced by a documentation address, always the same one. The transcript replays as a test vector. With --next it waits for the\n" +
			"next sessions of a client and has them from their first message.",
	}, func(ctx context.Context, _ *cobra.Command, args []string, client *admin.Client) error {
		if (len(args) == 1) == (next != "") {
			return usage{fmt.Errorf("name a session, or clients with --next")}
		}
		if len(args) == 1 {
			return client.Trace(ctx, args[0], a.out)
		}
		prefix, err := admin.ParseClients(next)
		if err != nil {
			return usage{fmt.Errorf("--next: %w", err)}
		}
		return client.TraceNext(ctx, prefix, count, a.out)
	})
	trace.Flags().StringVar(&next, "next", "", "address or prefix of clients whose next sessions are traced")
	trace.Flags().IntVar(&count, "count", 1, "how many sessions --next traces, 1 to 16")
	c.AddCommand(trace)
	return c
}

func (a app) listSessions(ctx context.Context, client *admin.Client, prefix netip.Prefix, asJSON, watch bool, every time.Duration) error {
	for {
		list, err := client.AllSessions(ctx, prefix)
		var peers []admin.RTMFPSession
		if err == nil {
			peers, err = client.AllRTMFPSessions(ctx, prefix)
		}
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		switch {
		case asJSON:
			if list == nil {
				list = []admin.Session{}
			}
			if err := printJSON(a.out, sessionsJSON{admin.SessionList{Version: admin.FormatVersion, Total: len(list), Sessions: list}, peers}); err != nil {
				return err
			}
		default:
			if watch && isTerminal(a.out) {
				fmt.Fprint(a.out, "\x1b[H\x1b[2J") // top left, clear
			}
			a.printSessions(list)
			a.printRTMFPSessions(peers)
		}
		if !watch {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(every):
		}
	}
}

// sessionsJSON is the allocations, and the clients of the rendezvous.
type sessionsJSON struct {
	admin.SessionList
	Rendezvous []admin.RTMFPSession `json:"rendezvous,omitempty"`
}

func (a app) printRTMFPSessions(list []admin.RTMFPSession) {
	if len(list) == 0 {
		return
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nSESSION\tCLIENT\tPEER ID\tKEY\tNAMES\tINTRODUCED\tASKED\tAGE\tHEARD\tSTATE")
	for _, s := range list {
		names, key := strings.Join(s.Names, " "), s.Key
		if names == "" {
			names = "-"
		}
		if key == "" {
			key = "-"
		}
		fmt.Fprintf(w, "%s\t%s\t%.16s…\t%s\t%s\t%d\t%d\t%v\t%v ago\t%s\n", s.Session, s.Client, s.PeerID, key, names, s.Introduced, s.Asked,
			time.Since(s.Started).Round(time.Second), time.Since(s.Heard).Round(time.Second), s.State)
	}
	_ = w.Flush()
	fmt.Fprintf(a.out, "%s clients of the rendezvous\n", number(len(list)))
}

func (a app) printSessions(list []admin.Session) {
	if len(list) == 0 {
		fmt.Fprintln(a.out, "no sessions")
		return
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SESSION\tCLIENT\tVIA\tRELAYED\tLAST PEER\tUP\tDOWN\tAGE\tDIALECT\tUSER")
	for _, s := range list {
		peer := s.LastPeer
		if peer == "" {
			peer = "-"
		}
		dialect := s.Dialect
		if !s.Confirmed {
			dialect = "unconfirmed"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%v\t%s\t%s\n", s.Session, s.Client, s.Transport, s.Relay, peer,
			bytesize(s.BytesUp), bytesize(s.BytesDown), time.Since(s.Started).Round(time.Second), dialect, s.User)
	}
	_ = w.Flush()
	fmt.Fprintf(a.out, "%s sessions\n", number(len(list)))
}

func (a app) drain() *cobra.Command {
	return a.control(&cobra.Command{Use: "drain", Short: "Take no new allocations, wait for the old ones, end", Args: cobra.NoArgs},
		func(ctx context.Context, _ *cobra.Command, _ []string, client *admin.Client) error {
			if err := client.Drain(ctx); err != nil {
				return err
			}
			fmt.Fprintln(a.out, "draining: `stile status` shows what is left")
			return nil
		})
}

func (a app) reloadCmd() *cobra.Command {
	return a.control(&cobra.Command{Use: "reload", Short: "Read the configuration again, as SIGHUP does", Args: cobra.NoArgs},
		func(ctx context.Context, _ *cobra.Command, _ []string, client *admin.Client) error {
			done, err := client.Reload(ctx)
			if err != nil {
				return err
			}
			if len(done.Changed) == 0 {
				fmt.Fprintln(a.out, "nothing has changed")
			}
			for _, line := range done.Changed {
				fmt.Fprintln(a.out, line)
			}
			return nil
		})
}
