package suite

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/report"
	"github.com/gapproof/gapproof/scenarios"
)

const denyThenAllow = `
apiVersion: gapproof.dev/v1alpha1
kind: Scenario
metadata: {name: deny-then-allow, title: nothing reaches x/b until its label says so}
world:
  namespaces:
    - name: x
      pods:
        - {name: a, labels: {app: a}, ports: [{port: 80, protocol: TCP}]}
        - {name: b, labels: {app: b}, ports: [{port: 80, protocol: TCP}, {port: 53, protocol: UDP}]}
policies:
  inline:
    - apiVersion: networking.k8s.io/v1
      kind: NetworkPolicy
      metadata: {name: only-c, namespace: x}
      spec:
        podSelector: {matchLabels: {app: b}}
        policyTypes: [Ingress]
        ingress: [{from: [{podSelector: {matchLabels: {app: c}}}]}]
steps:
  - name: denied
    apply: ["*"]
    expect: {deny: [{from: [x/a], to: [x/b]}], allow: [{from: [x/b], to: [x/a]}]}
  - name: relabelled
    relabel: [{pod: x/a, labels: {app: c}}]
    expect: {allow: [{from: [x/a], to: [x/b]}]}
`

func load(t *testing.T, yaml string) []*scenarios.Scenario {
	t.Helper()
	name := strings.TrimRight(strings.Fields(strings.SplitN(yaml, "{name: ", 2)[1])[0], ",}")
	path := filepath.Join(t.TempDir(), name+".yaml")
	if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := scenarios.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// options are a run with short limits: what is shown does not depend on their length.
func options() Options {
	return Options{
		Run: "test", Deadline: 40 * time.Millisecond, Settle: 5 * time.Second, Baseline: 100 * time.Millisecond,
		Replay: func(file, attempt string) string { return "replay " + attempt },
	}
}

func results(rep *report.Report) map[compare.Result]int {
	count := map[compare.Result]int{}
	for _, s := range rep.Scenarios {
		for _, step := range s.Steps {
			for _, j := range step.Judgements {
				count[j.Result]++
			}
		}
	}
	return count
}

func TestACNIThatFollowsThePoliciesPasses(t *testing.T) {
	m := newMemory(t)
	m.lag = 120 * time.Millisecond // beacons must wait for it
	rep, err := New(m, m, options()).Run(t.Context(), load(t, denyThenAllow))
	if err != nil {
		t.Fatal(err)
	}
	if got := rep.Summary(); got.ExitCode != 0 || got.Pass == 0 {
		t.Errorf("summary %+v, want everything passed", got)
	}
	for _, step := range rep.Scenarios[0].Steps {
		if step.Enforced < m.lag/2 || len(step.Gaps) > 0 {
			t.Errorf("step %s: enforced after %s with gaps %v, want about %s and none", step.Name, step.Enforced, step.Gaps, m.lag)
		}
	}
	if len(m.worlds) > 0 || len(m.policies) > 2 {
		t.Errorf("%d worlds and policies %v are left", len(m.worlds), m.policies)
	}
}

func TestAnEndpointThatLagsBehindItsNodesBeaconIsAGapNotAnAverage(t *testing.T) {
	m := newMemory(t)
	m.slow["x/b"], m.slowLag = true, 600*time.Millisecond
	rep, err := New(m, m, options()).Run(t.Context(), load(t, denyThenAllow))
	if err != nil {
		t.Fatal(err)
	}
	if got := rep.Summary(); got.ExitCode != 0 {
		t.Errorf("summary %+v, want the settled verdicts to pass", got)
	}
	first := rep.Scenarios[0].Steps[0]
	if len(first.Gaps) == 0 || first.Rounds < 3 {
		t.Errorf("gaps %v after %d rounds, want the late endpoint named", first.Gaps, first.Rounds)
	}
	for _, g := range first.Gaps {
		if !strings.Contains(g.AttemptID, "x/b") || g.After < m.slowLag/2 {
			t.Errorf("gap %+v, want one towards x/b of about %s", g, m.slowLag)
		}
	}
}

func TestLabelsThatCountLateAreWaitedForAlsoWhenTheyArePutBack(t *testing.T) {
	m := newMemory(t)
	m.labelLag = confirm + time.Second
	o := options()
	o.Relabelled = 2 * m.labelLag
	again := strings.Replace(denyThenAllow, "deny-then-allow", "deny-again", 1)
	rep, err := New(m, m, o).Run(t.Context(), append(load(t, denyThenAllow), load(t, again)...))
	if err != nil {
		t.Fatal(err)
	}
	if got := rep.Summary(); got.ExitCode != 0 {
		t.Errorf("summary %+v, want the settled verdicts to pass", got)
	}
	for _, late := range []report.Step{rep.Scenarios[0].Steps[1], rep.Scenarios[1].Steps[0]} {
		if len(late.Gaps) == 0 {
			t.Errorf("step %s: no gap, want one of about %s", late.Name, m.labelLag)
		}
		for _, g := range late.Gaps {
			if !strings.HasPrefix(g.AttemptID, "x/a>x/b") || g.After < confirm {
				t.Errorf("step %s: gap %+v, want one from x/a to x/b of about %s", late.Name, g, m.labelLag)
			}
		}
	}
}

func TestADenyThatOpenedAgainIsWatchedUntilItsChangesAreOver(t *testing.T) {
	m := newMemory(t)
	packets, late := 0, 0 // two from x/a to x/b in each round
	m.leaks = func(from, to string, since time.Duration) bool {
		if from != "x/a" || to != "x/b" || len(m.policies) < 3 { // before the step's own policy
			return false
		}
		packets++
		if since > confirm {
			late++
		}
		return packets == 3 || packets == 4 || late == 1 || late == 2
	}
	one := strings.Split(denyThenAllow, "  - name: relabelled")[0]
	rep, err := New(m, m, options()).Run(t.Context(), load(t, one))
	if err != nil {
		t.Fatal(err)
	}
	var hole *compare.Judgement
	for i, j := range rep.Scenarios[0].Steps[0].Judgements {
		if j.Class == compare.Hole {
			hole = &rep.Scenarios[0].Steps[0].Judgements[i]
		}
	}
	if hole == nil || !strings.Contains(hole.Reason, "comes and goes") {
		t.Errorf("hole %+v, summary %+v; want what opened a second time found", hole, rep.Summary())
	}
}

func TestAVerdictThatNeverSettlesIsInconclusive(t *testing.T) {
	m := newMemory(t)
	flips := 0
	m.dead = func(name string) bool { // x/a answers and falls silent in turns
		if name != "x/a" || len(m.policies) < 3 {
			return false
		}
		flips++
		return flips/40%2 == 0
	}
	o := options()
	o.Settle = 600 * time.Millisecond
	rep, err := New(m, m, o).Run(t.Context(), load(t, denyThenAllow))
	if err != nil {
		t.Fatal(err)
	}
	if got := rep.Summary(); got.ExitCode != 3 {
		t.Errorf("exit code %d, want 3: %+v", got.ExitCode, results(rep))
	}
}

func TestADeadDestinationIsInconclusiveNeverDenied(t *testing.T) {
	m := newMemory(t)
	m.dead = func(name string) bool { return name == "x/b" && len(m.policies) == 3 }
	rep, err := New(m, m, options()).Run(t.Context(), load(t, denyThenAllow))
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range rep.Scenarios[0].Steps {
		for _, j := range step.Judgements {
			if strings.Contains(j.Attempt.ID, "x/b") && !j.Attempt.Self() && j.Result != compare.Inconclusive {
				t.Errorf("step %s: %s is %s (%s), want inconclusive", step.Name, j.Attempt.ID, j.Result, j.Reason)
			}
			if j.Result == compare.Inconclusive && j.Replay == "" {
				t.Errorf("%s: no command repeats it", j.Attempt.ID)
			}
		}
	}
	if got := rep.Summary().ExitCode; got != 3 {
		t.Errorf("exit code %d, want 3", got)
	}
}

func TestADenyNeedsADestinationThatIsProvenAlive(t *testing.T) {
	boots := 0
	for _, tc := range []struct {
		name, want string
		ail        func(*probes.Health)
	}{
		{"a listener fails its own check", "failed its self-check", func(h *probes.Health) {
			h.Listeners = []probes.ListenerHealth{{Protocol: probes.TCP, Port: 80, Fault: "closed"}}
		}},
		{"the agent restarts in between", "restarted during the attempt", func(h *probes.Health) {
			boots++
			h.BootID = strings.Repeat("x", boots)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newMemory(t)
			m.ail = func(name string, h *probes.Health) {
				if name == "x/b" {
					tc.ail(h)
				}
			}
			rep, err := New(m, m, options()).Run(t.Context(), load(t, denyThenAllow))
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for _, j := range rep.Scenarios[0].Steps[0].Judgements {
				if j.Attempt.ID != "x/a>x/b:TCP/80" {
					continue
				}
				found = true
				if j.Result != compare.Inconclusive || !strings.Contains(j.Reason, tc.want) {
					t.Errorf("%s is %s (%s), want inconclusive with %q", j.Attempt.ID, j.Result, j.Reason, tc.want)
				}
			}
			if !found {
				t.Error("the denied attempt is not in the report")
			}
		})
	}
}

func TestADenyAtTheAPIServerNeedsOneThatOthersReach(t *testing.T) {
	const scenario = `
apiVersion: gapproof.dev/v1alpha1
kind: Scenario
metadata: {name: governed, title: one pod of two reaches the API server}
world: {namespaces: [{name: x, pods: [{name: a, labels: {app: a}}, {name: b}]}], reach: {apiServer: true}}
policies:
  inline: [{metadata: {name: np, namespace: x}, spec: {podSelector: {matchLabels: {app: a}}, policyTypes: [Egress]}}]
expect:
  deny: [{from: [x/a], to: [api-server]}]
  allow: [{from: [x/b], to: [api-server], ports: [TCP/443]}]
`
	for name, tc := range map[string]struct {
		dies   bool
		a, b   compare.Result
		reason string
	}{
		"it is there":       {false, compare.Pass, compare.Pass, ""},
		"it is not by then": {true, compare.Inconclusive, compare.Inconclusive, "the API server answered 0 of 8 attempts"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemory(t)
			m.dead = func(name string) bool { return tc.dies && name == scenarios.APIServer && m.policies["x/np"].Name != "" }
			rep, err := New(m, m, options()).Run(t.Context(), load(t, scenario))
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]compare.Judgement{}
			for _, j := range rep.Scenarios[0].Steps[0].Judgements {
				got[j.Attempt.ID] = j
			}
			for id, want := range map[string]compare.Result{"x/a>api-server:TCP/443": tc.a, "x/b>api-server:TCP/443": tc.b} {
				if j := got[id]; j.Result != want || want == compare.Inconclusive && !strings.Contains(j.Reason, tc.reason) {
					t.Errorf("%s: want %s with %q, got %s: %s", id, want, tc.reason, j.Result, j.Reason)
				}
			}
		})
	}
}

func TestAPathThatWasNeverProvenIsInconclusive(t *testing.T) {
	m := newMemory(t)
	m.dead = func(name string) bool { return name == "x/b" } // from the start: no baseline
	rep, err := New(m, m, options()).Run(t.Context(), load(t, denyThenAllow))
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range rep.Scenarios[0].Steps[0].Judgements {
		if strings.HasSuffix(j.Attempt.ID, ">x/b:TCP/80") && j.Result != compare.Inconclusive {
			t.Errorf("%s is %s, want inconclusive", j.Attempt.ID, j.Result)
		}
	}
}

func TestAnEndedContextStillRemovesEveryWorld(t *testing.T) {
	m := newMemory(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("interrupted")
	o := options()
	o.Progress = func(what string, _ time.Duration) {
		if strings.HasPrefix(what, "baseline") {
			cancel(why)
		}
	}
	_, err := New(m, m, o).Run(ctx, load(t, denyThenAllow))
	if !errors.Is(err, why) {
		t.Errorf("error %v, want the cause %v", err, why)
	}
	if len(m.worlds) > 0 {
		t.Errorf("%d worlds are left", len(m.worlds))
	}
}

func TestScenariosWithEqualWorldsShareOne(t *testing.T) {
	m := newMemory(t)
	two := append(load(t, denyThenAllow), load(t, strings.ReplaceAll(denyThenAllow, "deny-then-allow", "again"))...)
	rep, err := New(m, m, options()).Run(t.Context(), two)
	if err != nil {
		t.Fatal(err)
	}
	if m.ups != 2 { // the beacons' and the scenarios'
		t.Errorf("%d worlds were brought up, want 2", m.ups)
	}
	if got := rep.Summary(); got.ExitCode != 0 || len(rep.Scenarios) != 2 {
		t.Errorf("summary %+v, want both scenarios passed: the first one's labels and policies were taken back", got)
	}
}

func TestBeaconsThatNeverFlipEndTheRun(t *testing.T) {
	m := newMemory(t)
	m.lag = time.Hour
	o := options()
	o.Enforce = 300 * time.Millisecond
	_, err := New(m, m, o).Run(t.Context(), load(t, denyThenAllow))
	if err == nil || !strings.Contains(err.Error(), "beacons") {
		t.Errorf("error %v, want one that names the beacons", err)
	}
}
