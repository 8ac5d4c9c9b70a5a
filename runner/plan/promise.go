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

// promises says what must hold for every attempt after step.
func (b *builder) promises(step Step, path string, expect *scenarios.Expect, expectPath string) []Promise {
	engine, err := b.compile(step)
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
		// Exhaustive is about what nobody thought of. What cannot be judged is no promise of it.
		if p := &promises[i]; p.Skip != "" && strings.HasSuffix(p.IntendedBy, exhaustiveField) {
			p.Intended, p.IntendedBy = reach.Unknown, ""
		}
	}
	return promises
}

// derive fills Derived, Backends and Skip of the promise p for the attempt a.
func (b *builder) derive(engine engines, step Step, a attempt, p *Promise) error {
	if a.Lacking != "" {
		p.Skip = a.Lacking
		return nil
	}
	for _, end := range []podName{a.source.pod, a.pod} {
		if !b.there(step.World, end) {
			p.Skip = fmt.Sprintf("%s is not there after this step", end)
			return nil
		}
	}
	source := b.from(a)
	var destinations []target
	switch a.Kind {
	case PodIP, NodeIP:
		if a.Protocol == probes.ICMP {
			return deriveEcho(engine.node, source, b.endpoint(a.pod, a.Family), p)
		}
		destinations = append(destinations, target{b.endpoint(a.pod, a.Family), a.port})
	case OutsideIP:
		to := b.outsideEnd(a.Destination, a.Family)
		if a.Protocol == probes.ICMP {
			return deriveEcho(engine.node, source, to, p)
		}
		destinations = append(destinations, target{to, a.port})
	case APIServerIP:
		if destinations = b.apiServers(); len(destinations) == 0 {
			p.Skip = "the cluster named no API server to judge it on"
			return nil
		}
	case ClusterIP, NodePort:
		backends := b.backends(step.World, a.service)
		if names := podStrings(backends); !slices.Equal(names, a.Responders) {
			p.Backends = names
		}
		if len(backends) == 0 {
			p.Skip = fmt.Sprintf("no pod stands behind Service %s after this step", serviceKey(*a.service))
			return nil
		}
		for _, pod := range backends {
			written, _ := b.scenario.World.Pod(pod.String())
			port, listens := a.target.On(written)
			if !listens {
				p.Skip = fmt.Sprintf("%s stands behind Service %s but does not listen on %s/%s", pod, serviceKey(*a.service), a.protocol, a.target.TargetPort.String())
				return nil
			}
			destinations = append(destinations, target{b.endpoint(pod, a.Family), port})
		}
	case Lookup:
		source = b.endpoint(a.source.pod, probes.FamilyUnknown) // the resolver is asked over the cluster's first family
		if a.service.Headless() && b.answersChanged(step.World, a) {
			p.Skip = fmt.Sprintf("other pods stand behind the headless Service %s than at first, and a resolver may answer from its cache", serviceKey(*a.service))
			return nil
		}
		for _, pod := range b.facts.Resolver.Pods {
			destinations = append(destinations, target{reach.Endpoint{Namespace: pod.Namespace, Pod: pod.Name}, a.port})
		}
		if len(destinations) == 0 {
			p.Skip = "the cluster named no resolver pods to judge a lookup on"
			return nil
		}
	}
	return b.decide(engine, step, a, source, destinations, p)
}

// decide asks the engine about every destination and keeps what they have in common.
func (b *builder) decide(engine engines, step Step, a attempt, source reach.Endpoint, destinations []target, p *Promise) error {
	var allowed, denied []string
	for i, to := range destinations {
		d, open, err := b.look(engine, step, a, source, to)
		if err != nil {
			return err
		}
		if i == 0 {
			p.Derived = d
		}
		if open != "" && p.Skip == "" {
			p.Skip = open
		}
		if d.Verdict == reach.Allow {
			allowed = append(allowed, to.String())
		} else {
			denied = append(denied, to.String())
		}
	}
	if p.Skip != "" {
		return nil
	}
	if len(allowed) > 0 && len(denied) > 0 {
		p.Derived = reach.Decision{Notes: []string{reach.NoteBackendsDiffer}}
		if p.Intended == reach.Unknown {
			p.Skip = fmt.Sprintf("the policies allow %s and deny %s: which of them is asked is not the source's choice",
				strings.Join(allowed, ", "), strings.Join(denied, ", "))
		}
	}
	if slices.Contains(p.Derived.Notes, reach.NoteEqualPriority) && p.Intended == reach.Unknown && p.Skip == "" {
		p.Skip = "two ClusterNetworkPolicies of one tier and one priority disagree: the API lets an implementation apply either"
	}
	if a.service != nil && a.Kind != Lookup && slices.ContainsFunc(destinations, func(t target) bool { return t.Endpoint == source }) {
		p.Derived.Notes = append(p.Derived.Notes, reach.NoteHairpin)
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
	pod := step.World.Pods[n]
	namespace := slices.IndexFunc(step.World.Namespaces, func(ns reach.Namespace) bool { return ns.Name == pod.Namespace })
	if namespace < 0 {
		return false
	}
	return slices.ContainsFunc(step.ClusterPolicies, func(p reach.ClusterPolicy) bool {
		return isSubject(p.Spec.Spec.Subject, step.World.Namespaces[namespace], pod)
	})
}
