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

// nearest is the rule that matched most and what it lacked; of equals the first. Nil when there is no rule.
func (e *Engine) nearest(d direction, policies []*policy, other end, f flow) *Ref {
	var best *Ref
	var bestScore closeness = -1
	for _, p := range policies {
		for i := range p.rules[d] {
			r := &p.rules[d][i]
			var portScore closeness
			portReason := e.portLack(r, f)
			if admits := e.admittingPort(r, f); admits >= 0 {
				portScore, portReason = portCloseness, r.portReason(admits)
			}
			if by := e.admittingPeer(r, other); by >= 0 {
				reason := "every " + r.otherEnd() + " matches"
				if len(r.peers) > 0 {
					reason = r.peers[by].matched()
				}
				if score := peerCloseness + portScore; score > bestScore {
					ref := p.ref(r.field+".ports", reason+"; "+portReason)
					best, bestScore = &ref, score
				}
				continue
			}
			for j := range r.peers {
				field, reason, score := e.peerLack(&r.peers[j], p, other)
				if score += portScore; score > bestScore {
					ref := p.ref(field, reason+"; "+portReason)
					best, bestScore = &ref, score
				}
			}
		}
	}
	return best
}

// portLack says which ports the rule allows instead of the flow's.
func (e *Engine) portLack(r *rule, f flow) string {
	names := make([]string, len(r.ports))
	for i, m := range r.ports {
		names[i] = m.String()
		if m.name == "" || m.protocol != f.protocol {
			continue
		}
		if destination := e.podAt(f.destination); destination == nil {
			names[i] += " (an address outside names no port)"
		} else {
			names[i] += " (" + destination.portNamed(m.name) + ")"
		}
	}
	return fmt.Sprintf("ports wants %s, the connection goes to %s/%d", strings.Join(names, " or "), f.protocol, f.port)
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
	if p.block != nil {
		return p.blockLack(other)
	}
	if other.pod == outside {
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
	switch {
	case p.namespaces == nil && o.Namespace == namespace:
		met++
	case p.namespaces == nil:
		reasons = append(reasons, fmt.Sprintf("without namespaceSelector only pods of %s match, the pod is in %s", namespace, o.Namespace))
	case p.namespaces.matches(o.namespaceLabels):
		met++
		reasons = append(reasons, "namespaceSelector matches")
	default:
		lack, share := p.namespaces.lack("namespace", o.namespaceLabels)
		met += share * partCloseness
		field += ".namespaceSelector"
		reasons = append(reasons, "namespaceSelector "+lack)
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

// blockLack is peerLack for an ipBlock.
func (p *peer) blockLack(other end) (field, reason string, score closeness) {
	field = p.field + ".ipBlock"
	switch {
	case !other.addr.IsValid():
		return field, "ipBlock wants an address, the pod has none", 0
	case !p.block.cidr.Contains(other.addr):
		return field + ".cidr", fmt.Sprintf("ipBlock %s does not cover %s", p.block.cidr, other.addr), 0
	default:
		i := p.block.exceptOf(other.addr)
		if i < 0 { // cannot be: then the peer matched
			return field, "ipBlock matches", halfCloseness
		}
		return fmt.Sprintf("%s.except[%d]", field, i), fmt.Sprintf("ipBlock %s covers %s, except %s takes it out", p.block.cidr, other.addr, p.block.except[i]), halfCloseness
	}
}
