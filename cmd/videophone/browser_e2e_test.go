//go:build e2e

package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// patience is for a machine that does other things too: each picture is encoded and decoded in software.
const patience = 60 * time.Second

// launch runs a program until the test ends, and returns the lines that it prints.
func launch(t *testing.T, name string, args ...string) <-chan string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	r, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 1000)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for s := bufio.NewScanner(r); s.Scan(); {
			select {
			case lines <- s.Text():
			default:
			}
		}
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(15 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
	})
	return lines
}

// await returns the first line that has text in it.
func await(t *testing.T, lines <-chan string, text string) string {
	t.Helper()
	var seen []string
	for deadline := time.After(patience); ; {
		select {
		case l := <-lines:
			seen = append(seen, l)
			if strings.Contains(l, text) {
				return l
			}
		case <-deadline:
			t.Fatalf("no %q in\n%s", text, strings.Join(seen, "\n"))
		}
	}
}

// freePort is a UDP and TCP port of loopback that nobody has at the moment.
func freePort(t *testing.T) string {
	t.Helper()
	for range 50 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		u, err := net.ListenPacket("udp", l.Addr().String())
		l.Close()
		if err != nil {
			continue
		}
		u.Close()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		return port
	}
	t.Fatal("no free port")
	return ""
}

// browser starts Chromium with a camera and a microphone that are patterns, and tabs for pages.
func browser(t *testing.T) context.Context {
	t.Helper()
	options := chromedp.DefaultExecAllocatorOptions[:]
	for _, f := range []string{"use-fake-device-for-media-stream", "use-fake-ui-for-media-stream", "disable-quic", "disable-background-networking",
		"disable-component-update", "disable-sync", "disable-background-timer-throttling", "disable-renderer-backgrounding"} {
		options = append(options, chromedp.Flag(f, true))
	}
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), append(options, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun, chromedp.UserDataDir(t.TempDir()))...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("chromium: %v", err)
	}
	return ctx
}

// tab is the page of one phone.
type tab struct {
	t    *testing.T
	name string
	ctx  context.Context
}

func (b *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		state, _ := chromedp.Run(b.ctx, chromedp.Evaluate[string](`document.body.innerText + "\n" + document.querySelector("#tiles").innerHTML`))
		b.t.Fatalf("%s: %v\nthe page says: %s", b.name, err, state)
	}
}

// wait waits until a JavaScript expression is true.
func (b *tab) wait(what, expression string) {
	b.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		ok, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool]("!!("+expression+")"))
		if err == nil && ok {
			return
		}
		if time.Now().After(deadline) {
			state, _ := chromedp.Run(b.ctx, chromedp.Evaluate[string](`document.body.innerText + "\n" + document.querySelector("#tiles").innerHTML`))
			b.t.Fatalf("%s: %s does not come (%v)\nthe page says: %s", b.name, what, err, state)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (b *tab) text(expression string) string {
	b.t.Helper()
	s, err := chromedp.Run(b.ctx, chromedp.Evaluate[string](expression))
	if err != nil {
		b.t.Fatalf("%s: %s: %v", b.name, expression, err)
	}
	return s
}

// shoot keeps a picture of the page in the build folder.
func (b *tab) shoot(name string) {
	b.t.Helper()
	png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		b.t.Fatal(err)
	}
	dir := filepath.Join("..", "..", "build")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), png, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// talks waits until every one of n tiles shows pictures that change and has sounded.
func (b *tab) talks(n int) {
	b.t.Helper()
	b.wait(fmt.Sprintf("picture of %d", n), fmt.Sprintf(`document.querySelectorAll(".tile.seen").length === %d`, n))
	for i := range n {
		canvas := fmt.Sprintf(`document.querySelectorAll(".tile canvas")[%d]`, i)
		first := b.text(canvas + ".toDataURL()")
		b.wait("another picture", fmt.Sprintf("%s.toDataURL() !== %q", canvas, first))
		// The pattern's microphone beeps once a second.
		b.wait("sound", fmt.Sprintf(`Number(document.querySelectorAll(".tile")[%d].dataset.level) > 0.01`, i))
	}
}

func TestCallsBetweenPages(t *testing.T) {
	rendezvous, directory, proxy := freePort(t), freePort(t), freePort(t)
	await(t, launch(t, stileBinary, "serve", "--state.dir="+t.TempDir(), "--turn.listen=udp://127.0.0.1:"+proxy, "--stun.alternate.port=0", "--admin.listen=127.0.0.1:0",
		"--rendezvous.listen=udp://127.0.0.1:"+rendezvous, "--rendezvous.directory.listen=127.0.0.1:"+directory), "RTMFPTURNProxy=")
	chromium := browser(t)
	open := func(name string) *tab {
		url := strings.TrimPrefix(await(t, launch(t, phoneBinary, "--no-browser", "--server", "rtmfp://127.0.0.1:"+rendezvous+"/", "--directory", "http://127.0.0.1:"+directory+"/"), "page "), "page ")
		ctx, cancel := chromedp.NewContext(chromium)
		t.Cleanup(cancel)
		b := &tab{t, name, ctx}
		if err := chromedp.Do(ctx, chromedp.EmulateViewport(1100, 720), chromedp.Navigate(url)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		b.do(chromedp.WaitVisible("#name"), chromedp.SendKeys("#name", name), chromedp.Click("#go"))
		b.wait("being online", `document.querySelector("#me .dot").classList.contains("on")`)
		return b
	}
	ann, ben := open("Ann"), open("Ben")

	ann.do(chromedp.SendKeys("#who", "Ben"), chromedp.Click("#call"))
	ben.wait("ringing", `document.querySelector("#ring").open && document.querySelector("#ring-name").textContent === "Ann"`)
	ben.shoot("videophone-ringing.png")
	ben.do(chromedp.Click("#accept"))
	ann.talks(1)
	ben.talks(1)

	const code = `document.querySelector(".tile .tags").children[2].textContent`
	ann.wait("a safety code", code+".length === 7")
	ben.wait("the same safety code", fmt.Sprintf("%s === %q", code, ann.text(code)))
	ann.wait("a direct path", `document.querySelector(".tile .tags").children[1].textContent.startsWith("Direct")`)

	ann.do(chromedp.Click("#chat-open"), chromedp.SendKeys("#say", "Can you see me? <b>Hello</b>\n"))
	ben.wait("the message", `[...document.querySelectorAll("#lines li")].some((l) => l.textContent.includes("Can you see me? <b>Hello</b>"))`)
	ann.shoot("videophone-call.png")

	// The third forms a mesh: Ann brings Clara in, and Ben and Clara find each other.
	clara := open("Clara")
	ann.do(chromedp.Click("#add-open"), chromedp.SendKeys("#add-who", "Clara\n"))
	clara.wait("ringing", `document.querySelector("#ring").open`)
	clara.do(chromedp.Click("#accept"))
	for _, b := range []*tab{ann, ben, clara} {
		b.talks(2)
	}
	clara.shoot("videophone-conference.png")

	clara.do(chromedp.Click("#end"))
	ben.wait("Clara's leaving", `document.querySelectorAll(".tile.seen").length === 1`)
	ann.do(chromedp.Click("#end"))
	for _, b := range []*tab{ann, ben} {
		b.wait("the end", `document.body.dataset.view === "home"`)
	}
}
