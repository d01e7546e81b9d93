//go:build e2e

package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// deskPage stands for the page of a phone that runs: it sees the state, and sends commands.
type deskPage struct {
	t    *testing.T
	name string
	conn *websocket.Conn
	log  <-chan string // what the phone prints

	mu     sync.Mutex
	state  view
	frames map[int]int // by leg
	seen   func(frame) // under mu; may be nil
}

// services starts stile serve on loopback and returns the flags that lead phones there.
func services(t *testing.T) []string {
	rendezvous, directory, proxy := freePort(t), freePort(t), freePort(t)
	await(t, launch(t, stileBinary, "serve", "--state.dir="+t.TempDir(), "--turn.listen=udp://127.0.0.1:"+proxy, "--stun.alternate.port=0", "--admin.listen=127.0.0.1:0",
		"--rendezvous.listen=udp://127.0.0.1:"+rendezvous, "--rendezvous.directory.listen=127.0.0.1:"+directory), "RTMFPTURNProxy=")
	return []string{"--no-browser", "--server", "rtmfp://127.0.0.1:" + rendezvous + "/", "--directory", "http://127.0.0.1:" + directory + "/"}
}

// openDesk starts a phone and goes online.
func openDesk(t *testing.T, flags []string, name string) *deskPage {
	t.Helper()
	log := launch(t, phoneBinary, flags...)
	return sitDown(t, strings.TrimPrefix(await(t, log, "page "), "page "), name, log, nil)
}

// sitDown opens the page of a phone, with a client that reaches it, and goes online.
func sitDown(t *testing.T, address, name string, log <-chan string, client *http.Client) *deskPage {
	t.Helper()
	base, token, _ := strings.Cut(address, "/#")
	conn, _, err := websocket.Dial(t.Context(), strings.Replace(base, "http", "ws", 1)+"/socket?token="+token, &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {base}}, HTTPClient: client})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseNow() })
	conn.SetReadLimit(4 << 20)
	d := &deskPage{t: t, name: name, conn: conn, log: log, frames: map[int]int{}}
	go d.read()
	d.do(pageCommand{Do: "can", Video: []string{"vp08"}, Audio: []string{"Opus"}, Encode: []string{"vp08"}})
	d.do(pageCommand{Do: "name", Name: name})
	d.wait("being online", func(v view) bool { return v.Phase == "online" && v.Listed })
	return d
}

func (d *deskPage) read() {
	for {
		kind, b, err := d.conn.Read(d.t.Context())
		if err != nil {
			return
		}
		d.mu.Lock()
		if kind == websocket.MessageText {
			d.state = view{}
			if err := json.Unmarshal(b, &d.state); err != nil {
				d.t.Error(err)
			}
		} else if f, err := parseFrame(b); err == nil {
			d.frames[f.leg]++
			if d.seen != nil {
				d.seen(f)
			}
		}
		d.mu.Unlock()
	}
}

func (d *deskPage) do(c pageCommand) {
	d.t.Helper()
	b, _ := json.Marshal(c)
	if err := d.conn.Write(d.t.Context(), websocket.MessageText, b); err != nil {
		d.t.Fatalf("%s: %v", d.name, err)
	}
}

func (d *deskPage) wait(what string, ok func(view) bool) view {
	d.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		d.mu.Lock()
		v := d.state
		d.mu.Unlock()
		if ok(v) {
			return v
		}
		if time.Now().After(deadline) {
			b, _ := json.MarshalIndent(v, "", " ")
			printed := ""
			for len(d.log) > 0 {
				printed += <-d.log + "\n"
			}
			d.t.Fatalf("%s: %s does not come: %s\n%s", d.name, what, b, printed)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// with is the newest call with somebody.
func with(v view, name string) viewCall {
	for i := len(v.Calls) - 1; i >= 0; i-- {
		if v.Calls[i].Name == name {
			return v.Calls[i]
		}
	}
	return viewCall{}
}

func (d *deskPage) inCall(names ...string) view {
	d.t.Helper()
	return d.wait("a call with "+strings.Join(names, " and "), func(v view) bool {
		for _, n := range names {
			if c := with(v, n); c.State != stateInCall || c.Code == "" || c.Standing == standingNone {
				return false
			}
		}
		return true
	})
}

func (d *deskPage) accept(from string) {
	d.t.Helper()
	v := d.wait("a call from "+from, func(v view) bool { return with(v, from).State == stateIncoming })
	d.do(pageCommand{Do: "accept", Leg: with(v, from).Leg})
}

func TestConferenceOfThreeForms(t *testing.T) {
	flags := services(t)
	ann, ben, clara := openDesk(t, flags, "Ann"), openDesk(t, flags, "Ben"), openDesk(t, flags, "Clara")
	ann.do(pageCommand{Do: "call", Name: "Ben"})
	ben.accept("Ann")
	ann.inCall("Ben")
	ben.inCall("Ann")
	ann.do(pageCommand{Do: "call", Name: "Clara"})
	clara.accept("Ann")
	a, b, c := ann.inCall("Ben", "Clara"), ben.inCall("Ann", "Clara"), clara.inCall("Ann", "Ben")
	for _, pair := range [][2]viewCall{{with(a, "Ben"), with(b, "Ann")}, {with(a, "Clara"), with(c, "Ann")}, {with(b, "Clara"), with(c, "Ben")}} {
		if pair[0].Code != pair[1].Code {
			t.Errorf("safety codes %q and %q", pair[0].Code, pair[1].Code)
		}
		if pair[0].Standing != standingNew || pair[1].Standing != standingNew {
			t.Errorf("keys are %q and %q, want new", pair[0].Standing, pair[1].Standing)
		}
	}
	// What one sends reaches both.
	sent := frame{kind: kindAudio, packet: packetCoded, key: true, codec: "Opus", data: []byte("sound")}.append(nil)
	for range 5 {
		if err := ann.conn.Write(t.Context(), websocket.MessageBinary, sent); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []*deskPage{ben, clara} {
		d.wait("Ann's sound", func(v view) bool { return d.frames[with(v, "Ann").Leg] == 5 })
	}
	ann.do(pageCommand{Do: "say", Text: "hello"})
	ben.wait("the message", func(v view) bool { return len(v.Chat) == 1 && v.Chat[0].Text == "hello" && v.Chat[0].Name == "Ann" })
	ann.do(pageCommand{Do: "end-all"})
	ben.wait("Ann's leaving", func(v view) bool { return with(v, "Ann").State == stateEnded })
	ben.inCall("Clara")
}

func TestGlareAndRefusalOverTheNetwork(t *testing.T) {
	flags := services(t)
	ann, ben := openDesk(t, flags, "Ann"), openDesk(t, flags, "Ben")
	for round := range 3 {
		ann.do(pageCommand{Do: "call", Name: "Ben"})
		ben.do(pageCommand{Do: "call", Name: "Ann"})
		a, b := ann.inCall("Ben"), ben.inCall("Ann")
		if with(a, "Ben").Code != with(b, "Ann").Code {
			t.Errorf("round %d: safety codes differ", round)
		}
		end := []*deskPage{ann, ben}[round%2]
		end.do(pageCommand{Do: "end-all"})
		for _, d := range []*deskPage{ann, ben} {
			v := d.wait("the end", func(v view) bool { return len(v.Calls) > 0 && v.Calls[len(v.Calls)-1].State == stateEnded })
			for _, c := range v.Calls {
				d.do(pageCommand{Do: "dismiss", Leg: c.Leg})
			}
			d.wait("no call", func(v view) bool { return len(v.Calls) == 0 })
		}
	}
	ann.do(pageCommand{Do: "call", Name: "Ben"})
	v := ben.wait("ringing", func(v view) bool { return with(v, "Ann").State == stateIncoming })
	ann.wait("that it rings", func(v view) bool { return with(v, "Ben").Words == "Ringing…" })
	ben.do(pageCommand{Do: "end", Leg: with(v, "Ann").Leg})
	ann.wait("the refusal", func(v view) bool { return with(v, "Ben").Words == "The call was refused." })

	ann.do(pageCommand{Do: "call", Name: "nobody"})
	ann.wait("that nobody has the name", func(v view) bool { return strings.Contains(v.Trouble, errNotOnline.Error()) })
}
