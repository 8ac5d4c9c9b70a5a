package report

import (
	"fmt"
	"io"
	"strings"
)

// Format is a form a report can be written in. The zero value is unknown.
type Format uint8

// The formats.
const (
	FormatUnknown Format = iota
	Table
	JSON
	JUnit
	Markdown
)

var formatNames = [...]string{"unknown", "table", "json", "junit", "markdown"}

// String is the format's name as the flag -o takes it.
func (f Format) String() string {
	if int(f) >= len(formatNames) {
		return fmt.Sprintf("invalid(%d)", uint8(f))
	}
	return formatNames[f]
}

// FileName is the name of the file that a report directory holds for this format.
func (f Format) FileName() string {
	switch f {
	case Table:
		return "report.txt"
	case JSON:
		return "report.json"
	case JUnit:
		return "junit.xml"
	case Markdown:
		return "report.md"
	default:
		return ""
	}
}

// Formats are all formats, in the order they are documented.
func Formats() []Format { return []Format{Table, JSON, JUnit, Markdown} }

// ParseFormat reads a format's name; anything else is an error that lists them.
func ParseFormat(name string) (Format, error) {
	var known []string
	for _, f := range Formats() {
		if f.String() == name {
			return f, nil
		}
		known = append(known, f.String())
	}
	return FormatUnknown, fmt.Errorf("reading an output format: %q is not one of %s", name, strings.Join(known, ", "))
}

// Colour tells whether text carries terminal colours. The zero value is plain.
type Colour uint8

// The choices of colour.
const (
	Plain Colour = iota
	// ANSI uses the sixteen colours every terminal has, so that its owner's palette applies.
	ANSI
)

// Glyphs is the character set of tables. The zero value is Unicode.
type Glyphs uint8

// The choices of glyphs.
const (
	Unicode Glyphs = iota
	// ASCII is for terminals and logs that hold nothing else.
	ASCII
)

// Detail tells how much is shown. The zero value is Failing.
type Detail uint8

// The levels of detail.
const (
	// Failing shows matrices of steps in which not everything passed, and shortens long lists of attempts.
	Failing Detail = iota
	// Everything shows every matrix and every attempt that did not pass.
	Everything
)

// defaultWidth is what a pull request's log, a split terminal and a printed page all hold.
const defaultWidth = 100

// Options choose how a report looks to people; machine formats take no notice of them.
type Options struct {
	Colour Colour
	Glyphs Glyphs
	Detail Detail
	// Width is the number of columns to stay within where words allow. Default: 100.
	Width int
}

// Render writes r to w in format f. The error is that of writing, or tells that there is no such format.
func Render(w io.Writer, r *Report, f Format, o Options) error {
	switch f {
	case Table:
		return RenderTable(w, r, o)
	case JSON:
		return RenderJSON(w, r, o)
	case JUnit:
		return RenderJUnit(w, r, o)
	case Markdown:
		return RenderMarkdown(w, r, o)
	default:
		return fmt.Errorf("rendering a report: format %s has no renderer", f)
	}
}
