package dataplane

import "runtime"

// reservedDescriptors is kept for what is no relayed port: the runtime, logs, the administrator's connections.
const reservedDescriptors = 64

// MaxAllocations reports how many allocations fit at once, and what the limit is: "turn.limits.allocations",
// "turn.relay.ports" or "open files", of which each relayed port takes one. The soft limit of open files is raised to the hard one.
func MaxAllocations(cfg *Config) (n int, limit string) {
	n, limit = cfg.Ports.Size()*len(cfg.Relays), "turn.relay.ports"
	if files, ok := descriptorLimit(); ok {
		shards := cfg.Shards
		if shards <= 0 {
			shards = runtime.GOMAXPROCS(0)
		}
		if files = max(0, files-reservedDescriptors-shards*(len(cfg.Listeners)+2)-cfg.Streams); files < n {
			n, limit = files, "open files"
		}
	}
	if most := cfg.Rules.Limits.Allocations; most > 0 && most <= n {
		n, limit = most, "turn.limits.allocations"
	}
	return n, limit
}
