package suite

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/reach"
)

// patient is a deadline that no test waits for: a deny comes from the kernel's word, or the test takes seconds.
const patient = 3 * time.Second

func TestAWitnessedDenyIsDecidedWhenItsPacketDies(t *testing.T) {
	m := newMemory(t)
	w := newMemoryWitness(m)
	o := options()
	o.Witnesses, o.Deadline = w, patient
	rep, err := New(m, m, o).Run(t.Context(), load(t, denyThenAllow))
	if err != nil {
		t.Fatal(err)
	}
	if got := rep.Summary(); got.ExitCode != 0 || got.Pass == 0 {
		t.Errorf("summary %+v, want everything passed", got)
	}
	if rep.Level != probes.Full.String() || rep.LevelReason != "" {
		t.Errorf("level %q, %q; want the best", rep.Level, rep.LevelReason)
	}
	step := rep.Scenarios[0].Steps[0]
	if step.Decided <= 0 || step.Decided > patient/2 {
		t.Errorf("denies were decided after %v, want before anybody's deadline of %v", step.Decided, patient)
	}
	denies := 0
	for _, j := range step.Judgements {
		if j.Observed.Verdict == reach.Deny {
			denies++
			if j.Observed.Evidence != compare.Dropped {
				t.Errorf("%s: denied by %v, want the kernel's word", j.Attempt.ID, j.Observed.Evidence)
			}
		}
	}
	if denies == 0 {
		t.Error("nothing was denied")
	}
	if !w.closed {
		t.Error("the witnesses stayed")
	}
}

func TestOnlyWatchedAttemptsAreMadeAFewAtOnce(t *testing.T) {
	for _, watched := range []string{"with witnesses", "without"} {
		m := newMemory(t)
		o := options()
		if watched == "with witnesses" {
			o.Witnesses = newMemoryWitness(m)
		}
		if _, err := New(m, m, o).Run(t.Context(), load(t, denyThenAllow)); err != nil {
			t.Fatal(err)
		}
		want := 0 // what is not watched may last to its deadline, and is not to wait for others
		if o.Witnesses != nil {
			want = watchedAtOnce / 2 // two pods make attempts
		}
		if len(m.bounds) == 0 || slices.ContainsFunc(m.bounds, func(n int) bool { return n != want }) {
			t.Errorf("%s: batches of %v at once, want %d", watched, m.bounds, want)
		}
	}
}

func TestAWitnessThatDiesLowersTheEvidenceAndPassesNothing(t *testing.T) {
	m := newMemory(t)
	w := newMemoryWitness(m)
	var dead atomic.Bool
	w.dead = dead.Load
	o := options()
	o.Witnesses = w
	o.Progress = func(what string, _ time.Duration) {
		if strings.HasPrefix(what, "baseline") {
			dead.Store(true)
		}
	}
	rep, err := New(m, m, o).Run(t.Context(), load(t, denyThenAllow))
	if err != nil {
		t.Fatal(err)
	}
	if got := rep.Summary(); got.Fail != 0 || got.Pass == 0 {
		t.Errorf("summary %+v, want no false failure and the rest judged without a witness", got)
	}
	if rep.Level != probes.Unwitnessed.String() || !strings.Contains(rep.LevelReason, "lost") {
		t.Errorf("level %q, %q; want that the witness was lost", rep.Level, rep.LevelReason)
	}
	for _, j := range rep.Scenarios[0].Steps[0].Judgements {
		if j.Observed.Evidence == compare.Dropped {
			t.Errorf("%s rests on the word of a dead witness", j.Attempt.ID)
		}
	}
}

func TestARequiredWitnessThatDiesLeavesNoDeny(t *testing.T) {
	m := newMemory(t)
	w := newMemoryWitness(m)
	var dead atomic.Bool
	w.dead = dead.Load
	o := options()
	o.Witnesses, o.Least = w, probes.TapsOnly
	o.Progress = func(what string, _ time.Duration) {
		if strings.HasPrefix(what, "baseline") {
			dead.Store(true)
		}
	}
	rep, err := New(m, m, o).Run(t.Context(), load(t, denyThenAllow))
	if err != nil {
		t.Fatal(err)
	}
	denies := 0
	for _, j := range rep.Scenarios[0].Steps[0].Judgements {
		switch {
		case j.Promise.Verdict() == reach.Allow && j.Result != compare.Pass:
			t.Errorf("%s: %v, want a pass: what was delivered needs no witness: %s", j.Attempt.ID, j.Result, j.Reason)
		case j.Promise.Verdict() == reach.Deny:
			denies++
			if j.Result != compare.Inconclusive || !strings.Contains(j.Reason, "the witness of node-1 was lost") {
				t.Errorf("%s: %v, want inconclusive because the witness was lost: %s", j.Attempt.ID, j.Result, j.Reason)
			}
		}
	}
	if denies == 0 {
		t.Error("nothing was denied")
	}
}

func TestWhatTheKernelLostSightOfIsNoDeny(t *testing.T) {
	m := newMemory(t)
	w := newMemoryWitness(m)
	w.blind = true
	o := options()
	o.Witnesses = w
	rep, err := New(m, m, o).Run(t.Context(), load(t, denyThenAllow))
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range rep.Scenarios[0].Steps[0].Judgements {
		if j.Promise.Verdict() == reach.Deny && j.Result != compare.Inconclusive {
			t.Errorf("%s: %v, want inconclusive: its packet left and was seen nowhere again", j.Attempt.ID, j.Result)
		}
	}
}

func TestWhatNobodyWatchesTakesItsSourcePortFromTheSameRing(t *testing.T) {
	m := newMemory(t)
	w := newMemoryWitness(m)
	w.ups = []string{"node-2"}
	o := options()
	o.Witnesses = w
	rep, err := New(m, m, o).Run(t.Context(), load(t, fromOutside))
	if err != nil {
		t.Fatal(err)
	}
	unwatched := 0
	for _, j := range rep.Scenarios[0].Steps[0].Judgements {
		if j.Facts.Level == probes.Unwitnessed {
			unwatched++
		}
	}
	if unwatched == 0 {
		t.Fatal("every attempt was watched although one node has no witness: the test shows nothing")
	}
	type end struct {
		pod      string
		protocol probes.Protocol
		port     uint16
	}
	used := map[end]bool{}
	for _, p := range m.packets {
		if strings.HasPrefix(p.pod, "gapproof-beacon") {
			continue
		}
		switch e := (end{p.pod, p.protocol, p.port}); {
		case p.port == 0:
			t.Errorf("%s was left to choose a port of its own, which may be one that is assigned next", p.pod)
		case used[e]:
			t.Errorf("%s was given port %d twice", p.pod, p.port)
		default:
			used[e] = true
		}
	}
}

func TestTheLesserOfTwoBoundsIsHowLongADecisionTook(t *testing.T) {
	sent := time.Unix(1_000_000, 0)
	agentClock := sent.Add(-time.Hour)
	for _, test := range []struct {
		name    string
		outcome probes.Outcome
		decided time.Duration // after the attempts were sent to the agent
		want    time.Duration
	}{
		{"the way to the agent is longer", probes.Outcome{Started: agentClock, Took: 20 * time.Millisecond}, 30 * time.Millisecond, 20 * time.Millisecond},
		{"the way of the cut is longer", probes.Outcome{Started: agentClock, Took: 40 * time.Millisecond}, 30 * time.Millisecond, 30 * time.Millisecond},
		{"it waited for its turn", probes.Outcome{Started: agentClock.Add(25 * time.Millisecond), Took: 40 * time.Millisecond}, 30 * time.Millisecond, 5 * time.Millisecond},
		{"it had ended by itself", probes.Outcome{Started: agentClock, Kind: probes.TimedOut, Took: time.Millisecond}, 30 * time.Millisecond, 30 * time.Millisecond},
		{"nothing came back", probes.Outcome{}, 30 * time.Millisecond, 30 * time.Millisecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := &vigil{started: sent}
			if got := v.lasted(test.outcome, cut{at: sent.Add(test.decided)}, agentClock); got != test.want {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}
