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

// worker is kind's role of a node that the cluster lives without for a while.
const worker = "worker"

// selftestOptions are the flags of selftest.
type selftestOptions struct {
	cluster, idle string
	short         bool
	faults        []string
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
                    with the right reason, everything else right. They stop processes and pause a node, so only a cluster made by
                    gapproof up is ever used.

Without an argument both run. Each fault has a run of its own; one whose unharmed verdicts could not be told on a busy host is injected
again, up to three times, and its line says so.

Exit codes: 0 not fooled, 1 a verdict was wrong, 4 infrastructure.`,
		ValidArgs: []string{partNothing, partFaults},
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = []string{partNothing, partFaults}
			}
			for _, arg := range args {
				if arg != partNothing && arg != partFaults {
					return hinted{usageError{fmt.Errorf("%q is not a part of the self-test: %s or %s", arg, partNothing, partFaults)}, c.CommandPath() + " --help"}
				}
			}
			table, err := chosen(selftest.Table(), o)
			if err != nil {
				return err
			}
			return a.selfTest(c.Context(), args, o, table)
		},
	}
	c.Flags().StringVar(&o.cluster, "cluster", defaultCluster, "lab cluster made by gapproof up, to be broken by the faults")
	c.Flags().StringVar(&o.idle, "idle-cluster", "selftest", "lab cluster with --cni "+idleProfile+"; brought up when it is not there")
	c.Flags().BoolVar(&o.short, "short", false, "a few scenarios and the most telling faults")
	c.Flags().StringSliceVar(&o.faults, "fault", nil, "only these faults, by name")
	exclusive(c, "short", "fault")
	return c
}

// chosen are the faults that the flags ask for, in the table's order.
func chosen(table []selftest.Fault, o selftestOptions) ([]selftest.Fault, error) {
	var unknown, names []string
	for _, f := range table {
		names = append(names, f.Name)
	}
	for _, name := range o.faults {
		if !slices.Contains(names, name) {
			unknown = append(unknown, name)
		}
	}
	if len(unknown) > 0 {
		return nil, usageError{fmt.Errorf("--fault: there is no %s; there are %s", strings.Join(unknown, ", "), strings.Join(names, ", "))}
	}
	return slices.DeleteFunc(table, func(f selftest.Fault) bool {
		return o.short && !f.Short || len(o.faults) > 0 && !slices.Contains(o.faults, f.Name)
	}), nil
}

func (a *app) selfTest(ctx context.Context, parts []string, o selftestOptions, table []selftest.Fault) error {
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
		found, err := a.selfTestFaults(ctx, lab, o.cluster, table)
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
	// One fault pauses a node, and without the API server's nobody could be asked anything.
	if !slices.ContainsFunc(lab.Nodes, func(n cluster.Node) bool { return n.Role == worker }) {
		return nil, hinted{usageError{fmt.Errorf("cluster %s has topology %s, without a worker that can be broken apart from the control plane", name, lab.Topology)},
			"gapproof up --replace --topology " + kindconfigs.Default}
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

// selfTestFaults runs the part faults and returns how much was wrong. What came of the faults is printed also beside an error.
func (a *app) selfTestFaults(ctx context.Context, lab *cluster.Cluster, name string, table []selftest.Fault) (int, error) {
	at, err := a.connect(ctx, target{cluster: name}, "")
	if err != nil {
		return 0, err
	}
	started := time.Now()
	var nodes []string
	for _, n := range lab.Nodes {
		nodes = append(nodes, n.Name)
	}
	outcomes, err := selftest.Faults(ctx, selftest.Lab{
		Cluster: at.Cluster, Machines: lab, Nodes: nodes, CNI: lab.CNI, Run: newRun, Progress: a.done,
		Seams: func(through *kube.Cluster, run string, w selftest.Witness) (selftest.Seams, error) {
			of := &worlds.Worlds{Cluster: through, Options: fixture.Options{Run: run, Image: at.image, Prefix: "gapproof-" + run + "-", Token: newToken(), Log: a.log}}
			mode := map[selftest.Witness]witnessMode{
				selftest.WitnessOff: witnessOff, selftest.WitnessAuto: witnessAuto, selftest.WitnessRequire: witnessRequire,
			}[w]
			watching, none, err := a.witnesses(of, at.witness, mode)
			if err == nil && w != selftest.WitnessOff && watching == nil {
				err = errors.New(none)
			}
			return selftest.Seams{Worlds: of, Policies: apply.New(through.Client, run), Witnesses: watching, Least: mode.least()}, err
		},
	}, table)
	if len(outcomes) == 0 {
		return 0, err
	}
	fmt.Fprintf(a.out, "%s on cluster %s: %d, %.0f s\n", partFaults, name, len(outcomes), time.Since(started).Seconds())
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "  FAULT\tBEGINS\tATTEMPTS\tINCONCLUSIVE\tRIGHT\tFALSE PASS\tFALSE FAIL\tTIME\tWHAT WAS DONE")
	wrong, passes, failures := 0, 0, 0
	var all []selftest.Finding
	for _, r := range outcomes {
		wrong, passes, failures = wrong+len(r.Findings), passes+r.FalsePasses, failures+r.FalseFailures
		all = append(all, r.Findings...)
		if r.Skipped != "" {
			fmt.Fprintf(w, "  %s\t-\t-\t-\t-\t-\t-\t-\t%s\n", r.Fault.Name, r.Skipped)
			continue
		}
		what := r.Fault.Title
		if r.Tries > 1 {
			what += fmt.Sprintf("; %d times, as the host was busy", r.Tries)
		}
		if r.Ended != "" {
			what += "; the run ended without a result"
		}
		fmt.Fprintf(w, "  %s\t%s\t%d\t%d\t%d\t%d\t%d\t%.1f s\t%s\n", r.Fault.Name, r.Fault.Moment, r.Attempts, r.Untold, r.Right,
			r.FalsePasses, r.FalseFailures, r.Took.Seconds(), what)
	}
	if e := w.Flush(); e != nil {
		return wrong, errors.Join(err, fmt.Errorf("writing the report: %w", e))
	}
	fmt.Fprintf(a.out, "  false passes %d, false failures %d, wrong %d\n", passes, failures, wrong)
	a.findings(all)
	return wrong, err
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
