package suite

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/gapproof/gapproof/runner/compare"
)

const adminDenies = `
apiVersion: gapproof.dev/v1alpha1
kind: Scenario
metadata: {name: admin-denies, title: nothing reaches x/b until the policy is deleted}
world:
  namespaces:
    - name: x
      pods:
        - {name: a, labels: {app: a}, ports: [{port: 80, protocol: TCP}]}
        - {name: b, labels: {app: b}, ports: [{port: 80, protocol: TCP}]}
policies:
  cluster:
    - metadata: {name: fence}
      spec:
        tier: Admin
        priority: 1
        subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: b}}}}
        ingress: [{action: Deny, from: [{namespaces: {}}]}]
steps:
  - name: denied
    apply: ["*"]
    expect: {deny: [{from: [x/a], to: [x/b]}], allow: [{from: [x/b], to: [x/a]}]}
  - name: deleted
    delete: [fence]
    expect: {allow: [{from: [x/a], to: [x/b]}]}
`

func TestClusterNetworkPoliciesAreAppliedJudgedAndTakenBack(t *testing.T) {
	m := newMemory(t)
	o := options()
	o.Cluster = &memoryCluster{memory: m}
	rep, err := New(m, m, o).Run(t.Context(), load(t, adminDenies))
	if err != nil {
		t.Fatal(err)
	}
	if got := rep.Summary(); got.ExitCode != 0 || got.Pass == 0 || got.Scenarios.Skipped != 0 {
		t.Errorf("summary %+v, want everything passed", got)
	}
	if len(m.cluster) > 0 {
		t.Errorf("policies %v are left", m.cluster)
	}
}

func TestAClusterThatServesThePoliciesAndEnforcesNoneHasHoles(t *testing.T) {
	m := newMemory(t)
	m.toothless = true
	o := options()
	o.Cluster = &memoryCluster{memory: m}
	rep, err := New(m, m, o).Run(t.Context(), load(t, adminDenies))
	if err != nil {
		t.Fatal(err)
	}
	if got := rep.Summary(); got.ExitCode != 1 || got.Holes == 0 {
		t.Errorf("summary %+v, want holes", got)
	}
}

func TestAScenarioWhosePoliciesTheClusterDoesNotServeIsSkippedWithTheReason(t *testing.T) {
	const reason = "the API server does not serve it"
	m := newMemory(t)
	o := options()
	cluster := &memoryCluster{memory: m, missing: reason}
	o.Cluster = cluster
	two := append(load(t, adminDenies), load(t, strings.ReplaceAll(adminDenies, "admin-denies", "again"))...)
	rep, err := New(m, m, o).Run(t.Context(), append(two, load(t, denyThenAllow)...))
	if err != nil {
		t.Fatal(err)
	}
	if got := rep.Summary(); got.ExitCode != 0 || got.Pass == 0 || got.Scenarios.Skipped != 2 || rep.Scenarios[0].Skipped != reason {
		t.Errorf("summary %+v of %+v, want two scenarios skipped and the third passed", got, rep.Scenarios)
	}
	if cluster.asked != 1 {
		t.Errorf("the cluster was asked %d times, want once", cluster.asked)
	}
	ups := m.ups
	if rep, err = New(m, m, options()).Run(t.Context(), two); err != nil {
		t.Fatal(err)
	}
	if got := rep.Summary(); got.ExitCode != 0 || got.Result != compare.Skipped || m.ups != ups {
		t.Errorf("summary %+v after %d worlds, want all skipped without a world", got, m.ups-ups)
	}
}

func TestAnEndedContextStillTakesClusterNetworkPoliciesBack(t *testing.T) {
	m := newMemory(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("interrupted")
	m.dead = func(string) bool {
		if len(m.cluster) > 0 {
			cancel(why)
		}
		return false
	}
	o := options()
	o.Settle = time.Second
	o.Cluster = &memoryCluster{memory: m}
	if _, err := New(m, m, o).Run(ctx, load(t, adminDenies)); !errors.Is(err, why) {
		t.Errorf("error %v, want the cause %v", err, why)
	}
	if len(m.cluster) > 0 || len(m.worlds) > 0 {
		t.Errorf("policies %v and %d worlds are left", m.cluster, len(m.worlds))
	}
}
