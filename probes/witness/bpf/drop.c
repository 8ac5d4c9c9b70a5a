// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// Drops with their reason: the tracepoint has it as its third argument since Linux 5.17, and the verifier refuses this program before.
#include "drop.h"

/*
 * Reasons by which the kernel gives up something that is not the packet on its way: a copy for another host on a flooded link, a copy
 * for a sniffer, or a packet that was delivered. Indexed by the running kernel's own numbers.
 */
#define MAX_REASONS 256
volatile const __u8 no_drop[MAX_REASONS];

SEC("tp_btf/kfree_skb")
int witness_drop(__u64 *ctx)
{
	__u32 reason = (__u32)ctx[2];
	__u32 at = reason;

	/* The verifier follows the bound only while the compiler does not merge the two. */
	asm volatile("" : "+r"(at));
	if (reason < MAX_REASONS && no_drop[at & (MAX_REASONS - 1)])
		return 0;
	dropped((struct sk_buff *)ctx[0], reason);
	return 0;
}

char __license[] SEC("license") = "GPL";
