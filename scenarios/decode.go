package scenarios

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/agnivade/levenshtein"
	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// maxAliased bounds how many nodes are read through aliases and merge keys of one document. A file that a person writes has some
// hundreds; a file made to exhaust memory has billions.
const maxAliased = 10_000

// maxLevels bounds nesting while merge keys are followed, which alone may be circular.
const maxLevels = 100

// parse splits a file into its documents. What cannot be parsed at all is recorded as a fault and ends the file.
func parse(file string, content []byte, to *sink) []*yaml.Node {
	var out []*yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	for {
		var doc yaml.Node
		err := decoder.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			line, message := syntaxError(err)
			to.add(Fault{File: file, Line: line, Message: "reading YAML: " + message})
			return out
		}
		if len(doc.Content) == 1 && !isNull(doc.Content[0]) {
			out = append(out, doc.Content[0])
		}
	}
}

var yamlErrorLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// syntaxError takes the line out of the parser's message, which is the only place that has it.
func syntaxError(err error) (line int, message string) {
	message = err.Error()
	if m := yamlErrorLine.FindStringSubmatch(message); m != nil {
		line, _ = strconv.Atoi(m[1]) // no line at all: 0
		message = strings.TrimPrefix(message, m[0])
	}
	return line, message
}

func newDocument(file string, node *yaml.Node, to *sink) *document {
	return &document{file: file, node: node, first: node.Line, lines: map[string]int{}, bad: map[string]struct{}{}, sink: to}
}

// decode fills into (a pointer) from node. Every unknown key, repeated key and value of the wrong type is recorded and left at zero;
// decoding goes on behind it, so that one reading finds all of them.
func (d *document) decode(node *yaml.Node, prefix string, into any) {
	dec := decoder{document: d}
	dec.value(node, reflect.ValueOf(into).Elem(), prefix)
}

type decoder struct {
	*document
	inAlias int // how many aliases are being followed
	aliased int // nodes read through aliases and merge keys
}

// countAliased counts one node and tells whether it may be read. The first one too many is recorded.
func (d *decoder) countAliased(n *yaml.Node, path string) bool {
	d.aliased++
	if d.aliased == maxAliased+1 {
		d.undecodable(path, n.Line, nil, "write the values out", "more than %d values come from aliases", maxAliased)
	}
	return d.aliased <= maxAliased
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

func child(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// entry names a map entry, in the notation that apimachinery's field.Path uses.
func entry(path, key string) string { return path + "[" + key + "]" }

func item(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

var (
	intOrString = reflect.TypeFor[intstr.IntOrString]()
	unmarshaler = reflect.TypeFor[json.Unmarshaler]()
)

func (d *decoder) value(n *yaml.Node, v reflect.Value, path string) {
	if _, known := d.lines[path]; !known && path != "" {
		d.lines[path] = n.Line
	}
	if n.Kind == yaml.AliasNode {
		n = n.Alias
		d.inAlias++
		defer func() { d.inAlias-- }()
	}
	if d.inAlias > 0 && !d.countAliased(n, path) {
		return
	}
	switch {
	case isNull(n):
		return // as in the API: the same as not written
	case v.Kind() == reflect.Pointer:
		target := reflect.New(v.Type().Elem())
		d.value(n, target.Elem(), path)
		v.Set(target)
	case v.Type() == intOrString:
		d.intOrString(n, v, path)
	case v.CanAddr() && v.Addr().Type().Implements(unmarshaler):
		d.viaJSON(n, v, path)
	case v.Kind() == reflect.Struct:
		d.structure(n, v, path)
	case v.Kind() == reflect.Map:
		d.mapping(n, v, path)
	case v.Kind() == reflect.Slice:
		d.list(n, v, path)
	default:
		d.scalar(n, v, path)
	}
}

func (d *decoder) structure(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.wrongKind(n, path, "a mapping")
		return
	}
	fields := map[string]reflect.Value{}
	collectFields(v, fields)
	for _, p := range d.pairs(n, path, 0) {
		at := child(path, p.key.Value)
		field, known := fields[p.key.Value]
		if !known && d.partial {
			continue
		}
		if !known {
			d.unknownField(p.key, path, fields)
			continue
		}
		d.lines[at] = p.key.Line
		d.value(p.value, field, at)
	}
}

// collectFields finds the settable fields by their JSON names; embedded ones count as the outer's, as encoding/json has it.
func collectFields(v reflect.Value, into map[string]reflect.Value) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported():
		case f.Anonymous && name == "":
			collectFields(v.Field(i), into)
		case name == "":
			into[f.Name] = v.Field(i)
		default:
			into[name] = v.Field(i)
		}
	}
}

// maxTypos is how many edits apart two names may be for one to be suggested for the other; short names must be nearer.
const maxTypos = 2

// unknownField records a key that the language does not have. If it looks like one that it has, that one is not reported missing too.
func (d *decoder) unknownField(key *yaml.Node, path string, fields map[string]reflect.Value) {
	names := slices.Sorted(maps.Keys(fields))
	hint := ""
	const few = 12 // a longer list is no help
	if near := nearestName(key.Value, names); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
		d.bad[child(path, near)] = struct{}{}
	} else if len(names) <= few {
		hint = "known here: " + strings.Join(names, ", ")
	}
	d.undecodable(child(path, key.Value), key.Line, key.Value, hint, "unknown field")
}

// nearestName is the candidate most like name, or "" when none is like it. Of equals the first.
func nearestName(name string, candidates []string) string {
	best, bestTypos := "", min(maxTypos, (len(name)+1)/3)+1
	for _, c := range candidates {
		if strings.EqualFold(name, c) {
			return c
		}
		if typos := levenshtein.ComputeDistance(name, c); typos < bestTypos {
			best, bestTypos = c, typos
		}
	}
	return best
}

type pair struct{ key, value *yaml.Node }

// pairs are the entries of a mapping, merge keys resolved: what is written wins over what is merged. Repeated keys are recorded.
func (d *decoder) pairs(n *yaml.Node, path string, level int) []pair {
	var out []pair
	var merged []*yaml.Node
	seen := map[string]int{} // key → line
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		switch {
		case key.Kind != yaml.ScalarNode:
			d.undecodable(path, key.Line, nil, "", "a key is not a word")
			continue
		case key.ShortTag() == "!!merge":
			merged = append(merged, value)
			continue
		}
		if first, twice := seen[key.Value]; twice {
			at := child(path, key.Value)
			d.lines[at] = key.Line
			d.fault(at, key.Value, "", "is written already in line %d", first)
			continue
		}
		seen[key.Value] = key.Line
		out = append(out, pair{key, value})
	}
	for _, m := range merged {
		for _, p := range d.mergedPairs(m, path, level+1) {
			if _, overridden := seen[p.key.Value]; !overridden {
				seen[p.key.Value] = p.key.Line
				out = append(out, p)
			}
		}
	}
	return out
}

func (d *decoder) mergedPairs(n *yaml.Node, path string, level int) []pair {
	if !d.countAliased(n, path) {
		return nil
	}
	if level > maxLevels {
		d.undecodable(path, n.Line, nil, "write the values out", "merge keys are nested more than %d deep", maxLevels)
		return nil
	}
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch n.Kind {
	case yaml.MappingNode:
		return d.pairs(n, path, level)
	case yaml.SequenceNode:
		var out []pair
		for _, c := range n.Content {
			out = append(out, d.mergedPairs(c, path, level+1)...)
		}
		return out
	default:
		d.undecodable(path, n.Line, nil, "", "a merge key wants a mapping")
		return nil
	}
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.wrongKind(n, path, "a mapping")
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	for _, p := range d.pairs(n, path, 0) {
		at := entry(path, p.key.Value)
		d.lines[at] = p.key.Line
		if !d.isText(p.key, at) {
			continue
		}
		value := reflect.New(v.Type().Elem()).Elem()
		if isNull(p.value) && value.Kind() == reflect.String && !d.partial {
			d.undecodable(at, p.value.Line, nil, `write "" for the empty value`, "has no value")
			continue
		}
		d.value(p.value, value, at)
		v.SetMapIndex(reflect.ValueOf(p.key.Value).Convert(v.Type().Key()), value)
	}
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.SequenceNode {
		d.wrongKind(n, path, "a list")
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, c := range n.Content {
		d.value(c, v.Index(i), item(path, i))
	}
}

func (d *decoder) wrongKind(n *yaml.Node, path, wants string) {
	hint := ""
	if wants == "a list" {
		hint = `begin each item with "- "`
	}
	d.undecodable(path, n.Line, nil, hint, "wants %s, has %s", wants, describe(n))
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	default:
		return fmt.Sprintf("%q", n.Value)
	}
}

// truths are the words that kubectl, which reads YAML 1.1, takes for booleans although YAML 1.2 does not. A namespace named y needs quotes.
var truths = regexp.MustCompile(`^(?:y|Y|n|N|yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF)$`)

// isText tells whether a scalar is a string to kubectl too, and records a fault if it is not.
func (d *decoder) isText(n *yaml.Node, path string) bool {
	quoted := n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0
	switch tag := n.ShortTag(); {
	case quoted && tag == "!!str":
		return true
	case tag == "!!timestamp" || tag == "!!str" && !truths.MatchString(n.Value):
		return true
	case tag == "!!str" || tag == "!!bool":
		d.undecodable(path, n.Line, n.Value, fmt.Sprintf("write %q", n.Value), "wants a string, has the boolean %s", n.Value)
	case tag == "!!int" || tag == "!!float":
		d.undecodable(path, n.Line, n.Value, fmt.Sprintf("write %q", n.Value), "wants a string, has the number %s", n.Value)
	default:
		d.undecodable(path, n.Line, n.Value, "", "wants a string, has %s of type %s", describe(n), tag)
	}
	return false
}

func (d *decoder) scalar(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.ScalarNode {
		d.wrongKind(n, path, scalarName(v.Kind()))
		return
	}
	switch v.Kind() {
	case reflect.String:
		if d.isText(n, path) {
			v.SetString(n.Value)
		}
	case reflect.Bool:
		var b bool
		if n.ShortTag() != "!!bool" || n.Decode(&b) != nil {
			d.undecodable(path, n.Line, n.Value, "", "%q is neither true nor false", n.Value)
			return
		}
		v.SetBool(b)
	case reflect.Int, reflect.Int32, reflect.Int64:
		var i int64
		if n.ShortTag() != "!!int" || n.Decode(&i) != nil || v.OverflowInt(i) {
			d.undecodable(path, n.Line, n.Value, "", "%q is not a whole number of %d bits", n.Value, v.Type().Bits())
			return
		}
		v.SetInt(i)
	case reflect.Uint16: // every uint16 of the language is a port
		var i int64
		if n.ShortTag() != "!!int" || n.Decode(&i) != nil {
			d.undecodable(path, n.Line, n.Value, "", "%q is not a port number from 1 to 65535", n.Value)
			return
		}
		if i < 1 || i > 65535 {
			d.undecodable(path, n.Line, i, "", "%d is not a port number from 1 to 65535", i)
			return
		}
		v.SetUint(uint64(i))
	default:
		d.viaJSON(n, v, path)
	}
}

func scalarName(k reflect.Kind) string {
	switch k {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	default:
		return "a number"
	}
}

func (d *decoder) intOrString(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!int" {
		var i int32
		if n.Decode(&i) != nil {
			d.undecodable(path, n.Line, n.Value, "", "%s is not a port number from 1 to 65535", n.Value)
			return
		}
		v.Set(reflect.ValueOf(intstr.FromInt32(i)))
		return
	}
	var s string
	d.scalar(n, reflect.ValueOf(&s).Elem(), path)
	v.Set(reflect.ValueOf(intstr.FromString(s)))
}

// viaJSON fills values that read themselves, such as the times in an object's metadata.
func (d *decoder) viaJSON(n *yaml.Node, v reflect.Value, path string) {
	var plain any
	err := n.Decode(&plain)
	if err == nil {
		var encoded []byte
		if encoded, err = json.Marshal(plain); err == nil {
			err = json.Unmarshal(encoded, v.Addr().Interface())
		}
	}
	if err != nil {
		d.undecodable(path, n.Line, nil, "", "reading %s: %v", describe(n), err)
	}
}
