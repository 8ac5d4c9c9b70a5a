package plan

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	npav1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/scenarios"
)

// maxObjectName is the longest name the API server takes for a cluster-scoped object: a DNS subdomain, RFC 1123.
const maxObjectName = 253

// putCluster brings one ClusterNetworkPolicy into effect.
func (b *builder) putCluster(st *state, field string, p scenarios.ClusterPolicy) (Change, bool) {
	spec, err := scenarios.SubstituteCluster(p.Spec, b.address)
	if err != nil {
		b.faultf("%s: %w", field, err)
		return Change{}, false
	}
	policy := reach.ClusterPolicy{Spec: b.names.clusterPolicy(spec), File: p.File, Line: p.Line}
	if len(policy.Spec.Name) > maxObjectName {
		b.faultf("%s: policy %q is longer than %d characters with its prefix", field, policy.Spec.Name, maxObjectName)
		return Change{}, false
	}
	st.cluster[policy.Spec.Name] = policy
	return Change{ApplyCluster: &policy}, true
}

func (b *builder) replaceCluster(st *state, w scenarios.Step, path string) []Change {
	replacing := w.ReplacingCluster
	if len(replacing) == 0 {
		for _, spec := range w.ReplaceCluster {
			replacing = append(replacing, scenarios.ClusterPolicy{Spec: spec, File: b.scenario.File})
		}
	}
	var changes []Change
	for i, p := range replacing {
		field := fmt.Sprintf("%s.replaceCluster[%d]", path, i)
		if _, ok := st.cluster[b.names.clusterScoped(p.Spec.Name)]; !ok {
			b.faultf("%s: policy %q is not in effect, so there is nothing to replace", field, p.Spec.Name)
			continue
		}
		if c, ok := b.putCluster(st, field, p); ok {
			changes = append(changes, c)
		}
	}
	return changes
}

// loadedCluster is what loading gathered; a scenario that was not loaded but written in Go has those in Cluster.
func loadedCluster(s *scenarios.Scenario) []scenarios.ClusterPolicy {
	if len(s.Policies.LoadedCluster) > 0 {
		return s.Policies.LoadedCluster
	}
	var policies []scenarios.ClusterPolicy
	for _, spec := range s.Policies.Cluster {
		policies = append(policies, scenarios.ClusterPolicy{Spec: spec, File: s.File})
	}
	return policies
}

// clusterScoped is the cluster's name of an object without a namespace.
func (n names) clusterScoped(name string) string { return n.prefix + name }

// clusterPolicy is a copy of p with the cluster's names, whose subject is narrowed to the world: an object of the cluster's would else rule
// every namespace there is, the beacons', the resolver's and other people's included.
func (n names) clusterPolicy(p npav1alpha2.ClusterNetworkPolicy) npav1alpha2.ClusterNetworkPolicy {
	c := *p.DeepCopy()
	c.Name = n.clusterScoped(c.Name)
	subject := &c.Spec.Subject
	n.clusterPeer(subject.Namespaces, subject.Pods)
	switch {
	case subject.Namespaces != nil:
		n.narrow(subject.Namespaces)
	case subject.Pods != nil:
		n.narrow(&subject.Pods.NamespaceSelector)
	}
	for i := range c.Spec.Ingress {
		for j := range c.Spec.Ingress[i].From {
			peer := &c.Spec.Ingress[i].From[j]
			n.clusterPeer(peer.Namespaces, peer.Pods)
		}
	}
	for i := range c.Spec.Egress {
		for j := range c.Spec.Egress[i].To {
			peer := &c.Spec.Egress[i].To[j]
			n.clusterPeer(peer.Namespaces, peer.Pods)
		}
	}
	return c
}

func (n names) clusterPeer(namespaces *metav1.LabelSelector, pods *npav1alpha2.NamespacedPod) {
	n.selector(namespaces)
	if pods != nil {
		n.selector(&pods.NamespaceSelector)
	}
}

// narrow makes a selector of namespaces match none but the world's. It goes by name and not by the run's label: the API server sets that
// label of a namespace and lets nobody change it, and a namespace of a name of the world's is the run's own, or the run had been refused.
func (n names) narrow(s *metav1.LabelSelector) {
	var own []string
	for _, name := range slices.Sorted(maps.Keys(n.own)) {
		own = append(own, n.namespace(name))
	}
	s.MatchExpressions = append(s.MatchExpressions, metav1.LabelSelectorRequirement{
		Key: corev1.LabelMetadataName, Operator: metav1.LabelSelectorOpIn, Values: own,
	})
}

// isSubject tells whether a subject selects the pod. A selector that cannot be read was refused by the engine already.
func isSubject(s npav1alpha2.ClusterNetworkPolicySubject, ns reach.Namespace, pod reach.Pod) bool {
	if pod.HostNetwork {
		return false
	}
	named := labels.Set(cloneLabels(ns.Labels))
	named[corev1.LabelMetadataName] = ns.Name
	matches := func(s *metav1.LabelSelector, l labels.Set) bool {
		selector, err := metav1.LabelSelectorAsSelector(s)
		return err == nil && selector.Matches(l)
	}
	switch {
	case s.Namespaces != nil:
		return matches(s.Namespaces, named)
	case s.Pods != nil:
		return matches(&s.Pods.NamespaceSelector, named) && matches(&s.Pods.PodSelector, labels.Set(pod.Labels))
	default:
		return false
	}
}
