package report

import (
	"fmt"
	"slices"
	"strings"

	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/reach"
)

// matrix is one step's judgements by source and destination.
type matrix struct {
	sources []string
	columns []column
	cells   map[cellKey]compare.Judgement
}

// column is one destination. Above and name are its two header lines.
type column struct {
	destination, above, name string
	ports                    []string
}

type cellKey struct{ source, destination, port string }

// mark is one glyph of a cell.
type mark struct {
	glyph string
	style style
}

func newMatrix(judgements []compare.Judgement) matrix {
	m := matrix{cells: map[cellKey]compare.Judgement{}}
	for _, j := range judgements {
		a := j.Attempt
		if !slices.Contains(m.sources, a.Source) {
			m.sources = append(m.sources, a.Source)
		}
		n := slices.IndexFunc(m.columns, func(c column) bool { return c.destination == a.Destination })
		if n < 0 {
			n = len(m.columns)
			m.columns = append(m.columns, newColumn(a))
		}
		port := a.Notation()
		if !slices.Contains(m.columns[n].ports, port) {
			m.columns[n].ports = append(m.columns[n].ports, port)
		}
		m.cells[cellKey{a.Source, a.Destination, port}] = j
	}
	return m
}

func newColumn(a plan.Planned) column {
	c := column{destination: a.Destination}
	switch a.Kind {
	case plan.ClusterIP:
		namespace, name, _ := strings.Cut(strings.TrimPrefix(a.Destination, "service:"), "/")
		c.above, c.name = namespace, "svc:"+name
	case plan.NodeIP, plan.OutsideIP, plan.APIServerIP:
		c.name = a.Destination
	case plan.NodePort:
		rest := strings.TrimPrefix(a.Destination, "node:")
		place, service, _ := strings.Cut(rest, ":")
		namespace, name, _ := strings.Cut(service, "/")
		c.above, c.name = namespace, "node:"+place+":"+name
	case plan.Lookup:
		name, namespace, _ := strings.Cut(strings.TrimPrefix(a.Destination, "dns:"), ".")
		c.above, c.name = namespace, "dns:"+name
	default:
		c.above, c.name, _ = strings.Cut(a.Destination, "/")
	}
	return c
}

// mark is the glyph of one judgement.
func (p *page) mark(j compare.Judgement) mark {
	switch {
	case j.Result == compare.Fail && j.Known != "" && j.Class == compare.Hole:
		return mark{p.sym.hole, doubt}
	case j.Result == compare.Fail && j.Known != "":
		return mark{p.sym.broken, doubt}
	case j.Result == compare.Fail && j.Class == compare.Hole:
		return mark{p.sym.hole, hole}
	case j.Result == compare.Fail:
		return mark{p.sym.broken, broken}
	case j.Result == compare.Skipped:
		return mark{p.sym.skipped, faint}
	case j.Result == compare.Pass && j.Observed.Verdict == reach.Allow:
		return mark{p.sym.allow, good}
	case j.Result == compare.Pass && j.Observed.Verdict == reach.Deny:
		return mark{p.sym.deny, faint}
	default:
		return mark{p.sym.doubt, doubt}
	}
}

// cell is one glyph where all ports agree, else one glyph per port in the column's order.
func (p *page) cell(m matrix, source string, c column) []mark {
	marks := make([]mark, len(c.ports))
	for i, port := range c.ports {
		marks[i] = mark{" ", plain}
		if j, ok := m.cells[cellKey{source, c.destination, port}]; ok {
			marks[i] = p.mark(j)
		}
	}
	if len(slices.Compact(slices.Clone(marks))) == 1 {
		return marks[:1]
	}
	return marks
}

// legend explains the glyphs, once per page and only where a matrix follows.
func (p *page) legend(r *Report) {
	if !slices.ContainsFunc(r.Scenarios, func(s Scenario) bool { return slices.ContainsFunc(s.Steps, p.showsMatrix) }) {
		return
	}
	item := func(st style, glyph, words string) span {
		return span{p.styled(st, glyph) + " " + words, columns(glyph + " " + words)}
	}
	p.blank()
	p.flow("", "  ",
		item(good, p.sym.allow, "allow"),
		item(faint, p.sym.deny, "deny"),
		item(hole, p.sym.hole, "hole: deny was promised"),
		item(broken, p.sym.broken, "break: allow was promised"),
		item(doubt, p.sym.doubt, "could not tell"),
		item(faint, p.sym.skipped, "skipped"),
	)
}

const (
	matrixIndent = "  "
	columnGap    = 2
	// cornerWords head the column of sources.
	cornerWords = "from \\ to"
	// leastLabel is the share of the width that a row's name may always take; more where the columns leave it.
	leastLabel = 3
)

// matrix writes the matrix: destinations as headings where they fit the width, else by number with a key, in as many blocks
// as the width demands.
func (p *page) matrix(m matrix) {
	labels, heading := slices.Clone(m.sources), headed
	numbered := p.blockWidth(m, p.labelWidth(labels), m.columns, heading) > p.width
	if numbered {
		heading = p.numbers(m)
		for i, s := range m.sources {
			if n := slices.IndexFunc(m.columns, func(c column) bool { return c.destination == s }); n >= 0 {
				labels[i] = fmt.Sprintf("%*d %s", len(fmt.Sprint(len(m.columns))), n+1, s)
			}
		}
	}
	room := max(p.width-p.blockWidth(m, 0, m.columns, heading), p.width/leastLabel)
	for i, s := range labels {
		labels[i] = p.fitPod(p.clean(s), room)
	}
	label := p.labelWidth(labels)
	for rest := m.columns; len(rest) > 0; {
		n := 1
		for n < len(rest) && p.blockWidth(m, label, rest[:n+1], heading) <= p.width {
			n++
		}
		p.block(m, labels, label, rest[:n], heading)
		rest = rest[n:]
	}
	if numbered {
		p.key(m)
	}
	p.portKey(m)
}

// labelWidth is the width of the column of sources.
func (p *page) labelWidth(labels []string) int {
	width := columns(cornerWords)
	for _, l := range labels {
		width = max(width, columns(l))
	}
	return width
}

// fitPod is a "namespace/pod" cut to n columns: the namespace gives way first, because the pods of one tell rows apart.
func (p *page) fitPod(s string, n int) string {
	namespace, pod, found := strings.Cut(s, "/")
	room := n - columns("/"+pod)
	if columns(s) <= n || !found || room <= columns(p.sym.ellipsis) {
		return p.fit(s, n)
	}
	return p.fit(namespace, room) + "/" + pod
}

// heading gives a column's two header lines.
type heading func(column) (above, name string)

func headed(c column) (string, string) { return c.above, c.name }

// numbers is a heading by position.
func (p *page) numbers(m matrix) heading {
	return func(c column) (string, string) {
		n := slices.IndexFunc(m.columns, func(o column) bool { return o.destination == c.destination })
		return "", fmt.Sprint(n + 1)
	}
}

// columnWidths are the widths of the cells and names of a block, wide enough for the heading that spans a namespace's columns.
func (p *page) columnWidths(m matrix, block []column, h heading) []int {
	widths := make([]int, len(block))
	for i, c := range block {
		_, name := h(c)
		widths[i] = columns(name)
		for _, s := range m.sources {
			widths[i] = max(widths[i], len(p.cell(m, s, c)))
		}
	}
	for start := 0; start < len(block); {
		end := spanEnd(block, start, h)
		above, _ := h(block[start])
		have := columnGap * (end - start - 1)
		for _, w := range widths[start:end] {
			have += w
		}
		widths[end-1] += max(columns(above)-have, 0)
		start = end
	}
	return widths
}

// spanEnd is the index after the last column that shares its upper heading with the one at start.
func spanEnd(block []column, start int, h heading) int {
	above, _ := h(block[start])
	end := start + 1
	for end < len(block) {
		if next, _ := h(block[end]); next != above {
			break
		}
		end++
	}
	return end
}

func (p *page) blockWidth(m matrix, label int, block []column, h heading) int {
	total := len(matrixIndent) + label
	for _, w := range p.columnWidths(m, block, h) {
		total += columnGap + w
	}
	return total
}

// block writes headings and rows of some columns.
func (p *page) block(m matrix, labels []string, label int, block []column, h heading) {
	gap := strings.Repeat(" ", columnGap)
	widths := p.columnWidths(m, block, h)
	upper, lower := matrixIndent+strings.Repeat(" ", label), matrixIndent+padRight(cornerWords, label)
	for i := 0; i < len(block); {
		end := spanEnd(block, i, h)
		span := columnGap * (end - i - 1)
		for _, w := range widths[i:end] {
			span += w
		}
		above, _ := h(block[i])
		upper += gap + padRight(p.clean(above), span)
		i = end
	}
	for i, c := range block {
		_, name := h(c)
		lower += gap + padRight(p.clean(name), widths[i])
	}
	if strings.TrimSpace(upper) != "" {
		p.line(p.styled(faint, strings.TrimRight(upper, " ")))
	}
	p.line(p.styled(faint, strings.TrimRight(lower, " ")))
	for i, s := range m.sources {
		row := matrixIndent + padRight(labels[i], label)
		for k, c := range block {
			row += gap
			marks := p.cell(m, s, c)
			for _, mk := range marks {
				row += p.styled(mk.style, mk.glyph)
			}
			row += strings.Repeat(" ", widths[k]-len(marks))
		}
		p.line(row)
	}
}

// key says which number stands for which destination, for those that are not rows.
func (p *page) key(m matrix) {
	var items []string
	for i, c := range m.columns {
		if !slices.Contains(m.sources, c.destination) {
			items = append(items, fmt.Sprintf("%d=%s", i+1, p.clean(c.destination)))
		}
	}
	if len(items) > 0 {
		p.wrapped("columns: "+strings.Join(items, " "), faint)
	}
}

// portKey says in which order the glyphs of a cell with several stand. Destinations with the same ports share a line.
func (p *page) portKey(m matrix) {
	type group struct {
		ports        []string
		destinations []string
	}
	var groups []group
	for _, c := range m.columns {
		if !slices.ContainsFunc(m.sources, func(s string) bool { return len(p.cell(m, s, c)) > 1 }) {
			continue
		}
		n := slices.IndexFunc(groups, func(g group) bool { return slices.Equal(g.ports, c.ports) })
		if n < 0 {
			n = len(groups)
			groups = append(groups, group{ports: c.ports})
		}
		groups[n].destinations = append(groups[n].destinations, c.destination)
	}
	for _, g := range groups {
		where := "cells with several glyphs"
		if len(groups) > 1 {
			where += " to " + strings.Join(g.destinations, ", ")
		}
		p.wrapped(p.clean(where+", left to right: "+strings.Join(g.ports, " ")), faint)
	}
}

// wrapped writes an indented paragraph.
func (p *page) wrapped(s string, st style) {
	for _, l := range wrap(strings.Fields(s), p.width-len(matrixIndent)) {
		p.line(matrixIndent + p.styled(st, l))
	}
}
