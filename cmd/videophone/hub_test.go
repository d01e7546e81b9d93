package main

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// openHub serves a hub and returns it with what its page said.
func openHub(t *testing.T) (*hub, chan any) {
	t.Helper()
	h, err := newHub(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	said := make(chan any, 100)
	h.command = func(c pageCommand) { said <- c }
	h.media = func(f frame) { said <- f }
	h.gone = func() { said <- "gone" }
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return h, said
}

func dialHub(t *testing.T, h *hub, origin, token string) (*websocket.Conn, *http.Response, error) {
	t.Helper()
	return websocket.Dial(t.Context(), "ws://"+h.listener.Addr().String()+"/socket?token="+token, &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {origin}}})
}

func next(t *testing.T, said chan any) any {
	t.Helper()
	select {
	case v := <-said:
		return v
	case <-time.After(20 * time.Second):
		t.Fatal("nothing came")
		return nil
	}
}

func TestHubTalksWithItsPageOnly(t *testing.T) {
	h, _ := openHub(t)
	own := "http://" + h.listener.Addr().String()
	for _, c := range []struct{ name, origin, token string }{
		{"another site", "http://evil.example", h.token},
		{"another port of this machine", "http://127.0.0.1:1", h.token},
		{"another scheme", strings.Replace(own, "http", "https", 1), h.token},
		{"no origin", "", h.token},
		{"no token", own, ""},
		{"a token of another run", own, strings.Repeat("A", tokenSize)},
	} {
		conn, res, err := dialHub(t, h, c.origin, c.token)
		if err == nil {
			conn.CloseNow()
		}
		if err == nil || res == nil || res.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	conn, _, err := dialHub(t, h, own, h.token)
	if err != nil {
		t.Fatal(err)
	}
	conn.CloseNow()
}

func TestHubAnswersToItsOwnNameOnly(t *testing.T) {
	h, _ := openHub(t)
	for host, want := range map[string]int{"": http.StatusOK, "rebound.example:80": http.StatusForbidden} {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+h.listener.Addr().String()+"/", nil)
		req.Host = host
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("Host %q: %s", host, res.Status)
		}
		if want == http.StatusOK && !strings.Contains(res.Header.Get("Content-Security-Policy"), "default-src 'none'") {
			t.Error("the page may load anything")
		}
	}
}

func TestHubStaysOnThisMachine(t *testing.T) {
	for _, address := range []string{"0.0.0.0:0", "192.0.2.1:80", ":0", "example.com:80", "127.0.0.1"} {
		if h, err := newHub(t.Context(), address); err == nil || !strings.Contains(err.Error(), "--http") {
			h.listener.Close()
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestPageGetsTheNewestStateAndFrames(t *testing.T) {
	h, said := openHub(t)
	h.show(map[string]int{"n": 1})
	h.show(map[string]int{"n": 2})
	first, _, err := dialHub(t, h, "http://"+h.listener.Addr().String(), h.token)
	if err != nil {
		t.Fatal(err)
	}
	var state map[string]int
	if _, b, err := first.Read(t.Context()); err != nil || json.Unmarshal(b, &state) != nil || state["n"] != 2 {
		t.Fatalf("%v, %v", state, err)
	}
	sent := frame{kind: kindAudio, packet: packetCoded, key: true, codec: "Opus", leg: 4, data: []byte("x")}
	if !h.play(sent) {
		t.Fatal("no page")
	}
	if kind, b, err := first.Read(t.Context()); err != nil || kind != websocket.MessageBinary || string(b) != string(sent.append(nil)) {
		t.Fatalf("%q, %v", b, err)
	}
	first.Write(t.Context(), websocket.MessageText, []byte(`{"do":"call","name":"Ann"}`))
	if c, ok := next(t, said).(pageCommand); !ok || c.Do != "call" || c.Name != "Ann" {
		t.Errorf("%+v", c)
	}
	first.Write(t.Context(), websocket.MessageText, []byte(`nonsense`))
	first.Write(t.Context(), websocket.MessageBinary, []byte(`nonsense`))
	first.Write(t.Context(), websocket.MessageBinary, sent.append(nil))
	if f, ok := next(t, said).(frame); !ok || f.codec != "Opus" {
		t.Errorf("%+v", f)
	}

	second, _, err := dialHub(t, h, "http://"+h.listener.Addr().String(), h.token)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := first.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
		t.Errorf("the first page: %v", err)
	}
	second.CloseNow()
	if g := next(t, said); g != "gone" {
		t.Errorf("%v", g)
	}
}

func TestPageThatDoesNotReadLosesFramesAndHoldsNobodyUp(t *testing.T) {
	h, _ := openHub(t)
	conn, _, err := dialHub(t, h, "http://"+h.listener.Addr().String(), h.token)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	lost := 0
	for range 50 * pageQueue {
		if !h.play(frame{kind: kindVideo, codec: "vp08", data: make([]byte, 8192)}) {
			lost++
		}
		h.show(lost)
	}
	if lost == 0 {
		t.Error("everything was kept")
	}
}
