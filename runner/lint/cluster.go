package lint

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	npav1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/gapproof/gapproof/runner/manifest"
)

// clusterSubject begins the subject of findings about ClusterNetworkPolicies.
const clusterSubject = "ClusterNetworkPolicy "

// clusterRule is one item of ingress or egress of a ClusterNetworkPolicy; its peers are those of egress, which have every field of the others.
type clusterRule struct {
	field, list string
	action      npav1alpha2.ClusterNetworkPolicyRuleAction
	peers       []npav1alpha2.ClusterNetworkPolicyEgressPeer
	protocols   []npav1alpha2.ClusterNetworkPolicyProtocol
}

// clusterRules are the rules of each direction, in the order in which they are asked.
func clusterRules(p *manifest.ClusterPolicy) [2][]clusterRule {
	var out [2][]clusterRule
	for i, r := range p.Spec.Spec.Ingress {
		rule := clusterRule{field: fmt.Sprintf("spec.ingress[%d]", i), list: "from", action: r.Action, protocols: r.Protocols}
		for _, peer := range r.From {
			rule.peers = append(rule.peers, npav1alpha2.ClusterNetworkPolicyEgressPeer{Namespaces: peer.Namespaces, Pods: peer.Pods})
		}
		out[0] = append(out[0], rule)
	}
	for i, r := range p.Spec.Spec.Egress {
		out[1] = append(out[1], clusterRule{fmt.Sprintf("spec.egress[%d]", i), "to", r.Action, r.To, r.Protocols})
	}
	return out
}

func (c *checker) addCluster(p *manifest.ClusterPolicy, rule, field, message, hint string) {
	if slices.Contains(exemptions(p.Spec.Annotations), rule) {
		return
	}
	c.findings = append(c.findings, Finding{
		Rule: rule, Severity: severityOf(rule), Place: p.Place(field), Subject: clusterSubject + p.Spec.Name, Field: field, Message: message, Hint: hint,
	})
}

// clusterPolicies holds every ClusterNetworkPolicy against the rules that concern it.
func (c *checker) clusterPolicies() {
	subjects := make([][]int, len(c.set.Cluster))
	for i := range c.set.Cluster {
		p := &c.set.Cluster[i]
		unknownExemptions(p.Spec.Annotations, func(field, message, hint string) { c.addCluster(p, ignoreUnknown, field, message, hint) })
		subject := p.Spec.Spec.Subject
		subjects[i] = c.selected(subject.Namespaces, subject.Pods)
		if c.knowsPods() && len(subjects[i]) == 0 {
			c.addCluster(p, selectsNothing, "spec.subject", "the subject selects no pod: the policy decides about nothing", "hold its selectors against the labels of namespaces and pods")
		}
		for _, rules := range clusterRules(p) {
			for n := range rules {
				c.clusterPeers(p, &rules[n])
				if by := slices.IndexFunc(rules[:n], func(earlier clusterRule) bool { return earlier.covers(&rules[n]) }); by >= 0 {
					c.addCluster(p, ruleUnreachable, rules[n].field, fmt.Sprintf("the rule is never asked: %s (%s) matches all of it first", rules[by].field, rules[by].action),
						"move it before that rule, or remove it")
				}
			}
		}
		for j := range i {
			c.rivals(&c.set.Cluster[j], p, subjects[j], subjects[i])
		}
	}
}

// selected are the pods of a subject or a peer.
func (c *checker) selected(namespaces *metav1.LabelSelector, pods *npav1alpha2.NamespacedPod) []int {
	var out []int
	if pods != nil {
		namespaces = &pods.NamespaceSelector
	}
	for _, name := range c.matchingNamespaces(namespaces) {
		out = append(out, c.members[name]...)
	}
	if pods != nil {
		out = c.matching(out, pods.PodSelector)
	}
	return out
}

// clusterPeers finds peers that match nothing. Namespaces may be empty still, as for NetworkPolicies.
func (c *checker) clusterPeers(p *manifest.ClusterPolicy, r *clusterRule) {
	if !c.knowsPods() {
		return
	}
	for i, peer := range r.peers {
		at := fmt.Sprintf("%s.%s[%d]", r.field, r.list, i)
		switch {
		case peer.Namespaces != nil && len(c.matchingNamespaces(peer.Namespaces)) == 0:
			c.addCluster(p, peerNothing, at+".namespaces", fmt.Sprintf("namespaces %s matches no namespace", text(peer.Namespaces)), "")
		case peer.Pods != nil && len(c.matchingNamespaces(&peer.Pods.NamespaceSelector)) == 0:
			c.addCluster(p, peerNothing, at+".pods.namespaceSelector", fmt.Sprintf("namespaceSelector %s matches no namespace", text(&peer.Pods.NamespaceSelector)), "")
		case peer.Pods != nil && !isEmpty(&peer.Pods.PodSelector) && len(c.selected(nil, peer.Pods)) == 0:
			c.addCluster(p, peerNothing, at+".pods.podSelector", fmt.Sprintf("podSelector %s matches no pod of the namespaces that match", text(&peer.Pods.PodSelector)), "")
		}
	}
}

// rivals finds two policies of one tier and one priority with a pod in common, in a direction that both have rules for.
func (c *checker) rivals(a, b *manifest.ClusterPolicy, ofA, ofB []int) {
	x, y := a.Spec.Spec, b.Spec.Spec
	if x.Tier != y.Tier || x.Priority != y.Priority {
		return
	}
	if !(len(x.Ingress) > 0 && len(y.Ingress) > 0 || len(x.Egress) > 0 && len(y.Egress) > 0) {
		return
	}
	common := slices.IndexFunc(ofA, func(pod int) bool { return slices.Contains(ofB, pod) })
	if common < 0 {
		return
	}
	pod := &c.set.World.Pods[ofA[common]]
	c.addCluster(b, priorityShared, "spec.priority",
		fmt.Sprintf("priority %d of tier %s is that of %s too, and both have %s/%s for a subject: where they disagree either may decide", y.Priority, y.Tier, a.Spec.Name, pod.Namespace, pod.Name),
		"give one of them another priority")
}

// covers tells whether the rule matches whatever a later one does, as far as it shows from how they are written.
func (r *clusterRule) covers(later *clusterRule) bool {
	for i := range later.peers {
		if !slices.ContainsFunc(r.peers, func(p npav1alpha2.ClusterNetworkPolicyEgressPeer) bool { return coversClusterPeer(&p, &later.peers[i]) }) {
			return false
		}
	}
	if len(r.protocols) == 0 {
		return true
	}
	if len(later.protocols) == 0 {
		return false
	}
	for i := range later.protocols {
		if !slices.ContainsFunc(r.protocols, func(p npav1alpha2.ClusterNetworkPolicyProtocol) bool { return coversProtocol(&p, &later.protocols[i]) }) {
			return false
		}
	}
	return true
}

func coversClusterPeer(wide, narrow *npav1alpha2.ClusterNetworkPolicyEgressPeer) bool {
	switch {
	case reflect.DeepEqual(wide, narrow):
		return true
	case wide.Namespaces != nil && narrow.Namespaces != nil:
		return isEmpty(wide.Namespaces)
	case wide.Namespaces != nil && narrow.Pods != nil:
		return isEmpty(wide.Namespaces) || reflect.DeepEqual(*wide.Namespaces, narrow.Pods.NamespaceSelector)
	case wide.Pods != nil && isEmpty(&wide.Pods.PodSelector):
		return coversClusterPeer(&npav1alpha2.ClusterNetworkPolicyEgressPeer{Namespaces: &wide.Pods.NamespaceSelector}, narrow)
	case wide.Nodes != nil && narrow.Nodes != nil:
		return isEmpty(wide.Nodes)
	case wide.Networks != nil && narrow.Networks != nil:
		return !slices.ContainsFunc(narrow.Networks, func(n npav1alpha2.CIDR) bool {
			return !slices.ContainsFunc(wide.Networks, func(w npav1alpha2.CIDR) bool { return coversNetwork(w, n) })
		})
	default:
		return false
	}
}

func coversNetwork(wide, narrow npav1alpha2.CIDR) bool {
	w, err1 := netip.ParsePrefix(string(wide))
	n, err2 := netip.ParsePrefix(string(narrow))
	return err1 == nil && err2 == nil && w.Bits() <= n.Bits() && w.Masked().Contains(n.Addr())
}

func coversProtocol(wide, narrow *npav1alpha2.ClusterNetworkPolicyProtocol) bool {
	if reflect.DeepEqual(wide, narrow) {
		return true
	}
	w, n := destinationPorts(wide), destinationPorts(narrow)
	for i := range w {
		if w[i] == nil || n[i] == nil {
			continue
		}
		wideFrom, wideTo := ends(w[i])
		from, to := ends(n[i])
		return wideFrom <= from && to <= wideTo
	}
	return false
}

// destinationPorts are the ports of TCP, UDP and SCTP, of which one is written.
func destinationPorts(p *npav1alpha2.ClusterNetworkPolicyProtocol) (out [3]*npav1alpha2.Port) {
	if p.TCP != nil {
		out[0] = p.TCP.DestinationPort
	}
	if p.UDP != nil {
		out[1] = p.UDP.DestinationPort
	}
	if p.SCTP != nil {
		out[2] = p.SCTP.DestinationPort
	}
	return out
}

func ends(p *npav1alpha2.Port) (from, to int32) {
	if p.Range != nil {
		return p.Range.Start, p.Range.End
	}
	return p.Number, p.Number
}
