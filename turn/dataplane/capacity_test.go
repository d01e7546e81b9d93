package dataplane

import (
	"testing"

	"github.com/stilenet/stile/turn"
)

func TestMaxAllocationsNamesWhatBinds(t *testing.T) {
	rules := &turn.Rules{}
	cfg := &Config{Relays: make([]turn.RelayAddress, 2), Ports: turn.PortRange{First: 50000, Last: 50009}, Rules: rules, Shards: 2}
	if n, limit := MaxAllocations(cfg); n != 20 || limit != "turn.relay.ports" {
		t.Errorf("20 ports: got %d for %s", n, limit)
	}
	rules.Limits.Allocations = 7
	if n, limit := MaxAllocations(cfg); n != 7 || limit != "turn.limits.allocations" {
		t.Errorf("7 configured: got %d for %s", n, limit)
	}
	rules.Limits.Allocations = 0
	files, ok := descriptorLimit()
	if !ok {
		return // this system has no such limit
	}
	cfg.Streams = files - 64 - 2*2 - 5
	if n, limit := MaxAllocations(cfg); n != 5 || limit != "open files" {
		t.Errorf("5 descriptors left: got %d for %s", n, limit)
	}
	cfg.Streams = files
	if n, limit := MaxAllocations(cfg); n != 0 || limit != "open files" {
		t.Errorf("no descriptor left: got %d for %s", n, limit)
	}
}
