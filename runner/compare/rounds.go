package compare

import (
	"fmt"
	"slices"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/reach"
)

// Round is one round of attempts of one step: facts only.
type Round struct {
	// After is when it started, from the acceptance of the step's changes.
	After time.Duration `json:"after"`
	// Observations has one entry per attempt, in the order of the plan.
	Observations []probes.Observation `json:"observations"`
}

// Gap is one attempt whose observed verdict changed after the step counted as converged.
type Gap struct {
	AttemptID string `json:"attemptID"`
	Detail    string `json:"detail"`
	// After is from acceptance of the change to the first observation that agrees with the last.
	After time.Duration `json:"after"`
}

// JudgeRounds judges a step by its rounds, of which there is at least one: each attempt by its last observation, unless the last two
// still differ, and what changed before that as a gap. A promised deny that was in force and was crossed again later than confirm after the
// acceptance of the changes has nothing to do with them any more: it is judged by the round that saw it crossed. Judgements are in the order
// of attempts, which are the plan's, as promises are; their Replay is left empty. The same rounds give the same judgements, so that what a
// run stored can be judged again.
func JudgeRounds(attempts []plan.Planned, promises []plan.Promise, rounds []Round, confirm time.Duration) ([]Judgement, []Gap) {
	current := Backends(attempts, promises)
	seen := make([][]Observed, len(rounds))
	for n, r := range rounds {
		for i, o := range r.Observations {
			seen[n] = append(seen[n], Observe(o, current[i]))
		}
	}
	last := len(rounds) - 1
	judgements := make([]Judgement, 0, len(attempts))
	var found []Gap
	for i, a := range attempts {
		course := make([]Observed, len(rounds))
		for n := range rounds {
			course[n] = seen[n][i]
		}
		if denied, crossed, ok := Reopened(promises[i], course, func(n int) bool { return rounds[n].After > confirm }); ok {
			judgements = append(judgements, judgeReopened(a, promises[i], rounds, i, denied, crossed))
			continue
		}
		found = append(found, gap(a, rounds, course)...)
		j := Judge(a, promises[i], rounds[last].Observations[i])
		flapping := last > 0 && !seen[last-1][i].Agrees(seen[last][i])
		// What was delivered against a promised deny stays a hole, however it flapped: data crossed.
		if flapping && j.Result != Skipped && j.Class != Hole {
			j.Result, j.Class, j.Culprit = Inconclusive, ClassNone, ""
			j.Reason = fmt.Sprintf("verdict still changed after %s: last %s, then %s", rounds[last].After.Round(time.Millisecond), seen[last-1][i].Detail, seen[last][i].Detail)
			j.Observed = Observed{Verdict: reach.Unknown, Evidence: Missing, Detail: j.Reason}
		}
		judgements = append(judgements, j)
	}
	return judgements, found
}

// Reopened finds, in the course of an attempt from round to round, one that saw its promised deny in force and the first later one that
// counts and saw it crossed, when it is denied again in the end.
func Reopened(promise plan.Promise, course []Observed, counts func(round int) bool) (denied, crossed int, ok bool) {
	if promise.Skip != "" || promise.Verdict() != reach.Deny || course[len(course)-1].Verdict != reach.Deny {
		return 0, 0, false
	}
	denied = slices.IndexFunc(course, func(o Observed) bool { return o.Verdict == reach.Deny }) // the last at the latest
	for n := denied + 1; n < len(course); n++ {
		if course[n].Verdict == reach.Allow && counts(n) {
			return denied, n, true
		}
	}
	return 0, 0, false
}

// judgeReopened judges attempt i by the round that saw it crossed.
func judgeReopened(a plan.Planned, promise plan.Promise, rounds []Round, i, denied, crossed int) Judgement {
	j := Judge(a, promise, rounds[crossed].Observations[i])
	j.Reason = fmt.Sprintf("it was denied %s after the change was accepted, crossed after %s, and was denied again: it comes and goes; %s",
		rounds[denied].After.Round(time.Millisecond), rounds[crossed].After.Round(time.Millisecond), j.Reason)
	return j
}

// Backends are the attempts with the responders that the step's promises give them: labels may have changed who stands behind a Service.
func Backends(attempts []plan.Planned, promises []plan.Promise) []plan.Planned {
	current := slices.Clone(attempts)
	for i, promise := range promises {
		if promise.Backends != nil {
			current[i].Responders = promise.Backends
		}
	}
	return current
}

// gap is the attempt's change, if some round did not see the last word, with the time until it was seen for good.
func gap(a plan.Planned, rounds []Round, course []Observed) []Gap {
	last := len(rounds) - 1
	for n := last - 1; n >= 0; n-- {
		if course[n].Agrees(course[last]) {
			continue
		}
		after := rounds[n+1].After
		return []Gap{{
			AttemptID: a.ID, After: after,
			Detail: fmt.Sprintf("%s first; %s %d ms after the change was accepted", course[n].Detail, course[last].Detail, after.Milliseconds()),
		}}
	}
	return nil
}

// BaselineFault is empty when the observation proves the path before any policy; else it says what happened instead.
func BaselineFault(o probes.Observation, a plan.Planned) string {
	if a.Protocol != probes.DNS && len(a.Responders) == 0 {
		return "no pod stood behind the Service"
	}
	if got := Observe(o, a); got.Evidence != Delivered {
		return got.Detail
	}
	return ""
}
