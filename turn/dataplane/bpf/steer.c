/* The kernel engine: relayed ports without a socket. */
#include "stile.h"

static long (*bpf_sk_assign)(void *ctx, void *sk, __u64 flags) = (void *)BPF_FUNC_sk_assign;
static void *(*bpf_sk_lookup_udp)(void *ctx, struct bpf_sock_tuple *tuple, __u32 size, __u64 netns, __u64 flags) = (void *)BPF_FUNC_sk_lookup_udp;

const char made_with[] SEC("compiler") = __VERSION__; /* for the test that builds this again */

#define IPPROTO_UDP 17

/* Of each shard the socket that takes what comes to its relayed ports: of shard n for IPv4 at 2n, for IPv6 at 2n + 1. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} doors SEC(".maps");

/* steer brings what comes to an allocated relayed port to the shard that has it. Whatever it does not know takes its usual way.
 * The kernel asks it after connected sockets and before all others. */
SEC("sk_lookup")
int steer(struct bpf_sk_lookup *ctx)
{
	struct address at;
	__u32 inet6 = ctx->family == AF_INET6;

	if (ctx->protocol != IPPROTO_UDP)
		return SK_PASS;
	if (inet6) {
		at.word[0] = ctx->local_ip6[0];
		at.word[1] = ctx->local_ip6[1];
		at.word[2] = ctx->local_ip6[2];
		at.word[3] = ctx->local_ip6[3];
		barrier(); /* or the compiler makes one load of the two branches, from a changed pointer, which the verifier refuses */
	} else {
		at = mapped(ctx->local_ip4);
	}
	__u64 owner = owner_of(&at, ctx->local_port);
	if (!owner)
		return SK_PASS;
	__u32 door = 2 * ((__u32)((owner & ~BINDS) >> 32) - 1) + inet6;
	void *sk = bpf_map_lookup_elem(&doors, &door);
	if (!sk)
		return SK_PASS;
	bpf_sk_assign(ctx, sk, 0);
	bpf_sk_release(sk);
	return SK_PASS;
}

/* question is the input of taken, in the place of a packet. */
struct question {
	struct address at;
	__u32 inet6;
	__u16 port; /* network order */
	__u16 unused;
};

/* taken answers whether a socket of another program would get what comes to a port: XDP_DROP if so, XDP_PASS if not. User space runs it with
 * BPF_PROG_TEST_RUN before it allocates the port; it is attached nowhere. */
SEC("xdp")
int taken(struct xdp_md *ctx)
{
	struct question *q = (void *)(long)ctx->data;
	struct bpf_sock_tuple t = {};
	__u32 size;

	if ((void *)(q + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	if (q->inet6) {
		t.ipv6.daddr[0] = q->at.word[0];
		t.ipv6.daddr[1] = q->at.word[1];
		t.ipv6.daddr[2] = q->at.word[2];
		t.ipv6.daddr[3] = q->at.word[3];
		t.ipv6.dport = q->port;
		size = sizeof(t.ipv6);
	} else {
		t.ipv4.daddr = q->at.word[3];
		t.ipv4.dport = q->port;
		size = sizeof(t.ipv4);
	}
	void *sk = bpf_sk_lookup_udp(ctx, &t, size, BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return XDP_PASS;
	bpf_sk_release(sk);
	return XDP_DROP;
}
