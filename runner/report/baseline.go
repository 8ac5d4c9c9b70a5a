package report

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/reach"
)

// Baseline is what a CNI is known to do otherwise than the policies say. Such a failure stays a failure in the facts and is shown with its
// reason, but does not count against the run.
type Baseline struct {
	// Seen is the CNI, with its version, that the differences were seen with.
	Seen        string       `json:"seen"`
	Differences []Difference `json:"differences"`
}

// Difference is one known difference, and the failures it explains.
type Difference struct {
	// Scenario is the name of the only scenario it explains anything in. It is required for holes, but for those with Beside: traffic that
	// crosses against a promise is excused attempt by attempt or not at all.
	Scenario string `json:"scenario,omitempty"`
	// Step restricts it to one step; empty means all.
	Step string `json:"step,omitempty"`
	// Attempts restrict it to attempts of these names, in which * stands for anything. Required for holes.
	Attempts []string `json:"attempts,omitempty"`
	// Note restricts it to attempts whose derived verdict carries this semantics note.
	Note string `json:"note,omitempty"`
	// Beside restricts it to attempts whose destination is itself the source of another attempt of the same step, with this semantics note, and
	// whose source lets them go: what that other one sets off at the destination. Such a difference depends on chance, so it is never stale.
	Beside string `json:"beside,omitempty"`
	// Evidence restricts it to what was observed in this way. Required for holes with Beside, which no scenario bounds.
	Evidence compare.Evidence `json:"evidence,omitzero"`
	// Class says what fails: a hole or a break.
	Class compare.Class `json:"class"`
	// Reason says why in a sentence, Reference is the address of the text it rests on.
	Reason    string `json:"reason"`
	Reference string `json:"reference"`
}

// DecodeBaseline reads a baseline strictly from YAML. The error lists every fault.
func DecodeBaseline(raw []byte) (*Baseline, error) {
	var b Baseline
	if err := yaml.UnmarshalStrict(raw, &b); err != nil {
		return nil, fmt.Errorf("decoding a baseline: %w", err)
	}
	var faults []error
	fault := func(field, format string, args ...any) {
		faults = append(faults, fmt.Errorf("%s: %s", field, fmt.Sprintf(format, args...)))
	}
	if b.Seen == "" {
		fault("seen", "is required: the CNI and its version")
	}
	var notes []string
	for _, n := range reach.Notes() {
		notes = append(notes, n.ID)
	}
	for i, d := range b.Differences {
		field := fmt.Sprintf("differences[%d]", i)
		switch d.Class {
		case compare.Break:
			if d.Scenario == "" && d.Note == "" && d.Beside == "" {
				fault(field, "needs a scenario or a note: a baseline of everything explains nothing")
			}
		case compare.Hole:
			if d.Scenario == "" && (d.Beside == "" || d.Evidence == compare.EvidenceUnknown) || len(d.Attempts) == 0 {
				fault(field, "a hole is only excused in a named scenario, for named attempts, or for named attempts with one kind of evidence beside others with a note")
			}
		default:
			fault(field+".class", "is %s, must be hole or break", d.Class)
		}
		for _, part := range []struct{ name, note string }{{".note", d.Note}, {".beside", d.Beside}} {
			if part.note != "" && !slices.Contains(notes, part.note) {
				fault(field+part.name, "%q is no semantics note; there are %s", part.note, strings.Join(notes, ", "))
			}
		}
		if d.Reason == "" || d.Reference == "" {
			fault(field, "needs a reason, and a reference to the text it rests on")
		}
	}
	return &b, errors.Join(faults...)
}

// Words is the reason with its reference, as reports print it.
func (d Difference) Words() string { return d.Reason + " (" + d.Reference + ")" }

// where says what the difference is about, for people.
func (d Difference) where() string {
	var words []string
	for _, part := range []struct{ name, value string }{
		{"scenario", d.Scenario}, {"step", d.Step}, {"note", d.Note}, {"beside note", d.Beside}, {"attempts", strings.Join(d.Attempts, ", ")},
	} {
		if part.value != "" {
			words = append(words, part.name+" "+part.value)
		}
	}
	return d.Class.String() + ", " + strings.Join(words, ", ")
}

// covers tells whether the difference speaks of this attempt of the step, whatever its result.
func (d Difference) covers(scenario string, step *Step, j compare.Judgement) bool {
	if d.Scenario != "" && d.Scenario != scenario || d.Step != "" && d.Step != step.Name {
		return false
	}
	if d.Beside != "" && !(j.Promise.Derived.Egress.Verdict == reach.Allow && slices.ContainsFunc(step.Judgements, func(other compare.Judgement) bool {
		return slices.Contains(other.Promise.Derived.Notes, d.Beside) && slices.Contains(j.Current().Responders, other.Attempt.Source)
	})) {
		return false
	}
	if d.Note != "" && !slices.Contains(j.Promise.Derived.Notes, d.Note) {
		return false
	}
	return len(d.Attempts) == 0 || slices.ContainsFunc(d.Attempts, func(pattern string) bool { return MatchesAttempt(pattern, j.Attempt) })
}

// MatchesAttempt tells whether the attempt's name is the pattern, in which * stands for anything.
func MatchesAttempt(pattern string, a plan.Planned) bool {
	parts := strings.Split(pattern, "*")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile("^" + strings.Join(parts, ".*") + "$").MatchString(a.ID) // quoted parts always compile
}

// explains tells whether the difference explains the failure: the CNI's own, of its class. What a person meant and the policies do not say
// is no CNI's doing, so no baseline speaks of it.
func (d Difference) explains(scenario string, step *Step, j compare.Judgement) bool {
	return j.Result == compare.Fail && j.Culprit == compare.CNIBug && j.Class == d.Class &&
		(d.Evidence == compare.EvidenceUnknown || d.Evidence == j.Observed.Evidence) && d.covers(scenario, step, j)
}

// Explain marks every failure that the baseline knows of with its reason, and notes the differences that were looked for and did not
// show: a baseline that excuses what does not fail would hide the day it does for another reason. Nil explains nothing.
func (r *Report) Explain(b *Baseline) {
	r.Baseline, r.Stale = b, nil
	if b == nil {
		return
	}
	used, tried := make([]bool, len(b.Differences)), make([]bool, len(b.Differences))
	for si := range r.Scenarios {
		s := &r.Scenarios[si]
		for ti := range s.Steps {
			step := &s.Steps[ti]
			for ji := range step.Judgements {
				j := &step.Judgements[ji]
				for n, d := range b.Differences {
					if d.explains(s.Name, step, *j) {
						used[n], j.Known = true, d.Words()
						break
					}
					// Only an attempt that held proves that a difference is gone: one that is inconclusive or skipped says nothing.
					tried[n] = tried[n] || d.Beside == "" && j.Result == compare.Pass && d.wouldFail(*j) && d.covers(s.Name, step, *j)
				}
			}
		}
	}
	for n, d := range b.Differences {
		if tried[n] && !used[n] {
			r.Stale = append(r.Stale, d)
		}
	}
}

// wouldFail tells whether the promise is one that a difference of this class breaks.
func (d Difference) wouldFail(j compare.Judgement) bool {
	if d.Class == compare.Hole {
		return j.Promise.Verdict() == reach.Deny
	}
	return j.Promise.Verdict() == reach.Allow
}
