package scenarios

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Place is where in a file something is written. File is empty, and a number 0, when unknown; what no file is written in has no numbers.
type Place struct {
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
	// Column counts characters, not bytes, from 1.
	Column int `json:"column,omitempty"`
	// End is the column behind the key, or behind the word that is a list's item: what is written over several lines, or with escapes, has none.
	End int `json:"endColumn,omitempty"`
}

// String is "file:line", "file", or "" when the place is not known.
func (p Place) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d", p.File, p.Line)
}

// Lines are the places of the fields of one document by their paths: "spec.ingress[0].from[1].podSelector". Entries of a map
// are written as fields, whatever is in their keys: "metadata.labels.app.kubernetes.io/name".
type Lines map[string]Place

// At is the place of a field, or of what it is nearest within; the zero Place when no part of the path is known.
func (l Lines) At(field string) Place {
	for {
		if at, ok := l[field]; ok {
			return at
		}
		cut := strings.LastIndexAny(field, ".[")
		if cut < 0 {
			return l[""]
		}
		field = field[:cut]
	}
}

// Written tells whether the very field is in the document, were it without a value.
func (l Lines) Written(field string) bool {
	_, ok := l[field]
	return ok
}

// maxFields bounds what one document may name, aliases followed. A person writes some hundreds; a document whose aliases multiply has
// billions. What lies behind the bound has the line of what it is within.
const maxFields = 100_000

// maxNesting bounds how deep fields lie: an alias may stand for what it is itself in. The API has no field a third as deep.
const maxNesting = 50

// linesOf are the places in a file of a node and of what is below it; nil for none.
func linesOf(file string, n *yaml.Node) Lines {
	if n == nil {
		return nil
	}
	l := Lines{"": placeOf(file, n)}
	l.walk(n, "", 0)
	return l
}

// placeOf is the place of a node that is written in a file.
func placeOf(file string, n *yaml.Node) Place {
	return Place{File: file, Line: n.Line, Column: n.Column, End: endOf(n)}
}

// endOf is the column behind a node. The parser tells only where a node begins, so that an end is known of a word alone: without a space,
// which may be the end of a line, and without an escape, an anchor or a tag.
func endOf(n *yaml.Node) int {
	quotes := 0
	switch n.Style {
	case 0:
	case yaml.SingleQuotedStyle:
		quotes = 2
	default:
		return 0
	}
	if n.Kind != yaml.ScalarNode || n.Value == "" || n.Anchor != "" || strings.ContainsAny(n.Value, " \t\n'") {
		return 0
	}
	return n.Column + utf8.RuneCountInString(n.Value) + quotes
}

// walk gives what is below a node its places; the file is that of the node.
func (l Lines) walk(n *yaml.Node, path string, depth int) {
	if len(l) > maxFields || depth > maxNesting {
		return
	}
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, below := n.Content[i], n.Content[i+1]
			if key.Kind != yaml.ScalarNode || key.ShortTag() == "!!merge" {
				continue
			}
			at := child(path, key.Value)
			if _, twice := l[at]; twice {
				continue
			}
			l[at] = placeOf(l[""].File, key)
			l.walk(below, at, depth+1)
		}
	case yaml.SequenceNode:
		for i, each := range n.Content {
			at := item(path, i)
			l[at] = placeOf(l[""].File, each)
			l.walk(each, at, depth+1)
		}
	}
}

// pathStep is one step of a field path: a key, or the index of a list's item.
var pathStep = regexp.MustCompile(`[^.\[\]]+`)

// nodeAt is the node of a field, such as "steps[1].replace[0]"; nil when it is not written out in the document, as behind a merge key.
func nodeAt(n *yaml.Node, path string) *yaml.Node {
	for _, step := range pathStep.FindAllString(path, -1) {
		switch n.Kind {
		case yaml.MappingNode:
			n = value(n, step)
		case yaml.SequenceNode:
			i, err := strconv.Atoi(step)
			if err != nil || i >= len(n.Content) {
				return nil
			}
			n = n.Content[i]
		default:
			return nil
		}
		if n == nil {
			return nil
		}
		if n.Kind == yaml.AliasNode {
			n = n.Alias
		}
	}
	return n
}
