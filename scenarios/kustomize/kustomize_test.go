package kustomize_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/kustomize/api/types"

	"github.com/gapproof/gapproof/scenarios/kustomize"
)

const object = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\n"

func file(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }

// forbidGit puts a git that leaves a trace in front of the real one.
func forbidGit(t testing.TB) (trace string) {
	t.Helper()
	dir := t.TempDir()
	trace = filepath.Join(dir, "git-was-run")
	if err := os.WriteFile(filepath.Join(dir, "git"), []byte("#!/bin/sh\n: >"+trace+"\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	return trace
}

func TestBuildRefusesWhatWouldBeFetchedOrExecuted(t *testing.T) {
	tests := []struct{ name, kustomization, field string }{
		{"an address as a resource", `resources: ["https://127.0.0.1:1/x.yaml"]`, "resources[0]"},
		{"an address in other letters", `resources: ["HTTPS://127.0.0.1:1/x.yaml"]`, "resources[0]"},
		{"a repository by its host alone", `resources: [github.com/example/repo]`, "resources[0]"},
		{"a repository in other letters", `resources: [GitHub.com/example/repo]`, "resources[0]"},
		{"a repository with a revision", `resources: ["ssh://git@127.0.0.1/repo.git?ref=main"]`, "resources[0]"},
		{"a repository as scp writes it", `resources: ["git@127.0.0.1:example/repo.git"]`, "resources[0]"},
		{"a user and a host", `resources: ["git@127.0.0.1/example/repo.git"]`, "resources[0]"},
		{"a repository with a forced protocol", `resources: ["git::127.0.0.1/example/repo"]`, "resources[0]"},
		{"a repository among the files", `resources: ["file:///repo"]`, "resources[0]"},
		{"a base", `bases: ["https://127.0.0.1:1/repo//base"]`, "bases[0]"},
		{"a key in other letters", `Resources: ["https://127.0.0.1:1/x.yaml"]`, "resources[0]"},
		{"an address through an anchor", "commonAnnotations: {at: &at \"https://127.0.0.1:1/x.yaml\"}\nresources: [*at]", "resources[0]"},
		{"a component", `components: ["https://127.0.0.1:1/repo"]`, "components[0]"},
		{"a definition of a resource", `crds: ["https://127.0.0.1:1/crd.json"]`, "crds[0]"},
		{"a configuration", `configurations: ["https://127.0.0.1:1/c.yaml"]`, "configurations[0]"},
		{"a patch", `patches: [{path: "https://127.0.0.1:1/p.yaml"}]`, "patches[0].path"},
		{"a strategic merge patch", `patchesStrategicMerge: ["https://127.0.0.1:1/p.yaml"]`, "patchesStrategicMerge[0]"},
		{"a JSON patch", `patchesJson6902: [{path: "https://127.0.0.1:1/p.yaml"}]`, "patchesJson6902[0].path"},
		{"a replacement", `replacements: [{path: "https://127.0.0.1:1/r.yaml"}]`, "replacements[0].path"},
		{"a schema", `openapi: {path: "https://127.0.0.1:1/schema.json"}`, "openapi.path"},
		{"a file of a ConfigMap", `configMapGenerator: [{name: c, files: ["key=https://127.0.0.1:1/f"]}]`, "configMapGenerator[0].files[0]"},
		{"an environment of a ConfigMap", `configMapGenerator: [{name: c, envs: ["https://127.0.0.1:1/f"]}]`, "configMapGenerator[0].envs[0]"},
		{"the one environment of a Secret", `secretGenerator: [{name: c, env: "https://127.0.0.1:1/f"}]`, "secretGenerator[0].env"},
		{"a generator", `generators: [g.yaml]`, "generators"},
		{"a transformer written in place", "transformers:\n- |-\n  apiVersion: builtin\n  kind: PatchTransformer\n  metadata: {name: p}\n  path: https://127.0.0.1:1/p.yaml", "transformers"},
		{"a validator", `validators: [v.yaml]`, "validators"},
		{"a chart", `helmCharts: [{name: web}]`, "helmCharts"},
		{"a chart as it was written once", `helmChartInflationGenerator: [{chartName: web}]`, "helmCharts"},
		{"an absolute path", `resources: [/etc/hosts]`, "resources[0]"},
		{"a file that is not there", `resources: [absent.yaml]`, "resources[0]"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			trace := forbidGit(t)
			tree := fstest.MapFS{
				"top/kustomization.yaml": file("resources: [../base]\n"), "base/kustomization.yaml": file(tt.kustomization),
				"base/github.com/example/repo/kustomization.yaml": file("resources: [one.yaml]\n"), "base/github.com/example/repo/one.yaml": file(object),
			}
			rendered, err := kustomize.Build(tree, "top")
			var refusals kustomize.Refusals
			if !errors.As(err, &refusals) || rendered != nil {
				t.Fatalf("want refusals and nothing else, got %v, %v", rendered, err)
			}
			if len(refusals) != 1 || refusals[0].File != "base/kustomization.yaml" || refusals[0].Field != tt.field {
				t.Errorf("want one refusal of %s in base/kustomization.yaml, got %v", tt.field, refusals)
			}
			if _, err := os.Stat(trace); err == nil {
				t.Error("want git never run")
			}
		})
	}
}

func TestEveryFieldOfAKustomizationIsEitherCheckedOrNamesNoFile(t *testing.T) {
	harmless := []string{ // as of the version in go.mod; a new field is to be looked at
		"TypeMeta", "MetaData", "NamePrefix", "NameSuffix", "Namespace", "CommonLabels", "Labels", "CommonAnnotations", "Images", "ImageTags",
		"Replicas", "Vars", "SortOptions", "GeneratorOptions", "BuildMetadata", "HelmGlobals",
	}
	checked := []string{
		"OpenAPI", "PatchesStrategicMerge", "PatchesJson6902", "Patches", "Replacements", "Resources", "Components", "Crds", "Bases",
		"ConfigMapGenerator", "SecretGenerator", "HelmCharts", "HelmChartInflationGenerator", "Configurations", "Generators", "Transformers", "Validators",
	}
	of := reflect.TypeFor[types.Kustomization]()
	for i := range of.NumField() {
		if name := of.Field(i).Name; !slices.Contains(harmless, name) && !slices.Contains(checked, name) {
			t.Errorf("want field %s of a kustomization checked for paths, or listed as harmless", name)
		}
	}
}

func TestBuildTellsEveryRefusalOfEveryBase(t *testing.T) {
	tree := fstest.MapFS{
		"top/kustomization.yaml": file("resources: [../a, ../b, ../empty]\nvalidators: [v.yaml]\n"),
		"a/kustomization.yaml":   file("resources: ['https://127.0.0.1:1/x']\n"),
		"b/kustomization.yml":    file("resorces: []\n"),
		"empty/one.yaml":         file(object),
	}
	_, err := kustomize.Build(tree, "top")
	want := `top/kustomization.yaml: validators: validators are plugins, and none is run
a/kustomization.yaml: resources[0]: https://127.0.0.1:1/x is not a local path, and nothing is fetched
b/kustomization.yml: json: unknown field "resorces"
top/kustomization.yaml: empty holds no kustomization file`
	if err == nil || err.Error() != want {
		t.Errorf("refusals differ (-want +got):\n%s", cmp.Diff(want, err.Error()))
	}
}

func TestBuildRendersBasesPatchesAndGenerators(t *testing.T) {
	tree := fstest.MapFS{
		"kustomization.yaml": file("resources: [base]\ncomponents: [extra]\nnamespace: x\npatches: [{path: patch.yaml}]\n" +
			"configMapGenerator: [{name: made, files: [key=data.txt], options: {disableNameSuffixHash: true}}]\n"),
		"patch.yaml":               file(object + "data: {patched: \"yes\"}\n"),
		"data.txt":                 file("text"),
		"base/Kustomization":       file("resources: [one.yaml]\n"),
		"base/one.yaml":            file(object),
		"extra/kustomization.yaml": file("apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\nlabels: [{pairs: {a: b}}]\n"),
		"unread.yaml":              file(object),
	}
	got, err := kustomize.Build(tree, ".")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"namespace: x", "patched: \"yes\"", "a: b", "key: text"} {
		if !strings.Contains(string(got.YAML), want) {
			t.Errorf("want %q in\n%s", want, got.YAML)
		}
	}
	files := []string{"base/Kustomization", "base/one.yaml", "data.txt", "extra/kustomization.yaml", "kustomization.yaml", "patch.yaml"}
	if diff := cmp.Diff(files, got.Files); diff != "" {
		t.Errorf("files that were read differ (-want +got):\n%s", diff)
	}
}

func TestBuildReadsNoFileAboveItsKustomization(t *testing.T) {
	tree := fstest.MapFS{"secret.yaml": file(object), "top/kustomization.yaml": file("resources: [../secret.yaml]\n")}
	if got, err := kustomize.Build(tree, "top"); err == nil || got != nil {
		t.Errorf("want an error and nothing else, got %v, %v", got, err)
	}
}

func FuzzBuild(f *testing.F) {
	f.Add("resources: [one.yaml]\n")
	f.Add("resources: ['https://127.0.0.1:1/x']\n")
	f.Add("namespace: x\nnamePrefix: a-\nresources: [one.yaml]\npatches: [{patch: '[{op: remove, path: /data}]', target: {kind: ConfigMap}}]\n")
	f.Add("bases: [github.com/a/b]\n")
	f.Fuzz(func(t *testing.T, kustomization string) {
		trace := forbidGit(t)
		got, err := kustomize.Build(fstest.MapFS{"kustomization.yaml": file(kustomization), "one.yaml": file(object)}, ".")
		if (err == nil) == (got == nil) {
			t.Fatalf("want either an error or a rendering, got %v, %v", got, err)
		}
		if _, err := os.Stat(trace); err == nil {
			t.Fatal("want git never run")
		}
	})
}
