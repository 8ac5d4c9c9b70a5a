package catalogue_test

import (
	"encoding/json"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/gapproof/gapproof/scenarios"
	"github.com/gapproof/gapproof/scenarios/catalogue"
)

func load(tb testing.TB) []*scenarios.Scenario {
	tb.Helper()
	list, err := scenarios.LoadFS(catalogue.FS, ".")
	if err != nil {
		tb.Fatal(err)
	}
	return list
}

func TestCatalogueIsLargeAndSortedByField(t *testing.T) {
	const atLeast = 110 // what the catalogue promises to hold
	list := load(t)
	if len(list) < atLeast {
		t.Errorf("want at least %d scenarios, got %d", atLeast, len(list))
	}
	folders := []string{"clusterNetworkPolicy", "egress", "families", "hosts", "ingress", "ipBlock", "namespaceSelector", "outside", "podSelector", "policyTypes", "ports", "services", "steps"}
	for _, s := range list {
		if folder := path.Dir(s.File); !slices.Contains(folders, folder) {
			t.Errorf("%s: %s is no folder of the catalogue", s.File, folder)
		}
	}
}

func TestEveryFileSaysFirstWhatItShowsAndWhatItCatches(t *testing.T) {
	for _, s := range load(t) {
		content, err := fs.ReadFile(catalogue.FS, s.File)
		if err != nil {
			t.Fatal(err)
		}
		head, _, _ := strings.Cut(string(content), "apiVersion:")
		if before, _, says := strings.Cut(head, "# Catches "); !says || before == "" {
			t.Errorf("%s: want a comment with what it shows, then a line that begins with Catches, got:\n%s", s.File, head)
		}
	}
}

func TestNoTwoScenariosAreTheSameCase(t *testing.T) {
	cases := map[string]string{}
	for _, s := range load(t) {
		type change struct {
			Policies any
			Steps    []scenarios.Step
		}
		steps := slices.Clone(s.Steps)
		for i := range steps {
			steps[i].Name, steps[i].Expect = "", nil
		}
		var specs []any
		for _, p := range s.Policies.Loaded {
			specs = append(specs, p.Spec.Namespace, p.Spec.Spec)
		}
		for _, p := range s.Policies.LoadedCluster {
			specs = append(specs, p.Spec.Spec)
		}
		key, err := json.Marshal([]any{s.World, change{specs, steps}})
		if err != nil {
			t.Fatal(err)
		}
		if other, twice := cases[string(key)]; twice {
			t.Errorf("%s and %s have the same world, policies and steps", other, s.File)
		}
		cases[string(key)] = s.File
	}
}

func TestEveryScenarioStatesSomethingThatIsDenied(t *testing.T) {
	for _, s := range load(t) {
		denies := false
		for i, step := range s.Steps {
			expect := step.Expect
			if expect == nil && i == len(s.Steps)-1 {
				expect = s.Expect
			}
			denies = denies || !allowsEverything(s.World, expect)
		}
		if !denies {
			t.Errorf("%s: everything is allowed in every step, so that a CNI that enforces nothing passes", s.File)
		}
	}
}

// allowsEverything tells whether the intent allows every attempt between two pods, and between a pod and a host outside.
func allowsEverything(w scenarios.World, e *scenarios.Expect) bool {
	type end struct {
		name  string
		ports []scenarios.Port
	}
	var ends []end
	for _, ns := range w.Namespaces {
		for _, pod := range ns.Pods {
			ends = append(ends, end{ns.Name + "/" + pod.Name, pod.Ports})
		}
	}
	for _, host := range w.Reach.Outside {
		ends = append(ends, end{scenarios.Outside(host.Name), host.Ports})
	}
	for _, from := range ends {
		for _, to := range ends {
			for _, port := range to.ports {
				a := scenarios.Attempt{Source: from.name, Destination: to.name, Port: scenarios.FormatPort(port.Protocol, port.Port)}
				between := from.name != to.name && !(scenarios.IsOutside(from.name) && scenarios.IsOutside(to.name))
				if between && !slices.ContainsFunc(e.Allow, func(r scenarios.Rule) bool { return r.Names(a) }) {
					return false
				}
			}
		}
	}
	return true
}

// From "Cases of …" on, the tables of README.md say in their second column, separated by commas, which scenarios cover a case.
func TestReadmeNamesOnlyScenariosThatExist(t *testing.T) {
	content, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range load(t) {
		names = append(names, s.Metadata.Name)
	}
	_, tables, found := strings.Cut(string(content), "## Cases")
	if !found {
		t.Fatal("README.md has no heading that begins with Cases")
	}
	row := regexp.MustCompile(`(?m)^\| [^|]+ \| ([a-z0-9-]+(?:, [a-z0-9-]+)*) \|$`)
	named := 0
	for _, m := range row.FindAllStringSubmatch(tables, -1) {
		if m[1] == "scenarios" { // the head of a table
			continue
		}
		for name := range strings.SplitSeq(m[1], ", ") {
			named++
			if !slices.Contains(names, name) {
				t.Errorf("README.md names %s, which is no scenario", name)
			}
		}
	}
	if named == 0 {
		t.Error("found no scenario in README.md")
	}
}
