package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gapproof/gapproof/images"
	"github.com/gapproof/gapproof/runner/bundle/signed"
)

// carriedLab writes a lab directory with one image and one file and returns it with its lock.
func carriedLab(t *testing.T) (string, *images.Lock) {
	t.Helper()
	dir := t.TempDir()
	blob, manifest := []byte("an index"), []byte("kind: ConfigMap\n")
	lock := &images.Lock{
		Version: images.LockVersion, Platform: "linux/amd64",
		Images: []images.Image{{Name: "example.org/a", Tag: "v1", Digest: "sha256:" + sumBytes(blob), Size: int64(len(blob)), Component: "a"}},
		Files:  []images.File{{Path: "cni/a.yaml", SHA256: sumBytes(manifest), Size: int64(len(manifest)), Origin: "here"}},
	}
	raw, err := json.Marshal(lock)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"lock.json": raw, "layout/index.json": []byte("{}"), "layout/oci-layout": []byte(layoutVersion),
		blobPrefix + sumBytes(blob): blob, "files/cni/a.yaml": manifest,
	} {
		p := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir, lock
}

func carry(t *testing.T, labDir string) []byte {
	t.Helper()
	sources, err := Sources(labDir)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := signed.Write(t.Context(), &b, sources, signed.WriteOptions{Root: SubjectEntry, Serial: 1, Version: "test", Platform: "linux/amd64"}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestALabIsTheSameOnTheOtherSide(t *testing.T) {
	from, lock := carriedLab(t)
	raw := carry(t, from)
	if !bytes.Equal(raw, carry(t, from)) {
		t.Error("two bundles of one lab differ")
	}
	to := filepath.Join(t.TempDir(), "lab")
	result, got, err := Load(t.Context(), bytes.NewReader(raw), to, signed.ReadOptions{Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(lock, got); diff != "" {
		t.Errorf("lock (-want +got):\n%s", diff)
	}
	if first := result.Statement.Predicate.Entries[0].Name; first != SubjectEntry {
		t.Errorf("the first entry is %s, want %s", first, SubjectEntry)
	}
	if same, err := sameTree(t.Context(), from, to); err != nil || !same {
		t.Errorf("the trees differ: %v", err)
	}
}

func TestALabThatCannotBeLoadedLeavesTheOneThere(t *testing.T) {
	from, _ := carriedLab(t)
	good := carry(t, from)
	for name, tc := range map[string]struct {
		spoil func(dir string) error
		want  error
	}{
		"an image of the lock is missing": {func(dir string) error { return os.RemoveAll(filepath.Join(dir, "layout", "blobs")) }, images.ErrNotLocked},
		"a file of the lock is another":   {func(dir string) error { return os.WriteFile(filepath.Join(dir, "files/cni/a.yaml"), nil, 0o644) }, signed.ErrContent},
		"a blob has another's name": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "layout/blobs/sha256", strings.Repeat("0", 64)), []byte("x"), 0o644)
		}, signed.ErrContent},
		"there is no lock": {func(dir string) error { return os.Remove(filepath.Join(dir, "lock.json")) }, os.ErrNotExist},
	} {
		t.Run(name, func(t *testing.T) {
			parent := t.TempDir()
			to := filepath.Join(parent, "lab")
			if _, _, err := Load(t.Context(), bytes.NewReader(good), to, signed.ReadOptions{Now: time.Now()}); err != nil {
				t.Fatal(err)
			}
			spoilt, _ := carriedLab(t)
			if err := tc.spoil(spoilt); err != nil {
				t.Fatal(err)
			}
			if _, _, err := Load(t.Context(), bytes.NewReader(carry(t, spoilt)), to, signed.ReadOptions{Now: time.Now()}); !errors.Is(err, tc.want) {
				t.Errorf("want %v, got %v", tc.want, err)
			}
			if same, err := sameTree(t.Context(), from, to); err != nil || !same {
				t.Errorf("the lab that was there has changed: %v", err)
			}
			entries, err := os.ReadDir(parent)
			if err != nil || len(entries) != 1 {
				t.Errorf("beside the lab stayed %v, %v", entries, err)
			}
		})
	}
}

func TestOnlyRegularFilesAreCarried(t *testing.T) {
	dir, _ := carriedLab(t)
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "files", "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := Sources(dir); err == nil || !strings.Contains(err.Error(), "is not a regular file") {
		t.Errorf("a symbolic link: %v", err)
	}
}
