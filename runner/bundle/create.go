package bundle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gapproof/gapproof/images"
)

// Options choose what is built and from where.
type Options struct {
	// ImagesDir is the images folder of a checkout. Empty means "images" in the current directory.
	ImagesDir string
	// CacheDir keeps step outputs between builds, below "build". Empty means "gapproof" in the user's cache directory. It should be
	// on the file system of the lab directory: blobs are then shared between the two, not copied.
	CacheDir string
	// Profiles adds the components of these profiles, such as "calico", to those every lab needs.
	Profiles []string
	// Components restricts the build to these folders of ImagesDir. Empty means all that the profiles choose.
	Components []string
	// Log receives what is done. Nil means nowhere.
	Log *slog.Logger
	// Progress is called when a step begins and when it ends, from one goroutine at a time. Nil means not at all.
	Progress func(Progress)
}

// defaulted fills what was left out.
func (o Options) defaulted() (Options, error) {
	if o.ImagesDir == "" {
		o.ImagesDir = "images"
	}
	if o.CacheDir == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return o, fmt.Errorf("finding a place for the build cache: %w", err)
		}
		o.CacheDir = filepath.Join(dir, "gapproof")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	return o, nil
}

// MissingError lists Debian packages that the host needs for a build and does not have.
type MissingError struct {
	// Packages are sorted.
	Packages []string
}

// Error lists the packages on one line.
func (e *MissingError) Error() string {
	return "checking the host's build tools: missing Debian packages " + strings.Join(e.Packages, " ")
}

// Hint is a command that cures it.
func (e *MissingError) Hint() string { return "gapproof doctor --fix" }

// HostPackages lists the Debian packages that building the lab's images needs on the host, sorted.
func HostPackages() []string {
	// gcc, libseccomp and pkg-config are for runc, the one component that links against C.
	return []string{"gcc", "libc6-dev", "libseccomp-dev", "mmdebstrap", "pkg-config"}
}

// CreateFromModules builds every image that the options choose and makes dst the lab directory that package images describes.
// dst appears, or changes from its previous content to the new, in one step; where nothing changed it is not touched. The
// returned lock is the one written there. The previous folder lives on for a day beside dst, under a hidden name, for whoever has
// it open or mounted, such as the mirror of a running cluster.
//
// Cancelling ctx stops the build within seconds; what was finished stays in the cache. One build runs at a time on a cache: a
// second one waits. The error is a *MissingError when the host lacks packages, and wraps a *CommandError when a command failed.
func CreateFromModules(ctx context.Context, dst string, o Options) (*images.Lock, error) {
	return create(ctx, dst, o, nil)
}

// create builds the lab, and pulls what from lists. A nil from lists nothing.
func create(ctx context.Context, dst string, o Options, from *Upstream) (*images.Lock, error) {
	o, err := o.defaulted()
	if err != nil {
		return nil, err
	}
	if dst, err = filepath.Abs(dst); err != nil {
		return nil, fmt.Errorf("finding the lab directory: %w", err)
	}
	all, err := ReadComponents(o.ImagesDir)
	if err != nil {
		return nil, err
	}
	chosen, err := choose(all, o)
	if err != nil {
		return nil, err
	}
	pulls, err := from.chosen(chosen)
	if err != nil {
		return nil, err
	}
	store, release, err := openCache(ctx, filepath.Join(o.CacheDir, "build"), func() {
		o.Log.Info("waiting for another build on the same cache")
	})
	if err != nil {
		return nil, err
	}
	defer release()
	p, err := newPlan(ctx, all, chosen, store, o.Log, pulls)
	if err != nil {
		return nil, fmt.Errorf("planning the build: %w", err)
	}
	if missing := p.missingPackages(ctx); len(missing) > 0 {
		return nil, &MissingError{Packages: missing}
	}
	if err := p.run(ctx, newReporter(store.dir, p.steps, o)); err != nil {
		return nil, err
	}
	l, err := newLab(ctx, dst, func() { o.Log.Warn("waiting for another command that makes, loads or carries this lab", "lab", dst) })
	if err != nil {
		return nil, err
	}
	lock, err := l.fill(ctx, p, dst)
	if err := errors.Join(err, l.discard()); err != nil {
		return nil, err
	}
	return lock, store.prune(time.Now())
}

// choose picks the components to make images of.
func choose(all []*Component, o Options) ([]*Component, error) {
	var faults []error
	for _, p := range o.Profiles {
		if !slices.ContainsFunc(all, func(c *Component) bool { return c.Profile == p }) {
			faults = append(faults, fmt.Errorf("choosing components: no component has profile %q", p))
		}
	}
	for _, n := range o.Components {
		if !slices.ContainsFunc(all, func(c *Component) bool { return c.Name == n }) {
			faults = append(faults, fmt.Errorf("choosing components: no component is called %q", n))
		}
	}
	var chosen []*Component
	for _, c := range all {
		wanted := c.Profile == "" || slices.Contains(o.Profiles, c.Profile)
		if len(o.Components) > 0 {
			wanted = slices.Contains(o.Components, c.Name)
		}
		if wanted {
			chosen = append(chosen, c)
		}
	}
	return chosen, errors.Join(faults...)
}
