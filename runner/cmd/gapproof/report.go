package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/gapproof/gapproof/runner/apply"
	"github.com/gapproof/gapproof/runner/evidence"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/report"
	"github.com/gapproof/gapproof/runner/suite"
)

// recorder keeps a run's evidence; nil keeps none.
type recorder struct {
	*evidence.Writer
	policies *apply.Applier
	cluster  *apply.ClusterApplier
}

// newRecorder makes the evidence directory before a cluster is touched.
func newRecorder(o runOptions) (*recorder, error) {
	if o.evidence == "" {
		return nil, nil
	}
	w, err := evidence.New(o.evidence, evidence.Options{Attempt: o.attempt, Replay: replayFlags(o.target)})
	if err != nil {
		return nil, usageError{fmt.Errorf("--evidence: %w", err)}
	}
	return &recorder{Writer: w}, nil
}

// of is the recorder for a run whose policies these apply; nil, not a nil *recorder, without one.
func (r *recorder) of(p *apply.Applier, c *apply.ClusterApplier) suite.Recorder {
	if r == nil {
		return nil
	}
	r.policies, r.cluster = p, c
	return r
}

// Accepted reads the policies back. ClusterNetworkPolicies are asked for only of a scenario that has any: other clusters may not serve them.
func (r *recorder) Accepted(ctx context.Context, p *plan.Plan, step int, f plan.Facts) error {
	var namespaces []string
	for _, ns := range p.Scenario.World.Namespaces {
		namespaces = append(namespaces, f.Prefix+ns.Name)
	}
	var held evidence.Held
	var err error
	if held.Policies, err = r.policies.Stored(ctx, namespaces); err != nil {
		return err
	}
	if p.Scenario.Policies.HasCluster() {
		if held.Cluster, err = r.cluster.Stored(ctx); err != nil {
			return err
		}
	}
	return r.Writer.Accepted(p, step, f, held)
}

// closeEvidence writes the rest and tells the manifest's digest, which is worth keeping elsewhere; empty where no evidence is kept.
func (a *app) closeEvidence(r *recorder, rep *report.Report, proof *sealReport) (digest string, err error) {
	if r == nil {
		return "", nil
	}
	if proof != nil {
		if err := r.Sealed(proof.Spec, proof.Facts); err != nil {
			return "", err
		}
	}
	if digest, err = r.Close(rep); err != nil {
		return "", err
	}
	fmt.Fprintf(a.err, "evidence written, manifest sha256:%s\n", digest)
	return digest, nil
}

func (a *app) report() *cobra.Command {
	root := &cobra.Command{Use: "report", Short: "Verify and show the evidence of earlier runs, without a cluster"}
	var o runOptions
	show := &cobra.Command{
		Use:   "show DIR",
		Short: "Print the report that an evidence directory stores",
		Long:  "show prints the stored report again, in any format. It does not verify it: see gapproof report verify.",
		Args:  cobra.ExactArgs(1),
		RunE:  func(_ *cobra.Command, args []string) error { return a.showReport(args[0], o) },
	}
	show.Flags().StringVarP(&o.output, "output", "o", "table", "table, json, junit or markdown")
	show.Flags().StringVar(&o.show, "show", "failures", "matrices and attempts in the table: failures or all")
	show.Flags().StringVar(&o.color, "color", "auto", "auto, always or never")
	root.AddCommand(show, &cobra.Command{
		Use:   "verify DIR",
		Short: "Hold every conclusion in an evidence directory against its raw facts",
		Long: `verify derives the plan, every verdict, every result, the verdict on a sealed lab's seal, the notes, the log and the report anew from the raw
facts that gapproof run --evidence DIR kept, and compares them and every file's SHA-256 with what is stored. It asks nobody: no cluster, no
network.

It cannot find out somebody who writes every file anew so that all agree, the manifest too: keep the manifest's digest, which the
run and verify print, in another place. Use the version of gapproof that made the run: another one may word its reasons differently.

Exit codes: 0 all of it follows, 1 something differs, 2 a file cannot be read, with its line.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return a.verifyReport(args[0]) },
	})
	group(root)
	return root
}

func (a *app) showReport(dir string, o runOptions) error {
	render, err := newRendering(a.out, o)
	if err != nil {
		return err
	}
	rep, err := evidence.ReadReport(os.DirFS(dir))
	if err != nil {
		return evidenceError(dir, err)
	}
	return a.write(rep, render, "")
}

func (a *app) verifyReport(dir string) error {
	v, err := evidence.Verify(os.DirFS(dir))
	for _, d := range v.Differences {
		fmt.Fprintln(a.out, d)
	}
	if err != nil {
		return evidenceError(dir, err)
	}
	if n := len(v.Differences); n > 0 {
		fmt.Fprintf(a.out, "NOT VERIFIED: %d differences, manifest sha256:%s\n", n, v.Digest)
		if v.WrittenBy != version {
			fmt.Fprintf(a.err, "the run was made by gapproof %s, this is %s, which may word its reasons differently\n", v.WrittenBy, version)
		}
		return exitError(exitFail)
	}
	sealed := ""
	if v.Seal != "" {
		sealed = " and the seal's, " + string(v.Seal) + ","
	}
	fmt.Fprintf(a.out, "VERIFIED: %d results of %d scenarios%s follow from the evidence, %d files, manifest sha256:%s\n", v.Judgements, v.Scenarios, sealed, v.Files, v.Digest)
	return nil
}

// evidenceError sorts an error of reading a directory: what is wrong in it, or that it is none, is usage.
func evidenceError(dir string, err error) error {
	var format *evidence.FormatError
	switch {
	case errors.Is(err, evidence.ErrNone):
		return hinted{usageError{fmt.Errorf("%s %w", dir, err)}, "gapproof run --evidence DIR"}
	case errors.As(err, &format):
		return usageError{err}
	default:
		return err
	}
}
