package reach

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	npav1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// direction is a direction of traffic as seen from the pod a policy selects.
type direction uint8

const (
	ingress direction = iota
	egress
	directions
)

// Engine answers queries about one world under one set of policies. It is immutable and safe for concurrent use.
type Engine struct {
	pods []pod
	// index finds a pod by its name, byAddr by an address that no other pod shares (hostNetwork pods share their node's).
	index  map[podName]int
	byAddr map[netip.Addr]int
	// isolating lists, per direction and pod, the policies that select it, in name order.
	isolating [directions][][]*policy
	// network are all NetworkPolicies in name order.
	network []compiledPolicy
	// cluster are the ClusterNetworkPolicies of each tier in the order in which they are asked: by priority, then by name.
	cluster [tiers][]compiledPolicy
}

type podName struct{ namespace, name string }

type pod struct {
	Pod
	name            podName
	namespaceLabels map[string]string
	addr            netip.Addr // the first address; invalid when it has none
}

// policy is a NetworkPolicy with its defaults and its selectors evaluated.
type policy struct {
	name     string // "namespace/name", of a ClusterNetworkPolicy "name"
	file     string
	line     int
	selector selector
	rules    [directions][]rule
	// isolates is, per direction, the reference for the trace of a pod that the policy selects.
	isolates [directions]Ref
	// tier and priority are those of a ClusterNetworkPolicy; tier is empty for a NetworkPolicy.
	tier     npav1alpha2.Tier
	priority int32
}

// rule admits traffic that matches one of its peers and one of its ports; a ClusterNetworkPolicy's may deny or pass it instead.
type rule struct {
	action   action
	field    string // "spec.ingress[0]"
	peerList string // "from" or "to"
	peers    []peer // none: every peer matches
	pods     bitset // that some peer matches; nil when every peer matches
	ports    []portMatch
	portList string // "ports" or "protocols"
	// peersWritten and portsWritten tell an empty list from a missing one. Both match everything; the trace says which it was.
	peersWritten, portsWritten written
}

// written is how an empty list stands in the file.
type written uint8

const (
	missing written = iota
	empty
)

// String is the word for the trace.
func (w written) String() string {
	if w == missing {
		return "missing"
	}
	return "empty"
}

func writtenAs[T any](list []T) written {
	if list == nil {
		return missing
	}
	return empty
}

// peer is one item of from or to.
type peer struct {
	field string // "spec.ingress[0].from[1]"
	// pods are the pods it matches: by its selectors, or by their first address when it goes by addresses.
	pods bitset
	// namespaces and podSelector are kept for the trace; nil when not written.
	namespaces  *selector
	podSelector *selector
	block       *block
	// cluster is set for a peer of a ClusterNetworkPolicy.
	cluster *clusterPeer
}

// byAddress tells whether the peer matches addresses, not pods.
func (p *peer) byAddress() bool { return p.block != nil || p.cluster != nil && p.cluster.byAddress }

// covers tells whether a peer that goes by addresses matches this one.
func (p *peer) covers(a netip.Addr) bool {
	if p.block != nil {
		return p.block.contains(a)
	}
	_, ok := p.cluster.nodes[a]
	return ok
}

// block is an ipBlock.
type block struct {
	cidr   netip.Prefix
	except []netip.Prefix
}

func (b *block) contains(a netip.Addr) bool {
	return b.cidr.Contains(a) && b.exceptOf(a) < 0
}

// exceptOf is the index of the first except that covers a, or -1.
func (b *block) exceptOf(a netip.Addr) int {
	return slices.IndexFunc(b.except, func(p netip.Prefix) bool { return p.Contains(a) })
}

// anyProtocol is the protocol of a match by name alone: that of whichever port has the name.
const anyProtocol corev1.Protocol = ""

// portMatch is one item of ports: a range of numbers, a name, or any port of the protocol.
type portMatch struct {
	protocol    corev1.Protocol
	name        string
	first, last uint16 // 1–65535 when there is no name
}

func (m portMatch) matches(protocol corev1.Protocol, port uint16, destination *pod) bool {
	if m.protocol != protocol && m.protocol != anyProtocol {
		return false
	}
	if m.name == "" {
		return m.first <= port && port <= m.last
	}
	// A named port means the number that the destination pod gives it, for ingress and for egress alike. An address outside of
	// the cluster names no ports.
	return destination != nil && slices.ContainsFunc(destination.Ports, func(p Port) bool {
		return p.Name == m.name && p.Protocol == protocol && p.Port == port
	})
}

const lastPort = 65535

// String is the match in words: "TCP/80", "TCP/80-90", "TCP/http", "UDP/*".
func (m portMatch) String() string {
	switch {
	case m.name != "" && m.protocol == anyProtocol:
		return m.name
	case m.name != "":
		return fmt.Sprintf("%s/%s", m.protocol, m.name)
	case m.first == 1 && m.last == lastPort:
		return fmt.Sprintf("%s/*", m.protocol)
	case m.first == m.last:
		return fmt.Sprintf("%s/%d", m.protocol, m.first)
	default:
		return fmt.Sprintf("%s/%d-%d", m.protocol, m.first, m.last)
	}
}

// Compile evaluates the policies, and ClusterNetworkPolicies where there are any, over the world. The error joins every fault found, each about a policy as a [Fault] with file, line, field path and value:
// names given twice, a pod in a namespace the world lacks, selectors, CIDRs and ports that the API server would refuse. No
// argument is changed or retained, except for the label maps and slices inside world, which must not be changed afterwards.
func Compile(world World, policies []Policy, cluster ...ClusterPolicy) (*Engine, error) {
	c := compiler{
		engine:     &Engine{index: map[podName]int{}, byAddr: map[netip.Addr]int{}},
		namespaces: map[string]map[string]string{},
		members:    map[string]bitset{},
		byPod:      map[string]bitset{},
		byNS:       map[string]bitset{},
	}
	c.world(world)
	compiled := c.policies(policies)
	c.clusterPolicies(cluster)
	if err := errors.Join(c.errs...); err != nil {
		return nil, err
	}
	for d := range c.engine.isolating {
		c.engine.isolating[d] = make([][]*policy, len(c.engine.pods))
	}
	slices.SortFunc(compiled, func(a, b compiledPolicy) int { return cmp.Compare(a.name, b.name) })
	c.engine.network = compiled
	for _, all := range [][]compiledPolicy{c.engine.cluster[adminTier], c.engine.cluster[baselineTier], compiled} {
		for i := range all {
			for d := range all[i].rules {
				for j := range all[i].rules[d] {
					all[i].rules[d][j].unite(len(c.engine.pods))
				}
			}
		}
	}
	for i := range compiled {
		p := &compiled[i]
		for d := range p.isolated {
			if p.isolated[d] == nil {
				continue
			}
			for n := range c.engine.pods {
				if p.isolated[d].has(n) {
					c.engine.isolating[d][n] = append(c.engine.isolating[d][n], &p.policy)
				}
			}
		}
	}
	return c.engine, nil
}

// unite gathers the pods that the rule's peers match.
func (r *rule) unite(pods int) {
	if len(r.peers) == 0 {
		return
	}
	r.pods = newBitset(pods)
	for i := range r.peers {
		r.pods.or(r.peers[i].pods)
	}
}

// compiledPolicy is a policy with the pods it isolates; nil for a direction that it has no say in.
type compiledPolicy struct {
	policy
	isolated [directions]bitset
}

// compiler holds what is only needed while compiling.
type compiler struct {
	engine     *Engine
	namespaces map[string]map[string]string // name → labels, with the API server's own
	members    map[string]bitset            // pods of a namespace
	nodes      []Node
	selectable bitset // pods that selectors can match: all but hostNetwork ones
	// byPod and byNS remember the pods that a selector matches by their own or by their namespace's labels. Policies repeat selectors.
	byPod, byNS map[string]bitset
	errs        []error
	// file and line are those of the policy being compiled.
	file string
	line int
}

func (c *compiler) fault(format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf(format, args...))
}

func (c *compiler) world(w World) {
	for _, ns := range w.Namespaces {
		if _, twice := c.namespaces[ns.Name]; twice {
			c.fault("namespace %q: is given twice", ns.Name)
			continue
		}
		labels := maps.Clone(ns.Labels)
		if labels == nil {
			labels = map[string]string{}
		}
		labels[corev1.LabelMetadataName] = ns.Name
		c.namespaces[ns.Name] = labels
		c.members[ns.Name] = newBitset(len(w.Pods))
	}
	c.nodes = w.Nodes
	c.selectable = newBitset(len(w.Pods))
	shared := map[netip.Addr]struct{}{}
	for i, p := range w.Pods {
		name := podName{p.Namespace, p.Name}
		nsLabels, known := c.namespaces[p.Namespace]
		if !known {
			c.fault("pod %s/%s: the world has no namespace %q", p.Namespace, p.Name, p.Namespace)
		} else {
			c.members[p.Namespace].add(i)
		}
		if _, twice := c.engine.index[name]; twice {
			c.fault("pod %s/%s: is given twice", p.Namespace, p.Name)
		}
		c.engine.index[name] = i
		added := pod{Pod: p, name: name, namespaceLabels: nsLabels}
		added.IPs = slices.Clone(p.IPs)
		for j, a := range added.IPs {
			if !a.IsValid() {
				c.fault("pod %s/%s: address %d is not valid", p.Namespace, p.Name, j)
				continue
			}
			a = a.Unmap().WithZone("")
			added.IPs[j] = a
			if _, taken := c.engine.byAddr[a]; taken || p.HostNetwork {
				shared[a] = struct{}{}
			}
			c.engine.byAddr[a] = i
		}
		if len(added.IPs) > 0 {
			added.addr = added.IPs[0]
		}
		if !p.HostNetwork {
			c.selectable.add(i)
		}
		c.engine.pods = append(c.engine.pods, added)
	}
	for a := range shared {
		delete(c.engine.byAddr, a)
	}
}

func (c *compiler) policies(policies []Policy) []compiledPolicy {
	seen := map[string]struct{}{}
	out := make([]compiledPolicy, 0, len(policies))
	for _, p := range policies {
		name := p.Spec.Namespace + "/" + p.Spec.Name
		c.file, c.line = p.File, p.Line
		if _, twice := seen[name]; twice {
			c.policyFault("policy "+name, "", "is given twice")
			continue
		}
		seen[name] = struct{}{}
		out = append(out, c.policy(name, p))
	}
	return out
}

func (c *compiler) policy(name string, p Policy) compiledPolicy {
	out := compiledPolicy{policy: policy{name: name, file: p.File, line: p.Line}}
	members := c.members[p.Spec.Namespace]
	if members == nil { // the world lacks its namespace: it selects nothing, but its faults are still told
		members = newBitset(len(c.engine.pods))
	}
	spec := p.Spec.Spec
	out.selector = c.selector(name, "spec.podSelector", spec.PodSelector)
	selected := c.podsBySelector(out.selector).and(members)
	for _, d := range c.policyTypes(name, spec) {
		out.isolated[d] = selected
	}
	for i, r := range spec.Ingress {
		out.rules[ingress] = append(out.rules[ingress], c.rule(name, fmt.Sprintf("spec.ingress[%d]", i), "from", r.From, r.Ports, members))
	}
	for i, r := range spec.Egress {
		out.rules[egress] = append(out.rules[egress], c.rule(name, fmt.Sprintf("spec.egress[%d]", i), "to", r.To, r.Ports, members))
	}
	for d := range directions {
		out.isolates[d] = out.isolatingRef(d)
	}
	return out
}

// policyTypes are the directions a policy isolates, with the API server's default: Ingress always, Egress when there is an egress rule.
func (c *compiler) policyTypes(name string, spec networkingv1.NetworkPolicySpec) []direction {
	if len(spec.PolicyTypes) == 0 {
		if len(spec.Egress) > 0 {
			return []direction{ingress, egress}
		}
		return []direction{ingress}
	}
	var out []direction
	for i, t := range spec.PolicyTypes {
		switch t {
		case networkingv1.PolicyTypeIngress:
			out = append(out, ingress)
		case networkingv1.PolicyTypeEgress:
			out = append(out, egress)
		default:
			c.policyFault("policy "+name, fmt.Sprintf("spec.policyTypes[%d]", i), "%q is not one of Ingress, Egress", t)
		}
	}
	return out
}

func (c *compiler) rule(name, field, list string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort, members bitset) rule {
	out := rule{field: field, peerList: list, portList: "ports", peersWritten: writtenAs(peers), portsWritten: writtenAs(ports)}
	for i, p := range peers {
		out.peers = append(out.peers, c.peer(name, fmt.Sprintf("%s.%s[%d]", field, list, i), p, members))
	}
	for i, p := range ports {
		out.ports = append(out.ports, c.port(name, fmt.Sprintf("%s.ports[%d]", field, i), p))
	}
	return out
}

func (c *compiler) peer(name, field string, p networkingv1.NetworkPolicyPeer, members bitset) peer {
	out := peer{field: field, pods: newBitset(len(c.engine.pods))}
	switch {
	case p.IPBlock != nil:
		if p.PodSelector != nil || p.NamespaceSelector != nil {
			c.policyFault("policy "+name, field, "ipBlock goes with no selector")
		}
		out.block = c.block(name, field+".ipBlock", *p.IPBlock)
		out.pods = c.engine.covered(&out, FirstAddress)
		return out
	case p.PodSelector == nil && p.NamespaceSelector == nil:
		c.policyFault("policy "+name, field, "has none of podSelector, namespaceSelector, ipBlock")
		return out
	}
	out.pods = members
	if p.NamespaceSelector != nil {
		s := c.selector(name, field+".namespaceSelector", *p.NamespaceSelector)
		out.namespaces, out.pods = &s, c.podsByNamespace(s)
	}
	if p.PodSelector != nil {
		s := c.selector(name, field+".podSelector", *p.PodSelector)
		out.podSelector, out.pods = &s, out.pods.and(c.podsBySelector(s))
	}
	return out
}

func (c *compiler) block(name, field string, b networkingv1.IPBlock) *block {
	out := &block{cidr: c.prefix(name, field+".cidr", b.CIDR)}
	for i, e := range b.Except {
		out.except = append(out.except, c.prefix(name, fmt.Sprintf("%s.except[%d]", field, i), e))
	}
	return out
}

func (c *compiler) prefix(name, field, s string) netip.Prefix {
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		c.policyFault("policy "+name, field, "%q is not a CIDR", s)
		return netip.Prefix{}
	}
	return p.Masked()
}

func (c *compiler) port(name, field string, p networkingv1.NetworkPolicyPort) portMatch {
	out := portMatch{protocol: corev1.ProtocolTCP, first: 1, last: lastPort}
	if p.Protocol != nil {
		out.protocol = *p.Protocol
	}
	if !isProtocol(out.protocol) {
		c.policyFault("policy "+name, field+".protocol", "%q is not one of TCP, UDP, SCTP", out.protocol)
	}
	switch {
	case p.Port == nil:
		if p.EndPort != nil {
			c.policyFault("policy "+name, field+".endPort", "%d has no port to start from", *p.EndPort)
		}
	case p.Port.Type == intstr.String:
		out.name = p.Port.StrVal
		if out.name == "" {
			c.policyFault("policy "+name, field+".port", "the name is empty")
		}
		if p.EndPort != nil {
			c.policyFault("policy "+name, field+".endPort", "%d does not go with the named port %q", *p.EndPort, out.name)
		}
	default:
		first, last := p.Port.IntVal, p.Port.IntVal
		if p.EndPort != nil {
			last = *p.EndPort
		}
		if first < 1 || first > lastPort {
			c.policyFault("policy "+name, field+".port", "%d is not in 1–65535", first)
			return out
		}
		if last < first || last > lastPort {
			c.policyFault("policy "+name, field+".endPort", "%d is not in %d–65535", last, first)
			return out
		}
		out.first, out.last = uint16(first), uint16(last)
	}
	return out
}

func isProtocol(p corev1.Protocol) bool {
	return p == corev1.ProtocolTCP || p == corev1.ProtocolUDP || p == corev1.ProtocolSCTP
}

func (c *compiler) selector(name, field string, s metav1.LabelSelector) selector {
	out, errs := compileSelector(field, s)
	for _, f := range errs {
		c.policyFault("policy "+name, f.Field, "%s", f.Message)
	}
	return out
}

// podsBySelector are the pods of all namespaces whose own labels match, hostNetwork pods left out.
func (c *compiler) podsBySelector(s selector) bitset {
	return c.evaluate(c.byPod, s, func(p *pod) map[string]string { return p.Labels })
}

// podsByNamespace are the pods whose namespace's labels match, hostNetwork pods left out.
func (c *compiler) podsByNamespace(s selector) bitset {
	return c.evaluate(c.byNS, s, func(p *pod) map[string]string { return p.namespaceLabels })
}

func (c *compiler) evaluate(known map[string]bitset, s selector, labels func(*pod) map[string]string) bitset {
	key := s.key()
	if b, ok := known[key]; ok {
		return b
	}
	out := newBitset(len(c.engine.pods))
	for i := range c.engine.pods {
		if s.matches(labels(&c.engine.pods[i])) {
			out.add(i)
		}
	}
	out = out.and(c.selectable)
	known[key] = out
	return out
}
