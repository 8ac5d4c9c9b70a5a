package upstream

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/gapproof/gapproof/runner/internal/registrytest"
)

// push makes an index for these platforms and gives it a tag.
func push(t testing.TB, u *registrytest.Registry, tagged string, platforms ...string) v1.ImageIndex {
	t.Helper()
	index, err := u.Push(tagged, platforms)
	if err != nil {
		t.Fatal(err)
	}
	return index
}

func clientOf(t testing.TB, u *registrytest.Registry) *Client {
	t.Helper()
	c, err := NewClient(Options{Mirrors: map[string]string{"a.test": u.Host}, Wait: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func digestOf(t testing.TB, d interface{ Digest() (v1.Hash, error) }) string {
	t.Helper()
	h, err := d.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return h.String()
}

// aLayer pushes an image and returns a layer of it: its digest and content.
func aLayer(t testing.TB, u *registrytest.Registry) (string, []byte) {
	t.Helper()
	index := push(t, u, "one:v1", "linux/amd64")
	list, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	img, err := index.Image(list.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	rc, err := layers[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	raw, err := io.ReadAll(rc)
	if err != nil {
		t.Fatal(err)
	}
	return digestOf(t, layers[0]), raw
}

// blob fetches a blob and returns what the last try gave.
func blob(ctx context.Context, c *Client, digest string, size int) ([]byte, error) {
	var got []byte
	err := c.Blob(ctx, "a.test/one", digest, int64(size), func(r io.Reader) (err error) {
		got, err = io.ReadAll(r)
		return err
	})
	return got, err
}

func TestWhatMayPassIsTriedAgainAndTheRestIsNot(t *testing.T) {
	u := registrytest.New(t.Cleanup)
	digest, content := aLayer(t, u)
	path := "GET /v2/one/blobs/" + digest
	status := func(code int) func(http.ResponseWriter) { return func(w http.ResponseWriter) { w.WriteHeader(code) } }
	cut := func(w http.ResponseWriter) {
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		_, _ = w.Write(content[:len(content)/2])
		w.(http.Flusher).Flush() // else nothing is sent, and net/http itself asks again
		panic(http.ErrAbortHandler)
	}
	other := func(w http.ResponseWriter) { _, _ = w.Write(bytes.Repeat([]byte("x"), len(content))) }
	long := func(w http.ResponseWriter) { _, _ = w.Write(append(bytes.Clone(content), 'x')) }
	for name, tc := range map[string]struct {
		answer func(http.ResponseWriter)
		bad    int // how many answers are spoilt
		want   string
		asked  int
	}{
		"503 twice":           {status(503), 2, "", 3},
		"429 once":            {status(429), 1, "", 2},
		"503 for ever":        {status(503), 99, "5 tries: ", tries},
		"a body cut twice":    {cut, 2, "", 3},
		"a body always cut":   {cut, 99, "5 tries: ", 2 * tries}, // each time the rest is asked for, and this is none
		"wrong bytes once":    {other, 1, "", 2},
		"always wrong bytes":  {other, 99, "error verifying sha256 checksum", tries},
		"more than was named": {long, 99, "error verifying", tries},
		"404":                 {status(404), 99, ErrGone.Error(), 1},
		"403":                 {status(403), 99, "403", 1},
	} {
		t.Run(name, func(t *testing.T) {
			u.SpoilWith(func(w http.ResponseWriter, r *http.Request, n int) bool {
				if r.Method+" "+r.URL.Path != path || n >= tc.bad {
					return false
				}
				tc.answer(w)
				return true
			})
			got, err := blob(t.Context(), clientOf(t, u), digest, len(content))
			switch {
			case tc.want == "" && (err != nil || !bytes.Equal(got, content)):
				t.Errorf("want the blob, got %d bytes and %v", len(got), err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("want an error with %q, got %v", tc.want, err)
			}
			if n := u.Times(path); n != tc.asked {
				t.Errorf("asked %d times, want %d", n, tc.asked)
			}
		})
	}
}

func TestABlobOfAnotherSizeThanItsManifestSaysIsRefused(t *testing.T) {
	u := registrytest.New(t.Cleanup)
	digest, content := aLayer(t, u)
	for _, size := range []int{0, len(content) - 1, len(content) + 1} {
		if _, err := blob(t.Context(), clientOf(t, u), digest, size); !errors.Is(err, ErrSize) {
			t.Errorf("%d bytes for %d: want ErrSize, got %v", len(content), size, err)
		}
	}
}

func TestAFaultOfTheReceiverIsNotTheRegistrys(t *testing.T) {
	u := registrytest.New(t.Cleanup)
	digest, content := aLayer(t, u)
	full, calls := errors.New("disk full"), 0
	err := clientOf(t, u).Blob(t.Context(), "a.test/one", digest, int64(len(content)), func(r io.Reader) error {
		calls++
		_, _ = io.CopyN(io.Discard, r, 3)
		return full
	})
	if !errors.Is(err, full) || calls != 1 {
		t.Errorf("want its error after one call, got %v after %d", err, calls)
	}
}

func TestABlobCountsOnlyAfterItsLastByte(t *testing.T) {
	u := registrytest.New(t.Cleanup)
	digest, content := aLayer(t, u)
	most := func(r io.Reader) error { _, err := io.CopyN(io.Discard, r, int64(len(content))-1); return err }
	if err := clientOf(t, u).Blob(t.Context(), "a.test/one", digest, int64(len(content)), most); err != nil {
		t.Errorf("a receiver that does not read to the end: %v", err)
	}
	u.SpoilWith(func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		_, _ = w.Write(append(bytes.Clone(content[:len(content)-1]), content[len(content)-1]+1))
		return true
	})
	if err := clientOf(t, u).Blob(t.Context(), "a.test/one", digest, int64(len(content)), most); err == nil {
		t.Error("another last byte: want an error")
	}
}

func TestManifestsOfOtherDigestsAreRefused(t *testing.T) {
	u := registrytest.New(t.Cleanup)
	index := push(t, u, "one:v1", "linux/amd64")
	digest := digestOf(t, index)
	raw, err := clientOf(t, u).Manifest(t.Context(), "a.test/one", digest)
	want, _ := index.RawManifest()
	if err != nil || !bytes.Equal(raw, want) {
		t.Errorf("want the index, got %s, %v", raw, err)
	}
	if _, err := clientOf(t, u).Manifest(t.Context(), "a.test/one", zeros); !errors.Is(err, ErrGone) {
		t.Errorf("a digest that is not there: want ErrGone, got %v", err)
	}
	u.SpoilWith(func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if !strings.Contains(r.URL.Path, "/manifests/") {
			return false
		}
		w.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
		_, _ = w.Write([]byte(`{"schemaVersion":2,"manifests":[]}`))
		return true
	})
	if _, err := clientOf(t, u).Manifest(t.Context(), "a.test/one", digest); err == nil || !strings.Contains(err.Error(), "does not match requested digest") {
		t.Errorf("another manifest: want an error, got %v", err)
	}
}

func TestAManifestOfExcessiveSizeIsRefused(t *testing.T) {
	u := registrytest.New(t.Cleanup)
	u.SpoilWith(func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if !strings.Contains(r.URL.Path, "/manifests/") {
			return false
		}
		_, _ = w.Write(bytes.Repeat([]byte(" "), maxManifest+1))
		return true
	})
	l := []Image{{Name: "a.test/one", Tag: "v1"}}
	if a := clientOf(t, u).Resolve(t.Context(), l, "linux/amd64")[0]; !errors.Is(a.Err, ErrSize) {
		t.Errorf("want ErrSize, got %v", a.Err)
	}
}

func TestCredentialsAreDockers(t *testing.T) {
	u := registrytest.New(t.Cleanup)
	digest, content := aLayer(t, u)
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("ops:secret"))
	u.SpoilWith(func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if r.Header.Get("Authorization") == basic {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="site"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	path := "GET /v2/one/blobs/" + digest
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	if _, err := blob(t.Context(), clientOf(t, u), digest, len(content)); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("without credentials: want 401, got %v", err)
	}
	if n := u.Times(path); n != 1 {
		t.Errorf("asked %d times without credentials, want once", n)
	}
	config := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, u.Host, strings.TrimPrefix(basic, "Basic "))
	if err := os.WriteFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := blob(t.Context(), clientOf(t, u), digest, len(content)); err != nil || !bytes.Equal(got, content) {
		t.Errorf("with credentials: got %d bytes and %v", len(got), err)
	}
}

func TestPlainHTTPIsSpokenWithLoopbackAlone(t *testing.T) {
	u := registrytest.New(t.Cleanup)
	digest, content := aLayer(t, u)
	u.SpoilWith(func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		http.Redirect(w, r, "http://registry.invalid/blob", http.StatusTemporaryRedirect)
		return true
	})
	if _, err := blob(t.Context(), clientOf(t, u), digest, len(content)); !errors.Is(err, ErrPlainHTTP) {
		t.Errorf("sent elsewhere: want ErrPlainHTTP, got %v", err)
	}
	for host, want := range map[string]bool{"localhost": true, "127.0.0.1": true, "127.9.0.1": true, "::1": true,
		"10.0.0.1": false, "a.localhost": false, "registry.local": false, "localhost.example.org": false, "": false} {
		if got := loopback(host); got != want {
			t.Errorf("loopback(%q): want %t", host, want)
		}
	}
}

func TestACutBodyGoesOnWhereItWasCut(t *testing.T) {
	u := registrytest.New(t.Cleanup)
	digest, content := aLayer(t, u)
	half, most := len(content)/2, len(content)-10
	part := func(w http.ResponseWriter, from, to int) {
		w.Header().Set("Content-Length", fmt.Sprint(len(content)-from))
		if from > 0 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(content)-1, len(content)))
			w.WriteHeader(http.StatusPartialContent)
		}
		_, _ = w.Write(content[from:to])
		w.(http.Flusher).Flush()
	}
	rest := fmt.Sprintf("bytes=%d-", half)
	type answers []func(http.ResponseWriter, *http.Request)
	cutAt := func(from, to int) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) { part(w, from, to); panic(http.ErrAbortHandler) }
	}
	status := func(code int) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	for name, tc := range map[string]struct {
		answers answers
		asked   []string // the Range of each request
		begun   int      // calls of the receiver
	}{
		"cut, cut again, three answers of 503, a refused connection": {
			answers{cutAt(0, half), cutAt(half, most), status(503), status(503), status(503), func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, cutAt(most, len(content))},
			[]string{"", rest, fmt.Sprintf("bytes=%d-", most), fmt.Sprintf("bytes=%d-", most), fmt.Sprintf("bytes=%d-", most), fmt.Sprintf("bytes=%d-", most), fmt.Sprintf("bytes=%d-", most)}, 1,
		},
		"nothing more comes": {
			answers{func(w http.ResponseWriter, r *http.Request) { part(w, 0, half); <-r.Context().Done() }, cutAt(half, len(content))},
			[]string{"", rest}, 1,
		},
		"the registry answers no ranges": {
			answers{cutAt(0, half), func(w http.ResponseWriter, _ *http.Request) { part(w, 0, len(content)) }, cutAt(0, len(content))},
			[]string{"", rest, ""}, 2,
		},
		"another range": {answers{cutAt(0, half), cutAt(half-1, len(content)), cutAt(0, len(content))}, []string{"", rest, ""}, 2},
		"the right bytes, said to be others": {
			answers{cutAt(0, half), func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", half, len(content)-1, len(content)+1))
				w.WriteHeader(http.StatusPartialContent)
				_, _ = w.Write(content[half:])
			}, cutAt(0, len(content))},
			[]string{"", rest, ""}, 2,
		},
		"gone by now":                  {answers{cutAt(0, half), status(404), cutAt(0, len(content))}, []string{"", rest, ""}, 2},
		"nothing but 503 for the rest": {answers{cutAt(0, half), status(503), status(503), status(503), status(503), cutAt(0, len(content))}, []string{"", rest, rest, rest, rest, ""}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			var asked []string
			u.SpoilWith(func(w http.ResponseWriter, r *http.Request, n int) bool {
				if !strings.Contains(r.URL.Path, "/blobs/") {
					return false
				}
				asked = append(asked, r.Header.Get("Range"))
				tc.answers[min(n, len(tc.answers)-1)](w, r)
				return true
			})
			c := clientOf(t, u)
			c.stall = 300 * time.Millisecond
			var got []byte
			begun := 0
			err := c.Blob(t.Context(), "a.test/one", digest, int64(len(content)), func(r io.Reader) (err error) {
				begun++
				got, err = io.ReadAll(r)
				return err
			})
			if err != nil || !bytes.Equal(got, content) || begun != tc.begun {
				t.Errorf("want the blob after %d beginnings, got %d bytes after %d and %v", tc.begun, len(got), begun, err)
			}
			if d := cmp.Diff(tc.asked, asked); d != "" {
				t.Errorf("ranges asked for (-want +got):\n%s", d)
			}
		})
	}
}

func TestCancellingEndsTheTries(t *testing.T) {
	u := registrytest.New(t.Cleanup)
	digest, content := aLayer(t, u)
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("interrupted")
	u.SpoilWith(func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			cancel(cause)
			w.WriteHeader(503)
			return true
		}
		return false
	})
	if _, err := blob(ctx, clientOf(t, u), digest, len(content)); !errors.Is(err, cause) || !errors.Is(err, context.Canceled) {
		t.Errorf("want the cause, got %v", err)
	}
	if n := u.Times("GET /v2/one/blobs/" + digest); n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
}

func TestResolveTellsWhatEachTagHasComeTo(t *testing.T) {
	u := registrytest.New(t.Cleanup)
	same := digestOf(t, push(t, u, "same:v1", "linux/arm64", "linux/amd64"))
	fresh := digestOf(t, push(t, u, "fresh:v1", "linux/amd64"))
	moved := digestOf(t, push(t, u, "moved:v1", "linux/amd64"))
	arm := digestOf(t, push(t, u, "arm:v1", "linux/arm64"))
	img, err := random.Image(10, 1)
	if err != nil {
		t.Fatal(err)
	}
	single, err := name.ParseReference(u.Host + "/single:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(single, img); err != nil {
		t.Fatal(err)
	}
	u.SpoilWith(func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if strings.HasPrefix(r.URL.Path, "/v2/ill/") {
			w.WriteHeader(500)
			return true
		}
		return false
	})
	var l []Image
	for _, i := range []struct{ name, digest string }{
		{"same", same}, {"fresh", ""}, {"moved", zeros}, {"gone", zeros}, {"ill", zeros}, {"arm", zeros}, {"single", zeros}, {"arm", ""},
	} {
		l = append(l, Image{Name: "a.test/" + i.name, Tag: "v1", Digest: i.digest})
	}
	type told struct {
		State  State
		Digest string
	}
	var got []told
	answers := clientOf(t, u).Resolve(t.Context(), l, "linux/amd64")
	for _, a := range answers {
		got = append(got, told{a.State(), a.Digest})
	}
	want := []told{{StateSame, same}, {StateNew, fresh}, {StateDrifted, moved}, {StateDrifted, ""}, {StateUnasked, ""}, {StateDrifted, ""}, {StateDrifted, ""}, {StateUnasked, ""}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("answers (-want +got):\n%s", d)
	}
	for n, want := range map[int]error{3: ErrGone, 5: ErrPlatform, 6: ErrNotIndex, 7: ErrPlatform} {
		if !errors.Is(answers[n].Err, want) {
			t.Errorf("%s: want %v, got %v", answers[n].Image.Name, want, answers[n].Err)
		}
	}
	if arm == moved {
		t.Fatal("two images are the same: nothing was compared")
	}
}
