package reach

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// ErrUnknownPod is in the error of a query that names a pod the world lacks.
var ErrUnknownPod = errors.New("the world has no such pod")

// outside is the index of an end that is no pod of the world.
const outside = -1

// end is one resolved end of a query.
type end struct {
	pod  int // index into Engine.pods, or outside
	addr netip.Addr
}

// flow is a resolved query.
type flow struct {
	source, destination end
	protocol            corev1.Protocol
	port                uint16
}

// Decide derives whether the connection must be allowed. It is denied when either direction denies it.
//
// An address without a pod name that belongs to exactly one pod of the world stands for that pod. The error names what is wrong with
// the query: an unknown pod (ErrUnknownPod), no pod at either end, port 0, a protocol other than TCP, UDP and SCTP.
func (e *Engine) Decide(q Query) (Decision, error) {
	f, err := e.resolve(q)
	if err != nil {
		return Decision{}, fmt.Errorf("deciding %s to %s %s/%d: %w", q.Source, q.Destination, q.Protocol, q.Port, err)
	}
	if f.source.pod == f.destination.pod {
		self := Side{Verdict: Allow}
		return Decision{Verdict: Allow, Egress: self, Ingress: self, Notes: []string{NoteSelfTraffic}}, nil
	}
	var out Decision
	var notes noteSet
	out.Egress = e.side(egress, f.source, f.destination, f, &notes)
	out.Ingress = e.ingressSide(f, &notes)
	out.Verdict = Deny
	if out.Egress.Verdict == Allow && out.Ingress.Verdict == Allow {
		out.Verdict = Allow
	}
	if e.onHost(f.source) || e.onHost(f.destination) {
		notes.add(NoteHostNetwork)
	}
	out.Notes = notes.sorted()
	return out, nil
}

// ingressSide is the verdict of the destination, whose own node may always reach it.
func (e *Engine) ingressSide(f flow, notes *noteSet) Side {
	if e.onHost(f.source) && f.destination.pod != outside {
		node := e.pods[f.destination.pod].Node
		if node != "" && node == e.pods[f.source.pod].Node {
			notes.add(NoteLocalNode)
			return Side{Verdict: Allow, Isolating: isolatingRefs(e.isolating[ingress][f.destination.pod], ingress)}
		}
	}
	return e.side(ingress, f.destination, f.source, f, notes)
}

// side is the verdict of one direction: subject is the end whose policies count, other the one they speak about.
func (e *Engine) side(d direction, subject, other end, f flow, notes *noteSet) Side {
	if subject.pod == outside {
		return Side{Verdict: Allow}
	}
	var side Side
	if e.tier(adminTier, d, subject, other, f, notes, &side) {
		return side
	}
	policies := e.isolating[d][subject.pod]
	if len(policies) == 0 {
		if !e.tier(baselineTier, d, subject, other, f, notes, &side) {
			side.Verdict = Allow
		}
		return side
	}
	side.Verdict, side.Isolating = Deny, isolatingRefs(policies, d)
	for _, p := range policies {
		for i := range p.rules[d] {
			r := &p.rules[d][i]
			port := e.admittingPort(r, f)
			if port < 0 {
				continue
			}
			by := e.admittingPeer(r, other)
			if by < 0 {
				continue
			}
			side.Verdict, side.Allowing = Allow, p.allowing(r, by, port)
			if by < len(r.peers) && r.peers[by].block != nil && other.pod != outside {
				notes.add(NoteIPBlockPod)
			}
			return side
		}
	}
	side.Nearest = e.nearest(d, subject, policies, []before{{policies: e.cluster[adminTier]}}, other, f)
	return side
}

// admittingPort is the index of the first item of ports that matches, 0 when the list has none, -1 when nothing matches.
func (e *Engine) admittingPort(r *rule, f flow) int {
	if len(r.ports) == 0 {
		return 0
	}
	destination := e.podAt(f.destination)
	return slices.IndexFunc(r.ports, func(m portMatch) bool { return m.matches(f.protocol, f.port, destination) })
}

// admittingPeer is the index of the first peer that matches, 0 when the list has none, -1 when nothing matches.
func (e *Engine) admittingPeer(r *rule, other end) int {
	if len(r.peers) == 0 {
		return 0
	}
	for i := range r.peers {
		if e.peerMatches(&r.peers[i], other) {
			return i
		}
	}
	return -1
}

func (e *Engine) peerMatches(p *peer, other end) bool {
	if p.byAddress() && (other.pod == outside || other.addr != e.pods[other.pod].addr) {
		return other.addr.IsValid() && p.covers(other.addr)
	}
	return other.pod != outside && p.pods.has(other.pod)
}

func (e *Engine) podAt(n end) *pod {
	if n.pod == outside {
		return nil
	}
	return &e.pods[n.pod]
}

func (e *Engine) onHost(n end) bool { return n.pod != outside && e.pods[n.pod].HostNetwork }

func (e *Engine) resolve(q Query) (flow, error) {
	f := flow{protocol: q.Protocol, port: q.Port}
	if !isProtocol(q.Protocol) {
		return f, fmt.Errorf("protocol %q is not one of TCP, UDP, SCTP", q.Protocol)
	}
	if q.Port == 0 {
		return f, errors.New("port 0 is no destination port")
	}
	var err error
	if f.source, err = e.end(q.Source); err != nil {
		return f, err
	}
	if f.destination, err = e.end(q.Destination); err != nil {
		return f, err
	}
	if f.source.pod == outside && f.destination.pod == outside {
		return f, errors.New("neither end is a pod of the world")
	}
	return f, nil
}

func (e *Engine) end(p Endpoint) (end, error) {
	addr := p.Addr
	if addr.IsValid() {
		addr = addr.Unmap().WithZone("")
	}
	if p.Namespace == "" && p.Pod == "" {
		if !addr.IsValid() {
			return end{}, errors.New("an endpoint names neither a pod nor an address")
		}
		if i, ok := e.byAddr[addr]; ok {
			return end{i, addr}, nil
		}
		return end{outside, addr}, nil
	}
	i, ok := e.index[podName{p.Namespace, p.Pod}]
	if !ok {
		return end{}, fmt.Errorf("finding pod %s/%s: %w", p.Namespace, p.Pod, ErrUnknownPod)
	}
	if !addr.IsValid() {
		addr = e.pods[i].addr
	}
	return end{i, addr}, nil
}

// String is "namespace/pod" or the outside address.
func (p Endpoint) String() string {
	if p.Namespace == "" && p.Pod == "" {
		return p.Addr.String()
	}
	return p.Namespace + "/" + p.Pod
}

// noteSet gathers the notes of one decision.
type noteSet []string

func (s *noteSet) add(note string) {
	if !slices.Contains(*s, note) {
		*s = append(*s, note)
	}
}

func (s *noteSet) sorted() []string {
	slices.Sort(*s)
	return *s
}
