/* The little that the programs need of the kernel beside linux/bpf.h: helpers by their numbers, the shape of a map's
 * declaration as BTF readers expect it, and the few fields of kernel structures that the iterator reads (relocated when
 * the object is loaded, so that their places need not match). */
#pragma once

#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))
#define inline_always static __attribute__((always_inline)) inline

/* A map is described by types: an int n is "pointer to an array of n". */
#define map_int(name, n) int(*name)[n]
#define map_of(name, t) t *name

#define be16(n) ((__u16)__builtin_bswap16(n))
#define be32(n) ((__u32)__builtin_bswap32(n))

static void *(*map_lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*map_update)(void *map, const void *key, const void *value, __u64 flags) = (void *)BPF_FUNC_map_update_elem;
static __u64 (*netns_cookie)(void *ctx) = (void *)BPF_FUNC_get_netns_cookie;
static long (*setsockopt)(void *ctx, int level, int name, void *value, int size) = (void *)BPF_FUNC_setsockopt;
static void *(*storage_get)(void *map, void *sk, void *value, __u64 flags) = (void *)BPF_FUNC_sk_storage_get;
static long (*sk_assign)(void *ctx, void *sk, __u64 flags) = (void *)BPF_FUNC_sk_assign;
static long (*sk_release)(void *sk) = (void *)BPF_FUNC_sk_release;
static long (*sock_hash_update)(struct bpf_sock_ops *ctx, void *map, void *key, __u64 flags) = (void *)BPF_FUNC_sock_hash_update;

/* From headers that cannot be included beside linux/bpf.h for this target. */
enum { V4 = 2, V6 = 10 };
enum { LISTENING = 10 }; /* TCP_LISTEN */
enum { SOL_SOCKET_ = 1, SO_BINDTODEVICE_ = 25, SO_MARK_ = 36 };
enum { TCP = 6, UDP = 17, MPTCP = 262 };

#define relocated __attribute__((preserve_access_index))

struct net {
	__u64 net_cookie;
} relocated;

typedef struct {
	struct net *net;
} relocated possible_net_t;

struct sock_common {
	union {
		struct {
			__u16 skc_dport;
			__u16 skc_num;
		};
	};
	unsigned short skc_family;
	volatile unsigned char skc_state;
	possible_net_t skc_net;
} relocated;

struct sock {
	struct sock_common __sk_common;
	__u32 sk_mark;
} relocated;

struct tcp_sock;

struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
} relocated;

static struct tcp_sock *(*to_tcp_sock)(void *sk) = (void *)BPF_FUNC_skc_to_tcp_sock;
