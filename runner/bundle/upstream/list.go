package upstream

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

const (
	// FileName is the name of the list in the images folder.
	FileName = "upstream.yaml"
	// APIVersion and Kind head every list.
	APIVersion = "gapproof.dev/v1alpha1"
	Kind       = "Upstream"

	// unresolved stands in the file for a digest that nobody has asked a registry for, and never for its day.
	unresolved = "unresolved"
	never      = "never"
)

// List is what may be pulled.
type List struct {
	// Mirrors maps a registry host, such as "registry.k8s.io", to what is asked in its place: a host, a port if it has one, and a path before
	// the repository if it wants one, such as "proxy.example.org:5000/k8s".
	Mirrors map[string]string
	// Images are in the order of the file.
	Images []Image

	file string // for messages
	raw  []byte
}

// Image is one image of a list.
type Image struct {
	// Name is the repository with its registry host, and Tag the tag; together they are how manifests ask for the image.
	Name, Tag string
	// Digest is that of the image index, "sha256:" and 64 hexadecimal digits. It is empty while it is unresolved.
	Digest string
	// Taken is the day on which the digest was taken, such as "2026-11-26". It is empty while the digest is unresolved.
	Taken string
	// Line is where the image stands in the file, from 1.
	Line int

	digestAt, takenAt place
}

// Tagged is the name and the tag, as manifests write them.
func (i Image) Tagged() string { return i.Name + ":" + i.Tag }

// place is where a scalar stands in the file: line and column from 1, as the YAML library counts, and how it is written there.
type place struct {
	line, column int
	written      string
}

// File names the list in messages.
func (l *List) File() string { return l.file }

// UnresolvedError says that images are wanted whose digest the list does not have.
type UnresolvedError struct {
	// File is the list's name, Images what is wanted, as name:tag and in the order of the list.
	File   string
	Images []string
}

// Error names all images on one line.
func (e *UnresolvedError) Error() string {
	return fmt.Sprintf("reading %s: no digest is known of %s", e.File, strings.Join(e.Images, ", "))
}

// Resolved returns an *UnresolvedError that names each of these images without a digest, or nil.
func (l *List) Resolved(wanted []Image) error {
	e := &UnresolvedError{File: l.file}
	for _, i := range wanted {
		if i.Digest == "" {
			e.Images = append(e.Images, i.Tagged())
		}
	}
	if len(e.Images) > 0 {
		return e
	}
	return nil
}

// document is the file as it is written.
type document struct {
	APIVersion string            `yaml:"apiVersion"`
	Kind       string            `yaml:"kind"`
	Mirrors    map[string]string `yaml:"mirrors"`
	Images     []struct {
		Name   string `yaml:"name"`
		Tag    string `yaml:"tag"`
		Digest string `yaml:"digest"`
		Taken  string `yaml:"taken"`
	} `yaml:"images"`
}

// goTypeInMessage is the part of the YAML decoder's messages that speaks of our Go types rather than of the file.
var goTypeInMessage = regexp.MustCompile(` (in|into) (type )?(upstream\.\w+|struct \{[^}]*\})|!!`)

// lineInMessage is how the decoder says where.
var lineInMessage = regexp.MustCompile(`^line ([0-9]+): `)

// Decode reads a list strictly. The error lists every fault, each with the file's name, its line and its field.
func Decode(raw []byte, file string) (*List, error) {
	var d document
	decoder := yaml.NewDecoder(bytes.NewReader(raw))
	decoder.KnownFields(true)
	if err := decoder.Decode(&d); err != nil && !errors.Is(err, io.EOF) {
		return nil, decodingFaults(err, file)
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading %s: there is more behind the list", file)
	}
	var root yaml.Node
	if err := yaml.Unmarshal(raw, &root); err != nil {
		return nil, decodingFaults(err, file)
	}
	l := &List{Mirrors: d.Mirrors, file: file, raw: raw}
	c := checker{file: file}
	top := &root
	if len(root.Content) > 0 {
		top = root.Content[0]
	}
	if d.APIVersion != APIVersion {
		c.add(lineOf(top, "apiVersion"), "apiVersion", "is %q, must be %q", d.APIVersion, APIVersion)
	}
	if d.Kind != Kind {
		c.add(lineOf(top, "kind"), "kind", "is %q, must be %q", d.Kind, Kind)
	}
	list := child(top, "images")
	if len(list.Content) != len(d.Images) {
		return nil, fmt.Errorf("%s:%d: images: must be written out, not merged in", file, lineOf(top, "images"))
	}
	for n, e := range d.Images {
		node := list.Content[n]
		i := Image{
			Name: e.Name, Tag: e.Tag, Digest: e.Digest, Taken: e.Taken, Line: node.Line,
			digestAt: placeOf(node, "digest"), takenAt: placeOf(node, "taken"),
		}
		c.image(n, node, &i)
		l.Images = append(l.Images, i)
	}
	if len(l.Images) == 0 {
		c.add(lineOf(top, "images"), "images", "none given")
	}
	c.doubled(l.Images)
	c.mirrors(child(top, "mirrors"), l)
	return l, errors.Join(c.faults...)
}

func decodingFaults(err error, file string) error {
	var typed *yaml.TypeError
	if !errors.As(err, &typed) {
		return fmt.Errorf("reading %s: %w", file, err)
	}
	var faults []error
	for _, e := range typed.Errors {
		e = goTypeInMessage.ReplaceAllString(e, "")
		faults = append(faults, fmt.Errorf("%s:%s", file, lineInMessage.ReplaceAllString(e, "$1: ")))
	}
	return errors.Join(faults...)
}

// Forms of what becomes part of a reference or of a URL.
var (
	nameForm   = regexp.MustCompile(`^[a-z0-9.-]+\.[a-z0-9]+(/[a-z0-9._-]+)+$`)
	tagForm    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	mirrorForm = regexp.MustCompile(`^([A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(:[0-9]{1,5})?(/[a-z0-9._-]+)*$`)
)

// checker gathers faults.
type checker struct {
	file   string
	faults []error
}

func (c *checker) add(line int, field, format string, args ...any) {
	c.faults = append(c.faults, fmt.Errorf("%s:%d: %s: %s", c.file, line, field, fmt.Sprintf(format, args...)))
}

// image checks one image and turns the words for what is not known into emptiness.
func (c *checker) image(n int, node *yaml.Node, i *Image) {
	field := fmt.Sprintf("images[%d]", n)
	if !nameForm.MatchString(i.Name) {
		c.add(lineOf(node, "name"), field+".name", "%q is not a repository with its registry host", i.Name)
	}
	if !tagForm.MatchString(i.Tag) {
		c.add(lineOf(node, "tag"), field+".tag", "%q is not a tag", i.Tag)
	}
	known := i.Digest != unresolved
	if known && !digestForm.MatchString(i.Digest) {
		c.add(lineOf(node, "digest"), field+".digest", "%q is neither sha256 and 64 hexadecimal digits nor %q", i.Digest, unresolved)
	}
	_, err := time.Parse(time.DateOnly, i.Taken)
	switch {
	case known && err != nil:
		c.add(lineOf(node, "taken"), field+".taken", "%q is not the day on which the digest was taken, such as 2026-11-26", i.Taken)
	case !known && i.Taken != never:
		c.add(lineOf(node, "taken"), field+".taken", "%q must be %q while the digest is %s", i.Taken, never, unresolved)
	}
	if !known {
		i.Digest, i.Taken = "", ""
	}
}

func (c *checker) doubled(all []Image) {
	first := map[string]int{}
	for n, i := range all {
		if earlier, ok := first[i.Tagged()]; ok {
			c.add(i.Line, fmt.Sprintf("images[%d]", n), "%s is at line %d already", i.Tagged(), all[earlier].Line)
			continue
		}
		first[i.Tagged()] = n
	}
}

func (c *checker) mirrors(node *yaml.Node, l *List) {
	for _, host := range slices.Sorted(maps.Keys(l.Mirrors)) {
		if err := l.checkMirror(host, l.Mirrors[host]); err != nil {
			c.add(lineOf(node, host), "mirrors."+host, "%v", err)
		}
	}
}

// checkMirror tells what is wrong with asking to in the place of host, if anything.
func (l *List) checkMirror(host, to string) error {
	if !mirrorForm.MatchString(to) {
		return fmt.Errorf("%q is not a registry such as proxy.example.org:5000/k8s", to)
	}
	hosts := map[string]bool{}
	for _, i := range l.Images {
		registry, _, _ := strings.Cut(i.Name, "/")
		hosts[registry] = true
	}
	if !hosts[host] {
		return fmt.Errorf("no image of %s is at %q, there are %s", l.file, host, strings.Join(slices.Sorted(maps.Keys(hosts)), ", "))
	}
	return nil
}

// Mirrored are the list's mirrors with these, each written HOST=MIRROR, laid over them. The error lists every fault.
func (l *List) Mirrored(overrides []string) (map[string]string, error) {
	mirrors := maps.Clone(l.Mirrors)
	if mirrors == nil {
		mirrors = map[string]string{}
	}
	var faults []error
	for _, o := range overrides {
		host, to, ok := strings.Cut(o, "=")
		if !ok {
			faults = append(faults, fmt.Errorf("%q is not HOST=MIRROR, such as registry.k8s.io=proxy.example.org:5000/k8s", o))
			continue
		}
		if err := l.checkMirror(host, to); err != nil {
			faults = append(faults, err)
		}
		mirrors[host] = to
	}
	return mirrors, errors.Join(faults...)
}

// Named are the images with these names, each with or without its tag; all for no names. The error lists every name that the list has not.
func (l *List) Named(names []string) ([]Image, error) {
	if len(names) == 0 {
		return l.Images, nil
	}
	var named []Image
	for _, i := range l.Images {
		if slices.Contains(names, i.Name) || slices.Contains(names, i.Tagged()) {
			named = append(named, i)
		}
	}
	var faults []error
	for _, name := range names {
		if !slices.ContainsFunc(named, func(i Image) bool { return name == i.Name || name == i.Tagged() }) {
			faults = append(faults, fmt.Errorf("%s lists no image %q", l.file, name))
		}
	}
	return named, errors.Join(faults...)
}

// Rewritten is the file with these digests, by name:tag, and day, such as "2026-11-26", where a digest is another than before. All else,
// comments included, stays as it is byte for byte.
func (l *List) Rewritten(digests map[string]string, day string) ([]byte, error) {
	var edits []edit
	for _, i := range l.Images {
		if d, ok := digests[i.Tagged()]; ok && d != i.Digest {
			edits = append(edits, edit{i.digestAt, d}, edit{i.takenAt, day})
		}
	}
	// From the end to the beginning, so that no edit moves the place of another.
	slices.SortFunc(edits, func(a, b edit) int {
		return cmp.Or(cmp.Compare(b.at.line, a.at.line), cmp.Compare(b.at.column, a.at.column))
	})
	lines := strings.SplitAfter(string(l.raw), "\n")
	for _, e := range edits {
		if err := e.apply(lines); err != nil {
			return nil, fmt.Errorf("rewriting %s: %w", l.file, err)
		}
	}
	out := []byte(strings.Join(lines, ""))
	if _, err := Decode(out, l.file); err != nil {
		return nil, fmt.Errorf("rewriting %s: %w", l.file, err)
	}
	return out, nil
}

// edit puts another scalar in the place of one.
type edit struct {
	at place
	to string
}

// apply edits the one line of the scalar; one of several lines, or with escapes, is an error.
func (e edit) apply(lines []string) error {
	if e.at.line < 1 || e.at.line > len(lines) {
		return errors.New("an image has no digest or taken of its own")
	}
	line := []rune(lines[e.at.line-1])
	if e.at.column > len(line) {
		return fmt.Errorf("line %d has no column %d", e.at.line, e.at.column)
	}
	before, rest := string(line[:e.at.column-1]), string(line[e.at.column-1:])
	after, ok := strings.CutPrefix(rest, e.at.written)
	if !ok {
		return fmt.Errorf("line %d: write %q plainly, without anchor or escapes", e.at.line, e.at.written)
	}
	lines[e.at.line-1] = before + e.to + after
	return nil
}

// child is the value of a key in a mapping; an empty node where there is none.
func child(mapping *yaml.Node, key string) *yaml.Node {
	for n := 0; n+1 < len(mapping.Content); n += 2 {
		if mapping.Content[n].Value == key {
			return mapping.Content[n+1]
		}
	}
	return &yaml.Node{}
}

// lineOf is the line of a key's value, or of the mapping where it has no such key.
func lineOf(mapping *yaml.Node, key string) int {
	if n := child(mapping, key); n.Line > 0 {
		return n.Line
	}
	return max(mapping.Line, 1)
}

func placeOf(mapping *yaml.Node, key string) place {
	n := child(mapping, key)
	written := n.Value
	switch n.Style {
	case yaml.DoubleQuotedStyle:
		written = `"` + n.Value + `"`
	case yaml.SingleQuotedStyle:
		written = `'` + n.Value + `'`
	}
	return place{line: n.Line, column: n.Column, written: written}
}
