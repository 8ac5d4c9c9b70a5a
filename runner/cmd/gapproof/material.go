package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gapproof/gapproof/runner/manifest"
	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/scenarios"
)

// maxManifest bounds one file that is read: a whole cluster written out stays below it, a disk image given by mistake does not.
const maxManifest = 64 << 20

// standardInput is the argument that stands for it, as in kubectl.
const standardInput = "-"

// material is what the arguments of lint and explain hold: a scenario with a set per step, or all the manifests as one set.
type material struct {
	scenario string // its file; empty for manifests
	steps    []step
}

// step is one step of a scenario; manifests have one without a name.
type step struct {
	name string
	set  *manifest.Set
}

func (m *material) sets() []*manifest.Set {
	out := make([]*manifest.Set, len(m.steps))
	for i := range m.steps {
		out[i] = m.steps[i].set
	}
	return out
}

// readMaterial reads files and directories (*.yaml, *.yml, *.json at any depth; hidden ones left out). Scenarios stand each for itself, manifests are all
// one world. Every error is a usage error.
func readMaterial(stdin io.Reader, paths []string, namespace string) ([]material, error) {
	files, err := readFiles(stdin, paths)
	if err != nil {
		return nil, usageError{err}
	}
	var out []material
	var plain []manifest.File
	var ofScenarios []string
	used := map[string]struct{}{}
	for _, f := range files {
		switch version, kind := manifest.Kind(f.Content); {
		case version == scenarios.APIVersion && kind == scenarios.Kind:
			ofScenarios = append(ofScenarios, f.Name)
		case version == scenarios.APIVersion:
		default:
			plain = append(plain, f)
		}
	}
	if len(ofScenarios) > 0 {
		all, err := scenarios.Load(ofScenarios...)
		if err != nil {
			return nil, err
		}
		for _, s := range all {
			for _, p := range s.Policies.Loaded {
				used[p.File] = struct{}{}
			}
			m, err := scenarioMaterial(s)
			if err != nil {
				return nil, err
			}
			out = append(out, m)
		}
	}
	plain = slices.DeleteFunc(plain, func(f manifest.File) bool { _, is := used[f.Name]; return is })
	if len(plain) == 0 {
		return out, nil
	}
	set, err := manifest.Read(plain, manifest.Options{Namespace: namespace})
	if err != nil {
		return nil, usageError{err}
	}
	if len(set.Policies) == 0 && len(set.Places) == 0 {
		if len(out) == 0 {
			return nil, hinted{usageError{fmt.Errorf("reading %s: no NetworkPolicy, Namespace or workload", strings.Join(paths, ", "))}, "name manifests or scenario files"}
		}
		return out, nil
	}
	return append(out, material{steps: []step{{set: set}}}), nil
}

func readFiles(stdin io.Reader, paths []string) ([]manifest.File, error) {
	var out []manifest.File
	seen := map[string]struct{}{}
	add := func(name string) error {
		name = filepath.Clean(name)
		if _, twice := seen[name]; twice {
			return nil
		}
		seen[name] = struct{}{}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		content, err := readBounded(f)
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("reading %s: %w", name, err)
		}
		out = append(out, manifest.File{Name: name, Content: content})
		return nil
	}
	for _, p := range paths {
		if p == standardInput {
			content, err := readBounded(stdin)
			if err != nil {
				return nil, fmt.Errorf("reading standard input: %w", err)
			}
			out = append(out, manifest.File{Name: "<stdin>", Content: content})
			continue
		}
		info, err := os.Stat(p)
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			if err := add(p); err != nil {
				return nil, err
			}
			continue
		}
		err = filepath.WalkDir(p, func(name string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case strings.HasPrefix(d.Name(), ".") && name != p && d.IsDir():
				return filepath.SkipDir
			case strings.HasPrefix(d.Name(), ".") || !d.Type().IsRegular():
				return nil
			}
			switch filepath.Ext(name) {
			case ".yaml", ".yml", ".json":
				return add(name)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func readBounded(r io.Reader) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(r, maxManifest+1))
	if err == nil && len(content) > maxManifest {
		err = fmt.Errorf("has more than %d MiB", maxManifest>>20)
	}
	return content, err
}

// scenarioMaterial is a scenario with one set per step, addresses invented.
func scenarioMaterial(s *scenarios.Scenario) (material, error) {
	p, err := planOffline(s)
	if err != nil {
		return material{}, err
	}
	l := scenarioLines{contents: map[string][]byte{}}
	places, err := l.places(s)
	if err != nil {
		return material{}, usageError{err}
	}
	m := material{scenario: s.File}
	for _, st := range p.Steps {
		set := &manifest.Set{World: st.World, Services: servicesOf(s), Places: places, Pods: manifest.SomePods}
		for _, bare := range st.Policies {
			lines, err := l.policy(bare)
			if err != nil {
				return material{}, usageError{err}
			}
			set.Policies = append(set.Policies, manifest.Policy{Policy: bare, Lines: lines})
		}
		m.steps = append(m.steps, step{st.Name, set})
	}
	return m, nil
}

func servicesOf(s *scenarios.Scenario) []manifest.Service {
	var out []manifest.Service
	for _, svc := range s.World.Services {
		made := manifest.Service{Namespace: svc.Namespace, Name: svc.Name, Selector: svc.Selector}
		for _, p := range svc.Ports {
			made.Ports = append(made.Ports, manifest.ServicePort{Protocol: p.Protocol, Port: p.Port, Target: p.TargetPort})
		}
		out = append(out, made)
	}
	return out
}

// scenarioLines finds lines in the files of scenarios, each file read once.
type scenarioLines struct{ contents map[string][]byte }

func (l *scenarioLines) content(file string) ([]byte, error) {
	if c, known := l.contents[file]; known {
		return c, nil
	}
	c, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", file, err)
	}
	l.contents[file] = c
	return c, nil
}

func (l *scenarioLines) policy(p reach.Policy) (manifest.Lines, error) {
	content, err := l.content(p.File)
	if err != nil {
		return nil, err
	}
	return manifest.LinesAt(content, p.Line, p.Spec.Name), nil
}

// places are where the world's namespaces and pods are written.
func (l *scenarioLines) places(s *scenarios.Scenario) (map[string]manifest.Place, error) {
	file, root := s.File, "world."
	if s.WorldFile != "" {
		file, root = s.WorldFile, ""
	}
	content, err := l.content(file)
	if err != nil {
		return nil, err
	}
	lines := manifest.DocumentLines(content)
	places := map[string]manifest.Place{}
	for i, ns := range s.World.Namespaces {
		at := fmt.Sprintf("%snamespaces[%d]", root, i)
		places[ns.Name] = manifest.Place{File: file, Line: lines.Of(at)}
		for j, p := range ns.Pods {
			places[ns.Name+"/"+p.Name] = manifest.Place{File: file, Line: lines.Of(fmt.Sprintf("%s.pods[%d]", at, j))}
		}
	}
	return places, nil
}

// prefixes reads the CIDRs of a flag.
func prefixes(flag string, values []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, v := range values {
		p, err := netip.ParsePrefix(v)
		if err != nil {
			return nil, usageError{fmt.Errorf("--%s: %q is not a CIDR", flag, v)}
		}
		out = append(out, p.Masked())
	}
	return out, nil
}
