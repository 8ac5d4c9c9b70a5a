package evidence

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/hubble"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/report"
)

// place is one judged attempt, by the indexes of its scenario and step.
type place struct {
	scenario, step int
	attempt        string
}

// corroborated is what was read of Hubble.
type corroborated struct {
	reading hubble.Reading
	lines   []sawFlow
	// flows are those of lines, in their order.
	flows map[place][]hubble.Flow
}

// hubble reads what Hubble's flows were; nil where they were not asked for. The report tells when the files have been taken away.
func (r *reader) hubble(all []record) (*corroborated, error) {
	var h Hubble
	switch err := r.document(hubbleFile, &h); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case h.APIVersion != APIVersion || h.Kind != HubbleKind:
		return nil, &FormatError{hubbleFile, 1, fmt.Errorf("it is %s %s, want %s %s", h.APIVersion, h.Kind, APIVersion, HubbleKind)}
	}
	c := &corroborated{reading: h.Reading, flows: map[place][]hubble.Flow{}}
	var err error
	if c.lines, err = lines[sawFlow](r, flowsFile); err != nil {
		return nil, err
	}
	for n, line := range c.lines {
		at, err := line.place(all)
		if err != nil {
			return nil, &FormatError{flowsFile, n + 1, err}
		}
		c.flows[at] = append(c.flows[at], line.Flow)
	}
	return c, nil
}

// place is where in the run the flow belongs.
func (s sawFlow) place(all []record) (place, error) {
	at := place{scenario: s.Scenario - 1, attempt: s.Attempt}
	if at.scenario < 0 || at.scenario >= len(all) {
		return at, fmt.Errorf("scenario: %d, the run has %d", s.Scenario, len(all))
	}
	rec := all[at.scenario]
	if at.step = slices.IndexFunc(rec.steps, func(st step) bool { return st.Step == s.Step }); at.step < 0 {
		return at, fmt.Errorf("step: the run did not come to %q", s.Step)
	}
	if s.index(rec) < 0 {
		return at, fmt.Errorf("attempt: the scenario has no %q", s.Attempt)
	}
	return at, nil
}

// index is that of the flow's attempt in its plan, or -1.
func (s sawFlow) index(rec record) int {
	return slices.IndexFunc(rec.plan.Attempts, func(a plan.Planned) bool { return a.ID == s.Attempt })
}

// tuple is what the flows of a judgement of the step of this index must look like, or why there are none.
func (rec *record) tuple(step int, j *compare.Judgement) (hubble.Tuple, string) {
	return hubble.TupleOf(rec.facts[step], j.Current(), j.Facts)
}

// flows holds every flow against the attempt that it is said to be of. Their order is that of the run, and for one attempt that of their times.
func (v *verifier) flows(w kept, rep *report.Report) {
	if w.hubble == nil {
		return
	}
	var last place
	lastIndex := -1
	var before hubble.Flow
	for n, line := range w.hubble.lines {
		at, _ := line.place(w.all) // reading it has held it
		rec := &w.all[at.scenario]
		index := line.index(*rec)
		same := n > 0 && at == last
		if n > 0 && slices.Compare([]int{at.scenario, at.step, index}, []int{last.scenario, last.step, lastIndex}) < 0 || same && line.Flow.Time.Before(before.Time) {
			v.add(flowsFile, n+1, line.Attempt, "is behind one that comes later")
		}
		if same && line.Flow.Alike(before) || line.Flow.Count == 0 {
			v.add(flowsFile, n+1, line.Attempt, "count: is no count of flows that are alike")
		}
		last, lastIndex, before = at, index, line.Flow
		t, why := rec.tuple(at.step, &rep.Scenarios[len(w.run.Skipped)+at.scenario].Steps[at.step].Judgements[index])
		if why == "" {
			why = t.Fault(line.Flow)
		}
		if why != "" {
			v.add(flowsFile, n+1, line.Attempt, "the flow is not of the attempt: %s", why)
		}
	}
}
