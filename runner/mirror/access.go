package mirror

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
	"unicode/utf8"
)

// Access is one request as the access log keeps it: one JSON object per line, in the order the answers ended.
type Access struct {
	// Time is when the request came in, UTC.
	Time time.Time `json:"time"`
	// Remote is the client's address and port.
	Remote string `json:"remote"`
	// Method, NS and Path are what a client may fill as it likes: of each no more than its first 512 bytes are kept.
	Method string `json:"method"`
	// NS is containerd's ns parameter: the registry host the image's name has. Empty when the client sent none.
	NS string `json:"ns,omitempty"`
	// Repository and Reference are as the client wrote them. Path is set instead when they could not be read from it.
	Repository string `json:"repository,omitempty"`
	Reference  string `json:"reference,omitempty"`
	Path       string `json:"path,omitempty"`
	// Cut is how many bytes of Method, NS and Path were not kept, together; 0 when they are whole.
	Cut int `json:"cut,omitempty"`
	// Digest is what was found, empty when nothing was.
	Digest string `json:"digest,omitempty"`
	Status int    `json:"status"`
	// Bytes counts the body bytes handed to the connection.
	Bytes int64 `json:"bytes"`
	// Seconds is from the request's arrival to the end of its answer.
	Seconds float64 `json:"seconds"`
}

// accessLog writes whole lines, one at a time. A nil writer drops them.
type accessLog struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *accessLog) write(a Access) error {
	if l.w == nil {
		return nil
	}
	line, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("encoding an access: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := l.w.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("writing the access log: %w", err)
	}
	return nil
}

// maxKept bounds what is kept, and echoed, of a text that a client chooses: more than the longest path that asks for anything (maxPath), and little
// enough that three of them, at the six bytes that JSON makes of one, stay far below maxAccessLine.
const maxKept = 512

// bound leaves of the fields that a client may fill as it likes what is kept of them.
func (a *Access) bound() {
	for _, field := range []*string{&a.Method, &a.NS, &a.Path} {
		kept := keep(*field)
		a.Cut += len(*field) - len(kept)
		*field = kept
	}
}

// keep is the beginning of s that is kept: maxKept bytes, fewer where that would split a character.
func keep(s string) string {
	if len(s) <= maxKept {
		return s
	}
	end := maxKept
	for end > maxKept-utf8.UTFMax && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end]
}

// maxAccessLine bounds the memory that one line takes to read. A line that this package writes is below 16 KiB; earlier builds kept whole paths.
const maxAccessLine = 2 << 20

// maxToldLines is how many bad lines an error names: enough to see what is wrong with the log, and readable.
const maxToldLines = 10

// ReadAccessLog reads an access log to its end. A line that cannot be read is left out and named in the error, which comes beside all the others:
// nobody who gets one line spoilt takes the rest of the evidence away. A last line without newline is one that is still being written and is left
// out.
func ReadAccessLog(r io.Reader) ([]Access, error) {
	var out []Access
	var faults []error
	bad := 0
	buffered := bufio.NewReader(r)
	for n := 1; ; n++ {
		line, err := readLine(buffered)
		switch {
		case errors.Is(err, io.EOF):
			if bad > len(faults) {
				faults = append(faults, fmt.Errorf("and %d lines more", bad-len(faults)))
			}
			return out, errors.Join(faults...)
		case err != nil && !errors.Is(err, errLongLine):
			return out, errors.Join(append(faults, fmt.Errorf("reading line %d of the access log: %w", n, err))...)
		}
		var a Access
		if err == nil {
			err = json.Unmarshal(line, &a)
		}
		if err == nil {
			out = append(out, a)
			continue
		}
		if bad++; len(faults) < maxToldLines {
			faults = append(faults, fmt.Errorf("reading line %d of the access log: %w", n, err))
		}
	}
}

// errLongLine reports a line of more than maxAccessLine bytes.
var errLongLine = fmt.Errorf("it is longer than %d bytes", maxAccessLine)

// readLine reads to the end of a line, which it takes off. A line that is too long is read to its end and dropped. The error is io.EOF at the end of r,
// even where that is in the middle of a line.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	long := false
	for {
		part, err := r.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
		if long = long || len(line)+len(part) > maxAccessLine; !long {
			line = append(line, part...)
		}
		switch {
		case err != nil:
			continue // the line goes on
		case long:
			return nil, errLongLine
		}
		return bytes.TrimSuffix(line, []byte("\n")), nil
	}
}
