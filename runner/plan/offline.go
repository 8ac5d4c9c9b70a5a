package plan

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/scenarios"
)

// Offline invents facts for s: the same ones for the same scenario, marked as invented. Pods and Services get addresses of
// 198.18.0.0/15, which is set aside for tests of network devices and belongs to no cluster (RFC 2544), Services and nodes the upper half. Pods
// that may run anywhere get no node. An ipBlock that holds a real cluster's range will not contain them. It returns an
// error when the world is larger than the range.
func Offline(s *scenarios.Scenario) (Facts, error) {
	f := Facts{
		Pods:          map[string]PodFacts{},
		Services:      map[string]netip.Addr{},
		NodePorts:     map[string]uint16{},
		Nodes:         map[string]NodeFacts{},
		Places:        map[string]string{},
		ClusterDomain: defaultClusterDomain,
		Invented:      true,
	}
	pods := addresses{prefix: netip.MustParsePrefix("198.18.0.0/16")}
	services := addresses{prefix: netip.MustParsePrefix("198.19.0.0/17")}
	nodes := addresses{prefix: netip.MustParsePrefix("198.19.128.0/18")}
	place := func(key string) string {
		name := "node-" + key
		if _, known := f.Nodes[name]; !known {
			f.Nodes[name], f.Places[key] = NodeFacts{Addresses: []netip.Addr{nodes.next()}}, name
		}
		return name
	}
	for _, ns := range s.World.Namespaces {
		for _, p := range ns.Pods {
			var facts PodFacts
			if p.Node != "" {
				facts.Node = place(p.Node)
			}
			switch {
			case !p.HostNetwork:
				facts.IP = pods.next()
			case p.Node != "":
				facts.IP = f.Nodes[facts.Node].Addresses[0]
			default:
				facts.IP = nodes.next()
			}
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
	// As CoreDNS has it in clusters that kubeadm makes.
	f.Resolver = Resolver{
		Namespace: reach.Namespace{Name: "kube-system", Labels: map[string]string{}},
		Pods: []reach.Pod{{
			Namespace: "kube-system", Name: "coredns",
			Labels: map[string]string{"k8s-app": "kube-dns"},
			IPs:    []netip.Addr{pods.next()},
			Ports: []reach.Port{
				{Name: "dns", Protocol: "UDP", Port: resolverPort},
				{Name: "dns-tcp", Protocol: "TCP", Port: resolverPort},
			},
		}},
	}
	if err := errors.Join(pods.fault, services.fault, nodes.fault); err != nil {
		return Facts{}, fmt.Errorf("inventing addresses for scenario %s: %w", s.Metadata.Name, err)
	}
	return f, nil
}

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
