package manifest

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	npav1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/scenarios"
)

// Of is the set that objects of manifests make. When no kube-system is among them, the world gets one with the resolver's pod as CoreDNS has
// it, because nearly every policy speaks about it and hardly any directory holds it.
func Of(objects []scenarios.Object) *Set {
	m := maker{set: &Set{Places: map[string]Place{}}, labels: map[string]map[string]string{}, last: inventedRange.Addr()}
	for _, o := range objects {
		m.object(o)
	}
	m.finish()
	return m.set
}

// maker is one call of Of.
type maker struct {
	set      *Set
	labels   map[string]map[string]string // of namespaces; nil for one that is only named in passing
	last     netip.Addr                   // the last invented address
	invented int
}

func (m *maker) object(o scenarios.Object) {
	switch api := o.API.(type) {
	case *corev1.Namespace:
		m.set.Places[api.Name] = o.Place
		m.labels[api.Name] = api.Labels
	case *corev1.Pod:
		m.pod(o, api)
	case *corev1.Service:
		m.set.Services = append(m.set.Services, ServiceOf(api))
	case *networkingv1.NetworkPolicy:
		m.set.Policies = append(m.set.Policies, Policy{Policy: reach.Policy{Spec: *api, File: o.File, Line: o.Line}, Lines: o.Lines})
	case *npav1alpha2.ClusterNetworkPolicy:
		m.set.Cluster = append(m.set.Cluster, ClusterPolicy{ClusterPolicy: reach.ClusterPolicy{Spec: *api, File: o.File, Line: o.Line}, Lines: o.Lines})
	}
}

func (m *maker) pod(o scenarios.Object, api *corev1.Pod) {
	p := PodOf(api.Namespace, api.Name, api.Labels, api.Spec, api.Status)
	for m.taken(p) { // a Deployment and a Job may share a name
		p.Name += "-" + strings.ToLower(o.Kind)
	}
	if _, known := m.labels[p.Namespace]; !known {
		m.labels[p.Namespace] = nil
	}
	m.set.Places[p.Namespace+"/"+p.Name] = o.Place
	m.set.Pods = SomePods
	if len(p.IPs) == 0 {
		p.IPs = []netip.Addr{m.invent()}
	}
	m.set.World.Pods = append(m.set.World.Pods, p)
}

func (m *maker) taken(p reach.Pod) bool {
	_, taken := m.set.Places[p.Namespace+"/"+p.Name]
	return taken
}

func (m *maker) invent() netip.Addr {
	m.invented++
	if next := m.last.Next(); inventedRange.Contains(next) {
		m.last = next // else the last one stands for all the rest: no directory has 131 072 workloads
	}
	return m.last
}

// PodOf is what policies can see of a pod.
func PodOf(namespace, name string, labels map[string]string, spec corev1.PodSpec, status corev1.PodStatus) reach.Pod {
	p := reach.Pod{Namespace: namespace, Name: name, Labels: labels, Node: spec.NodeName, HostNetwork: spec.HostNetwork}
	containers := slices.Clone(spec.Containers)
	for _, c := range spec.InitContainers { // sidecars listen as long as the pod lives, the others never to any purpose
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			containers = append(containers, c)
		}
	}
	for _, c := range containers {
		for _, port := range c.Ports {
			if port.ContainerPort < 1 || port.ContainerPort > maxPort {
				continue
			}
			protocol := port.Protocol
			if protocol == "" {
				protocol = corev1.ProtocolTCP
			}
			p.Ports = append(p.Ports, reach.Port{Name: port.Name, Protocol: protocol, Port: uint16(port.ContainerPort)})
		}
	}
	ips := status.PodIPs
	if len(ips) == 0 && status.PodIP != "" {
		ips = []corev1.PodIP{{IP: status.PodIP}}
	}
	for _, ip := range ips {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			p.IPs = append(p.IPs, a)
		}
	}
	return p
}

// ServiceOf is what matters to policies of a Service.
func ServiceOf(s *corev1.Service) Service {
	out := Service{Namespace: s.Namespace, Name: s.Name, Selector: s.Spec.Selector, UnreadyToo: s.Spec.PublishNotReadyAddresses}
	for _, p := range s.Spec.Ports {
		if p.Port < 1 || p.Port > maxPort {
			continue
		}
		port := ServicePort{Name: p.Name, Protocol: p.Protocol, Port: uint16(p.Port), Target: p.TargetPort}
		if port.Protocol == "" {
			port.Protocol = corev1.ProtocolTCP
		}
		if port.Target == (intstr.IntOrString{}) {
			port.Target = intstr.FromInt32(p.Port)
		}
		out.Ports = append(out.Ports, port)
	}
	return out
}

const resolverNamespace = metav1.NamespaceSystem

func (m *maker) finish() {
	if _, known := m.labels[resolverNamespace]; !known {
		m.labels[resolverNamespace] = nil
		const dnsPort = 53
		m.set.World.Pods = append(m.set.World.Pods, reach.Pod{
			Namespace: resolverNamespace, Name: "coredns", Labels: map[string]string{"k8s-app": "kube-dns"}, IPs: []netip.Addr{m.invent()},
			Ports: []reach.Port{{Name: "dns", Protocol: corev1.ProtocolUDP, Port: dnsPort}, {Name: "dns-tcp", Protocol: corev1.ProtocolTCP, Port: dnsPort}},
		})
		m.invented--
	}
	for _, name := range slices.Sorted(maps.Keys(m.labels)) {
		m.set.World.Namespaces = append(m.set.World.Namespaces, reach.Namespace{Name: name, Labels: m.labels[name]})
	}
	if m.invented == 0 && m.set.Pods == SomePods {
		m.set.Addresses = Real
	}
}
