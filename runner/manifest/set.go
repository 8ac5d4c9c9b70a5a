package manifest

import (
	"errors"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/scenarios"
)

// Set is what files or a cluster hold, ready for the engine, each thing with the place it was written at.
type Set struct {
	World    reach.World
	Policies []Policy
	// Cluster are the ClusterNetworkPolicies.
	Cluster  []ClusterPolicy
	Services []Service
	// Places are where namespaces ("shop") and pods ("shop/web") were written. What is only named in passing, or assumed, has none.
	Places    map[string]Place
	Pods      Knowledge
	Addresses Addresses
}

// Knowledge says how much of the pods a set holds.
type Knowledge uint8

// NoPods is a set of policies alone; SomePods one with workloads beside them.
const (
	NoPods Knowledge = iota
	SomePods
)

// Addresses says where the addresses of a world's pods come from.
type Addresses uint8

// Invented addresses are of 198.18.0.0/15, as package plan has them, and say nothing about the cluster's; Real ones were read from the
// status of every pod.
const (
	Invented Addresses = iota
	Real
)

// Place is where something was written.
type Place = scenarios.Place

// Policy is a NetworkPolicy with the lines of its fields.
type Policy struct {
	reach.Policy
	Lines scenarios.Lines
}

// Name is "namespace/name".
func (p *Policy) Name() string { return p.Spec.Namespace + "/" + p.Spec.Name }

// Place is where a field was written, or what it lies within.
func (p *Policy) Place(field string) Place {
	return placeIn(p.Lines, field, Place{File: p.File, Line: p.Line})
}

// ClusterPolicy is a ClusterNetworkPolicy with the lines of its fields.
type ClusterPolicy struct {
	reach.ClusterPolicy
	Lines scenarios.Lines
}

// Place is where a field was written, or what it lies within.
func (p *ClusterPolicy) Place(field string) Place {
	return placeIn(p.Lines, field, Place{File: p.File, Line: p.Line})
}

func placeIn(lines scenarios.Lines, field string, whole Place) Place {
	if at := lines.At(field); at.Line > 0 {
		return at
	}
	return whole
}

// Service is what matters to policies of a Service: the pods behind it and the ports they are reached on.
type Service struct {
	Namespace string
	Name      string
	// Selector is nil for a Service without one: its endpoints are made by hand and not known here.
	Selector map[string]string
	Ports    []ServicePort
}

// ServicePort maps a port of the Service to one of its pods.
type ServicePort struct {
	Name     string
	Protocol corev1.Protocol
	Port     uint16
	// Target is a number or the name of a port of the pods.
	Target intstr.IntOrString
}

// Selects tells whether a pod stands behind the Service.
func (s *Service) Selects(p *reach.Pod) bool {
	if len(s.Selector) == 0 || p.Namespace != s.Namespace {
		return false
	}
	for k, v := range s.Selector {
		if have, ok := p.Labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// On is the number that the pod is reached on; false when the target is a name that the pod has no port of.
func (p ServicePort) On(pod *reach.Pod) (uint16, bool) {
	if p.Target.Type == intstr.Int {
		return uint16(p.Target.IntVal), p.Target.IntVal > 0 && p.Target.IntVal <= maxPort
	}
	for _, c := range pod.Ports {
		if c.Name == p.Target.StrVal && c.Protocol == p.Protocol {
			return c.Port, true
		}
	}
	return 0, false
}

const maxPort = 65535

// Bare are the policies as the engine takes them.
func (s *Set) Bare() []reach.Policy {
	out := make([]reach.Policy, len(s.Policies))
	for i := range s.Policies {
		out[i] = s.Policies[i].Policy
	}
	return out
}

// FindCluster is the ClusterNetworkPolicy of that name; nil when there is none.
func (s *Set) FindCluster(name string) *ClusterPolicy {
	for i := range s.Cluster {
		if s.Cluster[i].Spec.Name == name {
			return &s.Cluster[i]
		}
	}
	return nil
}

// BareCluster are the ClusterNetworkPolicies as the engine takes them.
func (s *Set) BareCluster() []reach.ClusterPolicy {
	out := make([]reach.ClusterPolicy, len(s.Cluster))
	for i := range s.Cluster {
		out[i] = s.Cluster[i].ClusterPolicy
	}
	return out
}

// Compile compiles the set's policies over its world. The error is that of [reach.Compile], with the line of each field at fault.
func (s *Set) Compile() (*reach.Engine, error) {
	engine, err := reach.Compile(s.World, s.Bare(), s.BareCluster()...)
	all, several := err.(interface{ Unwrap() []error })
	if !several {
		return engine, err
	}
	for _, each := range all.Unwrap() {
		var f *reach.Fault
		if !errors.As(each, &f) {
			continue
		}
		for i := range s.Policies {
			if p := &s.Policies[i]; p.File == f.File && p.Line == f.Line && f.Policy == "policy "+p.Name() {
				f.Line = p.Place(f.Field).Line
			}
		}
		for i := range s.Cluster {
			if p := &s.Cluster[i]; p.File == f.File && p.Line == f.Line && f.Policy == "clusterNetworkPolicy "+p.Spec.Name {
				f.Line = p.Place(f.Field).Line
			}
		}
	}
	return nil, err
}

// Find is the policy of that "namespace/name"; nil when there is none.
func (s *Set) Find(name string) *Policy {
	for i := range s.Policies {
		if s.Policies[i].Name() == name {
			return &s.Policies[i]
		}
	}
	return nil
}

// InventedAddress tells whether a pod's address is one that no status gave.
func (s *Set) InventedAddress(a netip.Addr) bool {
	return s.Addresses == Invented && (inventedRange.Contains(a) || inventedIPv6.Contains(a))
}

// Blocks are the CIDRs of every ipBlock, those of their excepts and the networks of ClusterNetworkPolicies; what is none is left out.
func (s *Set) Blocks() []netip.Prefix {
	var out []netip.Prefix
	add := func(cidr string) {
		if p, err := netip.ParsePrefix(cidr); err == nil {
			out = append(out, p.Masked())
		}
	}
	peers := func(list []networkingv1.NetworkPolicyPeer) {
		for _, p := range list {
			if p.IPBlock == nil {
				continue
			}
			add(p.IPBlock.CIDR)
			for _, e := range p.IPBlock.Except {
				add(e)
			}
		}
	}
	for i := range s.Policies {
		for _, r := range s.Policies[i].Spec.Spec.Ingress {
			peers(r.From)
		}
		for _, r := range s.Policies[i].Spec.Spec.Egress {
			peers(r.To)
		}
	}
	for i := range s.Cluster {
		for _, r := range s.Cluster[i].Spec.Spec.Egress {
			for _, to := range r.To {
				for _, n := range to.Networks {
					add(string(n))
				}
			}
		}
	}
	return out
}

// FollowsInvented tells whether a block speaks of an invented address, as a scenario's ${pod:x/a} does: blocks and addresses then mean each other,
// whatever they are. A list of bogons, which has the whole range, does not.
func (s *Set) FollowsInvented() bool {
	return s.Addresses == Invented && slices.ContainsFunc(s.Blocks(), func(b netip.Prefix) bool {
		for _, r := range []netip.Prefix{inventedRange, inventedIPv6} {
			if r.Bits() < b.Bits() && r.Contains(b.Addr()) {
				return true
			}
		}
		return false
	})
}

// The invented ranges are set aside for tests of network devices and belong to no cluster (RFC 2544, RFC 5180). Scenarios have addresses of both.
var (
	inventedRange = netip.MustParsePrefix("198.18.0.0/15")
	inventedIPv6  = netip.MustParsePrefix("2001:2::/48")
)
