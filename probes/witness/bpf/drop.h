/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* What both hooks on kfree_skb share: whose drop it is, and where. */
#pragma once

#include "witness.h"

/* The network namespaces that this witness answers for, by inode number. A drop anywhere else is another witness's, or nobody's. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_OWNERS);
	__type(key, __u32);
	__type(value, __u32);
} owners SEC(".maps");

/*
 * Whose request was dropped, for user space to look at that flow now and at no other. There is room for a drop of every flow at once; where
 * there is none left the call is not made, and whoever waits for it finds the drop in the flow's entry, only later.
 */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, MAX_FLOWS * 32); /* a key and the header of its record */
} calls SEC(".maps");

/* The packet begins where the pointer says: a header inside skb->head. */
static __always_inline int load(void *packet, __u32 offset, void *to, __u32 length)
{
	return bpf_probe_read_kernel(to, length, packet + offset);
}

static __always_inline __u32 namespace_of_socket(struct sk_buff *skb)
{
	struct sock *sk = BPF_CORE_READ(skb, sk);

	return sk ? BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum) : 0;
}

/*
 * The device is the packet's own, or that of its route for one that has not been given a device yet.
 *
 * In some queues the kernel keeps other things in the place of skb->dev. Such a number is no address of anything, reading through it
 * gives zero, and zero is no namespace: the drop is then not claimed.
 */
static __always_inline struct net_device *device_of(struct sk_buff *skb)
{
	struct net_device *device = BPF_CORE_READ(skb, dev);
	struct dst_entry *route;

	if (device)
		return device;
	route = (struct dst_entry *)(BPF_CORE_READ(skb, _skb_refdst) & ~1UL); /* the lowest bit says that it is not counted */
	return route ? BPF_CORE_READ(route, dev) : 0;
}

static __always_inline void dropped(struct sk_buff *skb, __u32 reason)
{
	struct place place = {.point = DROPPED, .reason = reason};
	__u32 of_device = 0, of_socket = namespace_of_socket(skb), in;
	__u16 network = BPF_CORE_READ(skb, network_header), inner;
	unsigned char *head = BPF_CORE_READ(skb, head);
	struct flow_state *state;
	struct flow_key key;
	struct seen seen = {};
	/* A variable of its own: a structure of ours in a CO-RE read would be looked for in the kernel. */
	struct net_device *device = device_of(skb);
	__u32 *owner;

	if (device)
		of_device = BPF_CORE_READ(device, nd_net.net, ns.inum);
	in = device ? of_device : of_socket;
	owner = bpf_map_lookup_elem(&owners, &in);
	if (!owner)
		return;
	place.owner = *owner;
	place.device = device;
	if (device)
		place.ifindex = BPF_CORE_READ(device, ifindex);
	/* What a socket of this namespace sent and what no device has received was made here and has not left. */
	place.local = of_socket == in && BPF_CORE_READ(skb, skb_iif) == 0;

	state = match(head, network, &key, &seen);
	if (!state) {
		/* A packet that was put into a tunnel still has its own header inside. */
		inner = BPF_CORE_READ(skb, inner_network_header);
		if (!inner || inner == network)
			return;
		__builtin_memset(&seen, 0, sizeof(seen));
		state = match(head, inner, &key, &seen);
		if (!state)
			return;
	}
	note(state, &seen, &place);
	if (seen.packet == REQUEST)
		bpf_ringbuf_output(&calls, &key, sizeof(key), 0);
}
