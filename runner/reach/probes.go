package reach

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Placement says where the two ends of a probe are.
type Placement uint8

// The placements. UnknownPlacement is a pair of which an end has no node, or is no pod.
const (
	UnknownPlacement Placement = iota
	SameNode
	CrossNode
)

var placementNames = [...]string{UnknownPlacement: "unknown", SameNode: "same-node", CrossNode: "cross-node"}

// String is "same-node", "cross-node" or "unknown".
func (p Placement) String() string {
	if int(p) >= len(placementNames) {
		return fmt.Sprintf("invalid(%d)", uint8(p))
	}
	return placementNames[p]
}

// Purpose says why a probe is in the set.
type Purpose uint8

// The purposes. The zero value is unknown and never given.
const (
	UnknownPurpose Purpose = iota
	// ForClasses: the witness of one source class, destination class, port class and placement.
	ForClasses
	// ForPortBoundary: a port at the end of a rule's range, or right beside it.
	ForPortBoundary
	// ForBlockEdge: an address at the end of a block or of its except, or right beside it. The other end of the probe may be where nothing
	// answers; whoever runs it must put something there.
	ForBlockEdge
)

var purposeNames = [...]string{UnknownPurpose: "unknown", ForClasses: "classes", ForPortBoundary: "port-boundary", ForBlockEdge: "block-edge"}

// String is "classes", "port-boundary" or "block-edge".
func (p Purpose) String() string {
	if int(p) >= len(purposeNames) {
		return fmt.Sprintf("invalid(%d)", uint8(p))
	}
	return purposeNames[p]
}

// Probe is one connection worth trying.
type Probe struct {
	Query     Query
	Placement Placement
	Purpose   Purpose
}

// Coverage states what a set of probes covers.
type Coverage struct {
	PodClasses  int `json:"podClasses"`
	PortClasses int `json:"portClasses"`
	// Combinations are source class × destination class × port class, as far as two different pods are in them.
	Combinations int `json:"combinations"`
	// SameNode and CrossNode are the combinations with a witness on one node and on two. They fall short of Combinations where no pods are
	// placed so; Unplaced are those with neither, whose witnesses have no node.
	SameNode  int `json:"sameNode"`
	CrossNode int `json:"crossNode"`
	Unplaced  int `json:"unplaced"`
	// Boundaries and Edges are the probes at the ends of port ranges and of address blocks.
	Boundaries int `json:"boundaries"`
	Edges      int `json:"edges"`
	// Probes is the size of the set; Stands the number of connections (ordered pairs of pods × ports of three protocols) it stands for.
	Probes int   `json:"probes"`
	Stands int64 `json:"stands"`
}

// MinimalProbes chooses the connections that are enough to try: of every (source class, destination class, port class) one on the same node
// and one across nodes, then the ends of port ranges and of address blocks, each connection once. By the engine every connection between
// two pods has the verdict of its classes' witness, so what these probes show holds for all unless the CNI tells apart what the policies do not.
//
// Witnesses are the first pods that fit, on a port the destination has if its class has one; the sequence is the same every time.
func (e *Engine) MinimalProbes() iter.Seq[Probe] {
	return func(yield func(Probe) bool) {
		c := chooser{engine: e, classes: e.Classes(), seen: map[Query]struct{}{}, yield: yield}
		_ = c.combinations() && c.boundaries() && c.edges()
	}
}

// Coverage says what MinimalProbes covers. It walks the whole set.
func (e *Engine) Coverage() Coverage {
	classes := e.Classes()
	out := Coverage{PodClasses: len(classes.Pods), PortClasses: len(classes.Ports)}
	pairs := 0
	for i, a := range classes.Pods {
		for j, b := range classes.Pods {
			if i != j || len(a.Members) > 1 && len(b.Members) > 1 {
				pairs++
			}
		}
	}
	out.Combinations = pairs * len(classes.Ports)
	n := int64(len(e.pods))
	out.Stands = n * (n - 1) * lastPort * int64(len(protocols()))
	for p := range e.MinimalProbes() {
		out.Probes++
		switch {
		case p.Purpose == ForPortBoundary:
			out.Boundaries++
		case p.Purpose == ForBlockEdge:
			out.Edges++
		case p.Placement == SameNode:
			out.SameNode++
		case p.Placement == CrossNode:
			out.CrossNode++
		default:
			out.Unplaced++
		}
	}
	return out
}

// chooser hands out probes, no connection twice.
type chooser struct {
	engine  *Engine
	classes *Classes
	seen    map[Query]struct{}
	yield   func(Probe) bool
}

func (c *chooser) give(q Query, at Placement, why Purpose) bool {
	if _, twice := c.seen[q]; twice {
		return true
	}
	c.seen[q] = struct{}{}
	return c.yield(Probe{q, at, why})
}

func (c *chooser) endpoint(i int) Endpoint {
	return Endpoint{Namespace: c.engine.pods[i].Namespace, Pod: c.engine.pods[i].Name}
}

// combinations gives the witnesses of the classes.
func (c *chooser) combinations() bool {
	placed := make([]placed, len(c.classes.Pods))
	for i, class := range c.classes.Pods {
		placed[i] = c.place(class)
	}
	for i := range placed {
		for j := range placed {
			for _, w := range witnesses(&placed[i], &placed[j]) {
				for k := range c.classes.Ports {
					port := c.port(&c.classes.Ports[k], w.destination)
					q := Query{Source: c.endpoint(w.source), Destination: c.endpoint(w.destination), Protocol: c.classes.Ports[k].Protocol, Port: port}
					if !c.give(q, w.placement, ForClasses) {
						return false
					}
				}
			}
		}
	}
	return true
}

// port is a port of the class that the destination has, else the class's first.
func (c *chooser) port(class *PortClass, destination int) uint16 {
	for _, p := range c.engine.pods[destination].Ports {
		if class.has(p.Protocol, p.Port) {
			return p.Port
		}
	}
	return class.Ranges[0].First
}

// placed is a class by nodes: of each node the first two members, nodes in the order of their first members.
type placed struct {
	nodes []string
	on    map[string][]int
}

// spare is how many members of a class a node is remembered with: a class that is probed with itself needs two.
const spare = 2

func (c *chooser) place(class PodClass) placed {
	p := placed{on: map[string][]int{}}
	for _, i := range class.Members {
		node := c.engine.pods[i].Node
		if p.on[node] == nil {
			p.nodes = append(p.nodes, node)
		}
		if len(p.on[node]) < spare {
			p.on[node] = append(p.on[node], i)
		}
	}
	return p
}

type witness struct {
	source, destination int
	placement           Placement
}

// witnesses are a pair on one node and a pair across nodes, as far as there are; a pair of no known placement when there is neither.
func witnesses(a, b *placed) []witness {
	var out []witness
	if w, ok := firstPair(a, b, func(m, n string) bool { return m != "" && m == n }); ok {
		w.placement = SameNode
		out = append(out, w)
	}
	if w, ok := firstPair(a, b, func(m, n string) bool { return m != "" && n != "" && m != n }); ok {
		w.placement = CrossNode
		out = append(out, w)
	}
	if len(out) == 0 {
		if w, ok := firstPair(a, b, func(_, _ string) bool { return true }); ok {
			out = append(out, w)
		}
	}
	return out
}

// firstPair is the first pair of two different pods on nodes that fit.
func firstPair(a, b *placed, fit func(m, n string) bool) (witness, bool) {
	for _, m := range a.nodes {
		for _, n := range b.nodes {
			if !fit(m, n) {
				continue
			}
			for _, s := range a.on[m] {
				for _, d := range b.on[n] {
					if s != d {
						return witness{source: s, destination: d}, true
					}
				}
			}
		}
	}
	return witness{}, false
}

// boundaries gives, for every rule with numbered ports, the ends of each range and the ports beside them, between one pair that the rule is about.
func (c *chooser) boundaries() bool {
	more := true
	c.engine.eachRule(func(p *compiledPolicy, d direction, r *rule) {
		source, destination, ok := c.pairOf(p, d, r)
		if !ok {
			return
		}
		at := c.engine.placement(source, destination)
		for _, m := range r.ports {
			if m.name != "" {
				continue
			}
			for _, port := range []int{int(m.first) - 1, int(m.first), int(m.last), int(m.last) + 1} {
				if port < 1 || port > lastPort || !more {
					continue
				}
				more = c.give(Query{Source: c.endpoint(source), Destination: c.endpoint(destination), Protocol: m.protocol, Port: uint16(port)}, at, ForPortBoundary)
			}
		}
	})
	return more
}

// pairOf is the first pair of pods, one selected by the policy and the other by the rule's peers.
func (c *chooser) pairOf(p *compiledPolicy, d direction, r *rule) (source, destination int, ok bool) {
	peers := fullBitset(len(c.engine.pods))
	if len(r.peers) > 0 {
		clear(peers)
		for i := range r.peers {
			peers.or(r.peers[i].pods)
		}
	}
	subject := p.isolated[d].first()
	if subject < 0 {
		return 0, 0, false
	}
	other := peers.firstBeside(subject)
	if other < 0 { // the peers may be that one pod; then another subject might do
		other, subject = subject, p.isolated[d].firstBeside(subject)
		if subject < 0 || !peers.has(other) {
			return 0, 0, false
		}
	}
	if d == egress {
		return subject, other, true
	}
	return other, subject, true
}

func (e *Engine) placement(a, b int) Placement {
	switch m, n := e.pods[a].Node, e.pods[b].Node; {
	case m == "" || n == "":
		return UnknownPlacement
	case m == n:
		return SameNode
	default:
		return CrossNode
	}
}

// edges gives, for every address block, the addresses at its ends and beside them, and those of its excepts, with the first pod that the
// policy selects, over a port that the rule admits.
func (c *chooser) edges() bool {
	more := true
	c.engine.eachRule(func(p *compiledPolicy, d direction, r *rule) {
		if p.isolated[d].empty() {
			return
		}
		subject := c.endpoint(p.isolated[d].first())
		protocol, port := corev1.ProtocolTCP, uint16(1)
		if i := slices.IndexFunc(r.ports, func(m portMatch) bool { return m.name == "" }); i >= 0 {
			protocol, port = r.ports[i].protocol, r.ports[i].first
		}
		for i := range r.peers {
			b := r.peers[i].block
			if b == nil {
				continue
			}
			for _, prefix := range append([]netip.Prefix{b.cidr}, b.except...) {
				for _, a := range edgesOf(prefix) {
					q := Query{Source: subject, Destination: Endpoint{Addr: a}, Protocol: protocol, Port: port}
					if d == ingress {
						q.Source, q.Destination = q.Destination, q.Source
					}
					if more {
						more = c.give(q, UnknownPlacement, ForBlockEdge)
					}
				}
			}
		}
	})
	return more
}

// edgesOf are the first and the last address of the block and their neighbours outside of it, as far as there are. No address twice.
func edgesOf(p netip.Prefix) []netip.Addr {
	first := p.Masked().Addr()
	last := lastOf(p)
	var out []netip.Addr
	for _, a := range []netip.Addr{first.Prev(), first, last, last.Next()} {
		if a.IsValid() && !a.IsUnspecified() && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// lastOf is the address of the block with all host bits set.
func lastOf(p netip.Prefix) netip.Addr {
	const bitsInByte = 8
	bytes := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(bytes)*bitsInByte; bit++ {
		bytes[bit/bitsInByte] |= 1 << (bitsInByte - 1 - bit%bitsInByte)
	}
	last, _ := netip.AddrFromSlice(bytes) // as long as the address it came from
	return last
}
