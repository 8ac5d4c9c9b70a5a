package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	kindconfigs "github.com/gapproof/gapproof/kind-configs"
	"github.com/gapproof/gapproof/runner/apply"
	"github.com/gapproof/gapproof/runner/cluster"
	"github.com/gapproof/gapproof/runner/fixture"
	"github.com/gapproof/gapproof/runner/internal/kube"
	"github.com/gapproof/gapproof/runner/selftest"
	"github.com/gapproof/gapproof/runner/suite"
	"github.com/gapproof/gapproof/runner/worlds"
)

// The parts of the self-test.
const (
	partNothing = "enforces-nothing"
	partFaults  = "faults"
)

// idleProfile is the CNI profile that enforces nothing.
const idleProfile = "none"

// selftestOptions are the flags of selftest.
type selftestOptions struct {
	cluster, idle string
	short         bool
}

func (a *app) selftest() *cobra.Command {
	var o selftestOptions
	c := &cobra.Command{
		Use:   "selftest [" + partNothing + "] [" + partFaults + "]",
		Short: "Break the network and the instrument on purpose, and see that gapproof is not fooled",
		Long: `selftest shows that this build of gapproof cannot pass what it did not see.

  enforces-nothing  runs the catalogue on a cluster whose pod network enforces nothing: every promised deny must be a hole. The
                    cluster is brought up for it, and removed afterwards if it was not there before.
  faults            breaks a lab cluster between baseline and verdict, one fault at a time: what a fault touches must be inconclusive
                    with the right reason, everything else right. In preparation: its expectations have not been confirmed by a
                    whole run yet, so it runs only when named.

Without an argument enforces-nothing runs. Faults stop processes and pause a node, so only a cluster made by gapproof up is ever used.
Exit codes: 0 not fooled, 1 a verdict was wrong, 4 infrastructure.`,
		ValidArgs: []string{partNothing, partFaults},
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = []string{partNothing}
			}
			for _, arg := range args {
				if arg != partNothing && arg != partFaults {
					return hinted{usageError{fmt.Errorf("%q is not a part of the self-test: %s or %s", arg, partNothing, partFaults)}, c.CommandPath() + " --help"}
				}
			}
			return a.selfTest(c.Context(), args, o)
		},
	}
	c.Flags().StringVar(&o.cluster, "cluster", defaultCluster, "lab cluster made by gapproof up, to be broken by the faults")
	c.Flags().StringVar(&o.idle, "idle-cluster", "selftest", "lab cluster with --cni "+idleProfile+"; brought up when it is not there")
	c.Flags().BoolVar(&o.short, "short", false, "a few scenarios and the most telling faults")
	return c
}

func (a *app) selfTest(ctx context.Context, parts []string, o selftestOptions) error {
	var lab *cluster.Cluster
	if slices.Contains(parts, partFaults) { // known before anything is made
		var err error
		if lab, err = a.breakable(o.cluster); err != nil {
			return err
		}
	}
	wrong := 0
	if slices.Contains(parts, partNothing) {
		found, err := a.selfTestIdle(ctx, o)
		if err != nil {
			return err
		}
		wrong += found
	}
	if lab != nil {
		found, err := a.selfTestFaults(ctx, lab, o)
		if err != nil {
			return err
		}
		wrong += found
	}
	if wrong > 0 {
		fmt.Fprintf(a.out, "\nFOOLED %d times: do not trust this build on this lab\n", wrong)
		return exitError(exitFail)
	}
	fmt.Fprintln(a.out, "\nnot fooled")
	return nil
}

// breakable is the lab cluster that faults are injected into.
func (a *app) breakable(name string) (*cluster.Cluster, error) {
	lab, err := cluster.Find(a.clustersDir(), name)
	if err != nil {
		return nil, clusterError(err)
	}
	if lab.CNI == idleProfile {
		return nil, hinted{usageError{fmt.Errorf("cluster %s enforces nothing, so no fault could hide a deny on it", name)}, "gapproof selftest --cluster with one of an enforcing --cni"}
	}
	return lab, nil
}

// selfTestIdle runs the part enforces-nothing and returns how many verdicts were wrong.
func (a *app) selfTestIdle(ctx context.Context, o selftestOptions) (wrong int, err error) {
	all, err := a.load(nil)
	if err != nil {
		return 0, err
	}
	if o.short {
		all = selftest.Short(all)
	}
	lab, err := cluster.Find(a.clustersDir(), o.idle)
	if err == nil && lab.CNI != idleProfile {
		return 0, hinted{usageError{fmt.Errorf("--idle-cluster: cluster %s has CNI %q, which may enforce policies", o.idle, lab.CNI)}, "another name, or gapproof up --replace --cni " + idleProfile}
	}
	lab, err = a.clusterUp(ctx, upOptions{name: o.idle, topology: kindconfigs.Default, cni: idleProfile})
	if err != nil {
		return 0, err
	}
	if lab.Origin == cluster.Made {
		defer func() {
			_, e := cluster.Down(context.WithoutCancel(ctx), o.idle, a.downOptions())
			err = errors.Join(err, e)
		}()
	}
	run := newRun()
	at, err := a.connect(ctx, target{cluster: o.idle}, run)
	if err != nil {
		return 0, err
	}
	s := a.worldsOf(at, target{cluster: o.idle}, run)
	idle, err := selftest.EnforcesNothing(ctx, s, apply.New(at.Client, run), all, suite.Options{
		Run: run, Log: a.log, Progress: a.done,
		Replay: func(file, attempt string) string { return replay(file, attempt, target{cluster: o.idle}) },
	})
	if err != nil {
		return 0, err
	}
	fmt.Fprintf(a.out, "%s on cluster %s: scenarios: %d, %.0f s\n", partNothing, o.idle, idle.Scenarios, idle.Took.Seconds())
	fmt.Fprintf(a.out, "  promised deny   %6d  seen as a hole  %6d\n", idle.Denies, idle.Holes)
	fmt.Fprintf(a.out, "  promised allow  %6d  passed          %6d\n", idle.Allows, idle.Passes)
	if idle.Skipped > 0 {
		fmt.Fprintf(a.out, "  promised nothing %5d\n", idle.Skipped)
	}
	a.findings(idle.Findings)
	return len(idle.Findings), nil
}

// selfTestFaults runs the part faults and returns how much was wrong.
func (a *app) selfTestFaults(ctx context.Context, lab *cluster.Cluster, o selftestOptions) (int, error) {
	at, err := a.connect(ctx, target{cluster: o.cluster}, "")
	if err != nil {
		return 0, err
	}
	table := selftest.Table()
	if o.short {
		table = slices.DeleteFunc(table, func(f selftest.Fault) bool { return !f.Short })
	}
	started := time.Now()
	var nodes []string
	for _, n := range lab.Nodes {
		nodes = append(nodes, n.Name)
	}
	outcomes, err := selftest.Faults(ctx, selftest.Lab{
		Cluster: at.Cluster, Machines: lab, Nodes: nodes, CNI: lab.CNI, Run: newRun, Progress: a.done,
		Seams: func(through *kube.Cluster, run string) (suite.Worlds, suite.Policies) {
			w := &worlds.Worlds{Cluster: through, Options: fixture.Options{Run: run, Image: at.image, Prefix: "gapproof-" + run + "-", Token: newToken(), Log: a.log}}
			return w, apply.New(through.Client, run)
		},
	}, table)
	if err != nil {
		return 0, err
	}
	fmt.Fprintf(a.out, "%s on cluster %s: %d, %.0f s\n", partFaults, o.cluster, len(outcomes), time.Since(started).Seconds())
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "  FAULT\tBEGINS\tATTEMPTS\tINCONCLUSIVE\tRIGHT\tFALSE PASS\tFALSE FAIL\tTIME\tWHAT WAS DONE")
	wrong := 0
	var all []selftest.Finding
	for _, r := range outcomes {
		wrong += len(r.Findings)
		all = append(all, r.Findings...)
		if r.Skipped != "" {
			fmt.Fprintf(w, "  %s\t-\t-\t-\t-\t-\t-\t-\tskipped: %s\n", r.Fault.Name, r.Skipped)
			continue
		}
		what := r.Fault.Title
		if r.Ended != "" {
			what += "; the run ended without a result"
		}
		fmt.Fprintf(w, "  %s\t%s\t%d\t%d\t%d\t%d\t%d\t%.1f s\t%s\n", r.Fault.Name, r.Fault.Moment, r.Attempts, r.Untold, r.Right,
			r.FalsePasses, r.FalseFailures, r.Took.Seconds(), what)
	}
	if err := w.Flush(); err != nil {
		return wrong, fmt.Errorf("writing the report: %w", err)
	}
	a.findings(all)
	return wrong, nil
}

// findingsShown bounds what is printed: a broken instrument is wrong everywhere in the same way.
const findingsShown = 20

func (a *app) findings(all []selftest.Finding) {
	for i, f := range all {
		if i == findingsShown {
			fmt.Fprintf(a.out, "  … and %d more\n", len(all)-i)
			return
		}
		fmt.Fprintf(a.out, "  WRONG %s\n", strings.TrimSpace(f.String()))
	}
}
