package reach

// Notes name the places where the API leaves the verdict to the CNI, or where CNIs are known to differ. A decision carries the notes
// that had a part in it.
const (
	// NoteSelfTraffic: source and destination are the same pod. The API says that a pod cannot block access to itself.
	NoteSelfTraffic = "self-traffic"
	// NoteHostNetwork: one end is a hostNetwork pod. The API leaves open whether a CNI tells such a pod apart from its node; the engine
	// takes the common reading: policies do not select it, pod and namespace selectors do not match it, ipBlock matches its address.
	NoteHostNetwork = "host-network"
	// NoteLocalNode: the source is a hostNetwork pod on the destination's own node, from where the API always allows ingress.
	NoteLocalNode = "local-node"
	// NoteIPBlockPod: an ipBlock allowed traffic with a pod of the cluster. The API means ipBlock for addresses outside of the cluster; some
	// CNIs never match pods by it.
	NoteIPBlockPod = "ipblock-pod"
	// NoteEqualPriority: rules of two ClusterNetworkPolicies of one tier and one priority match and disagree. The API lets an implementation
	// take either; the engine takes the policy whose name comes first.
	NoteEqualPriority = "equal-priority"
	// NoteDomainNames: a domainNames peer might match the outside address. The engine knows no DNS and takes it not to match.
	NoteDomainNames = "domain-names"
)
