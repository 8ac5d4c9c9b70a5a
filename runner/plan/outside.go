package plan

import (
	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/scenarios"
)

// planOutside plans the attempts of one pod at the hosts outside the cluster, echoes after ports. What translates the pod's address on the
// way out does it behind the policies: no packet of an answer or of a drop is judged by another source.
func (b *builder) planOutside(source origin) {
	for _, host := range b.scenario.World.Reach.Outside {
		name := scenarios.Outside(host.Name)
		to := Planned{Destination: name, Kind: OutsideIP, Responders: []string{name}}
		for _, port := range listening(host.Ports) {
			at := to
			at.Protocol, at.Port = probeProtocol(port.Protocol), port.Port
			b.plan(attempt{Planned: at, source: source, port: port.Port, protocol: port.Protocol}, b.facts.Outside[name], port.Port)
		}
		if b.scenario.World.Reach.ICMP {
			to.Protocol = probes.ICMP
			b.plan(attempt{Planned: to, source: source}, b.facts.Outside[name], 0)
		}
	}
}

// outsideEnd is a host outside as policies see it: an address that is no pod's.
func (b *builder) outsideEnd(name string, f probes.Family) reach.Endpoint {
	return reach.Endpoint{Addr: pick(b.facts.Outside[name], f)}
}

// from is the source of an attempt as policies see it.
func (b *builder) from(a attempt) reach.Endpoint {
	if a.source.pod == (podName{}) {
		return b.outsideEnd(a.source.name, a.Family)
	}
	return b.endpoint(a.source.pod, a.Family)
}
