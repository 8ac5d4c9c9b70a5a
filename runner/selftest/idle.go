package selftest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/runner/report"
	"github.com/gapproof/gapproof/runner/suite"
	"github.com/gapproof/gapproof/scenarios"
)

// Finding is one verdict that the instrument should not have given.
type Finding struct {
	// Where is the fault's or scenario's name; Step and Attempt are empty where a whole run is meant.
	Where, Step, Attempt string
	// Want and Got say what had to come and what came, in words; Reason is the instrument's own.
	Want, Got, Reason string
}

// String is the finding on one line.
func (f Finding) String() string {
	s := f.Where
	if f.Step != "" {
		s += ", step " + f.Step
	}
	if f.Attempt != "" {
		s += ", " + f.Attempt
	}
	return fmt.Sprintf("%s: want %s, got %s: %s", s, f.Want, f.Got, f.Reason)
}

// Idle is what came of scenarios on a network that enforces nothing.
type Idle struct {
	Scenarios int
	// Denies were promised, and Holes of them were seen as holes; Allows were promised, and Passes of them passed. Skipped promise nothing.
	Denies, Holes, Allows, Passes, Skipped int
	Findings                               []Finding
	Took                                   time.Duration
}

// neverLit is how long the real beacons are waited for on a network that enforces nothing: many times what Calico needs on a busy host.
const neverLit = 5 * time.Second

// EnforcesNothing runs the scenarios through the seams of a cluster whose network enforces nothing. First a run with its own beacons must
// end without a verdict, then every promised deny must be a hole and every promised allow pass. The error is about the cluster, or
// says that no scenario promises a deny, which would prove nothing; what the instrument got wrong is in the Findings.
func EnforcesNothing(ctx context.Context, w suite.Worlds, p suite.Policies, all []*scenarios.Scenario, o suite.Options) (*Idle, error) {
	if len(all) == 0 {
		return nil, errors.New("running scenarios without enforcement: there are none")
	}
	idle := &Idle{Scenarios: len(all)}
	started := time.Now()
	defer func() { idle.Took = time.Since(started) }()

	early := o
	early.Enforce = neverLit
	rep, err := suite.New(w, p, early).Run(ctx, all) // it ends in the first that the cluster does not have skipped
	if ctx.Err() != nil {
		return idle, fmt.Errorf("running scenarios without enforcement: %w", context.Cause(ctx))
	}
	idle.Findings = append(idle.Findings, unlit(rep, err)...)

	stand := newPaper(w, p)
	rep, err = suite.New(stand, stand, o).Run(ctx, all)
	idle.count(rep)
	if err != nil {
		return idle, fmt.Errorf("running scenarios without enforcement: %w", err)
	}
	if idle.Denies == 0 {
		return idle, errors.New("running scenarios without enforcement: none of them promises a deny, which proves nothing")
	}
	return idle, nil
}

// unlit holds a run with real beacons against what must come of it: an error and no result.
func unlit(rep *report.Report, err error) []Finding {
	f := Finding{Where: "beacons", Want: "a run that ends because no beacon flips", Got: "a run that went on"}
	switch {
	case err == nil && judged(rep) == 0:
		f.Reason = "every scenario was skipped, so nothing waited for a beacon"
	case err == nil:
		f.Reason = "beacons flipped on a network that enforces nothing"
	case !strings.Contains(err.Error(), "beacons"):
		f.Got, f.Reason = "another end", err.Error()
	case judged(rep) > 0:
		f.Reason = fmt.Sprintf("it has %d results", judged(rep))
	default:
		return nil
	}
	return []Finding{f}
}

func judged(rep *report.Report) int {
	n := 0
	eachJudgement(rep, func(report.Scenario, report.Step, compare.Judgement) { n++ })
	return n
}

// eachJudgement visits every judgement of the report, which may be nil.
func eachJudgement(rep *report.Report, visit func(report.Scenario, report.Step, compare.Judgement)) {
	if rep == nil {
		return
	}
	for _, sc := range rep.Scenarios {
		for _, step := range sc.Steps {
			for _, j := range step.Judgements {
				visit(sc, step, j)
			}
		}
	}
}

// count adds up a report and finds whatever is not as it must be where nothing is enforced.
func (i *Idle) count(rep *report.Report) {
	eachJudgement(rep, func(sc report.Scenario, step report.Step, j compare.Judgement) {
		wrong := func(want string) {
			i.Findings = append(i.Findings, Finding{sc.Name, step.Name, j.Attempt.ID, want, resultWords(j), j.Reason})
		}
		switch promised := j.Promise.Verdict(); {
		case j.Promise.Skip != "" || promised == reach.Unknown:
			i.Skipped++
		case promised == reach.Deny:
			i.Denies++
			if j.Result == compare.Fail && j.Class == compare.Hole {
				i.Holes++
			} else {
				wrong("a hole")
			}
		default:
			i.Allows++
			if j.Result == compare.Pass {
				i.Passes++
			} else {
				wrong("a pass")
			}
		}
	})
}

func resultWords(j compare.Judgement) string {
	if j.Result == compare.Fail {
		return "a " + j.Class.String()
	}
	return j.Result.String()
}

// Short picks the scenarios of the short form: each kind of change and of destination once, deny in each direction.
func Short(all []*scenarios.Scenario) []*scenarios.Scenario {
	names := []string{"default-deny-both-ways", "allow-by-namespace-selector", "dns-cut-by-default-deny", "relabel-pod"}
	return slices.DeleteFunc(slices.Clone(all), func(s *scenarios.Scenario) bool { return !slices.Contains(names, s.Metadata.Name) })
}
