package bundle

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/gapproof/gapproof/images"
	"github.com/gapproof/gapproof/runner/bundle/signed"
)

// parts is a lab in the making, which tests spoil before it is written: file contents by path, and what leads to them.
type parts struct {
	files    map[string][]byte
	lock     *images.Lock
	index    *v1.IndexManifest // of the layout
	manifest *v1.Manifest
	layer    string // names of files
	config   string
	listed   string // platform of the list, where it is another than the lock's
	hidden   bool   // the lock is left out
}

// drop removes manifest and index, which link makes anew.
func (p *parts) drop(t testing.TB) {
	t.Helper()
	delete(p.files, blobPrefix+sumBytes(encoded(t, p.manifest)))
	delete(p.files, blobPrefix+p.index.Manifests[0].Digest.Hex)
}

// blob adds a blob and returns what names it.
func (p *parts) blob(data []byte, mediaType types.MediaType) v1.Descriptor {
	p.files[blobPrefix+sumBytes(data)] = data
	return v1.Descriptor{MediaType: mediaType, Size: int64(len(data)), Digest: v1.Hash{Algorithm: "sha256", Hex: sumBytes(data)}}
}

// newParts is a lab of one image and one file.
func newParts(t testing.TB) *parts {
	t.Helper()
	file := []byte("kind: ConfigMap\n")
	p := &parts{files: map[string][]byte{"files/cni/a.yaml": file, "layout/oci-layout": []byte(layoutVersion)}}
	config := p.blob([]byte(`{"architecture":"amd64","os":"linux"}`), types.OCIConfigJSON)
	layer := p.blob(bytes.Repeat([]byte("a layer\n"), 200), types.OCILayer)
	p.config, p.layer = blobPrefix+config.Digest.Hex, blobPrefix+layer.Digest.Hex
	p.manifest = &v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: config, Layers: []v1.Descriptor{layer}}
	p.lock = &images.Lock{
		Version: images.LockVersion, Platform: Platform(),
		Images: []images.Image{{Name: "example.org/a", Tag: "v1", Component: "a"}},
		Files:  []images.File{{Path: "cni/a.yaml", SHA256: sumBytes(file), Size: int64(len(file)), Origin: "here"}},
	}
	p.link(t)
	return p
}

// link makes manifest, indexes and lock name each other, over whatever is there of them.
func (p *parts) link(t testing.TB) {
	t.Helper()
	platform, err := v1.ParsePlatform(p.lock.Platform)
	if err != nil {
		t.Fatal(err)
	}
	manifest := p.blob(encoded(t, p.manifest), types.OCIManifestSchema1)
	manifest.Platform = platform
	index := p.blob(encoded(t, v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{manifest}}), types.OCIImageIndex)
	index.Annotations = map[string]string{refName: "example.org/a:v1"}
	p.index = &v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{index}}
	i := &p.lock.Images[0]
	i.Digest, i.Size = index.Digest.String(), index.Size+manifest.Size+p.manifest.Config.Size
	for _, l := range p.manifest.Layers {
		i.Size += l.Size
	}
}

func encoded(t testing.TB, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// finish encodes what was not written yet.
func (p *parts) finish(t testing.TB) {
	t.Helper()
	for name, v := range map[string]any{lockEntry: p.lock, SubjectEntry: p.index} {
		if _, ok := p.files[name]; !ok && !(p.hidden && name == lockEntry) {
			p.files[name] = encoded(t, v)
		}
	}
}

// write is the lab as a folder.
func (p *parts) write(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	p.finish(t)
	for name, data := range p.files {
		to := filepath.Join(dir, filepath.FromSlash(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, data, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func (p *parts) carry(t testing.TB, keys ...*signed.PrivateKey) []byte {
	t.Helper()
	return carry(t, p.write(t), signed.WriteOptions{Serial: 1, Platform: p.lock.Platform, Keys: keys})
}

func carry(t testing.TB, labDir string, o signed.WriteOptions) []byte {
	t.Helper()
	sources, err := Sources(labDir)
	if err != nil {
		t.Fatal(err)
	}
	o.Root, o.Version = SubjectEntry, "test"
	if o.Platform == "" {
		o.Platform = Platform()
	}
	var b bytes.Buffer
	if _, err := signed.Write(t.Context(), &b, sources, o); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// load loads a bundle of which no signature is asked for.
func load(t testing.TB, raw []byte, to string) (*signed.Result, *images.Lock, error) {
	t.Helper()
	return Load(t.Context(), bytes.NewReader(raw), to, LoadOptions{ReadOptions: signed.ReadOptions{Now: time.Now()}})
}

// beside are the names of what lies beside a lab directory, without the lock, which stays.
func beside(t testing.TB, lab string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(lab))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.Name() != filepath.Base(lab) && e.Name() != siblingPrefix(lab)+"lock" {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestALabIsTheSameOnTheOtherSide(t *testing.T) {
	p := newParts(t)
	from := p.write(t)
	raw := carry(t, from, signed.WriteOptions{Serial: 1})
	if !bytes.Equal(raw, carry(t, from, signed.WriteOptions{Serial: 1})) {
		t.Error("two bundles of one lab differ")
	}
	to := filepath.Join(t.TempDir(), "lab")
	result, got, err := load(t, raw, to)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(p.lock, got); diff != "" {
		t.Errorf("lock (-want +got):\n%s", diff)
	}
	if first := result.Statement.Predicate.Entries[0].Name; first != SubjectEntry {
		t.Errorf("the first entry is %s, want %s", first, SubjectEntry)
	}
	if same, err := sameTree(t.Context(), from, to); err != nil || !same {
		t.Errorf("the trees differ: %v", err)
	}
	if _, _, err := load(t, raw, to); err != nil {
		t.Errorf("loading it again: %v", err)
	}
	if got := beside(t, to); len(got) > 0 {
		t.Errorf("beside the lab stayed %v", got)
	}
}

func TestABuiltLabCanBeCarried(t *testing.T) {
	from := filepath.Join(t.TempDir(), "lab")
	if _, err := CreateFromModules(t.Context(), from, Options{CacheDir: t.TempDir(), ImagesDir: writeFiles(t, map[string]string{
		"a/component.yaml": "images: [{name: example.test/a, tag: v1, contents: [{text: hello, to: /hello}]}]\n",
		"b/component.yaml": "images: [{name: example.test/b, tag: v1, contents: [{text: hello, to: /hello}]}]\n",
	})}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := load(t, carry(t, from, signed.WriteOptions{}), filepath.Join(t.TempDir(), "lab")); err != nil {
		t.Error(err)
	}
}

// TestALabThatCannotBeLoadedIsNotVerifiedEither holds that verify and load take the same bundles, and that what is refused leaves the lab that
// is there.
func TestALabThatCannotBeLoadedIsNotVerifiedEither(t *testing.T) {
	good := newParts(t)
	from, raw := good.write(t), good.carry(t)
	replaced := func(name, old, by string) func(*testing.T, *parts) {
		return func(t *testing.T, p *parts) {
			p.finish(t)
			if !bytes.Contains(p.files[name], []byte(old)) {
				t.Fatalf("%s has no %s", name, old)
			}
			p.files[name] = bytes.Replace(p.files[name], []byte(old), []byte(by), 1)
		}
	}
	// swapped gives the image another manifest or index, which its lock names.
	swapped := func(old, by string) func(*testing.T, *parts) {
		return func(t *testing.T, p *parts) {
			inner := p.files[blobPrefix+p.index.Manifests[0].Digest.Hex]
			edited := bytes.Replace(inner, []byte(old), []byte(by), 1)
			if bytes.Equal(inner, edited) {
				t.Fatalf("the index has no %s", old)
			}
			delete(p.files, blobPrefix+p.index.Manifests[0].Digest.Hex)
			d := p.blob(edited, types.OCIImageIndex)
			d.Annotations = p.index.Manifests[0].Annotations
			p.lock.Images[0].Size += d.Size - p.index.Manifests[0].Size
			p.lock.Images[0].Digest, p.index.Manifests[0] = d.Digest.String(), d
		}
	}
	for name, tc := range map[string]struct {
		spoil func(*testing.T, *parts)
		want  error
		says  string
	}{
		"the index of a locked image is missing": {func(_ *testing.T, p *parts) { delete(p.files, blobPrefix+p.index.Manifests[0].Digest.Hex) }, ErrLab, "index sha256:"},
		"a manifest is missing":                  {func(t *testing.T, p *parts) { delete(p.files, blobPrefix+sumBytes(encoded(t, p.manifest))) }, ErrLab, "manifest sha256:"},
		"a layer is missing":                     {func(_ *testing.T, p *parts) { delete(p.files, p.layer) }, ErrLab, "is missing"},
		"a configuration is missing":             {func(_ *testing.T, p *parts) { delete(p.files, p.config) }, ErrLab, "is missing"},
		"a layer has another size": {func(t *testing.T, p *parts) {
			p.drop(t)
			p.manifest.Layers[0].Size++
			p.link(t)
		}, ErrLab, "its descriptor gives it 1601"},
		"the manifest says one thing twice": {func(t *testing.T, p *parts) {
			p.drop(t)
			p.files = map[string][]byte{"files/cni/a.yaml": p.files["files/cni/a.yaml"], layoutEntry: []byte(layoutVersion), p.config: p.files[p.config], p.layer: p.files[p.layer]}
			doubled := p.blob(bytes.Replace(encoded(t, p.manifest), []byte(`{"schema`), []byte(`{"layers":[],"schema`), 1), types.OCIManifestSchema1)
			doubled.Platform = &v1.Platform{OS: goos, Architecture: goarch}
			index := p.blob(encoded(t, v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{doubled}}), types.OCIImageIndex)
			index.Annotations = p.index.Manifests[0].Annotations
			p.index.Manifests[0] = index
			p.lock.Images[0].Digest, p.lock.Images[0].Size = index.Digest.String(), index.Size+doubled.Size+p.manifest.Config.Size+p.manifest.Layers[0].Size
		}, ErrLab, "duplicate field"},
		"the index is no JSON":           {swapped(`{`, `[`), ErrLab, "is no JSON"},
		"the index has another platform": {swapped(`"architecture":"`+goarch, `"architecture":"s390x`), ErrLab, "is not among"},
		"a blob of another's name":       {func(_ *testing.T, p *parts) { p.files[blobPrefix+strings.Repeat("0", 64)] = []byte("x") }, ErrLab, "gives it the digest"},
		"a blob of nobody's":             {func(_ *testing.T, p *parts) { p.blob([]byte("x"), types.OCILayer) }, ErrLab, "is no image's"},
		"a file of the lock is another":  {func(_ *testing.T, p *parts) { p.files["files/cni/a.yaml"] = nil }, ErrLab, "file cni/a.yaml has the digest"},
		"a file of the lock is missing":  {func(_ *testing.T, p *parts) { delete(p.files, "files/cni/a.yaml") }, ErrLab, "file cni/a.yaml is missing"},
		"a file too many":                {func(_ *testing.T, p *parts) { p.files["files/x"] = nil }, ErrLab, "file x is not in the lock"},
		"a file where a folder is": {func(_ *testing.T, p *parts) {
			p.lock.Files = nil
			delete(p.files, "files/cni/a.yaml")
			p.files["files"] = nil
		}, ErrLab, "it is no part of a lab"},
		"a part that a layout has not": {func(_ *testing.T, p *parts) { p.files["layout/x"] = nil }, ErrLab, "it is no part of a lab"},
		"no layout":                    {func(_ *testing.T, p *parts) { delete(p.files, layoutEntry) }, ErrLab, "oci-layout is missing"},
		"another version of layout":    {func(_ *testing.T, p *parts) { p.files[layoutEntry] = []byte("{}") }, ErrLab, "oci-layout is missing or another"},
		"no lock": {func(t *testing.T, p *parts) {
			p.finish(t)
			p.files["lock.yaml"] = p.files[lockEntry]
			delete(p.files, lockEntry)
			p.hidden = true
		}, ErrLab, "there is no lock.json"},
		"a lock with more behind":             {func(t *testing.T, p *parts) { p.finish(t); p.files[lockEntry] = append(p.files[lockEntry], "{}"...) }, ErrLab, "reading the lock"},
		"a lock with a field twice":           {replaced(lockEntry, `"tag":`, `"tag":"v2","tag":`), ErrLab, "duplicate field"},
		"a lock with a field in another case": {replaced(lockEntry, `"tag":`, `"Tag":"v2","tag":`), ErrLab, "unknown field"},
		"a lock that speaks to terminals":     {func(_ *testing.T, p *parts) { p.lock.Images[0].Name = "a\x1b[2J" }, ErrLab, `"a\x1b[2J" is not a repository's`},
		"an image of a negative size":         {func(_ *testing.T, p *parts) { p.lock.Images[0].Size = -5 }, ErrLab, "-5 is less than nothing"},
		"an image of another size":            {func(_ *testing.T, p *parts) { p.lock.Images[0].Size++ }, ErrLab, "the lock gives it"},
		"a layout that lists another name":    {func(_ *testing.T, p *parts) { p.index.Manifests[0].Annotations[refName] = "example.org/b:v1" }, ErrLab, `lists "example.org/b:v1", which is not in the lock`},
		"a layout that lists nothing":         {func(_ *testing.T, p *parts) { p.index.Manifests = nil }, ErrLab, "layout/index.json lists example.org/a:v1@"},
		"a layout in another form":            {func(t *testing.T, p *parts) { p.finish(t); p.files[SubjectEntry] = append(p.files[SubjectEntry], '\n') }, ErrLab, "not in the form"},
		"a layout with a field twice":         {replaced(SubjectEntry, `{"schemaVersion":2,`, `{"schemaVersion":2,"schemaVersion":2,`), ErrLab, "duplicate field"},
		"another platform in the lock":        {func(_ *testing.T, p *parts) { p.listed = Platform(); p.lock.Platform = "windows/s390x" }, ErrLab, "the list is for"},
		"another platform":                    {func(t *testing.T, p *parts) { p.drop(t); p.lock.Platform = "windows/s390x"; p.link(t) }, ErrPlatform, "for windows/s390x, this machine's for " + Platform()},
	} {
		t.Run(name, func(t *testing.T) {
			to := filepath.Join(t.TempDir(), "lab")
			if _, _, err := load(t, raw, to); err != nil {
				t.Fatal(err)
			}
			p := newParts(t)
			tc.spoil(t, p)
			if p.listed == "" {
				p.listed = p.lock.Platform
			}
			spoilt := carry(t, p.write(t), signed.WriteOptions{Serial: 1, Platform: p.listed})
			_, _, errLoad := load(t, spoilt, to)
			_, _, errVerify := Verify(t.Context(), bytes.NewReader(spoilt), signed.ReadOptions{Now: time.Now()})
			for did, err := range map[string]error{"load": errLoad, "verify": errVerify} {
				if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.says) {
					t.Errorf("%s: want %v and %q, got %v", did, tc.want, tc.says, err)
				}
				if err != nil && strings.Contains(err.Error(), filepath.Dir(to)) {
					t.Errorf("%s names a temporary folder: %v", did, err)
				}
			}
			if same, err := sameTree(t.Context(), from, to); err != nil || !same {
				t.Errorf("the lab that was there has changed: %v", err)
			}
			if got := beside(t, to); len(got) > 0 {
				t.Errorf("beside the lab stayed %v", got)
			}
		})
	}
}

// TestTwoLoadsAtOnceBothLoad has a second load begin in the middle of a first one.
func TestTwoLoadsAtOnceBothLoad(t *testing.T) {
	first, second := newParts(t), newParts(t)
	second.lock.Files[0].Origin = "there"
	from := second.write(t)
	raw := first.carry(t)
	to := filepath.Join(t.TempDir(), "lab")
	waiting := make(chan struct{})
	waits := sync.OnceFunc(func() { close(waiting) })
	started := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		<-started
		garbage := strings.NewReader("garbage")
		_, _, err := Load(t.Context(), garbage, to, LoadOptions{Waiting: waits})
		waits() // so that the first goes on where the second has not waited
		if !errors.Is(err, signed.ErrContent) {
			done <- fmt.Errorf("garbage: want %v, got %v", signed.ErrContent, err)
			return
		}
		_, _, err = load(t, carry(t, from, signed.WriteOptions{}), to)
		done <- err
	}()
	half := len(raw) / 2
	r := io.MultiReader(bytes.NewReader(raw[:half]), readerFunc(func([]byte) (int, error) {
		close(started)
		<-waiting
		return 0, io.EOF
	}), bytes.NewReader(raw[half:]))
	installed := false
	_, _, err := Load(t.Context(), iotest.OneByteReader(r), to, LoadOptions{ReadOptions: signed.ReadOptions{Now: time.Now()}, Accept: func(*signed.Result) error {
		_, err := os.Stat(to)
		installed = err == nil
		return nil
	}})
	if err != nil || installed {
		t.Errorf("the first: %v; the lab of another in its time: %t", err, installed)
	}
	if err := <-done; err != nil {
		t.Errorf("the second: %v", err)
	}
	if same, err := sameTree(t.Context(), from, to); err != nil || !same {
		t.Errorf("the lab is not the second's: %v", err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestALoadWaitsForABuildUntilItsContextEnds(t *testing.T) {
	to := filepath.Join(t.TempDir(), "lab")
	l, err := newLab(t.Context(), to, func() {})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, _, err := Load(ctx, strings.NewReader(""), to, LoadOptions{Waiting: cancel}); !errors.Is(err, context.Canceled) {
		t.Errorf("want %v, got %v", context.Canceled, err)
	}
	if _, err := os.Stat(l.dir); err != nil {
		t.Errorf("what the build has made so far: %v", err)
	}
	if err := l.discard(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := load(t, newParts(t).carry(t), to); err != nil {
		t.Errorf("loading when nobody builds: %v", err)
	}
}

func TestABuildWaitsForALoad(t *testing.T) {
	to := filepath.Join(t.TempDir(), "lab")
	release, err := LockLab(t.Context(), to, func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := newLab(ctx, to, cancel); !errors.Is(err, context.Canceled) {
		t.Errorf("want %v, got %v", context.Canceled, err)
	}
}

func TestWhatIsNotAcceptedIsNotLoaded(t *testing.T) {
	to := filepath.Join(t.TempDir(), "lab")
	full := errors.New("disk full")
	_, _, err := Load(t.Context(), bytes.NewReader(newParts(t).carry(t)), to, LoadOptions{
		ReadOptions: signed.ReadOptions{Now: time.Now()}, Accept: func(*signed.Result) error { return full },
	})
	if !errors.Is(err, full) || !strings.Contains(err.Error(), "the lab directory is as it was") {
		t.Errorf("want %v and that nothing has changed, got %v", full, err)
	}
	if _, err := os.Stat(to); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is a lab: %v", err)
	}
}

func TestALabIsOnTheDiskBeforeItHasItsName(t *testing.T) {
	to := filepath.Join(t.TempDir(), "lab")
	l, err := newLab(t.Context(), to, func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer l.discard()
	if _, _, err := l.unpack(t.Context(), bytes.NewReader(newParts(t).carry(t)), signed.ReadOptions{Now: time.Now()}); err != nil {
		t.Fatal(err)
	}
	var want, got []string
	err = filepath.WalkDir(l.dir, func(p string, _ fs.DirEntry, err error) error {
		want = append(want, p)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, filepath.Dir(to)+" with the lab")
	l.sync = func(f *os.File) error {
		name := f.Name()
		if _, err := os.Stat(to); err == nil {
			name += " with the lab"
		}
		got = append(got, name)
		return f.Sync()
	}
	if err := l.install(t.Context(), to); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("synced (-want +got):\n%s", diff)
	}
}

func TestComparingLargeFilesTakesLittleMemory(t *testing.T) {
	const size = 64 << 20
	dir := t.TempDir()
	write := func(name string, last byte) string {
		p := filepath.Join(dir, name)
		f, err := os.Create(p)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteAt([]byte{last}, size-1)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		return p
	}
	a, same, other := write("a", 1), write("same", 1), write("other", 2)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for p, want := range map[string]bool{same: true, other: false} {
		if got, err := sameFile(t.Context(), a, p); err != nil || got != want {
			t.Errorf("%s: want %t, got %t, %v", p, want, got, err)
		}
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 8*pieceSize {
		t.Errorf("comparing allocated %d KiB, want at most %d", n>>10, 8*pieceSize>>10)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := sameFile(ctx, a, same); !errors.Is(err, context.Canceled) {
		t.Errorf("comparing after the end: want %v, got %v", context.Canceled, err)
	}
}

// loadedMutations is how many different mutated bundles are loaded below; package signed reads many more.
const loadedMutations = 1000

// TestNoMutatedBundleIsLoaded changes a signed bundle at random and holds that it is never loaded and leaves nothing. GAPPROOF_SEED repeats a run.
func TestNoMutatedBundleIsLoaded(t *testing.T) {
	seed := rand.Uint64()
	if s := os.Getenv("GAPPROOF_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 2))
	k, err := signed.GenerateKey(signed.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	good := newParts(t).carry(t, k)
	to := filepath.Join(t.TempDir(), "lab")
	o := LoadOptions{ReadOptions: signed.ReadOptions{Now: time.Now(), Trust: signed.TrustKeys(signed.TrustedKey{Name: "k", Key: k.Public()})}}
	const block = 512 // of a tar
	kinds := []func() []byte{
		func() []byte {
			m := slices.Clone(good)
			m[random.IntN(len(m))] ^= 1 << random.IntN(8)
			return m
		},
		func() []byte { return slices.Clone(good[:random.IntN(len(good))]) },
		func() []byte { return append(slices.Clone(good), make([]byte, 1+random.IntN(4*block))...) },
		func() []byte {
			m := slices.Clone(good)
			i, j := random.IntN(len(good)/block)*block, random.IntN(len(good)/block)*block
			copy(m[i:i+block], good[j:j+block])
			return m
		},
		func() []byte {
			i := random.IntN(len(good))
			j := i + random.IntN(len(good)-i)
			return slices.Delete(slices.Clone(good), i, j)
		},
	}
	seen := map[[sha256.Size]byte]bool{sha256.Sum256(good): true}
	tried := 0
	for ; len(seen) <= loadedMutations && tried < 10*loadedMutations; tried++ {
		m := kinds[tried%len(kinds)]()
		sum := sha256.Sum256(m)
		if seen[sum] {
			continue
		}
		seen[sum] = true
		_, _, err := Load(t.Context(), bytes.NewReader(m), to, o)
		if err == nil {
			t.Fatalf("seed %d, mutation %d: loaded", seed, tried)
		}
		if !slices.ContainsFunc([]error{signed.ErrContent, signed.ErrSignature, signed.ErrUnsigned, ErrLab}, func(is error) bool { return errors.Is(err, is) }) {
			t.Errorf("seed %d, mutation %d: %v is none of the errors of a bundle", seed, tried, err)
		}
	}
	if len(seen) <= loadedMutations {
		t.Errorf("of %d mutations %d were different, want %d", tried, len(seen)-1, loadedMutations)
	}
	if _, err := os.Stat(to); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is a lab: %v", err)
	}
	if got := beside(t, to); len(got) > 0 {
		t.Errorf("beside the lab stayed %v", got)
	}
	if _, _, err := Load(t.Context(), bytes.NewReader(good), to, o); err != nil {
		t.Errorf("the one that was not mutated: %v", err)
	}
	t.Logf("of %d mutations %d were different, all refused", tried, len(seen)-1)
}

func TestOnlyRegularFilesAreCarried(t *testing.T) {
	dir := newParts(t).write(t)
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "files", "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := Sources(dir); err == nil || !strings.Contains(err.Error(), "is not a regular file") {
		t.Errorf("a symbolic link: %v", err)
	}
}
