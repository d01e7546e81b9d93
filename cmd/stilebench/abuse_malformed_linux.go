package main

import (
	"context"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"time"

	"github.com/stilenet/stile/stun"
)

// Bounds of what malformed messages may cost.
const (
	malformedPatience = 3 * time.Second // for a Binding after each part
	malformedMemory   = 128 << 10       // KiB of growth
	malformedMutants  = 20_000
	slowStreams       = 1000
)

// abuseMalformed sends what no client sends, and asks after each part whether the server still answers, and what it has grown by.
func abuseMalformed(ctx context.Context, a *arena, t *AbuseTrial) error {
	corpus, err := readFuzzCorpora(a.repo)
	if err != nil {
		return err
	}
	for _, m := range reflectors() {
		corpus = append(corpus, m)
	}
	before, err := pssKB(a.pids())
	if err != nil {
		return err
	}
	rng := mathrand.New(mathrand.NewPCG(uint64(time.Now().UnixNano()), 1))
	mutated := mutants(rng, corpus, malformedMutants)
	var slowest time.Duration
	most := before
	check := func(part string) error {
		took, err := a.alive(malformedPatience)
		slowest = max(slowest, took)
		if err != nil {
			t.success("after %s the server does not answer: %v", part, err)
			return err
		}
		now, err := pssKB(a.pids())
		most = max(most, now)
		return err
	}
	for _, part := range []struct {
		name string
		do   func() error
	}{
		{"malformed datagrams", func() error { return a.malformedUDP(append(corpus, mutated...)) }},
		{"malformed datagrams on an allocation", func() error { return a.malformedAllocated(append(corpus, mutated[:4000]...)) }},
		{"malformed streams", func() error { return a.malformedTCP(append(corpus, mutated[:2000]...)) }},
		{"half messages and giant lengths on many streams", func() error { return a.slowStreams(t, check) }},
	} {
		progress("malformed: %s …", part.name)
		if err := errors.Join(ctx.Err(), part.do()); err != nil {
			if a.ended() != nil {
				t.success("%s end the server: %v", part.name, a.ended())
				return nil
			}
			return fmt.Errorf("%s: %w", part.name, err)
		}
		if check(part.name) != nil && t.Success() {
			return nil
		}
	}
	t.figure("messages of the fuzz corpora", float64(len(corpus)), "")
	t.figure("messages made from them", float64(len(mutated)), "")
	t.bounded("slowest answer to a Binding", float64(slowest.Microseconds())/1000, "ms", float64(malformedPatience/time.Millisecond))
	if len(a.pids()) > 0 {
		t.bounded("memory grew by", float64(most-before), "KiB", malformedMemory)
	}
	return nil
}

func (a *arena) malformedUDP(list [][]byte) error {
	c, err := a.udp(50)
	if err != nil {
		return err
	}
	defer c.close()
	return c.pour(list)
}

func (c *attacker) pour(list [][]byte) error {
	for i, b := range list {
		if err := c.send(b); err != nil {
			return err
		}
		if i%32 == 31 {
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}

// malformedAllocated does the same where the server has state: every twentieth message is an Allocate.
func (a *arena) malformedAllocated(list [][]byte) error {
	c, err := a.udp(51)
	if err != nil {
		return err
	}
	defer c.close()
	for len(list) > 0 {
		if err := c.send(request(stun.Allocate, udpTransport)); err != nil {
			return err
		}
		n := min(20, len(list))
		if err := c.pour(list[:n]); err != nil {
			return err
		}
		list = list[n:]
	}
	return nil
}

// malformedTCP sends each message on a connection of its own behind an Allocate, and reads what comes.
func (a *arena) malformedTCP(list [][]byte) error {
	for i, b := range list {
		c, err := a.tcp(52)
		if err != nil {
			return err
		}
		if i%2 == 0 {
			b = append(request(stun.Allocate, udpTransport), b...)
		}
		err = c.send(b)
		c.close()
		if err != nil && !eof(err) {
			return err
		}
	}
	return nil
}

// slowStreams opens many connections of several clients that begin messages and do not end them, and asks whether somebody else is still
// served over TCP.
func (a *arena) slowStreams(t *AbuseTrial, check func(string) error) error {
	begins := [][]byte{
		{0x40, 0x01, 0xFF, 0xFF},
		append([]byte{0, 3, 0xFF, 0xFC}, request(stun.Allocate)[4:]...),
		request(stun.Allocate, udpTransport)[:10],
		{0},
		{},
		append(request(stun.Allocate, udpTransport), 0x7F, 0xFF, 0xFF, 0xFF),
	}
	var all []*attacker
	defer func() {
		for _, c := range all {
			c.close()
		}
	}()
	refused := 0
	for i := range slowStreams {
		c, err := a.tcp(60 + i%4)
		if err != nil {
			refused++
			continue
		}
		all = append(all, c)
		if err := c.send(begins[i%len(begins)]); err != nil && !eof(err) {
			return err
		}
	}
	t.figure("streams that begin and do not end", float64(len(all)), "")
	// 60 KB more for those that wait for 64.
	body := make([]byte, 60_000)
	for i, c := range all {
		if i%len(begins) <= 1 || i%len(begins) == 5 {
			if err := c.send(body); err != nil && !eof(err) && !errors.Is(err, os.ErrDeadlineExceeded) {
				return err
			}
		}
	}
	if err := check("half messages on many streams"); err != nil {
		return nil
	}
	c, err := a.tcp(70)
	if err == nil {
		err = c.allocate()
		c.close()
	}
	if err != nil {
		t.success("beside %d slow streams nobody else is served over TCP: %v", len(all), err)
	}
	return nil
}
