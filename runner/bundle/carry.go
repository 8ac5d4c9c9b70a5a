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

// Load verifies a bundle and makes dst the lab directory it carries, in one step, after its last byte was verified: before, dst is what it
// was. Content goes to a folder beside dst meanwhile. The errors are those of [signed.Read] and [images.ReadLock].
func Load(ctx context.Context, carried io.Reader, dst string, o signed.ReadOptions) (*signed.Result, *images.Lock, error) {
	dst, err := filepath.Abs(dst)
	if err != nil {
		return nil, nil, fmt.Errorf("finding the lab directory: %w", err)
	}
	l, err := newLab(dst)
	if err != nil {
		return nil, nil, err
	}
	result, lock, err := l.unpack(ctx, carried, o)
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
	result, err := signed.Read(ctx, carried, o, func(e signed.Entry, content io.Reader) error {
		if digest, ok := strings.CutPrefix(e.Name, blobPrefix); ok && digest != e.SHA256 {
			return fmt.Errorf("the list gives it the digest %s: %w", e.SHA256, signed.ErrContent)
		}
		return writeBelow(root, e.Name, content)
	})
	if err != nil {
		return nil, nil, err
	}
	lock, err := images.ReadLock(l.dir)
	if err != nil {
		return nil, nil, err
	}
	return result, lock, l.holds(lock)
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

// holds tells whether the lab has every image and file of the lock.
func (l *lab) holds(lock *images.Lock) error {
	var faults []error
	for _, i := range lock.Images {
		if _, err := os.Stat(filepath.Join(l.blobs(), strings.TrimPrefix(i.Digest, "sha256:"))); err != nil {
			faults = append(faults, fmt.Errorf("holding the bundle against its lock: %s is not in it: %w", i.Reference(), images.ErrNotLocked))
		}
	}
	for _, f := range lock.Files {
		sum, _, err := sumFile(images.FilePath(l.dir, f))
		if err != nil || sum != f.SHA256 {
			faults = append(faults, fmt.Errorf("holding the bundle against its lock: file %s is not in it, or not with the digest %s: %w", f.Path, f.SHA256, signed.ErrContent))
		}
	}
	return errors.Join(faults...)
}
