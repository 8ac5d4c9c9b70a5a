package plan

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/scenarios"
)

const (
	// defaultClusterDomain is kubeadm's and kind's DNS suffix.
	defaultClusterDomain = "cluster.local"
	// defaultPort is what a pod listens on when the scenario names no port.
	defaultPort = 80
	// resolverPort is the port of the resolver's pods, where lookups are judged: CoreDNS listens on the port its Service has.
	resolverPort = 53
)

// Build plans every attempt and every step of s for the cluster that f describes. All faults are reported at once, each with its
// field: facts that are missing, steps that name policies which are not there, intent that contradicts itself or names no attempt.
func Build(s *scenarios.Scenario, f Facts) (*Plan, error) {
	b := builder{scenario: s, facts: f, names: newNames(s.World, f.Prefix)}
	b.checkFacts()
	if len(b.faults) == 0 {
		b.planAttempts()
	}
	var steps []Step
	if len(b.faults) == 0 {
		steps = b.planSteps()
	}
	if err := errors.Join(b.faults...); err != nil {
		return nil, fmt.Errorf("planning scenario %s: %w", s.Metadata.Name, err)
	}
	p := &Plan{Scenario: s, Name: s.Metadata.Name, Invented: f.Invented, Steps: steps}
	for _, a := range b.attempts {
		p.Attempts = append(p.Attempts, a.Planned)
	}
	return p, nil
}

// builder gathers the parts of one plan and every fault met on the way.
type builder struct {
	scenario *scenarios.Scenario
	facts    Facts
	names    names
	attempts []attempt
	faults   []error
}

// attempt is a planned attempt with what the engine must be asked about it. Service is nil for a pod's own address.
type attempt struct {
	Planned
	source  podName
	pod     podName
	service *scenarios.Service
	// port and protocol are the ones policies see: after the Service's translation.
	port     uint16
	protocol corev1.Protocol
}

// podName is a pod's name as the scenario writes it.
type podName struct{ namespace, name string }

func (p podName) String() string { return p.namespace + "/" + p.name }

func (b *builder) faultf(format string, args ...any) {
	b.faults = append(b.faults, fmt.Errorf(format, args...))
}

// checkFacts reports every fact that the cluster owes.
func (b *builder) checkFacts() {
	for i, ns := range b.scenario.World.Namespaces {
		if name := b.names.namespace(ns.Name); len(name) > maxNamespaceName {
			b.faultf("world.namespaces[%d].name: %q is longer than %d characters with its prefix", i, name, maxNamespaceName)
		}
		if b.facts.Resolver.Namespace.Name == b.names.namespace(ns.Name) {
			b.faultf("world.namespaces[%d].name: %q is the namespace of the cluster's resolver", i, ns.Name)
		}
		for j, pod := range ns.Pods {
			name := podName{ns.Name, pod.Name}
			if !b.facts.Pods[name.String()].IP.IsValid() {
				b.faultf("world.namespaces[%d].pods[%d]: the cluster gave no address for %s", i, j, name)
			}
		}
	}
	for i, svc := range b.scenario.World.Services {
		if !b.facts.Services[serviceKey(svc)].IsValid() {
			b.faultf("world.services[%d]: the cluster gave no address for %s", i, serviceKey(svc))
		}
	}
}

// planAttempts fills attempts in the documented order.
func (b *builder) planAttempts() {
	initial := b.initialWorld()
	for _, ns := range b.scenario.World.Namespaces {
		for _, pod := range ns.Pods {
			source := podName{ns.Name, pod.Name}
			b.planPods(source)
			b.planEchoes(source)
			b.planServices(source, initial)
			b.planLookups(source)
		}
	}
	seen := make(map[string]bool, len(b.attempts))
	for _, a := range b.attempts {
		if seen[a.ID] {
			b.faultf("world: attempt %q is planned twice: a port is listed twice", a.ID)
		}
		seen[a.ID] = true
	}
}

func (b *builder) planPods(source podName) {
	for _, ns := range b.scenario.World.Namespaces {
		for _, pod := range ns.Pods {
			to := podName{ns.Name, pod.Name}
			facts := b.facts.Pods[to.String()]
			for _, port := range listening(pod) {
				protocol := probeProtocol(port.Protocol)
				b.attempts = append(b.attempts, attempt{
					Planned: Planned{
						ID:          fmt.Sprintf("%s>%s:%s/%d", source, to, protocol, port.Port),
						Source:      source.String(),
						Destination: to.String(),
						Kind:        PodIP,
						Protocol:    protocol,
						Port:        port.Port,
						Address:     netip.AddrPortFrom(facts.IP, port.Port),
						Responders:  []string{to.String()},
						SameNode:    b.sameNode(source, facts.Node),
					},
					source: source, pod: to, port: port.Port, protocol: port.Protocol,
				})
			}
		}
	}
}

func (b *builder) planServices(source podName, initial reach.World) {
	for i := range b.scenario.World.Services {
		svc := &b.scenario.World.Services[i]
		backends := b.backends(initial, svc)
		var nodes []string
		for _, p := range backends {
			nodes = append(nodes, b.facts.Pods[p.String()].Node)
		}
		for _, port := range servicePorts(svc) {
			protocol := probeProtocol(port.Protocol)
			destination := "service:" + serviceKey(*svc)
			b.attempts = append(b.attempts, attempt{
				Planned: Planned{
					ID:          fmt.Sprintf("%s>%s:%s/%d", source, destination, protocol, port.Port),
					Source:      source.String(),
					Destination: destination,
					Kind:        ClusterIP,
					Protocol:    protocol,
					Port:        port.Port,
					Address:     netip.AddrPortFrom(b.facts.Services[serviceKey(*svc)], port.Port),
					Responders:  podStrings(backends),
					SameNode:    b.sameNode(source, nodes...),
				},
				source: source, service: svc, port: port.TargetPort, protocol: port.Protocol,
			})
		}
	}
}

func (b *builder) planLookups(source podName) {
	domain := cmp.Or(b.facts.ClusterDomain, defaultClusterDomain)
	var nodes []string
	for _, p := range b.facts.Resolver.Pods {
		nodes = append(nodes, p.Node)
	}
	for i := range b.scenario.World.Services {
		svc := &b.scenario.World.Services[i]
		if !svc.Lookup {
			continue
		}
		destination := fmt.Sprintf("dns:%s.%s", svc.Name, svc.Namespace)
		b.attempts = append(b.attempts, attempt{
			Planned: Planned{
				ID:          source.String() + ">" + destination,
				Source:      source.String(),
				Destination: destination,
				Kind:        Lookup,
				Protocol:    probes.DNS,
				// The final dot keeps the pod's search list out of it: one name, one question.
				Name:     fmt.Sprintf("%s.%s.svc.%s.", svc.Name, b.names.namespace(svc.Namespace), strings.TrimSuffix(domain, ".")),
				Answer:   b.facts.Services[serviceKey(*svc)],
				SameNode: b.sameNode(source, nodes...),
			},
			source: source, service: svc, port: resolverPort, protocol: corev1.ProtocolUDP,
		})
	}
}

// sameNode tells whether source shares its node with all of nodes; an unknown node is shared by nobody.
func (b *builder) sameNode(source podName, nodes ...string) bool {
	own := b.facts.Pods[source.String()].Node
	return own != "" && len(nodes) > 0 && !slices.ContainsFunc(nodes, func(n string) bool { return n != own })
}

// listening is what a pod listens on, defaults filled in, in the order of the plan.
func listening(p scenarios.Pod) []scenarios.Port {
	if len(p.Ports) == 0 {
		return []scenarios.Port{{Port: defaultPort, Protocol: corev1.ProtocolTCP}}
	}
	ports := slices.Clone(p.Ports)
	for i := range ports {
		ports[i].Protocol = cmp.Or(ports[i].Protocol, corev1.ProtocolTCP)
	}
	slices.SortStableFunc(ports, func(a, b scenarios.Port) int {
		return cmp.Or(cmp.Compare(probeProtocol(a.Protocol), probeProtocol(b.Protocol)), cmp.Compare(a.Port, b.Port))
	})
	return ports
}

// servicePorts are a Service's ports, defaults filled in, in the order of the plan.
func servicePorts(s *scenarios.Service) []scenarios.ServicePort {
	ports := slices.Clone(s.Ports)
	for i := range ports {
		ports[i].Protocol = cmp.Or(ports[i].Protocol, corev1.ProtocolTCP)
		ports[i].TargetPort = cmp.Or(ports[i].TargetPort, ports[i].Port)
	}
	slices.SortStableFunc(ports, func(a, b scenarios.ServicePort) int {
		return cmp.Or(cmp.Compare(probeProtocol(a.Protocol), probeProtocol(b.Protocol)), cmp.Compare(a.Port, b.Port))
	})
	return ports
}

// probeProtocol is what an attempt of an API protocol speaks; empty means TCP, as the API server defaults it.
func probeProtocol(p corev1.Protocol) probes.Protocol {
	switch p {
	case corev1.ProtocolTCP, "":
		return probes.TCP
	case corev1.ProtocolUDP:
		return probes.UDP
	case corev1.ProtocolSCTP:
		return probes.SCTP
	default:
		return probes.ProtocolUnknown
	}
}

// serviceKey is a Service's "namespace/name".
func serviceKey(s scenarios.Service) string { return s.Namespace + "/" + s.Name }

func podStrings(pods []podName) []string {
	var out []string
	for _, p := range pods {
		out = append(out, p.String())
	}
	return out
}
