package plan

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gapproof/gapproof/scenarios"
)

// maxNamespaceName is the longest name the API server takes for a namespace: a DNS label, RFC 1123.
const maxNamespaceName = 63

// names turns the namespace names of one world into the cluster's.
type names struct {
	prefix string
	own    map[string]bool
}

func newNames(w scenarios.World, prefix string) names {
	n := names{prefix: prefix, own: make(map[string]bool, len(w.Namespaces))}
	for _, ns := range w.Namespaces {
		n.own[ns.Name] = true
	}
	return n
}

// namespace is the cluster's name of a namespace; one that the world does not have keeps its name.
func (n names) namespace(name string) string {
	if n.own[name] {
		return n.prefix + name
	}
	return name
}

// policy is a copy of p with the cluster's names: its own namespace, and those its namespaceSelectors name.
func (n names) policy(p networkingv1.NetworkPolicy) networkingv1.NetworkPolicy {
	c := *p.DeepCopy()
	c.Namespace = n.namespace(c.Namespace)
	if n.prefix == "" {
		return c
	}
	for i := range c.Spec.Ingress {
		n.peers(c.Spec.Ingress[i].From)
	}
	for i := range c.Spec.Egress {
		n.peers(c.Spec.Egress[i].To)
	}
	return c
}

func (n names) peers(peers []networkingv1.NetworkPolicyPeer) {
	for i := range peers {
		n.selector(peers[i].NamespaceSelector)
	}
}

// selector rewrites, in place, the values that name namespaces. In and NotIn keep their meaning because renaming is one to one;
// Exists and DoesNotExist have no values.
func (n names) selector(s *metav1.LabelSelector) {
	if s == nil {
		return
	}
	if v, ok := s.MatchLabels[corev1.LabelMetadataName]; ok {
		s.MatchLabels[corev1.LabelMetadataName] = n.namespace(v)
	}
	for i := range s.MatchExpressions {
		e := &s.MatchExpressions[i]
		if e.Key != corev1.LabelMetadataName {
			continue
		}
		for j := range e.Values {
			e.Values[j] = n.namespace(e.Values[j])
		}
	}
}
