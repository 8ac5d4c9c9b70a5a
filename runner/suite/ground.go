package suite

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/plan"
)

// remake carries out a step's changes of pods, and renews the plan with the addresses that came of them.
func (s *Suite) remake(ctx context.Context, world World, p *plan.Plan, index int, changes []plan.Remake, g *compare.Ground) (*plan.Plan, error) {
	started := time.Now()
	if err := world.Remake(ctx, changes); err != nil {
		return p, fmt.Errorf("making pods again: %w", err)
	}
	s.progress(fmt.Sprintf("%d pods changed", len(changes)), time.Since(started))
	s.adopt(ctx, world) // pods made again have network namespaces of their own
	renewed, err := p.Renew(index, world.Facts())
	if err != nil {
		return p, err
	}
	g.Remake(renewed.Attempts, renewed.Remade(index))
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
