// Command render prints the manifest of a Helm chart, the same bytes for the same input: custom resource definitions first, then the
// chart's objects in the order of their templates' names.
//
// It asks no cluster: what a chart would look up is empty, and what the cluster is said to be comes from the flags. The trap: a
// chart that makes up keys or passwords renders something else each time. The second rendering beside the first finds those, and
// they are refused.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
)

// request is what to render.
type request struct {
	// chart is the chart's folder.
	chart string
	// values is YAML laid over the chart's own values; empty for none.
	values []byte
	// definitions are manifests, or folders of them, that go ahead of the chart's, for custom resources whose definitions a controller
	// would install.
	definitions []string
	// name and namespace are the release's, kubeVersion the version of Kubernetes that the chart is told, such as "v1.37.2".
	name, namespace, kubeVersion string
}

// manifestExt is what the names of charts' templates and of manifests end in. Helm itself would render a template of any name.
const manifestExt = ".yaml"

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "render:", err)
		os.Exit(1)
	}
}

// run renders what args ask for onto out.
func run(args []string, out io.Writer) error {
	var r request
	flags := flag.NewFlagSet("render", flag.ContinueOnError)
	flags.StringVar(&r.chart, "chart", "", "the chart's folder")
	flags.Func("values", "file of values laid over the chart's own", func(name string) (err error) {
		r.values, err = os.ReadFile(name)
		return err
	})
	flags.StringVar(&r.name, "name", "", "name of the release")
	flags.StringVar(&r.namespace, "namespace", "", "namespace of the release")
	flags.StringVar(&r.kubeVersion, "kube-version", "", "version of Kubernetes to render for")
	flags.Func("definitions", "manifest, or folder of manifests, that goes ahead of the chart's; may be repeated", func(path string) error {
		r.definitions = append(r.definitions, path)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected arguments %q", flags.Args())
	}
	first, err := r.render()
	if err != nil {
		return fmt.Errorf("rendering %s: %w", r.chart, err)
	}
	second, err := r.render()
	if err != nil {
		return fmt.Errorf("rendering %s again: %w", r.chart, err)
	}
	if line, ok := differ(first, second); ok {
		return fmt.Errorf("rendering %s: it makes something else each time, first at %q: choose values that make up nothing", r.chart, line)
	}
	_, err = out.Write(first)
	return err
}

// render gives the whole manifest.
func (r request) render() ([]byte, error) {
	loaded, err := loader.LoadDir(r.chart)
	if err != nil {
		return nil, fmt.Errorf("loading the chart: %w", err)
	}
	capabilities := chartutil.DefaultCapabilities.Copy()
	version, err := chartutil.ParseKubeVersion(r.kubeVersion)
	if err != nil {
		return nil, fmt.Errorf("reading the version of Kubernetes %q: %w", r.kubeVersion, err)
	}
	capabilities.KubeVersion = *version
	if want := loaded.Metadata.KubeVersion; want != "" && !chartutil.IsCompatibleRange(want, version.Version) {
		return nil, fmt.Errorf("the chart wants Kubernetes %s, not %s", want, version.Version)
	}
	given, err := chartutil.ReadValues(r.values)
	if err != nil {
		return nil, fmt.Errorf("reading values: %w", err)
	}
	release := chartutil.ReleaseOptions{Name: r.name, Namespace: r.namespace, Revision: 1, IsInstall: true}
	values, err := chartutil.ToRenderValues(loaded, given, release, capabilities)
	if err != nil {
		return nil, fmt.Errorf("merging values: %w", err)
	}
	rendered, err := engine.Engine{Strict: false}.Render(loaded, values) // a chart's own defaults may leave values out
	if err != nil {
		return nil, fmt.Errorf("executing templates: %w", err)
	}
	var out bytes.Buffer
	if err := r.writeDefinitions(&out, loaded); err != nil {
		return nil, err
	}
	names := make([]string, 0, len(rendered))
	for name := range rendered {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		if base := path.Base(name); strings.HasPrefix(base, "_") || path.Ext(base) != manifestExt { // partials and notes
			continue
		}
		writeDocument(&out, []byte(rendered[name]))
	}
	if out.Len() == 0 {
		return nil, errors.New("nothing came out")
	}
	return out.Bytes(), nil
}

// writeDefinitions writes what goes ahead of the chart's objects: what was named, then the chart's own definitions.
func (r request) writeDefinitions(out *bytes.Buffer, loaded *chart.Chart) error {
	for _, named := range r.definitions {
		names := []string{named}
		if path.Ext(named) != manifestExt {
			var err error
			if names, err = filepath.Glob(filepath.Join(named, "*"+manifestExt)); err != nil {
				return fmt.Errorf("listing definitions in %s: %w", named, err)
			}
		}
		if len(names) == 0 {
			return fmt.Errorf("listing definitions in %s: there is no %s file", named, manifestExt)
		}
		sort.Strings(names)
		for _, name := range names {
			data, err := os.ReadFile(name)
			if err != nil {
				return fmt.Errorf("reading a definition: %w", err)
			}
			writeDocument(out, data)
		}
	}
	for _, d := range loaded.CRDObjects() {
		writeDocument(out, d.File.Data)
	}
	return nil
}

// writeDocument adds YAML to the stream, apart from what is before it. What holds nothing but blanks is left out.
func writeDocument(out *bytes.Buffer, data []byte) {
	data = bytes.TrimSpace(data)
	data = bytes.TrimSpace(bytes.TrimPrefix(data, []byte("---")))
	if len(data) == 0 {
		return
	}
	out.WriteString("---\n")
	out.Write(data)
	out.WriteByte('\n')
}

// differ gives the first line of a that b has otherwise.
func differ(a, b []byte) (line string, ok bool) {
	if bytes.Equal(a, b) {
		return "", false
	}
	left, right := strings.Split(string(a), "\n"), strings.Split(string(b), "\n")
	for n := range left {
		if n >= len(right) || left[n] != right[n] {
			return strings.TrimSpace(left[n]), true
		}
	}
	return "the end", true
}
