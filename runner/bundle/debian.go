package bundle

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"
)

// rootRecipe is part of a root's key. It changes when the same packages shall give another layer.
const rootRecipe = 1

// rootPrograms are the host's programs that a Debian root is built with, and the package of each.
var rootPrograms = []struct{ program, debian string }{
	{"apt-get", "apt"},
	{"mmdebstrap", "mmdebstrap"},
}

// leftOut are globs of what an installation writes that is of this one machine and moment, or of no use in an image. A glob
// matches a whole path relative to the root; what is below a matching folder goes with it.
var leftOut = []string{
	"boot/*", "dev/*", "etc/apt", "etc/dpkg/dpkg.cfg.d/99mmdebstrap", "etc/hostname", "etc/resolv.conf", "etc/machine-id", "proc/*",
	"run/*", "sys/*", "tmp/*", "usr/share/doc-base/*", "usr/share/info/*", "usr/share/locale/*", "usr/share/man/*",
	"var/cache/*/*", "var/lib/apt", "var/lib/dbus/machine-id", "var/lib/dpkg/*-old", "var/lib/systemd/random-seed", "var/log/*",
	"var/tmp/*",
}

// unpackOptions keep dpkg from writing what nobody reads in an image. Copyright files stay: they are the packages' licences.
var unpackOptions = []string{
	"path-exclude=/usr/share/doc/*", "path-include=/usr/share/doc/*/copyright",
	"path-exclude=/usr/share/info/*", "path-exclude=/usr/share/locale/*", "path-exclude=/usr/share/man/*",
}

// emptied is left in place without content: systemd wants the file there to write a machine's own identity into it.
const emptied = "etc/machine-id"

// dpkgStatus is where a Debian root lists its packages.
const dpkgStatus = "var/lib/dpkg/status"

// rootInputs is everything that decides a Debian root. The archive's state at build time is not part of it; see the package
// documentation.
type rootInputs struct {
	Recipe         int
	Arch, Suite    string
	Packages, Drop []string
	LeftOut        []string
}

func (r *Root) inputs() rootInputs {
	packages := slices.Clone(r.Packages)
	sort.Strings(packages)
	return rootInputs{Recipe: rootRecipe, Arch: goarch, Suite: r.Suite, Packages: packages, Drop: r.Drop, LeftOut: leftOut}
}

// buildRoot installs the packages of r with mmdebstrap, below scratch, and writes the result as a layer into dir. built lists the asked-for
// packages with the versions that were installed.
func buildRoot(ctx context.Context, r *Root, scratch, dir string) (diffID string, built []string, err error) {
	sources, err := archives(ctx, r.Suite)
	if err != nil {
		return "", nil, err
	}
	options, err := aptOptions(ctx)
	if err != nil {
		return "", nil, err
	}
	in := r.inputs()
	args := []string{"--quiet", "--variant=essential", "--format=tar", "--include=" + strings.Join(in.Packages, ",")}
	if os.Geteuid() == 0 {
		args = append(args, "--mode=root")
	}
	for _, o := range options {
		args = append(args, "--aptopt="+o)
	}
	for _, o := range unpackOptions {
		args = append(args, "--dpkgopt="+o)
	}
	args = append(append(args, in.Suite, "-"), sources...)
	env := append(os.Environ(), "SOURCE_DATE_EPOCH="+strconv.FormatInt(epoch.Unix(), 10), "LC_ALL=C.UTF-8", "TMPDIR="+scratch)

	read, write := io.Pipe()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		err := command{dir: scratch, env: env, stdout: write, confined: true}.run(ctx, "mmdebstrap", args...)
		write.CloseWithError(err) // nil is the end of the tar
		return err
	})
	var versions map[string]string
	g.Go(func() error {
		var err error
		diffID, versions, err = convertRoot(read, dir, slices.Concat(leftOut, in.Drop))
		read.CloseWithError(err)
		return err
	})
	if err := g.Wait(); err != nil {
		return "", nil, fmt.Errorf("building a Debian %s root: %w", r.Suite, err)
	}
	for _, p := range in.Packages {
		if versions[p] == "" {
			return "", nil, fmt.Errorf("building a Debian %s root: package %s is not among the installed", r.Suite, p)
		}
		built = append(built, fmt.Sprintf("debian/%s %s %s", r.Suite, p, versions[p]))
	}
	return diffID, built, nil
}

// convertRoot writes the tar of a root as a layer into dir, without what drop matches and with one time for everything.
func convertRoot(from io.Reader, dir string, drop []string) (diffID string, versions map[string]string, err error) {
	w, err := newLayerWriter(dir)
	if err != nil {
		return "", nil, err
	}
	defer func() {
		id, closeErr := w.finish()
		diffID, err = id, errors.Join(err, closeErr)
	}()
	r := tar.NewReader(from)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", nil, fmt.Errorf("reading the root: %w", err)
		}
		name := strings.TrimPrefix(path.Clean(h.Name), "/")
		if name == "." || name != emptied && matchesAny(drop, name) {
			continue
		}
		var content io.Reader = r
		switch name {
		case emptied:
			h.Size, content = 0, strings.NewReader("")
		case dpkgStatus:
			data, err := io.ReadAll(r)
			if err != nil {
				return "", nil, fmt.Errorf("reading %s: %w", name, err)
			}
			versions, content = installed(data), bytes.NewReader(data)
		}
		if err := w.WriteHeader(rootHeader(h, name)); err != nil {
			return "", nil, fmt.Errorf("adding /%s: %w", name, err)
		}
		if _, err := io.Copy(w, content); err != nil {
			return "", nil, fmt.Errorf("adding /%s: %w", name, err)
		}
	}
	// The rest of the input is padding; a writer that is still at it must not find the pipe closed.
	_, err = io.Copy(io.Discard, from)
	return "", versions, err
}

// rootHeader keeps of h what belongs to an image: no times but epoch, no names of users.
func rootHeader(h *tar.Header, name string) *tar.Header {
	out := &tar.Header{
		Typeflag: h.Typeflag, Name: name, Linkname: h.Linkname, Size: h.Size, Mode: h.Mode, Uid: h.Uid, Gid: h.Gid,
		ModTime: epoch, Devmajor: h.Devmajor, Devminor: h.Devminor, Format: tar.FormatPAX,
	}
	switch h.Typeflag {
	case tar.TypeDir:
		out.Name += "/"
	case tar.TypeLink:
		out.Linkname = strings.TrimPrefix(path.Clean(h.Linkname), "/")
	}
	for k, v := range h.PAXRecords {
		if strings.HasPrefix(k, "SCHILY.xattr.") { // file capabilities
			if out.PAXRecords == nil {
				out.PAXRecords = map[string]string{}
			}
			out.PAXRecords[k] = v
		}
	}
	return out
}

// matchesAny reports whether a glob matches name or a folder above it.
func matchesAny(globs []string, name string) bool {
	for ; name != "."; name = path.Dir(name) {
		for _, g := range globs {
			if ok, _ := path.Match(g, name); ok { // validateComponents has refused malformed globs
				return true
			}
		}
	}
	return false
}

// installed reads the versions by package from the content of a dpkg status file.
func installed(status []byte) map[string]string {
	versions := map[string]string{}
	var name string
	lines := bufio.NewScanner(bytes.NewReader(status))
	lines.Buffer(nil, 1<<20) // some packages list hundreds of conflicts in one line
	for lines.Scan() {
		if v, ok := strings.CutPrefix(lines.Text(), "Package: "); ok {
			name = v
		}
		if v, ok := strings.CutPrefix(lines.Text(), "Version: "); ok {
			versions[name] = v
		}
	}
	return versions
}

// ErrNoArchive reports that the host's apt sources have no Debian archive for a suite.
var ErrNoArchive = errors.New("no Debian archive for this suite among the host's apt sources; try: apt-get update")

// archives lists the host's own Debian archives for suite, its updates and its security fixes, as lines of a sources.list.
func archives(ctx context.Context, suite string) ([]string, error) {
	out, err := command{dir: "/"}.output(ctx, "apt-get", "indextargets", "--format",
		"$(ORIGIN)|$(COMPONENT)|$(CODENAME)|$(REPO_URI)", "Created-By: Packages")
	if err != nil {
		return nil, fmt.Errorf("listing the host's apt sources: %w", err)
	}
	return sourcesFor(out, suite)
}

// sourcesFor picks from the lines of "apt-get indextargets", in the format that archives asks for, those of suite.
func sourcesFor(targets, suite string) ([]string, error) {
	var lines []string
	seen := map[string]bool{}
	for line := range strings.Lines(targets) {
		f := strings.Split(strings.TrimSpace(line), "|")
		if len(f) != 4 || f[0] != "Debian" || f[1] != "main" {
			continue
		}
		if code := f[2]; code == suite || code == suite+"-updates" || code == suite+"-security" {
			source := fmt.Sprintf("deb %s %s main", f[3], code)
			if !seen[source] { // a host of several architectures lists each
				seen[source] = true
				lines = append(lines, source)
			}
		}
	}
	if len(lines) == 0 {
		return nil, fmt.Errorf("looking for Debian %s: %w", suite, ErrNoArchive)
	}
	return lines, nil
}

// aptOptions are the host's own settings for reaching and judging its archives, for the apt that fills the root. They do not stay
// in the root.
func aptOptions(ctx context.Context) ([]string, error) {
	var options []string
	for _, name := range []string{"Acquire::http", "Acquire::https", "Acquire::Check-Date", "Acquire::Check-Valid-Until"} {
		out, err := command{dir: "/"}.output(ctx, "apt-config", "dump", "--no-empty", "--format", `%F "%v";%n`, name)
		if err != nil {
			return nil, fmt.Errorf("reading the host's apt settings: %w", err)
		}
		for line := range strings.Lines(out) {
			options = append(options, strings.TrimSpace(line))
		}
	}
	return options, nil
}
