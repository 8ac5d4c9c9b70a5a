package reach

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// DecideEcho derives whether an ICMP echo between the two ends must be allowed. Policies speak of TCP, UDP and SCTP alone, and leave open
// both what isolation does to other protocols and what a rule does that admits the peer (NoteICMP). So it is allowed where no policy
// selects an end for the direction in question, and of a pod to itself; else the verdict is Unknown, with the policies that isolate. Errors
// are those of [Engine.Decide].
func (e *Engine) DecideEcho(source, destination Endpoint) (Decision, error) {
	// A stand-in for the parts of a query that an echo has not.
	f, err := e.resolve(Query{Source: source, Destination: destination, Protocol: corev1.ProtocolTCP, Port: 1})
	if err != nil {
		return Decision{}, fmt.Errorf("deciding an echo from %s to %s: %w", source, destination, err)
	}
	if f.source.pod == f.destination.pod {
		self := Side{Verdict: Allow}
		return Decision{Verdict: Allow, Egress: self, Ingress: self, Notes: []string{NoteSelfTraffic}}, nil
	}
	out := Decision{Verdict: Allow, Egress: e.echoSide(egress, f.source), Ingress: e.echoSide(ingress, f.destination), Notes: []string{NoteICMP}}
	if out.Egress.Verdict != Allow || out.Ingress.Verdict != Allow {
		out.Verdict = Unknown
	}
	return out, nil
}

// echoSide is the verdict of one direction on whatever policies do not speak about.
func (e *Engine) echoSide(d direction, subject end) Side {
	if subject.pod == outside {
		return Side{Verdict: Allow}
	}
	side := Side{Verdict: Allow, Isolating: isolatingRefs(e.isolating[d][subject.pod], d)}
	open := len(side.Isolating) > 0
	for _, policies := range e.cluster {
		for i := range policies {
			open = open || policies[i].isolated[d].has(subject.pod)
		}
	}
	if open {
		side.Verdict = Unknown
	}
	return side
}
