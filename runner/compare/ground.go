package compare

import (
	"maps"
	"slices"
	"strings"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/plan"
)

// Ground is on what a scenario's denies stand: the baseline, and what has become of it since. A pod that was made again is another one, with
// another address and another place in the CNI's books, of whose paths the baseline knows nothing. Policies are in effect by then, so
// that the baseline cannot be repeated; what is delivered from then on takes its place.
type Ground struct {
	// Base is the baseline, with what was proven anew since; one observation per attempt.
	Base []probes.Observation
	// stale are the attempts by index, each with the pods made again since its path was last proven.
	stale map[int][]string
}

// NewGround stands on a baseline, which it does not change.
func NewGround(base []probes.Observation) *Ground {
	return &Ground{Base: slices.Clone(base), stale: map[int][]string{}}
}

// Remake notes that pods were made again.
func (g *Ground) Remake(attempts []plan.Planned, pods []string) {
	for i, a := range attempts {
		for _, pod := range pods {
			if (a.Source == pod || slices.Contains(a.Responders, pod)) && !slices.Contains(g.stale[i], pod) {
				g.stale[i] = append(g.stale[i], pod)
			}
		}
	}
}

// Hold goes through a step's rounds, of which there is at least one, and writes into the controls of each what stands in for a baseline that
// no longer speaks for an attempt, or that nothing does. What the last round delivered is proven anew for the steps to come.
func (g *Ground) Hold(attempts []plan.Planned, promises []plan.Promise, rounds []Round) {
	for _, r := range rounds[:len(rounds)-1] {
		g.clone().hold(attempts, promises, r.Observations)
	}
	g.hold(attempts, promises, rounds[len(rounds)-1].Observations)
}

func (g *Ground) clone() *Ground {
	return &Ground{Base: slices.Clone(g.Base), stale: maps.Clone(g.stale)}
}

// hold goes through one round. An attempt whose own path is not proven any more, or leads to other backends than before, needs
// controls: attempts by others that were delivered in the same round, as [controls] has them. Without them a deny is not
// proven. What was delivered itself is proven anew, for the steps to come.
func (g *Ground) hold(attempts []plan.Planned, promises []plan.Promise, round []probes.Observation) {
	var through []plan.Planned
	for i, a := range attempts {
		if BaselineFault(round[i], a) != "" {
			continue
		}
		through = append(through, a)
		if promises[i].Backends == nil {
			delete(g.stale, i)
			g.Base[i].Outcome.Kind, g.Base[i].Control.BaselineFault = probes.Replied, ""
		}
	}
	for i, a := range attempts {
		moved := promises[i].Backends != nil
		if len(g.stale[i]) == 0 && !moved || slices.ContainsFunc(through, func(t plan.Planned) bool { return t.ID == a.ID }) {
			continue
		}
		c := &round[i].Control
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
