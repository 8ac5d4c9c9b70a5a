package suite

import (
	"context"
	"fmt"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/runner/report"
)

// settled is what a step's rounds ended with.
type settled struct {
	last   []probes.Observation
	rounds int
	gaps   []report.Gap
	// flapping are attempts by index that still changed when the limit had passed, each with the reason in words.
	flapping map[int]string
}

// numbered is one finished round.
type numbered struct {
	started time.Time
	obs     []probes.Observation
	seen    []compare.Observed
}

// confirm is for how long, from the acceptance of the step's changes, rounds that agree with one another but contradict a promise go
// on: an endpoint that is programmed late would look like a hole or a break. What changes meanwhile is reported as a gap, with its
// length, so waiting hides nothing. It is some twenty times the slowest published median.
const confirm = 3 * time.Second

// settle makes rounds, each overlapping the one before, until two successive ones agree on every attempt and none of them
// contradicts its promise, or has done so for long enough.
func (s *Suite) settle(ctx context.Context, world World, b *beacons, attempts []plan.Planned, promises []plan.Promise, base []probes.Observation, accepted time.Time) (settled, error) {
	ctx, cancel := context.WithCancel(ctx)
	type answer struct {
		numbered
		err error
	}
	var pending []chan answer
	defer func() { // who started rounds waits for them
		cancel()
		for _, c := range pending {
			<-c
		}
	}()
	launch := func() {
		c := make(chan answer, 1)
		pending = append(pending, c)
		go func() {
			a := answer{numbered: numbered{started: time.Now()}}
			a.obs, a.err = s.round(ctx, world, b, attempts, base)
			for i := range a.obs {
				a.seen = append(a.seen, compare.Observe(a.obs[i], attempts[i]))
			}
			c <- a
		}()
	}
	timer := time.NewTimer(stagger)
	defer timer.Stop()
	launch()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return settled{}, fmt.Errorf("making attempts: %w", context.Cause(ctx))
	}
	launch()

	var history []numbered
	for {
		a := <-pending[0]
		pending = pending[1:]
		if a.err != nil {
			return settled{}, a.err
		}
		history = append(history, a.numbered)
		n := len(history)
		if n < 2 {
			continue
		}
		changed := differ(history[n-2].seen, history[n-1].seen)
		waited := time.Since(accepted)
		agreed := len(changed) == 0 && (waited > confirm || !contradicts(promises, history[n-1].seen))
		if agreed || waited > s.o.Settle {
			out := settled{last: history[n-1].obs, rounds: n, flapping: map[int]string{}}
			for _, i := range changed {
				out.flapping[i] = fmt.Sprintf("verdict still changed after %s: last %s, then %s", s.o.Settle,
					history[n-2].seen[i].Detail, history[n-1].seen[i].Detail)
			}
			out.gaps = gaps(attempts, history, accepted)
			return out, nil
		}
		for _, i := range changed {
			s.o.Log.Debug("rounds disagree", "attempt", attempts[i].ID, "before", history[n-2].seen[i].Detail, "after", history[n-1].seen[i].Detail)
		}
		launch()
	}
}

// contradicts tells whether some attempt was seen to do the opposite of its promise.
func contradicts(promises []plan.Promise, seen []compare.Observed) bool {
	for i, p := range promises {
		if p.Skip == "" && seen[i].Verdict != reach.Unknown && p.Verdict() != reach.Unknown && seen[i].Verdict != p.Verdict() {
			return true
		}
	}
	return false
}

// differ are the indexes whose verdicts differ.
func differ(a, b []compare.Observed) []int {
	var changed []int
	for i := range a {
		if a[i].Verdict != b[i].Verdict {
			changed = append(changed, i)
		}
	}
	return changed
}

// gaps are attempts whose verdict in some round was not the last one, with the time until they were right for good.
func gaps(attempts []plan.Planned, history []numbered, accepted time.Time) []report.Gap {
	var found []report.Gap
	last := history[len(history)-1]
	for i, a := range attempts {
		for n := len(history) - 2; n >= 0; n-- {
			if history[n].seen[i].Verdict == last.seen[i].Verdict {
				continue
			}
			after := history[n+1].started.Sub(accepted)
			found = append(found, report.Gap{
				AttemptID: a.ID, After: after,
				Detail: fmt.Sprintf("%s first; %s %d ms after the change was accepted", history[n].seen[i].Detail, last.seen[i].Detail, after.Milliseconds()),
			})
			break
		}
	}
	return found
}
