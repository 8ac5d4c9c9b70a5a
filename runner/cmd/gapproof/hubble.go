package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/hubble"
	"github.com/gapproof/gapproof/runner/hubble/observer"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/report"
	"github.com/gapproof/gapproof/runner/suite"
	"github.com/gapproof/gapproof/scenarios"
)

// hubbleMode says whether a run reads Hubble's flows.
type hubbleMode string

// The modes. There is none that requires them: nothing rests on what they say.
const (
	hubbleAuto hubbleMode = "auto"
	hubbleOff  hubbleMode = "off"
)

func parseHubbleMode(s string) (hubbleMode, error) {
	switch m := hubbleMode(s); m {
	case hubbleAuto, hubbleOff:
		return m, nil
	}
	return "", usageError{fmt.Errorf("--hubble: %q is not auto or off", s)}
}

// corroboration reads Hubble's flows beside a run and is told of the run as its evidence is. Nil is a run that does not.
type corroboration struct {
	// keep is told of the run too; it may be nil.
	keep  suite.Recorder
	watch interface{ Stop() hubble.Reading }
	log   *hubble.Log
	facts plan.Facts
	plan  *plan.Plan
	// scenarios are those that were begun, in the order of the run.
	scenarios [][][]looked
}

// looked is what is looked for of one judgement: the number of its tuple in the log, or why it has none.
type looked struct {
	tuple int
	why   string
}

// beginHubble begins to read the flows of the scenarios' namespaces.
func beginHubble(ctx context.Context, at *place, mode hubbleMode, all []*scenarios.Scenario) *corroboration {
	if mode == hubbleOff {
		return nil
	}
	var namespaces []string
	for _, s := range all {
		for _, ns := range s.World.Namespaces {
			if name := at.prefix + ns.Name; !slices.Contains(namespaces, name) {
				namespaces = append(namespaces, name)
			}
		}
	}
	log := hubble.NewLog()
	return &corroboration{log: log, watch: observer.Start(ctx, at.Cluster, log, namespaces, time.Now())}
}

// of is the recorder of a run that keeps tells, too.
func (c *corroboration) of(keep suite.Recorder) suite.Recorder {
	if c == nil {
		return keep
	}
	c.keep = keep
	return c
}

// Planned begins a scenario.
func (c *corroboration) Planned(p *plan.Plan, f plan.Facts, baseline []probes.Observation) error {
	c.plan, c.facts = p, f
	c.scenarios = append(c.scenarios, nil)
	if c.keep == nil {
		return nil
	}
	return c.keep.Planned(p, f, baseline)
}

// Accepted takes the plan and the facts as they are since.
func (c *corroboration) Accepted(ctx context.Context, p *plan.Plan, step int, f plan.Facts) error {
	c.plan, c.facts = p, f
	if c.keep == nil {
		return nil
	}
	return c.keep.Accepted(ctx, p, step, f)
}

// Observed has the flows of what was judged kept.
func (c *corroboration) Observed(s report.Step, rounds []compare.Round) error {
	last := len(c.scenarios) - 1
	step := make([]looked, len(s.Judgements))
	for i, j := range s.Judgements {
		t, why := hubble.TupleOf(c.facts, j.Current(), j.Facts)
		if step[i].why = why; why == "" {
			step[i].tuple = c.log.Expect(t)
		}
	}
	c.scenarios[last] = append(c.scenarios[last], step)
	if c.keep == nil {
		return nil
	}
	return c.keep.Observed(s, rounds)
}

// conclude ends the reading, puts what it came to into the report, and keeps it with the run's evidence. The report of a cluster that has no
// Hubble says nothing of it.
func (c *corroboration) conclude(rep *report.Report, keep *recorder) error {
	if c == nil {
		return nil
	}
	reading := c.watch.Stop()
	if reading.Absent == observer.NoServer {
		return nil // it is only said where it is there to say anything
	}
	skipped := len(rep.Scenarios) - len(c.scenarios) // they come first
	flows := func(scenario, step, judgement int) ([]hubble.Flow, string) {
		l := c.scenarios[scenario-skipped][step][judgement]
		if l.why != "" {
			return nil, l.why
		}
		return c.log.Flows(l.tuple), ""
	}
	rep.Corroborate(reading, flows)
	if keep == nil {
		return nil
	}
	return keep.Corroborated(rep, func(scenario, step, judgement int) []hubble.Flow {
		list, _ := flows(scenario, step, judgement)
		return list
	})
}
