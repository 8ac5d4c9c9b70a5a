package kustomize

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
)

// Refusal is one thing that a kustomization asks for and that is not done here.
type Refusal struct {
	// File is the kustomization file, as a path of the fs.FS.
	File string
	// Field is the field that asks, such as "resources[1]"; empty for the file as a whole.
	Field string
	// Value is what it asks for; may be empty.
	Value string
	// Message says what is wrong with it.
	Message string
	// Hint says what to write instead; may be empty.
	Hint string
}

// Refusals is the error of Build that tells everything to be changed in the kustomization files, in the order they are read.
type Refusals []Refusal

// Error has one refusal on each line.
func (r Refusals) Error() string {
	lines := make([]string, len(r))
	for i, one := range r {
		lines[i] = one.File + ": "
		if one.Field != "" {
			lines[i] += one.Field + ": "
		}
		lines[i] += one.Message
	}
	return strings.Join(lines, "\n")
}

// File is the path of the kustomization file in a directory of fsys, or "" when it has none. Of several it is the first in the order the
// library knows them; Build refuses a directory with several.
func File(fsys fs.FS, directory string) string {
	for _, name := range fileNames() {
		file := path.Join(directory, name)
		if info, err := fs.Stat(fsys, file); err == nil && !info.IsDir() {
			return file
		}
	}
	return ""
}

// IsFileName tells whether a file of this name, without its directory, is a kustomization file.
func IsFileName(name string) bool { return slices.Contains(fileNames(), name) }

func fileNames() []string { return konfig.RecognizedKustomizationFileNames() }

// Rendered is what a kustomization comes to.
type Rendered struct {
	// YAML has one document for each object, in the order of the kustomization.
	YAML []byte
	// Files are the files of the fs.FS that were read, in name order.
	Files []string
}

// Build renders the kustomization in a directory of fsys. Bases may lie anywhere in fsys, other files only below the kustomization that names
// them. The error is a Refusals when the kustomization asks for what is not done here, and otherwise the library's.
func Build(fsys fs.FS, directory string) (*Rendered, error) {
	s := scout{fsys: fsys, seen: map[string]struct{}{}}
	s.directory(directory, "")
	if len(s.refusals) > 0 {
		return nil, s.refusals
	}
	options := krusty.MakeDefaultOptions() // no plugins, no Helm, files below the root only
	options.PluginConfig = types.DisabledPluginConfig()
	options.LoadRestrictions = types.LoadRestrictionsRootOnly
	files := map[string]struct{}{}
	objects, err := krusty.MakeKustomizer(options).Run(readOnly{fsys, files}, rooted(directory))
	if err != nil {
		return nil, fmt.Errorf("rendering %s: %w", directory, err)
	}
	content, err := objects.AsYaml()
	if err != nil {
		return nil, fmt.Errorf("writing what %s renders to: %w", directory, err)
	}
	return &Rendered{YAML: content, Files: slices.Sorted(maps.Keys(files))}, nil
}

// scout reads every kustomization that one leads to.
type scout struct {
	fsys     fs.FS
	seen     map[string]struct{}
	refusals Refusals
}

// directory reads the kustomization of a directory; from names the file that leads here, for the first one none does.
func (s *scout) directory(directory, from string) {
	if _, twice := s.seen[directory]; twice {
		return
	}
	s.seen[directory] = struct{}{}
	file := File(s.fsys, directory)
	if file == "" {
		if from == "" {
			from = directory
		}
		s.refusals = append(s.refusals, Refusal{File: from, Value: directory, Message: directory + " holds no kustomization file", Hint: "one is named kustomization.yaml"})
		return
	}
	content, err := fs.ReadFile(s.fsys, file)
	if err != nil {
		s.refusals = append(s.refusals, Refusal{File: file, Message: reason(err)})
		return
	}
	k, refusals := check(file, content)
	s.refusals = append(s.refusals, refusals...)
	if k == nil {
		return
	}
	for _, list := range []struct {
		field string
		paths []string
		//lint:ignore SA1019 old kustomizations still use it, and it can name something remote
	}{{"resources", k.Resources}, {"bases", k.Bases}, {"components", k.Components}} {
		for i, p := range list.paths {
			if remote(p) == nil {
				s.operand(file, fmt.Sprintf("%s[%d]", list.field, i), p)
			}
		}
	}
}

// operand follows one resource of a kustomization file: a directory with a kustomization of its own, or a file of objects.
func (s *scout) operand(file, field, relative string) {
	if strings.HasPrefix(relative, "/") {
		s.refusals = append(s.refusals, Refusal{File: file, Field: field, Value: relative, Message: relative + " is an absolute path", Hint: "paths are relative to the kustomization file"})
		return
	}
	if strings.Contains(relative, "\n") {
		return // an object written in place
	}
	target := path.Join(path.Dir(file), relative)
	info, err := fs.Stat(s.fsys, target)
	switch {
	case err != nil:
		s.refusals = append(s.refusals, Refusal{File: file, Field: field, Value: relative, Message: fmt.Sprintf("reading %s: %s", relative, reason(err)), Hint: "paths are relative to the kustomization file"})
	case info.IsDir():
		s.directory(target, file)
	}
}

// reason is why a file could not be read, without its path.
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
