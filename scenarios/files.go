package scenarios

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// maxFile bounds what is read of one file, so that a wrong path does not exhaust memory: a whole cluster written out stays below it, a disk
// image given by mistake does not.
const maxFile = 64 << 20

var errTooBig = fmt.Errorf("is larger than %d MiB", maxFile>>20)

// tree is where files come from. Names are the tree's own: of the operating system, or slash-separated within an fs.FS.
type tree interface {
	open(name string) (fs.File, error)
	list(name string) ([]fs.DirEntry, error)
	// beside is the name of what file calls relative.
	beside(file, relative string) string
	join(directory, name string) string
	// rooted is the same file as a name within an fs.FS that also has everything it may refer to.
	rooted(name string) (fs.FS, string, error)
}

type osTree struct{}

func (osTree) open(name string) (fs.File, error)       { return os.Open(name) }
func (osTree) list(name string) ([]fs.DirEntry, error) { return os.ReadDir(name) }
func (osTree) join(directory, name string) string      { return filepath.Join(directory, name) }
func (osTree) beside(file, relative string) string {
	if filepath.IsAbs(relative) {
		return filepath.Clean(relative)
	}
	return filepath.Join(filepath.Dir(file), filepath.FromSlash(relative))
}

func (osTree) rooted(name string) (fs.FS, string, error) {
	absolute, err := filepath.Abs(name)
	if err != nil {
		return nil, "", err
	}
	root := filepath.VolumeName(absolute) + string(filepath.Separator)
	inner := filepath.ToSlash(strings.TrimPrefix(absolute, root))
	if inner == "" {
		inner = "."
	}
	return os.DirFS(root), inner, nil
}

type fsTree struct{ fs.FS }

func (t fsTree) rooted(name string) (fs.FS, string, error) { return t.FS, name, nil }

func (t fsTree) open(name string) (fs.File, error)       { return t.Open(name) }
func (t fsTree) list(name string) ([]fs.DirEntry, error) { return fs.ReadDir(t.FS, name) }
func (fsTree) join(directory, name string) string        { return path.Join(directory, name) }
func (fsTree) beside(file, relative string) string       { return path.Join(path.Dir(file), relative) }

// read is the content of a file; fs.ErrNotExist, errTooBig and the tree's own errors tell why there is none.
func read(t tree, name string) (content []byte, err error) {
	f, err := t.open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return readAll(f)
}

func readAll(from io.Reader) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(from, maxFile+1))
	if len(content) > maxFile {
		return nil, errTooBig
	}
	return content, err
}

func isDirectory(t tree, name string) (bool, error) {
	f, err := t.open(name)
	if err != nil {
		return false, err
	}
	info, err := f.Stat()
	return err == nil && info.IsDir(), errors.Join(err, f.Close())
}

// filesBelow are the files of a kind below a directory in name order, hidden ones left out. Symbolic links to directories are not followed:
// they may form circles.
func filesBelow(t tree, directory string, is func(name string) bool) ([]string, error) {
	entries, err := t.list(directory)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	var out []string
	for _, e := range entries {
		name := t.join(directory, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), "."):
		case e.IsDir():
			below, err := filesBelow(t, name, is)
			if err != nil {
				return nil, err
			}
			out = append(out, below...)
		case is(name):
			out = append(out, name)
		}
	}
	return out, nil
}

func isYAML(name string) bool {
	switch path.Ext(name) {
	case ".yaml", ".yml":
		return true
	default:
		return false
	}
}

// isManifest tells whether kubectl would read a file of a directory.
func isManifest(name string) bool { return isYAML(name) || path.Ext(name) == ".json" }

// reason is the part of a file error that is not already told by the fault: why, without the path.
func reason(err error) string {
	var pathErr *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "no such file or directory"
	case errors.As(err, &pathErr):
		return pathErr.Err.Error()
	default:
		return err.Error()
	}
}
