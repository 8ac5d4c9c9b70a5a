package differential

import (
	"maps"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gapproof/gapproof/runner/reach"
)

// Shrink takes parts of the case away one after the other as long as what is left still fails, until every part is needed: policies, rules,
// peers, ports, excepts, requirements, pods, namespaces, labels, addresses and container ports. c itself must fail; it is not changed.
func Shrink(c Case, fails func(Case) bool) Case {
	for {
		smaller, found := firstFailing(c, fails)
		if !found {
			return c
		}
		c = smaller
	}
}

func firstFailing(c Case, fails func(Case) bool) (Case, bool) {
	for part := 0; ; part++ {
		candidate := clone(c)
		if !without(&candidate, part) {
			return Case{}, false
		}
		if fails(candidate) {
			return candidate, true
		}
	}
}

func clone(c Case) Case {
	out := Case{Query: c.Query, World: reach.World{Nodes: c.World.Nodes}}
	for _, ns := range c.World.Namespaces {
		ns.Labels = maps.Clone(ns.Labels)
		out.World.Namespaces = append(out.World.Namespaces, ns)
	}
	for _, p := range c.World.Pods {
		p.Labels, p.IPs, p.Ports = maps.Clone(p.Labels), slices.Clone(p.IPs), slices.Clone(p.Ports)
		out.World.Pods = append(out.World.Pods, p)
	}
	for i := range c.Policies {
		out.Policies = append(out.Policies, *c.Policies[i].DeepCopy())
	}
	return out
}

// remover takes away the part-th of everything that can be taken away, counted in one fixed order.
type remover struct {
	part int
	done bool
}

func fromList[T any](r *remover, list *[]T) {
	if !r.done && r.part < len(*list) {
		*list = slices.Delete(*list, r.part, r.part+1)
		r.done = true
	}
	r.part -= len(*list)
}

func fromMap(r *remover, m map[string]string) {
	if !r.done && r.part < len(m) {
		delete(m, slices.Sorted(maps.Keys(m))[r.part])
		r.done = true
	}
	r.part -= len(m)
}

// offer is one change that is no removal from a list, such as setting a field back.
func (r *remover) offer(is bool, change func()) {
	if !is {
		return
	}
	if !r.done && r.part == 0 {
		change()
		r.done = true
	}
	r.part--
}

// without removes one part; false when there are not so many.
func without(c *Case, part int) bool {
	r := &remover{part: part}
	fromList(r, &c.Policies)
	for i := range c.Policies {
		if r.done {
			return true
		}
		r.policy(&c.Policies[i].Spec)
	}
	if r.done {
		return true
	}
	// Every candidate must still be a world: a pod the query names, or a namespace that has pods, stays.
	for i := range c.World.Pods {
		p := c.World.Pods[i]
		named := p.Namespace == c.Query.Source.Namespace && p.Name == c.Query.Source.Pod || p.Namespace == c.Query.Destination.Namespace && p.Name == c.Query.Destination.Pod
		r.offer(!named, func() { c.World.Pods = slices.Delete(c.World.Pods, i, i+1) })
		if r.done {
			return true
		}
	}
	for i := range c.World.Namespaces {
		used := slices.ContainsFunc(c.World.Pods, func(p reach.Pod) bool { return p.Namespace == c.World.Namespaces[i].Name })
		r.offer(!used, func() { c.World.Namespaces = slices.Delete(c.World.Namespaces, i, i+1) })
		if r.done {
			return true
		}
		fromMap(r, c.World.Namespaces[i].Labels)
	}
	for i := range c.World.Pods {
		p := &c.World.Pods[i]
		fromMap(r, p.Labels)
		fromList(r, &p.Ports)
		r.offer(len(p.IPs) > 1, func() { p.IPs = p.IPs[:1] })
		r.offer(p.HostNetwork, func() { p.HostNetwork = false })
		r.offer(p.Node != "", func() { p.Node = "" })
	}
	return r.done
}

func (r *remover) policy(s *networkingv1.NetworkPolicySpec) {
	r.selector(&s.PodSelector)
	r.offer(len(s.PolicyTypes) > 1, func() { s.PolicyTypes = s.PolicyTypes[:1] })
	r.offer(len(s.PolicyTypes) > 1, func() { s.PolicyTypes = s.PolicyTypes[1:] })
	fromList(r, &s.Ingress)
	fromList(r, &s.Egress)
	if r.done {
		return
	}
	for i := range s.Ingress {
		r.rule(&s.Ingress[i].From, &s.Ingress[i].Ports)
	}
	for i := range s.Egress {
		r.rule(&s.Egress[i].To, &s.Egress[i].Ports)
	}
}

func (r *remover) rule(peers *[]networkingv1.NetworkPolicyPeer, ports *[]networkingv1.NetworkPolicyPort) {
	fromList(r, peers)
	fromList(r, ports)
	if r.done {
		return
	}
	for i := range *peers {
		p := &(*peers)[i]
		r.offer(p.PodSelector != nil && p.NamespaceSelector != nil, func() { p.PodSelector = nil })
		r.offer(p.PodSelector != nil && p.NamespaceSelector != nil, func() { p.NamespaceSelector = nil })
		if p.PodSelector != nil {
			r.selector(p.PodSelector)
		}
		if p.NamespaceSelector != nil {
			r.selector(p.NamespaceSelector)
		}
		if p.IPBlock != nil {
			fromList(r, &p.IPBlock.Except)
		}
	}
	for i := range *ports {
		p := &(*ports)[i]
		r.offer(p.EndPort != nil, func() { p.EndPort = nil })
		r.offer(p.Port != nil && p.EndPort == nil, func() { p.Port = nil })
	}
}

func (r *remover) selector(s *metav1.LabelSelector) {
	fromMap(r, s.MatchLabels)
	fromList(r, &s.MatchExpressions)
}
