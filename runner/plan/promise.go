package plan

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/scenarios"
)

// The semantics notes that planning adds to the engine's.
const (
	// NoteHairpin: the source stands behind the Service it calls, and the API does not say whether policies apply then.
	// https://github.com/kubernetes-sigs/network-policy-api/issues/343
	NoteHairpin = "hairpin"
	// NoteBackendsDiffer: policies allow some of a Service's backends and deny others; which one is asked is the Service's choice.
	NoteBackendsDiffer = "backends-differ"
)

// promises says what must hold for every attempt after step.
func (b *builder) promises(step Step, path string, expect *scenarios.Expect, expectPath string) []Promise {
	engine, err := reach.Compile(step.World, step.Policies)
	if err != nil {
		b.faultf("%s: %w", path, err)
		return nil
	}
	promises := make([]Promise, len(b.attempts))
	for i, in := range b.intent(expect, expectPath, step.World) {
		promises[i].Intended, promises[i].IntendedBy = in.verdict, in.field
	}
	for i, a := range b.attempts {
		if err := b.derive(engine, step, a, &promises[i]); err != nil {
			b.faultf("%s: deriving %s: %w", path, a.ID, err)
		}
	}
	return promises
}

// derive fills Derived, Backends and Skip of the promise p for the attempt a.
func (b *builder) derive(engine *reach.Engine, step Step, a attempt, p *Promise) error {
	source := reach.Endpoint{Namespace: b.names.namespace(a.source.namespace), Pod: a.source.name}
	var destinations []reach.Endpoint
	switch a.Kind {
	case PodIP:
		to := reach.Endpoint{Namespace: b.names.namespace(a.pod.namespace), Pod: a.pod.name}
		if a.Protocol == probes.ICMP {
			return deriveEcho(engine, source, to, p)
		}
		destinations = append(destinations, to)
	case ClusterIP:
		backends := b.backends(step.World, a.service)
		if names := podStrings(backends); !slices.Equal(names, a.Responders) {
			p.Backends = names
		}
		if len(backends) == 0 {
			p.Skip = fmt.Sprintf("no pod stands behind Service %s after this step", serviceKey(*a.service))
			return nil
		}
		for _, pod := range backends {
			if !b.listens(pod, a) {
				p.Skip = fmt.Sprintf("%s stands behind Service %s but does not listen on %s/%d", pod, serviceKey(*a.service), a.protocol, a.port)
				return nil
			}
			destinations = append(destinations, reach.Endpoint{Namespace: b.names.namespace(pod.namespace), Pod: pod.name})
		}
	case Lookup:
		for _, pod := range b.facts.Resolver.Pods {
			destinations = append(destinations, reach.Endpoint{Namespace: pod.Namespace, Pod: pod.Name})
		}
		if len(destinations) == 0 {
			p.Skip = "the cluster named no resolver pods to judge a lookup on"
			return nil
		}
	}
	return b.decide(engine, step, a, source, destinations, p)
}

// decide asks the engine about every destination and keeps what they have in common.
func (b *builder) decide(engine *reach.Engine, step Step, a attempt, source reach.Endpoint, destinations []reach.Endpoint, p *Promise) error {
	var allowed, denied []string
	for i, to := range destinations {
		d, err := engine.Decide(reach.Query{Source: source, Destination: to, Protocol: a.protocol, Port: a.port})
		if err != nil {
			return err
		}
		if i == 0 {
			p.Derived = d
		}
		name := to.Namespace + "/" + to.Pod
		if d.Verdict == reach.Allow {
			allowed = append(allowed, name)
		} else {
			denied = append(denied, name)
		}
	}
	if len(allowed) > 0 && len(denied) > 0 {
		p.Derived = reach.Decision{Notes: []string{NoteBackendsDiffer}}
		if p.Intended == reach.Unknown {
			p.Skip = fmt.Sprintf("the policies allow %s and deny %s: which of them is asked is not the source's choice",
				strings.Join(allowed, ", "), strings.Join(denied, ", "))
		}
	}
	if a.Kind == ClusterIP && slices.Contains(destinations, source) {
		p.Derived.Notes = append(p.Derived.Notes, NoteHairpin)
		if p.Intended == reach.Unknown && p.Skip == "" && selected(step, source) {
			p.Skip = fmt.Sprintf("%s stands behind the Service it calls and a policy selects it: the API does not say whether policies apply to such traffic", a.Source)
		}
	}
	return nil
}

// backends are the pods behind a Service in the world w, in the order of the world, by the scenario's names.
func (b *builder) backends(w reach.World, s *scenarios.Service) []podName {
	if len(s.Selector) == 0 {
		return nil // the API gives a Service without a selector no endpoints
	}
	selector := labels.SelectorFromSet(s.Selector)
	var pods []podName
	for _, p := range w.Pods {
		if p.Namespace == b.names.namespace(s.Namespace) && selector.Matches(labels.Set(p.Labels)) {
			pods = append(pods, podName{s.Namespace, p.Name})
		}
	}
	return pods
}

// listens tells whether pod has the listener that a's Service leads to.
func (b *builder) listens(pod podName, a attempt) bool {
	for _, ns := range b.scenario.World.Namespaces {
		for _, p := range ns.Pods {
			if (podName{ns.Name, p.Name}) != pod {
				continue
			}
			for _, port := range listening(p) {
				if port.Port == a.port && port.Protocol == a.protocol {
					return true
				}
			}
		}
	}
	return false
}

// selected tells whether any policy in effect selects the pod e, for whichever direction.
func selected(step Step, e reach.Endpoint) bool {
	n := slices.IndexFunc(step.World.Pods, func(p reach.Pod) bool { return p.Namespace == e.Namespace && p.Name == e.Pod })
	if n < 0 {
		return false
	}
	for _, p := range step.Policies {
		selector, err := metav1.LabelSelectorAsSelector(&p.Spec.Spec.PodSelector)
		if err != nil || p.Spec.Namespace != e.Namespace {
			continue // a selector that cannot be read was refused by the engine already
		}
		if selector.Matches(labels.Set(step.World.Pods[n].Labels)) {
			return true
		}
	}
	return false
}
