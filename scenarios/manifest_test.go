package scenarios_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/gapproof/gapproof/scenarios"
)

func mustManifests(t testing.TB, defaultNamespace string, paths ...string) *scenarios.Scenario {
	t.Helper()
	s, err := scenarios.FromManifests("simulated", paths, scenarios.ManifestOptions{DefaultNamespace: defaultNamespace})
	if err != nil {
		t.Fatalf("reading manifests %q:\n%v", paths, err)
	}
	return s
}

// told is what became of manifests, as text for a golden file.
func told(t testing.TB, s *scenarios.Scenario) string {
	t.Helper()
	world, err := yaml.Marshal(s.World)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.Write(world)
	for _, p := range s.Policies.Loaded {
		fmt.Fprintf(&b, "# policy %s/%s from %s:%d %s\n", p.Spec.Namespace, p.Spec.Name, p.File, p.Line, p.Template)
	}
	for _, o := range s.Omissions {
		fmt.Fprintf(&b, "# omitted: %s\n", o)
	}
	for _, kind := range slices.Sorted(maps.Keys(s.Ignored)) {
		fmt.Fprintf(&b, "# ignored: %d %s\n", s.Ignored[kind], kind)
	}
	return b.String()
}

func TestManifestsBecomeTheWorldThatTheyDescribe(t *testing.T) {
	for _, dir := range []string{"shop", "helm", "overlay/prod"} {
		t.Run(dir, func(t *testing.T) {
			name := "testdata/manifests/" + dir
			golden(t, "testdata/manifests/"+strings.ReplaceAll(dir, "/", "-")+".want", told(t, mustManifests(t, "shop", name)))
		})
	}
}

func TestManifestsFromAnFSEqualThoseOnDisk(t *testing.T) {
	onDisk := mustManifests(t, "shop", "testdata/manifests/shop", "testdata/manifests/overlay/prod")
	inFS, err := scenarios.FromManifestsFS(os.DirFS("."), "simulated", []string{"testdata/manifests/shop", "testdata/manifests/overlay/prod"}, scenarios.ManifestOptions{DefaultNamespace: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(onDisk, inFS); diff != "" {
		t.Errorf("scenarios differ (-disk +FS):\n%s", diff)
	}
}

func TestManifestsMayBeNamedInAnyOrderAndTwice(t *testing.T) {
	want := mustManifests(t, "shop", "testdata/manifests/shop/workloads.yaml", "testdata/manifests/shop/services.yml").World
	for _, paths := range [][]string{
		{"testdata/manifests/shop/services.yml", "testdata/manifests/shop/workloads.yaml"},
		{"testdata/manifests/shop", "testdata/manifests/shop/workloads.yaml"},
	} {
		if diff := cmp.Diff(want, mustManifests(t, "shop", paths...).World); diff != "" {
			t.Errorf("world of %q differs (-want +got):\n%s", paths, diff)
		}
	}
}

func TestWorldFromGivesTheWorldAndWhatItOmits(t *testing.T) {
	world, omissions, err := scenarios.WorldFrom("testdata/manifests/shop")
	if err != nil {
		t.Fatal(err)
	}
	s := mustManifests(t, "", "testdata/manifests/shop")
	if diff := cmp.Diff(s.World, world); diff != "" {
		t.Errorf("world differs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(s.Omissions, omissions); diff != "" {
		t.Errorf("omissions differ (-want +got):\n%s", diff)
	}
}

func TestScenarioTakesItsWorldAndPoliciesFromManifestsAndAddsToThem(t *testing.T) {
	s := mustLoad(t, "testdata/derived/from-manifests.yaml")[0]
	golden(t, "testdata/derived/from-manifests.want", told(t, s))
	if s.World.From != nil || s.World.DefaultNamespace != "" {
		t.Errorf("want the world in place of From, got %q %q", s.World.From, s.World.DefaultNamespace)
	}
}

func TestFaultsOfManifestsAreAllToldWithTheirPlaces(t *testing.T) {
	files, err := filepath.Glob("testdata/manifests/bad/*")
	if err != nil || len(files) == 0 {
		t.Fatalf("finding bad manifests: %d, %v", len(files), err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, ".want") {
			continue
		}
		t.Run(filepath.Base(file), func(t *testing.T) {
			s, err := scenarios.FromManifests("simulated", []string{file}, scenarios.ManifestOptions{})
			var faults scenarios.Faults
			if !errors.As(err, &faults) || s != nil {
				t.Fatalf("want faults and nothing else, got %v, %v", s, err)
			}
			golden(t, strings.TrimSuffix(file, ".yaml")+".want", faults.Error()+"\n")
		})
	}
}

func TestManifestsOfNoPathAreAFault(t *testing.T) {
	_, err := scenarios.FromManifests("simulated", nil, scenarios.ManifestOptions{})
	if want := ".: no path is given (name files or directories of manifests)"; err == nil || err.Error() != want {
		t.Errorf("want %q, got %v", want, err)
	}
}

func FuzzFromManifests(f *testing.F) {
	for _, pattern := range []string{"testdata/manifests/*/*.y*ml", "testdata/manifests/*/*/*.yaml", "testdata/policies/*.yaml"} {
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
		s, err := scenarios.FromManifestsFS(fstest.MapFS{"m.yaml": {Data: content}}, "fuzzed", []string{"m.yaml"}, scenarios.ManifestOptions{DefaultNamespace: "x"})
		var faults scenarios.Faults
		switch {
		case err != nil && (!errors.As(err, &faults) || len(faults) == 0 || s != nil):
			t.Fatalf("want faults and nothing else, got %v", err)
		case err == nil && (len(s.World.Namespaces) == 0 || len(s.Steps) != 1):
			t.Fatal("want a world and one step")
		}
	})
}
