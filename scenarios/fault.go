package scenarios

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Fault is one thing that is wrong in one file.
type Fault struct {
	// File is the path as it was given to Load, or found below a directory that was.
	File string
	// Line counts from 1; 0 when the fault is about the file as a whole.
	Line int
	// Field is the path inside the document, such as "world.namespaces[0].pods[1].ports[0].port"; empty for the document itself.
	Field string
	// Value is the offending value as text; empty where the message needs none.
	Value string
	// Message says what is wrong; it contains Value.
	Message string
	// Hint says what to write instead; may be empty.
	Hint string
}

// String is "file:line: field: message (hint)", without the parts that are not known.
func (f Fault) String() string {
	var b strings.Builder
	b.WriteString(Place{File: f.File, Line: f.Line}.String())
	if f.Field != "" {
		b.WriteString(": " + f.Field)
	}
	b.WriteString(": " + f.Message)
	if f.Hint != "" {
		b.WriteString(" (" + f.Hint + ")")
	}
	return b.String()
}

// Faults is the error of Load: every fault of every file, ordered by file and line.
type Faults []Fault

// Error has one fault on each line.
func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i := range f {
		lines[i] = f[i].String()
	}
	return strings.Join(lines, "\n")
}

// sink gathers the faults of one load.
type sink struct{ faults Faults }

// maxQuoted is how many bytes a message and a value may have: a fault is for a person, and the value may be a file that was named by mistake.
const maxQuoted = 400

func (s *sink) add(f Fault) {
	f.Value, f.Message = clipped(f.Value), clipped(f.Message)
	s.faults = append(s.faults, f)
}

// clipped is the text, or its beginning and how much there was.
func clipped(text string) string {
	if len(text) <= maxQuoted {
		return text
	}
	return strings.ToValidUTF8(text[:maxQuoted], "") + fmt.Sprintf("… (%d bytes)", len(text))
}

// sorted is what was gathered, each fault once (a shared world is read for every scenario that uses it), in the order of Faults.
func (s *sink) sorted() Faults {
	slices.SortStableFunc(s.faults, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Field, b.Field), cmp.Compare(a.Message, b.Message))
	})
	return slices.Compact(s.faults)
}

// document is one YAML document while it is read: it turns field paths into lines, and keeps one mistake from being told twice.
type document struct {
	file  string
	node  *yaml.Node
	first int            // line of the document's first node
	lines map[string]int // field path → line, filled by decoding
	bad   map[string]struct{}
	sink  *sink
	// rendered names the object when nobody wrote the document: it then has no lines.
	rendered string
	// partial says that into has a part of the fields only: unknown ones are passed over, and a null is an empty string, as for the API.
	partial bool
}

// at is the line of a field, or of the nearest thing around it that is written in the file.
func (d *document) at(field string) int {
	for d.rendered == "" {
		if line, ok := d.lines[field]; ok {
			return line
		}
		if field == "" {
			return d.first
		}
		field = enclosing(field)
	}
	return 0
}

// enclosing is the path of what holds field.
func enclosing(field string) string {
	if strings.HasSuffix(field, "]") {
		return field[:max(strings.LastIndexByte(field, '['), 0)]
	}
	return field[:max(strings.LastIndexByte(field, '.'), 0)]
}

// fault records one fault unless the field, or what holds it, already has one from decoding: its value then means nothing.
func (d *document) fault(field string, value any, hint, format string, args ...any) {
	for f := field; f != ""; f = enclosing(f) {
		if _, already := d.bad[f]; already {
			return
		}
	}
	var text string
	if value != nil {
		text = fmt.Sprint(value)
	}
	line := d.at(field)
	if d.rendered != "" {
		field = strings.TrimSuffix(d.rendered+" "+field, " ")
	}
	d.sink.add(Fault{File: d.file, Line: line, Field: field, Value: text, Message: fmt.Sprintf(format, args...), Hint: hint})
}

// undecodable records a fault of decoding. Later checks of the field stay silent.
func (d *document) undecodable(field string, line int, value any, hint, format string, args ...any) {
	d.lines[field] = line
	d.fault(field, value, hint, format, args...)
	d.bad[field] = struct{}{}
}
