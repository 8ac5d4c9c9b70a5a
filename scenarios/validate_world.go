package scenarios

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
)

// reserved are namespaces that every cluster has already; a world's namespaces are always the run's own.
func reserved() []string {
	return []string{corev1.NamespaceDefault, "kube-node-lease", "kube-public", "kube-system"}
}

// checkWorld validates a world with its defaults filled in; at is where it stands in the document.
func checkWorld(d *document, at string, w World) {
	if len(w.Namespaces) == 0 {
		hint := ""
		if at != "" {
			hint = "write the namespaces out, or name a World in world.file"
		}
		d.fault(child(at, "namespaces"), nil, hint, "is missing")
	}
	names := map[string]struct{}{}
	for i, ns := range w.Namespaces {
		nsAt := item(child(at, "namespaces"), i)
		if d.dnsLabel(nsAt+".name", ns.Name) {
			if slices.Contains(reserved(), ns.Name) {
				d.fault(nsAt+".name", ns.Name, "choose a name of your own", "namespace %s belongs to the cluster", ns.Name)
			}
			if _, twice := names[ns.Name]; twice {
				d.fault(nsAt+".name", ns.Name, "", "namespace %s is given twice", ns.Name)
			}
			names[ns.Name] = struct{}{}
		}
		d.labels(nsAt+".labels", ns.Labels)
		if value, set := ns.Labels[corev1.LabelMetadataName]; set && value != ns.Name {
			d.fault(entry(nsAt+".labels", corev1.LabelMetadataName), value, "leave it out", "%s is not the namespace's name: the API server sets this label", value)
		}
		d.checkPods(nsAt, ns)
	}
	d.checkHostPorts(at, w)
	d.checkServices(at, w)
	d.checkReach(child(at, "reach"), w)
}

func (d *document) checkPods(at string, ns Namespace) {
	names := map[string]struct{}{}
	for i, pod := range ns.Pods {
		podAt := item(at+".pods", i)
		if d.dnsLabel(podAt+".name", pod.Name) {
			if _, twice := names[pod.Name]; twice {
				d.fault(podAt+".name", pod.Name, "", "pod %s/%s is given twice", ns.Name, pod.Name)
			}
			names[pod.Name] = struct{}{}
		}
		d.labels(podAt+".labels", pod.Labels)
		if pod.Node != "" && !nodeForm.MatchString(pod.Node) {
			d.fault(podAt+".node", pod.Node, "a, b, c … are pairwise different nodes", "%q is not one lower-case letter", pod.Node)
		}
		d.checkPodPorts(podAt, pod)
	}
}

func (d *document) checkPodPorts(at string, pod Pod) {
	numbers := map[string]struct{}{}
	portNames := map[string]struct{}{}
	for i, p := range pod.Ports {
		portAt := item(at+".ports", i)
		d.portAndProtocol(portAt, p.Port, p.Protocol)
		number := FormatPort(p.Protocol, p.Port)
		if _, twice := numbers[number]; twice && p.Port != 0 {
			d.fault(portAt+".port", number, "", "%s is given twice", number)
		}
		numbers[number] = struct{}{}
		if p.Name == "" {
			continue
		}
		for _, msg := range validation.IsValidPortName(p.Name) {
			d.fault(portAt+".name", p.Name, "", "%q: %s", p.Name, msg)
		}
		if _, twice := portNames[p.Name]; twice {
			d.fault(portAt+".name", p.Name, "", "port name %s is given twice", p.Name)
		}
		portNames[p.Name] = struct{}{}
	}
}

func (d *document) portAndProtocol(at string, port uint16, protocol corev1.Protocol) {
	if port == 0 {
		d.fault(at+".port", nil, "a number from 1 to 65535", "is missing")
	}
	if !isProtocol(protocol) {
		d.fault(at+".protocol", protocol, "TCP, UDP or SCTP", "%q is not a protocol", protocol)
	}
}

// dnsLabel tells whether a name is one, and records a fault if it is not.
func (d *document) dnsLabel(at, name string) bool {
	if name == "" {
		d.fault(at, nil, "", "is missing")
		return false
	}
	if len(validation.IsDNS1123Label(name)) > 0 {
		d.fault(at, name, "lower-case letters, digits and -", "%q is not a DNS label", name)
		return false
	}
	return true
}

func (d *document) checkServices(at string, w World) {
	names := map[string]struct{}{}
	for i, s := range w.Services {
		svcAt := item(child(at, "services"), i)
		name := s.Namespace + "/" + s.Name
		switch {
		case s.Name == "":
			d.fault(svcAt+".name", nil, "", "is missing")
		case len(validation.IsDNS1035Label(s.Name)) > 0:
			d.fault(svcAt+".name", s.Name, "lower-case letters, digits and -, a letter first", "%q is not a Service name", s.Name)
		}
		if _, twice := names[name]; twice {
			d.fault(svcAt+".name", s.Name, "", "Service %s is given twice", name)
		}
		names[name] = struct{}{}
		switch {
		case s.Namespace == "":
			d.fault(svcAt+".namespace", nil, "", "is missing")
			continue
		case !slices.ContainsFunc(w.Namespaces, func(ns Namespace) bool { return ns.Name == s.Namespace }):
			d.fault(svcAt+".namespace", s.Namespace, "", "the world has no namespace %s", s.Namespace)
			continue
		case len(s.Selector) == 0:
			d.fault(svcAt+".selector", nil, "the labels of the pods behind the Service", "is missing")
			continue
		}
		d.checkServiceType(svcAt, s)
		d.labels(svcAt+".selector", s.Selector)
		d.checkServicePorts(svcAt, w, s)
	}
}

func (d *document) checkServicePorts(at string, w World, s Service) {
	if len(s.Ports) == 0 {
		d.fault(at+".ports", nil, "", "is missing")
	}
	numbers := map[string]struct{}{}
	for i, p := range s.Ports {
		portAt := item(at+".ports", i)
		d.portAndProtocol(portAt, p.Port, p.Protocol)
		if p.Port == 0 || !isProtocol(p.Protocol) {
			continue
		}
		number := FormatPort(p.Protocol, p.Port)
		if _, twice := numbers[number]; twice {
			d.fault(portAt+".port", number, "", "%s is given twice", number)
		}
		numbers[number] = struct{}{}
		if !d.targetPort(portAt+".targetPort", p.TargetPort) {
			continue
		}
		for _, backend := range w.Backends(s) {
			pod, _ := w.Pod(backend)
			if _, listens := p.On(pod); !listens {
				d.fault(portAt+".targetPort", p.TargetPort.String(), "add the port to the pod", "pod %s behind the Service does not listen on %s/%s",
					backend, p.Protocol, p.TargetPort.String())
			}
		}
	}
}

// targetPort tells whether a Service's target is a port number or a port name, and records a fault if it is neither.
func (d *document) targetPort(at string, p intstr.IntOrString) bool {
	msgs := validation.IsValidPortNum(p.IntValue())
	if p.Type == intstr.String {
		msgs = validation.IsValidPortName(p.StrVal)
	}
	for _, msg := range msgs {
		d.fault(at, p.String(), "a number from 1 to 65535, or the name of a port of the pods", "%q: %s", p.String(), msg)
	}
	return len(msgs) == 0
}

func (d *document) checkServiceType(at string, s Service) {
	switch s.Type {
	case "", corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort:
	default:
		d.fault(at+".type", s.Type, "ClusterIP or NodePort", "%q is not a type that can be attempted", s.Type)
	}
	switch {
	case s.ClusterIP != "" && !s.Headless():
		d.fault(at+".clusterIP", s.ClusterIP, "leave it out, or write None for a headless Service", "%q: the cluster gives a Service its address", s.ClusterIP)
	case s.Headless() && s.OnNodes():
		d.fault(at+".clusterIP", s.ClusterIP, "drop one of them", "a headless Service cannot be of type NodePort")
	}
}

// What a hostNetwork pod may listen on: what an unprivileged process may bind, below the ports of kubelet and control plane (10248–10259)
// and of the probes themselves, whose agents and source ports lie above these.
const (
	firstHostPort = 1024
	lastHostPort  = 9999
)

// checkHostPorts holds the ports of hostNetwork pods to what a node has free, and to one listener each. Two pods that may run on the same
// node, because one of them names none, count as on one.
func (d *document) checkHostPorts(at string, w World) {
	type listener struct{ pod, node, port string }
	var taken []listener
	for i, ns := range w.Namespaces {
		for j, pod := range ns.Pods {
			if !pod.HostNetwork {
				continue
			}
			podAt := item(item(child(at, "namespaces"), i)+".pods", j)
			for k, p := range pod.Ports {
				portAt := item(podAt+".ports", k) + ".port"
				if p.Port != 0 && (p.Port < firstHostPort || p.Port > lastHostPort) {
					d.fault(portAt, p.Port, "write ports with numbers from 1024 to 9999", "%d is not free for a hostNetwork pod", p.Port)
					continue
				}
				l := listener{ns.Name + "/" + pod.Name, pod.Node, FormatPort(p.Protocol, p.Port)}
				n := slices.IndexFunc(taken, func(o listener) bool {
					return o.pod != l.pod && o.port == l.port && (o.node == l.node || o.node == "" || l.node == "")
				})
				if n >= 0 {
					d.fault(portAt, l.port, "give them different ports, or different nodes", "%s is taken by the hostNetwork pod %s, which may be on the same node", l.port, taken[n].pod)
				}
				taken = append(taken, l)
			}
		}
	}
}

// checkReach validates what pods attempt beyond pods and Services.
func (d *document) checkReach(at string, w World) {
	onNodes := slices.ContainsFunc(w.Services, Service.OnNodes)
	for i, place := range w.Reach.Nodes {
		nodeAt := item(at+".nodes", i)
		switch {
		case !nodeForm.MatchString(place):
			d.fault(nodeAt, place, "a, b, c … are pairwise different nodes", "%q is not one lower-case letter", place)
		case slices.Index(w.Reach.Nodes, place) < i:
			d.fault(nodeAt, place, "", "node %s is given twice", place)
		case !onNodes && len(w.NodePods(place)) == 0:
			d.fault(nodeAt, place, "put a hostNetwork pod there, or give a Service the type NodePort", "nothing of the world is attempted at node %s", place)
		}
	}
	d.families(at+".families", w.Reach.Families)
	d.checkOutside(at+".outside", w.Reach.Outside)
}

// families holds a list to the two that there are, each once.
func (d *document) families(at string, list []corev1.IPFamily) {
	for i, f := range list {
		switch {
		case f != corev1.IPv4Protocol && f != corev1.IPv6Protocol:
			d.fault(item(at, i), f, "IPv4 or IPv6", "%q is not an address family", f)
		case slices.Index(list, f) < i:
			d.fault(item(at, i), f, "", "family %s is given twice", f)
		}
	}
}

// checkOutside validates the hosts outside the cluster. They have no right to open raw sockets, which SCTP may need.
func (d *document) checkOutside(at string, hosts []OutsideHost) {
	names := map[string]struct{}{}
	for i, host := range hosts {
		hostAt := item(at, i)
		if d.dnsLabel(hostAt+".name", host.Name) {
			if _, twice := names[host.Name]; twice {
				d.fault(hostAt+".name", host.Name, "", "outside host %s is given twice", host.Name)
			}
			names[host.Name] = struct{}{}
		}
		d.checkPodPorts(hostAt, Pod{Ports: host.Ports})
		d.checkAddresses(hostAt+".addresses", host, hosts[:i])
		for j, p := range host.Ports {
			portAt := item(hostAt+".ports", j)
			if p.Protocol == corev1.ProtocolSCTP {
				d.fault(portAt+".protocol", p.Protocol, "TCP or UDP", "an outside host does not speak SCTP")
			}
			if p.Name != "" {
				d.fault(portAt+".name", p.Name, "leave it out", "%q: the named ports of policies are those of pods", p.Name)
			}
		}
	}
}

// reachable are the ranges that a host outside may stand for: what no router of the internet carries (RFC 3927, 1918, 6598, 5737, 4193, 3849).
var reachable = func() []netip.Prefix {
	var out []netip.Prefix
	for _, p := range []string{
		"169.254.0.0/16", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24",
		"fc00::/7", "2001:db8::/32",
	} {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}()

// checkAddresses validates those that a host outside stands for; earlier are the hosts before it.
func (d *document) checkAddresses(at string, host OutsideHost, earlier []OutsideHost) {
	families := map[bool]bool{} // by whether it is IPv4
	for i, s := range host.Addresses {
		addressAt := item(at, i)
		a, err := netip.ParseAddr(s)
		switch {
		case err != nil || a.Zone() != "" || a.String() != s:
			d.fault(addressAt, s, "such as 169.254.169.254 or fd00:ec2::254", "%q is no address in its usual form", s)
			continue
		case !slices.ContainsFunc(reachable, func(p netip.Prefix) bool { return p.Contains(a) }):
			d.fault(addressAt, s, "link-local IPv4, private, or for documentation", "%s may be somebody else's", s)
			continue
		case families[a.Is4()]:
			d.fault(addressAt, s, "one of a family", "the host has another address of its family")
		case slices.ContainsFunc(earlier, func(h OutsideHost) bool { return slices.Contains(h.Addresses, s) }):
			d.fault(addressAt, s, "", "%s is another host's", s)
		}
		families[a.Is4()] = true
	}
}

// empty tells whether nothing of it is written.
func (r Reach) empty() bool {
	return r.Families == nil && !r.ICMP && r.Nodes == nil && r.Outside == nil && !r.APIServer
}
