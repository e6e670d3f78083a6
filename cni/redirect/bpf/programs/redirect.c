/* Redirection of a pod's traffic to the node proxy without netfilter.
 *
 *   connect4/6   what the app connects to elsewhere gets a mark; the route of that mark leads back into the pod
 *   steer        in the pod, gives connection requests that come back (or come in) to the proxy's listeners
 *   sendmsg4/6…  datagrams to port 53 go to the proxy's DNS socket, and answers look as if they came from where asked
 *   listening    remembers the proxy's listeners when they open; adopt finds those that were open already
 *                and marks what they accept from the app as staying in the pod
 *
 * Only connection requests pass here: connections that are open are nobody's business. A pod is known by the cookie of
 * its network namespace; whoever is not in the map of pods is left alone. What cannot be done is refused, so that nothing
 * leaves a pod past the proxy. */
#include "kernel.h"

char terms[] SEC("license") = "GPL";

/* As in api/mesh. */
enum {
	MASK = 0xfff,
	MARK_PROXY = 0x539,
	MARK_LOOP = 0x111,
	OUTBOUND = 15001,
	INBOUND = 15006,
	HBONE = 15008,
	DNS = 15053,
};
enum { REFUSE = 0, ALLOW = 1 };
enum { LOOPBACK_INDEX = 1 }; /* of the interface lo, in every namespace */

/* An address of either family, IPv4 in its IPv6 form, in network order. */
struct address {
	__u32 word[4];
};

enum { POD_IPV6 = 1, POD_DNS = 2, POD_BYPASS = 4 };

struct pod {
	__u32 flags;
	struct address probe4, probe6;
};

struct own {
	__u64 netns;
	struct address address;
};

struct listener {
	__u64 netns;
	__u16 port, family;
	/* 0, or 1 beside another: two proxies share a port while one replaces the other, and either may be the one that ends.
	 * Whichever is found, the kernel chooses among both. */
	__u32 place;
};

struct {
	map_int(type, BPF_MAP_TYPE_HASH);
	map_int(map_flags, BPF_F_NO_PREALLOC);
	map_int(max_entries, 4096);
	map_of(key, __u64);
	map_of(value, struct pod);
} pods SEC(".maps");

/* The addresses that pods have themselves. */
struct {
	map_int(type, BPF_MAP_TYPE_HASH);
	map_int(map_flags, BPF_F_NO_PREALLOC);
	map_int(max_entries, 65536);
	map_of(key, struct own);
	map_of(value, __u8);
} addresses SEC(".maps");

/* The proxy's listening sockets. The kernel takes a socket out when it closes. */
struct {
	map_int(type, BPF_MAP_TYPE_SOCKHASH);
	map_int(max_entries, 32768);
	map_of(key, struct listener);
	map_of(value, __u64);
} listeners SEC(".maps");

/* Whom a socket asked, before it was told to ask the proxy. */
struct question {
	struct address server;
	__u32 port;
};

struct {
	map_int(type, BPF_MAP_TYPE_SK_STORAGE);
	map_int(map_flags, BPF_F_NO_PREALLOC);
	map_of(key, int);
	map_of(value, struct question);
} questions SEC(".maps");

inline_always struct address from4(__u32 ip)
{
	return (struct address){ { 0, 0, be32(0xffff), ip } };
}

inline_always int is4(const struct address *a)
{
	return !a->word[0] && !a->word[1] && a->word[2] == be32(0xffff);
}

inline_always int equal(const struct address *a, const struct address *b)
{
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] && a->word[2] == b->word[2] && a->word[3] == b->word[3];
}

/* The unspecified address is loopback to who connects to it. */
inline_always int is_loopback(const struct address *a)
{
	if (is4(a))
		return (a->word[3] & be32(0xff000000)) == be32(0x7f000000) || !a->word[3];
	return !a->word[0] && !a->word[1] && !a->word[2] && (a->word[3] == be32(1) || !a->word[3]);
}

inline_always int is_own(__u64 netns, const struct address *a)
{
	struct own key = { .netns = netns, .address = *a };
	return map_lookup(&addresses, &key) != 0;
}

inline_always int is_probe(const struct pod *pod, const struct address *a)
{
	return equal(a, &pod->probe4) || equal(a, &pod->probe6);
}

inline_always int ours(__u16 port)
{
	return port == OUTBOUND || port == INBOUND || port == DNS;
}

inline_always int mark(void *ctx, __u32 now)
{
	__u32 next = (now & ~MASK) | MARK_LOOP;
	return setsockopt(ctx, SOL_SOCKET_, SO_MARK_, &next, sizeof(next)) ? REFUSE : ALLOW;
}

/* The proxy connects to the app with the client's address. Both directions have to stay inside the pod: the route of the
 * mark leads to lo, and the app's socket inherits the mark (tcp_fwmark_accept), so its answers find the way as well. */
inline_always int as_client(struct bpf_sock_addr *ctx, struct bpf_sock *sk)
{
	char lo[] = "lo";
	if (setsockopt(ctx, SOL_SOCKET_, SO_BINDTODEVICE_, lo, sizeof(lo)))
		return REFUSE;
	return mark(ctx, sk->mark);
}

inline_always int ask_proxy(struct bpf_sock *sk, const struct address *to, __u32 port)
{
	struct question *q = storage_get(&questions, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!q)
		return REFUSE;
	q->server = *to;
	q->port = port;
	return ALLOW;
}

enum { GO_ON = 2, REWRITE = 3 };

inline_always struct pod *pod_of(struct bpf_sock_addr *ctx, __u64 *netns)
{
	*netns = netns_cookie(ctx);
	return map_lookup(&pods, netns);
}

/* Common to all that leaves: whom the mesh leaves alone. */
inline_always int outward(struct bpf_sock_addr *ctx, const struct pod *pod, __u64 netns, const struct address *to, int *own)
{
	if (!is4(to) && !(pod->flags & POD_IPV6))
		return ALLOW;
	if (is_loopback(to))
		return ALLOW;
	*own = is_own(netns, to);
	return GO_ON;
}

inline_always int stream(struct bpf_sock_addr *ctx, const struct address *to)
{
	__u64 netns;
	int own = 0;
	struct pod *pod = pod_of(ctx, &netns);
	if (!pod || outward(ctx, pod, netns, to, &own) == ALLOW)
		return ALLOW;
	struct bpf_sock *sk = ctx->sk;
	if (!sk)
		return REFUSE;
	if ((sk->mark & MASK) == MARK_PROXY) {
		struct address from = is4(to) && sk->family == V4 ? from4(sk->src_ip4) :
			(struct address){ { sk->src_ip6[0], sk->src_ip6[1], sk->src_ip6[2], sk->src_ip6[3] } };
		if (!own || is_loopback(&from) || (is4(&from) && !from.word[3]) || is_own(netns, &from))
			return ALLOW;
		return as_client(ctx, sk);
	}
	if (own || is_probe(pod, to))
		return ALLOW;
	/* A link-local destination has an interface of its own and cannot be led elsewhere. */
	if (!is4(to) && (to->word[0] & be32(0xffc00000)) == be32(0xfe800000))
		return REFUSE;
	/* A socket bound to a device would go out by it, whatever the routes say. */
	if (sk->bound_dev_if && sk->bound_dev_if != LOOPBACK_INDEX) {
		char none[] = "";
		if (setsockopt(ctx, SOL_SOCKET_, SO_BINDTODEVICE_, none, sizeof(none)))
			return REFUSE;
	}
	return mark(ctx, sk->mark);
}

/* Says REWRITE when a datagram is a question the proxy answers. */
inline_always int datagram(struct bpf_sock_addr *ctx, const struct address *to)
{
	__u64 netns;
	int own = 0;
	if (ctx->user_port != be16(53))
		return ALLOW;
	struct pod *pod = pod_of(ctx, &netns);
	if (!pod || !(pod->flags & POD_DNS) || outward(ctx, pod, netns, to, &own) == ALLOW || own)
		return ALLOW;
	struct bpf_sock *sk = ctx->sk;
	if (!sk)
		return REFUSE;
	if ((sk->mark & MASK) == MARK_PROXY)
		return ALLOW;
	return ask_proxy(sk, to, ctx->user_port) == ALLOW ? REWRITE : REFUSE;
}

inline_always int outgoing4(struct bpf_sock_addr *ctx, int tcp)
{
	struct address to = from4(ctx->user_ip4);
	if (tcp)
		return stream(ctx, &to);
	int v = datagram(ctx, &to);
	if (v != REWRITE)
		return v;
	ctx->user_ip4 = be32(0x7f000001);
	ctx->user_port = be16(DNS);
	return ALLOW;
}

inline_always int outgoing6(struct bpf_sock_addr *ctx, int tcp)
{
	struct address to = { { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3] } };
	if (tcp)
		return stream(ctx, &to);
	int v = datagram(ctx, &to);
	if (v != REWRITE)
		return v;
	ctx->user_ip6[0] = 0;
	ctx->user_ip6[1] = 0;
	ctx->user_ip6[2] = is4(&to) ? be32(0xffff) : 0;
	ctx->user_ip6[3] = is4(&to) ? be32(0x7f000001) : be32(1);
	ctx->user_port = be16(DNS);
	return ALLOW;
}

SEC("cgroup/connect4") int connect4(struct bpf_sock_addr *ctx)
{
	if (ctx->protocol == TCP || ctx->protocol == MPTCP)
		return outgoing4(ctx, 1);
	return ctx->protocol == UDP ? outgoing4(ctx, 0) : ALLOW;
}

SEC("cgroup/connect6") int connect6(struct bpf_sock_addr *ctx)
{
	if (ctx->protocol == TCP || ctx->protocol == MPTCP)
		return outgoing6(ctx, 1);
	return ctx->protocol == UDP ? outgoing6(ctx, 0) : ALLOW;
}

SEC("cgroup/sendmsg4") int sendmsg4(struct bpf_sock_addr *ctx)
{
	return outgoing4(ctx, 0);
}

SEC("cgroup/sendmsg6") int sendmsg6(struct bpf_sock_addr *ctx)
{
	return outgoing6(ctx, 0);
}

/* What comes from the proxy's DNS socket says that it comes from where the question went. */
inline_always struct question *answer(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	if (!sk || ctx->user_port != be16(DNS))
		return 0;
	return storage_get(&questions, sk, 0, 0);
}

inline_always int incoming4(struct bpf_sock_addr *ctx)
{
	struct question *q = answer(ctx);
	if (q && is4(&q->server) && ctx->user_ip4 == be32(0x7f000001)) {
		ctx->user_ip4 = q->server.word[3];
		ctx->user_port = q->port;
	}
	return ALLOW;
}

inline_always int incoming6(struct bpf_sock_addr *ctx)
{
	struct address from = { { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3] } };
	struct question *q = answer(ctx);
	if (q && is_loopback(&from)) {
		ctx->user_ip6[0] = q->server.word[0];
		ctx->user_ip6[1] = q->server.word[1];
		ctx->user_ip6[2] = q->server.word[2];
		ctx->user_ip6[3] = q->server.word[3];
		ctx->user_port = q->port;
	}
	return ALLOW;
}

SEC("cgroup/recvmsg4") int recvmsg4(struct bpf_sock_addr *ctx) { return incoming4(ctx); }
SEC("cgroup/recvmsg6") int recvmsg6(struct bpf_sock_addr *ctx) { return incoming6(ctx); }
SEC("cgroup/getpeername4") int getpeername4(struct bpf_sock_addr *ctx) { return incoming4(ctx); }
SEC("cgroup/getpeername6") int getpeername6(struct bpf_sock_addr *ctx) { return incoming6(ctx); }

/* The proxy's end of a connection that the app makes. When the app has closed, the kernel answers in its place, with the mark
 * of what it answers (fwmark_reflect): with the proxy's own, the acknowledgement of the last FIN would leave the pod. The
 * proxy would wait for it, and the app's next connection from the same port would meet that, without an answer for minutes. */
inline_always void accepted(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	__u64 netns = netns_cookie(ctx);
	if (!sk || (sk->mark & MASK) != MARK_PROXY || !map_lookup(&pods, &netns))
		return;
	/* Volatile, or loads are merged to some through a computed pointer, which the verifier refuses. */
	volatile struct bpf_sock_ops *op = ctx;
	struct address local = from4(op->local_ip4), remote = from4(op->remote_ip4);
	if (op->family != V4) {
		local = (struct address){ { op->local_ip6[0], op->local_ip6[1], op->local_ip6[2], op->local_ip6[3] } };
		remote = (struct address){ { op->remote_ip6[0], op->remote_ip6[1], op->remote_ip6[2], op->remote_ip6[3] } };
	}
	if (!is_own(netns, &local) && is_own(netns, &remote))
		mark(ctx, sk->mark);
}

/* Only sockets with the proxy's mark count, which takes CAP_NET_ADMIN: an app cannot put itself in the proxy's place. */
SEC("sockops") int listening(struct bpf_sock_ops *ctx)
{
	if (ctx->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		accepted(ctx);
	if (ctx->op != BPF_SOCK_OPS_TCP_LISTEN_CB || !ours(ctx->local_port))
		return 1;
	struct bpf_sock *sk = ctx->sk;
	if (!sk || (sk->mark & MASK) != MARK_PROXY)
		return 1;
	struct listener key = { .netns = netns_cookie(ctx), .port = ctx->local_port, .family = ctx->family };
	if (!sock_hash_update(ctx, &listeners, &key, BPF_NOEXIST))
		return 1;
	key.place = 1;
	sock_hash_update(ctx, &listeners, &key, BPF_ANY);
	return 1;
}

SEC("iter/tcp") int adopt(struct bpf_iter__tcp *ctx)
{
	struct sock_common *sk = ctx->sk_common;
	if (!sk || sk->skc_state != LISTENING || !ours(sk->skc_num))
		return 0;
	struct tcp_sock *tcp = to_tcp_sock(sk);
	if (!tcp || (((struct sock *)tcp)->sk_mark & MASK) != MARK_PROXY)
		return 0;
	struct listener key = { .netns = sk->skc_net.net->net_cookie, .port = sk->skc_num, .family = sk->skc_family };
	map_update(&listeners, &key, tcp, BPF_NOEXIST);
	return 0;
}

/* The namespace that this copy of the program is attached to. */
volatile const __u64 self = 0;

inline_always struct bpf_sock *listening_at(__u16 port, __u16 family)
{
	struct listener key = { .netns = self, .port = port, .family = family };
	struct bpf_sock *sk = map_lookup(&listeners, &key);
	if (sk)
		return sk;
	key.place = 1;
	return map_lookup(&listeners, &key);
}

inline_always int deliver(struct bpf_sk_lookup *ctx, __u16 port)
{
	struct bpf_sock *sk = listening_at(port, ctx->family);
	if (!sk && ctx->family == V4)
		sk = listening_at(port, V6); /* a socket for both families */
	if (!sk)
		return SK_DROP;
	long failed = sk_assign(ctx, sk, 0);
	sk_release(sk);
	return failed ? SK_DROP : SK_PASS;
}

SEC("sk_lookup") int steer(struct bpf_sk_lookup *ctx)
{
	if (ctx->protocol != TCP)
		return SK_PASS;
	__u64 netns = self;
	struct pod *pod = map_lookup(&pods, &netns);
	if (!pod)
		return SK_PASS;
	struct address local, remote;
	if (ctx->family == V4) {
		local = from4(ctx->local_ip4);
		remote = from4(ctx->remote_ip4);
	} else {
		if (!(pod->flags & POD_IPV6))
			return SK_PASS;
		local = (struct address){ { ctx->local_ip6[0], ctx->local_ip6[1], ctx->local_ip6[2], ctx->local_ip6[3] } };
		remote = (struct address){ { ctx->remote_ip6[0], ctx->remote_ip6[1], ctx->remote_ip6[2], ctx->remote_ip6[3] } };
	}
	if (is_loopback(&local))
		return SK_PASS;
	int own = is_own(netns, &local);
	if (ctx->ingress_ifindex == LOOPBACK_INDEX) {
		if (own) /* the proxy, as a client, to the app */
			return SK_PASS;
		return deliver(ctx, ctx->local_port == 53 && (pod->flags & POD_DNS) ? DNS : OUTBOUND);
	}
	/* A call to an own address seems to come in by that address's interface. */
	if (own && is_own(netns, &remote))
		return SK_PASS;
	if ((pod->flags & POD_BYPASS) || ctx->local_port == HBONE || is_probe(pod, &remote))
		return SK_PASS;
	return deliver(ctx, INBOUND);
}
