package images

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"sort"
)

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

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// Validate reports every fault of the lock at once: a version it does not know, a malformed digest, a doubled reference.
func (l *Lock) Validate() error {
	var faults []error
	if l.Version != LockVersion {
		faults = append(faults, fmt.Errorf("version: is %d, this build reads %d", l.Version, LockVersion))
	}
	seen := map[string]int{}
	for n, i := range l.Images {
		field := fmt.Sprintf("images[%d]", n)
		if i.Name == "" || i.Tag == "" {
			faults = append(faults, fmt.Errorf("%s: name and tag are required, got %q and %q", field, i.Name, i.Tag))
		}
		if !digestForm.MatchString(i.Digest) {
			faults = append(faults, fmt.Errorf("%s.digest: %q is not sha256 and 64 hexadecimal digits", field, i.Digest))
		}
		ref := i.Name + ":" + i.Tag
		if first, ok := seen[ref]; ok {
			faults = append(faults, fmt.Errorf("%s: %s is listed already at images[%d]", field, ref, first))
		}
		seen[ref] = n
	}
	for n, f := range l.Files {
		if !filepath.IsLocal(filepath.FromSlash(f.Path)) {
			faults = append(faults, fmt.Errorf("files[%d].path: %q leaves the lab directory", n, f.Path))
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

// DecodeLock reads and validates a lock, and nothing may follow it. Unknown fields are faults.
func DecodeLock(r io.Reader) (*Lock, error) {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	var l Lock
	if err := d.Decode(&l); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more behind the lock")
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
