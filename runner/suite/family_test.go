package suite

import (
	"strings"
	"testing"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/scenarios"
)

const bothFamilies = `
apiVersion: gapproof.dev/v1alpha1
kind: Scenario
metadata: {name: both-families, title: nothing reaches x/b over either family}
world:
  namespaces:
    - name: x
      pods:
        - {name: a, labels: {app: a}, ports: [{port: 80, protocol: TCP}]}
        - {name: b, labels: {app: b}, ports: [{port: 80, protocol: TCP}]}
  reach: {families: [IPv4, IPv6]}
policies:
  inline: [{metadata: {name: deny, namespace: x}, spec: {podSelector: {matchLabels: {app: b}}, policyTypes: [Ingress]}}]
expect: {exhaustive: true, allow: [{from: [x/b], to: [x/a]}]}
`

func TestBothFamiliesAreAttemptedJudgedAndShownEnforced(t *testing.T) {
	m := newMemory(t)
	m.dual = true
	rep, err := New(m, m, options()).Run(t.Context(), load(t, bothFamilies))
	if err != nil {
		t.Fatal(err)
	}
	results := map[string]compare.Result{}
	for _, j := range rep.Scenarios[0].Steps[0].Judgements {
		results[j.Attempt.ID] = j.Result
	}
	for _, id := range []string{"x/a>x/b:TCP/80", "x/a>x/b:TCP6/80", "x/b>x/a:TCP/80", "x/b>x/a:TCP6/80"} {
		if results[id] != compare.Pass {
			t.Errorf("%s: %s, want it passed; all are %v", id, results[id], results)
		}
	}
	beacons := map[string]bool{}
	for _, p := range m.packets {
		if strings.HasPrefix(p.pod, "gapproof-beacon") {
			beacons[p.to.Addr().StringExpanded()] = true
		}
	}
	if len(beacons) != 4 {
		t.Errorf("beacons were asked at %v, want both addresses on each of two nodes", beacons)
	}
}

func TestWhatTheClusterHasNoAddressForIsNeitherMadeNorWaitedFor(t *testing.T) {
	m := newMemory(t)
	o := options()
	o.Baseline = 20 * time.Second
	rep, err := New(m, m, o).Run(t.Context(), load(t, bothFamilies))
	if err != nil {
		t.Fatal(err)
	}
	if got := rep.Summary(); got.ExitCode != 0 || got.Pass == 0 || got.Skipped == 0 {
		t.Errorf("summary %+v, want IPv4 passed and IPv6 skipped", got)
	}
	for _, j := range rep.Scenarios[0].Steps[0].Judgements {
		if six := strings.Contains(j.Attempt.ID, "TCP6"); six != (j.Result == compare.Skipped) || six && j.Reason != j.Attempt.Lacking {
			t.Errorf("%s: %s, %s", j.Attempt.ID, j.Result, j.Reason)
		}
	}
	for _, p := range m.packets {
		if !p.to.IsValid() {
			t.Errorf("%s was sent an attempt without an address", p.pod)
		}
	}
	if rep.Took > o.Baseline {
		t.Errorf("the run took %s: its baseline waited for what nobody can make", rep.Took)
	}
}

const fromOutside = `
apiVersion: gapproof.dev/v1alpha1
kind: Scenario
metadata: {name: from-outside, title: the bank may not reach x/b and x/b may not reach the bank}
world:
  namespaces:
    - name: x
      pods:
        - {name: a, labels: {app: a}, ports: [{port: 80, protocol: TCP}]}
        - {name: b, labels: {app: b}, ports: [{port: 80, protocol: TCP}]}
  reach: {outside: [{name: bank, ports: [{port: 443, protocol: TCP}]}]}
policies:
  inline: [{metadata: {name: deny, namespace: x}, spec: {podSelector: {matchLabels: {app: b}}, policyTypes: [Ingress, Egress]}}]
expect: {exhaustive: true, allow: [{from: [x/a, "outside:bank"], to: [x/a]}, {from: [x/a], to: ["outside:bank"]}]}
`

func TestHostsOutsideAreWatchedByTheirOwnAddress(t *testing.T) {
	m := newMemory(t)
	w := newMemoryWitness(m)
	o := options()
	o.Witnesses = w
	rep, err := New(m, m, o).Run(t.Context(), load(t, fromOutside))
	if err != nil {
		t.Fatal(err)
	}
	if got := rep.Summary(); got.ExitCode != 0 || got.Holes+got.Breaks+got.Inconclusive > 0 {
		t.Errorf("summary %+v, want everything passed", got)
	}
	want := map[string]compare.Evidence{
		"outside:bank>x/b:TCP/80": compare.Dropped, "x/b>outside:bank:TCP/443": compare.Dropped,
		"outside:bank>x/a:TCP/80": compare.Delivered, "x/a>outside:bank:TCP/443": compare.Delivered,
	}
	for _, j := range rep.Scenarios[0].Steps[0].Judgements {
		if evidence, asked := want[j.Attempt.ID]; asked && (j.Observed.Evidence != evidence || j.Facts.Level != probes.Full) {
			t.Errorf("%s: %s at level %s, want %s: %s", j.Attempt.ID, j.Observed.Evidence, j.Facts.Level, evidence, j.Observed.Detail)
		}
		delete(want, j.Attempt.ID)
	}
	if len(want) > 0 {
		t.Errorf("not attempted: %v", want)
	}
}

func TestScenariosWithHostsOutsideAreSkippedWhereThereCanBeNone(t *testing.T) {
	m := newMemory(t)
	o := options()
	o.NoOutside = "this cluster is not the lab's"
	rep, err := New(m, m, o).Run(t.Context(), append(load(t, fromOutside), load(t, denyThenAllow)...))
	if err != nil {
		t.Fatal(err)
	}
	if got := rep.Summary(); got.ExitCode != 0 || got.Pass == 0 || got.Scenarios.Skipped != 1 || rep.Scenarios[0].Skipped != o.NoOutside {
		t.Errorf("summary %+v of %+v, want one scenario skipped and the other passed", got, rep.Scenarios)
	}
	for _, p := range m.packets {
		if scenarios.IsOutside(p.pod) {
			t.Errorf("%s sent something", p.pod)
		}
	}
}
