package scenarios_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/gapproof/gapproof/scenarios"
	"github.com/gapproof/gapproof/scenarios/catalogue"
)

var update = flag.Bool("update", false, "rewrite the golden files and schema.json")

// golden compares got with the file name, or writes it.
func golden(t testing.TB, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatalf("%v; `go test ./scenarios -update` writes it", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got):\n%s", name, diff)
	}
}

func mustLoad(t testing.TB, paths ...string) []*scenarios.Scenario {
	t.Helper()
	list, err := scenarios.Load(paths...)
	if err != nil {
		t.Fatalf("loading %q:\n%v", paths, err)
	}
	return list
}

func loadFaults(t testing.TB, paths ...string) scenarios.Faults {
	t.Helper()
	list, err := scenarios.Load(paths...)
	var faults scenarios.Faults
	if !errors.As(err, &faults) || len(faults) == 0 {
		t.Fatalf("loading %q: want faults, got error %v", paths, err)
	}
	if list != nil {
		t.Errorf("loading %q: want no scenarios beside faults, got %d", paths, len(list))
	}
	return faults
}

func TestEveryRuleHasABadFileWithItsExactMessage(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("finding bad files: %d, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			golden(t, strings.TrimSuffix(file, ".yaml")+".want", loadFaults(t, file).Error()+"\n")
		})
	}
}

func TestFaultOfAPortThatIsNoneHasPathAndValue(t *testing.T) {
	for _, f := range loadFaults(t, "testdata/bad/port-70000.yaml") {
		if f.Field == "world.namespaces[0].pods[1].ports[0].port" {
			want := scenarios.Fault{
				File: "testdata/bad/port-70000.yaml", Line: 12, Field: f.Field, Value: "70000",
				Message: "70000 is not a port number from 1 to 65535",
			}
			if diff := cmp.Diff(want, f); diff != "" {
				t.Errorf("fault differs (-want +got):\n%s", diff)
			}
			return
		}
	}
	t.Error("want a fault of world.namespaces[0].pods[1].ports[0].port")
}

func TestMissingPathsAreFaultsEachWithAHint(t *testing.T) {
	got := loadFaults(t, "testdata/none.yaml", "testdata/nowhere/", "testdata/bad/empty-file.yaml").Error()
	want := `testdata/bad/empty-file.yaml: holds no document (a scenario begins with apiVersion: gapproof.dev/v1alpha1)
testdata/none.yaml: no such file or directory (name a scenario file or a directory of them)
testdata/nowhere: no such file or directory (name a scenario file or a directory of them)`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("faults differ (-want +got):\n%s", diff)
	}
}

func TestLoadFillsDefaultsAndKeepsOrigins(t *testing.T) {
	s := mustLoad(t, "testdata/good/good.yaml")[0]
	if s.WorldFile != "testdata/worlds/good-world.yaml" || s.World.File != "" {
		t.Errorf("want the world in place of its file, got WorldFile %q and World.File %q", s.WorldFile, s.World.File)
	}
	if diff := cmp.Diff([]scenarios.Port{{Port: 80, Protocol: "TCP"}}, s.World.Namespaces[0].Pods[0].Ports); diff != "" {
		t.Errorf("ports differ (-want +got):\n%s", diff)
	}
	type origin struct {
		Name, File string
		Line       int
	}
	var got []origin
	for _, p := range append(s.Policies.Loaded, s.Steps[1].Replacing...) {
		got = append(got, origin{p.Spec.Namespace + "/" + p.Spec.Name, p.File, p.Line})
	}
	want := []origin{
		{"x/zeroth", "testdata/good/good.yaml", 10},
		{"x/first", "testdata/policies/good.yaml", 2},
		{"x/second", "testdata/policies/good.yaml", 10},
		{"x/zeroth", "testdata/good/good.yaml", 18},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("origins differ (-want +got):\n%s", diff)
	}
	if p := s.Policies.Loaded[0].Spec.Spec; p.PolicyTypes != nil {
		t.Errorf("want policies as they were written, got policyTypes %v", p.PolicyTypes)
	}
}

const (
	smallScenario = `
apiVersion: gapproof.dev/v1alpha1
kind: Scenario
metadata: {name: small}
world: {namespaces: [{name: x, pods: [{name: a}]}]}
policies: {files: [policies.yaml]}
`
	smallPolicy = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: x}
spec: {}
`
)

func file(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }

func TestScenarioWithoutStepsHasOneThatAppliesEverything(t *testing.T) {
	list, err := scenarios.LoadFS(fstest.MapFS{"small.yaml": file(smallScenario), "policies.yaml": file(smallPolicy)}, ".")
	if err != nil {
		t.Fatal(err)
	}
	want := []scenarios.Step{{Name: "policies", Apply: []string{"*"}}}
	if diff := cmp.Diff(want, list[0].Steps); diff != "" {
		t.Errorf("steps differ (-want +got):\n%s", diff)
	}
}

func TestDirectoryHoldsScenariosAndWhatTheyReferTo(t *testing.T) {
	tests := []struct {
		name  string
		files fstest.MapFS
		want  string
	}{
		{"a scenario, the policy it names, a hidden file and a world", fstest.MapFS{
			"d/small.yaml": file(smallScenario), "d/policies.yaml": file(smallPolicy), "d/.hidden.yaml": file("["),
			"d/worlds/w.yaml": file("apiVersion: gapproof.dev/v1alpha1\nkind: World\nmetadata: {name: w}\nnamespaces: [{name: x}]\n"),
		}, ""},
		{"a policy that nobody names", fstest.MapFS{
			"d/small.yaml": file(smallScenario), "d/policies.yaml": file(smallPolicy), "d/forgotten.yml": file(smallPolicy),
		}, "d/forgotten.yml:3: kind: NetworkPolicy is not a Scenario (name the file in policies.files of a scenario)"},
		{"a world that nobody uses is checked too", fstest.MapFS{
			"d/small.yaml": file(smallScenario), "d/policies.yaml": file(smallPolicy),
			"d/worlds/w.yaml": file("apiVersion: gapproof.dev/v1alpha1\nkind: World\nmetadata: {name: w}\n"),
		}, "d/worlds/w.yaml:1: namespaces: is missing"},
		{"two scenarios of one name", fstest.MapFS{
			"d/small.yaml": file(smallScenario), "d/policies.yaml": file(smallPolicy),
			"d/e/small.yaml": file(smallScenario), "d/e/policies.yaml": file(smallPolicy),
		}, "d/small.yaml:4: metadata.name: small is the name of d/e/small.yaml too"},
		{"no scenario", fstest.MapFS{"d/README": file("")}, "d: holds no scenario (scenario files end in .yaml or .yml)"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := scenarios.LoadFS(test.files, "d")
			if diff := cmp.Diff(test.want, errorText(err)); diff != "" {
				t.Errorf("error differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFileThatIsNamedTwiceIsLoadedOnce(t *testing.T) {
	if list := mustLoad(t, "testdata/good/good.yaml", "testdata/good", "testdata/good/../good/good.yaml"); len(list) != 1 {
		t.Errorf("want one scenario, got %d", len(list))
	}
}

func TestFaultOfASharedWorldIsToldOnce(t *testing.T) {
	const text = "apiVersion: gapproof.dev/v1alpha1\nkind: Scenario\nmetadata: {name: %}\nworld: {file: worlds/w.yaml}\n"
	_, err := scenarios.LoadFS(fstest.MapFS{
		"a.yaml":        file(strings.ReplaceAll(text, "%", "a")),
		"b.yaml":        file(strings.ReplaceAll(text, "%", "b")),
		"worlds/w.yaml": file("apiVersion: gapproof.dev/v1alpha1\nkind: World\nmetadata: {name: w}\nnamespaces: [{name: X}]\n"),
	}, ".")
	want := `worlds/w.yaml:4: namespaces[0].name: "X" is not a DNS label (lower-case letters, digits and -)`
	if diff := cmp.Diff(want, errorText(err)); diff != "" {
		t.Errorf("error differs (-want +got):\n%s", diff)
	}
}

func TestAliasesCannotExhaustMemory(t *testing.T) {
	bomb := "apiVersion: gapproof.dev/v1alpha1\nkind: Scenario\nmetadata: {name: bomb}\nworld:\n  namespaces:\n  - &n\n    name: x\n    pods:\n    - &p\n      name: a\n      ports: &ports\n" +
		strings.Repeat("      - {port: 80}\n", 100) +
		strings.Repeat("    - *p\n", 200) + strings.Repeat("  - *n\n", 200)
	_, err := scenarios.LoadFS(fstest.MapFS{"bomb.yaml": file(bomb)}, "bomb.yaml")
	if err == nil || !strings.Contains(err.Error(), "more than 10000 values come from aliases (write the values out)") {
		t.Errorf("want a fault about aliases, got %.300v", err)
	}
	circle := "apiVersion: gapproof.dev/v1alpha1\nkind: Scenario\nmetadata: &m\n  name: circle\n  <<: *m\n"
	if _, err := scenarios.LoadFS(fstest.MapFS{"circle.yaml": file(circle)}, "circle.yaml"); err == nil {
		t.Error("want faults for a circular merge key")
	}
}

func TestMergeKeysGiveWayToWhatIsWritten(t *testing.T) {
	text := `
apiVersion: gapproof.dev/v1alpha1
kind: Scenario
metadata: {name: merged}
world:
  namespaces:
  - name: x
    pods:
    - &a {name: a, labels: {app: web}, node: a}
    - {<<: *a, name: b}
`
	list, err := scenarios.LoadFS(fstest.MapFS{"merged.yaml": file(text)}, "merged.yaml")
	if err != nil {
		t.Fatal(err)
	}
	b := list[0].World.Namespaces[0].Pods[1]
	if b.Name != "b" || b.Labels["app"] != "web" || b.Node != "a" {
		t.Errorf("want b with the labels and node of a, got %+v", b)
	}
}

func TestEmbeddedCatalogueIsTheCatalogueOfTheRepository(t *testing.T) {
	embedded, err := scenarios.LoadFS(catalogue.FS, ".")
	if err != nil {
		t.Fatal(err)
	}
	onDisk := mustLoad(t, "catalogue")
	if len(embedded) != len(onDisk) {
		t.Fatalf("want %d scenarios as on disk, got %d", len(onDisk), len(embedded))
	}
	for i, s := range embedded {
		if want, got := filepath.ToSlash(onDisk[i].File), "catalogue/"+s.File; want != got {
			t.Errorf("want %s, got %s", want, got)
		}
	}
}

func TestCatalogueStatesItsIntentAndHolesAreOnlyInExamples(t *testing.T) {
	worlds := map[string]struct{}{}
	for _, s := range mustLoad(t, "catalogue") {
		worlds[s.WorldFile] = struct{}{}
		if s.Metadata.Title == "" || len(s.Metadata.Tags) == 0 {
			t.Errorf("%s: want a title and tags", s.File)
		}
		for i, step := range s.Steps {
			expect := step.Expect
			if expect == nil && i == len(s.Steps)-1 {
				expect = s.Expect
			}
			open := slices.Contains(s.Metadata.Tags, "semantics-note") // the API itself promises nothing for some attempts
			if expect == nil || !expect.Exhaustive && !open {
				t.Errorf("%s: step %q: want intent that is exhaustive", s.File, step.Name)
			}
		}
		for _, tag := range s.Metadata.Tags {
			if tag == "hole" {
				t.Errorf("%s: a scenario that is meant to fail belongs to examples", s.File)
			}
		}
	}
	const few = 10 // each world costs a run the time to build it
	if len(worlds) > few {
		t.Errorf("want at most %d different worlds, got %d", few, len(worlds))
	}
	mustLoad(t, "examples")
}

func FuzzLoad(f *testing.F) {
	for _, pattern := range []string{"testdata/bad/*.yaml", "testdata/good/*.yaml", "catalogue/*/*.yaml", "examples/*.yaml"} {
		files, err := filepath.Glob(pattern)
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
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		tree := fstest.MapFS{"f.yaml": {Data: content}, "worlds/f.yaml": {Data: content}}
		list, err := scenarios.LoadFS(tree, "f.yaml")
		var faults scenarios.Faults
		switch {
		case err != nil && (!errors.As(err, &faults) || len(faults) == 0 || list != nil):
			t.Fatalf("want faults and nothing else, got %v", err)
		case err == nil && (len(list) != 1 || len(list[0].Steps) == 0 || len(list[0].World.Namespaces) == 0):
			t.Fatal("want one scenario with a world and steps")
		}
	})
}
