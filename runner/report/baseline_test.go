package report_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/runner/report"
)

// theOne is the attempt that the CNI of the sample run lets through.
const theOne = "z/c>x/a:UDP/81"

// aDifference is a difference with a reason; change says what it covers.
func aDifference(class compare.Class, change func(*report.Difference)) report.Difference {
	d := report.Difference{Class: class, Reason: "the CNI lets UDP through", Reference: "https://cni.invalid/udp"}
	change(&d)
	return d
}

// knowing is a run that held but for one attempt, which its baseline explains; another of its differences did not show.
func knowing(tb testing.TB) *report.Report {
	tb.Helper()
	r := header()
	odd, _ := judged(tb, nineByNine, "catalogue/missing-selector.yaml", func(a plan.Planned, _ plan.Promise, o *probes.Observation) {
		if a.ID == theOne {
			deliver(a, o)
		}
	})
	for i, j := range odd.Steps[0].Judgements { // the policy's own mistake is not what this is about
		if j.Culprit == compare.PolicyBug {
			odd.Steps[0].Judgements[i].Result, odd.Steps[0].Judgements[i].Culprit, odd.Steps[0].Judgements[i].Class = compare.Pass, "", compare.ClassNone
		}
	}
	r.Scenarios = []report.Scenario{odd}
	r.Explain(&report.Baseline{Seen: "Some CNI v1", Differences: []report.Difference{
		aDifference(compare.Hole, func(d *report.Difference) {
			d.Scenario, d.Step, d.Attempts = "missing-selector", "policies", []string{"z/c>*:UDP/81"}
		}),
		aDifference(compare.Break, func(d *report.Difference) { d.Note = "self-traffic" }),
	}})
	return &r
}

func TestAKnownDifferenceIsShownAndNotCounted(t *testing.T) {
	r := knowing(t)
	s := r.Summary()
	if s.Result != compare.Known || s.ExitCode != 0 || s.Known != 1 || s.Fail != 0 || s.Holes != 0 || s.Scenarios.Known != 1 {
		t.Errorf("summary: %+v; want one known difference, nothing failed, exit 0", s)
	}
	if got := r.Scenarios[0].Result(); got != compare.Known {
		t.Errorf("the scenario's result: %s, want known, which is no pass", got)
	}
	golden(t, "known.txt", render(t, r, report.Table, report.Options{Width: 100}))
	junit := string(render(t, r, report.JUnit, report.Options{}))
	if want := `<skipped message="known: the CNI lets UDP through (https://cni.invalid/udp): `; !strings.Contains(junit, want) {
		t.Errorf("JUnit lacks %q", want)
	}
	markdown := string(render(t, r, report.Markdown, report.Options{}))
	for _, want := range []string{"## gapproof: KNOWN", "### KNOWN: ", "known: the CNI lets UDP through", "### STALE: ", "break, note self-traffic: "} {
		if !strings.Contains(markdown, want) {
			t.Errorf("Markdown lacks %q", want)
		}
	}
}

func TestABaselineExplainsNothingElse(t *testing.T) {
	for name, d := range map[string]report.Difference{
		"another scenario": aDifference(compare.Hole, func(d *report.Difference) { d.Scenario, d.Attempts = "default-deny", []string{"*"} }),
		"another step": aDifference(compare.Hole, func(d *report.Difference) {
			d.Scenario, d.Step, d.Attempts = "missing-selector", "later", []string{"*"}
		}),
		"another attempt":       aDifference(compare.Hole, func(d *report.Difference) { d.Scenario, d.Attempts = "missing-selector", []string{theOne + "1"} }),
		"part of its name":      aDifference(compare.Hole, func(d *report.Difference) { d.Scenario, d.Attempts = "missing-selector", []string{"c>x/a:UDP/81"} }),
		"no regular expression": aDifference(compare.Hole, func(d *report.Difference) { d.Scenario, d.Attempts = "missing-selector", []string{"z.c>x.a:UDP.81"} }),
		"the other class":       aDifference(compare.Break, func(d *report.Difference) { d.Scenario = "missing-selector" }),
		"another note":          aDifference(compare.Hole, func(d *report.Difference) { d.Scenario, d.Attempts, d.Note = "missing-selector", []string{"*"}, "icmp" }),
	} {
		t.Run(name, func(t *testing.T) {
			r := failing(t)
			want := r.Summary()
			r.Explain(&report.Baseline{Seen: "Some CNI v1", Differences: []report.Difference{d}})
			if diff := cmp.Diff(want, r.Summary()); diff != "" {
				t.Errorf("summary (-without +with the baseline):\n%s", diff)
			}
		})
	}
	r := failing(t)
	want := r.Summary()
	r.Explain(&report.Baseline{Differences: []report.Difference{
		aDifference(compare.Hole, func(d *report.Difference) { d.Scenario, d.Attempts = "missing-selector", []string{"*"} }),
	}})
	if got := r.Summary(); got.Known != 1 || got.Holes != want.Holes-1 {
		t.Errorf("%d known, %d holes; want only the CNI's own hole explained, and the policies' %d left", got.Known, got.Holes, want.Holes-1)
	}
}

func TestADifferenceBesideAnotherAttemptExplainsOnlyWhatThatOneSetsOff(t *testing.T) {
	beside := aDifference(compare.Hole, func(d *report.Difference) {
		d.Beside, d.Attempts, d.Evidence = "hairpin", []string{"*:UDP/*"}, compare.Delivered
	})
	for name, c := range map[string]struct {
		noted string // the source of the attempt with the note
		known int
		edit  func(*report.Difference, *compare.Judgement)
	}{
		"the destination itself":   {"x/a", 1, nil},
		"another pod":              {"x/b", 0, nil},
		"the attempt's own source": {"z/c", 0, nil},
		"other evidence":           {"x/a", 0, func(d *report.Difference, _ *compare.Judgement) { d.Evidence = compare.OneWay }},
		"denied by the source too": {"x/a", 0, func(_ *report.Difference, j *compare.Judgement) { j.Promise.Derived.Egress.Verdict = reach.Deny }},
	} {
		t.Run(name, func(t *testing.T) {
			r, d := failing(t), beside
			for _, s := range r.Scenarios {
				for _, step := range s.Steps {
					for i := range step.Judgements {
						j := &step.Judgements[i]
						switch {
						case j.Attempt.ID == theOne && c.edit != nil:
							c.edit(&d, j)
						case j.Attempt.Source == c.noted && j.Attempt.ID != theOne:
							j.Promise.Derived.Notes = []string{"hairpin"}
						}
					}
				}
			}
			r.Explain(&report.Baseline{Seen: "Some CNI v1", Differences: []report.Difference{d}})
			if got := r.Summary(); got.Known != c.known {
				t.Errorf("%d known, want %d", got.Known, c.known)
			}
		})
	}
	r := passing(t)
	r.Explain(&report.Baseline{Seen: "Some CNI v1", Differences: []report.Difference{beside}})
	if len(r.Stale) > 0 {
		t.Errorf("stale although it depends on chance: %+v", r.Stale)
	}
}

func TestADifferenceIsStaleOnlyWhenItWasLookedFor(t *testing.T) {
	held := aDifference(compare.Hole, func(d *report.Difference) { d.Scenario, d.Attempts = "default-deny", []string{"*"} })
	for name, c := range map[string]struct {
		difference report.Difference
		spoil      func(*report.Report)
		stale      bool
	}{
		"every attempt held":                       {held, func(*report.Report) {}, true},
		"the scenario was not run":                 {aDifference(compare.Hole, func(d *report.Difference) { d.Scenario, d.Attempts = "other", []string{"*"} }), func(*report.Report) {}, false},
		"no promise could have failed in that way": {aDifference(compare.Break, func(d *report.Difference) { d.Note = "icmp" }), func(*report.Report) {}, false},
		"nothing could be told": {held, func(r *report.Report) {
			for i := range r.Scenarios[0].Steps[0].Judgements {
				r.Scenarios[0].Steps[0].Judgements[i].Result = compare.Inconclusive
			}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := passing(t)
			c.spoil(r)
			r.Explain(&report.Baseline{Seen: "Some CNI v1", Differences: []report.Difference{c.difference}})
			if got := len(r.Stale) == 1; got != c.stale {
				t.Errorf("stale: %v, want %v", got, c.stale)
			}
		})
	}
}

func TestABaselineThatExplainsTooMuchIsRefused(t *testing.T) {
	_, err := report.DecodeBaseline([]byte(`
differences:
  - {class: hole, scenario: x, reason: r, reference: l}
  - {class: hole, attempts: ["*"], reason: r, reference: l}
  - {class: break, reason: r, reference: l}
  - {class: break, note: nothing, reason: r}
  - {scenario: x, reason: r, reference: l}
  - {class: hole, beside: nothing, reason: r, reference: l}
  - {class: hole, beside: hairpin, attempts: ["*"], reason: r, reference: l}
`))
	for _, want := range []string{
		"seen: is required",
		"differences[0]: a hole is only excused in a named scenario, for named attempts",
		"differences[1]: a hole is only excused in a named scenario, for named attempts",
		"differences[2]: needs a scenario or a note",
		`differences[3].note: "nothing" is no semantics note; there are backends-differ, `,
		"differences[3]: needs a reason, and a reference",
		"differences[4].class: is none, must be hole or break",
		"differences[6]: a hole is only excused",
		`differences[5].beside: "nothing" is no semantics note; there are backends-differ, `,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q: %v", want, err)
		}
	}
	if _, err := report.DecodeBaseline([]byte("sene: x\n")); err == nil || !strings.Contains(err.Error(), "sene") {
		t.Errorf("an unknown field: %v", err)
	}
}
