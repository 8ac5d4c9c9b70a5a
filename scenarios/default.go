package scenarios

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const (
	defaultPort     = 80
	defaultProtocol = corev1.ProtocolTCP
	// defaultStep is the name of the one step of a scenario that writes none.
	defaultStep = "policies"
	// every stands for all policies, or all pods.
	every = "*"
)

// setDefaults fills whatever a person may leave out, but for intent: it stays in the field it was written in, for that field to be named.
// Policies are left as written: the API server fills theirs.
func setDefaults(s *Scenario) {
	s.World.setDefaults()
	if len(s.Steps) == 0 {
		s.Steps = []Step{{Name: defaultStep, Apply: []string{every}}}
	}
}

func (w *World) setDefaults() {
	for i := range w.Namespaces {
		for j := range w.Namespaces[i].Pods {
			pod := &w.Namespaces[i].Pods[j]
			pod.Ports = defaultPorts(pod.Ports)
		}
	}
	for i := range w.Reach.Outside {
		host := &w.Reach.Outside[i]
		host.Ports = defaultPorts(host.Ports)
	}
	for i := range w.Services {
		if w.Services[i].Headless() {
			w.Services[i].Lookup = true
		}
		for j := range w.Services[i].Ports {
			port := &w.Services[i].Ports[j]
			if port.TargetPort == (intstr.IntOrString{}) {
				port.TargetPort = intstr.FromInt32(int32(port.Port))
			}
			if port.Protocol == "" {
				port.Protocol = defaultProtocol
			}
		}
	}
}

// defaultPorts fills in what is listened on. Written ports are changed in place; an empty list stays empty.
func defaultPorts(ports []Port) []Port {
	if ports == nil {
		ports = []Port{{Port: defaultPort}}
	}
	for i := range ports {
		if ports[i].Protocol == "" {
			ports[i].Protocol = defaultProtocol
		}
	}
	return ports
}
