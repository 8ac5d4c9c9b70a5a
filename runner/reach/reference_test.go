package reach

import (
	"net"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// reference answers queries straight from the text of the API, one sentence at a time, with apimachinery's selectors and the net package: it
// shares no code with the engine and remembers nothing between two queries. It knows pods of the world at both ends only.
type reference struct {
	world    World
	policies []Policy
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
	return !isolated
}

func (r reference) ingress(source, destination Pod, protocol corev1.Protocol, port uint16) bool {
	// "OR if the traffic source is the pod's local node"
	if source.HostNetwork && source.Node != "" && source.Node == destination.Node {
		return true
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
	return !isolated
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
