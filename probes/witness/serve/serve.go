// Package serve is the service of a node's witness: it lets a run say what to watch and ask what was seen.
//
// [New] puts a [Kernel] behind a bearer token; [Service.Serve] answers on a socket from [Listen], which is on the pod's loopback alone, so
// that only the API server's port-forward reaches it. Requests and answers are JSON lines as those of an agent:
//
//	GET  /v1/health      the node, its kernel, the level of evidence and the process's BootID
//	POST /v1/adopt       one pod per line: those the witness speaks for from now on, in place of those before
//	POST /v1/watch       one flow per line
//	POST /v1/sightings   one attempt ID per line; their sightings so far, one per line
//	POST /v1/forget      one attempt ID per line; their flows are watched no more
//	POST /v1/follow      no lines; one attempt ID per line as the kernel drops a request of it, until the caller goes
//
// A request with a wrong token gets the status 401 and nothing else. A request is acted on as a whole or not at all: a faulty line, or a
// line too many, refuses it.
//
// The trap: an answer without a sighting would read the same from a process that was never told of the attempt, such as one that was
// restarted. So every request but the one for health names the BootID that it means, and any other process answers 409.
package serve

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/probes/internal/loopback"
	"github.com/gapproof/gapproof/probes/internal/stream"
	"github.com/gapproof/gapproof/probes/witness"
)

// DefaultPort is where a witness listens: beside the agent's, which has the same reasons.
const DefaultPort = 4371

// MaxBody bounds one request: as many lines as one may have, each as long as an ID written out for a scenario, with a flow around it.
const MaxBody = stream.MaxBatch * 512

// Kernel is what watches; a *witness.Witness is one. Its methods are called by many goroutines at once.
type Kernel interface {
	Level() probes.Level
	Adopt(pods []witness.Pod) error
	Watch(flows []probes.Flow) error
	Sightings(ids []string) ([]probes.Sighting, error)
	Forget(ids []string)
	// Follow tells of watched attempts as the kernel drops requests of theirs, until ctx ends or told fails.
	Follow(ctx context.Context, told func(ids []string) error) error
}

// Options holds what a Service may be told; the zero value is good.
type Options struct {
	// Release is the running kernel's, told in the health.
	Release string
	// Version is the build's version, told in the health.
	Version string
	// Fault says why the kernel is watched less than it could be, told in the health.
	Fault string
	// Log gets one line per request at Debug; nil discards. Tokens are never logged.
	Log *slog.Logger
}

// Service serves one node's witness.
type Service struct {
	token  string
	kernel Kernel
	health probes.WitnessHealth
	log    *slog.Logger
}

// errStopping is why a request is answered no more when the service ends.
var errStopping = errors.New("witness is stopping")

// New is a service for the node that answers requests with the bearer token.
func New(node, token string, k Kernel, o Options) (*Service, error) {
	if err := loopback.CheckToken(token); err != nil {
		return nil, fmt.Errorf("making the witness's service: %w", err)
	}
	if node == "" {
		return nil, errors.New("making the witness's service: node: is required")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{token: token, kernel: k, log: o.Log, health: probes.WitnessHealth{
		Node: node, BootID: rand.Text(), Kernel: o.Release, Level: k.Level(), Fault: o.Fault, Version: o.Version,
	}}, nil
}

// Listen opens the witness's socket on the loopback; port zero leaves the choice to the kernel.
func Listen(ctx context.Context, port uint16) (net.Listener, error) {
	l, err := loopback.Listen(ctx, port)
	if err != nil {
		return nil, fmt.Errorf("opening the witness's socket: %w", err)
	}
	return l, nil
}

// Serve answers requests on l until ctx ends, and closes l. It returns when every request has ended; the error is nil unless l failed by
// itself.
func (s *Service) Serve(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+stream.PathHealth, s.serveHealth)
	mux.HandleFunc("POST "+stream.PathAdopt, s.booted(s.serveAdopt))
	mux.HandleFunc("POST "+stream.PathWatch, s.booted(s.serveWatch))
	mux.HandleFunc("POST "+stream.PathSightings, s.booted(s.serveSightings))
	mux.HandleFunc("POST "+stream.PathForget, s.booted(s.serveForget))
	mux.HandleFunc("POST "+stream.PathFollow, s.booted(s.serveFollow))
	if err := loopback.New(s.token, mux, s.log).Serve(ctx, l, errStopping); err != nil {
		return fmt.Errorf("serving the witness: %w", err)
	}
	return nil
}

// booted refuses requests that mean another process.
func (s *Service) booted(handle http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get(stream.BootHeader); got != s.health.BootID {
			http.Error(w, fmt.Sprintf("the witness was started anew: it is %s, asked was %q", s.health.BootID, got), http.StatusConflict)
			return
		}
		handle(w, r)
	}
}

func (s *Service) serveHealth(w http.ResponseWriter, _ *http.Request) {
	body, err := json.Marshal(s.health)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body) // a caller that has gone needs no answer
}

func (s *Service) serveAdopt(w http.ResponseWriter, r *http.Request) {
	answer(w, r, decodePod, func(pods []witness.Pod) ([]probes.Sighting, error) { return nil, s.kernel.Adopt(pods) })
}

func (s *Service) serveWatch(w http.ResponseWriter, r *http.Request) {
	answer(w, r, decodeFlow, func(flows []probes.Flow) ([]probes.Sighting, error) { return nil, s.kernel.Watch(flows) })
}

func (s *Service) serveSightings(w http.ResponseWriter, r *http.Request) {
	answer(w, r, decodeID, s.kernel.Sightings)
}

func (s *Service) serveForget(w http.ResponseWriter, r *http.Request) {
	answer(w, r, decodeID, func(ids []string) ([]probes.Sighting, error) {
		s.kernel.Forget(ids)
		return nil, nil
	})
}

// serveFollow answers until the caller goes: its head at once, then each drop as it comes. Where the service or the kernel ends first, a fault
// says so, and there is no end: the caller must not take silence for packets that live.
func (s *Service) serveFollow(w http.ResponseWriter, r *http.Request) {
	out := loopback.NewWriter(w)
	defer out.Done()
	if out.Flush() != nil {
		return
	}
	err := s.kernel.Follow(r.Context(), func(ids []string) error {
		for _, id := range ids {
			if err := out.Write(stream.Line{Dropped: id}); err != nil {
				return err
			}
		}
		return out.Flush()
	})
	// To a caller that has gone nothing more is written; this is not read then.
	if out.Write(stream.Line{Fault: &stream.Fault{Status: http.StatusServiceUnavailable, Message: fmt.Sprint(err)}}) == nil {
		_ = out.Flush()
	}
}

// answer reads the request's lines, has them acted on and writes the sightings that this gives.
func answer[T any](w http.ResponseWriter, r *http.Request, decode func([]byte) (T, error), act func([]T) ([]probes.Sighting, error)) {
	values, status, err := readLines(http.MaxBytesReader(w, r.Body, MaxBody), decode)
	if err != nil {
		http.Error(w, err.Error(), status)
		return
	}
	sightings, err := act(values)
	if err != nil {
		status := http.StatusInternalServerError
		if errors.Is(err, witness.ErrFull) {
			status = http.StatusInsufficientStorage
		}
		http.Error(w, err.Error(), status)
		return
	}
	out := loopback.NewWriter(w)
	defer out.Done()
	for i := range sightings {
		if out.Write(stream.Line{Sighting: &sightings[i]}) != nil {
			return
		}
	}
	end := stream.End{Lines: len(values)}
	if sightings != nil {
		end.Lines = len(sightings)
	}
	out.End(end)
}

// readLines reads one value per line; the status goes with the error.
func readLines[T any](body io.Reader, decode func([]byte) (T, error)) (values []T, status int, err error) {
	in := stream.NewReader(body, stream.MaxRequestLine)
	var large *http.MaxBytesError
	for {
		line, err := in.Next()
		switch {
		case errors.Is(err, io.EOF):
			return values, http.StatusOK, nil
		case errors.Is(err, stream.ErrLineTooLong), errors.As(err, &large):
			return nil, http.StatusRequestEntityTooLarge, err
		case err != nil:
			return nil, http.StatusBadRequest, fmt.Errorf("reading the request: %w", err)
		case len(values) == stream.MaxBatch:
			return nil, http.StatusRequestEntityTooLarge, fmt.Errorf("reading the request: more than %d lines", stream.MaxBatch)
		}
		v, err := decode(line)
		if err != nil {
			return nil, http.StatusBadRequest, fmt.Errorf("line %d: %w", in.Number(), err)
		}
		values = append(values, v)
	}
}

func decodePod(line []byte) (witness.Pod, error) {
	var p stream.Pod
	if err := stream.Decode(line, &p); err != nil {
		return witness.Pod{}, fmt.Errorf("reading a pod: %w", err)
	}
	if p.Identity == "" || p.NetNS == 0 {
		return witness.Pod{}, fmt.Errorf("reading a pod: identity %q and netns %d are both required", p.Identity, p.NetNS)
	}
	return witness.Pod{Identity: p.Identity, NetNS: p.NetNS}, nil
}

func decodeFlow(line []byte) (probes.Flow, error) {
	var f probes.Flow
	if err := stream.Decode(line, &f); err != nil {
		return probes.Flow{}, fmt.Errorf("reading a flow: %w", err)
	}
	switch {
	case f.AttemptID == "":
		return probes.Flow{}, errors.New("reading a flow: attemptID: is required")
	case f.Protocol == probes.ProtocolUnknown || f.Protocol == probes.DNS:
		return probes.Flow{}, fmt.Errorf("reading a flow: protocol: %s is not one that packets carry", f.Protocol)
	case !f.Source.IsValid() || f.Source.Port() == 0:
		return probes.Flow{}, fmt.Errorf("reading a flow: source: %s needs an address and a port", f.Source)
	}
	return f, nil
}

func decodeID(line []byte) (string, error) {
	var id string
	if err := stream.Decode(line, &id); err != nil {
		return "", fmt.Errorf("reading an attempt ID: %w", err)
	}
	if id == "" {
		return "", errors.New("reading an attempt ID: it is empty")
	}
	return id, nil
}
