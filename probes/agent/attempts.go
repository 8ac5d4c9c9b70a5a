package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/probes/internal/stream"
)

// errStopping is why attempts end early, or are not begun, when the agent's context ends.
var errStopping = errors.New("agent is stopping, or its caller has gone")

// serveAttempts runs the attempts of the request's lines and writes their outcomes. This goroutine writes; another reads and starts the
// attempts, so that neither direction waits for the other.
func (a *Agent) serveAttempts(w http.ResponseWriter, r *http.Request) {
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

	out := newWriter(w)
	defer out.done()
	lines := make(chan stream.Line, a.opts.Concurrency)
	go a.runLines(ctx, stream.NewReader(r.Body, stream.MaxRequestLine), lines)
	if err := out.flush(); err != nil { // the head, so that the caller knows it was heard
		cancel(err)
	}
	var end stream.End
	for line := range lines { // also after a failed write: closed lines means that nothing of this request runs any more
		if line.Outcome != nil {
			end.Lines++
		}
		err := out.write(line)
		if err == nil && len(lines) == 0 {
			err = out.flush()
		}
		if err != nil {
			cancel(err)
		}
	}
	out.end(end)
}

// runLines starts an attempt per line, and closes the channel when the last one has ended.
func (a *Agent) runLines(ctx context.Context, in *stream.Reader, lines chan<- stream.Line) {
	defer close(lines)
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
		case a.begin(ctx):
			wg.Go(func() {
				defer func() { <-a.slots }()
				outcome := a.dialer.Do(ctx, attempt)
				lines <- stream.Line{Outcome: &outcome}
			})
		default:
			fault(http.StatusServiceUnavailable, errStopping)
			return
		}
	}
}

// begin waits for a slot and for the pace; it is false, with no slot taken, when ctx ended first.
func (a *Agent) begin(ctx context.Context) bool {
	select {
	case a.slots <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	if a.pace.wait(ctx) != nil {
		<-a.slots
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

// writer writes the lines of an answer, each within writeTimeout.
type writer struct {
	w       http.ResponseWriter
	control *http.ResponseController
	encoder *json.Encoder
	err     error // the first; nothing is written after it
}

func newWriter(w http.ResponseWriter) *writer {
	w.Header().Set("Content-Type", stream.MediaType)
	return &writer{w: w, control: http.NewResponseController(w), encoder: json.NewEncoder(w)}
}

func (w *writer) write(line stream.Line) error {
	if w.err == nil {
		w.err = errors.Join(w.control.SetWriteDeadline(time.Now().Add(writeTimeout)), w.encoder.Encode(line))
	}
	return w.err
}

func (w *writer) flush() error {
	if w.err == nil {
		w.err = w.control.Flush()
	}
	return w.err
}

// end writes the last line. Whether it went is for nobody here: a caller without it knows that the answer was cut off.
func (w *writer) end(end stream.End) {
	if w.write(stream.Line{End: &end}) == nil {
		_ = w.flush()
	}
}

// done lifts the deadline, which would else hold for the connection's next answer.
func (w *writer) done() {
	_ = w.control.SetWriteDeadline(time.Time{}) // fails only on a connection that has gone
}
