package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/gapproof/gapproof/runner/manifest"
	"github.com/gapproof/gapproof/scenarios"
)

// material is what the arguments of lint and explain hold: a scenario with a set per step, or all the manifests as one set.
type material struct {
	scenario string // its file; empty for manifests
	steps    []step
}

// step is one step of a scenario; manifests have one without a name.
type step struct {
	name string
	set  *manifest.Set
}

func (m *material) sets() []*manifest.Set {
	out := make([]*manifest.Set, len(m.steps))
	for i := range m.steps {
		out[i] = m.steps[i].set
	}
	return out
}

// readMaterial reads files, directories (*.yaml, *.yml, *.json at any depth; hidden ones left out), kustomizations and standard input. Scenarios stand each
// for itself, manifests are all one world; a file that a scenario uses is none of them. Policies of kinds that no verdict takes into account are told on
// stderr. Every error is a usage error, or that of ctx.
func (a *app) readMaterial(ctx context.Context, stdin io.Reader, paths []string, namespace string) ([]material, error) {
	type result struct {
		all     []material
		foreign []scenarios.Omission
		err     error
	}
	read := make(chan result, 1)
	go func() { // standard input and named pipes may never end, and reading them heeds no context
		all, foreign, err := readMaterial(stdin, paths, namespace)
		read <- result{all, foreign, err}
	}()
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case r := <-read:
		a.omissions(r.foreign)
		return r.all, r.err
	}
}

func readMaterial(stdin io.Reader, paths []string, namespace string) ([]material, []scenarios.Omission, error) {
	manifests, err := scenarios.ReadManifests(paths, scenarios.ManifestOptions{DefaultNamespace: namespace, Input: stdin})
	if err != nil {
		return nil, nil, err
	}
	var out []material
	used := map[string]struct{}{}
	if files := manifests.Scenarios(); len(files) > 0 {
		all, err := scenarios.Load(files...)
		if err != nil {
			return nil, nil, err
		}
		for _, s := range all {
			for _, p := range s.Policies.Loaded {
				used[p.File] = struct{}{}
			}
			for _, p := range s.Places {
				used[p.File] = struct{}{}
			}
			m, err := scenarioMaterial(s)
			if err != nil {
				return nil, nil, err
			}
			out = append(out, m)
		}
	}
	objects, err := manifests.Objects(used)
	if err != nil {
		return nil, nil, err
	}
	set := manifest.Of(objects)
	if len(set.Policies) == 0 && len(set.Cluster) == 0 && len(set.Places) == 0 {
		if len(out) == 0 {
			return nil, manifests.Foreign(), hinted{usageError{fmt.Errorf("reading %s: no policy, Namespace or workload", strings.Join(paths, ", "))}, "name manifests or scenario files"}
		}
		return out, manifests.Foreign(), nil
	}
	return append(out, material{steps: []step{{set: set}}}), manifests.Foreign(), nil
}

// scenarioMaterial is a scenario with one set per step, addresses invented.
func scenarioMaterial(s *scenarios.Scenario) (material, error) {
	p, err := planOffline(s)
	if err != nil {
		return material{}, err
	}
	type written struct {
		file string
		line int
		name string
	}
	lines := map[written]scenarios.Lines{}
	know := func(policies []scenarios.Policy, cluster []scenarios.ClusterPolicy) {
		for _, p := range policies {
			lines[written{p.File, p.Line, p.Spec.Name}] = p.Lines
		}
		for _, p := range cluster {
			lines[written{p.File, p.Line, p.Spec.Name}] = p.Lines
		}
	}
	know(s.Policies.Loaded, s.Policies.LoadedCluster)
	for i := range s.Steps {
		know(s.Steps[i].Replacing, s.Steps[i].ReplacingCluster)
	}
	m := material{scenario: s.File}
	for _, st := range p.Steps {
		set := &manifest.Set{World: st.World, Services: servicesOf(s), Places: s.Places, Pods: manifest.SomePods}
		for _, bare := range st.Policies {
			set.Policies = append(set.Policies, manifest.Policy{Policy: bare, Lines: lines[written{bare.File, bare.Line, bare.Spec.Name}]})
		}
		for _, bare := range st.ClusterPolicies {
			set.Cluster = append(set.Cluster, manifest.ClusterPolicy{ClusterPolicy: bare, Lines: lines[written{bare.File, bare.Line, bare.Spec.Name}]})
		}
		m.steps = append(m.steps, step{st.Name, set})
	}
	return m, nil
}

func servicesOf(s *scenarios.Scenario) []manifest.Service {
	var out []manifest.Service
	for _, svc := range s.World.Services {
		made := manifest.Service{Namespace: svc.Namespace, Name: svc.Name, Selector: svc.Selector}
		for _, p := range svc.Ports {
			made.Ports = append(made.Ports, manifest.ServicePort{Protocol: p.Protocol, Port: p.Port, Target: p.TargetPort})
		}
		out = append(out, made)
	}
	return out
}

// prefixes reads the CIDRs of a flag.
func prefixes(flag string, values []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, v := range values {
		p, err := netip.ParsePrefix(v)
		if err != nil {
			return nil, usageError{fmt.Errorf("--%s: %q is not a CIDR", flag, v)}
		}
		out = append(out, p.Masked())
	}
	return out, nil
}
