package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/e2e-framework/pkg/envconf"
	"sigs.k8s.io/e2e-framework/pkg/features"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/plan"
)

// seen counts the evidence of judged attempts, all of which must have passed or been skipped.
func seen(t *testing.T, out []byte, of func(compare.Judgement) string) map[string]int {
	t.Helper()
	counts := map[string]int{}
	eachJudgement(decode(t, out), func(j compare.Judgement) {
		if j.Result != compare.Pass && j.Result != compare.Skipped {
			t.Errorf("%s: %s, want pass: %s", j.Attempt.ID, j.Result, j.Reason)
		}
		if what := of(j); what != "" && j.Result == compare.Pass {
			counts[what+" "+j.Observed.Evidence.String()]++
		}
	})
	return counts
}

// wantSome fails the test where nothing was seen of one of these.
func wantSome(t *testing.T, counts map[string]int, what ...string) {
	t.Helper()
	for _, w := range what {
		if counts[w] == 0 {
			t.Errorf("nothing was %q; seen: %v", w, counts)
		}
	}
}

func TestHostsOutsideAndSCTPAreProven(t *testing.T) {
	live.Test(t, features.New("outside and SCTP").
		Assess("both ways are delivered and dropped, the evidence verifies, and no host is left", func(ctx context.Context, t *testing.T, cfg *envconf.Config) context.Context {
			dir := filepath.Join(t.TempDir(), "evidence")
			c := gapproof(t, "run", "--cluster", clusterName, "--witness", "require", "-o", "json", "--evidence", dir,
				"scenarios/catalogue/outside", "scenarios/catalogue/ports/sctp-between-pods.yaml")
			c.wantExit(t, 0)
			counts := seen(t, c.stdout.Bytes(), func(j compare.Judgement) string {
				switch {
				case j.Attempt.Kind == plan.OutsideIP:
					return "to outside by " + j.Attempt.Protocol.String()
				case j.Attempt.FromOutside() && j.Attempt.Kind == plan.NodePort:
					return "from outside at a node port"
				case j.Attempt.FromOutside():
					return "from outside by " + j.Attempt.Protocol.String()
				case j.Attempt.Protocol == probes.SCTP:
					return "SCTP"
				}
				return ""
			})
			wantSome(t, counts, "to outside by TCP delivered", "to outside by TCP dropped", "to outside by UDP delivered", "to outside by ICMP delivered",
				"from outside by TCP delivered", "from outside by TCP dropped", "from outside by ICMP delivered",
				"from outside at a node port delivered", "from outside at a node port silent", "SCTP delivered", "SCTP dropped")
			gapproof(t, "report", "verify", dir).wantExit(t, 0)
			wantNoRunNamespaces(ctx, t, cfg)
			wantNoHostOutside(ctx, t)
			return ctx
		}).Feature())
}

func TestAKilledRunsHostsOutsideAreCleaned(t *testing.T) {
	live.Test(t, features.New("killed run outside").
		Assess("gapproof clean removes what SIGKILL left", func(ctx context.Context, t *testing.T, cfg *envconf.Config) context.Context {
			c := gapproof(t, "run", "--cluster", clusterName, "scenarios/catalogue/outside/default-deny-at-the-border.yaml")
			feed(t, c, "baseline:", func() { c.Process.Kill() })
			if err := c.Run(); err == nil {
				t.Fatal("the run ended before it could be killed")
			}
			clean := gapproof(t, "clean", "--cluster", clusterName)
			clean.wantExit(t, 0)
			if !strings.Contains(clean.stdout.String(), "-outside-") {
				t.Errorf("clean does not say that it removed hosts outside:\n%s", &clean.stdout)
			}
			wantNoRunNamespaces(ctx, t, cfg)
			wantNoHostOutside(ctx, t)
			return ctx
		}).Feature())
}

// wantNoHostOutside looks for containers of runs.
func wantNoHostOutside(ctx context.Context, t *testing.T) {
	t.Helper()
	out, err := exec.CommandContext(ctx, "docker", "ps", "--all", "--quiet", "--filter", "label="+runLabel).Output()
	if err != nil {
		t.Fatalf("listing containers: %v", err)
	}
	if left := strings.Fields(string(out)); len(left) > 0 {
		t.Errorf("containers %v are left", left)
	}
}

func TestBothFamiliesHoldOnADualStackCluster(t *testing.T) {
	const dual = clusterName + "-dual"
	down := func() {
		// The test's context has ended by then.
		out, err := exec.Command(os.Getenv("GAPPROOF_BIN"), "down", "--cluster", dual).CombinedOutput()
		if err != nil {
			t.Errorf("removing the cluster: %v: %s", err, out)
		}
	}
	t.Cleanup(down)
	gapproof(t, "down", "--cluster", dual).wantExit(t, 0)
	gapproof(t, "up", "--sealed", "--cluster", dual, "--topology", "one-worker-dual-stack").wantExit(t, 0) // sealed, which changes no verdict
	dir := filepath.Join(t.TempDir(), "evidence")
	statement, key := filepath.Join(t.TempDir(), "seal.dsse.json"), filepath.Join(t.TempDir(), "release")
	gapproof(t, "bundle", "key", "--no-passphrase", "-o", key).wantExit(t, 0)
	c := gapproof(t, "run", "--cluster", dual, "--witness", "require", "-o", "json", "--evidence", dir, "--seal", "require",
		"--statement", statement, "--key", key+".key", "scenarios/catalogue/families")
	c.wantExit(t, 0)
	t.Logf("\n%s", &c.stderr)
	counts := seen(t, c.stdout.Bytes(), func(j compare.Judgement) string {
		if j.Attempt.Lacking != "" {
			t.Errorf("%s: %s", j.Attempt.ID, j.Attempt.Lacking)
		}
		if j.Attempt.Kind == plan.ClusterIP {
			return j.Attempt.Family.String() + " Service"
		}
		return j.Attempt.Family.String() + " " + j.Attempt.Protocol.String()
	})
	for _, family := range []string{"IPv4", "IPv6"} {
		wantSome(t, counts, family+" TCP delivered", family+" TCP dropped", family+" UDP delivered", family+" UDP dropped", family+" Service delivered",
			family+" ICMP delivered", family+" DNS delivered", family+" DNS dropped")
	}
	if seal := decode(t, c.stdout.Bytes()).Seal; seal == nil || seal.Verdict != "SEALED" {
		t.Errorf("the report says of the seal: %+v, want SEALED", seal)
	}
	gapproof(t, "report", "verify", dir).wantExit(t, 0)
	verify := gapproof(t, "seal", "verify", statement, "--key", key+".pub", "--subject", filepath.Join(dir, "manifest.json"))
	verify.wantExit(t, 0)
	t.Logf("\n%s", &verify.stdout)
	sealHoldsAndItsBreachesAreFound(t, dual)
}
