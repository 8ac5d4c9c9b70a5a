package bundle

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/gapproof/gapproof/images"
)

const (
	// refName is the OCI annotation that carries an image's name in a layout's index.json.
	refName = "org.opencontainers.image.ref.name"
	// layoutVersion is the content of the oci-layout file (OCI image-layout specification, version 1.0.0).
	layoutVersion = `{"imageLayoutVersion":"1.0.0"}`
	// pieceSize is how much of two files is compared at once, in bytes: enough that the disk is what takes the time.
	pieceSize = 128 << 10
	// superseded marks lab directories that another has replaced. They cost little: their blobs are other names of the cache's.
	superseded = "superseded-"
	// supersededFor is how long they are kept. The mirror of a running cluster has its lab directory mounted and goes on serving it;
	// a day is longer than a cluster that is brought up to test something.
	supersededFor = 24 * time.Hour
)

// layerOf is a v1.Layer whose blob lies in the cache.
type layerOf struct{ entry *entry }

func (l layerOf) blob() entryFile {
	f, _ := l.entry.file(layerBlob)
	return f
}

func (l layerOf) Digest() (v1.Hash, error) {
	return v1.Hash{Algorithm: "sha256", Hex: l.blob().SHA256}, nil
}
func (l layerOf) DiffID() (v1.Hash, error) { return v1.NewHash(l.entry.DiffID) }
func (l layerOf) Size() (int64, error)     { return l.blob().Size, nil }

func (l layerOf) MediaType() (types.MediaType, error) { return types.OCILayer, nil }

func (l layerOf) Compressed() (io.ReadCloser, error) { return os.Open(l.entry.path(layerBlob)) }

func (l layerOf) Uncompressed() (io.ReadCloser, error) {
	f, err := os.Open(l.entry.path(layerBlob))
	if err != nil {
		return nil, err
	}
	gz, err := gzip.NewReader(f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("reading a layer uncompressed: %w", err), f.Close())
	}
	return struct {
		io.Reader
		io.Closer
	}{gz, f}, nil
}

// assembleImage makes the index with the one image of i, from its layers.
func assembleImage(i *ImageSpec, layers []*entry) (v1.ImageIndex, error) {
	platform := v1.Platform{OS: goos, Architecture: goarch}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, l := range layers {
		var err error
		img, err = mutate.Append(img, mutate.Addendum{
			Layer:   layerOf{l},
			History: v1.History{Created: v1.Time{Time: epoch}, CreatedBy: l.Step},
		})
		if err != nil {
			return nil, fmt.Errorf("adding %s: %w", l.Step, err)
		}
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("configuring the image: %w", err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = platform.OS, platform.Architecture, v1.Time{Time: epoch}
	config.Config = v1.Config{
		Entrypoint: i.Entrypoint, Cmd: i.Command, Env: i.Env, User: i.User, WorkingDir: i.WorkingDir, StopSignal: i.StopSignal,
	}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		return nil, fmt.Errorf("configuring the image: %w", err)
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	return mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &platform}}), nil
}

// lab is a lab directory in the making.
type lab struct {
	dir     string // being written, beside dst
	release func() // ends the lock on dst
	sync    func(*os.File) error
	lock    images.Lock
	index   v1.IndexManifest
}

// LockLab takes the lock of the lab directory dst: while it is held nobody else makes, loads or carries this lab. It waits for whoever holds
// it, and calls waiting once before it does. The returned function releases it.
func LockLab(ctx context.Context, dst string, waiting func()) (release func(), err error) {
	if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
		return nil, fmt.Errorf("locking the lab directory: %w", err)
	}
	if release, err = lockFile(ctx, filepath.Join(filepath.Dir(dst), siblingPrefix(dst)+"lock"), waiting); err != nil {
		return nil, fmt.Errorf("locking the lab directory: %w", err)
	}
	return release, nil
}

// newLab makes an empty lab directory beside dst, which nobody else can change until it is discarded, and removes what an interrupted build
// left there.
func newLab(ctx context.Context, dst string, waiting func()) (l *lab, err error) {
	release, err := LockLab(ctx, dst, waiting)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			release()
		}
	}()
	parent, prefix := filepath.Dir(dst), siblingPrefix(dst)+unfinished
	if err := errors.Join(
		clearStale(filepath.Join(parent, prefix+"*"), 0),
		clearStale(filepath.Join(parent, siblingPrefix(dst)+superseded+"*"), supersededFor),
	); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(parent, prefix)
	if err != nil {
		return nil, fmt.Errorf("making the lab directory: %w", err)
	}
	l = &lab{
		dir: dir, release: release, sync: (*os.File).Sync,
		lock:  images.Lock{Version: images.LockVersion, Platform: goos + "/" + goarch, Images: []images.Image{}, Files: []images.File{}},
		index: v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{}},
	}
	if err := errors.Join(os.Chmod(dir, 0o755), os.MkdirAll(l.blobs(), 0o755), os.Mkdir(filepath.Join(dir, "files"), 0o755)); err != nil {
		return nil, fmt.Errorf("making the lab directory: %w", err)
	}
	return l, nil
}

// siblingPrefix is what the names of the folders that we make beside the lab directory dst begin with.
func siblingPrefix(dst string) string { return "." + filepath.Base(dst) + "-" }

func (l *lab) blobs() string { return filepath.Join(images.LayoutDir(l.dir), "blobs", "sha256") }

// addImage writes the image to the layout and its line to the lock.
func (l *lab) addImage(c *Component, i *ImageSpec, layers []*entry) error {
	index, err := assembleImage(i, layers)
	if err != nil {
		return fmt.Errorf("assembling %s: %w", i.Name, err)
	}
	line := images.Image{Name: i.Name, Tag: i.Tag, Component: c.Name, Profile: c.Profile}
	counted := map[string]bool{}
	for _, e := range layers {
		f, _ := e.file(layerBlob)
		if err := link(e.path(layerBlob), filepath.Join(l.blobs(), f.SHA256)); err != nil {
			return fmt.Errorf("adding a layer of %s: %w", i.Name, err)
		}
		if !counted[f.SHA256] { // a blob is there once, however often the image has it
			line.Size += f.Size
		}
		counted[f.SHA256] = true
		line.Built = append(line.Built, e.Built...)
	}
	line.Built = sortedUnique(line.Built)
	documents, err := documentsOf(index)
	if err != nil {
		return fmt.Errorf("describing %s: %w", i.Name, err)
	}
	for _, d := range documents {
		if err := os.WriteFile(filepath.Join(l.blobs(), sumBytes(d)), d, 0o644); err != nil {
			return fmt.Errorf("writing %s: %w", i.Name, err)
		}
		line.Size += int64(len(d))
	}
	d, err := partial.Descriptor(index)
	if err != nil {
		return fmt.Errorf("describing %s: %w", i.Name, err)
	}
	line.Digest = d.Digest.String()
	return l.addLine(line, i, *d)
}

// addLine adds an image whose blobs are in the layout to the lock, and its index to the layout's.
func (l *lab) addLine(line images.Image, i *ImageSpec, index v1.Descriptor) error {
	if i.MaxSize > 0 && line.Size > i.MaxSize {
		return fmt.Errorf("adding %s: it has %d bytes, its %s allows %d", i.Name, line.Size, componentFile, i.MaxSize)
	}
	l.lock.Images = append(l.lock.Images, line)
	index.Annotations = map[string]string{refName: i.Name + ":" + i.Tag}
	l.index.Manifests = append(l.index.Manifests, index)
	return nil
}

// documentsOf are the small blobs of an index: itself, its images' manifests and their configurations.
func documentsOf(index v1.ImageIndex) ([][]byte, error) {
	own, err := index.RawManifest()
	if err != nil {
		return nil, err
	}
	documents := [][]byte{own}
	list, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	for _, d := range list.Manifests {
		img, err := index.Image(d.Digest)
		if err != nil {
			return nil, err
		}
		manifest, err := img.RawManifest()
		if err != nil {
			return nil, err
		}
		config, err := img.RawConfigFile()
		if err != nil {
			return nil, err
		}
		documents = append(documents, manifest, config)
	}
	return documents, nil
}

// addFile puts the entry's one file into the lab under the path of the spec.
func (l *lab) addFile(f FileSpec, e *entry) error {
	data := e.Files[0]
	line := images.File{Path: f.Path, SHA256: data.SHA256, Size: data.Size, Origin: strings.Join(e.Built, " ") + " " + f.From}
	to := images.FilePath(l.dir, line)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return fmt.Errorf("adding file %s: %w", f.Path, err)
	}
	if err := link(e.path(data.Name), to); err != nil {
		return fmt.Errorf("adding file %s: %w", f.Path, err)
	}
	l.lock.Files = append(l.lock.Files, line)
	return nil
}

// fill adds every image and file of the plan, whose steps have run, and finishes the lab.
func (l *lab) fill(ctx context.Context, p *plan, dst string) (*images.Lock, error) {
	for _, i := range p.images {
		if err := l.addPlanned(i); err != nil {
			return nil, err
		}
		if err := l.addSBOM(l.lock.Images[len(l.lock.Images)-1], i.inventory.entry); err != nil {
			return nil, err
		}
	}
	for _, f := range p.files {
		if err := l.addFile(f.spec, f.step.entry); err != nil {
			return nil, err
		}
	}
	return l.finish(ctx, dst)
}

// addPlanned adds one image of the plan, pulled or built.
func (l *lab) addPlanned(i imagePlan) error {
	if i.pull != nil {
		return l.addPulled(i.component, i.spec, i.digest, i.pull.entry)
	}
	var layers []*entry
	for _, s := range i.layers {
		layers = append(layers, s.entry)
	}
	return l.addImage(i.component, i.spec, layers)
}

// finish writes lock and index and puts the lab in the place of dst, unless the one there is the same.
func (l *lab) finish(ctx context.Context, dst string) (*images.Lock, error) {
	l.lock.Sort()
	if err := l.lock.Validate(); err != nil {
		return nil, fmt.Errorf("locking what was built: %w", err)
	}
	lock, err := l.lock.Encode()
	if err != nil {
		return nil, fmt.Errorf("locking what was built: %w", err)
	}
	index, err := json.Marshal(l.index)
	if err != nil {
		return nil, fmt.Errorf("indexing what was built: %w", err)
	}
	layout := images.LayoutDir(l.dir)
	for _, f := range []struct {
		name string
		data []byte
	}{
		{filepath.Join(l.dir, "lock.json"), lock},
		{filepath.Join(layout, "index.json"), index},
		{filepath.Join(layout, "oci-layout"), []byte(layoutVersion)},
	} {
		if err := os.WriteFile(f.name, f.data, 0o644); err != nil {
			return nil, fmt.Errorf("writing the lab directory: %w", err)
		}
	}
	if err := l.install(ctx, dst); err != nil {
		return nil, err
	}
	return &l.lock, nil
}

// install puts the lab in the place of dst, unless the one there is the same. What is written is on the disk before it has its name: a machine
// that loses its power then has the old lab or the new one, and none of empty files.
func (l *lab) install(ctx context.Context, dst string) error {
	same, err := sameTree(ctx, l.dir, dst)
	if err != nil || same {
		return err
	}
	if err := l.syncTree(ctx); err != nil {
		return fmt.Errorf("writing the lab directory to the disk: %w", err)
	}
	if err := replaceDir(l.dir, dst); err != nil {
		return fmt.Errorf("replacing the lab directory: %w", err)
	}
	if err := l.syncPath(filepath.Dir(dst)); err != nil {
		return fmt.Errorf("writing the lab directory to the disk: %w", err)
	}
	return l.keepSuperseded(dst)
}

// syncTree has the system write every file and folder of the lab.
func (l *lab) syncTree(ctx context.Context) error {
	return filepath.WalkDir(l.dir, func(p string, _ fs.DirEntry, err error) error {
		if err := errors.Join(err, stopped(ctx)); err != nil {
			return err
		}
		return l.syncPath(p)
	})
}

func (l *lab) syncPath(p string) error {
	f, err := os.Open(p)
	if err != nil {
		return err
	}
	return errors.Join(l.sync(f), f.Close())
}

// keepSuperseded sets aside the lab that has come to l.dir from dst, if there was one.
func (l *lab) keepSuperseded(dst string) error {
	name := strings.Replace(filepath.Base(l.dir), unfinished, superseded, 1)
	now := time.Now()
	err := os.Chtimes(l.dir, now, now)
	if err == nil {
		err = os.Rename(l.dir, filepath.Join(filepath.Dir(dst), name))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("setting the superseded lab directory aside: %w", err)
	}
	return nil
}

// discard removes the lab if it has not found its place, and lets others at it.
func (l *lab) discard() error {
	defer l.release()
	return os.RemoveAll(l.dir)
}

// sameTree reports whether two folders hold the same files. Two names of one file need no reading.
func sameTree(ctx context.Context, a, b string) (bool, error) {
	count := func(dir string) (n int, err error) {
		err = filepath.WalkDir(dir, func(_ string, _ fs.DirEntry, err error) error { n++; return err })
		return n, err
	}
	inB, err := count(b)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("comparing lab directories: %w", err)
	}
	same, inA := true, 0
	err = filepath.WalkDir(a, func(p string, d fs.DirEntry, err error) error {
		if err := errors.Join(err, stopped(ctx)); err != nil {
			return err
		}
		inA++
		if d.IsDir() {
			return nil
		}
		rel, err := filepath.Rel(a, p)
		if err != nil {
			return err
		}
		same, err = sameFile(ctx, p, filepath.Join(b, rel))
		if err == nil && !same {
			return fs.SkipAll
		}
		return err
	})
	if err != nil {
		return false, fmt.Errorf("comparing lab directories: %w", err)
	}
	return same && inA == inB, nil
}

// sameFile compares two files piece by piece: layers have hundreds of megabytes.
func sameFile(ctx context.Context, a, b string) (bool, error) {
	infoA, err := os.Stat(a)
	if err != nil {
		return false, err
	}
	infoB, err := os.Lstat(b)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if os.SameFile(infoA, infoB) {
		return true, nil
	}
	if infoA.Size() != infoB.Size() || !infoB.Mode().IsRegular() {
		return false, nil
	}
	fileA, err := os.Open(a)
	if err != nil {
		return false, err
	}
	defer fileA.Close()
	fileB, err := os.Open(b)
	if err != nil {
		return false, err
	}
	defer fileB.Close()
	pieceA, pieceB := make([]byte, pieceSize), make([]byte, pieceSize)
	for {
		if err := stopped(ctx); err != nil {
			return false, err
		}
		nA, errA := io.ReadFull(fileA, pieceA)
		nB, errB := io.ReadFull(fileB, pieceB)
		if !bytes.Equal(pieceA[:nA], pieceB[:nB]) {
			return false, nil
		}
		for _, err := range []error{errA, errB} {
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return false, err
			}
		}
		if errA != nil {
			return errB != nil, nil
		}
	}
}

// link gives the file from a second name, or copies it where the two are on different file systems. The same file may be there
// already: images share layers.
func link(from, to string) error {
	err := os.Link(from, to)
	if err == nil || errors.Is(err, fs.ErrExist) {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
