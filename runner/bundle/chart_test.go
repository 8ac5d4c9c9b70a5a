package bundle

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gapproof/gapproof/images"
)

// charted is an images folder with a file that is rendered from a module of this repository's own go.mod, by a renderer which prints what
// it was asked.
func charted(t testing.TB) string {
	t.Helper()
	const module = "sigs.k8s.io/network-policy-api"
	sums, err := os.ReadFile("../../go.sum")
	if err != nil {
		t.Fatal(err)
	}
	var own []string
	for line := range strings.Lines(string(sums)) {
		if strings.HasPrefix(line, module+" ") {
			own = append(own, line)
		}
	}
	version := strings.Fields(own[0])[1]
	return writeFiles(t, map[string]string{
		"helm/go.mod": "module example.test/helm\n\ngo 1.26.0\n",
		"helm/main.go": `package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
)

func main() {
	for n, arg := range os.Args[1:] {
		if os.Args[n] == "-chart" || os.Args[n] == "-definitions" {
			arg = filepath.Base(arg)
		}
		fmt.Println(arg)
	}
	values, err := io.ReadAll(os.Stdin)
	fmt.Print(string(values), err)
}
`,
		"helm/component.yaml": "builds: [{name: render, binaries: {render: .}}]\n",
		"a/go.mod":            "module example.test/a\n\ngo 1.26.0\n\nrequire " + module + " " + version + "\n",
		"a/go.sum":            strings.Join(own, ""),
		"a/values.yaml":       "some: value\n",
		"a/component.yaml": `
files:
  - path: cni/a.yaml
    module: sigs.k8s.io/network-policy-api
    from: config
    chart: {name: a, namespace: kube-system, kubeVersion: v1.37.2, values: values.yaml, definitions: [{module: sigs.k8s.io/network-policy-api, from: config/crd}]}
`,
	})
}

func TestAChartIsRenderedOnceForTheSameInput(t *testing.T) {
	dst := filepath.Join(t.TempDir(), "lab")
	o := Options{ImagesDir: charted(t), CacheDir: t.TempDir()}
	lock, steps := build(t, dst, o)
	if d := cmp.Diff([]string{"go build render", "chart cni/a.yaml"}, steps); d != "" {
		t.Errorf("steps of the first build (-want +got):\n%s", d)
	}
	content := func(l *images.Lock) string {
		t.Helper()
		data, err := os.ReadFile(images.FilePath(dst, l.Files[0]))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	want := "-chart config -name a -namespace kube-system -kube-version v1.37.2 -definitions crd -values /dev/stdin some: value <nil>"
	if got := strings.Join(strings.Fields(content(lock)), " "); got != want {
		t.Errorf("the renderer was asked\n%s\nwant\n%s", got, want)
	}
	if got := lock.Files[0].Origin; !strings.HasPrefix(got, "sigs.k8s.io/network-policy-api v") || !strings.HasSuffix(got, " config") {
		t.Errorf("origin: %q, want the module with its version, and the folder in it", got)
	}

	if _, steps := build(t, dst, o); len(steps) > 0 {
		t.Errorf("steps of a second build: want none, got %q", steps)
	}
	first := content(lock)
	for name, change := range map[string]struct{ file, find, replace string }{
		"other values":            {"values.yaml", "value", "thing"},
		"another release":         {"component.yaml", "name: a,", "name: b,"},
		"other definitions":       {"component.yaml", "from: config/crd", "from: config/crd/standard"},
		"another Kubernetes":      {"component.yaml", "v1.37.2", "v1.38.0"},
		"another folder as chart": {"component.yaml", "from: config\n", "from: config/crd\n"},
	} {
		file := filepath.Join(o.ImagesDir, "a", change.file)
		before, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(strings.Replace(string(before), change.find, change.replace, 1)), 0o644); err != nil {
			t.Fatal(err)
		}
		if lock, steps := build(t, dst, o); len(steps) != 1 || content(lock) == first {
			t.Errorf("%s: steps %q; want the chart rendered again, to something else", name, steps)
		}
		if err := os.WriteFile(file, before, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
