package reach

import (
	"net"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	npav1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// reference answers queries straight from the text of the API, one sentence at a time, with apimachinery's selectors and the net package: it
// shares no code with the engine and remembers nothing between two queries. It knows pods of the world at both ends only.
type reference struct {
	world    World
	policies []Policy
	cluster  []ClusterPolicy
}

func (r reference) decide(source, destination Pod, protocol corev1.Protocol, port uint16) Verdict {
	// "a pod cannot block access to itself"
	if source.Namespace == destination.Namespace && source.Name == destination.Name {
		return Allow
	}
	if r.egress(source, destination, protocol, port) && r.ingress(source, destination, protocol, port) {
		return Allow
	}
	return Deny
}

func (r reference) egress(source, destination Pod, protocol corev1.Protocol, port uint16) bool {
	// "If Admin tier has made a final decision (Accept or Deny) on a connection, then no further evaluation is done."
	switch r.clusterEgress(npav1alpha2.AdminTier, source, destination, protocol, port) {
	case npav1alpha2.ClusterNetworkPolicyRuleActionAccept:
		return true
	case npav1alpha2.ClusterNetworkPolicyRuleActionDeny:
		return false
	}
	isolated := false
	for _, p := range r.policies {
		// "Any policy that does not specify policyTypes implies at least Ingress", Egress if there are egress rules.
		spec := p.Spec.Spec
		applies := slices.Contains(spec.PolicyTypes, networkingv1.PolicyTypeEgress) || len(spec.PolicyTypes) == 0 && len(spec.Egress) > 0
		if !applies || !r.selects(p, source) {
			continue
		}
		isolated = true
		for _, rule := range spec.Egress {
			if r.anyPeer(p, rule.To, destination) && anyPort(rule.Ports, destination, protocol, port) {
				return true
			}
		}
	}
	// "Further evaluation only happens for Pods not selected by a v1.NetworkPolicy."
	return !isolated && r.clusterEgress(npav1alpha2.BaselineTier, source, destination, protocol, port) != npav1alpha2.ClusterNetworkPolicyRuleActionDeny
}

func (r reference) ingress(source, destination Pod, protocol corev1.Protocol, port uint16) bool {
	// "OR if the traffic source is the pod's local node"
	if source.HostNetwork && source.Node != "" && source.Node == destination.Node {
		return true
	}
	switch r.clusterIngress(npav1alpha2.AdminTier, source, destination, protocol, port) {
	case npav1alpha2.ClusterNetworkPolicyRuleActionAccept:
		return true
	case npav1alpha2.ClusterNetworkPolicyRuleActionDeny:
		return false
	}
	isolated := false
	for _, p := range r.policies {
		spec := p.Spec.Spec
		applies := slices.Contains(spec.PolicyTypes, networkingv1.PolicyTypeIngress) || len(spec.PolicyTypes) == 0
		if !applies || !r.selects(p, destination) {
			continue
		}
		isolated = true
		for _, rule := range spec.Ingress {
			if r.anyPeer(p, rule.From, source) && anyPort(rule.Ports, destination, protocol, port) {
				return true
			}
		}
	}
	return !isolated && r.clusterIngress(npav1alpha2.BaselineTier, source, destination, protocol, port) != npav1alpha2.ClusterNetworkPolicyRuleActionDeny
}

// ordered are the policies of a tier: "policies with lower priority values have higher precedence"; the name decides between equals.
func (r reference) ordered(tier npav1alpha2.Tier) []npav1alpha2.ClusterNetworkPolicySpec {
	var of []ClusterPolicy
	for _, p := range r.cluster {
		if p.Spec.Spec.Tier == tier {
			of = append(of, p)
		}
	}
	slices.SortFunc(of, func(a, b ClusterPolicy) int {
		if a.Spec.Spec.Priority != b.Spec.Spec.Priority {
			return int(a.Spec.Spec.Priority - b.Spec.Spec.Priority)
		}
		return strings.Compare(a.Spec.Name, b.Spec.Name)
	})
	var out []npav1alpha2.ClusterNetworkPolicySpec
	for _, p := range of {
		out = append(out, p.Spec.Spec)
	}
	return out
}

// clusterEgress is the action of the tier's first rule that matches, empty when none does.
func (r reference) clusterEgress(tier npav1alpha2.Tier, source, destination Pod, protocol corev1.Protocol, port uint16) npav1alpha2.ClusterNetworkPolicyRuleAction {
	for _, spec := range r.ordered(tier) {
		if !r.clusterSelects(spec.Subject.Namespaces, spec.Subject.Pods, source) {
			continue
		}
		for _, rule := range spec.Egress {
			if !anyProtocolMatches(rule.Protocols, destination, protocol, port) {
				continue
			}
			for _, to := range rule.To {
				if r.clusterSelects(to.Namespaces, to.Pods, destination) || r.nodesMatch(to.Nodes, destination) || networksCover(to.Networks, destination) {
					return rule.Action
				}
			}
		}
	}
	return ""
}

func (r reference) clusterIngress(tier npav1alpha2.Tier, source, destination Pod, protocol corev1.Protocol, port uint16) npav1alpha2.ClusterNetworkPolicyRuleAction {
	for _, spec := range r.ordered(tier) {
		if !r.clusterSelects(spec.Subject.Namespaces, spec.Subject.Pods, destination) {
			continue
		}
		for _, rule := range spec.Ingress {
			if !anyProtocolMatches(rule.Protocols, destination, protocol, port) {
				continue
			}
			for _, from := range rule.From {
				if r.clusterSelects(from.Namespaces, from.Pods, source) {
					return rule.Action
				}
			}
		}
	}
	return ""
}

// "Note that host-networked pods are not included in subject selection", nor in these peers.
func (r reference) clusterSelects(namespaces *metav1.LabelSelector, pods *npav1alpha2.NamespacedPod, pod Pod) bool {
	if pod.HostNetwork {
		return false
	}
	if pods != nil {
		return selectorMatches(&pods.NamespaceSelector, r.namespaceLabels(pod.Namespace)) && selectorMatches(&pods.PodSelector, pod.Labels)
	}
	return namespaces != nil && selectorMatches(namespaces, r.namespaceLabels(pod.Namespace))
}

func (r reference) nodesMatch(s *metav1.LabelSelector, pod Pod) bool {
	if s == nil || len(pod.IPs) == 0 {
		return false
	}
	for _, n := range r.world.Nodes {
		if selectorMatches(s, n.Labels) && slices.Contains(n.IPs, pod.IPs[0]) {
			return true
		}
	}
	return false
}

func networksCover(networks []npav1alpha2.CIDR, pod Pod) bool {
	for _, cidr := range networks {
		if len(pod.IPs) > 0 && blockCovers(&networkingv1.IPBlock{CIDR: string(cidr)}, pod.IPs[0].String()) {
			return true
		}
	}
	return false
}

func anyProtocolMatches(protocols []npav1alpha2.ClusterNetworkPolicyProtocol, destination Pod, protocol corev1.Protocol, port uint16) bool {
	if len(protocols) == 0 {
		return true
	}
	for _, p := range protocols {
		var want *npav1alpha2.Port
		switch {
		case p.DestinationNamedPort != "":
			for _, named := range destination.Ports {
				if named.Name == p.DestinationNamedPort && named.Protocol == protocol && named.Port == port {
					return true
				}
			}
			continue
		case p.TCP != nil && protocol == corev1.ProtocolTCP:
			want = p.TCP.DestinationPort
		case p.UDP != nil && protocol == corev1.ProtocolUDP:
			want = p.UDP.DestinationPort
		case p.SCTP != nil && protocol == corev1.ProtocolSCTP:
			want = p.SCTP.DestinationPort
		default:
			continue
		}
		if want == nil || want.Number == int32(port) || want.Range != nil && want.Range.Start <= int32(port) && int32(port) <= want.Range.End {
			return true
		}
	}
	return false
}

func (r reference) selects(p Policy, pod Pod) bool {
	return !pod.HostNetwork && p.Spec.Namespace == pod.Namespace && selectorMatches(&p.Spec.Spec.PodSelector, pod.Labels)
}

func (r reference) anyPeer(p Policy, peers []networkingv1.NetworkPolicyPeer, pod Pod) bool {
	// "If this field is empty or missing, this rule matches all"
	if len(peers) == 0 {
		return true
	}
	for _, peer := range peers {
		switch {
		case peer.IPBlock != nil:
			if len(pod.IPs) > 0 && blockCovers(peer.IPBlock, pod.IPs[0].String()) {
				return true
			}
		case pod.HostNetwork:
		case peer.NamespaceSelector == nil:
			if pod.Namespace == p.Spec.Namespace && selectorMatches(peer.PodSelector, pod.Labels) {
				return true
			}
		default:
			if selectorMatches(peer.NamespaceSelector, r.namespaceLabels(pod.Namespace)) &&
				(peer.PodSelector == nil || selectorMatches(peer.PodSelector, pod.Labels)) {
				return true
			}
		}
	}
	return false
}

func (r reference) namespaceLabels(name string) map[string]string {
	out := map[string]string{}
	for _, ns := range r.world.Namespaces {
		if ns.Name == name {
			for k, v := range ns.Labels {
				out[k] = v
			}
		}
	}
	out["kubernetes.io/metadata.name"] = name
	return out
}

func selectorMatches(s *metav1.LabelSelector, set map[string]string) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		panic(err)
	}
	return selector.Matches(labels.Set(set))
}

func blockCovers(b *networkingv1.IPBlock, address string) bool {
	ip := net.ParseIP(address)
	_, cidr, err := net.ParseCIDR(b.CIDR)
	if err != nil {
		panic(err)
	}
	if !cidr.Contains(ip) {
		return false
	}
	for _, e := range b.Except {
		if _, except, err := net.ParseCIDR(e); err == nil && except.Contains(ip) {
			return false
		}
	}
	return true
}

func anyPort(ports []networkingv1.NetworkPolicyPort, destination Pod, protocol corev1.Protocol, port uint16) bool {
	if len(ports) == 0 {
		return true
	}
	for _, p := range ports {
		// "If not specified, this field defaults to TCP."
		wanted := corev1.ProtocolTCP
		if p.Protocol != nil {
			wanted = *p.Protocol
		}
		if wanted != protocol {
			continue
		}
		switch {
		case p.Port == nil: // "If this field is not provided, this matches all port names and numbers."
			return true
		case p.Port.Type == intstr.String:
			for _, named := range destination.Ports {
				if named.Name == p.Port.StrVal && named.Protocol == protocol && named.Port == port {
					return true
				}
			}
		case p.EndPort != nil:
			if int32(port) >= p.Port.IntVal && int32(port) <= *p.EndPort {
				return true
			}
		case int32(port) == p.Port.IntVal:
			return true
		}
	}
	return false
}
