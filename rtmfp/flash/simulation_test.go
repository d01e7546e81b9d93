package flash_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stilenet/stile/nattest"
	"github.com/stilenet/stile/nattest/natlab"
	"github.com/stilenet/stile/rtmfp/flash"
)

// calls is how many calls are simulated: 50, or what NATLAB_SEEDS says.
func calls(t *testing.T) uint64 {
	t.Helper()
	s := os.Getenv("NATLAB_SEEDS")
	if s == "" {
		return 50
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		t.Fatalf("NATLAB_SEEDS: %v", err)
	}
	return n
}

// TestCallsThroughAnything simulates two-way calls through random pairs of ways to the internet, with loss, duplication and jitter,
// NATs that forget, a rendezvous that restarts, and ends that close at any time. Each ends with every reliable message delivered in
// order, or with a status code that says why not.
func TestCallsThroughAnything(t *testing.T) {
	for seed := range calls(t) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			inLab(t, seed, func(t *testing.T, l *lab) {
				t.Log(simulateCall(t, l, seed))
			})
			if t.Failed() {
				t.Logf("NATLAB_SEEDS=%d go test ./rtmfp/flash -run TestCallsThroughAnything/^%d$", seed+1, seed)
			}
		})
	}
}

func simulateCall(t *testing.T, l *lab, seed uint64) (outcome string) {
	rng := rand.New(rand.NewPCG(seed, 42))
	all := ways()
	wa, wb := all[rng.IntN(len(all))], all[rng.IntN(len(all))]
	withProxy := rng.IntN(4) > 0 || wa.verdict.UDP == wb.verdict.UDP && rng.IntN(2) == 0
	if withProxy {
		defer l.proxy()()
	}
	alice, bob := l.join("alice", 10, wa), l.join("bob", 11, wb)
	quality := natlab.LinkConfig{
		Delay: time.Duration(1+rng.IntN(50)) * time.Millisecond, Jitter: time.Duration(rng.IntN(10)) * time.Millisecond,
		Loss: []float64{0, 0, 0.01, 0.05, 0.1}[rng.IntN(5)], Duplicate: 0.01 * float64(rng.IntN(2)), Reorder: 0.01 * float64(rng.IntN(2)),
	}
	alice.host.Link().Set(quality)
	bob.host.Link().Set(quality)
	for _, p := range []*player{alice, bob} {
		if err := p.nc.Connect(t.Context(), url); err != nil {
			return explained(t, err, withProxy, wa, wb, quality)
		}
	}
	time.Sleep(time.Duration(rng.IntN(3000)) * time.Millisecond)
	// A call of the sample: each publishes a stream and plays the other's.
	pa, pb := alice.publish("media-caller"), bob.publish("media-callee")
	va := alice.play(bob.nc.NearID(), "media-callee")
	time.Sleep(time.Duration(rng.IntN(500)) * time.Millisecond)
	vb := bob.play(alice.nc.NearID(), "media-caller")
	ended := func(p *player) bool {
		codes := p.codes()
		return slices.ContainsFunc(codes, func(c string) bool {
			return c == flash.NetStreamConnectFailed || c == flash.NetStreamConnectRejected || c == flash.NetStreamConnectClosed || c == flash.NetConnectionConnectClosed
		})
	}
	started := func() bool { return va.has(flash.NetStreamPlayStart) && vb.has(flash.NetStreamPlayStart) }
	wait(t, "the call, or a reason", 3*time.Minute, func() bool { return started() || ended(alice) || ended(bob) })
	if !started() {
		unreachable := slices.Contains(alice.codes(), flash.NetStreamConnectFailed) || slices.Contains(bob.codes(), flash.NetStreamConnectFailed)
		if direct := nattest.Predict(wa.verdict, wb.verdict).Path == nattest.PathDirect; unreachable && (withProxy || direct) {
			t.Fatalf("%s and %s, proxy %v, predicted direct %v, %+v: %s", wa.name, wb.name, withProxy, direct, quality, last(alice, bob))
		}
		return fmt.Sprint("not started: ", last(alice, bob))
	}
	sent := [2]int{}
	incident := rng.IntN(200)
	for i := range 200 {
		for j, pub := range []*flash.NetStream{pa, pb} {
			_ = pub.SendMessage(flash.Message{Type: flash.MessageAudio, Payload: []byte{0xb2, 1}})
			if err := pub.Send("n", sent[j], strings.Repeat("x", rng.IntN(3000))); err == nil {
				sent[j]++
			} else if !errors.Is(err, flash.ErrClosed) {
				t.Fatal(err)
			}
		}
		if i == incident {
			switch rng.IntN(6) {
			case 0:
				l.reboot(rng.IntN(2))
			case 1:
				l.in.stop()
				time.Sleep(time.Duration(rng.IntN(5000)) * time.Millisecond)
				l.in.start()
			case 2:
				_ = []*flash.NetStream{pa, pb}[rng.IntN(2)].Close()
			case 3:
				_ = []*player{alice, bob}[rng.IntN(2)].nc.Close()
			}
		}
		time.Sleep(time.Duration(10+rng.IntN(30)) * time.Millisecond)
	}
	whole := func() bool {
		return vb.count(flash.MessageDataAMF0) >= sent[0]+1 && va.count(flash.MessageDataAMF0) >= sent[1]+1
	}
	wait(t, "all data, or a reason", 3*time.Minute, func() bool { return whole() || ended(alice) || ended(bob) })
	for _, v := range []*listener{va, vb} {
		v.inOrder(t)
	}
	if whole() {
		return "whole"
	}
	return fmt.Sprint("ended: ", last(alice, bob))
}

// explained says why a connection could not be made, which must be for a reason.
func explained(t *testing.T, err error, withProxy bool, wa, wb way, quality natlab.LinkConfig) string {
	t.Helper()
	var status *flash.StatusError
	if !errors.As(err, &status) || status.Description == "" {
		t.Fatalf("%v", err)
	}
	blocked := strings.HasPrefix(wa.name, "blocked") || strings.HasPrefix(wb.name, "blocked")
	if !blocked || withProxy {
		t.Fatalf("%s and %s, proxy %v, %+v: %v", wa.name, wb.name, withProxy, quality, err)
	}
	return "not connected: " + status.Code
}

// last are the last statuses of players.
func last(players ...*player) string {
	var list []string
	for _, p := range players {
		p.mu.Lock()
		if n := len(p.events); n > 0 {
			list = append(list, p.events[n-1].Code+" ("+p.events[n-1].Description+")")
		}
		p.mu.Unlock()
	}
	return strings.Join(list, ", ")
}

// inOrder checks that the numbered data came without a gap.
func (v *listener) inOrder(t *testing.T) {
	t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	next := 0.0
	for _, m := range v.messages {
		if d, err := flash.ParseData(m); m.Type == flash.MessageDataAMF0 && err == nil && d.Handler == "n" {
			if d.Arguments[0] != next {
				t.Fatalf("%v came, not %v", d.Arguments[0], next)
			}
			next++
		}
	}
}

// reboot makes one of the players' boxes forget.
func (l *lab) reboot(i int) {
	if len(l.boxes) > 0 {
		l.boxes[i%len(l.boxes)].Reboot()
	}
}
