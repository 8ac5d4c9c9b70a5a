// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// The tap on one pod's network namespace: the filter of a packet socket there, which keeps nothing and lets nothing through to it.
//
// The kernel shows such a socket what leaves after every filter on the way out (netfilter, traffic control) and what comes in before
// every filter on the way in.
#include "witness.h"

/* The number under which the sightings of this namespace are noted. */
volatile const __u32 owner;
/* Not zero where the namespace is the node's own: most of what comes in there is for somebody else, and nothing here tells which. */
volatile const __u32 shared;

/* A datagram packet socket shows packets from their network header on. */
static __always_inline int load(void *packet, __u32 offset, void *to, __u32 length)
{
	return bpf_skb_load_bytes(packet, offset, to, length);
}

SEC("socket")
int witness_tap(struct __sk_buff *skb)
{
	struct place place = {.owner = owner, .ifindex = skb->ifindex};
	struct flow_state *state;
	struct flow_key key;
	struct seen seen = {};

	if (skb->pkt_type == PACKET_OTHERHOST)
		return 0;
	if (skb->pkt_type == PACKET_OUTGOING) {
		if (skb->ingress_ifindex) /* passed on, not made here */
			return 0;
		place.point = LEFT;
	} else {
		if (shared)
			return 0;
		place.point = REACHED;
	}
	state = match(skb, 0, &key, &seen);
	if (state)
		note(state, &seen, &place);
	return 0;
}

char __license[] SEC("license") = "GPL";
