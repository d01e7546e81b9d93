package main

import (
	"time"
)

// meter reads what a trial costs outside of the generator. A nil meter reads only the generator's own drops.
type meter struct {
	pids   []int // the server's processes
	napi   []int // kernel threads that work for it
	cpu    int   // that it is pinned to, -1 for none
	netlab *netlab
}

type reading struct {
	at             time.Time
	proc, napi     procTimes
	core           coreTimes
	generatorDrops uint64
	serverDrops    uint64
}

func (m *meter) read(s *session) (r reading, err error) {
	r.at = time.Now()
	r.generatorDrops = s.clients.drops() + s.peers.drops()
	if m == nil {
		return r, nil
	}
	if m.netlab != nil {
		for _, n := range backlogDrops() {
			r.generatorDrops += n
		}
		// What the server's interfaces could not transmit, the generator's side had no room for, and the other way round.
		r.generatorDrops += netdevDrops(m.netlab.netdev[0])
		r.serverDrops = netdevDrops(m.netlab.netdev[1]) + netdevDrops(m.netlab.netdev[2]) + udpDrops(m.netlab.snmp)
	}
	if r.proc, err = readProc(m.pids); err != nil {
		return r, err
	}
	if r.napi, err = readProc(m.napi); err != nil {
		return r, err
	}
	if m.cpu >= 0 {
		r.core, err = readCore(m.cpu)
	}
	return r, err
}

// fill writes the difference of two readings into the result.
func (m *meter) fill(res *TrialResult, before, after reading) {
	res.GeneratorDrops = after.generatorDrops - before.generatorDrops
	res.ServerDrops = after.serverDrops - before.serverDrops
	if m == nil || len(m.pids) == 0 || res.Received == 0 {
		return
	}
	packets := float64(res.Received)
	wall := after.at.Sub(before.at).Seconds()
	run := float64(after.proc.run-before.proc.run+after.napi.run-before.napi.run) / 1e9
	res.CPU = &CPU{
		ProcessUs:   run * 1e6 / packets,
		UserUs:      (after.proc.user - before.proc.user) * 1e6 / packets,
		SystemUs:    (after.proc.system - before.proc.system) * 1e6 / packets,
		ServerShare: run / wall,
	}
	if m.cpu >= 0 {
		busy := after.core.busy - before.core.busy
		res.CPU.CoreUs = busy * 1e6 / packets
		res.CPU.ForeignShare = max(0, (busy-run)/wall)
		res.CPU.StealShare = (after.core.steal - before.core.steal) / wall
	}
}
