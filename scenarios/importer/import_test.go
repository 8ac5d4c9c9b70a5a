package importer_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/gapproof/gapproof/scenarios"
	"github.com/gapproof/gapproof/scenarios/importer"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t testing.TB, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatalf("%v; `go test ./scenarios/importer -update` writes it", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got):\n%s", name, diff)
	}
}

func content(t testing.TB, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// read imports a file by what its name says it is.
func read(t testing.TB, file string) (*importer.Import, error) {
	t.Helper()
	if strings.HasPrefix(filepath.Base(file), "cyclonus") {
		return importer.Cyclonus(file, content(t, file))
	}
	return importer.Netassert(file, content(t, file), importer.NetassertOptions{})
}

func files(t testing.TB, i *importer.Import) []importer.File {
	t.Helper()
	list, err := i.Files()
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestImportsAreScenariosThatLoadAndTellWhatTheyLeaveOut(t *testing.T) {
	for _, file := range []string{"netassert.yaml", "cyclonus-model.json", "cyclonus-cases.json"} {
		t.Run(file, func(t *testing.T) {
			imported, err := read(t, "testdata/"+file)
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			tree := fstest.MapFS{}
			for _, f := range files(t, imported) {
				fmt.Fprintf(&b, "# %s\n%s", f.Name, f.Content)
				tree[f.Name] = &fstest.MapFile{Data: f.Content}
			}
			for _, o := range imported.Omissions {
				fmt.Fprintf(&b, "# omitted: %s\n", o)
			}
			golden(t, "testdata/"+strings.TrimSuffix(file, filepath.Ext(file))+".want", b.String())
			loaded, err := scenarios.LoadFS(tree, ".")
			if err != nil {
				t.Fatalf("loading what was imported:\n%v", err)
			}
			if len(loaded) != len(imported.Scenarios) {
				t.Errorf("want %d scenarios, got %d", len(imported.Scenarios), len(loaded))
			}
		})
	}
}

func TestNetassertTakesItsWorldFromManifests(t *testing.T) {
	imported, err := importer.Netassert("tests.yaml", content(t, "testdata/netassert.yaml"), importer.NetassertOptions{Manifests: []string{"manifests"}})
	if err != nil {
		t.Fatal(err)
	}
	want := scenarios.World{From: []string{"manifests"}}
	if diff := cmp.Diff(want, imported.Scenarios[0].World); diff != "" {
		t.Errorf("world differs (-want +got):\n%s", diff)
	}
	workload := func(kind, namespace, name string) string {
		return fmt.Sprintf("apiVersion: apps/v1\nkind: %s\nmetadata: {name: %s, namespace: %s}\nspec: {template: {spec: {containers: [{ports: [{containerPort: 8080}, {containerPort: 53, protocol: UDP}]}]}}}\n---\n", kind, name, namespace)
	}
	tree := fstest.MapFS{
		"tests.yaml": {Data: files(t, imported)[0].Content},
		"manifests/m.yaml": {Data: []byte(workload("Deployment", "shop", "front") + workload("StatefulSet", "back", "api") +
			"apiVersion: v1\nkind: Pod\nmetadata: {name: stranger, namespace: other}\n")},
	}
	if _, err := scenarios.LoadFS(tree, "tests.yaml"); err != nil {
		t.Errorf("want names as world.from gives them, got\n%v", err)
	}
}

func TestNetassertOfHostsAloneGivesNoScenario(t *testing.T) {
	imported, err := importer.Netassert("t.yaml", []byte("- {name: a, type: k8s, targetPort: 1, src: {k8sResource: {kind: pod, name: a, namespace: x}}, dst: {host: {name: h}}}\n"), importer.NetassertOptions{})
	if err != nil || len(imported.Scenarios) != 0 || len(imported.Omissions) != 1 {
		t.Errorf("want no scenario and one omission, got %+v, %v", imported, err)
	}
}

func TestFaultsAreAllToldWithTheirLines(t *testing.T) {
	list, err := filepath.Glob("testdata/bad/*[nl]") // .json and .yaml
	if err != nil || len(list) == 0 {
		t.Fatalf("finding bad files: %d, %v", len(list), err)
	}
	for _, file := range list {
		t.Run(filepath.Base(file), func(t *testing.T) {
			imported, err := read(t, file)
			var faults scenarios.Faults
			if !errors.As(err, &faults) || imported != nil {
				t.Fatalf("want faults and nothing else, got %v, %v", imported, err)
			}
			golden(t, file+".want", faults.Error()+"\n")
		})
	}
}

func fuzz(f *testing.F, pattern string, read func([]byte) (*importer.Import, error)) {
	for _, p := range []string{"testdata/" + pattern, "testdata/bad/" + pattern} {
		list, err := filepath.Glob(p)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range list {
			f.Add(content(f, file))
		}
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		imported, err := read(content)
		var faults scenarios.Faults
		switch {
		case err != nil && (!errors.As(err, &faults) || len(faults) == 0 || imported != nil):
			t.Fatalf("want faults and nothing else, got %v", err)
		case err == nil:
			names := map[string]struct{}{}
			for _, file := range files(t, imported) {
				if _, twice := names[file.Name]; twice {
					t.Fatalf("want each name once, got %s twice", file.Name)
				}
				names[file.Name] = struct{}{}
			}
		}
	})
}

func FuzzCyclonus(f *testing.F) {
	fuzz(f, "cyclonus*.json", func(b []byte) (*importer.Import, error) { return importer.Cyclonus("f.json", b) })
}

func FuzzNetassert(f *testing.F) {
	fuzz(f, "netassert*.yaml", func(b []byte) (*importer.Import, error) {
		return importer.Netassert("f.yaml", b, importer.NetassertOptions{})
	})
}
