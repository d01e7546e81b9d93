/* What the programs of the data plane share: the layout of maps and the helpers of the kernel that they call. */
#ifndef STILE_H
#define STILE_H

#include <linux/bpf.h>
#include <linux/types.h>

#define SEC(name) __attribute__((section(name), used))
#define __uint(name, val) int(*name)[val]
#define __type(name, val) typeof(val) *name
#define INLINE static inline __attribute__((always_inline))

#define barrier() asm volatile("" ::: "memory")

#ifndef AF_INET
#define AF_INET 2
#define AF_INET6 10
#endif

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define ntohs(x) __builtin_bswap16(x)
#define htonl(x) __builtin_bswap32(x)
#else
#define ntohs(x) (x)
#define htonl(x) (x)
#endif
#define htons ntohs
#define ntohl htonl

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*bpf_sk_release)(void *sk) = (void *)BPF_FUNC_sk_release;

/* address is an IP address, IPv4 in its mapped form, in network order. */
struct address {
	__u32 word[4];
};

/* ports is the relayed ports of one relay address: 0, or (shard + 1) << 32 | allocation of who has the port. User space has it
 * mapped into its memory and writes it with plain stores. */
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

INLINE struct address mapped(__u32 ip4)
{
	struct address a = {{0, 0, htonl(0xffff), ip4}};
	return a;
}

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
