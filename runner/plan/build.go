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
	// spares are for pods made again, where facts are invented, one for each family.
	spares, spares6 addresses
	// firstAnswers are what headless Services resolve to before the first step, by Service.
	firstAnswers map[string][]PodFacts
}

// origin is where attempts come from. Pod is the zero name for a host outside the cluster.
type origin struct {
	name string
	pod  podName
}

// attempt is a planned attempt with what the engine must be asked about it. Service is nil for the address of a pod, node or host outside.
type attempt struct {
	Planned
	source  origin
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
		if !svc.Headless() && len(b.facts.Services[serviceKey(svc)]) == 0 {
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
	for i, host := range b.scenario.World.Reach.Outside {
		if name := scenarios.Outside(host.Name); len(b.facts.Outside[name]) == 0 && len(host.Addresses) == 0 {
			b.faultf("world.reach.outside[%d]: the cluster gave no address for %s", i, name)
		}
	}
}

// planAttempts fills attempts in the documented order.
func (b *builder) planAttempts() {
	initial := b.initialWorld()
	for _, ns := range b.scenario.World.Namespaces {
		for _, pod := range ns.Pods {
			name := podName{ns.Name, pod.Name}
			source := origin{name.String(), name}
			b.planPods(source)
			b.planEchoes(source)
			b.planServices(source, initial)
			b.planNodes(source, initial)
			b.planOutside(source)
			b.planAPIServer(source)
			b.planLookups(source)
		}
	}
	for _, host := range b.scenario.World.Reach.Outside {
		if len(host.Addresses) > 0 {
			continue // a destination alone
		}
		source := origin{name: scenarios.Outside(host.Name)}
		b.planPods(source)
		b.planEchoes(source)
		b.planNodes(source, initial)
	}
	seen := make(map[string]bool, len(b.attempts))
	for _, a := range b.attempts {
		if seen[a.ID] {
			b.faultf("world: attempt %q is planned twice: a port is listed twice", a.ID)
		}
		seen[a.ID] = true
	}
}

// plan adds one attempt for each family that is asked for: addresses are the destination's, at is the port there, which for a node port is not
// the one that the attempt is named by.
func (b *builder) plan(a attempt, addresses []netip.Addr, at uint16) {
	if a.source.pod == (podName{}) && a.Protocol == probes.SCTP {
		return // a host outside has no right to the raw socket that it may take
	}
	a.Source = a.source.name
	for _, family := range b.families() {
		one := a
		one.Family = family
		one.ID = fmt.Sprintf("%s>%s:%s", a.Source, a.Destination, one.Notation())
		address := pick(addresses, family)
		if one.Lacking = b.lacking(one.Planned, address); one.Lacking == "" {
			one.Address = netip.AddrPortFrom(address, at)
		}
		b.attempts = append(b.attempts, one)
	}
}

func (b *builder) planPods(source origin) {
	for _, ns := range b.scenario.World.Namespaces {
		for _, pod := range ns.Pods {
			to := podName{ns.Name, pod.Name}
			facts := b.facts.Pods[to.String()]
			for _, port := range listening(pod.Ports) {
				b.plan(attempt{
					Planned: Planned{
						Destination: to.String(),
						Kind:        PodIP,
						Protocol:    probeProtocol(port.Protocol),
						Port:        port.Port,
						Responders:  []string{to.String()},
						SameNode:    b.sameNode(source, facts.Node),
					},
					source: source, pod: to, port: port.Port, protocol: port.Protocol,
				}, facts.Addresses(), port.Port)
			}
		}
	}
}

func (b *builder) planServices(source origin, initial reach.World) {
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
			b.plan(attempt{
				Planned: Planned{
					Destination: "service:" + serviceKey(*svc),
					Kind:        ClusterIP,
					Protocol:    probeProtocol(port.Protocol),
					Port:        port.Port,
					Responders:  podStrings(backends),
					SameNode:    b.sameNode(source, nodes...),
				},
				source: source, service: svc, target: port, protocol: port.Protocol,
			}, b.facts.Services[serviceKey(*svc)], port.Port)
		}
	}
}

func (b *builder) planLookups(source origin) {
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
		for _, family := range b.families() {
			answers, lacking := b.answers(svc, family)
			b.attempts = append(b.attempts, attempt{
				Planned: Planned{
					ID:          source.name + ">" + destination + records(family),
					Source:      source.name,
					Destination: destination,
					Kind:        Lookup,
					Protocol:    probes.DNS,
					Family:      family,
					// The final dot keeps the pod's search list out of it: one name, one question.
					Name:     fmt.Sprintf("%s.%s.svc.%s.", svc.Name, b.names.namespace(svc.Namespace), strings.TrimSuffix(domain, ".")),
					Answers:  answers,
					SameNode: b.sameNode(source, nodes...),
					Lacking:  lacking,
				},
				source: source, service: svc, port: resolverPort, protocol: corev1.ProtocolUDP,
			})
		}
	}
}

// answers are the addresses that a lookup must return, or why there are none of the family.
func (b *builder) answers(svc *scenarios.Service, family probes.Family) (answers []netip.Addr, lacking string) {
	first := b.firstAnswers[serviceKey(*svc)]
	if svc.Headless() {
		for _, pod := range first {
			if a := pick(pod.Addresses(), family); a.IsValid() {
				answers = append(answers, a)
			}
		}
		if len(first) == 0 {
			return nil, ""
		}
	} else if a := pick(b.facts.Services[serviceKey(*svc)], family); a.IsValid() {
		answers = append(answers, a)
	}
	if len(answers) == 0 {
		return nil, fmt.Sprintf("the cluster gave Service %s no %s address", serviceKey(*svc), family)
	}
	return answers, ""
}

// rememberAnswers notes whom headless Services resolve to before the first step.
func (b *builder) rememberAnswers() {
	b.firstAnswers = map[string][]PodFacts{}
	initial := b.initialWorld()
	for i := range b.scenario.World.Services {
		svc := &b.scenario.World.Services[i]
		b.firstAnswers[serviceKey(*svc)] = b.behind(initial, svc)
	}
}

// behind are the facts of the pods behind a Service in the world w.
func (b *builder) behind(w reach.World, svc *scenarios.Service) []PodFacts {
	var out []PodFacts
	for _, pod := range b.backends(w, svc) {
		out = append(out, b.facts.Pods[pod.String()])
	}
	return out
}

// sameNode tells whether source shares its node with all of nodes; an unknown node is shared by nobody.
func (b *builder) sameNode(source origin, nodes ...string) bool {
	own := b.facts.Pods[source.name].Node
	return own != "" && len(nodes) > 0 && !slices.ContainsFunc(nodes, func(n string) bool { return n != own })
}

// listening is what a pod or a host outside listens on, defaults filled in, in the order of the plan.
func listening(written []scenarios.Port) []scenarios.Port {
	if len(written) == 0 {
		return []scenarios.Port{{Port: defaultPort, Protocol: corev1.ProtocolTCP}}
	}
	ports := slices.Clone(written)
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
