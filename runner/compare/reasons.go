package compare

import (
	"path"
	"slices"
)

// policyReasons are the kernel's drop reasons that a network policy can make, each with what makes it. The names are those of enum
// skb_drop_reason without their prefix, as the running kernel's BTF spells them; what each stands for is written beside it in
// https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git/tree/include/net/dropreason-core.h (read at 6.18).
//
// A drop for any other reason is no policy's: no route, a failing neighbour, a wrong checksum, a full buffer, a missing socket. The
// ambiguous ones are left out on purpose. SOCKET_FILTER is an ingress program of the cgroup but also any socket's own filter,
// QDISC_DROP is shaping as well as filtering, XFRM_POLICY is IPsec's, SECURITY_HOOK a security module's, and NOT_SPECIFIED says nothing.
// Reasons of subsystems, such as openvswitch's, have enums of their own and are not known here.
//
// A drop by traffic control is a policy's only on the devices where a CNI's policy programs sit: anybody may hang a filter or a shaper on a
// node's other devices. What else those programs drop for, such as an address that is no pod's, the kernel does not tell apart; it is the
// baseline, in which the same packets passed before any policy, that leaves the policy as the cause.
func policyReasons() map[string]maker {
	return map[string]maker{
		"NETFILTER_DROP":    {"a verdict of nftables or iptables, DROP as well as REJECT", nil},
		"TC_INGRESS":        {"a tc program or filter on a device's way in", policyDevices()},
		"TC_EGRESS":         {"a tc program or filter on a device's way out", policyDevices()},
		"XDP":               {"an XDP program that ran on a socket buffer", nil},
		"BPF_CGROUP_EGRESS": {"a program on the cgroup of the sending pod", nil},
	}
}

// maker is what makes drops of one reason, and the devices of a node where such a drop can be a policy's, as globs; nil for any.
type maker struct {
	what    string
	devices []string
}

// policyDevices are the names of devices on which CNIs judge traffic by tc programs: the node's ends of pods' interfaces, and what packets of
// other nodes come out of.
func policyDevices() []string {
	return []string{
		"lxc*", "cilium_*", // Cilium: https://docs.cilium.io/en/stable/network/ebpf/intro/
		"cali*", "vxlan.calico", "bpfout.cali", // Calico's eBPF data path: https://docs.tigera.io/calico/latest/operations/ebpf/
		"eni*", // Amazon VPC CNI's policy agent: https://github.com/aws/aws-network-policy-agent
		"gke*", // GKE Dataplane V2
		"azv*", // Azure CNI powered by Cilium
	}
}

// policyMakes tells whether a policy can have made the drop. One inside a pod's own namespace comes from a program in the pod's own hands.
func policyMakes(d Drop) bool {
	m, ok := policyReasons()[d.Reason]
	if !ok || m.devices == nil {
		return ok
	}
	return d.Pod == "" && slices.ContainsFunc(m.devices, func(glob string) bool {
		match, err := path.Match(glob, d.Interface)
		return match && err == nil
	})
}
