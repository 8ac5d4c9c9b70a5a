package report

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/seal"
)

// Summary counts a whole report.
type Summary struct {
	compare.Tally
	// Scenarios by result; their sum is the number of scenarios.
	Scenarios ScenarioTally `json:"scenarios"`
	// Seal is the verdict of the proof of the lab's seal; empty without one.
	Seal seal.Verdict `json:"seal,omitempty"`
	// Result is the worst result of all: fail, inconclusive, known, pass; skipped when every scenario was, for want of something in the cluster.
	Result compare.Result `json:"result"`
	// ExitCode is what a command that shows this report ends with.
	ExitCode int `json:"exitCode"`
}

// ScenarioTally counts scenarios by their result.
type ScenarioTally struct {
	Pass         int `json:"pass"`
	Fail         int `json:"fail"`
	Inconclusive int `json:"inconclusive"`
	Skipped      int `json:"skipped"`
	Known        int `json:"known"`
}

// Summary counts the report. A network that leaked fails it, and a seal that is not proven leaves it inconclusive where nothing is worse.
func (r *Report) Summary() Summary {
	s := r.promises()
	if r.Seal == nil {
		return s
	}
	s.Seal = r.Seal.Verdict
	switch sealed := r.Seal.result(); {
	case sealed == compare.Fail:
		s.Result, s.ExitCode = compare.Fail, compare.ExitFail
	case sealed == compare.Inconclusive && s.ExitCode == compare.ExitPass:
		s.Result, s.ExitCode = compare.Inconclusive, compare.ExitInconclusive
	}
	return s
}

// promises counts the scenarios. One that could not be carried out to its end is inconclusive unless it failed, and so is a
// run in which nothing was judged, unless every scenario says why it was skipped: what a cluster does not have, it does not break.
func (r *Report) promises() Summary {
	var s Summary
	for i := range r.Scenarios {
		s.Tally = s.Tally.Add(r.Scenarios[i].Tally())
		switch r.Scenarios[i].Result() {
		case compare.Pass:
			s.Scenarios.Pass++
		case compare.Fail:
			s.Scenarios.Fail++
		case compare.Skipped:
			s.Scenarios.Skipped++
		case compare.Known:
			s.Scenarios.Known++
		default:
			s.Scenarios.Inconclusive++
		}
	}
	s.Result, s.ExitCode = s.Tally.Result(), s.Tally.ExitCode()
	if s.ExitCode == compare.ExitPass && s.Scenarios.Inconclusive > 0 {
		s.Result, s.ExitCode = compare.Inconclusive, compare.ExitInconclusive
	}
	if len(r.Scenarios) > 0 && !slices.ContainsFunc(r.Scenarios, func(sc Scenario) bool { return sc.Skipped == "" }) {
		s.Result, s.ExitCode = compare.Skipped, compare.ExitPass
	}
	return s
}

// Tally counts the judgements of every step.
func (s *Scenario) Tally() compare.Tally {
	var t compare.Tally
	for i := range s.Steps {
		t = t.Add(compare.Count(s.Steps[i].Judgements))
	}
	return t
}

// Result is the scenario's result: its worst judgement's; inconclusive for one with a fault or without any judgement; skipped
// when every attempt was, or the whole of it.
func (s *Scenario) Result() compare.Result {
	t := s.Tally()
	switch {
	case s.Skipped != "":
		return compare.Skipped
	case t.Fail > 0:
		return compare.Fail
	case s.Fault != "" || t.Inconclusive > 0:
		return compare.Inconclusive
	case t.Known > 0:
		return compare.Known
	case t.Pass > 0:
		return compare.Pass
	case t.Skipped > 0:
		return compare.Skipped
	default:
		return compare.Inconclusive
	}
}

// bySeverity are the scenarios with holes first, then with breaks, the inconclusive, those with known differences; equals keep their order.
func (r *Report) bySeverity() []*Scenario {
	list := make([]*Scenario, len(r.Scenarios))
	for i := range r.Scenarios {
		list[i] = &r.Scenarios[i]
	}
	slices.SortStableFunc(list, func(a, b *Scenario) int { return cmp.Compare(a.severity(), b.severity()) })
	return list
}

func (s *Scenario) severity() int {
	switch t := s.Tally(); {
	case t.Holes > 0:
		return 0
	case t.Fail > 0:
		return 1
	}
	switch s.Result() {
	case compare.Inconclusive:
		return 2
	case compare.Known:
		return 3
	case compare.Skipped:
		return 4
	default:
		return 5
	}
}

// exitWords says what the report's exit code means.
func (r *Report) exitWords() string {
	words := r.promises().exitWords()
	if r.Seal == nil || r.Seal.Verdict == seal.Sealed {
		return words
	}
	return r.Seal.meaning() + "; " + words
}

// exitWords says what an exit code means that promises alone lead to.
func (s Summary) exitWords() string {
	if s.Result == compare.Skipped {
		return "every scenario was skipped, nothing was judged"
	}
	switch s.ExitCode {
	case compare.ExitPass:
		if s.Known > 0 {
			return "every promise held but those that this CNI is known not to keep"
		}
		return "every promise held"
	case compare.ExitFail:
		return "a promise did not hold"
	}
	if s.Judged() == 0 {
		return "nothing was judged"
	}
	return "no promise was seen broken, but not every one could be told"
}

// count is "1 hole" or "2 holes".
func count(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	plural := one + "s"
	if one == "inconclusive" || one == "skipped" || one == "known" {
		plural = one
	}
	return fmt.Sprintf("%d %s", n, plural)
}
