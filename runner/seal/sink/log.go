package sink

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"time"
)

// Query is one question as the log keeps it: one JSON object per line, in the order of the answers.
type Query struct {
	// Time is when the answer was made, UTC.
	Time time.Time `json:"time"`
	// Source is who asked.
	Source netip.AddrPort `json:"source"`
	// Name is without the dot at its end, in lower case; Type is such as "A".
	Name string `json:"name"`
	Type string `json:"type"`
	// Transport is "udp" or "tcp".
	Transport string `json:"transport"`
	// Known is whether the name is a node's; every other one was refused.
	Known bool `json:"known"`
}

// queryLog writes whole lines, one at a time.
type queryLog struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *queryLog) write(q Query) error {
	line, err := json.Marshal(q)
	if err != nil {
		return fmt.Errorf("encoding a question: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := l.w.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("writing the log of names: %w", err)
	}
	return nil
}

// ReadLog reads a log to its end. A last line without newline is one that is still being written and is left out.
func ReadLog(r io.Reader) ([]Query, error) {
	var out []Query
	b := bufio.NewReader(r)
	for n := 1; ; n++ {
		line, err := b.ReadBytes('\n')
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading the log of names: %w", err)
		}
		var q Query
		if err := json.Unmarshal(bytes.TrimSpace(line), &q); err != nil {
			return nil, fmt.Errorf("reading line %d of the log of names: %w", n, err)
		}
		out = append(out, q)
	}
}
