package reach

// Notes name the places where the API leaves the verdict to the CNI, or where CNIs are known to differ. A decision carries the notes
// that had a part in it. [Notes] describes them.
const (
	// NoteSelfTraffic: source and destination are the same pod.
	NoteSelfTraffic = "self-traffic"
	// NoteHostNetwork: one end is a hostNetwork pod.
	NoteHostNetwork = "host-network"
	// NoteLocalNode: the source is a hostNetwork pod on the destination's own node.
	NoteLocalNode = "local-node"
	// NoteIPBlockPod: an ipBlock allowed traffic with a pod of the cluster.
	NoteIPBlockPod = "ipblock-pod"
	// NoteICMP: the traffic is ICMP, which policies do not speak about.
	NoteICMP = "icmp"
	// NoteEqualPriority: rules of two ClusterNetworkPolicies of one tier and one priority match and disagree.
	NoteEqualPriority = "equal-priority"
	// NoteDomainNames: a domainNames peer might match the outside address.
	NoteDomainNames = "domain-names"
)

// Note is one semantics note: what the API leaves open and what the engine takes.
type Note struct {
	// ID is what a decision carries.
	ID string `json:"id"`
	// Open says what is open, Taken what the engine derives.
	Open  string `json:"open"`
	Taken string `json:"taken"`
	// Reference is the address of the text it rests on.
	Reference string `json:"reference"`
	// Scenario is the name of the shipped scenario that shows it on a cluster; empty while the scenario language has no words for it
	// (hostNetwork pods, nodes, ClusterNetworkPolicy).
	Scenario string `json:"scenario,omitempty"`
}

const (
	networkPolicyPage = "https://kubernetes.io/docs/concepts/services-networking/network-policies/"
	hostNetworkPart   = networkPolicyPage + "#networkpolicy-and-hostnetwork-pods"
	clusterPolicyPage = "https://network-policy-api.sigs.k8s.io/api-overview/"
)

// Notes are all semantics notes, by ID. Policy against the address after DNAT is none of them: a query is about the backend.
func Notes() []Note {
	return []Note{
		{
			ID:        NoteDomainNames,
			Open:      "which addresses a domainNames peer stands for is known to whoever resolves the name, at that moment",
			Taken:     "the peer matches no address; the verdict is what the other rules make of it",
			Reference: clusterPolicyPage,
		},
		{
			ID:        NoteEqualPriority,
			Open:      "of two ClusterNetworkPolicies of one tier and one priority whose rules match and disagree, an implementation may apply either",
			Taken:     "the policy whose name comes first decides",
			Reference: clusterPolicyPage,
		},
		{
			ID:        NoteHostNetwork,
			Open:      "a CNI may or may not tell a hostNetwork pod from its node",
			Taken:     "it does not: policies do not select the pod, pod and namespace selectors do not match it, address blocks match its address",
			Reference: hostNetworkPart,
		},
		{
			ID:        NoteICMP,
			Open:      "policies speak of TCP, UDP and SCTP; what denying or allowing a peer does to ICMP is undefined, and CNIs differ",
			Taken:     "it is allowed where no policy selects an end, and there is no verdict otherwise",
			Reference: networkPolicyPage + "#networkpolicy-resource",
		},
		{
			ID:       NoteIPBlockPod,
			Open:     "ipBlock is meant for addresses outside of the cluster; some CNIs never match pods by it, others match their addresses",
			Taken:    "it matches the pod's address, as it is after DNAT",
			Scenario: "ingress-from-address", Reference: networkPolicyPage + "#behavior-of-to-and-from-selectors",
		},
		{
			ID:        NoteLocalNode,
			Open:      "traffic to and from the node where a pod runs is always allowed; whether a hostNetwork pod there counts as the node is left open",
			Taken:     "it does: ingress from it is allowed whatever the policies say",
			Reference: hostNetworkPart,
		},
		{
			ID:       NoteSelfTraffic,
			Open:     "a pod cannot block access to itself; CNIs differ where it goes through a Service, and ClusterNetworkPolicy does not say",
			Taken:    "it is allowed, whatever the policies of any tier say",
			Scenario: "a-pod-reaches-itself", Reference: networkPolicyPage + "#the-two-sorts-of-pod-isolation",
		},
	}
}
