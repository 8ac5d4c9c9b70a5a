package plan_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/scenarios"
	"github.com/gapproof/gapproof/scenarios/catalogue"
)

// world is two namespaces: x with a source, y with two pods behind a Service.
const world = `
world:
  namespaces:
  - name: x
    pods:
    - {name: a, labels: {app: source}, node: a}
  - name: "y"
    labels: {tier: web}
    pods:
    - {name: b, labels: {app: web}, node: b, ports: [{port: 81, protocol: UDP}, {port: 80}]}
    - {name: c, labels: {app: web, blue: "yes"}, node: b}
  services:
  - {name: web, namespace: "y", selector: {app: web}, ports: [{port: 8080, targetPort: 80}], lookup: true}
`

// load reads one scenario named t whose text follows the metadata.
func load(tb testing.TB, body string) *scenarios.Scenario {
	tb.Helper()
	text := "apiVersion: gapproof.dev/v1alpha1\nkind: Scenario\nmetadata: {name: t}\n" + body
	list, err := scenarios.LoadFS(fstest.MapFS{"t.yaml": {Data: []byte(text)}}, "t.yaml")
	if err != nil {
		tb.Fatalf("loading: %v", err)
	}
	return list[0]
}

func offline(tb testing.TB, s *scenarios.Scenario) plan.Facts {
	tb.Helper()
	f, err := plan.Offline(s)
	if err != nil {
		tb.Fatal(err)
	}
	return f
}

func build(tb testing.TB, s *scenarios.Scenario, f plan.Facts) *plan.Plan {
	tb.Helper()
	p, err := plan.Build(s, f)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func promiseOf(tb testing.TB, p *plan.Plan, step int, id string) plan.Promise {
	tb.Helper()
	n := slices.IndexFunc(p.Attempts, func(a plan.Planned) bool { return a.ID == id })
	if n < 0 {
		tb.Fatalf("no attempt %s", id)
	}
	return p.Steps[step].Promises[n]
}

func TestEveryPodTriesEveryListenerServiceAndName(t *testing.T) {
	p := build(t, load(t, world), offline(t, load(t, world)))
	var got []string
	for _, a := range p.Attempts {
		got = append(got, a.ID)
	}
	destinations := []string{"x/a:TCP/80", "y/b:TCP/80", "y/b:UDP/81", "y/c:TCP/80", "service:y/web:TCP/8080", "dns:web.y"}
	var want []string
	for _, source := range []string{"x/a", "y/b", "y/c"} {
		for _, d := range destinations {
			want = append(want, source+">"+d)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("attempts (-want +got):\n%s", diff)
	}
	if !p.Invented {
		t.Error("a plan from invented facts is not marked as such")
	}
}

func TestAttemptsCarryWhatTheAgentNeeds(t *testing.T) {
	s := load(t, world)
	p := build(t, s, offline(t, s))
	want := []plan.Planned{
		{
			ID: "x/a>service:y/web:TCP/8080", Source: "x/a", Destination: "service:y/web", Kind: plan.ClusterIP, Protocol: 1, Port: 8080,
			Address: netip.MustParseAddrPort("198.19.0.1:8080"), Responders: []string{"y/b", "y/c"},
		},
		{
			ID: "x/a>dns:web.y", Source: "x/a", Destination: "dns:web.y", Kind: plan.Lookup, Protocol: 5,
			Name: "web.y.svc.cluster.local.", Answers: []netip.Addr{netip.MustParseAddr("198.19.0.1")},
		},
	}
	if diff := cmp.Diff(want, p.Attempts[4:6], cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("attempts (-want +got):\n%s", diff)
	}
	for id, want := range map[string]bool{"y/b>y/c:TCP/80": true, "x/a>y/b:TCP/80": false, "y/b>service:y/web:TCP/8080": true} {
		n := slices.IndexFunc(p.Attempts, func(a plan.Planned) bool { return a.ID == id })
		if got := p.Attempts[n].SameNode; got != want {
			t.Errorf("%s: same node is %t, want %t", id, got, want)
		}
	}
}

// denyB isolates y/b for ingress.
const denyB = `
policies:
  inline:
  - metadata: {name: deny-c, namespace: "y"}
    spec: {podSelector: {matchLabels: {blue: "yes"}}, policyTypes: [Ingress]}
`

func TestServicesAreJudgedOnTheirBackends(t *testing.T) {
	t.Run("backends that differ give no verdict and a reason", func(t *testing.T) {
		s := load(t, world+denyB)
		got := promiseOf(t, build(t, s, offline(t, s)), 0, "x/a>service:y/web:TCP/8080")
		if got.Derived.Verdict != reach.Unknown || got.Skip == "" {
			t.Errorf("got %v, skip %q, want unknown with a reason", got.Derived.Verdict, got.Skip)
		}
		for _, want := range []string{"allow y/b", "deny y/c"} {
			if !strings.Contains(got.Skip, want) {
				t.Errorf("skip %q does not say %q", got.Skip, want)
			}
		}
	})
	t.Run("a person's word about them is still judged", func(t *testing.T) {
		s := load(t, world+denyB+`
expect: {deny: [{from: [x/a], to: ["service:y/web"]}]}
`)
		got := promiseOf(t, build(t, s, offline(t, s)), 0, "x/a>service:y/web:TCP/8080")
		if got.Skip != "" || got.Verdict() != reach.Deny || got.Derived.Verdict != reach.Unknown {
			t.Errorf("got %+v, want an intended deny, not skipped, nothing derived", got)
		}
	})
	t.Run("a pod behind its own Service is noted, and skipped once a policy selects it", func(t *testing.T) {
		s := load(t, world+denyB)
		p := build(t, s, offline(t, s))
		for id, skipped := range map[string]bool{"y/b>service:y/web:TCP/8080": true, "y/c>service:y/web:TCP/8080": true} {
			got := promiseOf(t, p, 0, id)
			if !slices.Contains(got.Derived.Notes, reach.NoteHairpin) || (got.Skip != "") != skipped {
				t.Errorf("%s: notes %v, skip %q", id, got.Derived.Notes, got.Skip)
			}
		}
		free := load(t, world)
		got := promiseOf(t, build(t, free, offline(t, free)), 0, "y/b>service:y/web:TCP/8080")
		if got.Skip != "" || got.Derived.Verdict != reach.Allow {
			t.Errorf("without policies: %+v, want allow", got)
		}
	})
	t.Run("backends that labels take away change who answers", func(t *testing.T) {
		s := load(t, world+`
steps:
- name: take c away
  relabel: [{pod: y/c, labels: {app: null}}]
- name: take b away too
  relabel: [{pod: y/b, labels: {app: other}}]
`)
		p := build(t, s, offline(t, s))
		first := promiseOf(t, p, 0, "x/a>service:y/web:TCP/8080")
		if diff := cmp.Diff([]string{"y/b"}, first.Backends); diff != "" || first.Skip != "" {
			t.Errorf("backends (-want +got):\n%s skip %q", diff, first.Skip)
		}
		if second := promiseOf(t, p, 1, "x/a>service:y/web:TCP/8080"); second.Skip == "" {
			t.Error("a Service without backends is not skipped")
		}
	})
	t.Run("exhaustive speaks for a pod that a label took away from its Service", func(t *testing.T) {
		s := load(t, world+denyB+`
steps:
- name: c is no backend any more
  apply: ["*"]
  relabel: [{pod: y/c, labels: {app: null}}]
  expect: {exhaustive: true}
`)
		p := build(t, s, offline(t, s))
		if got := promiseOf(t, p, 0, "y/c>service:y/web:TCP/8080").Intended; got != reach.Deny {
			t.Errorf("the pod that left: intended %s, want deny", got)
		}
		if got := promiseOf(t, p, 0, "y/b>service:y/web:TCP/8080").Intended; got != reach.Unknown {
			t.Errorf("the pod that is left: intended %s, want none: its traffic may come back to itself", got)
		}
	})
}

func TestIntentNamesItsField(t *testing.T) {
	s := load(t, world+denyB+`
steps:
- name: one
  apply: ["*"]
  expect:
    exhaustive: true
    allow:
    - {from: [x/a], to: [y/b], ports: [TCP/80]}
    - {from: ["*"], to: [dns]}
- name: two
expect:
  deny: [{from: ["*"], to: [y/c]}]
`)
	p := build(t, s, offline(t, s))
	tests := []struct {
		step int
		id   string
		want reach.Verdict
		by   string
	}{
		{0, "x/a>y/b:TCP/80", reach.Allow, "steps[0].expect.allow[0]"},
		{0, "x/a>dns:web.y", reach.Allow, "steps[0].expect.allow[1]"},
		{0, "x/a>y/b:UDP/81", reach.Deny, "steps[0].expect.exhaustive"},
		{0, "x/a>service:y/web:TCP/8080", reach.Deny, "steps[0].expect.exhaustive"},
		{0, "x/a>x/a:TCP/80", reach.Unknown, ""},
		{0, "y/b>service:y/web:TCP/8080", reach.Unknown, ""},
		{1, "x/a>y/c:TCP/80", reach.Deny, "expect.deny[0]"},
		{1, "y/c>y/c:TCP/80", reach.Unknown, ""},
		{1, "x/a>y/b:TCP/80", reach.Unknown, ""},
	}
	for _, tt := range tests {
		got := promiseOf(t, p, tt.step, tt.id)
		if got.Intended != tt.want || got.IntendedBy != tt.by {
			t.Errorf("step %d %s: %s by %q, want %s by %q", tt.step, tt.id, got.Intended, got.IntendedBy, tt.want, tt.by)
		}
	}
}

func TestStateEvolvesOverSteps(t *testing.T) {
	s := load(t, world+`
policies:
  inline:
  - metadata: {name: deny-web, namespace: "y"}
    spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}
steps:
- name: apply
  apply: [y/deny-web]
- name: relabel
  relabel:
  - {pod: y/b, labels: {app: other}}
  - {namespace: "y", labels: {tier: null, new: "1"}}
- name: replace
  replace:
  - metadata: {name: deny-web, namespace: "y"}
    spec: {podSelector: {matchLabels: {app: other}}, policyTypes: [Ingress]}
- name: delete
  delete: ["*"]
`)
	p := build(t, s, offline(t, s))
	for _, tt := range []struct {
		step int
		b, c reach.Verdict
	}{
		{0, reach.Deny, reach.Deny},
		{1, reach.Allow, reach.Deny},
		{2, reach.Deny, reach.Allow},
		{3, reach.Allow, reach.Allow},
	} {
		b := promiseOf(t, p, tt.step, "x/a>y/b:TCP/80").Derived.Verdict
		c := promiseOf(t, p, tt.step, "x/a>y/c:TCP/80").Derived.Verdict
		if b != tt.b || c != tt.c {
			t.Errorf("step %s: b %s, c %s, want %s, %s", p.Steps[tt.step].Name, b, c, tt.b, tt.c)
		}
	}
}

func TestAPrefixIsPutBeforeTheWorldsNamespacesAlone(t *testing.T) {
	s := load(t, world+`
policies:
  inline:
  - metadata: {name: p, namespace: "y"}
    spec:
      podSelector: {}
      policyTypes: [Ingress, Egress]
      ingress:
      - from:
        - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: x}}
        - namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: NotIn, values: ["y", kube-system]}]}
      egress:
      - to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}}]
`)
	written := s.Policies.Loaded[0].Spec.DeepCopy()
	f := offline(t, s)
	f.Prefix = "run-7-"
	p := build(t, s, f)
	got := p.Steps[0].Changes[0].Apply.Spec
	if got.Namespace != "run-7-y" {
		t.Errorf("the policy is in %s", got.Namespace)
	}
	const key = "kubernetes.io/metadata.name"
	from := got.Spec.Ingress[0].From
	if v := from[0].NamespaceSelector.MatchLabels[key]; v != "run-7-x" {
		t.Errorf("matchLabels name %q", v)
	}
	if diff := cmp.Diff([]string{"run-7-y", "kube-system"}, from[1].NamespaceSelector.MatchExpressions[0].Values); diff != "" {
		t.Errorf("matchExpressions (-want +got):\n%s", diff)
	}
	if v := got.Spec.Egress[0].To[0].NamespaceSelector.MatchLabels[key]; v != "kube-system" {
		t.Errorf("a namespace outside of the world became %q", v)
	}
	if diff := cmp.Diff(written, &s.Policies.Loaded[0].Spec); diff != "" {
		t.Errorf("the scenario itself was changed:\n%s", diff)
	}
	// The prefix changes names, never verdicts.
	lab := build(t, s, offline(t, s))
	for i, a := range lab.Attempts {
		want, have := lab.Steps[0].Promises[i].Derived.Verdict, p.Steps[0].Promises[i].Derived.Verdict
		if a.ID != p.Attempts[i].ID || want != have {
			t.Errorf("%s: %s with a prefix, %s without", a.ID, have, want)
		}
	}
	if name := p.Attempts[5].Name; name != "web.run-7-y.svc.cluster.local." {
		t.Errorf("the lookup asks for %s", name)
	}
}

func TestLookupsAreJudgedOnTheResolver(t *testing.T) {
	s := load(t, world+`
policies:
  inline:
  - metadata: {name: no-egress, namespace: x}
    spec: {podSelector: {}, policyTypes: [Egress]}
`)
	f := offline(t, s)
	if got := promiseOf(t, build(t, s, f), 0, "x/a>dns:web.y"); got.Derived.Egress.Verdict != reach.Deny {
		t.Errorf("egress is %s, want deny", got.Derived.Egress.Verdict)
	}
	f.Resolver = plan.Resolver{}
	if got := promiseOf(t, build(t, s, f), 0, "x/a>dns:web.y"); got.Skip == "" {
		t.Error("a lookup without known resolver pods is not skipped")
	}
}

func TestPlaceholdersBecomeAddresses(t *testing.T) {
	s := load(t, world+`
policies:
  inline:
  - metadata: {name: only-a, namespace: "y"}
    spec:
      podSelector: {}
      policyTypes: [Ingress]
      ingress: [{from: [{ipBlock: {cidr: "${pod:x/a}"}}]}]
`)
	p := build(t, s, offline(t, s))
	if got := p.Steps[0].Policies[0].Spec.Spec.Ingress[0].From[0].IPBlock.CIDR; got != "198.18.0.1/32" {
		t.Errorf("the block is %s", got)
	}
	if got := promiseOf(t, p, 0, "x/a>y/b:TCP/80").Derived.Verdict; got != reach.Allow {
		t.Errorf("the pod itself: %s, want allow", got)
	}
	if got := promiseOf(t, p, 0, "y/c>y/b:TCP/80").Derived.Verdict; got != reach.Deny {
		t.Errorf("another pod: %s, want deny", got)
	}
}

func TestOnlyNarrowsToOneAttempt(t *testing.T) {
	s := load(t, world+denyB)
	whole := build(t, s, offline(t, s))
	one, err := whole.Only("x/a>y/c:TCP/80")
	if err != nil {
		t.Fatal(err)
	}
	if len(one.Attempts) != 1 || len(one.Steps[0].Promises) != 1 || one.Steps[0].Promises[0].Derived.Verdict != reach.Deny {
		t.Errorf("got %d attempts, promises %+v", len(one.Attempts), one.Steps[0].Promises)
	}
	if len(whole.Steps[0].Promises) != len(whole.Attempts) {
		t.Error("narrowing changed the whole plan")
	}
	_, err = whole.Only("x/a>y/c:TCP/81")
	var unknown *plan.UnknownAttemptError
	if !errors.As(err, &unknown) {
		t.Fatalf("got %v, want an UnknownAttemptError", err)
	}
	if unknown.Nearest[0] != "x/a>y/c:TCP/80" || !strings.Contains(unknown.Hint(), "'x/a>y/c:TCP/80'") {
		t.Errorf("nearest are %v, hint %q", unknown.Nearest, unknown.Hint())
	}
}

func TestFaultsAreReportedAllAtOnce(t *testing.T) {
	s := load(t, world)
	f := offline(t, s)
	delete(f.Pods, "y/b")
	delete(f.Services, "y/web")
	_, err := plan.Build(s, f)
	want := "planning scenario t: world.namespaces[1].pods[0]: the cluster gave no address for y/b\n" +
		"world.services[0]: the cluster gave no address for y/web"
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}

	broken := load(t, world+denyB)
	broken.Steps = []scenarios.Step{{
		Name: "s", Apply: []string{"y/none"}, Delete: []string{"y/deny-c"},
		Expect: &scenarios.Expect{
			Allow: []scenarios.Rule{{From: []string{"x/a"}, To: []string{"y/b"}}},
			Deny:  []scenarios.Rule{{From: []string{"*"}, To: []string{"y/*"}, Ports: []string{"TCP/80"}}, {From: []string{"x/a"}, To: []string{"y/z"}}},
		},
	}}
	_, err = plan.Build(broken, offline(t, broken))
	for _, want := range []string{
		`steps[0].apply[0]: no policy "y/none" under policies`,
		`steps[0].delete[0]: policy "y/deny-c" is not in effect`,
		`steps[0].expect.deny[0]: contradicts steps[0].expect.allow[0] about x/a>y/b:TCP/80`,
		`steps[0].expect.deny[1]: names no planned attempt`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q:\n%v", want, err)
		}
	}

	inResolver := offline(t, s)
	inResolver.Resolver.Namespace.Name = "y"
	if _, err := plan.Build(s, inResolver); err == nil || !strings.Contains(err.Error(), "namespace of the cluster's resolver") {
		t.Errorf("a world in the resolver's namespace: %v", err)
	}
}

func TestScenariosWithEqualWorldsShareAGroup(t *testing.T) {
	a, b, c := load(t, world), load(t, strings.ReplaceAll(world, "name: c", "name: d")), load(t, world+denyB)
	c.World.Namespaces[0].Labels = map[string]string{} // the same as none
	got := plan.GroupByWorld([]*scenarios.Scenario{a, b, c})
	if len(got) != 2 || len(got[0]) != 2 || got[0][0] != a || got[0][1] != c || got[1][0] != b {
		t.Errorf("got %v", got)
	}
}

func TestPlanningTwiceGivesTheSame(t *testing.T) {
	s := load(t, world+denyB)
	first, second := build(t, s, offline(t, s)), build(t, s, offline(t, s))
	opts := cmp.Options{cmpopts.IgnoreUnexported(plan.Plan{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })}
	if diff := cmp.Diff(first, second, opts); diff != "" {
		t.Error(diff)
	}
}

func TestKindsReadBackWhatTheyWrite(t *testing.T) {
	for k := plan.KindUnknown; k <= plan.NodePort; k++ {
		b, err := k.MarshalText()
		var got plan.Kind
		if err != nil || got.UnmarshalText(b) != nil || got != k {
			t.Errorf("%s: wrote %q (%v), read back %s", k, b, err, got)
		}
	}
	if err := new(plan.Kind).UnmarshalText([]byte("nothing")); err == nil {
		t.Error("an unknown kind was read")
	}
}

// The promise of every shipped scenario: where a person wrote intent, the policies say the same.
func TestEveryShippedScenarioPlansAndAgreesWithItsPolicies(t *testing.T) {
	list, err := scenarios.LoadFS(catalogue.FS, ".")
	if err != nil {
		t.Fatal(err)
	}
	if len(list) == 0 {
		t.Fatal("the catalogue is empty")
	}
	for _, s := range list {
		p := build(t, s, offline(t, s))
		for _, step := range p.Steps {
			for i, promise := range step.Promises {
				if promise.Intended != reach.Unknown && promise.Intended != promise.Derived.Verdict {
					t.Errorf("%s step %s %s: intended %s by %s, derived %s", s.Metadata.Name, step.Name, p.Attempts[i].ID,
						promise.Intended, promise.IntendedBy, promise.Derived.Verdict)
				}
			}
		}
	}
}

// A nine by nine world with four listeners each, twenty times, is what the race against other tools plans.
func BenchmarkBuild(b *testing.B) {
	list, err := scenarios.LoadFS(catalogue.FS, "policyTypes/default-deny-ingress.yaml")
	if err != nil {
		b.Fatal(err)
	}
	f := offline(b, list[0])
	for b.Loop() {
		build(b, list[0], f)
	}
}
