package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gapproof/gapproof/runner/lint"
)

// lintOptions are the flags of lint.
type lintOptions struct {
	output    string
	namespace string
	podRanges []string
	disable   []string
	strict    bool
	rules     bool
}

func (a *app) lint() *cobra.Command {
	var o lintOptions
	c := &cobra.Command{
		Use:   "lint PATH ...",
		Short: "Find mistakes in policies before anything runs",
		Long: `lint reads scenarios, and manifests of NetworkPolicies with or without Namespaces, Services and workloads beside them, and reports what
their authors hardly meant. Manifests of all PATHs are one world; each scenario is its own. "-" is standard input.

What selectors match is judged only when workloads are among the files; whatever they do not hold counts as absent.
A policy that is meant as it is names the rules it is exempt from: annotation ` + lint.IgnoreAnnotation + `: "rule, rule".

Exit codes: 0 nothing of severity error, 1 findings of severity error (with --strict: or warning), 2 a file that cannot be read or
            that the API server would refuse.`,
		Example: `  gapproof lint deploy/                        # policies beside their workloads
  gapproof lint policies/ -o sarif > lint.sarif
  helm template chart | gapproof lint -
  gapproof lint --rules                        # what is looked for, and why`,
		RunE: func(c *cobra.Command, args []string) error {
			if o.rules {
				return a.lintRules()
			}
			return a.lintPaths(c, args, o)
		},
	}
	c.Flags().StringVarP(&o.output, "output", "o", "text", "text, json or sarif")
	c.Flags().StringVarP(&o.namespace, "namespace", "n", "default", "namespace of manifests that name none")
	c.Flags().StringSliceVar(&o.podRanges, "pod-cidr", nil, "the cluster's pod networks, for ipBlocks that cover them")
	c.Flags().StringSliceVar(&o.disable, "disable", nil, "rules that are not reported")
	c.Flags().BoolVar(&o.strict, "strict", false, "exit with 1 for warnings, too")
	c.Flags().BoolVar(&o.rules, "rules", false, "print the rules and end")
	return c
}

func (a *app) lintPaths(c *cobra.Command, args []string, o lintOptions) error {
	switch {
	case len(args) == 0:
		return hinted{usageError{fmt.Errorf("lint wants at least one PATH")}, "gapproof lint ."}
	case !slices.Contains([]string{"text", "json", "sarif"}, o.output):
		return usageError{fmt.Errorf("--output: %q is not one of text, json, sarif", o.output)}
	}
	for _, id := range o.disable {
		if !slices.ContainsFunc(lint.Rules(), func(r lint.Rule) bool { return r.ID == id }) {
			return hinted{usageError{fmt.Errorf("--disable: there is no rule %q", id)}, "gapproof lint --rules"}
		}
	}
	ranges, err := prefixes("pod-cidr", o.podRanges)
	if err != nil {
		return err
	}
	all, err := a.readMaterial(c.Context(), c.InOrStdin(), args, o.namespace)
	if err != nil {
		return err
	}
	var findings []lint.Finding
	for i := range all {
		found, err := lint.CheckSteps(all[i].sets(), lint.Options{PodRanges: ranges})
		if err != nil {
			return usageError{err}
		}
		for _, f := range found {
			if !slices.Contains(o.disable, f.Rule) && !slices.Contains(findings, f) { // a world that scenarios share is found once
				findings = append(findings, f)
			}
		}
	}
	switch o.output {
	case "json":
		err = lint.WriteJSON(a.out, findings)
	case "sarif":
		err = lint.WriteSARIF(a.out, findings, version)
	default:
		err = lint.WriteText(a.out, findings)
	}
	if err != nil {
		return err
	}
	limit := lint.Error
	if o.strict {
		limit = lint.Warning
	}
	if lint.Worst(findings) >= limit {
		return exitError(exitFail)
	}
	return nil
}

func (a *app) lintRules() error {
	for _, r := range lint.Rules() {
		if _, err := fmt.Fprintf(a.out, "%-24s %-8s %s\n%s\n", r.ID, r.Severity, r.Title, indent(r.Why)); err != nil {
			return err
		}
	}
	return nil
}

func indent(s string) string { return "  " + strings.ReplaceAll(s, "\n", "\n  ") }
