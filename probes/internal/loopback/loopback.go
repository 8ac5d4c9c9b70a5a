// Package loopback is what an agent's and a witness's service have in common: a socket on the pod's loopback, a bearer token, and answers
// of JSON lines.
//
// [Listen] opens the socket, [New] puts a token before a handler, [Service.Serve] answers until its context ends. [NewWriter] writes the
// lines of one answer.
//
// The trap: a request with a wrong token gets the status 401 and nothing else, and its body is not read; so the handler may take for
// granted that whoever asks knows the token, and must all the same bound what it reads.
package loopback

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gapproof/gapproof/probes/internal/stream"
)

// Limits of a service.
const (
	// MinToken is the shortest bearer token: 128 bits written in hexadecimal.
	MinToken = 32
	// headerTimeout bounds the wait for a request's head; loopback and the port-forward deliver it at once.
	headerTimeout = 10 * time.Second
	// writeTimeout bounds one write of an answer. A reader that takes nothing for so long has gone without closing.
	writeTimeout = 30 * time.Second
	// maxHeader holds the token and what a Go client adds; the default would be 1 MiB for anyone on the pod's loopback.
	maxHeader = 8 << 10
	// stopGrace is what requests get to write their last lines when the service stops; the process ends within a second.
	stopGrace = 500 * time.Millisecond
)

// CheckToken says what keeps s from being a bearer token, which has at least [MinToken] visible characters; it never quotes it.
func CheckToken(s string) error {
	if len(s) < MinToken {
		return fmt.Errorf("token: %d characters, want at least %d", len(s), MinToken)
	}
	if i := strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }); i >= 0 {
		return fmt.Errorf("token: character %d is not a visible ASCII character", i)
	}
	return nil
}

// Listen opens a socket on the loopback; port zero leaves the choice to the kernel.
func Listen(ctx context.Context, port uint16) (net.Listener, error) {
	var config net.ListenConfig
	config.SetMultipathTCP(false) // nothing but the port-forward's plain TCP comes here
	return config.Listen(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
}

// Service lets requests with the token through to a handler.
type Service struct {
	tokenHash [sha256.Size]byte
	handler   http.Handler
	log       *slog.Logger
	requests  sync.WaitGroup
}

// New is a service of the handler behind a token that has passed [CheckToken]. The log gets one line per request at Debug, never a token.
func New(token string, handler http.Handler, log *slog.Logger) *Service {
	return &Service{tokenHash: sha256.Sum256([]byte(token)), handler: handler, log: log}
}

// Serve answers requests on l until ctx ends; then the requests' contexts end with the cause stopping, and l is closed. It returns when
// every request has ended; the error is nil unless l failed by itself.
func (s *Service) Serve(ctx context.Context, l net.Listener, stopping error) error {
	// Requests get a context of their own, so that what they tell of its end is why.
	base, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	server := &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		ReadHeaderTimeout: headerTimeout,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return base },
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		cancel(stopping)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
		defer cancel()
		if server.Shutdown(grace) != nil {
			_ = server.Close() // whatever is left
		}
	})
	err := server.Serve(l)
	if stop() { // the socket failed, not the context
		_ = server.Close() // its own error is the one to tell
	} else {
		<-stopped
	}
	s.requests.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func (s *Service) serve(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	defer s.requests.Done()
	if !s.authorized(r) {
		// Closing keeps the server from reading the rest of the body to reuse the connection.
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusUnauthorized)
		s.log.Debug("request without the token", "path", r.URL.Path)
		return
	}
	began := time.Now()
	s.handler.ServeHTTP(w, r)
	s.log.Debug("request answered", "path", r.URL.Path, "took", time.Since(began))
}

// authorized compares digests, which have one length, in constant time.
func (s *Service) authorized(r *http.Request) bool {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	got := sha256.Sum256([]byte(token))
	return subtle.ConstantTimeCompare(got[:], s.tokenHash[:]) == 1 && ok
}

// Writer writes the lines of an answer, each within a limit. It is not for concurrent use.
type Writer struct {
	control *http.ResponseController
	encoder *json.Encoder
	err     error // the first; nothing is written after it
}

// NewWriter is a writer of the answer w; the caller calls Done at its end.
func NewWriter(w http.ResponseWriter) *Writer {
	w.Header().Set("Content-Type", stream.MediaType)
	return &Writer{control: http.NewResponseController(w), encoder: json.NewEncoder(w)}
}

// Write writes one line; the error is the first of all calls.
func (w *Writer) Write(line stream.Line) error {
	if w.err == nil {
		w.err = errors.Join(w.control.SetWriteDeadline(time.Now().Add(writeTimeout)), w.encoder.Encode(line))
	}
	return w.err
}

// Flush sends what was written; the error is the first of all calls.
func (w *Writer) Flush() error {
	if w.err == nil {
		w.err = w.control.Flush()
	}
	return w.err
}

// End writes the last line. Whether it went is for nobody here: a caller without it knows that the answer was cut off.
func (w *Writer) End(end stream.End) {
	if w.Write(stream.Line{End: &end}) == nil {
		_ = w.Flush()
	}
}

// Done lifts the deadline, which would else hold for the connection's next answer.
func (w *Writer) Done() {
	_ = w.control.SetWriteDeadline(time.Time{}) // fails only on a connection that has gone
}
