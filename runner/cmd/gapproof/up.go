package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gapproof/gapproof/images"
	kindconfigs "github.com/gapproof/gapproof/kind-configs"
	"github.com/gapproof/gapproof/runner/cluster"
	"github.com/gapproof/gapproof/runner/cni"
	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/seal/gate"
)

func (a *app) up() *cobra.Command {
	var o upOptions
	c := &cobra.Command{
		Use:   "up",
		Short: "Bring up a kind cluster with a real CNI, everything from the local mirror",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := a.clusterUp(c.Context(), o)
			return err
		},
	}
	c.Flags().StringVar(&o.name, "cluster", defaultCluster, "name of the cluster")
	c.Flags().StringVar(&o.cni, "cni", cni.Default, "pod network, one of "+strings.Join(cni.Names(), ", ")+" (none enforces nothing: for gapproof selftest)")
	c.Flags().StringVar(&o.topology, "topology", kindconfigs.Default, "one of "+strings.Join(kindconfigs.Names(), ", "))
	c.Flags().BoolVar(&o.sealed, "sealed", false, "drop and count whatever leaves the cluster's network, and answer names by a sink that records them (needs root)")
	c.Flags().BoolVar(&o.retain, "retain", false, "leave a cluster that could not be brought up as it is, to be looked at")
	c.Flags().BoolVar(&o.replace, "replace", false, "replace a cluster of this name that was made from another lab, topology or CNI, or not sealed as asked for")
	return c
}

// upOptions are the flags of up.
type upOptions struct {
	name, topology, cni string
	sealed              bool
	retain, replace     bool
}

func (a *app) clusterUp(ctx context.Context, flags upOptions) (*cluster.Cluster, error) {
	profile, err := cni.Find(flags.cni)
	if err != nil {
		return nil, usageError{fmt.Errorf("--cni: %w", err)}
	}
	if err := serves(profile, flags.topology); err != nil {
		return nil, usageError{err}
	}
	lock, err := images.ReadLock(a.labDir())
	if err != nil {
		return nil, hinted{usageError{err}, "gapproof bundle create"}
	}
	if !slices.ContainsFunc(lock.Files, func(f images.File) bool { return f.Path == profile.Manifest }) {
		return nil, hinted{
			usageError{fmt.Errorf("--cni %s: the lab has been made without it: its lock lists no %s", profile.Name, profile.Manifest)},
			"gapproof bundle create --cni " + strings.Join(withProfile(lock, profile.Name), ","),
		}
	}
	if flags.sealed {
		if err := gate.Check(); err != nil {
			return nil, hinted{usageError{fmt.Errorf("--sealed: %w", err)}, "sudo gapproof up --sealed"}
		}
	}
	executable, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding the running program: %w", err)
	}
	started := time.Now()
	o := cluster.Options{
		Name: flags.name, Topology: flags.topology, LabDir: a.labDir(), Lock: lock, StateDir: a.clustersDir(), Executable: executable,
		Log: a.log, Progress: a.step, CNI: profile.Name,
		Install: func(ctx context.Context, c *cluster.Cluster) error { return a.install(ctx, c, profile, lock) },
		Unseal:  unseal,
	}
	if flags.sealed {
		o.Close = closeGate
	}
	if flags.retain {
		o.Retain = cluster.RetainOnFailure
	}
	made, err := cluster.Up(ctx, o)
	if flags.replace && errors.Is(err, cluster.ErrClusterExists) {
		a.waitingFor("replacing the cluster: " + err.Error())
		if _, err := cluster.Down(ctx, flags.name, a.downOptions()); err != nil {
			return nil, clusterError(err)
		}
		made, err = cluster.Up(ctx, o)
	}
	if err != nil {
		return nil, clusterError(err)
	}
	state := "is up"
	if made.Origin == cluster.Found {
		state = "was up already"
		if made.Seal != nil {
			if err := sealWhole(made); err != nil {
				return nil, err
			}
		}
	}
	if made.Seal != nil {
		state += ", sealed"
	}
	fmt.Fprintf(a.err, "cluster %s %s: %d nodes, %s, %.1f s\n", made.Name, state, len(made.Nodes), profile.Name, time.Since(started).Seconds())
	fmt.Fprintf(a.err, "  kubectl --kubeconfig %s get nodes\n", compare.ShellQuote(made.Kubeconfig))
	return made, nil
}

// serves refuses a topology that is unknown, or whose pods have addresses of a family that the CNI cannot give out in a lab.
func serves(profile cni.Profile, name string) error {
	topology, err := kindconfigs.Load(name)
	if err != nil {
		return fmt.Errorf("--topology: %w", err)
	}
	pods, err := kindconfigs.PodSubnets(topology)
	if err != nil {
		return fmt.Errorf("--topology: %w", err)
	}
	if err := profile.Check(pods); err != nil {
		return fmt.Errorf("--cni %s with --topology %s: %w", profile.Name, name, err)
	}
	return nil
}

// withProfile are the profiles that the lab has, and one more. Building a lab without what it had would take it from clusters to come.
func withProfile(lock *images.Lock, more string) []string {
	names := []string{more}
	for _, i := range lock.Images {
		if _, err := cni.Find(i.Profile); err == nil {
			names = append(names, i.Profile)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// install puts the CNI into a cluster whose API server answers.
func (a *app) install(ctx context.Context, c *cluster.Cluster, profile cni.Profile, lock *images.Lock) error {
	config, err := c.RESTConfig()
	if err != nil {
		return err
	}
	return cni.Install(ctx, config, profile, a.labDir(), lock, cni.Options{PodSubnets: c.PodSubnets, Log: a.log, Progress: a.waitingFor})
}

func (a *app) down() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use:   "down",
		Short: "Remove a lab cluster with its mirror, network and files",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			end := a.waiting("removing cluster " + name)
			removed, err := cluster.Down(c.Context(), name, a.downOptions())
			end()
			for _, what := range removed {
				fmt.Fprintf(a.out, "removed %s\n", what)
			}
			if err == nil && len(removed) == 0 {
				fmt.Fprintln(a.out, "nothing to remove")
			}
			return clusterError(err)
		},
	}
	c.Flags().StringVar(&name, "cluster", defaultCluster, "name of the cluster")
	return c
}

func (a *app) kubeconfig() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use:   "kubeconfig",
		Short: "Print the path of a lab cluster's kubeconfig",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			made, err := cluster.Find(a.clustersDir(), name)
			if err != nil {
				return clusterError(err)
			}
			fmt.Fprintln(a.out, made.Kubeconfig)
			return nil
		},
	}
	c.Flags().StringVar(&name, "cluster", defaultCluster, "name of the cluster")
	return c
}

// downOptions are those of every removal of a cluster.
func (a *app) downOptions() cluster.DownOptions {
	return cluster.DownOptions{StateDir: a.clustersDir(), Unseal: unseal, Log: a.log}
}

// clustersDir is where clusters keep their files.
func (a *app) clustersDir() string { return filepath.Join(a.stateDir, "clusters") }

// clusterError makes what the user can mend a usage error with a hint, and names the logs of a failed step.
func clusterError(err error) error {
	var step *cluster.StepError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, cluster.ErrName):
		return usageError{err}
	case errors.Is(err, cluster.ErrNotUp):
		return hinted{usageError{err}, "gapproof up, or name a cluster with --kubeconfig"}
	case errors.Is(err, cluster.ErrClusterExists):
		return hinted{usageError{err}, "gapproof up --replace, or another --cluster name"}
	case errors.As(err, &step) && step.Logs != "":
		return hinted{err, "less " + compare.ShellQuote(step.Logs)}
	}
	return err
}
