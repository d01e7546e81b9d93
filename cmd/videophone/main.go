package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// Exit codes, those of sysexits(3) where one fits.
const (
	exitFailure = 1
	exitUsage   = 64
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// usage is a mistake in the command line.
type usage struct{ error }

func (u usage) Unwrap() error { return u.error }

func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	var opt options
	var accept string
	var uplink int
	var noBrowser, showVersion bool
	root := &cobra.Command{
		Use:   "videophone",
		Short: "Video calls from peer to peer over RTMFP, as Adobe's VideoPhone sample made them",
		Long: "Video calls from peer to peer over RTMFP, as Adobe's VideoPhone sample made them.\n\n" +
			"Without --name it opens a page in the browser, which has the camera, the microphone and the calls. With --name it goes online\n" +
			"at once, and --call, --publish and --record make calls without a browser; the page is there all the same.",
		Example: "  videophone\n" +
			"  videophone --name ann --server rtmfp://rendezvous.example.com/KEY --call ben\n" +
			"  videophone --name ben --accept auto --publish greeting.flv --record heard.flv --report call.json",
		SilenceErrors: true, SilenceUsage: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage{fmt.Errorf("what is %q? See `videophone --help`", args[0])}
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error {
			if showVersion {
				_, err := fmt.Fprintf(out, "videophone %s (%s %s/%s)\n", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
				return err
			}
			switch accept {
			case "auto", "ask":
				opt.auto = accept == "auto"
			default:
				return usage{fmt.Errorf("--accept %s: write auto or ask", accept)}
			}
			if err := checkServer(opt.server); err != nil {
				return usage{err}
			}
			if opt.name == "" && (opt.call != "" || opt.auto || opt.publish != "" || opt.record != "" || opt.report != "") {
				return usage{errors.New("--name is missing: calls without a page need it")}
			}
			if clip(opt.name, maxName) != opt.name {
				return usage{fmt.Errorf("--name %q: write at most %d printable characters", opt.name, maxName)}
			}
			opt.withoutUI = opt.name != ""
			opt.browser = !opt.withoutUI && !noBrowser
			opt.uplink = uplink * 1000
			return serve(c.Context(), opt, out)
		},
	}
	f := root.Flags()
	f.StringVar(&opt.server, "server", "rtmfp://127.0.0.1/", "the rendezvous service, rtmfp://HOST[:PORT]/KEY")
	f.StringVar(&opt.name, "name", "", "your name; without it the page asks")
	f.StringVar(&opt.call, "call", "", "call this name or peer ID, and end with the call")
	f.StringVar(&accept, "accept", "ask", "what to do with calls: auto accepts them, ask shows them on the page")
	f.StringVar(&opt.mms, "mms-config", "", "the mms.cfg that names the TURN proxy (default: this machine's)")
	f.StringVar(&opt.http, "http", "127.0.0.1:0", "where the page is served, on this machine only")
	f.StringVar(&opt.publish, "publish", "", "send this FLV file in the first call")
	f.StringVar(&opt.record, "record", "", "write what peers send to this FLV file")
	f.StringVar(&opt.report, "report", "", "measure the network before going online (about 60 packets to the server's host), and write how the call went to this JSON file")
	f.StringVar(&opt.directory, "directory", "", "the exchange of names and peer IDs (default: http://HOST:8935/ of the server)")
	f.IntVar(&uplink, "uplink", 0, "kbit/s that all calls together may send; 0: no limit")
	f.BoolVar(&noBrowser, "no-browser", false, "print the page's address instead of opening it")
	f.BoolVar(&showVersion, "version", false, "print the version")
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return usage{fmt.Errorf("%w: see `videophone --help`", err)}
	})
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(errOut, err)
	var u usage
	if errors.As(err, &u) {
		return exitUsage
	}
	return exitFailure
}

// checkServer refuses a URL that no service can have.
func checkServer(server string) error {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "rtmfp" || u.Hostname() == "" {
		return fmt.Errorf("--server %s: write rtmfp://HOST/KEY", server)
	}
	if a, err := netip.ParseAddr(u.Hostname()); err == nil && a.IsUnspecified() {
		return fmt.Errorf("--server %s: write the service's own address", server)
	}
	return nil
}

func serve(ctx context.Context, opt options, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if dir, err := os.UserConfigDir(); err == nil {
		opt.stateDir = filepath.Join(dir, "stile", "videophone")
	}
	book, err := openKeyBook(opt.stateDir)
	if err != nil {
		return err
	}
	if opt.publish != "" {
		f, err := os.Open(opt.publish) // so that a wrong name is told before somebody waits for it
		if err != nil {
			return fmt.Errorf("--publish: %w", err)
		}
		f.Close()
	}
	h, err := newHub(ctx, opt.http)
	if err != nil {
		return err
	}
	p, err := newPhone(opt, h, book, out)
	if err != nil {
		h.listener.Close()
		return err
	}
	served := make(chan error, 1)
	go func() { served <- h.serve(ctx) }()
	fmt.Fprintf(out, "page %s\n", h.url())
	if opt.browser {
		if err := openBrowser(ctx, h.url()); err != nil {
			fmt.Fprintf(out, "open that address in a browser (%v)\n", err)
		}
	}
	done := make(chan error, 1)
	go func() { done <- p.run(ctx) }()
	select {
	case err = <-done:
		cancel()
		<-served
	case err = <-served:
		cancel()
		<-done
	}
	return err
}

// openBrowser shows a page as a click on a link would.
func openBrowser(ctx context.Context, address string) error {
	var cmd *exec.Cmd
	switch runtime.GOOS {
	case "windows":
		cmd = exec.Command("rundll32", "url.dll,FileProtocolHandler", address)
	case "darwin":
		cmd = exec.Command("open", address)
	default:
		cmd = exec.Command("xdg-open", address)
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	// The opener ends when the browser has the address; what it says then comes too late to matter, a failure at once does not.
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	case <-time.After(2 * time.Second):
	}
	return nil
}
