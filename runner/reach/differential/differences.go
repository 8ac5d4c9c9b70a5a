package differential

import (
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gapproof/gapproof/runner/reach"
)

// Difference is one thing that cyclonus v0.5.6 judges otherwise than the API says, or does not judge at all.
type Difference struct {
	ID string
	// What says in one sentence what cyclonus does.
	What string
	// API is what decides, and Reference where it stands.
	API, Reference string
	// Source is the file of a Go module of the API, as its import path and name, that has API word for word. It is empty for what the
	// modules do not say at all; then API are the words of the page that Reference names.
	Source string
	// Explains tells whether a case that was shrunk is this difference.
	Explains func(Case) bool
}

const (
	conceptPage  = "https://kubernetes.io/docs/concepts/services-networking/network-policies/"
	selectorPage = "https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/"
	apiReference = "https://kubernetes.io/docs/reference/generated/kubernetes-api/v1.34/#networkpolicyport-v1-networking-k8s-io"
)

// Differences are all that are known. Each is shown by a case of the tests.
func Differences() []Difference {
	return []Difference{
		{
			ID:   "self-traffic",
			What: "cyclonus holds traffic of a pod with itself against the policies.",
			API:  "Other pods that are allowed (exception: a pod cannot block access to itself)", Reference: conceptPage,
			Explains: func(c Case) bool { return c.Query.Source.Pod != "" && c.Query.Source == c.Query.Destination },
		},
		{
			ID:   "not-in-without-the-key",
			What: "cyclonus takes NotIn not to match an object that lacks the key.",
			API:  "The operator is DoesNotExist or NotIn and Labels does not have the Requirement's key.", Reference: selectorPage,
			Source: "k8s.io/apimachinery/pkg/labels/selector.go",
			Explains: func(c Case) bool {
				return c.anySelector(func(s metav1.LabelSelector) bool {
					return slices.ContainsFunc(s.MatchExpressions, func(r metav1.LabelSelectorRequirement) bool {
						return r.Operator == metav1.LabelSelectorOpNotIn
					})
				})
			},
		},
		{
			ID:   "empty-value-without-the-key",
			What: "cyclonus takes matchLabels with an empty value to match an object that lacks the key.",
			API: "A single {key,value} in the matchLabels map is equivalent to an element of matchExpressions, whose key field is \"key\", the operator is \"In\", " +
				"and the values array contains only \"value\".",
			Reference: selectorPage, Source: "k8s.io/apimachinery/pkg/apis/meta/v1/types.go",
			Explains: func(c Case) bool {
				return c.anySelector(func(s metav1.LabelSelector) bool {
					for _, v := range s.MatchLabels {
						if v == "" {
							return true
						}
					}
					return false
				})
			},
		},
		{
			ID:   "two-names-for-one-port",
			What: "cyclonus' question carries one port name, so a policy that names the pod's other name for the same port does not match.",
			API: "This can either be a numerical or named port on a pod. If this field is not provided, this matches all port names and numbers. " +
				"If present, only traffic on the specified protocol AND port will be matched.",
			Reference: apiReference, Source: "k8s.io/api/networking/v1/types.go",
			Explains: func(c Case) bool {
				return slices.ContainsFunc(c.World.Pods, func(p reach.Pod) bool {
					return p.Name == c.Query.Destination.Pod && p.Namespace == c.Query.Destination.Namespace && len(portNames(p, c.Query)) > 1
				})
			},
		},
		{
			ID:   "host-network",
			What: "cyclonus does not know hostNetwork pods and judges them as any other.",
			API:  "Note that host-networked pods are not included in this type of peer.", Reference: conceptPage,
			Source: "sigs.k8s.io/network-policy-api/apis/v1alpha2/clusternetworkpolicy_types.go",
			Explains: func(c Case) bool {
				return slices.ContainsFunc(c.World.Pods, func(p reach.Pod) bool { return p.HostNetwork })
			},
		},
	}
}

// explained is the first difference that explains the case, if any does.
func explained(c Case) (Difference, bool) {
	for _, d := range Differences() {
		if d.Explains(c) {
			return d, true
		}
	}
	return Difference{}, false
}

// anySelector tells whether any label selector of the policies is such.
func (c Case) anySelector(is func(metav1.LabelSelector) bool) bool {
	peers := func(list []networkingv1.NetworkPolicyPeer) bool {
		return slices.ContainsFunc(list, func(p networkingv1.NetworkPolicyPeer) bool {
			return p.PodSelector != nil && is(*p.PodSelector) || p.NamespaceSelector != nil && is(*p.NamespaceSelector)
		})
	}
	return slices.ContainsFunc(c.Policies, func(p networkingv1.NetworkPolicy) bool {
		return is(p.Spec.PodSelector) ||
			slices.ContainsFunc(p.Spec.Ingress, func(r networkingv1.NetworkPolicyIngressRule) bool { return peers(r.From) }) ||
			slices.ContainsFunc(p.Spec.Egress, func(r networkingv1.NetworkPolicyEgressRule) bool { return peers(r.To) })
	})
}
