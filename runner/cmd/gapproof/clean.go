package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"k8s.io/client-go/dynamic"

	"github.com/gapproof/gapproof/runner/apply"
	"github.com/gapproof/gapproof/runner/cluster"
	"github.com/gapproof/gapproof/runner/fixture"
	"github.com/gapproof/gapproof/runner/internal/kube"
)

func (a *app) clean() *cobra.Command {
	var t target
	var id string
	c := &cobra.Command{
		Use:   "clean",
		Short: "Remove what runs left whose process was killed",
		Long: `clean removes every namespace, every ClusterNetworkPolicy and every host outside the cluster that carries a run's label. Nodes
that a killed self-test left paused, and processes that it left stopped, go on. Runs clean up after themselves, also on Ctrl-C; this is
for those that were killed.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var hosts, woken []string
			path := t.kubeconfig
			if path == "" && t.context == "" {
				lab, err := cluster.Find(a.clustersDir(), t.cluster)
				if err != nil {
					return clusterError(err)
				}
				path = lab.Kubeconfig
				woken, err = lab.UnpauseAll(c.Context())
				for _, node := range woken {
					fmt.Fprintf(a.out, "unpaused node %s\n", node)
				}
				if err != nil {
					return err
				}
				continued, err := lab.ContinueAll(c.Context())
				for _, process := range continued {
					fmt.Fprintf(a.out, "continued %s\n", process)
				}
				if err != nil {
					return err
				}
				woken = append(woken, continued...)
				if hosts, err = cluster.CleanOutside(c.Context(), a.clustersDir(), t.cluster, id); err != nil {
					return err
				}
			}
			at, err := kube.Load(c.Context(), path, t.context)
			if err != nil {
				return err
			}
			objects, err := dynamic.NewForConfig(at.Config)
			if err != nil {
				return err
			}
			end := a.waiting("removing policies and namespaces")
			policies, fault := apply.CleanCluster(c.Context(), objects, at.Client.Discovery(), id)
			namespaces, err := fixture.Clean(c.Context(), at.Client, id)
			end()
			for _, host := range hosts {
				fmt.Fprintf(a.out, "removed %s\n", host)
			}
			for _, name := range policies {
				fmt.Fprintf(a.out, "removed ClusterNetworkPolicy %s\n", name)
			}
			for _, name := range namespaces {
				fmt.Fprintf(a.out, "removed namespace %s\n", name)
			}
			if err = errors.Join(fault, err); err == nil && len(woken)+len(hosts)+len(policies)+len(namespaces) == 0 {
				fmt.Fprintln(a.out, "nothing to remove")
			}
			return err
		},
	}
	t.flags(c)
	c.Flags().StringVar(&id, "run", "", "only what this run left (default: every run)")
	return c
}
