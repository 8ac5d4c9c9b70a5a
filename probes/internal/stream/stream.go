// Package stream is the language between an agent or a witness and its client: paths, limits, and JSON lines both ways.
//
// A request body is one value per line; the answer is one [Line] per outcome, arrival, sighting or drop as it comes, a [Fault] for a line that could not be
// read, and one [End], without which the answer was cut off. [Reader] gives the lines of either side, [Decode] reads one strictly.
//
// The trap: an answer has status 200 before the first line was read, so the status of what went wrong later is in the Fault.
package stream

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/gapproof/gapproof/probes"
)

// The paths of an agent and the media type of JSON lines.
const (
	PathAttempts = "/v1/attempts"
	PathCut      = "/v1/cut"
	PathArrivals = "/v1/arrivals"
	PathHealth   = "/v1/health"
	MediaType    = "application/x-ndjson"
	// SinceParameter is the query parameter of PathArrivals that asks for all arrivals after a cursor, in place of tokens.
	SinceParameter = "since"
	// AtOnceParameter is the query parameter of PathAttempts that bounds how many of the request's attempts run at once, at least 1.
	AtOnceParameter = "at-once"
)

// The paths of a witness; its health is at PathHealth.
const (
	PathAdopt     = "/v1/adopt"
	PathWatch     = "/v1/watch"
	PathSightings = "/v1/sightings"
	PathForget    = "/v1/forget"
	PathFollow    = "/v1/follow"
	// BootHeader carries, to every path of a witness but its health, the BootID of the process that is meant. Another one answers
	// with status 409: what the one before it was told to watch is not watched any more, and must not read as not seen.
	BootHeader = "Gapproof-Boot"
)

// Limits of a stream.
const (
	// MaxRequestLine holds an attempt: its fields take some 300 bytes, its name 253, and an ID written as scenario, step, source and
	// destination the rest.
	MaxRequestLine = 4 << 10
	// MaxReplyLine holds the outcome of a lookup with a full DNS answer over TCP: 64 KiB of it are 4096 addresses of 18 characters.
	MaxReplyLine = 256 << 10
	// MaxBatch is how many lines one request may have: more than half of an agent's source ports are not for one caller.
	MaxBatch = 10000
)

// Line is one line of an answer; exactly one field is set.
type Line struct {
	Outcome  *probes.Outcome  `json:"outcome,omitempty"`
	Arrival  *probes.Arrival  `json:"arrival,omitempty"`
	Sighting *probes.Sighting `json:"sighting,omitempty"`
	// Dropped is the ID of an attempt of which a request was dropped; PathFollow only.
	Dropped string `json:"dropped,omitempty"`
	Fault   *Fault `json:"fault,omitempty"`
	End     *End   `json:"end,omitempty"`
}

// Pod is one line of a request to PathAdopt: a probe pod on the witness's node.
type Pod struct {
	// Identity is the pod's "namespace/pod".
	Identity string `json:"identity"`
	// NetNS is the inode number of its network namespace, as [probes.Health] tells it.
	NetNS uint64 `json:"netns"`
}

// Fault is a part of the request that the agent did not do.
type Fault struct {
	// Status is the HTTP status that fits.
	Status int `json:"status"`
	// Line is the number of the request's line, from 1; zero when the fault is no single line's.
	Line int `json:"line,omitempty"`
	// Message says what was wrong.
	Message string `json:"message"`
}

// End is the last line of an answer.
type End struct {
	// Lines is how many outcomes, arrivals or sightings came before it; of a request that gets none, how many of its lines were acted on.
	Lines int `json:"lines"`
	// Cursor follows the last arrival; PathArrivals only.
	Cursor uint64 `json:"cursor,omitempty"`
	// Lost and LostUntil are as in [probes.Health]; PathArrivals only.
	Lost      uint64    `json:"lost,omitempty"`
	LostUntil time.Time `json:"lostUntil,omitzero"`
}

// ErrLineTooLong is a line above the reader's limit; nothing can be read after it.
var ErrLineTooLong = errors.New("line is too long")

// Reader reads lines. It is not for concurrent use.
type Reader struct {
	in     *bufio.Reader
	max    int
	line   []byte
	number int
}

// NewReader reads lines of at most limit bytes from in, the line end not counted.
func NewReader(in io.Reader, limit int) *Reader {
	return &Reader{in: bufio.NewReader(in), max: limit}
}

// Next gives the next line that is not blank, valid until the call after it. The error is io.EOF after the last line,
// io.ErrUnexpectedEOF where the input ends inside one, [ErrLineTooLong], or the input's own.
func (r *Reader) Next() ([]byte, error) {
	for {
		r.line = r.line[:0]
		r.number++
		for {
			part, err := r.in.ReadSlice('\n')
			r.line = append(r.line, part...)
			if len(r.line) > r.max+1 || (err != nil && len(r.line) > r.max) {
				return nil, fmt.Errorf("reading line %d: %w: more than %d bytes", r.number, ErrLineTooLong, r.max)
			}
			if err == nil {
				break
			}
			if errors.Is(err, bufio.ErrBufferFull) {
				continue
			}
			if errors.Is(err, io.EOF) && len(r.line) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if line := bytes.TrimSpace(r.line); len(line) > 0 {
			return line, nil
		}
	}
}

// Number is the number of the line that Next gave last, from 1; blank lines count.
func (r *Reader) Number() int { return r.number }

// Decode reads the one JSON value of a line; an unknown field or anything after the value is an error.
func Decode(line []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one value on the line")
	}
	return nil
}
