package plan

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

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
//
// A step that changes pods gives them addresses that nobody knows before. Its promises and those of later steps, and the attempts, are
// those of the old addresses until [Plan.Renew]; where facts are invented, so are the new addresses.
func Build(s *scenarios.Scenario, f Facts) (*Plan, error) { return build(s, f, nil) }

// Renew is p with the facts since a step changed pods: attempts go to the addresses of now, policies that were applied before keep the
// addresses of then. Attempts and steps are the same and in the same order.
func (p *Plan) Renew(step int, f Facts) (*Plan, error) {
	later := map[int]Facts{step: f}
	for i, known := range p.later {
		if i != step {
			later[i] = known
		}
	}
	renewed, err := build(p.Scenario, p.facts, later)
	if err != nil || p.only == "" {
		return renewed, err
	}
	return renewed.Only(p.only)
}

func build(s *scenarios.Scenario, f Facts, later map[int]Facts) (*Plan, error) {
	b := builder{scenario: s, facts: f, later: later, names: newNames(s.World, f.Prefix)}
	b.checkFacts()
	if len(b.faults) == 0 {
		b.rememberAnswers()
		b.facts = b.latest()
		b.planAttempts()
		b.facts = f
	}
	var steps []Step
	if len(b.faults) == 0 {
		steps = b.planSteps()
	}
	if err := errors.Join(b.faults...); err != nil {
		return nil, fmt.Errorf("planning scenario %s: %w", s.Metadata.Name, err)
	}
	p := &Plan{Scenario: s, Name: s.Metadata.Name, Invented: f.Invented, Steps: steps, facts: f, later: later}
	for _, a := range b.attempts {
		p.Attempts = append(p.Attempts, a.Planned)
	}
	return p, nil
}

// builder gathers the parts of one plan and every fault met on the way.
type builder struct {
	scenario *scenarios.Scenario
	facts    Facts // as of the step that is being planned
	later    map[int]Facts
	names    names
	attempts []attempt
	faults   []error
	spares   addresses // for pods made again, where facts are invented
	// firstAnswers are what headless Services resolve to before the first step, by Service.
	firstAnswers map[string][]netip.Addr
}

// attempt is a planned attempt with what the engine must be asked about it. Service is nil for the address of a pod or node.
type attempt struct {
	Planned
	source  podName
	pod     podName
	service *scenarios.Service
	// target is the Service's port, which leads to a port of each backend. A pod and the resolver are asked on port instead.
	target   scenarios.ServicePort
	port     uint16
	protocol corev1.Protocol
	place    string // the node that a node's address belongs to
}

// podName is a pod's name as the scenario writes it.
type podName struct{ namespace, name string }

func (p podName) String() string { return p.namespace + "/" + p.name }

// parsePod reads "namespace/pod".
func parsePod(s string) podName {
	namespace, name, _ := strings.Cut(s, "/")
	return podName{namespace, name}
}

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
		if !svc.Headless() && !b.facts.Services[serviceKey(svc)].IsValid() {
			b.faultf("world.services[%d]: the cluster gave no address for %s", i, serviceKey(svc))
		}
		for j, port := range servicePorts(&svc) {
			if svc.OnNodes() && b.facts.NodePorts[nodePortKey(svc, port)] == 0 {
				b.faultf("world.services[%d].ports[%d]: the cluster gave no node port for %s", i, j, nodePortKey(svc, port))
			}
		}
	}
	for i, place := range b.scenario.World.Reach.Nodes {
		if len(b.nodeAt(place).Addresses) == 0 {
			b.faultf("world.reach.nodes[%d]: the cluster has no node %s", i, place)
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
			b.planNodes(source, initial)
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
		if svc.Headless() {
			continue // no address: its name leads to pods, which are attempted by themselves
		}
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
				source: source, service: svc, target: port, protocol: port.Protocol,
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
		answers := []netip.Addr{b.facts.Services[serviceKey(*svc)]}
		if svc.Headless() {
			answers = b.firstAnswers[serviceKey(*svc)]
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
				Answers:  answers,
				SameNode: b.sameNode(source, nodes...),
			},
			source: source, service: svc, port: resolverPort, protocol: corev1.ProtocolUDP,
		})
	}
}

// rememberAnswers notes what headless Services resolve to before the first step.
func (b *builder) rememberAnswers() {
	b.firstAnswers = map[string][]netip.Addr{}
	initial := b.initialWorld()
	for i := range b.scenario.World.Services {
		svc := &b.scenario.World.Services[i]
		for _, pod := range b.backends(initial, svc) {
			b.firstAnswers[serviceKey(*svc)] = append(b.firstAnswers[serviceKey(*svc)], b.facts.Pods[pod.String()].IP)
		}
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
		if ports[i].TargetPort == (intstr.IntOrString{}) {
			ports[i].TargetPort = intstr.FromInt32(int32(ports[i].Port))
		}
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
