package manifest

import (
	"bytes"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Lines are the lines, counted from 1, of the fields of one document by their paths: "spec.ingress[0].from[1].podSelector". Entries of a map
// are written as fields, whatever is in their keys: "metadata.labels.app.kubernetes.io/name".
type Lines map[string]int

// Of is the line of a field, or of what it is nearest within; 0 when no part of the path is known.
func (l Lines) Of(field string) int {
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

func linesOf(n *yaml.Node) Lines {
	l := Lines{"": n.Line}
	l.walk(n, "", 0)
	return l
}

// maxNesting bounds how deep fields lie: an alias may stand for what it is itself in. The API has no field a third as deep.
const maxNesting = 50

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
			key, value := n.Content[i], n.Content[i+1]
			if key.Kind != yaml.ScalarNode || key.ShortTag() == "!!merge" {
				continue
			}
			at := key.Value
			if path != "" {
				at = path + "." + key.Value
			}
			if _, twice := l[at]; twice {
				continue
			}
			l[at] = key.Line
			l.walk(value, at, depth+1)
		}
	case yaml.SequenceNode:
		for i, item := range n.Content {
			at := path + "[" + strconv.Itoa(i) + "]"
			l[at] = item.Line
			l.walk(item, at, depth+1)
		}
	}
}

// LinesAt are the lines of the policy of that name which begins at a line of a file, such as the loader of scenarios has it; nil when there is none.
// The file may hold it as a document, in a list, or inside something else.
func LinesAt(content []byte, line int, name string) Lines {
	for _, doc := range documentsIn(content) {
		if n := policyAt(doc, line, name, 0); n != nil {
			return linesOf(n)
		}
	}
	return nil
}

// DocumentLines are the lines of the first document of a file; nil when it has none.
func DocumentLines(content []byte) Lines {
	docs := documentsIn(content)
	if len(docs) == 0 {
		return nil
	}
	return linesOf(docs[0])
}

func documentsIn(content []byte) []*yaml.Node {
	var out []*yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	for {
		var doc yaml.Node
		if decoder.Decode(&doc) != nil {
			return out
		}
		if len(doc.Content) == 1 {
			out = append(out, doc.Content[0])
		}
	}
}

// maxDepth bounds how deep a policy may lie inside something else; a step of a scenario is five deep.
const maxDepth = 10

func policyAt(n *yaml.Node, line int, name string, depth int) *yaml.Node {
	if depth > maxDepth {
		return nil
	}
	if isPolicy(n) && n.Line == line && scalarAt(child(n, "metadata"), "name") == name {
		return n
	}
	if n.Kind != yaml.MappingNode && n.Kind != yaml.SequenceNode {
		return nil
	}
	for _, c := range n.Content {
		if found := policyAt(c, line, name, depth+1); found != nil {
			return found
		}
	}
	return nil
}

// isPolicy tells whether a mapping may be a policy; a scenario's inline policies may leave their kind out.
func isPolicy(n *yaml.Node) bool {
	kind := scalarAt(n, "kind")
	return kind == policyKind || kind == clusterPolicyKind || kind == "" && child(n, "spec") != nil
}

// child is the value of a key of a mapping; nil when there is none.
func child(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value != key {
			continue
		}
		if v := n.Content[i+1]; v.Kind != yaml.AliasNode {
			return v
		}
		return n.Content[i+1].Alias
	}
	return nil
}

// scalarAt is the scalar of a key of a mapping, or "".
func scalarAt(n *yaml.Node, key string) string {
	if v := child(n, key); v != nil && v.Kind == yaml.ScalarNode {
		return v.Value
	}
	return ""
}

// Kind is apiVersion and kind of the first document of a file; empty where there is none, or where it cannot be read.
func Kind(content []byte) (apiVersion, kind string) {
	var doc yaml.Node
	if yaml.NewDecoder(bytes.NewReader(content)).Decode(&doc) != nil || len(doc.Content) != 1 {
		return "", ""
	}
	return scalarAt(doc.Content[0], "apiVersion"), scalarAt(doc.Content[0], "kind")
}
