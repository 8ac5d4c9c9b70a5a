package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mattfenwick/cyclonus/pkg/connectivity"
	"github.com/mattfenwick/cyclonus/pkg/connectivity/probe"
	"github.com/mattfenwick/cyclonus/pkg/generator"
	"github.com/mattfenwick/cyclonus/pkg/kube"

	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/scenarios"
)

func converted(t testing.TB) []Case {
	t.Helper()
	all, err := cases(filepath.Join(t.TempDir(), "scenarios"), nil)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestEveryCaseOfTheTagBecomesAScenario(t *testing.T) {
	var got []string
	steps := 0
	for _, c := range converted(t) {
		var ports []string
		for _, s := range c.Steps {
			ports = append(ports, strings.Join(s.Ports, ",")+" "+strings.Join(s.Unserved, ","))
		}
		steps += len(c.Steps)
		got = append(got, c.Scenario.Metadata.Name+": "+strings.TrimSpace(strings.Join(ports, "; ")))
	}
	const every = "TCP/80,TCP/81,UDP/80,UDP/81 "
	want := []string{
		"01-should-support-a-default-deny-ingress-policy: " + strings.TrimSpace(every),
		"02-should-support-a-default-deny-all-policy: " + strings.TrimSpace(every),
		"03-should-enforce-policy-based-on-multiple-podselectors-and-nam: " + strings.TrimSpace(every),
		"04-should-enforce-multiple-stacked-policies-with-overlapping-po: " + strings.TrimSpace(every+"; "+every+"; "+every),
		"05-should-support-allow-all-policy: " + strings.TrimSpace(every+"; "+every),
		"06-should-allow-ingress-access-on-one-named-port: " + strings.TrimSpace("TCP/81 ; "+every),
		"07-should-enforce-updated-policy: " + strings.TrimSpace(every+"; "+every),
		"08-should-allow-ingress-access-from-updated-namespace: " + strings.TrimSpace(every+"; "+every),
		"09-should-allow-ingress-access-from-updated-pod: " + strings.TrimSpace(every+"; "+every),
		"10-should-deny-ingress-access-to-updated-pod: " + strings.TrimSpace(every+"; "+every+"x/a"),
		"11-should-work-with-ingress-egress-specified-together: " + strings.TrimSpace(every+"; "+every),
		"12-should-support-denying-of-egress-traffic-on-the-client-side: " + strings.TrimSpace(every),
		"13-should-stop-enforcing-policies-after-they-are-deleted: " + strings.TrimSpace(every+"; "+every),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("scenarios (-want +got):\n%s", diff)
	}
	if steps != 23 {
		t.Errorf("%d steps, want 23", steps)
	}
}

func TestTheRaceIsAbout20StepsOf324Attempts(t *testing.T) {
	o, err := parse(nil, streams{})
	if err != nil {
		t.Fatal(err)
	}
	all, err := cases(t.TempDir(), o.exclude)
	if err != nil {
		t.Fatal(err)
	}
	steps := 0
	for _, c := range all {
		steps += len(c.Steps)
		if got := len(offlinePlan(t, c.Scenario).Attempts); got != 324 {
			t.Errorf("%s: %d attempts, want 324", c.Scenario.Metadata.Name, got)
		}
	}
	if steps != 20 {
		t.Errorf("%d steps, want 20", steps)
	}
}

// TestBothEnginesPromiseTheSame shows that the conversion loses nothing: cyclonus' matcher on its own cases and runner/reach on the scenarios
// agree about every attempt of every step, but for a pod's traffic to itself, which cyclonus does not know to be allowed.
func TestBothEnginesPromiseTheSame(t *testing.T) {
	all := converted(t)
	mock := kube.NewMockKubernetes(1)
	pods, err := probe.NewDefaultResources(mock, worldNamespaces(), worldPods(), []int{80, 81}, worldProtocols(), nil, 1, false, "registry.example")
	if err != nil {
		t.Fatal(err)
	}
	engine := connectivity.NewInterpreter(mock, pods, &connectivity.InterpreterConfig{ResetClusterBeforeTestCase: true})
	originals := generator.NewTestCaseGenerator(true, "192.0.2.1", worldNamespaces(), []string{raceTag}, nil).GenerateTestCases()
	compared := 0
	for i, tc := range originals {
		result := engine.ExecuteTestCase(tc)
		if result.Err != nil {
			t.Fatal(result.Err)
		}
		p := offlinePlan(t, all[i].Scenario)
		for n, step := range result.Steps {
			for j, a := range p.Attempts {
				answer, made := step.SimulatedProbe.Get(a.Source, a.Destination).JobResults[scenarios.FormatPort(protocolOf(a.ID), a.Port)]
				if !made {
					continue
				}
				compared++
				theirs, promise := reach.Deny, p.Steps[n].Promises[j]
				if answer.Combined == probe.ConnectivityAllowed {
					theirs = reach.Allow
				}
				if a.Self() {
					if promise.Verdict() != reach.Allow {
						t.Errorf("%s, step %d, %s: we promise %s, want allow for traffic to itself", tc.Description, n+1, a.ID, promise.Verdict())
					}
					continue
				}
				if theirs != promise.Verdict() {
					t.Errorf("%s, step %d, %s: we promise %s, cyclonus %s", tc.Description, n+1, a.ID, promise.Verdict(), theirs)
				}
			}
		}
	}
	if want := 22*324 + 81; compared != want {
		t.Errorf("compared %d attempts, want %d", compared, want)
	}
}

func TestReplacedLabelsBecomeWhatChanges(t *testing.T) {
	two := "2"
	s := newLabelState(worldFile().Namespaces)
	got, err := s.set("x/a", map[string]string{"target": "2"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]*string{"pod": nil, "target": &two}, got); diff != "" {
		t.Errorf("change (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"x/a"}, s.unserved()); diff != "" {
		t.Errorf("unserved (-want +got):\n%s", diff)
	}
	if got, err = s.set("x/a", map[string]string{"target": "2"}); err != nil || len(got) != 0 {
		t.Errorf("setting the same labels again changes %v (%v), want nothing", got, err)
	}
	if _, err := s.set("x/d", nil); err == nil {
		t.Error("labels of a pod that the world lacks were set")
	}
}

func TestWhatAScenarioCannotSayIsRefused(t *testing.T) {
	for name, step := range map[string]*generator.TestStep{
		"a pod that is created":           generator.NewTestStep(generator.ProbeAllAvailable, generator.CreatePod("x", "d", nil)),
		"a namespace that is deleted":     generator.NewTestStep(generator.ProbeAllAvailable, generator.DeleteNamespace("x")),
		"policies that are only read":     generator.NewTestStep(generator.ProbeAllAvailable, generator.ReadNetworkPolicies(nil)),
		"labels of a pod that is unknown": generator.NewTestStep(generator.ProbeAllAvailable, generator.SetPodLabels("x", "d", nil)),
	} {
		t.Run(name, func(t *testing.T) {
			tc := &generator.TestCase{Description: name, Steps: []*generator.TestStep{step}}
			if _, err := convert(1, tc, worldFile().Namespaces); err == nil {
				t.Error("converted without an error")
			}
		})
	}
}

func TestOtherFilesOfTheDirectoryAreLeftAlone(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "99-other.yaml")
	if err := os.WriteFile(other, []byte("kind: Scenario"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := cases(dir, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(other); err != nil {
		t.Error(err)
	}
}

func TestNamesAreDNSLabels(t *testing.T) {
	for title, want := range map[string]string{
		"should support a 'default-deny-all' policy": "07-should-support-a-default-deny-all-policy",
		"[Feature:NetworkPolicy]":                    "07-feature-networkpolicy",
		"":                                           "07",
		strings.Repeat("a", 59) + " b":               "07-" + strings.Repeat("a", 59),
	} {
		if got := slug(7, title); got != want {
			t.Errorf("%q: %q, want %q", title, got, want)
		}
	}
}
