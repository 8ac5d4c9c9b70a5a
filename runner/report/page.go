package report

import (
	"bytes"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// style is how a piece of text stands out. The zero value does not.
type style uint8

const (
	plain style = iota
	strong
	faint
	good
	doubt
	hole
	broken
)

// sgr are the parameters of "select graphic rendition", ECMA-48 section 8.3.117.
var sgr = [...]string{plain: "", strong: "1", faint: "2", good: "32", doubt: "33", hole: "1;37;41", broken: "1;30;43"}

// symbols are the signs of one character set.
type symbols struct {
	allow, deny, hole, broken, doubt, skipped string
	separator, arrow, ellipsis, micro         string
}

func (g Glyphs) symbols() symbols {
	if g == ASCII {
		return symbols{
			allow: "+", deny: ".", hole: "H", broken: "B", doubt: "?", skipped: "-",
			separator: " | ", arrow: " -> ", ellipsis: "...", micro: "us",
		}
	}
	return symbols{
		allow: "●", deny: "·", hole: "H", broken: "B", doubt: "?", skipped: "–",
		separator: " · ", arrow: " → ", ellipsis: "…", micro: "µs",
	}
}

// page gathers text for people. Whatever is written through it is cleaned first.
type page struct {
	bytes.Buffer
	options Options
	sym     symbols
	width   int
}

func newPage(o Options) *page {
	p := &page{options: o, sym: o.Glyphs.symbols(), width: o.Width}
	if p.width <= 0 {
		p.width = defaultWidth
	}
	return p
}

// styled is s in style st; colours only where they were asked for.
func (p *page) styled(st style, s string) string {
	if p.options.Colour != ANSI || sgr[st] == "" || s == "" {
		return s
	}
	return "\x1b[" + sgr[st] + "m" + s + "\x1b[0m"
}

// line writes a line without trailing blanks.
func (p *page) line(s string) {
	p.WriteString(strings.TrimRight(s, " "))
	p.WriteByte('\n')
}

// blank writes an empty line unless there is one already.
func (p *page) blank() {
	if !bytes.HasSuffix(p.Bytes(), []byte("\n\n")) {
		p.WriteByte('\n')
	}
}

// span is styled text with the columns it takes.
type span struct {
	text  string
	width int
}

func (p *page) span(st style, s string) span { return span{p.styled(st, s), columns(s)} }

// flow writes spans side by side, in as many lines as the width demands; a line never breaks inside a span.
func (p *page) flow(indent, separator string, spans ...span) {
	line, used := "", 0
	for _, s := range spans {
		if used > 0 && len(indent)+used+columns(separator)+s.width > p.width {
			p.line(indent + line)
			line, used = "", 0
		}
		if used > 0 {
			line += separator
			used += columns(separator)
		}
		line += s.text
		used += s.width
	}
	p.line(indent + line)
}

// plainSpans cleans texts and leaves the empty ones out.
func (p *page) plainSpans(texts ...string) []span {
	var spans []span
	for _, t := range texts {
		if t != "" {
			spans = append(spans, p.span(plain, p.clean(t)))
		}
	}
	return spans
}

// clean makes text from outside fit for a terminal: no control or format characters (an escape sequence in an agent's words must not
// reach it), and nothing beyond ASCII where that is the character set.
func (p *page) clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case unicode.Is(unicode.C, r):
			return '?'
		case r > unicode.MaxASCII && p.options.Glyphs == ASCII:
			return asciiFor(r)
		default:
			return r
		}
	}, s)
}

// asciiFor is what stands for a rune in ASCII.
func asciiFor(r rune) rune {
	switch r {
	case 'µ':
		return 'u'
	case '–', '—':
		return '-'
	default:
		return '?'
	}
}

// took is a duration with the digits a reader wants.
func (p *page) took(d time.Duration) string {
	switch {
	case d <= 0:
		return "-"
	case d < time.Millisecond:
		return fmt.Sprintf("%d%s", d.Microseconds(), p.sym.micro)
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Round(time.Millisecond).Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1fs", d.Seconds())
	default:
		return d.Round(time.Second).String()
	}
}

// fit is s cut to n columns, the cut shown.
func (p *page) fit(s string, n int) string {
	if columns(s) <= n {
		return s
	}
	r := []rune(s)
	keep := max(n-columns(p.sym.ellipsis), 0)
	return string(r[:keep]) + p.sym.ellipsis
}

// columns is how many columns s takes. Names are ASCII; wide characters in a title cost alignment, not correctness.
func columns(s string) int { return utf8.RuneCountInString(s) }

func padRight(s string, n int) string { return s + strings.Repeat(" ", max(n-columns(s), 0)) }
func padLeft(s string, n int) string  { return strings.Repeat(" ", max(n-columns(s), 0)) + s }

// wrap sets words into lines of at most n columns; a longer word stands alone.
func wrap(words []string, n int) []string {
	var lines []string
	var line string
	for _, word := range words {
		switch {
		case line == "":
			line = word
		case columns(line)+1+columns(word) <= n:
			line += " " + word
		default:
			lines = append(lines, line)
			line = word
		}
	}
	return append(lines, line)
}
