package mirror

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"

	"github.com/gapproof/gapproof/images"
)

// soon is how long an answer may take that waits for nobody, on a busy machine: far less than headerLimit, the least of the server's limits.
const soon = 8 * time.Second

// serving runs m on a listener until the test ends, and returns its address.
func serving(t testing.TB, m *Mirror) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- m.Serve(ctx, smallBuffers{listener}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return listener.Addr().String()
}

// buffer is what a connection of these tests holds on either side: little, so that the server learns soon of a client that takes nothing.
const buffer = 64 << 10

// smallBuffers gives every connection a small send buffer.
type smallBuffers struct{ net.Listener }

func (l smallBuffers) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return c, c.(*net.TCPConn).SetWriteBuffer(buffer)
}

// raw sends text and returns what the server answers until it closes, which it must soon.
func raw(t testing.TB, address, text string) string {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(soon)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(c)
	if err != nil {
		t.Fatalf("the connection was not closed: %v; until then: %.200q", err, answer)
	}
	return string(answer)
}

func TestNothingThatAClientChoosesMakesALongLine(t *testing.T) {
	access := &syncBuffer{}
	m := newMirror(t, newLab(t, pause), Options{AccessLog: access})
	const many = 900_000
	for name, tc := range map[string]struct {
		method, path, ns string
		want             Access
	}{
		"the path":            {"GET", "/" + strings.Repeat("<", many), "", Access{Method: "GET", Path: "/" + strings.Repeat("<", maxKept-1), Cut: many + 1 - maxKept, Status: 414}},
		"the path of a write": {"PUT", "/" + strings.Repeat("\x00", many), "", Access{Method: "PUT", Path: "/" + strings.Repeat("\x00", maxKept-1), Cut: many + 1 - maxKept, Status: 405}},
		"the method":          {strings.Repeat("&", many), "/v2/", "", Access{Method: strings.Repeat("&", maxKept), Path: "/v2/", Cut: many - maxKept, Status: 405}},
		"the registry": {"GET", "/v2/pause/manifests/3.10", strings.Repeat("\x01", many),
			Access{Method: "GET", Repository: "pause", Reference: "3.10", NS: strings.Repeat("\x01", maxKept), Cut: many - maxKept, Status: 404}},
		"all of them": {strings.Repeat("&", many), strings.Repeat("<", many), strings.Repeat(">", many),
			Access{Method: strings.Repeat("&", maxKept), NS: strings.Repeat(">", maxKept), Path: strings.Repeat("<", maxKept), Cut: 3 * (many - maxKept), Status: 405}},
		"the longest tag of the longest name": {"GET", "/v2/" + strings.Repeat("a", maxRepository) + "/manifests/" + strings.Repeat("b", 128), "",
			Access{Method: "GET", Repository: strings.Repeat("a", maxRepository), Reference: strings.Repeat("b", 128), Status: 404}},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest("GET", "/", nil)
			r.Method, r.URL.Path, r.URL.RawQuery = tc.method, tc.path, "ns="+queryEscape(tc.ns)
			w := httptest.NewRecorder()
			before := access.size()
			m.ServeHTTP(w, r)
			if w.Code != tc.want.Status {
				t.Errorf("status %d, want %d", w.Code, tc.want.Status)
			}
			if n := w.Body.Len(); n > 8*maxKept {
				t.Errorf("it was answered with %d bytes, as if what was asked for were echoed whole", n)
			}
			code(t, w.Body.Bytes())
			if line := access.size() - before; line > maxAccessLine/128 {
				t.Errorf("its line has %d bytes, want at most %d: the reader takes %d", line, maxAccessLine/128, maxAccessLine)
			}
			all := access.read(t)
			got := all[len(all)-1]
			got.Time, got.Remote, got.Bytes, got.Seconds = time.Time{}, "", 0, 0
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("access (-want +got):\n%s", diff)
			}
		})
	}
}

// queryEscape is url.QueryEscape for the few characters of this test, of which there are many.
func queryEscape(s string) string {
	return strings.NewReplacer("\x01", "%01", ">", "%3E").Replace(s)
}

func (s *syncBuffer) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Len()
}

func TestKeepSplitsNoCharacter(t *testing.T) {
	for _, width := range []string{"a", "é", "…", "😀"} {
		for lead := range 4 {
			s := strings.Repeat("a", lead) + strings.Repeat(width, maxKept)
			kept := keep(s)
			if len(kept) > maxKept || len(kept) <= maxKept-4 || strings.ToValidUTF8(kept, "") != kept || !strings.HasPrefix(s, kept) {
				t.Errorf("of %d and many %q, %d bytes were kept: %q", lead, width, len(kept), kept)
			}
		}
	}
	if nonsense := strings.Repeat("\x80", maxKept+1); len(keep(nonsense)) < maxKept-4 {
		t.Errorf("of bytes that are no text, %d were kept", len(keep(nonsense)))
	}
}

func TestALongRequestLineOnTheWire(t *testing.T) {
	access := &syncBuffer{}
	address := serving(t, newMirror(t, newLab(t, pause), Options{AccessLog: access}))
	const head = " HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
	if got := raw(t, address, "GET /v2/"+strings.Repeat("<", maxHeader/2)+head); !strings.HasPrefix(got, "HTTP/1.1 414 ") || len(got) > 8*maxKept {
		t.Errorf("a path longer than any: %d bytes, %.200q; want 414 in few bytes", len(got), got)
	}
	// Go refuses it while it reads, and the handler never learns of it.
	if got := raw(t, address, "GET /v2/"+strings.Repeat("<", maxHeader+8<<10)+head); !strings.HasPrefix(got, "HTTP/1.1 431 ") {
		t.Errorf("more than the server reads: %.200q, want 431", got)
	}
	if got := raw(t, address, "OPTIONS *"+head); !strings.HasPrefix(got, "HTTP/1.1 405 ") {
		t.Errorf("OPTIONS *: %.200q, want 405", got)
	}
	var statuses []int
	for _, a := range access.read(t) {
		statuses = append(statuses, a.Status)
	}
	if diff := cmp.Diff([]int{414, 405}, statuses); diff != "" {
		t.Errorf("statuses in the access log (-want +got):\n%s", diff)
	}
}

func TestABodyIsNeverWaitedFor(t *testing.T) {
	l := newLab(t, pause)
	access := &syncBuffer{}
	address := serving(t, newMirror(t, l, Options{AccessLog: access}))
	for name, tc := range map[string]struct{ request, status string }{
		"a write whose body does not come":         {"POST /v2/pause/blobs/uploads/ HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n", "405"},
		"a write whose body begins":                {"PUT /v2/pause/manifests/3.10 HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345", "405"},
		"a write in chunks of which none comes":    {"POST /v2/pause/blobs/uploads/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "405"},
		"a write that is larger than any":          {"PUT /v2/pause/manifests/3.10 HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999999\r\n\r\n12345", "405"},
		"a write that asks whether it may":         {"PUT /v2/pause/manifests/3.10 HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n", "405"},
		"a pull with a body that does not come":    {"GET /v2/pause/manifests/3.10 HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n", "200"},
		"a look with a body that does not come":    {"HEAD /v2/pause/manifests/3.10 HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n", "200"},
		"a pull beside a second one in its body":   {"GET /v2/ HTTP/1.1\r\nHost: a\r\nContent-Length: 18\r\n\r\nGET /v2/ HTTP/1.1\r\n", "200"},
		"a write without a body, and it may close": {"DELETE /v2/pause/manifests/3.10 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "405"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := raw(t, address, tc.request); !strings.HasPrefix(got, "HTTP/1.1 "+tc.status+" ") || strings.Count(got, "HTTP/1.1") != 1 {
				t.Errorf("answered %.200q, want one answer with status %s", got, tc.status)
			}
		})
	}
	if n := len(access.read(t)); n != 9 {
		t.Errorf("%d lines in the access log, want one for each of 9 requests", n)
	}
	// A connection whose requests have no body stays.
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answers := bufio.NewReader(c)
	for range 3 {
		if _, err := io.WriteString(c, "DELETE /v2/pause/manifests/3.10 HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil || res.Close {
			t.Errorf("a refusal of a request without a body closes the connection (%v)", err)
		}
	}
}

// largeLab has one image whose layer is many times what a connection of these tests holds.
func largeLab(t testing.TB) (l *lab, layer string, size int64) {
	t.Helper()
	l = &lab{dir: t.TempDir(), lock: &images.Lock{Version: images.LockVersion, Platform: "linux/amd64"}}
	path, err := layout.Write(images.LayoutDir(l.dir), empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	image, err := random.Image(8<<20, 1, random.WithSource(rand.NewSource(seed)))
	if err != nil {
		t.Fatal(err)
	}
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{
		Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}},
	})
	if err := path.AppendIndex(index); err != nil {
		t.Fatal(err)
	}
	l.lock.Images = []images.Image{{Name: "a.example/large", Tag: "v1", Digest: digestOf(t, index)}}
	layer = layers(t, image)[0]
	info, err := os.Stat(l.blob(layer))
	if err != nil {
		t.Fatal(err)
	}
	return l, layer, info.Size()
}

// pullSlowly asks for a layer over a connection that buffers little.
func pullSlowly(t testing.TB, address, layer string) (*net.TCPConn, *http.Response) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.(*net.TCPConn).SetReadBuffer(buffer); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(c, "GET /v2/large/blobs/%s HTTP/1.1\r\nHost: a\r\n\r\n", layer); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn), res
}

func TestAClientThatTakesNothingIsLetGo(t *testing.T) {
	l, layer, size := largeLab(t)
	access := &syncBuffer{}
	m := newMirror(t, l, Options{AccessLog: access})
	m.stall = 200 * time.Millisecond
	pullSlowly(t, serving(t, m), layer)
	// Nothing is read on. The line is written once the mirror has given up.
	deadline, tick := time.After(soon), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for len(access.read(t)) == 0 {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("the answer is still under way after %s, with a limit of %s", soon, m.stall)
		}
	}
	if got := access.read(t)[0]; got.Status != 200 || got.Bytes <= 0 || got.Bytes >= size {
		t.Errorf("access %+v, want status 200 and some of %d bytes", got, size)
	}
}

func TestASlowClientGetsAllOfALayer(t *testing.T) {
	l, layer, size := largeLab(t)
	access := &syncBuffer{}
	m := newMirror(t, l, Options{AccessLog: access})
	m.stall = time.Second
	_, res := pullSlowly(t, serving(t, m), layer)
	var got bytes.Buffer
	start := time.Now()
	tick := time.NewTicker(10 * time.Millisecond) // 3 MiB a second: a twelfth of the limit for each part, almost thrice the limit for all
	defer tick.Stop()
	for got.Len() < int(size) {
		<-tick.C
		if _, err := io.CopyN(&got, res.Body, min(32<<10, size-int64(got.Len()))); err != nil {
			t.Fatalf("cut off after %d of %d bytes and %s: %v", got.Len(), size, time.Since(start), err)
		}
	}
	if took := time.Since(start); took < 2*m.stall {
		t.Fatalf("it took %s, which shows nothing of a limit of %s", took, m.stall)
	}
	if h, _, err := v1.SHA256(&got); err != nil || h.String() != layer {
		t.Errorf("it got %s (%v), want %s", h, err, layer)
	}
}

// readers counts what is read by ReadFrom.
type readers struct {
	*httptest.ResponseRecorder
	seen []io.Reader
}

func (r *readers) ReadFrom(from io.Reader) (int64, error) {
	r.seen = append(r.seen, from)
	return io.Copy(r.ResponseRecorder, from)
}

func TestTheConnectionSeesAFileBelowOneLimit(t *testing.T) {
	l := newLab(t, pause)
	m := newMirror(t, l, Options{})
	w := &readers{ResponseRecorder: httptest.NewRecorder()}
	m.ServeHTTP(w, httptest.NewRequest("GET", "/v2/pause/blobs/"+layers(t, l.image[pause])[0], nil))
	if len(w.seen) == 0 {
		t.Fatal("the layer was not handed to the connection to read from")
	}
	for _, r := range w.seen {
		limited, ok := r.(*io.LimitedReader)
		if !ok {
			t.Fatalf("it was handed a %T, want a file below one limit, which sendfile takes", r)
		}
		if _, ok := limited.R.(*os.File); !ok {
			t.Errorf("below the limit is a %T, want a file", limited.R)
		}
	}
}
