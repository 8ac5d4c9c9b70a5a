package mirror

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzWalk holds that whatever lies in the layout as a manifest or an index is read or refused, that a digest is believed of the very bytes alone, and
// that all which is kept can be asked for.
func FuzzWalk(f *testing.F) {
	const (
		image = `application/vnd.oci.image.manifest.v1+json`
		index = `application/vnd.oci.image.index.v1+json`
	)
	some := "sha256:" + strings.Repeat("a", 64)
	for _, seed := range []string{
		`{}`, `null`, `[]`, `{"mediaType":"` + index + `"}`, `{"mediaType":"` + image + `"}`, `{"mediaType":"text/html"}`,
		`{"mediaType":"` + image + `","config":{"digest":"` + some + `"},"layers":[{"digest":"` + some + `","size":-1}]}`,
		`{"config":{"digest":"` + some + `"},"layers":[{"digest":"sha512:00"}]}`,
		`{"mediaType":"` + index + `","manifests":[{"digest":"` + some + `","platform":{"os":"plan9","architecture":"mips"}}]}`,
		`{"mediaType":"` + index + `","manifests":[{"digest":"../../lock.json"},{}]}`,
		`{"mediaType":"` + index + `","manifests":[{"platform":{"os":"plan9"}}],"config":{"digest":""}}`,
	} {
		f.Add([]byte(seed))
	}
	dir := f.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o700); err != nil {
		f.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = root.Close() })
	f.Fuzz(func(t *testing.T, raw []byte) {
		sum := sha256.Sum256(raw)
		file := filepath.Join(dir, "blobs", "sha256", hex.EncodeToString(sum[:]))
		if err := os.WriteFile(file, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(file)
		walk := func(digest string) (*content, *repository, error) {
			c := &content{root: root, platform: "linux/amd64", manifests: map[string]manifest{}}
			r := &repository{manifests: map[string]bool{}, blobs: map[string]bool{}}
			return c, r, c.walk(r, digest)
		}
		digest := "sha256:" + filepath.Base(file)
		c, r, err := walk(digest)
		if err != nil {
			return
		}
		if !r.manifests[digest] || !bytes.Equal(c.manifests[digest].raw, raw) {
			t.Errorf("%q was read and is not kept as it is", raw)
		}
		if kind := c.manifests[digest].mediaType; !kind.IsIndex() && !kind.IsImage() {
			t.Errorf("%q would be served as %q", raw, kind)
		}
		for kept := range r.blobs {
			if !digestForm.MatchString(kept) {
				t.Errorf("%q gives the blob %q, which nobody can ask for", raw, kept)
			}
		}
		if len(r.manifests) != 1 { // there is no other in the layout
			t.Errorf("%q gives the manifests %v", raw, r.manifests)
		}
		// One byte more, and it is another file under its name.
		if err := os.WriteFile(file, append(bytes.Clone(raw), ' '), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := walk(digest); err == nil {
			t.Errorf("%q was read from a file that does not match its digest", raw)
		}
	})
}

// FuzzReadAccessLog holds that a log is read to its end whatever is in it, and that what was read is written and read again as it is.
func FuzzReadAccessLog(f *testing.F) {
	const line = `{"time":"2026-01-02T03:04:05Z","remote":"192.0.2.1:1","method":"GET","path":"/v2/<","cut":3,"status":404,"bytes":1,"seconds":0.5}` + "\n"
	for _, seed := range []string{"", "\n", line, line + line, line + "nonsense\n" + line, line + `{"meth`, "null\n", "{\"time\":\"9999-12-31T23:59:59.9+23:59\"}\n", "{\"path\":\"\xff\"}\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		all, err := ReadAccessLog(bytes.NewReader(raw))
		lines := bytes.Count(raw, []byte("\n"))
		if len(all) > lines || err == nil && len(all) < lines {
			t.Fatalf("%d accesses and error %v of %d whole lines", len(all), err, lines)
		}
		var again bytes.Buffer
		log := accessLog{w: &again}
		for _, a := range all {
			if err := log.write(a); err != nil {
				t.Fatal(err)
			}
		}
		reread, err := ReadAccessLog(&again)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(all, reread); diff != "" {
			t.Errorf("written and read again (-want +got):\n%s", diff)
		}
	})
}
