package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/gapproof/gapproof/images"
	"github.com/gapproof/gapproof/runner/apply"
	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/fixture"
	"github.com/gapproof/gapproof/runner/internal/kube"
	"github.com/gapproof/gapproof/runner/report"
	"github.com/gapproof/gapproof/runner/suite"
	"github.com/gapproof/gapproof/runner/worlds"
	"github.com/gapproof/gapproof/scenarios"
)

// gapproof is our side: the suite on the converted cases, as gapproof run would carry them out.
type gapproof struct {
	cluster  *kube.Cluster
	probe    images.Image
	deadline time.Duration
	out      string
	progress io.Writer
}

// The report of our side, in full.
const reportFile = "gapproof-report.json"

const (
	// runBytes is short enough for names, tokenBytes beyond the least that an agent takes.
	runBytes   = 4
	tokenBytes = 32
)

// random is n random bytes in hexadecimal.
func random(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

func (g gapproof) run(ctx context.Context, all []Case) (*Result, error) {
	run := random(runBytes)
	r := &Result{
		Contestant: "gapproof", DestinationType: ToPodIP,
		Config: fmt.Sprintf("deadline %s, every step in two agreeing rounds or more, image %s", g.deadline, g.probe.Reference()),
	}
	list := make([]*scenarios.Scenario, len(all))
	for i, c := range all {
		list[i] = c.Scenario
	}
	made := &worlds.Worlds{Cluster: g.cluster, Options: fixture.Options{
		Run: run, Image: g.probe.Reference(), Token: random(tokenBytes), Log: slog.New(slog.DiscardHandler),
	}}
	s := suite.New(made, apply.New(g.cluster.Client, run), suite.Options{
		Run: run, Deadline: g.deadline,
		Replay: func(file, attempt string) string { return fmt.Sprintf("gapproof run %s --attempt '%s'", file, attempt) },
		Progress: func(what string, took time.Duration) {
			if !slices.ContainsFunc(list, func(sc *scenarios.Scenario) bool { return sc.Metadata.Name == what }) { // these are in steps
				r.Parts = append(r.Parts, Part{what, took})
			}
			progress(g.progress, what, took)
		},
	})
	started := time.Now()
	rep, err := s.Run(ctx, list)
	r.Wall = time.Since(started)
	if e := writeReport(filepath.Join(g.out, reportFile), rep); err == nil {
		err = e
	}
	if err != nil {
		return nil, fmt.Errorf("running gapproof: %w", err)
	}
	for i, sc := range rep.Scenarios {
		for n, step := range sc.Steps {
			r.Steps = append(r.Steps, ourStep(all[i].Title, n+1, step))
		}
	}
	return r, nil
}

func ourStep(title string, number int, from report.Step) Step {
	s := Step{Case: title, Number: number, Took: from.Took, Enforced: from.Enforced, Rounds: from.Rounds, Answers: map[string]Answer{}}
	for _, j := range from.Judgements {
		a := Answer{Verdict: j.Observed.Verdict, Promised: j.Promise.Verdict(), Detail: j.Observed.Detail}
		if j.Result != compare.Pass {
			a.Detail = fmt.Sprintf("%s: %s", j.Result, j.Reason)
		}
		s.Answers[j.Attempt.ID] = a
	}
	return s
}

func writeReport(path string, rep *report.Report) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("writing our report: %w", err)
	}
	defer f.Close()
	if err := report.Render(f, rep, report.JSON, report.Options{}); err != nil {
		return fmt.Errorf("writing our report: %w", err)
	}
	return f.Close()
}
