package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/stilenet/stile/stun"
)

// Of the port drain. Ours to tune.
const (
	drainSources = 60_000
	drainRate    = 10_000 // sources/s
	flowRate     = 200    // packets/s of the established flow, each way
	drainLoss    = 0.05   // share of the established flow's packets that may be lost: flood, server and flow have the same processors
)

// abuseDrain tries to leave no port to others: by forged Allocates from 60,000 sources, and by one client that takes all it can.
func abuseDrain(ctx context.Context, a *arena, t *AbuseTrial) error {
	n := a.drainSources
	if n == 0 {
		n = drainSources
	}
	sources := make([]netip.AddrPort, n)
	for i := range sources {
		sources[i] = netip.AddrPortFrom(a.source(500+i), uint16(1024+i%60000))
	}
	if !a.lab && sources[0].Addr() == sources[len(sources)-1].Addr() {
		return errNeedsLab
	}
	echo, peer, err := a.echoPeer()
	if err != nil {
		return err
	}
	defer echo.Close()
	allocate := request(stun.Allocate, udpTransport)
	fresh := func() []byte {
		b := append([]byte(nil), allocate...)
		id := newID()
		copy(b[8:], id[:])
		return b
	}
	single := func(int) [][]byte { return [][]byte{fresh()} }

	// 1. Forged Allocates, beside a flow and honest clients.
	f, err := a.flow(peer)
	if err != nil {
		return err
	}
	served := make(chan float64, 1)
	stop := make(chan struct{})
	go func() { served <- a.honest(stop, 450) }()
	err = a.spray(sources, single, drainRate)
	close(stop)
	share := <-served
	sent, back := f.end()
	if err != nil {
		return err
	}
	t.figure("forged sources", float64(n), "")
	t.figure("packets of an established flow during it", float64(sent), "")
	t.bounded("of them lost", 100*(1-float64(back)/float64(max(sent, 1))), "%", 100*drainLoss)
	t.bounded("honest clients that got no allocation during it", 100*(1-share), "%", 5)
	if _, err := a.allocated(func() (*attacker, error) { return a.udp(460) }); err != nil {
		t.success("after forged Allocates an honest client gets no allocation: %v", err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}

	// 2. One client, one address, every port of it, two packets for each allocation.
	if a.restart != nil {
		if err := a.restart(); err != nil {
			return err
		}
	}
	greedy := a.source(1)
	own := make([]netip.AddrPort, 0, n)
	for p := 2000; p < 2000+n; p++ {
		own = append(own, netip.AddrPortFrom(greedy, uint16(p)))
	}
	double := func(i int) [][]byte { return [][]byte{fresh(), sendTo(peer, mark(uint32(i), 20))} }
	if f, err = a.flow(peer); err != nil {
		return err
	}
	err = a.spray(own, double, drainRate)
	sent, back = f.end()
	if err != nil {
		return err
	}
	t.bounded("one greedy client: packets of an established flow lost", 100*(1-float64(back)/float64(max(sent, 1))), "%", 100*drainLoss)
	honest := 0
	for i := range 20 {
		if c, err := a.allocated(func() (*attacker, error) { return a.udp(470 + 250*i) }); err == nil {
			honest++
			c.close()
		}
	}
	t.figure("one greedy client: honest clients of 20 that still get an allocation", float64(honest), "")
	if honest < 20 {
		t.success("one greedy client: %d of 20 honest clients get no allocation", 20-honest)
	}

	// 3. Forged sources that go on as if they had read the answer: nothing in draft-08 over UDP tells them from clients.
	if a.restart != nil {
		if err := a.restart(); err != nil {
			return err
		}
	}
	if f, err = a.flow(peer); err != nil {
		return err
	}
	err = a.spray(sources, double, drainRate)
	sent, back = f.end()
	if err != nil {
		return err
	}
	t.bounded("forged two-packet sequences: packets of an established flow lost", 100*(1-float64(back)/float64(max(sent, 1))), "%", 100*drainLoss)
	got := "an honest client still gets an allocation"
	if c, err := a.allocated(func() (*attacker, error) { return a.udp(461) }); err != nil {
		got = fmt.Sprintf("an honest client gets none (%v)", err)
	} else {
		c.close()
	}
	t.limit("%d forged sources that send an Allocate and a Send each: %s; nothing in draft-08 over UDP proves a source (turn.listen with tcp:// only, or turn.auth, does)",
		n, got)
	return ctx.Err()
}

// talkingPair is an established client that talks with an answering peer.
type talkingPair struct {
	c        *attacker
	stop     chan struct{}
	done     chan int // what was sent
	received atomic.Int64
}

func (a *arena) flow(peer netip.AddrPort) (*talkingPair, error) {
	c, err := a.allocated(func() (*attacker, error) { return a.udp(400) })
	if err != nil {
		return nil, err
	}
	f := &talkingPair{c: c, stop: make(chan struct{}), done: make(chan int, 1)}
	data := mark(7, 100)
	// It is established when the peer has answered.
	for try := 0; ; try++ {
		if err := c.send(sendTo(peer, data)); err != nil {
			return nil, err
		}
		if err := c.drain(time.Now().Add(100 * time.Millisecond)); err != nil {
			return nil, err
		}
		if c.heard() > 0 {
			break
		}
		if try == 5 {
			return nil, fmt.Errorf("an ordinary client hears nothing from its peer %v", peer)
		}
	}
	_ = c.conn.SetReadDeadline(time.Time{})
	go func() {
		b := make([]byte, 2048)
		for {
			n, err := c.conn.Read(b)
			if errors.Is(err, syscall.ECONNREFUSED) {
				continue
			} else if err != nil {
				return
			}
			if payload, _, ok := unwrap(b[:n], n); ok {
				if _, ok := readMark(payload); ok {
					f.received.Add(1)
				}
			}
		}
	}()
	go func() {
		tick := time.NewTicker(time.Second / flowRate)
		defer tick.Stop()
		sent := 0
		for {
			select {
			case <-f.stop:
				f.done <- sent
				return
			case <-tick.C:
				if c.send(sendTo(peer, data)) == nil {
					sent++
				}
			}
		}
	}()
	return f, nil
}

func (f *talkingPair) end() (sent, back int) {
	close(f.stop)
	sent = <-f.done
	time.Sleep(300 * time.Millisecond)
	f.c.close()
	return sent, int(f.received.Load())
}

// honest starts a client every 20 ms, and reports the share that got an allocation.
func (a *arena) honest(stop <-chan struct{}, client int) float64 {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	tried, got := 0, 0
	for {
		select {
		case <-stop:
			if tried == 0 {
				return 1
			}
			return float64(got) / float64(tried)
		case <-tick.C:
		}
		tried++
		c, err := a.udp(client)
		if err != nil {
			continue
		}
		if c.allocate() == nil {
			got++
			c.release()
		}
		c.close()
	}
}
