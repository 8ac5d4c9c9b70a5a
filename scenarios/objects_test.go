package scenarios_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	npav1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/gapproof/gapproof/scenarios"
)

func tryObjects(content string) ([]scenarios.Object, error) {
	files := fstest.MapFS{"f.yaml": {Data: []byte(content)}}
	m, err := scenarios.ReadManifestsFS(files, []string{"f.yaml"}, scenarios.ManifestOptions{DefaultNamespace: "shop"})
	if err != nil {
		return nil, err
	}
	return m.Objects(nil)
}

func mustObjects(t testing.TB, content string) []scenarios.Object {
	t.Helper()
	out, err := tryObjects(content)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

const written = `# a list, and a document
apiVersion: v1
kind: List
items:
- apiVersion: networking.k8s.io/v1
  kind: NetworkPolicy
  metadata: {name: in-a-list, namespace: x}
  spec: {podSelector: {}}
- {apiVersion: v1, kind: Secret, metadata: {name: s}}
---
# Source: chart/templates/policy.yaml
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: alone}
spec:
  podSelector:
    matchLabels:
      app.kubernetes.io/name: web
  ingress:
  - from:
    - namespaceSelector: {}
      podSelector: {}
    ports:
    - port: 80
---
apiVersion: crd.projectcalico.org/v1
kind: NetworkPolicy
metadata: {name: of-another-group}
spec: {selector: all()}
---
# what a template leaves that renders to nothing
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: admin}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {}}
  ingress:
  - action: Deny
    from: [{namespaces: {}}]
`

func TestObjectsArePoliciesAndWhatPoliciesSeeWithTheirLines(t *testing.T) {
	objects := mustObjects(t, written)
	var got []string
	for _, o := range objects {
		line := fmt.Sprintf("%s %T %s", o.Place, o.API, o.Template)
		got = append(got, strings.TrimSpace(line))
	}
	want := []string{"f.yaml:5 *v1.NetworkPolicy", "f.yaml:12 *v1.NetworkPolicy chart/templates/policy.yaml", "f.yaml:33 *v1alpha2.ClusterNetworkPolicy"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("objects (-want +got):\n%s", diff)
	}
	if p := objects[1].API.(*networkingv1.NetworkPolicy); p.Namespace != "shop" {
		t.Errorf("a policy that names no namespace: want the default one, got %q", p.Namespace)
	}
	for field, want := range map[string]int{
		"spec.podSelector": 16,
		"spec.podSelector.matchLabels.app.kubernetes.io/name": 18,
		"spec.ingress[0]":                     20,
		"spec.ingress[0].from[0].podSelector": 22,
		"spec.ingress[0].ports[0].endPort":    24, // not written: that of what it would lie within
		"spec.egress[0].to[0].ipBlock.cidr":   15,
		"nonsense":                            12,
	} {
		if got := objects[1].Lines.At(field).Line; got != want {
			t.Errorf("%s: want line %d, got %d", field, want, got)
		}
	}
	if l := objects[1].Lines; l.Written("spec.egress") || !l.Written("spec.ingress[0].ports") {
		t.Error("egress counts as written, or ports does not")
	}
	if got := objects[2].Lines.At("spec.ingress[0].from[0].namespaces").Line; got != 42 {
		t.Errorf("a field of a ClusterNetworkPolicy: want line 42, got %d", got)
	}
	if p := objects[2].API.(*npav1alpha2.ClusterNetworkPolicy); p.Spec.Priority != 10 || len(p.Spec.Ingress) != 1 {
		t.Errorf("the ClusterNetworkPolicy is not whole: %+v", p)
	}
}

func TestAFieldHasTheColumnsOfItsKeyOrOfTheWordThatIsAnItem(t *testing.T) {
	const content = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: shop, annotations: {"ü": "ä", 'after': b}}
spec:
  podSelector: {matchExpressions: [{key: &k app, operator: In, values: [plain, 'single', "double", two words, 'it''s', !!str tagged, *k, &w last]}]}
  policyTypes: [Ingress]
`
	lines := scenarios.LinesOf(content) // no API server takes such values
	const values = "spec.podSelector.matchExpressions[0].values"
	for _, tc := range []struct {
		what, field string
		want        scenarios.Place
	}{
		{"the document, which has several lines", "", scenarios.Place{Line: 1, Column: 1}},
		{"a key of a block", "spec.podSelector", scenarios.Place{Line: 5, Column: 3, End: 14}},
		{"a key within braces", values, scenarios.Place{Line: 5, Column: 64, End: 70}},
		{"a quoted key behind letters of two bytes", "metadata.annotations.after", scenarios.Place{Line: 3, Column: 62, End: 69}},
		{"a mapping that is an item", "spec.podSelector.matchExpressions[0]", scenarios.Place{Line: 5, Column: 36}},
		{"a word", values + "[0]", scenarios.Place{Line: 5, Column: 73, End: 78}},
		{"a word in single quotes", values + "[1]", scenarios.Place{Line: 5, Column: 80, End: 88}},
		{"a word in double quotes, which may hold escapes", values + "[2]", scenarios.Place{Line: 5, Column: 90}},
		{"two words, which may be on two lines", values + "[3]", scenarios.Place{Line: 5, Column: 100}},
		{"a quote within quotes", values + "[4]", scenarios.Place{Line: 5, Column: 111}},
		{"a word with a tag", values + "[5]", scenarios.Place{Line: 5, Column: 120}},
		{"an alias", values + "[6]", scenarios.Place{Line: 5, Column: 134}},
		{"a word with an anchor", values + "[7]", scenarios.Place{Line: 5, Column: 138}},
		{"a field that is not written", "spec.podSelector.matchLabels", scenarios.Place{Line: 5, Column: 3, End: 14}},
	} {
		tc.want.File = "f.yaml"
		if diff := cmp.Diff(tc.want, lines.At(tc.field)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.what, diff)
		}
	}
}

func TestPoliciesOfAScenarioHaveTheLinesOfTheirFields(t *testing.T) {
	const content = `apiVersion: gapproof.dev/v1alpha1
kind: Scenario
metadata: {name: s}
world:
  namespaces:
  - name: x
    pods:
    - {name: a}
policies:
  files: [p.yaml]
  inline:
  - metadata: {name: inline, namespace: x}
    spec:
      podSelector: {}
steps:
- {name: first, apply: ["*"]}
- name: second
  replace:
  - metadata: {name: inline, namespace: x}
    spec:
      podSelector: {matchLabels: {a: b}}
`
	const file = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicyList\nitems:\n- metadata: {name: listed, namespace: x}\n  spec:\n    podSelector: {}\n"
	all, err := scenarios.LoadFS(fstest.MapFS{"s.yaml": {Data: []byte(content)}, "p.yaml": {Data: []byte(file)}}, "s.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s := all[0]
	for _, tc := range []struct {
		policy scenarios.Policy
		want   int
	}{{s.Policies.Loaded[0], 14}, {s.Policies.Loaded[1], 6}, {s.Steps[1].Replacing[0], 21}} {
		if got := tc.policy.Lines.At("spec.podSelector").Line; got != tc.want {
			t.Errorf("spec.podSelector of %s: want line %d, got %d", tc.policy.Spec.Name, tc.want, got)
		}
	}
	want := map[string]scenarios.Place{"x": {File: "s.yaml", Line: 6}, "x/a": {File: "s.yaml", Line: 8}}
	if diff := cmp.Diff(want, s.Places); diff != "" {
		t.Errorf("places (-want +got):\n%s", diff)
	}
}

func TestWhatAKustomizationRendersIsRead(t *testing.T) {
	m, err := scenarios.ReadManifestsFS(os.DirFS("."), []string{"testdata/manifests/overlay/prod"}, scenarios.ManifestOptions{DefaultNamespace: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	objects, err := m.Objects(nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(objects) == 0 {
		t.Fatal("want objects, got none")
	}
	for _, o := range objects {
		if o.File != "testdata/manifests/overlay/prod/kustomization.yaml" || o.Line != 0 || o.Column != 0 || o.Lines != nil {
			t.Errorf("%s: want the kustomization and no line, got %+v", o.Kind, o.Place)
		}
	}
}

func TestStandardInputIsReadWhereAPathAsksForIt(t *testing.T) {
	options := scenarios.ManifestOptions{Input: strings.NewReader("apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: x}\n")}
	s, err := scenarios.FromManifests("piped", []string{"-"}, options)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Places["x/a"]; got != (scenarios.Place{File: "<stdin>", Line: 1, Column: 1}) {
		t.Errorf("want line 1, column 1 of <stdin>, got %+v", got)
	}
}

func TestScenariosAmongManifestsAreNamedAndTheirFilesCanBeLeftOut(t *testing.T) {
	files := fstest.MapFS{
		"d/s.yaml": {Data: []byte("apiVersion: gapproof.dev/v1alpha1\nkind: Scenario\n")},
		"d/p.json": {Data: []byte(`{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x", "labels": {"a": "b"}}}`)},
		"d/q.yaml": {Data: []byte("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {nmae: used by the scenario}\n")},
	}
	m, err := scenarios.ReadManifestsFS(files, []string{"d"}, scenarios.ManifestOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Scenarios(); !slices.Equal(got, []string{"d/s.yaml"}) {
		t.Errorf("scenarios: want d/s.yaml, got %v", got)
	}
	objects, err := m.Objects(map[string]struct{}{"d/q.yaml": {}})
	if err != nil {
		t.Fatal(err)
	}
	if ns, ok := objects[0].API.(*corev1.Namespace); len(objects) != 1 || !ok || ns.Labels["a"] != "b" {
		t.Errorf("want the namespace alone, got %+v", objects)
	}
}

func TestAliasesThatMultiplyAreBounded(t *testing.T) {
	var b strings.Builder
	b.WriteString("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	const levels = 9 // a billion values
	for i := 1; i <= levels; i++ {
		alias := fmt.Sprintf("*a%d, ", i-1)
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(alias, 10), ", "))
	}
	_, err := tryObjects(b.String())
	if err == nil {
		t.Error("want an error for a file whose aliases multiply")
	}
}

func TestFilesThatCannotBeReadSayWhereAndWhy(t *testing.T) {
	const head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\n"
	for name, tc := range map[string]struct{ content, want string }{
		"broken YAML":                    {"a: b\n  c: d\n", "f.yaml:2: reading YAML: mapping values are not allowed in this context"},
		"an unknown field":               {head + "spec:\n  ingress:\n  - form: []\n", "f.yaml:6: spec.ingress[0].form: unknown field (known here: from, ports)"},
		"a field in the wrong case":      {head + "spec:\n  podselector: {}\n", "f.yaml:5: spec.podselector: unknown field (did you mean \"podSelector\"?)"},
		"a policy without a name":        {"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n", "f.yaml:1: metadata.name: is missing"},
		"a policy written twice":         {head + "---\n" + head, "f.yaml:5: metadata.name: NetworkPolicy shop/a is given in f.yaml:1 too"},
		"a version of long ago":          {"apiVersion: networking.k8s.io/v1beta1\nkind: NetworkPolicy\nmetadata: {name: a}\n", "f.yaml:1: apiVersion: networking.k8s.io/v1beta1 is not networking.k8s.io/v1 (write apiVersion: networking.k8s.io/v1)"},
		"a policy without an apiVersion": {"kind: NetworkPolicy\nmetadata: {name: a}\n", "f.yaml:1: apiVersion: is missing (write apiVersion: networking.k8s.io/v1)"},
		"a port that is none":            {"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{ports: [{containerPort: 99999}]}]}\n", "f.yaml:4: spec.containers[0].ports[0].containerPort: 99999 is not a port number from 1 to 65535"},
		"a cluster policy with a typo": {"apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: a}\nspec:\n  teir: Admin\n", "f.yaml:4: spec.priority: is missing (a number from 0, which comes first, to 1000)\nf.yaml:4: spec.subject: is missing (write one of namespaces and pods)\n" +
			"f.yaml:4: spec.tier: is missing (Admin or Baseline)\nf.yaml:5: spec.teir: unknown field (known here: egress, ingress, priority, subject, tier)"},
		"what no API server takes": {head + "spec:\n  podSelector: {matchLabels: {app: w b}}\n  ingress:\n  - ports: [{port: \"80\"}]\n  - from: [{}]\n", "f.yaml:5: spec.podSelector.matchLabels: \"w b\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character\n" +
			"f.yaml:7: spec.ingress[0].ports[0].port: \"80\": must contain at least one letter (a-z) (a number is written without quotes: 80)\nf.yaml:8: spec.ingress[1].from[0]: is missing (must specify a peer: podSelector, namespaceSelector or ipBlock)"},
		"a policy of every fault at once": {head + "spec: {form: []}\n---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: b}\nspec: {egress: [{ports: [{port: 99999}]}]}\n", "f.yaml:4: spec.form: unknown field (known here: egress, ingress, podSelector, policyTypes)\n" +
			"f.yaml:9: spec.egress[0].ports[0].port: 99999: must be between 1 and 65535, inclusive"},
		"a kind in the wrong case":      {"apiVersion: networking.k8s.io/v1\nkind: Networkpolicy\nmetadata: {name: a}\n", "f.yaml:1: kind: Networkpolicy of networking.k8s.io/v1 is no kind of the API (write kind: NetworkPolicy)"},
		"a kind in the plural":          {"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicies\nmetadata: {name: a}\n", "f.yaml:1: kind: NetworkPolicies of networking.k8s.io/v1 is no kind of the API (write kind: NetworkPolicy)"},
		"a cluster policy misspelt":     {"apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolcy\nmetadata: {name: a}\n", "f.yaml:1: kind: ClusterNetworkPolcy of policy.networking.k8s.io/v1alpha2 is no kind of the API (write kind: ClusterNetworkPolicy)"},
		"a kind under a key of no kind": {"apiVersion: networking.k8s.io/v1\nKind: NetworkPolicy\nmetadata: {name: a}\n", "f.yaml:1: kind: is missing, so that this is no object of the API (did you mean \"kind\" by \"Kind\"?)"},
		"values beside an object":       {head + "---\nvalues: of a chart\n---\nhello\n", "f.yaml:5: kind: is missing, so that this is no object of the API (name files of manifests, or a directory of nothing else)\nf.yaml:7: kind: is missing, so that this is no object of the API (name files of manifests, or a directory of nothing else)"},
		"a list with a number in it":    {"apiVersion: v1\nkind: List\nitems:\n- 3\n- {apiVersion: v1, kind: Namespace, metadata: {name: x}}\n", "f.yaml:4: kind: is missing, so that this is no object of the API (name files of manifests, or a directory of nothing else)"},
		"a pod written twice":           {"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\n", "f.yaml:5: metadata.name: Pod shop/a is given in f.yaml:1 too\nf.yaml:9: metadata.name: Pod shop/a is given in f.yaml:1 too"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tryObjects(tc.content)
			got := ""
			if err != nil {
				got = err.Error()
				var faults scenarios.Faults
				if !errors.As(err, &faults) {
					t.Errorf("want Faults, got %T", err)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPoliciesOfOtherKindsAreTold(t *testing.T) {
	const content = `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: a, namespace: x}
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: b}
---
apiVersion: networking.k8s/v1
kind: NetworkPolicy
metadata: {name: of-a-group-with-a-typo, namespace: x}
---
apiVersion: kyverno.io/v1
kind: Policy
metadata: {name: about-something-else}
`
	m, err := scenarios.ReadManifestsFS(fstest.MapFS{"f.yaml": {Data: []byte(content)}}, []string{"f.yaml"}, scenarios.ManifestOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, o := range m.Foreign() {
		got = append(got, fmt.Sprintf("%d %s", o.Line, o.Object))
	}
	want := []string{"1 CiliumNetworkPolicy x/a", "5 AdminNetworkPolicy b", "9 NetworkPolicy x/of-a-group-with-a-typo"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("policies of other kinds (-want +got):\n%s", diff)
	}
}

func FuzzObjectsNeverPanic(f *testing.F) {
	f.Add([]byte(written))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("kind: List\nitems: [*x]\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		objects, err := tryObjects(string(content))
		var faults scenarios.Faults
		if err != nil && (!errors.As(err, &faults) || len(faults) == 0) {
			t.Fatalf("want faults, got %v", err)
		}
		for _, o := range objects {
			if o.Line < 1 {
				t.Errorf("%s has no line", o.Kind)
			}
		}
	})
}
