package reach

import (
	"fmt"
	"iter"
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
	// ForPortBoundary: a port at the end of a rule's range, or right beside it. An end that is an address may be where nothing answers;
	// whoever runs the probe must put something there.
	ForPortBoundary
	// ForBlockEdge: an address at the end of a block or of its except, or right beside it; the same holds for it.
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
	// Query names of each end the address that the connection goes by.
	Query     Query
	Placement Placement
	Purpose   Purpose
	// Family is that of the addresses; FirstAddress where an end is a pod without any, of which no address is named.
	Family Family
}

// Uncovered is a part of a policy that no probe is about, and why.
type Uncovered struct {
	// Policy is "namespace/name", of a ClusterNetworkPolicy "name".
	Policy string `json:"policy"`
	// Field is the item of ports or the peer, such as "spec.ingress[0].ports[1]".
	Field  string `json:"field"`
	Reason string `json:"reason"`
}

// Coverage states what a set of probes covers.
type Coverage struct {
	PodClasses  int `json:"podClasses"`
	PortClasses int `json:"portClasses"`
	// Combinations are source class × destination class × port class × address family, as far as two different pods with addresses of that family
	// are in them. Pods without an address count as of one family.
	Combinations int `json:"combinations"`
	// SameNode and CrossNode are the combinations with a witness on one node and on two. They fall short of Combinations where no pods are
	// placed so; Unplaced are those with neither, whose witnesses have no node.
	SameNode  int `json:"sameNode"`
	CrossNode int `json:"crossNode"`
	Unplaced  int `json:"unplaced"`
	// Boundaries and Edges are the probes at the ends of port ranges and of address blocks, as far as they are no witness already.
	Boundaries int `json:"boundaries"`
	Edges      int `json:"edges"`
	// Probes is the size of the set; Stands the number of connections (ordered pairs of pods × address families that both have × ports of three
	// protocols) it stands for.
	Probes int   `json:"probes"`
	Stands int64 `json:"stands"`
	// Uncovered are the ends of ports and of address blocks that could not be probed, or not all of them, in the order of the policies.
	Uncovered []Uncovered `json:"uncovered,omitempty"`
}

// MinimalProbes chooses the connections that are enough to try: of every (source class, destination class, port class, address family) one on the
// same node and one across nodes, then the ends of port ranges and of address blocks, each connection once. By the engine every connection
// between two pods has the verdict of its classes' witness in its family, so what these probes show holds for all unless the CNI tells apart what the
// policies do not.
//
// Witnesses are the first pods that fit, on a port the destination has if its class has one; the sequence is the same every time.
// What of the policies' own ends has no probe is in [Coverage].
func (e *Engine) MinimalProbes() iter.Seq[Probe] {
	return func(yield func(Probe) bool) { newChooser(e, yield).all() }
}

// Coverage says what MinimalProbes covers. It walks the whole set.
func (e *Engine) Coverage() Coverage {
	var out Coverage
	c := newChooser(e, func(p Probe) bool {
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
		return true
	})
	c.all()
	out.PodClasses, out.PortClasses, out.Uncovered = len(c.classes.Pods), len(c.classes.Ports), c.uncovered
	for i, a := range c.classes.Pods {
		for j, b := range c.classes.Pods {
			source, destination, pairs := a.Members[0], b.Members[0], len(a.Members)*len(b.Members)
			if i == j {
				if len(a.Members) == 1 {
					continue
				}
				destination, pairs = a.Members[1], len(a.Members)*(len(a.Members)-1)
			}
			families := len(e.families(source, destination))
			out.Combinations += families * len(c.classes.Ports)
			out.Stands += int64(pairs) * int64(families) * lastPort * int64(len(protocols()))
		}
	}
	return out
}

// chooser hands out probes, no connection twice.
type chooser struct {
	engine  *Engine
	classes *Classes
	// having are the pods with an address of the family; of FirstAddress, those without any.
	having    [IPv6 + 1]bitset
	seen      map[Query]struct{}
	uncovered []Uncovered
	yield     func(Probe) bool
}

func newChooser(e *Engine, yield func(Probe) bool) *chooser {
	c := &chooser{engine: e, classes: e.Classes(), seen: map[Query]struct{}{}, yield: yield}
	c.having = e.having()
	return c
}

func (c *chooser) all() { _ = c.combinations() && c.boundaries() && c.edges() }

func (c *chooser) give(q Query, at Placement, why Purpose, f Family) bool {
	if _, twice := c.seen[q]; twice {
		return true
	}
	c.seen[q] = struct{}{}
	return c.yield(Probe{q, at, why, f})
}

func (c *chooser) endpoint(i int, f Family) Endpoint {
	p := &c.engine.pods[i]
	out := Endpoint{Namespace: p.Namespace, Pod: p.Name}
	if f != FirstAddress {
		out.Addr = p.address(f)
	}
	return out
}

// having are, by family, the pods with an address of it; of FirstAddress, those without any.
func (e *Engine) having() [IPv6 + 1]bitset {
	var out [IPv6 + 1]bitset
	for f := range out {
		out[f] = newBitset(len(e.pods))
	}
	for i := range e.pods {
		if !e.pods[i].addr.IsValid() {
			out[FirstAddress].add(i)
		}
		for _, f := range []Family{IPv4, IPv6} {
			if e.pods[i].address(f).IsValid() {
				out[f].add(i)
			}
		}
	}
	return out
}

// families are those that a connection between two pods can go by: those of which both have an address, none when they have addresses of different
// ones. Of a pod without an address no family is known; FirstAddress stands for it.
func (e *Engine) families(a, b int) []Family {
	if !e.pods[a].addr.IsValid() || !e.pods[b].addr.IsValid() {
		return []Family{FirstAddress}
	}
	var out []Family
	for _, f := range []Family{IPv4, IPv6} {
		if e.pods[a].address(f).IsValid() && e.pods[b].address(f).IsValid() {
			out = append(out, f)
		}
	}
	return out
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
					for _, f := range c.engine.families(w.source, w.destination) {
						q := Query{Source: c.endpoint(w.source, f), Destination: c.endpoint(w.destination, f), Protocol: c.classes.Ports[k].Protocol, Port: port}
						if !c.give(q, w.placement, ForClasses, f) {
							return false
						}
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
