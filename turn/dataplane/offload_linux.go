package dataplane

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// Ours to tune.
const (
	// Of each allocation there are as many flows as it has peers and directions; most have one peer.
	flowsPerAllocation = 4
	leastFlows         = 4096
	mostFlows          = 1 << 17 // 17 MB with the kernel's own of each entry, most of it only while there are so many
	mostMeters         = 1 << 16
	upkeepEvery        = 5 * time.Second
	routesEvery        = time.Minute      // they are read again, or when an interface comes or goes
	hopsOf             = 10 * time.Second // flows without packets for so long need no neighbour
	maxNeighbours      = 4096             // that are looked after
	maxOffloadPorts    = 16               // listeners that bpf/offload.c looks at
)

// offload is a program at the interfaces (XDP), in front of the engine, and the flows that it relays by itself. It has no part in what
// may be relayed: the cores do, and enter and remove flows.
//
//	client ══▶ interface ──▶ offload (XDP) ──▶ interface ══▶ peer
//	                 flows ◀──┘ │ every doubt
//	                   ▲        ▼
//	                 core ◀── sockets of the engine
//
// Nothing is pinned: when the process ends, however it does, the programs leave the interfaces and the flows are gone.
type offload struct {
	mode     OffloadMode
	named    []string // turn.offload_interfaces
	cfg      *Config
	programs *ebpf.Collection

	mu         sync.Mutex // guards the table's lists, not what the program shares
	runs       bool       // on one interface at least; else it takes no flows, and tries again
	table      *table
	interfaces interfaces

	stop    chan struct{}
	stopped sync.WaitGroup
}

// openOffload loads the program and attaches it. The error says in a few words what it would need.
func openOffload(cfg *Config) (_ offloader, err error) {
	// Without CAP_PERFMON the verifier takes no program that computes with pointers into a packet.
	if lacks := missingCapabilities(unix.CAP_BPF, unix.CAP_PERFMON, unix.CAP_NET_ADMIN); lacks != "" {
		return nil, errors.New("it needs " + lacks)
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("it needs memory for its program: %v", err)
	}
	o, err := newOffload(cfg)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			o.close()
		}
	}()
	if err := forwardFromHere(cfg); err != nil {
		return nil, err
	}
	if err := o.refresh(); err != nil {
		return nil, err
	}
	if len(o.interfaces.all) == 0 {
		return nil, errors.New(o.interfaces.whyNone())
	}
	o.stopped.Go(o.upkeep)
	return o, nil
}

// newOffload loads the program; it runs nowhere yet.
func newOffload(cfg *Config) (_ *offload, err error) {
	o := &offload{mode: cfg.Offload, named: cfg.OffloadInterfaces, cfg: cfg, stop: make(chan struct{})}
	spec, err := loadSpec("offload")
	if err != nil {
		return nil, err
	}
	ports := cfg.Ports.Size() * len(cfg.Relays)
	flows, meters := min(max(leastFlows, flowsPerAllocation*ports), mostFlows), min(max(leastFlows, ports), mostMeters)
	spec.Maps["flows"].MaxEntries = uint32(flows)
	spec.Maps["slots"].MaxEntries = uint32(flows)
	spec.Maps["hops"].MaxEntries = uint32(flows)
	spec.Maps["meters"].MaxEntries = uint32(meters)
	var listeners [maxOffloadPorts]uint16
	count := uint32(0)
	for _, l := range cfg.Listeners {
		if port := wireOrder(l.Address.Port()); l.Network == "udp" && int(count) < len(listeners) && !slices.Contains(listeners[:count], port) {
			listeners[count] = port
			count++
		}
	}
	for name, value := range map[string]any{
		"relay_first": cfg.Ports.First, "relay_last": cfg.Ports.Last, "listener_count": count, "listeners": listeners,
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, err
		}
	}
	if o.programs, err = ebpf.NewCollection(spec); err != nil {
		return nil, fmt.Errorf("the kernel does not take the program: %s", oneLine(err))
	}
	if o.table, err = newTable(o.programs, flows, meters); err != nil {
		o.programs.Close()
		return nil, err
	}
	return o, nil
}

// wireOrder is a port as the program finds it in a packet.
func wireOrder(port uint16) uint16 { return port<<8 | port>>8 }

// upkeep follows the interfaces, and keeps fresh what the kernel knows of the neighbours that only the program sends to.
func (o *offload) upkeep() {
	t := time.NewTicker(upkeepEvery)
	defer t.Stop()
	for {
		select {
		case <-o.stop:
			return
		case now := <-t.C:
			before := o.state().String()
			_ = o.refresh() // what it did not see this time it sees the next
			if s := o.state(); s.String() != before && o.cfg.OnOffload != nil {
				o.cfg.OnOffload(s)
			}
			o.mu.Lock()
			hops := o.table.hops(now.Add(-hopsOf))
			o.mu.Unlock()
			touch(hops)
		}
	}
}

func (o *offload) close() {
	select {
	case <-o.stop:
	default:
		close(o.stop)
	}
	o.stopped.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.interfaces.close()
	if o.table != nil {
		o.table.close()
	}
	o.programs.Close()
}

// doubts are the reasons of bpf/offload.c, in its order.
var doubts = []string{
	"ended", "no_checksum", "short", "padding", "no_route", "too_long", "no_neighbour", "no_forwarding", "no_interface", "rate", "no_room", "hairpin", "other_mac",
}

func (o *offload) state() OffloadState {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := OffloadState{Mode: o.mode, Flows: o.table.used, MaxFlows: len(o.table.shards), Refused: o.table.refused, Passed: make(map[string]uint64)}
	for _, i := range o.interfaces.all {
		s.Interfaces = append(s.Interfaces, OffloadInterface{i.name, i.native, i.why})
	}
	if !o.runs {
		s.Why = o.interfaces.whyNone()
	}
	for i, name := range doubts {
		var perCPU []uint64
		if o.programs.Maps["doubts"].Lookup(uint32(i), &perCPU) == nil {
			for _, n := range perCPU {
				s.Passed[name] += n
			}
		}
	}
	return s
}

func (n *interfaces) whyNone() string {
	if len(n.all) == 0 {
		return "no interface leads to clients or peers but the loopback"
	}
	return "no interface takes the program"
}
