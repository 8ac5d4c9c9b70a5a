package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/reach"
)

// planEchoes adds an echo from source to every other pod, where the world asks for ICMP. A pod's echo to itself shows nothing.
func (b *builder) planEchoes(source origin) {
	if !b.scenario.World.Reach.ICMP {
		return
	}
	for _, ns := range b.scenario.World.Namespaces {
		for _, pod := range ns.Pods {
			to := podName{ns.Name, pod.Name}
			if to == source.pod {
				continue
			}
			facts := b.facts.Pods[to.String()]
			b.plan(attempt{
				Planned: Planned{
					Destination: to.String(),
					Kind:        PodIP,
					Protocol:    probes.ICMP,
					Responders:  []string{to.String()},
					SameNode:    b.sameNode(source, facts.Node),
				},
				source: source, pod: to,
			}, facts.Addresses(), 0)
		}
	}
}

// deriveEcho fills Derived and Skip of the promise p for an echo.
func deriveEcho(engine *reach.Engine, source, destination reach.Endpoint, p *Promise) error {
	d, err := engine.DecideEcho(source, destination)
	if err != nil {
		return err
	}
	p.Derived = d
	if d.Verdict == reach.Unknown && (p.Intended == reach.Unknown || strings.HasSuffix(p.IntendedBy, exhaustiveField)) {
		var policies []string
		for _, r := range slices.Concat(d.Egress.Isolating, d.Ingress.Isolating) {
			if !slices.Contains(policies, r.Policy) {
				policies = append(policies, r.Policy)
			}
		}
		p.Skip = fmt.Sprintf("%s isolates an end, and the API leaves open what happens to ICMP then (semantics note %s)", strings.Join(policies, " and "), reach.NoteICMP)
	}
	return nil
}
