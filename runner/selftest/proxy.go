package selftest

import (
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/gapproof/gapproof/runner/internal/kube"
)

// proxy stands between a run and its API server and can fail or delay whatever passes, port-forwards included. It listens on this host's
// loopback and asks for a token of its own, since it adds the administrator's credentials to what it forwards.
type proxy struct {
	server   *http.Server
	listener *trackingListener
	done     chan struct{}
	token    string
	forward  *httputil.ReverseProxy

	refusing atomic.Bool
	delay    atomic.Int64 // of each answer, in nanoseconds
}

const (
	// headerLimit bounds the wait for a request's head: both ends are on this host.
	headerLimit = 10 * time.Second
	// delayedChunks is how many pieces of a delayed stream are kept: more than a batch's answer has.
	delayedChunks = 1024
	// delayedChunk is the size of one: as much as the copying below it reads at once.
	delayedChunk = 32 << 10
)

// newProxy starts a proxy for the API server of the cluster. The caller closes it.
func newProxy(to *kube.Cluster) (*proxy, error) {
	upstream := rest.CopyConfig(to.Config)
	upstream.NextProtos = []string{"http/1.1"} // a port-forward is an upgrade, which HTTP/2 has not
	transport, err := rest.TransportFor(upstream)
	if err != nil {
		return nil, fmt.Errorf("starting the API server proxy: %w", err)
	}
	target, err := url.Parse(to.Config.Host)
	if err != nil {
		return nil, fmt.Errorf("starting the API server proxy: reading the server's address: %w", err)
	}
	socket, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("starting the API server proxy: %w", err)
	}
	p := &proxy{listener: &trackingListener{Listener: socket, conns: map[net.Conn]struct{}{}}, done: make(chan struct{}), token: rand.Text()}
	silent := log.New(io.Discard, "", 0) // what fails is told to the run, which is what is tested
	p.forward = &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1,
		ErrorLog:      silent,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = target.Host
			r.Out.Header.Del("Authorization") // ours; the transport adds the cluster's
		},
		ModifyResponse: func(r *http.Response) error {
			if stream, ok := r.Body.(io.ReadWriteCloser); ok && r.StatusCode == http.StatusSwitchingProtocols {
				r.Body = p.delayed(stream)
			}
			return nil
		},
	}
	p.server = &http.Server{Handler: p, ReadHeaderTimeout: headerLimit, ErrorLog: silent}
	go func() {
		defer close(p.done)
		_ = p.server.Serve(p.listener) // ends with close, and only with it
	}()
	return p, nil
}

// cluster is the same cluster, through the proxy.
func (p *proxy) cluster(of *kube.Cluster) (*kube.Cluster, error) {
	config := rest.AnonymousClientConfig(of.Config)
	config.Host = "http://" + p.listener.Addr().String()
	config.TLSClientConfig = rest.TLSClientConfig{}
	config.BearerToken = p.token
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making a client of the API server proxy: %w", err)
	}
	return &kube.Cluster{Config: config, Client: client, Context: of.Context, Version: of.Version}, nil
}

// ServeHTTP forwards a request, late or not at all.
func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte("Bearer "+p.token)) != 1 {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if p.refusing.Load() {
		http.Error(w, "the self-test refuses this request", http.StatusServiceUnavailable)
		return
	}
	if delay := time.Duration(p.delay.Load()); delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
			return
		}
	}
	p.forward.ServeHTTP(w, r)
}

// refuse answers every request with 503 from now on; streams that are open stay. heal ends it.
func (p *proxy) refuse() { p.refusing.Store(true) }

// cut ends every connection. A request that meets its end may fail before it is answered.
func (p *proxy) cut() { p.listener.cut() }

// slow holds back every answer for so long, those of streams that are open already too.
func (p *proxy) slow(d time.Duration) { p.delay.Store(int64(d)) }

func (p *proxy) heal() {
	p.refusing.Store(false)
	p.delay.Store(0)
}

// close ends every connection and waits for the server.
func (p *proxy) close() {
	_ = p.server.Close() // nobody is left to be told
	p.listener.cut()
	<-p.done
}

// delayed is the stream with what comes from the API server held back for the proxy's delay.
func (p *proxy) delayed(stream io.ReadWriteCloser) io.ReadWriteCloser {
	d := &delayedStream{ReadWriteCloser: stream, chunks: make(chan chunk, delayedChunks), closed: make(chan struct{})}
	go func() {
		defer close(d.chunks)
		for {
			buffer := make([]byte, delayedChunk)
			n, err := stream.Read(buffer)
			select {
			case d.chunks <- chunk{buffer[:n], err, time.Now().Add(time.Duration(p.delay.Load()))}:
			case <-d.closed:
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return d
}

type chunk struct {
	data []byte
	err  error
	due  time.Time
}

// delayedStream reads what its goroutine has read, when it is due. The goroutine ends with the stream.
type delayedStream struct {
	io.ReadWriteCloser
	chunks chan chunk
	rest   chunk
	once   sync.Once
	closed chan struct{}
}

// Read waits for a chunk and for its time.
func (d *delayedStream) Read(b []byte) (int, error) {
	for len(d.rest.data) == 0 {
		if d.rest.err != nil {
			return 0, d.rest.err
		}
		next, ok := <-d.chunks
		if !ok {
			return 0, io.ErrClosedPipe
		}
		timer := time.NewTimer(time.Until(next.due))
		select {
		case <-timer.C:
		case <-d.closed:
			timer.Stop()
			return 0, io.ErrClosedPipe
		}
		d.rest = next
	}
	n := copy(b, d.rest.data)
	d.rest.data = d.rest.data[n:]
	return n, nil
}

// Close closes the stream below.
func (d *delayedStream) Close() error {
	d.once.Do(func() { close(d.closed) })
	return d.ReadWriteCloser.Close()
}

// trackingListener knows its connections, also those that the HTTP server has handed over to an upgrade.
type trackingListener struct {
	net.Listener
	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// Accept is the listener's own, remembered.
func (l *trackingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	tracked := &trackedConn{Conn: c, listener: l}
	l.conns[tracked] = struct{}{}
	return tracked, nil
}

// cut closes every connection.
func (l *trackingListener) cut() {
	l.mu.Lock()
	var all []net.Conn
	for c := range l.conns {
		all = append(all, c)
	}
	l.mu.Unlock()
	for _, c := range all {
		_ = c.Close() // what it carried is lost, as it shall be
	}
}

type trackedConn struct {
	net.Conn
	listener *trackingListener
}

// Close forgets the connection.
func (c *trackedConn) Close() error {
	c.listener.mu.Lock()
	delete(c.listener.conns, c)
	c.listener.mu.Unlock()
	return c.Conn.Close()
}
