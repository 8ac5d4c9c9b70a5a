package bundle

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// chartInputs is everything that decides a rendered manifest: the renderer, the chart, and what is laid over it.
type chartInputs struct {
	Renderer, Chart string
	Spec            Chart
	Values          string   // its checksum
	Definitions     []string // the versions and checksums of their modules
}

// modulePath is a place in a module that a chart is rendered from.
type modulePath struct{ module, version, from string }

// chartStep renders a chart into a file beside the images.
func (p *plan) chartStep(ctx context.Context, c *Component, f FileSpec) (*step, error) {
	renderer, err := p.buildStep(ctx, chartRenderer)
	if err != nil {
		return nil, err
	}
	in := chartInputs{Renderer: renderer.key, Spec: *f.Chart}
	pin := func(module, from string) (modulePath, string, error) {
		version, sum, err := pinned(ctx, goProjectOf(c), module)
		return modulePath{module, version, from}, strings.Join([]string{module, version, sum, from}, " "), err
	}
	chart, key, err := pin(f.Module, f.From)
	if err != nil {
		return nil, err
	}
	in.Chart = key
	var definitions []modulePath
	for _, d := range f.Chart.Definitions {
		folder, key, err := pin(d.Module, d.From)
		if err != nil {
			return nil, err
		}
		definitions, in.Definitions = append(definitions, folder), append(in.Definitions, key)
	}
	var values []byte
	if f.Chart.Values != "" {
		if values, err = os.ReadFile(filepath.Join(c.dir, filepath.FromSlash(f.Chart.Values))); err != nil {
			return nil, fmt.Errorf("reading the values of %s: %w", f.Path, err)
		}
		in.Values = sumBytes(values)
	}
	s := &step{title: "chart " + f.Path, needs: []*step{renderer}}
	if s.key, err = keyOf("chart", in); err != nil {
		return nil, err
	}
	s.run = func(ctx context.Context, dir string, e *entry) error {
		for _, m := range append(definitions, chart) {
			e.Built = append(e.Built, m.module+" "+m.version)
		}
		e.Built = sortedUnique(append(e.Built, renderer.entry.Built...))
		data, err := p.renderChart(ctx, c, *f.Chart, chart, definitions, values)
		if err != nil {
			return fmt.Errorf("rendering %s: %w", f.Path, err)
		}
		return os.WriteFile(filepath.Join(dir, filepath.Base(f.Path)), data, 0o444)
	}
	return p.shared(s), nil
}

// renderChart runs the renderer. It gets the values that were keyed, whatever has become of their file since.
func (p *plan) renderChart(ctx context.Context, c *Component, spec Chart, chart modulePath, definitions []modulePath, values []byte) ([]byte, error) {
	renderer, err := p.binaryPath(chartRenderer)
	if err != nil {
		return nil, err
	}
	at := func(m modulePath) (string, error) {
		dir, err := moduleDir(ctx, goProjectOf(c), m.module)
		return filepath.Join(dir, filepath.FromSlash(m.from)), err
	}
	dir, err := at(chart)
	if err != nil {
		return nil, err
	}
	args := []string{"-chart", dir, "-name", spec.Name, "-namespace", spec.Namespace, "-kube-version", spec.KubeVersion}
	for _, d := range definitions {
		if dir, err = at(d); err != nil {
			return nil, err
		}
		args = append(args, "-definitions", dir)
	}
	render := command{dir: c.dir, env: []string{}}
	if values != nil {
		args, render.stdin = append(args, "-values", "/dev/stdin"), strings.NewReader(string(values))
	}
	out, err := render.output(ctx, renderer, args...)
	return []byte(out + "\n"), err
}
