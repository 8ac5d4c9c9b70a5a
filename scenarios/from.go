package scenarios

import (
	"io"
	"io/fs"
	"path"
	"path/filepath"
)

// ManifestOptions say how manifests are read. The zero value is ready for use.
type ManifestOptions struct {
	// DefaultNamespace is for objects that name no namespace, as kubectl's -n is. Default: none, so that such an object is a fault.
	DefaultNamespace string
	// Input is what the path "-" stands for, read at most once. Default: "-" is a file of that name.
	Input io.Reader
}

// FromManifests is the scenario that manifests describe: a world of their workloads and Services, and all of their NetworkPolicies, applied in
// one step, without intent. Paths are files, directories and kustomizations, as World.From has them. The scenario's name is the given one
// and its File the first path.
//
// What the manifests say and a world cannot is told in Omissions, what they hold besides in Ignored. The error is a Faults.
func FromManifests(name string, paths []string, o ManifestOptions) (*Scenario, error) {
	absolute := make([]string, len(paths))
	for i, p := range paths {
		absolute[i] = filepath.Clean(p)
	}
	return fromManifests(hereTree{osTree{}}, name, absolute, o)
}

// FromManifestsFS is FromManifests for the files of fsys.
func FromManifestsFS(fsys fs.FS, name string, paths []string, o ManifestOptions) (*Scenario, error) {
	clean := make([]string, len(paths))
	for i, p := range paths {
		clean[i] = path.Clean(p)
	}
	return fromManifests(hereTree{fsTree{fsys}}, name, clean, o)
}

// WorldFrom is the world alone of FromManifests, with what it could not carry over.
func WorldFrom(paths ...string) (World, []Omission, error) {
	s, err := FromManifests("world", paths, ManifestOptions{})
	if err != nil {
		return World{}, nil, err
	}
	return s.World, s.Omissions, nil
}

// hereTree is a tree for a scenario that stands in no file: its paths are the tree's own.
type hereTree struct{ tree }

func (hereTree) beside(_, relative string) string { return relative }

func fromManifests(t tree, name string, paths []string, o ManifestOptions) (*Scenario, error) {
	l := loader{tree: t, used: map[string]struct{}{}, seen: map[string]struct{}{}, named: map[string]string{}, input: o.Input}
	first := "."
	if len(paths) > 0 {
		first = paths[0]
	}
	s := &Scenario{File: first, Metadata: Metadata{Name: name}}
	s.APIVersion, s.Kind = APIVersion, Kind
	s.World.From, s.World.DefaultNamespace = paths, o.DefaultNamespace
	s.Policies.Manifests, s.Policies.DefaultNamespace = paths, o.DefaultNamespace
	doc := &document{file: first, lines: map[string]int{}, bad: map[string]struct{}{}, sink: &l.sink}
	if len(paths) == 0 {
		doc.fault("", nil, "name files or directories of manifests", "no path is given")
	} else {
		l.complete(doc, s)
	}
	if faults := l.sink.sorted(); len(faults) > 0 {
		return nil, faults
	}
	s.Policies.Manifests, s.Policies.DefaultNamespace = nil, ""
	return s, nil
}
