package bundle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const (
	// keySchema is part of every key. It changes when the same inputs shall give other outputs, so that old entries are not used.
	keySchema = 1
	// entryName describes a cache entry; it is written last.
	entryName = "entry.json"
	// unfinished marks folders that a build is still writing. What a killed build leaves is removed by the next one.
	unfinished = "unfinished-"
	// unusedFor is how long an entry may lie unused before a successful build removes it: long enough to go back and forth
	// between branches, short enough that a few releases do not fill a disk.
	unusedFor = 30 * 24 * time.Hour
)

// errMiss says that the cache has no sound entry under a key.
var errMiss = errors.New("not in the cache")

// cache is a folder of step outputs by key. It is used by one build at a time, which holds its lock.
type cache struct {
	dir string

	mu    sync.Mutex
	sound map[string]*entry // entries checked by this build
}

// entry is what one step left: its files, with the digests they must still have, and what later steps need to know about them.
type entry struct {
	Step   string      `json:"step"`
	Files  []entryFile `json:"files"`
	DiffID string      `json:"diffID,omitempty"` // of a layer: the digest of its uncompressed tar
	Built  []string    `json:"built,omitempty"`  // module or package versions, sorted

	dir string
}

type entryFile struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
}

// path of the entry's file with this name, which must be there: steps only ask for what they have written.
func (e *entry) path(name string) string { return filepath.Join(e.dir, name) }

func (e *entry) file(name string) (entryFile, bool) {
	for _, f := range e.Files {
		if f.Name == name {
			return f, true
		}
	}
	return entryFile{}, false
}

// openCache makes the cache's folder and takes its lock. It waits for a build of another process, and calls waiting once before
// it does. The returned function releases the lock.
func openCache(ctx context.Context, dir string, waiting func()) (*cache, func(), error) {
	c := &cache{dir: dir, sound: map[string]*entry{}}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, nil, fmt.Errorf("making the build cache: %w", err)
	}
	release, err := lockFile(ctx, filepath.Join(dir, "lock"), waiting)
	if err != nil {
		return nil, nil, fmt.Errorf("locking the build cache: %w", err)
	}
	for _, pattern := range []string{filepath.Join(dir, unfinished+"*"), filepath.Join(os.TempDir(), c.scratchPrefix()+"*")} {
		if err := clearStale(pattern, 0); err != nil {
			release()
			return nil, nil, err
		}
	}
	return c, release, nil
}

// clearStale removes the folders that match pattern and are at least as old as age: what nobody is left to remove. A folder with a mount below it
// is not touched, because removing it would remove what is mounted there.
func clearStale(pattern string, age time.Duration) error {
	stale, err := filepath.Glob(pattern)
	if err != nil {
		return fmt.Errorf("looking for what an earlier build left: %w", err)
	}
	for _, dir := range stale {
		if info, err := os.Lstat(dir); err != nil || time.Since(info.ModTime()) < age {
			continue
		}
		mount, err := mountBelow(dir)
		if err != nil {
			return fmt.Errorf("clearing what an earlier build left: %w", err)
		}
		if mount != "" {
			return fmt.Errorf("clearing what an earlier build left: %s is still mounted", mount)
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("clearing what an earlier build left: %w", err)
		}
	}
	return nil
}

// scratchPrefix is what the names of this cache's scratch folders begin with.
func (c *cache) scratchPrefix() string { return "gapproof-" + sumBytes([]byte(c.dir))[:16] + "-" }

// scratch makes a folder in the system's place for temporary files, for programs whose helpers run as other users: the user's
// cache directory is usually closed to them. The caller removes it; after a kill the next build does.
func (c *cache) scratch() (string, error) {
	dir, err := os.MkdirTemp("", c.scratchPrefix())
	if err != nil {
		return "", fmt.Errorf("making a scratch folder: %w", err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", fmt.Errorf("making a scratch folder: %w", err)
	}
	return dir, nil
}

// get returns the entry under key after checking that its files still have their digests. The error matches errMiss when there is
// none or it is not sound; an unsound one is removed.
func (c *cache) get(key string) (*entry, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.sound[key]; ok {
		return e, nil
	}
	dir := filepath.Join(c.dir, key)
	data, err := os.ReadFile(filepath.Join(dir, entryName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errMiss
	}
	if err != nil {
		return nil, fmt.Errorf("reading the build cache: %w", err)
	}
	e := &entry{dir: dir}
	if err := c.check(e, data); err != nil {
		if err := os.RemoveAll(dir); err != nil {
			return nil, fmt.Errorf("removing an unsound cache entry: %w", err)
		}
		return nil, fmt.Errorf("%w: %w", errMiss, err)
	}
	now := time.Now()
	if err := os.Chtimes(dir, now, now); err != nil { // read by prune
		return nil, fmt.Errorf("marking a cache entry as used: %w", err)
	}
	c.sound[key] = e
	return e, nil
}

func (c *cache) check(e *entry, data []byte) error {
	if err := json.Unmarshal(data, e); err != nil {
		return fmt.Errorf("entry unreadable: %w", err)
	}
	for _, want := range e.Files {
		sum, size, err := sumFile(e.path(want.Name))
		if err != nil {
			return err
		}
		if sum != want.SHA256 || size != want.Size {
			return fmt.Errorf("%s of %q: want sha256 %s and %d bytes, got %s and %d", want.Name, e.Step, want.SHA256, want.Size, sum, size)
		}
	}
	return nil
}

// put runs fill in a fresh folder and makes its outcome the entry under key. Whatever fill leaves in the folder belongs to the
// entry; when it fails, or the process dies, nothing of it is ever found under the key.
func (c *cache) put(key, step string, fill func(dir string, e *entry) error) (*entry, error) {
	tmp, err := os.MkdirTemp(c.dir, unfinished)
	if err != nil {
		return nil, fmt.Errorf("making a cache entry: %w", err)
	}
	defer os.RemoveAll(tmp) // nothing is left of it after the rename
	if err := os.Chmod(tmp, 0o755); err != nil {
		return nil, fmt.Errorf("making a cache entry: %w", err)
	}
	e := &entry{Step: step, dir: tmp}
	if err := fill(tmp, e); err != nil {
		return nil, err
	}
	files, err := os.ReadDir(tmp)
	if err != nil {
		return nil, fmt.Errorf("listing a cache entry: %w", err)
	}
	for _, f := range files {
		sum, size, err := sumFile(e.path(f.Name()))
		if err != nil {
			return nil, err
		}
		e.Files = append(e.Files, entryFile{Name: f.Name(), SHA256: sum, Size: size})
	}
	data, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("describing a cache entry: %w", err)
	}
	if err := os.WriteFile(filepath.Join(tmp, entryName), data, 0o644); err != nil {
		return nil, fmt.Errorf("writing a cache entry: %w", err)
	}
	e.dir = filepath.Join(c.dir, key)
	if err := os.Rename(tmp, e.dir); err != nil {
		return nil, fmt.Errorf("keeping a cache entry: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sound[key] = e
	return e, nil
}

// prune removes entries that no build has used for unusedFor.
func (c *cache) prune(now time.Time) error {
	dirs, err := os.ReadDir(c.dir)
	if err != nil {
		return fmt.Errorf("listing the build cache: %w", err)
	}
	for _, d := range dirs {
		info, err := d.Info()
		if err != nil || !d.IsDir() || now.Sub(info.ModTime()) < unusedFor {
			continue
		}
		if err := os.RemoveAll(filepath.Join(c.dir, d.Name())); err != nil {
			return fmt.Errorf("removing an unused cache entry: %w", err)
		}
	}
	return nil
}

// keyOf is the key of a step: a digest over the kind of step and everything that decides its output.
func keyOf(kind string, inputs any) (string, error) {
	data, err := json.Marshal(struct {
		Schema int
		Kind   string
		Inputs any
	}{keySchema, kind, inputs})
	if err != nil {
		return "", fmt.Errorf("making the key of a %s: %w", kind, err)
	}
	return kind + "-" + sumBytes(data), nil
}

func sumBytes(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func sumFile(name string) (sum string, size int64, err error) {
	f, err := os.Open(name)
	if err != nil {
		return "", 0, fmt.Errorf("hashing: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	size, err = io.Copy(h, f)
	if err != nil {
		return "", 0, fmt.Errorf("hashing %s: %w", name, err)
	}
	return hex.EncodeToString(h.Sum(nil)), size, nil
}

// sumTree is the digest of the files below dir, by their names, modes and contents. skip leaves out a path relative to dir, and
// with it whatever is below.
func sumTree(dir string, skip func(rel string, d fs.DirEntry) bool) (string, error) {
	h := sha256.New()
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		if skip(filepath.ToSlash(rel), d) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.IsDir() {
			return nil
		}
		sum, _, err := sumFile(p)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%q %s\n", filepath.ToSlash(rel), sum)
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("hashing the files of %s: %w", dir, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// skipProse leaves out what no build reads: the description is part of the key by its meaning, and prose is prose.
func skipProse(rel string, d fs.DirEntry) bool {
	return rel == componentFile || strings.HasSuffix(rel, ".md") || strings.HasSuffix(rel, "_test.go") && !d.IsDir()
}
