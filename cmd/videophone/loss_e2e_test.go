//go:build e2e

package main

import (
	"encoding/binary"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/stilenet/stile/internal/netns"
)

// The call of TestCallOverALossyLink.
const (
	lossyFor   = 6 * time.Second
	lossyLines = 40
	lateAtMost = 250 * time.Millisecond
	// keptAtLeast is the share of sound that comes in time: a packet is lost for good when its repetition is lost too, or too late.
	keptAtLeast = 0.97
)

func TestCallOverALossyLinkKeepsTextWholeAndSoundInTime(t *testing.T) {
	var late time.Duration
	var kept float64
	// What is measured is real time, and the machine may hold it up: twice in a row it is not the machine.
	for range 2 {
		if late, kept = lossyCall(t); late <= lateAtMost && kept >= keptAtLeast {
			break
		}
	}
	t.Logf("sound is at most %v late, %.1f %% of it came", late, 100*kept)
	if late > lateAtMost || kept < keptAtLeast {
		t.Errorf("sound is up to %v late, and %.1f %% of it came", late, 100*kept)
	}
}

// lossyCall is a call over a link that loses 5 % each way. It says how late the latest sound was against the earliest, and which share came.
func lossyCall(t *testing.T) (late time.Duration, kept float64) {
	lab := netns.New(t)
	inet := lab.Internet()
	w := &world{t: t, lab: lab, inet: inet}
	w.serve(inet.Host("service", service), "--stun.alternate.port=0")
	sit := func(name, address string, loss float64) *deskPage {
		h := lab.Host(name)
		inet.AttachSlow(h.At(address+"/32").Named("wan"), netns.UserLinkConfig{Delay: oneWay, Loss: loss, Seed: 3})
		cmd := h.Command(t.Context(), phoneBinary, "--no-browser", "--server", "rtmfp://"+service+"/")
		cmd.Env = append(cmd.Environ(), "XDG_CONFIG_HOME="+t.TempDir())
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go cmd.Wait()
		if err := cmd.WaitLog(t.Context(), "/#"); err != nil {
			t.Fatal(err)
		}
		for !strings.Contains(after(cmd.Log(), "page "), "\n") {
			time.Sleep(10 * time.Millisecond)
		}
		page, _, _ := strings.Cut(after(cmd.Log(), "page "), "\n")
		return sitDown(t, page, name, nil, &http.Client{Transport: &http.Transport{DialContext: h.Dial}})
	}
	ann, ben := sit("Ann", "192.0.2.1", 0.05), sit("Ben", "192.0.2.2", 0)
	ann.do(pageCommand{Do: "call", Name: "Ben"})
	ben.accept("Ann")
	ann.inCall("Ben")
	ben.inCall("Ann")

	var delays []time.Duration
	began := time.Now()
	ben.mu.Lock()
	ben.seen = func(f frame) {
		if f.kind == kindAudio {
			delays = append(delays, time.Since(began)-time.Duration(binary.BigEndian.Uint64(f.data)))
		}
	}
	ben.mu.Unlock()
	sent := 0
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for time.Since(began) < lossyFor {
		<-tick.C
		data := binary.BigEndian.AppendUint64(nil, uint64(time.Since(began)))
		sound := frame{kind: kindAudio, packet: packetCoded, key: true, codec: "Opus", timestamp: uint32(time.Since(began).Milliseconds()), data: append(data, make([]byte, 72)...)}
		if err := ann.conn.Write(t.Context(), websocket.MessageBinary, sound.append(nil)); err != nil {
			t.Fatal(err)
		}
		if sent++; sent%5 == 0 && sent/5 <= lossyLines {
			ann.do(pageCommand{Do: "say", Text: fmt.Sprint("line ", sent/5)})
		}
	}
	v := ben.wait("every line of text", func(v view) bool { return len(v.Chat) == lossyLines })
	for i, line := range v.Chat {
		if line.Text != fmt.Sprint("line ", i+1) {
			t.Errorf("line %d is %q", i+1, line.Text)
		}
	}
	time.Sleep(2 * lateAtMost)
	ben.mu.Lock()
	defer ben.mu.Unlock()
	if len(delays) == 0 {
		t.Fatal("no sound came")
	}
	first, last := delays[0], delays[0]
	for _, d := range delays {
		first, last = min(first, d), max(last, d)
	}
	return last - first, float64(len(delays)) / float64(sent)
}
