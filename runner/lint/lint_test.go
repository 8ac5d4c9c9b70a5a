package lint_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gapproof/gapproof/runner/lint"
	"github.com/gapproof/gapproof/runner/manifest"
	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/scenarios"
)

var update = flag.Bool("update", false, "write the golden files anew")

func read(t testing.TB, name string) *manifest.Set {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, filepath.Base(name), string(content))
}

func parse(t testing.TB, name, content string) *manifest.Set {
	t.Helper()
	set, err := tryParse(name, content)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func tryParse(name, content string) (*manifest.Set, error) {
	files := fstest.MapFS{name: {Data: []byte(content)}}
	manifests, err := scenarios.ReadManifestsFS(files, []string{name}, scenarios.ManifestOptions{DefaultNamespace: "default"})
	if err != nil {
		return nil, err
	}
	objects, err := manifests.Objects(nil)
	if err != nil {
		return nil, err
	}
	return manifest.Of(objects), nil
}

func check(t testing.TB, set *manifest.Set, o lint.Options) []lint.Finding {
	t.Helper()
	findings, err := lint.Check(set, o)
	if err != nil {
		t.Fatal(err)
	}
	return findings
}

func ids(findings []lint.Finding) []string {
	out := []string{}
	for _, f := range findings {
		out = append(out, f.Rule)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func TestEveryRuleFindsItsBadExampleAndPassesTheGoodOne(t *testing.T) {
	for _, r := range lint.Rules() {
		t.Run(r.ID, func(t *testing.T) {
			dir := filepath.Join("testdata", r.ID)
			bad := check(t, read(t, filepath.Join(dir, "bad.yaml")), lint.Options{})
			if !slices.Contains(ids(bad), r.ID) {
				t.Errorf("bad.yaml has no finding of %s: %v", r.ID, ids(bad))
			}
			var got bytes.Buffer
			if err := lint.WriteText(&got, bad); err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join(dir, "bad.txt")
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("findings of bad.yaml (-want +got):\n%s", diff)
			}
			good := check(t, read(t, filepath.Join(dir, "good.yaml")), lint.Options{})
			if slices.Contains(ids(good), r.ID) || lint.Worst(good) >= lint.Error {
				t.Errorf("good.yaml has a finding of its own rule, or an error: %v", ids(good))
			}
		})
	}
}

func TestRulesAreSortedAndDescribed(t *testing.T) {
	rules := lint.Rules()
	if !slices.IsSortedFunc(rules, func(a, b lint.Rule) int { return strings.Compare(a.ID, b.ID) }) {
		t.Error("the rules are not in the order of their identifiers")
	}
	for _, r := range rules {
		if r.Title == "" || r.Why == "" || r.Severity == lint.Unknown {
			t.Errorf("%s lacks a title, a reason or a severity", r.ID)
		}
	}
	dirs, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		if d.Name() != "fuzz" && !slices.ContainsFunc(rules, func(r lint.Rule) bool { return r.ID == d.Name() }) {
			t.Errorf("testdata/%s belongs to no rule", d.Name())
		}
	}
}

const alone = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop%s}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: nobody}}}]
    ports: [{port: nothing}]
  egress:
  - to: [{namespaceSelector: {matchLabels: {team: none}}}]
    ports: [{port: 443}]
`

func TestWithoutWorkloadsNothingIsSaidAboutWhatSelectorsMatch(t *testing.T) {
	got := ids(check(t, parse(t, "p.yaml", strings.Replace(alone, "%s", "", 1)), lint.Options{}))
	want := []string{"egress-without-dns", "no-default-deny-egress", "no-default-deny-ingress"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
}

func TestAnAnnotationExemptsAPolicyFromTheRulesItNames(t *testing.T) {
	content := strings.Replace(alone, "%s", `, annotations: {`+lint.IgnoreAnnotation+`: "label-typo, egress-without-dns"}`, 1)
	got := ids(check(t, parse(t, "p.yaml", content), lint.Options{}))
	if slices.Contains(got, "egress-without-dns") {
		t.Errorf("egress-without-dns is reported although the policy is exempt: %v", got)
	}
}

func TestAPodNetworkOnTheCommandLineOutranksInventedAddresses(t *testing.T) {
	set := read(t, "testdata/ipblock-covers-pods/good.yaml")
	for name, tc := range map[string]struct {
		pods string
		want bool
	}{
		"a pod network within the except":           {"10.244.0.0/16", false},
		"a pod network that no except takes out":    {"172.20.0.0/16", true},
		"a pod network of the other family":         {"fd00::/64", false},
		"a pod network half within another ipBlock": {"203.0.113.128/25", true},
	} {
		t.Run(name, func(t *testing.T) {
			found := check(t, set, lint.Options{PodRanges: []netip.Prefix{netip.MustParsePrefix(tc.pods)}})
			if got := slices.Contains(ids(found), "ipblock-covers-pods"); got != tc.want {
				t.Errorf("want a finding: %t, got %+v", tc.want, found)
			}
		})
	}
}

func policy(selector map[string]string) manifest.Policy {
	var p manifest.Policy
	p.Spec = networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "p"}}
	p.Spec.Spec.PodSelector.MatchLabels = selector
	return p
}

func TestWhatOneStepOfSeveralMendsIsNoFinding(t *testing.T) {
	set := func(label string) *manifest.Set {
		return &manifest.Set{
			Pods: manifest.SomePods,
			World: reach.World{
				Namespaces: []reach.Namespace{{Name: "x"}},
				Pods:       []reach.Pod{{Namespace: "x", Name: "a", Labels: map[string]string{"pod": label}}},
			},
			Policies: []manifest.Policy{policy(map[string]string{"pod": "later"})},
		}
	}
	found, err := lint.CheckSteps([]*manifest.Set{set("first"), set("later")}, lint.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(ids(found), "selects-no-pod") {
		t.Errorf("selects-no-pod although the second step relabels: %+v", found)
	}
	if found, err = lint.CheckSteps([]*manifest.Set{set("first"), set("second")}, lint.Options{}); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(ids(found), "selects-no-pod") {
		t.Errorf("no selects-no-pod although no step has the label: %+v", found)
	}
}

func TestAPolicyThatTheAPIServerRefusesIsAnError(t *testing.T) {
	p := policy(nil)
	p.Spec.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{}}}}
	_, err := lint.Check(&manifest.Set{Policies: []manifest.Policy{p}}, lint.Options{})
	if err == nil || !strings.Contains(err.Error(), "has none of podSelector, namespaceSelector, ipBlock") {
		t.Errorf("want an error about the empty peer, got %v", err)
	}
}

func TestSARIFHasWhatTheSchemaRequires(t *testing.T) {
	found := check(t, read(t, "testdata/selector-union/bad.yaml"), lint.Options{})
	found = append(found, lint.Finding{Rule: "selects-no-pod", Severity: lint.Error, Subject: "policy x/p", Message: "m"},
		lint.Finding{Rule: "selects-no-pod", Severity: lint.Error, Subject: "policy x/p", Message: "m", Place: manifest.Place{File: "a b/ü.yaml"}})
	var b bytes.Buffer
	if err := lint.WriteSARIF(&b, found, "v1"); err != nil {
		t.Fatal(err)
	}
	var log struct {
		Schema  string `json:"$schema"`
		Version string `json:"version"`
		Runs    []struct {
			Tool struct {
				Driver struct {
					Name  string
					Rules []struct {
						ID               string
						ShortDescription struct{ Text string }
						Help             struct{ Text string }
						HelpURI          string
					}
				}
			}
			ColumnKind string
			Results    []struct {
				RuleID    string
				RuleIndex int
				Level     string
				Message   struct{ Text string }
				Locations []struct {
					PhysicalLocation *struct {
						ArtifactLocation struct{ URI string }
						Region           *struct{ StartLine, StartColumn, EndColumn int }
					}
					LogicalLocations []struct{ FullyQualifiedName string }
				}
			}
		} `json:"runs"`
	}
	if err := json.Unmarshal(b.Bytes(), &log); err != nil {
		t.Fatal(err)
	}
	if log.Version != "2.1.0" || !strings.Contains(log.Schema, "sarif-schema-2.1.0.json") || len(log.Runs) != 1 {
		t.Fatalf("version %q, schema %q, runs %d", log.Version, log.Schema, len(log.Runs))
	}
	run := log.Runs[0]
	if run.Tool.Driver.Name == "" || len(run.Results) != len(found) {
		t.Errorf("driver %q, results: want %d, got %d", run.Tool.Driver.Name, len(found), len(run.Results))
	}
	for _, r := range run.Tool.Driver.Rules {
		if u, err := url.Parse(r.HelpURI); err != nil || !u.IsAbs() || r.Help.Text == "" || r.ShortDescription.Text == "" {
			t.Errorf("%s: helpUri %q, help %q", r.ID, r.HelpURI, r.Help.Text)
		}
	}
	// The file has letters of one byte only, so that its columns are what both kinds of counting say.
	if region := run.Results[0].Locations[0].PhysicalLocation.Region; region == nil || region.StartLine != 60 || region.StartColumn != 5 {
		t.Errorf("region of the first result: want line 60, column 5, got %+v", region)
	}
	if run.ColumnKind != "unicodeCodePoints" {
		t.Errorf("columns are counted in characters, columnKind is %s", run.ColumnKind)
	}
	for i, r := range run.Results {
		if run.Tool.Driver.Rules[r.RuleIndex].ID != r.RuleID || r.RuleID != found[i].Rule {
			t.Errorf("result %d: ruleIndex %d is %s, ruleId is %s", i, r.RuleIndex, run.Tool.Driver.Rules[r.RuleIndex].ID, r.RuleID)
		}
		if !slices.Contains([]string{"none", "note", "warning", "error"}, r.Level) || r.Message.Text == "" || len(r.Locations) != 1 {
			t.Errorf("result %d: level %q, message %q, locations %d", i, r.Level, r.Message.Text, len(r.Locations))
		}
		at := r.Locations[0]
		if at.PhysicalLocation != nil && at.PhysicalLocation.Region != nil && at.PhysicalLocation.Region.StartLine < 1 {
			t.Errorf("result %d: startLine %d; it counts from 1", i, at.PhysicalLocation.Region.StartLine)
		}
		if len(at.LogicalLocations) != 1 || at.LogicalLocations[0].FullyQualifiedName == "" {
			t.Errorf("result %d has no logical location", i)
		}
	}
	if last := run.Results[len(found)-1].Locations[0].PhysicalLocation; last.ArtifactLocation.URI != "a%20b/%C3%BC.yaml" || last.Region != nil {
		t.Errorf("artifact location: want a URI without region, got %+v", last)
	}
	if nowhere := run.Results[len(found)-2].Locations[0].PhysicalLocation; nowhere != nil {
		t.Errorf("a finding without file has the location %+v", nowhere)
	}
}

func TestJSONHasAnEmptyListWhereNothingIsFound(t *testing.T) {
	var b bytes.Buffer
	if err := lint.WriteJSON(&b, nil); err != nil {
		t.Fatal(err)
	}
	if want := "{\n  \"findings\": []\n}\n"; b.String() != want {
		t.Errorf("want %q, got %q", want, b.String())
	}
}

func TestSeveritiesReadWhatTheyWrite(t *testing.T) {
	for _, s := range []lint.Severity{lint.Note, lint.Warning, lint.Error} {
		text, err := s.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var back lint.Severity
		if err := back.UnmarshalText(text); err != nil || back != s {
			t.Errorf("want %s, got %s, %v", s, back, err)
		}
	}
	if _, err := lint.Severity(9).MarshalText(); err == nil {
		t.Error("severity 9 is written without an error")
	}
}

func FuzzCheckTakesWhateverReadTook(f *testing.F) {
	files, err := filepath.Glob("testdata/*/bad.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		content, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
	}
	f.Fuzz(func(_ *testing.T, content []byte) {
		set, err := tryParse("f.yaml", string(content))
		if err != nil {
			return
		}
		_, _ = lint.Check(set, lint.Options{}) // an error is an answer; a panic is not
	})
}
