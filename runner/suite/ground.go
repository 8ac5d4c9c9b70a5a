package suite

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/plan"
)

// ground is on what a scenario's denies stand: the baseline, and what has become of it since. A pod that was made again is another one, with
// another address and another place in the CNI's books, of whose paths the baseline knows nothing. Policies are in effect by then, so
// that the baseline cannot be repeated; what is delivered from then on takes its place.
type ground struct {
	base []probes.Observation
	// stale are the attempts by index, each with the pods made again since its path was last proven.
	stale map[int][]string
}

func newGround(base []probes.Observation) *ground {
	return &ground{base: slices.Clone(base), stale: map[int][]string{}}
}

// remake notes that pods were made again.
func (g *ground) remake(attempts []plan.Planned, pods []string) {
	for i, a := range attempts {
		for _, pod := range pods {
			if (a.Source == pod || slices.Contains(a.Responders, pod)) && !slices.Contains(g.stale[i], pod) {
				g.stale[i] = append(g.stale[i], pod)
			}
		}
	}
}

// hold goes through a step's last round. An attempt whose own path is not proven any more, or leads to other backends than before, needs
// controls: attempts by others that were delivered in the same round, as [ground.controls] has them. Without them a deny is not
// proven. What was delivered itself is proven anew, for the steps to come.
func (g *ground) hold(attempts []plan.Planned, promises []plan.Promise, last []probes.Observation) {
	var through []plan.Planned
	for i, a := range attempts {
		if delivered(last[i], a) != "" {
			continue
		}
		through = append(through, a)
		if promises[i].Backends == nil {
			delete(g.stale, i)
			g.base[i].Outcome.Kind, g.base[i].Control.BaselineFault = probes.Replied, ""
		}
	}
	for i, a := range attempts {
		moved := promises[i].Backends != nil
		if len(g.stale[i]) == 0 && !moved || slices.ContainsFunc(through, func(t plan.Planned) bool { return t.ID == a.ID }) {
			continue
		}
		c := &last[i].Control
		neverProven := c.BaselineFault != ""
		if neverProven && !moved {
			continue
		}
		c.Instead, c.BaselineFault = controls(through, a, g.stale[i], moved, neverProven)
	}
}

// controls are in words what stands in for the baseline of a, or what is missing. For each pod made again since, some attempt by it or
// to it, as this one is, must have gone through; where labels have changed the backends, one to the same Service by another source; and where
// the baseline had not proven the source either, because nobody stood behind the Service, one by the same source.
func controls(through []plan.Planned, a plan.Planned, stale []string, moved, neverProven bool) (proven, missing string) {
	var proofs, faults []string
	need := func(fault string, is func(plan.Planned) bool) {
		n := slices.IndexFunc(through, func(t plan.Planned) bool { return !slices.Contains(t.Responders, t.Source) && is(t) })
		if n < 0 {
			faults = append(faults, fault)
			return
		}
		proofs = append(proofs, through[n].ID)
	}
	bySource := func(t plan.Planned) bool { return t.Source == a.Source }
	for _, pod := range stale {
		if pod == a.Source {
			need(pod+" was made again since, and nothing that it sent was delivered in this round", bySource)
			continue
		}
		need(pod+" was made again since, and nothing was delivered to it in this round", func(t plan.Planned) bool {
			return slices.Equal(t.Responders, []string{pod})
		})
	}
	if moved {
		need("it reached other backends: labels have changed them since, and nobody was answered by the present ones in this round", func(t plan.Planned) bool {
			return t.Destination == a.Destination && t.Protocol == a.Protocol && t.Port == a.Port
		})
	}
	if neverProven {
		need("no attempt of "+a.Source+" was delivered in this round", bySource)
	}
	if len(faults) > 0 {
		return "", strings.Join(faults, "; ")
	}
	slices.Sort(proofs)
	return strings.Join(slices.Compact(proofs), " and ") + " delivered in the same round", ""
}

// remake carries out a step's changes of pods, and renews the plan with the addresses that came of them.
func (s *Suite) remake(ctx context.Context, world World, p *plan.Plan, index int, changes []plan.Remake, g *ground) (*plan.Plan, error) {
	started := time.Now()
	if err := world.Remake(ctx, changes); err != nil {
		return p, fmt.Errorf("making pods again: %w", err)
	}
	s.progress(fmt.Sprintf("%d pods changed", len(changes)), time.Since(started))
	renewed, err := p.Renew(index, world.Facts())
	if err != nil {
		return p, err
	}
	prefix := world.Facts().Prefix
	var pods []string
	for _, r := range changes {
		pods = append(pods, strings.TrimPrefix(r.Namespace, prefix)+"/"+r.Pod)
	}
	g.remake(renewed.Attempts, pods)
	return renewed, nil
}

// remade are a step's changes of pods.
func remade(step plan.Step) []plan.Remake {
	var out []plan.Remake
	for _, c := range step.Changes {
		if c.Remake != nil {
			out = append(out, *c.Remake)
		}
	}
	return out
}

// remakes tells whether any step of the plan changes pods.
func remakes(p *plan.Plan) bool {
	return slices.ContainsFunc(p.Steps, func(s plan.Step) bool { return len(remade(s)) > 0 })
}

// replan is p for the addresses of now.
func replan(p *plan.Plan, f plan.Facts) (*plan.Plan, error) {
	again, err := plan.Build(p.Scenario, f)
	if err != nil || len(p.Attempts) == len(again.Attempts) {
		return again, err
	}
	return again.Only(p.Attempts[0].ID) // it was narrowed to one
}
