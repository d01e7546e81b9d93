package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stilenet/stile/internal/admin"
	"github.com/stilenet/stile/internal/config"
	"github.com/stilenet/stile/rendezvous"
)

func (a app) keys() *cobra.Command {
	c := &cobra.Command{
		Use: "keys", Short: "Manage the developer keys of the rendezvous", Args: cobra.NoArgs, RunE: help,
		Long: "Keys are handles for quotas, not secrets: an application connects to rtmfp://HOST/KEY, and that URL travels in its first packet, under\n" +
			"a published encryption key. They count from rendezvous.keys.required: true on.\n\n" +
			"The commands ask the running server. When none runs they change keys.db in state.dir themselves.",
	}
	var k rendezvous.Key
	var expires string
	add := a.keyCommand(&cobra.Command{
		Use: "add NAME", Short: "Make a key and print it, this once", Args: cobra.ExactArgs(1),
	}, func(ctx context.Context, store keyStore, args []string) error {
		k.Name = args[0]
		var err error
		if k.Expires, err = parseExpiry(time.Now(), expires); err != nil {
			return usage{err}
		}
		key, err := store.AddKey(ctx, k)
		if err != nil {
			return err
		}
		fmt.Fprintln(a.out, key)
		return nil
	})
	add.Flags().IntVar(&k.Sessions, "sessions", 0, "sessions at once; 0: no limit")
	add.Flags().IntVar(&k.Introductions, "introductions", 0, "introductions a second to its sessions; 0: no limit")
	add.Flags().StringVar(&expires, "expires", "", "when it ends: a date (2027-01-31), a time (RFC 3339) or from now (720h, 30d); empty: never")

	var asJSON bool
	list := a.keyCommand(&cobra.Command{Use: "list", Short: "List the keys by name; the keys themselves are not kept", Args: cobra.NoArgs},
		func(ctx context.Context, store keyStore, _ []string) error {
			keys, err := store.Keys(ctx)
			if err != nil {
				return err
			}
			if asJSON {
				if keys == nil {
					keys = []rendezvous.KeyUse{}
				}
				return printJSON(a.out, admin.KeyList{Version: admin.FormatVersion, Keys: keys})
			}
			a.printKeys(keys)
			return nil
		})
	list.Flags().BoolVar(&asJSON, "json", false, "print JSON")

	revoke := a.keyCommand(&cobra.Command{Use: "revoke NAME", Short: "End a key, and the sessions that have it", Args: cobra.ExactArgs(1)},
		func(ctx context.Context, store keyStore, args []string) error {
			if err := store.RevokeKey(ctx, args[0]); err != nil {
				return err
			}
			fmt.Fprintln(a.out, "revoked", args[0])
			return nil
		})
	c.AddCommand(add, list, revoke)
	return c
}

// keyStore is where keys are: a running server, or its file.
type keyStore interface {
	Keys(ctx context.Context) ([]rendezvous.KeyUse, error)
	AddKey(ctx context.Context, k rendezvous.Key) (string, error)
	RevokeKey(ctx context.Context, name string) error
}

// keyCommand makes a command that works on the running server, or on the file if there is none.
func (a app) keyCommand(c *cobra.Command, run func(ctx context.Context, store keyStore, args []string) error) *cobra.Command {
	config.Flags(c.Flags())
	c.Flags().VisitAll(func(f *pflag.Flag) {
		f.Hidden = strings.Contains(f.Name, ".") && !strings.HasPrefix(f.Name, "admin.") && f.Name != "state.dir"
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
		_, err = client.Keys(ctx)
		switch {
		case err == nil:
			return run(ctx, client, args)
		case !errors.Is(err, admin.ErrNoServer):
			return err
		}
		file, err := rendezvous.OpenKeyFile(filepath.Join(cfg.State.Dir, keyFileName), nil)
		if err != nil {
			return err
		}
		return errors.Join(run(ctx, fileStore{file}, args), file.Close())
	}
	return c
}

// fileStore is the file, while no server runs.
type fileStore struct{ file *rendezvous.KeyFile }

func (f fileStore) Keys(context.Context) ([]rendezvous.KeyUse, error) {
	all, err := f.file.Keys()
	var out []rendezvous.KeyUse
	for _, k := range all {
		out = append(out, rendezvous.KeyUse{Key: k})
	}
	slices.SortFunc(out, func(a, b rendezvous.KeyUse) int { return strings.Compare(a.Name, b.Name) })
	return out, err
}

func (f fileStore) AddKey(_ context.Context, k rendezvous.Key) (string, error) {
	text, err := f.file.Add(time.Now(), k)
	return text, admin.KeyError(err)
}

func (f fileStore) RevokeKey(_ context.Context, name string) error {
	return admin.KeyError(f.file.Revoke(name))
}

func (a app) printKeys(keys []rendezvous.KeyUse) {
	if len(keys) == 0 {
		fmt.Fprintln(a.out, "no keys")
		return
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tSESSIONS\tOF\tINTRODUCTIONS/S\tREFUSED\tCREATED\tEXPIRES")
	most := func(n int) string {
		if n == 0 {
			return "any"
		}
		return number(n)
	}
	for _, k := range keys {
		expires := "never"
		if !k.Expires.IsZero() {
			expires = k.Expires.Local().Format(time.DateTime)
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%d\t%s\t%s\n", k.Name, k.Live, most(k.Sessions), most(k.Introductions), k.Refused, k.Created.Local().Format(time.DateOnly), expires)
	}
	_ = w.Flush()
}

// parseExpiry reads when a key ends. Empty is never.
func parseExpiry(now time.Time, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	if t, err := time.ParseInLocation(time.DateOnly, text, time.Local); err == nil {
		return t, nil
	}
	duration := text
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n int
		if _, err := fmt.Sscanf(days, "%d", &n); err == nil && fmt.Sprint(n) == days && n > 0 && n <= 36500 {
			return now.AddDate(0, 0, n), nil
		}
	}
	d, err := time.ParseDuration(duration)
	if err != nil || d <= 0 {
		return time.Time{}, fmt.Errorf("--expires: %q is no time: write 2027-01-31, 2027-01-31T12:00:00Z, 720h or 30d", text)
	}
	return now.Add(d), nil
}
