package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gapproof/gapproof/images"
)

const (
	// headerLimit is how long a client may take to send its request line and headers: a node on the lab network needs
	// milliseconds, and a stuck one must not hold a connection.
	headerLimit = 10 * time.Second
	// idleLimit is how long a connection may wait for its next request: longer than a node takes between the layers of one image.
	idleLimit = 2 * time.Minute
	// shutdownGrace is how long answers under way may take to end once Serve is told to stop: a large layer over the lab
	// network takes a second or two.
	shutdownGrace = 5 * time.Second
)

// Options are what a [Mirror] can do without.
type Options struct {
	// AccessLog receives one JSON line per request, each in one Write. Nil means that accesses are not kept.
	AccessLog io.Writer
	// Log receives what an operator should know, such as a corrupt blob. Nil means none.
	Log *slog.Logger
	// Now is the clock of the access log. Nil means time.Now.
	Now func() time.Time
	// Metrics is where the mirror's collectors are registered: once, so two mirrors need two registries. Nil means that nothing is counted.
	Metrics prometheus.Registerer
}

// Mirror answers pulls of the locked images. It may be used by any number of goroutines.
type Mirror struct {
	content *content
	log     *slog.Logger
	now     func() time.Time
	access  accessLog
	metrics *metrics
}

// New reads and verifies every manifest the lock reaches in the lab directory labDir. It reports all faults at once: a manifest
// that is missing, or one that does not match its digest ([ErrCorrupt]). Blobs are verified when they are first asked for.
// The Mirror keeps the layout folder open until [Mirror.Close].
func New(labDir string, lock *images.Lock, o Options) (*Mirror, error) {
	c, err := load(labDir, lock)
	if err != nil {
		return nil, fmt.Errorf("opening the lab's images for the mirror: %w", err)
	}
	counts, err := newMetrics(o.Metrics)
	if err != nil {
		return nil, errors.Join(err, c.root.Close())
	}
	m := &Mirror{content: c, log: o.Log, now: o.Now, access: accessLog{w: o.AccessLog}, metrics: counts}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	if m.now == nil {
		m.now = time.Now
	}
	return m, nil
}

// Close lets go of the layout folder. Requests after it fail.
func (m *Mirror) Close() error {
	if err := m.content.root.Close(); err != nil {
		return fmt.Errorf("closing the image layout: %w", err)
	}
	return nil
}

// Serve answers on l until ctx ends, then lets answers under way end, and returns nil. It closes l. For TLS, l is a [tls.Listener].
func (m *Mirror) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler:           m,
		ReadHeaderTimeout: headerLimit,
		IdleTimeout:       idleLimit,
		ErrorLog:          slog.NewLogLogger(m.log.Handler(), slog.LevelWarn),
	}
	stopped := make(chan error, 1)
	go func() { stopped <- server.Serve(l) }()
	select {
	case err := <-stopped:
		return fmt.Errorf("serving on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer cancel()
	err := server.Shutdown(grace)
	if errors.Is(err, context.DeadlineExceeded) {
		err = server.Close() // a client that does not read must not keep the mirror alive
	}
	if served := <-stopped; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	if err != nil {
		return fmt.Errorf("stopping to serve on %s: %w", l.Addr(), err)
	}
	return nil
}

// ServeHTTP implements [http.Handler].
func (m *Mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := m.now()
	a := Access{Time: start.UTC(), Remote: r.RemoteAddr, Method: r.Method, NS: r.URL.Query().Get("ns")}
	counted := &counter{ResponseWriter: w}
	asked := m.answer(counted, r, &a)
	took := m.now().Sub(start)
	a.Status, a.Bytes, a.Seconds = counted.status, counted.bytes, took.Seconds()
	m.metrics.count(asked, a.Status, a.Bytes, took)
	if err := m.access.write(a); err != nil {
		// The answer is already sent. The gap in the evidence must at least be seen.
		m.log.Error("access not recorded", "err", err, "repository", a.Repository, "reference", a.Reference)
	}
}

// answer answers r and notes in a what it found. It returns what r asked for.
func (m *Mirror) answer(w http.ResponseWriter, r *http.Request, a *Access) kind {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	want, bad := parsePath(r.URL.Path)
	if bad != faultNone {
		a.Path = r.URL.Path
	}
	a.Repository, a.Reference = want.repository, want.reference
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		a.Path = r.URL.Path
		faultReadOnly.write(w, r.Method)
		return want.kind
	}
	if bad != faultNone {
		bad.write(w, r.URL.Path)
		return want.kind
	}
	if want.kind == kindBase {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", "2")
		_, _ = io.WriteString(w, "{}")
		return want.kind
	}
	name := want.repository
	if a.NS != "" {
		name = a.NS + "/" + name
	}
	repo, bad := m.content.find(a.NS, want.repository)
	if bad != faultNone {
		bad.write(w, name)
		return want.kind
	}
	if want.kind == kindManifest {
		m.answerManifest(w, r, repo, name, want.reference, a)
	} else {
		m.answerBlob(w, r, repo, name, want.reference, a)
	}
	return want.kind
}

func (m *Mirror) answerManifest(w http.ResponseWriter, r *http.Request, repo *repository, name, reference string, a *Access) {
	digest := reference
	if !strings.Contains(reference, ":") {
		digest = repo.tags[reference]
	}
	if !repo.manifests[digest] {
		faultManifest.write(w, name+" "+reference)
		return
	}
	a.Digest = digest
	found := m.content.manifests[digest]
	h := w.Header()
	h.Set("Content-Type", string(found.mediaType))
	h.Set("Content-Length", strconv.Itoa(len(found.raw)))
	h.Set("Docker-Content-Digest", digest)
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodGet {
		_, _ = w.Write(found.raw)
	}
}

func (m *Mirror) answerBlob(w http.ResponseWriter, r *http.Request, repo *repository, name, digest string, a *Access) {
	if !repo.blobs[digest] {
		faultBlob.write(w, name+"@"+digest)
		return
	}
	f, err := m.content.open(digest)
	if err != nil {
		m.log.Error("blob not readable", "digest", digest, "err", err)
		faultUnreadable.write(w, digest)
		return
	}
	defer f.Close()
	info, err := m.content.verify(digest, f)
	if err != nil {
		m.log.Error("blob refused", "digest", digest, "err", err)
		if errors.Is(err, ErrCorrupt) {
			faultCorrupt.write(w, digest)
		} else {
			faultUnreadable.write(w, digest)
		}
		return
	}
	a.Digest = digest
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Docker-Content-Digest", digest)
	h.Set("Etag", strconv.Quote(digest)) // for If-Range: a resumed download continues the same bytes
	http.ServeContent(w, r, "", info.ModTime(), f)
}

// counter notes the status and the body bytes of an answer.
type counter struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (c *counter) WriteHeader(status int) {
	if c.status == 0 {
		c.status = status
	}
	c.ResponseWriter.WriteHeader(status)
}

func (c *counter) Write(p []byte) (int, error) {
	if c.status == 0 {
		c.status = http.StatusOK
	}
	n, err := c.ResponseWriter.Write(p)
	c.bytes += int64(n)
	return n, err
}

// ReadFrom keeps the connection's sendfile path for layers.
func (c *counter) ReadFrom(r io.Reader) (int64, error) {
	if c.status == 0 {
		c.status = http.StatusOK
	}
	n, err := io.Copy(c.ResponseWriter, r)
	c.bytes += n
	return n, err
}
