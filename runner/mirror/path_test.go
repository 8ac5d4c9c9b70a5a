package mirror

import (
	"io"
	"log/slog"
	"strings"
	"testing"
)

func slogTo(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

func TestParsePathReadsFromItsEnd(t *testing.T) {
	for path, want := range map[string]asked{
		"/v2":                               {kind: kindBase},
		"/v2/":                              {kind: kindBase},
		"/v2/a/manifests/v1":                {kindManifest, "a", "v1"},
		"/v2/a/manifests/manifests/v1":      {kindManifest, "a/manifests", "v1"},
		"/v2/blobs/manifests/blobs":         {kindManifest, "blobs", "blobs"},
		"/v2/localhost:5000/a/manifests/v1": {kindManifest, "localhost:5000/a", "v1"},
		"/v2/a/b/c/d/blobs/sha256:" + strings.Repeat("0", 64): {kindBlob, "a/b/c/d", "sha256:" + strings.Repeat("0", 64)},
	} {
		if got, bad := parsePath(path); got != want || bad != faultNone {
			t.Errorf("parsePath(%q): got %+v, fault %d; want %+v", path, got, bad, want)
		}
	}
	for path, want := range map[string]fault{
		"/v2x/a/manifests/v1":     faultUnsupported,
		"/v1/":                    faultUnsupported,
		"/v2/manifests/v1":        faultUnsupported,
		"/v2//manifests/v1":       faultName,
		"/v2/a//b/manifests/v1":   faultName,
		"/v2/a/../b/manifests/v1": faultName,
		"/v2/a/b:5/manifests/v1":  faultName,
		"/v2/" + strings.Repeat("a", 256) + "/blobs/x": faultName,
		"/v2/a/manifests/": faultTag,
		"/v2/a/blobs/sha256:" + strings.Repeat("A", 64): faultDigest,
	} {
		if _, bad := parsePath(path); bad != want {
			t.Errorf("parsePath(%q): fault %d, want %d", path, bad, want)
		}
	}
}

// FuzzParsePath holds what the rest of the package relies on: whatever is accepted can be written back to the very path, and
// neither part can climb, hide a NUL or hold an unbounded name.
func FuzzParsePath(f *testing.F) {
	for _, seed := range []string{
		"/v2/", "/v2/a/manifests/v1", "/v2/registry.k8s.io/pause/blobs/sha256:" + strings.Repeat("a", 64),
		"/v2/../manifests/v1", "/v2/a/manifests/../../x", "/v2/a:1/b/manifests/_", "/v2/\x00/manifests/x",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		a, bad := parsePath(path)
		if bad != faultNone {
			if a != (asked{}) {
				t.Fatalf("parsePath(%q) gave both %+v and fault %d", path, a, bad)
			}
			bad.describe() // every fault can be told
			return
		}
		var back string
		switch a.kind {
		case kindBase:
			if path != "/v2" && path != "/v2/" {
				t.Fatalf("parsePath(%q) took it for the base", path)
			}
			return
		case kindManifest:
			back = "/v2/" + a.repository + "/manifests/" + a.reference
		case kindBlob:
			back = "/v2/" + a.repository + "/blobs/" + a.reference
			if !digestForm.MatchString(a.reference) {
				t.Fatalf("parsePath(%q) accepted the blob %q", path, a.reference)
			}
		default:
			t.Fatalf("parsePath(%q) gave kind %d without a fault", path, a.kind)
		}
		if back != path {
			t.Fatalf("parsePath(%q) gave %+v, which is the path %q", path, a, back)
		}
		for _, component := range strings.Split(a.repository, "/") {
			if component == "" || component == "." || component == ".." || len(component) > maxRepository {
				t.Fatalf("parsePath(%q) accepted the component %q", path, component)
			}
		}
		if strings.ContainsAny(a.repository+a.reference, "\x00\\%?#\n ") {
			t.Fatalf("parsePath(%q) accepted %+v", path, a)
		}
	})
}
