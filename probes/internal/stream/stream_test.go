package stream

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/gapproof/gapproof/probes"
)

func TestReaderGivesLinesAndSaysHowTheInputEnded(t *testing.T) {
	const limit = 5000 // above the buffer of a bufio.Reader
	long := strings.Repeat("x", limit)
	for _, tt := range []struct {
		name, input string
		want        []string
		end         error
	}{
		{"nothing at all", "", nil, io.EOF},
		{"two lines", "a\nb\n", []string{"a", "b"}, io.EOF},
		{"blank lines between", "\na\r\n \nb\n", []string{"a", "b"}, io.EOF},
		{"an end inside a line", "a\nb", []string{"a"}, io.ErrUnexpectedEOF},
		{"a line as long as may be", long + "\nb\n", []string{long, "b"}, io.EOF},
		{"a line one byte longer", "a\n" + long + "x\nb\n", []string{"a"}, ErrLineTooLong},
		{"a line one byte longer that does not end", long + "x", nil, ErrLineTooLong},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, in := range []io.Reader{strings.NewReader(tt.input), iotest.OneByteReader(strings.NewReader(tt.input))} {
				r := NewReader(in, limit)
				var got []string
				line, err := r.Next()
				for ; err == nil; line, err = r.Next() {
					got = append(got, string(line))
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("lines (-want +got):\n%s", diff)
				}
				if !errors.Is(err, tt.end) {
					t.Errorf("end: want %v, got %v", tt.end, err)
				}
			}
		})
	}
}

func TestReaderPassesOnTheErrorOfItsInput(t *testing.T) {
	want := errors.New("cable cut")
	r := NewReader(io.MultiReader(strings.NewReader("a\n"), iotest.ErrReader(want)), 10)
	if line, err := r.Next(); err != nil || string(line) != "a" {
		t.Fatalf("first line: want a, got %q, %v", line, err)
	}
	if _, err := r.Next(); !errors.Is(err, want) {
		t.Errorf("want %v, got %v", want, err)
	}
}

func TestDecodeIsStrict(t *testing.T) {
	for name, line := range map[string]string{
		"an unknown field":     `{"outcome":{"attemptID":"a","kind":"replied","verdict":"allow"}}`,
		"an unknown kind":      `{"outcome":{"attemptID":"a","kind":"allowed"}}`,
		"two values":           `{} {}`,
		"half a value":         `{"outcome":`,
		"a value of its type":  `[]`,
		"a number too far":     `{"fault":{"line":1e99}}`,
		"text after the value": `{}x`,
	} {
		t.Run(name, func(t *testing.T) {
			var l Line
			if err := Decode([]byte(line), &l); err == nil {
				t.Errorf("%s was read as %+v", line, l)
			}
		})
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte("a\n\nb\n"), uint16(10))
	f.Add([]byte(strings.Repeat("x", 5000)+"\n"), uint16(4999))
	f.Fuzz(func(t *testing.T, input []byte, limit uint16) {
		r := NewReader(bytes.NewReader(input), int(limit))
		for {
			line, err := r.Next()
			if err != nil {
				return
			}
			if len(line) == 0 || len(line) > int(limit) || bytes.IndexByte(line, '\n') >= 0 {
				t.Fatalf("with limit %d: line %q", limit, line)
			}
		}
	})
}

// FuzzDecode holds that no line makes the decoders of either side panic, and that what they take can be written again.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"outcome":{"attemptID":"a","kind":"refused","remote":"10.0.0.1:80","errno":"ECONNREFUSED"}}`))
	f.Add([]byte(`{"arrival":{"token":"00000000000000000000000000000001","protocol":"UDP","source":"10.0.0.1:1","count":2}}`))
	f.Add([]byte(`{"fault":{"status":400,"line":3,"message":"no"}}`))
	f.Add([]byte(`{"id":"a","protocol":"TCP","destination":"[fe80::1%eth0]:80","deadline":1}`))
	f.Add([]byte(`"00000000000000000000000000000001"`))
	f.Fuzz(func(t *testing.T, line []byte) {
		rewrite[Line](t, line)
		rewrite[probes.Attempt](t, line)
		rewrite[probes.Token](t, line)
	})
}

// rewrite reads the line as a T; when that can be done, it writes the value and holds that it reads as the same.
func rewrite[T any](t *testing.T, line []byte) {
	t.Helper()
	var first, second T
	if Decode(line, &first) != nil {
		return
	}
	text, err := json.Marshal(first)
	if err != nil {
		t.Fatalf("writing %+v: %v", first, err)
	}
	if err := Decode(text, &second); err != nil {
		t.Fatalf("reading %s again: %v", text, err)
	}
	again, err := json.Marshal(second)
	if err != nil || string(text) != string(again) {
		t.Errorf("%s became %s, %v", text, again, err)
	}
}
