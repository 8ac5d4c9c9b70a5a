package bundle

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// componentFile is the name of the description in each component's folder.
const componentFile = "component.yaml"

// Component is one folder of images/: what is built there and which images carry it.
type Component struct {
	// Name is the folder's name. Other components refer to its binaries as "<name>/<binary>" and to its root as "<name>".
	Name string `yaml:"-"`
	// Order says what is built first: lower before higher, equals by name. Nothing depends on it but the wait for a first cluster.
	Order int `yaml:"order"`
	// Profile restricts the component to builds that ask for it: a CNI's name, or "race". Empty means every lab.
	Profile string `yaml:"profile"`
	// Builds are the go builds, each one run of the go command.
	Builds []Build `yaml:"builds"`
	// Root is a Debian root file system that images can stand on, or nil.
	Root *Root `yaml:"root"`
	// Images are the component's images.
	Images []ImageSpec `yaml:"images"`
	// Files travel beside the images.
	Files []FileSpec `yaml:"files"`

	dir string // absolute path of the folder
}

// Build is one run of "go build" for binaries that share their flags.
type Build struct {
	// Name is unique in the component and names the step in progress reports.
	Name string `yaml:"name"`
	// Dir is the folder with the go.mod to build in, relative to the component's folder. Empty means the folder itself.
	Dir string `yaml:"dir"`
	// Module is the required module whose version is recorded in the lock and stands for "{version}" in Stamps. Empty for our
	// own code.
	Module string `yaml:"module"`
	// Toolchain is the GOTOOLCHAIN to build with. Empty means "local", the Go in use.
	Toolchain string `yaml:"toolchain"`
	// Binaries maps a binary's name to its package.
	Binaries map[string]string `yaml:"binaries"`
	// Tags are build tags.
	Tags []string `yaml:"tags"`
	// Cgo links against C libraries of the host; otherwise binaries are static.
	Cgo bool `yaml:"cgo"`
	// Debian names the packages that a cgo build needs on the host.
	Debian []string `yaml:"debian"`
	// Stamps are string variables set by the linker.
	Stamps map[string]string `yaml:"stamps"`
}

// Root is a Debian root file system, built by mmdebstrap from the archives this host uses.
type Root struct {
	// Suite is the Debian release, such as "bookworm".
	Suite string `yaml:"suite"`
	// Packages are installed besides what is essential, without recommendations.
	Packages []string `yaml:"packages"`
	// Drop lists globs of paths without leading slash that are left out.
	Drop []string `yaml:"drop"`
}

// ImageSpec is one image: a Debian root if it has one, then one layer of contents.
type ImageSpec struct {
	// Name and Tag are the reference that manifests ask for.
	Name string `yaml:"name"`
	Tag  string `yaml:"tag"`
	// Root is the component whose Debian root the image stands on. Empty means an image of its contents alone.
	Root string `yaml:"root"`
	// Contents is laid over the root.
	Contents []Content `yaml:"contents"`
	// Entrypoint, Command, Env, User, WorkingDir and StopSignal are the image's configuration, as the OCI image specification
	// has them.
	Entrypoint []string `yaml:"entrypoint"`
	Command    []string `yaml:"command"`
	Env        []string `yaml:"env"`
	User       string   `yaml:"user"`
	WorkingDir string   `yaml:"workingDir"`
	StopSignal string   `yaml:"stopSignal"`
	// MaxSize refuses the image if its blobs are larger together, in bytes. Zero means no limit.
	MaxSize int64 `yaml:"maxSize"`
}

// Content is one entry, or one tree, of an image's layer. Exactly one of Binary, Module, Text, Link, Directory and Run is set.
type Content struct {
	// To is the absolute path in the image.
	To string `yaml:"to"`
	// Binary is "<component>/<binary>".
	Binary string `yaml:"binary"`
	// Module is a module required by the component's go.mod; From is the file or folder inside it.
	Module string `yaml:"module"`
	From   string `yaml:"from"`
	// Executable lists the folders of From whose files get mode 0755 instead of 0644.
	Executable []string `yaml:"executable"`
	// Edits change text files of the module on the way.
	Edits []Edit `yaml:"edits"`
	// Text is the file's whole content. It is a pointer so that an empty file can be asked for.
	Text *string `yaml:"text"`
	// Link is the target of a symbolic link.
	Link string `yaml:"link"`
	// Directory makes an empty directory.
	Directory bool `yaml:"directory"`
	// Run is a static binary, "<component>/<binary>", and its arguments; the file is the JSON object it prints. Merge is laid
	// over that as a JSON merge patch (RFC 7386).
	Run   []string       `yaml:"run"`
	Merge map[string]any `yaml:"merge"`
	// Owner is the numeric user and group of the entry.
	Owner int `yaml:"owner"`
}

// Edit replaces one place of a text file. The place must occur exactly once, so that an edit that no longer fits is noticed.
type Edit struct {
	// File is relative to the content's From.
	File    string `yaml:"file"`
	Find    string `yaml:"find"`
	Replace string `yaml:"replace"`
}

// FileSpec is one file beside the images, taken from a module or from the component's own folder, or rendered from a chart.
type FileSpec struct {
	// Path is where it lies below the lab's files folder.
	Path string `yaml:"path"`
	// Module is a module required by the component's go.mod; From is the file inside it, or with Chart the chart's folder. An empty
	// Module is the component's folder.
	Module string `yaml:"module"`
	From   string `yaml:"from"`
	// Chart has From rendered as a Helm chart; nil takes it as it is.
	Chart *Chart `yaml:"chart"`
}

// Chart says how a Helm chart becomes a manifest. Rendering asks no cluster, and a chart that makes up keys is refused.
type Chart struct {
	// Name and Namespace are the release's.
	Name      string `yaml:"name"`
	Namespace string `yaml:"namespace"`
	// KubeVersion is the Kubernetes that the chart is rendered for, such as "v1.37.2".
	KubeVersion string `yaml:"kubeVersion"`
	// Values is a file in the component's folder that is laid over the chart's own values. Empty means none.
	Values string `yaml:"values"`
	// Definitions are manifests ahead of the chart's, for custom resources whose definitions a controller would install.
	Definitions []Definitions `yaml:"definitions"`
}

// Definitions is a manifest, or a folder of them, in a module required by the component's go.mod.
type Definitions struct {
	Module string `yaml:"module"`
	From   string `yaml:"from"`
}

// chartRenderer is the binary that renders charts.
const chartRenderer = "helm/render"

// ReadComponents reads every folder of dir that holds a component.yaml, in build order. The error lists every fault of every
// component, each with its file and field.
func ReadComponents(dir string) ([]*Component, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("reading components: %w", err)
	}
	names, err := filepath.Glob(filepath.Join(abs, "*", componentFile))
	if err != nil {
		return nil, fmt.Errorf("reading components in %s: %w", dir, err)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("reading components: %s has no folder with a %s", dir, componentFile)
	}
	var components []*Component
	var faults []error
	for _, name := range names {
		c, err := readComponent(name)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		components = append(components, c)
	}
	// References between components are only judged when all of them could be read: else every one would be reported twice.
	if len(faults) == 0 {
		faults = validateComponents(components)
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	sort.SliceStable(components, func(a, b int) bool { return components[a].Order < components[b].Order })
	return components, nil
}

// goTypeInMessage is the part of the YAML decoder's messages that speaks of our Go types rather than of the file.
var goTypeInMessage = regexp.MustCompile(` (in|into) (type )?bundle\.\w+|!!`)

func readComponent(name string) (*Component, error) {
	dir := filepath.Dir(name)
	short := filepath.Join(filepath.Base(dir), componentFile)
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", short, err)
	}
	c, err := decodeComponent(data, short)
	if err != nil {
		return nil, err
	}
	c.Name, c.dir = filepath.Base(dir), dir
	return c, nil
}

// decodeComponent decodes a component.yaml strictly. The error lists every unknown field and every value of a wrong type.
func decodeComponent(data []byte, short string) (*Component, error) {
	var c Component
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		var typed *yaml.TypeError
		if !errors.As(err, &typed) {
			return nil, fmt.Errorf("reading %s: %w", short, err)
		}
		var faults []error
		for _, e := range typed.Errors {
			faults = append(faults, fmt.Errorf("reading %s: %s", short, goTypeInMessage.ReplaceAllString(e, "")))
		}
		return nil, errors.Join(faults...)
	}
	return &c, nil
}

// faultList gathers faults under a file and field.
type faultList struct {
	file   string
	faults []error
}

func (l *faultList) add(field, format string, args ...any) {
	l.faults = append(l.faults, fmt.Errorf("%s: %s: %w", l.file, field, fmt.Errorf(format, args...)))
}

// validateComponents reports every fault of the components together, references between them included.
func validateComponents(components []*Component) []error {
	binaries, roots, profiles := map[string]string{}, map[string]bool{}, map[string]string{}
	for _, c := range components {
		profiles[c.Name] = c.Profile
		roots[c.Name] = c.Root != nil
		for _, b := range c.Builds {
			for name := range b.Binaries {
				binaries[c.Name+"/"+name] = c.Profile
			}
		}
	}
	references := map[string]string{} // image reference → component
	var faults []error
	for _, c := range components {
		l := &faultList{file: filepath.Join(c.Name, componentFile)}
		l.builds(c)
		if r := c.Root; r != nil {
			if !suiteForm.MatchString(r.Suite) {
				l.add("root.suite", "%q is not a Debian release name", r.Suite)
			}
			for n, p := range r.Packages {
				if !packageForm.MatchString(p) {
					l.add(fmt.Sprintf("root.packages[%d]", n), "%q is not a Debian package name", p)
				}
			}
			for n, g := range r.Drop {
				if _, err := path.Match(g, ""); err != nil || strings.HasPrefix(g, "/") {
					l.add(fmt.Sprintf("root.drop[%d]", n), "%q is not a glob relative to the root", g)
				}
			}
		}
		for n, i := range c.Images {
			field := fmt.Sprintf("images[%d]", n)
			ref := i.Name + ":" + i.Tag
			if !nameForm.MatchString(i.Name) {
				l.add(field+".name", "%q is not a repository with its registry host", i.Name)
			}
			if !tagForm.MatchString(i.Tag) {
				l.add(field+".tag", "%q is not a tag", i.Tag)
			}
			if other, ok := references[ref]; ok {
				l.add(field, "%s is built by %s already", ref, other)
			}
			references[ref] = c.Name
			if i.Root != "" && !roots[i.Root] {
				l.add(field+".root", "component %q has no root", i.Root)
			}
			if i.User != "" && !userForm.MatchString(i.User) {
				l.add(field+".user", "%q is not numeric; names need a passwd file that the kubelet cannot read", i.User)
			}
			if i.Root == "" && len(i.Contents) == 0 {
				l.add(field+".contents", "an image without a root needs contents")
			}
			if i.MaxSize < 0 {
				l.add(field+".maxSize", "%d is negative", i.MaxSize)
			}
			l.contents(c, i, field, binaries)
		}
		for n, f := range c.Files {
			field := fmt.Sprintf("files[%d]", n)
			if !filepath.IsLocal(filepath.FromSlash(f.Path)) {
				l.add(field+".path", "%q leaves the lab directory", f.Path)
			}
			if !filepath.IsLocal(filepath.FromSlash(f.From)) {
				l.add(field+".from", "%q is not a path inside the module, or inside the folder where none is named", f.From)
			}
			if f.Chart != nil {
				l.chart(f, field, binaries)
			}
		}
		faults = append(faults, l.faults...)
	}
	return faults
}

func (l *faultList) chart(f FileSpec, field string, binaries map[string]string) {
	if profile, ok := binaries[chartRenderer]; !ok || profile != "" {
		l.add(field+".chart", "no component builds %q for every profile", chartRenderer)
	}
	if f.Module == "" {
		l.add(field+".chart", "a chart is rendered from a module, and none is named")
	}
	c, field := f.Chart, field+".chart"
	for _, required := range []struct{ name, value string }{{"name", c.Name}, {"namespace", c.Namespace}, {"kubeVersion", c.KubeVersion}} {
		if required.value == "" {
			l.add(field+"."+required.name, "is required")
		}
	}
	if c.Values != "" && !filepath.IsLocal(filepath.FromSlash(c.Values)) {
		l.add(field+".values", "%q is not a path inside the folder", c.Values)
	}
	for n, d := range c.Definitions {
		if d.Module == "" || !filepath.IsLocal(filepath.FromSlash(d.From)) {
			l.add(fmt.Sprintf("%s.definitions[%d]", field, n), "%q of module %q is not a path inside a module", d.From, d.Module)
		}
	}
}

func (l *faultList) builds(c *Component) {
	seen, owner := map[string]bool{}, map[string]string{}
	for n, b := range c.Builds {
		field := fmt.Sprintf("builds[%d]", n)
		if b.Name == "" || seen[b.Name] {
			l.add(field+".name", "%q is empty or taken", b.Name)
		}
		seen[b.Name] = true
		if len(b.Binaries) == 0 {
			l.add(field+".binaries", "none given")
		}
		if b.Toolchain != "" && !toolchainForm.MatchString(b.Toolchain) {
			l.add(field+".toolchain", "%q is not a Go release such as go1.23.8", b.Toolchain)
		}
		if b.Cgo && len(b.Debian) == 0 {
			l.add(field+".debian", "a cgo build names the packages it needs on the host")
		}
		made := map[string]string{} // what the go command calls it → ours
		for _, name := range sortedKeys(b.Binaries) {
			if name == "" || strings.ContainsRune(name, '/') {
				l.add(field+".binaries", "%q is not a file name", name)
			}
			if first, ok := owner[name]; ok {
				l.add(field+".binaries", "%s is built by %s already", name, first)
			}
			owner[name] = b.Name
			exe := executableName(b.Binaries[name])
			if other, ok := made[exe]; ok && exe != "" {
				l.add(field+".binaries", "%s and %s are both called %s by the go command; use two builds", other, name, exe)
			}
			made[exe] = name
		}
		for _, s := range sortedKeys(b.Stamps) {
			if strings.ContainsAny(s+b.Stamps[s], " '\"") {
				l.add(field+".stamps", "%s=%s holds a space or quote, which the linker's flags cannot carry", s, b.Stamps[s])
			}
			if strings.Contains(b.Stamps[s], versionPlaceholder) && b.Module == "" {
				l.add(field+".stamps", "%s wants the version of a module, and none is named", s)
			}
		}
	}
}

// mergedDirs are links in Debian's root. An entry below one would turn the link into a directory and hide what is behind it.
var mergedDirs = []string{"bin", "sbin", "lib", "lib64"}

func (l *faultList) contents(c *Component, i ImageSpec, field string, binaries map[string]string) {
	taken := map[string]bool{}
	for n, e := range i.Contents {
		field := fmt.Sprintf("%s.contents[%d]", field, n)
		if kinds := e.kinds(); len(kinds) != 1 {
			l.add(field, "needs one of binary, module, text, link, directory and run, got %d: %s", len(kinds), strings.Join(kinds, ", "))
		}
		if !path.IsAbs(e.To) || path.Clean(e.To) != e.To {
			l.add(field+".to", "%q is not a clean absolute path", e.To)
		} else if first, _, deeper := strings.Cut(e.To[1:], "/"); i.Root != "" && deeper && slices.Contains(mergedDirs, first) {
			l.add(field+".to", "%s lies below a link of Debian's root; write below /usr/%s", e.To, first)
		}
		if taken[e.To] {
			l.add(field+".to", "%s is written twice", e.To)
		}
		taken[e.To] = true
		for _, ref := range e.references() {
			profile, ok := binaries[ref]
			switch {
			case !ok:
				l.add(field, "no component builds %q", ref)
			case profile != "" && profile != c.Profile:
				l.add(field, "%q is only built for profile %q", ref, profile)
			}
		}
		if e.Module != "" && !filepath.IsLocal(filepath.FromSlash(e.From)) {
			l.add(field+".from", "%q is not a path inside the module", e.From)
		}
		if e.Module == "" && (e.From != "" || len(e.Executable) > 0 || len(e.Edits) > 0) {
			l.add(field, "from, executable and edits belong to a module")
		}
		if len(e.Merge) > 0 && len(e.Run) == 0 {
			l.add(field+".merge", "belongs to run")
		}
		for m, d := range e.Edits {
			if d.File == "" || d.Find == "" {
				l.add(fmt.Sprintf("%s.edits[%d]", field, m), "needs a file and what to find in it")
			}
		}
		if e.Owner < 0 {
			l.add(field+".owner", "%d is negative", e.Owner)
		}
	}
}

// references lists the binaries that the entry needs, as "<component>/<binary>".
func (e Content) references() []string {
	var refs []string
	if e.Binary != "" {
		refs = append(refs, e.Binary)
	}
	if len(e.Run) > 0 {
		refs = append(refs, e.Run[0])
	}
	return refs
}

func (e Content) kinds() []string {
	var kinds []string
	for _, k := range []struct {
		name string
		set  bool
	}{
		{"binary", e.Binary != ""}, {"module", e.Module != ""}, {"text", e.Text != nil},
		{"link", e.Link != ""}, {"directory", e.Directory}, {"run", len(e.Run) > 0},
	} {
		if k.set {
			kinds = append(kinds, k.name)
		}
	}
	return kinds
}

// Forms of what ends up as a name in an image reference or as an argument of mmdebstrap.
var (
	suiteForm   = regexp.MustCompile(`^[a-z]+$`)
	packageForm = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)
	nameForm    = regexp.MustCompile(`^[a-z0-9.-]+\.[a-z0-9]+(/[a-z0-9._-]+)+$`)
	tagForm     = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	// toolchainForm is a release that the go command can fetch by name.
	toolchainForm = regexp.MustCompile(`^go1\.[0-9]+\.[0-9]+$`)
	userForm      = regexp.MustCompile(`^[0-9]+(:[0-9]+)?$`)
	majorForm     = regexp.MustCompile(`^v[0-9]+$`)
)

// executableName is what "go build" calls the binary of a package: the last element of its path that is not a major version.
// It is empty for ".", whose name comes from the module.
func executableName(pkg string) string {
	base := path.Base(pkg)
	if majorForm.MatchString(base) {
		if n, err := strconv.Atoi(base[1:]); err == nil && n >= 2 {
			base = path.Base(path.Dir(pkg))
		}
	}
	if base == "." {
		return ""
	}
	return base
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
