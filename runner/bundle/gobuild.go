package bundle

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"strings"
)

const (
	// versionPlaceholder in a stamp stands for the version of the build's module.
	versionPlaceholder = "{version}"
	// goos and goarch are the platform of the images: the lab's nodes share the kernel of a Linux host.
	goos = "linux"
	// compilerFlags leave out what debuggers read. The linker would drop it anyway (-s -w); not making it saves an eighth of the
	// compile time.
	compilerFlags = "all=-dwarf=false"
)

// goarch is the architecture that is built: the host's own, because cgo and mmdebstrap build for that.
const goarch = runtime.GOARCH

// goProject gives what decides a go build besides its component.yaml.
type goProject struct {
	dir       string
	toolchain string
}

func (b *Build) project(c *Component) goProject {
	p := goProject{dir: filepath.Join(c.dir, filepath.FromSlash(b.Dir)), toolchain: b.Toolchain}
	if p.toolchain == "" {
		p.toolchain = "local"
	}
	return p
}

// env is the environment of the go command: the host's settings for where modules come from and how they are checked, and our own
// for everything that changes the output.
func (p goProject) env(cgo string) []string {
	ours := map[string]string{
		"CGO_ENABLED": cgo, "GOOS": goos, "GOARCH": goarch, "GOTOOLCHAIN": p.toolchain,
		"GOFLAGS": "", "GOWORK": "off", "GOEXPERIMENT": "", "GODEBUG": "", "GOAMD64": "v1", "GOARM64": "v8.0",
		"CGO_CFLAGS": "-O2", "CGO_LDFLAGS": "", "CC": "gcc",
	}
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		_, set := ours[name]
		return set
	})
	for _, k := range sortedKeys(ours) {
		env = append(env, k+"="+ours[k])
	}
	return env
}

// command runs the go command in p.
func (p goProject) command(cgo string) command { return command{dir: p.dir, env: p.env(cgo)} }

func cgoSetting(b *Build) string {
	if b.Cgo {
		return "1"
	}
	return "0"
}

// goBuildKey is everything that decides the binaries of a build.
type goBuildKey struct {
	Go, Compiler, Platform string
	Binaries               map[string]string
	Tags                   []string
	Cgo                    bool
	LinkerFlags            []string
	CompilerFlags          string
	Sources                []string
}

// linkerFlags drops symbols and debug information and sets the stamps.
func (b *Build) linkerFlags(version string) []string {
	flags := []string{"-s", "-w"}
	for _, name := range sortedKeys(b.Stamps) {
		flags = append(flags, "-X", name+"="+strings.ReplaceAll(b.Stamps[name], versionPlaceholder, version))
	}
	return flags
}

// goBuildInputs finds the build's key and the version of its module without building anything and, for a component with a go.mod
// of its own, without any of its modules at hand.
func goBuildInputs(ctx context.Context, c *Component, b *Build) (key goBuildKey, version string, err error) {
	p := b.project(c)
	key = goBuildKey{
		Platform: goos + "/" + goarch, Binaries: b.Binaries, Tags: b.Tags, Cgo: b.Cgo, CompilerFlags: compilerFlags,
	}
	if b.Module != "" {
		if version, err = requiredVersion(ctx, p, b.Module); err != nil {
			return key, "", err
		}
	}
	key.LinkerFlags = b.linkerFlags(version)
	if key.Go = p.toolchain; p.toolchain == "local" {
		if key.Go, err = p.command(cgoSetting(b)).output(ctx, "go", "env", "GOVERSION"); err != nil {
			return key, "", err
		}
	}
	if b.Cgo && found("gcc") {
		if key.Compiler, err = (command{dir: p.dir}).output(ctx, "gcc", "-dumpfullversion", "-dumpmachine"); err != nil {
			return key, "", err
		}
	}
	key.Sources, err = goSources(ctx, c, b)
	return key, version, err
}

// goSources identifies the code of a build. A component's own go.mod and go.sum pin all of it but the component's own files. A
// build in the repository's root module is identified by the packages it really imports, because that go.mod changes for reasons
// that do not concern an image.
func goSources(ctx context.Context, c *Component, b *Build) ([]string, error) {
	p := b.project(c)
	rel, err := filepath.Rel(filepath.Dir(c.dir), p.dir)
	if err != nil {
		return nil, fmt.Errorf("finding the module of %s: %w", c.Name, err)
	}
	if filepath.IsLocal(rel) && rel != "." {
		sum, err := sumTree(p.dir, skipProse)
		return []string{sum}, err
	}
	// One line for each package outside the standard library: its files if it is ours, its module and version otherwise.
	const format = `{{if not .Standard}}{{if .Module.Main}}{{$d := .Dir}}{{.Module.GoVersion}}{{range .GoFiles}}|{{$d}}/{{.}}{{end}}` +
		`{{range .CgoFiles}}|{{$d}}/{{.}}{{end}}{{range .CFiles}}|{{$d}}/{{.}}{{end}}{{range .HFiles}}|{{$d}}/{{.}}{{end}}` +
		`{{range .SFiles}}|{{$d}}/{{.}}{{end}}{{range .EmbedFiles}}|{{$d}}/{{.}}{{end}}` +
		`{{else}}{{.ImportPath}} {{.Module.Version}}{{end}}{{end}}`
	args := []string{"list", "-mod=readonly", "-deps", "-tags", strings.Join(b.Tags, ","), "-f", format}
	out, err := p.command(cgoSetting(b)).output(ctx, "go", append(args, packagesOf(b)...)...)
	if err != nil {
		return nil, err
	}
	var sources []string
	lines := bufio.NewScanner(strings.NewReader(out))
	lines.Buffer(nil, 1<<20) // a package with embedded files has a long line
	for lines.Scan() {
		fields := strings.Split(lines.Text(), "|")
		for n, f := range fields[1:] {
			sum, _, err := sumFile(f)
			if err != nil {
				return nil, err
			}
			name, err := filepath.Rel(p.dir, f)
			if err != nil {
				return nil, fmt.Errorf("finding the sources of %s: %w", c.Name, err)
			}
			fields[n+1] = filepath.ToSlash(name) + " " + sum
		}
		sources = append(sources, strings.Join(fields, "|"))
	}
	sort.Strings(sources)
	return sources, lines.Err()
}

func packagesOf(b *Build) []string {
	var packages []string
	for _, name := range sortedKeys(b.Binaries) {
		packages = append(packages, b.Binaries[name])
	}
	return packages
}

// goBuild builds the binaries of b into dir.
func goBuild(ctx context.Context, c *Component, b *Build, version, dir string) error {
	p := b.project(c)
	args := []string{
		"build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-gcflags=" + compilerFlags,
		"-ldflags=" + strings.Join(b.linkerFlags(version), " "), "-tags=" + strings.Join(b.Tags, ","),
		"-o", dir + string(filepath.Separator),
	}
	if err := p.command(cgoSetting(b)).run(ctx, "go", append(args, packagesOf(b)...)...); err != nil {
		return fmt.Errorf("building %s of %s: %w", strings.Join(sortedKeys(b.Binaries), ", "), c.Name, err)
	}
	for _, name := range sortedKeys(b.Binaries) {
		made := executableName(b.Binaries[name])
		if made == "" {
			main, err := p.command("0").output(ctx, "go", "list", "-m")
			if err != nil {
				return err
			}
			made = path.Base(main)
		}
		if made == name {
			continue
		}
		if err := os.Rename(filepath.Join(dir, made), filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("naming binary %s of %s: %w", name, c.Name, err)
		}
	}
	return nil
}

// requiredVersion is the version of module in p's go.mod, replacements applied.
func requiredVersion(ctx context.Context, p goProject, module string) (string, error) {
	out, err := p.command("0").output(ctx, "go", "mod", "edit", "-json")
	if err != nil {
		return "", err
	}
	type moduleVersion struct{ Path, Version string }
	var mod struct {
		Require []moduleVersion
		Replace []struct{ Old, New moduleVersion }
	}
	if err := json.Unmarshal([]byte(out), &mod); err != nil {
		return "", fmt.Errorf("reading go.mod in %s: %w", p.dir, err)
	}
	for _, r := range mod.Replace {
		if r.Old.Path == module && r.New.Version != "" {
			return r.New.Version, nil
		}
	}
	for _, r := range mod.Require {
		if r.Path == module {
			return r.Version, nil
		}
	}
	return "", fmt.Errorf("reading go.mod in %s: module %s is not required", p.dir, module)
}

// moduleSum is the checksum of module@version in p's go.sum. It names the module's content without having it.
func moduleSum(p goProject, module, version string) (string, error) {
	data, err := os.ReadFile(filepath.Join(p.dir, "go.sum"))
	if err != nil {
		return "", fmt.Errorf("reading checksums: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == module && f[1] == version {
			return f[2], nil
		}
	}
	return "", fmt.Errorf("reading %s: no checksum of %s %s", filepath.Join(p.dir, "go.sum"), module, version)
}

// moduleDir is where module@version lies in the module cache, downloaded and checked against go.sum if it was not there.
func moduleDir(ctx context.Context, p goProject, module string) (string, error) {
	out, err := p.command("0").output(ctx, "go", "mod", "download", "-json", module)
	var got struct{ Dir, Error string }
	if jsonErr := json.Unmarshal([]byte(out), &got); jsonErr == nil && got.Error != "" {
		return "", fmt.Errorf("downloading module %s: %s", module, got.Error)
	}
	if err != nil {
		return "", fmt.Errorf("downloading module %s: %w", module, err)
	}
	if got.Dir == "" {
		return "", fmt.Errorf("downloading module %s: the go command names no folder for it", module)
	}
	return got.Dir, nil
}
