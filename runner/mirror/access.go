package mirror

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"
)

// Access is one request as the access log keeps it: one JSON object per line, in the order the answers ended.
type Access struct {
	// Time is when the request came in, UTC.
	Time time.Time `json:"time"`
	// Remote is the client's address and port.
	Remote string `json:"remote"`
	Method string `json:"method"`
	// NS is containerd's ns parameter: the registry host the image's name has. Empty when the client sent none.
	NS string `json:"ns,omitempty"`
	// Repository and Reference are as the client wrote them. Path is set instead when they could not be read from it.
	Repository string `json:"repository,omitempty"`
	Reference  string `json:"reference,omitempty"`
	Path       string `json:"path,omitempty"`
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

// maxAccessLine bounds a line read back: a path is at most what the server accepts as header, far below this.
const maxAccessLine = 2 << 20

// ReadAccessLog reads an access log to its end. A last line without newline is one that is still being written and is left out.
func ReadAccessLog(r io.Reader) ([]Access, error) {
	var out []Access
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxAccessLine)
	s.Split(wholeLines)
	for n := 1; s.Scan(); n++ {
		var a Access
		if err := json.Unmarshal(s.Bytes(), &a); err != nil {
			return nil, fmt.Errorf("reading line %d of the access log: %w", n, err)
		}
		out = append(out, a)
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("reading the access log: %w", err)
	}
	return out, nil
}

func wholeLines(data []byte, atEOF bool) (int, []byte, error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF {
		return len(data), nil, nil
	}
	return 0, nil, nil
}
