package main

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/scenarios"
)

func (a *app) plan() *cobra.Command {
	var minimal bool
	c := &cobra.Command{
		Use:   "plan [FILE|DIR ...]",
		Short: "Print every attempt of scenarios and what is promised, without a cluster",
		Long: `plan derives every verdict offline. Addresses are invented (198.18.0.0/15), so an ipBlock of a real cluster's range does not
contain them. Where intent and policies differ, the line is marked: that is a policy bug found before anything runs.`,
		RunE: func(_ *cobra.Command, args []string) error {
			all, err := a.load(args)
			if err != nil {
				return err
			}
			differ := false
			for _, s := range all {
				p, err := planOffline(s)
				if err != nil {
					return err
				}
				if minimal {
					if err := a.printMinimal(p); err != nil {
						return err
					}
					continue
				}
				differ = a.printPlan(p) || differ
			}
			if differ {
				return exitError(exitFail)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&minimal, "minimal", false, "print the fewest connections that stand for all, and what they cover")
	return c
}

// printMinimal prints, per step, the smallest set of connections that tells every class of pods and ports apart, and its coverage.
func (a *app) printMinimal(p *plan.Plan) error {
	for _, step := range p.Steps {
		engine, err := reach.Compile(step.World, step.Policies, step.ClusterPolicies...)
		if err != nil {
			return usageError{err}
		}
		c := engine.Coverage()
		fmt.Fprintf(a.out, "%s, step %q, probes: %d, standing for %d connections\n", p.Name, step.Name, c.Probes, c.Stands)
		fmt.Fprintf(a.out, "  classes: %d of pods, %d of ports; combinations: %d, on one node: %d, across nodes: %d, without a node: %d; port boundaries: %d; block edges: %d\n",
			c.PodClasses, c.PortClasses, c.Combinations, c.SameNode, c.CrossNode, c.Unplaced, c.Boundaries, c.Edges)
		for _, u := range c.Uncovered {
			fmt.Fprintf(a.out, "  not covered: %s %s: %s\n", u.Policy, u.Field, u.Reason)
		}
		for probe := range engine.MinimalProbes() {
			q := probe.Query
			d, err := engine.Decide(q)
			if err != nil {
				return usageError{err}
			}
			fmt.Fprintf(a.out, "  %-5s %s>%s:%s/%d  %s, %s, %s\n", d.Verdict, q.Source, q.Destination, q.Protocol, q.Port, probe.Purpose, probe.Placement, probe.Family)
		}
	}
	return nil
}

func planOffline(s *scenarios.Scenario) (*plan.Plan, error) {
	facts, err := plan.Offline(s)
	if err != nil {
		return nil, usageError{err}
	}
	p, err := plan.Build(s, facts)
	if err != nil {
		return nil, usageError{err}
	}
	return p, nil
}

// printPlan prints one line per attempt and step and tells whether intent and policies differ anywhere.
func (a *app) printPlan(p *plan.Plan) (differ bool) {
	for _, step := range p.Steps {
		fmt.Fprintf(a.out, "%s, step %q, attempts: %d\n", p.Name, step.Name, len(p.Attempts))
		for i, attempt := range p.Attempts {
			promise := step.Promises[i]
			mark, why := " ", deciding(promise.Derived)
			switch {
			case promise.Skip != "":
				mark, why = "-", promise.Skip
			case promise.Intended != reach.Unknown && promise.Intended != promise.Derived.Verdict:
				mark, differ = "!", true
				why = fmt.Sprintf("intended %s (%s); %s", promise.Intended, promise.IntendedBy, why)
			}
			fmt.Fprintf(a.out, "%s %-5s %-44s %s\n", mark, promise.Derived.Verdict, attempt.ID, why)
		}
	}
	return differ
}

// deciding is the trace in one phrase: the rule that allowed each isolated direction, or the one that came nearest.
func deciding(d reach.Decision) string {
	var parts []string
	for _, side := range []struct {
		name string
		reach.Side
	}{{"egress", d.Egress}, {"ingress", d.Ingress}} {
		ref := side.Allowing
		if side.Verdict == reach.Deny {
			ref = cmp.Or(side.Denying, side.Nearest)
		}
		for _, p := range side.Passing {
			parts = append(parts, fmt.Sprintf("%s: %s %s passes", side.name, p.Policy, p.Field))
		}
		switch {
		case ref != nil && ref.Tier != "":
			parts = append(parts, fmt.Sprintf("%s: %s %s of tier %s", side.name, ref.Policy, ref.Field, ref.Tier))
		case len(side.Isolating) == 0:
			continue
		case ref == nil:
			parts = append(parts, fmt.Sprintf("%s: %s has no %s rule", side.name, side.Isolating[0].Policy, side.name))
		default:
			parts = append(parts, fmt.Sprintf("%s: %s %s", side.name, ref.Policy, ref.Field))
		}
	}
	if len(parts) == 0 {
		return "not isolated"
	}
	return strings.Join(parts, "; ")
}

// dryRun prints what a run would create and attempt.
func (a *app) dryRun(all []*scenarios.Scenario, o runOptions) error {
	for _, s := range all {
		p, err := planOffline(s)
		if err != nil {
			return err
		}
		if o.attempt != "" {
			if p, err = p.Only(o.attempt); err != nil {
				return err
			}
		}
		fmt.Fprintf(a.out, "%s would create:\n", p.Name)
		for _, ns := range s.World.Namespaces {
			fmt.Fprintf(a.out, "  namespace %s, probe pods: %d\n", ns.Name, len(ns.Pods))
		}
		for _, svc := range s.World.Services {
			fmt.Fprintf(a.out, "  service %s/%s\n", svc.Namespace, svc.Name)
		}
		for _, host := range s.World.Reach.Outside {
			fmt.Fprintf(a.out, "  host outside the cluster: %s, in the lab alone\n", host.Name)
		}
		for _, step := range p.Steps {
			for _, c := range step.Changes {
				switch {
				case c.Apply != nil:
					fmt.Fprintf(a.out, "  step %q: apply policy %s/%s\n", step.Name, c.Apply.Spec.Namespace, c.Apply.Spec.Name)
				case c.Delete != "":
					fmt.Fprintf(a.out, "  step %q: delete policy %s\n", step.Name, c.Delete)
				case c.ApplyCluster != nil:
					fmt.Fprintf(a.out, "  step %q: apply ClusterNetworkPolicy %s, if the cluster serves the kind\n", step.Name, c.ApplyCluster.Spec.Name)
				case c.DeleteCluster != "":
					fmt.Fprintf(a.out, "  step %q: delete ClusterNetworkPolicy %s\n", step.Name, c.DeleteCluster)
				case c.Remake != nil:
					fmt.Fprintf(a.out, "  step %q: %s\n", step.Name, remakeWords(*c.Remake))
				case c.Relabel != nil:
					fmt.Fprintf(a.out, "  step %q: relabel %s/%s\n", step.Name, c.Relabel.Namespace, c.Relabel.Pod)
				}
			}
		}
		a.printPlan(p)
	}
	return nil
}

// remakeWords is a change of a pod in words.
func remakeWords(r plan.Remake) string {
	pod := r.Namespace + "/" + r.Pod
	switch {
	case r.Gone:
		return "remove pod " + pod
	case r.Place != "":
		return fmt.Sprintf("make pod %s again on node %s", pod, r.Place)
	default:
		return "make pod " + pod + " again"
	}
}
