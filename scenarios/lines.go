package scenarios

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Place is a line of a file. File is empty and Line 0 when unknown.
type Place struct {
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
}

// String is "file:line", "file", or "" when the place is not known.
func (p Place) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d", p.File, p.Line)
}

// Lines are the lines, counted from 1, of the fields of one document by their paths: "spec.ingress[0].from[1].podSelector". Entries of a map
// are written as fields, whatever is in their keys: "metadata.labels.app.kubernetes.io/name".
type Lines map[string]int

// At is the line of a field, or of what it is nearest within; 0 when no part of the path is known.
func (l Lines) At(field string) int {
	for {
		if line, ok := l[field]; ok {
			return line
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

// linesOf are the lines below a node; nil for none.
func linesOf(n *yaml.Node) Lines {
	if n == nil {
		return nil
	}
	l := Lines{"": n.Line}
	l.walk(n, "", 0)
	return l
}

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
			l[at] = key.Line
			l.walk(below, at, depth+1)
		}
	case yaml.SequenceNode:
		for i, each := range n.Content {
			at := item(path, i)
			l[at] = each.Line
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
