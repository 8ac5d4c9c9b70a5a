package plan

import (
	"maps"
	"slices"
	"strings"
)

// Undo lists what brings the world back to how it was before the first step, from wherever the steps were left: every policy that
// a step could have applied deleted, every label that a step could have changed as it was at first. Deleting what is not there is
// for the caller to bear. It lets scenarios of one group follow one another on one fixture.
func (p *Plan) Undo() []Change {
	policies := map[string]bool{}
	labels := map[string]map[string]*string{} // by "namespace/pod", the pod empty for the namespace itself
	for _, s := range p.Steps {
		for _, c := range s.Changes {
			if c.Apply != nil {
				policies[policyKey(c.Apply.Spec)] = true
			}
			if c.Relabel != nil {
				key := c.Relabel.Namespace + "/" + c.Relabel.Pod
				if labels[key] == nil {
					labels[key] = map[string]*string{}
				}
				for name := range c.Relabel.Labels {
					labels[key][name] = p.initialLabel(c.Relabel.Namespace, c.Relabel.Pod, name)
				}
			}
		}
	}
	var changes []Change
	for _, key := range slices.Sorted(maps.Keys(policies)) {
		changes = append(changes, Change{Delete: key})
	}
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		namespace, pod, _ := strings.Cut(key, "/")
		changes = append(changes, Change{Relabel: &Relabel{Namespace: namespace, Pod: pod, Labels: labels[key]}})
	}
	return changes
}

// initialLabel is a label's value before the first step; nil when there was none.
func (p *Plan) initialLabel(namespace, pod, label string) *string {
	find := func(labels map[string]string) *string {
		if v, ok := labels[label]; ok {
			return &v
		}
		return nil
	}
	if pod == "" {
		for _, ns := range p.Initial.Namespaces {
			if ns.Name == namespace {
				return find(ns.Labels)
			}
		}
		return nil
	}
	for _, q := range p.Initial.Pods {
		if q.Namespace == namespace && q.Name == pod {
			return find(q.Labels)
		}
	}
	return nil
}
