/* What keeps other programs of this host off allocated relayed ports: it refuses their bind(2). */
#include "stile.h"

static __u64 (*bpf_get_netns_cookie)(void *ctx) = (void *)BPF_FUNC_get_netns_cookie;
static int (*bpf_set_retval)(int retval) = (void *)BPF_FUNC_set_retval;

const char made_with[] SEC("compiler") = __VERSION__; /* for the test that builds this again */

#define IPPROTO_UDP 17
#define EADDRINUSE 98
#define MAX_RELAYS 64

/* Set when it is loaded. */
const volatile __u64 netns = 0;        /* the network namespace of the relay addresses: a cgroup may have several */
const volatile __u32 relay_count = 0;  /* at most MAX_RELAYS */
const volatile __u32 says_why = 0;     /* the kernel has bpf_set_retval: Linux 5.18 */

INLINE int verdict(__u64 owner)
{
	if (!owner || owner & BINDS)
		return 1;
	if (says_why)
		bpf_set_retval(-EADDRINUSE); /* else the program is told EPERM */
	return 0;
}

INLINE int concerns(struct bpf_sock_addr *ctx)
{
	return ctx->protocol == IPPROTO_UDP && bpf_get_netns_cookie(ctx) == netns;
}

/* anywhere returns who has the port on any relay address. */
INLINE __u64 anywhere(__u32 port)
{
	for (__u32 i = 0; i < MAX_RELAYS; i++) {
		__u32 index = i;

		if (i >= relay_count)
			break;
		struct ports *p = bpf_map_lookup_elem(&relayed, &index);
		if (!p)
			break;
		__u64 owner = *(volatile __u64 *)&p->owner[port & 0xffff];
		if (owner)
			return owner;
	}
	return 0;
}

SEC("cgroup/bind4")
int guard4(struct bpf_sock_addr *ctx)
{
	if (!concerns(ctx))
		return 1;
	__u32 port = ntohs((__u16)ctx->user_port), ip = ctx->user_ip4;
	if (!ip)
		return verdict(anywhere(port));
	struct address at = mapped(ip);
	return verdict(owner_of(&at, port));
}

SEC("cgroup/bind6")
int guard6(struct bpf_sock_addr *ctx)
{
	if (!concerns(ctx))
		return 1;
	__u32 port = ntohs((__u16)ctx->user_port);
	struct address at;
	at.word[0] = ctx->user_ip6[0];
	at.word[1] = ctx->user_ip6[1];
	at.word[2] = ctx->user_ip6[2];
	at.word[3] = ctx->user_ip6[3];
	if (!(at.word[0] | at.word[1] | at.word[2] | at.word[3]))
		return verdict(anywhere(port)); /* of IPv4 as well: most sockets take both */
	return verdict(owner_of(&at, port));
}
