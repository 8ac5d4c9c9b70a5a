package lint

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/gapproof/gapproof/runner/reach"
)

// ports finds ports that no destination of the rule has.
func (c *checker) ports(r *rule) {
	if !c.knowsPods() || len(r.ports) == 0 {
		return
	}
	destinations := c.destinations(r)
	if len(destinations) == 0 {
		return
	}
	for i := range r.ports {
		port, field := &r.ports[i], fmt.Sprintf("%s.ports[%d].port", r.field, i)
		switch {
		case port.Port == nil:
		case port.Port.Type == intstr.String:
			c.named(r, field, port, destinations)
		default:
			c.numbered(r, field, port, destinations)
		}
	}
}

// destinations are the pods that the rule's ports are those of; none when they may lie outside of the cluster.
func (c *checker) destinations(r *rule) []*reach.Pod {
	found := c.peerPods(r)
	if r.list == ingress.list {
		found = c.matching(c.members[r.policy.Spec.Namespace], r.policy.Spec.Spec.PodSelector)
	}
	var out []*reach.Pod
	for _, i := range found {
		out = append(out, &c.set.World.Pods[i])
	}
	return out
}

func (c *checker) named(r *rule, field string, port *portType, destinations []*reach.Pod) {
	name, protocol := port.Port.StrVal, protocolOf(port)
	var names []string
	for _, d := range destinations {
		for _, p := range d.Ports {
			if p.Name == name && p.Protocol == protocol {
				return
			}
			if p.Name == name {
				c.add(r.policy, portName, field, fmt.Sprintf("the port named %s of %s/%s is %s, the rule says %s", name, d.Namespace, d.Name, p.Protocol, protocol), "write protocol: "+string(p.Protocol))
				return
			}
			if p.Name != "" {
				names = append(names, p.Name)
			}
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	hint := ""
	if near := nearest(name, names); near != "" {
		hint = "did you mean " + near + "?"
	} else if len(names) > 0 {
		hint = "they name " + few(names)
	}
	c.add(r.policy, portName, field, fmt.Sprintf("no destination of the rule has a port named %s (%s)", name, podNames(destinations)), hint)
}

func (c *checker) numbered(r *rule, field string, port *portType, destinations []*reach.Pod) {
	first, last := portRange(port)
	protocol := protocolOf(port)
	var have []string
	for _, d := range destinations {
		if len(d.Ports) == 0 {
			return // containers need not declare what they listen on
		}
		for _, p := range d.Ports {
			if p.Protocol == protocol && first <= int32(p.Port) && int32(p.Port) <= last {
				return
			}
			have = append(have, fmt.Sprintf("%s/%d", p.Protocol, p.Port))
		}
	}
	slices.Sort(have)
	wants := fmt.Sprintf("%s/%d", protocol, first)
	if last != first {
		wants += fmt.Sprintf("-%d", last)
	}
	hint := c.serviceHint(protocol, first, last, destinations)
	if hint == "" {
		hint = "they listen on " + few(slices.Compact(have))
	}
	c.add(r.policy, portSilent, field, fmt.Sprintf("no destination of the rule listens on %s (%s)", wants, podNames(destinations)), hint)
}

// serviceHint knows the port of a Service that was written in place of its pods'.
func (c *checker) serviceHint(protocol corev1.Protocol, first, last int32, destinations []*reach.Pod) string {
	for i := range c.set.Services {
		s := &c.set.Services[i]
		for _, p := range s.Ports {
			if p.Protocol != protocol || int32(p.Port) < first || int32(p.Port) > last {
				continue
			}
			for _, d := range destinations {
				if !s.Selects(d) {
					continue
				}
				if on, ok := p.On(d); ok && on != p.Port {
					return fmt.Sprintf("%d is the port of Service %s/%s; policies see the pods' port, %d", p.Port, s.Namespace, s.Name, on)
				}
			}
		}
	}
	return ""
}

func podNames(pods []*reach.Pod) string {
	names := make([]string, len(pods))
	for i, p := range pods {
		names[i] = p.Namespace + "/" + p.Name
	}
	slices.Sort(names)
	return few(slices.Compact(names))
}

// admitsDNS tells whether the rule's ports let a lookup through.
func admitsDNS(r *rule) bool {
	return len(r.ports) == 0 || slices.ContainsFunc(r.ports, func(p portType) bool {
		if protocolOf(&p) != corev1.ProtocolUDP {
			return false
		}
		if p.Port == nil {
			return true
		}
		if p.Port.Type == intstr.String {
			return strings.HasPrefix(p.Port.StrVal, "dns")
		}
		first, last := portRange(&p)
		return first <= dnsPort && dnsPort <= last
	})
}

// dnsPort is where resolvers listen: RFC 1035, section 4.2.
const dnsPort = 53
