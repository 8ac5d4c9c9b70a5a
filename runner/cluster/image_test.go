package cluster

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/gapproof/gapproof/images"
)

// readArchive reads what docker image load would.
func readArchive(r io.Reader) (string, fakeImage, error) {
	raw, err := io.ReadAll(r)
	if err != nil {
		return "", fakeImage{}, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil }
	manifest, err := tarball.LoadManifest(open)
	if err != nil {
		return "", fakeImage{}, err
	}
	tag, err := name.NewTag(manifest[0].RepoTags[0])
	if err != nil {
		return "", fakeImage{}, err
	}
	image, err := tarball.Image(open, &tag)
	if err != nil {
		return "", fakeImage{}, err
	}
	id, err := image.ConfigName()
	if err != nil {
		return "", fakeImage{}, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return "", fakeImage{}, err
	}
	return manifest[0].RepoTags[0], fakeImage{id: id.String(), executable: config.Config.Labels[executableLabel]}, nil
}

// newLab writes a lab directory with a node image for each platform.
func newLab(t testing.TB, platforms ...string) (string, *images.Lock) {
	t.Helper()
	dir := t.TempDir()
	path, err := layout.Write(images.LayoutDir(dir), empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	index := v1.ImageIndex(empty.Index)
	for i, p := range platforms {
		image, err := random.Image(512, 1, random.WithSource(newSource(int64(i))))
		if err != nil {
			t.Fatal(err)
		}
		os, arch, _ := strings.Cut(p, "/")
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: os, Architecture: arch}}})
	}
	if err := path.AppendIndex(index); err != nil {
		t.Fatal(err)
	}
	digest, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return dir, &images.Lock{Version: images.LockVersion, Platform: "linux/amd64", Images: []images.Image{
		{Name: images.NodeImage, Tag: "v1.37.2", Digest: digest.String()},
	}}
}

func TestNodeImageIsLoadedOnceAndThenFound(t *testing.T) {
	dir, lock := newLab(t, "linux/arm64", "linux/amd64")
	entry, image, err := nodeImage(dir, lock)
	if err != nil {
		t.Fatal(err)
	}
	f := newFake(t)
	tag, detail, err := f.engine().loadLocked(t.Context(), nodeRepository, entry, image)
	if err != nil || detail != "loaded" {
		t.Fatalf("first: %q, %v; want it loaded", detail, err)
	}
	if !strings.HasPrefix(tag, "gapproof.dev/node:v1.37.2-") {
		t.Errorf("loaded as %s, want a name of ours", tag)
	}
	again, detail, err := f.engine().loadLocked(t.Context(), nodeRepository, entry, image)
	if err != nil || again != tag || detail == "loaded" {
		t.Errorf("second: %s, %q, %v; want it found", again, detail, err)
	}
	f.images[tag] = fakeImage{id: "sha256:other"}
	if _, detail, err = f.engine().loadLocked(t.Context(), nodeRepository, entry, image); err != nil || detail != "loaded" {
		t.Errorf("with other content under the name: %q, %v; want it loaded again", detail, err)
	}
}

func TestNodeImageRefuses(t *testing.T) {
	dir, lock := newLab(t, "linux/arm64")
	if _, _, err := nodeImage(dir, lock); !errors.Is(err, ErrNotImage) {
		t.Errorf("no image for the platform: %v, want ErrNotImage", err)
	}
	lock.Images = nil
	if _, _, err := nodeImage(dir, lock); !errors.Is(err, images.ErrNotLocked) {
		t.Errorf("not in the lock: %v, want ErrNotLocked", err)
	}
}

func TestACorruptLayerFailsTheLoad(t *testing.T) {
	dir, lock := newLab(t, "linux/amd64")
	entry, image, err := nodeImage(dir, lock)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(images.LayoutDir(dir), "blobs", "sha256", digest.Hex)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := newFake(t).engine().loadLocked(t.Context(), nodeRepository, entry, image); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want the missing layer named", err)
	}
}

func TestCheckStatic(t *testing.T) {
	for name, tc := range map[string]struct {
		segment elf.ProgType
		static  bool
	}{
		"a static executable":    {elf.PT_LOAD, true},
		"one with a dynamic one": {elf.PT_INTERP, false},
	} {
		t.Run(name, func(t *testing.T) {
			if err := checkStatic(executable(t, tc.segment)); (err == nil) != tc.static || (err != nil && !errors.Is(err, ErrNotStatic)) {
				t.Errorf("got %v", err)
			}
		})
	}
	if err := checkStatic([]byte("#!/bin/sh\n")); !errors.Is(err, ErrNotStatic) {
		t.Errorf("a script: %v, want ErrNotStatic", err)
	}
}

// executable is the smallest ELF file with one segment of this type.
func executable(t testing.TB, segment elf.ProgType) []byte {
	t.Helper()
	var b bytes.Buffer
	header := elf.Header64{
		Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT), Phoff: 64,
		Ehsize: 64, Phentsize: 56, Phnum: 1, Shentsize: 64,
	}
	copy(header.Ident[:], elf.ELFMAG)
	header.Ident[elf.EI_CLASS], header.Ident[elf.EI_DATA], header.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)
	for _, part := range []any{header, elf.Prog64{Type: uint32(segment)}} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func TestMirrorImageHoldsTheExecutableAndNothingElse(t *testing.T) {
	raw := executable(t, elf.PT_LOAD)
	path := filepath.Join(t.TempDir(), "gapproof")
	if err := os.WriteFile(path, raw, 0o700); err != nil {
		t.Fatal(err)
	}
	f := newFake(t)
	tag, err := f.engine().loadMirrorImage(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	loads := func() int { return strings.Count(strings.Join(f.commands, "\n"), "image load") }
	if again, err := f.engine().loadMirrorImage(t.Context(), path); err != nil || again != tag || loads() != 1 {
		t.Errorf("second: %s, %v, %d loads; want %s found", again, err, loads(), tag)
	}
	image, err := mirrorImage(raw, "sha256:0")
	if err != nil {
		t.Fatal(err)
	}
	layers, err := image.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v; want one", len(layers), err)
	}
	r, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	archive := tar.NewReader(r)
	h, err := archive.Next()
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(archive)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%s %o", h.Name, h.Mode); got != "gapproof 555" || !bytes.Equal(content, raw) {
		t.Errorf("the layer has %q with %d bytes, want the executable", got, len(content))
	}
	if _, err := archive.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("the layer holds more: %v", err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{executablePath}, config.Config.Entrypoint); diff != "" {
		t.Errorf("entrypoint (-want +got):\n%s", diff)
	}
}

func TestAMirrorThatDoesNotStartIsToldWithItsLastWords(t *testing.T) {
	f := newFake(t) // its containers are exited at once
	e := f.engine()
	state := filesOf(t.TempDir(), "a")
	err := e.startMirror(t.Context(), "a", "image", t.TempDir(), state, closedPort(t))
	if err == nil || !strings.Contains(err.Error(), "its container is exited") || !strings.Contains(err.Error(), "the lab has no lock") {
		t.Errorf("got %v, want the container's state and its last words", err)
	}
	run := strings.Join(f.commands, "\n")
	for _, want := range []string{"--cap-drop ALL", "--read-only", "--pull never", "readonly,source=", "--label gapproof.dev/cluster=a"} {
		if !strings.Contains(run, want) {
			t.Errorf("the mirror is run without %q", want)
		}
	}
	if strings.Contains(run, "--publish") || strings.Contains(run, " -p ") {
		t.Error("the mirror publishes a port on the host")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.startMirror(ctx, "b", "image", t.TempDir(), state, closedPort(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v, want context.Canceled", err)
	}
}
