// Package client talks to the agent of one probe pod, and to the witness of one node.
//
// [New] takes the function that opens a stream to the agent, such as one over the API server's port-forward. [Client.Run] and
// [Client.Attempts] run a batch, [Client.Cut] ends some of it, [Client.Arrivals] asks what the pod's listeners saw, [Client.Health] how
// the agent is. [Witness] is the same for a node's kernel. Streams are kept and used again, a few at once, so that one health check
// can pass a running batch; one that broke is replaced at the next call.
//
// Errors come in three kinds that a caller tells apart: [ErrAgentGone], the agent could not be reached or went away; [*AgentError], it
// answered and refused; and the context's own error when the caller gave up.
//
// The trap: what an agent that went away had begun is not known. Run hands over each outcome as it comes, and an attempt without one
// stays unknown; it is never sent again by itself.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/probes/internal/stream"
)

// ErrAgentGone is an agent that could not be reached, that went away in the middle of an answer, or that is stopping.
var ErrAgentGone = errors.New("agent is gone")

// AgentError is an agent's answer that it did not do what was asked.
type AgentError struct {
	// Status is the HTTP status, also where it came inside an answer that had begun.
	Status int
	// Line is the number of the faulty line of the request, from 1; zero when it is no single line's.
	Line int
	// Message is the agent's own.
	Message string
}

// Error has the status and the agent's words.
func (e *AgentError) Error() string {
	text := fmt.Sprintf("agent answered %d %s", e.Status, http.StatusText(e.Status))
	if e.Line > 0 {
		text += fmt.Sprintf(" for line %d", e.Line)
	}
	if e.Message != "" {
		text += ": " + e.Message
	}
	return text
}

// Is makes an agent that is stopping an [ErrAgentGone].
func (e *AgentError) Is(target error) bool {
	return target == ErrAgentGone && e.Status == http.StatusServiceUnavailable
}

// LostError says that arrivals had to make room for newer ones, and that one asked for, which is missing, may be among them.
type LostError struct {
	// Lost is how many, since the agent started.
	Lost uint64
	// Until is when the newest of them arrived, by the agent's clock: it says nothing about attempts begun later.
	Until time.Time
}

// Error names the count and the time.
func (e *LostError) Error() string {
	return fmt.Sprintf("agent has dropped %d arrivals, the newest of %s, from its record", e.Lost, e.Until.Format(time.RFC3339Nano))
}

// Options holds what a Client may be told; the zero value is good.
type Options struct {
	// MaxConns bounds the streams open at once; a call beyond waits. Zero means [DefaultMaxConns], for a witness [WitnessMaxConns].
	MaxConns int
}

// Limits of a client.
const (
	// DefaultMaxConns is two batches, a health check and a question for arrivals.
	DefaultMaxConns = 4
	// maxMessage is how much of a refusal's text is kept.
	maxMessage = 4 << 10
	// maxHealth holds the health of a pod with a listener on each of a thousand ports, each with a fault.
	maxHealth = 1 << 20
)

// Client talks to one agent. Its methods may be called by many goroutines at once.
type Client struct {
	token     string
	transport *http.Transport
	boot      string // of the witness's process that is meant; empty for an agent
}

// New is a client that opens streams with dial and shows the bearer token. Dial's context is not the caller's alone: a stream may serve
// another call than the one that asked for it. The client closes what dial opened.
func New(dial func(context.Context) (net.Conn, error), token string, opts Options) *Client {
	if opts.MaxConns == 0 {
		opts.MaxConns = DefaultMaxConns
	}
	return &Client{token: token, transport: &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		MaxConnsPerHost:     opts.MaxConns,
		MaxIdleConnsPerHost: opts.MaxConns,
		DisableCompression:  true,
	}}
}

// Close closes the idle streams. Calls that run go on; their streams close when they end only if Close is called after them.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// Run has the agent run the attempts, whose IDs must differ, and calls each with every outcome as it comes, one at a time and in no
// order. No more than atOnce of them run at once; zero leaves that to the agent. It returns when the agent has answered for all of them, or
// with the reason why it did not; each attempt without an outcome was then not begun or its outcome is lost. Batches above the agent's limit go as several requests, one after the other.
func (c *Client) Run(ctx context.Context, attempts []probes.Attempt, atOnce int, each func(probes.Outcome)) error {
	open := make(map[string]struct{}, len(attempts))
	for i, a := range attempts {
		if _, ok := open[a.ID]; ok || a.ID == "" {
			return fmt.Errorf("running attempts: attempt %d: id %q is empty or not the only one", i, a.ID)
		}
		open[a.ID] = struct{}{}
	}
	for batch := range slices.Chunk(attempts, stream.MaxBatch) {
		if err := c.runBatch(ctx, batch, atOnce, open, each); err != nil {
			return fmt.Errorf("running attempts: %w", err)
		}
	}
	return nil
}

// runBatch is Run for one request. Open holds the IDs without an outcome.
func (c *Client) runBatch(ctx context.Context, attempts []probes.Attempt, atOnce int, open map[string]struct{}, each func(probes.Outcome)) error {
	body, err := encodeLines(attempts)
	if err != nil {
		return err
	}
	var strange error
	before := len(open)
	path := stream.PathAttempts
	if atOnce > 0 {
		path += "?" + stream.AtOnceParameter + "=" + strconv.Itoa(atOnce)
	}
	_, err = c.lines(ctx, path, body, func(line stream.Line) {
		if line.Outcome == nil {
			return
		}
		if _, ok := open[line.Outcome.AttemptID]; !ok {
			strange = fmt.Errorf("agent sent an outcome for %q, which was not asked for or had one", line.Outcome.AttemptID)
			return
		}
		delete(open, line.Outcome.AttemptID)
		each(*line.Outcome)
	})
	if err == nil && strange == nil && before-len(open) != len(attempts) {
		strange = fmt.Errorf("agent ended its answer after %d of %d outcomes", before-len(open), len(attempts))
	}
	return errors.Join(err, strange)
}

// Attempts is [Client.Run] into slots: outcome i is attempt i's, and of kind OutcomeUnknown where none came. The slots are filled also
// beside an error.
func (c *Client) Attempts(ctx context.Context, attempts []probes.Attempt) ([]probes.Outcome, error) {
	outcomes := make([]probes.Outcome, len(attempts))
	slots := make(map[string]int, len(attempts))
	for i, a := range attempts {
		outcomes[i].AttemptID = a.ID
		slots[a.ID] = i
	}
	err := c.Run(ctx, attempts, 0, func(o probes.Outcome) { outcomes[slots[o.AttemptID]] = o })
	return outcomes, err
}

// Arrivals are what the agent's listeners recorded for the tokens, in the agent's order; a token that did not arrive has none. The error
// is a [*LostError], beside the arrivals, when a missing one may have arrived and been dropped from the record since.
func (c *Client) Arrivals(ctx context.Context, tokens []probes.Token) ([]probes.Arrival, error) {
	var arrivals []probes.Arrival
	var last stream.End
	missing := make(map[probes.Token]struct{}, len(tokens))
	for _, t := range tokens {
		missing[t] = struct{}{}
	}
	for batch := range slices.Chunk(tokens, stream.MaxBatch) {
		body, err := encodeLines(batch)
		if err != nil {
			return nil, fmt.Errorf("asking for arrivals: %w", err)
		}
		last, err = c.lines(ctx, stream.PathArrivals, body, func(line stream.Line) {
			if line.Arrival != nil {
				delete(missing, line.Arrival.Token)
				arrivals = append(arrivals, *line.Arrival)
			}
		})
		if err != nil {
			return nil, fmt.Errorf("asking for arrivals: %w", err)
		}
	}
	if last.Lost > 0 && len(missing) > 0 {
		return arrivals, fmt.Errorf("asking for arrivals: %d tokens are missing: %w", len(missing), &LostError{last.Lost, last.LostUntil})
	}
	return arrivals, nil
}

// ArrivalsSince are all arrivals recorded after the cursor, oldest first, and the cursor for the next call; zero begins at the oldest.
func (c *Client) ArrivalsSince(ctx context.Context, cursor uint64) ([]probes.Arrival, uint64, error) {
	var arrivals []probes.Arrival
	path := stream.PathArrivals + "?" + stream.SinceParameter + "=" + strconv.FormatUint(cursor, 10)
	end, err := c.lines(ctx, path, nil, func(line stream.Line) {
		if line.Arrival != nil {
			arrivals = append(arrivals, *line.Arrival)
		}
	})
	if err != nil {
		return nil, 0, fmt.Errorf("asking for arrivals: %w", err)
	}
	return arrivals, end.Cursor, nil
}

// Health is the agent's answer about itself, with its listeners checked for it.
func (c *Client) Health(ctx context.Context) (probes.Health, error) {
	var health probes.Health
	if err := c.health(ctx, &health); err != nil {
		return probes.Health{}, fmt.Errorf("asking for health: %w", err)
	}
	return health, nil
}

// health reads the one value of an answer about health.
func (c *Client) health(ctx context.Context, into any) error {
	response, err := c.do(ctx, http.MethodGet, stream.PathHealth, nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxHealth))
	if err != nil {
		return gone(ctx, err)
	}
	if err := stream.Decode(body, into); err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	return nil
}

// Cut ends the attempts of these tokens that the agent is making; each has an outcome of kind OutcomeUnknown with the reason in
// Detail, unless another came first. Tokens of other attempts are passed over.
func (c *Client) Cut(ctx context.Context, tokens []probes.Token) error {
	for batch := range slices.Chunk(tokens, stream.MaxBatch) {
		body, err := encodeLines(batch)
		if err == nil {
			_, err = c.lines(ctx, stream.PathCut, body, func(stream.Line) {})
		}
		if err != nil {
			return fmt.Errorf("cutting attempts short: %w", err)
		}
	}
	return nil
}

// lines sends the body and gives every line of the answer but faults and the end to each. The error is that of the first fault, after
// everything else was read.
func (c *Client) lines(ctx context.Context, path string, body []byte, each func(stream.Line)) (stream.End, error) {
	response, err := c.do(ctx, http.MethodPost, path, body)
	if err != nil {
		return stream.End{}, err
	}
	defer response.Body.Close()
	in := stream.NewReader(response.Body, stream.MaxReplyLine)
	var fault error
	for {
		text, err := in.Next()
		if err != nil { // also io.EOF: the last line would have been the end
			return stream.End{}, errors.Join(fault, gone(ctx, err))
		}
		var line stream.Line
		if err := stream.Decode(text, &line); err != nil {
			return stream.End{}, errors.Join(fault, fmt.Errorf("reading line %d of the answer: %w", in.Number(), err))
		}
		switch {
		case line.End != nil:
			_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 1)) // up to its end, so that the stream can be used again
			return *line.End, fault
		case line.Fault != nil && fault == nil:
			fault = &AgentError{Status: line.Fault.Status, Line: line.Fault.Line, Message: line.Fault.Message}
		case line.Fault == nil:
			each(line)
		}
	}
}

// do sends one request; a status other than 200 is an AgentError.
func (c *Client) do(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+c.token)
	if c.boot != "" {
		request.Header.Set(stream.BootHeader, c.boot)
	}
	if method == http.MethodPost {
		request.Header.Set("Content-Type", stream.MediaType)
	}
	if !strings.HasPrefix(path, stream.PathAttempts) {
		// Asking twice does no harm, so the transport may repeat it on a new stream when an idle one turns out to be broken. An
		// empty list says so without being sent (net/http, Transport).
		request.Header["Idempotency-Key"] = nil
	}
	response, err := c.transport.RoundTrip(request)
	if err != nil {
		return nil, gone(ctx, err)
	}
	if response.StatusCode != http.StatusOK {
		defer response.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(response.Body, maxMessage)) // what came of it is better than nothing
		return nil, &AgentError{Status: response.StatusCode, Message: strings.TrimSpace(string(text))}
	}
	return response, nil
}

// gone is the context's error when that has ended, else an ErrAgentGone for the reason err.
func gone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("%w: %w", ErrAgentGone, err)
}

// encodeLines is one JSON value per line.
func encodeLines[T any](values []T) ([]byte, error) {
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	for _, v := range values {
		if err := encoder.Encode(v); err != nil {
			return nil, fmt.Errorf("writing the request: %w", err)
		}
	}
	return body.Bytes(), nil
}
