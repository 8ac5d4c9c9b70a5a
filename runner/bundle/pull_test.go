package bundle

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/gapproof/gapproof/images"
	"github.com/gapproof/gapproof/runner/bundle/upstream"
	"github.com/gapproof/gapproof/runner/internal/registrytest"
)

// fetched lists the manifests and blobs that a registry was asked for, such as "blobs sha256:…", sorted.
func fetched(s *registrytest.Registry) []string {
	var all []string
	for _, asked := range s.Asked() {
		if p := strings.Split(asked, "/"); p[0] == "GET " && len(p) > 4 {
			all = append(all, strings.Join(p[len(p)-2:], " "))
		}
	}
	slices.Sort(all)
	return all
}

// debianLayer is a layer with one package in dpkg's lists.
func debianLayer(t testing.TB) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	status := "Package: tzdata\nStatus: install ok installed\nVersion: 2026a-0\nArchitecture: all\n"
	if err := w.WriteHeader(&tar.Header{Name: "var/lib/dpkg/status.d/tzdata", Mode: 0o644, Size: int64(len(status))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(status)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// push makes an index with an image for each platform, which has a package of Debian's, and gives it a tag.
func push(t testing.TB, s *registrytest.Registry, tagged string, platforms ...string) v1.ImageIndex {
	t.Helper()
	index, err := s.Push(tagged, platforms, debianLayer(t))
	if err != nil {
		t.Fatal(err)
	}
	return index
}

// otherPlatform is one that this host does not have.
func otherPlatform() string {
	if runtime.GOARCH == "arm64" {
		return "linux/amd64"
	}
	return "linux/arm64"
}

// listing is the images folder tiny with a list in which the image two has this digest.
func listing(t testing.TB, digest string) string {
	t.Helper()
	dir, taken := tiny(t), "2026-11-26"
	if digest == "unresolved" {
		taken = "never"
	}
	list := fmt.Sprintf("apiVersion: gapproof.dev/v1alpha1\nkind: Upstream\nimages:\n- {name: example.test/two, tag: v2, digest: %q, taken: %q}\n", digest, taken)
	if err := os.WriteFile(filepath.Join(dir, upstream.FileName), []byte(list), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// pullFrom makes a lab of the images folder, and returns its lock and the steps that ended.
func pullFrom(ctx context.Context, t testing.TB, s *registrytest.Registry, dst string, o Options) (*images.Lock, []string, error) {
	t.Helper()
	list, err := ReadUpstream(o.ImagesDir)
	if err != nil {
		t.Fatal(err)
	}
	client, err := upstream.NewClient(upstream.Options{Mirrors: map[string]string{"example.test": s.Host}, Wait: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	var steps []string
	o.Progress = func(p Progress) {
		if p.State == StateDone {
			steps = append(steps, p.Step)
		}
	}
	lock, err := CreateFromUpstream(ctx, dst, Upstream{List: list, Client: client}, o)
	return lock, steps, err
}

// hashOf is the digest of an index, a manifest or a layer.
func hashOf(t testing.TB, d interface{ Digest() (v1.Hash, error) }) v1.Hash {
	t.Helper()
	h, err := d.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// wantedOf lists what must be fetched of an index, sorted: its manifests, and the blobs of this host's platform.
func wantedOf(t testing.TB, index v1.ImageIndex) []string {
	t.Helper()
	wanted := []string{"manifests " + hashOf(t, index).String()}
	list, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range list.Manifests {
		wanted = append(wanted, "manifests "+d.Digest.String())
		if d.Platform.String() != Platform() {
			continue
		}
		img, err := index.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		m, err := img.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		wanted = append(wanted, "blobs "+m.Config.Digest.String())
		for _, l := range m.Layers {
			wanted = append(wanted, "blobs "+l.Digest.String())
		}
	}
	slices.Sort(wanted)
	return wanted
}

func TestAPulledImageIsInTheLabAsABuiltOneIs(t *testing.T) {
	s := registrytest.New(t.Cleanup)
	index := push(t, s, "two:v2", otherPlatform(), Platform())
	s.SpoilWith(nil)
	o := Options{ImagesDir: listing(t, hashOf(t, index).String()), CacheDir: t.TempDir()}
	dst := filepath.Join(t.TempDir(), "lab")
	lock, steps, err := pullFrom(t.Context(), t, s, dst, o)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(steps) // pulls run beside builds
	want := []string{"go build one", "inventory of example.test/one", "inventory of example.test/two", "layer of example.test/one", "pull example.test/two:v2"}
	if d := cmp.Diff(want, steps); d != "" {
		t.Errorf("steps (-want +got):\n%s", d)
	}
	if d := cmp.Diff(wantedOf(t, index), fetched(s)); d != "" {
		t.Errorf("asked for (-want +got):\n%s", d)
	}
	read, err := images.ReadLock(dst)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(lock, read); d != "" {
		t.Errorf("lock.json (-returned +read):\n%s", d)
	}
	two, err := lock.Find("example.test/two")
	if err != nil {
		t.Fatal(err)
	}
	if two.Size <= 9000 { // of three layers
		t.Errorf("size is %d", two.Size)
	}
	wantLine := images.Image{Name: "example.test/two", Tag: "v2", Digest: hashOf(t, index).String(), Size: two.Size, Component: "two"}
	if d := cmp.Diff(wantLine, two); d != "" {
		t.Errorf("line of the lock (-want +got):\n%s", d)
	}
	checkLayout(t, dst, lock, index)
	document, err := os.ReadFile(filepath.Join(dst, "files", two.SBOM()))
	if err != nil || !strings.Contains(string(document), "pkg:deb/debian/tzdata@2026a-0") {
		t.Errorf("bill of materials: %v\n%s", err, document)
	}
}

// checkLayout holds the lab's layout against the lock and against what was pushed.
func checkLayout(t *testing.T, dst string, lock *images.Lock, pushed v1.ImageIndex) {
	t.Helper()
	root, err := layout.ImageIndexFromPath(images.LayoutDir(dst))
	if err != nil {
		t.Fatal(err)
	}
	list, err := root.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for n, d := range list.Manifests {
		if i := lock.Images[n]; d.Digest.String() != i.Digest || d.Annotations[refName] != i.Name+":"+i.Tag || !d.MediaType.IsIndex() {
			t.Errorf("index.json has %+v for %s", d, i.Reference())
		}
	}
	kept, err := root.ImageIndex(hashOf(t, pushed))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := pushed.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range manifest.Manifests {
		img, err := kept.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := img.RawManifest(); err != nil {
			t.Errorf("manifest of %s: %v", d.Platform, err)
		}
		if d.Platform.String() != Platform() {
			continue
		}
		if err := validate.Image(img); err != nil {
			t.Errorf("image of %s: %v", d.Platform, err)
		}
	}
	var sum int64
	blobs, err := filepath.Glob(filepath.Join(images.LayoutDir(dst), "blobs", "sha256", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		info, err := os.Stat(b)
		if err != nil {
			t.Fatal(err)
		}
		sum += info.Size()
	}
	for _, i := range lock.Images {
		sum -= i.Size
	}
	if sum != 0 {
		t.Errorf("the blobs have %d bytes more than the lock says", sum)
	}
}

func TestASecondPullAsksNobody(t *testing.T) {
	s := registrytest.New(t.Cleanup)
	index := push(t, s, "two:v2", Platform())
	o := Options{ImagesDir: listing(t, hashOf(t, index).String()), CacheDir: t.TempDir()}
	dst := filepath.Join(t.TempDir(), "lab")
	first, _, err := pullFrom(t.Context(), t, s, dst, o)
	if err != nil {
		t.Fatal(err)
	}
	s.SpoilWith(nil)
	second, steps, err := pullFrom(t.Context(), t, s, dst, o)
	if err != nil || len(steps) > 0 {
		t.Errorf("want nothing done, got %q, %v", steps, err)
	}
	if asked := fetched(s); len(asked) > 0 {
		t.Errorf("asked for %q", asked)
	}
	if d := cmp.Diff(first, second); d != "" {
		t.Errorf("locks (-first +second):\n%s", d)
	}
	// Another digest in the list is another image, whatever its tag.
	next := push(t, s, "two:v2", Platform())
	o.ImagesDir = listing(t, hashOf(t, next).String())
	third, steps, err := pullFrom(t.Context(), t, s, dst, o)
	if err != nil || len(steps) != 2 {
		t.Errorf("want it pulled and its inventory taken, got %q, %v", steps, err)
	}
	if two, err := third.Find("example.test/two"); err != nil || two.Digest != hashOf(t, next).String() {
		t.Errorf("the lock has %s, %v", two.Digest, err)
	}
}

func TestAnInterruptedPullFetchesNoBlobTwice(t *testing.T) {
	s := registrytest.New(t.Cleanup)
	index := push(t, s, "two:v2", Platform())
	wanted := wantedOf(t, index)
	last := wanted[0] // a blob; all others come
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	cause := errors.New("interrupted")
	o := Options{ImagesDir: listing(t, hashOf(t, index).String()), CacheDir: t.TempDir()}
	s.SpoilWith(func(_ http.ResponseWriter, r *http.Request, _ int) bool {
		if !strings.HasSuffix(r.URL.Path, strings.TrimPrefix(last, "blobs ")) {
			return false
		}
		for len(blobsIn(t, o.CacheDir)) < len(wanted)-1 {
			select {
			case <-time.After(time.Millisecond):
			case <-t.Context().Done():
				return true
			}
		}
		cancel(cause)
		<-r.Context().Done()
		return true
	})
	dst := filepath.Join(t.TempDir(), "lab")
	if _, _, err := pullFrom(ctx, t, s, dst, o); !errors.Is(err, cause) {
		t.Fatalf("want the cause of the interruption, got %v", err)
	}
	if _, err := os.Stat(dst); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an interrupted pull left a lab directory: %v", err)
	}
	if d := cmp.Diff(wanted, fetched(s)); d != "" {
		t.Errorf("asked for at first (-want +got):\n%s", d)
	}
	s.SpoilWith(nil)
	if _, _, err := pullFrom(t.Context(), t, s, dst, o); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{last}, fetched(s)); d != "" {
		t.Errorf("asked for afterwards (-want +got):\n%s", d)
	}
}

// blobsIn lists the blobs that a cache has.
func blobsIn(t testing.TB, cacheDir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(cacheDir, "build", "blob-*", entryName))
	if err != nil {
		t.Error(err)
	}
	return found
}

func TestABlobIsHashedBeforeItIsKept(t *testing.T) {
	cacheDir := t.TempDir()
	store, release, err := openCache(t.Context(), filepath.Join(cacheDir, "build"), func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	p := &plan{cache: store}
	digest := v1.Hash{Algorithm: "sha256", Hex: sumBytes([]byte("sound"))}
	for _, content := range []string{"spoilt", "sound"} {
		dir := t.TempDir()
		err := p.pullBlob(t.Context(), digest, dir, func(to string) error { return os.WriteFile(to, []byte(content), 0o644) })
		if sound := content == "sound"; sound != (err == nil) || !sound && !errors.Is(err, errContent) {
			t.Errorf("%s content: got %v", content, err)
		}
		if kept := len(blobsIn(t, cacheDir)); (kept == 1) != (content == "sound") {
			t.Errorf("%s content: %d blobs were kept", content, kept)
		}
	}
}

func TestABlobThatRottedInTheCacheIsFetchedAgain(t *testing.T) {
	s := registrytest.New(t.Cleanup)
	index := push(t, s, "two:v2", Platform())
	o := Options{ImagesDir: listing(t, hashOf(t, index).String()), CacheDir: t.TempDir()}
	dst := filepath.Join(t.TempDir(), "lab")
	if _, _, err := pullFrom(t.Context(), t, s, dst, o); err != nil {
		t.Fatal(err)
	}
	rotten := wantedOf(t, index)[0]
	hex := strings.TrimPrefix(rotten, "blobs sha256:")
	file := filepath.Join(o.CacheDir, "build", "blob-"+hex, hex) // one file with those of the image's entry and of the lab
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("rotten"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.SpoilWith(nil)
	if _, _, err := pullFrom(t.Context(), t, s, dst, o); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{rotten}, fetched(s)); d != "" {
		t.Errorf("asked for (-want +got):\n%s", d)
	}
	if sum, _, err := sumFile(filepath.Join(images.LayoutDir(dst), "blobs", "sha256", hex)); err != nil || sum != hex {
		t.Errorf("the lab's blob hashes to %s, %v", sum, err)
	}
}

func TestBlobsAreListedOnceAndOnlyOfAKindThatCanBeKept(t *testing.T) {
	digest := func(c string) string { return "sha256:" + strings.Repeat(c, 64) }
	manifest := func(layerType, digest string, size int) []byte {
		return fmt.Appendf(nil, `{"config":{"digest":%q,"size":1},"layers":[{"mediaType":%q,"digest":%q,"size":%d},{"digest":%[3]q,"size":%[4]d}]}`,
			"sha256:"+strings.Repeat("0", 64), layerType, digest, size)
	}
	blobs, err := blobsOf(manifest("application/vnd.oci.image.layer.v1.tar+gzip", digest("1"), 2))
	if err != nil || len(blobs) != 2 || blobs[0].Digest.String() != digest("0") || blobs[1].Digest.String() != digest("1") {
		t.Errorf("want the configuration and one layer, got %v, %v", blobs, err)
	}
	for want, raw := range map[string][]byte{
		"may not be distributed":           manifest("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", digest("1"), 2),
		"of -1 bytes":                      manifest("", digest("1"), -1),
		"only sha256":                      manifest("", "sha512:"+strings.Repeat("1", 128), 2),
		"decoding the manifest":            []byte("["),
		"only sha256 and a size are under": []byte("{}"),
	} {
		if _, err := blobsOf(raw); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error with %q, got %v", want, err)
		}
	}
}

func TestWhatCannotBePulledMakesNoLab(t *testing.T) {
	s := registrytest.New(t.Cleanup)
	sound := hashOf(t, push(t, s, "two:v2", Platform())).String()
	foreign := hashOf(t, push(t, s, "two:foreign", otherPlatform())).String()
	single, err := random.Image(100, 1)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(s.Host + "/two:single")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, single); err != nil {
		t.Fatal(err)
	}
	wrong := func(part string) registrytest.Spoil {
		return func(w http.ResponseWriter, r *http.Request, _ int) bool {
			if strings.Contains(r.URL.Path, part) {
				_, _ = w.Write([]byte("{}"))
				return true
			}
			return false
		}
	}
	for name, tc := range map[string]struct {
		digest string
		spoil  registrytest.Spoil
		want   string
		is     error
	}{
		"another index than the digest": {sound, wrong("/manifests/"), "pulling example.test/two:v2@" + sound + ": ", nil},
		"other blobs":                   {sound, wrong("/blobs/"), "error verifying sha256 checksum", nil},
		"a digest that is not there":    {"sha256:" + strings.Repeat("0", 64), nil, "pulling example.test/two:v2", upstream.ErrGone},
		"another platform":              {foreign, nil, Platform() + " is not among", upstream.ErrPlatform},
		"a manifest and no index":       {hashOf(t, single).String(), nil, "media type", upstream.ErrNotIndex},
	} {
		t.Run(name, func(t *testing.T) {
			s.SpoilWith(tc.spoil)
			parent := t.TempDir()
			o := Options{ImagesDir: listing(t, tc.digest), CacheDir: t.TempDir()}
			_, _, err := pullFrom(t.Context(), t, s, filepath.Join(parent, "lab"), o)
			if err == nil || !strings.Contains(err.Error(), tc.want) || tc.is != nil && !errors.Is(err, tc.is) {
				t.Errorf("want an error with %q and %v, got %v", tc.want, tc.is, err)
			}
			if left, err := os.ReadDir(parent); err != nil || len(left) > 0 {
				t.Errorf("it left %v, %v", left, err)
			}
		})
	}
}

func TestAnUnresolvedDigestIsRefusedBeforeAnythingIsDone(t *testing.T) {
	s := registrytest.New(t.Cleanup)
	o := Options{ImagesDir: listing(t, "unresolved"), CacheDir: filepath.Join(t.TempDir(), "cache")}
	_, _, err := pullFrom(t.Context(), t, s, filepath.Join(t.TempDir(), "lab"), o)
	var open *upstream.UnresolvedError
	if !errors.As(err, &open) || !slices.Equal(open.Images, []string{"example.test/two:v2"}) {
		t.Errorf("want the image named, got %v", err)
	}
	if _, err := os.Stat(o.CacheDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there is a cache: %v", err)
	}
	// What is listed and not chosen needs no digest.
	o.Components = []string{"one"}
	if _, _, err := pullFrom(t.Context(), t, s, filepath.Join(t.TempDir(), "lab"), o); err != nil {
		t.Error(err)
	}
	if asked := fetched(s); len(asked) > 0 {
		t.Errorf("asked for %q", asked)
	}
}

func TestTheListMustFitTheComponents(t *testing.T) {
	dir := tiny(t)
	list := "apiVersion: gapproof.dev/v1alpha1\nkind: Upstream\nimages:\n- {name: example.test/two, tag: v3, digest: unresolved, taken: never}\n" +
		"- {name: example.test/three, tag: v3, digest: unresolved, taken: never}\n"
	if err := os.WriteFile(filepath.Join(dir, upstream.FileName), []byte(list), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := ReadUpstream(dir)
	for _, want := range []string{
		"upstream.yaml:4: images[0].tag: is v3, its component's is v2",
		"upstream.yaml:5: images[1].name: no component has an image example.test/three",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error with %q, got %v", want, err)
		}
	}
	if _, err := ReadUpstream(t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no list: want ErrNotExist, got %v", err)
	}
}

// The list of this checkout: everything that a lab needs of others, but for the node.
func TestOurListHasEveryImageThatUpstreamOffers(t *testing.T) {
	const dir = "../../images"
	list, err := ReadUpstream(dir)
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, i := range list.Images {
		listed[i.Tagged()] = true
	}
	all, err := ReadComponents(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		for _, i := range c.Images {
			built := strings.HasPrefix(i.Name, "gapproof.dev/") || i.Name == images.NodeImage
			if ref := i.Name + ":" + i.Tag; listed[ref] == built {
				t.Errorf("%s: listed %t, must be built %t", ref, listed[ref], built)
			}
		}
	}
}

func TestAStepWaitsForWhatTheOtherLaneMakesForIt(t *testing.T) {
	store, release, err := openCache(t.Context(), t.TempDir(), func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	o, err := Options{CacheDir: t.TempDir()}.defaulted()
	if err != nil {
		t.Fatal(err)
	}
	begun := make(chan struct{})
	// How long the lane that must wait has to show that it does not.
	const patience = 200 * time.Millisecond
	slow := &step{title: "slow", key: "slow", network: true, ended: make(chan struct{})}
	slow.run = func(_ context.Context, dir string, _ *entry) error {
		select {
		case <-begun:
			return errors.New("what needs it has begun")
		case <-time.After(patience):
		}
		return os.WriteFile(filepath.Join(dir, "out"), []byte("x"), 0o644)
	}
	user := &step{title: "user", key: "user", needs: []*step{slow}, ended: make(chan struct{})}
	user.run = func(context.Context, string, *entry) error { close(begun); return nil }
	p := &plan{cache: store, log: o.Log, steps: []*step{slow, user}}
	if err := p.run(t.Context(), newReporter(store.dir, p.steps, o)); err != nil {
		t.Error(err)
	}
	// A lane that fails ends the wait of the other.
	broken := errors.New("broken")
	slow.run, slow.key, slow.ended = func(context.Context, string, *entry) error { return broken }, "slow again", make(chan struct{})
	p.steps = []*step{slow, {title: "waits", key: "waits", needs: []*step{slow}, run: user.run, ended: make(chan struct{})}}
	if err := p.run(t.Context(), newReporter(store.dir, p.steps, o)); !errors.Is(err, broken) {
		t.Errorf("want what broke, got %v", err)
	}
}
