package kustomize

import (
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// readOnly is an fs.FS as the library wants it: absolute names, whose root is that of the FS, and methods to write, which fail.
type readOnly struct {
	fs.FS
	// read gathers the files that were read.
	read map[string]struct{}
}

var _ filesys.FileSystem = readOnly{}

// rooted is the library's name of a path of the FS.
func rooted(name string) string { return path.Join("/", name) }

// inner is the FS's name of one of the library's.
func inner(name string) string {
	if name = strings.TrimPrefix(rooted(name), "/"); name == "" {
		return "."
	}
	return name
}

func refuseWrite(name string) error {
	return &fs.PathError{Op: "write", Path: name, Err: fs.ErrPermission}
}

// Create fails.
func (readOnly) Create(name string) (filesys.File, error) { return nil, refuseWrite(name) }

// Mkdir fails.
func (readOnly) Mkdir(name string) error { return refuseWrite(name) }

// MkdirAll fails.
func (readOnly) MkdirAll(name string) error { return refuseWrite(name) }

// RemoveAll fails.
func (readOnly) RemoveAll(name string) error { return refuseWrite(name) }

// WriteFile fails.
func (readOnly) WriteFile(name string, _ []byte) error { return refuseWrite(name) }

// Open fails: the library reads whole files, by ReadFile.
func (readOnly) Open(name string) (filesys.File, error) { return nil, refuseWrite(name) }

// Exists tells whether there is a file or directory.
func (r readOnly) Exists(name string) bool {
	_, err := fs.Stat(r.FS, inner(name))
	return err == nil
}

// IsDir tells whether there is a directory.
func (r readOnly) IsDir(name string) bool {
	info, err := fs.Stat(r.FS, inner(name))
	return err == nil && info.IsDir()
}

// ReadDir lists the names in a directory.
func (r readOnly) ReadDir(name string) ([]string, error) {
	entries, err := fs.ReadDir(r.FS, inner(name))
	if err != nil {
		return nil, err
	}
	out := make([]string, len(entries))
	for i, e := range entries {
		out[i] = e.Name()
	}
	return out, nil
}

// CleanedAbs splits a name into a directory that exists, and a file in it or "".
func (r readOnly) CleanedAbs(name string) (filesys.ConfirmedDir, string, error) {
	name = rooted(name)
	info, err := fs.Stat(r.FS, inner(name))
	if err != nil {
		return "", "", err
	}
	if info.IsDir() {
		return filesys.ConfirmedDir(name), "", nil
	}
	return filesys.ConfirmedDir(path.Dir(name)), path.Base(name), nil
}

// Glob lists the names that match.
func (r readOnly) Glob(pattern string) ([]string, error) {
	out, err := fs.Glob(r.FS, inner(pattern))
	for i := range out {
		out[i] = rooted(out[i])
	}
	return out, err
}

// ReadFile is the content of a file. A kustomization file that asks for what is not done here has none: Build has looked at all of them before,
// but the library alone knows for certain which it reads.
func (r readOnly) ReadFile(name string) ([]byte, error) {
	content, err := fs.ReadFile(r.FS, inner(name))
	if err != nil {
		return nil, err
	}
	r.read[inner(name)] = struct{}{}
	if !IsFileName(path.Base(name)) {
		return content, nil
	}
	if _, refusals := check(inner(name), content); len(refusals) > 0 {
		return nil, fmt.Errorf("reading %s: %w", inner(name), refusals)
	}
	return content, nil
}

// Walk visits everything below a name.
func (r readOnly) Walk(name string, visit filepath.WalkFunc) error {
	return fs.WalkDir(r.FS, inner(name), func(at string, d fs.DirEntry, err error) error {
		if err != nil {
			return visit(rooted(at), nil, err)
		}
		info, err := d.Info()
		return visit(rooted(at), info, err)
	})
}
