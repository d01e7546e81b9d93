/* The offload: established flows that never leave the kernel's receive path. It is a cache in front of the engine: whatever is not in
 * it, and every doubt, passes to the engine unchanged, which relays the same packet. It drops nothing.
 *
 * § means draft-ietf-behave-turn-08. Addresses are in network order, IPv4 in its mapped form, so that one key holds both families; ports and
 * channel numbers are in network order as well.
 */
#include "kernel.h"

static long (*bpf_fib_lookup)(void *ctx, struct bpf_fib_lookup *params, int size, __u32 flags) = (void *)BPF_FUNC_fib_lookup;
static long (*bpf_redirect)(__u32 ifindex, __u64 flags) = (void *)BPF_FUNC_redirect;
static long (*bpf_xdp_adjust_head)(struct xdp_md *ctx, int delta) = (void *)BPF_FUNC_xdp_adjust_head;
static long (*bpf_xdp_adjust_tail)(struct xdp_md *ctx, int delta) = (void *)BPF_FUNC_xdp_adjust_tail;
static __u64 (*bpf_ktime_get_coarse_ns)(void) = (void *)BPF_FUNC_ktime_get_coarse_ns;
static __u32 (*bpf_get_prandom_u32)(void) = (void *)BPF_FUNC_get_prandom_u32;

/* From the specifications. */
#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86DD
#define ETH_P_8021Q 0x8100
#define ETH_P_8021AD 0x88A8
#define IPPROTO_UDP 17
#define VLAN_VID_MASK 0x0FFF
#define MAGIC_COOKIE 0x2112A442
#define SEND_INDICATION 0x0016
#define DATA_INDICATION 0x0017
#define XOR_PEER_ADDRESS 0x0012
#define DATA 0x0013
#define STUN_HEADER 20
#define CHANNEL_HEADER 4
#define DATA_HEADER4 36 /* bytes in front of the data of an indication: STUN header, XOR-PEER-ADDRESS, the header of DATA */
#define DATA_HEADER6 48
#define ETH_ZLEN 60 /* the shortest frame without its checksum: not every driver pads what a program sends */
#define DEFAULT_TTL 64

/* Ours to tune. */
#define LONGEST_DATAGRAM 9216 /* bytes of UDP: a jumbo frame; the rest is the engine's */
#define SECOND 1000000000ULL
#define TRIES 4 /* of an exchange that another processor spoils */
#define LISTENERS 16
#define SMALL_INDEX 256
/* A route holds for so long: asking the kernel takes 230 ns of 480. What it says later takes effect that much later. */
#define ROUTE_HOLDS (SECOND / 4)

/* Set when it is loaded. */
const volatile __u16 relay_first = 0, relay_last = 0; /* relayed ports, host order */
const volatile __u32 listener_count = 0;
const volatile __u16 listeners[LISTENERS] = {}; /* ports of clients' packets, network order */
/* The interface whose forwarding setting the route lookup asks for, and that rules see: the loopback, as for what this host sends. */
const volatile __u32 origin = 1;

/* key names a flow by what its packets look like when they come in. */
struct key {
	struct address from, to;
	struct address peer; /* Send: PEER-ADDRESS; else zero */
	__u16 from_port, to_port, peer_port;
	__u16 channel; /* ChannelData: its number; else 0 */
};

enum form { PLAIN, CHANNEL, INDICATION };

/* A hairpin between two clients of this server is two entries, each made by the shard that has the client: the FIRST by the sender's packet,
 * leading to the SECOND, whose key has the two relayed addresses and which no packet of a wire may meet. */
enum half { WHOLE, FIRST, SECOND_HALF };

/* flow is what becomes of the packets. */
struct flow {
	struct address from, to; /* of what is sent; of a FIRST, of the key of its SECOND_HALF */
	struct address peer;     /* INDICATION: whom the data is from */
	__u16 from_port, to_port, peer_port;
	__u16 channel;  /* CHANNEL: its number */
	__u8 form;      /* enum form */
	__u8 half;      /* enum half */
	__u8 inet6;     /* what is sent is IPv6 */
	__u8 peer6;     /* peer is */
	__u32 slot;     /* in slots */
	__u32 meter;    /* in meters */
	__u32 prefix;   /* hairpins: of the client that sends. Both halves must agree, since the second was judged for one */
};

/* slot is what changes while a flow lives. User space has it mapped: it stops a flow with one store, and reads what it has relayed. The
 * network card gives a flow to one processor, so one counter for all processors is exact and seldom contended. */
struct slot {
	__u64 until; /* CLOCK_MONOTONIC ns; 0: nothing is relayed */
	__u64 packets, bytes, last;
	/* The route of what is sent, good until route_until. Whoever writes it takes that away first and gives it back last; if two processors
	 * have the flow at that moment, a packet may take the old way once more. */
	__u64 route_until;
	__u8 to[6], from[6];
	__u32 device;
	__u16 longest; /* bytes of an IP packet */
	__u16 vlan, protocol;
	__u8 to_same, to_other; /* of struct way */
};

/* hop is the neighbour that packets go to, of a slot's index: user space keeps its entry fresh. */
struct hop {
	struct address neighbour;
	__u32 interface;
	__u32 unused[3];
};

/* meter is the two token buckets of an allocation, with a burst of one second: each holds when it is full again. User space takes from
 * the same ones for the packets that it relays itself. */
struct meter {
	__u64 packets, bytes; /* CLOCK_MONOTONIC ns */
	__u64 packet_cost;    /* ns; 0: no limit */
	__u64 byte_cost;      /* 1/1024 ns; 0: no limit */
};

/* place is where a frame comes in. */
struct place {
	__u32 interface;
	__u16 vlan;     /* network order; 0: no tag */
	__u16 protocol; /* of the tag, network order */
};

struct mac {
	__u8 byte[6];
	__u8 known;
	__u8 unused;
};

/* way is how a frame leaves by an interface that a route names. */
struct way {
	__u32 device; /* the interface itself, or the one below a VLAN */
	__u16 vlan, protocol; /* of the tag to write; protocol 0: none */
	__u8 same;  /* frames may leave by the device that they came in by */
	__u8 other; /* frames may come from another device */
	__u8 unused[2];
};

/* Why packets of a flow passed to the engine. */
enum doubt { ENDED, NO_CHECKSUM, SHORT, PADDING, NO_ROUTE, TOO_LONG, NO_NEIGHBOUR, NO_FORWARDING, NO_WAY, RATE, NO_ROOM, HALF, STRANGE_MAC, DOUBTS };

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct key);
	__type(value, struct flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct slot);
} slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct meter);
} meters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct hop);
} hops SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct place);
	__type(value, struct mac);
} places SEC(".maps");

/* The same for untagged frames of interfaces with a small index, which needs no hash: it saves 35 ns. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SMALL_INDEX);
	__type(key, __u32);
	__type(value, struct mac);
} near SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, struct way);
} ways SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DOUBTS);
	__type(key, __u32);
	__type(value, __u64);
} doubts SEC(".maps");

INLINE int pass(__u32 why)
{
	__u64 *n = bpf_map_lookup_elem(&doubts, &why);
	if (n)
		*n += 1;
	return XDP_PASS;
}

struct ethernet {
	__u8 to[6], from[6];
	__u16 protocol;
} __attribute__((packed));

struct tag {
	__u16 control, protocol;
};

struct ip4 {
	__u8 version, service;
	__u16 length, id, fragment;
	__u8 ttl, protocol;
	__u16 check;
	__u32 from, to;
};

struct ip6 {
	__u32 version;
	__u16 length;
	__u8 next, hops;
	struct address from, to;
};

struct udp {
	__u16 from, to, length, check;
};

/* Ones' complement sums are taken over words as they lie in memory; any size of word and any order give the same 16 bits in the end. */

INLINE __u16 fold(__u64 sum)
{
	sum = (sum & 0xFFFFFFFF) + (sum >> 32);
	sum = (sum & 0xFFFF) + (sum >> 16); /* 33 bits become 18 */
	sum = (sum & 0xFFFF) + (sum >> 16);
	sum = (sum & 0xFFFF) + (sum >> 16);
	return sum;
}

/* The 0xffff of the mapped form adds nothing to such a sum. */
INLINE __u64 add(__u64 sum, const struct address *a)
{
	return sum + a->word[0] + a->word[1] + a->word[2] + a->word[3];
}

INLINE int is_mapped(const struct address *a)
{
	return !(a->word[0] | a->word[1]) && a->word[2] == htonl(0xFFFF);
}

/* spend takes from a bucket. */
INLINE int spend(__u64 *at, __u64 now, __u64 cost)
{
	if (!cost)
		return 1;
	for (int i = 0; i < TRIES; i++) {
		__u64 old = *(volatile __u64 *)at;
		__u64 next = (old > now ? old : now) + cost;

		if (next - now > SECOND)
			return 0;
		if (__sync_val_compare_and_swap(at, old, next) == old)
			return 1;
	}
	return 0;
}

INLINE int take(__u32 id, __u64 now, __u32 bytes)
{
	struct meter *m = bpf_map_lookup_elem(&meters, &id);

	return m && spend(&m->packets, now, m->packet_cost) && spend(&m->bytes, now, bytes * m->byte_cost >> 10);
}

INLINE void count(struct slot *s, __u64 now, __u32 bytes)
{
	__sync_fetch_and_add(&s->packets, 1);
	__sync_fetch_and_add(&s->bytes, bytes);
	s->last = now;
}

/* zeros reports whether the n bytes at p, 3 at most, are there and zero. */
INLINE int zeros(__u8 *p, __u32 n, void *end)
{
	for (__u32 i = 0; i < 3; i++) {
		if (i >= n)
			break;
		if ((void *)(p + i + 1) > end || p[i])
			return 0;
	}
	return 1;
}

/* interesting reports whether a port is one of ours. */
INLINE int listens(__u16 port)
{
	for (__u32 i = 0; i < LISTENERS; i++) {
		if (i >= listener_count)
			break;
		if (listeners[i] == port)
			return 1;
	}
	return 0;
}

/* packet is what has been read of a packet. */
struct packet {
	__u32 headers;  /* bytes in front of the data: Ethernet, IP, UDP, TURN */
	__u32 udp;      /* bytes of the UDP datagram */
	__u32 size;     /* of the data */
	__u32 rest;     /* of zeros behind it in the datagram, 3 at most */
	__u16 check;    /* of UDP */
	__u8 inet6;
	__u64 removed;  /* the sum of the TURN header */
};

/* from_client reads a message to a listener: ChannelData (§10.4), or a Send that consists of PEER-ADDRESS and DATA (§9.1). It completes
 * key and packet, and reports whether it is one of the two. */
INLINE int from_client(struct key *k, struct packet *p, void *b, void *end)
{
	__u32 left = p->udp - sizeof(struct udp), header, size;
	__u32 *w = b;

	if (left < CHANNEL_HEADER || (void *)(w + 1) > end)
		return 0;
	if (*(__u8 *)b & 0xC0) {
		k->channel = ((__u16 *)b)[0];
		size = ntohs(((__u16 *)b)[1]);
		header = CHANNEL_HEADER;
		p->removed = w[0];
	} else {
		if (left < DATA_HEADER4 || b + DATA_HEADER4 > end)
			return 0;
		if (w[0] != htonl(SEND_INDICATION << 16 | (left - STUN_HEADER)) || w[1] != htonl(MAGIC_COOKIE))
			return 0;
		k->peer_port = (__u16)(w[6] >> 16) ^ htons(MAGIC_COOKIE >> 16);
		p->removed = (__u64)w[0] + w[1] + w[2] + w[3] + w[4] + w[5] + w[6] + w[7] + w[8];
		__u32 family = w[6] & htonl(0x00FF0000); /* the byte before is ignored by rfc3489bis-15 §14.1 */
		if (w[5] == htonl(XOR_PEER_ADDRESS << 16 | 8) && family == htonl(1 << 16)) {
			k->peer = mapped(w[7] ^ htonl(MAGIC_COOKIE));
			size = w[8];
			header = DATA_HEADER4;
		} else if (w[5] == htonl(XOR_PEER_ADDRESS << 16 | 20) && family == htonl(2 << 16)) {
			if (left < DATA_HEADER6 || b + DATA_HEADER6 > end)
				return 0;
			k->peer.word[0] = w[7] ^ w[1];
			k->peer.word[1] = w[8] ^ w[2];
			k->peer.word[2] = w[9] ^ w[3];
			k->peer.word[3] = w[10] ^ w[4];
			if (is_mapped(&k->peer))
				return 0;
			p->removed += (__u64)w[9] + w[10] + w[11];
			size = w[11];
			header = DATA_HEADER6;
		} else {
			return 0;
		}
		if ((__u16)size != htons(DATA))
			return 0;
		size = ntohs((__u16)(size >> 16));
	}
	if (size > left - header)
		return 0;
	p->rest = left - header - size;
	if (p->rest > 3)
		return 0;
	/* Of a Send, the last attribute may lack its padding, but not half of it. */
	if (header != CHANNEL_HEADER && p->rest && p->rest != (-size & 3))
		return 0;
	p->size = size;
	p->headers += header;
	return 1;
}

/* exit is the link layer of what is sent. */
struct exit {
	__u8 to[6], from[6];
	__u32 device;
	__u16 vlan, protocol;
	__u8 to_same, to_other;
};

/* route asks the kernel for the way of what is sent, as of a packet that this host sends, and writes it into the flow's slot. It returns the
 * doubt, or -1 for none. */
static __attribute__((noinline)) int route(struct xdp_md *ctx, struct flow *out, struct slot *r, __u32 ip_length, __u64 now)
{
	if (!out || !r)
		return NO_ROUTE;
	struct bpf_fib_lookup fib = {
		.family = out->inet6 ? AF_INET6 : AF_INET, .l4_protocol = IPPROTO_UDP, .sport = out->from_port, .dport = out->to_port,
		.tot_len = ip_length, .ifindex = origin,
	};
	if (out->inet6) {
		*(struct address *)fib.ipv6_src = out->from;
		*(struct address *)fib.ipv6_dst = out->to;
	} else {
		fib.ipv4_src = out->from.word[3];
		fib.ipv4_dst = out->to.word[3];
	}
	switch (bpf_fib_lookup(ctx, &fib, sizeof(fib), 0)) {
	case BPF_FIB_LKUP_RET_SUCCESS:
		break;
	case BPF_FIB_LKUP_RET_FRAG_NEEDED:
		return TOO_LONG;
	case BPF_FIB_LKUP_RET_NO_NEIGH:
		return NO_NEIGHBOUR;
	case BPF_FIB_LKUP_RET_FWD_DISABLED:
		return NO_FORWARDING;
	default:
		return NO_ROUTE;
	}
	__u32 interface = fib.ifindex, slot = out->slot;
	struct way *way = bpf_map_lookup_elem(&ways, &interface);
	if (!way)
		return NO_WAY;
	*(volatile __u64 *)&r->route_until = 0;
	barrier();
	__builtin_memcpy(r->to, fib.dmac, 6);
	__builtin_memcpy(r->from, fib.smac, 6);
	r->device = way->device;
	r->vlan = way->vlan;
	r->protocol = way->protocol;
	r->to_same = way->same;
	r->to_other = way->other;
	r->longest = fib.mtu_result; /* of kernels that do not say: the length that was asked for */
	struct hop *h = bpf_map_lookup_elem(&hops, &slot);
	if (h) {
		if (fib.family == AF_INET6)
			h->neighbour = *(struct address *)fib.ipv6_dst;
		else
			h->neighbour = mapped(fib.ipv4_dst);
		h->interface = interface;
	}
	__sync_lock_test_and_set(&r->route_until, now + ROUTE_HOLDS);
	return -1;
}

/* offload relays a packet of a flow that user space has entered. */
SEC("xdp")
int offload(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct place place = {.interface = ctx->ingress_ifindex};
	struct packet p = {};
	struct key k = {};

	/* 1. The packet. */
	struct ethernet *eth = data;
	if ((void *)(eth + 1) > end)
		return XDP_PASS;
	__u16 protocol = eth->protocol;
	void *at = eth + 1;
	__u32 before = sizeof(*eth); /* bytes in front of UDP; the verifier does not follow differences of pointers */
	if (protocol == htons(ETH_P_8021Q) || protocol == htons(ETH_P_8021AD)) {
		struct tag *t = at;
		if ((void *)(t + 1) > end)
			return XDP_PASS;
		place.protocol = protocol;
		place.vlan = t->control & htons(VLAN_VID_MASK);
		protocol = t->protocol;
		at = t + 1;
		before += sizeof(*t);
	}
	struct udp *udp;
	__u32 length; /* of what IP carries */
	if (protocol == htons(ETH_P_IP)) {
		struct ip4 *ip = at;
		if ((void *)(ip + 1) > end)
			return XDP_PASS;
		/* no options, no fragment, "do not fragment" or not */
		if (ip->version != 0x45 || ip->protocol != IPPROTO_UDP || ip->fragment & ~htons(0x4000))
			return XDP_PASS;
		__u32 *w = at;
		if (fold((__u64)w[0] + w[1] + w[2] + w[3] + w[4]) != 0xFFFF)
			return XDP_PASS;
		length = ntohs(ip->length) - sizeof(*ip);
		k.from = mapped(ip->from);
		k.to = mapped(ip->to);
		before += sizeof(*ip);
		udp = (void *)(ip + 1);
	} else if (protocol == htons(ETH_P_IPV6)) {
		struct ip6 *ip = at;
		if ((void *)(ip + 1) > end)
			return XDP_PASS;
		if ((ip->version & htonl(0xF0000000)) != htonl(0x60000000) || ip->next != IPPROTO_UDP)
			return XDP_PASS;
		length = ntohs(ip->length);
		k.from = ip->from;
		k.to = ip->to;
		if (is_mapped(&k.from))
			return XDP_PASS;
		p.inet6 = 1;
		before += sizeof(*ip);
		udp = (void *)(ip + 1);
	} else {
		return XDP_PASS;
	}
	if ((void *)(udp + 1) > end)
		return XDP_PASS;
	__u32 port = ntohs(udp->to);
	int relayed = port >= relay_first && port <= relay_last, listened = listens(udp->to);
	if (!relayed && !listened)
		return XDP_PASS;
	p.udp = ntohs(udp->length);
	if (p.udp != length || p.udp < sizeof(*udp) || p.udp > LONGEST_DATAGRAM)
		return XDP_PASS;
	/* Frames are padded, or more than the datagram for another reason: trailing is what is behind it. */
	__u32 frame = end - data;
	if (frame < before + p.udp)
		return XDP_PASS;
	__u32 trailing = frame - before - p.udp;
	p.check = udp->check;
	p.headers = before + sizeof(*udp);
	k.from_port = udp->from;
	k.to_port = udp->to;
	__u32 ports = *(__u32 *)udp;

	/* 2. The flow. A packet to a relayed port is from a peer, unless the range has a listener as well. */
	struct flow *f = 0, *second = 0;
	if (relayed) {
		p.size = p.udp - sizeof(*udp);
		f = bpf_map_lookup_elem(&flows, &k);
	}
	if (!f) {
		if (!listened || !from_client(&k, &p, udp + 1, end))
			return XDP_PASS;
		f = bpf_map_lookup_elem(&flows, &k);
		if (!f)
			return XDP_PASS;
		__u32 behind = p.headers + p.size;
		if (behind > 2 * LONGEST_DATAGRAM || !zeros((__u8 *)data + behind, p.rest, end))
			return pass(PADDING);
	}
	if (f->half == SECOND_HALF)
		return XDP_PASS; /* a forged source address: the engine has the kernel drop it */
	struct mac *own;
	if (!place.protocol && place.interface < SMALL_INDEX)
		own = bpf_map_lookup_elem(&near, &place.interface);
	else
		own = bpf_map_lookup_elem(&places, &place);
	if (!own || !own->known || *(__u32 *)own->byte != *(__u32 *)eth->to || *(__u16 *)&own->byte[4] != *(__u16 *)&eth->to[4])
		return pass(STRANGE_MAC);
	__u64 now = bpf_ktime_get_coarse_ns();
	struct slot *s = bpf_map_lookup_elem(&slots, &f->slot), *s2 = 0;
	if (!s || now >= *(volatile __u64 *)&s->until)
		return pass(ENDED);
	struct flow *out = f;
	if (f->half == FIRST) {
		struct key h = {.from = f->from, .to = f->to, .from_port = f->from_port, .to_port = f->to_port};
		second = bpf_map_lookup_elem(&flows, &h);
		if (!second || second->half != SECOND_HALF || second->prefix != f->prefix)
			return pass(HALF);
		s2 = bpf_map_lookup_elem(&slots, &second->slot);
		if (!s2 || now >= *(volatile __u64 *)&s2->until)
			return pass(ENDED);
		out = second;
	}

	/* 3. Its checksum, and its new size. */
	__u64 pseudo = add(add(htons(IPPROTO_UDP) + htons(p.udp), &k.from), &k.to);
	__u32 inet6 = out->inet6;
	if (!p.check) {
		if (p.inet6 || inet6)
			return pass(NO_CHECKSUM);
	} else if (fold(pseudo) == p.check) {
		return pass(NO_CHECKSUM); /* a sender on this machine leaves it to its interface: it is the pseudo-header's only */
	}
	__u32 header = 0, pad = 0;
	if (out->form == CHANNEL) {
		header = CHANNEL_HEADER;
	} else if (out->form == INDICATION) {
		header = out->peer6 ? DATA_HEADER6 : DATA_HEADER4;
		pad = -p.size & 3;
	}
	__u32 udp_length = sizeof(*udp) + header + p.size + pad;
	__u32 ip_length = udp_length + (inet6 ? sizeof(struct ip6) : sizeof(struct ip4));

	/* 4. The route. */
	struct slot *r = s2 ? s2 : s;
	__u64 holds = *(volatile __u64 *)&r->route_until;
	if (now >= holds || ip_length > r->longest) {
		int why = route(ctx, out, r, ip_length, now);
		if (why >= 0)
			return pass(why);
		holds = *(volatile __u64 *)&r->route_until;
	}
	struct exit x;
	x.device = r->device;
	x.vlan = r->vlan;
	x.protocol = r->protocol;
	x.to_same = r->to_same;
	x.to_other = r->to_other;
	__builtin_memcpy(x.to, r->to, 6);
	__builtin_memcpy(x.from, r->from, 6);
	barrier();
	if (*(volatile __u64 *)&r->route_until != holds || !holds)
		return pass(NO_ROUTE); /* it is being written */
	__u32 device = x.device;
	int same = device == place.interface;
	if (same ? !x.to_same : !x.to_other)
		return pass(NO_WAY);
	__u32 tagged = x.protocol != 0;
	__u32 link = sizeof(*eth) + (tagged ? sizeof(struct tag) : 0);
	if (link + ip_length < ETH_ZLEN)
		return pass(SHORT);
	if (!take(f->meter, now, p.size) || (second && !take(second->meter, now, p.size)))
		return pass(RATE);

	/* 5. Room for the new headers. Until the head has moved the packet means the same, whatever is done to what is behind it. */
	if (trailing && bpf_xdp_adjust_tail(ctx, -(int)trailing))
		return pass(NO_ROOM);
	if (pad > p.rest && bpf_xdp_adjust_tail(ctx, pad - p.rest)) /* with zeros */
		return pass(NO_ROOM);
	int shift = (int)p.headers - (int)(link + ip_length - p.size - pad);
	if (shift && bpf_xdp_adjust_head(ctx, shift))
		return pass(NO_ROOM);
	if (pad < p.rest && bpf_xdp_adjust_tail(ctx, -(int)(p.rest - pad)))
		return XDP_ABORTED; /* cannot be: there is more than a header in front of it */

	/* 6. The new headers. number counts the packets of the flow. */
	__u32 number = *(volatile __u32 *)&r->packets;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	eth = data;
	if ((void *)(eth + 1) > end)
		return XDP_ABORTED;
	__builtin_memcpy(eth->to, x.to, 6);
	__builtin_memcpy(eth->from, x.from, 6);
	at = eth + 1;
	protocol = inet6 ? htons(ETH_P_IPV6) : htons(ETH_P_IP);
	if (tagged) {
		struct tag *t = at;
		if ((void *)(t + 1) > end)
			return XDP_ABORTED;
		eth->protocol = x.protocol;
		t->control = x.vlan;
		t->protocol = protocol;
		at = t + 1;
	} else {
		eth->protocol = protocol;
	}
	if (inet6) {
		struct ip6 *ip = at;
		if ((void *)(ip + 1) > end)
			return XDP_ABORTED;
		ip->version = htonl(0x60000000);
		ip->length = htons(udp_length);
		ip->next = IPPROTO_UDP;
		ip->hops = DEFAULT_TTL;
		ip->from = out->from;
		ip->to = out->to;
		udp = (void *)(ip + 1);
	} else {
		struct ip4 *ip = at;
		if ((void *)(ip + 1) > end)
			return XDP_ABORTED;
		ip->version = 0x45;
		ip->service = 0;
		ip->length = htons(ip_length);
		ip->id = number + (__u16)out->slot * 0x9E37; /* routers may fragment it (§11: DF is 0), so that no two of a flow may meet */
		ip->fragment = 0;
		ip->ttl = DEFAULT_TTL;
		ip->protocol = IPPROTO_UDP;
		ip->check = 0;
		ip->from = out->from.word[3];
		ip->to = out->to.word[3];
		__u32 *w = at;
		ip->check = ~fold((__u64)w[0] + w[1] + w[2] + w[3] + w[4]);
		udp = (void *)(ip + 1);
	}
	if ((void *)(udp + 1) > end)
		return XDP_ABORTED;
	udp->from = out->from_port;
	udp->to = out->to_port;
	udp->length = htons(udp_length);

	/* 7. The checksum of what has not changed is in the old one: take out what was in front of the data, put in what is there now. */
	__u64 removed = pseudo + ports + htons(p.udp) + p.removed;
	removed = (removed & 0xFFFFFFFF) + (removed >> 32);
	removed = (removed & 0xFFFFFFFF) + (removed >> 32);
	__u64 sum = (__u16)~p.check + (__u64)(__u32)~removed;
	sum = add(add(sum, &out->from), &out->to) + htons(IPPROTO_UDP) + htons(udp_length) + htons(udp_length) + *(__u32 *)udp;
	if (out->form == CHANNEL) {
		__u16 *h = (void *)(udp + 1);
		if ((void *)(h + 2) > end)
			return XDP_ABORTED;
		h[0] = out->channel;
		h[1] = htons(p.size);
		sum += *(__u32 *)h;
	} else if (out->form == INDICATION) {
		__u32 *h = (void *)(udp + 1);
		if ((void *)h + DATA_HEADER4 > end)
			return XDP_ABORTED;
		h[0] = htonl(DATA_INDICATION << 16 | (header - STUN_HEADER + p.size + pad));
		h[1] = htonl(MAGIC_COOKIE);
		h[2] = bpf_get_prandom_u32();
		h[3] = number; /* fresh for each packet; nobody answers to it, so that nobody need guess it */
		h[4] = out->slot ^ (__u32)(now >> 10);
		__u32 address_port = (__u32)(__u16)(out->peer_port ^ htons(MAGIC_COOKIE >> 16)) << 16;
		if (out->peer6) {
			if ((void *)h + DATA_HEADER6 > end)
				return XDP_ABORTED;
			h[5] = htonl(XOR_PEER_ADDRESS << 16 | 20);
			h[6] = htonl(2 << 16) | address_port;
			h[7] = out->peer.word[0] ^ h[1];
			h[8] = out->peer.word[1] ^ h[2];
			h[9] = out->peer.word[2] ^ h[3];
			h[10] = out->peer.word[3] ^ h[4];
			h[11] = htonl(DATA << 16 | p.size);
			sum += (__u64)h[9] + h[10] + h[11];
		} else {
			h[5] = htonl(XOR_PEER_ADDRESS << 16 | 8);
			h[6] = htonl(1 << 16) | address_port;
			h[7] = out->peer.word[3] ^ htonl(MAGIC_COOKIE);
			h[8] = htonl(DATA << 16 | p.size);
		}
		sum += (__u64)h[0] + h[1] + h[2] + h[3] + h[4] + h[5] + h[6] + h[7] + h[8];
	}
	__u16 check = 0;
	if (p.check) {
		check = ~fold(sum);
		if (!check)
			check = 0xFFFF;
	}
	udp->check = check;

	/* 8. What user space wants to know. */
	count(s, now, p.size);
	if (s2)
		count(s2, now, p.size);
	return same ? XDP_TX : bpf_redirect(device, 0);
}

const char licence[] SEC("license") = "Dual MIT/GPL";
