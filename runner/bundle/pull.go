package bundle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/gapproof/gapproof/images"
	"github.com/gapproof/gapproof/runner/bundle/upstream"
)

const (
	// pullRecipe is part of the key of a pulled image. It changes when more or other blobs of the same index shall be kept.
	pullRecipe = 1
	// pulledAtOnce bounds the blobs that are fetched at the same time: enough to fill a line with small layers, and few for one registry.
	pulledAtOnce = 4
)

// errContent reports a fetched blob that is not what its digest says.
var errContent = errors.New("content does not match its digest")

// Upstream is where a lab's images are pulled from.
type Upstream struct {
	// List is what is pulled; images of the lab that it does not list are built.
	List *upstream.List
	// Client asks the registries.
	Client *upstream.Client
}

// ReadUpstream reads the list of an images folder and holds it against the components there. The error lists every fault, each with file,
// line and field.
func ReadUpstream(imagesDir string) (*upstream.List, error) {
	file := filepath.Join(imagesDir, upstream.FileName)
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading what may be pulled: %w", err)
	}
	list, err := upstream.Decode(raw, file)
	if err != nil {
		return nil, err
	}
	all, err := ReadComponents(imagesDir)
	if err != nil {
		return nil, err
	}
	tags := map[string][]string{}
	for _, c := range all {
		for _, i := range c.Images {
			tags[i.Name] = append(tags[i.Name], i.Tag)
		}
	}
	var faults []error
	for n, i := range list.Images {
		switch have := tags[i.Name]; {
		case len(have) == 0:
			faults = append(faults, fmt.Errorf("%s:%d: images[%d].name: no component has an image %s", file, i.Line, n, i.Name))
		case !slices.Contains(have, i.Tag):
			faults = append(faults, fmt.Errorf("%s:%d: images[%d].tag: is %s, its component's is %s", file, i.Line, n, i.Tag, strings.Join(have, ", ")))
		}
	}
	return list, errors.Join(faults...)
}

// Platform is the platform of the images that this program builds and pulls, such as "linux/amd64".
func Platform() string { return goos + "/" + goarch }

// CreateFromUpstream makes the lab directory as [CreateFromModules] does, but pulls the images that the list names, by the digest it gives
// them, in place of building them. Everything else of the lab is built: our own images, those that upstream does not have in the form the
// lab needs, and the files beside the images. Blobs that are in the cache are not fetched again, so an interrupted pull goes on where it was.
//
// The error is an [*upstream.UnresolvedError] when images of the lab are listed without a digest; then nothing was asked and nothing is made.
func CreateFromUpstream(ctx context.Context, dst string, from Upstream, o Options) (*images.Lock, error) {
	return create(ctx, dst, o, &from)
}

// pulls are the images that a build pulls, by name:tag, and what fetches them.
type pulls struct {
	client *upstream.Client
	images map[string]upstream.Image
}

// chosen are the images of these components that the list names; a nil u has none.
func (u *Upstream) chosen(components []*Component) (pulls, error) {
	if u == nil {
		return pulls{}, nil
	}
	p := pulls{client: u.Client, images: map[string]upstream.Image{}}
	var wanted []upstream.Image
	for _, i := range u.List.Images {
		if slices.ContainsFunc(components, func(c *Component) bool {
			return slices.ContainsFunc(c.Images, func(s ImageSpec) bool { return s.Name+":"+s.Tag == i.Tagged() })
		}) {
			wanted = append(wanted, i)
			p.images[i.Tagged()] = i
		}
	}
	return p, u.List.Resolved(wanted)
}

// pullInputs is everything that decides what is kept of an image: the digest of its index, whichever registry has it, and the platform.
type pullInputs struct {
	Recipe           int
	Digest, Platform string
}

// pullStep fetches an image. Its output is one file per blob, named by the digest.
func (p *plan) pullStep(i upstream.Image) (*step, error) {
	key, err := keyOf("pull", pullInputs{pullRecipe, i.Digest, Platform()})
	if err != nil {
		return nil, err
	}
	s := &step{title: "pull " + i.Tagged(), key: key, network: true}
	s.run = func(ctx context.Context, dir string, _ *entry) error {
		if err := p.pull(ctx, i, dir); err != nil {
			return fmt.Errorf("pulling %s@%s: %w", i.Tagged(), i.Digest, err)
		}
		return nil
	}
	return p.shared(s), nil
}

// pull puts the blobs of an image into dir: the index, the manifests of all its platforms, and of ours the configuration and the layers.
func (p *plan) pull(ctx context.Context, i upstream.Image, dir string) error {
	index, err := p.pullManifest(ctx, i, i.Digest, dir)
	if err != nil {
		return err
	}
	list, ours, err := upstream.ReadIndex(index, Platform())
	if err != nil {
		return err
	}
	for _, d := range list.Manifests {
		if d.Digest == ours.Digest || !d.MediaType.IsImage() {
			continue
		}
		if _, err := p.pullManifest(ctx, i, d.Digest.String(), dir); err != nil {
			return err
		}
	}
	manifest, err := p.pullManifest(ctx, i, ours.Digest.String(), dir)
	if err != nil {
		return err
	}
	blobs, err := blobsOf(manifest)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(pulledAtOnce)
	for _, b := range blobs {
		g.Go(func() error {
			return p.pullBlob(ctx, b.Digest, dir, func(to string) error {
				return p.pulls.client.Blob(ctx, i.Name, b.Digest.String(), b.Size, func(r io.Reader) error { return writeFrom(r, to) })
			})
		})
	}
	return g.Wait()
}

// blobsOf are the configuration and the layers of a manifest, each once.
func blobsOf(manifest []byte) ([]v1.Descriptor, error) {
	var m v1.Manifest
	if err := json.Unmarshal(manifest, &m); err != nil {
		return nil, fmt.Errorf("decoding the manifest: %w", err)
	}
	var blobs []v1.Descriptor
	for _, d := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		if !d.MediaType.IsDistributable() {
			return nil, fmt.Errorf("layer %s may not be distributed, says its media type %s", d.Digest, d.MediaType)
		}
		if d.Digest.Algorithm != "sha256" || d.Size < 0 {
			return nil, fmt.Errorf("blob %s of %d bytes: only sha256 and a size are understood", d.Digest, d.Size)
		}
		if !slices.ContainsFunc(blobs, func(b v1.Descriptor) bool { return b.Digest == d.Digest }) {
			blobs = append(blobs, d)
		}
	}
	return blobs, nil
}

// pullManifest is a manifest, from the cache or the registry, and in dir afterwards.
func (p *plan) pullManifest(ctx context.Context, i upstream.Image, digest, dir string) ([]byte, error) {
	hash, err := v1.NewHash(digest)
	if err != nil {
		return nil, fmt.Errorf("reading the digest of a manifest: %w", err)
	}
	err = p.pullBlob(ctx, hash, dir, func(to string) error {
		raw, err := p.pulls.client.Manifest(ctx, i.Name, digest)
		if err != nil {
			return err
		}
		return os.WriteFile(to, raw, 0o444)
	})
	if err != nil {
		return nil, err
	}
	return os.ReadFile(filepath.Join(dir, hash.Hex))
}

// pullBlob has fetch write a blob, unless the cache has it, and gives it its name in dir. Each blob is an entry of its own, so that it is
// there for the next try when the rest of its image does not come.
func (p *plan) pullBlob(ctx context.Context, digest v1.Hash, dir string, fetch func(to string) error) error {
	key := "blob-" + digest.Hex
	e, err := p.cache.get(key)
	if errors.Is(err, errMiss) {
		if err != errMiss {
			p.log.Warn("cache entry not sound, fetching again", "blob", digest, "err", err)
		}
		if err := stopped(ctx); err != nil {
			return err
		}
		e, err = p.cache.put(key, "blob "+digest.String(), func(tmp string, _ *entry) error {
			to := filepath.Join(tmp, digest.Hex)
			if err := fetch(to); err != nil {
				return err
			}
			if sum, _, err := sumFile(to); err != nil || sum != digest.Hex {
				return fmt.Errorf("keeping blob %s: what was written hashes to %s: %w", digest, sum, errors.Join(errContent, err))
			}
			return nil
		})
	}
	if err != nil {
		return err
	}
	return link(e.path(digest.Hex), filepath.Join(dir, digest.Hex))
}

// writeFrom makes the file anew of all that r gives.
func writeFrom(r io.Reader, name string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

// pulled is the image of our platform in the output of a pull, as package partial wants it.
type pulled struct {
	entry     *entry
	mediaType types.MediaType
	manifest  []byte
	blobs     []v1.Descriptor // the configuration, then the layers
}

// openPulled opens the image that a pull has left under the digest of an index.
func openPulled(e *entry, digest string) (v1.Image, error) {
	index, err := os.ReadFile(e.path(strings.TrimPrefix(digest, "sha256:")))
	if err != nil {
		return nil, err
	}
	_, ours, err := upstream.ReadIndex(index, Platform())
	if err != nil {
		return nil, err
	}
	p := &pulled{entry: e, mediaType: ours.MediaType}
	if p.manifest, err = os.ReadFile(e.path(ours.Digest.Hex)); err != nil {
		return nil, err
	}
	if p.blobs, err = blobsOf(p.manifest); err != nil {
		return nil, err
	}
	return partial.CompressedToImage(p)
}

func (p *pulled) RawManifest() ([]byte, error) { return p.manifest, nil }

func (p *pulled) MediaType() (types.MediaType, error) { return p.mediaType, nil }

func (p *pulled) RawConfigFile() ([]byte, error) {
	return os.ReadFile(p.entry.path(p.blobs[0].Digest.Hex))
}

func (p *pulled) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	n := slices.IndexFunc(p.blobs, func(d v1.Descriptor) bool { return d.Digest == h })
	if n < 0 {
		return nil, fmt.Errorf("looking for layer %s: the manifest has none such", h)
	}
	return pulledLayer{p.blobs[n], p.entry.path(h.Hex)}, nil
}

// pulledLayer is a layer of a pulled image.
type pulledLayer struct {
	descriptor v1.Descriptor
	path       string
}

func (l pulledLayer) Digest() (v1.Hash, error) { return l.descriptor.Digest, nil }

func (l pulledLayer) Size() (int64, error) { return l.descriptor.Size, nil }

func (l pulledLayer) MediaType() (types.MediaType, error) { return l.descriptor.MediaType, nil }

func (l pulledLayer) Compressed() (io.ReadCloser, error) { return os.Open(l.path) }

// addPulled links the blobs of a pulled image into the layout and writes its line to the lock.
func (l *lab) addPulled(c *Component, i *ImageSpec, digest string, e *entry) error {
	hash, err := v1.NewHash(digest)
	if err != nil {
		return fmt.Errorf("adding %s: %w", i.Name, err)
	}
	raw, err := os.ReadFile(e.path(hash.Hex))
	if err != nil {
		return fmt.Errorf("adding %s: %w", i.Name, err)
	}
	list, _, err := upstream.ReadIndex(raw, Platform())
	if err != nil {
		return fmt.Errorf("adding %s: %w", i.Name, err)
	}
	line := images.Image{Name: i.Name, Tag: i.Tag, Digest: digest, Component: c.Name, Profile: c.Profile}
	for _, f := range e.Files {
		if err := link(e.path(f.Name), filepath.Join(l.blobs(), f.SHA256)); err != nil {
			return fmt.Errorf("adding a blob of %s: %w", i.Name, err)
		}
		line.Size += f.Size
	}
	mediaType := list.MediaType
	if mediaType == "" { // optional in an OCI index
		mediaType = types.OCIImageIndex
	}
	return l.addLine(line, i, v1.Descriptor{MediaType: mediaType, Size: int64(len(raw)), Digest: hash})
}
