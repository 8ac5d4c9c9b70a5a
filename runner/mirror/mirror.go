package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
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
	// stallLimit is how long a client may take nothing of an answer: as long as an idle connection is kept. There is no limit for the whole answer,
	// which would cut a large layer on a slow link; with writeChunk a link is too slow below some 2 KiB a second.
	stallLimit = idleLimit
	// writeChunk is how much of an answer is handed to the connection between two looks at the clock: large enough that sendfile costs no more
	// calls to speak of, and a fraction of a layer.
	writeChunk = 256 << 10
	// maxHeader bounds a request's line and headers: 64 times the longest path that asks for anything, and room for a proxy's headers. Go adds 4 KiB.
	maxHeader = 32 << 10
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
	// stall is stallLimit, apart from tests. It goes by the connection's clock, not by now.
	stall time.Duration
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
	m := &Mirror{content: c, log: o.Log, now: o.Now, access: accessLog{w: o.AccessLog}, metrics: counts, stall: stallLimit}
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
		// Nothing of a body is ever read, so a limit for reading the whole request would only end the contexts of long answers. The one for
		// writing holds until an answer's first bytes, which set their own (see counter).
		WriteTimeout:   m.stall,
		MaxHeaderBytes: maxHeader,
		// "OPTIONS *" is a request like others: refused, and in the access log.
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(m.log.Handler(), slog.LevelWarn),
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
	counted := &counter{ResponseWriter: w, control: http.NewResponseController(w), stall: m.stall}
	if r.Body != nil && r.Body != http.NoBody {
		// No request that is answered has a body. Reading it, which the server does before it answers and before it closes, would let a client
		// that never sends it hold the connection.
		w.Header().Set("Connection", "close")
		_ = counted.control.SetReadDeadline(time.Unix(1, 0)) // a writer that is no connection has none to set
	}
	asked := m.answer(counted, r, &a)
	took := m.now().Sub(start)
	a.Status, a.Bytes, a.Seconds = counted.status, counted.bytes, took.Seconds()
	a.bound()
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
	ranged := &rangeAnswer{ResponseWriter: w}
	http.ServeContent(ranged, r, "", info.ModTime(), f)
	if ranged.refused {
		h.Del("Docker-Content-Digest") // it is no digest of what is sent now
		h.Set("Content-Range", "bytes */"+strconv.FormatInt(info.Size(), 10))
		faultRange.write(w, r.Header.Get("Range"))
	}
}

// rangeAnswer holds back a refusal of the range, which net/http words in plain text.
type rangeAnswer struct {
	http.ResponseWriter
	refused bool
}

func (a *rangeAnswer) WriteHeader(status int) {
	if status == http.StatusRequestedRangeNotSatisfiable {
		a.refused = true
		return
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *rangeAnswer) Write(p []byte) (int, error) {
	if a.refused {
		return len(p), nil
	}
	return a.ResponseWriter.Write(p)
}

// ReadFrom keeps the connection's sendfile path for layers; a refusal is never read from anything.
func (a *rangeAnswer) ReadFrom(r io.Reader) (int64, error) { return io.Copy(a.ResponseWriter, r) }

// counter notes the status and the body bytes of an answer, and gives the client stall for each part of it, from its headers on.
type counter struct {
	http.ResponseWriter
	control *http.ResponseController
	stall   time.Duration
	status  int
	bytes   int64
}

// extend lets the next part of the answer take until stall from now.
func (c *counter) extend() {
	_ = c.control.SetWriteDeadline(time.Now().Add(c.stall)) // a writer that is no connection has none to set
}

func (c *counter) WriteHeader(status int) {
	if c.status == 0 {
		c.status = status
	}
	c.extend()
	c.ResponseWriter.WriteHeader(status)
}

func (c *counter) Write(p []byte) (int, error) {
	if c.status == 0 {
		c.status = http.StatusOK
	}
	written := 0
	for {
		part := p[written:min(len(p), written+writeChunk)]
		c.extend()
		n, err := c.ResponseWriter.Write(part)
		written += n
		c.bytes += int64(n)
		if err != nil || written == len(p) {
			return written, err
		}
	}
}

// ReadFrom keeps the connection's sendfile path for layers, which needs a file below no more than one limit (net.TCPConn.ReadFrom).
func (c *counter) ReadFrom(r io.Reader) (int64, error) {
	if c.status == 0 {
		c.status = http.StatusOK
	}
	var read int64
	left := int64(math.MaxInt64)
	if limited, ok := r.(*io.LimitedReader); ok {
		r, left = limited.R, limited.N
		defer func() { limited.N -= read }()
	}
	for {
		c.extend()
		want := min(left-read, writeChunk)
		n, err := io.Copy(c.ResponseWriter, io.LimitReader(r, want))
		read += n
		c.bytes += n
		if err != nil || n < want || read == left {
			return read, err
		}
	}
}
