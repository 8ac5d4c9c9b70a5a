package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"
)

const (
	// layerBlob is the name of a layer in its cache entry.
	layerBlob = "layer.tar.gz"
	// compression is the fastest: a layer is read from the disk or the loopback, where time counts and size hardly does.
	compression = gzip.BestSpeed

	modeFile       fs.FileMode = 0o644
	modeExecutable fs.FileMode = 0o755
)

// epoch is the time of everything in every image. It is not 1970: tools take a zero time for a missing one.
var epoch = time.Date(2020, time.January, 1, 0, 0, 0, 0, time.UTC)

// layerWriter writes a layer and takes the digest of its uncompressed form on the way.
type layerWriter struct {
	*tar.Writer
	gz   *gzip.Writer
	file *os.File
	diff hash.Hash
}

func newLayerWriter(dir string) (*layerWriter, error) {
	f, err := os.OpenFile(filepath.Join(dir, layerBlob), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return nil, fmt.Errorf("making a layer: %w", err)
	}
	gz, err := gzip.NewWriterLevel(f, compression)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("making a layer: %w", err)
	}
	w := &layerWriter{gz: gz, file: f, diff: sha256.New()}
	w.Writer = tar.NewWriter(io.MultiWriter(gz, w.diff))
	return w, nil
}

// finish closes the layer and returns its diff ID. It must be called once, also when writing failed.
func (w *layerWriter) finish() (string, error) {
	err := errors.Join(w.Writer.Close(), w.gz.Close(), w.file.Close())
	if err != nil {
		return "", fmt.Errorf("closing a layer: %w", err)
	}
	return "sha256:" + hex.EncodeToString(w.diff.Sum(nil)), nil
}

// item is one entry of a layer.
type item struct {
	name   string // without leading slash
	mode   fs.FileMode
	link   string // of a symbolic link
	dir    bool
	owner  int
	source string // path of the file with the content, or
	data   []byte // the content itself
}

// writeItems writes items in the order of their names, as a layer into dir.
func writeItems(dir string, items []item) (diffID string, err error) {
	w, err := newLayerWriter(dir)
	if err != nil {
		return "", err
	}
	defer func() {
		id, closeErr := w.finish()
		diffID, err = id, errors.Join(err, closeErr)
	}()
	sort.Slice(items, func(a, b int) bool { return items[a].name < items[b].name })
	for _, i := range items {
		if err := w.writeItem(i); err != nil {
			return "", fmt.Errorf("adding /%s: %w", i.name, err)
		}
	}
	return "", nil
}

func (w *layerWriter) writeItem(i item) error {
	h := &tar.Header{
		Name: i.name, Mode: int64(i.mode.Perm()), Uid: i.owner, Gid: i.owner, ModTime: epoch,
		Typeflag: tar.TypeReg, Size: int64(len(i.data)), Format: tar.FormatPAX,
	}
	switch {
	case i.dir:
		h.Typeflag, h.Name, h.Mode = tar.TypeDir, i.name+"/", int64(modeExecutable)
	case i.link != "":
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, i.link, 0o777
	}
	if i.source == "" {
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		_, err := w.Write(i.data)
		return err
	}
	f, err := os.Open(i.source)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	h.Size = info.Size()
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}

// binaryFinder gives the path of "<component>/<binary>", which the build has made.
type binaryFinder func(ref string) (string, error)

// items turns the contents of an image into entries of a layer.
func (i *ImageSpec) items(ctx context.Context, c *Component, binary binaryFinder) ([]item, error) {
	var items []item
	for _, e := range i.Contents {
		got, err := e.items(ctx, c, binary)
		if err != nil {
			return nil, fmt.Errorf("making %s of %s: %w", e.To, i.Name, err)
		}
		items = append(items, got...)
	}
	return items, nil
}

func (e *Content) items(ctx context.Context, c *Component, binary binaryFinder) ([]item, error) {
	one := item{name: strings.TrimPrefix(e.To, "/"), mode: modeFile, owner: e.Owner}
	switch {
	case e.Binary != "":
		p, err := binary(e.Binary)
		if err != nil {
			return nil, err
		}
		one.source, one.mode = p, modeExecutable
	case e.Module != "":
		dir, err := moduleDir(ctx, goProjectOf(c), e.Module)
		if err != nil {
			return nil, err
		}
		return e.moduleItems(filepath.Join(dir, filepath.FromSlash(e.From)))
	case e.Text != nil:
		one.data = []byte(*e.Text)
	case e.Link != "":
		one.link = e.Link
	case e.Directory:
		one.dir = true
	default:
		p, err := binary(e.Run[0])
		if err != nil {
			return nil, err
		}
		out, err := command{dir: c.dir, env: []string{}}.output(ctx, p, e.Run[1:]...)
		if err != nil {
			return nil, err
		}
		if one.data, err = mergeJSON([]byte(out), e.Merge); err != nil {
			return nil, fmt.Errorf("merging into the output of %s: %w", e.Run[0], err)
		}
	}
	return []item{one}, nil
}

// moduleItems are the files at from, a file or a folder of a module, below e.To. Modules carry no file modes, so these come from
// e.Executable.
func (e *Content) moduleItems(from string) ([]item, error) {
	edited := map[int]bool{}
	var items []item
	err := filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		i := item{name: strings.TrimPrefix(path.Join(e.To, rel), "/"), mode: modeFile, owner: e.Owner, source: p}
		if slices.Contains(e.Executable, path.Dir(rel)) {
			i.mode = modeExecutable
		}
		for n, edit := range e.Edits {
			if edit.File != rel {
				continue
			}
			edited[n] = true
			if i.source != "" {
				if i.data, err = os.ReadFile(p); err != nil {
					return err
				}
				i.source = ""
			}
			if count := bytes.Count(i.data, []byte(edit.Find)); count != 1 {
				return fmt.Errorf("editing %s: %q occurs %d times, want once", rel, edit.Find, count)
			}
			i.data = bytes.Replace(i.data, []byte(edit.Find), []byte(edit.Replace), 1)
		}
		items = append(items, i)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading %s of %s: %w", e.From, e.Module, err)
	}
	for n, edit := range e.Edits {
		if !edited[n] {
			return nil, fmt.Errorf("editing %s of %s: there is no such file", edit.File, e.Module)
		}
	}
	return items, nil
}

// mergeJSON applies a JSON merge patch (RFC 7386) to the object in doc.
func mergeJSON(doc []byte, patch map[string]any) ([]byte, error) {
	var target any
	if err := json.Unmarshal(doc, &target); err != nil {
		return nil, err
	}
	if _, ok := target.(map[string]any); !ok {
		return nil, fmt.Errorf("want a JSON object, got %.40q", doc)
	}
	out, err := json.MarshalIndent(mergePatch(target, patch), "", "  ")
	return append(out, '\n'), err
}

func mergePatch(target, patch any) any {
	p, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	t, ok := target.(map[string]any)
	if !ok {
		t = map[string]any{}
	}
	for k, v := range p {
		if v == nil {
			delete(t, k)
			continue
		}
		t[k] = mergePatch(t[k], v)
	}
	return t
}
