package mirror

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/gapproof/gapproof/images"
)

// seed makes the random images the same in every run, so that a digest in a failure can be looked for again.
const seed = 20251123

// lab is a lab directory with random images: every name of names in the lock, and one image that only the layout has.
type lab struct {
	dir    string
	lock   *images.Lock
	index  map[string]v1.ImageIndex
	image  map[string]v1.Image
	hidden v1.ImageIndex
}

func newLab(t testing.TB, references ...string) *lab {
	t.Helper()
	source := rand.NewSource(seed)
	l := &lab{
		dir:   t.TempDir(),
		lock:  &images.Lock{Version: images.LockVersion, Platform: "linux/amd64"},
		index: map[string]v1.ImageIndex{}, image: map[string]v1.Image{},
	}
	path, err := layout.Write(images.LayoutDir(l.dir), empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	add := func() (v1.ImageIndex, v1.Image) {
		t.Helper()
		image, err := random.Image(2048, 2, random.WithSource(source))
		if err != nil {
			t.Fatal(err)
		}
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		config.OS, config.Architecture = "linux", "amd64"
		if image, err = mutate.ConfigFile(image, config); err != nil {
			t.Fatal(err)
		}
		index := mutate.IndexMediaType(mutate.AppendManifests(empty.Index, mutate.IndexAddendum{
			Add:        image,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}},
		}), types.OCIImageIndex)
		if err := path.AppendIndex(index); err != nil {
			t.Fatal(err)
		}
		return index, image
	}
	for _, ref := range references {
		repo, tag, _ := strings.Cut(ref, "@")
		index, image := add()
		l.index[ref], l.image[ref] = index, image
		l.lock.Images = append(l.lock.Images, images.Image{Name: repo, Tag: tag, Digest: digestOf(t, index)})
	}
	l.hidden, _ = add()
	return l
}

func digestOf(t testing.TB, of interface{ Digest() (v1.Hash, error) }) string {
	t.Helper()
	h, err := of.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return h.String()
}

// layers are the digests of an image's layers.
func layers(t testing.TB, image v1.Image) []string {
	t.Helper()
	all, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	out := make([]string, len(all))
	for i, l := range all {
		out[i] = digestOf(t, l)
	}
	return out
}

func (l *lab) blob(digest string) string {
	return filepath.Join(images.LayoutDir(l.dir), "blobs", "sha256", strings.TrimPrefix(digest, "sha256:"))
}

// syncBuffer is an access log that a test may read while the server writes.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) read(t testing.TB) []Access {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	out, err := ReadAccessLog(bytes.NewReader(s.b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func newMirror(t testing.TB, l *lab, o Options) *Mirror {
	t.Helper()
	m, err := New(l.dir, l.lock, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// get asks m and returns the answer and its body.
func get(t testing.TB, m *Mirror, method, target string, header ...string) (*http.Response, []byte) {
	t.Helper()
	r := httptest.NewRequest(method, target, nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	m.ServeHTTP(w, r)
	res := w.Result()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, body
}

// code is the distribution specification's error code in body.
func code(t testing.TB, body []byte) string {
	t.Helper()
	var e struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal(body, &e); err != nil || len(e.Errors) != 1 || e.Errors[0].Message == "" {
		t.Fatalf("body %q is not one error of the distribution specification (%v)", body, err)
	}
	return e.Errors[0].Code
}

const (
	pause  = "registry.k8s.io/pause@3.10"
	calico = "docker.io/calico/node@v3.28.5"
)

func TestRemoteClientPullsALockedImageWhole(t *testing.T) {
	l := newLab(t, pause)
	server := httptest.NewServer(newMirror(t, l, Options{}))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	for _, ref := range []string{"/pause:3.10", "/registry.k8s.io/pause:3.10", "/pause@" + digestOf(t, l.index[pause])} {
		t.Run(ref, func(t *testing.T) {
			parsed, err := name.ParseReference(host+ref, name.Insecure)
			if err != nil {
				t.Fatal(err)
			}
			index, err := remote.Index(parsed)
			if err != nil {
				t.Fatalf("pulling: %v", err)
			}
			if err := validate.Index(index); err != nil {
				t.Errorf("the pulled index is not whole: %v", err)
			}
			if want, got := digestOf(t, l.index[pause]), digestOf(t, index); want != got {
				t.Errorf("pulled %s, want %s", got, want)
			}
		})
	}
}

func TestContainerdsRequests(t *testing.T) {
	l := newLab(t, pause, calico, "gapproof.dev/probe@v1")
	m := newMirror(t, l, Options{})
	index, hidden := digestOf(t, l.index[calico]), digestOf(t, l.hidden)
	layer := layers(t, l.image[calico])[0]
	other := layers(t, l.image[pause])[0]
	for name, tc := range map[string]struct {
		method, target string
		status         int
		digest, code   string
	}{
		"the base, to see that it is a registry":          {"GET", "/v2/", 200, "", ""},
		"a tag, with the registry in ns":                  {"HEAD", "/v2/calico/node/manifests/v3.28.5?ns=docker.io", 200, index, ""},
		"a tag, with Docker Hub's other host in ns":       {"HEAD", "/v2/calico/node/manifests/v3.28.5?ns=registry-1.docker.io", 200, index, ""},
		"an index by digest":                              {"GET", "/v2/calico/node/manifests/" + index + "?ns=docker.io", 200, index, ""},
		"a manifest below the index":                      {"GET", "/v2/calico/node/manifests/" + digestOf(t, l.image[calico]) + "?ns=docker.io", 200, digestOf(t, l.image[calico]), ""},
		"a layer":                                         {"GET", "/v2/calico/node/blobs/" + layer + "?ns=docker.io", 200, layer, ""},
		"a layer's head":                                  {"HEAD", "/v2/calico/node/blobs/" + layer + "?ns=docker.io", 200, layer, ""},
		"the host in the path and no ns":                  {"GET", "/v2/gapproof.dev/probe/manifests/v1", 200, digestOf(t, l.index["gapproof.dev/probe@v1"]), ""},
		"no host at all where only one repository can be": {"GET", "/v2/probe/manifests/v1", 200, digestOf(t, l.index["gapproof.dev/probe@v1"]), ""},
		"a tag the lock does not have":                    {"HEAD", "/v2/calico/node/manifests/latest?ns=docker.io", 404, "", "MANIFEST_UNKNOWN"},
		"a repository the lock does not have":             {"GET", "/v2/library/busybox/manifests/latest?ns=docker.io", 404, "", "NAME_UNKNOWN"},
		"a locked path of another registry":               {"GET", "/v2/pause/manifests/3.10?ns=evil.example", 404, "", "NAME_UNKNOWN"},
		"ns and the host in the path":                     {"GET", "/v2/registry.k8s.io/pause/manifests/3.10?ns=registry.k8s.io", 404, "", "NAME_UNKNOWN"},
		"an index in the layout but not in the lock":      {"GET", "/v2/calico/node/manifests/" + hidden + "?ns=docker.io", 404, "", "MANIFEST_UNKNOWN"},
		"a locked index of another repository":            {"GET", "/v2/calico/node/manifests/" + digestOf(t, l.index[pause]) + "?ns=docker.io", 404, "", "MANIFEST_UNKNOWN"},
		"a blob of another repository":                    {"GET", "/v2/calico/node/blobs/" + other + "?ns=docker.io", 404, "", "BLOB_UNKNOWN"},
		"a manifest asked for as a blob":                  {"GET", "/v2/calico/node/blobs/" + hidden + "?ns=docker.io", 404, "", "BLOB_UNKNOWN"},
		"a blob by tag":                                   {"GET", "/v2/calico/node/blobs/v3.28.5?ns=docker.io", 400, "", "DIGEST_INVALID"},
		"a digest of another algorithm":                   {"GET", "/v2/calico/node/manifests/sha512:00?ns=docker.io", 400, "", "DIGEST_INVALID"},
		"a digest that would climb out":                   {"GET", "/v2/calico/node/blobs/sha256:..%2F..%2Flock.json?ns=docker.io", 404, "", "UNSUPPORTED"},
		"an upper-case repository":                        {"GET", "/v2/Calico/Node/manifests/latest", 400, "", "NAME_INVALID"},
		"a malformed tag":                                 {"GET", "/v2/calico/node/manifests/-x", 400, "", "MANIFEST_INVALID"},
		"a list of repositories":                          {"GET", "/v2/_catalog", 404, "", "UNSUPPORTED"},
		"a list of tags":                                  {"GET", "/v2/calico/node/tags/list", 404, "", "UNSUPPORTED"},
		"referrers, which clients then look for by tag":   {"GET", "/v2/calico/node/referrers/" + index, 404, "", "UNSUPPORTED"},
		"something that is no registry path":              {"GET", "/", 404, "", "UNSUPPORTED"},
		"an upload":                                       {"POST", "/v2/calico/node/blobs/uploads/", 405, "", "UNSUPPORTED"},
		"a manifest written":                              {"PUT", "/v2/calico/node/manifests/v3.28.5", 405, "", "UNSUPPORTED"},
		"a manifest deleted":                              {"DELETE", "/v2/calico/node/manifests/" + index, 405, "", "UNSUPPORTED"},
		"a blob deleted where the path is not even one":   {"DELETE", "/v2/x", 405, "", "UNSUPPORTED"},
	} {
		t.Run(name, func(t *testing.T) {
			res, body := get(t, m, tc.method, tc.target)
			if res.StatusCode != tc.status {
				t.Fatalf("status %d, want %d; body %s", res.StatusCode, tc.status, body)
			}
			if got := res.Header.Get("Docker-Content-Digest"); got != tc.digest {
				t.Errorf("Docker-Content-Digest is %q, want %q", got, tc.digest)
			}
			if tc.code != "" {
				if got := code(t, body); got != tc.code {
					t.Errorf("error code %s, want %s", got, tc.code)
				}
				return
			}
			if tc.method == "HEAD" && len(body) != 0 {
				t.Errorf("a HEAD was answered with %d bytes", len(body))
			}
			if tc.method == "GET" && tc.digest != "" {
				if h, _, err := v1.SHA256(bytes.NewReader(body)); err != nil || h.String() != tc.digest {
					t.Errorf("the body hashes to %s (%v), want %s", h, err, tc.digest)
				}
			}
			if want, got := res.Header.Get("Content-Length"), fmt.Sprint(len(body)); tc.method == "GET" && want != got {
				t.Errorf("Content-Length is %s, the body has %s bytes", want, got)
			}
		})
	}
}

func TestWithoutNSANameOfTwoRegistriesIsAmbiguous(t *testing.T) {
	l := newLab(t, "a.example/tool@v1", "b.example/tool@v1")
	m := newMirror(t, l, Options{})
	res, body := get(t, m, "GET", "/v2/tool/manifests/v1")
	if res.StatusCode != 404 || !strings.Contains(string(body), "?ns=") {
		t.Errorf("status %d, body %s; want 404 with the hint ?ns=", res.StatusCode, body)
	}
	for _, host := range []string{"a.example", "b.example"} {
		res, _ := get(t, m, "GET", "/v2/tool/manifests/v1?ns="+host)
		if want, got := digestOf(t, l.index[host+"/tool@v1"]), res.Header.Get("Docker-Content-Digest"); want != got {
			t.Errorf("ns=%s: got %q, want %s", host, got, want)
		}
	}
}

func TestDockerHubsShortNames(t *testing.T) {
	l := newLab(t, "docker.io/busybox@1")
	m := newMirror(t, l, Options{})
	for _, target := range []string{
		"/v2/library/busybox/manifests/1?ns=docker.io", "/v2/library/busybox/manifests/1",
		"/v2/busybox/manifests/1", "/v2/docker.io/busybox/manifests/1", "/v2/index.docker.io/library/busybox/manifests/1",
	} {
		if res, body := get(t, m, "GET", target); res.StatusCode != 200 {
			t.Errorf("%s: status %d, want 200; body %s", target, res.StatusCode, body)
		}
	}
}

func TestBlobRanges(t *testing.T) {
	l := newLab(t, pause)
	m := newMirror(t, l, Options{})
	layer := layers(t, l.image[pause])[0]
	whole, err := os.ReadFile(l.blob(layer))
	if err != nil {
		t.Fatal(err)
	}
	size := len(whole)
	etag := `"` + layer + `"`
	target := "/v2/pause/blobs/" + layer + "?ns=registry.k8s.io"
	for name, tc := range map[string]struct {
		header []string
		status int
		from   int // of the layer, to its end or to
		to     int
	}{
		"one in the middle":                      {[]string{"Range", "bytes=100-199"}, 206, 100, 200},
		"the last bytes":                         {[]string{"Range", "bytes=-10"}, 206, size - 10, size},
		"more last bytes than there are":         {[]string{"Range", fmt.Sprintf("bytes=-%d", size+1)}, 206, 0, size},
		"one that ends behind the end":           {[]string{"Range", fmt.Sprintf("bytes=5-%d", size+100)}, 206, 5, size},
		"a resumed download":                     {[]string{"Range", "bytes=5-", "If-Range", etag}, 206, 5, size},
		"a resumed download of something else":   {[]string{"Range", "bytes=5-", "If-Range", `"sha256:0"`}, 200, 0, size},
		"several, together more than the layer":  {[]string{"Range", "bytes=0-,0-"}, 200, 0, size},
		"one that begins at the end":             {[]string{"Range", fmt.Sprintf("bytes=%d-", size)}, 416, 0, 0},
		"one behind the end":                     {[]string{"Range", fmt.Sprintf("bytes=%d-%d", size+1, size+2)}, 416, 0, 0},
		"one that ends before it begins":         {[]string{"Range", "bytes=9-5"}, 416, 0, 0},
		"no numbers":                             {[]string{"Range", "bytes=a-b"}, 416, 0, 0},
		"a number that no integer holds":         {[]string{"Range", "bytes=99999999999999999999-"}, 416, 0, 0},
		"a negative one":                         {[]string{"Range", "bytes=--5"}, 416, 0, 0},
		"another unit":                           {[]string{"Range", "lines=1-2"}, 416, 0, 0},
		"several, one of which is malformed":     {[]string{"Range", "bytes=0-1,x"}, 416, 0, 0},
		"a range of very many bytes of nonsense": {[]string{"Range", "bytes=" + strings.Repeat("<", 1<<16)}, 416, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			res, body := get(t, m, "GET", target, tc.header...)
			if res.StatusCode != tc.status {
				t.Fatalf("status %d, want %d; body %.80q", res.StatusCode, tc.status, body)
			}
			if tc.status != 416 {
				if !bytes.Equal(body, whole[tc.from:tc.to]) {
					t.Errorf("%d bytes that are not those from %d to %d of the layer", len(body), tc.from, tc.to)
				}
				return
			}
			if got := code(t, body); got != "UNSUPPORTED" || res.Header.Get("Content-Type") != "application/json" {
				t.Errorf("error code %s as %s, want UNSUPPORTED as application/json", got, res.Header.Get("Content-Type"))
			}
			if want, got := fmt.Sprintf("bytes */%d", size), res.Header.Get("Content-Range"); got != want {
				t.Errorf("Content-Range is %q, want %q", got, want)
			}
			if want, got := fmt.Sprint(len(body)), res.Header.Get("Content-Length"); got != want || len(body) > 8*maxKept {
				t.Errorf("Content-Length is %s for %s bytes, of which there may be %d", got, want, 8*maxKept)
			}
			if got := res.Header.Get("Docker-Content-Digest"); got != "" {
				t.Errorf("the refusal claims the digest %s", got)
			}
		})
	}
}

func TestSeveralRangesAreAnsweredInParts(t *testing.T) {
	l := newLab(t, pause)
	m := newMirror(t, l, Options{})
	layer := layers(t, l.image[pause])[0]
	whole, err := os.ReadFile(l.blob(layer))
	if err != nil {
		t.Fatal(err)
	}
	res, body := get(t, m, "GET", "/v2/pause/blobs/"+layer, "Range", "bytes=0-9,100-109")
	kind, params, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if res.StatusCode != 206 || err != nil || kind != "multipart/byteranges" {
		t.Fatalf("status %d with type %q (%v), want 206 and multipart/byteranges", res.StatusCode, kind, err)
	}
	parts := multipart.NewReader(bytes.NewReader(body), params["boundary"])
	for _, want := range [][]byte{whole[:10], whole[100:110]} {
		p, err := parts.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(p); err != nil || !bytes.Equal(got, want) {
			t.Errorf("part %x (%v), want %x", got, err, want)
		}
	}
}

func TestACorruptBlobIsNeverServed(t *testing.T) {
	l := newLab(t, pause)
	var logged bytes.Buffer
	access := &syncBuffer{}
	m := newMirror(t, l, Options{AccessLog: access, Log: slogTo(&logged)})
	layer := layers(t, l.image[pause])[0]
	good, err := os.ReadFile(l.blob(layer))
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(good)
	bad[len(bad)/2] ^= 1
	write := func(content []byte, changed time.Time) {
		t.Helper()
		if err := os.WriteFile(l.blob(layer), content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(l.blob(layer), changed, changed); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	write(bad, start)
	target := "/v2/pause/blobs/" + layer + "?ns=registry.k8s.io"
	for range 2 { // the second is answered from memory
		res, body := get(t, m, "GET", target)
		if res.StatusCode != 500 || code(t, body) != "DIGEST_INVALID" || bytes.Contains(body, bad[:16]) {
			t.Fatalf("status %d, body %.80q; want 500 DIGEST_INVALID and no content", res.StatusCode, body)
		}
	}
	if !strings.Contains(logged.String(), layer) {
		t.Errorf("the log does not name the blob: %s", logged.String())
	}
	if got := access.read(t); len(got) != 2 || got[0].Status != 500 || got[0].Digest != "" {
		t.Errorf("access log %+v, want two lines with status 500 and no digest", got)
	}
	write(good, start.Add(time.Second))
	if res, _ := get(t, m, "GET", target); res.StatusCode != 200 {
		t.Errorf("after the blob was mended: status %d, want 200", res.StatusCode)
	}
	write(bad, start.Add(2*time.Second))
	if res, _ := get(t, m, "GET", target); res.StatusCode != 500 {
		t.Errorf("after a verified blob was changed: status %d, want 500", res.StatusCode)
	}
}

func TestAMissingBlobIsAnErrorNotAnAbsence(t *testing.T) {
	l := newLab(t, pause)
	m := newMirror(t, l, Options{})
	layer := layers(t, l.image[pause])[0]
	if err := os.Remove(l.blob(layer)); err != nil {
		t.Fatal(err)
	}
	if res, _ := get(t, m, "GET", "/v2/pause/blobs/"+layer); res.StatusCode != 500 {
		t.Errorf("status %d, want 500: 404 would read as \"not in the lock\"", res.StatusCode)
	}
}

func TestALinkOutOfTheLayoutIsNotFollowed(t *testing.T) {
	l := newLab(t, pause)
	m := newMirror(t, l, Options{})
	layer := layers(t, l.image[pause])[0]
	outside := filepath.Join(l.dir, "outside")
	if err := os.Rename(l.blob(layer), outside); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, l.blob(layer)); err != nil {
		t.Fatal(err)
	}
	if res, _ := get(t, m, "GET", "/v2/pause/blobs/"+layer); res.StatusCode != 500 {
		t.Errorf("status %d, want 500", res.StatusCode)
	}
}

func TestNewRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(t *testing.T, l *lab)
		is    error
		want  string
	}{
		"a corrupt index": {func(t *testing.T, l *lab) {
			if err := os.WriteFile(l.blob(l.lock.Images[0].Digest), []byte(`{}`), 0o600); err != nil {
				t.Fatal(err)
			}
		}, ErrCorrupt, pause[:len("registry.k8s.io/pause")]},
		"a missing manifest of the lab's own platform": {func(t *testing.T, l *lab) {
			if err := os.Remove(l.blob(digestOf(t, l.image[pause]))); err != nil {
				t.Fatal(err)
			}
		}, os.ErrNotExist, "sha256:"},
		"a malformed lock":     {func(_ *testing.T, l *lab) { l.lock.Images[0].Digest = "sha256:xyz" }, nil, "images[0].digest"},
		"a layout that is not": {func(_ *testing.T, l *lab) { l.dir += "-not" }, os.ErrNotExist, "layout"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, pause)
			tc.spoil(t, l)
			_, err := New(l.dir, l.lock, Options{})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("New: %v, want an error with %q", err, tc.want)
			}
			if tc.is != nil && !errors.Is(err, tc.is) {
				t.Errorf("New: %v does not match %v", err, tc.is)
			}
		})
	}
}

func TestAManifestOfAnotherPlatformMayBeAbsent(t *testing.T) {
	l := newLab(t, pause)
	l.lock.Platform = "linux/arm64"
	if err := os.Remove(l.blob(digestOf(t, l.image[pause]))); err != nil {
		t.Fatal(err)
	}
	m := newMirror(t, l, Options{})
	if res, _ := get(t, m, "GET", "/v2/pause/manifests/3.10"); res.StatusCode != 200 {
		t.Errorf("index: status %d, want 200", res.StatusCode)
	}
	if res, _ := get(t, m, "GET", "/v2/pause/manifests/"+digestOf(t, l.image[pause])); res.StatusCode != 404 {
		t.Errorf("absent manifest: status %d, want 404", res.StatusCode)
	}
}

func TestAccessLogTellsEachRequest(t *testing.T) {
	l := newLab(t, pause)
	access := &syncBuffer{}
	var ticks int
	start := time.Date(2025, 11, 23, 12, 0, 0, 0, time.UTC)
	clock := func() time.Time { ticks++; return start.Add(time.Duration(ticks) * 250 * time.Millisecond) }
	m := newMirror(t, l, Options{AccessLog: access, Now: clock})
	_, body := get(t, m, "GET", "/v2/pause/manifests/3.10?ns=registry.k8s.io")
	_, missing := get(t, m, "GET", "/v2/library/busybox/manifests/latest?ns=docker.io")
	_, odd := get(t, m, "GET", "/v2/_catalog")
	const client = "192.0.2.1:1234" // httptest's
	want := []Access{
		{Time: start.Add(250 * time.Millisecond), Remote: client, Method: "GET", NS: "registry.k8s.io", Repository: "pause", Reference: "3.10",
			Digest: l.lock.Images[0].Digest, Status: 200, Bytes: int64(len(body)), Seconds: 0.25},
		{Time: start.Add(750 * time.Millisecond), Remote: client, Method: "GET", NS: "docker.io", Repository: "library/busybox", Reference: "latest",
			Status: 404, Bytes: int64(len(missing)), Seconds: 0.25},
		{Time: start.Add(1250 * time.Millisecond), Remote: client, Method: "GET", Path: "/v2/_catalog", Status: 404, Bytes: int64(len(odd)), Seconds: 0.25},
	}
	if diff := cmp.Diff(want, access.read(t)); diff != "" {
		t.Errorf("access log (-want +got):\n%s", diff)
	}
}

func TestALineStillBeingWrittenIsLeftOut(t *testing.T) {
	got, err := ReadAccessLog(strings.NewReader("{\"method\":\"GET\",\"status\":200}\n{\"meth"))
	if err != nil || len(got) != 1 {
		t.Errorf("got %v, %v; want the one whole line", got, err)
	}
}

func TestABadLineTakesNoOtherAway(t *testing.T) {
	const good = "{\"method\":\"GET\",\"status\":200}\n"
	for name, bad := range map[string]string{
		"nonsense": "nonsense\n", "an empty line": "\n", "another type": "[]\n",
		"a line that is too long": `{"method":"GET","path":"` + strings.Repeat("<", maxAccessLine) + "\"}\n",
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ReadAccessLog(strings.NewReader(good + bad + good + good))
			if err == nil || !strings.Contains(err.Error(), "line 2 ") || strings.Contains(err.Error(), "line 3 ") {
				t.Errorf("got error %v, want one of line 2 alone", err)
			}
			if len(got) != 3 {
				t.Errorf("%d accesses, want the 3 of the good lines", len(got))
			}
		})
	}
	got, err := ReadAccessLog(strings.NewReader(strings.Repeat("nonsense\n", 1000) + good))
	if err == nil || len(err.Error()) > 4096 || !strings.Contains(err.Error(), "and 990 lines more") || len(got) != 1 {
		t.Errorf("%d accesses and error %v, want one access and an error that names the first lines and counts the others", len(got), err)
	}
	broken := errors.New("the disk is gone")
	if got, err = ReadAccessLog(io.MultiReader(strings.NewReader(good+"{"), iotest.ErrReader(broken))); !errors.Is(err, broken) || len(got) != 1 {
		t.Errorf("%d accesses and error %v, want what was read and %v", len(got), err, broken)
	}
}

func TestServeEndsWithItsContext(t *testing.T) {
	l := newLab(t, pause)
	m := newMirror(t, l, Options{})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Serve(ctx, listener) }()
	res, err := http.Get("http://" + listener.Addr().String() + "/v2/")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve: %v, want nil once its context ended", err)
	}
	if _, err := net.Dial("tcp", listener.Addr().String()); err == nil {
		t.Error("the listener still accepts")
	}
}

func TestConcurrentPullsOfOneLayer(t *testing.T) {
	l := newLab(t, pause)
	m := newMirror(t, l, Options{AccessLog: &syncBuffer{}})
	layer := layers(t, l.image[pause])[0]
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if res, _ := get(t, m, "GET", "/v2/pause/blobs/"+layer); res.StatusCode != 200 {
				t.Errorf("status %d, want 200", res.StatusCode)
			}
		})
	}
	wg.Wait()
}
