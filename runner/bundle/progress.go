package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// timesFile records in the cache how long each step took when it last ran.
const timesFile = "times.json"

// State is how far a step is.
type State int

const (
	// StateUnknown is the zero State; no report carries it.
	StateUnknown State = iota
	// StateBegun means the step runs from now on.
	StateBegun
	// StateDone means the step has ended well.
	StateDone
)

// Progress is one report of a build. Steps whose output is in the cache are not reported and not counted.
type Progress struct {
	// Step says what is built, such as "go build kubeadm kubectl kubelet".
	Step string
	// State says whether the step begins or has ended.
	State State
	// N counts the steps that have begun, this one included; Of is how many there are. Two may run at the same time.
	N, Of int
	// Took is how long the step took. Zero while it runs.
	Took time.Duration
	// LastTook is how long the step took when it last ran on this host. Zero when it never did.
	LastTook time.Duration
	// Remaining estimates the rest of the build, this step included while it runs, from what the steps took last. Zero when some
	// step of the rest never ran here, so that nothing can be said.
	Remaining time.Duration
}

// reporter reports the steps of one build and records their times.
type reporter struct {
	file   string
	of     int
	log    *slog.Logger
	report func(Progress)

	mu    sync.Mutex
	times map[string]time.Duration // by step title
	begun int
	rest  map[string]bool // titles of steps that have not ended
}

func newReporter(dir string, steps []*step, o Options) *reporter {
	r := &reporter{
		file: filepath.Join(dir, timesFile), of: len(steps), log: o.Log, report: o.Progress,
		times: map[string]time.Duration{}, rest: map[string]bool{},
	}
	for _, s := range steps {
		r.rest[s.title] = true
	}
	data, err := os.ReadFile(r.file)
	if err == nil {
		err = json.Unmarshal(data, &r.times)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		// Times are a comfort: without them the build only cannot say how long it takes.
		r.log.Warn("reading the times of earlier builds", "err", err)
	}
	return r
}

// begin reports that a step begins. The returned function reports and records that it has ended well; it is not called otherwise.
func (r *reporter) begin(title string) (finished func() error) {
	start := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.begun++
	n := r.begun
	r.log.Debug("building", "step", title)
	r.report(Progress{Step: title, State: StateBegun, N: n, Of: r.of, LastTook: r.times[title], Remaining: r.remaining()})
	return func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		took, last := time.Since(start), r.times[title]
		delete(r.rest, title)
		r.times[title] = took
		r.log.Info("built", "step", title, "took", took.Round(time.Millisecond))
		r.report(Progress{Step: title, State: StateDone, N: n, Of: r.of, Took: took, LastTook: last, Remaining: r.remaining()})
		return r.save()
	}
}

// remaining is the sum over the steps that have not ended, or zero when one of them has no time yet.
func (r *reporter) remaining() time.Duration {
	var sum time.Duration
	for title := range r.rest {
		last, ok := r.times[title]
		if !ok {
			return 0
		}
		sum += last
	}
	return sum
}

// save writes the times after every step, so that an interrupted build has them too.
func (r *reporter) save() error {
	data, err := json.MarshalIndent(r.times, "", "  ")
	if err != nil {
		return fmt.Errorf("recording build times: %w", err)
	}
	tmp := r.file + ".new"
	if err := errors.Join(os.WriteFile(tmp, data, 0o644), os.Rename(tmp, r.file)); err != nil {
		return fmt.Errorf("recording build times: %w", err)
	}
	return nil
}
