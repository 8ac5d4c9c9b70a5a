package reach

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	npav1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// Verdict is allow or deny. The zero value is unknown, and an answer of the engine about ICMP alone.
type Verdict uint8

// The verdicts.
const (
	Unknown Verdict = iota
	Allow
	Deny
)

// World is what policies speak about, with the cluster's addresses filled in. Policies are not part of it.
type World struct {
	Namespaces []Namespace
	Pods       []Pod
	// Nodes are only needed for the nodes peer of a ClusterNetworkPolicy.
	Nodes []Node
}

// Node has labels and the addresses of its status.
type Node struct {
	Name   string
	Labels map[string]string
	IPs    []netip.Addr
}

// Namespace has labels; the engine adds kubernetes.io/metadata.name as the API server does.
type Namespace struct {
	Name   string
	Labels map[string]string
}

// Pod is one pod with its addresses.
type Pod struct {
	Namespace   string
	Name        string
	Labels      map[string]string
	IPs         []netip.Addr
	Node        string
	HostNetwork bool
	Ports       []Port
}

// Port is a container port, needed for named ports.
type Port struct {
	Name     string
	Protocol corev1.Protocol
	Port     uint16
}

// Policy is one NetworkPolicy and where it was written; File is empty and Line 0 when unknown.
type Policy struct {
	Spec networkingv1.NetworkPolicy
	File string
	Line int
}

// ClusterPolicy is one ClusterNetworkPolicy and where it was written; File is empty and Line 0 when unknown.
type ClusterPolicy struct {
	Spec npav1alpha2.ClusterNetworkPolicy
	File string
	Line int
}

// Endpoint is one end of a connection: a pod of the world, or an address outside of it.
type Endpoint struct {
	// Namespace and Pod name a pod; both empty for an outside address.
	Namespace string
	Pod       string
	// Addr is the address policies with ipBlock are held against. For a pod, the invalid Addr stands for its first IP.
	Addr netip.Addr
}

// Query asks whether one connection is allowed. Services are not known here: ask about the backend (policy is judged after DNAT).
type Query struct {
	Source      Endpoint
	Destination Endpoint
	Protocol    corev1.Protocol
	// Port is the destination port, 1–65535.
	Port uint16
}

// Decision is the derived verdict with its trace.
type Decision struct {
	Verdict Verdict `json:"verdict"`
	Egress  Side    `json:"egress"`
	Ingress Side    `json:"ingress"`
	// Notes are the identifiers of semantics notes that applied, such as "self-traffic".
	Notes []string `json:"notes,omitempty"`
}

// Side is the verdict of one direction and why.
type Side struct {
	Verdict Verdict `json:"verdict"`
	// Isolating names the policies that select the pod for this direction, in name order; empty means not isolated.
	Isolating []Ref `json:"isolating,omitempty"`
	// Passing are the rules of ClusterNetworkPolicies that handed it to the next tier, in the order of evaluation.
	Passing []Ref `json:"passing,omitempty"`
	// Allowing is the rule that allowed it: a NetworkPolicy's first, or a ClusterNetworkPolicy's that decided. Nil when denied, and when
	// nothing spoke against it.
	Allowing *Ref `json:"allowing,omitempty"`
	// Denying is the rule of a ClusterNetworkPolicy that denied it; nil when isolation by NetworkPolicies did.
	Denying *Ref `json:"denying,omitempty"`
	// Nearest is, for a deny, the rule that would have allowed it and matched most, and what it lacked: a NetworkPolicy's, or one of an Accept of a
	// ClusterNetworkPolicy that was asked before. Nil when no such rule exists.
	Nearest *Ref `json:"nearest,omitempty"`
}

// Ref points into a policy.
type Ref struct {
	// Policy is "namespace/name", of a ClusterNetworkPolicy "name".
	Policy string `json:"policy"`
	// Tier is "Admin" or "Baseline" for a ClusterNetworkPolicy, empty for a NetworkPolicy.
	Tier string `json:"tier,omitempty"`
	// Field is the path inside it, such as "spec.ingress[0].from[1].podSelector".
	Field string `json:"field,omitempty"`
	// Reason is a phrase: "from[0] is empty: every source matches", or "podSelector wants app=web, pod has app=wbe".
	Reason string `json:"reason,omitempty"`
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`
}
