// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// Drops without a reason, for kernels that have none or refuse the typed tracepoint.
#include "drop.h"

SEC("raw_tp/kfree_skb")
int witness_drop_plain(__u64 *ctx)
{
	struct sk_buff *skb = (struct sk_buff *)ctx[0];

	/* Without a reason, a copy that a flooded link brought to the wrong host is known only by this mark. */
	if (BPF_CORE_READ_BITFIELD_PROBED(skb, pkt_type) == PACKET_OTHERHOST)
		return 0;
	dropped(skb, 0);
	return 0;
}

char __license[] SEC("license") = "GPL";
