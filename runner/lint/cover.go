package lint

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

type (
	peerType = networkingv1.NetworkPolicyPeer
	portType = networkingv1.NetworkPolicyPort
)

// covered finds rules, and peers and ports within a rule, that admit nothing beyond what another of the same policy admits. It holds
// whatever the world: only what follows from the text counts.
func (c *checker) covered(rules []rule) {
	for i := range rules {
		a := &rules[i]
		by := slices.IndexFunc(rules, func(b rule) bool { return b.field != a.field && b.list == a.list && coversRule(&b, a) })
		if by >= 0 && (by < i || !coversRule(a, &rules[by])) { // of two equal rules only the second is told
			word := "covers it"
			if coversRule(a, &rules[by]) {
				word = "is the same"
			}
			c.add(a.policy, ruleCovered, a.field, fmt.Sprintf("the rule admits nothing of its own: %s %s", rules[by].field, word), "remove one of the two")
			continue
		}
		for j := range a.peers {
			k := slices.IndexFunc(a.peers, func(p peerType) bool { return coversPeer(&p, &a.peers[j]) })
			if k < 0 || k == j || k > j && coversPeer(&a.peers[j], &a.peers[k]) || c.told(a, j, k) {
				continue
			}
			c.add(a.policy, ruleCovered, a.at(j), fmt.Sprintf("the peer admits nothing of its own: %s[%d] covers it", a.list, k), "remove one of the two")
		}
		for j := range a.ports {
			k := slices.IndexFunc(a.ports, func(p portType) bool { return coversPort(&p, &a.ports[j]) })
			if k < 0 || k == j || k > j && coversPort(&a.ports[j], &a.ports[k]) {
				continue
			}
			c.add(a.policy, ruleCovered, fmt.Sprintf("%s.ports[%d]", a.field, j), fmt.Sprintf("the port admits nothing of its own: ports[%d] covers it", k), "remove one of the two")
		}
	}
}

// told tells whether two peers are a finding of the rule about unions already, which says more.
func (c *checker) told(r *rule, j, k int) bool {
	second := r.at(max(j, k))
	return slices.ContainsFunc(c.findings, func(f Finding) bool {
		return f.Rule == selectorUnion && f.Subject == "policy "+r.policy.Name() && f.Field == second
	})
}

// coversRule tells whether wide admits everything that narrow does.
func coversRule(wide, narrow *rule) bool {
	peers := len(wide.peers) == 0 || len(narrow.peers) > 0 && !slices.ContainsFunc(narrow.peers, func(n peerType) bool {
		return !slices.ContainsFunc(wide.peers, func(w peerType) bool { return coversPeer(&w, &n) })
	})
	return peers && (len(wide.ports) == 0 || len(narrow.ports) > 0 && !slices.ContainsFunc(narrow.ports, func(n portType) bool {
		return !slices.ContainsFunc(wide.ports, func(w portType) bool { return coversPort(&w, &n) })
	}))
}

func coversPeer(wide, narrow *peerType) bool {
	if wide.IPBlock != nil || narrow.IPBlock != nil {
		return wide.IPBlock != nil && narrow.IPBlock != nil && coversBlock(wide.IPBlock, narrow.IPBlock)
	}
	switch {
	case wide.NamespaceSelector == nil && narrow.NamespaceSelector != nil:
		return false // the policy's own namespace, whose labels the text does not give
	case wide.NamespaceSelector != nil && narrow.NamespaceSelector == nil && !isEmpty(wide.NamespaceSelector):
		return false
	case wide.NamespaceSelector != nil && narrow.NamespaceSelector != nil && !coversSelector(wide.NamespaceSelector, narrow.NamespaceSelector):
		return false
	}
	return isEmpty(wide.PodSelector) || narrow.PodSelector != nil && coversSelector(wide.PodSelector, narrow.PodSelector)
}

// coversSelector tells whether each requirement of wide follows from one of narrow's.
func coversSelector(wide, narrow *metav1.LabelSelector) bool {
	for _, w := range requirements(wide) {
		if !slices.ContainsFunc(requirements(narrow), func(n metav1.LabelSelectorRequirement) bool { return implies(n, w) }) {
			return false
		}
	}
	return true
}

func requirements(s *metav1.LabelSelector) []metav1.LabelSelectorRequirement {
	out := slices.Clone(s.MatchExpressions)
	for k, v := range s.MatchLabels {
		out = append(out, metav1.LabelSelectorRequirement{Key: k, Operator: metav1.LabelSelectorOpIn, Values: []string{v}})
	}
	return out
}

// implies tells whether whatever meets n meets w, too.
func implies(n, w metav1.LabelSelectorRequirement) bool {
	if n.Key != w.Key {
		return false
	}
	subset := func(a, b []string) bool {
		return !slices.ContainsFunc(a, func(v string) bool { return !slices.Contains(b, v) })
	}
	switch w.Operator {
	case metav1.LabelSelectorOpIn:
		return n.Operator == metav1.LabelSelectorOpIn && subset(n.Values, w.Values)
	case metav1.LabelSelectorOpExists:
		return n.Operator == metav1.LabelSelectorOpIn || n.Operator == metav1.LabelSelectorOpExists
	case metav1.LabelSelectorOpDoesNotExist:
		return n.Operator == metav1.LabelSelectorOpDoesNotExist
	case metav1.LabelSelectorOpNotIn:
		switch n.Operator {
		case metav1.LabelSelectorOpNotIn:
			return subset(w.Values, n.Values)
		case metav1.LabelSelectorOpIn:
			return !slices.ContainsFunc(n.Values, func(v string) bool { return slices.Contains(w.Values, v) })
		default:
			return n.Operator == metav1.LabelSelectorOpDoesNotExist
		}
	default:
		return false
	}
}

func coversBlock(wide, narrow *networkingv1.IPBlock) bool {
	inner := prefix(narrow.CIDR)
	if !within(inner, prefix(wide.CIDR)) {
		return false
	}
	for _, e := range wide.Except { // what wide leaves out, narrow must leave out or not hold at all
		out := prefix(e)
		if out.Overlaps(inner) && !slices.ContainsFunc(narrow.Except, func(s string) bool { return within(out, prefix(s)) }) {
			return false
		}
	}
	return true
}

func coversPort(wide, narrow *portType) bool {
	if protocolOf(wide) != protocolOf(narrow) {
		return false
	}
	if wide.Port == nil {
		return true
	}
	if narrow.Port == nil || wide.Port.Type != narrow.Port.Type {
		return false
	}
	if wide.Port.Type == intstr.String {
		return wide.Port.StrVal == narrow.Port.StrVal
	}
	wideFirst, wideLast := portRange(wide)
	first, last := portRange(narrow)
	return wideFirst <= first && last <= wideLast
}

func protocolOf(p *portType) corev1.Protocol {
	if p.Protocol == nil {
		return corev1.ProtocolTCP
	}
	return *p.Protocol
}

// portRange is the first and last number of a port that is one.
func portRange(p *portType) (first, last int32) {
	first = p.Port.IntVal
	if p.EndPort != nil {
		return first, *p.EndPort
	}
	return first, first
}
