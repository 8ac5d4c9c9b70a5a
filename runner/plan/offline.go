package plan

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/scenarios"
)

// Offline invents facts for s: the same ones for the same scenario, marked as invented. Pods and Services get addresses of
// 198.18.0.0/15, which is set aside for tests of network devices and belongs to no cluster (RFC 2544), Services, nodes and hosts outside the
// upper half, and where the world asks for IPv6, of 2001:2::/48 as well (RFC 5180). Pods that may run anywhere get no node. An ipBlock that
// holds a real cluster's range will not contain them. It returns an error when the world is larger than the range.
func Offline(s *scenarios.Scenario) (Facts, error) {
	f := Facts{
		Pods:          map[string]PodFacts{},
		Services:      map[string][]netip.Addr{},
		NodePorts:     map[string]uint16{},
		Nodes:         map[string]NodeFacts{},
		Places:        map[string]string{},
		ClusterDomain: defaultClusterDomain,
		Invented:      true,
	}
	six := slices.Contains(s.World.Reach.Families, corev1.IPv6Protocol)
	pods := newRange("198.18.0.0/16", "2001:2:0:1::/64", six)
	services := newRange("198.19.0.0/17", "2001:2:0:2::/64", six)
	nodes := newRange("198.19.128.0/19", "2001:2:0:3::/64", six)
	outside := newRange("198.19.160.0/19", "2001:2:0:4::/64", six)
	place := func(key string) string {
		name := "node-" + key
		if _, known := f.Nodes[name]; !known {
			f.Nodes[name], f.Places[key] = NodeFacts{Addresses: nodes.next()}, name
		}
		return name
	}
	for _, ns := range s.World.Namespaces {
		for _, p := range ns.Pods {
			var facts PodFacts
			if p.Node != "" {
				facts.Node = place(p.Node)
			}
			var own []netip.Addr
			switch {
			case !p.HostNetwork:
				own = pods.next()
			case p.Node != "":
				own = f.Nodes[facts.Node].Addresses
			default:
				own = nodes.next()
			}
			facts.IP, facts.Others = own[0], own[1:]
			f.Pods[podName{ns.Name, p.Name}.String()] = facts
		}
	}
	for _, key := range s.World.Reach.Nodes {
		place(key)
	}
	nodePort := uint16(firstNodePort)
	for _, svc := range s.World.Services {
		if !svc.Headless() {
			f.Services[serviceKey(svc)] = services.next()
		}
		for _, port := range servicePorts(&svc) {
			if svc.OnNodes() {
				f.NodePorts[nodePortKey(svc, port)] = nodePort
				nodePort++
			}
		}
	}
	for _, host := range s.World.Reach.Outside {
		if f.Outside == nil {
			f.Outside = map[string][]netip.Addr{}
		}
		own := outside.next()
		if len(host.Addresses) > 0 {
			own = slices.DeleteFunc(host.Addrs(), func(a netip.Addr) bool { return a.Is6() && !six })
		}
		f.Outside[scenarios.Outside(host.Name)] = own
	}
	if s.World.Reach.APIServer {
		f.APIServer = APIServer{Addresses: services.next(), Endpoints: []netip.AddrPort{netip.AddrPortFrom(nodes.next()[0], 6443)}}
	}
	// As CoreDNS has it in clusters that kubeadm makes.
	f.Resolver = Resolver{
		Namespace: reach.Namespace{Name: "kube-system", Labels: map[string]string{}},
		Pods: []reach.Pod{{
			Namespace: "kube-system", Name: "coredns",
			Labels: map[string]string{"k8s-app": "kube-dns"},
			IPs:    pods.next(),
			Ports: []reach.Port{
				{Name: "dns", Protocol: "UDP", Port: resolverPort},
				{Name: "dns-tcp", Protocol: "TCP", Port: resolverPort},
			},
		}},
	}
	for _, r := range []*addressRange{pods, services, nodes, outside} {
		if err := r.fault(); err != nil {
			return Facts{}, fmt.Errorf("inventing addresses for scenario %s: %w", s.Metadata.Name, err)
		}
	}
	return f, nil
}

// addressRange hands out addresses of one purpose, of IPv6 too where that is asked for.
type addressRange struct {
	four addresses
	six  *addresses
}

func newRange(four, six string, both bool) *addressRange {
	r := &addressRange{four: addresses{prefix: netip.MustParsePrefix(four)}}
	if both {
		r.six = &addresses{prefix: netip.MustParsePrefix(six)}
	}
	return r
}

func (r *addressRange) next() []netip.Addr {
	next := []netip.Addr{r.four.next()}
	if r.six != nil {
		next = append(next, r.six.next())
	}
	return next
}

func (r *addressRange) fault() error { return r.four.fault } // the other holds 2^64

// firstNodePort begins the API server's default range of node ports.
const firstNodePort = 30000

// addresses hands out the addresses of a prefix in order, the network's own excepted.
type addresses struct {
	prefix netip.Prefix
	last   netip.Addr
	fault  error
}

func (a *addresses) next() netip.Addr {
	if !a.last.IsValid() {
		a.last = a.prefix.Addr()
	}
	a.last = a.last.Next()
	if !a.prefix.Contains(a.last) {
		a.fault = fmt.Errorf("%s is used up", a.prefix)
	}
	return a.last
}
