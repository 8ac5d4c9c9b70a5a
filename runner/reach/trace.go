package reach

import (
	"fmt"
	"strings"
)

func (p *policy) ref(field, reason string) Ref {
	return Ref{Policy: p.name, Field: field, Tier: string(p.tier), Reason: reason, File: p.file, Line: p.line}
}

// isolatingRefs points at what makes each policy select the pod.
func isolatingRefs(policies []*policy, d direction) []Ref {
	if len(policies) == 0 {
		return nil
	}
	out := make([]Ref, len(policies))
	for i, p := range policies {
		out[i] = p.isolates[d]
	}
	return out
}

func (p *policy) isolatingRef(d direction) Ref {
	reason := fmt.Sprintf("podSelector %s matches the pod", p.selector)
	if len(p.selector) == 0 {
		namespace, _, _ := strings.Cut(p.name, "/")
		reason = "podSelector {} selects every pod of namespace " + namespace
	}
	if len(p.rules[d]) == 0 {
		reason += fmt.Sprintf("; no %s rule", d)
	}
	return p.ref("spec.podSelector", reason)
}

// String is the API's word in lower case, as in the field names of a policy's spec.
func (d direction) String() string {
	if d == ingress {
		return "ingress"
	}
	return "egress"
}

// allowing points at the peer (or, where the rule names none, the rule) that allowed a flow, and the port that did.
func (p *policy) allowing(r *rule, by, port int) *Ref {
	field, reason := r.field, fmt.Sprintf("%s is %s: every %s matches", r.peerList, r.peersWritten, r.otherEnd())
	if len(r.peers) > 0 {
		field, reason = r.peers[by].field, r.peers[by].matched()
	}
	ref := p.ref(field, reason+"; "+r.portReason(port))
	return &ref
}

// otherEnd is what the rule's peers stand for.
func (r *rule) otherEnd() string {
	if r.peerList == "from" {
		return "source"
	}
	return "destination"
}

func (r *rule) portReason(i int) string {
	if len(r.ports) == 0 {
		return fmt.Sprintf("%s is %s: every port matches", r.portList, r.portsWritten)
	}
	return fmt.Sprintf("%s[%d] %s matches", r.portList, i, r.ports[i])
}

// matched says why the peer matches a flow that it is known to match.
func (p *peer) matched() string {
	switch {
	case p.cluster != nil:
		return p.cluster.matched
	case p.block != nil:
		return fmt.Sprintf("ipBlock %s covers the address", p.block.cidr)
	case p.podSelector == nil:
		return fmt.Sprintf("%s, no podSelector: every pod there matches", selects("namespaceSelector", "namespace", *p.namespaces))
	case p.namespaces == nil:
		return selects("podSelector", "pod of the policy's own namespace", *p.podSelector)
	default:
		return selects("namespaceSelector", "namespace", *p.namespaces) + " and " + selects("podSelector", "pod", *p.podSelector)
	}
}

func selects(field, each string, s selector) string {
	if len(s) == 0 {
		return fmt.Sprintf("%s {} matches every %s", field, each)
	}
	return fmt.Sprintf("%s %s matches", field, s)
}

// closeness orders the rules of a deny by how much of each matched. A whole peer outweighs any part of one; a port breaks the tie.
type closeness float64

const (
	peerCloseness closeness = 5 // the whole peer matched: more than almost all of a peer and the port
	halfCloseness closeness = 2 // one of its two selectors matched, or cidr did but for an except
	portCloseness closeness = 1
	// partCloseness is what the share of met requirements counts in a selector that does not match: never as much as a whole selector.
	partCloseness closeness = 0.9
)

// nearest is the rule that would have allowed the flow and matched most, and what it lacked: one of the NetworkPolicies, or of the
// ClusterNetworkPolicies that select the subject and were asked before the denial. Of equals the first, a NetworkPolicy's before a
// ClusterNetworkPolicy's: its author is nearer, too. Nil when there is no such rule.
func (e *Engine) nearest(d direction, subject end, policies []*policy, cluster []before, other end, f flow) *Ref {
	n := nearness{engine: e, direction: d, other: other, flow: f, score: -1}
	for _, p := range policies {
		for i := range p.rules[d] {
			n.try(p, &p.rules[d][i])
		}
	}
	for _, c := range cluster {
		for i := range c.policies {
			p := &c.policies[i]
			if !p.isolated[d].has(subject.pod) {
				continue
			}
			for j := range p.rules[d] {
				if p.name == c.denying.Policy && p.rules[d][j].field == c.denying.Field {
					return n.best
				}
				if p.rules[d][j].action == accept {
					n.try(&p.policy, &p.rules[d][j])
				}
			}
		}
	}
	return n.best
}

// before are the policies of a tier up to the rule that denied; the zero Ref stands for a tier that decided nothing.
type before struct {
	policies []compiledPolicy
	denying  Ref
}

// nearness is one search for the nearest rule.
type nearness struct {
	engine    *Engine
	direction direction
	other     end
	flow      flow
	best      *Ref
	score     closeness
}

// take keeps what a rule lacked when nothing came nearer so far.
func (n *nearness) take(p *policy, field, reason string, score closeness) {
	if score > n.score {
		ref := p.ref(field, reason)
		n.best, n.score = &ref, score
	}
}

// try holds one rule, which did not match, against the flow.
func (n *nearness) try(p *policy, r *rule) {
	var portScore closeness
	portReason := n.engine.portLack(r, n.flow)
	if admits := n.engine.admittingPort(r, n.flow); admits >= 0 {
		portScore, portReason = portCloseness, r.portReason(admits)
	}
	if by := n.engine.admittingPeer(r, n.other); by >= 0 {
		reason := "every " + r.otherEnd() + " matches"
		if len(r.peers) > 0 {
			reason = r.peers[by].matched()
		}
		n.take(p, r.field+"."+r.portList, reason+"; "+portReason, peerCloseness+portScore)
		return
	}
	for i := range r.peers {
		field, reason, score := n.engine.peerLack(&r.peers[i], p, n.other)
		n.take(p, field, reason+"; "+portReason, score+portScore)
	}
}

// portLack says which ports the rule allows instead of the flow's.
func (e *Engine) portLack(r *rule, f flow) string {
	names := make([]string, len(r.ports))
	for i, m := range r.ports {
		names[i] = m.String()
		if m.name == "" || m.protocol != f.protocol && m.protocol != anyProtocol {
			continue
		}
		if destination := e.podAt(f.destination); destination == nil {
			names[i] += " (an address outside names no port)"
		} else {
			names[i] += " (" + destination.portNamed(m.name) + ")"
		}
	}
	return fmt.Sprintf("%s wants %s, the connection goes to %s/%d", r.portList, strings.Join(names, " or "), f.protocol, f.port)
}

// portNamed says what the pod calls name.
func (p *pod) portNamed(name string) string {
	for _, port := range p.Ports {
		if port.Name == name {
			return fmt.Sprintf("%s/%d at the pod", port.Protocol, port.Port)
		}
	}
	return "the pod has no port of that name"
}

// peerLack says what kept a peer from matching, in which field, and how near it came.
func (e *Engine) peerLack(p *peer, of *policy, other end) (field, reason string, score closeness) {
	switch {
	case p.block != nil:
		return p.blockLack(other)
	case p.byAddress() && p.cluster.domains:
		return p.field, "domainNames are not resolved here", 0
	case p.byAddress() && !other.addr.IsValid():
		return p.field, "nodes wants an address, the pod has none", 0
	case p.byAddress():
		return p.field, fmt.Sprintf("nodes wants an address of %s, %s is none", p.cluster.wants, other.addr), 0
	case other.pod == outside:
		return p.field, fmt.Sprintf("the peer matches pods, %s is an address outside of the cluster", other.addr), 0
	}
	o := &e.pods[other.pod]
	if o.HostNetwork {
		return p.field, fmt.Sprintf("selectors do not match %s/%s, a hostNetwork pod", o.Namespace, o.Name), 0
	}
	namespace, _, _ := strings.Cut(of.name, "/")
	var reasons []string
	var met closeness // selectors that matched, at most just below 2
	field = p.field
	namespaces, ofNamespaces := "namespaceSelector", ".namespaceSelector"
	if p.cluster != nil && p.podSelector == nil { // the field itself is the selector
		namespaces, ofNamespaces = "namespaces", ""
	}
	switch {
	case p.namespaces == nil && o.Namespace == namespace:
		met++
	case p.namespaces == nil:
		reasons = append(reasons, fmt.Sprintf("without namespaceSelector only pods of %s match, the pod is in %s", namespace, o.Namespace))
	case p.namespaces.matches(o.namespaceLabels):
		met++
		reasons = append(reasons, namespaces+" matches")
	default:
		lack, share := p.namespaces.lack("namespace", o.namespaceLabels)
		met += share * partCloseness
		field += ofNamespaces
		reasons = append(reasons, namespaces+" "+lack)
	}
	switch {
	case p.podSelector == nil:
	case p.podSelector.matches(o.Labels):
		met++
		reasons = append(reasons, "podSelector matches")
	default:
		lack, share := p.podSelector.lack("pod", o.Labels)
		met += share * partCloseness
		if field == p.field {
			field += ".podSelector"
		}
		reasons = append(reasons, "podSelector "+lack)
	}
	return field, strings.Join(reasons, ", "), halfCloseness * met
}

// blockLack is peerLack for an ipBlock, or for one of the networks of a ClusterNetworkPolicy.
func (p *peer) blockLack(other end) (field, reason string, score closeness) {
	what, block, cidr := "ipBlock", p.field+".ipBlock", p.field+".ipBlock.cidr"
	if p.cluster != nil {
		what, block, cidr = "network", p.field, p.field
	}
	switch {
	case !other.addr.IsValid():
		return block, what + " wants an address, the pod has none", 0
	case !p.block.cidr.Contains(other.addr):
		return cidr, fmt.Sprintf("%s %s does not cover %s", what, p.block.cidr, other.addr), 0
	default:
		i := p.block.exceptOf(other.addr)
		if i < 0 { // cannot be: then the peer matched
			return block, what + " matches", halfCloseness
		}
		return fmt.Sprintf("%s.except[%d]", block, i), fmt.Sprintf("%s %s covers %s, except %s takes it out", what, p.block.cidr, other.addr, p.block.except[i]), halfCloseness
	}
}
