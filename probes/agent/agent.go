// Package agent is the service inside a probe pod: it runs batches of attempts and tells what the pod's listeners saw.
//
// [New] joins a [Dialer] and a [Listeners]; [Agent.Serve] answers on a socket from [Listen], which is on the pod's loopback alone, so that
// only the API server's port-forward reaches it, which no policy can cut. Requests carry the run's bearer token:
//
//	POST /v1/attempts   one attempt per line; one outcome per line, as they come (no more of them at once than ?at-once=N)
//	POST /v1/cut        one token per line; their attempts end at once, with an outcome of kind OutcomeUnknown that says so
//	POST /v1/arrivals   one token per line; their arrivals (or all of them with ?since=CURSOR)
//	GET  /v1/health     the agent's identity and the self-checks of its listeners
//
// Both directions of a request flow at once, over HTTP/1.1. A request with a wrong token gets the status 401 and nothing else, and
// its body is not read. A line that cannot be read becomes an outcome of kind Error when its ID can be told, and a fault line when not.
// When the context ends, running attempts end with outcomes of kind Error, and what was not begun is answered with a fault of status 503.
//
// The trap: an outcome is written when its attempt ends, not in the order of the request.
package agent

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/probes/internal/loopback"
	"github.com/gapproof/gapproof/probes/internal/stream"
)

// Defaults and limits of an agent.
const (
	// DefaultPort is where an agent listens: below the ephemeral ports, and no port that a cluster component is known to use.
	DefaultPort = 4370
	// DefaultConcurrency is how many attempts run at once: the bound that design.md sets.
	DefaultConcurrency = 64
	// MinToken is the shortest bearer token.
	MinToken = loopback.MinToken
)

// Dialer makes one attempt and always has an outcome for it; the end of ctx makes it an outcome of kind Error.
type Dialer interface {
	Do(ctx context.Context, a probes.Attempt) probes.Outcome
}

// Listeners are the pod's listeners and their record.
type Listeners interface {
	// Check checks each listener over the pod's own stack; a listener's fault is in its entry.
	Check(ctx context.Context) []probes.ListenerHealth
	// Find gives the arrivals of the tokens; a token that did not arrive has none.
	Find(tokens []probes.Token) []probes.Arrival
	// Since gives the arrivals after the cursor, and the cursor after them.
	Since(cursor uint64) ([]probes.Arrival, uint64)
	// Lost says how many arrivals were dropped from the record, and the time of the newest of them.
	Lost() (uint64, time.Time)
}

// Options holds what an Agent may be told; the zero value is good.
type Options struct {
	// Concurrency bounds the attempts that run at once, over all requests; zero means [DefaultConcurrency].
	Concurrency int
	// Rate bounds the attempts begun per second, over all requests; zero means no bound.
	Rate int
	// Version is the build's version, told in Health.
	Version string
	// Log gets one line per request at Debug; nil discards. Tokens are never logged.
	Log *slog.Logger
}

// Agent serves one pod's probes. Its methods may be called by many goroutines at once.
type Agent struct {
	identity  string
	bootID    string
	netns     uint64
	token     string
	dialer    Dialer
	listeners Listeners
	opts      Options
	slots     chan struct{}
	pace      pace

	mu      sync.Mutex
	running map[probes.Token]context.CancelCauseFunc // attempts that a request may cut short
}

// New is an agent that answers requests with the bearer token, of at least [MinToken] visible characters.
func New(identity, token string, d Dialer, l Listeners, opts Options) (*Agent, error) {
	if err := CheckToken(token); err != nil {
		return nil, fmt.Errorf("making an agent: %w", err)
	}
	if opts.Concurrency < 0 || opts.Rate < 0 {
		return nil, fmt.Errorf("making an agent: concurrency %d and rate %d must not be negative", opts.Concurrency, opts.Rate)
	}
	if opts.Concurrency == 0 {
		opts.Concurrency = DefaultConcurrency
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	a := &Agent{
		identity:  identity,
		bootID:    rand.Text(),
		netns:     netns(),
		token:     token,
		dialer:    d,
		listeners: l,
		opts:      opts,
		slots:     make(chan struct{}, opts.Concurrency),
		running:   map[probes.Token]context.CancelCauseFunc{},
	}
	if opts.Rate > 0 {
		a.pace.interval = time.Second / time.Duration(opts.Rate)
	}
	return a, nil
}

// CheckToken says what keeps s from being a bearer token; it never quotes it.
func CheckToken(s string) error { return loopback.CheckToken(s) }

// netns is the inode number of the process's network namespace, zero where the system has none.
func netns() uint64 {
	link, err := os.Readlink("/proc/self/ns/net") // "net:[4026531840]"
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(link, "net:["), "]"), 10, 64)
	return n
}

// Listen opens the agent's socket on the loopback; port zero leaves the choice to the kernel.
func Listen(ctx context.Context, port uint16) (net.Listener, error) {
	l, err := loopback.Listen(ctx, port)
	if err != nil {
		return nil, fmt.Errorf("opening the agent's socket: %w", err)
	}
	return l, nil
}

// Serve answers requests on l until ctx ends, then stops as the package doc says and closes l. It returns when every request has ended;
// the error is nil unless l failed by itself.
func (a *Agent) Serve(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+stream.PathAttempts, a.serveAttempts)
	mux.HandleFunc("POST "+stream.PathCut, a.serveCut)
	mux.HandleFunc("POST "+stream.PathArrivals, a.serveArrivals)
	mux.HandleFunc("GET "+stream.PathHealth, a.serveHealth)
	if err := loopback.New(a.token, mux, a.opts.Log).Serve(ctx, l, errStopping); err != nil {
		return fmt.Errorf("serving the agent: %w", err)
	}
	return nil
}

// serveHealth checks the listeners and answers with the agent's health.
func (a *Agent) serveHealth(w http.ResponseWriter, r *http.Request) {
	lost, until := a.listeners.Lost()
	health := probes.Health{
		Identity: a.identity, BootID: a.bootID, Listeners: a.listeners.Check(r.Context()), NetNS: a.netns, Version: a.opts.Version,
		ArrivalsLost: lost, ArrivalsLostUntil: until,
	}
	health.At = time.Now()
	body, err := json.Marshal(health)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body) // a caller that has gone needs no answer
}

// serveArrivals answers with the arrivals of the tokens in the request, or with all after the cursor in its query.
func (a *Agent) serveArrivals(w http.ResponseWriter, r *http.Request) {
	var end stream.End
	var arrivals []probes.Arrival
	if query := r.URL.Query(); query.Has(stream.SinceParameter) {
		cursor, err := strconv.ParseUint(query.Get(stream.SinceParameter), 10, 64)
		if err != nil {
			http.Error(w, fmt.Sprintf("since: %q is not a cursor", query.Get(stream.SinceParameter)), http.StatusBadRequest)
			return
		}
		arrivals, end.Cursor = a.listeners.Since(cursor)
	} else {
		tokens, status, err := readTokens(http.MaxBytesReader(w, r.Body, stream.MaxBatch*stream.MaxRequestLine))
		if err != nil {
			http.Error(w, err.Error(), status)
			return
		}
		arrivals = a.listeners.Find(tokens)
	}
	end.Lines = len(arrivals)
	end.Lost, end.LostUntil = a.listeners.Lost()
	out := loopback.NewWriter(w)
	defer out.Done()
	for i := range arrivals {
		if out.Write(stream.Line{Arrival: &arrivals[i]}) != nil {
			return
		}
	}
	out.End(end)
}
