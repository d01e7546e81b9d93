package dataplane

import "runtime"

// reservedDescriptors is kept for what is no relayed port: the runtime, logs, the administrator's connections.
const reservedDescriptors = 64

// shardCount is how many shards the socket and the kernel engine have.
func shardCount(cfg *Config) int {
	if cfg.Shards > 0 {
		return cfg.Shards
	}
	return runtime.GOMAXPROCS(0)
}

// MaxAllocations reports how many allocations fit at once, and what the limit is: "turn.limits.allocations",
// "turn.relay.ports" or "open files", of which each relayed port takes one, except with cfg.Engine Kernel. The soft limit of open files is
// raised to the hard one.
func MaxAllocations(cfg *Config) (n int, limit string) {
	n, limit = cfg.Ports.Size()*len(cfg.Relays), "turn.relay.ports"
	if files, ok := descriptorLimit(); ok {
		if files = max(0, files-reservedDescriptors-shardCount(cfg)*(len(cfg.Listeners)+2)-cfg.Streams); files < n && cfg.Engine != Kernel {
			n, limit = files, "open files"
		}
	}
	if most := cfg.Rules.Limits.Allocations; most > 0 && most <= n {
		n, limit = most, "turn.limits.allocations"
	}
	return n, limit
}
