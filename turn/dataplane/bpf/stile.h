/* What the programs of the kernel engine share: the layout of their maps. */
#ifndef STILE_H
#define STILE_H

#include "kernel.h"

/* ports is the relayed ports of one relay address: 0, or (shard + 1) << 32 | allocation of who has the port, and BINDS while the relay itself binds a socket to
 * it. User space has it mapped into its memory and writes it with plain stores. */
#define BINDS (1ULL << 63)
struct ports {
	__u64 owner[65536];
};

/* Relayed ports by the index of their relay address. max_entries is set when it is loaded. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ports);
} relayed SEC(".maps");

/* The index of each relay address. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct address);
	__type(value, __u32);
} relays SEC(".maps");

/* owner_of returns who has a relayed port, 0 for nobody. */
INLINE __u64 owner_of(const struct address *at, __u32 port)
{
	__u32 *index = bpf_map_lookup_elem(&relays, at);
	if (!index)
		return 0;
	struct ports *p = bpf_map_lookup_elem(&relayed, index);
	if (!p)
		return 0;
	return *(volatile __u64 *)&p->owner[port & 0xffff];
}

#endif
