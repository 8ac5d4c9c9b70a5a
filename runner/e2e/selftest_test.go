package e2e

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/e2e-framework/pkg/envconf"
	"sigs.k8s.io/e2e-framework/pkg/features"
)

func TestInjectedFaultsFoolNobody(t *testing.T) {
	live.Test(t, features.New("faults").
		Assess("the short form ends with no false pass and no false failure", func(ctx context.Context, t *testing.T, cfg *envconf.Config) context.Context {
			c := gapproof(t, "selftest", "faults", "--short", "--cluster", clusterName)
			c.wantExit(t, 0)
			out := c.stdout.String()
			t.Logf("\n%s", out)
			// Each row has a name, its moment, and how many attempts were made, came out inconclusive, came out right and were false.
			row := regexp.MustCompile(`(?m)^  (\S+) +(?:before the|with the) \w+ +(\d+) +(\d+) +(\d+) +0 +0 `)
			rows := map[string][]string{}
			for _, found := range row.FindAllStringSubmatch(out, -1) {
				rows[found[1]] = found[2:]
			}
			for _, fault := range []string{
				"agent-killed", "agent-stopped", "pod-deleted", "listener-dead", "dns-down", "node-paused", "witness-killed", "witness-killed-required",
				"api-5xx-in-the-round",
			} {
				counts, ok := rows[fault]
				if !ok || counts[0] == "0" {
					t.Errorf("%s has no row with attempts and nothing false", fault)
					continue
				}
				if untold := counts[1] != "0"; untold == (fault == "witness-killed") { // without its witness a deny is silent, no less a deny
					t.Errorf("%s: %s of %s attempts are inconclusive", fault, counts[1], counts[0])
				}
			}
			if !strings.Contains(out, "the run ended without a result") {
				t.Error("no run ended for an API server that answers 503 before the policies are applied")
			}
			if !strings.Contains(out, "false passes 0, false failures 0, wrong 0") {
				t.Error("the sum does not say that nothing was false")
			}
			wantNoRunNamespaces(ctx, t, cfg)
			return ctx
		}).
		Assess("gapproof clean lets a process go on that a killed self-test left stopped", func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
			const node = "gapproof-" + clusterName + "-worker"
			if out, err := exec.CommandContext(ctx, "docker", "exec", node, "pkill", "-STOP", "-x", "kube-proxy").CombinedOutput(); err != nil {
				t.Fatalf("stopping kube-proxy: %v: %s", err, out)
			}
			clean := gapproof(t, "clean", "--cluster", clusterName)
			clean.wantExit(t, 0)
			if want := regexp.MustCompile(`continued kube-proxy \(\d+\) on node ` + node); !want.MatchString(clean.stdout.String()) {
				t.Errorf("clean does not say that it continued kube-proxy:\n%s", &clean.stdout)
			}
			again := gapproof(t, "clean", "--cluster", clusterName)
			again.wantExit(t, 0)
			if !strings.Contains(again.stdout.String(), "nothing to remove") {
				t.Errorf("the second clean found something:\n%s", &again.stdout)
			}
			return ctx
		}).Feature())
}

func TestANetworkThatEnforcesNothingIsAllHoles(t *testing.T) {
	const idle = clusterName + "-idle"
	t.Cleanup(func() {
		// The test's context has ended by then.
		if out, err := exec.Command(os.Getenv("GAPPROOF_BIN"), "down", "--cluster", idle).CombinedOutput(); err != nil {
			t.Errorf("removing the cluster: %v: %s", err, out)
		}
	})
	c := gapproof(t, "selftest", "enforces-nothing", "--short", "--idle-cluster", idle)
	c.wantExit(t, 0)
	out := c.stdout.String()
	t.Logf("\n%s", out)
	for _, form := range []string{`promised deny +([1-9]\d*)  seen as a hole +(\d+)`, `promised allow +([1-9]\d*)  passed +(\d+)`} {
		m := regexp.MustCompile(form).FindStringSubmatch(out)
		if m == nil || m[1] != m[2] {
			t.Errorf("%q found %q, want the same number twice, above zero", form, m)
		}
	}
}
