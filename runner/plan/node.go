package plan

import (
	"net/netip"
	"slices"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/scenarios"
)

// NoteNodePort: a connection to a node port is translated, and its source address may be rewritten, on the way; whether policies see it
// before or after is not defined.
// https://kubernetes.io/docs/concepts/services-networking/network-policies/#behavior-of-to-and-from-selectors
const NoteNodePort = "node-port"

// nodePortKey is the key of a Service's port in [Facts].NodePorts.
func nodePortKey(s scenarios.Service, p scenarios.ServicePort) string {
	return serviceKey(s) + ":" + scenarios.FormatPort(p.Protocol, p.Port)
}

// nodeAt is the node of a place; none where the cluster has fewer.
func (b *builder) nodeAt(place string) NodeFacts { return b.facts.Nodes[b.facts.Places[place]] }

// nodeOf is the name of the node that has an address; empty where none does.
func (b *builder) nodeOf(address netip.Addr) string {
	for name, node := range b.facts.Nodes {
		if slices.Contains(node.Addresses, address) {
			return name
		}
	}
	return ""
}

// planNodes plans the attempts of one source at nodes' addresses: on what hostNetwork pods there listen on, then on node ports.
func (b *builder) planNodes(source origin, initial reach.World) {
	for _, place := range b.scenario.World.Reach.Nodes {
		node := b.facts.Places[place]
		for _, name := range b.scenario.World.NodePods(place) {
			written, _ := b.scenario.World.Pod(name)
			for _, port := range listening(written.Ports) {
				b.plan(attempt{
					Planned: Planned{
						Destination: "node:" + place,
						Kind:        NodeIP,
						Protocol:    probeProtocol(port.Protocol),
						Port:        port.Port,
						Responders:  []string{name},
						SameNode:    b.sameNode(source, node),
					},
					source: source, pod: parsePod(name), port: port.Port, protocol: port.Protocol, place: place,
				}, b.nodeAt(place).Addresses, port.Port)
			}
		}
		for i := range b.scenario.World.Services {
			svc := &b.scenario.World.Services[i]
			if svc.OnNodes() {
				b.planNodePorts(source, place, svc, b.backends(initial, svc))
			}
		}
	}
}

func (b *builder) planNodePorts(source origin, place string, svc *scenarios.Service, backends []podName) {
	nodes := []string{b.facts.Places[place]}
	for _, p := range backends {
		nodes = append(nodes, b.facts.Pods[p.String()].Node)
	}
	for _, port := range servicePorts(svc) {
		b.plan(attempt{
			Planned: Planned{
				Destination: "node:" + place + ":" + serviceKey(*svc),
				Kind:        NodePort,
				Protocol:    probeProtocol(port.Protocol),
				Port:        port.Port,
				Responders:  podStrings(backends),
				SameNode:    b.sameNode(source, nodes...),
			},
			source: source, service: svc, target: port, protocol: port.Protocol, place: place,
		}, b.nodeAt(place).Addresses, b.facts.NodePorts[nodePortKey(*svc, port)])
	}
}

// target is one pod and port that a connection may end at.
type target struct {
	reach.Endpoint
	port uint16
}

// engines are the two ways in which the API lets a CNI take hostNetwork pods: for their node, which is the engine's own and the usual one,
// or for pods like any other. Pods is nil where the world has no such pod.
type engines struct{ node, pods *reach.Engine }

func (b *builder) compile(step Step) (e engines, err error) {
	if e.node, err = reach.Compile(step.World, step.Policies, step.ClusterPolicies...); err != nil {
		return e, err
	}
	if !slices.ContainsFunc(step.World.Pods, func(p reach.Pod) bool { return p.HostNetwork }) {
		return e, nil
	}
	w := step.World
	w.Pods = slices.Clone(w.Pods)
	for i := range w.Pods {
		w.Pods[i].HostNetwork = false
	}
	e.pods, err = reach.Compile(w, step.Policies, step.ClusterPolicies...)
	return e, err
}

// views are the verdicts of each direction, one per way to see the connection that the API permits.
type views struct{ egress, ingress []reach.Verdict }

// verdict is what every view says; unknown when they differ.
func (v views) verdict() reach.Verdict {
	all := func(of []reach.Verdict, want reach.Verdict) bool {
		return !slices.ContainsFunc(of, func(got reach.Verdict) bool { return got != want })
	}
	switch {
	case all(v.egress, reach.Deny) || all(v.ingress, reach.Deny):
		return reach.Deny
	case all(v.egress, reach.Allow) && all(v.ingress, reach.Allow):
		return reach.Allow
	default:
		return reach.Unknown
	}
}

// look derives the decision about one destination. Where hostNetwork pods or node ports let the API's implementations see the connection
// differently, and the policies would then decide differently, open says so and the decision holds no verdict.
func (b *builder) look(e engines, step Step, a attempt, source reach.Endpoint, to target) (d reach.Decision, open string, err error) {
	ask := func(engine *reach.Engine, from, at reach.Endpoint, port uint16) reach.Decision {
		got, failed := engine.Decide(reach.Query{Source: from, Destination: at, Protocol: a.protocol, Port: port})
		if failed != nil && err == nil {
			err = failed
		}
		return got
	}
	d = ask(e.node, source, to.Endpoint, to.port)
	v := views{egress: []reach.Verdict{d.Egress.Verdict}, ingress: []reach.Verdict{d.Ingress.Verdict}}
	from, on := b.podIn(step.World, source), b.podIn(step.World, to.Endpoint)
	hosted := from.HostNetwork || on.HostNetwork
	if hosted && source != to.Endpoint {
		as := ask(e.pods, source, to.Endpoint, to.port)
		v.egress, v.ingress = append(v.egress, as.Egress.Verdict), append(v.ingress, as.Ingress.Verdict)
	}
	if from.HostNetwork && from.Node != on.Node {
		for _, address := range b.nodeAddresses(from.Node, a) {
			other := source
			other.Addr = address
			v.ingress = append(v.ingress, ask(e.node, other, to.Endpoint, to.port).Ingress.Verdict)
		}
	}
	if a.Kind == NodePort {
		node := b.facts.Places[a.place]
		d.Notes = append(d.Notes, NoteNodePort)
		if source.Pod != "" { // what an outside host sends is no policy's to see before it is translated
			before := ask(e.node, source, reach.Endpoint{Addr: a.Address.Addr()}, a.Address.Port())
			v.egress = append(v.egress, before.Egress.Verdict)
		}
		for _, name := range []string{node, from.Node} {
			for _, address := range b.nodeAddresses(name, a) {
				v.ingress = append(v.ingress, ask(e.node, reach.Endpoint{Addr: address}, to.Endpoint, to.port).Ingress.Verdict)
			}
		}
		if node == on.Node {
			v.ingress = append(v.ingress, reach.Allow) // what comes from a pod's own node is always allowed
		}
	}
	if err != nil || v.verdict() != reach.Unknown {
		return d, "", err
	}
	notes := d.Notes
	switch {
	case a.Kind == NodePort:
		open = "the policies decide differently about whoever calls a node port and about the node that passes the call on, and the API does not say which of them they see"
	default:
		open = "the policies decide differently about a hostNetwork pod and about its node, and the API lets a CNI take it for either"
	}
	return reach.Decision{Notes: notes}, open, nil
}

// nodeAddresses are those of a node that packets of the attempt may carry: the ones of its family.
func (b *builder) nodeAddresses(node string, a attempt) []netip.Addr {
	family := familyOf(a.Address.Addr())
	if a.Kind == Lookup { // the resolver is asked over the cluster's first family, whichever records are asked for
		family = familyOf(b.facts.Pods[a.Source].IP)
	}
	return slices.DeleteFunc(slices.Clone(b.facts.Nodes[node].Addresses), func(address netip.Addr) bool { return familyOf(address) != family })
}

// podIn is a pod of w; the zero value where there is none, as for an address.
func (b *builder) podIn(w reach.World, e reach.Endpoint) reach.Pod {
	if n := worldIndex(w, e.Namespace, e.Pod); n >= 0 {
		return w.Pods[n]
	}
	return reach.Pod{}
}

// endpoint is a pod of the scenario by its name in the cluster, at its address of the family.
func (b *builder) endpoint(p podName, f probes.Family) reach.Endpoint {
	e := reach.Endpoint{Namespace: b.names.namespace(p.namespace), Pod: p.name}
	if f != probes.FamilyUnknown { // else the engine takes the first
		e.Addr = pick(b.addresses(p.String()), f)
	}
	return e
}

// answersChanged tells whether the name of a headless Service leads elsewhere than before the first step, or to pods made again since.
func (b *builder) answersChanged(w reach.World, a attempt) bool {
	return !slices.EqualFunc(b.firstAnswers[serviceKey(*a.service)], b.behind(w, a.service), func(x, y PodFacts) bool {
		return slices.Equal(x.Addresses(), y.Addresses())
	})
}
