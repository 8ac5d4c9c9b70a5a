package images

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var digest = "sha256:" + strings.Repeat("0a", 32)

const sum = "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b"

const sound = `{
  "version": 1,
  "platform": "linux/amd64",
  "images": [{"name": "example.test/a", "tag": "v1", "digest": "sha256:` +
	`0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a", "size": 3, "component": "a", "built": ["example.test/m v1.2.3"]}],
  "files": [{"path": "cni/a.yaml", "sha256": "` + sum + `", "size": 1, "origin": "example.test/m v1.2.3 a.yaml"}]
}`

func writeLock(t testing.TB, content string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "lock.json"), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestReadLockReturnsWhatWasWritten(t *testing.T) {
	dir := writeLock(t, sound)
	got, err := ReadLock(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := &Lock{
		Version: 1, Platform: "linux/amd64",
		Images: []Image{{Name: "example.test/a", Tag: "v1", Digest: digest, Size: 3, Component: "a", Built: []string{"example.test/m v1.2.3"}}},
		Files:  []File{{Path: "cni/a.yaml", SHA256: sum, Size: 1, Origin: "example.test/m v1.2.3 a.yaml"}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("lock (-want +got):\n%s", d)
	}
	if want, got := "example.test/a:v1@"+digest, got.Images[0].Reference(); want != got {
		t.Errorf("reference: want %s, got %s", want, got)
	}
	if want, got := filepath.Join(dir, "files", "cni", "a.yaml"), FilePath(dir, got.Files[0]); want != got {
		t.Errorf("path of the file: want %s, got %s", want, got)
	}
}

func TestALockIsEncodedInOneForm(t *testing.T) {
	l, err := DecodeLock(strings.NewReader(sound))
	if err != nil {
		t.Fatal(err)
	}
	first, err := l.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ReadLock(writeLock(t, string(first)))
	if err != nil {
		t.Fatal(err)
	}
	second, err := again.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(first), string(second)); d != "" {
		t.Errorf("written, read and written again (-first +second):\n%s", d)
	}
	if !strings.HasPrefix(string(first), "{\n  \"version\": 1,\n") || !strings.HasSuffix(string(first), "}\n") {
		t.Errorf("it is not indented lines with an end:\n%s", first)
	}
}

func TestReadLockRefuses(t *testing.T) {
	for name, c := range map[string]struct{ content, want string }{
		"a file that is not JSON": {"x", "invalid character"},
		"a second lock behind":    {sound + sound, "after top-level value"},
		"an unknown field":        {strings.Replace(sound, `"size": 3`, `"sise": 3`, 1), `unknown field "images[0].sise"`},
		"a field in another case": {strings.Replace(sound, `"size": 3`, `"Size": 3`, 1), `unknown field "images[0].Size"`},
		"a field twice":           {strings.Replace(sound, `"size": 3`, `"size": 3, "size": 4`, 1), `duplicate field "images[0].size"`},
		"a monstrous lock":        {sound + strings.Repeat(" ", maxLock), "it has more than 4194304 bytes"},
		"another version":         {strings.Replace(sound, `"version": 1`, `"version": 2`, 1), "version: is 2, this build reads 1"},
		"a malformed digest":      {strings.Replace(sound, "sha256:0a", "sha256:0A", 1), "images[0].digest:"},
		"a path out of the lab":   {strings.Replace(sound, "cni/a.yaml", "../a.yaml", 1), `files[0].path: "../a.yaml" leaves the lab directory`},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ReadLock(writeLock(t, c.content)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("want an error with %q, got %v", c.want, err)
			}
		})
	}
	if _, err := ReadLock(t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no lock: want os.ErrNotExist, got %v", err)
	}
}

func TestValidateListsEveryFault(t *testing.T) {
	l := &Lock{
		Version: LockVersion, Platform: "linux/amd64\n",
		Images: []Image{
			{Name: "a", Tag: "1", Digest: digest}, {Name: "a", Tag: "1", Digest: "sha256:0"}, {Digest: digest},
			{Name: "a\x1b[2J", Tag: "1", Digest: digest}, {Name: "b", Tag: "1\nVERIFIED", Digest: digest},
			{Name: "c", Tag: "1", Digest: digest, Size: -5, Component: "\r", Built: []string{"x\x07"}},
		},
		Files: []File{
			{Path: "/etc/passwd", SHA256: sum}, {Path: "a\nb", SHA256: sum, Size: -1}, {Path: "c", SHA256: "0"}, {Path: "c", SHA256: sum, Origin: "\x9b"},
		},
	}
	want := `platform: "linux/amd64\n" is not one such as linux/amd64
images[1].digest: "sha256:0" is not sha256 and 64 hexadecimal digits
images[1]: "a:1" is listed already at images[0]
images[2]: name and tag are required, got "" and ""
images[3].name: "a\x1b[2J" is not a repository's
images[4].tag: "1\nVERIFIED" is not a tag
images[5].size: -5 is less than nothing
images[5].component, profile: "\r" and "" are not lower-case words
images[5].built[0]: "x\a" has more than printable ASCII characters
files[0].path: "/etc/passwd" leaves the lab directory
files[1].path: "a\nb" is not a clean path of visible ASCII characters
files[1].size: -1 is less than nothing
files[2].sha256: "0" is not 64 hexadecimal digits
files[3].path: "c" is listed already at files[2]
files[3].origin: "\x9b" has more than printable ASCII characters`
	err := l.Validate()
	if err == nil {
		t.Fatal("want faults, got none")
	}
	if d := cmp.Diff(want, err.Error()); d != "" {
		t.Errorf("faults (-want +got):\n%s", d)
	}
}

func TestNamesOfRepositoriesAreTaken(t *testing.T) {
	for _, name := range []string{"a", "registry.k8s.io/kube-apiserver", "localhost:5000/a/b__c-d.e", "docker.io/kindest/node", "quay.io/cilium/cilium-envoy"} {
		l := &Lock{Version: LockVersion, Platform: "linux/arm64/v8", Images: []Image{{Name: name, Tag: "v1.37.2_x", Digest: digest}}}
		if err := l.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFindReturnsTheLastTagOfAName(t *testing.T) {
	l := &Lock{Images: []Image{{Name: "b", Tag: "2"}, {Name: "a", Tag: "1"}, {Name: "b", Tag: "1"}}}
	l.Sort()
	got, err := l.Find("b")
	if err != nil || got.Tag != "2" {
		t.Errorf("want tag 2, got %q, %v", got.Tag, err)
	}
	if _, err := l.Find("c"); !errors.Is(err, ErrNotLocked) {
		t.Errorf("a name that is not there: want ErrNotLocked, got %v", err)
	}
}

func FuzzDecodeLock(f *testing.F) {
	f.Add(sound)
	f.Add("{}")
	f.Fuzz(func(t *testing.T, content string) {
		l, err := DecodeLock(strings.NewReader(content))
		if err != nil {
			return
		}
		for _, file := range l.Files {
			if rel, err := filepath.Rel("/lab/files", FilePath("/lab", file)); err != nil || !filepath.IsLocal(rel) {
				t.Errorf("%q leaves the lab directory: %q, %v", file.Path, rel, err)
			}
		}
	})
}
