package lint

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/gapproof/gapproof/runner/manifest"
	"github.com/gapproof/gapproof/runner/reach"
)

// across finds what only two policies together show.
func (c *checker) across() {
	for i := range c.set.Policies {
		for _, d := range []direction{ingress, egress} {
			if p := &c.set.Policies[i]; isolates(p, d) && !c.shadowed(p, i, d) {
				c.coveredElsewhere(p, i, d)
			}
		}
	}
	c.halfOpen()
}

// wider tells whether q selects every pod that p selects and has a say in the direction, whatever the world. Of two that select the same pods
// either is wider.
func wider(q, p *manifest.Policy, d direction) bool {
	return q != p && q.Spec.Namespace == p.Spec.Namespace && isolates(q, d) && coversSelector(&q.Spec.Spec.PodSelector, &p.Spec.Spec.PodSelector)
}

// directed are the policy's rules of one direction.
func directed(p *manifest.Policy, d direction) []rule {
	return slices.DeleteFunc(rulesOf(p), func(r rule) bool { return r.list != d.list })
}

func admitsAll(r rule) bool { return len(r.peers) == 0 && len(r.ports) == 0 }

// shadowed finds a policy beside which another admits everything, and tells whether there is one.
func (c *checker) shadowed(p *manifest.Policy, index int, d direction) bool {
	if slices.ContainsFunc(directed(p, d), admitsAll) {
		return false // it is no better
	}
	for j := range c.set.Policies {
		q := &c.set.Policies[j]
		if j == index || !wider(q, p, d) {
			continue
		}
		rules := directed(q, d)
		at := slices.IndexFunc(rules, admitsAll)
		if at < 0 {
			continue
		}
		field := "spec." + d.field
		what := "its rules restrict nothing"
		if len(directed(p, d)) == 0 {
			field, what = "spec.podSelector", "it denies nothing"
		}
		c.add(p, policyShadowed, field, fmt.Sprintf("for %s %s: %s of policy %s (%s) admits everything to the same pods", d.field, what, rules[at].field, q.Name(), q.Place(rules[at].field)),
			"rules of all policies add up: remove the one that admits everything, or this one")
		return true
	}
	return false
}

// coveredElsewhere finds rules that admit nothing beyond a rule of another policy.
func (c *checker) coveredElsewhere(p *manifest.Policy, index int, d direction) {
	for _, a := range directed(p, d) {
		if admitsAll(a) {
			continue
		}
		for j := range c.set.Policies {
			q := &c.set.Policies[j]
			if j == index || !wider(q, p, d) {
				continue
			}
			rules := directed(q, d)
			by := slices.IndexFunc(rules, func(b rule) bool { return coversRule(&b, &a) })
			if by < 0 || j > index && wider(p, q, d) && coversRule(&a, &rules[by]) { // of two equal ones only the second is told
				continue
			}
			c.add(p, ruleCoveredElsewhere, a.field, fmt.Sprintf("the rule admits nothing of its own: %s of policy %s (%s) covers it, for the same pods",
				rules[by].field, q.Name(), q.Place(rules[by].field)), "remove one of the two")
			break
		}
	}
}

// maxPairs bounds how many connections are asked for one rule; a rule that stands for more is not judged.
const maxPairs = 10_000

// halfOpen finds rules that admit connections of which the other end admits none.
func (c *checker) halfOpen() {
	if !c.knowsPods() {
		return
	}
	for i := range c.set.Policies {
		p := &c.set.Policies[i]
		own := c.matching(c.members[p.Spec.Namespace], p.Spec.Spec.PodSelector)
		for _, r := range rulesOf(p) {
			if !isolates(p, r.direction) {
				continue
			}
			if by, pairs := c.refused(&r, own, c.peerPods(&r)); by != nil {
				other, end := ingress, "destinations"
				if r.list == ingress.list {
					other, end = egress, "sources"
				}
				message := fmt.Sprintf("no connection that the rule admits comes about: the %s (%s) admit none of the %d for %s", end, few(pairs.names), pairs.count, other.field)
				if at := (manifest.Place{File: by.File, Line: by.Line}).String(); at != "" {
					message += fmt.Sprintf("; policy %s (%s) is in the way", by.Policy, at)
				}
				c.add(p, halfOpen, r.field, message, "a connection needs both: egress at its source and ingress at its destination")
			}
		}
	}
}

// asked are the connections that stand for a rule.
type asked struct {
	count int
	names []string // of the ends that refuse
}

// refused is a policy at the other ends of a rule's connections when these refuse every one of them; nil when one is admitted, when there is
// none, and when it cannot be known.
func (c *checker) refused(r *rule, own, others []int) (*reach.Ref, asked) {
	var by *reach.Ref
	var out asked
	for _, o := range own {
		for _, e := range others {
			source, destination := o, e
			if r.list == ingress.list {
				source, destination = e, o
			}
			if source == destination {
				continue
			}
			ports := portsOf(r, &c.set.World.Pods[destination])
			if ports == nil {
				return nil, out
			}
			for _, port := range ports {
				if out.count++; out.count > maxPairs {
					return nil, out
				}
				side, ok := c.otherSide(r, source, destination, port)
				if !ok || side.Verdict != reach.Deny || len(side.Isolating) == 0 {
					return nil, out
				}
				by = &side.Isolating[0]
			}
			out.names = append(out.names, c.podName(e))
		}
	}
	slices.Sort(out.names)
	out.names = slices.Compact(out.names)
	return by, out
}

// otherSide is the direction of a connection that the rule is not about; false where the engine leaves it open.
func (c *checker) otherSide(r *rule, source, destination int, port reach.Port) (reach.Side, bool) {
	s, d := &c.set.World.Pods[source], &c.set.World.Pods[destination]
	decision, err := c.engine.Decide(reach.Query{
		Source:      reach.Endpoint{Namespace: s.Namespace, Pod: s.Name},
		Destination: reach.Endpoint{Namespace: d.Namespace, Pod: d.Name},
		Protocol:    port.Protocol, Port: port.Port,
	})
	if err != nil || len(decision.Notes) > 0 {
		return reach.Side{}, false
	}
	if r.list == ingress.list {
		return decision.Egress, true
	}
	return decision.Ingress, true
}

func (c *checker) podName(i int) string {
	return c.set.World.Pods[i].Namespace + "/" + c.set.World.Pods[i].Name
}

// peerPods are the pods that the rule's peers match; none when addresses or everybody are among the peers.
func (c *checker) peerPods(r *rule) []int {
	if len(r.peers) == 0 {
		return nil
	}
	var out []int
	for i := range r.peers {
		p := &r.peers[i]
		if p.IPBlock != nil {
			return nil
		}
		names := []string{r.policy.Spec.Namespace}
		if p.NamespaceSelector != nil {
			names = c.matchingNamespaces(p.NamespaceSelector)
		}
		for _, n := range names {
			members := c.members[n]
			if p.PodSelector != nil {
				members = c.matching(members, *p.PodSelector)
			}
			out = append(out, members...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// portsOf are ports of the destination that the rule is about: numbers it names, and of ranges and missing ports what the destination declares.
// nil when that is not known.
func portsOf(r *rule, destination *reach.Pod) []reach.Port {
	if len(r.ports) == 0 {
		return slices.Clone(destination.Ports)
	}
	var out []reach.Port
	for i := range r.ports {
		p := &r.ports[i]
		protocol := protocolOf(p)
		if p.Port != nil && p.Port.Type == intstr.Int && p.EndPort == nil {
			out = append(out, reach.Port{Protocol: protocol, Port: uint16(p.Port.IntVal)})
			continue
		}
		for _, have := range destination.Ports {
			if have.Protocol == protocol && inPort(p, have) {
				out = append(out, have)
			}
		}
	}
	return out
}

func inPort(p *portType, have reach.Port) bool {
	if p.Port == nil {
		return true
	}
	if p.Port.Type == intstr.String {
		return have.Name == p.Port.StrVal
	}
	first, last := portRange(p)
	return first <= int32(have.Port) && int32(have.Port) <= last
}
