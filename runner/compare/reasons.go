package compare

// policyReasons are the kernel's drop reasons that a network policy can make, each with what makes it. The names are those of enum
// skb_drop_reason without their prefix, as the running kernel's BTF spells them; what each stands for is written beside it in
// https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git/tree/include/net/dropreason-core.h (read at 6.18).
//
// A drop for any other reason is no policy's: no route, a failing neighbour, a wrong checksum, a full buffer, a missing socket. The
// ambiguous ones are left out on purpose. SOCKET_FILTER is an ingress program of the cgroup but also any socket's own filter,
// QDISC_DROP is shaping as well as filtering, XFRM_POLICY is IPsec's, SECURITY_HOOK a security module's, and NOT_SPECIFIED says nothing.
// Reasons of subsystems, such as openvswitch's, have enums of their own and are not known here.
func policyReasons() map[string]string {
	return map[string]string{
		"NETFILTER_DROP":    "a verdict of nftables or iptables, DROP as well as REJECT",
		"TC_INGRESS":        "a tc program or filter on a device's way in",
		"TC_EGRESS":         "a tc program or filter on a device's way out",
		"XDP":               "an XDP program that ran on a socket buffer",
		"BPF_CGROUP_EGRESS": "a program on the cgroup of the sending pod",
	}
}

// policyMakes tells whether a policy can have made a drop of this reason.
func policyMakes(reason string) bool {
	_, ok := policyReasons()[reason]
	return ok
}
