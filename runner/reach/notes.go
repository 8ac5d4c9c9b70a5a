package reach

// Notes name the places where the API leaves the verdict to the CNI, or where CNIs are known to differ. A decision carries the notes
// that had a part in it. [Notes] describes them. The engine knows no Services: whoever asks it about their backends adds the notes that are
// about a Service.
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
	// NoteBackendsDiffer: policies allow some of a Service's backends and deny others.
	NoteBackendsDiffer = "backends-differ"
	// NoteHairpin: the source stands behind the Service that it calls.
	NoteHairpin = "hairpin"
)

// NoteSubject says what a note is about. The zero value is unknown and in no note.
type NoteSubject string

// AboutConnection is a note of the engine's own decisions, AboutService one about what stands behind a Service.
const (
	AboutConnection NoteSubject = "connection"
	AboutService    NoteSubject = "service"
)

// Note is one semantics note: what the API leaves open and what the engine takes.
type Note struct {
	// ID is what a decision carries.
	ID string `json:"id"`
	// About says who adds it.
	About NoteSubject `json:"about"`
	// Open says what is open, Taken what the engine derives.
	Open  string `json:"open"`
	Taken string `json:"taken"`
	// Reference is the address of the text it rests on.
	Reference string `json:"reference"`
	// Scenario is the name of a shipped scenario that has it on a cluster.
	Scenario string `json:"scenario"`
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
			ID: NoteBackendsDiffer, About: AboutService,
			Open:      "policies allow some of a Service's backends and deny others; which one a connection comes to is the Service's choice",
			Taken:     "no verdict is derived for the Service, only for each backend",
			Scenario:  "headless-name-is-no-address",
			Reference: "https://kubernetes.io/docs/reference/networking/virtual-ips/",
		},
		{
			ID: NoteDomainNames, About: AboutConnection,
			Open:      "which addresses a domainNames peer stands for is known to whoever resolves the name, at that moment",
			Taken:     "the peer matches no address; the verdict is what the other rules make of it",
			Scenario:  "domain-name-opens-no-address",
			Reference: clusterPolicyPage,
		},
		{
			ID: NoteEqualPriority, About: AboutConnection,
			Open:      "of two ClusterNetworkPolicies of one tier and one priority whose rules match and disagree, an implementation may apply either",
			Taken:     "the policy whose name comes first decides",
			Scenario:  "equal-priority-is-nobodys-promise",
			Reference: clusterPolicyPage,
		},
		{
			ID: NoteHairpin, About: AboutService,
			Open:      "a pod reaches itself through a Service: some CNIs see its node as the source then, and hold policies against that",
			Taken:     "no policy can keep a pod from itself: it is allowed, and what a cluster does instead is no failure",
			Scenario:  "a-call-to-oneself-opens-nothing",
			Reference: "https://github.com/kubernetes-sigs/network-policy-api/issues/343",
		},
		{
			ID: NoteHostNetwork, About: AboutConnection,
			Open:      "a CNI may or may not tell a hostNetwork pod from its node",
			Taken:     "it does not: policies do not select the pod, pod and namespace selectors do not match it, address blocks match its address",
			Scenario:  "host-pods-are-not-selected",
			Reference: hostNetworkPart,
		},
		{
			ID: NoteICMP, About: AboutConnection,
			Open:      "policies speak of TCP, UDP and SCTP; what denying or allowing a peer does to ICMP is undefined, and CNIs differ",
			Taken:     "it is allowed where no policy selects an end, and there is no verdict otherwise",
			Scenario:  "icmp-is-nobodys-promise",
			Reference: networkPolicyPage + "#networkpolicy-resource",
		},
		{
			ID: NoteIPBlockPod, About: AboutConnection,
			Open:     "ipBlock is meant for addresses outside of the cluster; some CNIs never match pods by it, others match their addresses",
			Taken:    "it matches the pod's address, as it is after DNAT",
			Scenario: "ingress-from-address", Reference: networkPolicyPage + "#behavior-of-to-and-from-selectors",
		},
		{
			ID: NoteLocalNode, About: AboutConnection,
			Open:      "traffic to and from the node where a pod runs is always allowed; whether a hostNetwork pod there counts as the node is left open",
			Taken:     "it does: ingress from it is allowed whatever the policies say",
			Scenario:  "local-node-always-reaches",
			Reference: hostNetworkPart,
		},
		{
			ID: NoteSelfTraffic, About: AboutConnection,
			Open:     "a pod cannot block access to itself; CNIs differ where it goes through a Service, and ClusterNetworkPolicy does not say",
			Taken:    "it is allowed, whatever the policies of any tier say",
			Scenario: "a-pod-reaches-itself", Reference: networkPolicyPage + "#the-two-sorts-of-pod-isolation",
		},
	}
}
