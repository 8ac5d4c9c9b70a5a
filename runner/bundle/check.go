package bundle

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	strict "sigs.k8s.io/json"

	"github.com/gapproof/gapproof/images"
	"github.com/gapproof/gapproof/runner/bundle/signed"
	"github.com/gapproof/gapproof/runner/bundle/upstream"
)

// Errors about what a bundle carries, which callers tell apart from those of package signed.
var (
	// ErrLab reports a bundle whose list holds, but which is no whole lab: something that its lock or an image names is missing or other than
	// named, or there is something that none of them names.
	ErrLab = errors.New("bundle is not what its lock says")
	// ErrPlatform reports a lab whose images run on other machines than this.
	ErrPlatform = errors.New("bundle is for another platform")
)

// The entries of a bundle that are looked into.
const (
	lockEntry   = "lock.json"
	layoutEntry = "layout/oci-layout"
	filesPrefix = "files/"
)

// Limits of what is held in memory while a bundle streams by.
const (
	// maxDocument is what registries take for a manifest (https://github.com/opencontainers/distribution-spec/blob/main/spec.md, 4 MiB).
	maxDocument = 4 << 20
	// maxDocuments bounds all of a bundle's manifests and configurations together; a lab's have less than a megabyte.
	maxDocuments = 32 << 20
	// maxLabFaults is how many faults of one lab are reported; the others are counted.
	maxLabFaults = 20
)

// Verify reads a bundle from its first byte to its last, holds it against its list as [signed.Read] does, and what it carries against its lock:
// every image with its index, the manifests, configuration and layers that it leads to, and every file, with their sizes; and nothing that
// none of them names. It writes nothing and holds no more than the small documents in memory. The errors are those of [signed.Read], [ErrLab]
// and [ErrPlatform]. What it takes, [Load] takes too.
func Verify(ctx context.Context, carried io.Reader, o signed.ReadOptions) (*signed.Result, *images.Lock, error) {
	return readWhole(ctx, carried, o, Platform(), nil)
}

// Inspect is [Verify] without signatures, serials, expiry and regard to the platform: it tells what a bundle says it holds, and that it does.
func Inspect(ctx context.Context, carried io.Reader) (*signed.Result, *images.Lock, error) {
	return readWhole(ctx, carried, signed.ReadOptions{}, "", nil)
}

// readWhole reads a bundle, hands each entry to write, if there is one, and checks what was carried. An empty platform takes any.
func readWhole(ctx context.Context, carried io.Reader, o signed.ReadOptions, platform string, write func(string, io.Reader) error) (*signed.Result, *images.Lock, error) {
	c := &contents{documents: map[string][]byte{}}
	result, err := signed.Read(ctx, carried, o, func(e signed.Entry, content io.Reader) error {
		content, err := c.take(e, content)
		if err != nil || write == nil {
			return err
		}
		return write(e.Name, content)
	})
	if err != nil {
		return nil, nil, err
	}
	if err := c.check(result.Statement, platform); err != nil {
		return nil, nil, fmt.Errorf("holding the bundle against its lock: %w", err)
	}
	return result, c.lock, nil
}

// contents are what of a bundle is kept while it streams by, because it says what else must be there.
type contents struct {
	lock          *images.Lock
	index, layout []byte
	// documents are the blobs that may be manifests, by their digests.
	documents map[string][]byte
	held      int
}

// take looks at an entry's content and returns it again for whoever writes it.
func (c *contents) take(e signed.Entry, content io.Reader) (io.Reader, error) {
	whole := func(into *[]byte) (io.Reader, error) {
		if c.held += int(min(e.Size, maxDocuments)); e.Size > maxDocument || c.held > maxDocuments {
			return nil, fmt.Errorf("%d bytes of what is looked into, want at most %d, and %d altogether: %w", e.Size, maxDocument, maxDocuments, ErrLab)
		}
		raw, err := io.ReadAll(content)
		*into = raw
		return bytes.NewReader(raw), err
	}
	digest, isBlob := strings.CutPrefix(e.Name, blobPrefix)
	switch {
	case e.Name == lockEntry:
		var raw []byte
		content, err := whole(&raw)
		if err != nil {
			return nil, err
		}
		if c.lock, err = images.DecodeLock(bytes.NewReader(raw)); err != nil {
			return nil, fmt.Errorf("reading the lock: %w: %w", ErrLab, err)
		}
		return content, nil
	case e.Name == SubjectEntry:
		return whole(&c.index)
	case e.Name == layoutEntry:
		return whole(&c.layout)
	case isBlob && digest != e.SHA256:
		return nil, fmt.Errorf("the list gives it the digest %s: %w", e.SHA256, ErrLab)
	case isBlob:
		first := make([]byte, 1)
		n, err := io.ReadFull(content, first)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		content = io.MultiReader(bytes.NewReader(first[:n]), content)
		if first[0] != '{' || e.Size > maxDocument { // a layer
			return content, nil
		}
		var raw []byte
		content, err := whole(&raw)
		c.documents[digest] = raw
		return content, err
	case strings.HasPrefix(e.Name, "layout/") || slices.Contains([]string{"layout", "files"}, e.Name):
		return nil, fmt.Errorf("it is no part of a lab: %w", ErrLab)
	}
	return content, nil
}

// labCheck gathers the faults of a lab.
type labCheck struct {
	*contents
	entries map[string]signed.Entry
	used    map[string]bool // digests of blobs
	faults  []error
	left    int
}

func (c *labCheck) fault(format string, args ...any) {
	if len(c.faults) == maxLabFaults {
		c.left++
		return
	}
	c.faults = append(c.faults, fmt.Errorf(format+": %w", append(args, ErrLab)...))
}

// check holds the entries against the lock, and the lock against the machine.
func (c *contents) check(s *signed.Statement, platform string) error {
	l := &labCheck{contents: c, entries: map[string]signed.Entry{}, used: map[string]bool{}}
	for _, e := range s.Predicate.Entries {
		l.entries[e.Name] = e
	}
	switch {
	case c.lock == nil:
		return fmt.Errorf("there is no %s: %w", lockEntry, ErrLab)
	case s.Subject[0].Name != SubjectEntry:
		return fmt.Errorf("it is about %s, want %s: %w", s.Subject[0].Name, SubjectEntry, ErrLab)
	case s.Predicate.Platform != c.lock.Platform:
		return fmt.Errorf("the list is for %s, the lock for %s: %w", s.Predicate.Platform, c.lock.Platform, ErrLab)
	case platform != "" && c.lock.Platform != platform:
		return fmt.Errorf("its images are for %s, this machine's for %s: %w", c.lock.Platform, platform, ErrPlatform)
	}
	if string(c.layout) != layoutVersion {
		l.fault("%s is missing or another than %s", layoutEntry, layoutVersion)
	}
	for _, i := range c.lock.Images {
		l.image(i)
	}
	l.layoutIndex()
	l.files()
	if len(l.faults) == 0 { // else whatever a missing manifest names would be listed here
		l.strangers()
	}
	if l.left > 0 {
		l.faults = append(l.faults, fmt.Errorf("and %d faults more", l.left))
	}
	return errors.Join(l.faults...)
}

// strangers are blobs that no image leads to.
func (c *labCheck) strangers() {
	for _, name := range slices.Sorted(maps.Keys(c.entries)) {
		if digest, ok := strings.CutPrefix(name, blobPrefix); ok && !c.used[digest] {
			c.fault("blob sha256:%s is no image's", digest)
		}
	}
}

// image follows an image from its index to its layers.
func (c *labCheck) image(i images.Image) {
	var size int64
	counted := map[string]bool{}
	count := func(d v1.Hash) {
		if !counted[d.Hex] {
			size += c.entries[blobPrefix+d.Hex].Size
		}
		counted[d.Hex], c.used[d.Hex] = true, true
	}
	own, _ := v1.NewHash(i.Digest) // the lock was validated
	raw, ok := c.document(i, "index", own, new(v1.IndexManifest))
	if !ok {
		return
	}
	count(own)
	list, ours, err := upstream.ReadIndex(raw, c.lock.Platform)
	if err != nil {
		c.fault("index of %s: %w", i.Reference(), err)
		return
	}
	whole := true
	for _, d := range list.Manifests {
		if !d.MediaType.IsImage() {
			continue
		}
		if c.blob(i, "manifest", d) {
			count(d.Digest)
		} else {
			whole = false
		}
	}
	if !whole {
		return
	}
	if raw, ok = c.document(i, "manifest", ours.Digest, new(v1.Manifest)); !ok {
		return
	}
	blobs, err := blobsOf(raw)
	if err != nil {
		c.fault("manifest of %s: %w", i.Reference(), err)
		return
	}
	for _, d := range blobs {
		if c.blob(i, "blob", d) {
			count(d.Digest)
		} else {
			whole = false
		}
	}
	if whole && size != i.Size {
		c.fault("%s has %d bytes, the lock gives it %d", i.Reference(), size, i.Size)
	}
}

// blob tells whether what a descriptor names is there, with its size.
func (c *labCheck) blob(i images.Image, what string, d v1.Descriptor) bool {
	e, ok := c.entries[blobPrefix+d.Digest.Hex]
	switch {
	case d.Digest.Algorithm != "sha256" || !ok:
		c.fault("%s %s of %s is missing", what, d.Digest, i.Reference())
		return false
	case e.Size != d.Size:
		c.fault("%s %s of %s has %d bytes, its descriptor gives it %d", what, d.Digest, i.Reference(), e.Size, d.Size)
		return false
	}
	return true
}

// document is a manifest, which must be there and must not say one thing twice.
func (c *labCheck) document(i images.Image, what string, digest v1.Hash, into any) ([]byte, bool) {
	raw, ok := c.documents[digest.Hex]
	if !ok {
		if _, there := c.entries[blobPrefix+digest.Hex]; there {
			c.fault("%s %s of %s is no JSON of at most %d bytes", what, digest, i.Reference(), maxDocument)
		} else {
			c.fault("%s %s of %s is missing", what, digest, i.Reference())
		}
		return nil, false
	}
	faults, err := strict.UnmarshalStrict(raw, into, strict.DisallowDuplicateFields)
	if err := errors.Join(append([]error{err}, faults...)...); err != nil {
		c.fault("%s %s of %s: %.200q", what, digest, i.Reference(), err.Error())
		return nil, false
	}
	return raw, true
}

// layoutIndex holds the layout's index against the lock: it must list the same images under the same names, in the form in which we write it.
func (c *labCheck) layoutIndex() {
	var index v1.IndexManifest
	faults, err := strict.UnmarshalStrict(c.index, &index)
	if err := errors.Join(append([]error{err}, faults...)...); err != nil {
		c.fault("%s: %.200q", SubjectEntry, err.Error())
		return
	}
	if again, err := json.Marshal(index); err != nil || !bytes.Equal(again, c.index) {
		c.fault("%s is not in the form in which gapproof writes it", SubjectEntry)
		return
	}
	listed := map[string]string{}
	for n, d := range index.Manifests {
		name := d.Annotations[refName]
		if _, ok := listed[name]; ok {
			c.fault("%s: manifests[%d]: %.100q is listed already", SubjectEntry, n, name)
		}
		listed[name] = d.Digest.String()
		if e, ok := c.entries[blobPrefix+d.Digest.Hex]; ok && e.Size != d.Size {
			c.fault("%s: manifests[%d]: %.100q has %d bytes, want %d", SubjectEntry, n, name, d.Size, e.Size)
		}
	}
	for _, i := range c.lock.Images {
		if got := listed[i.Name+":"+i.Tag]; got != i.Digest {
			c.fault("%s lists %s with the digest %.100q", SubjectEntry, i.Reference(), got)
		}
		delete(listed, i.Name+":"+i.Tag)
	}
	for _, name := range slices.Sorted(maps.Keys(listed)) {
		c.fault("%s lists %.100q, which is not in the lock", SubjectEntry, name)
	}
}

// files holds the files beside the layout against the lock, both ways.
func (c *labCheck) files() {
	locked := map[string]bool{}
	for _, f := range c.lock.Files {
		name := path.Join(filesPrefix, f.Path)
		locked[name] = true
		if e, ok := c.entries[name]; !ok {
			c.fault("file %s is missing", f.Path)
		} else if e.SHA256 != f.SHA256 || e.Size != f.Size {
			c.fault("file %s has the digest %s and %d bytes, the lock gives it %s and %d", f.Path, e.SHA256, e.Size, f.SHA256, f.Size)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.entries)) {
		if strings.HasPrefix(name, filesPrefix) && !locked[name] {
			c.fault("file %s is not in the lock", strings.TrimPrefix(name, filesPrefix))
		}
	}
}
