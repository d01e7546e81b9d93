package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stilenet/stile/turn/client"
)

// relayReport is the JSON of `natprobe relay`.
type relayReport struct {
	Version    int              `json:"version"`
	Server     string           `json:"server"`
	Transports []relayTransport `json:"transports"`
	Link       *linkReport      `json:"link,omitempty"`
	Audit      []auditLine      `json:"audit,omitempty"`
	ExitCode   int              `json:"exit_code"`
}

// relayTransport is an allocation over one transport.
type relayTransport struct {
	Network string  `json:"network"`
	State   string  `json:"state"`
	Relayed string  `json:"relayed,omitempty"` // endpoint
	Seen    string  `json:"seen,omitempty"`    // our endpoint as the server sees it
	TookMS  float64 `json:"took_ms,omitempty"`
	Error   string  `json:"error,omitempty"`
}

// relayOptions are the flags of relay.
type relayOptions struct {
	user         string
	passwordFile string
	json, quiet  bool
	noAudit      bool
	noLoad       bool
	rate         float64 // Mbit/s
}

const (
	relayTime  = 8 * time.Second // for one allocation
	maxRate    = 1000.0          // Mbit/s
	maxPassFil = 4096            // bytes
)

func (a *app) relay() *cobra.Command {
	o := relayOptions{rate: 16}
	c := &cobra.Command{
		Use:   "relay TURN-URI",
		Short: "Try a TURN relay: allocation, round trip, loss, throughput, and whom it would wrongly reach",
		Long: "relay allocates at a TURN server (RFC 7065 URI, or host, or host:port), over UDP and TCP unless the URI names one, sends datagrams from one\n" +
			"allocation to another, and asks whether it would reach addresses that a relay must not reach: loopback, private networks, cloud metadata and so on.\n" +
			"The audit only asks (ChannelBind); it sends nothing to those addresses.\n\n" +
			"Credentials: --user, and the password in NATPROBE_PASSWORD or a file.\n\n" +
			"Exit code: 0 it works; 1 it works, and would reach what it should not; 2 it does not work; 64 a mistake in the command line.",
		Example: "  natprobe relay turn:turn.example.net\n  NATPROBE_PASSWORD=secret natprobe relay --user alice 'turn:turn.example.net:3478?transport=tcp'",
		Args:    exactly(1, "one TURN-URI, such as turn:turn.example.net:3478"),
		RunE:    func(c *cobra.Command, args []string) error { return a.runRelay(c.Context(), args[0], &o) },
	}
	f := c.Flags()
	f.StringVar(&o.user, "user", "", "user name, for a relay that asks for credentials")
	f.StringVar(&o.passwordFile, "password-file", "", "file with the password; default: NATPROBE_PASSWORD")
	f.BoolVar(&o.json, "json", false, "print JSON")
	f.BoolVar(&o.quiet, "quiet", false, "print nothing but what --json asks for")
	f.BoolVar(&o.noAudit, "no-audit", false, "do not ask whom the relay would reach")
	f.BoolVar(&o.noLoad, "no-load", false, "do not measure throughput")
	f.Float64Var(&o.rate, "rate", o.rate, "highest rate of the throughput test, in Mbit/s")
	return c
}

func (a *app) runRelay(ctx context.Context, uri string, o *relayOptions) error {
	server, err := client.ParseServer(uri)
	if err != nil {
		return usage{errors.New(strings.TrimPrefix(err.Error(), "client: "))}
	}
	if !(o.rate > 0 && o.rate <= maxRate) {
		return usage{fmt.Errorf("--rate %g: want up to %g", o.rate, maxRate)}
	}
	password, err := a.password(o)
	if err != nil {
		return usage{err}
	}
	dial := func(ctx context.Context, network string) (*client.Conn, error) {
		cfg := a.client(uri, network)
		cfg.Username, cfg.Password, cfg.ChannelAfter = o.user, password, 1
		return client.Dial(ctx, cfg)
	}
	p := a.newProgress(!o.quiet)
	defer p.clear()
	r := relayReport{Version: 1, Server: server.String(), ExitCode: exitRelayFails}
	var conn *client.Conn
	network := ""
	for _, n := range []string{"udp", "tcp"} {
		if server.Network != "" && server.Network != n {
			continue
		}
		p.show("allocating over " + n)
		t, c := allocate(ctx, dial, n)
		r.Transports = append(r.Transports, t)
		switch {
		case c == nil:
		case conn == nil:
			conn, network = c, n
		default:
			c.Close()
		}
	}
	if conn != nil {
		defer conn.Close()
		r.ExitCode = exitRelayWorks
		l := link{dial: func(ctx context.Context) (*client.Conn, error) { return dial(ctx, network) }, a: conn, rate: o.rate, load: !o.noLoad, p: p}
		r.Link = l.measure(ctx)
		if !r.Link.passes() {
			r.ExitCode = exitRelayFails
		}
		if !o.noAudit {
			p.show("asking whom it would reach")
			r.Audit = audit(ctx, func(ctx context.Context) (*client.Conn, error) { return dial(ctx, network) }, conn)
			for _, x := range r.Audit {
				if x.State == auditOpen && r.ExitCode == exitRelayWorks {
					r.ExitCode = exitRelayOpen
				}
			}
		}
	}
	p.clear()
	if err := ctx.Err(); err != nil {
		return err
	}
	a.code = r.ExitCode
	switch {
	case o.json:
		e := json.NewEncoder(a.out)
		e.SetIndent("", "  ")
		return e.Encode(r)
	case !o.quiet:
		r.print(a.out)
	}
	return nil
}

func (a *app) password(o *relayOptions) (string, error) {
	if o.passwordFile == "" {
		return a.env("NATPROBE_PASSWORD"), nil
	}
	f, err := os.Open(o.passwordFile)
	if err != nil {
		return "", fmt.Errorf("--password-file: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxPassFil))
	if err != nil {
		return "", fmt.Errorf("--password-file: %w", err)
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}

func allocate(ctx context.Context, dial func(context.Context, string) (*client.Conn, error), network string) (relayTransport, *client.Conn) {
	ctx, cancel := context.WithTimeout(ctx, relayTime)
	defer cancel()
	t := relayTransport{Network: network}
	start := time.Now()
	c, err := dial(ctx, network)
	if err != nil {
		t.State, t.Error = stateSilent, explain(err)
		var e *client.Error
		if errors.As(err, &e) {
			t.State = stateRefuses
		}
		switch {
		case errors.Is(err, client.ErrCredentials):
			t.Error = "it refuses the credentials"
		case errors.Is(err, client.ErrCredentialsWanted):
			t.Error = "it asks for credentials: give --user and a password"
		}
		return t, nil
	}
	t.State, t.TookMS, t.Relayed = stateAnswers, milliseconds(time.Since(start)), c.LocalAddr().String()
	if m := c.MappedAddr(); m.IsValid() {
		t.Seen = m.String()
	}
	return t, c
}

func (r *relayReport) print(w io.Writer) {
	fmt.Fprintln(w, r.Server)
	for _, t := range r.Transports {
		name := strings.ToUpper(t.Network)
		switch {
		case t.State != stateAnswers:
			fmt.Fprintf(w, "  %-11s  %s\n", name, t.Error)
		case t.Seen != "":
			fmt.Fprintf(w, "  %-11s  allocated %s in %.1f ms; it sees us as %s\n", name, t.Relayed, t.TookMS, t.Seen)
		default:
			fmt.Fprintf(w, "  %-11s  allocated %s in %.1f ms\n", name, t.Relayed, t.TookMS)
		}
	}
	if l := r.Link; l != nil {
		if l.Error != "" {
			fmt.Fprintf(w, "  %-11s  %s\n", "Data", l.Error)
		} else {
			fmt.Fprintf(w, "  %-11s  %.1f ms median, %.1f to %.1f, %s\n", "Round trip", l.MedianMS, l.LeastMS, l.MostMS, l.path())
			fmt.Fprintf(w, "  %-11s  %d of %d datagrams\n", "Loss", l.Sent-l.Received, l.Sent)
			if l.Throughput > 0 {
				least := ""
				if l.AtLeast {
					least = "at least "
				}
				fmt.Fprintf(w, "  %-11s  %s%.1f Mbit/s one way\n", "Throughput", least, l.Throughput)
			}
		}
	}
	open := 0
	for _, x := range r.Audit {
		if x.State == auditOpen {
			open++
		}
	}
	for i, x := range r.Audit {
		name := ""
		if i == 0 {
			name = "Audit"
		}
		fmt.Fprintf(w, "  %-11s  %-8s %s (%s)\n", name, map[string]string{auditOpen: "REACHES", auditRefused: "refuses", auditUnknown: "?"}[x.State], x.What, x.Address)
	}
	if open > 0 {
		fmt.Fprintf(w, "\nThis relay would carry packets to %d kinds of address that it should not reach: deny them as peers.\n", open)
	}
}

// auditLine is one kind of address.
type auditLine struct {
	What    string     `json:"what"`
	Address netip.Addr `json:"address"`
	State   string     `json:"state"`
	Why     string     `json:"why,omitempty"`
}

// The states of an audit.
const (
	auditOpen    = "reaches"
	auditRefused = "refuses"
	auditUnknown = "unknown"
)

// audited are addresses that a relay on the internet must not reach.
var audited = []struct{ what, address string }{
	{"loopback", "127.0.0.1"},
	{"loopback, another address", "127.1.2.3"},
	{"the unspecified address, which is loopback for Linux", "0.0.0.0"},
	{"private network 10/8", "10.0.0.1"},
	{"private network 172.16/12", "172.16.0.1"},
	{"private network 192.168/16", "192.168.0.1"},
	{"carrier's network 100.64/10", "100.64.0.1"},
	{"link-local", "169.254.1.1"},
	{"cloud metadata", "169.254.169.254"},
	{"cloud metadata of another provider", "100.100.100.200"},
	{"multicast", "224.0.0.1"},
	{"broadcast", "255.255.255.255"},
	{"reserved 240/4", "240.0.0.1"},
	{"benchmarking 198.18/15", "198.18.0.1"},
	{"IPv6 loopback", "::1"},
	{"IPv6 unspecified", "::"},
	{"IPv6 private network", "fd00::1"},
	{"IPv6 link-local", "fe80::1"},
	{"IPv6 cloud metadata", "fd00:ec2::254"},
	{"IPv6 multicast", "ff02::1"},
	{"loopback in NAT64 clothes", "64:ff9b::7f00:1"},
	{"loopback in 6to4 clothes", "2002:7f00:1::"},
	{"loopback as an IPv4-compatible address", "::127.0.0.1"},
}

const (
	auditTime = 4 * time.Second // for each question
	auditPort = 50001           // of the addresses: nobody's, and nothing is sent
)

// audit asks the relay to bind channels. A server may end an allocation that asks for too much, so another one is dialled then.
func audit(ctx context.Context, dial func(context.Context) (*client.Conn, error), first *client.Conn) []auditLine {
	var out []auditLine
	list := audited
	relayed, _ := netip.ParseAddrPort(first.LocalAddr().String())
	conn := first
	for _, x := range list {
		line := auditLine{What: x.what, Address: netip.MustParseAddr(x.address), State: auditUnknown}
		if line.Address.Is4() != relayed.Addr().Unmap().Is4() {
			continue // this allocation cannot reach the family at all
		}
		for try := 0; try < 2; try++ {
			if conn == nil {
				if c, err := dial(ctx); err == nil {
					conn = c
				} else {
					line.Why = explain(err)
					break
				}
			}
			one, cancel := context.WithTimeout(ctx, auditTime)
			err := conn.Bind(one, netip.AddrPortFrom(line.Address, auditPort))
			cancel()
			var e *client.Error
			switch {
			case err == nil:
				line.State = auditOpen
			case errors.Is(err, client.ErrQuota), errors.Is(err, client.ErrCapacity):
				line.Why = explain(err)
			case errors.As(err, &e):
				line.State, line.Why = auditRefused, fmt.Sprintf("%d %s", e.Code, e.Reason)
			case errors.Is(err, client.ErrPeer):
				line.State, line.Why = auditRefused, "no client can ask for it"
			case errors.Is(err, client.ErrAllocationLost):
				if conn != first {
					conn.Close()
				}
				conn = nil
				continue
			default:
				line.Why = explain(err)
			}
			break
		}
		out = append(out, line)
	}
	if conn != nil && conn != first {
		conn.Close()
	}
	return out
}
