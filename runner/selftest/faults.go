package selftest

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/internal/kube"
	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/runner/report"
	"github.com/gapproof/gapproof/runner/suite"
	"github.com/gapproof/gapproof/scenarios"
)

//go:embed faults.yaml
var files embed.FS

// Lab is the cluster that faults are injected into. It must be one that may be broken.
type Lab struct {
	Cluster  *kube.Cluster
	Machines Machines
	// Nodes are all of the cluster's, by name; CNI is the profile it was made with.
	Nodes []string
	CNI   string
	// Run names a new run. Its worlds must have namespaces of their own, since several runs are under way at once.
	Run func() string
	// Seams are a run's, reached through the given API server.
	Seams func(through *kube.Cluster, run string, w Witness) (Seams, error)
	// Progress is told of each fault that is done; from one goroutine at a time. It may be nil.
	Progress func(what string, took time.Duration)
}

// Seams are what a run works through; Witnesses and the least level that a deny needs are as in suite.Options.
type Seams struct {
	Worlds    suite.Worlds
	Policies  suite.Policies
	Witnesses suite.Witnesses
	Least     probes.Level
}

// Outcome is what came of one fault.
type Outcome struct {
	Fault Fault
	// Skipped says why it was not injected, or what kept the lab from showing what comes of it; empty when it was and nothing did.
	Skipped string
	// Attempts were judged. Untold came out inconclusive as they had to, Right passed as they had to or might.
	Attempts, Untold, Right int
	// FalsePasses and FalseFailures are results that the instrument had no ground for.
	FalsePasses, FalseFailures int
	// Ended is the run's error where the table wants one.
	Ended string
	// Tries is how often the fault was injected; the outcome is the last one's.
	Tries int
	// Findings are the false results, and whatever else is not as the table says.
	Findings []Finding
	Took     time.Duration
	// crowded: something could not be told which the fault leaves alone, and nothing else is wrong but the reasons of what it does not.
	crowded bool
}

const (
	// atOnce bounds the runs under way: each has eight pods, and a lab has two cores.
	atOnce = 2
	// tries is how often a fault is injected at most whose verdicts are right as far as they go. All but the first time no other run is
	// under way: what a crowded host left inconclusive says nothing about the instrument.
	tries = 3
	// faultBaseline, faultEnforce and faultSettle are a run's limits here: shorter than usual, because some faults use them up.
	faultBaseline = 6 * time.Second
	faultEnforce  = 8 * time.Second
	faultSettle   = 30 * time.Second
)

// Faults injects each fault of the table into a run of its own and holds the verdicts against the table. Outcomes are in the table's
// order, also beside an error. The error is about the lab, such as one that was not healthy before or is not afterwards: what the instrument
// got wrong is in the Findings.
func Faults(ctx context.Context, lab Lab, table []Fault) ([]Outcome, error) {
	all, err := scenarios.LoadFS(files, "faults.yaml")
	if err != nil {
		return nil, fmt.Errorf("loading the scenario of the faults: %w", err)
	}
	if err := lab.healthy(ctx); err != nil {
		return nil, fmt.Errorf("looking at the cluster before any fault: %w", err)
	}
	outcomes := make([]Outcome, len(table))
	errs := make([]error, len(table))
	done := make(chan int)
	told := make(chan struct{})
	go func() {
		defer close(told)
		for i := range done {
			if lab.Progress != nil {
				lab.Progress("fault "+table[i].Name, outcomes[i].Took)
			}
		}
	}()
	once := func(i int) {
		before := outcomes[i].Tries
		outcomes[i], errs[i] = inject(ctx, lab, table[i], all)
		outcomes[i].Tries = before + 1
		if errs[i] == nil && table[i].Reaches == WholeCluster {
			errs[i] = lab.healthy(ctx) // the ground of the next one
		}
		if errs[i] != nil {
			outcomes[i].Skipped = "nothing can be said: " + strings.ReplaceAll(errs[i].Error(), "\n", "; ")
		}
		done <- i
	}
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i, f := range table {
		if f.Reaches == OwnWorld {
			g.Go(func() error { once(i); return nil }) // one fault's trouble does not end the others
		}
	}
	_ = g.Wait() // errs has them
	for i, f := range table {
		if f.Reaches == WholeCluster {
			once(i)
		}
		for outcomes[i].crowded && errs[i] == nil && outcomes[i].Tries < tries {
			once(i)
		}
	}
	close(done)
	<-told
	if ctx.Err() != nil {
		return outcomes, errors.Join(fmt.Errorf("injecting faults: %w", context.Cause(ctx)), lab.stopped(context.WithoutCancel(ctx)))
	}
	if err := errors.Join(lab.healthy(ctx), lab.stopped(ctx)); err != nil {
		errs = append(errs, fmt.Errorf("looking at the cluster after the faults: %w", err))
	}
	return outcomes, errors.Join(errs...)
}

// inject carries out one run with one fault.
func inject(ctx context.Context, lab Lab, f Fault, all []*scenarios.Scenario) (out Outcome, err error) {
	out.Fault = f
	if f.Needs != "" && f.Needs != lab.CNI {
		out.Skipped = fmt.Sprintf("needs CNI %s, the cluster has %s", f.Needs, lab.CNI)
		return out, nil
	}
	if ctx.Err() != nil {
		return out, context.Cause(ctx)
	}
	started := time.Now()
	defer func() { out.Took = time.Since(started) }()
	between, err := newProxy(lab.Cluster)
	if err != nil {
		return out, err
	}
	defer between.close()
	through, err := between.cluster(lab.Cluster)
	if err != nil {
		return out, err
	}
	run := lab.Run()
	seams, err := lab.Seams(through, run, f.Witness)
	if err != nil {
		return out, err
	}
	stage := &stage{Worlds: seams.Worlds, Policies: seams.Policies, fault: f, scene: &scene{lab: lab, run: run, proxy: between}}
	defer func() { stage.end(ctx) }()
	rep, err := suite.New(stage, stage, suite.Options{
		Run: run, Baseline: faultBaseline, Enforce: faultEnforce, Settle: faultSettle, Witnesses: seams.Witnesses, Least: seams.Least,
		Replay: func(string, string) string { return "gapproof selftest faults" },
	}).Run(ctx, all)
	if e := stage.failed(); e != nil {
		return out, errors.Join(e, err)
	}
	out.hold(rep, err)
	if f.Ends == "" && err != nil {
		return out, fmt.Errorf("running with the fault %s: %w", f.Name, err)
	}
	return out, nil
}

// hold holds a run against its row of the table.
func (o *Outcome) hold(rep *report.Report, ended error) {
	if o.Fault.Ends != "" {
		want := fmt.Sprintf("an end of the run with %q and without a result", o.Fault.Ends)
		switch {
		case ended == nil:
			o.find("", "", want, "a run that went on", fmt.Sprintf("%d results", judged(rep)))
		case !strings.Contains(ended.Error(), o.Fault.Ends):
			o.find("", "", want, "another end", ended.Error())
		default:
			o.Ended = ended.Error()
		}
	} else if ended == nil && judged(rep) == 0 {
		o.find("", "", "results", "none", "the run judged nothing")
	}
	o.watched(rep)
	alone, untold := 0, 0
	eachJudgement(rep, func(_ report.Scenario, step report.Step, j compare.Judgement) {
		before := len(o.Findings)
		o.judge(step.Name, j)
		if len(o.Findings) == before || j.Result != compare.Inconclusive {
			return
		}
		untold++
		if o.Fault.Effect(j.Attempt, j.Promise.Verdict()) == Unharmed {
			alone++
		}
	})
	o.crowded = alone > 0 && untold == len(o.Findings)
}

// watched holds the level that the run reports against the fault.
func (o *Outcome) watched(rep *report.Report) {
	if rep == nil || o.Fault.Witness == WitnessOff {
		return
	}
	lost := rep.Level == probes.Unwitnessed.String()
	if lost == o.Fault.Lost && lost == strings.Contains(rep.LevelReason, "was lost") {
		return
	}
	want := "witnesses to the end"
	if o.Fault.Lost {
		want = "a report of the lost witness"
	}
	o.find("", "", want, "level "+rep.Level, rep.LevelReason)
}

// judge holds one result against the effect that the fault must have on it.
func (o *Outcome) judge(step string, j compare.Judgement) {
	promised := j.Promise.Verdict()
	if j.Promise.Skip != "" || promised == reach.Unknown {
		return
	}
	o.Attempts++
	effect := o.Fault.Effect(j.Attempt, promised)
	wants := map[Effect]string{
		Unharmed: "a pass", Untold: "inconclusive", Doubtful: "a pass or inconclusive", EffectUnknown: "an effect in the table",
	}
	wrong := func(want string) {
		o.find(step, fmt.Sprintf("%s (promised %s)", j.Attempt.ID, promised), want, resultWords(j), j.Reason)
	}
	switch {
	case j.Result == compare.Fail:
		o.FalseFailures++
		wrong(wants[effect])
	case j.Result == compare.Pass && effect != Unharmed && effect != Doubtful:
		o.FalsePasses++
		wrong(wants[effect])
	case j.Result == compare.Pass:
		o.Right++
	case j.Result != compare.Inconclusive || effect == Unharmed || effect == EffectUnknown:
		wrong(wants[effect])
	case !slices.ContainsFunc(o.Fault.Reasons, func(r string) bool { return strings.Contains(j.Reason, r) }):
		wrong("inconclusive because of one of " + strings.Join(o.Fault.Reasons, ", "))
	default:
		o.Untold++
	}
}

func (o *Outcome) find(step, attempt, want, got, reason string) {
	o.Findings = append(o.Findings, Finding{o.Fault.Name, step, attempt, want, got, reason})
}
