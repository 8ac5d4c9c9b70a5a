package cluster

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/gapproof/gapproof/images"
)

// Errors about what the lab's containers are made from.
var (
	// ErrNotImage reports a digest whose content is not an image for the lock's platform.
	ErrNotImage = errors.New("not an image for this platform")
	// ErrNotStatic reports an executable that needs a dynamic linker and so cannot run in an image that holds nothing else.
	ErrNotStatic = errors.New("executable is not statically linked")
)

// The engine's names for images this package loads. They are names of ours, so that loading never moves a tag of the user's.
const (
	nodeRepository   = "gapproof.dev/node"
	mirrorRepository = "gapproof.dev/mirror"
	probeRepository  = "gapproof.dev/outside"
)

// shortDigest is how many hexadecimal digits of a digest stand in a tag; the whole digest is compared besides.
const shortDigest = 12

// nodeImage finds the locked node image in the lab's layout.
func nodeImage(labDir string, lock *images.Lock) (images.Image, v1.Image, error) {
	entry, err := lock.Find(images.NodeImage)
	if err != nil {
		return images.Image{}, nil, err
	}
	image, err := layoutImage(images.LayoutDir(labDir), entry.Digest, lock.Platform)
	if err != nil {
		return images.Image{}, nil, fmt.Errorf("opening %s: %w", entry.Reference(), err)
	}
	return entry, image, nil
}

// layoutImage opens the image of an index or manifest in an OCI layout. Content is verified as it is read, by the engine: the
// layers' digests are in the config, whose digest becomes the image's id.
func layoutImage(dir, digest, platform string) (v1.Image, error) {
	path, err := layout.FromPath(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the image layout: %w", err)
	}
	hash, err := v1.NewHash(digest)
	if err != nil {
		return nil, fmt.Errorf("reading the digest: %w", err)
	}
	root, err := path.ImageIndex()
	if err != nil {
		return nil, fmt.Errorf("reading the image layout's index: %w", err)
	}
	index, err := root.ImageIndex(hash)
	if err != nil {
		image, imageErr := root.Image(hash)
		if imageErr != nil {
			return nil, errors.Join(err, imageErr)
		}
		return image, nil
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("reading the index: %w", err)
	}
	os, arch, _ := strings.Cut(platform, "/")
	want := v1.Platform{OS: os, Architecture: arch}
	for _, d := range manifest.Manifests {
		if d.MediaType.IsImage() && d.Platform != nil && d.Platform.Satisfies(want) {
			return index.Image(d.Digest)
		}
	}
	return nil, fmt.Errorf("looking for %s in the index: %w", platform, ErrNotImage)
}

// probePath is where the probe lies in its image (images/probe/component.yaml).
const probePath = "/gapproof-probe"

// loadLocked makes sure that the engine has a locked image and returns the name it has there, in a repository of ours. detail says
// whether it had to be loaded.
func (e engine) loadLocked(ctx context.Context, repository string, entry images.Image, image v1.Image) (tag, detail string, err error) {
	tag = repository + ":" + entry.Tag + "-" + strings.TrimPrefix(entry.Digest, "sha256:")[:shortDigest]
	has, err := e.hasImage(ctx, tag, image)
	if err != nil {
		return "", "", err
	}
	if has {
		return tag, "the engine has it already", nil
	}
	if err := e.load(ctx, tag, image); err != nil {
		return "", "", err
	}
	if has, err = e.hasImage(ctx, tag, image); err != nil {
		return "", "", err
	}
	if !has {
		return "", "", fmt.Errorf("loading %s: the engine holds other content under this name afterwards", tag)
	}
	return tag, "loaded", nil
}

// hasImage tells whether the engine holds exactly this image under this name. Engines identify an image by the digest of its
// config (graph drivers) or of its manifest (containerd's store); both pin the content.
func (e engine) hasImage(ctx context.Context, tag string, image v1.Image) (bool, error) {
	id, ok, err := e.inspectImage(ctx, tag, "{{.Id}}")
	if err != nil || !ok {
		return false, err
	}
	config, err := image.ConfigName()
	if err != nil {
		return false, fmt.Errorf("reading the config of %s: %w", tag, err)
	}
	manifest, err := image.Digest()
	if err != nil {
		return false, fmt.Errorf("reading the manifest of %s: %w", tag, err)
	}
	return id == config.String() || id == manifest.String(), nil
}

// inspectImage formats what the engine knows of an image; ok is false when it has none of this name.
func (e engine) inspectImage(ctx context.Context, tag, format string) (out string, ok bool, err error) {
	raw, err := e.docker(ctx, nil, "image", "inspect", "--format", format, tag)
	if err != nil {
		if gone(err) {
			return "", false, nil
		}
		return "", false, fmt.Errorf("inspecting image %s: %w", tag, err)
	}
	return strings.TrimSpace(string(raw)), true, nil
}

// load streams the image into the engine.
func (e engine) load(ctx context.Context, tag string, image v1.Image) error {
	ref, err := name.NewTag(tag)
	if err != nil {
		return fmt.Errorf("naming %s: %w", tag, err)
	}
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := tarball.Write(ref, image, w)
		w.CloseWithError(err)
		written <- err
	}()
	_, err = e.docker(ctx, r, "image", "load")
	stopped := errors.New("the engine stopped reading")
	_ = r.CloseWithError(stopped) // ends the writer when docker ended first
	if writeErr := <-written; writeErr != nil && !errors.Is(writeErr, stopped) {
		err = errors.Join(writeErr, err) // the reason why the engine got a short archive
	}
	if err != nil {
		return fmt.Errorf("loading %s into the engine: %w", tag, err)
	}
	return nil
}

// executableLabel is on the mirror's image; its value is the digest of the executable inside.
const executableLabel = "gapproof.dev/executable"

// executablePath is where the executable lies in the mirror's image.
const executablePath = "/gapproof"

// loadMirrorImage makes sure that the engine has an image that holds the executable at path and nothing else, and returns its
// name there. The error matches [ErrNotStatic] for an executable that could not run in it.
func (e engine) loadMirrorImage(ctx context.Context, path string) (string, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("reading the executable for the mirror: %w", err)
	}
	if err := checkStatic(raw); err != nil {
		return "", fmt.Errorf("checking %s: %w", path, err)
	}
	sum := sha256.Sum256(raw)
	digest := hex.EncodeToString(sum[:])
	tag := mirrorRepository + ":" + digest[:shortDigest]
	label, ok, err := e.inspectImage(ctx, tag, fmt.Sprintf("{{index .Config.Labels %q}}", executableLabel))
	if err != nil {
		return "", err
	}
	if ok && label == "sha256:"+digest {
		return tag, nil
	}
	image, err := mirrorImage(raw, "sha256:"+digest)
	if err != nil {
		return "", fmt.Errorf("building %s: %w", tag, err)
	}
	if err := e.load(ctx, tag, image); err != nil {
		return "", err
	}
	return tag, nil
}

// checkStatic reads the program headers: an executable with an interpreter asks for a dynamic linker.
func checkStatic(raw []byte) error {
	f, err := elf.NewFile(bytes.NewReader(raw))
	if err != nil {
		return fmt.Errorf("reading it as a Linux executable: %w: %w", ErrNotStatic, err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("it names an interpreter (build it with CGO_ENABLED=0): %w", ErrNotStatic)
		}
	}
	return nil
}

func mirrorImage(executable []byte, digest string) (v1.Image, error) {
	var layer bytes.Buffer
	t := tar.NewWriter(&layer)
	if err := t.WriteHeader(&tar.Header{Name: strings.TrimPrefix(executablePath, "/"), Mode: 0o555, Size: int64(len(executable))}); err != nil {
		return nil, fmt.Errorf("writing the layer: %w", err)
	}
	if _, err := t.Write(executable); err != nil {
		return nil, fmt.Errorf("writing the layer: %w", err)
	}
	if err := t.Close(); err != nil {
		return nil, fmt.Errorf("writing the layer: %w", err)
	}
	// Not compressed: it goes through a pipe to an engine that would only expand it again.
	image, err := mutate.AppendLayers(empty.Image, static.NewLayer(layer.Bytes(), types.DockerUncompressedLayer))
	if err != nil {
		return nil, fmt.Errorf("adding the layer: %w", err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("reading the config: %w", err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.Entrypoint = []string{executablePath}
	config.Config.Labels = map[string]string{executableLabel: digest}
	image, err = mutate.ConfigFile(image, config)
	if err != nil {
		return nil, fmt.Errorf("setting the config: %w", err)
	}
	return image, nil
}
