package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/probes/internal/loopback"
	"github.com/gapproof/gapproof/probes/internal/stream"
)

// errStopping is why attempts end early, or are not begun, when the agent's context ends.
var errStopping = errors.New("agent is stopping, or its caller has gone")

// serveAttempts runs the attempts of the request's lines and writes their outcomes. This goroutine writes; another reads and starts the
// attempts, so that neither direction waits for the other.
func (a *Agent) serveAttempts(w http.ResponseWriter, r *http.Request) {
	atOnce, err := a.atOnce(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	control := http.NewResponseController(w)
	if err := control.EnableFullDuplex(); err != nil {
		http.Error(w, err.Error(), http.StatusHTTPVersionNotSupported)
		return
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	// The reader may wait for a line that never comes; the end of the context ends that wait.
	stop := context.AfterFunc(ctx, func() { _ = control.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()

	out := loopback.NewWriter(w)
	defer out.Done()
	lines := make(chan stream.Line, a.opts.Concurrency)
	go a.runLines(ctx, stream.NewReader(r.Body, stream.MaxRequestLine), atOnce, lines)
	if err := out.Flush(); err != nil { // the head, so that the caller knows it was heard
		cancel(err)
	}
	var end stream.End
	for line := range lines { // also after a failed write: closed lines means that nothing of this request runs any more
		if line.Outcome != nil {
			end.Lines++
		}
		err := out.Write(line)
		if err == nil && len(lines) == 0 {
			err = out.Flush()
		}
		if err != nil {
			cancel(err)
		}
	}
	out.End(end)
}

// atOnce is how many of the request's attempts may run at once.
func (a *Agent) atOnce(r *http.Request) (int, error) {
	asked := r.URL.Query().Get(stream.AtOnceParameter)
	if asked == "" {
		return a.opts.Concurrency, nil
	}
	n, err := strconv.Atoi(asked)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("%s: %q is no number of attempts", stream.AtOnceParameter, asked)
	}
	return min(n, a.opts.Concurrency), nil
}

// runLines starts an attempt per line, and closes the channel when the last one has ended.
func (a *Agent) runLines(ctx context.Context, in *stream.Reader, atOnce int, lines chan<- stream.Line) {
	defer close(lines)
	own := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	defer wg.Wait()
	fault := func(status int, err error) {
		lines <- stream.Line{Fault: &stream.Fault{Status: status, Line: in.Number(), Message: err.Error()}}
	}
	for n := 0; ; n++ {
		text, err := in.Next()
		switch {
		case errors.Is(err, io.EOF):
			return
		case ctx.Err() != nil:
			fault(http.StatusServiceUnavailable, errStopping)
			return
		case errors.Is(err, stream.ErrLineTooLong):
			fault(http.StatusRequestEntityTooLarge, err)
			return
		case err != nil:
			fault(http.StatusBadRequest, fmt.Errorf("reading attempts: %w", err))
			return
		case n == stream.MaxBatch:
			fault(http.StatusRequestEntityTooLarge, fmt.Errorf("reading attempts: more than %d in one request", stream.MaxBatch))
			return
		}
		attempt, id, err := readAttempt(text)
		switch {
		case err != nil && id == "":
			fault(http.StatusBadRequest, fmt.Errorf("reading an attempt: %w", err))
		case err != nil:
			lines <- stream.Line{Outcome: &probes.Outcome{
				AttemptID: id, Kind: probes.Error, Detail: fmt.Sprintf("reading the attempt: %v", err), Started: time.Now(),
			}}
		case a.begin(ctx, own):
			wg.Go(func() {
				defer func() { <-a.slots; <-own }()
				outcome := a.do(ctx, attempt)
				lines <- stream.Line{Outcome: &outcome}
			})
		default:
			fault(http.StatusServiceUnavailable, errStopping)
			return
		}
	}
}

// errCut is why an attempt ends early on request.
var errCut = errors.New("cut short on request")

// do makes the attempt in a context of its own, which a request may end. An outcome that came before the end stays what it is; what the
// end itself made of the attempt is no fault, and becomes an outcome of no kind that says so.
func (a *Agent) do(ctx context.Context, attempt probes.Attempt) probes.Outcome {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	a.mu.Lock()
	a.running[attempt.Token] = cancel
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.running, attempt.Token)
	}()
	outcome := a.dialer.Do(ctx, attempt)
	if outcome.Kind == probes.Error && errors.Is(context.Cause(ctx), errCut) {
		outcome.Kind, outcome.Detail = probes.OutcomeUnknown, errCut.Error()
	}
	return outcome
}

// serveCut ends the attempts of the tokens in the request. A token whose attempt is not running is passed over: it has its outcome
// already.
func (a *Agent) serveCut(w http.ResponseWriter, r *http.Request) {
	tokens, status, err := readTokens(http.MaxBytesReader(w, r.Body, stream.MaxBatch*stream.MaxRequestLine))
	if err != nil {
		http.Error(w, err.Error(), status)
		return
	}
	var end stream.End
	a.mu.Lock()
	for _, t := range tokens {
		if cancel := a.running[t]; cancel != nil {
			cancel(errCut)
			end.Lines++
		}
	}
	a.mu.Unlock()
	out := loopback.NewWriter(w)
	defer out.Done()
	out.End(end)
}

// begin waits for a slot of the request's own and of the agent's, and for the pace; it is false, with no slot taken, when ctx ended first.
func (a *Agent) begin(ctx context.Context, own chan struct{}) bool {
	select {
	case own <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	select {
	case a.slots <- struct{}{}:
	case <-ctx.Done():
		<-own
		return false
	}
	if a.pace.wait(ctx) != nil {
		<-a.slots
		<-own
		return false
	}
	return true
}

// readAttempt reads one line. Beside an error the ID is given when the line has one.
func readAttempt(line []byte) (a probes.Attempt, id string, err error) {
	if err := stream.Decode(line, &a); err != nil {
		var named struct {
			ID string `json:"id"`
		}
		if json.Unmarshal(line, &named) != nil {
			return probes.Attempt{}, "", err
		}
		return probes.Attempt{}, named.ID, err
	}
	if a.ID == "" {
		return a, "", errors.New("id: is required")
	}
	return a, a.ID, nil
}

// readTokens reads one token per line; the status goes with the error.
func readTokens(body io.Reader) (tokens []probes.Token, status int, err error) {
	in := stream.NewReader(body, stream.MaxRequestLine)
	for {
		line, err := in.Next()
		switch {
		case errors.Is(err, io.EOF):
			return tokens, http.StatusOK, nil
		case errors.Is(err, stream.ErrLineTooLong):
			return nil, http.StatusRequestEntityTooLarge, err
		case err != nil:
			return nil, http.StatusBadRequest, fmt.Errorf("reading tokens: %w", err)
		case len(tokens) == stream.MaxBatch:
			return nil, http.StatusRequestEntityTooLarge, fmt.Errorf("reading tokens: more than %d in one request", stream.MaxBatch)
		}
		var t probes.Token
		if err := stream.Decode(line, &t); err != nil {
			return nil, http.StatusBadRequest, fmt.Errorf("line %d: %w", in.Number(), err)
		}
		tokens = append(tokens, t)
	}
}
