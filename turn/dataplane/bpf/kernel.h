/* What all programs of the data plane share: the words of the loader, and the helpers of the kernel that they call. */
#ifndef KERNEL_H
#define KERNEL_H

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

INLINE struct address mapped(__u32 ip4)
{
	struct address a = {{0, 0, htonl(0xffff), ip4}};
	return a;
}

#endif
