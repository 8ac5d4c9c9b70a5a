package lint

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/gapproof/gapproof/runner/manifest"
	"github.com/gapproof/gapproof/runner/reach"
)

// defaultDeny finds namespaces without a policy that isolates all of their pods.
func (c *checker) defaultDeny() {
	for _, name := range c.own() {
		for _, d := range []struct {
			direction
			rule string
		}{{ingress, noDenyIngress}, {egress, noDenyEgress}} {
			if slices.ContainsFunc(c.set.Policies, func(p manifest.Policy) bool {
				return p.Spec.Namespace == name && isEmpty(&p.Spec.Spec.PodSelector) && isolates(&p, d.direction)
			}) {
				continue
			}
			message := fmt.Sprintf("no policy of namespace %s selects every pod for %s", name, d.field)
			if free := c.notIsolated(name, d.direction); len(free) > 0 {
				message += fmt.Sprintf("; not isolated: %s", few(free))
			}
			c.findings = append(c.findings, Finding{
				Rule: d.rule, Severity: severityOf(d.rule), Place: c.placeOf(name), Subject: "namespace " + name, Message: message,
				Hint: fmt.Sprintf("add a policy with podSelector: {} and policyTypes: [%s]", d.kind),
			})
		}
	}
}

// own are the namespaces that the set is about: those that are written in it, or that something written is in.
func (c *checker) own() []string {
	var out []string
	for _, ns := range c.set.World.Namespaces {
		_, written := c.set.Places[ns.Name]
		written = written || slices.ContainsFunc(c.members[ns.Name], func(i int) bool {
			_, ok := c.set.Places[ns.Name+"/"+c.set.World.Pods[i].Name]
			return ok
		})
		if written {
			out = append(out, ns.Name)
		}
	}
	if !c.knowsPods() {
		for i := range c.set.Policies {
			out = append(out, c.set.Policies[i].Spec.Namespace)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// placeOf is where a namespace was written, or else the first thing in it.
func (c *checker) placeOf(namespace string) manifest.Place {
	if p, ok := c.set.Places[namespace]; ok {
		return p
	}
	for i := range c.set.Policies {
		if p := &c.set.Policies[i]; p.Spec.Namespace == namespace {
			return p.Place("")
		}
	}
	for _, i := range c.members[namespace] {
		if p, ok := c.set.Places[namespace+"/"+c.set.World.Pods[i].Name]; ok {
			return p
		}
	}
	return manifest.Place{}
}

func (c *checker) notIsolated(namespace string, d direction) []string {
	var out []string
	for _, i := range c.members[namespace] {
		pod := &c.set.World.Pods[i]
		if len(c.isolating(pod, d)) == 0 {
			out = append(out, pod.Namespace+"/"+pod.Name)
		}
	}
	return out
}

// isolating are the policies that isolate a pod for a direction.
func (c *checker) isolating(pod *reach.Pod, d direction) []*manifest.Policy {
	var out []*manifest.Policy
	for i := range c.set.Policies {
		p := &c.set.Policies[i]
		if p.Spec.Namespace == pod.Namespace && isolates(p, d) && compiled(&p.Spec.Spec.PodSelector).Matches(labels.Set(pod.Labels)) {
			out = append(out, p)
		}
	}
	return out
}

const dnsHint = "add a rule for UDP and TCP 53 to pods k8s-app=kube-dns of namespace kube-system"

// dns finds pods whose egress is restricted to something, though not so that they could look it up.
func (c *checker) dns() {
	if !c.knowsPods() {
		c.dnsByText()
		return
	}
	resolvers := c.resolvers()
	if len(resolvers) == 0 {
		return
	}
	mute := map[*manifest.Policy][]string{}
	for i := range c.set.World.Pods {
		pod := &c.set.World.Pods[i]
		if pod.HostNetwork {
			continue
		}
		var at *manifest.Policy
		asks := false
		for _, p := range c.isolating(pod, egress) {
			rules := rulesOf(p)
			for j := range rules {
				r := &rules[j]
				if r.list != egress.list {
					continue
				}
				if at == nil {
					at = p
				}
				// An ipBlock may hold a resolver of the node, or the address of the Service.
				asks = asks || admitsDNS(r) && slices.ContainsFunc(r.peers, func(p peerType) bool { return p.IPBlock != nil })
			}
		}
		if at == nil || asks || c.resolves(pod, resolvers) {
			continue
		}
		mute[at] = append(mute[at], pod.Namespace+"/"+pod.Name)
	}
	for i := range c.set.Policies {
		p := &c.set.Policies[i]
		if pods := mute[p]; len(pods) > 0 {
			c.add(p, egressWithoutDNS, "spec.egress", fmt.Sprintf("egress of %s is restricted and no rule admits UDP/53 to the resolver (%s)", few(pods), podNames(resolvers)), dnsHint)
		}
	}
}

// dnsByText is dns for policies alone: it finds those in whose namespace no rule speaks of port 53 at all.
func (c *checker) dnsByText() {
	asks := map[string]bool{}
	restricts := map[string]*manifest.Policy{}
	for i := range c.set.Policies {
		p := &c.set.Policies[i]
		if !isolates(p, egress) {
			continue
		}
		rules := rulesOf(p)
		for j := range rules {
			if rules[j].list != egress.list {
				continue
			}
			asks[p.Spec.Namespace] = asks[p.Spec.Namespace] || admitsDNS(&rules[j])
			if restricts[p.Spec.Namespace] == nil {
				restricts[p.Spec.Namespace] = p
			}
		}
	}
	for namespace, p := range restricts {
		if !asks[namespace] {
			c.add(p, egressWithoutDNS, "spec.egress", fmt.Sprintf("egress is restricted and no policy of %s admits UDP/53", namespace), dnsHint)
		}
	}
}

// resolvers are the pods of the cluster's DNS, by the label that kubeadm and nearly every distribution give them.
func (c *checker) resolvers() []*reach.Pod {
	var out []*reach.Pod
	for i := range c.set.World.Pods {
		p := &c.set.World.Pods[i]
		if app := p.Labels["k8s-app"]; (app == "kube-dns" || app == "coredns") && !p.HostNetwork {
			out = append(out, p)
		}
	}
	return out
}

func (c *checker) resolves(pod *reach.Pod, resolvers []*reach.Pod) bool {
	return slices.ContainsFunc(resolvers, func(r *reach.Pod) bool {
		d, err := c.engine.Decide(reach.Query{
			Source:      reach.Endpoint{Namespace: pod.Namespace, Pod: pod.Name},
			Destination: reach.Endpoint{Namespace: r.Namespace, Pod: r.Name},
			Protocol:    corev1.ProtocolUDP, Port: dnsPort,
		})
		return err == nil && d.Egress.Verdict == reach.Allow
	})
}
