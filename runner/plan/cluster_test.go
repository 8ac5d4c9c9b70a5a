package plan_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/reach"
)

const fence = world + `
policies:
  inline:
  - metadata: {name: web, namespace: "y"}
    spec: {podSelector: {}, ingress: [{}]}
  cluster:
  - metadata: {name: fence}
    spec:
      tier: Admin
      priority: 10
      subject: {namespaces: {}}
      ingress:
      - action: Deny
        from: [{namespaces: {matchLabels: {kubernetes.io/metadata.name: x}}}]
        protocols: [{tcp: {destinationPort: {number: 80}}}]
      egress:
      - {action: Accept, to: [{networks: ["${pod:y/b}"]}, {namespaces: {matchLabels: {kubernetes.io/metadata.name: kube-system}}}]}
  - metadata: {name: floor}
    spec:
      tier: Baseline
      priority: 10
      subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: source}}}}
      ingress: [{action: Deny, from: [{namespaces: {}}]}]
steps:
- {name: all, apply: ["*"]}
- name: replaced
  replaceCluster: [{metadata: {name: fence}, spec: {tier: Admin, priority: 10, subject: {namespaces: {}}}}]
- {name: one, delete: [floor]}
- {name: none, delete: ["*"]}
`

func TestVerdictsOfEveryTierAreDerivedStepByStep(t *testing.T) {
	s := load(t, fence)
	p := build(t, s, offline(t, s))
	for _, c := range []struct {
		step int
		id   string
		want reach.Verdict
	}{
		{0, "x/a>y/c:TCP/80", reach.Deny}, // although y/web admits it
		{0, "x/a>y/b:UDP/81", reach.Allow},
		{0, "y/b>x/a:TCP/80", reach.Deny}, // by the Baseline tier
		{0, "x/a>service:y/web:TCP/8080", reach.Deny},
		{1, "x/a>y/c:TCP/80", reach.Allow},
		{1, "y/b>x/a:TCP/80", reach.Deny},
		{2, "y/b>x/a:TCP/80", reach.Allow},
		{3, "y/b>x/a:TCP/80", reach.Allow},
	} {
		if got := promiseOf(t, p, c.step, c.id).Derived.Verdict; got != c.want {
			t.Errorf("step %s: %s: want %s, got %s", p.Steps[c.step].Name, c.id, c.want, got)
		}
	}
	var changes []string
	for _, step := range p.Steps {
		for _, c := range step.Changes {
			switch {
			case c.ApplyCluster != nil:
				changes = append(changes, step.Name+": apply "+c.ApplyCluster.Spec.Name)
			case c.DeleteCluster != "":
				changes = append(changes, step.Name+": delete "+c.DeleteCluster)
			}
		}
	}
	want := []string{"all: apply fence", "all: apply floor", "replaced: apply fence", "one: delete floor", "none: delete fence"}
	if diff := cmp.Diff(want, changes); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}

func TestAClusterNetworkPolicyReachesNoNamespaceButTheRuns(t *testing.T) {
	s := load(t, fence)
	for _, prefix := range []string{"", "gapproof-r1-"} {
		f := offline(t, s)
		f.Prefix = prefix
		p := build(t, s, f)
		narrowed := []metav1.LabelSelectorRequirement{{Key: "kubernetes.io/metadata.name", Operator: "In", Values: []string{prefix + "x", prefix + "y"}}}
		applied := p.Steps[0].ClusterPolicies
		if len(applied) != 2 || applied[0].Spec.Name != prefix+"fence" || applied[1].Spec.Name != prefix+"floor" {
			t.Fatalf("prefix %q: policies %+v, want fence and floor with the prefix", prefix, applied)
		}
		if diff := cmp.Diff(narrowed, applied[0].Spec.Spec.Subject.Namespaces.MatchExpressions); diff != "" {
			t.Errorf("prefix %q: subject of fence (-want +got):\n%s", prefix, diff)
		}
		if diff := cmp.Diff(narrowed, applied[1].Spec.Spec.Subject.Pods.NamespaceSelector.MatchExpressions); diff != "" {
			t.Errorf("prefix %q: subject of floor (-want +got):\n%s", prefix, diff)
		}
		spec := applied[0].Spec.Spec
		if got := spec.Ingress[0].From[0].Namespaces.MatchLabels["kubernetes.io/metadata.name"]; got != prefix+"x" {
			t.Errorf("prefix %q: the peer names namespace %q, want %q", prefix, got, prefix+"x")
		}
		if got := spec.Egress[0].To[1].Namespaces.MatchLabels["kubernetes.io/metadata.name"]; got != "kube-system" {
			t.Errorf("prefix %q: the peer names namespace %q, want kube-system, which is not the run's", prefix, got)
		}
		if got := spec.Egress[0].To[0].Networks[0]; got != "198.18.0.2/32" {
			t.Errorf("prefix %q: network %q, want the address of y/b", prefix, got)
		}
		if p.Steps[2].Changes[0].DeleteCluster != prefix+"floor" {
			t.Errorf("prefix %q: deleting %q, want floor with the prefix", prefix, p.Steps[2].Changes[0].DeleteCluster)
		}
		if got := promiseOf(t, p, 0, "y/b>dns:web.y").Derived.Verdict; got != reach.Allow {
			t.Errorf("prefix %q: the resolver is subject to the run's policy: %s", prefix, got)
		}
	}
	if s.Policies.LoadedCluster[0].Spec.Spec.Subject.Namespaces.MatchExpressions != nil {
		t.Error("want the scenario's own policy as it was written")
	}
}

func TestAPolicyNameThatTheClusterWouldRefuseIsAFault(t *testing.T) {
	s := load(t, strings.ReplaceAll(fence, "fence", strings.Repeat("f", 250)))
	f := offline(t, s)
	f.Prefix = "gapproof-r1-"
	if _, err := plan.Build(s, f); err == nil || !strings.Contains(err.Error(), "is longer than 253 characters with its prefix") {
		t.Errorf("error %v, want the name told as too long", err)
	}
}

func TestWhatEqualPrioritiesLeaveOpenIsNotJudgedWithoutIntent(t *testing.T) {
	const rivals = world + `
policies:
  cluster:
  - metadata: {name: first}
    spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {}}]}]}
  - metadata: {name: second}
    spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}
`
	s := load(t, rivals)
	promise := promiseOf(t, build(t, s, offline(t, s)), 0, "x/a>y/b:TCP/80")
	if !strings.Contains(promise.Skip, "one priority disagree") {
		t.Errorf("skip %q, want it to say what the API leaves open", promise.Skip)
	}
	s = load(t, rivals+"expect: {allow: [{from: [x/a], to: [y/b]}]}\n")
	if promise := promiseOf(t, build(t, s, offline(t, s)), 0, "x/a>y/b:TCP/80"); promise.Skip != "" {
		t.Errorf("skip %q although the intent says what is wanted", promise.Skip)
	}
}
