package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/scenarios"
)

// defaultStep is the name of the only step of a scenario that writes none.
const defaultStep = "policies"

// anyPolicy stands for all policies in apply, and for all in effect in delete.
const anyPolicy = "*"

// state is what is in effect after a step, with the cluster's names.
type state struct {
	world    reach.World
	policies map[string]reach.Policy        // by "namespace/name"
	cluster  map[string]reach.ClusterPolicy // by name
	gone     map[string]bool                // pods of world that are not there, by "namespace/pod" of the scenario
}

// writtenSteps are the scenario's steps, or the one that stands for none.
func (b *builder) writtenSteps() []scenarios.Step {
	if len(b.scenario.Steps) > 0 {
		return b.scenario.Steps
	}
	return []scenarios.Step{{Name: defaultStep, Apply: []string{anyPolicy}}}
}

// intentOf is the intent of step i of n and the path of the field it is written in; nil when there is none.
func (b *builder) intentOf(step scenarios.Step, i, n int) (*scenarios.Expect, string) {
	switch {
	case step.Expect != nil:
		return step.Expect, fmt.Sprintf("steps[%d].expect", i)
	case i == n-1 && b.scenario.Expect != nil:
		return b.scenario.Expect, "expect"
	default:
		return nil, ""
	}
}

// planSteps walks the steps in order: each starts from what the one before left.
func (b *builder) planSteps() []Step {
	st := state{world: b.initialWorld(), policies: map[string]reach.Policy{}, cluster: map[string]reach.ClusterPolicy{}, gone: map[string]bool{}}
	written := b.writtenSteps()
	var steps []Step
	for i, w := range written {
		path := fmt.Sprintf("steps[%d]", i)
		st.world = cloneWorld(st.world)
		step := Step{Name: w.Name}
		step.Changes = append(step.Changes, b.apply(&st, w, path)...)
		step.Changes = append(step.Changes, b.replace(&st, w, path)...)
		step.Changes = append(step.Changes, b.remove(&st, w, path)...)
		step.Changes = append(step.Changes, b.relabel(&st, w, path)...)
		step.Changes = append(step.Changes, b.remake(&st, w, i)...)
		step.World = b.present(st)
		for _, key := range slices.Sorted(maps.Keys(st.policies)) {
			step.Policies = append(step.Policies, st.policies[key])
		}
		for _, name := range slices.Sorted(maps.Keys(st.cluster)) {
			step.ClusterPolicies = append(step.ClusterPolicies, st.cluster[name])
		}
		expect, expectPath := b.intentOf(w, i, len(written))
		step.Promises = b.promises(step, path, expect, expectPath)
		steps = append(steps, step)
	}
	return steps
}

func (b *builder) apply(st *state, w scenarios.Step, path string) []Change {
	known, cluster := loaded(b.scenario), loadedCluster(b.scenario)
	var changes []Change
	put := func(field string, p scenarios.Policy) {
		if c, ok := b.put(st, field, p); ok {
			changes = append(changes, c)
		}
	}
	putCluster := func(field string, p scenarios.ClusterPolicy) {
		if c, ok := b.putCluster(st, field, p); ok {
			changes = append(changes, c)
		}
	}
	for i, name := range w.Apply {
		field := fmt.Sprintf("%s.apply[%d]", path, i)
		if name == anyPolicy {
			for _, p := range known {
				put(field, p)
			}
			for _, p := range cluster {
				putCluster(field, p)
			}
			continue
		}
		if n := slices.IndexFunc(cluster, func(p scenarios.ClusterPolicy) bool { return p.Spec.Name == name }); n >= 0 {
			putCluster(field, cluster[n])
			continue
		}
		n := slices.IndexFunc(known, func(p scenarios.Policy) bool { return policyKey(p.Spec) == name })
		if n < 0 {
			b.faultf("%s: no policy %q under policies", field, name)
			continue
		}
		put(field, known[n])
	}
	return changes
}

func (b *builder) replace(st *state, w scenarios.Step, path string) []Change {
	replacing := w.Replacing
	if len(replacing) == 0 {
		for _, spec := range w.Replace {
			replacing = append(replacing, scenarios.Policy{Spec: spec, File: b.scenario.File})
		}
	}
	var changes []Change
	for i, p := range replacing {
		field := fmt.Sprintf("%s.replace[%d]", path, i)
		if _, ok := st.policies[policyKey(b.names.policy(p.Spec))]; !ok {
			b.faultf("%s: policy %q is not in effect, so there is nothing to replace", field, policyKey(p.Spec))
			continue
		}
		if c, ok := b.put(st, field, p); ok {
			changes = append(changes, c)
		}
	}
	return append(changes, b.replaceCluster(st, w, path)...)
}

// put brings one policy into effect. One in a namespace that is not the world's would touch what the run did not create.
func (b *builder) put(st *state, field string, p scenarios.Policy) (Change, bool) {
	if !b.names.own[p.Spec.Namespace] {
		b.faultf("%s: policy %q is not in a namespace of the world", field, policyKey(p.Spec))
		return Change{}, false
	}
	spec, err := scenarios.Substitute(p.Spec, b.address)
	if err != nil {
		b.faultf("%s: %w", field, err)
		return Change{}, false
	}
	policy := reach.Policy{Spec: b.names.policy(spec), File: p.File, Line: p.Line}
	st.policies[policyKey(policy.Spec)] = policy
	return Change{Apply: &policy}, true
}

func (b *builder) remove(st *state, w scenarios.Step, path string) []Change {
	var changes []Change
	for i, name := range w.Delete {
		keys := []string{b.clusterKey(name)}
		switch {
		case name == anyPolicy:
			keys = slices.Sorted(maps.Keys(st.policies))
			for _, cluster := range slices.Sorted(maps.Keys(st.cluster)) {
				delete(st.cluster, cluster)
				changes = append(changes, Change{DeleteCluster: cluster})
			}
		case !strings.Contains(name, "/"):
			cluster := b.names.clusterScoped(name)
			if _, ok := st.cluster[cluster]; !ok {
				b.faultf("%s.delete[%d]: policy %q is not in effect, so there is nothing to delete", path, i, name)
				continue
			}
			delete(st.cluster, cluster)
			changes = append(changes, Change{DeleteCluster: cluster})
			continue
		}
		for _, key := range keys {
			if _, ok := st.policies[key]; !ok {
				b.faultf("%s.delete[%d]: policy %q is not in effect, so there is nothing to delete", path, i, name)
				continue
			}
			delete(st.policies, key)
			changes = append(changes, Change{Delete: key})
		}
	}
	return changes
}

func (b *builder) relabel(st *state, w scenarios.Step, path string) []Change {
	var changes []Change
	for i, r := range w.Relabel {
		field := fmt.Sprintf("%s.relabel[%d]", path, i)
		if _, ok := r.Labels[corev1.LabelMetadataName]; ok && r.Namespace != "" {
			b.faultf("%s.labels: %s belongs to the API server", field, corev1.LabelMetadataName)
			continue
		}
		change := Relabel{Namespace: b.names.namespace(r.Namespace), Labels: r.Labels}
		if r.Pod != "" {
			namespace, name, _ := strings.Cut(r.Pod, "/")
			change.Namespace, change.Pod = b.names.namespace(namespace), name
		}
		if !relabelWorld(st.world, change) {
			b.faultf("%s: the world has no %s", field, strings.TrimSuffix(r.Namespace+r.Pod, "/"))
			continue
		}
		changes = append(changes, Change{Relabel: &change})
	}
	return changes
}

// relabelWorld changes labels in place and tells whether it found whose.
func relabelWorld(w reach.World, r Relabel) bool {
	change := func(labels map[string]string) {
		for k, v := range r.Labels {
			if v == nil {
				delete(labels, k)
			} else {
				labels[k] = *v
			}
		}
	}
	if r.Pod != "" {
		for _, p := range w.Pods {
			if p.Namespace == r.Namespace && p.Name == r.Pod {
				change(p.Labels)
				return true
			}
		}
		return false
	}
	for _, ns := range w.Namespaces {
		if ns.Name == r.Namespace {
			change(ns.Labels)
			return true
		}
	}
	return false
}

// clusterKey turns a policy's "namespace/name" into the cluster's.
func (b *builder) clusterKey(key string) string {
	namespace, name, _ := strings.Cut(key, "/")
	return b.names.namespace(namespace) + "/" + name
}

// initialWorld is the world before the first step, with the cluster's names and the resolver.
func (b *builder) initialWorld() reach.World {
	var w reach.World
	for _, ns := range b.scenario.World.Namespaces {
		name := b.names.namespace(ns.Name)
		w.Namespaces = append(w.Namespaces, reach.Namespace{Name: name, Labels: cloneLabels(ns.Labels)})
		for _, pod := range ns.Pods {
			facts := b.facts.Pods[podName{ns.Name, pod.Name}.String()]
			p := reach.Pod{
				Namespace: name, Name: pod.Name, Labels: cloneLabels(pod.Labels),
				IPs: facts.Addresses(), Node: facts.Node, HostNetwork: pod.HostNetwork,
			}
			for _, port := range listening(pod.Ports) {
				p.Ports = append(p.Ports, reach.Port{Name: port.Name, Protocol: port.Protocol, Port: port.Port})
			}
			w.Pods = append(w.Pods, p)
		}
	}
	if r := b.facts.Resolver; r.Namespace.Name != "" {
		w.Namespaces = append(w.Namespaces, r.Namespace)
		w.Pods = append(w.Pods, r.Pods...)
	}
	return w
}

// cloneWorld is a copy whose labels can be changed without touching w's.
func cloneWorld(w reach.World) reach.World {
	c := reach.World{Namespaces: slices.Clone(w.Namespaces), Pods: slices.Clone(w.Pods)}
	for i := range c.Namespaces {
		c.Namespaces[i].Labels = cloneLabels(c.Namespaces[i].Labels)
	}
	for i := range c.Pods {
		c.Pods[i].Labels = cloneLabels(c.Pods[i].Labels)
	}
	return c
}

// cloneLabels is a copy that is never nil, so that labels can be set in it.
func cloneLabels(labels map[string]string) map[string]string {
	c := make(map[string]string, len(labels))
	maps.Copy(c, labels)
	return c
}

// loaded is what loading gathered; a scenario that was not loaded but written in Go has its inline policies.
func loaded(s *scenarios.Scenario) []scenarios.Policy {
	if len(s.Policies.Loaded) > 0 {
		return s.Policies.Loaded
	}
	var policies []scenarios.Policy
	for _, spec := range s.Policies.Inline {
		policies = append(policies, scenarios.Policy{Spec: spec, File: s.File})
	}
	return policies
}

// policyKey is a policy's "namespace/name".
func policyKey(p networkingv1.NetworkPolicy) string { return p.Namespace + "/" + p.Name }
