package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gapproof/gapproof/runner/audit"
	"github.com/gapproof/gapproof/runner/explain"
	"github.com/gapproof/gapproof/runner/internal/kube"
	"github.com/gapproof/gapproof/runner/manifest"
	"github.com/gapproof/gapproof/runner/reach"
)

// explainOptions are the flags of explain.
type explainOptions struct {
	files      []string
	namespace  string
	step       string
	kubeconfig string
	context    string
	output     string
	family     string
	podRanges  []string
	role       bool
}

func (a *app) explain() *cobra.Command {
	var o explainOptions
	c := &cobra.Command{
		Use:   "explain SOURCE DESTINATION [PROTOCOL/]PORT",
		Short: "Say whether policies allow one connection, and which field decides",
		Long: `explain derives the verdict on one connection from policies in files (-f: a scenario, or manifests with their workloads) or in a live
cluster, which it only reads: it lists namespaces, pods and networkpolicies, and gets the one Service that is asked for.

SOURCE is namespace/pod or an IP address outside of the cluster; DESTINATION is one of these or service:namespace/name, answered for each
pod behind it, ready or not, on the port policies see. In manifests a workload stands as one pod of its name.

Where both ends have addresses of IPv4 and IPv6 and the two are decided otherwise, each is answered; one that is denied denies the whole.
Files mostly state no addresses of pods, so one is assumed. Where an ipBlock makes the verdict rest on it, the verdict is unknown and a warning
says at which address it would be another; --pod-cidr names the networks that the addresses are of.

The verdict is derived, not observed: gapproof run shows what a cluster really does.

Exit codes: 0 allow, 1 deny, 2 usage or a file that cannot be read, 3 unknown, or no pod stands behind the Service, 4 the cluster could not be
            read.`,
		Example: `  gapproof explain shop/web shop/db 5432 -f deploy/
  gapproof explain 203.0.113.7 service:shop/web TCP/443 -f deploy/
  gapproof explain shop/web kube-system/coredns-abc UDP/53 --context prod
  gapproof explain --rbac | kubectl apply -f -    # the least privilege that it needs`,
		Args: func(c *cobra.Command, args []string) error {
			if o.role {
				return cobra.NoArgs(c, args)
			}
			return cobra.ExactArgs(3)(c, args)
		},
		RunE: func(c *cobra.Command, args []string) error {
			if o.role {
				_, err := io.WriteString(a.out, audit.Role)
				return err
			}
			return a.explainOne(c, args, o)
		},
	}
	c.Flags().StringSliceVarP(&o.files, "file", "f", nil, "a scenario, or manifests: files, directories, - for standard input")
	c.Flags().StringVarP(&o.namespace, "namespace", "n", "default", "namespace of manifests that name none")
	c.Flags().StringVar(&o.step, "step", "", "step of the scenario after which is asked (default the last)")
	c.Flags().StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig of the cluster to read (default as kubectl has it)")
	c.Flags().StringVar(&o.context, "context", "", "context of that kubeconfig")
	c.Flags().StringVarP(&o.output, "output", "o", "text", "text or json")
	c.Flags().StringVar(&o.family, "family", "", "answer for one address family alone: IPv4 or IPv6 (default each that both ends have)")
	c.Flags().StringSliceVar(&o.podRanges, "pod-cidr", nil, "with -f, the cluster's pod networks, for addresses that the files do not state")
	c.Flags().BoolVar(&o.role, "rbac", false, "print the ClusterRole that reading a cluster needs, and end")
	exclusive(c, "file", "kubeconfig")
	return c
}

func (a *app) explainOne(c *cobra.Command, args []string, o explainOptions) error {
	if !slices.Contains([]string{"text", "json"}, o.output) {
		return usageError{fmt.Errorf("--output: %q is not one of text, json", o.output)}
	}
	source, err := explain.ParseSource(args[0])
	if err != nil {
		return usageError{err}
	}
	destination, err := explain.ParseDestination(args[1])
	if err != nil {
		return usageError{err}
	}
	port, err := explain.ParsePort(args[2])
	if err != nil {
		return usageError{err}
	}
	var asked explain.Options
	if asked.Family, err = familyFlag(o.family); err != nil {
		return err
	}
	if asked.PodRanges, err = prefixes("pod-cidr", o.podRanges); err != nil {
		return err
	}
	if len(asked.PodRanges) > 0 && len(o.files) == 0 {
		return usageError{errors.New("--pod-cidr: a cluster states the addresses of its pods; it goes with -f")}
	}
	var set *manifest.Set
	if len(o.files) > 0 {
		set, err = oneSet(c.InOrStdin(), o)
	} else {
		set, err = a.liveSet(c.Context(), destination, o)
	}
	if err != nil {
		return err
	}
	engine, err := set.Compile()
	if err != nil {
		return usageError{fmt.Errorf("compiling the policies: %w", err)}
	}
	report, err := explain.Ask(engine, set, source, destination, port, asked)
	switch {
	case errors.Is(err, explain.ErrNoBackend):
		fmt.Fprintf(a.err, "gapproof: %v\n", err)
		return exitError(exitInconclusive)
	case err != nil:
		return usageError{err}
	}
	if o.output == "json" {
		err = explain.WriteJSON(a.out, report)
	} else {
		err = explain.WriteText(a.out, report)
	}
	if err != nil {
		return err
	}
	switch report.Verdict {
	case reach.Allow:
		return nil
	case reach.Deny:
		return exitError(exitFail)
	default: // it rests on an assumed address: could not tell is no verdict
		return exitError(exitInconclusive)
	}
}

// familyFlag reads --family; without it FirstAddress, which stands for every family.
func familyFlag(s string) (reach.Family, error) {
	for _, f := range []reach.Family{reach.IPv4, reach.IPv6} {
		if strings.EqualFold(s, f.String()) {
			return f, nil
		}
	}
	if s != "" {
		return reach.FirstAddress, usageError{fmt.Errorf("--family: %q is not one of IPv4, IPv6", s)}
	}
	return reach.FirstAddress, nil
}

// oneSet is what the files hold: all manifests, or one scenario after a step.
func oneSet(stdin io.Reader, o explainOptions) (*manifest.Set, error) {
	all, err := readMaterial(stdin, o.files, o.namespace)
	if err != nil {
		return nil, err
	}
	if len(all) != 1 {
		var names []string
		for _, m := range all {
			names = append(names, m.what())
		}
		return nil, hinted{usageError{fmt.Errorf("reading %s: %d worlds (%s)", strings.Join(o.files, ", "), len(all), strings.Join(names, ", "))},
			"name one scenario, or manifests alone"}
	}
	steps := all[0].steps
	if o.step == "" {
		return steps[len(steps)-1].set, nil
	}
	var names []string
	for _, s := range steps {
		if s.name == o.step {
			return s.set, nil
		}
		names = append(names, s.name)
	}
	return nil, hinted{usageError{fmt.Errorf("--step: there is no step %q", o.step)}, "the steps are " + strings.Join(names, ", ")}
}

// what names a material in a sentence.
func (m *material) what() string {
	if m.scenario == "" {
		return "manifests"
	}
	return m.scenario
}

// liveSet reads the cluster, and the Service when one is asked for.
func (a *app) liveSet(ctx context.Context, destination explain.Target, o explainOptions) (*manifest.Set, error) {
	if o.step != "" {
		return nil, usageError{errors.New("--step: a cluster has no steps; it goes with -f")}
	}
	cluster, err := kube.Load(ctx, o.kubeconfig, o.context)
	if err != nil {
		return nil, hinted{err, "gapproof explain … -f FILE, or --kubeconfig FILE"}
	}
	end := a.waiting("reading " + cluster.Context)
	defer end()
	world, policies, err := audit.Read(ctx, cluster.Client)
	if err != nil {
		return nil, readingError(err)
	}
	set := &manifest.Set{World: world, Pods: manifest.SomePods, Addresses: manifest.Real}
	for _, p := range policies {
		set.Policies = append(set.Policies, manifest.Policy{Policy: p})
	}
	if namespace, name, ok := strings.Cut(destination.Service, "/"); ok {
		s, err := audit.ReadService(ctx, cluster.Client, namespace, name)
		if err != nil {
			return nil, readingError(err)
		}
		set.Services = append(set.Services, s)
	}
	return set, nil
}

func readingError(err error) error {
	switch {
	case errors.Is(err, audit.ErrNoService):
		return usageError{err}
	case errors.Is(err, audit.ErrForbidden):
		return hinted{err, "gapproof explain --rbac | kubectl apply -f -"}
	}
	return err
}
