package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// tarEntry is what a test compares of one entry of a layer.
type tarEntry struct {
	Name, Link, Content string
	Capability          string // file capabilities
	Type                byte
	Mode                int64
	UID                 int
	Time                time.Time
}

func readLayer(t testing.TB, dir string) []tarEntry {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, layerBlob))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	gz, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var entries []tarEntry
	for r := tar.NewReader(gz); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return entries
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, tarEntry{
			Name: h.Name, Link: h.Linkname, Content: string(data), Type: h.Typeflag, Mode: h.Mode, UID: h.Uid, Time: h.ModTime.UTC(),
			Capability: h.PAXRecords["SCHILY.xattr.security.capability"],
		})
	}
}

func TestLayerEntriesAreSortedAndHaveOneTime(t *testing.T) {
	tree := writeFiles(t, map[string]string{"bin/run": "#!", "etc/conf": "limit = 1\nother = 2\n"})
	text, empty := "hello", ""
	c := &Component{dir: tree}
	spec := &ImageSpec{Name: "example.test/x", Contents: []Content{
		{Text: &text, To: "/z"},
		{Text: &empty, To: "/status", Owner: 999},
		{Link: "/z", To: "/a/link"},
		{Directory: true, To: "/m"},
		{Binary: "c/prog", To: "/usr/bin/prog"},
	}}
	items, err := spec.items(t.Context(), c, func(ref string) (string, error) { return filepath.Join(tree, "bin/run"), nil })
	if err != nil {
		t.Fatal(err)
	}
	module := Content{Module: "example.test/m", From: ".", To: "/", Executable: []string{"bin"}, Edits: []Edit{
		{File: "etc/conf", Find: "limit = 1", Replace: "limit = 3"},
		{File: "etc/conf", Find: "other = 2", Replace: "other = 4"},
	}}
	more, err := module.moduleItems(tree)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, err := writeItems(dir, append(items, more...)); err != nil {
		t.Fatal(err)
	}
	want := []tarEntry{
		{Name: "a/link", Link: "/z", Type: tar.TypeSymlink, Mode: 0o777, Time: epoch},
		{Name: "bin/run", Content: "#!", Type: tar.TypeReg, Mode: 0o755, Time: epoch},
		{Name: "etc/conf", Content: "limit = 3\nother = 4\n", Type: tar.TypeReg, Mode: 0o644, Time: epoch},
		{Name: "m/", Type: tar.TypeDir, Mode: 0o755, Time: epoch},
		{Name: "status", Type: tar.TypeReg, Mode: 0o644, UID: 999, Time: epoch},
		{Name: "usr/bin/prog", Content: "#!", Type: tar.TypeReg, Mode: 0o755, Time: epoch},
		{Name: "z", Content: "hello", Type: tar.TypeReg, Mode: 0o644, Time: epoch},
	}
	if d := cmp.Diff(want, readLayer(t, dir)); d != "" {
		t.Errorf("layer (-want +got):\n%s", d)
	}
}

func TestAnEditThatNoLongerFitsIsAnError(t *testing.T) {
	tree := writeFiles(t, map[string]string{"conf": "a a b"})
	for name, c := range map[string]struct {
		edit Edit
		want string
	}{
		"its place occurs twice": {Edit{File: "conf", Find: "a"}, `reading . of m: editing conf: "a" occurs 2 times, want once`},
		"its place is gone":      {Edit{File: "conf", Find: "c"}, `reading . of m: editing conf: "c" occurs 0 times, want once`},
		"its file is gone":       {Edit{File: "other", Find: "c"}, `editing other of m: there is no such file`},
	} {
		t.Run(name, func(t *testing.T) {
			e := Content{Module: "m", From: ".", To: "/", Edits: []Edit{c.edit}}
			if _, err := e.moduleItems(tree); err == nil || err.Error() != c.want {
				t.Errorf("want %q, got %v", c.want, err)
			}
		})
	}
}

func TestMergePatchFollowsRFC7386(t *testing.T) {
	for name, c := range map[string]struct {
		doc   string
		patch map[string]any
		want  string
	}{
		"null removes, objects merge":   {`{"a":{"b":1,"c":2}}`, map[string]any{"a": map[string]any{"b": nil}}, `{"a":{"c":2}}`},
		"lists are replaced as a whole": {`{"a":[1,2]}`, map[string]any{"a": []any{3}}, `{"a":[3]}`},
		"an object replaces a value":    {`{"a":1}`, map[string]any{"a": map[string]any{"b": nil, "c": 1}}, `{"a":{"c":1}}`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := mergeJSON([]byte(c.doc), c.patch)
			if err != nil {
				t.Fatal(err)
			}
			want, err := mergeJSON([]byte(c.want), nil)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), string(got)); d != "" {
				t.Errorf("merged (-want +got):\n%s", d)
			}
		})
	}
	if _, err := mergeJSON([]byte(`[1]`), nil); err == nil {
		t.Error("a document that is no object: want an error, got none")
	}
}

func TestARootKeepsNothingOfTheMachineThatBuiltIt(t *testing.T) {
	var in bytes.Buffer
	w := tar.NewWriter(&in)
	now := time.Unix(1_700_000_000, 0)
	status := "Package: systemd\nStatus: ok\nVersion: 252.1-1\n\nPackage: jq\nVersion: 1.6\n"
	for _, h := range []tar.Header{
		{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./dev/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./dev/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3},
		{Name: "./etc/apt/sources.list", Size: 1},
		{Name: "./etc/machine-id", Size: 3},
		{Name: "./etc/unit.wants/x", Typeflag: tar.TypeSymlink, Linkname: "/lib/x"},
		{Name: "./usr/bin/a", Size: 2, Mode: 0o4755, Uname: "root"},
		{Name: "./usr/bin/b", Typeflag: tar.TypeLink, Linkname: "./usr/bin/a"},
		{Name: "./usr/bin/ping", Size: 1, Mode: 0o755, PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "cap"}},
		{Name: "./var/lib/dpkg/status", Size: int64(len(status)), Mode: 0o644},
		{Name: "./var/log/dpkg.log", Size: 4},
	} {
		h.ModTime = now
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		content := []byte("xxxxxxxx")[:min(h.Size, 8)]
		if h.Name == "./var/lib/dpkg/status" {
			content = []byte(status)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	_, versions, err := convertRoot(&in, dir, append([]string{"etc/*.wants/*"}, leftOut...))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string]string{"systemd": "252.1-1", "jq": "1.6"}, versions); d != "" {
		t.Errorf("installed (-want +got):\n%s", d)
	}
	want := []tarEntry{
		{Name: "dev/", Type: tar.TypeDir, Mode: 0o755, Time: epoch},
		{Name: "etc/machine-id", Type: tar.TypeReg, Time: epoch},
		{Name: "usr/bin/a", Content: "xx", Type: tar.TypeReg, Mode: 0o4755, Time: epoch},
		{Name: "usr/bin/b", Link: "usr/bin/a", Type: tar.TypeLink, Time: epoch},
		{Name: "usr/bin/ping", Content: "x", Type: tar.TypeReg, Mode: 0o755, Time: epoch, Capability: "cap"},
		{Name: "var/lib/dpkg/status", Content: status, Type: tar.TypeReg, Mode: 0o644, Time: epoch},
	}
	if d := cmp.Diff(want, readLayer(t, dir)); d != "" {
		t.Errorf("root layer (-want +got):\n%s", d)
	}
}

func TestArchivesAreTheHostsDebianOnesOfTheSuite(t *testing.T) {
	targets := `Debian|main|bookworm|http://archive.test/debian/
Debian|main|bookworm|http://archive.test/debian/
Debian|contrib|bookworm|http://archive.test/debian/
Debian|main|bookworm-security|http://archive.test/security/
Debian|main|trixie|http://archive.test/debian/
Docker|stable|bookworm|http://other.test/linux/debian/
`
	got, err := sourcesFor(targets, "bookworm")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"deb http://archive.test/debian/ bookworm main", "deb http://archive.test/security/ bookworm-security main"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("sources (-want +got):\n%s", d)
	}
	if _, err := sourcesFor(targets, "sid"); !errors.Is(err, ErrNoArchive) {
		t.Errorf("a suite without archive: want ErrNoArchive, got %v", err)
	}
}
