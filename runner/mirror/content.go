package mirror

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/gapproof/gapproof/images"
)

// ErrCorrupt reports content that does not match the digest it is stored under.
var ErrCorrupt = errors.New("content does not match its digest")

// maxManifest bounds a manifest: the specification tells registries to refuse larger ones (section "Pushing Manifests").
const maxManifest = 4 << 20

// manifest is one verified manifest or index, kept in memory.
type manifest struct {
	mediaType types.MediaType
	raw       []byte
}

// repository is what one locked name may be asked for.
type repository struct {
	tags      map[string]string // tag → digest
	manifests map[string]bool
	blobs     map[string]bool
}

// content is the closed set of what the lock reaches. It is read-only once built, apart from the memory of verified blobs.
type content struct {
	root      *os.Root
	platform  string
	repos     map[string]*repository
	manifests map[string]manifest

	mu       sync.Mutex
	verified map[string]*verification
}

// load walks the lock. Every fault found is in the error.
func load(labDir string, lock *images.Lock) (*content, error) {
	if err := lock.Validate(); err != nil {
		return nil, fmt.Errorf("checking the lock: %w", err)
	}
	root, err := os.OpenRoot(images.LayoutDir(labDir))
	if err != nil {
		return nil, fmt.Errorf("opening the image layout: %w", err)
	}
	c := &content{
		root:      root,
		platform:  lock.Platform,
		repos:     map[string]*repository{},
		manifests: map[string]manifest{},
		verified:  map[string]*verification{},
	}
	var faults []error
	for _, image := range lock.Images {
		name := canonical(image.Name)
		repo := c.repos[name]
		if repo == nil {
			repo = &repository{tags: map[string]string{}, manifests: map[string]bool{}, blobs: map[string]bool{}}
			c.repos[name] = repo
		}
		if err := c.walk(repo, image.Digest); err != nil {
			faults = append(faults, fmt.Errorf("reading %s: %w", image.Reference(), err))
			continue
		}
		repo.tags[image.Tag] = image.Digest
	}
	if err := errors.Join(faults...); err != nil {
		_ = root.Close()
		return nil, err
	}
	return c, nil
}

// walk adds the manifest with this digest, and everything below it, to repo.
func (c *content) walk(repo *repository, digest string) error {
	if repo.manifests[digest] {
		return nil
	}
	m, err := c.readManifest(digest)
	if err != nil {
		return err
	}
	repo.manifests[digest] = true
	if m.mediaType.IsIndex() {
		index, err := v1.ParseIndexManifest(bytes.NewReader(m.raw))
		if err != nil {
			return fmt.Errorf("decoding index %s: %w", digest, err)
		}
		for _, d := range index.Manifests {
			err := c.walk(repo, d.Digest.String())
			if errors.Is(err, fs.ErrNotExist) && d.Platform != nil && !d.Platform.Satisfies(platform(c.platform)) {
				continue // an index keeps naming the platforms whose content a lab for this platform leaves out
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	image, err := v1.ParseManifest(bytes.NewReader(m.raw))
	if err != nil {
		return fmt.Errorf("decoding manifest %s: %w", digest, err)
	}
	for _, d := range append(image.Layers, image.Config) {
		if d.Digest == (v1.Hash{}) {
			return fmt.Errorf("decoding manifest %s: it has a layer or a config without a digest", digest)
		}
		repo.blobs[d.Digest.String()] = true
	}
	return nil
}

func platform(s string) v1.Platform {
	os, arch, _ := strings.Cut(s, "/")
	return v1.Platform{OS: os, Architecture: arch}
}

func (c *content) readManifest(digest string) (manifest, error) {
	if m, ok := c.manifests[digest]; ok {
		return m, nil
	}
	f, err := c.open(digest)
	if err != nil {
		return manifest{}, fmt.Errorf("opening manifest %s: %w", digest, err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil {
		return manifest{}, fmt.Errorf("reading manifest %s: %w", digest, err)
	}
	if len(raw) > maxManifest {
		return manifest{}, fmt.Errorf("reading manifest %s: it is larger than %d bytes", digest, maxManifest)
	}
	if sum := sha256.Sum256(raw); "sha256:"+hex.EncodeToString(sum[:]) != digest {
		return manifest{}, fmt.Errorf("reading manifest %s: %w", digest, ErrCorrupt)
	}
	base, err := v1.ParseManifest(bytes.NewReader(raw)) // mediaType has one place in manifests and indexes
	if err != nil {
		return manifest{}, fmt.Errorf("decoding manifest %s: %w", digest, err)
	}
	m := manifest{mediaType: base.MediaType, raw: raw}
	switch {
	case m.mediaType.IsIndex(), m.mediaType.IsImage():
	case m.mediaType == "" && base.Config.Digest.Hex == "":
		m.mediaType = types.OCIImageIndex // mediaType is optional in OCI; an index has no config
	case m.mediaType == "":
		m.mediaType = types.OCIManifestSchema1
	default:
		return manifest{}, fmt.Errorf("reading manifest %s: its media type %q is neither an image's nor an index's", digest, m.mediaType)
	}
	c.manifests[digest] = m
	return m, nil
}

// open opens the blob of a well-formed digest; os.Root keeps links in the layout from leading outside it.
func (c *content) open(digest string) (*os.File, error) {
	return c.root.Open("blobs/sha256/" + strings.TrimPrefix(digest, "sha256:"))
}

// verification is the outcome of hashing one blob's file, as the file was then.
type verification struct {
	mu      sync.Mutex
	done    bool
	size    int64
	changed time.Time
	err     error
}

// verify makes sure that the open file f holds the blob of this digest, hashing it unless the unchanged file was hashed before.
// Concurrent callers for one digest wait for one hashing.
func (c *content) verify(digest string, f *os.File) (fs.FileInfo, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading blob %s: %w", digest, err)
	}
	c.mu.Lock()
	v := c.verified[digest]
	if v == nil {
		v = &verification{}
		c.verified[digest] = v
	}
	c.mu.Unlock()

	v.mu.Lock()
	defer v.mu.Unlock()
	if v.done && v.size == info.Size() && v.changed.Equal(info.ModTime()) {
		return info, v.err
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, fmt.Errorf("reading blob %s: %w", digest, err) // not remembered: the next request tries again
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("reading blob %s: %w", digest, err)
	}
	v.done, v.size, v.changed, v.err = true, info.Size(), info.ModTime(), nil
	if got := "sha256:" + hex.EncodeToString(h.Sum(nil)); got != digest {
		v.err = fmt.Errorf("hashing blob %s: the file hashes to %s: %w", digest, got, ErrCorrupt)
	}
	return info, v.err
}

// find returns the repository a request means. ns is containerd's registry host, empty when the client sent none.
func (c *content) find(ns, name string) (*repository, fault) {
	if ns != "" {
		if r := c.repos[canonical(ns+"/"+name)]; r != nil {
			return r, faultNone
		}
		return nil, faultRepository
	}
	if r := c.repos[canonical(name)]; r != nil {
		return r, faultNone
	}
	var found *repository
	for full, r := range c.repos {
		_, rest, _ := strings.Cut(full, "/")
		if rest != name && rest != "library/"+name {
			continue
		}
		if found != nil {
			return nil, faultAmbiguous
		}
		found = r
	}
	if found == nil {
		return nil, faultRepository
	}
	return found, faultNone
}

// canonical writes Docker Hub's aliases as one name: its hosts are one registry, and a name of one component is in "library"
// (https://github.com/distribution/reference, normalize.go).
func canonical(name string) string {
	host, rest, _ := strings.Cut(name, "/")
	switch host {
	case "docker.io", "index.docker.io", "registry-1.docker.io":
		if !strings.Contains(rest, "/") {
			rest = "library/" + rest
		}
		return "docker.io/" + rest
	}
	return name
}
