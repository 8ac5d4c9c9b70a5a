package reach

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Classes are the pods, and the destination ports, that the policies cannot tell apart. For two pods of different names, the verdict only
// depends on the source's class, the destination's class, the port's class and the address family; from a hostNetwork source, on whether both are on
// one node, too.
type Classes struct {
	Pods  []PodClass
	Ports []PortClass
	ofPod []int
}

// PodClass are pods that no policy and no port tells apart: every selector and address block of every policy matches all or none of them,
// in each address family, and they have addresses of the same families and the same container ports.
type PodClass struct {
	// Members are indexes into World.Pods, ascending.
	Members []int
}

// PortClass are the ports of one protocol that every policy, and every port name it uses, admits all or none of.
type PortClass struct {
	Protocol corev1.Protocol
	// Ranges are ascending, do not touch and are not empty.
	Ranges []PortRange
}

// PortRange is a range of ports, both ends included.
type PortRange struct{ First, Last uint16 }

// String is "80" or "80-90".
func (r PortRange) String() string {
	if r.First == r.Last {
		return fmt.Sprint(r.First)
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

func (r PortRange) has(port uint16) bool { return r.First <= port && port <= r.Last }

func (c PortClass) has(protocol corev1.Protocol, port uint16) bool {
	return c.Protocol == protocol && slices.ContainsFunc(c.Ranges, func(r PortRange) bool { return r.has(port) })
}

// Pod is the index in Pods of the class of World.Pods[i].
func (c *Classes) Pod(i int) int { return c.ofPod[i] }

// Port is the index in Ports of the port's class, -1 for what is no port of a protocol.
func (c *Classes) Port(protocol corev1.Protocol, port uint16) int {
	return slices.IndexFunc(c.Ports, func(p PortClass) bool { return p.has(protocol, port) })
}

// Classes works out the classes: pods in the order of their first members, ports by protocol and first port.
func (e *Engine) Classes() *Classes {
	out := &Classes{}
	var classes int
	out.ofPod, classes = partition(len(e.pods), e.tellingApart())
	out.Pods = make([]PodClass, classes)
	for i, c := range out.ofPod {
		out.Pods[c].Members = append(out.Pods[c].Members, i)
	}
	for _, protocol := range protocols() {
		out.Ports = append(out.Ports, e.portClasses(protocol)...)
	}
	return out
}

func protocols() []corev1.Protocol {
	return []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP}
}

// eachPolicy calls f with every policy of every tier and the pods it selects.
func (e *Engine) eachPolicy(f func(*compiledPolicy)) {
	for _, list := range [][]compiledPolicy{e.cluster[adminTier], e.network, e.cluster[baselineTier]} {
		for i := range list {
			f(&list[i])
		}
	}
}

// eachRule calls f with every rule of every policy that isolates for the rule's direction.
func (e *Engine) eachRule(f func(*compiledPolicy, direction, *rule)) {
	e.eachPolicy(func(p *compiledPolicy) {
		for d := range directions {
			if p.isolated[d] == nil {
				continue
			}
			for i := range p.rules[d] {
				f(p, d, &p.rules[d][i])
			}
		}
	})
}

// tellingApart are all sets of pods that could make a difference to a verdict.
func (e *Engine) tellingApart() []bitset {
	n := len(e.pods)
	host := newBitset(n)
	ports := map[Port]bitset{}
	var order []Port
	for i := range e.pods {
		if e.pods[i].HostNetwork {
			host.add(i)
		}
		for _, p := range e.pods[i].Ports {
			if ports[p] == nil {
				ports[p] = newBitset(n)
				order = append(order, p)
			}
			ports[p].add(i)
		}
	}
	families := e.having()
	sets := append([]bitset{host}, families[:]...)
	for _, p := range order {
		sets = append(sets, ports[p])
	}
	e.eachPolicy(func(p *compiledPolicy) {
		for _, selected := range p.isolated {
			if selected != nil {
				sets = append(sets, selected)
			}
		}
	})
	e.eachRule(func(_ *compiledPolicy, _ direction, r *rule) {
		for i := range r.peers {
			p := &r.peers[i]
			sets = append(sets, p.pods)
			if p.byAddress() {
				sets = append(sets, e.covered(p, IPv4), e.covered(p, IPv6))
			}
		}
	})
	return sets
}

// portClasses cuts 1–65535 wherever something begins or ends to match, and joins the pieces that match the same.
func (e *Engine) portClasses(protocol corev1.Protocol) []PortClass {
	pieces := map[PortRange]int{} // what can match, numbered
	add := func(r PortRange) {
		if _, known := pieces[r]; !known {
			pieces[r] = len(pieces)
		}
	}
	e.eachRule(func(_ *compiledPolicy, _ direction, r *rule) {
		for _, m := range r.ports {
			switch {
			case m.protocol != protocol && m.protocol != anyProtocol:
			case m.name == "":
				add(PortRange{m.first, m.last})
			default:
				for i := range e.pods {
					for _, p := range e.pods[i].Ports {
						if p.Name == m.name && p.Protocol == protocol && p.Port != 0 {
							add(PortRange{p.Port, p.Port})
						}
					}
				}
			}
		}
	})
	cuts := []int{1, lastPort + 1}
	for r := range pieces {
		cuts = append(cuts, int(r.First), int(r.Last)+1)
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	var out []PortClass
	known := map[string]int{}
	for i := range len(cuts) - 1 {
		r := PortRange{uint16(cuts[i]), uint16(cuts[i+1] - 1)}
		matching := newBitset(len(pieces))
		for piece, number := range pieces {
			if piece.has(r.First) {
				matching.add(number)
			}
		}
		key := matching.key()
		c, ok := known[key]
		if !ok {
			c = len(out)
			known[key] = c
			out = append(out, PortClass{Protocol: protocol})
		}
		// Pieces come in ascending order; two that touch are never of one class, for at the cut between them something changes. Where it
		// changes back at once (a range ends where an equal one begins) they are joined.
		if last := len(out[c].Ranges) - 1; last >= 0 && out[c].Ranges[last].Last == r.First-1 {
			out[c].Ranges[last].Last = r.Last
			continue
		}
		out[c].Ranges = append(out[c].Ranges, r)
	}
	slices.SortFunc(out, func(a, b PortClass) int { return cmp.Compare(a.Ranges[0].First, b.Ranges[0].First) })
	return out
}
