package suite

import (
	"context"
	"fmt"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/reach"
)

// settled is what a step's rounds ended with.
type settled struct {
	// rounds are all of them, in order; there are at least two.
	rounds []compare.Round
	// decided is the median time to the sighting that decided an attempt, over all rounds; zero when none did.
	decided time.Duration
}

// numbered is one finished round.
type numbered struct {
	started time.Time
	obs     []probes.Observation
	seen    []compare.Observed
	decided []time.Duration
}

// confirm is for how long, from the acceptance of the step's changes, rounds that agree with one another but contradict a promise go
// on: an endpoint that is programmed late would look like a hole or a break. What changes meanwhile is reported as a gap, with its
// length, so waiting hides nothing. It is some twenty times the slowest published median.
const confirm = 3 * time.Second

// patience bounds a step's rounds, from the acceptance of its changes.
type patience struct {
	// confirm is for how long rounds go on that contradict a promise, settle for how long any go on that disagree.
	confirm, settle time.Duration
}

// patience is longer where labels changed: beacons do not show when another endpoint learns of them.
func (s *Suite) patience(how toggles) patience {
	if !how.labels() {
		return patience{confirm, s.o.Settle}
	}
	return patience{max(confirm, s.o.Relabelled), s.o.Relabelled + s.o.Settle}
}

// settle makes rounds, each overlapping the one before, until two successive ones agree on every attempt and none of them
// contradicts its promise or has opened again since it was denied, or has done so for long enough.
func (s *Suite) settle(ctx context.Context, world World, b *beacons, attempts []plan.Planned, promises []plan.Promise, base []probes.Observation, accepted time.Time, wait patience) (settled, error) {
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
			a.obs, a.decided, a.err = s.round(ctx, world, b, attempts, base)
			for i := range a.obs {
				a.seen = append(a.seen, compare.Observe(a.obs[i], attempts[i]))
			}
			c <- a
		}()
	}
	timer := time.NewTimer(stagger)
	defer timer.Stop()
	// next launches one more round, not sooner than stagger after the one before: with a witness rounds are over within less.
	next := func() error {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return fmt.Errorf("making attempts: %w", context.Cause(ctx))
		}
		timer.Reset(stagger)
		launch()
		return nil
	}
	launch()
	if err := next(); err != nil {
		return settled{}, err
	}

	var history []numbered
	var decided []time.Duration
	for {
		a := <-pending[0]
		pending = pending[1:]
		if a.err != nil {
			return settled{}, a.err
		}
		history = append(history, a.numbered)
		decided = append(decided, a.decided...)
		n := len(history)
		if n < 2 {
			continue
		}
		changed := differ(history[n-2].seen, history[n-1].seen)
		waited := time.Since(accepted)
		agreed := len(changed) == 0 && (waited > wait.confirm || !contradicts(promises, history[n-1].seen) && !reopened(promises, history))
		if agreed || waited > wait.settle {
			out := settled{decided: median(decided)}
			for _, round := range history {
				out.rounds = append(out.rounds, compare.Round{After: round.started.Sub(accepted), Observations: round.obs})
			}
			return out, nil
		}
		for _, i := range changed {
			s.o.Log.Debug("rounds disagree", "attempt", attempts[i].ID, "before", history[n-2].seen[i].Detail, "after", history[n-1].seen[i].Detail)
		}
		if err := next(); err != nil {
			return settled{}, err
		}
	}
}

// contradicts tells whether some attempt was seen to do the opposite of its promise.
func contradicts(promises []plan.Promise, seen []compare.Observed) bool {
	for i, p := range promises {
		if p.Skip == "" && seen[i].Verdict != reach.Unknown && p.Verdict() != reach.Unknown && seen[i].Verdict != p.Verdict() {
			return true
		}
		// Endpoints of a Service travel on other watches than policies: an allow through backends that are new to it may come late, too.
		if p.Backends != nil && p.Skip == "" && p.Verdict() == reach.Allow && seen[i].Verdict == reach.Unknown {
			return true
		}
	}
	return false
}

// reopened tells whether some promised deny was crossed after it had been in force.
func reopened(promises []plan.Promise, history []numbered) bool {
	course := make([]compare.Observed, len(history))
	for i, p := range promises {
		for n := range history {
			course[n] = history[n].seen[i]
		}
		if _, _, ok := compare.Reopened(p, course, func(int) bool { return true }); ok {
			return true
		}
	}
	return false
}

// differ are the indexes of which the two rounds saw different things.
func differ(a, b []compare.Observed) []int {
	var changed []int
	for i := range a {
		if !a[i].Agrees(b[i]) {
			changed = append(changed, i)
		}
	}
	return changed
}
