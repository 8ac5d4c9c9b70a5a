package bundle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/gapproof/gapproof/runner/bundle/upstream"
)

// layerRecipe is part of the key of a layer of contents. It changes when the same contents shall give another layer.
const layerRecipe = 1

// step is one unit of work with an output in the cache.
type step struct {
	title   string // for people, and for the record of times
	key     string
	needs   []*step // run before it, if it has to run
	tools   []tool  // what the host needs for it
	network bool    // it waits for archives and disks more than for a processor, so it runs beside the others
	run     func(ctx context.Context, dir string, e *entry) error

	entry *entry        // its output, once there is one
	ended chan struct{} // of a step that has to run: closed when entry is there
}

// tool is something that a step needs on the host.
type tool struct {
	debian  string
	present func(ctx context.Context) bool
}

// imagePlan is one image and the steps that give its layers, lowest first, or the step that pulls it.
type imagePlan struct {
	component *Component
	spec      *ImageSpec
	layers    []*step
	pull      *step  // instead of layers, for an image that is pulled
	digest    string // of its index
	inventory *step
}

// filePlan is one file beside the images and the step that fetches it.
type filePlan struct {
	spec FileSpec
	step *step
}

// plan is what a build has to do.
type plan struct {
	images []imagePlan
	files  []filePlan
	steps  []*step // what has to run because the cache does not have it, needs before needers

	cache    *cache
	log      *slog.Logger
	pulls    pulls
	all      map[string]*Component
	binaries map[string]*binaryOrigin // by "<component>/<binary>"
	known    map[string]*step         // by key: two images may need one step
}

// binaryOrigin is the build that makes a binary.
type binaryOrigin struct {
	component *Component
	build     *Build
	step      *step // made when it is first asked for
}

// newPlan finds the steps of everything in chosen, and which of them the cache has not.
func newPlan(ctx context.Context, all, chosen []*Component, store *cache, log *slog.Logger, pulls pulls) (*plan, error) {
	p := &plan{
		cache: store, log: log, pulls: pulls,
		all: map[string]*Component{}, binaries: map[string]*binaryOrigin{}, known: map[string]*step{},
	}
	for _, c := range all {
		p.all[c.Name] = c
		for n := range c.Builds {
			origin := &binaryOrigin{component: c, build: &c.Builds[n]}
			for name := range origin.build.Binaries {
				p.binaries[c.Name+"/"+name] = origin
			}
		}
	}
	for _, c := range chosen {
		for n := range c.Images {
			if err := p.addImage(ctx, c, &c.Images[n]); err != nil {
				return nil, err
			}
		}
		for _, f := range c.Files {
			s, err := p.fileStep(ctx, c, f)
			if err != nil {
				return nil, err
			}
			if err := p.require(s); err != nil {
				return nil, err
			}
			p.files = append(p.files, filePlan{spec: f, step: s})
		}
	}
	return p, nil
}

func (p *plan) addImage(ctx context.Context, c *Component, i *ImageSpec) error {
	ip := imagePlan{component: c, spec: i}
	if from, ok := p.pulls.images[i.Name+":"+i.Tag]; ok {
		return p.addPull(ip, from)
	}
	if i.Root != "" {
		s, err := p.rootStep(p.all[i.Root])
		if err != nil {
			return err
		}
		ip.layers = append(ip.layers, s)
	}
	if len(i.Contents) > 0 {
		s, err := p.layerStep(ctx, c, i)
		if err != nil {
			return err
		}
		ip.layers = append(ip.layers, s)
	}
	for _, s := range ip.layers {
		if err := p.require(s); err != nil {
			return err
		}
	}
	var err error
	if ip.inventory, err = p.inventoryStep(i, ip.layers, func() (v1.Image, error) { return stacked(ip.layers) }); err != nil {
		return err
	}
	if err := p.require(ip.inventory); err != nil {
		return err
	}
	p.images = append(p.images, ip)
	return nil
}

// addPull plans an image that is pulled.
func (p *plan) addPull(ip imagePlan, from upstream.Image) error {
	var err error
	if ip.pull, err = p.pullStep(from); err != nil {
		return err
	}
	ip.digest = from.Digest
	ip.inventory, err = p.inventoryStep(ip.spec, []*step{ip.pull}, func() (v1.Image, error) { return openPulled(ip.pull.entry, from.Digest) })
	if err != nil {
		return err
	}
	for _, s := range []*step{ip.pull, ip.inventory} {
		if err := p.require(s); err != nil {
			return err
		}
	}
	p.images = append(p.images, ip)
	return nil
}

// require takes the output of s from the cache, or schedules s and what it needs.
func (p *plan) require(s *step) error {
	if s.entry != nil || slices.Contains(p.steps, s) {
		return nil
	}
	e, err := p.cache.get(s.key)
	if err == nil {
		s.entry = e
		return nil
	}
	if !errors.Is(err, errMiss) {
		return err
	}
	if err != errMiss {
		p.log.Warn("cache entry not sound, building again", "step", s.title, "err", err)
	}
	for _, n := range s.needs {
		if err := p.require(n); err != nil {
			return err
		}
	}
	s.ended = make(chan struct{})
	p.steps = append(p.steps, s)
	return nil
}

// shared returns the step already planned under the key of s, or s.
func (p *plan) shared(s *step) *step {
	if known, ok := p.known[s.key]; ok {
		return known
	}
	p.known[s.key] = s
	return s
}

// buildStep is the go build that makes the binary ref.
func (p *plan) buildStep(ctx context.Context, ref string) (*step, error) {
	origin := p.binaries[ref] // validateComponents has refused references to nothing
	if origin.step != nil {
		return origin.step, nil
	}
	c, b := origin.component, origin.build
	in, version, err := goBuildInputs(ctx, c, b)
	if err != nil {
		return nil, err
	}
	key, err := keyOf("go", in)
	if err != nil {
		return nil, err
	}
	s := &step{title: "go build " + strings.Join(sortedKeys(b.Binaries), " "), key: key}
	for _, d := range b.Debian {
		s.tools = append(s.tools, debianTool(d))
	}
	s.run = func(ctx context.Context, dir string, e *entry) error {
		if b.Module != "" {
			e.Built = []string{b.Module + " " + version}
		}
		return goBuild(ctx, c, b, version, dir)
	}
	origin.step = p.shared(s)
	return origin.step, nil
}

// rootStep builds the Debian root of c.
func (p *plan) rootStep(c *Component) (*step, error) {
	key, err := keyOf("root", c.Root.inputs())
	if err != nil {
		return nil, err
	}
	s := &step{title: "Debian " + c.Root.Suite + " for " + c.Name, key: key, network: true, tools: rootTools()}
	s.run = func(ctx context.Context, dir string, e *entry) error {
		scratch, err := p.cache.scratch()
		if err != nil {
			return err
		}
		e.DiffID, e.Built, err = buildRoot(ctx, c.Root, scratch, dir)
		return errors.Join(err, os.RemoveAll(scratch))
	}
	return p.shared(s), nil
}

// layerInputs is everything that decides a layer of contents.
type layerInputs struct {
	Recipe   int
	Contents []Content
	From     []string // per content: what its references stand for
}

// layerStep makes the layer with the contents of i.
func (p *plan) layerStep(ctx context.Context, c *Component, i *ImageSpec) (*step, error) {
	s := &step{title: "layer of " + i.Name}
	in := layerInputs{Recipe: layerRecipe, Contents: i.Contents}
	for _, e := range i.Contents {
		from := ""
		for _, ref := range e.references() {
			b, err := p.buildStep(ctx, ref)
			if err != nil {
				return nil, err
			}
			s.needs, from = append(s.needs, b), b.key
		}
		if e.Module != "" {
			version, sum, err := pinned(ctx, goProjectOf(c), e.Module)
			if err != nil {
				return nil, err
			}
			from = version + " " + sum
		}
		in.From = append(in.From, from)
	}
	var err error
	if s.key, err = keyOf("layer", in); err != nil {
		return nil, err
	}
	s.run = func(ctx context.Context, dir string, e *entry) error {
		for _, n := range s.needs {
			e.Built = append(e.Built, n.entry.Built...)
		}
		for k, content := range i.Contents {
			if content.Module != "" {
				version, _, _ := strings.Cut(in.From[k], " ")
				e.Built = append(e.Built, content.Module+" "+version)
			}
		}
		e.Built = sortedUnique(e.Built)
		items, err := i.items(ctx, c, p.binaryPath)
		if err != nil {
			return err
		}
		e.DiffID, err = writeItems(dir, items)
		return err
	}
	return p.shared(s), nil
}

// binaryPath is the file of a binary whose build has run.
func (p *plan) binaryPath(ref string) (string, error) {
	e := p.binaries[ref].step.entry
	name := path.Base(ref)
	if _, ok := e.file(name); !ok {
		return "", fmt.Errorf("finding binary %s: %q left no such file", ref, e.Step)
	}
	return e.path(name), nil
}

// fileStep fetches a file beside the images from its module, or from the component's folder.
func (p *plan) fileStep(ctx context.Context, c *Component, f FileSpec) (*step, error) {
	switch {
	case f.Chart != nil:
		return p.chartStep(ctx, c, f)
	case f.Module == "":
		return p.ownFileStep(c, f)
	}
	version, sum, err := pinned(ctx, goProjectOf(c), f.Module)
	if err != nil {
		return nil, err
	}
	key, err := keyOf("file", []string{f.Module, version, sum, f.From})
	if err != nil {
		return nil, err
	}
	s := &step{title: "file " + f.Path, key: key}
	s.run = func(ctx context.Context, dir string, e *entry) error {
		e.Built = []string{f.Module + " " + version}
		from, err := moduleDir(ctx, goProjectOf(c), f.Module)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(filepath.Join(from, filepath.FromSlash(f.From)))
		if err != nil {
			return fmt.Errorf("fetching %s: %w", f.Path, err)
		}
		return os.WriteFile(filepath.Join(dir, path.Base(f.From)), data, 0o444)
	}
	return p.shared(s), nil
}

// ownFileStep copies a file of the component's folder. Its content is the key, so what is copied is what was keyed.
func (p *plan) ownFileStep(c *Component, f FileSpec) (*step, error) {
	data, err := os.ReadFile(filepath.Join(c.dir, filepath.FromSlash(f.From)))
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", f.Path, err)
	}
	key, err := keyOf("own file", []string{c.Name, f.From, sumBytes(data)})
	if err != nil {
		return nil, err
	}
	s := &step{title: "file " + f.Path, key: key}
	s.run = func(_ context.Context, dir string, e *entry) error {
		e.Built = []string{"images/" + c.Name}
		return os.WriteFile(filepath.Join(dir, path.Base(f.From)), data, 0o444)
	}
	return p.shared(s), nil
}

// goProjectOf is where the modules that c takes files from are pinned: its own go.mod, read by the toolchain it builds with.
func goProjectOf(c *Component) goProject {
	p := goProject{dir: c.dir, toolchain: "local"}
	for _, b := range c.Builds {
		if b.Dir == "" && b.Toolchain != "" {
			p.toolchain = b.Toolchain
		}
	}
	return p
}

// pinned is the version and the checksum of module in p.
func pinned(ctx context.Context, p goProject, module string) (version, sum string, err error) {
	if version, err = requiredVersion(ctx, p, module); err != nil {
		return "", "", err
	}
	sum, err = moduleSum(p, module, version)
	return version, sum, err
}

// missingPackages lists the Debian packages that the steps to run need and the host lacks.
func (p *plan) missingPackages(ctx context.Context) []string {
	var missing []string
	for _, s := range p.steps {
		for _, t := range s.tools {
			if !t.present(ctx) {
				missing = append(missing, t.debian)
			}
		}
	}
	return sortedUnique(missing)
}

// run runs the steps that the cache has not. The first that fails ends the others.
func (p *plan) run(ctx context.Context, r *reporter) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, network := range []bool{true, false} {
		g.Go(func() error {
			for _, s := range p.steps {
				if s.network != network {
					continue
				}
				if err := stopped(ctx); err != nil {
					return err
				}
				if err := p.runStep(ctx, s, r); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

func (p *plan) runStep(ctx context.Context, s *step, r *reporter) error {
	for _, n := range s.needs {
		if err := n.wait(ctx); err != nil {
			return err
		}
	}
	finished := r.begin(s.title)
	e, err := p.cache.put(s.key, s.title, func(dir string, e *entry) error { return s.run(ctx, dir, e) })
	if err != nil {
		return err
	}
	s.entry = e
	close(s.ended)
	return finished()
}

// wait waits for the output of a step that runs beside the caller's. It does not where the cache had it.
func (s *step) wait(ctx context.Context) error {
	if s.ended == nil {
		return nil
	}
	select {
	case <-s.ended:
		return nil
	case <-ctx.Done():
		return stopped(ctx)
	}
}

// debianTool tells whether the host has what a Debian package provides, without asking dpkg: the host may have it from elsewhere.
func debianTool(name string) tool {
	t := tool{debian: name}
	switch name {
	case "libc6-dev":
		t.present = compiles("#include <stdlib.h>")
	case "libseccomp-dev":
		t.present = compiles("#include <seccomp.h>")
	default: // packages named after their one program
		t.present = func(context.Context) bool { return found(name) }
	}
	return t
}

// compiles reports whether the C compiler accepts code. Without a compiler nobody can tell, and the compiler itself is missed.
func compiles(code string) func(context.Context) bool {
	return func(ctx context.Context) bool {
		if !found("gcc") {
			return true
		}
		err := command{dir: "/", stdin: strings.NewReader(code)}.run(ctx, "gcc", "-fsyntax-only", "-x", "c", "-")
		return err == nil
	}
}

func rootTools() []tool {
	var tools []tool
	for _, p := range rootPrograms {
		tools = append(tools, tool{debian: p.debian, present: func(context.Context) bool { return found(p.program) }})
	}
	return tools
}

func sortedUnique(list []string) []string {
	list = slices.Clone(list)
	sort.Strings(list)
	return slices.Compact(list)
}
