package bundle

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/gapproof/gapproof/images"
)

// tiny is an images folder whose two components take a moment to build: throwaway modules without dependencies.
func tiny(t testing.TB) string {
	t.Helper()
	const program = "package main\n\nvar version string\n\nfunc main() { println(`{\"version\":\"` + version + `\"}`) }\n"
	return writeFiles(t, map[string]string{
		"one/go.mod":  "module example.test/one\n\ngo 1.26.0\n",
		"one/main.go": program,
		"one/component.yaml": `
order: 1
builds:
  - {name: one, binaries: {one: .}, stamps: {main.version: v1}}
images:
  - name: example.test/one
    tag: v1
    contents:
      - {binary: one/one, to: /one}
      - {text: "hello\n", to: /etc/hello}
    entrypoint: [/one]
    user: "65532:65532"
    env: [A=b]
`,
		"two/go.mod":          "module example.test/two\n\ngo 1.26.0\n",
		"two/cmd/pro/main.go": program,
		"two/component.yaml": `
order: 2
builds:
  - {name: two, binaries: {second: ./cmd/pro}}
images:
  - {name: example.test/two, tag: v2, contents: [{binary: two/second, to: /two}, {binary: one/one, to: /one}]}
`,
	})
}

// build runs CreateFromModules and returns the lock and the steps that ended.
func build(t testing.TB, dst string, o Options) (*images.Lock, []string) {
	t.Helper()
	var steps []string
	o.Progress = func(p Progress) {
		if p.State == StateDone {
			steps = append(steps, p.Step)
		}
	}
	lock, err := CreateFromModules(t.Context(), dst, o)
	if err != nil {
		t.Fatal(err)
	}
	return lock, steps
}

func TestTheLabDirectoryIsWhatItsLockSays(t *testing.T) {
	dst := filepath.Join(t.TempDir(), "lab")
	lock, _ := build(t, dst, Options{ImagesDir: tiny(t), CacheDir: t.TempDir()})
	read, err := images.ReadLock(dst)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(lock, read); d != "" {
		t.Errorf("lock.json (-returned +read):\n%s", d)
	}
	root, err := layout.ImageIndexFromPath(images.LayoutDir(dst))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(root); err != nil {
		t.Errorf("validating the layout: %v", err)
	}
	list, err := root.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	inLayout := map[string]string{}
	for _, m := range list.Manifests {
		inLayout[m.Annotations[refName]] = m.Digest.String()
		index, err := root.ImageIndex(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		inner, err := index.IndexManifest()
		if err != nil {
			t.Fatal(err)
		}
		if got := inner.Manifests[0].Platform.String(); got != lock.Platform {
			t.Errorf("platform of %s: want %s, got %s", m.Annotations[refName], lock.Platform, got)
		}
	}
	inLock := map[string]string{}
	for _, i := range lock.Images {
		inLock[i.Name+":"+i.Tag] = i.Digest
	}
	if d := cmp.Diff(inLock, inLayout); d != "" {
		t.Errorf("images (-lock +layout):\n%s", d)
	}
	for _, i := range lock.Images {
		n := slices.IndexFunc(lock.Files, func(f images.File) bool { return f.Path == i.SBOM() })
		if n < 0 {
			t.Errorf("%s has no bill of materials among the lock's files", i.Reference())
			continue
		}
		document, err := os.ReadFile(images.FilePath(dst, lock.Files[n]))
		if err != nil || sumBytes(document) != lock.Files[n].SHA256 {
			t.Errorf("bill of materials of %s: not as locked: %v", i.Reference(), err)
		}
		for _, want := range []string{"file:/one", "pkg:golang/example.test/one", strings.TrimPrefix(i.Digest, "sha256:")} {
			if !strings.Contains(string(document), want) {
				t.Errorf("bill of materials of %s: %s is not in it", i.Reference(), want)
			}
		}
	}
	// The size of an image is what a mirror would send for it: both images are there once, and share no blob.
	var sum int64
	for _, i := range lock.Images {
		sum += i.Size
	}
	blobs, err := filepath.Glob(filepath.Join(images.LayoutDir(dst), "blobs", "sha256", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		info, err := os.Stat(b)
		if err != nil {
			t.Fatal(err)
		}
		sum -= info.Size()
	}
	if sum != 0 {
		t.Errorf("sizes in the lock: want the sum of the blobs, got %d bytes more", sum)
	}
}

func TestASecondBuildDoesNothing(t *testing.T) {
	o := Options{ImagesDir: tiny(t), CacheDir: t.TempDir()}
	dst := filepath.Join(t.TempDir(), "lab")
	first, steps := build(t, dst, o)
	want := []string{
		"go build one", "layer of example.test/one", "inventory of example.test/one",
		"go build second", "layer of example.test/two", "inventory of example.test/two",
	}
	if d := cmp.Diff(want, steps); d != "" {
		t.Errorf("steps of the first build (-want +got):\n%s", d)
	}
	before, err := os.Stat(dst)
	if err != nil {
		t.Fatal(err)
	}
	second, steps := build(t, dst, o)
	if len(steps) > 0 {
		t.Errorf("steps of the second build: want none, got %q", steps)
	}
	if d := cmp.Diff(first, second); d != "" {
		t.Errorf("locks (-first +second):\n%s", d)
	}
	after, err := os.Stat(dst)
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(before, after) {
		t.Error("the second build replaced a lab directory that was the same")
	}
	if got := beside(t, dst); len(got) > 0 {
		t.Errorf("beside the lab directory: want nothing but its lock, got %v", got)
	}
}

func TestTwoBuildsFromNothingGiveTheSameDigests(t *testing.T) {
	dir := tiny(t)
	first, _ := build(t, filepath.Join(t.TempDir(), "lab"), Options{ImagesDir: dir, CacheDir: t.TempDir()})
	// Another checkout, at another time.
	moved := filepath.Join(t.TempDir(), "moved")
	if err := os.CopyFS(moved, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	second, _ := build(t, filepath.Join(t.TempDir(), "lab"), Options{ImagesDir: moved, CacheDir: t.TempDir()})
	if d := cmp.Diff(first, second); d != "" {
		t.Errorf("locks (-first +second):\n%s", d)
	}
}

func TestOnlyWhatAChangeConcernsIsBuiltAgain(t *testing.T) {
	for name, c := range map[string]struct {
		file, content string
		want          []string
	}{
		"source code": {
			"two/cmd/pro/main.go", "package main\n\nfunc main() { println(2) }\n",
			[]string{"go build second", "layer of example.test/two", "inventory of example.test/two"},
		},
		"go.mod": {
			"two/go.mod", "module example.test/two\n\ngo 1.25.0\n",
			[]string{"go build second", "layer of example.test/two", "inventory of example.test/two"},
		},
		"a file of an image": {
			"two/component.yaml", "builds: [{name: two, binaries: {second: ./cmd/pro}}]\n" +
				"images: [{name: example.test/two, tag: v2, contents: [{binary: two/second, to: /three}]}]\n",
			[]string{"layer of example.test/two", "inventory of example.test/two"},
		},
		"the configuration of an image": {
			"two/component.yaml", "builds: [{name: two, binaries: {second: ./cmd/pro}}]\n" +
				"images: [{name: example.test/two, tag: v3, env: [A=b], contents: [{binary: two/second, to: /two}, {binary: one/one, to: /one}]}]\n",
			nil,
		},
		"prose": {"two/README.md", "# two\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{ImagesDir: tiny(t), CacheDir: t.TempDir()}
			dst := filepath.Join(t.TempDir(), "lab")
			build(t, dst, o)
			if err := os.WriteFile(filepath.Join(o.ImagesDir, c.file), []byte(c.content), 0o644); err != nil {
				t.Fatal(err)
			}
			_, steps := build(t, dst, o)
			if d := cmp.Diff(c.want, steps); d != "" {
				t.Errorf("steps (-want +got):\n%s", d)
			}
		})
	}
}

func TestAnInterruptedBuildGoesOnWhereItWas(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	o := Options{ImagesDir: tiny(t), CacheDir: t.TempDir()}
	dst := filepath.Join(t.TempDir(), "lab")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	cause := errors.New("interrupted")
	o.Progress = func(p Progress) {
		if p.Step == "go build second" {
			cancel(cause)
		}
	}
	if _, err := CreateFromModules(ctx, dst, o); !errors.Is(err, cause) || !errors.Is(err, context.Canceled) {
		t.Fatalf("want the cause of the interruption, got %v", err)
	}
	if _, err := os.Stat(dst); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an interrupted build left a lab directory: %v", err)
	}
	// What a killed process leaves: it had no chance to clean up.
	store := &cache{dir: filepath.Join(o.CacheDir, "build")}
	killed := []string{
		filepath.Join(store.dir, unfinished+"1"),
		filepath.Join(filepath.Dir(dst), ".lab-"+unfinished+"1"),
		filepath.Join(os.TempDir(), store.scratchPrefix()+"1"),
	}
	for _, dir := range killed {
		if err := os.MkdirAll(filepath.Join(dir, "half"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	_, steps := build(t, dst, o)
	if d := cmp.Diff([]string{"go build second", "layer of example.test/two", "inventory of example.test/two"}, steps); d != "" {
		t.Errorf("steps after the interruption (-want +got):\n%s", d)
	}
	for _, dir := range killed {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", dir, err)
		}
	}
}

func TestADamagedCacheEntryIsNoticedAndBuiltAgain(t *testing.T) {
	o := Options{ImagesDir: tiny(t), CacheDir: t.TempDir()}
	dst := filepath.Join(t.TempDir(), "lab")
	first, _ := build(t, dst, o)
	layers, err := filepath.Glob(filepath.Join(o.CacheDir, "build", "layer-*", layerBlob))
	if err != nil || len(layers) != 2 {
		t.Fatalf("want two layers in the cache, got %q, %v", layers, err)
	}
	// One bit of the disk, and a file cut short.
	data, err := os.ReadFile(layers[0])
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	for name, content := range map[string][]byte{layers[0]: data, layers[1]: data[:10]} {
		if err := errors.Join(os.Chmod(name, 0o644), os.WriteFile(name, content, 0o444)); err != nil {
			t.Fatal(err)
		}
	}
	second, steps := build(t, dst, o)
	if d := cmp.Diff([]string{"layer of example.test/one", "layer of example.test/two"}, steps); d != "" {
		t.Errorf("steps (-want +got):\n%s", d)
	}
	if d := cmp.Diff(first, second); d != "" {
		t.Errorf("locks (-first +second):\n%s", d)
	}
	root, err := layout.ImageIndexFromPath(images.LayoutDir(dst))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(root); err != nil {
		t.Errorf("the lab directory still has the damaged blobs: %v", err)
	}
}

func TestWhoHasTheOldLabOpenKeepsItForADay(t *testing.T) {
	o := Options{ImagesDir: tiny(t), CacheDir: t.TempDir()}
	dst := filepath.Join(t.TempDir(), "lab")
	build(t, dst, o)
	open, err := os.OpenRoot(dst)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	want, err := open.ReadFile("lock.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(o.ImagesDir, "one", "main.go"), []byte("package main\n\nfunc main() {}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	build(t, dst, o)
	if now, err := os.ReadFile(filepath.Join(dst, "lock.json")); err != nil || cmp.Equal(want, now) {
		t.Fatalf("the lab did not change: %v", err)
	}
	if got, err := open.ReadFile("lock.json"); err != nil || !cmp.Equal(want, got) {
		t.Errorf("the old lab's lock: want it as it was, got %q, %v", got, err)
	}
	old, err := filepath.Glob(filepath.Join(filepath.Dir(dst), siblingPrefix(dst)+superseded+"*"))
	if err != nil || len(old) != 1 {
		t.Fatalf("superseded labs: want one, got %q, %v", old, err)
	}
	past := time.Now().Add(-supersededFor)
	if err := os.Chtimes(old[0], past, past); err != nil {
		t.Fatal(err)
	}
	build(t, dst, o)
	if _, err := os.Stat(old[0]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a superseded lab is still there after its time: %v", err)
	}
}

func TestADamagedLabDirectoryIsReplaced(t *testing.T) {
	o := Options{ImagesDir: tiny(t), CacheDir: t.TempDir()}
	dst := filepath.Join(t.TempDir(), "lab")
	build(t, dst, o)
	for name, damage := range map[string]func() error{
		"a file too many": func() error { return os.WriteFile(filepath.Join(dst, "files", "x"), nil, 0o644) },
		"a file missing":  func() error { return os.Remove(filepath.Join(images.LayoutDir(dst), "oci-layout")) },
		"another lock":    func() error { return os.WriteFile(filepath.Join(dst, "lock.json"), []byte("{}"), 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			if err := damage(); err != nil {
				t.Fatal(err)
			}
			build(t, dst, o)
			if _, err := images.ReadLock(dst); err != nil {
				t.Errorf("reading the lock afterwards: %v", err)
			}
			_, err := os.Stat(filepath.Join(images.LayoutDir(dst), "oci-layout"))
			if err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(filepath.Join(dst, "files", "x")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("a file that is not of the lab is still there: %v", err)
			}
		})
	}
}

func TestAFailedBuildSaysWhatFailedAndLeavesTheOldLab(t *testing.T) {
	o := Options{ImagesDir: tiny(t), CacheDir: t.TempDir()}
	dst := filepath.Join(t.TempDir(), "lab")
	before, _ := build(t, dst, o)
	if err := os.WriteFile(filepath.Join(o.ImagesDir, "one", "main.go"), []byte("package main\n\nfunc main() { oops }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := CreateFromModules(t.Context(), dst, o)
	var failed *CommandError
	if !errors.As(err, &failed) || !strings.Contains(failed.Output, "undefined: oops") {
		t.Fatalf("want the compiler's output in a CommandError, got %v", err)
	}
	after, err := images.ReadLock(dst)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(before, after); d != "" {
		t.Errorf("lock (-before +after):\n%s", d)
	}
}

func TestAnImageLargerThanItsLimitIsRefused(t *testing.T) {
	dir := writeFiles(t, map[string]string{"a/component.yaml": `
images: [{name: example.test/a, tag: v1, maxSize: 100, contents: [{text: "hello", to: /hello}]}]
`})
	_, err := CreateFromModules(t.Context(), filepath.Join(t.TempDir(), "lab"), Options{ImagesDir: dir, CacheDir: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "adding example.test/a: it has ") {
		t.Errorf("want a refusal that names the image, got %v", err)
	}
}

func TestMissingToolsAreListedTogetherBeforeAnythingIsBuilt(t *testing.T) {
	dir := writeFiles(t, map[string]string{
		"a/go.mod": "module example.test/a\n\ngo 1.26.0\n",
		"a/component.yaml": `
builds: [{name: a, binaries: {a: .}, cgo: true, debian: [no-such-compiler, no-such-linker]}]
root: {suite: bookworm}
images: [{name: example.test/a, tag: v1, root: a, contents: [{binary: a/a, to: /a}]}]
`,
	})
	_, steps := []string{}, []string{}
	_, err := CreateFromModules(t.Context(), filepath.Join(t.TempDir(), "lab"), Options{
		ImagesDir: dir, CacheDir: t.TempDir(), Progress: func(p Progress) { steps = append(steps, p.Step) },
	})
	var missing *MissingError
	if !errors.As(err, &missing) {
		t.Fatalf("want a MissingError, got %v", err)
	}
	got := []string{}
	for _, p := range missing.Packages {
		if strings.HasPrefix(p, "no-such-") { // the others depend on the host
			got = append(got, p)
		}
	}
	if d := cmp.Diff([]string{"no-such-compiler", "no-such-linker"}, got); d != "" {
		t.Errorf("missing (-want +got):\n%s", d)
	}
	if len(steps) > 0 {
		t.Errorf("steps: want none, got %q", steps)
	}
	if missing.Hint() == "" {
		t.Error("want a hint that can be typed, got none")
	}
}

func TestProgressEstimatesTheRestOnceEveryStepHasRun(t *testing.T) {
	o := Options{ImagesDir: tiny(t), CacheDir: t.TempDir()}
	build(t, filepath.Join(t.TempDir(), "lab"), o)
	// The same steps again, under other keys.
	if err := os.WriteFile(filepath.Join(o.ImagesDir, "one", "main.go"), []byte("package main\n\nfunc main() {}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var got []Progress
	o.Progress = func(p Progress) { got = append(got, p) }
	if _, err := CreateFromModules(t.Context(), filepath.Join(t.TempDir(), "lab"), o); err != nil {
		t.Fatal(err)
	}
	if len(got) == 0 {
		t.Fatal("want progress, got none")
	}
	for n, p := range got {
		last := n == len(got)-1
		if p.LastTook == 0 || (p.Remaining == 0) != last || p.Of != len(got)/2 || p.N < 1 || p.N > p.Of {
			t.Errorf("report %d: want times and counts, got %+v", n, p)
		}
		if (p.Took > 0) != (p.State == StateDone) {
			t.Errorf("report %d: want a time taken when done only, got %+v", n, p)
		}
	}
}

func TestASecondBuildOnOneCacheWaits(t *testing.T) {
	dir := t.TempDir()
	_, release, err := openCache(t.Context(), dir, func() { t.Error("the first build waited") })
	if err != nil {
		t.Fatal(err)
	}
	waiting, opened := make(chan struct{}), make(chan error)
	go func() {
		_, release, err := openCache(t.Context(), dir, func() { close(waiting) })
		if err == nil {
			release()
		}
		opened <- err
	}()
	<-waiting
	select {
	case err := <-opened:
		t.Errorf("the second build did not wait: %v", err)
	default:
	}
	release()
	if err := <-opened; err != nil {
		t.Errorf("opening the cache after it was free: %v", err)
	}
}

func TestWaitingForAnotherBuildEndsWithTheContext(t *testing.T) {
	dir := t.TempDir()
	_, release, err := openCache(t.Context(), dir, func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	ctx, cancel := context.WithCancel(t.Context())
	if _, _, err := openCache(ctx, dir, cancel); !errors.Is(err, context.Canceled) {
		t.Errorf("want context.Canceled, got %v", err)
	}
}

func TestEntriesThatNobodyUsesAreRemoved(t *testing.T) {
	o := Options{ImagesDir: tiny(t), CacheDir: t.TempDir()}
	build(t, filepath.Join(t.TempDir(), "lab"), o)
	store := &cache{dir: filepath.Join(o.CacheDir, "build")}
	count := func() int {
		entries, err := filepath.Glob(filepath.Join(store.dir, "*-*"))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	if err := store.prune(time.Now().Add(unusedFor - time.Hour)); err != nil || count() != 6 {
		t.Errorf("before the time: want 6 entries, got %d, %v", count(), err)
	}
	if err := store.prune(time.Now().Add(unusedFor + time.Hour)); err != nil || count() != 0 {
		t.Errorf("after the time: want no entries, got %d, %v", count(), err)
	}
}
