package scenarios

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
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
	d.checkServices(at, w)
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
		d.labels(svcAt+".selector", s.Selector)
		if len(w.Backends(s)) == 0 {
			d.fault(svcAt+".selector", nil, "", "no pod of namespace %s has these labels", s.Namespace)
		}
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
		for _, backend := range w.Backends(s) {
			if !w.listens(backend, p.Protocol, p.TargetPort) {
				target := FormatPort(p.Protocol, p.TargetPort)
				d.fault(portAt+".targetPort", p.TargetPort, "add the port to the pod", "pod %s behind the Service does not listen on %s", backend, target)
			}
		}
	}
}

// listens tells whether a pod ("namespace/pod") has the port.
func (w World) listens(pod string, protocol corev1.Protocol, port uint16) bool {
	for _, ns := range w.Namespaces {
		for _, p := range ns.Pods {
			if ns.Name+"/"+p.Name != pod {
				continue
			}
			return slices.ContainsFunc(p.Ports, func(l Port) bool { return l.Protocol == protocol && l.Port == port })
		}
	}
	return false
}
