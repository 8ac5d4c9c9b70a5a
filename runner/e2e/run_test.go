package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/e2e-framework/klient/k8s/resources"
	"sigs.k8s.io/e2e-framework/pkg/envconf"
	"sigs.k8s.io/e2e-framework/pkg/features"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/report"
)

// runLabel is the label that every object of a run carries (runner/internal/kube.RunLabel).
const runLabel = "gapproof.dev/run"

// choice is what a short run takes of the catalogue: every field of NetworkPolicy once, on both ends, and a step of each kind of change.
func choice() []string {
	return []string{
		"podSelector/match-expressions.yaml", "namespaceSelector/allow-by-both-selectors.yaml", "namespaceSelector/relabel-namespace.yaml",
		"ipBlock/egress-except.yaml", "policyTypes/default-deny-both-ways.yaml", "ports/end-port.yaml", "ports/named-port.yaml",
		"ports/udp-apart-from-tcp.yaml", "egress/allow-dns-only.yaml", "services/egress-follows-the-backend.yaml",
		"podSelector/relabel-pod.yaml", "steps/replace-and-delete.yaml",
	}
}

func TestEveryCatalogueScenarioHolds(t *testing.T) {
	live.Test(t, features.New("catalogue").
		Assess("every attempt passes with evidence, and nothing is left", func(ctx context.Context, t *testing.T, cfg *envconf.Config) context.Context {
			chosen, least := []string{"scenarios/catalogue"}, 110
			if testing.Short() {
				chosen, least = nil, len(choice())
				for _, name := range choice() {
					chosen = append(chosen, "scenarios/catalogue/"+name)
				}
			}
			evidence := filepath.Join(t.TempDir(), "evidence")
			c := gapproof(t, append([]string{
				"run", "--cluster", clusterName, "--witness", "require", "-o", "json", "--report", t.TempDir(), "--evidence", evidence,
			}, chosen...)...)
			_ = c.Run() // its exit code is looked at once the report has said what did not hold
			t.Logf("\n%s", &c.stderr)
			rep := decode(t, c.stdout.Bytes())
			if len(rep.Scenarios) < least {
				t.Errorf("%d scenarios, want at least %d", len(rep.Scenarios), least)
			}
			for _, d := range rep.Stale {
				t.Errorf("a known difference did not show, take it out of the CNI's baseline: %+v", d)
			}
			allows, denies := 0, 0
			eachJudgement(rep, func(j compare.Judgement) {
				if j.Result != compare.Pass && j.Result != compare.Skipped && j.Known == "" {
					t.Errorf("%s: %s, want pass: %s", j.Attempt.ID, j.Result, j.Reason)
				}
				switch j.Observed.Evidence {
				case compare.Delivered:
					allows++
				case compare.Silent, compare.Rejected, compare.Dropped:
					denies++
					if j.Facts.Control.SourceFault != "" || j.Facts.Control.DestinationFault != "" || j.Facts.Control.BaselineFault != "" {
						t.Errorf("%s: a deny passed without proof: %+v", j.Attempt.ID, j.Facts.Control)
					}
				}
			})
			if code := c.ProcessState.ExitCode(); code != 0 {
				t.Errorf("exit code %d, want 0", code)
			}
			underDeny := false
			for _, s := range rep.Scenarios {
				if s.Name != "default-deny-both-ways" {
					continue
				}
				for _, j := range s.Steps[0].Judgements {
					underDeny = underDeny || j.Observed.Evidence == compare.Dropped
				}
			}
			if !underDeny {
				t.Error("no attempt of default-deny-both-ways was judged: agents under a default deny were not reached")
			}
			if rep.Level != probes.Full.String() {
				t.Errorf("level %q, %s; want that every node's kernel was watched", rep.Level, rep.LevelReason)
			}
			if allows == 0 || denies == 0 {
				t.Errorf("%d allows and %d denies observed; a catalogue that sees only one of them proves nothing", allows, denies)
			}
			if h := rep.Hubble; os.Getenv(cniVariable) == "cilium" && (h == nil || h.Agree == 0 || h.Contradicts > 0) {
				t.Errorf("Hubble's flows: %+v, want some that agree and none that contradict", h)
			}
			s := rep.Summary()
			t.Logf("%d scenarios in %s: %d attempts judged, %.0f verdicts/s; %d allows, %d denies observed, %d skipped", len(rep.Scenarios),
				rep.Took.Round(time.Second), s.Judged(), float64(s.Judged())/rep.Took.Seconds(), allows, denies, s.Skipped)
			started := time.Now()
			verify := gapproof(t, "report", "verify", evidence)
			verify.wantExit(t, 0)
			t.Logf("verified again in %s:\n%s", time.Since(started).Round(time.Second), &verify.stdout)
			wantNoRunNamespaces(ctx, t, cfg)
			return ctx
		}).Feature())
}

func TestAMissingSelectorIsReportedAsAHole(t *testing.T) {
	live.Test(t, features.New("hole").
		Assess("exit code 1, and the deciding policy, rule and field are named", func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
			c := gapproof(t, "run", "--cluster", clusterName, "scenarios/examples")
			c.wantExit(t, 1)
			for _, want := range []string{"hole", "spec.ingress[0].from", "policy bug", "--attempt"} {
				if !strings.Contains(strings.ToLower(c.stdout.String()), want) {
					t.Errorf("the report does not say %q:\n%s", want, &c.stdout)
				}
			}
			t.Logf("\n%s", &c.stdout)
			return ctx
		}).Feature())
}

func TestAKilledAgentIsInconclusiveNeverDenied(t *testing.T) {
	live.Test(t, features.New("killed agent").
		Assess("its attempts are inconclusive and the exit code is 3", func(ctx context.Context, t *testing.T, cfg *envconf.Config) context.Context {
			c := gapproof(t, "run", "--cluster", clusterName, "-o", "json", denyAll(t))
			feed(t, c, "baseline:", func() { deletePods(ctx, t, cfg, "x") })
			c.wantExit(t, 3)
			rep := decode(t, c.stdout.Bytes())
			inconclusive := 0
			eachJudgement(rep, func(j compare.Judgement) {
				dead := strings.HasPrefix(j.Attempt.Source, "x/") || strings.HasPrefix(j.Attempt.Destination, "x/")
				if dead && j.Observed.Verdict.String() == "deny" {
					t.Errorf("%s: an attempt with a dead end counts as denied: %s", j.Attempt.ID, j.Observed.Detail)
				}
				if j.Result == compare.Inconclusive {
					inconclusive++
				}
			})
			if inconclusive == 0 {
				t.Error("no attempt is inconclusive although every agent in x was killed")
			}
			wantNoRunNamespaces(ctx, t, cfg)
			return ctx
		}).Feature())
}

func TestAnInterruptedRunLeavesNothing(t *testing.T) {
	live.Test(t, features.New("interrupt").
		Assess("SIGINT in the middle removes every namespace of the run", func(ctx context.Context, t *testing.T, cfg *envconf.Config) context.Context {
			c := gapproof(t, "run", "--cluster", clusterName, denyAll(t))
			feed(t, c, "baseline:", func() { c.Process.Signal(os.Interrupt) })
			c.wantExit(t, 4)
			wantNoRunNamespaces(ctx, t, cfg)
			return ctx
		}).
		Assess("after SIGKILL, gapproof clean removes them", func(ctx context.Context, t *testing.T, cfg *envconf.Config) context.Context {
			c := gapproof(t, "run", "--cluster", clusterName, denyAll(t))
			feed(t, c, "baseline:", func() { c.Process.Signal(syscall.SIGKILL) })
			c.wantExit(t, -1)
			if len(runNamespaces(ctx, t, cfg)) == 0 {
				t.Fatal("nothing was left by SIGKILL: the test shows nothing")
			}
			clean := gapproof(t, "clean", "--cluster", clusterName)
			clean.wantExit(t, 0)
			wantNoRunNamespaces(ctx, t, cfg)
			return ctx
		}).Feature())
}

func TestAnExistingNamespaceIsNeverAdopted(t *testing.T) {
	live.Test(t, features.New("foreign namespace").
		Assess("exit code 2, nothing created, the namespace as it was", func(ctx context.Context, t *testing.T, cfg *envconf.Config) context.Context {
			mine := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "y", Labels: map[string]string{"mine": "true"}}}
			if err := cfg.Client().Resources().Create(ctx, mine); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { cfg.Client().Resources().Delete(context.WithoutCancel(ctx), mine) })
			c := gapproof(t, "run", "--cluster", clusterName, denyAll(t))
			c.wantExit(t, 2)
			if !strings.Contains(c.stderr.String(), "namespace y: namespace exists already") {
				t.Errorf("stderr does not name the namespace:\n%s", &c.stderr)
			}
			var after corev1.Namespace
			if err := cfg.Client().Resources().Get(ctx, "y", "", &after); err != nil {
				t.Fatal(err)
			}
			if after.Labels["mine"] != "true" || after.Labels[runLabel] != "" || after.DeletionTimestamp != nil {
				t.Errorf("the foreign namespace was changed: %+v", after.ObjectMeta)
			}
			wantNoRunNamespaces(ctx, t, cfg)
			return ctx
		}).Feature())
}

func TestAnotherClusterGetsPrefixedNamespaces(t *testing.T) {
	live.Test(t, features.New("prefix").
		Assess("with --kubeconfig every namespace has the run's prefix and selectors follow", func(ctx context.Context, t *testing.T, cfg *envconf.Config) context.Context {
			config, err := os.ReadFile(cfg.KubeconfigFile())
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "kubeconfig")
			if err := os.WriteFile(path, config, 0o600); err != nil {
				t.Fatal(err)
			}
			c := gapproof(t, "run", "--kubeconfig", path, "--probe-image", probeImage(t), "scenarios/catalogue/namespaceSelector/allow-by-namespace-selector.yaml")
			var seen []string
			feed(t, c, "baseline:", func() { seen = runNamespaces(ctx, t, cfg) })
			c.wantExit(t, 0)
			for _, name := range seen {
				if !strings.HasPrefix(name, "gapproof-") {
					t.Errorf("namespace %s has no prefix", name)
				}
			}
			if len(seen) == 0 {
				t.Error("no namespace of the run was seen")
			}
			return ctx
		}).Feature())
}

func TestAnImageOutsideTheLockIsNeverPulled(t *testing.T) {
	live.Test(t, features.New("image outside the lock").
		Assess("the pull fails at the mirror, and nothing else is asked", func(ctx context.Context, t *testing.T, cfg *envconf.Config) context.Context {
			const image = "registry.example/never/locked:v1"
			pod := &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Name: "outside-the-lock", Namespace: "default"},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}},
			}
			if err := cfg.Client().Resources().Create(ctx, pod); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { cfg.Client().Resources().Delete(context.WithoutCancel(ctx), pod) })
			eventually(t, "the kubelet says that the pull failed", func() (bool, string) {
				var p corev1.Pod
				if err := cfg.Client().Resources().Get(ctx, pod.Name, pod.Namespace, &p); err != nil {
					return false, err.Error()
				}
				for _, s := range p.Status.ContainerStatuses {
					if w := s.State.Waiting; w != nil && strings.Contains(w.Reason, "ImagePull") {
						return true, w.Message
					}
				}
				return false, string(p.Status.Phase)
			})
			asked := false
			for _, a := range mirrorLog(t, cfg) {
				if a.NS == "registry.example" {
					asked = true
					if a.Status != 404 {
						t.Errorf("the mirror answered %d to %+v, want 404", a.Status, a)
					}
				}
			}
			if !asked {
				t.Error("the mirror was not asked for the image")
			}
			return ctx
		}).
		Assess("every image that was pulled came from the mirror", func(ctx context.Context, t *testing.T, cfg *envconf.Config) context.Context {
			served := map[string]bool{}
			for _, a := range mirrorLog(t, cfg) {
				if a.Status == 200 {
					served[a.NS+"/"+a.Repository] = true
				}
			}
			var events corev1.EventList
			if err := cfg.Client().Resources().List(ctx, &events); err != nil {
				t.Fatal(err)
			}
			pulled := 0
			for _, e := range events.Items {
				if e.Reason != "Pulled" || !strings.Contains(e.Message, "Successfully pulled image") {
					continue
				}
				image := strings.Split(e.Message, `"`)[1]
				name := strings.Split(strings.Split(image, "@")[0], ":")[0]
				if !served[name] {
					t.Errorf("%s was pulled, but the mirror did not serve it", image)
				}
				pulled++
			}
			if pulled == 0 {
				t.Error("no pull was seen in the cluster's events")
			}
			return ctx
		}).Feature())
}

// access is one line of the mirror's log.
type access struct {
	NS         string `json:"ns"`
	Repository string `json:"repository"`
	Status     int    `json:"status"`
}

func mirrorLog(t *testing.T, cfg *envconf.Config) []access {
	t.Helper()
	f, err := os.Open(filepath.Join(filepath.Dir(cfg.KubeconfigFile()), "mirror", "access.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []access
	d := json.NewDecoder(f)
	for {
		var a access
		if err := d.Decode(&a); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, a)
	}
}

// denyAll is the path of a scenario in which most attempts are denied, so that a run of it lasts.
func denyAll(t *testing.T) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(checkout(t), "scenarios/catalogue/*/default-deny-both-ways.yaml"))
	if err != nil || len(found) != 1 {
		t.Fatalf("finding the scenario default-deny-both-ways: %v, %v", found, err)
	}
	return found[0]
}

// feed calls then once when a line of the command's stderr contains mark.
func feed(t *testing.T, c *command, mark string, then func()) {
	t.Helper()
	read, write := io.Pipe()
	c.Cmd.Stderr = io.MultiWriter(&c.stderr, write)
	done := make(chan struct{})
	go func() {
		defer close(done)
		called := false
		lines := bufio.NewScanner(read)
		for lines.Scan() {
			if !called && strings.Contains(lines.Text(), mark) {
				called = true
				then()
			}
		}
		if !called {
			t.Errorf("stderr had no line with %q", mark)
		}
	}()
	t.Cleanup(func() { write.Close(); <-done })
}

func decode(t *testing.T, data []byte) *report.Report {
	t.Helper()
	var rep report.Report
	if err := json.Unmarshal(data, &rep); err != nil {
		t.Fatalf("reading the JSON report: %v\n%s", err, data)
	}
	return &rep
}

func eachJudgement(rep *report.Report, visit func(compare.Judgement)) {
	for _, s := range rep.Scenarios {
		for _, step := range s.Steps {
			for _, j := range step.Judgements {
				visit(j)
			}
		}
	}
}

func runNamespaces(ctx context.Context, t *testing.T, cfg *envconf.Config) []string {
	t.Helper()
	var list corev1.NamespaceList
	if err := cfg.Client().Resources().List(ctx, &list, resources.WithLabelSelector(runLabel)); err != nil {
		t.Error(err)
	}
	var names []string
	for _, ns := range list.Items {
		names = append(names, ns.Name)
	}
	return names
}

func wantNoRunNamespaces(ctx context.Context, t *testing.T, cfg *envconf.Config) {
	t.Helper()
	if left := runNamespaces(ctx, t, cfg); len(left) > 0 {
		t.Errorf("namespaces are left: %v", left)
	}
}

// deletePods kills every probe pod of a namespace without grace.
func deletePods(ctx context.Context, t *testing.T, cfg *envconf.Config, namespace string) {
	var pods corev1.PodList
	r := cfg.Client().Resources(namespace)
	if err := r.List(ctx, &pods); err != nil {
		t.Error(err)
		return
	}
	for i := range pods.Items {
		if err := r.Delete(ctx, &pods.Items[i], resources.WithGracePeriod(0)); err != nil {
			t.Error(err)
		}
	}
}

// probeImage is the lab's, by digest.
func probeImage(t *testing.T) string {
	t.Helper()
	c := gapproof(t, "version")
	c.wantExit(t, 0)
	for line := range strings.Lines(c.stdout.String()) {
		if ref, ok := strings.CutPrefix(strings.TrimSpace(line), "image gapproof.dev/probe:"); ok {
			return "gapproof.dev/probe:" + ref
		}
	}
	t.Fatalf("gapproof version lists no probe image:\n%s", &c.stdout)
	return ""
}
