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
		Assess("dead agents and a dead witness give no false pass and no false failure", func(ctx context.Context, t *testing.T, cfg *envconf.Config) context.Context {
			faults := []string{"agent-killed", "agent-stopped", "witness-killed-required"}
			c := gapproof(t, "selftest", "faults", "--cluster", clusterName, "--fault", strings.Join(faults, ","))
			c.wantExit(t, 0)
			out := c.stdout.String()
			t.Logf("\n%s", out)
			// Each row has a name, its moment, and how many attempts were made, came out inconclusive and came out right.
			rows := regexp.MustCompile(`(?m)^  (\S+) +before the round +[1-9]\d* +[1-9]\d* +[1-9]\d* +0 +0 `).FindAllStringSubmatch(out, -1)
			seen := map[string]bool{}
			for _, row := range rows {
				seen[row[1]] = true
			}
			for _, fault := range faults {
				if !seen[fault] {
					t.Errorf("%s has no row with attempts that are inconclusive and attempts that are right, and nothing false", fault)
				}
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
