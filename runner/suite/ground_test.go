package suite

import (
	"slices"
	"strings"
	"testing"

	"github.com/gapproof/gapproof/runner/compare"
)

// remadeWorld has two callers of x/b, of which the policy admits one by its label.
const remadeWorld = `
apiVersion: gapproof.dev/v1alpha1
kind: Scenario
metadata: {name: made-again, title: x/b is made again while a policy holds}
world:
  namespaces:
    - name: x
      pods:
        - {name: a, labels: {app: a}}
        - {name: b, labels: {app: b}}
        - {name: c, labels: {app: c}}
policies:
  inline:
    - metadata: {name: only, namespace: x}
      spec:
        podSelector: {matchLabels: {app: b}}
        policyTypes: [Ingress]
        ingress: [{from: [{podSelector: {matchLabels: {app: ADMITTED}}}]}]
steps:
  - name: denied
    apply: ["*"]
  - name: again
    CHANGE
`

func made(t *testing.T, admitted, change string) map[string]compare.Judgement {
	t.Helper()
	m := newMemory(t)
	rep, err := New(m, m, options()).Run(t.Context(), load(t, strings.NewReplacer("ADMITTED", admitted, "CHANGE", change).Replace(remadeWorld)))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]compare.Judgement{}
	for _, j := range rep.Scenarios[0].Steps[1].Judgements {
		out[j.Attempt.ID] = j
	}
	return out
}

func TestADenyToAPodThatWasMadeAgainStandsOnAControl(t *testing.T) {
	for _, tc := range []struct {
		name, admitted, change, id string
		want                       compare.Result
		reason                     string
	}{
		{"another source was answered by the new pod", "c", "restart: [x/b]", "x/a>x/b:TCP/80", compare.Pass, "x/c>x/b:TCP/80 delivered in the same round"},
		{"the new pod answers nobody", "nobody", "restart: [x/b]", "x/a>x/b:TCP/80", compare.Inconclusive, "x/b was made again since, and nothing was delivered to it"},
		{"the new source reached another pod", "nobody", "restart: [x/a]", "x/a>x/b:TCP/80", compare.Pass, "x/a>x/c:TCP/80 delivered in the same round"},
		{"what is allowed needs no control", "c", "restart: [x/b]", "x/c>x/b:TCP/80", compare.Pass, "answered"},
		{"a path without new pods still has its baseline", "nobody", "restart: [x/c]", "x/a>x/b:TCP/80", compare.Pass, "open before the policies"},
		{"a pod that is gone is skipped", "c", "scale: [{pod: x/b, replicas: 0}]", "x/a>x/b:TCP/80", compare.Skipped, "x/b is not there after this step"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			j, ok := made(t, tc.admitted, tc.change)[tc.id]
			if !ok || j.Result != tc.want || !strings.Contains(j.Reason, tc.reason) {
				t.Errorf("%s is %s (%s), want %s with %q", tc.id, j.Result, j.Reason, tc.want, tc.reason)
			}
		})
	}
}

func TestAfterPodsWereMadeAgainEveryLaterScenarioGoesToTheirNewAddresses(t *testing.T) {
	m := newMemory(t)
	again := strings.NewReplacer("ADMITTED", "c", "CHANGE", "restart: [x/b]").Replace(remadeWorld)
	still := strings.NewReplacer("ADMITTED", "c", "  - name: again\n    CHANGE\n", "").Replace(remadeWorld)
	all := load(t, again)
	for _, name := range []string{"second", "third"} {
		all = append(all, load(t, strings.ReplaceAll(still, "made-again", name))...)
	}
	rep, err := New(m, m, options()).Run(t.Context(), all)
	if err != nil {
		t.Fatal(err)
	}
	if got := rep.Summary(); got.ExitCode != 0 || len(rep.Scenarios) != 3 {
		t.Errorf("summary %+v, want three scenarios passed", got)
	}
	address := func(n int) string {
		j := rep.Scenarios[n].Steps[len(rep.Scenarios[n].Steps)-1].Judgements
		return j[slices.IndexFunc(j, func(j compare.Judgement) bool { return j.Attempt.ID == "x/c>x/b:TCP/80" })].Attempt.Address.String()
	}
	if address(1) != address(2) {
		t.Errorf("the second scenario went to x/b at %s, the third to %s", address(1), address(2))
	}
}

func TestAfterPodsWereMadeAgainTheNextScenarioHasABaselineOfItsOwn(t *testing.T) {
	m := newMemory(t)
	yaml := strings.NewReplacer("ADMITTED", "c", "CHANGE", "scale: [{pod: x/b, replicas: 0}]").Replace(remadeWorld)
	two := append(load(t, yaml), load(t, strings.ReplaceAll(yaml, "made-again", "after-it"))...)
	rep, err := New(m, m, options()).Run(t.Context(), two)
	if err != nil {
		t.Fatal(err)
	}
	if got := rep.Summary(); got.ExitCode != 0 || len(rep.Scenarios) != 2 {
		t.Errorf("summary %+v, want both scenarios passed: the pod came back, and its new address has a baseline", got)
	}
	if m.ups != 2 {
		t.Errorf("%d worlds were brought up, want the beacons' and one", m.ups)
	}
}
