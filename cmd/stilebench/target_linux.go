package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// target is a server and the way to it: one in the laboratory, one on loopback that this program started, or any
// other that runs already.
type target struct {
	addr   netip.AddrPort
	cpus   placement
	opts   labOptions
	lab    *netlab // nil outside of the laboratory
	thread *nsThread
	srv    *server // nil when somebody else started it
	pid    int     // of a server that somebody else started, 0 when unknown
}

// newLabTarget builds a laboratory without a server in it.
func newLabTarget(id int, cpus placement, opts labOptions) (*target, error) {
	opts.serverCPU = max(cpus.server, 0)
	lab, err := newNetlab(id, opts)
	if err != nil {
		return nil, err
	}
	return &target{addr: netip.AddrPortFrom(labServer, 3478), cpus: cpus, opts: opts, lab: lab, thread: lab.server}, nil
}

// newLoopbackTarget is for a server that this program starts on 127.0.0.1, on a port that is free now.
func newLoopbackTarget(cpus placement, opts labOptions) (*target, error) {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	addr := c.LocalAddr().(*net.UDPAddr).AddrPort()
	_ = c.Close()
	thread, err := newNSThread(false)
	if err != nil {
		return nil, err
	}
	return &target{addr: addr, cpus: cpus, opts: opts, thread: thread}, nil
}

// newRemoteTarget is a server that runs. pid may be 0.
func newRemoteTarget(hostPort string, pid int) (*target, error) {
	a, err := net.ResolveUDPAddr("udp", hostPort)
	if err != nil {
		return nil, fmt.Errorf("--server: %w", err)
	}
	addr := a.AddrPort()
	return &target{addr: netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()), cpus: placement{server: -1}, pid: pid}, nil
}

// start runs a server and waits until it answers.
func (t *target) start(ctx context.Context, spec serverSpec) error {
	cfg := serverConfig{spec: spec, listen: t.addr, relay: t.addr.Addr(), minPort: t.opts.minPort, maxPort: t.opts.maxPort,
		cpus: t.cpus, thread: t.thread}
	if t.lab != nil {
		cfg.relay, cfg.napi = labRelay, t.lab.napi
	}
	srv, err := startServer(cfg)
	if err != nil {
		return err
	}
	t.srv = srv
	s, err := t.open(0, sessionConfig{allocations: 1, peers: 1, mode: Channel, outstanding: 1})
	if err == nil {
		defer s.close()
		err = s.awaitServer(ctx, srv)
	}
	if err != nil {
		t.stop()
	}
	return err
}

func (t *target) stop() {
	if t.srv != nil {
		t.srv.stop()
		t.srv = nil
	}
}

func (t *target) close() {
	t.stop()
	switch {
	case t.lab != nil:
		t.lab.close()
	case t.thread != nil:
		t.thread.close()
	}
}

// open makes a session whose client ports begin first ports after those of a session with 0. The session's allocations
// do not exist yet.
func (t *target) open(first int, cfg sessionConfig) (*session, error) {
	if t.lab != nil {
		clients, err := t.lab.clientLink(first, cfg.allocations)
		if err != nil {
			return nil, err
		}
		peers, err := t.lab.peerLink(cfg.peers)
		if err != nil {
			clients.close()
			return nil, err
		}
		return newSession(clients, peers, t.addr, cfg), nil
	}
	local, err := sourceFor(t.addr)
	if err != nil {
		return nil, err
	}
	clients, err := newUDPLink(local, cfg.allocations, t.addr)
	if err != nil {
		return nil, err
	}
	peers, err := newUDPLink(local, cfg.peers, netip.AddrPort{})
	if err != nil {
		clients.close()
		return nil, err
	}
	return newSession(clients, peers, t.addr, cfg), nil
}

// sourceFor is the address that this machine reaches another from; peers are told it, so no NAT may be between.
func sourceFor(remote netip.AddrPort) (netip.Addr, error) {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(remote))
	if err != nil {
		return netip.Addr{}, err
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), nil
}

func (t *target) pids() []int {
	switch {
	case t.srv != nil:
		return t.srv.pids()
	case t.pid > 0:
		return processTree(t.pid)
	}
	return nil
}

func (t *target) meter() *meter {
	m := &meter{pids: t.pids(), cpu: t.cpus.server, netlab: t.lab}
	if t.lab != nil {
		m.napi = t.lab.napi
	}
	return m
}

// idle measures what a server without work uses, as a share of one CPU.
func (t *target) idle(ctx context.Context, settle time.Duration) (float64, error) {
	if err := sleep(ctx, settle); err != nil {
		return 0, err
	}
	pids, start := t.pids(), time.Now()
	before, err := readProc(pids)
	if err != nil {
		return 0, err
	}
	if err := sleep(ctx, 2*settle); err != nil {
		return 0, err
	}
	after, err := readProc(pids)
	return float64(after.run-before.run) / float64(time.Since(start)), err
}

// allocate measures what n allocations cost a server. The server should have none before, and has none after.
func (t *target) allocate(ctx context.Context, first int, cfg sessionConfig, settle time.Duration) (*AllocationResult, error) {
	s, err := t.open(first, cfg)
	if err != nil {
		return nil, err
	}
	defer s.close()
	pids := t.pids()
	res := &AllocationResult{Allocations: cfg.allocations, Outstanding: cfg.outstanding}
	var pss0, slab0 int64
	var errMemory error
	if len(pids) > 0 {
		if err := sleep(ctx, settle); err != nil {
			return nil, err
		}
		if pss0, errMemory = pssKB(pids); errMemory == nil {
			slab0, errMemory = slabKB()
		}
	}
	cpu0, err := readProc(pids)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	if err := s.transact(ctx, stepAllocate); err != nil {
		return nil, err
	}
	res.Seconds = time.Since(start).Seconds()
	cpu1, err := readProc(pids)
	if err != nil {
		return nil, err
	}
	res.Failed, res.Errors = s.failures()
	res.Retransmits = s.retransmits
	n := float64(res.Allocations - res.Failed)
	if n == 0 {
		return nil, fmt.Errorf("every allocation failed: %s", describe(res.Errors))
	}
	res.PerSecond = n / res.Seconds
	res.ServerUs = float64(cpu1.run-cpu0.run) / 1e3 / n
	if len(pids) > 0 && errMemory == nil {
		if err := sleep(ctx, settle); err != nil {
			return nil, err
		}
		pss1, err1 := pssKB(pids)
		slab1, err2 := slabKB()
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		res.Memory = true
		res.PSSBytes = float64(pss1-pss0) * 1024 / n
		res.SlabBytes = float64(slab1-slab0) * 1024 / n
	}
	return res, s.release(ctx)
}
