package scenarios

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Headless tells whether the Service has no address of its own: its name resolves to the pods behind it.
func (s Service) Headless() bool { return s.ClusterIP == corev1.ClusterIPNone }

// OnNodes tells whether the Service has node ports.
func (s Service) OnNodes() bool { return s.Type == corev1.ServiceTypeNodePort }

// On is the port of a pod behind the Service that p leads to: the target port, or the pod's port of that name and protocol. It is false when
// the pod does not listen there, which the API server allows and where a connection then fails.
func (p ServicePort) On(pod Pod) (uint16, bool) {
	i := slices.IndexFunc(pod.Ports, func(l Port) bool {
		if l.Protocol != p.Protocol {
			return false
		}
		if p.TargetPort.Type == intstr.String {
			return l.Name == p.TargetPort.StrVal
		}
		return int32(l.Port) == p.TargetPort.IntVal
	})
	if i < 0 {
		return 0, false
	}
	return pod.Ports[i].Port, true
}

// Pod finds a pod of the world by "namespace/pod".
func (w World) Pod(name string) (Pod, bool) {
	for _, ns := range w.Namespaces {
		for _, p := range ns.Pods {
			if ns.Name+"/"+p.Name == name {
				return p, true
			}
		}
	}
	return Pod{}, false
}

// NodePods are the hostNetwork pods ("namespace/pod") that the world puts on a place, in its order.
func (w World) NodePods(place string) []string {
	var out []string
	for _, ns := range w.Namespaces {
		for _, p := range ns.Pods {
			if p.HostNetwork && p.Node == place {
				out = append(out, ns.Name+"/"+p.Name)
			}
		}
	}
	return out
}
