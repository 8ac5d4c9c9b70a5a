package bundle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gapproof/gapproof/images"
	"github.com/gapproof/gapproof/runner/bundle/signed"
)

// SubjectEntry is the entry that a bundle's statement is about: the index of the image layout, from which every image is found by digest.
const SubjectEntry = "layout/index.json"

// blobPrefix begins the names of the layout's blobs; their digest follows.
const blobPrefix = "layout/blobs/sha256/"

// Sources are the files of a lab directory in the order in which a bundle carries them: the root, the lock, and the rest by name. Only
// regular files can be carried; anything else is an error.
func Sources(labDir string) ([]signed.Source, error) {
	all, err := TreeSources(labDir, "")
	if err != nil {
		return nil, err
	}
	rank := func(s signed.Source) int {
		return slices.Index([]string{"", "lock.json", SubjectEntry}, s.Name) // -1 for all others
	}
	slices.SortStableFunc(all, func(a, b signed.Source) int { return rank(b) - rank(a) })
	return all, nil
}

// TreeSources are the regular files below dir, sorted, each named by its path below it with prefix, such as "policies/", before.
func TreeSources(dir, prefix string) ([]signed.Source, error) {
	var all []signed.Source
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if !d.Type().IsRegular() {
			return fmt.Errorf("%s is not a regular file", p)
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		all = append(all, signed.Source{Name: prefix + filepath.ToSlash(rel), Open: func() (io.ReadCloser, error) { return os.Open(p) }})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("gathering what the bundle carries: %w", err)
	}
	slices.SortFunc(all, func(a, b signed.Source) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// FSSources are the files of a file system such as the embedded catalogue, sorted, each named by its path with prefix before.
func FSSources(fsys fs.FS, prefix string) ([]signed.Source, error) {
	var all []signed.Source
	err := fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			all = append(all, signed.Source{Name: prefix + p, Open: func() (io.ReadCloser, error) { return fsys.Open(p) }})
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("gathering what the bundle carries: %w", err)
	}
	return all, nil
}

// LoadOptions say what a bundle must satisfy and what happens meanwhile. Now is required.
type LoadOptions struct {
	signed.ReadOptions
	// Waiting is called when another command makes, loads or carries the same lab, which is waited for. Nil means not at all.
	Waiting func()
	// Accept is called when all of the bundle was verified and before the lab directory changes; an error of it keeps the lab that is there.
	// Nil accepts. Nobody else changes the lab directory meanwhile.
	Accept func(*signed.Result) error
}

// Load verifies a bundle as [Verify] does and makes dst the lab directory it carries, in one step, after its last byte was verified: before, dst
// is what it was. Content goes to a folder beside dst meanwhile. One command at a time changes a lab directory: a second one waits, until ctx
// ends. The errors are those of [Verify] and of Accept.
func Load(ctx context.Context, carried io.Reader, dst string, o LoadOptions) (*signed.Result, *images.Lock, error) {
	dst, err := filepath.Abs(dst)
	if err != nil {
		return nil, nil, fmt.Errorf("finding the lab directory: %w", err)
	}
	if o.Waiting == nil {
		o.Waiting = func() {}
	}
	l, err := newLab(ctx, dst, o.Waiting)
	if err != nil {
		return nil, nil, err
	}
	result, lock, err := l.unpack(ctx, carried, o.ReadOptions)
	if err == nil && o.Accept != nil {
		if err = o.Accept(result); err != nil {
			err = fmt.Errorf("%w (the lab directory is as it was)", err)
		}
	}
	if err == nil {
		err = l.install(ctx, dst)
	}
	if err := errors.Join(err, l.discard()); err != nil {
		return nil, nil, err
	}
	return result, lock, nil
}

// unpack writes the bundle's entries below l.dir. Names come from the signed list, never from the tar, and cannot leave l.dir.
func (l *lab) unpack(ctx context.Context, carried io.Reader, o signed.ReadOptions) (*signed.Result, *images.Lock, error) {
	root, err := os.OpenRoot(l.dir)
	if err != nil {
		return nil, nil, fmt.Errorf("opening the lab directory: %w", err)
	}
	defer root.Close()
	return readWhole(ctx, carried, o, Platform(), func(name string, content io.Reader) error { return writeBelow(root, name, content) })
}

func writeBelow(root *os.Root, name string, content io.Reader) error {
	local := filepath.FromSlash(name)
	if err := root.MkdirAll(filepath.FromSlash(path.Dir(name)), 0o755); err != nil {
		return err
	}
	f, err := root.OpenFile(local, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Close())
}
