package compare

import (
	"cmp"
	"slices"
)

// The exit codes that judgements lead to; the others of the command are not about promises.
const (
	ExitPass         = 0
	ExitFail         = 1
	ExitInconclusive = 3
)

// Tally counts judgements.
type Tally struct {
	Pass         int `json:"pass"`
	Fail         int `json:"fail"`
	Inconclusive int `json:"inconclusive"`
	Skipped      int `json:"skipped"`
	// Known counts the failures that a baseline explains; they are not among Fail.
	Known int `json:"known"`
	// Holes and Breaks are the classes of Fail.
	Holes  int `json:"holes"`
	Breaks int `json:"breaks"`
}

// Count adds judgements up. A judgement without a result counts as inconclusive.
func Count(judgements []Judgement) Tally {
	var t Tally
	for _, j := range judgements {
		if j.Result == Fail && j.Known != "" {
			t.Known++
			continue
		}
		switch j.Result {
		case Pass:
			t.Pass++
		case Fail:
			t.Fail++
		case Skipped:
			t.Skipped++
		default:
			t.Inconclusive++
		}
		if j.Result == Fail {
			switch j.Class {
			case Hole:
				t.Holes++
			case Break:
				t.Breaks++
			}
		}
	}
	return t
}

// Add is the sum of both.
func (t Tally) Add(o Tally) Tally {
	return Tally{
		Pass: t.Pass + o.Pass, Fail: t.Fail + o.Fail, Inconclusive: t.Inconclusive + o.Inconclusive, Skipped: t.Skipped + o.Skipped,
		Known: t.Known + o.Known, Holes: t.Holes + o.Holes, Breaks: t.Breaks + o.Breaks,
	}
}

// Judged is how many attempts got a result other than skipped.
func (t Tally) Judged() int { return t.Pass + t.Fail + t.Inconclusive + t.Known }

// Result is the worst of all: fail, then inconclusive, then known, then pass. Nothing judged is inconclusive: no evidence is not green.
func (t Tally) Result() Result {
	switch {
	case t.Fail > 0:
		return Fail
	case t.Inconclusive > 0, t.Judged() == 0:
		return Inconclusive
	case t.Known > 0:
		return Known
	default:
		return Pass
	}
}

// ExitCode is 0 when every judged attempt passed or failed as a baseline knows, 1 when a promise did not hold, 3 when none failed but something could not be told.
func (t Tally) ExitCode() int {
	switch t.Result() {
	case Pass, Known:
		return ExitPass
	case Fail:
		return ExitFail
	default:
		return ExitInconclusive
	}
}

// Sort puts holes first, then breaks, other failures, the inconclusive, known differences, the skipped, and what passed; equals keep their order.
func Sort(judgements []Judgement) {
	slices.SortStableFunc(judgements, func(a, b Judgement) int { return cmp.Compare(a.rank(), b.rank()) })
}

func (j *Judgement) rank() int {
	switch {
	case j.Result == Fail && j.Known != "":
		return 4
	case j.Result == Fail && j.Class == Hole:
		return 0
	case j.Result == Fail && j.Class == Break:
		return 1
	case j.Result == Fail:
		return 2
	case j.Result == Skipped:
		return 5
	case j.Result == Pass:
		return 6
	default:
		return 3
	}
}
