package reach

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	npav1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// tier is one of the two tiers of ClusterNetworkPolicy, before and behind NetworkPolicies.
type tier uint8

const (
	adminTier tier = iota
	baselineTier
	tiers
)

// action is what a rule does with a flow that it matches. A NetworkPolicy's rules only accept.
type action uint8

const (
	accept action = iota
	deny
	pass
)

// The limits of the ClusterNetworkPolicy API.
const (
	lastPriority  = 1000
	mostRules     = 25
	mostPeers     = 25
	mostProtocols = 25
	mostItems     = 25 // of networks and of domainNames
)

// clusterPeer is what a peer of a ClusterNetworkPolicy has beyond selectors and blocks.
type clusterPeer struct {
	matched   string // the reason in a trace when the peer matches
	byAddress bool
	// nodes are the addresses of the nodes a nodes peer selects; nil for domainNames, which match no address the engine could know.
	nodes   map[netip.Addr]struct{}
	domains bool
	// wants says of which nodes.
	wants string
}

func (c *compiler) clusterPolicies(policies []ClusterPolicy) {
	seen := map[string]struct{}{}
	for _, p := range policies {
		name := p.Spec.Name
		c.file, c.line = p.File, p.Line
		if _, twice := seen[name]; twice {
			c.policyFault("clusterNetworkPolicy "+name, "", "is given twice")
			continue
		}
		seen[name] = struct{}{}
		var t tier
		switch p.Spec.Spec.Tier {
		case npav1alpha2.AdminTier:
			t = adminTier
		case npav1alpha2.BaselineTier:
			t = baselineTier
		default:
			c.policyFault("clusterNetworkPolicy "+name, "spec.tier", "%q is not one of Admin, Baseline", p.Spec.Spec.Tier)
		}
		c.engine.cluster[t] = append(c.engine.cluster[t], c.clusterPolicy(name, p))
	}
	for t := range c.engine.cluster {
		slices.SortFunc(c.engine.cluster[t], func(a, b compiledPolicy) int {
			return cmp.Or(cmp.Compare(a.priority, b.priority), cmp.Compare(a.name, b.name))
		})
	}
}

func (c *compiler) clusterPolicy(name string, p ClusterPolicy) compiledPolicy {
	spec := p.Spec.Spec
	out := compiledPolicy{policy: policy{name: name, file: p.File, line: p.Line, tier: spec.Tier, priority: spec.Priority}}
	name = "clusterNetworkPolicy " + name
	if spec.Priority < 0 || spec.Priority > lastPriority {
		c.policyFault(name, "spec.priority", "%d is not in 0–%d", spec.Priority, lastPriority)
	}
	c.atMost(name, "spec.ingress", "rules", len(spec.Ingress), mostRules)
	c.atMost(name, "spec.egress", "rules", len(spec.Egress), mostRules)
	subject := c.clusterSelectors(name, "spec.subject", spec.Subject.Namespaces, spec.Subject.Pods)
	if subject == nil {
		c.policyFault(name, "spec.subject", "wants exactly one of namespaces, pods")
		subject = &peer{pods: newBitset(len(c.engine.pods))}
	}
	out.isolated = [directions]bitset{ingress: subject.pods, egress: subject.pods}
	for i, r := range spec.Ingress {
		field := fmt.Sprintf("spec.ingress[%d]", i)
		rule := c.clusterRule(name, field, "from", r.Action, len(r.From), r.Protocols)
		for j, p := range r.From {
			rule.peers = append(rule.peers, c.clusterPeer(name, fmt.Sprintf("%s.from[%d]", field, j), r.Action,
				npav1alpha2.ClusterNetworkPolicyEgressPeer{Namespaces: p.Namespaces, Pods: p.Pods})...)
		}
		out.rules[ingress] = append(out.rules[ingress], rule)
	}
	for i, r := range spec.Egress {
		field := fmt.Sprintf("spec.egress[%d]", i)
		rule := c.clusterRule(name, field, "to", r.Action, len(r.To), r.Protocols)
		for j, p := range r.To {
			rule.peers = append(rule.peers, c.clusterPeer(name, fmt.Sprintf("%s.to[%d]", field, j), r.Action, p)...)
		}
		c.noNamedPortToAddresses(name, field, rule)
		out.rules[egress] = append(out.rules[egress], rule)
	}
	return out
}

func (c *compiler) atMost(name, field, what string, n, most int) {
	if n > most {
		c.policyFault(name, field, "has %d %s, at most %d are allowed", n, what, most)
	}
}

func (c *compiler) clusterRule(name, field, list string, a npav1alpha2.ClusterNetworkPolicyRuleAction, peers int, protocols []npav1alpha2.ClusterNetworkPolicyProtocol) rule {
	out := rule{field: field, peerList: list, portList: "protocols", portsWritten: writtenAs(protocols)}
	switch a {
	case npav1alpha2.ClusterNetworkPolicyRuleActionAccept:
		out.action = accept
	case npav1alpha2.ClusterNetworkPolicyRuleActionDeny:
		out.action = deny
	case npav1alpha2.ClusterNetworkPolicyRuleActionPass:
		out.action = pass
	default:
		c.policyFault(name, field+".action", "%q is not one of Accept, Deny, Pass", a)
	}
	if peers == 0 {
		c.policyFault(name, fmt.Sprintf("%s.%s", field, list), "wants at least one peer")
	}
	c.atMost(name, field+"."+list, "peers", peers, mostPeers)
	c.atMost(name, field+".protocols", "protocols", len(protocols), mostProtocols)
	for i, p := range protocols {
		out.ports = append(out.ports, c.clusterProtocol(name, fmt.Sprintf("%s.protocols[%d]", field, i), p))
	}
	return out
}

// noNamedPortToAddresses tells the fault of a rule that names a port of something that has no named ports.
func (c *compiler) noNamedPortToAddresses(name, field string, r rule) {
	named := slices.IndexFunc(r.ports, func(m portMatch) bool { return m.name != "" })
	if at := slices.IndexFunc(r.peers, func(p peer) bool { return p.byAddress() }); named >= 0 && at >= 0 {
		c.policyFault(name, fmt.Sprintf("%s.protocols[%d].destinationNamedPort", field, named), "%q cannot go with %s, which has no named ports", r.ports[named].name, r.peers[at].field)
	}
}

func (c *compiler) clusterProtocol(name, field string, p npav1alpha2.ClusterNetworkPolicyProtocol) portMatch {
	var (
		out     = portMatch{first: 1, last: lastPort}
		written int
		port    *npav1alpha2.Port
		of      string
	)
	if p.TCP != nil {
		written++
		out.protocol, port, of = corev1.ProtocolTCP, p.TCP.DestinationPort, ".tcp"
	}
	if p.UDP != nil {
		written++
		out.protocol, port, of = corev1.ProtocolUDP, p.UDP.DestinationPort, ".udp"
	}
	if p.SCTP != nil {
		written++
		out.protocol, port, of = corev1.ProtocolSCTP, p.SCTP.DestinationPort, ".sctp"
	}
	if p.DestinationNamedPort != "" {
		written++
		out.protocol, out.name = anyProtocol, p.DestinationNamedPort
	}
	if written != 1 {
		c.policyFault(name, field, "wants exactly one of tcp, udp, sctp, destinationNamedPort")
		return out
	}
	if out.name != "" {
		return out
	}
	field += of + ".destinationPort"
	switch {
	case port == nil: // the protocol's only property, of which it wants at least one
		c.policyFault(name, field, "is missing")
	case (port.Number != 0) == (port.Range != nil):
		c.policyFault(name, field, "wants exactly one of number, range")
	case port.Range == nil:
		if port.Number < 1 || port.Number > lastPort {
			c.policyFault(name, field+".number", "%d is not in 1–65535", port.Number)
			break
		}
		out.first, out.last = uint16(port.Number), uint16(port.Number)
	case port.Range.Start < 1 || port.Range.End > lastPort || port.Range.Start >= port.Range.End:
		c.policyFault(name, field+".range", "%d–%d is not a range in 1–65535 whose start is below its end", port.Range.Start, port.Range.End)
	default:
		out.first, out.last = uint16(port.Range.Start), uint16(port.Range.End)
	}
	return out
}

// clusterSelectors is a peer by namespaces or pods; nil when not exactly one of them is written.
func (c *compiler) clusterSelectors(name, field string, namespaces *metav1.LabelSelector, pods *npav1alpha2.NamespacedPod) *peer {
	switch {
	case namespaces != nil && pods == nil:
		field += ".namespaces"
		s := c.clusterSelector(name, field, *namespaces)
		return &peer{field: field, pods: c.podsByNamespace(s), namespaces: &s, cluster: &clusterPeer{matched: selects("namespaces", "namespace", s)}}
	case namespaces == nil && pods != nil:
		field += ".pods"
		ns := c.clusterSelector(name, field+".namespaceSelector", pods.NamespaceSelector)
		s := c.clusterSelector(name, field+".podSelector", pods.PodSelector)
		return &peer{
			field: field, pods: c.podsByNamespace(ns).and(c.podsBySelector(s)), namespaces: &ns, podSelector: &s,
			cluster: &clusterPeer{matched: selects("pods.namespaceSelector", "namespace", ns) + " and " + selects("podSelector", "pod", s)},
		}
	default:
		return nil
	}
}

func (c *compiler) clusterSelector(name, field string, s metav1.LabelSelector) selector {
	out, errs := compileSelector(field, s)
	for _, f := range errs {
		c.policyFault(name, f.Field, "%s", f.Message)
	}
	return out
}

// clusterPeer is one peer as written, as one item for each of its networks.
func (c *compiler) clusterPeer(name, field string, a npav1alpha2.ClusterNetworkPolicyRuleAction, p npav1alpha2.ClusterNetworkPolicyEgressPeer) []peer {
	written := 0
	for _, is := range []bool{p.Namespaces != nil, p.Pods != nil, p.Nodes != nil, p.Networks != nil, p.DomainNames != nil} {
		if is {
			written++
		}
	}
	// Nothing written may be a field of a newer API. An implementation should then fail closed; we refuse the policy instead, because a verdict
	// derived from half of it would be no verdict.
	if written != 1 {
		c.policyFault(name, field, "wants exactly one peer field, has %d", written)
		return []peer{{field: field, pods: newBitset(len(c.engine.pods))}}
	}
	switch {
	case p.Nodes != nil:
		return []peer{c.nodesPeer(name, field+".nodes", *p.Nodes)}
	case p.Networks != nil:
		c.atMost(name, field+".networks", "networks", len(p.Networks), mostItems)
		out := []peer{}
		for i, cidr := range p.Networks {
			at := fmt.Sprintf("%s.networks[%d]", field, i)
			out = append(out, c.networkPeer(name, at, cidr))
		}
		if len(out) == 0 {
			c.policyFault(name, field+".networks", "wants at least one CIDR")
		}
		return out
	case p.DomainNames != nil:
		if a != npav1alpha2.ClusterNetworkPolicyRuleActionAccept {
			c.policyFault(name, field+".domainNames", "go with action Accept only, the rule has %s", a)
		}
		c.atMost(name, field+".domainNames", "names", len(p.DomainNames), mostItems)
		return []peer{{field: field + ".domainNames", pods: newBitset(len(c.engine.pods)), cluster: &clusterPeer{byAddress: true, domains: true}}}
	default:
		return []peer{*c.clusterSelectors(name, field, p.Namespaces, p.Pods)}
	}
}

func (c *compiler) networkPeer(name, field string, cidr npav1alpha2.CIDR) peer {
	prefix, err := netip.ParsePrefix(string(cidr))
	if err != nil || prefix.Addr().Is4In6() {
		c.policyFault(name, field, "%q is not a CIDR", cidr)
		return peer{field: field, pods: newBitset(len(c.engine.pods))}
	}
	out := peer{field: field, block: &block{cidr: prefix.Masked()}, cluster: &clusterPeer{byAddress: true, matched: fmt.Sprintf("network %s covers the address", prefix.Masked())}}
	out.pods = c.engine.covered(&out, FirstAddress)
	return out
}

func (c *compiler) nodesPeer(name, field string, s metav1.LabelSelector) peer {
	selector := c.clusterSelector(name, field, s)
	out := peer{field: field, cluster: &clusterPeer{byAddress: true, nodes: map[netip.Addr]struct{}{}, matched: selects("nodes", "node", selector), wants: "a node " + selector.String()}}
	for _, n := range c.nodes {
		if !selector.matches(n.Labels) {
			continue
		}
		for _, a := range n.IPs {
			out.cluster.nodes[a.Unmap().WithZone("")] = struct{}{}
		}
	}
	out.pods = c.engine.covered(&out, FirstAddress)
	return out
}

// tier asks the policies of one tier, of which the first matching rule decides, and writes what it said into side. It reports whether the
// verdict is final; a rule that passes, like no rule at all, leaves it to the next tier.
func (e *Engine) tier(t tier, d direction, subject, other end, f flow, notes *noteSet, side *Side) (final bool) {
	policies := e.cluster[t]
	for i := range policies {
		p := &policies[i]
		r := e.clusterRule(p, d, subject, other, f, notes)
		if r == nil {
			continue
		}
		for j := i + 1; j < len(policies) && policies[j].priority == p.priority; j++ {
			if rival := e.clusterRule(&policies[j], d, subject, other, f, notes); rival != nil && rival.action != r.action {
				notes.add(NoteEqualPriority)
			}
		}
		ref := p.allowing(r, e.admittingPeer(r, other), e.admittingPort(r, f))
		switch r.action {
		case accept:
			side.Verdict, side.Allowing = Allow, ref
		case deny:
			side.Verdict, side.Denying = Deny, ref
			side.Nearest = e.nearestBefore(t, d, subject, other, f, p.ref(r.field, ""))
		case pass:
			side.Passing = append(side.Passing, *ref)
			return false
		}
		return true
	}
	return false
}

// nearestBefore is the nearest of the rules that were asked before a rule denied: those of the tiers up to it.
func (e *Engine) nearestBefore(t tier, d direction, subject, other end, f flow, denying Ref) *Ref {
	asked := []before{{e.cluster[adminTier], Ref{}}}
	if t == baselineTier {
		asked = append(asked, before{policies: e.cluster[baselineTier]})
	}
	asked[len(asked)-1].denying = denying
	return e.nearest(d, subject, nil, asked, other, f)
}

// clusterRule is the policy's first rule that matches the flow; nil when none does or the policy does not select the subject.
func (e *Engine) clusterRule(p *compiledPolicy, d direction, subject, other end, f flow, notes *noteSet) *rule {
	if !p.isolated[d].has(subject.pod) {
		return nil
	}
	for i := range p.rules[d] {
		r := &p.rules[d][i]
		if e.admittingPort(r, f) < 0 {
			continue
		}
		if e.admittingPeer(r, other) >= 0 {
			return r
		}
		if other.pod == outside && slices.ContainsFunc(r.peers, func(p peer) bool { return p.cluster.domains }) {
			notes.add(NoteDomainNames)
		}
	}
	return nil
}
