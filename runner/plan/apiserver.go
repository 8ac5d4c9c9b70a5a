package plan

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/scenarios"
)

// apiServerPort is the port of the Service kubernetes.
const apiServerPort = 443

// planAPIServer plans the attempt of one pod at the cluster's API server.
func (b *builder) planAPIServer(source origin) {
	if !b.scenario.World.Reach.APIServer {
		return
	}
	var nodes []string
	for _, server := range b.facts.APIServer.Endpoints {
		nodes = append(nodes, b.nodeOf(server.Addr()))
	}
	b.plan(attempt{
		Planned: Planned{
			Destination: scenarios.APIServer,
			Kind:        APIServerIP,
			Protocol:    probes.TCP,
			Port:        apiServerPort,
			Name:        APIServerName,
			Responders:  []string{APIServerName},
			SameNode:    b.sameNode(source, nodes...),
		},
		source: source, port: apiServerPort, protocol: corev1.ProtocolTCP,
	}, b.facts.APIServer.Addresses, apiServerPort)
}

// apiServers are the servers that an attempt may end at, as policies see them: addresses that are no pod's. Their Service has one family.
func (b *builder) apiServers() []target {
	var servers []target
	for _, server := range b.facts.APIServer.Endpoints {
		servers = append(servers, target{reach.Endpoint{Addr: server.Addr()}, server.Port()})
	}
	return servers
}
