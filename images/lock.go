package images

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"sort"
	"strings"

	strict "sigs.k8s.io/json"
)

// maxLock bounds the lock that is held in memory, in bytes; a lab's has some ten kilobytes.
const maxLock = 4 << 20

// LockVersion is the only schema version of lock.json that this build reads and writes.
const LockVersion = 1

// ErrNotLocked reports a name or digest that the lock does not list. Nothing outside the lock is ever served, loaded or run.
var ErrNotLocked = errors.New("image not in the lock")

// Names under which the lab's own and Kubernetes' images are asked for. The kubelet, kubeadm and CNI manifests use these
// references unchanged; the mirror answers them whatever the registry host in front.
const (
	// NodeImage is the repository of the kind node image. It is loaded into the engine, never pulled by a node.
	NodeImage = "docker.io/kindest/node"
	// ProbeImage is the repository of the image that carries gapproof-probe.
	ProbeImage = "gapproof.dev/probe"
	// WitnessImage is the repository of the image that carries gapproof-witness.
	WitnessImage = "gapproof.dev/witness"
)

// Image is one locked image.
type Image struct {
	// Name is the repository with its registry host and without tag, such as "registry.k8s.io/kube-apiserver".
	Name string `json:"name"`
	// Tag is the tag under which manifests and kubeadm ask for it, such as "v1.37.2".
	Tag string `json:"tag"`
	// Digest is the digest of the image index, "sha256:" and 64 hexadecimal digits.
	Digest string `json:"digest"`
	// Size is the sum of the sizes of all blobs of the image in bytes, manifests included.
	Size int64 `json:"size"`
	// Component is the folder below images/ that describes it.
	Component string `json:"component"`
	// Profile is the CNI profile that needs it ("calico", "cilium"), "race" for peers' images, or empty for every lab.
	Profile string `json:"profile,omitempty"`
	// Built lists the module or package versions it was built from, such as "k8s.io/kubernetes v1.37.2", sorted. It is empty for an image
	// that was pulled from a registry, and for one of our own code alone; what either is made of is in its SBOM.
	Built []string `json:"built,omitempty"`
}

// Reference is the image pinned: name:tag@digest, a form that containerd and the kubelet accept.
func (i Image) Reference() string { return i.Name + ":" + i.Tag + "@" + i.Digest }

// SBOM is the path, among the lab's files, of the image's bill of materials: a CycloneDX document of its Go modules and Debian packages.
func (i Image) SBOM() string { return "sbom/" + i.Name + "/" + i.Tag + ".cdx.json" }

// File is one locked file beside the layout.
type File struct {
	// Path is slash-separated and relative to the lab's files folder, such as "cni/calico/calico-vxlan.yaml".
	Path string `json:"path"`
	// SHA256 is the lower-case hexadecimal digest of its bytes.
	SHA256 string `json:"sha256"`
	// Size is in bytes.
	Size int64 `json:"size"`
	// Origin says where it was taken from: module path, version and path inside it.
	Origin string `json:"origin"`
}

// Lock is the content of lock.json. Images are sorted by name and tag, Files by path.
type Lock struct {
	Version  int     `json:"version"`
	Platform string  `json:"platform"` // such as "linux/amd64"
	Images   []Image `json:"images"`
	Files    []File  `json:"files"`
}

// Find returns the image with this repository name. Where several tags share the name the last tag in sorted order is
// returned. The error matches [ErrNotLocked] when there is none.
func (l *Lock) Find(name string) (Image, error) {
	for i := len(l.Images) - 1; i >= 0; i-- {
		if l.Images[i].Name == name {
			return l.Images[i], nil
		}
	}
	return Image{}, fmt.Errorf("looking up %s: %w", name, ErrNotLocked)
}

// Sort puts images and files into the lock's order.
func (l *Lock) Sort() {
	sort.Slice(l.Images, func(a, b int) bool {
		if l.Images[a].Name != l.Images[b].Name {
			return l.Images[a].Name < l.Images[b].Name
		}
		return l.Images[a].Tag < l.Images[b].Tag
	})
	sort.Slice(l.Files, func(a, b int) bool { return l.Files[a].Path < l.Files[b].Path })
}

// The forms of what a lock says. A lock comes from another side and is printed: nothing in it may speak to a terminal.
var (
	digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	sumForm    = regexp.MustCompile(`^[0-9a-f]{64}$`)
	// nameForm and tagForm are those of references (https://github.com/distribution/reference).
	nameForm = regexp.MustCompile(`^(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?(?::[0-9]+)?/)?` + pathForm + `(?:/` + pathForm + `)*$`)
	tagForm  = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	// platformForm is an operating system, an architecture and a variant where there is one, as Go and OCI name them.
	platformForm = regexp.MustCompile(`^[a-z0-9]+/[a-z0-9]+(?:/[a-z0-9]+)?$`)
	// wordForm is a component's or a profile's; there may be none.
	wordForm = regexp.MustCompile(`^[a-z0-9.-]*$`)
)

const (
	// pathForm is one part of a repository's path.
	pathForm = `[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*`
	// maxName is distribution's for a repository with its host.
	maxName = 255
)

// isPrintable tells of visible ASCII and spaces.
func isPrintable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

// checkPath says what keeps a path from being a file's.
func checkPath(p string) error {
	switch {
	case !filepath.IsLocal(filepath.FromSlash(p)):
		return fmt.Errorf("%.100q leaves the lab directory", p)
	case path.Clean(p) != p || !isPrintable(p) || strings.ContainsAny(p, ` \`):
		return fmt.Errorf("%.100q is not a clean path of visible ASCII characters", p)
	}
	return nil
}

// Validate reports every fault of the lock at once: a version it does not know, a malformed platform, name, digest or size, a doubled
// reference or path, a character that does not belong where it is.
func (l *Lock) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if l.Version != LockVersion {
		fault("version: is %d, this build reads %d", l.Version, LockVersion)
	}
	if !platformForm.MatchString(l.Platform) {
		fault("platform: %.100q is not one such as linux/amd64", l.Platform)
	}
	seen := map[string]int{}
	for n, i := range l.Images {
		field := fmt.Sprintf("images[%d]", n)
		switch {
		case i.Name == "" || i.Tag == "":
			fault("%s: name and tag are required, got %.100q and %.100q", field, i.Name, i.Tag)
		case len(i.Name) > maxName || !nameForm.MatchString(i.Name):
			fault("%s.name: %.100q is not a repository's", field, i.Name)
		case !tagForm.MatchString(i.Tag):
			fault("%s.tag: %.100q is not a tag", field, i.Tag)
		}
		if !digestForm.MatchString(i.Digest) {
			fault("%s.digest: %.100q is not sha256 and 64 hexadecimal digits", field, i.Digest)
		}
		if i.Size < 0 {
			fault("%s.size: %d is less than nothing", field, i.Size)
		}
		if !wordForm.MatchString(i.Component) || !wordForm.MatchString(i.Profile) {
			fault("%s.component, profile: %.100q and %.100q are not lower-case words", field, i.Component, i.Profile)
		}
		for m, b := range i.Built {
			if !isPrintable(b) {
				fault("%s.built[%d]: %.100q has more than printable ASCII characters", field, m, b)
			}
		}
		ref := i.Name + ":" + i.Tag
		if first, ok := seen[ref]; ok {
			fault("%s: %.400q is listed already at images[%d]", field, ref, first)
		}
		seen[ref] = n
	}
	paths := map[string]int{}
	for n, f := range l.Files {
		field := fmt.Sprintf("files[%d]", n)
		if err := checkPath(f.Path); err != nil {
			fault("%s.path: %w", field, err)
		}
		if first, ok := paths[f.Path]; ok {
			fault("%s.path: %.100q is listed already at files[%d]", field, f.Path, first)
		}
		paths[f.Path] = n
		if !sumForm.MatchString(f.SHA256) {
			fault("%s.sha256: %.100q is not 64 hexadecimal digits", field, f.SHA256)
		}
		if f.Size < 0 {
			fault("%s.size: %d is less than nothing", field, f.Size)
		}
		if !isPrintable(f.Origin) {
			fault("%s.origin: %.100q has more than printable ASCII characters", field, f.Origin)
		}
	}
	return errors.Join(faults...)
}

// ReadLock reads and validates dir/lock.json. Unknown fields are faults: a lock from a newer build is not half understood.
func ReadLock(dir string) (*Lock, error) {
	path := filepath.Join(dir, "lock.json")
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening the lock: %w", err)
	}
	defer f.Close()
	l, err := DecodeLock(f)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return l, nil
}

// DecodeLock reads and validates a lock of at most 4 MiB, and nothing may follow it. Unknown fields are faults, and so are a field that is
// there twice or in another case, which two readers could understand differently.
func DecodeLock(r io.Reader) (*Lock, error) {
	raw, err := io.ReadAll(io.LimitReader(r, maxLock+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxLock {
		return nil, fmt.Errorf("it has more than %d bytes", maxLock)
	}
	var l Lock
	faults, err := strict.UnmarshalStrict(raw, &l)
	if err := errors.Join(append([]error{err}, faults...)...); err != nil {
		return nil, err
	}
	if err := l.Validate(); err != nil {
		return nil, err
	}
	return &l, nil
}

// Encode is the lock as lock.json has it: the same lock gives the same bytes.
func (l *Lock) Encode() ([]byte, error) {
	raw, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the lock: %w", err)
	}
	return append(raw, '\n'), nil
}

// LayoutDir is the OCI image layout of the lab directory dir.
func LayoutDir(dir string) string { return filepath.Join(dir, "layout") }

// FilePath is where the locked file f lies in the lab directory dir.
func FilePath(dir string, f File) string {
	return filepath.Join(dir, "files", filepath.FromSlash(f.Path))
}
